"""Run `cleanroom dev` as users do: a real webserver, daemon and code server on a free port.

Lives here: starting it, waiting until it responds, ending all its processes, and Dagster's settings for tests.
"""

import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import resources
from pathlib import Path

import psutil

from cleanroom_pipelines_tests.ports import free_port
from cleanroom_pipelines_tests.worlds import wait_until

_NO_OUTPUT = """
# Only of tests: to keep what each step prints, Dagster starts four processes for it.
compute_logs:
  module: dagster._core.storage.noop_compute_log_manager
  class: NoOpComputeLogManager
"""


def keep_no_output(folder: Path, template: Path | None = None) -> None:
    """Write Dagster's settings for a home or host so that the output of steps is not stored.

    Args:
        folder: Dagster's folder, created if it does not exist; existing settings are kept.
        template: The settings; by default those packaged for one machine.
    """
    target = folder / "dagster.yaml"
    if not target.exists():
        source = template or resources.files("cleanroom_pipelines.runs").joinpath("dagster.yaml")
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        target.write_text(source.read_text() + _NO_OUTPUT)


@contextmanager
def dagster_dev(home: Path, environment: Mapping[str, str], log: Path) -> Iterator[str]:
    """Run `cleanroom dev` on a home and give its URL once it answers."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    with log.open("wb") as stream:
        process = subprocess.Popen(
            [sys.executable, "-m", "cleanroom_pipelines.cli.main", "dev", "--port", str(port)],
            env={**os.environ, **environment, "CLEANROOM_HOME": str(home)},
            stdout=stream,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        wait_until(lambda: process.poll() is not None or _answers(url), seconds=600, what="the webserver")
        assert process.poll() is None, log.read_text(errors="replace")[-2000:]
        yield url
    finally:
        end_with_children(process)


def end_with_children(process: subprocess.Popen[bytes]) -> None:
    """End a process and everything it started, kindly first."""
    try:
        family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    except psutil.NoSuchProcess:
        family = []
    if process.poll() is None:
        process.send_signal(signal.SIGINT)
    _, alive = psutil.wait_procs(family, timeout=20)
    for member in alive:
        member.kill()
    psutil.wait_procs(alive, timeout=20)
    process.wait(timeout=20)


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/server_info", timeout=5):
            return True
    except (urllib.error.URLError, OSError):
        return False
