"""Writing the files of an export on a cluster.

Lives here: files written in parallel by the engine's tasks, each with its own slice of the users.
Add here when files are staged in another way.
Keep out: the export's folder and manifest (exports), and selecting the users (similarity.rankings).

The executors write the files to a staging folder, from which this process copies them to the export's destination.
So a bucket's keys are not sent to executors, and an export appears completely or not at all.
"""

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa

from cleanroom_pipelines.delivery.formats import FileFormat, gzipped
from cleanroom_pipelines.engine import Engine


class UserSlice(Protocol):
    """Consecutive users of an audience, which can be sent to another machine and read there."""

    def user_ids(self) -> Iterator[pa.Array]:
        """Yield the user ids in order, in batches of strings."""
        ...


@dataclass(frozen=True)
class StagedPart:
    """One file of an export, staged and not yet copied to the destination.

    Args:
        path: Its staged file.
        n_users: Its number of rows.
        n_bytes: Its size.
        sha256: SHA-256 hex of its bytes.
    """

    path: Path
    n_users: int
    n_bytes: int
    sha256: str


def stage_parts(
    engine: Engine, slices: Sequence[UserSlice], format_: FileFormat, folder: Path, *, gzip: bool
) -> Iterator[StagedPart]:
    """Write one file per slice of users to the staging folder, several files at a time.

    Args:
        engine: The engine whose tasks write the files.
        slices: The users of each file.
        format_: The format of the files.
        folder: Existing directory that the tasks can access.
        gzip: Compress each file.
    """
    numbered = list(enumerate(slices))
    for number, table in enumerate(engine.run_tasks(_StagePart(format_, folder, gzip), numbered)):
        row = table.to_pylist()[0]
        yield StagedPart(_path_of(folder, number), row["n_users"], row["n_bytes"], row["sha256"])


@dataclass(frozen=True)
class _StagePart:
    format: FileFormat
    folder: Path
    gzip: bool

    def __call__(self, task: tuple[int, UserSlice]) -> pa.Table:
        number, users = task
        path = _path_of(self.folder, number)
        with path.open("wb") as file, gzipped(file) if self.gzip else nullcontext(file) as sink:
            n_users = self.format.write(sink, (batch.to_pylist() for batch in users.user_ids()))
        with path.open("rb") as written:
            digest = hashlib.file_digest(written, "sha256").hexdigest()
        return pa.table({"n_users": [n_users], "n_bytes": [path.stat().st_size], "sha256": [digest]})


def _path_of(folder: Path, number: int) -> Path:
    return folder / f"{number:05d}.staged"


def copy_part(part: StagedPart, sink: Any) -> None:
    """Copy a staged file into a file of the export, and delete it from the staging folder."""
    with part.path.open("rb") as source:
        while chunk := source.read(1 << 20):
            sink.write(chunk)
    part.path.unlink()
