"""Documents that earlier versions have written can be read.

Contract: byte by byte what existing homes contain.
"""

import json
from dataclasses import replace
from fractions import Fraction
from typing import Any

import pytest

from cleanroom_pipelines.privacy.prices import INSIGHTS, Price
from cleanroom_pipelines.runs.budgets import Question
from cleanroom_pipelines.runs.private_rankings import PaidVector
from cleanroom_pipelines.similarity import TrainingReport, Window
from cleanroom_pipelines.similarity.seeds import SeedMatch

FIGURES = {"auc": 0.5, "reach": [{"reach": 1, "size": None}], "n": 1.0}
KEPT: list[tuple[Any, str]] = [
    (
        Question.of("size", "c", "t", Price(15, Fraction(5, 4))),
        '{"kind": "size", "key": "f8f8caae7fa2cdfacd4914e459e94c605f5c6c5bcf3cc633270786d63e799c6c", '
        '"tenths": 15, "sensitivity": "5/4"}',
    ),
    (
        Question.of("insights", "c", "t", INSIGHTS),
        '{"kind": "insights", "key": "e338f612c26006231d34e74cfac62329dde465b6a81f95114653d5e0ac29146d", '
        '"tenths": 200, "sensitivity": "18"}',
    ),
    (
        PaidVector((1, -2), 24, 0.5, 1.25, "ab", "cd", 700, FIGURES),
        '{"values": [1, -2], "d": 24, "ridge": 0.5, "deviation": 1.25, "source": "ab", "representation": "cd", '
        '"n_seed_users": 700, "figures": {"auc": 0.5, "reach": [{"reach": 1, "size": null}], "n": 1.0}}',
    ),
    (
        TrainingReport(
            10,
            1,
            9,
            3,
            2,
            6,
            None,
            5,
            Window(None, 6),
            ("a",),
            {"n_rows": [1.0]},
            ("W",),
            {"read": 0.5},
            {"read": 900},
        ),
        '{"n_rows": 10, "n_invalid_rows": 1, "n_interactions": 9, "n_users": 3, "n_items": 2, "n_pairs": 6, '
        '"first_time": null, "last_time": 5, "window": {"start": null, "end": 6}, "ignored_columns": ["a"], '
        '"profile": {"n_rows": [1.0]}, "warnings": ["W"], "timing_seconds": {"read": 0.5}, '
        '"peak_bytes": {"read": 900}}',
    ),
    (
        SeedMatch(5, 4, 1, 0, 2, 0.5),
        '{"n_rows": 5, "n_unique": 4, "n_invalid": 1, "n_duplicates": 0, "n_matched": 2, "match_rate": 0.5}',
    ),
]


@pytest.mark.parametrize(("document", "text"), KEPT)
def test_stored_text_is_unchanged(document: Any, text: str) -> None:
    assert json.dumps(document.as_dict()) == text
    if hasattr(document, "from_dict"):
        assert type(document).from_dict(json.loads(text)) == document


def test_a_training_without_peaks_of_memory_is_read() -> None:
    ((report, text),) = [(document, text) for document, text in KEPT if isinstance(document, TrainingReport)]
    before = text.replace(', "peak_bytes": {"read": 900}', "")
    assert TrainingReport.from_dict(json.loads(before)) == replace(report, peak_bytes={})


def test_question_keeps_its_price() -> None:
    assert Question.from_dict(KEPT[0][0].as_dict()).price == Price(15, Fraction(5, 4))
