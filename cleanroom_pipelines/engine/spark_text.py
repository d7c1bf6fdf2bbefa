"""Reading of text files on a Spark cluster.

Lives here: taking one CSV or JSON Lines file apart, on an executor, with DuckDB.
Add here when another text format is read.
Keep out: what a file's cells mean, and Spark's calls (spark_engine).

Spark's own readers make rows of lines that DuckDB refuses (a cell that is no UTF-8, a quote that is never closed,
text behind a quote), write numbers of JSON in another way, and tell of a bad line no number. So that a table means
the same on both engines, the one reader reads it on both. A file goes to one task: a large upload should come in
several files, as Spark's reader of quoted line breaks would want too.
"""

import uuid
from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow as pa

from cleanroom_pipelines.engine.base import EngineSettings
from cleanroom_pipelines.engine.tables import TableFiles

_MEMORY_BYTES = 1 << 30


@dataclass(frozen=True)
class ReadText:
    """Reads the file of a number.

    All cells are read, so that a line with a cell that is no UTF-8 is never a row; on DuckDB alone it is one for
    queries that do not look at that cell.

    Args:
        tables: The files.
        folder: Gets a parquet file of VARCHAR cells for each.
    """

    tables: TableFiles
    folder: Path

    def __call__(self, number: int) -> pa.Table:
        """Write the file's rows, and tell its lines that are none, as `Engine.rejected_lines` does."""
        from cleanroom_pipelines.engine.duckdb_engine import DuckDBEngine

        one = replace(self.tables, files=(self.tables.files[number],))
        settings = EngineSettings(memory_bytes=_MEMORY_BYTES, threads=1, scratch=self.folder)
        engine = DuckDBEngine(settings, (*one.files, self.folder))
        try:
            engine.scan("cells", one)
            # Under another name first: a task may run twice at once.
            written = self.folder / f".{number}-{uuid.uuid4().hex}"
            engine.write_parquet("SELECT * FROM cells", written)
            written.replace(self.folder / f"{number:05d}.parquet")
            return engine.rejected_lines()
        finally:
            engine.close()
