"""Uploads: the tables that people hand in, and what refuses one as a whole.

Lives here: the three uploads with the errors and codes of each; finding one, checking its columns, times, quotes
and share of bad rows, and the sentence for a file that cannot be read to its end. Validation reports these errors,
training and generation raise them.
Add here when a further upload is handed in, or a further reason refuses one.
Keep out: which cells are usable (`cells`) and the limits of size, which differ by use.

Every error carries the attribute `problem`: "missing", "format", "empty", "unreadable", "columns", "type", "times"
or "damaged".
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import pyarrow as pa

from cleanroom_pipelines.engine import Engine, TableFiles, find_tables
from cleanroom_pipelines.errors import EngineError, InputError, SeedError, StatusCode, TrainingDataError
from cleanroom_pipelines.uploads.cells import MAX_SECONDS, TYPES_IN_WORDS, Column
from cleanroom_pipelines.uploads.roles import Role
from cleanroom_pipelines.uploads.seed_files import MAX_SEED_BYTES

# The engine's failures that are not the file's fault; every other one means that the file cannot be read.
_SPARK_ON_FILES = ("FAILED_READ_FILE", "MALFORMED", "CANNOT_MERGE_SCHEMAS")
_NOT_THE_FILES_FAULT = {
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
_UNIT_FLOORS = ((10**17, "nanoseconds"), (10**14, "microseconds"), (MAX_SECONDS, "milliseconds"))


@dataclass(frozen=True)
class UploadKind:
    """A kind of upload.

    Args:
        what: What it is called in messages.
        error: What is raised when it cannot be used.
        missing: The code if it is not there.
        invalid: The code if it cannot be used.
        too_small: The code if it holds too little.
        too_large: The code if it holds too much.
        unpacked_bytes: The most that it may hold when it is unpacked. None: no limit.
    """

    what: str
    error: type[InputError]
    missing: StatusCode
    invalid: StatusCode
    too_small: StatusCode
    too_large: StatusCode | None = None
    unpacked_bytes: int | None = None

    def refusal(self, message: str, *, remedy: str, problem: str) -> InputError:
        """The error that refuses an upload of this kind."""
        codes = {"missing": self.missing, "too large": self.too_large}
        code = codes.get(problem) or self.invalid
        return self.error(message, remedy=remedy, status_code=code, problem=problem)


INTERACTIONS = UploadKind(
    "interactions table",
    TrainingDataError,
    StatusCode.TRAINING_DATA_NOT_FOUND,
    StatusCode.TRAINING_DATA_INVALID,
    StatusCode.TRAINING_DATA_TOO_SMALL,
)
USERS = UploadKind(
    "users table",
    TrainingDataError,
    StatusCode.TRAINING_DATA_NOT_FOUND,
    StatusCode.TRAINING_DATA_INVALID,
    StatusCode.TRAINING_DATA_TOO_SMALL,
)
SEED = UploadKind(
    "seed",
    SeedError,
    StatusCode.SEED_NOT_FOUND,
    StatusCode.SEED_INVALID,
    StatusCode.SEED_TOO_SMALL,
    StatusCode.SEED_TOO_LARGE,
    MAX_SEED_BYTES,
)


def find_upload(source: str | Path, upload: UploadKind) -> TableFiles:
    """Find the files of an upload.

    Args:
        source: File, folder or glob.
        upload: What it is.

    Raises:
        TrainingDataError: Or SeedError: not there, empty, or of a format or header that cannot be read.
    """
    try:
        return find_tables(source, what=upload.what, unpacked_bytes=upload.unpacked_bytes)
    except InputError as error:
        raise upload.refusal(
            error.message, remedy=error.remedy, problem=error.attributes.get("problem", "unreadable")
        ) from None


def check_columns(tables: TableFiles, declared: Sequence[tuple[str, Role]], upload: UploadKind) -> None:
    """Refuse an upload without a declared column; the names told are the declared ones only.

    Raises:
        TrainingDataError: Or SeedError.
    """
    missing = [name for name, _ in declared if name not in tables.columns]
    if missing:
        raise upload.refusal(
            f"The {upload.what} lacks the declared column{'s' if len(missing) > 1 else ''} "
            f"{', '.join(repr(name) for name in missing)}.",
            remedy="Give CSV a header row, JSON Lines one object per line, and check the spelling of the names.",
            problem="columns",
        )


def check_types(columns: Sequence[Column], upload: UploadKind) -> None:
    """Refuse an upload with a column whose type its role forbids.

    Raises:
        TrainingDataError: Or SeedError.
    """
    misfit = next((column for column in columns if not column.fits), None)
    if misfit:
        raise upload.refusal(
            f"Column {misfit.name!r} of the {upload.what} has type {misfit.type}, but its role {misfit.role} "
            f"takes {TYPES_IN_WORDS[misfit.role]}.",
            remedy="Convert the column, or declare another role.",
            problem="type",
        )


def check_times(column: str, upload: UploadKind, *, n_too_large: int, smallest: int | None, n_rows: int) -> None:
    """Refuse times that are mostly too large for seconds, and tell what they look like.

    Args:
        column: The declared column of the times, which holds numbers.
        upload: What it is.
        n_too_large: Rows whose time is at least `MAX_SECONDS`.
        smallest: The smallest of these times.
        n_rows: All rows.

    Raises:
        TrainingDataError: More than half of the rows have such a time.
    """
    if smallest is None or n_too_large * 2 <= n_rows:
        return
    unit = next(unit for floor, unit in _UNIT_FLOORS if smallest >= floor)
    raise upload.refusal(
        f"Most times in column {column!r} of the {upload.what} are not epoch seconds; they look like {unit}.",
        remedy="Convert them to seconds, or to a timestamp type in parquet.",
        problem="times",
    )


def check_quotes(rejected: pa.Table, upload: UploadKind | None = None) -> None:
    """Refuse text in which a quote is opened and not closed.

    It would otherwise take all rows behind it out of the file, and count as one bad row.

    Args:
        rejected: What `Engine.rejected_lines` told once the text was read.
        upload: What it is; None for a file that the message can call "it".

    Raises:
        TrainingDataError: Or SeedError; without an upload an InputError.
    """
    if not any(rejected["runs_on"].to_pylist()):
        return
    refusal, what = (upload.refusal, f"the {upload.what}") if upload else (InputError, "it")
    raise refusal(
        f"A quote is opened in {what} and not closed, so that the lines behind it cannot be told apart.",
        remedy="Close it, or double the quotes inside quoted cells.",
        problem="damaged",
    )


def count_rejected(engine: Engine, upload: UploadKind) -> int:
    """How many lines of an upload the queries since `Engine.rejected_lines` was last asked skipped.

    Raises:
        TrainingDataError: Or SeedError: one of them is a quote that is not closed.
    """
    rejected = engine.rejected_lines()
    check_quotes(rejected, upload)
    return int(rejected.num_rows)


def exceeds(n_invalid: int, n_rows: int, max_invalid_share: float) -> bool:
    """Whether more rows are invalid than may be. As fractions: 0.29 * 100 is 28.999999999999996."""
    return n_invalid > Fraction(str(max_invalid_share)) * n_rows


@contextmanager
def reading_of(upload: UploadKind) -> Iterator[None]:
    """Turn the engine's failures that are the files' fault into the upload's own error.

    Raises:
        TrainingDataError: Or SeedError: the files could not be read to their end.
    """
    try:
        yield
    except EngineError as error:
        cause = str(error.attributes.get("cause", ""))
        # Spark's errors have names in capitals, DuckDB's are classes.
        if cause in _NOT_THE_FILES_FAULT or (cause.isupper() and not cause.startswith(_SPARK_ON_FILES)):
            raise
        raise upload.refusal(
            f"The {upload.what} could not be read to its end.",
            remedy="Check that each file is complete, of the format its name says, and ends its lines all in the "
            "same way.",
            problem="damaged",
        ) from None
