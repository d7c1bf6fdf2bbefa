"""Signals and closed streams.

Contract: Ctrl-C exits with 130 and SIGTERM with 143, without a traceback, both while the program loads and during
work, which is pending again at once. A reader that closes its pipe only loses the remaining output; a closed
stream's descriptor is never reused for our files; output that cannot be written is reported, with exit code 2.
"""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from cleanroom_pipelines.catalog import Kind
from cleanroom_pipelines.runs import work
from cleanroom_pipelines.runs.installation import Installation, Settings

from .. import worlds
from ..worlds import World
from .commands import Commands

SIGNALS = [(signal.SIGINT, 130), (signal.SIGTERM, 143)]
PROGRAM = [sys.executable, "-m", "cleanroom_pipelines.cli.entry"]
# Sends itself a signal as the n-th module is imported; the program's entry point is in the arguments.
SIGNAL_WHILE_IMPORTING = """
import os, sys
number, countdown = int(sys.argv[1]), int(sys.argv[2])
class Sender:
    def find_spec(self, name, path=None, target=None):
        global countdown
        countdown -= 1
        if countdown == 0:
            os.kill(os.getpid(), number)
from cleanroom_pipelines.cli.entry import main
sys.meta_path.insert(0, Sender())
sys.argv = ["cleanroom", "run"]
main()
"""


def environment(home: Path) -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("DAGSTER")} | worlds.settings(
        home
    )


@pytest.mark.parametrize(("number", "code"), SIGNALS)
@pytest.mark.parametrize("n_imports", [4, 60, 400])
def test_signal_while_the_program_is_loading(tmp_path: Path, number: int, code: int, n_imports: int) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", SIGNAL_WHILE_IMPORTING, str(int(number)), str(n_imports)],
        capture_output=True,
        text=True,
        env=environment(tmp_path / "home"),
        timeout=120,
        check=False,
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (code, "", "")


@pytest.fixture
def declared(command: Commands, installation: Installation, tmp_path: Path, world: World) -> None:
    """A dataset and a model to be made."""
    command("apply", worlds.declare(tmp_path / "c.yaml", interactions=world.interactions, seed=None))


@pytest.mark.parametrize("ending", SIGNALS)
def test_signal_during_a_run(
    command: Commands,
    installation: Installation,
    declared: None,
    monkeypatch: pytest.MonkeyPatch,
    ending: tuple[int, int],
) -> None:
    number, code = ending
    report, sent = work.Work.report_progress, list[str]()

    def reporting(self: work.Work, share: float, stage: str) -> None:
        report(self, share, stage)
        if self.record.kind is Kind.AUDIENCE_MODEL and not sent:
            sent.append(stage)
            os.kill(os.getpid(), number)

    monkeypatch.setattr(work.Work, "report_progress", reporting)
    ended = command("run")
    assert sent
    assert (ended.code, ended.out) == (code, "")
    assert [line.split()[2] for line in ended.err.splitlines()] == ["training", "audience"], (
        "what was begun, no more"
    )
    newest = worlds.newest(installation, Kind.AUDIENCE_MODEL)
    assert (newest.status, newest.attempt) == ("CREATE_PENDING", 0)


def test_command_restores_signal_handlers(command: Commands, installation: Installation) -> None:
    before = [signal.getsignal(number) for number, _ in SIGNALS]
    streams = sys.stdout, sys.stderr
    command("status")
    assert [signal.getsignal(number) for number, _ in SIGNALS] == before
    assert (sys.stdout, sys.stderr) == streams


@pytest.mark.parametrize("arguments", [["status", "--json"], ["--help"], ["audit", "verify"]], ids=" ".join)
def test_closed_output_pipe_changes_nothing(tmp_path: Path, arguments: list[str]) -> None:
    _ = Installation(Settings(tmp_path / "home")).catalog
    reader, writer = os.pipe()
    os.close(reader)
    ended = subprocess.run(
        [*PROGRAM, *arguments],
        stdout=writer,
        stderr=subprocess.PIPE,
        env=environment(tmp_path / "home"),
        timeout=120,
        check=False,
    )
    os.close(writer)
    assert (ended.returncode, ended.stderr) == (0, b"")


def test_work_continues_after_the_output_pipe_closes(tmp_path: Path) -> None:
    """Both streams are pipes whose reader is gone; the run says a line of each piece of work."""
    home = tmp_path / "home"
    table = worlds.write_events(tmp_path / "events.parquet", worlds.events(n_events=1_500))
    with worlds.installed(home) as installation:
        worlds.apply(installation, worlds.declare(tmp_path / "c.yaml", interactions=table, seed=None))
        reader, writer = os.pipe()
        os.close(reader)
        ended = subprocess.run(
            [*PROGRAM, "run"], stdout=writer, stderr=writer, env=environment(home), timeout=300, check=False
        )
        os.close(writer)
        assert ended.returncode == 0
        assert worlds.newest(installation, Kind.TRAINING_DATASET).status == "ACTIVE"
        assert worlds.newest(installation, Kind.CONFIGURED_AUDIENCE_MODEL).status == "ACTIVE"


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_unwritable_output_is_reported(tmp_path: Path, unbuffered: str) -> None:
    with open("/dev/full", "w") as full:  # noqa: PTH123 - a device
        ended = subprocess.run(
            [*PROGRAM, "status", "--json"],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            env=environment(tmp_path / "home") | {"PYTHONUNBUFFERED": unbuffered},
            timeout=120,
            check=False,
        )
    assert ended.returncode == 2
    assert ended.stderr == "cleanroom: The disk is full. Free some space and try again.\n"


def test_closed_standard_streams_are_not_reused_by_the_catalogue(tmp_path: Path) -> None:
    home = tmp_path / "home"
    closed = subprocess.run(
        ["sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh", *PROGRAM, "user", "create", "somebody@shop.example"],
        env=environment(home),
        timeout=120,
        check=False,
    )
    assert closed.returncode == 0
    with worlds.installed(home) as installation:
        assert [user.email for user in installation.catalog.users.all()] == ["somebody@shop.example"]
