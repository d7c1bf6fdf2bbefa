"""Excel workbooks for tests, written as their XML.

Lives here: writing a small `.xlsx` file, also one that is hostile.
Keep out: fixtures and assertions.
"""

import io
import zipfile
from collections.abc import Sequence
from xml.sax.saxutils import escape

_MAIN = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"
_OFFICE = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
_PACKAGE = "http://schemas.openxmlformats.org/package/2006/relationships"
SHEET = '<sheet name="Customers" sheetId="1" r:id="rId1"/>'
Cell = str | float | tuple[str, str]


def workbook(
    rows: Sequence[Sequence[Cell]] = (), *, cells: str | None = None, sheets: str = SHEET, claims: int = 0
) -> bytes:
    """Return a workbook of one sheet.

    Args:
        rows: Texts, numbers, and pairs of a formula and its stored value.
        cells: The XML of its rows instead.
        sheets: The XML of its list of sheets.
        claims: Size that the archive states for its last part, if above 0.
    """
    if cells is None:
        cells = "".join(f"<row>{''.join(map(_cell, row))}</row>" for row in rows)
    parts = {
        "[Content_Types].xml": '<Types xmlns="http://schemas.openxmlformats.org/package/2006/content-types"/>',
        "_rels/.rels": _relation(f"{_OFFICE}/officeDocument", "xl/workbook.xml"),
        "xl/workbook.xml": f'<workbook xmlns="{_MAIN}" xmlns:r="{_OFFICE}"><sheets>{sheets}</sheets></workbook>',
        "xl/_rels/workbook.xml.rels": _relation(f"{_OFFICE}/worksheet", "worksheets/sheet1.xml"),
        "xl/worksheets/sheet1.xml": f'<worksheet xmlns="{_MAIN}"><sheetData>{cells}</sheetData></worksheet>',
    }
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in parts.items():
            archive.writestr(name, f'<?xml version="1.0"?>{text}')
        if claims:
            archive.infolist()[-1].file_size = claims
    return out.getvalue()


def archive(name: str = "table.csv", text: str = "a,b") -> bytes:
    """Return a ZIP archive with one file."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as packed:
        packed.writestr(name, text)
    return out.getvalue()


def _cell(cell: Cell) -> str:
    if isinstance(cell, tuple):
        return f'<c t="str"><f>{escape(cell[0])}</f><v>{escape(cell[1])}</v></c>'
    if isinstance(cell, str):
        return f'<c t="inlineStr"><is><t>{escape(cell)}</t></is></c>'
    return f"<c><v>{cell}</v></c>"


def _relation(kind: str, target: str) -> str:
    relation = f'<Relationship Id="rId1" Type="{kind}" Target="{target}"/>'
    return f'<Relationships xmlns="{_PACKAGE}">{relation}</Relationships>'
