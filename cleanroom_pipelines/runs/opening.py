"""Opening an installation: whether its home, its catalogue and its key belong together.

Lives here: the comparison, and what is created in an empty home.
Add here when a further part must belong to the others.
Keep out: settings (installation.py) and rebuilding what was lost (recovery.py).

Nothing is deleted, and nothing is replaced by something empty, because a part is missing: a home that is ahead of
its catalogue, a catalogue of another installation, a lost key each end in an error that names the way back. What
may be caught up on is: a home behind its catalogue, a home of the release before this file, a lost file of the
home whose key proves where it belongs.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from cleanroom_pipelines.catalog import Catalog
from cleanroom_pipelines.errors import IdentityError
from cleanroom_pipelines.storage import ArtifactStore, Home, InstallationKey
from cleanroom_pipelines.storage.identity import WAY_BACK, HomeIdentity, Identity

_LOG = logging.getLogger(__name__)
_PURPOSE = "identity of the installation"


@dataclass(frozen=True)
class Opened:
    """What opening an installation gives.

    Args:
        key: The installation key.
        identity: Which installation it is, and how far it was then.
    """

    key: InstallationKey
    identity: Identity


@dataclass(frozen=True)
class Parts:
    """What makes an installation; compared before any of it is used.

    Args:
        home: Its folder.
        catalog: Its catalogue, not yet opened.
        store: Its artifacts.
        key_file: Where its key is.
        token_hex: Gives n random bytes as hex.
    """

    home: Home
    catalog: Catalog
    store: ArtifactStore
    key_file: Path
    token_hex: Callable[[int], str]

    def open(self) -> Opened:
        """Compare the parts, create them in an empty home, and bring the catalogue's schema up to date.

        Raises:
            IdentityError: They do not belong together, or one is missing; nothing was changed.
        """
        kept, found = self._compare()
        if kept is None or found is None:
            with HomeIdentity(self.home.root).locked():
                return self._claim()
        key = self._key_of(found)
        self.catalog.database.migrate()
        if kept.generation < found.generation:
            HomeIdentity(self.home.root).raise_to(found.generation)
        return Opened(key, found)

    def check(self, opened: Opened) -> None:
        """Compare the parts again: a file may have been replaced since they were opened. Changes nothing.

        Raises:
            IdentityError: They do not belong together any more.
        """
        _, found = self._compare()
        _refuse_other(opened.identity, found)

    def _compare(self) -> tuple[Identity | None, Identity | None]:
        """What home and catalogue say of themselves; refuses a catalogue that the home contradicts."""
        # The home first: its generation follows the catalogue's, so that what it says was true there before.
        kept = HomeIdentity(self.home.root).read()
        found = self.catalog.ownership.identity()
        if kept is not None:
            _refuse_other(kept, found)
        return kept, found

    def _claim(self) -> Opened:
        """What `open` does where one of the two says nothing of itself; one process of the home at a time."""
        home = HomeIdentity(self.home.root)
        kept, found = self._compare()
        if found is not None:
            key = self._key_of(found)
            if kept is None:  # else another process was faster
                _LOG.warning("The home did not say which installation it is; its key and its catalogue do.")
                home.write(found)
            self.catalog.database.migrate()
            return Opened(key, found)
        is_blank, holds = self.catalog.ownership.is_blank(), self.holds_something()
        if is_blank and holds:
            raise IdentityError(
                "The catalogue is missing or empty, but the home holds what one catalogued.", remedy=WAY_BACK
            )
        key = InstallationKey.load_or_create(self.key_file) if is_blank else load_key(self.key_file)
        if not is_blank:
            _LOG.warning("The home is of an earlier release; from now on it says which installation it is.")
        self.catalog.database.migrate()
        identity = self.catalog.ownership.identify(Identity(self.token_hex(16), 1, digest_of(key)))
        home.write(identity)
        return Opened(key, identity)

    def _key_of(self, identity: Identity) -> InstallationKey:
        key = load_key(self.key_file)
        if digest_of(key) != identity.key_digest:
            raise IdentityError(
                "The installation key is another one than this installation was made with.",
                remedy="Check CLEANROOM_KEY_FILE, or take the key from a backup.",
            )
        return key

    def holds_something(self) -> bool:
        """Whether the home holds what only an installation that was used puts there."""
        home = self.home
        if any(_holds_files(folder) for folder in (home.artifacts, home.audit, home.seeds, home.uploads)):
            return True
        # In an object store another installation's may be; a home with a key was used before.
        return self.key_file.exists() and not self.store.is_empty()


def _refuse_other(known: Identity, found: Identity | None) -> None:
    """Refuse a catalogue that is not the known one, or is less far."""
    if found is None:
        raise IdentityError(
            "The catalogue of this home is missing, empty or older than the home.", remedy=WAY_BACK
        )
    if known.id != found.id:
        raise IdentityError(
            "The catalogue belongs to another installation than the home.",
            remedy=f"Check CLEANROOM_HOME and CLEANROOM_CATALOG_URL. {WAY_BACK}",
        )
    if known.generation > found.generation:
        raise IdentityError(
            "The catalogue is older than the home: versions were published or deleted since.", remedy=WAY_BACK
        )


def digest_of(key: InstallationKey) -> str:
    """What identifies a key without telling it."""
    return key.digest(_PURPOSE, b"")


def load_key(file: Path) -> InstallationKey:
    """Read the key of a home that was used; none is created.

    Raises:
        IdentityError: It is missing.
        ConfigurationError: It cannot be used.
    """
    if not file.exists():
        raise IdentityError(
            "The installation key is missing, and a new one would open nothing that this home holds.",
            remedy="Check CLEANROOM_KEY_FILE, or take installation.key from a backup.",
        )
    return InstallationKey.load(file)


def _holds_files(folder: Path) -> bool:
    return any(path.is_file() for path in folder.rglob("*"))
