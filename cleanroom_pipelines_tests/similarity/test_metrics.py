"""Contract: the formulas of metrics.json, each against a slow obvious version."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cleanroom_pipelines.audiences.sizes import AudienceSize, SizeType
from cleanroom_pipelines.similarity import metrics

Scores = st.lists(st.integers(0, 12).map(float), min_size=1, max_size=12)


def _slow_recall(seed: list[float], others: list[float], n: int) -> float:
    """Return the expected recall over all orders of tied users."""
    everybody = seed + others
    found = 0.0
    for score in seed:
        above = sum(other > score for other in everybody)
        tied = sum(other == score for other in everybody)
        found += min(1.0, max(0.0, (n - above) / tied))
    return found / len(seed)


@given(Scores, Scores, st.integers(1, 24))
def test_recall_is_the_share_of_held_out_users_among_the_first_n(
    seed: list[float], others: list[float], n: int
) -> None:
    held_out = metrics.held_out_ranks(
        np.array(seed), np.zeros(len(seed), dtype=int), [np.array(others)], len(seed) + len(others)
    )
    assert metrics.recall(held_out, n)[0] == pytest.approx(_slow_recall(seed, others, n))


@given(Scores, Scores)
def test_auc_matches_counting_pairs_up_to_smoothing(seed: list[float], others: list[float]) -> None:
    held_out = metrics.held_out_ranks(
        np.array(seed), np.zeros(len(seed), dtype=int), [np.array(others)], len(seed) + len(others)
    )
    pairs = np.mean([(a > b) + 0.5 * (a == b) for a in seed for b in others])
    assert metrics.auc(held_out) == pytest.approx((pairs * len(others) + 0.5) / (len(others) + 1))


def test_mean_recall_of_random_rankings_equals_the_share() -> None:
    rng = np.random.default_rng(0)
    values = []
    for _ in range(400):
        scores = rng.random(300)
        fold = np.arange(50) % 5
        held_out = metrics.held_out_ranks(
            scores[:50], fold, [scores[50:][np.arange(250) % 5 == k] for k in range(5)], 300
        )
        values.append(metrics.recall(held_out, 30)[0])
    assert np.mean(values) == pytest.approx(0.1, abs=0.006)


@pytest.mark.parametrize(
    ("share", "n", "low", "high"),
    [(0.5, 10, 0.2366, 0.7634), (0.0, 10, 0.0, 0.2775), (1.0, 25, 0.8668, 1.0), (0.31, 214, 0.2518, 0.3749)],
)
def test_wilson_interval_against_published_values(share: float, n: int, low: float, high: float) -> None:
    assert metrics.wilson_interval(share, n) == pytest.approx((low, high), abs=5e-4)


def test_relevance_of_a_random_ranking_is_one_minus_the_share() -> None:
    rng = np.random.default_rng(1)
    held_out = metrics.held_out_ranks(
        rng.random(20_000), np.zeros(20_000, dtype=int), [rng.random(20_000)], 40_000
    )
    percentiles = -np.sort(-(np.arange(10_000) + 0.5) / 10_000)
    for share in (0.05, 0.2, 0.5, 1.0):
        n = int(share * 10_000)
        value = metrics.relevance(held_out, metrics.others_of(held_out, percentiles, [n]), n)
        assert value == pytest.approx(1 - share, abs=0.02)


def test_relevance_falls_with_size_and_is_zero_for_an_audience_drawn_like_the_seed() -> None:
    held_out = metrics.held_out_ranks(
        np.linspace(0.5, 1, 1_000), np.zeros(1_000, dtype=int), [np.linspace(0, 1, 1_000)], 2_000
    )
    percentiles = np.linspace(1, 0, 1_000)
    others = metrics.others_of(held_out, percentiles, range(1, 1_000, 37))
    values = [metrics.relevance(held_out, others, n) for n in range(1, 1_000, 37)]
    assert all(earlier >= later for earlier, later in pairwise(values))
    alike = metrics.others_of(held_out, -np.sort(-held_out.percentile), [1_000])
    assert metrics.relevance(held_out, alike, 1_000) == pytest.approx(0, abs=1e-9)


def test_parts_of_a_ranking_add_up() -> None:
    rng = np.random.default_rng(3)
    held_out = metrics.held_out_ranks(rng.random(50), np.zeros(50, dtype=int), [rng.random(700)], 1_200)
    percentiles = -np.sort(-rng.random(1_000).round(2))
    whole = metrics.others_of(held_out, percentiles, [1, 400, 401, 1_000])
    parts = [
        metrics.others_of(held_out, percentiles[:400], [1, 400]),
        metrics.others_of(held_out, percentiles[400:], [0, 1, 600]),
    ]
    renamed = [
        metrics.Others(400, {n: parts[0].standings[min(n, 400)] for n in whole.standings}, parts[0].histogram),
        metrics.Others(600, {n: parts[1].standings[max(0, n - 400)] for n in whole.standings}, parts[1].histogram),
    ]
    assert metrics.together(renamed) == whole


def test_roc_has_at_most_201_points_by_decreasing_threshold_from_corner_to_corner() -> None:
    rng = np.random.default_rng(2)
    held_out = metrics.held_out_ranks(rng.random(500) + 0.3, np.zeros(500, dtype=int), [rng.random(700)], 1_200)
    points = metrics.roc(held_out)
    assert len(points) <= 201
    assert (points[0]["fpr"], points[0]["tpr"], points[-1]["fpr"], points[-1]["tpr"]) == (0, 0, 1, 1)
    assert all(a["threshold"] > b["threshold"] and a["tpr"] <= b["tpr"] for a, b in pairwise(points))
    area = np.trapezoid([p["tpr"] for p in points], [p["fpr"] for p in points])
    assert area == pytest.approx(metrics.auc(held_out), abs=0.01)


def test_relevance_is_null_if_recall_is_not_above_chance() -> None:
    held_out = metrics.held_out_ranks(
        np.linspace(0, 1, 50), np.zeros(50, dtype=int), [np.linspace(0, 1, 950)], 1_000
    )
    others = metrics.others_of(held_out, np.linspace(1, 0, 950), [100])
    entry = metrics.size_metrics(held_out, others, [AudienceSize(SizeType.PERCENTAGE, 10)], 1_000)[0]
    assert entry["relevance"] is None
    assert entry["recall_random"] == 0.1
