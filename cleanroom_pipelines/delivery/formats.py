"""The formats of an export's files: how rows are written and read.

Lives here: one object per format, with its header, writer and reader; reproducible gzip.
Add here when there is another file format.
Keep out: selecting the rows, and which hashes a destination accepts (`delivery.destinations`).

A row is a text. In the formats that list users (jsonl, csv, parquet, plain) it is the user id. In a file of hashes
it is the line itself (one hash, and a comma for each other column), so that two rows are equal exactly if their
lines are equal, as comparing two exports requires.
"""

import csv
import gzip
import io
import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from cleanroom_pipelines.engine import open_parquet
from cleanroom_pipelines.errors import UsageError

Rows = Iterator[Sequence[str]]

_NEEDS_QUOTES = re.compile('[",\r\n]')
_ROWS_AT_ONCE = 10_000
# Rows per parquet row group; a part of up to this size is a single group, as in earlier releases.
_ROW_GROUP = 1 << 20
_GZIP_LEVEL = 6


@dataclass(frozen=True)
class FileFormat:
    """The format of an export's files.

    Args:
        name: Its name in the manifest: `jsonl`, `csv`, `parquet`, `plain`; `hashes` or `ids` of a destination.
        extension: The suffix of the file names.
        header: The column names on the first line; None for no header.
        holds_users: Whether a row is a user id; otherwise it is a line with one hash.
        is_compressed: Whether the format itself is compressed, so that gzip would not help.
    """

    name: str
    extension: str
    header: tuple[str, ...] | None
    holds_users: bool
    is_compressed: bool = False

    def file_name(self, prefix: str, number: int, *, gzip_: bool) -> str:
        """The name of one file, such as `part-00000.csv.gz`."""
        return f"{prefix}-{number:05d}.{self.extension}{'.gz' if gzip_ else ''}"

    def write(self, sink: Any, rows: Iterable[Sequence[str]]) -> int:
        """Write a whole file and return its number of rows.

        Args:
            sink: Receives the bytes.
            rows: Batches of rows.
        """
        return _WRITERS[self.extension](self, sink, rows)

    def read(self, file: Path, *, gzip_: bool) -> Rows:
        """Read the rows of a file written by `write`, in batches.

        Raises:
            ValueError: The file does not have this format.
        """
        with file.open("rb") as stream, gzip.open(stream) if gzip_ else nullcontext(stream) as plain:
            yield from _READERS[self.extension](self, plain)


JSONL = FileFormat("jsonl", "jsonl", None, holds_users=True)
CSV = FileFormat("csv", "csv", ("user_id",), holds_users=True)
PARQUET = FileFormat("parquet", "parquet", None, holds_users=True, is_compressed=True)
PLAIN = FileFormat("plain", "csv", None, holds_users=True)
LISTS_OF_USERS = {format_.name: format_ for format_ in (JSONL, CSV, PARQUET, PLAIN)}


def list_format(name: str) -> FileFormat:
    """Return a format for lists of users by its name.

    Raises:
        UsageError: There is no such format.
    """
    try:
        return LISTS_OF_USERS[name]
    except KeyError:
        raise UsageError(
            "There is no such export format.", remedy=f"Choose one of {', '.join(LISTS_OF_USERS)}."
        ) from None


@contextmanager
def gzipped(sink: Any) -> Iterator[Any]:
    """Compress the output with gzip, without name and time in the header: the same rows give the same bytes."""
    with gzip.GzipFile(filename="", mode="wb", compresslevel=_GZIP_LEVEL, fileobj=sink, mtime=0) as stream:
        yield stream


def csv_cell(text: str) -> str:
    """Return a text as a CSV cell, quoted only where needed."""
    # Not csv.writer: before Python 3.13 it leaves a bare carriage return unquoted, and readers end the line there.
    if text and not _NEEDS_QUOTES.search(text):
        return text
    return '"' + text.replace('"', '""') + '"'


def _write_jsonl(format_: FileFormat, sink: Any, rows: Iterable[Sequence[str]]) -> int:
    return _write_lines(sink, rows, lambda user: json.dumps({"user_id": user}, ensure_ascii=False))


def _write_csv(format_: FileFormat, sink: Any, rows: Iterable[Sequence[str]]) -> int:
    if format_.header:
        sink.write((",".join(format_.header) + "\n").encode())
    return _write_lines(sink, rows, csv_cell if format_.holds_users else str)


def _write_lines(sink: Any, rows: Iterable[Sequence[str]], line_of: Callable[[str], str]) -> int:
    n_rows = 0
    for batch in rows:
        for start in range(0, len(batch), _ROWS_AT_ONCE):
            lines = [line_of(row) for row in batch[start : start + _ROWS_AT_ONCE]]
            sink.write(("\n".join(lines) + "\n").encode())
        n_rows += len(batch)
    return n_rows


def _write_parquet(format_: FileFormat, sink: Any, rows: Iterable[Sequence[str]]) -> int:
    import pyarrow.parquet as pq

    schema = pa.schema([("user_id", pa.string())])
    n_rows, waiting = 0, list[str]()
    with pq.ParquetWriter(sink, schema, compression="zstd") as writer:

        def write(users: Sequence[str]) -> None:
            writer.write_table(pa.table({"user_id": pa.array(users, pa.string())}), row_group_size=_ROW_GROUP)

        for batch in rows:
            waiting.extend(batch)
            n_rows += len(batch)
            while len(waiting) >= _ROW_GROUP:
                write(waiting[:_ROW_GROUP])
                del waiting[:_ROW_GROUP]
        if waiting or not n_rows:
            write(waiting)
    return n_rows


def _read_jsonl(format_: FileFormat, stream: Any) -> Rows:
    return _in_batches(json.loads(line)["user_id"] for line in stream)


def _read_csv(format_: FileFormat, stream: Any) -> Rows:
    # newline="": a line break inside quotes is part of the id.
    with io.TextIOWrapper(stream, encoding="utf-8", newline="" if format_.holds_users else "\n") as text:
        if format_.header and text.readline() != ",".join(format_.header) + "\n":
            raise ValueError("unexpected header")
        if format_.holds_users:
            yield from _in_batches(cell for (cell,) in csv.reader(text, strict=True))
        else:
            yield from _in_batches(line.removesuffix("\n") for line in text)


def _read_parquet(format_: FileFormat, stream: Any) -> Rows:
    try:
        for batch in open_parquet(stream).iter_batches(batch_size=_ROWS_AT_ONCE, columns=["user_id"]):
            yield batch.column("user_id").to_pylist()
    except pa.ArrowException as error:
        raise ValueError(type(error).__name__) from None


def _in_batches(rows: Iterable[str]) -> Rows:
    batch: list[str] = []
    for row in rows:
        batch.append(row)
        if len(batch) == _ROWS_AT_ONCE:
            yield batch
            batch = []
    if batch:
        yield batch


_WRITERS = {"jsonl": _write_jsonl, "csv": _write_csv, "parquet": _write_parquet}
_READERS: dict[str, Callable[[FileFormat, Any], Rows]] = {
    "jsonl": _read_jsonl,
    "csv": _read_csv,
    "parquet": _read_parquet,
}
