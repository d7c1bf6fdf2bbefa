"""Reading files with DuckDB on a Spark cluster.

Lives here: converting one file of text, or of parquet that Spark cannot read, on an executor.
Keep out: the meaning of cells, and Spark's calls (spark_engine).

Spark's own readers of text accept lines that DuckDB rejects (invalid UTF-8, an unclosed quote, text after a
quote), format JSON numbers differently, and do not report the numbers of invalid lines. DuckDB reads the files on
both engines, so a table has the same rows on both. Each file is one task: split large uploads into several files,
which Spark's own reader would also need for quoted line breaks.
"""

import uuid
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from cleanroom_pipelines.engine.base import EngineSettings
from cleanroom_pipelines.engine.tables import TableFiles

_MEMORY_BYTES = 1 << 30


@dataclass(frozen=True)
class ReadFile:
    """Task that converts one file, chosen by its number, to parquet.

    All cells of the table's columns are read, so a line with invalid UTF-8 in one of them is always rejected; on
    DuckDB alone, only queries that read the invalid cell reject it.

    Args:
        tables: The files.
        folder: Output folder, with one parquet file per file.
    """

    tables: TableFiles
    folder: Path

    def __call__(self, number: int) -> pa.Table:
        """Convert the file with this number; return its invalid lines in the form of `Engine.rejected_lines`."""
        from cleanroom_pipelines.engine.duckdb_engine import DuckDBEngine

        one = self.tables.one(self.tables.files[number])
        settings = EngineSettings(memory_bytes=_MEMORY_BYTES, threads=1, scratch=self.folder)
        engine = DuckDBEngine(settings, (*one.files, self.folder))
        try:
            engine.scan("cells", one)
            # Under a temporary name first, since a task may run twice concurrently.
            written = self.folder / f".{number}-{uuid.uuid4().hex}"
            engine.write_parquet("SELECT * FROM cells", written)
            written.replace(self.folder / f"{number:05d}.parquet")
            return engine.rejected_lines()
        finally:
            engine.close()
