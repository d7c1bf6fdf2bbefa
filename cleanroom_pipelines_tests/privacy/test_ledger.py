"""Contract: one ledger per pair of organisations, repeated questions, and the typed error."""

import pickle
import tempfile
from collections.abc import Iterator
from pathlib import Path
from secrets import token_hex

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cleanroom_pipelines.catalog import Catalog, LedgerLine, Pair
from cleanroom_pipelines.errors import CleanroomError, StatusCode
from cleanroom_pipelines.privacy import COUNT, PAIR_TENTHS, BudgetSpentError, Price, budget_spent, question_key

from ..catalog.building import Clock
from ..databases import without_waiting_for_the_disk
from ..examples import one_in


@given(st.integers(0, 2_000), st.integers(0, 2_000), st.integers(1, 2_000))
def test_the_error_states_units_and_survives_processes(total: int, spent: int, cost: int) -> None:
    error = pickle.loads(pickle.dumps(budget_spent(total=total, spent=spent, cost=cost)))
    assert isinstance(error, BudgetSpentError)
    assert isinstance(error, CleanroomError)
    assert (error.total, error.spent, error.cost) == (total / 10, spent / 10, cost / 10)
    assert error.attributes == {"total": total / 10, "spent": spent / 10, "cost": cost / 10}
    assert error.status_code == StatusCode.PRIVACY_BUDGET_SPENT
    assert "both providers" in error.remedy
    left = max(0, total - spent) / 10
    assert f" {left:g} of {total / 10:g} are left" in str(error)


questions = st.tuples(st.text(max_size=5), st.text(max_size=5), st.integers(1, 1_000))


@given(questions, questions)
def test_different_questions_have_different_keys(one: tuple[str, str, int], other: tuple[str, str, int]) -> None:
    assert (question_key(*one) == question_key(*other)) == (one == other)
    assert question_key("ab", "c", 1) != question_key("a", "bc", 1)
    assert question_key("a", "b", 11) != question_key("a", "b1", 1), "another price is another noise"
    assert len(bytes.fromhex(question_key(*one))) == 32


@pytest.fixture(scope="module")
def catalog() -> Iterator[Catalog]:
    with tempfile.TemporaryDirectory() as folder:
        catalog = Catalog(f"sqlite:///{Path(folder) / 'catalog.db'}", clock=Clock(), token_hex=token_hex)
        catalog.database.stay_connected()
        catalog.database.migrate()
        with without_waiting_for_the_disk():
            yield catalog
        catalog.database.close()


def fresh_pair(catalog: Catalog) -> Pair:
    return catalog.pairs.pair("advertiser.example", f"publisher-{len(catalog.pairs.all())}.example")


def line(name: str, price: Price = COUNT) -> LedgerLine:
    return LedgerLine(
        key=question_key("content", name, price.tenths),
        kind="size",
        tenths=price.tenths,
        variance=str(price.variance),
        sensitivity=str(price.sensitivity),
    )


@one_in(10)
@given(st.lists(st.lists(st.tuples(st.sampled_from("abcdef"), st.sampled_from([1, 20, 333, 600])), max_size=4)))
def test_a_pair_cannot_spend_more_than_its_budget(catalog: Catalog, baskets: list[list[tuple[str, int]]]) -> None:
    pair, paid = fresh_pair(catalog), dict[tuple[str, int], int]()
    for basket in baskets:
        new = {each: each[1] for each in basket if each not in paid}
        found = catalog.pairs.charge(pair.id, [line(name, Price(tenths)) for name, tenths in basket])
        if sum(paid.values()) + sum(new.values()) > PAIR_TENTHS:
            assert found is None, "all of a basket or nothing"
        else:
            paid |= new
            assert found is not None
            assert found.spent == sum(paid.values())
        ledger = catalog.pairs.ledger(pair.id)
        assert (ledger.spent, ledger.left) == (sum(paid.values()), PAIR_TENTHS - sum(paid.values()))
    assert sorted(each.tenths for each in catalog.pairs.ledger_lines(pair.id)) == sorted(paid.values())


def test_paid_answers_stay_free_for_everyone_even_with_no_budget_left(catalog: Catalog) -> None:
    pair = fresh_pair(catalog)
    assert catalog.pairs.charge(pair.id, [line("a", Price(PAIR_TENTHS - 1))]) is not None
    assert catalog.pairs.charge(pair.id, [line("b", Price(2))]) is None
    again = catalog.pairs.charge(pair.id, [line("a", Price(PAIR_TENTHS - 1))])
    assert again is not None
    assert again.spent == PAIR_TENTHS - 1
    assert catalog.pairs.charge(pair.id, [line("b", Price(1))]) is not None
    assert catalog.pairs.charge(pair.id, [line("c", Price(1))]) is None


def test_each_pair_has_one_ledger_in_either_order(catalog: Catalog) -> None:
    a, b = fresh_pair(catalog), fresh_pair(catalog)
    assert catalog.pairs.pair(*reversed(a.organizations)).id == a.id
    assert catalog.pairs.charge(a.id, [line("a", Price(PAIR_TENTHS))]) is not None
    assert catalog.pairs.charge(b.id, [line("a", Price(PAIR_TENTHS))]) is not None, (
        "the same question of another pair"
    )
