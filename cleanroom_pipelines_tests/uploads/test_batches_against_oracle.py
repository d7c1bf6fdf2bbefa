"""A report made batch by batch equals one plain pass over the whole table.

Contract: batch size, file splits and format never change what a report says. The oracle is one in-memory pandera
pass with element-wise checks in plain Python, and pandas' `duplicated()`.
"""

import csv
import json
import math
import re
from collections import Counter
from datetime import datetime
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cleanroom_pipelines.engine import EngineSettings, Runtime
from cleanroom_pipelines.uploads.files import check_seed, validate_interactions, validate_users
from cleanroom_pipelines.uploads.report import ErrorCode, ValidationReport
from cleanroom_pipelines.uploads.schemas import pandera

from ..examples import one_in

ENGINE = EngineSettings(memory_bytes=512 << 20, threads=1)
USER, ITEM, TIME, NUMBER, CATEGORY = "user id", 'it"em', "zeit\npunkt", "numéro 😀", "cat'egory"
ROLES = {
    USER: "USER_ID",
    ITEM: "ITEM_ID",
    TIME: "TIMESTAMP",
    NUMBER: "NUMERICAL_FEATURE",
    CATEGORY: "CATEGORICAL_FEATURE",
}
# A row that is no row: a line that cannot be taken apart.
BROKEN = {"csv": {"few": "x", "many": "a,b,c,d,e,f,g"}, "jsonl": {"few": "{no json", "many": '["a", "list"]'}}

texts = st.text(
    st.sampled_from(["a", "b", '"', "\n", ",", ";", "'", " ", "é", "😀", "\\", "{", "\t", "1"]), max_size=4
)
odd_ids = [" u1", "u1\u200b", "\ufeffu2\u00a0", "7.0", "7.00", "8.5", "NULL", "nan", "N/A", "0" * 32]
ids = st.one_of(st.none(), st.sampled_from(["u1", "u2", "u3", "7", *odd_ids]), texts)
times = st.one_of(
    st.integers(-(10**12), 10**13).map(str),
    st.sampled_from(
        [
            "0",
            "2026-11-30",
            "2026-11-30T10:00Z",
            "2026-11-30 25:00:00",
            "2026-02-30",
            "99999999999",
            "100000000000",
            "-99999999999",
            "5.0",
            " 5 ",
            "5.5",
            "x",
            "",
            "1e3",
            "٣",
            "+5",
        ]
    ),
    st.none(),
)
numbers = st.one_of(
    st.floats(allow_nan=False, allow_infinity=False).filter(lambda x: abs(x) < 1e99).map(repr),
    st.sampled_from(["", "1", ".5", "5.", "-1e-300", "inf", "nan", "1e400", "1,5", "x", " ", "٣", "1_0"]),
    st.none(),
)
text_rows = st.lists(
    st.one_of(st.tuples(ids, ids, times, numbers, ids), st.sampled_from(["few", "many"])), min_size=1, max_size=12
)
typed_rows = st.lists(
    st.tuples(
        ids,
        st.one_of(st.none(), st.integers(-3, 3)),
        st.one_of(st.none(), st.sampled_from([0, 5, -5, 10**11, 10**11 - 1, -(10**11), 2**63 - 1, -(2**63)])),
        st.one_of(st.none(), st.sampled_from([0.5, -1.0, math.nan, math.inf, -math.inf])),
        ids,
    ),
    min_size=1,
    max_size=12,
)
# --- The oracle: plain, slow, over the whole table ---


def is_filled(value: Any) -> bool:
    return value != ""


def is_id(value: Any) -> bool:
    return not isinstance(value, str) or value.lower() not in {"null", "nan", "n/a", "0" * 32}


def is_no_point(value: Any) -> bool:
    return not isinstance(value, str) or not value.endswith(POINT)


POINT = "(a number with a point beside ids that are none)"


def plain_ids(ids: pd.Series) -> pd.Series:
    """Ids without blanks around them; whole numbers without a point, if all are whole numbers."""
    plain = ids.map(
        lambda id_: id_.strip(" \t\r\n\v\f\u00a0\u200b\u200c\u200d\u2060\ufeff") if isinstance(id_, str) else id_
    )
    texts = [id_ for id_ in plain if isinstance(id_, str) and id_ and is_id(id_)]
    if not any(re.fullmatch(r"-?[0-9]+\.0+", id_) for id_ in texts):
        return plain
    if all(re.fullmatch(r"-?[0-9]+(\.0+)?", id_) for id_ in texts):
        return plain.map(lambda id_: re.sub(r"\.0+$", "", id_) if isinstance(id_, str) else id_)
    return plain.map(
        lambda id_: id_ + POINT if isinstance(id_, str) and re.fullmatch(r"-?[0-9]+\.[0-9]+", id_) else id_
    )


def plain_items(items: pd.Series) -> pd.Series:
    """Items as they are, unless all are whole numbers and some have a point."""
    plain = plain_ids(items)
    texts = [item for item in plain if isinstance(item, str) and item and is_id(item)]
    has_points = any(re.search(r"[0-9][.]0+\W*$", item) for item in items if isinstance(item, str))
    if has_points and all(re.fullmatch(r"-?[0-9]+", item) for item in texts):
        return plain
    return items.map(lambda item: f"={item}" if isinstance(item, str) and item else item)


def is_time(value: Any) -> bool:
    if not isinstance(value, str) or not re.fullmatch(r"\d{4}-\d\d-\d\d([T ]\d\d:\d\d(:\d\d)?Z?)?", value):
        return is_integer(value)
    try:
        datetime.fromisoformat(value)
        return True
    except ValueError:
        return False


def is_integer(value: Any) -> bool:
    return not isinstance(value, str) or value == "" or bool(re.fullmatch(r"-?[0-9]+(\.0*)?", value.strip(" ")))


def is_in_seconds(value: Any) -> bool:
    if not is_integer(value) or value == "":
        return True
    seconds = int(value.strip(" ").split(".")[0]) if isinstance(value, str) else value
    return abs(seconds) < 10**11


def is_number(value: Any) -> bool:
    if not isinstance(value, str) or value == "":
        return True
    plain = re.fullmatch(r"-?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?", value.strip(" "))
    return bool(plain) and math.isfinite(float(value))


def is_finite(value: Any) -> bool:
    return not isinstance(value, float) or not math.isinf(value)


ID_CHECKS = [
    (ErrorCode.EMPTY_CELL, is_filled),
    (ErrorCode.PLACEHOLDER, is_id),
    (ErrorCode.INVALID_INTEGER_FORMAT, is_no_point),
]
CHECKS = {
    "USER_ID": ID_CHECKS,
    "ITEM_ID": ID_CHECKS,
    "TIMESTAMP": [
        (ErrorCode.INVALID_INTEGER_FORMAT, is_time),
        (ErrorCode.INVALID_NUMERIC_RANGE, is_in_seconds),
    ],
    "NUMERICAL_FEATURE": [
        (ErrorCode.INVALID_FLOAT_FORMAT, is_number),
        (ErrorCode.INVALID_NUMERIC_RANGE, is_finite),
    ],
    "CATEGORICAL_FEATURE": [],
}


def oracle(rows: list[Any], columns: list[str], format_: str) -> dict[str, Any]:
    readable = [i for i, row in enumerate(rows) if not (isinstance(row, str) and format_ == "csv")]
    empty = (None,) * len(columns)
    frame = pd.DataFrame(
        [empty if isinstance(rows[i], str) else rows[i] for i in readable],
        columns=columns,
        index=readable,
        dtype=object,
    )
    for name in columns:
        if name == ITEM:
            frame[name] = plain_items(frame[name])
        if name == USER:
            frame[name] = plain_ids(frame[name])
    schema = pandera.DataFrameSchema(
        {
            name: pandera.Column(
                nullable=ROLES[name] not in ("USER_ID", "ITEM_ID"),
                checks=[
                    pandera.Check(test, element_wise=True, name=code.value) for code, test in CHECKS[ROLES[name]]
                ],
            )
            for name in columns
        }
    )
    found: set[tuple[str, int, ErrorCode]] = set()
    try:
        schema.validate(frame, lazy=True)
    except pandera.errors.SchemaErrors as error:
        for case in error.failure_cases.to_dict("records"):
            code = "EMPTY_CELL" if case["check"] == "not_nullable" else case["check"]
            found.add((case["column"], int(case["index"]) + 1, ErrorCode(code)))
    lines = {
        i + 1: ErrorCode.TOO_MANY_COLUMNS if row == "many" else ErrorCode.NOT_ENOUGH_COLUMNS
        for i, row in enumerate(rows)
        if isinstance(row, str) and format_ == "csv"
    }
    invalid = {row for _, row, _ in found} | set(lines)
    valid = frame.loc[[i for i in readable if i + 1 not in invalid], columns[0]]
    by_code = Counter(code for _, code in {(row, code) for _, row, code in found}) + Counter(lines.values())
    return {
        "rows": len(rows),
        "invalid": len(invalid),
        "by_code": dict(by_code),
        "cells": {name: sorted((row, code) for column, row, code in found if column == name) for name in columns},
        "lines": sorted(lines.items()),
        "unique": valid.nunique(),
        "duplicates": [i + 1 for i in valid.index[valid.duplicated()]],
    }


# --- Writing the same table in each format ---


def write(
    folder: Path, format_: str, rows: list[Any], columns: list[str], *, n_files: int = 1, end: str = "\n"
) -> Path:
    size = math.ceil(len(rows) / n_files)
    for number, start in enumerate(range(0, len(rows), size)):
        part = rows[start : start + size]
        file = folder / f"part-{number}.{format_}"
        if format_ == "parquet":
            pq.write_table(typed_table(part, columns), file)
            continue
        with file.open("w", encoding="utf-8", newline="") as stream:
            writer = csv.writer(stream, lineterminator=end)
            if format_ == "csv":
                writer.writerow(columns)
            for row in part:
                if isinstance(row, str):
                    stream.write(BROKEN[format_][row] + end)
                elif format_ == "csv":
                    writer.writerow(row)
                else:
                    cells = dict(zip(columns, row, strict=True))
                    # Keys are seen in the first lines only, so each line has all of them.
                    stream.write(json.dumps(cells, ensure_ascii=start % 2 == 0) + end)
    return folder


def typed_table(rows: list[Any], columns: list[str]) -> pa.Table:
    types = {USER: pa.string(), ITEM: pa.int64(), TIME: pa.int64(), NUMBER: pa.float64(), CATEGORY: pa.string()}
    return pa.table({name: pa.array([row[i] for row in rows], types[name]) for i, name in enumerate(columns)})


def assert_equal(report: ValidationReport, expected: dict[str, Any]) -> None:
    assert report.n_rows == expected["rows"]
    recorded = {column.column: [(error.row, error.code) for error in column.recorded] for column in report.columns}
    assert recorded == expected["cells"]
    assert {column.column: column.n_errors for column in report.columns} == {
        name: len(found) for name, found in expected["cells"].items()
    }
    assert [(error.row, error.code) for error in report.table.recorded if error.row] == expected["lines"]
    duplicates = report.n_invalid_rows_by_code.get(ErrorCode.DUPLICATE_VALUES, 0)
    assert report.n_invalid_rows - duplicates == expected["invalid"]
    by_code = {code: n for code, n in report.n_invalid_rows_by_code.items() if code != ErrorCode.DUPLICATE_VALUES}
    assert by_code == expected["by_code"]
    assert report.table.n_users == expected["unique"]


def fresh(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("upload")


@one_in(8)
@given(
    rows=text_rows,
    format_=st.sampled_from(["csv", "jsonl"]),
    batch_rows=st.integers(1, 7),
    n_files=st.integers(1, 3),
    end=st.sampled_from(["\n", "\r\n"]),
)
def test_interactions_as_text(
    tmp_path_factory: pytest.TempPathFactory,
    *,
    rows: list[Any],
    format_: str,
    batch_rows: int,
    n_files: int,
    end: str,
) -> None:
    # A JSON key is known only if one of the first lines has it.
    rows = [("u1", "i", "5", "1", "c"), *rows]
    folder = write(fresh(tmp_path_factory), format_, rows, list(ROLES), n_files=n_files, end=end)
    report = validate_interactions(
        folder,
        list(ROLES.items()),
        runtime=Runtime(ENGINE),
        max_invalid_share=1,
        min_users=0,
        min_rows=0,
        batch_rows=batch_rows,
    )
    assert_equal(report, oracle(rows, list(ROLES), format_))


@one_in(8)
@given(rows=typed_rows, batch_rows=st.integers(1, 7), n_files=st.integers(1, 3))
def test_interactions_as_parquet(
    tmp_path_factory: pytest.TempPathFactory, rows: list[Any], batch_rows: int, n_files: int
) -> None:
    folder = write(fresh(tmp_path_factory), "parquet", rows, list(ROLES), n_files=n_files)
    report = validate_interactions(
        folder,
        list(ROLES.items()),
        runtime=Runtime(ENGINE),
        max_invalid_share=1,
        min_users=0,
        min_rows=0,
        batch_rows=batch_rows,
    )
    assert_equal(report, oracle(rows, list(ROLES), "parquet"))


@one_in(8)
@given(
    rows=st.lists(st.one_of(st.tuples(ids, numbers), st.sampled_from(["few", "many"])), min_size=1, max_size=14),
    format_=st.sampled_from(["csv", "jsonl"]),
    batch_rows=st.integers(1, 7),
    n_files=st.integers(1, 3),
)
def test_users_drop_later_duplicates(
    tmp_path_factory: pytest.TempPathFactory, rows: list[Any], format_: str, batch_rows: int, n_files: int
) -> None:
    rows = [("u1", "5"), *rows]
    folder = write(fresh(tmp_path_factory), format_, rows, [USER, NUMBER], n_files=n_files)
    report = validate_users(
        folder,
        [(USER, "USER_ID"), (NUMBER, "NUMERICAL_FEATURE")],
        runtime=Runtime(ENGINE),
        max_invalid_share=1,
        batch_rows=batch_rows,
    )
    expected = oracle(rows, [USER, NUMBER], format_)
    assert_equal(report, expected)
    assert [error.row for error in report.uniqueness.recorded] == expected["duplicates"]
    assert report.uniqueness.n_duplicates == len(expected["duplicates"])
    assert report.n_rows_dropped == expected["invalid"] + len(expected["duplicates"])


@one_in(8)
@given(
    rows=st.lists(st.tuples(ids), min_size=1, max_size=20),
    format_=st.sampled_from(["csv", "jsonl", "parquet"]),
    batch_rows=st.integers(1, 7),
)
def test_seed_counts_duplicates(
    tmp_path_factory: pytest.TempPathFactory, rows: list[Any], format_: str, batch_rows: int
) -> None:
    rows = [("u1",), *rows]
    folder = write(fresh(tmp_path_factory), format_, rows, [USER])
    report = check_seed(
        folder,
        runtime=Runtime(ENGINE),
        max_invalid_share=1,
        min_unique=0,
        batch_rows=batch_rows,
    )[0]
    expected = oracle(rows, [USER], format_)
    assert_equal(report, expected)
    assert report.uniqueness.n_duplicates == len(expected["duplicates"])
    assert report.n_rows_dropped == expected["invalid"]
    assert ErrorCode.DUPLICATE_VALUES not in report.n_invalid_rows_by_code
