"""Detecting that this process was asked to stop, whichever library handled the signal.

Lives here: detecting SIGTERM and SIGINT.
Add here when another signal means the same.
Keep out: the reaction to signals (work.py, serving_worker.py).

Dagster replaces signal handlers during a run and loses signals that arrive as the run ends. DuckDB 2.0 ends some
queries with a RuntimeError "Query interrupted" instead of the handler's exception, and others not at all. Python's
wakeup descriptor receives the number of every signal, whichever handler is installed.
"""

import select
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

STOP_SIGNALS = frozenset({signal.SIGTERM, signal.SIGINT})


class StopRequest:
    """Records whether a signal has asked the process to stop."""

    def __init__(self, reader: socket.socket | None = None) -> None:
        self._reader = reader
        self.number = 0

    def is_set(self) -> bool:
        """Whether a stop signal has arrived; `number` then holds the number of the first signal."""
        if not self.number and self._reader is not None:
            with suppress(OSError):  # no signal has arrived
                self.number = next((each for each in self._reader.recv(4096) if each in STOP_SIGNALS), 0)
        return self.number != 0

    def wait(self, seconds: float) -> bool:
        """Wait for a stop signal, at most this long."""
        if self._reader is None:
            time.sleep(seconds)
        elif not self.is_set():
            select.select([self._reader], [], [], seconds)
        return self.is_set()


_active: list[StopRequest] = []


@contextmanager
def handle_signals() -> Iterator[StopRequest]:
    """Record stop signals until the `with` body ends; nested calls share one record.

    Outside of the main thread no signal is recorded.
    """
    if _active or threading.current_thread() is not threading.main_thread():
        yield _active[0] if _active else StopRequest()
        return
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        theirs.setblocking(False)
        record = StopRequest(ours)
        before = signal.set_wakeup_fd(theirs.fileno(), warn_on_full_buffer=False)
        _active.append(record)
        try:
            yield record
        finally:
            _active.clear()
            signal.set_wakeup_fd(before)
