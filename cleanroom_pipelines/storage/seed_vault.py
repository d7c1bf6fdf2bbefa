"""Seeds while a job needs them.

Lives here: taking a seed in, opening it, deleting it; sealed when it is kept for refreshes.
Keep out: reading what is in it (similarity.seeds, validation).
"""

import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from cleanroom_pipelines.errors import SeedError, StatusCode, UsageError
from cleanroom_pipelines.storage.artifacts import (
    full_disk_is_an_error,
    replacing,
    sync_folder,
    write_durably,
)
from cleanroom_pipelines.storage.home import Home
from cleanroom_pipelines.storage.keys import InstallationKey

SEED_SUFFIXES = tuple(
    suffix + packed for suffix in (".jsonl", ".json", ".csv", ".parquet") for packed in ("", ".gz")
)
_SEALED = ".sealed"
_PURPOSE, _DIGESTS = "kept seeds", "seed digests"
_ALTERED = "was altered after it was taken in"
_SLOT = re.compile(r"[0-9a-f][0-9a-f-]{7,99}")
_SEED = re.compile(r"seed\.[a-z.]{1,40}")


class SeedVault:
    """The folder of seeds; each lies in a slot whose name is made of hex alone, never of what a user typed."""

    def __init__(self, home: Home, key: InstallationKey) -> None:
        self._folder = home.seeds.resolve()
        self._scratch = home.scratch
        self._key = key

    def digest(self, file: Path) -> str:
        """Keyed digest of a seed's bytes: the same content gives the same digest in this installation only.

        Args:
            file: The seed.
        """
        return self._key.digest_files(_DIGESTS, (file,))

    def put(self, slot: str, file: Path, *, keep: bool, move: bool = False, digest: str | None = None) -> str:
        """Take a seed in, whole or not at all, and return its location for the catalogue.

        Args:
            slot: Name of a folder of its own, hex digits and dashes.
            file: The seed; its name gives only the format.
            keep: Seal it, so that refreshes can read it again.
            move: Take the file away from where it lies: only one that this process has made, since whoever has it
                open could go on writing to it.
            digest: What `digest` gave of it; what is taken in must have the same.

        Raises:
            SeedError: Its name ends in no format that is read here, or it changed meanwhile.
            StorageFullError: The disk is full; the file lies where it lay.
        """
        suffix = seed_suffix(file)
        folder = self.folder_of(slot)
        target = folder / f"seed{suffix}{_SEALED if keep else ''}"
        try:
            with full_disk_is_an_error():
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
                if keep:
                    content = file.read_bytes()
                    _refuse_other(digest, lambda: self._digest_of(content), "changed while it was taken in")
                    write_durably(target, self._key.seal(_PURPOSE, content))
                    if move:
                        file.unlink()
                elif move:
                    _move(file, target)
                else:
                    self._copy(file, target, digest)
                sync_folder(folder.parent)
        except BaseException:
            with suppress(OSError):
                folder.rmdir()  # only a slot in which nothing else lies
            raise
        return f"{folder.name}/{target.name}"

    def find(self, slot: str) -> str | None:
        """The location of the seed that lies in a slot; None when there is none.

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

    @contextmanager
    def opening(self, location: str | None, digest: str | None = None) -> Iterator[Path]:
        """Give a readable path to a seed; an unsealed copy is removed afterwards.

        Args:
            location: What `put` returned.
            digest: What `digest` gave when it was taken in, so that nothing else is used; None: not checked.

        Raises:
            SeedError: The seed is gone, or was altered.
            ConfigurationError: The sealed seed was altered, or sealed under another key.
            StorageFullError: The disk is too full for the unsealed copy.
        """
        path = self._path(location)
        if path is None or not path.is_file():
            raise SeedError(
                "The seed of this job is no longer there.",
                remedy="Start a new job with the seed.",
                status_code=StatusCode.SEED_NOT_FOUND,
            )
        if path.suffix != _SEALED:
            _refuse_other(digest, lambda: self.digest(path), _ALTERED)
            yield path
            return
        with full_disk_is_an_error():
            folder = Path(tempfile.mkdtemp(prefix="seed-", dir=self._scratch))
        try:
            plain = folder / path.name.removesuffix(_SEALED)
            with full_disk_is_an_error():
                plain.write_bytes(self._key.unseal(_PURPOSE, path.read_bytes()))
            _refuse_other(digest, lambda: self.digest(plain), _ALTERED)
            yield plain
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _digest_of(self, content: bytes) -> str:
        """The same as `digest` of a file with this content."""
        return self._key.digest(_DIGESTS, len(content).to_bytes(8, "big") + content)

    def _copy(self, file: Path, target: Path, digest: str | None) -> None:
        # under another name until it is whole: a seed cut short would be taken for the seed
        with replacing(target) as draft:
            shutil.copyfile(file, draft)
            _refuse_other(digest, lambda: self.digest(draft), "changed while it was taken in")

    def delete(self, location: str | None) -> None:
        """Delete a seed and its slot; nothing happens when it is gone.

        Args:
            location: What `put` returned.
        """
        path = self._path(location)
        if path is not None:
            shutil.rmtree(path.parent, ignore_errors=True)

    def _path(self, location: str | None) -> Path | None:
        """The path of a location that `put` gave, and of nothing else: slot, slash, seed."""
        slot, _, name = (location or "").partition("/")
        if not (_SLOT.fullmatch(slot) and _SEED.fullmatch(name)):
            return None
        path = self._folder / slot / name
        return path if os.path.realpath(path) == str(path) else None  # a link would lead elsewhere


def seed_suffix(file: Path) -> str:
    """The suffix that names a seed's format, such as `.csv.gz`.

    Raises:
        SeedError: The file's name ends in none that is read here.
    """
    for suffix in sorted(SEED_SUFFIXES, key=len, reverse=True):
        if file.name.lower().endswith(suffix):
            return suffix
    raise SeedError(
        "The seed has a format that is not read here.",
        remedy="Give .jsonl, .csv or .parquet, each also as .gz.",
    )


def _refuse_other(wanted: str | None, found: Callable[[], str], what: str) -> None:
    if wanted is not None and found() != wanted:
        raise SeedError(f"The seed {what}.", remedy="Start again with the seed, when it is complete.")


def _move(file: Path, target: Path) -> None:
    try:
        with file.open("rb") as stream:
            os.fsync(stream.fileno())
        os.replace(file, target)
        sync_folder(target.parent)
    except OSError:
        # scratch may be another file system: copy first, so that a crash leaves the file where it was
        with replacing(target) as draft:
            shutil.copyfile(file, draft)
        file.unlink()
