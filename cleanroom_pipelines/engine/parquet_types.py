"""Types and names of parquet columns.

Lives here: opening a file, its schema, and which types and names count as the same.
Add here when parquet files may have another type.
Keep out: which types fit a column's role (`uploads`), and SQL (the engines).
"""

import re
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from cleanroom_pipelines.engine.packing import open_binary

UUID = pa.uuid()

_NUMBERED = re.compile(r"(_\d+)+$")
_LISTS = (
    pa.types.is_list,
    pa.types.is_large_list,
    pa.types.is_fixed_size_list,
    pa.types.is_list_view,
    pa.types.is_large_list_view,
)
_LIKE = {
    pa.types.is_large_string: pa.string(),
    pa.types.is_string_view: pa.string(),
    pa.types.is_large_binary: pa.binary(),
    pa.types.is_fixed_size_binary: pa.binary(),
    pa.types.is_binary_view: pa.binary(),
}


def read_schema(file: Path) -> pa.Schema:
    """Read a parquet file's column names and types, each type simplified by `plain_type`.

    Raises:
        ValueError: The file is not parquet.
    """
    import pyarrow.parquet as pq

    try:
        with open_binary(file) as stream:
            schema = pq.read_schema(stream)
    except pa.ArrowException as error:
        cause = type(error).__name__
    else:
        return pa.schema([pa.field(field.name, plain_type(field.type)) for field in schema])
    raise ValueError(cause)


def open_parquet(source: Any) -> Any:
    """Open a parquet file whose batches are read one after another, in the same memory for any number of rows."""
    import pyarrow.parquet as pq

    # With pre_buffer, Arrow holds all bytes that it has read until the file is closed: 17 bytes per ranked user.
    return pq.ParquetFile(source, pre_buffer=False)


def renamed(names: Sequence[str], repeated: Collection[str]) -> frozenset[str]:
    """Return column names that DuckDB may also give to repeated columns: it renames a second `m` to `m_1`."""
    bases = {name.lower() for name in repeated}
    return frozenset(name for name in names if _NUMBERED.sub("", name.lower()) in bases)


def plain_type(type_: pa.DataType) -> pa.DataType:
    """Simplify a type to what queries see, without encodings, offsets, names of list items and extensions."""
    is_kind = pa.types
    if isinstance(type_, pa.BaseExtensionType):
        return UUID if type_ == UUID else plain_type(type_.storage_type)
    if is_kind.is_dictionary(type_):
        return plain_type(type_.value_type)
    if is_kind.is_timestamp(type_):
        return pa.timestamp("ns" if type_.unit == "ns" else "us", tz="UTC" if type_.tz else None)
    if any(is_list(type_) for is_list in _LISTS):
        return pa.list_(plain_type(type_.value_type))
    return next((plain for is_like, plain in _LIKE.items() if is_like(type_)), type_)


def type_in_words(type_: pa.DataType) -> str:
    """Return a type's name for messages, without the field names of nested types, which may be data."""
    if pa.types.is_nested(type_):
        return str(type_).partition("<")[0]
    return "uuid" if type_ == UUID else str(type_)
