"""The report's JSON shape and its readable page.

Contract: exactly the members of contracts/media.md, section 1; reading back gives the same report; a page starts
with one sentence and survives odd column names.
"""

import json

import pytest

from cleanroom_pipelines.errors import StatusCode
from cleanroom_pipelines.validation.report import (
    ColumnReport,
    ErrorCode,
    Errors,
    Outcome,
    RecordedError,
    SchemaReport,
    TableReport,
    UniquenessReport,
    ValidationReport,
    report_markdown,
    report_sentence,
)

EMPTY = RecordedError(ErrorCode.EMPTY_CELL, "The cell is empty.", 3, "a|`b\nc")
REPORT = ValidationReport(
    what="users table",
    outcome=Outcome.PASSED,
    n_rows=1_000,
    n_invalid_rows=12,
    n_invalid_rows_by_code={ErrorCode.EMPTY_CELL: 10, ErrorCode.DUPLICATE_VALUES: 2},
    columns=(ColumnReport("a|`b\nc", Errors(10, (EMPTY,) * 10)), ColumnReport("plain")),
    schema=SchemaReport(columns=(("a|`b\nc", "USER_ID", "text"), ("plain", "CATEGORICAL_FEATURE", "text"))),
    table=TableReport(
        n_files=2, n_bytes=5, format="csv", n_unknown_columns=1, unknown_columns=("x",), n_users=988
    ),
    uniqueness=UniquenessReport(Errors(2), "plain", 988, 2),
    n_rows_dropped=12,
)
FAILED = ValidationReport(
    "seed", Outcome.FAILED, status_code=StatusCode.SEED_NOT_FOUND, reason="The seed was not found. Give one."
)


def test_json_shape() -> None:
    value = REPORT.as_dict()
    assert set(value) == {"version", "report"}
    assert set(value["report"]) == {
        "outcome",
        "numRowsTotal",
        "numInvalidRowsTotal",
        "numInvalidRowsByErrorCode",
        "columns",
        "schema",
        "table",
        "uniqueness",
        "dropInvalidRows",
    }
    assert set(value["report"]["columns"][0]) == {"column", "numErrorsTotal", "recordedErrors"}
    assert value["report"]["columns"][0]["recordedErrors"][0] == {
        "code": "EMPTY_CELL",
        "location": {"row": 3, "column": "a|`b\nc"},
        "message": "The cell is empty.",
    }
    assert value["report"]["dropInvalidRows"] == {"numInvalidRowsDropped": 12}
    assert value["report"]["numInvalidRowsByErrorCode"] == {"DUPLICATE_VALUES": 2, "EMPTY_CELL": 10}


@pytest.mark.parametrize("report", [REPORT, FAILED])
def test_reads_back(report: ValidationReport) -> None:
    assert ValidationReport.from_dict(json.loads(json.dumps(report.as_dict()))) == report


def test_other_version_is_refused() -> None:
    with pytest.raises(ValueError, match="version"):
        ValidationReport.from_dict(REPORT.as_dict() | {"version": "v9"})


def test_sentence() -> None:
    assert report_sentence(REPORT) == (
        "The users table is valid: 988 of 1,000 rows are usable; 12 are dropped (1.20%); "
        "988 unique ids, 2 duplicates."
    )
    assert report_sentence(FAILED) == FAILED.reason


def test_page_is_a_table_whatever_the_names() -> None:
    page = report_markdown(REPORT).splitlines()
    assert page[0].startswith("**PASSED.** The users table is valid")
    assert "| `a\\|'b c` | EMPTY_CELL | 10 | 3, 3, 3, 3, 3, … |" in page
    assert "1 undeclared column is ignored: `x`." in page
    assert report_markdown(FAILED).startswith("**FAILED.** The seed was not found.")


def test_page_says_when_the_split_by_code_is_a_lower_bound() -> None:
    recorded = tuple(RecordedError(ErrorCode.EMPTY_CELL, "", row, "c") for row in range(1, 501))
    report = ValidationReport("seed", Outcome.PASSED, columns=(ColumnReport("c", Errors(900, recorded)),))
    assert "| `c` | EMPTY_CELL | ≥ 500 of 900 | 1, 2, 3, 4, 5, … |" in report_markdown(report)
