"""Fixtures of the tests of sources: a database server, and the model of the same rows in a file."""

import pytest

from cleanroom_pipelines_tests import worlds
from cleanroom_pipelines_tests.databases import postgresql_server

from .training import model_of

__all__ = ["postgresql_server"]


@pytest.fixture(scope="session")
def local_model(world: worlds.World, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The files of the model of the small world's local table."""
    return model_of(world.interactions, tmp_path_factory.mktemp("local"))
