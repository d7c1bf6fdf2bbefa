"""Reading the training tables: what is wrong with them, who is in them, and who touched what.

Lives here: column checks, the profile, the user and item dictionaries, the stream of pairs, features per user.
Add here when a role gets another type, or a further number per user comes out of the tables.
Keep out: matrices (pairs, representation) and every decision about a seed.

All queries give the same answer for every row order, file split and thread count: they count, take minima and
maxima, and add integers; floating sums would depend on the order.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa

from cleanroom_pipelines.engine import Engine, TableFiles, find_tables, quote_identifier, stable_hash_sql
from cleanroom_pipelines.errors import InputError, StatusCode, TrainingDataError
from cleanroom_pipelines.similarity.specs import (
    InteractionsSchema,
    Role,
    SizeProfile,
    TrainingSettings,
    UsersSchema,
    Window,
)

# 10^11 seconds is the year 5138; the same number of milliseconds is March 1973.
LATEST_SECOND = 100_000_000_000
ITEM_BITS = 20
DAY_BITS = 16
UNKNOWN_DAY = (1 << DAY_BITS) - 1
_SECONDS_PER_DAY = 86_400
_INTEGERS = ("TINYINT", "SMALLINT", "INTEGER", "BIGINT", "HUGEINT", "UTINYINT", "USMALLINT", "UINTEGER", "UBIGINT")
_NUMBERS = (*_INTEGERS, "FLOAT", "DOUBLE", "DECIMAL")
_FIXED_POINT = 2**40


@dataclass(frozen=True)
class Feature:
    """One dense column per user.

    Args:
        name: What a person reads, such as `brand = store` or `mean spend`.
        group: activity, recency, interactions or users.
        column: Source column, empty for counts.
        value: Category the column stands for, None for numbers.
    """

    name: str
    group: str
    column: str = ""
    value: str | None = None


@dataclass(frozen=True)
class Interactions:
    """The usable interactions as the engine's view `events`, and what was found in the file.

    Args:
        n_rows: Rows in the files.
        n_invalid: Rows dropped.
        n_usable: Rows in the window.
        window: Resolved window.
        first_time: Earliest second in the window.
        last_time: Latest second in the window.
        ignored_columns: Columns without a role.
        types: Declared column to its type.
        scales: Numerical column to the factor that makes its cells integers.
    """

    n_rows: int
    n_invalid: int
    n_usable: int
    window: Window
    first_time: int | None
    last_time: int | None
    ignored_columns: tuple[str, ...]
    types: Mapping[str, str]
    scales: Mapping[str, float] = field(default_factory=dict)


def find_training_tables(source: str | Path, *, what: str) -> TableFiles:
    """Find the files of a training table.

    Raises:
        TrainingDataError: Not found, empty, or unreadable.
    """
    try:
        return find_tables(source, what=what)
    except InputError as error:
        not_found = "not found" in error.message
        raise TrainingDataError(
            error.message,
            remedy=error.remedy,
            status_code=StatusCode.TRAINING_DATA_NOT_FOUND if not_found else StatusCode.TRAINING_DATA_INVALID,
        ) from None


def open_interactions(
    engine: Engine,
    tables: TableFiles,
    schema: InteractionsSchema,
    *,
    window: Window,
    window_seconds: int | None,
    max_invalid_share: float,
    scratch: Path,
) -> Interactions:
    """Check the interactions table and make its usable rows the view `events`.

    Returns:
        What was found; `events` has user_id, item_id, ts (epoch seconds or NULL) and f0, f1, … for the features.

    Raises:
        TrainingDataError: A missing or mistyped column, times that are not seconds, too many bad rows, no rows.
    """
    types = _column_types(engine, "interactions", tables, schema.columns)
    if tables.format != "parquet":
        n_unreadable = _parse_once(engine, "interactions", tables, schema.columns, scratch / "rows.parquet")
    else:
        n_unreadable = 0
    text = tables.format != "parquet"
    cells = [
        f"{_id_cell(schema.user_column, types)} AS user_id",
        f"{_id_cell(schema.item_column, types)} AS item_id",
        f"{_time_cell(schema.time_column, types, text=text)} AS ts",
        f"{_bad_time(schema.time_column, types, text=text)} AS bad_ts",
    ]
    bad_numbers = []
    for number, (column, role) in enumerate(schema.features):
        cells.append(f"{_feature_cell(column, role, types)} AS f{number}")
        if role is Role.NUMERICAL_FEATURE and types[column] == "VARCHAR":
            name = quote_identifier(column)
            bad_numbers.append(f"({name} IS NOT NULL AND TRY_CAST({name} AS DOUBLE) IS NULL)")
    cells.append(f"({' OR '.join(bad_numbers) or 'false'}) AS bad_number")
    engine.execute(f"CREATE OR REPLACE TEMP VIEW cells AS SELECT {', '.join(cells)} FROM interactions")
    profile = _one(
        engine,
        f"""-- one row: what is wrong, and the span of time of the rest
        SELECT count(*) AS n_rows,
               count(*) FILTER (user_id IS NULL OR item_id IS NULL OR bad_ts OR bad_number) AS n_invalid,
               count(*) FILTER (bad_ts AND ts IS NOT NULL) AS n_not_seconds,
               min(ts) FILTER (NOT bad_ts) AS first_ts,
               max(ts) FILTER (NOT bad_ts AND user_id IS NOT NULL AND item_id IS NOT NULL) AS last_ts
               {_max_abs(schema)}
        FROM cells""",
    )
    n_rows = profile["n_rows"] + n_unreadable
    n_invalid = profile["n_invalid"] + n_unreadable
    if n_rows == 0:
        raise TrainingDataError("The interactions table has no rows.", remedy="Give a table with interactions.")
    if profile["n_not_seconds"] > max_invalid_share * n_rows:
        raise TrainingDataError(
            "The timestamps are not epoch seconds: they lie beyond the year 5138.",
            remedy="Divide milliseconds by 1,000 (or microseconds by 1,000,000) before training.",
            n_rows=n_rows,
        )
    check_invalid_share(n_invalid, n_rows, max_invalid_share)
    window = _resolved(window, window_seconds, profile["last_ts"], has_time=schema.time_column is not None)
    conditions = ["user_id IS NOT NULL", "item_id IS NOT NULL", "NOT bad_ts", "NOT bad_number"]
    # The bounds are integers of our own, not text of a user: a view cannot hold bound values.
    if window.start is not None:
        conditions.append(f"ts >= {int(window.start)}")
    if window.end is not None:
        conditions.append(f"ts < {int(window.end)}")
    features = "".join(f", f{number}" for number in range(len(schema.features)))
    engine.execute(
        "CREATE OR REPLACE TEMP VIEW events AS "
        f"SELECT user_id, item_id, ts{features} FROM cells WHERE {' AND '.join(conditions)}"
    )
    if window.is_open:
        n_usable, first, last = n_rows - n_invalid, profile["first_ts"], profile["last_ts"]
    else:
        found = _one(engine, "SELECT count(*) AS n, min(ts) AS first_ts, max(ts) AS last_ts FROM events")
        n_usable, first, last = found["n"], found["first_ts"], found["last_ts"]
    if n_usable == 0:
        raise TrainingDataError(
            "No interaction lies in the training window.",
            remedy="Move the window over the table's time span, or leave it open.",
        )
    declared = {column for column, _ in schema.columns}
    return Interactions(
        n_rows=n_rows,
        n_invalid=n_invalid,
        n_usable=n_usable,
        window=window,
        first_time=first,
        last_time=last,
        ignored_columns=tuple(column for column in tables.columns if column not in declared),
        types=types,
        scales={
            f"f{number}": _scale(profile[f"max_f{number}"])
            for number, (_, role) in enumerate(schema.features)
            if role is Role.NUMERICAL_FEATURE
        },
    )


def check_invalid_share(n_invalid: int, n_rows: int, max_invalid_share: float) -> None:
    """Refuse a table with too many bad rows.

    Raises:
        TrainingDataError: More than `max_invalid_share` of the rows are bad.
    """
    if n_invalid > max_invalid_share * n_rows:
        raise TrainingDataError(
            f"{n_invalid:,} of {n_rows:,} interaction rows are invalid (null id, unreadable line or wrong type "
            f"in a cell); at most {max_invalid_share:.0%} may be.",
            remedy="Repair the rows, or allow more with --max-invalid.",
            n_invalid=n_invalid,
            n_rows=n_rows,
        )


def make_dictionaries(
    engine: Engine, schema: InteractionsSchema, found: Interactions, settings: TrainingSettings
) -> tuple[int, list[Feature], list[str]]:
    """Make the tables `users` (in order of stable_hash, then id) and `items` (commonest first).

    Returns:
        The number of users, the features counted over a user's interactions, and their columns in `users`.
    """
    columns, features, select, parameters = _aggregates(engine, schema, found, settings)
    extra = "".join(f", {expression} AS {column}" for column, expression in zip(columns, select, strict=True))
    engine.execute(
        f"""-- one row per user, its rowid being the user's number
        CREATE OR REPLACE TEMP TABLE users AS
        WITH per_user AS (
            SELECT user_id, count(*) AS n_events, min(ts) AS first_ts, max(ts) AS last_ts{extra}
            FROM events GROUP BY user_id
        ), named AS (
            SELECT *, CAST(user_id AS VARCHAR) AS name FROM per_user
        )
        SELECT *, {stable_hash_sql("name")} AS hash FROM named ORDER BY hash, name""",
        parameters,
    )
    engine.execute(
        f"""-- one row per item that can reach the vocabulary, its rowid being the candidate's number
        CREATE OR REPLACE TEMP TABLE items AS
        SELECT item_id, CAST(item_id AS VARCHAR) AS name, count(*) AS n_events
        FROM events GROUP BY item_id HAVING count(*) >= {int(settings.min_users_per_item)}
        ORDER BY n_events DESC, name LIMIT {(1 << ITEM_BITS) - 1}"""
    )
    n_users = int(_one(engine, "SELECT count(*) AS n FROM users")["n"])
    return n_users, features, columns


def check_population(engine: Engine, profile: SizeProfile, n_interactions: int) -> None:
    """Refuse a population below the profile's floors.

    Raises:
        TrainingDataError: Too few users or interactions (TRAINING_DATA_TOO_SMALL).
    """
    n_users = _one(
        engine,
        f"SELECT count(*) AS n FROM users WHERE n_events >= {int(profile.min_interactions_per_user)}",
    )["n"]
    if n_users < profile.min_users or n_interactions < profile.min_rows:
        each = (
            f" with at least {profile.min_interactions_per_user} interactions each"
            if profile.min_interactions_per_user > 1
            else ""
        )
        raise TrainingDataError(
            f"The window holds {n_users:,} users{each} and {n_interactions:,} interactions; the size profile "
            f"'{profile}' needs {profile.min_users:,} and {profile.min_rows:,}.",
            remedy="Give more data, or widen the window.",
            status_code=StatusCode.TRAINING_DATA_TOO_SMALL,
            n_users=n_users,
            n_interactions=n_interactions,
        )


def stream_pairs(engine: Engine, last_time: int | None) -> Iterator[pa.RecordBatch]:
    """Stream one packed number per interaction with a candidate item: user, item, days before the newest event."""
    day = str(UNKNOWN_DAY)
    if last_time is not None:
        day = (
            f"CASE WHEN e.ts IS NULL THEN {UNKNOWN_DAY} "
            f"ELSE least(({int(last_time)} - e.ts) // {_SECONDS_PER_DAY}, {UNKNOWN_DAY - 1}) END"
        )
    return engine.batches(
        f"""-- one row per interaction
        SELECT (CAST(u.rowid AS UBIGINT) << {ITEM_BITS + DAY_BITS})
             | (CAST(i.rowid AS UBIGINT) << {DAY_BITS}) | CAST({day} AS UBIGINT) AS packed
        FROM events e JOIN users u ON e.user_id = u.user_id JOIN items i ON e.item_id = i.item_id"""
    )


def stream_user_counts(engine: Engine, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
    """Stream number, events, first and last second and the feature columns, one row per user in any order."""
    extra = "".join(f", CAST({column} AS DOUBLE) AS {column}" for column in columns)
    return engine.batches(f"SELECT rowid AS number, n_events, first_ts, last_ts{extra} FROM users", rows=100_000)


@dataclass(frozen=True)
class UsersTable:
    """What came out of the users table.

    Args:
        features: One per dense column.
        columns: Their columns in the engine's table `user_features`.
        n_rows: Rows read.
        n_invalid: Rows dropped.
        n_matched: Users with interactions that have a row.
        ignored_columns: Columns without a role.
    """

    features: list[Feature]
    columns: list[str]
    n_rows: int
    n_invalid: int
    n_matched: int
    ignored_columns: tuple[str, ...]


def infer_users_schema(engine: Engine, tables: TableFiles, user_column: str) -> UsersSchema:
    """Roles for a users table nobody declared: the id column by name, numbers numerical, the rest categorical.

    Raises:
        TrainingDataError: The users table has no column of that name.
    """
    types = _types(engine, "user_rows", tables)
    if user_column not in types:
        raise TrainingDataError(
            "The users table lacks the user id column of the interactions.",
            remedy="Name it the same, or declare the users table's schema.",
        )
    roles = [(user_column, Role.USER_ID)]
    for column, type_ in types.items():
        if column != user_column:
            numerical = type_.startswith(_NUMBERS) and not type_.endswith("]")
            roles.append((column, Role.NUMERICAL_FEATURE if numerical else Role.CATEGORICAL_FEATURE))
    return UsersSchema(tuple(roles))


def read_users_table(
    engine: Engine,
    tables: TableFiles,
    schema: UsersSchema,
    settings: TrainingSettings,
    *,
    max_invalid_share: float,
) -> UsersTable:
    """Make `user_features`: one row per user of `users` that the users table knows.

    Raises:
        TrainingDataError: A missing or mistyped column, or too many bad rows.
    """
    types = _column_types(engine, "user_rows", tables, schema.columns)
    cells = [f"CAST({_id_cell(schema.user_column, types)} AS VARCHAR) AS user_id"]
    bad = ["user_id IS NULL"]
    for number, (column, role) in enumerate(schema.features):
        cells.append(f"{_feature_cell(column, role, types)} AS f{number}")
        if role is Role.NUMERICAL_FEATURE and types[column] == "VARCHAR":
            name = quote_identifier(column)
            cells.append(f"({name} IS NOT NULL AND TRY_CAST({name} AS DOUBLE) IS NULL) AS bad{number}")
            bad.append(f"bad{number}")
    engine.execute(f"CREATE OR REPLACE TEMP VIEW user_cells AS SELECT {', '.join(cells)} FROM user_rows")
    counts = _one(engine, f"SELECT count(*) AS n, count(*) FILTER ({' OR '.join(bad)}) AS bad FROM user_cells")
    n_unreadable = engine.unreadable_rows("user_rows")
    check_invalid_share(counts["bad"] + n_unreadable, max(1, counts["n"] + n_unreadable), max_invalid_share)
    names = [f"f{number}" for number in range(len(schema.features))]
    # Duplicates: the smallest value of each column, so that the row order cannot matter.
    smallest = "".join(f", min(c.{name}) AS {name}" for name in names)
    engine.execute(
        f"""-- one row per user with interactions that the users table knows
        CREATE OR REPLACE TEMP TABLE known_users AS
        SELECT u.rowid AS number{smallest}
        FROM user_cells c JOIN users u ON c.user_id = u.name
        WHERE NOT ({" OR ".join(f"c.{condition}" for condition in bad)})
        GROUP BY u.rowid"""
    )
    columns: list[str] = []
    select: list[str] = []
    features: list[Feature] = []
    parameters: list[Any] = []
    for number, (column, role) in enumerate(schema.features):
        if role is Role.NUMERICAL_FEATURE:
            columns.append(f"n{number}")
            select.append(f"f{number}")
            features.append(Feature(column, "users", column))
            continue
        for position, value in enumerate(
            _commonest(engine, "known_users", f"f{number}", _is_list(types[column]), settings)
        ):
            columns.append(f"c{number}_{position}")
            select.append(f"CAST({_holds(f'f{number}', _is_list(types[column]))} AS DOUBLE)")
            parameters.append(value)
            features.append(Feature(f"{column} = {value}", "users", column, value))
    extra = "".join(f", {expression} AS {name}" for name, expression in zip(columns, select, strict=True))
    engine.execute(
        f"CREATE OR REPLACE TEMP TABLE user_features AS SELECT number{extra} FROM known_users", parameters
    )
    declared = {column for column, _ in schema.columns}
    return UsersTable(
        features=features,
        columns=columns,
        n_rows=counts["n"] + n_unreadable,
        n_invalid=counts["bad"] + n_unreadable,
        n_matched=int(_one(engine, "SELECT count(*) AS n FROM known_users")["n"]),
        ignored_columns=tuple(column for column in tables.columns if column not in declared),
    )


def stream_user_features(engine: Engine, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
    """Stream number and feature columns, one row per known user in any order."""
    extra = "".join(f", CAST({column} AS DOUBLE) AS {column}" for column in columns)
    return engine.batches(f"SELECT number{extra} FROM user_features", rows=100_000)


def _one(engine: Engine, sql: str) -> dict[str, Any]:
    rows: list[dict[str, Any]] = engine.fetch(sql).to_pylist()
    return rows[0]


def _types(engine: Engine, view: str, tables: TableFiles) -> dict[str, str]:
    engine.scan(view, tables)
    described = engine.fetch(f"DESCRIBE SELECT * FROM {view}")
    return dict(zip(described["column_name"].to_pylist(), described["column_type"].to_pylist(), strict=True))


def _column_types(
    engine: Engine, view: str, tables: TableFiles, columns: Sequence[tuple[str, Role]]
) -> dict[str, str]:
    try:
        types = _types(engine, view, tables)
    except InputError:
        raise
    missing = [column for column, _ in columns if column not in types]
    if missing:
        raise TrainingDataError(
            f"The table lacks {len(missing)} declared column{'s' if len(missing) > 1 else ''}: "
            f"{', '.join(repr(column) for column in missing)}.",
            remedy="Correct the schema, or give the table those columns.",
            missing=tuple(missing),
        )
    for column, role in columns:
        if not _allowed(role, types[column]):
            raise TrainingDataError(
                f"Column {column!r} has type {types[column]}, which the role {role} does not allow.",
                remedy="Convert the column, or give it another role.",
                column=column,
            )
    return {column: types[column] for column, _ in columns}


def _allowed(role: Role, type_: str) -> bool:
    if role in (Role.USER_ID, Role.ITEM_ID):
        return type_ in ("VARCHAR", *_INTEGERS)
    if role is Role.TIMESTAMP:
        return type_ in ("VARCHAR", "DATE", *_INTEGERS) or type_.startswith("TIMESTAMP")
    if role is Role.NUMERICAL_FEATURE:
        return not _is_list(type_) and (type_ == "VARCHAR" or type_.startswith(_NUMBERS))
    return not type_.startswith(("STRUCT", "MAP", "BLOB"))


def _is_list(type_: str) -> bool:
    return type_.endswith("]")


def _parse_once(
    engine: Engine, view: str, tables: TableFiles, columns: Sequence[tuple[str, Role]], path: Path
) -> int:
    """Parse text once into parquet, since several queries follow; returns the lines that could not be split."""
    names = ", ".join(quote_identifier(column) for column, _ in columns)
    n_unreadable = engine.unreadable_rows(view)
    engine.write_parquet(f"SELECT {names} FROM {view}", path)
    engine.scan(view, find_tables(path))
    return n_unreadable


def _id_cell(column: str, types: Mapping[str, str]) -> str:
    name = quote_identifier(column)
    # Integer ids stay integers until the dictionary: grouping and joining them is several times faster.
    return f"nullif({name}, '')" if types[column] == "VARCHAR" else name


def _time_cell(column: str | None, types: Mapping[str, str], *, text: bool) -> str:
    if column is None:
        return "CAST(NULL AS BIGINT)"
    name, type_ = quote_identifier(column), types[column]
    if type_ in _INTEGERS:
        return f"TRY_CAST({name} AS BIGINT)"
    if type_ == "VARCHAR":
        seconds = f"CAST(floor(epoch(TRY_CAST({name} AS TIMESTAMPTZ))) AS BIGINT)"
        return f"coalesce(TRY_CAST({name} AS BIGINT), {seconds})"
    return f"CAST(floor(epoch({name})) AS BIGINT)"


def _bad_time(column: str | None, types: Mapping[str, str], *, text: bool) -> str:
    if column is None:
        return "false"
    seconds = _time_cell(column, types, text=text)
    return f"({quote_identifier(column)} IS NOT NULL AND ({seconds} IS NULL OR abs({seconds}) >= {LATEST_SECOND}))"


def _feature_cell(column: str, role: Role, types: Mapping[str, str]) -> str:
    name = quote_identifier(column)
    if role is Role.NUMERICAL_FEATURE:
        number = f"TRY_CAST({name} AS DOUBLE)"
        return f"CASE WHEN isfinite({number}) THEN {number} END"
    return f"CAST({name} AS VARCHAR[])" if _is_list(types[column]) else f"CAST({name} AS VARCHAR)"


def _max_abs(schema: InteractionsSchema) -> str:
    return "".join(
        f", max(abs(f{number})) AS max_f{number}"
        for number, (_, role) in enumerate(schema.features)
        if role is Role.NUMERICAL_FEATURE
    )


def _scale(largest: float | None) -> float:
    """A power of two that brings a column into 40-bit integers, whose sums are exact in any order."""
    import math

    return 2.0 ** math.floor(math.log2(_FIXED_POINT / largest)) if largest else 1.0


def _resolved(window: Window, seconds: int | None, last: int | None, *, has_time: bool) -> Window:
    if (seconds is not None or not window.is_open) and not has_time:
        raise TrainingDataError(
            "A training window needs a TIMESTAMP column.", remedy="Declare one, or train on everything."
        )
    if seconds is None or last is None:
        return window
    end = last + 1 if window.end is None else min(window.end, last + 1)
    return Window(max(end - seconds, window.start) if window.start is not None else end - seconds, end)


def _aggregates(
    engine: Engine, schema: InteractionsSchema, found: Interactions, settings: TrainingSettings
) -> tuple[list[str], list[Feature], list[str], list[Any]]:
    """Columns of `users` per feature of the interactions: means of numbers, shares of the commonest categories."""
    columns: list[str] = []
    features: list[Feature] = []
    select: list[str] = []
    parameters: list[Any] = []
    for number, (column, role) in enumerate(schema.features):
        cell = f"f{number}"
        if role is Role.NUMERICAL_FEATURE:
            scale = found.scales[cell]
            columns.append(f"n{number}")
            select.append(
                f"CAST(sum(CAST(round({cell} * {scale!r}) AS HUGEINT)) AS DOUBLE) / {scale!r} / count({cell})"
            )
            features.append(Feature(f"mean {column}", "interactions", column))
            continue
        is_list = _is_list(found.types[column])
        for position, value in enumerate(_commonest(engine, "events", cell, is_list, settings)):
            columns.append(f"c{number}_{position}")
            select.append(f"count(*) FILTER ({_holds(cell, is_list)}) / count(*)")
            parameters.append(value)
            features.append(Feature(f"{column} = {value}", "interactions", column, value))
    return columns, features, select, parameters


def _commonest(engine: Engine, table: str, cell: str, is_list: bool, settings: TrainingSettings) -> list[str]:
    value = f"unnest({cell})" if is_list else cell
    rows = engine.fetch(
        f"""-- one row per value
        WITH cell AS (SELECT {value} AS value FROM {table} WHERE {cell} IS NOT NULL)
        SELECT value FROM cell WHERE value IS NOT NULL GROUP BY value
        HAVING count(*) >= {int(settings.min_users_per_category)}
        ORDER BY count(*) DESC, value LIMIT {int(settings.max_categories)}"""
    )
    values: list[str] = rows["value"].to_pylist()
    return values


def _holds(cell: str, is_list: bool) -> str:
    return f"coalesce(list_contains({cell}, ?), false)" if is_list else f"coalesce({cell} = ?, false)"
