"""The participants of a data room and their permissions.

Lives here: `Participant`.
Add here when participants get another permission.
Keep out: checking permissions, which the server does.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from cleanroom_pipelines.media.errors import InvalidRequestError
from cleanroom_pipelines.terms import Permission


@dataclass
class Participant:
    """A group of people in a data room.

    Args:
        emails: E-mail addresses of its members; a token for any of them acts for the group.
        permissions: The group's permissions.
        role: The group's role, as free text.
        id: Its id, assigned by the server when the room is created.
        organization_id: The group's own name for its organization.
        member_permissions: Permissions of members who have fewer than the group, by e-mail address.
        declined: Members who declined to take part; visible to the room's owner only.

    Raises:
        InvalidRequestError: A permission is unknown, or `emails` or `permissions` is a string instead of a list.
    """

    emails: list[str]
    permissions: list[Permission]
    role: str
    id: str | None = None
    organization_id: str | None = None
    member_permissions: dict[str, list[Permission]] | None = None
    declined: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        if isinstance(self.emails, str) or isinstance(self.permissions, str):
            raise InvalidRequestError(
                "A participant's e-mail addresses and permissions must be lists.",
                remedy="Pass them as lists, in square brackets.",
            )
        self.emails = [str(email) for email in self.emails]
        # a loaded participant has strings, a constructed one has enum members: normalize both
        self.permissions = known_permissions(self.permissions)
        members = (self.member_permissions or {}).items()
        self.member_permissions = {email.lower(): known_permissions(each) for email, each in members} or None

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> Self:
        """Parse the output of `as_dict`, or the server's response."""
        return cls(
            emails=list(value["emails"]),
            permissions=list(value["permissions"]),
            role=value["role"],
            id=value.get("id"),
            organization_id=value.get("organization_id"),
            member_permissions=value.get("member_permissions"),
            declined=list(value.get("declined") or ()),
        )

    def as_dict(self) -> dict[str, Any]:
        """Return a JSON-serializable dictionary; optional fields are included only if they are set."""
        optional = {
            "id": self.id,
            "organization_id": self.organization_id,
            "member_permissions": self._member_values() or None,
            "declined": list(self.declined) or None,
        }
        return {
            "emails": list(self.emails),
            "role": self.role,
            "permissions": [permission.value for permission in self.permissions],
            **{name: value for name, value in optional.items() if value is not None},
        }

    def _member_values(self) -> dict[str, list[str]]:
        members = (self.member_permissions or {}).items()
        return {email: [permission.value for permission in each] for email, each in members}

    def can_export_audience(self) -> bool:
        """Check whether the participant may export audiences."""
        return Permission.EXPORT_AUDIENCE in self.permissions

    def has_member(self, email: str) -> bool:
        """Check whether an e-mail address belongs to the participant, ignoring case."""
        return email.casefold() in {each.casefold() for each in self.emails}


def known_permissions(permissions: Iterable[Any]) -> list[Permission]:
    """Convert permissions, or strings that name them, to `Permission` members.

    Raises:
        InvalidRequestError: One is unknown.
    """
    try:
        return [Permission(permission) for permission in permissions]
    except ValueError:
        raise InvalidRequestError(
            "A participant has an unknown permission.",
            remedy=f"Choose from: {', '.join(Permission)}.",
        ) from None
