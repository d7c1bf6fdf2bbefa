"""Databases for tests: one PostgreSQL server for a whole run, and direct access to a catalogue's rows.

Lives here: what all of a process's databases share, starting that server once however many xdist workers run, a
database or schema of a test's own on it, and sessions that read and write a catalogue past its rules
(`reading(url_of(installation))`).
Add here when a test needs a state of the database that the catalogue itself does not make or show.
Keep out: what a catalogue holds (`catalog/building.py`).
"""

import fcntl
import os
import secrets
import shutil
import sqlite3
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import IO, Any

import pytest
from sqlalchemy import Connection, Engine, NullPool, Pool, create_engine, event, make_url, text
from sqlalchemy.dialects.sqlite.pysqlite import SQLiteDialect_pysqlite
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session
from sqlalchemy.util import LRUCache

from cleanroom_pipelines.runs.installation import Installation

GIVEN_SERVER = "CLEANROOM_TEST_POSTGRESQL_URL"
"""Names a running server to test on instead of one of our own."""

# Nothing of the server outlives the tests, so nothing needs to reach the disk.
_SERVER_SETTINGS = {
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    "max_connections": "200",
}
_WRITES = "test_writes"


# --- A catalogue's rows ---


def url_of(installation: Installation) -> str:
    """Where an installation's catalogue is."""
    return installation.settings.catalog_url or installation.home.catalog_url


@contextmanager
def reading(url: str) -> Iterator[Session]:
    """One transaction that sees one state of the rows."""
    with Session(engine_on(url)) as session:
        yield session


@contextmanager
def writing(url: str) -> Iterator[Session]:
    """One transaction that changes rows, under the database's constraints but none of the catalogue's rules."""
    with Session(engine_on(url).execution_options(**{_WRITES: True})) as session, session.begin():
        yield session


@cache
def engine_on(url: str) -> Engine:
    """SQLAlchemy's engine on a catalogue; between transactions it keeps no connection."""
    named = make_url(url)
    if named.get_backend_name() == "postgresql":
        return create_engine(named.set(drivername="postgresql+psycopg"), poolclass=NullPool)
    engine = create_engine(named, poolclass=NullPool)
    event.listen(engine, "connect", _set_up_sqlite)
    event.listen(engine, "begin", _begin_sqlite)
    return engine


def _set_up_sqlite(connection: object, _record: object) -> None:
    connection.isolation_level = None  # type: ignore[attr-defined] # the driver's own transactions begin too late
    connection.execute("PRAGMA foreign_keys=ON")  # type: ignore[attr-defined]
    connection.execute("PRAGMA busy_timeout=30000")  # type: ignore[attr-defined]


def _begin_sqlite(connection: Connection) -> None:
    writes = connection.get_execution_options().get(_WRITES)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


@contextmanager
def database_away() -> Iterator[None]:
    """No engine of this process gets a connection."""

    def fail_to_connect(_connection: object) -> None:
        raise OperationalError("connect", None, OSError("the server closed the connection"))

    event.listen(Engine, "engine_connect", fail_to_connect)
    try:
        yield
    finally:
        event.remove(Engine, "engine_connect", fail_to_connect)


# --- Statements ---


_COMPILED: LRUCache[Any, Any] = LRUCache(3_000)


def share_compiled_statements() -> None:
    """Let all SQLite databases of this process share what SQLAlchemy has compiled, which holds no values.

    Each test opens databases of its own, and compiled the same statements anew: 47 tests of the catalogue took
    16.9 CPU seconds, and take 13.7.
    """
    SQLiteDialect_pysqlite.__hash__ = lambda dialect: hash(type(dialect))  # type: ignore[method-assign]
    SQLiteDialect_pysqlite.__eq__ = lambda one, other: type(one) is type(other)  # type: ignore[method-assign]
    event.listen(Engine, "engine_connect", _use_shared_statements)


def _use_shared_statements(connection: Connection) -> None:
    if type(connection.dialect) is SQLiteDialect_pysqlite:
        connection.engine._compiled_cache = _COMPILED


# --- The disk ---


# How many bodies of `without_waiting_for_the_disk` are under way, and whether one inside them waits again.
_n_not_waiting = 0
_waits_again = False


@contextmanager
def without_waiting_for_the_disk() -> Iterator[None]:
    """Let no SQLite database of this process wait until the disk has what was written.

    That guards against a power cut, which no test makes; what a killed process has written stays without. A commit
    waits some ten milliseconds for it.
    """
    global _n_not_waiting  # noqa: PLW0603 - of the process, as SQLAlchemy's listeners are
    if not event.contains(Pool, "checkout", _forgo_the_disk):
        event.listen(Pool, "checkout", _forgo_the_disk)
    _n_not_waiting += 1
    try:
        yield
    finally:
        _n_not_waiting -= 1


@contextmanager
def waiting_for_the_disk() -> Iterator[None]:
    """What holds without `without_waiting_for_the_disk`, within it."""
    global _waits_again  # noqa: PLW0603 - as above
    _waits_again = True
    try:
        yield
    finally:
        _waits_again = False


def _forgo_the_disk(connection: object, _record: object, _proxy: object) -> None:
    if _n_not_waiting and not _waits_again and isinstance(connection, sqlite3.Connection):
        connection.execute("PRAGMA synchronous=OFF")


# --- PostgreSQL ---


@pytest.fixture(scope="session")
def postgresql_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of the run's one server: the one in CLEANROOM_TEST_POSTGRESQL_URL, else one that is started."""
    if given := os.environ.get(GIVEN_SERVER):
        yield given
        return
    if shutil.which("initdb") is None or shutil.which("pg_ctl") is None:
        pytest.skip("PostgreSQL's programs initdb and pg_ctl are not on the path")
    folder = tmp_path_factory.getbasetemp()
    # xdist gives each of its workers a folder in the run's.
    with shared_server(folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder) as url:
        yield url


@contextmanager
def shared_server(folder: Path) -> Iterator[str]:
    """The URL of a server that all processes with this folder share: the first starts it, the last one stops it.

    Each holds a lock while it uses the server, which the system takes from a process that dies.
    """
    record = folder / "postgresql"
    with (folder / "postgresql.door").open("w") as door, (folder / "postgresql.users").open("w") as users:
        with _locked(door):
            if not record.exists():
                record.write_text(str(_start_server()))
            fcntl.flock(users, fcntl.LOCK_SH)
        place = Path(record.read_text())
        try:
            yield f"postgresql://cleanroom@/postgres?host={place}"
        finally:
            with _locked(door):
                fcntl.flock(users, fcntl.LOCK_UN)
                if _is_free(users):
                    record.unlink()
                    _stop_server(place)


@contextmanager
def _locked(file: IO[str]) -> Iterator[None]:
    fcntl.flock(file, fcntl.LOCK_EX)
    try:
        yield
    finally:
        fcntl.flock(file, fcntl.LOCK_UN)


def _is_free(users: IO[str]) -> bool:
    try:
        fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _start_server() -> Path:
    # Not pytest's folder: PostgreSQL refuses to run as root, another user may not enter there, and the path of a
    # socket must be short.
    folder = Path(tempfile.mkdtemp(prefix="cleanroom-pg-"))
    if os.geteuid() == 0:
        shutil.chown(folder, "nobody")
    settings = " ".join(f"-c {name}={value}" for name, value in _SERVER_SETTINGS.items())
    try:
        _run(folder, "initdb", "-D", "data", "-U", "cleanroom", "-A", "trust", "-E", "UTF8", "--no-sync")
        options = f"-k {folder} -c listen_addresses='' {settings}"
        _run(folder, "pg_ctl", "-D", "data", "-l", "log", "-w", "-o", options, "start")
    except BaseException:
        shutil.rmtree(folder)
        raise
    return folder


def _stop_server(folder: Path) -> None:
    try:
        _run(folder, "pg_ctl", "-D", "data", "-m", "immediate", "stop")
    finally:
        shutil.rmtree(folder)


def _run(folder: Path, *command: str) -> None:
    user = "nobody" if os.geteuid() == 0 else None
    subprocess.run(command, check=True, cwd=folder, stdout=subprocess.DEVNULL, user=user)


@contextmanager
def own_database(server: str) -> Iterator[str]:
    """The URL of an empty database of a test's own."""
    name = f"test_{secrets.token_hex(6)}"
    _execute(server, f"CREATE DATABASE {name}")
    try:
        yield make_url(server).set(database=name).render_as_string(hide_password=False)
    finally:
        _execute(server, f"DROP DATABASE {name} WITH (FORCE)")


@contextmanager
def own_schema(server: str) -> Iterator[str]:
    """The URL of an empty schema of a test's own: lighter than a database."""
    name = f"test_{secrets.token_hex(6)}"
    _execute(server, f"CREATE SCHEMA {name}")
    try:
        named = make_url(server).set(drivername="postgresql+psycopg")
        yield named.update_query_dict({"options": f"-csearch_path={name}"}).render_as_string(hide_password=False)
    finally:
        _execute(server, f"DROP SCHEMA {name} CASCADE")


def _execute(server: str, statement: str) -> None:
    with engine_on(server).connect() as connection:
        connection.execution_options(isolation_level="AUTOCOMMIT").execute(text(statement))
