"""Contract: a catalogue opens by itself, from several processes at once, on first use; its schema is the
tables'; what cannot be opened says what to do; an error quotes nothing that was to be stored."""

import contextlib
import multiprocessing
import pickle
import secrets
import sqlite3
import traceback
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import text

import cleanroom_pipelines.catalog as package
from cleanroom_pipelines.catalog import Catalog, CatalogUnavailableError, Kind, database
from cleanroom_pipelines.catalog.database import HEAD_REVISION, VERSION_TABLE, ClashError
from cleanroom_pipelines.catalog.tables import Base
from cleanroom_pipelines.errors import CleanroomError, ConfigurationError

from .building import Builder, Numbered, dataset_spec, utc_now


def opened(url: str) -> Catalog:
    return Catalog(url, clock=utc_now, token_hex=Numbered())


def test_the_migrations_end_where_the_code_expects(tmp_path: Path) -> None:
    config = Config()
    config.set_main_option("script_location", str(Path(package.__file__).parent / "migrations"))
    assert ScriptDirectory.from_config(config).get_heads() == [HEAD_REVISION]


def test_the_migrated_schema_is_that_of_the_tables(empty_url: str) -> None:
    catalog = opened(empty_url)
    catalog.migrate()
    with catalog._current_engine().connect() as connection:
        context = MigrationContext.configure(
            connection, opts={"version_table": VERSION_TABLE, "compare_type": True, "compare_server_default": True}
        )
        assert compare_metadata(context, Base.metadata) == []
    catalog.close()


def test_migrating_twice_changes_nothing(empty_url: str) -> None:
    first = opened(empty_url)
    dataset = first.create(dataset_spec())
    first.migrate()
    second = opened(empty_url)
    second.migrate()
    assert second.get(Kind.TRAINING_DATASET, dataset.id) == dataset
    first.close()
    second.close()


def test_a_newer_catalogue_is_left_alone(empty_url: str) -> None:
    newer = opened(empty_url)
    newer.migrate()
    with newer._write() as session:
        session.execute(text(f"UPDATE {VERSION_TABLE} SET version_num = '9999'"))
    older = opened(empty_url)
    with pytest.raises(ConfigurationError, match="newer version"):
        older.list(Kind.TRAINING_DATASET)
    newer.close()
    older.close()


def test_a_migration_that_fails_leaves_nothing(empty_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(connection: object) -> None:
        upgrade(connection)  # type: ignore[arg-type]
        raise ZeroDivisionError

    upgrade = database._upgrade
    monkeypatch.setattr(database, "_upgrade", broken)
    failing = opened(empty_url)
    with pytest.raises(ZeroDivisionError):
        failing.migrate()
    monkeypatch.undo()
    assert database._found_revision(failing._current_engine().connect()) is None
    failing.create(dataset_spec())
    failing.close()


def test_sqlite_is_set_up_for_many_processes_and_power_cuts(tmp_path: Path) -> None:
    catalog = opened(f"sqlite:///{tmp_path}/c.db")
    with catalog._read() as session:
        settings = {
            name: session.scalar(text(f"PRAGMA {name}"))
            for name in ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")
        }
    assert settings == {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1, "busy_timeout": 30_000}


def test_a_refused_transaction_leaves_nothing(catalog: Catalog) -> None:
    dataset = catalog.create(dataset_spec())
    with pytest.raises(ZeroDivisionError), catalog._write() as session:
        session.execute(text("UPDATE resources SET name = 'half-way'"))
        raise ZeroDivisionError
    assert catalog.get(Kind.TRAINING_DATASET, dataset.id).name == "baskets"


@pytest.mark.parametrize(
    ("statement", "expected"),
    [
        ("UPDATE resources SET parent_id = :value", ClashError),
        ("UPDATE resources SET id = NULL, name = :value", ClashError),
        ("UPDATE nowhere SET name = :value", CatalogUnavailableError),
    ],
)
def test_what_the_database_refuses_is_not_quoted(
    catalog: Catalog, statement: str, expected: type[CleanroomError]
) -> None:
    dataset = catalog.create(dataset_spec())
    with pytest.raises(expected) as caught, catalog._write() as session:
        session.execute(text(statement), {"value": "canary"})
    assert "canary" not in "".join(traceback.format_exception(caught.value))
    assert catalog.get(Kind.TRAINING_DATASET, dataset.id) == dataset


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        ("", "cannot be read"),
        ("no url", "cannot be read"),
        ("mysql://host/db", "neither SQLite nor PostgreSQL"),
        ("sqlite://", "in memory"),
        ("sqlite:///:memory:", "in memory"),
    ],
)
def test_urls_that_cannot_be_used(bad: str, words: str) -> None:
    with pytest.raises(ConfigurationError, match=words) as caught:
        opened(bad)
    assert caught.value.remedy


def test_a_folder_that_does_not_exist(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="cannot be opened"):
        opened(f"sqlite:///{tmp_path}/nowhere/c.db").migrate()


def test_a_file_that_is_no_database(tmp_path: Path) -> None:
    (tmp_path / "c.db").write_text("canary " * 1000)
    with pytest.raises(ConfigurationError, match="not a database") as caught:
        opened(f"sqlite:///{tmp_path}/c.db").migrate()
    assert "canary" not in str(caught.value)


def test_a_database_that_stays_locked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "_BUSY_SECONDS", 1)
    holder, waiter = opened(f"sqlite:///{tmp_path}/c.db"), opened(f"sqlite:///{tmp_path}/c.db")
    dataset = holder.create(dataset_spec())
    with holder._write() as session:
        session.execute(text("SELECT 1"))  # the transaction begins, and holds the lock, with its first statement
        assert waiter.get(Kind.TRAINING_DATASET, dataset.id) == dataset  # reading goes on
        with pytest.raises(CatalogUnavailableError) as caught:
            waiter.create(dataset_spec("other"))
    assert caught.value.remedy
    waiter.create(dataset_spec("other"))


def test_a_copy_that_is_not_in_wal_mode_is_switched(tmp_path: Path) -> None:
    first = opened(f"sqlite:///{tmp_path}/c.db")
    dataset = first.create(dataset_spec())
    with contextlib.closing(sqlite3.connect(tmp_path / "c.db")) as connection:
        connection.execute("PRAGMA journal_mode=DELETE")
    second = opened(f"sqlite:///{tmp_path}/c.db")
    assert second.get(Kind.TRAINING_DATASET, dataset.id) == dataset
    with contextlib.closing(sqlite3.connect(tmp_path / "c.db")) as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_a_server_that_is_not_there() -> None:
    pytest.importorskip("psycopg", reason="the extra postgresql is not installed")
    catalog = opened("postgresql://user:secret@127.0.0.1:1/nowhere")
    assert "secret" not in repr(catalog)
    with pytest.raises(CatalogUnavailableError, match="does not answer") as caught:
        catalog.migrate()
    assert "secret" not in str(caught.value)


def _names(catalog: Catalog, out: "multiprocessing.Queue[list[str]]") -> None:
    catalog.create(dataset_spec("from the child"))
    out.put([record.name for record in catalog.list(Kind.TRAINING_DATASET).items])


@pytest.mark.parametrize("method", ["spawn", "fork"])
def test_a_catalog_goes_into_another_process(url: str, method: str) -> None:
    catalog = Catalog(url, clock=utc_now, token_hex=secrets.token_hex)
    catalog.create(dataset_spec("from the parent"))
    processes = multiprocessing.get_context(method)
    out = processes.Queue()
    child = processes.Process(target=_names, args=(catalog, out))
    child.start()
    assert out.get(timeout=60) == ["from the parent", "from the child"]
    child.join()
    assert child.exitcode == 0
    catalog.create(dataset_spec("after"))  # the parent's connections still work
    assert len(catalog.list(Kind.TRAINING_DATASET).items) == 3
    catalog.close()


def test_a_catalog_and_its_records_survive_pickling(url: str, builder: Builder) -> None:
    dataset, *_ = builder.chain()
    catalog = Catalog(url, clock=utc_now, token_hex=secrets.token_hex, seed_floor=5)
    copy = pickle.loads(pickle.dumps(catalog))
    assert copy.seed_floor == 5
    assert copy.get(Kind.TRAINING_DATASET, dataset.id) == pickle.loads(pickle.dumps(dataset))
    version = builder.newest(dataset)
    assert pickle.loads(pickle.dumps(version)) == version
    copy.close()


def test_a_connected_catalogue_keeps_its_log_and_loses_no_writer(tmp_path: Path) -> None:
    file = tmp_path / "catalog.db"
    catalog = Catalog(f"sqlite:///{file}", clock=utc_now, token_hex=secrets.token_hex)
    catalog.stay_connected()
    with ThreadPoolExecutor(16) as threads:
        made = list(threads.map(lambda number: catalog.create(dataset_spec(name=f"Set {number}")), range(48)))
    assert (tmp_path / "catalog.db-wal").exists(), "a connection stays"
    assert sorted(catalog.ids(Kind.TRAINING_DATASET)) == sorted(record.id for record in made)
    beside = opened(f"sqlite:///{file}")
    beside.create(dataset_spec(name="Another's"))
    assert len(catalog.ids(Kind.TRAINING_DATASET)) == 49, "it sees what another process writes"
    catalog.close()
    assert not (tmp_path / "catalog.db-wal").exists()


def test_a_copy_of_a_connected_catalogue_is_not_connected(tmp_path: Path) -> None:
    catalog = Catalog(f"sqlite:///{tmp_path / 'catalog.db'}", clock=utc_now, token_hex=secrets.token_hex)
    catalog.stay_connected()
    dataset = catalog.create(dataset_spec())
    copy = pickle.loads(pickle.dumps(catalog))
    catalog.close()
    assert copy.get(Kind.TRAINING_DATASET, dataset.id) == dataset
    assert not (tmp_path / "catalog.db-wal").exists(), "no connection stays"
