"""Engines that the contract is held on.

Keep out: what the contract says.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from cleanroom_pipelines.engine import Engine, EngineSettings, open_configured_engine
from cleanroom_pipelines_tests.contract.clusters import connect_server

GIVEN_URL = "CLEANROOM_CONTRACT_URL"
"""Names one engine to hold the contract on, in a process of its own: a process has one Spark application."""

_CONNECT = "connect"
_SPARK = [pytest.param(url, marks=pytest.mark.spark, id=url) for url in ("local[2]", _CONNECT)]
ENGINES = (
    [pytest.param(os.environ[GIVEN_URL], marks=pytest.mark.spark, id="given")]
    if GIVEN_URL in os.environ
    else [pytest.param(None, id="duckdb"), *_SPARK]
)

Opening = Callable[[], AbstractContextManager[Engine]]


@pytest.fixture(scope="session")
def connect_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with connect_server(tmp_path_factory.mktemp("connect")) as url:
        yield url


@pytest.fixture(params=ENGINES)
def engine_url(request: pytest.FixtureRequest) -> str | None:
    """What CLEANROOM_ENGINE_URL would say."""
    url: str | None = request.param
    return request.getfixturevalue("connect_url") if url == _CONNECT else url


@pytest.fixture
def scratch(tmp_path: Path) -> Path:
    (tmp_path / "scratch").mkdir()
    return tmp_path / "scratch"


@pytest.fixture
def open_here(engine_url: str | None, tmp_path: Path, scratch: Path) -> Opening:
    """Opens the engine on the test's own folder."""
    settings = EngineSettings(memory_bytes=1 << 30, threads=2, scratch=scratch, url=engine_url)
    return lambda: open_configured_engine(settings, paths=[tmp_path])


@pytest.fixture
def engine(open_here: Opening) -> Iterator[Engine]:
    with open_here() as opened:
        yield opened
