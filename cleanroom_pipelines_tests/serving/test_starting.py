"""`cleanroom serve` begins to listen, or says in one sentence why it cannot.

Contract: DESIGN section 7: exit code 2 and one clear sentence; nothing is started on an address that is taken.
"""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.parametrize("host", ["127.0.0.1", "no such host"])
def test_an_address_that_cannot_be_had(tmp_path: Path, host: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        ended = subprocess.run(
            [sys.executable, "-m", "cleanroom_pipelines.cli.main", "serve", "--host", host, "--port", port],
            env=os.environ | {"CLEANROOM_HOME": str(tmp_path / "home")},
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
    assert ended.returncode == 2
    assert ended.stdout == ""
    [sentence] = ended.stderr.splitlines()
    assert "cannot listen" in sentence
