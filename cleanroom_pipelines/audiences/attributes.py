"""Attributes that audiences can be filtered by, with their values in the base audience.

Lives here: `data_attributes`, and the threshold below which a value is not listed.
Add here when users get another attribute.
Keep out: the meaning of filters (definitions), and counts, which this module never returns.

Values are the publisher's own words. A rare value may be a name or identify a person, so values of fewer than 25
relevant users are left out. The exact count decides: it depends only on the publisher's data, which the other side
can neither see nor change.
"""

import re
from dataclasses import dataclass
from enum import StrEnum

from cleanroom_pipelines.audiences.definitions import AGE, GENDER, SEGMENTS, FilterOperator
from cleanroom_pipelines.audiences.relations import Relations
from cleanroom_pipelines.documents import Document

# Values of fewer users are not listed.
LEAST_USERS_OF_A_VALUE = 25

_MANY_VALUED = tuple(FilterOperator)
# For attributes with at most one value per user, CONTAINS_ALL adds nothing to CONTAINS_ANY.
_SINGLE_VALUED = tuple(each for each in FilterOperator if each is not FilterOperator.CONTAINS_ALL)

_COMMON_AGES = """-- one row per age bracket that enough relevant users have
SELECT age AS value FROM room_users WHERE age IS NOT NULL GROUP BY age HAVING count(*) >= ?"""

_COMMON_GENDERS = """-- one row per gender that enough relevant users have
SELECT gender AS value FROM room_users WHERE gender IS NOT NULL GROUP BY gender HAVING count(*) >= ?"""

_COMMON_SEGMENTS = """-- one row per segment that enough relevant users are in; room_segments is distinct
SELECT segments.segment AS value
FROM room_segments AS segments
SEMI JOIN room_users AS users ON users.user_id = segments.user_id
GROUP BY segments.segment
HAVING count(*) >= ?"""


class AttributeType(StrEnum):
    """The type of an attribute's values."""

    NUMERIC_RANGE = "NUMERIC_RANGE"
    CATEGORICAL = "CATEGORICAL"


@dataclass(frozen=True)
class DataAttribute(Document):
    """An attribute that audiences can be filtered by.

    Args:
        name: `age`, `gender` or `segments`, as in filters.
        type: The type of its values.
        values: Values of at least 25 relevant users, exactly as the publisher writes them; ages sorted by number,
            others by code point.
        operators: Operators that filters on it may use.
    """

    name: str
    type: AttributeType
    values: tuple[str, ...]
    operators: tuple[FilterOperator, ...]


@dataclass(frozen=True)
class DataAttributes(Document):
    """The attributes of a base audience.

    Args:
        attributes: Attributes with at least one listed value, in the order age, gender, segments.
    """

    attributes: tuple[DataAttribute, ...]


def data_attributes(relations: Relations) -> DataAttributes:
    """List the attributes of the base audience, computed without the seed audiences.

    Args:
        relations: The room's relations.

    Raises:
        EngineError: The engine failed.
    """
    found = (
        DataAttribute(AGE, AttributeType.NUMERIC_RANGE, _values(relations, _COMMON_AGES), _SINGLE_VALUED),
        DataAttribute(GENDER, AttributeType.CATEGORICAL, _values(relations, _COMMON_GENDERS), _SINGLE_VALUED),
        DataAttribute(SEGMENTS, AttributeType.CATEGORICAL, _values(relations, _COMMON_SEGMENTS), _MANY_VALUED),
    )
    return DataAttributes(tuple(attribute for attribute in found if attribute.values))


def in_reading_order(value: str) -> tuple[int, str]:
    """Sort key for attribute values: age brackets by lower bound (5-9 before 18-24), other texts by code point."""
    start = re.match(r"[0-9]{1,9}", value)
    return (int(start.group()) if start else -1, value)


def _values(relations: Relations, query: str) -> tuple[str, ...]:
    values = relations.engine.fetch(query, [LEAST_USERS_OF_A_VALUE])["value"].to_pylist()
    return tuple(sorted(values, key=in_reading_order if query is _COMMON_AGES else None))
