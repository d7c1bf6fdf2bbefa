"""Dense features per user: activity, recency and declared columns.

Lives here: transforming aggregated columns into standardised features.
Add here when a new number per user should be available for every seed.
Keep out: SQL (reading) and items (representation).
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from cleanroom_pipelines.similarity.reading import Feature

Float64 = npt.NDArray[np.float64]

_SECONDS_PER_DAY = 86_400
_LARGEST = 5.0
# A column with values this many standard deviations from its mean is heavy-tailed and is compressed first.
_HEAVY_TAIL = 10.0


def activity_features(has_time: bool) -> list[Feature]:
    """Return the activity features, which every model has, in their order."""
    features = [Feature("interactions", "activity"), Feature("distinct items", "activity")]
    if has_time:
        features += [Feature("days since last interaction", "recency"), Feature("days active", "recency")]
    return features


def activity_columns(
    n_events: npt.NDArray[np.int64],
    n_items: npt.NDArray[np.int64],
    first_time: Float64,
    last_time: Float64,
    newest: int | None,
) -> list[Float64]:
    """Return the columns of `activity_features` before scaling: logarithms of counts and of days.

    Args:
        n_events: (N,) interactions.
        n_items: (N,) distinct items.
        first_time: (N,) epoch seconds, NaN if unknown.
        last_time: (N,) epoch seconds, NaN if unknown.
        newest: Newest event of all, None without times.
    """
    columns = [np.log1p(n_events.astype(np.float64)), np.log1p(n_items.astype(np.float64))]
    if newest is not None:
        columns.append(np.log1p((newest - last_time) / _SECONDS_PER_DAY))
        columns.append(np.log1p((last_time - first_time) / _SECONDS_PER_DAY))
    return columns


@dataclass(frozen=True)
class Scaling:
    """Standardisation to mean 0 and deviation 1, clipped at ±5.

    Heavy tails are compressed with asinh first. Missing values become 0.

    Args:
        mean: Mean of the known values, after compression.
        deviation: Their standard deviation; 0 for a constant column, all of whose values become 0.
        typical_size: Median absolute value of the nonzero values, the divisor before asinh; None without heavy
            tails.
    """

    mean: float
    deviation: float
    typical_size: float | None = None

    @classmethod
    def of(cls, column: Float64) -> "Scaling":
        """Compute the scaling of a whole column; NaN in it means a missing value."""
        values = column[np.isfinite(column)]
        if len(values) == 0 or values.min() == values.max():
            return cls(0.0, 0.0)
        if not is_heavy_tailed(values.min(), values.max(), values.mean(), values.std()):
            return cls(values.mean(), values.std())
        size = np.median(np.abs(values[values != 0]))
        values = np.arcsinh(values / size)
        return cls(values.mean(), values.std(), size)

    def apply(self, column: Float64) -> npt.NDArray[np.float32]:
        """Standardise a column of any users by this scaling; NaN means missing."""
        result = np.zeros(len(column), dtype=np.float32)
        if self.deviation > 0:
            known = np.isfinite(column)
            values = column[known]
            if self.typical_size is not None:
                values = np.arcsinh(values / self.typical_size)
            result[known] = np.clip((values - self.mean) / self.deviation, -_LARGEST, _LARGEST)
        return result


def is_heavy_tailed(smallest: float, largest: float, mean: float, deviation: float) -> bool:
    """Whether a column has values so extreme that its scale must be compressed."""
    return bool(max(largest - mean, mean - smallest) > _HEAVY_TAIL * deviation)


def standardised(column: Float64) -> npt.NDArray[np.float32]:
    """Standardise a whole column by the scaling computed from that column."""
    return Scaling.of(column).apply(column)


def standardised_zero(column: Float64, result: npt.NDArray[np.float32]) -> float | None:
    """Return what the value 0 became when this column was standardised; None if no user has 0."""
    zeros = np.flatnonzero(column == 0)
    return float(result[zeros[0]]) if len(zeros) else None


def carries(standardised_column: npt.NDArray[np.float32], absent: float | None) -> npt.NDArray[np.bool_]:
    """Return which users have a category, given the category's feature after standardisation.

    Args:
        standardised_column: (n,) the feature.
        absent: The standardised value of 0; None if no user has 0, in which case the result is false for all.
    """
    if absent is None:
        return np.zeros(len(standardised_column), dtype=bool)
    # Exactly 0 is the mean, which means "not in the users table".
    return np.asarray((standardised_column > absent + 1e-6) & (standardised_column != 0))


def scatter(
    batches: Iterable[pa.RecordBatch], columns: Sequence[str], n_users: int, missing: float
) -> dict[str, Float64]:
    """Build columns indexed by user number from batches in any order; users without a row get `missing`."""
    result = {column: np.full(n_users, missing) for column in columns}
    for batch in batches:
        number = batch.column("number").to_numpy(zero_copy_only=False)
        for column in columns:
            result[column][number] = batch.column(column).to_numpy(zero_copy_only=False)
    return result
