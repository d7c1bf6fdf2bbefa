"""Fixtures that several journeys share."""

import pytest

from ..worlds import WorldCache
from .commands import Demo, demo_in, run_demo


@pytest.fixture(scope="session")
def demo(world_cache: WorldCache) -> Demo:
    """`cleanroom demo` on one machine, run once for all tests."""
    return demo_in(world_cache.original("demo", run_demo))
