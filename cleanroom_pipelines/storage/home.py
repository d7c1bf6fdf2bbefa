"""The home: the folder of an installation.

Lives here: the names of its files and folders, and restricting access to its owner.
Keep out: the content of the files.
"""

import logging
import os
import stat
import unicodedata
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cleanroom_pipelines.errors import ConfigurationError
from cleanroom_pipelines.storage.processes import folder_of_process

if TYPE_CHECKING:
    from sqlalchemy import URL

# SQLite accepts paths of at most 512 bytes; the longest below a home is the event database of a Dagster run.
MAX_ROOT_BYTES = 400

# Umask of processes that work on a home: no access for group and others.
CLOSED_UMASK = 0o077
_LOG = logging.getLogger(__name__)
_OTHERS = stat.S_IRWXG | stat.S_IRWXO


@dataclass(frozen=True)
class Home:
    """The paths in an installation's folder (its home).

    Args:
        root: Absolute path of the folder.
    """

    root: Path

    @classmethod
    def open(cls, root: str | Path) -> "Home":
        """Open a folder as home; create missing folders, accessible to the owner only.

        Access of other users, from an earlier release or a manual restore, is removed.

        Raises:
            ConfigurationError: The folder cannot be created or written, or its path cannot be used.
        """
        home = cls(root_of(root))
        try:
            home.root.mkdir(mode=0o700, parents=True, exist_ok=True)
            for part in (
                home.accounts,
                home.inbox_seeds,
                home.artifacts,
                home.seeds,
                home.scratch_root,
                home.audit,
            ):
                part.mkdir(mode=0o700, parents=True, exist_ok=True)
            if any(_is_open_to_others(path) for path in (home.root, *home.root.iterdir())):
                home._close_to_others()
        except OSError as error:
            raise ConfigurationError(
                f"The home folder cannot be written ({type(error).__name__}).",
                remedy="Set CLEANROOM_HOME to a folder that you can write.",
            ) from None
        return home

    def _close_to_others(self) -> None:
        """Remove all permissions of group and others in the home."""
        n_closed = 0
        for path in (self.root, *self.root.rglob("*")):
            with suppress(FileNotFoundError):  # files may be deleted meanwhile
                if _is_open_to_others(path):
                    path.chmod(stat.S_IMODE(path.stat().st_mode) & ~_OTHERS)
                    n_closed += 1
        if n_closed:
            _LOG.warning("Removed other users' access to %d files and folders of the home.", n_closed)

    @property
    def catalog_url(self) -> "URL":
        """Default database URL of the catalogue: an SQLite file in the home."""
        from sqlalchemy import URL

        return URL.create("sqlite", database=str(self.root / "catalog.db"))

    @property
    def key_file(self) -> Path:
        """File with the 32 random bytes from which every key of the installation is derived."""
        return self.root / "installation.key"

    @property
    def accounts(self) -> Path:
        """Tables and local buckets of accounts, one folder per account."""
        return self.root / "accounts"

    @property
    def inbox(self) -> Path:
        """Folder in which operators put files to ingest."""
        return self.root / "inbox"

    @property
    def inbox_seeds(self) -> Path:
        """Seed files to ingest, one folder per configured audience model."""
        return self.inbox / "seeds"

    @property
    def artifacts(self) -> Path:
        """Default root of the artifact store."""
        return self.root / "artifacts"

    @property
    def seeds(self) -> Path:
        """Encrypted seeds of unfinished jobs, and of jobs that are refreshed."""
        return self.root / "seeds"

    @property
    def inbox_rooms(self) -> Path:
        """Data-room files to ingest: one folder per room, with one folder per dataset."""
        return self.inbox / "rooms"

    @property
    def uploads(self) -> Path:
        """Encrypted uploads that are not ingested yet; created with the first upload."""
        return self.root / "uploads"

    @property
    def scratch_root(self) -> Path:
        """Scratch folders of all processes; may be emptied when nothing runs."""
        return self.root / "scratch"

    @property
    def scratch(self) -> Path:
        """Spill files and drafts of this process; deleted after it has ended, even if it was killed."""
        return folder_of_process(self.scratch_root)

    @property
    def day_caches(self) -> Path:
        """Caches of training datasets (remote tables, counts per file); may be emptied when nothing runs."""
        return self.root / "cache"

    @property
    def audit(self) -> Path:
        """Folder of `audit.head` and of the audit log itself, unless a database server stores the log."""
        return self.root / "audit"

    @property
    def dagster_home(self) -> Path:
        """Dagster's own state, written by `cleanroom dev`."""
        return self.root / "dagster_home"


def root_of(path: str | Path) -> Path:
    """Resolve the absolute path of an existing or future home.

    Raises:
        ConfigurationError: The path is too long, is not UTF-8 or contains a control character.
    """
    try:
        root = Path(path).expanduser().resolve()
        encoded = str(root).encode()
    except (OSError, RuntimeError, ValueError):  # a loop of links, an unknown user; not UTF-8, NUL
        raise _wrong_root("is invalid") from None
    if any(unicodedata.category(character) == "Cc" for character in str(root)):
        raise _wrong_root("contains a line break or another control character")
    if len(encoded) > MAX_ROOT_BYTES:
        raise _wrong_root(f"is longer than {MAX_ROOT_BYTES} bytes")
    return root


def _wrong_root(what: str) -> ConfigurationError:
    return ConfigurationError(f"The path of the home {what}.", remedy="Set CLEANROOM_HOME to another folder.")


def _is_open_to_others(path: Path) -> bool:
    """Whether other users have access that this user can remove; always False for symbolic links.

    The root of a mounted volume may belong to another user, who controls its permissions.
    """
    with suppress(FileNotFoundError):
        status = path.lstat()
        is_ours = os.geteuid() in (0, status.st_uid)
        return is_ours and not stat.S_ISLNK(status.st_mode) and bool(status.st_mode & _OTHERS)
    return False
