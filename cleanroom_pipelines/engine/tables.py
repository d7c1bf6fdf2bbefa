"""Finding the files of a table a user points at.

Lives here: which files a path, folder or glob means, their format, the column names of text files, and taking
gzip off.
Add here when a further file format is read.
Keep out: what the columns mean (roles live in `uploads.roles`).
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
        format: One format for all of them.
        columns: Column names: of the header (CSV), of the keys in the first 1,000 lines (JSON Lines), or of
            the parquet schema.
        delimiter: Cell delimiter of CSV.
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
    """Find the files that `source` names: one file, a folder (its files, not below), or a glob.

    Args:
        source: Path, folder or glob; `.parquet`, `.csv`, `.jsonl`, `.json`, each also with `.gz`.
        what: What to call the input in messages, such as "seed" or "interactions table".
        unpacked_bytes: The most that its gzipped files may hold together. None: no limit, and they are not read.

    Returns:
        The files, sorted by name.

    Raises:
        InputError: Nothing there, an unknown or mixed format, an empty file, or a header that cannot be read;
            its attribute `problem` says which ("missing", "format", "empty", "unreadable", "too large").
    """
    files = _expand(str(source))
    if not files:
        raise InputError(
            f"The {what} was not found: no .parquet, .csv or .jsonl file at the path given.",
            remedy="Give a file, a folder or a glob that matches at least one such file.",
            problem="missing",
        )
    formats = {_format_of(file) for file in files}
    if None in formats:
        raise InputError(
            f"The {what} has a format that is not read here.",
            remedy="Give .parquet, .csv or .jsonl, each also as .gz.",
            problem="format",
        )
    if len(formats) > 1:
        raise InputError(f"The {what} mixes file formats.", remedy="Give files of one format.", problem="format")
    (format_,) = formats
    assert format_ is not None
    if all(file.stat().st_size == 0 for file in files):
        raise InputError(f"The {what} is empty.", remedy="Give a file with at least one row.", problem="empty")
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
    # Outside the handler: a decoding error holds the bytes it met, and __context__ would keep it.
    raise InputError(
        f"The {what} cannot be read as {format_} ({cause}).",
        remedy="Check that it is complete, UTF-8, of the format its name says, and that its columns have "
        "names that differ by more than case, the same in each file.",
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
    """Open a file for reading, through gzip when its name ends in `.gz`."""
    return gzip.open(file, "rb") if file.suffix == ".gz" else file.open("rb")  # type: ignore[return-value]


def unpacked_blocks(file: Path, *, max_bytes: int | None = None, what: str = "file") -> Iterator[bytes]:
    """Give the content of a gzipped file in blocks of 1 MB; who took them all knows that the file is whole.

    Args:
        file: The file.
        max_bytes: The most that is given: a few MB can hold GB. None: no limit.
        what: What to call it in messages.

    Raises:
        BadGzipFile: It is no gzip, breaks off, or is not what its checksums say.
        InputError: It holds more; its attribute `problem` is "too large".
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
        raise gzip.BadGzipFile("it breaks off or is damaged") from None


def too_large(max_bytes: int, what: str = "file") -> InputError:
    """The refusal of what holds more than may be unpacked."""
    return InputError(
        f"The {what} holds more than {max_bytes:,} bytes when it is unpacked.",
        remedy="Give less in one file, or ask the operator to allow more.",
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
    # SQL does not tell "id" from "ID".
    if len({name.lower() for name in columns}) != len(columns) or not all(columns):
        raise ValueError("repeated or empty column name")
    return columns, delimiter


def _csv_header(file: Path) -> tuple[tuple[str, ...], str]:
    columns, delimiter, _ = _read_header(file)
    return columns, delimiter


def line_end_of(file: Path) -> str:
    """How the header of a CSV ends: a line feed, a carriage return, both, or (at the end of the file) nothing."""
    return _read_header(file)[2]


def _read_header(file: Path) -> tuple[tuple[str, ...], str, str]:
    line = _first_line(file)
    delimiter = max(_DELIMITERS, key=line.count)
    lines: list[str] = []
    # A quoted name may hold a line break, so the header can be longer than its first line. What follows the
    # header is decoded along with it, and may be no UTF-8.
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
                # A key without a name, or that differs from another by case only, has no column in SQL.
                keys.setdefault(key.lower(), key)
    return tuple(key for key in keys.values() if key and "\x00" not in key)


def _first_lines(file: Path) -> Iterator[str]:
    with open_binary(file) as stream:
        for number, line in enumerate(stream):
            if number >= _KEYS_SAMPLE_LINES:
                return
            yield line.decode("utf-8-sig", errors="replace")
