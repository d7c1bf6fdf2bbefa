"""The audit log: who asked for what, in a chain that shows what was changed afterwards.

Lives here: writing entries durably from many threads and processes, reading them, verifying the chain.
Add here when an entry must say something more; say then why it cannot carry data.
Keep out: deciding what is written when (the ways in); data. Entries have a closed set of fields, each of a shape
that no e-mail, cell or location has.

`audit.jsonl` holds one entry a line. Its last member is an HMAC over the HMAC of the entry before and the line's
own bytes, under a key derived from the installation key. `audit.head` gets the number and the HMAC of the newest
entry after each write, so that a log that lost its end says so. Both are only ever appended to. Someone who cuts
both files back to the same moment, or puts back older copies of both, leaves no trace in them: keep what `verify`
calls the head somewhere else from time to time, and give it to a later `verify`.

`audit.index` says where the entries of each data room stand, and can be deleted at any time.

A million entries of a request each take about 450 MB, their heads at most 80 MB; nothing is rotated or deleted.
"""

import atexit
import errno
import hashlib
import hmac
import json
import os
import re
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property, partial
from io import BytesIO
from pathlib import Path
from threading import Condition, Event, Thread
from typing import Any, BinaryIO

from cleanroom_pipelines.errors import CleanroomError, ConfigurationError
from cleanroom_pipelines.storage.artifacts import full_disk_is_an_error, sync_folder
from cleanroom_pipelines.storage.audit_index import INDEX, Level, Place, RoomIndex
from cleanroom_pipelines.storage.keys import InstallationKey
from cleanroom_pipelines.storage.processes import locked

_LOG, _HEAD, _LOCK = "audit.jsonl", "audit.head", "audit.lock"
_PURPOSE = "audit log"
_BATCH = 512  # entries that one flush to disk may carry
_MOST_WAITING = 4096  # entries of `write_soon` after which the caller writes them itself
_SOON_SECONDS = 1.0
_MOST_RESOURCES = 8
_UNINDEXED_BYTES = 1 << 18  # of the log; a look at a room reads no more than about so much of what is not its own
_LINE_BYTES = 1 << 16  # more than the longest entry takes
_LINE = re.compile(rb'\{"sequence":([1-9][0-9]{0,17}),.*,"mac":"([0-9a-f]{64})"\}\n', re.DOTALL)
_MAC_BYTES = len(',"mac":""}\n') + 64  # what stands behind the bytes that the HMAC covers
_HEAD_LINE = re.compile(rb"([1-9][0-9]{0,17}):([0-9a-f]{64})\n")
MOST_CUT_BYTES = _BATCH * _LINE_BYTES  # no append that was cut off leaves more
_MOST_UNRECORDED = 2 * _BATCH  # entries that a kill between the two files may leave out of the heads
_CUT_OFF = "cut_off"

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
_NUMBERS = ("n_unknown_members", "n_bytes", "tenths")
_REQUIRED = ("way", "operation")
FIELDS = frozenset({*_TEXTS, *_NUMBERS, "resource"})


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
        match = _HEAD_LINE.fullmatch(text.encode("utf-8", "replace") + b"\n")
        if match is None:
            raise ValueError("not of the form SEQUENCE:HMAC")
        return cls(int(match.group(1)), match.group(2).decode())


_NOTHING = AuditHead(0, "0" * 64)


@dataclass(frozen=True)
class AuditVerdict:
    """What verifying the log found.

    Args:
        ok: Nothing was changed since it was written.
        n_entries: Entries whose place in the chain is right, from the first one on.
        problem: What is wrong, in one sentence without the entry's content.
        at: Number of the entry at which it is wrong.
        cut_off: Numbers that the entries would have had whose writing was cut off by a kill or a power cut. They
            were never confirmed to anybody; what is left of them lies in the log and is covered by the chain.
        head: The newest entry; worth keeping elsewhere.
    """

    ok: bool
    n_entries: int
    problem: str | None = None
    at: int | None = None
    cut_off: tuple[int, ...] = ()
    head: AuditHead = _NOTHING


class AuditLog:
    """The audit log in one folder; any number of threads and processes may use it at once.

    Args:
        folder: Where it lies; made, readable by its owner only, when the first entry is written.
        key: The installation key.
        clock: Gives the time in UTC.
    """

    _queue: "list[_Waiting]"
    _thread: Thread | None

    def __init__(self, folder: Path, key: InstallationKey, clock: Callable[[], datetime]) -> None:
        self._folder = folder
        self._log = folder / _LOG
        self._heads = folder / _HEAD
        self._index = RoomIndex(folder / INDEX)
        self._key = key
        self._clock = clock
        self._start_empty()

    def write(self, entry: Mapping[str, Any]) -> None:
        """Write an entry; it is on disk when this returns.

        Threads that write at the same time share one flush to disk.

        Args:
            entry: `way` and `operation`, and whichever fit of `request_id`, `account`, `access_key`, `resource`
                (one id or ARN, or up to 8), `user`, `room`, `participant`, `dataset`, `outcome`, `error`,
                `n_unknown_members` and `n_bytes`; None is as good as absent. The time is added.

        Raises:
            ValueError: A field is not one of these, or its value has not the shape of what it names.
            StorageFullError: The disk is full; nothing was written.
            ConfigurationError: The log cannot be written.
        """
        self._put(_Waiting(self._dated(entry), is_awaited=True)).outcome()

    def write_soon(self, entry: Mapping[str, Any]) -> None:
        """Write an entry within about a second, together with others; for reads, which change nothing.

        Entries that wait are written by `close` and when the interpreter ends. A kill or a power cut loses them.
        Where the disk is full they wait; once thousands wait, the caller gets the error.

        Args:
            entry: As for `write`.

        Raises:
            ValueError: As for `write`.
            StorageFullError: The disk is full, and many entries wait already.
            ConfigurationError: The log cannot be written, and many entries wait already.
        """
        waiting = _Waiting(self._dated(entry), is_awaited=False)
        if len(self._queue) >= _MOST_WAITING:
            self.flush()
        self._put(waiting)

    def flush(self) -> None:
        """Write the entries that wait.

        Raises:
            StorageFullError: The disk is full; they wait on.
            ConfigurationError: The log cannot be written; they wait on.
        """
        if self._queue:
            self._put(_Waiting(None, is_awaited=True)).outcome()

    def close(self) -> None:
        """Write the entries that wait and end the thread that writes; the log may be used again.

        Raises:
            StorageFullError: The disk is full; the entries that waited are lost.
            ConfigurationError: The log cannot be written; the entries that waited are lost.
        """
        thread = self._thread
        if thread is None or os.getpid() != self._pid:
            return
        atexit.unregister(self._close_at_exit)
        try:
            self.flush()
        finally:
            with self._condition:
                self._ends = True
                self._condition.notify_all()
            thread.join()
            with self._condition:
                self._ends = False
                self._queue = [each for each in self._queue if each.is_awaited]

    def entries(self, *, account: str | None = None, since: datetime | None = None) -> Iterator[dict[str, Any]]:
        """Read the entries in the order they were written, without verifying them.

        Args:
            account: Only those of this account.
            since: Only those of this time or later.

        Yields:
            `sequence`, `time` (ISO, UTC) and the fields of each entry.
        """
        earliest = "" if since is None else _iso(since)
        n_bytes, _ = self._lengths()
        for line in _lines(self._log, n_bytes):
            entry = _parsed(line)
            if entry is None or str(entry.get("time", "")) < earliest:
                continue
            if account is None or entry.get("account") == account:
                entry.pop("mac", None)
                yield entry

    def entries_of_room(self, room: str) -> Iterator[dict[str, Any]]:
        """Read the entries of one data room in the order they were written, without verifying them.

        Yields:
            As `entries`.
        """
        n_bytes, _ = self._lengths()
        places = self._places(room) if n_bytes and self._bring_index_level(n_bytes) else None
        lines = _lines(self._log, n_bytes) if places is None else _lines_at(self._log, n_bytes, places)
        for line in lines:
            if (entry := _parsed(line)) is not None and entry.get("room") == room:
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
        n_log, n_heads = self._lengths()
        return _Pass(self._secret, _read_heads(self._heads, n_heads), expect).verdict(_lines(self._log, n_log))

    @cached_property
    def _secret(self) -> bytes:
        return self._key.derive(_PURPOSE)

    def _start_empty(self) -> None:
        self._pid = os.getpid()
        self._queue = []
        self._condition = Condition()
        self._thread = None
        self._ends = False
        self._n_unsynced = 0  # entries whose heads may still be in the machine's memory
        self._n_written = 0  # length of the log after this process last wrote
        self._n_indexed = 0  # how much of it this process knows to be in the index

    def _dated(self, entry: Mapping[str, Any]) -> dict[str, Any]:
        return {"time": _iso(self._clock()), **_checked(entry)}

    def _put(self, waiting: "_Waiting") -> "_Waiting":
        if os.getpid() != self._pid:
            # a forked child: its parent writes what waits there, and its locks may be held by nobody
            self._start_empty()
        with self._condition:
            self._queue.append(waiting)
            if waiting.is_awaited or len(self._queue) == 1:
                self._condition.notify_all()
            if self._thread is None:
                self._thread = Thread(target=self._serve, name="audit log", daemon=True)
                self._thread.start()
                atexit.register(self._close_at_exit)
        return waiting

    def _serve(self) -> None:
        """Write what waits: at once if somebody waits for it, else after a second; then all of it together."""
        while True:
            with self._condition:
                self._condition.wait_for(lambda: self._queue or self._ends)
                self._condition.wait_for(lambda: self._ends or self._is_awaited(), _SOON_SECONDS)
                if self._ends and not self._is_awaited():
                    self._thread = None
                    return
                batch = self._queue[:_BATCH]
            error: Exception | None = None
            try:
                self._append([each.entry for each in batch if each.entry is not None])
            except Exception as raised:  # whoever waits is told; reads are tried again
                error = raised
            with self._condition:
                if error is None:
                    ended, self._queue = batch, self._queue[len(batch) :]
                else:  # also those behind this batch: nothing is written before it
                    ended = [each for each in self._queue if each.is_awaited]
                    self._queue = [each for each in self._queue if not each.is_awaited]
                is_idle = not self._queue
            for each in ended:
                each.end(error)
            if is_idle:
                with suppress(CleanroomError):  # the next write tries again, and tells
                    self._sync_heads()
            if self._n_written - self._n_indexed > _UNINDEXED_BYTES:
                self._bring_index_level(self._n_written)
                self._n_indexed = self._n_written  # also where it could not be: it is tried after as much more

    def _is_awaited(self) -> bool:
        return any(each.is_awaited for each in reversed(self._queue))

    def _close_at_exit(self) -> None:
        with suppress(CleanroomError):  # nobody is left to be told
            self.close()

    def _sync_heads(self) -> None:
        if self._n_unsynced:
            with _trouble_is_an_error(), _appending(self._heads) as heads:
                os.fsync(heads)
            self._n_unsynced = 0

    def _append(self, entries: list[dict[str, Any]]) -> None:
        """Append a batch to the log, flushed to disk, then its end to the heads; all of it or nothing.

        The heads are flushed when nothing waits, or after hundreds of entries: a power cut may make them a little
        older than the log, which the next append mends.
        """
        if self._n_unsynced >= _BATCH:
            self._sync_heads()
        if not entries:
            return
        with _trouble_is_an_error():
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            with locked(self._folder / _LOCK), _appending(self._log) as log, _appending(self._heads) as heads:
                last, lines = self._continue(log, heads)
                for entry in entries:
                    last, line = self._link(last, entry)
                    lines += line
                n_log, n_heads = _size(log), _size(heads)
                try:
                    _write_all(log, lines)
                    os.fsync(log)
                    _write_all(heads, f"{last}\n".encode())
                    self._n_written = n_log + len(lines)
                    if not n_log:
                        sync_folder(self._folder)
                except BaseException:
                    with suppress(OSError):  # what cannot be taken back counts as cut off
                        os.ftruncate(log, n_log)
                        os.ftruncate(heads, n_heads)
                    raise
        self._n_unsynced += len(entries)

    def _continue(self, log: int, heads: int) -> tuple[AuditHead, bytes]:
        """The entry to go on from, and what to append before anything else.

        The fast way is the usual one: the log ends with the entry that the heads end with. Otherwise a writer was
        killed: what is right up to there stays, the rest is accounted for in an entry of its own.
        """
        n_log = _size(log)
        recorded, is_torn = _end_of_heads(heads)
        tail = _tail(log, n_log, _LINE_BYTES)
        if _head_of(tail[tail.rfind(b"\n", 0, -1) + 1 :]) == recorded and not is_torn:
            return recorded, b""
        tail = _tail(log, n_log, MOST_CUT_BYTES)
        last, rest = self._last_right_one(tail, recorded)
        if is_torn or last.sequence > recorded.sequence:
            # before the log grows again, so that it is never more than a batch ahead of the heads
            _write_all(heads, b"\n" * is_torn + (f"{last}\n".encode() if last.sequence else b""))
            os.fsync(heads)
        if not rest:
            return last, b""
        if whole := self._next(last, rest + b"\n"):
            return whole, b"\n"  # it lacked nothing but its end of line
        end_of_line = b"" if rest.endswith(b"\n") else b"\n"
        cut = _Cut()
        cut.add(rest + end_of_line)
        last, line = self._link(last, {"time": _iso(self._clock()), _CUT_OFF: cut.as_dict()})
        return last, end_of_line + line

    def _last_right_one(self, tail: bytes, recorded: AuditHead) -> tuple[AuditHead, bytes]:
        """The last entry up to which the chain is right, as far as the end of the log shows, and what follows."""
        lines = BytesIO(tail).readlines()
        heads = {at: head for at, line in enumerate(lines, 1) if (head := _head_of(line))}
        at = next((at for at, head in heads.items() if head == recorded), 0)
        if not at and heads and not self._next(_NOTHING, lines[0]):
            at = max(heads)  # the recorded one is gone: `verify` will tell, and the service goes on
        last = heads.get(at, _NOTHING)
        while at < len(lines) and (following := self._next(last, lines[at])):
            last, at = following, at + 1
        if not at and len(tail) == MOST_CUT_BYTES:
            raise ConfigurationError(
                "The end of the audit log cannot be read.", remedy="Run `cleanroom audit verify` and move it away."
            )
        return last, b"".join(lines[at:])

    def _next(self, last: AuditHead, line: bytes) -> AuditHead | None:
        """The head that a line makes, if it is the right one after another."""
        head = _head_of(line)
        is_right = head is not None and head == AuditHead(last.sequence + 1, _mac(self._secret, last, line))
        return head if is_right else None

    def _places(self, room: str) -> list[Place] | None:
        try:
            return self._index.places(room)
        except sqlite3.Error:
            return None

    def _bring_index_level(self, n_bytes: int) -> bool:
        """Bring the index level with the first bytes of the log; whether it can be used."""
        try:
            with self._log.open("rb") as stream:
                return self._index.bring_level(partial(_ends_at, stream), partial(_behind, stream, n_bytes))
        except OSError:
            return False

    def _link(self, last: AuditHead, entry: Mapping[str, Any]) -> tuple[AuditHead, bytes]:
        """The line that an entry becomes after another, and the head it makes."""
        fields = json.dumps(entry, sort_keys=True, separators=(",", ":"))[1:-1]
        body = f'{{"sequence":{last.sequence + 1},{fields}'.encode()
        mac = _mac(self._secret, last, body + bytes(_MAC_BYTES))
        return AuditHead(last.sequence + 1, mac), body + f',"mac":"{mac}"}}\n'.encode()

    def _lengths(self) -> tuple[int, int]:
        """How long the log and the heads are between two writes."""
        if not self._folder.is_dir():
            return 0, 0
        with _trouble_is_an_error():
            try:
                with locked(self._folder / _LOCK):
                    return _length(self._log), _length(self._heads)
            except OSError as error:
                if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
                    raise
            return _length(self._log), _length(self._heads)  # a copy that nobody can write to


class _Waiting:
    """An entry that is to be written, or none: then only what waits before it."""

    def __init__(self, entry: dict[str, Any] | None, *, is_awaited: bool) -> None:
        self.entry = entry
        self.is_awaited = is_awaited
        self._is_done = Event()
        self._error: Exception | None = None

    def end(self, error: Exception | None) -> None:
        self._error = error
        self._is_done.set()

    def outcome(self) -> None:
        """Wait for it; raises what went wrong."""
        self._is_done.wait()
        if self._error is not None:
            raise self._error


class _Cut:
    """Bytes in the log that are no entries, until an entry accounts for them."""

    def __init__(self) -> None:
        self._digest = hashlib.sha256()
        self.n_bytes = 0

    def add(self, line: bytes) -> None:
        self._digest.update(line)
        self.n_bytes += len(line)

    def as_dict(self) -> dict[str, Any]:
        return {"n_bytes": self.n_bytes, "sha256": self._digest.hexdigest()}


class _Broken(Exception):  # noqa: N818
    """The chain is broken."""

    def __init__(self, problem: str, at: int) -> None:
        super().__init__(problem)
        self.problem = problem
        self.at = at


class _Pass:
    """One pass through the chain.

    Args:
        secret: The derived key.
        heads: What `audit.head` remembers, in the order written.
        expect: A head that was kept elsewhere.
    """

    def __init__(self, secret: bytes, heads: Iterator[AuditHead], expect: AuditHead | None) -> None:
        self._secret = secret
        self._heads = heads
        self._next_head = next(heads, None)
        self._recorded = 0  # number of the newest entry that the heads agree with
        self._expect = expect
        self._last = _NOTHING
        self._cut = _Cut()
        self._suspicion: str | None = (
            None  # what is wrong with the first line of the cut, if it looks like an entry
        )
        self._cut_off: list[int] = []

    def verdict(self, lines: Iterator[bytes]) -> AuditVerdict:
        """Read all lines."""
        problem, at = None, None
        try:
            for line in lines:
                self._read(line)
            self._end()
        except _Broken as broken:
            problem, at = broken.problem, broken.at
        n_entries = self._last.sequence
        return AuditVerdict(problem is None, n_entries, problem, at, tuple(self._cut_off), self._last)

    def _read(self, line: bytes) -> None:
        due = self._last.sequence + 1
        ended = line if line.endswith(b"\n") else line + b"\n"
        head = _head_of(ended)
        if head is None or head != AuditHead(due, _mac(self._secret, self._last, ended)):
            if head is not None and self._suspicion is None:
                self._suspicion = _no_entry(due - 1) if self._cut.n_bytes else _suspicion(due, head.sequence)
            self._cut.add(line)
            if self._cut.n_bytes > MOST_CUT_BYTES:
                raise self._not_accounted_for()
            return
        accounted = json.loads(ended).get(_CUT_OFF) if _CUT_OFF.encode() in ended else None
        if accounted != (self._cut.as_dict() if self._cut.n_bytes else None):
            raise self._not_accounted_for()
        if self._cut.n_bytes:
            self._cut_off.append(due)
            self._cut, self._suspicion = _Cut(), None
        self._last = head
        self._compare()

    def _compare(self) -> None:
        """Compare the entry just read with what is known of it from elsewhere."""
        n = self._last.sequence
        if self._expect is not None and self._expect.sequence == n and self._expect != self._last:
            raise _Broken(f"Entry {n} is not the expected one: the log was cut back and went on.", n)
        while self._next_head is not None and self._next_head.sequence <= n:
            if self._next_head != self._last:
                raise _Broken(f"Entry {n} is not the one first written: the log was cut back and went on.", n)
            self._recorded = n
            self._next_head = next(self._heads, None)

    def _end(self) -> None:
        n = self._last.sequence
        if self._suspicion is not None:
            raise self._not_accounted_for()
        if self._next_head is not None:
            raise _Broken(
                f"The log ends after entry {n}, but later ones were written: its end was cut off.", n + 1
            )
        if self._expect is not None and self._expect.sequence > n:
            raise _Broken(f"The log ends after entry {n}, before the expected one: its end was cut off.", n + 1)
        if n - self._recorded > _MOST_UNRECORDED:
            raise _Broken(f"The record of newest entries ends at entry {self._recorded}: it was cut off.", n)
        if self._cut.n_bytes:
            self._cut_off.append(n + 1)

    def _not_accounted_for(self) -> _Broken:
        n = self._last.sequence
        return _Broken(self._suspicion or _no_entry(n), n + 1)


def _no_entry(last: int) -> str:
    return f"What follows entry {last} is no entry: altered or inserted."


def _suspicion(due: int, sequence: int) -> str:
    if sequence != due:
        return f"Entry {due} is not in its place: entries were removed, moved or inserted."
    if due == 1:
        return "Entry 1 was altered, or the log belongs to another installation's key."
    return f"Entry {due} was altered or inserted."


def fits(field: str, value: object) -> bool:
    """Whether a value may stand in a field of an entry: what comes from outside is asked before it is written.

    Args:
        field: Name of the field.
        value: Whatever somebody sent.
    """
    if field in _TEXTS:
        return isinstance(value, str) and _TEXTS[field].fullmatch(value) is not None
    if field in _NUMBERS:
        return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 63
    if field == "resource":
        several = [value] if isinstance(value, str) else value
        return (
            isinstance(several, list | tuple)
            and 1 <= len(several) <= _MOST_RESOURCES
            and all(isinstance(each, str) and _RESOURCE.fullmatch(each) for each in several)
        )
    return False


def _checked(entry: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of an entry that are given.

    Raises:
        ValueError: One is not allowed or missing, or its value has not its field's shape.
    """
    given = {field: value for field, value in entry.items() if value is not None}
    for field, value in given.items():
        if field not in FIELDS:
            raise ValueError("An entry of the audit log has no such field; it must not carry data.")
        if not fits(field, value):
            raise ValueError(f"The value of {field} has not the shape that the audit log allows.")
    missing = [field for field in _REQUIRED if field not in given]
    if missing:
        raise ValueError(f"An entry of the audit log needs {missing[0]}.")
    return given


def _iso(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _head_of(line: bytes) -> AuditHead | None:
    """The head that a line says it makes; None if it is no entry's line."""
    match = _LINE.fullmatch(line)
    return AuditHead(int(match.group(1)), match.group(2).decode()) if match else None


def _mac(secret: bytes, last: AuditHead, line: bytes) -> str:
    """The HMAC of a line after another; the line ends with as many bytes as the HMAC and its name take."""
    return hmac.digest(secret, bytes.fromhex(last.mac) + line[:-_MAC_BYTES], "sha256").hex()


def _lines(file: Path, n_bytes: int) -> Iterator[bytes]:
    """The lines of the first bytes of a file; the last may lack its end, and one too long comes in parts."""
    if not n_bytes:
        return
    with _trouble_is_an_error(), file.open("rb") as stream:
        while n_bytes > 0 and (line := stream.readline(min(_LINE_BYTES, n_bytes))):
            n_bytes -= len(line)
            yield line


def _lines_at(file: Path, n_bytes: int, places: Iterable[Place]) -> Iterator[bytes]:
    """The lines of the first bytes of a file at some places."""
    with _trouble_is_an_error(), file.open("rb") as stream:
        for place in places:
            if place.offset + place.n_bytes <= n_bytes:
                stream.seek(place.offset)
                yield stream.read(place.n_bytes)


def _parsed(line: bytes) -> dict[str, Any] | None:
    """The entry of a line; None for what an append that was cut off left, of which `verify` tells."""
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return entry if isinstance(entry, dict) else None


def _ends_at(stream: BinaryIO, level: Level) -> bool:
    """Whether the log has an entry of the level's HMAC that ends there."""
    if not level.n_bytes:
        return True
    stream.seek(max(0, level.n_bytes - _LINE_BYTES))
    tail = stream.read(min(_LINE_BYTES, level.n_bytes))
    head = _head_of(tail[tail.rfind(b"\n", 0, -1) + 1 :])
    return head is not None and head.mac == level.mac and _size(stream.fileno()) >= level.n_bytes


def _behind(stream: BinaryIO, n_bytes: int, level: Level) -> tuple[Level, list[tuple[str, Place]]]:
    """The level of the first bytes of the log, and the rooms' entries between another level and it."""
    found: list[tuple[str, Place]] = []
    at = level.n_bytes
    stream.seek(at)
    while at < n_bytes and (line := stream.readline(min(_LINE_BYTES, n_bytes - at))):
        if b'"room":' in line and (entry := _parsed(line)) is not None and isinstance(entry.get("room"), str):
            found.append((entry["room"], Place(at, len(line))))
        at += len(line)
        if (head := _head_of(line)) is not None:
            level = Level(at, head.mac)
    return level, found


def _read_heads(file: Path, n_bytes: int) -> Iterator[AuditHead]:
    for line in _lines(file, n_bytes):
        if match := _HEAD_LINE.fullmatch(line if line.endswith(b"\n") else line + b"\n"):
            yield AuditHead(int(match.group(1)), match.group(2).decode())


def _end_of_heads(descriptor: int) -> tuple[AuditHead, bool]:
    """The newest head in a file, and whether writing the one after it was cut off."""
    tail = _tail(descriptor, _size(descriptor), _LINE_BYTES)
    found = [match for line in tail.split(b"\n")[:-1] if (match := _HEAD_LINE.fullmatch(line + b"\n"))]
    newest = AuditHead(int(found[-1].group(1)), found[-1].group(2).decode()) if found else _NOTHING
    return newest, bool(tail) and not tail.endswith(b"\n")


@contextmanager
def _appending(file: Path) -> Iterator[int]:
    descriptor = os.open(file, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _size(descriptor: int) -> int:
    return os.fstat(descriptor).st_size


def _length(file: Path) -> int:
    return file.stat().st_size if file.exists() else 0


def _tail(descriptor: int, size: int, n_bytes: int) -> bytes:
    return os.pread(descriptor, n_bytes, max(0, size - n_bytes))


def _write_all(descriptor: int, content: bytes) -> None:
    while content:
        content = content[os.write(descriptor, content) :]


@contextmanager
def _trouble_is_an_error() -> Iterator[None]:
    """Turn the operating system's errors into ours."""
    try:
        with full_disk_is_an_error():
            yield
    except CleanroomError:
        raise
    except OSError as error:
        raise ConfigurationError(
            f"The audit log cannot be read or written ({type(error).__name__}).",
            remedy="Check who may use the audit folder of the home.",
        ) from None
