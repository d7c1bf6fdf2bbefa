"""Rank scored users part by part, for populations too large for the memory of one machine.

Lives here: turning files of scores into the parts of `ranking.parquet`, on an engine that sorts.
Add here when the distributed ranking gets another column.
Keep out: scoring, and ranking in memory (ranking), which gives the same rows.

The engine sorts the scores of the n non-seed users into consecutive files. Each file is then finished
independently: the number of users in the previous files is known, so each user's percentile is a count, and the
seed users whose percentiles are in the file's range are inserted. If `above` users are before a file, all
percentiles in the previous file are larger than 1 - above / n and all in this file are smaller; this determines
the file of each seed user. Only one shuffle of id, hash and score per user crosses the network.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from cleanroom_pipelines.engine import Engine, SortedPart, find_tables
from cleanroom_pipelines.similarity.fits import Fit
from cleanroom_pipelines.similarity.metrics import Others, others_of, together
from cleanroom_pipelines.similarity.rankings import RANKING_SCHEMA, ranking_metadata
from cleanroom_pipelines.similarity.scoring import SCORED
from cleanroom_pipelines.similarity.shards import part_name

Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]


@dataclass(frozen=True)
class _RankedPart:
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


def _with_seed(sorted_parts: Sequence[SortedPart], fit: Fit, wanted: Sequence[int]) -> list[_RankedPart]:
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
        parts.append(_RankedPart(number, part.path, above, first_rank, seed, inside))
        above += part.n_rows
        first_rank += part.n_rows + len(seed)
    return parts


@dataclass(frozen=True)
class _FinishPart:
    """Task that writes one part of the ranking."""

    fit: Fit
    n_others: int
    out: Path

    def __call__(self, part: _RankedPart) -> pa.Table:
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
    """Return the share of non-seed users ranked below each user of a file in descending order; ties count half."""
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
