"""Builders of audience definitions.

Contract: builders return valid JSON of the definition language, which `audiences.definitions` can parse; it
contains neither name nor sharing; an invalid argument raises a typed error at once.
"""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cleanroom_pipelines.audiences.definitions import parse_definition
from cleanroom_pipelines.media import (
    AmbiguousNameError,
    AudienceCombinator,
    AudienceCombinatorBuilder,
    AudienceFilters,
    Audiences,
    BaseAudience,
    CombineOperator,
    ExclusionTargetingAudienceBuilder,
    Filter,
    FilterOperator,
    InvalidDefinitionError,
    InvalidRequestError,
    LalAudienceStatistics,
    LookalikeAudienceBuilder,
    LookalikeAudienceDefinition,
    MatchOperator,
    MediaError,
    NotFoundError,
    Participant,
    Permission,
    RemarketingAudienceBuilder,
    RemarketingAudienceDefinition,
    RuleBasedAudienceBuilder,
    RuleBasedAudienceDefinition,
    SeedAudience,
    ValidationReport,
    ValidationReports,
)

from ..cases import assert_each
from .fake_server import custom_audience

SEED = SeedAudience("customers")
CUSTOM = custom_audience("abc123", "Best", {"kind": "lookalike", "reach": 5})
PUBLISHER = Participant(["p@example.com"], [Permission.EXPORT_AUDIENCE], "publisher", id="1")
TEXTS = st.text(st.characters(codec="utf-8", exclude_characters="\x00"), min_size=1, max_size=20)


def a_filter(*values: str) -> Filter:
    return Filter(attribute="segments", values=list(values), operator=FilterOperator.CONTAINS_ANY)


def test_a_rule_is_valid_json_of_the_definition_language() -> None:
    filters = AudienceFilters(filters=[a_filter("Wine", "wine")], operator=MatchOperator.MATCH_ALL)
    combinator = (
        AudienceCombinatorBuilder(operator=CombineOperator.DIFF, source_audience=CUSTOM)
        .with_filters(
            AudienceFilters(
                filters=[Filter(attribute="age", operator=FilterOperator.NOT_EMPTY)],
                operator=MatchOperator.MATCH_ANY,
            )
        )
        .build()
    )
    definition = (
        RuleBasedAudienceBuilder(name="Wine, not best", source_audience=SEED)
        .with_filters(filters)
        .with_combinator(
            [combinator, AudienceCombinator(operator=CombineOperator.UNION, source_audience=BaseAudience())]
        )
        .with_share_with_participants([PUBLISHER])
        .build()
    )
    assert definition.as_dict() == {
        "kind": "rule_based",
        "source": {"kind": "seed", "audience_type": "customers"},
        "filters": {
            "operator": "AND",
            "filters": [
                {"attribute": "segments", "operator": "CONTAINS_ANY_OF", "values": ["Wine", "wine"]},
            ],
        },
        "combinators": [
            {
                "operator": "DIFF",
                "source": {"kind": "custom", "id": "abc123"},
                "filters": {
                    "operator": "OR",
                    "filters": [{"attribute": "age", "operator": "NOT_EMPTY", "values": []}],
                },
            },
            {"operator": "UNION", "source": {"kind": "base"}, "filters": None},
        ],
    }
    assert (definition.name, definition.shared_with) == ("Wine, not best", [PUBLISHER])


def test_other_kinds_are_valid_json_of_the_definition_language() -> None:
    lookalike = LookalikeAudienceBuilder(name="Like", reach=30, source_audience=SEED)
    assert lookalike.build().as_dict() == {
        "kind": "lookalike",
        "source": {"kind": "seed", "audience_type": "customers"},
        "reach": 30,
        "exclude_seed_audience": False,
    }
    assert lookalike.with_exclude_seed_audience().build().as_dict()["exclude_seed_audience"] is True
    remarketing = RemarketingAudienceBuilder(name="Again", source_audience_type="customers").build()
    assert remarketing.as_dict() == {"kind": "remarketing", "audience_type": "customers"}
    exclusion = ExclusionTargetingAudienceBuilder(name="New", source_audience_type="customers").build()
    assert exclusion.as_dict() == {"kind": "exclusion", "audience_type": "customers"}


def test_builder_methods_return_the_builder_and_share() -> None:
    def can_be_shared(builder: Any) -> None:
        assert builder.build().shared_with == []
        assert builder.with_share_with_participants([PUBLISHER]) is builder
        assert builder.build().shared_with == [PUBLISHER]
        assert "shared" not in json.dumps(builder.build().as_dict())

    assert_each(
        can_be_shared,
        [
            RuleBasedAudienceBuilder(name="x", source_audience=SEED),
            LookalikeAudienceBuilder(name="x", reach=1, source_audience=SEED),
            RemarketingAudienceBuilder(name="x", source_audience_type="t"),
            ExclusionTargetingAudienceBuilder(name="x", source_audience_type="t"),
        ],
    )


@given(
    source=TEXTS,
    values=st.lists(TEXTS, min_size=1, max_size=4),
    operators=st.lists(st.sampled_from(CombineOperator), max_size=4),
    match=st.sampled_from(MatchOperator),
)
def test_every_built_definition_can_be_parsed(
    source: str, values: list[str], operators: list[CombineOperator], match: MatchOperator
) -> None:
    filters = AudienceFilters(filters=[a_filter(*values)], operator=match)
    seed = SeedAudience(source)
    combinators = [
        AudienceCombinator(operator=operator, source_audience=seed, filters=filters) for operator in operators
    ]
    definition = RuleBasedAudienceDefinition(
        name="x", source_audience=seed, filters=filters, combinators=combinators
    )
    through_json = json.loads(json.dumps(definition.as_dict()))
    assert parse_definition(through_json).as_dict() == definition.as_dict()


# defects of the original that must not come back


def test_a_definition_need_not_be_shared() -> None:
    definition = RuleBasedAudienceDefinition(name="x", source_audience=SEED, shared_with=None)
    assert definition.shared_with == []
    assert RemarketingAudienceDefinition(name="x", source_audience_type="t", shared_with=None).shared_with == []
    assert LookalikeAudienceDefinition(name="x", reach=1, source_audience=SEED, shared_with=None).shared_with == []


def test_a_reach_outside_1_to_30_is_rejected_by_the_builder() -> None:
    def is_rejected(reach: Any) -> None:
        with pytest.raises(InvalidDefinitionError, match="1 to 30"):
            LookalikeAudienceBuilder(name="x", reach=reach, source_audience=SEED)
        with pytest.raises(InvalidDefinitionError, match="1 to 30"):
            LookalikeAudienceDefinition(name="x", reach=reach, source_audience=SEED)

    assert_each(is_rejected, [0, -1, 31, 1.5, True, "5", None])


def test_values_are_optional_for_empty_and_not_empty() -> None:
    def are_optional(operator: FilterOperator) -> None:
        assert Filter(attribute="gender", operator=operator).as_dict()["values"] == []
        # scripts for the original had to give something
        assert Filter(attribute="gender", values=["f"], operator=operator).as_dict()["values"] == []

    assert_each(are_optional, [FilterOperator.EMPTY, FilterOperator.NOT_EMPTY])


def test_the_other_operators_need_values() -> None:
    def needs_them(operator: FilterOperator) -> None:
        with pytest.raises(InvalidDefinitionError, match="no values"):
            Filter(attribute="segments", operator=operator)

    assert_each(
        needs_them, [FilterOperator.CONTAINS_ANY, FilterOperator.CONTAINS_NONE, FilterOperator.CONTAINS_ALL]
    )


def test_segments_differing_in_case_quotes_or_emoji_stay_distinct() -> None:
    names = ["Wine", "wine", 'Wine "red"', "Wine 🍷", "it's"]
    assert a_filter(*names).as_dict()["values"] == names


MEANINGLESS = [
    lambda: Filter(attribute="income", values=["x"], operator=FilterOperator.CONTAINS_ANY),
    lambda: Filter(attribute="age", values=["a", "b"], operator=FilterOperator.CONTAINS_ALL),
    lambda: Filter(attribute="age", values="abc", operator=FilterOperator.CONTAINS_ANY),  # type: ignore[arg-type]
    lambda: Filter(attribute="age", values=["a"], operator="LIKE"),  # type: ignore[arg-type]
    lambda: AudienceFilters(filters=["a"], operator=MatchOperator.MATCH_ALL),  # type: ignore[list-item]
    lambda: RuleBasedAudienceBuilder(name="x", source_audience="customers").build(),  # type: ignore[arg-type]
    lambda: RuleBasedAudienceBuilder(name=" ", source_audience=SEED),
    lambda: RemarketingAudienceBuilder(name="x", source_audience_type="").build(),
    lambda: AudienceCombinator(operator="XOR", source_audience=SEED),  # type: ignore[arg-type]
]


def test_an_invalid_definition_raises_a_typed_error() -> None:
    def is_an_error(make: Any) -> None:
        with pytest.raises(InvalidDefinitionError) as caught:
            make()
        assert isinstance(caught.value, MediaError)
        assert isinstance(caught.value, ValueError)
        assert caught.value.remedy

    assert_each(is_an_error, MEANINGLESS)


def test_operators_accept_their_wire_value() -> None:
    given_as_text = Filter(attribute="age", values=["a"], operator="CONTAINS_ANY_OF")  # type: ignore[arg-type]
    assert given_as_text.operator is FilterOperator.CONTAINS_ANY


# looking audiences up


def test_audiences_are_found_by_type_and_name() -> None:
    audiences = Audiences([SEED, CUSTOM])
    assert audiences.list() == [SEED, CUSTOM]
    assert audiences.get_seed_audience("customers") is SEED
    assert audiences.get_custom_audience("Best") is CUSTOM
    for look_up, text in ((audiences.get_seed_audience, "Best"), (audiences.get_custom_audience, "customers")):
        with pytest.raises(NotFoundError) as caught:
            look_up(text)
        assert isinstance(caught.value, LookupError)
        assert text not in str(caught.value)


def test_a_name_used_by_two_groups_is_ambiguous() -> None:
    twin = custom_audience("def456", "Best", {"kind": "rule_based"})
    with pytest.raises(AmbiguousNameError):
        Audiences([CUSTOM, twin]).get_custom_audience("Best")
    with pytest.raises(AmbiguousNameError):
        Audiences([SEED, SEED]).get_seed_audience("customers")


def test_lookalikes_are_distinguished_from_other_audiences() -> None:
    assert Audiences.is_lookalike_audience(CUSTOM)
    assert not Audiences([]).is_lookalike_audience(SEED)
    with pytest.raises(InvalidRequestError):
        Audiences.is_lookalike_audience("Best")  # type: ignore[arg-type]


# what is written as JSON


def test_statistics_are_read_and_written() -> None:
    told = {
        "auc": 0.81,
        "fpr": [0.0, 1.0],
        "tpr": [0.0, 1.0],
        "reach": [
            {"reach": 1, "size": None, "tpr": 0.2, "fpr": 0.01},
            {"reach": 2, "size": 80, "tpr": 0.3, "fpr": 0.02},
        ],
        "seed_size": None,
        "addressable_size": 4000,
        "test_set_sizes": {"seed": 50},
        "explanation": [
            {"attribute": "segments", "value": "skiing", "strength": 7.5},
            {"attribute": "gender", "value": "f", "strength": None},
        ],
    }
    statistics = LalAudienceStatistics.from_dict(told)
    assert statistics.model_dump() == told
    assert statistics.model_dump_json(indent=2) == json.dumps(told, indent=2)
    assert LalAudienceStatistics.from_dict(told | {"noise": {}}) == statistics
    assert repr(statistics) == "LalAudienceStatistics(auc=0.81, 2 points, 2 reaches)"
    point = statistics.at_reach(2)
    assert point is not None
    assert point.size == 80
    assert statistics.at_reach(30) is None
    assert [each.value for each in statistics.explanation] == ["skiing", "f"]


def test_statistics_need_only_the_documented_fields() -> None:
    statistics = LalAudienceStatistics(0.5, [0.0, 1.0], [0.0, 1.0])
    short = LalAudienceStatistics.from_dict({"auc": 0.5, "fpr": [0.0, 1.0], "tpr": [0.0, 1.0]})
    assert statistics == short
    assert statistics.model_dump()["auc"] == 0.5


def test_statistics_of_too_few_users_are_parsed() -> None:
    untold = {"reach": 1, "size": None, "tpr": None, "fpr": None}
    told = {"auc": None, "fpr": None, "tpr": None, "reach": [untold], "seed_size": None}
    statistics = LalAudienceStatistics.from_dict(told)
    assert statistics.auc is None
    assert statistics.fpr == statistics.tpr == []
    assert statistics.reach[0].tpr is None


def test_validation_reports_are_written_as_json() -> None:
    body = {"outcome": "PASSED", "numRowsTotal": 3, "numInvalidRowsTotal": 1}
    body_with_codes = {**body, "numInvalidRowsByErrorCode": {"EMPTY_CELL": 1}}
    report = ValidationReport.from_dict({"version": "v0", "report": body_with_codes})
    assert (report.passed, report.n_rows, report.n_invalid_rows) == (True, 3, 1)
    assert report.n_invalid_rows_by_code == {"EMPTY_CELL": 1}
    reports = ValidationReports(report, None, report)
    assert reports.passed
    written = json.loads(reports.model_dump_json())
    assert written == {"matching": report.as_dict(), "segments": None, "demographics": report.as_dict()}
    assert ValidationReports.from_dict(written) == reports
