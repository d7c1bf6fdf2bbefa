"""Files of a killed process are deleted by the next one; files of a live process are not touched.

Contract: each process has a scratch folder and a lock that proves that it is alive. The tests kill real
processes.
"""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from cleanroom_pipelines.storage import ArtifactReference, ArtifactStore, Home
from cleanroom_pipelines.storage.processes import clean_up_dead_processes, folder_of_process, is_process_folder

_WORK = """
import sys
from cleanroom_pipelines.storage import ArtifactReference, ArtifactStore, Home
home = Home.open(sys.argv[1])
(home.scratch / "spill").mkdir()
(home.scratch / "spill" / "rows").write_text("rows")
store = ArtifactStore(str(home.artifacts), home.scratch)
reference = ArtifactReference("audience", "spring-0123456789ab", "0001-01234567")
with store.drafting(reference, code_version="1", data_version="d", created_at="now") as draft:
    (draft.path / "half").write_text("half")
    print(home.scratch, flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home.open(tmp_path / "home")


@pytest.fixture
def other(home: Home) -> Iterator[tuple[subprocess.Popen[str], Path]]:
    """Another process in the midst of its work, and its scratch folder."""
    with subprocess.Popen(
        [sys.executable, "-c", _WORK, str(home.root)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        yield process, Path(process.stdout.readline().strip())
        process.kill()


def drafts(home: Home) -> list[Path]:
    return list(home.artifacts.rglob(".draft-*"))


def test_leftovers_of_a_killed_process_are_deleted(home: Home, other: tuple[subprocess.Popen[str], Path]) -> None:
    process, folder = other
    assert clean_up_dead_processes(home.scratch_root) == 0, "it lives"
    assert (folder / "spill" / "rows").is_file()
    assert len(drafts(home)) == 1
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert clean_up_dead_processes(home.scratch_root) == 1
    assert not folder.exists()
    assert drafts(home) == [], "the draft beside its target too"
    assert clean_up_dead_processes(home.scratch_root) == 0


def test_process_that_exits_leaves_nothing(home: Home) -> None:
    script = "import sys; from cleanroom_pipelines.storage import Home; Home.open(sys.argv[1]).scratch"
    subprocess.run([sys.executable, "-c", script, str(home.root)], check=True)
    assert [path.name for path in home.scratch_root.rglob("*")] == [".alive"]


def test_folder_of_another_host_is_kept(home: Home) -> None:
    folder = home.scratch_root / "0123456789abcdef"
    folder.mkdir()
    (home.scratch_root / ".alive").mkdir(exist_ok=True)
    (home.scratch_root / ".alive" / folder.name).write_text(f"not {socket.gethostname()}")
    assert clean_up_dead_processes(home.scratch_root) == 0
    assert folder.is_dir()


def test_process_has_its_own_folder(home: Home) -> None:
    first = home.scratch
    assert home.scratch == first == folder_of_process(home.scratch_root)
    assert is_process_folder(first)
    assert first.stat().st_mode & 0o077 == 0


def test_finished_artifact_outlives_its_process(home: Home) -> None:
    finishing = _WORK.replace("    sys.stdin.read()\n", "") + "import os; os.kill(os.getpid(), 9)"
    subprocess.run([sys.executable, "-c", finishing, str(home.root)], stdout=subprocess.DEVNULL, check=False)
    assert clean_up_dead_processes(home.scratch_root) == 1
    reference = ArtifactReference("audience", "spring-0123456789ab", "0001-01234567")
    assert ArtifactStore(str(home.artifacts), home.scratch).verify(reference).files[0].name == "half"


def test_empty_marker_is_deleted_after_a_while(home: Home) -> None:
    folder_of_process(home.scratch_root)
    marker = home.scratch_root / ".alive" / "0123456789abcdef"
    marker.touch()
    assert clean_up_dead_processes(home.scratch_root) == 0, "its process may be about to write"
    os.utime(marker, (0, 0))
    assert clean_up_dead_processes(home.scratch_root) == 1
    assert not marker.exists()
