"""A person who uses the console in Chromium, clicks what is visible by its words, and counts clicks and fields.

Lives here: the visitor, and the served installation that journeys through pages visit.
Keep out: what pages must show.
"""

import runpy
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from cleanroom_pipelines.runs.installation import Installation
from cleanroom_pipelines.runs.sign_in import invite
from cleanroom_pipelines_tests.browsing import lines_of, see

from ..architecture.tree import ROOT

PARTIES: Mapping[str, str] = {
    "publisher": "data@publisher.example",
    "advertiser": "crm@advertiser.example",
    "agency": "plans@agency.example",
}
_ACTIVE = "a, button, summary, input[type=submit]"


def write_demo_files(folder: Path) -> None:
    """Write both parties' files of the demo's data, as `data/example/data_room.py` does."""
    runpy.run_path(str(ROOT / "data" / "example" / "data_room.py"))["write_files"](folder)


def invitation_of(installation: Installation, url: str, party: str) -> str:
    """Invite a party, and return the address that it receives."""
    return f"{url}/console/invitation/{invite(installation, PARTIES[party])[0]}"


@dataclass
class Visitor:
    """A person with a browser.

    Attributes:
        browser: Chromium.
        steps: Each click and each filled field, in words.
    """

    browser: Any
    steps: list[str] = field(default_factory=list)

    def click(self, words: str, *, seconds: float = 90) -> None:
        """Click the first visible link, button or choice whose text starts with the words."""
        self.steps.append(f"click {words}")
        see(self.browser, lambda: self._click(words), seconds)

    def fill(self, label: str, text: str) -> None:
        """Fill the visible field with a label."""
        self.steps.append(f"fill {label}")
        see(self.browser, lambda: self._field(label), 60).send_keys(text)

    def choose(self, label: str, file: Path) -> None:
        """Choose a file for the visible field with a label, which is not counted."""
        see(self.browser, lambda: self._field(label), 60).send_keys(str(file))

    def see(self, words: str, *, seconds: float = 240) -> None:
        """Wait until the page shows words, without doing anything."""
        see(self.browser, lambda: words in lines_of(self.browser), seconds)

    def copy(self, label: str) -> str:
        """Return the text in the field with a label, which is not counted."""
        return str(see(self.browser, lambda: self._field(label), 60).get_attribute("value"))

    def ask(self, button: str, answer: str) -> None:
        """Ask a question, and pay for its answer if it was not there, and paid, at once."""
        self.click(button)
        pay = "Pay and show the answer"
        see(self.browser, lambda: {pay, answer} & {each.text for each in self._visible(f"{_ACTIVE}, dt")}, 240)
        if answer not in lines_of(self.browser):
            self.click(pay)
            self.see(answer)

    def download(self) -> str:
        """Click the first file of a page once it is there, and return what its address gives to this person."""
        name, address = see(self.browser, self._file, 240)
        self.click(name)
        cookies = {each["name"]: each["value"] for each in self.browser.get_cookies()}
        return httpx.get(address, cookies=cookies).raise_for_status().text

    def _file(self) -> tuple[str, str] | None:
        return next(((each.text, each.get_attribute("href")) for each in self._visible("main a[download]")), None)

    def _visible(self, selector: str) -> list[Any]:
        return [each for each in self.browser.find_elements("css selector", selector) if each.is_displayed()]

    def _click(self, words: str) -> bool:
        found = [
            each
            for each in self._visible(f"{_ACTIVE}, .choice label")
            if each.is_enabled() and each.text.startswith(words)
        ]
        if not found:
            return False
        found[0].click()
        return True

    def _field(self, label: str) -> Any:
        for each in self._visible("label"):
            if each.text.startswith(label):
                return self.browser.find_element("id", each.get_attribute("for"))
        return None
