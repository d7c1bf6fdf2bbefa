"""Contract: measured errors of published numbers agree with the formula."""

import math

import pytest

from cleanroom_pipelines.privacy import COUNT, INSIGHTS, Price

from ..offenders import offenders
from .accuracy import TRUE_SIZES, accuracy_of
from .attacking import chances


def test_errors_match_the_formula() -> None:
    def check(size: int) -> None:
        found = accuracy_of(size, n_draws=2_000)
        answers = {answer: chance for answer, chance in chances(size).items() if answer is not None}
        told = sum(answers.values())
        assert found.share_told == pytest.approx(told, abs=0.03)
        for error, share in ((found.size_median_error, 0.5), (found.size_error_at_90, 0.9)):
            # Answers are multiples of ten, so errors come in steps: those of shares close by are right too.
            steps = [_error_within(answers, size, share + slack) for slack in (-0.03, 0.03)]
            assert steps[0] - 1e-9 <= error <= steps[1] + 1e-9
        assert found.affinity_error_at_90 >= found.affinity_median_error

    assert offenders(TRUE_SIZES, check) == []


def _error_within(answers: dict[int, float], size: int, share: float) -> float:
    covered = 0.0
    for answer in sorted(answers, key=lambda answer: abs(answer - size)):
        covered += answers[answer] / sum(answers.values())
        if covered >= share:
            return abs(answer - size) / size
    return math.inf


def test_more_units_buy_less_noise() -> None:
    default = accuracy_of(150, n_draws=500)
    sizes = accuracy_of(150, n_draws=500, count=Price(8 * COUNT.tenths))
    tables = accuracy_of(150, n_draws=500, table=Price(8 * INSIGHTS.tenths, INSIGHTS.sensitivity))
    assert sizes.size_error_at_90 < default.size_error_at_90 == tables.size_error_at_90
    assert tables.affinity_error_at_90 < default.affinity_error_at_90
    assert abs(sizes.affinity_error_at_90 - default.affinity_error_at_90) <= 0.05, "a cell has its table's noise"
