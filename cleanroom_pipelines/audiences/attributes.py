"""The attributes that filters can be set on, with the values they have in the base audience.

Lives here: `data_attributes`, and which values are common enough to be named.
Add here when users get a further attribute.
Keep out: what filters mean (definitions), and counts: none is given here.

Values are the publisher's own words. One that few users carry may be a name, or say who somebody is, so values
carried by fewer than 25 relevant users are left out, by the exact count: it depends on the publisher's data alone,
which the other side can neither see nor change.
"""

import re
from dataclasses import dataclass
from enum import StrEnum

from cleanroom_pipelines.audiences.definitions import AGE, GENDER, SEGMENTS, FilterOperator
from cleanroom_pipelines.audiences.relations import Relations
from cleanroom_pipelines.documents import Document

# Fewer users share a value: it is not named.
LEAST_USERS_OF_A_VALUE = 25

_MANY_VALUED = tuple(FilterOperator)
# CONTAINS_ALL says nothing that CONTAINS_ANY does not where a user has one value at most.
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
    """What the values of an attribute are."""

    NUMERIC_RANGE = "NUMERIC_RANGE"
    CATEGORICAL = "CATEGORICAL"


@dataclass(frozen=True)
class DataAttribute(Document):
    """An attribute that filters can be set on.

    Args:
        name: `age`, `gender` or `segments`, as filters name it.
        type: What its values are.
        values: Those common enough to be named, exactly as the publisher writes them; ages by number, others by
            code point.
        operators: What filters on it may ask.
    """

    name: str
    type: AttributeType
    values: tuple[str, ...]
    operators: tuple[FilterOperator, ...]


@dataclass(frozen=True)
class DataAttributes(Document):
    """The attributes of a base audience.

    Args:
        attributes: Those that have values to name, in the order age, gender, segments.
    """

    attributes: tuple[DataAttribute, ...]


def data_attributes(relations: Relations) -> DataAttributes:
    """Find the attributes of the base audience; the seed audiences play no part.

    Args:
        relations: The room.

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
    """Sorts brackets of ages by where they begin (5-9 before 18-24), and all other texts by code point."""
    start = re.match(r"[0-9]{1,9}", value)
    return (int(start.group()) if start else -1, value)


def _values(relations: Relations, query: str) -> tuple[str, ...]:
    values = relations.engine.fetch(query, [LEAST_USERS_OF_A_VALUE])["value"].to_pylist()
    return tuple(sorted(values, key=in_reading_order if query is _COMMON_AGES else None))
