"""Rendering pages: templates, texts and the headers that protect them.

Lives here: the Jinja environment, its filters, the catalogue of texts, static files and headers.
Add here when all templates need another function.
Keep out: what a page shows (`pages`).
"""

import gzip
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from cleanroom_pipelines.console.charts import bar_chart
from cleanroom_pipelines.console.repeats import mark_forms
from cleanroom_pipelines.server.requests import Reply

PREFIX = "/console"
_FOLDER = Path(__file__).parent
_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
    ".csv": "text/csv; charset=utf-8",
    ".LICENSE": "text/plain; charset=utf-8",
}
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    # not `no-referrer`, with which browsers send `Origin: null` with forms: `check_origin` would reject them where
    # a browser sends no Sec-Fetch-Site; other sites get no referrer either way
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}
PRIVATE = {**_HEADERS, "Cache-Control": "no-store"}
"""Headers of pages and downloads."""


@dataclass(frozen=True)
class Rendering:
    """Renders templates with the texts of one language.

    Args:
        language: Name of the file of texts.
    """

    language: str = "en"

    @cached_property
    def texts(self) -> Mapping[str, str]:
        """The texts of all pages, by key."""
        texts: dict[str, str] = json.loads((_FOLDER / "texts" / f"{self.language}.json").read_text("utf-8"))
        return texts

    def text(self, key: str, **values: Any) -> Markup:
        """Return a text with escaped values in the place of `{name}`.

        Raises:
            KeyError: The text does not exist.
        """
        return escape(self.texts[key]).format(**values)

    def plain(self, key: str, **values: Any) -> str:
        """Return a text for an e-mail, with its values not escaped for HTML."""
        return self.texts[key].format(**values)

    @cached_property
    def static(self) -> Mapping[str, Reply]:
        """The replies that serve static files, by file name."""
        headers = {**_HEADERS, "Cache-Control": "public, max-age=31536000, immutable"}
        return {
            path.name: Reply(200, {**headers, "Content-Type": _TYPES[path.suffix]}, path.read_bytes())
            for path in sorted((_FOLDER / "static").iterdir())
        }

    @cached_property
    def compressed(self) -> Mapping[str, Reply]:
        """The static files with gzip. Pages stay uncompressed: their length could reveal secrets in them."""
        more = {"Content-Encoding": "gzip", "Vary": "Accept-Encoding"}
        return {
            name: Reply(200, {**reply.headers, **more}, gzip.compress(reply.body, mtime=0))
            for name, reply in self.static.items()
        }

    def render(
        self, template: str, values: Mapping[str, Any], *, status: int, headers: Mapping[str, str]
    ) -> Reply:
        """Render a template as a page that is not cached."""
        body = self._environment.get_template(template).render(values)
        if values.get("me"):
            body = mark_forms(body)
        return Reply(status, {**PRIVATE, "Content-Type": "text/html; charset=utf-8", **headers}, body.encode())

    @cached_property
    def _environment(self) -> Environment:
        environment = Environment(
            loader=FileSystemLoader(_FOLDER / "templates"),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
            auto_reload=False,
        )
        environment.globals |= {"t": self.text, "url": url, "static": self._static_url, "bar_chart": bar_chart}
        environment.globals["language"] = self.language
        environment.filters |= {"moment": moment, "count": count, "percent": percent, "units": units}
        environment.tests["text_key"] = self.texts.__contains__
        for name, template in (("c", "components.html"), ("charts", "charts.html")):
            environment.globals[name] = environment.get_template(template).module
        return environment

    def _static_url(self, name: str) -> str:
        version = hashlib.sha256(self.static[name].body).hexdigest()[:12]
        return f"{PREFIX}/static/{name}?v={version}"


def url(path: str, query: Mapping[str, str] | None = None, **parts: str) -> str:
    """Return the URL of a page, without scheme and host.

    Args:
        path: The path of a route, below /console.
        query: The query.
        **parts: Values for the path's parameters.
    """
    filled = path.format(**{name: quote(part, safe="") for name, part in parts.items()})
    return f"{PREFIX}{filled}{'?' + urlencode(query) if query else ''}"


def moment(value: str | datetime) -> Markup:
    """Return an ISO 8601 time as `<time>`; the script shows it in the reader's time zone instead of UTC."""
    at = datetime.fromisoformat(value) if isinstance(value, str) else value
    machine, shown = at.isoformat(timespec="seconds"), at.strftime("%Y-%m-%d %H:%M UTC")
    return Markup('<time datetime="{}">{}</time>').format(machine, shown)


def count(value: float) -> str:
    """Return a number with thousands separators."""
    return f"{value:,}"


def percent(value: float, digits: int = 1) -> str:
    """Return a share as a percentage."""
    return f"{100 * value:.{digits}f} %"


def units(value: float) -> str:
    """Return an amount of the privacy budget, with one decimal place if needed."""
    return f"{value:,.1f}".removesuffix(".0")
