"""Signing in to the console, sessions and forged requests, against the gateway in this process with its own clock.

Contract: attempts are limited per address and per user, and say nothing of who exists; a session ends after 30
idle minutes, after 12 hours, with its token, password or user, and everywhere at once; its secret is new at each
sign-in and stored as a digest; links work once, and opening one uses nothing up; forms of other sites are
rejected; no redirect leads elsewhere; each rejection is in the audit log.
"""

import asyncio
import hashlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from ipaddress import ip_network

import httpx
import pytest
from sqlalchemy import select

from cleanroom_pipelines.catalog import LinkPurpose
from cleanroom_pipelines.catalog.tables import SessionRow
from cleanroom_pipelines.console.app import Console
from cleanroom_pipelines.console.sessions import SignInLimits
from cleanroom_pipelines.errors import ConflictError
from cleanroom_pipelines.media.errors import TooManyRequestsError
from cleanroom_pipelines.runs import sign_in
from cleanroom_pipelines.runs.credentials import issue_token
from cleanroom_pipelines.runs.installation import Installation, Settings
from cleanroom_pipelines.runs.sign_in import accept_invitation, find_link, invite, issue_link, start_session
from cleanroom_pipelines.server.gateway import Gateway
from cleanroom_pipelines.server.requests import Request
from cleanroom_pipelines.server.starting import make_gateway

USER, OTHER, PASSWORD = "ana@publisher.example", "ben@advertiser.example", "a long enough sentence"
OWN = {"Sec-Fetch-Site": "same-origin"}
LOCAL, SECURE = "http://127.0.0.1:8723", "https://room.example"


class Clock:
    """A clock that tests move."""

    now = datetime(2026, 12, 1, 9, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now


@dataclass
class Browser:
    """A browser without scripts; it keeps cookies."""

    gateway: Gateway
    root: str = LOCAL
    address: str = "127.0.0.1"
    cookies: dict[str, str] = field(default_factory=dict)

    def send(
        self,
        method: str,
        path: str,
        fields: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = OWN,
    ) -> httpx.Response:
        answer = asyncio.run(self._send(method, path, fields, headers or {}))
        self.cookies |= {name: value for name, value in answer.cookies.items() if value}
        return answer

    async def _send(
        self, method: str, path: str, fields: Mapping[str, str] | None, headers: Mapping[str, str]
    ) -> httpx.Response:
        transport = httpx.ASGITransport(self.gateway, client=(self.address, 50_000))
        cookie = {"Cookie": "; ".join(f"{name}={value}" for name, value in self.cookies.items())}
        async with httpx.AsyncClient(transport=transport, base_url=self.root) as client:
            sent = {**(cookie if self.cookies else {}), **headers}
            return await client.request(method, f"/console{path}", data=fields, headers=sent)

    def sign_in(self, email: str = USER, password: str = PASSWORD, **fields: str) -> httpx.Response:
        return self.send("POST", "/sign-in", {"email": email, "password": password, **fields})

    @property
    def is_signed_in(self) -> bool:
        return self.send("GET", "/account").status_code == 200


@pytest.fixture(scope="module")
def clock() -> Clock:
    return Clock()


@pytest.fixture(scope="module")
def installation(tmp_path_factory: pytest.TempPathFactory, clock: Clock) -> Installation:
    opened = Installation(Settings(tmp_path_factory.mktemp("sign-in") / "home"), clock=clock)
    for email in (USER, OTHER):
        secret, _ = invite(opened, email)
        assert accept_invitation(opened, secret, PASSWORD)
    return opened


@pytest.fixture
def gateway(installation: Installation) -> Gateway:
    return make_gateway(installation, make_site=Console)


@pytest.fixture
def browser(gateway: Gateway) -> Browser:
    return Browser(gateway)


@pytest.fixture
def signed_in(installation: Installation, browser: Browser) -> Browser:
    browser.cookies["cleanroom"] = start_session(installation, USER)
    assert browser.is_signed_in
    return browser


@pytest.fixture
def rejection_is_audited(installation: Installation) -> Iterator[None]:
    """Check after the test that it left a rejected request in the audit log."""
    installation.audit.flush()
    n_before = len(list(installation.audit.entries()))
    yield
    installation.audit.flush()
    entries = list(installation.audit.entries())[n_before:]
    assert [each for each in entries if each["outcome"] == "refused" and each["way"] == "console"]


audited = pytest.mark.usefixtures("rejection_is_audited")


# signing in


def test_the_password_signs_in(browser: Browser) -> None:
    answer = browser.sign_in(USER.upper())
    assert (answer.status_code, answer.headers["location"]) == (303, "/console/")
    assert browser.is_signed_in
    assert "You are not in a data room yet" in browser.send("GET", "/").text


@audited
def test_failures_do_not_show_who_exists(browser: Browser) -> None:
    wrong = browser.sign_in(USER, "a wrong password")
    unknown = browser.sign_in("nobody@publisher.example", "a wrong password")
    assert (wrong.status_code, unknown.status_code) == (401, 401)
    assert wrong.text.replace(USER, "x") == unknown.text.replace("nobody@publisher.example", "x")
    assert "a wrong password" not in wrong.text
    assert f'value="{USER}"' in wrong.text, "the address is kept"
    assert not browser.cookies


@audited
def test_attempts_are_limited_per_user_from_any_address(gateway: Gateway) -> None:
    answers = [Browser(gateway, SECURE, f"192.0.2.{n}").sign_in(OTHER, "wrong").status_code for n in range(11)]
    assert answers == [401] * 10 + [429]
    assert Browser(gateway, SECURE, "198.51.100.1").sign_in(OTHER).status_code == 429, "with the right password"
    assert Browser(gateway, SECURE, "198.51.100.1").sign_in(USER).status_code == 303


@audited
def test_attempts_are_limited_per_address_for_any_user_and_way(
    installation: Installation, gateway: Gateway
) -> None:
    browser = Browser(gateway)
    answers = [browser.send("POST", "/sign-in/token", {"token": f"t{n}"}).status_code for n in range(21)]
    assert answers == [401] * 20 + [429]
    secret, _ = issue_link(installation, USER, LinkPurpose.SIGN_IN)
    assert browser.sign_in().status_code == 429
    assert browser.send("POST", f"/link/{secret}").status_code == 429
    assert browser.send("POST", f"/invitation/{secret}", {"password": "p", "again": "p"}).status_code == 429
    assert Browser(gateway, SECURE, "198.51.100.1").send("POST", f"/link/{secret}").status_code == 303


def test_limits_end_with_time_and_count_a_network_of_ipv6_as_one_sender() -> None:
    seconds = [0.0]
    limits = SignInLimits(lambda: seconds[0])
    for n in range(20):
        limits.check(_request(f"2001:db8::{n:x}"))
    with pytest.raises(TooManyRequestsError):
        limits.check(_request("2001:db8::ffff"))
    limits.check(_request("2001:db8:0:1::1"))
    seconds[0] += 7
    limits.check(_request("2001:db8::ffff"))


def _request(client: str) -> Request:
    return Request(id="r", method="POST", raw_path="/", raw_query="", headers=[], client=client)


# sessions


@pytest.mark.parametrize(
    ("root", "cookie"),
    [
        pytest.param(LOCAL, r"cleanroom=[\w-]{43}; Path=/; HttpOnly; SameSite=Lax", id="loopback"),
        pytest.param(SECURE, r"__Host-cleanroom=[\w-]{43}; Path=/; HttpOnly; SameSite=Lax; Secure", id="TLS"),
    ],
)
def test_the_cookie_is_closed_to_scripts_and_other_sites(gateway: Gateway, root: str, cookie: str) -> None:
    answer = Browser(gateway, root).sign_in()
    assert re.fullmatch(cookie, answer.headers["set-cookie"])
    assert answer.headers["cache-control"] == "no-store"


@audited
def test_nothing_is_served_to_other_machines_without_tls(gateway: Gateway) -> None:
    far = Browser(gateway, "http://room.example", "192.0.2.7")
    assert far.send("GET", "/sign-in").status_code == 403
    assert "set-cookie" not in far.sign_in().headers


def test_a_cookie_without_the_prefix_does_not_count_over_tls(installation: Installation, gateway: Gateway) -> None:
    browser = Browser(gateway, SECURE, cookies={"cleanroom": start_session(installation, USER)})
    assert not browser.is_signed_in


def test_the_secret_is_new_at_each_sign_in_and_the_one_before_ends(browser: Browser) -> None:
    browser.cookies["cleanroom"] = "A" * 43  # planted by an attacker
    browser.sign_in()
    first = browser.cookies["cleanroom"]
    assert first != "A" * 43
    browser.sign_in()
    assert browser.cookies["cleanroom"] != first
    assert browser.is_signed_in
    assert not Browser(browser.gateway, cookies={"cleanroom": first}).is_signed_in


def test_only_a_digest_of_the_secret_is_stored(installation: Installation, signed_in: Browser) -> None:
    with installation.catalog.database.read() as session:
        stored = session.scalars(select(SessionRow.digest)).all()
    assert stored
    secret = signed_in.cookies["cleanroom"]
    assert not {secret, hashlib.sha256(secret.encode()).hexdigest()} & set(stored), "the digest needs the key"


def test_a_session_ends_after_thirty_idle_minutes(signed_in: Browser, clock: Clock) -> None:
    clock.now += timedelta(minutes=29)
    assert signed_in.is_signed_in
    clock.now += timedelta(minutes=29)
    assert signed_in.is_signed_in, "the request before counts"
    clock.now += timedelta(minutes=30)
    assert not signed_in.is_signed_in


def test_a_session_ends_after_twelve_hours_in_use(signed_in: Browser, clock: Clock) -> None:
    for _ in range(35):
        clock.now += timedelta(minutes=20)
        assert signed_in.is_signed_in
    clock.now += timedelta(minutes=20)
    assert not signed_in.is_signed_in


def test_a_session_ends_with_its_token(installation: Installation, browser: Browser) -> None:
    text, token = issue_token(installation, USER)
    assert browser.send("POST", "/sign-in/token", {"token": text}).status_code == 303
    assert browser.is_signed_in
    installation.catalog.users.revoke_token(token.id)
    assert not browser.is_signed_in


def test_a_session_ends_when_its_token_expires(installation: Installation, browser: Browser, clock: Clock) -> None:
    text, _ = issue_token(installation, USER, 90)
    clock.now += timedelta(days=90, minutes=-10)
    assert browser.send("POST", "/sign-in/token", {"token": text}).status_code == 303
    clock.now += timedelta(minutes=9)
    assert browser.is_signed_in
    clock.now += timedelta(minutes=1)
    assert not browser.is_signed_in


def test_a_session_ends_with_a_new_password(installation: Installation, signed_in: Browser) -> None:
    secret, _ = invite(installation, USER)
    new = {"password": PASSWORD, "again": PASSWORD}
    assert Browser(signed_in.gateway).send("POST", f"/invitation/{secret}", new).status_code == 303
    assert not signed_in.is_signed_in


def test_a_session_ends_with_its_user(installation: Installation, signed_in: Browser) -> None:
    installation.catalog.users.set_user_disabled(USER, True)
    try:
        assert not signed_in.is_signed_in
        assert Browser(signed_in.gateway).sign_in().status_code == 401
    finally:
        installation.catalog.users.set_user_disabled(USER, False)


def test_signing_out_ends_this_session_only(installation: Installation, signed_in: Browser) -> None:
    other = Browser(signed_in.gateway, cookies={"cleanroom": start_session(installation, USER)})
    answer = signed_in.send("POST", "/sign-out")
    assert answer.headers["set-cookie"].startswith("cleanroom=; Max-Age=0")
    assert not signed_in.is_signed_in
    assert other.is_signed_in


def test_signing_out_everywhere_ends_all_sessions_of_the_user(
    installation: Installation, signed_in: Browser
) -> None:
    mine, theirs = (
        Browser(signed_in.gateway, cookies={"cleanroom": start_session(installation, each)})
        for each in (USER, OTHER)
    )
    signed_in.send("POST", "/sign-out-everywhere")
    assert (signed_in.is_signed_in, mine.is_signed_in, theirs.is_signed_in) == (False, False, True)


# links


@audited
def test_a_one_time_link_works_once_and_opening_it_uses_nothing_up(
    installation: Installation, browser: Browser
) -> None:
    secret, _ = issue_link(installation, USER, LinkPurpose.SIGN_IN)
    for method in ("GET", "HEAD", "GET"):
        assert browser.send(method, f"/link/{secret}").status_code == 200
    assert not browser.cookies
    assert browser.send("POST", f"/link/{secret}").status_code == 303
    assert browser.is_signed_in
    again = Browser(browser.gateway)
    assert [again.send(method, f"/link/{secret}").status_code for method in ("GET", "POST")] == [404, 404]


def test_a_one_time_link_ends_after_fifteen_minutes(
    installation: Installation, browser: Browser, clock: Clock
) -> None:
    secret, _ = issue_link(installation, USER, LinkPurpose.SIGN_IN)
    clock.now += timedelta(minutes=15)
    assert browser.send("POST", f"/link/{secret}").status_code == 404


@audited
def test_an_invitation_works_once_and_opening_it_uses_nothing_up(
    installation: Installation, browser: Browser, clock: Clock
) -> None:
    secret, _ = invite(installation, "new@publisher.example")
    clock.now += timedelta(days=7, seconds=-1)
    path, good = f"/invitation/{secret}", {"password": PASSWORD, "again": PASSWORD}
    assert [browser.send("GET", path).status_code for _ in range(2)] == [200, 200]
    short = browser.send("POST", path, {"password": "short", "again": "short"})
    assert (short.status_code, "Give 12 to 200 characters." in short.text) == (400, True)
    differ = browser.send("POST", path, {**good, "again": "another sentence"})
    assert (differ.status_code, "The two passwords differ." in differ.text) == (400, True)
    assert PASSWORD not in differ.text
    assert browser.send("POST", path, good).status_code == 303
    assert browser.is_signed_in
    assert Browser(browser.gateway).send("POST", path, good).status_code == 404


def test_an_invitation_ends_after_seven_days_and_with_the_next(
    installation: Installation, browser: Browser, clock: Clock
) -> None:
    first, _ = invite(installation, "late@publisher.example")
    second, _ = invite(installation, "late@publisher.example")
    assert browser.send("GET", f"/invitation/{first}").status_code == 404
    clock.now += timedelta(days=7)
    assert browser.send("GET", f"/invitation/{second}").status_code == 404


def test_a_link_is_for_one_purpose_only(installation: Installation, browser: Browser) -> None:
    link, _ = issue_link(installation, USER, LinkPurpose.SIGN_IN)
    invitation, _ = invite(installation, USER)
    assert browser.send("GET", f"/invitation/{link}").status_code == 404
    assert browser.send("POST", f"/link/{invitation}").status_code == 404


# forged requests


FORGED = {
    "another site": {"Sec-Fetch-Site": "cross-site"},
    "another host of the site": {"Sec-Fetch-Site": "same-site"},
    "typed": {"Sec-Fetch-Site": "none"},
    "without headers": {},
    "another origin": {"Origin": "https://evil.example"},
    "no origin": {"Origin": "null"},
    "another port": {"Origin": "http://127.0.0.1:8724"},
    "another scheme": {"Origin": "https://127.0.0.1:8723"},
    "longer host": {"Origin": "http://127.0.0.1:8723.evil.example"},
    "own origin from another site": {"Origin": LOCAL, "Sec-Fetch-Site": "cross-site"},
    "referer only": {"Referer": f"{LOCAL}/console/"},
}


@audited
@pytest.mark.parametrize("headers", FORGED.values(), ids=FORGED)
def test_a_forged_form_is_rejected(signed_in: Browser, headers: dict[str, str]) -> None:
    for path in ("/sign-out-everywhere", "/sign-in", "/rooms/x/people"):
        answer = signed_in.send("POST", path, {"email": USER, "password": PASSWORD}, headers)
        assert answer.status_code == 403
        assert "set-cookie" not in answer.headers
    assert signed_in.is_signed_in


@pytest.mark.parametrize("headers", [OWN, {"Origin": LOCAL}], ids=["Sec-Fetch-Site", "Origin"])
def test_an_own_form_is_accepted(signed_in: Browser, headers: dict[str, str]) -> None:
    assert signed_in.send("POST", "/sign-out", headers=headers).status_code == 303


@pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH", "OPTIONS"])
def test_other_methods_are_rejected(signed_in: Browser, method: str) -> None:
    assert signed_in.send(method, "/account").status_code == 405
    assert signed_in.send(method, "/account", headers=None).status_code == 403


# redirects and headers


ELSEWHERE = [
    "https://evil.example",
    "//evil.example",
    "///evil.example",
    "/\\evil.example",
    "\\\\evil.example",
    "javascript:alert(1)",
    "/rooms/x\r\nSet-Cookie: a=b",
    "/../../evil",
    "/sign-out",
    "@evil.example",
    "/%0d%0aLocation:evil",
    " /account",
]


@pytest.mark.parametrize("to", ELSEWHERE)
def test_no_redirect_leads_elsewhere(installation: Installation, browser: Browser, to: str) -> None:
    text, _ = issue_token(installation, USER)
    answer = browser.send("POST", "/sign-in/token", {"token": text, "next": to})
    assert answer.status_code == 303
    assert answer.headers["location"] in ("/console/", "/console/account")
    assert answer.headers["set-cookie"].startswith("cleanroom=")


def test_the_page_that_asked_for_signing_in_is_shown_afterwards(
    installation: Installation, browser: Browser
) -> None:
    asked = browser.send("GET", "/account")
    assert asked.headers["location"] == "/console/sign-in?next=%2Faccount"
    assert 'name="next" value="/account"' in browser.send("GET", "/sign-in?next=%2Faccount").text
    text, _ = issue_token(installation, USER)
    answer = browser.send("POST", "/sign-in/token", {"token": text, "next": "/account"})
    assert answer.headers["location"] == "/console/account"


@pytest.mark.parametrize(
    "path",
    [
        "/sign-in?next=%0d%0aX-Evil:1",
        "/sign-in?done=%3Cscript%3E.done",
        "/%0d%0aX-Evil:%201",
        "/rooms/%0d%0aX-Evil:1",
    ],
)
def test_nothing_of_an_address_becomes_a_header_or_markup(signed_in: Browser, path: str) -> None:
    for browser in (signed_in, Browser(signed_in.gateway)):
        answer = browser.send("GET", path)
        assert "x-evil" not in answer.headers
        assert not {"\r", "\n"} & {*answer.headers.get("location", "")}
        assert "<script>" not in answer.text


@pytest.mark.parametrize("path", ["/sign-in", "/no-such-page", "/static/console.css"])
def test_each_answer_has_the_headers_that_protect_it(browser: Browser, path: str) -> None:
    headers = browser.send("GET", path).headers
    policy = headers["content-security-policy"]
    own = ("script-src", "style-src", "img-src", "connect-src", "form-action")
    closed = ("default-src", "base-uri", "frame-ancestors")
    wanted = {f"{each} 'self'" for each in own} | {f"{each} 'none'" for each in closed}
    assert set(policy.split("; ")) == wanted
    assert (headers["x-content-type-options"], headers["referrer-policy"]) == ("nosniff", "same-origin")


def test_a_cookie_that_is_not_a_secret_is_ignored(browser: Browser) -> None:
    for planted in ("'; DROP TABLE sessions--", "A" * 10_000, "=", '"'):
        browser.cookies["cleanroom"] = planted
        assert not browser.is_signed_in


def test_an_address_over_its_limit_locks_nobody_out() -> None:
    limits = SignInLimits(lambda: 0.0)
    for _ in range(20):
        limits.check(_request("198.51.100.1"))
    for _ in range(50):
        with pytest.raises(TooManyRequestsError):
            limits.check(_request("198.51.100.1"), USER)
    limits.check(_request("203.0.113.1"), USER)


def test_disabling_and_signing_out_everywhere_end_links(installation: Installation) -> None:
    secret, _ = issue_link(installation, USER, LinkPurpose.SIGN_IN)
    installation.catalog.sign_in.end_sessions(USER)
    assert find_link(installation, secret, LinkPurpose.SIGN_IN) is None
    secret, _ = issue_link(installation, USER, LinkPurpose.SIGN_IN)
    installation.catalog.users.set_user_disabled(USER, True)
    installation.catalog.users.set_user_disabled(USER, False)
    assert find_link(installation, secret, LinkPurpose.SIGN_IN) is None


# what happens at the same time


def test_a_sign_in_that_a_new_password_overtakes_fails(
    installation: Installation, browser: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The password is replaced after it was checked, and before the session starts."""
    start, secret = sign_in.start_session, invite(installation, USER)[0]

    def overtaken(*given: object, **more: object) -> str:
        monkeypatch.undo()
        assert accept_invitation(installation, secret, PASSWORD)
        return start(*given, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(sign_in, "start_session", overtaken)
    assert browser.sign_in().status_code == 401
    assert not browser.cookies
    assert browser.sign_in().status_code == 303


def test_a_sign_in_that_disabling_overtakes_fails(installation: Installation) -> None:
    installation.catalog.users.set_user_disabled(OTHER, True)
    with pytest.raises(ConflictError):
        start_session(installation, OTHER)
    installation.catalog.users.set_user_disabled(OTHER, False)


def test_a_new_password_makes_links_invalid(installation: Installation) -> None:
    link, _ = issue_link(installation, USER, LinkPurpose.SIGN_IN)
    assert accept_invitation(installation, invite(installation, USER)[0], PASSWORD)
    assert find_link(installation, link, LinkPurpose.SIGN_IN) is None


def test_a_private_network_needs_no_tls_and_is_not_this_machine(installation: Installation) -> None:
    settings = replace(installation.settings, private_networks=(ip_network("172.17.0.0/16"),))
    gateway = make_gateway(replace(installation, settings=settings), make_site=Console)
    inside, outside = Browser(gateway, address="172.17.0.1"), Browser(gateway, address="172.18.0.1")
    assert (inside.send("GET", "/sign-in").status_code, outside.send("GET", "/sign-in").status_code) == (200, 403)
    proxied = inside.send("GET", "/sign-in", headers={"X-Forwarded-For": "192.0.2.7"})
    assert proxied.status_code == 403, "a proxy in the network may forward the requests of anyone"
    assert "declare its network as private" in proxied.text
