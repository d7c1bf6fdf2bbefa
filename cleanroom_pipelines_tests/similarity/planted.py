"""Small data sets with a planted group, for the similarity tests.

Lives here: data made in memory and written where a test says.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd

from cleanroom_pipelines.audiences.sizes import AudienceSize, SizeType
from cleanroom_pipelines.engine import EngineSettings, Runtime
from cleanroom_pipelines.similarity.ranking import generate
from cleanroom_pipelines.similarity.seeds import SeedUsers
from cleanroom_pipelines.similarity.specs import (
    GenerationReport,
    GenerationSettings,
    InteractionsSchema,
    TrainingReport,
    TrainingSettings,
    TrainingTables,
)
from cleanroom_pipelines.similarity.training import train

FIRST_SECOND = 1_600_000_000
SCHEMA = InteractionsSchema.parse("user_id=USER_ID,item_id=ITEM_ID,ts=TIMESTAMP")
SMALL = TrainingSettings(embedding_dimensions=8, neighbours=5)
QUICK = GenerationSettings(boosting_rounds=5, threads=1, folds=3)
ENGINE = EngineSettings(memory_bytes=1 << 30, threads=1)
SIZES = (
    AudienceSize(SizeType.PERCENTAGE, 5),
    AudienceSize(SizeType.PERCENTAGE, 10),
    AudienceSize(SizeType.PERCENTAGE, 20),
)


@dataclass(frozen=True)
class World:
    """Interactions, and the users who share a taste."""

    interactions: pd.DataFrame
    group: list[str]
    users: list[str]


@cache
def make_world(n_users: int = 600, n_items: int = 60, group_share: float = 0.25, random_seed: int = 3) -> World:
    """Create users with popular items, and a group that also likes the ten rarest ones."""
    rng = np.random.default_rng(random_seed)
    popularity = 1.0 / np.arange(1, n_items + 1)
    popularity /= popularity.sum()
    users = [f"u{number:05d}" for number in range(n_users)]
    in_group = rng.random(n_users) < group_share
    rows = []
    for number, user in enumerate(users):
        items = list(rng.choice(n_items, rng.integers(3, 15), p=popularity))
        if in_group[number]:
            items += list(rng.choice(np.arange(n_items - 10, n_items), 4))
        rows += [(user, f"i{item:03d}", int(FIRST_SECOND + rng.integers(0, 10_000_000))) for item in items]
    frame = pd.DataFrame(rows, columns=["user_id", "item_id", "ts"])
    return World(frame, [user for user, member in zip(users, in_group, strict=True) if member], users)


def train_on(world: pd.DataFrame, folder: Path, name: str = "model", **changes: object) -> Path:
    """Write the interactions, train on them, and return the model's folder."""
    folder.mkdir(parents=True, exist_ok=True)
    source = folder / f"{name}.parquet"
    world.to_parquet(source, index=False)
    out = folder / name
    out.mkdir()
    train_with({"interactions": source} | changes, out)
    return out


def train_with(given: Mapping[str, object], out: Path) -> TrainingReport:
    """Train with small settings, unless others are given; tables and options are in one mapping."""
    given = {"schema": SCHEMA, "settings": SMALL, "runtime": Runtime(ENGINE)} | given
    of_tables = {each.name for each in fields(TrainingTables)}
    tables = TrainingTables(**{name: value for name, value in given.items() if name in of_tables})  # type: ignore[arg-type]
    return train(tables, out, **{name: value for name, value in given.items() if name not in of_tables})  # type: ignore[arg-type]


def seed_of(user_ids: list[str]) -> SeedUsers:
    """Create a seed without a file."""
    import pyarrow as pa

    ids = sorted(set(user_ids))
    return SeedUsers(pa.array(ids, pa.string()), len(user_ids), len(ids), 0, len(user_ids) - len(ids))


def rank(model: Path, seed: list[str], out: Path, **changes: object) -> GenerationReport:
    """Rank with quick settings into a new folder."""
    out.mkdir(parents=True)
    arguments = {"settings": QUICK, "sizes": SIZES, "min_matching_seed_size": 25} | changes
    return generate(model=model, seed=seed_of(seed), out=out, **arguments)  # type: ignore[arg-type]
