"""Contract: what a caller may ask is checked before any work (contracts/similarity.md, "what is an error")."""

import pytest

from cleanroom_pipelines.errors import UsageError
from cleanroom_pipelines.similarity import (
    AudienceSize,
    InteractionsSchema,
    Role,
    UsersSchema,
    Window,
    parse_sizes,
)


def test_a_schema_is_read_and_written_back() -> None:
    text = "user=USER_ID,item=ITEM_ID,ts=TIMESTAMP,brand=CATEGORICAL_FEATURE"
    schema = InteractionsSchema.parse(text)
    assert str(schema) == text
    assert (schema.user_column, schema.item_column, schema.time_column) == ("user", "item", "ts")
    assert schema.features == (("brand", Role.CATEGORICAL_FEATURE),)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "user=USER_ID",
        "item=ITEM_ID",
        "user=USER_ID,item=ITEM_ID,other=ITEM_ID",
        "user=USER_ID,user=ITEM_ID",
        "user=USER_ID,item=ITEM_ID,a=TIMESTAMP,b=TIMESTAMP",
        "user=USER_ID,item=ITEM_ID,x=SOMETHING",
        "user=USER_ID,item=ITEM_ID," + ",".join(f"f{n}=NUMERICAL_FEATURE" for n in range(11)),
    ],
)
def test_a_schema_that_is_not_allowed_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        InteractionsSchema.parse(text)


def test_a_users_table_has_no_items() -> None:
    with pytest.raises(UsageError):
        UsersSchema.parse("user=USER_ID,item=ITEM_ID")


@pytest.mark.parametrize("text", ["0%", "101%", "-5%", "0", "-1", "nan%", "inf%", "x", "", "1%,1%", "1.5", "5%,5.0%"])
def test_sizes_that_are_not_allowed_are_refused(text: str) -> None:
    with pytest.raises(UsageError):
        parse_sizes(text)


def test_at_most_25_sizes() -> None:
    assert len(parse_sizes(",".join(str(n) for n in range(1, 26)))) == 25
    with pytest.raises(UsageError):
        parse_sizes(",".join(str(n) for n in range(1, 27)))


@pytest.mark.parametrize(
    ("text", "population", "expected"),
    [("5%", 1_000, 50), ("1%", 50, 1), ("0.07%", 10_000, 7), ("33%", 10, 3), ("100%", 7, 7), ("5000", 10, 5_000)],
)
def test_a_percentage_is_rounded_down_and_at_least_one(text: str, population: int, expected: int) -> None:
    assert AudienceSize.parse(text).n_users(population) == expected


def test_a_window_must_not_end_before_it_starts() -> None:
    with pytest.raises(UsageError):
        Window(10, 10)
