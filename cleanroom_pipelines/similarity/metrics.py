"""Quality metrics from held-out ranks: recall, lift, relevance, AUC.

Lives here: the formulas of metrics.json, on plain arrays.
Add here when there is another metric; document its formula and source.
Keep out: scoring, files.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from cleanroom_pipelines.audiences.sizes import AudienceSize

Float64 = npt.NDArray[np.float64]

_Z95 = 1.959963984540054
_ROC_POINTS = 201
_BINS = 20


@dataclass(frozen=True)
class HeldOut:
    """Ranks of the m seed users; each user is ranked by a model that was not fitted on that user.

    Args:
        fold: (m,) fold of each.
        percentile: (m,) share of the non-seed users below, ties count half, under the model of the fold; 0 to 1.
        above: (m,) users of the population (held-out and non-seed) above.
        tied: (m,) users of the population with the same score, the user included.
    """

    fold: npt.NDArray[np.int64]
    percentile: Float64
    above: Float64
    tied: Float64


def held_out_ranks(
    scores: Float64, fold: npt.NDArray[np.int64], reference: Sequence[Float64], n_users: int
) -> HeldOut:
    """Rank the held-out seed users of each fold among each other and among non-seed users.

    Each fold has a sample of both groups. Its users are weighted so that the m held-out users and the N - m others
    add up to the population. For a random seed, expected recall at n users is then exactly n / N, whatever the
    sizes.

    Args:
        scores: (m,) score of each by the model of the user's fold.
        fold: (m,) fold of each.
        reference: Per fold, scores of non-seed users that its model has not seen.
        n_users: Population N.
    """
    m = len(scores)
    percentile, above, tied = np.zeros(m), np.zeros(m), np.zeros(m)
    for k, others in enumerate(reference):
        mine = np.flatnonzero(fold == k)
        ordered, own = np.sort(others), np.sort(scores[mine])
        seed_weight, other_weight = m / max(1, len(mine)), (n_users - m) / max(1, len(ordered))
        left, right = (
            np.searchsorted(ordered, scores[mine], "left"),
            np.searchsorted(ordered, scores[mine], "right"),
        )
        own_left, own_right = (
            np.searchsorted(own, scores[mine], "left"),
            np.searchsorted(own, scores[mine], "right"),
        )
        percentile[mine] = ((left + right) / 2.0 + 0.5) / (len(ordered) + 1.0)
        above[mine] = other_weight * (len(ordered) - right) + seed_weight * (len(own) - own_right)
        tied[mine] = other_weight * (right - left) + seed_weight * (own_right - own_left)
    return HeldOut(fold, percentile, above, tied)


def recall(held_out: HeldOut, n: int) -> tuple[float, float]:
    """Return the share of held-out seed users ranked in the first n (partly if tied), and its standard error."""
    found = np.clip((n - held_out.above) / held_out.tied, 0.0, 1.0)
    by_fold = [found[held_out.fold == k].mean() for k in np.unique(held_out.fold)]
    error = float(np.std(by_fold, ddof=1) / np.sqrt(len(by_fold))) if len(by_fold) > 1 else 0.0
    return float(found.mean()), error


def wilson_interval(share: float, n: int) -> tuple[float, float]:
    """Return the 95 % Wilson score interval of a share of n users (Wilson 1927)."""
    if n == 0:
        return 0.0, 1.0
    centre = (share + _Z95**2 / (2 * n)) / (1 + _Z95**2 / n)
    half = _Z95 * np.sqrt(share * (1 - share) / n + _Z95**2 / (4 * n * n)) / (1 + _Z95**2 / n)
    return max(0.0, float(centre - half)), min(1.0, float(centre + half))


def auc(held_out: HeldOut) -> float:
    """Return the probability that a held-out seed user ranks above a non-seed user."""
    return float(held_out.percentile.mean())


def roc(held_out: HeldOut) -> list[dict[str, float]]:
    """Return the ROC curve at 201 thresholds: percentiles of the non-seed users, so that fpr is 1 - threshold."""
    fpr = np.linspace(0.0, 1.0, _ROC_POINTS)
    ordered = np.sort(held_out.percentile)
    tpr = 1.0 - np.searchsorted(ordered, 1.0 - fpr, "left") / len(ordered)
    tpr[0], tpr[-1] = 0.0, 1.0
    return [
        {"fpr": round(float(x), 6), "tpr": round(float(y), 6), "threshold": round(float(1 - x), 6)}
        for x, y in zip(fpr, tpr, strict=True)
    ]


@dataclass(frozen=True)
class Others:
    """Totals over the ranked non-seed users, from which metrics are computed.

    Args:
        n_users: Number of non-seed users.
        standings: By size n, the sum over the first n non-seed users of twice the number of held-out seed users
            below each of them; ties count half. That number is 2 m F of the user's percentile, where F is the
            mid-distribution of the held-out users' percentiles.
        histogram: Users in 20 equal bins of the score from 0 to 1.
    """

    n_users: int
    standings: Mapping[int, int]
    histogram: Sequence[int]


def others_of(held_out: HeldOut, percentiles: Float64, wanted: Iterable[int]) -> Others:
    """Compute the totals over the non-seed users.

    Args:
        held_out: The held-out seed users.
        percentiles: (N - m,) percentiles of the non-seed users, descending.
        wanted: The sizes n to compute sums for.
    """
    ordered = np.sort(held_out.percentile)
    below = np.searchsorted(ordered, percentiles, "left") + np.searchsorted(ordered, percentiles, "right")
    sums = np.concatenate([[0], np.cumsum(below, dtype=np.int64)])
    standings = {n: int(sums[min(n, len(below))]) for n in wanted}
    return Others(len(percentiles), standings, histogram(percentiles))


def together(parts: Sequence[Others]) -> Others:
    """Add the sums of consecutive parts of one ranking; all parts must use the same sizes."""
    standings: dict[int, int] = {}
    for part in parts:
        for n, value in part.standings.items():
            standings[n] = standings.get(n, 0) + value
    bins = [sum(column) for column in zip(*(part.histogram for part in parts), strict=True)]
    return Others(sum(part.n_users for part in parts), standings, bins)


def relevance(held_out: HeldOut, others: Others, n: int) -> float:
    """Return the relevance of the first n non-seed users: the mean of 2F - 1.

    F is the share of seed users who rank below the user; ties count half.
    """
    return others.standings[n] / (len(held_out.percentile) * min(n, others.n_users)) - 1.0


def histogram(percentiles: Float64) -> list[int]:
    """Count the users in each of 20 equal bins of the score from 0 to 1."""
    counts: list[int] = np.histogram(np.clip(percentiles, 0, 1), bins=_BINS, range=(0.0, 1.0))[0].tolist()
    return counts


def numbers_of(sizes: Sequence[AudienceSize], n_users: int) -> list[int]:
    """Convert audience sizes to numbers of users, each at most the whole population."""
    return [min(size.n_users(n_users), n_users) for size in sizes]


def size_metrics(
    held_out: HeldOut,
    others: Others,
    sizes: Sequence[AudienceSize],
    n_users: int,
) -> list[dict[str, Any]]:
    """Compute recall, lift and relevance for each audience size.

    Args:
        held_out: The held-out seed users.
        others: The non-seed users, with the standings of `numbers_of(sizes, N)`.
        sizes: The requested sizes.
        n_users: Population N.
    """
    m = len(held_out.percentile)
    result = []
    for size, n in zip(sizes, numbers_of(sizes, n_users), strict=True):
        requested = size.n_users(n_users)
        expected = n / n_users
        value, fold_error = recall(held_out, n)
        low, high = wilson_interval(value, m)
        is_better = low > expected or expected == 1
        delivered = min(n, others.n_users)
        result.append(
            {
                "size": str(size),
                "type": size.type,
                "value": size.value,
                "requested": requested,
                "delivered": min(requested, others.n_users),
                "recall": value,
                "recall_interval": [low, high],
                "recall_fold_standard_error": fold_error,
                "recall_random": expected,
                "lift": value / expected,
                "lift_interval": [low / expected, high / expected],
                "relevance": relevance(held_out, others, n) if is_better else None,
                "relevance_random": 1.0 - delivered / max(1, others.n_users),
            }
        )
    return result
