"""The validation report: counts, error codes and row numbers for one upload.

Lives here: the report's shape, its closed list of error codes, and its text and Markdown forms.
Add here when a report needs another field.
Keep out: validating rows (`uploads.cells`, `schemas`), reading files (`files`), and every cell value.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Annotated, Any, Self

from pydantic import AliasPath, Field, model_serializer

from cleanroom_pipelines.documents import Document
from cleanroom_pipelines.errors import StatusCode
from cleanroom_pipelines.uploads.seed_files import SEED_COLUMN

REPORT_VERSION = "v0"
MAX_RECORDED_ERRORS = 500
_MAX_ROWS_SHOWN = 5


class Outcome(StrEnum):
    """Whether the upload can be used."""

    PASSED = "PASSED"
    FAILED = "FAILED"


class ErrorCode(StrEnum):
    """Reason why a cell, row or file is invalid; a closed list.

    A line that cannot be parsed is reported as NOT_ENOUGH_COLUMNS, or as TOO_MANY_COLUMNS if that is the cause.
    """

    EMPTY_CELL = "EMPTY_CELL"
    PLACEHOLDER = "PLACEHOLDER"
    UNEXPECTED_ID = "UNEXPECTED_ID"
    INVALID_INTEGER_FORMAT = "INVALID_INTEGER_FORMAT"
    INVALID_FLOAT_FORMAT = "INVALID_FLOAT_FORMAT"
    INVALID_NUMBER_FORMAT = "INVALID_NUMBER_FORMAT"
    INVALID_EMAIL_FORMAT = "INVALID_EMAIL_FORMAT"
    INVALID_ISO_DATE_FORMAT = "INVALID_ISO_DATE_FORMAT"
    INVALID_SHA256_HEX_FORMAT = "INVALID_SHA256_HEX_FORMAT"
    INVALID_PHONE_E164_NUMBER = "INVALID_PHONE_E164_NUMBER"
    INVALID_NUMERIC_RANGE = "INVALID_NUMERIC_RANGE"
    NOT_ENOUGH_COLUMNS = "NOT_ENOUGH_COLUMNS"
    TOO_MANY_COLUMNS = "TOO_MANY_COLUMNS"
    EMPTY_FILE = "EMPTY_FILE"
    DUPLICATE_VALUES = "DUPLICATE_VALUES"
    INVALID_FILE_TYPE = "INVALID_FILE_TYPE"
    INVALID_NUMBER_OF_ROWS = "INVALID_NUMBER_OF_ROWS"


MESSAGES: Mapping[ErrorCode, str] = {
    ErrorCode.EMPTY_CELL: "The cell is empty, or its line could not be read.",
    ErrorCode.PLACEHOLDER: "The cell is a placeholder, such as NULL or the hash of an empty text.",
    ErrorCode.UNEXPECTED_ID: "The cell is an e-mail address, a phone number or a hash where a name is expected.",
    ErrorCode.INVALID_INTEGER_FORMAT: "The cell is not a whole number.",
    ErrorCode.INVALID_FLOAT_FORMAT: "The cell is not a number.",
    ErrorCode.INVALID_NUMBER_FORMAT: "The cell is not a number.",
    ErrorCode.INVALID_EMAIL_FORMAT: "The cell is not an e-mail address.",
    ErrorCode.INVALID_ISO_DATE_FORMAT: "The cell is not a date.",
    ErrorCode.INVALID_SHA256_HEX_FORMAT: "The cell is not a SHA-256 hash in hex.",
    ErrorCode.INVALID_PHONE_E164_NUMBER: "The cell is not a phone number in E.164 form.",
    ErrorCode.INVALID_NUMERIC_RANGE: "The number, or the length of the text, is outside the allowed range.",
    ErrorCode.NOT_ENOUGH_COLUMNS: "The line could not be split into its columns, or has too few.",
    ErrorCode.TOO_MANY_COLUMNS: "The line has too many columns.",
    ErrorCode.DUPLICATE_VALUES: "An earlier row has the same key.",
}


@dataclass(frozen=True)
class RecordedError(Document):
    """One error with its code and location, without the cell's value.

    Args:
        code: Error code.
        message: Error message.
        row: Data row, counted from 1 in file order across all files; None for an error of the whole file.
        column: Declared column name; None for an error of the whole row or file.
    """

    code: ErrorCode
    message: str
    row: Annotated[int | None, Field(validation_alias=AliasPath("location", "row"))] = None
    column: Annotated[str | None, Field(validation_alias=AliasPath("location", "column"))] = None

    @model_serializer
    def _with_location(self) -> dict[str, Any]:
        location = {"row": self.row, "column": self.column}
        return {"code": self.code, "location": location, "message": self.message}


@dataclass(frozen=True)
class Errors(Document):
    """Errors of one part of the report: the total, and the first 500 in row order."""

    n_errors: Annotated[int, Field(alias="numErrorsTotal")] = 0
    recorded: Annotated[tuple[RecordedError, ...], Field(alias="recordedErrors")] = ()


@dataclass(frozen=True)
class _OfColumn(Document):
    column: str


@dataclass(frozen=True)
class ColumnReport(Errors, _OfColumn):
    """Errors in the cells of one declared column."""


@dataclass(frozen=True)
class ColumnType(_OfColumn):
    """A declared column's name, role and physical type, which is "text" for any CSV or JSON Lines column."""

    role: str
    type: str


@dataclass(frozen=True)
class SchemaReport(Errors):
    """Declared columns with their types in the files, and an error for each type that the role does not allow."""

    columns: tuple[ColumnType, ...] = ()


@dataclass(frozen=True)
class TableReport(Errors):
    """The upload as a whole: its files, and the lines that could not be parsed.

    Args:
        n_files: Files read.
        n_bytes: Total file size in bytes.
        format: "csv", "jsonl" or "parquet"; empty if nothing could be read.
        n_unknown_columns: Undeclared columns, which are ignored.
        unknown_columns: Names of the undeclared columns. Empty for seeds, and if a declared column is missing:
            the file may then have no header, and the names would be its first row.
        n_users: Unique users of the valid rows, or unique ids of a seed.
        n_users_with_two: Users with at least two valid rows.
        warnings: What may be wrong although the upload can be used.
        n_ids_changed: Matching ids in valid rows that normalization changed; missing in reports written before
            matching ids existed.
    """

    n_files: Annotated[int, Field(alias="numFiles")] = 0
    n_bytes: Annotated[int, Field(alias="numBytes")] = 0
    format: str = ""
    n_unknown_columns: Annotated[int, Field(alias="numUnknownColumns")] = 0
    unknown_columns: Annotated[tuple[str, ...], Field(alias="unknownColumns")] = ()
    n_users: Annotated[int, Field(alias="numUsers")] = 0
    n_users_with_two: Annotated[int, Field(alias="numUsersWithTwoRows")] = 0
    n_ids_changed: Annotated[int, Field(alias="numIdsChanged")] = 0
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class UniquenessReport(Errors):
    """Duplicate keys among the valid rows; the first row with a key is kept.

    Duplicates are errors where they are dropped (users tables). In seeds they are only counted.

    Args:
        key_columns: Columns of the key; empty if no key must be unique (interactions).
        n_unique: Distinct keys.
        n_duplicates: Rows that repeat the key of an earlier row.
    """

    key_columns: Annotated[tuple[str, ...], Field(alias="keyColumns")] = ()
    n_unique: Annotated[int, Field(alias="numUnique")] = 0
    n_duplicates: Annotated[int, Field(alias="numDuplicates")] = 0


# Fields of the whole report that its JSON format has in `table`.
_IN_TABLE = ("what", "statusCode", "reason")


@dataclass(frozen=True)
class ValidationReport(Document):
    """Validation result of one upload, without any cell values.

    Args:
        what: Name of the validated upload: "seed", "interactions table", "users table".
        outcome: PASSED: usable after dropping `n_rows_dropped` rows. FAILED: not usable, nothing was ingested.
        n_rows: Data rows, including lines that could not be parsed.
        n_invalid_rows: Rows with at least one error; in a users table duplicates count too.
        n_invalid_rows_by_code: Invalid rows by error code; a row with two codes counts under both.
        columns: Errors by declared column.
        schema: Declared and actual types.
        table: The upload as a whole.
        uniqueness: Duplicates.
        n_rows_dropped: Rows a reader must drop; 0 if FAILED.
        status_code: Status code of a resource that fails because of this report; None if PASSED.
        reason: Why validation failed and what to do, in one or two sentences; empty if PASSED.
    """

    what: str
    outcome: Outcome
    n_rows: Annotated[int, Field(alias="numRowsTotal")] = 0
    n_invalid_rows: Annotated[int, Field(alias="numInvalidRowsTotal")] = 0
    n_invalid_rows_by_code: Annotated[Mapping[ErrorCode, int], Field(alias="numInvalidRowsByErrorCode")] = field(
        default_factory=dict
    )
    columns: tuple[ColumnReport, ...] = ()
    schema: SchemaReport = SchemaReport()
    table: TableReport = TableReport()
    uniqueness: UniquenessReport = UniquenessReport()
    n_rows_dropped: Annotated[int, Field(alias="dropInvalidRows")] = 0
    status_code: Annotated[StatusCode | None, Field(alias="statusCode")] = None
    reason: str = ""

    @property
    def passed(self) -> bool:
        """Whether the upload can be used."""
        return self.outcome is Outcome.PASSED

    @property
    def n_valid_rows(self) -> int:
        """Number of usable rows; in a users table, duplicates are not usable."""
        return self.n_rows - self.n_invalid_rows

    def with_warnings(self, *sentences: str, drop: str | None = None) -> Self:
        """Return the report with new warnings in front, and without old warnings that contain the text `drop`."""
        kept = [each for each in self.table.warnings if drop is None or drop not in each]
        return replace(self, table=replace(self.table, warnings=(*sentences, *kept)))

    def failed(self, status_code: StatusCode, reason: str, code: ErrorCode | None = None) -> Self:
        """Return the report of a table that cannot be used.

        Args:
            status_code: The status code.
            reason: What is wrong and what to do.
            code: The error of the table; None if the errors of the rows already show the reason.
        """
        table = self.table
        if code is not None:
            recorded = (RecordedError(code, reason), *table.recorded[: MAX_RECORDED_ERRORS - 1])
            table = replace(table, n_errors=table.n_errors + 1, recorded=recorded)
        return replace(self, outcome=Outcome.FAILED, table=table, status_code=status_code, reason=reason)

    def as_dict(self) -> dict[str, Any]:
        """Return the report in the JSON format of Decentriq's Media API."""
        report = super().as_dict()
        if not report["table"]["warnings"]:
            # as reports were written before there were warnings
            del report["table"]["warnings"]
        report["table"] |= {name: report.pop(name) for name in _IN_TABLE}
        report["numInvalidRowsByErrorCode"] = dict(sorted(report["numInvalidRowsByErrorCode"].items()))
        report["dropInvalidRows"] = {"numInvalidRowsDropped": report["dropInvalidRows"]}
        return {"version": REPORT_VERSION, "report": report}

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> Self:
        """Read a report from the shape `as_dict` returns.

        Raises:
            ValueError: The report has another version.
        """
        if value.get("version") != REPORT_VERSION:
            raise ValueError("The validation report has an unsupported version.")
        report, table = dict(value["report"]), dict(value["report"]["table"])
        report |= {name: table.pop(name) for name in _IN_TABLE} | {"table": table}
        report["dropInvalidRows"] = report["dropInvalidRows"]["numInvalidRowsDropped"]
        return super().from_dict(report)


def report_sentence(report: ValidationReport) -> str:
    """Summarize a report: one sentence with its warnings or, if the upload failed, the reason."""
    if not report.passed:
        return report.reason
    parts = [f"{report.n_valid_rows:,} of {report.n_rows:,} rows are usable"]
    if report.n_invalid_rows:
        parts.append(f"{report.n_invalid_rows:,} are dropped ({report.n_invalid_rows / report.n_rows:.2%})")
    if keys := report.uniqueness.key_columns:
        unique = "unique rows" if len(keys) > 1 else "unique ids"
        if report.what == "seed" and keys != (SEED_COLUMN,):
            unique += f" in column {keys[0]!r}"
        parts.append(f"{report.uniqueness.n_unique:,} {unique}, {report.uniqueness.n_duplicates:,} duplicates")
    elif report.table.n_users:
        parts.append(f"{report.table.n_users:,} users")
    warnings = "".join(f" Warning: {warning}" for warning in report.table.warnings)
    return f"The {report.what} is valid: {'; '.join(parts)}.{warnings}"


def report_markdown(report: ValidationReport) -> str:
    """Render the report as Markdown: summary, errors by column and code with their first rows, and columns."""
    lines = [f"**{report.outcome.value}.** {_text(report_sentence(report))}", ""]
    if report.table.format:
        files = "1 file" if report.table.n_files == 1 else f"{report.table.n_files:,} files"
        lines += [f"Read {files} ({report.table.format}, {report.table.n_bytes:,} bytes).", ""]
    rows = _error_rows(report)
    if rows:
        lines += ["| column | error | errors | first rows |", "|---|---|--:|---|", *rows, ""]
    else:
        lines += ["No errors.", ""]
    if report.table.n_unknown_columns:
        names = ", ".join(_code(name) for name in report.table.unknown_columns)
        n_unknown = report.table.n_unknown_columns
        ignored = "1 undeclared column is" if n_unknown == 1 else f"{n_unknown:,} undeclared columns are"
        lines += [f"{ignored} ignored{names and ': '}{names}.", ""]
    if report.schema.columns:
        lines += ["| column | role | type |", "|---|---|---|"]
        lines += [f"| {_code(each.column)} | {each.role} | {each.type} |" for each in report.schema.columns]
    return "\n".join(lines).strip() + "\n"


def _error_rows(report: ValidationReport) -> list[str]:
    groups: list[tuple[str, Errors]] = [(_code(column.column), column) for column in report.columns]
    groups += [
        ("types", report.schema),
        ("whole row or file", report.table),
        ("uniqueness", report.uniqueness),
    ]
    rows = []
    for name, errors in groups:
        codes = sorted({error.code for error in errors.recorded})
        for code in codes:
            found = [error for error in errors.recorded if error.code is code]
            # Only the first 500 errors are recorded, so beyond that the total is exact but the split is not.
            n_total = len(found) if errors.n_errors == len(errors.recorded) else None
            count = f"{n_total:,}" if n_total is not None else f"≥ {len(found):,} of {errors.n_errors:,}"
            numbers = [f"{error.row:,}" for error in found if error.row is not None]
            more = ", …" if len(numbers) > _MAX_ROWS_SHOWN else ""
            rows.append(f"| {name} | {code.value} | {count} | {', '.join(numbers[:_MAX_ROWS_SHOWN])}{more} |")
    return rows


def _code(name: str) -> str:
    return "`" + _text(name).replace("`", "'") + "`"


def _text(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
