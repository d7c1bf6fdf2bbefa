"""Links by e-mail: invitations and one-time links through a real mail server on loopback, with STARTTLS and login.

Contract: who invites may have the link sent, and then does not see it; if it cannot be sent, it is shown; a user
who asks for a one-time link gets one by e-mail, and no reply says whether the user exists; links lead to the
address in the settings, never to one that a request names; e-mails per user and address are limited.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest

from cleanroom_pipelines.console.app import Console
from cleanroom_pipelines.runs.installation import Installation, Settings
from cleanroom_pipelines.runs.sign_in import start_session
from cleanroom_pipelines.server.starting import make_gateway
from cleanroom_pipelines.terms import Permission

from ..certificates import write_certificate
from ..mails import PASSWORD, MailServer
from ..media.groups import MediaWorld, email
from ..worlds import wait_until
from .test_sign_in import LOCAL, OWN, SECURE, Browser

GROUPS = {"manager": (Permission.MANAGE_USERS,), "base": (Permission.PROVIDE_BASE_AUDIENCE,)}
NEW = "new@media.example"
OPERATOR = email("base")


@pytest.fixture(scope="module")
def mail_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MailServer]:
    files = write_certificate(tmp_path_factory.mktemp("mail"))
    with pytest.MonkeyPatch.context() as patch, MailServer.running(files.certificate, files.key) as server:
        patch.setenv("SSL_CERT_FILE", str(files.certificate))
        yield server


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, mail_server: MailServer) -> MediaWorld:
    values = {
        "CLEANROOM_HOME": str(tmp_path_factory.mktemp("mailed") / "home"),
        "CLEANROOM_CONSOLE_URL": f"{SECURE}/",
        "CLEANROOM_MAIL": f"smtp://mailer@127.0.0.1:{mail_server.port}?from=cleanroom@host.example",
        "CLEANROOM_SECRET_MAIL": PASSWORD,
        "CLEANROOM_SEED_FLOOR": "1",
    }
    installation = Installation(Settings.from_environment(values))
    installation.catalog.users.create_user(email("manager"))
    world = MediaWorld.open(installation, GROUPS)
    installation.catalog.users.set_role(OPERATOR, is_operator=True, account_id=None)
    return world


@pytest.fixture
def browser_of(world: MediaWorld, mail_server: MailServer) -> Callable[..., Browser]:
    """Make a browser in which a user is signed in, or none."""
    mail_server.messages.clear()
    gateways = {}

    def make(user: str | None = None, installation: Installation = world.installation) -> Browser:
        gateway = gateways.setdefault(id(installation), make_gateway(installation, make_site=Console))
        return Browser(gateway, cookies={"cleanroom": start_session(installation, user)} if user else {})

    return make


def path_in(server: MailServer, to: str, kind: str) -> str:
    """Return the path of the link in the only message."""
    (message,) = server.messages
    assert (message.is_encrypted, message.user, message.password) == (True, "mailer", PASSWORD)
    assert (message.sender, message.to) == ("cleanroom@host.example", [to])
    found = re.search(rf"\s{SECURE}/console(/{kind}/[\w-]{{43}})\s", message.parsed.get_content())
    assert found, message.parsed.get_content()
    return found[1]


@pytest.fixture
def people(world: MediaWorld) -> str:
    return f"/rooms/{world.room}/people"


def test_a_participant_invites_by_mail(
    browser_of: Callable[..., Browser], mail_server: MailServer, people: str
) -> None:
    manager = browser_of(email("manager"))
    manager.send("POST", people, {"email": NEW, "permissions": "MANAGE_USERS"})
    assert "Invite by e-mail" in manager.send("GET", people).text
    answer = manager.send("POST", f"{people}/invite", {"email": NEW, "by": "mail"})
    assert (answer.status_code, answer.headers["location"]) == (303, f"/console{people}?done=people.mailed.done")
    path = path_in(mail_server, NEW, "invitation")
    invited = browser_of()
    assert (
        invited.send("POST", path, {"password": "a long sentence", "again": "a long sentence"}).status_code == 303
    )
    assert invited.is_signed_in


@pytest.mark.parametrize(("action", "kind"), [("invitation", "invitation"), ("link", "link")])
def test_an_operator_sends_links_by_mail(
    browser_of: Callable[..., Browser], mail_server: MailServer, action: str, kind: str
) -> None:
    operator, user = browser_of(OPERATOR), email("manager")
    page = f"/operator/users/{user}"
    assert "Invite by e-mail" in operator.send("GET", page).text
    answer = operator.send("POST", page, {"action": action, "by": "mail"})
    assert answer.headers["location"].endswith("?done=operating.mailed.done")
    assert browser_of().send("GET", path_in(mail_server, user, kind)).status_code == 200


@pytest.mark.parametrize("names", [("invite", "invitation"), ("link", "link")], ids=str)
def test_a_command_sends_the_same_mail(
    world: MediaWorld,
    browser_of: Callable[..., Browser],
    mail_server: MailServer,
    monkeypatch: pytest.MonkeyPatch,
    names: tuple[str, str],
) -> None:
    from click.testing import CliRunner

    from cleanroom_pipelines.cli import users

    user, (command, kind) = email("manager"), names

    def run(installation: Installation) -> tuple[int, str]:
        monkeypatch.setattr(users, "open_installation", lambda: installation)
        done = CliRunner().invoke(users.user, [command, user, "--mail"])
        return done.exit_code, f"{done.output}{done.exception or ''}"

    browser = browser_of()
    assert run(world.installation) == (0, "The link was sent by e-mail.\n")
    sent = path_in(mail_server, user, kind)
    assert browser.send("GET", sent).status_code == 200
    mail_server.messages.clear()

    settings = world.installation.settings
    code, shown = run(Installation(replace(settings, mail=None)))
    assert (code, "E-mail is not set up here." in shown, "/console/" in shown) == (1, True, False)
    assert browser.send("GET", sent).status_code == 200, "the earlier link is still valid"
    code, shown = run(Installation(replace(settings, secrets={"MAIL": "wrong"})))
    assert (code, "The e-mail was not sent (SMTPAuthenticationError)." in shown) == (1, True)
    found = re.search(rf"{SECURE}/console(/{kind}/[\w-]+)\n", shown)
    assert found, "the link is printed instead"
    assert browser.send("GET", found[1]).status_code == 200
    assert mail_server.messages == []


def test_a_link_that_cannot_be_sent_is_shown(
    world: MediaWorld, browser_of: Callable[..., Browser], mail_server: MailServer, people: str
) -> None:
    wrong = Installation(replace(world.installation.settings, secrets={"MAIL": "wrong"}))
    manager, late = browser_of(email("manager"), wrong), "late@media.example"
    manager.send("POST", people, {"email": late, "permissions": "MANAGE_USERS"})
    answer = manager.send("POST", f"{people}/invite", {"email": late, "by": "mail"})
    assert "The e-mail was not sent (SMTPAuthenticationError)." in answer.text
    found = re.search(rf"<textarea[^>]*>{SECURE}/console(/invitation/[\w-]+)<", answer.text)
    assert found
    assert browser_of().send("GET", found[1]).status_code == 200
    answer = browser_of(OPERATOR, wrong).send("POST", "/operator/users", {"email": late, "by": "mail"})
    assert "The e-mail was not sent" in answer.text
    assert f"{SECURE}/console/invitation/" in answer.text
    assert mail_server.messages == []


def test_a_user_asks_for_a_link(
    world: MediaWorld, browser_of: Callable[..., Browser], mail_server: MailServer
) -> None:
    browser, user = browser_of(), email("manager")
    assert "Send me a link" in browser.send("GET", "/sign-in").text
    answer = browser.send("POST", "/sign-in/link", {"email": user.upper()}, {**OWN, "Host": "evil.localhost:8723"})
    wait_until(lambda: mail_server.messages, seconds=30, what="the e-mail")
    path = path_in(mail_server, user, "link")
    mail_server.messages.clear()
    installation = world.installation
    installation.catalog.users.create_user("off@media.example")
    installation.catalog.users.set_user_disabled("off@media.example", True)
    for nobody in ("nobody@media.example", "off@media.example"):
        other = browser.send("POST", "/sign-in/link", {"email": nobody})
        assert (other.status_code, other.headers["location"]) == (303, answer.headers["location"])
    assert (
        "a link arrives within a few minutes" in browser.send("GET", "/sign-in?done=signing.link_sent.done").text
    )
    assert browser.send("POST", path).status_code == 303
    assert browser.is_signed_in
    wait_until(lambda: "send_link" in operations(installation), seconds=30, what="the audit entry")
    assert mail_server.messages == []


def operations(installation: Installation) -> list[str]:
    installation.audit.flush()
    return [each["operation"] for each in installation.audit.entries() if each["outcome"] == "ok"]


def test_mails_are_limited_per_user_and_address(
    browser_of: Callable[..., Browser], mail_server: MailServer
) -> None:
    browser, user = browser_of(), email("manager")

    def ask(address: str) -> int:
        return browser.send("POST", "/sign-in/link", {"email": address}).status_code

    asked, nobody = ([ask(each) for _ in range(5)] for each in (user, "nobody@media.example"))
    assert asked == nobody == [303, 303, 303, 429, 429], "alike for users and others"
    assert [ask(f"{n}@x.example") for n in range(11)] == [303] * 10 + [429], "the address"
    elsewhere = replace(browser, address="192.0.2.1", root=SECURE)
    wrong = elsewhere.sign_in(user, "a wrong password")
    assert wrong.status_code == 401, "e-mails leave the user's attempts to sign in"
    wait_until(lambda: len(mail_server.messages) == 3, seconds=30, what="the e-mails")


@pytest.mark.parametrize("given", ["", "no address", "a@b.example\r\nBcc: c@d.example", "a@b.example,c@d.example"])
def test_invalid_addresses_get_nothing(
    browser_of: Callable[..., Browser], mail_server: MailServer, given: str
) -> None:
    assert browser_of().send("POST", "/sign-in/link", {"email": given}).status_code == 400
    assert mail_server.messages == []


def test_without_a_mail_server_links_are_shown_only(
    world: MediaWorld, browser_of: Callable[..., Browser], mail_server: MailServer, people: str
) -> None:
    without = Installation(replace(world.installation.settings, mail=None, console_url=None))
    assert "Send me a link" not in browser_of(None, without).send("GET", "/sign-in").text
    assert browser_of(None, without).send("POST", "/sign-in/link", {"email": email("manager")}).status_code == 303
    manager, last = browser_of(email("manager"), without), "last@media.example"
    manager.send("POST", people, {"email": last, "permissions": "MANAGE_USERS"})
    assert "Invite by e-mail" not in manager.send("GET", people).text
    assert f"{LOCAL}/console/invitation/" in manager.send("POST", f"{people}/invite", {"email": last}).text
    assert mail_server.messages == []
