"""Databases that do not wait for the disk, and rooms that are created once and copied."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from cleanroom_pipelines.catalog import Kind
from cleanroom_pipelines.runs.installation import Installation, Settings

from .. import worlds
from ..conftest import StandingClock
from ..databases import without_waiting_for_the_disk
from ..worlds import WorldCache
from .building import Inbox, make_room


@pytest.fixture(scope="session", autouse=True)
def unsynced() -> Iterator[None]:
    """Wait for no disk: nothing of these tests must survive a power cut."""
    with without_waiting_for_the_disk():
        yield


@pytest.fixture
def inbox(world_cache: WorldCache, clock: StandingClock, tmp_path: Path) -> Inbox:
    """The inbox of a configured model whose parents are finished; the clock stands."""

    def make(folder: Path) -> None:
        installation = Installation(Settings(folder / "home", seed_floor=1), clock=StandingClock())
        worlds.with_catalog(installation.home)
        _ = installation.key  # made before anything is cut off
        make_room(installation.catalog)
        installation.catalog.database.close()

    original = world_cache.original("room without work", make)
    shutil.copytree(original / "home", tmp_path / "home")
    installation = Installation(Settings(tmp_path / "home", seed_floor=1), clock=clock)
    return Inbox(installation, worlds.the(installation, Kind.CONFIGURED_AUDIENCE_MODEL))
