"""Contract: a private lookalike uses the seed only through one vector, which one person changes by at most the
sensitivity; all else depends on the base and on released values. Results are the same for every order, number of
shards and engine."""

import json
import math
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cleanroom_pipelines.benchmarks.private import private_table, run_private
from cleanroom_pipelines.benchmarks.quality import Data
from cleanroom_pipelines.engine import EngineSettings, Runtime
from cleanroom_pipelines.errors import ArtifactError, CancelledError, SeedError, StatusCode
from cleanroom_pipelines.privacy.prices import FIGURES_SENSITIVITY, figures_price
from cleanroom_pipelines.similarity import TrainingSettings, shards
from cleanroom_pipelines.similarity.model import DIGESTS_FILE, Model
from cleanroom_pipelines.similarity.private_lookalikes import (
    SCALE_FILE,
    SUM_GRID,
    TOP_SHARES,
    choose,
    explanation,
    held_out_histogram,
    private_ranking,
    seed_sum,
    sensitivity,
    sigma_of,
    statistics_from_released,
)
from cleanroom_pipelines.similarity.private_representation import (
    DIMENSIONS,
    GRID,
    PRIVATE_FILE,
    PrivateRepresentation,
    coordinates_of,
    keep_representation,
    representation_digest,
)
from cleanroom_pipelines.similarity.rankings import RANKING_FILE, n_ranked, ranking_parts
from cleanroom_pipelines.similarity.rooms import USERS_FILE, select_reach
from cleanroom_pipelines_tests.similarity.cluster_like import use_cluster_like
from cleanroom_pipelines_tests.similarity.planted import ENGINE, SCHEMA, World, make_world, train_on
from cleanroom_pipelines_tests.similarity.test_rooms import Room, make_room, train

D = 24
SETTINGS = TrainingSettings(embedding_dimensions=32, neighbours=5, users_per_shard=150)


@pytest.fixture(scope="module", autouse=True)
def small_blocks() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shards, "USERS_PER_BLOCK", 30)
        yield


@pytest.fixture(scope="module")
def world() -> World:
    return make_world()


@pytest.fixture(scope="module")
def model(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with several shards of several blocks."""
    return train_on(world.interactions, tmp_path_factory.mktemp("model"), settings=SETTINGS)


@pytest.fixture(scope="module")
def seed(world: World) -> list[str]:
    return world.group[::2]


@pytest.fixture(scope="module")
def b(model: Path, seed: list[str]) -> Any:
    """The vector with the noise of 15 units."""
    noise = np.random.default_rng(0).normal(size=D) * sigma_of(15) * sensitivity(D)
    return _sum(model, seed) + np.rint(noise).astype(np.int64)


@pytest.fixture(scope="module")
def ranked(model: Path, b: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _ranked(model, b, tmp_path_factory.mktemp("ranked") / "out")


@dataclass(frozen=True)
class Expected:
    """What this machine's engine returns with several shards and one thread."""

    model: Path
    b: Any
    ranked: Path
    seed: list[str]


@pytest.fixture
def expected(model: Path, b: Any, ranked: Path, seed: list[str]) -> Expected:
    return Expected(model, b, ranked, seed)


def _sum(model: Path, user_ids: list[str], d: int = D) -> Any:
    return seed_sum(model, pa.array(user_ids, pa.string()), d, engine=ENGINE)


def _ranked(model: Path, b: Any, out: Path, d: int = D, **changes: Any) -> Path:
    out.mkdir(parents=True)
    private_ranking(model, b, d, out, **({"runtime": Runtime(ENGINE)} | changes))
    return out


def _rows(ranked: Path) -> pd.DataFrame:
    return pd.concat([pd.read_parquet(part) for part in ranking_parts(ranked / RANKING_FILE)], ignore_index=True)


def _vectors(model: Model, representation: PrivateRepresentation, d: int) -> Any:
    """Return the vectors of all users."""
    all_shards = [model.shard(number) for number in range(model.n_shards)]
    coordinates = [coordinates_of(shard, slice(None), representation) for shard in all_shards]
    return np.vstack([representation.vectors(some, d) for some in coordinates])


@pytest.mark.parametrize("d", DIMENSIONS)
def test_one_user_changes_the_vector_by_at_most_the_sensitivity(
    world: World, model: Path, seed: list[str], d: int
) -> None:
    whole = _sum(model, seed, d)
    moved = [float(np.linalg.norm(whole - _sum(model, seed[:place] + seed[place + 1 :], d))) for place in range(4)]
    moved += [float(np.linalg.norm(_sum(model, [*seed, other], d) - whole)) for other in world.users[-3:]]
    assert max(moved) <= sensitivity(d) == GRID + math.sqrt(d) / 2
    assert max(moved) > 0.9 * GRID, "half of all users are clipped to the full length"
    alone = [_sum(model, [user], d) for user in world.users[:9]]
    assert np.array_equal(sum(alone), _sum(model, world.users[:9], d)), "a user adds the same beside whomever"


def test_half_of_all_users_have_the_full_length(model: Path) -> None:
    opened = Model(model)
    representation = PrivateRepresentation.load(model)
    for d in DIMENSIONS:
        vectors = _vectors(opened, representation, d)
        lengths = np.linalg.norm(vectors, axis=1)
        assert lengths.max() <= sensitivity(d)
        assert np.mean(lengths > GRID - 3) == pytest.approx(0.5, abs=0.08)
        assert np.array_equal(vectors, np.rint(vectors))
        assert np.array_equal(representation.grams[d], vectors.T @ vectors)
        assert np.abs(vectors.mean(axis=0)).max() < 0.1 * GRID


def test_the_vector_ignores_order_duplicates_and_unknown_ids(model: Path, seed: list[str]) -> None:
    whole = _sum(model, seed)
    assert whole.dtype == np.int64
    assert np.array_equal(_sum(model, [*seed[::-1], seed[0], "nobody"]), whole)
    assert not _sum(model, ["nobody"]).any()


def test_a_planted_group_is_found_and_reaches_are_cut(
    world: World, seed: list[str], ranked: Path, tmp_path: Path
) -> None:
    rows = _rows(ranked)
    assert list(rows.columns) == ["user_id", "rank", "score", "is_seed"]
    assert set(rows.user_id) == set(world.users)
    assert list(rows["rank"]) == list(range(1, len(rows) + 1))
    assert not rows.is_seed.any(), "a private ranking knows no seed"
    assert rows.score.is_monotonic_decreasing
    assert rows.score.between(0, 1).all()
    hidden = set(world.group) - set(seed)
    others = rows[~rows.user_id.isin(seed)]
    assert others.head(len(hidden)).user_id.isin(hidden).mean() > 0.6
    reached = select_reach(ranked / RANKING_FILE, 20, tmp_path, engine=ENGINE)
    assert set(pd.read_parquet(tmp_path / USERS_FILE).user_id) == set(rows.head(reached.delivered).user_id)


def test_a_refreshed_base_is_ranked_with_the_paid_vector(world: World, expected: Expected, tmp_path: Path) -> None:
    rows = world.interactions
    rows = rows[~rows.user_id.isin(world.users[:60])]
    fresh = pd.DataFrame({"user_id": "new", "item_id": [*(f"i{item:03d}" for item in range(50, 60)), "i999"]})
    more = pd.DataFrame({"user_id": world.users[100:110], "item_id": "i999", "ts": rows.ts.max()})
    refreshed = train_on(pd.concat([rows, fresh.assign(ts=rows.ts.max()), more]), tmp_path, settings=SETTINGS)
    assert set(Model(refreshed).item_ids()) != set(Model(expected.model).item_ids())
    assert keep_representation(refreshed, expected.model)
    assert representation_digest(refreshed) == representation_digest(expected.model)
    out = _ranked(refreshed, expected.b, tmp_path / "out")
    found, before = (_rows(ranked).set_index("user_id").score for ranked in (out, expected.ranked))
    assert found["new"] > 0.9
    both = found.index.intersection(before.index)
    assert np.corrcoef(found[both].rank(), before[both].rank())[0, 1] > 0.98
    copy = Path(shutil.copytree(expected.model, tmp_path / "copy"))
    assert keep_representation(copy, expected.model)
    same = _ranked(copy, expected.b, tmp_path / "same")
    assert (same / RANKING_FILE).read_bytes() == (expected.ranked / RANKING_FILE).read_bytes()


def test_every_layout_gives_the_same_bytes(world: World, expected: Expected, tmp_path: Path) -> None:
    shuffled = world.interactions.sample(frac=1, random_state=1)
    threads = EngineSettings(memory_bytes=1 << 30, threads=2)
    settings = TrainingSettings(embedding_dimensions=32, neighbours=5, users_per_shard=10_000)
    other = train_on(shuffled, tmp_path, settings=settings, runtime=Runtime(threads))
    assert Model(other).n_shards != Model(expected.model).n_shards
    assert (other / PRIVATE_FILE).read_bytes() == (expected.model / PRIVATE_FILE).read_bytes()
    assert np.array_equal(_sum(other, expected.seed), _sum(expected.model, expected.seed))
    again = _ranked(other, expected.b, tmp_path / "out", runtime=Runtime(threads))
    for name in (RANKING_FILE, SCALE_FILE):
        assert (again / name).read_bytes() == (expected.ranked / name).read_bytes()


def test_a_cluster_gives_the_same(expected: Expected, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _assert_same_on(use_cluster_like(monkeypatch), expected, tmp_path / "out")


@pytest.mark.spark
def test_spark_gives_the_same(expected: Expected, tmp_path: Path) -> None:
    spark = EngineSettings(memory_bytes=1 << 30, threads=2, scratch=tmp_path, url="local[2]")
    _assert_same_on(spark, expected, tmp_path / "out")


def _assert_same_on(cluster: EngineSettings, expected: Expected, out: Path) -> None:
    there = _ranked(expected.model, expected.b, out, runtime=Runtime(cluster))
    pd.testing.assert_frame_equal(_rows(there), _rows(expected.ranked))
    assert (there / SCALE_FILE).read_bytes() == (expected.ranked / SCALE_FILE).read_bytes()
    assert n_ranked(there / RANKING_FILE) == n_ranked(expected.ranked / RANKING_FILE)
    ids = pa.array(expected.seed, pa.string())
    assert np.array_equal(seed_sum(expected.model, ids, D, engine=cluster), _sum(expected.model, expected.seed))
    on_cluster, here = (
        held_out_histogram(expected.model, ids, expected.b, D, ranking=ranking, engine=engine)
        for ranking, engine in ((there, cluster), (expected.ranked, ENGINE))
    )
    assert (on_cluster.counts.tolist(), on_cluster.total) == (here.counts.tolist(), here.total)


@pytest.mark.parametrize(
    "features",
    [{"segments": True}, {"embeddings": 8}, {"segments": True, "demographics": True, "embeddings": 4}],
    ids=str,
)
def test_a_room_of_any_features_is_ranked(tmp_path: Path, features: dict[str, Any]) -> None:
    room = make_room(tmp_path / "base", **features)
    model = train(room, tmp_path / "model")
    seed = room.group[::2]
    rows = _rows(_ranked(model, _sum(model, seed), tmp_path / "out"))
    assert set(rows.user_id) == set(room.users), "users without segments too"
    hidden = set(room.group) - set(seed)
    assert rows[~rows.user_id.isin(seed)].head(len(hidden)).user_id.isin(hidden).mean() > 0.4
    _assert_bare_users_tie_only_without_other_features(rows, room, features)


def _assert_bare_users_tie_only_without_other_features(
    rows: pd.DataFrame, room: Room, features: dict[str, Any]
) -> None:
    scores = rows[rows.user_id.isin(room.without_segments)].score
    assert (scores.nunique() > 1) == ("embeddings" in features)


def test_held_out_ranks_match_rankings_without_the_user(
    model: Path, b: Any, ranked: Path, seed: list[str]
) -> None:
    found = held_out_histogram(model, pa.array(seed, pa.string()), b, D, ranking=ranked, engine=ENGINE)
    assert found.counts.sum() == len(seed)
    assert len(found.counts) == len(TOP_SHARES) + 1
    assert abs(found.total) < len(seed) * SUM_GRID / 2
    # The obvious version: floats, one user after the other.
    representation = PrivateRepresentation.load(model)
    covariance = representation.covariance(D)
    inverse = np.linalg.inv(covariance + np.trace(covariance) / D * np.eye(D))
    opened = Model(model)
    vectors = _vectors(opened, representation, D)
    everybody = np.sort(vectors @ inverse @ b)
    own = vectors[np.isin(opened.user_ids().to_numpy(), seed)]
    scores = np.einsum("md,md->m", own @ inverse, b - own)
    percentiles = (np.searchsorted(everybody, scores, "left") + np.searchsorted(everybody, scores, "right")) / (
        2 * len(everybody)
    )
    # A step of the scale is less than a user here.
    for edge, n_above in zip(TOP_SHARES, np.cumsum(found.counts), strict=False):
        low, high = ((1 - percentiles < edge + off).sum() for off in (-2 / len(everybody), 2 / len(everybody)))
        assert low <= n_above <= high
    assert found.total / SUM_GRID == pytest.approx((percentiles - 0.5).sum(), abs=0.3)
    one = held_out_histogram(model, pa.array(seed[1:], pa.string()), b, D, ranking=ranked, engine=ENGINE)
    moved = float(np.sum((found.counts - one.counts) ** 2)) + ((found.total - one.total) / SUM_GRID) ** 2
    assert moved <= FIGURES_SENSITIVITY


@given(
    counts=st.lists(st.integers(-40, 400), min_size=12, max_size=12),
    total=st.integers(-4_000_000, 4_000_000),
    n_users=st.integers(100, 100_000),
    sigma=st.floats(0, 30),
)
def test_figures_are_monotone_and_within_bounds(counts: list[int], total: int, n_users: int, sigma: float) -> None:
    figures = statistics_from_released(counts, total, n_users, sigma)
    json.dumps(figures, allow_nan=False)
    told = [entry for entry in figures["reach"] if entry["tpr"] is not None]
    assert [entry["reach"] for entry in figures["reach"]] == list(range(1, 31))
    assert all(0 <= entry["tpr"] <= 1 and 0 <= entry["fpr"] <= 1 for entry in told)
    assert [entry["tpr"] for entry in told] == sorted(entry["tpr"] for entry in told)
    if figures["auc"] is None:
        assert not told
        return
    assert 0 <= figures["auc"] <= 1
    assert figures["auc_error"] > 0
    assert len(figures["fpr"]) == len(figures["tpr"]) == len(figures["tpr_error"]) == 101
    assert figures["tpr"] == sorted(figures["tpr"])
    assert 0 <= figures["tpr"][0] <= figures["tpr"][-1] <= 1


def test_figures_are_right_and_their_error_covers_them() -> None:
    shares = np.array([0.02, 0.04, 0.1, 0.2, 0.3, 0.4, 0.48, 0.55, 0.65, 0.75, 0.9, 1.0])
    exact = np.diff(np.concatenate([[0], np.rint(shares * 1_000)])).astype(int)
    figures = statistics_from_released(exact.tolist(), 200 * SUM_GRID, 50_000, 0.0)
    at_10 = figures["reach"][9]
    assert (at_10["reach"], at_10["tpr"]) == (10, 0.2)
    assert at_10["fpr"] == pytest.approx((0.1 - 0.02 * 0.2) / 0.98, abs=0.001)
    assert figures["reach"][0]["tpr"] is None, "20 users are not told"
    assert figures["auc"] == pytest.approx((0.7 - 0.01) / 0.98, abs=0.001)
    rng = np.random.default_rng(0)
    sigma = math.sqrt(figures_price(1_000).variance)
    covered, errors = [], []
    for _ in range(400):
        drawn = rng.multinomial(1_000, exact / 1_000) + np.rint(rng.normal(size=12) * sigma).astype(int)
        entry = statistics_from_released(drawn.tolist(), 0, 50_000, sigma)["reach"][9]
        errors.append(entry["tpr_error"])
        covered.append(abs(entry["tpr"] - 0.2) <= entry["tpr_error"])
    assert np.mean(errors) <= 0.055
    assert 0.86 < np.mean(covered) < 0.97


def test_the_explanation_reads_the_released_vector_alone(world: World, model: Path, b: Any) -> None:
    sigma = sigma_of(15)
    told = explanation(model, b, D, released_seed_size=70, sigma=sigma)
    shown = [entry["item_id"] for entry in told["items"]]
    assert len(shown) >= 2
    assert set(shown) <= {f"i{number:03d}" for number in range(50, 60)}
    nothing = explanation(model, np.zeros(D, dtype=np.int64), D, released_seed_size=70, sigma=sigma)
    assert (nothing["items"], nothing["features"]) == ([], [])
    assert set(told) == set(nothing)
    rng = np.random.default_rng(1)
    n_shown = 0
    for _ in range(20):
        random = _sum(model, list(rng.choice(world.users, 70, replace=False)))
        random += np.rint(rng.normal(size=D) * sigma * sensitivity(D)).astype(np.int64)
        n_shown += len(explanation(model, random, D, released_seed_size=70, sigma=sigma)["items"])
    assert n_shown <= 2


def test_the_price_falls_with_the_seed() -> None:
    sizes = [250, 300, 500, 684, 1_000, 2_000, 2_500, 6_200, 20_000, 500_000]
    choices = [choose(size) for size in sizes]
    assert [choice.units for choice in choices] == [60, 41.7, 15, 8.1, 8, 8, 5.2, 0.9, 0.1, 0.1]
    for size, choice in zip(sizes, choices, strict=True):
        assert choice.sigma * math.sqrt(24) <= 0.0501 * size
        assert choice.sigma == pytest.approx(math.sqrt(1 / (2 * 0.00128 * choice.units)))
        assert choice.d in DIMENSIONS
    with pytest.raises(SeedError, match="at least 250") as caught:
        choose(249)
    assert caught.value.status_code is StatusCode.INSUFFICIENT_MATCHING_SEED
    assert caught.value.attributes == {"needed": 250}


def test_damage_and_cancelling(world: World, model: Path, b: Any, tmp_path: Path) -> None:
    assert PRIVATE_FILE in json.loads((model / DIGESTS_FILE).read_text())
    with pytest.raises(CancelledError):
        _ranked(model, b, tmp_path / "cancelled", runtime=Runtime(should_cancel=lambda: True))
    with pytest.raises(ArtifactError):
        held_out_histogram(model, pa.array(world.users[:30]), b, D, ranking=tmp_path, engine=ENGINE)
    damaged = train_on(world.interactions, tmp_path)
    (damaged / PRIVATE_FILE).write_bytes(b"PK")
    with pytest.raises(ArtifactError, match=r"private\.npz"):
        _sum(damaged, world.users[:30])


def test_the_benchmark_reports_none_if_too_few_items_have_enough_users(world: World, tmp_path: Path) -> None:
    source = tmp_path / "rows.parquet"
    world.interactions.to_parquet(source, index=False)
    result = run_private(Data(source, SCHEMA, name="planted"), seed_sizes=(2_000,), n_tasks=1)
    assert result["sizes"] == {2_000: None}
    assert "none: fewer than 5 tasks have enough users" in private_table(result)
