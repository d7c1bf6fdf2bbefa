"""Types of the columns of text tables (CSV, JSON Lines), whose files store every cell as text.

Lives here: reading a table's `_schema.json`, the types that a training dataset declares, and converting cells.
Add here when a column can have another type.
Keep out: running queries (child.py), and types of Parquet files, which have their own.

`_schema.json` is the list of columns as Glue's API returns it: `[{"Name": "visits", "Type": "bigint"}, …]`. A cell
that is not of its column's type is NULL, as in Hive and Athena.
"""

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

from cleanroom_pipelines.engine.sql import quote_identifier, quote_literal
from cleanroom_pipelines.uploads.roles import Role

SCHEMA_FILE: Final = "_schema.json"
_MAX_BYTES: Final = 100_000
_WHOLE = "[+-]?[0-9]+"
_NUMBER = r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?"
_DAY = "[0-9]{4}-[0-9]{2}-[0-9]{2}"
# DuckDB's type, and the pattern of cells to convert: DuckDB would round others, such as 1.5 as an INTEGER.
_TYPES: Final[Mapping[str, tuple[str, str]]] = {
    "tinyint": ("TINYINT", _WHOLE),
    "smallint": ("SMALLINT", _WHOLE),
    "int": ("INTEGER", _WHOLE),
    "integer": ("INTEGER", _WHOLE),
    "bigint": ("BIGINT", _WHOLE),
    "float": ("FLOAT", _NUMBER),
    "double": ("DOUBLE", _NUMBER),
    "boolean": ("BOOLEAN", "(?i)true|false"),
    "date": ("DATE", _DAY),
    "timestamp": ("TIMESTAMP", rf"{_DAY}([ T][0-9]{{2}}:[0-9]{{2}}:[0-9]{{2}}(\.[0-9]{{1,6}})?)?"),
}
_TEXT = re.compile(r"string|(?:var)?char\([0-9]{1,5}\)")
_DECIMAL = re.compile(r"decimal\(([0-9]{1,2}),([0-9]{1,2})\)")


class SchemaError(Exception):
    """A `_schema.json` is not a list of columns with supported types."""


def declared_types(columns: Iterable[tuple[str, Role]]) -> dict[str, str]:
    """Return the types of a training dataset's numeric columns by name; non-numeric columns stay text."""
    return {name: "double" for name, role in columns if role is Role.NUMERICAL_FEATURE}


def schema_of(folder: Path) -> dict[str, str] | None:
    """Read the `_schema.json` of a table's folder; None if there is none.

    Args:
        folder: The folder, whose links were checked.

    Raises:
        SchemaError: The file cannot be read.
    """
    file = folder / SCHEMA_FILE
    if not file.is_file():
        return None
    try:
        with file.open("rb") as stream:
            text = stream.read(_MAX_BYTES + 1)
        if len(text) > _MAX_BYTES:
            raise ValueError
        types = {column["Name"]: column["Type"].lower().replace(" ", "") for column in json.loads(text)}
        for name, type_ in types.items():
            _converted(name, type_)
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
        raise SchemaError from None
    return types


def typed(view: str, columns: Iterable[str], types: Mapping[str, str]) -> str:
    """Return the query that converts a view's text columns to their types.

    Args:
        view: The view.
        columns: Its columns, as text.
        types: Types by column, with any case; a column without one stays text.
    """
    by_name = {name.lower(): type_ for name, type_ in types.items()}
    shown = ", ".join(
        f"{_converted(name, by_name.get(name.lower(), 'string'))} AS {quote_identifier(name)}" for name in columns
    )
    return f"SELECT {shown} FROM {quote_identifier(view)}"


def _converted(name: str, type_: str) -> str:
    """Return the SQL expression that converts a text column to a type."""
    column = quote_identifier(name)
    if _TEXT.fullmatch(type_):
        return column
    converted, pattern = _TYPES[type_] if type_ in _TYPES else (_decimal(type_), _NUMBER)
    cell = f"trim({column})"
    fits = f"regexp_full_match({cell}, {quote_literal(pattern)})"
    return f"CASE WHEN {fits} THEN TRY_CAST({cell} AS {converted}) END"


def _decimal(type_: str) -> str:
    found = _DECIMAL.fullmatch(type_)
    if not found or not 1 <= int(found[1]) <= 38 or int(found[2]) > int(found[1]):
        raise ValueError
    return f"DECIMAL({int(found[1])}, {int(found[2])})"
