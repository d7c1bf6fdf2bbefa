"""The home: one folder that holds an installation.

Lives here: the names of what lies in it.
Keep out: what the files hold.
"""

import unicodedata
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cleanroom_pipelines.errors import ConfigurationError

if TYPE_CHECKING:
    from sqlalchemy import URL

# SQLite takes no path longer than 512 bytes, and the longest below a home is that of the events of a Dagster run.
MAX_ROOT_BYTES = 400


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

        Raises:
            ConfigurationError: The folder cannot be made or written, or its path cannot be used.
        """
        home = cls(root_of(root))
        try:
            home.root.mkdir(parents=True, exist_ok=True)
            for part in (home.accounts, home.inbox_seeds, home.artifacts, home.seeds, home.scratch, home.audit):
                part.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigurationError(
                f"The home folder cannot be written ({type(error).__name__}).",
                remedy="Set CLEANROOM_HOME to a folder you may write.",
            ) from None
        return home

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
