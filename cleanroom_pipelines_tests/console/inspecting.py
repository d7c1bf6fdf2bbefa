"""What holds on every page of the console, judged in Chromium: accessibility, size, width, sources, keyboard.

Lives here: axe-core, following every link from a user's first page, and the faults of a page in words.
Add here when all pages must satisfy another rule.
Keep out: which pages and states are visited.
"""

import re
import subprocess
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from cleanroom_pipelines.console.app import ROUTES
from cleanroom_pipelines.console.rendering import Rendering

_PACKAGE = "axe-core@4.14.1"
_LEVELS = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"]
_MOST_BYTES, _NARROW = 100_000, 360
_PAGES_OF_A_ROUTE = 2  # such as two audiences of different kinds
_AXE = """
const done = arguments[arguments.length - 1];
axe.run(document, {runOnly: arguments[0]}).then(
  (all) => done(all.violations.map((each) => each.id + ": " + each.nodes.map((node) => node.target).join(" "))),
  (error) => done(["axe failed: " + error.name]));
"""
# Controls that the Tab key must reach: a group of radio buttons is one stop.
_CONTROLS = """
const groups = new Set();
window.stops = Array.from(document.querySelectorAll(
  "a[href], button, input, select, textarea, summary, [tabindex='0']")).filter((each) => {
    if (each.disabled || each.type === "hidden" || !each.checkVisibility({visibilityProperty: true})) return false;
    if (each.type !== "radio") return true;
    const group = (each.form ? each.form.action : "") + each.name;
    return !groups.has(group) && Boolean(groups.add(group));
  });
document.activeElement.blur();
return window.stops.length;
"""
_FOCUSED = """
const at = document.activeElement;
if (!at || at === document.body) return null;
const style = getComputedStyle(at), box = at.getBoundingClientRect();
const isSeen = (style.outlineStyle !== "none" && parseFloat(style.outlineWidth) > 0) && box.bottom > 0
  && box.top < innerHeight && box.right > 0 && box.left < innerWidth;
const same = (each) => each === at || (at.type === "radio" && each.type === "radio" && each.name === at.name);
return [window.stops.findIndex(same), isSeen, at.tagName + " " + (at.name || at.id || "")];
"""
# Figures without their meaning or their ±, questions without their price, and uploads without a sample file.
_UNEXPLAINED = """
const all = (selector) => Array.from(document.querySelectorAll(selector));
const exact = new Set(arguments[0]), said = (each) => each.textContent.trim().split("\\n")[0];
return [
  ...all(".figure").filter((each) => !each.querySelector(".help")).map((each) => said(each) + " has no help"),
  ...all(".figure").filter((each) => each.querySelector(".value") && !each.querySelector(".margin")
    && !exact.has(each.querySelector("dt").textContent)).map((each) => said(each) + " has no ±"),
  ...all("form[method=post]").filter((each) => /[/](overlap|insights|size|deliver|refresh|new[/].*)$/.test(
    each.getAttribute("action")) && !/units|nothing|free|price is/i.test(each.textContent))
    .map((each) => each.getAttribute("action") + " has no price"),
  ...all("input[type=file]").filter((each) => !each.closest("form").querySelector("a[download]"))
    .map((each) => each.name + " has no sample file"),
];
"""
# Figures about one party's own data, or about the budget.
_EXACT = (
    "privacy.left",
    "privacy.spent",
    "privacy.total",
    "privacy.share",
    "privacy.bound",
    "data.n_users",
    "data.n_matchable",
    "data.n_segments",
    "overlap.ids",
)
_BYTES = """
return performance.getEntries().filter((each) => each.encodedBodySize && !/[.](png|jpg|svg)/.test(each.name))
  .reduce((sum, each) => sum + each.encodedBodySize, 0);
"""


def install_axe(folder: Path) -> str:
    """Install axe-core by npm into a folder, and return its script."""
    install = ["npm", "install", "--ignore-scripts", "--no-audit", "--no-fund", "--no-save", _PACKAGE]
    done = subprocess.run(install, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return (folder / "node_modules" / "axe-core" / "axe.min.js").read_text("utf-8")


@dataclass
class Inspector:
    """Judges the pages that a browser shows.

    Attributes:
        browser: Chromium.
        url: The server's address.
        axe: The script of axe-core.
        pictures: A folder for screenshots of each page; None for none.
    """

    browser: Any
    url: str
    axe: str
    pictures: Path | None = None

    @cached_property
    def seen(self) -> set[str]:
        """The routes whose pages were inspected, such as `/rooms/{room_id}`."""
        return set()

    @cached_property
    def _keys(self) -> set[str]:
        return set()

    def walk(self, start: str) -> Iterator[str]:
        """Open each page that links lead to, and yield its faults."""
        waiting, opened = [start], dict[str, int]()
        while waiting:
            address = waiting.pop(0)
            route = self._route(address)
            if opened.get(route, 0) >= _PAGES_OF_A_ROUTE:
                continue
            opened[route] = opened.get(route, 0) + 1
            self.browser.get(address)
            yield from self.faults()
            links = self.browser.execute_script(
                "return Array.from(document.querySelectorAll('a[href]:not([download])')).map((each) => each.href)"
            )
            waiting += [each for each in links if each.startswith(f"{self.url}/console/") and ".csv" not in each]

    def faults(self, name: str = "") -> Iterator[str]:
        """Yield what is wrong with the page that is shown."""
        address = self.browser.current_url
        route = self._route(address)
        for fault in self._found(route, name):
            yield f"{route} {name}: {fault}"
        self.seen.add(route)

    def _found(self, route: str, name: str) -> Iterable[str]:
        browser = self.browser
        n_bytes = browser.execute_script(_BYTES)
        if n_bytes > _MOST_BYTES:
            yield f"{n_bytes} bytes"
        yield from self._messages()
        texts = Rendering().texts
        for fault in browser.execute_script(_UNEXPLAINED, [texts[key] for key in _EXACT]):
            if not (route == "/operator" and fault.endswith("±")):  # disk space and budgets are exact
                yield fault
        for theme, width in (("light", _NARROW), ("dark", 1280)):
            self._show_as(theme, width)
            wide = browser.execute_script("return document.documentElement.scrollWidth")
            if wide > width:
                yield f"{wide} px wide on a screen of {width} px"
            browser.execute_script(self.axe)
            yield from browser.execute_async_script(_AXE, _LEVELS)
            if self.pictures:
                title = re.sub(r"\W+", "-", f"{route} {name}").strip("-") or "start"
                height = browser.execute_script("return document.documentElement.scrollHeight")
                self._show_as(theme, width, min(height, 3000))
                browser.save_screenshot(str(self.pictures / f"{title}-{len(self.seen)}-{theme}.png"))
                self._show_as(theme, width)
        if (route, name) not in self._keys:
            self._keys.add((route, name))
            yield from self._unreachable()

    def _messages(self) -> Iterator[str]:
        import json

        for entry in self.browser.get_log("browser"):
            # an error's page is the answer of a request that failed
            if "Failed to load resource" not in entry["message"]:
                yield f"the console says {entry['message']}"
        for entry in self.browser.get_log("performance"):
            message = json.loads(entry["message"])["message"]
            if message["method"] == "Network.requestWillBeSent":
                to = message["params"]["request"]["url"]
                if not to.startswith((self.url, "chrome:", "devtools:", "about:", "data:,")):
                    yield f"something is loaded from {to}"

    def _show_as(self, theme: str, width: int, height: int = 900) -> None:
        features = [{"name": "prefers-color-scheme", "value": theme}]
        self.browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
        screen = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)

    def _unreachable(self) -> Iterator[str]:
        """Press Tab through the page, and yield controls that it does not reach or that do not show the focus."""
        n_stops, reached = self.browser.execute_script(_CONTROLS), set[int]()
        for _ in range(2 * n_stops + 5):
            for kind in ("keyDown", "keyUp"):
                key = {"type": kind, "key": "Tab", "code": "Tab", "windowsVirtualKeyCode": 9}
                self.browser.execute_cdp_cmd("Input.dispatchKeyEvent", key)
            found = self.browser.execute_script(_FOCUSED)
            if found is not None:
                place, is_seen, what = found
                reached.add(place)
                if not is_seen:
                    yield f"the focus on {what} is not visible"
            if len(reached - {-1}) == n_stops:
                return
        yield f"the Tab key reaches {len(reached - {-1})} of {n_stops} controls"

    def _route(self, address: str) -> str:
        path = address.removeprefix(self.url).partition("?")[0].partition("#")[0]
        names = [each.path for each in ROUTES if each.method == "GET" and each.match(path) is not None]
        return names[0] if names else path
