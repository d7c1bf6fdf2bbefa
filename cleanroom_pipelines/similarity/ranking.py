"""Rank a population by similarity to a seed.

Lives here: `generate`, and `prepare`, its first half (match, fit, measure); `rank_in_place`, a ranking without
metrics.
Add here when rankings can be built in another way.
Keep out: fitting (signals, ensemble), formulas (metrics), reading a ranking (rankings).

`ranking.parquet` reveals the seed users and is for the operator only. It depends only on the model and the set of
seed ids; timings are in metrics.json. On one machine it is a file; on a cluster it is a folder of parts, and data
proportional to the population never reaches this machine. Memory does not grow with the population.

Fitting dominates the cost and does not grow with the population: with ten signals (seven today), 16 fits on up
to 25,000 users took about 15 of the 25 CPU seconds for a 10,000-user seed among a million users. A tolerance of
1e-6 in the logistic fits saved a third, 20,000 instead of 45,000 other users another third, at equal recall.
Fold models are not warm-started from the full model, which has seen their fold.
"""

import json
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from cleanroom_pipelines.audiences.sizes import DEFAULT_SIZES, AudienceSize, SizeType, check_sizes
from cleanroom_pipelines.engine import Engine, EngineSettings, Runtime, open_configured_engine
from cleanroom_pipelines.errors import SeedError, StatusCode, UsageError
from cleanroom_pipelines.similarity import metrics
from cleanroom_pipelines.similarity.ensemble import Candidates, arrange, fit_ensemble
from cleanroom_pipelines.similarity.explanation import explain
from cleanroom_pipelines.similarity.fits import Fit
from cleanroom_pipelines.similarity.model import Model
from cleanroom_pipelines.similarity.rankings import RANKING_FILE
from cleanroom_pipelines.similarity.scoring import (
    count_seed,
    gather_rows,
    iterate_scores,
    score_held_out,
    write_scores,
)
from cleanroom_pipelines.similarity.seeds import MatchedSeed, SeedMatch, SeedUsers, match_with, read_seed
from cleanroom_pipelines.similarity.sorting import (
    RankedPart,
    rank_scored,
    ranked_parts,
    write_ranking,
    write_score_file,
)
from cleanroom_pipelines.similarity.specs import (
    WARNINGS,
    GenerationReport,
    GenerationSettings,
)
from cleanroom_pipelines.similarity.training import Stages, one_blas_thread

Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]

ScoreAll = Callable[[Model, Fit, Callable[[float], None]], Iterable[Float64]]
"""Function that scores all N users, in pieces of any length; its last argument is called with the share done."""

_FEW_SEED_USERS = 100
_LOW_MATCH_RATE = 0.1
_MAIN_FALLBACK = AudienceSize(SizeType.PERCENTAGE, 20)


def generate(
    *,
    model: Path | str,
    seed: MatchedSeed | SeedUsers | Path | str,
    out: Path,
    sizes: Sequence[AudienceSize] = DEFAULT_SIZES,
    min_matching_seed_size: int = 500,
    settings: GenerationSettings = GenerationSettings(),  # noqa: B008 frozen
    score: ScoreAll | None = None,
    runtime: Runtime = Runtime(),  # noqa: B008 frozen
) -> GenerationReport:
    """Rank all users of a model by their similarity to a seed, and measure the quality of the ranking.

    Args:
        model: The folder training wrote.
        seed: The seed, or its file; after matching with this model and these settings, it is not read again.
        out: Existing directory for ranking.parquet, metrics.json and explanation.json.
        sizes: Audience sizes to measure, 1 to 25.
        min_matching_seed_size: Minimum number of seed users that match the model.
        settings: Folds, samples, threads, rounds and limits.
        score: Alternative scoring function that must return the same scores; not on a cluster.
        runtime: Engine, progress and cancellation.

    Returns:
        The contents of the written documents, and timing.

    Raises:
        SeedError: The seed is unusable, too few users match (INSUFFICIENT_MATCHING_SEED), or it leaves fewer than
            max(100, seed / 10) other users (SEED_COVERS_POPULATION).
        UsageError: Sizes or the minimum are out of range.
        ArtifactError: The model cannot be read.
        CancelledError: The run was cancelled.
    """
    sizes = check_sizes(tuple(sizes))
    stages = Stages(runtime)
    engine = runtime.engine
    opened = Model(model)
    with open_configured_engine(engine, paths=(opened.folder, out)) as database:
        fit = prepare(
            opened,
            seed,
            min_matching_seed_size=min_matching_seed_size,
            settings=settings,
            engine=database,
            seed_engine=engine,
            stages=stages,
        )
        wanted = _wanted(sizes, opened.n_users)
        with one_blas_thread():
            others = _rank(
                database,
                opened,
                fit,
                out / RANKING_FILE,
                scratch=engine.scratch,
                stages=stages,
                wanted=wanted,
                score=score,
            )
    return _report(fit, others, out, sizes=sizes, minimum=min_matching_seed_size, stages=stages)


def prepare(
    model: Model,
    seed: MatchedSeed | SeedUsers | Path | str,
    *,
    min_matching_seed_size: int = 500,
    settings: GenerationSettings = GenerationSettings(),  # noqa: B008 frozen
    engine: Engine,
    seed_engine: EngineSettings = EngineSettings(),  # noqa: B008 frozen
    stages: Stages,
) -> Fit:
    """Do all that precedes the scoring: match a seed, fit the ensemble, and rank the held-out seed users.

    Args:
        model: The audience model.
        seed: The seed, or its file; after matching with this model and these settings, it is not read again.
        min_matching_seed_size: Minimum number of seed users that match the model.
        settings: Folds, samples, threads, rounds and limits.
        engine: Engine that reads the users.
        seed_engine: Memory, threads and scratch for reading the seed on this machine.
        stages: Receives progress, from 0 to 0.6 of the whole.

    Raises:
        SeedError: As in `generate`.
        UsageError: As in `generate`.
        CancelledError: The run was cancelled.
    """
    if min_matching_seed_size < settings.seed_floor:
        raise UsageError(
            f"The minimum matching seed size must be at least {settings.seed_floor}.",
            remedy="Raise the minimum, or lower GenerationSettings.seed_floor.",
        )
    with one_blas_thread():
        if not isinstance(seed, MatchedSeed):
            with stages.stage(0.0, "reading the seed"):
                users = seed
                if not isinstance(users, SeedUsers):
                    users = read_seed(users, engine=seed_engine, dataset_column=model.user_id_column)
            with stages.stage(0.02, "matching the seed"):
                seed = match_with(engine, model, users, settings)
        _check_matched(seed.counts, model.n_users, min_matching_seed_size)
        fit = fit_candidates(engine, model, seed.users, settings, stages)
    return replace(fit, match=seed.counts.as_dict(), timing_seconds=dict(stages.seconds))


def fit_candidates(
    engine: Engine,
    model: Model,
    candidates: Candidates,
    settings: GenerationSettings,
    stages: Stages,
) -> Fit:
    """Fit the ensemble and rank the held-out seed users; call inside `one_blas_thread`."""
    with stages.stage(0.05, "fitting the ensemble"):
        population = arrange(candidates, settings)
        rows = gather_rows(engine, model, population.sample)

        def on_fit(share: float) -> None:
            stages.runtime.report_progress(0.05 + 0.45 * share, "fitting the ensemble")

        ensemble = fit_ensemble(rows, population, model.representation, settings, on_fit)
    with stages.stage(0.5, "ranking held-out seed users"):
        scores = score_held_out(engine, model, ensemble, population, stages.runtime.check)
        folds = population.seed_fold.astype(np.int64)
        held_out = metrics.held_out_ranks(scores.own, folds, scores.reference, model.n_users)
    with stages.stage(0.58, "explaining"):
        counts = count_seed(engine, model, candidates.seed)
        explanation = explain(model, ensemble, counts, len(candidates.seed), settings.min_explained_users)
    return Fit(
        n_users=model.n_users,
        seed=candidates.seed,
        seed_hashes=candidates.seed_hashes,
        seed_ids=candidates.seed_ids,
        scorer=ensemble.full,
        held_out=held_out,
        explanation=explanation,
        match={},
        timing_seconds=dict(stages.seconds),
    )


def rank_in_place(
    engine: Engine,
    model: Model,
    fit: Fit,
    out: Path,
    *,
    scratch: Path | None,
    stages: Stages,
) -> None:
    """Score and rank all users, and write the ranking but no metrics; call inside `one_blas_thread`.

    Args:
        engine: Engine that scores the users.
        model: The audience model.
        fit: The fit of the seed.
        out: The ranking.parquet to write.
        scratch: Existing directory; on a cluster, one that the executors can access.
        stages: Receives progress, from 0.6 to 0.95 of the whole.

    Raises:
        CancelledError: The run was cancelled.
    """
    _rank(engine, model, fit, out, scratch=scratch, stages=stages, wanted=())


def _wanted(sizes: Sequence[AudienceSize], n_users: int) -> list[int]:
    return sorted(set(metrics.numbers_of((*sizes, _MAIN_FALLBACK), n_users)))


def _report(
    fit: Fit,
    others: metrics.Others,
    out: Path,
    *,
    sizes: Sequence[AudienceSize],
    minimum: int,
    stages: Stages,
) -> GenerationReport:
    measured = _metrics(fit, others, sizes, minimum)
    measured |= {"timing": dict(stages.seconds), "peak_bytes": dict(stages.peak_bytes)}
    _write_json(out / "metrics.json", measured)
    _write_json(out / "explanation.json", dict(fit.explanation))
    stages.runtime.report_progress(1.0, "ranked")
    return GenerationReport(
        metrics=measured,
        explanation=fit.explanation,
        n_users=fit.n_users,
        warnings=tuple(warning["code"] for warning in measured["warnings"]),
        timing_seconds=dict(stages.seconds),
    )


def _rank(
    engine: Engine,
    model: Model,
    fit: Fit,
    out: Path,
    *,
    scratch: Path | None,
    stages: Stages,
    wanted: Sequence[int],
    score: ScoreAll | None = None,
) -> metrics.Others:
    def on_scored(share: float) -> None:
        stages.runtime.report_progress(0.6 + 0.25 * share, "scoring all users")

    def on_ranked(share: float) -> None:
        stages.runtime.report_progress(0.85 + 0.1 * share, "ranking")

    with tempfile.TemporaryDirectory(prefix="ranking-", dir=scratch) as name:
        scored, sorting = Path(name, "scored"), Path(name, "sorted")
        sorting.mkdir()
        if engine.is_cluster:
            scored.mkdir()
            with stages.stage(0.6, "scoring all users"):
                write_scores(engine, model, fit.scorer, seed=fit.seed, folder=scored, on_share=on_scored)
            with stages.stage(0.85, "ranking"):
                return rank_scored(
                    engine, fit, scored, out=out, scratch=sorting, wanted=wanted, on_share=on_ranked
                )
        with stages.stage(0.6, "scoring all users"):
            pieces = (
                score(model, fit, on_scored) if score else iterate_scores(engine, model, fit.scorer, on_scored)
            )
            scores = write_score_file(pieces, scored)
        with stages.stage(0.85, "ranking"):
            sums: list[metrics.Others] = []

            def parts() -> Iterator[RankedPart]:
                for part in ranked_parts(model, scores, seed=fit.seed, scratch=sorting):
                    sums.append(_sums_of(part, fit, wanted))
                    yield part
                    on_ranked((part.above + len(part.numbers)) / (fit.n_users - len(fit.seed)))

            write_ranking(
                parts(), out, seed=fit.seed, seed_ids=fit.seed_ids, seed_percentiles=fit.held_out.percentile
            )
            return metrics.together(sums)


def _sums_of(part: RankedPart, fit: Fit, wanted: Sequence[int]) -> metrics.Others:
    """Return one ranking part's share of the totals that the metrics for the wanted sizes need."""
    inside = {n: min(max(0, n - part.above), len(part.numbers)) for n in wanted}
    sums = metrics.others_of(fit.held_out, part.percentiles, set(inside.values()))
    return metrics.Others(sums.n_users, {n: sums.standings[inside[n]] for n in wanted}, sums.histogram)


def _check_matched(match: SeedMatch, n_users: int, minimum: int) -> None:
    n_matched = match.n_matched
    # Both sides can read these messages in the job's status, so exact counts are attributes only.
    counts = {"n_matched": n_matched, "n_unique": match.n_unique, "n_users": n_users}
    if n_matched < minimum:
        raise SeedError(
            f"Fewer seed users match the model than the minimum of {minimum:,}.",
            remedy="Give a larger seed, check that it uses the training data's ids, or lower the minimum.",
            status_code=StatusCode.INSUFFICIENT_MATCHING_SEED,
            **counts,
        )
    if n_users - n_matched < max(100, n_matched / 10):
        raise SeedError(
            "The seed covers nearly the whole population; too few other users are left to compare it with.",
            remedy="Give a smaller seed.",
            status_code=StatusCode.SEED_COVERS_POPULATION,
            **counts,
        )


def _metrics(fit: Fit, others: metrics.Others, sizes: Sequence[AudienceSize], minimum: int) -> dict[str, Any]:
    held_out, n_users, n_matched = fit.held_out, fit.n_users, len(fit.seed)
    by_size = metrics.size_metrics(held_out, others, sizes, n_users)
    main, headline = _main_sizes(fit, others, by_size)
    warnings = _warning_codes(fit.match, by_size, main, minimum)
    blind = ", ".join(entry["size"] for entry in by_size if entry["relevance"] is None) or main["size"]
    return {
        "sentence": _sentence(headline, n_matched),
        "recall_at": main,
        "sizes": by_size,
        "auc": metrics.auc(held_out),
        "roc": metrics.roc(held_out),
        "match": dict(fit.match),
        "n_users": n_users,
        "n_folds": len(np.unique(held_out.fold)),
        "histogram": {
            "bins": [round(edge / 20, 2) for edge in range(21)],
            "seed": metrics.histogram(held_out.percentile),
            "population": list(others.histogram),
        },
        "warnings": [
            {"code": code, "message": WARNINGS[code].format(n=n_matched, sizes=blind)} for code in warnings
        ],
    }


def _main_sizes(
    fit: Fit, others: metrics.Others, by_size: list[dict[str, Any]]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the metrics to report as AWS's recallMetric, and those to report in the summary.

    AWS's recallMetric is that of the largest percentage size up to 50 %, or of 20 % if there is none. The summary
    reports the size 10 % or, if that was not requested, the same size as recallMetric.
    """
    percentages = [entry for entry in by_size if entry["type"] == "PERCENTAGE" and entry["value"] <= 50]
    if percentages:
        main = max(percentages, key=lambda entry: entry["value"])
    else:
        main = metrics.size_metrics(fit.held_out, others, [_MAIN_FALLBACK], fit.n_users)[0]
    headline = next((entry for entry in percentages if entry["value"] == 10), main)
    return main, headline


def _warning_codes(
    match: Mapping[str, Any], by_size: list[dict[str, Any]], main: dict[str, Any], minimum: int
) -> list[str]:
    n_matched = match["n_matched"]
    tests = {
        "FEW_SEED_USERS": n_matched < _FEW_SEED_USERS,
        "NOT_BETTER_THAN_RANDOM": any(entry["relevance"] is None for entry in (*by_size, main)),
        "SIZE_EXCEEDS_POPULATION": any(entry["delivered"] < entry["requested"] for entry in by_size),
        "LOW_MATCH_RATE": n_matched < _LOW_MATCH_RATE * match["n_unique"],
        "MINIMUM_LOWERED": minimum < 500,
        "SEED_ROWS_DROPPED": match["n_invalid"] > 0,
    }
    return [code for code, holds in tests.items() if holds]


def _sentence(entry: dict[str, Any], n_matched: int) -> str:
    low, high = entry["lift_interval"]
    size = entry["size"].replace("%", " %")
    if entry["relevance"] is None:
        return (
            f"Not better than chance at {size}: finds {entry['lift']:.1f} times as many held-out users "
            f"({low:.1f} to {high:.1f}), measured with {n_matched:,} seed users"
        )
    return (
        f"Finds {entry['lift']:.1f} times as many held-out seed users as chance at {size} "
        f"({low:.1f} to {high:.1f}), measured with {n_matched:,} seed users"
    )


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False), "utf-8")
