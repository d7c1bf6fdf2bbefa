"""Contract: the benchmarks run on any data, hide the data to predict, and count correctly."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cleanroom_pipelines.benchmarks import quality, scale
from cleanroom_pipelines.benchmarks.baselines import BASELINES, UserFeatures
from cleanroom_pipelines.benchmarks.other_version import OtherVersion
from cleanroom_pipelines.benchmarks.synthetic import (
    SyntheticSettings,
    copied_seed,
    copy_model,
    interest_of,
    write_interactions,
)
from cleanroom_pipelines.errors import UsageError
from cleanroom_pipelines.similarity import TrainingSettings, Window, shards
from cleanroom_pipelines.similarity.model import Model
from cleanroom_pipelines.similarity.rankings import RANKING_FILE
from cleanroom_pipelines_tests.architecture.tree import ROOT
from cleanroom_pipelines_tests.offenders import offenders
from cleanroom_pipelines_tests.similarity.planted import (
    ENGINE,
    QUICK,
    SCHEMA,
    SMALL,
    World,
    make_world,
    rank,
    train_on,
)

FAST = ("random", "activity", "LR TF-IDF", "kNN")


@pytest.fixture(scope="module")
def world() -> World:
    return make_world()


@pytest.fixture
def data(world: World, tmp_path: Path) -> quality.Data:
    world.interactions.to_parquet(tmp_path / "rows.parquet", index=False)
    group = set(world.group)
    users = pa.table(
        {"user_id": world.users, "taste": ["rare" if user in group else "common" for user in world.users]}
    )
    pq.write_table(users, tmp_path / "users.parquet")
    return quality.Data(tmp_path / "rows.parquet", SCHEMA, users=tmp_path / "users.parquet", name="planted")


def _run(data: quality.Data, kind: str, n_tasks: int = 1) -> dict[str, object]:
    """Tasks of a kind with the cheapest of the others: what they find is looked at for one kind."""
    return quality.run_quality(
        data, kinds=(kind,), n_tasks=n_tasks, baselines=("random",), settings=QUICK, training=SMALL, engine=ENGINE
    )["kinds"][kind]


def test_item_tasks_beat_chance_and_the_table_lists_all_methods(data: quality.Data) -> None:
    result = quality.run_quality(
        data, kinds=("item",), n_tasks=2, baselines=FAST, settings=QUICK, training=SMALL, engine=ENGINE
    )
    block = result["kinds"]["item"]
    assert len(block["tasks"]) == 2
    assert block["methods"][quality.OURS]["recall@20%"]["mean"] > 0.3
    assert all(name in quality.table(result) for name in (*FAST, quality.OURS, quality.WITHOUT_USERS))
    assert block["versus"]["random"]["n_better"] + block["versus"]["random"]["n_worse"] <= 2


def test_an_attribute_is_hidden_before_training(data: quality.Data) -> None:
    block = _run(data, "attribute")
    methods = block["methods"]
    assert methods[quality.OURS]["auc"]["mean"] == methods[quality.WITHOUT_USERS]["auc"]["mean"]
    assert methods[quality.OURS]["auc"]["mean"] > 0.7


def test_future_tasks_train_on_the_past_alone(data: quality.Data, monkeypatch: pytest.MonkeyPatch) -> None:
    windows: list[Window] = []
    real = quality.train

    def watched(*tables: object, **arguments: object) -> object:
        windows.append(arguments["window"])  # type: ignore[arg-type]
        return real(*tables, **arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(quality, "train", watched)
    assert _run(data, "future")["tasks"]
    assert all(window.end is not None for window in windows)


def test_null_tasks_measure_our_own_estimate(data: quality.Data) -> None:
    methods = _run(data, "null", n_tasks=2)["methods"]
    assert 0 <= methods[quality.OURS]["held-out recall@10%"]["mean"] <= 0.4
    assert "interval covers@10%" in methods[quality.OURS]


def test_harder_seeds_have_the_stated_size_and_share_of_strangers(
    data: quality.Data, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, tuple[int, int, float]] = {}
    real = quality.measure_ranking

    def watched(scores: quality.Float64, members: quality.Int64, seed: quality.Int64) -> dict[str, float]:
        seen[kind] = (len(members), len(seed), 1 - np.isin(seed, members).mean())
        return real(scores, members, seed)

    monkeypatch.setattr(quality, "measure_ranking", watched)
    for kind in ("noisy", "seed-30"):
        _run(data, kind)
    n_members, n_seed, strangers = seen["noisy"]
    assert n_seed == int(0.3 * n_members)
    assert strangers == pytest.approx(round(0.2 * n_seed) / n_seed)
    assert seen["seed-30"][1:] == (30, 0.0)


def test_another_version_runs_on_the_same_tasks(data: quality.Data) -> None:
    """This checkout as the other version: its commands rank the users of a pair of items as our functions do."""
    methods = quality.run_quality(
        data, kinds=("pair",), n_tasks=1, baselines=(), engine=ENGINE, against=OtherVersion(ROOT)
    )["kinds"]["pair"]["methods"]
    assert methods[quality.OTHER] == methods[quality.OURS]


def test_a_folder_that_is_not_a_checkout_is_rejected(tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        OtherVersion(tmp_path)


def test_unknown_kinds_and_kinds_without_data_are_rejected(data: quality.Data) -> None:
    with pytest.raises(UsageError):
        quality.run_quality(data, kinds=("nothing",))
    with pytest.raises(UsageError):
        _run(data, "campaign")


def test_measured_recall_matches_a_slow_count() -> None:
    rng = np.random.default_rng(0)
    scores = rng.integers(0, 5, 100).astype(float)
    members, seed = np.arange(0, 60, 2), np.arange(0, 20, 2)
    found = quality.measure_ranking(scores, members, seed)
    rest = [user for user in range(100) if user not in seed]
    ranked = sorted(rest, key=lambda user: (-scores[user], user))
    wanted = set(members) - set(seed)
    assert found["recall@20%"] == len(wanted & set(ranked[:20])) / len(wanted)
    pairs = [(scores[a] > scores[b]) + 0.5 * (scores[a] == scores[b]) for a in wanted for b in set(rest) - wanted]
    assert found["auc"] == pytest.approx(np.mean(pairs))


def test_every_baseline_scores_every_user() -> None:
    import scipy.sparse as sp

    rng = np.random.default_rng(0)
    table = UserFeatures(sp.csr_matrix(rng.poisson(0.4, (120, 30)).astype(float)), np.zeros((120, 1), np.float32))
    for name in (*FAST, "LightGBM raw"):
        scores = BASELINES[name](table, np.arange(30))
        assert scores.shape == (120,)
        assert np.isfinite(scores).all()


def test_synthetic_data_is_deterministic_and_of_the_requested_size(tmp_path: Path) -> None:
    settings = SyntheticSettings(2_000, 40_000, n_items=500)
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    rows = write_interactions(settings, tmp_path / "a")
    assert write_interactions(settings, tmp_path / "b") == rows
    assert abs(rows / 40_000 - 1) < 0.1
    names = [path.name for path in (tmp_path / "a").iterdir()]
    assert all((tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes() for name in names)
    assert len(np.unique(interest_of(settings, np.arange(2_000)))) == 50


def test_a_model_of_copies_ranks_each_copy_on_its_own(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shards, "USERS_PER_BLOCK", 30)
    small = train_on(world.interactions, tmp_path, settings=TrainingSettings(embedding_dimensions=8, neighbours=5))
    n_users = Model(small).n_users * 4
    copy_model(small, tmp_path / "copies", n_users)
    copies = Model(tmp_path / "copies")
    assert (copies.n_users, copies.n_shards) == (n_users, 4)
    assert len(set(copies.user_ids().to_pylist())) == n_users
    assert (np.diff(copies.hashes()) >= 0).all(), "users are numbered in order of their hashes, across shards"
    rank(tmp_path / "copies", copied_seed(world.group[:60]), tmp_path / "out")
    scores = pq.read_table(tmp_path / "out" / RANKING_FILE)["score"].to_pylist()
    assert len(scores) == n_users
    assert len(set(scores)) > 0.9 * n_users


STEPS = ("train", "generate from 40 seed users", "export all users", "match", "combine five lists")


def scale_settings(scratch: Path, **more: object) -> scale.ScaleSettings:
    """Small ones. Each step is a process of its own, which takes a second to start."""
    sizes = ((1_000, 20_000),)
    arguments = {"sizes": sizes, "seed_sizes": (40,), "n_items": 300, "peers": (), "threads": 1} | more
    return scale.ScaleSettings(scratch=scratch, **arguments)  # type: ignore[arg-type]


def test_the_scale_benchmark_measures_each_step(tmp_path: Path) -> None:
    (row,) = scale.run_scale(scale_settings(tmp_path))["sizes"]
    assert [step["step"] for step in row["steps"]] == [f"duckdb: {name}" for name in STEPS]
    assert all(step["seconds"] > 0 and step["peak_bytes"] > 10_000_000 for step in row["steps"])
    assert not any(tmp_path.iterdir())


def test_the_scale_benchmark_reports_marginal_costs(tmp_path: Path) -> None:
    result = scale.run_scale(scale_settings(tmp_path, sizes=((500, 10_000), (1_000, 20_000)), steps=("train",)))
    assert [step["step"] for row in result["sizes"] for step in row["steps"]] == ["duckdb: train"] * 2
    assert [entry["unit"] for entry in result["further"]] == ["interactions"]
    assert "per additional million" in scale.table(result)


def test_unknown_and_incomplete_steps_are_rejected() -> None:
    def check(*steps: str) -> None:
        with pytest.raises(UsageError):
            scale.ScaleSettings(steps=steps)

    assert offenders([(), ("train", "fly"), ("export",), ("train", "export")], check) == []


@pytest.mark.spark
def test_the_scale_benchmark_has_both_engines_on_the_same_data(tmp_path: Path) -> None:
    settings = scale_settings(
        tmp_path,
        engines=scale.ENGINES,
        # The others only call what the contract suite runs on Spark.
        steps=("train", "generate", "export"),
        threads=2,
        memory_bytes=1 << 30,
    )
    result = scale.run_scale(settings)
    (row,) = result["sizes"]
    found = {step["step"]: step for step in row["steps"]}
    assert list(found) == [f"{engine}: {name}" for engine in scale.ENGINES for name in STEPS[:3]]
    duckdb, spark = ([found[f"{engine}: {name}"] for name in STEPS[:3]] for engine in scale.ENGINES)
    assert duckdb[1]["recall"] == spark[1]["recall"]
    assert duckdb[2]["export_bytes"] == spark[2]["export_bytes"], "but for the manifest the same files"
    # An export's tasks need nothing of each other.
    assert all(step["shuffle_bytes"] > 0 for step in spark if "export" not in step["step"]), "by Spark's account"
    assert all(0 < step["python_bytes"] < step["peak_bytes"] for step in spark)
    assert set(row["spark_to_duckdb"]) == set(STEPS[:3])
    assert "times as long as DuckDB to train" in scale.table(result)
    assert not any(tmp_path.iterdir())


def test_the_cost_of_further_users_where_interactions_are_alike() -> None:
    def row(n_users: int, n_interactions: int, seconds: float) -> dict[str, object]:
        step = {"step": "duckdb: train", "seconds": seconds, "cpu_seconds": 2 * seconds}
        return {"n_users": n_users, "n_interactions": n_interactions, "steps": [step]}

    rows = [row(1_000_000, 20_000_000, 10), row(3_000_000, 20_100_000, 16), row(3_000_000, 40_100_000, 36)]
    users, interactions = scale.costs_of_growth(rows)
    assert (users["unit"], users["seconds_per_million"], users["cpu_seconds_per_million"]) == ("users", 3.0, 6.0)
    assert (interactions["unit"], interactions["seconds_per_million"]) == ("interactions", 1.0)
