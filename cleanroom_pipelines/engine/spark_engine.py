"""Apache Spark behind the engine protocol.

Lives here: statements, scans, results, sorted parts, tasks and groups; translating errors.
Add here when Spark changes its Python calls.
Keep out: queries, what the two dialects say differently (dialect), opening of sessions (spark_sessions), and what
runs on the executors (spark_tasks).

Everything that an engine keeps lies in one folder of its scratch, which driver and executors see under the same
path, and which goes when the engine is closed.
"""

import errno
import os
import shutil
import tempfile
import uuid
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from cleanroom_pipelines.engine import spark_tasks
from cleanroom_pipelines.engine.base import EngineSettings, Parameters, SortedPart
from cleanroom_pipelines.engine.dialect import Statement, to_spark
from cleanroom_pipelines.engine.spark_sessions import open_session
from cleanroom_pipelines.engine.tables import TableFiles, open_binary
from cleanroom_pipelines.errors import EngineError, StorageFullError

T = TypeVar("T")

_DISK_FULL = (os.strerror(errno.ENOSPC), os.strerror(errno.EFBIG), os.strerror(errno.EDQUOT))
_REJECTED = pa.schema({"line": pa.int64(), "reason": pa.string(), "runs_on": pa.bool_()})
_PLAIN_CHARACTERS = frozenset("/._-+=@~ ")
# Rows in a row group of a file that is put together here; DuckDB's own number.
_ROWS_PER_GROUP = 122_880


class SparkEngine:
    """One session of Spark. It cannot be confined to paths as DuckDB is: only queries of ours run here.

    Args:
        settings: Scratch, which the executors must see too, and memory of the driver.
        url: Where Spark is: `local[n]`, `spark://…` or `sc://…`.

    Raises:
        ConfigurationError: No session could be had there.
    """

    is_cluster = True

    def __init__(self, settings: EngineSettings, url: str) -> None:
        self._handle = open_session(settings, url, _versions)
        self._session = self._handle.session
        self._n_files = 0
        # View to the text scans that it reads, and a scan to the lines it skipped.
        self._reads: dict[str, frozenset[str]] = {}
        self._skipped: dict[str, pa.Table] = {}
        self._pending: list[pa.Table] = []
        try:
            self._scratch = Path(tempfile.mkdtemp(prefix="engine-", dir=settings.scratch)).resolve()
        except BaseException:
            self._handle.close()
            raise

    def execute(self, sql: str, parameters: Parameters = ()) -> None:
        """Make or drop a view or a temporary table; a table's rows lie in scratch until the engine is closed."""
        statement = to_spark(sql)
        if statement.drops:
            self._call(lambda: self._session.catalog.dropTempView(statement.drops))
            self._reads.pop(statement.drops.lower(), None)
            return
        if statement.name is None:
            self.fetch(sql, parameters)
            return
        frame = self._frame(statement, parameters)
        if statement.is_table:
            frame = self._kept(frame)
            self._note_reads(statement)
            self._reads[statement.name.lower()] = frozenset()
        else:
            self._reads[statement.name.lower()] = self._scans_of(statement)
        self._name(frame, statement.name)

    def fetch(self, sql: str, parameters: Parameters = ()) -> pa.Table:
        """Run a query and return its whole result."""
        frame = self._query(sql, parameters)
        return _as_duckdb_types(self._call(frame.toArrow))

    def batches(self, sql: str, parameters: Parameters = (), rows: int = 1_000_000) -> Iterator[pa.RecordBatch]:
        """Stream a query's result in its order.

        It is written to scratch by the executors and read from there: Spark gives a whole result in Arrow at once,
        or row by row, and the one does not fit and the other takes a hundred times as long.
        """
        folder = self._new_path("stream")
        schema, files = self._write(self._query(sql, parameters), folder)
        try:
            for file in files:
                with pq.ParquetFile(file) as parquet:
                    for batch in parquet.iter_batches(rows):
                        yield _as_duckdb_types(pa.Table.from_batches([batch])).to_batches()[0]
            if not files:
                yield from _as_duckdb_types(schema.empty_table()).to_batches()
        except (pa.ArrowException, OSError) as error:
            translated: EngineError | StorageFullError | None = _translated(error)
        else:
            translated = None
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        if translated is not None:
            raise translated

    def register(self, name: str, table: pa.Table) -> None:
        """Make an Arrow table queryable for this session."""
        path = self._new_path("registered", ".parquet")
        self._call(lambda: pq.write_table(table, path, compression="zstd", coerce_timestamps="us"))
        self._reads[name.lower()] = frozenset()
        self._name(self._read_parquet([path]), name)

    def unregister(self, name: str) -> None:
        """Forget a registered table."""
        self._call(lambda: self._session.catalog.dropTempView(name))
        self._reads.pop(name.lower(), None)

    def scan(self, name: str, tables: TableFiles) -> None:
        """Make files queryable as a view.

        Text is taken apart by DuckDB on the executors, a file each, and kept as parquet in scratch: so the same
        lines are rows on both engines. All cells of a line are read, so that a line with a cell that is no UTF-8
        is never a row, where DuckDB makes it one for queries that do not read the cell.
        """
        reads: frozenset[str] = frozenset()
        if tables.format == "parquet":
            frame = self._read_parquet([self._plain(file) for file in tables.files])
            first = self._call(lambda: _schema_of(tables.files[0]))
            columns = [_column_sql(first.field(column)) for column in tables.columns]
        else:
            folder = self._new_path("text")
            folder.mkdir()
            read = spark_tasks.ReadText(tables, folder)
            skipped = pa.concat_tables(self.run_tasks(read, range(len(tables.files))))
            scan = f"{name.lower()} {uuid.uuid4().hex}"
            self._skipped[scan] = skipped
            reads = frozenset([scan])
            frame = self._read_parquet(sorted(folder.glob("*.parquet")))
            columns = [f"{_quoted(column)}" for column in tables.columns] or ["no_key"]
        self._reads[name.lower()] = reads
        self._name(self._call(lambda: frame.selectExpr(*columns)), name)

    def rejected_lines(self) -> pa.Table:
        """Tell which lines the queries since the last call skipped."""
        pending, self._pending = self._pending, []
        return pa.concat_tables([_REJECTED.empty_table(), *pending])

    def write_parquet(self, sql: str, path: Path, parameters: Parameters = ()) -> None:
        """Write a query's result, in its order, to one parquet file.

        The executors write parts, which are put together here: Spark's own way to one file lets one task do
        the whole query.
        """
        folder = self._new_path("parts")
        schema, files = self._write(self._query(sql, parameters), folder)
        try:
            self._call(lambda: _put_together(files, schema, path))
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def write_sorted(
        self, sql: str, order: Sequence[tuple[str, bool]], folder: Path, parameters: Parameters = ()
    ) -> tuple[SortedPart, ...]:
        """Write a query's result in order, a file for each range of the first column."""
        frame = self._query(sql, parameters)
        columns = [
            frame[_quoted(column)].desc_nulls_last() if falls else frame[_quoted(column)].asc_nulls_last()
            for column, falls in order
        ]
        # Without a number of ranges, so that Spark joins small ones; it cuts none, as that would part equal rows.
        sorted_ = self._call(lambda: frame.repartitionByRange(columns[0]).sortWithinPartitions(*columns))
        # Beside the parts, so that they can be renamed into place.
        written = folder / f".{uuid.uuid4().hex}"
        try:
            _, files = self._write(sorted_, written)
            parts = []
            for number, file in enumerate(files):
                path = folder / f"part-{number:05d}.parquet"
                file.rename(path)
                parts.append(SortedPart(path, pq.read_metadata(path).num_rows))
        finally:
            shutil.rmtree(written, ignore_errors=True)
        return tuple(parts)

    def run_tasks(self, function: Callable[[T], pa.Table], tasks: Sequence[T]) -> Iterator[pa.Table]:
        """Run a function for each task on the executors; the first table comes when all tasks are done."""
        tasks = list(tasks)
        if not tasks:
            return
        with _Folder(self._new_path("tasks")) as folder:
            spark_tasks.save_function(folder / "function", (function, tasks))
            run = partial(spark_tasks.run_numbered, str(folder / "function"))
            frame = self._session.range(0, len(tasks), 1, len(tasks)).mapInArrow(run, spark_tasks.RESULT_COLUMNS)
            yield from spark_tasks.tables_of(self._call(frame.toArrow))

    def run_groups(
        self, sql: str, key: str, function: Callable[[int, pa.Table], pa.Table], parameters: Parameters = ()
    ) -> Iterator[pa.Table]:
        """Run a function on each group of rows, on the executors; the first table comes when all are done."""
        rows = self._query(sql, parameters)
        with _Folder(self._new_path("groups")) as folder:
            spark_tasks.save_function(folder / "function", function)
            run = _group_function(str(folder / "function"))
            frame = rows.groupBy(_quoted(key)).applyInArrow(run, spark_tasks.RESULT_COLUMNS)
            yield from spark_tasks.tables_of(self._call(frame.toArrow))

    def close(self) -> None:
        """End the session and remove its scratch files."""
        try:
            for name in self._reads:
                self._session.catalog.dropTempView(name)
        except Exception:  # noqa: S110 the session is gone with its views, and the files must go all the same
            pass
        finally:
            self._handle.close()
            shutil.rmtree(self._scratch, ignore_errors=True)

    def _query(self, sql: str, parameters: Parameters) -> Any:
        statement = to_spark(sql)
        if statement.name is not None or statement.drops:
            raise EngineError("The statement is not a query.")
        self._note_reads(statement)
        return self._frame(statement, parameters)

    def _frame(self, statement: Statement, parameters: Parameters) -> Any:
        values = list(parameters)
        if len(values) != statement.n_parameters:
            raise EngineError("The statement takes another number of values.")
        named = {f"p{number}": value for number, value in enumerate(values, 1)}
        return self._call(lambda: self._session.sql(statement.sql, args=named))

    def _scans_of(self, statement: Statement) -> frozenset[str]:
        return frozenset(chain.from_iterable(self._reads.get(source, ()) for source in statement.reads))

    def _note_reads(self, statement: Statement) -> None:
        self._pending += [
            self._skipped[scan] for scan in sorted(self._scans_of(statement)) if self._skipped[scan].num_rows
        ]

    def _name(self, frame: Any, name: str) -> None:
        self._call(lambda: frame.createOrReplaceTempView(_quoted(name) if not name.isidentifier() else name))

    def _kept(self, frame: Any) -> Any:
        folder = self._new_path("table")
        self._call(lambda: frame.write.parquet(_uri(folder)))
        return self._read_parquet([folder])

    def _read_parquet(self, paths: Sequence[Path]) -> Any:
        return self._call(lambda: self._session.read.parquet(*(_uri(path) for path in paths)))

    def _write(self, frame: Any, folder: Path) -> tuple[pa.Schema, list[Path]]:
        """Write a frame as parts in its order; gives the schema, and those parts that have rows."""
        self._call(lambda: frame.write.parquet(_uri(folder)))
        # Spark numbers the parts in the order of the result.
        files = sorted(folder.glob("part-*.parquet"))
        schema = self._call(lambda: pq.read_schema(files[0])).remove_metadata()
        return schema, [file for file in files if pq.read_metadata(file).num_rows]

    def _new_path(self, what: str, suffix: str = "") -> Path:
        self._n_files += 1
        return self._scratch / f"{self._n_files}-{what}{suffix}"

    def _plain(self, file: Path) -> Path:
        """Give a path that Spark reads as it stands: it takes characters of a glob for one, and unpacks no gzip."""
        if file.suffix == ".gz":
            target = self._new_path("unpacked", ".parquet")
            self._call(lambda: _unpack(file, target))
            return target
        if all(character.isalnum() or character in _PLAIN_CHARACTERS for character in str(file)):
            return file
        target = self._new_path("linked", ".parquet")
        target.symlink_to(file)
        return target

    def _call(self, action: Callable[[], T]) -> T:
        try:
            return action()
        except Exception as error:  # pyspark, Py4J, gRPC and Arrow have trees of their own, and their texts quote cells
            translated = _translated(error)
        except BaseException:
            # Somebody stops this process: its queries must not go on without it.
            self._session.interruptAll()
            raise
        # Outside the handler: there even `from None` would leave the original in __context__.
        raise translated


class _Folder:
    """A folder for the length of a `with`."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> Path:
        self._path.mkdir()
        return self._path

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self._path, ignore_errors=True)


def _versions(session: Any) -> tuple[str, str]:
    """Which versions of our package and of Python one executor has."""

    # Inside, so that it is sent by value: the executor may have none of our modules.
    def look(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        import sys
        from importlib.metadata import PackageNotFoundError, version

        import pyarrow

        try:
            ours = version("cleanroom-pipelines")
        except PackageNotFoundError:
            ours = ""
        python = f"{sys.version_info.major}.{sys.version_info.minor}"
        for _ in batches:
            yield pyarrow.record_batch({"package": [ours], "python": [python]})

    try:
        found = session.range(0, 1, 1, 1).mapInArrow(look, "package STRING, python STRING").toArrow()
    except Exception as error:
        translated = _translated(error)
    else:
        return found["package"][0].as_py(), found["python"][0].as_py()
    raise translated


def _group_function(function_file: str) -> Callable[[tuple[pa.Scalar, ...], pa.Table], pa.Table]:
    # Spark looks at the number of arguments, which a partial hides, and at the hints, which must be these.
    def run(key: tuple[pa.Scalar, ...], rows: pa.Table) -> pa.Table:
        return spark_tasks.run_group(function_file, key, rows)

    return run


def _translated(error: Exception) -> EngineError | StorageFullError:
    # The text of the error is read here to tell what it was, and never passed on: it quotes cells.
    from pyspark.errors import PySparkException

    text = str(error)
    if any(sign in text for sign in _DISK_FULL):
        return StorageFullError("The disk is full.", remedy="Free some space and try again.")
    cause = type(error).__name__
    if isinstance(error, PySparkException):
        cause = error.getCondition() or cause
    if "java.lang.OutOfMemoryError" in text:
        return EngineError(
            "The engine ran out of memory.",
            remedy="Give Spark's driver or executors more memory.",
            cause="OutOfMemoryError",
        )
    return EngineError(f"The engine could not run this step ({cause}).", cause=cause)


def _quoted(name: str) -> str:
    return "`" + name.replace("`", "``") + "`"


def _uri(path: Path) -> str:
    # With its scheme: a cluster's own file system may be another.
    return f"file://{path}"


def _unpack(file: Path, target: Path) -> None:
    with open_binary(file) as source, target.open("wb") as sink:
        shutil.copyfileobj(source, sink)


def _schema_of(file: Path) -> pa.Schema:
    with open_binary(file) as stream:
        return pq.read_schema(stream)


def _column_sql(field: pa.Field) -> str:
    """A column of a parquet file as DuckDB gives it."""
    name = _quoted(field.name)
    if pa.types.is_timestamp(field.type) and field.type.unit == "ns":
        # Read as a number, see the session's settings.
        return f"timestamp_micros({name} DIV 1000) AS {name}"
    return name


def _as_duckdb_types(table: pa.Table) -> pa.Table:
    """What tells the engines' results apart though the values are the same."""
    for number, field in enumerate(table.schema):
        if field.type == pa.decimal128(20, 0):
            # Spark has no unsigned integers, and reads the largest as this.
            try:
                table = table.set_column(number, field.name, table.column(number).cast(pa.uint64()))
            except pa.ArrowInvalid:
                continue
    return table


def _put_together(files: Sequence[Path], schema: pa.Schema, path: Path) -> None:
    # Parts of one query may differ in which columns may be missing.
    plain = pa.schema([field.with_nullable(True) for field in schema])
    try:
        with pq.ParquetWriter(path, plain, compression="zstd") as writer:
            for file in files:
                with pq.ParquetFile(file) as parquet:
                    for batch in parquet.iter_batches(_ROWS_PER_GROUP):
                        writer.write_batch(batch.cast(plain))
    except BaseException:
        path.unlink(missing_ok=True)
        raise
