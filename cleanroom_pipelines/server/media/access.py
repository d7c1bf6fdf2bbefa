"""A call to the data-room (Media) API: its caller, its parameters, its room, and the caller's permissions there.

Lives here: the call and its parameters, the room as a participant sees it, permissions, and quotas.
Add here when a call needs another kind of parameter.
Keep out: what the calls do.

A caller who is not a participant, or lacks a permission, gets the same error as for an object that does not exist.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from cleanroom_pipelines.catalog import CustomAudience, DataRoom, ParticipantSpec
from cleanroom_pipelines.errors import CleanroomError
from cleanroom_pipelines.media.errors import InvalidRequestError, PermissionDeniedError, QuotaExceededError
from cleanroom_pipelines.media.protocol import JobKind
from cleanroom_pipelines.runs.installation import Installation
from cleanroom_pipelines.terms import CollaborationType, Permission

ABOUT_ROOMS = {
    JobKind.OVERLAP_STATISTICS: Permission.VIEW_OVERLAP,
    JobKind.INSIGHTS: Permission.VIEW_INSIGHTS,
    JobKind.DATA_ATTRIBUTES: Permission.CREATE_CUSTOM_AUDIENCE,
    JobKind.BASE_REPORTS: Permission.PROVIDE_BASE_AUDIENCE,
    JobKind.SEEDS_REPORT: Permission.PROVIDE_SEED_AUDIENCE,
}
"""The permission that each kind of job about a room requires."""

ABOUT_AUDIENCES = {
    JobKind.AUDIENCE_SIZE: Permission.CREATE_CUSTOM_AUDIENCE,
    JobKind.LOOKALIKE_STATISTICS: Permission.CREATE_CUSTOM_AUDIENCE,
    JobKind.USER_LIST: Permission.EXPORT_AUDIENCE,
}
"""The permission that each kind of job about an audience requires."""

_MISSING = object()
_MOST_CHARACTERS = 4096


@dataclass
class Call:
    """One call to the data-room (Media) API while it is being executed.

    Args:
        installation: The installation.
        email: E-mail address of the caller.
        params: The JSON object of the request.
        trail: The fields of the call's entry in the audit log.
    """

    installation: Installation
    email: str
    params: Mapping[str, Any] = field(repr=False)
    trail: dict[str, Any] = field(default_factory=dict)

    @property
    def organization(self) -> str:
        """The organisation of the caller."""
        return self.installation.catalog.pairs.organization_of_user(self.email)

    def text(self, name: str, default: Any = _MISSING) -> str:
        """Return a string parameter; reject a value that is missing or that a database cannot store."""
        value = self.params.get(name, default)
        if not _is_text(value):
            raise InvalidRequestError(
                f"The parameter {name} is not a valid string.",
                remedy=f"Give valid Unicode of at most {_MOST_CHARACTERS:,} characters, without null characters.",
            )
        return str(value)

    def flag(self, name: str) -> bool:
        """Return a boolean parameter; False if the parameter is missing."""
        value = self.params.get(name, False)
        if not isinstance(value, bool):
            raise InvalidRequestError(f"The parameter {name} is not a boolean.", remedy="Give true or false.")
        return value

    def number(self, name: str, default: int | None = None) -> int:
        """Return an integer parameter."""
        value = self.params.get(name, default)
        if not isinstance(value, int) or isinstance(value, bool):
            raise InvalidRequestError(f"The parameter {name} is not an integer.", remedy="Give a whole number.")
        return value

    def texts(self, name: str) -> list[str]:
        """Return a parameter that is a list of strings; an empty list if the parameter is missing."""
        value = self.params.get(name)
        if value is None:
            return []
        if not isinstance(value, list) or len(value) > 10_000 or not all(_is_text(each) for each in value):
            raise InvalidRequestError(f"The parameter {name} is not a list of strings.", remedy="Give a list.")
        return value

    def objects(self, name: str) -> list[dict[str, Any]]:
        """Return a parameter that is a list of JSON objects."""
        value = self.params.get(name)
        if not isinstance(value, list) or not all(isinstance(each, dict) for each in value) or len(value) > 1000:
            raise InvalidRequestError(f"The parameter {name} is not a list of objects.", remedy="Give a list.")
        return value

    def mapping(self, name: str) -> dict[str, Any] | None:
        """Return a parameter that is a JSON object; None if the parameter is missing."""
        value = self.params.get(name)
        if value is not None and not isinstance(value, dict):
            raise InvalidRequestError(f"The parameter {name} is not an object.", remedy="Give a JSON object.")
        return value

    def room(self, *permissions: Permission) -> "Room":
        """Return the room that the call names, if the caller has all required permissions in it.

        Raises:
            PermissionDeniedError: It does not exist, the caller is not in it, or lacks a permission.
        """
        return self.room_of(self.text("room_id"), *permissions)

    def room_of(self, room_id: str, *permissions: Permission) -> "Room":
        """Return the room with an id, if the caller has all required permissions in it."""
        try:
            record = self.installation.catalog.get(DataRoom, room_id)
        except CleanroomError:
            raise denied() from None
        group = record.group_of(self.email)
        if group is None:
            raise denied()
        group = group.as_member(self.email)
        self.trail |= {"room": record.id, "participant": group.id}
        if not all(group.may(permission) for permission in permissions):
            raise denied()
        return Room(self.installation, record, group)


def _is_text(value: object) -> bool:
    """Check whether a value is a string that a database can store, without unpaired surrogates."""
    if not isinstance(value, str) or len(value) > _MOST_CHARACTERS or "\0" in value:
        return False
    return not any("\ud800" <= character <= "\udfff" for character in value)


@dataclass(frozen=True)
class Room:
    """A room as the caller sees it; `group` is the caller's participant, reduced to the caller's permissions."""

    installation: Installation
    record: DataRoom
    group: ParticipantSpec

    @property
    def id(self) -> str:
        """The room's id."""
        return self.record.id

    def require(self, collaboration: CollaborationType, what: str) -> None:
        """Check that the room allows a collaboration type.

        Raises:
            PermissionDeniedError: The room does not allow it.
        """
        if not self.record.allows(collaboration):
            raise PermissionDeniedError(
                f"The data room does not allow {what}.", remedy="Create a data room that allows it."
            )

    def visible(self, among: Collection[str] | None = None) -> list[CustomAudience]:
        """Return the audiences in the room that the caller's group can see, all or among the given ids."""
        audiences = self.installation.catalog.rooms.custom_audiences(self.id, among=among)
        return [audience for audience in audiences if audience.is_seen_by(self.group.id)]

    def audience(self, audience_id: str) -> CustomAudience:
        """Return the audience with an id, if the caller's group can see it.

        Raises:
            PermissionDeniedError: The group can see no audience with this id.
        """
        found = next((each for each in self.visible() if each.id == audience_id), None)
        if found is None:
            raise denied()
        return found

    def participants(self, ids: Sequence[str]) -> tuple[str, ...]:
        """Check that ids belong to participants of the room, and return them without duplicates.

        Raises:
            InvalidRequestError: An id is not that of a participant.
        """
        known = {group.id for group in self.record.participants}
        if not set(ids) <= known:
            raise InvalidRequestError(
                "An id does not belong to a participant of the room.", remedy="Use ids of the room's participants."
            )
        return tuple(dict.fromkeys(ids))


def check_quota(what: str, n_held: int, limit: int) -> None:
    """Check that a user may create one more object of a kind.

    Args:
        what: The kind of object, in words.
        n_held: Number of such objects that the caller has.
        limit: Largest number that the caller may have.

    Raises:
        QuotaExceededError: The caller has reached the limit.
    """
    if n_held >= limit:
        raise QuotaExceededError(
            f"You have reached the quota of {limit:,} {what}.",
            remedy="Ask the operator to delete some, or to allow more.",
            quota=what,
            limit=limit,
        )


def denied() -> PermissionDeniedError:
    """Return the error for both a missing permission and a missing object."""
    return PermissionDeniedError(
        "The object does not exist, or you lack the permission for it.",
        remedy="Check the id, or ask the owner of the data room for the permission.",
    )
