"""Finding the files of a table a user points at.

Lives here: which files a path, folder or glob means, their format, and the column names of text files.
Add here when a further file format is read.
Keep out: what the columns mean (roles live in `similarity.specs`).
"""

import csv
import glob
import gzip
import json
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


@dataclass(frozen=True)
class TableFiles:
    """The files of one table.

    Args:
        files: Absolute paths in sorted order, at least one.
        format: One format for all of them.
        columns: Column names: of the header (CSV), of the keys in the first 1,000 lines (JSON Lines), or of the
            parquet schema.
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


def find_tables(source: str | Path, *, what: str = "file") -> TableFiles:
    """Find the files that `source` names: one file, a folder (its files, not below), or a glob.

    Args:
        source: Path, folder or glob; `.parquet`, `.csv`, `.jsonl`, `.json`, each also with `.gz`.
        what: What to call the input in messages, such as "seed" or "interactions table".

    Returns:
        The files, sorted by name.

    Raises:
        InputError: Nothing there, an unknown or mixed format, an empty file, or a header that cannot be read.
    """
    files = _expand(str(source))
    if not files:
        raise InputError(
            f"The {what} was not found: no .parquet, .csv or .jsonl file at the path given.",
            remedy="Give a file, a folder or a glob that matches at least one such file.",
        )
    formats = {_format_of(file) for file in files}
    if None in formats:
        raise InputError(
            f"The {what} has a format that is not read here.",
            remedy="Give .parquet, .csv or .jsonl, each also as .gz.",
        )
    if len(formats) > 1:
        raise InputError(f"The {what} mixes file formats.", remedy="Give files of one format.")
    (format_,) = formats
    assert format_ is not None
    if all(file.stat().st_size == 0 for file in files):
        raise InputError(f"The {what} is empty.", remedy="Give a file with at least one row.")
    files = tuple(file for file in files if file.stat().st_size > 0)
    try:
        columns, delimiter = _columns_of(files, format_)
    except (OSError, UnicodeDecodeError, csv.Error, EOFError, ValueError) as error:
        raise InputError(
            f"The {what} cannot be read as {format_} ({type(error).__name__}).",
            remedy="Check that the file is complete, UTF-8 and of the format its name says.",
        ) from None
    return TableFiles(files, format_, columns, delimiter)


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


def _columns_of(files: tuple[Path, ...], format_: Format) -> tuple[tuple[str, ...], str]:
    if format_ == "parquet":
        return _parquet_columns(files), ","
    if format_ == "jsonl":
        return _json_keys(files[0]), ","
    headers = {_csv_header(file) for file in files}
    if len(headers) != 1:
        raise ValueError("headers differ")
    ((columns, delimiter),) = headers
    if len(set(columns)) != len(columns) or not all(columns):
        raise ValueError("repeated or empty column name")
    return columns, delimiter


def _csv_header(file: Path) -> tuple[tuple[str, ...], str]:
    line = _first_line(file)
    delimiter = max(_DELIMITERS, key=line.count)
    return tuple(next(csv.reader([line], delimiter=delimiter))), delimiter


def _parquet_columns(files: tuple[Path, ...]) -> tuple[str, ...]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with open_binary(files[0]) as stream:
            return tuple(pq.read_schema(stream).names)
    except pa.ArrowException as error:
        raise ValueError(type(error).__name__) from None


def _first_line(file: Path) -> str:
    with open_binary(file) as stream:
        line = stream.readline(_MAX_LINE_CHARACTERS).decode("utf-8-sig")
    return line.rstrip("\r\n")


def _json_keys(file: Path) -> tuple[str, ...]:
    keys: dict[str, None] = {}
    for line in _first_lines(file):
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict):
            keys.update(dict.fromkeys(row))
    return tuple(keys)


def _first_lines(file: Path) -> Iterator[str]:
    with open_binary(file) as stream:
        for number, line in enumerate(stream):
            if number >= _KEYS_SAMPLE_LINES:
                return
            yield line.decode("utf-8", errors="replace")
