"""Resolving a path to files, and their column names.

Contract: one file, a folder or a glob of one format; anything else is an `InputError` with its reason in
`problem`, with a remedy and without cells.
"""

import gzip
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cleanroom_pipelines.engine import find_tables
from cleanroom_pipelines.errors import InputError

from ..offenders import offenders


def names(source: Path | str) -> list[str]:
    return [file.name for file in find_tables(source).files]


def problem(source: Path | str) -> str:
    with pytest.raises(InputError) as caught:
        find_tables(source, what="seed")
    assert "seed" in caught.value.message
    assert caught.value.remedy
    assert caught.value.__context__ is None, "a chained error would carry what it read"
    return str(caught.value.attributes["problem"])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("b.csv", "a.csv", "c.csv", ".hidden.csv", "_temporary.csv"):
        (tmp_path / name).write_text("id\n1\n")
    (tmp_path / "_SUCCESS").touch()
    (tmp_path / "readme.txt").write_text("no table")
    (tmp_path / "empty.csv").touch()
    below = tmp_path / "below"
    below.mkdir()
    (below / "d.csv").write_text("id\n1\n")
    return tmp_path


def test_file(folder: Path) -> None:
    tables = find_tables(folder / "a.csv")
    assert tables.files == ((folder / "a.csv").resolve(),)
    assert (tables.format, tables.columns, tables.delimiter, tables.n_bytes) == ("csv", ("id",), ",", 5)


def test_folder_is_its_tables_sorted_and_not_what_lies_below(folder: Path) -> None:
    assert names(folder) == ["a.csv", "b.csv", "c.csv"]


def test_glob(folder: Path) -> None:
    assert names(f"{folder}/[ab].csv") == ["a.csv", "b.csv"]
    assert names(f"{folder}/**/*.csv") == ["a.csv", "b.csv", "d.csv", "c.csv"]


def test_relative_path(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    assert find_tables("a.csv").files[0].is_absolute()


def test_nothing_there(tmp_path: Path) -> None:
    names = ["none.csv", "none/*.csv", "", "a\x00.csv", "x" * 5_000]
    assert {name: problem(f"{tmp_path}/below/{name}") for name in names} == dict.fromkeys(names, "missing")


def test_nothing_that_is_a_table(tmp_path: Path) -> None:
    (tmp_path / "readme.md").write_text("no table")
    assert problem(tmp_path) == "missing"
    assert problem(tmp_path / "readme.md") == "format"


def test_mixed_formats(folder: Path) -> None:
    (folder / "e.jsonl").write_text('{"id": 1}\n')
    assert problem(folder) == "format"


def test_empty(folder: Path) -> None:
    assert problem(folder / "empty.csv") == "empty"


def test_csv_header(tmp_path: Path) -> None:
    headers = [
        (b"a,b\n1,2\n", ("a", "b"), ","),
        (b"a;b,c;d\n1;2;3\n", ("a", "b,c", "d"), ";"),
        (b"a\tb\n", ("a", "b"), "\t"),
        (b"a|b", ("a", "b"), "|"),
        (b"only\n1\n", ("only",), ","),
        (b"\xef\xbb\xbfa,b\r\n", ("a", "b"), ","),
        (b'"it""s, so","line\nbreak",\'q\',\xf0\x9f\x98\x80\n', ('it"s, so', "line\nbreak", "'q'", "😀"), ","),
        (b"a,b\n\xff\xfe\n", ("a", "b"), ","),
    ]

    def check(content: bytes, columns: tuple[str, ...], delimiter: str) -> None:
        for name, stored in (("t.csv", content), ("t.csv.gz", gzip.compress(content))):
            (tmp_path / name).write_bytes(stored)
            tables = find_tables(tmp_path / name)
            assert (tables.columns, tables.delimiter) == (columns, delimiter)

    assert offenders(headers, check) == []


def test_unreadable(tmp_path: Path) -> None:
    files = [
        ("t.csv", b'a,"b\n1,2\n'),
        ("t.csv", "a,b\n".encode("utf-16")),
        ("t.csv.gz", b"no gzip"),
        ("t.csv.gz", gzip.compress(b"a,b\n" * 9_999, mtime=0)[:30]),
        ("t.jsonl.gz", b"no gzip"),
        ("t.parquet", b"no parquet"),
        ("t.parquet", b"PAR1" + b"\x00" * 20 + b"PAR1"),
        ("t.parquet.gz", b"no gzip"),
    ]

    def check(name: str, content: bytes) -> None:
        (tmp_path / name).write_bytes(content)
        assert problem(tmp_path / name) == "unreadable"

    assert offenders(files, check) == []


def test_headers_that_differ(folder: Path) -> None:
    (folder / "z.csv").write_text("other\n1\n")
    assert problem(folder) == "unreadable"


def test_parquet_columns_in_another_order_are_the_same(tmp_path: Path) -> None:
    pq.write_table(pa.table({"a": [1], "b": [2]}), tmp_path / "1.parquet")
    pq.write_table(pa.table({"b": [2], "a": [1]}), tmp_path / "2.parquet")
    assert find_tables(tmp_path).columns == ("a", "b")
    pq.write_table(pa.table({"c": [1]}), tmp_path / "3.parquet")
    assert problem(tmp_path) == "unreadable"


def test_json_keys(tmp_path: Path) -> None:
    file = tmp_path / "t.jsonl"
    rows: list[object] = [{"a": 1}, {"b c": 1, 'd"e': 2}, {"a": 3, "line\nbreak": 1, "😀": 1}, ["list"], "text"]
    lines = [json.dumps(row) for row in rows] + ["no json", "", '{"": 1, "A": 2}', "[" * 100_000]
    file.write_text("\n".join(lines))
    assert find_tables(file).columns == ("a", "b c", 'd"e', "line\nbreak", "😀")


def test_json_with_a_byte_order_mark(tmp_path: Path) -> None:
    (tmp_path / "t.json").write_bytes(b'\xef\xbb\xbf{"a": 1}')
    assert find_tables(tmp_path / "t.json").columns == ("a",)
