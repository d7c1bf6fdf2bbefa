"""Guess the content of an uploaded file from its first rows, and convert the file if the user corrects the guess.

Lives here: telling tables from other files, guessing separator, header and kind of id, and rewriting a CSV.
Add here when the person can choose something more about a file.
Keep out: validating rows (`room_reading`), and every cell value: a guess has none.
"""

import csv
import io
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import IO, Any

import pyarrow as pa

from cleanroom_pipelines.engine.text_files import as_text
from cleanroom_pipelines.errors import InputError
from cleanroom_pipelines.identity import Dataset
from cleanroom_pipelines.identity.judging import judge_ids
from cleanroom_pipelines.identity.names import kind_of_name
from cleanroom_pipelines.storage.vault import chunks_of
from cleanroom_pipelines.terms import MatchingId
from cleanroom_pipelines.uploads import cells, workbooks
from cleanroom_pipelines.uploads.cells import Column
from cleanroom_pipelines.uploads.room_files import SAVE_AS, RoomFile, is_json, open_room_file
from cleanroom_pipelines.uploads.room_headers import is_name
from cleanroom_pipelines.uploads.room_reading import (
    header_of,
    roles_of,
    sizes_of,
    wrong_column_count,
)

SEPARATORS = (",", ";", "\t", "|")
_HEAD_BYTES = 4_096
_SAMPLE_ROWS = 1_000
_MAX_LINE, _MAX_SAMPLE = 1 << 20, 8 << 20  # characters: this process serves all requests
# Kinds of which most other texts are not valid ids, in the order of the guess.
_TELLING = (
    MatchingId.HASHED_EMAIL,
    MatchingId.HASHED_PHONE_NUMBER,
    MatchingId.EMAIL,
    MatchingId.PHONE_NUMBER,
)
_IMAGES = (b"\x89PNG", b"\xff\xd8\xff", b"GIF8", b"BM", b"II*\0", b"MM\0*", b"RIFF")
_ARCHIVES = (b"Rar!", b"7z\xbc\xaf", b"BZh", b"\xfd7zXZ")
_OLD_EXCEL = b"\xd0\xcf\x11\xe0"
_READABLE = (b"PAR1", b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"\xff\xfe", b"\xfe\xff")


@dataclass(frozen=True)
class Guess:
    """The guessed content of a file.

    Args:
        format: "csv" or "parquet".
        separator: What separates the cells of a CSV; empty for Parquet.
        header: Whether the first row of a CSV holds column names, which the reader skips.
        columns: The columns' meanings, by position.
        matching_id: The kind of its ids; None if its dataset has no matching ids.
        names: The file's own names of the columns; empty text for a name that may be a value, nothing if the file
            has no names.
    """

    format: str
    separator: str
    header: bool
    columns: tuple[str, ...]
    matching_id: MatchingId | None
    names: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """Return the guess as JSON values."""
        kind = self.matching_id and self.matching_id.value
        return {**asdict(self), "columns": list(self.columns), "matching_id": kind, "names": list(self.names)}


def table_chunks(stream: IO[bytes]) -> Iterator[bytes]:
    """Yield an uploaded table in a form that the reader accepts: a workbook as CSV, other tables unchanged.

    Args:
        stream: The file, on disk.

    Raises:
        InputError: It is not a table.
    """
    stream.seek(0)
    head = stream.read(_HEAD_BYTES)
    _check_is_table(head)
    stream.seek(0)
    yield from workbooks.csv_of_workbook(stream) if head.startswith(workbooks.MAGIC) else chunks_of(stream)


def guess_file(
    path: Path, dataset: Dataset, kinds: Sequence[MatchingId], scratch: Path, *, max_bytes: int | None = None
) -> Guess:
    """Guess the content of a file.

    Args:
        path: The file.
        dataset: The dataset that it should hold.
        kinds: The kinds of ids that its room accepts; of two that fit equally, the guess is the accepted one.
        scratch: Empty folder for the unpacked file.
        max_bytes: Maximum unpacked size in bytes. None: no limit.

    Raises:
        InputError: It cannot be read, or its columns are not those of the dataset.
    """
    file = open_room_file(path, scratch, sizes=sizes_of(dataset), max_bytes=max_bytes)
    try:
        return _guess(file, dataset, kinds)
    except (OSError, ValueError, csv.Error, pa.ArrowException) as error:
        if isinstance(error, InputError):
            raise
    # Outside the handler: the error may quote cells, and __context__ would keep it.
    raise _unreadable()


def rewritten(
    path: Path, scratch: Path, *, separator: str, header: bool, max_bytes: int | None = None
) -> Iterator[bytes]:
    """Read a CSV with the separator and header that the user chose; yield it with commas and without a header.

    Args:
        path: The file.
        scratch: Empty folder for the unpacked file.
        separator: One of SEPARATORS.
        header: Whether to skip the first row.
        max_bytes: Maximum unpacked size in bytes. None: no limit.

    Raises:
        InputError: It is not a CSV.
    """
    file = open_room_file(path, scratch, sizes=(1,), max_bytes=max_bytes)
    if file.format != "csv":
        raise InputError(
            "The file is not a CSV, so its separator and header row cannot be changed.",
            remedy="Keep the settings that were found in the file.",
            problem="type",
        )
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    rows = _rows(file, separator)
    try:
        if header:
            next(rows, None)
        while part := _sample(rows):
            writer.writerows(part)
            yield out.getvalue().encode()
            out.seek(0)
            out.truncate()
        return
    except csv.Error:
        pass
    raise _unreadable()


def _check_is_table(head: bytes) -> None:
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    found = None
    if not head:
        raise InputError("The file is empty.", remedy="Choose a file with at least one row.", problem="empty")
    if text.startswith(b"%pdf"):
        found = "a PDF document"
    elif head.startswith(_OLD_EXCEL):
        found = "an Excel workbook of an old format, or has a password"
    elif b"\0" in head and head.startswith(_IMAGES):
        found = "an image"
    elif b"\0" in head and head.startswith(_ARCHIVES):
        found = "an archive"
    elif text.startswith((b"<!doctype", b"<html", b"<?xml", b"<svg")):
        found = "a web page or XML"
    elif is_json(head):
        found = "JSON"
    elif b"\0" in head and not head.startswith((*_READABLE, workbooks.MAGIC)):
        found = "not a table"
    if found:
        raise InputError(f"The file is {found}.", remedy=SAVE_AS, problem="type")


def _guess(file: RoomFile, dataset: Dataset, kinds: Sequence[MatchingId]) -> Guess:
    sizes = sizes_of(dataset)
    if not file.record_sizes and file.format == "csv":
        raise InputError("The file has no rows.", remedy="Choose a file with at least one row.", problem="empty")
    if file.n_columns not in sizes:
        raise wrong_column_count(file, sizes[0])
    roles = roles_of(dataset, file, file.n_columns - 2)
    n_above = header_of(file, [Column(name, role, cells.CELL, "text") for name, role in roles])
    names = file.head[n_above - 1][: len(roles)] if n_above or file.format == "parquet" else ()
    place = next((i for i, (name, _) in enumerate(roles) if name == "matching_id"), None)
    # No cell of Parquet is read, since a few bytes may unpack to gigabytes.
    rows = _sample(_rows(file, file.csv.delimiter, n_above)) if file.format == "csv" else []
    return Guess(
        file.format,
        file.csv.delimiter if file.format == "csv" else "",
        bool(n_above) and file.format == "csv",
        tuple(name for name, _ in roles),
        None
        if place is None
        else _guess_kind(names[place] if names else "", [row[place] for row in rows if len(row) > place], kinds),
        tuple(name if is_name(name) else "" for name in names),
    )


def _guess_kind(name: str, ids: Sequence[str], kinds: Sequence[MatchingId]) -> MatchingId:
    named = kind_of_name(name)
    sample = pa.array(ids, pa.string())
    n_most = max(1, len(ids) // 2)
    fitting = [kind for kind in _TELLING if judge_ids(kind, sample).valid.sum() >= n_most]
    # the hashes of e-mail addresses and of phone numbers look the same
    fitting.sort(key=lambda kind: (kind not in kinds, named is None or kind.family is not named.family))
    return fitting[0] if fitting else named or MatchingId.STRING


def _rows(file: RoomFile, separator: str, n_above: int = 0) -> Iterator[list[str]]:
    """Yield the records of a CSV that are not blank, without the first `n_above` records of its head."""
    escape = None if file.csv.escape == '"' else file.csv.escape
    with file.path.open("rb") as stream, as_text(stream) as text:
        records = csv.reader(_lines(text), delimiter=separator, escapechar=escape, doublequote=not escape)
        yield from filter(any, islice(records, file.csv.n_above + n_above, None))


def _lines(text: IO[str]) -> Iterator[str]:
    while line := text.readline(_MAX_LINE):
        if len(line) == _MAX_LINE:
            raise InputError("A line is too long.", remedy=SAVE_AS, problem="unreadable")
        yield line


def _sample(rows: Iterator[list[str]]) -> list[list[str]]:
    """Return the next rows, up to a maximum number of rows and of characters."""
    found, n_characters = list[list[str]](), 0
    for row in islice(rows, _SAMPLE_ROWS):
        found.append(row)
        n_characters += sum(map(len, row)) + len(row)
        if n_characters > _MAX_SAMPLE:
            break
    return found


def _unreadable() -> InputError:
    return InputError("The file cannot be read.", remedy=SAVE_AS, problem="unreadable")
