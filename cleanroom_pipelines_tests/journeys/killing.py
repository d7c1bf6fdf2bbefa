"""A process that does pending work and kills itself with SIGKILL at a chosen moment.

Lives here: what counts as a step of its work, starting the process, and ending what it started.
Keep out: choosing the moments, and checking the state afterwards.

A moment is a step, or a short random time after it. A step is any change of a folder: a transaction in one of its
databases, or a file opened for writing, renamed or removed. Python reports each of them to audit hooks, so the
same step of the same kind of work can be found again in every process.
"""

import multiprocessing
import os
import re
import signal
import sys
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from cleanroom_pipelines.runs.inbox import find_drops, register_drop
from cleanroom_pipelines.runs.running import run_pending

from .. import worlds

INBOX = "inbox"
"""The stage before any work: what was dropped becomes jobs."""

_SECONDS = 300
_WRITING = os.O_CREAT | os.O_WRONLY | os.O_RDWR
_CHANGES = {
    "sqlite3.connect": "transaction in",
    "os.rename": "renaming in",
    "os.remove": "removing from",
    "shutil.rmtree": "removing a folder of",
}


@dataclass(frozen=True)
class Moment:
    """When a process kills itself.

    Attributes:
        stage: A kind of work, or INBOX.
        number: The number of steps that have begun in this stage.
        step: The last of these steps.
        seconds: How long the process continues after that step.
    """

    stage: str
    number: int
    step: str
    seconds: float = 0.0


@dataclass(frozen=True)
class Ended:
    """How a process ended.

    Attributes:
        exit_code: As `multiprocessing` reports it.
        steps: The steps of the first piece of work in each stage, if the process was not killed.
    """

    exit_code: int
    steps: dict[str, list[str]]

    @property
    def was_killed(self) -> bool:
        return self.exit_code == -signal.SIGKILL


class _Steps:
    """An audit hook that counts the steps of each piece of work."""

    def __init__(self, folder: Path, moment: Moment | None) -> None:
        self.steps: dict[str, list[str]] = {}
        self._folder, self._moment = f"{folder}{os.sep}", moment
        self._stage, self._taken = "", list[str]()

    def begin(self, stage: str) -> None:
        self._stage, self._taken = stage, []
        self.steps.setdefault(stage, self._taken)

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        step = self._step(event, arguments)
        if step is None:
            return
        self._taken.append(step)
        moment = self._moment
        if moment is not None and (self._stage, len(self._taken)) == (moment.stage, moment.number):
            self._moment = None
            if moment.seconds:
                threading.Thread(target=_die_in, args=(moment.seconds,), daemon=True).start()
            else:
                os.kill(os.getpid(), signal.SIGKILL)

    def _step(self, event: str, arguments: tuple[Any, ...]) -> str | None:
        change = _CHANGES.get(event)
        if event == "open" and isinstance(arguments[2], int) and arguments[2] & _WRITING:
            change = "writing in"
        if change is None or not isinstance(arguments[0], str | Path):
            return None
        path = str(arguments[0])
        if not path.startswith(self._folder) or path.endswith(".lock"):
            return None
        return f"{change} {_area(path.removeprefix(self._folder))}"


def _area(path: str) -> str:
    """Return the part of the folder that a path is in, such as `dagster` or `home/artifacts/audience`."""
    names = [name.partition("-")[0] for name in Path(path).parts]
    if names[0] != "home":
        return names[0]
    return "/".join(name for name in names[:3] if not re.search(r"\d\d|^\.", name))


def _die_in(seconds: float) -> None:
    time.sleep(seconds)
    os.kill(os.getpid(), signal.SIGKILL)


def work(folder: Path, moment: Moment | None = None) -> Ended:
    """Ingest the inbox and do the pending work of a folder's home, in a process that kills itself at a moment."""
    context = multiprocessing.get_context("forkserver")
    # starting python fifty times, and loading all definitions, would be most of the time
    context.set_forkserver_preload(["cleanroom_pipelines_tests.journeys.preloaded"])
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_work, args=(folder, moment, theirs), daemon=True)
    process.start()
    theirs.close()
    steps: dict[str, list[str]] = {}
    assert ours.poll(_SECONDS), "the process goes on"
    with suppress(EOFError):
        steps = ours.recv()
    process.join(_SECONDS)
    assert process.exitcode is not None, "the process ends"
    with suppress(ProcessLookupError):
        os.killpg(process.pid or 0, signal.SIGKILL)  # what followed its logs for Dagster and would never end
    return Ended(process.exitcode, steps)


def _work(folder: Path, moment: Moment | None, told: Connection) -> None:
    os.setsid()
    steps = _Steps(folder, moment)
    with (
        worlds.without_pictures(),
        worlds.installed(folder / "home") as installation,
        worlds.dagster_at(folder / "dagster", one_file=True) as instance,
    ):
        sys.addaudithook(steps)
        steps.begin(INBOX)
        for drop in find_drops(installation):
            register_drop(installation, drop)
        steps.begin("between")
        run_pending(installation, instance, on_start=lambda version: steps.begin(version.kind.value))
    told.send(steps.steps)
