"""The relations of a data room, on which all queries about its users run.

Lives here: `open_room_relations(engine, base_folder, seeds_folder=None) -> Relations`, which reads the files of
the base audience and of the seed audiences and creates, for the engine's session:

- `room_users(user_id, stable_hash, age, gender, is_matchable)`: the relevant users, one row each;
- `room_segments(user_id, segment)`: their segments, distinct; empty if the base has none;
- `room_matching(digest, user_id)`: digests of matching ids, distinct, including users who are not relevant;
- `room_seeds(digest, audience_type)`: the seed audiences, distinct; empty without `seeds_folder`.

`join_matched(engine, relation)` creates one more, for queries that need it:

- `room_matched(user_id, audience_type)`: matched relevant users, distinct: for lists.
- `room_counted(user_id, audience_type)`: the same for counts and sums, with one user per id. If several relevant
  users share an id, a keyed hash over the base alone selects one of them. One id of a seed audience therefore
  changes a count by at most one user, however many share it.

The engine must have been opened with both folders among its paths. `Relations.audience_types` lists the types of
the seed audiences.
Add here when queries need another relation of the room.
Keep out: the queries, and releasing their results: counts here are exact and must not be published unreleased.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path

from cleanroom_pipelines.engine import Engine, find_tables

USERS_FILE = "users.parquet"
SEGMENTS_FILE = "segments.parquet"
MATCHING_FILE = "matching.parquet"
SEEDS_FILE = "seeds.parquet"
MATCHED, COUNTED = "room_matched", "room_counted"

_USERS = """-- one row per relevant user
CREATE OR REPLACE TEMP VIEW room_users AS
SELECT user_id, stable_hash, age, gender, is_matchable FROM room_base WHERE is_relevant"""

_NO_SEGMENTS = """CREATE OR REPLACE TEMP VIEW room_segments AS
SELECT CAST(NULL AS VARCHAR) AS user_id, CAST(NULL AS VARCHAR) AS segment WHERE false"""

_NO_MATCHING = """CREATE OR REPLACE TEMP VIEW room_matching AS
SELECT CAST(NULL AS VARCHAR) AS digest, CAST(NULL AS VARCHAR) AS user_id WHERE false"""

_NO_SEEDS = """CREATE OR REPLACE TEMP VIEW room_seeds AS
SELECT CAST(NULL AS VARCHAR) AS digest, CAST(NULL AS VARCHAR) AS audience_type WHERE false"""

# Tables, not views: several audience types and several questions of one session read them. One join each, because
# DuckDB overestimates what a join leaves, and would then build the next hash table from all users.
_WANTED = """-- one row per id of a seed audience, its audience type, and user
CREATE OR REPLACE TEMP TABLE room_wanted AS
SELECT matching.digest, matching.user_id, seeds.audience_type
FROM room_matching AS matching JOIN room_seeds AS seeds ON seeds.digest = matching.digest"""

_FOUND = """-- one row per id of a seed audience, its audience type, and relevant user
CREATE OR REPLACE TEMP TABLE room_found AS
SELECT wanted.digest, wanted.user_id, wanted.audience_type
FROM room_wanted AS wanted SEMI JOIN room_users AS users ON users.user_id = wanted.user_id"""

_MATCHED = """-- one row per matched relevant user and audience type
CREATE OR REPLACE TEMP TABLE room_matched AS
SELECT DISTINCT user_id, audience_type FROM room_found"""

# The digests are keyed, so outsiders cannot know which of several users is selected.
_COUNTED = """-- one row per matched relevant user and audience type, where an id stands for one user
CREATE OR REPLACE TEMP TABLE room_counted AS
SELECT DISTINCT user_id, audience_type
FROM (
  SELECT audience_type, arg_min(user_id, md5(concat(digest, ' ', user_id))) AS user_id
  FROM room_found GROUP BY digest, audience_type
)"""


@dataclass(frozen=True)
class Relations:
    """The relations of a room in one engine.

    Args:
        engine: The engine whose session holds them.
        audience_types: The types of the seed audiences, sorted.
    """

    engine: Engine
    audience_types: tuple[str, ...]


def open_room_relations(engine: Engine, base_folder: Path, seeds_folder: Path | None = None) -> Relations:
    """Create the relations of a room in an engine's session.

    Args:
        engine: An engine that was opened with both folders among its paths.
        base_folder: Folder with users.parquet, and optionally segments.parquet and matching.parquet.
        seeds_folder: Folder with seeds.parquet; None if no seed audiences are provisioned.

    Returns:
        The relations; this module's docstring lists their names and columns.

    Raises:
        InputError: A file cannot be read.
        EngineError: The engine failed.
    """
    engine.scan("room_base", find_tables(base_folder / USERS_FILE, what="base audience"))
    engine.execute(_USERS)
    _scan_or_create(engine, "room_segments", base_folder / SEGMENTS_FILE, _NO_SEGMENTS)
    _scan_or_create(engine, "room_matching", base_folder / MATCHING_FILE, _NO_MATCHING)
    _scan_or_create(engine, "room_seeds", seeds_folder and seeds_folder / SEEDS_FILE, _NO_SEEDS)
    for sql in (_WANTED, _FOUND, "DROP TABLE room_wanted"):
        engine.execute(sql)
    types = engine.fetch("SELECT DISTINCT audience_type FROM room_seeds ORDER BY audience_type")
    return Relations(engine, tuple(types["audience_type"].to_pylist()))


def join_matched(engine: Engine, relation: str) -> None:
    """Create the relation `room_matched` or `room_counted`; most sessions need only one of them."""
    engine.execute({MATCHED: _MATCHED, COUNTED: _COUNTED}[relation])


def lookalike_relation(key: str) -> str:
    """The relation name of a lookalike: a digest of its canonical text, so that no user text gets into SQL."""
    return f"lookalike_{hashlib.sha256(key.encode()).hexdigest()[:24]}"


def _scan_or_create(engine: Engine, name: str, file: Path | None, none: str) -> None:
    if file is not None and file.is_file():
        engine.scan(name, find_tables(file, what="file of the room"))
    else:
        engine.execute(none)
