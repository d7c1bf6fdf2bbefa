"""DuckDB implementation of the engine protocol.

Contract: it accesses only the given paths; its settings are locked; its errors contain no cells; rows of text
files are never lost silently; results are streamed and written in order; no files are left on disk.
"""

import gzip
from collections.abc import Iterator
from itertools import product
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cleanroom_pipelines.engine import (
    Engine,
    EngineSettings,
    duckdb_engine,
    find_tables,
    open_engine,
    quote_literal,
    unpacked_blocks,
)
from cleanroom_pipelines.errors import EngineError, StorageFullError
from cleanroom_pipelines_tests import damaged
from cleanroom_pipelines_tests.offenders import offenders

SETTINGS = EngineSettings(memory_bytes=256 << 20, threads=2)


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    (tmp_path / "allowed").mkdir()
    with open_engine(SETTINGS, paths=[tmp_path / "allowed"]) as opened:
        yield opened


def rows_of(file: Path, *, paths: list[Path] | None = None) -> list[dict[str, object]]:
    with open_engine(SETTINGS, paths=paths or [file]) as engine:
        engine.scan("t", find_tables(file))
        return list(engine.fetch("SELECT * FROM t").to_pylist())


# --- The lock ---


def test_what_is_locked(engine: Engine, tmp_path: Path) -> None:
    statements = [
        "SELECT * FROM read_csv({outside})",
        "SELECT * FROM read_text({outside})",
        "SELECT * FROM read_blob({outside})",
        "SELECT * FROM glob({outside})",
        "SELECT * FROM read_csv({around})",
        "SELECT * FROM read_csv({sibling})",
        "COPY (SELECT 1) TO {outside_new}",
        "COPY (SELECT 1) TO {around_new}",
        "EXPORT DATABASE {outside_new}",
        "ATTACH {outside_new}",
        "INSTALL httpfs",
        "LOAD httpfs",
        "CREATE SECRET s (TYPE s3)",
        "SELECT * FROM read_csv('https://localhost/x.csv')",
        "SET threads = 1",
        "RESET memory_limit",
        "SET enable_external_access = true",
        "SET lock_configuration = false",
        "SET allowed_directories = ['/']",
        "SELECT getenv('HOME')",
    ]
    (tmp_path / "outside.csv").write_text("a\n1\n")
    (tmp_path / "allowed-not").mkdir()
    (tmp_path / "allowed-not" / "a.csv").write_text("a\n1\n")
    paths = {
        "outside": tmp_path / "outside.csv",
        "around": tmp_path / "allowed" / ".." / "outside.csv",
        "sibling": tmp_path / "allowed-not" / "a.csv",
        "outside_new": tmp_path / "new",
        "around_new": tmp_path / "allowed" / ".." / "new",
    }

    def check(statement: str) -> None:
        with pytest.raises(EngineError):
            engine.fetch(statement.format(**{name: quote_literal(str(path)) for name, path in paths.items()}))
        assert not (tmp_path / "new").exists()

    assert offenders(statements, check) == []


def test_what_is_allowed(engine: Engine, tmp_path: Path) -> None:
    engine.write_parquet("SELECT 1 AS a", tmp_path / "allowed" / "t.parquet")
    assert engine.fetch(f"SELECT * FROM read_parquet({quote_literal(str(tmp_path / 'allowed' / 't.parquet'))})")


@pytest.mark.parametrize("name", ["*.csv", "a.parquet.gz"])
def test_scan_does_not_walk_around_the_lock(engine: Engine, tmp_path: Path, name: str) -> None:
    # These two are handed over in the engine's own scratch folder, which DuckDB may read.
    file = tmp_path / name
    if name.endswith(".gz"):
        pq.write_table(pa.table({"a": [1]}), tmp_path / "plain.parquet")
        file.write_bytes(gzip.compress((tmp_path / "plain.parquet").read_bytes()))
    else:
        file.write_text("a\n1\n")
    with pytest.raises(EngineError):
        engine.scan("t", find_tables(file))


def test_one_file_is_allowed_and_its_neighbour_is_not(tmp_path: Path) -> None:
    for name in ("a.csv", "b.csv"):
        (tmp_path / name).write_text("a\n1\n")
    with open_engine(SETTINGS, paths=[tmp_path / "a.csv"]) as engine:
        engine.scan("a", find_tables(tmp_path / "a.csv"))
        assert engine.fetch("SELECT * FROM a").num_rows == 1
        with pytest.raises(EngineError):
            engine.scan("b", find_tables(tmp_path / "b.csv"))


def test_scratch_goes(tmp_path: Path) -> None:
    settings = EngineSettings(memory_bytes=256 << 20, threads=1, scratch=tmp_path)
    with open_engine(settings):
        assert len(list(tmp_path.iterdir())) == 1
    assert not list(tmp_path.iterdir())
    with (
        pytest.raises(EngineError),
        open_engine(EngineSettings(memory_bytes=256 << 20, threads=-1, scratch=tmp_path)),
    ):
        pass
    assert not list(tmp_path.iterdir())
    with pytest.raises(ZeroDivisionError), open_engine(settings):
        raise ZeroDivisionError
    assert not list(tmp_path.iterdir())


def test_the_python_variables_around_are_not_tables(engine: Engine) -> None:
    nearby = pa.table({"a": [1]})
    assert nearby.num_rows
    with pytest.raises(EngineError):
        engine.fetch("SELECT * FROM nearby")


# --- Queries ---


def test_values_are_bound(engine: Engine) -> None:
    text = "'; DROP TABLE t; --"
    assert engine.fetch("SELECT ? AS a, ? AS b", [text, 7]).to_pylist() == [{"a": text, "b": 7}]


def test_registered_table(engine: Engine) -> None:
    engine.register("t", pa.table({"a": [1, 2]}))
    assert engine.fetch("SELECT sum(a) AS s FROM t")["s"][0].as_py() == 3
    engine.unregister("t")
    with pytest.raises(EngineError):
        engine.fetch("SELECT * FROM t")


def test_batches_keep_order_and_size(engine: Engine) -> None:
    batches = list(engine.batches("SELECT range AS a FROM range(10_000)", rows=3_000))
    assert [batch.num_rows for batch in batches] == [3_000, 3_000, 3_000, 1_000]
    assert [row for batch in batches for row in batch["a"].to_pylist()] == list(range(10_000))


def test_batches_closed_early_leave_the_engine_usable(engine: Engine) -> None:
    stream = engine.batches("SELECT range AS a FROM range(5_000_000)", rows=1_000)
    assert next(stream).num_rows == 1_000
    stream.close()  # type: ignore[attr-defined]
    assert engine.fetch("SELECT 1 AS a").num_rows == 1
    assert sum(batch.num_rows for batch in engine.batches("SELECT range FROM range(10)", rows=3)) == 10


def test_write_parquet_keeps_the_order_of_the_query(engine: Engine, tmp_path: Path) -> None:
    file = tmp_path / "allowed" / "it's.parquet"
    query = "SELECT range AS a FROM range(300_000) WHERE range > ? ORDER BY hash(range)"
    engine.write_parquet(query, file, [9])
    written = pq.read_table(file)["a"].to_pylist()
    assert written == engine.fetch(query, [9])["a"].to_pylist()
    assert len(written) == 299_990
    assert pq.ParquetFile(file).metadata.row_group(0).column(0).compression == "ZSTD"


def test_unique_ids_are_written_without_a_dictionary_and_in_order(engine: Engine, tmp_path: Path) -> None:
    file = tmp_path / "allowed" / "ids.parquet"
    query = "SELECT md5(CAST(range AS VARCHAR)) AS id FROM range(150_000) ORDER BY hash(range)"
    engine.write_parquet(query, file, repeats=False)
    assert pq.read_table(file)["id"].to_pylist() == engine.fetch(query)["id"].to_pylist()
    column = pq.ParquetFile(file).metadata.row_group(0).column(0)
    assert (column.compression, column.has_dictionary_page) == ("ZSTD", False)


# --- Errors ---


@pytest.mark.parametrize("n_rows_before", [0, 50_000])
@pytest.mark.parametrize("stream", [False, True])
def test_errors_hold_no_cell(engine: Engine, n_rows_before: int, stream: bool) -> None:
    engine.register("t", pa.table({"cell": ["1"] * n_rows_before + ["kanarienvogel"]}))
    query = "SELECT CAST(cell AS BIGINT) AS number FROM t"
    with pytest.raises(EngineError) as caught:
        list(engine.batches(query, rows=1_000)) if stream else engine.fetch(query)
    assert caught.value.attributes["cause"] == "ConversionException"
    assert "kanarienvogel" not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None
    assert engine.fetch("SELECT 1 AS a").num_rows == 1, "still usable"


def test_lack_of_memory_says_so(tmp_path: Path) -> None:
    query = "SELECT list(range) AS all_of_them FROM range(50_000_000)"
    with (
        pytest.raises((EngineError, StorageFullError)) as caught,
        open_engine(EngineSettings(memory_bytes=20 << 20, threads=1)) as engine,
    ):
        engine.fetch(query)
    assert caught.value.attributes["cause"] == "OutOfMemoryException"
    assert "memory" in caught.value.remedy


def test_lack_of_memory_says_so_where_it_would_spill() -> None:
    query = "SELECT count(DISTINCT range::VARCHAR || repeat('x', 50)) FROM range(3_000_000)"
    with (
        pytest.raises((EngineError, StorageFullError)) as caught,
        open_engine(EngineSettings(memory_bytes=30 << 20, threads=1, scratch_bytes=1 << 20)) as engine,
    ):
        engine.fetch(query)
    assert caught.value.attributes.get("cause", "OutOfMemoryException") == "OutOfMemoryException"


def test_what_does_not_fit_into_memory_is_spilled(tmp_path: Path) -> None:
    settings = EngineSettings(memory_bytes=50 << 20, threads=1, scratch=tmp_path)
    with open_engine(settings) as engine:
        engine.execute("CREATE TEMP TABLE wide AS SELECT md5(range::VARCHAR) AS h FROM range(2_000_000)")
        spilled = [path for path in tmp_path.rglob("*") if path.is_file()]
        assert sum(path.stat().st_size for path in spilled) > 10 << 20
        assert {path.parent.stat().st_mode & 0o077 for path in spilled} == {0}
        found = engine.fetch("SELECT count(*) AS n, count(DISTINCT h) AS distinct_ones FROM wide")
    assert found.to_pylist() == [{"n": 2_000_000, "distinct_ones": 2_000_000}]
    assert list(tmp_path.iterdir()) == []


def test_scratch_is_bounded(tmp_path: Path) -> None:
    with open_engine(EngineSettings(memory_bytes=256 << 20, scratch=tmp_path, scratch_bytes=3 << 20)) as engine:
        bound = engine.fetch("SELECT current_setting('max_temp_directory_size') AS bound")
    assert bound["bound"][0].as_py() == "3.0 MiB"


def test_unparsable_query_is_an_engine_error(engine: Engine) -> None:
    with pytest.raises(EngineError):
        engine.execute("SELECT FROM WHERE")


# --- Files ---


def test_odd_file_names_mean_themselves(tmp_path: Path) -> None:
    names = ["it's.csv", 'qu"ote.csv', "new\nline.csv", "😀.csv", "*.csv", "[a].csv", "q?.csv", "*.csv.gz"]
    (tmp_path / "other.csv").write_text("a\nother\n")
    for number, name in enumerate(names):
        content = f"a\n{number}\n".encode()
        (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith(".gz") else content)

    def check(number: int, name: str) -> None:
        assert rows_of(tmp_path / name) == [{"a": f"{number}"}]

    assert offenders(enumerate(names), check) == []


def test_odd_folder_names(tmp_path: Path) -> None:
    folder = tmp_path / "[x]*"
    folder.mkdir()
    (folder / "a.csv").write_text("a\n1\n")
    pq.write_table(pa.table({"a": ["2"]}), tmp_path / "[x]*" / "b.parquet")
    assert rows_of(folder / "a.csv") == [{"a": "1"}]
    assert rows_of(folder / "b.parquet") == [{"a": "2"}]


def test_lines_end_as_the_header_does(tmp_path: Path) -> None:
    file = tmp_path / "t.csv"

    def check(end: str, header: str) -> None:
        # DuckDB's own detection takes the first line break for the end of all lines, and then finds no row.
        file.write_bytes(f'{header}{end}1,2{end}"x\ny",4{end}'.encode())
        assert [list(row.values()) for row in rows_of(file)] == [["1", "2"], ["x\ny", "4"]]

    headers = ['"line\nbreak",b', '"line\r\nbreak",b', "a,b"]
    assert offenders(product(["\n", "\r\n", "\r"], headers), check) == []


def test_files_whose_lines_end_differently(tmp_path: Path) -> None:
    for name, end in (("1.csv", "\n"), ("2.csv", "\r\n"), ("3.csv", "\n")):
        (tmp_path / name).write_bytes(f"a,b{end}{name},2{end}".encode())
    assert [row["a"] for row in rows_of(tmp_path)] == ["1.csv", "2.csv", "3.csv"]


def test_mixed_line_ends_in_one_file_are_an_error(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_bytes(b"a,b\n1,2\r\n3,4\n")
    with pytest.raises(EngineError):
        rows_of(tmp_path / "t.csv")


def test_csv_cells(tmp_path: Path) -> None:
    file = tmp_path / "t.csv"
    file.write_text('a;"b ""c"""\n1;\n"";" x "\n"2;3";"line\nbreak"\nNULL;é😀\n')
    assert [list(row.values()) for row in rows_of(file)] == [
        ["1", None],
        [None, " x "],
        ["2;3", "line\nbreak"],
        ["NULL", "é😀"],
    ]


def test_csv_lines_that_do_not_split_are_counted(tmp_path: Path) -> None:
    file = tmp_path / "t.csv"
    file.write_bytes(b'a,b\n1,2\n3\n4,5,6\n"7"x,8\n\xff,9\n10,11\n')
    with open_engine(SETTINGS, paths=[file]) as engine:
        engine.scan("t", find_tables(file))
        assert engine.rejected_lines().num_rows == 0
        assert engine.fetch("SELECT * FROM t")["a"].to_pylist() == ["1", "10"]
        rejected = engine.rejected_lines().to_pylist()
        assert engine.rejected_lines().num_rows == 0, "told once"
    assert rejected == [
        {"line": 3, "reason": "MISSING COLUMNS", "runs_on": False},
        {"line": 4, "reason": "TOO MANY COLUMNS", "runs_on": False},
        {"line": 5, "reason": "UNQUOTED VALUE", "runs_on": False},
        {"line": 6, "reason": "INVALID ENCODING", "runs_on": False},
    ]


@pytest.mark.parametrize(("n_lines", "runs_on"), [(5, False), (20, True), (100_000, True)])
def test_a_quote_that_is_never_closed_runs_on(tmp_path: Path, n_lines: int, runs_on: bool) -> None:
    file = tmp_path / "t.csv"
    file.write_text('a,b\n1,2\n3,"4\n' + "5,6\n" * n_lines)
    with open_engine(SETTINGS, paths=[file]) as engine:
        engine.scan("t", find_tables(file))
        assert engine.fetch("SELECT * FROM t")["a"].to_pylist() == ["1"]
        assert engine.rejected_lines().to_pylist() == [{"line": 3, "reason": "UNQUOTED VALUE", "runs_on": runs_on}]


@pytest.mark.parametrize("name", ["t.csv", "t.jsonl"])
def test_a_cast_in_a_query_rejects_no_line(tmp_path: Path, name: str) -> None:
    lines = {"t.csv": "a,b\n1,x\nx,y\n", "t.jsonl": '{"a": 1, "b": "x"}\n{"a": "x", "b": "y"}\n'}
    (tmp_path / name).write_text(lines[name])
    with open_engine(SETTINGS, paths=[tmp_path]) as engine:
        engine.scan("t", find_tables(tmp_path / name))
        numbers = engine.fetch("SELECT TRY_CAST(a AS INTEGER) AS a FROM t ORDER BY a")
        assert numbers["a"].to_pylist() == [1, None]
        assert not engine.rejected_lines().num_rows
        with pytest.raises(EngineError) as caught:
            engine.fetch("SELECT CAST(a AS INTEGER) AS a FROM t")
        assert caught.value.attributes["cause"] == "ConversionException"


def test_rejected_lines_hold_in_large_files(tmp_path: Path) -> None:
    # Larger than one of DuckDB's buffers, read by two threads.
    file = tmp_path / "t.csv"
    with file.open("w") as stream:
        stream.write("a,b\n")
        for i in range(1_000_000):
            stream.write(f"{i}\n" if i % 100_000 == 5 else f'{i},"a longer text\nin two lines {i}"\n')
    with open_engine(SETTINGS, paths=[file]) as engine:
        engine.scan("t", find_tables(file))
        n_rows, last = 0, -1
        for batch in engine.batches("SELECT CAST(a AS BIGINT) AS a, b FROM t", rows=100_000):
            numbers = batch["a"].to_pylist()
            assert numbers == sorted(numbers)
            assert numbers[0] > last
            n_rows, last = n_rows + len(numbers), numbers[-1]
        lines = engine.rejected_lines()["line"].to_pylist()
    assert n_rows == 999_990
    assert lines == [2 + i for i in range(5, 1_000_000, 100_000)]


def test_json_lines(tmp_path: Path) -> None:
    file = tmp_path / "t.jsonl"
    lines = [
        '{"a b": "x", "c\\"d": 1, "e\\nf": true}',
        "",
        "no json",
        "[1]",
        '{"a b": {"x": 1}}',
        '{"a b": 2.50}\r',
    ]
    file.write_bytes("\n".join(lines).encode() + b'\n{"a b": "\xff"}\n{"a b": "\\ud83d\\ude00"}')
    with open_engine(SETTINGS, paths=[file]) as engine:
        engine.scan("t", find_tables(file))
        assert engine.fetch("SELECT * FROM t").to_pylist() == [
            {"a b": "x", 'c"d': "1", "e\nf": "true"},
            *[{"a b": None, 'c"d': None, "e\nf": None}] * 3,
            {"a b": "2.5", 'c"d': None, "e\nf": None},
            {"a b": "😀", 'c"d': None, "e\nf": None},
        ]
        assert engine.rejected_lines().num_rows == 1


def test_json_lines_that_are_too_long_are_counted(tmp_path: Path) -> None:
    file = tmp_path / "t.jsonl"
    file.write_bytes(b'{"a": "1"}\n{"a": "' + b"x" * 10_500_000 + b'"}\n{"a": "2"}\n')
    with open_engine(SETTINGS, paths=[file]) as engine:
        engine.scan("t", find_tables(file))
        assert engine.fetch("SELECT * FROM t")["a"].to_pylist() == ["1", "2"]
        assert engine.rejected_lines().num_rows == 1


def test_gzipped_parquet(tmp_path: Path) -> None:
    pq.write_table(pa.table({"a": [1, 2]}), tmp_path / "t.parquet")
    (tmp_path / "t.parquet.gz").write_bytes(gzip.compress((tmp_path / "t.parquet").read_bytes()))
    assert rows_of(tmp_path / "t.parquet.gz") == [{"a": 1}, {"a": 2}]


def test_damaged_gzipped_text_is_not_a_shorter_table(tmp_path: Path) -> None:
    def check(name: str, how: str) -> None:
        line, header = ('{"a": "%d"}\n', "") if "json" in name else ("%d\n", "a\n")
        text = header + "".join(line % i for i in range(50_000))
        file = tmp_path / f"{how} {name}"
        file.write_bytes(damaged.GZIPS[how](text.encode()))
        with pytest.raises(EngineError) as caught:
            engine.scan("t", find_tables(file))
        assert caught.value.attributes["cause"] == "BadGzipFile"
        assert caught.value.__context__ is None

    with open_engine(SETTINGS, paths=[tmp_path]) as engine:
        assert offenders(product(["t.csv.gz", "t.jsonl.gz", "[t].csv.gz"], damaged.GZIPS), check) == []


def test_gzipped_text_is_checked_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checked = []

    def noted(file: Path) -> Iterator[bytes]:
        checked.append(file)
        return unpacked_blocks(file)

    monkeypatch.setattr(duckdb_engine, "unpacked_blocks", noted)
    # What `cat` makes of two is a gzip too.
    (tmp_path / "t.csv.gz").write_bytes(gzip.compress(b"a\n1\n") + gzip.compress(b"2\n"))
    tables = find_tables(tmp_path)
    with open_engine(SETTINGS, paths=[tmp_path]) as engine:
        for _ in range(2):
            engine.scan("t", tables)
            assert engine.fetch("SELECT a FROM t")["a"].to_pylist() == ["1", "2"]
    assert checked == list(tables.files)


def test_damaged_gzipped_parquet(tmp_path: Path) -> None:
    pq.write_table(pa.table({"a": range(50_000)}), tmp_path / "t.parquet")
    tables_before = gzip.compress((tmp_path / "t.parquet").read_bytes())
    file = tmp_path / "u.parquet.gz"
    file.write_bytes(tables_before)
    tables = find_tables(file)
    file.write_bytes(tables_before[:-5_000])
    with open_engine(SETTINGS, paths=[file]) as engine, pytest.raises(EngineError) as caught:
        engine.scan("t", tables)
    assert caught.value.__context__ is None


def test_parquet_keeps_its_types_and_order_across_files(tmp_path: Path) -> None:
    pq.write_table(pa.table({"a": [2, 1], "b": ["x", None]}), tmp_path / "1.parquet")
    pq.write_table(pa.table({"b": ["y"], "a": [3]}), tmp_path / "2.parquet")
    assert rows_of(tmp_path) == [{"a": 2, "b": "x"}, {"a": 1, "b": None}, {"a": 3, "b": "y"}]
