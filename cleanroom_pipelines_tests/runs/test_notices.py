"""Contract: a notice is sent to a URL as a JSON POST, or to a command on its standard input; it contains only what
ended and how. A hook that fails, hangs or does not exist never fails the work."""

import contextlib
import json
import logging
import os
import shlex
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from cleanroom_pipelines.runs import notices
from cleanroom_pipelines.runs.notices import send_notice

from ..worlds import wait_until

NOTICE = {
    "kind": "generation_job",
    "id": "spring-0123456789ab",
    "version": "1",
    "status": "CREATE_FAILED",
    "status_code": "SEED_TOO_SMALL",
}


class Hook(ThreadingHTTPServer):
    """A server on loopback that keeps what it was sent and answers as it is told."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.received: list[tuple[str, str, object]] = []
        self.answer = 200
        self.silent = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/hook?room=1"


class Handler(BaseHTTPRequestHandler):
    server: Hook

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.received.append((self.path, self.headers["Content-Type"], json.loads(body)))
        if self.server.answer == 0:
            self.server.silent.wait(30)
        elif self.server.answer < 0:
            self.wfile.write(b"no http at all\r\n\r\n")
        else:
            self.send_response(self.server.answer)
            self.end_headers()

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def hook(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hook]:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    server = Hook()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.silent.set()
    server.shutdown()
    thread.join()
    server.server_close()


def test_url_receives_the_notice(hook: Hook, caplog: pytest.LogCaptureFixture) -> None:
    send_notice(hook.url, NOTICE)
    assert hook.received == [("/hook?room=1", "application/json", NOTICE)]
    assert caplog.records == []


def test_command_receives_the_notice(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    target = tmp_path / "what was told.json"
    program = "import sys, pathlib; pathlib.Path(sys.argv[1]).write_bytes(sys.stdin.buffer.read())"
    send_notice(shlex.join([sys.executable, "-c", program, str(target)]), NOTICE)
    assert json.loads(target.read_text()) == NOTICE
    assert caplog.records == []


def test_command_runs_without_a_shell(tmp_path: Path) -> None:
    send_notice(f"true ; touch {tmp_path / 'made'}", NOTICE)
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize("notify", [None, ""])
def test_no_hook_sends_nothing(notify: str | None, caplog: pytest.LogCaptureFixture) -> None:
    send_notice(notify, NOTICE)
    assert caplog.records == []


def failed_as(caplog: pytest.LogCaptureFixture, notify: str) -> str:
    # heard at its own logger: what a thread of another test does to the root's handlers must not matter
    records: list[logging.LogRecord] = []
    listener = logging.Handler(logging.WARNING)
    listener.emit = records.append  # type: ignore[method-assign]
    logging.getLogger(notices.__name__).addHandler(listener)
    try:
        with caplog.at_level(logging.WARNING, logger=notices.__name__):
            send_notice(notify, NOTICE)
    finally:
        logging.getLogger(notices.__name__).removeHandler(listener)
    (record,) = records
    assert record.exc_info is None
    assert "canary" not in record.getMessage()
    return record.getMessage()


@pytest.mark.parametrize("answer", [400, 500, 301, -1])
def test_url_that_rejects_the_notice(hook: Hook, caplog: pytest.LogCaptureFixture, answer: int) -> None:
    hook.answer = answer
    assert "hook failed" in failed_as(caplog, hook.url)
    assert len(hook.received) == 1


def test_url_that_hangs(hook: Hook, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notices, "TIMEOUT_SECONDS", 0.2)
    hook.answer = 0
    assert "TimeoutError" in failed_as(caplog, hook.url)


def test_unreachable_url(hook: Hook, caplog: pytest.LogCaptureFixture) -> None:
    free = Hook()
    free.server_close()
    assert "URLError" in failed_as(caplog, free.url)


@pytest.mark.parametrize(
    "notify",
    [
        "http://",
        "http://[::1",
        "http://127.0.0.1:canary/",
        "http://127.0.0.1/\ncanary",
        "/no/such/canary",
        "false",
        f"{shlex.quote(sys.executable)} -c 'import sys; sys.exit(\"canary\")'",
        "unbalanced ' canary",
        "  ",
        "/",
        "canary\0",
    ],
)
def test_invalid_hook(caplog: pytest.LogCaptureFixture, notify: str) -> None:
    assert "hook failed" in failed_as(caplog, notify)


def test_command_that_hangs(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notices, "TIMEOUT_SECONDS", 0.3)
    assert "TimeoutExpired" in failed_as(caplog, "sleep 30")


def test_command_may_leave_a_background_process(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(notices, "TIMEOUT_SECONDS", 120)  # it would be waited for in vain
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    send_notice(shlex.join(["sh", "-c", 'cat "$0" &', str(pipe)]), NOTICE)
    assert caplog.records == []

    def release_reader() -> bool:
        with contextlib.suppress(OSError):  # nobody has opened it to read yet
            os.close(os.open(pipe, os.O_WRONLY | os.O_NONBLOCK))
            return True
        return False

    wait_until(release_reader, seconds=120, what="what was left running")


def test_command_with_much_output_that_reads_no_input(caplog: pytest.LogCaptureFixture) -> None:
    program = "print('x' * 1_000_000)"
    send_notice(shlex.join([sys.executable, "-c", program]), dict(NOTICE, id="x" * 1_000_000))
    assert caplog.records == []
