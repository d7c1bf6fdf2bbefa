"""The process that reads an Excel workbook from its input and writes the first sheet's cells to its output as CSV.

Lives here: the limits of the process, and the text of a cell.
Keep out: starting it and its failures in words (`workbooks.py`).

Formulas are never computed: a cell has the value that Excel stored with its formula. The process ends itself when
it exceeds a limit, since a small workbook can claim to have billions of cells.
"""

import csv
import io
import resource
import sys
import zipfile
from collections.abc import Iterable
from datetime import date, datetime, time
from typing import Any

MEMORY_BYTES, SECONDS = 1 << 30, 60
MAX_UNPACKED_BYTES = 512 << 20
NOT_A_WORKBOOK, TOO_LARGE, HAS_PASSWORD, NO_SHEET = 3, 4, 5, 6
_MAX_EXACT = 1 << 53


def main() -> int:
    """Convert the workbook and return the exit code."""
    for limit, amount in (
        (resource.RLIMIT_AS, MEMORY_BYTES),
        (resource.RLIMIT_CPU, SECONDS),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_CORE, 0),
    ):
        _, hard = resource.getrlimit(limit)
        most = amount if hard == resource.RLIM_INFINITY else min(amount, hard)
        resource.setrlimit(limit, (most, most))
    try:
        return _convert(io.BytesIO(sys.stdin.buffer.read()))
    except MemoryError:
        return TOO_LARGE


def text_of(cell: object) -> str:
    """Return a cell as text: whole numbers without a decimal point, times in ISO 8601."""
    if isinstance(cell, bool):
        return str(cell).lower()
    if isinstance(cell, float) and cell.is_integer() and abs(cell) <= _MAX_EXACT:
        return str(int(cell))
    return cell.isoformat() if isinstance(cell, date | datetime | time) else str(cell)


def _convert(content: io.BytesIO) -> int:
    from python_calamine import CalamineError, PasswordError

    try:
        with zipfile.ZipFile(content) as archive:
            parts = {each.filename: each.file_size for each in archive.infolist()}
        if "xl/workbook.xml" not in parts:
            return NOT_A_WORKBOOK
        if sum(parts.values()) > MAX_UNPACKED_BYTES:
            return TOO_LARGE
        content.seek(0)
        rows = _rows_of(content)
    except PasswordError:
        return HAS_PASSWORD
    except (CalamineError, zipfile.BadZipFile, ValueError, NotImplementedError):
        return NOT_A_WORKBOOK
    return NO_SHEET if rows is None else _write(rows)


def _rows_of(content: io.BytesIO) -> Iterable[list[Any]] | None:
    """Return the rows of the first sheet that has cells; None if all sheets are empty."""
    from python_calamine import CalamineWorkbook, SheetTypeEnum

    workbook = CalamineWorkbook.from_filelike(content)
    tables = [each.name for each in workbook.sheets_metadata if each.typ == SheetTypeEnum.WorkSheet]
    return workbook.get_sheet_by_name(tables[0]).iter_rows() if tables else None


def _write(rows: Iterable[list[Any]]) -> int:
    out = io.TextIOWrapper(sys.stdout.buffer, "utf-8", errors="replace", newline="")
    writer = csv.writer(out, lineterminator="\n")
    for row in rows:
        cells = [text_of(each) for each in row]
        if any(cells):
            writer.writerow(cells)
    out.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())
