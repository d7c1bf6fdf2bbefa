"""Scratch folders of processes, and cleanup after killed processes.

Lives here: one folder per process that works on a home, the lock that proves that the process is alive, cleanup
after dead processes, and lock files.
Add here when a process writes outside its scratch folder: register the path with `remembered`.
Keep out: deletion by age (retention).

Each process locks a file named like its folder; the system releases the lock whenever the process ends. Locks of
other hosts are not trusted, since some shared file systems lack locks: their folders are deleted by age.
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
# By process and root: a forked process has its own folder.
_own: dict[tuple[int, Path], tuple[Path, IO[str]]] = {}


def folder_of_process(root: Path) -> Path:
    """Return this process's scratch folder below a root; created on the first call."""
    with _lock:
        mine = (os.getpid(), root)
        if mine not in _own or not _own[mine][0].is_dir():
            _own[mine] = _make(root)
        return _own[mine][0]


def clean_up_dead_processes(root: Path) -> int:
    """Delete the scratch folders and drafts of processes of this host that have ended.

    Args:
        root: Folder with the scratch folders.

    Returns:
        Number of processes that were cleaned up.
    """
    n_cleaned = 0
    for marker in sorted((root / _ALIVE).glob("*")):
        with suppress(OSError), marker.open("r+") as stream:
            written = stream.read()
            # killed before it wrote its host name, so it has no folder either
            is_unwritten = not written and time.time() - marker.stat().st_mtime > _UNWRITTEN_SECONDS
            if not (written == socket.gethostname() or is_unwritten) or not _is_free(stream):
                continue
            _delete(root / marker.name)
            marker.unlink(missing_ok=True)
            n_cleaned += 1
    return n_cleaned


def is_process_folder(path: Path) -> bool:
    """Whether a folder is a scratch folder; its process may be running, or dead and not yet cleaned up."""
    return (path.parent / _ALIVE / path.name).is_file()


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Lock a file until the `with` body ends, waiting for other processes.

    The lock is released whenever this process ends.
    """
    with locked_if_free(path, waits=True):
        yield


@contextmanager
def locked_if_free(path: Path, *, waits: bool = False) -> Iterator[bool]:
    """Try to lock a file until the `with` body ends; yield whether the lock was acquired.

    Args:
        path: Lock file; created if missing.
        waits: Wait until the lock is free.
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
            fcntl.flock(descriptor, fcntl.LOCK_UN)  # explicit, since a forked process shares the lock
    finally:
        os.close(descriptor)


@contextmanager
def remembered(scratch: Path, path: Path) -> Iterator[None]:
    """Register a draft outside the scratch folder, to be deleted if this process dies within the `with` body."""
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
    if os.getpid() == pid:  # not in a forked process
        with suppress(OSError):  # another process deletes a folder that is not empty
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
        if path.name.startswith("."):  # still a draft; it was not renamed
            shutil.rmtree(path, ignore_errors=True)
    shutil.rmtree(folder, ignore_errors=True)
