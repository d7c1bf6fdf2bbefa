"""The members of a participant: their ways to sign in to the console, and invitations.

Lives here: the calls of the data-room (Media) API about members' ways to sign in.
Add here when members can be managed in another way.
Keep out: members and their permissions in a room (`rooms.py`), signing in (the console).
"""

from typing import Any

from cleanroom_pipelines.catalog import ParticipantSpec
from cleanroom_pipelines.media.errors import ConflictError
from cleanroom_pipelines.runs.sign_in import invite
from cleanroom_pipelines.server.media.access import Call, denied
from cleanroom_pipelines.server.media.rooms import managed_room


def get_members(call: Call) -> dict[str, Any]:
    """Return the members of the caller's own group, with their permissions and how they can sign in.

    `colleagues` are users of the same organisation who share a group with the caller in another room.
    """
    group = _whole_group(call)
    sign_in = call.installation.catalog.sign_in
    invited = {each.email: each.expires_at.isoformat() for each in sign_in.invitations()}
    return {
        "members": [
            {
                "email": email,
                "permissions": [each.value for each in group.as_member(email).permissions],
                "can_sign_in": sign_in.can_sign_in(email),
                "invited_until": invited.get(email),
            }
            for email in group.emails
        ],
        "colleagues": _colleagues(call, group),
    }


def _colleagues(call: Call, group: ParticipantSpec) -> list[str]:
    catalog = call.installation.catalog
    groups = (each.group_of(call.email) for each in catalog.rooms.data_rooms())
    known = {email for each in groups if each is not None for email in each.emails} - {*group.emails}
    return sorted(email for email in known if catalog.pairs.organization_of_user(email) == call.organization)


def invite_user(call: Call) -> dict[str, Any]:
    """Invite a member of the caller's own group and organisation to choose a password.

    The secret of the invitation is in this response only. Members who can sign in are not invited, because an
    invitation replaces the password.

    Raises:
        ConflictError: The member can already sign in, belongs to another organisation, has permissions that the
            caller lacks, or was added by someone else, so that the invitation would give more than the caller has.
    """
    group, email = _whole_group(call), call.text("email").strip().lower()
    if email not in group.emails:
        raise denied()
    if call.installation.catalog.pairs.organization_of_user(email) != call.organization:
        raise ConflictError(
            "The member belongs to another organisation.", remedy="Ask the operator to invite the member."
        )
    if call.installation.catalog.sign_in.can_sign_in(email):
        raise ConflictError("The member can already sign in.", remedy="Ask the operator for a one-time link.")
    if not _is_only_the_callers(call, email) or not _has_at_most(group, email, call.email):
        raise ConflictError(
            "The member has permissions that you lack, in this data room or in another one.",
            remedy="Ask the operator to invite the member.",
        )
    secret, link = invite(call.installation, email, call.email)
    return {"invitation": secret, "expires_at": link.expires_at.isoformat()}


def _is_only_the_callers(call: Call, email: str) -> bool:
    """Whether a user is new or was invited only by the caller, and has no permission that the caller lacks."""
    catalog = call.installation.catalog
    if (known := catalog.users.user(email)) is not None:
        pending = [each for each in catalog.sign_in.invitations() if each.email == email]
        if [each.invited_by for each in pending] != [call.email] or known.has_role:
            return False
    groups = (each.group_of(email) for each in catalog.rooms.data_rooms())
    return all(_has_at_most(each, email, call.email) for each in groups if each is not None)


def _has_at_most(group: ParticipantSpec, email: str, other: str) -> bool:
    """Whether `other` is a member of the group and has all permissions that the member `email` has."""
    if other not in group.emails:
        return False
    return {*group.as_member(email).permissions} <= {*group.as_member(other).permissions}


def _whole_group(call: Call) -> ParticipantSpec:
    room = managed_room(call)
    group = room.record.participant(room.group.id)
    assert group is not None
    return group
