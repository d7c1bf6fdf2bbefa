"""Run `cleanroom` as users do; and the home that `cleanroom demo` creates.

Keep out: long-running commands (`developing.py`, `server/server.py`).
"""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_SECONDS = 900


@dataclass(frozen=True)
class Demo:
    """The result of one run of `cleanroom demo --json`.

    Attributes:
        home: Its home; copy it before opening it.
        told: What the command printed.
    """

    home: Path
    told: dict[str, Any]


def typed(home: Path, *words: str, engine: str | None = None) -> "subprocess.CompletedProcess[str]":
    """Run `cleanroom …` on a home."""
    environment = {name: value for name, value in os.environ.items() if name != "DAGSTER_HOME"}
    environment["CLEANROOM_HOME"] = str(home)
    if engine is not None:
        environment["CLEANROOM_ENGINE_URL"] = engine
    return subprocess.run(
        [sys.executable, "-m", "cleanroom_pipelines.cli.main", *words],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
        cwd=home.parent,
        timeout=_SECONDS,
    )


def run(home: Path, *words: str, engine: str | None = None) -> str:
    """Run a command that succeeds, and return what it printed."""
    ended = typed(home, *words, engine=engine)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def run_demo(folder: Path, engine: str | None = None) -> Demo:
    """Run the demo on an empty home in a folder."""
    printed = run(folder / "home", "demo", "--json", engine=engine)
    (folder / "told.json").write_text(printed)
    return demo_in(folder)


def demo_in(folder: Path) -> Demo:
    """Return the demo that was run in a folder."""
    return Demo(folder / "home", json.loads((folder / "told.json").read_text()))
