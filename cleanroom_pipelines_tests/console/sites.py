"""A served console, and a browser without scripts for each user.

Lives here: what the tests of all pages do: open a page, send a form, read the words of a page.
Add here when tests of several pages need the same step.
Keep out: rooms and their data (`media/worlds`), and what one page alone needs.
"""

import html
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import httpx

from cleanroom_pipelines.runs.installation import Installation
from cleanroom_pipelines.runs.sign_in import start_session

File = tuple[str, bytes]


@dataclass
class Served:
    """A served installation, and a browser of each user."""

    installation: Installation
    url: str
    browsers: dict[str, httpx.Client] = field(default_factory=dict, kw_only=True)

    def browser(self, email: str) -> httpx.Client:
        """Return the browser of a user, who is signed in."""
        if email not in self.browsers:
            self.browsers[email] = httpx.Client(
                base_url=self.url,
                cookies={"cleanroom": start_session(self.installation, email)},
                headers={"Sec-Fetch-Site": "same-origin"},
                timeout=120,
            )
        return self.browsers[email]

    def page(self, email: str, address: str, status: int = 200) -> str:
        """Return a page; its address is below `/console` unless it says so."""
        answer = self.browser(email).get(full(address))
        assert answer.status_code == status, words(answer.text)
        assert not re.search(r"<script>|<style| style=| on\w+=", answer.text), "the policy blocks inline scripts"
        return answer.text

    def submit(
        self,
        email: str,
        address: str,
        fields: Mapping[str, str | Sequence[str]],
        status: int = 303,
        *,
        files: Mapping[str, File] | None = None,
    ) -> str:
        """Send a form; return the address of the next page, or the page itself if there is none."""
        answer = self.browser(email).post(full(address), data=dict(fields), files=files)
        assert answer.status_code == status, words(answer.text)
        return str(answer.headers["location"]) if status == 303 else answer.text


def full(address: str) -> str:
    """Return an address with `/console`."""
    return address if address.startswith("/console") else f"/console{address}"


def words(page: str) -> str:
    """Return the text of a page."""
    return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", page)).split())
