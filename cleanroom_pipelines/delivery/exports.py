"""Writing an export of an audience: its files, its manifest, and the changes since an earlier export.

Lives here: writing, verifying and reading the folder of an export.
Add here when an export's folder or manifest gets new content.
Keep out: choosing the users (similarity.rankings); the formats of the files (delivery.formats); scores, which
an export never contains.
"""

import csv
import hashlib
import json
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cleanroom_pipelines.delivery.formats import LISTS_OF_USERS, FileFormat, gzipped, list_format
from cleanroom_pipelines.delivery.parts import StagedPart, copy_part
from cleanroom_pipelines.errors import (
    ArtifactError,
    CleanroomError,
    DestinationError,
    NotFoundError,
    StorageFullError,
    UsageError,
)
from cleanroom_pipelines.storage.artifacts import full_disk_is_an_error
from cleanroom_pipelines.storage.buckets import ObjectPlace, folder_on_disk
from cleanroom_pipelines.storage.objects import UNFENCED, BucketError, Fence, FolderDraft

MANIFEST = "manifest.json"
ROWS_PER_PART = 1_000_000
_MAX_MANIFEST_BYTES = 16 << 20
_PARTS, _ADDED, _REMOVED = "part", "added", "removed"
# Errors of reading a file that does not match its manifest.
_UNREADABLE = (ValueError, KeyError, TypeError, AttributeError, csv.Error, EOFError, zlib.error)


@dataclass(frozen=True)
class ExportPart:
    """One file of an export.

    Args:
        name: Its name.
        n_users: Its number of rows: one per user, or one per hash in a file of hashes.
        n_bytes: Its size as stored, after compression.
        sha256: SHA-256 hex of those bytes.
    """

    name: str
    n_users: int
    n_bytes: int
    sha256: str


@dataclass(frozen=True)
class Changes:
    """The rows added and removed since an earlier export, to be written next to the full list.

    Args:
        since: The manifest of the earlier export.
        added: Batches of new rows.
        removed: Batches of removed rows.
    """

    since: str
    added: Iterable[Sequence[str]]
    removed: Iterable[Sequence[str]]


@dataclass(frozen=True)
class WrittenChanges:
    """The files of the rows that were added and removed since an earlier export."""

    since: str
    added: tuple[ExportPart, ...]
    removed: tuple[ExportPart, ...]


@dataclass(frozen=True)
class ExportManifest:
    """The manifest of an export: its files, with counts and digests, but no user data or scores.

    Args:
        export: Id of the export job.
        generation_job: Id of the generation job; None if the list has another source.
        requested: Users requested.
        delivered: Users written; fewer than requested if the population is smaller.
        format: `jsonl`, `csv`, `parquet` or `plain`; `hashes` or `ids` of a destination.
        parts: The files.
        is_gzipped: Whether each file is compressed.
        destination: The advertising destination whose rules the files follow.
        columns: The header of a destination's files.
        n_rows: Rows written, if a row is a hash instead of a user.
        changes: The files with the changes since an earlier export.
        facts: More counts, such as those of the control group; no user data.
        attempt: Number of the attempt that wrote it, from 1; None for a writer without a claim.
    """

    export: str
    generation_job: str | None
    requested: int
    delivered: int
    format: str
    parts: tuple[ExportPart, ...]
    is_gzipped: bool = False
    destination: str | None = None
    columns: tuple[str, ...] | None = None
    n_rows: int | None = None
    changes: WrittenChanges | None = None
    facts: Mapping[str, Any] | None = None
    attempt: int | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return the manifest as a JSON object, without fields that do not apply."""
        return {
            "export": self.export,
            **({"generationJob": self.generation_job} if self.generation_job is not None else {}),
            **({"attempt": self.attempt} if self.attempt is not None else {}),
            "requested": self.requested,
            "delivered": self.delivered,
            **({"rows": self.n_rows} if self.n_rows is not None else {}),
            "format": self.format,
            **({"destination": self.destination} if self.destination else {}),
            **({"columns": list(self.columns)} if self.columns else {}),
            **({"gzip": True} if self.is_gzipped else {}),
            **(self.facts or {}),
            "files": self._files(self.parts),
            **({"changes": self._changes(self.changes)} if self.changes else {}),
        }

    def _changes(self, changes: WrittenChanges) -> dict[str, Any]:
        return {
            "since": changes.since,
            "added": sum(part.n_users for part in changes.added),
            "removed": sum(part.n_users for part in changes.removed),
            "addedFiles": self._files(changes.added),
            "removedFiles": self._files(changes.removed),
        }

    def _files(self, parts: Sequence[ExportPart]) -> list[dict[str, Any]]:
        rows = "users" if self.n_rows is None else "rows"
        return [
            {"name": part.name, rows: part.n_users, "bytes": part.n_bytes, "sha256": part.sha256} for part in parts
        ]


@dataclass(frozen=True)
class ExportOptions:
    """Options of an export: its content, its format, and what its manifest says about it.

    Args:
        export: Id of the export job, for the manifest.
        requested: Users requested, control group included.
        format_: `jsonl` ({"user_id": …} per line), `csv` (header user_id), `parquet` (column user_id), `plain`
            (one id per line, no header), or the format of a destination.
        generation_job: Id of the generation job, for the manifest; None if there is none.
        max_rows: Maximum number of rows per file.
        gzip: Compress each file; its name then ends in `.gz`.
        ad_destination: The advertising destination whose rules the files follow, for the manifest.
        reveals: What the list reveals by design, for the manifest.
        delta_from: An earlier export; `deliver` writes the changes since then next to the parts.
    """

    export: str
    requested: int
    format_: str | FileFormat = "plain"
    generation_job: str | None = None
    max_rows: int = ROWS_PER_PART
    gzip: bool = False
    ad_destination: str | None = None
    reveals: Sequence[str] = ()
    delta_from: ObjectPlace | Path | None = None

    @property
    def file_format(self) -> FileFormat:
        """The format of the files."""
        return self.format_ if isinstance(self.format_, FileFormat) else list_format(self.format_)


@dataclass(frozen=True)
class ExportHooks:
    """Functions that are called while an export is written.

    Args:
        fence: Checked before anything becomes visible.
        on_users: Called with the number of rows written to parts so far.
        on_staged: Called with the manifest just before the last step, which publishes the export.
    """

    fence: Fence = UNFENCED
    on_users: Callable[[int], None] = lambda _: None
    on_staged: Callable[[ExportManifest], None] = lambda _: None


def write_export(
    destination: ObjectPlace,
    users: Iterable[Sequence[str]],
    options: ExportOptions,
    *,
    staged: Iterable[StagedPart] | None = None,
    delivered: int | None = None,
    changes: Changes | None = None,
    facts: Mapping[str, Any] | None = None,
    hooks: ExportHooks | None = None,
) -> ExportManifest:
    """Write users in rank order to `part-00000.<format>`, …, then `manifest.json`; equal input gives equal bytes.

    A local folder appears completely or not at all: it is written next to its target and renamed. On a real store
    each file is uploaded when it is complete, and the manifest last; without a manifest there is no export.

    Args:
        destination: The folder to create; what an earlier attempt at the same export left there is replaced.
        users: Batches of user ids, best first; for files of hashes, batches of their lines.
        options: Content and format of the export.
        staged: The same rows in files that have already been written (`parts`); then `users` is not read.
        delivered: Number of users that the rows represent; None if each row is a user.
        changes: Changes since an earlier export: `added-00000.<format>`, … and `removed-00000.<format>`, ….
        facts: Further counts for the manifest; never user data.
        hooks: Callbacks during the writing.

    Raises:
        ClaimLostError: The fence rejects this attempt, or a later attempt finished first; this attempt's files are
            removed.
        CancelledError: The fence reports a cancellation; everything written is removed.
        DestinationError: The destination cannot be written.
        StorageFullError: The disk is full.
        UsageError: The options contradict each other.
    """
    hooks = hooks or ExportHooks()
    files = _Files(options.file_format, options.max_rows, options.gzip)

    def attempt_of(manifest: bytes) -> int | None:
        try:
            found = json.loads(manifest)
            return int(found.get("attempt", 0)) if found["export"] == options.export else None
        except (ValueError, KeyError, TypeError, AttributeError):
            return None

    try:
        with (
            full_disk_is_an_error(),
            destination.drafting(
                owner=options.export, marker=MANIFEST, attempt_of=attempt_of, fence=hooks.fence
            ) as draft,
        ):
            if staged is None:
                parts = files.write(draft, _PARTS, users, hooks.on_users)
            else:
                parts = files.take(draft, _PARTS, staged, hooks.on_users)
            written = files.write_changes(draft, changes) if changes else None
            n_rows = sum(part.n_users for part in parts)
            manifest = ExportManifest(
                export=options.export,
                generation_job=options.generation_job,
                requested=options.requested,
                delivered=n_rows if delivered is None else delivered,
                format=files.format.name,
                parts=parts,
                is_gzipped=options.gzip,
                destination=options.ad_destination,
                columns=None if files.format.name in LISTS_OF_USERS else files.format.header,
                n_rows=None if files.format.holds_users else n_rows,
                changes=written,
                facts={**(facts or {}), **({"reveals": list(options.reveals)} if options.reveals else {})},
                attempt=hooks.fence.attempt or None,
            )
            hooks.on_staged(manifest)
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
            f"The export's folder cannot be created ({type(error).__name__}).",
            remedy="Remove the file or folder with the same name, then start the export again.",
        ) from None
    except OSError as error:
        raise DestinationError(
            f"The export's destination cannot be written ({type(error).__name__}).",
            remedy="Check that the server may write to it, then start the export again.",
        ) from None
    return manifest


def verify_export(place: ObjectPlace | Path) -> Mapping[str, Any]:
    """Check an export's files against its manifest and return the manifest.

    Args:
        place: The export's location, or a local folder that contains it.

    Raises:
        ArtifactError: The manifest or a file is missing or was altered, or a part was added.
        DestinationError: Its bucket cannot be read.
    """
    where = folder_on_disk(place.absolute()) if isinstance(place, Path) else place
    with _translated_errors():
        manifest = json.loads(_read_manifest(where))
        for part in _files_of(manifest):
            if _measure(where / Path(part["name"]).name) != (part["bytes"], part["sha256"]):
                raise ArtifactError("An exported file was altered.", remedy="Start the export again.")
        _check_counts(manifest)
        if _names_of_parts(where) != {part["name"] for part in _files_of(manifest)}:
            raise ArtifactError("A file was added to the export.", remedy="Start the export again.")
    return manifest  # type: ignore[no-any-return]


@dataclass(frozen=True)
class EarlierExport:
    """An existing export, to compare with a new one.

    Args:
        place: Where it is stored.
        export: Its id.
        format: The format of its files.
        destination: The advertising destination whose rules its files follow.
    """

    place: ObjectPlace
    export: str
    format: FileFormat
    destination: str | None
    _manifest: Mapping[str, Any]

    def rows(self, scratch: Path) -> Iterator[Sequence[str]]:
        """Yield the rows of the parts in order, in batches; each file is first copied into `scratch` and checked.

        Raises:
            ArtifactError: A file is missing or was altered.
            DestinationError: Its bucket cannot be read.
        """
        for part in self._manifest["files"]:
            copy = scratch / "earlier"
            with _translated_errors(), full_disk_is_an_error():
                if _measure(self.place / Path(part["name"]).name, copy) != (part["bytes"], part["sha256"]):
                    raise ArtifactError("The earlier export was altered.", remedy="Compare with another export.")
            rows = self.format.read(copy, gzip_=bool(self._manifest.get("gzip")))
            while (batch := _next_batch(rows)) is not None:
                yield batch
            copy.unlink()


def open_earlier_export(place: ObjectPlace | Path) -> EarlierExport:
    """Read the manifest of an earlier export.

    Args:
        place: The export's location, or a local folder that contains it.

    Raises:
        ArtifactError: There is no export, or the counts in its manifest do not add up.
        DestinationError: Its bucket cannot be read.
    """
    where = folder_on_disk(place.absolute()) if isinstance(place, Path) else place
    with _translated_errors():
        manifest = json.loads(_read_manifest(where))
        _check_counts(manifest)
        format_ = LISTS_OF_USERS.get(manifest["format"]) or FileFormat(
            str(manifest["format"]), "csv", tuple(manifest["columns"]), holds_users="rows" not in manifest
        )
        return EarlierExport(where, str(manifest["export"]), format_, manifest.get("destination"), manifest)


@dataclass(frozen=True)
class _Files:
    """How the files of one export are written: their format, compression and size."""

    format: FileFormat
    rows_per_part: int
    gzip: bool

    def __post_init__(self) -> None:
        if self.rows_per_part < 1:
            raise UsageError("The maximum number of rows per file is below 1.", remedy="Give at least 1.")
        if self.gzip and self.format.is_compressed:
            raise UsageError("Parquet files are already compressed.", remedy="Omit gzip.")

    def write(
        self,
        draft: FolderDraft,
        prefix: str,
        batches: Iterable[Sequence[str]],
        on_rows: Callable[[int], None] = lambda _: None,
    ) -> tuple[ExportPart, ...]:
        """Write a list as one or more files of limited length, without loading a whole file's rows into memory."""
        rows, parts = _RowStream(batches), list[ExportPart]()
        while not parts or rows.are_left():
            name = draft.named(self.format.file_name(prefix, len(parts), gzip_=self.gzip))
            with draft.creating(name) as sink, gzipped(sink) if self.gzip else nullcontext(sink) as stream:
                n_rows = self.format.write(stream, rows.take(self.rows_per_part))
            parts.append(ExportPart(name, n_rows, sink.n_bytes, sink.sha256))
            on_rows(sum(part.n_users for part in parts))
        return tuple(parts)

    def take(
        self, draft: FolderDraft, prefix: str, staged: Iterable[StagedPart], on_rows: Callable[[int], None]
    ) -> tuple[ExportPart, ...]:
        """Copy files that were staged on a cluster into the export.

        Raises:
            ArtifactError: A staged file was altered.
        """
        parts: list[ExportPart] = []
        for part in staged:
            name = draft.named(self.format.file_name(prefix, len(parts), gzip_=self.gzip))
            with draft.creating(name) as sink:
                copy_part(part, sink)
            if (sink.n_bytes, sink.sha256) != (part.n_bytes, part.sha256):
                raise ArtifactError("A staged file was altered.", remedy="Start the export again.")
            parts.append(ExportPart(name, part.n_users, sink.n_bytes, sink.sha256))
            on_rows(sum(part.n_users for part in parts))
        return tuple(parts)

    def write_changes(self, draft: FolderDraft, changes: Changes) -> WrittenChanges:
        """Write the added and the removed rows as separate lists."""
        added = self.write(draft, _ADDED, changes.added)
        return WrittenChanges(changes.since, added, self.write(draft, _REMOVED, changes.removed))


class _RowStream:
    """Splits a stream of row batches into pieces with the requested numbers of rows."""

    def __init__(self, batches: Iterable[Sequence[str]]) -> None:
        self._batches = iter(batches)
        self._batch: Sequence[str] = ()
        self._at = 0

    def are_left(self) -> bool:
        while self._at >= len(self._batch):
            batch = next(self._batches, None)
            if batch is None:
                return False
            self._batch, self._at = batch, 0
        return True

    def take(self, n_rows: int) -> Iterator[Sequence[str]]:
        while n_rows and self.are_left():
            piece = self._batch[self._at : self._at + n_rows]
            self._at += len(piece)
            n_rows -= len(piece)
            yield piece


@contextmanager
def _translated_errors() -> Iterator[None]:
    """Convert failures to read an export into a DestinationError or an ArtifactError."""
    try:
        yield
    except BucketError as error:
        raise DestinationError(
            f"The export cannot be read. {error.message}", remedy=error.remedy, problem=error.problem
        ) from None
    except CleanroomError as error:
        if not isinstance(error, NotFoundError):
            raise
        raise _incomplete() from None
    except _UNREADABLE:
        raise _incomplete() from None


def _next_batch(rows: Iterator[Sequence[str]]) -> Sequence[str] | None:
    try:
        return next(rows, None)
    except _UNREADABLE:
        pass
    # Outside the handler: errors of JSON and CSV contain the line they failed at, and __context__ would keep it.
    raise _incomplete()


def _incomplete() -> ArtifactError:
    return ArtifactError("The export is missing or incomplete.", remedy="Start the export again.")


def _files_of(manifest: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    changes = manifest.get("changes") or {"addedFiles": [], "removedFiles": []}
    return [*manifest["files"], *changes["addedFiles"], *changes["removedFiles"]]


def _check_counts(manifest: Mapping[str, Any]) -> None:
    rows, total = ("rows", "rows") if "rows" in manifest else ("users", "delivered")
    counts = [(manifest[total], manifest["files"])]
    if changes := manifest.get("changes"):
        counts += [(changes[name], changes[f"{name}Files"]) for name in (_ADDED, _REMOVED)]
    if any(sum(part[rows] for part in files) != n_rows for n_rows, files in counts):
        raise ArtifactError("The counts in the export's manifest do not add up.", remedy="Start the export again.")


def _read_manifest(place: ObjectPlace) -> bytes:
    file = place / MANIFEST
    with file.bucket.open(file.key) as opened:
        if opened.n_bytes > _MAX_MANIFEST_BYTES:
            raise ValueError("not a manifest of this package")
        return b"".join(opened.chunks())


def _measure(file: ObjectPlace, copy: Path | None = None) -> tuple[int, str]:
    n_bytes, digest = 0, hashlib.sha256()
    with file.bucket.open(file.key) as opened, copy.open("wb") if copy else nullcontext() as copied:
        for chunk in opened.chunks():
            n_bytes += len(chunk)
            digest.update(chunk)
            if copied:
                copied.write(chunk)
    return n_bytes, digest.hexdigest()


def _names_of_parts(place: ObjectPlace) -> set[str]:
    names = (entry.key.rsplit("/", 1)[-1] for entry in place.bucket.list(place.key, deep=False))
    return {name for name in names if name.startswith((f"{_PARTS}-", f"{_ADDED}-", f"{_REMOVED}-"))}
