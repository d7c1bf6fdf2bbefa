"""DuckDB implementation of the engine protocol; the only module that imports duckdb.

Lives here: opening and locking down, reading files, streaming results, translating errors.
Add here when DuckDB changes its Python API.
Keep out: queries.
"""

import errno
import os
import shutil
import tempfile
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import Any, TypeVar

import duckdb
import pyarrow as pa

from cleanroom_pipelines.engine.base import EngineSettings, Parameters, SortedPart
from cleanroom_pipelines.engine.packing import Packing, packing_of, unpacked_blocks
from cleanroom_pipelines.engine.parquet_types import UUID
from cleanroom_pipelines.engine.partitions import value_of, values_of
from cleanroom_pipelines.engine.plain_paths import PlainPaths, is_plain
from cleanroom_pipelines.engine.sql import quote_identifier, quote_literal, stable_hash_sql
from cleanroom_pipelines.engine.tables import TableFiles, check_types
from cleanroom_pipelines.engine.text_files import CsvShape
from cleanroom_pipelines.errors import EngineError, StorageFullError

_DEFAULT_MEMORY_SHARE = 0.6
_MAX_LINE_BYTES = 10_000_000
# Number of characters that DuckDB stores of a rejected line.
_KEPT_CHARACTERS = 10_000
_MANY_LINES = 10
# DuckDB's name for the number of a file in a scan; a column of that name in a file hides it.
_FILE_INDEX = "file_index"
# A delimiter that does not occur in text lines, so that a line of JSON is read as one cell.
_NO_DELIMITER = "\x01"

_DISK_FULL = (os.strerror(errno.ENOSPC), os.strerror(errno.EFBIG), "max_temp_directory_size")
# DuckDB error classes by the start of their messages, for errors that arrive through Arrow.
_CAUSES = {
    "Conversion": "ConversionException",
    "INTERNAL": "InternalException",
    "INTERRUPT": "InterruptException",
    "Invalid Input": "InvalidInputException",
    "IO": "IOException",
    "Out of Memory": "OutOfMemoryException",
    "Permission": "PermissionException",
}

T = TypeVar("T")
# Tasks that may finish before the caller takes the first result; results are small.
_TASKS_AHEAD = 32


class DuckDBEngine:
    """An in-memory DuckDB that can access only the given paths."""

    is_cluster = False

    def __init__(self, settings: EngineSettings, paths: tuple[Path, ...]) -> None:
        self._threads = settings.threads or os.cpu_count() or 1
        self._own_scratch = Path(tempfile.mkdtemp(prefix="engine-", dir=settings.scratch)).absolute()
        self._plain_paths = PlainPaths(self._own_scratch)
        self._scratch = self._plain_paths.of(self._own_scratch)
        self._n_scratch_files = 0
        self._unpacked_bytes = settings.unpacked_bytes
        self._last_rejected_scan = -1
        self._whole: set[Path] = set()
        self._allowed = [path.resolve() for path in (*paths, self._own_scratch)]
        self._connection = duckdb.connect(":memory:")
        try:
            self._lock_down(settings)
        except BaseException:
            self.close()
            raise

    def _lock_down(self, settings: EngineSettings) -> None:
        set_ = self._set
        set_("memory_limit", f"{settings.memory_bytes or _default_memory_bytes()}B")
        set_("threads", self._threads)
        set_("temp_directory", str(self._scratch))
        if settings.scratch_bytes is not None:
            set_("max_temp_directory_size", f"{settings.scratch_bytes}B")
        # DuckDB 2.0 encrypts spill files only with an extension from the network; without it, the first spill
        # fails. Spill files are unencrypted in a folder that only this user can read, until the engine is closed.
        set_("temp_file_encryption", False)
        set_("TimeZone", "UTC")
        set_("python_enable_replacements", False)
        set_("autoinstall_known_extensions", False)
        set_("autoload_known_extensions", False)
        # type_pushdown makes TRY_CAST over a text file's column drop rows instead of returning NULL
        # (duckdb#23818).
        set_("disabled_optimizers", "type_pushdown")
        # The order matters: set the paths, then disable external access, then lock the configuration.
        allowed = [self._plain_paths.of(path) for path in self._allowed]
        set_("allowed_directories", [str(path) for path in allowed if path.is_dir()])
        set_("allowed_paths", [str(path) for path in allowed if not path.is_dir()])
        set_("enable_external_access", False)
        set_("lock_configuration", True)

    def execute(self, sql: str, parameters: Parameters = ()) -> None:
        """Run a statement that changes the session."""
        self._call(lambda: self._connection.execute(sql, list(parameters)).fetchall())

    def fetch(self, sql: str, parameters: Parameters = ()) -> pa.Table:
        """Run a query and return its whole result."""
        return self._call(lambda: self._relation(sql, parameters).to_arrow_table())

    def batches(self, sql: str, parameters: Parameters = (), rows: int = 1_000_000) -> Iterator[pa.RecordBatch]:
        """Stream a query's result in its order."""
        reader = self._call(lambda: self._relation(sql, parameters).to_arrow_reader(rows))
        try:
            while (batch := self._call(lambda: next(reader, None))) is not None:
                yield batch
        finally:
            reader.close()

    def register(self, name: str, table: pa.Table) -> None:
        """Make an Arrow table queryable for this session."""
        self._call(lambda: self._connection.register(name, table))

    def unregister(self, name: str) -> None:
        """Remove a table that `register` has made queryable."""
        self._call(lambda: self._connection.unregister(name))

    def scan(self, name: str, tables: TableFiles) -> None:
        """Make files queryable as a view."""
        check_types(tables)
        query = {"parquet": _parquet_query, "csv": _csv_query, "jsonl": _jsonl_query}[tables.format]
        sql = query([self._plain(file, tables) for file in tables.files], tables)
        self.execute(f"CREATE OR REPLACE TEMP VIEW {quote_identifier(name)} AS {sql}")

    def rejected_lines(self) -> pa.Table:
        """Return the invalid lines that queries have skipped since the last call."""
        # DuckDB has one reject table per session; it does not exist before the first scan of a CSV.
        if not self.fetch("SELECT 1 FROM duckdb_tables() WHERE table_name = 'reject_errors'").num_rows:
            return pa.table(
                {
                    "line": pa.array([], pa.int64()),
                    "reason": pa.array([], pa.string()),
                    "runs_on": pa.array([], pa.bool_()),
                }
            )
        # Only reasons and numbers, since the table also holds the text of each line.
        lines = self.fetch(
            "WITH rejected AS (SELECT *, greatest(length(csv_line) - length(replace(csv_line, chr(10), '')), "
            "length(csv_line) - length(replace(csv_line, chr(13), ''))) AS n_ends FROM reject_errors "
            "WHERE scan_id > ?) "
            "SELECT CAST(line AS BIGINT) AS line, min(CAST(error_type AS VARCHAR)) AS reason, "
            f"coalesce(bool_or(n_ends > {_MANY_LINES} OR n_ends > 0 AND length(csv_line) >= {_KEPT_CHARACTERS}), "
            "false) AS runs_on, scan_id "
            "FROM rejected GROUP BY scan_id, file_id, line ORDER BY scan_id, file_id, line",
            [self._last_rejected_scan],
        )
        if lines.num_rows:
            self._last_rejected_scan = max(lines["scan_id"].to_pylist())
        return lines.select(["line", "reason", "runs_on"])

    def write_parquet(self, sql: str, path: Path, parameters: Parameters = (), *, repeats: bool = True) -> None:
        """Write a query's result, in its order, to one parquet file."""
        target = self._plain_paths.of(path.parent.resolve()) / path.name
        # Level 1 of zstd: 4 million hashes took half the CPU time of level 3, and no more space.
        options = "FORMAT parquet, COMPRESSION zstd, COMPRESSION_LEVEL 1"
        if not repeats:
            # Lengths before texts (DELTA_LENGTH_BYTE_ARRAY), without trying a dictionary: 6 million hashes took
            # 0.7 instead of 1.2 CPU seconds, and 8 % less space.
            options += ", PARQUET_VERSION v2, DICTIONARY_SIZE_LIMIT 1"
        copy = f"COPY ({sql}) TO {quote_literal(str(target))} ({options})"
        self.execute(copy, parameters)

    def write_sorted(
        self, sql: str, order: Sequence[tuple[str, bool]], folder: Path, parameters: Parameters = ()
    ) -> tuple[SortedPart, ...]:
        """Write a query's sorted result as one file."""
        import pyarrow.parquet as pq

        by = ", ".join(f"{quote_identifier(column)}{' DESC' if falls else ''}" for column, falls in order)
        path = folder / "part-00000.parquet"
        self.write_parquet(f"SELECT * FROM ({sql}) ORDER BY {by}", path, parameters)
        return (SortedPart(path, pq.read_metadata(path).num_rows),)

    def run_tasks(self, function: Callable[[T], pa.Table], tasks: Sequence[T]) -> Iterator[pa.Table]:
        """Run a function for each task, in parallel on the worker threads."""
        waiting: deque[Future[pa.Table]] = deque()
        with ThreadPoolExecutor(max_workers=self._threads) as pool:
            try:
                for task in tasks:
                    waiting.append(pool.submit(function, task))
                    if len(waiting) > _TASKS_AHEAD:
                        yield waiting.popleft().result()
                while waiting:
                    yield waiting.popleft().result()
            finally:
                for future in waiting:
                    future.cancel()

    def run_groups(
        self,
        sql: str,
        key: str,
        function: Callable[[int, pa.Table], pa.Table],
        parameters: Parameters = (),
        *,
        n_groups: int | None = None,
    ) -> Iterator[pa.Table]:
        """Run a function on each group of rows, one group at a time."""
        group = quote_identifier(key)
        if n_groups is not None:
            group = f"{stable_hash_sql(f'CAST({group} AS VARCHAR)')} % {int(n_groups)}"
        keys = self.fetch(f"SELECT DISTINCT {group} AS key FROM ({sql}) ORDER BY key", parameters)["key"]
        for value in keys.to_pylist():
            yield function(value, self.fetch(f"SELECT * FROM ({sql}) WHERE {group} = ?", [*parameters, value]))

    def close(self) -> None:
        """End the session and remove its scratch files."""
        self._connection.close()
        self._plain_paths.close()
        shutil.rmtree(self._own_scratch, ignore_errors=True)

    def _relation(self, sql: str, parameters: Parameters) -> duckdb.DuckDBPyRelation:
        return self._connection.sql(sql, params=list(parameters) or None)

    def _set(self, name: str, value: Any) -> None:
        self._call(lambda: self._connection.execute(f"SET {name} = ?", [value]))

    def _call(self, action: Callable[[], T]) -> T:
        # Errors while reading a stream arrive through Arrow, as an Arrow error or OSError with DuckDB's message,
        # which may quote cells.
        try:
            return action()
        except (duckdb.Error, pa.ArrowException, OSError) as error:
            translated = _translated(error)
        # Outside the handler: inside, even `from None` would keep the original in __context__.
        raise translated

    def _plain(self, file: Path, tables: TableFiles) -> Path:
        """Return a path that DuckDB can read: the file's own, or that of a link or decompressed copy.

        Compressed parquet is unpacked into scratch; DuckDB reads the other compressed formats itself.
        """
        is_packed = packing_of(file) != "none"
        unpack = tables.format == "parquet" and is_packed
        if not is_packed and is_plain(file):
            return file
        target = file.resolve()
        if not any(target == path or path in target.parents for path in self._allowed):
            raise EngineError(
                "The engine may not read this file.",
                remedy="Give the file's path when you open the engine.",
            )
        if is_packed and not unpack:
            self._check_whole(file)
        if not unpack:
            return self._plain_paths.of(file)
        self._n_scratch_files += 1
        target = self._scratch / f"{self._n_scratch_files}"
        self._call(lambda: _unpack(file, target, self._unpacked_bytes))
        return target

    def _check_whole(self, file: Path) -> None:
        # DuckDB does not verify checksums, and treats invalid data as the end of the file: one changed bit
        # could give a different, often shorter table.
        if file not in self._whole:
            self._call(lambda: deque(unpacked_blocks(file), maxlen=0))
            self._whole.add(file)


def _default_memory_bytes() -> int:
    return int(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") * _DEFAULT_MEMORY_SHARE)


def _unpack(file: Path, target: Path, max_bytes: int | None) -> None:
    with target.open("wb") as sink:
        sink.writelines(unpacked_blocks(file, max_bytes=max_bytes))


def _translated(error: Exception) -> EngineError | StorageFullError:
    # The error's message is only used for classification and never passed on, since it quotes cells.
    text = str(error)
    if any(sign in text for sign in _DISK_FULL):
        return StorageFullError("The disk is full.", remedy="Free some space and try again.")
    cause = type(error).__name__
    if not isinstance(error, duckdb.Error):
        cause = _CAUSES.get(text.split(" Error: ", 1)[0], cause)
    if cause == "OutOfMemoryException":
        return EngineError(
            "The engine ran out of memory.",
            remedy="Give it more memory, or more disk space for spill files.",
            cause=cause,
        )
    return EngineError(f"The engine could not run this step ({cause}).", cause=cause)


def _file_list(files: Iterable[Path]) -> str:
    return f"[{', '.join(quote_literal(str(file)) for file in files)}]"


def _parquet_query(files: Sequence[Path], tables: TableFiles) -> str:
    hides_number = tables.partitions and any(_FILE_INDEX in tables.names_of(file) for file in tables.files)
    if not hides_number:
        return _parquet_run_query(files, tables)
    # The file's number cannot be read, so files of other partitions are read separately.
    values = {file: tuple(value_of(file, key) for key in tables.partitions) for file in tables.files}
    runs = _runs(files, tables, values.__getitem__)
    return " UNION ALL ".join(_parquet_run_query(plain, run) for _, plain, run in runs)


def _parquet_run_query(files: Sequence[Path], tables: TableFiles) -> str:
    types = tables.types_of(tables.files[0])
    cells = {name: quote_identifier(name) for name in tables.columns if name not in tables.partitions}
    # As text, since DuckDB converts text to a UUID when it compares them, which fails for other text.
    cells |= {name: f"CAST({cell} AS VARCHAR)" for name, cell in cells.items() if types[name] == UUID}
    return f"SELECT {_select(cells, tables)} FROM read_parquet({_file_list(files)}, hive_partitioning = false)"


def _csv_query(files: Sequence[Path], tables: TableFiles) -> str:
    # Files that are written in different ways are read separately, in their order.
    return " UNION ALL ".join(
        _csv_run_query(plain, shape, run) for shape, plain, run in _runs(files, tables, tables.shape_of)
    )


def _csv_run_query(files: Sequence[Path], shape: CsvShape, tables: TableFiles) -> str:
    names = ", ".join(f"c{i}: 'VARCHAR'" for i in range(len(shape.header) or 1))
    # DuckDB may detect a line break inside a quoted name as the line ending, and then silently reads no rows.
    new_line = shape.line_end.replace("\r", "\\r").replace("\n", "\\n")
    positions = shape.positions
    cells = {name: f"c{positions[name]}" for name in tables.columns if name not in tables.partitions}
    # A blank line has no cells. If there is only one column, DuckDB reads one; a missing cell there is quoted.
    is_list = len(shape.header) == 1
    cells |= {name: f"nullif({cell}, '')" for name, cell in cells.items() if is_list}
    return (
        f"SELECT {_select(cells, tables)} FROM read_csv({_file_list(files)}, columns = {{{names}}}, "
        f"auto_detect = false, header = {shape.has_header}, skip = {shape.n_above}, "
        f"compression = '{shape.packing}', delim = {quote_literal(shape.delimiter)}, quote = '\"', "
        f"escape = '{shape.escape}', nullstr = '', "
        f"max_line_size = {_MAX_LINE_BYTES}, ignore_errors = true, store_rejects = true, rejects_limit = 0"
        + (f", new_line = '{new_line}'" if new_line else "")
        + (", allow_quoted_nulls = false) WHERE c0 IS NOT NULL" if is_list else ")")
    )


def _jsonl_query(files: Sequence[Path], tables: TableFiles) -> str:
    return " UNION ALL ".join(
        _jsonl_run_query(plain, packing, run) for packing, plain, run in _runs(files, tables, packing_of)
    )


def _jsonl_run_query(files: Sequence[Path], packing: Packing, tables: TableFiles) -> str:
    # Each line is read as one cell, then parsed: a line that is not a JSON object becomes a row of NULLs, a nested
    # object or list becomes NULL, and blank lines are skipped. Strict mode would reject files that mix \n and
    # \r\n; with one cell per line it is not needed.
    cells = {
        name: f"CASE WHEN json_type(line, {path}) NOT IN ('OBJECT', 'ARRAY') "
        f"THEN json_extract_string(line, {path}) END"
        for name in tables.columns
        if name not in tables.partitions
        for path in [quote_literal(_json_path(name))]
    }
    file_index = f", {_FILE_INDEX}" if tables.partitions else ""
    return (
        f"SELECT {_select(cells, tables)} FROM "
        f"(SELECT CASE WHEN json_valid(line) THEN line END AS line{file_index} "
        f"FROM read_csv({_file_list(files)}, columns = {{'line': 'VARCHAR'}}, auto_detect = false, "
        f"header = false, compression = '{packing}', delim = {quote_literal(_NO_DELIMITER)}, quote = '', "
        f"escape = '', strict_mode = false, max_line_size = {_MAX_LINE_BYTES}, ignore_errors = true, "
        f"store_rejects = true, rejects_limit = 0) WHERE NOT regexp_full_match(line, '\\s*'))"
    )


def _runs(
    files: Sequence[Path], tables: TableFiles, kind_of: Callable[[Path], T]
) -> Iterator[tuple[T, list[Path], TableFiles]]:
    """Group consecutive files of the same kind; yield each group's kind, its readable paths, and its files."""
    pairs = zip(tables.files, files, strict=True)
    for kind, run in groupby(pairs, key=lambda pair: kind_of(pair[0])):
        own, plain = zip(*run, strict=True)
        yield kind, list(plain), replace(tables, files=own)


def _select(cells: dict[str, str], tables: TableFiles) -> str:
    """Return a table's select list: columns read from its files, and partition values looked up by file."""
    values = {name: _partition_sql(values_of(tables.files, name)) for name in tables.partitions}
    columns = [f"{(values | cells)[name]} AS {quote_identifier(name)}" for name in tables.columns]
    return ", ".join(columns) or "NULL AS no_column"


def _partition_sql(values: Sequence[str | None]) -> str:
    literals = ["NULL" if value is None else quote_literal(value) for value in values]
    if len(set(literals)) == 1:
        return f"CAST({literals[0]} AS VARCHAR)"
    return f"CAST([{', '.join(literals)}] AS VARCHAR[])[CAST({_FILE_INDEX} AS BIGINT) + 1]"


def _json_path(key: str) -> str:
    return '$."' + key.replace("\\", "\\\\").replace('"', '\\"') + '"'
