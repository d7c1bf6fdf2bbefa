"""Who calls, in which room, and whether they may.

Lives here: the caller, the room they are in, permissions, and reading the parameters of a call.
Add here when a call needs another kind of parameter.
Keep out: what a call does.

Whoever is no participant, or may not do something, gets the one error that also stands for what does not exist.
"""

from collections.abc import Mapping, Sequence
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
"""Who may ask something of a room as a whole."""

ABOUT_AUDIENCES = {
    JobKind.AUDIENCE_SIZE: Permission.CREATE_CUSTOM_AUDIENCE,
    JobKind.LOOKALIKE_STATISTICS: Permission.CREATE_CUSTOM_AUDIENCE,
    JobKind.USER_LIST: Permission.EXPORT_AUDIENCE,
}
"""Who may ask something of one of its audiences."""

_MISSING = object()
_MOST_CHARACTERS = 4096


@dataclass
class Call:
    """One call while it is carried out.

    Args:
        installation: Where.
        email: Who calls.
        params: The JSON object that came.
        trail: What the audit log will say of it.
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
        """A text; refused when it is something else."""
        value = self.params.get(name, default)
        if not _is_text(value):
            raise InvalidRequestError(f"The parameter {name} is no text.", remedy="See the protocol.")
        return str(value)

    def flag(self, name: str) -> bool:
        """A truth value, false when absent."""
        value = self.params.get(name, False)
        if not isinstance(value, bool):
            raise InvalidRequestError(
                f"The parameter {name} is neither true nor false.", remedy="Give one of them."
            )
        return value

    def number(self, name: str, default: int | None = None) -> int:
        """A whole number."""
        value = self.params.get(name, default)
        if not isinstance(value, int) or isinstance(value, bool):
            raise InvalidRequestError(f"The parameter {name} is no whole number.", remedy="Give one.")
        return value

    def texts(self, name: str) -> list[str]:
        """A list of texts, empty when absent."""
        value = self.params.get(name)
        if value is None:
            return []
        if not isinstance(value, list) or len(value) > 10_000 or not all(_is_text(each) for each in value):
            raise InvalidRequestError(f"The parameter {name} is no list of texts.", remedy="Give a list.")
        return value

    def objects(self, name: str) -> list[dict[str, Any]]:
        """A list of objects."""
        value = self.params.get(name)
        if not isinstance(value, list) or not all(isinstance(each, dict) for each in value) or len(value) > 1000:
            raise InvalidRequestError(f"The parameter {name} is no list of objects.", remedy="Give a list.")
        return value

    def mapping(self, name: str) -> dict[str, Any] | None:
        """An object, or None when absent."""
        value = self.params.get(name)
        if value is not None and not isinstance(value, dict):
            raise InvalidRequestError(f"The parameter {name} is no object.", remedy="Give one.")
        return value

    def room(self, *permissions: Permission) -> "Room":
        """The room that the call is about, for a participant with all these permissions.

        Raises:
            PermissionDeniedError: There is none, the caller is not in it, or may not.
        """
        return self.room_of(self.text("room_id"), *permissions)

    def room_of(self, room_id: str, *permissions: Permission) -> "Room":
        """The same for a room that something else names."""
        try:
            record = self.installation.catalog.get(DataRoom, room_id)
        except CleanroomError:
            raise denied() from None
        group = record.group_of(self.email)
        if group is None:
            raise denied()
        self.trail |= {"room": record.id, "participant": group.id}
        if not all(group.may(permission) for permission in permissions):
            raise denied()
        return Room(self.installation, record, group)


def _is_text(value: object) -> bool:
    """Whether it is a text that a database can hold: JSON can bring halves of characters."""
    if not isinstance(value, str) or len(value) > _MOST_CHARACTERS or "\0" in value:
        return False
    return not any("\ud800" <= character <= "\udfff" for character in value)


@dataclass(frozen=True)
class Room:
    """A room as one of its participants sees it."""

    installation: Installation
    record: DataRoom
    group: ParticipantSpec

    @property
    def id(self) -> str:
        """The room's id."""
        return self.record.id

    def require(self, collaboration: CollaborationType, what: str) -> None:
        """Refuse what the room is not for.

        Raises:
            PermissionDeniedError: It is not.
        """
        if not self.record.allows(collaboration):
            raise PermissionDeniedError(f"The data room is not for {what}.", remedy="Create another data room.")

    def visible(self) -> list[CustomAudience]:
        """The audiences that the group sees."""
        audiences = self.installation.catalog.rooms.custom_audiences(self.id)
        return [audience for audience in audiences if audience.is_seen_by(self.group.id)]

    def audience(self, audience_id: str) -> CustomAudience:
        """An audience that the group sees.

        Raises:
            PermissionDeniedError: There is none.
        """
        found = next((each for each in self.visible() if each.id == audience_id), None)
        if found is None:
            raise denied()
        return found

    def participants(self, ids: Sequence[str]) -> tuple[str, ...]:
        """The ids of groups of the room, each once.

        Raises:
            InvalidRequestError: One is none.
        """
        known = {group.id for group in self.record.participants}
        if not set(ids) <= known:
            raise InvalidRequestError("Something is shared with no participant of the room.", remedy="See them.")
        return tuple(dict.fromkeys(ids))


def check_quota(what: str, n_held: int, limit: int) -> None:
    """Refuse one more thing than the operator allows a user.

    Args:
        what: The things, in words.
        n_held: How many the caller has.
        limit: How many they may have.

    Raises:
        QuotaExceededError: The caller has as many as they may.
    """
    if n_held >= limit:
        raise QuotaExceededError(
            f"You have reached the quota of {limit:,} {what}.",
            remedy="Ask the operator to delete some, or to allow more.",
            quota=what,
            limit=limit,
        )


def denied() -> PermissionDeniedError:
    """The one error for what may not be done and for what does not exist."""
    return PermissionDeniedError(
        "There is nothing of this id for you, or you may not do this.",
        remedy="Ask the owner of the data room.",
    )
