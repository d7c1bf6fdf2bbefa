"""How good a lookalike of a data room is: exact numbers for the operator, and their released form.

Lives here: `room_statistics`, from the held-out source users of a ranking, and `released_statistics`.
Add here when a lookalike's statistics get a further number.
Keep out: formulas of recall and AUC (metrics), noise (privacy).

A true positive rate of m users is a multiple of 1 / m, and three decimals of a few of them tell m exactly, hidden
or not. So the curve runs straight between the users instead of stepping at each; it is at most half a user off
(or half of those who tie). What is told of the reaches is read off the released curve and counts, and tells
nothing more.
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
    """What one reach finds.

    Args:
        reach: Per cent of all relevant users, 1 to 30.
        n_users: Users of it, a count.
        tpr: Share of the held-out source users found, 0 to 1.
        fpr: Share of the other users taken, 0 to 1.
    """

    reach: int
    n_users: int
    tpr: float
    fpr: float


@dataclass(frozen=True)
class RoomStatistics:
    """The statistics of one source audience's ranking; exact, so counts and rates leave only when released.

    Args:
        n_seed_users: Users of the source audience, all of them held out once.
        n_users: Addressable users: all relevant ones.
        auc: Chance that a held-out source user stands above another user, 0 to 1.
        fpr: (101,) 0 to 1 in steps of 0.01: decreasing thresholds.
        tpr: (101,) share of the held-out source users above the same thresholds, straight between users.
        reach: One entry per reach from 1 to 30 %.
    """

    n_seed_users: int
    n_users: int
    auc: float
    fpr: tuple[float, ...]
    tpr: tuple[float, ...]
    reach: tuple[ReachStatistics, ...]


def room_statistics(folder: Path) -> RoomStatistics:
    """Compute the statistics of a ranking.

    Args:
        folder: Where `rank_room` wrote.

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
    """The statistics of an ensemble ranking as they may be told where both providers approved it, for JSON.

    Args:
        statistics: Exact ones.
        seed: The released size of the source audience.
        addressable: The released number of all relevant users.

    Returns:
        `auc`, `fpr` and `tpr` (101 each), `reach` (1 to 30 %: `reach`, `size`, `tpr`, `fpr`), `seed_size`,
        `addressable_size`, `test_set_sizes` (`seed`, `others`) and `noise`; sizes are None where they are hidden.
    """
    fpr, tpr = curve(statistics.fpr), curve(statistics.tpr)
    share = ratio(seed, addressable) or 0.0
    # The share of all users above each threshold: rises with it, so a reach has one place on the curve.
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
    """The size of a reach by the released count of all users, itself subject to threshold and rounding."""
    kept = None if addressable.value is None else reach_size(reach, addressable.value)
    return None if kept is None else released(kept, price=BASE_COUNT).value


def others_of(seed: Released, addressable: Released) -> int | None:
    """The users outside the source audience, by the released counts."""
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
            f"The ranking's held-out scores cannot be read ({type(error).__name__}).", remedy="Rank again."
        ) from None
