"""The files of an audience model.

Lives here: their names, writing the small ones, opening a model, reading a block of its users.
Add here when a file is added (and raise FORMAT_VERSION).
Keep out: how the numbers came about (training) and what is done with them (ranking).

    model.json          what it was trained on, counts, features; no clock: equal input, equal bytes
    users.parquet       user_id, stable_hash in order of (stable_hash, user_id): the row is the user's number
    items.parquet       item_id, n_users in vocabulary order
    starts.npy          (N + 1,) int64   where a user's items begin
    items.npy           (pairs,) uint16  item numbers
    counts.npy          (pairs,) uint8   interactions, cut at 255
    days.npy            (pairs,) uint16  days from the latest interaction to the newest event; only with times
    dense.npy           (N, F) float32   standardised features
    idf.npy, basis.npy, neighbours.npy, similarities.npy   see representation.ItemRepresentation
    embedding_length.npy (N,) float32    length of each user's embedding: cosines without forming embeddings

Files are mapped, not read: one block of users (a few thousand) is in memory at a time. Blocks are groups of the
1,024 buckets of stable_hash and depend on N alone, so results are the same for every shard and thread count.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import scipy.sparse as sp

from cleanroom_pipelines.errors import ArtifactError
from cleanroom_pipelines.similarity.representation import ItemRepresentation, strengths, weighted_rows

FORMAT_VERSION = 1
N_BUCKETS = 1_024
HASH_BITS = 60
_USERS_PER_BLOCK = 4_096


@dataclass(frozen=True)
class Block:
    """Consecutive users, first ≤ number < last."""

    first: int
    last: int


@dataclass(frozen=True)
class Rows:
    """The representation of some users.

    Args:
        items: (n, M) idf rows of length 1.
        strong: (n, M) the same with pairs weighted by how often and how lately, length 1.
        lengths: (n,) the lengths before scaling.
        embedding_lengths: (n,) lengths of the users' embeddings.
        dense: (n, F) standardised features; those of behaviour first, then those of declared columns.
        counts: (n, c) interactions with the c commonest items.
        n_behaviour: How many of the features are of behaviour (activity and recency).
    """

    items: sp.csr_matrix
    strong: sp.csr_matrix
    lengths: npt.NDArray[np.float64]
    embedding_lengths: npt.NDArray[np.float32]
    dense: npt.NDArray[np.float32]
    counts: npt.NDArray[np.float32]
    n_behaviour: int


class Model:
    """An audience model on disk, opened for reading.

    Args:
        folder: The directory training wrote.

    Raises:
        ArtifactError: Not a model, or one of another format.
    """

    n_commonest = 100

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        try:
            self.description: Mapping[str, Any] = json.loads((self.folder / "model.json").read_text("utf-8"))
            version = self.description["format_version"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ArtifactError(
                f"The audience model cannot be read ({type(error).__name__}).",
                remedy="Give the folder that training wrote.",
            ) from None
        if version != FORMAT_VERSION:
            raise ArtifactError(
                f"The audience model has format {version}, this program reads {FORMAT_VERSION}.",
                remedy="Train it again.",
            )

    @property
    def n_users(self) -> int:
        """Scored users N."""
        return int(self.description["n_users"])

    @property
    def n_items(self) -> int:
        """Vocabulary size M."""
        return int(self.description["n_items"])

    @property
    def features(self) -> list[dict[str, Any]]:
        """Name, group, column and value of each dense feature."""
        return list(self.description["features"])

    @cached_property
    def representation(self) -> ItemRepresentation:
        """The items' weights, embedding and neighbours."""
        return ItemRepresentation(
            idf=self._load("idf"),
            basis=self._load("basis"),
            neighbours=self._load("neighbours"),
            similarities=self._load("similarities"),
        )

    @cached_property
    def hashes(self) -> npt.NDArray[np.int64]:
        """(N,) stable hashes, ascending."""
        return np.asarray(self._column("users", "stable_hash"))

    def user_ids(self) -> pa.ChunkedArray:
        """(N,) user ids in order of their numbers."""
        return self._column("users", "user_id")

    def item_ids(self) -> list[str]:
        """(M,) item ids in vocabulary order."""
        ids: list[str] = self._column("items", "item_id").to_pylist()
        return ids

    def item_users(self) -> npt.NDArray[np.int64]:
        """(M,) users of each item, in vocabulary order."""
        return np.asarray(self._column("items", "n_users"), dtype=np.int64)

    @cached_property
    def starts(self) -> npt.NDArray[np.int64]:
        """(N + 1,) where each user's pairs begin."""
        mapped: npt.NDArray[np.int64] = self._map("starts")
        return mapped

    @cached_property
    def pair_items(self) -> npt.NDArray[np.uint16]:
        """(pairs,) item numbers."""
        mapped: npt.NDArray[np.uint16] = self._map("items")
        return mapped

    @cached_property
    def pair_counts(self) -> npt.NDArray[np.uint8]:
        """(pairs,) interactions of each pair, cut at 255."""
        mapped: npt.NDArray[np.uint8] = self._map("counts")
        return mapped

    @cached_property
    def dense(self) -> npt.NDArray[np.float32]:
        """(N, F) standardised features."""
        mapped: npt.NDArray[np.float32] = self._map("dense")
        return mapped

    @cached_property
    def embedding_lengths(self) -> npt.NDArray[np.float32]:
        """(N,) lengths of the users' embeddings."""
        mapped: npt.NDArray[np.float32] = self._map("embedding_length")
        return mapped

    def blocks(self) -> list[Block]:
        """All users in blocks that depend on the population alone."""
        return blocks_of(self.hashes)

    def rows(self, block: Block) -> Rows:
        """The representation of a block of users."""
        starts = np.asarray(self.starts[block.first : block.last + 1])
        begin, end = int(starts[0]), int(starts[-1])
        return self._rows(
            starts - begin,
            np.asarray(self.pair_items[begin:end]),
            np.asarray(self.pair_counts[begin:end]),
            self._days(slice(begin, end)),
            slice(block.first, block.last),
        )

    def rows_of(self, users: npt.NDArray[np.int64]) -> Rows:
        """The representation of chosen users, given by ascending number."""
        starts, ends = self.starts[users], self.starts[users + 1]
        sizes = ends - starts
        indptr = np.concatenate([[0], np.cumsum(sizes)])
        positions = np.arange(indptr[-1]) + np.repeat(starts - indptr[:-1], sizes)
        return self._rows(
            indptr, self.pair_items[positions], self.pair_counts[positions], self._days(positions), users
        )

    def _rows(
        self,
        indptr: npt.NDArray[np.int64],
        items: npt.NDArray[np.uint16],
        counts: npt.NDArray[np.uint8],
        days: npt.NDArray[np.uint16] | None,
        users: slice | npt.NDArray[np.int64],
    ) -> Rows:
        matrix, lengths = weighted_rows(indptr, items, self.representation.idf)
        strong, _ = weighted_rows(
            indptr, items, self.representation.idf, strengths(counts, days, self._half_life_days)
        )
        width = min(self.n_commonest, self.n_items)
        common = np.zeros((len(lengths), width), dtype=np.float32)
        is_common = items < width
        row = np.repeat(np.arange(len(lengths)), np.diff(indptr))
        common[row[is_common], items[is_common]] = counts[is_common]
        return Rows(
            items=matrix,
            strong=strong,
            lengths=lengths,
            embedding_lengths=np.asarray(self.embedding_lengths[users]),
            dense=np.asarray(self.dense[users]),
            counts=common,
            n_behaviour=self._n_behaviour,
        )

    def _days(self, positions: slice | npt.NDArray[np.int64]) -> npt.NDArray[np.uint16] | None:
        return np.asarray(self._pair_days[positions]) if self._has_days else None

    @cached_property
    def _n_behaviour(self) -> int:
        return sum(feature["group"] in ("activity", "recency") for feature in self.features)

    @cached_property
    def _has_days(self) -> bool:
        return (self.folder / "days.npy").exists()

    @cached_property
    def _pair_days(self) -> npt.NDArray[np.uint16]:
        mapped: npt.NDArray[np.uint16] = self._map("days")
        return mapped

    @cached_property
    def _half_life_days(self) -> float:
        """A quarter of the time the model was trained on."""
        first, last = self.description["first_time"], self.description["last_time"]
        return max(1.0, (last - first) / 86_400 / 4) if first is not None else 1.0

    def _load(self, name: str) -> Any:
        try:
            return np.load(self.folder / f"{name}.npy", allow_pickle=False)
        except (OSError, ValueError) as error:
            raise ArtifactError(
                f"The audience model is damaged: {name}.npy cannot be read ({type(error).__name__}).",
                remedy="Train it again.",
            ) from None

    def _column(self, table: str, column: str) -> pa.ChunkedArray:
        import pyarrow.parquet as pq

        try:
            return pq.read_table(self.folder / f"{table}.parquet", columns=[column])[column]
        except (OSError, pa.ArrowException, KeyError) as error:
            raise ArtifactError(
                f"The audience model is damaged: {table}.parquet cannot be read ({type(error).__name__}).",
                remedy="Train it again.",
            ) from None

    def _map(self, name: str) -> Any:
        try:
            return np.load(self.folder / f"{name}.npy", mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError) as error:
            raise ArtifactError(
                f"The audience model is damaged: {name}.npy cannot be read ({type(error).__name__}).",
                remedy="Train it again.",
            ) from None


def blocks_of(hashes: npt.NDArray[np.int64]) -> list[Block]:
    """Group buckets of ascending hashes into blocks of about 4,096 users; a function of the users alone."""
    n_users = len(hashes)
    n_blocks = 1
    while n_blocks < N_BUCKETS and n_users // (n_blocks * 2) >= _USERS_PER_BLOCK:
        n_blocks *= 2
    edges = np.arange(n_blocks + 1, dtype=np.int64) * ((1 << HASH_BITS) // n_blocks)
    cuts = np.searchsorted(hashes, edges).tolist()
    return [Block(first, last) for first, last in pairwise(cuts) if last > first]
