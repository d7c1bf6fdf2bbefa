"""Finding the files of a table.

Lives here: resolving a path, folder or glob to files, their format and column names, and unpacking gzip.
Add here when tables may have another file format.
Keep out: the meaning of columns (`uploads.roles`).
"""

import csv
import glob
import gzip
import io
import json
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Literal

from cleanroom_pipelines.errors import InputError

Format = Literal["parquet", "csv", "jsonl"]

_SUFFIXES: dict[str, Format] = {".parquet": "parquet", ".csv": "csv", ".jsonl": "jsonl", ".json": "jsonl"}
_KEYS_SAMPLE_LINES = 1_000
_MAX_LINE_CHARACTERS = 10_000_000
_DELIMITERS = ",;\t|"
_BLOCK_BYTES = 1 << 20


@dataclass(frozen=True)
class TableFiles:
    """The files of one table.

    Args:
        files: Absolute paths in sorted order, at least one.
        format: Format of all files.
        columns: Column names, from the header (CSV), the keys in the first 1,000 lines (JSON Lines), or the
            schema (parquet).
        delimiter: Delimiter of CSV.
    """

    files: tuple[Path, ...]
    format: Format
    columns: tuple[str, ...]
    delimiter: str = ","

    @property
    def n_bytes(self) -> int:
        """Size of all files on disk, in bytes."""
        return sum(file.stat().st_size for file in self.files)


def find_tables(source: str | Path, *, what: str = "file", unpacked_bytes: int | None = None) -> TableFiles:
    """Find the files of a file path, a folder (without subfolders) or a glob.

    Args:
        source: Path, folder or glob; `.parquet`, `.csv`, `.jsonl`, `.json`, optionally with `.gz`.
        what: Name of the input in messages, such as "seed" or "interactions table".
        unpacked_bytes: Maximum unpacked size of its gzipped files together, in bytes. None: no limit, and the
            size is not checked.

    Returns:
        The files, sorted by name.

    Raises:
        InputError: There are no files, the format is unknown or mixed, all files are empty, a header cannot be
            read, or the files are too large; the attribute `problem` is "missing", "format", "empty", "unreadable"
            or "too large".
    """
    files = _expand(str(source))
    if not files:
        raise InputError(
            f"The {what} was not found: the path has no .parquet, .csv or .jsonl file.",
            remedy="Use a file, folder or glob that matches at least one such file.",
            problem="missing",
        )
    formats = {_format_of(file) for file in files}
    if None in formats:
        raise InputError(
            f"The {what}'s file format is not supported.",
            remedy="Use .parquet, .csv or .jsonl, optionally with .gz.",
            problem="format",
        )
    if len(formats) > 1:
        raise InputError(f"The {what} mixes file formats.", remedy="Use files of one format.", problem="format")
    (format_,) = formats
    assert format_ is not None
    if all(file.stat().st_size == 0 for file in files):
        raise InputError(f"The {what} is empty.", remedy="Use a file with at least one row.", problem="empty")
    files = tuple(file for file in files if file.stat().st_size > 0)
    try:
        if unpacked_bytes is not None:
            _check_unpacked(files, unpacked_bytes, what)
        columns, delimiter = _columns_of(files, format_)
        return TableFiles(files, format_, columns, delimiter)
    except InputError:
        raise
    except (OSError, csv.Error, EOFError, ValueError, zlib.error) as error:
        cause = type(error).__name__
    # Outside the handler: a decoding error holds the bytes, and __context__ would keep it.
    raise InputError(
        f"The {what} cannot be read as {format_} ({cause}).",
        remedy="Check that it is complete, in UTF-8, and in the format of its suffix, and that all files have the "
        "same column names, which must differ by more than case.",
        problem="unreadable",
    )


def _expand(source: str) -> tuple[Path, ...]:
    path = Path(source)
    try:
        if path.is_file():
            return (path.resolve(),)
        if path.is_dir():
            found = [child for child in path.iterdir() if child.is_file() and _format_of(child)]
        elif any(character in source for character in "*?["):
            found = [Path(name) for name in glob.glob(source, recursive=True) if Path(name).is_file()]
        else:
            found = []
    except (OSError, ValueError):
        return ()
    return tuple(sorted(child.resolve() for child in found if not child.name.startswith((".", "_"))))


def _format_of(file: Path) -> Format | None:
    suffixes = file.suffixes
    if suffixes and suffixes[-1] == ".gz":
        suffixes = suffixes[:-1]
    return _SUFFIXES.get(suffixes[-1].lower()) if suffixes else None


def open_binary(file: Path) -> IO[bytes]:
    """Open a file for reading, decompressing it if its name ends in `.gz`."""
    return gzip.open(file, "rb") if file.suffix == ".gz" else file.open("rb")  # type: ignore[return-value]


def unpacked_blocks(file: Path, *, max_bytes: int | None = None, what: str = "file") -> Iterator[bytes]:
    """Decompress a gzipped file in blocks of 1 MB; after the last block the file is known to be intact.

    Args:
        file: The file.
        max_bytes: Maximum unpacked size, since a few MB can expand to GB. None: no limit.
        what: Name of the file in messages.

    Raises:
        BadGzipFile: It is not gzip, is truncated, or does not match its checksums.
        InputError: It is larger; the attribute `problem` is "too large".
    """
    n_bytes = 0
    try:
        with gzip.open(file, "rb") as stream:
            while block := stream.read(_BLOCK_BYTES):
                n_bytes += len(block)
                if max_bytes is not None and n_bytes > max_bytes:
                    raise too_large(max_bytes, what)
                yield block
    except (EOFError, zlib.error):
        raise gzip.BadGzipFile("The gzip file is truncated or damaged.") from None


def too_large(max_bytes: int, what: str = "file") -> InputError:
    """Error for input whose unpacked size exceeds the limit."""
    return InputError(
        f"The {what} is larger than {max_bytes:,} bytes when unpacked.",
        remedy="Use a smaller file, or ask the operator to raise the limit.",
        problem="too large",
    )


def _check_unpacked(files: tuple[Path, ...], max_bytes: int, what: str) -> None:
    left = max_bytes
    for file in files:
        if file.suffix == ".gz":
            try:
                left -= sum(map(len, unpacked_blocks(file, max_bytes=left, what=what)))
            except InputError:
                raise too_large(max_bytes, what) from None


def _columns_of(files: tuple[Path, ...], format_: Format) -> tuple[tuple[str, ...], str]:
    if format_ == "jsonl":
        return _json_keys(files[0]), ","
    headers = [_parquet_columns(file) if format_ == "parquet" else _csv_header(file) for file in files]
    columns, delimiter = headers[0]
    same = {frozenset(names) for names, _ in headers} if format_ == "parquet" else set(headers)
    if len(same) != 1:
        raise ValueError("columns differ between files")
    # SQL treats "id" and "ID" as the same name.
    if len({name.lower() for name in columns}) != len(columns) or not all(columns):
        raise ValueError("repeated or empty column name")
    return columns, delimiter


def _csv_header(file: Path) -> tuple[tuple[str, ...], str]:
    columns, delimiter, _ = _read_header(file)
    return columns, delimiter


def line_end_of(file: Path) -> str:
    """Return the line ending of a CSV's header: line feed, carriage return, both, or nothing at the file's end."""
    return _read_header(file)[2]


def _read_header(file: Path) -> tuple[tuple[str, ...], str, str]:
    line = _first_line(file)
    delimiter = max(_DELIMITERS, key=line.count)
    lines: list[str] = []
    # A quoted name may contain a line break, so the header can be longer than its first line. The text after the
    # header is decoded along with it, and may not be UTF-8.
    with (
        open_binary(file) as stream,
        io.TextIOWrapper(stream, encoding="utf-8-sig", errors="replace", newline="") as text,
    ):
        columns = tuple(next(csv.reader(_read_lines(text, lines), delimiter=delimiter, strict=True)))
    return columns, delimiter, lines[-1][len(lines[-1].rstrip("\r\n")) :]


def _read_lines(text: IO[str], seen: list[str]) -> Iterator[str]:
    while line := text.readline(_MAX_LINE_CHARACTERS):
        seen.append(line)
        yield line


def _parquet_columns(file: Path) -> tuple[tuple[str, ...], str]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with open_binary(file) as stream:
            return tuple(pq.read_schema(stream).names), ","
    except pa.ArrowException as error:
        raise ValueError(type(error).__name__) from None


def _first_line(file: Path) -> str:
    with open_binary(file) as stream:
        line = stream.readline(_MAX_LINE_CHARACTERS).decode("utf-8-sig")
    return line.rstrip("\r\n")


def _json_keys(file: Path) -> tuple[str, ...]:
    keys: dict[str, str] = {}
    for line in _first_lines(file):
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(row, dict):
            for key in row:
                # An empty key, or one that differs from another by case only, has no column in SQL.
                keys.setdefault(key.lower(), key)
    return tuple(key for key in keys.values() if key and "\x00" not in key)


def _first_lines(file: Path) -> Iterator[str]:
    with open_binary(file) as stream:
        for number, line in enumerate(stream):
            if number >= _KEYS_SAMPLE_LINES:
                return
            yield line.decode("utf-8-sig", errors="replace")
