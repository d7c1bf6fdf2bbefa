"""Notices that work has ended, sent to declared receivers and to CLEANROOM_NOTIFY; and e-mails to users.

Lives here: what a notice contains, who gets it, sending it by webhook, command or e-mail, and retries; the
operator's own mail server, which sends users their sign-in links.
Add here when notices can be sent in another way.
Keep out: issuing links (`sign_in`) and their texts (the console); data. A notice says what ended and with which
status, never its results.

Decided 2026-12-01. Links go through the operator's own mail server, not through that of a receiver of notices,
which may belong to another organisation. They lead to CLEANROOM_CONSOLE_URL, because a request for a link may have
a forged Host header.
"""

import hashlib
import hmac
import json
import logging
import shlex
import smtplib
import ssl
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from email.message import EmailMessage
from email.utils import formatdate, make_msgid
from threading import Thread

from cleanroom_pipelines.catalog import (
    Catalog,
    Channel,
    Command,
    Kind,
    Mail,
    NoticeOutcome,
    NoticeReceiver,
    Webhook,
)
from cleanroom_pipelines.catalog.channels import is_loopback
from cleanroom_pipelines.catalog.notices import OPERATOR
from cleanroom_pipelines.errors import CleanroomError, NotFoundError, UsageError
from cleanroom_pipelines.runs.installation import Installation

_LOG = logging.getLogger(__name__)
# The pauses before the second and the third attempt.
PAUSES = (1.0, 4.0)
TEST = "test"
_RETRIED_STATUSES = (408, 429)


@dataclass(frozen=True)
class Notice:
    """A notice that work has ended, sent to receivers as JSON or as text.

    Args:
        kind: The kind of the resource, such as `generation_job`, or `test`.
        id: Its partition key; empty in a test.
        version: The number of its version.
        status: `ACTIVE`, `CREATE_FAILED`, or `TEST`.
        status_code: Why it failed; empty if it did not.
    """

    kind: str
    id: str
    version: str
    status: str
    status_code: str = ""

    @property
    def sentence(self) -> str:
        """The notice in one sentence."""
        if self.kind == TEST:
            return "This is a test notice of the clean room."
        what = f"Version {self.version} of the {Kind(self.kind).words} {self.id}"
        if self.status_code:
            return f"{what} failed ({self.status_code}). Its status shows the reason."
        return f"{what} is finished."

    @property
    def body(self) -> bytes:
        """The notice as JSON, with its sentence as `text`."""
        return json.dumps({**asdict(self), "text": self.sentence}, sort_keys=True).encode()


class _NotArrivedError(Exception):
    """A mail server, webhook or command did not accept a notice.

    Args:
        problem: Why, without data.
        is_final: Whether another attempt is useless.
    """

    def __init__(self, problem: str, *, is_final: bool = False) -> None:
        super().__init__(problem)
        self.problem, self.is_final = problem, is_final


@dataclass(frozen=True)
class NoticeState:
    """A receiver, and whether its last notice arrived.

    Args:
        name: Its name.
        channel: Its channel in words, without addresses.
        organization: Whose notices it gets; None: all.
        arrived: Whether the last notice arrived; None if none was sent.
        outcome: The outcome of the last notice in words.
    """

    name: str
    channel: str
    organization: str | None
    arrived: bool | None
    outcome: str

    @property
    def sentence(self) -> str:
        """The receiver and its last notice in one sentence."""
        remedy = (
            f" Fix it, then run: cleanroom notice test {shlex.quote(self.name)}" if self.arrived is False else ""
        )
        return f"{self.name} ({self.channel}): {self.outcome}.{remedy}"


def states_of(catalog: Catalog, *, setting: str | None) -> tuple[NoticeState, ...]:
    """Return the state of every receiver; if CLEANROOM_NOTIFY is set, its receiver comes first."""
    outcomes = catalog.notices.outcomes()
    return tuple(
        _state_of(each, outcomes.get(each.name)) for each in (*_operators(setting), *catalog.notices.all())
    )


def _state_of(receiver: NoticeReceiver, outcome: NoticeOutcome | None) -> NoticeState:
    if outcome is None:
        arrived, words = None, "no notice was sent yet"
    else:
        arrived, at = not outcome.problem, f"{outcome.at:%Y-%m-%d %H:%M} UTC"
        words = f"the last notice arrived at {at}"
        if outcome.problem:
            words = f"the last notice, at {at}, did not arrive ({outcome.problem})"
    organization = receiver.organization
    shown = "a person" if organization and "@" in organization else organization
    return NoticeState(receiver.name, receiver.channel.words, shown, arrived, words)


def notify(
    catalog: Catalog,
    notice: Notice,
    *,
    setting: str | None,
    secrets: Mapping[str, str],
    is_stopping: Callable[[], bool] = lambda: False,
) -> None:
    """Send a notice to every receiver that it concerns; failures are logged and never fail the work.

    Args:
        catalog: Has the receivers, and gets the outcomes.
        notice: About a version that ended.
        setting: CLEANROOM_NOTIFY.
        secrets: Secrets by name.
        is_stopping: Whether the process is ending, so that failed attempts are not repeated.
    """
    try:
        receivers = [*_operators(setting), *_concerned(catalog, notice)]
        _send_to(catalog, receivers, notice, secrets, is_stopping)
    except CleanroomError as error:
        _LOG.warning("Notices could not be sent (%s).", type(error).__name__)


def send_test(
    catalog: Catalog, name: str | None, *, setting: str | None, secrets: Mapping[str, str]
) -> dict[str, str]:
    """Send a test notice to one receiver or to all.

    Args:
        catalog: Has the receivers, and gets the outcomes.
        name: The receiver; None: all of them.
        setting: CLEANROOM_NOTIFY.
        secrets: Secrets by name.

    Returns:
        By receiver, why the notice did not arrive; empty if it arrived.

    Raises:
        NotFoundError: There is no such receiver, or none at all.
    """
    receivers = [each for each in (*_operators(setting), *catalog.notices.all()) if name in (None, each.name)]
    if not receivers:
        raise NotFoundError(
            "There is no such receiver of notices.",
            remedy="Give the name of a declared receiver.",
        )
    return _send_to(catalog, receivers, Notice(TEST, "", "", "TEST"), secrets, lambda: False)


def _operators(setting: str | None) -> Sequence[NoticeReceiver]:
    """Return the operator's own receiver, from CLEANROOM_NOTIFY, if that is set."""
    if not setting:
        return ()
    is_url = setting.startswith(("http://", "https://"))
    return (NoticeReceiver(OPERATOR, Webhook(setting) if is_url else Command(setting)),)


def _concerned(catalog: Catalog, notice: Notice) -> Sequence[NoticeReceiver]:
    receivers = catalog.notices.all()
    if not receivers:
        return ()
    organizations = catalog.notices.organizations_of(notice.id)
    failed = bool(notice.status_code)
    return [each for each in receivers if each.wants(Kind(notice.kind), organizations, failed=failed)]


def _send_to(
    catalog: Catalog,
    receivers: Sequence[NoticeReceiver],
    notice: Notice,
    secrets: Mapping[str, str],
    is_stopping: Callable[[], bool],
) -> dict[str, str]:
    """Send a notice to all receivers at once; a receiver that missed its last notice gets a single attempt."""
    if not receivers:
        return {}
    before = catalog.notices.outcomes()
    problems = {each.name: "no response in time" for each in receivers}

    def send_one(receiver: NoticeReceiver) -> None:
        has_failed = receiver.name in before and bool(before[receiver.name].problem)
        pauses = () if has_failed else PAUSES
        problems[receiver.name] = send(receiver.channel, notice, secrets, pauses, is_stopping)

    # Daemon threads: the timeouts of sockets do not bound a receiver that responds one byte at a time.
    threads = [Thread(target=send_one, args=(each,), daemon=True) for each in receivers]
    deadline = time.monotonic() + (len(PAUSES) + 1) * TIMEOUT_SECONDS + sum(PAUSES) + 1.0
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    outcomes = dict(problems)
    for name, problem in outcomes.items():
        if problem:
            _LOG.warning("A notice did not arrive (%s). `cleanroom status` names its receiver.", problem)
        catalog.notices.record_outcome(name, problem)
    return outcomes


def send(
    channel: Channel,
    notice: Notice,
    secrets: Mapping[str, str],
    pauses: Sequence[float] = PAUSES,
    is_stopping: Callable[[], bool] = lambda: False,
) -> str:
    """Send a notice; after a failed attempt, pause and try again, as often as there are pauses.

    Args:
        channel: How to send it.
        notice: The notice.
        secrets: Secrets by name.
        pauses: The seconds before each further attempt.
        is_stopping: Whether to make no further attempt.

    Returns:
        Why it did not arrive, without data; empty if it arrived.
    """
    delivery = make_msgid(domain="cleanroom")  # the same in all attempts, so that a receiver can drop duplicates
    for pause in (*pauses, None):
        try:
            _attempt(channel, notice, secrets, delivery)
        except _NotArrivedError as error:
            if error.is_final or pause is None or is_stopping():
                return error.problem
            time.sleep(pause)
        else:
            return ""
    raise AssertionError("The last attempt always returns a result.")


def _attempt(channel: Channel, notice: Notice, secrets: Mapping[str, str], delivery: str) -> None:
    if isinstance(channel, Webhook):
        _post(channel, notice.body, _secret(secrets, channel.secret), delivery)
    elif isinstance(channel, Mail):
        _mail(channel, notice, _secret(secrets, channel.secret), delivery)
    else:
        _run(channel, notice.body)


def _secret(secrets: Mapping[str, str], name: str | None) -> str | None:
    if name is None:
        return None
    if not secrets.get(name):
        raise _NotArrivedError(f"CLEANROOM_SECRET_{name} is not set", is_final=True)
    return secrets[name]


def signature_of(secret: str, timestamp: str, body: bytes) -> str:
    """Return the signature of a webhook: HMAC-SHA256, in hex, of `<timestamp>.<body>`."""
    return hmac.new(secret.encode(), timestamp.encode() + b"." + body, hashlib.sha256).hexdigest()


def _post(webhook: Webhook, body: bytes, secret: str | None, delivery: str) -> None:
    import httpx

    headers = {"Content-Type": "application/json", "X-Cleanroom-Delivery": delivery}
    if secret is not None:
        timestamp = str(int(time.time()))
        headers |= {
            "X-Cleanroom-Timestamp": timestamp,
            "X-Cleanroom-Signature": f"v1={signature_of(secret, timestamp, body)}",
        }
    try:
        # Redirects are not followed, and the response's body is not read.
        with httpx.stream(
            "POST", webhook.url, content=body, headers=headers, timeout=TIMEOUT_SECONDS, follow_redirects=False
        ) as response:
            status = response.status_code
    except (httpx.HTTPError, httpx.InvalidURL, OSError, ValueError) as error:
        raise _NotArrivedError(type(error).__name__) from None
    if not 200 <= status < 300:
        raise _NotArrivedError(f"HTTP status {status}", is_final=status < 500 and status not in _RETRIED_STATUSES)


def _run(command: Command, body: bytes) -> None:
    try:
        parts = shlex.split(command.line)
        if not parts:
            raise _NotArrivedError("the command is empty", is_final=True)
        # Output is discarded: waiting for a pipe would last as long as any child of the command keeps it open.
        subprocess.run(  # noqa: S603 - the operator's own command
            parts,
            input=body,
            timeout=TIMEOUT_SECONDS,
            check=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        raise _NotArrivedError(type(error).__name__) from None


def _mail(mail: Mail, notice: Notice, password: str | None, delivery: str) -> None:
    subject = f"Clean room: {notice.status_code or notice.status}"
    try:
        send_mail(mail, subject, notice.sentence, password, delivery)
    except MAIL_ERRORS as error:
        raise _NotArrivedError(type(error).__name__) from None


TIMEOUT_SECONDS = 10.0
MAIL_ERRORS = (smtplib.SMTPException, OSError, ValueError)
"""What `send_mail` raises."""


def send_mail(mail: Mail, subject: str, text: str, password: str | None, message_id: str) -> None:
    """Send an e-mail; the possible errors are listed in `MAIL_ERRORS`.

    Args:
        mail: Receiver, sender and mail server.
        subject: Its subject.
        text: Its text.
        password: Password for the mail server, if it has a user.
        message_id: The same for each attempt, so that a receiver can drop duplicates.
    """
    message = EmailMessage()
    message["From"], message["To"] = mail.sender, mail.to
    message["Subject"] = subject
    message["Date"], message["Message-ID"] = formatdate(), message_id
    message["Auto-Submitted"] = "auto-generated"  # so that absence notes are not sent back (RFC 3834)
    message.set_content(f"{text}\n")
    with smtplib.SMTP(mail.host, mail.port, timeout=TIMEOUT_SECONDS) as server:
        server.ehlo()
        if server.has_extn("starttls") or not is_loopback(mail.host):
            server.starttls(context=ssl.create_default_context())
        if mail.user is not None and password is not None:
            server.login(mail.user, password)
        server.send_message(message)


def mail_user(installation: Installation, email: str, subject: str, text: str) -> None:
    """Send an e-mail to a user through the mail server in CLEANROOM_MAIL.

    Raises:
        UsageError: There is no mail server, or it did not accept the message.
    """
    mail = installation.settings.mail
    if mail is None:
        raise UsageError("E-mail is not set up here.", remedy="Copy the link and send it yourself.")
    try:
        message_id = make_msgid(domain="cleanroom")
        send_mail(replace(mail, to=email), subject, text, installation.settings.secrets.get("MAIL"), message_id)
    except MAIL_ERRORS as error:
        raise UsageError(
            f"The e-mail was not sent ({type(error).__name__}).", remedy="Copy the link and send it yourself."
        ) from None
