"""Computations over all users of a model, shard by shard, on any engine.

Lives here: matching a seed, gathering the users of a fit, scoring held-out users and all users.
Add here when a seed needs another computation over all users.
Keep out: fitting (ensemble, signals), ranking by scores (ranking, sorting).

All computations run as one task per shard, or on a single machine per few blocks of a shard. Task results are
small: counts, the users of a bounded sample, a score per user. A score depends only on the user's block and the
fit, so it is bit-identical for any number of shards, threads and machines.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from cleanroom_pipelines.engine import Engine
from cleanroom_pipelines.similarity import features
from cleanroom_pipelines.similarity.ensemble import Candidates, Ensemble, Population, Scorer, mixed, score_with
from cleanroom_pipelines.similarity.model import Model, Rows
from cleanroom_pipelines.similarity.shards import part_name
from cleanroom_pipelines.similarity.specs import GenerationSettings

Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]

SCORED = ("user_id", "stable_hash", "score")
"""Columns of the files of scores."""

_BLOCKS_PER_PIECE = 8
# If the model has this many times the users of the sample, shards return only about twice the sample.
_MANY = 4


@dataclass(frozen=True)
class BlockRange:
    """A task's range of blocks of one shard: first ≤ block < last."""

    shard: int
    first: int
    last: int


def pieces_of(model: Model, *, is_cluster: bool, shards: Iterable[int] | None = None) -> list[BlockRange]:
    """Split all shards, or the given ones, into tasks: one per shard on a cluster, otherwise a few blocks each."""
    n_blocks = model.blocks_per_shard
    step = n_blocks if is_cluster else _BLOCKS_PER_PIECE
    return [
        BlockRange(shard, first, min(first + step, n_blocks))
        for shard in (range(model.n_shards) if shards is None else shards)
        for first in range(0, n_blocks, step)
    ]


def match_users(
    engine: Engine, model: Model, user_ids: pa.Array | pa.ChunkedArray, settings: GenerationSettings | None = None
) -> Candidates:
    """Find a model's users who are in the seed, and sample other users for the fits.

    Args:
        engine: Engine that reads the shards.
        model: The audience model.
        user_ids: Ids of the seed, strings, duplicates allowed.
        settings: Number of other users; None for no other users.

    Returns:
        All seed users, and at least as many others, by mixed hash, as the settings require, or all others.
    """
    ids = user_ids.combine_chunks() if isinstance(user_ids, pa.ChunkedArray) else user_ids
    n_wanted = settings.max_fit_other_users + settings.max_reference_users if settings else 0
    limits = [0] if settings is None else [_all_hashes()]
    if n_wanted and model.n_users > _MANY * n_wanted:
        limits.insert(0, 2 * n_wanted * (_all_hashes() // model.n_users))
    for limit in limits:
        tables = list(engine.run_tasks(_MatchShard(model, ids.cast(pa.string()), limit), range(model.n_shards)))
        found = pa.concat_tables(tables)
        is_seed = _numpy(found, "is_seed").astype(bool)
        numbers, hashes = _numpy(found, "number"), _numpy(found, "hash")
        if (~is_seed).sum() >= n_wanted:
            break
    return Candidates(
        n_users=model.n_users,
        seed=numbers[is_seed],
        seed_hashes=hashes[is_seed],
        seed_ids=found["user_id"].filter(pa.array(is_seed)).combine_chunks(),
        others=numbers[~is_seed],
        other_hashes=hashes[~is_seed],
    )


@dataclass(frozen=True)
class _MatchShard:
    """Task that finds a shard's seed users, with ids, and a sample of its other users, without ids."""

    model: Model
    seed: pa.Array
    limit: int

    def __call__(self, number: int) -> pa.Table:
        shard = self.model.shard(number)
        is_seed = pc.is_in(shard.user_ids, value_set=self.seed).to_numpy(zero_copy_only=False)
        if self.limit >= _all_hashes():
            chosen = np.arange(len(is_seed))
        else:
            chosen = np.flatnonzero(is_seed | (mixed(shard.hashes) < np.uint64(self.limit)))
        seeds = pa.array(is_seed[chosen])
        return pa.table(
            {
                "number": self.model.first_users[number] + chosen,
                "hash": shard.hashes[chosen],
                "is_seed": seeds,
                "user_id": pc.if_else(seeds, shard.user_ids.take(pa.array(chosen)), pa.scalar(None, pa.string())),
            }
        )


def gather_rows(engine: Engine, model: Model, users: Int64) -> Rows:
    """Load the feature rows of chosen users, given by ascending number, into this machine's memory."""
    shards, places = by_shard(model, users)
    function = _GatherShard(model, dict(zip(shards, places, strict=True)))
    return model.rows_from(list(engine.run_tasks(function, shards)))


@dataclass(frozen=True)
class _GatherShard:
    model: Model
    places: dict[int, Int64]

    def __call__(self, number: int) -> pa.Table:
        return self.model.gather(self.model.shard(number), self.places[number])


@dataclass(frozen=True)
class SeedCounts:
    """How many seed users have each item, and how many have each category.

    Args:
        items: (M,) seed users of each item.
        carriers: (F,) seed users with the category of each dense feature; 0 for other features.
    """

    items: Int64
    carriers: Int64


def count_seed(engine: Engine, model: Model, seed: Int64) -> SeedCounts:
    """Count how many seed users, given by ascending number, have each item and each category."""
    shards, places = by_shard(model, seed)
    function = _CountShard(model, dict(zip(shards, places, strict=True)))
    items, carriers = np.zeros(model.n_items, dtype=np.int64), np.zeros(len(model.features), dtype=np.int64)
    for table in engine.run_tasks(function, shards):
        counts = _numpy(table, "count")
        items += counts[: model.n_items]
        carriers += counts[model.n_items :]
    return SeedCounts(items, carriers)


@dataclass(frozen=True)
class _CountShard:
    model: Model
    places: dict[int, Int64]

    def __call__(self, number: int) -> pa.Table:
        shard, places = self.model.shard(number), self.places[number]
        gathered = self.model.gather(shard, places)["items"]
        items = np.concatenate([chunk.flatten().to_numpy(zero_copy_only=False) for chunk in gathered.chunks])
        carriers = np.zeros(len(self.model.features), dtype=np.int64)
        dense = shard.dense[places]
        for column, feature in enumerate(self.model.features):
            if feature["value"] is not None:
                carriers[column] = features.carries(dense[:, column], feature["absent"]).sum()
        return pa.table({"count": np.concatenate([np.bincount(items, minlength=self.model.n_items), carriers])})


@dataclass(frozen=True)
class HeldOutScores:
    """Scores of users, each by models that were not fitted on that user.

    Args:
        own: (m,) scores of the seed users, in order of their numbers.
        reference: Per fold, scores of the non-seed users that its model has not seen.
    """

    own: Float64
    reference: Sequence[Float64]


def score_held_out(
    engine: Engine, model: Model, ensemble: Ensemble, population: Population, on_task: Callable[[], None]
) -> HeldOutScores:
    """Score the seed users and some other users, each with models that were not fitted on that user."""
    users, folds, is_seed = population.held_out()
    shards, places = by_shard(model, users)
    cuts = np.cumsum([len(some) for some in places])[:-1]
    function = _ScoreHeldOut(
        model,
        ensemble.folds,
        dict(zip(shards, places, strict=True)),
        dict(zip(shards, np.split(folds, cuts), strict=True)),
    )
    n_folds = len(ensemble.folds)
    scores = []
    for table in engine.run_tasks(function, shards):
        scores.append(_numpy(table, "score").reshape(-1, n_folds))
        on_task()
    score = np.concatenate(scores)
    seed = np.flatnonzero(is_seed)
    reference = [score[~is_seed & ((folds == k) | (folds < 0)), k] for k in range(n_folds)]
    return HeldOutScores(score[seed, folds[seed]], reference)


@dataclass(frozen=True)
class _ScoreHeldOut:
    """Task that scores chosen users of a shard by their fold's model, or by all models if they have no fold."""

    model: Model
    scorers: tuple[Scorer, ...]
    places: dict[int, Int64]
    folds: dict[int, npt.NDArray[np.int8]]

    def __call__(self, number: int) -> pa.Table:
        shard, places, folds = self.model.shard(number), self.places[number], self.folds[number]
        values = np.full((len(places), len(self.scorers)), np.nan)
        for block in self.model.blocks(shard):
            begin, end = np.searchsorted(places, [block.first, block.last])
            for fold in np.unique(folds[begin:end]).tolist():
                mine = begin + np.flatnonzero(folds[begin:end] == fold)
                columns = range(len(self.scorers)) if fold < 0 else [fold]
                rows = self.model.rows_of(shard, places[mine])
                for column, score in zip(
                    columns, score_with([self.scorers[k] for k in columns], rows), strict=True
                ):
                    values[mine, column] = score
        return pa.table({"score": values.ravel()})


def iterate_scores(
    engine: Engine,
    model: Model,
    scorer: Scorer,
    on_share: Callable[[float], None] = lambda _: None,
    *,
    shards: Iterable[int] | None = None,
) -> Iterator[Float64]:
    """Yield the scores of all users, or of the users of consecutive shards, in pieces by ascending user number."""
    pieces = pieces_of(model, is_cluster=engine.is_cluster, shards=shards)
    for done, table in enumerate(engine.run_tasks(_ScorePiece(model, scorer), pieces)):
        yield _numpy(table, "score")
        on_share((done + 1) / len(pieces))


def score_users(
    engine: Engine,
    model: Model,
    scorer: Scorer,
    shards: Iterable[int],
    on_share: Callable[[float], None] = lambda _: None,
) -> Float64:
    """Return the scores of all users of consecutive shards, by user number; one float per user in memory."""
    return np.concatenate(list(iterate_scores(engine, model, scorer, on_share, shards=shards)))


@dataclass(frozen=True)
class _ScorePiece:
    model: Model
    scorer: Scorer

    def __call__(self, piece: BlockRange) -> pa.Table:
        return pa.table({"score": _scores(self.model, self.scorer, piece)})


def _scores(model: Model, scorer: Scorer, piece: BlockRange) -> Float64:
    shard = model.shard(piece.shard)
    blocks = (model.block(shard, number) for number in range(piece.first, piece.last))
    scores = [score_with([scorer], model.rows(shard, block))[0] for block in blocks if block.last > block.first]
    return np.concatenate(scores) if scores else np.zeros(0)


def write_scores(
    engine: Engine,
    model: Model,
    scorer: Scorer,
    *,
    seed: Int64,
    folder: Path,
    on_share: Callable[[float], None] = lambda _: None,
) -> None:
    """Score all non-seed users, and write one file per shard; its columns are listed in SCORED.

    Args:
        engine: Engine that reads the shards and writes the files.
        model: The audience model.
        scorer: The fitted scorer.
        seed: Numbers of the seed users, ascending.
        folder: Existing empty directory.
        on_share: Called with the share done.
    """
    shards = range(model.n_shards)
    places = dict(zip(*by_shard(model, seed), strict=True))
    for done, _ in enumerate(engine.run_tasks(_WriteScores(model, scorer, places, folder), shards)):
        on_share((done + 1) / len(shards))


@dataclass(frozen=True)
class _WriteScores:
    model: Model
    scorer: Scorer
    seed: dict[int, Int64]
    folder: Path

    def __call__(self, number: int) -> pa.Table:
        import pyarrow.parquet as pq

        shard = self.model.shard(number)
        scores = _scores(self.model, self.scorer, BlockRange(number, 0, self.model.blocks_per_shard))
        is_other = np.ones(len(scores), dtype=bool)
        is_other[self.seed.get(number, [])] = False
        columns = (shard.user_ids, pa.array(shard.hashes), pa.array(scores))
        table = pa.table(dict(zip(SCORED, columns, strict=True))).filter(pa.array(is_other))
        pq.write_table(table, self.folder / part_name(number), compression="zstd")
        return pa.table({"n_users": [table.num_rows]})


def by_shard(model: Model, users: Int64) -> tuple[list[int], list[Int64]]:
    """Group ascending user numbers by shard; return the shards, and each shard's users as positions in it."""
    cuts = np.searchsorted(users, model.first_users)
    shards = [number for number in range(model.n_shards) if cuts[number + 1] > cuts[number]]
    return shards, [users[cuts[number] : cuts[number + 1]] - model.first_users[number] for number in shards]


def _all_hashes() -> int:
    return 1 << 64


def _numpy(table: pa.Table, column: str) -> npt.NDArray[Any]:
    return np.asarray(table[column].combine_chunks().to_numpy(zero_copy_only=False))
