"""Contract: contracts/media.md section 5, items 6 to 8: what questions cost, and when a list is an earlier one."""

import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cleanroom_pipelines.errors import CleanroomError
from cleanroom_pipelines.privacy import (
    BudgetSpentError,
    Delivery,
    cost_of_rows,
    cost_of_table,
    decide_delivery,
    earlier_to_repeat,
    question_key,
    spend,
)


def test_a_table_costs_its_cells_of_one_user_at_most_10() -> None:
    costs = {0: 1, 1: 1, 6: 6, 10: 10, 11: 10, 4_000: 10}
    assert {n_cells: cost_of_table(n_cells) for n_cells in costs} == costs


def test_a_row_costs_one_unit() -> None:
    assert [cost_of_rows(n) for n in (0, 1, 7)] == [0, 1, 7]


@given(st.integers(0, 200), st.integers(0, 200), st.integers(0, 20))
def test_nobody_spends_more_than_there_is(total: int, spent: int, cost: int) -> None:
    if spent + cost <= total:
        assert spend(total=total, spent=spent, cost=cost) == spent + cost
        return
    with pytest.raises(BudgetSpentError) as caught:
        spend(total=total, spent=spent, cost=cost)
    error = pickle.loads(pickle.dumps(caught.value))
    assert (error.total, error.spent, error.cost) == (total, spent, cost)
    assert error.attributes == {"total": total, "spent": spent, "cost": cost}
    assert isinstance(error, CleanroomError)
    assert error.remedy


@given(st.tuples(st.text(), st.text()), st.tuples(st.text(), st.text()))
def test_a_key_tells_questions_apart(one: tuple[str, str], other: tuple[str, str]) -> None:
    assert (question_key(*one) == question_key(*other)) == (one == other)
    assert question_key("ab", "c") != question_key("a", "bc")
    assert len(bytes.fromhex(question_key(*one))) == 32


def test_a_list_that_differs_by_1_to_24_users_is_the_earlier_one() -> None:
    decided = {
        0: Delivery("new"),
        1: Delivery("repeat earlier"),
        24: Delivery("repeat earlier"),
        25: Delivery("new"),
    }
    assert {n: decide_delivery(n) for n in decided} == decided


def test_the_nearest_of_all_earlier_lists_is_repeated() -> None:
    assert earlier_to_repeat({}) is None
    assert earlier_to_repeat({"a": 25, "b": 400}) is None
    assert earlier_to_repeat({"a": 24, "b": 3, "c": 3, "d": 30}) == "b"
    assert earlier_to_repeat({"a": 24, "b": 0}) is None, "the same list was delivered before"


def test_lists_made_by_adding_one_user_after_the_other_never_differ_by_few() -> None:
    delivered: dict[str, set[int]] = {}
    for size in range(100, 250):
        asked = set(range(size))
        earlier = earlier_to_repeat({name: len(asked ^ users) for name, users in delivered.items()})
        delivered.setdefault(earlier or f"list {size}", asked)
    sets = list(delivered.values())
    assert len(sets) == 6
    assert min(len(a ^ b) for a in sets for b in sets if a is not b) >= 25
