"""Seeds while a job needs them.

Lives here: taking a seed in, opening it, deleting it; sealed when it is kept for refreshes.
Keep out: reading what is in it (similarity.seeds, validation).
"""

import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from cleanroom_pipelines.errors import SeedError, StatusCode, UsageError
from cleanroom_pipelines.storage.artifacts import full_disk_is_an_error, replacing, write_durably
from cleanroom_pipelines.storage.home import Home
from cleanroom_pipelines.storage.keys import InstallationKey

SEED_SUFFIXES = tuple(
    suffix + packed for suffix in (".jsonl", ".json", ".csv", ".parquet") for packed in ("", ".gz")
)
_SEALED = ".sealed"
_PURPOSE = "kept seeds"
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
        return self._key.digest_files("seed digests", (file,))

    def put(self, slot: str, file: Path, *, keep: bool, move: bool = False) -> str:
        """Take a seed in, whole or not at all, and return its location for the catalogue.

        Args:
            slot: Name of a folder of its own, hex digits and dashes.
            file: The seed; its name gives only the format.
            keep: Seal it, so that refreshes can read it again.
            move: Take the file away from where it lies (a drop).

        Raises:
            SeedError: Its name ends in no format that is read here.
            StorageFullError: The disk is full; the file lies where it lay.
        """
        suffix = seed_suffix(file)
        folder = self.folder_of(slot)
        target = folder / f"seed{suffix}{_SEALED if keep else ''}"
        try:
            with full_disk_is_an_error():
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
                if keep:
                    write_durably(target, self._key.seal(_PURPOSE, file.read_bytes()))
                    if move:
                        file.unlink()
                elif move:
                    _move(file, target)
                else:
                    _copy(file, target)
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
    def opening(self, location: str | None) -> Iterator[Path]:
        """Give a readable path to a seed; an unsealed copy is removed afterwards.

        Args:
            location: What `put` returned.

        Raises:
            SeedError: The seed is gone.
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
            yield path
            return
        with full_disk_is_an_error():
            folder = Path(tempfile.mkdtemp(prefix="seed-", dir=self._scratch))
        try:
            plain = folder / path.name.removesuffix(_SEALED)
            with full_disk_is_an_error():
                plain.write_bytes(self._key.unseal(_PURPOSE, path.read_bytes()))
            yield plain
        finally:
            shutil.rmtree(folder, ignore_errors=True)

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


def _move(file: Path, target: Path) -> None:
    try:
        os.replace(file, target)
    except OSError:
        # the inbox may be another file system: copy first, so that a crash leaves the drop where it was
        _copy(file, target)
        file.unlink()


def _copy(file: Path, target: Path) -> None:
    # under another name until it is whole: a seed cut short would be taken for the seed
    with replacing(target) as draft:
        shutil.copyfile(file, draft)
