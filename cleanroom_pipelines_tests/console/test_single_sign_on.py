"""Single sign-on: the console against a real OpenID Connect provider, and against one that lies.

Contract: who has a verified address of an existing user signs in; an answer counts once, in its browser;
an id token must be from this issuer, for us, signed, current and for this request; every failure is one sentence,
sets no session, and is in the audit log; nothing of it is there unless the operator sets it up.
"""

import json
import re
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
from joserfc import jwt
from joserfc.jwk import ECKey, OctKey

from cleanroom_pipelines.console.app import Console
from cleanroom_pipelines.errors import ConfigurationError
from cleanroom_pipelines.runs.installation import Installation, Settings, SignOnProvider
from cleanroom_pipelines.server.starting import make_gateway

from .test_sign_in import LOCAL, USER, Browser

CLIENT, SECRET, BACK = "clean-room", "a secret of the client", f"{LOCAL}/console/sign-in/sso/return"
KEY, OTHER_KEY = ECKey.generate_key("P-256", {"kid": "1"}), ECKey.generate_key("P-256", {"kid": "1"})


@dataclass
class Lying:
    """A provider on loopback that puts into an id token what a test wants.

    Attributes:
        claims: Claims that differ from right ones; None leaves one out.
        metadata: Metadata that differs from the right one.
        key: What it signs with.
        algorithm: How it signs.
        status: The status of its token endpoint.
    """

    claims: dict[str, Any] = field(default_factory=dict)
    metadata: dict[str, str] = field(default_factory=dict)
    key: Any = field(default_factory=lambda: KEY)
    algorithm: str = "ES256"
    status: int = 200
    issuer: str = ""
    nonce: str = ""

    def answer(self, path: str) -> Any:
        if path.endswith("/openid-configuration"):
            names = ("authorization_endpoint", "token_endpoint", "jwks_uri")
            return {"issuer": self.issuer, **{each: f"{self.issuer}/{each}" for each in names}, **self.metadata}
        if path == "/jwks_uri":
            return {"keys": [KEY.as_dict(private=False)]}
        now = int(time.time())
        right = {"iss": self.issuer, "aud": CLIENT, "sub": "7", "iat": now, "exp": now + 60, "nonce": self.nonce}
        about = {"email": USER.upper(), "email_verified": True}
        claims = {name: each for name, each in {**right, **about, **self.claims}.items() if each is not None}
        token = jwt.encode({"alg": self.algorithm, "kid": "1"}, claims, self.key, algorithms=[self.algorithm])
        return {"access_token": "a", "token_type": "Bearer", "id_token": token}


@contextmanager
def serving(provider: Lying) -> Iterator[Lying]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status = provider.status if self.command == "POST" else 200
            body = json.dumps(provider.answer(self.path)).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.end_headers()
            self.wfile.write(body)

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.do_GET()

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        provider.issuer = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield provider
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture(scope="module")
def installation(tmp_path_factory: pytest.TempPathFactory) -> Installation:
    settings = Settings(tmp_path_factory.mktemp("sso") / "home", console_url=LOCAL, secrets={"SSO": SECRET})
    opened = Installation(settings)
    opened.catalog.users.create_user(USER)
    return opened


@pytest.fixture
def browser_at(installation: Installation) -> Callable[[str], Browser]:
    """Make a browser of a console whose provider has an address."""

    def make(issuer: str) -> Browser:
        declared = replace(installation.settings, sso=SignOnProvider(issuer, CLIENT))
        return Browser(make_gateway(Installation(declared), make_site=Console))

    return make


def begin(browser: Browser, provider: Lying) -> dict[str, str]:
    """Begin to sign in, and return the fields of the provider's answer."""
    asked = browser.send("GET", "/sign-in/sso")
    assert asked.status_code == 303, asked.text
    fields = {name: each[0] for name, each in parse_qs(urlsplit(asked.headers["location"]).query).items()}
    provider.nonce = fields["nonce"]
    assert (fields["client_id"], fields["redirect_uri"], fields["scope"]) == (CLIENT, BACK, "openid email")
    assert (fields["response_type"], fields["code_challenge_method"]) == ("code", "S256")
    return {"code": "c", "state": fields["state"]}


def finish(browser: Browser, fields: dict[str, str]) -> httpx.Response:
    return browser.send(
        "GET", f"/sign-in/sso/return?{httpx.QueryParams(fields)}", headers={"Sec-Fetch-Site": "cross-site"}
    )


def check_rejected(installation: Installation, browser: Browser, answer: httpx.Response) -> None:
    assert answer.status_code == 401
    assert "The sign-on provider did not confirm who you are." in answer.text
    assert not browser.is_signed_in
    installation.audit.flush()
    last = list(installation.audit.entries())[-1]
    assert (last["operation"], last["outcome"], last["error"]) == ("sign_in", "refused", "UnauthorizedError")


LIES: dict[str, dict[str, Any]] = {
    "another issuer": {"claims": {"iss": "https://evil.example"}},
    "another audience": {"claims": {"aud": "another"}},
    "two audiences, for the other": {"claims": {"aud": [CLIENT, "another"], "azp": "another"}},
    "expired": {"claims": {"exp": int(time.time()) - 3600}},
    "without expiry": {"claims": {"exp": None}},
    "another nonce": {"claims": {"nonce": "n"}},
    "without nonce": {"claims": {"nonce": None}},
    "another key": {"key": OTHER_KEY},
    "the secret as key": {"key": OctKey.import_key(SECRET.ljust(32)), "algorithm": "HS256"},
    "address not verified": {"claims": {"email_verified": False}},
    "address verified in words": {"claims": {"email_verified": "true"}},
    "without a word on verification": {"claims": {"email_verified": None}},
    "without address": {"claims": {"email": None}},
    "failing": {"status": 500},
}


@pytest.mark.parametrize("lie", LIES.values(), ids=LIES)
def test_a_wrong_id_token_does_not_sign_in(
    installation: Installation, browser_at: Callable[[str], Browser], lie: dict[str, Any]
) -> None:
    with serving(Lying(**lie)) as provider:
        browser = browser_at(provider.issuer)
        check_rejected(installation, browser, finish(browser, begin(browser, provider)))


def test_an_answer_counts_once_in_its_browser(
    installation: Installation, browser_at: Callable[[str], Browser]
) -> None:
    with serving(Lying()) as provider:
        browser, other = browser_at(provider.issuer), browser_at(provider.issuer)
        fields = begin(browser, provider)
        check_rejected(installation, other, finish(other, fields))
        begin(other, provider)
        check_rejected(installation, other, finish(other, fields))
        fields = begin(browser, provider)
        assert finish(browser, fields).headers["location"] == "/console/"
        assert browser.is_signed_in
        name = "cleanroom-challenge"
        again = Browser(browser.gateway, cookies={name: browser.cookies[name]})
        check_rejected(installation, again, finish(again, fields))
        for wrong in ({"state": "s"}, {"error": "access_denied"}, {"iss": "https://evil.example"}):
            fields = begin(again, provider)
            check_rejected(installation, again, finish(again, {**fields, **wrong}))
        fields = begin(again, provider)
        check_rejected(installation, again, finish(again, {"state": fields["state"]}))


def test_only_existing_users_sign_in(installation: Installation, browser_at: Callable[[str], Browser]) -> None:
    with serving(Lying(claims={"email": "new@publisher.example"})) as provider:
        browser = browser_at(provider.issuer)
        answer = finish(browser, begin(browser, provider))
        assert (answer.status_code, "No user of this clean room has your e-mail address." in answer.text) == (
            401,
            True,
        )
        assert installation.catalog.users.user("new@publisher.example") is None
        provider.claims = {}
        installation.catalog.users.set_user_disabled(USER, True)
        try:
            assert finish(browser, begin(browser, provider)).status_code == 401
        finally:
            installation.catalog.users.set_user_disabled(USER, False)
        assert finish(browser, begin(browser, provider)).status_code == 303


@pytest.mark.parametrize(
    "metadata",
    [
        pytest.param({"issuer": "https://evil.example"}, id="another issuer"),
        pytest.param({"token_endpoint": "http://login.example/token"}, id="not encrypted"),
        pytest.param({"jwks_uri": "file:///etc/passwd"}, id="a file"),
    ],
)
def test_wrong_metadata_is_one_sentence(browser_at: Callable[[str], Browser], metadata: dict[str, str]) -> None:
    with serving(Lying(metadata=metadata)) as provider:
        answer = browser_at(provider.issuer).send("GET", "/sign-in/sso")
    assert (answer.status_code, "did not confirm who you are" in answer.text) == (400, True)


def test_a_provider_that_is_not_there_is_one_sentence(browser_at: Callable[[str], Browser]) -> None:
    answer = browser_at("http://127.0.0.1:9").send("GET", "/sign-in/sso")
    assert (answer.status_code, "did not confirm who you are" in answer.text) == (400, True)


def test_without_settings_there_is_no_single_sign_on(installation: Installation) -> None:
    browser = Browser(make_gateway(installation, make_site=Console))
    assert "/sign-in/sso" not in browser.send("GET", "/sign-in").text
    assert browser.send("GET", "/sign-in/sso").status_code == 400
    assert browser.send("GET", "/sign-in/sso/return?code=c&state=s").status_code == 401


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ({"SSO_ISSUER": "https://login.example"}, "CLEANROOM_SSO_ISSUER needs CLEANROOM_CONSOLE_URL"),
        (
            {"SSO_ISSUER": "https://i", "CONSOLE_URL": "https://c"},
            "CLEANROOM_SSO_ISSUER needs CLEANROOM_SSO_CLIENT",
        ),
        (
            {"SSO_ISSUER": "http://login.example", "SSO_CLIENT": "c", "CONSOLE_URL": "https://c"},
            "CLEANROOM_SSO_ISSUER is invalid",
        ),
        ({"CONSOLE_URL": "http://room.example"}, "CLEANROOM_CONSOLE_URL is invalid"),
        ({"CONSOLE_URL": "https://room.example/console"}, "CLEANROOM_CONSOLE_URL is invalid"),
        ({"CONSOLE_URL": "https://user@room.example"}, "CLEANROOM_CONSOLE_URL is invalid"),
        ({"MAIL": "smtp://mail.example?from=a@b.example"}, "CLEANROOM_MAIL needs CLEANROOM_CONSOLE_URL"),
        ({"MAIL": "smtp://mail.example", "CONSOLE_URL": "https://c"}, "CLEANROOM_MAIL is invalid"),
        ({"MAIL": "http://m.example?from=a@b.example", "CONSOLE_URL": "https://c"}, "CLEANROOM_MAIL is invalid"),
    ],
)
def test_wrong_settings_name_the_variable(values: dict[str, str], problem: str) -> None:
    with pytest.raises(ConfigurationError, match=problem):
        Settings.from_environment({f"CLEANROOM_{name}": value for name, value in values.items()})


# a real provider


@pytest.fixture(scope="module")
def provider_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = shutil.copytree(Path(__file__).parent / "provider", tmp_path_factory.mktemp("provider") / "npm")
    command = ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return folder


@pytest.mark.sdk
@pytest.mark.skipif(shutil.which("npm") is None, reason="Node and npm are not installed")
@pytest.mark.parametrize("in_id_token", ["yes", "no"])
def test_users_of_a_real_provider_sign_in(
    provider_folder: Path, browser_at: Callable[[str], Browser], in_id_token: str
) -> None:
    command = ["node", "provider.mjs", CLIENT, SECRET, BACK, in_id_token]
    process = subprocess.Popen(command, cwd=provider_folder, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    try:
        assert process.stdout is not None
        issuer = process.stdout.readline().decode().strip()
        for name, status in ((USER, 303), (f"unverified-{USER}", 401), ("new@publisher.example", 401)):
            browser = browser_at(issuer)
            assert "Sign in with 127.0.0.1" in browser.send("GET", "/sign-in").text
            asked = browser.send("GET", "/sign-in/sso").headers["location"]
            back = sign_in_at(asked, name)
            answer = browser.send("GET", back.removeprefix(f"{LOCAL}/console"), headers={})
            assert (name, answer.status_code) == (name, status)
            assert browser.is_signed_in == (status == 303)
    finally:
        process.terminate()
        process.communicate()


def sign_in_at(address: str, name: str) -> str:
    """Fill in the provider's forms to sign in and to consent, and return the address that it leads back to."""
    with httpx.Client() as client:
        answer = client.get(address)
        while not answer.headers.get("location", "").startswith(LOCAL):
            if answer.is_redirect:
                answer = client.get(answer.next_request.url if answer.next_request else "")
                continue
            assert answer.status_code == 200, answer.text
            (action,) = set(re.findall(r'<form[^>]* action="([^"]+)" method="post"', answer.text))
            (prompt,) = set(re.findall(r'name="prompt" value="(\w+)"', answer.text))
            fields = {"prompt": prompt, "login": name, "password": "any"}
            answer = client.post(str(answer.url.join(action)), data=fields)
        return str(answer.headers["location"])
