"""Irrevocable restriction of this process's privileges.

Lives here: Landlock, which since Linux 5.13 lets any process drop access to files and ports it does not need.
Add here when another operating system has something similar.
Keep out: the engine's own lock-down, which works with or without this.

DuckDB itself rejects paths outside its list. If a query ever gets around that, the kernel still denies access.
Without Landlock (another system, an older kernel, a container that forbids it) nothing is restricted here.
Source: https://docs.kernel.org/userspace-api/landlock.html
"""

import ctypes
import os
import sys
import sysconfig
from collections.abc import Sequence
from pathlib import Path

# System calls have these numbers on every architecture.
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_ASK_VERSION = 1
_PATH_BENEATH = 1
_NO_NEW_PRIVILEGES = 38

_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_FOLDER = 1 << 0, 1 << 1, 1 << 2, 1 << 3
_TRUNCATE = 1 << 14
_FILE_RIGHTS = _EXECUTE | _WRITE_FILE | _READ_FILE | _TRUNCATE
# Number of file access rights (low bits) in each Landlock version.
_RIGHTS_OF_VERSION = {1: 13, 2: 14, 3: 15, 4: 15}
_NETWORK_SINCE = 4
_BIND_AND_CONNECT = 0b11

_SYSTEM_PATHS = (
    *("/usr", "/lib", "/lib64", "/etc/ld.so.cache", "/dev/null", "/dev/urandom"),
    *("/proc/self", "/proc/meminfo", "/proc/cpuinfo", "/sys/fs/cgroup", "/sys/devices/system/cpu"),
)


class _Ruleset(ctypes.Structure):
    _fields_ = (("files", ctypes.c_uint64), ("network", ctypes.c_uint64))


class _PathBeneath(ctypes.Structure):
    _pack_ = 1
    _fields_ = (("rights", ctypes.c_uint64), ("folder", ctypes.c_int32))


def confine(*, readable: Sequence[Path], writable: Sequence[Path]) -> bool:
    """Drop access to all TCP connections, and to all files except Python's own and the given folders.

    Args:
        readable: Folders whose files may be read.
        writable: Folders in which files may be read, created, written and removed.

    Returns:
        Whether the kernel enforces it.
    """
    if sys.platform != "linux":
        return False
    libc = ctypes.CDLL(None, use_errno=True)
    version = libc.syscall(_CREATE_RULESET, None, ctypes.c_size_t(0), _ASK_VERSION)
    if version < 1:
        return False
    rights = (1 << _RIGHTS_OF_VERSION.get(version, 15)) - 1
    rules = _Ruleset(rights, _BIND_AND_CONNECT if version >= _NETWORK_SINCE else 0)
    size = ctypes.sizeof(_Ruleset) if version >= _NETWORK_SINCE else ctypes.sizeof(ctypes.c_uint64)
    ruleset = libc.syscall(_CREATE_RULESET, ctypes.byref(rules), ctypes.c_size_t(size), 0)
    if ruleset < 0:
        return False
    try:
        for path in {*readable, *_python_paths()}:
            _allow(libc, ruleset, path, rights & (_READ_FILE | _READ_FOLDER | _EXECUTE))
        for path in writable:
            _allow(libc, ruleset, path, rights)
        privileges = libc.prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0)
        return bool(privileges == 0 and libc.syscall(_RESTRICT_SELF, ruleset, 0) == 0)
    finally:
        os.close(ruleset)


def _python_paths() -> set[Path]:
    """Return the paths of modules and libraries that may be loaded later, and of the system files they need."""
    places = {Path(place) for place in (*sysconfig.get_paths().values(), sys.prefix, sys.base_prefix)}
    # the package, not its parent folder, which may be a checkout with a home in it
    places.add(Path(__file__).resolve().parents[1])
    places |= {Path(place) for place in _SYSTEM_PATHS}
    return {place for place in places if place.exists()}


def _allow(libc: ctypes.CDLL, ruleset: int, path: Path, rights: int) -> None:
    opened = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        rule = _PathBeneath(rights if path.is_dir() else rights & _FILE_RIGHTS, opened)
        libc.syscall(_ADD_RULE, ruleset, _PATH_BENEATH, ctypes.byref(rule), 0)
    finally:
        os.close(opened)
