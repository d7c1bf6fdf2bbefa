"""Fixtures that tests of several packages share: a home and an installation whose clock stands.

Also here: how many examples property tests try, and the count of the tests that pytest collected.
Keep out: data and worlds of one package's tests.
"""

import os
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import settings

from cleanroom_pipelines.execution.installation import Installation, Settings
from cleanroom_pipelines.storage import Home, open_files

from .collecting import MARKS, marks_of

# The same examples in every run of CI; HYPOTHESIS_PROFILE=nightly looks for new ones, and for longer.
settings.register_profile("ci", max_examples=50, deadline=None, derandomize=True, database=None)
settings.register_profile("nightly", max_examples=1_000, deadline=None, print_blob=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Keep the marks of all that was collected, before `-m` leaves some of it out."""
    config.stash[MARKS] = marks_of(items)


class StandingClock:
    """A clock that stands until it is turned."""

    def __init__(self) -> None:
        self.now = datetime(2026, 3, 1, 12, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now

    def turn(self, **parts: float) -> None:
        self.now += timedelta(**parts)


@pytest.fixture(autouse=True, scope="session")
def _fresh_files_rest(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Where the kernel cannot tell who writes a file, let dropped ones be taken without the minute of quiet."""
    path = tmp_path_factory.mktemp("resting") / "fresh"
    path.touch()
    if open_files.may_be_being_written(path, time.time()):
        open_files.QUIET_SECONDS = float("-inf")


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
    return Installation(Settings(home.root, seed_floor=1), clock=clock)
