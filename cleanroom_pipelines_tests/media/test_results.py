"""Results of jobs, as scripts store them.

Contract: the JSON text of each result, byte by byte, with the members of Decentriq's Media API; additional fields
of a newer server are ignored, and missing fields of an older one are None or empty.
"""

import json
from datetime import UTC, datetime
from typing import Any

import pytest

from cleanroom_pipelines import media
from cleanroom_pipelines.media import CustomAudience, SeedAudience, ValidationReport, ValidationReports
from cleanroom_pipelines.media.audience_statistics_result import ReachPoint

OVERLAP_SENT = {"rows": [{"audience_type": "é", "overlap_size": 120, "is_empty": False, "match_rate": 0.4}]}
OVERLAP = (
    '{"overlap_statistics":[{"audience_type":"é","advertiser_size":null,"overlap_size":120,"is_empty":false,'
    '"match_rate":0.4,"advertiser_is_empty":false,"num_activation_ids_in_overlap":{"userId":120}}],"noise":{}}'
)
INSIGHTS_SENT = {
    "audiences": [{"audience_type": "c", "rows": [{"interest": "Wine", "gender": "f", "affinity_ratio": 1.4}]}],
    "total_publisher": 2000,
}
INSIGHTS = (
    '{"audiences":[{"audience_type":"c","rows":[{"interest":"Wine","age":null,"gender":"f","affinity_ratio":1.4,'
    '"share_in_overlap":null,"share_in_matchable":null,"addressable_size":null}],"aggregations":['
    '{"id":"interest_gender","aggregation":[{"column":"interest","possible_values":["Wine"]},'
    '{"column":"gender","possible_values":["f"]}],"audience_type":"c","columns":["interest","gender",'
    '"affinity_ratio","share_in_overlap","share_in_matchable","addressable_size"],'
    '"rows":[["Wine","f",1.4,null,null,null]]}]}],"total_publisher":2000,"noise":{}}'
)
ATTRIBUTES_SENT = {
    "attributes": [{"name": "age", "type": "CATEGORICAL", "values": ["5-9"], "operators": ["EMPTY"]}]
}
ATTRIBUTES = (
    '{"attributes":{"age":{"name":"age","value_type":"CATEGORICAL","values":["5-9"],"filters":["EMPTY"]}}}'
)
DELIVERY = (
    '{"files":[{"name":"part-00000.csv","n_users":3,"n_bytes":9,"sha256":"ab"}],'
    '"manifest":{"delivered":3},"reveals":["seed"]}'
)
BUDGET = (
    '{"spent":2.5,"total":100,"pair":["a","b"],"period":"month","bound":{"of":[1,2.0]},"share":20,"left":17.5}'
)
ESTIMATE = '{"units":2,"is_at_most":true,"left":97.5,"is_affordable":true}'
PROPOSAL = (
    '{"id":"p","kind":"refill","units":10,"approved_by":["a"],"is_effective":false,'
    '"bound":{"epsilon":1.0},"bound_then":{},"organization":"agency.example"}'
)
SIZE = '{"size":120,"reason":null,"noise":{"plus_minus":23}}'
KEPT: list[tuple[Any, dict[str, Any], str]] = [
    (media.OverlapStatistics, OVERLAP_SENT, OVERLAP),
    (media.OverlapStatistics, json.loads(OVERLAP), OVERLAP),
    (media.Insights, INSIGHTS_SENT, INSIGHTS),
    (media.Insights, json.loads(INSIGHTS), INSIGHTS),
    (media.DataAttributes, ATTRIBUTES_SENT, ATTRIBUTES),
    (media.DataAttributes, json.loads(ATTRIBUTES), ATTRIBUTES),
    (media.AudienceSize, json.loads(SIZE), SIZE),
    (media.UserListDelivery, json.loads(DELIVERY), DELIVERY),
    (media.PrivacyBudget, json.loads(BUDGET), BUDGET),
    (media.PriceEstimate, json.loads(ESTIMATE), ESTIMATE),
    (media.BudgetProposal, json.loads(PROPOSAL), PROPOSAL),
]
OLDER = [
    (media.OverlapStatistics, {"rows": [{"audience_type": "c"}]}, {"noise": {}}),
    (
        media.Insights,
        {"audiences": [{"audience_type": "c", "rows": [{}]}]},
        {"noise": {}, "total_publisher": None},
    ),
    (media.AudienceSize, {"size": 120}, {"reason": None, "noise": {}}),
    (media.UserListDelivery, {"files": []}, {"manifest": {}, "reveals": ()}),
    (media.PrivacyBudget, {"spent": 1, "total": 2}, {"period": None, "share": None, "left": None, "pair": ()}),
]


@pytest.mark.parametrize(("kind", "sent", "text"), KEPT, ids=map(str, range(len(KEPT))))
def test_kept_text(kind: Any, sent: dict[str, Any], text: str) -> None:
    answer = kind.from_dict(sent | {"told_by": "a newer server"})
    assert answer.model_dump_json() == text
    assert answer == kind.from_dict(sent)


@pytest.mark.parametrize(("kind", "told", "empty"), OLDER, ids=[each[0].__name__ for each in OLDER])
def test_missing_fields_are_empty(kind: Any, told: dict[str, Any], empty: dict[str, Any]) -> None:
    answer = kind.from_dict(told)
    assert {name: getattr(answer, name) for name in empty} == empty


def test_a_malformed_answer_is_not_quoted() -> None:
    with pytest.raises(ValueError, match="not a valid") as raised:
        media.OverlapStatistics.from_dict({"rows": [{"audience_type": "c", "overlap_size": "u-secret"}]})
    assert "u-secret" not in str(raised.value)
    assert raised.value.__cause__ is raised.value.__context__ is None


def test_a_reach_is_read() -> None:
    assert ReachPoint.from_dict({"reach": 5, "size": None, "tpr": 0.5, "fpr": 0.1, "more": 1}) == ReachPoint(
        5, None, 0.5, 0.1
    )


def test_a_seed_audience_is_read() -> None:
    at = "2026-11-30T08:00:00+00:00"
    sent = {"kind": "seed", "audience_type": "c", "audience_size": 60, "created_at": at, "overlap_size": 40}
    seed = SeedAudience.from_dict({**sent, "is_empty": False, "more": 1})
    assert seed.kind is media.AudienceKind.SEED
    assert (seed.audienceType, seed.audienceSize, seed.isEmpty) == ("c", 60, False)
    assert seed.createdAt == datetime(2026, 11, 30, 8, tzinfo=UTC)
    assert (seed.audience_type, seed.size) == ("c", 40)
    assert seed == SeedAudience("c")
    assert hash(seed) == hash(SeedAudience("c"))
    assert SeedAudience.model_validate(seed.model_dump()).createdAt == seed.createdAt


RULE = {
    "kind": "rule_based",
    "source": {"kind": "seed", "audience_type": "c"},
    "filters": {
        "operator": "AND",
        "filters": [{"attribute": "age", "operator": "CONTAINS_ANY_OF", "values": ["5-9"]}],
    },
    "combinators": [{"operator": "DIFF", "source": {"kind": "custom", "id": "x"}, "filters": None}],
}


def custom(**more: Any) -> CustomAudience:
    return CustomAudience.from_dict({"id": "a", "name": "n", "definition": RULE, "more": 1, **more})


def test_a_custom_audience_is_read() -> None:
    audience = custom(
        created_at="t",
        created_by="x@y.example",
        created_by_group_id="p",
        shared_with=["b"],
        staleness_warnings=["w"],
        missing={"missing_seed_audiences": ["c"]},
        does_audience_depend_on_lookalike_audience=True,
    )
    assert audience.kind is media.AudienceKind.CUSTOM
    assert (audience.createdAt, audience.createdBy) == ("t", "x@y.example")
    assert (audience.createdByGroupId, list(audience.sharedWith)) == ("p", ["b"])
    assert audience.stalenessWarnings.missingSeedAudiences == ["c"]
    assert audience.doesAudienceDependOnLookalikeAudience
    assert (audience.staleness_warnings, audience.shared_with) == (("w",), ("b",))
    written = json.loads(audience.model_dump_json())
    assert {"createdAt", "createdBy", "sharedWith", "stalenessWarnings", "definition", "kind"} <= set(written)
    older = custom()
    assert (older.shared_with, older.staleness_warnings, older.createdByGroupId) == ((), (), None)
    assert older == audience
    with pytest.raises(AttributeError):
        _ = older.notThere


def test_a_definition_is_read_in_both_forms() -> None:
    rule = custom().definition
    assert (rule.kind, rule["kind"], rule.get("nothing")) == ("RULE_BASED", "rule_based", None)
    assert (rule.sourceRef.kind, rule.sourceRef.audienceType) == ("SEED", "c")
    assert (rule.filters.booleanOp, rule.filters.filters[0].values) == ("AND", ["5-9"])
    assert (rule.combine[0].operator, rule.combine[0].sourceRef.kind, rule.combine[0].sourceRef.id) == (
        "DIFF",
        "CUSTOM",
        "x",
    )
    like = custom(definition={"kind": "lookalike", "source": {"kind": "base"}, "reach": 3}).definition
    assert (like.kind, like.reach, like.sourceRef.kind) == ("LOOKALIKE", 3, "BASE")
    without = custom(definition={"kind": "exclusion", "audience_type": "c"}).definition
    assert (without.kind, without.seedAudienceRef.audienceType) == ("EXCLUSION_TARGETING", "c")


def test_reports_are_read() -> None:
    report = {"version": "v0", "report": {"outcome": "PASSED", "numRowsTotal": 3}}
    kept = f'{{"matching": {json.dumps(report)}, "segments": null, "demographics": null}}'
    reports = ValidationReports.from_dict({"matching": report, "more": 1})
    assert reports == ValidationReports(ValidationReport.from_dict(report), None, None)
    assert reports.model_dump_json() == kept
    assert reports.is_passed()
    assert reports.identifiers is reports.matching


def test_the_body_of_a_report_has_attributes_and_keys() -> None:
    error = {"code": "EMPTY_CELL", "location": {"row": 1, "column": "user_id"}, "message": "The cell is empty."}
    body = {
        "outcome": "PASSED",
        "numRowsTotal": 3,
        "numInvalidRowsTotal": 1,
        "numInvalidRowsByErrorCode": {"EMPTY_CELL": 1},
        "columns": [{"column": "user_id", "numErrorsTotal": 1, "recordedErrors": [error]}],
        "schema": {"numErrorsTotal": 0, "recordedErrors": [], "columns": []},
        "table": {"numErrorsTotal": 0, "recordedErrors": [], "numBytes": 9, "format": "csv", "warnings": ["w"]},
        "uniqueness": {"numErrorsTotal": 0, "recordedErrors": [], "numUnique": 2},
        "dropInvalidRows": {"numInvalidRowsDropped": 1},
    }
    sent = {"version": "v0", "report": body}
    read = ValidationReport.from_dict(sent)
    report = read.report
    assert report.outcome == media.ValidationOutcome.PASSED == "PASSED"
    assert (report.numRowsTotal, report.numInvalidRowsTotal, report.numValidRows) == (3, 1, 2)
    assert report.columns[0].recordedErrors[0].location.column == "user_id"
    assert (report.schema.numErrorsTotal, report.uniqueness.numErrorsTotal) == (0, 0)
    assert report.dropInvalidRows.numInvalidRowsDropped == 1
    assert (report.detectedFileType, report.originalFileSizeBytes) == ("csv", 9)
    assert report["numInvalidRowsByErrorCode"] == read.n_invalid_rows_by_code == {"EMPTY_CELL": 1}
    assert read.as_dict() == sent
