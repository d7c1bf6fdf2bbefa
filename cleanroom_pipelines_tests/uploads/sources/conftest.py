"""Fixtures of the tests of sources: an S3 store of this process, and the model of the same rows in a file."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from moto.server import ThreadedMotoServer

from cleanroom_pipelines_tests import worlds
from cleanroom_pipelines_tests.databases import postgresql_server
from cleanroom_pipelines_tests.object_stores import PROFILE, ObjectStore, empty_store

from .training import model_of

__all__ = ["postgresql_server"]


@pytest.fixture
def store(
    store_server: ThreadedMotoServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[ObjectStore]:
    """An empty store with the bucket `shop`, which the operator's profile can read."""
    with empty_store(store_server, tmp_path) as running:
        monkeypatch.setenv("AWS_PROFILE", PROFILE)
        running.client().create_bucket(Bucket="shop")
        yield running


@pytest.fixture(scope="session")
def local_model(world: worlds.World, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The files of the model of the small world's local table."""
    return model_of(world.interactions, tmp_path_factory.mktemp("local"))
