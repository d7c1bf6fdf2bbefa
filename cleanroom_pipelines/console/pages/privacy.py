"""The privacy budget of a room's two data providers: what it guarantees, its payments, and proposed changes.

Lives here: the page, and the forms to propose, approve and reject.
Keep out: prices and bounds (`privacy`), who may decide (`server.media`).
"""

from collections.abc import Mapping
from typing import Any

from cleanroom_pipelines.console.page import PageRequest, Route, Tab
from cleanroom_pipelines.media.errors import InvalidRequestError, NotProvisionedError
from cleanroom_pipelines.media.protocol import Method
from cleanroom_pipelines.server.requests import Reply

_PATH = "/rooms/{room_id}/privacy"
_REFILL, _SHARE = "refill", "share"
KINDS = (_REFILL, "period", _SHARE, "full_lookalike")
"""What can be proposed to the two data providers."""


def privacy(page: PageRequest) -> Reply:
    """Show the budget, its payments and the proposals."""
    return _show(page)


def propose(page: PageRequest) -> Reply:
    """Propose a change to the budget or its use, which both data providers must approve."""
    kind, units = page.form.text("kind"), page.form.number("units")
    if units is None and kind in (_REFILL, _SHARE):
        return _show(page, {"units": page.rendering.text("privacy.units_missing")})
    params: dict[str, Any] = {_REFILL: {"units": units}, _SHARE: {"units": units}}.get(kind, {})
    if kind == _SHARE:
        params["organization"] = page.form.text("organization")
    try:
        page.call(Method.PROPOSE, room_id=page.path["room_id"], kind=kind, **params)
    except InvalidRequestError as error:
        if kind == _REFILL:
            return _show(page, {"units": f"{error.message} {error.remedy}"})
        raise
    return page.redirect(_PATH, room_id=page.path["room_id"], done="privacy.proposed.done")


def approve(page: PageRequest) -> Reply:
    """Approve a proposal on behalf of the user's organisation."""
    return _decide(page, Method.APPROVE, "privacy.approved.done")


def reject(page: PageRequest) -> Reply:
    """Reject a proposal on behalf of the user's organisation."""
    return _decide(page, Method.REJECT, "privacy.rejected.done")


def _decide(page: PageRequest, method: Method, done: str) -> Reply:
    room_id = page.path["room_id"]
    page.call(method, room_id=room_id, proposal_id=page.path["proposal_id"])
    return page.redirect(_PATH, room_id=room_id, done=done)


def _show(page: PageRequest, problems: Mapping[str, str] | None = None) -> Reply:
    room = page.room()
    try:
        ledger = page.call(Method.GET_LEDGER, room_id=room["id"])
        proposals = page.call(Method.LIST_PROPOSALS, room_id=room["id"])["proposals"]
    except NotProvisionedError:
        if page.error is not None:
            raise page.error from None
        ledger, proposals = None, []
    return page.show(
        "privacy/privacy.html",
        room=room,
        ledger=ledger,
        proposals=proposals,
        kinds=[(kind, page.rendering.text(f"privacy.kind.{kind}"), "") for kind in KINDS],
        people=[(email, _label(email, each["role"])) for each in room["participants"] for email in each["emails"]],
        problems=problems or {},
    )


def _label(email: str, role: str | None) -> str:
    return f"{email} ({role})" if role else email


PAGES = (
    Route("GET", _PATH, privacy),
    Route("POST", _PATH, propose, privacy),
    Route("POST", f"{_PATH}/{{proposal_id}}/approve", approve),
    Route("POST", f"{_PATH}/{{proposal_id}}/reject", reject),
)
TAB = Tab("privacy", _PATH)
