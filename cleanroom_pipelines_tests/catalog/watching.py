"""Observing the transactions of a catalogue, and interrupting them, by SQLAlchemy's events.

Lives here: actions at a moment that only another process, or a rare race, would hit.
Keep out: reading and writing rows without the catalogue (`databases.py`).
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Connection, Engine, event
from sqlalchemy.orm import Session, SessionTransaction


@contextmanager
def listening(target: type, name: str, listener: Callable[..., None]) -> Iterator[None]:
    """Let a listener hear an event of every engine or session of this process, until the body ends."""
    event.listen(target, name, listener)
    try:
        yield
    finally:
        event.remove(target, name, listener)


@contextmanager
def after_next_transaction(action: Callable[[], None]) -> Iterator[None]:
    """Run an action once, right after the next transaction has ended."""
    waiting = [action]

    def ended(_: Session, transaction: SessionTransaction) -> None:
        if transaction.parent is None and waiting:
            waiting.pop()()

    with listening(Session, "after_transaction_end", ended):
        yield
    assert not waiting, "a transaction has ended"


@contextmanager
def in_each_transaction(action: Callable[[Connection], None]) -> Iterator[None]:
    """Run an action on the connection of every transaction, once it has begun."""

    def begun(_: Session, __: SessionTransaction, connection: Connection) -> None:
        action(connection)

    with listening(Session, "after_begin", begun):
        yield


@contextmanager
def impatient(seconds: float) -> Iterator[None]:
    """Let SQLite's connections that are opened meanwhile wait for a lock for so long, not for half a minute."""

    def connected(connection: Any, _: object) -> None:
        connection.execute(f"PRAGMA busy_timeout={round(seconds * 1000)}")

    with listening(Engine, "connect", connected):
        yield
