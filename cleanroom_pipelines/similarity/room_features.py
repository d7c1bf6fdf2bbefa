"""Convert a data room's base audience to training data of the similarity model.

Lives here: converting the files of a base audience to the three tables that training reads.
Add here when base audiences get another kind of data that is useful for ranking.
Keep out: training itself, and validation of uploads (the base audience is already valid).

Segments are the items, with their exact text; age and gender are categorical features; embeddings are numerical
features. A user has an embedding per scope. Each scope gets its own columns if there are few of them (at most 8,
and 512 columns in total). Otherwise a user's scopes are averaged, because most columns would be empty for most
users. Missing scopes get the population's mean.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cleanroom_pipelines.engine import Engine, TableFiles, find_tables, quote_identifier
from cleanroom_pipelines.errors import ArtifactError, InputError, StatusCode, TrainingDataError
from cleanroom_pipelines.similarity.specs import InteractionsSchema, SizeProfile, UsersSchema
from cleanroom_pipelines.uploads.roles import Role

MIN_RELEVANT_USERS = SizeProfile.DEFAULT.min_users
SEGMENTS_SCHEMA = InteractionsSchema((("user_id", Role.USER_ID), ("segment", Role.ITEM_ID)))

_MAX_SCOPES = 8
_MAX_EMBEDDING_COLUMNS = 512


@dataclass(frozen=True)
class RoomFeatures:
    """The tables, derived from a room's base audience, on which its model is trained.

    Args:
        population: user_id of every relevant user.
        interactions: user_id, segment: one row per segment of a relevant user; may have no rows.
        users: One row per relevant user with demographics and embeddings; None if the room has neither.
        users_schema: Roles of its columns.
    """

    population: Path
    interactions: Path
    users: Path | None
    users_schema: UsersSchema | None


def write_room_features(engine: Engine, base: Path, out: Path) -> RoomFeatures:
    """Write the tables, derived from a room's base audience, on which its model is trained.

    Args:
        engine: Engine that may read `base` and write `out`.
        base: Folder of the base audience.
        out: Existing empty directory.

    Raises:
        TrainingDataError: The base audience has neither segments nor embeddings, or fewer than 100 relevant users
            (TRAINING_DATA_TOO_SMALL); the message contains no count.
        ArtifactError: The base audience cannot be read.
    """
    given = _given(base)
    if not (given["has_segments"] or given["has_embeddings"]):
        raise TrainingDataError(
            "Lookalike audiences need segments or embeddings in the base audience, and it has neither.",
            remedy="Provision a base audience with segments or embeddings.",
        )
    engine.scan("base_users", _tables(base, "users"))
    engine.execute(
        """-- one row per relevant user
        CREATE OR REPLACE TEMP VIEW relevant_users AS
        SELECT user_id, age, gender FROM base_users WHERE is_relevant"""
    )
    found = engine.fetch("SELECT count(*) AS n FROM relevant_users").to_pylist()[0]
    if found["n"] < MIN_RELEVANT_USERS:
        raise TrainingDataError(
            f"Lookalike audiences need at least {MIN_RELEVANT_USERS:,} relevant users in the base audience.",
            remedy="Provision a larger base audience.",
            status_code=StatusCode.TRAINING_DATA_TOO_SMALL,
        )
    features = RoomFeatures(out / "population.parquet", out / "interactions.parquet", None, None)
    engine.write_parquet("SELECT user_id FROM relevant_users", features.population)
    _write_segments(engine, base, features.interactions)
    columns: list[tuple[str, str, Role]] = []
    joins: list[str] = []
    scopes: list[str] = []
    if given["has_demographics"]:
        columns += [(name, name, Role.CATEGORICAL_FEATURE) for name in ("age", "gender")]
    if given["has_embeddings"]:
        expressions, joins, scopes = _embedding_columns(engine, base)
        columns += [(expression, name, Role.NUMERICAL_FEATURE) for expression, name in expressions]
    if not columns:
        return features
    select = ", ".join(f"{expression} AS {quote_identifier(name)}" for expression, name, _ in columns)
    users = out / "users.parquet"
    engine.write_parquet(
        f"""-- one row per relevant user
        SELECT relevant_users.user_id, {select} FROM relevant_users {" ".join(joins)}""",
        users,
        scopes,
    )
    schema = UsersSchema((("user_id", Role.USER_ID), *((name, role) for _, name, role in columns)))
    return RoomFeatures(features.population, features.interactions, users, schema)


def _given(base: Path) -> Mapping[str, Any]:
    names = ("has_segments", "has_demographics", "has_embeddings")
    try:
        content = json.loads((base / "base.json").read_text("utf-8"))
        return {name: bool(content[name]) for name in names}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ArtifactError(
            f"The base audience cannot be read ({type(error).__name__}).", remedy="Provision it again."
        ) from None


def _tables(base: Path, name: str) -> TableFiles:
    try:
        return find_tables(base / f"{name}.parquet")
    except InputError:
        raise ArtifactError(
            f"The base audience's file {name}.parquet is missing or unreadable.", remedy="Provision it again."
        ) from None


def _write_segments(engine: Engine, base: Path, out: Path) -> None:
    engine.scan("base_segments", _tables(base, "segments"))
    engine.write_parquet(
        """-- one row per segment of a relevant user
        SELECT user_id, segment FROM base_segments
        WHERE user_id IN (SELECT user_id FROM relevant_users)""",
        out,
    )


def _embedding_columns(engine: Engine, base: Path) -> tuple[list[tuple[str, str]], list[str], list[str]]:
    """Return the embedding columns as (SQL, name), the SQL joins that they need, and the joins' bound values."""
    tables = _tables(base, "embeddings")
    engine.scan("base_embeddings", tables)
    cells = [column for column in tables.columns if column not in ("user_id", "scope")]
    scopes = engine.fetch("SELECT DISTINCT scope FROM base_embeddings ORDER BY scope")["scope"].to_pylist()
    if len(scopes) > _MAX_SCOPES or len(scopes) * len(cells) > max(_MAX_EMBEDDING_COLUMNS, len(cells)):
        # Sorted before averaging, because a mean of floats depends on their order and the row order is arbitrary.
        means = ", ".join(
            f"list_avg(list_sort(list({quote_identifier(cell)}))) AS m{n}" for n, cell in enumerate(cells)
        )
        join = f"LEFT JOIN (SELECT user_id, {means} FROM base_embeddings GROUP BY user_id) e USING (user_id)"
        return [(f"e.m{n}", f"mean embedding {n}") for n in range(len(cells))], [join], []
    expressions = [
        (
            f"s{scope}.{quote_identifier(cell)}",
            f"embedding {n}" + (f" of scope {scope + 1}" if len(scopes) > 1 else ""),
        )
        for scope in range(len(scopes))
        for n, cell in enumerate(cells)
    ]
    joins = [
        f"LEFT JOIN (SELECT * FROM base_embeddings WHERE scope IS NOT DISTINCT FROM ?) s{scope} "
        f"ON s{scope}.user_id = relevant_users.user_id"
        for scope in range(len(scopes))
    ]
    return expressions, joins, scopes
