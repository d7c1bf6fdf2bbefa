"""The identity of an installation: which catalogue, key and home belong together, and how far they are.

Lives here: the identity, its file in the home, and raising the generation there.
Add here when home and catalogue must agree on something more.
Keep out: the catalogue's own copy (catalog) and what follows when the two differ (runs.opening).

The generation rises with every version that is published or deleted: in the catalogue first, in the transaction
that does it, then here. So the home may be behind its catalogue, after a kill, and is never ahead of it, unless
the catalogue was replaced by an older one.
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

WAY_BACK = "Restore a backup, or see with `cleanroom recover` what can be rebuilt."
_LOG = logging.getLogger(__name__)
IDENTITY_FILE = "installation.json"
_LOCK = ".installation.lock"
_ID = re.compile("[0-9a-f]{32}")
_DIGEST = re.compile("[0-9a-f]{64}")


@dataclass(frozen=True)
class Identity:
    """Which installation something belongs to.

    Args:
        id: 32 hex digits at random.
        generation: How many versions were published or deleted, and more; it only rises.
        key_digest: What identifies the installation key without telling it, 64 hex digits.
    """

    id: str
    generation: int
    key_digest: str

    def to_json(self) -> bytes:
        """What the file of a home holds."""
        return json.dumps(asdict(self), indent=1).encode() + b"\n"


@dataclass(frozen=True)
class HomeIdentity:
    """The file in the home that holds the identity; safe to use from several processes and hosts.

    Args:
        root: The home's folder.
    """

    root: Path

    def read(self) -> Identity | None:
        """The identity that the home holds; None without the file.

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
        """Write the file anew; the caller holds the lock."""
        write_durably(self.root / IDENTITY_FILE, identity.to_json())

    def raise_to(self, generation: int) -> None:
        """Raise the generation, unless it is as high already.

        What the catalogue has done is done: where the file cannot be written, the home stays behind and is caught
        up when it is opened next.
        """
        try:
            with self.locked():
                found = self.read()
                if found is None:
                    _LOG.warning("The home's %s is missing; opening the home writes it anew.", IDENTITY_FILE)
                elif found.generation < generation:
                    self.write(replace(found, generation=generation))
        except OSError as error:
            _LOG.warning("The home's %s could not be written (%s).", IDENTITY_FILE, type(error).__name__)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep every other process from writing the file until the body ends."""
        with locked(self.root / _LOCK):
            yield


def _is_valid(identity: Identity) -> bool:
    texts = (identity.id, _ID), (identity.key_digest, _DIGEST)
    return type(identity.generation) is int and all(
        isinstance(text, str) and pattern.fullmatch(text) is not None for text, pattern in texts
    )
