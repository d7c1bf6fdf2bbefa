"""Files that can be ingested, and reasons for a file to fail.

Contract: the format is detected from the content; a file that is missing, damaged or empty, or has another
number of columns, fails with a code, a status and a remedy; invalid files never raise. Invalid rows are dropped
and all counted; the first 500 are recorded.
"""

import gzip
from itertools import product
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cleanroom_pipelines.engine import EngineSettings, Runtime
from cleanroom_pipelines.errors import StatusCode
from cleanroom_pipelines.terms import MatchingId
from cleanroom_pipelines.uploads.report import ErrorCode, ValidationReport, report_markdown
from cleanroom_pipelines.uploads.rooms import Dataset, RoomUpload, ingest_base, ingest_seeds
from cleanroom_pipelines_tests import damaged
from cleanroom_pipelines_tests.offenders import offenders
from cleanroom_pipelines_tests.uploads.uploads import report_on

ENGINE = EngineSettings(memory_bytes=512 << 20, threads=1)
ROWS = b"u1,a@x.ch\nu2,b@x.ch\n"


def validate(
    path: Path,
    dataset: Dataset = Dataset.MATCHING,
    kind: MatchingId | None = MatchingId.EMAIL,
    n: int | None = None,
) -> ValidationReport:
    kind = kind if dataset in (Dataset.MATCHING, Dataset.SEED_AUDIENCES) else None
    return report_on(RoomUpload(dataset, path, kind, n), runtime=Runtime(ENGINE))


def parquet(path: Path, **columns: object) -> Path:
    pq.write_table(pa.table(columns), path)
    return path


def found(report: ValidationReport) -> list[tuple[str, int | None, ErrorCode]]:
    return [(c.column, e.row, e.code) for c in report.columns for e in c.recorded]


# --- The format is told by the content ---


def test_formats(tmp_path: Path) -> None:
    ids = ["a@x.ch", "b@x.ch"]
    contents = {
        "lf": ROWS,
        "bom": b"\xef\xbb\xbf" + ROWS,
        "crlf": ROWS.replace(b"\n", b"\r\n"),
        "cr": ROWS.replace(b"\n", b"\r"),
        "no-end": ROWS[:-1],
        "blank": b"\n\n" + ROWS.replace(b"\n", b"\n\n"),
        "gzip": gzip.compress(ROWS),
        "two-gzip": gzip.compress(ROWS[:10]) + gzip.compress(ROWS[10:]),
        "parquet": parquet(tmp_path / "p", a=["u1", "u2"], b=ids).read_bytes(),
        "parquet-gzip": gzip.compress(parquet(tmp_path / "p", A=["u1", "u2"], a=ids).read_bytes()),
    }
    (tmp_path / "in").mkdir()

    def check(name: str, form: str) -> None:
        path = tmp_path / "in" / name
        path.write_bytes(contents[form])
        report = validate(path)
        assert report.passed, report.reason
        assert (report.n_rows, report.n_invalid_rows, report.table.n_users) == (2, 0, 2)
        assert report.table.n_bytes == path.stat().st_size
        assert report.table.format in ("csv", "parquet")
        assert [each.column for each in report.schema.columns] == ["user_id", "matching_id"]
        assert "2 of 2 rows are usable" in report_markdown(report)

    # Each form under a name that says nothing, one of each kind of file under names that say something else.
    cases = [
        *product(["upload"], contents),
        *product(["x.parquet"], ["lf", "gzip"]),
        *product(["x.csv"], ["gzip", "parquet", "parquet-gzip"]),
        *product(["x.gz"], ["lf", "parquet"]),
        *product(["a*b?[c].csv", "ü \n'.json"], ["lf", "parquet-gzip"]),
    ]
    assert offenders(cases, check) == []


def test_parquet_types(tmp_path: Path) -> None:
    ids = pa.array(["a", "b", "a"]).dictionary_encode()
    report = validate(parquet(tmp_path / "p", u=[1, 2, None], m=ids), kind=MatchingId.STRING)
    assert (report.n_rows, report.n_invalid_rows) == (3, 1)
    vectors = {"u": [1, 2, 3, 4], "s": ["x"] * 4, "a": [1, 2, 3, None], "b": np.array([1.5, np.inf, -2, 3], "f4")}
    report = validate(parquet(tmp_path / "p", **vectors), Dataset.EMBEDDINGS, n=2)
    assert found(report) == [("e0", 4, ErrorCode.EMPTY_CELL), ("e1", 2, ErrorCode.INVALID_NUMERIC_RANGE)]
    vectors["b"] = pa.array([float("nan"), 1, 2, 3])
    report = validate(parquet(tmp_path / "p", **vectors), Dataset.EMBEDDINGS, n=2)
    assert [(column, row) for column, row, _ in found(report)] == [("e0", 4), ("e1", 1)]
    report = validate(parquet(tmp_path / "p", u=["a", "b"], a=[37, 151]), Dataset.DEMOGRAPHICS)
    assert found(report) == [("age", 2, ErrorCode.INVALID_NUMERIC_RANGE)]


def test_parquet_types_that_cannot_be(tmp_path: Path) -> None:
    tables: list[tuple[Dataset, dict[str, list[object]]]] = [
        (Dataset.MATCHING, {"u": [1.5], "m": ["a@x.ch"]}),
        (Dataset.MATCHING, {"u": ["u"], "m": [["a@x.ch"]]}),
        (Dataset.SEGMENTS, {"u": ["u"], "s": [b"bytes"]}),
        (Dataset.EMBEDDINGS, {"u": ["u"], "s": ["s"], "e": ["1.5"]}),
        (Dataset.DEMOGRAPHICS, {"u": ["u"], "a": ["18-24"], "g": [1]}),
    ]

    def check(dataset: Dataset, columns: dict[str, list[object]]) -> None:
        n_embeddings = 1 if dataset is Dataset.EMBEDDINGS else None
        report = validate(parquet(tmp_path / "p", **columns), dataset, n=n_embeddings)
        assert not report.passed
        assert report.schema.n_errors == 1
        assert [error.code for error in report.table.recorded] == [ErrorCode.INVALID_FILE_TYPE]

    assert offenders(tables, check) == []


# --- What fails a file ---


def test_files_that_fail(tmp_path: Path) -> None:
    files = [
        (b"", ErrorCode.EMPTY_FILE),
        (gzip.compress(b"", mtime=0), ErrorCode.EMPTY_FILE),
        (b"\xef\xbb\xbf", ErrorCode.EMPTY_FILE),
        (b"\n\n\n", ErrorCode.EMPTY_FILE),
        (b"u1,nobody\nu2,\n", ErrorCode.INVALID_NUMBER_OF_ROWS),
        (b"user_id,matching_id\n", ErrorCode.EMPTY_FILE),
        (b"email,user_id\na@x.ch,u1\n", ErrorCode.INVALID_FILE_TYPE),
        (b"u1\nu2\nu3,a@x.ch\n", ErrorCode.NOT_ENOUGH_COLUMNS),
        (b"u1,a@x.ch,1\nu2,a@x.ch,2\nu3,a@x.ch\n", ErrorCode.TOO_MANY_COLUMNS),
        (b"PK\x03\x04\x00\x00 a spreadsheet", ErrorCode.NOT_ENOUGH_COLUMNS),
        (b"PAR1 no parquet PAR1", ErrorCode.INVALID_FILE_TYPE),
        *((damage(ROWS * 50_000), ErrorCode.INVALID_FILE_TYPE) for damage in damaged.GZIPS.values()),
        (gzip.compress(ROWS, mtime=0)[:-8] + b"\x00" * 8, ErrorCode.INVALID_FILE_TYPE),
        (b"\x1f\x8b no gzip", ErrorCode.INVALID_FILE_TYPE),
        (b"u1,a@x.ch\r\nu2,b@x.ch\nu3,c@x.ch\r\n", ErrorCode.INVALID_FILE_TYPE),
        (ROWS * 20 + b'u3,"a@x.ch\n' + ROWS * 20, ErrorCode.INVALID_FILE_TYPE),
        (ROWS * 20 + b'u3,"a@x.ch\r' + ROWS.replace(b"\n", b"\r") * 20, ErrorCode.INVALID_FILE_TYPE),
        (
            ROWS * 20 + b'u3,"' + b"x" * 9_000 + b"@x.ch\nu" + b"x" * 9_000 + b",a@x.ch",
            ErrorCode.INVALID_FILE_TYPE,
        ),
    ]
    path = tmp_path / "upload"

    def check(content: bytes, code: ErrorCode) -> None:
        path.write_bytes(content)
        report = validate(path)
        assert not report.passed
        assert report.status_code is StatusCode.TRAINING_DATA_INVALID
        assert report.reason.count(". ") >= 1, "a reason says what is wrong and what to do"
        assert report.n_rows_dropped == 0
        assert report.table.recorded[0].code is code
        assert report.table.n_errors >= 1

    assert offenders(files, check) == []


def test_a_seed_fails_with_its_own_status(tmp_path: Path) -> None:
    (tmp_path / "upload").touch()
    assert validate(tmp_path / "upload", Dataset.SEED_AUDIENCES).status_code is StatusCode.SEED_INVALID


def test_utf16(tmp_path: Path) -> None:
    (tmp_path / "upload").write_bytes(ROWS.decode().encode("utf-16"))
    assert not validate(tmp_path / "upload").passed


def test_missing(tmp_path: Path) -> None:
    for path in (tmp_path / "none", tmp_path / "a\x00b", tmp_path):
        report = validate(path)
        assert not report.passed
    assert validate(tmp_path / "none").status_code is StatusCode.TRAINING_DATA_NOT_FOUND
    assert validate(tmp_path / "none", Dataset.SEED_AUDIENCES).status_code is StatusCode.SEED_NOT_FOUND


def test_parquet_of_other_columns(tmp_path: Path) -> None:
    codes = {0: ErrorCode.NOT_ENOUGH_COLUMNS, 1: ErrorCode.NOT_ENOUGH_COLUMNS, 3: ErrorCode.TOO_MANY_COLUMNS}

    def check(n_columns: int, code: ErrorCode) -> None:
        report = validate(parquet(tmp_path / "p", **{f"c{i}": ["x"] for i in range(n_columns)}))
        assert [error.code for error in report.table.recorded] == [code]

    assert offenders(codes.items(), check) == []


def test_a_damaged_parquet(tmp_path: Path) -> None:
    path = parquet(tmp_path / "p", u=[f"u{i}" for i in range(10_000)], m=["a@x.ch"] * 10_000)
    content = bytearray(path.read_bytes())
    content[100:5_000] = bytes(4_900)
    path.write_bytes(content)
    report = validate(path)
    assert not report.passed
    assert [error.code for error in report.table.recorded] == [ErrorCode.INVALID_FILE_TYPE]


@pytest.mark.parametrize("kind", ["gzip", "parquet"])
def test_a_bomb_is_not_unpacked(tmp_path: Path, kind: str) -> None:
    if kind == "gzip":
        (tmp_path / "upload").write_bytes(gzip.compress(b"u1,a@x.ch\n" * 1_000_000))
    else:
        parquet(tmp_path / "upload", u=["u1"] * 1_000_000, m=["a@x.ch"] * 1_000_000)
        assert (tmp_path / "upload").stat().st_size < 10_000
    engine = EngineSettings(memory_bytes=512 << 20, threads=1, scratch=tmp_path, unpacked_bytes=1 << 20)
    report = report_on(
        RoomUpload(Dataset.MATCHING, tmp_path / "upload", MatchingId.EMAIL), runtime=Runtime(engine)
    )
    assert not report.passed
    assert report.reason is not None
    assert "The file is larger than 1,048,576 bytes when unpacked." in report.reason
    assert [path.name for path in tmp_path.iterdir()] == ["upload"]


# --- Rows ---


HEADERS = [
    (Dataset.MATCHING, "User_ID, matching_id", "u1,a"),
    (Dataset.MATCHING, "Customer ID,E-Mail", "u1,a"),
    (Dataset.MATCHING, "id;Mobile", "u1;a"),
    (Dataset.SEGMENTS, "user_id,segment", "u1,Sport"),
    (Dataset.DEMOGRAPHICS, "user_id,age,gender", "u1,18-24,f"),
    (Dataset.DEMOGRAPHICS, "user_id", "u1"),
    (Dataset.EMBEDDINGS, "user_id,scope,0", "u1,all,1"),
    (Dataset.SEED_AUDIENCES, "matching_id,audience_type", "a,New"),
    (Dataset.SEED_AUDIENCES, "customer_id\ttype", "a\tNew"),
    (Dataset.SEED_AUDIENCES, "Email", "a"),
    (Dataset.SEED_AUDIENCES, 'user_id;"name, first, last"', "a;New"),
    (Dataset.SEED_AUDIENCES, "user_id,2026-11-30", "a,New"),
]


def test_a_header_is_skipped_and_said(tmp_path: Path) -> None:
    path = tmp_path / "upload"

    def check(dataset: Dataset, header: str, row: str) -> None:
        path.write_text(f"{header}\n{row}\n")
        report = validate(path, dataset, MatchingId.STRING, 1 if dataset is Dataset.EMBEDDINGS else None)
        assert report.passed, report.reason
        assert (report.n_rows, report.n_invalid_rows) == (1, 0)
        assert "The first row holds column names and was skipped." in report.table.warnings
        assert "column names" in report_markdown(report).splitlines()[0]

    assert offenders(HEADERS, check) == []
    path.write_text("u1,Sport\nuser_id,segment\n")
    later = validate(path, Dataset.SEGMENTS)
    assert (later.n_rows, later.table.warnings) == (2, ()), "the first row alone is a header"


ABOVE = [
    (Dataset.SEED_AUDIENCES, "sep=;\n", "user_id;type\nu1;new\nu2;new"),
    (Dataset.SEED_AUDIENCES, "sep=;\n", "u1;new\nu2;new"),
    (Dataset.SEED_AUDIENCES, "Report of customers 2024,,\n", "user_id,type,\nu1,new,\nu2,new,"),
    (Dataset.SEED_AUDIENCES, "Report of customers\n\n", "user_id\nu1\nu2"),
    (Dataset.SEED_AUDIENCES, "sep=\t\nReport of customers\n", "user_id\ttype\nu1\tnew\nu2\tnew"),
    (Dataset.MATCHING, "# made in May\n", "user_id,email\nu1,a\nu2,b"),
    (Dataset.SEGMENTS, "Our segments;\n;\n", "user_id;segment\nu1;Sport\nu2;Sport"),
    (Dataset.DEMOGRAPHICS, "Report of May,,\n", "user_id,age,gender\nu1,18-24,f\nu2,,"),
    (Dataset.EMBEDDINGS, "sep=|\n", "user_id|scope|e0|e1\nu1|all|0.5|1\nu2|all|1|2"),
]


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_lines_above_the_rows_are_no_rows(tmp_path: Path, end: str) -> None:
    path = tmp_path / "upload"

    def check(dataset: Dataset, above: str, rows: str) -> None:
        path.write_bytes((above + rows + "\n").replace("\n", end).encode())
        report = validate(path, dataset, MatchingId.STRING, 2 if dataset is Dataset.EMBEDDINGS else None)
        assert (report.passed, report.n_rows, report.n_invalid_rows) == (True, 2, 0), report.reason
        has_title = any(" " in line for line in above.splitlines())
        assert any("a title and column names" in each for each in report.table.warnings) is has_title

    assert offenders(ABOVE, check) == []
    path.write_text("sep=;\nReport of May;\nuser_id;email\nu1;a@x.ch\nu2\nu3;bad\n".replace("\n", end), newline="")
    report = validate(path)
    assert [(error.row, error.code) for error in report.table.recorded] == [(2, ErrorCode.NOT_ENOUGH_COLUMNS)]
    assert found(report) == [("matching_id", 3, ErrorCode.INVALID_EMAIL_FORMAT)]
    path.write_text("Anna Muster,\nu2,Sport\n")
    assert validate(path, Dataset.SEGMENTS).n_rows == 2, "without a header below, the first line is a row"


EXTRA_COLUMNS = [
    (
        Dataset.SEED_AUDIENCES,
        '"user_id";"Name";"Amount"',
        '"u1";"Muster, Ann";"1.234,50"',
        "1 of user ids and 2 others",
    ),
    (Dataset.SEED_AUDIENCES, "email;city;amount", "a@x.ch;Bern;1,5", "1 of e-mail addresses and 2 others"),
    (
        Dataset.MATCHING,
        "id,phone,Email,Email 2",
        "u1,1,a,b",
        "1 of user ids, 1 of phone numbers and 2 of e-mail addresses",
    ),
    (Dataset.SEGMENTS, "user_id\tsegment\tdate", "u1\tSport\t1,5", "1 of user ids and 2 others"),
]


def test_a_table_of_other_columns_is_reported_once_and_by_kind(tmp_path: Path) -> None:
    def check(dataset: Dataset, header: str, row: str, kinds: str) -> None:
        (tmp_path / "upload").write_text("\n".join([header, *[row] * 30]))
        report = validate(tmp_path / "upload", dataset)
        n_columns = 4 if "phone" in header else 3
        assert f"The file has {n_columns} columns instead of 2: {kinds}." in report.reason
        assert (report.n_rows, [error.code for error in report.table.recorded]) == (
            0,
            [ErrorCode.TOO_MANY_COLUMNS],
        )
        assert "city" not in str(report.as_dict())

    assert offenders(EXTRA_COLUMNS, check) == []


def test_ids_are_not_read_as_labels(tmp_path: Path) -> None:
    path = tmp_path / "upload"
    headers = {"matching_id,email": "ids", "user_id,user_id": "ids", "audience_type,matching_id": "order"}
    for header, reason in headers.items():
        path.write_text(f"{header}\na,b\n")
        assert reason in str(validate(path, Dataset.SEED_AUDIENCES, MatchingId.STRING).reason)
        first, second = header.split(",")
        if first != second:
            parquet(path, **{first: ["a"], second: ["b"]})
            assert reason in str(validate(path, Dataset.SEED_AUDIENCES, MatchingId.STRING).reason)


def test_labels_that_are_ids_are_invalid(tmp_path: Path) -> None:
    labels = ["a@shop.example", "+41791234567", "f" * 64, "a @ b.c", "+4"]
    for dataset in (Dataset.SEED_AUDIENCES, Dataset.SEGMENTS):
        (tmp_path / "upload").write_text("".join(f"u{n},{text}\n" for n, text in enumerate(labels)))
        report = validate(tmp_path / "upload", dataset, MatchingId.STRING)
        assert [(row, code) for _, row, code in found(report)] == [
            (row, ErrorCode.UNEXPECTED_ID) for row in (1, 2, 3)
        ]
        assert "shop.example" not in str(report.as_dict())


def test_quotes_with_a_backslash(tmp_path: Path) -> None:
    report, by_type = seed_types(tmp_path, 'user_id,type\na,"the \\"new\\" ones"\nb,"the \\"new\\" ones"\n')
    assert by_type == {'the "new" ones': 2}, report.reason


def test_rows_are_numbered_after_a_header(tmp_path: Path) -> None:
    (tmp_path / "upload").write_text("user_id,email\nu1,a@x.ch\nu2,bad\nu3\nu4,d@x.ch\n")
    report = validate(tmp_path / "upload")
    assert found(report) == [("matching_id", 2, ErrorCode.INVALID_EMAIL_FORMAT)]
    assert [(error.row, error.code) for error in report.table.recorded] == [(3, ErrorCode.NOT_ENOUGH_COLUMNS)]


def test_a_column_of_row_numbers_is_not_read_as_ids(tmp_path: Path) -> None:
    (tmp_path / "upload").write_text(",user_id\n0,a\n1,b\n")
    report = validate(tmp_path / "upload", Dataset.SEED_AUDIENCES, MatchingId.STRING)
    assert not report.passed
    assert "it seems to contain row numbers" in str(report.reason)


@pytest.mark.parametrize(
    "text", ['{"user_id": "a"}\n' * 3, '[{"user_id": "a"}]', '\ufeff\n[\n {\n"user_id": "a"}]']
)
def test_json_is_not_read_as_ids(tmp_path: Path, text: str) -> None:
    for content in (text.encode(), gzip.compress(text.encode())):
        (tmp_path / "upload").write_bytes(content)
        report = validate(tmp_path / "upload", Dataset.SEED_AUDIENCES, MatchingId.STRING)
        assert (report.passed, report.n_rows) == (False, 0)
        assert "The file is JSON, which is not accepted here. Save the table as CSV" in str(report.reason)


def test_lines_in_another_encoding_are_named(tmp_path: Path) -> None:
    (tmp_path / "upload").write_bytes("u1,Zürich\nu2,Genève\n".encode("cp1252"))
    report = validate(tmp_path / "upload", Dataset.SEGMENTS)
    assert not report.passed
    assert "looks like Windows-1252 (Excel's 'CSV'). Save it as 'CSV UTF-8'." in str(report.reason)
    (tmp_path / "upload").write_bytes("u1,Zürich\nu2,Bern\n".encode("cp1252"))
    partly = validate(tmp_path / "upload", Dataset.SEGMENTS)
    assert (partly.passed, partly.n_rows, partly.n_invalid_rows) == (True, 2, 1)
    assert any("Windows-1252" in warning for warning in partly.table.warnings)


# --- Delimiters and seeds of one column ---


@pytest.mark.parametrize("delimiter", list(",;\t|"))
def test_delimiters(tmp_path: Path, delimiter: str) -> None:
    def check(dataset: Dataset, row: str, n: int | None = None) -> None:
        rows = [row.replace("u1", f"u{number}") for number in range(30)]
        (tmp_path / "upload").write_text("\n".join(rows).replace(",", delimiter))
        report = validate(tmp_path / "upload", dataset, MatchingId.STRING, n)
        assert (report.n_rows, report.n_invalid_rows, report.passed) == (30, 0, True), report.reason

    rows = [
        (Dataset.MATCHING, "u1,a"),
        (Dataset.SEGMENTS, "u1,Sport"),
        (Dataset.DEMOGRAPHICS, "u1,18-24,f"),
        (Dataset.DEMOGRAPHICS, "u1,18-24"),
        (Dataset.EMBEDDINGS, "u1,all,0.5,1", 2),
        (Dataset.SEED_AUDIENCES, "u1,New"),
    ]
    assert offenders(rows, check) == []


def seed_types(folder: Path, content: str, kind: MatchingId = MatchingId.STRING) -> tuple[ValidationReport, dict]:
    (folder / "seed").write_text(content)
    upload = RoomUpload(Dataset.SEED_AUDIENCES, folder / "seed", kind)
    seeds = ingest_seeds([upload], room_key=bytes(32), out=folder / "out", runtime=Runtime(ENGINE))
    by_type = seeds.counts.get("by_type", {})
    return seeds.report, {name: each["n_unique_ids"] for name, each in by_type.items()}


def test_a_seed_of_one_column_has_the_default_type(tmp_path: Path) -> None:
    def check(content: str, n_ids: int) -> None:
        report, by_type = seed_types(tmp_path, content)
        assert by_type == {"default": n_ids}, report.reason
        assert report.n_invalid_rows == 0
        assert any("'default'" in warning for warning in report.table.warnings)

    contents = [
        ("a\nb\nc\n", 3),
        ("customer_id\r\na\r\nb\r\n", 2),
        ("customer_id,\na,\nb,\n", 2),
        ("customer_id\na,\nb,\n", 2),
        ("a\n\nb\n\n", 2),
        ("\n".join(f"p{n};q{n}" for n in range(50)), 50),
        ('"a,1"\n"b,2"\n', 2),
    ]
    assert offenders(contents, check) == []


def test_blank_lines_of_one_column_are_not_rows_and_quoted_ones_are_missing_ids(tmp_path: Path) -> None:
    report, by_type = seed_types(tmp_path, 'a\n\nb\n""\n\n')
    assert by_type == {"default": 2}
    assert (report.n_rows, report.n_invalid_rows_by_code) == (3, {ErrorCode.EMPTY_CELL: 1})


def test_zstd(tmp_path: Path) -> None:
    (tmp_path / "upload").write_bytes(pa.compress(ROWS * 1_000, codec="zstd", asbytes=True))
    assert validate(tmp_path / "upload").n_rows == 2_000
    (tmp_path / "upload").write_bytes(pa.compress(ROWS * 1_000, codec="zstd", asbytes=True)[:-5])
    assert not validate(tmp_path / "upload").passed
    (tmp_path / "upload").write_bytes(pa.compress(ROWS * 100_000, codec="zstd", asbytes=True))
    engine = EngineSettings(memory_bytes=512 << 20, threads=1, scratch=tmp_path, unpacked_bytes=1 << 20)
    upload = RoomUpload(Dataset.MATCHING, tmp_path / "upload", MatchingId.EMAIL)
    assert "when unpacked" in report_on(upload, runtime=Runtime(engine)).reason


# --- Ids ---


def test_decimal_tails(tmp_path: Path) -> None:
    whole = "".join(f"{n}.0,4179{n:07d}.0\n" for n in range(1, 40))
    (tmp_path / "upload").write_text(whole + "nan,\n")
    report = validate(tmp_path / "upload", kind=MatchingId.PHONE_NUMBER)
    assert (report.n_rows, report.n_invalid_rows, report.table.n_users) == (40, 1, 39)
    assert report.table.n_ids_changed == 39
    (tmp_path / "upload").write_text(whole + "abc,+41 79 123 45 67\n")
    report = validate(tmp_path / "upload", kind=MatchingId.PHONE_NUMBER)
    assert report.n_invalid_rows_by_code == {
        ErrorCode.INVALID_INTEGER_FORMAT: 39,
        ErrorCode.INVALID_PHONE_E164_NUMBER: 39,
    }
    assert any("Save the column as text." in warning for warning in report.table.warnings)
    (tmp_path / "upload").write_text("1.0,x\nabc,y\n")
    report = validate(tmp_path / "upload", kind=MatchingId.STRING)
    assert found(report) == [("user_id", 1, ErrorCode.INVALID_INTEGER_FORMAT)]


@pytest.mark.parametrize("type_", [pa.float64(), pa.float32(), pa.decimal128(38, 0), pa.decimal128(30, 2)])
def test_ids_in_types_with_decimals(tmp_path: Path, type_: pa.DataType) -> None:
    ids = pa.array([1, 2, None], pa.int64()).cast(type_)
    report = validate(parquet(tmp_path / "p", u=ids, m=["a@x.ch", "b@x.ch", "c@x.ch"]))
    assert (report.passed, report.n_invalid_rows) == (True, 1), report.reason
    if pa.types.is_floating(type_):
        for bad in (1.5, 1e20, float("inf")):
            report = validate(parquet(tmp_path / "p", u=pa.array([1, bad], type_), m=["a@x.ch", "b@x.ch"]))
            assert not report.passed


def test_ids_of_type_uuid(tmp_path: Path) -> None:
    ids = pa.array([bytes([number]) * 16 for number in range(3)], pa.uuid())
    report = validate(parquet(tmp_path / "p", u=ids, m=ids), kind=MatchingId.STRING)
    assert (report.passed, report.table.n_users) == (True, 2), report.reason
    assert report.n_invalid_rows_by_code == {ErrorCode.PLACEHOLDER: 1}


def test_equal_users_whatever_the_type(tmp_path: Path) -> None:
    forms = {
        "text": ["100454", "7"],
        "spaces": [" 100454", "7 "],
        "tails": ["100454.0", "7.0"],
        "float": pa.array([100454.0, 7.0]),
        "int": pa.array([100454, 7]),
    }
    seen = set()
    for name, ids in forms.items():
        parquet(tmp_path / name, u=ids, m=["a", "b"])
        upload = RoomUpload(Dataset.MATCHING, tmp_path / name, MatchingId.STRING)
        out = tmp_path / f"{name}-out"
        ingest_base([upload], room_key=bytes(32), out=out, runtime=Runtime(ENGINE))
        seen.add((out / "matching.parquet").read_bytes())
    assert len(seen) == 1


def test_placeholders_are_counted_by_their_own_code(tmp_path: Path) -> None:
    (tmp_path / "upload").write_text("NULL,a@x.ch\nu2,null\nu3,N/A\nu4,d@x.ch\n,e@x.ch\n")
    report = validate(tmp_path / "upload")
    assert report.n_invalid_rows_by_code == {ErrorCode.PLACEHOLDER: 3, ErrorCode.EMPTY_CELL: 1}
    assert found(report)[0] == ("user_id", 1, ErrorCode.PLACEHOLDER)
    assert "placeholder" in report.columns[0].recorded[0].message


def test_a_heavy_id_is_a_warning_without_its_value(tmp_path: Path) -> None:
    path = tmp_path / "upload"

    def warnings(n_heavy: int, n_others: int) -> tuple[str, ...]:
        rows = [f"u{n},heavy" for n in range(n_heavy)] + [f"v{n},id{n}" for n in range(n_others)]
        path.write_text("\n".join(rows))
        report = validate(path, kind=MatchingId.STRING)
        assert report.passed
        assert "heavy" not in str(report.as_dict())
        return report.table.warnings

    assert warnings(25, 100) == ("One matching_id is on 25 of 125 rows (20%). It may represent a missing value.",)
    assert warnings(24, 20) == ()
    assert warnings(30, 200) == ()
    assert len(warnings(20_000, 60_000)) == 1


def test_totals_are_exact_and_records_stop(tmp_path: Path) -> None:
    lines = [f"u{i},{'bad' if i % 2 else f'{i}@x.ch'}" for i in range(2_000)]
    lines += ["u0,0@x.ch"] * 700 + ["u"] * 600
    (tmp_path / "upload").write_text("\n".join(lines))
    report = validate(tmp_path / "upload")
    assert report.n_rows == 3_300
    assert report.n_invalid_rows_by_code == {
        ErrorCode.DUPLICATE_VALUES: 700,
        ErrorCode.INVALID_EMAIL_FORMAT: 1_000,
        ErrorCode.NOT_ENOUGH_COLUMNS: 600,
    }
    assert report.n_invalid_rows == report.n_rows_dropped == 2_300
    for errors, first in (
        (report.columns[1], 2),
        (report.uniqueness, 2_001),
        (report.table, 2_701),
    ):
        assert len(errors.recorded) == 500
        assert errors.recorded[0].row == first
    assert report.columns[1].n_errors == 1_000


def test_a_quote_that_is_not_closed_at_the_end_is_one_bad_row(tmp_path: Path) -> None:
    (tmp_path / "upload").write_bytes(ROWS + b'u3,"c@x.ch\nu4,d@x.ch\n')
    report = validate(tmp_path / "upload")
    assert report.passed
    assert (report.n_rows, report.n_invalid_rows) == (3, 1)


def test_a_line_that_is_not_utf8_is_one_bad_row(tmp_path: Path) -> None:
    (tmp_path / "upload").write_bytes(b"u1,a@x.ch\nu\xff,b@x.ch\nu3,c@x.ch\n")
    report = validate(tmp_path / "upload")
    assert (report.n_rows, report.n_invalid_rows) == (3, 1)
    assert report.table.recorded[0].row == 2


def test_demographics_of_one_to_three_columns(tmp_path: Path) -> None:
    def check(content: bytes) -> None:
        (tmp_path / "upload").write_bytes(content)
        assert validate(tmp_path / "upload", Dataset.DEMOGRAPHICS).passed

    contents = [b'"user_id"\n"u1"\n', b"u1\nu2\n", b"u1,,\nu2,18-24,\n", b"u1,18-24\n"]
    assert offenders(contents, check) == []


def test_demographics_of_more_columns(tmp_path: Path) -> None:
    (tmp_path / "upload").write_text("u1,18-24,f,x\n")
    report = validate(tmp_path / "upload", Dataset.DEMOGRAPHICS)
    assert [error.code for error in report.table.recorded] == [ErrorCode.TOO_MANY_COLUMNS]
