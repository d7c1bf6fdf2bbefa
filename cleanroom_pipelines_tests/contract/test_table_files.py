"""Contract: every engine reads the same tables: partitions, types, names and forms of text.

`test_engines` tests queries of them.
"""

import gzip
import io
import uuid
from decimal import Decimal
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cleanroom_pipelines.engine import Engine, find_tables, type_runs
from cleanroom_pipelines.errors import InputError
from cleanroom_pipelines_tests.contract.conftest import wherever_it_runs

UUID = uuid.UUID("12345678-1234-5678-1234-567812345678")
ARRAYS = [
    (pa.array([UUID.bytes], pa.uuid()), str(UUID)),
    (pa.array([Decimal(10**37)], pa.decimal128(38, 0)), Decimal(10**37)),
    (pa.array([b"ab"]), b"ab"),
    (pa.array([b"ab"], pa.binary(2)), b"ab"),
    (pa.array([b"ab"], pa.large_binary()), b"ab"),
    (pa.array(["a"]).dictionary_encode(), "a"),
    (pa.array([7]).dictionary_encode(), 7),
    (pa.array(["a"], pa.string_view()), "a"),
    (pa.array(["a"], pa.large_string()), "a"),
    (pa.ExtensionArray.from_storage(pa.json_(), pa.array(['{"a": 1}'])), '{"a": 1}'),
    (pa.ExtensionArray.from_storage(pa.opaque(pa.int64(), "other", "none"), pa.array([7])), 7),
    (pa.nulls(1), None),
]


def rows(engine: Engine, sql: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = engine.fetch(sql).to_pylist()
    return found


@wherever_it_runs
def test_partitions(engine: Engine, tmp_path: Path) -> None:
    values = ["CH", "CH", "it's", "a b\\%", None]
    expected = [{"a": str(number), "n": str(number), "key": value} for number, value in enumerate(values)]
    for suffix in ("parquet", "parquet.gz", "csv"):
        for number, value in enumerate(values):
            name = "__HIVE_DEFAULT_PARTITION__" if value is None else quote(value)
            file = tmp_path / suffix / f"n={number}" / f"key={name}" / f"a.{suffix}"
            file.parent.mkdir(parents=True)
            with io.BytesIO() as sink:
                pq.write_table(pa.table({"a": [number], "at": pa.array([number], pa.timestamp("ns"))}), sink)
                content = f"a\n{number}\n".encode() if suffix == "csv" else sink.getvalue()
            file.write_bytes(gzip.compress(content) if suffix.endswith("gz") else content)
        tables = find_tables(tmp_path / suffix)
        engine.scan("t", tables)
        found = rows(engine, "SELECT CAST(a AS VARCHAR) AS a, n, key FROM t ORDER BY a")
        assert found == expected, suffix
        engine.scan("one", tables.one(tables.files[2]))
        found = rows(engine, "SELECT CAST(a AS VARCHAR) AS a, n, key FROM one")
        assert found == expected[2:3], suffix


@wherever_it_runs
def test_types_of_parquet(engine: Engine, tmp_path: Path) -> None:
    found = []
    for number, (array, _) in enumerate(ARRAYS):
        pq.write_table(pa.table({"a": array, "b": [1]}), tmp_path / f"{number}.parquet")
        engine.scan("t", find_tables(tmp_path / f"{number}.parquet"))
        found += [row["a"] for row in rows(engine, "SELECT a, b FROM t")]
    assert found == [value for _, value in ARRAYS]
    pq.write_table(pa.table({f"c{n}": array for n, (array, _) in enumerate(ARRAYS)}), tmp_path / "all.parquet")
    engine.scan("t", find_tables(tmp_path / "all.parquet").select(["c6"]))
    assert rows(engine, "SELECT * FROM t") == [{"c6": 7}]


def test_repeated_names_of_parquet(engine: Engine, tmp_path: Path) -> None:
    for number, names in enumerate([["m", "a", "m"], ["a", "n", "N"]]):
        table = pa.Table.from_arrays([pa.array([1]), pa.array([2]), pa.array([3])], names)
        pq.write_table(table, tmp_path / f"{number}.parquet")
        engine.scan(f"t{number}", find_tables(tmp_path / f"{number}.parquet"))
    assert rows(engine, "SELECT t0.a AS a, t1.a AS b FROM t0, t1") == [{"a": 2, "b": 1}]


def test_files_with_different_types_or_columns(engine: Engine, tmp_path: Path) -> None:
    pq.write_table(pa.table({"id": [7], "a": ["x"], "b": [1]}), tmp_path / "1.parquet")
    pq.write_table(pa.table({"a": ["y"], "id": ["07"]}), tmp_path / "2.parquet")
    tables = find_tables(tmp_path)
    with pytest.raises(InputError):
        engine.scan("t", tables)
    engine.scan("t", tables.select(["a"]))
    assert rows(engine, "SELECT a FROM t ORDER BY a") == [{"a": "x"}, {"a": "y"}]
    found = []
    for run, _ in type_runs(tables, ["id"]):
        engine.scan("t", run)
        found += [row["id"] for row in rows(engine, "SELECT id FROM t")]
    assert found == [7, "07"]


TEXTS = {
    "backslashes.csv": (b'a,b\n1,"5\\" screen"\n2,""\n', [("1", '5" screen'), ("2", None)]),
    "names.csv": (b",a,n,n,\n0,1,x,y,z\n", [("1",)]),
    "blank.csv.zst": (b'a\n\n1\n\n""\n', [("1",), (None,)]),
    "part-0000": (b'{"a": 1}\n', [("1",)]),
    "cells.tsv": (b"a\tb\n1,5\t2\n", [("1,5", "2")]),
}


def test_text_files_of_every_form(engine: Engine, tmp_path: Path) -> None:
    found = {}
    for name, (content, _) in TEXTS.items():
        packed = pa.compress(content, codec="zstd", asbytes=True) if name.endswith("zst") else content
        (tmp_path / name).write_bytes(packed)
        engine.scan("t", find_tables(tmp_path / name))
        found[name] = [tuple(row.values()) for row in rows(engine, "SELECT * FROM t ORDER BY a NULLS LAST")]
        assert engine.rejected_lines().num_rows == 0, name
    assert found == {name: expected for name, (_, expected) in TEXTS.items()}


def test_invalid_encodings_matter_only_in_the_columns_read(engine: Engine, tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_bytes("id,city\n1,Zürich\n2,Bern\n".encode("cp1252"))
    tables = find_tables(tmp_path / "t.csv")
    engine.scan("t", tables.select(["id"]))
    assert rows(engine, "SELECT id FROM t ORDER BY id") == [{"id": "1"}, {"id": "2"}]
    engine.scan("t", tables)
    assert rows(engine, "SELECT city FROM t") == [{"city": "Bern"}]
    assert engine.rejected_lines()["reason"].to_pylist() == ["INVALID ENCODING"]
