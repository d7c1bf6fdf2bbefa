"""Contract: a catalogue is created on first use, also by several processes at once; its schema is that of the
table classes; an error about one that cannot be opened says what to do; no error quotes a value to be stored."""

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
from sqlalchemy import Connection, Engine, inspect, text
from sqlalchemy.orm import Session

import cleanroom_pipelines.catalog as package
from cleanroom_pipelines.catalog import Catalog, CatalogUnavailableError, Kind, TrainingDataset
from cleanroom_pipelines.catalog.database import HEAD_REVISION, VERSION_TABLE, ClashError
from cleanroom_pipelines.catalog.tables import Base
from cleanroom_pipelines.errors import CleanroomError, ConfigurationError
from cleanroom_pipelines_tests.databases import engine_on, reading, waiting_for_the_disk, writing

from .building import Builder, Numbered, dataset_spec, utc_now
from .dialects import on_both_dialects
from .watching import impatient, in_each_transaction, listening

CANARY = "kanarienvogel"


def opened(url: str) -> Catalog:
    return Catalog(url, clock=utc_now, token_hex=Numbered())


def test_migrations_end_at_the_expected_revision(tmp_path: Path) -> None:
    config = Config()
    config.set_main_option("script_location", str(Path(package.__file__).parent / "migrations"))
    assert ScriptDirectory.from_config(config).get_heads() == [HEAD_REVISION]


@on_both_dialects
def test_migrated_schema_equals_the_tables(empty_url: str) -> None:
    catalog = opened(empty_url)
    catalog.database.migrate()
    with engine_on(empty_url).connect() as connection:
        context = MigrationContext.configure(
            connection, opts={"version_table": VERSION_TABLE, "compare_type": True, "compare_server_default": True}
        )
        assert compare_metadata(context, Base.metadata) == []
    catalog.database.close()


@on_both_dialects
def test_migrating_twice_changes_nothing(empty_url: str) -> None:
    first = opened(empty_url)
    dataset = first.resources.create(dataset_spec())
    first.database.migrate()
    second = opened(empty_url)
    second.database.migrate()
    assert second.get(TrainingDataset, dataset.id) == dataset
    first.database.close()
    second.database.close()


@on_both_dialects
def test_newer_catalogue_is_rejected_unchanged(empty_url: str) -> None:
    newer = opened(empty_url)
    newer.database.migrate()
    with writing(empty_url) as session:
        session.execute(text(f"UPDATE {VERSION_TABLE} SET version_num = '9999'"))
    older = opened(empty_url)
    with pytest.raises(ConfigurationError, match="newer version"):
        older.resources.list(Kind.TRAINING_DATASET)
    newer.database.close()
    older.database.close()


@on_both_dialects
def test_failed_migration_leaves_nothing(empty_url: str) -> None:
    in_the_way = "challenges"  # the last table that the migrations make
    with writing(empty_url) as session:
        session.execute(text(f"CREATE TABLE {in_the_way} (other INTEGER)"))
    failing = opened(empty_url)
    with pytest.raises(CatalogUnavailableError):
        failing.database.migrate()
    assert inspect(engine_on(empty_url)).get_table_names() == [in_the_way]
    with writing(empty_url) as session:
        session.execute(text(f"DROP TABLE {in_the_way}"))
    failing.resources.create(dataset_spec())
    failing.database.close()


def test_sqlite_is_configured_for_concurrency_and_power_cuts(tmp_path: Path) -> None:
    wanted = {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1, "busy_timeout": 30_000}
    found = []

    def look(connection: Connection) -> None:
        found.append({name: connection.scalar(text(f"PRAGMA {name}")) for name in wanted})

    catalog = opened(f"sqlite:///{tmp_path}/c.db")
    with waiting_for_the_disk(), in_each_transaction(look):
        catalog.resources.create(dataset_spec())
        catalog.resources.list(Kind.TRAINING_DATASET)
    assert found == [wanted, wanted]


@on_both_dialects
def test_rejected_transaction_leaves_nothing(empty_url: str) -> None:
    catalog = opened(empty_url)
    dataset = catalog.resources.create(dataset_spec())
    with writing(empty_url) as session:  # its row would be stored, that of its first version not
        session.execute(text("CREATE UNIQUE INDEX one_of_each ON versions (status)"))
    with pytest.raises(ClashError):
        catalog.resources.create(dataset_spec("half-way"))
    assert catalog.resources.list(Kind.TRAINING_DATASET).items == (dataset,)
    catalog.database.close()


def test_aborted_transaction_leaves_nothing(catalog: Catalog) -> None:
    dataset = catalog.resources.create(dataset_spec())

    def break_off(session: Session, _: object) -> None:
        assert session.new, "rows were stored"
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), listening(Session, "after_flush", break_off):
        catalog.resources.create(dataset_spec("half-way"))
    assert catalog.resources.list(Kind.TRAINING_DATASET).items == (dataset,)


@on_both_dialects
@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ("CREATE UNIQUE INDEX one_of_each ON versions (progress_stage)", ClashError),
        ("ALTER TABLE versions RENAME COLUMN progress_stage TO other", CatalogUnavailableError),
    ],
    ids=["a clash", "a statement"],
)
def test_rejected_values_are_not_quoted(empty_url: str, change: str, expected: type[CleanroomError]) -> None:
    catalog = opened(empty_url)
    claims = [
        catalog.work.claim(Kind.TRAINING_DATASET, catalog.resources.create(dataset_spec(name)).id, 1, "run")
        for name in ("first", "second")
    ]
    assert None not in claims
    first, second = (claim for claim in claims if claim is not None)
    catalog.work.report_progress(first, 0.25, CANARY)
    with writing(empty_url) as session:
        session.execute(text(change))
    with pytest.raises(expected) as caught:
        catalog.work.report_progress(second, 0.5, CANARY)
    assert CANARY not in "".join(traceback.format_exception(caught.value))
    with reading(empty_url) as session:
        assert sorted(session.scalars(text("SELECT progress FROM versions"))) == [0.0, 0.25]
    catalog.database.close()


def test_invalid_urls_are_rejected() -> None:
    for bad, words in {
        "": "URL is invalid",
        "no url": "URL is invalid",
        "mysql://host/db": "neither SQLite nor PostgreSQL",
        "sqlite://": "in memory",
        "sqlite:///:memory:": "in memory",
    }.items():
        with pytest.raises(ConfigurationError, match=words) as caught:
            opened(bad)
        assert caught.value.remedy, bad


def test_missing_folder_is_reported(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="cannot be opened"):
        opened(f"sqlite:///{tmp_path}/nowhere/c.db").database.migrate()


def test_file_that_is_not_a_database_is_reported(tmp_path: Path) -> None:
    (tmp_path / "c.db").write_text("canary " * 1000)
    with pytest.raises(ConfigurationError, match="not a database") as caught:
        opened(f"sqlite:///{tmp_path}/c.db").database.migrate()
    assert "canary" not in str(caught.value)


def test_locked_database_is_reported(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/c.db"
    waiter = opened(url)
    dataset = waiter.resources.create(dataset_spec())
    with impatient(0.1), writing(url) as session:
        session.execute(text("SELECT 1"))  # the transaction begins, and holds the lock, with its first statement
        assert waiter.get(TrainingDataset, dataset.id) == dataset  # reading goes on
        with pytest.raises(CatalogUnavailableError) as caught:
            waiter.resources.create(dataset_spec("other"))
    assert caught.value.remedy
    waiter.resources.create(dataset_spec("other"))


def test_copy_without_wal_mode_is_switched(tmp_path: Path, catalog: Catalog) -> None:
    dataset = catalog.resources.create(dataset_spec())
    copy_without_wal(catalog, tmp_path / "c.db")
    assert opened(f"sqlite:///{tmp_path}/c.db").get(TrainingDataset, dataset.id) == dataset
    assert journal_mode(tmp_path / "c.db") == "wal"


def test_wal_switch_waits_for_another_writer(tmp_path: Path, catalog: Catalog) -> None:
    file = tmp_path / "c.db"
    copy_without_wal(catalog, file)
    tries: list[str] = []
    with contextlib.closing(sqlite3.connect(file, isolation_level=None)) as writer:
        # As another one that opens the same file: SQLite then says "locked" at once, whatever time was given.
        writer.execute("BEGIN IMMEDIATE")

        def traced(sql: str) -> None:
            tries.append(sql)
            if tries.count("PRAGMA journal_mode=WAL") == 3:
                writer.execute("ROLLBACK")

        with listening(Engine, "connect", lambda connection, _: connection.set_trace_callback(traced)):
            opened(f"sqlite:///{file}").database.migrate()
    assert tries.count("PRAGMA journal_mode=WAL") == 3
    assert journal_mode(file) == "wal"


def copy_without_wal(catalog: Catalog, file: Path) -> None:
    catalog.resources.copy_to(file)
    with contextlib.closing(sqlite3.connect(file)) as connection:
        connection.execute("PRAGMA journal_mode=DELETE")
    assert journal_mode(file) == "delete"


def journal_mode(file: Path) -> str:
    with contextlib.closing(sqlite3.connect(file)) as connection:
        mode: str = connection.execute("PRAGMA journal_mode").fetchone()[0]
    return mode


def test_unreachable_server_is_reported() -> None:
    pytest.importorskip("psycopg", reason="the extra postgresql is not installed")
    catalog = opened("postgresql://user:secret@127.0.0.1:1/nowhere")
    assert "secret" not in repr(catalog)
    with pytest.raises(CatalogUnavailableError, match="does not respond") as caught:
        catalog.database.migrate()
    assert "secret" not in str(caught.value)


def _names(catalog: Catalog, out: "multiprocessing.Queue[list[str]]") -> None:
    catalog.resources.create(dataset_spec("from the child"))
    out.put([record.name for record in catalog.resources.list(Kind.TRAINING_DATASET).items])


@on_both_dialects
@pytest.mark.parametrize("method", ["spawn", "fork"])
def test_catalog_can_be_sent_to_another_process(empty_url: str, method: str) -> None:
    catalog = Catalog(empty_url, clock=utc_now, token_hex=secrets.token_hex)
    catalog.resources.create(dataset_spec("from the parent"))
    processes = multiprocessing.get_context(method)
    out = processes.Queue()
    child = processes.Process(target=_names, args=(catalog, out))
    child.start()
    assert out.get(timeout=60) == ["from the parent", "from the child"]
    child.join()
    assert child.exitcode == 0
    catalog.resources.create(dataset_spec("after"))  # the parent's connections still work
    assert len(catalog.resources.list(Kind.TRAINING_DATASET).items) == 3
    catalog.database.close()


def test_catalog_and_records_can_be_pickled(url: str, builder: Builder) -> None:
    dataset, *_ = builder.chain()
    catalog = Catalog(url, clock=utc_now, token_hex=secrets.token_hex, seed_floor=5)
    copy = pickle.loads(pickle.dumps(catalog))
    assert copy.database.seed_floor == 5
    assert copy.get(TrainingDataset, dataset.id) == pickle.loads(pickle.dumps(dataset))
    version = builder.newest(dataset)
    assert pickle.loads(pickle.dumps(version)) == version
    copy.database.close()


def test_connected_catalogue_keeps_its_log_and_all_writes(tmp_path: Path) -> None:
    file = tmp_path / "catalog.db"
    catalog = Catalog(f"sqlite:///{file}", clock=utc_now, token_hex=secrets.token_hex)
    catalog.database.stay_connected()
    with ThreadPoolExecutor(16) as threads:
        made = list(
            threads.map(lambda number: catalog.resources.create(dataset_spec(name=f"Set {number}")), range(48))
        )
    assert (tmp_path / "catalog.db-wal").exists(), "a connection stays"
    assert sorted(catalog.resources.ids(Kind.TRAINING_DATASET)) == sorted(record.id for record in made)
    beside = opened(f"sqlite:///{file}")
    beside.resources.create(dataset_spec(name="Another's"))
    assert len(catalog.resources.ids(Kind.TRAINING_DATASET)) == 49, "it sees what another process writes"
    catalog.database.close()
    assert not (tmp_path / "catalog.db-wal").exists()


def test_copy_of_a_connected_catalogue_is_not_connected(tmp_path: Path) -> None:
    catalog = Catalog(f"sqlite:///{tmp_path / 'catalog.db'}", clock=utc_now, token_hex=secrets.token_hex)
    catalog.database.stay_connected()
    dataset = catalog.resources.create(dataset_spec())
    copy = pickle.loads(pickle.dumps(catalog))
    catalog.database.close()
    assert copy.get(TrainingDataset, dataset.id) == dataset
    assert not (tmp_path / "catalog.db-wal").exists(), "no connection stays"
