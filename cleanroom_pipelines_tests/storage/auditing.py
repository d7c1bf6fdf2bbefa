"""Processes that write to the audit log, and changes to its rows that bypass its rules.

Lives here: what such a process does, and reading and replacing lines of the table as a forger can. It imports
neither tests nor pytest, because each process imports it.
"""

import sqlite3
from collections.abc import Iterable
from contextlib import closing
from datetime import UTC, datetime
from multiprocessing.synchronize import Barrier
from pathlib import Path

from cleanroom_pipelines.storage import InstallationKey
from cleanroom_pipelines.storage.audit import AuditLog, _room_of

KEY = InstallationKey(bytes(range(32)))
ENTRY = {"way": "api", "operation": "DeleteAudienceModel", "account": "111122223333", "outcome": "accepted"}


def now() -> datetime:
    return datetime(2026, 3, 1, 12, tzinfo=UTC)


def write_some(folder: Path, name: int, n_entries: int, barrier: Barrier) -> None:
    log = AuditLog(folder, KEY, now)
    barrier.wait()
    for number in range(n_entries):
        log.write({**ENTRY, "request_id": f"{name}-{number}"})
        log.write_soon({**ENTRY, "request_id": f"{name}-s{number}"})
    log.close()


def lines_of(folder: Path, after: int = 0) -> list[bytes]:
    """The lines of the table in their order, without the first so many."""
    query = "SELECT line FROM audit_entries WHERE place > ? ORDER BY place"
    with closing(sqlite3.connect(folder / "audit.db")) as connection:
        return [line for (line,) in connection.execute(query, (after,))]


def put_lines(folder: Path, lines: Iterable[bytes]) -> None:
    """Replace the lines of the table; of each, a room is what the log itself would note."""
    with closing(sqlite3.connect(folder / "audit.db")) as connection, connection:
        connection.execute("DELETE FROM audit_entries")
        rows = [(place, line, _room_of(line)) for place, line in enumerate(lines, 1)]
        connection.executemany("INSERT INTO audit_entries (place, line, room) VALUES (?, ?, ?)", rows)
