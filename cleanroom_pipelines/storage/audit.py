"""The audit log: requests and their callers, in a tamper-evident chain.

Lives here: writing entries durably from many threads and processes, reading them, verifying the chain.
Add here when entries need another field; then explain why it cannot contain data.
Keep out: deciding what to log (the entry points); data. Entries have a closed set of fields, with patterns that no
e-mail address, cell or location matches.

Each row of the table holds one entry as a line of JSON. Its last member is an HMAC over the previous entry's HMAC
and the line's own bytes, with a key derived from the installation key. The table is in `audit.db`, or in the
catalogue's server database. After each transaction, `audit.head` gets the number and HMAC of the newest entry, so
that a truncated log is detected. After a kill it may lack the newest entries, but it never has an entry that the
table lacks. Truncating both to the same entry, or restoring older copies of both, cannot be detected from them
alone: store the head that `verify` reports elsewhere from time to time, and pass it to a later `verify`.

Earlier releases wrote the same lines to `audit.jsonl`. They are imported once, unchanged; the file is kept as
evidence.
"""

import atexit
import hashlib
import hmac
import json
import os
import re
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property, partial
from pathlib import Path
from threading import Event, Lock, Thread
from typing import IO, Any

from sqlalchemy import (
    URL,
    BigInteger,
    Column,
    Connection,
    Engine,
    Index,
    LargeBinary,
    MetaData,
    Row,
    String,
    Table,
    insert,
    inspect,
    select,
)
from sqlalchemy.exc import OperationalError, SQLAlchemyError

from cleanroom_pipelines.errors import CleanroomError, ConfigurationError, StorageFullError, StoreUnavailableError
from cleanroom_pipelines.storage.artifacts import full_disk_is_an_error, sync_folder
from cleanroom_pipelines.storage.databases import WRITES, make_engine
from cleanroom_pipelines.storage.keys import InstallationKey
from cleanroom_pipelines.storage.processes import locked

DATABASE, HEADS = "audit.db", "audit.head"
_OLD_LOG, _LOCK = "audit.jsonl", "audit.lock"
_BATCH = 512  # maximum entries per transaction
_MAX_QUEUED = 4096  # queued entries of `write_soon` from which the caller writes them itself
_SOON_SECONDS = 1.0
_MAX_UNRECORDED = 2 * _BATCH  # entries that may be missing from the heads after a kill between the two writes
_PAGE = 256
_LINE_BYTES = 1 << 16  # more than the longest entry
_MAX_CUT_BYTES = _BATCH * _LINE_BYTES  # maximum remains of an interrupted append in earlier releases
_CUT_OFF = "cut_off"
_LINE = re.compile(rb'\{"sequence":([1-9][0-9]{0,17}),.*,"mac":"([0-9a-f]{64})"\}\n?', re.DOTALL)
_MAC_BYTES = len(',"mac":""}') + 64  # length of the rest of the line, which the HMAC does not cover
_HEAD = re.compile(rb"([1-9][0-9]{0,17}):([0-9a-f]{64})\n?")
_IS_FULL = ("disk is full", "disk I/O error", "No space left")  # the second if SQLite's log has no space
_IS_CLOSED = ("unable to open", "readonly")

_ENTRIES = Table(
    "audit_entries",
    MetaData(),
    Column("place", BigInteger, primary_key=True, autoincrement=False),
    Column("line", LargeBinary, nullable=False),
    Column("room", String),
    Index("audit_entries_room", "room", "place"),
)

_ARN = r"arn:aws[-a-z]*:[a-z0-9-]{1,40}:[a-z0-9-]{0,40}:[0-9]{12}:[a-zA-Z0-9_/.-]{1,1024}"
_ID = r"[a-zA-Z0-9][a-zA-Z0-9_.-]{0,127}"
_WORD = r"[a-zA-Z][a-zA-Z0-9_.:-]{0,79}"
_TEXTS = {
    "request_id": re.compile(r"[a-zA-Z0-9-]{1,64}"),
    "account": re.compile(r"[0-9]{12}"),
    "access_key": re.compile(r"[a-zA-Z0-9]{1,128}"),
    "way": re.compile(r"api|media|console|cli|inbox|ui|schedule|worker"),
    "operation": re.compile(_WORD),
    "outcome": re.compile(r"[a-z][a-z_]{0,31}"),
    "error": re.compile(_WORD),
    "user": re.compile(r"[0-9a-f]{16}"),  # keyed digest of an e-mail address
    "room": re.compile(_ID),
    "participant": re.compile(r"[0-9a-f-]{1,40}"),
    "dataset": re.compile(r"[a-z_]{1,32}"),
    "pair": re.compile(r"pair-[0-9a-f]{24}"),
    "organization": re.compile(r"[0-9a-f]{64}"),  # keyed digest, since it may be an address
    "question": re.compile(r"[0-9a-f]{64}"),  # keyed digest of content, canonical text and price
    "kind": re.compile(r"[a-z_]{1,32}"),
    "variance": re.compile(r"[0-9]{1,40}(/[0-9]{1,40})?"),
    "sensitivity": re.compile(r"[0-9]{1,20}(/[0-9]{1,20})?"),
}
_RESOURCE = re.compile(f"{_ARN}|{_ID}")
_MAX_RESOURCES = 8
_NUMBERS = ("n_unknown_members", "n_bytes", "n_objects", "tenths")


@dataclass(frozen=True)
class AuditHead:
    """Number and HMAC of the log's newest entry; a copy saved elsewhere shows later whether the log was truncated.

    Args:
        sequence: Number of the entry, from 1; 0 for an empty log.
        mac: Its HMAC, 64 hex digits.
    """

    sequence: int
    mac: str

    def __str__(self) -> str:
        return f"{self.sequence}:{self.mac}"

    @classmethod
    def parse(cls, text: str) -> "AuditHead":
        """Parse the form `SEQUENCE:HMAC` that `str` returns.

        Raises:
            ValueError: The text has another form.
        """
        head = None if text.endswith("\n") else _head(_HEAD, text.encode("utf-8", "replace"))
        if head is None:
            raise ValueError("The text does not have the form SEQUENCE:HMAC.")
        return head


_NOTHING = AuditHead(0, "0" * 64)


@dataclass(frozen=True)
class AuditVerdict:
    """Result of verifying the audit log.

    Args:
        ok: Whether the log is unchanged since it was written.
        n_entries: Number of valid entries in the chain, from the first one on.
        problem: The problem in one sentence, without the entry's content.
        at: Number of the entry with the problem.
        cut_off: Numbers of entries whose write was interrupted by a kill or power cut in an earlier release. They
            were never confirmed; the chain covers their remains.
        head: The newest entry; store it elsewhere.
    """

    ok: bool
    n_entries: int
    problem: str | None = None
    at: int | None = None
    cut_off: tuple[int, ...] = ()
    head: AuditHead = _NOTHING


class AuditLog:
    """Audit log of a home; safe for any number of threads and processes.

    Args:
        folder: Folder of its files; created with the first entry, accessible to the owner only.
        key: The installation key.
        clock: Returns the time in UTC.
        server: Server database of the catalogue, which then holds the table. None: a file in the folder.
    """

    def __init__(
        self, folder: Path, key: InstallationKey, clock: Callable[[], datetime], server: URL | None = None
    ) -> None:
        self._folder, self._key, self._clock, self._server = folder, key, clock, server
        self._file = folder / DATABASE
        self._inherited: list[Engine | None] = []
        self._engine: Engine | None = None
        self._stays_connected = False
        self._reset()

    _thread: Thread | None

    def write(self, entry: Mapping[str, Any]) -> None:
        """Write an entry; it is on disk when this returns.

        Concurrent threads share one transaction.

        Args:
            entry: `way`, `operation`, any of the other `_TEXTS` and `_NUMBERS`, and `resource` (one id or ARN, or
                up to 8). None means absent. The time is added.

        Raises:
            ValueError: A field is unknown, or its value does not match the field's pattern.
            StorageFullError: The disk is full; nothing was written.
            StoreUnavailableError: The database does not respond; nothing was written.
            ConfigurationError: The log cannot be written.
        """
        self._write_up_to(self._queued(entry), is_awaited=True)

    def write_soon(self, entry: Mapping[str, Any]) -> None:
        """Queue the entry of a read request, which is written within about a second, in a batch.

        `close` and the end of the interpreter write queued entries. A kill or a power cut loses them. If the disk
        is full they stay queued; once thousands are queued, the caller gets the error.

        Args:
            entry: As for `write`.

        Raises:
            ValueError: As for `write`.
            CleanroomError: As for `write`, if many entries are already queued.
        """
        if len(self._queue) >= _MAX_QUEUED:
            self.flush()
        self._queued(entry)
        if self._thread is None:
            with self._write_lock:
                if self._thread is None:
                    self._ends = Event()
                    self._thread = Thread(target=self._keep_flushing, args=(self._ends,), daemon=True)
                    self._thread.start()
                    atexit.register(self._close_at_exit)

    def flush(self) -> None:
        """Write the queued entries.

        Raises:
            CleanroomError: As for `write`; the entries stay queued.
        """
        self._check_process()
        if waiting := self._queue[-1:]:
            self._write_up_to(waiting[0], is_awaited=False)

    def close(self) -> None:
        """Write the queued entries and close the database; the log can be used again.

        Raises:
            CleanroomError: As for `write`; the entries stay queued.
        """
        self._check_process()
        with self._write_lock:
            thread, self._thread = self._thread, None
        if thread is not None:
            self._ends.set()
            thread.join()
            atexit.unregister(self._close_at_exit)
        try:
            self.flush()
        finally:
            with self._write_lock:
                if self._engine is not None:
                    self._engine.dispose()

    def stay_connected(self) -> None:
        """Keep connections open between transactions, which makes writes to an SQLite file four times as fast.

        Call it before the first use, and only in a process that never forks.
        """
        self._stays_connected = True

    def entries(
        self, *, account: str | None = None, since: datetime | None = None, room: str | None = None
    ) -> Iterator[dict[str, Any]]:
        """Read the entries in the order they were written, without verifying them.

        Args:
            account: Only entries of this account.
            since: Only entries from this time on.
            room: Only entries of this data room; uses an index.

        Yields:
            `sequence`, `time` (ISO, UTC) and the fields of each entry.
        """
        earliest = "" if since is None else _iso(since)
        for row in self._rows(self._end()[0], room):
            entry = _parsed(row.line)
            if entry is None or str(entry.get("time", "")) < earliest:
                continue
            if account in (None, entry.get("account")) and room in (None, entry.get("room")):
                entry.pop("mac", None)
                yield entry

    def newest(self, room: str, limit: int, before: int | None = None) -> tuple[list[dict[str, Any]], int | None]:
        """Read the newest entries of a data room, newest first, without verifying them.

        Args:
            room: The data room.
            limit: The most entries to read.
            before: Read older entries than an earlier call did, which returned this number.

        Returns:
            The entries, and the number with which to read older ones; None if there are none.
        """
        last = self._end()[0] if before is None else before - 1
        if self._engine is None or not last:
            return [], None
        query = select(_ENTRIES).where(_ENTRIES.c.room == room, _ENTRIES.c.place <= last)
        query = query.order_by(_ENTRIES.c.place.desc()).limit(limit + 1)
        with _translated_errors(), self._engine.connect() as connection:
            rows = connection.execute(query).all()
        entries = [entry for row in rows[:limit] if (entry := _parsed(row.line)) and entry.get("room") == room]
        return entries, rows[limit - 1].place if len(rows) > limit else None

    def verify(self, *, expect: AuditHead | None = None) -> AuditVerdict:
        """Verify the whole chain in constant memory; writers are blocked only briefly.

        Detects entries that were altered, removed, inserted or moved, a log truncated before the end recorded in
        `audit.head`, and a log of another installation.

        Args:
            expect: Head reported by an earlier `verify`; also detects that log and `audit.head` were both
                truncated before it.
        """
        place, n_bytes = self._end()
        heads = (head for line in _lines(self._folder / HEADS, n_bytes) if (head := _head(_HEAD, line)))
        reading = _Pass(self._secret, heads, expect)
        problem, at = None, None
        try:
            for row in self._rows(place):
                reading.read(row.line)
                if row.room != _room_of(row.line):
                    raise _Broken(
                        "The room that is stored with an entry was altered.",
                        reading.last.sequence,
                    )
            reading.end()
        except _Broken as broken:
            problem, at = broken.args
        last = reading.last
        return AuditVerdict(problem is None, last.sequence, problem, at, tuple(reading.cut_off), last)

    def copy_to(self, folder: Path) -> None:
        """Copy a consistent state of the log to an existing folder, while other processes write.

        Missing files are skipped.
        """
        with self._locked() as engine:
            if engine is not None and self._server is None:
                with (
                    closing(sqlite3.connect(self._file)) as source,
                    closing(sqlite3.connect(folder / DATABASE)) as copy,
                ):
                    source.backup(copy)
            if (heads := self._folder / HEADS).exists():
                (folder / HEADS).write_bytes(heads.read_bytes())

    @cached_property
    def _secret(self) -> bytes:
        return self._key.derive("audit log")

    def _reset(self) -> None:
        self._pid = os.getpid()
        self._queue: list[dict[str, Any]] = []
        self._write_lock = Lock()
        self._thread = None
        self._ends = Event()
        self._inherited.append(self._engine)
        self._engine = None
        self._n_unsynced = 0  # entries whose heads may still be in the machine's memory

    def _check_process(self) -> None:
        if os.getpid() != self._pid:
            # a forked child: the parent writes the queued entries, and owns the connections and locks
            self._reset()

    def _queued(self, entry: Mapping[str, Any]) -> dict[str, Any]:
        self._check_process()
        waiting = {"time": _iso(self._clock()), **_checked(entry)}
        self._queue.append(waiting)
        return waiting

    def _write_up_to(self, last: dict[str, Any], *, is_awaited: bool) -> None:
        """Write queued entries in batches until this or another thread has written `last`.

        Args:
            last: The entry.
            is_awaited: Whether to remove `last` from the queue if writing fails, since its writer gets the error.
        """
        with self._write_lock:
            while any(each is last for each in self._queue):
                batch = self._queue[:_BATCH]
                try:
                    self._append(batch)
                except BaseException:
                    if is_awaited:  # in one step, since other threads append meanwhile
                        del self._queue[next(at for at, each in enumerate(self._queue) if each is last)]
                    raise
                del self._queue[: len(batch)]

    def _keep_flushing(self, ends: Event) -> None:
        while not ends.wait(_SOON_SECONDS):
            with suppress(CleanroomError):  # the next round retries
                self.flush()

    def _close_at_exit(self) -> None:
        with suppress(CleanroomError):  # there is no caller to report to
            self.close()

    def _append(self, entries: list[dict[str, Any]]) -> None:
        """Append a batch of entries to the table atomically, then record the last one in `audit.head`."""
        with self._locked(creates=True) as engine, _private(self._folder / HEADS, "ab+") as heads:
            assert engine is not None
            with engine.execution_options(**WRITES).begin() as connection:
                place, before = _newest(connection)
                last, rows = before, []
                for place, entry in enumerate(entries, place + 1):  # noqa: B020
                    last, line = self._link(last, entry)
                    rows.append(_row(place, line))
                connection.execute(insert(_ENTRIES), rows)
            self._n_unsynced += len(entries)
            with suppress(OSError):  # the entries are written; the heads catch up with the next batch
                _record(heads, before, last)
                if self._n_unsynced >= _BATCH:
                    os.fsync(heads.fileno())
                    self._n_unsynced = 0

    def _link(self, last: AuditHead, entry: Mapping[str, Any]) -> tuple[AuditHead, bytes]:
        """Chain an entry to the previous one; return its digest (the new head) and its line in the log."""
        fields = json.dumps(entry, sort_keys=True, separators=(",", ":"))[1:-1]
        body = f'{{"sequence":{last.sequence + 1},{fields}'.encode()
        mac = _mac(self._secret, last, body)
        return AuditHead(last.sequence + 1, mac), body + f',"mac":"{mac}"}}\n'.encode()

    @contextmanager
    def _locked(self, *, creates: bool = False) -> Iterator[Engine | None]:
        """Lock the log against other processes; yield its database, or None if the log is empty."""
        self._check_process()
        with _translated_errors():
            if not creates and not self._folder.is_dir():
                yield None
                return
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            with locked(self._folder / _LOCK):
                is_there = self._server is not None or self._file.exists()
                if self._engine is None or not is_there:
                    is_there |= creates or (self._folder / _OLD_LOG).exists()
                    self._engine = self._opened() if is_there else None
                yield self._engine

    def _opened(self) -> Engine:
        """Open the database; on first use, create the table and import an earlier log."""
        if self._server is None and not self._file.exists():
            _private(self._file, "xb").close()
            sync_folder(self._folder)
        engine = make_engine(self._server or _url(self._file), stays_connected=self._stays_connected)
        if self._server is None:
            with closing(engine.raw_connection()) as connection:
                connection.cursor().execute("PRAGMA journal_mode=WAL")
        with engine.execution_options(**WRITES).begin() as connection:
            if not inspect(connection).has_table(_ENTRIES.name):
                _ENTRIES.create(connection)
                self._import(connection)
        with suppress(FileNotFoundError):
            (self._folder / _OLD_LOG).chmod(0o400)
            (self._folder / "audit.index").unlink()  # index of the old log, no longer needed
        return engine

    def _import(self, connection: Connection) -> None:
        """Import every line of an earlier log unchanged, whether valid or not."""
        if self._server is not None and self._file.exists():  # the catalogue has moved to a server
            before = make_engine(_url(self._file))
            lines: Iterable[bytes] = (row.line for row in _pages(before, None, None))
        else:
            file = self._folder / _OLD_LOG
            lines = _lines(file, file.stat().st_size) if file.exists() else ()
        reading, is_right, rows = _Pass(self._secret, iter(()), None), True, []
        place = 0
        for place, line in enumerate(lines, 1):
            rows.append(_row(place, line))
            if len(rows) == _PAGE:
                connection.execute(insert(_ENTRIES), rows)
                rows = []
            try:
                if is_right:
                    reading.read(line)
            except _Broken:
                is_right = False
        if is_right and reading.cut and not any(_head(_LINE, line) for line in reading.cut):
            # a kill interrupted the last append
            _, line = self._link(reading.last, {"time": _iso(self._clock()), _CUT_OFF: _account(reading.cut)})
            rows.append(_row(place + 1, line))
        if rows:
            connection.execute(insert(_ENTRIES), rows)

    def _end(self) -> tuple[int, int]:
        """Return the last row's number and the length of `audit.head` in bytes, both read under the lock."""
        heads = self._folder / HEADS
        with self._locked() as engine:
            n_bytes = heads.stat().st_size if heads.exists() else 0
            if engine is None:
                return 0, n_bytes
            with engine.connect() as connection:
                query = select(_ENTRIES.c.place).order_by(_ENTRIES.c.place.desc()).limit(1)
                return connection.scalar(query) or 0, n_bytes

    def _rows(self, until: int, room: str | None = None) -> Iterator[Row[Any]]:
        if until and self._engine is not None:
            yield from _pages(self._engine, until, room)


class _Broken(Exception):  # noqa: N818
    """The chain is broken; the exception's arguments are the problem and the entry's number."""


class _Pass:
    """One verification pass through the audit log's chain of entries.

    Args:
        secret: The derived key.
        heads: Recorded heads of `audit.head`, in the order written.
        expect: A head that was stored elsewhere.
    """

    def __init__(self, secret: bytes, heads: Iterator[AuditHead], expect: AuditHead | None) -> None:
        self._secret, self._heads, self._expect = secret, heads, expect
        self._next_head = next(heads, None)
        self._recorded = 0  # number of the newest entry confirmed by the heads
        self.last = _NOTHING
        self.cut: list[bytes] = []  # lines that are not entries, until an entry accounts for them
        self._n_cut = 0  # bytes
        self.cut_off: list[int] = []

    def read(self, line: bytes) -> None:
        """Verify the next line of the log."""
        n = self.last.sequence + 1
        head = AuditHead(n, _mac(self._secret, self.last, line.removesuffix(b"\n")[:-_MAC_BYTES]))
        if _head(_LINE, line) != head:
            self.cut.append(line)
            self._n_cut += len(line)
            if self._n_cut > _MAX_CUT_BYTES:
                raise self._unaccounted()
            return
        accounted = json.loads(line).get(_CUT_OFF) if _CUT_OFF.encode() in line else None
        if accounted != (_account(self.cut) if self.cut else None):
            raise self._unaccounted()
        if self.cut:
            self.cut_off.append(n)
            self.cut, self._n_cut = [], 0
        self.last = head
        if self._expect is not None and self._expect.sequence == n and self._expect != self.last:
            raise _Broken(f"Entry {n} differs from the expected entry: the log was truncated, then continued.", n)
        while self._next_head is not None and self._next_head.sequence <= n:
            if self._next_head != self.last:
                raise _Broken(
                    f"Entry {n} differs from its record in audit.head: the log was truncated, then continued.",
                    n,
                )
            self._recorded = n
            self._next_head = next(self._heads, None)

    def end(self) -> None:
        """Compare the end of the chain with the recorded heads and with the expected head."""
        n = self.last.sequence
        if any(_head(_LINE, line) for line in self.cut):
            raise self._unaccounted()
        if self._next_head is not None:
            raise _Broken(
                f"The log ends after entry {n}, but later entries were written: it was truncated.", n + 1
            )
        if self._expect is not None and self._expect.sequence > n:
            raise _Broken(f"The log ends after entry {n}, before the expected entry: it was truncated.", n + 1)
        if n - self._recorded > _MAX_UNRECORDED:
            raise _Broken(f"audit.head ends at entry {self._recorded}: it was truncated.", n)
        if self.cut:
            raise self._unaccounted()

    def _unaccounted(self) -> _Broken:
        due = self.last.sequence + 1
        head = _head(_LINE, self.cut[0]) if self.cut else None
        if head is None:
            return _Broken(f"The line after entry {due - 1} is not an entry: it was altered or inserted.", due)
        if head.sequence != due:
            return _Broken(f"Entry {due} is not at its position: entries were removed, moved or inserted.", due)
        if due == 1:
            return _Broken("Entry 1 was altered, or the log belongs to another installation's key.", due)
        return _Broken(f"Entry {due} was altered or inserted.", due)


def fits(field: str, value: object) -> bool:
    """Whether a value matches the pattern of an audit field; check input from clients before logging it.

    Args:
        field: Name of the field.
        value: Value to check.
    """
    if field in _TEXTS:
        return isinstance(value, str) and _TEXTS[field].fullmatch(value) is not None
    if field in _NUMBERS:
        return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 63
    several = [value] if isinstance(value, str) else value
    return (
        field == "resource"
        and isinstance(several, list | tuple)
        and 1 <= len(several) <= _MAX_RESOURCES
        and all(isinstance(each, str) and _RESOURCE.fullmatch(each) for each in several)
    )


def _checked(entry: Mapping[str, Any]) -> dict[str, Any]:
    """Validate an entry, and return its fields without None values.

    Raises:
        ValueError: A field is unknown or missing, or its value does not match the field's pattern.
    """
    given = {field: value for field, value in entry.items() if value is not None}
    for field, value in given.items():
        if field not in {*_TEXTS, *_NUMBERS, "resource"}:
            raise ValueError("The audit log does not allow this field, because entries must not contain data.")
        if not fits(field, value):
            raise ValueError(f"The value of {field} does not match the pattern that the audit log allows.")
    for field in ("way", "operation"):
        if field not in given:
            raise ValueError(f"The audit log entry lacks {field}.")
    return given


def _iso(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _head(form: re.Pattern[bytes], line: bytes) -> AuditHead | None:
    """Parse a head from a line of the log or of `audit.head`; None for any other line."""
    match = form.fullmatch(line)
    return AuditHead(int(match.group(1)), match.group(2).decode()) if match else None


def _mac(secret: bytes, last: AuditHead, body: bytes) -> str:
    """Compute the HMAC of an entry that follows `last`."""
    return hmac.digest(secret, bytes.fromhex(last.mac) + body, "sha256").hex()


def _account(cut: list[bytes]) -> dict[str, Any]:
    return {"n_bytes": sum(map(len, cut)), "sha256": hashlib.sha256(b"".join(cut)).hexdigest()}


def _parsed(line: bytes) -> dict[str, Any] | None:
    """Parse an entry; None for an invalid line, which `verify` reports."""
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return entry if isinstance(entry, dict) else None


def _room_of(line: bytes) -> str | None:
    room = (_parsed(line) or {}).get("room") if b'"room":' in line else None
    return room if fits("room", room) else None


def _row(place: int, line: bytes) -> dict[str, Any]:
    return {"place": place, "line": line, "room": _room_of(line)}


def _pages(engine: Engine, until: int | None, room: str | None) -> Iterator[Row[Any]]:
    """Read rows in order, page by page, so that a slow reader keeps no transaction open."""
    place, query = _ENTRIES.c.place, select(_ENTRIES).order_by(_ENTRIES.c.place).limit(_PAGE)
    query = query if until is None else query.where(place <= until)
    query = query if room is None else query.where(_ENTRIES.c.room == room)
    page: Sequence[Row[Any]] = ()
    while not page or len(page) == _PAGE:
        with _translated_errors(), engine.connect() as connection:
            page = connection.execute(query.where(place > (page[-1].place if page else 0))).all()
        yield from page
        if not page:
            return


def _newest(connection: Connection) -> tuple[int, AuditHead]:
    """Return the last row's number and the newest entry's head, without verifying them."""
    query = select(_ENTRIES.c.place, _ENTRIES.c.line).order_by(_ENTRIES.c.place.desc())
    for limit in (1, _PAGE):
        rows = connection.execute(query.limit(limit)).all()
        for row in rows:
            if head := _head(_LINE, row.line):
                return rows[0].place, head
        if len(rows) < limit:
            return rows[0].place if rows else 0, _NOTHING
    raise ConfigurationError(
        "The end of the audit log cannot be read.", remedy="Run `cleanroom audit verify` and restore a backup."
    )


def _lines(file: Path, n_bytes: int) -> Iterator[bytes]:
    """Read the lines in the first `n_bytes` of a file; the last may be incomplete, and long lines are split."""
    if not n_bytes:
        return
    with _translated_errors(), file.open("rb") as stream:
        while n_bytes > 0 and (line := stream.readline(min(_LINE_BYTES, n_bytes))):
            n_bytes -= len(line)
            yield line


def _record(heads: IO[bytes], before: AuditHead, last: AuditHead) -> None:
    """Append the newest head to `audit.head`, and the previous one if a killed process did not write it."""
    heads.seek(-min(heads.seek(0, os.SEEK_END), _PAGE), os.SEEK_END)
    *whole, rest = heads.read().split(b"\n")
    recorded = next((head for line in reversed(whole) if (head := _head(_HEAD, line))), _NOTHING)
    missed = f"{before}\n" if before.sequence > recorded.sequence else ""
    heads.write((b"\n" if rest else b"") + f"{missed}{last}\n".encode())


def _private(file: Path, mode: str) -> IO[bytes]:
    """Open a file; a new file is accessible to its owner only, regardless of the umask."""
    return open(file, mode, buffering=0, opener=partial(os.open, mode=0o600))


def _url(file: Path) -> URL:
    return URL.create("sqlite", database=str(file))


@contextmanager
def _translated_errors() -> Iterator[None]:
    """Convert errors of the operating system and the database into this package's errors."""
    try:
        with full_disk_is_an_error():
            yield
    except CleanroomError:
        raise
    except (OSError, SQLAlchemyError, sqlite3.Error) as error:
        reason = str(getattr(error, "orig", error))
        if any(sign in reason for sign in _IS_FULL):
            raise StorageFullError(
                "The audit log's disk is full or failing.", remedy="Free some space and try again."
            ) from None
        if isinstance(error, OperationalError) and not any(sign in reason for sign in _IS_CLOSED):
            raise StoreUnavailableError(
                "The audit log's database does not respond or stayed locked.",
                remedy="Check that it runs and is not locked by another program, then try again.",
            ) from None
        raise ConfigurationError(
            f"The audit log cannot be read or written ({type(error).__name__}).",
            remedy="Check the permissions of the home's audit folder; restore a damaged file from a backup.",
        ) from None
