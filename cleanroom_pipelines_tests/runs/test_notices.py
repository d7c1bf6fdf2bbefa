"""Contract: a notice is sent by webhook as a JSON POST, to a command on its standard input, or by e-mail; it
contains only what ended and how. It reaches the receivers that it concerns, is sent again after a failure, and its
outcome is stored. A receiver that fails, hangs or does not exist never fails the work."""

import contextlib
import json
import logging
import os
import shlex
import smtplib
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from cleanroom_pipelines.catalog import (
    LOCAL_ACCOUNT,
    Channel,
    Command,
    DataLabSpec,
    Kind,
    Mail,
    NoticeReceiver,
    TrainingDataset,
    Webhook,
)
from cleanroom_pipelines.catalog.notices import OPERATOR
from cleanroom_pipelines.errors import StatusCode
from cleanroom_pipelines.runs import notices
from cleanroom_pipelines.runs.installation import Installation
from cleanroom_pipelines.runs.notices import Notice, notify, send, send_test, signature_of, states_of
from cleanroom_pipelines.runs.work import Run, Work, working

from ..catalog.building import dataset_spec
from ..certificates import write_certificate
from ..mails import PASSWORD, MailServer
from ..worlds import wait_until

NOTICE = Notice("generation_job", "spring-0123456789ab", "1", "CREATE_FAILED", "SEED_TOO_SMALL")
TEXT = "Version 1 of the generation job spring-0123456789ab failed (SEED_TOO_SMALL). Its status shows the reason."
IN_JSON = {
    "kind": "generation_job",
    "id": "spring-0123456789ab",
    "version": "1",
    "status": "CREATE_FAILED",
    "status_code": "SEED_TOO_SMALL",
    "text": TEXT,
}


class Hook(ThreadingHTTPServer):
    """A server on loopback that keeps the notices it receives, and responds with a chosen status."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.received: list[tuple[str, dict[str, str], bytes]] = []
        self.answers: list[int] = []
        self.answer = 200
        self.silent = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/hook?room=1"


class Handler(BaseHTTPRequestHandler):
    server: Hook

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.received.append((self.path, dict(self.headers), body))
        if self.server.answers:
            self.server.answer = self.server.answers.pop(0)
        if self.server.answer == 0:
            self.server.silent.wait(30)
        elif self.server.answer < 0:
            self.wfile.write(b"no http at all\r\n\r\n")
        else:
            self.send_response(self.server.answer)
            self.send_header("Location", "/elsewhere")
            self.end_headers()

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def hook(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hook]:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(notices, "PAUSES", (0.0, 0.0))
    server = Hook()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.silent.set()
    server.shutdown()
    thread.join()
    server.server_close()


def channel_of(text: str) -> Channel:
    return Webhook(text) if text.startswith("http") else Command(text)


def test_webhook_receives_the_notice(hook: Hook) -> None:
    assert send(Webhook(hook.url), NOTICE, {}) == ""
    ((path, headers, body),) = hook.received
    assert (path, headers["Content-Type"], json.loads(body)) == ("/hook?room=1", "application/json", IN_JSON)
    assert "X-Cleanroom-Signature" not in headers


def test_webhook_is_signed(hook: Hook) -> None:
    assert send(Webhook(hook.url, "OPS"), NOTICE, {"OPS": "hush"}) == ""
    ((_, headers, body),) = hook.received
    timestamp = headers["X-Cleanroom-Timestamp"]
    assert headers["X-Cleanroom-Signature"] == f"v1={signature_of('hush', timestamp, body)}"
    # computed with `printf '1700000000.{}' | openssl dgst -sha256 -hmac hush`
    example = "763081ea12e3b1f903f958994c023cde07f1224b02a538ad6f959112a2f780ba"
    assert signature_of("hush", "1700000000", b"{}") == example
    assert b"hush" not in body


def test_webhook_without_its_secret_is_not_sent(hook: Hook) -> None:
    assert send(Webhook(hook.url, "OPS"), NOTICE, {"OTHER": "hush"}) == "CLEANROOM_SECRET_OPS is not set"
    assert hook.received == []


def test_failed_attempts_are_repeated_as_one_delivery(hook: Hook) -> None:
    hook.answers = [500, 429, 200]
    assert send(Webhook(hook.url), NOTICE, {}, (0.0, 0.0)) == ""
    deliveries = {headers["X-Cleanroom-Delivery"] for _, headers, _ in hook.received}
    assert (len(hook.received), len(deliveries)) == (3, 1)


@pytest.mark.parametrize("status", [301, 302, 307, 400, 404])
def test_rejection_or_redirect_is_final(hook: Hook, status: int) -> None:
    hook.answer = status
    assert send(Webhook(hook.url), NOTICE, {}, (0.0, 0.0)) == f"HTTP status {status}"
    assert [path for path, _, _ in hook.received] == ["/hook?room=1"], "a redirect is not followed"


def test_process_that_stops_makes_one_attempt(hook: Hook) -> None:
    hook.answer = 500
    assert send(Webhook(hook.url), NOTICE, {}, (0.0, 0.0), lambda: True) == "HTTP status 500"
    assert len(hook.received) == 1


def test_command_receives_the_notice(tmp_path: Path) -> None:
    target = tmp_path / "notice.json"
    program = "import sys, pathlib; pathlib.Path(sys.argv[1]).write_bytes(sys.stdin.buffer.read())"
    assert send(Command(shlex.join([sys.executable, "-c", program, str(target)])), NOTICE, {}) == ""
    assert json.loads(target.read_text()) == IN_JSON


def test_command_runs_without_a_shell(tmp_path: Path) -> None:
    send(Command(f"true ; touch {tmp_path / 'made'}"), NOTICE, {})
    assert not (tmp_path / "made").exists()


def test_webhook_that_is_not_http(hook: Hook) -> None:
    hook.answer = -1
    assert send(Webhook(hook.url), NOTICE, {}, ()) == "RemoteProtocolError"


def test_webhook_that_hangs(hook: Hook, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notices, "TIMEOUT_SECONDS", 0.2)
    hook.answer = 0
    assert send(Webhook(hook.url), NOTICE, {}, ()) == "ReadTimeout"


def test_unreachable_webhook(hook: Hook) -> None:
    free = Hook()
    free.server_close()
    assert send(Webhook(free.url), NOTICE, {}, ()) == "ConnectError"


@pytest.mark.parametrize(
    "setting",
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
def test_invalid_setting_is_a_problem_without_data(setting: str) -> None:
    problem = send(channel_of(setting), NOTICE, {}, ())
    assert problem
    assert "canary" not in problem + channel_of(setting).words


def test_command_that_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notices, "TIMEOUT_SECONDS", 0.3)
    assert send(Command("sleep 30"), NOTICE, {}, ()) == "TimeoutExpired"


def test_command_may_leave_a_background_process(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(notices, "TIMEOUT_SECONDS", 120)  # if its end were awaited, this would time out
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    assert send(Command(shlex.join(["sh", "-c", 'cat "$0" &', str(pipe)])), NOTICE, {}) == ""

    def release_reader() -> bool:
        with contextlib.suppress(OSError):  # not opened for reading yet
            os.close(os.open(pipe, os.O_WRONLY | os.O_NONBLOCK))
            return True
        return False

    wait_until(release_reader, seconds=120, what="the process that was left running")


def test_command_with_much_output_that_reads_no_input() -> None:
    program = "print('x' * 1_000_000)"
    large = Notice("generation_job", "x" * 1_000_000, "1", "ACTIVE")
    assert send(Command(shlex.join([sys.executable, "-c", program])), large, {}) == ""


# e-mail


@pytest.fixture
def mail_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[MailServer]:
    files = write_certificate(tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", str(files.certificate))
    with MailServer.running(files.certificate, files.key) as server:
        yield server


def mail_to(server: MailServer, **more: str) -> Mail:
    return Mail("ops@shop.example", "cleanroom@host.example", "127.0.0.1", server.port, **more)


def test_mail_is_sent_over_tls_after_login(mail_server: MailServer) -> None:
    channel = mail_to(mail_server, user="mailer", secret="SMTP")
    assert send(channel, NOTICE, {"SMTP": PASSWORD}, ()) == ""
    (message,) = mail_server.messages
    assert message.is_encrypted
    assert (message.user, message.password) == ("mailer", PASSWORD)
    assert (message.sender, message.to) == ("cleanroom@host.example", ["ops@shop.example"])
    assert message.parsed["Subject"] == "Clean room: SEED_TOO_SMALL"
    assert message.parsed["Auto-Submitted"] == "auto-generated"
    assert message.parsed.get_content().strip() == TEXT


def test_mail_server_with_an_unknown_certificate_gets_nothing(
    mail_server: MailServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SSL_CERT_FILE")
    channel = mail_to(mail_server, user="mailer", secret="SMTP")
    assert send(channel, NOTICE, {"SMTP": PASSWORD}, ()) == "SSLCertVerificationError"
    assert mail_server.messages == []


def test_wrong_password_is_a_problem_without_data(mail_server: MailServer) -> None:
    channel = mail_to(mail_server, user="mailer", secret="SMTP")
    assert send(channel, NOTICE, {"SMTP": "wrong"}, ()) == smtplib.SMTPAuthenticationError.__name__
    assert mail_server.messages == []


# receivers


@pytest.fixture
def job(installation: Installation) -> str:
    """The partition key of a dataset that belongs to one of two accounts."""
    catalog = installation.catalog
    catalog.parties.create_account("shop", "222222222222", "Shop Group")
    catalog.parties.create_account("brand", "111111111111", "Brand Group")
    return catalog.resources.create(dataset_spec("Events"), account_id="222222222222").id


def declare(installation: Installation, hook: Hook, name: str, **more: object) -> None:
    url = hook.url.replace("hook", name)
    installation.catalog.notices.declare_receiver(NoticeReceiver(name, Webhook(url), **more))  # type: ignore[arg-type]


def receivers_of(hook: Hook) -> set[str]:
    return {path.strip("/").partition("?")[0] for path, _, _ in hook.received}


@pytest.mark.parametrize(("code", "failed"), [("", False), ("SEED_TOO_SMALL", True)])
def test_notices_reach_those_they_concern(
    installation: Installation, hook: Hook, job: str, code: str, failed: bool
) -> None:
    declare(installation, hook, "everything")
    declare(installation, hook, "shop", organization="shop group")
    declare(installation, hook, "brand", organization="brand group")
    declare(installation, hook, "models", kinds=(Kind.AUDIENCE_MODEL,))
    declare(installation, hook, "datasets", kinds=(Kind.TRAINING_DATASET,))
    declare(installation, hook, "failures", only_failures=True)
    notice = Notice("training_dataset", job, "1", "CREATE_FAILED" if failed else "ACTIVE", code)
    notify(installation.catalog, notice, setting=hook.url, secrets={})
    assert receivers_of(hook) == {"hook", "everything", "shop", "datasets"} | ({"failures"} if failed else set())


@pytest.mark.parametrize("failed", [False, True])
def test_work_that_ends_sends_a_notice(installation: Installation, hook: Hook, job: str, failed: bool) -> None:
    declare(installation, hook, "shop", organization="shop group")
    with working(installation, TrainingDataset, job, Run("run")) as work:
        assert isinstance(work, Work)
        if failed:
            work.fail(StatusCode.TRAINING_DATA_INVALID, "canary")
        else:
            work.finish("canary", n_users=5)
    ((_, _, body),) = hook.received
    code = "TRAINING_DATA_INVALID" if failed else ""
    expected = {"id": job, "status": "CREATE_FAILED" if failed else "ACTIVE", "status_code": code}
    notice = json.loads(body)
    assert notice | expected == notice
    assert b"canary" not in body


def test_outcome_is_stored_and_shown(installation: Installation, hook: Hook, job: str) -> None:
    declare(installation, hook, "ops")
    (state,) = states_of(installation.catalog, setting=None)
    assert state.sentence == "ops (webhook to 127.0.0.1): no notice was sent yet."
    hook.answer = 500
    assert send_test(installation.catalog, "ops", setting=None, secrets={}) == {"ops": "HTTP status 500"}
    assert len(hook.received) == 3
    (state,) = states_of(installation.catalog, setting=None)
    assert state.arrived is False
    assert state.sentence.endswith("did not arrive (HTTP status 500). Fix it, then run: cleanroom notice test ops")
    send_test(installation.catalog, "ops", setting=None, secrets={})
    assert len(hook.received) == 4, "one attempt while a receiver fails"
    hook.answer = 200
    notify(installation.catalog, Notice("training_dataset", job, "1", "ACTIVE"), setting=None, secrets={})
    (state,) = states_of(installation.catalog, setting=None)
    assert state.arrived is True


def test_receiver_that_never_ends_its_response_holds_nothing_up(
    installation: Installation, hook: Hook, job: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notices, "TIMEOUT_SECONDS", 0.0)
    monkeypatch.setattr(notices, "send", lambda *_: hook.silent.wait(60))
    declare(installation, hook, "ops")
    assert send_test(installation.catalog, "ops", setting=None, secrets={}) == {"ops": "no response in time"}


def test_failure_is_logged_without_data_and_fails_nothing(
    installation: Installation, hook: Hook, job: str, caplog: pytest.LogCaptureFixture
) -> None:
    declare(installation, hook, "canary")
    hook.answer = 404
    # listened to at its own logger, whatever other tests do to the handlers of the root
    records: list[logging.LogRecord] = []
    listener = logging.Handler(logging.WARNING)
    listener.emit = records.append  # type: ignore[method-assign]
    logging.getLogger(notices.__name__).addHandler(listener)
    try:
        notify(installation.catalog, Notice("training_dataset", job, "1", "ACTIVE"), setting=None, secrets={})
    finally:
        logging.getLogger(notices.__name__).removeHandler(listener)
    (record,) = records
    assert record.exc_info is None
    assert record.getMessage() == (
        "A notice did not arrive (HTTP status 404). `cleanroom status` names its receiver."
    )


def test_setting_of_the_operator_is_the_first_receiver(installation: Installation, hook: Hook) -> None:
    declare(installation, hook, "a")
    assert [state.name for state in states_of(installation.catalog, setting="true")] == [OPERATOR, "a"]
    assert send_test(installation.catalog, OPERATOR, setting="true", secrets={}) == {OPERATOR: ""}
    assert hook.received == []


def test_owner_that_is_a_user_is_known_by_the_domain(installation: Installation) -> None:
    catalog = installation.catalog
    spec = DataLabSpec(
        name="Lab", mark="11", owner_email="anna@brand.example", datasets={"matching:EMAIL": "ab" * 16}
    )
    lab = catalog.resources.create(spec, account_id=LOCAL_ACCOUNT)
    assert catalog.notices.organizations_of(lab.id) == {LOCAL_ACCOUNT, "brand.example"}
