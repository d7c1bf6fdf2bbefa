"""An audience model on disk: reading its files.

Lives here: file names, opening a model, the representation of chosen users, digests of the files.
Add here when a file is added (and raise FORMAT_VERSION).
Keep out: computing the files (training) and using them (scoring, ranking).

    model.json          training data, counts, features, users per shard; no timestamps, so that equal input gives
                        equal bytes
    users/, embeddings/ the users in shards (shards)
    items.parquet       item_id, n_users in vocabulary order; name if the table has a column of item names
    idf.npy, basis.npy, neighbours.npy, similarities.npy   see representation.ItemRepresentation
    private.npz         see private_representation
    digests.json        {"<file>": "<SHA-256 hex>", …} of the other files, sorted by name; checked byte for byte

Each running task holds one shard of users in memory, and computes on one block of it (a few thousand users) at a
time. A pickled model contains only the path of its folder.

A damaged file can often still be read, and then silently gives wrong results. For a model without an artifact
manifest, the caller checks the digests once before the work starts, not each time the model is opened.
"""

import hashlib
import json
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import scipy.sparse as sp

from cleanroom_pipelines.engine import STABLE_HASH_BITS
from cleanroom_pipelines.errors import ArtifactError
from cleanroom_pipelines.similarity.representation import ItemRepresentation, strengths, weighted_rows
from cleanroom_pipelines.similarity.shards import Shard
from cleanroom_pipelines.uploads.roles import Role

FORMAT_VERSION = 3
_SHARDS_IN_MEMORY = 4
_GATHERED_LISTS = ("items", "counts", "days")

Int64 = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Block:
    """A range of users of a shard, by position: first ≤ position < last."""

    first: int
    last: int


@dataclass(frozen=True)
class Rows:
    """Feature rows of chosen users, as the signals need them.

    Args:
        items: (n, M) idf rows of length 1.
        strong: (n, M) the same with pairs weighted by frequency and recency, length 1.
        lengths: (n,) the lengths before scaling.
        embedding_lengths: (n,) lengths of the users' embeddings.
        dense: (n, F) standardised features: behaviour first, then declared columns.
        counts: (n, c) interactions with the c most frequent items.
        n_behaviour: Number of behaviour features (activity and recency).
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
        ArtifactError: The folder is not a model, or the model has another format.
    """

    n_commonest = 100

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self._shards: OrderedDict[int, Shard] = OrderedDict()
        self._lock = threading.Lock()
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
                f"The audience model has format {version}, but this version reads format {FORMAT_VERSION}.",
                remedy="Train it again.",
            )

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return type(self), (str(self.folder),)

    @property
    def n_users(self) -> int:
        """Number of scored users N."""
        return int(self.description["n_users"])

    @property
    def n_items(self) -> int:
        """Vocabulary size M."""
        return int(self.description["n_items"])

    @property
    def user_id_column(self) -> str:
        """Name of the column of user ids in the training data."""
        return next(str(name) for name, role in self.description["schema"] if role == Role.USER_ID)

    @property
    def features(self) -> list[dict[str, Any]]:
        """Name, group, column and value of each dense feature, with the number of users that have it."""
        return list(self.description["features"])

    @cached_property
    def first_users(self) -> Int64:
        """The number of each shard's first user, then N, as a (shards + 1,) array."""
        return np.concatenate([[0], np.cumsum(self.description["users_per_shard"], dtype=np.int64)])

    @property
    def n_shards(self) -> int:
        """The number of shards, a power of two."""
        return len(self.first_users) - 1

    @cached_property
    def representation(self) -> ItemRepresentation:
        """The items' idf weights, embedding vectors and most similar items."""
        return ItemRepresentation(
            idf=self._load("idf"),
            basis=self._load("basis"),
            neighbours=self._load("neighbours"),
            similarities=self._load("similarities"),
        )

    def user_ids(self) -> pa.ChunkedArray:
        """Return all user ids in order of the users' numbers; reads all shards."""
        return pa.chunked_array([Shard(self.folder, number).user_ids for number in range(self.n_shards)])

    def hashes(self) -> Int64:
        """Return the stable hashes of all users, ascending; reads all shards."""
        return np.concatenate([Shard(self.folder, number).hashes for number in range(self.n_shards)])

    def item_ids(self) -> list[str]:
        """The item ids in vocabulary order."""
        ids: list[str] = self._item_column("item_id").to_pylist()
        return ids

    def shown_items(self, numbers: Sequence[int]) -> list[dict[str, str]]:
        """Return the id of each item and, if it has one, its name, to show them to people."""
        if not numbers:
            return []
        ids, names = self.item_ids(), [None] * self.n_items
        if any(role == Role.ITEM_NAME for _, role in self.description["schema"]):
            names = self._item_column("name").to_pylist()
        return [
            {"item_id": ids[number]} | ({} if (name := names[number]) is None else {"name": name})
            for number in numbers
        ]

    def item_users(self) -> Int64:
        """The number of users of each item, in vocabulary order."""
        return np.asarray(self._item_column("n_users"), dtype=np.int64)

    def shard(self, number: int) -> Shard:
        """Return a shard; the most recent ones are cached, because callers read a shard block by block."""
        with self._lock:
            shard = self._shards.pop(number, None) or Shard(self.folder, number)
            self._shards[number] = shard
            while len(self._shards) > _SHARDS_IN_MEMORY:
                self._shards.popitem(last=False)
        return shard

    @property
    def blocks_per_shard(self) -> int:
        """The number of blocks per shard; some may have no users."""
        return int(self.description["n_blocks"]) // self.n_shards

    def block(self, shard: Shard, number: int) -> Block:
        """Return the block with this number in a shard."""
        width = (1 << STABLE_HASH_BITS) // int(self.description["n_blocks"])
        first = (shard.number * self.blocks_per_shard + number) * width
        first_place, last_place = np.searchsorted(shard.hashes, [first, first + width]).tolist()
        return Block(first_place, last_place)

    def blocks(self, shard: Shard) -> list[Block]:
        """Return those blocks of a shard that contain users."""
        blocks = (self.block(shard, number) for number in range(self.blocks_per_shard))
        return [block for block in blocks if block.last > block.first]

    def rows(self, shard: Shard, block: Block) -> Rows:
        """Load the feature rows of the users in a block of a shard."""
        begin, end = shard.starts[block.first], shard.starts[block.last]
        return self._rows(
            shard.starts[block.first : block.last + 1] - begin,
            shard.items[begin:end],
            shard.counts[begin:end],
            shard.days[begin:end] if self._has_days else None,
            dense=shard.dense[block.first : block.last],
            embedding_lengths=shard.embedding_lengths[block.first : block.last],
        )

    def rows_of(self, shard: Shard, places: Int64) -> Rows:
        """Load the feature rows of chosen users of a shard, given their positions in ascending order."""
        return self.rows_from([self.gather(shard, places)])

    def gather(self, shard: Shard, places: Int64) -> pa.Table:
        """Load what `rows_from` needs for chosen users of a shard, given their positions in ascending order."""
        starts = shard.starts[places]
        sizes = shard.starts[places + 1] - starts
        ends = np.concatenate([[0], np.cumsum(sizes)])
        positions = np.arange(ends[-1]) + np.repeat(starts - ends[:-1], sizes)
        offsets = pa.array(ends, pa.int32())
        columns = {
            name: pa.ListArray.from_arrays(offsets, pa.array(getattr(shard, name)[positions]))
            for name in _GATHERED_LISTS
            if name != "days" or self._has_days
        }
        dense = shard.dense[places]
        columns["dense"] = pa.FixedSizeListArray.from_arrays(pa.array(dense.ravel()), dense.shape[1])
        columns["embedding_length"] = pa.array(shard.embedding_lengths[places])
        return pa.table(columns)

    def rows_from(self, gathered: Sequence[pa.Table]) -> Rows:
        """Build feature rows from tables that `gather` returned, in the order of the tables."""
        table = pa.concat_tables(gathered).combine_chunks()
        lists = {name: _only_chunk(table, name) for name in _GATHERED_LISTS if name in table.column_names}
        dense = _only_chunk(table, "dense")
        return self._rows(
            np.asarray(lists["items"].offsets.to_numpy(), dtype=np.int64),
            lists["items"].values.to_numpy(),
            lists["counts"].values.to_numpy(),
            lists["days"].values.to_numpy() if "days" in lists else None,
            dense=dense.values.to_numpy().reshape(len(dense), dense.type.list_size),
            embedding_lengths=_only_chunk(table, "embedding_length").to_numpy(),
        )

    def _rows(
        self,
        indptr: Int64,
        items: npt.NDArray[np.uint16],
        counts: npt.NDArray[np.uint8],
        days: npt.NDArray[np.uint16] | None,
        *,
        dense: npt.NDArray[np.float32],
        embedding_lengths: npt.NDArray[np.float32],
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
            embedding_lengths=embedding_lengths,
            dense=dense,
            counts=common,
            n_behaviour=self._n_behaviour,
        )

    @cached_property
    def _n_behaviour(self) -> int:
        return sum(feature["group"] in ("activity", "recency") for feature in self.features)

    @property
    def _has_days(self) -> bool:
        return self.description["first_time"] is not None

    @cached_property
    def _half_life_days(self) -> float:
        """The age in days that halves an interaction's weight: a quarter of the training data's time span."""
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

    def _item_column(self, column: str) -> pa.ChunkedArray:
        import pyarrow.parquet as pq

        try:
            return pq.read_table(self.folder / "items.parquet", columns=[column])[column]
        except (OSError, pa.ArrowException, KeyError) as error:
            raise ArtifactError(
                f"The audience model is damaged: items.parquet cannot be read ({type(error).__name__}).",
                remedy="Train it again.",
            ) from None


def _only_chunk(table: pa.Table, name: str) -> pa.Array:
    # After combine_chunks there is one chunk, or none without rows; list offsets are sure to start at 0 only in a
    # copy.
    chunks = table[name].chunks
    return pa.concat_arrays(chunks) if chunks else pa.array([], table.schema.field(name).type)


DIGESTS_FILE = "digests.json"
_MODEL_FILE = "model.json"  # every model has it
_THREADS = 4  # hashing releases the GIL


def write_digests(folder: Path) -> None:
    """Write the digests of all files in a model's folder.

    Args:
        folder: The model, complete except for its digests.
    """
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    (folder / DIGESTS_FILE).write_bytes(_written(dict(zip(names, _digests(folder, names), strict=True))))


def check_digests(folder: Path) -> bool:
    """Check a model against the digests of its files.

    Args:
        folder: The model.

    Returns:
        Whether the model has digests. Models trained before 2026-11-29 have none but stay usable, because the data
        for training them again may have been deleted.

    Raises:
        ArtifactError: A file was altered or is missing.
    """
    try:
        content = (folder / DIGESTS_FILE).read_bytes()
    except FileNotFoundError:
        return False
    except OSError:
        raise _damaged(DIGESTS_FILE) from None
    try:
        wanted = json.loads(content)
        is_whole = isinstance(wanted, dict) and _MODEL_FILE in wanted and _written(wanted) == content
    except (ValueError, RecursionError):
        is_whole = False
    if not is_whole:
        raise _damaged(DIGESTS_FILE)
    for name, found in zip(wanted, _digests(folder, [*wanted]), strict=True):
        if found != wanted[name]:
            raise _damaged(name)
    return True


def _digests(folder: Path, names: list[str]) -> list[str]:
    with ThreadPoolExecutor(_THREADS) as pool:
        return list(pool.map(lambda name: _digest(folder / name), names))


def _digest(path: Path) -> str:
    """SHA-256 hex of a file; empty if it cannot be read."""
    try:
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError:
        return ""


def _written(digests: object) -> bytes:
    return json.dumps(digests, indent=0).encode()


def _damaged(name: str) -> ArtifactError:
    return ArtifactError(
        f"The audience model is damaged: {name} was altered after training or is missing.",
        remedy="Train it again.",
    )
