"""What runs on Spark's executors.

Lives here: running one of our functions on a task or a group of rows, and the way its table or its error takes
back; reading of text files.
Add here when executors have to do something further.
Keep out: pyspark, Dagster, and everything of the driver (spark_engine).

A function and its tasks lie in a file on the shared storage, and so do results that are not small: neither goes
through Spark's driver, which has limits on both ways (Connect's messages, a driver's largest result). What a
function raises never reaches Spark: its logs and its errors would carry the text, rows included.
"""

import errno
import pickle
import uuid
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import pyarrow as pa

from cleanroom_pipelines.engine.base import EngineSettings
from cleanroom_pipelines.engine.tables import TableFiles
from cleanroom_pipelines.errors import CleanroomError, EngineError, StorageFullError

RESULT_COLUMNS = "number BIGINT, kind STRING, payload BINARY"
"""Spark's schema of a result."""
_SCHEMA = pa.schema({"number": pa.int64(), "kind": pa.string(), "payload": pa.binary()})
_SMALL_BYTES = 64 * 1024
_TEXT_MEMORY_BYTES = 1 << 30


def run_numbered(function_file: str, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """For mapInArrow: run the tasks whose numbers stand in the first column."""
    for batch in batches:
        for number in batch.column(0).to_pylist():
            yield _result(number, Path(function_file), _run_task)


def run_group(function_file: str, key: tuple[pa.Scalar, ...], rows: pa.Table) -> pa.Table:
    """For applyInArrow: run the function on the rows of one key."""
    number = key[0].as_py()
    return pa.Table.from_batches([_result(number, Path(function_file), lambda loaded, at: loaded(at, rows))])


def save_function(file: Path, content: Any) -> None:
    """Lay a function, or a function and its tasks, where the executors find them."""
    from pyspark import cloudpickle

    file.write_bytes(cloudpickle.dumps(content))


def tables_of(results: pa.Table) -> Iterator[pa.Table]:
    """The tables of results, by number.

    Raises:
        CleanroomError: The first error among them.
    """
    ordered = results.sort_by("number")
    kinds = ordered["kind"].to_pylist()
    for position in (at for at, kind in enumerate(kinds) if kind == "error"):
        # Written by our own code on our executors.
        raise pickle.loads(ordered["payload"][position].as_py())  # noqa: S301
    for position, kind in enumerate(kinds):
        payload = ordered["payload"][position].as_py()
        if kind == "table":
            yield pa.ipc.open_stream(payload).read_all()
            continue
        file = Path(payload.decode())
        with pa.OSFile(str(file)) as source:
            table = pa.ipc.open_stream(source).read_all()
        file.unlink()
        yield table


def _run_task(loaded: tuple[Callable[[Any], pa.Table], list[Any]], number: int) -> pa.Table:
    function, tasks = loaded
    return function(tasks[number])


def _result(number: int, function_file: Path, run: Callable[[Any, int], pa.Table]) -> pa.RecordBatch:
    kind, payload = _outcome(number, function_file, run)
    return pa.record_batch([[number], [kind], [payload]], schema=_SCHEMA)


def _outcome(number: int, function_file: Path, run: Callable[[Any, int], pa.Table]) -> tuple[str, bytes]:
    try:
        with _one_blas_thread():
            table = run(_load(str(function_file)), number)
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table)
        payload = sink.getvalue().to_pybytes()
        if len(payload) <= _SMALL_BYTES:
            return "table", payload
        # A task may run twice at once; Spark takes the result of one.
        file = function_file.parent / f"{number}-{uuid.uuid4().hex}.arrow"
        file.write_bytes(payload)
        return "file", str(file).encode()
    except CleanroomError as error:
        return "error", pickle.dumps(error)
    except Exception as error:
        return "error", pickle.dumps(_without_text(error))


def _without_text(error: Exception) -> CleanroomError:
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EFBIG, errno.EDQUOT):
        return StorageFullError("The disk is full.", remedy="Free some space and try again.")
    cause = type(error).__name__
    return EngineError(f"A task of the engine failed ({cause}).", cause=cause)


@lru_cache(maxsize=1)
def _load(function_file: str) -> Any:
    # Spark's Python workers live on, and run many tasks of one function.
    return pickle.loads(Path(function_file).read_bytes())  # noqa: S301 written by our own driver


def _one_blas_thread() -> Any:
    """Linear algebra on several threads adds in another order, and gives other last bits."""
    import scipy.linalg  # noqa: F401 its library must be loaded to be limited
    from threadpoolctl import threadpool_limits

    return threadpool_limits(limits=1, user_api="blas")


class ReadText:
    """Takes a text file apart with DuckDB, as the other engine does.

    Args:
        tables: The files.
        folder: Gets a parquet file of VARCHAR cells for each.
    """

    def __init__(self, tables: TableFiles, folder: Path) -> None:
        self._tables = tables
        self._folder = folder

    def __call__(self, number: int) -> pa.Table:
        """Read one file, and tell the lines that were skipped."""
        from cleanroom_pipelines.engine.duckdb_engine import DuckDBEngine

        one = replace(self._tables, files=(self._tables.files[number],))
        settings = EngineSettings(memory_bytes=_TEXT_MEMORY_BYTES, threads=1, scratch=self._folder)
        engine = DuckDBEngine(settings, (*one.files, self._folder))
        try:
            engine.scan("cells", one)
            engine.rejected_lines()
            # Under a name of its own first: the task may run twice at once.
            written = self._folder / f".{number}-{uuid.uuid4().hex}"
            engine.write_parquet("SELECT * FROM cells", written)
            written.replace(self._folder / f"{number:05d}.parquet")
            return engine.rejected_lines()
        finally:
            engine.close()
