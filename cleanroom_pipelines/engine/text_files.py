r"""The form of text files: delimiter, header, encoding.

Lives here: header, delimiter, line ending, escape and encoding of CSV, and the lines above its header; keys of
JSON Lines.
Add here when text files may be written in another way.
Keep out: finding files (`tables`), and SQL (the engines).
"""

import csv
import io
import json
import re
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import IO

from cleanroom_pipelines.engine.packing import Packing, open_binary, packing_of
from cleanroom_pipelines.errors import InputError

_KEYS_SAMPLE_LINES = 1_000
_SAMPLE_BYTES = 1 << 20
_MAX_LINE_CHARACTERS = 10_000_000
_DELIMITERS = ",;\t|"
_QUOTED = re.compile(r'"[^"]*"')
# The first line of a CSV that Excel opens with another delimiter.
_SEPARATOR_LINE = re.compile(r"sep=([,;\t|])", re.IGNORECASE)
N_FIRST_RECORDS = 10
"""The header must be among these records of a file."""
_UTF_16_MARKS = (b"\xff\xfe", b"\xfe\xff")
# Other encodings than UTF-8 that are recognised: in words, and how to save a table as UTF-8.
_ENCODINGS = {
    "UTF-16": ("UTF-16", "Save it as UTF-8."),
    "Windows-1252": ("Windows-1252 (Excel's 'CSV')", "Save it as 'CSV UTF-8'."),
}


@dataclass(frozen=True)
class CsvShape:
    r"""The shape of a CSV file: its header, delimiter, line ending, escape and compression.

    Args:
        header: All names in its header by position, including empty and repeated ones.
        delimiter: Character between cells.
        line_end: Line ending of the header: line feed, carriage return, both, or nothing at the file's end.
        escape: Character before a quote inside a quoted cell: `"`, or `\` as Spark writes it.
        packing: Compression of the file.
        n_above: Lines above the header: Excel's `sep=;`, titles, comments and blank lines.
        has_header: Whether the file has a header; if not, `header` gives names to its columns.
    """

    header: tuple[str, ...]
    delimiter: str
    line_end: str
    escape: str
    packing: Packing
    n_above: int = 0
    has_header: bool = True

    @property
    def positions(self) -> Mapping[str, int]:
        """The position of each readable column by name; repeated names are numbered: `Email 1`, `Email 2`."""
        repeated = repeated_names(self.header)
        found = {name: i for i, name in enumerate(self.header) if is_name(name) and name not in repeated}
        taken, seen = {name.lower() for name in self.header}, Counter[str]()
        for i, name in enumerate(self.header):
            if name in repeated:
                seen[name.lower()] += 1
                numbered = f"{name} {seen[name.lower()]}"
                if numbered.lower() not in taken:
                    found[numbered] = i
        return found


def is_name(name: str) -> bool:
    """Whether a name can be a column in SQL."""
    return bool(name) and "\x00" not in name


def repeated_names(names: Sequence[str]) -> frozenset[str]:
    """Return the names that occur more than once; upper and lower case count as the same, as in SQL."""
    counts = Counter(name.lower() for name in names)
    return frozenset(name for name in names if is_name(name) and counts[name.lower()] > 1)


def csv_shape(file: Path) -> CsvShape:
    """Detect the shape of a CSV file from its header and its first records.

    Raises:
        UnicodeDecodeError: The first line is not UTF-8.
        csv.Error: The header cannot be split.
    """
    delimiter, n_above = _start_of(file, _first_line(file))
    lines: list[str] = []
    # A quoted name may contain a line break, so the header can be longer than its first line. The text after the
    # header is decoded along with it, and may not be UTF-8.
    with open_binary(file) as stream, as_text(stream) as text:
        records = csv.reader(read_lines(text, lines), delimiter=delimiter, strict=True)
        *_, header = islice(records, n_above + 1)
    line_end = line_end_of(lines[-1])
    escape = escape_of(file, delimiter, len(header), n_above)
    return CsvShape(tuple(header), delimiter, line_end, escape, packing_of(file), n_above)


def delimiter_in(line: str) -> str:
    """Return the delimiter that Excel's first line `sep=;` names; empty if the line is another one."""
    found = _SEPARATOR_LINE.fullmatch(line.rstrip("\r\n"))
    return found.group(1) if found else ""


def is_above_header(record: Sequence[str]) -> bool:
    """Whether a CSV record may be above a table: it is blank, a comment (`#`), or a title of several words."""
    first, *others = record or [""]
    return not any(others) and (not first or first.startswith("#") or " " in first.strip())


def can_be_skipped(line: str, delimiter: str) -> bool:
    """Whether DuckDB can skip the first line of a CSV: after a byte order mark, it finds no quote at the start."""
    try:
        return bool(next(csv.reader(["\ufeff" + line], delimiter=delimiter, strict=True)))
    except csv.Error:
        return False


def _start_of(file: Path, line: str) -> tuple[str, int]:
    """Return a CSV file's delimiter, and the number of lines above its header.

    Below a title, a header must have several names and no digits, and the next line must have digits: a table in
    which only the first column has a name, of two words, would look like a title otherwise.
    """
    named = delimiter_in(line)
    first, n_above = named or _delimiter_of(file, line), int(bool(named))
    if not named and not (is_above_header(_cells_of(line, first)) and can_be_skipped(line, first)):
        return first, 0
    lines = [each.strip("\r\n") for each in _lines_of(_text_of(file))]
    for number, names in enumerate(lines[n_above : n_above + N_FIRST_RECORDS], n_above):
        delimiter = named or _delimiter_of(file, names)
        cells = _cells_of(names, delimiter)
        if not is_above_header(cells):
            is_header = sum(map(bool, cells)) > 1 and not re.search(r"[\d@]", names)
            has_title = any(lines[n_above:number])
            if not has_title or (is_header and any(map(str.isdigit, "".join(lines[number + 1 : number + 2])))):
                return delimiter, number
            break
    return first, n_above


def _cells_of(line: str, delimiter: str) -> list[str]:
    return next(csv.reader([line], delimiter=delimiter), [])


def json_keys(file: Path) -> tuple[str, ...]:
    """Return the keys of the objects in the first 1,000 lines of a JSON Lines file."""
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
    return tuple(key for key in keys.values() if is_name(key))


def encoding_of(file: Path) -> str | None:
    """Return the encoding of a text file if it is recognised as UTF-16 or Windows-1252; otherwise None.

    Args:
        file: The file; it is read up to the first line that is not UTF-8, or to its end.
    """
    with open_binary(file) as stream:
        line = stream.readline(_MAX_LINE_CHARACTERS)
        if is_utf_16(line):
            return "UTF-16"
        while line:
            if not _is_utf_8(line):
                return "Windows-1252" if _is_windows_1252(line) else None
            line = stream.readline(_MAX_LINE_CHARACTERS)
    return None


def check_encoding(file: Path, what: str) -> None:
    """Reject a text file whose first line is in a recognised encoding other than UTF-8.

    Raises:
        InputError: The attribute `problem` is "unreadable".
    """
    with open_binary(file) as stream:
        line = stream.readline(_MAX_LINE_CHARACTERS)
    if is_utf_16(line):
        raise wrong_encoding("UTF-16", what)
    if not _is_utf_8(line) and _is_windows_1252(line):
        raise wrong_encoding("Windows-1252", what)


def wrong_encoding(encoding: str, what: str) -> InputError:
    """Return an error for text in an encoding that `encoding_of` recognised."""
    words, remedy = _ENCODINGS[encoding]
    return InputError(f"The {what} looks like {words}.", remedy=remedy, problem="unreadable")


def is_utf_16(line: bytes) -> bool:
    """Whether the start of a file is text in UTF-16."""
    # Without a mark, every second byte of Latin text is NUL.
    return line.startswith(_UTF_16_MARKS) or (len(line) > 3 and line.count(0) * 3 > len(line))


def _is_utf_8(line: bytes) -> bool:
    try:
        line.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def _is_windows_1252(line: bytes) -> bool:
    """Whether a line has only printable characters in Windows-1252, unlike compressed data."""
    try:
        text = line.rstrip(b"\r\n").decode("cp1252")
    except UnicodeDecodeError:
        return False
    return all(character.isprintable() or character in "\t\xa0\xad" for character in text)


def _delimiter_of(file: Path, line: str) -> str:
    if ".tsv" in map(str.lower, file.suffixes) and "\t" in line:
        return "\t"
    return max(_DELIMITERS, key=_QUOTED.sub("", line).count)


def as_text(stream: IO[bytes]) -> io.TextIOWrapper:
    """Decode a text file; bytes that are not UTF-8 are replaced."""
    return io.TextIOWrapper(stream, encoding="utf-8-sig", errors="replace", newline="")


def read_lines(text: IO[str], seen: list[str]) -> Iterator[str]:
    """Yield the lines of a text, and keep the last one in `seen`."""
    while line := text.readline(_MAX_LINE_CHARACTERS):
        seen[:] = [line]
        yield line


def line_end_of(line: str) -> str:
    """Return the line ending of a line."""
    return line[len(line.rstrip("\r\n")) :]


def escape_of(file: Path, delimiter: str, n_cells: int, n_above: int = 0) -> str:
    r"""Choose the escape, `\` or `"`, with which more of the first records have as many cells as the header."""
    text = _text_of(file)
    if '\\"' not in text:
        return '"'
    lines = _lines_of(text)[n_above:]
    doubled = csv.reader(lines, delimiter=delimiter, strict=True)
    escaped = csv.reader(lines, delimiter=delimiter, strict=True, doublequote=False, escapechar="\\")
    return '"' if _n_good(doubled, n_cells) >= _n_good(escaped, n_cells) else "\\"


def _lines_of(text: str) -> list[str]:
    return io.StringIO(text, newline="").readlines()


def _text_of(file: Path) -> str:
    """Return the first megabyte of a file as text."""
    try:
        with open_binary(file) as stream:
            return stream.read(_SAMPLE_BYTES).decode("utf-8-sig", errors="replace")
    except (OSError, EOFError, zlib.error):
        # Damaged after the header, which the engine finds when it reads the rows.
        return ""


def _n_good(records: Iterator[list[str]], n_cells: int) -> int:
    """Count the records before the first one with more or fewer cells than the header."""
    n_good = 0
    try:
        for record in records:
            has_comma_at_end = len(record) == n_cells + 1 and not record[-1]
            if record and len(record) != n_cells and not has_comma_at_end:
                break
            n_good += 1
    except csv.Error:
        pass
    return n_good


def _first_line(file: Path) -> str:
    with open_binary(file) as stream:
        line = stream.readline(_MAX_LINE_CHARACTERS).decode("utf-8-sig")
    return re.split("[\r\n]", line, maxsplit=1)[0]


def _first_lines(file: Path) -> Iterator[str]:
    with open_binary(file) as stream:
        for number, line in enumerate(stream):
            if number >= _KEYS_SAMPLE_LINES:
                return
            yield line.decode("utf-8-sig", errors="replace")
