"""Scratch folders of processes: what a killed process leaves is known to be dead, and deleted.

Lives here: a folder for each process that works on a home, the lock that proves that it lives, cleaning up
after those that do not, and lock files that one process holds at a time.
Add here when a process leaves something outside its scratch folder: note it there with `remembered`.
Keep out: what may be deleted after a time (retention).

Each process holds a lock on a file of its folder's name; the system takes it away however the process ends. A lock
of another host is not trusted, since not every shared file system has them: its folder goes by age.
"""

import atexit
import fcntl
import os
import secrets
import shutil
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Lock
from typing import IO

_ALIVE = ".alive"
_REMEMBERED = ".remembered-"
_UNWRITTEN_SECONDS = 600
_lock = Lock()
# By process and root: a process that was forked has a folder of its own.
_own: dict[tuple[int, Path], tuple[Path, IO[str]]] = {}


def folder_of_process(root: Path) -> Path:
    """The scratch folder of this process below a root; made when first asked for."""
    with _lock:
        mine = (os.getpid(), root)
        if mine not in _own or not _own[mine][0].is_dir():
            _own[mine] = _make(root)
        return _own[mine][0]


def clean_up_after_the_dead(root: Path) -> int:
    """Delete the scratch folders of processes of this host that ended, and what they had noted elsewhere.

    Args:
        root: Where the processes' folders are.

    Returns:
        How many processes were cleaned up after.
    """
    n_cleaned = 0
    for marker in sorted((root / _ALIVE).glob("*")):
        with suppress(OSError), marker.open("r+") as stream:
            written = stream.read()
            # killed before it wrote its host: then it made no folder either
            is_unwritten = not written and time.time() - marker.stat().st_mtime > _UNWRITTEN_SECONDS
            if not (written == socket.gethostname() or is_unwritten) or not _is_free(stream):
                continue
            _delete(root / marker.name)
            marker.unlink(missing_ok=True)
            n_cleaned += 1
    return n_cleaned


def is_process_folder(path: Path) -> bool:
    """Whether this is the scratch folder of a process that lives or whose end was not seen yet."""
    return (path.parent / _ALIVE / path.name).is_file()


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Wait until no other process holds this lock file, and hold it until the body ends.

    The lock ends with this process, however it ends.
    """
    with locked_if_free(path, waits=True):
        yield


@contextmanager
def locked_if_free(path: Path, *, waits: bool = False) -> Iterator[bool]:
    """Hold a lock file until the body ends; gives whether it was free.

    Args:
        path: Made if it is missing.
        waits: Wait until it is free.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if waits else fcntl.LOCK_NB))
        except BlockingIOError:
            yield False
            return
        try:
            yield True
        finally:
            fcntl.flock(descriptor, fcntl.LOCK_UN)  # explicitly: a process forked meanwhile holds it too
    finally:
        os.close(descriptor)


@contextmanager
def remembered(scratch: Path, path: Path) -> Iterator[None]:
    """Note that a path outside of the scratch folder is of no use once this process has ended in the body."""
    note = scratch / f"{_REMEMBERED}{secrets.token_hex(8)}"
    note.write_text(str(path))
    try:
        yield
    finally:
        note.unlink(missing_ok=True)


def _make(root: Path) -> tuple[Path, IO[str]]:
    name = secrets.token_hex(8)
    (root / _ALIVE).mkdir(mode=0o700, parents=True, exist_ok=True)
    marker = root / _ALIVE / name
    stream = marker.open("x")
    fcntl.flock(stream, fcntl.LOCK_EX)
    stream.write(socket.gethostname())
    stream.flush()
    (root / name).mkdir(mode=0o700)
    atexit.register(_end, os.getpid(), root / name, marker)
    return root / name, stream


def _end(pid: int, folder: Path, marker: Path) -> None:
    if os.getpid() == pid:  # not in a process that was forked from it
        with suppress(OSError):  # what is left in it is deleted by the next process
            folder.rmdir()
            marker.unlink()


def _is_free(stream: IO[str]) -> bool:
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _delete(folder: Path) -> None:
    for note in folder.glob(f"{_REMEMBERED}*"):
        path = Path(note.read_text())
        if path.name.startswith("."):  # a draft; anything else has its name and is no leftover
            shutil.rmtree(path, ignore_errors=True)
    shutil.rmtree(folder, ignore_errors=True)
