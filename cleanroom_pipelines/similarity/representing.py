"""Learn a model's item representation from the shards of users, on any engine.

Lives here: sampling the users to learn from, the length of every user's embedding, the files of the items.
Add here when the representation gets another file.
Keep out: the mathematics (representation), and writing the users (training, cluster_training).

The sample has at most `TrainingSettings.max_representation_users` users (default 100,000, at most 1,000,000),
chosen by the low bits of stable_hash, whose high bits define the order of users. Only the sample is sent to the
training machine: with 20 items per user it takes 40 bytes per user.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from cleanroom_pipelines.engine import Engine
from cleanroom_pipelines.similarity.model import Model
from cleanroom_pipelines.similarity.representation import (
    inverse_document_frequency,
    represent_items,
    weighted_rows,
)
from cleanroom_pipelines.similarity.shards import EMBEDDINGS_FOLDER, write_embedding_lengths
from cleanroom_pipelines.similarity.specs import TrainingSettings

Int64 = npt.NDArray[np.int64]

_SAMPLE_BITS = 40
# If the model has this many times the users of the sample, shards send only about twice the sample.
_MANY = 4


def write_items(
    out: Path,
    item_ids: pa.Array | pa.ChunkedArray,
    users_per_item: Int64,
    n_users: int,
    *,
    names: pa.Array | None = None,
) -> None:
    """Write the vocabulary and the items' weights.

    Args:
        out: The model's folder.
        item_ids: (M,) item ids in vocabulary order.
        users_per_item: (M,) users of each.
        n_users: Users of the model.
        names: (M,) names of the items; None if no column of names is declared.
    """
    import pyarrow.parquet as pq

    columns = {"item_id": item_ids, "n_users": users_per_item} | ({} if names is None else {"name": names})
    pq.write_table(pa.table(columns), out / "items.parquet")
    np.save(out / "idf.npy", inverse_document_frequency(n_users, users_per_item))


def learn_representation(
    engine: Engine, model: Model, settings: TrainingSettings, check: Callable[[], None]
) -> None:
    """Learn and write basis.npy, neighbours.npy, similarities.npy and the lengths of the users' embeddings.

    Args:
        engine: Engine that reads the shards.
        model: A model with users, items.parquet, idf.npy and model.json.
        settings: Size of the representation and of its sample.
        check: Called regularly; raises to cancel.
    """
    idf = np.load(model.folder / "idf.npy")
    hashes, indptr, items = _sample(engine, model, settings.max_representation_users, check)
    matrix, _ = weighted_rows(indptr, items, idf)
    learnt = represent_items(matrix, hashes, idf, settings.embedding_dimensions, settings.neighbours)
    for name in ("basis", "neighbours", "similarities"):
        np.save(model.folder / f"{name}.npy", getattr(learnt, name))
    (model.folder / EMBEDDINGS_FOLDER).mkdir()
    for _ in engine.run_tasks(_MeasureEmbeddings(model), range(model.n_shards)):
        check()


def _sample(
    engine: Engine, model: Model, n_users: int, check: Callable[[], None]
) -> tuple[Int64, Int64, npt.NDArray[np.uint16]]:
    """Return the hashes and items of a sample of at most `n_users` users, by user number."""
    below = 1 << _SAMPLE_BITS
    if model.n_users > _MANY * n_users:
        below = below // model.n_users * n_users * 2
    tables = []
    for table in engine.run_tasks(_SampleShard(model, below), range(model.n_shards)):
        tables.append(table)
        check()
    sample = pa.concat_tables(tables).combine_chunks()
    hashes = np.asarray(sample["hash"].to_numpy(), dtype=np.int64)
    order = np.sort(np.argsort(_low(hashes), kind="stable")[:n_users])
    chosen = sample.take(pa.array(order))
    lists = pa.concat_arrays(chosen["items"].chunks) if len(order) else pa.array([], pa.list_(pa.uint16()))
    indptr = lists.offsets.to_numpy() if len(order) else np.zeros(1)
    return hashes[order], np.asarray(indptr, dtype=np.int64), lists.values.to_numpy(zero_copy_only=False)


def _low(hashes: Int64) -> Int64:
    return hashes & ((1 << _SAMPLE_BITS) - 1)


@dataclass(frozen=True)
class _SampleShard:
    """Task that returns hashes and items of a sample of a shard's users: those whose low hash bits are small."""

    model: Model
    below: int

    def __call__(self, number: int) -> pa.Table:
        shard = self.model.shard(number)
        places = np.flatnonzero(_low(shard.hashes) < self.below)
        starts = shard.starts[places]
        sizes = shard.starts[places + 1] - starts
        offsets = np.concatenate([[0], np.cumsum(sizes)])
        positions = np.arange(offsets[-1]) + np.repeat(starts - offsets[:-1], sizes)
        lists = pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), pa.array(shard.items[positions]))
        return pa.table({"hash": shard.hashes[places], "items": lists})


@dataclass(frozen=True)
class _MeasureEmbeddings:
    """Task that writes, for each user of a shard, the length of the embedding."""

    model: Model

    def __call__(self, number: int) -> pa.Table:
        shard = self.model.shard(number)
        representation = self.model.representation
        lengths = np.zeros(len(shard.hashes), dtype=np.float32)
        for block in self.model.blocks(shard):
            begin, end = shard.starts[block.first], shard.starts[block.last]
            starts = shard.starts[block.first : block.last + 1] - begin
            rows, _ = weighted_rows(starts, shard.items[begin:end], representation.idf)
            lengths[block.first : block.last] = np.linalg.norm(rows @ representation.basis, axis=1)
        write_embedding_lengths(self.model.folder, number, lengths)
        return pa.table({"n_users": [len(lengths)]})
