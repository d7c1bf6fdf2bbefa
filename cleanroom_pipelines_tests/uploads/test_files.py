"""Errors that fail an upload, errors that only drop rows, and their codes.

Contract: any problem with a file gives a FAILED report with its status code and one remedy, never an exception;
rows with problems are dropped and counted up to the allowed share; totals are exact, recording stops at 500.
"""

import gzip
import hashlib
import json
from datetime import UTC, datetime
from itertools import product
from pathlib import Path
from typing import Any
from unittest import mock

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cleanroom_pipelines.engine import EngineSettings, Runtime
from cleanroom_pipelines.errors import EngineError, StatusCode, UsageError
from cleanroom_pipelines.uploads import checks
from cleanroom_pipelines.uploads.files import check_seed, validate_interactions, validate_users
from cleanroom_pipelines.uploads.report import ErrorCode, Outcome, ValidationReport, report_sentence
from cleanroom_pipelines_tests import damaged
from cleanroom_pipelines_tests.offenders import offenders

ENGINE = EngineSettings(memory_bytes=512 << 20, threads=1)
COLUMNS = [("user", "USER_ID"), ("item", "ITEM_ID"), ("ts", "TIMESTAMP"), ("spend", "NUMERICAL_FEATURE")]


def interactions(source: Path, **overrides: Any) -> ValidationReport:
    options: dict[str, Any] = {"min_users": 1, "min_rows": 1, "runtime": Runtime(ENGINE)}
    return validate_interactions(source, COLUMNS, **(options | overrides))


def seed(source: Path, **overrides: Any) -> ValidationReport:
    return check_seed(source, runtime=Runtime(ENGINE), **overrides)[0]


def write_csv(file: Path, rows: list[str], header: str = "user,item,ts,spend") -> Path:
    file.write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
    return file


def write_seed(file: Path, ids: list[Any]) -> Path:
    file.write_text("".join(json.dumps({"user_id": id_}) + "\n" for id_ in ids), encoding="utf-8")
    return file


def write_parquet(file: Path, **columns: Any) -> Path:
    table = {"user": ["u"], "item": ["i"], "ts": [5], "spend": [1.0]}
    pq.write_table(pa.table(table | columns), file)
    return file


def table_codes(report: ValidationReport) -> list[ErrorCode]:
    return [error.code for error in report.table.recorded]


def assert_failed(report: ValidationReport, status_code: StatusCode, *codes: ErrorCode) -> None:
    assert report.outcome is Outcome.FAILED
    assert report.status_code is status_code
    assert report.reason.count(". ") >= 1, "a reason says what is wrong and what to do"
    assert table_codes(report) == list(codes)
    assert report.n_rows_dropped == 0


# --- The file as a whole ---


def test_missing(tmp_path: Path) -> None:
    def check(name: str) -> None:
        assert_failed(interactions(Path(f"{tmp_path}/sub/{name}")), StatusCode.TRAINING_DATA_NOT_FOUND)
        assert_failed(seed(Path(f"{tmp_path}/sub/{name}")), StatusCode.SEED_NOT_FOUND)

    assert offenders(["none.csv", "none*.parquet", "", "a\x00b", "x" * 5_000], check) == []


def test_folder_without_tables(tmp_path: Path) -> None:
    (tmp_path / "_SUCCESS").touch()
    assert_failed(interactions(tmp_path), StatusCode.TRAINING_DATA_NOT_FOUND)


def test_no_bytes(tmp_path: Path) -> None:
    def check(name: str) -> None:
        (tmp_path / name).touch()
        assert_failed(interactions(tmp_path / name), StatusCode.TRAINING_DATA_INVALID, ErrorCode.EMPTY_FILE)
        assert_failed(seed(tmp_path / name), StatusCode.SEED_INVALID, ErrorCode.EMPTY_FILE)

    assert offenders(["empty.csv", "empty.jsonl", "empty.parquet"], check) == []


def test_no_rows(tmp_path: Path) -> None:
    header_only = write_csv(tmp_path / "header.csv", [])
    assert_failed(interactions(header_only), StatusCode.TRAINING_DATA_INVALID, ErrorCode.EMPTY_FILE)
    no_rows = tmp_path / "none.parquet"
    pq.write_table(pa.table({"user_id": pa.array([], pa.string())}), no_rows)
    assert_failed(seed(no_rows), StatusCode.SEED_INVALID, ErrorCode.EMPTY_FILE)


def test_unknown_format(tmp_path: Path) -> None:
    file = tmp_path / "table.xlsx"
    file.write_bytes(b"PK\x03\x04")
    assert_failed(interactions(file), StatusCode.TRAINING_DATA_INVALID, ErrorCode.INVALID_FILE_TYPE)


def test_mixed_formats(tmp_path: Path) -> None:
    write_csv(tmp_path / "a.csv", ["u,i,5,1"])
    write_parquet(tmp_path / "b.parquet")
    assert_failed(interactions(tmp_path), StatusCode.TRAINING_DATA_INVALID, ErrorCode.INVALID_FILE_TYPE)


def test_unreadable(tmp_path: Path) -> None:
    files = [
        ("no.parquet", b"PAR1 this is no parquet PAR1"),
        ("no.csv.gz", b"this is no gzip"),
        ("utf16.csv", "user,item,ts,spend\nu,i,5,1\n".encode("utf-16")),
        ("quote.csv", b'user,"item,ts,spend\nu,i,5,1\n'),
        ("line-ends.csv", b"user,item,ts,spend\nu,i,5,1\r\nu,i,5,1\n"),
        ("cut.csv.gz", gzip.compress(b"user,item,ts,spend\n" + b"u,i,5,1\n" * 50_000, mtime=0)[:-300]),
    ]

    def check(name: str, content: bytes) -> None:
        (tmp_path / name).write_bytes(content)
        report = interactions(tmp_path / name)
        assert_failed(report, StatusCode.TRAINING_DATA_INVALID, ErrorCode.INVALID_FILE_TYPE)

    assert offenders(files, check) == []


LONG = [f"u{i},i,5,1" for i in range(50_000)]


def test_damaged_gzip(tmp_path: Path) -> None:
    lines = LONG[:5_000]
    texts = {
        "t.csv.gz": "\n".join(["user,item,ts,spend", *lines]) + "\n",
        "t.jsonl.gz": "".join(f'{{"user": "{line[:-6]}", "item": "i", "ts": 5, "spend": 1}}\n' for line in lines),
    }

    def check(name: str, how: str) -> None:
        (tmp_path / name).write_bytes(damaged.GZIPS[how](texts[name].encode()))
        for report in (
            interactions(tmp_path / name),
            validate_users(tmp_path / name, [("user", "USER_ID"), ("spend", "NUMERICAL_FEATURE")]),
        ):
            assert_failed(report, StatusCode.TRAINING_DATA_INVALID, ErrorCode.INVALID_FILE_TYPE)
        seed_text = texts[name].replace('"user"', '"user_id"').replace("user,", "user_id,")
        (tmp_path / name).write_bytes(damaged.GZIPS[how](seed_text.encode()))
        assert_failed(seed(tmp_path / name), StatusCode.SEED_INVALID, ErrorCode.INVALID_FILE_TYPE)

    assert offenders(product(texts, damaged.GZIPS), check) == []


def test_a_quote_that_is_not_closed(tmp_path: Path) -> None:
    whole = write_csv(tmp_path / "1.csv", LONG)
    quote = tmp_path / "2.csv"
    quote.write_bytes(damaged.with_open_quote(whole.read_bytes()))
    users = [("user", "USER_ID"), ("spend", "NUMERICAL_FEATURE")]
    for report in (interactions(tmp_path), interactions(quote), validate_users(quote, users)):
        assert_failed(report, StatusCode.TRAINING_DATA_INVALID, ErrorCode.INVALID_FILE_TYPE)
        assert "quote" in report.reason
    quote.write_bytes(quote.read_bytes().replace(b"user,", b"user_id,", 1))
    report = seed(quote)
    assert_failed(report, StatusCode.SEED_INVALID, ErrorCode.INVALID_FILE_TYPE)
    assert report.reason.startswith("The seed has an unclosed quote")


def test_a_quote_before_the_last_lines_is_one_bad_row(tmp_path: Path) -> None:
    report = interactions(write_csv(tmp_path / "t.csv", [*LONG, 'u,i,5,"1', "u,i,5,1"]))
    assert report.passed
    assert (report.n_rows, report.n_invalid_rows) == (50_001, 1)


def test_a_cell_of_many_lines_is_fine(tmp_path: Path) -> None:
    report = interactions(write_csv(tmp_path / "t.csv", ['u,"i' + "\nmore" * 30 + '",5,1']))
    assert (report.n_rows, report.n_invalid_rows) == (1, 0)


def test_truncated_parquet(tmp_path: Path) -> None:
    file = write_parquet(
        tmp_path / "cut.parquet",
        **{name: ["x" * 50] * 5_000 for name in ("user", "item")},
        ts=[5] * 5_000,
        spend=[1.0] * 5_000,
    )
    content = bytearray(file.read_bytes())
    content[10 : len(content) // 2] = b"\xff" * (len(content) // 2 - 10)
    file.write_bytes(content)
    assert_failed(interactions(file), StatusCode.TRAINING_DATA_INVALID, ErrorCode.INVALID_FILE_TYPE)


def test_columns_that_are_not_needed_never_matter(tmp_path: Path) -> None:
    write_parquet(tmp_path / "a.parquet")
    write_parquet(tmp_path / "b.parquet", more=[1])
    assert interactions(tmp_path).passed
    texts = [
        "user,item,ts,spend,\nu,i,5,1,2\n",
        ",user,item,ts,spend\n0,u,i,5,1\n",
        "user,x,item,ts,X,spend,x\nu,1,i,5,1,1,1\n",
    ]

    def check(text: str) -> None:
        (tmp_path / "t.csv").write_text(text)
        report = interactions(tmp_path / "t.csv")
        assert report.passed, report.reason
        assert report.n_valid_rows == 1

    assert offenders(texts, check) == []


def test_a_needed_column_that_occurs_twice(tmp_path: Path) -> None:
    report = interactions(write_csv(tmp_path / "t.csv", ["u,i,5,1,2"], header="user,item,ts,spend,SPEND"))
    assert_failed(report, StatusCode.TRAINING_DATA_INVALID, ErrorCode.NOT_ENOUGH_COLUMNS)
    assert "two columns named 'spend'" in report.reason
    report = seed(write_csv(tmp_path / "s.csv", ["u1,u1"], header="user_id,User_ID"))
    assert "two columns named 'user_id'" in report.reason


def test_a_heavy_id_is_a_warning_with_its_share(tmp_path: Path) -> None:
    rows = [f"{'guest' if number % 4 else f'u{number}'},i,5,1" for number in range(100)]
    report = interactions(write_csv(tmp_path / "t.csv", rows))
    assert report.passed
    assert [warning for warning in report.table.warnings if "75%" in warning and "guest" not in warning]
    assert interactions(write_csv(tmp_path / "t.csv", rows[::4])).table.warnings == ()


def test_placeholders_have_a_code_of_their_own(tmp_path: Path) -> None:
    empty = hashlib.sha256(b"").hexdigest()
    ids = ["NULL", "nan", "N/A", "00000000-0000-0000-0000-000000000000", empty, empty.upper(), "null", " NaN "]
    (tmp_path / "s.csv").write_text("\n".join(["user_id", *ids, *(f"u{number}" for number in range(30))]))
    report = seed(tmp_path / "s.csv", max_invalid_share=0.5)
    assert report.n_invalid_rows_by_code == {ErrorCode.PLACEHOLDER: len(ids)}
    assert report.uniqueness.n_unique == 30


def test_the_sentence_says_what_was_seen_and_what_to_do(tmp_path: Path) -> None:
    seen = {
        "u,i,30.11.2026,1": ("'ts'", "does not start with the year", "ISO 8601"),
        "u,i,5.5,1": ("'ts'", "fraction of a second", "whole seconds"),
        'u,i,5,"1,5"': ("'spend'", "decimal comma", "1234.5"),
        "u,i,5,$15": ("'spend'", "currency", "number alone"),
        "u,i,5,15 EUR": ("'spend'", "currency", "number alone"),
        "nan,i,5,1": ("'user'", "PLACEHOLDER", "Remove the rows"),
    }

    def check(row: str) -> None:
        report = interactions(write_csv(tmp_path / "t.csv", [row, "u,i,5,1"]))
        assert not report.passed
        assert all(words in report.reason for words in seen[row]), report.reason
        assert "15" not in report.reason.replace("1234.5", "")

    assert offenders(seen, check) == []


def test_rows_below_a_title_are_numbered_from_one(tmp_path: Path) -> None:
    (tmp_path / "seed.csv").write_text("sep=;\nReport of May;\nuser_id;name\nu1;Ann\nu2\nu3;Joe\n")
    report, ids = check_seed(tmp_path / "seed.csv", max_invalid_share=0.5, min_unique=1, runtime=Runtime(ENGINE))
    assert ids is not None
    assert (ids.to_pylist(), report.n_rows) == (["u1", "u3"], 3)
    assert [error.row for error in report.table.recorded] == [2]


def test_whether_the_columns_are_there_is_decided_once(tmp_path: Path) -> None:
    (tmp_path / "seed.csv").write_text("user_id\nu1\n")
    with mock.patch.object(checks, "check_columns", wraps=checks.check_columns) as decided:
        assert check_seed(tmp_path / "seed.csv", min_unique=1, runtime=Runtime(ENGINE))[0].passed
    assert decided.call_count == 1


def test_missing_columns_are_named(tmp_path: Path) -> None:
    report = interactions(write_csv(tmp_path / "t.csv", ["u,i"], header="user,produit"))
    assert_failed(report, StatusCode.TRAINING_DATA_INVALID, ErrorCode.NOT_ENOUGH_COLUMNS)
    assert all(repr(name) in report.reason for name in ("item", "ts", "spend"))
    assert "'user'" not in report.reason
    assert "produit" not in json.dumps(report.as_dict()), "without a header this would be a cell"


def test_seed_without_its_column(tmp_path: Path) -> None:
    (tmp_path / "s.csv").write_text("alice\nbob\n")
    assert_failed(seed(tmp_path / "s.csv"), StatusCode.SEED_INVALID, ErrorCode.NOT_ENOUGH_COLUMNS)
    (tmp_path / "s.json").write_text('[{"user_id": "alice"},\n {"user_id": "bob"}]\n')
    report = seed(tmp_path / "s.json")
    assert_failed(report, StatusCode.SEED_INVALID, ErrorCode.NOT_ENOUGH_COLUMNS)
    assert "one object per line" in report.reason


IDS_OF_PEOPLE = [f"p-{number:03d}" for number in range(30)]
TAKEN_SEED_COLUMNS = [
    ("csv", ("customer_id",), "customer_id"),
    ("csv", ("Loyalty ID",), "Loyalty ID"),
    ("csv", ("Client",), "Client"),
    ("csv", ("buyers",), None),  # may be an id in a list without a header
    ("csv", ("household_key",), "household_key"),
    ("csv", ("spend", "Household_Key"), "Household_Key"),
    ("csv", ("spend", "Customer No."), "Customer No."),
    ("csv", ("member_id", "user_id"), "user_id"),
    ("csv", ("member_id", "household_key"), "household_key"),
    ("csv", ("member_id", "customer_id"), None),
    ("csv", ("spend", "buyers"), None),
    ("csv", ("spend", "order_id"), None),
    ("jsonl", ("customer",), "customer"),
    ("jsonl", ("buyers",), None),
    ("jsonl", ("a.b@example.com",), None),
    ("jsonl", ("spend", "buyers"), None),
    ("parquet", ("buyers",), "buyers"),
    ("parquet", ("p-0001",), None),
    ("parquet", ("Customer", "spend"), "Customer"),
]


@pytest.mark.parametrize(("form", "columns", "taken"), TAKEN_SEED_COLUMNS, ids=str)
def test_which_column_of_a_seed_has_the_ids(
    tmp_path: Path, form: str, columns: tuple[str, ...], taken: str | None
) -> None:
    table = pa.table({name: IDS_OF_PEOPLE if name == taken else ["x"] * 30 for name in columns})
    file = tmp_path / f"seed.{form}"
    if form == "parquet":
        pq.write_table(table, file)
    elif form == "jsonl":
        file.write_text("".join(f"{json.dumps(row)}\n" for row in table.to_pylist()))
    else:
        table.to_pandas().to_csv(file, index=False)
    report = seed(file, dataset_column="household_key")
    if taken is None:
        assert_failed(report, StatusCode.SEED_INVALID, ErrorCode.NOT_ENOUGH_COLUMNS)
        assert not any(name in json.dumps(report.as_dict()) for name in columns if name != "customer_id")
        assert "Name it 'user_id', or like the user id column of the training data" in report.reason
        return
    assert (report.passed, report.uniqueness.n_unique, report.uniqueness.key_columns) == (True, 30, (taken,))
    where = "" if taken == "user_id" else f" in column {taken!r}"
    assert f"30 unique ids{where}, 0 duplicates" in report_sentence(report)


def test_without_the_name_of_the_dataset_s_column_it_is_not_taken(tmp_path: Path) -> None:
    write_csv(tmp_path / "s.csv", [f"{each},1" for each in IDS_OF_PEOPLE], header="household_key,spend")
    assert_failed(seed(tmp_path / "s.csv"), StatusCode.SEED_INVALID, ErrorCode.NOT_ENOUGH_COLUMNS)


def test_unknown_columns_are_named_and_ignored(tmp_path: Path) -> None:
    file = write_csv(tmp_path / "t.csv", ["u,i,5,1,x"], header="user,item,ts,spend,note")
    report = interactions(file)
    assert report.passed
    assert (report.table.n_unknown_columns, report.table.unknown_columns) == (1, ("note",))


def test_type_that_its_role_forbids(tmp_path: Path) -> None:
    columns: list[tuple[str, list[Any]]] = [
        ("user", [True]),
        ("user", [["u"]]),
        ("item", [datetime(2024, 1, 1, tzinfo=UTC)]),
        ("item", [{"i": "x"}]),
        ("ts", ["5"]),
        ("ts", [5.0]),
        ("spend", ["1.0"]),
        ("spend", [True]),
    ]

    def check(column: str, values: list[Any]) -> None:
        report = interactions(write_parquet(tmp_path / "t.parquet", **{column: values}))
        assert_failed(report, StatusCode.TRAINING_DATA_INVALID, ErrorCode.INVALID_FILE_TYPE)
        assert repr(column) in report.reason
        assert [error.column for error in report.schema.recorded] == [column]

    assert offenders(columns, check) == []


def test_type_that_its_role_takes(tmp_path: Path) -> None:
    columns = {
        "user": [pa.array([7], pa.int32()), pa.array(["u"]).dictionary_encode()],
        "item": [pa.array(["i"], pa.large_string())],
        "ts": [
            pa.array([datetime(2024, 1, 1)], pa.timestamp("ns")),  # noqa: DTZ001
            pa.array([datetime(2024, 1, 1, tzinfo=UTC)], pa.timestamp("us", tz="UTC")),
            pa.array([datetime(2024, 1, 1)], pa.timestamp("ms")).cast(pa.date32()),  # noqa: DTZ001
            pa.array([5], pa.uint64()),
        ],
        "spend": [
            pa.array([1], pa.int16()),
            pa.array([1]).cast(pa.decimal128(22, 2)),
            pa.array([None], pa.float32()),
            pa.array([float("nan")]),
        ],
    }

    def check(number: int) -> None:
        table = {name: arrays[number % len(arrays)] for name, arrays in columns.items()}
        report = interactions(write_parquet(tmp_path / "t.parquet", **table))
        assert report.passed, report.reason
        assert report.n_valid_rows == 1

    assert offenders(range(4), check) == []


def test_categorical_feature_takes_lists_and_more(tmp_path: Path) -> None:
    types = [pa.list_(pa.string()), pa.bool_(), pa.float64(), pa.string()]
    extra = {f"extra{number}": pa.array([None], type_) for number, type_ in enumerate(types)}
    file = write_parquet(tmp_path / "t.parquet", **extra)
    columns = [*COLUMNS, *((name, "CATEGORICAL_FEATURE") for name in extra)]
    report = validate_interactions(file, columns, min_users=1, min_rows=1, runtime=Runtime(ENGINE))
    assert report.passed, report.reason


def test_times_that_are_not_seconds(tmp_path: Path) -> None:
    def check(factor: int, unit: str) -> None:
        time = 1_700_000_000 * factor
        for file in (
            write_csv(tmp_path / "t.csv", [f"u,i,{time},1"] * 2 + ["u,i,5,1"]),
            write_parquet(tmp_path / "t.parquet", ts=[time]),
        ):
            report = interactions(file, max_invalid_share=1)
            assert_failed(report, StatusCode.TRAINING_DATA_INVALID, ErrorCode.INVALID_NUMERIC_RANGE)
            assert unit in report.reason

    units = {1_000: "milliseconds", 1_000_000: "microseconds", 1_000_000_000: "nanoseconds"}
    assert offenders(units.items(), check) == []


def test_a_few_times_in_milliseconds_are_dropped(tmp_path: Path) -> None:
    file = write_csv(tmp_path / "t.csv", ["u,i,5,1", "u,i,1700000000000,1"])
    report = interactions(file, max_invalid_share=0.5)
    assert report.passed
    assert report.n_invalid_rows_by_code == {ErrorCode.INVALID_NUMERIC_RANGE: 1}


# --- How many rows, users and ids ---


def test_five_percent_exactly(tmp_path: Path) -> None:
    bad = ["u,,5,1", "u,i", "u,i,five,1", "u,i,5,much", "u,i,5,1,2"]
    report = interactions(write_csv(tmp_path / "t.csv", bad + ["u,i,5,1"] * 95))
    assert (report.n_rows, report.n_invalid_rows) == (100, 5)
    assert report.passed
    assert report.n_rows_dropped == 5

    def check(one_more: str) -> None:
        report = interactions(write_csv(tmp_path / "t.csv", [*bad, one_more] + ["u,i,5,1"] * 94))
        assert (report.n_rows, report.n_invalid_rows) == (100, 6)
        assert_failed(report, StatusCode.TRAINING_DATA_INVALID, *table_codes(report))
        assert report.reason.startswith("6 of 100 rows")

    assert offenders(bad, check) == []


def test_allowed_share_is_exact(tmp_path: Path) -> None:
    # As floats, 0.29 * 100 < 29.
    file = write_csv(tmp_path / "t.csv", ["u,i,x,1"] * 29 + ["u,i,5,1"] * 71)
    assert interactions(file, max_invalid_share=0.29).passed


def test_floors(tmp_path: Path) -> None:
    file = write_csv(tmp_path / "t.csv", ["a,i,5,1", "a,i,6,1", "b,i,5,1", "c,i,5,1"])

    def check(name: str, floor: int, unit: str) -> None:
        report = interactions(file, **{name: floor})
        assert_failed(report, StatusCode.TRAINING_DATA_TOO_SMALL, ErrorCode.INVALID_NUMBER_OF_ROWS)
        assert unit in report.reason
        assert interactions(file, **{name: floor - 1}).passed

    floors = [("min_users", 4, "users"), ("min_rows", 5, "valid rows"), ("min_users_with_two", 2, "two rows")]
    assert offenders(floors, check) == []


def test_default_floors_are_100_users_and_1000_rows(tmp_path: Path) -> None:
    rows = [f"u{i % 100},i,5,1" for i in range(1_000)]
    enough = write_csv(tmp_path / "enough.csv", rows)
    assert validate_interactions(enough, COLUMNS, runtime=Runtime(ENGINE)).passed
    for name, fewer in (("rows", rows[1:]), ("users", [row.replace("u99,", "u98,") for row in rows])):
        report = validate_interactions(
            write_csv(tmp_path / f"{name}.csv", fewer), COLUMNS, runtime=Runtime(ENGINE)
        )
        assert report.status_code is StatusCode.TRAINING_DATA_TOO_SMALL


def test_seed_of_24_ids(tmp_path: Path) -> None:
    ids = [f"u{i}" for i in range(24)]
    report = seed(write_seed(tmp_path / "s.jsonl", ids + ids))
    assert_failed(report, StatusCode.SEED_TOO_SMALL, ErrorCode.INVALID_NUMBER_OF_ROWS)
    assert (report.n_rows, report.uniqueness.n_unique, report.uniqueness.n_duplicates) == (48, 24, 24)
    assert seed(write_seed(tmp_path / "t.jsonl", [*ids, 7])).passed


def test_seed_of_500_001_ids(tmp_path: Path) -> None:
    for n_ids, passes in ((500_000, True), (500_001, False)):
        file = tmp_path / f"{n_ids}.parquet"
        pq.write_table(pa.table({"user_id": pa.array(range(n_ids))}), file)
        report = seed(file)
        assert report.uniqueness.n_unique == n_ids
        assert report.passed is passes
    assert_failed(report, StatusCode.SEED_TOO_LARGE, ErrorCode.INVALID_NUMBER_OF_ROWS)


def test_seed_that_is_not_json(tmp_path: Path) -> None:
    file = tmp_path / "s.jsonl"
    file.write_text('{"user_id": "a"}\n' + "user a\n" * 40)
    report = seed(file)
    assert_failed(report, StatusCode.SEED_INVALID)
    assert (report.n_rows, report.n_invalid_rows) == (41, 40)


def test_seed_in_every_format(tmp_path: Path) -> None:
    ids = [f"u{i}" for i in range(30)]
    pq.write_table(pa.table({"user_id": ids}), tmp_path / "s.parquet")
    write_csv(tmp_path / "s.csv", ids, header="user_id")
    write_seed(tmp_path / "s.jsonl", ids)

    def check(name: str) -> None:
        (tmp_path / f"{name}.gz").write_bytes(gzip.compress((tmp_path / name).read_bytes()))
        for file in (tmp_path / name, tmp_path / f"{name}.gz"):
            report = seed(file)
            assert report.passed, report.reason
            assert report.uniqueness.n_unique == 30

    assert offenders(["s.csv", "s.jsonl", "s.parquet"], check) == []


def test_odd_file_names(tmp_path: Path) -> None:
    content = b"user,item,ts,spend\nu,i,5,1\n"
    (tmp_path / "star.csv").write_bytes(content * 3)

    def check(name: str) -> None:
        (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
        report = interactions(tmp_path / name)
        assert report.passed, report.reason
        assert report.n_rows == 1

    # More of them in engine/test_duckdb_engine.
    assert offenders(["new\nline'\".csv", "st*r.csv", "[a]?.csv.gz"], check) == []


# --- Counting ---


def test_recording_stops_at_500_and_totals_do_not(tmp_path: Path) -> None:
    rows = ["u,,x,1", "u,i"] * 700
    report = interactions(write_csv(tmp_path / "t.csv", rows), batch_rows=97, max_invalid_share=1)
    by_column = {column.column: column for column in report.columns}
    assert {name: (errors.n_errors, len(errors.recorded)) for name, errors in by_column.items()} == {
        "user": (0, 0),
        "item": (700, 500),
        "ts": (700, 500),
        "spend": (0, 0),
    }
    assert [error.row for error in by_column["item"].recorded] == list(range(1, 1_000, 2))
    # One more for too few rows, which is recorded first.
    assert (report.table.n_errors, len(report.table.recorded)) == (701, 500)
    assert [error.row for error in report.table.recorded[1:4]] == [2, 4, 6]
    assert report.n_invalid_rows == 1_400
    assert report.n_invalid_rows_by_code == {
        ErrorCode.EMPTY_CELL: 700,
        ErrorCode.INVALID_INTEGER_FORMAT: 700,
        ErrorCode.NOT_ENOUGH_COLUMNS: 700,
    }


def test_duplicates_of_users_recorded_up_to_500(tmp_path: Path) -> None:
    file = write_csv(tmp_path / "u.csv", [f"u{i % 10}" for i in range(700)], header="user")
    report = validate_users(file, [("user", "USER_ID")], runtime=Runtime(ENGINE))
    assert report.passed
    assert (report.uniqueness.n_unique, report.uniqueness.n_duplicates, report.n_rows_dropped) == (10, 690, 690)
    assert [error.row for error in report.uniqueness.recorded] == list(range(11, 511))


def test_row_numbers_go_on_across_files(tmp_path: Path) -> None:
    write_csv(tmp_path / "a.csv", ["u,i,5,1", "broken", "u,,5,1"])
    (tmp_path / "b.csv").write_bytes(b"user,item,ts,spend\r\nu,\xff,5,1\r\nu,i,x,1\r\n")
    report = interactions(tmp_path, max_invalid_share=1)
    assert [(error.row, error.code) for error in report.table.recorded] == [
        (2, ErrorCode.NOT_ENOUGH_COLUMNS),
        (4, ErrorCode.NOT_ENOUGH_COLUMNS),
    ]
    assert {c.column: [error.row for error in c.recorded] for c in report.columns} == {
        "user": [],
        "item": [3],
        "ts": [5],
        "spend": [],
    }


def test_progress_ends_at_one(tmp_path: Path) -> None:
    shares: list[float] = []
    file = write_csv(tmp_path / "t.csv", ["u,i,5,1"] * 10)
    interactions(file, batch_rows=2, runtime=Runtime(ENGINE, lambda share, stage: shares.append(share)))
    assert shares == sorted(shares)
    assert shares[-1] == 1.0


def test_what_progress_raises_ends_the_validation(tmp_path: Path) -> None:
    def cancel(share: float, stage: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interactions(write_csv(tmp_path / "t.csv", ["u,i,5,1"]), runtime=Runtime(ENGINE, cancel))


# --- What is not the file's fault is an error ---


def test_declaration_that_cannot_be_meant(tmp_path: Path) -> None:
    declarations = [
        [("user", "USER_ID")],
        [("user", "USER_ID"), ("item", "ITEM")],
        [("user", "USER_ID"), ("item", "ITEM_ID"), ("USER", "CATEGORICAL_FEATURE")],
        [("user", "USER_ID"), ("user2", "USER_ID"), ("item", "ITEM_ID")],
        [("user", "USER_ID"), ("item", "ITEM_ID"), ("ts", "TIMESTAMP"), ("ts2", "TIMESTAMP")],
    ]

    def check(columns: list[tuple[str, str]]) -> None:
        with pytest.raises(UsageError):
            validate_interactions(tmp_path / "t.csv", columns)

    assert offenders(declarations, check) == []


def test_failing_integers_and_doubles_in_one_batch(tmp_path: Path) -> None:
    # Put into one column, as pandera does with failing values, these two make pandas fail.
    file = write_parquet(tmp_path / "t.parquet", ts=[2**63 - 1], spend=[float("inf")])
    report = interactions(file, max_invalid_share=1, min_users=0, min_rows=0)
    assert [column.n_errors for column in report.columns] == [0, 0, 1, 1]


def test_a_check_that_breaks_is_not_an_invalid_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: pd.Series, value: str) -> pd.Series:
        raise TypeError("a cell: u")

    monkeypatch.setattr(pd.Series, "fillna", broken)
    with pytest.raises(EngineError) as caught:
        interactions(write_csv(tmp_path / "t.csv", ["u,i,5,1", ",i,5,1"]))
    assert "a cell" not in str(caught.value)
    assert caught.value.__context__ is None


def test_files_that_change_between_the_passes(tmp_path: Path) -> None:
    file = tmp_path / "t.parquet"
    rows = pa.table({"user": ["u"] * 3, "item": ["i"] * 3, "ts": [5] * 3, "spend": [1.0] * 3})
    pq.write_table(rows, file)

    def change(share: float, stage: str) -> None:
        if stage == "counting users":
            pq.write_table(rows[:1], file)

    with pytest.raises(EngineError, match="changed"):
        interactions(file, runtime=Runtime(ENGINE, change))
