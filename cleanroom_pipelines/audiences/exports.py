"""Writing an audience to its destination.

Lives here: the file formats of an export, its parts and its manifest.
Add here when a destination needs another format.
Keep out: choosing the users (similarity.ranking); scores: an export never carries them.
"""

import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import pyarrow as pa

from cleanroom_pipelines.errors import ArtifactError, DestinationError, StorageFullError
from cleanroom_pipelines.storage.artifacts import (
    full_disk_is_an_error,
    sha256_of,
    sync_folder,
    write_durably,
)
from cleanroom_pipelines.storage.destinations import Destination

MANIFEST = "manifest.json"
ROWS_PER_PART = 1_000_000
_NEEDS_QUOTES = re.compile('[",\r\n]')


@dataclass(frozen=True)
class ExportPart:
    """One file of an export."""

    name: str
    n_users: int
    n_bytes: int
    sha256: str


@dataclass(frozen=True)
class ExportManifest:
    """What an export's manifest says: counts and digests, no user data and no scores.

    Args:
        export: Id of the export job.
        generation_job: Id of the generation job.
        requested: Users asked for.
        delivered: Users written; fewer when the population is smaller than the size.
        format: `jsonl`, `csv` or `parquet`.
        parts: The files.
    """

    export: str
    generation_job: str
    requested: int
    delivered: int
    format: str
    parts: tuple[ExportPart, ...]

    def as_dict(self) -> dict[str, Any]:
        """The JSON shape."""
        return {
            "export": self.export,
            "generationJob": self.generation_job,
            "requested": self.requested,
            "delivered": self.delivered,
            "format": self.format,
            "files": [
                {"name": part.name, "users": part.n_users, "bytes": part.n_bytes, "sha256": part.sha256}
                for part in self.parts
            ],
        }


def write_export(
    destination: Destination,
    users: Iterable[Sequence[str]],
    *,
    export: str,
    generation_job: str,
    requested: int,
    format_: str,
    rows_per_part: int = ROWS_PER_PART,
    on_users: Callable[[int], None] = lambda _: None,
) -> ExportManifest:
    """Write users in rank order as `part-00000.<format>`, … and then `manifest.json`.

    The folder appears whole or not at all: it is written beside its place and renamed.

    Args:
        destination: The folder to create; what an earlier attempt at the same export left there is replaced.
        users: Batches of user ids, best first.
        export: Id of the export job, for the manifest.
        generation_job: Id of the generation job, for the manifest.
        requested: Users asked for.
        format_: `jsonl` ({"user_id": …} a line), `csv` (header user_id) or `parquet` (column user_id).
        rows_per_part: Most users in a file.
        on_users: Called with the number of users written so far.

    Raises:
        DestinationError: The place cannot be written.
        StorageFullError: The disk is full.
    """
    try:
        with full_disk_is_an_error():
            destination.folder.parent.mkdir(parents=True, exist_ok=True)
            draft = Path(tempfile.mkdtemp(prefix=".export-", dir=destination.folder.parent))
            try:
                parts, delivered = [], 0
                for number, rows in enumerate(_in_parts(users, rows_per_part)):
                    path = draft / f"part-{number:05d}.{format_}"
                    _WRITERS[format_](path, rows)
                    parts.append(ExportPart(path.name, len(rows), path.stat().st_size, sha256_of(path)))
                    delivered += len(rows)
                    on_users(delivered)
                manifest = ExportManifest(export, generation_job, requested, delivered, format_, tuple(parts))
                write_durably(draft / MANIFEST, json.dumps(manifest.as_dict(), indent=1).encode())
                _replace_folder(draft, destination.folder, export)
            finally:
                shutil.rmtree(draft, ignore_errors=True)
    except StorageFullError:
        raise
    except (FileExistsError, NotADirectoryError, IsADirectoryError) as error:
        raise DestinationError(
            f"The export's destination cannot be made ({type(error).__name__}).",
            remedy="Remove what lies in its way, then start the export again.",
        ) from None
    except OSError as error:
        raise DestinationError(
            f"The export's destination cannot be written ({type(error).__name__}).",
            remedy="Check who may write to it, then start the export again.",
        ) from None
    return manifest


def verify_export(folder: Path) -> Mapping[str, Any]:
    """Check an export's files against its manifest and return the manifest.

    Raises:
        ArtifactError: The manifest or a file is missing or was altered, or a part was added.
    """
    try:
        manifest = json.loads((folder / MANIFEST).read_text())
        for part in manifest["files"]:
            path = folder / Path(part["name"]).name
            if path.stat().st_size != part["bytes"] or sha256_of(path) != part["sha256"]:
                raise ArtifactError("An exported file was altered.", remedy="Start the export again.")
        if sum(part["users"] for part in manifest["files"]) != manifest["delivered"]:
            raise ArtifactError("The export's manifest contradicts itself.", remedy="Start the export again.")
        if {path.name for path in folder.glob("part-*")} != {part["name"] for part in manifest["files"]}:
            raise ArtifactError("A file was added to the export.", remedy="Start the export again.")
    except (OSError, ValueError, KeyError, TypeError):
        raise ArtifactError("The export is missing or incomplete.", remedy="Start the export again.") from None
    return manifest  # type: ignore[no-any-return]


def _in_parts(batches: Iterable[Sequence[str]], rows_per_part: int) -> Iterator[list[str]]:
    part: list[str] = []
    wrote = False
    for batch in batches:
        for start in range(0, len(batch), rows_per_part):
            part.extend(batch[start : start + rows_per_part])
            while len(part) >= rows_per_part:
                yield part[:rows_per_part]
                wrote, part = True, part[rows_per_part:]
    if part or not wrote:
        yield part


def _write_jsonl(path: Path, rows: Sequence[str]) -> None:
    with _durable(path) as stream:
        for start in range(0, len(rows), 10_000):
            lines = (json.dumps({"user_id": user}, ensure_ascii=False) for user in rows[start : start + 10_000])
            stream.write(("\n".join(lines) + "\n").encode())


def _write_csv(path: Path, rows: Sequence[str]) -> None:
    # Not csv.writer: before Python 3.13 it leaves a bare carriage return unquoted, and readers end the line there.
    with _durable(path) as stream:
        stream.write(b"user_id\n")
        for start in range(0, len(rows), 10_000):
            stream.write("".join(f"{_csv_cell(user)}\n" for user in rows[start : start + 10_000]).encode())


def _csv_cell(text: str) -> str:
    if text and not _NEEDS_QUOTES.search(text):
        return text
    return '"' + text.replace('"', '""') + '"'


def _write_parquet(path: Path, rows: Sequence[str]) -> None:
    import pyarrow.parquet as pq

    with _durable(path) as stream:
        pq.write_table(pa.table({"user_id": pa.array(rows, pa.string())}), stream, compression="zstd")


_WRITERS = {"jsonl": _write_jsonl, "csv": _write_csv, "parquet": _write_parquet}


@contextmanager
def _durable(path: Path) -> Iterator[IO[bytes]]:
    with path.open("wb") as stream:
        yield stream
        stream.flush()
        os.fsync(stream.fileno())


def _replace_folder(draft: Path, folder: Path, export: str) -> None:
    if os.path.lexists(folder):
        # an attempt that was cut off after the rename: the same users again, so the newer one may take its place
        if not _is_attempt(folder, export):
            raise FileExistsError
        old = Path(tempfile.mkdtemp(prefix=".export-", dir=folder.parent))
        os.rename(folder, old / folder.name)
        try:
            os.rename(draft, folder)
        except BaseException:
            os.rename(old / folder.name, folder)
            raise
        finally:
            shutil.rmtree(old, ignore_errors=True)
    else:
        os.rename(draft, folder)
    sync_folder(folder.parent)


def _is_attempt(folder: Path, export: str) -> bool:
    """Whether a folder is empty or holds an attempt at this very export; anything else is somebody's."""
    if folder.is_symlink() or not folder.is_dir():
        return False
    try:
        return bool(json.loads((folder / MANIFEST).read_text())["export"] == export)
    except (OSError, ValueError, KeyError, TypeError):
        return not any(folder.iterdir())
