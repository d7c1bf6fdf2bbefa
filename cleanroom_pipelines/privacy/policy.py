"""The parameters of the privacy policy.

Lives here: `ReleasePolicy`, and its text in a room's configuration and with every answer.
Add here when the policy gets another parameter.
Keep out: applying it (release), prices (prices), storing the ledger (`catalog`).
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
    """Threshold and rounding of published numbers that depend on both organisations' data.

    Args:
        threshold: Noised counts below it are not shown.
        rounding: Counts are rounded to multiples of it; the threshold is such a multiple.
        indicative_below: Counts below it are shown, but marked as uncertain.

    Raises:
        UsageError: The threshold is not a multiple of the rounding, or one of them is below 1.
    """

    threshold: int = 40
    rounding: int = 10
    indicative_below: int = 150

    def __post_init__(self) -> None:
        if min(self.threshold, self.rounding) < 1 or self.threshold % self.rounding:
            raise UsageError(
                "The privacy policy's threshold is not a positive multiple of its rounding.",
                remedy="Change the threshold or the rounding.",
            )

    def noise(self, variance: Fraction) -> dict[str, Any]:
        """Describe the noise of an answer, as JSON values that are published with it.

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
        """Return the policy in numbers and words, as shown in a room's configuration.

        Args:
            tenths: The pair's budget, in tenths of a unit.
        """
        bound = bound_as_dict(tenths)
        return {
            "noise": self.noise(COUNT.variance),
            **vars(self),
            "units": in_units(tenths),
            "bound": bound,
            "statements": [
                bound["statement"],
                "Every count that depends on both organisations' data gets random noise: "
                f"{self.noise(COUNT.variance)['statement']} for {in_units(COUNT.tenths)} units, "
                f"{self.noise(INSIGHTS.variance)['statement']} in a table of insights for "
                f"{in_units(INSIGHTS.tenths)}. The same question on the same data gets the same answer.",
                f"A noised count below {self.threshold} is not shown; all others are rounded to the nearest "
                f"{self.rounding}. Counts below {self.indicative_below} are indicative only.",
                "Shares, ratios, curves and lookalike lists are computed from these numbers only and are free.",
                f"The two organisations that provide the data share {in_units(tenths)} units across all their "
                "rooms and jobs. An answer that was paid for is free for everyone who may see it. New rooms, new "
                "data and new participants do not add units; only the approval of both providers does.",
                "Some outputs reveal people by design and are not protected: remarketing and exclusion lists, and "
                "full-ensemble lookalikes. Each requires the consent of the party whose data it reveals.",
            ],
        }
