"""Seeds while a job needs them.

Lives here: taking a seed in, opening it, deleting it; sealed when it is kept for refreshes.
Keep out: reading what is in it (similarity.seeds, validation).
"""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cleanroom_pipelines.errors import SeedError, StatusCode
from cleanroom_pipelines.storage.artifacts import full_disk_is_an_error, write_durably
from cleanroom_pipelines.storage.home import Home
from cleanroom_pipelines.storage.keys import InstallationKey
from cleanroom_pipelines.storage.layout import path_of_partition

SEED_SUFFIXES = tuple(
    suffix + packed for suffix in (".jsonl", ".json", ".csv", ".parquet") for packed in ("", ".gz")
)
_SEALED = ".sealed"
_PURPOSE = "kept seeds"


class SeedVault:
    """The folder of seeds, one per generation job, in a path made of the job's random hex alone."""

    def __init__(self, home: Home, key: InstallationKey) -> None:
        self._folder = home.seeds
        self._scratch = home.scratch
        self._key = key

    def digest(self, file: Path) -> str:
        """Keyed digest of a seed's bytes: the same content gives the same digest in this installation only."""
        return self._key.digest_files("seed digests", (file,))

    def put(self, job_id: str, file: Path, *, keep: bool, move: bool = False) -> str:
        """Take a seed in and return its location for the catalogue.

        Args:
            job_id: Partition key of the generation job.
            file: The seed; its name gives only the format.
            keep: Seal it, so that refreshes can read it again.
            move: Take the file away from where it lies (a drop), atomically when it is not sealed.
        """
        suffix = seed_suffix(file)
        folder = self._folder / path_of_partition(job_id)
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with full_disk_is_an_error():
            if keep:
                target = folder / f"seed{suffix}{_SEALED}"
                write_durably(target, self._key.seal(_PURPOSE, file.read_bytes()))
                if move:
                    file.unlink()
            else:
                target = folder / f"seed{suffix}"
                if move:
                    _move(file, target)
                else:
                    shutil.copyfile(file, target)
        return f"{folder.name}/{target.name}"

    @contextmanager
    def opening(self, location: str | None) -> Iterator[Path]:
        """Give a readable path to a seed; an unsealed copy is removed afterwards.

        Raises:
            SeedError: The seed is gone.
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
        folder = Path(tempfile.mkdtemp(prefix="seed-", dir=self._scratch))
        try:
            plain = folder / path.name.removesuffix(_SEALED)
            plain.write_bytes(self._key.unseal(_PURPOSE, path.read_bytes()))
            yield plain
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def delete(self, job_id: str) -> None:
        """Delete whatever is held for a job."""
        shutil.rmtree(self._folder / path_of_partition(job_id), ignore_errors=True)

    def _path(self, location: str | None) -> Path | None:
        if not location:
            return None
        path = (self._folder / location).resolve()
        return path if path.is_relative_to(self._folder.resolve()) else None


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
        shutil.copyfile(file, target)
        file.unlink()
