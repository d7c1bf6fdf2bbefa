"""Quality statistics of a room's lookalike: exact ones for the operator, released ones for participants.

Lives here: `room_statistics`, from the held-out source users of a ranking, and `released_statistics`.
Add here when a lookalike's statistics get another figure.
Keep out: formulas of recall and AUC (metrics), noise (privacy).

True positive rates of m users are multiples of 1 / m, so a few of them with three decimals reveal m even if it is
hidden. The curve is therefore interpolated linearly between users instead of stepping at each; the error is at
most half a user (or half of the tied users). Figures of the reaches are computed from the released curve and
counts, and reveal nothing more.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from cleanroom_pipelines.errors import ArtifactError
from cleanroom_pipelines.privacy import Released, curve, rate, ratio, released
from cleanroom_pipelines.privacy.prices import BASE_COUNT
from cleanroom_pipelines.privacy.release import CURVE_POINTS
from cleanroom_pipelines.similarity import metrics
from cleanroom_pipelines.similarity.rooms import (
    HELD_OUT_FILE,
    MAX_REACH,
    MIN_REACH,
    reach_size,
)


@dataclass(frozen=True)
class ReachStatistics:
    """Quality of the lookalike at one reach.

    Args:
        reach: Percentage of all relevant users, 1 to 30.
        n_users: Number of users in the reach.
        tpr: Share of the held-out source users in the reach, 0 to 1.
        fpr: Share of the other users in the reach, 0 to 1.
    """

    reach: int
    n_users: int
    tpr: float
    fpr: float


@dataclass(frozen=True)
class RoomStatistics:
    """Exact statistics of one source audience's ranking; publish only what `released_statistics` returns.

    Args:
        n_seed_users: Users of the source audience, each held out once.
        n_users: Addressable users: all relevant ones.
        auc: Probability that a held-out source user ranks above another user, 0 to 1.
        fpr: (101,) 0 to 1 in steps of 0.01: decreasing thresholds.
        tpr: (101,) share of held-out source users above the same thresholds, interpolated linearly.
        reach: One entry per reach from 1 to 30 %.
    """

    n_seed_users: int
    n_users: int
    auc: float
    fpr: tuple[float, ...]
    tpr: tuple[float, ...]
    reach: tuple[ReachStatistics, ...]


def room_statistics(folder: Path) -> RoomStatistics:
    """Compute the exact statistics of a ranking.

    Args:
        folder: The folder that `rank_room` wrote.

    Raises:
        ArtifactError: The ranking's files cannot be read.
    """
    held_out, n_users = _read_held_out(folder / HELD_OUT_FILE)
    n_seed = len(held_out.percentile)
    fpr = np.linspace(0.0, 1.0, CURVE_POINTS)
    reaches = []
    for reach in range(MIN_REACH, MAX_REACH + 1):
        n = reach_size(reach, n_users)
        found, _ = metrics.recall(held_out, n)
        others = (n - found * n_seed) / (n_users - n_seed)
        reaches.append(ReachStatistics(reach, n, found, float(np.clip(others, 0.0, 1.0))))
    return RoomStatistics(
        n_seed_users=n_seed,
        n_users=n_users,
        auc=metrics.auc(held_out),
        fpr=tuple(fpr.tolist()),
        tpr=tuple(_between_users(held_out.percentile, fpr).tolist()),
        reach=tuple(reaches),
    )


def released_statistics(statistics: RoomStatistics, seed: Released, addressable: Released) -> dict[str, Any]:
    """Return what participants may see of the statistics of an ensemble ranking that the data providers approved.

    Args:
        statistics: The exact statistics.
        seed: The released size of the source audience.
        addressable: The released number of all relevant users.

    Returns:
        `auc`, `fpr` and `tpr` (101 each), `reach` (1 to 30 %: `reach`, `size`, `tpr`, `fpr`), `seed_size`,
        `addressable_size`, `test_set_sizes` (`seed`, `others`) and `noise`; hidden sizes are None.
    """
    fpr, tpr = curve(statistics.fpr), curve(statistics.tpr)
    share = ratio(seed, addressable) or 0.0
    # The share of all users above each threshold is monotonic, so each reach has one position on the curve.
    taken = (1 - share) * np.array(fpr) + share * np.array(tpr)
    reaches = []
    for entry in statistics.reach:
        at = float(np.interp(entry.reach / 100, taken, fpr))
        reaches.append(
            {
                "reach": entry.reach,
                "size": reach_size_of(entry.reach, addressable),
                "tpr": rate(float(np.interp(at, fpr, tpr))),
                "fpr": rate(at),
            }
        )
    return {
        "auc": rate(statistics.auc),
        "fpr": list(fpr),
        "tpr": list(tpr),
        "reach": reaches,
        "seed_size": seed.value,
        "addressable_size": addressable.value,
        "test_set_sizes": {"seed": seed.value, "others": others_of(seed, addressable)},
        "noise": seed.as_dict()["noise"],
    }


def _between_users(percentiles: metrics.Float64, fpr: metrics.Float64) -> metrics.Float64:
    values, counts = np.unique(percentiles, return_counts=True)
    at_or_above = (len(percentiles) - np.cumsum(counts) + counts / 2) / len(percentiles)
    return np.asarray(np.interp(fpr, [0.0, *(1 - values)[::-1], 1.0], [0.0, *at_or_above[::-1], 1.0]))


def reach_size_of(reach: int, addressable: Released) -> int | None:
    """Return the size of a reach, computed from the noised total of users, then thresholded and rounded again."""
    kept = None if addressable.value is None else reach_size(reach, addressable.value)
    return None if kept is None else released(kept, price=BASE_COUNT).value


def others_of(seed: Released, addressable: Released) -> int | None:
    """Return the number of users outside the source audience, computed from noised counts."""
    if seed.value is None or addressable.value is None:
        return None
    return max(0, addressable.value - seed.value)


def _read_held_out(path: Path) -> tuple[metrics.HeldOut, int]:
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(path)
        columns = {name: table[name].to_numpy() for name in ("fold", "percentile", "above", "tied")}
        return metrics.HeldOut(**columns), int(table.schema.metadata[b"n_users"])
    except (OSError, pa.ArrowException, KeyError, TypeError, ValueError) as error:
        raise ArtifactError(
            f"The ranking's held-out scores cannot be read ({type(error).__name__}).",
            remedy="Build the ranking again.",
        ) from None
