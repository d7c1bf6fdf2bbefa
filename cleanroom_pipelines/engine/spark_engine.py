"""Apache Spark behind the engine protocol; with spark_sessions the only module that imports pyspark.

Lives here: queries on a cluster, files in and out of it, functions on its executors, translating errors.
Add here when Spark changes its Python calls.
Keep out: queries; what the dialects say differently (dialect).

The executors read and write the same files under the same paths as this process. Whatever is larger than a result
goes through files of a scratch folder there: tables that are registered or kept, results that are streamed.
"""

import io
import itertools
import json
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa

from cleanroom_pipelines.engine import spark_sessions
from cleanroom_pipelines.engine.base import EngineSettings, Parameters, SortedPart
from cleanroom_pipelines.engine.dialect import to_spark
from cleanroom_pipelines.engine.tables import TableFiles, open_binary
from cleanroom_pipelines.errors import CleanroomError, EngineError, StorageFullError

T = TypeVar("T")

_GLOB_CHARACTERS = "*?[]{}\\"
_REJECTED = "_rejected"
# Few jobs for many tasks, so that the progress can be told between them.
_JOBS = 8
_TASKS_PER_JOB = 64
_RESULT = "task bigint, result binary, failure binary"
_DISK_FULL = ("No space left on device", "File too large")
_BATCH_ROWS = 100_000


class SparkEngine:
    """A session on a Spark cluster.

    What differs from DuckDB, and may: lines of text that are no UTF-8 are read with replacement characters instead
    of being skipped; a skipped line has no number; a floating sum depends on the order of its rows.

    Args:
        settings: Scratch (seen by the executors), memory and threads of this process.
        url: Where the cluster is.

    Raises:
        ConfigurationError: It cannot work: `spark_sessions` says when.
    """

    is_cluster = True

    def __init__(self, settings: EngineSettings, url: str) -> None:
        self._url = url
        self._spark = spark_sessions.open_session(url, settings)
        self._scratch = Path(tempfile.mkdtemp(prefix="spark-", dir=settings.scratch)).resolve()
        self._numbers = itertools.count(1)
        self._unchecked_scans: list[Any] = []
        if not spark_sessions.is_checked(url):
            try:
                spark_sessions.check_executors(url, self._ask_executor, self._interrupt)
            except BaseException:
                self.close()
                raise

    def execute(self, sql: str, parameters: Parameters = ()) -> None:
        """Make a view, or a table that is kept until the engine is closed."""
        statement = to_spark(sql)
        frame = self._frame(sql, parameters)
        if statement.name is None:
            raise EngineError("The statement is not one that Spark is asked to run.")
        if statement.is_table:
            folder = self._new_folder()
            self._call(lambda: frame.write.parquet(str(folder)))
            frame = self._call(lambda: self._spark.read.schema(frame.schema).parquet(str(folder)))
        self._call(lambda: frame.createOrReplaceTempView(statement.name))

    def fetch(self, sql: str, parameters: Parameters = ()) -> pa.Table:
        """Run a query and return its whole result."""
        return self._call(lambda: self._frame(sql, parameters).toArrow())

    def batches(self, sql: str, parameters: Parameters = (), rows: int = 1_000_000) -> Iterator[pa.RecordBatch]:
        """Stream a query's result in its order: pyspark streams rows only, so it goes through files."""
        import pyarrow.parquet as pq

        folder = self._new_folder()
        frame = self._frame(sql, parameters)
        self._call(lambda: frame.write.parquet(str(folder)))
        try:
            for path in _parts_of(folder):
                with pq.ParquetFile(path) as file:
                    yield from file.iter_batches(batch_size=rows)
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def register(self, name: str, table: pa.Table) -> None:
        """Make an Arrow table queryable for this session."""
        import pyarrow.parquet as pq

        folder = self._new_folder()
        folder.mkdir()
        pq.write_table(table, folder / "part-00000.parquet", compression="zstd")
        self._call(lambda: self._spark.read.parquet(str(folder)).createOrReplaceTempView(name))

    def unregister(self, name: str) -> None:
        """Forget a registered table; its files go when the engine is closed."""
        self._call(lambda: self._spark.catalog.dropTempView(name))

    def scan(self, name: str, tables: TableFiles) -> None:
        """Make files queryable as a view."""
        paths = [self._plain(file, tables) for file in tables.files]
        read = {"parquet": self._read_parquet, "csv": self._read_csv, "jsonl": self._read_jsonl}[tables.format]
        frame = self._call(lambda: read(paths, tables))
        self._call(lambda: frame.createOrReplaceTempView(name))

    def rejected_lines(self) -> pa.Table:
        """Tell how many lines the scans since the last call skip; their numbers are not known."""
        n_lines = 0
        for frame in self._unchecked_scans:
            n_lines += self._call(frame.where(self._is_rejected(frame)).count)
        self._unchecked_scans.clear()
        return pa.table(
            {
                "line": pa.nulls(n_lines, pa.int64()),
                "reason": pa.array(["MALFORMED"] * n_lines, pa.string()),
                "runs_on": pa.array([False] * n_lines, pa.bool_()),
            }
        )

    def write_parquet(self, sql: str, path: Path, parameters: Parameters = ()) -> None:
        """Write a query's result to one file: the executors write theirs, this process puts them together."""
        import pyarrow.parquet as pq

        folder = self._new_folder()
        frame = self._frame(sql, parameters)
        self._call(lambda: frame.write.parquet(str(folder)))
        parts = _parts_of(folder)
        if len(parts) == 1:
            shutil.move(parts[0], path)
        else:
            schema = pq.read_schema(parts[0]) if parts else self._call(lambda: frame.limit(0).toArrow()).schema
            with pq.ParquetWriter(path, schema.remove_metadata(), compression="zstd") as writer:
                for part in parts:
                    with pq.ParquetFile(part) as file:
                        for batch in file.iter_batches(batch_size=_BATCH_ROWS):
                            writer.write_batch(batch.replace_schema_metadata(None))
        shutil.rmtree(folder, ignore_errors=True)

    def write_sorted(
        self, sql: str, order: Sequence[tuple[str, bool]], folder: Path, parameters: Parameters = ()
    ) -> tuple[SortedPart, ...]:
        """Write a query's result in order: ranges of the first column to a file each, sorted within."""
        import pyarrow.parquet as pq
        from pyspark.sql import functions

        def by(column: str, is_descending: bool) -> Any:
            named = functions.col(quote_for_spark(column))
            return named.desc_nulls_last() if is_descending else named.asc_nulls_last()

        frame = self._frame(sql, parameters)
        keys = [by(*entry) for entry in order]
        target = self._new_folder()
        ranged = frame.repartitionByRange(keys[0]).sortWithinPartitions(*keys)
        self._call(lambda: ranged.write.parquet(str(target)))
        parts = []
        for number, path in enumerate(_parts_of(target)):
            named = folder / f"part-{number:05d}.parquet"
            shutil.move(path, named)
            parts.append(SortedPart(named, pq.read_metadata(named).num_rows))
        shutil.rmtree(target, ignore_errors=True)
        return tuple(parts)

    def run_tasks(self, function: Callable[[T], pa.Table], tasks: Sequence[T]) -> Iterator[pa.Table]:
        """Run a function for each task, one task a partition."""
        size = max(_TASKS_PER_JOB, -(-len(tasks) // _JOBS))
        for start in range(0, len(tasks), size):
            some = list(tasks[start : start + size])
            runner = _TaskRunner(function, some)
            frame = self._spark.range(0, len(some), 1, len(some))
            yield from _results(self._call(frame.mapInArrow(runner, _RESULT).toArrow))

    def run_groups(
        self, sql: str, key: str, function: Callable[[int, pa.Table], pa.Table], parameters: Parameters = ()
    ) -> Iterator[pa.Table]:
        """Run a function on each group of rows, a group a task."""
        frame = self._frame(sql, parameters).groupBy(quote_for_spark(key))
        runner = _GroupRunner(function)

        # pyspark tells by the number of arguments what it is to pass, and looks at functions only.
        def run(key_values: tuple[Any, ...], rows: pa.Table) -> pa.Table:
            return runner(key_values, rows)

        yield from _results(self._call(frame.applyInArrow(run, _RESULT).toArrow))

    def close(self) -> None:
        """End the session and remove its scratch files."""
        try:
            spark_sessions.close_session(self._spark, self._url)
        finally:
            shutil.rmtree(self._scratch, ignore_errors=True)

    def _frame(self, sql: str, parameters: Parameters) -> Any:
        statement = to_spark(sql)
        values = {f"p{number}": value for number, value in enumerate(parameters, 1)}
        return self._call(lambda: self._spark.sql(statement.sql, args=values or None))

    def _read_parquet(self, paths: list[str], tables: TableFiles) -> Any:
        import pyarrow.parquet as pq
        from pyspark.sql import functions

        schema = pq.read_schema(tables.files[0]) if tables.files[0].suffix != ".gz" else pq.read_schema(paths[0])
        frame = self._spark.read.option("mergeSchema", "false").parquet(*paths)
        columns = []
        for name in tables.columns:
            column = functions.col(quote_for_spark(name))
            type_ = schema.field(name).type
            if pa.types.is_timestamp(type_) and type_.unit == "ns":
                # Spark has no nanoseconds; it gives them as numbers.
                column = functions.timestamp_micros(functions.floor(column / 1000)).alias(name)
            columns.append(column)
        return frame.select(*columns)

    def _read_csv(self, paths: list[str], tables: TableFiles) -> Any:
        from pyspark.sql.types import StringType, StructField, StructType

        fields = [StructField(name, StringType()) for name in (*tables.columns, _REJECTED)]
        frame = (
            self._spark.read.schema(StructType(fields))
            .option("header", "true")
            .option("enforceSchema", "true")
            .option("sep", tables.delimiter)
            .option("quote", '"')
            .option("escape", '"')
            .option("multiLine", "true")
            .option("mode", "PERMISSIVE")
            .option("columnNameOfCorruptRecord", _REJECTED)
            .csv(paths)
        )
        self._unchecked_scans.append(frame)
        return frame.where(~self._is_rejected(frame)).drop(_REJECTED)

    @staticmethod
    def _is_rejected(frame: Any) -> Any:
        """Whether a line is none; looks at a cell too, for Spark refuses to read the rejected lines alone."""
        from pyspark.sql import functions

        cell = functions.length(functions.col(quote_for_spark(frame.columns[0])))
        return functions.col(_REJECTED).isNotNull() & (functions.coalesce(cell, functions.lit(0)) >= 0)

    def _read_jsonl(self, paths: list[str], tables: TableFiles) -> Any:
        from pyspark.sql.types import StringType, StructField, StructType

        lines = self._spark.read.text(paths).where("value RLIKE '\\\\S'")
        names = tables.columns or ("no_key",)
        schema = StructType([StructField(name, StringType()) for name in names])
        return lines.mapInArrow(_JsonLines(tuple(names)), schema)

    def _plain(self, file: Path, tables: TableFiles) -> str:
        """A path without characters of a glob, to a file that is not packed in a way Spark does not know."""
        unpack = tables.format == "parquet" and file.suffix == ".gz"
        if not unpack and not any(character in str(file) for character in _GLOB_CHARACTERS):
            return str(file)
        target = self._scratch / f"{next(self._numbers)}{'' if unpack else file.suffix}"
        if unpack:
            with open_binary(file) as source, target.open("wb") as sink:
                shutil.copyfileobj(source, sink)
        else:
            target.symlink_to(file)
        return str(target)

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
        # Outside the handler: there even `from None` would leave the original in __context__.
        raise translated

    def _ask_executor(self) -> tuple[str, str]:
        try:
            (table,) = self.run_tasks(_tell_versions, [0])
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
    """A column's name for Spark's Python calls, in which dots and backticks mean something."""
    return "`" + name.replace("`", "``") + "`"


def _tell_versions(_: int) -> pa.Table:
    package, python = spark_sessions.versions()
    return pa.table({"package": [package], "python": [python]})


@dataclass(frozen=True)
class _TaskRunner:
    """Runs on an executor: one task, whose result comes back as the bytes of an Arrow stream."""

    function: Callable[[Any], pa.Table]
    tasks: Sequence[Any]

    def __call__(self, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            for number in batch.column(0).to_pylist():
                yield _answer(number, partial(self.function, self.tasks[number])).to_batches()[0]


@dataclass(frozen=True)
class _GroupRunner:
    function: Callable[[int, pa.Table], pa.Table]

    def __call__(self, key: tuple[Any, ...], rows: pa.Table) -> pa.Table:
        number = int(key[0].as_py() if isinstance(key[0], pa.Scalar) else key[0])
        return _answer(number, partial(self.function, number, rows))


def _answer(number: int, action: Callable[[], pa.Table]) -> pa.Table:
    """What a task gave or raised. The text of an error that is not ours stays here: it may quote data."""
    import pickle

    import scipy.linalg  # noqa: F401 - its BLAS is limited only if it is loaded by now
    from threadpoolctl import threadpool_limits

    result, failure = None, None
    try:
        # One thread: more add up in another order, and executors have as many tasks as cores.
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
    """The tables of the tasks in order; the first failure is raised."""
    import pickle

    for answer in answers.sort_by("task").to_pylist():
        if answer["failure"] is not None:
            raise pickle.loads(answer["failure"])  # noqa: S301 - what our own code wrote on an executor
        with pa.ipc.open_stream(answer["result"]) as reader:
            yield reader.read_all()


@dataclass(frozen=True)
class _JsonLines:
    """Takes lines of JSON apart as DuckDB does: what is no object gives a row of nulls, as does a nested cell."""

    names: tuple[str, ...]

    def __call__(self, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            rows = [_cells_of(line) for line in batch.column(0).to_pylist()]
            columns = [pa.array([row.get(name) for row in rows], pa.string()) for name in self.names]
            yield pa.RecordBatch.from_arrays(columns, names=list(self.names))


def _cells_of(line: str) -> Mapping[str, str | None]:
    try:
        # Numbers keep the text they have.
        row = json.loads(line, parse_float=str, parse_int=str, parse_constant=_refuse_constant)
    except (ValueError, RecursionError):
        return {}
    if not isinstance(row, dict):
        return {}
    return {key: _cell(value) for key, value in row.items()}


def _cell(value: Any) -> str | None:
    if isinstance(value, bool):
        return "true" if value else "false"
    return value if isinstance(value, str) else None


def _refuse_constant(_: str) -> Any:
    raise ValueError("no JSON")


def _parts_of(folder: Path) -> list[Path]:
    """The files of a result in its order; Spark writes beside them what it needs itself."""
    return sorted(folder.glob("part-*.parquet"))


def _translated(error: Exception) -> EngineError | StorageFullError:
    # The text of the error is read here to tell what it was, and never passed on: it quotes cells.
    if any(sign in str(error) for sign in _DISK_FULL):
        return StorageFullError("The disk is full.", remedy="Free some space and try again.")
    cause = type(error).__name__
    condition = getattr(error, "getCondition", lambda: None)()
    if condition:
        cause = str(condition)
    return EngineError(f"The engine could not run this step ({cause}).", cause=cause)
