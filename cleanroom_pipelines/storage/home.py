"""The home: one folder that holds an installation.

Lives here: the names of what is in it, and that nobody but its owner may read it.
Keep out: what the files hold.
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

# SQLite takes no path longer than 512 bytes, and the longest below a home is that of the events of a Dagster run.
MAX_ROOT_BYTES = 400

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
            ConfigurationError: The folder cannot be made or written, or its path cannot be used.
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
    def catalog_url(self) -> "URL":
        """The default database URL of the catalogue: SQLite beside the artifacts."""
        from sqlalchemy import URL

        return URL.create("sqlite", database=str(self.root / "catalog.db"))

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
        """Sealed seeds of jobs that have not ended, and those that a refresh needs."""
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
    def scratch_root(self) -> Path:
        """The scratch folders of all processes; may be emptied when nothing runs."""
        return self.root / "scratch"

    @property
    def scratch(self) -> Path:
        """Spill files and drafts of this process; deleted once it has ended, however it did."""
        return folder_of_process(self.scratch_root)

    @property
    def day_caches(self) -> Path:
        """Counted interactions per source file, a folder a training dataset; may be emptied at any time."""
        return self.root / "cache"

    @property
    def audit(self) -> Path:
        """The audit log, unless a server holds it, and the record of its newest entries."""
        return self.root / "audit"

    @property
    def dagster_home(self) -> Path:
        """Dagster's own state, written by `cleanroom dev`."""
        return self.root / "dagster_home"


def root_of(path: str | Path) -> Path:
    """The absolute path of a home that is or will be there.

    Raises:
        ConfigurationError: Its path is too long, is not UTF-8 or holds a control character.
    """
    try:
        root = Path(path).expanduser().resolve()
        encoded = str(root).encode()
    except (OSError, RuntimeError, ValueError):  # a loop of links, an unknown user; not UTF-8, NUL
        raise _wrong_root("cannot be read") from None
    if any(unicodedata.category(character) == "Cc" for character in str(root)):
        raise _wrong_root("holds a line break or another control character")
    if len(encoded) > MAX_ROOT_BYTES:
        raise _wrong_root(f"is longer than {MAX_ROOT_BYTES} bytes")
    return root


def _wrong_root(what: str) -> ConfigurationError:
    return ConfigurationError(f"The path of the home {what}.", remedy="Set CLEANROOM_HOME to another folder.")


def _is_open_to_others(path: Path) -> bool:
    """Whether group or others have rights that this user may take from them; a link's own mode means nothing.

    The root of a mounted volume may belong to another user, who decides who may enter.
    """
    with suppress(FileNotFoundError):
        status = path.lstat()
        is_ours = os.geteuid() in (0, status.st_uid)
        return is_ours and not stat.S_ISLNK(status.st_mode) and bool(status.st_mode & _OTHERS)
    return False
