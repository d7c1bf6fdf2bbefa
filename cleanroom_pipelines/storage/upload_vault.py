"""Uploaded files until they are taken in: sealed, and gone afterwards.

Lives here: sealing a file of any size as it arrives, opening it for a moment, deleting it.
Add here when sealed files need another form.
Keep out: the seeds of the lookalike road (`seed_vault.py`), small secrets (`keys.py`) and what is in a file.

A file is a header and frames: 12 bytes at random, then for each piece of 1 MiB its AES-256-GCM under a key derived
from the installation's, the nonce being the header's with the piece's number, and the last piece marked as such in
what is authenticated: a file that was cut, reordered or mixed with another one does not open.
"""

import hashlib
import hmac
import os
import re
import shutil
import struct
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from cleanroom_pipelines.errors import ConfigurationError, InputError
from cleanroom_pipelines.storage.artifacts import full_disk_is_an_error, replacing
from cleanroom_pipelines.storage.home import Home
from cleanroom_pipelines.storage.keys import InstallationKey

_PURPOSE = "uploads"
_DIGESTS = "upload digests"
_PIECE = 1 << 20
_TAG = 16
_NONCE = 12
_ID = re.compile(r"[0-9a-f]{8,40}")
_MIDDLE, _LAST = b"\0", b"\1"


@dataclass(frozen=True)
class Sealed:
    """A file that lies in the vault.

    Args:
        location: What `opening` and `delete` take.
        n_bytes: The file's own size.
        digest: Keyed digest of its content, in hex: the same content gives the same in this installation only.
    """

    location: str
    n_bytes: int
    digest: str


class UploadVault:
    """The folder of uploads; names are made of hex alone, never of what a user typed.

    Args:
        home: Where it lies.
        key: The installation's.
        random_bytes: Gives n random bytes.
    """

    def __init__(
        self, home: Home, key: InstallationKey, random_bytes: Callable[[int], bytes] = os.urandom
    ) -> None:
        self._folder = home.uploads
        self._scratch = home.scratch
        self._key = key
        self._random_bytes = random_bytes

    def put(self, upload_id: str, chunks: Iterable[bytes]) -> Sealed:
        """Seal what comes, whole or not at all.

        Args:
            upload_id: 8 to 40 hex digits.
            chunks: The file's content.

        Raises:
            StorageFullError: The disk is full; nothing is left.
        """
        target = self._path(upload_id)
        mac = self._mac()
        n_bytes = 0
        with full_disk_is_an_error():
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            with replacing(target) as draft, draft.open("wb") as stream:
                frames = _Frames(self._key, self._random_bytes(_NONCE))
                stream.write(frames.nonce)
                for piece, is_last in _pieces(chunks):
                    mac.update(piece)
                    n_bytes += len(piece)
                    stream.write(frames.seal(piece, is_last=is_last))
        return Sealed(target.name, n_bytes, mac.hexdigest())

    @contextmanager
    def opening(self, location: str | None, digest: str | None = None) -> Iterator[Path]:
        """Give a readable copy of an upload; it is removed afterwards.

        Args:
            location: What `put` returned.
            digest: The digest that `put` returned, so that no other file is used in its place; None: not checked.

        Raises:
            InputError: The upload is gone.
            ConfigurationError: It was altered, is another one, or was sealed under another key.
            StorageFullError: The disk is too full for the copy.
        """
        path = self._path(location) if location and _ID.fullmatch(location) else None
        if path is None or not path.is_file():
            raise InputError("The uploaded file is no longer there.", remedy="Upload it again.")
        with full_disk_is_an_error():
            folder = Path(tempfile.mkdtemp(prefix="upload-", dir=self._scratch))
            try:
                plain, mac = folder / "upload", self._mac()
                with path.open("rb") as source, plain.open("wb") as sink:
                    frames = _Frames(self._key, source.read(_NONCE))
                    for piece in frames.unseal_all(source):
                        mac.update(piece)
                        sink.write(piece)
                if digest is not None and not hmac.compare_digest(mac.hexdigest(), digest):
                    raise ConfigurationError(
                        "A sealed upload is not the one that was taken in.", remedy="Upload the file again."
                    )
                yield plain
            finally:
                shutil.rmtree(folder, ignore_errors=True)

    def delete(self, location: str | None) -> None:
        """Delete an upload; nothing happens when it is gone."""
        if location and _ID.fullmatch(location):
            with suppress(FileNotFoundError):
                self._path(location).unlink()

    def locations(self) -> frozenset[str]:
        """What lies in the vault."""
        if not self._folder.is_dir():
            return frozenset()
        return frozenset(path.name for path in self._folder.iterdir() if _ID.fullmatch(path.name))

    def _mac(self) -> hmac.HMAC:
        return hmac.new(self._key.derive(_DIGESTS), digestmod=hashlib.sha256)

    def _path(self, upload_id: str) -> Path:
        if not _ID.fullmatch(upload_id):
            raise InputError("This is no upload.", remedy="Give the hash that the upload was answered with.")
        return self._folder / upload_id


class _Frames:
    """Seals and opens the pieces of one file in their order."""

    def __init__(self, key: InstallationKey, nonce: bytes) -> None:
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        self.nonce = nonce
        self._cipher = AESGCM(key.derive(_PURPOSE))
        self._number = 0

    def seal(self, piece: bytes, *, is_last: bool) -> bytes:
        return self._cipher.encrypt(self._next_nonce(), piece, _LAST if is_last else _MIDDLE)

    def unseal_all(self, source: IO[bytes]) -> Iterator[bytes]:
        from cryptography.exceptions import InvalidTag

        sealed = source.read(_PIECE + _TAG)
        while True:
            following = source.read(_PIECE + _TAG)
            try:
                yield self._cipher.decrypt(self._next_nonce(), sealed, _MIDDLE if following else _LAST)
            except (InvalidTag, ValueError):
                raise ConfigurationError(
                    "A sealed upload was altered or belongs to another installation.",
                    remedy="Upload the file again.",
                ) from None
            if not following:
                return
            sealed = following

    def _next_nonce(self) -> bytes:
        # the last four bytes count: 2^32 pieces are 4 PiB
        if len(self.nonce) != _NONCE:
            raise ConfigurationError("A sealed upload was cut.", remedy="Upload the file again.")
        (start,) = struct.unpack(">I", self.nonce[-4:])
        number = (start + self._number) % (1 << 32)
        self._number += 1
        return self.nonce[:-4] + struct.pack(">I", number)


def _pieces(chunks: Iterable[bytes]) -> Iterator[tuple[bytes, bool]]:
    """The content in pieces of 1 MiB, and whether each is the last; one empty piece of an empty file."""
    waiting = bytearray()
    for chunk in chunks:
        waiting += chunk
        while len(waiting) > _PIECE:
            yield bytes(waiting[:_PIECE]), False
            del waiting[:_PIECE]
    yield bytes(waiting), True


def chunks_of(stream: IO[Any], n_bytes: int = _PIECE) -> Iterator[bytes]:
    """What a binary stream holds, a piece at a time."""
    while chunk := stream.read(n_bytes):
        yield chunk
