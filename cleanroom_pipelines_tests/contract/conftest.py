"""The engines on which the contract is tested.

Keep out: the contract itself.

The meaning of a query depends on one translation and one Spark, wherever Spark runs, so DuckDB and Spark in this
process (`local[2]`) test all queries. Spark Connect and a cluster of other processes differ in how they are
reached: sessions and their settings, values and Arrow tables on the wire, functions that are sent, addresses of
files, size limits, and the content of errors. The tests of these are marked `wherever_it_runs`: they also run on
Connect, and on a standalone cluster, in a process of its own (`test_on_a_standalone_cluster`).
"""

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from cleanroom_pipelines.engine import Engine, EngineSettings, open_configured_engine
from cleanroom_pipelines_tests.contract.clusters import connect_server, write_settings

GIVEN_URL = "CLEANROOM_CONTRACT_URL"
"""Names one engine to hold the contract on, in a process of its own: a process has one Spark application."""

_CONNECT = "connect"
_SPARK_HERE = "local[2]"
_GIVEN = [pytest.param(os.environ.get(GIVEN_URL), marks=pytest.mark.spark, id="given")]
_HERE = [pytest.param(None, id="duckdb"), pytest.param(_SPARK_HERE, marks=pytest.mark.spark, id=_SPARK_HERE)]
_BESIDE = [pytest.param(_CONNECT, marks=pytest.mark.spark, id=_CONNECT)]

wherever_it_runs = pytest.mark.parametrize(
    "engine_url", _GIVEN if GIVEN_URL in os.environ else [*_HERE, *_BESIDE], indirect=True
)

Opening = Callable[[], AbstractContextManager[Engine]]


@pytest.fixture(scope="package", autouse=True)
def spark_settings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The settings of Spark in this process and in processes that it starts."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SPARK_CONF_DIR", str(write_settings(tmp_path_factory.mktemp("spark-conf"))))
        yield


@pytest.fixture(scope="package")
def spark_here(spark_settings: None) -> Iterator[str]:
    """The address of Spark in this process, which stays open for all tests of the package that use it.

    Otherwise it would end half a minute after its last use, and start again for the next test.
    """
    with open_configured_engine(EngineSettings(memory_bytes=1 << 30, url=_SPARK_HERE)):
        yield _SPARK_HERE


@pytest.fixture(scope="package")
def connect_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with connect_server(tmp_path_factory.mktemp("connect")) as url:
        yield url


@pytest.fixture(params=_HERE)
def engine_url(request: pytest.FixtureRequest) -> str | None:
    """The value of CLEANROOM_ENGINE_URL."""
    url: str | None = request.param
    shared = {_CONNECT: "connect_url", _SPARK_HERE: "spark_here"}
    return request.getfixturevalue(shared[url]) if url in shared else url


@pytest.fixture
def scratch(tmp_path: Path) -> Path:
    (tmp_path / "scratch").mkdir()
    return tmp_path / "scratch"


@pytest.fixture
def open_here(engine_url: str | None, tmp_path: Path, scratch: Path) -> Opening:
    """Function that opens the engine on the test's own folder."""
    settings = EngineSettings(memory_bytes=1 << 30, threads=2, scratch=scratch, url=engine_url)
    return lambda: open_configured_engine(settings, paths=[tmp_path])


@pytest.fixture
def engine(open_here: Opening) -> Iterator[Engine]:
    with open_here() as opened:
        yield opened
