"""The home: one folder that holds an installation.

Lives here: the names of what is in it, and that nobody but its owner may read it.
Keep out: what the files hold.
"""

import logging
import os
import stat
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from cleanroom_pipelines.errors import ConfigurationError

# What a process that works on a home lets others do with the files it creates there: nothing.
CLOSED_UMASK = 0o077
_LOG = logging.getLogger(__name__)
_OTHERS = stat.S_IRWXG | stat.S_IRWXO


@dataclass(frozen=True)
class Home:
    """The layout of one installation's folder (DESIGN: where state lives).

    Args:
        root: Absolute path of the folder.
    """

    root: Path

    @classmethod
    def open(cls, root: str | Path) -> "Home":
        """Use a folder as home, creating it and its parts, readable by its owner only.

        A home that others may read, of an earlier release or restored by hand, is closed to them.

        Raises:
            ConfigurationError: The folder cannot be made or written.
        """
        home = cls(Path(root).expanduser().resolve())
        try:
            home.root.mkdir(mode=0o700, parents=True, exist_ok=True)
            for part in (home.accounts, home.inbox_seeds, home.artifacts, home.seeds, home.scratch, home.audit):
                part.mkdir(mode=0o700, parents=True, exist_ok=True)
            if any(_is_open_to_others(path) for path in (home.root, *home.root.iterdir())):
                home._close_to_others()
        except OSError as error:
            raise ConfigurationError(
                f"The home folder cannot be written ({type(error).__name__}).",
                remedy="Set CLEANROOM_HOME to a folder you may write.",
            ) from None
        return home

    def _close_to_others(self) -> None:
        """Take all rights of group and others from everything in the home."""
        n_closed = 0
        for path in (self.root, *self.root.rglob("*")):
            with suppress(FileNotFoundError):  # files come and go meanwhile
                if _is_open_to_others(path):
                    path.chmod(stat.S_IMODE(path.stat().st_mode) & ~_OTHERS)
                    n_closed += 1
        if n_closed:
            _LOG.warning("Other users had rights to %d files and folders of the home; now none has.", n_closed)

    @property
    def catalog_url(self) -> str:
        """The default database URL of the catalogue: SQLite beside the artifacts."""
        return f"sqlite:///{self.root / 'catalog.db'}"

    @property
    def key_file(self) -> Path:
        """32 random bytes from which every key of the installation is derived."""
        return self.root / "installation.key"

    @property
    def accounts(self) -> Path:
        """Warehouses and local buckets, a folder an account."""
        return self.root / "accounts"

    @property
    def inbox(self) -> Path:
        """Everything operators drop."""
        return self.root / "inbox"

    @property
    def inbox_seeds(self) -> Path:
        """Dropped seeds, a folder a configured audience model."""
        return self.inbox / "seeds"

    @property
    def artifacts(self) -> Path:
        """Default root of the artifact store."""
        return self.root / "artifacts"

    @property
    def seeds(self) -> Path:
        """Seeds of jobs that have not ended, and encrypted ones that a refresh needs."""
        return self.root / "seeds"

    @property
    def inbox_rooms(self) -> Path:
        """Files dropped for data rooms, a folder a room, in it one a dataset."""
        return self.inbox / "rooms"

    @property
    def uploads(self) -> Path:
        """Sealed uploads until they are taken in; made when the first comes."""
        return self.root / "uploads"

    @property
    def scratch(self) -> Path:
        """Spill files and drafts; may be emptied when nothing runs."""
        return self.root / "scratch"

    @property
    def day_caches(self) -> Path:
        """Counted interactions per source file, a folder a training dataset; may be emptied at any time."""
        return self.root / "cache"

    @property
    def audit(self) -> Path:
        """The audit log and the record of its newest entries; made when the first entry is written."""
        return self.root / "audit"

    @property
    def dagster_home(self) -> Path:
        """Dagster's own state, written by `cleanroom dev`."""
        return self.root / "dagster_home"


def _is_open_to_others(path: Path) -> bool:
    """Whether group or others have rights that this user may take from them; a link's own mode means nothing.

    The root of a mounted volume may belong to another user, who decides who may enter.
    """
    with suppress(FileNotFoundError):
        status = path.lstat()
        is_ours = os.geteuid() in (0, status.st_uid)
        return is_ours and not stat.S_ISLNK(status.st_mode) and bool(status.st_mode & _OTHERS)
    return False
