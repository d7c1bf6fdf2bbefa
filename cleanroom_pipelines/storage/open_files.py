"""Detection of files that are still being written.

Lives here: asking the kernel, then the visible processes, and waiting if neither is possible.
Add here when another operating system reports open files.
Keep out: handling of complete files.

An unchanged size proves little, since a writer may pause. Linux grants a read lease only while no process of any
user has the file open for writing. It requires the file's owner or CAP_LEASE, and a file system with leases, which
network file systems lack. Otherwise the open files in /proc show the visible processes of this machine. If no
writer is found there, the file must be unchanged for QUIET_SECONDS.
"""

import fcntl
import os
import signal
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

QUIET_SECONDS = 60.0
_PROCESSES = Path("/proc")


@dataclass(frozen=True)
class FileState:
    """Identity, size and times of a file; equal states mean that the file was not changed or replaced."""

    device: int
    inode: int
    n_bytes: int
    modified_ns: int
    changed_ns: int

    @classmethod
    def of(cls, path: Path) -> "FileState":
        """Read the state of a file.

        Raises:
            FileNotFoundError: It does not exist.
        """
        found = path.stat(follow_symlinks=False)
        return cls(found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)

    def still_is(self, path: Path) -> bool:
        """Whether the path still refers to the same, unchanged file."""
        try:
            return FileState.of(path) == self
        except FileNotFoundError:
            return False


def may_still_be_written(path: Path, now: float) -> bool:
    """Whether a process may still be writing a file.

    Args:
        path: The file.
        now: Current time in seconds since 1970, compared with the last change if the kernel cannot tell.

    Raises:
        FileNotFoundError: The file does not exist.
    """
    has_writer = _ask_lease(path)
    if has_writer is None:
        has_writer = _ask_processes(path) or path.stat().st_mtime > now - QUIET_SECONDS
    return has_writer


def _ask_lease(path: Path) -> bool | None:
    """Whether any process has the file open for writing; None if the kernel does not report it."""
    if not hasattr(fcntl, "F_SETLEASE"):
        return None
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        raise
    except OSError:
        return None
    try:
        # a process that opens the file now breaks the lease with a signal, which by default would end this process
        fcntl.fcntl(descriptor, fcntl.F_SETSIG, signal.SIGURG)
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_RDLCK)
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    except BlockingIOError:
        return True
    except OSError:
        return None
    finally:
        os.close(descriptor)
    return False


def _ask_processes(path: Path) -> bool:
    """Whether a process whose open files this user can see has the file open for writing."""
    target = path.stat()
    for opened in _open_files():
        with suppress(OSError, ValueError, StopIteration):  # closed meanwhile, or not visible to this user
            found = opened.stat()
            if (found.st_dev, found.st_ino) != (target.st_dev, target.st_ino):
                continue
            lines = (opened.parents[1] / "fdinfo" / opened.name).read_text().splitlines()
            flags = next(line.partition(":")[2] for line in lines if line.startswith("flags:"))
            if int(flags, 8) & os.O_ACCMODE != os.O_RDONLY:
                return True
    return False


def _open_files() -> Iterator[Path]:
    for process in _PROCESSES.glob("[0-9]*"):
        with suppress(OSError):
            yield from (process / "fd").iterdir()
