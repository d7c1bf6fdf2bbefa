"""Chromium without a window, for tests that look at pages.

Lives here: starting it, and finding texts on a page.
Keep out: what a page must show.
"""

import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

_ARGUMENTS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--window-size=1600,1200",
)


@contextmanager
def chromium(*, scripts: bool = True, arguments: Sequence[str] = ()) -> Iterator[Any]:
    """Start Chromium, and end it.

    Args:
        scripts: Whether pages may run scripts.
        arguments: More arguments of its command line.
    """
    from selenium import webdriver
    from selenium.webdriver.chrome.options import Options
    from selenium.webdriver.chrome.service import Service

    binary, driver = shutil.which("chromium"), shutil.which("chromedriver")
    assert binary, "this test needs Chromium"
    assert driver, "this test needs chromedriver"
    options = Options()
    options.binary_location = binary
    for argument in (*_ARGUMENTS, *arguments):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    if not scripts:
        options.add_experimental_option("prefs", {"profile.managed_default_content_settings.javascript": 2})
    opened = webdriver.Chrome(options=options, service=Service(driver))
    try:
        yield opened
    finally:
        opened.quit()


def see(browser: Any, what: Callable[[], Any], seconds: float = 180) -> Any:
    """Wait until an element is on the page and return it; the error shows what is there instead."""
    from selenium.common.exceptions import TimeoutException, WebDriverException
    from selenium.webdriver.support.ui import WebDriverWait

    # elements of a page that is being replaced are stale, or "do not belong to the document"
    wait = WebDriverWait(browser, seconds, ignored_exceptions=[WebDriverException])
    try:
        return wait.until(lambda _: what())
    except TimeoutException:
        raise AssertionError(f"not on the page {browser.current_url}: {body(browser)}") from None


def texts(browser: Any, tag: str, start: str) -> list[Any]:
    """Return the elements with a tag whose text starts with the given text."""
    return [element for element in browser.find_elements("tag name", tag) if element.text.startswith(start)]


def body(browser: Any) -> str:
    """Return the text of the page."""
    return str(browser.find_element("tag name", "body").text)


def lines_of(browser: Any) -> str:
    """Return the text of the page with its lines joined, so that a sentence is found wherever it breaks."""
    return " ".join(body(browser).split())
