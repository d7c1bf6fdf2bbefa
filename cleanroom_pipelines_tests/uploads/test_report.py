"""The report's JSON shape and its Markdown page.

Contract: exactly the documented members; reading the JSON gives the same report; a page starts with one sentence
and renders odd column names.
"""

import json
from dataclasses import replace

import pytest

from cleanroom_pipelines.errors import StatusCode
from cleanroom_pipelines.uploads.report import (
    ColumnReport,
    ColumnType,
    ErrorCode,
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
    columns=(ColumnReport("a|`b\nc", 10, (EMPTY,)), ColumnReport("plain")),
    schema=SchemaReport(
        columns=(
            ColumnType("a|`b\nc", "USER_ID", "text"),
            ColumnType("plain", "CATEGORICAL_FEATURE", "text"),
        )
    ),
    table=TableReport(
        n_files=2, n_bytes=5, format="csv", n_unknown_columns=1, unknown_columns=("x",), n_users=988
    ),
    uniqueness=UniquenessReport(2, key_columns=("plain",), n_unique=988, n_duplicates=2),
    n_rows_dropped=12,
)
FAILED = ValidationReport(
    "seed", Outcome.FAILED, status_code=StatusCode.SEED_NOT_FOUND, reason="The seed was not found. Give one."
)


# Reports as they are kept since the first release, byte by byte.
PASSED_TEXT = (
    '{"version": "v0", "report": {"outcome": "PASSED", "numRowsTotal": 1000, "numInvalidRowsTotal": 12, '
    '"numInvalidRowsByErrorCode": {"DUPLICATE_VALUES": 2, "EMPTY_CELL": 10}, "columns": [{"column": "a|`b\\nc", '
    '"numErrorsTotal": 10, "recordedErrors": [{"code": "EMPTY_CELL", "location": {"row": 3, '
    '"column": "a|`b\\nc"}, "message": "The cell is empty."}]}, {"column": "plain", "numErrorsTotal": 0, '
    '"recordedErrors": []}], "schema": {"numErrorsTotal": 0, "recordedErrors": [], '
    '"columns": [{"column": "a|`b\\nc", "role": "USER_ID", "type": "text"}, {"column": "plain", '
    '"role": "CATEGORICAL_FEATURE", "type": "text"}]}, "table": {"numErrorsTotal": 0, "recordedErrors": [], '
    '"numFiles": 2, "numBytes": 5, "format": "csv", "numUnknownColumns": 1, "unknownColumns": ["x"], '
    '"numUsers": 988, "numUsersWithTwoRows": 0, "numIdsChanged": 0, "what": "users table", "statusCode": null, '
    '"reason": ""}, "uniqueness": {"numErrorsTotal": 2, "recordedErrors": [], "keyColumns": ["plain"], '
    '"numUnique": 988, "numDuplicates": 2}, "dropInvalidRows": {"numInvalidRowsDropped": 12}}}'
)
FAILED_TEXT = (
    '{"version": "v0", "report": {"outcome": "FAILED", "numRowsTotal": 0, "numInvalidRowsTotal": 0, '
    '"numInvalidRowsByErrorCode": {}, "columns": [], "schema": {"numErrorsTotal": 0, "recordedErrors": [], '
    '"columns": []}, "table": {"numErrorsTotal": 0, "recordedErrors": [], "numFiles": 0, "numBytes": 0, '
    '"format": "", "numUnknownColumns": 0, "unknownColumns": [], "numUsers": 0, "numUsersWithTwoRows": 0, '
    '"numIdsChanged": 0, "what": "seed", "statusCode": "SEED_NOT_FOUND", '
    '"reason": "The seed was not found. Give one."}, "uniqueness": {"numErrorsTotal": 0, "recordedErrors": [], '
    '"keyColumns": [], "numUnique": 0, "numDuplicates": 0}, "dropInvalidRows": {"numInvalidRowsDropped": 0}}}'
)


@pytest.mark.parametrize(("report", "text"), [(REPORT, PASSED_TEXT), (FAILED, FAILED_TEXT)])
def test_kept_text(report: ValidationReport, text: str) -> None:
    assert json.dumps(report.as_dict()) == text
    assert ValidationReport.from_dict(json.loads(text)) == report


def test_reports_from_before_matching_ids_are_read() -> None:
    assert ValidationReport.from_dict(json.loads(PASSED_TEXT.replace('"numIdsChanged": 0, ', ""))) == REPORT


@pytest.mark.parametrize(
    "text", [PASSED_TEXT.replace("988", '"988 users"'), PASSED_TEXT.replace('"numUsers"', '"numUsersToday"')]
)
def test_another_document_is_not_a_report(text: str) -> None:
    with pytest.raises((ValueError, KeyError, TypeError)) as caught:
        ValidationReport.from_dict(json.loads(text))
    assert "988" not in str(caught.value)
    assert caught.value.__context__ is None


def test_other_version_is_rejected() -> None:
    with pytest.raises(ValueError, match="version"):
        ValidationReport.from_dict(REPORT.as_dict() | {"version": "v9"})


def test_sentence() -> None:
    assert report_sentence(REPORT) == (
        "The users table is valid: 988 of 1,000 rows are usable; 12 are dropped (1.20%); "
        "988 unique ids, 2 duplicates."
    )
    assert report_sentence(FAILED) == FAILED.reason


def test_warnings_are_on_the_first_line_and_kept() -> None:
    warned = replace(REPORT, table=replace(REPORT.table, warnings=("Look at this.", "And at that.")))
    assert report_sentence(warned).endswith("2 duplicates. Warning: Look at this. Warning: And at that.")
    assert "Warning: Look at this." in report_markdown(warned).splitlines()[0]
    assert ValidationReport.from_dict(json.loads(json.dumps(warned.as_dict()))) == warned


def test_page_is_a_table_whatever_the_names() -> None:
    ten = ColumnReport("a|`b\nc", 10, (EMPTY,) * 10)
    page = report_markdown(replace(REPORT, columns=(ten,))).splitlines()
    assert page[0].startswith("**PASSED.** The users table is valid")
    assert "| `a\\|'b c` | EMPTY_CELL | 10 | 3, 3, 3, 3, 3, … |" in page
    assert "1 undeclared column is ignored: `x`." in page
    assert report_markdown(FAILED).startswith("**FAILED.** The seed was not found.")


def test_page_says_when_the_split_by_code_is_a_lower_bound() -> None:
    recorded = tuple(RecordedError(ErrorCode.EMPTY_CELL, "", row, "c") for row in range(1, 501))
    report = ValidationReport("seed", Outcome.PASSED, columns=(ColumnReport("c", 900, recorded),))
    assert "| `c` | EMPTY_CELL | ≥ 500 of 900 | 1, 2, 3, 4, 5, … |" in report_markdown(report)
