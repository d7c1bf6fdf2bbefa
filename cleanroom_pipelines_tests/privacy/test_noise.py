"""Contract: discrete Gaussian noise of an exact variance, drawn from a key."""

import hmac
import math
from collections import Counter
from collections.abc import Iterator
from decimal import Context, Decimal, localcontext
from fractions import Fraction
from functools import cache
from unittest import mock

import pytest

from cleanroom_pipelines.privacy.noise import draw_noise, noise_probability, noise_within
from cleanroom_pipelines.privacy.prices import COUNT, INSIGHTS

KEY = bytes(range(32))
# So many draws of σ = 14 have a mean that is right to ± 0.1: a zero with two signs would move it by 0.4.
N = 60_000
VARIANCES = [Fraction(1, 2), COUNT.variance, INSIGHTS.variance]


@cache
def draws(variance: Fraction) -> tuple[int, ...]:
    return tuple(draw_noise(KEY, variance, ["content", f"question {n}", ""]) for n in range(N))


@cache
def exact(variance: Fraction) -> dict[int, float]:
    """Return P(k) by its formula, computed independently."""
    reach = math.ceil(20 * math.sqrt(variance)) + 3
    weights = {k: math.exp(-k * k / (2 * float(variance))) for k in range(-reach, reach + 1)}
    total = math.fsum(weights.values())
    return {k: weight / total for k, weight in weights.items()}


@pytest.mark.parametrize("variance", VARIANCES)
def test_mean_and_variance_match_the_formula(variance: Fraction) -> None:
    second = math.fsum(k**2 * chance for k, chance in exact(variance).items())
    fourth = math.fsum(k**4 * chance for k, chance in exact(variance).items())
    assert abs(sum(draws(variance)) / N) < 3.5 * math.sqrt(second / N), "unbiased before suppression"
    measured = sum(draw**2 for draw in draws(variance)) / N
    assert abs(measured - second) < 3.5 * math.sqrt((fourth - second**2) / N)


@pytest.mark.parametrize("variance", VARIANCES)
def test_every_value_is_as_frequent_as_the_formula_predicts(variance: Fraction) -> None:
    found = Counter(draws(variance))
    common = {k: N * chance for k, chance in exact(variance).items() if N * chance >= 20}
    rest = N - math.fsum(common.values())
    statistic = sum((found[k] - expected) ** 2 / expected for k, expected in common.items())
    statistic += (N - sum(found[k] for k in common) - rest) ** 2 / rest
    # chi square: mean n, variance 2 n
    assert abs(statistic - len(common)) < 3.5 * math.sqrt(2 * len(common))


@pytest.mark.parametrize("variance", VARIANCES)
def test_both_tails_match_the_formula(variance: Fraction) -> None:
    sigma = math.sqrt(variance)

    def is_right(m: int, sign: int) -> bool:
        share = math.fsum(chance for k, chance in exact(variance).items() if k >= m)
        found = sum(sign * draw >= m for draw in draws(variance)) / N
        return abs(found - share) < 3.5 * math.sqrt(share / N)

    tails = {max(1, math.ceil(far * sigma)) for far in (0, 0.7, 1.6, 2.5, 3.2)}
    assert [(m, sign) for m in tails for sign in (-1, 1) if not is_right(m, sign)] == []


def test_probabilities_match_the_formula() -> None:
    for variance in VARIANCES:
        for k in (0, 1, -1, 5, 30):
            assert noise_probability(variance, k) == pytest.approx(
                exact(variance).get(k, 0.0), rel=1e-9, abs=1e-80
            )


def draw_from(uniform: int, variance: Fraction, *, is_negative: bool) -> int:
    """Return the noise if the keyed digest has these bits."""
    bits = (is_negative << 255) | uniform
    with mock.patch.object(hmac, "new") as new:
        new.return_value.digest.return_value = bits.to_bytes(32, "big")
        return draw_noise(KEY, variance, ["any question"])


@cache
def exact_tails(variance: Fraction) -> list[int]:
    """Return P(|noise| ≥ m) · 2^255 for m = 0, 1, …, rounded down: sums of powers with three times the digits."""
    with localcontext(Context(prec=360)):
        half = Decimal(variance.denominator) / Decimal(2 * variance.numerator)
        weights = [(-k * k * half).exp() for k in range(math.ceil(30 * math.sqrt(variance)) + 3)]
        total = 2 * sum(weights) - 1
        return [1 << 255, *(int(2 * sum(weights[m:]) / total * 2**255) for m in range(1, len(weights)))]


@pytest.mark.parametrize("variance", [Fraction(1, 2), Fraction(7, 3), Fraction(30)])
def test_noise_changes_exactly_at_the_formula_s_bounds(variance: Fraction) -> None:
    for m in (1, 2, 5):
        edge = exact_tails(variance)[m]
        for is_negative, sign in ((False, 1), (True, -1)):
            # To a single one of the 2^255 values.
            assert draw_from(edge - 1, variance, is_negative=is_negative) == sign * m
            assert draw_from(edge, variance, is_negative=is_negative) == sign * (m - 1)
    assert draw_from(2**255 - 1, variance, is_negative=False) == 0
    # The rarest noise is the last whose share is not below that of a single value of the bits.
    rarest = draw_from(0, variance, is_negative=False)
    assert exact_tails(variance)[rarest] >= 1
    assert exact_tails(variance)[rarest + 1] == 0


def test_the_decimal_context_of_the_calling_thread_does_not_matter() -> None:
    edge = exact_tails(Fraction(71, 3))[1]
    with localcontext(Context(prec=5)):
        assert draw_from(edge - 1, Fraction(71, 3), is_negative=False) == 1
        assert draw_from(edge, Fraction(71, 3), is_negative=False) == 0


def test_the_same_question_draws_the_same_noise_on_every_machine() -> None:
    question = ["content", "question", "cell"]
    assert [draw_noise(KEY, COUNT.variance, [*question[:2], f"cell {n}"]) for n in range(8)] == GOLDEN
    assert draw_noise(KEY, COUNT.variance, question) == draw_noise(KEY, COUNT.variance, list(question))


# Drawn once. Another list would make stored and new answers to one question differ, and so be worth two.
GOLDEN = [35, 8, 7, 4, 5, -9, -20, -16]


def variants() -> Iterator[tuple[bytes, Fraction, list[str]]]:
    variance = Fraction(195)
    yield KEY, variance, ["a", "b", "c"]
    yield KEY[::-1], variance, ["a", "b", "c"]
    yield KEY, variance + Fraction(1, 1000), ["a", "b", "c"]
    yield KEY, variance, ["a", "bc", ""]
    yield KEY, variance, ["ab", "", "c"]
    yield KEY, variance, ["a", "b", "c", ""]
    yield KEY, variance, ['a", "b', "c"]
    yield KEY, variance, ["A", "b", "c"]


def test_any_different_input_draws_other_noise() -> None:
    # Many draws of each: single ones may agree by chance.
    found = {
        tuple(draw_noise(key, variance, [*parts, str(n)]) for n in range(12))
        for key, variance, parts in variants()
    }
    assert len(found) == len(list(variants()))


def test_questions_may_contain_any_text() -> None:
    assert isinstance(draw_noise(KEY, COUNT.variance, ["\ud800", "🏃‍♀️\x00", "'; --"]), int)


def test_stated_error_bounds_are_exact() -> None:
    assert noise_within(COUNT.variance, 0.9) == 23
    for confidence in (0.0, 0.1, 0.5, 0.9, 0.99):
        for variance in VARIANCES:
            m = noise_within(variance, confidence)
            inside = sum(exact(variance)[noise] for noise in range(-m, m + 1))
            assert inside >= confidence - 1e-12
            assert m == 0 or inside - 2 * exact(variance)[m] < confidence
    assert abs(sum(abs(draw) <= 23 for draw in draws(COUNT.variance)) / N - 0.9) < 0.01
