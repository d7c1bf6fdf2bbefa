"""The source of the current change, such as the command line, the inbox or an HTTP request, for the audit log.

Lives here: setting and reading the source; entry points set it.
Keep out: slow imports; `cleanroom --help` loads this.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

REQUEST = "request"
"""The source of changes by an HTTP request; they are not logged, because the request itself is logged."""

_way: ContextVar[str] = ContextVar("way", default="worker")


def way_in() -> str:
    """Return the source of changes made now (such as `cli` or `inbox`), as the audit log records it."""
    return _way.get()


@contextmanager
def acting_for(way: str) -> Iterator[None]:
    """Set the source of all changes in the `with` body: cli, inbox, ui, schedule, worker or request."""
    before = _way.set(way)
    try:
        yield
    finally:
        _way.reset(before)
