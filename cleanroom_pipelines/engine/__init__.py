"""The engine: SQL over parquet, on this machine (DuckDB) or later on a cluster.

Lives here: the small protocol every engine fulfils, DuckDB behind it, reading of tables, hashing, quoting.
Add here when a query needs something of the engine that the protocol cannot say.
Keep out: what the queries mean; they live beside the noun they serve.
"""

from cleanroom_pipelines.engine.base import Engine, EngineSettings, SortedPart
from cleanroom_pipelines.engine.hashing import STABLE_HASH_BITS, stable_hash, stable_hash_sql
from cleanroom_pipelines.engine.opening import open_configured_engine, open_engine
from cleanroom_pipelines.engine.quoting import quote_identifier, quote_literal
from cleanroom_pipelines.engine.runtime import Progress, Runtime, ShouldCancel
from cleanroom_pipelines.engine.tables import TableFiles, find_tables, too_large, unpacked_blocks

__all__ = [
    "STABLE_HASH_BITS",
    "Engine",
    "EngineSettings",
    "Progress",
    "Runtime",
    "ShouldCancel",
    "SortedPart",
    "TableFiles",
    "find_tables",
    "open_configured_engine",
    "open_engine",
    "quote_identifier",
    "quote_literal",
    "stable_hash",
    "stable_hash_sql",
    "too_large",
    "unpacked_blocks",
]
