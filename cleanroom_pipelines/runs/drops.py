"""Files dropped into the inbox: finding complete ones, and rejecting those that cannot be used.

Lives here: what the inboxes of seeds and of rooms share: drops (files in the inbox), receipts (JSON files that
report what became of a drop), rejected files, deleting a folder.
Add here when dropped files of every kind need something more.
Keep out: what a file is for (inbox.py, room_inbox.py), and the resource of a folder (inbox_folders.py).

The name of a dropped file is chosen by the person who drops it. The receipt contains this name, and its own file
name repeats the letters and digits. The name occurs nowhere else: not in logs, events or messages.
"""

import json
import os
import re
import shutil
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from cleanroom_pipelines.catalog import Status
from cleanroom_pipelines.errors import CleanroomError
from cleanroom_pipelines.runs.installation import Installation
from cleanroom_pipelines.storage import Home
from cleanroom_pipelines.storage.artifacts import write_durably
from cleanroom_pipelines.storage.layout import is_partition_key
from cleanroom_pipelines.storage.open_files import FileState, may_still_be_written
from cleanroom_pipelines.storage.processes import locked

ACCEPTED, REJECTED = "accepted", "rejected"
KEPT = ".kept"
_NAME_IN_RECEIPT = 40
# Suffixes that copy programs and browsers give to incomplete files.
_UNFINISHED = (".part", ".partial", ".tmp", ".crdownload", ".download", ".filepart")


@dataclass(frozen=True)
class Drop:
    """A file in the inbox.

    Args:
        path: The file.
        place: Names of the folders from the inbox to the file, such as `("seeds", <partition key>)`.
        signature: Size in bytes and modification time in nanoseconds. A drop is complete if they are unchanged at
            the sensor's next tick.
    """

    path: Path
    place: tuple[str, ...]
    signature: tuple[int, int]


@dataclass(frozen=True)
class RejectedDrop:
    """The receipt of a dropped file that was rejected.

    Args:
        receipt: Its receipt.
    """

    receipt: Path


class StillWrittenError(CleanroomError):
    """A process may still be writing a dropped file; it stays in the inbox until it is complete."""


@dataclass(frozen=True)
class CompleteDrop:
    """A dropped file that was complete when it was checked.

    Args:
        drop: The drop.
        state: State of its file at that time.
        clock: Gives the time in UTC.
    """

    drop: Drop
    state: FileState
    clock: Callable[[], datetime]

    def check(self) -> None:
        """Check that the file is unchanged since its state was recorded, and that no process is writing it.

        Raises:
            StillWrittenError: The file has changed or is being written.
        """
        path = self.drop.path
        try:
            is_written = may_still_be_written(path, self.clock().timestamp())
        except FileNotFoundError:
            is_written = True
        if is_written or not self.state.still_is(path):
            raise _still_written()

    def remove(self, kept_as: Path | None = None) -> None:
        """Delete or move the dropped file, unless another file has replaced it: that file is a new drop.

        The file could be replaced between check and deletion; no system call deletes only a specific file.
        """
        if not self.state.still_is(self.drop.path):
            return
        with suppress(FileNotFoundError):
            if kept_as is None:
                self.drop.path.unlink()
            else:
                self.drop.path.replace(kept_as)
                now = self.clock().timestamp()
                os.utime(kept_as, (now, now))


def complete_drop(installation: Installation, drop: Drop) -> CompleteDrop:
    """Check that a dropped file is complete, and record its state, to detect later changes.

    Raises:
        StillWrittenError: A process may be writing it.
        FileNotFoundError: The file no longer exists.
    """
    state = FileState.of(drop.path)
    if (state.n_bytes, state.modified_ns) != drop.signature:
        raise _still_written()
    if may_still_be_written(drop.path, installation.clock().timestamp()):
        raise _still_written()
    return CompleteDrop(drop, state, installation.clock)


def drops_below(home: Home, folder: Path, but: Collection[Path] = ()) -> Iterator[Drop]:
    """Find the dropped files in a folder and its subfolders, in the order of their names.

    Links, hidden files, receipts and files named like incomplete downloads (`.part`, `.tmp`, …) are ignored.

    Args:
        home: The home of the inbox.
        folder: The inbox or a folder in it.
        but: Subfolders to ignore.
    """
    try:
        paths = sorted(folder.iterdir())
    except OSError:
        return  # deleted in the meantime, or not ours to read
    for path in paths:
        if path.is_symlink() or path.name.startswith(".") or path in but:
            continue
        if path.is_dir():
            if path.name not in (ACCEPTED, REJECTED):
                yield from drops_below(home, path)
        elif not path.name.lower().endswith(_UNFINISHED):
            with suppress(FileNotFoundError):
                status = path.stat()
                if path.is_file():
                    place = folder.relative_to(home.inbox).parts
                    yield Drop(path, place, (status.st_size, status.st_mtime_ns))


def reject(
    installation: Installation,
    complete: CompleteDrop,
    error: CleanroomError,
    entry: Mapping[str, str],
    *,
    what: str,
    facts: Mapping[str, Any] | None = None,
) -> RejectedDrop | None:
    """Reject a drop: write a receipt to `rejected/` next to it, log the rejection, and remove the file.

    On an encrypted volume the file is moved to `rejected/`, where the daily cleanup deletes it after a day.

    Args:
        installation: The installation.
        complete: The drop.
        error: The reason.
        entry: Facts for the audit log; folder names that are not partition keys are left out.
        what: What the file should have been: the receipt's key for the size and digest of the file.
        facts: More facts for the receipt.

    Returns:
        The receipt; None if the file no longer exists.
    """
    installation.check()
    path = complete.drop.path
    try:
        digest = installation.vault.digest(path)
    except FileNotFoundError:
        return None  # another process got there first
    except OSError:
        digest = installation.key.digest("unreadable drops", os.fsencode(path.name))
    more = {**(facts or {}), what: {"bytes": complete.drop.signature[0], "digest": digest}}
    is_kept = installation.settings.encryption == "volume" and path.name != REJECTED
    receipt = write_rejection(installation, path.parent, path.name, error, more, is_kept=is_kept)
    known = {name: value for name, value in entry.items() if name == "operation" or is_partition_key(value)}
    installation.audit.write({"way": "inbox", **known, "outcome": "refused", "error": type(error).__name__})
    complete.remove(receipt.with_suffix(KEPT) if is_kept else None)
    return RejectedDrop(receipt)


def write_rejection(
    installation: Installation,
    folder: Path,
    name: str | None,
    error: CleanroomError,
    facts: Mapping[str, Any],
    *,
    is_kept: bool = False,
) -> Path:
    """Write the receipt of a rejected file.

    Args:
        installation: The installation.
        folder: The folder of the file.
        name: The name of the file; None if unknown.
        error: The reason.
        facts: More facts for the receipt.
        is_kept: Whether the file is kept next to the receipt.

    Returns:
        The receipt, named after the file; the end of its name depends on the file's name and on the facts.
    """
    mark = installation.key.digest("rejected drops", json.dumps([name, facts]).encode())[:12]
    words = re.sub(r"[^\w.]+", "-", name or "")[:_NAME_IN_RECEIPT].strip("-.") or "file"
    path = folder / REJECTED / f"{words}-{mark}.json"
    receipt = {
        "file": name,
        "status": Status.CREATE_FAILED.value,
        "statusCode": error.status_code,
        "message": str(error),
        **facts,
        "kept": path.with_suffix(KEPT).name if is_kept else None,
    }
    write_receipt(path, receipt)
    return path


def write_receipt(path: Path, receipt: Mapping[str, Any]) -> None:
    """Write a receipt, unless the file already has the same content."""
    content = json.dumps(receipt, indent=1, default=str).encode()
    if path.parent.is_file():
        path.parent.unlink()  # a file in the place of the receipts folder
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not path.is_file() or path.read_bytes() != content:
        write_durably(path, content)


def kept_files(home: Home) -> list[Path]:
    """Return the rejected files that are kept next to their receipts."""
    return [path for path in home.inbox.rglob(f"*{KEPT}") if path.parent.name == REJECTED]


def forget_folder(installation: Installation, folder: Path, older_than: datetime | None = None) -> bool:
    """Delete an inbox folder of a deleted resource, with its receipts.

    A folder that holds a dropped file stays until the file has been rejected with a receipt.

    Args:
        installation: The installation.
        folder: The folder.
        older_than: UTC; delete only if nothing in the folder changed since.

    Returns:
        Whether the folder was deleted.
    """
    with one_at_a_time(installation):
        if not folder.is_dir() or folder.is_symlink():
            return False
        inside = [folder, *folder.rglob("*")]
        if any(_may_be_a_drop(path, folder) for path in inside):
            return False
        if older_than and any(path.lstat().st_mtime > older_than.timestamp() for path in inside):
            return False
        for path in sorted(inside, reverse=True):  # subfolders first
            if path.name in (ACCEPTED, REJECTED):
                shutil.rmtree(path, ignore_errors=True)
            elif path.is_dir():
                with suppress(OSError):  # a file was dropped in the meantime
                    path.rmdir()
        return not folder.exists()


def _may_be_a_drop(path: Path, folder: Path) -> bool:
    is_folder = path.is_dir() and not path.is_symlink()
    return not is_folder and not {ACCEPTED, REJECTED} & {*path.relative_to(folder).parts[:-1]}


def _still_written() -> StillWrittenError:
    return StillWrittenError(
        "The file may still be incomplete.", remedy="It will be accepted once it stops changing."
    )


@contextmanager
def one_at_a_time(installation: Installation) -> Iterator[None]:
    """Ensure that only one process of this home accepts, recovers or closes drops at a time."""
    with locked(installation.home.inbox / ".lock"):
        yield
