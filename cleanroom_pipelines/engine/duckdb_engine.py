"""DuckDB behind the engine protocol; the only module that imports duckdb.

Lives here: opening and locking down, reading files, streaming results, translating errors.
Add here when DuckDB changes its Python calls.
Keep out: queries.
"""

import errno
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import duckdb
import pyarrow as pa

from cleanroom_pipelines.engine.base import EngineSettings, Parameters
from cleanroom_pipelines.engine.quoting import quote_identifier, quote_literal
from cleanroom_pipelines.engine.tables import TableFiles, open_binary
from cleanroom_pipelines.errors import EngineError, StorageFullError

_DEFAULT_MEMORY_SHARE = 0.6
_MAX_LINE_BYTES = 10_000_000
# A delimiter that text lines cannot hold, so that a line of JSON comes back as one cell.
_NO_DELIMITER = "\x01"

T = TypeVar("T")


class DuckDBEngine:
    """One in-memory DuckDB that may touch the given paths and nothing else."""

    def __init__(self, settings: EngineSettings, paths: tuple[Path, ...]) -> None:
        self._scratch = Path(tempfile.mkdtemp(prefix="engine-", dir=settings.scratch))
        self._scans: dict[str, TableFiles] = {}
        self._connection = duckdb.connect(":memory:")
        allowed = [path.resolve() for path in (*paths, self._scratch)]
        set_ = self._set
        set_("memory_limit", f"{settings.memory_bytes or _default_memory_bytes()}B")
        set_("threads", settings.threads or os.cpu_count() or 1)
        set_("temp_directory", str(self._scratch))
        set_("temp_file_encryption", True)
        set_("TimeZone", "UTC")
        set_("python_enable_replacements", False)
        set_("autoinstall_known_extensions", False)
        set_("autoload_known_extensions", False)
        # The order matters: paths first, then the door is closed, then the lock thrown.
        set_("allowed_directories", [str(path) for path in allowed if path.is_dir()])
        set_("allowed_paths", [str(path) for path in allowed if not path.is_dir()])
        set_("enable_external_access", False)
        set_("lock_configuration", True)

    def execute(self, sql: str, parameters: Parameters = ()) -> None:
        """Run a statement for its effect."""
        self._call(lambda: self._connection.execute(sql, list(parameters)).fetchall())

    def fetch(self, sql: str, parameters: Parameters = ()) -> pa.Table:
        """Run a query and return its whole result."""
        return self._call(lambda: self._relation(sql, parameters).to_arrow_table())

    def batches(
        self, sql: str, parameters: Parameters = (), rows: int = 1_000_000
    ) -> Iterator[pa.RecordBatch]:
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
        """Forget a registered table."""
        self._call(lambda: self._connection.unregister(name))

    def scan(self, name: str, tables: TableFiles) -> None:
        """Make files queryable as a view."""
        files = ", ".join(quote_literal(str(self._plain(file, tables))) for file in tables.files)
        query = {"parquet": _parquet_query, "csv": _csv_query, "jsonl": _jsonl_query}[tables.format]
        self.execute(f"CREATE OR REPLACE TEMP VIEW {quote_identifier(name)} AS {query(f'[{files}]', tables)}")
        self._scans[name] = tables

    def unreadable_rows(self, name: str) -> int:
        """Count the lines of a CSV that do not split into its columns; 0 for the other formats.

        A line of JSON Lines that is not an object comes back as a row of NULLs and is seen there.
        """
        if self._scans[name].format != "csv":
            return 0
        # Only scans that rejected something are recorded, hence the difference. Counting every cell makes
        # DuckDB split the lines, which count(*) would not.
        columns = ", ".join(f"count({quote_identifier(column)})" for column in self._scans[name].columns)
        before = self._n_rejected()
        self.fetch(f"SELECT {columns} FROM {quote_identifier(name)}")
        return self._n_rejected() - before

    def _n_rejected(self) -> int:
        if not self.fetch("SELECT 1 FROM duckdb_tables() WHERE table_name = 'reject_errors'").num_rows:
            return 0
        rejected = self.fetch("SELECT count(DISTINCT (scan_id, file_id, line)) AS n_rows FROM reject_errors")
        return int(rejected["n_rows"][0].as_py())

    def write_parquet(self, sql: str, path: Path, parameters: Parameters = ()) -> None:
        """Write a query's result, in its order, to one parquet file."""
        copy = f"COPY ({sql}) TO {quote_literal(str(path.resolve()))} (FORMAT parquet, COMPRESSION zstd)"
        self.execute(copy, parameters)

    def close(self) -> None:
        """End the session and remove its scratch files."""
        self._connection.close()
        shutil.rmtree(self._scratch, ignore_errors=True)

    def _relation(self, sql: str, parameters: Parameters) -> duckdb.DuckDBPyRelation:
        return self._connection.sql(sql, params=list(parameters) or None)

    def _set(self, name: str, value: Any) -> None:
        self._call(lambda: self._connection.execute(f"SET {name} = ?", [value]))

    def _call(self, action: Callable[[], T]) -> T:
        try:
            return action()
        except duckdb.Error as error:
            raise _translated(error) from None
        except pa.ArrowException as error:
            raise EngineError(f"The engine failed ({type(error).__name__}).") from None

    def _plain(self, file: Path, tables: TableFiles) -> Path:
        """Parquet inside gzip is unpacked into scratch; DuckDB reads the other gzipped formats itself."""
        if tables.format != "parquet" or file.suffix != ".gz":
            return file
        target = self._scratch / f"{len(list(self._scratch.iterdir()))}.parquet"
        with open_binary(file) as source, target.open("wb") as sink:
            shutil.copyfileobj(source, sink)
        return target


def _default_memory_bytes() -> int:
    return int(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") * _DEFAULT_MEMORY_SHARE)


def _translated(error: duckdb.Error) -> EngineError | StorageFullError:
    # The text of the error is read here to tell a full disk, and never passed on: it quotes cells.
    text = str(error)
    if os.strerror(errno.ENOSPC) in text or os.strerror(errno.EFBIG) in text or "max_temp_directory_size" in text:
        return StorageFullError("The disk is full.", remedy="Free some space and try again.")
    if isinstance(error, duckdb.OutOfMemoryException):
        return EngineError(
            "The engine ran out of memory.", remedy="Give it more memory, or give it disk space to spill to."
        )
    return EngineError(f"The engine could not run this step ({type(error).__name__}).")


def _parquet_query(files: str, tables: TableFiles) -> str:
    columns = ", ".join(quote_identifier(column) for column in tables.columns)
    return f"SELECT {columns} FROM read_parquet({files}, hive_partitioning = false)"


def _csv_query(files: str, tables: TableFiles) -> str:
    columns = ", ".join(f"{quote_literal(column)}: 'VARCHAR'" for column in tables.columns)
    return (
        f"SELECT * FROM read_csv({files}, columns = {{{columns}}}, auto_detect = false, header = true, "
        f"delim = {quote_literal(tables.delimiter)}, quote = '\"', escape = '\"', nullstr = '', "
        f"max_line_size = {_MAX_LINE_BYTES}, ignore_errors = true, store_rejects = true, "
        f"rejects_limit = 0)"
    )


def _jsonl_query(files: str, tables: TableFiles) -> str:
    # Each line is read as one cell, then taken apart: a line that is no JSON object gives a row of NULLs,
    # as does a cell that holds an object or a list.
    cells = ", ".join(
        f"CASE WHEN json_type(line, {path}) NOT IN ('OBJECT', 'ARRAY') THEN json_extract_string(line, {path}) END "
        f"AS {quote_identifier(column)}"
        for column in tables.columns
        for path in [quote_literal(_json_path(column))]
    )
    return (
        f"SELECT {cells or 'NULL AS no_key'} FROM (SELECT CASE WHEN json_valid(line) THEN line END AS line "
        f"FROM read_csv({files}, columns = {{'line': 'VARCHAR'}}, auto_detect = false, header = false, "
        f"delim = {quote_literal(_NO_DELIMITER)}, quote = '', escape = '', max_line_size = {_MAX_LINE_BYTES}, "
        f"ignore_errors = true))"
    )


def _json_path(key: str) -> str:
    return '$."' + key.replace("\\", "\\\\").replace('"', '\\"') + '"'
