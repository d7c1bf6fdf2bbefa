"""The vault: stores uploads and seeds encrypted, and deletes them when they are no longer needed.

Lives here: encrypting files of any size as they arrive, decrypting them temporarily, deleting them; seed folders.
Add here when encrypted files need another format.
Keep out: small secrets (`keys.py`), and the content of files.

A file has a header of 12 random bytes and one frame per piece of 1 MiB, encrypted by AES-256-GCM under a key
derived from the installation's. The nonce is the header plus the piece's number, and the associated data marks the
last piece. A file that was truncated, reordered or mixed with another one cannot be decrypted.
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

from cleanroom_pipelines.errors import (
    CleanroomError,
    ConfigurationError,
    InputError,
    SeedError,
    StatusCode,
    UsageError,
)
from cleanroom_pipelines.storage.artifacts import full_disk_is_an_error, replacing, sync_folder
from cleanroom_pipelines.storage.home import Home
from cleanroom_pipelines.storage.keys import InstallationKey
from cleanroom_pipelines.storage.seed_parts import seed_suffix

_PIECE = 1 << 20
_TAG = 16
_NONCE = 12
_MIDDLE, _LAST = b"\0", b"\1"
_SLOT = re.compile(r"[0-9a-f][0-9a-f-]{7,99}")
_SEED = re.compile(r"seed\.[a-z.]{1,40}")
_SEALED = ".vault"
_MATCHED = f"matched{_SEALED}"
# Formats of earlier releases: kept seeds were encrypted as a whole, other seeds not at all.
_SEALED_BEFORE, _PURPOSE_BEFORE = ".sealed", "kept seeds"


@dataclass(frozen=True)
class Sealed:
    """An encrypted file in the vault.

    Args:
        location: Its location, for `opening` and `delete`.
        n_bytes: Size of its content, in bytes.
        digest: Keyed digest of its content, in hex; comparable only within this installation.
    """

    location: str
    n_bytes: int
    digest: str


class Vault:
    """The encrypted uploads of a home; their names are hex digits, never user input.

    Args:
        home: The installation's home.
        key: The installation key.
        random_bytes: Returns n random bytes.
    """

    _PURPOSE, _DIGESTS = "uploads", "upload digests"
    _LOCATION = re.compile(r"[0-9a-f]{8,40}")

    def __init__(
        self, home: Home, key: InstallationKey, random_bytes: Callable[[int], bytes] = os.urandom
    ) -> None:
        self._folder = self._folder_in(home).resolve()
        self._scratch = home.scratch
        self._key = key
        self._random_bytes = random_bytes

    def seal(self, location: str, chunks: Iterable[bytes]) -> Sealed:
        """Encrypt and store a file atomically.

        Args:
            location: Where to store it; for an upload 8 to 40 hex digits.
            chunks: The file's content.

        Raises:
            InputError: The location is invalid.
            StorageFullError: The disk is full; nothing is kept.
        """
        target = self._path(location)
        if target is None:
            raise InputError("The upload's hash is invalid.", remedy="Use the hash that the upload returned.")
        mac = hmac.new(self._key.derive(self._DIGESTS), digestmod=hashlib.sha256)
        n_bytes = 0
        with full_disk_is_an_error():
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            with replacing(target) as draft, draft.open("wb") as stream:
                frames = _Frames(self._key.derive(self._PURPOSE), self._random_bytes(_NONCE))
                stream.write(frames.nonce)
                for piece, is_last in _pieces(chunks):
                    mac.update(piece)
                    n_bytes += len(piece)
                    stream.write(frames.seal(piece, is_last=is_last))
        return Sealed(location, n_bytes, mac.hexdigest())

    @contextmanager
    def opening(self, location: str | None, digest: str | None = None) -> Iterator[Path]:
        """Open a decrypted copy of a file, which is deleted afterwards.

        Args:
            location: Where the file is stored.
            digest: Its expected digest. None: not checked.

        Raises:
            InputError: The file is missing. SeedError, a subclass, also if a seed was altered.
            ConfigurationError: An upload was altered, replaced, or encrypted with another key.
            StorageFullError: The disk has no space for the copy.
        """
        path = self._path(location)
        if path is None or not path.is_file():
            raise self._missing()
        with full_disk_is_an_error():
            folder = Path(tempfile.mkdtemp(prefix="vault-", dir=self._scratch))
        try:
            plain = folder / path.name.removesuffix(_SEALED).removesuffix(_SEALED_BEFORE)
            with full_disk_is_an_error(), path.open("rb") as source, plain.open("wb") as sink:
                sink.writelines(self._unsealed(path, source))
            if digest is not None and not hmac.compare_digest(self.digest(plain), digest):
                raise self._altered()
            yield plain
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def digest(self, file: Path) -> str:
        """Compute a keyed digest of a file's content, which can be compared only within this installation."""
        mac = hmac.new(self._key.derive(self._DIGESTS), digestmod=hashlib.sha256)
        with file.open("rb") as stream:
            for chunk in chunks_of(stream):
                mac.update(chunk)
        return mac.hexdigest()

    def delete(self, location: str | None) -> None:
        """Delete a file if it exists."""
        if path := self._path(location):
            path.unlink(missing_ok=True)

    def locations(self) -> frozenset[str]:
        """List the locations of all uploads in the vault."""
        if not self._folder.is_dir():
            return frozenset()
        return frozenset(path.name for path in self._folder.iterdir() if self._LOCATION.fullmatch(path.name))

    def _folder_in(self, home: Home) -> Path:
        return home.uploads

    def _path(self, location: str | None) -> Path | None:
        """Return the path of a file by its location; None if the location is invalid."""
        if location is None or not self._LOCATION.fullmatch(location):
            return None
        path = self._folder / location
        return path if os.path.realpath(path) == str(path) else None  # a link would lead elsewhere

    def _unsealed(self, path: Path, source: IO[bytes]) -> Iterator[bytes]:
        from cryptography.exceptions import InvalidTag

        try:
            yield from _Frames(self._key.derive(self._PURPOSE), source.read(_NONCE)).unseal_all(source)
        except (InvalidTag, ValueError):
            raise self._altered() from None

    def _missing(self) -> CleanroomError:
        return InputError("The uploaded file no longer exists.", remedy="Upload it again.")

    def _altered(self) -> CleanroomError:
        return ConfigurationError(
            "An encrypted upload was altered, replaced, or belongs to another installation.",
            remedy="Upload the file again.",
        )


class SeedVault(Vault):
    """The encrypted seeds of a home, each in its own slot: a folder named with hex digits and dashes.

    A matched seed is stored next to its seed, and deleted with it.
    Seeds stored by earlier releases, in another encryption format or unencrypted, can be opened too.
    """

    _PURPOSE, _DIGESTS = "seeds", "seed digests"
    _LOCATION = re.compile(f"{_SLOT.pattern}/({_SEED.pattern}|{re.escape(_MATCHED)})")

    def put(self, slot: str, file: Path, *, move: bool = False, digest: str | None = None) -> str:
        """Store a seed atomically, and return its location for the catalogue.

        Args:
            slot: Name of the seed's own folder, hex digits and dashes.
            file: The seed; its name is used only for the format.
            move: Delete the file afterwards.
            digest: Expected digest of the file, from `digest`.

        Raises:
            SeedError: The format is not supported, or the file changed meanwhile.
            StorageFullError: The disk is full; the file was not moved.
        """
        folder = self.folder_of(slot)
        location = f"{slot}/seed{seed_suffix(file)}{_SEALED}"
        try:
            with full_disk_is_an_error():
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.seal(location, self._checked(file, digest))
            if move:
                file.unlink()
            sync_folder(folder.parent)
        except BaseException:
            with suppress(OSError):
                folder.rmdir()  # fails if the slot holds something else
            raise
        return location

    def put_matched(self, location: str | None, content: bytes) -> None:
        """Store the result of matching a seed next to the seed; do nothing if the seed was deleted meanwhile."""
        if self._path(location) is not None:
            with suppress(FileNotFoundError):  # the slot is deleted with the seed, and is not created again
                self.seal(_matched(location), [content])

    def read_matched(self, location: str | None) -> bytes | None:
        """Read the match result that `put_matched` stored; None if it is missing or was altered."""
        with suppress(SeedError), self.opening(_matched(location)) as path:
            return path.read_bytes()
        return None

    def delete_matched(self, location: str | None) -> None:
        """Delete the match result of a seed, but not the seed itself."""
        if path := self._path(_matched(location)):
            path.unlink(missing_ok=True)

    def find(self, slot: str) -> str | None:
        """Return the location of the seed in a slot (a folder for one seed); None if the slot is empty.

        Raises:
            UsageError: The slot's name has other characters than hex digits and dashes.
        """
        folder = self.folder_of(slot)
        found = sorted(path.name for path in folder.glob("seed.*") if _SEED.fullmatch(path.name))
        return f"{slot}/{found[0]}" if found else None

    def folder_of(self, slot: str) -> Path:
        """Return the folder of a slot.

        Raises:
            UsageError: The slot's name has other characters than hex digits and dashes.
        """
        if not _SLOT.fullmatch(slot):
            raise UsageError("The seed slot's name is invalid.")
        return self._folder / slot

    def digest(self, file: Path) -> str:
        """Compute a keyed digest of a seed's bytes, which can be compared only within this installation."""
        return self._key.digest_files(self._DIGESTS, (file,))

    def delete(self, location: str | None) -> None:
        """Delete a seed and its slot if they exist.

        Args:
            location: Location from `put`.
        """
        if path := self._path(location):
            shutil.rmtree(path.parent, ignore_errors=True)

    def _folder_in(self, home: Home) -> Path:
        return home.seeds

    def _checked(self, file: Path, digest: str | None) -> Iterator[bytes]:
        """Yield the content of a file, then raise an error if its digest is not the expected one."""
        mac = hmac.new(self._key.derive(self._DIGESTS), digestmod=hashlib.sha256)
        mac.update(file.stat().st_size.to_bytes(8, "big"))
        with file.open("rb") as stream:
            for chunk in chunks_of(stream):
                mac.update(chunk)
                yield chunk
        if digest is not None and not hmac.compare_digest(mac.hexdigest(), digest):
            raise SeedError(
                "The seed changed while it was being ingested.",
                remedy="Start again with the complete seed.",
            )

    def _unsealed(self, path: Path, source: IO[bytes]) -> Iterator[bytes]:
        if path.suffix == _SEALED:
            yield from super()._unsealed(path, source)
        elif path.suffix == _SEALED_BEFORE:
            yield self._key.unseal(_PURPOSE_BEFORE, source.read())
        else:
            yield from chunks_of(source)

    def _missing(self) -> CleanroomError:
        return SeedError(
            "The seed of this job no longer exists.",
            remedy="Start a new job with the seed.",
            status_code=StatusCode.SEED_NOT_FOUND,
        )

    def _altered(self) -> CleanroomError:
        return SeedError(
            "The seed was altered after it was ingested.", remedy="Start again with the complete seed."
        )


def _matched(location: str | None) -> str:
    return f"{(location or '').partition('/')[0]}/{_MATCHED}"


class _Frames:
    """Encrypts or decrypts the pieces of one file, in order."""

    def __init__(self, secret: bytes, nonce: bytes) -> None:
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        if len(nonce) != _NONCE:
            raise ValueError("cut")
        self.nonce = nonce
        self._cipher = AESGCM(secret)
        self._number = 0

    def seal(self, piece: bytes, *, is_last: bool) -> bytes:
        return self._cipher.encrypt(self._next_nonce(), piece, _LAST if is_last else _MIDDLE)

    def unseal_all(self, source: IO[bytes]) -> Iterator[bytes]:
        sealed = source.read(_PIECE + _TAG)
        while True:
            following = source.read(_PIECE + _TAG)
            yield self._cipher.decrypt(self._next_nonce(), sealed, _MIDDLE if following else _LAST)
            if not following:
                return
            sealed = following

    def _next_nonce(self) -> bytes:
        # the last four bytes are the counter: 2^32 pieces are 4 PiB
        (start,) = struct.unpack(">I", self.nonce[-4:])
        number = (start + self._number) % (1 << 32)
        self._number += 1
        return self.nonce[:-4] + struct.pack(">I", number)


def _pieces(chunks: Iterable[bytes]) -> Iterator[tuple[bytes, bool]]:
    """Split the content into pieces of 1 MiB and mark the last one; an empty file has one empty piece."""
    waiting = bytearray()
    for chunk in chunks:
        waiting += chunk
        while len(waiting) > _PIECE:
            yield bytes(waiting[:_PIECE]), False
            del waiting[:_PIECE]
    yield bytes(waiting), True


def chunks_of(stream: IO[Any], n_bytes: int = _PIECE) -> Iterator[bytes]:
    """Read a binary stream in chunks."""
    while chunk := stream.read(n_bytes):
        yield chunk
