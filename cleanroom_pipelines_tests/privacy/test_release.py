"""Contract: noise, then threshold, then rounding; then everything else."""

import copy
import dataclasses
import gc
import json
import math
import pickle
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cleanroom_pipelines.errors import UsageError
from cleanroom_pipelines.privacy import (
    COUNT,
    INSIGHTS,
    Price,
    Reason,
    Released,
    ReleasePolicy,
    Releaser,
    affinity_ratio,
    curve,
    error_of,
    rate,
    ratio,
    released,
)
from cleanroom_pipelines.privacy.noise import draw_noise

from ..offenders import offenders

KEY = bytes(range(32))
OPEN, HIDING = Releaser(KEY, "v1", False), Releaser(KEY, "v1", True)
EXACT = Releaser(KEY, "v1", False, ReleasePolicy(threshold=1, rounding=1))
HARDLY_ANY_NOISE = Price(10**9)
PRICES = [Price(1), COUNT, INSIGHTS, HARDLY_ANY_NOISE]

counts = st.integers(0, 10**9) | st.integers(0, 200)
questions = st.text(max_size=20)
prices = st.sampled_from(PRICES)


def large(value: int) -> Released:
    """Return a released count with a certain value."""
    return OPEN.count(value, question="", price=HARDLY_ANY_NOISE)


@given(counts, questions, questions, prices)
def test_noise_first_then_the_threshold_then_rounding(n: int, question: str, cell: str, price: Price) -> None:
    parts = ["v1", question, cell, str(price.tenths), str(price.sensitivity)]
    noised = n + draw_noise(KEY, price.variance, parts)
    told = OPEN.count(n, question=question, cell=cell, price=price)
    assert noised == OPEN.noised(n, question=question, cell=cell, price=price)
    assert told == OPEN.count(n, question=question, cell=cell, price=price)
    assert told == released(noised, price=price), "all that a count tells is made of the noised one"
    if noised < 40:
        assert (told.value, told.reason, told.is_enough(), told.is_indicative) == (None, "too_few", False, False)
    else:
        assert told.value is not None
        assert told.value % 10 == 0
        assert abs(told.value - noised) <= 5
        assert told.value >= 40
        assert (told.reason, told.is_enough()) == (None, True)
        assert told.is_indicative == (told.value < 150)


@given(counts, questions)
def test_hidden_counts_decide_like_shown_counts(n: int, question: str) -> None:
    hidden, told = HIDING.count(n, question=question), OPEN.count(n, question=question)
    assert (hidden.value, hidden.reason, hidden.is_indicative) == (None, Reason.HIDDEN, False)
    for threshold in (None, 1, 40, 100, 500):
        assert hidden.is_enough(threshold) == told.is_enough(threshold)
    assert ratio(hidden, 10**9) == ratio(told, 10**9)


def test_counts_below_the_threshold_are_never_enough() -> None:
    few, many = EXACT.count(0, question="0", price=HARDLY_ANY_NOISE), large(100)
    assert not OPEN.count(-1_000, question="few").is_enough(1)
    assert not few.is_enough(40)
    assert (many.is_enough(100), many.is_enough(101)) == (True, False)


@pytest.mark.parametrize("n", [10_000, 10_003, 10_005, 10_009])
def test_shown_counts_are_unbiased(n: int) -> None:
    errors = [(OPEN.count(n, question=f"{number}").value or 0) - n for number in range(20_000)]
    deviation = math.sqrt(float(COUNT.variance) + 100 / 12)
    assert abs(sum(errors) / len(errors)) < 3.5 * deviation / math.sqrt(len(errors))


def test_released_objects_do_not_contain_the_true_count() -> None:
    n = 987_654_321
    for releaser in (OPEN, HIDING):
        told = next(each for each in (releaser.count(n, question=f"{m}") for m in range(99)) if each.kept() != n)
        texts = [repr(told), str(told), str(told.as_dict()), str([*map(repr, _below(told))])]
        assert not any(str(n) in text for text in texts)
        # Another true count with the same answer cannot be told from it.
        for other in (releaser.count(n + m % 20, question=f"of {m}") for m in range(99)):
            if other == told:
                assert [*map(repr, _below(told))] == [*map(repr, _below(other))]
                break
        else:
            pytest.fail("no other count has the same answer")
        assert not hasattr(told, "__dict__")


def _below(released: Released) -> list[object]:
    """Return all numbers that an object refers to, directly or indirectly, except through its class."""
    found: list[object] = []
    pending = [getattr(released, name) for name in Released.__slots__]
    while pending:
        each = pending.pop()
        if isinstance(each, int | Fraction | None):
            found.append(each)
        elif dataclasses.is_dataclass(each):
            pending += [getattr(each, f.name) for f in dataclasses.fields(each)]
    return found


def test_released_counts_have_no_other_attributes() -> None:
    known = [getattr(OPEN.count(500, question="q"), name) for name in Released.__slots__]
    made = OPEN.count(500, question="q")
    referred = [each for each in gc.get_referents(made) if each is not Released]
    assert all(any(each is mine or each == mine for mine in known) for each in referred)


def test_hidden_counts_cannot_be_serialised_by_accident() -> None:
    hidden = HIDING.count(5_000, question="q")

    @dataclasses.dataclass
    class Row:
        size: Released

    with pytest.raises(TypeError):
        json.dumps(hidden)
    with pytest.raises(TypeError):
        json.dumps(dataclasses.asdict(Row(hidden)))
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        with pytest.raises(TypeError):
            pickle.dumps(hidden, protocol)
    with pytest.raises(TypeError):
        vars(hidden)
    assert repr(hidden) == "Released(value=None, reason='hidden')"
    assert "500" not in f"{hidden} {hidden.as_dict()}"


def test_only_releasers_create_released_counts_which_are_immutable() -> None:
    made = OPEN.count(500, question="q")
    with pytest.raises(TypeError):
        Released()
    for name in ("value", *Released.__slots__, "true_count"):
        with pytest.raises(AttributeError):
            setattr(made, name, 1)
    assert copy.deepcopy(made) is made
    assert copy.copy(made) is made
    assert len({made, OPEN.count(500, question="q")}) == 1
    assert made != 500


def test_a_releaser_does_not_show_its_key() -> None:
    secret = b"s3cr3t-s3cr3t-s3cr3t"
    assert "s3cr3t" not in repr(Releaser(secret, "v", False))
    with pytest.raises(UsageError):
        Releaser(b"short", "v", False)


def test_new_data_draws_new_noise() -> None:
    later = Releaser(KEY, "v2", False)
    answers = [(OPEN.count(500, question=f"{n}"), later.count(500, question=f"{n}")) for n in range(50)]
    assert sum(a == b for a, b in answers) < 25


def test_another_price_or_sensitivity_draws_other_noise() -> None:
    def answers(price: Price) -> list[int | None]:
        return [OPEN.count(5_000, question=f"{n}", price=price).kept() for n in range(30)]

    # The same variance at another price is another purchase, so it must not be the same draw.
    same_noise = Price(2 * COUNT.tenths, 2 * COUNT.sensitivity)
    assert same_noise.variance == COUNT.variance
    found = [answers(price) for price in (COUNT, same_noise, Price(COUNT.tenths + 1))]
    assert len(set(map(tuple, found))) == 3


@given(counts, prices)
def test_a_stored_count_is_restored_unchanged(n: int, price: Price) -> None:
    for releaser in (OPEN, HIDING):
        count = releaser.count(n, question="q", price=price)
        kept = json.loads(json.dumps(count.kept()))
        read = released(kept or 0, price=price, is_hidden=releaser.hide_absolute_values)
        assert read == count
        assert read.as_dict() == count.as_dict()


@given(counts, counts, counts)
def test_a_derived_count_is_too_few_if_any_part_is(n: int, part: int, whole: int) -> None:
    for releaser in (OPEN, HIDING):
        a, b, c = (releaser.count(each, question="q", cell=str(each)) for each in (n, part, whole))
        found = a.scaled(b, c)
        kept = [each.kept() for each in (a, b, c)]
        if None in kept:
            assert found.kept() is None
        else:
            assert found == released(
                round(kept[0] * kept[1] / kept[2]),  # type: ignore[operator]
                price=COUNT,
                is_hidden=releaser.hide_absolute_values,
            )
        assert (found.reason is Reason.HIDDEN) == releaser.hide_absolute_values


@given(counts, counts, questions)
def test_shares_use_shown_counts(part: int, whole: int, question: str) -> None:
    a, b = OPEN.count(part, question=question, cell="a"), OPEN.count(whole, question=question, cell="b")
    found = ratio(a, b)
    if a.value is None or b.value is None:
        assert found is None
    else:
        assert found is not None
        assert 0 <= found <= 1
        assert found == pytest.approx(min(1, a.value / b.value), rel=0.051)
        assert found == float(f"{found:.1e}"), "two significant digits"
    hidden = HIDING.count(part, question=question, cell="a"), HIDING.count(whole, question=question, cell="b")
    assert ratio(*hidden) == found


def test_ratios_have_two_significant_digits() -> None:
    assert ratio(large(120), large(980)) == 0.12
    assert ratio(large(980), large(120)) == 1.0
    assert ratio(large(120), 100_000) == 0.0012
    assert ratio(large(120), 0) is None
    assert affinity_ratio(large(120), large(360), large(100), large(1_000)) == 3.3
    assert error_of(0.25, large(100), 400) > error_of(0.25, large(200), 800) > 0  # type: ignore[operator]
    assert error_of(None, large(100)) is None
    assert affinity_ratio(large(360), large(120), large(100), large(1_000)) == 10.0, "a share is 1 at most"
    too_few = OPEN.count(-1_000, question="few")
    many = large(100)
    for at in range(4):
        first, second, third, fourth = (too_few if place == at else many for place in range(4))
        assert affinity_ratio(first, second, third, fourth) is None


def test_curves_have_101_points_with_three_decimals() -> None:
    values = [n / 7 / 15 for n in range(101)]
    assert curve(values) == tuple(round(value, 3) for value in values)
    assert curve([-1e-9, *values[1:100], 1 + 1e-9])[::100] == (0.0, 1.0)
    for wrong in (values[:-1], [*values, 1.0], [*values[:-1], math.nan]):
        with pytest.raises(UsageError):
            curve(wrong)
    assert rate(0.123456) == 0.123


def test_every_answer_states_its_noise() -> None:
    for releaser in (OPEN, HIDING):
        noise = releaser.count(500, question="q").as_dict()["noise"]
        assert (noise["statement"], noise["plus_minus"], noise["confidence"]) == ("± 23 at 90 %", 23, 0.9)
        table = releaser.count(500, question="q", price=INSIGHTS).as_dict()["noise"]
        assert table == releaser.noise_of(INSIGHTS)
        assert (table["statement"], table["plus_minus"]) == ("± 31 at 90 %", 31)
        assert (noise["threshold"], noise["rounding"], noise["indicative_below"]) == (40, 10, 150)


def test_the_policy_is_described_in_numbers_and_words() -> None:
    told = ReleasePolicy().as_dict()
    numbers = {name: value for name, value in told.items() if isinstance(value, int)}
    assert numbers == {"threshold": 40, "rounding": 10, "indicative_below": 150, "units": 100}
    assert told["bound"]["right_at_most"] == 0.6
    assert {name: told["bound"][name] for name in ("rho", "mu", "epsilon", "delta")} == {
        "rho": 0.128,
        "mu": 0.506,
        "epsilon": 2.28,
        "delta": 1e-6,
    }
    words = " ".join(told["statements"])
    stated = {*numbers.values(), "± 23 at 90 %", "± 31 at 90 %", "60%"}
    assert [number for number in stated if str(number) not in words] == []
    assert json.loads(json.dumps(told)) == told
    more = ReleasePolicy().as_dict(2_000)
    assert (more["units"], more["bound"]["right_at_most"]) == (200, 0.64)
    assert "64%" in " ".join(more["statements"])


def test_inconsistent_policies_are_rejected() -> None:
    def check(numbers: dict[str, int]) -> None:
        with pytest.raises(UsageError):
            ReleasePolicy(**numbers)

    assert offenders([{"threshold": 45}, {"rounding": 0}, {"threshold": 0}], check) == []
