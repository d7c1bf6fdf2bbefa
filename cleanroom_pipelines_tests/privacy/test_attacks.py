"""Contract: attacks on the mechanisms, by an attacker who knows all data except one person's.

Every attack is also shown to work with negligible noise. x is in the data in half of the rounds, so guessing is
right in 50 %. The success of the best attacker is computed exactly where possible, and measured.
"""

import dataclasses
import random
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from cleanroom_pipelines.audiences import insights as insights_module
from cleanroom_pipelines.audiences import overlap as overlap_module
from cleanroom_pipelines.audiences.canonical import canonical
from cleanroom_pipelines.audiences.definitions import (
    AttributeFilter,
    BaseRef,
    Combinator,
    CombineOperator,
    CustomRef,
    Definition,
    FilterOperator,
    Filters,
    MatchOperator,
    RuleBased,
    SeedRef,
)
from cleanroom_pipelines.audiences.insights import ReleasedInsights, base_figures, insights
from cleanroom_pipelines.audiences.overlap import overlap_statistics
from cleanroom_pipelines.audiences.relations import Relations
from cleanroom_pipelines.privacy import (
    COUNT,
    PAIR_TENTHS,
    BudgetSpentError,
    Price,
    Released,
    ReleasePolicy,
    Releaser,
)
from cleanroom_pipelines.privacy.accounting import right_at_most
from cleanroom_pipelines.privacy.prices import BASE_COUNT, BASE_TABLE, BASE_TENTHS, INSIGHTS

from ..audiences.plain_rooms import PlainRoom, chosen_interests
from ..offenders import offenders
from .attacking import (
    BARE,
    HARDLY_ANY_NOISE,
    POLICY,
    Room,
    chances,
    evidence,
    key_of,
    share_right,
    success_of_answers,
    success_of_one_answer,
    within_chance,
)

BOUND = 0.601
# What the contract forbids: the number of users that a seed must have as threshold, on a count without noise.
ORACLE = ReleasePolicy(threshold=25, rounding=1)


# ---- one question


def guess_once(n_known: int, n_rounds: int, policy: ReleasePolicy = POLICY, price: Price = COUNT) -> float:
    guesses = []
    for number in range(n_rounds):
        releaser = Releaser(key_of(number), "v", False, policy)
        for x_matches in (True, False):
            question = f"{n_known} known and x, {x_matches}"
            answer = releaser.count(n_known + x_matches, question=question, price=price).value
            guesses.append((evidence(answer, n_known + 1, n_known, policy, price), x_matches))
    return share_right(guesses)


def test_thresholds_do_not_reveal_membership() -> None:
    def check(n_known: int) -> None:
        exactly = success_of_one_answer(n_known + 1, n_known)
        assert exactly <= right_at_most(COUNT.tenths) + 1e-4
        assert guess_once(n_known, 10_000) == pytest.approx(exactly, abs=0.01), "20,000 draws"

    assert offenders([24, 39, 44], check) == []


def test_the_threshold_attack_works_with_negligible_noise() -> None:
    assert guess_once(24, 200, ORACLE, HARDLY_ANY_NOISE) > 0.8
    assert success_of_one_answer(25, 24, ORACLE, HARDLY_ANY_NOISE) > 0.8


def test_no_single_answer_reveals_more_than_its_price() -> None:
    def check(tenths: int, n_known: int) -> None:
        price = Price(tenths)
        # Noise on whole numbers tells a little more than a Gaussian where σ is small: 2.0 for all 100 units.
        assert success_of_one_answer(n_known + 1, n_known, POLICY, price) <= right_at_most(tenths) + 1.1e-3

    sizes = [0, 1, 24, 38, 39, 40, 44, 45, 104, 105, 1_000]
    assert offenders([(tenths, n) for tenths in (1, 10, 20, 200, PAIR_TENTHS) for n in sizes], check) == []


def test_the_attacker_s_formula_matches_the_releaser() -> None:
    n_draws = 20_000
    for n in (38, 200):
        releaser = Releaser(key_of(n), "v", False)
        answers = [releaser.count(n, question=f"{number}").value for number in range(n_draws)]
        for answer, chance in chances(n).items():
            assert abs(answers.count(answer) / n_draws - chance) < 4.5 * (chance / n_draws) ** 0.5 + 1e-4


# ---- the whole budget

Guess = Callable[[list[int | None], list[int | None], int, ReleasePolicy, Price], float]


def by_pairs(with_x: list[int | None], without_x: list[int | None], n: int, *_: object) -> float:
    """Guess by comparing sets that contain x with sets that do not."""
    return mean(with_x) - mean(without_x) - 0.5


def by_mean(with_x: list[int | None], without_x: list[int | None], n: int, *_: object) -> float:
    """Guess by averaging sets that contain x, knowing all others' matches."""
    return mean(with_x) - n - 0.5


def by_likelihood(
    with_x: list[int | None], _: list[int | None], n: int, policy: ReleasePolicy, price: Price
) -> float:
    """Guess by weighing every answer, knowing all others' matches."""
    return sum(evidence(answer, n + 1, n, policy, price) for answer in with_x)


def mean(answers: list[int | None]) -> float:
    return sum(answer or 0 for answer in answers) / len(answers)


Answers = tuple[list[int | None], list[int | None]]


@cache
def answers_for_the_whole_budget(  # noqa: PLR0917 they are the key of a cache
    share_with_x: float, n_known: int, n_rounds: int, total: int, policy: ReleasePolicy, price: Price
) -> list[tuple[Answers, bool]]:
    """Return, for each round, the answers for sets with and without x, and whether x matches."""
    found = []
    n_questions = total // COUNT.tenths
    for number in range(n_rounds):
        for x_matches in (True, False):
            room = Room(Releaser(key_of(number), f"{x_matches}", False, policy), price, n_questions * price.tenths)
            answers: dict[bool, list[int | None]] = {True: [], False: []}
            for asked in range(n_questions):
                holds_x = asked < share_with_x * n_questions
                question = f"the known without the {asked}th, {'and x' if holds_x else ''}"
                answers[holds_x].append(room.size(n_known + (holds_x and x_matches), question).value)
            with pytest.raises(BudgetSpentError):
                room.size(n_known, "one more")
            found.append(((answers[True], answers[False]), x_matches))
    return found


def guess_with_the_whole_budget(
    guess: Guess,
    share_with_x: float,
    n_known: int,
    n_rounds: int,
    *,
    total: int = PAIR_TENTHS,
    policy: ReleasePolicy = POLICY,
    price: Price = COUNT,
) -> float:
    rounds = answers_for_the_whole_budget(share_with_x, n_known, n_rounds, total, policy, price)
    return share_right((guess(*answers, n_known, policy, price), x_matches) for answers, x_matches in rounds)


@pytest.mark.parametrize("tenths", [1, 10, 20, 200, PAIR_TENTHS])
def test_the_whole_budget_reveals_at_most_the_exact_bound(tenths: int) -> None:
    assert 0.595 < success_of_answers(PAIR_TENTHS // tenths, Price(tenths)) <= BOUND
    assert success_of_answers(2 * PAIR_TENTHS // tenths, Price(tenths)) > 0.63, "twice as much is found"


@pytest.mark.parametrize(("guess", "share_with_x"), [(by_pairs, 0.5), (by_mean, 1.0), (by_likelihood, 1.0)])
def test_near_identical_sets_do_not_average_out_the_noise(guess: Guess, share_with_x: float) -> None:
    # At 205 users rounding costs the attacker nothing. 2,000 guesses are right to ± 3.3 %.
    found = guess_with_the_whole_budget(guess, share_with_x, 205, 1_000)
    assert found <= within_chance(BOUND, 2_000)
    assert found > 0.5, "and it is not blind"


@pytest.mark.parametrize(("guess", "share_with_x"), [(by_pairs, 0.5), (by_mean, 1.0), (by_likelihood, 1.0)])
def test_averaging_works_with_negligible_noise(guess: Guess, share_with_x: float) -> None:
    weak = guess_with_the_whole_budget(guess, share_with_x, 204, 40, policy=BARE, price=HARDLY_ANY_NOISE)
    assert weak > 0.95


def test_more_budget_would_reveal_more() -> None:
    assert guess_with_the_whole_budget(by_mean, 1.0, 205, 25, total=20 * PAIR_TENTHS) > 0.75


def test_repeated_questions_do_not_average_out_the_noise() -> None:
    room = Room(Releaser(key_of(1), "v", False))
    assert len({room.size(205, "the same").value for _ in range(1_000)}) == 1
    assert room.spent == COUNT.tenths


# ---- the whole chain: files, query, release

N_ROUNDS = 100


def attacked_room(n_known: int, n_rounds: int, n_sets: int, n_junk: int) -> PlainRoom:
    """Create seed audiences of n known ids and x, who matches in half of the rounds; and junk.

    Types are named "round, x matches, number of the set".
    """
    known = [f"k{number}" for number in range(n_known + n_sets)]
    ids = [*known, "x"]
    pairs = [
        (digest, f"{number} {x_matches} {at}")
        for number in range(n_rounds)
        for x_matches in (1, 0)
        for at in range(n_sets)
        for digest in (
            *known[at : at + n_known],
            *(f"j{junk}" for junk in range(n_junk)),
            "x" if x_matches else "nobody",
        )
    ]
    return PlainRoom(
        pd.DataFrame({"user_id": ids, "age": None, "gender": None, "is_relevant": True}),
        pd.DataFrame({"user_id": [], "segment": []}),
        pd.DataFrame({"digest": ids, "user_id": ids}),
        pd.DataFrame(pairs, columns=["digest", "audience_type"]),
    )


def guess_from_rows(relations: Relations, n_known: int, policy: ReleasePolicy, price: Price) -> float:
    """Guess from all that an advertiser's agency reads in the rows: size, whether it is empty, and match rate."""
    speaks: dict[tuple[str, str], float] = {}
    rates: dict[object, set[object]] = {}
    for row in overlap_statistics(relations, Releaser(key_of(7), "v", False, policy)).rows:
        told = row.as_dict(with_own_counts=True)
        number, x_matches, _ = row.audience_type.split()
        size = told["overlap_size"]
        rates.setdefault(size, set()).add(told["match_rate"])
        assert told["is_empty"] == (size is None)
        now = evidence(size, n_known + 1, n_known, policy, price)
        speaks[number, x_matches] = speaks.get((number, x_matches), 0.0) + now
    # All sets have one size: rates that tell more than sizes would differ where sizes agree.
    assert all(len(each) == 1 for each in rates.values())
    return share_right((value, x_matches == "1") for (_, x_matches), value in speaks.items())


def test_spending_the_whole_budget_on_overlaps_reveals_little(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    n_sets = PAIR_TENTHS // COUNT.tenths
    with attacked_room(60, N_ROUNDS, n_sets, 0).opened(tmp_path) as relations:
        assert guess_from_rows(relations, 60, POLICY, COUNT) <= within_chance(BOUND, 2 * N_ROUNDS)
        monkeypatch.setattr(overlap_module, "COUNT", HARDLY_ANY_NOISE)
        assert guess_from_rows(relations, 60, BARE, HARDLY_ANY_NOISE) > 0.95


def test_24_known_ids_and_x_in_a_seed_audience_reveal_little_about_x(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Junk so that the match rate is not cut off at 1.
    with attacked_room(24, 500, 1, 75).opened(tmp_path) as relations:
        bound = within_chance(right_at_most(COUNT.tenths), 1_000)
        assert guess_from_rows(relations, 24, POLICY, COUNT) <= bound
        monkeypatch.setattr(overlap_module, "COUNT", HARDLY_ANY_NOISE)
        assert guess_from_rows(relations, 24, ORACLE, HARDLY_ANY_NOISE) > 0.8


# ---- tables: one person enters many cells

N_INTERESTS, N_IN_SEED, N_TABLES, N_WORLDS = 50, 250, 4, 100
SALT = "known to the attacker, which helps it"


@dataclasses.dataclass(frozen=True)
class Remembering:
    """An engine that runs each query once: all rooms are the same, only the noise differs."""

    engine: Any
    known: dict[str, Any] = dataclasses.field(default_factory=dict)

    def execute(self, sql: str, parameters: object = ()) -> None:
        self.engine.execute(sql, parameters)

    def fetch(self, sql: str, parameters: object = ()) -> Any:
        key = f"{sql} {parameters}"
        if key not in self.known:
            self.known[key] = self.engine.fetch(sql, parameters)
        return self.known[key]


def busy_room(*, with_x: bool = True, in_seed: bool = True) -> PlainRoom:
    """Create 400 users with five of 20 interests, and x with 50; half are in the seed, and perhaps x."""
    random_ = random.Random(3)
    users = [f"u{number}" for number in range(400)]
    segments = [(user, f"i{n}") for user in users for n in random_.sample(range(20), 5)]
    if with_x:
        segments += [("x", f"i{n}") for n in range(N_INTERESTS)]
        users.append("x")
    seeds = [*users[:N_IN_SEED], *(["x"] if in_seed else [])]
    return PlainRoom(
        pd.DataFrame({"user_id": users, "age": "18-24", "gender": "f", "is_relevant": True}),
        pd.DataFrame(segments, columns=["user_id", "segment"]),
        pd.DataFrame({"digest": users, "user_id": users}),
        pd.DataFrame({"digest": seeds, "audience_type": "T"}),
    )


Cells = dict[object, int | None]


def answers_of(table: ReleasedInsights) -> Cells:
    return {(row.interest, row.age, row.gender): row.overlap.value for row in table.audiences[0].rows}


def guess_from_tables(folder: Path, monkeypatch: pytest.MonkeyPatch, policy: ReleasePolicy, price: Price) -> float:
    """Guess from every count behind a table's cells, and from its overlap; readers see only ratios of these."""
    with (
        busy_room().opened(folder / "with") as one,
        busy_room(in_seed=False).opened(folder / "without") as other,
    ):
        told = {
            True: Relations(Remembering(one.engine), one.audience_types),  # type: ignore[arg-type]
            False: Relations(Remembering(other.engine), other.audience_types),  # type: ignore[arg-type]
        }
        figures = base_figures(one, Releaser(key_of(1), "base", False), SALT)
        with monkeypatch.context() as patch:
            patch.setattr(insights_module, "INSIGHTS", Price(10**9))
            every = [
                answers_of(insights(told[x], Releaser(key_of(0), "", False, BARE), figures, SALT))
                for x in (True, False)
            ]
        with_x, without_x = ({cell: n or 0 for cell, n in each.items()} for each in every)
        touched = {cell for cell in with_x if with_x[cell] != without_x[cell]}
        assert {with_x[cell] - without_x[cell] for cell in touched} == {1}
        assert {cell[0] for cell in touched if cell[0]} <= chosen_interests(busy_room(), SALT)["x"]  # type: ignore[index]
        assert 14 <= len(touched) <= 18
        monkeypatch.setattr(insights_module, "INSIGHTS", price)
        guesses = []
        for number in range(N_WORLDS):
            for x_matches in (True, False):
                speaks = 0.0
                for table in range(N_TABLES):
                    releaser = Releaser(key_of(number), f"{x_matches} {table}", False, policy)
                    answers = answers_of(insights(told[x_matches], releaser, figures, SALT))
                    speaks += sum(
                        evidence(answers[cell], with_x[cell], without_x[cell], policy, price) for cell in touched
                    )
                    overlap = releaser.count(
                        N_IN_SEED + x_matches, question=overlap_module.question_about("T")
                    ).value
                    speaks += evidence(overlap, N_IN_SEED + 1, N_IN_SEED, policy)
                guesses.append((speaks, x_matches))
        return share_right(guesses)


def test_tables_reveal_little_about_a_person_with_50_interests(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tenths = N_TABLES * (INSIGHTS.tenths + COUNT.tenths)
    assert tenths == 880, "a fifth table cannot be paid"
    found = guess_from_tables(tmp_path, monkeypatch, POLICY, INSIGHTS)
    assert found <= within_chance(right_at_most(tenths), 2 * N_WORLDS)


def test_tables_reveal_everything_with_negligible_noise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weak = dataclasses.replace(INSIGHTS, tenths=500 * INSIGHTS.tenths)
    monkeypatch.setitem(globals(), "N_WORLDS", 30)
    assert guess_from_tables(tmp_path, monkeypatch, BARE, weak) > 0.95


# ---- what is told of the base alone


def guess_from_base(folder: Path, monkeypatch: pytest.MonkeyPatch, factor: int, n_worlds: int) -> float:
    """Guess from all figures of the base audience whether x, who has 50 interests, is in it."""
    policy = POLICY if factor == 1 else BARE
    prices = {
        name: dataclasses.replace(price, tenths=factor * price.tenths)
        for name, price in (("BASE_COUNT", BASE_COUNT), ("BASE_TABLE", BASE_TABLE))
    }

    def figures(relations: Relations, key: int) -> dict[object, int | None]:
        found = base_figures(relations, Releaser(key_of(key), f"{key}", False, policy), SALT)
        cells: dict[object, Released] = {
            **found.cells,
            "addressable": found.addressable,
            "matchable": found.matchable,
        }
        return {cell: count.value for cell, count in cells.items()}

    with (
        busy_room().opened(folder / f"with {factor}") as one,
        busy_room(with_x=False, in_seed=False).opened(folder / f"without {factor}") as other,
    ):
        rooms = {x: Relations(Remembering(each.engine), ()) for x, each in ((True, one), (False, other))}  # type: ignore[arg-type]
        exact = {}
        for x, relations in rooms.items():
            with monkeypatch.context() as patch:
                for name, price in prices.items():
                    patch.setattr(insights_module, name, dataclasses.replace(price, tenths=10**9))
                found = base_figures(relations, Releaser(key_of(0), "", False, BARE), SALT)
                exact[x] = {**{cell: count.value or 0 for cell, count in found.cells.items()}}
                exact[x] |= {"addressable": found.addressable.value, "matchable": found.matchable.value}
        touched = {cell for cell in exact[True] if exact[True][cell] != exact[False].get(cell, 0)}
        assert {exact[True][cell] - exact[False][cell] for cell in touched} == {1}
        assert 16 <= len(touched) <= 20
        for name, price in prices.items():
            monkeypatch.setattr(insights_module, name, price)
        guesses = []
        for number in range(n_worlds):
            for x, relations in rooms.items():
                told = figures(relations, 2 * number + x)
                speaks = 0.0
                for cell in touched:
                    price = prices["BASE_COUNT" if isinstance(cell, str) else "BASE_TABLE"]
                    speaks += evidence(told.get(cell), exact[True][cell], exact[False][cell], policy, price)
                guesses.append((speaks, x))
        return share_right(guesses)


def test_base_figures_reveal_little_about_a_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    n_worlds = 200
    found = guess_from_base(tmp_path, monkeypatch, 1, n_worlds)
    assert found <= within_chance(right_at_most(BASE_TENTHS), 2 * n_worlds)


def test_base_figures_reveal_everything_with_negligible_noise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert guess_from_base(tmp_path, monkeypatch, 500, 30) > 0.95


# ---- a hundred phrasings


def phrasings(n: int) -> tuple[list[Definition], dict[str, Definition]]:
    """Return equivalent definitions of: users of T in Sport or it's, aged 18-24, who are not also in U."""
    random_ = random.Random(5)
    audiences: dict[str, Definition] = {}
    found: list[Definition] = []
    while len(found) < n:
        filters = [
            AttributeFilter("segments", FilterOperator.CONTAINS_ANY, _shuffled(random_, ["Sport", "it's"])),
            AttributeFilter(
                "age", random_.choice([FilterOperator.CONTAINS_ANY, FilterOperator.CONTAINS_ALL]), ("18-24",)
            ),
        ]
        filters = list(_shuffled(random_, filters * random_.randint(1, 2)))
        combinators = [
            Combinator(CombineOperator.DIFF, SeedRef("U")),
            *[Combinator(CombineOperator.INTERSECT, BaseRef())] * random_.randint(0, 2),
            *[Combinator(CombineOperator.INTERSECT, SeedRef("T"))] * random_.randint(0, 2),
        ]
        rule = RuleBased(
            SeedRef("T"),
            Filters(MatchOperator.MATCH_ALL, tuple(filters)),
            _shuffled(random_, combinators),
        )
        if random_.random() < 0.5:
            audiences[f"a{len(audiences)}"] = rule
            ref = CustomRef(f"a{len(audiences) - 1}")
            rule = RuleBased(ref, None, (Combinator(CombineOperator.UNION, ref),) * random_.randint(0, 1))
        if rule not in found:
            found.append(rule)
    return found, audiences


def _shuffled(random_: random.Random, values: list) -> tuple:  # type: ignore[type-arg]
    return tuple(random_.sample(values, len(values)))


def test_a_hundred_equivalent_definitions_get_one_answer_for_one_payment() -> None:
    definitions, audiences = phrasings(100)
    room = Room(Releaser(key_of(3), "v", False))
    answers = [room.size(205, canonical(each, audiences.__getitem__)) for each in definitions]
    assert len({str(each) for each in definitions}) == 100
    assert len(set(answers)) == 1
    assert room.spent == COUNT.tenths
    other = RuleBased(SeedRef("T"), None, (Combinator(CombineOperator.DIFF, SeedRef("U")),))
    room.size(205, canonical(other, audiences.__getitem__))
    assert room.spent == 2 * COUNT.tenths, "another question is paid for"
