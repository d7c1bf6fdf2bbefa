"""A process that does one piece of work and is killed at its k-th boundary, for every k.

Lives here: what a boundary is, and the process.
Keep out: the work itself, and checks of the state afterwards.

A boundary is a moment between two events that another process can see: before a file is opened for writing,
renamed or removed, before and after a transaction with changes is committed, before a request to an object store
is sent and after its response. The process is forked from one that has loaded everything, and is killed by
SIGKILL: no handler runs, nothing is flushed, and only the system releases its locks.
"""

import multiprocessing
import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from importlib import import_module
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import obstore
from sqlalchemy.engine.default import DefaultDialect

from cleanroom_pipelines.storage.home import CLOSED_UMASK

from ..databases import without_waiting_for_the_disk

_PRELOADED = "cleanroom_pipelines_tests.journeys.preloaded"
_SECONDS = 120
_WRITING = os.O_CREAT | os.O_WRONLY | os.O_RDWR
_CHANGES = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link", "os.truncate", "shutil.rmtree"}


@contextmanager
def mortals(work: Callable[[Path], None], environment: Mapping[str, str]) -> Iterator[Callable[[Path, int], bool]]:
    """Gives what does some work on a folder in a process that kills itself at a boundary.

    Args:
        work: A function of a module, called with the folder.
        environment: Variables that it needs.

    Yields:
        Called with a folder and the number of the boundary, from 1: whether the process was killed; else it came
        to its end before that boundary.
    """
    context = multiprocessing.get_context("forkserver")
    # whichever test of this process comes first decides what is loaded before
    context.set_forkserver_preload([_PRELOADED])
    ours, theirs = context.Pipe()
    parent = context.Process(target=_fork_each, args=(work, environment, theirs), daemon=True)
    parent.start()
    theirs.close()

    def dies(folder: Path, boundary: int) -> bool:
        ours.send((folder, boundary))
        assert ours.poll(_SECONDS), "the process goes on"
        exit_code = ours.recv()
        assert exit_code in (0, -signal.SIGKILL), f"the process ended with {exit_code}"
        return bool(exit_code)

    try:
        yield dies
    finally:
        ours.close()
        parent.join(_SECONDS)


def _fork_each(work: Callable[[Path], None], environment: Mapping[str, str], asked: Connection) -> None:
    """Fork a process for each that is asked for; this one does nothing else, and so has one thread only."""
    os.environ.update(environment)
    os.umask(CLOSED_UMASK)
    import_module(_PRELOADED)
    with suppress(EOFError):
        while True:
            folder, boundary = asked.recv()
            process = os.fork()
            if process == 0:
                try:
                    _work(work, folder, boundary)
                except BaseException:
                    traceback.print_exc()
                os._exit(1)
            asked.send(os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]))


def _work(work: Callable[[Path], None], folder: Path, boundary: int) -> None:
    boundaries = _Boundaries(folder, boundary)
    with without_waiting_for_the_disk():
        _around(DefaultDialect, "do_commit", boundaries.count)
        for name in ("put", "get", "list", "list_with_delimiter", "delete"):
            _around(obstore, name, boundaries.count)
        sys.addaudithook(boundaries.hear)
        work(folder)
    os._exit(0)  # nothing that a library does at the end is a part of the work


def _around(owner: object, name: str, count: Callable[[], None]) -> None:
    """Count a boundary before and one after each call."""
    original = getattr(owner, name)

    def counted(*arguments: Any, **options: Any) -> Any:
        count()
        answer = original(*arguments, **options)
        count()
        return answer

    setattr(owner, name, counted)


class _Boundaries:
    """Counts boundaries, and kills this process at one."""

    def __init__(self, folder: Path, boundary: int) -> None:
        self._folder, self._left = f"{folder}{os.sep}", boundary

    def count(self) -> None:
        self._left -= 1
        if self._left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    def hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        """Count what Python announces to audit hooks: changes of the folder, also relative to an open one."""
        is_change = event in _CHANGES
        if event == "open":
            is_change = isinstance(arguments[2], int) and bool(arguments[2] & _WRITING)
        if is_change and isinstance(arguments[0], str | Path):
            path = Path(arguments[0])
            if not path.is_absolute() or str(path).startswith(self._folder):
                self.count()
