"""Reading a ranking: its projections by seed mode, and the users of one size.

Lives here: the columns and parts of `ranking.parquet`, `write_ranked`, and `select_audience`.
Add here when an audience can be taken from a ranking in a further way.
Keep out: making a ranking (ranking, sorting).

`ranking.parquet` is a file, or where a cluster made it a folder of parts that follow each other. The footer of
each file says how many seed users it holds, so where the others of a part begin is known without reading it.
"""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cleanroom_pipelines.audiences.sizes import AudienceSize, SeedMode
from cleanroom_pipelines.engine import stable_hash
from cleanroom_pipelines.errors import ArtifactError

RANKING_FILE = "ranking.parquet"
RANKING_SCHEMA = pa.schema(
    [("user_id", pa.string()), ("rank", pa.int64()), ("score", pa.float64()), ("is_seed", pa.bool_())]
)
_ROW_GROUP = 100_000


def ranking_metadata(n_seed_users: int) -> dict[bytes, bytes]:
    """What the footer of a file of a ranking says: the seed users in that file."""
    return {b"n_seed_users": str(n_seed_users).encode()}


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
class AudienceSlice:
    """Consecutive users of an audience: some of the seed, then some of the ranking, read where they are needed.

    Args:
        seed_ids: Seed users who stand before everybody else.
        ranking: The ranking.
        passes_seed: Whether the ranking's seed users are passed over.
        first: Place of the first user of the ranking, those that are passed over not counted.
        last: Place behind the last one.
    """

    seed_ids: pa.Array
    ranking: Path
    passes_seed: bool
    first: int
    last: int

    def user_ids(self) -> Iterator[pa.Array]:
        """The user ids in order, in batches of strings; parts of the ranking without any of them are not read."""
        if len(self.seed_ids):
            yield self.seed_ids
        place = 0
        for part in ranking_parts(self.ranking):
            if place >= self.last:
                return
            with _open_part(part) as file:
                n_users = _n_users_of(file, passes_seed=self.passes_seed)
                if place + n_users <= self.first:
                    place += n_users
                    continue
                for batch in file.iter_batches(batch_size=_ROW_GROUP, columns=["user_id", "is_seed"]):
                    ids = batch.column("user_id")
                    if self.passes_seed:
                        ids = ids.filter(pc.invert(batch.column("is_seed")))
                    begin, end = max(0, self.first - place), min(len(ids), self.last - place)
                    if end > begin:
                        yield ids.slice(begin, end - begin)
                    place += len(ids)


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

    def slices(self, n_users: int) -> list[AudienceSlice]:
        """The same users in slices of so many, at least one, that can be read on another machine."""
        seed = pa.array([], pa.string())
        if self._seed_mode is SeedMode.FIRST:
            seed = _shuffled_seed(self._ranking).column("user_id")
        passes_seed = self._seed_mode is not SeedMode.IN_PLACE
        return [
            AudienceSlice(
                seed.slice(first, min(n_users, self.delivered - first)),
                self._ranking,
                passes_seed,
                max(0, first - len(seed)),
                max(0, min(first + n_users, self.delivered) - len(seed)),
            )
            for first in range(0, max(1, self.delivered), n_users)
        ]


def select_audience(ranking: Path, size: AudienceSize, seed_mode: SeedMode = SeedMode.EXCLUDED) -> Audience:
    """Take the users of one size from a ranking, without scores.

    Args:
        ranking: The ranking.parquet that `generate` wrote.
        size: How many; a percentage is one of all scored users, the seed included.
        seed_mode: Where the seed's own users stand; where they are excluded the cut refills.

    Raises:
        ArtifactError: The ranking cannot be read.
    """
    n_users, n_seed = n_ranked(ranking), n_seed_users(ranking)
    available = n_users - n_seed if seed_mode is SeedMode.EXCLUDED else n_users
    requested = size.n_users(n_users)
    return Audience(
        requested=requested,
        delivered=min(requested, available),
        warnings=("SIZE_EXCEEDS_POPULATION",) if requested > available else (),
        _ranking=ranking,
        _seed_mode=seed_mode,
    )


def n_seed_users(ranking: Path) -> int:
    """How many users of a ranking are marked as the seed's."""
    n_seed = 0
    for part in ranking_parts(ranking):
        with _open_part(part) as file:
            n_seed += int(file.schema_arrow.metadata[b"n_seed_users"])
    return n_seed


def _projected(ranking: Path, seed_mode: SeedMode) -> Iterator[pa.RecordBatch]:
    if seed_mode is SeedMode.FIRST:
        yield _shuffled_seed(ranking)
    for batch in _batches(ranking):
        yield batch if seed_mode is SeedMode.IN_PLACE else batch.filter(pc.invert(batch.column("is_seed")))


def _shuffled_seed(ranking: Path) -> pa.RecordBatch:
    """The seed's users without score, in an order that says nothing about their score."""
    ids: list[str] = []
    for batch in _batches(ranking):
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


def ranking_parts(ranking: Path) -> tuple[Path, ...]:
    """The files of a ranking in rank order.

    Raises:
        ArtifactError: There is none.
    """
    parts = tuple(sorted(ranking.glob("part-*.parquet"))) if ranking.is_dir() else (ranking,)
    if not parts:
        raise ArtifactError("The ranking has no part.", remedy="Generate it again.")
    return parts


def n_ranked(ranking: Path) -> int:
    """How many users a ranking holds, from its footers.

    Raises:
        ArtifactError: It cannot be read.
    """
    n_users = 0
    for part in ranking_parts(ranking):
        with _open_part(part) as file:
            n_users += file.metadata.num_rows
    return n_users


def remove_ranking(ranking: Path) -> None:
    """Delete a ranking."""
    if ranking.is_dir():
        shutil.rmtree(ranking)
    else:
        ranking.unlink()


def _batches(ranking: Path) -> Iterator[pa.RecordBatch]:
    for part in ranking_parts(ranking):
        with _open_part(part) as file:
            yield from file.iter_batches(batch_size=_ROW_GROUP)


def _n_users_of(file: Any, *, passes_seed: bool) -> int:
    """Users of a part, from its footer."""
    n_seed = int(file.schema_arrow.metadata[b"n_seed_users"]) if passes_seed else 0
    return int(file.metadata.num_rows) - n_seed


def _open_part(part: Path) -> Any:
    import pyarrow.parquet as pq

    try:
        return pq.ParquetFile(part)
    except (OSError, pa.ArrowException) as error:
        raise ArtifactError(
            f"The ranking cannot be read ({type(error).__name__}).", remedy="Generate it again."
        ) from None
