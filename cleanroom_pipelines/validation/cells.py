"""What a valid cell is, by the role of its column: types, patterns, SQL.

Lives here: which physical types a role takes, and the one definition of a valid cell that both the pandera
schemas and the SQL over whole files use (DuckDB and Arrow share RE2, so a pattern means the same in both).
Add here when a role or a file format brings a new kind of cell.
Keep out: counting and reporting.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa

from cleanroom_pipelines.engine import Engine, TableFiles, quote_identifier
from cleanroom_pipelines.errors import UsageError
from cleanroom_pipelines.validation.report import ErrorCode

USER_ID = "USER_ID"
ITEM_ID = "ITEM_ID"
TIMESTAMP = "TIMESTAMP"
CATEGORICAL_FEATURE = "CATEGORICAL_FEATURE"
NUMERICAL_FEATURE = "NUMERICAL_FEATURE"

# Seconds since 1970 stay below this until the year 5138; milliseconds have been above it since 1973.
MAX_SECONDS = 100_000_000_000

# Kinds of physical type. "cell" is text still to be taken apart (CSV, JSON Lines); the others are parquet's.
CELL, TEXT, INTEGER, FLOAT, DECIMAL, BOOLEAN, TIME, LIST, OTHER = (
    "cell",
    "text",
    "integer",
    "float",
    "decimal",
    "boolean",
    "time",
    "list",
    "other",
)

_KINDS_OF_ROLE = {
    USER_ID: {CELL, TEXT, INTEGER},
    ITEM_ID: {CELL, TEXT, INTEGER},
    TIMESTAMP: {CELL, INTEGER, TIME},
    CATEGORICAL_FEATURE: {CELL, TEXT, INTEGER, FLOAT, DECIMAL, BOOLEAN, LIST},
    NUMERICAL_FEATURE: {CELL, INTEGER, FLOAT, DECIMAL},
}
TYPES_IN_WORDS = {
    USER_ID: "a string or an integer",
    ITEM_ID: "a string or an integer",
    TIMESTAMP: "an integer (epoch seconds) or a timestamp",
    CATEGORICAL_FEATURE: "a string, number, boolean or list",
    NUMERICAL_FEATURE: "a number",
}

# Whole numbers as they are written, also by pandas for a column with gaps ("881250949.0").
_INTEGER_PATTERN = r" *-?[0-9]+(\.0*)? *"
_SECONDS_PATTERN = r" *-?0*[0-9]{1,11}(\.0*)? *"
# Bounded so that every match is finite as a DOUBLE.
_NUMBER_PATTERN = r" *-?([0-9]{1,100}(\.[0-9]*)?|\.[0-9]+)([eE](-[0-9]{1,3}|\+?[0-9]{1,2}))? *"


@dataclass(frozen=True)
class Column:
    """A declared column as it lies in the files.

    Args:
        name: Its name in the files.
        role: One of the five roles.
        kind: Its kind of physical type.
        type: The physical type in words, for reports.
    """

    name: str
    role: str
    kind: str
    type: str

    @property
    def fits(self) -> bool:
        """Whether the role takes this type. Source: AWS Clean Rooms ML, training data requirements."""
        return self.kind in _KINDS_OF_ROLE[self.role]

    @property
    def required(self) -> bool:
        """Whether every row needs a value; a missing feature is no error."""
        return self.role in (USER_ID, ITEM_ID, TIMESTAMP)

    @property
    def pattern(self) -> tuple[ErrorCode, str] | None:
        """What the text of a cell must match in full, and the code if it does not."""
        if self.kind == CELL and self.role == TIMESTAMP:
            return ErrorCode.INVALID_INTEGER_FORMAT, _INTEGER_PATTERN
        if self.kind == CELL and self.role == NUMERICAL_FEATURE:
            return ErrorCode.INVALID_FLOAT_FORMAT, _NUMBER_PATTERN
        return None

    @property
    def range_pattern(self) -> str | None:
        """What the text of a well-formed cell must match in full to be in range."""
        return _SECONDS_PATTERN if self.kind == CELL and self.role == TIMESTAMP else None


def check_declaration(columns: Sequence[tuple[str, str]], *, needs: Sequence[str]) -> None:
    """Refuse a declaration that cannot be meant.

    Args:
        columns: Column names and roles.
        needs: Roles of which there must be exactly one.

    Raises:
        UsageError: An unknown role, a repeated column name, or a needed role missing or repeated.
    """
    roles = [role for _, role in columns]
    if any(role not in _KINDS_OF_ROLE for role in roles):
        raise UsageError("A column has an unknown role.", remedy=f"Roles are {', '.join(_KINDS_OF_ROLE)}.")
    if len({name.lower() for name, _ in columns}) != len(columns):
        raise UsageError("A column is declared twice.", remedy="Give each column one role.")
    for role in needs:
        if roles.count(role) != 1:
            raise UsageError(f"Exactly one column must have the role {role}.")
    if roles.count(TIMESTAMP) > 1:
        raise UsageError(f"At most one column can have the role {TIMESTAMP}.")


def columns_of(
    engine: Engine, view: str, tables: TableFiles, declared: Sequence[tuple[str, str]]
) -> tuple[Column, ...]:
    """Look at the physical types of the declared columns of a scanned view; all must exist."""
    if tables.format != "parquet":
        return tuple(Column(name, role, CELL, "text") for name, role in declared)
    names = ", ".join(quote_identifier(name) for name, _ in declared)
    schema = engine.fetch(f"SELECT {names} FROM {quote_identifier(view)} LIMIT 0").schema
    return tuple(
        Column(name, role, _kind_of(field.type), str(field.type))
        for (name, role), field in zip(declared, schema, strict=True)
    )


def _kind_of(type_: pa.DataType) -> str:
    if pa.types.is_dictionary(type_):
        type_ = type_.value_type
    tests = {
        TEXT: (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view),
        INTEGER: (pa.types.is_integer,),
        FLOAT: (pa.types.is_floating,),
        DECIMAL: (pa.types.is_decimal,),
        BOOLEAN: (pa.types.is_boolean,),
        TIME: (pa.types.is_timestamp, pa.types.is_date),
        LIST: (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list),
    }
    return next((kind for kind, is_kinds in tests.items() if any(is_kind(type_) for is_kind in is_kinds)), OTHER)


def valid_sql(columns: Sequence[Column]) -> str:
    """A condition that is true for valid rows and false (never NULL) for the others; at least one column."""
    return " AND ".join(_valid_cell_sql(column) for column in columns)


def _valid_cell_sql(column: Column) -> str:
    name = quote_identifier(column.name)
    conditions = {
        (TIMESTAMP, CELL): f"regexp_full_match({name}, '{_SECONDS_PATTERN}')",
        (TIMESTAMP, INTEGER): f"{name} > -{MAX_SECONDS} AND {name} < {MAX_SECONDS}",
        (NUMERICAL_FEATURE, CELL): f"{name} = '' OR regexp_full_match({name}, '{_NUMBER_PATTERN}')",
        (NUMERICAL_FEATURE, FLOAT): f"NOT isinf({name})",
        # Always true, yet it makes DuckDB look at the cell: it rejects a line with a cell that is no UTF-8 only
        # if the query reads that cell, and every query over the valid rows must find the same ones.
        (CATEGORICAL_FEATURE, CELL): f"strlen({name}) >= 0",
    }
    if column.required and column.kind in (CELL, TEXT):
        conditions.setdefault((column.role, column.kind), f"{name} <> ''")
    condition = conditions.get((column.role, column.kind), f"{name} IS NOT NULL" if column.required else "true")
    return f"coalesce({condition}, {'false' if column.required else 'true'})"


def typed_sql(column: Column) -> str:
    """The value of a valid cell: ids and texts as VARCHAR, time as BIGINT epoch seconds, numbers as DOUBLE."""
    name = quote_identifier(column.name)
    if column.role in (USER_ID, ITEM_ID):
        return f"CAST({name} AS VARCHAR)"
    if column.role == TIMESTAMP:
        if column.kind == TIME:
            return f"CAST(floor(epoch({name})) AS BIGINT)"
        return f"CAST(trim({name}) AS BIGINT)" if column.kind == CELL else f"CAST({name} AS BIGINT)"
    if column.role == NUMERICAL_FEATURE:
        return f"CAST(nullif(trim({name}), '') AS DOUBLE)" if column.kind == CELL else f"CAST({name} AS DOUBLE)"
    return name


def valid_rows_sql(view: str, columns: Sequence[Column]) -> str:
    """A query of the valid rows of a scanned view, in file order, under their own names with typed values."""
    cells = ", ".join(f"{typed_sql(column)} AS {quote_identifier(column.name)}" for column in columns)
    return f"SELECT {cells} FROM {quote_identifier(view)} WHERE {valid_sql(columns)}"
