"""Seeds: reading the advertiser's list and matching it.

Lives here: `read_seed` with every reason to refuse a seed, and `match_seed`.
Add here when a seed may come in another shape.
Keep out: ranking; room matching identifiers (identity).
"""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from cleanroom_pipelines.engine import EngineSettings, find_tables, open_engine, quote_identifier
from cleanroom_pipelines.errors import EngineError, InputError, SeedError, StatusCode
from cleanroom_pipelines.similarity.model import Model
from cleanroom_pipelines.similarity.specs import MAX_SEED_USERS, MIN_SEED_USERS

_COLUMN = "user_id"


@dataclass(frozen=True)
class SeedUsers:
    """The usable part of a seed file.

    Args:
        user_ids: Distinct user ids as strings, ascending.
        n_rows: Rows of the file.
        n_unique: Distinct usable ids.
        n_invalid: Rows without a usable id, dropped.
        n_duplicates: Rows that repeat an id, dropped.
        ignored_columns: Columns other than user_id.
    """

    user_ids: pa.Array
    n_rows: int
    n_unique: int
    n_invalid: int
    n_duplicates: int
    ignored_columns: tuple[str, ...] = ()


@dataclass(frozen=True)
class SeedMatch:
    """How many of a seed a model knows; counts only.

    Args:
        n_rows: Rows of the seed.
        n_unique: Distinct usable ids.
        n_invalid: Rows without a usable id.
        n_duplicates: Rows that repeat an id.
        n_matched: Ids among the model's users.
        match_rate: n_matched / n_unique, 0 to 1.
    """

    n_rows: int
    n_unique: int
    n_invalid: int
    n_duplicates: int
    n_matched: int
    match_rate: float

    def as_dict(self) -> dict[str, Any]:
        """The counts as JSON-ready values."""
        return asdict(self)


def read_seed(
    path: str | Path,
    *,
    engine: EngineSettings = EngineSettings(),  # noqa: B008 frozen
    min_users: int = MIN_SEED_USERS,
    max_users: int = MAX_SEED_USERS,
    max_invalid_share: float = 0.05,
) -> SeedUsers:
    """Read a seed: JSON Lines `{"user_id": "…"}`, CSV with that header, or parquet.

    Args:
        path: File, glob or folder.
        engine: Memory, threads and scratch of the engine.
        min_users: Fewest distinct ids (25).
        max_users: Most distinct ids (500,000).
        max_invalid_share: Share of rows without a usable id (0 to 1) beyond which the seed is refused.

    Raises:
        SeedError: Not found, unreadable, empty, no user_id column, too many bad rows, too few or too many ids.
    """
    try:
        tables = find_tables(path, what="seed")
    except InputError as error:
        not_found = "not found" in error.message
        raise SeedError(
            error.message,
            remedy=error.remedy,
            status_code=StatusCode.SEED_NOT_FOUND if not_found else StatusCode.SEED_INVALID,
        ) from None
    column = _user_column(tables.columns)
    with open_engine(engine, paths=tables.files) as database:
        try:
            database.scan("seed", tables)
            name = quote_identifier(column)
            described = database.fetch("DESCRIBE SELECT * FROM seed").to_pylist()
            _check_type(next(row["column_type"] for row in described if row["column_name"] == column))
            n_unreadable = database.unreadable_rows("seed")
            counts = database.fetch(
                f"""-- one row
                SELECT count(*) AS n_rows, count(nullif(CAST({name} AS VARCHAR), '')) AS n_valid,
                       count(DISTINCT nullif(CAST({name} AS VARCHAR), '')) AS n_unique
                FROM seed"""
            ).to_pylist()[0]
            n_rows = counts["n_rows"] + n_unreadable
            n_invalid = n_rows - counts["n_valid"]
            _check_counts(n_rows, n_invalid, counts["n_unique"], min_users, max_users, max_invalid_share)
            ids = database.fetch(
                f"""-- one row per usable id
                SELECT DISTINCT CAST({name} AS VARCHAR) AS user_id FROM seed
                WHERE nullif(CAST({name} AS VARCHAR), '') IS NOT NULL ORDER BY user_id"""
            )
        except EngineError:
            raise SeedError(
                "The seed cannot be read.",
                remedy="Check that the file is complete and of the format its name says.",
            ) from None
    return SeedUsers(
        user_ids=ids["user_id"].combine_chunks(),
        n_rows=n_rows,
        n_unique=counts["n_unique"],
        n_invalid=n_invalid,
        n_duplicates=counts["n_valid"] - counts["n_unique"],
        ignored_columns=tuple(name for name in tables.columns if name != column),
    )


def match_seed(model: str | Path | Model, seed: SeedUsers | str | Path) -> SeedMatch:
    """Count how many of a seed a model knows, before any job.

    Args:
        model: The model or its folder.
        seed: The seed or its file.

    Raises:
        SeedError: The seed cannot be used.
        ArtifactError: The model cannot be read.
    """
    opened = model if isinstance(model, Model) else Model(model)
    users = seed if isinstance(seed, SeedUsers) else read_seed(seed)
    n_matched = len(matched_users(opened, users))
    return SeedMatch(
        n_rows=users.n_rows,
        n_unique=users.n_unique,
        n_invalid=users.n_invalid,
        n_duplicates=users.n_duplicates,
        n_matched=n_matched,
        match_rate=n_matched / users.n_unique if users.n_unique else 0.0,
    )


def matched_users(model: Model, seed: SeedUsers) -> npt.NDArray[np.int64]:
    """Numbers of the model's users that are in the seed, ascending."""
    import pyarrow.compute as pc

    found = pc.is_in(model.user_ids(), value_set=seed.user_ids.cast(pa.string()))
    return np.flatnonzero(found.combine_chunks().to_numpy(zero_copy_only=False))


def _user_column(columns: tuple[str, ...]) -> str:
    if _COLUMN in columns:
        return _COLUMN
    alike = [column for column in columns if column.lower() == _COLUMN]
    if len(alike) != 1:
        raise SeedError(
            "The seed has no user_id column.",
            remedy='Give JSON Lines {"user_id": "…"}, or CSV or parquet with a column user_id.',
            columns=columns,
        )
    return alike[0]


def _check_type(type_: str) -> None:
    if type_ != "VARCHAR" and not type_.endswith("INT") and type_ != "INTEGER":
        raise SeedError(
            f"The seed's user_id column has type {type_}; ids are strings or integers.",
            remedy="Convert the column.",
        )


def _check_counts(
    n_rows: int, n_invalid: int, n_unique: int, min_users: int, max_users: int, max_invalid_share: float
) -> None:
    if n_rows == 0:
        raise SeedError("The seed has no rows.", remedy="Give at least 25 user ids.")
    if n_invalid > max_invalid_share * n_rows:
        raise SeedError(
            f"{n_invalid:,} of {n_rows:,} seed rows hold no usable user id; "
            f"at most {max_invalid_share:.0%} may be invalid.",
            remedy='Give JSON Lines {"user_id": "…"}, or CSV or parquet with a column user_id.',
            n_invalid=n_invalid,
            n_rows=n_rows,
        )
    if n_unique < min_users:
        raise SeedError(
            f"The seed holds {n_unique:,} different user ids; at least {min_users:,} are needed.",
            remedy="Give a larger seed.",
            status_code=StatusCode.SEED_TOO_SMALL,
            n_unique=n_unique,
        )
    if n_unique > max_users:
        raise SeedError(
            f"The seed holds {n_unique:,} different user ids; at most {max_users:,} are allowed.",
            remedy="Give a smaller seed.",
            status_code=StatusCode.SEED_TOO_LARGE,
            n_unique=n_unique,
        )
