"""The only way to publish a count that depends on both organisations' data.

Lives here: `Releaser`, its result `Released`, and the ratios and curves computed from results.
Add here when another number about both organisations' data is published.
Keep out: counting; drawing noise (noise); prices of questions (prices).

The order is binding: noise first, then the threshold on the noised count, then rounding. A threshold on the true
count would be an oracle: with 24 known ids plus x, a number would appear exactly when x matches.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from fractions import Fraction
from statistics import NormalDist
from typing import Any, NoReturn, Self

from cleanroom_pipelines.errors import UsageError
from cleanroom_pipelines.privacy.noise import draw_noise
from cleanroom_pipelines.privacy.policy import ReleasePolicy
from cleanroom_pipelines.privacy.prices import COUNT, Price

CURVE_POINTS = 101
_WITHIN = NormalDist().inv_cdf(0.95)  # standard deviations of ± at 90 %
_POLICY = ReleasePolicy()


class Reason(StrEnum):
    """The reason a count is not shown."""

    TOO_FEW = "too_few"
    HIDDEN = "hidden"


class Released:
    """A count that may be published: with noise, or not at all. The true count is not kept.

    Only a `Releaser` creates it. It is immutable and cannot become JSON, a pickle or a dictionary by accident: a
    hidden count still serves ratios and decisions, and only `value` and `reason` belong in documents.
    """

    __slots__ = ("_is_hidden", "_policy", "_rounded", "_variance")

    _is_hidden: bool
    _policy: ReleasePolicy
    _rounded: int | None
    _variance: Fraction

    @classmethod
    def _of(cls, noised: int, policy: ReleasePolicy, variance: Fraction, *, is_hidden: bool) -> Self:
        count = cls.__new__(cls)
        is_shown = noised >= policy.threshold
        object.__setattr__(count, "_rounded", _rounded(noised, policy.rounding) if is_shown else None)
        object.__setattr__(count, "_policy", policy)
        object.__setattr__(count, "_is_hidden", is_hidden)
        object.__setattr__(count, "_variance", variance)
        return count

    def __init__(self) -> None:
        raise TypeError("Only a Releaser can create a released count.")

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError("A released count is immutable.")

    @property
    def value(self) -> int | None:
        """The count, a multiple of the rounding; None if it is not shown."""
        return None if self._is_hidden else self._rounded

    @property
    def reason(self) -> Reason | None:
        """Why the count is not shown; None if it is shown. HIDDEN takes precedence over TOO_FEW."""
        if self._is_hidden:
            return Reason.HIDDEN
        return Reason.TOO_FEW if self._rounded is None else None

    @property
    def is_indicative(self) -> bool:
        """Whether the count is shown but so small that noise is a large part of it."""
        value = self.value
        return value is not None and value < self._policy.indicative_below

    def is_enough(self, threshold: int | None = None) -> bool:
        """Whether the released count, even if it is not shown, reaches a threshold.

        Args:
            threshold: The number of users required; None for the policy's threshold. A lower one has no effect,
                because counts below the policy's threshold are unknown.
        """
        return self._rounded is not None and (threshold is None or self._rounded >= threshold)

    def scaled(self, part: "Released", whole: "Released") -> "Released":
        """Return this count times `part` divided by `whole`; TOO_FEW if any of the three counts is TOO_FEW."""
        if self._rounded is None or part._rounded is None or not whole._rounded:
            return Released._of(0, self._policy, self._variance, is_hidden=self._is_hidden)
        value = round(self._rounded * part._rounded / whole._rounded)
        return Released._of(value, self._policy, self._variance, is_hidden=self._is_hidden)

    def _relative_variance(self) -> float:
        """Return the variance of noise and rounding, divided by the squared count."""
        assert self._rounded
        return float(self._variance + Fraction(self._policy.rounding**2, 12)) / self._rounded**2

    def kept(self) -> int | None:
        """Return the count for storage in an artifact, even if the room hides it; `released` restores it."""
        return self._rounded

    def as_dict(self) -> dict[str, Any]:
        """Convert the count to JSON values: value, reason and noise statement."""
        return {
            "size": self.value,
            "reason": self.reason and self.reason.value,
            "noise": self._policy.noise(self._variance),
        }

    def __repr__(self) -> str:
        return f"Released(value={self.value}, reason={self.reason and self.reason.value!r})"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Released):
            return NotImplemented
        mine = self._rounded, self._is_hidden, self._policy
        return mine == (other._rounded, other._is_hidden, other._policy)

    def __hash__(self) -> int:
        return hash((self._rounded, self._is_hidden))

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, _: object) -> Self:
        return self

    def __reduce__(self) -> NoReturn:
        raise TypeError("A released count cannot be pickled. Pickle its `value` and `reason` instead.")


@dataclass(frozen=True)
class Releaser:
    """Adds noise to numbers about two organisations' data; when the data changes, a new releaser is needed.

    Args:
        key: The pair's key for noise, secret, at least 16 bytes.
        content: Keyed digest of the data behind the numbers. Changed data draws new noise; with the old noise, the
            difference of two answers would be exact.
        hide_absolute_values: Whether counts are hidden from everyone; ratios and decisions remain.
        policy: The policy.

    Raises:
        UsageError: The key is too short.
    """

    key: bytes = field(repr=False)
    content: str
    hide_absolute_values: bool
    policy: ReleasePolicy = _POLICY

    def __post_init__(self) -> None:
        if len(self.key) < 16:
            raise UsageError(
                "The noise key is shorter than 16 bytes.", remedy="Derive it from the installation key."
            )

    def count(self, true_count: int, *, question: str, cell: str = "", price: Price = COUNT) -> Released:
        """Release a count.

        Args:
            true_count: Distinct users (or ids), exact.
            question: The canonical text of the question (`audiences.canonical`).
            cell: Which of the question's counts this is; empty if there is only one.
            price: The question's total price, which determines the noise.

        Returns:
            The same count for the same question, cell and price, as long as the content is unchanged.
        """
        noised = self.noised(true_count, question=question, cell=cell, price=price)
        return Released._of(noised, self.policy, price.variance, is_hidden=self.hide_absolute_values)

    def noised(self, value: int, *, question: str, cell: str, price: Price) -> int:
        """Add noise to a whole number, but apply no threshold or rounding; for vectors and further computation.

        Args:
            value: The exact value.
            question: The canonical text of the question.
            cell: Which of the question's values this is.
            price: The question's total price.
        """
        parts = [self.content, question, cell, str(price.tenths), str(price.sensitivity)]
        return value + draw_noise(self.key, price.variance, parts)

    def noise_of(self, price: Price) -> dict[str, Any]:
        """Describe the noise of an answer with this price, as JSON values."""
        return self.policy.noise(price.variance)


def released(value: int, policy: ReleasePolicy = _POLICY, *, price: Price, is_hidden: bool = False) -> Released:
    """Apply threshold and rounding to a count that was computed from released values only.

    Args:
        value: Computed from released values only.
        policy: The policy.
        price: The price whose noise it contains.
        is_hidden: Whether it is hidden from everyone.
    """
    return Released._of(value, policy, price.variance, is_hidden=is_hidden)


def ratio(part: Released, whole: Released | int) -> float | None:
    """Return the share of one released count in another.

    Args:
        part: The numerator.
        whole: The denominator; a plain number only if it counts the reader's own upload.

    Returns:
        0 to 1 with two significant digits, capped because noise may lift a part above its whole; None if either
        is too few.
    """
    share = _share(part, whole)
    return None if share is None else two_significant_digits(share)


def affinity_ratio(
    overlap_cell: Released, overlap: Released, matchable_cell: Released, matchable: Released
) -> float | None:
    """Return a cell's affinity: its share of the overlap divided by its share of all matchable users.

    Args:
        overlap_cell: Users of the overlap in the cell.
        overlap: Users of the overlap.
        matchable_cell: Matchable users in the cell.
        matchable: Matchable users.

    Returns:
        Share in the overlap ÷ share among the matchable, two significant digits; None if any count is too few.
    """
    in_overlap, in_matchable = _share(overlap_cell, overlap), _share(matchable_cell, matchable)
    if in_overlap is None or not in_matchable:
        return None
    return two_significant_digits(in_overlap / in_matchable)


def error_of(value: float | None, *counts: Released | int) -> float | None:
    """Return the margin of error of a ratio of released counts, at 90 % confidence.

    Relative errors of independent counts add up as squares; rounding counts as an error of its own.

    Args:
        value: The ratio; None if it is not shown.
        *counts: Its numerators and denominators; a plain number is exact.

    Returns:
        Two significant digits; None if the ratio is not shown or a count is hidden: its size would follow.
    """
    if value is None or any(isinstance(each, Released) and each.value is None for each in counts):
        return None
    relative = sum(each._relative_variance() for each in counts if isinstance(each, Released))
    return two_significant_digits(_WITHIN * abs(value) * math.sqrt(relative))


def rate(value: float) -> float:
    """Limit a rate over held-out users, such as an AUC, to 0 to 1 and round it to three decimals.

    Raises:
        UsageError: The rate is not finite.
    """
    if not math.isfinite(value):
        raise UsageError(
            "A quality figure could not be computed.",
            remedy="Check that the held-out users include both seed users and others.",
        )
    return round(min(1.0, max(0.0, value)), 3)


def curve(values: Sequence[float]) -> tuple[float, ...]:
    """Round the values of one axis of a ROC curve, given at 101 fixed points.

    Args:
        values: (101,) rates, 0 to 1.

    Returns:
        (101,) with three decimals.

    Raises:
        UsageError: The number of points differs, which could reveal the ranks of single users, or a value is not
            finite.
    """
    if len(values) != CURVE_POINTS:
        raise UsageError(f"A curve does not have {CURVE_POINTS} points.", remedy=f"Give {CURVE_POINTS} values.")
    return tuple(rate(value) for value in values)


def two_significant_digits(value: float) -> float:
    """Round to two significant digits."""
    return float(f"{value:.1e}")


def _share(part: Released, whole: Released | int) -> float | None:
    n_whole = whole._rounded if isinstance(whole, Released) else whole
    if part._rounded is None or not n_whole or n_whole < 0:
        return None
    return min(1.0, part._rounded / n_whole)


def _rounded(count: int, rounding: int) -> int:
    # Halves round to the even multiple: always rounding up would add half a user to every count on average.
    return round(count / rounding) * rounding
