"""SQL engines: DuckDB on this machine, or Apache Spark on a cluster.

Lives here: the protocol of all engines, its DuckDB and Spark implementations, reading tables, hashing, quoting.
Add here when queries need a new engine operation.
Keep out: the queries themselves; they are in the package of their subject.
"""

from cleanroom_pipelines.engine.base import Engine, EngineSettings, SortedPart
from cleanroom_pipelines.engine.opening import open_configured_engine, open_engine
from cleanroom_pipelines.engine.packing import too_large, unpacked_blocks
from cleanroom_pipelines.engine.parquet_types import open_parquet
from cleanroom_pipelines.engine.runtime import Progress, Runtime
from cleanroom_pipelines.engine.sql import (
    STABLE_HASH_BITS,
    quote_identifier,
    quote_literal,
    stable_hash,
    stable_hash_sql,
)
from cleanroom_pipelines.engine.tables import INVALID_ENCODING, TableFiles, encoding_error, find_tables, type_runs
