"""The home: one folder that holds an installation.

Lives here: the names of what lies in it.
Keep out: what the files hold.
"""

from dataclasses import dataclass
from pathlib import Path

from cleanroom_pipelines.errors import ConfigurationError


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
            ConfigurationError: The folder cannot be made or written.
        """
        home = cls(Path(root).expanduser().resolve())
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
