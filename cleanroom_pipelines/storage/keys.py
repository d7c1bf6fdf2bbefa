"""The installation key, derived keys and digests.

Lives here: HKDF derivation, keyed digests, encryption of small secrets.
Add here when a new purpose needs its own key.
Keep out: `stable_hash`, which is public.
"""

import base64
import hashlib
import hmac
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from cleanroom_pipelines.errors import ConfigurationError
from cleanroom_pipelines.storage.artifacts import sync_folder

KEY_BYTES = 32
_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True)
class InstallationKey:
    """The installation's secret key of 32 bytes; never sent or printed.

    Args:
        secret: Content of the key file.
    """

    secret: bytes = field(repr=False)

    @classmethod
    def load_or_create(cls, path: Path, random_bytes: Callable[[int], bytes] = os.urandom) -> "InstallationKey":
        """Read the key file, or create it with mode 0600; safe if several processes start at once.

        Args:
            path: The key file.
            random_bytes: Returns n secret random bytes.

        Raises:
            ConfigurationError: The file cannot be created or read, or does not contain 32 bytes.
        """
        with _key_file_errors():
            if not path.exists():
                _create(path, random_bytes)
        return cls.load(path)

    @classmethod
    def load(cls, path: Path) -> "InstallationKey":
        """Read the key file.

        Raises:
            ConfigurationError: The file is missing, cannot be read, or does not contain 32 bytes.
        """
        with _key_file_errors():
            secret = path.read_bytes()
        if len(secret) != KEY_BYTES:
            raise ConfigurationError(
                "The installation key file does not contain 32 bytes.", remedy="Restore it from a backup."
            )
        return cls(secret)

    def derive(self, purpose: str) -> bytes:
        """Derive the 32-byte key for a purpose (HKDF-SHA256, RFC 5869)."""
        from cryptography.hazmat.primitives.hashes import SHA256
        from cryptography.hazmat.primitives.kdf.hkdf import HKDF

        return HKDF(algorithm=SHA256(), length=KEY_BYTES, salt=None, info=purpose.encode()).derive(self.secret)

    def digest(self, purpose: str, content: bytes) -> str:
        """Compute a keyed digest (HMAC-SHA256, hex); guesses of the content cannot be tested without the key."""
        return hmac.new(self.derive(purpose), content, hashlib.sha256).hexdigest()

    def digest_files(self, purpose: str, files: tuple[Path, ...]) -> str:
        """Compute a keyed digest of the contents of files, in the given order."""
        mac = hmac.new(self.derive(purpose), digestmod=hashlib.sha256)
        for file in files:
            mac.update(file.stat().st_size.to_bytes(8, "big"))
            with file.open("rb") as stream:
                while chunk := stream.read(_CHUNK_BYTES):
                    mac.update(chunk)
        return mac.hexdigest()

    def seal(self, purpose: str, content: bytes) -> bytes:
        """Encrypt and authenticate bytes (Fernet: AES-128-CBC, HMAC-SHA256)."""
        from cryptography.fernet import Fernet

        return Fernet(base64.urlsafe_b64encode(self.derive(purpose))).encrypt(content)

    def unseal(self, purpose: str, sealed: bytes) -> bytes:
        """Decrypt the result of `seal`.

        Raises:
            ConfigurationError: The bytes were altered, or encrypted with another installation's key.
        """
        from cryptography.fernet import Fernet, InvalidToken

        try:
            return Fernet(base64.urlsafe_b64encode(self.derive(purpose))).decrypt(sealed)
        except InvalidToken:
            raise ConfigurationError(
                "An encrypted file was altered or belongs to another installation.",
                remedy="Restore it from a backup.",
            ) from None


@contextmanager
def _key_file_errors() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ConfigurationError(
            f"The installation key file cannot be created or read ({type(error).__name__}).",
            remedy="Check CLEANROOM_KEY_FILE and its permissions.",
        ) from None


def _create(path: Path, random_bytes: Callable[[int], bytes]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{random_bytes(6).hex()}.draft")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(random_bytes(KEY_BYTES))
            stream.flush()
            os.fsync(stream.fileno())
        with suppress(FileExistsError):  # another process created the key first; use that one
            os.link(draft, path)
    finally:
        draft.unlink()
    sync_folder(path.parent)
