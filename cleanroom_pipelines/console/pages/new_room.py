"""Creating a data room: its form, and the preview of what each side will be able to see and do.

Lives here: the form's fields, and what they mean in the API's room definition.
Add here when a data room gets another option.
Keep out: what is valid and who may create rooms (`server.media.rooms`), and rooms that exist (`rooms.py`).
"""

import re
from collections.abc import Mapping
from typing import Any

from cleanroom_pipelines.catalog.room_specs import MAX_PARTICIPANTS
from cleanroom_pipelines.console.page import PageRequest, Route
from cleanroom_pipelines.console.repeats import MARK
from cleanroom_pipelines.delivery.destinations import AdDestination
from cleanroom_pipelines.media.errors import InvalidRequestError
from cleanroom_pipelines.media.protocol import Method
from cleanroom_pipelines.server.media.rooms import check_room
from cleanroom_pipelines.server.requests import Reply
from cleanroom_pipelines.terms import CollaborationType, MatchingId, Permission

NEW = "/rooms/new"
P = Permission
# What the participants on the two sides always may do.
_SIDES = {"publisher": P.PROVIDE_BASE_AUDIENCE, "advertiser": P.PROVIDE_SEED_AUDIENCE}
_HOST = "host"  # a creator who is on neither side
_OTHERS = [f"other{number}" for number in range(1, MAX_PARTICIPANTS - len(_SIDES))]
_CHOICES = (P.VIEW_OVERLAP, P.VIEW_INSIGHTS, P.CREATE_CUSTOM_AUDIENCE, P.EXPORT_AUDIENCE, P.MANAGE_USERS)
# What is ticked in an empty form.
_USUAL: Mapping[str, tuple[Permission, ...]] = {
    "publisher": (P.VIEW_OVERLAP, P.EXPORT_AUDIENCE, P.MANAGE_USERS),
    "advertiser": _CHOICES,
    "other1": (P.VIEW_INSIGHTS, P.EXPORT_AUDIENCE),
}
_REVEALING = (CollaborationType.REMARKETING, CollaborationType.EXCLUSION)
_PURPOSES = (*(each for each in CollaborationType if each not in _REVEALING), *_REVEALING)
_IDS = sorted(MatchingId, key=lambda each: each is MatchingId.STRING)  # the usual ones first
_DESTINATIONS = tuple(each for each in AdDestination if each is not AdDestination.PLAIN)


def new_room(page: PageRequest) -> Reply:
    """Show the empty form."""
    return _show(page)


def send_room(page: PageRequest) -> Reply:
    """Add a participant to the form, show the preview, or create the room, whichever button was pressed."""
    action = page.form.text("do")
    if action in ("add", "edit"):
        return _show(page, n_more=action == "add")
    room = _definition(page)
    checked = page.service.perform(page.email, "check_room", check_room, room, page.request.id, only_reads=True)
    if checked["problems"]:
        return _show_problems(page, checked["problems"])
    if action != "create":
        return _preview(page, room, checked)
    made = page.call(Method.CREATE_ROOM, **room)
    return page.redirect("/rooms/{room_id}", room_id=made["id"], done="new_room.created.done")


def _definition(page: PageRequest) -> dict[str, Any]:
    """Return the form as parameters of `create_room`, valid or not."""
    form = page.form
    return {
        "name": form.text("name"),
        "participants": [given for _, given in _participants(page)],
        "collaboration_types": form.texts("purposes"),
        "matching_ids": form.texts("matching_ids"),
        "hide_absolute_values": form.has("hide_absolute_values"),
        "activation": form.texts("activation"),
    }


def _participants(page: PageRequest) -> list[tuple[str, dict[str, Any]]]:
    """Return the participants, each with the name of its part of the form.

    Other participants without e-mail addresses are left out. The creator is added to the chosen side, or else as a
    participant who only looks on.
    """
    form, mine, found = page.form, page.form.text("mine"), list[tuple[str, dict[str, Any]]]()
    for name in (*_SIDES, *_OTHERS):
        emails = [each.lower() for each in re.split(r"[\s,;]+", form.text(f"{name}-emails")) if each]
        if name == mine and page.email not in emails:
            emails.append(page.email)
        if name in _SIDES or emails:
            always = [_SIDES[name].value] if name in _SIDES else []
            permissions = always + form.texts(f"{name}-permissions")
            given = {"emails": emails, "role": form.text(f"{name}-role"), "permissions": permissions}
            found.append((name, given))
    if mine == _HOST and not any(page.email in each["emails"] for _, each in found):
        role = page.rendering.text("new_room.side.host")
        found.append((_HOST, {"emails": [page.email], "role": str(role), "permissions": []}))
    return found


def _show_problems(page: PageRequest, found: list[dict[str, str]]) -> Reply:
    """Show the form again, each problem next to its field."""
    t, names, problems = page.rendering.text, [name for name, _ in _participants(page)], dict[str, str]()
    for each in found:
        field, part = _field_of(each["place"], names)
        key = f"new_room.wrong.{part}"
        is_typed = part == "emails" and page.form.text(field)  # the handler says what is wrong with it
        text = f"{each['message']} {each['remedy']}" if is_typed or key not in page.rendering.texts else t(key)
        problems.setdefault(field, text)
    page.error = InvalidRequestError(t("new_room.incomplete"), remedy=t("new_room.incomplete_remedy"))
    return _show(page, problems)


def _field_of(place: str, names: list[str]) -> tuple[str, str]:
    """Map a place in the definition, such as `participants.0.emails`, to the form's field and its message key."""
    if place.startswith("participants."):
        _, number, part = place.split(".")
        return f"{names[int(number)]}-{part}", part
    return {"owner": "mine", "collaboration_types": "purposes"}.get(place, place), place


def _show(page: PageRequest, problems: Mapping[str, str] | None = None, *, n_more: int = 0) -> Reply:
    t, is_empty = page.rendering.text, not page.form.fields
    given = sum(page.form.has(f"{name}-emails") for name in _OTHERS)
    others = _OTHERS[: max(1, given + n_more)]
    return page.show(
        "new_room/form.html",
        problems=problems or {},
        sides=[(name, t(f"new_room.side.{name}"), t(f"new_room.side_help.{name}")) for name in (*_SIDES, _HOST)],
        parties=[*_SIDES, *others],
        is_full=len(others) == len(_OTHERS),
        usual={
            name: [each.value for each in _USUAL.get(name, ())] if is_empty else () for name in (*_SIDES, *others)
        },
        permissions=[(each.value, t(f"permission.{each.value}"), "") for each in _CHOICES],
        purposes=[
            (each.value, t(f"new_room.purpose.{each.name}"), t(f"new_room.purpose_help.{each.name}"))
            for each in _PURPOSES
        ],
        usual_purposes=[each.value for each in _PURPOSES if each not in _REVEALING] if is_empty else (),
        ids=[(each.value, t(f"matching_id.{each.value}"), t(f"new_room.id_help.{each.value}")) for each in _IDS],
        usual_ids=[MatchingId.EMAIL.value] if is_empty else (),
        destinations=[(each.value, each.words, "") for each in _DESTINATIONS],
    )


def _preview(page: PageRequest, room: Mapping[str, Any], checked: Mapping[str, Any]) -> Reply:
    t = page.rendering.text
    purposes = [CollaborationType(each) for each in room["collaboration_types"]]
    kinds = ", ".join(t(f"new_room.purpose.{each.name}").lower() for each in purposes if each.makes_audiences)
    participants = [
        {
            "role": each["role"],
            "emails": each["emails"],
            "is_mine": page.email in each["emails"],
            "can": [t(f"new_room.can.{name}", kinds=kinds) for name in each["permissions"]],
            "never": t(f"new_room.never.{_side_of(each['permissions'])}"),
        }
        for each in checked["participants"]
    ]
    return page.show(
        "new_room/preview.html",
        definition=room,
        participants=participants,
        purposes=purposes,
        reveals=[(each, each in purposes) for each in _REVEALING],
        privacy=checked["privacy"],
        destinations=[AdDestination(each).words for each in room["activation"]],
        fields=[(name, value) for name, value in page.form.fields if name not in ("do", MARK)],
    )


def _side_of(permissions: list[str]) -> str:
    return next((name for name, always in _SIDES.items() if always.value in permissions), "other")


PAGES = (Route("GET", NEW, new_room), Route("POST", NEW, send_room, new_room))
