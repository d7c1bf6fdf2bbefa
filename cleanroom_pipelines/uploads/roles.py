"""Roles: what a column of an uploaded table means.

Lives here: the one list of roles.
Add here when a column can mean something new.
Keep out: which cells a role takes (`cells`).
"""

from enum import StrEnum


class Role(StrEnum):
    """What a column means (source: `columnTypes` of the AWS Clean Rooms ML API)."""

    USER_ID = "USER_ID"
    ITEM_ID = "ITEM_ID"
    TIMESTAMP = "TIMESTAMP"
    CATEGORICAL_FEATURE = "CATEGORICAL_FEATURE"
    NUMERICAL_FEATURE = "NUMERICAL_FEATURE"

    @property
    def is_feature(self) -> bool:
        """Whether the column describes; a table may have several of these."""
        return self in (Role.CATEGORICAL_FEATURE, Role.NUMERICAL_FEATURE)

    @property
    def is_id(self) -> bool:
        """Whether every row needs a value: a missing time is unknown, and a missing feature is none."""
        return self in (Role.USER_ID, Role.ITEM_ID)
