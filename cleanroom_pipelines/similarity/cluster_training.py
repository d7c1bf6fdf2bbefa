"""Number users and items, and write a model's shards, on a cluster, without collecting data of all users.

Lives here: `make_dictionaries_on_cluster`, and `write_shards_on_cluster`, which turns the parcels' tables into the
files that single-machine training writes.
Add here when a number per user is added to the shards.
Keep out: reading and checking tables (reading), the representation (representing), training on one machine
(training).

The training machine receives only one row per candidate item (at most 2^20) and a few numbers per dense feature,
parcel and shard. The shuffles are: counts of interactions by item, interactions by parcel of users, the rows of a
users table and the users by id, and users with their pairs by shard. Items, counts, days and the order of users
are the same as on one machine. Dense features differ in their last digits, because sums of floats depend on the
order and the typical size of heavy-tailed features is an approximate median (Spark: within 1/10,000 of the ranks).

The engine groups the interactions by user into parcels of its choice. For each parcel the executor works like a
single machine: DuckDB builds the table `users` with the same query, and numpy sorts packed pairs. The results are
files on shared storage:

    users/00000.parquet   name, hash, n_events, first_ts, last_ts, the features' columns, n_items, pairs
    items/00000.parquet   number, n_users: how many of these users interacted with a candidate item

`pairs` is the bytes of a user's pairs with candidate items, 64 bits each, in order of the candidates' numbers.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from cleanroom_pipelines.engine import STABLE_HASH_BITS, Engine, EngineSettings, find_tables, open_engine
from cleanroom_pipelines.similarity import features as dense_features
from cleanroom_pipelines.similarity import reading
from cleanroom_pipelines.similarity.pairs import ShardPairs, distinct_pairs
from cleanroom_pipelines.similarity.representing import write_items
from cleanroom_pipelines.similarity.shards import USERS_FOLDER, ShardArrays, Written, shard_bits, write_shard
from cleanroom_pipelines.similarity.specs import InteractionsSchema, TrainingSettings

Int64 = npt.NDArray[np.int64]


def write_shards_on_cluster(
    engine: Engine,
    found: reading.Interactions,
    settings: TrainingSettings,
    *,
    n_users: int,
    features: Sequence[reading.Feature],
    columns: Sequence[str],
    table: reading.UsersTable | None,
    out: Path,
) -> Written:
    """Write a model's users/, items.parquet and idf.npy: its users, its vocabulary and the items' weights.

    Args:
        engine: Engine with the tables of `make_dictionaries_on_cluster` and `reading.read_users_table`, and with
            access to `out`.
        found: Statistics of the interactions.
        settings: Size of the vocabulary and of the shards.
        n_users: Number of users.
        features: Features aggregated over a user's interactions.
        columns: Their columns in `users`.
        table: Features and statistics of the users table, if there is one.
        out: The model's folder.
    """
    chosen, n_pairs = _choose_items(engine, found, settings, n_users, out)
    has_time = found.last_time is not None
    described = [*dense_features.activity_features(has_time), *features, *(table.features if table else ())]
    raw = [*_activity_sql(found.last_time), *(f"CAST(u.{column} AS DOUBLE)" for column in columns)]
    if table is not None:
        raw += [f"CAST(t.{column} AS DOUBLE)" for column in table.columns]
    bits = shard_bits(n_users, settings.users_per_shard, len(described))
    _describe_users(engine, raw, bits, has_table=table is not None)
    scalings, has_zero = _scalings(engine, len(raw))
    absent = [
        float(scaling.apply(np.zeros(1))[0]) if feature.value is not None and zero else None
        for feature, scaling, zero in zip(described, scalings, has_zero, strict=True)
    ]
    (out / USERS_FOLDER).mkdir()
    write = _WriteShard(out, chosen, tuple(scalings), tuple(absent), has_time)
    users_per_shard = [0] * (1 << bits)
    carriers = np.zeros(len(described), dtype=np.int64)
    for result in engine.run_groups("SELECT * FROM described", "shard", write):
        row = result.to_pylist()[0]
        users_per_shard[row["shard"]] = row["n_users"]
        carriers += np.array(row["carriers"], dtype=np.int64)
    for number, n_in_shard in enumerate(users_per_shard):
        if n_in_shard == 0:
            write_shard(out, number, _empty_shard(len(described), has_time=has_time))
    entries = [
        asdict(feature) | {"absent": zero, "n_carriers": int(count) if feature.value is not None else None}
        for feature, zero, count in zip(described, absent, carriers, strict=True)
    ]
    return Written(users_per_shard, len(chosen), n_pairs, entries)


def _choose_items(
    engine: Engine, found: reading.Interactions, settings: TrainingSettings, n_users: int, out: Path
) -> tuple[Int64, int]:
    """Choose the vocabulary and write its files; return its items' numbers in `items`, and the number of pairs."""
    counted = engine.fetch(
        """-- one row per candidate item
        SELECT number, CAST(sum(n_users) AS BIGINT) AS n_users FROM item_users GROUP BY number"""
    )
    n_users_of = np.zeros(int(engine.fetch("SELECT count(*) AS n FROM items")["n"][0].as_py()), dtype=np.int64)
    n_users_of[counted["number"].to_numpy()] = counted["n_users"].to_numpy()
    chosen = np.argsort(-n_users_of, kind="stable")[: settings.max_items]
    chosen = chosen[n_users_of[chosen] >= settings.min_users_per_item]
    item_ids = engine.fetch("SELECT name FROM items ORDER BY number")["name"].take(pa.array(chosen))
    names = reading.item_names(engine, item_ids) if found.has_item_names else None
    write_items(out, item_ids, n_users_of[chosen], n_users, names=names)
    return chosen, int(n_users_of[chosen].sum())


def _activity_sql(newest: int | None) -> list[str]:
    """Return SQL for the unscaled columns of `features.activity_columns`, for a user with the alias `u`."""
    columns = ["ln(1.0 + u.n_events)", "ln(1.0 + u.n_items)"]
    if newest is not None:
        columns.append(f"ln(1.0 + ({int(newest)} - u.last_ts) / 86400.0)")
        columns.append("ln(1.0 + (u.last_ts - u.first_ts) / 86400.0)")
    return columns


def _describe_users(engine: Engine, raw: Sequence[str], bits: int, *, has_table: bool) -> None:
    dense = "".join(f", CAST({expression} AS DOUBLE) AS d{number}" for number, expression in enumerate(raw))
    of_table = "LEFT JOIN user_features t ON u.name = t.number" if has_table else ""
    # Without a join, reading users again is cheaper than writing them to a table.
    engine.execute(
        f"""-- one row per user
        CREATE OR REPLACE TEMP {"TABLE" if has_table else "VIEW"} described AS
        SELECT CAST(u.hash >> {STABLE_HASH_BITS - bits} AS BIGINT) AS shard, u.hash, u.name, u.pairs{dense}
        FROM users u {of_table}"""
    )


def _scalings(engine: Engine, n_columns: int) -> tuple[list[dense_features.Scaling], list[bool]]:
    """Return the scaling of each dense column, and whether the column contains 0."""
    # NaN means missing, and would make every sum NaN.
    known = [f"CASE WHEN isfinite(d{number}) THEN d{number} END" for number in range(n_columns)]
    sums = ", ".join(
        f"count({value}) AS n{number}, min({value}) AS smallest{number}, max({value}) AS largest{number}, "
        f"avg({value}) AS mean{number}, stddev_pop({value}) AS deviation{number}, "
        f"count(*) FILTER (d{number} = 0) AS n_zero{number}"
        for number, value in enumerate(known)
    )
    row = engine.fetch(f"SELECT {sums} FROM described").to_pylist()[0]
    scalings: dict[int, dense_features.Scaling] = {}
    heavy = []
    for number in range(n_columns):
        smallest, largest = row[f"smallest{number}"], row[f"largest{number}"]
        if row[f"n{number}"] == 0 or smallest == largest:
            scalings[number] = dense_features.Scaling(0.0, 0.0)
            continue
        mean, deviation = row[f"mean{number}"], row[f"deviation{number}"]
        scalings[number] = dense_features.Scaling(mean, deviation)
        if dense_features.is_heavy_tailed(smallest, largest, mean, deviation):
            heavy.append(number)
    if heavy:
        scalings |= _heavy_scalings(engine, known, heavy)
    return [scalings[number] for number in range(n_columns)], [row[f"n_zero{n}"] > 0 for n in range(n_columns)]


def _heavy_scalings(
    engine: Engine, known: Sequence[str], heavy: Sequence[int]
) -> dict[int, dense_features.Scaling]:
    medians = ", ".join(f"approx_quantile(abs(nullif({known[n]}, 0)), 0.5) AS size{n}" for n in heavy)
    sizes = engine.fetch(f"SELECT {medians} FROM described").to_pylist()[0]
    compressed = {n: f"asinh({known[n]} / {float(sizes[f'size{n}'])!r})" for n in heavy}
    sums = ", ".join(
        f"avg({value}) AS mean{n}, stddev_pop({value}) AS deviation{n}" for n, value in compressed.items()
    )
    row = engine.fetch(f"SELECT {sums} FROM described").to_pylist()[0]
    return {
        n: dense_features.Scaling(row[f"mean{n}"], row[f"deviation{n}"], float(sizes[f"size{n}"])) for n in heavy
    }


def _empty_shard(n_features: int, *, has_time: bool) -> ShardArrays:
    return ShardArrays(
        user_ids=pa.array([], pa.string()),
        hashes=np.zeros(0, dtype=np.int64),
        starts=np.zeros(1, dtype=np.int64),
        items=np.zeros(0, dtype=np.uint16),
        counts=np.zeros(0, dtype=np.uint8),
        days=np.zeros(0, dtype=np.uint16) if has_time else None,
        dense=np.zeros((0, n_features), dtype=np.float32),
    )


@dataclass(frozen=True)
class _WriteShard:
    """Task that writes one shard on an executor, from the shard's users."""

    out: Path
    chosen: Int64
    scalings: tuple[dense_features.Scaling, ...]
    absent: tuple[float | None, ...]
    has_time: bool

    def __call__(self, shard: int, rows: pa.Table) -> pa.Table:
        users = rows.sort_by([("hash", "ascending"), ("name", "ascending")]).combine_chunks()
        starts, pairs = _in_vocabulary(*unpack_pairs(users["pairs"]), self.chosen)
        dense = np.column_stack(
            [
                scaling.apply(users[f"d{number}"].to_numpy(zero_copy_only=False).astype(np.float64))
                for number, scaling in enumerate(self.scalings)
            ]
        )
        arrays = ShardArrays(
            user_ids=pa.concat_arrays(users["name"].cast(pa.string()).chunks),
            hashes=np.asarray(users["hash"], dtype=np.int64),
            starts=starts,
            items=pairs.items.astype(np.uint16),
            counts=pairs.counts,
            days=pairs.days if self.has_time else None,
            dense=dense,
        )
        write_shard(self.out, shard, arrays)
        carriers = [
            int(dense_features.carries(dense[:, number], absent).sum())
            for number, absent in enumerate(self.absent)
        ]
        return pa.table(
            {"shard": [shard], "n_users": [users.num_rows], "carriers": pa.array([carriers], pa.list_(pa.int64()))}
        )


def _in_vocabulary(starts: Int64, pairs: ShardPairs, chosen: Int64) -> tuple[Int64, ShardPairs]:
    """Keep the pairs whose item is in the vocabulary, renumber the items, and find each user's first pair."""
    item_of = np.full(max(chosen.max(initial=-1), pairs.items.max(initial=-1)) + 1, -1)
    item_of[chosen] = np.arange(len(chosen))
    items = item_of[pairs.items]
    kept = items >= 0
    before = np.concatenate([[0], np.cumsum(kept)])
    return before[starts], ShardPairs(0, pairs.users[kept], items[kept], pairs.counts[kept], pairs.days[kept])


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
