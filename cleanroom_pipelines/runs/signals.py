"""Knowing that this process was told to end, whatever became of the signal.

Lives here: what tells that SIGTERM or SIGINT came.
Add here when another signal means the same.
Keep out: what is done about it (work.py, serving_worker.py).

Dagster replaces the handlers of signals during a run and drops what comes as the run ends; DuckDB 2.0 ends some
queries with a RuntimeError "Query interrupted" in place of what the handler raised, and others not at all. The
descriptor that Python writes the number of each signal to is told of all, whichever handler they have.
"""

import select
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

TOLD_BY = frozenset({signal.SIGTERM, signal.SIGINT})


class Told:
    """Whether the process was told to end; without a socket it never is."""

    def __init__(self, reader: socket.socket | None = None) -> None:
        self._reader = reader
        self.number = 0

    def is_set(self) -> bool:
        """Whether it was told until now; the number of the first signal is kept."""
        if not self.number and self._reader is not None:
            with suppress(OSError):  # nothing has come
                self.number = next((each for each in self._reader.recv(4096) if each in TOLD_BY), 0)
        return self.number != 0

    def wait(self, seconds: float) -> bool:
        """Wait until it is told, at most so long."""
        if self._reader is None:
            time.sleep(seconds)
        elif not self.is_set():
            select.select([self._reader], [], [], seconds)
        return self.is_set()


_active: list[Told] = []


@contextmanager
def handle_signals() -> Iterator[Told]:
    """Heed the signals that have a handler until the body ends; within another such body, the same.

    Outside of the main thread nothing is told.
    """
    if _active or threading.current_thread() is not threading.main_thread():
        yield _active[0] if _active else Told()
        return
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        theirs.setblocking(False)
        told = Told(ours)
        before = signal.set_wakeup_fd(theirs.fileno(), warn_on_full_buffer=False)
        _active.append(told)
        try:
            yield told
        finally:
            _active.clear()
            signal.set_wakeup_fd(before)
