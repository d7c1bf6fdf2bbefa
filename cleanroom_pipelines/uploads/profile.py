"""Profile of an interactions table: size, density and dates, without ids.

Lives here: the numbers shown on a training dataset's page.
Add here when an analyst needs another number to judge a table.
Keep out: ids of users and items, and row validity (`uploads.cells`).
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cleanroom_pipelines.engine import EngineSettings
from cleanroom_pipelines.uploads import cells, checks
from cleanroom_pipelines.uploads.reading import Checked, declare, opened
from cleanroom_pipelines.uploads.roles import Role

QUANTILES = (0.0, 0.25, 0.5, 0.75, 0.9, 0.99, 1.0)


def profile_interactions(
    source: str | Path,
    columns: Sequence[tuple[str, str]],
    *,
    engine_settings: EngineSettings | None = None,
    top_items: int = 20,
) -> dict[str, Any]:
    """Profile a valid interactions table.

    Args:
        source: File, folder or glob of parquet, CSV (header) or JSON Lines.
        columns: Declared column names and roles.
        engine_settings: Limits of the engine on this machine.
        top_items: Number of most popular items whose user shares are returned.

    Returns:
        JSON-ready: `n_rows`, `n_valid_rows`, `n_users`, `n_items`, `n_users_with_two` (at least two valid rows),
        `first_day` and `last_day` (ISO dates in UTC, or None), `rows_per_user` (quantile → rows),
        `top_item_user_shares` (share of users who interacted with each of the most popular items, in descending
        order), `n_nulls` (declared column → empty cells), `rows_per_month` ("2017-03" → valid rows in that month).
        There are no ids.

    Raises:
        TrainingDataError: The files cannot be found or read, or lack a declared column.
        UsageError: The declaration is invalid.
        EngineError: The engine failed for a reason other than the files, such as lack of memory.
    """
    declared = cells.check_declaration(columns, needs=[Role.USER_ID, Role.ITEM_ID])
    found = declare(checks.find_upload(source, checks.INTERACTIONS), declared, checks.INTERACTIONS)
    with opened(found, engine_settings) as (engine, checked):
        counts = engine.fetch(_counts_sql(checked)).to_pylist()[0]
        shape = engine.fetch(_shape_sql(checked), [list(QUANTILES), top_items]).to_pylist()[0]
    n_users = shape["n_users"]
    return {
        "n_rows": counts["n_rows"],
        "n_valid_rows": counts["n_valid_rows"],
        "n_users": n_users,
        "n_items": shape["n_items"],
        "n_users_with_two": shape["n_users_with_two"],
        "first_day": shape["first_day"],
        "last_day": shape["last_day"],
        "rows_per_user": {f"{q:g}": n for q, n in zip(QUANTILES, shape["quantiles"] or [], strict=False)},
        "top_item_user_shares": [round(n / n_users, 6) for n in shape["top_items"] or []],
        "n_nulls": {column.name: counts[f"n_nulls_{i}"] for i, column in enumerate(checked.columns)},
        "rows_per_month": {month["month"]: month["n_rows"] for month in shape["months"] or []},
    }


def _counts_sql(checked: Checked) -> str:
    nulls = ", ".join(
        f"count(*) FILTER (coalesce(e{i} = 'EMPTY_CELL', v{i} IS NULL)) AS n_nulls_{i}"
        for i in range(len(checked.columns))
    )
    return (
        # one row: rows, valid rows, empty cells of each column
        f"SELECT count(*) AS n_rows, count(*) FILTER ({checked.usable}) AS n_valid_rows, {nulls} FROM upload"
    )


def _shape_sql(checked: Checked) -> str:
    user, item = checked.value(Role.USER_ID), checked.value(Role.ITEM_ID)
    seconds = checked.value(Role.TIMESTAMP) or "CAST(NULL AS BIGINT)"
    return (
        # one row per (user, item, month)
        "WITH cube AS MATERIALIZED ("
        f"SELECT {user} AS user_id, {item} AS item_id, "
        f"date_trunc('month', make_timestamp({seconds} * 1000000)) AS month, count(*) AS n_rows, "
        f"min({seconds}) AS first_second, max({seconds}) AS last_second "
        f"FROM upload WHERE {checked.usable} GROUP BY ALL), "
        # one row per user
        "per_user AS (SELECT user_id, sum(n_rows) AS n_rows FROM cube GROUP BY user_id), "
        # one row per item
        "per_item AS (SELECT item_id, count(DISTINCT user_id) AS n_users FROM cube GROUP BY item_id), "
        # one row per month
        "per_month AS (SELECT strftime(month, '%Y-%m') AS month, CAST(sum(n_rows) AS BIGINT) AS n_rows FROM cube "
        "WHERE month IS NOT NULL GROUP BY 1), "
        "users AS (SELECT count(*) AS n_users, count(*) FILTER (n_rows >= 2) AS n_users_with_two, "
        "CAST(quantile_disc(n_rows, CAST($1 AS DOUBLE[])) AS BIGINT[]) AS quantiles FROM per_user), "
        "items AS (SELECT count(*) AS n_items, max(n_users, CAST($2 AS BIGINT)) AS top_items FROM per_item), "
        "months AS (SELECT list({month: month, n_rows: n_rows} ORDER BY month) AS months FROM per_month), "
        "days AS (SELECT strftime(make_timestamp(min(first_second) * 1000000), '%Y-%m-%d') AS first_day, "
        "strftime(make_timestamp(max(last_second) * 1000000), '%Y-%m-%d') AS last_day FROM cube) "
        # one row
        "SELECT * FROM users, items, months, days"
    )
