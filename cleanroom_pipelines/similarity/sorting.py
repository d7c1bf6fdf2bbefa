"""Sort scored users into a ranking part by part, so that memory does not grow with the number of users.

Lives here: writing `ranking.parquet` from scores: on one machine (`ranked_parts`, `write_ranking`) and, with the
same rows, on a cluster (`rank_scored`).
Add here when the ranking gets another column.
Keep out: scoring, and reading a ranking (rankings).

On one machine, the scores are written to disk in order of the users, then distributed to files by ranges of
scores. A sample of the scores chooses the ranges, of about a million users each. From the highest range to the
lowest, each is sorted in memory; a score that many users share has a range of its own, which needs no sorting.

On a cluster, the engine sorts the scores of the n non-seed users into consecutive files. Each file is then
finished independently: the number of users in the previous files is known, so each user's percentile is a count,
and the seed users whose percentiles are in the file's range are inserted. If `above` users are before a file, all
percentiles in the previous file are larger than 1 - above / n and all in this file are smaller; this determines
the file of each seed user. Only one shuffle of id, hash and score per user crosses the network.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from cleanroom_pipelines.engine import Engine, SortedPart, find_tables
from cleanroom_pipelines.similarity.fits import Fit
from cleanroom_pipelines.similarity.metrics import Others, others_of, together
from cleanroom_pipelines.similarity.model import Model
from cleanroom_pipelines.similarity.rankings import RANKING_SCHEMA, ranking_metadata
from cleanroom_pipelines.similarity.scoring import SCORED
from cleanroom_pipelines.similarity.shards import part_name

Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]

_USERS_PER_RANGE = 1 << 20
_MAX_RANGES = 500  # all their files are open at once
_SAMPLED = 1 << 6
_ROW_GROUP = 100_000
_RANGE_SCHEMA = pa.schema([("number", pa.int64()), ("score", pa.float64()), ("user_id", pa.string())])


@dataclass(frozen=True)
class RankedPart:
    """Consecutive users of a ranking, best first, before the seed users are inserted.

    Args:
        above: Non-seed users who rank higher than this part.
        numbers: (n,) the users' numbers; ascending where scores are equal.
        user_ids: (n,) their ids.
        scores: (n,) their scores.
        percentiles: (n,) share of the non-seed users ranked below each; ties count half.
    """

    above: int
    numbers: Int64
    user_ids: pa.Array
    scores: Float64
    percentiles: Float64


@dataclass(frozen=True)
class ScoreFile:
    """A file with the scores of all N users of a model, in order of user number.

    Args:
        path: 64-bit floats, little-endian.
        n_users: N.
        sample: One score in 64, ascending.
    """

    path: Path
    n_users: int
    sample: Float64


def write_score_file(scores: Iterable[Float64], path: Path) -> ScoreFile:
    """Write the scores of all users, given as pieces of any length in order of user number."""
    n_users, sample = 0, [np.zeros(0)]
    with path.open("wb") as file:
        for piece in scores:
            piece.tofile(file)
            sample.append(piece[::_SAMPLED].copy())
            n_users += len(piece)
    return ScoreFile(path, n_users, np.sort(np.concatenate(sample)))


def ranked_parts(model: Model, scores: ScoreFile, *, seed: Int64, scratch: Path) -> Iterator[RankedPart]:
    """Sort a model's users by score on this machine, and yield them as parts, best first.

    Args:
        model: The audience model.
        scores: The scores of its users; the file is removed.
        seed: Numbers of the users to leave out, ascending.
        scratch: Existing empty directory, for about 60 bytes per user.

    Yields:
        The other users, best first; ties are in order of the users' numbers, that is, of stable_hash and id.
    """
    n_others = scores.n_users - len(seed)
    edges = _edges(scores.sample, min(_MAX_RANGES, -(-n_others // _USERS_PER_RANGE)))
    counts = _distribute(model, scores.path, seed, edges, scratch)
    above = 0
    for number in reversed(range(len(counts))):
        with pa.OSFile(str(_range_file(scratch, number)), "rb") as file:
            reader = pa.ipc.open_stream(file)
            if 0 < number < len(edges) and edges[number] == np.nextafter(edges[number - 1], np.inf):
                # All users of this range have the same score, and were written in order of their numbers.
                percentile = (2 * (n_others - above) - counts[number]) / (2.0 * n_others)
                place = above
                for batch in reader:
                    yield _part(batch, place, np.full(batch.num_rows, percentile))
                    place += batch.num_rows
            elif counts[number]:
                table = reader.read_all()
                order = np.argsort(-table["score"].to_numpy(), kind="stable")
                ordered = table.take(pa.array(order)).combine_chunks().to_batches()[0]
                yield _part(ordered, above, percentiles_of(ordered["score"].to_numpy(), above, n_others))
        _range_file(scratch, number).unlink()
        above += counts[number]


def write_ranking(
    parts: Iterable[RankedPart],
    out: Path,
    *,
    seed: Int64 = np.zeros(0, dtype=np.int64),  # noqa: B008 never changed
    seed_ids: pa.Array | None = None,
    seed_percentiles: Float64 = np.zeros(0),  # noqa: B008 never changed
) -> None:
    """Write ranking.parquet as one file.

    Args:
        parts: The users outside the seed, best first.
        out: The file to write.
        seed: Numbers of the seed users, ascending.
        seed_ids: Their ids.
        seed_percentiles: Their percentiles among the other users.
    """
    import pyarrow.parquet as pq

    order = np.lexsort((seed, -seed_percentiles))
    seed, percentiles = seed[order], seed_percentiles[order]
    ids = pa.array([], pa.string()) if seed_ids is None else seed_ids.take(pa.array(order))
    placed, n_rows = 0, 0
    schema = RANKING_SCHEMA.with_metadata(ranking_metadata(len(seed)))
    waiting = pa.table(
        {name: [] for name in ("user_id", "score", "is_seed")}, schema=_without_rank(RANKING_SCHEMA)
    )

    with pq.ParquetWriter(out, schema, compression="zstd") as writer:

        def write(table: pa.Table, *, everything: bool = False) -> pa.Table:
            nonlocal n_rows
            while table.num_rows >= _ROW_GROUP or (everything and table.num_rows):
                group = table.slice(0, _ROW_GROUP).combine_chunks()
                ranks = pa.array(np.arange(n_rows + 1, n_rows + 1 + group.num_rows))
                columns = [group["user_id"], ranks, group["score"], group["is_seed"]]
                writer.write_table(pa.Table.from_arrays(columns, schema=schema))
                n_rows += group.num_rows
                table = table.slice(_ROW_GROUP)
            return table

        for part in parts:
            end = placed + _n_before(part, seed[placed:], percentiles[placed:])
            chosen = slice(placed, end)
            rows = _with_seed_users(part, seed[chosen], ids[chosen], percentiles[chosen])
            waiting = write(pa.concat_tables([waiting, rows]))
            placed = end
        last = _rows(ids[placed:], percentiles[placed:], np.ones(len(seed) - placed, dtype=bool))
        write(pa.concat_tables([waiting, last]), everything=True)


def _edges(sample: Float64, n_ranges: int) -> Float64:
    """Return the scores that divide users into ranges; a very frequent score gets a range of its own."""
    quantiles = sample[[len(sample) * k // n_ranges for k in range(1, n_ranges)]]
    found, counts = np.unique(quantiles, return_counts=True)
    return np.unique(np.concatenate([found, np.nextafter(found[counts > 1], np.inf)]))


def _distribute(model: Model, scored: Path, seed: Int64, edges: Float64, scratch: Path) -> list[int]:
    """Write the non-seed users to one file per range of scores; return the number of users in each."""
    counts = np.zeros(len(edges) + 1, dtype=np.int64)
    with ExitStack() as stack:
        file = stack.enter_context(scored.open("rb"))
        writers = []
        for number in range(len(counts)):
            sink = stack.enter_context(pa.OSFile(str(_range_file(scratch, number)), "wb"))
            writers.append(stack.enter_context(pa.ipc.new_stream(sink, _RANGE_SCHEMA)))
        for shard, (first, last) in enumerate(pairwise(model.first_users.tolist())):
            scores = np.fromfile(file, dtype=np.float64, count=last - first)
            is_other = np.ones(len(scores), dtype=bool)
            is_other[seed[slice(*np.searchsorted(seed, [first, last]))] - first] = False
            places = np.flatnonzero(is_other)
            ranges = np.searchsorted(edges, scores[places], "right")
            order = np.argsort(ranges, kind="stable")
            ends = np.cumsum(np.bincount(ranges, minlength=len(counts)))
            places = places[order]
            user_ids = model.shard(shard).user_ids
            for number, (begin, end) in enumerate(pairwise([0, *ends.tolist()])):
                if end > begin:
                    mine = places[begin:end]
                    columns = [pa.array(first + mine), pa.array(scores[mine]), user_ids.take(pa.array(mine))]
                    writers[number].write_batch(pa.RecordBatch.from_arrays(columns, schema=_RANGE_SCHEMA))
                    counts[number] += end - begin
    scored.unlink()
    return [int(count) for count in counts]


def _range_file(scratch: Path, number: int) -> Path:
    return scratch / f"range-{number}"


def _part(batch: pa.RecordBatch, above: int, percentiles: Float64) -> RankedPart:
    return RankedPart(above, batch["number"].to_numpy(), batch["user_id"], batch["score"].to_numpy(), percentiles)


def _n_before(part: RankedPart, seed: Int64, percentiles: Float64) -> int:
    """Count the seed users, given in rank order, who rank before a part's last user."""
    lowest = -part.percentiles[-1]
    begin, end = np.searchsorted(-percentiles, lowest, "left"), np.searchsorted(-percentiles, lowest, "right")
    return int(begin + np.searchsorted(seed[begin:end], part.numbers[-1]))


def _with_seed_users(part: RankedPart, seed: Int64, seed_ids: pa.Array, percentiles: Float64) -> pa.Table:
    """Insert seed users into a part of the ranking, by percentile."""
    rows = _rows(part.user_ids, part.percentiles, np.zeros(len(part.numbers), dtype=bool))
    if not len(seed):
        return rows
    rows = pa.concat_tables([rows, _rows(seed_ids, percentiles, np.ones(len(seed), dtype=bool))])
    order = np.lexsort((np.concatenate([part.numbers, seed]), -rows["score"].to_numpy()))
    return rows.take(pa.array(order))


def _rows(user_ids: pa.Array, percentiles: Float64, is_seed: npt.NDArray[np.bool_]) -> pa.Table:
    columns = [user_ids, pa.array(percentiles), pa.array(is_seed)]
    return pa.Table.from_arrays(columns, schema=_without_rank(RANKING_SCHEMA))


def _without_rank(schema: pa.Schema) -> pa.Schema:
    return schema.remove(schema.get_field_index("rank"))


@dataclass(frozen=True)
class _SortedPart:
    """One sorted file of users outside the seed, with the seed users who rank among them.

    Args:
        number: Number of the part.
        path: The sorted scores.
        above: Non-seed users in the previous files.
        first_rank: Rank of the part's first user.
        seed: Positions, in the arrays of the fit, of the seed users in this part.
        wanted: By n, how many of this file's non-seed users are among the first n of all.
    """

    number: int
    path: Path
    above: int
    first_rank: int
    seed: Int64
    wanted: dict[int, int]


def rank_scored(
    engine: Engine,
    fit: Fit,
    scores: Path,
    *,
    out: Path,
    scratch: Path,
    wanted: Sequence[int],
    on_share: Callable[[float], None] = lambda _: None,
) -> Others:
    """Sort scored users and write the ranking as a folder of parts.

    Args:
        engine: Sorts, and finishes the parts.
        fit: The seed users and their held-out percentiles.
        scores: Folder of files with the columns SCORED, for all non-seed users.
        out: The folder to create.
        scratch: Existing empty directory.
        wanted: Audience sizes for which the metrics need sums.
        on_share: Called with the share done.

    Returns:
        Sums over the non-seed users for the metrics.
    """
    engine.scan("scored", find_tables(scores))
    order = [("score", True), ("stable_hash", False), ("user_id", False)]
    sorted_parts = engine.write_sorted(f"SELECT {', '.join(SCORED)} FROM scored", order, scratch)
    on_share(0.5)
    out.mkdir()
    parts = _with_seed(sorted_parts, fit, wanted)
    n_others = fit.n_users - len(fit.seed)
    results = []
    for table in engine.run_tasks(_FinishPart(fit, n_others, out), parts):
        row = table.to_pylist()[0]
        results.append(Others(row["n_users"], dict(row["standings"]), row["histogram"]))
        on_share(0.5 + 0.5 * len(results) / len(parts))
    return together(results)


def _with_seed(sorted_parts: Sequence[SortedPart], fit: Fit, wanted: Sequence[int]) -> list[_SortedPart]:
    """Assign each seed user, by percentile, to the sorted file in which the user ranks."""
    filled = [part for part in sorted_parts if part.n_rows]
    ends = np.cumsum([part.n_rows for part in filled])
    n_others = int(ends[-1])
    # 1 - share, computed like the percentiles (half-user counts over the same denominator), so that floats compare
    # exactly.
    borders = 2 * (n_others - ends[:-1]) / (2.0 * n_others)
    place = np.searchsorted(-borders, -fit.held_out.percentile, "right")
    parts, above, first_rank = [], 0, 1
    for number, part in enumerate(filled):
        seed = np.flatnonzero(place == number)
        inside = {n: min(max(0, n - above), part.n_rows) for n in wanted}
        parts.append(_SortedPart(number, part.path, above, first_rank, seed, inside))
        above += part.n_rows
        first_rank += part.n_rows + len(seed)
    return parts


@dataclass(frozen=True)
class _FinishPart:
    """Task that inserts the seed users into one sorted file, and writes it as a part of the ranking."""

    fit: Fit
    n_others: int
    out: Path

    def __call__(self, part: _SortedPart) -> pa.Table:
        import pyarrow.parquet as pq

        table = pq.read_table(part.path, columns=list(SCORED))
        percentiles = percentiles_of(np.asarray(table["score"]), part.above, self.n_others)
        ranked = _merged(table, percentiles, self.fit, part.seed)
        ranks = pa.array(np.arange(part.first_rank, part.first_rank + ranked.num_rows))
        pq.write_table(
            pa.Table.from_arrays(
                [ranked["user_id"], ranks, ranked["score"], ranked["is_seed"]], schema=RANKING_SCHEMA
            ).replace_schema_metadata(ranking_metadata(len(part.seed))),
            self.out / part_name(part.number),
            compression="zstd",
        )
        # Sums over this part's users, keyed by the sizes of the whole ranking.
        sums = others_of(self.fit.held_out, percentiles, set(part.wanted.values()))
        standings = [(n, sums.standings[inside]) for n, inside in part.wanted.items()]
        return pa.table(
            {
                "n_users": pa.array([len(percentiles)], pa.int64()),
                "standings": pa.array([standings], pa.map_(pa.int64(), pa.int64())),
                "histogram": pa.array([list(sums.histogram)], pa.list_(pa.int64())),
            }
        )


def percentiles_of(scores: Float64, above: int, n_others: int) -> Float64:
    """Return, for scores in descending order, the share of non-seed users ranked below each; ties count half."""
    is_first = np.empty(len(scores), dtype=bool)
    is_first[:1] = True
    np.not_equal(scores[1:], scores[:-1], out=is_first[1:])
    starts = np.flatnonzero(is_first)
    group = np.cumsum(is_first) - 1
    ends = np.append(starts[1:], len(scores))
    below = 2 * (n_others - above) - starts - ends
    return np.asarray(below[group] / (2.0 * n_others))


def _merged(table: pa.Table, percentiles: Float64, fit: Fit, seed: Int64) -> pa.Table:
    ids = table["user_id"].cast(pa.string()).chunks
    columns = {
        "user_id": pa.chunked_array([*ids, fit.seed_ids.take(pa.array(seed))]),
        "score": np.concatenate([percentiles, fit.held_out.percentile[seed]]),
        "hash": np.concatenate([np.asarray(table["stable_hash"], dtype=np.int64), fit.seed_hashes[seed]]),
        "is_seed": np.arange(len(percentiles) + len(seed)) >= len(percentiles),
    }
    order = [("score", "descending"), ("hash", "ascending"), ("user_id", "ascending")]
    return pa.table(columns).sort_by(order)
