"""The one way a count that depends on both sides leaves.

Lives here: `Releaser`, what it gives (`Released`), and the ratios and curves made of that.
Add here when something else about both sides is told.
Keep out: counting; drawing noise (noise); what a question costs (ledger).

The order is binding: noise first, then the threshold on the noised count, then rounding. A threshold on the true
count would be an oracle: 24 known ids and x show a number exactly if x matches.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from fractions import Fraction
from typing import Any, NoReturn, Self

from cleanroom_pipelines.errors import UsageError
from cleanroom_pipelines.privacy.noise import draw_noise
from cleanroom_pipelines.privacy.policy import ReleasePolicy
from cleanroom_pipelines.privacy.prices import COUNT, Price

CURVE_POINTS = 101
_POLICY = ReleasePolicy()


class Reason(StrEnum):
    """Why a count is not told."""

    TOO_FEW = "too_few"
    HIDDEN = "hidden"


class Released:
    """A count as it may be told: with noise, or not at all. Of the true count nothing is kept.

    It is made by a `Releaser` only, does not change, and becomes no JSON, pickle or dictionary by accident: a
    hidden count is still there for ratios and decisions, and only `value` and `reason` are for documents.
    """

    __slots__ = ("_is_hidden", "_policy", "_rounded", "_variance")

    _is_hidden: bool
    _policy: ReleasePolicy
    _rounded: int | None
    _variance: Fraction

    @classmethod
    def _of(cls, noised: int, policy: ReleasePolicy, variance: Fraction, *, is_hidden: bool) -> Self:
        made = cls.__new__(cls)
        is_told = noised >= policy.threshold
        object.__setattr__(made, "_rounded", _rounded(noised, policy.rounding) if is_told else None)
        object.__setattr__(made, "_policy", policy)
        object.__setattr__(made, "_is_hidden", is_hidden)
        object.__setattr__(made, "_variance", variance)
        return made

    def __init__(self) -> None:
        raise TypeError("A released count is made by a Releaser.")

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError("A released count does not change.")

    @property
    def value(self) -> int | None:
        """The count, a multiple of the rounding; None where it is not told."""
        return None if self._is_hidden else self._rounded

    @property
    def reason(self) -> Reason | None:
        """Why there is no value; None if there is one. A hidden count says nothing more than that it is hidden."""
        if self._is_hidden:
            return Reason.HIDDEN
        return Reason.TOO_FEW if self._rounded is None else None

    @property
    def is_indicative(self) -> bool:
        """Whether a count is told that is so small that the noise matters much."""
        value = self.value
        return value is not None and value < self._policy.indicative_below

    def is_enough(self, threshold: int | None = None) -> bool:
        """Whether there are enough users for something, by the same count that is told, or hidden.

        Args:
            threshold: How many are enough; None: the policy's threshold. A lower one is no lower: what is below
                the policy's threshold is not known.
        """
        return self._rounded is not None and (threshold is None or self._rounded >= threshold)

    def scaled(self, part: "Released", whole: "Released") -> "Released":
        """This count times part over whole, as a count of its own; too few where any of them is."""
        if self._rounded is None or part._rounded is None or not whole._rounded:
            return Released._of(0, self._policy, self._variance, is_hidden=self._is_hidden)
        value = round(self._rounded * part._rounded / whole._rounded)
        return Released._of(value, self._policy, self._variance, is_hidden=self._is_hidden)

    def kept(self) -> int | None:
        """The count with its noise, hidden or not, for an artifact; `released` makes it a count again."""
        return self._rounded

    def as_dict(self) -> dict[str, Any]:
        """The count for JSON: value, reason and the noise stated."""
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
        raise TypeError("A released count is written as its value and reason, never pickled.")


@dataclass(frozen=True)
class Releaser:
    """Releases numbers about one content of a pair's data.

    Args:
        key: The pair's key for noise, secret, at least 16 bytes.
        content: Keyed digest of the data that the numbers are of. Other content draws other noise, since with the
            old noise the difference of two answers would be exact.
        hide_absolute_values: Whether counts are told to nobody; ratios and decisions remain.
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
            raise UsageError("The key for noise is too short.", remedy="Derive one from the installation key.")

    def count(self, true_count: int, *, question: str, cell: str = "", price: Price = COUNT) -> Released:
        """Release a count.

        Args:
            true_count: Distinct users (or ids), exact.
            question: The canonical text of the question (`audiences.canonical`).
            cell: Which of the question's counts it is; empty if there is only one.
            price: What the question costs in all, which says how large the noise is.

        Returns:
            The same for the same question, cell and price, as long as the content is the same.
        """
        noised = self.noised(true_count, question=question, cell=cell, price=price)
        return Released._of(noised, self.policy, price.variance, is_hidden=self.hide_absolute_values)

    def noised(self, value: int, *, question: str, cell: str, price: Price) -> int:
        """A whole number with its noise and nothing else; for sums and vectors, and for post-processing.

        Args:
            value: The exact value.
            question: The canonical text of the question.
            cell: Which of the question's values it is.
            price: What the question costs in all.
        """
        parts = [self.content, question, cell, str(price.tenths), str(price.sensitivity)]
        return value + draw_noise(self.key, price.variance, parts)

    def noise_of(self, price: Price) -> dict[str, Any]:
        """What an answer at a price states beside its counts, for JSON."""
        return self.policy.noise(price.variance)


def released(value: int, policy: ReleasePolicy = _POLICY, *, price: Price, is_hidden: bool = False) -> Released:
    """A count derived from released values alone, with threshold and rounding.

    Args:
        value: Made of released values.
        policy: The policy.
        price: Whose noise is in it.
        is_hidden: Whether it is told to nobody.
    """
    return Released._of(value, policy, price.variance, is_hidden=is_hidden)


def ratio(part: Released, whole: Released | int) -> float | None:
    """The share of a released count in another.

    Args:
        part: What is counted.
        whole: What it is part of; a number only where it is a count of the reader's own upload.

    Returns:
        0 to 1 with two significant digits (with noise a part may exceed its whole); None if either has too few.
    """
    share = _share(part, whole)
    return None if share is None else two_significant_digits(share)


def affinity_ratio(
    overlap_cell: Released, overlap: Released, matchable_cell: Released, matchable: Released
) -> float | None:
    """How much more common a cell is in the overlap than among all matchable users.

    Args:
        overlap_cell: Users of the overlap in the cell.
        overlap: Users of the overlap.
        matchable_cell: Matchable users in the cell.
        matchable: Matchable users.

    Returns:
        Share in the overlap ÷ share among the matchable, two significant digits; None if any has too few.
    """
    in_overlap, in_matchable = _share(overlap_cell, overlap), _share(matchable_cell, matchable)
    if in_overlap is None or not in_matchable:
        return None
    return two_significant_digits(in_overlap / in_matchable)


def rate(value: float) -> float:
    """A rate of held-out users, such as an AUC or a true-positive rate: 0 to 1, three decimals.

    Raises:
        UsageError: It is no number.
    """
    if not math.isfinite(value):
        raise UsageError("A rate is no number.", remedy="Check that there are users of both kinds.")
    return round(min(1.0, max(0.0, value)), 3)


def curve(values: Sequence[float]) -> tuple[float, ...]:
    """One axis of a ROC curve at 101 fixed points.

    Args:
        values: (101,) rates, 0 to 1.

    Returns:
        (101,) with three decimals.

    Raises:
        UsageError: There are more or fewer points, which would tell where single users stand, or no numbers.
    """
    if len(values) != CURVE_POINTS:
        raise UsageError("A curve has other points than the fixed ones.", remedy=f"Give {CURVE_POINTS} of them.")
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
    # Halves to the even multiple: always up would add half a user to every count on average.
    return round(count / rounding) * rounding
