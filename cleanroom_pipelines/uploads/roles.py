"""Column roles: the meaning of each column of an uploaded table.

Lives here: the only lists of roles: those that are declared, and those of a data room's files.
Add here when a column can have a new meaning.
Keep out: the cells that a role accepts (`cells`).
"""

from enum import StrEnum


class Role(StrEnum):
    """Meaning of a column (source: `columnTypes` of the AWS Clean Rooms ML API)."""

    USER_ID = "USER_ID"
    ITEM_ID = "ITEM_ID"
    TIMESTAMP = "TIMESTAMP"
    CATEGORICAL_FEATURE = "CATEGORICAL_FEATURE"
    NUMERICAL_FEATURE = "NUMERICAL_FEATURE"
    # Not in the AWS API: what people call the item. It changes no ranking.
    ITEM_NAME = "ITEM_NAME"

    @property
    def is_feature(self) -> bool:
        """Whether the column is a feature; a table may have several."""
        return self in (Role.CATEGORICAL_FEATURE, Role.NUMERICAL_FEATURE)

    @property
    def is_id(self) -> bool:
        """Whether the column contains ids, which must not be missing; cells of other columns may be empty."""
        return self in (Role.USER_ID, Role.ITEM_ID)


class RoomRole(StrEnum):
    """Meaning of a column in a data-room file, in addition to USER_ID; the column's position determines it."""

    MATCHING_ID = "MATCHING_ID"
    LABEL = "LABEL"
    SCOPE = "SCOPE"
    AGE = "AGE"
    GENDER = "GENDER"
    NUMBER = "NUMBER"

    @property
    def is_id(self) -> bool:
        """Whether the column contains ids."""
        return self is RoomRole.MATCHING_ID

    @property
    def is_feature(self) -> bool:
        """Whether the column is a feature: always False, since a room's model has its own features."""
        return False
