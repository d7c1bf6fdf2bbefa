"""Random rooms as plain tables, large enough for released counts."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from hashlib import md5
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from cleanroom_pipelines.audiences.relations import Relations, open_room_relations
from cleanroom_pipelines.engine import EngineSettings, open_engine, stable_hash

# case variants, quotes, emoji, one letter in two Unicode forms, the words of SQL, blanks, a NUL
SEGMENTS = ("Sport", "sport", "it's", '"; DROP TABLE x; --', "🏃‍♀️", "é", "e\u0301", " a ", "NULL", "nul\x00l")
AGES = ("18-24", "5-9", "65+", "25-34", None)
GENDERS = ("f", "m", "F", "it's", None)
TYPES = ("Buyers", "buyers", "it's", "none matched", "nul\x00l")


@dataclass(frozen=True)
class PlainRoom:
    """The files of a room as tables; users: user_id, age, gender, is_relevant."""

    users: pd.DataFrame
    segments: pd.DataFrame
    matching: pd.DataFrame
    seeds: pd.DataFrame

    @property
    def relevant(self) -> pd.DataFrame:
        """Relevant users, with `is_matchable`."""
        users = self.users[self.users["is_relevant"]]
        return users.assign(is_matchable=users["user_id"].isin(set(self.matching["user_id"])))

    @contextmanager
    def opened(self, folder: Path) -> Iterator[Relations]:
        """Write the files, and open them as the product does."""
        base, seeds = folder / "base", folder / "seeds"
        base.mkdir(parents=True)
        seeds.mkdir()
        users = self.users.assign(
            stable_hash=[stable_hash(user) for user in self.users["user_id"]],
            is_matchable=self.users["is_relevant"] & self.users["user_id"].isin(set(self.matching["user_id"])),
        )
        names = {"age": pa.string(), "gender": pa.string(), "user_id": pa.string(), "stable_hash": pa.int64()}
        flags = {"is_relevant": pa.bool_(), "is_matchable": pa.bool_()}
        columns = {
            name: pa.array([None if pd.isna(value) else value for value in users[name]], type_)
            for name, type_ in (names | flags).items()
        }
        pq.write_table(pa.table(columns), base / "users.parquet")
        _write(self.segments, base / "segments.parquet")
        _write(self.matching, base / "matching.parquet")
        _write(self.seeds, seeds / "seeds.parquet")
        with open_engine(EngineSettings(threads=1), paths=[base, seeds]) as engine:
            yield open_room_relations(engine, base, seeds)


@cache
def random_room(seed: int, n_users: int = 600) -> PlainRoom:
    """A room in which users have several ids, ids several users, and attributes are missing."""
    random = np.random.default_rng(seed)
    ids = [f"{random.choice(['u', 'U', 'ü', '👤'])}{number}" for number in range(n_users)]
    users = pd.DataFrame(
        {
            "user_id": ids,
            "age": pd.Series(random.choice(np.array(AGES, dtype=object), n_users), dtype=object),
            "gender": pd.Series(random.choice(np.array(GENDERS, dtype=object), n_users), dtype=object),
            "is_relevant": random.random(n_users) < 0.9,
        }
    )
    shares = random.random(len(SEGMENTS)) ** 2
    segments = [
        (user, segment)
        for user in ids
        for segment, share in zip(SEGMENTS, shares, strict=True)
        if random.random() < share
    ]
    n_ids = n_users
    matching = {
        (_digest(random.integers(n_ids)), user) for user in ids for _ in range(random.choice([0, 1, 1, 1, 2, 3]))
    }
    seeds = {
        (_digest(number + (10 * n_ids if type_ == "none matched" else 0)), type_)
        for type_, share in zip(TYPES, (0.8, 0.4, 0.1, 0.3, 0.5), strict=True)
        for number in range(int(1.3 * n_ids))
        if random.random() < share
    }
    return PlainRoom(
        users,
        pd.DataFrame(segments, columns=["user_id", "segment"]),
        pd.DataFrame(sorted(matching), columns=["digest", "user_id"]),
        pd.DataFrame(sorted(seeds), columns=["digest", "audience_type"]),
    )


def counted_users(room: PlainRoom, audience_type: str) -> set[str]:
    """Those that counts know: of several relevant users with an id, the one whose hash with it is smallest."""
    relevant, holders = set(room.relevant["user_id"]), dict[str, list[str]]()
    for digest, user in room.matching.itertuples(index=False):
        if user in relevant:
            holders.setdefault(digest, []).append(user)
    digests = set(room.seeds.loc[room.seeds["audience_type"] == audience_type, "digest"])
    return {
        min(users, key=lambda user: md5(f"{digest} {user}".encode()).hexdigest())
        for digest, users in holders.items()
        if digest in digests
    }


def named_interests(room: PlainRoom) -> set[str]:
    """The interests of at least 25 relevant users."""
    relevant = room.segments[room.segments["user_id"].isin(set(room.relevant["user_id"]))]
    return {segment for segment, n in relevant["segment"].value_counts().items() if n >= 25}


def chosen_interests(room: PlainRoom, salt: str) -> dict[str, set[str]]:
    """The interests of each user that enter tables: of those that have a name, the first five by keyed hash."""
    named = named_interests(room)
    interests: dict[str, list[str]] = {}
    for user, segment in room.segments.itertuples(index=False):
        if segment in named:
            interests.setdefault(user, []).append(segment)

    def keyed(user: str, segment: str) -> str:
        return md5(f"{salt}{user} {segment}".encode()).hexdigest()

    return {
        user: set(sorted(segments, key=lambda segment: (keyed(user, segment), segment))[:5])
        for user, segments in interests.items()
    }


def matched_users(room: PlainRoom, audience_type: str) -> set[str]:
    """Relevant users that have an id among those of a type."""
    digests = set(room.seeds.loc[room.seeds["audience_type"] == audience_type, "digest"])
    found = room.matching.loc[room.matching["digest"].isin(digests), "user_id"]
    return set(found) & set(room.relevant["user_id"])


def _digest(number: int | np.integer) -> str:
    return f"{number:064x}"


def _write(frame: pd.DataFrame, file: Path) -> None:
    columns = {name: pa.array(list(frame[name]), pa.string()) for name in frame.columns}
    pq.write_table(pa.table(columns), file)
