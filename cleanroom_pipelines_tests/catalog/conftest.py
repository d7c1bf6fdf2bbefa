"""The catalogue under test: on SQLite, and for tests marked `on_both_dialects` on PostgreSQL too.

A process keeps one catalogue of each kind for all its tests and empties it before each test: a new one would open
its connections and compile every statement again.
"""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from sqlalchemy import delete

from cleanroom_pipelines.catalog import Catalog
from cleanroom_pipelines.catalog.tables import Base
from cleanroom_pipelines_tests.databases import (
    own_schema,
    postgresql_server,
    without_waiting_for_the_disk,
    writing,
)

from .building import SOME_DAY, Builder, Clock, Numbered

__all__ = ["postgresql_server"]


@dataclass
class Kept:
    """A catalogue that is emptied from test to test."""

    url: str
    clock: Clock = field(default_factory=Clock)
    numbered: Numbered = field(default_factory=Numbered)

    def __post_init__(self) -> None:
        self.catalog = Catalog(self.url, clock=self.clock, token_hex=self.numbered)
        self.catalog.database.stay_connected()
        self.catalog.database.migrate()

    def empty(self) -> None:
        """Remove all rows, and begin time and ids anew."""
        with writing(self.url) as session:
            for table in reversed(Base.metadata.sorted_tables):
                session.execute(delete(table))
        self.clock.now = SOME_DAY
        self.numbered.numbers = itertools.count(1)


@pytest.fixture(scope="module", autouse=True)
def quick_disk() -> Iterator[None]:
    with without_waiting_for_the_disk():
        yield


@pytest.fixture(scope="session")
def kept_on_sqlite(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kept]:
    kept = Kept(f"sqlite:///{tmp_path_factory.mktemp('kept')}/catalog.db")
    yield kept
    kept.catalog.database.close()


@pytest.fixture(scope="session")
def kept_on_postgresql(postgresql_server: str) -> Iterator[Kept]:
    with own_schema(postgresql_server) as url:
        kept = Kept(url)
        yield kept
        kept.catalog.database.close()


@pytest.fixture
def dialect() -> str:
    """SQLite alone, unless a test is marked `on_both_dialects`."""
    return "sqlite"


@pytest.fixture
def empty_url(dialect: str, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The URL of an empty database of the test's own."""
    if dialect == "sqlite":
        yield f"sqlite:///{tmp_path}/catalog.db"
        return
    with own_schema(request.getfixturevalue("postgresql_server")) as url:
        yield url


@pytest.fixture
def kept(dialect: str, request: pytest.FixtureRequest) -> Kept:
    kept: Kept = request.getfixturevalue(f"kept_on_{dialect}")
    kept.empty()
    return kept


@pytest.fixture
def url(kept: Kept) -> str:
    """The URL of a catalogue with nothing in it."""
    return kept.url


@pytest.fixture
def clock(kept: Kept) -> Clock:
    return kept.clock


@pytest.fixture
def catalog(kept: Kept) -> Catalog:
    return kept.catalog


@pytest.fixture
def builder(catalog: Catalog, clock: Clock) -> Builder:
    return Builder(catalog, clock)


@pytest.fixture
def undeclared(catalog: Catalog, clock: Clock) -> Builder:
    """The same, for resources like those of the AWS API."""
    return Builder(catalog, clock, declared=False)
