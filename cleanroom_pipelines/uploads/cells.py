"""Rules for usable cells by column role: types, patterns, SQL.

Lives here: the physical types each role accepts, and the only definition of a usable cell, for the pandera schemas
and for every query over whole files (DuckDB and Arrow both use RE2, so patterns mean the same in both).
Add here when a role or a file format has a new kind of cell.
Keep out: counting and reporting.

A row is dropped if an id is null or empty, its line cannot be parsed, or a cell has the wrong type: a time that is
not a whole number of seconds or is out of range, a number that is not finite. A missing time or feature does not
drop the row. NaN in a float column counts as missing.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa

from cleanroom_pipelines.engine import Engine, TableFiles, quote_identifier
from cleanroom_pipelines.errors import UsageError
from cleanroom_pipelines.uploads.roles import Role

# Seconds since 1970 stay below this until the year 5138; milliseconds have been above it since 1973.
MAX_SECONDS = 100_000_000_000

# Kinds of physical type. "cell" is unparsed text (CSV, JSON Lines); the others are parquet types.
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
    Role.USER_ID: {CELL, TEXT, INTEGER},
    Role.ITEM_ID: {CELL, TEXT, INTEGER},
    Role.TIMESTAMP: {CELL, INTEGER, TIME},
    Role.CATEGORICAL_FEATURE: {CELL, TEXT, INTEGER, FLOAT, DECIMAL, BOOLEAN, LIST},
    Role.NUMERICAL_FEATURE: {CELL, INTEGER, FLOAT, DECIMAL},
}
TYPES_IN_WORDS = {
    Role.USER_ID: "a string or an integer",
    Role.ITEM_ID: "a string or an integer",
    Role.TIMESTAMP: "an integer (epoch seconds) or a timestamp",
    Role.CATEGORICAL_FEATURE: "a string, number, boolean or list",
    Role.NUMERICAL_FEATURE: "a number",
}

# Whole numbers, also as pandas writes them for a column with missing values ("881250949.0").
_INTEGER_PATTERN = r" *-?[0-9]+(\.0*)? *"
_SECONDS_PATTERN = r" *-?0*[0-9]{1,11}(\.0*)? *"
# Bounded so that every match is finite as a DOUBLE.
_NUMBER_PATTERN = r" *-?([0-9]{1,100}(\.[0-9]*)?|\.[0-9]+)([eE](-[0-9]{1,3}|\+?[0-9]{1,2}))? *"


@dataclass(frozen=True)
class Column:
    """A declared column with its type in the files.

    Args:
        name: Its name in the files.
        role: Its role.
        kind: Kind of its physical type.
        type: Name of its physical type, for reports.
    """

    name: str
    role: Role
    kind: str
    type: str

    @property
    def fits(self) -> bool:
        """Whether the role accepts this type. Source: AWS Clean Rooms ML, training data requirements."""
        return takes(self.role, self.kind)

    @property
    def pattern(self) -> str | None:
        """Pattern that a non-empty text cell must match in full to be a number."""
        if self.kind != CELL:
            return None
        return {Role.TIMESTAMP: _INTEGER_PATTERN, Role.NUMERICAL_FEATURE: _NUMBER_PATTERN}.get(self.role)

    @property
    def range_pattern(self) -> str | None:
        """Pattern that a well-formed text cell must match in full to be in range."""
        return _SECONDS_PATTERN if self.kind == CELL and self.role is Role.TIMESTAMP else None


def takes(role: Role, kind: str) -> bool:
    """Whether a column with this role may have this kind of type."""
    return kind in _KINDS_OF_ROLE[role]


def check_declaration(
    columns: Sequence[tuple[str, str]], *, needs: Sequence[Role]
) -> tuple[tuple[str, Role], ...]:
    """Check a declaration of columns, and return it with typed roles.

    Args:
        columns: Column names and roles.
        needs: Roles that must occur exactly once.

    Returns:
        The same columns with their roles as `Role`.

    Raises:
        UsageError: A role is unknown, a column is repeated, or a required role is missing or repeated.
    """
    if any(role not in set(Role) for _, role in columns):
        raise UsageError("A column has an unknown role.", remedy=f"Use one of {', '.join(Role)}.")
    declared = tuple((name, Role(role)) for name, role in columns)
    roles = [role for _, role in declared]
    # SQL treats "id" and "ID" as the same name.
    if len({name.lower() for name, _ in declared}) != len(declared):
        raise UsageError("A column is declared twice.", remedy="Give each column one role.")
    for role in needs:
        if roles.count(role) != 1:
            raise UsageError(f"Exactly one column must have the role {role}.")
    if roles.count(Role.TIMESTAMP) > 1:
        raise UsageError(f"At most one column can have the role {Role.TIMESTAMP}.")
    return declared


def columns_of(
    engine: Engine, view: str, tables: TableFiles, declared: Sequence[tuple[str, Role]]
) -> tuple[Column, ...]:
    """Read the physical types of the declared columns of a scanned view; all must exist."""
    types = physical_types(engine, view, tables, [name for name, _ in declared])
    return tuple(Column(name, role, *types[name]) for name, role in declared)


def physical_types(
    engine: Engine, view: str, tables: TableFiles, names: Sequence[str]
) -> Mapping[str, tuple[str, str]]:
    """Read the kinds and names of the physical types of columns of a scanned view; all must exist."""
    if tables.format != "parquet":
        return dict.fromkeys(names, (CELL, "text"))
    if not names:
        return {}
    quoted = ", ".join(quote_identifier(name) for name in names)
    schema = engine.fetch(f"SELECT {quoted} FROM {quote_identifier(view)} LIMIT 0").schema
    return {name: (_kind_of(field.type), str(field.type)) for name, field in zip(names, schema, strict=True)}


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


def usable_row_sql(columns: Sequence[Column]) -> str:
    """SQL condition: true for usable rows, false (never NULL) for the others; needs at least one column."""
    return " AND ".join(usable_cell_sql(column) for column in columns)


def usable_cell_sql(column: Column) -> str:
    """SQL condition: true for usable cells, false (never NULL) for the others."""
    name = quote_identifier(column.name)
    if column.role.is_id:
        return f"{name} IS NOT NULL" if column.kind == INTEGER else f"coalesce({name} <> '', false)"
    conditions = {
        (Role.TIMESTAMP, CELL): f"{name} = '' OR regexp_full_match({name}, '{_SECONDS_PATTERN}')",
        (Role.TIMESTAMP, INTEGER): f"{name} > -{MAX_SECONDS} AND {name} < {MAX_SECONDS}",
        # The epoch of an infinite time is NULL.
        (Role.TIMESTAMP, TIME): f"coalesce(epoch({name}) > -{MAX_SECONDS} AND epoch({name}) < {MAX_SECONDS}, "
        f"{name} IS NULL)",
        (Role.NUMERICAL_FEATURE, CELL): f"{name} = '' OR regexp_full_match({name}, '{_NUMBER_PATTERN}')",
        (Role.NUMERICAL_FEATURE, FLOAT): f"NOT isinf({name})",
        # Always true, but it makes DuckDB read the cell. DuckDB rejects a line with invalid UTF-8 only if the
        # query reads that cell, and every query over the usable rows must find the same rows.
        (Role.CATEGORICAL_FEATURE, CELL): f"strlen({name}) >= 0",
    }
    condition = conditions.get((column.role, column.kind))
    return f"coalesce({condition}, true)" if condition else "true"


def value_sql(column: Column) -> str:
    """SQL expression for the value of a usable cell; on other cells some value or NULL, never an error.

    Types: VARCHAR for ids and text, but integer ids stay integers (grouping and joining them is several times
    faster), BIGINT epoch seconds for times, DOUBLE for numbers, VARCHAR[] for lists. Missing values are NULL.
    """
    name = quote_identifier(column.name)
    trimmed = f"trim({name})" if column.kind == CELL else name
    values = {
        Role.USER_ID: name,
        Role.ITEM_ID: name,
        Role.TIMESTAMP: f"TRY_CAST({trimmed} AS BIGINT)",
        Role.CATEGORICAL_FEATURE: f"CAST({name} AS {'VARCHAR[]' if column.kind == LIST else 'VARCHAR'})",
        Role.NUMERICAL_FEATURE: f"TRY_CAST({trimmed} AS DOUBLE)",
    }
    special = {
        (Role.TIMESTAMP, TIME): f"TRY_CAST(floor(epoch({name})) AS BIGINT)",
        (Role.CATEGORICAL_FEATURE, CELL): f"nullif({name}, '')",
        (Role.CATEGORICAL_FEATURE, TEXT): f"nullif({name}, '')",
        (Role.NUMERICAL_FEATURE, FLOAT): f"CASE WHEN isfinite({name}) THEN CAST({name} AS DOUBLE) END",
    }
    return special.get((column.role, column.kind), values[column.role])
