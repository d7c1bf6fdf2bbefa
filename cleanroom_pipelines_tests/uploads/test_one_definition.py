"""Validation and the model count and use the same rows of any file.

Contract, the same for every way in: a row is dropped for a null or empty id, a line that cannot be parsed and a
cell of the wrong type, never for a missing time or feature; a seed that passes validation is the seed that is
matched. Files that are rejected as a whole get the same message.
"""

import csv
import json
import math
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from cleanroom_pipelines.engine import EngineSettings, Runtime, open_engine
from cleanroom_pipelines.errors import InputError, SeedError, StatusCode, TrainingDataError
from cleanroom_pipelines.similarity import InteractionsSchema, TrainingTables, Window, reading
from cleanroom_pipelines.similarity.seeds import read_seed
from cleanroom_pipelines.similarity.training import train
from cleanroom_pipelines.uploads.checks import INTERACTIONS, find_upload
from cleanroom_pipelines.uploads.files import check_seed, validate_interactions
from cleanroom_pipelines.uploads.reading import declare, read
from cleanroom_pipelines.uploads.report import ValidationReport
from cleanroom_pipelines.uploads.roles import Role

from ..examples import one_in
from ..offenders import offenders

ENGINE = EngineSettings(memory_bytes=512 << 20, threads=1)
NAMES = ("u", "i", "t", "n", "c")
COLUMNS = (
    ("u", Role.USER_ID),
    ("i", Role.ITEM_ID),
    ("t", Role.TIMESTAMP),
    ("n", Role.NUMERICAL_FEATURE),
    ("c", Role.CATEGORICAL_FEATURE),
)
SCHEMA = InteractionsSchema(COLUMNS)
FIRST = ("u1", "i1", "1700000000", "1", "c")

texts = st.text(st.sampled_from(["a", '"', "\n", ",", ";", " ", "é", "😀", "{", "0"]), max_size=3)
ids = st.one_of(st.none(), st.sampled_from(["", " ", "u1", "u2", "7", "a,b", 'q"q', "NULL", "NaN"]), texts)
times = st.sampled_from(
    [
        None,
        "",
        " ",
        "0",
        "-5",
        " 5 ",
        "5.0",
        "1.5",
        "1e9",
        "abc",
        "NaN",
        "inf",
        "2023-01-01",
        "+5",
        "99999999999",
        "100000000000",
        "-100000000000",
        "1700000000000",
        "9" * 30,
        "1700000000",
    ]
)
numbers = st.sampled_from(
    [None, "", " ", "x", "1,5", "NaN", "inf", "-inf", "1e400", "1e99", "-0.5", ".5", "9" * 99]
)
text_rows = st.lists(
    st.one_of(st.tuples(ids, ids, times, numbers, ids), st.sampled_from(["{no row", "a,b,c,d,e,f,g"])),
    min_size=8,
    max_size=24,
)
whole = st.sampled_from([None, 0, -5, 1_700_000_000, 10**11 - 1, 10**11, -(10**11), 2**63 - 1, -(2**63)])
floats = st.sampled_from([None, 0.5, -1.0, 1e308, math.nan, math.inf, -math.inf])
moments = st.sampled_from(
    [
        None,
        datetime(1970, 1, 1, tzinfo=UTC),
        datetime(2024, 2, 29, 12, 30, 1, 5, UTC),
        datetime(9999, 1, 1, tzinfo=UTC),
    ]
)


def write_text(folder: Path, format_: str, names: Sequence[str], rows: Sequence[Any], end: str = "\n") -> Path:
    path = folder / f"rows.{format_}"
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, lineterminator=end)
        if format_ == "csv":
            writer.writerow(names)
        for row in rows:
            if isinstance(row, str):
                stream.write(row + end)
            elif format_ == "csv":
                writer.writerow(row)
            else:
                stream.write(json.dumps(dict(zip(names, row, strict=True))) + end)
    return path


def validated(path: Path) -> ValidationReport:
    return validate_interactions(
        path, COLUMNS, max_invalid_share=1, min_users=0, min_rows=0, runtime=Runtime(ENGINE), batch_rows=9
    )


def opened(path: Path, folder: Path, window: Window = Window()) -> tuple[int, int, Counter[tuple[str, str]]]:  # noqa: B008
    """Rows, invalid rows and the usable (user, item) pairs of the model's own reading."""
    folder.mkdir()
    tables = find_upload(path, INTERACTIONS)
    with open_engine(ENGINE, paths=[*tables.files, folder]) as engine:
        found = reading.open_interactions(
            engine, tables, SCHEMA, window=window, window_seconds=None, max_invalid_share=1, scratch=folder
        )
        pairs = engine.fetch("SELECT user_id, item_id FROM events").to_pylist()
        assert found.n_usable == len(pairs)
    return found.n_rows, found.n_invalid, Counter((str(row["user_id"]), str(row["item_id"])) for row in pairs)


def pairs_of_report(path: Path, report: ValidationReport) -> Counter[tuple[str, str]]:
    """The pairs of the rows in which the report names no error, read without the shared definition."""
    named = {error.row for column in report.columns for error in column.recorded}
    named |= {error.row for error in report.table.recorded}
    rows = [row for number, row in enumerate(plain_rows(path), 1) if number not in named]
    return Counter((plain_id(row[0]), str(row[1])) for row in rows)


def plain_id(value: Any) -> str:
    """An id without blanks around it; the ids here have no decimal points."""
    return str(value).strip(" \n")


def plain_rows(path: Path) -> list[Sequence[Any]]:
    if path.suffix == ".parquet":
        return [[row["u"], row["i"]] for row in pq.read_table(path).to_pylist()]
    if path.suffix == ".csv":
        with path.open(encoding="utf-8", newline="") as stream:
            return [[*row, "", ""] for row in csv.reader(stream)][1:]
    rows: list[Sequence[Any]] = []
    for line in path.read_text("utf-8").split("\n"):
        cells: Any = None
        with suppress(ValueError):
            cells = json.loads(line)
        if line.strip():
            rows.append([cells["u"], cells["i"]] if isinstance(cells, dict) else ["", ""])
    return rows


def assert_agreement(path: Path, folder: Path) -> None:
    report = validated(path)
    if report.passed:
        n_rows, n_invalid, pairs = opened(path, folder / "scratch")
        assert (n_rows, n_invalid) == (report.n_rows, report.n_invalid_rows)
        assert pairs == pairs_of_report(path, report)
    else:
        with pytest.raises(InputError) as caught:
            opened(path, folder / "scratch")
        assert caught.value.status_code is report.status_code
        assert str(caught.value) == report.reason


@one_in(8)
@given(rows=text_rows, format_=st.sampled_from(["csv", "jsonl"]), end=st.sampled_from(["\n", "\r\n"]))
@example(rows=[("u", "i", None, None, None)], format_="csv", end="\n")
@example(rows=[("u", "i", "1700000000000", "1", "c")] * 3, format_="jsonl", end="\n")
def test_interactions_as_text(
    tmp_path_factory: pytest.TempPathFactory, rows: list[Any], format_: str, end: str
) -> None:
    # The first line names the keys of JSON Lines, and leaves something usable.
    folder = tmp_path_factory.mktemp("text")
    assert_agreement(write_text(folder, format_, NAMES, [FIRST, *rows], end), folder)


@one_in(8)
@given(
    rows=st.lists(st.tuples(ids, st.one_of(st.none(), st.integers(-3, 3)), whole, floats, ids), max_size=12),
    times=st.lists(moments, min_size=12, max_size=12),
    type_=st.sampled_from([pa.int64(), pa.timestamp("us"), pa.timestamp("ms", "UTC"), pa.date32()]),
)
@example(rows=[("u", 1, None, math.nan, None)], times=[None] * 12, type_=pa.int64())
def test_interactions_as_parquet(
    tmp_path_factory: pytest.TempPathFactory, rows: list[Any], times: list[Any], type_: pa.DataType
) -> None:
    folder = tmp_path_factory.mktemp("parquet")
    cells = list(zip(("u1", 1, 5, 0.5, "c"), *rows, strict=True))
    if type_ != pa.int64():
        cells[2] = (None, *times[: len(rows)])
    if type_ == pa.date32():
        cells[2] = tuple(time and time.date() for time in cells[2])
    types = [pa.string(), pa.int64(), type_, pa.float64(), pa.string()]
    arrays = [pa.array(column, kind) for column, kind in zip(cells, types, strict=True)]
    pq.write_table(pa.table(dict(zip(NAMES, arrays, strict=True))), folder / "rows.parquet")
    assert_agreement(folder / "rows.parquet", folder)


@one_in(8)
@given(
    rows=st.lists(st.one_of(ids, st.just(["no row"])), max_size=30),
    format_=st.sampled_from(["csv", "jsonl", "parquet"]),
    column=st.sampled_from(["user_id", "USER_ID", "household_id"]),
    limits=st.sampled_from([(0, 100), (3, 100), (0, 3)]),
)
def test_seeds(
    tmp_path_factory: pytest.TempPathFactory,
    rows: list[Any],
    format_: str,
    column: str,
    limits: tuple[int, int],
) -> None:
    folder = tmp_path_factory.mktemp("seed")
    if format_ == "parquet":
        path = folder / "seed.parquet"
        pq.write_table(pa.table({column: pa.array([row for row in rows if not isinstance(row, list)])}), path)
    else:
        broken = '{"no row' if format_ == "jsonl" else "a,b,c"
        lines = [broken if isinstance(row, list) else (row,) for row in rows]
        path = write_text(folder, format_, [column], [("u1",), *lines])
    fewest, most = limits
    report = check_seed(path, min_unique=fewest, max_unique=most, max_invalid_share=0.5, runtime=Runtime(ENGINE))[
        0
    ]
    try:
        seed = read_seed(path, min_unique=fewest, max_unique=most, max_invalid_share=0.5, engine=ENGINE)
    except SeedError as error:
        assert not report.passed
        assert error.status_code is report.status_code
        return
    assert report.passed, report.reason
    assert (seed.n_rows, seed.n_invalid) == (report.n_rows, report.n_invalid_rows)
    assert (seed.n_unique, seed.n_duplicates) == (report.uniqueness.n_unique, report.uniqueness.n_duplicates)
    assert len(seed.user_ids) == seed.n_unique


def test_the_column_of_a_seed(tmp_path: Path) -> None:
    headers = [
        (("user_id",), True),
        (("User_ID", "x"), True),
        (("id",), True),
        (("household id",), True),
        (("userId",), True),
        (("household_id", "x"), True),
        (("colour", "x"), False),
        (("david",), False),
        (("u1",), False),
        (("last",), False),
    ]

    def check(columns: tuple[str, ...], is_seed: bool) -> None:
        path = write_text(tmp_path, "csv", columns, [(f"v{n}",) * len(columns) for n in range(30)])
        report = check_seed(path, runtime=Runtime(ENGINE))[0]
        assert report.passed is is_seed
        if is_seed:
            assert read_seed(path, engine=ENGINE).n_unique == report.uniqueness.n_unique == 30
            return
        with pytest.raises(SeedError) as caught:
            read_seed(path, engine=ENGINE)
        assert str(caught.value) == report.reason
        assert columns[0] not in report.reason

    assert offenders(headers, check) == []


def test_a_missing_time_lies_in_no_window(tmp_path: Path) -> None:
    path = write_text(tmp_path, "csv", NAMES, [FIRST, ("u2", "i", "", "1", ""), ("u3", "i", "1700000001", "", "")])
    assert opened(path, tmp_path / "a")[:2] == (3, 0)
    assert opened(path, tmp_path / "b", Window(1_600_000_000))[2] == {("u1", "i1"): 1, ("u3", "i"): 1}
    untimed = write_text(tmp_path, "jsonl", NAMES, [("u2", "i", None, None, None)])
    with pytest.raises(TrainingDataError, match="window"):
        opened(untimed, tmp_path / "c", Window(1_600_000_000))


def test_what_cannot_be_read_is_rejected_with_the_same_message(tmp_path: Path) -> None:
    files = [
        ("rows.csv", b"u,i,t,n,c\nu,i,5,1,c\r\nu,i,5,1,c\n"),
        ("rows.parquet", b"PAR1 or so"),
        ("rows.csv", b"u,i,t\nu,i,5\n"),
        ("rows.csv", b""),
    ]
    (tmp_path / "model").mkdir()

    def check(name: str, content: bytes) -> None:
        (tmp_path / name).write_bytes(content)
        report = validated(tmp_path / name)
        with pytest.raises(TrainingDataError) as caught:
            train(TrainingTables(tmp_path / name, SCHEMA), tmp_path / "model", runtime=Runtime(ENGINE))
        assert str(caught.value) == report.reason
        assert caught.value.remedy
        assert caught.value.status_code is report.status_code is StatusCode.TRAINING_DATA_INVALID

    assert offenders(files, check) == []


def test_a_seed_with_mixed_line_ends_is_rejected_with_a_remedy(tmp_path: Path) -> None:
    (tmp_path / "seed.csv").write_bytes(b"user_id,x\na,1\r\nb,2\n")
    with pytest.raises(SeedError) as caught:
        read_seed(tmp_path / "seed.csv", engine=ENGINE)
    assert str(caught.value) == check_seed(tmp_path / "seed.csv", runtime=Runtime(ENGINE))[0].reason
    assert "line" in caught.value.remedy


def test_a_value_of_an_unusable_cell_is_not_an_error(tmp_path: Path) -> None:
    """A view may compute the values of rows that are filtered afterwards."""
    rows = [FIRST, ("u", "i", "9" * 40, "x" * 9, ""), ("u", "i", "1e9", "1e400", "")]
    path = write_text(tmp_path, "csv", NAMES, rows)
    tables = find_upload(path, INTERACTIONS)
    with open_engine(ENGINE, paths=[*tables.files, tmp_path]) as engine:
        checked = read(engine, "rows", declare(tables, COLUMNS, INTERACTIONS), scratch=tmp_path)
        found = engine.fetch(f"SELECT *, {checked.usable} AS is_usable FROM rows")
    assert found["is_usable"].to_pylist() == [True, False, False]
