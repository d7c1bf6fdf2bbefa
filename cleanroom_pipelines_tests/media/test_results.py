"""Results of jobs, as scripts store them.

Contract: the JSON text of each result, byte by byte; additional fields of a newer server are ignored, and missing
fields of an older one are None or empty.
"""

import json
from typing import Any

import pytest

from cleanroom_pipelines.media import CustomAudience, SeedAudience, ValidationReport, ValidationReports, results
from cleanroom_pipelines.media.audience_statistics_result import ReachPoint

OVERLAP = (
    '{"rows": [{"audience_type": "é", "advertiser_size": null, "overlap_size": 120, "is_empty": false, '
    '"match_rate": 0.4}], "noise": {"within": 23}}'
)
INSIGHTS = (
    '{"audiences": [{"audience_type": "c", "rows": [{"interest": "Wine", "age": null, "gender": "f", '
    '"affinity_ratio": 1.4, "share_in_overlap": 0.2, "share_in_matchable": 1.0, "addressable_size": null}]}], '
    '"noise": {}}'
)
ATTRIBUTES = '{"attributes": [{"name": "age", "type": "CATEGORICAL", "values": ["5-9"], "operators": ["EMPTY"]}]}'
DELIVERY = (
    '{"files": [{"name": "part-00000.csv", "n_users": 3, "n_bytes": 9, "sha256": "ab"}], '
    '"manifest": {"delivered": 3}, "reveals": ["seed"]}'
)
KEPT: list[tuple[Any, str]] = [
    (results.OverlapStatistics, OVERLAP),
    (results.Insights, INSIGHTS),
    (results.DataAttributes, ATTRIBUTES),
    (results.AudienceSize, '{"size": 120, "reason": null, "noise": {"plus_minus": 23}}'),
    (results.UserListDelivery, DELIVERY),
    (
        results.PrivacyBudget,
        '{"spent": 2.5, "total": 100, "pair": ["a", "b"], "period": "month", "bound": {"of": [1, 2.0]}, '
        '"share": 20, "left": 17.5}',
    ),
    (results.PriceEstimate, '{"units": 2, "is_at_most": true, "left": 97.5, "is_affordable": true}'),
    (
        results.BudgetProposal,
        '{"id": "p", "kind": "refill", "units": 10, "approved_by": ["a"], "is_effective": false, '
        '"bound": {"epsilon": 1.0}, "bound_then": {}, "organization": "agency.example"}',
    ),
]
OLDER = [
    (results.OverlapStatistics, {"rows": [{"audience_type": "c"}]}),
    (results.Insights, {"audiences": [{"audience_type": "c", "rows": [{}]}]}),
    (results.AudienceSize, {"size": 120}),
    (results.UserListDelivery, {"files": []}),
    (results.PrivacyBudget, {"spent": 1, "total": 2}),
]


@pytest.mark.parametrize(("kind", "text"), KEPT)
def test_kept_text(kind: Any, text: str) -> None:
    answer = kind.from_dict(json.loads(text) | {"told_by": "a newer server"})
    assert answer.model_dump_json() == text
    assert answer == kind.from_dict(json.loads(text))


@pytest.mark.parametrize(("kind", "told"), OLDER)
def test_missing_fields_are_empty(kind: Any, told: dict[str, Any]) -> None:
    dumped = kind.from_dict(told).model_dump()
    assert {name: dumped[name] for name in dumped if not told.get(name)} == {
        name: None if name in ("reason", "period", "share", "left") else type(dumped[name])()
        for name in dumped
        if not told.get(name)
    }


def test_a_reach_is_read() -> None:
    assert ReachPoint.from_dict({"reach": 5, "size": None, "tpr": 0.5, "fpr": 0.1, "more": 1}) == ReachPoint(
        5, None, 0.5, 0.1
    )


def test_audiences_are_read() -> None:
    seed = SeedAudience.from_dict({"kind": "seed", "audience_type": "c", "size": 40, "is_empty": False, "more": 1})
    assert vars(seed) == {"audience_type": "c", "size": 40, "created_at": None, "is_empty": False}
    told = {
        "id": "a",
        "name": "n",
        "definition": {"kind": "lookalike", "reach": 3},
        "created_at": "t",
        "created_by": "p",
        "shared_with": ["b"],
        "staleness_warnings": ["w"],
        "more": 1,
    }
    custom = CustomAudience.from_dict(told)
    assert vars(custom) | {"more": 1} == told | {
        "kind": "lookalike",
        "shared_with": ("b",),
        "staleness_warnings": ("w",),
    }
    older = CustomAudience.from_dict({"id": "a", "name": "n", "kind": "exclusion", "definition": {}})
    assert (older.kind, older.shared_with, older.staleness_warnings) == ("exclusion", (), ())


def test_reports_are_read() -> None:
    report = {"version": "v0", "report": {"outcome": "PASSED", "numRowsTotal": 3}}
    kept = f'{{"matching": {json.dumps(report)}, "segments": null, "demographics": null}}'
    reports = ValidationReports.from_dict({"matching": report, "more": 1})
    assert reports == ValidationReports(ValidationReport(report["report"], "v0"), None, None)
    assert reports.model_dump_json() == kept
