"""The audit log: who asked for what, in a chain that shows what was changed afterwards.

Lives here: writing entries durably from many threads and processes, reading them, verifying the chain.
Add here when an entry must say something more; say then why it cannot carry data.
Keep out: deciding what is written when (the ways in); data. Entries have a closed set of fields, each of a shape
that no e-mail, cell or location has.

A row of the table holds an entry as a line of JSON. Its last member is an HMAC over the HMAC of the entry before
and the line's own bytes, under a key derived from the installation key. The table is in `audit.db`, or on the
catalogue's server. `audit.head` gets the number and the HMAC of the newest entry after each transaction, so that a
log that lost its end says so; it may lack the newest ones after a kill, never hold one that the table lacks.
Someone who cuts both back to the same moment, or restores older copies of both, leaves no trace in them: keep what
`verify` calls the head somewhere else from time to time, and give it to a later `verify`.

Releases before the table wrote the same lines into `audit.jsonl`. They are imported once, as they are; the file
stays as evidence.
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
_BATCH = 512  # entries that one transaction may carry
_MOST_WAITING = 4096  # entries of `write_soon` after which the caller writes them itself
_SOON_SECONDS = 1.0
_MOST_UNRECORDED = 2 * _BATCH  # entries that a kill between table and heads may leave out of the heads
_PAGE = 256
_LINE_BYTES = 1 << 16  # more than the longest entry takes
_MOST_CUT_BYTES = _BATCH * _LINE_BYTES  # no append that was cut off in a release before the table left more
_CUT_OFF = "cut_off"
_LINE = re.compile(rb'\{"sequence":([1-9][0-9]{0,17}),.*,"mac":"([0-9a-f]{64})"\}\n?', re.DOTALL)
_MAC_BYTES = len(',"mac":""}') + 64  # what follows the bytes that the HMAC covers
_HEAD = re.compile(rb"([1-9][0-9]{0,17}):([0-9a-f]{64})\n?")
_IS_FULL = ("disk is full", "disk I/O error", "No space left")  # the second where SQLite's log finds no place
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
    "way": re.compile(r"api|media|cli|inbox|ui|schedule|worker"),
    "operation": re.compile(_WORD),
    "outcome": re.compile(r"[a-z][a-z_]{0,31}"),
    "error": re.compile(_WORD),
    "user": re.compile(r"[0-9a-f]{16}"),  # keyed digest of an e-mail address
    "room": re.compile(_ID),
    "participant": re.compile(r"[0-9a-f-]{1,40}"),
    "dataset": re.compile(r"[a-z_]{1,32}"),
    "pair": re.compile(r"pair-[0-9a-f]{24}"),
    "organization": re.compile(r"[0-9a-f]{64}"),  # keyed digest: it may be an address
    "question": re.compile(r"[0-9a-f]{64}"),  # keyed content, canonical text and price
    "kind": re.compile(r"[a-z_]{1,32}"),
    "variance": re.compile(r"[0-9]{1,40}(/[0-9]{1,40})?"),
    "sensitivity": re.compile(r"[0-9]{1,20}(/[0-9]{1,20})?"),
}
_RESOURCE = re.compile(f"{_ARN}|{_ID}")
_MOST_RESOURCES = 8
_NUMBERS = ("n_unknown_members", "n_bytes", "tenths")


@dataclass(frozen=True)
class AuditHead:
    """The newest entry at some moment; kept elsewhere it proves later that nothing up to it was cut.

    Args:
        sequence: Number of the entry, from 1; 0 when there is none.
        mac: Its HMAC, 64 hex digits.
    """

    sequence: int
    mac: str

    def __str__(self) -> str:
        return f"{self.sequence}:{self.mac}"

    @classmethod
    def parse(cls, text: str) -> "AuditHead":
        """Read what `str` writes.

        Raises:
            ValueError: It is not of that form.
        """
        head = None if text.endswith("\n") else _head(_HEAD, text.encode("utf-8", "replace"))
        if head is None:
            raise ValueError("not of the form SEQUENCE:HMAC")
        return head


_NOTHING = AuditHead(0, "0" * 64)


@dataclass(frozen=True)
class AuditVerdict:
    """What verifying the log found.

    Args:
        ok: Nothing was changed since it was written.
        n_entries: Entries whose place in the chain is right, from the first one on.
        problem: What is wrong, in one sentence without the entry's content.
        at: Number of the entry at which it is wrong.
        cut_off: Numbers that the entries would have had whose writing was cut off by a kill or a power cut, in a
            release before the table. They were never confirmed; the chain covers what is left of them.
        head: The newest entry; worth keeping elsewhere.
    """

    ok: bool
    n_entries: int
    problem: str | None = None
    at: int | None = None
    cut_off: tuple[int, ...] = ()
    head: AuditHead = _NOTHING


class AuditLog:
    """The audit log of one home; any number of threads and processes may use it at once.

    Args:
        folder: Where its files are; made, readable by its owner only, when the first entry is written.
        key: The installation key.
        clock: Gives the time in UTC.
        server: The catalogue's database on a server, which then holds the table; None: a file in the folder.
    """

    def __init__(
        self, folder: Path, key: InstallationKey, clock: Callable[[], datetime], server: URL | None = None
    ) -> None:
        self._folder, self._key, self._clock, self._server = folder, key, clock, server
        self._file = folder / DATABASE
        self._inherited: list[Engine | None] = []
        self._engine: Engine | None = None
        self._stays_connected = False
        self._start_anew()

    _thread: Thread | None

    def write(self, entry: Mapping[str, Any]) -> None:
        """Write an entry; it is on disk when this returns.

        Threads that write at the same time share one transaction.

        Args:
            entry: `way` and `operation`, and whichever of the other `_TEXTS` and `_NUMBERS` apply, and `resource`
                (one id or ARN, or up to 8); None is as good as absent. The time is added.

        Raises:
            ValueError: A field is not one of these, or its value does not have the field's shape.
            StorageFullError: The disk is full; nothing was written.
            StoreUnavailableError: The database does not answer; nothing was written.
            ConfigurationError: The log cannot be written.
        """
        self._write_up_to(self._queued(entry), is_awaited=True)

    def write_soon(self, entry: Mapping[str, Any]) -> None:
        """Write an entry within about a second, together with others; for reads, which change nothing.

        Entries that wait are written by `close` and when the interpreter ends. A kill or a power cut loses them.
        Where the disk is full they wait; once thousands wait, the caller gets the error.

        Args:
            entry: As for `write`.

        Raises:
            ValueError: As for `write`.
            CleanroomError: As for `write`, if many entries wait already.
        """
        if len(self._queue) >= _MOST_WAITING:
            self.flush()
        self._queued(entry)
        if self._thread is None:
            with self._turn:
                if self._thread is None:
                    self._ends = Event()
                    self._thread = Thread(target=self._keep_flushing, args=(self._ends,), daemon=True)
                    self._thread.start()
                    atexit.register(self._close_at_exit)

    def flush(self) -> None:
        """Write the entries that wait.

        Raises:
            CleanroomError: As for `write`; they wait on.
        """
        self._check_process()
        if waiting := self._queue[-1:]:
            self._write_up_to(waiting[0], is_awaited=False)

    def close(self) -> None:
        """Write the entries that wait and close the database; the log may be used again.

        Raises:
            CleanroomError: As for `write`; they wait on.
        """
        self._check_process()
        with self._turn:
            thread, self._thread = self._thread, None
        if thread is not None:
            self._ends.set()
            thread.join()
            atexit.unregister(self._close_at_exit)
        try:
            self.flush()
        finally:
            with self._turn:
                if self._engine is not None:
                    self._engine.dispose()

    def stay_connected(self) -> None:
        """Keep connections between transactions: a write to a file takes a quarter of the time then.

        For a process that never forks, before its first use.
        """
        self._stays_connected = True

    def entries(
        self, *, account: str | None = None, since: datetime | None = None, room: str | None = None
    ) -> Iterator[dict[str, Any]]:
        """Read the entries in the order they were written, without verifying them.

        Args:
            account: Only those of this account.
            since: Only those of this time or later.
            room: Only those of this data room, which are found without reading the others.

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

    def verify(self, *, expect: AuditHead | None = None) -> AuditVerdict:
        """Go through the whole chain, in constant memory; writers wait only for a moment.

        Finds entries that were altered, removed, inserted or moved, an end that was cut off while `audit.head`
        remembers it, and a log of another installation.

        Args:
            expect: A head that an earlier `verify` found: shows also a log that was cut back before it together
                with `audit.head`.
        """
        place, n_bytes = self._end()
        heads = (head for line in _lines(self._folder / HEADS, n_bytes) if (head := _head(_HEAD, line)))
        reading = _Pass(self._secret, heads, expect)
        problem, at = None, None
        try:
            for row in self._rows(place):
                reading.read(row.line)
                if row.room != _room_of(row.line):
                    raise _Broken("The room that an entry is found by was altered.", reading.last.sequence)
            reading.end()
        except _Broken as broken:
            problem, at = broken.args
        last = reading.last
        return AuditVerdict(problem is None, last.sequence, problem, at, tuple(reading.cut_off), last)

    def copy_to(self, folder: Path) -> None:
        """Copy the database and the heads to an existing folder while others go on writing; one consistent state.

        What is not there is not copied.
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

    def _start_anew(self) -> None:
        self._pid = os.getpid()
        self._queue: list[dict[str, Any]] = []
        self._turn = Lock()
        self._thread = None
        self._ends = Event()
        self._inherited.append(self._engine)
        self._engine = None
        self._n_unsynced = 0  # entries whose heads may still be in the machine's memory

    def _check_process(self) -> None:
        if os.getpid() != self._pid:
            # a forked child: its parent writes what waits there; its connections and locks are the parent's
            self._start_anew()

    def _queued(self, entry: Mapping[str, Any]) -> dict[str, Any]:
        self._check_process()
        waiting = {"time": _iso(self._clock()), **_checked(entry)}
        self._queue.append(waiting)
        return waiting

    def _write_up_to(self, last: dict[str, Any], *, is_awaited: bool) -> None:
        """Write what waits, up to an entry and others in its last batch, unless another thread has done so.

        Args:
            last: The entry.
            is_awaited: Do not write it later where it cannot be written now: its writer gets the error.
        """
        with self._turn:
            while any(each is last for each in self._queue):
                batch = self._queue[:_BATCH]
                try:
                    self._append(batch)
                except BaseException:
                    if is_awaited:  # in one step, for others append meanwhile
                        del self._queue[next(at for at, each in enumerate(self._queue) if each is last)]
                    raise
                del self._queue[: len(batch)]

    def _keep_flushing(self, ends: Event) -> None:
        while not ends.wait(_SOON_SECONDS):
            with suppress(CleanroomError):  # it is tried again
                self.flush()

    def _close_at_exit(self) -> None:
        with suppress(CleanroomError):  # no caller is left
            self.close()

    def _append(self, entries: list[dict[str, Any]]) -> None:
        """Append a batch to the table, all of it or nothing, then its end to the heads."""
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
            with suppress(OSError):  # the entries are written; the heads catch up with the next ones
                _record(heads, before, last)
                if self._n_unsynced >= _BATCH:
                    os.fsync(heads.fileno())
                    self._n_unsynced = 0

    def _link(self, last: AuditHead, entry: Mapping[str, Any]) -> tuple[AuditHead, bytes]:
        """The line that an entry becomes after another, and the head it makes."""
        fields = json.dumps(entry, sort_keys=True, separators=(",", ":"))[1:-1]
        body = f'{{"sequence":{last.sequence + 1},{fields}'.encode()
        mac = _mac(self._secret, last, body)
        return AuditHead(last.sequence + 1, mac), body + f',"mac":"{mac}"}}\n'.encode()

    @contextmanager
    def _locked(self, *, creates: bool = False) -> Iterator[Engine | None]:
        """Hold the log against all other processes; gives the database, None where nothing was ever written."""
        self._check_process()
        with _trouble_is_an_error():
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
        """Open the database; the first time, create the table and import what was written elsewhere before."""
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
            (self._folder / "audit.index").unlink()  # which could be made from the old log
        return engine

    def _import(self, connection: Connection) -> None:
        """Import every line of an earlier log as it is, right or not."""
        if self._server is not None and self._file.exists():  # the catalogue has moved to the server since
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
            # a kill cut the last append off
            _, line = self._link(reading.last, {"time": _iso(self._clock()), _CUT_OFF: _account(reading.cut)})
            rows.append(_row(place + 1, line))
        if rows:
            connection.execute(insert(_ENTRIES), rows)

    def _end(self) -> tuple[int, int]:
        """The last place in the table and the length of the heads between two writes."""
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
    """The chain is broken: what is wrong, and at which entry."""


class _Pass:
    """One pass through the chain.

    Args:
        secret: The derived key.
        heads: What `audit.head` remembers, in the order written.
        expect: A head that was kept elsewhere.
    """

    def __init__(self, secret: bytes, heads: Iterator[AuditHead], expect: AuditHead | None) -> None:
        self._secret, self._heads, self._expect = secret, heads, expect
        self._next_head = next(heads, None)
        self._recorded = 0  # number of the newest entry that the heads agree with
        self.last = _NOTHING
        self.cut: list[bytes] = []  # lines that are not entries, until one accounts for them
        self._n_cut = 0  # bytes
        self.cut_off: list[int] = []

    def read(self, line: bytes) -> None:
        """Read the next line."""
        n = self.last.sequence + 1
        head = AuditHead(n, _mac(self._secret, self.last, line.removesuffix(b"\n")[:-_MAC_BYTES]))
        if _head(_LINE, line) != head:
            self.cut.append(line)
            self._n_cut += len(line)
            if self._n_cut > _MOST_CUT_BYTES:
                raise self._not_accounted_for()
            return
        accounted = json.loads(line).get(_CUT_OFF) if _CUT_OFF.encode() in line else None
        if accounted != (_account(self.cut) if self.cut else None):
            raise self._not_accounted_for()
        if self.cut:
            self.cut_off.append(n)
            self.cut, self._n_cut = [], 0
        self.last = head
        if self._expect is not None and self._expect.sequence == n and self._expect != self.last:
            raise _Broken(f"Entry {n} is not the expected one: the log was cut back and went on.", n)
        while self._next_head is not None and self._next_head.sequence <= n:
            if self._next_head != self.last:
                raise _Broken(f"Entry {n} is not the one first written: the log was cut back and went on.", n)
            self._recorded = n
            self._next_head = next(self._heads, None)

    def end(self) -> None:
        """Compare the end with what is known of it from elsewhere."""
        n = self.last.sequence
        if any(_head(_LINE, line) for line in self.cut):
            raise self._not_accounted_for()
        if self._next_head is not None:
            raise _Broken(
                f"The log ends after entry {n}, but later ones were written: its end was cut off.", n + 1
            )
        if self._expect is not None and self._expect.sequence > n:
            raise _Broken(f"The log ends after entry {n}, before the expected one: its end was cut off.", n + 1)
        if n - self._recorded > _MOST_UNRECORDED:
            raise _Broken(f"The record of newest entries ends at entry {self._recorded}: it was cut off.", n)
        if self.cut:
            raise self._not_accounted_for()

    def _not_accounted_for(self) -> _Broken:
        due = self.last.sequence + 1
        head = _head(_LINE, self.cut[0]) if self.cut else None
        if head is None:
            return _Broken(f"What follows entry {due - 1} is not an entry: altered or inserted.", due)
        if head.sequence != due:
            return _Broken(f"Entry {due} is not in its place: entries were removed, moved or inserted.", due)
        if due == 1:
            return _Broken("Entry 1 was altered, or the log belongs to another installation's key.", due)
        return _Broken(f"Entry {due} was altered or inserted.", due)


def fits(field: str, value: object) -> bool:
    """Whether a value may be in a field of an entry; checked before what comes from outside is written.

    Args:
        field: Name of the field.
        value: What was sent.
    """
    if field in _TEXTS:
        return isinstance(value, str) and _TEXTS[field].fullmatch(value) is not None
    if field in _NUMBERS:
        return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 63
    several = [value] if isinstance(value, str) else value
    return (
        field == "resource"
        and isinstance(several, list | tuple)
        and 1 <= len(several) <= _MOST_RESOURCES
        and all(isinstance(each, str) and _RESOURCE.fullmatch(each) for each in several)
    )


def _checked(entry: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of an entry that are given.

    Raises:
        ValueError: One is not allowed or missing, or its value does not have its field's shape.
    """
    given = {field: value for field, value in entry.items() if value is not None}
    for field, value in given.items():
        if field not in {*_TEXTS, *_NUMBERS, "resource"}:
            raise ValueError("An entry of the audit log has no such field; it must not carry data.")
        if not fits(field, value):
            raise ValueError(f"The value of {field} does not have the shape that the audit log allows.")
    for field in ("way", "operation"):
        if field not in given:
            raise ValueError(f"An entry of the audit log needs {field}.")
    return given


def _iso(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _head(form: re.Pattern[bytes], line: bytes) -> AuditHead | None:
    """The head that a line of the log makes, or one of the heads holds; None if it is another line."""
    match = form.fullmatch(line)
    return AuditHead(int(match.group(1)), match.group(2).decode()) if match else None


def _mac(secret: bytes, last: AuditHead, body: bytes) -> str:
    """The HMAC of an entry after another."""
    return hmac.digest(secret, bytes.fromhex(last.mac) + body, "sha256").hex()


def _account(cut: list[bytes]) -> dict[str, Any]:
    return {"n_bytes": sum(map(len, cut)), "sha256": hashlib.sha256(b"".join(cut)).hexdigest()}


def _parsed(line: bytes) -> dict[str, Any] | None:
    """The entry of a line; None for what is not one, which `verify` reports."""
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
    """Rows in their order, in short transactions, so that a slow reader keeps none open."""
    place, query = _ENTRIES.c.place, select(_ENTRIES).order_by(_ENTRIES.c.place).limit(_PAGE)
    query = query if until is None else query.where(place <= until)
    query = query if room is None else query.where(_ENTRIES.c.room == room)
    page: Sequence[Row[Any]] = ()
    while not page or len(page) == _PAGE:
        with _trouble_is_an_error(), engine.connect() as connection:
            page = connection.execute(query.where(place > (page[-1].place if page else 0))).all()
        yield from page
        if not page:
            return


def _newest(connection: Connection) -> tuple[int, AuditHead]:
    """The last place in the table and the newest entry; what a forger appended is left to `verify`."""
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
    """The lines of the first bytes of a file; the last may lack its end, and one too long comes in parts."""
    if not n_bytes:
        return
    with _trouble_is_an_error(), file.open("rb") as stream:
        while n_bytes > 0 and (line := stream.readline(min(_LINE_BYTES, n_bytes))):
            n_bytes -= len(line)
            yield line


def _record(heads: IO[bytes], before: AuditHead, last: AuditHead) -> None:
    """Append the newest head, and the one before where a kill kept it from being appended."""
    heads.seek(-min(heads.seek(0, os.SEEK_END), _PAGE), os.SEEK_END)
    *whole, rest = heads.read().split(b"\n")
    recorded = next((head for line in reversed(whole) if (head := _head(_HEAD, line))), _NOTHING)
    missed = f"{before}\n" if before.sequence > recorded.sequence else ""
    heads.write((b"\n" if rest else b"") + f"{missed}{last}\n".encode())


def _private(file: Path, mode: str) -> IO[bytes]:
    """Open a file that is made readable by its owner only, whatever the program's umask."""
    return open(file, mode, buffering=0, opener=partial(os.open, mode=0o600))


def _url(file: Path) -> URL:
    return URL.create("sqlite", database=str(file))


@contextmanager
def _trouble_is_an_error() -> Iterator[None]:
    """Turn the errors of the operating system and of the database into ours."""
    try:
        with full_disk_is_an_error():
            yield
    except CleanroomError:
        raise
    except (OSError, SQLAlchemyError, sqlite3.Error) as error:
        reason = str(getattr(error, "orig", error))
        if any(sign in reason for sign in _IS_FULL):
            raise StorageFullError(
                "The disk of the audit log is full, or fails.", remedy="Free some space and try again."
            ) from None
        if isinstance(error, OperationalError) and not any(sign in reason for sign in _IS_CLOSED):
            raise StoreUnavailableError(
                "The database of the audit log does not answer or stayed locked.",
                remedy="See that it runs and is not held by another program, then try again.",
            ) from None
        raise ConfigurationError(
            f"The audit log cannot be read or written ({type(error).__name__}).",
            remedy="Check who may use the audit folder of the home; restore a damaged file from a backup.",
        ) from None
