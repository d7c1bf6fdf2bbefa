"""Snapshots: local copies of a remote table, with a manifest.

Lives here: fetching only what changed, the manifest, and the lock that keeps a copy unchanged while it is read.
Add here when the manifest needs another field.
Keep out: what a table consists of (objects, tables).

A file keeps its path and its modification time for as long as its content is the same, so the cache of
counts per file, whose keys are both, counts only new files.
"""

import fcntl
import glob
import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

from cleanroom_pipelines.engine import Runtime

_DATA, _DRAFTS, _MANIFEST, _LOCK = "data", "drafts", "manifest.json", "lock"
_FORMAT_VERSION = 1
_WAIT_SECONDS = 0.2


@dataclass(frozen=True)
class Piece:
    """One file of a remote table.

    Args:
        name: Relative path of its local copy.
        identity: Changes whenever its content does.
        write: Writes its content to a new file, calling a check between blocks that may raise, and returns its
            number of rows if known.
        modified_ns: Modification time of the local copy in nanoseconds, the same whenever its content is the same;
            None: the time of fetching.
    """

    name: str
    identity: str
    write: Callable[[Path, Callable[[], None]], int | None]
    modified_ns: int | None


@dataclass(frozen=True)
class Listing:
    """The files of a remote table at one point in time, and how to read them.

    Args:
        snapshot: Identifies its state: a snapshot id or version of the table, or empty.
        pieces: Its files.
        pattern: Relative path or glob to read; empty for the whole folder.
        is_fixed: Whether files with the same identity have the same content; if not, they are always fetched.
    """

    snapshot: str
    pieces: Sequence[Piece]
    pattern: str = ""
    is_fixed: bool = True


@dataclass(frozen=True)
class FetchedFile:
    """One file of a local copy, as recorded in the manifest."""

    name: str
    identity: str
    n_bytes: int
    n_rows: int | None
    sha256: str


@contextmanager
def snapshot_of(folder: Path, shown: str, take_listing: Callable[[], Listing], runtime: Runtime) -> Iterator[Path]:
    """Bring the local copy of a remote table up to date, and keep it unchanged until the `with` body ends.

    Args:
        folder: Folder of the copy, created if missing.
        shown: The source without secrets, for the manifest.
        take_listing: Lists the remote table.
        runtime: Progress and cancellation.

    Yields:
        Folder, file or glob to read.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    with (folder / _LOCK).open("a") as lock:
        _wait_for(lock, fcntl.LOCK_SH, runtime)
        listing = take_listing()
        if _is_stale(folder, listing):
            _wait_for(lock, fcntl.LOCK_EX, runtime)
            listing = take_listing()  # another process may have fetched a newer one meanwhile
            _bring_up_to_date(folder, shown, listing, runtime)
            _wait_for(lock, fcntl.LOCK_SH, runtime)
        data = folder / _DATA
        yield (Path(glob.escape(str(data))) if "*" in listing.pattern else data) / listing.pattern


def _read_manifest(folder: Path) -> dict[str, Any]:
    """Read the manifest of a copy; empty if there is none."""
    try:
        found: dict[str, Any] = json.loads((folder / _MANIFEST).read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return found if found.get("format_version") == _FORMAT_VERSION else {}


def _wait_for(lock: IO[str], mode: int, runtime: Runtime) -> None:
    """Wait for the lock, without blocking cancellation."""
    while True:
        try:
            return fcntl.flock(lock, mode | fcntl.LOCK_NB)
        except BlockingIOError:
            runtime.report_progress(0.0, "waiting for another reader of the source")
            time.sleep(_WAIT_SECONDS)


def _fetched(folder: Path) -> dict[str, FetchedFile]:
    """The files of a local copy that still have their recorded size, by name."""
    entries = (FetchedFile(**entry) for entry in _read_manifest(folder).get("files", ()))
    return {entry.name: entry for entry in entries if _size_of(folder / _DATA / entry.name) == entry.n_bytes}


def _size_of(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except OSError:
        return None


def _is_stale(folder: Path, listing: Listing) -> bool:
    wanted = {(piece.name, piece.identity) for piece in listing.pieces}
    there = {(entry.name, entry.identity) for entry in _fetched(folder).values()}
    return not listing.is_fixed or wanted != there or _read_manifest(folder).get("snapshot") != listing.snapshot


def _bring_up_to_date(folder: Path, shown: str, listing: Listing, runtime: Runtime) -> None:
    shutil.rmtree(folder / _DRAFTS, ignore_errors=True)
    identities = {piece.name: piece.identity for piece in listing.pieces}
    fetched = _fetched(folder) if listing.is_fixed else {}
    files = {name: entry for name, entry in fetched.items() if identities.get(name) == entry.identity}
    for path in [*(folder / _DATA).rglob("*")]:
        if path.is_file() and path.relative_to(folder / _DATA).as_posix() not in files:
            path.unlink()
    snapshot = ""
    _write_manifest(folder, shown, snapshot, [files[name] for name in sorted(files)])  # in case this is killed
    try:
        missing = [piece for piece in listing.pieces if piece.name not in files]
        for number, piece in enumerate(missing):
            runtime.report_progress(number / len(missing), "fetching the source")
            files[piece.name] = _fetch(folder, piece, runtime)
        snapshot = listing.snapshot
    finally:
        # Also after a failure, so that the next attempt continues from here.
        _write_manifest(folder, shown, snapshot, [files[name] for name in sorted(files)])
        shutil.rmtree(folder / _DRAFTS, ignore_errors=True)


def _fetch(folder: Path, piece: Piece, runtime: Runtime) -> FetchedFile:
    target, draft = folder / _DATA / piece.name, folder / _DRAFTS / piece.name
    for parent in (target.parent, draft.parent):
        parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    n_rows = piece.write(draft, runtime.check)
    if piece.modified_ns is not None:
        os.utime(draft, ns=(piece.modified_ns, piece.modified_ns))
    draft.replace(target)
    return FetchedFile(piece.name, piece.identity, target.stat().st_size, n_rows, _digest(target))


def _digest(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _write_manifest(folder: Path, shown: str, snapshot: str, files: Sequence[FetchedFile]) -> None:
    rows = [entry.n_rows for entry in files]
    text = "".join(f"{entry.name}\0{entry.sha256}\n" for entry in files)
    manifest = {
        "format_version": _FORMAT_VERSION,
        "source": shown,
        "snapshot": snapshot,
        "n_rows": None if None in rows else sum(filter(None, rows)),
        "digest": hashlib.sha256(text.encode()).hexdigest(),
        "files": [asdict(entry) for entry in files],
    }
    draft = folder / f"{_MANIFEST}.part"
    draft.write_text(json.dumps(manifest, indent=1), "utf-8")
    draft.replace(folder / _MANIFEST)
