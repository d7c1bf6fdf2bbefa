"""Insights of a room: traits of the matched customers, by interest, age and gender.

Lives here: asking for insights, charts and tables of their figures, and the figures as CSV and for printing.
Add here when insights are shown in another form.
Keep out: paying and the state of questions (`asking.py`).
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from cleanroom_pipelines.console.charts import Bar
from cleanroom_pipelines.console.page import PageRequest, Route, Tab
from cleanroom_pipelines.console.pages.asking import Asking, job_of, missing, own_jobs
from cleanroom_pipelines.delivery.formats import csv_cell
from cleanroom_pipelines.media.protocol import JobKind
from cleanroom_pipelines.server.requests import Reply
from cleanroom_pipelines.terms import Permission

_PATH = "/rooms/{room_id}/insights"
_ASKING = Asking(JobKind.INSIGHTS, _PATH, "figures/insights.html")
_ATTRIBUTES = ("interest", "age", "gender")
_MOST_BARS = 25
FIGURES = {
    "affinity_ratio": "affinity_error",
    "share_in_overlap": "share_in_overlap_error",
    "share_in_matchable": "share_in_matchable_error",
    "addressable_size": "addressable_error",
}
"""The figures of a row, with the name of each one's ±."""

# at the beginning, or after what a spreadsheet may take for a separator; also the full-width signs
_STARTS_A_FORMULA = re.compile(r"(?:^|[;,|\t\r\n])\s*[=+\-@＝＋－＠]|^[\t\r]")  # noqa: RUF001


def insights(page: PageRequest) -> Reply:
    """Show an answer (the one in the path or else the newest), earlier answers, and the prices of new ones."""
    return _ASKING.show(page, charts_of=_charts, pairs_of=_pairs)


def ask(page: PageRequest) -> Reply:
    """Ask for the insights on one seed audience at the price that the form shows."""
    return _ASKING.ask(page, audience_type=page.form.text("audience_type"))


def printed(page: PageRequest) -> Reply:
    """Show an answer as a page to print, with all tables open and without forms."""
    return page.show(
        "figures/print.html", room=page.room(), answer=_paid(page), charts_of=_charts, pairs_of=_pairs
    )


def csv(page: PageRequest) -> Reply:
    """Send the figures of an answer as CSV."""
    return page.attach("insights.csv", _lines(_paid(page)))


def _paid(page: PageRequest) -> dict[str, Any]:
    """Return the answer named in the path, if it is paid for.

    Raises:
        MediaError: It is not ready, not paid, or not the user's.
    """
    state = _ASKING.state(page, job_of(page, own_jobs(page, _ASKING.kind)))
    if state["failure"]:
        raise state["failure"]
    if state["answer"] is None:
        raise missing(page)
    answer: dict[str, Any] = state["answer"]
    return answer


def _lines(answer: Mapping[str, Any]) -> Iterator[str]:
    columns = [name for figure in FIGURES.items() for name in figure]
    yield ",".join(["audience_type", *_ATTRIBUTES, *columns]) + "\r\n"
    for table in answer["audiences"]:
        for row in table["rows"]:
            texts = [table["audience_type"], *(row[name] or "" for name in _ATTRIBUTES)]
            numbers = ["" if row.get(name) is None else str(row[name]) for name in columns]
            yield ",".join([*(csv_cell(_harmless(each)) for each in texts), *numbers]) + "\r\n"


def _harmless(text: str) -> str:
    """Return a text changed so that spreadsheets do not run it as a formula."""
    return f"'{text}" if _STARTS_A_FORMULA.search(text) else text


def _charts(rows: Sequence[Mapping[str, Any]]) -> list[tuple[str, list[Bar], list[Mapping[str, Any]]]]:
    """Return a chart and a table for each attribute; the chart of interests has only the most typical ones."""
    charts = []
    for name in _ATTRIBUTES:
        found = [row for row in rows if _grouping(row) == (name,)]
        if name == "interest":
            found.sort(key=lambda row: -(row["affinity_ratio"] or 0.0))
        if found:
            charts.append((name, [_bar(row[name], row) for row in found[:_MOST_BARS]], found))
    return charts


def _pairs(rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    found = [row for row in rows if len(_grouping(row)) > 1]
    return sorted(found, key=lambda row: -(row["affinity_ratio"] or 0.0))


def _grouping(row: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(name for name in _ATTRIBUTES if row[name] is not None)


def _bar(label: str, row: Mapping[str, Any]) -> Bar:
    value, error = row["affinity_ratio"], row.get("affinity_error")
    shown = "" if value is None else f"{value:.2g}" + ("" if error is None else f" ± {error:.2g}")
    return Bar(label, value, error or 0.0, shown)


PAGES = (
    Route("GET", _PATH, insights),
    Route("POST", _PATH, ask, insights),
    Route("GET", _ASKING.answer_path, insights),
    Route("POST", _ASKING.answer_path, _ASKING.pay, insights),
    Route("GET", _ASKING.answer_path + "/print", printed),
    Route("GET", _ASKING.answer_path + "/figures.csv", csv),
)
TAB = Tab("insights", _PATH, (Permission.VIEW_INSIGHTS,))
