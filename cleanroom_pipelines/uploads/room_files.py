"""Reading files uploaded for a data room, which should have no header and are read by column position.

Lives here: detecting an upload's format, unpacking it, and reading its raw cells.
Add here when uploads may have another format.
Keep out: usable cells (`cells`) and a room's files (`rooms`).

The format is detected from the content, since the names of uploads cannot be trusted: `PAR1` is Parquet, the gzip
and zstd magic numbers are compressed files of either format, everything else is CSV (UTF-8 with or without a byte
order mark; blank lines are skipped; a trailing comma adds no cell). A first line `sep=;` names the delimiter. Else
cells are separated by commas; by semicolons, tabs or bars if these split the lines into the expected columns and
commas do not; by semicolons and tabs also if they split all lines into equally many columns, at least three, and
commas do not. JSON is rejected: as a CSV, each of its lines would be an id. Compressed files are unpacked into
scratch by Python, which verifies checksums: DuckDB treats a damaged block as the end of the file, and silently
reads only the part before it.
"""

import codecs
import csv
import errno
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Literal

import pyarrow as pa

from cleanroom_pipelines.engine import (
    Engine,
    TableFiles,
    quote_identifier,
    quote_literal,
    too_large,
    unpacked_blocks,
)
from cleanroom_pipelines.engine.text_files import (
    N_FIRST_RECORDS,
    CsvShape,
    as_text,
    can_be_skipped,
    delimiter_in,
    escape_of,
    is_utf_16,
    line_end_of,
    read_lines,
    wrong_encoding,
)
from cleanroom_pipelines.errors import InputError, StorageFullError

# gzip and zstd
_PACKED_MAGICS = (b"\x1f\x8b", b"\x28\xb5\x2f\xfd")
_PARQUET_MAGIC = b"PAR1"
_JSON = re.compile(rb"[\[{]\s*[\"{\[]")
SAVE_AS = "Save the table as CSV, Excel (.xlsx) or Parquet."
_HEAD_BYTES = 4_096
_SAMPLE_RECORDS = 1_000
_MAX_SHARE_OF_OTHERS = 0.1
_OTHER_DELIMITERS = ";\t|"
# A column with more different cells than this, and than half of the rows, holds parts of ids, not types.
_MAX_FEW_LABELS = 3
_ANY_CSV = CsvShape((), ",", "", '"', "none", has_header=False)


@dataclass(frozen=True)
class _Split:
    """How one delimiter splits the first records of a CSV.

    Args:
        delimiter: The delimiter.
        record_sizes: Number of columns → number of records with it.
        line_end: Line ending of the first record; empty if the file ends there.
        last_cells: The different last cells of records of more than one column.
        head: The first records.
    """

    delimiter: str
    record_sizes: Mapping[int, int]
    line_end: str
    last_cells: frozenset[str] = field(repr=False)
    head: tuple[tuple[str, ...], ...] = field(repr=False)

    def fits(self, sizes: Sequence[int]) -> bool:
        """Whether the most common number of columns is at least 2 and is one of `sizes`."""
        return any(
            size > 1 and size in self.record_sizes and _is_most_common(self.record_sizes, size) for size in sizes
        )

    @property
    def is_even(self) -> bool:
        """Whether all records have the same number of columns, which is at least 2."""
        return len(self.record_sizes) == 1 and 1 not in self.record_sizes

    @property
    def is_table(self) -> bool:
        """Whether there are at least two records, all with the same number of columns, which is at least 3."""
        return self.is_even and all(size > 2 and n > 1 for size, n in self.record_sizes.items())

    @property
    def has_few_labels(self) -> bool:
        """Whether the last column has few different values, as a column of labels does."""
        return len(self.last_cells) <= max(_MAX_FEW_LABELS, sum(self.record_sizes.values()) // 2)


@dataclass(frozen=True)
class RoomFile:
    """An uploaded file, ready to be scanned.

    Args:
        path: Path that the engine can read, inside scratch.
        format: Format of the unpacked file.
        record_sizes: Number of columns → number of records with it, over the first 1,000 records of a CSV; for
            Parquet its one number of columns.
        n_bytes: Size of the upload, in bytes.
        head: The first records of a CSV, blank ones included, below a line `sep=;`; nothing if they cannot be
            skipped. The column names of Parquet.
        csv: The form of a CSV; its header is not known.
        types: The types of Parquet's columns; empty for a CSV.
    """

    path: Path
    format: Literal["csv", "parquet"]
    record_sizes: Mapping[int, int]
    n_bytes: int
    head: tuple[tuple[str, ...], ...] = field(repr=False)
    csv: CsvShape = _ANY_CSV
    types: tuple[pa.DataType, ...] = ()

    @property
    def n_columns(self) -> int:
        """The most common number of columns; 0 if there are no records."""
        # On a tie the larger number: missing cells are more common than extra ones.
        return max(self.record_sizes, key=lambda size: (self.record_sizes[size], size), default=0)

    def has_columns(self, n_columns: int) -> bool:
        """Whether `n_columns` is the most common number of columns among the first records."""
        return _is_most_common(self.record_sizes, n_columns)

    @property
    def is_one_column(self) -> bool:
        """Whether almost all records have one cell only."""
        n_ones = self.record_sizes.get(1, 0)
        return n_ones > 0 and sum(self.record_sizes.values()) - n_ones <= n_ones * _MAX_SHARE_OF_OTHERS

    def scan(self, engine: Engine, view: str, names: Sequence[str], n_header_lines: int) -> int:
        """Make the cells queryable as a view: VARCHAR for CSV, own types for Parquet.

        Args:
            engine: Engine that may read the file.
            view: Name of the view.
            names: Names of the columns by position; CSV lines with another number of cells are rejected.
            n_header_lines: Records of the head that are not rows.

        Returns:
            The number of lines above the rows.
        """
        if self.format == "parquet":
            listed = ", ".join(map(quote_identifier, names))
            engine.execute(
                f"CREATE TEMP VIEW {view} AS SELECT * FROM read_parquet({quote_literal(str(self.path))}, "
                f"hive_partitioning = false) AS file_cells({listed})"
            )
            return 0
        shape = replace(self.csv, header=tuple(names), n_above=self.csv.n_above + n_header_lines)
        engine.scan(view, TableFiles((self.path,), "csv", shape.header, facts={self.path: shape}))
        return shape.n_above


def open_room_file(path: Path, scratch: Path, *, sizes: Sequence[int], max_bytes: int | None = None) -> RoomFile:
    """Detect an uploaded file's format, and prepare it for the engine.

    Args:
        path: The file; its name is ignored.
        scratch: Existing folder for the unpacked file; use one folder per upload.
        sizes: Numbers of columns that its dataset may have.
        max_bytes: Maximum unpacked size in bytes. None: no limit.

    Returns:
        The file, ready for the engine.

    Raises:
        InputError: It is missing, empty, cannot be read or is too large; the attribute `problem` is "missing",
            "empty", "unreadable" or "too large".
        StorageFullError: The disk is full.
    """
    try:
        return _open(path, scratch, sizes, max_bytes)
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
        remedy="Upload a complete file: UTF-8 CSV or Parquet, optionally compressed with gzip or zstd.",
        problem="unreadable",
    )


def _open(path: Path, scratch: Path, sizes: Sequence[int], max_bytes: int | None) -> RoomFile:
    n_bytes = path.stat().st_size
    magic = _head_of(path)
    # A link with a plain name: the engine would read a star in a path as a pattern.
    plain = scratch / "plain"
    plain.symlink_to(path.resolve())
    if magic.startswith(_PACKED_MAGICS):
        packed, plain = plain, scratch / "unpacked.csv"
        with plain.open("wb") as sink:
            sink.writelines(unpacked_blocks(packed, max_bytes=max_bytes))
        magic = _head_of(plain)
    if not magic:
        raise InputError("The file is empty.", remedy="Upload a file with at least one row.", problem="empty")
    if magic.startswith(_PARQUET_MAGIC):
        names, types = _parquet_columns(plain, max_bytes)
        return RoomFile(plain, "parquet", {len(types): 1}, n_bytes, (names,), types=types)
    if is_utf_16(magic):
        raise wrong_encoding("UTF-16", "file")
    if is_json(magic):
        raise InputError("The file is JSON, which is not accepted here.", remedy=SAVE_AS, problem="type")
    line = re.split(r"[\r\n]", magic.decode("utf-8-sig", errors="replace"), maxsplit=1)[0]
    named = delimiter_in(line)
    n_above = int(bool(named))
    split = _split(plain, named, sizes, n_above) if named else _best_split(plain, sizes)
    head = split.head if can_be_skipped(line, split.delimiter) else ()
    file = RoomFile(plain, "csv", split.record_sizes, n_bytes, head)
    escape = escape_of(plain, split.delimiter, file.n_columns, n_above)
    shape = replace(_ANY_CSV, delimiter=split.delimiter, line_end=split.line_end, escape=escape, n_above=n_above)
    return replace(file, csv=shape)


def is_json(head: bytes) -> bool:
    """Whether a file's first bytes are JSON, which is not accepted as a table."""
    return _JSON.match(head.removeprefix(codecs.BOM_UTF8).lstrip()) is not None


def _head_of(path: Path) -> bytes:
    with path.open("rb") as stream:
        return stream.read(_HEAD_BYTES)


def _parquet_columns(path: Path, max_bytes: int | None) -> tuple[tuple[str, ...], tuple[pa.DataType, ...]]:
    import pyarrow.parquet as pq

    try:
        facts = pq.read_metadata(path)
        groups = (facts.row_group(number).total_byte_size for number in range(facts.num_row_groups))
        schema = facts.schema.to_arrow_schema()
        # a repeated cell takes almost no bytes, but is read for each row
        if max_bytes is not None and max(sum(groups), facts.num_rows * len(schema)) > max_bytes:
            raise too_large(max_bytes)
        return tuple(schema.names), tuple(schema.types)
    except pa.ArrowException as error:
        raise ValueError(type(error).__name__) from None


def _best_split(path: Path, sizes: Sequence[int]) -> _Split:
    by_comma = _split(path, ",", sizes)
    if by_comma.fits(sizes) and by_comma.is_even:
        return by_comma
    others = [_split(path, delimiter, sizes) for delimiter in _OTHER_DELIMITERS]
    # Too many columns, rather than one, or rather than the parts of decimal commas: an id may contain bars, but
    # hardly semicolons or tabs.
    table = next((split for split in others if split.is_table and split.delimiter != "|"), None)
    if by_comma.fits(sizes) and table is None:
        return by_comma
    for split in others:
        if split.fits(sizes) and (1 not in sizes or split.has_few_labels or split.is_table):
            return split
    return by_comma if table is None or by_comma.is_even else table


def _split(path: Path, delimiter: str, sizes: Sequence[int], n_above: int = 0) -> _Split:
    seen: list[str] = []
    found: Counter[int] = Counter()
    last_cells: set[str] = set()
    head: list[tuple[str, ...]] = []
    line_end = ""
    with path.open("rb") as stream, as_text(stream) as text:
        records = csv.reader(read_lines(text, seen), delimiter=delimiter, strict=True)
        try:
            for record in islice(records, n_above, n_above + _SAMPLE_RECORDS):
                line_end = line_end or line_end_of(seen[-1])
                found[len(record)] += 1
                last_cells.update(record[-1:] if len(record) > 1 else ())
                head += [tuple(record)] if len(head) < N_FIRST_RECORDS else []
        except csv.Error:
            # An invalid CSV record is one invalid row, which the engine counts.
            line_end = line_end or (line_end_of(seen[-1]) if seen else "")
    found.pop(0, None)
    if last_cells == {""} and set(sizes) == {1, 2} and set(found) <= {1, 2}:
        # A delimiter at the end of the lines of one column; the header may lack it.
        found = Counter({1: found.total()})
    elif len(found) == 1 and not set(found) & set(sizes) and last_cells == {""}:
        # A delimiter at the end of each line adds no cell.
        found = Counter({size - 1: n_records for size, n_records in found.items()})
    return _Split(delimiter, found, line_end, frozenset(last_cells), tuple(head))


def _is_most_common(record_sizes: Mapping[int, int], n_columns: int) -> bool:
    n_others = [n for size, n in record_sizes.items() if size != n_columns]
    return record_sizes.get(n_columns, 0) >= max(n_others, default=0)
