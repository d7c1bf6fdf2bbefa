"""Reading the files that are uploaded for a data room: no header, columns by position.

Lives here: what an upload's bytes are, unpacking it, and its cells as they lie in the file.
Add here when an upload may come in a further format.
Keep out: which cells are valid (`room_schemas`) and what is made of them (`rooms`).

The format is told by the content, since uploads have no name that could be trusted: `PAR1` is Parquet, the magic
number of gzip is gzip around either, everything else is CSV (comma, quotes doubled inside quotes, UTF-8 with or
without a byte order mark; blank lines are no rows; a comma at the end of a line adds no cell). Gzip is unpacked
into scratch by Python, which checks its checksum: DuckDB takes a damaged block for the end of the file, and
reads the half before it as if it were all.
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
        path: Where the engine can read it; inside scratch.
        format: What it is, gzip taken off.
        record_sizes: How many of the first 1,000 records of a CSV have how many columns; of Parquet its columns.
        line_end: How the first record of a CSV ends; empty where the file ends with it.
        n_bytes: Its size as it was uploaded.
    """

    path: Path
    format: Literal["csv", "parquet"]
    record_sizes: Mapping[int, int]
    line_end: str
    n_bytes: int

    @property
    def n_columns(self) -> int:
        """The commonest number of columns; 0 without a record."""
        # Of equally common numbers the larger: a cell that is missing is commoner than one too many.
        return max(self.record_sizes, key=lambda size: (self.record_sizes[size], size), default=0)

    def has_columns(self, n_columns: int) -> bool:
        """Whether it is a file of so many columns: no other number is commoner among its first records."""
        n_others = [n for size, n in self.record_sizes.items() if size != n_columns]
        return self.record_sizes.get(n_columns, 0) >= max(n_others, default=0)

    @property
    def tables(self) -> TableFiles:
        """The file for functions that ask for its format; its columns are named c0, c1, … here."""
        return TableFiles((self.path,), self.format, column_names(self.n_columns))


def column_names(n_columns: int) -> tuple[str, ...]:
    """What columns without a name are called."""
    return tuple(f"c{i}" for i in range(n_columns))


def open_room_file(path: Path, scratch: Path, *, max_bytes: int | None = None) -> RoomFile:
    """Look at an uploaded file.

    Args:
        path: The file, whatever it is called.
        scratch: An existing folder for the unpacked file, empty of other uploads' files of this name.
        max_bytes: The most that it may hold when it is unpacked. None: no limit.

    Returns:
        The file as the engine can read it.

    Raises:
        InputError: It is not there, has no bytes, cannot be read or holds too much; the attribute `problem` is
            "missing", "empty", "unreadable" or "too large".
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
    # Outside the handler: what could not be decoded is in the error, and __context__ would keep it.
    if missing:
        raise InputError("The file is not there.", remedy="Upload it again.", problem="missing")
    raise InputError(
        f"The file cannot be read ({cause}).",
        remedy="Give a complete file: CSV in UTF-8, the same as gzip, or Parquet.",
        problem="unreadable",
    )


def scan_sql(file: RoomFile, n_columns: int) -> str:
    """A query of a file's cells in file order, in columns named c0, c1, …: VARCHAR for CSV, its types for Parquet.

    Args:
        file: The file.
        n_columns: The columns it must have; lines of a CSV with another number are rejected.
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
        # Without being told, DuckDB takes a line break inside a quoted cell for the end of all lines.
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
        # A link with a plain name: the engine would take a star in a path for a pattern.
        plain = scratch / "plain"
        plain.symlink_to(path.resolve())
    if not magic:
        raise InputError("The file is empty.", remedy="Give a file with at least one row.", problem="empty")
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
        # a cell that repeats takes next to no bytes, but is read again for each row
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
            # A record that is no CSV is one bad row, which the engine counts.
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
