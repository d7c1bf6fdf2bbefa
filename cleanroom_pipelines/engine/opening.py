"""Opening an engine.

Lives here: the choice of the engine by its URL.
Keep out: settings of one engine.
"""

from collections.abc import Iterable
from pathlib import Path

from cleanroom_pipelines.engine.base import Engine, EngineSettings


def open_engine(settings: EngineSettings | None = None, *, paths: Iterable[str | Path] = ()) -> "OpenEngine":
    """Open a locked-down engine as a context manager.

    Args:
        settings: How much of the machine it may use.
        paths: The files and folders it may read and write; everything else is refused by the engine itself.

    Returns:
        A context manager that gives an `Engine` and closes it.
    """
    return OpenEngine(settings or EngineSettings(), tuple(Path(path) for path in paths))


class OpenEngine:
    """Gives the engine on entry and closes it on exit, whatever the body raised."""

    def __init__(self, settings: EngineSettings, paths: tuple[Path, ...]) -> None:
        self._settings = settings
        self._paths = paths

    def __enter__(self) -> Engine:
        from cleanroom_pipelines.engine.duckdb_engine import DuckDBEngine

        self._engine = DuckDBEngine(self._settings, self._paths)
        return self._engine

    def __exit__(self, *_: object) -> None:
        self._engine.close()
