"""Apache Spark implementation of the engine protocol; only this module and spark_sessions import pyspark.

Lives here: running queries on a cluster, reading and writing files, running functions on executors, translating
errors.
Add here when Spark changes its Python API.
Keep out: queries; SQL differences (dialect).

The executors read and write the same files under the same paths as this process. Larger data is passed through
files in a shared scratch folder: registered and stored tables, and streamed results.
"""

import io
import itertools
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa

from cleanroom_pipelines.engine import spark_sessions
from cleanroom_pipelines.engine.base import EngineSettings, Parameters, SortedPart
from cleanroom_pipelines.engine.dialect import Statement, to_spark
from cleanroom_pipelines.engine.packing import packing_of, unpacked_blocks
from cleanroom_pipelines.engine.parquet_types import open_parquet
from cleanroom_pipelines.engine.partitions import values_of
from cleanroom_pipelines.engine.spark_files import ReadFile
from cleanroom_pipelines.engine.tables import TableFiles, check_types
from cleanroom_pipelines.errors import CleanroomError, ConfigurationError, EngineError, StorageFullError

T = TypeVar("T")

# Special characters of globs and URLs.
_SPECIAL_CHARACTERS = "*?[]{}\\:%"
_NO_LINES = pa.schema({"line": pa.int64(), "reason": pa.string(), "runs_on": pa.bool_()}).empty_table()
# Spark's type for unsigned 64-bit integers.
_UNSIGNED = pa.decimal128(20, 0)
# A few jobs for many tasks, so that progress can be reported between them.
_JOBS = 8
_TASKS_PER_JOB = 64
_RESULT = "task bigint, result binary, failure binary"
_DISK_FULL = ("No space left on device", "File too large")
_BATCH_ROWS = 100_000
# Spark's conditions for parquet that it cannot read, even if the column is not selected: types such as UUID, and
# repeated names.
_NOT_FOR_SPARK = frozenset(
    [
        "COLUMN_ALREADY_EXISTS",
        "DECIMAL_PRECISION_EXCEEDS_MAX_PRECISION",
        "PARQUET_TYPE_ILLEGAL",
        "PARQUET_TYPE_NOT_SUPPORTED",
        "UNSUPPORTED_TIME_TYPE",
    ]
)


class SparkEngine:
    """A session on a Spark cluster.

    One accepted difference from DuckDB: a floating-point sum depends on the order of its rows.

    Args:
        settings: Scratch (visible to the executors), memory and threads of this process.
        url: URL of the cluster.

    Raises:
        ConfigurationError: The cluster cannot be used (see `spark_sessions`).
    """

    is_cluster = True

    def __init__(self, settings: EngineSettings, url: str) -> None:
        self._url = url
        _check_scratch(settings.scratch)
        self._spark = spark_sessions.open_session(url, settings)
        self._scratch = Path(tempfile.mkdtemp(prefix="spark-", dir=settings.scratch)).resolve()
        self._numbers = itertools.count(1)
        self._unpacked_bytes = settings.unpacked_bytes
        # Lines skipped by each text scan, the scans that each view reads, and skipped lines not reported yet.
        self._skipped: dict[str, pa.Table] = {}
        self._reads: dict[str, frozenset[str]] = {}
        self._unreported: list[pa.Table] = []
        if not spark_sessions.is_checked(url):
            try:
                spark_sessions.check_executors(url, self._ask_executor, self._interrupt)
            except BaseException:
                self.close()
                raise

    def execute(self, sql: str, parameters: Parameters = ()) -> None:
        """Create a view, create a table that is stored until the engine is closed, or drop either."""
        statement = to_spark(sql)
        if statement.drops:
            self.unregister(statement.drops)
            return
        if statement.name is None:
            raise EngineError("This kind of statement is not supported on Spark.")
        reads = self._scans_of(statement)
        if statement.is_table:
            folder = self._new_folder()
            frame = self._query(sql, parameters)
            self._call(lambda: frame.write.parquet(_address(folder)))
            frame = self._call(lambda: self._spark.read.schema(frame.schema).parquet(_address(folder)))
            reads = frozenset()
        else:
            frame = self._frame(statement, parameters)
        self._name(frame, statement.name, reads)

    def fetch(self, sql: str, parameters: Parameters = ()) -> pa.Table:
        """Run a query and return its whole result."""
        frame = self._query(sql, parameters)
        return _with_unsigned(self._call(frame.toArrow))

    def batches(self, sql: str, parameters: Parameters = (), rows: int = 1_000_000) -> Iterator[pa.RecordBatch]:
        """Stream a query's result in order, through files, because pyspark itself can only stream single rows."""
        folder = self._new_folder()
        frame = self._query(sql, parameters)
        self._call(lambda: frame.write.parquet(_address(folder)))
        try:
            for path in _parts_of(folder):
                with open_parquet(path) as file:
                    for batch in file.iter_batches(batch_size=rows):
                        yield from _with_unsigned(pa.Table.from_batches([batch])).to_batches()
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def register(self, name: str, table: pa.Table) -> None:
        """Make an Arrow table queryable for this session."""
        import pyarrow.parquet as pq

        folder = self._new_folder()
        folder.mkdir()
        # Spark's timestamps have a resolution of one microsecond.
        times = {"coerce_timestamps": "us", "allow_truncated_timestamps": True}
        self._call(lambda: pq.write_table(table, folder / "part-00000.parquet", compression="zstd", **times))
        self._name(self._call(lambda: self._spark.read.parquet(_address(folder))), name, frozenset())

    def unregister(self, name: str) -> None:
        """Remove a registered table; its files are deleted when the engine is closed."""
        self._call(lambda: self._spark.catalog.dropTempView(name))
        self._reads.pop(name.lower(), None)

    def scan(self, name: str, tables: TableFiles) -> None:
        """Make files queryable as a view; text is parsed immediately and stored as parquet."""
        check_types(tables)
        if tables.format == "parquet":
            try:
                self._name(self._read_parquet(tables), name, frozenset())
                return
            except EngineError as error:
                if error.attributes.get("cause") not in _NOT_FOR_SPARK:
                    raise
        folder = self._new_folder()
        folder.mkdir()
        lines = list(self.run_tasks(ReadFile(tables, folder), range(len(tables.files))))
        scan = folder.name
        self._skipped[scan] = pa.concat_tables(lines)
        cells = self._call(lambda: self._spark.read.parquet(_address(folder)))
        self._name(cells, name, frozenset([scan]))

    def rejected_lines(self) -> pa.Table:
        """Return the invalid lines that queries have skipped since the last call."""
        unreported, self._unreported = self._unreported, []
        return pa.concat_tables([_NO_LINES, *unreported])

    def write_parquet(self, sql: str, path: Path, parameters: Parameters = (), *, repeats: bool = True) -> None:
        """Write a query's result to one file, merged from the executors' files."""
        import pyarrow.parquet as pq

        folder = self._new_folder()
        frame = self._query(sql, parameters)
        self._call(lambda: frame.write.parquet(_address(folder)))
        parts = _parts_of(folder)
        if len(parts) == 1:
            shutil.move(parts[0], path)
        else:
            schema = pq.read_schema(parts[0]) if parts else self._call(lambda: frame.limit(0).toArrow()).schema
            with pq.ParquetWriter(path, schema.remove_metadata(), compression="zstd") as writer:
                for part in parts:
                    with open_parquet(part) as file:
                        for batch in file.iter_batches(batch_size=_BATCH_ROWS):
                            writer.write_batch(batch.replace_schema_metadata(None))
        shutil.rmtree(folder, ignore_errors=True)

    def write_sorted(
        self, sql: str, order: Sequence[tuple[str, bool]], folder: Path, parameters: Parameters = ()
    ) -> tuple[SortedPart, ...]:
        """Write a query's sorted result: one sorted file for each range of values of the first column."""
        import pyarrow.parquet as pq

        def by(column: str, is_descending: bool) -> Any:
            # Not functions.col, which confuses classic and Connect sessions in a process with both.
            named = frame[quote_for_spark(column)]
            return named.desc_nulls_last() if is_descending else named.asc_nulls_last()

        frame = self._query(sql, parameters)
        keys = [by(*entry) for entry in order]
        target = self._new_folder()
        ranged = frame.repartitionByRange(keys[0]).sortWithinPartitions(*keys)
        self._call(lambda: ranged.write.parquet(_address(target)))
        parts = []
        for number, path in enumerate(_parts_of(target)):
            named = folder / f"part-{number:05d}.parquet"
            shutil.move(path, named)
            parts.append(SortedPart(named, pq.read_metadata(named).num_rows))
        shutil.rmtree(target, ignore_errors=True)
        return tuple(parts)

    def run_tasks(self, function: Callable[[T], pa.Table], tasks: Sequence[T]) -> Iterator[pa.Table]:
        """Run a function for each task, one task per partition."""
        size = max(_TASKS_PER_JOB, -(-len(tasks) // _JOBS))
        for start in range(0, len(tasks), size):
            some = list(tasks[start : start + size])
            runner = _TaskRunner(function, some)
            numbers = self._call(partial(self._spark.range, 0, len(some), 1, len(some)))
            frame = self._call(partial(numbers.mapInArrow, runner, _RESULT))
            yield from _results(self._call(frame.toArrow))

    def run_groups(
        self,
        sql: str,
        key: str,
        function: Callable[[int, pa.Table], pa.Table],
        parameters: Parameters = (),
        *,
        n_groups: int | None = None,
    ) -> Iterator[pa.Table]:
        """Run a function on each group of rows, by key or, with `n_groups`, by partition."""
        frame = self._query(sql, parameters)
        # Renamed, since pyspark does not quote column names here.
        plain = [f"c{number}" for number in range(len(frame.columns))]
        renamed, key_column = frame.toDF(*plain), plain[frame.columns.index(key)]
        if n_groups is not None:
            # Rows need no sorting by key here. Adaptive execution keeps an explicit number of partitions.
            partitions = self._call(lambda: renamed.repartition(n_groups, key_column))
            of_partition = _PartitionRunner(function, frame.columns)
            yield from _results(self._call(lambda: partitions.mapInArrow(of_partition, _RESULT).toArrow()))
            return
        groups = renamed.groupBy(key_column)
        runner = _GroupRunner(function, frame.columns)

        # pyspark chooses what to pass by the number of arguments, and accepts only functions.
        def run(key_values: tuple[Any, ...], rows: pa.Table) -> pa.Table:
            return runner(key_values, rows)

        yield from _results(self._call(lambda: groups.applyInArrow(run, _RESULT).toArrow()))

    def close(self) -> None:
        """End the session and remove its scratch files."""
        try:
            spark_sessions.close_session(self._spark, self._url)
        finally:
            shutil.rmtree(self._scratch, ignore_errors=True)

    def _query(self, sql: str, parameters: Parameters) -> Any:
        """Return the Spark DataFrame of a query; note the text files that it reads, for `rejected_lines`."""
        statement = to_spark(sql)
        self._unreported += [self._skipped[scan] for scan in sorted(self._scans_of(statement), key=int)]
        return self._frame(statement, parameters)

    def _frame(self, statement: Statement, parameters: Parameters) -> Any:
        values = {f"p{number}": value for number, value in enumerate(parameters, 1)}
        return self._call(lambda: self._spark.sql(statement.sql, args=values or None))

    def _name(self, frame: Any, name: str, reads: frozenset[str]) -> None:
        self._call(lambda: frame.createOrReplaceTempView(name))
        self._reads[name.lower()] = reads

    def _scans_of(self, statement: Statement) -> frozenset[str]:
        """Return the scanned text files that a statement reads, directly or through views."""
        return frozenset().union(*(self._reads.get(relation, ()) for relation in statement.reads))

    def _read_parquet(self, tables: TableFiles) -> Any:
        types = tables.types_of(tables.files[0])
        columns = []
        for name in tables.columns:
            quoted = cell = quote_for_spark(name)
            if name in tables.partitions:
                cell = _partition_sql(values_of(tables.files, name))
            elif pa.types.is_timestamp(types[name]) and types[name].unit == "ns":
                # Spark reads nanosecond timestamps as integers, which are too large for exact floating-point math.
                cell = f"timestamp_micros({quoted} DIV 1000)"
            columns.append(f"{cell} AS {quoted}")
        paths = self._numbered_paths(tables.files) if tables.partitions else map(self._plain, tables.files)
        addresses = [_address(path) for path in paths]
        frame = self._call(lambda: self._spark.read.option("mergeSchema", "false").parquet(*addresses))
        return self._call(lambda: frame.selectExpr(*columns))

    def _plain(self, file: Path) -> str:
        """Return a path to the file or to its unpacked copy, without characters that Spark treats specially."""
        unpack = packing_of(file) != "none"
        if not unpack and not any(character in str(file) for character in _SPECIAL_CHARACTERS):
            return str(file)
        target = self._scratch / f"{next(self._numbers)}{'' if unpack else file.suffix}"
        self._put(file, target)
        return str(target)

    def _numbered_paths(self, files: Sequence[Path]) -> list[str]:
        """Link (or decompress) files as `0.parquet`, `1.parquet`, … and return these paths."""
        folder = self._new_folder()
        folder.mkdir()
        paths = [folder / f"{number}.parquet" for number in range(len(files))]
        for file, path in zip(files, paths, strict=True):
            self._put(file, path)
        return [str(path) for path in paths]

    def _put(self, file: Path, target: Path) -> None:
        if packing_of(file) == "none":
            target.symlink_to(file)
            return
        with target.open("wb") as sink:
            self._call(lambda: sink.writelines(unpacked_blocks(file, max_bytes=self._unpacked_bytes)))

    def _new_folder(self) -> Path:
        return self._scratch / f"{next(self._numbers)}"

    def _call(self, action: Callable[[], T]) -> T:
        from py4j.protocol import Py4JError
        from pyspark.errors import PySparkException

        try:
            return action()
        except CleanroomError:
            raise
        except (PySparkException, Py4JError, pa.ArrowException, OSError) as error:
            translated = _translated(error)
        # Outside the handler: inside, even `from None` would keep the original in __context__.
        raise translated

    def _ask_executor(self) -> tuple[str, str]:
        try:
            (table,) = self.run_tasks(_report_versions, [0])
        except EngineError:
            return "", ""
        row = table.to_pylist()[0]
        return row["package"], row["python"]

    def _interrupt(self) -> None:
        if self._url.startswith("sc://"):
            self._spark.interruptAll()
        else:
            self._spark.sparkContext.cancelAllJobs()


def quote_for_spark(name: str) -> str:
    """Quote a column name for Spark's Python API, where dots and backticks are special."""
    return "`" + name.replace("`", "``") + "`"


def _partition_sql(values: Sequence[str | None]) -> str:
    """Return SQL that looks up a file's partition value by the number in the file's name."""
    # Bytes in hexadecimal need no escapes.
    literals = ["CAST(NULL AS STRING)" if v is None else f"CAST(X'{v.encode().hex()}' AS STRING)" for v in values]
    if len(set(literals)) == 1:
        return literals[0]
    return f"array({', '.join(literals)})[CAST(split_part(_metadata.file_name, '.', 1) AS INT)]"


def _report_versions(_: int) -> pa.Table:
    package, python = spark_sessions.versions()
    return pa.table({"package": [package], "python": [python]})


@dataclass(frozen=True)
class _TaskRunner:
    """Runs tasks on an executor; results are returned as the bytes of an Arrow stream."""

    function: Callable[[Any], pa.Table]
    tasks: Sequence[Any]

    def __call__(self, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            for number in batch.column(0).to_pylist():
                yield _answer(number, partial(self.function, self.tasks[number])).to_batches()[0]


@dataclass(frozen=True)
class _GroupRunner:
    function: Callable[[int, pa.Table], pa.Table]
    names: Sequence[str]

    def __call__(self, key: tuple[Any, ...], rows: pa.Table) -> pa.Table:
        number = int(key[0].as_py() if isinstance(key[0], pa.Scalar) else key[0])
        return _answer(number, partial(self.function, number, rows.rename_columns(self.names)))


@dataclass(frozen=True)
class _PartitionRunner:
    function: Callable[[int, pa.Table], pa.Table]
    names: Sequence[str]

    def __call__(self, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        from pyspark import TaskContext

        context = TaskContext.get()
        assert context is not None
        number = context.partitionId()
        found = [batch for batch in batches if batch.num_rows]
        if found:
            rows = pa.Table.from_batches(found).rename_columns(self.names)
            yield _answer(number, partial(self.function, number, rows)).to_batches()[0]


def _answer(number: int, action: Callable[[], pa.Table]) -> pa.Table:
    """Run a task and return its result or error, without third-party error texts, which may quote data."""
    import pickle

    import scipy.linalg  # noqa: F401 - its BLAS must be loaded for threadpool_limits to apply
    from threadpoolctl import threadpool_limits

    result, failure = None, None
    try:
        # One thread: several would add up in another order, and executors already run one task per core.
        with threadpool_limits(limits=1, user_api="blas"):
            table = action()
        with io.BytesIO() as sink:
            with pa.ipc.new_stream(sink, table.schema) as writer:
                writer.write_table(table)
            result = sink.getvalue()
    except CleanroomError as error:
        failure = pickle.dumps(error)
    except Exception as error:
        failure = pickle.dumps(_unexpected(error))
    return pa.table(
        {
            "task": pa.array([number], pa.int64()),
            "result": pa.array([result], pa.binary()),
            "failure": pa.array([failure], pa.binary()),
        }
    )


def _unexpected(error: Exception) -> CleanroomError:
    if isinstance(error, OSError) and any(sign in str(error) for sign in _DISK_FULL):
        return StorageFullError("The disk is full.", remedy="Free some space and try again.")
    cause = type(error).__name__
    return EngineError(f"The engine could not run this step ({cause}).", cause=cause)


def _results(answers: pa.Table) -> Iterator[pa.Table]:
    """Yield the tables that the tasks returned, in order; raise the first failure."""
    import pickle

    for answer in answers.sort_by("task").to_pylist():
        if answer["failure"] is not None:
            raise pickle.loads(answer["failure"])  # noqa: S301 - what our own code wrote on an executor
        with pa.ipc.open_stream(answer["result"]) as reader:
            yield reader.read_all()


def _check_scratch(folder: Path | None) -> None:
    # A link with a plain name would exist only on this machine.
    if folder is not None and any(character in str(folder.absolute()) for character in _SPECIAL_CHARACTERS):
        raise ConfigurationError(
            f"Spark cannot use a home folder with any of {' '.join(_SPECIAL_CHARACTERS)} in its path.",
            remedy="Move the home folder to a path without these characters, and set CLEANROOM_HOME to it; "
            "the folder's content stays valid.",
        )


def _address(path: Path | str) -> str:
    # Without the scheme, a cluster would look in its default file system, such as HDFS.
    return f"file://{path}"


def _parts_of(folder: Path) -> list[Path]:
    """Return a result's parquet files in order, without the other files that Spark writes."""
    return sorted(folder.glob("part-*.parquet"))


def _with_unsigned(table: pa.Table) -> pa.Table:
    """Convert the decimals that Spark uses for unsigned numbers back to unsigned integers."""
    for number, field in enumerate(table.schema):
        if field.type == _UNSIGNED:
            try:
                table = table.set_column(number, field.name, table.column(number).cast(pa.uint64()))
            except pa.ArrowInvalid:
                # A genuine decimal of that width, with negative values.
                continue
    return table


def _translated(error: Exception) -> EngineError | StorageFullError:
    # The error's message is only used for classification and never passed on, since it quotes cells.
    if any(sign in str(error) for sign in _DISK_FULL):
        return StorageFullError("The disk is full.", remedy="Free some space and try again.")
    cause = type(error).__name__
    condition = getattr(error, "getCondition", lambda: None)()
    if condition:
        cause = str(condition)
    return EngineError(f"The engine could not run this step ({cause}).", cause=cause)
