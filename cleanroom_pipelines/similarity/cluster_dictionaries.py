"""Numbering users and items on a cluster, with one shuffle of the interactions.

Lives here: `make_dictionaries_on_cluster`, and the task that processes one group of users.
Add here when another number per user is computed from the interactions (its query is in reading).
Keep out: the vocabulary and the shards (cluster_training), training on one machine (training).

The engine groups the interactions by user into parcels of its choice. For each parcel the executor works like a
single machine: DuckDB builds the table `users` with the same query, and numpy sorts packed pairs. The results are
files on shared storage:

    users/00000.parquet   name, hash, n_events, first_ts, last_ts, the features' columns, n_items, pairs
    items/00000.parquet   number, n_users: how many of these users interacted with a candidate item

`pairs` is the bytes of a user's pairs with candidate items, 64 bits each, in order of the candidates' numbers.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from cleanroom_pipelines.engine import Engine, EngineSettings, find_tables, open_engine
from cleanroom_pipelines.similarity import reading
from cleanroom_pipelines.similarity.pairs import ShardPairs, distinct_pairs
from cleanroom_pipelines.similarity.specs import InteractionsSchema, TrainingSettings

Int64 = npt.NDArray[np.int64]

# About 2 million interactions without features: 70 MB of rows, and as much again while they are sorted. Users are
# not split, so a user with more interactions makes the parcel larger.
CELLS_PER_PARCEL = 3 << 21
_USERS, _ITEMS = "users", "items"
# A pair in one number: candidate item, count (8 bits), days (16).
_COUNT_UNIT, _ITEM_UNIT = 1 << reading.DAY_BITS, 1 << (reading.DAY_BITS + 8)


def make_dictionaries_on_cluster(
    engine: Engine,
    schema: InteractionsSchema,
    found: reading.Interactions,
    settings: TrainingSettings,
    scratch: Path,
) -> tuple[int, list[reading.Feature], list[str]]:
    """Create the tables `users`, `items` and `item_users`; `item_users` counts each item's users in each group.

    Args:
        engine: Engine with the view `events`, and `population` if one was given.
        schema: Roles of the interactions' columns.
        found: Statistics of the interactions.
        settings: Size of the vocabulary.
        scratch: Existing directory that the executors can access; the tables are files in it.

    Returns:
        The number of users, the features aggregated over a user's interactions, and their columns in `users`.
    """
    aggregates = reading.find_aggregates(engine, schema, found, settings)
    reading.make_items(engine, settings)
    for name in (_USERS, _ITEMS):
        (scratch / name).mkdir()
    rows = _rows_sql(len(schema.features), has_population=found.has_population)
    make = _WriteGroup(scratch, aggregates, found.last_time, found.has_population)
    n_rows = found.n_usable
    if found.has_population:
        n_rows += int(engine.fetch("SELECT count(*) AS n FROM population")["n"][0].as_py())
    n_parcels = max(1, -(-n_rows * (3 + len(schema.features)) // CELLS_PER_PARCEL))
    results = engine.run_groups(rows, "user_id", make, n_groups=n_parcels)
    n_users = sum(table["n_users"][0].as_py() for table in results)
    if n_users == 0:
        make(0, engine.fetch(f"SELECT * FROM ({rows}) LIMIT 0"))
    engine.scan("users", find_tables(scratch / _USERS))
    engine.scan("item_users", find_tables(scratch / _ITEMS))
    return n_users, aggregates.features, aggregates.columns


def unpack_pairs(column: pa.ChunkedArray) -> tuple[Int64, ShardPairs]:
    """Unpack the column `pairs`; return all pairs in one array, and the position of each user's first pair."""
    values = pa.concat_arrays([chunk.cast(pa.large_binary()) for chunk in column.chunks])
    offsets = np.frombuffer(values.buffers()[1], dtype=np.int64)[values.offset :][: len(values) + 1]
    data = values.buffers()[2]
    packed = np.frombuffer(data, dtype=np.int64)[offsets[0] // 8 : offsets[-1] // 8] if data else offsets[:0]
    starts = (offsets - offsets[0]) // 8
    pairs = ShardPairs(
        first_user=0,
        users=np.repeat(np.arange(len(values)), np.diff(starts)),
        items=packed // _ITEM_UNIT,
        counts=(packed // _COUNT_UNIT % (_ITEM_UNIT // _COUNT_UNIT)).astype(np.uint8),
        days=(packed % _COUNT_UNIT).astype(np.uint16),
    )
    return starts, pairs


def _rows_sql(n_features: int, *, has_population: bool) -> str:
    cells = [f"f{number}" for number in range(n_features)]
    features = "".join(f", e.{cell}" for cell in cells)
    if not has_population:
        return f"""-- one row per interaction
        SELECT e.user_id, i.number, e.ts{features} FROM events e LEFT JOIN items i ON e.item_id = i.item_id"""
    nothing = "".join(f", NULL AS {cell}" for cell in cells)
    return f"""-- one row per interaction, and one per user of the population
    SELECT CAST(e.user_id AS VARCHAR) AS user_id, i.number, e.ts, true AS is_event{features}
    FROM events e LEFT JOIN items i ON e.item_id = i.item_id
    UNION ALL
    SELECT name AS user_id, NULL AS number, NULL AS ts, false AS is_event{nothing} FROM population"""


@dataclass(frozen=True)
class _WriteGroup:
    """Task that receives all interactions of one group of users, and writes the group's users and items."""

    folder: Path
    aggregates: reading.Aggregates
    last_time: int | None
    has_population: bool

    def __call__(self, parcel: int, rows: pa.Table) -> pa.Table:
        import pyarrow.parquet as pq

        with open_engine(EngineSettings(threads=1)) as engine:
            engine.register("parcel", rows)
            events = "SELECT *, ts AS first_ts, 1 AS n FROM parcel"
            if self.has_population:
                events += " WHERE is_event"
                all_names = "SELECT user_id AS name FROM parcel WHERE NOT is_event"
                engine.execute(f"CREATE TEMP VIEW population AS {all_names}")
            engine.execute(f"CREATE TEMP VIEW events AS {events}")
            reading.make_users(engine, self.aggregates, has_population=self.has_population)
            columns = ", ".join(["name", "hash", "n_events", "first_ts", "last_ts", *self.aggregates.columns])
            users = engine.fetch(f"SELECT {columns} FROM users ORDER BY rowid")
            packed = reading.packed_sql("u.rowid", "e.number", "e.ts", self.last_time)
            pairs = distinct_pairs(
                engine.fetch(
                    f"""-- one row per interaction with a candidate item
                    SELECT {packed} AS packed FROM events e JOIN users u ON e.user_id = u.user_id
                    WHERE e.number IS NOT NULL"""
                )["packed"].to_numpy()
            )
        n_items = np.bincount(pairs.users, minlength=users.num_rows)
        users = users.append_column("n_items", pa.array(n_items, pa.int64()))
        users = users.append_column("pairs", _packed_pairs(pairs, n_items))
        n_users = np.bincount(pairs.items)
        items = np.flatnonzero(n_users)
        name = f"{parcel:05d}.parquet"
        pq.write_table(users, self.folder / _USERS / name, compression="zstd", use_dictionary=False)
        pq.write_table(pa.table({"number": items, "n_users": n_users[items]}), self.folder / _ITEMS / name)
        return pa.table({"n_users": [users.num_rows]})


def _packed_pairs(pairs: ShardPairs, n_items: Int64) -> pa.Array:
    """Return each user's pairs of item and count, packed into bytes."""
    packed = pairs.items * _ITEM_UNIT + pairs.counts.astype(np.int64) * _COUNT_UNIT + pairs.days
    offsets = np.concatenate([[0], np.cumsum(n_items)]) * packed.itemsize
    return pa.LargeBinaryArray.from_buffers(
        pa.large_binary(), len(n_items), [None, pa.py_buffer(offsets), pa.py_buffer(packed)]
    )
