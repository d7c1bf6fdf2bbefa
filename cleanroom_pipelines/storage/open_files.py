"""Whether somebody is still writing a file.

Lives here: asking the kernel, then the processes that may be seen, and waiting where neither can tell.
Add here when another system can tell who has a file open.
Keep out: what is done with a file that rests.

A size that is the same twice says little: a writer may pause. On Linux a read lease is granted only while nobody,
of whichever user, has the file open for writing. It needs the file's owner or CAP_LEASE and a file system that
knows leases, which network file systems do not; then the open files in /proc tell of this machine's processes that
may be seen. If nobody is found that way, the file must have rested for QUIET_SECONDS.
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
    """Which file a path names, and how it is: the same again as long as nobody changed or replaced it."""

    device: int
    inode: int
    n_bytes: int
    modified_ns: int
    changed_ns: int

    @classmethod
    def of(cls, path: Path) -> "FileState":
        """The state of the file at a path.

        Raises:
            FileNotFoundError: There is none.
        """
        found = path.stat(follow_symlinks=False)
        return cls(found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)

    def still_is(self, path: Path) -> bool:
        """Whether the path names the same file, unchanged."""
        try:
            return FileState.of(path) == self
        except FileNotFoundError:
            return False


def may_still_be_written(path: Path, now: float) -> bool:
    """Whether somebody may be writing a file.

    Args:
        path: The file.
        now: Seconds since 1970, to be compared with the time of its last change where nobody else can tell.

    Raises:
        FileNotFoundError: There is no such file.
    """
    has_writer = _ask_lease(path)
    if has_writer is None:
        has_writer = _ask_processes(path) or path.stat().st_mtime > now - QUIET_SECONDS
    return has_writer


def _ask_lease(path: Path) -> bool | None:
    """Whether somebody has the file open for writing; None where the kernel does not tell."""
    if not hasattr(fcntl, "F_SETLEASE"):
        return None
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        raise
    except OSError:
        return None
    try:
        # who opens the file just now breaks the lease: a signal comes, which by default would end this process
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
    """Whether a process that may be seen has the file open for writing."""
    wanted = path.stat()
    for opened in _open_files():
        with suppress(OSError, ValueError, StopIteration):  # it is gone, or not ours to see
            found = opened.stat()
            if (found.st_dev, found.st_ino) != (wanted.st_dev, wanted.st_ino):
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
