"""Contract: a table or query in PostgreSQL is read by ADBC over a connection that the environment names, with the
model of the same rows in a local file; its password appears nowhere."""

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sqlalchemy import make_url, text

from cleanroom_pipelines.errors import ConfigurationError, TrainingDataError
from cleanroom_pipelines.runs.installation import Settings, source_connections
from cleanroom_pipelines.uploads.checks import INTERACTIONS
from cleanroom_pipelines.uploads.sources import Connection, Sources
from cleanroom_pipelines_tests import worlds
from cleanroom_pipelines_tests.databases import engine_on, own_database

from .training import model_of

SECRET = "hunter2"


@pytest.fixture
def connections(postgresql_server: str) -> Iterator[dict[str, Connection]]:
    """A database with the rows of the small world in the table `Web`.events, with a password."""
    with own_database(postgresql_server) as url:
        with engine_on(url).begin() as database:
            database.execute(text('CREATE SCHEMA "Web"'))
            database.execute(text('CREATE TABLE "Web".events ("user" text, item text, ts bigint)'))
            rows = [{"u": user, "i": item, "t": second} for user, item, second in worlds.events()]
            database.execute(text('INSERT INTO "Web".events VALUES (:u, :i, :t)'), rows)
        secret = make_url(url).set(password=SECRET).render_as_string(hide_password=False)
        yield {"SHOP": Connection(secret)}


@pytest.mark.postgresql
@pytest.mark.parametrize("what", ["table=Web.events", 'query=SELECT "user", item, ts FROM "Web".events;'])
def test_the_model_is_that_of_local_files(
    what: str, connections: dict[str, Connection], tmp_path: Path, local_model: dict[str, bytes]
) -> None:
    assert model_of(f"adbc:shop?{what}", tmp_path, connections) == local_model
    for file in (tmp_path / "copies").rglob("*"):
        assert not file.is_file() or SECRET.encode() not in file.read_bytes()


@pytest.mark.postgresql
def test_columns_and_new_rows(connections: dict[str, Connection], tmp_path: Path) -> None:
    sources, source = Sources(tmp_path, connections), 'adbc:shop?query=SELECT count(*) AS n FROM "Web".events'
    assert sources.columns(source, INTERACTIONS) == ("n",)
    assert sources.columns("adbc:shop?table=Web.events", INTERACTIONS) == ("user", "item", "ts")
    found = []
    for _ in range(2):
        with sources.opening(source, INTERACTIONS, folder=tmp_path / "copies") as path:
            found += pq.read_table(path)["n"].to_pylist()
        with engine_on(connections["SHOP"].url).begin() as database:
            database.execute(text("INSERT INTO \"Web\".events VALUES ('a', 'b', 1)"))
    assert found == [worlds.N_EVENTS, worlds.N_EVENTS + 1]


@pytest.mark.postgresql
def test_a_query_changes_nothing(connections: dict[str, Connection], tmp_path: Path) -> None:
    sources, deleting = Sources(tmp_path, connections), 'adbc:shop?query=DELETE FROM "Web".events RETURNING *'
    with sources.opening(deleting, INTERACTIONS, folder=tmp_path / "copies"):
        pass
    counting = 'adbc:shop?query=SELECT count(*) AS n FROM "Web".events'
    with sources.opening(counting, INTERACTIONS, folder=tmp_path / "copies") as path:
        assert pq.read_table(path)["n"].to_pylist() == [worlds.N_EVENTS]


@pytest.mark.postgresql
def test_types_that_arrow_lacks_are_read(connections: dict[str, Connection], tmp_path: Path) -> None:
    query = (
        "SELECT gen_random_uuid() AS id, 1.50::numeric AS price, timestamptz '2024-01-01 00:00Z' AS ts, "
        "'x'::char(3) AS c, '{}'::jsonb AS j, ARRAY[1] AS a"
    )
    with Sources(tmp_path, connections).opening(
        f"adbc:shop?query={query}", INTERACTIONS, folder=tmp_path / "copies"
    ) as path:
        found = pq.read_table(path)
    assert found.num_rows == 1
    assert not any(isinstance(each.type, pa.BaseExtensionType) for each in found.schema)
    assert str(found["price"][0]) == "1.50"


@pytest.mark.postgresql
@pytest.mark.parametrize("reads", ["columns", "files"])
@pytest.mark.parametrize(
    "what",
    [
        "table=Web.visits",
        "table=Web..events",
        "query=SELECT CAST('hunter2' AS int)",
        "query=SELECT FROM",
        "query=DROP",
    ],
)
def test_errors_quote_nothing(what: str, reads: str, connections: dict[str, Connection], tmp_path: Path) -> None:
    sources = Sources(tmp_path, connections)
    with pytest.raises(TrainingDataError) as caught:
        if reads == "columns":
            sources.columns(f"adbc:shop?{what}", INTERACTIONS)
        else:
            with sources.opening(f"adbc:shop?{what}", INTERACTIONS, folder=tmp_path / "copies"):
                pass
    assert not any(word in str(caught.value) for word in (SECRET, "visits", "Web", "SELECT", "postgresql://"))
    assert caught.value.__suppress_context__


def test_an_unreachable_database_quotes_nothing(tmp_path: Path) -> None:
    connections = {"SHOP": Connection(f"postgresql://me:{SECRET}@127.0.0.1:1/nothing")}
    with pytest.raises(TrainingDataError) as caught:
        Sources(tmp_path, connections).columns("adbc:shop?table=t", INTERACTIONS)
    assert SECRET not in str(caught.value)
    assert "127.0.0.1" not in str(caught.value)
    assert SECRET not in repr(
        (connections, Sources(tmp_path, connections), Settings(tmp_path, connections=connections))
    )


def test_connections_come_from_the_environment() -> None:
    found = source_connections(
        {
            "CLEANROOM_SOURCE_SHOP_URL": "postgresql://a",
            "CLEANROOM_SOURCE_LAKE_2_URL": "snowflake://b",
            "CLEANROOM_SOURCE_LAKE_2_DRIVER": "snowflake",
            "CLEANROOM_SOURCE_EMPTY_URL": "",
            "CLEANROOM_SOURCE_X_DRIVER": "postgresql",
        }
    )
    assert found == {"SHOP": Connection("postgresql://a"), "LAKE_2": Connection("snowflake://b", "snowflake")}


def test_a_connection_that_is_not_set_names_its_variable(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="CLEANROOM_SOURCE_SHOP_URL"):
        Sources(tmp_path).columns("adbc:shop?table=t", INTERACTIONS)


@pytest.mark.parametrize("driver", ["../evil", "/lib/evil.so", "a.b", "Evil", ""])
def test_a_driver_is_a_name(driver: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="driver"):
        Sources(tmp_path, {"SHOP": Connection("x", driver)}).columns("adbc:shop?table=t", INTERACTIONS)


def test_any_other_driver_is_loaded_by_its_name(tmp_path: Path) -> None:
    with pytest.raises(TrainingDataError, match="cannot be read"):
        Sources(tmp_path, {"SHOP": Connection("x", "no_such_driver")}).columns("adbc:shop?table=t", INTERACTIONS)
