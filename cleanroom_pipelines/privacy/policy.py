"""The numbers of the privacy policy.

Lives here: `ReleasePolicy`, and how it is stated in a room's configuration and beside every answer.
Add here when the policy gets a further number.
Keep out: applying it (release), what things cost (prices), keeping what was spent (`catalog`).
"""

from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from cleanroom_pipelines.errors import UsageError
from cleanroom_pipelines.privacy.accounting import PAIR_TENTHS, bound_as_dict
from cleanroom_pipelines.privacy.noise import noise_within
from cleanroom_pipelines.privacy.prices import COUNT, INSIGHTS, in_units

_CONFIDENCE = 0.9


@dataclass(frozen=True)
class ReleasePolicy:
    """How numbers that depend on both sides leave, beside their noise.

    Args:
        threshold: Counts below it, with their noise, are not told.
        rounding: Counts are rounded to multiples of it; the threshold is one.
        indicative_below: Counts below it are told, but marked as uncertain.

    Raises:
        UsageError: The numbers do not go together.
    """

    threshold: int = 40
    rounding: int = 10
    indicative_below: int = 150

    def __post_init__(self) -> None:
        if min(self.threshold, self.rounding) < 1 or self.threshold % self.rounding:
            raise UsageError(
                "The numbers of the privacy policy do not go together.",
                remedy="Give a threshold that is a multiple of the rounding.",
            )

    def noise(self, variance: Fraction) -> dict[str, Any]:
        """What an answer states beside its numbers, for JSON.

        Args:
            variance: σ² of the noise of each of its counts, in users.
        """
        plus_minus = noise_within(variance, _CONFIDENCE)
        return {
            "statement": f"± {plus_minus} at {_CONFIDENCE:.0%}".replace("%", " %"),
            "plus_minus": plus_minus,
            "confidence": _CONFIDENCE,
            **vars(self),
        }

    def as_dict(self, tenths: int = PAIR_TENTHS) -> dict[str, Any]:
        """The policy in numbers and words, as a room's configuration states it.

        Args:
            tenths: What the pair of organisations may spend, in tenths of a unit.
        """
        bound = bound_as_dict(tenths)
        return {
            "noise": self.noise(COUNT.variance),
            **vars(self),
            "units": in_units(tenths),
            "bound": bound,
            "statements": [
                bound["statement"],
                "Every count that depends on both sides gets random noise: "
                f"{self.noise(COUNT.variance)['statement']} for {in_units(COUNT.tenths)} units, "
                f"{self.noise(INSIGHTS.variance)['statement']} in a table of insights for "
                f"{in_units(INSIGHTS.tenths)}. The same question on the same data gets the same answer.",
                f"A count below {self.threshold}, with its noise, is not told; others are rounded to "
                f"{self.rounding}. Counts below {self.indicative_below} are indicative only.",
                "Shares, ratios, curves and lookalike lists are made of such numbers alone and cost nothing more.",
                f"The two organisations that provide the data may spend {in_units(tenths)} units in all their "
                "rooms and jobs together. An answer that was paid is free for all who may see it. New rooms, new "
                "data and new participants give nothing back; more units need the approval of both organisations.",
                "Not protected is what reveals by design: remarketing and exclusion lists, and lookalikes by the "
                "full ensemble. Each exists only with the consent of the party that it reveals.",
            ],
        }
