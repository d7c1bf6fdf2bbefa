"""A passkey of Chromium's virtual authenticator, on a real `cleanroom serve`.

Contract: the page's script and a browser do what the tests with a device made in Python assume: a user accepts an
invitation by a passkey, signs in without typing, adds and removes another; at 127.0.0.1 the page says why not.
"""

from pathlib import Path
from typing import Any

import pytest

from cleanroom_pipelines.runs.sign_in import invite

from ..browsing import body, chromium, see, texts
from ..server import server as endpoint

pytestmark = pytest.mark.browser

USER = "ana@publisher.example"


def press(browser: Any, label: str) -> None:
    """Press a button, or follow a link, that is visible."""

    def find() -> Any:
        found = [*texts(browser, "button", label), *texts(browser, "a", label)]
        return next((each for each in found if each.is_displayed()), None)

    see(browser, find, 30).click()


def test_passkeys_in_chromium(tmp_path: Path) -> None:
    from selenium.webdriver.common.virtual_authenticator import Protocol, Transport, VirtualAuthenticatorOptions

    home = tmp_path / "home"
    secret, _ = invite(endpoint.installation_at(home), USER)
    with endpoint.serving(home) as server, chromium() as browser:
        options = {"protocol": Protocol.CTAP2, "transport": Transport.INTERNAL, "has_resident_key": True}
        device = VirtualAuthenticatorOptions(**options, has_user_verification=True, is_user_verified=True)
        browser.add_virtual_authenticator(device)
        root = f"{server.url.replace('127.0.0.1', 'localhost')}/console"

        browser.get(f"{root}/invitation/{secret}")
        press(browser, "Create a passkey and sign in")
        see(browser, lambda: "You are not in a data room yet" in body(browser), 30)
        press(browser, "Sign out")
        see(browser, lambda: "You are signed out." in body(browser), 30)

        press(browser, "Sign in with a passkey")
        see(browser, lambda: "You are not in a data room yet" in body(browser), 30)
        browser.get(f"{root}/account")
        see(browser, lambda: "last used" in body(browser), 30)
        press(browser, "Remove passkey")
        press(browser, "Remove passkey")
        see(browser, lambda: "your only way to sign in" in body(browser), 30)

        browser.find_element("name", "name").send_keys("Laptop")
        press(browser, "Add a passkey")
        # the device has one for this user already
        see(browser, lambda: "The passkey was not used." in body(browser), 30)
        browser.remove_virtual_authenticator()
        browser.add_virtual_authenticator(device)
        press(browser, "Add a passkey")
        see(browser, lambda: "The passkey was added." in body(browser) and "Laptop" in body(browser), 30)
        press(browser, "Remove passkey")
        press(browser, "Remove passkey")
        see(browser, lambda: "The passkey was removed" in body(browser), 30)
        assert "First passkey" not in body(browser)
        press(browser, "Sign out")
        see(browser, lambda: "You are signed out." in body(browser), 30)

        browser.set_user_verified(False)
        press(browser, "Sign in with a passkey")
        see(browser, lambda: "The passkey was not used." in body(browser), 30)
        browser.get(f"{server.url}/console/sign-in")
        assert "Passkeys do not work at this address." in body(browser)
        assert not texts(browser, "button", "Sign in with a passkey")
