"""Reading and validating one dataset of a data room.

Lives here: the columns of each dataset, validating rows batch by batch, the report.
Add here when there is a new dataset, or a new reason for a dataset to fail.
Keep out: a room's files (`rooms`), valid cells (`room_schemas`), file formats (`room_files`).

The files of a dataset are read once, in batches. Valid rows are written to Parquet files in scratch with their row
numbers, matching ids as keyed digests only. `room_counts` then finds the duplicates.
"""

import errno
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from cleanroom_pipelines.engine import Engine, Runtime, TableFiles, open_engine
from cleanroom_pipelines.errors import (
    EngineError,
    InputError,
    StatusCode,
    StorageFullError,
    TrainingDataError,
    UsageError,
)
from cleanroom_pipelines.identity import (
    Dataset,
    JudgedIds,
    judge_ids,
    judge_user_ids,
    room_digests,
    sha256_hex,
    with_tail,
    without_tail,
)
from cleanroom_pipelines.terms import MatchingId
from cleanroom_pipelines.uploads import cells, checks
from cleanroom_pipelines.uploads.report import (
    MAX_RECORDED_ERRORS,
    ColumnType,
    ErrorCode,
    Outcome,
    RecordedError,
    SchemaReport,
    TableReport,
    ValidationReport,
)
from cleanroom_pipelines.uploads.room_counts import Key, with_counts
from cleanroom_pipelines.uploads.room_files import DecimalTails, RoomFile, column_names, open_room_file, scan_sql
from cleanroom_pipelines.uploads.tally import Recorder, Tally

if TYPE_CHECKING:
    import pyarrow.parquet as pq

    from cleanroom_pipelines.uploads.room_schemas import RoomColumn
    from cleanroom_pipelines.uploads.schemas import CellErrors

# From the kind of id and the ids as uploaded to the hashes for an ad destination; null where it has no hash.
ActivationHasher = Callable[[MatchingId, pa.Array], pa.Array]

# The type of the ids of a seed file of one column; contracts/media.md gives no name.
DEFAULT_AUDIENCE_TYPE = "default"
MAX_BATCH_ROWS = 500_000
CELLS_PER_BATCH = 4_000_000
MIN_BATCH_ROWS = 10_000
_SHARE_OF_ROWS = 0.9


@dataclass(frozen=True)
class RoomUpload:
    """One uploaded file.

    Args:
        dataset: Its dataset.
        path: Its path; the file name is ignored.
        matching_id: Kind of its ids, for MATCHING and SEED_AUDIENCES only.
        n_embeddings: Numbers per row, for EMBEDDINGS only.

    Raises:
        UsageError: `matching_id` or `n_embeddings` is missing, or set for the wrong dataset.
    """

    dataset: Dataset
    path: Path
    matching_id: MatchingId | None = None
    n_embeddings: int | None = None

    def __post_init__(self) -> None:
        has_ids = self.dataset.has_ids
        if has_ids != (self.matching_id is not None):
            raise UsageError(
                f"The dataset {self.dataset} {'needs a' if has_ids else 'cannot have a'} kind of matching id.",
                remedy="Set the kind for matching tables and seed audiences only.",
            )
        if (self.dataset is Dataset.EMBEDDINGS) != bool(self.n_embeddings and self.n_embeddings > 0):
            raise UsageError(
                "Embeddings need a number of dimensions of at least 1; other datasets cannot have one.",
                remedy="Set n_embeddings for embeddings only.",
            )


@dataclass(frozen=True)
class _Rules:
    """A dataset's name in messages, its unique key, and the status codes of its failures."""

    what: str
    key: Key
    invalid: StatusCode
    missing: StatusCode


_BASE = (StatusCode.TRAINING_DATA_INVALID, StatusCode.TRAINING_DATA_NOT_FOUND)
_RULES = {
    Dataset.MATCHING: _Rules("matching table", Key(("user_id", "digest"), ("user_id", "matching_id")), *_BASE),
    Dataset.SEGMENTS: _Rules("segments table", Key(("user_id", "segment"), ("user_id", "segment")), *_BASE),
    Dataset.DEMOGRAPHICS: _Rules("demographics table", Key(("user_id",), ("user_id",)), *_BASE),
    Dataset.EMBEDDINGS: _Rules("embeddings table", Key(("user_id", "scope"), ("user_id", "scope")), *_BASE),
    Dataset.SEED_AUDIENCES: _Rules(
        "seed audiences",
        Key(("digest", "audience_type"), ("matching_id", "audience_type")),
        StatusCode.SEED_INVALID,
        StatusCode.SEED_NOT_FOUND,
    ),
}


@dataclass(frozen=True)
class ReadDataset:
    """A dataset that was read and validated.

    Args:
        dataset: Which dataset.
        report: Its validation report.
        rows: Scratch file of its valid rows, duplicates included: `row_number` and the columns of the room's
            file; None if it failed.
        activation: Scratch file of the hashes for ad destinations; None if there are none.
        n_embeddings: Numbers per row; 0 for other datasets.
    """

    dataset: Dataset
    report: ValidationReport
    rows: TableFiles | None
    activation: TableFiles | None = None
    n_embeddings: int = 0


@dataclass(frozen=True)
class Reading:
    """Settings for reading datasets.

    Args:
        scratch: Existing folder for temporary files; the caller removes it.
        room_key: Secret key of the digests.
        activation: By destination, the function that computes its hashes.
        batch_rows: Maximum rows per batch.
        runtime: Engine, progress and cancellation.
    """

    scratch: Path
    room_key: bytes = field(repr=False)
    activation: Mapping[str, ActivationHasher] = field(default_factory=dict)
    batch_rows: int = MAX_BATCH_ROWS
    runtime: Runtime = Runtime()  # noqa: RUF009 frozen

    def within(self, start: float, end: float) -> "Reading":
        """Return a copy for a part of the work, whose progress runs from `start` to `end`."""
        return replace(self, runtime=self.runtime.part(start, end))


def read_dataset(dataset: Dataset, files: Sequence[RoomUpload], reading: Reading) -> ReadDataset:
    """Read a dataset from its files.

    Args:
        dataset: Which dataset.
        files: Its uploads, in order; several for MATCHING and SEED_AUDIENCES only. Rows are numbered across files.
        reading: Settings.

    Returns:
        The dataset. Invalid files fail the report, not the call.

    Raises:
        CancelledError: The run was cancelled.
        EngineError: The engine failed for a reason other than the files, such as lack of memory.
        StorageFullError: Scratch is full.
    """
    rules = _RULES[dataset]
    part = _Part(dataset, reading)
    try:
        with part.writing():
            for number, upload in enumerate(files):
                part.reading = reading.within(
                    _SHARE_OF_ROWS * number / len(files), _SHARE_OF_ROWS * (number + 1) / len(files)
                )
                part.read(upload)
    except InputError as error:
        return ReadDataset(dataset, _failed_for(part.report(), rules, error), None)
    reading.runtime.report_progress(_SHARE_OF_ROWS, f"{rules.what}: finding duplicates")
    report = part.report()
    if (reason := _no_valid_rows(part.tally, rules)) is not None:
        return ReadDataset(dataset, _failed(report, rules, *reason), None)
    assert part.rows is not None
    report = with_counts(report, part.rows, rules.key, part.tally.row_number, reading.runtime.engine)
    reading.runtime.report_progress(1.0, f"{rules.what}: validated")
    return ReadDataset(
        dataset, replace(report, n_rows_dropped=report.n_invalid_rows), part.rows, part.hashes, part.n_embeddings
    )


# --- Rows ---


class _Part:
    """A dataset being read: totals over its batches, and the files of its valid rows."""

    def __init__(self, dataset: Dataset, reading: Reading) -> None:
        self.dataset = dataset
        self.reading = reading
        self.tally = Tally([])
        self.table = TableReport()
        self.schema = SchemaReport()
        self.columns: Sequence[RoomColumn] = ()
        self.n_embeddings = 0
        folder = Path(tempfile.mkdtemp(prefix=f"{dataset.key}-", dir=reading.scratch))
        self._folder = folder
        self._rows = _Sink(folder / "rows.parquet")
        self._hashes = _Sink(folder / "hashes.parquet")

    @property
    def rows(self) -> TableFiles | None:
        return self._rows.tables

    @property
    def hashes(self) -> TableFiles | None:
        return self._hashes.tables

    @contextmanager
    def writing(self) -> Iterator[None]:
        try:
            yield
        finally:
            self._rows.close()
            self._hashes.close()

    def read(self, upload: RoomUpload) -> None:
        """Read one file.

        Raises:
            InputError: The whole file cannot be used.
        """
        folder = Path(tempfile.mkdtemp(dir=self._folder))
        file = open_room_file(
            upload.path,
            folder,
            sizes=_sizes_of(self.dataset, upload),
            max_bytes=self.reading.runtime.engine.unpacked_bytes,
        )
        formats = dict.fromkeys([*filter(None, self.table.format.split(", ")), file.format])
        self.table = replace(
            self.table,
            n_files=self.table.n_files + 1,
            n_bytes=self.table.n_bytes + file.n_bytes,
            format=", ".join(formats),
        )
        with (
            _file_damage_as_error(),
            open_engine(self.reading.runtime.engine, paths=[folder, upload.path]) as engine,
        ):
            self._read_rows(engine, file, upload, paths=[folder, upload.path])
        for left in folder.iterdir():
            left.unlink()

    def _read_rows(self, engine: Engine, file: RoomFile, upload: RoomUpload, paths: Sequence[Path]) -> None:
        from cleanroom_pipelines.uploads import room_headers, room_schemas

        columns = self._columns_of(engine, file, upload)
        schema = room_schemas.room_schemas(columns)
        select = ", ".join(
            column.select_sql.format(name)
            for column, name in zip(columns, column_names(len(columns)), strict=True)
        )
        n_rows_before = self.tally.n_readable_rows
        batch_rows = min(self.reading.batch_rows, max(MIN_BATCH_ROWS, CELLS_PER_BATCH // len(columns)))
        share_of = _share_done(engine, file)
        stage = f"{_RULES[self.dataset].what}: validating rows"
        engine.rejected_lines()
        tails = DecimalTails(self.reading.runtime.engine, file, len(columns), paths)
        for number, batch in enumerate(engine.batches(f"SELECT {select} FROM upload", rows=batch_rows)):
            share = share_of(batch)
            if number == 0 and file.format == "csv" and room_headers.is_header(columns, _first_row(batch)):
                tails.n_header_rows = 1
                self.warn("The first row holds column names and was skipped.")
                batch = batch.slice(1)  # noqa: PLW2901 the same rows without the header
            self._add_batch(schema, columns, batch, upload.matching_id, tails)
            self.reading.runtime.report_progress(share, stage)
        rejected = engine.rejected_lines()
        self.tally.add_rejected(rejected, n_rows_before, tails.n_header_rows)
        checks.check_quotes(rejected)

    def warn(self, sentence: str) -> None:
        """Add a warning to the report, once."""
        if sentence not in self.table.warnings:
            self.table = replace(self.table, warnings=(*self.table.warnings, sentence))

    def _columns_of(self, engine: Engine, file: RoomFile, upload: RoomUpload) -> "Sequence[RoomColumn]":
        named = _columns_of(self.dataset, file, upload)
        if not file.has_columns(len(named)):
            raise _wrong_column_count(file.n_columns, len(named))
        if self.dataset is Dataset.SEED_AUDIENCES and len(named) == 1:
            self.warn(f"A file has one column only; its ids have the audience type '{DEFAULT_AUDIENCE_TYPE}'.")
        engine.execute(f"CREATE OR REPLACE TEMP VIEW upload AS {scan_sql(file, len(named))}")
        types = cells.physical_types(engine, "upload", file.tables, column_names(len(named)))
        columns = [
            _typed(engine, replace(column, kind=types[name][0]), name)
            for column, name in zip(named, column_names(len(named)), strict=True)
        ]
        self._note_schema(columns, [types[name][1] for name in column_names(len(named))], upload)
        return columns

    def _note_schema(self, columns: "Sequence[RoomColumn]", types: Sequence[str], upload: RoomUpload) -> None:
        self.columns = max(self.columns, columns, key=len)
        self.n_embeddings = upload.n_embeddings or 0
        self.tally.columns += [Recorder() for _ in range(len(self.tally.columns), len(columns))]
        described = tuple(
            ColumnType(
                column.name,
                upload.matching_id if upload.matching_id and column.name == "matching_id" else column.cell,
                # The text of a nested type holds its field names, which may be data.
                type_ if column.fits else column.kind,
            )
            for column, type_ in zip(columns, types, strict=True)
        )
        misfits = [column for column in columns if not column.fits]
        errors = tuple(
            RecordedError(
                ErrorCode.INVALID_FILE_TYPE,
                f"The column must be {column.types_in_words}.",
                column=column.name,
            )
            for column in misfits
        )
        seen = [column for column in described if column not in self.schema.columns]
        self.schema = SchemaReport(len(errors), errors, (*self.schema.columns, *seen))
        if misfits:
            raise InputError(
                f"Column {misfits[0].name!r} has a type that is not allowed.",
                remedy=f"Convert it to {misfits[0].types_in_words}.",
                problem="type",
            )

    def _add_batch(
        self,
        schema: Sequence[Any],
        columns: "Sequence[RoomColumn]",
        batch: pa.RecordBatch,
        kind: MatchingId | None,
        tails: DecimalTails,
    ) -> None:
        from cleanroom_pipelines.uploads import schemas

        errors = schemas.batch_errors(schema, batch)
        arrays = dict(zip([column.name for column in columns], batch.columns, strict=True))
        changed = np.zeros(batch.num_rows, np.bool_)
        for position, column in enumerate(columns):
            if column.is_id:
                ids, judged, found = self._judge(column, position, arrays[column.name], kind, tails)
                errors += found
                if column.name == "user_id":
                    arrays["user_id"] = judged.normal
                elif kind is not None:
                    changed = judged.changed
                    arrays["matching_id"] = ids
                    arrays["digest"] = room_digests(self.reading.room_key, kind.family, sha256_hex(judged))
        valid = _valid_rows(errors, batch.num_rows)
        numbers = self.tally.n_readable_rows + 1 + np.flatnonzero(valid)
        self.tally.add_batch(errors, batch.num_rows)
        self.table = replace(self.table, n_ids_changed=self.table.n_ids_changed + int((changed & valid).sum()))
        kept = {name: array.filter(pa.array(valid)) for name, array in arrays.items()}
        self._rows.write(_room_rows(self.dataset, kept, numbers, kind, columns))
        if kind is not None and "user_id" in kept:
            self._add_hashes(kind, kept)

    def _judge(
        self, column: "RoomColumn", position: int, ids: pa.Array, kind: MatchingId | None, tails: DecimalTails
    ) -> "tuple[pa.Array, JudgedIds, list[CellErrors]]":
        """Return a column's ids without meaningless decimal tails, which of them are valid, and the errors."""
        from cleanroom_pipelines.uploads import room_schemas, schemas

        is_user = column.cell is room_schemas.Cell.USER_ID or kind is None
        may_be_number = is_user or kind in (MatchingId.STRING, MatchingId.PHONE_NUMBER)
        tailed = with_tail(ids) if may_be_number else np.zeros(len(ids), np.bool_)
        removes = bool(tailed.any()) and tails.mean_nothing(position)
        if removes:
            ids = without_tail(ids)
        judged = judge_user_ids(ids) if is_user else judge_ids(kind or MatchingId.STRING, ids)
        errors = [
            schemas.CellErrors(position, ErrorCode(problem.value), rows)
            for problem, rows in judged.problems().items()
        ]
        if removes:
            judged = replace(judged, changed=judged.changed | (tailed & judged.valid))
        elif tailed.any():
            self.warn(
                f"Column {column.name!r} holds decimal numbers mixed with other ids; these rows are invalid. "
                "Save the column as text."
            )
            errors.append(
                schemas.CellErrors(
                    position, ErrorCode.INVALID_INTEGER_FORMAT, np.flatnonzero(tailed & judged.valid)
                )
            )
        return ids, judged, errors

    def _add_hashes(self, kind: MatchingId, kept: Mapping[str, pa.Array]) -> None:
        for destination, hasher in self.reading.activation.items():
            hashes = _hashes_of(destination, hasher, kind, kept["matching_id"])
            names = pa.array([destination] * len(hashes), pa.string())
            table = pa.table({"user_id": kept["user_id"], "destination": names, "hash": hashes})
            self._hashes.write(table.filter(hashes.is_valid()))

    def report(self) -> ValidationReport:
        """Report on the rows read so far."""
        tally = self.tally
        return ValidationReport(
            _RULES[self.dataset].what,
            Outcome.PASSED,
            n_rows=tally.n_rows,
            n_invalid_rows=tally.n_invalid_rows,
            n_invalid_rows_by_code=dict(sorted(tally.n_rows_by_code.items())),
            columns=tuple(
                tally.column_report(position, column.name) for position, column in enumerate(self.columns)
            ),
            schema=self.schema,
            table=tally.with_lines(self.table),
        )


class _Sink:
    """A Parquet file in scratch, created by the first table and extended by the next ones."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stack = ExitStack()
        self._writer: pq.ParquetWriter | None = None
        self._columns: tuple[str, ...] = ()

    @property
    def tables(self) -> TableFiles | None:
        return TableFiles((self._path,), "parquet", self._columns) if self._columns else None

    def write(self, table: pa.Table) -> None:
        import pyarrow.parquet as pq

        try:
            if self._writer is None:
                self._writer = self._stack.enter_context(
                    pq.ParquetWriter(self._path, table.schema, compression="lz4")
                )
                self._columns = tuple(table.column_names)
            if table.num_rows:
                self._writer.write_table(table)
            return
        except (OSError, pa.ArrowException) as error:
            cause, is_full = type(error).__name__, os.strerror(errno.ENOSPC) in str(error)
        # Outside the handler: Arrow's message may quote a cell, and __context__ would keep it.
        if is_full:
            raise StorageFullError("The disk is full.", remedy="Free some space and try again.")
        raise EngineError(f"The valid rows could not be written to scratch ({cause}).")

    def close(self) -> None:
        self._stack.close()


def _columns_of(dataset: Dataset, file: RoomFile, upload: RoomUpload) -> "list[RoomColumn]":
    from cleanroom_pipelines.uploads.room_schemas import Cell, RoomColumn

    columns = {
        Dataset.MATCHING: [("user_id", Cell.USER_ID), ("matching_id", Cell.MATCHING_ID)],
        Dataset.SEGMENTS: [("user_id", Cell.USER_ID), ("segment", Cell.LABEL)],
        Dataset.DEMOGRAPHICS: [("user_id", Cell.USER_ID), ("age", Cell.AGE), ("gender", Cell.GENDER)],
        Dataset.EMBEDDINGS: [
            ("user_id", Cell.USER_ID),
            ("scope", Cell.SCOPE),
            *((f"e{i}", Cell.NUMBER) for i in range(upload.n_embeddings or 0)),
        ],
        Dataset.SEED_AUDIENCES: [("matching_id", Cell.MATCHING_ID), ("audience_type", Cell.LABEL)],
    }[dataset]
    if dataset is Dataset.DEMOGRAPHICS:
        columns = columns[: max(file.n_columns, 1)]
    elif dataset is Dataset.SEED_AUDIENCES and file.is_one_column:
        columns = columns[:1]
    return [RoomColumn(name, cell, cells.CELL) for name, cell in columns]


def _sizes_of(dataset: Dataset, upload: RoomUpload) -> tuple[int, ...]:
    """The numbers of columns that a file of a dataset may have."""
    return {
        Dataset.DEMOGRAPHICS: (3, 2, 1),
        Dataset.SEED_AUDIENCES: (2, 1),
        Dataset.EMBEDDINGS: (2 + (upload.n_embeddings or 0),),
    }.get(dataset, (2,))


def _typed(engine: Engine, column: "RoomColumn", name: str) -> "RoomColumn":
    """Return a column of ids, marked as whole if its decimals all are, and as text if its type is UUID."""
    if column.is_id and column.kind == cells.OTHER:
        types = engine.fetch(f"SELECT typeof({name}) AS type FROM upload LIMIT 1")["type"].to_pylist()
        return replace(column, kind=cells.TEXT) if types == ["UUID"] else column
    if not column.may_be_whole:
        return column
    whole = engine.fetch(f"SELECT {column.are_whole_sql.format(name)} AS whole FROM upload")
    return replace(column, is_whole=whole["whole"][0].as_py())


def _first_row(batch: pa.RecordBatch) -> list[Any]:
    return [column[0].as_py() for column in batch.columns] if batch.num_rows else []


def _room_rows(
    dataset: Dataset,
    kept: Mapping[str, pa.Array],
    numbers: npt.NDArray[np.int64],
    kind: MatchingId | None,
    columns: "Sequence[RoomColumn]",
) -> pa.Table:
    """Select the columns of the room's file from the valid rows of a batch, without matching ids."""
    from cleanroom_pipelines.uploads import room_schemas

    rows: dict[str, pa.Array] = {"row_number": pa.array(numbers, pa.int64())}
    nothing = pa.nulls(len(numbers), pa.string())
    if dataset is Dataset.DEMOGRAPHICS:
        rows["user_id"] = kept["user_id"]
        rows["age"] = room_schemas.normal_ages(kept.get("age", nothing))
        rows["gender"] = _or_null(kept.get("gender", nothing))
    elif dataset is Dataset.EMBEDDINGS:
        rows |= {"user_id": kept["user_id"], "scope": kept["scope"]}
        rows |= {column.name: room_schemas.numbers_of(kept[column.name]) for column in columns[2:]}
    else:
        rows |= {name: array for name, array in kept.items() if name != "matching_id"}
    if dataset is Dataset.SEED_AUDIENCES and len(columns) == 1:
        rows["audience_type"] = pa.array([DEFAULT_AUDIENCE_TYPE] * len(numbers), pa.string())
    if kind is not None:
        rows["kind"] = pa.array([kind.value] * len(numbers), pa.string())
    return pa.table(rows)


def _or_null(texts: pa.Array) -> pa.Array:
    import pyarrow.compute as pc

    return pc.if_else(pc.equal(texts, ""), pa.scalar(None, pa.string()), texts)


def _valid_rows(errors: "Sequence[CellErrors]", n_rows: int) -> npt.NDArray[np.bool_]:
    valid = np.ones(n_rows, np.bool_)
    for error in errors:
        valid[error.rows] = False
    return valid


def _hashes_of(destination: str, hasher: ActivationHasher, kind: MatchingId, ids: pa.Array) -> pa.Array:
    try:
        return hasher(kind, ids)
    except Exception as error:
        cause = type(error).__name__
    # Outside the handler: the hasher's error may quote ids, and __context__ would keep it.
    raise EngineError(f"The hashes for {destination} could not be computed ({cause}).")


def _share_done(engine: Engine, file: RoomFile) -> Callable[[pa.RecordBatch], float]:
    """Return a function that estimates the share of a file read so far: by rows (Parquet) or bytes (text)."""
    if file.format == "parquet":
        total = float(engine.fetch("SELECT count(*) AS n FROM upload")["n"][0].as_py())
    else:
        total = float(file.path.stat().st_size)
    done = 0.0

    def share(batch: pa.RecordBatch) -> float:
        nonlocal done
        done += float(batch.num_rows if file.format == "parquet" else batch.nbytes)
        return min(1.0, done / total)

    return share


# --- Failures of a whole dataset ---


_WHOLE_FILE_CODES = {"missing": None, "empty": ErrorCode.EMPTY_FILE, "type": ErrorCode.INVALID_FILE_TYPE}


@contextmanager
def _file_damage_as_error() -> Iterator[None]:
    with suppress(TrainingDataError):
        # `checks` knows which engine failures are caused by the file, whatever its kind.
        with checks.reading_of(checks.INTERACTIONS):
            yield
        return
    raise InputError(
        "The file could not be read to its end.",
        remedy="Check that it is complete and that all its lines have the same line ending.",
        problem="damaged",
    )


def _wrong_column_count(n_found: int, n_expected: int) -> InputError:
    many = n_found > n_expected
    return InputError(
        f"The file has {n_found:,} {'column' if n_found == 1 else 'columns'} instead of {n_expected:,}.",
        remedy="Provide exactly the columns of this dataset, in their order.",
        problem="too many columns" if many else "not enough columns",
        code=(ErrorCode.TOO_MANY_COLUMNS if many else ErrorCode.NOT_ENOUGH_COLUMNS).value,
    )


def _no_valid_rows(tally: Tally, rules: _Rules) -> tuple[ErrorCode | None, str] | None:
    if tally.n_rows == 0:
        return ErrorCode.EMPTY_FILE, f"The {rules.what} has no rows. Upload a file with at least one row."
    if tally.n_invalid_rows < tally.n_rows:
        return None
    commonest = max(tally.n_rows_by_code, key=lambda code: (tally.n_rows_by_code[code], code))
    reason = (
        f"No row of the {rules.what} is valid; the most common error is {commonest.value}. "
        "Correct the rows listed in the validation report."
    )
    return ErrorCode.INVALID_NUMBER_OF_ROWS, reason


def _failed_for(report: ValidationReport, rules: _Rules, error: InputError) -> ValidationReport:
    problem = error.attributes.get("problem", "")
    found = error.attributes.get("code")
    code = ErrorCode(found) if found else _WHOLE_FILE_CODES.get(problem, ErrorCode.INVALID_FILE_TYPE)
    failed = _failed(report, rules, code, f"The {rules.what} cannot be used. {error}")
    return replace(failed, status_code=rules.missing) if problem == "missing" else failed


def _failed(report: ValidationReport, rules: _Rules, code: ErrorCode | None, reason: str) -> ValidationReport:
    table = report.table
    if code:
        recorded = (RecordedError(code, reason), *table.recorded[: MAX_RECORDED_ERRORS - 1])
        table = replace(table, n_errors=table.n_errors + 1, recorded=recorded)
    return replace(
        report,
        outcome=Outcome.FAILED,
        table=table,
        status_code=rules.invalid,
        reason=reason,
    )
