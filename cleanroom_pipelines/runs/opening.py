"""Opening an installation after checking that its home, catalogue and key belong together.

Lives here: comparing identities, and creating the key and catalogue of an empty home.
Add here when another part must match the others.
Keep out: settings (installation.py) and rebuilding lost parts (recovery.py).

A missing part never causes a deletion or an empty replacement. A home ahead of its catalogue, a catalogue of
another installation and a lost key each raise an error that says how to recover. Three cases are repaired
automatically: a home behind its catalogue, a home from before the identity file existed, and a lost identity file
in a home whose key proves that they belong together.
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
    """The key and identity of an opened installation.

    Args:
        key: The installation key.
        identity: The installation's id, and its generation when it was opened.
    """

    key: InstallationKey
    identity: Identity


@dataclass(frozen=True)
class Parts:
    """The home, catalogue, store and key of an installation, and the check that they belong together.

    Args:
        home: Its folder.
        catalog: Its catalogue, not yet opened.
        store: Its artifacts.
        key_file: The file of its key.
        token_hex: Returns n random bytes as hex.
    """

    home: Home
    catalog: Catalog
    store: ArtifactStore
    key_file: Path
    token_hex: Callable[[int], str]

    def open(self) -> Opened:
        """Check that the parts belong together, create them in an empty home, and migrate the catalogue's schema.

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
        """Check again, without changes, that home and catalogue belong together: a file may have been replaced.

        Raises:
            IdentityError: They no longer belong together.
        """
        _, found = self._compare()
        _reject_other(opened.identity, found)

    def _compare(self) -> tuple[Identity | None, Identity | None]:
        """Read the identities of home and catalogue, and reject a catalogue that does not match the home."""
        # Home first: its generation follows the catalogue's, so the catalogue has already reached it.
        kept = HomeIdentity(self.home.root).read()
        found = self.catalog.ownership.identity()
        if kept is not None:
            _reject_other(kept, found)
        return kept, found

    def _claim(self) -> Opened:
        """Open an installation whose home or catalogue lacks its identity, and add it; the home is locked."""
        home = HomeIdentity(self.home.root)
        kept, found = self._compare()
        if found is not None:
            key = self._key_of(found)
            if kept is None:  # otherwise another process got there first
                _LOG.warning("The home's identity file was missing and was restored from its key and catalogue.")
                home.write(found)
            self.catalog.database.migrate()
            return Opened(key, found)
        is_blank, holds = self.catalog.ownership.is_blank(), self.has_data()
        if is_blank and holds:
            raise IdentityError(
                "The catalogue is missing or empty, but the home contains data of an installation.",
                remedy=WAY_BACK,
            )
        key = InstallationKey.load_or_create(self.key_file) if is_blank else load_key(self.key_file)
        if not is_blank:
            _LOG.warning("The home was created by an earlier release; its identity file has been added.")
        self.catalog.database.migrate()
        identity = self.catalog.ownership.identify(Identity(self.token_hex(16), 1, digest_of(key)))
        home.write(identity)
        return Opened(key, identity)

    def _key_of(self, identity: Identity) -> InstallationKey:
        key = load_key(self.key_file)
        if digest_of(key) != identity.key_digest:
            raise IdentityError(
                "The installation key does not belong to this installation.",
                remedy="Check CLEANROOM_KEY_FILE, or restore the key from a backup.",
            )
        return key

    def has_data(self) -> bool:
        """Whether the home contains data, so that it cannot be a new installation."""
        home = self.home
        if any(_holds_files(folder) for folder in (home.artifacts, home.audit, home.seeds, home.uploads)):
            return True
        # An object store may hold another installation's data; a home with a key was used before.
        return self.key_file.exists() and not self.store.is_empty()


def _reject_other(known: Identity, found: Identity | None) -> None:
    """Reject a catalogue that is lost, belongs to another installation, or is older than the home."""
    if found is None:
        raise IdentityError(
            "The catalogue of this home is missing, empty or older than the home.", remedy=WAY_BACK
        )
    if known.id != found.id:
        raise IdentityError(
            "The catalogue and the home belong to different installations.",
            remedy=f"Check CLEANROOM_HOME and CLEANROOM_CATALOG_URL. {WAY_BACK}",
        )
    if known.generation > found.generation:
        raise IdentityError(
            "The catalogue is older than the home: it lacks later versions or deletions.", remedy=WAY_BACK
        )


def digest_of(key: InstallationKey) -> str:
    """Return a digest that identifies a key without revealing it."""
    return key.digest(_PURPOSE, b"")


def load_key(file: Path) -> InstallationKey:
    """Read the installation key of a home that already contains data; never create a new key.

    Raises:
        IdentityError: The key is missing.
        ConfigurationError: The key is invalid.
    """
    if not file.exists():
        raise IdentityError(
            "The installation key is missing, and a new key could not open the data in this home.",
            remedy="Check CLEANROOM_KEY_FILE, or restore installation.key from a backup.",
        )
    return InstallationKey.load(file)


def _holds_files(folder: Path) -> bool:
    return any(path.is_file() for path in folder.rglob("*"))
