"""Hive partitions.

Contract: the files below `key=value` folders are one table, whose keys are text columns that every query and every
single file of the table has; a path means itself, whatever its characters.
"""

import json
import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cleanroom_pipelines.engine import EngineSettings, TableFiles, find_tables, open_engine
from cleanroom_pipelines.errors import InputError

from ..offenders import offenders

SETTINGS = EngineSettings(memory_bytes=256 << 20, threads=2)
NASTY = ["it's", 'qu"ote', "a b", "é😀", "a/b", "a=b", "50%", "[x]*?", "back\\slash", "two\nlines", "$1 ? {x}"]


def write(folder: Path, name: str, number: int) -> None:
    """Write a table of one row, in the format of its suffix."""
    folder.mkdir(parents=True, exist_ok=True)
    if ".parquet" in name:
        pq.write_table(pa.table({"id": [str(number)]}), folder / name)
    elif ".csv" in name:
        (folder / name).write_text(f"id,more\n{number},x\n")
    else:
        (folder / name).write_text(json.dumps({"id": number}) + "\n")


def rows(tables: TableFiles, select: str = "*", *, paths: list[Path] | None = None) -> list[dict[str, Any]]:
    with open_engine(SETTINGS, paths=paths or tables.files) as engine:
        engine.scan("t", tables)
        return list(engine.fetch(f"SELECT {select} FROM t").to_pylist())


def escaped(value: str) -> str:
    return "".join(c if c.isalnum() else "".join(f"%{byte:02X}" for byte in c.encode()) for c in value)


@pytest.mark.parametrize("suffix", ["parquet", "csv", "jsonl"])
def test_nested_folders(tmp_path: Path, suffix: str) -> None:
    write(tmp_path / "country=CH" / "day=1", f"b.{suffix}", 2)
    write(tmp_path / "country=CH" / "day=1", f"a.{suffix}", 1)
    write(tmp_path / "country=CH" / "day=__HIVE_DEFAULT_PARTITION__", f"a.{suffix}", 3)
    write(tmp_path / "country=" / "day=02", f"a.{suffix}", 0)
    tables = find_tables(tmp_path)
    assert tables.columns == ("id", *(["more"] if suffix == "csv" else []), "country", "day")
    assert tables.partitions == ("country", "day")
    assert rows(tables, "id, country, day") == [
        {"id": "0", "country": None, "day": "02"},
        {"id": "1", "country": "CH", "day": "1"},
        {"id": "2", "country": "CH", "day": "1"},
        {"id": "3", "country": "CH", "day": None},
    ]
    assert rows(tables.select(["day"]), "*") == [{"day": "02"}, {"day": "1"}, {"day": "1"}, {"day": None}]


def test_a_single_file_keeps_its_values(tmp_path: Path) -> None:
    for number, country in enumerate(["CH", "DE"]):
        write(tmp_path / f"country={country}", "a.parquet", number)
    tables = find_tables(tmp_path)
    parts = [rows(tables.one(file)) for file in tables.files]
    assert parts == [[{"id": "0", "country": "CH"}], [{"id": "1", "country": "DE"}]]


def test_globs(tmp_path: Path) -> None:
    for number, country in enumerate(["CH", "DE"]):
        write(tmp_path / f"country={country}", "a.csv", number)
    write(tmp_path / "_temporary" / "country=CH", "a.csv", 9)
    expected = [{"id": "0", "country": "CH"}, {"id": "1", "country": "DE"}]
    for pattern in ("**/*.csv", "country=*/*.csv", "*/a.csv", "**"):
        assert rows(find_tables(f"{tmp_path}/{pattern}"), "id, country") == expected
    assert rows(find_tables(f"{tmp_path}/country=D*/*"), "id, country") == expected[1:]


def test_folders_that_are_not_partitions(tmp_path: Path) -> None:
    write(tmp_path / "day=1", "a.csv", 1)
    for name in ("below", "_temporary", ".hidden", "_day=1", "=1"):
        write(tmp_path / name, "a.csv", 2)
    write(tmp_path / "day=1" / "below", "a.csv", 2)
    write(tmp_path / "day=1", "_metadata.csv", 2)
    write(tmp_path / "day=1", ".a.csv", 2)
    assert len(find_tables(tmp_path).files) == 1
    # The folder that the caller names is no part of its table.
    assert find_tables(tmp_path / "day=1").columns == ("id", "more")
    assert find_tables(tmp_path / "day=1" / "a.csv").columns == ("id", "more")


def test_a_link_to_a_folder_is_not_followed(tmp_path: Path) -> None:
    write(tmp_path / "day=1", "a.csv", 1)
    (tmp_path / "day=1" / "again=1").symlink_to(tmp_path)
    assert len(find_tables(tmp_path).files) == 1


def test_folders_may_be_nested_deeply(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    folder = tmp_path
    for number in range(1_100):
        folder /= f"{number % 10}="
        folder.mkdir()
    (folder / "a.csv").write_text("id\n1\n")
    try:
        with pytest.raises(InputError, match="partition folders"):
            find_tables(tmp_path)
    finally:
        # Too deep for pytest to remove.
        (folder / "a.csv").unlink()
        os.removedirs(folder)


def test_links_to_files_have_the_values_of_the_folder_they_are_in(tmp_path: Path) -> None:
    write(tmp_path / "store", "a.parquet", 1)
    for day in (1, 2):
        (tmp_path / "table" / f"day={day}").mkdir(parents=True)
        (tmp_path / "table" / f"day={day}" / "a.parquet").symlink_to(tmp_path / "store" / "a.parquet")
    tables = find_tables(tmp_path / "table")
    assert rows(tables, "day") == [{"day": "1"}, {"day": "2"}]


@pytest.mark.parametrize("suffix", ["parquet", "csv", "jsonl"])
def test_nasty_values(tmp_path: Path, suffix: str) -> None:
    for number, value in enumerate(NASTY):
        write(tmp_path / "table" / f"a%20key={escaped(value)}", f"a.{suffix}", number)
    found = rows(find_tables(tmp_path / "table"), 'id, "a key"', paths=[tmp_path])
    assert {int(row["id"]): row["a key"] for row in found} == dict(enumerate(NASTY))


def test_values_that_are_not_escaped(tmp_path: Path) -> None:
    values = [value for value in NASTY if "/" not in value and "%" not in value]
    for number, value in enumerate(values):
        write(tmp_path / "table" / f"key={value}", "a.csv", number)
    found = rows(find_tables(tmp_path / "table"), "id, key", paths=[tmp_path])
    assert {int(row["id"]): row["key"] for row in found} == dict(enumerate(values))


def test_many_partitions_are_one_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from cleanroom_pipelines.engine import duckdb_engine

    for number in range(100):
        write(tmp_path / f"day={number:03d}", "a.parquet", number)
    tables = find_tables(tmp_path)
    query = duckdb_engine._parquet_query(tables.files, tables)
    assert query.count("read_parquet") == 1
    assert [(int(row["id"]), int(row["day"])) for row in rows(tables)] == [(n, n) for n in range(100)]


@pytest.mark.parametrize("suffix", ["parquet", "csv", "jsonl"])
def test_columns_named_as_the_engine_names_its_own(tmp_path: Path, suffix: str) -> None:
    names = ["file_index", "filename", "line", "c0", "file_row_number"]
    for day in (1, 2):
        folder = tmp_path / f"day={day}"
        folder.mkdir()
        if suffix == "parquet":
            pq.write_table(pa.table({name: [day % 2] for name in names}), folder / "a.parquet")
        elif suffix == "csv":
            (folder / "a.csv").write_text(f"{','.join(names)}\n{','.join(['7'] * 5)}\n")
        else:
            (folder / "a.jsonl").write_text(json.dumps(dict.fromkeys(names, 7)) + "\n")
    tables = find_tables(tmp_path)
    assert tables.columns == (*names, "day")
    assert rows(tables, "day") == [{"day": "1"}, {"day": "2"}]
    assert rows(tables.select(["day"])) == [{"day": "1"}, {"day": "2"}]


def test_a_column_of_the_file_comes_first(tmp_path: Path) -> None:
    write(tmp_path / "ID=9", "a.parquet", 1)
    tables = find_tables(tmp_path)
    assert (tables.columns, tables.partitions) == (("id",), ())
    assert rows(tables) == [{"id": "1"}]


def test_files_of_other_folders_are_an_error(tmp_path: Path) -> None:
    others = ["a.csv", "other=1/a.csv", "day=1/hour=1/a.csv", "day=1/day=2/a.csv", "day=1/DAY=2/a.csv"]

    def check(number: int, other: str) -> None:
        folder = tmp_path / str(number)
        write(folder / "day=1", "b.csv", 1)
        write((folder / other).parent, "a.csv", 2)
        with pytest.raises(InputError, match="partition folders") as caught:
            find_tables(folder)
        assert caught.value.attributes["problem"] == "unreadable"
        assert "other" not in str(caught.value)

    assert offenders(enumerate(others), check) == []
