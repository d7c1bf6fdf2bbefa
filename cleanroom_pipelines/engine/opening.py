"""Opening an engine.

Lives here: the choice of the engine by its URL.
Keep out: settings of one engine.
"""

from collections.abc import Iterable
from pathlib import Path

from cleanroom_pipelines.engine.base import Engine, EngineSettings


def open_engine(settings: EngineSettings | None = None, *, paths: Iterable[str | Path] = ()) -> "OpenEngine":
    """Open a locked-down DuckDB on this machine as a context manager, whatever URL the settings name.

    Args:
        settings: How much of the machine it may use.
        paths: The files and folders it may read and write; everything else is refused by the engine itself.

    Returns:
        A context manager that gives an `Engine` and closes it.
    """
    return OpenEngine(settings or EngineSettings(), tuple(Path(path) for path in paths))


def open_configured_engine(
    settings: EngineSettings | None = None, *, paths: Iterable[str | Path] = ()
) -> "OpenEngine":
    """Open the engine that the settings name, for steps that grow with the users: on a cluster where there is one.

    Args:
        settings: Which engine, and how much of this machine it may use.
        paths: The files and folders it may read and write. DuckDB refuses everything else; Spark cannot, and sees
            what its executors see: only queries of ours run there.

    Returns:
        A context manager that gives an `Engine` and closes it.

    Raises:
        ConfigurationError: On entry: no such engine, its packages are missing, or the cluster cannot be reached.
    """
    chosen = settings or EngineSettings()
    return OpenEngine(chosen, tuple(Path(path) for path in paths), url=chosen.url)


class OpenEngine:
    """Gives the engine on entry and closes it on exit, whatever the body raised."""

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
