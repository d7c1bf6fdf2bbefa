"""The kinds of matching ids, as a script names them.

Lives here: `MatchingId`, member by member that of `identity`; a test holds the two together.
Keep out: what an id of a kind looks like (`identity`). Loading that package brings arrays and columns, which a
script that only asks does not need.
"""

from enum import StrEnum


class MatchingId(StrEnum):
    """The kind of identifier by which the two sides find that they know the same person."""

    STRING = "STRING"
    EMAIL = "EMAIL"
    HASHED_EMAIL = "HASHED_EMAIL"
    PHONE_NUMBER = "PHONE_NUMBER"
    HASHED_PHONE_NUMBER = "HASHED_PHONE_NUMBER"
