"""Where the current change comes from, for the audit log: the command line, the inbox, an HTTP request or another.

Lives here: the current entry point, as recorded in the audit log.
Keep out: slow imports; `cleanroom --help` loads this.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

REQUEST = "request"
"""The entry point of HTTP requests, each of which writes its own audit entry, so changes are not logged twice."""

_way: ContextVar[str] = ContextVar("way", default="worker")


def way_in() -> str:
    """Return the source of changes made now (such as `cli` or `inbox`), as the audit log records it."""
    return _way.get()


@contextmanager
def acting_for(way: str) -> Iterator[None]:
    """Set the recorded source of changes in the `with` body: cli, inbox, ui, schedule, worker or REQUEST."""
    before = _way.set(way)
    try:
        yield
    finally:
        _way.reset(before)
