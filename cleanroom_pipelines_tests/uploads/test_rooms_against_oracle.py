"""Ingestion of messy uploads equals one plain pass over all rows.

Contract: formats, quoting, line endings, batch sizes and the split into files never change the report or the
written files. The oracle validates row by row in plain Python and drops duplicates with pandas.
"""

import gzip
import hashlib
import hmac
import json
import math
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import pandas as pd
import pyarrow.parquet as pq
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from cleanroom_pipelines.engine import EngineSettings, Runtime, stable_hash
from cleanroom_pipelines.terms import MatchingId
from cleanroom_pipelines.uploads import room_reading
from cleanroom_pipelines.uploads.report import ErrorCode, ValidationReport
from cleanroom_pipelines.uploads.rooms import Dataset, RoomUpload, ingest_base, ingest_seeds

from ..examples import one_in

ENGINE = EngineSettings(memory_bytes=512 << 20, threads=1)
KEY = b"k" * 32
Row = list[str]

NORMAL_EMAILS = {
    "a@x.ch": "a@x.ch",
    " A@X.ch ": "a@x.ch",
    "b@x.ch": "b@x.ch",
    "E\u0301@x.ch": "é@x.ch",
    "é@x.ch": "é@x.ch",
    "o'b@x.ch": "o'b@x.ch",
}
NORMAL_PHONES = {
    "+41791234567": "+41791234567",
    "0041 79 123 45 67": "+41791234567",
    "+14155552671": "+14155552671",
}
# Without semicolons, tabs and bars, by which a file of the wrong number of columns may be split instead.
texts = st.lists(
    st.sampled_from(["a", "b", '"', "\n", "\r", "\r\n", ",", "'", " ", "é", "😀", "\\", "#", "\x00"]),
    max_size=4,
).map("".join)
user_ids = st.one_of(st.sampled_from(["u1", "u1", "u2", "u3", "U1", "007", ""]), texts)
emails = st.one_of(st.sampled_from([*NORMAL_EMAILS, "", " ", "nobody", "a@@x.ch"]), texts)
phones = st.one_of(st.sampled_from([*NORMAL_PHONES, "", "079 123 45 67", "nobody"]), texts)
EMAILS_AS_LABELS = ["a@x.ch", "É@shop.example"]
segments = st.one_of(
    st.sampled_from([*EMAILS_AS_LABELS, "Sport", "sport", "", "x" * 128, "x" * 129, "😀" * 128]), texts
)
ages = st.sampled_from(
    ["", "18-24", " 18 \u2013 24", "65+", "37", "0", "150", "151", "24-18", "old", "-1", "1.5", "007"]
)
genders = st.one_of(st.sampled_from(["", "f", "m", "x" * 64, "x" * 65]), texts)
numbers = st.sampled_from(
    ["1", "0.5", " .5 ", "-1e3", "5.", "", "inf", "nan", "1e400", "x", "1,5", "٣", "+1", "1_0"]
)


def ragged(*columns: st.SearchStrategy[str]) -> st.SearchStrategy[list[Row]]:
    """Rows of which some have a cell too few or too many."""
    whole = st.tuples(*columns).map(list)
    few = whole.map(lambda row: row[:-1]) if len(columns) > 1 else whole
    many = whole.map(lambda row: [*row, "more"])
    row = st.one_of(whole, whole, whole, whole, few, many)
    return st.lists(row, min_size=1, max_size=4) | st.lists(row, min_size=12, max_size=24)


@st.composite
def forms(draw: st.DrawFn) -> Callable[[list[Row]], bytes]:
    """Ways to write the same rows."""
    end = draw(st.sampled_from(["\n", "\r\n"]))
    quotes_all = draw(st.booleans())
    starts_with = draw(st.sampled_from(["", "\ufeff"]))
    ends_line = draw(st.booleans())
    is_zipped = draw(st.booleans())

    def cell(text: str) -> str:
        # By hand: Python's writer leaves a carriage return bare where lines end with a line feed.
        if quotes_all or any(character in text for character in ',"\r\n'):
            return '"' + text.replace('"', '""') + '"'
        return text

    def write(rows: list[Row]) -> bytes:
        lines = [",".join(cell(text) for text in row) or '""' for row in rows]
        content = (starts_with + end.join(lines) + (end if ends_line else "")).encode()
        return gzip.compress(content) if is_zipped else content

    return write


def cut(row: Row, n_columns: int, n_wanted: int) -> Row:
    """The same row for fewer columns, as ragged as it was."""
    n_more = len(row) - n_columns
    return [*row[:n_wanted], "more"] if n_more > 0 else row[: n_wanted + n_more]


# --- The oracle ---


def digest(family: str, normal: str) -> str:
    text = f"{family}:{hashlib.sha256(normal.encode()).hexdigest()}"
    return hmac.new(KEY, text.encode(), "sha256").hexdigest()


def filled(cell: str) -> ErrorCode | None:
    return None if cell else ErrorCode.EMPTY_CELL


def user(cell: str) -> ErrorCode | None:
    return filled(cell.strip())


def label(cell: str) -> ErrorCode | None:
    if len(cell) > 128:
        return ErrorCode.INVALID_NUMERIC_RANGE
    return ErrorCode.UNEXPECTED_ID if cell in EMAILS_AS_LABELS else filled(cell)


def gender(cell: str) -> ErrorCode | None:
    return ErrorCode.INVALID_NUMERIC_RANGE if len(cell) > 64 else None


def email(cell: str) -> ErrorCode | None:
    if not cell.strip():
        return ErrorCode.EMPTY_CELL
    return None if cell in NORMAL_EMAILS else ErrorCode.INVALID_EMAIL_FORMAT


def phone(cell: str) -> ErrorCode | None:
    if not cell.strip():
        return ErrorCode.EMPTY_CELL
    return None if cell in NORMAL_PHONES else ErrorCode.INVALID_PHONE_E164_NUMBER


def normal_age(cell: str) -> str | None:
    plain = cell.replace(" ", "").replace("\u2013", "-")
    match = re.fullmatch(r"([0-9]+)(?:-([0-9]+)|\+)?", plain)
    if not match:
        return None
    start, end = int(match[1]), int(match[2] or match[1])
    if not start <= end <= 150:
        return None
    return f"{start}-{end}" if match[2] else f"{start}+" if plain.endswith("+") else str(start)


def age(cell: str) -> ErrorCode | None:
    return ErrorCode.INVALID_NUMERIC_RANGE if cell and normal_age(cell) is None else None


def number(cell: str) -> ErrorCode | None:
    if not cell:
        return ErrorCode.EMPTY_CELL
    plain = re.fullmatch(r" *-?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)? *", cell)
    return None if plain and math.isfinite(float(cell)) else ErrorCode.INVALID_FLOAT_FORMAT


def oracle(rows: list[Row], checks: list[Any], key: Callable[[Row], tuple[str, ...]]) -> dict[str, Any] | None:
    """None where the rows are of another number of columns than they should be."""
    n = len(checks)
    sizes = Counter(len(row) for row in rows)
    if any(count > sizes[n] for count in sizes.values()):
        return None
    lines, found, valid = [], [], {}
    for i, row in enumerate(rows, 1):
        if len(row) != n:
            lines.append((i, ErrorCode.TOO_MANY_COLUMNS if len(row) > n else ErrorCode.NOT_ENOUGH_COLUMNS))
            continue
        errors = [(c, i, code) for c, check in enumerate(checks) if (code := check(row[c]))]
        found += errors
        if not errors:
            valid[i] = row
    frame = pd.DataFrame([key(row) for row in valid.values()], index=list(valid), dtype=object)
    later = [int(i) for i in frame.index[frame.duplicated()]]
    by_code = Counter(code for _, code in {(i, code) for _, i, code in found}) + Counter(code for _, code in lines)
    return {
        "n_rows": len(rows),
        "cells": [[(i, code) for column, i, code in found if column == c] for c in range(n)],
        "lines": lines,
        "later": later,
        "by_code": dict(by_code) | ({ErrorCode.DUPLICATE_VALUES: len(later)} if later else {}),
        "n_invalid": len(rows) - len(valid) + len(later),
        "kept": [row for i, row in valid.items() if i not in later],
        "valid": list(valid.values()),
    }


def assert_report(report: ValidationReport, expected: dict[str, Any] | None, out: Path) -> bool:
    """Compare a report; False where there is nothing more to compare."""
    assert ValidationReport.from_dict(json.loads(json.dumps(report.as_dict()))) == report
    if expected is None:
        assert not report.passed
        assert report.table.recorded[-1].code in (ErrorCode.TOO_MANY_COLUMNS, ErrorCode.NOT_ENOUGH_COLUMNS)
        assert not out.exists()
        return False
    assert report.n_rows == expected["n_rows"]
    assert [[(e.row, e.code) for e in c.recorded] for c in report.columns] == expected["cells"]
    assert [(e.row, e.code) for e in report.table.recorded if e.row] == expected["lines"]
    assert report.n_invalid_rows_by_code == expected["by_code"]
    assert report.n_invalid_rows == expected["n_invalid"]
    assert report.passed is bool(expected["kept"])
    if not report.passed:
        assert not out.exists()
        return False
    assert [e.row for e in report.uniqueness.recorded] == expected["later"]
    assert report.n_rows_dropped == expected["n_invalid"]
    assert report.uniqueness.n_unique == len(expected["kept"])
    return True


def written(file: Path) -> list[tuple[Any, ...]]:
    return [tuple(row.values()) for row in pq.read_table(file).to_pylist()]


def ingest(folder: Path, uploads: list[RoomUpload]) -> dict[str, ValidationReport]:
    if all(upload.dataset is not Dataset.MATCHING for upload in uploads):
        (folder / "matching").write_text("u1,a@x.ch\n")
        uploads = [*uploads, RoomUpload(Dataset.MATCHING, folder / "matching", MatchingId.EMAIL)]
    # Batches as small as a few rows.
    with (
        mock.patch.object(room_reading, "MIN_BATCH_ROWS", 10),
        mock.patch.object(room_reading, "CELLS_PER_BATCH", 1),
    ):
        report = ingest_base(uploads, room_key=KEY, out=folder / "out", runtime=Runtime(ENGINE))
    return dict(report.reports)


def fresh(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("upload")


@one_in(10)
@given(first=ragged(user_ids, emails), second=ragged(user_ids, phones), form=forms())
def test_matching(
    tmp_path_factory: pytest.TempPathFactory,
    *,
    first: list[Row],
    second: list[Row],
    form: Callable[[list[Row]], bytes],
) -> None:
    folder = fresh(tmp_path_factory)
    (folder / "first").write_bytes(form(first))
    (folder / "second").write_bytes(form(second))

    def normal(cell: str) -> str:
        return NORMAL_EMAILS.get(cell) or NORMAL_PHONES[cell]

    def key(row: Row) -> tuple[str, ...]:
        return (row[0].strip(), normal(row[1]))

    alone = [oracle(first, [user, email], key), oracle(second, [user, phone], key)]
    uploads = [
        RoomUpload(Dataset.MATCHING, folder / "first", MatchingId.EMAIL),
        RoomUpload(Dataset.MATCHING, folder / "second", MatchingId.PHONE_NUMBER),
    ]
    if None in alone:
        report = ingest(folder, uploads)["matching"]
        assert_report(report, None, folder / "out")
        return

    def both(cell: str) -> ErrorCode | None:
        return next(judgements)

    # Each whole row is judged as what its own file says it is.
    judgements = iter(
        [email(row[1]) for row in first if len(row) == 2] + [phone(row[1]) for row in second if len(row) == 2]
    )
    expected = oracle(first + second, [user, both], key)
    assert expected
    report = ingest(folder, uploads)["matching"]
    if not assert_report(report, expected, folder / "out"):
        return
    pairs = {
        (digest("phone" if normal(i).startswith("+") else "email", normal(i)), u.strip())
        for u, i in expected["kept"]
    }
    assert written(folder / "out" / "matching.parquet") == sorted(
        pairs, key=lambda pair: [t.encode() for t in pair]
    )
    assert report.table.n_ids_changed == sum(normal(i) != i for _, i in expected["valid"])
    users = {u.strip() for u, _ in expected["kept"]}
    assert written(folder / "out" / "users.parquet") == [
        (u, stable_hash(u), None, None, True, True)
        for u in sorted(users, key=lambda u: (stable_hash(u), u.encode()))
    ]


@one_in(10)
@given(rows=ragged(user_ids, segments), form=forms())
def test_segments(
    tmp_path_factory: pytest.TempPathFactory, rows: list[Row], form: Callable[[list[Row]], bytes]
) -> None:
    folder = fresh(tmp_path_factory)
    (folder / "f").write_bytes(form(rows))
    expected = oracle(rows, [user, label], lambda row: (row[0].strip(), row[1]))
    report = ingest(folder, [RoomUpload(Dataset.SEGMENTS, folder / "f")])["segments"]
    if assert_report(report, expected, folder / "out"):
        assert expected
        kept = sorted(
            ((row[0].strip(), row[1]) for row in expected["kept"]), key=lambda row: [t.encode() for t in row]
        )
        assert written(folder / "out" / "segments.parquet") == kept
        relevant = {row[0] for row in kept}
        users = {row[0]: row[4:] for row in written(folder / "out" / "users.parquet")}
        assert users == {u: (u in relevant, u in relevant and u == "u1") for u in relevant | {"u1"}}


@one_in(10)
@given(n_columns=st.integers(1, 3), rows=ragged(user_ids, ages, genders), form=forms())
def test_demographics(
    tmp_path_factory: pytest.TempPathFactory,
    *,
    n_columns: int,
    rows: list[Row],
    form: Callable[[list[Row]], bytes],
) -> None:
    # Enough whole rows that there is no doubt how many columns the file has.
    rows = [["u9", "18-24", "f"][:n_columns]] * 25 + [cut(row, 3, n_columns) or [""] for row in rows]
    folder = fresh(tmp_path_factory)
    (folder / "f").write_bytes(form(rows))
    expected = oracle(rows, [user, age, gender][:n_columns], lambda row: (row[0].strip(),))
    report = ingest(folder, [RoomUpload(Dataset.DEMOGRAPHICS, folder / "f")])["demographics"]
    assert assert_report(report, expected, folder / "out")
    assert expected
    kept = {row[0].strip(): [*row, "", ""][1:3] for row in expected["kept"]}
    users = {row[0]: row[2:4] for row in written(folder / "out" / "users.parquet")}
    assert users == {u: (normal_age(a), g or None) for u, (a, g) in ({"u1": ("", "")} | kept).items()}


@one_in(10)
@given(n=st.integers(1, 3), rows=ragged(user_ids, texts, numbers, numbers, numbers), form=forms())
def test_embeddings(
    tmp_path_factory: pytest.TempPathFactory,
    *,
    n: int,
    rows: list[Row],
    form: Callable[[list[Row]], bytes],
) -> None:
    rows = [cut(row, 5, 2 + n) for row in rows]
    folder = fresh(tmp_path_factory)
    (folder / "f").write_bytes(form(rows))
    expected = oracle(rows, [user, filled, *[number] * n], lambda row: (row[0].strip(), row[1]))
    report = ingest(folder, [RoomUpload(Dataset.EMBEDDINGS, folder / "f", n_embeddings=n)])["embeddings"]
    if assert_report(report, expected, folder / "out"):
        assert expected
        rows = [[row[0].strip(), *row[1:]] for row in expected["kept"]]
        kept = sorted(rows, key=lambda row: (row[0].encode(), row[1].encode()))
        assert written(folder / "out" / "embeddings.parquet") == [
            (row[0], row[1], *(float(cell) for cell in row[2:])) for row in kept
        ]


@one_in(10)
@given(rows=ragged(emails, segments), form=forms())
def test_seeds(
    tmp_path_factory: pytest.TempPathFactory, rows: list[Row], form: Callable[[list[Row]], bytes]
) -> None:
    assume(sum(len(row) == 1 for row in rows) * 1.1 < len(rows))  # else it is a seed of one column
    folder = fresh(tmp_path_factory)
    (folder / "f").write_bytes(form(rows))
    expected = oracle(rows, [email, label], lambda row: (NORMAL_EMAILS[row[0]], row[1]))
    upload = RoomUpload(Dataset.SEED_AUDIENCES, folder / "f", MatchingId.EMAIL)
    found = ingest_seeds([upload], room_key=KEY, out=folder / "out", runtime=Runtime(ENGINE))
    if assert_report(found.report, expected, folder / "out"):
        assert expected
        pairs = [(digest("email", NORMAL_EMAILS[i]), t) for i, t in expected["kept"]]
        assert written(folder / "out" / "seeds.parquet") == sorted(pairs, key=lambda p: [t.encode() for t in p])
        assert found.counts["by_type"] == {
            type_: {"n_unique_ids": n} for type_, n in Counter(t for _, t in pairs).items()
        }
        assert found.counts["n_unique_ids"] == len({i for i, _ in pairs})
