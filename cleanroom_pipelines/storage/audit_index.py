"""Where the entries of each data room stand in the audit log, so that a look at one room reads only its own.

Lives here: keeping that index level with the log, and looking a room up.
Add here when entries are looked for by something else.
Keep out: what an entry is, and whether it is true (`audit.py`): whoever reads a place checks what stands there.

The index can always be made anew from the log and is no part of it: it is not backed up, and one that does not fit
the log, is damaged or cannot be written is deleted or done without.
"""

import os
import sqlite3
from collections.abc import Callable, Iterable
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path

INDEX = "audit.index"
_BUSY_SECONDS = 1.0


@dataclass(frozen=True)
class Place:
    """Where an entry stands in the log.

    Args:
        offset: Of its first byte.
        n_bytes: How long its line is.
    """

    offset: int
    n_bytes: int


@dataclass(frozen=True)
class Level:
    """How far an index has come.

    Args:
        n_bytes: So many bytes of the log are in it.
        mac: HMAC of the entry that ends there: where another one does, it is the index of another log.
    """

    n_bytes: int
    mac: str


_START = Level(0, "")


class RoomIndex:
    """The index beside an audit log; any number of processes may use it at once.

    Args:
        file: Where it lies; made when it is first brought level.
    """

    def __init__(self, file: Path) -> None:
        self._file = file

    def bring_level(self, fits: Callable[[Level], bool], read: Callable[[Level], tuple[Level, "Entries"]]) -> bool:
        """Add what the log has more than the index.

        Args:
            fits: Whether a level is one of this log.
            read: Gives the log's level, and the rooms and places of the entries behind a level.

        Returns:
            Whether the index is level now; otherwise it cannot be used.
        """
        try:
            before = self._level()
            if not fits(before):
                self._delete()
                before = _START
            after, entries = read(before)
            if after != before:
                self._add(before, after, entries)
            return True
        except sqlite3.OperationalError:
            return False  # locked for long, or nobody may write here
        except sqlite3.DatabaseError:
            with suppress(OSError):
                self._delete()
            return False
        except OSError:
            return False

    def places(self, room: str) -> list[Place]:
        """The places of a room's entries, in the order they were written.

        Raises:
            sqlite3.Error: The index cannot be read.
        """
        query = "SELECT start, n_bytes FROM entries WHERE room = ? ORDER BY start"
        with closing(self._connect()) as connection:
            return [Place(*row) for row in connection.execute(query, (room,))]

    def _level(self) -> Level:
        if not self._file.exists():
            return _START
        with closing(self._connect()) as connection:
            row = connection.execute("SELECT n_bytes, mac FROM level").fetchone()
        return Level(*row) if row else _START

    def _add(self, before: Level, after: Level, entries: "Entries") -> None:
        with closing(self._connect()) as connection:
            connection.execute("BEGIN IMMEDIATE")
            now = connection.execute("SELECT n_bytes, mac FROM level").fetchone() or (0, "")
            if Level(*now) == before:  # otherwise another process was faster, and what it added is right too
                connection.executemany(
                    "INSERT OR IGNORE INTO entries VALUES (?, ?, ?)",
                    ((room, place.offset, place.n_bytes) for room, place in entries),
                )
                connection.execute("DELETE FROM level")
                connection.execute("INSERT INTO level VALUES (?, ?)", (after.n_bytes, after.mac))
            connection.execute("COMMIT")

    def _connect(self) -> sqlite3.Connection:
        os.close(os.open(self._file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        connection = sqlite3.connect(self._file, timeout=_BUSY_SECONDS, isolation_level=None)
        connection.execute(
            "CREATE TABLE IF NOT EXISTS entries (room TEXT, start INTEGER, n_bytes INTEGER,"
            " PRIMARY KEY (room, start)) WITHOUT ROWID"
        )
        connection.execute("CREATE TABLE IF NOT EXISTS level (n_bytes INTEGER, mac TEXT)")
        return connection

    def _delete(self) -> None:
        for name in (self._file.name, f"{self._file.name}-journal"):
            (self._file.parent / name).unlink(missing_ok=True)


Entries = Iterable[tuple[str, Place]]
