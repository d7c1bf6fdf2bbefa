"""Measure how accurate counts with noise are.

Lives here: `accuracy_of`, which releases known counts many times.
Add here when the error of another published number must be measured.
Keep out: the noise itself.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from cleanroom_pipelines.privacy.policy import ReleasePolicy
from cleanroom_pipelines.privacy.prices import BASE_COUNT, BASE_TABLE, COUNT, INSIGHTS, Price
from cleanroom_pipelines.privacy.release import Released, Releaser, affinity_ratio

TRUE_SIZES = (50, 100, 150, 300, 1_000, 10_000)
TRUE_AFFINITY = 2.0

_POLICY = ReleasePolicy()
# Errors of a known room: no secret is behind it, and the table is the same wherever it is made.
_KEY = bytes(32)
# Of the room that affinity is measured in: the cell holds a tenth of the overlap and a twentieth of the matchable.
_OVERLAPS_OF_A_CELL = 10
_MATCHABLE_OF_AN_OVERLAP = 20


@dataclass(frozen=True)
class Accuracy:
    """The errors of published numbers for cells of one true size.

    Args:
        true_size: Users of an audience, or of a cell's overlap.
        share_told: The share of cases in which the audience's size is shown at all, 0 to 1.
        size_median_error: Relative error of the shown size that half of the answers stay within.
        size_error_at_90: Relative error that nine of ten stay within.
        affinity_median_error: The same for the affinity ratio of the cell.
        affinity_error_at_90: The same for the affinity ratio of the cell.
    """

    true_size: int
    share_told: float
    size_median_error: float
    size_error_at_90: float
    affinity_median_error: float
    affinity_error_at_90: float


def accuracy_of(
    true_size: int,
    policy: ReleasePolicy = _POLICY,
    n_draws: int = 4_000,
    *,
    count: Price = COUNT,
    table: Price = INSIGHTS,
) -> Accuracy:
    """Measure the errors of sizes, and of the affinity ratios of cells, for one true size.

    The affinity ratio is that of a cell with `true_size` users of the overlap, which are a tenth of the overlap.
    They are twice as common there as among the matchable users, who are 20 times as many as the overlap. The ratio
    is published with two digits, so its errors come in steps of 5 %.

    Args:
        true_size: Users in the cell, large enough to be shown in some cases.
        policy: The policy.
        n_draws: The number of rooms to measure in.
        count: The price of a size, and of the overlap that a table is compared with.
        table: The price of a table of insights.
    """
    releaser = Releaser(_KEY, "accuracy", False, policy)
    n_overlap = true_size * _OVERLAPS_OF_A_CELL
    n_matchable = n_overlap * _MATCHABLE_OF_AN_OVERLAP
    n_matchable_in_cell = round(n_matchable * true_size / n_overlap / TRUE_AFFINITY)
    size_errors, affinity_errors = [], []
    for number in range(n_draws):
        released = _counter(releaser, f"{true_size} {number}")
        size = released(true_size, "size", count)
        affinity = affinity_ratio(
            released(true_size, "cell", table),
            released(n_overlap, "overlap", count),
            released(n_matchable_in_cell, "matchable in cell", BASE_TABLE),
            released(n_matchable, "matchable", BASE_COUNT),
        )
        if size.value is not None:
            size_errors.append(abs(size.value - true_size) / true_size)
        if affinity is not None:
            affinity_errors.append(abs(affinity - TRUE_AFFINITY) / TRUE_AFFINITY)
    return Accuracy(
        true_size,
        len(size_errors) / n_draws,
        _quantile(size_errors, 0.5),
        _quantile(size_errors, 0.9),
        _quantile(affinity_errors, 0.5),
        _quantile(affinity_errors, 0.9),
    )


def _counter(releaser: Releaser, question: str) -> Callable[[int, str, Price], Released]:
    def count(true_count: int, cell: str, price: Price) -> Released:
        return releaser.count(true_count, question=question, cell=cell, price=price)

    return count


def _quantile(values: Sequence[float], share: float) -> float:
    """Return the smallest value that at least this share does not exceed; NaN if no value was shown."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else float("nan")
