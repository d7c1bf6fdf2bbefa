"""Contract: on a cluster, a ranking in parts equals the ranking in memory, row for row, with the same metrics;
a fit survives saving and loading.
"""

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cleanroom_pipelines.audiences.sizes import AudienceSize, SeedMode, SizeType
from cleanroom_pipelines.engine import EngineSettings, Runtime, open_engine
from cleanroom_pipelines.errors import ArtifactError
from cleanroom_pipelines.similarity import TrainingSettings, shards, sorting
from cleanroom_pipelines.similarity.fits import Fit, load_fit, save_fit
from cleanroom_pipelines.similarity.model import Model
from cleanroom_pipelines.similarity.ranking import Float64
from cleanroom_pipelines.similarity.rankings import (
    RANKING_FILE,
    RANKING_SCHEMA,
    n_ranked,
    ranking_metadata,
    select_audience,
    write_ranked,
)
from cleanroom_pipelines.similarity.scoring import score_users
from cleanroom_pipelines.similarity.seeds import match_seed
from cleanroom_pipelines_tests.similarity.cluster_like import use_cluster_like
from cleanroom_pipelines_tests.similarity.planted import (
    ENGINE,
    World,
    make_world,
    rank,
    seed_of,
    train_on,
)


@pytest.fixture(scope="module")
def world() -> World:
    return make_world()


@pytest.fixture(scope="module", autouse=True)
def cluster_like() -> Iterator[EngineSettings]:
    """Settings of an engine that behaves like a cluster, with blocks so small that there are several."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shards, "USERS_PER_BLOCK", 30)
        yield use_cluster_like(patch)


@pytest.fixture(scope="module")
def model(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with several shards of several blocks."""
    settings = TrainingSettings(embedding_dimensions=8, neighbours=5, users_per_shard=150)
    return train_on(world.interactions, tmp_path_factory.mktemp("model"), settings=settings)


@pytest.fixture(scope="module")
def ranked(
    world: World, model: Path, cluster_like: EngineSettings, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The same 60 seed users ranked in `memory` and in `parts`; read-only."""
    folder = tmp_path_factory.mktemp("ranked")
    rank(model, world.group[:60], folder / "memory")
    rank(model, world.group[:60], folder / "parts", runtime=Runtime(cluster_like))
    return folder


def _metrics(folder: Path) -> dict[str, object]:
    found = json.loads((folder / "metrics.json").read_text())
    del found["timing"], found["peak_bytes"]
    return found


def _rows(ranking: Path) -> list[dict[str, object]]:
    parts = sorted(ranking.iterdir()) if ranking.is_dir() else [ranking]
    return [row for part in parts for row in pq.read_table(part).to_pylist()]


def assert_parts_are_the_ranking_in_memory(folder: Path) -> None:
    expected = _rows(folder / "memory" / RANKING_FILE)
    assert (folder / "parts" / RANKING_FILE).is_dir()
    assert len(list((folder / "parts" / RANKING_FILE).iterdir())) > 3
    assert _rows(folder / "parts" / RANKING_FILE) == expected
    assert _metrics(folder / "parts") == _metrics(folder / "memory")
    explanations = [(folder / name / "explanation.json").read_bytes() for name in ("memory", "parts")]
    assert explanations[0] == explanations[1]


def test_parts_equal_the_ranking_in_memory(ranked: Path) -> None:
    assert_parts_are_the_ranking_in_memory(ranked)


def test_parts_equal_the_ranking_in_memory_for_a_large_seed(
    world: World, model: Path, cluster_like: EngineSettings, tmp_path: Path
) -> None:
    rank(model, world.group[:120], tmp_path / "memory")
    rank(model, world.group[:120], tmp_path / "parts", runtime=Runtime(cluster_like))
    assert_parts_are_the_ranking_in_memory(tmp_path)


def test_ranges_of_scores_change_no_byte(
    world: World, model: Path, ranked: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sorting, "_USERS_PER_RANGE", 40)
    monkeypatch.setattr(sorting, "_SAMPLED", 1)
    rank(model, world.group[:60], tmp_path / "ranges")
    for name in (RANKING_FILE, "explanation.json"):
        assert (tmp_path / "ranges" / name).read_bytes() == (ranked / "memory" / name).read_bytes()
    assert _metrics(tmp_path / "ranges") == _metrics(ranked / "memory")


@pytest.mark.parametrize("users_per_range", [7, 100, 10**6])
@pytest.mark.parametrize("n_values", [1, 3, 40, 10**6], ids=lambda n: f"{n} different scores")
def test_a_ranking_written_in_ranges_is_that_of_numpy(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, n_values: int, users_per_range: int
) -> None:
    """Ties are in order of the users' numbers: in a range, across ranges, between seed users and others."""
    monkeypatch.setattr(sorting, "_USERS_PER_RANGE", users_per_range)
    monkeypatch.setattr(sorting, "_SAMPLED", 3)
    monkeypatch.setattr(sorting, "_ROW_GROUP", 16)
    opened = Model(model)
    random = np.random.default_rng(n_values)
    scores = random.integers(-(n_values // 2), n_values, opened.n_users) / 7.0
    seed = np.sort(random.choice(opened.n_users, 50, replace=False))
    others = np.setdiff1d(np.arange(opened.n_users), seed)
    below = (scores[others][:, None] > scores[others]).sum(axis=1)
    tied = (scores[others][:, None] == scores[others]).sum(axis=1)
    percentiles = np.empty(opened.n_users)
    percentiles[others] = (2 * below + tied) / (2.0 * len(others))
    percentiles[seed] = random.choice(percentiles[others], 50)
    expected = np.lexsort((np.arange(opened.n_users), -percentiles))

    file = sorting.write_score_file(np.array_split(scores, 4), tmp_path / "scores")
    parts = sorting.ranked_parts(opened, file, seed=seed, scratch=tmp_path)
    ids = opened.user_ids().combine_chunks()
    sorting.write_ranking(
        parts, tmp_path / RANKING_FILE, seed=seed, seed_ids=ids.take(seed), seed_percentiles=percentiles[seed]
    )

    found = pq.read_table(tmp_path / RANKING_FILE)
    assert found["user_id"].to_pylist() == ids.take(expected).to_pylist()
    assert found["score"].to_pylist() == percentiles[expected].tolist()
    assert found["rank"].to_pylist() == list(range(1, opened.n_users + 1))
    assert found["is_seed"].to_pylist() == np.isin(expected, seed).tolist()
    assert [path.name for path in tmp_path.iterdir()] == [RANKING_FILE], "scratch files are removed"


def test_each_part_records_its_number_of_seed_users(ranked: Path) -> None:
    n_seed = 0
    for part in sorted((ranked / "parts" / RANKING_FILE).iterdir()):
        told = int(pq.read_schema(part).metadata[b"n_seed_users"])
        assert told == sum(pq.read_table(part)["is_seed"].to_pylist())
        n_seed += told
    assert n_seed == 60


def test_a_seed_is_matched_on_a_cluster(world: World, model: Path, cluster_like: EngineSettings) -> None:
    seed = seed_of([*world.group[:40], "nobody"])
    assert match_seed(model, seed, engine=cluster_like).counts.n_matched == 40


def test_a_saved_fit_scores_all_parts_equally(world: World, model: Path, ranked: Path, tmp_path: Path) -> None:
    kept, out = tmp_path / "fit", tmp_path / "shared"
    kept.mkdir()

    def score(opened: Model, fit: Fit, on_share: Callable[[float], None]) -> Iterator[Float64]:
        save_fit(fit, kept)
        half = opened.n_shards // 2
        with open_engine(ENGINE) as engine:
            for shards in (range(half), range(half, opened.n_shards)):
                yield score_users(engine, opened, load_fit(kept).scorer, shards, on_share)

    rank(model, world.group[:60], out, score=score)
    for name in (RANKING_FILE, "explanation.json"):
        assert (out / name).read_bytes() == (ranked / "memory" / name).read_bytes()
    assert _metrics(out) == _metrics(ranked / "memory")


def test_a_damaged_fit_is_rejected(tmp_path: Path) -> None:
    (tmp_path / "fit.json").write_text("{}")
    with pytest.raises(ArtifactError):
        load_fit(tmp_path)


def test_a_fit_with_other_signals_is_rejected(world: World, model: Path, tmp_path: Path) -> None:
    kept = tmp_path / "fit"
    kept.mkdir()

    def score(opened: Model, fit: Fit, on_share: Callable[[float], None]) -> Iterator[Float64]:
        save_fit(replace(fit, scorer=replace(fit.scorer, scales=(*fit.scorer.scales, fit.scorer.scales[0]))), kept)
        with open_engine(ENGINE) as engine:
            yield score_users(engine, opened, fit.scorer, range(opened.n_shards), on_share)

    rank(model, world.group[:60], tmp_path / "out", score=score)
    with pytest.raises(ArtifactError):
        load_fit(kept)


@pytest.mark.parametrize("mode", list(SeedMode))
def test_parts_are_read_like_one_file(world: World, ranked: Path, tmp_path: Path, mode: SeedMode) -> None:
    written, chosen = [], []
    for name in ("memory", "parts"):
        ranking = ranked / name / RANKING_FILE
        write_ranked(ranking=ranking, out=tmp_path / f"{name}.parquet", seed_mode=mode)
        written.append(pq.read_table(tmp_path / f"{name}.parquet").to_pylist())
        audience = select_audience(ranking, AudienceSize(SizeType.PERCENTAGE, 20), mode)
        ids = [user_id for batch in audience.user_ids() for user_id in batch.to_pylist()]
        chosen.append((audience.requested, audience.delivered, ids))
    assert written[0] == written[1]
    assert chosen[0] == chosen[1]
    assert n_ranked(ranked / "parts" / RANKING_FILE) == len(world.users)


def peak_of_reading(ranking: Path, n_groups: int) -> int:
    """Write a ranking of n row groups, and return the most bytes that Arrow holds while its users are read."""
    schema = RANKING_SCHEMA.with_metadata(ranking_metadata(0))
    n = 5_000
    ids = (hashlib.sha256(str(number).encode()).hexdigest() for number in range(n * n_groups))
    with pq.ParquetWriter(ranking, schema) as writer:
        for first in range(0, n * n_groups, n):
            ranks = np.arange(first + 1, first + n + 1)
            columns = [list(islice(ids, n)), ranks, 1.0 / ranks, np.zeros(n, dtype=bool)]
            writer.write_table(pa.table(columns, schema=schema))
    before, peak, n_users = pa.total_allocated_bytes(), 0, 0
    for batch in select_audience(ranking, AudienceSize(SizeType.PERCENTAGE, 100)).user_ids():
        n_users += len(batch)
        peak = max(peak, pa.total_allocated_bytes() - before)
    assert n_users == n * n_groups
    return peak


def test_reading_more_users_takes_no_more_memory(tmp_path: Path) -> None:
    # One batch has 100,000 users, the rows of 20 groups.
    assert peak_of_reading(tmp_path / "more", 80) < 1.2 * peak_of_reading(tmp_path / "few", 20)


def test_a_ranking_without_parts_is_rejected(tmp_path: Path) -> None:
    (tmp_path / RANKING_FILE).mkdir()
    with pytest.raises(ArtifactError):
        n_ranked(tmp_path / RANKING_FILE)
