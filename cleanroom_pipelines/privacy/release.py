"""The one way a count that depends on both sides leaves.

Lives here: `Releaser`, what it gives (`Released`), and the ratios and curves made of that.
Add here when something else about both sides is told.
Keep out: counting; drawing noise (noise); what a question costs (ledger).

The order is binding: noise first, then the threshold on the noised count, then rounding. A threshold on the true
count would be an oracle: 24 known ids and x show a number exactly if x matches.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, NoReturn, Self

from cleanroom_pipelines.errors import UsageError
from cleanroom_pipelines.privacy.noise import draw_noise
from cleanroom_pipelines.privacy.policy import ReleasePolicy

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

    __slots__ = ("_is_hidden", "_policy", "_rounded")

    _is_hidden: bool
    _policy: ReleasePolicy
    _rounded: int | None

    @classmethod
    def _of(cls, noised: int, policy: ReleasePolicy, *, is_hidden: bool) -> Self:
        made = cls.__new__(cls)
        is_told = noised >= policy.threshold
        object.__setattr__(made, "_rounded", _rounded(noised, policy.rounding) if is_told else None)
        object.__setattr__(made, "_policy", policy)
        object.__setattr__(made, "_is_hidden", is_hidden)
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

    def as_dict(self) -> dict[str, Any]:
        """The count for JSON: value, reason and the noise stated."""
        return {"size": self.value, "reason": self.reason and self.reason.value, "noise": self._policy.noise()}

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
    """Releases the counts of one state of a data room.

    Args:
        key: The room's key for noise, secret, at least 16 bytes.
        data_version: The state of the data. A new state draws new noise, since with the old noise the difference
            of two answers would be exact.
        hide_absolute_values: Whether counts are told to nobody; ratios and decisions remain.
        policy: The room's policy.

    Raises:
        UsageError: The key is too short.
    """

    key: bytes = field(repr=False)
    data_version: str
    hide_absolute_values: bool
    policy: ReleasePolicy = _POLICY

    def __post_init__(self) -> None:
        if len(self.key) < 16:
            raise UsageError("The key for noise is too short.", remedy="Derive one from the installation key.")

    def count(self, true_count: int, *, question: str, cell: str = "") -> Released:
        """Release a count.

        Args:
            true_count: Distinct users (or ids), exact.
            question: The canonical text of the question (`audiences.canonical`).
            cell: Which of the question's counts it is; empty if there is only one.

        Returns:
            The same for the same question and cell, as long as the count is the same.
        """
        return self.total({cell: true_count}, question=question)

    def total(self, true_counts: Mapping[str, int], *, question: str) -> Released:
        """Release the sum of counts, each with the noise it has, or would have, when it is released by itself.

        Told beside one of its parts, a sum then reveals no more of that part: noise of its own would be a second
        draw for the same users.

        Args:
            true_counts: Exact counts by cell.
            question: The canonical text of the question.
        """
        noised = sum(n + self._noise(question, cell) for cell, n in true_counts.items())
        return Released._of(noised, self.policy, is_hidden=self.hide_absolute_values)

    def _noise(self, question: str, cell: str) -> int:
        return draw_noise(self.key, self.policy.scale, [self.data_version, question, cell])


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
