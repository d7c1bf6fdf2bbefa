"""Reading files uploaded for a data room, which have no header and are read by column position.

Lives here: detecting an upload's format, unpacking it, and reading its raw cells.
Add here when uploads may have another format.
Keep out: valid cells (`room_schemas`) and a room's files (`rooms`).

The format is detected from the content, since the names of uploads cannot be trusted: `PAR1` is Parquet, the gzip
magic number is a gzipped file of either format, everything else is CSV (comma, quotes doubled inside quotes, UTF-8
with or without a byte order mark; blank lines are skipped; a trailing comma adds no cell). Gzip is unpacked into
scratch by Python, which verifies its checksum: DuckDB treats a damaged block as the end of the file, and silently
reads only the part before it.
"""

import csv
import errno
import io
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import IO, Literal

from cleanroom_pipelines.engine import TableFiles, quote_literal, too_large, unpacked_blocks
from cleanroom_pipelines.errors import InputError, StorageFullError

_GZIP_MAGIC = b"\x1f\x8b"
_PARQUET_MAGIC = b"PAR1"
_SAMPLE_RECORDS = 1_000
_MAX_LINE_BYTES = 10_000_000


@dataclass(frozen=True)
class RoomFile:
    """An uploaded file, ready to be scanned.

    Args:
        path: Path that the engine can read, inside scratch.
        format: Format of the unpacked file.
        record_sizes: Number of columns → number of records with it, over the first 1,000 records of a CSV; for
            Parquet its one number of columns.
        line_end: Line ending of a CSV's first record; empty if the file ends there.
        n_bytes: Size of the upload, in bytes.
    """

    path: Path
    format: Literal["csv", "parquet"]
    record_sizes: Mapping[int, int]
    line_end: str
    n_bytes: int

    @property
    def n_columns(self) -> int:
        """The most common number of columns; 0 if there are no records."""
        # On a tie the larger number: missing cells are more common than extra ones.
        return max(self.record_sizes, key=lambda size: (self.record_sizes[size], size), default=0)

    def has_columns(self, n_columns: int) -> bool:
        """Whether no other number of columns is more common than this one among the first records."""
        n_others = [n for size, n in self.record_sizes.items() if size != n_columns]
        return self.record_sizes.get(n_columns, 0) >= max(n_others, default=0)

    @property
    def tables(self) -> TableFiles:
        """The file as `TableFiles`, with columns named c0, c1, …."""
        return TableFiles((self.path,), self.format, column_names(self.n_columns))


def column_names(n_columns: int) -> tuple[str, ...]:
    """Names of columns by position: c0, c1, …."""
    return tuple(f"c{i}" for i in range(n_columns))


def open_room_file(path: Path, scratch: Path, *, max_bytes: int | None = None) -> RoomFile:
    """Detect an uploaded file's format, and prepare it for the engine.

    Args:
        path: The file; its name is ignored.
        scratch: Existing folder for the unpacked file; use one folder per upload.
        max_bytes: Maximum unpacked size in bytes. None: no limit.

    Returns:
        The file, ready for the engine.

    Raises:
        InputError: It is missing, empty, cannot be read or is too large; the attribute `problem` is "missing",
            "empty", "unreadable" or "too large".
        StorageFullError: The disk is full.
    """
    try:
        return _open(path, scratch, max_bytes)
    except (OSError, ValueError, csv.Error) as error:
        if isinstance(error, InputError | StorageFullError):
            raise
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StorageFullError("The disk is full.", remedy="Free some space and try again.") from None
        cause, missing = type(error).__name__, isinstance(error, FileNotFoundError)
    # Outside the handler: a decoding error holds the bytes, and __context__ would keep it.
    if missing:
        raise InputError("The uploaded file is missing.", remedy="Upload it again.", problem="missing")
    raise InputError(
        f"The file cannot be read ({cause}).",
        remedy="Upload a complete file: UTF-8 CSV or Parquet, optionally gzipped.",
        problem="unreadable",
    )


def scan_sql(file: RoomFile, n_columns: int) -> str:
    """SQL query for a file's cells in file order, in columns c0, c1, …: VARCHAR for CSV, own types for Parquet.

    Args:
        file: The file.
        n_columns: Expected number of columns; CSV lines with another number are rejected.
    """
    names = column_names(n_columns)
    path = quote_literal(str(file.path))
    if file.format == "parquet":
        return f"SELECT * FROM read_parquet({path}, hive_partitioning = false) AS file_cells({', '.join(names)})"
    columns = ", ".join(f"{quote_literal(name)}: 'VARCHAR'" for name in names)
    line_end = file.line_end.replace("\r", "\\r").replace("\n", "\\n")
    return (
        f"SELECT * FROM read_csv({path}, columns = {{{columns}}}, auto_detect = false, header = false, "
        "compression = 'none', delim = ',', quote = '\"', escape = '\"', nullstr = '', "
        f"max_line_size = {_MAX_LINE_BYTES}, ignore_errors = true, store_rejects = true, rejects_limit = 0"
        # Without new_line, DuckDB may detect a line break inside a quoted cell as the file's line ending.
        + (f", new_line = '{line_end}')" if line_end else ")")
    )


def _open(path: Path, scratch: Path, max_bytes: int | None) -> RoomFile:
    n_bytes = path.stat().st_size
    magic = _magic_of(path)
    if magic.startswith(_GZIP_MAGIC):
        plain = scratch / "unpacked"
        with plain.open("wb") as sink:
            sink.writelines(unpacked_blocks(path, max_bytes=max_bytes))
        magic = _magic_of(plain)
    else:
        # A link with a plain name: the engine would read a star in a path as a pattern.
        plain = scratch / "plain"
        plain.symlink_to(path.resolve())
    if not magic:
        raise InputError("The file is empty.", remedy="Upload a file with at least one row.", problem="empty")
    if magic == _PARQUET_MAGIC:
        return RoomFile(plain, "parquet", {_n_parquet_columns(plain, max_bytes): 1}, "", n_bytes)
    sizes, line_end = _shape_of_csv(plain)
    return RoomFile(plain, "csv", sizes, line_end, n_bytes)


def _magic_of(path: Path) -> bytes:
    with path.open("rb") as stream:
        return stream.read(len(_PARQUET_MAGIC))


def _n_parquet_columns(path: Path, max_bytes: int | None) -> int:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        facts = pq.read_metadata(path)
        groups = (facts.row_group(number).total_byte_size for number in range(facts.num_row_groups))
        n_columns = len(facts.schema.to_arrow_schema())
        # a repeated cell takes almost no bytes, but is read for each row
        if max_bytes is not None and max(sum(groups), facts.num_rows * n_columns) > max_bytes:
            raise too_large(max_bytes)
        return n_columns
    except pa.ArrowException as error:
        raise ValueError(type(error).__name__) from None


def _shape_of_csv(path: Path) -> tuple[Mapping[int, int], str]:
    seen: list[str] = []
    sizes: Counter[int] = Counter()
    line_end = ""
    with path.open("rb") as stream, _as_text(stream) as text:
        records = csv.reader(_noted_lines(text, seen), strict=True)
        try:
            for record in islice(records, _SAMPLE_RECORDS):
                line_end = line_end or _end_of(seen[-1])
                sizes[len(record)] += 1
        except csv.Error:
            # An invalid CSV record is one invalid row, which the engine counts.
            line_end = line_end or (_end_of(seen[-1]) if seen else "")
    sizes.pop(0, None)
    return sizes, line_end


def _as_text(stream: IO[bytes]) -> io.TextIOWrapper:
    return io.TextIOWrapper(stream, encoding="utf-8-sig", errors="replace", newline="")


def _noted_lines(text: IO[str], seen: list[str]) -> Iterator[str]:
    while line := text.readline(_MAX_LINE_BYTES):
        seen[:] = [line]
        yield line


def _end_of(line: str) -> str:
    return line[len(line.rstrip("\r\n")) :]
