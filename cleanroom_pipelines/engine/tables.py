"""Finding the files of a table, with their format and columns.

Lives here: resolving a path, folder or glob to files; their format and columns; splitting them by column types.
Add here when tables may have another file format.
Keep out: the meaning of columns (`uploads.roles`), and the form of single files (`text_files`, `parquet_types`).
"""

import csv
import glob
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from pathlib import Path
from typing import Any, Literal, TypeVar

import pyarrow as pa

from cleanroom_pipelines.engine import packing, parquet_types, partitions, text_files
from cleanroom_pipelines.engine.packing import too_large, unpacked_blocks
from cleanroom_pipelines.engine.text_files import CsvShape
from cleanroom_pipelines.errors import EngineError, InputError

Format = Literal["parquet", "csv", "jsonl"]
_Fact = TypeVar("_Fact")

_SUFFIXES: dict[str, Format] = {
    ".parquet": "parquet",
    ".pq": "parquet",
    ".csv": "csv",
    ".tsv": "csv",
    ".txt": "csv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",
}
_UNREADABLE = (OSError, csv.Error, EOFError, ValueError, zlib.error)
_START_BYTES = 1_000
INVALID_ENCODING = "INVALID ENCODING"
"""The reason of a line in `Engine.rejected_lines` that is not UTF-8."""
_KINDS = ".parquet, .csv, .tsv, .txt or .jsonl"


@dataclass(frozen=True)
class TableFiles:
    """The files of one table, with their common format and columns.

    Args:
        files: Absolute paths in sorted order, at least one. Partition folders keep their names in them.
        format: Format of all files.
        columns: Names of the columns that can be read, which all files have: from the header (CSV), the keys in
            the first 1,000 lines (JSON Lines), or the schema (parquet), then the partition columns. A scan has
            these columns. Empty and repeated names are left out.
        repeated: Names that occur more than once in a file, or differ by case only; no column of such a name can
            be read.
        partitions: The columns whose values are in the files' paths (`country=CH/p0.parquet`), as text.
        facts: What was read of each file, its shape or schema, so that it is read once.
    """

    files: tuple[Path, ...]
    format: Format
    columns: tuple[str, ...]
    repeated: frozenset[str] = frozenset()
    partitions: tuple[str, ...] = ()
    facts: dict[Path, Any] = field(default_factory=dict, compare=False, repr=False)

    @property
    def n_bytes(self) -> int:
        """Size of all files on disk, in bytes."""
        return sum(file.stat().st_size for file in self.files)

    def one(self, file: Path) -> "TableFiles":
        """Return the table reduced to one of its files, with the same columns."""
        return replace(self, files=(file,))

    def select(self, names: Sequence[str]) -> "TableFiles":
        """Return the table reduced to some of its columns; its other columns are not read or checked."""
        return replace(self, columns=tuple(names))

    def numbered(self) -> "TableFiles":
        """Return the CSV table including columns with repeated names, which get numbers: `Email 1`, `Email 2`."""
        shapes = [self.shape_of(file).positions for file in self.files]
        added = [name for name in shapes[0] if name not in self.columns and all(name in shape for shape in shapes)]
        return replace(self, columns=(*self.columns, *added))

    def shape_of(self, file: Path) -> CsvShape:
        """Return the CSV shape (header, delimiter, escape and more) of one of the files."""
        return self._fact(file, text_files.csv_shape)

    def types_of(self, file: Path) -> Mapping[str, pa.DataType]:
        """Return the types of `columns` in one of the files; text and partition columns are strings."""
        if self.format != "parquet":
            return dict.fromkeys(self.columns, pa.string())
        schema = self._fact(file, parquet_types.read_schema)
        return {name: pa.string() if name in self.partitions else schema.field(name).type for name in self.columns}

    def names_of(self, file: Path) -> frozenset[str]:
        """Return the names of all columns in one of the parquet files, in lower case."""
        return frozenset(name.lower() for name in self._fact(file, parquet_types.read_schema).names)

    def _fact(self, file: Path, read: Callable[[Path], _Fact]) -> _Fact:
        try:
            if file not in self.facts:
                self.facts[file] = read(file)
            fact: _Fact = self.facts[file]
            return fact
        except _UNREADABLE as error:
            cause = type(error).__name__
        raise EngineError(f"A file of a table cannot be read ({cause}).", cause=cause)


def type_runs(
    tables: TableFiles, names: Sequence[str]
) -> tuple[tuple[TableFiles, Mapping[str, pa.DataType]], ...]:
    """Split a table into runs of consecutive files in which the named columns have the same types.

    A scan of the whole table is an error if there is more than one run.

    Args:
        tables: The files.
        names: Columns of the table.

    Returns:
        Each run with the named columns only, and their types. Types that a scan cannot tell apart are one type,
        such as dictionaries and strings; a column of UUIDs is scanned as text.
    """
    chosen = tables.select(names)
    runs = groupby(chosen.files, key=lambda file: tuple(chosen.types_of(file).values()))
    return tuple(
        (replace(chosen, files=tuple(files)), dict(zip(chosen.columns, types, strict=True)))
        for types, files in runs
    )


def check_types(tables: TableFiles) -> None:
    """Reject a table if a column's type differs between files, because scans use the types of the first file.

    Raises:
        InputError: The attribute `problem` is "types".
    """
    if tables.format != "parquet" or len(tables.files) == 1:
        return
    first = tables.types_of(tables.files[0])
    for file in tables.files[1:]:
        for name, type_ in tables.types_of(file).items():
            if type_ != first[name]:
                kinds = sorted(map(parquet_types.type_in_words, (first[name], type_)))
                raise InputError(
                    f"A column has different types in the files of a table: {kinds[0]} and {kinds[1]}.",
                    remedy="Write the column with one type in all files.",
                    problem="types",
                )


def encoding_error(tables: TableFiles, what: str) -> InputError | None:
    """Detect the encoding of text files with lines that are not UTF-8; return an error that names it, or None.

    The text is read up to the first of these lines.

    Args:
        tables: The files.
        what: Name of the input in messages.

    Returns:
        An error that names the encoding; None if it is not recognised, or the files are not text.
    """
    if tables.format == "parquet":
        return None
    found = (text_files.encoding_of(file) for file in tables.files)
    encoding = next((encoding for encoding in found if encoding), None)
    return text_files.wrong_encoding(encoding, what) if encoding else None


def find_tables(source: str | Path, *, what: str = "file", unpacked_bytes: int | None = None) -> TableFiles:
    """Find a table's files: one file, a glob, or a folder with Hive partitions but no other subfolders.

    Args:
        source: Path, folder or glob. Suffixes in any case: `.parquet`, `.pq`, `.csv`, `.tsv`, `.txt` (CSV),
            `.jsonl`, `.ndjson`, `.json`, optionally with `.gz`, and text also with `.zst`. The format of a file
            without a suffix is recognised by its content. In a folder, `.txt` files and then files without a
            suffix count only if there are no others.
        what: Name of the input in messages, such as "seed" or "interactions table".
        unpacked_bytes: Maximum unpacked size of its compressed files together, in bytes. None: no limit, and the
            size is not checked.

    Returns:
        The files, sorted by name.

    Raises:
        InputError: There are no files, the format is unknown or mixed, all files are empty, a header cannot be
            read, or the files are too large; the attribute `problem` is "missing", "format", "empty", "unreadable"
            or "too large".
    """
    found = _expand(str(source))
    if not found:
        raise InputError(
            f"The {what} was not found: the path has no {_KINDS} file.",
            remedy="Use a file, folder or glob that matches at least one such file.",
            problem="missing",
        )
    found = {file: keys for file, keys in found.items() if file.stat().st_size > 0}
    if not found:
        raise InputError(f"The {what} is empty.", remedy="Use a file with at least one row.", problem="empty")
    format_ = _common_format(tuple(found), what)
    try:
        if unpacked_bytes is not None:
            _check_unpacked(tuple(found), unpacked_bytes, what)
        return _describe(found, format_, what)
    except InputError:
        raise
    except _UNREADABLE as error:
        cause = type(error).__name__
    # Outside the handler: a decoding error holds the bytes, and __context__ would keep it.
    raise InputError(
        f"The {what} cannot be read as {format_} ({cause}).",
        remedy="Check that it is complete, in UTF-8, and in the format of its suffix, and that all its files "
        "have the same column names.",
        problem="unreadable",
    )


def _expand(source: str) -> dict[Path, tuple[str, ...]]:
    """Return a source's files in sorted order, and the keys of each file's partition folders."""
    path = Path(source)
    try:
        if path.is_file():
            return {path.resolve(): ()}
        if path.is_dir():
            root, files = path, _main_kind_of(list(partitions.files_below(path)))
        elif glob.has_magic(source):
            root, files = partitions.files_of_pattern(source)
        else:
            return {}
        found = {partitions.absolute(file, root): partitions.keys_of(file.relative_to(root)) for file in files}
    except (OSError, ValueError):
        return {}
    return dict(sorted(found.items()))


def _main_kind_of(files: Sequence[Path]) -> list[Path]:
    """Return the files with a table's suffix, or else `.txt` files, or else files without a suffix."""
    suffixes = [(file, _suffix_of(file)) for file in files]
    kinds = [_SUFFIXES.keys() - {".txt"}, {".txt"}, {""}]
    return next((kept for kind in kinds if (kept := [file for file, suffix in suffixes if suffix in kind])), [])


def _suffix_of(file: Path) -> str:
    """Return a file's suffix in lower case, ignoring a compression suffix."""
    return Path(file.stem if packing.is_packed_name(file) else file.name).suffix.lower()


def _common_format(files: Sequence[Path], what: str) -> Format:
    formats = {format_of(file) for file in files}
    if None in formats:
        raise InputError(
            f"The {what}'s file format is not supported.",
            remedy=f"Use {_KINDS}; text may be compressed as .gz or .zst.",
            problem="format",
        )
    if len(formats) > 1:
        raise InputError(f"The {what} mixes file formats.", remedy="Use files of one format.", problem="format")
    (format_,) = formats
    assert format_ is not None
    return format_


def format_of(file: Path) -> Format | None:
    """Return a file's format, by its suffix or, if it has none, by its content; None if it is not supported."""
    suffix = _suffix_of(file)
    format_ = _SUFFIXES.get(suffix) if suffix else _recognised(file)
    return None if format_ == "parquet" and file.suffix.lower() == ".zst" else format_


def _recognised(file: Path) -> Format:
    try:
        with packing.open_binary(file) as stream:
            start = stream.read(_START_BYTES)
    except (OSError, EOFError, zlib.error):
        # Damaged: reading its header fails, and says so.
        return "csv"
    if start.startswith(b"PAR1"):
        return "parquet"
    return "jsonl" if start.removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"{") else "csv"


def _check_unpacked(files: Sequence[Path], max_bytes: int, what: str) -> None:
    left = max_bytes
    for file in files:
        if packing.packing_of(file) != "none":
            try:
                left -= sum(map(len, unpacked_blocks(file, max_bytes=left, what=what)))
            except InputError:
                raise too_large(max_bytes, what) from None


def _describe(found: Mapping[Path, tuple[str, ...]], format_: Format, what: str) -> TableFiles:
    facts: dict[Path, CsvShape | pa.Schema] = {}
    files = tuple(found)
    if format_ == "jsonl":
        text_files.check_encoding(files[0], what)
        headers = [text_files.json_keys(files[0])]
    else:
        headers = [_header(file, format_, what, facts) for file in files]
    repeated = frozenset().union(*map(text_files.repeated_names, headers))
    if format_ == "parquet":
        repeated = repeated.union(*(parquet_types.renamed(header, repeated) for header in headers))
    shared = set(headers[0]).intersection(*headers[1:])
    columns = [name for name in headers[0] if name in shared - repeated and text_files.is_name(name)]
    if len(files) > 1 and all(headers) and not shared:
        raise ValueError("no common column")
    taken = {name.lower() for name in (*columns, *repeated)}
    keys = tuple(key for key in _partition_keys(found.values(), what) if key.lower() not in taken)
    return TableFiles(files, format_, (*columns, *keys), repeated, keys, facts)


def _header(file: Path, format_: Format, what: str, facts: dict[Path, CsvShape | pa.Schema]) -> tuple[str, ...]:
    """Return a file's column names; remember its CSV shape or parquet schema in `facts`."""
    fact: CsvShape | pa.Schema
    if format_ == "parquet":
        fact = parquet_types.read_schema(file)
    else:
        text_files.check_encoding(file, what)
        fact = text_files.csv_shape(file)
    last = next(reversed(facts.values()), None)
    facts[file] = last if last == fact and last is not None else fact
    return tuple(fact.names) if isinstance(fact, pa.Schema) else fact.header


def _partition_keys(keys: Iterable[tuple[str, ...]], what: str) -> tuple[str, ...]:
    """Return the files' partition keys; reject files with different keys, and keys that differ only by case."""
    first, *others = {tuple(sorted(of_file)): of_file for of_file in keys}.values()
    if others or len({key.lower() for key in first}) != len(first):
        raise InputError(
            f"The {what} has partition folders with different or repeated keys.",
            remedy="Put every file below folders with the same keys (key=value), each key once.",
            problem="unreadable",
        )
    return first
