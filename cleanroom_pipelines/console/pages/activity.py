"""The audit log of a room, as far as the user may see it: actions of participants, newest first.

Lives here: the page, its filters, and the log as CSV.
Keep out: which entries and which of their fields a user may see (`server.media`).
"""

import csv
import io
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from cleanroom_pipelines.console.page import PageRequest, Route, Tab
from cleanroom_pipelines.console.rendering import url
from cleanroom_pipelines.media.protocol import Method
from cleanroom_pipelines.server.requests import Reply

_PATH = "/rooms/{room_id}/activity"
_STRETCH = 200  # entries that a page reads; it shows those that the filters leave
_VIEWS = frozenset(method.value for method in Method if method.only_reads)
_COLUMNS = ("at", "action", "participant", "outcome", "audience", "user")


def activity(page: PageRequest) -> Reply:
    """Show a section of the log; calls that only viewed data are left out unless the user asks for them."""
    room, before = page.room(), page.query.get("before", "0")
    if not (before.isascii() and before.isdigit() and len(before) < 16):
        before = "0"
    found = page.call(Method.GET_AUDIT_LOG, room_id=room["id"], limit=_STRETCH, before=int(before))
    return page.show(
        "activity/activity.html",
        room=room,
        entries=[_shown(page, each, found["visible"]) for each in _chosen(page, room, found["entries"])],
        my_code=page.service.installation.audit_name(page.email),
        names={each["id"]: each["role"] for each in room["participants"] if each["role"]},
        filters=_filters(page),
        older=found["older"],
        is_newest=before == "0",
    )


def as_csv(page: PageRequest) -> Reply:
    """Send the log as CSV, with the same filters."""
    text = io.StringIO()
    rows = csv.DictWriter(text, _COLUMNS, extrasaction="ignore")
    rows.writeheader()
    room = page.room()
    found = page.call(Method.GET_AUDIT_LOG, room_id=room["id"])["entries"]
    for each in _chosen(page, room, reversed(found)):
        audience = each["audience"]
        rows.writerow(each | {"audience": " ".join(audience) if isinstance(audience, list) else audience})
    return page.attach("activity.csv", [text.getvalue()])


def _filters(page: PageRequest) -> dict[str, str]:
    return {name: "1" for name in ("mine", "views") if page.query.get(name) == "1"}


def _chosen(
    page: PageRequest, room: Mapping[str, Any], entries: Iterable[dict[str, Any]]
) -> Iterator[dict[str, Any]]:
    filters, mine = _filters(page), room["mine"]["id"]
    for each in entries:
        if ("mine" not in filters or each["participant"] == mine) and ("views" in filters or not _is_view(each)):
            yield each


def _is_view(entry: dict[str, Any]) -> bool:
    """Whether an entry is only a view: a call that changed nothing, was not rejected and cost nothing."""
    return entry["outcome"] == "ok" and entry["action"] in _VIEWS


def _shown(page: PageRequest, entry: dict[str, Any], visible: list[str]) -> dict[str, Any]:
    action, _, about = str(entry["action"]).partition(".")
    audiences = entry["audience"] if isinstance(entry["audience"], list) else [entry["audience"]]
    return {
        **entry,
        "texts": [
            _text(page, "activity.action", action),
            *([_text(page, "activity.about", about)] if about else []),
        ],
        "audiences": [(each, _address(page, each) if each in visible else None) for each in audiences if each],
    }


def _address(page: PageRequest, audience: str) -> str:
    return url("/rooms/{room_id}/audiences/{audience_id}", room_id=page.path["room_id"], audience_id=audience)


def _text(page: PageRequest, group: str, name: str) -> str:
    key = f"{group}.{name}"
    return page.rendering.text(key) if key in page.rendering.texts else name.replace("_", " ")


PAGES = (Route("GET", _PATH, activity), Route("GET", f"{_PATH}/activity.csv", as_csv))
TAB = Tab("activity", _PATH)
