"""Options: closed lists of values for the fields of resources.

Lives here: one enum per list, with the AWS API's values where it defines them.
Add here when a field gets another option.
Keep out: statuses and causes, which are not settable (`records.py`); sizes and seed modes (`audiences.sizes`);
roles of columns (`uploads.roles`).
"""

from enum import StrEnum


class ShareMetrics(StrEnum):
    """Whether the starter of a job sees its metrics."""

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
    """The entry point through which a generation job was started."""

    INBOX = "inbox"
    APPLY = "apply"
    UI = "ui"
    CLI = "cli"
    API = "api"
