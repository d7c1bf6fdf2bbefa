"""Opening engines: DuckDB on this machine, or the engine that the settings name.

Lives here: choosing an engine by its URL.
Keep out: settings of a specific engine.
"""

from collections.abc import Iterable
from pathlib import Path

from cleanroom_pipelines.engine.base import Engine, EngineSettings


def open_engine(settings: EngineSettings | None = None, *, paths: Iterable[str | Path] = ()) -> "OpenEngine":
    """Open DuckDB on this machine, locked down to the given paths, even if the settings name a cluster.

    Args:
        settings: Limits on this machine.
        paths: Files and folders it may read and write; DuckDB denies access to everything else.

    Returns:
        A context manager that yields an `Engine` and closes it.
    """
    return OpenEngine(settings or EngineSettings(), tuple(Path(path) for path in paths))


def open_configured_engine(
    settings: EngineSettings | None = None, *, paths: Iterable[str | Path] = ()
) -> "OpenEngine":
    """Open the configured engine, perhaps a cluster, for steps whose cost grows with the number of users.

    Args:
        settings: Choice of the engine, and its limits on this machine.
        paths: Files and folders it may read and write. DuckDB denies access to everything else. Spark cannot, and
            sees all files of its executors, so it runs only our own queries.

    Returns:
        A context manager that yields an `Engine` and closes it.

    Raises:
        ConfigurationError: On entry: the URL is invalid, packages are missing, or the cluster is unreachable.
    """
    chosen = settings or EngineSettings()
    return OpenEngine(chosen, tuple(Path(path) for path in paths), url=chosen.url)


class OpenEngine:
    """Context manager that opens an engine on entry and closes it on exit."""

    def __init__(self, settings: EngineSettings, paths: tuple[Path, ...], *, url: str | None = None) -> None:
        self._settings = settings
        self._paths = paths
        self._url = url

    def __enter__(self) -> Engine:
        self._engine: Engine
        if self._url is not None:
            from cleanroom_pipelines.engine.spark_engine import SparkEngine

            self._engine = SparkEngine(self._settings, self._url)
            return self._engine
        from cleanroom_pipelines.engine.duckdb_engine import DuckDBEngine

        self._engine = DuckDBEngine(self._settings, self._paths)
        return self._engine

    def __exit__(self, *_: object) -> None:
        self._engine.close()
