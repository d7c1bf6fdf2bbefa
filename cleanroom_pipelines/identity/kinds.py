"""The kinds of matching ids.

Lives here: the one enum of kinds, and which kinds can match each other.
Add here when a kind is added.
Keep out: what an id of a kind looks like (`judging`, `phones`).
"""

from enum import StrEnum


class Family(StrEnum):
    """Kinds that identify by the same thing; ids match only within a family."""

    STRING = "string"
    EMAIL = "email"
    PHONE = "phone"


class MatchingId(StrEnum):
    """What two parties match their users by (source: contracts/media.md, section 2)."""

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
