"""Contract: invalid requests are rejected before any work."""

import pytest

from cleanroom_pipelines.errors import UsageError
from cleanroom_pipelines.similarity import (
    GenerationSettings,
    InteractionsSchema,
    TrainingSettings,
    UsersSchema,
    Window,
)
from cleanroom_pipelines.uploads.roles import Role

from ..offenders import offenders


def test_a_schema_is_read_and_written_back() -> None:
    text = "user=USER_ID,item=ITEM_ID,ts=TIMESTAMP,brand=CATEGORICAL_FEATURE"
    schema = InteractionsSchema.parse(text)
    assert str(schema) == text
    assert (schema.user_column, schema.item_column, schema.time_column) == ("user", "item", "ts")
    assert schema.features == (("brand", Role.CATEGORICAL_FEATURE),)


def test_an_invalid_schema_is_rejected() -> None:
    texts = [
        "",
        "user=USER_ID",
        "item=ITEM_ID",
        "user=USER_ID,item=ITEM_ID,other=ITEM_ID",
        "user=USER_ID,user=ITEM_ID",
        "user=USER_ID,USER=ITEM_ID",
        "user=USER_ID,item=ITEM_ID,a=TIMESTAMP,b=TIMESTAMP",
        "user=USER_ID,item=ITEM_ID,x=SOMETHING",
        "user=USER_ID,item=ITEM_ID," + ",".join(f"f{n}=NUMERICAL_FEATURE" for n in range(11)),
    ]

    def check(text: str) -> None:
        with pytest.raises(UsageError):
            InteractionsSchema.parse(text)

    assert offenders(texts, check) == []


def test_a_users_table_has_no_items() -> None:
    with pytest.raises(UsageError):
        UsersSchema.parse("user=USER_ID,item=ITEM_ID")


def test_a_window_must_not_end_before_it_starts() -> None:
    with pytest.raises(UsageError):
        Window(10, 10)


def test_users_in_memory_are_bounded() -> None:
    assert TrainingSettings(max_representation_users=1_000_000)
    with pytest.raises(UsageError):
        TrainingSettings(max_representation_users=1_000_001)
    assert GenerationSettings(max_fit_seed_users=10_000, max_fit_other_users=40_000)
    with pytest.raises(UsageError):
        GenerationSettings(max_fit_seed_users=10_001, max_fit_other_users=40_000)
