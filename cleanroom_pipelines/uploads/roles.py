"""Column roles: the meaning of each column of an uploaded table.

Lives here: the only list of roles.
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

    @property
    def is_feature(self) -> bool:
        """Whether the column is a feature; a table may have several."""
        return self in (Role.CATEGORICAL_FEATURE, Role.NUMERICAL_FEATURE)

    @property
    def is_id(self) -> bool:
        """Whether the column holds ids; only ids must not be missing."""
        return self in (Role.USER_ID, Role.ITEM_ID)
