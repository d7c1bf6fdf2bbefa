"""Fixtures that tests of several packages share: a home and an installation whose clock stands.

Keep out: data and worlds of one package's tests.
"""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from cleanroom_pipelines.execution.installation import Installation, Settings
from cleanroom_pipelines.storage import Home


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
    return Installation(Settings(home.root, seed_floor=1), clock=clock)
