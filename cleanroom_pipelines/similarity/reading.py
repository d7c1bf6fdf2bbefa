"""Read the training tables: check them, and extract users, items and interactions.

Lives here: the profile, the user and item dictionaries, the stream of pairs, features per user.
Add here when another number per user is read from the tables.
Keep out: validity of rows (uploads), matrices (pairs, representation) and all decisions about a seed.

All queries give the same result for every row order, file split and thread count: they only count, take minima and
maxima, and add integers. Sums of floats would depend on the order.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa

from cleanroom_pipelines.engine import Engine, TableFiles, stable_hash_sql
from cleanroom_pipelines.errors import StatusCode, TrainingDataError
from cleanroom_pipelines.similarity.specs import (
    InteractionsSchema,
    SizeProfile,
    TrainingSettings,
    UsersSchema,
    Window,
    printable,
)
from cleanroom_pipelines.uploads.cells import DECIMAL, FLOAT, INTEGER, LIST, MAX_SECONDS, TIME, takes
from cleanroom_pipelines.uploads.checks import (
    INTERACTIONS,
    USERS,
    check_times,
    reading_of,
)
from cleanroom_pipelines.uploads.reading import Checked, declare, read, reject_invalid_rows
from cleanroom_pipelines.uploads.roles import Role

ITEM_BITS = 20
DAY_BITS = 16
COUNTED = ("user_id", "item_id", "ts", "first_ts", "n")
"""Columns of the cache of counted interactions."""
UNKNOWN_DAY = (1 << DAY_BITS) - 1
_SECONDS_PER_DAY = 86_400
_FIXED_POINT = 2**40
_MAX_ITEM_NAME = 100
_LEAST_NAMING_USERS = 25  # an explanation shows only items of at least as many seed users


@dataclass(frozen=True)
class Feature:
    """One dense feature of the users.

    Args:
        name: Display name, such as `brand = store` or `mean spend`.
        group: activity, recency, interactions or users.
        column: Source column, empty for counts.
        value: The category that the feature represents, None for numbers.
    """

    name: str
    group: str
    column: str = ""
    value: str | None = None


@dataclass(frozen=True)
class Interactions:
    """Statistics of the interactions table; the engine's view `events` contains its usable rows.

    Args:
        n_rows: Rows in the files.
        n_invalid: Rows dropped.
        n_usable: Rows in the window.
        window: Resolved window.
        first_time: Earliest second in the window.
        last_time: Latest second in the window.
        ignored_columns: Columns without a role.
        list_columns: Declared columns of lists.
        scales: Factor per numerical column that makes its cells integers.
        has_population: Whether the table `population` defines the users; otherwise all users with a usable row
            count.
        has_item_names: Whether `events` has the column `item_name`.
    """

    n_rows: int
    n_invalid: int
    n_usable: int
    window: Window
    first_time: int | None
    last_time: int | None
    ignored_columns: tuple[str, ...]
    list_columns: frozenset[str] = frozenset()
    scales: Mapping[str, float] = field(default_factory=dict)
    has_population: bool = False
    has_item_names: bool = False


def open_cells(
    engine: Engine, name: str, tables: TableFiles, schema: InteractionsSchema, scratch: Path
) -> Checked:
    """Create a view of the table's rows: user_id, item_id, ts (epoch seconds or NULL), f0, f1, … and is_usable.

    It also has item_name if a column has that role.

    Raises:
        TrainingDataError: A column is missing or has the wrong type, or a quote is not closed.
    """
    checked = read(engine, f"{name}_read", declare(tables, schema.columns, INTERACTIONS), scratch=scratch)
    features = [position for position, column in enumerate(checked.columns) if column.role.is_feature]
    select = [
        f"{checked.value(Role.USER_ID)} AS user_id",
        f"{checked.value(Role.ITEM_ID)} AS item_id",
        f"{checked.value(Role.TIMESTAMP) or 'CAST(NULL AS BIGINT)'} AS ts",
        *(f"v{position} AS f{number}" for number, position in enumerate(features)),
        *([f"{name_of_item} AS item_name"] if (name_of_item := checked.value(Role.ITEM_NAME)) else []),
        f"({checked.usable}) AS is_usable",
    ]
    engine.execute(f"CREATE OR REPLACE TEMP VIEW {name} AS SELECT {', '.join(select)} FROM {checked.name}")
    return checked


def profile_cells(engine: Engine, schema: InteractionsSchema, checked: Checked) -> dict[str, Any]:
    """Summarise the rows of `cells` and unreadable lines: counts, problems, and time span of usable rows."""
    # A timestamp type has a known unit; only plain numbers can be milliseconds.
    too_large = "false" if any(TIME in column.kind for column in checked.columns) else f"ts >= {MAX_SECONDS}"
    found = _one(
        engine,
        f"""-- one row: what is wrong, and the span of time of the rest
        SELECT count(*) AS n_rows,
               count(*) FILTER (NOT is_usable) AS n_invalid,
               count(*) FILTER ({too_large}) AS n_too_large,
               min(ts) FILTER ({too_large}) AS smallest_too_large,
               count(*) FILTER (is_usable AND ts IS NULL) AS n_unknown_times,
               min(ts) FILTER (is_usable) AS first_ts,
               max(ts) FILTER (is_usable) AS last_ts
               {_max_abs(schema)}
        FROM cells""",
    )
    return found | {name: found[name] + checked.n_rejected for name in ("n_rows", "n_invalid")}


def check_profile(
    engine: Engine,
    checked: Checked,
    found: Mapping[str, Any],
    max_invalid_share: float,
    *,
    may_be_empty: bool = False,
) -> None:
    """Reject an empty table, times that are not in seconds, and too large a share of invalid rows.

    Args:
        engine: Engine with the table.
        checked: The table.
        found: Its profile.
        max_invalid_share: Largest allowed share of invalid rows.
        may_be_empty: Whether an empty table is allowed.

    Raises:
        TrainingDataError: The table is rejected.
    """
    n_rows = found["n_rows"]
    if n_rows == 0 and may_be_empty:
        return
    if n_rows == 0:
        raise TrainingDataError("The interactions table has no rows.", remedy="Give a table with interactions.")
    time = next((column.name for column in checked.columns if column.role is Role.TIMESTAMP), None)
    if time is not None:
        check_times(
            time,
            INTERACTIONS,
            n_too_large=found["n_too_large"],
            smallest=found["smallest_too_large"],
            n_rows=n_rows,
        )
    reject_invalid_rows(engine, checked, (found["n_invalid"], n_rows), max_invalid_share)


def usable(window: Window) -> str:
    """Return the SQL condition for the usable rows of `cells` inside the window."""
    conditions = ["is_usable"]
    # Formatted into the SQL because a view cannot have bound values; the bounds are integers, not user text.
    if window.start is not None:
        conditions.append(f"ts >= {int(window.start)}")
    if window.end is not None:
        conditions.append(f"ts < {int(window.end)}")
    return " AND ".join(conditions)


def count_events(engine: Engine) -> tuple[int, int | None, int | None]:
    """Count the interactions in `events`, and return their first and last second."""
    found = _one(
        engine,
        """-- one row
        SELECT CAST(coalesce(sum(n), 0) AS BIGINT) AS n, min(first_ts) AS first_ts, max(ts) AS last_ts
        FROM events""",
    )
    return found["n"], found["first_ts"], found["last_ts"]


def check_usable(n_usable: int) -> None:
    """Reject a training window without interactions.

    Raises:
        TrainingDataError: The window contains no interactions.
    """
    if n_usable == 0:
        raise TrainingDataError(
            "There are no interactions in the training window.",
            remedy="Move the window to the table's time span, or remove it.",
        )


def open_interactions(
    engine: Engine,
    tables: TableFiles,
    schema: InteractionsSchema,
    *,
    window: Window,
    window_seconds: int | None,
    max_invalid_share: float,
    scratch: Path,
    population: TableFiles | None = None,
) -> Interactions:
    """Check the interactions table and create the view `events` of its usable rows.

    With a population, its ids become the table `population`, rows of other users are left out, and the table may
    be empty.

    Returns:
        Statistics; `events` has user_id, item_id, ts (epoch seconds or NULL) and f0, f1, … for the features.

    Raises:
        TrainingDataError: A column is missing or has the wrong type, a quote is not closed, times are not seconds,
            or there are too many invalid rows or no rows.
    """
    checked = open_cells(engine, "cells", tables, schema, scratch)
    profile = profile_cells(engine, schema, checked)
    n_rows, n_invalid = profile["n_rows"], profile["n_invalid"]
    has_population = population is not None
    check_profile(engine, checked, profile, max_invalid_share, may_be_empty=has_population)
    window = resolved_window(window, window_seconds, profile["last_ts"], has_time=schema.time_column is not None)
    features = "".join(f", f{number}" for number in range(len(schema.features)))
    has_item_names = schema.item_name_column is not None
    if has_item_names:
        features += ", item_name"
    counts = usable(window) + _of_population(engine, population, scratch)
    engine.execute(
        "CREATE OR REPLACE TEMP VIEW events AS "
        f"SELECT user_id, item_id, ts, ts AS first_ts, 1 AS n{features} FROM cells WHERE {counts}"
    )
    if window.is_open and not has_population:
        n_usable, first, last = n_rows - n_invalid, profile["first_ts"], profile["last_ts"]
    else:
        n_usable, first, last = count_events(engine)
    if not has_population:
        check_usable(n_usable)
    declared = {column for column, _ in schema.columns}
    return Interactions(
        n_rows=n_rows,
        n_invalid=n_invalid,
        n_usable=n_usable,
        window=window,
        first_time=first,
        last_time=last,
        ignored_columns=tuple(column for column in tables.columns if column not in declared),
        list_columns=frozenset(column.name for column in checked.columns if column.kind == LIST),
        scales={
            f"f{number}": _scale(profile[f"max_f{number}"])
            for number, (_, role) in enumerate(schema.features)
            if role is Role.NUMERICAL_FEATURE
        },
        has_population=has_population,
        has_item_names=has_item_names,
    )


def _of_population(engine: Engine, population: TableFiles | None, scratch: Path) -> str:
    if population is None:
        return ""
    with reading_of(USERS):
        declared = declare(population, (("user_id", Role.USER_ID),), USERS)
        checked = read(engine, "population_rows", declared, scratch=scratch)
        engine.execute(
            f"""-- one row per user of the population
            CREATE OR REPLACE TEMP TABLE population AS
            SELECT DISTINCT CAST(v0 AS VARCHAR) AS name FROM {checked.name} WHERE {checked.usable}"""
        )
    return " AND CAST(user_id AS VARCHAR) IN (SELECT name FROM population)"


def make_dictionaries(
    engine: Engine, schema: InteractionsSchema, found: Interactions, settings: TrainingSettings
) -> tuple[int, list[Feature], list[str]]:
    """Create the tables `users` and `items`, whose rowids number them, on one machine.

    Returns:
        The number of users, the features aggregated over a user's interactions, and their columns in `users`.
    """
    aggregates = find_aggregates(engine, schema, found, settings)
    make_users(engine, aggregates, has_population=found.has_population)
    make_items(engine, settings)
    n_users = int(_one(engine, "SELECT count(*) AS n FROM users")["n"])
    return n_users, aggregates.features, aggregates.columns


def make_users(engine: Engine, aggregates: "Aggregates", *, has_population: bool) -> None:
    """Create the table `users` from `events` and `population` on one machine, sorted by stable_hash, then id."""
    extra = "".join(
        f", {expression} AS {column}"
        for column, expression in zip(aggregates.columns, aggregates.select, strict=True)
    )
    all_users = "SELECT *, CAST(user_id AS VARCHAR) AS name FROM per_user"
    if has_population:
        all_users = (
            "SELECT per_user.* REPLACE (coalesce(n_events, 0) AS n_events), name "
            "FROM population LEFT JOIN per_user ON CAST(user_id AS VARCHAR) = name"
        )
    engine.execute(
        f"""-- one row per user
        CREATE OR REPLACE TEMP TABLE users AS
        WITH per_user AS (
            SELECT user_id, CAST(sum(n) AS BIGINT) AS n_events,
                   min(first_ts) AS first_ts, max(ts) AS last_ts{extra}
            FROM events GROUP BY user_id
        ), named AS (
            {all_users}
        )
        SELECT *, {stable_hash_sql("name")} AS hash FROM named ORDER BY hash, name""",
        aggregates.parameters,
    )


def make_items(engine: Engine, settings: TrainingSettings) -> None:
    """Create the table `items`, most frequent first; on a cluster the column `number` contains the order."""
    by = "ORDER BY n_events DESC, name"
    ranked = f"SELECT *, row_number() OVER ({by}) - 1 AS number" if engine.is_cluster else "SELECT *"
    order = "" if engine.is_cluster else by
    engine.execute(
        f"""-- one row per item that can reach the vocabulary
        CREATE OR REPLACE TEMP TABLE items AS
        WITH candidates AS (
            SELECT item_id, CAST(item_id AS VARCHAR) AS name, CAST(sum(n) AS BIGINT) AS n_events
            FROM events GROUP BY item_id HAVING sum(n) >= {int(settings.min_users_per_item)}
            {by} LIMIT {(1 << ITEM_BITS) - 1}
        )
        {ranked} FROM candidates {order}"""
    )


def item_names(engine: Engine, item_ids: pa.Array | pa.ChunkedArray) -> pa.Array:
    """Return the most frequent name of each item in `events` and `items`, in printable characters.

    It is None where too few users share a name, as in a column that describes single users.
    """
    found = engine.fetch(
        f"""-- one row per item with a name
        WITH counted AS (
            SELECT i.name AS id, substr(trim(e.item_name), 1, {_MAX_ITEM_NAME}) AS name,
                   count(DISTINCT e.user_id) AS n
            FROM events e JOIN items i ON e.item_id = i.item_id WHERE trim(e.item_name) <> ''
            GROUP BY 1, 2 HAVING count(DISTINCT e.user_id) >= {_LEAST_NAMING_USERS}
        )
        SELECT id, name FROM (
            SELECT id, name, row_number() OVER (PARTITION BY id ORDER BY n DESC, name) AS place FROM counted
        ) AS ordered WHERE place = 1"""
    )
    names = (printable(name) for name in found["name"].to_pylist())
    name_of = dict(zip(found["id"].to_pylist(), names, strict=True))
    return pa.array([name_of.get(item_id) for item_id in item_ids.to_pylist()], pa.string())


def check_population(
    engine: Engine, profile: SizeProfile, n_interactions: int, *, has_population: bool = False
) -> None:
    """Reject too few users or interactions for the size profile; for a listed population, check the users only.

    Raises:
        TrainingDataError: There are too few users or interactions (TRAINING_DATA_TOO_SMALL).
    """
    if has_population:
        n_users = _one(engine, "SELECT count(*) AS n FROM users")["n"]
        if n_users < profile.min_users:
            raise TrainingDataError(
                f"The population has too few users: the size profile '{profile}' needs {profile.min_users:,}.",
                remedy="Give more users.",
                status_code=StatusCode.TRAINING_DATA_TOO_SMALL,
            )
        return
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
            f"The window has {n_users:,} users{each} and {n_interactions:,} interactions; the size profile "
            f"'{profile}' needs {profile.min_users:,} and {profile.min_rows:,}.",
            remedy="Give more data, or widen the window.",
            status_code=StatusCode.TRAINING_DATA_TOO_SMALL,
            n_users=n_users,
            n_interactions=n_interactions,
        )


def days_sql(time: str, last_time: int | None) -> str:
    """Return SQL for the whole days from a time to the newest event, at most 65,534; 65,535 if unknown."""
    if last_time is None:
        return str(UNKNOWN_DAY)
    days = f"least(({int(last_time)} - {time}) // {_SECONDS_PER_DAY}, {UNKNOWN_DAY - 1})"
    return f"CASE WHEN {time} IS NULL THEN {UNKNOWN_DAY} ELSE {days} END"


def packed_sql(user: str, item: str, time: str, last_time: int | None) -> str:
    """Return SQL that packs an interaction into one number: user, item, and days before the newest event."""
    return (
        f"(CAST({user} AS UBIGINT) << {ITEM_BITS + DAY_BITS}) | (CAST({item} AS UBIGINT) << {DAY_BITS}) "
        f"| CAST({days_sql(time, last_time)} AS UBIGINT)"
    )


def stream_pairs(engine: Engine, last_time: int | None, *, counted: bool) -> Iterator[pa.RecordBatch]:
    """Stream the interactions with items that may enter the vocabulary; each is packed into one number.

    With `counted`, equal interactions of a day are one row with their count `n`.
    """
    repeats = ", e.n" if counted else ""
    return engine.batches(
        f"""-- one row per interaction
        SELECT {packed_sql("u.rowid", "i.rowid", "e.ts", last_time)} AS packed{repeats}
        FROM events e JOIN users u ON e.user_id = u.user_id JOIN items i ON e.item_id = i.item_id"""
    )


def stream_user_counts(engine: Engine, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
    """Stream one row per user, in any order: number, events, first and last second, and feature columns."""
    extra = "".join(f", CAST({column} AS DOUBLE) AS {column}" for column in columns)
    return engine.batches(f"SELECT rowid AS number, n_events, first_ts, last_ts{extra} FROM users", rows=100_000)


@dataclass(frozen=True)
class UsersTable:
    """Features and statistics of the users table.

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


def infer_users_schema(tables: TableFiles, user_column: str) -> UsersSchema:
    """Infer a users table's schema: the named id, numbers as numerical features, other types as categorical ones.

    Columns of types that features do not support, such as dates, get no role.

    Raises:
        TrainingDataError: The users table has no column of that name.
    """
    if user_column not in tables.columns:
        raise TrainingDataError(
            "The users table does not have the user id column of the interactions table.",
            remedy="Rename the id column of the users table, or declare that table's schema.",
        )
    roles = [(user_column, Role.USER_ID)]
    for column in declare(tables, [(name, Role.CATEGORICAL_FEATURE) for name in tables.columns], USERS).columns:
        kinds = set(column.kind.split(", "))
        role = Role.NUMERICAL_FEATURE if kinds <= {INTEGER, FLOAT, DECIMAL} else Role.CATEGORICAL_FEATURE
        if column.name != user_column and all(takes(role, kind) for kind in kinds):
            roles.append((column.name, role))
    return UsersSchema(tuple(roles))


def read_users_table(
    engine: Engine,
    tables: TableFiles,
    schema: UsersSchema,
    settings: TrainingSettings,
    *,
    max_invalid_share: float,
    scratch: Path,
) -> UsersTable:
    """Create `user_features`: the rows of the uploaded users table for users who have interactions.

    Its column `number` is the user's number, or on a cluster the user's name.

    Raises:
        TrainingDataError: A column is missing or has the wrong type, a quote is not closed, or there are too many
            invalid rows.
    """
    checked = read(engine, "user_rows", declare(tables, schema.columns, USERS), scratch=scratch)
    described = [column for column in checked.columns if column.role.is_feature]
    values = [f"v{position}" for position, column in enumerate(checked.columns) if column.role.is_feature]
    shown = [
        f"CAST({checked.value(Role.USER_ID)} AS VARCHAR) AS user_id",
        *(f"{value} AS f{number}" for number, value in enumerate(values)),
        f"({checked.usable}) AS is_usable",
    ]
    engine.execute(f"CREATE OR REPLACE TEMP VIEW user_cells AS SELECT {', '.join(shown)} FROM {checked.name}")
    counts = _one(engine, "SELECT count(*) AS n, count(*) FILTER (NOT is_usable) AS bad FROM user_cells")
    n_rows, n_invalid = counts["n"] + checked.n_rejected, counts["bad"] + checked.n_rejected
    reject_invalid_rows(engine, checked, (n_invalid, n_rows), max_invalid_share)
    names = [f"f{number}" for number in range(len(schema.features))]
    # Duplicate rows: take the smallest value of each column, so that the result does not depend on row order.
    smallest = "".join(f", min(c.{name}) AS {name}" for name in names)
    key = "u.name" if engine.is_cluster else "u.rowid"
    engine.execute(
        f"""-- one row per user with interactions that the users table knows
        CREATE OR REPLACE TEMP TABLE known_users AS
        SELECT {key} AS number{smallest}
        FROM user_cells c JOIN users u ON c.user_id = u.name
        WHERE c.is_usable
        GROUP BY {key}"""
    )
    columns: list[str] = []
    select: list[str] = []
    features: list[Feature] = []
    parameters: list[Any] = []
    for number, column in enumerate(described):
        if column.role is Role.NUMERICAL_FEATURE:
            columns.append(f"n{number}")
            select.append(f"f{number}")
            features.append(Feature(column.name, "users", column.name))
            continue
        is_list = column.kind == LIST
        for position, value in enumerate(_commonest(engine, "known_users", f"f{number}", is_list, settings)):
            columns.append(f"c{number}_{position}")
            select.append(f"CAST({_holds(f'f{number}', is_list)} AS DOUBLE)")
            parameters.append(value)
            features.append(Feature(f"{column.name} = {value}", "users", column.name, value))
    extra = "".join(f", {expression} AS {name}" for name, expression in zip(columns, select, strict=True))
    engine.execute(
        f"CREATE OR REPLACE TEMP TABLE user_features AS SELECT number{extra} FROM known_users", parameters
    )
    declared = {column for column, _ in schema.columns}
    return UsersTable(
        features=features,
        columns=columns,
        n_rows=n_rows,
        n_invalid=n_invalid,
        n_matched=int(_one(engine, "SELECT count(*) AS n FROM known_users")["n"]),
        ignored_columns=tuple(column for column in tables.columns if column not in declared),
    )


def stream_user_features(engine: Engine, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
    """Stream each known user's number and feature columns, one row per user, in any order."""
    extra = "".join(f", CAST({column} AS DOUBLE) AS {column}" for column in columns)
    return engine.batches(f"SELECT number{extra} FROM user_features", rows=100_000)


def _one(engine: Engine, sql: str) -> dict[str, Any]:
    rows: list[dict[str, Any]] = engine.fetch(sql).to_pylist()
    return rows[0]


def _max_abs(schema: InteractionsSchema) -> str:
    return "".join(
        f", max(abs(f{number})) FILTER (is_usable) AS max_f{number}"
        for number, (_, role) in enumerate(schema.features)
        if role is Role.NUMERICAL_FEATURE
    )


def _scale(largest: float | None) -> float:
    """Return the power of two that scales a column to 40-bit integers, so that sums are exact in any order."""
    import math

    return 2.0 ** math.floor(math.log2(_FIXED_POINT / largest)) if largest else 1.0


def resolved_window(window: Window, seconds: int | None, last: int | None, *, has_time: bool) -> Window:
    """Return the training window with start and end; if only its length is given, compute them.

    Raises:
        TrainingDataError: A window was given, but the schema has no time column.
    """
    if (seconds is not None or not window.is_open) and not has_time:
        raise TrainingDataError(
            "A training window needs a TIMESTAMP column.", remedy="Declare one, or remove the window."
        )
    if seconds is None:
        return window
    if last is None:
        check_usable(0)
        return window
    end = last + 1 if window.end is None else min(window.end, last + 1)
    return Window(max(end - seconds, window.start) if window.start is not None else end - seconds, end)


@dataclass(frozen=True)
class Aggregates:
    """User features that aggregate features of the user's interactions, as SQL over `events`.

    Args:
        columns: Their columns in `users`.
        features: Description of each.
        select: SQL expression of each over `events`.
        parameters: Bound values of the expressions.
    """

    columns: list[str]
    features: list[Feature]
    select: list[str]
    parameters: list[Any]


def find_aggregates(
    engine: Engine, schema: InteractionsSchema, found: Interactions, settings: TrainingSettings
) -> Aggregates:
    """Define how interaction features are aggregated: numbers to means, frequent categories to shares."""
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
        is_list = column in found.list_columns
        for position, value in enumerate(_commonest(engine, "events", cell, is_list, settings)):
            columns.append(f"c{number}_{position}")
            select.append(f"count(*) FILTER ({_holds(cell, is_list)}) / count(*)")
            parameters.append(value)
            features.append(Feature(f"{column} = {value}", "interactions", column, value))
    return Aggregates(columns, features, select, parameters)


def _commonest(engine: Engine, table: str, cell: str, is_list: bool, settings: TrainingSettings) -> list[str]:
    value = f"unnest({cell})" if is_list else cell
    rows = engine.fetch(
        f"""-- one row per value
        WITH cell AS (SELECT {value} AS value FROM {table} WHERE {cell} IS NOT NULL),
        counted AS (SELECT value, count(*) AS n FROM cell WHERE value IS NOT NULL GROUP BY value)
        SELECT value FROM counted WHERE n >= {int(settings.min_users_per_category)}
        ORDER BY n DESC, value LIMIT {int(settings.max_categories)}"""
    )
    values: list[str] = rows["value"].to_pylist()
    return values


def _holds(cell: str, is_list: bool) -> str:
    return f"coalesce(list_contains({cell}, ?), false)" if is_list else f"coalesce({cell} = ?, false)"
