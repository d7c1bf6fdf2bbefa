"""The identity of an installation: shows whether catalogue, key and home belong together and are current.

Lives here: the identity, its file in the home, and raising the generation there.
Add here when home and catalogue must agree on something else.
Keep out: the catalogue's own copy (catalog), and handling of differences (runs.opening).

The generation rises with every version that is published or deleted: first in the catalogue, in the same
transaction, then here. After a kill the home may be behind its catalogue. It is ahead only if the catalogue was
replaced by an older one.
"""

import json
import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from cleanroom_pipelines.errors import IdentityError
from cleanroom_pipelines.storage.artifacts import write_durably
from cleanroom_pipelines.storage.processes import locked

WAY_BACK = "Restore a backup, or run `cleanroom recover` to see what can be rebuilt."
_LOG = logging.getLogger(__name__)
IDENTITY_FILE = "installation.json"
_LOCK = ".installation.lock"
_ID = re.compile("[0-9a-f]{32}")
_DIGEST = re.compile("[0-9a-f]{64}")


@dataclass(frozen=True)
class Identity:
    """Identity of an installation, as stored in its home and catalogue.

    Args:
        id: 32 hex digits at random.
        generation: Counter that rises with every published or deleted version, and never falls.
        key_digest: Digest that identifies the installation key without revealing it, 64 hex digits.
    """

    id: str
    generation: int
    key_digest: str

    def to_json(self) -> bytes:
        """Content of the identity file."""
        return json.dumps(asdict(self), indent=1).encode() + b"\n"


@dataclass(frozen=True)
class HomeIdentity:
    """Identity file of a home; safe for several processes and hosts.

    Args:
        root: The home's folder.
    """

    root: Path

    def read(self) -> Identity | None:
        """Read the identity; None if the file is missing.

        Raises:
            IdentityError: The file cannot be read.
        """
        try:
            raw = json.loads((self.root / IDENTITY_FILE).read_bytes())
            found = Identity(raw["id"], raw["generation"], raw["key_digest"])
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError):
            found = None
        if found is None or not _is_valid(found):
            raise IdentityError(f"The home's {IDENTITY_FILE} cannot be read.", remedy=WAY_BACK)
        return found

    def write(self, identity: Identity) -> None:
        """Replace the file; the caller must hold the lock."""
        write_durably(self.root / IDENTITY_FILE, identity.to_json())

    def raise_to(self, generation: int) -> None:
        """Raise the generation counter to at least this number.

        The catalogue has already committed. If the file cannot be written, the home stays behind and catches up
        when it is next opened.
        """
        try:
            with self.locked():
                found = self.read()
                if found is None:
                    _LOG.warning("The home's %s is missing; opening the home recreates it.", IDENTITY_FILE)
                elif found.generation < generation:
                    self.write(replace(found, generation=generation))
        except OSError as error:
            _LOG.warning("The home's %s could not be written (%s).", IDENTITY_FILE, type(error).__name__)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Lock the file against other writers until the `with` body ends."""
        with locked(self.root / _LOCK):
            yield


def _is_valid(identity: Identity) -> bool:
    texts = (identity.id, _ID), (identity.key_digest, _DIGEST)
    return type(identity.generation) is int and all(
        isinstance(text, str) and pattern.fullmatch(text) is not None for text, pattern in texts
    )
