"""Contract: an entry is on disk before `write` returns, for any number of concurrent threads and processes; any
alteration, removal, move, insertion or truncation is detected; a kill leaves a valid log; a full disk is an
error before anything happens; no field accepts data; and a log of an earlier release still verifies.
"""

import itertools
import json
import multiprocessing
import re
import resource
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import datetime, timedelta
from itertools import product
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import make_url, text

from cleanroom_pipelines.errors import ConfigurationError, StorageFullError, StoreUnavailableError
from cleanroom_pipelines.storage import InstallationKey
from cleanroom_pipelines.storage import audit as audit_module
from cleanroom_pipelines.storage.audit import AuditHead, AuditLog, fits

from ..databases import own_schema, postgresql_server, writing  # noqa: F401 - a fixture
from ..offenders import offenders
from ..worlds import wait_until
from .auditing import ENTRY, KEY, lines_of, now, put_lines, write_some

ARN = "arn:aws:cleanrooms-ml:us-east-1:111122223333:audience-generation-job/summer-0123456789ab"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "audit"


@pytest.fixture
def log(folder: Path) -> Iterator[AuditLog]:
    opened = AuditLog(folder, KEY, now)
    yield opened
    opened.close()


def fill(log: AuditLog, n_entries: int) -> None:
    for number in range(n_entries):
        log.write({**ENTRY, "request_id": f"r{number}"})


def request_ids(log: AuditLog) -> list[str]:
    return [entry["request_id"] for entry in log.entries()]


# ---------------------------------------------------------------- writing and reading


def test_written_entries_are_read_and_verified(log: AuditLog, folder: Path) -> None:
    every_field = {
        **ENTRY,
        "request_id": "7f3b1c9e-0000-4000-8000-0123456789ab",
        "access_key": "AKIAIOSFODNN7EXAMPLE",
        "resource": [ARN, "model-0123456789ab"],
        "error": "AccessDeniedException",
        "n_unknown_members": 2,
        "n_bytes": 0,
    }
    log.write(every_field)
    log.write({"way": "inbox", "operation": "seed.taken", "account": None})
    first, second = log.entries()
    assert first == {**every_field, "sequence": 1, "time": "2026-03-01T12:00:00.000Z"}
    assert second == {"way": "inbox", "operation": "seed.taken", "sequence": 2, "time": "2026-03-01T12:00:00.000Z"}
    verdict = log.verify()
    assert (verdict.ok, verdict.n_entries, verdict.problem, verdict.at, verdict.cut_off) == (
        True,
        2,
        None,
        None,
        (),
    )
    assert verdict.head.sequence == 2
    assert folder.stat().st_mode & 0o777 == 0o700
    assert {path.name: path.stat().st_mode & 0o777 for path in folder.iterdir()} == dict.fromkeys(
        ("audit.db", "audit.head", "audit.lock"), 0o600
    )


def test_empty_log_is_intact_and_creates_no_files(log: AuditLog, folder: Path) -> None:
    assert log.verify().ok
    assert list(log.entries()) == []
    assert not folder.exists()


def test_line_format_is_unchanged(log: AuditLog, folder: Path) -> None:
    """A log must stay verifiable by later versions."""
    log.write(ENTRY)
    assert lines_of(folder)[0].decode() == (
        '{"sequence":1,"account":"111122223333","operation":"DeleteAudienceModel","outcome":"accepted",'
        '"time":"2026-03-01T12:00:00.000Z","way":"api",'
        '"mac":"MAC"}\n'
    ).replace("MAC", log.verify().head.mac)
    assert log.verify().head.mac == GOLDEN


GOLDEN = "f3dedae683b470ae10bffc8adfd89dc0604ef136f93fcb685764d53b6c282b8c"


def test_entries_are_filtered_by_account_and_time(folder: Path) -> None:
    times = iter(now() + timedelta(minutes=number) for number in range(4))
    log = AuditLog(folder, KEY, lambda: next(times))
    for number in range(4):
        account = f"{number % 2:012}"
        log.write({"way": "api", "operation": "x", "account": account, "request_id": f"r{number}"})
    chosen = [e["request_id"] for e in log.entries(account="0" * 12, since=now() + timedelta(seconds=1))]
    assert chosen == ["r2"]
    elsewhere = (now() + timedelta(minutes=3)).astimezone(datetime.now().astimezone().tzinfo)
    assert [e["request_id"] for e in log.entries(since=elsewhere)] == ["r3"]


def test_fields_reject_data(log: AuditLog, folder: Path) -> None:
    fields = [
        ("email", "x"),
        ("user_id", "x"),
        ("sequence", 3),
        ("mac", "0" * 64),
        ("time", "2026-03-01T12:00:00.000Z"),
        ("account", "alice"),
        ("account", 111122223333),
        ("way", "by hand"),
        ("operation", "Delete AudienceModel"),
        ("operation", "a@example.com"),
        ("resource", "alice@example.com"),
        ("resource", "s3://bucket/customers.jsonl"),
        ("resource", "arn:aws:cleanrooms-ml:us-east-1:111122223333:x/a b"),
        ("resource", []),
        ("resource", ["x"] * 9),
        ("resource", {"id": "x"}),
        ("outcome", "Refused because of alice"),
        ("error", "no such user: alice"),
        ("error", "x\n"),
        ("request_id", "x" * 65),
        ("access_key", "AKIA/secret"),
        ("n_bytes", -1),
        ("n_bytes", 1.5),
        ("n_bytes", True),
        ("n_unknown_members", "3"),
        ("pair", "publisher.example+advertiser.example"),
        ("question", '{"facts": ["segment 7"]}'),
        ("kind", "overlap of alice"),
        ("tenths", 2.5),
        ("variance", "0.5"),
        ("sensitivity", "a@example.com"),
    ]

    def check(field: str, value: object) -> None:
        for write in (log.write, log.write_soon):
            with pytest.raises(ValueError) as caught:
                write({**ENTRY, field: value})
            assert str(value) not in str(caught.value).replace(field, "")
        assert not fits(field, value)
        log.close()
        assert not folder.exists()

    assert offenders(fields, check) == []


def test_required_fields_of_an_entry(log: AuditLog) -> None:
    for field in ("way", "operation"):
        with pytest.raises(ValueError, match=field):
            log.write({name: value for name, value in ENTRY.items() if name != field})


@given(st.text(max_size=30))
def test_valid_values_need_no_escaping(text: str) -> None:
    for field in ("account", "access_key", "error", "operation", "outcome", "request_id", "resource", "way"):
        if fits(field, text):
            assert json.dumps(text) == f'"{text}"'
            assert "@" not in text


# ---------------------------------------------------------------- many at once


def test_many_threads_write_at_once(log: AuditLog) -> None:
    def work(name: int) -> None:
        for number in range(25):
            log.write({**ENTRY, "request_id": f"{name}-{number}"})

    threads = [threading.Thread(target=work, args=(name,)) for name in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert log.verify() == log.verify(expect=log.verify().head)
    assert log.verify().ok
    written = request_ids(log)
    assert len(written) == len(set(written)) == 400
    for name in range(16):
        own = [each for each in written if each.startswith(f"{name}-")]
        assert own == [f"{name}-{number}" for number in range(25)]


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_many_processes_write_at_once(folder: Path, log: AuditLog, method: str) -> None:
    context = multiprocessing.get_context(method)
    barrier = context.Barrier(4)
    processes = [context.Process(target=write_some, args=(folder, name, 20, barrier)) for name in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * 4
    assert log.verify().ok
    assert len(set(request_ids(log))) == log.verify().n_entries == 160


def test_forked_child_writes_only_its_own_entries(log: AuditLog) -> None:
    log.write({**ENTRY, "request_id": "parent"})
    log.write_soon({**ENTRY, "request_id": "parent-soon"})
    child = multiprocessing.get_context("fork").Process(target=write_and_close, args=(log, "child"))
    child.start()
    child.join()
    assert child.exitcode == 0
    log.close()
    assert sorted(request_ids(log)) == ["child", "parent", "parent-soon"]
    assert log.verify().ok


def write_and_close(log: AuditLog, name: str) -> None:
    log.write({**ENTRY, "request_id": name})
    log.close()


def test_reads_are_written_soon_and_in_order(log: AuditLog) -> None:
    log.write_soon({**ENTRY, "request_id": "read"})
    log.write({**ENTRY, "request_id": "change"})
    assert request_ids(log) == ["read", "change"]
    log.write_soon({**ENTRY, "request_id": "later"})
    wait_until(lambda: len(request_ids(log)) == 3, seconds=60, what="the entry that nobody waits for")
    assert request_ids(log) == ["read", "change", "later"]
    log.write_soon({**ENTRY, "request_id": "last"})
    log.flush()
    assert log.verify().n_entries == 4


def test_close_writes_queued_entries_and_the_log_is_reusable(log: AuditLog) -> None:
    before = threading.enumerate()
    for turn in range(3):
        log.write_soon({**ENTRY, "request_id": f"r{turn}"})
        log.close()
        log.close()
        assert request_ids(log) == [f"r{number}" for number in range(turn + 1)]
    assert threading.enumerate() == before


def test_writing_while_another_thread_closes(log: AuditLog) -> None:
    ended = threading.Event()

    def keep_closing() -> None:
        while not ended.is_set():
            log.close()

    closer = threading.Thread(target=keep_closing)
    closer.start()
    for number in range(60):
        log.write({**ENTRY, "request_id": f"r{number}"})
    ended.set()
    closer.join()
    assert request_ids(log) == [f"r{number}" for number in range(60)]


PROGRAM = """
import sys
from datetime import UTC, datetime
from pathlib import Path
from cleanroom_pipelines.storage import InstallationKey
from cleanroom_pipelines.storage.audit import AuditLog
log = AuditLog(Path(sys.argv[1]), InstallationKey(bytes(range(32))), lambda: datetime.now(UTC))
"""


def program(folder: Path, rest: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM + rest, str(folder)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_interpreter_exit_writes_queued_entries(log: AuditLog, folder: Path) -> None:
    process = program(folder, "log.write_soon({'way': 'cli', 'operation': 'status'})")
    assert process.communicate() == ("", "")
    assert [entry["operation"] for entry in log.entries()] == ["status"]


# ---------------------------------------------------------------- kills and full disks

KEEP_WRITING = """
import itertools, os, threading
def work(name):
    for number in itertools.count():
        log.write({'way': 'worker', 'operation': 'x', 'request_id': f'{name}-{number}'})
        os.write(1, f'{name}-{number}\\n'.encode())
for name in range(4):
    threading.Thread(target=work, args=(name,)).start()
"""


def test_kill_loses_no_confirmed_entry(log: AuditLog, folder: Path) -> None:
    confirmed = set()
    for turn in range(4):
        process = program(folder, KEEP_WRITING.replace("{name}-{number}", f"{turn}-{{name}}-{{number}}"))
        assert process.stdout is not None
        for _ in range(20 + 7 * turn):
            confirmed.add(process.stdout.readline().strip())
        process.send_signal(signal.SIGKILL)
        confirmed |= set(process.communicate()[0].split())
        assert log.verify().problem is None
        log.write(ENTRY)
        assert log.verify().problem is None
    written = {entry.get("request_id") for entry in log.entries()}
    assert len(confirmed) > 100
    assert confirmed - written == set()


def test_full_disk_is_an_error_and_keeps_the_log_intact(log: AuditLog, folder: Path) -> None:
    fill(log, 20)
    rest = """
import resource, signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (300, resource.RLIM_INFINITY))
entry = {'way': 'cli', 'operation': 'x', 'resource': 'y' * 100}
log.write_soon({'way': 'cli', 'operation': 'soon'})
for turn in range(2):
    try:
        log.write(entry)
    except Exception as error:
        print(type(error).__name__)
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
log.write(entry)
"""
    out, err = program(folder, rest).communicate()
    assert (out, err) == ("StorageFullError\n" * 2, "")
    verdict = log.verify()
    assert (verdict.ok, verdict.n_entries, verdict.cut_off) == (True, 22, ())
    assert [entry["operation"] for entry in log.entries()][20:] == ["soon", "x"]


@pytest.mark.parametrize("left", ["nothing", "a part"])
def test_outdated_heads_are_updated_by_the_next_append(log: AuditLog, folder: Path, left: str) -> None:
    fill(log, 3)
    heads = (folder / "audit.head").read_bytes()
    fill(log, 1)
    longer = (folder / "audit.head").read_bytes()
    (folder / "audit.head").write_bytes(heads if left == "nothing" else longer[:-5])
    assert log.verify().ok
    fill(log, 1)
    assert log.verify().ok
    lines = (folder / "audit.head").read_text().splitlines()
    assert [line.split(":")[0] for line in lines if len(line) == 66] == [*"12345"]


def test_queued_reads_wait_for_a_full_disk_and_then_fail(log: AuditLog, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(audit_module, "_newest", fail)
        with pytest.raises(StorageFullError):
            for _ in range(100_000):
                log.write_soon(ENTRY)
        with pytest.raises(StorageFullError):
            log.write(ENTRY)
        with pytest.raises(StorageFullError):
            log.close()
    log.write(ENTRY)
    verdict = log.verify()
    assert verdict.ok
    assert 4000 < verdict.n_entries < 5000


def fail(_connection: object) -> None:
    raise OSError(28, "No space left on device")


def test_write_errors_are_reported(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigurationError, match="audit log") as caught:
        AuditLog(tmp_path / "file", KEY, now).write(ENTRY)
    assert str(tmp_path) not in str(caught.value)


def test_file_that_is_not_a_database_is_reported(log: AuditLog, folder: Path) -> None:
    folder.mkdir()
    (folder / "audit.db").write_bytes(b"no database" * 1000)
    for use in (log.verify, lambda: list(log.entries()), lambda: log.write(ENTRY)):
        with pytest.raises(ConfigurationError, match="audit log"):
            use()


def test_unexpected_error_reaches_the_caller(log: AuditLog, monkeypatch: pytest.MonkeyPatch) -> None:
    """And does not leave it waiting for ever."""

    def broken(_connection: object) -> None:
        raise RuntimeError("defect")

    with monkeypatch.context() as patch:
        patch.setattr(audit_module, "_newest", broken)
        with pytest.raises(RuntimeError):
            log.write(ENTRY)
    log.write(ENTRY)
    assert log.verify().n_entries == 1


def test_confirmed_entry_is_written_although_others_fail(log: AuditLog, monkeypatch: pytest.MonkeyPatch) -> None:
    confirmed, refused = set(), set()
    newest, calls = audit_module._newest, itertools.count()

    def often_full(connection: object) -> object:
        return fail(connection) if next(calls) % 3 == 0 else newest(connection)

    def work(name: int) -> None:
        for number in range(25):
            try:
                log.write({**ENTRY, "request_id": f"{name}-{number}"})
                confirmed.add(f"{name}-{number}")
            except StorageFullError:
                refused.add(f"{name}-{number}")

    monkeypatch.setattr(audit_module, "_newest", often_full)
    threads = [threading.Thread(target=work, args=(name,)) for name in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    monkeypatch.undo()
    assert sorted(request_ids(log)) == sorted(confirmed)
    assert len(confirmed | refused) == 200
    assert min(len(confirmed), len(refused)) > 10
    assert log.verify().ok


def test_copy_is_consistent_during_writes(log: AuditLog, folder: Path, tmp_path: Path) -> None:
    fill(log, 3)
    (tmp_path / "copy").mkdir()
    log.copy_to(tmp_path / "copy")
    fill(log, 2)
    copy = AuditLog(tmp_path / "copy", KEY, now)
    assert (copy.verify().ok, copy.verify().n_entries) == (True, 3)
    assert copy.verify(expect=log.verify().head).ok is False


# ---------------------------------------------------------------- forgeries

N = 8


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[bytes], bytes]:
    """The lines and the heads of a log that nobody touched."""
    folder = tmp_path_factory.mktemp("written")
    fill(AuditLog(folder, KEY, now), N)
    return lines_of(folder), (folder / "audit.head").read_bytes()


def put(folder: Path, lines: list[bytes], heads: bytes) -> AuditLog:
    """A log with these lines and heads in the place of whatever was there."""
    shutil.rmtree(folder, ignore_errors=True)
    fill(AuditLog(folder, KEY, now), 1)
    put_lines(folder, lines)
    (folder / "audit.head").write_bytes(heads)
    return AuditLog(folder, KEY, now)


def put_old(folder: Path, content: bytes, heads: bytes) -> AuditLog:
    """The same as a release before the table left it."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    (folder / "audit.jsonl").write_bytes(content)
    (folder / "audit.head").write_bytes(heads)
    return AuditLog(folder, KEY, now)


FORGERIES: dict[str, tuple[Callable[[list[bytes]], list[bytes]], int, str]] = {
    "altered": (lambda c: [*c[:3], c[3].replace(b"accepted", b"refusing"), *c[4:]], 4, "Entry 4 was altered"),
    "first altered": (lambda c: [c[0].replace(b"api", b"cli"), *c[1:]], 1, "Entry 1 was altered"),
    "last altered": (lambda c: [*c[:-1], c[-1].replace(b"api", b"cli")], N, f"Entry {N} was altered"),
    "renumbered": (lambda c: [*c[:3], c[3].replace(b":4,", b":9,", 1), *c[4:]], 4, "not at its position"),
    "spaces": (lambda c: [*c[:3], c[3].replace(b",", b", ", 1), *c[4:]], 4, "Entry 4 was altered"),
    "removed": (lambda c: [*c[:3], *c[4:]], 4, "not at its position"),
    "first removed": (lambda c: c[1:], 1, "not at its position"),
    "swapped": (lambda c: [*c[:3], c[4], c[3], *c[5:]], 4, "not at its position"),
    "repeated": (lambda c: [*c[:4], c[3], *c[4:]], 5, "The line after|not at its position"),
    "copied": (lambda c: [*c[:4], c[3].replace(b":4,", b":5,", 1), *c[4:]], 5, "Entry 5 was altered or inserted"),
    "words inserted": (lambda c: [*c[:4], b"hello\n", *c[4:]], 5, "not an entry"),
    "blank inserted": (lambda c: [*c[:4], b"\n", *c[4:]], 5, "not an entry"),
    "wiped": (lambda c: [*c[:3], bytes(len(c[3])), *c[4:]], 4, "not an entry|Entry 4"),
    "cut tail": (lambda c: c[:-2], N - 1, "was truncated"),
    "cut inside the last": (lambda c: [*c[:-1], c[-1][:-20]], N, "was truncated"),
    "emptied": (lambda c: [], 1, "was truncated"),
}


@pytest.mark.parametrize("is_old", [False, True])
def test_forgeries_are_detected(written: tuple[list[bytes], bytes], folder: Path, is_old: bool) -> None:
    lines, heads = written

    def check(name: str) -> None:
        forge, at, problem = FORGERIES[name]
        log = put_old(folder, b"".join(forge(lines)), heads) if is_old else put(folder, forge(lines), heads)
        verdict = log.verify()
        assert (verdict.ok, verdict.at) == (False, at)
        assert verdict.n_entries == at - 1 or (is_old and verdict.n_entries == at)
        assert re.search(problem, verdict.problem or "")

    assert offenders(FORGERIES, check) == []


@pytest.mark.parametrize("is_old", [False, True])
def test_forgeries_stay_detectable_after_further_writes(
    written: tuple[list[bytes], bytes], folder: Path, is_old: bool
) -> None:
    lines, heads = written

    def check(name: str) -> None:
        forge, _, _ = FORGERIES[name]
        log = put_old(folder, b"".join(forge(lines)), heads) if is_old else put(folder, forge(lines), heads)
        for _ in range(2 * N):
            log.write(ENTRY)
            assert not log.verify().ok
        log.close()
        assert not AuditLog(folder, KEY, now).verify().ok

    assert offenders(FORGERIES, check) == []


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_changed_byte_is_detected(
    written: tuple[list[bytes], bytes], tmp_path: Path, data: st.DataObject
) -> None:
    lines, heads = written
    number = data.draw(st.integers(0, N - 1))
    content = bytearray(lines[number])
    place = data.draw(st.integers(0, len(content) - 1))
    content[place] = (content[place] + data.draw(st.integers(1, 255))) % 256
    changed = [*lines[:number], bytes(content), *lines[number + 1 :]]
    assert not put(tmp_path / "audit", changed, heads).verify().ok
    assert not put_old(tmp_path / "audit", b"".join(changed), heads).verify().ok


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_reordering_or_removal_of_lines_is_detected(
    written: tuple[list[bytes], bytes], tmp_path: Path, data: st.DataObject
) -> None:
    lines, heads = written
    chosen = data.draw(st.lists(st.sampled_from(range(N)), max_size=N + 2).filter(lambda it: it != [*range(N)]))
    assert not put(tmp_path / "audit", [lines[number] for number in chosen], heads).verify().ok


def test_wrong_key_is_reported(written: tuple[list[bytes], bytes], folder: Path) -> None:
    put(folder, *written)
    verdict = AuditLog(folder, InstallationKey(bytes(32)), now).verify()
    assert (verdict.ok, verdict.at) == (False, 1)
    assert "another installation's key" in (verdict.problem or "")


def test_truncation_of_both_files_needs_an_external_head(written: tuple[list[bytes], bytes], folder: Path) -> None:
    lines, heads = written
    kept = put(folder, lines, heads).verify().head
    log = put(folder, lines[:5], b"".join(heads.splitlines(keepends=True)[:5]))
    assert log.verify().ok, "as documented: nothing in the two files shows it"
    assert (log.verify(expect=kept).ok, log.verify(expect=kept).at) == (False, 6)
    for _ in range(N):
        log.write(ENTRY)
    assert log.verify().ok
    verdict = log.verify(expect=AuditHead.parse(str(kept)))
    assert (verdict.ok, verdict.at) == (False, N)


def test_unreadable_end_is_reported(log: AuditLog, folder: Path) -> None:
    fill(log, 5)
    put_lines(folder, [*lines_of(folder), *[b"x"] * 300])
    with pytest.raises(ConfigurationError, match="cannot be read"):
        log.write(ENTRY)
    assert log.verify().at == 6


def test_altered_room_index_is_detected(log: AuditLog, folder: Path) -> None:
    fill_rooms(log, 4)
    with closing(sqlite3.connect(folder / "audit.db")) as connection, connection:
        connection.execute("UPDATE audit_entries SET room = NULL WHERE place = 5")
    verdict = log.verify()
    assert (verdict.ok, verdict.at) == (False, 5)


def test_removed_heads_of_a_long_log_are_detected(log: AuditLog, folder: Path) -> None:
    for _ in range(1100):
        log.write_soon(ENTRY)
    log.flush()
    assert log.verify().ok
    (folder / "audit.head").unlink()
    assert "was truncated" in (log.verify().problem or "")


def test_endless_line_uses_no_memory(folder: Path, written: tuple[list[bytes], bytes]) -> None:
    lines, heads = written
    log = put_old(folder, lines[0], heads[: heads.index(b"\n") + 1])
    with (folder / "audit.jsonl").open("r+b") as stream:
        stream.truncate(150 << 20)
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    held = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    try:
        resource.setrlimit(resource.RLIMIT_AS, (held + (100 << 20), hard))
        assert log.verify().at == 2
        assert len(list(log.entries())) == 1
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def test_head_is_parsed_strictly() -> None:
    def check(text: str) -> None:
        with pytest.raises(ValueError):
            AuditHead.parse(text)

    zeros = "0" * 64
    assert offenders(["", "7", f"0:{zeros}", f"7:{zeros[:63]}", "7:" + "G" * 64, f"7:{zeros}\n1"], check) == []


def test_verification_during_writes(log: AuditLog) -> None:
    ended = threading.Event()

    def keep_writing() -> None:
        while not ended.is_set():
            log.write(ENTRY)

    threads = [threading.Thread(target=keep_writing) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        verdicts = [log.verify() for _ in range(30)]
    finally:
        ended.set()
        for thread in threads:
            thread.join()
    assert {verdict.problem for verdict in verdicts} == {None}
    assert {verdict.cut_off for verdict in verdicts} == {()}


# ---------------------------------------------------------------- the entries of one room


def entries_of(log: AuditLog, room: str) -> list[dict[str, object]]:
    """What the index finds, which must be what the whole log holds."""
    found = list(log.entries(room=room))
    assert found == [entry for entry in log.entries() if entry.get("room") == room]
    return found


def fill_rooms(log: AuditLog, n_entries: int) -> None:
    for number in range(n_entries):
        log.write({**ENTRY, "request_id": f"r{number}", "room": "other" if number % 2 else "mine"})
        log.write({**ENTRY, "request_id": f"n{number}"})


def test_room_entries_are_found_as_the_log_grows(log: AuditLog) -> None:
    assert entries_of(log, "mine") == []
    for n_found in (2, 4):
        fill_rooms(log, 4)
        assert len(entries_of(log, "mine")) == n_found
        assert entries_of(log, "absent") == []
    assert log.verify().ok


def test_many_room_entries_are_read_in_batches(log: AuditLog, folder: Path) -> None:
    for number in range(1100):
        log.write_soon({**ENTRY, "request_id": f"r{number}", "room": "mine" if number % 2 else "other"})
    log.flush()
    assert len(entries_of(log, "mine")) == 550
    with closing(sqlite3.connect(folder / "audit.db")) as connection:
        query = "EXPLAIN QUERY PLAN SELECT * FROM audit_entries WHERE room = 'mine' AND place > 7 ORDER BY place"
        (plan,) = (row[3] for row in connection.execute(query))
    assert plan == "SEARCH audit_entries USING INDEX audit_entries_room (room=? AND place>?)"


# ---------------------------------------------------------------- logs of releases before the table

OF_BEFORE = Path(__file__).parent / "audit_of_before"


@pytest.fixture
def old(folder: Path) -> AuditLog:
    """A log as a release before the table wrote it, with an append that a kill cut off."""
    return put_old(folder, (OF_BEFORE / "audit.jsonl").read_bytes(), (OF_BEFORE / "audit.head").read_bytes())


def test_old_log_verifies_and_continues(old: AuditLog, folder: Path) -> None:
    (folder / "audit.index").touch()
    kept = AuditHead.parse((OF_BEFORE / "audit.head").read_text().splitlines()[-1])
    verdict = old.verify(expect=kept)
    assert (verdict.ok, verdict.n_entries, verdict.cut_off, verdict.head) == (True, 8, (4,), kept)
    assert [entry["operation"] for entry in old.entries(room="room-0123456789ab")] == ["get_room", "charge"]
    old.write({**ENTRY, "request_id": "after"})
    old.close()
    again = AuditLog(folder, KEY, now)
    assert [entry["sequence"] for entry in again.entries()] == [*range(1, 10)]
    assert (again.verify(expect=kept).ok, again.verify().n_entries) == (True, 9)
    assert again.verify(expect=AuditHead(8, "0" * 64)).at == 8
    assert (folder / "audit.jsonl").read_bytes() == (OF_BEFORE / "audit.jsonl").read_bytes(), "as evidence"
    assert (folder / "audit.jsonl").stat().st_mode & 0o777 == 0o400
    assert not (folder / "audit.index").exists()


def test_old_log_is_imported_once_by_concurrent_processes(old: AuditLog, folder: Path) -> None:
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(3)
    processes = [context.Process(target=write_some, args=(folder, name, 3, barrier)) for name in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert (old.verify().ok, old.verify().n_entries) == (True, 8 + 18)


def test_killed_import_is_repeated(old: AuditLog, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(audit_module, "_row", fail)
        with pytest.raises(TypeError):
            old.verify()
    assert (old.verify().ok, old.verify().n_entries) == (True, 8)


def test_interrupted_old_append_is_reported(written: tuple[list[bytes], bytes], folder: Path) -> None:
    """As a kill left it: the heads end with the entry before, or are cut off themselves."""
    content, heads = b"".join(written[0][:4]), b"".join(written[1].splitlines(keepends=True)[:3])

    def check(n_lost: int, has_head: bool) -> None:
        log = put_old(folder, content[:-n_lost], heads if has_head else heads[:-5])
        cut_off = () if n_lost == 1 else (4,)
        before = log.verify()
        assert (before.ok, before.cut_off, before.n_entries) == (True, cut_off, 4)
        log.write({**ENTRY, "request_id": "after"})
        after = log.verify(expect=before.head)
        assert (after.ok, after.cut_off, after.n_entries) == (True, cut_off, 5)
        assert b"".join(lines_of(folder)).startswith(content[:-n_lost])
        assert [entry.get("request_id") for entry in log.entries()][-1] == "after"

    assert offenders(product([1, 2, 30, 75, 76, 100, 200], [True, False]), check) == []


def test_old_append_scrambled_by_a_power_cut_is_reported_as_interrupted(old: AuditLog, folder: Path) -> None:
    """Blocks of an append that was not yet flushed may reach the disk in any order, others staying empty; the
    release before accounted for them."""
    lines = (OF_BEFORE / "audit.jsonl").read_bytes().splitlines(keepends=True)
    for other in (lines[3].replace(b"1111", b"2222"), b""):
        log = put_old(folder, b"".join([*lines[:3], other, *lines[4:]]), (OF_BEFORE / "audit.head").read_bytes())
        assert (log.verify().ok, log.verify().at) == (False, 4), "what was cut off cannot be changed later"


# ---------------------------------------------------------------- on the catalogue's server


@pytest.fixture
def server(postgresql_server: str) -> Iterator[str]:  # noqa: F811 - the fixture of that name
    with own_schema(postgresql_server) as url:
        yield url


@pytest.mark.postgresql
def test_server_stores_the_table(server: str, folder: Path) -> None:
    logs = [AuditLog(folder, KEY, now, make_url(server)) for _ in range(2)]
    assert (logs[0].verify().ok, list(logs[0].entries())) == (True, [])
    fill_rooms(logs[0], 2)
    fill_rooms(logs[1], 2)
    assert (logs[0].verify().ok, logs[0].verify().n_entries, len(entries_of(logs[0], "mine"))) == (True, 8, 2)
    assert sorted(path.name for path in folder.iterdir()) == ["audit.head", "audit.lock"]
    with writing(server) as session:
        session.execute(text("DELETE FROM audit_entries WHERE place = 8"))
    assert "was truncated" in (logs[1].verify().problem or "")
    for log in logs:
        log.close()


@pytest.mark.postgresql
@pytest.mark.parametrize("is_old", [False, True])
def test_log_moves_to_a_server_with_the_catalogue(server: str, folder: Path, is_old: bool) -> None:
    heads = (OF_BEFORE / "audit.head").read_bytes()
    log = put_old(folder, (OF_BEFORE / "audit.jsonl").read_bytes(), heads)
    if not is_old:
        log.write(ENTRY)
        log.close()
    moved = AuditLog(folder, KEY, now, make_url(server))
    assert (moved.verify().ok, moved.verify().n_entries) == (True, 8 if is_old else 9)
    moved.write(ENTRY)
    assert moved.verify().ok
    moved.close()
    with pytest.raises(StoreUnavailableError):
        AuditLog(folder, KEY, now, make_url("postgresql+psycopg://x@localhost:1/x")).write(ENTRY)
