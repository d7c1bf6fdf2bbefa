"""Private lookalikes: rank users by the sum of the seed users' vectors, to which noise was added.

Lives here: the price and size of that vector, its sum over a seed, ranking all users by it, counts for the quality
figures, the figures computed from released counts, the explanation.
Add here when private lookalikes get another figure, computed from released values only.
Keep out: the users' vectors (private_representation), drawing noise and paying for it (privacy).

    b = Σ φ(u) over the seed + noise        the ranking's only information about the seed
    score(v) = φ(v)ᵀ C b                    C = (G / N + λ I)⁻¹, from the base alone

λ is the covariance's mean diagonal times 25,000 (sigma / n)², at least 0.3 and at most 3: measured on page visits,
wholesale and groceries, with 300 to 2,000 seed users at 8 to 42 units. A metric learnt from the items as
pseudo-seeds was no better; 96 and 128 coordinates were worse at these prices.

Scores are sums of whole numbers below 2^53, hence the same on every machine.
"""

import math
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import NormalDist
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from cleanroom_pipelines.engine import Engine, EngineSettings, Runtime, find_tables, open_configured_engine
from cleanroom_pipelines.errors import ArtifactError, SeedError, StatusCode
from cleanroom_pipelines.similarity.model import Model
from cleanroom_pipelines.similarity.private_representation import (
    GRID,
    PrivateRepresentation,
    coordinates_of,
)
from cleanroom_pipelines.similarity.rankings import RANKING_FILE, RANKING_SCHEMA, ranking_metadata
from cleanroom_pipelines.similarity.scoring import SCORED, BlockRange, by_shard, match_users, pieces_of
from cleanroom_pipelines.similarity.shards import part_name
from cleanroom_pipelines.similarity.sorting import (
    RankedPart,
    ScoreFile,
    percentiles_of,
    ranked_parts,
    write_ranking,
    write_score_file,
)
from cleanroom_pipelines.similarity.training import Stages, one_blas_thread

Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]
SeedUserIds: TypeAlias = pa.Array | pa.ChunkedArray | Path

SCALE_FILE = "scale.npy"
TOP_SHARES = (0.01, 0.02, 0.05, 0.10, 0.15, 0.20, 0.25, 0.30, 0.40, 0.50, 0.75)
"""Limits of the bins of held-out ranks, as shares of all users counted from the top."""
SUM_GRID = 100
_SCALE_STEPS = 4_000
"""Percentiles are stored as multiples of 1 / _SCALE_STEPS."""

_UNIT = 0.00128
_MOST_UNITS = 60.0
_NEEDED = 3.75e6  # sigma √24 = 0.05 n, as units times n²
_GENEROUS, _GENEROUS_UNITS = 3.2e7, 8.0
_FEW_SEED_USERS = 300
_RIDGE, _LEAST_RIDGE, _MOST_RIDGE = 25_000.0, 0.3, 3.0
_Z90 = 1.6448536269514722
_THRESHOLD = 40
_N_STEPS = _SCALE_STEPS // 2
_METRIC_STEPS = 1 << 20
_WEIGHT_BITS = 30
_REACHES = range(1, 31)
_SIGNIFICANCE = 0.01
_MOST_SHOWN = 20


class Choice(NamedTuple):
    """Parameters of a private lookalike, chosen by the seed's noised size.

    Args:
        d: Number of coordinates.
        units: Price of the vector, a multiple of 0.1.
        ridge: λ, as a multiple of the covariance's mean diagonal.
    """

    d: int
    units: float
    ridge: float

    @property
    def sigma(self) -> float:
        """The noise's standard deviation, as a multiple of the sensitivity."""
        return sigma_of(self.units)


def sigma_of(units: float) -> float:
    """Return the noise's standard deviation, √(1 / (2 rho)), for a price in units of rho = 0.00128."""
    return math.sqrt(1 / (2 * _UNIT * units))


def sensitivity(d: int) -> float:
    """Return the largest possible length of a rounded vector, in grid steps: GRID + √d / 2."""
    return GRID + math.sqrt(d) / 2


def choose(released_seed_size: int) -> Choice:
    """Choose a private lookalike's number of coordinates, price and regularisation λ.

    The price is that of sigma √24 ≤ 0.05 n. From 685 to 17,900 seed users it is higher (8 units up to 2,000, then
    falling with 1 / n²), because noise, not seed size, limits the ranking there.

    Args:
        released_seed_size: Released number of matched seed users.

    Raises:
        SeedError: There are too few for any price (INSUFFICIENT_MATCHING_SEED); the message has the number needed.
    """
    smallest = math.ceil(math.sqrt(_NEEDED / _MOST_UNITS))
    if released_seed_size < smallest:
        raise SeedError(
            f"A private lookalike needs at least {smallest:,} matched seed users.",
            remedy="Choose a larger source audience, or provide more matching ids.",
            status_code=StatusCode.INSUFFICIENT_MATCHING_SEED,
            needed=smallest,
        )
    squared = float(released_seed_size) ** 2
    units = max(_NEEDED / squared, min(_GENEROUS_UNITS, _GENEROUS / squared))
    units = min(_MOST_UNITS, _in_tenths(units))
    ridge = min(_MOST_RIDGE, max(_LEAST_RIDGE, _RIDGE * sigma_of(units) ** 2 / squared))
    return Choice(24 if released_seed_size < _FEW_SEED_USERS else 48, units, ridge)


def seed_sum(
    model: Path | str,
    seed_users: SeedUserIds,
    d: int,
    *,
    engine: EngineSettings = EngineSettings(),  # noqa: B008 frozen
) -> Int64:
    """Return the exact sum of the seed users' vectors, which must stay secret until noise is added.

    Adding or removing one user changes the sum by at most `sensitivity(d)`.

    Args:
        model: The folder training wrote.
        seed_users: User ids, or a parquet file with a column user_id; unknown and repeated ids are ignored.
        d: Number of coordinates.
        engine: Engine that reads the users.

    Returns:
        (d,) in steps of 1 / GRID.

    Raises:
        ArtifactError: The model or the file of users cannot be read.
    """
    opened = Model(model)
    with open_configured_engine(engine, paths=(opened.folder,)) as database, one_blas_thread():
        return np.asarray(_seed_vectors(database, opened, seed_users, d).sum(axis=0), dtype=np.int64)


def private_ranking(
    model: Path | str,
    b: Int64,
    d: int,
    out: Path,
    *,
    ridge: float = 1.0,
    runtime: Runtime = Runtime(),  # noqa: B008 frozen
) -> None:
    """Rank all users by a noised vector; every reach is selected from this one ranking.

    Args:
        model: The folder training wrote; may also be a model that kept the representation of an earlier one.
        b: (d,) `seed_sum` with its noise, in steps of 1 / GRID.
        d: Number of coordinates.
        out: Existing directory for ranking.parquet (is_seed is always false because a private ranking does not
            know the seed; score is the share of all users below) and scale.npy for `held_out_histogram`.
        ridge: λ, from `choose`.
        runtime: Engine, progress and cancellation.

    Raises:
        ArtifactError: The model cannot be read.
        CancelledError: The run was cancelled.
    """
    engine, stages = runtime.engine, Stages(runtime)
    opened = Model(model)
    scorer = _Scorer.of(PrivateRepresentation.load(opened.folder), b, d, ridge)

    def on_share(share: float) -> None:
        stages.runtime.report_progress(0.8 * share, "scoring all users")

    with (
        open_configured_engine(engine, paths=(opened.folder, out)) as database,
        one_blas_thread(),
        tempfile.TemporaryDirectory(prefix="ranking-", dir=engine.scratch) as name,
    ):
        scored, ordered = Path(name, "scored"), Path(name, "sorted")
        ordered.mkdir()
        if database.is_cluster:
            scored.mkdir()
            write = _WriteVectorScores(opened, scorer, scored)
            for done, _ in enumerate(database.run_tasks(write, range(opened.n_shards))):
                on_share((done + 1) / opened.n_shards)
            with stages.stage(0.8, "ranking"):
                scale = _rank_on_cluster(database, opened.n_users, scored, ordered, out / RANKING_FILE)
        else:
            scores = write_score_file(_scores(database, opened, scorer, on_share), scored)
            with stages.stage(0.8, "ranking"):
                scale = _rank(opened, scores, ordered, out / RANKING_FILE)
    np.save(out / SCALE_FILE, scale)
    runtime.report_progress(1.0, "ranked")


@dataclass(frozen=True)
class HeldOutCounts:
    """Histogram of the seed users' held-out ranks; its counts are exact, so they stay secret until noise is added.

    Args:
        counts: (12,) users between TOP_SHARES, best first.
        total: Σ (percentile - ½), in steps of 1 / SUM_GRID; each user adds at most ½.
    """

    counts: Int64
    total: int


def held_out_histogram(
    model: Path | str,
    seed_users: SeedUserIds,
    b: Int64,
    d: int,
    *,
    ranking: Path,
    ridge: float = 1.0,
    engine: EngineSettings = EngineSettings(),  # noqa: B008 frozen
) -> HeldOutCounts:
    """Rank each seed user by the sum of all other seed users' vectors, and count the ranks by bin.

    A user's percentile is that of φᵀC(b - φ) among the scores of all users, in steps of 1 / 2,000.

    Args:
        model: As ranked.
        seed_users: As for `seed_sum`.
        b: The released vector.
        d: Its number of coordinates.
        ranking: The directory that `private_ranking` wrote with this vector and the same λ.
        ridge: λ, from `choose`.
        engine: Engine that reads the users.

    Raises:
        ArtifactError: The model, the ranking or the file of users cannot be read.
    """
    opened = Model(model)
    try:
        scale = np.load(ranking / SCALE_FILE, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise ArtifactError(
            f"The ranking's score percentiles cannot be read ({type(error).__name__}).",
            remedy="Build the ranking again.",
        ) from None
    scorer = _Scorer.of(PrivateRepresentation.load(opened.folder), b, d, ridge)
    with open_configured_engine(engine, paths=(opened.folder,)) as database, one_blas_thread():
        scores = scorer.without_themselves(_seed_vectors(database, opened, seed_users, d))
    # Twice the number of steps below, ties count half; between 1 and 2 · 2,000 - 1.
    below = np.searchsorted(scale, scores, "left") + np.searchsorted(scale, scores, "right") + 1
    edges = np.rint(np.array(TOP_SHARES) * _SCALE_STEPS).astype(np.int64)
    bins = np.searchsorted(edges, _SCALE_STEPS - below, "left")
    return HeldOutCounts(
        np.bincount(bins, minlength=len(TOP_SHARES) + 1).astype(np.int64),
        int(np.rint((below - _N_STEPS) * SUM_GRID / _SCALE_STEPS).sum()),
    )


def statistics_from_released(counts: Sequence[int], total: int, n_users: int, sigma: float) -> dict[str, Any]:
    """Compute quality figures from noised counts alone; 90 % error bounds cover noise and sampling.

    Args:
        counts: (12,) as `HeldOutCounts.counts`, with noise of standard deviation `sigma`.
        total: As `HeldOutCounts.total`, with noise of standard deviation `sigma` · SUM_GRID.
        n_users: Released number of all users.
        sigma: Standard deviation of the noise.

    Returns:
        `reach` (1 to 30: `reach`, `tpr`, `tpr_error`, `fpr`), `auc`, `auc_error`, `fpr` and `tpr` (101 each) and
        `tpr_error`, and `cumulated` (`shares` of all users, `found` of the seed, `errors`). `tpr` and `fpr` are
        None for a reach with fewer than 40 seed users; all figures are None if there are fewer than 40 in total.
    """
    noised = np.asarray(counts, dtype=np.float64)
    n = float(noised.sum())
    if n < _THRESHOLD or n_users <= n:
        empty = [{"reach": reach, "tpr": None, "tpr_error": None, "fpr": None} for reach in _REACHES]
        nothing = {"shares": [0.0, 1.0], "found": [0.0, 1.0], "errors": [1.0, 1.0]}
        rates = dict.fromkeys(("auc", "auc_error", "fpr", "tpr", "tpr_error"))
        return rates | {"reach": empty, "cumulated": nothing}
    cumulated = np.clip(np.maximum.accumulate(np.concatenate([[0.0], np.cumsum(noised)])), 0.0, n)
    shares = np.array([0.0, *TOP_SHARES, 1.0])
    found = cumulated / n
    error = _recall_error(found, n, sigma)
    share_of_seed = n / n_users

    def others(taken: Float64, tpr: Float64) -> Float64:
        return np.clip((taken - share_of_seed * tpr) / (1 - share_of_seed), 0.0, 1.0)

    reaches = []
    for reach in _REACHES:
        taken = reach / 100
        tpr = float(np.interp(taken, shares, found))
        # Interpolated from cumulated counts, which are not published below the threshold.
        is_shown = float(np.interp(taken, shares, cumulated)) >= _THRESHOLD
        reaches.append(
            {
                "reach": reach,
                "tpr": round(tpr, 3) if is_shown else None,
                "tpr_error": round(float(np.interp(taken, shares, error)), 3),
                "fpr": round(float(others(np.array(taken), np.array(tpr))), 3) if is_shown else None,
            }
        )
    is_shown_at = (cumulated >= _THRESHOLD) | (shares == 0)
    curve_fpr = np.linspace(0.0, 1.0, 101)
    at = np.maximum.accumulate(others(shares[is_shown_at], found[is_shown_at]))
    auc = 0.5 + total / SUM_GRID / n
    auc = (auc - share_of_seed / 2) / (1 - share_of_seed)
    return {
        "reach": reaches,
        "auc": round(float(np.clip(auc, 0.0, 1.0)), 3),
        "auc_error": round(_Z90 * math.sqrt(sigma**2 + n / 12) / n / (1 - share_of_seed), 3),
        "fpr": [round(float(x), 2) for x in curve_fpr],
        "tpr": [round(float(y), 3) for y in np.interp(curve_fpr, at, found[is_shown_at])],
        "tpr_error": [round(float(y), 3) for y in np.interp(curve_fpr, at, error[is_shown_at])],
        "cumulated": {
            "shares": [float(x) for x in shares[is_shown_at]],
            "found": [round(float(y), 3) for y in found[is_shown_at]],
            "errors": [round(float(y), 3) for y in error[is_shown_at]],
        },
    }


def explanation(
    model: Path | str, b: Int64, d: int, *, released_seed_size: int, sigma: float, min_seed_users: int = 25
) -> dict[str, Any]:
    """Explain the audience by the noised vector, without access to the seed.

    Args:
        model: As ranked.
        b: The released vector.
        d: Its number of coordinates.
        released_seed_size: Released number of matched seed users.
        sigma: Standard deviation of b's noise, as a multiple of the sensitivity.
        min_seed_users: Value reported in the explanation; at any price, noise hides effects of fewer users.

    Returns:
        The content of explanation.json: items and feature values that differ significantly from noise and chance
        (1 % divided by the number of tests), with `strength` (standard deviations above chance) instead of counts.
    """
    opened = Model(model)
    representation = PrivateRepresentation.load(opened.folder)
    covariance = representation.covariance(d)
    values = [number for number, feature in enumerate(opened.features) if feature["value"] is not None]
    maps = np.vstack([representation.item_map[:, :d], representation.dense_map[values][:, :d]]).astype(np.float64)
    # Map softened coordinates back to items; the factor is the coordinate's variance.
    rows = maps * np.diag(covariance)
    noise = (sigma * sensitivity(d) / GRID) ** 2 * (rows * rows).sum(axis=1)
    chance = released_seed_size * np.einsum("md,de,me->m", rows, covariance, rows)
    deviation = np.sqrt(noise + chance)
    strength = np.divide(rows @ (np.asarray(b) / GRID), deviation, out=np.zeros(len(rows)), where=deviation > 0)
    least = -NormalDist().inv_cdf(_SIGNIFICANCE / max(1, len(rows)))
    order = np.argsort(-strength, kind="stable")
    shown = [int(number) for number in order if strength[number] > least]
    items = [number for number in shown if number < opened.n_items][:_MOST_SHOWN]
    features = [values[number - opened.n_items] for number in shown if number >= opened.n_items][:_MOST_SHOWN]
    by_feature = dict(zip(values, strength[opened.n_items :], strict=True))
    described = opened.features
    return {
        "items": [
            {**item, "strength": round(float(strength[number]), 1)}
            for item, number in zip(opened.shown_items(items), items, strict=True)
        ],
        "features": [
            {
                "name": described[number]["name"],
                "column": described[number]["column"],
                "value": described[number]["value"],
                "strength": round(float(by_feature[number]), 1),
            }
            for number in features
        ],
        "signals": [],
        "min_seed_users": min_seed_users,
        "n_tests": len(rows),
        "significance": _SIGNIFICANCE,
    }


@dataclass(frozen=True)
class _Scorer:
    """Scores users by a noised vector; computes with whole numbers, so that every machine gets the same scores.

    Args:
        representation: Builds the users' vectors.
        d: Number of coordinates.
        metric: (d, d) C in steps.
        weights: (d,) C b, scaled by `factor` and rounded.
        factor: A power of two.
    """

    representation: PrivateRepresentation
    d: int
    metric: Float64
    weights: Float64
    factor: float

    @classmethod
    def of(cls, representation: PrivateRepresentation, b: Int64, d: int, ridge: float) -> "_Scorer":
        covariance = representation.covariance(d)
        spread = float(np.trace(covariance)) / d or 1.0
        with one_blas_thread():
            inverse = np.linalg.inv(covariance + ridge * spread * np.eye(d))
        inverse = (inverse + inverse.T) / 2
        metric = np.rint(inverse * (_METRIC_STEPS / np.abs(inverse).max()))
        weights = (metric.astype(np.int64) * np.asarray(b, dtype=np.int64)).sum(axis=1).astype(np.float64)
        _, exponent = math.frexp(float(np.abs(weights).max()))
        factor = math.ldexp(1.0, _WEIGHT_BITS - exponent)
        return cls(representation, d, metric, np.rint(weights * factor), factor)

    def vectors(self, model: Model, piece: BlockRange) -> Sequence[Float64]:
        """Return the vectors of the users in a range of blocks of a shard."""
        shard = model.shard(piece.shard)
        blocks = (model.block(shard, number) for number in range(piece.first, piece.last))
        return [
            self.representation.vectors(
                coordinates_of(shard, slice(block.first, block.last), self.representation), self.d
            )
            for block in blocks
            if block.last > block.first
        ]

    def score(self, model: Model, piece: BlockRange) -> Float64:
        """Return the scores of the users in a range of blocks of a shard."""
        return np.concatenate([np.zeros(0), *(vectors @ self.weights for vectors in self.vectors(model, piece))])

    def without_themselves(self, vectors: Float64) -> Float64:
        """Score each seed user by the sum of the other seed users' vectors."""
        own = ((vectors @ self.metric) * vectors).sum(axis=1)
        return np.asarray(vectors @ self.weights - self.factor * own)


@dataclass(frozen=True)
class _ScoreByVector:
    model: Model
    scorer: _Scorer

    def __call__(self, piece: BlockRange) -> pa.Table:
        return pa.table({"score": self.scorer.score(self.model, piece)})


@dataclass(frozen=True)
class _WriteVectorScores:
    model: Model
    scorer: _Scorer
    folder: Path

    def __call__(self, number: int) -> pa.Table:
        import pyarrow.parquet as pq

        shard = self.model.shard(number)
        scores = self.scorer.score(self.model, BlockRange(number, 0, self.model.blocks_per_shard))
        columns = (shard.user_ids, pa.array(shard.hashes), pa.array(scores))
        table = pa.table(dict(zip(SCORED, columns, strict=True)))
        pq.write_table(table, self.folder / part_name(number), compression="zstd")
        return pa.table({"n_users": [table.num_rows]})


def _scores(engine: Engine, model: Model, scorer: _Scorer, on_share: Callable[[float], None]) -> Iterator[Float64]:
    pieces = pieces_of(model, is_cluster=False)
    for done, table in enumerate(engine.run_tasks(_ScoreByVector(model, scorer), pieces)):
        yield table["score"].to_numpy()
        on_share((done + 1) / len(pieces))


def _rank(model: Model, scores: ScoreFile, scratch: Path, path: Path) -> Float64:
    """Write the ranking; return the scores at the positions of `_scale_places`, ascending."""
    places, found = _scale_places(scores.n_users), []

    def parts() -> Iterator[RankedPart]:
        for part in ranked_parts(model, scores, seed=np.zeros(0, dtype=np.int64), scratch=scratch):
            inside = places - part.above
            found.append(part.scores[inside[(inside >= 0) & (inside < len(part.scores))]])
            yield part

    write_ranking(parts(), path)
    return np.concatenate(found)[::-1]


def _scale_places(n_users: int) -> Int64:
    """Return the 1,999 positions in the ranking that divide it into 2,000 equal parts."""
    return (np.arange(1, _N_STEPS, dtype=np.int64) * n_users) // _N_STEPS


def _rank_on_cluster(engine: Engine, n_users: int, scored: Path, ordered: Path, out: Path) -> Float64:
    engine.scan("scored", find_tables(scored))
    order = [("score", True), ("stable_hash", False), ("user_id", False)]
    parts = engine.write_sorted(f"SELECT {', '.join(SCORED)} FROM scored", order, ordered)
    out.mkdir()
    filled: list[tuple[int, int, Path]] = []
    above = 0
    for part in parts:
        if part.n_rows:
            filled.append((len(filled), above, part.path))
            above += part.n_rows
    tables = list(engine.run_tasks(_FinishVectorPart(n_users, out), filled))
    return np.concatenate([table["scale"].to_numpy() for table in tables])[::-1]


@dataclass(frozen=True)
class _FinishVectorPart:
    """Task that writes one part of the ranking, and returns its scores at the positions of `_scale_places`."""

    n_users: int
    out: Path

    def __call__(self, part: tuple[int, int, Path]) -> pa.Table:
        import pyarrow.parquet as pq

        number, above, path = part
        table = pq.read_table(path, columns=list(SCORED))
        scores = np.asarray(table["score"], dtype=np.float64)
        columns = [
            table["user_id"].cast(pa.string()),
            pa.array(np.arange(above + 1, above + 1 + len(scores))),
            pa.array(percentiles_of(scores, above, self.n_users)),
            pa.array(np.zeros(len(scores), dtype=bool)),
        ]
        ranked = pa.Table.from_arrays(columns, schema=RANKING_SCHEMA.with_metadata(ranking_metadata(0)))
        pq.write_table(ranked, self.out / part_name(number), compression="zstd")
        places = _scale_places(self.n_users) - above
        return pa.table({"scale": scores[places[(places >= 0) & (places < len(scores))]]})


def _seed_vectors(engine: Engine, model: Model, seed_users: SeedUserIds, d: int) -> Float64:
    """Return the rounded vectors of the seed users that the model knows, as an (m, d) array."""
    ids = _user_ids(seed_users) if isinstance(seed_users, Path) else seed_users
    seed = match_users(engine, model, ids).seed
    shards, places = by_shard(model, seed)
    representation = PrivateRepresentation.load(model.folder)
    function = _VectorsOf(model, representation, d, dict(zip(shards, places, strict=True)))
    tables = list(engine.run_tasks(function, shards))
    return np.concatenate([np.zeros((0, d)), *(table["step"].to_numpy().reshape(-1, d) for table in tables)])


@dataclass(frozen=True)
class _VectorsOf:
    model: Model
    representation: PrivateRepresentation
    d: int
    places: dict[int, Int64]

    def __call__(self, number: int) -> pa.Table:
        shard = self.model.shard(number)
        coordinates = coordinates_of(shard, self.places[number], self.representation)
        return pa.table({"step": self.representation.vectors(coordinates, self.d).ravel()})


def _user_ids(path: Path) -> pa.ChunkedArray:
    import pyarrow.parquet as pq

    try:
        return pq.read_table(path, columns=["user_id"])["user_id"]
    except (OSError, pa.ArrowException, KeyError) as error:
        raise ArtifactError(
            f"The file of the source audience cannot be read ({type(error).__name__}).", remedy="Build it again."
        ) from None


def _recall_error(found: Float64, n: float, sigma: float) -> Float64:
    """Return 90 % error bounds of cumulative shares that were computed from noised counts and their total."""
    bins = np.arange(len(found))
    noise = sigma**2 * (bins * (1 - found) ** 2 + (bins[-1] - bins) * found**2) / n**2
    sample = found * (1 - found) / n
    return np.asarray(_Z90 * np.sqrt(noise + sample))


def _in_tenths(units: float) -> float:
    return max(1, math.ceil(units * 10 - 1e-9)) / 10
