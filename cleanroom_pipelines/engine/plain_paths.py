r"""Plain paths: paths without characters that libraries treat specially.

Lives here: detecting special characters in paths, and creating links with plain paths to such files and folders.
Add here when a library treats another character specially.
Keep out: putting paths into SQL (`sql.py`) or into our URLs (SQLAlchemy's `URL.create`).

DuckDB reads `*`, `?` and `[` in a file's path as a pattern and cannot escape them, and reads `\` in an allowed
folder's path as `/`, which is another folder. It resolves links before it checks access. Dagster also finds its
settings by patterns, so it would miss them or read another home's, and builds URLs from paths as text: `?` ends a
path there, and `%41` becomes an A. A home may be in a folder with such a name.
"""

import fcntl
import os
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from cleanroom_pipelines.errors import ConfigurationError

_SPECIAL_CHARACTERS = frozenset("*?[\\%")


def is_plain(path: Path) -> bool:
    """Whether a path has no special characters."""
    return _SPECIAL_CHARACTERS.isdisjoint(str(path))


class PlainPaths:
    """Gives files and folders plain paths: their own, or temporary links, which `close` removes.

    Args:
        folder: Folder for links if its own path is plain; otherwise the system's temporary folder is used.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._opened = ExitStack()
        self._folder = folder if folder is not None and is_plain(folder) else None
        self._n_links = 0

    def of(self, path: Path) -> Path:
        """Return a plain path to a file or folder: its own, or that of a new link, which has no suffix.

        Args:
            path: Absolute.

        Raises:
            ConfigurationError: The system has no temporary folder with a plain path.
        """
        if is_plain(path):
            return path
        if self._folder is None:
            self._folder = self._opened.enter_context(_folder_for_links())
        self._n_links += 1
        link = self._folder / f"link-{self._n_links}"
        link.symlink_to(path)
        return link

    def close(self) -> None:
        """Remove the links in the system's temporary folder; links in `folder` are deleted with `folder`."""
        self._opened.close()


@contextmanager
def plain_folder(folder: Path) -> Iterator[Path]:
    """Yield a path without special characters to an existing folder: its own path, or a temporary link."""
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
            fcntl.flock(locked, fcntl.LOCK_SH)  # systemd does not clean up locked folders
            yield Path(name)
        finally:
            os.close(locked)


def _temporary() -> Path:
    for folder in (Path(tempfile.gettempdir()).absolute(), Path("/tmp"), Path("/var/tmp")):  # noqa: S108 - mkdtemp
        if is_plain(folder) and os.access(folder, os.W_OK | os.X_OK):
            return folder
    raise ConfigurationError(
        "The path of every temporary folder contains at least one of *, ?, [, \\ and %.",
        remedy="Set TMPDIR to a folder without these characters in its path.",
    )
