"""Fixtures that tests of several packages share: a home, an installation whose clock stands, worlds made once.

Add here a world that several packages copy. A world of one package needs no fixture here:
`world_cache.copy(name, make, target)`.
Keep out: data and worlds of one package's tests.
"""

import gc
import os
import shutil
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from cleanroom_pipelines.execution.installation import Installation, Settings
from cleanroom_pipelines.storage import Home

from . import worlds
from .worlds import World, WorldCache

if TYPE_CHECKING:
    from .execution.room_worlds import RoomWorld
    from .serving.server import Server


def pytest_collection_finish() -> None:
    """Keep the collector from looking through all that was imported whenever a test makes many objects."""
    gc.collect()
    gc.freeze()


class StandingClock:
    """A clock that stands until it is turned."""

    def __init__(self) -> None:
        self.now = datetime(2026, 3, 1, 12, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now

    def turn(self, **parts: float) -> None:
        self.now += timedelta(**parts)


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """An empty home."""
    return Home.open(tmp_path / "home")


@pytest.fixture
def clock() -> StandingClock:
    return StandingClock()


@pytest.fixture
def installation(home: Home, clock: StandingClock) -> Installation:
    """An installation on the empty home; no floor under seeds, so that tests may be small."""
    worlds.with_catalog(home)
    return Installation(Settings(home.root, seed_floor=1), clock=clock)


@pytest.fixture(scope="session")
def world_cache(tmp_path_factory: pytest.TempPathFactory) -> WorldCache:
    """The folders that are made once per test run; pytest-xdist's workers share them."""
    base = tmp_path_factory.getbasetemp()
    return WorldCache((base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "worlds")


@pytest.fixture(scope="session")
def world(world_cache: WorldCache) -> World:
    """The files of a small clean room. All tests share them: change none and write nothing beside them."""
    return worlds.world_at(world_cache.original("files", worlds.write_world))


@pytest.fixture(scope="session")
def trained_folder(world_cache: WorldCache, world: World) -> Path:
    """The original `home` and `dagster` of a clean room with a model and no job; copy it, do not open it."""
    return world_cache.original("trained", partial(worlds.make_trained, world))


@pytest.fixture(scope="session")
def finished_folder(world_cache: WorldCache, world: World, trained_folder: Path) -> Path:
    """The original of a clean room whose job and export are done too; copy it, do not open it."""

    def make(folder: Path) -> None:
        shutil.copytree(trained_folder, folder, dirs_exist_ok=True)
        worlds.make_finished(world, folder)

    return world_cache.original("finished", make)


@pytest.fixture
def trained_home(trained_folder: Path, tmp_path: Path) -> Path:
    """A copy of the trained home; `worlds.installed(trained_home)` opens it."""
    return Path(shutil.copytree(trained_folder / "home", tmp_path / "home"))


@pytest.fixture
def finished_home(finished_folder: Path, tmp_path: Path) -> Path:
    """A copy of the finished home; `worlds.installed(finished_home)` opens it."""
    return Path(shutil.copytree(finished_folder / "home", tmp_path / "home"))


@pytest.fixture
def data_room(world_cache: WorldCache, tmp_path: Path) -> "Iterator[RoomWorld]":
    """A copy of a data room that has taken in both sides' files, opened with its Dagster instance.

    Its seeds of the type "rare" count as too few.
    """
    from .execution.room_worlds import make_data_room, open_copied_room

    world_cache.copy("data room", make_data_room, tmp_path / "data-room")
    with open_copied_room(tmp_path / "data-room") as room:
        yield room


@pytest.fixture(scope="session")
def shared_server(tmp_path_factory: pytest.TempPathFactory) -> "Iterator[Server]":
    """A running `cleanroom serve` without a worker, which limits nobody's requests.

    Its tests bring accounts and users of their own, and leave nothing that others would stumble over.
    """
    from .serving.server import serving

    home = tmp_path_factory.mktemp("shared-server") / "home"
    with serving(home, "--no-worker", environment={"CLEANROOM_REQUESTS_PER_SECOND": "100000"}) as server:
        yield server
