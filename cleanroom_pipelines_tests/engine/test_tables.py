"""Resolving a path to files, and their column names.

Contract: one file, a folder or a glob of one format; anything else is an `InputError` with its reason in
`problem`, with a remedy and without cells.
"""

import gzip
import io
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cleanroom_pipelines.engine import find_tables, open_engine, parquet_types, type_runs
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
    assert (tables.format, tables.columns, tables.n_bytes) == ("csv", ("id",), 5)


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
            assert (tables.columns, tables.shape_of(tables.files[0]).delimiter) == (columns, delimiter)

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


def test_columns_that_not_all_files_have(tmp_path: Path) -> None:
    pq.write_table(pa.table({"a": [1], "more": [2], "b": [3]}), tmp_path / "1.parquet")
    pq.write_table(pa.table({"b": [4], "other": ["x"], "a": [5]}), tmp_path / "2.parquet")
    assert find_tables(tmp_path).columns == ("a", "b")


def test_parquet_names_that_cannot_be_columns(tmp_path: Path) -> None:
    names = ["a", "", "n", "N", "m", "m", "nul\x00", "m_1"]
    pq.write_table(pa.Table.from_arrays([pa.array([i]) for i in range(len(names))], names), tmp_path / "t.parquet")
    tables = find_tables(tmp_path)
    assert (tables.columns, tables.repeated) == (("a",), {"n", "N", "m", "m_1"})


NAMES = [
    ("t.pq", "parquet"),
    ("T.PARQUET", "parquet"),
    ("t.snappy.parquet", "parquet"),
    ("t.tsv", "csv"),
    ("t.txt", "csv"),
    ("T.CSV.GZ", "csv"),
    ("t.csv.zst", "csv"),
    ("t.TXT.Gz", "csv"),
    ("t.ndjson", "jsonl"),
    ("t.JSON", "jsonl"),
    ("t.jsonl.zst", "jsonl"),
    ("20240101_120000_00001", "parquet"),
    ("part-0000", "csv"),
    ("000000_0", "jsonl"),
    ("20240101_120000.gz", "csv"),
    ("20240101_120000.zst", "jsonl"),
]


def content_of(name: str, format_: str) -> bytes:
    with io.BytesIO() as sink:
        pq.write_table(pa.table({"id": ["1"]}), sink)
        content = {"parquet": sink.getvalue(), "csv": b"id\n1\n", "jsonl": b'\xef\xbb\xbf {"id": "1"}\n'}[format_]
    if name.lower().endswith(".gz"):
        return gzip.compress(content)
    return bytes(pa.compress(content, codec="zstd", asbytes=True)) if name.endswith(".zst") else content


@pytest.mark.parametrize("source", ["file", "folder", "glob"])
def test_names_of_files(tmp_path: Path, source: str) -> None:
    def check(name: str, format_: str) -> None:
        folder = tmp_path / f"folder {name}"
        folder.mkdir()
        (folder / name).write_bytes(content_of(name, format_))
        tables = find_tables({"file": folder / name, "folder": folder, "glob": f"{folder}/*"}[source])
        assert (tables.format, tables.columns) == (format_, ("id",))
        with open_engine(paths=[folder]) as engine:
            engine.scan("t", tables)
            assert engine.fetch("SELECT id FROM t").to_pylist() == [{"id": "1"}]

    assert offenders(NAMES, check) == []


def test_compressed_content_without_a_suffix(tmp_path: Path) -> None:
    for name, packed in (("1", "1.gz"), ("2", "2.zst"), ("3", "3")):
        (tmp_path / name).write_bytes(content_of(packed, "jsonl"))
    tables = find_tables(tmp_path)
    assert tables.format == "jsonl"
    with open_engine(paths=[tmp_path]) as engine:
        engine.scan("t", tables)
        assert engine.fetch("SELECT id FROM t").num_rows == 3
    with pytest.raises(InputError) as caught:
        find_tables(tmp_path, unpacked_bytes=20)
    assert caught.value.attributes["problem"] == "too large"


def test_wrong_suffixes(tmp_path: Path) -> None:
    for name in ("t.parquet.zst", "t.xlsx", "t.gzip", "t.csv.bz2"):
        (tmp_path / name).write_bytes(b"id\n1\n")
        assert problem(tmp_path / name) == "format"
    (tmp_path / "t.csv").write_bytes(gzip.compress(b"id\n1\n"))
    assert problem(tmp_path / "t.csv") == "unreadable"


def test_a_folder_is_its_files_with_a_suffix(tmp_path: Path) -> None:
    (tmp_path / "LICENSE").write_text("text")
    assert names(tmp_path) == ["LICENSE"]
    (tmp_path / "readme.txt").write_text("text")
    assert names(tmp_path) == ["readme.txt"]
    (tmp_path / "a.csv").write_text("id\n1\n")
    assert names(tmp_path) == ["a.csv"]


def test_empty_files_without_a_suffix_do_not_count(tmp_path: Path) -> None:
    pq.write_table(pa.table({"a": [1]}), tmp_path / "0001")
    (tmp_path / "done").touch()
    assert names(tmp_path) == ["0001"]


# --- Types ---


def test_runs_of_equal_types(tmp_path: Path) -> None:
    columns = [pa.array([1]), pa.array([2]), pa.array([1.5]), pa.array(["x"]), pa.nulls(1), pa.array([3])]
    for number, ids in enumerate(columns):
        pq.write_table(pa.table({"id": ids, "more": [number]}), tmp_path / f"{number}.parquet")
    tables = find_tables(tmp_path)
    runs = type_runs(tables, ["id"])
    assert [[file.stem for file in run.files] for run, _ in runs] == [["0", "1"], ["2"], ["3"], ["4"], ["5"]]
    assert [dict(types) for _, types in runs] == [
        {"id": type_} for type_ in (pa.int64(), pa.float64(), pa.string(), pa.null(), pa.int64())
    ]
    assert {run.columns for run, _ in runs} == {("id",)}
    ((whole, types),) = type_runs(tables, ["more"])
    assert (whole.files, types) == (tables.files, {"more": pa.int64()})


def test_types_that_are_equal_to_a_scan_are_one_run(tmp_path: Path) -> None:
    kinds = [
        [pa.array(["a"]).cast(type_) for type_ in (pa.string(), pa.large_string(), pa.string_view())],
        [pa.array([1]), pa.array([1]).dictionary_encode()],
        [pa.array([b"ab"]), pa.array([b"ab"], pa.binary(2)), pa.array([b"ab"], pa.large_binary())],
        [pa.array([[1]]), pa.array([[1]], pa.large_list(pa.int64())), pa.array([[1]], pa.list_(pa.int64(), 1))],
        [pa.array([0], pa.timestamp("us")), pa.array([0], pa.timestamp("ms"))],
        [pa.array([0], pa.timestamp("us", "UTC")), pa.array([0], pa.timestamp("ms", "Europe/Zurich"))],
        [pa.array([b"0123456789abcdef"], pa.uuid())],
    ]

    def check(number: int, arrays: list[pa.Array]) -> None:
        folder = tmp_path / str(number)
        folder.mkdir()
        for i, array in enumerate(arrays):
            pq.write_table(pa.table({"a": array}), folder / f"{i}.parquet")
        assert len(type_runs(find_tables(folder), ["a"])) == 1

    assert offenders(enumerate(kinds), check) == []
    for number in range(len(kinds)):
        (tmp_path / str(number) / "0.parquet").rename(tmp_path / f"{number}.parquet")
    assert len(type_runs(find_tables(tmp_path), ["a"])) == len(kinds)


def test_text_and_partitions_are_one_run(tmp_path: Path) -> None:
    for day in (1, 2):
        (tmp_path / f"day={day}").mkdir()
        (tmp_path / f"day={day}" / "a.csv").write_text("id\n1\n")
    ((run, types),) = type_runs(find_tables(tmp_path), ["day", "id"])
    assert (run.columns, types) == (("day", "id"), {"day": pa.string(), "id": pa.string()})


def test_each_footer_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read = []
    read_schema = parquet_types.read_schema
    monkeypatch.setattr(parquet_types, "read_schema", lambda file: read.append(file) or read_schema(file))
    for number in range(3):
        pq.write_table(pa.table({"a": [number]}), tmp_path / f"{number}.parquet")
    tables = find_tables(tmp_path)
    type_runs(tables, ["a"])
    with open_engine(paths=[tmp_path]) as engine:
        engine.scan("t", tables.select(["a"]))
        engine.scan("one", tables.one(tables.files[1]))
    assert read == list(tables.files)


def test_different_types_are_not_one_scan(tmp_path: Path) -> None:
    others = [pa.array([1.5]), pa.array(["x"]), pa.nulls(1), pa.array([{"kanarienvogel": 1}]), pa.array([[1]])]

    def check(number: int, other: pa.Array, flip: bool) -> None:
        folder = tmp_path / f"{number}{flip}"
        folder.mkdir()
        for name, ids in (("1", other if flip else pa.array([1])), ("2", pa.array([1]) if flip else other)):
            pq.write_table(pa.table({"kanarienvogel": ids, "more": [1]}), folder / f"{name}.parquet")
        tables = find_tables(folder)
        with open_engine(paths=[folder]) as engine:
            with pytest.raises(InputError, match="different types") as caught:
                engine.scan("t", tables)
            assert caught.value.attributes["problem"] == "types"
            assert "kanarienvogel" not in str(caught.value)
            engine.scan("t", tables.select(["more"]))
            assert engine.fetch("SELECT * FROM t").to_pylist() == [{"more": 1}] * 2

    cases = [(number, other, flip) for number, other in enumerate(others) for flip in (False, True)]
    assert offenders(cases, check) == []


def test_json_keys(tmp_path: Path) -> None:
    file = tmp_path / "t.jsonl"
    rows: list[object] = [{"a": 1}, {"b c": 1, 'd"e': 2}, {"a": 3, "line\nbreak": 1, "😀": 1}, ["list"], "text"]
    lines = [json.dumps(row) for row in rows] + ["no json", "", '{"": 1, "A": 2}', "[" * 100_000]
    file.write_text("\n".join(lines))
    assert find_tables(file).columns == ("a", "b c", 'd"e', "line\nbreak", "😀")


def test_json_with_a_byte_order_mark(tmp_path: Path) -> None:
    (tmp_path / "t.json").write_bytes(b'\xef\xbb\xbf{"a": 1}')
    assert find_tables(tmp_path / "t.json").columns == ("a",)
