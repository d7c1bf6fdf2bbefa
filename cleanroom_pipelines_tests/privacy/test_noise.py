"""Contract: contracts/media.md section 5, items 3 and 10: discrete Laplace noise of scale 10, keyed."""

import hmac
import math
from collections import Counter
from collections.abc import Iterator
from functools import cache
from unittest import mock

import pytest

from cleanroom_pipelines.privacy.noise import draw_noise, noise_probability, noise_within

KEY = bytes(range(32))
N = 150_000


@cache
def draws(scale: int) -> tuple[int, ...]:
    return tuple(draw_noise(KEY, scale, ["version", f"question {n}", ""]) for n in range(N))


def p_of(scale: int) -> float:
    return math.exp(-1 / scale)


@pytest.mark.parametrize("scale", [1, 10])
def test_mean_and_variance_are_those_of_the_formula(scale: int) -> None:
    p = p_of(scale)
    variance = 2 * p / (1 - p) ** 2
    mean = sum(draws(scale)) / N
    assert abs(mean) < 3.5 * math.sqrt(variance / N), "unbiased before suppression"
    squares = [draw**2 for draw in draws(scale)]
    measured = sum(squares) / N
    error = math.sqrt(sum((square - measured) ** 2 for square in squares) / N / N)
    assert abs(measured - variance) < 3.5 * error


@pytest.mark.parametrize("scale", [1, 10])
def test_every_value_is_as_frequent_as_the_formula_says(scale: int) -> None:
    found = Counter(draws(scale))
    p = p_of(scale)
    reach = next(m for m in range(1, 10_000) if N * noise_probability(scale, m) < 20)
    statistic, n_bins = 0.0, 0
    for noise in range(-reach + 1, reach):
        expected = N * (1 - p) / (1 + p) * p ** abs(noise)
        statistic += (found[noise] - expected) ** 2 / expected
        n_bins += 1
    # chi square: mean n_bins, variance 2 n_bins
    assert abs(statistic - n_bins) < 3.5 * math.sqrt(2 * n_bins)


def test_both_tails_are_those_of_the_formula() -> None:
    p = p_of(10)

    def is_right(m: int, sign: int) -> bool:
        share = p**m / (1 + p)
        found = sum(sign * draw >= m for draw in draws(10)) / N
        return abs(found - share) < 3.5 * math.sqrt(share / N)

    assert [(m, sign) for m in (1, 10, 24, 40, 60) for sign in (-1, 1) if not is_right(m, sign)] == []


def draw_from(uniform: int, *, is_negative: bool) -> int:
    """The noise of scale 10 where the keyed digest comes out as these bits."""
    bits = (is_negative << 255) | uniform
    with mock.patch.object(hmac, "new") as new:
        new.return_value.digest.return_value = bits.to_bytes(32, "big")
        return draw_noise(KEY, 10, ["any question"])


def test_noise_changes_exactly_where_the_formula_says() -> None:
    p = p_of(10)
    for m in (1, 2, 10, 100, 300):
        edge = int(2**255 * (2 * p**m / (1 + p)))
        for is_negative, sign in ((False, 1), (True, -1)):
            assert draw_from(edge - edge // 10**12, is_negative=is_negative) == sign * m
            assert draw_from(edge + edge // 10**12, is_negative=is_negative) == sign * (m - 1)
    assert draw_from(2**255 - 1, is_negative=False) == 0
    # The rarest noise is the last whose share is not below that of a single value of the bits.
    assert draw_from(0, is_negative=False) == math.floor(10 * (255 * math.log(2) + math.log(2 / (1 + p))))


def test_the_same_question_draws_the_same_noise_on_every_machine() -> None:
    question = ["version", "question", "cell"]
    assert [draw_noise(KEY, 10, [*question[:2], f"cell {n}"]) for n in range(8)] == GOLDEN
    assert draw_noise(KEY, 10, question) == draw_noise(KEY, 10, list(question))


# Drawn once. Another list would make stored and new answers to one question differ, and so be worth two.
GOLDEN = [-14, 3, -1, 19, 0, 19, 17, -3]


def variants() -> Iterator[tuple[bytes, int, list[str]]]:
    yield KEY, 10, ["a", "b", "c"]
    yield KEY[::-1], 10, ["a", "b", "c"]
    yield KEY, 11, ["a", "b", "c"]
    yield KEY, 10, ["a", "bc", ""]
    yield KEY, 10, ["ab", "", "c"]
    yield KEY, 10, ["a", "b", "c", ""]
    yield KEY, 10, ['a", "b', "c"]
    yield KEY, 10, ["A", "b", "c"]


def test_whatever_is_different_draws_other_noise() -> None:
    # Many draws of each: single ones may agree by chance.
    found = {
        tuple(draw_noise(key, scale, [*parts, str(n)]) for n in range(12)) for key, scale, parts in variants()
    }
    assert len(found) == len(list(variants()))


def test_questions_of_any_text_are_drawn() -> None:
    assert isinstance(draw_noise(KEY, 10, ["\ud800", "🏃‍♀️\x00", "'; --"]), int)


def test_noise_goes_as_far_as_is_stated() -> None:
    assert noise_within(10, 0.9) == 23
    for confidence in (0.0, 0.1, 0.5, 0.9, 0.99):
        for scale in (1, 3, 10):
            m = noise_within(scale, confidence)
            inside = sum(noise_probability(scale, noise) for noise in range(-m, m + 1))
            assert inside >= confidence
            assert m == 0 or inside - 2 * noise_probability(scale, m) < confidence
    assert abs(sum(abs(draw) <= 23 for draw in draws(10)) / N - 0.9) < 0.01
