"""A DuckDB engine that behaves like a cluster, for testing cluster code paths without a cluster.

Lives here: an engine that says it is a cluster, sorts into several files and sends tasks as pickles.
"""

import pickle
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cleanroom_pipelines.engine import EngineSettings, SortedPart
from cleanroom_pipelines.engine.duckdb_engine import DuckDBEngine

_ROWS_PER_PART = 70


class ClusterLikeEngine(DuckDBEngine):
    """A DuckDB engine that behaves like a cluster."""

    is_cluster = True

    def __init__(self, settings: EngineSettings, url: str) -> None:
        assert url == "cluster-like"
        super().__init__(settings, (Path("/"),))

    def write_sorted(
        self, sql: str, order: Sequence[tuple[str, bool]], folder: Path, parameters: Sequence[Any] = ()
    ) -> tuple[SortedPart, ...]:
        """Write files of about 70 rows, with equal first columns in one file, and one file without rows."""
        whole = folder / "whole"
        whole.mkdir()
        (part,) = super().write_sorted(sql, order, whole, parameters)
        table = pq.read_table(part.path)
        keys = table[order[0][0]].to_pylist()
        cuts = [0, 0]
        while cuts[-1] < len(keys):
            end = min(cuts[-1] + _ROWS_PER_PART, len(keys))
            while end < len(keys) and keys[end] == keys[end - 1]:
                end += 1
            cuts.append(end)
        parts = []
        for number, (first, last) in enumerate(pairwise(cuts)):
            path = folder / f"part-{number:05d}.parquet"
            pq.write_table(table.slice(first, last - first), path)
            parts.append(SortedPart(path, last - first))
        return tuple(parts)

    def run_tasks(self, function: Callable[[Any], pa.Table], tasks: Sequence[Any]) -> Iterator[pa.Table]:
        """Run the tasks, sending everything there and back as pickles."""
        for task in tasks:
            yield pickle.loads(pickle.dumps(function))(pickle.loads(pickle.dumps(task)))


def use_cluster_like(monkeypatch: pytest.MonkeyPatch) -> EngineSettings:
    """Make `open_configured_engine` open this engine for the settings that are returned."""
    import sys
    import types

    module = types.ModuleType("cleanroom_pipelines.engine.spark_engine")
    module.SparkEngine = ClusterLikeEngine  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "cleanroom_pipelines.engine.spark_engine", module)
    return EngineSettings(memory_bytes=1 << 30, threads=1, url="cluster-like")
