"""Ranking a population by similarity to a seed, and taking audiences from the ranking.

Lives here: `generate`, the ranking in place under it (`rank_in_place`), its three projections (`write_ranked`),
and `select_audience`.
Add here when an audience can be taken from a ranking in a further way.
Keep out: fitting (signals, ensemble), formulas (metrics).

`ranking.parquet` is the operator's only: it tells who is a seed user. Everything in it is a function of the model
and the set of seed ids; times are in metrics.json alone.

Fitting dominates: 16 fits on up to 25,000 users are about 15 of the 25 CPU seconds of a 10,000-user seed among a
million users, and do not grow with the population. A tolerance of 1e-6 in the logistic fits saved a third, 20,000
instead of 45,000 other users another third; neither moved recall. Fold models are not warm-started from the full
one, which has seen their fold.
"""

import json
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from cleanroom_pipelines.audiences.sizes import DEFAULT_SIZES, AudienceSize, SeedMode, SizeType, check_sizes
from cleanroom_pipelines.engine import EngineSettings, stable_hash
from cleanroom_pipelines.errors import ArtifactError, SeedError, StatusCode, UsageError
from cleanroom_pipelines.similarity import metrics
from cleanroom_pipelines.similarity.ensemble import Ensemble, arrange, fit_ensemble, score_with, take
from cleanroom_pipelines.similarity.explanation import explain
from cleanroom_pipelines.similarity.model import Model
from cleanroom_pipelines.similarity.seeds import SeedUsers, matched_users, read_seed
from cleanroom_pipelines.similarity.specs import (
    GenerationReport,
    GenerationSettings,
    Progress,
    ShouldCancel,
)
from cleanroom_pipelines.similarity.training import Stages, one_blas_thread

Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]

RANKING_FILE = "ranking.parquet"
_CHUNK = 8_192
_ROW_GROUP = 100_000
_FEW_SEED_USERS = 100
_LOW_MATCH_RATE = 0.1
_MESSAGES = {
    "FEW_SEED_USERS": "Only {n} matched seed users: the interval is wide.",
    "NOT_BETTER_THAN_RANDOM": "Not better than random at {sizes}: the seed has no pattern this model can see.",
    "SIZE_EXCEEDS_POPULATION": "A size is larger than the users there are: all of them are delivered.",
    "LOW_MATCH_RATE": "Few of the seed's ids are known to the model: check that both sides use the same ids.",
    "MINIMUM_LOWERED": "The minimum of seed users was set below 500: a small seed says more about each user.",
    "SEED_ROWS_DROPPED": "Seed rows without a usable id were dropped.",
}


def generate(
    *,
    model: Path | str,
    seed: SeedUsers | Path | str,
    out: Path,
    sizes: Sequence[AudienceSize] = DEFAULT_SIZES,
    min_matching_seed_size: int = 500,
    seed_floor: int = 25,
    settings: GenerationSettings = GenerationSettings(),  # noqa: B008 frozen
    engine: EngineSettings = EngineSettings(),  # noqa: B008 frozen
    progress: Progress | None = None,
    should_cancel: ShouldCancel | None = None,
) -> GenerationReport:
    """Rank all users of a model by similarity to a seed.

    Args:
        model: The folder training wrote.
        seed: The seed, or its file.
        out: Existing directory that gets ranking.parquet, metrics.json and explanation.json.
        sizes: Audience sizes to measure, 1 to 25.
        min_matching_seed_size: Fewest seed users the model must know.
        seed_floor: The least that `min_matching_seed_size` may be.
        settings: Folds, samples, threads and rounds.
        engine: Memory, threads and scratch of the engine, for reading the seed.
        progress: Told the share done and the stage.
        should_cancel: Asked between blocks.

    Returns:
        What was written, and timing.

    Raises:
        SeedError: The seed cannot be used, too few of it match (INSUFFICIENT_MATCHING_SEED), or it leaves fewer
            than max(100, seed / 10) other users (SEED_COVERS_POPULATION).
        UsageError: Sizes or the minimum are out of range.
        ArtifactError: The model cannot be read.
        CancelledError: `should_cancel` said so.
    """
    sizes = check_sizes(tuple(sizes))
    if min_matching_seed_size < seed_floor:
        raise UsageError(
            f"The minimum matching seed size must be at least {seed_floor}.",
            remedy="Raise it, or lower the floor.",
        )
    stages = Stages(progress, should_cancel)
    with one_blas_thread():
        with stages.stage(0.0, "reading the seed"):
            users = seed if isinstance(seed, SeedUsers) else read_seed(seed, engine=engine)
        with stages.stage(0.02, "matching the seed"):
            opened = Model(model)
            matched = matched_users(opened, users)
            _check_matched(len(matched), users, opened.n_users, min_matching_seed_size)
        ranked = rank_in_place(opened, matched, out / RANKING_FILE, settings, stages)
        with stages.stage(0.95, "explaining"):
            explanation = explain(opened, ranked.ensemble, matched, settings.min_explained_users)
    measured = _metrics(users, matched, opened.n_users, ranked, sizes=sizes, minimum=min_matching_seed_size)
    measured["timing"] = dict(stages.seconds)
    _write_json(out / "metrics.json", measured)
    _write_json(out / "explanation.json", explanation)
    if progress:
        progress(1.0, "ranked")
    return GenerationReport(
        metrics=measured,
        explanation=explanation,
        n_users=opened.n_users,
        n_matched_seed_users=len(matched),
        warnings=tuple(warning["code"] for warning in measured["warnings"]),
        timing_seconds=dict(stages.seconds),
    )


@dataclass(frozen=True)
class InPlaceRanking:
    """Everybody ranked, seed users by models that never saw them.

    Args:
        ensemble: What was fitted.
        held_out: Where the seed users stand.
        order: (N,) numbers of the users, best first.
        scores: (N,) percentile of each user among the non-seed users, within the model that scored her.
        other_percentiles: (N - m,) those of the non-seed users, descending.
    """

    ensemble: Ensemble
    held_out: metrics.HeldOut
    order: Int64
    scores: Float64
    other_percentiles: Float64


def rank_in_place(
    model: Model, matched: Int64, out: Path, settings: GenerationSettings, stages: Stages
) -> InPlaceRanking:
    """Fit, score and rank everybody for one seed, and write the ranking; within `one_blas_thread`.

    Args:
        model: The audience model.
        matched: Numbers of the matched seed users, ascending; enough of them, and enough others.
        out: The ranking.parquet to write.
        settings: Folds, samples, threads and rounds.
        stages: Told of progress, from 0.05 to 0.95 of the whole.

    Raises:
        CancelledError: Somebody asked for it.
    """
    with stages.stage(0.05, "fitting the ensemble"):
        population = arrange(model.hashes, matched, settings)

        def on_fit(share: float) -> None:
            stages.check()
            if stages.progress:
                stages.progress(0.05 + 0.45 * share, "fitting the ensemble")

        ensemble = fit_ensemble(model, population, settings, on_fit)
    with stages.stage(0.5, "ranking held-out seed users"):
        held_out = held_out_ranks_of(model, ensemble, matched, settings, stages)
    with stages.stage(0.6, "scoring all users"):
        scores = _score_all(model, ensemble, settings, stages)
    with stages.stage(0.85, "ranking"):
        ranked = _ranked(scores, ensemble, matched, held_out)
        _write_ranking(model, ranked, out)
    return ranked


def write_ranked(*, ranking: Path, out: Path, seed_mode: SeedMode = SeedMode.EXCLUDED) -> int:
    """Project the in-place ranking into `ranked.parquet`: user_id VARCHAR, rank BIGINT from 1, score DOUBLE.

    Args:
        ranking: The ranking.parquet that `generate` wrote.
        out: File to write.
        seed_mode: Where the seed's own users stand.

    Returns:
        Rows written.

    Raises:
        ArtifactError: The ranking cannot be read.
    """
    import pyarrow.parquet as pq

    schema = pa.schema([("user_id", pa.string()), ("rank", pa.int64()), ("score", pa.float64())])
    n_rows = 0
    with pq.ParquetWriter(out, schema, compression="zstd") as writer:
        for batch in _projected(ranking, seed_mode):
            ranks = pa.array(np.arange(n_rows + 1, n_rows + 1 + batch.num_rows))
            writer.write_batch(
                pa.RecordBatch.from_arrays([batch.column("user_id"), ranks, batch.column("score")], schema=schema)
            )
            n_rows += batch.num_rows
    return n_rows


@dataclass(frozen=True)
class Audience:
    """The users of one size, best first.

    Args:
        requested: Users asked for.
        delivered: Users there are.
        warnings: SIZE_EXCEEDS_POPULATION where fewer than asked for.
    """

    requested: int
    delivered: int
    warnings: tuple[str, ...]
    _ranking: Path
    _seed_mode: SeedMode

    def user_ids(self) -> Iterator[pa.Array]:
        """The user ids in rank order, in batches of strings; never all in memory."""
        left = self.delivered
        for batch in _projected(self._ranking, self._seed_mode):
            if left <= 0:
                return
            yield batch.column("user_id").slice(0, left)
            left -= batch.num_rows


def select_audience(ranking: Path, size: AudienceSize, seed_mode: SeedMode = SeedMode.EXCLUDED) -> Audience:
    """Take the users of one size from a ranking, without scores.

    Args:
        ranking: The ranking.parquet that `generate` wrote.
        size: How many; a percentage is one of all scored users, the seed included.
        seed_mode: Where the seed's own users stand; where they are excluded the cut refills.

    Raises:
        ArtifactError: The ranking cannot be read.
    """
    with _open_ranking(ranking) as file:
        n_users = file.metadata.num_rows
        n_seed = int(file.schema_arrow.metadata[b"n_seed_users"])
    available = n_users - n_seed if seed_mode is SeedMode.EXCLUDED else n_users
    requested = size.n_users(n_users)
    return Audience(
        requested=requested,
        delivered=min(requested, available),
        warnings=("SIZE_EXCEEDS_POPULATION",) if requested > available else (),
        _ranking=ranking,
        _seed_mode=seed_mode,
    )


def _projected(ranking: Path, seed_mode: SeedMode) -> Iterator[pa.RecordBatch]:
    import pyarrow.compute as pc

    if seed_mode is SeedMode.FIRST:
        yield _shuffled_seed(ranking)
    with _open_ranking(ranking) as file:
        for batch in file.iter_batches(batch_size=_ROW_GROUP):
            yield batch if seed_mode is SeedMode.IN_PLACE else batch.filter(pc.invert(batch.column("is_seed")))


def _shuffled_seed(ranking: Path) -> pa.RecordBatch:
    """The seed's users without score, in an order that says nothing about their score."""
    with _open_ranking(ranking) as file:
        ids: list[str] = []
        for batch in file.iter_batches(batch_size=_ROW_GROUP):
            ids += batch.column("user_id").filter(batch.column("is_seed")).to_pylist()
    ids.sort(key=lambda user_id: (stable_hash(f"first:{user_id}"), user_id))
    return pa.RecordBatch.from_arrays(
        [
            pa.array(ids, pa.string()),
            pa.nulls(len(ids), pa.int64()),
            pa.nulls(len(ids), pa.float64()),
            pa.array([True] * len(ids)),
        ],
        names=["user_id", "rank", "score", "is_seed"],
    )


def _open_ranking(ranking: Path) -> Any:
    import pyarrow.parquet as pq

    try:
        return pq.ParquetFile(ranking)
    except (OSError, pa.ArrowException) as error:
        raise ArtifactError(
            f"The ranking cannot be read ({type(error).__name__}).", remedy="Generate it again."
        ) from None


def _check_matched(n_matched: int, seed: SeedUsers, n_users: int, minimum: int) -> None:
    # The messages become the status of a job, which both sides read: exact counts are attributes only.
    counts = {"n_matched": n_matched, "n_unique": seed.n_unique, "n_users": n_users}
    if n_matched < minimum:
        raise SeedError(
            f"Fewer than {minimum:,} seed users, the minimum, are known to the model.",
            remedy="Give a larger seed, check that both sides use the same ids, or lower the minimum.",
            status_code=StatusCode.INSUFFICIENT_MATCHING_SEED,
            **counts,
        )
    if n_users - n_matched < max(100, n_matched / 10):
        raise SeedError(
            "The seed covers the population: too few users are not in it to tell it apart.",
            remedy="Give a smaller seed.",
            status_code=StatusCode.SEED_COVERS_POPULATION,
            **counts,
        )


def held_out_ranks_of(
    model: Model,
    ensemble: Ensemble,
    matched: Int64,
    settings: GenerationSettings,
    stages: Stages = Stages(None, None),  # noqa: B008 only asked
) -> metrics.HeldOut:
    """Score every seed user by her fold's model, and the non-seed users that it has not seen."""
    population = ensemble.population
    n_folds = len(ensemble.folds)
    folded_others = population.sample[~population.is_seed[population.sample]]
    users = np.sort(np.concatenate([matched, folded_others, population.reference]))
    folds = population.fold[users]
    chunks = [users[start : start + _CHUNK] for start in range(0, len(users), _CHUNK)]

    def score(chunk: Int64) -> Float64:
        stages.check()
        fold = population.fold[chunk]
        rows = model.rows_of(chunk)
        if (fold < 0).any():
            return np.column_stack(score_with(list(ensemble.folds), rows))
        values = np.full((len(chunk), n_folds), np.nan)
        for k in range(n_folds):
            mine = np.flatnonzero(fold == k)
            if len(mine):
                values[mine, k] = score_with([ensemble.folds[k]], take(rows, mine))[0]
        return values

    with ThreadPoolExecutor(max_workers=max(1, settings.threads)) as pool:
        scores = np.concatenate(list(pool.map(score, chunks)))
    is_seed = population.is_seed[users]
    own = scores[is_seed][np.arange(len(matched)), folds[is_seed]]
    reference = [scores[~is_seed & ((folds == k) | (folds < 0)), k] for k in range(n_folds)]
    return metrics.held_out_ranks(own, folds[is_seed].astype(np.int64), reference, model.n_users)


def _score_all(model: Model, ensemble: Ensemble, settings: GenerationSettings, stages: Stages) -> Float64:
    """(N,) scores by the model of everybody."""
    blocks = model.blocks()
    scores = np.empty(model.n_users)

    def score(block: Any) -> None:
        stages.check()
        scores[block.first : block.last] = score_with([ensemble.full], model.rows(block))[0]

    with ThreadPoolExecutor(max_workers=max(1, settings.threads)) as pool:
        for done, _ in enumerate(pool.map(score, blocks)):
            if stages.progress and done % 16 == 0:
                stages.progress(0.6 + 0.25 * done / len(blocks), "scoring all users")
    return scores


def _ranked(scores: Float64, ensemble: Ensemble, matched: Int64, held_out: metrics.HeldOut) -> InPlaceRanking:
    """Everybody's percentile among the non-seed users, within the model that scored her; best first."""
    others = np.flatnonzero(~ensemble.population.is_seed)
    ordered = np.sort(scores[others])
    below = np.searchsorted(ordered, scores[others], "left") + np.searchsorted(ordered, scores[others], "right")
    result = np.empty(len(scores))
    result[others] = below / (2.0 * len(others))
    result[matched] = held_out.percentile
    # Users are numbered in order of stable_hash, so a stable sort breaks ties by it.
    order = np.argsort(-result, kind="stable")
    return InPlaceRanking(ensemble, held_out, order, result, -np.sort(-result[others]))


def _write_ranking(model: Model, ranked: InPlaceRanking, path: Path) -> None:
    import pyarrow.parquet as pq

    population = ranked.ensemble.population
    user_ids = model.user_ids().combine_chunks()
    schema = pa.schema(
        [("user_id", pa.string()), ("rank", pa.int64()), ("score", pa.float64()), ("is_seed", pa.bool_())],
        metadata={b"n_seed_users": str(int(population.is_seed.sum())).encode()},
    )
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        for start in range(0, len(ranked.order), _ROW_GROUP):
            users = ranked.order[start : start + _ROW_GROUP]
            writer.write_table(
                pa.Table.from_arrays(
                    [
                        user_ids.take(pa.array(users)),
                        pa.array(np.arange(start + 1, start + 1 + len(users))),
                        pa.array(ranked.scores[users]),
                        pa.array(population.is_seed[users]),
                    ],
                    schema=schema,
                )
            )


def _metrics(
    seed: SeedUsers,
    matched: Int64,
    n_users: int,
    ranked: InPlaceRanking,
    *,
    sizes: Sequence[AudienceSize],
    minimum: int,
) -> dict[str, Any]:
    held_out = ranked.held_out
    by_size = metrics.size_metrics(held_out, ranked.other_percentiles, sizes, n_users)
    main, headline = _main_sizes(ranked, sizes, by_size, n_users)
    warnings = _warning_codes(seed, len(matched), by_size, main, minimum)
    blind = ", ".join(entry["size"] for entry in by_size if entry["relevance"] is None) or main["size"]
    return {
        "sentence": _sentence(headline, len(matched)),
        "recall_at": main,
        "sizes": by_size,
        "auc": metrics.auc(held_out),
        "roc": metrics.roc(held_out),
        "match": {
            "n_rows": seed.n_rows,
            "n_unique": seed.n_unique,
            "n_invalid": seed.n_invalid,
            "n_duplicates": seed.n_duplicates,
            "n_matched": len(matched),
            "match_rate": len(matched) / seed.n_unique,
        },
        "n_users": n_users,
        "n_folds": len(np.unique(held_out.fold)),
        "histogram": {
            "bins": [round(edge / 20, 2) for edge in range(21)],
            "seed": metrics.histogram(held_out.percentile),
            "population": metrics.histogram(ranked.other_percentiles),
        },
        "warnings": [
            {"code": code, "message": _MESSAGES[code].format(n=len(matched), sizes=blind)} for code in warnings
        ],
    }


def _main_sizes(
    ranked: InPlaceRanking,
    sizes: Sequence[AudienceSize],
    by_size: list[dict[str, Any]],
    n_users: int,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The size AWS's recallMetric stands for (the largest percentage up to 50, else 20 %), and the headline's."""
    percentages = [entry for entry in by_size if entry["type"] == "PERCENTAGE" and entry["value"] <= 50]
    if percentages:
        main = max(percentages, key=lambda entry: entry["value"])
    else:
        fallback = [AudienceSize(SizeType.PERCENTAGE, 20)]
        main = metrics.size_metrics(ranked.held_out, ranked.other_percentiles, fallback, n_users)[0]
    headline = next((entry for entry in percentages if entry["value"] == 10), main)
    return main, headline


def _warning_codes(
    seed: SeedUsers, n_matched: int, by_size: list[dict[str, Any]], main: dict[str, Any], minimum: int
) -> list[str]:
    tests = {
        "FEW_SEED_USERS": n_matched < _FEW_SEED_USERS,
        "NOT_BETTER_THAN_RANDOM": any(entry["relevance"] is None for entry in (*by_size, main)),
        "SIZE_EXCEEDS_POPULATION": any(entry["delivered"] < entry["requested"] for entry in by_size),
        "LOW_MATCH_RATE": n_matched < _LOW_MATCH_RATE * seed.n_unique,
        "MINIMUM_LOWERED": minimum < 500,
        "SEED_ROWS_DROPPED": seed.n_invalid > 0,
    }
    return [code for code, holds in tests.items() if holds]


def _sentence(entry: dict[str, Any], n_matched: int) -> str:
    low, high = entry["lift_interval"]
    size = entry["size"].replace("%", " %")
    if entry["relevance"] is None:
        return (
            f"Not better than chance at {size}: finds {entry['lift']:.1f} times as many "
            f"({low:.1f} to {high:.1f}), from {n_matched:,} seed users"
        )
    return (
        f"Finds {entry['lift']:.1f} times as many as chance at {size} ({low:.1f} to {high:.1f}), "
        f"from {n_matched:,} seed users"
    )


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False), "utf-8")
