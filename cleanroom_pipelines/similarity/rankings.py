"""Read a ranking: place or leave out the seed users, and select the users of one audience size.

Lives here: the columns and parts of `ranking.parquet`, `write_ranked`, and `select_audience`.
Add here when audiences can be selected from a ranking in another way.
Keep out: building a ranking (ranking, sorting).

`ranking.parquet` is a file, or on a cluster a folder of consecutive parts. Each file's footer has its number of
seed users, so the position of a part's non-seed users is known without reading it.
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
from cleanroom_pipelines.engine import open_parquet, stable_hash
from cleanroom_pipelines.errors import ArtifactError

RANKING_FILE = "ranking.parquet"
RANKING_SCHEMA = pa.schema(
    [("user_id", pa.string()), ("rank", pa.int64()), ("score", pa.float64()), ("is_seed", pa.bool_())]
)
_ROW_GROUP = 100_000


def ranking_metadata(n_seed_users: int) -> dict[bytes, bytes]:
    """Return the parquet footer metadata of a ranking file, which contains the ranking's number of seed users."""
    return {b"n_seed_users": str(n_seed_users).encode()}


def write_ranked(*, ranking: Path, out: Path, seed_mode: SeedMode = SeedMode.EXCLUDED) -> int:
    """Write `ranked.parquet`, with seed users or without: user_id VARCHAR, rank BIGINT from 1, score DOUBLE.

    Args:
        ranking: The ranking.parquet that `generate` wrote.
        out: File to write.
        seed_mode: Placement of the seed users.

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
    """Consecutive users of an audience, read lazily: seed users placed first, then users of the ranking.

    Args:
        seed_ids: Seed users placed before all others.
        ranking: The ranking.
        passes_seed: Whether to skip the ranking's seed users.
        first: Position of the first user of the ranking, not counting skipped users.
        last: Position after the last user.
    """

    seed_ids: pa.Array
    ranking: Path
    passes_seed: bool
    first: int
    last: int

    def user_ids(self) -> Iterator[pa.Array]:
        """Yield the user ids in order, in batches of strings; reads only the necessary parts of the ranking."""
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
    """The users of one audience size, best first.

    Args:
        requested: Number of users requested.
        delivered: Number of users available.
        warnings: SIZE_EXCEEDS_POPULATION if fewer are available than requested.
    """

    requested: int
    delivered: int
    warnings: tuple[str, ...]
    _ranking: Path
    _seed_mode: SeedMode

    def user_ids(self) -> Iterator[pa.Array]:
        """Yield the user ids in rank order, in batches of strings, without loading all of them."""
        left = self.delivered
        for batch in _projected(self._ranking, self._seed_mode):
            if left <= 0:
                return
            yield batch.column("user_id").slice(0, left)
            left -= batch.num_rows

    def slices(self, n_users: int) -> list[AudienceSlice]:
        """Split the audience into slices of `n_users` users that other machines can read."""
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
    """Select the users of one size from a ranking, without scores.

    Args:
        ranking: The ranking.parquet that `generate` wrote.
        size: The audience size; a percentage refers to all scored users, including the seed.
        seed_mode: Placement of the seed users; excluded ones are replaced by the next-ranked users.

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
    """The number of seed users in a ranking."""
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
    """Return the seed users without scores, shuffled, so that their order does not reveal the scores."""
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
        ArtifactError: The ranking has no files.
    """
    parts = tuple(sorted(ranking.glob("part-*.parquet"))) if ranking.is_dir() else (ranking,)
    if not parts:
        raise ArtifactError("The ranking has no files.", remedy="Generate it again.")
    return parts


def n_ranked(ranking: Path) -> int:
    """The number of users in a ranking, from the footers of its files.

    Raises:
        ArtifactError: The ranking cannot be read.
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
    """The number of users in one file of a ranking, from its footer."""
    n_seed = int(file.schema_arrow.metadata[b"n_seed_users"]) if passes_seed else 0
    return int(file.metadata.num_rows) - n_seed


def _open_part(part: Path) -> Any:
    try:
        return open_parquet(part)
    except (OSError, pa.ArrowException) as error:
        raise ArtifactError(
            f"The ranking cannot be read ({type(error).__name__}).", remedy="Generate it again."
        ) from None
