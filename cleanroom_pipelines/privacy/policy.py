"""The numbers of the privacy policy.

Lives here: `ReleasePolicy`, and how it is stated in a room's configuration and beside every answer.
Add here when the policy gets a further number.
Keep out: applying it (release, ledger, deliveries).
"""

from dataclasses import dataclass
from typing import Any

from cleanroom_pipelines.errors import UsageError
from cleanroom_pipelines.privacy.noise import noise_within

_CONFIDENCE = 0.9


@dataclass(frozen=True)
class ReleasePolicy:
    """How numbers that depend on both sides leave a data room.

    Args:
        scale: Scale of the discrete Laplace noise that every count gets, in users, at least 1.
        threshold: Counts below it, with their noise, are not told.
        rounding: Counts are rounded to multiples of it; the threshold is one.
        indicative_below: Counts below it are told, but marked as uncertain.
        budget_units: What a participant may spend in a room.
        most_units_of_a_table: What a table costs at most.
        least_difference: A list that differs by fewer users from an earlier one is that one again.

    Raises:
        UsageError: The numbers do not go together.
    """

    scale: int = 10
    threshold: int = 40
    rounding: int = 10
    indicative_below: int = 150
    budget_units: int = 100
    most_units_of_a_table: int = 10
    least_difference: int = 25

    def __post_init__(self) -> None:
        if min(self.scale, self.threshold, self.rounding) < 1 or self.threshold % self.rounding:
            raise UsageError(
                "The numbers of the privacy policy do not go together.",
                remedy="Give a scale of at least 1, and a threshold that is a multiple of the rounding.",
            )

    @property
    def plus_minus(self) -> int:
        """How far noise takes a count at 90 %, in users, before rounding."""
        return noise_within(self.scale, _CONFIDENCE)

    def noise(self) -> dict[str, Any]:
        """What every answer states beside its numbers, for JSON."""
        return {
            "statement": f"± {self.plus_minus} at {_CONFIDENCE:.0%}".replace("%", " %"),
            "plus_minus": self.plus_minus,
            "confidence": _CONFIDENCE,
            "threshold": self.threshold,
            "rounding": self.rounding,
            "indicative_below": self.indicative_below,
        }

    def as_dict(self) -> dict[str, Any]:
        """The policy in numbers and words, as a room's configuration states it."""
        return {
            "noise_scale": self.scale,
            "noise": self.noise(),
            "threshold": self.threshold,
            "rounding": self.rounding,
            "indicative_below": self.indicative_below,
            "budget_units": self.budget_units,
            "most_units_of_a_table": self.most_units_of_a_table,
            "least_difference_between_lists": self.least_difference,
            "statements": [
                f"Every count that depends on both sides gets random noise, {self.noise()['statement']}; "
                "the same question on the same data gets the same answer.",
                f"A count below {self.threshold}, with its noise, is not told; others are rounded to "
                f"{self.rounding}.",
                f"Counts below {self.indicative_below} are indicative only.",
                "Shares and ratios are made of such counts and have two significant digits.",
                f"Each participant may spend {self.budget_units} units in this room. The size of an audience or a "
                "row of the overlap costs 1; a table costs as many as there are cells that one user can enter, at "
                f"most {self.most_units_of_a_table}. New data gives no units back; the owner of the room can.",
                f"A list needs a count of at least {self.threshold}. One that differs by fewer than "
                f"{self.least_difference} users from a list delivered before is that list again.",
                "Exported lists are lists of users: they are not protected by noise.",
            ],
        }
