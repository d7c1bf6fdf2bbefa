"""The vault: uploads and seeds while they are needed, sealed, and deleted afterwards.

Lives here: sealing a file of any size as it arrives, opening it for a moment, deleting it; the slots of seeds.
Add here when sealed files need another form.
Keep out: small secrets (`keys.py`) and what is in a file.

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
# Of the releases before: a seed that was kept was sealed whole, another one not at all.
_SEALED_BEFORE, _PURPOSE_BEFORE = ".sealed", "kept seeds"


@dataclass(frozen=True)
class Sealed:
    """A file in the vault.

    Args:
        location: What `opening` and `delete` take.
        n_bytes: The file's own size.
        digest: Keyed digest of its content, in hex: the same content gives the same in this installation only.
    """

    location: str
    n_bytes: int
    digest: str


class Vault:
    """The sealed uploads of a home; names are made of hex alone, never of what a user typed.

    Args:
        home: Where it is.
        key: The installation's.
        random_bytes: Gives n random bytes.
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
        """Seal what comes, whole or not at all.

        Args:
            location: Where: for an upload 8 to 40 hex digits.
            chunks: The file's content.

        Raises:
            InputError: There can be nothing at the location.
            StorageFullError: The disk is full; nothing is left.
        """
        target = self._path(location)
        if target is None:
            raise InputError("This is not an upload.", remedy="Give the hash that the upload was answered with.")
        mac = hmac.new(self._key.derive(self._DIGESTS), digestmod=hashlib.sha256)
        n_bytes = 0
        with full_disk_is_an_error():
            target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
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
        """Give a readable copy of a file; it is removed afterwards.

        Args:
            location: Where it was put.
            digest: Its digest then, so that no other file is used in its place; None: not checked.

        Raises:
            InputError: The file is missing; a seed that was altered is a SeedError, too.
            ConfigurationError: An upload was altered, is another one, or was sealed under another key.
            StorageFullError: The disk is too full for the copy.
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
        """Keyed digest of a file's content: the same gives the same in this installation only."""
        mac = hmac.new(self._key.derive(self._DIGESTS), digestmod=hashlib.sha256)
        with file.open("rb") as stream:
            for chunk in chunks_of(stream):
                mac.update(chunk)
        return mac.hexdigest()

    def delete(self, location: str | None) -> None:
        """Delete a file; nothing happens when it is missing."""
        if path := self._path(location):
            path.unlink(missing_ok=True)

    def locations(self) -> frozenset[str]:
        """The uploads in the vault."""
        if not self._folder.is_dir():
            return frozenset()
        return frozenset(path.name for path in self._folder.iterdir() if self._LOCATION.fullmatch(path.name))

    def _folder_in(self, home: Home) -> Path:
        return home.uploads

    def _path(self, location: str | None) -> Path | None:
        """The path of a location, and of nothing else."""
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
        return InputError("The uploaded file is no longer there.", remedy="Upload it again.")

    def _altered(self) -> CleanroomError:
        return ConfigurationError(
            "A sealed upload was altered, is another one or belongs to another installation.",
            remedy="Upload the file again.",
        )


class SeedVault(Vault):
    """The sealed seeds of a home; each is in a slot of its own, a folder whose name is made of hex alone.

    Seeds that a release before put into it, sealed in another form or not at all, open as well.
    """

    _PURPOSE, _DIGESTS = "seeds", "seed digests"
    _LOCATION = re.compile(f"{_SLOT.pattern}/{_SEED.pattern}")

    def put(self, slot: str, file: Path, *, move: bool = False, digest: str | None = None) -> str:
        """Take a seed in, whole or not at all, and return its location for the catalogue.

        Args:
            slot: Name of a folder of its own, hex digits and dashes.
            file: The seed; its name gives only the format.
            move: Delete the file afterwards.
            digest: What `digest` gave of it; what is taken in must have the same.

        Raises:
            SeedError: Its name ends in no format that is read here, or it changed meanwhile.
            StorageFullError: The disk is full; the file is where it was.
        """
        folder = self.folder_of(slot)
        location = f"{slot}/seed{seed_suffix(file)}{_SEALED}"
        try:
            self.seal(location, self._checked(file, digest))
            if move:
                file.unlink()
            sync_folder(folder.parent)
        except BaseException:
            with suppress(OSError):
                folder.rmdir()  # only a slot that holds nothing else
            raise
        return location

    def find(self, slot: str) -> str | None:
        """The location of the seed in a slot; None when there is none.

        Raises:
            UsageError: The slot's name is not made of hex digits and dashes.
        """
        folder = self.folder_of(slot)
        found = sorted(path.name for path in folder.glob("seed.*") if _SEED.fullmatch(path.name))
        return f"{slot}/{found[0]}" if found else None

    def folder_of(self, slot: str) -> Path:
        """The folder of a slot.

        Raises:
            UsageError: The slot's name is not made of hex digits and dashes.
        """
        if not _SLOT.fullmatch(slot):
            raise UsageError("This is not a slot for a seed.")
        return self._folder / slot

    def digest(self, file: Path) -> str:
        """Keyed digest of a seed's bytes: the same content gives the same digest in this installation only."""
        return self._key.digest_files(self._DIGESTS, (file,))

    def delete(self, location: str | None) -> None:
        """Delete a seed and its slot; nothing happens when it is missing.

        Args:
            location: What `put` returned.
        """
        if path := self._path(location):
            shutil.rmtree(path.parent, ignore_errors=True)

    def _folder_in(self, home: Home) -> Path:
        return home.seeds

    def _checked(self, file: Path, digest: str | None) -> Iterator[bytes]:
        """The content of a file; its end is only reached if it is the one that is wanted."""
        mac = hmac.new(self._key.derive(self._DIGESTS), digestmod=hashlib.sha256)
        mac.update(file.stat().st_size.to_bytes(8, "big"))
        with file.open("rb") as stream:
            for chunk in chunks_of(stream):
                mac.update(chunk)
                yield chunk
        if digest is not None and not hmac.compare_digest(mac.hexdigest(), digest):
            raise SeedError(
                "The seed changed while it was taken in.",
                remedy="Start again with the seed, when it is complete.",
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
            "The seed of this job is no longer there.",
            remedy="Start a new job with the seed.",
            status_code=StatusCode.SEED_NOT_FOUND,
        )

    def _altered(self) -> CleanroomError:
        return SeedError(
            "The seed was altered after it was taken in.", remedy="Start again with the seed, when it is complete."
        )


class _Frames:
    """Seals and opens the pieces of one file in their order."""

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
        # the last four bytes count: 2^32 pieces are 4 PiB
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
