"""Kills of the server after, and during, each kind of form.

Contract: SIGKILL right after the answer of any form loses nothing of it: the installation has changed as that of a
server which is never killed, and the next server works on it. A form whose server is killed before the answer has
either happened or not; sent again if not, it happens once. The audit log stays intact.
"""

import random
import re
import threading
from collections import Counter
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path

import httpx
import pytest

from cleanroom_pipelines.console.page import Route
from cleanroom_pipelines_tests.server.server import Room

from .attacked import PRIVATE, fill, is_last, name_of, rightful
from .killed import killable

pytestmark = pytest.mark.slow

POSTS = sorted((each for each in PRIVATE if each.method == "POST"), key=is_last)
Change = Counter[tuple[str, str]]


@dataclass
class Sent:
    """A form's answer, 0 without one, and what it changed."""

    status: int
    change: Change


def change(before: list[str], after: list[str]) -> Change:
    """Return how many rows and files were added and removed, by table or folder."""
    old, new = Counter(before), Counter(after)
    return Counter(
        {
            (sign, kind): n
            for sign, lines in (("+", new - old), ("-", old - new))
            for kind, n in Counter(map(_kind, lines.elements())).items()
        }
    )


def _kind(line: str) -> str:
    found = re.match(r'INSERT INTO "(\w+)"', line)
    return found[1] if found else "sessions" if line.startswith("[") else "file"


class Forms:
    """An installation, to which all forms are sent."""

    def __init__(self, folder: Path) -> None:
        self.home = folder / "home"
        self.target = fill(Room.open(self.home), "")

    def send(self, url: str, route: Route, process: BaseProcess | None = None, *, within: float = 0.0) -> Sent:
        """Send a form to a server; kill it after its answer, or within some seconds."""
        self.target.url = url
        self.target.browsers.clear()
        self.target.browser(rightful(route))  # which signs in
        before, status = self.target.state(), 0
        killer = threading.Timer(within, process.kill) if process and within else None
        if killer:
            killer.start()
        with suppress(httpx.TransportError) if killer else nullcontext():
            status = self.target.send(rightful(route), route).status_code
        if process:
            process.kill()
            process.join()
        return Sent(status, change(before, self.target.state()))


def test_no_answered_form_is_lost_and_none_is_half_done(tmp_path: Path) -> None:
    unharmed, answered, during = (Forms(tmp_path / name) for name in ("unharmed", "answered", "during"))
    dice = random.Random(1)
    with killable(unharmed.home) as (url, _):
        for route in POSTS:
            expected = unharmed.send(url, route)
            with killable(answered.home) as (other, process):
                assert answered.send(other, route, process) == expected, name_of(route)
            with killable(during.home) as (other, process):
                found = during.send(other, route, process, within=dice.uniform(0.001, 0.04))
            if found.change != expected.change:
                assert not found.change, f"{name_of(route)} was half done"
                with killable(during.home) as (other, _):
                    assert during.send(other, route) == expected, name_of(route)
    for forms in (answered, during):
        assert forms.target.world.installation.audit.verify().ok
