"""Reading and validating one dataset of a data room.

Lives here: the columns of each dataset, validating rows batch by batch, the report.
Add here when there is a new dataset, or a new reason for a dataset to fail.
Keep out: a room's files (`rooms`), judging cells (`one_pass`), file formats (`room_files`).

The files of a dataset are read once, in batches. Valid rows are written to Parquet files in scratch with their row
numbers, matching ids as keyed digests only. `room_counts` then finds the duplicates.
"""

import errno
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from cleanroom_pipelines.engine import (
    INVALID_ENCODING,
    Engine,
    Runtime,
    TableFiles,
    encoding_error,
    open_engine,
)
from cleanroom_pipelines.engine.text_files import is_above_header
from cleanroom_pipelines.errors import (
    EngineError,
    InputError,
    StorageFullError,
    UsageError,
)
from cleanroom_pipelines.identity import Dataset, room_digests, sha256_hex
from cleanroom_pipelines.terms import MatchingId
from cleanroom_pipelines.uploads import cells, checks, room_headers
from cleanroom_pipelines.uploads.cells import Column
from cleanroom_pipelines.uploads.one_pass import JudgedRows, OnePass
from cleanroom_pipelines.uploads.report import (
    ErrorCode,
    Outcome,
    SchemaReport,
    TableReport,
    ValidationReport,
)
from cleanroom_pipelines.uploads.roles import Role, RoomRole
from cleanroom_pipelines.uploads.room_counts import UniqueKey, with_counts
from cleanroom_pipelines.uploads.room_files import RoomFile, open_room_file
from cleanroom_pipelines.uploads.tally import Recorder, Tally

if TYPE_CHECKING:
    import pyarrow.parquet as pq

# From the kind of id and the usable ids to the hashes for an ad destination; null where it has no hash.
ActivationHasher = Callable[[MatchingId, pa.Array], pa.Array]

# The audience type of the ids in a seed file of one column.
DEFAULT_AUDIENCE_TYPE = "default"
MAX_BATCH_ROWS = 500_000
CELLS_PER_BATCH = 4_000_000
MIN_BATCH_ROWS = 10_000
_SHARE_OF_ROWS = 0.9


@dataclass(frozen=True)
class RoomUpload:
    """One file that was uploaded for a dataset of a data room.

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
                remedy="Set the kind for the datasets MATCHING and SEED_AUDIENCES only.",
            )
        if (self.dataset is Dataset.EMBEDDINGS) != bool(self.n_embeddings and self.n_embeddings > 0):
            raise UsageError(
                "Embeddings need at least 1 dimension; other datasets have no dimensions.",
                remedy="Set n_embeddings for embeddings only.",
            )


# The kind of upload and the unique key of each dataset.
_UPLOADS = {
    Dataset.MATCHING: replace(checks.INTERACTIONS, what="table of matching ids"),
    Dataset.SEGMENTS: replace(checks.INTERACTIONS, what="segments table"),
    Dataset.DEMOGRAPHICS: replace(checks.INTERACTIONS, what="demographics table"),
    Dataset.EMBEDDINGS: replace(checks.INTERACTIONS, what="embeddings table"),
    Dataset.SEED_AUDIENCES: replace(checks.SEED, what="table of seed audiences"),
}
_KEYS = {
    Dataset.MATCHING: UniqueKey(("user_id", "digest"), ("user_id", "matching_id")),
    Dataset.SEGMENTS: UniqueKey(("user_id", "segment"), ("user_id", "segment")),
    Dataset.DEMOGRAPHICS: UniqueKey(("user_id",), ("user_id",)),
    Dataset.EMBEDDINGS: UniqueKey(("user_id", "scope"), ("user_id", "scope")),
    Dataset.SEED_AUDIENCES: UniqueKey(("digest", "audience_type"), ("matching_id", "audience_type")),
}
_DAMAGED = "Check that it is complete and that all its lines have the same line ending."


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
        """Return a copy for a part of the work, which reports progress between `start` and `end`."""
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
    kind = _UPLOADS[dataset]
    part = _Part(dataset, reading)
    try:
        with part.writing():
            for number, upload in enumerate(files):
                part.reading = reading.within(
                    _SHARE_OF_ROWS * number / len(files), _SHARE_OF_ROWS * (number + 1) / len(files)
                )
                part.read(upload)
    except InputError as error:
        status_code = kind.missing if error.attributes.get("problem") == "missing" else kind.invalid
        sentence = f"The {kind.what} cannot be used. {error}"
        return ReadDataset(dataset, part.report().failed(status_code, sentence, checks.code_of(error)), None)
    reading.runtime.report_progress(_SHARE_OF_ROWS, f"{kind.what}: finding duplicates")
    report = part.report()
    if (reason := _no_valid_rows(part.tally, kind)) is not None:
        return ReadDataset(dataset, report.failed(kind.invalid, *reason), None)
    assert part.rows is not None
    report = with_counts(report, part.rows, _KEYS[dataset], part.tally.row_number, reading.runtime.engine)
    reading.runtime.report_progress(1.0, f"{kind.what}: validated")
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
        self.columns: Sequence[Column] = ()
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
            sizes=sizes_of(self.dataset, upload.n_embeddings),
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
            checks.reading_of(replace(_UPLOADS[self.dataset], what="file"), _DAMAGED),
            open_engine(self.reading.runtime.engine, paths=[folder, upload.path]) as engine,
        ):
            self._read_rows(engine, file, upload)
        for left in folder.iterdir():
            left.unlink()

    def _read_rows(self, engine: Engine, file: RoomFile, upload: RoomUpload) -> None:
        columns = self._columns_of(file, upload)
        header = header_of(file, columns)
        self._warn_of_header(file, header)
        n_above = file.scan(engine, "upload", [column.name for column in columns], header)
        rows = OnePass(engine, "upload", columns)
        self._note_schema(columns, rows.misfits, upload)
        n_rows_before = self.tally.n_readable_rows
        batch_rows = min(self.reading.batch_rows, max(MIN_BATCH_ROWS, CELLS_PER_BATCH // len(columns)))
        share_of = _share_done(engine, file)
        stage = f"{_UPLOADS[self.dataset].what}: validating rows"
        for batch in rows.batches(batch_rows):
            self._add_batch(batch, columns, upload.matching_id)
            self.reading.runtime.report_progress(share_of(batch), stage)
        for column in rows.mixed:
            self.warn(
                f"Column {column.name!r} has decimal numbers among its ids; the rows with them are invalid. "
                "Save the column as text."
            )
        rejected = engine.rejected_lines()
        self.tally.add_rejected(rejected, n_rows_before, n_above)
        checks.check_quotes(rejected)
        self._name_encoding(file, rejected)

    def _name_encoding(self, file: RoomFile, rejected: pa.Table) -> None:
        """Report the encoding of lines that are not UTF-8: as an error if no row is valid, else as a warning."""
        if INVALID_ENCODING not in rejected["reason"].to_pylist():
            return
        if error := encoding_error(TableFiles((file.path,), "csv", ()), "file"):
            if self.tally.n_invalid_rows == self.tally.n_rows:
                raise error
            self.warn(f"Some lines were not read. {error.message} {error.remedy}")

    def _warn_of_header(self, file: RoomFile, n_records: int) -> None:
        if n_records and file.format == "csv":
            has_title = any(map(any, file.head[: n_records - 1]))
            what = "rows hold a title and column names and were" if has_title else "row holds column names and was"
            self.warn(f"The first {what} skipped.")

    def warn(self, sentence: str) -> None:
        """Add a warning to the report, unless the report has it already."""
        if sentence not in self.table.warnings:
            self.table = replace(self.table, warnings=(*self.table.warnings, sentence))

    def _columns_of(self, file: RoomFile, upload: RoomUpload) -> list[Column]:
        roles = roles_of(self.dataset, file, upload.n_embeddings)
        if not file.has_columns(len(roles)):
            raise wrong_column_count(file, len(roles))
        if self.dataset is Dataset.SEED_AUDIENCES and len(roles) == 1:
            self.warn(f"A file has only one column; its ids get the audience type '{DEFAULT_AUDIENCE_TYPE}'.")
        kinds = [(cells.kind_of(type_), cells.type_name(type_)) for type_ in file.types]
        return [
            Column(name, role, *typed, upload.matching_id if role is RoomRole.MATCHING_ID else None)
            for (name, role), typed in zip(roles, kinds or [(cells.CELL, "text")] * len(roles), strict=True)
        ]

    def _note_schema(self, columns: Sequence[Column], misfits: Sequence[Column], upload: RoomUpload) -> None:
        self.columns = max(self.columns, columns, key=len)
        self.n_embeddings = upload.n_embeddings or 0
        self.tally.columns += [Recorder() for _ in range(len(self.tally.columns), len(columns))]
        schema = checks.schema_report(columns, misfits, "The column must be {types}.")
        seen = [column for column in schema.columns if column not in self.schema.columns]
        self.schema = replace(schema, columns=(*self.schema.columns, *seen))
        if misfits:
            raise InputError(
                f"Column {misfits[0].name!r} has a type that is not allowed.",
                remedy=f"Convert it to {cells.TYPES_IN_WORDS[misfits[0].role]}.",
                problem="type",
            )

    def _add_batch(self, rows: JudgedRows, columns: Sequence[Column], kind: MatchingId | None) -> None:
        valid = rows.usable
        arrays = dict(rows.values)
        if rows.matching is not None and kind is not None:
            arrays["digest"] = room_digests(self.reading.room_key, kind.family, sha256_hex(rows.matching))
        numbers = self.tally.n_readable_rows + 1 + np.flatnonzero(valid)
        self.tally.add_batch(rows.errors, len(valid))
        n_changed = int((rows.changed & valid).sum())
        self.table = replace(self.table, n_ids_changed=self.table.n_ids_changed + n_changed)
        kept = {name: array.filter(pa.array(valid)) for name, array in arrays.items()}
        self._rows.write(_room_rows(self.dataset, kept, numbers, kind, columns))
        if kind is not None and "user_id" in kept:
            self._add_hashes(kind, kept)

    def _add_hashes(self, kind: MatchingId, kept: Mapping[str, pa.Array]) -> None:
        for destination, hasher in self.reading.activation.items():
            hashes = _hashes_of(destination, hasher, kind, kept["matching_id"])
            names = pa.array([destination] * len(hashes), pa.string())
            table = pa.table({"user_id": kept["user_id"], "destination": names, "hash": hashes})
            self._hashes.write(table.filter(hashes.is_valid()))

    def report(self) -> ValidationReport:
        """Report on the rows read so far."""
        report = ValidationReport(
            _UPLOADS[self.dataset].what, Outcome.PASSED, schema=self.schema, table=self.table
        )
        return self.tally.added_to(report, [column.name for column in self.columns])


class _Sink:
    """A Parquet file in the scratch folder, created by the first table and extended by the next ones."""

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


def roles_of(dataset: Dataset, file: RoomFile, n_embeddings: int | None) -> list[tuple[str, Role | RoomRole]]:
    """Return the names and roles of a file's columns, by position."""
    user, matching = ("user_id", Role.USER_ID), ("matching_id", RoomRole.MATCHING_ID)
    roles: dict[Dataset, list[tuple[str, Role | RoomRole]]] = {
        Dataset.MATCHING: [user, matching],
        Dataset.SEGMENTS: [user, ("segment", RoomRole.LABEL)],
        Dataset.DEMOGRAPHICS: [user, ("age", RoomRole.AGE), ("gender", RoomRole.GENDER)],
        Dataset.EMBEDDINGS: [
            user,
            ("scope", RoomRole.SCOPE),
            *((f"e{i}", RoomRole.NUMBER) for i in range(n_embeddings or 0)),
        ],
        Dataset.SEED_AUDIENCES: [matching, ("audience_type", RoomRole.LABEL)],
    }
    if dataset is Dataset.DEMOGRAPHICS:
        return roles[dataset][: max(file.n_columns, 1)]
    return roles[dataset][: 1 if dataset is Dataset.SEED_AUDIENCES and file.is_one_column else None]


def header_of(file: RoomFile, columns: Sequence[Column]) -> int:
    """Return the number of a file's first records that are not rows: its header, with titles above it; or 0.

    Raises:
        InputError: The header does not fit the columns.
    """
    for number, record in enumerate(file.head, 1):
        names = record[:-1] if len(record) == len(columns) + 1 and not record[-1] else record
        if len(names) == len(columns) and room_headers.is_header(columns, names):
            return number
        if not is_above_header(record):
            break
    return 0


def sizes_of(dataset: Dataset, n_embeddings: int | None = None) -> Sequence[int]:
    """Return the permitted column counts of a dataset's files; `n_embeddings` None means any number of them."""
    return {
        Dataset.DEMOGRAPHICS: (3, 2, 1),
        Dataset.SEED_AUDIENCES: (2, 1),
        Dataset.EMBEDDINGS: (2 + n_embeddings,) if n_embeddings else range(3, 10_000),
    }.get(dataset, (2,))


def _room_rows(
    dataset: Dataset,
    kept: Mapping[str, pa.Array],
    numbers: npt.NDArray[np.int64],
    kind: MatchingId | None,
    columns: Sequence[Column],
) -> pa.Table:
    """Build the table that will be stored: the valid rows of a batch, without their matching ids."""
    rows: dict[str, pa.Array] = {"row_number": pa.array(numbers, pa.int64())}
    rows |= {name: array for name, array in kept.items() if name != "matching_id"}
    if dataset is Dataset.DEMOGRAPHICS:
        nothing = pa.nulls(len(numbers), pa.string())
        rows = {"age": nothing, "gender": nothing} | rows
    if dataset is Dataset.SEED_AUDIENCES and len(columns) == 1:
        rows["audience_type"] = pa.array([DEFAULT_AUDIENCE_TYPE] * len(numbers), pa.string())
    if kind is not None:
        rows["kind"] = pa.array([kind.value] * len(numbers), pa.string())
    return pa.table(rows)


def _hashes_of(destination: str, hasher: ActivationHasher, kind: MatchingId, ids: pa.Array) -> pa.Array:
    try:
        return hasher(kind, ids)
    except Exception as error:
        cause = type(error).__name__
    # Outside the handler: the hasher's error may quote ids, and __context__ would keep it.
    raise EngineError(f"The hashes for {destination} could not be computed ({cause}).")


def _share_done(engine: Engine, file: RoomFile) -> Callable[[JudgedRows], float]:
    """Return a function that estimates the share of a file read so far: by rows (Parquet) or bytes (text)."""
    if file.format == "parquet":
        total = float(engine.fetch("SELECT count(*) AS n FROM upload")["n"][0].as_py())
    else:
        total = float(file.path.stat().st_size)
    done = 0.0

    def share(rows: JudgedRows) -> float:
        nonlocal done
        n_bytes = sum(array.nbytes for array in rows.values.values())
        done += float(len(rows.changed) if file.format == "parquet" else n_bytes)
        return min(1.0, done / total)

    return share


# --- Failures of a whole dataset ---


def wrong_column_count(file: RoomFile, n_expected: int) -> InputError:
    """Return the error for a file that has more or fewer columns than its dataset."""
    many = file.n_columns > n_expected
    kinds = next(filter(None, map(room_headers.kinds_in_words, file.head)), "") if many else ""
    return InputError(
        f"The file has {file.n_columns:,} {'column' if file.n_columns == 1 else 'columns'} "
        f"instead of {n_expected:,}{kinds and ': '}{kinds}.",
        remedy="Provide exactly the columns of this dataset, in their order.",
        problem="too many columns" if many else "not enough columns",
    )


def _no_valid_rows(tally: Tally, kind: checks.UploadKind) -> tuple[str, ErrorCode] | None:
    if tally.n_rows == 0:
        return f"The {kind.what} has no rows. Upload a file with at least one row.", ErrorCode.EMPTY_FILE
    if tally.n_invalid_rows < tally.n_rows:
        return None
    commonest = max(tally.n_rows_by_code, key=lambda code: (tally.n_rows_by_code[code], code))
    reason = (
        f"No row of the {kind.what} is valid; the most common error is {commonest.value}. "
        "Correct the rows listed in the validation report."
    )
    return reason, ErrorCode.INVALID_NUMBER_OF_ROWS
