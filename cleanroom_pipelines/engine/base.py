"""Interface of all engines.

Lives here: the engine protocol and settings.
Add here when all engines get a new operation or setting.
Keep out: features of only DuckDB or only Spark.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

import pyarrow as pa

from cleanroom_pipelines.engine.tables import TableFiles

Parameters = Sequence[Any]
T = TypeVar("T")


@dataclass(frozen=True)
class EngineSettings:
    """The engine to use, and its limits on this machine.

    Args:
        memory_bytes: Memory limit of the engine; beyond it, it spills to `scratch`. None: 60 % of RAM.
        threads: Worker threads, at least 1. None: one per core.
        scratch: Existing folder for spill files, which are not encrypted and are deleted when the engine is
            closed. None: the system's temporary folder.
        scratch_bytes: Limit of all spill files together. None: most of the free disk.
        unpacked_bytes: Maximum size of one compressed file unpacked in `scratch`. None: no limit.
        url: Engine that `open_configured_engine` opens: None for DuckDB, `spark://host:port` or `local[n]` for
            Apache Spark, `sc://host:port` for Spark Connect. With Spark, the executors must see `scratch` under
            the same path, and memory and threads apply only to the driver.
    """

    memory_bytes: int | None = None
    threads: int | None = None
    scratch: Path | None = None
    scratch_bytes: int | None = None
    unpacked_bytes: int | None = None
    url: str | None = None


@dataclass(frozen=True)
class SortedPart:
    """One parquet file of a query's sorted result.

    Args:
        path: A parquet file.
        n_rows: Number of its rows.
    """

    path: Path
    n_rows: int


class Engine(Protocol):
    """Runs SQL in DuckDB's dialect over files and Arrow tables; values are bound, never put into the SQL text.

    Args:
        is_cluster: Whether `run_tasks` and queries may run on other machines, which must see the same files.
    """

    is_cluster: bool

    def execute(self, sql: str, parameters: Parameters = ()) -> None:
        """Run a statement that changes the session, such as one that creates a view or temporary table."""
        ...

    def fetch(self, sql: str, parameters: Parameters = ()) -> pa.Table:
        """Run a query and return its whole result."""
        ...

    def batches(self, sql: str, parameters: Parameters = (), rows: int = 1_000_000) -> Iterator[pa.RecordBatch]:
        """Stream a query's result in batches of at most `rows`; close or exhaust it before the next query."""
        ...

    def register(self, name: str, table: pa.Table) -> None:
        """Make an Arrow table queryable as `name` for this session."""
        ...

    def unregister(self, name: str) -> None:
        """Remove a table that `register` has made queryable."""
        ...

    def scan(self, name: str, tables: TableFiles) -> None:
        """Make the columns that `tables` lists queryable as `name`; other columns of its files are not read.

        Args:
            name: Name of the view.
            tables: The files. Columns of parquet keep their types, except that UUIDs are VARCHAR, as are cells of
                CSV and JSON Lines, and partition columns.

        Raises:
            InputError: A column has different types in the parquet files (see `tables.type_runs`).
        """
        ...

    def rejected_lines(self) -> pa.Table:
        """Return the invalid lines of text files that queries have skipped since the last call.

        Returns:
            One row per line: `line` (number of the record in its file, from 1, including the header), `reason`
            (the engine's name for it, such as MISSING COLUMNS) and `runs_on` (whether it spans more than ten lines
            of the file, as after an unclosed quote), ordered by scan, file and line.
        """
        ...

    def write_parquet(self, sql: str, path: Path, parameters: Parameters = (), *, repeats: bool = True) -> None:
        """Write a query's result, in its order, to one parquet file (zstd).

        Args:
            sql: The query.
            path: The file.
            parameters: Values of the query.
            repeats: Whether values may repeat. Unique text is written in less time if this is known.
        """
        ...

    def write_sorted(
        self, sql: str, order: Sequence[tuple[str, bool]], folder: Path, parameters: Parameters = ()
    ) -> tuple[SortedPart, ...]:
        """Write a query's sorted result, split into consecutive parquet files.

        Args:
            sql: The query; its own order is ignored.
            order: Columns of the result, and whether each is descending; together they must identify a row. Rows
                that are equal in the first column are in the same file.
            folder: Existing empty folder for `part-00000.parquet`, ….
            parameters: Values of the query.

        Returns:
            The files in order; some may be empty.
        """
        ...

    def run_tasks(self, function: Callable[[T], pa.Table], tasks: Sequence[T]) -> Iterator[pa.Table]:
        """Run a function for each task in parallel, on this machine or on the executors.

        Args:
            function: Takes a task and returns a small table; a large result must be written to a file. Function
                and tasks are sent to other machines by cloudpickle, so they may refer to data and paths, but not
                to open files. It may run twice (if an executor is lost), and must then return the same result.
            tasks: The tasks, such as shard numbers.

        Returns:
            The tables in the order of the tasks.

        Raises:
            CleanroomError: Raised by the function. Other errors are raised unchanged on this machine, and as an
                EngineError without their text on a cluster.
        """
        ...

    def run_groups(
        self,
        sql: str,
        key: str,
        function: Callable[[int, pa.Table], pa.Table],
        parameters: Parameters = (),
        *,
        n_groups: int | None = None,
    ) -> Iterator[pa.Table]:
        """Group the rows of a query by a key, and run a function on each group.

        Args:
            sql: The query.
            key: Its column of BIGINT keys, never NULL; a group must fit into one worker's memory.
            function: Takes a key and its rows, unordered, and returns a small table, as with `run_tasks`.
            parameters: Values of the query.
            n_groups: Hash keys of any type into this many groups instead. The assignment depends on the engine, so
                results must not depend on it. The function takes the group's number, from 0, and does not run for
                empty groups.

        Returns:
            The tables in the order of keys or group numbers.

        Raises:
            CleanroomError: As with `run_tasks`.
        """
        ...

    def close(self) -> None:
        """End the session and remove its scratch files."""
        ...
