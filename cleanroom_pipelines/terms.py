"""Enumerations that the client, the server and the stored records of data rooms share.

Lives here: permissions, collaboration types and kinds of matching ids, with their values in the Media API.
Add here when clients and the server need to share another such list.
Keep out: all other imports, because scripts of the Media client load this; logic belongs in the core.
"""

from enum import Enum, StrEnum


class Term(StrEnum):
    """A string enum: `str` gives a member's name (`Permission.VIEW_OVERLAP`), while `format` gives its value."""

    __str__ = Enum.__str__

    def __format__(self, spec: str) -> str:
        return format(self.value, spec)


class Permission(Term):
    """A permission of a participant."""

    VIEW_OVERLAP = "VIEW_OVERLAP"
    VIEW_INSIGHTS = "VIEW_INSIGHTS"
    PROVIDE_SEED_AUDIENCE = "PROVIDE_SEED_AUDIENCE"
    PROVIDE_BASE_AUDIENCE = "PROVIDE_BASE_AUDIENCE"
    CREATE_CUSTOM_AUDIENCE = "CREATE_CUSTOM_AUDIENCE"
    EXPORT_AUDIENCE = "EXPORT_AUDIENCE"
    MODEL_QUALITY = "MODEL_QUALITY"
    MANAGE_USERS = "MANAGE_USERS"


class CollaborationType(Term):
    """A purpose of a data room."""

    INSIGHTS = "ENABLE_INSIGHTS"
    LOOKALIKE = "ENABLE_LOOKALIKE_AUDIENCES"
    REMARKETING = "ENABLE_REMARKETING"
    RULE_BASED = "ENABLE_RULED_BASED_AUDIENCES"
    OVERLAP = "ENABLE_OVERLAP"
    EXCLUSION_TARGETING = "ENABLE_EXCLUSION_TARGETING"
    EXCLUSION = EXCLUSION_TARGETING

    @property
    def makes_audiences(self) -> bool:
        """Whether audiences can be created in a room of this type."""
        return self not in (CollaborationType.OVERLAP, CollaborationType.INSIGHTS)


class Family(StrEnum):
    """A group of kinds of matching ids, such as plain and hashed e-mails; ids match only within their group."""

    STRING = "string"
    EMAIL = "email"
    PHONE = "phone"


class MatchingId(Term):
    """A kind of identifier by which two parties match the same person."""

    STRING = "STRING"
    EMAIL = "EMAIL"
    HASHED_EMAIL = "HASHED_EMAIL"
    PHONE_NUMBER = "PHONE_NUMBER"
    HASHED_PHONE_NUMBER = "HASHED_PHONE_NUMBER"

    @property
    def family(self) -> Family:
        """The family of this kind of id; ids match within their family, so hashed ids match plain ones."""
        return _FAMILIES[self]

    @property
    def is_hashed(self) -> bool:
        """Whether the ids are uploaded as SHA-256 hashes."""
        return self in (MatchingId.HASHED_EMAIL, MatchingId.HASHED_PHONE_NUMBER)


_FAMILIES = {
    MatchingId.STRING: Family.STRING,
    MatchingId.EMAIL: Family.EMAIL,
    MatchingId.HASHED_EMAIL: Family.EMAIL,
    MatchingId.PHONE_NUMBER: Family.PHONE,
    MatchingId.HASHED_PHONE_NUMBER: Family.PHONE,
}
