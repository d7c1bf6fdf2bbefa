"""The relations of a data room that every question about its users is asked of.

Lives here: `open_room_relations(engine, base_folder, seeds_folder=None) -> Relations`, which reads the files of
the base audience and of the seed audiences and makes, for the session of the engine:

- `room_users(user_id, stable_hash, age, gender, is_matchable)`: the relevant users, one row each;
- `room_segments(user_id, segment)`: their segments, distinct, none where the base has none;
- `room_matching(digest, user_id)`: digests of matching ids, distinct, also of users that are not relevant;
- `room_seeds(digest, audience_type)`: the seed audiences, distinct, none without `seeds_folder`;
- `room_matched(user_id, audience_type)`: matched relevant users, distinct: for lists.
- `room_counted(user_id, audience_type)`: the same for counts and sums, where an id stands for one user: of several
  relevant users with one id, one is chosen by key from the base alone. So one id of a seed audience moves a count
  by one user at most, however many share it.

The engine must have been opened with both folders among its paths. `Relations.audience_types` names the seed
audiences there are.
Add here when questions need another relation of the room.
Keep out: the questions, and releasing their answers: what is counted here is exact and never leaves as it is.
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

# A table, not a view: several audience types and several questions of one session read it.
_MATCHED = """-- one row per matched relevant user and audience type
CREATE OR REPLACE TEMP TABLE room_matched AS
SELECT pairs.user_id, pairs.audience_type
FROM (
  SELECT DISTINCT matching.user_id, seeds.audience_type
  FROM room_matching AS matching JOIN room_seeds AS seeds ON seeds.digest = matching.digest
) AS pairs
SEMI JOIN room_users AS users ON users.user_id = pairs.user_id"""

# The digests are keyed, so that nobody else knows which user of several is taken.
_COUNTED = """-- one row per matched relevant user and audience type, where an id stands for one user
CREATE OR REPLACE TEMP TABLE room_counted AS
SELECT DISTINCT chosen.user_id, seeds.audience_type
FROM (
  SELECT matching.digest, arg_min(matching.user_id, md5(concat(matching.digest, ' ', matching.user_id))) AS user_id
  FROM room_matching AS matching
  SEMI JOIN room_users AS users ON users.user_id = matching.user_id
  SEMI JOIN room_seeds AS wanted ON wanted.digest = matching.digest
  GROUP BY matching.digest
) AS chosen JOIN room_seeds AS seeds ON seeds.digest = chosen.digest"""


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
    """Make the relations of a room for the session of an engine.

    Args:
        engine: An engine that was opened with both folders among its paths.
        base_folder: Folder with users.parquet, and segments.parquet and matching.parquet where there are any.
        seeds_folder: Folder with seeds.parquet; None while no seed audiences are provisioned.

    Returns:
        The relations; their names and columns stand in this module's first lines.

    Raises:
        InputError: A file cannot be read.
        EngineError: The engine failed.
    """
    engine.scan("room_base", find_tables(base_folder / USERS_FILE, what="base audience"))
    engine.execute(_USERS)
    _scan_or_make(engine, "room_segments", base_folder / SEGMENTS_FILE, _NO_SEGMENTS)
    _scan_or_make(engine, "room_matching", base_folder / MATCHING_FILE, _NO_MATCHING)
    _scan_or_make(engine, "room_seeds", seeds_folder and seeds_folder / SEEDS_FILE, _NO_SEEDS)
    engine.execute(_MATCHED)
    engine.execute(_COUNTED)
    types = engine.fetch("SELECT DISTINCT audience_type FROM room_seeds ORDER BY audience_type")
    return Relations(engine, tuple(types["audience_type"].to_pylist()))


def lookalike_relation(key: str) -> str:
    """The name of the relation of a lookalike, by its canonical text; a digest, so no person's text steers it."""
    return f"lookalike_{hashlib.sha256(key.encode()).hexdigest()[:24]}"


def _scan_or_make(engine: Engine, name: str, file: Path | None, none: str) -> None:
    if file is not None and file.is_file():
        engine.scan(name, find_tables(file, what="file of the room"))
    else:
        engine.execute(none)
