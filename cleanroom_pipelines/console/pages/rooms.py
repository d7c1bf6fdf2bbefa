"""Data rooms: the list with each room's next step, and the page of one room.

Lives here: the next step of a user, the checklist of both sides, and what a room's outputs reveal.
Keep out: the pages of a room's menu (the neighbouring modules).
"""

from collections.abc import Callable, Collection, Mapping
from typing import Any

from cleanroom_pipelines.console.page import PageRequest, Route, Tab
from cleanroom_pipelines.console.rendering import url
from cleanroom_pipelines.media.protocol import JobKind, JobStatus, Method
from cleanroom_pipelines.server.operating import Operating
from cleanroom_pipelines.server.requests import Reply
from cleanroom_pipelines.terms import CollaborationType, Permission

# The steps that need both sides' data, in the usual order.
_LATER = (
    (Permission.VIEW_OVERLAP, "overlap"),
    (Permission.CREATE_CUSTOM_AUDIENCE, "audiences"),
    (Permission.EXPORT_AUDIENCE, "lists"),
    (Permission.VIEW_INSIGHTS, "insights"),
)
# The steps that are done once the user has an answer about the current data.
_ASKED = {"overlap": JobKind.OVERLAP_STATISTICS, "insights": JobKind.INSIGHTS}
# What participants of a room can learn about individuals, by the collaboration type that allows it.
_REVEALING = (CollaborationType.REMARKETING, CollaborationType.EXCLUSION)


def rooms(page: PageRequest) -> Reply:
    """List the user's data rooms."""
    found = page.call(Method.LIST_ROOMS)["rooms"]
    if not found and "operator" in page.areas:
        return page.redirect("/operator")
    return page.show("rooms/rooms.html", rooms=[{**each, **_step(page, each)} for each in found])


def room(page: PageRequest) -> Reply:
    """Show a room: the state of both sides, its participants, and what its outputs reveal."""
    found = page.room()
    provided = page.call(Method.GET_PROVISIONING, room_id=found["id"])
    state = {"id": found["id"], "permissions": found["mine"]["permissions"], **provided}
    return page.show(
        "rooms/room.html",
        room=found,
        provided=provided,
        next=_step(page, state),
        joining=None if all(provided.values()) else _joining(page, found),
        types=CollaborationType,
        reveals=[(each, each.value in found["collaboration_types"]) for each in _REVEALING],
        providers={
            "base": _provider(found, Permission.PROVIDE_BASE_AUDIENCE),
            "seeds": _provider(found, Permission.PROVIDE_SEED_AUDIENCE),
        },
    )


def _joining(page: PageRequest, room: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return, for the room's owner only, how people without an account can join; name them only to operators.

    Who has an account is not shown to others, not even to participants of the same room.
    """
    if room["owner_email"] != page.email:
        return None
    if "operator" not in page.areas:
        return {"waiting": None, "manages": page.may(Permission.MANAGE_USERS)}
    known = {each["user"].email: each for each in Operating(page.service, page.request, page.email).call("users")}
    others = (email for each in room["participants"] for email in each["emails"] if email != page.email)
    waiting = [
        (email, known[email]["invited_until"] if email in known else None)
        for email in others
        if email not in known or not known[email]["can_sign_in"]
    ]
    return {"waiting": sorted(waiting, key=lambda each: each[1] is not None)}


def next_step(
    permissions: Collection[str], *, base: bool, seeds: bool, is_done: Callable[[str], bool] = lambda step: False
) -> tuple[str, str | None]:
    """Return the key of a user's next step in a room, and the path of its page if it is the user's turn.

    Args:
        permissions: The user's permissions.
        base: Whether the base audience is provisioned.
        seeds: Whether the seed audiences are.
        is_done: Whether the user need not take a step that both sides' data allow.
    """
    may = set(permissions)
    if not base and Permission.PROVIDE_BASE_AUDIENCE.value in may:
        return "provide_base", "/rooms/{room_id}/data"
    if not seeds and Permission.PROVIDE_SEED_AUDIENCE.value in may:
        return "provide_seeds", "/rooms/{room_id}/data"
    if not base or not seeds:
        return ("wait_seeds" if base else "wait_base"), None
    step = next((step for permission, step in _LATER if permission.value in may and not is_done(step)), None)
    return (step, f"/rooms/{{room_id}}/{step}") if step else ("look", None)


def _step(page: PageRequest, state: Mapping[str, Any]) -> dict[str, Any]:
    key, path = next_step(
        state["permissions"],
        base=state["base"],
        seeds=state["seeds"],
        is_done=lambda step: step in _ASKED and _is_answered(page, state["id"], _ASKED[step]),
    )
    is_there = path is not None and page.is_page(path.format(room_id=state["id"]))
    return {"step": key, "address": url(path, room_id=state["id"]) if path and is_there else None}


def _is_answered(page: PageRequest, room_id: str, kind: JobKind) -> bool:
    jobs = page.call(Method.LIST_JOBS, room_id=room_id, kinds=[kind.value])["jobs"]
    answers = (each for each in jobs if each["status"] == JobStatus.SUCCESS and each["is_of_current_data"])
    job = next(answers, None)
    return job is not None and not page.call(Method.GET_JOB_PRICE, job_id=job["id"])["units"]


def _provider(room: Mapping[str, Any], permission: Permission) -> str | None:
    found = (each["role"] for each in room["participants"] if permission.value in each["permissions"])
    return next(found, None)


PAGES = (Route("GET", "/", rooms), Route("GET", "/rooms/{room_id}", room))
TAB = Tab("room", "/rooms/{room_id}")
