"""Fixtures that tests of several packages share: a home, an installation with a fixed clock, worlds made once.

Also here: how many examples property tests try, and the count of the tests that pytest collected.
Add here a world that several packages copy. A world of one package needs no fixture here:
`world_cache.copy(name, make, target)`.
Keep out: data and worlds of one package's tests.
"""

import gc
import os
import shutil
import signal
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

from cleanroom_pipelines.runs.installation import Installation, Settings
from cleanroom_pipelines.storage import Home, open_files

from . import worlds
from .collecting import MARKS, marks_of, place_of
from .databases import share_compiled_statements
from .worlds import World, WorldCache

if TYPE_CHECKING:
    from moto.server import ThreadedMotoServer

    from cleanroom_pipelines_tests.object_stores import ObjectStore
    from cleanroom_pipelines_tests.runs.room_worlds import RoomWorld
    from cleanroom_pipelines_tests.server.server import Server

# The same examples in every run of CI; HYPOTHESIS_PROFILE=nightly looks for new ones, and for longer.
settings.register_profile("ci", max_examples=50, deadline=None, derandomize=True, database=None)
settings.register_profile("nightly", max_examples=1_000, deadline=None, print_blob=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))

share_compiled_statements()


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Keep the marks of all that was collected, before `-m` leaves some of it out."""
    config.stash[MARKS] = marks_of(items)
    # With two workers the longest modules first: none is left alone with one of them at the end.
    items.sort(key=lambda item: place_of(item.path))


def pytest_collection_finish() -> None:
    """Keep the collector from looking through all that was imported whenever a test makes many objects."""
    gc.collect()
    gc.freeze()


def pytest_unconfigure() -> None:
    """Let the collector take everything again, so that libraries find nothing left at the end."""
    gc.unfreeze()
    gc.collect()


class StandingClock:
    """A clock that stands until it is turned."""

    def __init__(self) -> None:
        self.now = datetime(2026, 3, 1, 12, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now

    def turn(self, **parts: float) -> None:
        self.now += timedelta(**parts)


@pytest.fixture(autouse=True)
def _sigterm_ends_what_is_started() -> None:
    """Let what a test starts end when it is told to, also where the tests run in the background of a script.

    SIGINT is ignored there, Dagster gives SIGTERM the handler of SIGINT, and a child inherits what is ignored.
    """
    if signal.getsignal(signal.SIGTERM) is signal.SIG_IGN:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


@pytest.fixture(autouse=True, scope="session")
def _fresh_files_rest(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Where the kernel cannot tell who writes a file, let dropped ones be taken without the minute of quiet."""
    path = tmp_path_factory.mktemp("resting") / "fresh"
    path.touch()
    if open_files.may_still_be_written(path, time.time()):
        open_files.QUIET_SECONDS = float("-inf")


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """An empty home."""
    return Home.open(tmp_path / "home")


@pytest.fixture(scope="session")
def store_server() -> Iterator["ThreadedMotoServer"]:
    """The server of `object_stores.empty_store`, one for all tests of a process: its state is the process's."""
    from .object_stores import running_server

    with running_server() as server:
        yield server


@pytest.fixture
def store(
    store_server: "ThreadedMotoServer", tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator["ObjectStore"]:
    """An empty store with the bucket `shop`, which the operator's profile can read."""
    from .object_stores import PROFILE, empty_store

    with empty_store(store_server, tmp_path) as running:
        monkeypatch.setenv("AWS_PROFILE", PROFILE)
        running.client().create_bucket(Bucket="shop")
        yield running


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
    from cleanroom_pipelines_tests.runs.room_worlds import make_data_room, open_copied_room

    world_cache.copy("data room", make_data_room, tmp_path / "data-room")
    with open_copied_room(tmp_path / "data-room") as room:
        yield room


@pytest.fixture(scope="session")
def shared_server(tmp_path_factory: pytest.TempPathFactory) -> "Iterator[Server]":
    """A running `cleanroom serve` without a worker, which limits nobody's requests.

    Its tests bring accounts and users of their own, and leave nothing that others would stumble over.
    """
    from cleanroom_pipelines_tests.server.server import serving

    home = tmp_path_factory.mktemp("shared-server") / "home"
    most = ("REQUESTS_PER_SECOND", "MAX_ROOMS", "MAX_LABS", "MAX_UPLOADS")
    with serving(home, "--no-worker", environment={f"CLEANROOM_{name}": "100000" for name in most}) as server:
        yield server
