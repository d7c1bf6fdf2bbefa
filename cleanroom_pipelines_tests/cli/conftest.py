"""Commands in this process, on a small clean room."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from cleanroom_pipelines.runs.installation import Installation

from .. import worlds
from .commands import Commands


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Commands:
    """Runs `cleanroom` with arguments."""
    return Commands(capsys, monkeypatch)


@pytest.fixture
def installation(tmp_path: Path) -> Iterator[Installation]:
    """An empty home that the environment names."""
    with worlds.installed(tmp_path / "home") as opened:
        yield opened
