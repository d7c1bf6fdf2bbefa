"""Options: the closed lists that the fields of a resource choose from.

Lives here: one enum per list, with the words of the AWS API where it has them.
Add here when a field gets another choice.
Keep out: statuses and causes, which nobody chooses (`records.py`); sizes and seed modes (`audiences.sizes`);
roles of columns (`uploads.roles`).
"""

from enum import StrEnum


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


class Origin(StrEnum):
    """The way in by which a generation job was started."""

    INBOX = "inbox"
    APPLY = "apply"
    UI = "ui"
    CLI = "cli"
    API = "api"
