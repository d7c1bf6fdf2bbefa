r"""Paths that mean themselves to every library.

Lives here: telling a path in which a library would see more than a path, and plain paths that lead to the same.
Add here when another character of a path gets a meaning.
Keep out: putting a path into SQL (quoting) or into a URL of ours (SQLAlchemy's `URL.create`).

DuckDB reads `*`, `?` and `[` in the path of a file as a pattern, which it has no way to escape, and a `\` in the
path of a folder that it may read as `/`, which makes it another folder; links it follows before it looks what it
may read. Dagster finds its settings by patterns too, so that it would pass over them or read another home's, and
joins paths to the text of URLs: `?` ends a path there, and `%41` is an A. A home may lie in a folder of such a
name.
"""

import fcntl
import os
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from cleanroom_pipelines.errors import ConfigurationError

_WITH_A_MEANING = frozenset("*?[\\%")


def is_plain(path: Path) -> bool:
    """Whether a path has no character with a meaning of its own."""
    return _WITH_A_MEANING.isdisjoint(str(path))


class PlainPaths:
    """Plain paths to files and folders: their own, or those of links, which are removed when this is closed.

    Args:
        folder: Where links may be made if its own path is plain; else in the system's folder for temporary files.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._opened = ExitStack()
        self._folder = folder if folder is not None and is_plain(folder) else None
        self._n_links = 0

    def of(self, path: Path) -> Path:
        """A plain path to a file or folder, with the same end of its name where that tells a format.

        Args:
            path: Absolute.

        Raises:
            ConfigurationError: The system has no folder for temporary files with a plain path.
        """
        if is_plain(path):
            return path
        if self._folder is None:
            self._folder = self._opened.enter_context(_folder_for_links())
        self._n_links += 1
        link = self._folder / f"link-{self._n_links}{'.gz' if path.suffix == '.gz' else ''}"
        link.symlink_to(path)
        return link

    def close(self) -> None:
        """Remove the links that lie in the system's folder; others go with the folder that was given."""
        self._opened.close()


@contextmanager
def plain_folder(folder: Path) -> Iterator[Path]:
    """Give a plain path to one existing folder, as PlainPaths does."""
    names = PlainPaths()
    try:
        yield names.of(folder)
    finally:
        names.close()


@contextmanager
def _folder_for_links() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="cleanroom-", dir=_temporary()) as name:
        locked = os.open(name, os.O_RDONLY)
        try:
            fcntl.flock(locked, fcntl.LOCK_SH)  # systemd deletes nothing old from a folder that is locked
            yield Path(name)
        finally:
            os.close(locked)


def _temporary() -> Path:
    for folder in (Path(tempfile.gettempdir()).absolute(), Path("/tmp"), Path("/var/tmp")):  # noqa: S108 - mkdtemp
        if is_plain(folder) and os.access(folder, os.W_OK | os.X_OK):
            return folder
    raise ConfigurationError(
        "No folder for temporary files has a path without *, ?, [, \\ and %.", remedy="Set TMPDIR to one that has."
    )
