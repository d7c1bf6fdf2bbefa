"""Contract: every definition object is valid and survives a JSON round trip.

This includes wire values, reaches of 1 to 30, values not needed for EMPTY and NOT_EMPTY, CONTAINS_ALL on an
attribute of one value, and cycles, which are errors. Errors name the place and never a value.
"""

import json
import pickle
from itertools import product
from typing import Any

import pytest
from hypothesis import given

from cleanroom_pipelines.audiences.definitions import (
    MAX_AUDIENCES,
    MAX_COMBINATORS,
    MAX_DEPTH,
    MAX_FILTERS,
    MAX_TEXT,
    MAX_VALUES,
    AttributeFilter,
    BaseRef,
    Combinator,
    CombineOperator,
    CustomRef,
    Definition,
    Exclusion,
    FileRef,
    FilterOperator,
    Filters,
    Lookalike,
    MatchOperator,
    Ref,
    Remarketing,
    RuleBased,
    SeedRef,
    filter_values,
    parse_definition,
    reachable,
    references,
)
from cleanroom_pipelines.errors import UsageError

from ..offenders import offenders
from .definition_worlds import Room, rooms

SECRET = "Jane's segment"
BASE = {"kind": "base"}


def rule(**parts: Any) -> dict[str, Any]:
    return {"kind": "rule_based", "source": BASE} | parts


def one(**parts: Any) -> dict[str, Any]:
    condition = {"attribute": "age", "operator": "CONTAINS_ANY_OF", "values": [SECRET]} | parts
    return rule(filters={"operator": "AND", "filters": [condition]})


FILTERS = Filters(MatchOperator.MATCH_ANY, (AttributeFilter("age", FilterOperator.CONTAINS_ANY, ("5-9",)),))
FILTERS_TEXT = (
    '{"operator": "OR", "filters": [{"attribute": "age", "operator": "CONTAINS_ANY_OF", "values": ["5-9"]}]}'
)
KEPT: list[tuple[Definition, str]] = [
    (Remarketing("t"), '{"kind": "remarketing", "audience_type": "t"}'),
    (Exclusion("t"), '{"kind": "exclusion", "audience_type": "t"}'),
    (
        Lookalike(CustomRef("a"), 3),
        '{"kind": "lookalike", "source": {"kind": "custom", "id": "a"}, "reach": 3, '
        '"exclude_seed_audience": false}',
    ),
    (
        RuleBased(BaseRef(), FILTERS, (Combinator(CombineOperator.DIFF, SeedRef("é")),)),
        '{"kind": "rule_based", "source": {"kind": "base"}, "filters": '
        + FILTERS_TEXT
        + ', "combinators": [{"operator": "DIFF", "source": {"kind": "seed", "audience_type": "\\u00e9"}, '
        '"filters": null}]}',
    ),
]


@pytest.mark.parametrize(("definition", "text"), KEPT)
def test_kept_text(definition: Definition, text: str) -> None:
    assert json.dumps(definition.as_dict()) == text
    assert parse_definition(json.loads(text)) == type(definition).from_dict(json.loads(text)) == definition


def test_the_values_on_the_wire() -> None:
    assert {each.name: each.value for each in FilterOperator} == {
        "CONTAINS_ANY": "CONTAINS_ANY_OF",
        "CONTAINS_NONE": "CONTAINS_NONE_OF",
        "CONTAINS_ALL": "CONTAINS_ALL_OF",
        "EMPTY": "EMPTY",
        "NOT_EMPTY": "NOT_EMPTY",
    }
    assert {each.name: each.value for each in MatchOperator} == {"MATCH_ALL": "AND", "MATCH_ANY": "OR"}
    assert [each.value for each in CombineOperator] == ["INTERSECT", "UNION", "DIFF"]


@given(rooms)
def test_definitions_survive_a_round_trip(room: Room) -> None:
    for definition in room.audiences.values():
        text = json.dumps(definition.as_dict())
        assert parse_definition(json.loads(text)) == definition
        assert hash(parse_definition(definition.as_dict())) == hash(definition)


def test_a_reach_in_range() -> None:
    for reach in (1, 30):
        read = parse_definition({"kind": "lookalike", "source": BASE, "reach": reach})
        assert read == Lookalike(BaseRef(), reach, exclude_seed_audience=False)


def test_a_reach_out_of_range() -> None:
    def check(reach: object) -> None:
        with pytest.raises(UsageError, match="reach"):
            parse_definition({"kind": "lookalike", "source": BASE, "reach": reach})

    assert offenders([0, 31, -1, 10.5, 10.0, True, "10", None, [10]], check) == []


def test_a_condition_that_needs_no_values() -> None:
    def check(operator: str, values: dict[str, Any]) -> None:
        condition = {"attribute": "gender", "operator": operator, **values}
        read = parse_definition(rule(filters={"operator": "OR", "filters": [condition]}))
        assert read == RuleBased(
            BaseRef(), Filters(MatchOperator.MATCH_ANY, (AttributeFilter("gender", FilterOperator(operator)),))
        )

    values = [{}, {"values": None}, {"values": []}, {"values": ["ignored"]}]
    assert offenders(product(["EMPTY", "NOT_EMPTY"], values), check) == []


def test_one_value_twice_is_one_value() -> None:
    parse_definition(one(operator="CONTAINS_ALL_OF", values=["a", "a"]))
    parse_definition(one(operator="CONTAINS_ALL_OF", attribute="segments", values=["a", "b"]))


FILTER = "definition.filters.filters[0]"
SECOND = {"operator": "UNION", "source": BASE}


def test_errors_name_the_place_but_not_the_value() -> None:
    places: list[tuple[object, str]] = [
        (None, "definition"),
        ([], "definition"),
        ({}, "definition"),
        ({"kind": SECRET}, "definition"),
        ({"kind": ["rule_based"]}, "definition"),
        ({"kind": "rule_based"}, "definition"),
        (rule(name=SECRET), "definition"),
        (rule(source=None), "definition.source"),
        (rule(source={"kind": "seed"}), "definition.source"),
        (rule(source={"kind": "seed", "audience_type": ""}), "definition.source"),
        (rule(source={"kind": "seed", "audience_type": "\ud800"}), "definition.source"),
        (rule(source={"kind": "seed", "audience_type": "a\x00"}), "definition.source"),
        (rule(source={"kind": "seed", "audience_type": "a" * (MAX_TEXT + 1)}), "definition.source"),
        (rule(source={"kind": "custom", "id": 7}), "definition.source"),
        (rule(source={"kind": "file", "path": SECRET}), "definition.source"),
        (rule(source={"kind": "base", "path": SECRET}), "definition.source"),
        (rule(filters=[SECRET]), "definition.filters"),
        (rule(filters={"operator": "XOR", "filters": []}), "definition.filters"),
        (rule(filters={"operator": "AND", "filters": SECRET}), "definition.filters.filters"),
        (one(attribute=SECRET), FILTER),
        (one(attribute=[SECRET]), FILTER),
        (one(operator=SECRET), FILTER),
        (one(operator={}), FILTER),
        (one(values=[]), FILTER),
        (one(values=None), FILTER),
        (one(values=SECRET), FILTER),
        (one(values=[SECRET, 7]), FILTER),
        (one(values=[SECRET] * (MAX_VALUES + 1)), FILTER),
        (one(operator="CONTAINS_ALL_OF", values=[SECRET, "b"]), FILTER),
        (one(operator="CONTAINS_ALL_OF", attribute="gender", values=[SECRET, "b"]), FILTER),
        (rule(combinators=SECOND), "definition.combinators"),
        (rule(combinators=""), "definition.combinators"),
        (rule(combinators=[SECOND, {"operator": "UNION"}]), "definition.combinators[1]"),
        (rule(combinators=[SECOND, SECOND | {"operator": SECRET}]), "definition.combinators[1]"),
        (rule(combinators=[SECOND | {"source": {"kind": SECRET}}]), "definition.combinators[0].source"),
        (
            rule(combinators=[SECOND | {"filters": one(values=[])["filters"]}]),
            "definition.combinators[0].filters.filters[0]",
        ),
        (rule(combinators=[SECOND] * (MAX_COMBINATORS + 1)), "definition.combinators"),
        (
            rule(filters={"operator": "AND", "filters": [{}] * (MAX_FILTERS + 1)}),
            "definition.filters.filters",
        ),
        ({"kind": "remarketing"}, "definition"),
        ({"kind": "exclusion", "audience_type": [SECRET]}, "definition"),
        ({"kind": "lookalike", "source": BASE, "reach": 5, "exclude_seed_audience": "no"}, "definition"),
    ]

    def check(value: object, place: str) -> None:
        with pytest.raises(UsageError) as raised:
            parse_definition(value)
        assert raised.value.attributes["place"] == place
        assert f"At {place}: " in str(raised.value)
        assert SECRET not in str(raised.value)
        assert raised.value.remedy
        assert str(pickle.loads(pickle.dumps(raised.value))) == str(raised.value)

    assert offenders(places, check) == []


def test_there_is_a_limit_to_all_values_together() -> None:
    # Of 100 filters with 1,000 values each.
    with pytest.raises(UsageError, match="values in all filters"):
        parse_definition(
            rule(filters={"operator": "AND", "filters": one(values=["a"] * MAX_VALUES)["filters"]["filters"] * 11})
        )


def test_files_are_sources_of_the_algebra_over_files_alone() -> None:
    file = {"kind": "file", "path": "a.parquet"}
    assert parse_definition(rule(source=file), with_files=True) == RuleBased(FileRef("a.parquet"))
    for value in (
        rule(),
        rule(source={"kind": "seed", "audience_type": "a"}),
        one() | {"source": file},
        {"kind": "lookalike", "source": file, "reach": 1},
        {"kind": "remarketing", "audience_type": "a"},
    ):
        with pytest.raises(UsageError):
            parse_definition(value, with_files=True)


def test_direct_references_of_a_definition() -> None:
    definition = parse_definition(
        rule(
            combinators=[
                SECOND | {"source": {"kind": "custom", "id": "x"}},
                SECOND,
                SECOND | {"source": {"kind": "seed", "audience_type": "t"}, "filters": one()["filters"]},
            ]
        )
    )
    assert references(definition) == (BaseRef(), CustomRef("x"), SeedRef("t"))
    assert filter_values(definition) == {"age": {SECRET}}
    assert references(Lookalike(CustomRef("y"), 3)) == (CustomRef("y"),)
    assert references(Remarketing("t")) == (SeedRef("t"),)
    assert references(Exclusion("t")) == (BaseRef(), SeedRef("t"))


def chain(length: int) -> dict[str, Definition]:
    audiences: dict[str, Definition] = {str(length): Remarketing("t")}
    for number in range(length):
        audiences[str(number)] = RuleBased(CustomRef(str(number + 1)))
    return audiences


def test_references_are_followed_to_their_end() -> None:
    audiences: dict[str, Definition] = {
        "a": RuleBased(CustomRef("b")),
        "b": Lookalike(CustomRef("c"), 3),
        "c": Remarketing("t"),
    }
    start = RuleBased(CustomRef("a"))
    every: tuple[Ref, ...] = (CustomRef("a"), CustomRef("b"), CustomRef("c"), SeedRef("t"))
    assert reachable(start, audiences.__getitem__) == every
    assert reachable(start, audiences.__getitem__, through_lookalikes=False) == every[:2]


def test_a_cycle_is_an_error() -> None:
    audiences: dict[str, Definition] = {"a": RuleBased(CustomRef("b")), "b": Lookalike(CustomRef("a"), 3)}
    for start in audiences.values():
        with pytest.raises(UsageError, match="cycle"):
            reachable(start, audiences.__getitem__)
    with pytest.raises(UsageError, match="cycle"):
        reachable(RuleBased(CustomRef("new")), {"new": RuleBased(BaseRef())}.__getitem__, own_id="new")


def test_references_are_limited_in_depth_and_number() -> None:
    deepest = chain(MAX_DEPTH)
    assert SeedRef("t") in reachable(deepest["0"], deepest.__getitem__)
    deeper = chain(MAX_DEPTH + 1)
    with pytest.raises(UsageError, match=f"more than {MAX_DEPTH}"):
        reachable(deeper["0"], deeper.__getitem__)
    many = [CustomRef(f"{number}") for number in range(MAX_AUDIENCES + 1)]
    wide: dict[str, Definition] = {"top": RuleBased(BaseRef())}
    for number, ref in enumerate(many):
        wide[ref.id] = Remarketing("t")
        wide[f"group{number // 50}"] = RuleBased(
            BaseRef(),
            None,
            tuple(combined(each) for each in many[number // 50 * 50 : number + 1]),
        )
    groups = tuple(combined(CustomRef(f"group{number}")) for number in range(MAX_AUDIENCES // 50 + 1))
    with pytest.raises(UsageError, match=f"more than {MAX_AUDIENCES}"):
        reachable(RuleBased(BaseRef(), None, groups), wide.__getitem__)


def combined(ref: Ref) -> Combinator:
    return Combinator(CombineOperator.UNION, ref)
