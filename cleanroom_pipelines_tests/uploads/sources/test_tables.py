"""Contract: Iceberg and Delta tables are read at a snapshot, with the model of the same rows in a local file; a
new snapshot costs only its new files; errors never contain text of the libraries."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cleanroom_pipelines.errors import ConfigurationError, StatusCode, TrainingDataError
from cleanroom_pipelines.uploads.checks import INTERACTIONS
from cleanroom_pipelines.uploads.sources import Sources
from cleanroom_pipelines_tests import worlds
from cleanroom_pipelines_tests.object_stores import ObjectStore

from .training import DAYS, model_of

ROWS = worlds.events()
SCHEMA = pa.schema([("user", pa.string()), ("item", pa.string()), ("ts", pa.int64()), ("day", pa.string())])


def day(number: int) -> pa.Table:
    """The rows of a day, in a table partitioned by day."""
    users, items, seconds = zip(*ROWS[number::DAYS], strict=True)
    return pa.table([users, items, seconds, [str(number)] * len(users)], schema=SCHEMA)


class Delta:
    """A Delta table of the files system."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "a b" / "events"

    @property
    def source(self) -> str:
        return f"delta+file://{self.path}"

    def append(self, rows: pa.Table) -> str:
        from deltalake import DeltaTable, write_deltalake

        write_deltalake(self.path, rows, mode="append", partition_by=["day"])
        return str(DeltaTable(self.path).version())


class Iceberg:
    """An Iceberg table of a catalogue in SQLite."""

    source = "iceberg://shop/web.events"

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch) -> None:
        from pyiceberg.utils.config import Config

        patch.setenv("PYICEBERG_CATALOG__SHOP__TYPE", "sql")
        patch.setenv("PYICEBERG_CATALOG__SHOP__URI", f"sqlite:///{folder}/catalog.db")
        patch.setenv("PYICEBERG_CATALOG__SHOP__WAREHOUSE", f"file://{folder}/warehouse")
        patch.setattr("pyiceberg.catalog._ENV_CONFIG", Config())  # it was read when pyiceberg was imported
        self._table: Any = None

    def append(self, rows: pa.Table) -> str:
        from pyiceberg.catalog import load_catalog

        if self._table is None:
            catalog = load_catalog("shop")
            catalog.create_namespace("web")
            self._table = catalog.create_table("web.events", schema=rows.schema)
        self._table.append(rows)
        return str(self._table.current_snapshot().snapshot_id)

    def delete(self, condition: str) -> None:
        self._table.delete(condition)


Tables = Delta | Iceberg


@pytest.fixture(params=["delta", "iceberg"])
def table(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tables:
    return Delta(tmp_path) if request.param == "delta" else Iceberg(tmp_path, monkeypatch)


def sorted_rows(table: pa.Table) -> list[dict[str, Any]]:
    return sorted(table.to_pylist(), key=lambda row: tuple(row.values()))


def opened(source: str, tmp_path: Path) -> pa.Table:
    with Sources(tmp_path).opening(source, INTERACTIONS, folder=tmp_path / "copies") as path:
        return pq.read_table(path)


def test_the_model_is_that_of_local_files_and_a_new_day_is_all_that_is_read(
    table: Tables, tmp_path: Path, local_model: dict[str, bytes]
) -> None:
    for number in range(DAYS - 1):
        table.append(day(number))
    model_of(table.source, tmp_path, cached=True)
    places = [tmp_path / "cache", tmp_path / "copies"]
    before = {path: path.stat().st_mtime_ns for place in places for path in place.rglob("*.parquet")}
    assert len(before) == 2 * (DAYS - 1)
    table.append(day(DAYS - 1))
    assert model_of(table.source, tmp_path, cached=True) == local_model
    after = {path: path.stat().st_mtime_ns for place in places for path in place.rglob("*.parquet")}
    assert len(after) == 2 * DAYS
    assert before.items() <= after.items()


def test_an_earlier_snapshot_is_read_as_it_was(table: Tables, tmp_path: Path) -> None:
    first = table.append(day(0))
    table.append(day(1))
    assert sorted_rows(opened(f"{table.source}@{first}", tmp_path)) == sorted_rows(day(0))
    assert opened(table.source, tmp_path).num_rows == day(0).num_rows + day(1).num_rows
    [earlier] = [
        found
        for path in (tmp_path / "copies").glob("*/manifest.json")
        if (found := json.loads(path.read_text()))["snapshot"] == first
    ]
    assert earlier["n_rows"] == day(0).num_rows
    assert earlier["source"] == table.source.partition("@")[0]


def test_rows_that_an_iceberg_table_deleted_are_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = Iceberg(tmp_path, monkeypatch)
    table.append(day(0))
    assert opened(table.source, tmp_path).num_rows == day(0).num_rows
    table.delete("item == 'item-00'")
    assert "item-00" not in opened(table.source, tmp_path)["item"].to_pylist()


def test_columns_are_read_without_rows(table: Tables, tmp_path: Path) -> None:
    table.append(day(0))
    assert Sources(tmp_path).columns(table.source, INTERACTIONS) == ("user", "item", "ts", "day")
    assert not (tmp_path / "copies").exists()


@pytest.mark.parametrize("reads", ["columns", "files"])
def test_what_is_missing_is_one_sentence(reads: str, table: Tables, tmp_path: Path) -> None:
    table.append(day(0))
    for source in (f"{table.source}@99", table.source.replace("events", "visits")):
        with pytest.raises(TrainingDataError) as caught:
            if reads == "columns":
                Sources(tmp_path).columns(source, INTERACTIONS)
            else:
                opened(source, tmp_path)
        assert caught.value.status_code in (StatusCode.TRAINING_DATA_NOT_FOUND, StatusCode.TRAINING_DATA_INVALID)
        assert str(tmp_path) not in str(caught.value)
        assert "visits" not in str(caught.value)
        assert caught.value.remedy


def test_a_damaged_file_is_an_error_without_cells(tmp_path: Path) -> None:
    table = Delta(tmp_path)
    table.append(day(0))
    [file] = table.path.rglob("*.parquet")
    file.write_bytes(file.read_bytes()[:200])
    with pytest.raises(TrainingDataError) as caught:
        opened(table.source, tmp_path)
    assert "user-" not in str(caught.value)
    assert caught.value.__suppress_context__


def test_a_delta_table_in_a_store_is_read_with_the_operators_profile(store: ObjectStore, tmp_path: Path) -> None:
    table = Delta(tmp_path)
    table.append(day(0))
    for file in table.path.rglob("*"):
        if file.is_file():
            store.put("shop", f"tables/events/{file.relative_to(table.path)}", file.read_bytes())
    options = f"?endpoint_override={store.url.removeprefix('http://')}&scheme=http"
    assert opened(f"delta+s3://shop/tables/events@0{options}", tmp_path).num_rows == day(0).num_rows
    assert Sources(tmp_path).columns(f"delta+s3://shop/tables/events{options}", INTERACTIONS)[0] == "user"


@pytest.mark.parametrize("source", ["delta+file:///x", "iceberg://shop/web.events", "adbc:shop?table=t"])
def test_a_missing_library_names_its_extra(source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from cleanroom_pipelines.uploads.sources import Connection

    def missing(name: str) -> None:
        raise ImportError(name)

    monkeypatch.setattr("cleanroom_pipelines.uploads.sources.tables.import_module", missing)
    with pytest.raises(ConfigurationError, match="not installed") as caught:
        Sources(tmp_path, {"SHOP": Connection("postgresql://x")}).columns(source, INTERACTIONS)
    assert "pip install" in caught.value.remedy
