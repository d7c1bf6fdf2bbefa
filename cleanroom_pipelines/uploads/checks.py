"""Kinds of uploads, and checks that reject a whole upload.

Lives here: the three kinds of uploads with their errors and codes; finding an upload; choosing the id column of a
seed; checking columns, times, quotes and the share of invalid rows; and the error for files that cannot be read to
their end. Validation reports these errors, training and generation raise them.
Add here when there is a new kind of upload, or a new reason to reject one.
Keep out: usable cells (`cells`), and size limits, which differ by use.

Every error has the attribute `problem`: "missing", "format", "empty", "unreadable", "columns", "type", "times"
or "damaged".
"""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path

import pyarrow as pa

from cleanroom_pipelines.engine import TableFiles, find_tables
from cleanroom_pipelines.errors import EngineError, InputError, SeedError, StatusCode, TrainingDataError
from cleanroom_pipelines.uploads.cells import MAX_SECONDS, REMEDIES, TYPES_IN_WORDS, Column, Rule
from cleanroom_pipelines.uploads.report import ColumnType, ErrorCode, RecordedError, SchemaReport
from cleanroom_pipelines.uploads.roles import Role
from cleanroom_pipelines.uploads.room_headers import is_name, names_user_ids
from cleanroom_pipelines.uploads.seed_files import MAX_SEED_BYTES, SEED_COLUMN

# Engine failures not caused by the file; any other one means that the file cannot be read.
_SPARK_ON_FILES = ("FAILED_READ_FILE", "MALFORMED", "CANNOT_MERGE_SCHEMAS")
_NOT_CAUSED_BY_FILES = {
    "",
    "BinderException",
    "CatalogException",
    "FatalException",
    "InternalException",
    "InterruptException",
    "OutOfMemoryException",
    "ParserException",
    "PermissionException",
}
# "id", "userid", "household_id": names of an id column, and unlikely as ids themselves.
_NAMES_AN_ID = re.compile(r"([a-z]+[ _-])*(user)?id", re.IGNORECASE)
_DAMAGED = (
    "Check that each file is complete, has the format of its suffix, and uses the same line ending throughout."
)
_HEADERS = "CSV needs a header in its first line; JSON Lines need one object per line."
# Error codes of problems with whole uploads; all others are INVALID_FILE_TYPE.
_CODES: dict[str, ErrorCode | None] = {
    "missing": None,
    "rows": None,
    "empty": ErrorCode.EMPTY_FILE,
    "columns": ErrorCode.NOT_ENOUGH_COLUMNS,
    "not enough columns": ErrorCode.NOT_ENOUGH_COLUMNS,
    "too many columns": ErrorCode.TOO_MANY_COLUMNS,
    "times": ErrorCode.INVALID_NUMERIC_RANGE,
    "too small": ErrorCode.INVALID_NUMBER_OF_ROWS,
    "too many": ErrorCode.INVALID_NUMBER_OF_ROWS,
}
_UNIT_FLOORS = ((10**17, "nanoseconds"), (10**14, "microseconds"), (MAX_SECONDS, "milliseconds"))


@dataclass(frozen=True)
class CommonError:
    """The most common error of an upload.

    Args:
        column: Declared name of the column.
        rule: The rule that its cells break.
        n_rows: Rows that break it.
    """

    column: str
    rule: Rule
    n_rows: int


@dataclass(frozen=True)
class UploadKind:
    """A kind of upload, such as a seed, with its error class, status codes and size limit.

    Args:
        what: Name in messages.
        error: Error class for an upload that cannot be used.
        missing: Status code if it is missing.
        invalid: Status code if it cannot be used.
        too_small: Status code if it is too small.
        too_large: Status code if it is too large.
        unpacked_bytes: Maximum unpacked size in bytes. None: no limit.
    """

    what: str
    error: type[InputError]
    missing: StatusCode
    invalid: StatusCode
    too_small: StatusCode
    too_large: StatusCode | None = None
    unpacked_bytes: int | None = None

    def rejection(self, message: str, *, remedy: str, problem: str) -> InputError:
        """Build the error that rejects an upload of this kind."""
        codes = {"missing": self.missing, "too small": self.too_small}
        code = (self.too_large if problem in ("too large", "too many") else codes.get(problem)) or self.invalid
        return self.error(message, remedy=remedy, status_code=code, problem=problem)


INTERACTIONS = UploadKind(
    "interactions table",
    TrainingDataError,
    StatusCode.TRAINING_DATA_NOT_FOUND,
    StatusCode.TRAINING_DATA_INVALID,
    StatusCode.TRAINING_DATA_TOO_SMALL,
)
USERS = replace(INTERACTIONS, what="users table")
SEED = UploadKind(
    "seed",
    SeedError,
    StatusCode.SEED_NOT_FOUND,
    StatusCode.SEED_INVALID,
    StatusCode.SEED_TOO_SMALL,
    StatusCode.SEED_TOO_LARGE,
    MAX_SEED_BYTES,
)


IDS = UploadKind(
    "list of ids", InputError, StatusCode.SEED_NOT_FOUND, StatusCode.SEED_INVALID, StatusCode.SEED_TOO_SMALL
)


def find_upload(source: str | Path, upload: UploadKind) -> TableFiles:
    """Find the files of an upload.

    Args:
        source: File, folder or glob.
        upload: Kind of upload.

    Raises:
        TrainingDataError: Or SeedError: the upload is missing, is empty, or has an unreadable format or header.
    """
    try:
        return find_tables(source, what=upload.what, unpacked_bytes=upload.unpacked_bytes)
    except InputError as error:
        raise upload.rejection(
            error.message, remedy=error.remedy, problem=error.attributes.get("problem", "unreadable")
        ) from None


def choose_seed_column(tables: TableFiles, dataset_column: str = "") -> str:
    """Choose a seed's id column.

    It is the column `user_id` in any letter case; or the column that the training dataset declares as USER_ID; or
    the only column; or the only one of several that is named by a word for a person's id, such as `customer_id`.

    The only column of CSV or JSON Lines needs such a word too, or a name that ends in `id`: any other first line
    may be an id in a list without a header. Taken as a header, it would be lost and shown in reports.

    Args:
        tables: The seed's files.
        dataset_column: Name of the training dataset's USER_ID column; empty if unknown.

    Raises:
        SeedError: No column qualifies, or several do; the attribute `problem` is "columns". The message shows no
            name that was found.
    """
    columns = tables.columns
    if SEED_COLUMN in {name.lower() for name in tables.repeated}:
        return SEED_COLUMN  # check_columns then reports that it occurs twice
    is_only = len(columns) == 1
    for found in (
        [column for column in columns if column.lower() == SEED_COLUMN],
        [column for column in columns if column.lower() == dataset_column.lower()],
        [column for column in columns if names_user_ids(column)],
        [column for column in columns if is_only and _NAMES_AN_ID.fullmatch(column)],
        [column for column in columns if is_only and tables.format == "parquet" and is_name(column)],
    ):
        if len(found) == 1:
            return found[0]
    raise SeedError(
        "The seed's column of ids could not be identified.",
        remedy=f"Name it {SEED_COLUMN!r}, or like the user id column of the training data, or make it the only "
        f"column with a usual name such as 'customer_id'. {_HEADERS}",
        problem="columns",
    )


def check_columns(tables: TableFiles, declared: Sequence[tuple[str, Role]], upload: UploadKind) -> None:
    """Reject an upload that lacks a declared column or has it twice; messages show only declared names.

    Raises:
        TrainingDataError: Or SeedError.
    """
    repeated = [name for name, _ in declared if name in tables.repeated]
    if repeated:
        raise upload.rejection(
            f"The {upload.what} has two columns named {repeated[0]!r}, or names that differ only by case.",
            remedy="Rename or remove one of them.",
            problem="columns",
        )
    missing = [name for name, _ in declared if name not in tables.columns]
    if missing:
        raise missing_columns(missing, upload, f"Check the spelling of the names. {_HEADERS}")


def missing_columns(names: Sequence[str], upload: UploadKind, remedy: str) -> InputError:
    """Build the error for an upload that lacks declared columns."""
    columns = f"column{'s' if len(names) > 1 else ''} {', '.join(map(repr, names))}"
    return upload.rejection(f"The {upload.what} lacks the declared {columns}.", remedy=remedy, problem="columns")


def check_types(columns: Sequence[Column], upload: UploadKind) -> None:
    """Reject an upload with a column whose type does not fit its role.

    Raises:
        TrainingDataError: Or SeedError.
    """
    misfit = next((column for column in columns if not column.fits), None)
    if misfit:
        raise upload.rejection(
            f"Column {misfit.name!r} of the {upload.what} has type {misfit.type}, but its role {misfit.role} "
            f"requires {TYPES_IN_WORDS[misfit.role]}.",
            remedy="Save the column as text in all files."
            if misfit.role.is_id
            else "Convert the column to one of these types in all files, or declare another role.",
            problem="type",
        )


def check_times(column: str, upload: UploadKind, *, n_too_large: int, smallest: int | None, n_rows: int) -> None:
    """Reject a column of times if most are too large to be epoch seconds, and suggest their unit.

    Args:
        column: Declared column with the times as numbers.
        upload: Kind of upload.
        n_too_large: Rows whose time is at least `MAX_SECONDS`.
        smallest: Smallest of these times.
        n_rows: All rows.

    Raises:
        TrainingDataError: More than half of the rows have such a time.
    """
    if smallest is None or n_too_large * 2 <= n_rows:
        return
    unit = next(unit for floor, unit in _UNIT_FLOORS if smallest >= floor)
    raise upload.rejection(
        f"Most times in column {column!r} of the {upload.what} are not epoch seconds; they look like {unit}.",
        remedy="Convert them to seconds, or to a timestamp type in parquet.",
        problem="times",
    )


def check_quotes(rejected: pa.Table, upload: UploadKind | None = None) -> None:
    """Reject text with an unclosed quote.

    All rows after the quote would otherwise be lost and count as one invalid row.

    Args:
        rejected: Result of `Engine.rejected_lines` after reading the text.
        upload: Kind of upload; if None, the message says "the file".

    Raises:
        TrainingDataError: Or SeedError; InputError if `upload` is None.
    """
    if not any(rejected["runs_on"].to_pylist()):
        return
    rejection, what = (upload.rejection, f"The {upload.what}") if upload else (InputError, "The file")
    raise rejection(
        f"{what} has an unclosed quote, so the lines after it cannot be read.",
        remedy="Close the quote, or double the quotes inside quoted cells.",
        problem="damaged",
    )


def invalid_rows_reason(
    upload: UploadKind, n_invalid: int, n_rows: int, max_invalid_share: float, common: CommonError | None
) -> tuple[str, str]:
    """Message and remedy for an upload with too many invalid rows; shows no cell.

    Args:
        upload: Kind of upload. The message about a seed has no counts, since both sides of a job read it.
        n_invalid: Invalid rows, lines that could not be parsed included.
        n_rows: All rows.
        max_invalid_share: The largest allowed share of invalid rows.
        common: The most common error in a cell; None if there is none.
    """
    limit = f"the limit is {max_invalid_share * 100:.4g}%"
    if upload is SEED:
        rows = f"Too many rows of the seed are invalid ({limit})"
    else:
        share = f"{n_invalid / n_rows:.1%}, {limit}"
        rows = f"{n_invalid:,} of {n_rows:,} rows of the {upload.what} are invalid ({share})"
    if common is None:
        return f"{rows}; their lines could not be split into columns.", "Quote cells that contain the separator."
    of_column = "" if upload is SEED else f"in column {common.column!r}, "
    where = f"{of_column}{common.rule.code.value}"
    seen = f" ({common.rule.seen})" if common.rule.seen else ""
    # over the AWS API no one sees a report about a seed
    correct = (
        "Give one user id in each row." if upload is SEED else "Correct the rows listed in the validation report."
    )
    remedy = REMEDIES.get(common.rule.seen, correct)
    return f"{rows}; the most common error is {where}{seen}.", remedy


def exceeds(n_invalid: int, n_rows: int, max_invalid_share: float) -> bool:
    """Whether too many rows are invalid; uses exact fractions, as 0.29 * 100 is 28.999999999999996 in floats."""
    return n_invalid > Fraction(str(max_invalid_share)) * n_rows


def code_of(error: InputError) -> ErrorCode | None:
    """Return the error code of a problem with a whole upload; None if the status code or other errors show it."""
    return _CODES.get(error.attributes.get("problem", ""), ErrorCode.INVALID_FILE_TYPE)


def schema_report(columns: Sequence[Column], misfits: Sequence[Column], sentence: str) -> SchemaReport:
    """Describe the columns of an upload, with an error for each column whose type does not fit.

    Args:
        columns: All columns.
        misfits: The columns of other types.
        sentence: The message, with placeholders for `role` and `types`.
    """
    errors = tuple(
        RecordedError(
            ErrorCode.INVALID_FILE_TYPE,
            sentence.format(role=column.role, types=TYPES_IN_WORDS[column.role]),
            column=column.name,
        )
        for column in misfits
    )
    described = tuple(ColumnType(column.name, column.form or column.role, column.type) for column in columns)
    return SchemaReport(len(errors), errors, described)


@contextmanager
def reading_of(upload: UploadKind, remedy: str = _DAMAGED) -> Iterator[None]:
    """Replace engine errors caused by the uploaded files with the error class of this kind of upload.

    Args:
        upload: Kind of upload.
        remedy: What the message suggests.

    Raises:
        TrainingDataError: Or SeedError: the files could not be read to their end.
    """
    try:
        yield
    except EngineError as error:
        cause = str(error.attributes.get("cause", ""))
        # Spark errors have names in capitals, DuckDB errors are classes.
        if cause in _NOT_CAUSED_BY_FILES or (cause.isupper() and not cause.startswith(_SPARK_ON_FILES)):
            raise
        raise upload.rejection(
            f"The {upload.what} could not be read to its end.",
            remedy=remedy,
            problem="damaged",
        ) from None
