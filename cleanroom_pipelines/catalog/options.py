"""Options: the closed lists that the fields of a resource choose from, and audience sizes.

Lives here: one enum per list, with the words of the AWS API where it has them.
Add here when a field gets another choice.
Keep out: statuses and causes, which nobody chooses (`records.py`).
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Self

from cleanroom_pipelines.errors import UsageError

MAX_ABSOLUTE_SIZE = 20_000_000


class ColumnRole(StrEnum):
    """What a column of a table means (source: `columnTypes` of the AWS API)."""

    USER_ID = "USER_ID"
    ITEM_ID = "ITEM_ID"
    TIMESTAMP = "TIMESTAMP"
    CATEGORICAL_FEATURE = "CATEGORICAL_FEATURE"
    NUMERICAL_FEATURE = "NUMERICAL_FEATURE"


class SizeType(StrEnum):
    """What the value of an audience size counts."""

    PERCENTAGE = "PERCENTAGE"
    ABSOLUTE = "ABSOLUTE"


class ShareMetrics(StrEnum):
    """Whether the one who starts a job sees its metrics."""

    ALL = "ALL"
    NONE = "NONE"


class ExportFormat(StrEnum):
    """The file format of an export."""

    JSONL = "jsonl"
    CSV = "csv"
    PARQUET = "parquet"


class ChildTagPolicy(StrEnum):
    """Whether jobs inherit the tags of their configured audience model."""

    FROM_PARENT_RESOURCE = "FROM_PARENT_RESOURCE"
    NONE = "NONE"


class SeedMode(StrEnum):
    """Where the seed's users stand in the audience (`contracts/similarity.md`)."""

    EXCLUDED = "excluded"
    FIRST = "first"
    IN_PLACE = "in_place"


class Origin(StrEnum):
    """The way in by which a generation job was started."""

    INBOX = "inbox"
    APPLY = "apply"
    UI = "ui"
    CLI = "cli"
    API = "api"


@dataclass(frozen=True)
class AudienceSize:
    """How many users an audience holds.

    Attributes:
        type: Percent of the scored users, or a count of users.
        value: 1 to 100 percent, or 1 to 20,000,000 users.
    """

    type: SizeType
    value: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read a size as people write it: `5%` or `5000`.

        Raises:
            UsageError: Neither form, or out of range.
        """
        digits, is_percentage = text.strip().removesuffix("%"), text.strip().endswith("%")
        if not (digits.isascii() and digits.isdigit()):
            raise UsageError("An audience size cannot be read.", remedy="Write a size as 5% or 5000.")
        size = cls(SizeType.PERCENTAGE if is_percentage else SizeType.ABSOLUTE, int(digits))
        size.validate()
        return size

    def validate(self) -> None:
        """Raises UsageError unless the value is within the range of its type."""
        largest = 100 if self.type is SizeType.PERCENTAGE else MAX_ABSOLUTE_SIZE
        if not 1 <= self.value <= largest:
            raise UsageError(
                "An audience size is out of range.",
                remedy=f"Give 1% to 100%, or 1 to {MAX_ABSOLUTE_SIZE:,} users.",
            )

    def __str__(self) -> str:
        return f"{self.value}%" if self.type is SizeType.PERCENTAGE else str(self.value)
