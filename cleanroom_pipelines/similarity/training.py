"""Train an audience model: read an interactions table, and write model files that depend on no seed.

Lives here: `train`, the order of its steps, and writing the model's files.
Add here when training gets another step.
Keep out: the steps themselves (reading, pairs, representation, features).

Cost in CPU seconds on two cores (1 million users and 20 million interactions; 5 and 100 million): checking 0.9 and
5, the dictionaries 4.6 and 27, joining the interactions to them 5.4 and 36, sorting and the matrix 3.4 and 18, the
representation 5.9 and 11; in total 21 and 97, at 0.8 and 1.7 GiB. The join grows faster than the rows because five
million string ids no longer fit into the CPU caches. Grouping the pairs in SQL instead of sorting packed numbers,
and hashing each row instead of each user (9 CPU s for 20 million rows), were dropped as too slow.
"""

import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import numpy.typing as npt

from cleanroom_pipelines.engine import Engine, Runtime, TableFiles, open_configured_engine
from cleanroom_pipelines.engine.runtime import restart_peak, stage_peak_bytes
from cleanroom_pipelines.errors import TrainingDataError, UsageError
from cleanroom_pipelines.similarity import features as dense_features
from cleanroom_pipelines.similarity import reading
from cleanroom_pipelines.similarity.cache import open_cached
from cleanroom_pipelines.similarity.cluster_training import make_dictionaries_on_cluster, write_shards_on_cluster
from cleanroom_pipelines.similarity.model import FORMAT_VERSION, Model, write_digests
from cleanroom_pipelines.similarity.pairs import MAX_USERS, PairSpill, choose_vocabulary, shard_boundaries
from cleanroom_pipelines.similarity.private_representation import learn_private_representation
from cleanroom_pipelines.similarity.representing import learn_representation, write_items
from cleanroom_pipelines.similarity.shards import (
    USERS_FOLDER,
    ShardArrays,
    Written,
    block_bits,
    first_hashes,
    shard_bits,
    write_shard,
)
from cleanroom_pipelines.similarity.specs import (
    InteractionsSchema,
    SizeProfile,
    TrainingReport,
    TrainingSettings,
    TrainingTables,
    Window,
)
from cleanroom_pipelines.uploads.checks import INTERACTIONS, USERS, find_upload, reading_of

_COLUMNS_AT_ONCE = 16
_NAMES_AT_ONCE = 100_000


@dataclass
class Stages:
    """Measures the seconds and the peak memory of each stage of a long operation."""

    runtime: Runtime
    seconds: dict[str, float] = field(default_factory=dict)
    peak_bytes: dict[str, int] = field(default_factory=dict)

    @contextmanager
    def stage(self, share: float, name: str) -> Iterator[None]:
        """Measure a stage; at its start, report `share` as the progress of the whole operation."""
        self.runtime.report_progress(share, name)
        started, is_restarted = perf_counter(), restart_peak()
        yield
        self.seconds[name] = round(self.seconds.get(name, 0.0) + perf_counter() - started, 3)
        self.peak_bytes[name] = max(self.peak_bytes.get(name, 0), stage_peak_bytes(is_restarted=is_restarted))


@dataclass(frozen=True)
class _Job:
    """Inputs of one training: tables, window, settings and folders."""

    tables: TrainingTables
    interactions: TableFiles
    users: TableFiles | None
    population: TableFiles | None
    window: Window
    window_seconds: int | None
    settings: TrainingSettings
    day_cache: Path | None
    out: Path
    scratch: Path
    database: Engine
    stages: Stages


@dataclass(frozen=True)
class _Counted:
    """Results of training's first stages: interactions, number of users, features, and the users table, if any."""

    found: reading.Interactions
    n_users: int
    features: list[reading.Feature]
    columns: list[str]
    table: reading.UsersTable | None


def train(
    tables: TrainingTables,
    out: Path,
    *,
    window: Window = Window(),  # noqa: B008 frozen
    window_seconds: int | None = None,
    settings: TrainingSettings = TrainingSettings(),  # noqa: B008 frozen
    size_profile: SizeProfile = SizeProfile.DEFAULT,
    day_cache: Path | None = None,
    runtime: Runtime = Runtime(),  # noqa: B008 frozen
) -> TrainingReport:
    """Train an audience model from interactions and features of users; no seed is involved.

    Args:
        tables: The tables to read.
        out: Existing empty directory for the model's files; the caller publishes it atomically.
        window: Half-open window of event times, epoch seconds.
        window_seconds: Length of the window before the newest event (or before the window's end).
        settings: Size of the representation.
        size_profile: Minimum sizes of the population.
        day_cache: Existing directory that keeps counted interactions per source file between trainings; useful
            if the source has a file per day. Not used for tables with features or item names, with a population,
            or on a cluster.
        runtime: Engine, progress and cancellation.

    Returns:
        Counts, profile and timing.

    Raises:
        TrainingDataError: The tables are unusable.
        UsageError: `out` is not an empty directory.
        CancelledError: The run was cancelled.
    """
    if not out.is_dir() or any(out.iterdir()):
        raise UsageError("The model's directory must exist and be empty.", remedy="Give a new directory.")
    interactions, users, population = (
        find_upload(tables.interactions, INTERACTIONS),
        find_upload(tables.users, USERS) if tables.users is not None else None,
        find_upload(tables.population, USERS) if tables.population is not None else None,
    )
    engine = runtime.engine
    with tempfile.TemporaryDirectory(prefix="training-", dir=engine.scratch) as scratch_name:
        scratch = Path(scratch_name)
        paths = [
            *(file for table in (interactions, users, population) if table is not None for file in table.files),
            out,
            scratch,
        ]
        if day_cache is not None:
            paths.append(day_cache)
        with open_configured_engine(engine, paths=paths) as database, one_blas_thread():
            needs_rows = tables.schema.features or tables.schema.item_name_column or population is not None
            has_cache = not needs_rows and engine.url is None
            stages = Stages(runtime)
            job = _Job(
                tables=tables,
                interactions=interactions,
                users=users,
                population=population,
                window=window,
                window_seconds=window_seconds,
                settings=settings,
                day_cache=day_cache if has_cache else None,
                out=out,
                scratch=scratch,
                database=database,
                stages=stages,
            )
            counted = _count(job, size_profile)
            written = _write_users(job, counted)
            _describe(job, counted, written)
            with stages.stage(0.85, "learning the representation"):
                learn_representation(database, Model(out), settings, runtime.check)
                learn_private_representation(database, Model(out), runtime.check)
            write_digests(out)
    runtime.report_progress(1.0, "trained")
    return _report(job, counted, written)


def _count(job: _Job, size_profile: SizeProfile) -> _Counted:
    database, schema, settings = job.database, job.tables.schema, job.settings
    with job.stages.stage(0.0, "checking the interactions"), reading_of(INTERACTIONS):
        found = _open_interactions(job)
    with job.stages.stage(0.15, "counting users and items"), reading_of(INTERACTIONS):
        if database.is_cluster:
            n_users, features, columns = make_dictionaries_on_cluster(
                database, schema, found, settings, job.scratch
            )
        else:
            n_users, features, columns = reading.make_dictionaries(database, schema, found, settings)
        reading.check_population(database, size_profile, found.n_usable, has_population=found.has_population)
    table = None
    if job.users is not None:
        with job.stages.stage(0.3, "reading the users table"), reading_of(USERS):
            table = reading.read_users_table(
                database,
                job.users,
                job.tables.users_schema or reading.infer_users_schema(job.users, schema.user_column),
                settings,
                max_invalid_share=job.tables.max_invalid_share,
                scratch=job.scratch,
            )
    return _Counted(found, n_users, features, columns, table)


def _open_interactions(job: _Job) -> reading.Interactions:
    read = reading.open_interactions if job.day_cache is None else open_cached
    where = {"population": job.population} if job.day_cache is None else {"cache": job.day_cache}
    return read(
        job.database,
        job.interactions,
        job.tables.schema,
        window=job.window,
        window_seconds=job.window_seconds,
        max_invalid_share=job.tables.max_invalid_share,
        scratch=job.scratch,
        **where,
    )


def _write_users(job: _Job, counted: _Counted) -> Written:
    if not job.database.is_cluster:
        return _Writing(job, counted).write()
    with job.stages.stage(0.35, "writing users in shards"), reading_of(INTERACTIONS):
        return write_shards_on_cluster(
            job.database,
            counted.found,
            job.settings,
            n_users=counted.n_users,
            features=counted.features,
            columns=counted.columns,
            table=counted.table,
            out=job.out,
        )


def _describe(job: _Job, counted: _Counted, written: Written) -> None:
    """Write model.json, which describes the model."""
    found = counted.found
    description = {
        "format_version": FORMAT_VERSION,
        "n_users": counted.n_users,
        "n_items": written.n_items,
        "n_pairs": written.n_pairs,
        "n_interactions": found.n_usable,
        "n_rows": found.n_rows,
        "n_invalid_rows": found.n_invalid,
        "window": asdict(found.window),
        "first_time": found.first_time,
        "last_time": found.last_time,
        "schema": [[column, str(role)] for column, role in job.tables.schema.columns],
        "n_blocks": 1 << block_bits(counted.n_users),
        "users_per_shard": list(written.users_per_shard),
        "features": list(written.features),
        "profile": _profile(job.tables.schema, counted.table),
    }
    (job.out / "model.json").write_text(json.dumps(description, indent=1, ensure_ascii=False), "utf-8")


def _report(job: _Job, counted: _Counted, written: Written) -> TrainingReport:
    found, table = counted.found, counted.table
    return TrainingReport(
        n_rows=found.n_rows,
        n_invalid_rows=found.n_invalid,
        n_interactions=found.n_usable,
        n_users=counted.n_users,
        n_items=written.n_items,
        n_pairs=written.n_pairs,
        first_time=found.first_time,
        last_time=found.last_time,
        window=found.window,
        ignored_columns=found.ignored_columns + (table.ignored_columns if table else ()),
        profile=_profile(job.tables.schema, table),
        warnings=_warnings(found, written.n_items),
        timing_seconds=dict(job.stages.seconds),
        peak_bytes=dict(job.stages.peak_bytes),
    )


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """Limit BLAS to one thread; more threads would sum in another order, and ranks would depend on the machine."""
    # scipy has its own BLAS, which is limited only if it is already loaded.
    import scipy.linalg  # noqa: F401
    from threadpoolctl import threadpool_limits

    with threadpool_limits(limits=1, user_api="blas"):
        yield


class _Writing:
    """Writes the model's users on one machine; each method is one step, called in order.

    Arrays that span all users are memory-mapped files in the scratch folder.
    """

    def __init__(self, job: _Job, counted: _Counted) -> None:
        self._out = job.out
        self._scratch = job.scratch
        self._database = job.database
        self._settings = job.settings
        self._stages = job.stages
        self._is_counted = job.day_cache is not None
        self._counted = counted
        self._n_users = counted.n_users
        self._has_time = counted.found.last_time is not None

    def write(self) -> Written:
        self._check_numbers()
        with self._stages.stage(0.35, "collecting the items of each user"), reading_of(INTERACTIONS):
            self._spill_pairs()
        with self._stages.stage(0.6, "building the matrix"):
            self._sort_pairs()
        with self._stages.stage(0.75, "describing users"):
            return self._write_shards(self._describe_users())

    def _check_numbers(self) -> None:
        """Reject a table with too many users for the user numbers in packed pairs.

        Raises:
            TrainingDataError: There are too many users.
        """
        if self._n_users > MAX_USERS:
            raise TrainingDataError(
                f"The table has more than {MAX_USERS:,} users, the maximum for training on one machine.",
                remedy="Give fewer users, or ask the operator to train on a Spark cluster.",
                n_users=self._n_users,
            )

    def _spill_pairs(self) -> None:
        folder = self._scratch / "pairs"
        folder.mkdir()
        self._spill = PairSpill(folder, shard_boundaries(self._n_users, self._settings.users_per_shard))
        for batch in reading.stream_pairs(self._database, self._counted.found.last_time, counted=self._is_counted):
            packed = batch.column("packed").to_numpy(zero_copy_only=False)
            if self._is_counted:
                packed = np.repeat(packed, batch.column("n").to_numpy(zero_copy_only=False))
            self._spill.add(packed)
            self._stages.runtime.check()
        self._spill.finish()

    def _sort_pairs(self) -> None:
        import pyarrow as pa

        candidates = self._database.fetch("SELECT name FROM items ORDER BY rowid")["name"]
        chosen, users_per_item = choose_vocabulary(
            self._spill, len(candidates), self._settings.max_items, self._settings.min_users_per_item
        )
        self._n_items, n_pairs = len(chosen), int(users_per_item.sum())
        item_ids = candidates.take(pa.array(chosen))
        names = reading.item_names(self._database, item_ids) if self._counted.found.has_item_names else None
        write_items(self._out, item_ids, users_per_item, self._n_users, names=names)
        number = np.full(len(candidates), -1, dtype=np.int64)
        number[chosen] = np.arange(len(chosen))
        self._starts = np.zeros(self._n_users + 1, dtype=np.int64)
        self._distinct = np.zeros(self._n_users, dtype=np.int64)
        self._items = self._create("items", np.uint16, (n_pairs,))
        self._counts = self._create("counts", np.uint8, (n_pairs,))
        self._days = self._create("days", np.uint16, (n_pairs,)) if self._has_time else None
        position = 0
        for shard in self._spill.shards():
            self._stages.runtime.check()
            _count_into(self._distinct, shard.users, shard.first_user)
            numbers = number[shard.items]
            kept = numbers >= 0
            end = position + int(kept.sum())
            self._items[position:end] = numbers[kept]
            self._counts[position:end] = shard.counts[kept]
            if self._days is not None:
                self._days[position:end] = shard.days[kept]
            _count_into(self._starts[1:], shard.users[kept], shard.first_user)
            position = end
        np.cumsum(self._starts, out=self._starts)

    def _describe_users(self) -> list[dict[str, Any]]:
        described = dense_features.activity_features(self._has_time) + self._counted.features
        table = self._counted.table
        if table is not None:
            described += table.features
        self._dense = self._create("dense", np.float32, (self._n_users, len(described)))
        result = []
        for number, (feature, column) in enumerate(zip(described, self._raw_columns(), strict=True)):
            standardised = dense_features.standardised(column)
            self._dense[:, number] = standardised
            absent = n_carriers = None
            if feature.value is not None:
                absent = dense_features.standardised_zero(column, standardised)
                n_carriers = int(dense_features.carries(standardised, absent).sum())
            result.append(asdict(feature) | {"absent": absent, "n_carriers": n_carriers})
        return result

    def _write_shards(self, features: list[dict[str, Any]]) -> Written:
        """Split all arrays into shards and write them."""
        hashes = np.asarray(self._database.fetch("SELECT hash FROM users ORDER BY rowid")["hash"])
        bits = shard_bits(self._n_users, self._settings.users_per_shard, len(features))
        cuts = np.searchsorted(hashes, first_hashes(bits)).tolist()
        (self._out / USERS_FOLDER).mkdir()
        names = _Pieces(self._database.batches("SELECT name FROM users ORDER BY rowid", rows=_NAMES_AT_ONCE))
        for number, (first, last) in enumerate(pairwise(cuts)):
            self._stages.runtime.check()
            begin, end = self._starts[first], self._starts[last]
            shard = ShardArrays(
                user_ids=names.take(last - first),
                hashes=hashes[first:last],
                starts=self._starts[first : last + 1] - begin,
                items=self._items[begin:end],
                counts=self._counts[begin:end],
                days=self._days[begin:end] if self._days is not None else None,
                dense=self._dense[first:last],
            )
            write_shard(self._out, number, shard)
        names.close()
        return Written(np.diff(cuts).tolist(), self._n_items, len(self._items), features)

    def _raw_columns(self) -> Iterator[npt.NDArray[np.float64]]:
        """Yield the unstandardised feature columns, a few at a time; embeddings may have hundreds."""
        names = ["n_events", "first_ts", "last_ts"]
        counted = dense_features.scatter(
            reading.stream_user_counts(self._database, []), names, self._n_users, np.nan
        )
        yield from dense_features.activity_columns(
            counted["n_events"].astype(np.int64),
            self._distinct,
            counted["first_ts"],
            counted["last_ts"],
            self._counted.found.last_time,
        )
        del counted
        sources = [(self._counted.columns, reading.stream_user_counts)]
        if self._counted.table is not None:
            sources.append((self._counted.table.columns, reading.stream_user_features))
        for wanted, stream in sources:
            for start in range(0, len(wanted), _COLUMNS_AT_ONCE):
                group = wanted[start : start + _COLUMNS_AT_ONCE]
                scattered = dense_features.scatter(stream(self._database, group), group, self._n_users, np.nan)
                yield from (scattered[column] for column in group)

    def _create(self, name: str, dtype: type, shape: tuple[int, ...]) -> Any:
        return create_array(self._scratch / f"{name}.npy", dtype, shape)


class _Pieces:
    """Cuts a stream of one-column batches into arrays of the requested lengths."""

    def __init__(self, batches: Iterator[Any]) -> None:
        self._batches = batches
        self._left: list[Any] = []

    def take(self, n: int) -> Any:
        import pyarrow as pa

        taken: list[Any] = []
        while n > 0:
            array = self._left.pop() if self._left else next(self._batches).column(0)
            taken.append(array[:n])
            if len(array) > n:
                self._left.append(array[n:])
            n -= len(taken[-1])
        return pa.concat_arrays(taken) if taken else pa.array([], pa.string())

    def close(self) -> None:
        """Read the stream to its end, so that other queries can run."""
        for _ in self._batches:
            pass


def _count_into(counts: npt.NDArray[np.int64], users: npt.NDArray[np.int64], first: int) -> None:
    """Count the occurrences of each user in a shard, and add them to the users' counts."""
    found = np.bincount(users - first)
    counts[first : first + len(found)] += found


def _profile(schema: InteractionsSchema, table: reading.UsersTable | None) -> dict[str, Any]:
    # Without the types in the files: the same rows give the same model in every form.
    profile: dict[str, Any] = {"columns": [{"name": column, "role": str(role)} for column, role in schema.columns]}
    if table is not None:
        profile["users_table"] = {
            "n_rows": table.n_rows,
            "n_invalid_rows": table.n_invalid,
            "n_matched_users": table.n_matched,
        }
    return profile


def _warnings(found: reading.Interactions, n_items: int) -> tuple[str, ...]:
    warnings = []
    if found.ignored_columns:
        warnings.append("COLUMNS_IGNORED")
    if found.n_invalid:
        warnings.append("ROWS_DROPPED")
    if n_items < 10:
        warnings.append("FEW_ITEMS")
    return tuple(warnings)


__all__ = ["Model", "train"]


def create_array(path: Path, dtype: type, shape: tuple[int, ...]) -> Any:
    """Create a `.npy` file and map it for writing.

    The file's disk space is allocated at once if the system supports that (Linux). Otherwise, writing to a mapped
    page on a full disk ends the process with SIGBUS.

    Raises:
        OSError: The disk is full.
    """
    mapped = np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=shape)
    if hasattr(os, "posix_fallocate") and path.stat().st_size:
        descriptor = os.open(path, os.O_RDWR)
        try:
            os.posix_fallocate(descriptor, 0, path.stat().st_size)
        finally:
            os.close(descriptor)
    return mapped
