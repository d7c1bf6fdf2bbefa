"""Sizes: how many users an audience holds, and whether the seed's own are among them.

Lives here: audience sizes as people write them, lists of them, and the seed modes.
Add here when an audience can be cut in another way.
Keep out: which sizes a configured model may have (`catalog.specs`) and the cutting itself (`similarity.ranking`).
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from fractions import Fraction
from typing import Self

from cleanroom_pipelines.errors import UsageError

MAX_SIZES = 25

_PERCENTAGE = re.compile(r"([0-9]{1,15}(?:\.[0-9]{1,15})?)%")
_ABSOLUTE = re.compile(r"[0-9]{1,15}")


class SizeType(StrEnum):
    """What the value of an audience size counts."""

    PERCENTAGE = "PERCENTAGE"
    ABSOLUTE = "ABSOLUTE"


class SeedMode(StrEnum):
    """Where the seed's own users stand in an audience.

    excluded: left out, the cut refills. first: before all others, shuffled, without score (AWS
    includeSeedInOutput). in_place: where their out-of-fold score puts them (Media's default).
    """

    EXCLUDED = "excluded"
    FIRST = "first"
    IN_PLACE = "in_place"


@dataclass(frozen=True)
class AudienceSize:
    """How many users to take: a percentage of all scored users, or a number of them.

    Args:
        type: What the value counts.
        value: 0 < value ≤ 100 for percentages, a whole number of at least 1 for users. A whole percentage is
            kept as an int, so that 5 % and 5.0 % are one size.

    Raises:
        UsageError: The value is out of range.
    """

    type: SizeType
    value: int | float

    def __post_init__(self) -> None:
        if self.type is SizeType.PERCENTAGE:
            if not 0 < self.value <= 100:
                raise UsageError(
                    "An audience size in per cent must be above 0 and at most 100.", remedy="Write it as 5%."
                )
        elif self.value < 1 or self.value != int(self.value):
            raise UsageError("An audience size must be a whole number of at least 1.", remedy="Write it as 5000.")
        if self.is_whole:
            object.__setattr__(self, "value", int(self.value))

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read a size as people write it: `5%`, `0.5%` or `5000`.

        Raises:
            UsageError: None of these forms, or out of range.
        """
        text = text.strip()
        if percentage := _PERCENTAGE.fullmatch(text):
            return cls(SizeType.PERCENTAGE, float(percentage.group(1)))
        if _ABSOLUTE.fullmatch(text):
            return cls(SizeType.ABSOLUTE, int(text))
        raise UsageError("An audience size cannot be read.", remedy="Write it as 5% or 5000.")

    @property
    def is_whole(self) -> bool:
        """Whether the value is a whole number, as the AWS API wants it."""
        return self.value == int(self.value)

    def n_users(self, population: int) -> int:
        """Users requested: max(1, ⌊p·N/100⌋) for percentages of `population`, else the number itself."""
        if self.type is SizeType.ABSOLUTE:
            return int(self.value)
        # Decimal text keeps 0.07 % of 10,000 at 7: binary floats would give 6.999….
        return max(1, int(Fraction(str(self.value)) * population / 100))

    def __str__(self) -> str:
        return f"{self.value}%" if self.type is SizeType.PERCENTAGE else str(self.value)


DEFAULT_SIZES = tuple(AudienceSize(SizeType.PERCENTAGE, value) for value in (1, 5, 10, 20))


def parse_sizes(text: str) -> tuple[AudienceSize, ...]:
    """Read a list such as `1%,5%,10%` of 1 to 25 different sizes.

    Raises:
        UsageError: A size of 0 or above 100 %, a repeated one, none or more than 25.
    """
    return check_sizes(AudienceSize.parse(part) for part in text.split(",") if part.strip())


def check_sizes(sizes: Iterable[AudienceSize]) -> tuple[AudienceSize, ...]:
    """The sizes themselves, if they are 1 to 25 different ones.

    Raises:
        UsageError: None, more than 25, or one repeated.
    """
    checked = tuple(sizes)
    if not 1 <= len(checked) <= MAX_SIZES:
        raise UsageError(
            f"There are {len(checked)} audience sizes.", remedy=f"Give 1 to {MAX_SIZES} of them, as 1%,5%,10%."
        )
    if len(set(checked)) < len(checked):
        raise UsageError("An audience size is given twice.", remedy="Give each size once.")
    return checked
