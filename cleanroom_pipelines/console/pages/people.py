"""The people of a room: all participants, the members of the user's own participant, and invitations.

Lives here: the page, and the forms to add, invite and remove members, and to leave the room.
Keep out: permissions in a room and ways to sign in (`server.media`).
"""

from collections.abc import Mapping
from typing import Any

from cleanroom_pipelines.console.page import PageRequest, Route, Tab
from cleanroom_pipelines.errors import UsageError
from cleanroom_pipelines.media.errors import InvalidRequestError, NotFoundError
from cleanroom_pipelines.media.protocol import Method
from cleanroom_pipelines.server.requests import Reply
from cleanroom_pipelines.terms import Permission

_PATH = "/rooms/{room_id}/people"


def people(page: PageRequest) -> Reply:
    """Show a room's participants and, to users who may manage people, their own participant's members."""
    return _show(page)


def add(page: PageRequest) -> Reply:
    """Add a member to the user's own participant."""
    email, permissions = page.form.text("email"), page.form.texts("permissions")
    problems = {}
    if not email:
        problems["email"] = page.rendering.text("people.email_missing")
    if not permissions:
        problems["permissions"] = page.rendering.text("people.permissions_missing")
    if problems:
        return _show(page, problems)
    try:
        _call(page, Method.ADD_USER, email=email, permissions=permissions)
    except InvalidRequestError as error:
        return _show(page, {"email": f"{error.message} {error.remedy}"})
    return page.redirect(_PATH, room_id=page.path["room_id"], done="people.added.done")


def invite(page: PageRequest) -> Reply:
    """Invite a member; send the invitation link by e-mail, or show it once."""
    email = page.form.text("email")
    found = _call(page, Method.INVITE_USER, email=email)
    link = page.address("/invitation/{secret}", secret=found["invitation"])
    unsent: UsageError | None = None
    if page.form.text("by") == "mail":
        try:
            page.mail(email, "invitation", link)
        except UsageError as raised:
            unsent = raised
        else:
            return page.redirect(_PATH, room_id=page.path["room_id"], done="people.mailed.done")
    return page.show(
        "people/invited.html",
        room=page.room(),
        error=unsent,
        email=email,
        link=link,
        expires_at=found["expires_at"],
    )


def ask_to_remove(page: PageRequest) -> Reply:
    """Ask for confirmation before a member is removed."""
    email = page.query.get("email", "")
    if email not in [each["email"] for each in _call(page, Method.GET_MEMBERS)["members"]]:
        raise NotFoundError(
            "This person is not a member of your participant.", remedy="Go to the people of the room."
        )
    return page.show("people/remove.html", room=page.room(), email=email)


def remove(page: PageRequest) -> Reply:
    """Remove a member from the user's own participant."""
    _call(page, Method.REMOVE_USER, email=page.form.text("email"))
    if page.form.text("email").lower() == page.email:
        return page.redirect("/", done="people.left.done")
    return page.redirect(_PATH, room_id=page.path["room_id"], done="people.removed.done")


def ask_to_leave(page: PageRequest) -> Reply:
    """Ask for confirmation before the user leaves the room."""
    return page.show("people/leave.html", room=page.room())


def leave(page: PageRequest) -> Reply:
    """Leave the room."""
    page.call(Method.DECLINE_ROOM, room_id=page.path["room_id"])
    return page.redirect("/", done="people.left.done")


def _call(page: PageRequest, method: Method, **params: Any) -> Any:
    """Call an API handler for the user's own participant in the room."""
    room = page.room()
    return page.call(method, room_id=room["id"], participant_id=room["mine"]["id"], **params)


def _show(page: PageRequest, problems: Mapping[str, str] | None = None) -> Reply:
    room = page.room()
    own = _call(page, Method.GET_MEMBERS) if page.may(Permission.MANAGE_USERS) else None
    return page.show(
        "people/people.html",
        room=room,
        own=own,
        permissions=_permissions_of(page, room),
        problems=problems or {},
    )


def _permissions_of(page: PageRequest, room: dict[str, Any]) -> list[tuple[str, str, str]]:
    """Return the permissions of the user's participant; its members can have only these."""
    whole = next(each for each in room["participants"] if each["id"] == room["mine"]["id"])
    return [(name, page.rendering.text(f"permission.{name}"), "") for name in whole["permissions"]]


PAGES = (
    Route("GET", _PATH, people),
    Route("POST", _PATH, add, people),
    Route("POST", f"{_PATH}/invite", invite, people),
    Route("GET", f"{_PATH}/remove", ask_to_remove),
    Route("POST", f"{_PATH}/remove", remove, people),
    Route("GET", f"{_PATH}/leave", ask_to_leave),
    Route("POST", f"{_PATH}/leave", leave, people),
)
TAB = Tab("people", _PATH)
