"""The groups of people in a data room, and what each may do.

Lives here: `Participant`.
Add here when a participant can be allowed a further thing.
Keep out: deciding who may do what; the server does.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from cleanroom_pipelines.media.errors import InvalidRequestError
from cleanroom_pipelines.terms import Permission


@dataclass
class Participant:
    """A group of people in a data room.

    Args:
        emails: E-mail addresses of its members; who holds a token for one of them acts for the group.
        permissions: What the group may do.
        role: What the group is, in free text.
        id: Its id; the server gives it when the room is created.
        organization_id: What the group calls its organization.
        declined: Who belonged to it and refused to take part, as the room's owner sees it.

    Raises:
        InvalidRequestError: There is no such permission, or the e-mail addresses are one text and no list.
    """

    emails: list[str]
    permissions: list[Permission]
    role: str
    id: str | None = None
    organization_id: str | None = None
    declined: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        if isinstance(self.emails, str) or isinstance(self.permissions, str):
            raise InvalidRequestError(
                "A participant's e-mail addresses and permissions are lists.", remedy="Put them in brackets."
            )
        self.emails = [str(email) for email in self.emails]
        try:
            # what was loaded has texts, what was built has members: from here on they are the same
            self.permissions = [Permission(permission) for permission in self.permissions]
        except ValueError:
            raise InvalidRequestError(
                "A participant has a permission that does not exist.",
                remedy=f"Choose from: {', '.join(Permission)}.",
            ) from None

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> Self:
        """Read `as_dict` back, or what the server tells."""
        return cls(
            emails=list(value["emails"]),
            permissions=list(value["permissions"]),
            role=value["role"],
            id=value.get("id"),
            organization_id=value.get("organization_id"),
            declined=list(value.get("declined") or ()),
        )

    def as_dict(self) -> dict[str, Any]:
        """The participant as a dictionary that JSON can hold; the optional fields only if they are set."""
        optional = {
            "id": self.id,
            "organization_id": self.organization_id,
            "declined": list(self.declined) or None,
        }
        return {
            "emails": list(self.emails),
            "role": self.role,
            "permissions": [permission.value for permission in self.permissions],
            **{name: value for name, value in optional.items() if value is not None},
        }

    def can_export_audience(self) -> bool:
        """Whether the participant may export audiences."""
        return Permission.EXPORT_AUDIENCE in self.permissions

    def has_member(self, email: str) -> bool:
        """Whether an e-mail address belongs to the participant, in any case of its letters."""
        return email.casefold() in {each.casefold() for each in self.emails}
