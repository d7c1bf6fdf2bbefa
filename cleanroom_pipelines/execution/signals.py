"""Knowing that this process was told to end, whatever became of the signal.

Lives here: an event that SIGTERM and SIGINT set.
Add here when another signal means the same.
Keep out: what is done about it (work.py, serving_worker.py).

Dagster replaces the handlers of signals during a run and drops what comes as the run ends; DuckDB makes a
RuntimeError "Query interrupted" of what a handler raises, and loses it. The descriptor that Python writes the
number of each signal to is told of all, by whichever handler it is handled.
"""

import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_SIGNALS = frozenset({signal.SIGTERM, signal.SIGINT})
_active: list[threading.Event] = []


@contextmanager
def heeding_signals() -> Iterator[threading.Event]:
    """Give an event that is set as soon as the process is told to end; within another one, the same.

    Only signals that have a handler are told. Outside of the main thread nothing sets the event.
    """
    if _active or threading.current_thread() is not threading.main_thread():
        yield _active[0] if _active else threading.Event()
        return
    signalled = threading.Event()
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)

    def watch() -> None:
        while told := ours.recv(64):
            if _SIGNALS & set(told):
                signalled.set()

    thread = threading.Thread(target=watch, name="signals", daemon=True)
    thread.start()
    before = signal.set_wakeup_fd(theirs.fileno(), warn_on_full_buffer=False)
    _active.append(signalled)
    try:
        yield signalled
    finally:
        _active.clear()
        signal.set_wakeup_fd(before)
        theirs.close()
        thread.join()
        ours.close()
