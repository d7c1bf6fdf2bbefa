"""What every engine can do.

Lives here: the protocol and the settings that any engine understands.
Add here when a second engine needs a word that both can fulfil.
Keep out: anything only DuckDB or only Spark can do.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa

from cleanroom_pipelines.engine.tables import TableFiles

Parameters = Sequence[Any]


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
    """

    memory_bytes: int | None = None
    threads: int | None = None
    scratch: Path | None = None
    scratch_bytes: int | None = None


class Engine(Protocol):
    """SQL in DuckDB's dialect over files and Arrow tables; values are bound, never written into the text."""

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

    def close(self) -> None:
        """End the session and remove its scratch files."""
        ...
