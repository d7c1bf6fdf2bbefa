"""Contract: data attributes have values and operators; rare values are not listed."""

import json
from pathlib import Path

import pandas as pd
import pytest

from cleanroom_pipelines.audiences.attributes import (
    LEAST_USERS_OF_A_VALUE,
    AttributeType,
    DataAttribute,
    DataAttributes,
    data_attributes,
    in_reading_order,
)
from cleanroom_pipelines.audiences.definitions import AttributeFilter, FilterOperator
from cleanroom_pipelines.errors import UsageError

from .plain_rooms import SEGMENTS, PlainRoom, random_room


def common(column: pd.Series) -> set[str]:
    counts = column.dropna().map(str).value_counts()
    return set(counts[counts >= LEAST_USERS_OF_A_VALUE].index)


@pytest.mark.parametrize(("seed", "n_users"), [(0, 600), (1, 600), (2, 150), (3, 100), (4, 20)])
def test_values_match_a_simple_count(seed: int, n_users: int, tmp_path: Path) -> None:
    room = random_room(seed, n_users)
    with room.opened(tmp_path) as relations:
        found = {each["name"]: each for each in data_attributes(relations).as_dict()["attributes"]}
    relevant = room.relevant
    segments = room.segments[room.segments["user_id"].isin(set(relevant["user_id"]))]["segment"]
    for name, column in {"age": relevant["age"], "gender": relevant["gender"], "segments": segments}.items():
        values = common(column)
        assert set(found[name]["values"] if name in found else []) == values
        assert (name in found) == bool(values), "an attribute without a value to name is not listed"


def test_the_oracle_covers_rare_and_common_values() -> None:
    relevant = random_room(2, 150).relevant
    assert 0 < len(common(relevant["age"])) < relevant["age"].nunique()


def test_types_and_operators(tmp_path: Path) -> None:
    with random_room(0, 2_000).opened(tmp_path) as relations:
        age, gender, segments = data_attributes(relations).as_dict()["attributes"]
    single = ["CONTAINS_ANY_OF", "CONTAINS_NONE_OF", "EMPTY", "NOT_EMPTY"]
    assert (age["name"], age["type"], age["operators"]) == ("age", "NUMERIC_RANGE", single)
    assert (gender["name"], gender["type"], gender["operators"]) == ("gender", "CATEGORICAL", single)
    assert (segments["name"], segments["type"]) == ("segments", "CATEGORICAL")
    assert set(segments["operators"]) == {operator.value for operator in FilterOperator}
    assert age["values"] == ["5-9", "18-24", "25-34", "65+"], "by number, not by text"


def test_every_operator_can_be_used_with_every_value_that_filters_can_hold(tmp_path: Path) -> None:
    with random_room(0, 2_000).opened(tmp_path) as relations:
        attributes = data_attributes(relations).attributes
    for attribute in attributes:
        values = tuple(value for value in attribute.values if "\x00" not in value)
        assert len(values) > 1
        for operator in attribute.operators:
            assert AttributeFilter(attribute.name, operator, values)
    with pytest.raises(UsageError):
        AttributeFilter("age", FilterOperator.CONTAINS_ALL, attributes[0].values)


def test_unusual_texts_are_preserved_exactly(tmp_path: Path) -> None:
    ids = [f"u{n}" for n in range(30)]
    users = pd.DataFrame({"user_id": ids, "age": None, "gender": None, "is_relevant": True})
    pairs = pd.DataFrame([(user, segment) for user in ids for segment in SEGMENTS], columns=["user_id", "segment"])
    empty = pd.DataFrame({"digest": [], "user_id": []})
    room = PlainRoom(users, pairs, empty, empty.rename(columns={"user_id": "audience_type"}))
    with room.opened(tmp_path) as relations:
        (segments,) = data_attributes(relations).attributes
    assert segments.values == tuple(sorted(SEGMENTS))


@pytest.mark.parametrize(("n_users", "is_named"), [(24, False), (25, True)])
def test_a_value_is_listed_from_25_relevant_users(n_users: int, is_named: bool, tmp_path: Path) -> None:
    ids = [f"u{n}" for n in range(60)]
    users = pd.DataFrame(
        {"user_id": ids, "age": "18-24", "gender": None, "is_relevant": [n < n_users for n in range(60)]}
    )
    empty = pd.DataFrame({"digest": [], "user_id": []})
    segments = pd.DataFrame({"user_id": ids, "segment": "s"})
    room = PlainRoom(users, segments, empty, empty.rename(columns={"user_id": "audience_type"}))
    with room.opened(tmp_path) as relations:
        found = [each.name for each in data_attributes(relations).attributes]
    assert found == (["age", "segments"] if is_named else [])


def test_brackets_are_read_by_their_first_number() -> None:
    assert sorted(["65+", "unknown", "5-9", "18-24", "100+"], key=in_reading_order) == [
        "unknown",
        "5-9",
        "18-24",
        "65+",
        "100+",
    ]


def test_kept_text() -> None:
    age = DataAttribute("age", AttributeType.NUMERIC_RANGE, ("5-9", "é"), (FilterOperator.EMPTY,))
    assert json.dumps(DataAttributes((age,)).as_dict()) == (
        '{"attributes": [{"name": "age", "type": "NUMERIC_RANGE", "values": ["5-9", "\\u00e9"], '
        '"operators": ["EMPTY"]}]}'
    )
