"""What every engine can do.

Lives here: the protocol and the settings that any engine understands.
Add here when a second engine needs a word that both can fulfil.
Keep out: anything only DuckDB or only Spark can do.
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
    """How much of the machine one engine may use.

    Args:
        memory_bytes: Upper bound of the engine's own memory; beyond it, it spills to `scratch`.
            None: 60 % of RAM.
        threads: Worker threads, at least 1. None: one per core.
        scratch: Existing directory for spill files, which are not encrypted and go when the engine is closed.
            None: the system's temporary directory.
        scratch_bytes: Upper bound of the spill files together. None: most of the disk that is free.
        unpacked_bytes: The most that one gzipped file may be unpacked to in `scratch`. None: no limit.
        url: Which engine `open_configured_engine` opens: None for DuckDB, `spark://host:port` or `local[n]` for
            Apache Spark, `sc://host:port` for Spark Connect. With Spark, `scratch` must lie where the executors
            see it under the same path, and memory and threads count for the driver alone.
    """

    memory_bytes: int | None = None
    threads: int | None = None
    scratch: Path | None = None
    scratch_bytes: int | None = None
    unpacked_bytes: int | None = None
    url: str | None = None


@dataclass(frozen=True)
class SortedPart:
    """One file of a sorted result.

    Args:
        path: A parquet file.
        n_rows: Its rows.
    """

    path: Path
    n_rows: int


class Engine(Protocol):
    """SQL in DuckDB's dialect over files and Arrow tables; values are bound, never written into the text.

    Args:
        is_cluster: Whether `run_tasks` and queries may run on other machines, which see the same files.
    """

    is_cluster: bool

    def execute(self, sql: str, parameters: Parameters = ()) -> None:
        """Run a statement for its effect on the session (views, temporary tables)."""
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
        """Forget a registered table."""
        ...

    def scan(self, name: str, tables: TableFiles) -> None:
        """Make files queryable as `name`: parquet with its own types, CSV and JSON Lines as VARCHAR cells."""
        ...

    def rejected_lines(self) -> pa.Table:
        """Which lines of text files the queries since the last call skipped, for being no rows.

        Returns:
            One row per line: `line` (the record's number in its file, from 1, the header counted), `reason` (the
            engine's word for it, such as MISSING COLUMNS) and `runs_on` (whether more than ten lines of the file
            went into it, as after a quote that is never closed), ordered by scan, file and line.
        """
        ...

    def write_parquet(self, sql: str, path: Path, parameters: Parameters = ()) -> None:
        """Write a query's result, in its order, to one parquet file (zstd)."""
        ...

    def write_sorted(
        self, sql: str, order: Sequence[tuple[str, bool]], folder: Path, parameters: Parameters = ()
    ) -> tuple[SortedPart, ...]:
        """Write a query's result in order as parquet files, each of which continues the one before it.

        Args:
            sql: The query; its own order does not matter.
            order: Columns of the result, and whether each is descending; together they tell all rows apart.
                Rows that are equal in the first column lie in the same file.
            folder: Existing empty directory that gets `part-00000.parquet`, ….
            parameters: Values of the query.

        Returns:
            The files in order; a file without rows may be among them.
        """
        ...

    def run_tasks(self, function: Callable[[T], pa.Table], tasks: Sequence[T]) -> Iterator[pa.Table]:
        """Run a function once for each of some tasks, here or on the executors, several at a time.

        Args:
            function: Takes a task and gives a small table, or writes a large result to a file that it was told of.
                Function and tasks are sent to other machines by cloudpickle, so they refer to data and paths, not
                to open files. It may run twice (a lost executor), and must then give the same.
            tasks: Such as the numbers of shards.

        Returns:
            The tables in the order of the tasks.

        Raises:
            CleanroomError: What the function raised, if it is one of ours. Another error comes as it is on this
                machine, and from a cluster as an EngineError without its text.
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
        """Bring the rows of a query with the same key to one place each, and run a function on each group.

        Args:
            sql: The query.
            key: Its column of BIGINT keys, never NULL; a group must fit into one worker's memory.
            function: Takes the key and its rows, in no order, and gives a small table, as with `run_tasks`.
            parameters: Values of the query.
            n_groups: Bring many keys, of any type, together to so many groups instead. Which of them is the
                engine's choice, so nothing may depend on it; the function takes the group's number, from 0, and is
                not run for a group without rows.

        Returns:
            The tables in the order of the keys, or of the groups' numbers.

        Raises:
            CleanroomError: As with `run_tasks`.
        """
        ...

    def close(self) -> None:
        """End the session and remove its scratch files."""
        ...
