"""Passkeys in the console, against the gateway in this process with its own clock, with a device made here.

Contract: a passkey is added on the user's account or by an invitation, signs in without an address, and can be
removed; what a device signed counts once, in the browser that asked, at this address, within five minutes, with a
verified user and a rising counter; nobody adds, uses or removes another's; each rejection is in the audit log.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

import httpx
import pytest

from cleanroom_pipelines.console.app import Console
from cleanroom_pipelines.runs.credentials import issue_token
from cleanroom_pipelines.runs.installation import Installation, Settings
from cleanroom_pipelines.runs.sign_in import accept_invitation, invite, start_session
from cleanroom_pipelines.server.gateway import Gateway
from cleanroom_pipelines.server.starting import make_gateway

from ..authenticators import PRESENT, Device
from .test_sign_in import OTHER, PASSWORD, USER, Browser, Clock

NAMED = "http://localhost:8723"
HOST = "localhost"


@dataclass
class Reader(Browser):
    """A browser with a device."""

    root: str = NAMED

    def options(self, path: str) -> dict[str, Any]:
        answer = self.send("POST", f"{path}/options")
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found

    def add(self, device: Device, name: str = "Ana's phone") -> httpx.Response:
        made = device.make(self.options("/account/passkeys"))
        return self.send("POST", "/account/passkeys", {"name": name, "credential": made})

    def sign_in_by(self, device: Device) -> httpx.Response:
        return self.answer(device.sign(self.options("/sign-in/passkey")))

    def answer(self, credential: str) -> httpx.Response:
        return self.send("POST", "/sign-in/passkey", {"credential": credential})


@pytest.fixture(scope="module")
def clock() -> Clock:
    return Clock()


@pytest.fixture(scope="module")
def installation(tmp_path_factory: pytest.TempPathFactory, clock: Clock) -> Installation:
    opened = Installation(Settings(tmp_path_factory.mktemp("passkeys") / "home"), clock=clock)
    for email in (USER, OTHER):
        secret, _ = invite(opened, email)
        assert accept_invitation(opened, secret, PASSWORD) is not None
    return opened


@pytest.fixture
def gateway(installation: Installation) -> Gateway:
    return make_gateway(installation, make_site=Console)


@pytest.fixture
def new(gateway: Gateway) -> Callable[[], Reader]:
    """Make another browser."""
    return lambda: Reader(gateway)


@pytest.fixture
def ana(installation: Installation, new: Callable[[], Reader]) -> Reader:
    """A browser in which a user without passkeys is signed in."""
    for each in installation.catalog.sign_in.passkeys(USER):
        installation.catalog.sign_in.remove_passkey(USER, each.id)
    browser = new()
    browser.cookies["cleanroom"] = start_session(installation, USER)
    return browser


@pytest.fixture
def phone(ana: Reader) -> Device:
    """A device with a passkey of that user."""
    device = Device(NAMED)
    assert ana.add(device).status_code == 303
    return device


def rejections(installation: Installation) -> list[str]:
    installation.audit.flush()
    return [each["operation"] for each in installation.audit.entries() if each["outcome"] == "refused"]


def test_a_passkey_is_added_signs_in_and_is_removed(
    installation: Installation, ana: Reader, new: Callable[[], Reader]
) -> None:
    phone, second = Device(NAMED), new()
    assert ana.add(phone, "Ana's <phone>").headers["location"].startswith("/console/account?done=")
    assert "Ana&#39;s &lt;phone&gt;" in ana.send("GET", "/account").text
    for _ in range(2):
        answer = second.sign_in_by(phone)
        assert (answer.status_code, answer.headers["location"]) == (303, "/console/")
        assert second.is_signed_in
    (stored,) = installation.catalog.sign_in.passkeys(USER)
    assert (stored.sign_count, stored.used_at) == (2, installation.clock())
    address = f"/account/passkeys/{stored.id}/remove"
    assert "Nobody can sign in with it afterwards" in ana.send("GET", address).text
    assert len(installation.catalog.sign_in.passkeys(USER)) == 1, "asking removes nothing"
    assert ana.send("POST", address).status_code == 303
    assert (ana.is_signed_in, second.is_signed_in) == (True, False)
    assert new().sign_in_by(phone).status_code == 401


def test_the_options_demand_a_verified_user_and_no_attestation(ana: Reader, phone: Device) -> None:
    made, asked = ana.options("/account/passkeys"), ana.options("/sign-in/passkey")
    assert made["rp"]["id"] == asked["rpId"] == HOST
    assert made["attestation"] == "none"
    wanted = {"residentKey": "required", "requireResidentKey": True, "userVerification": "required"}
    assert made["authenticatorSelection"] == wanted
    assert asked["userVerification"] == "required"
    assert [each["id"] for each in made["excludeCredentials"]] == [json.loads(phone.sign(asked))["id"]]
    assert USER not in json.dumps({**made, "user": made["user"]["id"]})
    assert asked["allowCredentials"] == []


@pytest.mark.parametrize(
    "change",
    [
        pytest.param({"origin": "https://localhost:8723"}, id="another scheme"),
        pytest.param({"origin": "http://localhost:8724"}, id="another port"),
        pytest.param({"origin": "http://evil.localhost:8723"}, id="another host"),
        pytest.param({"flags": PRESENT}, id="user not verified"),
        pytest.param({"flags": 0}, id="user not present"),
        pytest.param({"count": -1}, id="counter not rising"),
        pytest.param({"handle": "AAAA"}, id="another user"),
        pytest.param({"id": b"unknown"}, id="unknown passkey"),
        pytest.param({"key": Device(NAMED).key}, id="another key"),
    ],
)
def test_a_wrong_signature_does_not_sign_in(
    installation: Installation, phone: Device, new: Callable[[], Reader], change: dict[str, Any]
) -> None:
    browser, n_before = new(), len(rejections(installation))
    assert browser.sign_in_by(phone).status_code == 303
    count = phone.count + change.get("count", 0)
    wrong = replace(phone, **{**change, "count": count})
    browser = new()
    answer = browser.sign_in_by(wrong)
    assert (answer.status_code, "The passkey was not accepted." in answer.text) == (401, True)
    assert not browser.is_signed_in
    assert rejections(installation)[n_before:] == ["sign_in"]


def test_an_answer_counts_once_in_its_browser_and_soon(
    phone: Device, new: Callable[[], Reader], clock: Clock
) -> None:
    browser, other = new(), new()
    answer = phone.sign(browser.options("/sign-in/passkey"))
    assert other.answer(answer).status_code == 401, "a browser without challenge"
    other.options("/sign-in/passkey")
    assert other.answer(answer).status_code == 401, "a browser with another challenge"
    assert browser.answer(answer).status_code == 303
    assert browser.answer(answer).status_code == 401, "again"
    late = phone.sign(browser.options("/sign-in/passkey"))
    clock.now += timedelta(minutes=5)
    assert browser.answer(late).status_code == 401
    elsewhere = phone.sign(browser.options("/sign-in/passkey"), host="evil.localhost")
    assert browser.answer(elsewhere).status_code == 401
    failed = browser.options("/sign-in/passkey")
    assert browser.answer("{}").status_code == 401
    assert browser.answer(phone.sign(failed)).status_code == 401, "a failure uses up the challenge too"


@pytest.mark.parametrize(
    "credential",
    ["", "{", "null", "[]", "7", '{"id": 1}', "{" * 5_000, "x" * 30_000, '{"id":"","rawId":"","response":[]}'],
)
def test_malformed_answers_are_rejected(new: Callable[[], Reader], ana: Reader, credential: str) -> None:
    browser = new()
    browser.options("/sign-in/passkey")
    assert browser.answer(credential).status_code == 401
    ana.options("/account/passkeys")
    fields = {"name": "phone", "credential": credential}
    assert ana.send("POST", "/account/passkeys", fields).status_code == 400


@pytest.mark.parametrize("change", [{"origin": "https://evil.example"}, {"flags": PRESENT}, {"flags": 0}])
def test_a_wrong_registration_stores_nothing(
    installation: Installation, ana: Reader, change: dict[str, Any]
) -> None:
    n_before = len(rejections(installation))
    answer = ana.add(replace(Device(NAMED), **change))
    assert (answer.status_code, "The passkey was not accepted." in answer.text) == (400, True)
    assert installation.catalog.sign_in.passkeys(USER) == ()
    assert rejections(installation)[n_before:] == ["add_passkey"]


def test_a_registration_counts_once_for_its_user(
    installation: Installation, ana: Reader, phone: Device, new: Callable[[], Reader]
) -> None:
    ben = new()
    ben.cookies["cleanroom"] = start_session(installation, OTHER)
    made = Device(NAMED).make(ana.options("/account/passkeys"))
    ben.cookies["cleanroom-challenge"] = ana.cookies["cleanroom-challenge"]
    fields = {"name": "theirs", "credential": made}
    assert ben.send("POST", "/account/passkeys", fields).status_code == 400, "the challenge of another user"
    assert ana.send("POST", "/account/passkeys", fields).status_code == 303
    assert ana.send("POST", "/account/passkeys", fields).status_code == 400, "again"
    assert ben.add(phone).status_code == 409, "a passkey of another user"
    (mine, _) = installation.catalog.sign_in.passkeys(USER)
    for method in ("GET", "POST"):
        assert ben.send(method, f"/account/passkeys/{mine.id}/remove").status_code == 404
    assert ben.add(Device(NAMED), "").status_code == 400, "without name"
    assert installation.catalog.sign_in.passkeys(OTHER) == ()
    assert len(installation.catalog.sign_in.passkeys(USER)) == 2


def test_a_token_cannot_make_a_passkey_that_outlives_it(
    installation: Installation, new: Callable[[], Reader]
) -> None:
    browser, (text, _) = new(), issue_token(installation, USER)
    browser.send("POST", "/sign-in/token", {"token": text})
    assert "You signed in with a token." in browser.send("GET", "/account").text
    assert browser.send("POST", "/account/passkeys/options").status_code == 403
    assert browser.send("POST", "/account/passkeys", {"name": "n", "credential": "{}"}).status_code == 403
    assert rejections(installation)[-2:] == ["add_passkey"] * 2


def test_an_invitation_sets_a_passkey_once_in_place_of_everything_earlier(
    installation: Installation, ana: Reader, phone: Device, new: Callable[[], Reader]
) -> None:
    secret, _ = invite(installation, USER)
    path, browser, laptop = f"/invitation/{secret}/passkey", new(), Device(NAMED)
    wrong = replace(laptop, origin="https://evil.example").make(browser.options(path))
    assert browser.send("POST", path, {"credential": wrong}).status_code == 400
    made = laptop.make(browser.options(path))
    assert browser.send("POST", path, {"credential": made}).status_code == 303
    assert browser.is_signed_in
    assert new().send("POST", f"{path}/options").status_code == 404, "used up"
    assert not ana.is_signed_in
    assert new().sign_in_by(phone).status_code == 401
    assert new().sign_in().status_code == 401, "the password"
    assert new().sign_in_by(laptop).status_code == 303
    assert installation.catalog.sign_in.can_sign_in(USER)
    secret, _ = invite(installation, USER)
    fields = {"password": PASSWORD, "again": PASSWORD}
    assert new().send("POST", f"/invitation/{secret}", fields).status_code == 303
    assert new().sign_in_by(laptop).status_code == 401
    assert new().sign_in().status_code == 303


def test_the_only_way_to_sign_in_is_not_removed(installation: Installation, new: Callable[[], Reader]) -> None:
    email, browser = "eve@publisher.example", new()
    secret, _ = invite(installation, email)
    path = f"/invitation/{secret}/passkey"
    browser.send("POST", path, {"credential": Device(NAMED).make(browser.options(path))})
    (only,) = installation.catalog.sign_in.passkeys(email)
    answer = browser.send("POST", f"/account/passkeys/{only.id}/remove")
    assert (answer.status_code, "your only way to sign in" in answer.text) == (409, True)
    assert installation.catalog.sign_in.passkeys(email) == (only,)
    assert browser.is_signed_in


def test_a_disabled_user_does_not_sign_in(
    installation: Installation, phone: Device, new: Callable[[], Reader]
) -> None:
    installation.catalog.users.set_user_disabled(USER, True)
    try:
        assert new().sign_in_by(phone).status_code == 401
    finally:
        installation.catalog.users.set_user_disabled(USER, False)


@pytest.mark.parametrize("root", ["http://127.0.0.1:8723", "http://[::1]:8723", "https://192.0.2.1"])
def test_addresses_without_name_say_that_passkeys_do_not_work(gateway: Gateway, root: str) -> None:
    browser = Reader(gateway, root)
    assert "Passkeys do not work at this address." in browser.send("GET", "/sign-in").text
    answer = browser.send("POST", "/sign-in/passkey/options")
    assert (answer.status_code, "Passkeys do not work at this address." in answer.text) == (400, True)


def test_over_tls_the_challenge_has_a_prefixed_cookie(gateway: Gateway) -> None:
    answer = Reader(gateway, "https://room.example").send("POST", "/sign-in/passkey/options")
    cookie = answer.headers["set-cookie"]
    assert cookie.startswith("__Host-cleanroom-challenge=")
    assert cookie.endswith("; Max-Age=300; Path=/; HttpOnly; SameSite=Lax; Secure")
    assert answer.json()["rpId"] == "room.example"


def test_options_are_limited_and_only_for_own_forms(gateway: Gateway) -> None:
    browser = Reader(gateway)
    path = "/sign-in/passkey/options"
    assert browser.send("POST", path, headers={"Sec-Fetch-Site": "cross-site"}).status_code == 403
    answers = [browser.send("POST", path).status_code for _ in range(21)]
    assert answers == [200] * 20 + [429]
