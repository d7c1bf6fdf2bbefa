"""The report on each kind of cell in a room's files.

Contract: the error code and the row of each unusable cell, the number of changed ids, and the types that are not
accepted, for cells in text and in parquet.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from cleanroom_pipelines.engine import EngineSettings, Runtime
from cleanroom_pipelines.terms import MatchingId
from cleanroom_pipelines.uploads.report import ValidationReport
from cleanroom_pipelines.uploads.rooms import Dataset, RoomUpload
from cleanroom_pipelines_tests.offenders import offenders
from cleanroom_pipelines_tests.uploads.uploads import report_on

ENGINE = EngineSettings(memory_bytes=512 << 20, threads=1)
S, D, E, M, A = (
    Dataset.SEGMENTS,
    Dataset.DEMOGRAPHICS,
    Dataset.EMBEDDINGS,
    Dataset.MATCHING,
    Dataset.SEED_AUDIENCES,
)
HASH = "ab" * 32
EMPTY_HASH = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
nan, inf = float("nan"), float("inf")


@dataclass(frozen=True)
class Case:
    """A file of a dataset.

    Attributes:
        dataset: The dataset.
        columns: The cells by column: lists of text are written as CSV, arrays as parquet.
        kind: The kind of the matching ids.
    """

    dataset: Dataset
    columns: tuple[Any, ...]
    kind: MatchingId | None = None


def m(kind: MatchingId, *ids: str | None) -> Case:
    return Case(M, ([f"u{n}" for n in range(len(ids))], ids), kind)


def users(*ids: str) -> Case:
    return Case(S, (ids, ["s"] * len(ids)))


def write(case: Case, path: Path) -> None:
    if any(isinstance(column, pa.Array) for column in case.columns):
        pq.write_table(pa.table({f"column {n}": column for n, column in enumerate(case.columns)}), path)
        return
    rows = zip(*case.columns, strict=True)
    lines = (",".join("" if cell is None else '"' + cell.replace('"', '""') + '"' for cell in row) for row in rows)
    path.write_text("\n".join(lines) + "\n")


def report_of(case: Case, folder: Path) -> ValidationReport:
    write(case, folder / "upload")
    n_embeddings = len(case.columns) - 2 if case.dataset is Dataset.EMBEDDINGS else None
    upload = RoomUpload(case.dataset, folder / "upload", case.kind, n_embeddings)
    return report_on(upload, runtime=Runtime(ENGINE))


def found_in(report: ValidationReport) -> dict[str, list[int | None]]:
    """The rows of each error by code and column; a column whose type is not accepted has no row."""
    found: dict[str, list[int | None]] = {}
    for error in [*report.schema.recorded, *(error for column in report.columns for error in column.recorded)]:
        found.setdefault(f"{error.code.value} {error.column}", []).append(error.row)
    return found


# Each file with its errors; an integer is the number of ids that were changed.
CASES: Mapping[str, tuple[Case, int, Mapping[str, Sequence[int | None]]]] = {
    "user blanks": (
        users("u1", " u2", "u3\t", "\u3000u4", "u\x005", "\u00a0u6", "\u200bu7", " ", "", "x y"),
        0,
        {"EMPTY_CELL user_id": [8, 9]},
    ),
    "user placeholders": (
        users(
            "NULL",
            " nan ",
            "N/A",
            "00000000-0000-0000-0000-000000000000",
            EMPTY_HASH.upper(),
            "nullable",
            "0",
            "x",
        ),
        0,
        {"PLACEHOLDER user_id": [1, 2, 3, 4, 5]},
    ),
    "user tails": (
        users("1.0", " 2.00 ", "3", "", "null", "-4.0"),
        0,
        {"EMPTY_CELL user_id": [4], "PLACEHOLDER user_id": [5]},
    ),
    "user mixed": (users("1.0", "b", " 2.0", "3"), 0, {"INVALID_INTEGER_FORMAT user_id": [1, 3]}),
    "user fractions": (users("1.5", "b", "3"), 0, {}),
    "user fractions mixed": (users("1.5", "b", "3.0"), 0, {"INVALID_INTEGER_FORMAT user_id": [1, 3]}),
    "labels": (
        Case(
            S, ([f"u{n}" for n in range(7)], ["a", " ", "", "x" * 128, "x" * 129, "\U0001f600" * 128, "é" * 129])
        ),
        0,
        {"EMPTY_CELL segment": [3], "INVALID_NUMERIC_RANGE segment": [5, 7]},
    ),
    "one label null parquet": (
        Case(S, (pa.array(["a", "b", "c"]), pa.array(["x", None, ""]))),
        0,
        {"EMPTY_CELL segment": [2, 3]},
    ),
    "labels ints": (
        Case(S, (pa.array([1, 2, None], pa.int32()), pa.array([5, None, 7], pa.int64()))),
        0,
        {"EMPTY_CELL user_id": [3], "EMPTY_CELL segment": [2]},
    ),
    "labels dict": (
        Case(S, (pa.array(["a", "b"]).dictionary_encode(), pa.array(["x", "y"]).dictionary_encode())),
        0,
        {},
    ),
    "large": (Case(S, (pa.array(["a", "b"], pa.large_string()), pa.array(["x", "y"], pa.large_string()))), 0, {}),
    "uint64": (Case(S, (pa.array([2**64 - 1, 5], pa.uint64()), pa.array(["x", "y"]))), 0, {}),
    "float labels": (Case(S, (pa.array(["a"]), pa.array([1.0]))), 0, {"INVALID_FILE_TYPE segment": [None]}),
    "bool users": (Case(S, (pa.array([True]), pa.array(["x"]))), 0, {"INVALID_FILE_TYPE user_id": [None]}),
    "time users": (
        Case(S, (pa.array([1], pa.timestamp("us")), pa.array(["x"]))),
        0,
        {"INVALID_FILE_TYPE user_id": [None]},
    ),
    "list users": (Case(S, (pa.array([["a"]]), pa.array(["x"]))), 0, {"INVALID_FILE_TYPE user_id": [None]}),
    "struct users": (
        Case(S, (pa.array([{"secret@x.ch": 1}]), pa.array(["x"]))),
        0,
        {"INVALID_FILE_TYPE user_id": [None]},
    ),
    "null users": (Case(S, (pa.nulls(2), pa.array(["x", "y"]))), 0, {"INVALID_FILE_TYPE user_id": [None]}),
    "null labels": (Case(S, (pa.array(["x", "y"]), pa.nulls(2))), 0, {"INVALID_FILE_TYPE segment": [None]}),
    "uuid": (
        Case(S, (pa.array([bytes([n]) * 16 for n in range(3)], pa.uuid()), pa.array(["x"] * 3))),
        0,
        {"PLACEHOLDER user_id": [1]},
    ),
    "binary users": (Case(S, (pa.array([b"a", b"b"]), pa.array(["x"] * 2))), 0, {}),
    "float users": (
        Case(S, (pa.array([1.0, 2.0, None, nan]), pa.array(["x"] * 4))),
        0,
        {"EMPTY_CELL user_id": [3, 4]},
    ),
    "float users frac": (
        Case(S, (pa.array([1.0, 2.5]), pa.array(["x"] * 2))),
        0,
        {"INVALID_FILE_TYPE user_id": [None]},
    ),
    "float32 users": (
        Case(S, (pa.array([1, 2**24], pa.float32()), pa.array(["x"] * 2))),
        0,
        {"INVALID_FILE_TYPE user_id": [None]},
    ),
    "decimal users": (
        Case(S, (pa.array([1, 2, None], pa.int64()).cast(pa.decimal128(30, 2)), pa.array(["x"] * 3))),
        0,
        {"EMPTY_CELL user_id": [3]},
    ),
    "ages": (
        Case(
            D,
            (
                [f"u{n}" for n in range(14)],
                [
                    "18-24",
                    " 18 \u2013 24",
                    "65+",
                    "37",
                    "0",
                    "150",
                    "151",
                    "24-18",
                    "old",
                    "-1",
                    "1.5",
                    "007",
                    "",
                    "150+",
                ],
            ),
        ),
        0,
        {"INVALID_NUMERIC_RANGE age": [7, 8, 9, 10, 11]},
    ),
    "ages 2": (
        Case(
            D,
            (
                [f"u{n}" for n in range(8)],
                ["18-151", " ", "1000000", "18-24 ", "18 -24+", "\u0661", "18-24\n", "999999-9"],
            ),
        ),
        0,
        {"INVALID_NUMERIC_RANGE age": [1, 2, 3, 5, 6, 7, 8]},
    ),
    "ages ints": (
        Case(D, (pa.array(["a", "b", "c", "d"]), pa.array([37, 151, None, -1]))),
        0,
        {"INVALID_NUMERIC_RANGE age": [2, 4]},
    ),
    "ages text": (Case(D, (pa.array(["a", "b", "c"]), pa.array(["37", None, ""]))), 0, {}),
    "ages floats": (Case(D, (pa.array(["a", "b"]), pa.array([37.0, None]))), 0, {"INVALID_FILE_TYPE age": [None]}),
    "ages decimals": (
        Case(D, (pa.array(["a"]), pa.array([37], pa.int64()).cast(pa.decimal128(20, 0)))),
        0,
        {"INVALID_FILE_TYPE age": [None]},
    ),
    "genders": (
        Case(D, ([f"u{n}" for n in range(5)], ["1"] * 5, ["f", "", "x" * 64, "x" * 65, " "])),
        0,
        {"INVALID_NUMERIC_RANGE gender": [4]},
    ),
    "genders parquet": (Case(D, (pa.array(["a", "b"]), pa.array(["1", "2"]), pa.array([None, "f"]))), 0, {}),
    "genders ints": (
        Case(D, (pa.array(["a", "b"]), pa.array(["1", "2"]), pa.array([1, 2]))),
        0,
        {"INVALID_FILE_TYPE gender": [None]},
    ),
    "numbers": (
        Case(
            E,
            (
                [f"u{n}" for n in range(18)],
                ["s"] * 18,
                [
                    "1",
                    "0.5",
                    " .5 ",
                    "-1e3",
                    "5.",
                    "",
                    "inf",
                    "nan",
                    "1e400",
                    "x",
                    "1,5",
                    "\u0663",
                    "+1",
                    "1_0",
                    "1e99",
                    "1e100",
                    "1e-999",
                    "\t1",
                ],
            ),
        ),
        0,
        {"EMPTY_CELL e0": [6], "INVALID_FLOAT_FORMAT e0": [7, 8, 9, 10, 11, 12, 13, 14, 16, 18]},
    ),
    "scopes": (Case(E, (["a", "b", "c"], ["x" * 200, "", " "], ["1", "2", "3"])), 0, {"EMPTY_CELL scope": [2]}),
    "typed numbers": (
        Case(
            E,
            (
                pa.array(["a", "b", "c", "d", "e"]),
                pa.array(["s"] * 5),
                pa.array([1.5, nan, inf, None, -inf]),
                pa.array([1, 2, 3, 4, None]),
            ),
        ),
        0,
        {"INVALID_NUMERIC_RANGE e0": [2, 3, 5], "EMPTY_CELL e0": [4], "EMPTY_CELL e1": [5]},
    ),
    "float numbers": (
        Case(
            E,
            (
                pa.array(["a", "b", "c"]),
                pa.array(["s"] * 3),
                pa.array([1.5, nan, inf], pa.float32()),
                pa.array([1, None, 3], pa.int64()).cast(pa.decimal128(30, 3)),
            ),
        ),
        0,
        {"INVALID_NUMERIC_RANGE e0": [2, 3], "EMPTY_CELL e1": [2]},
    ),
    "text numbers": (
        Case(E, (pa.array(["a"]), pa.array(["s"]), pa.array(["1"]))),
        0,
        {"INVALID_FILE_TYPE e0": [None]},
    ),
    "null numbers": (
        Case(E, (pa.array(["a"]), pa.array(["s"]), pa.nulls(1))),
        0,
        {"INVALID_FILE_TYPE e0": [None]},
    ),
    "strings": (
        m(MatchingId.STRING, "a", " a ", "E\u0301", "", "null", "1.0", "\u00a0b", "\u200bc", "A"),
        4,
        {"EMPTY_CELL matching_id": [4], "PLACEHOLDER matching_id": [5], "INVALID_INTEGER_FORMAT matching_id": [6]},
    ),
    "strings tails": (m(MatchingId.STRING, "1.0", "2", "3.00 ", ""), 2, {"EMPTY_CELL matching_id": [4]}),
    "strings fractions": (m(MatchingId.STRING, "1.5", "a"), 0, {}),
    "emails": (
        m(
            MatchingId.EMAIL,
            "a@x.ch",
            " A@x.ch",
            "",
            "nobody",
            "1.0",
            "n/a",
            "\u200ba@x.ch",
            "a@m\u00fcller.ch",
            "a@@x.ch",
            None,
        ),
        3,
        {
            "EMPTY_CELL matching_id": [3, 10],
            "INVALID_EMAIL_FORMAT matching_id": [4, 5, 9],
            "PLACEHOLDER matching_id": [6],
        },
    ),
    "hashes": (
        m(MatchingId.HASHED_EMAIL, HASH, HASH.upper(), EMPTY_HASH, "x", "1.0", "", " " + HASH),
        2,
        {
            "PLACEHOLDER matching_id": [3],
            "INVALID_SHA256_HEX_FORMAT matching_id": [4, 5],
            "EMPTY_CELL matching_id": [6],
        },
    ),
    "phones": (
        m(
            MatchingId.PHONE_NUMBER,
            "+41791234567",
            "0041 79 123 45 67",
            "079 123 45 67",
            "",
            "null",
            "x",
            "41.79.123.45.67",
            "41791234567.0",
            "41791234567.5",
        ),
        2,
        {
            "INVALID_PHONE_E164_NUMBER matching_id": [3, 6, 8, 9],
            "EMPTY_CELL matching_id": [4],
            "PLACEHOLDER matching_id": [5],
        },
    ),
    "phones tails": (
        m(MatchingId.PHONE_NUMBER, "41791234567.0", "41791234568", "79.0", ""),
        2,
        {"INVALID_PHONE_E164_NUMBER matching_id": [3], "EMPTY_CELL matching_id": [4]},
    ),
    "phone hashes": (
        m(MatchingId.HASHED_PHONE_NUMBER, HASH, "nobody", "1.0"),
        0,
        {"INVALID_SHA256_HEX_FORMAT matching_id": [2, 3]},
    ),
    "float phones": (
        Case(
            M, (pa.array(["a", "b", "c"]), pa.array([41791234567.0, 41791234568.0, None])), MatchingId.PHONE_NUMBER
        ),
        2,
        {"EMPTY_CELL matching_id": [3]},
    ),
    "float strings": (
        Case(M, (pa.array(["a", "b", "c"]), pa.array([7.0, 8.0, nan])), MatchingId.STRING),
        0,
        {"EMPTY_CELL matching_id": [3]},
    ),
    "int phones": (
        Case(M, (pa.array(["a", "b", "c"]), pa.array([41791234567, 41791234568, None])), MatchingId.PHONE_NUMBER),
        2,
        {"EMPTY_CELL matching_id": [3]},
    ),
    "decimal phones": (
        Case(
            M,
            (pa.array(["a", "b"]), pa.array([41791234567, 41791234568]).cast(pa.decimal128(38, 0))),
            MatchingId.PHONE_NUMBER,
        ),
        2,
        {},
    ),
    "decimal fractions": (
        Case(M, (pa.array(["a", "b"]), pa.array(["1.50", "2.00"]).cast(pa.decimal128(20, 2))), MatchingId.STRING),
        0,
        {"INVALID_FILE_TYPE matching_id": [None]},
    ),
    "seed": (
        Case(A, (["a", " b ", "", "d", "e"], ["t", "t", "t", "", "x" * 129]), MatchingId.STRING),
        1,
        {
            "EMPTY_CELL matching_id": [3],
            "EMPTY_CELL audience_type": [4],
            "INVALID_NUMERIC_RANGE audience_type": [5],
        },
    ),
    "seed one": (
        Case(A, (["a", "", "null"],), MatchingId.STRING),
        0,
        {"EMPTY_CELL matching_id": [2], "PLACEHOLDER matching_id": [3]},
    ),
    "seed tails": (
        Case(A, (["1.0", "a", "b"], ["t"] * 3), MatchingId.STRING),
        0,
        {"INVALID_INTEGER_FORMAT matching_id": [1]},
    ),
    "two errors": (
        Case(S, (["", "a", ""], ["", "", "x" * 200])),
        0,
        {"EMPTY_CELL user_id": [1, 3], "EMPTY_CELL segment": [1, 2], "INVALID_NUMERIC_RANGE segment": [3]},
    ),
}


def test_each_kind_of_cell(tmp_path: Path) -> None:
    def check(name: str, expected: tuple[Case, int, Mapping[str, Sequence[int | None]]]) -> None:
        case, n_changed, errors = expected
        report = report_of(case, tmp_path)
        assert (found_in(report), report.table.n_ids_changed) == (errors, n_changed)
        rows = {row for of_code in errors.values() for row in of_code if row}
        assert report.n_invalid_rows == len(rows)
        assert sum(report.n_invalid_rows_by_code.values()) >= len(rows)
        assert "read to its end" not in (report.reason or "")

    assert offenders(CASES.items(), check) == []
