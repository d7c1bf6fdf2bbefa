"""Contract: the issue's "what the noise costs in accuracy": measured errors agree with the formula."""

import math

import pytest

from cleanroom_pipelines.privacy import ReleasePolicy
from cleanroom_pipelines.privacy.accuracy import TRUE_SIZES, accuracy_of, accuracy_table

from ..offenders import offenders
from .attacking import chances


def test_errors_are_those_of_the_formula() -> None:
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


def test_less_noise_costs_less() -> None:
    weak = accuracy_of(150, ReleasePolicy(scale=1), n_draws=500)
    strong = accuracy_of(150, n_draws=500)
    assert weak.size_error_at_90 < strong.size_error_at_90
    assert weak.affinity_error_at_90 < strong.affinity_error_at_90


def test_the_table_has_a_line_a_size() -> None:
    lines = accuracy_table(true_sizes=(50, 1_000)).splitlines()
    assert [line.count("|") for line in lines] == [7] * 4
    assert [line.split("|")[1].strip() for line in lines[2:]] == ["50", "1,000"]
    assert accuracy_table(true_sizes=(50,)) == accuracy_table(true_sizes=(50,)), "the same every time"
