"""`cleanroom serve` listens, or reports in one sentence why it cannot.

Contract: exit code 2 and one clear sentence; if the address is in use, nothing is started.
"""

import socket
from pathlib import Path

import psutil
import pytest

from .. import worlds
from ..cases import assert_each
from ..cli.commands import Commands


def test_an_address_in_use(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    command = Commands(capsys, monkeypatch)

    def is_rejected(host: str) -> None:
        before = set(psutil.Process().children(recursive=True))
        ended = command("serve", "--host", host, "--port", port)
        assert (ended.code, ended.out) == (2, "")
        [sentence] = ended.err.splitlines()
        assert "cannot listen" in sentence
        assert set(psutil.Process().children(recursive=True)) <= before, "no worker was started"

    with socket.create_server(("127.0.0.1", 0)) as taken, worlds.installed(tmp_path / "home"):
        port = str(taken.getsockname()[1])
        assert_each(is_rejected, ["127.0.0.1", "no such host"])
