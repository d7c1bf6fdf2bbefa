"""Commands in this process, on a small clean room."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from cleanroom_pipelines.execution.installation import Installation

from .. import worlds
from ..worlds import World
from .commands import Commands


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Commands:
    """Runs `cleanroom` with arguments."""
    return Commands(capsys, monkeypatch)


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """The files of the clean room; nobody changes them."""
    return worlds.write_world(tmp_path_factory.mktemp("world"))


@pytest.fixture
def installation(tmp_path: Path) -> Iterator[Installation]:
    """An empty home that the environment names."""
    with worlds.installed(tmp_path / "home") as opened:
        yield opened
