"""Validation never exposes a cell value.

Contract: a value planted in every column, in valid and invalid rows, is in no report, no page and no error: not
in its text, its attributes, its traceback, its cause or its context.
"""

import json
import pickle
import traceback
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cleanroom_pipelines.engine import EngineSettings, Runtime, open_engine
from cleanroom_pipelines.errors import CleanroomError
from cleanroom_pipelines.uploads.files import check_seed, validate_interactions, validate_users
from cleanroom_pipelines.uploads.profile import profile_interactions
from cleanroom_pipelines.uploads.report import ValidationReport, report_markdown, report_sentence

CANARY = "kanarienvogel"
ENGINE = EngineSettings(memory_bytes=512 << 20, threads=1)
COLUMNS = [
    ("user_id", "USER_ID"),
    ("item", "ITEM_ID"),
    ("ts", "TIMESTAMP"),
    ("spend", "NUMERICAL_FEATURE"),
    ("kind", "CATEGORICAL_FEATURE"),
]


def assert_silent(report: ValidationReport) -> None:
    for text in (json.dumps(report.as_dict()), report_markdown(report), report_sentence(report), repr(report)):
        assert CANARY not in text


def assert_silent_error(error: BaseException) -> None:
    told: BaseException | None = error
    while told is not None:
        lines = traceback.TracebackException.from_exception(told, capture_locals=False).format()
        assert CANARY not in "".join(lines) + str(told) + repr(told) + repr(vars(told))
        told = told.__cause__ or told.__context__
    assert CANARY.encode() not in pickle.dumps(error)


CELLS = [
    f"{CANARY},i,5,1,k",
    f"u,{CANARY},5,1,k",
    f"u,i,{CANARY},1,k",
    f"u,i,5,{CANARY},k",
    f"u,i,5,1,{CANARY}",
    f",,{CANARY},{CANARY},{CANARY}",
    f"{CANARY}",
    f"{CANARY},{CANARY},{CANARY},{CANARY},{CANARY},{CANARY}",
    f'"{CANARY}"{CANARY},i,5,1,k',
]


def validate_all(file: Path, share: float) -> list[ValidationReport]:
    users = [column for column in COLUMNS if column[0] != "item"]
    return [
        validate_interactions(
            file, COLUMNS, max_invalid_share=share, min_rows=0, min_users=0, runtime=Runtime(ENGINE)
        ),
        validate_users(file, users, max_invalid_share=share, runtime=Runtime(ENGINE)),
        check_seed(file, max_invalid_share=share, min_unique=0, runtime=Runtime(ENGINE))[0],
    ]


@pytest.mark.parametrize("share", [0.05, 1.0])
def test_csv(tmp_path: Path, share: float) -> None:
    file = tmp_path / "t.csv"
    rows = [*CELLS, *CELLS, f"{CANARY}\udcff,i,5,1,k", f'"{CANARY}']
    text = "\n".join(["user_id,item,ts,spend,kind,more", *(f"{row},{CANARY}" for row in rows)])
    file.write_bytes(text.encode("utf-8", "surrogateescape"))
    for report in validate_all(file, share):
        assert report.n_invalid_rows > 5, "the rows were judged"
        assert report.passed is (share == 1)
        assert_silent(report)


@pytest.mark.parametrize("share", [0.05, 1.0])
def test_json_lines(tmp_path: Path, share: float) -> None:
    file = tmp_path / "t.jsonl"
    names = [name for name, _ in COLUMNS]
    rows = [dict(zip(names, row.split(","), strict=False)) for row in CELLS]
    lines = [
        json.dumps(dict.fromkeys(names, "1")),
        *(json.dumps(row) for row in rows),
        f"{{{CANARY}",
        f'["{CANARY}"]',
        f'{{"user_id": ["{CANARY}"]}}',
        f'"{CANARY}"',
        f'{{"user_id": "{CANARY}\udcff"}}',
    ]
    file.write_bytes("\n".join(lines).encode("utf-8", "surrogateescape"))
    for report in validate_all(file, share):
        assert report.n_invalid_rows >= 5, "the rows were judged"
        assert report.passed is (share == 1)
        assert_silent(report)


def test_parquet(tmp_path: Path) -> None:
    file = tmp_path / "t.parquet"
    table = {"user_id": [CANARY, None], "item": [CANARY, "i"], "ts": [5, 10**14], "spend": [1.0, float("inf")]}
    pq.write_table(pa.table(table | {"kind": [CANARY, None]}), file)
    assert_silent(validate_interactions(file, COLUMNS, runtime=Runtime(ENGINE)))
    assert_silent(validate_interactions(file, [*COLUMNS[:2], ("kind", "TIMESTAMP")], runtime=Runtime(ENGINE)))
    assert_silent(
        validate_users(file, [("user_id", "USER_ID"), ("kind", "NUMERICAL_FEATURE")], runtime=Runtime(ENGINE))
    )
    assert CANARY not in json.dumps(profile_interactions(file, COLUMNS, engine_settings=ENGINE))


def test_parquet_whose_files_cannot_be_one_table(tmp_path: Path) -> None:
    pq.write_table(pa.table({"user_id": [1], "item": [1]}), tmp_path / "a.parquet")
    pq.write_table(pa.table({"user_id": [CANARY], "item": ["i"]}), tmp_path / "b.parquet")
    report = validate_interactions(tmp_path, COLUMNS[:2], runtime=Runtime(ENGINE))
    assert not report.passed
    assert_silent(report)


@pytest.mark.parametrize("content", [f"{CANARY}\nbob\n", f"{CANARY},x\nbob,y\n", f'{{"{CANARY}": 1}}\n'])
@pytest.mark.parametrize("suffix", ["csv", "jsonl"])
def test_file_without_a_header(tmp_path: Path, content: str, suffix: str) -> None:
    file = tmp_path / f"t.{suffix}"
    file.write_text(content)
    assert_silent(check_seed(file, runtime=Runtime(ENGINE))[0])
    assert_silent(validate_interactions(file, COLUMNS, runtime=Runtime(ENGINE)))


def test_undeclared_columns_of_a_seed_are_not_named(tmp_path: Path) -> None:
    file = tmp_path / "t.jsonl"
    file.write_text(f'{{"user_id": "a", "{CANARY}": 1}}\n')
    report = check_seed(file, runtime=Runtime(ENGINE))[0]
    assert report.table.n_unknown_columns == 1
    assert_silent(report)


@pytest.mark.parametrize(
    "cells",
    [
        pa.array([{CANARY: 1}]),
        pa.array([[{CANARY: "x"}]]),
        pa.array([{"a": {CANARY: 1}}]),
        pa.array([[(CANARY, 1)]], pa.map_(pa.string(), pa.int64())),
    ],
    ids=["struct", "list of structs", "struct in a struct", "map"],
)
@pytest.mark.parametrize("role", ["USER_ID", "NUMERICAL_FEATURE", None])
def test_names_in_nested_types_are_not_shown(tmp_path: Path, cells: pa.Array, role: str | None) -> None:
    columns = [("user_id", "USER_ID"), ("item", "ITEM_ID"), ("more", "NUMERICAL_FEATURE")]
    table = {"user_id": pa.array([1]), "item": pa.array([1]), "more": pa.array([1.0]), "other": pa.array([1])}
    place = next((name for name, declared in columns if declared == role), "other")
    pq.write_table(pa.table(table | {place: cells}), tmp_path / "t.parquet")
    for report in (
        validate_interactions(tmp_path, columns, min_users=0, min_rows=0, runtime=Runtime(ENGINE)),
        check_seed(tmp_path, min_unique=0, runtime=Runtime(ENGINE))[0],
    ):
        assert_silent(report)
    try:
        profile_interactions(tmp_path, columns, engine_settings=ENGINE)
    except CleanroomError as error:
        assert_silent_error(error)


def test_names_and_values_of_partitions_and_repeated_headers(tmp_path: Path) -> None:
    (tmp_path / f"{CANARY}={CANARY}").mkdir()
    (tmp_path / f"{CANARY}={CANARY}" / "t.csv").write_text(f"user_id,{CANARY},{CANARY.upper()},\nu,1,2,3\n")
    report = check_seed(tmp_path, min_unique=0, runtime=Runtime(ENGINE))[0]
    assert report.passed
    assert_silent(report)


@pytest.mark.parametrize("cut", [20, 200])
def test_errors_of_damaged_files(tmp_path: Path, cut: int) -> None:
    file = tmp_path / "t.csv"
    file.write_bytes(f"{CANARY},item\n{CANARY},i\r\n{CANARY},i\n".encode() * cut)
    columns = [(CANARY, "USER_ID"), ("item", "ITEM_ID")]
    with pytest.raises(CleanroomError) as caught:
        # The declaration may be told, the file may not: hence a column of another name.
        profile_interactions(file, [("user_id", "USER_ID"), ("item", "ITEM_ID")], engine_settings=ENGINE)
    assert_silent_error(caught.value)
    with pytest.raises(CleanroomError) as caught:
        profile_interactions(file, columns, engine_settings=ENGINE)
    assert_silent_error(caught.value)


@pytest.mark.parametrize("stream", [False, True])
def test_errors_of_the_engine(stream: bool) -> None:
    table = pa.table({"cell": ["1"] * 5_000 + [CANARY]})
    with open_engine(ENGINE) as engine:
        engine.register("t", table)
        query = "SELECT CAST(cell AS BIGINT) AS number FROM t"
        with pytest.raises(CleanroomError) as caught:
            list(engine.batches(query, rows=100)) if stream else engine.fetch(query)
    assert_silent_error(caught.value)
