"""Which way in the process acts for: the command line, the inbox, a request.

Lives here: the current way in, which audit lines name.
Keep out: every import that takes time; `cleanroom --help` loads this.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

REQUEST = "request"
"""The way in of HTTP requests, each of which writes a line of its own: its changes are not noted again."""

_way: ContextVar[str] = ContextVar("way", default="worker")


def way_in() -> str:
    """Return the way in that the current changes come by."""
    return _way.get()


@contextmanager
def acting_for(way: str) -> Iterator[None]:
    """Say which way in changes come by until the body ends: cli, inbox, ui, schedule, worker or REQUEST."""
    before = _way.set(way)
    try:
        yield
    finally:
        _way.reset(before)
