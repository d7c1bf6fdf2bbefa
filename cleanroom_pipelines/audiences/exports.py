"""Writing an audience to its destination.

Lives here: the file formats of an export, its parts and its manifest.
Add here when a destination needs another format.
Keep out: choosing the users (similarity.ranking); scores: an export never carries them.
"""

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from cleanroom_pipelines.errors import (
    ArtifactError,
    CleanroomError,
    DestinationError,
    NotFoundError,
    StorageFullError,
)
from cleanroom_pipelines.storage.artifacts import full_disk_is_an_error
from cleanroom_pipelines.storage.destinations import Destination, folder_on_disk
from cleanroom_pipelines.storage.objects import BucketError, Sink

MANIFEST = "manifest.json"
ROWS_PER_PART = 1_000_000
_NEEDS_QUOTES = re.compile('[",\r\n]')
_MAX_MANIFEST_BYTES = 16 << 20


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
    """Write users in rank order as `part-00000.<format>`, … and then `manifest.json`; the same bytes everywhere.

    A local folder appears whole or not at all: it is written beside its place and renamed. On a real store each
    file is uploaded when it is complete and the manifest last; without it there is no export.

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

    def is_own(manifest: bytes) -> bool:
        try:
            return bool(json.loads(manifest)["export"] == export)
        except (ValueError, KeyError, TypeError):
            return False

    try:
        with (
            full_disk_is_an_error(),
            destination.drafting(owner=export, marker=MANIFEST, is_own=is_own) as draft,
        ):
            parts, delivered = [], 0
            for number, rows in enumerate(_in_parts(users, rows_per_part)):
                name = f"part-{number:05d}.{format_}"
                with draft.creating(name) as sink:
                    _WRITERS[format_](sink, rows)
                parts.append(ExportPart(name, len(rows), sink.n_bytes, sink.sha256))
                delivered += len(rows)
                on_users(delivered)
            manifest = ExportManifest(export, generation_job, requested, delivered, format_, tuple(parts))
            with draft.creating(MANIFEST) as sink:
                sink.write(json.dumps(manifest.as_dict(), indent=1).encode())
    except StorageFullError:
        raise
    except BucketError as error:
        raise DestinationError(
            f"The export's destination cannot be written. {error.message}",
            remedy=error.remedy,
            problem=error.problem,
        ) from None
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


def verify_export(place: Destination | Path) -> Mapping[str, Any]:
    """Check an export's files against its manifest and return the manifest.

    Args:
        place: Where the export was written, or the folder of this machine that holds it.

    Raises:
        ArtifactError: The manifest or a file is missing or was altered, or a part was added.
        DestinationError: Its bucket cannot be read.
    """
    where = folder_on_disk(place) if isinstance(place, Path) else place
    try:
        manifest = json.loads(_read_manifest(where))
        for part in manifest["files"]:
            if _measure(where / Path(part["name"]).name) != (part["bytes"], part["sha256"]):
                raise ArtifactError("An exported file was altered.", remedy="Start the export again.")
        if sum(part["users"] for part in manifest["files"]) != manifest["delivered"]:
            raise ArtifactError("The export's manifest contradicts itself.", remedy="Start the export again.")
        if _names_of_parts(where) != {part["name"] for part in manifest["files"]}:
            raise ArtifactError("A file was added to the export.", remedy="Start the export again.")
    except BucketError as error:
        raise DestinationError(
            f"The export cannot be read. {error.message}", remedy=error.remedy, problem=error.problem
        ) from None
    except CleanroomError as error:
        if not isinstance(error, NotFoundError):
            raise
        raise _incomplete() from None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise _incomplete() from None
    return manifest  # type: ignore[no-any-return]


def _incomplete() -> ArtifactError:
    return ArtifactError("The export is missing or incomplete.", remedy="Start the export again.")


def _read_manifest(place: Destination) -> bytes:
    file = place / MANIFEST
    with file.bucket.open(file.key) as opened:
        if opened.n_bytes > _MAX_MANIFEST_BYTES:
            raise ValueError("no manifest of ours")
        return b"".join(opened.chunks())


def _measure(file: Destination) -> tuple[int, str]:
    n_bytes, digest = 0, hashlib.sha256()
    with file.bucket.open(file.key) as opened:
        for chunk in opened.chunks():
            n_bytes += len(chunk)
            digest.update(chunk)
    return n_bytes, digest.hexdigest()


def _names_of_parts(place: Destination) -> set[str]:
    names = set[str]()
    after: str | None = ""
    while after is not None:
        page = place.bucket.list(place.key, after=after, deep=False)
        names |= {entry.key.rsplit("/", 1)[-1] for entry in page.entries}
        after = page.after
    return {name for name in names if name.startswith("part-")}


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


def _write_jsonl(sink: Sink, rows: Sequence[str]) -> None:
    for start in range(0, len(rows), 10_000):
        lines = (json.dumps({"user_id": user}, ensure_ascii=False) for user in rows[start : start + 10_000])
        sink.write(("\n".join(lines) + "\n").encode())


def _write_csv(sink: Sink, rows: Sequence[str]) -> None:
    # Not csv.writer: before Python 3.13 it leaves a bare carriage return unquoted, and readers end the line there.
    sink.write(b"user_id\n")
    for start in range(0, len(rows), 10_000):
        sink.write("".join(f"{_csv_cell(user)}\n" for user in rows[start : start + 10_000]).encode())


def _csv_cell(text: str) -> str:
    if text and not _NEEDS_QUOTES.search(text):
        return text
    return '"' + text.replace('"', '""') + '"'


def _write_parquet(sink: Sink, rows: Sequence[str]) -> None:
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"user_id": pa.array(rows, pa.string())}), sink, compression="zstd")


_WRITERS = {"jsonl": _write_jsonl, "csv": _write_csv, "parquet": _write_parquet}
