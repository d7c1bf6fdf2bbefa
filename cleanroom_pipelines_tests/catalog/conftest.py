"""The catalogue under test, on SQLite and (marked) on PostgreSQL."""

import os
import secrets
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import create_engine, make_url, text

from cleanroom_pipelines.catalog import Catalog

from .building import Builder, Clock, Numbered


@pytest.fixture(scope="session")
def postgresql_server() -> Iterator[str]:
    """The URL of a server: the one in CLEANROOM_TEST_POSTGRESQL_URL, else one of our own for these tests."""
    given = os.environ.get("CLEANROOM_TEST_POSTGRESQL_URL")
    if given:
        yield given
        return
    if shutil.which("initdb") is None or shutil.which("pg_ctl") is None:
        pytest.skip("PostgreSQL's programs initdb and pg_ctl are not on the path")
    # Not pytest's folder: PostgreSQL refuses to run as root, and another user may not enter there.
    folder = Path(tempfile.mkdtemp(prefix="cleanroom-pg-"))
    as_user: dict[str, object] = {}
    if os.geteuid() == 0:
        shutil.chown(folder, "nobody")
        as_user = {"user": "nobody"}
    data, log = folder / "data", folder / "log"

    def run(*command: object) -> None:
        subprocess.run(
            [str(part) for part in command], check=True, cwd=folder, stdout=subprocess.DEVNULL, **as_user
        )

    try:
        run("initdb", "-D", data, "-U", "cleanroom", "-A", "trust", "-E", "UTF8", "--no-sync")
        run("pg_ctl", "-D", data, "-l", log, "-w", "-o", f"-k {folder} -c listen_addresses=''", "start")
        try:
            yield f"postgresql://cleanroom@/postgres?host={folder}"
        finally:
            run("pg_ctl", "-D", data, "-m", "immediate", "stop")
    finally:
        shutil.rmtree(folder)


@pytest.fixture(scope="session")
def migrated_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An SQLite catalogue with nothing in it; copying it is quicker than migrating for each test."""
    file = tmp_path_factory.mktemp("template") / "catalog.db"
    Catalog(f"sqlite:///{file}", clock=Clock(), token_hex=Numbered()).migrate()
    return file


@pytest.fixture
def url(empty_url: str, migrated_file: Path) -> str:
    """The URL of a catalogue with nothing in it."""
    if empty_url.startswith("sqlite"):
        shutil.copy(migrated_file, str(make_url(empty_url).database))
    return empty_url


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgresql)])
def empty_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The URL of an empty database."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path}/catalog.db"
        return
    server = make_url(request.getfixturevalue("postgresql_server")).set(drivername="postgresql+psycopg")
    schema = f"test_{secrets.token_hex(6)}"
    engine = create_engine(server, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(text(f"CREATE SCHEMA {schema}"))
    yield server.update_query_dict({"options": f"-csearch_path={schema}"}).render_as_string(hide_password=False)
    with engine.connect() as connection:
        connection.execute(text(f"DROP SCHEMA {schema} CASCADE"))
    engine.dispose()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def catalog(url: str, clock: Clock) -> Iterator[Catalog]:
    opened = Catalog(url, clock=clock, token_hex=Numbered())
    yield opened
    opened.close()


@pytest.fixture
def builder(catalog: Catalog, clock: Clock) -> Builder:
    return Builder(catalog, clock)


@pytest.fixture
def undeclared(catalog: Catalog, clock: Clock) -> Builder:
    """The same, for resources like those of the AWS API."""
    return Builder(catalog, clock, declared=False)
