"""Contract: a model trained on a cluster equals that of one machine, and each can be used on the other.

Items, counts, days and the order of users are equal; dense features agree within the tolerance that
cluster_training documents; audiences agree with Spearman at least 0.999 and at least 99 % the same users at each
size. The same holds for a DuckDB that behaves like a cluster, which needs no Java.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from scipy.stats import spearmanr

from cleanroom_pipelines.engine import EngineSettings, Runtime
from cleanroom_pipelines.similarity import TrainingSettings, UsersSchema, Window, cluster_training
from cleanroom_pipelines.similarity.model import Model
from cleanroom_pipelines.similarity.rankings import RANKING_FILE, ranking_parts
from cleanroom_pipelines.similarity.specs import InteractionsSchema
from cleanroom_pipelines_tests.similarity.cluster_like import use_cluster_like
from cleanroom_pipelines_tests.similarity.planted import SIZES, make_world, rank, train_on

SCHEMA = InteractionsSchema.parse(
    "user_id=USER_ID,item_id=ITEM_ID,ts=TIMESTAMP,store=CATEGORICAL_FEATURE,spend=NUMERICAL_FEATURE"
)
NAMED = InteractionsSchema.parse(f"{SCHEMA},title=ITEM_NAME")
USERS = UsersSchema.parse("user_id=USER_ID,age=CATEGORICAL_FEATURE,income=NUMERICAL_FEATURE")
# Two blocks, and so two shards, need 8,192 users.
SETTINGS = TrainingSettings(embedding_dimensions=16, neighbours=5, users_per_shard=5_000)
FEW = TrainingSettings(embedding_dimensions=8, neighbours=5, min_users_per_item=20)


@dataclass(frozen=True)
class Tables:
    """Interactions with all kinds of columns and mistakes, a users table, and a group of users."""

    interactions: pd.DataFrame
    users: Path
    group: list[str]


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Tables:
    """Tables of few users, for all cases."""
    return make_tables(tmp_path_factory.mktemp("tables"), 600)


def make_tables(folder: Path, n_users: int) -> Tables:
    world = make_world(n_users=n_users)
    rng = np.random.default_rng(5)
    frame = world.interactions.assign(
        store=rng.choice(["north", "south", "o'hare \\ “x”", None], len(world.interactions)),
        spend=np.exp(rng.normal(0, 3, len(world.interactions))).round(2),
    )
    frame["title"] = [f"{item}, o'hare, {number % 3}" for number, item in enumerate(frame.item_id)]
    more = frame.sample(frac=0.05, random_state=1)
    # One pair more often than is counted.
    frame = pd.concat([frame, more, frame.iloc[[20] * 300]], ignore_index=True)
    frame.loc[frame.index[:7], "item_id"] = None
    frame.loc[frame.index[7:12], "spend"] = np.nan
    users = pd.DataFrame(
        {
            "user_id": [*world.users[::2], "nobody"],
            "age": rng.choice(["young", "old", None], len(world.users[::2]) + 1),
            "income": rng.normal(size=len(world.users[::2]) + 1),
        }
    )
    path = folder / "users.parquet"
    pd.concat([users, users.head(5)]).to_parquet(path, index=False)
    return Tables(frame, path, world.group)


def assert_same_model(expected: Model, found: Model) -> None:
    told, same = dict(expected.description), dict(found.description)
    for description in (told, same):
        for feature in description["features"]:
            # What 0 became follows the scaling.
            absent = feature.pop("absent")
            assert absent is None or np.isfinite(absent)
    assert same == told
    items = expected.shown_items(range(expected.n_items))
    assert found.shown_items(range(found.n_items)) == items
    assert any("name" in item for item in items) == ("title" in dict(told["schema"]))
    assert found.item_users().tolist() == expected.item_users().tolist()
    lists = ("items", "counts", "days") if told["last_time"] is not None else ("items", "counts")
    for number in range(expected.n_shards):
        ours, theirs = expected.shard(number), found.shard(number)
        assert theirs.user_ids.equals(ours.user_ids)
        for name in ("hashes", "starts", *lists):
            assert getattr(theirs, name).tolist() == getattr(ours, name).tolist(), name
        for column, feature in enumerate(expected.features):
            heavy = feature["name"] == "mean spend"
            difference = np.abs(theirs.dense[:, column] - ours.dense[:, column]).max(initial=0)
            assert difference < (0.02 if heavy else 1e-4), feature["name"]
        assert np.allclose(theirs.embedding_lengths, ours.embedding_lengths, rtol=1e-3, atol=1e-5)


def assert_same_audience(expected: Path, found: Path) -> None:
    ours, theirs = (
        pd.concat([pq.read_table(part).to_pandas() for part in ranking_parts(folder / RANKING_FILE)])
        for folder in (expected, found)
    )
    assert theirs["rank"].tolist() == ours["rank"].tolist()
    ranks = theirs.set_index("user_id")["rank"].loc[ours["user_id"]]
    assert spearmanr(ours["rank"], ranks).statistic >= 0.999
    for size in SIZES:
        n_users = size.n_users(len(ours))
        same = set(ours["user_id"][:n_users]) & set(theirs["user_id"][:n_users])
        assert len(same) >= 0.99 * n_users


CASES = [
    "features and a users table",
    "text in a window",
    "a given population",
    "a population without interactions",
    "integers without times",
]


def changes_of(case: str, tables: Tables, folder: Path) -> dict[str, object]:
    if case == "features and a users table":
        return {"schema": SCHEMA, "settings": FEW, "users": tables.users, "users_schema": USERS}
    if case == "text in a window":
        source = folder / "rows.csv"
        tables.interactions.to_csv(source, index=False)
        window = Window(1_602_000_000, 1_608_000_000)
        return {"schema": NAMED, "settings": FEW, "interactions": source, "window": window}
    if case == "integers without times":
        source = folder / "numbers.parquet"
        named = tables.interactions[["user_id", "item_id"]].dropna()
        named.apply(lambda column: column.str[1:].astype(int)).to_parquet(source, index=False)
        schema = InteractionsSchema.parse("user_id=USER_ID,item_id=ITEM_ID")
        return {"schema": schema, "settings": FEW, "interactions": source}
    population = folder / "population.parquet"
    pd.DataFrame({"user_id": ["silent", *tables.group]}).to_parquet(population, index=False)
    window = Window(end=1) if case == "a population without interactions" else Window()
    return {"schema": SCHEMA, "settings": FEW, "population": population, "window": window}


# How many parcels the users come in is this process's arithmetic: each case in both ways where no Java is needed,
# and on Spark in one of them.
ONE_PARCEL, SOME_PARCELS = 1 << 30, 9_000
IN_BOTH_WAYS = [
    pytest.param(case, cells, id=f"{case}, {name}")
    for case in CASES
    for name, cells in (("one parcel", ONE_PARCEL), ("some parcels", SOME_PARCELS))
]
IN_ONE_WAY = list(zip(CASES, (SOME_PARCELS, SOME_PARCELS, ONE_PARCEL, SOME_PARCELS, ONE_PARCEL), strict=True))


@pytest.mark.parametrize(("case", "cells"), IN_BOTH_WAYS)
def test_a_cluster_like_engine_trains_the_same_model(
    tables: Tables, tmp_path: Path, case: str, cells: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster_training, "CELLS_PER_PARCEL", cells)
    changes = changes_of(case, tables, tmp_path)
    expected = train_on(tables.interactions, tmp_path, "one", **changes)
    engine = use_cluster_like(monkeypatch)
    found = train_on(tables.interactions, tmp_path, "cluster", runtime=Runtime(engine), **changes)
    assert_same_model(Model(expected), Model(found))


@pytest.mark.spark
@pytest.mark.parametrize(("case", "cells"), IN_ONE_WAY)
def test_spark_trains_the_same_model(
    spark_here: str, tables: Tables, tmp_path: Path, *, case: str, cells: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster_training, "CELLS_PER_PARCEL", cells)
    spark = EngineSettings(url=spark_here, scratch=tmp_path)
    changes = changes_of(case, tables, tmp_path)
    expected = train_on(tables.interactions, tmp_path, "one", **changes)
    found = train_on(tables.interactions, tmp_path, "cluster", runtime=Runtime(spark), **changes)
    assert_same_model(Model(expected), Model(found))


@pytest.mark.spark
def test_models_and_audiences_are_portable_between_engines(spark_here: str, tmp_path: Path) -> None:
    spark = EngineSettings(url=spark_here, scratch=tmp_path)
    tables = make_tables(tmp_path, 9_000)
    common = {"schema": SCHEMA, "users": tables.users, "users_schema": USERS, "settings": SETTINGS}
    models = {
        "duckdb": train_on(tables.interactions, tmp_path, "one", **common),
        "spark": train_on(tables.interactions, tmp_path, "cluster", runtime=Runtime(spark), **common),
    }
    assert Model(models["spark"]).n_shards == 2
    seed = tables.group[:300]
    for trained, ranked in (("duckdb", None), ("duckdb", spark), ("spark", None), ("spark", spark)):
        settings = {} if ranked is None else {"runtime": Runtime(ranked)}
        rank(models[trained], seed, tmp_path / f"{trained} {bool(ranked)}", **settings)
    once = tmp_path / "duckdb False"
    # The same model gives the same rows on both engines.
    rows = [pq.read_table(part) for part in ranking_parts(tmp_path / "duckdb True" / RANKING_FILE)]
    together = [row for table in rows for row in table.to_pylist()]
    assert together == pq.read_table(once / RANKING_FILE).to_pylist()
    for other in ("spark False", "spark True"):
        assert_same_audience(once, tmp_path / other)
