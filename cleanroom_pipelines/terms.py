"""Terms: the closed lists of words that a data room's participants, its server and its records share.

Lives here: permissions, collaboration types and kinds of matching ids, with the values of the wire.
Add here when a script names something that the server stores by the same word.
Keep out: every import: a script of the Media client loads this, and what the words imply is the core's.

Source: contracts/media.md, sections 1 and 2.
"""

from enum import StrEnum


class Permission(StrEnum):
    """What a participant may do."""

    VIEW_OVERLAP = "VIEW_OVERLAP"
    VIEW_INSIGHTS = "VIEW_INSIGHTS"
    PROVIDE_SEED_AUDIENCE = "PROVIDE_SEED_AUDIENCE"
    PROVIDE_BASE_AUDIENCE = "PROVIDE_BASE_AUDIENCE"
    CREATE_CUSTOM_AUDIENCE = "CREATE_CUSTOM_AUDIENCE"
    EXPORT_AUDIENCE = "EXPORT_AUDIENCE"
    MODEL_QUALITY = "MODEL_QUALITY"
    MANAGE_USERS = "MANAGE_USERS"


class CollaborationType(StrEnum):
    """What a data room is for."""

    INSIGHTS = "ENABLE_INSIGHTS"
    LOOKALIKE = "ENABLE_LOOKALIKE_AUDIENCES"
    REMARKETING = "ENABLE_REMARKETING"
    RULE_BASED = "ENABLE_RULED_BASED_AUDIENCES"
    OVERLAP = "ENABLE_OVERLAP"
    EXCLUSION = "ENABLE_EXCLUSION_TARGETING"

    @property
    def makes_audiences(self) -> bool:
        """Whether audiences can be created where it is on."""
        return self not in (CollaborationType.OVERLAP, CollaborationType.INSIGHTS)


class Family(StrEnum):
    """Kinds of matching ids that identify by the same thing; ids match only within a family."""

    STRING = "string"
    EMAIL = "email"
    PHONE = "phone"


class MatchingId(StrEnum):
    """The kind of identifier by which the two sides find that they know the same person."""

    STRING = "STRING"
    EMAIL = "EMAIL"
    HASHED_EMAIL = "HASHED_EMAIL"
    PHONE_NUMBER = "PHONE_NUMBER"
    HASHED_PHONE_NUMBER = "HASHED_PHONE_NUMBER"

    @property
    def family(self) -> Family:
        """The kinds that this one can match: a hashed seed matches a raw base, and the other way round."""
        return _FAMILIES[self]

    @property
    def is_hashed(self) -> bool:
        """Whether the ids are given as SHA-256 hashes already."""
        return self in (MatchingId.HASHED_EMAIL, MatchingId.HASHED_PHONE_NUMBER)


_FAMILIES = {
    MatchingId.STRING: Family.STRING,
    MatchingId.EMAIL: Family.EMAIL,
    MatchingId.HASHED_EMAIL: Family.EMAIL,
    MatchingId.PHONE_NUMBER: Family.PHONE,
    MatchingId.HASHED_PHONE_NUMBER: Family.PHONE,
}
