"""Audience sizes, and the placement of seed users in an audience.

Lives here: parsing audience sizes and lists of them, and the seed modes.
Add here when audiences can be cut in another way.
Keep out: the sizes a configured model allows (`catalog.specs`) and the cut itself (`similarity.ranking`).
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
    """The unit of an audience size."""

    PERCENTAGE = "PERCENTAGE"
    ABSOLUTE = "ABSOLUTE"


class SeedMode(StrEnum):
    """Placement of seed users in an audience.

    excluded: left out and replaced by the next-ranked users. first: before all others, shuffled, without score
    (AWS includeSeedInOutput). in_place: ranked by their out-of-fold score (Media's default).
    """

    EXCLUDED = "excluded"
    FIRST = "first"
    IN_PLACE = "in_place"


@dataclass(frozen=True)
class AudienceSize:
    """An audience size: a percentage of all scored users, or a number of users.

    Args:
        type: The unit of the value.
        value: 0 < value ≤ 100 for percentages, a whole number of at least 1 for users. A whole percentage is
            stored as an int, so that 5 % and 5.0 % are equal.

    Raises:
        UsageError: The value is out of range.
    """

    type: SizeType
    value: int | float

    def __post_init__(self) -> None:
        if self.type is SizeType.PERCENTAGE:
            if not 0 < self.value <= 100:
                raise UsageError(
                    "A percentage audience size must be above 0 and at most 100.", remedy="Write it as 5%."
                )
        elif self.value < 1 or self.value != int(self.value):
            raise UsageError("An audience size must be a whole number of at least 1.", remedy="Write it as 5000.")
        if self.is_whole:
            object.__setattr__(self, "value", int(self.value))

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse a size such as `5%`, `0.5%` or `5000`.

        Raises:
            UsageError: The format is invalid, or the value is out of range.
        """
        text = text.strip()
        if percentage := _PERCENTAGE.fullmatch(text):
            return cls(SizeType.PERCENTAGE, float(percentage.group(1)))
        if _ABSOLUTE.fullmatch(text):
            return cls(SizeType.ABSOLUTE, int(text))
        raise UsageError("An audience size is invalid.", remedy="Write it as 5% or 5000.")

    @property
    def is_whole(self) -> bool:
        """Whether the value is a whole number, as the AWS API requires."""
        return self.value == int(self.value)

    def n_users(self, population: int) -> int:
        """Number of users: an absolute size itself, or a percentage of `population`, rounded down, at least 1."""
        if self.type is SizeType.ABSOLUTE:
            return int(self.value)
        # Decimal text keeps 0.07 % of 10,000 at 7: binary floats would give 6.999….
        return max(1, int(Fraction(str(self.value)) * population / 100))

    def __str__(self) -> str:
        return f"{self.value}%" if self.type is SizeType.PERCENTAGE else str(self.value)


DEFAULT_SIZES = tuple(AudienceSize(SizeType.PERCENTAGE, value) for value in (1, 5, 10, 20))


def parse_sizes(text: str) -> tuple[AudienceSize, ...]:
    """Parse a list of 1 to 25 different sizes such as `1%,5%,10%`.

    Raises:
        UsageError: A size is 0, above 100 % or repeated, or there are none or more than 25.
    """
    return check_sizes(AudienceSize.parse(part) for part in text.split(",") if part.strip())


def check_sizes(sizes: Iterable[AudienceSize]) -> tuple[AudienceSize, ...]:
    """Return the sizes after checking that there are 1 to 25 different ones.

    Raises:
        UsageError: There are none or more than 25, or one is repeated.
    """
    checked = tuple(sizes)
    if not 1 <= len(checked) <= MAX_SIZES:
        raise UsageError(
            f"{len(checked)} audience sizes were given.", remedy=f"Give 1 to {MAX_SIZES} sizes, such as 1%,5%,10%."
        )
    if len(set(checked)) < len(checked):
        raise UsageError("An audience size is given twice.", remedy="Give each size once.")
    return checked
