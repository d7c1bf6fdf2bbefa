"""Privileges that a process drops irrevocably.

Contract: after `confine` it can read the given folders and Python's own files, write only to the given folders,
and open no connections; it cannot undo that. Without Landlock in the kernel it returns False and changes
nothing.
"""

import json
import socket
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from cleanroom_pipelines.participant_sql.confinement import confine

ROOT = Path(__file__).resolve().parents[2]

_TRY = """
import json, socket, sys
from pathlib import Path
from cleanroom_pipelines.participant_sql.confinement import confine
base, port = Path(sys.argv[1]), int(sys.argv[2])

def works(action):
    try:
        action()
    except OSError:
        return False
    return True

before = works((base / "other" / "a").read_text)
confined = confine(readable=[base / "table"], writable=[base / "own"])
confine(readable=[Path("/")], writable=[Path("/")])
import sqlite3, pyarrow, duckdb
print(json.dumps({
    "before": before,
    "confined": confined,
    "read table": works((base / "table" / "a").read_text),
    "write table": works(lambda: (base / "table" / "a").write_text("x")),
    "make in table": works(lambda: (base / "table" / "b").write_text("x")),
    "remove in table": works((base / "table" / "a").unlink),
    "read other": works((base / "other" / "a").read_text),
    "list other": works(lambda: list((base / "other").iterdir())),
    "link": works((base / "table" / "link").read_text),
    "write own": works(lambda: (base / "own" / "a").write_text("x")),
    "read own": works((base / "own" / "a").read_text),
    "folder in own": works((base / "own" / "folder").mkdir),
    "write other": works(lambda: (base / "other" / "b").write_text("x")),
    "read password": works(Path("/etc/passwd").read_text),
    "connect": works(lambda: socket.create_connection(("127.0.0.1", port), timeout=5).close()),
}))
"""


@pytest.fixture(scope="module")
def tried(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bool]:
    folder = tmp_path_factory.mktemp("confined").resolve()
    for name in ("table", "other", "own"):
        (folder / name).mkdir()
        (folder / name / "a").write_text("a")
    (folder / "table" / "link").symlink_to(folder / "other" / "a")
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        command = [sys.executable, "-c", textwrap.dedent(_TRY), str(folder), str(port)]
        run = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    tried: dict[str, bool] = json.loads(run.stdout)
    if not tried["confined"]:
        pytest.skip("this kernel has no Landlock, or does not let us use it")
    return tried


def test_what_is_left(tried: dict[str, bool]) -> None:
    left = {"before", "confined", "read table", "write own", "read own", "folder in own"}
    assert {name for name, works in tried.items() if works} - {"connect"} == left


def test_no_connection(tried: dict[str, bool]) -> None:
    if tried["connect"]:
        pytest.skip("this kernel's Landlock knows nothing of connections (before 6.7)")
    assert not tried["connect"]


def test_another_system_is_reported(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    assert confine(readable=[tmp_path], writable=[]) is False
