"""How good a lookalike of a data room is: exact numbers for the operator, and their released form.

Lives here: `room_statistics`, from the held-out source users of a ranking.
Add here when a lookalike's statistics get a further number.
Keep out: formulas (metrics), noise (privacy).
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from cleanroom_pipelines.errors import ArtifactError
from cleanroom_pipelines.similarity import metrics
from cleanroom_pipelines.similarity.rooms import HELD_OUT_FILE, MAX_REACH, MIN_REACH, reach_size

ROC_POINTS = 101


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
        tpr: (101,) share of the held-out source users above the same thresholds.
        reach: One entry per reach from 1 to 30 %.
    """

    n_seed_users: int
    n_users: int
    auc: float
    fpr: tuple[float, ...]
    tpr: tuple[float, ...]
    reach: tuple[ReachStatistics, ...]

    @property
    def n_other_users(self) -> int:
        """Users outside the source audience, the negatives of the test set."""
        return self.n_users - self.n_seed_users


def room_statistics(folder: Path) -> RoomStatistics:
    """Compute the statistics of a ranking.

    Args:
        folder: Where `rank_room` wrote.

    Raises:
        ArtifactError: The ranking's files cannot be read.
    """
    held_out, n_users = _read_held_out(folder / HELD_OUT_FILE)
    n_seed = len(held_out.percentile)
    fpr, tpr = metrics.roc_curve(held_out, ROC_POINTS)
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
        tpr=tuple(tpr.tolist()),
        reach=tuple(reaches),
    )


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
