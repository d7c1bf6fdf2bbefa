"""Console input and output of commands: messages on stderr, results on stdout, progress bars, exit codes.

Lives here: opening the home, exit codes for errors and signals, closed pipes, progress bars, JSON, tables.
Keep out: what commands do.
"""

import json
import os
import signal
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, NoReturn, TextIO

import click

from cleanroom_pipelines.errors import CleanroomError, UsageError
from cleanroom_pipelines.runs.signals import STOP_SIGNALS, StopRequest, handle_signals

if TYPE_CHECKING:
    from cleanroom_pipelines.runs.installation import Installation

USAGE, DEFECT = 2, 1
JSON = click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
"""The option of commands that can print JSON."""


def open_installation() -> "Installation":
    """Open the installation that the environment names; imports are local to keep `--help` fast."""
    from cleanroom_pipelines.runs.installation import Installation

    return Installation.from_environment()


def read_installation() -> "Installation":
    """Open the installation for a command that needs an existing one.

    Raises:
        UsageError: There is none; only commands that start something create one.
    """
    installation = open_installation()
    if not installation.exists:
        raise UsageError(
            f"There is no installation in {installation.settings.home}.",
            remedy="Set CLEANROOM_HOME to its folder, or create one with `cleanroom apply FILE.yaml`.",
        )
    return installation


@contextmanager
def planning_installation() -> Iterator["Installation"]:
    """Open the installation to plan changes; if there is none, say so and open an empty temporary one instead."""
    from cleanroom_pipelines.runs.installation import Installation

    installation = open_installation()
    if installation.exists:
        yield installation
        return
    click.echo(f"There is no installation in {installation.settings.home} yet; `apply` would create it.", err=True)
    with tempfile.TemporaryDirectory(prefix="dry-run-") as folder:
        yield Installation(replace(installation.settings, home=Path(folder), key_file=None))


def exit_with(error: CleanroomError, code: int = USAGE) -> NoReturn:
    """Print the error as one sentence on stderr and exit with a code."""
    click.echo(f"cleanroom: {error}", err=True)
    sys.exit(code)


class Ending:
    """Signal handler that records a request to stop, and the exit code to use.

    Args:
        stop: Set on a signal even if another handler, such as Dagster's, received it.
    """

    def __init__(self, stop: StopRequest) -> None:
        self._stop = stop
        self._number = 0

    @property
    def is_asked(self) -> bool:
        """Whether a signal requested the end of this process."""
        return self._number != 0 or self._stop.is_set()

    @property
    def code(self) -> int:
        """The exit code: 128 plus the signal's number."""
        return 128 + ((self.is_asked and (self._number or self._stop.number)) or signal.SIGINT)

    def __call__(self, number: int, _frame: FrameType | None) -> None:
        """Handle a signal by raising KeyboardInterrupt, so that the current work stops and cleans up."""
        self._number = self._number or number
        raise KeyboardInterrupt


@contextmanager
def ending_on_signals() -> Iterator[Ending]:
    """Raise KeyboardInterrupt in the main thread on SIGINT and SIGTERM."""
    with handle_signals() as stop:
        ending = Ending(stop)
        if threading.current_thread() is not threading.main_thread():
            yield ending
            return
        before = {number: signal.signal(number, ending) for number in STOP_SIGNALS}
        try:
            yield ending
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


@contextmanager
def readers_may_leave() -> Iterator[None]:
    """Drop further output once the reader of a standard stream (such as `head`) has closed the pipe.

    Output that cannot be written, such as to a full disk, is an error of the body, which flushes the streams. What
    is left in the buffers is dropped: at its end Python would try to write it again, and exit with 120.
    """
    before = sys.stdout, sys.stderr
    streams = [stream and _WhileRead(stream) for stream in before]
    sys.stdout, sys.stderr = streams
    try:
        yield
    finally:
        for stream in filter(None, streams):
            try:
                stream.flush()
            except OSError:
                stream.drop()
        sys.stdout, sys.stderr = before


class _WhileRead:
    """A text stream that discards its output once the reader has closed the pipe."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        try:
            return self._stream.write(text)
        except BrokenPipeError:
            self.drop()
            return len(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except BrokenPipeError:
            self.drop()
            self._stream.flush()  # discards what was buffered

    def drop(self) -> None:
        """Discard the buffered output, and all further output."""
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self._stream.fileno())
        os.close(nowhere)


def print_json(value: Any) -> None:
    """Print a result as JSON."""
    click.echo(json.dumps(value, indent=1, sort_keys=True, default=str))


def print_result(value: Any, sentence: str, *, as_json: bool) -> None:
    """Print what a command did, as JSON or as a sentence."""
    print_json(value) if as_json else click.echo(sentence)


def print_list(
    values: list[Any], columns: list[str], rows: list[list[str]], nothing: str, *, as_json: bool
) -> None:
    """Print a list as JSON or as a table; `nothing` is the sentence for an empty list."""
    if as_json:
        print_json(values)
    elif not rows:
        click.echo(nothing)
    else:
        table("", columns, rows)


def confirm(question: str, *, yes: bool, unchanged: str = "Nothing was changed") -> None:
    """Ask for confirmation on the terminal, unless the option --yes gave it.

    Raises:
        UsageError: There is no terminal; `unchanged` says what the command left as it was.
    """
    if yes:
        return
    if not sys.stdin.isatty():
        raise UsageError(f"{unchanged}: confirmation needs a terminal.", remedy="Add --yes.")
    click.confirm(question, abort=True, err=True)


@contextmanager
def progress_bar(what: str) -> Iterator[Callable[[float, str], None]]:
    """Show progress, on a terminal only.

    Yields:
        A callback that takes the completed share (0 to 1) and the stage.
    """
    if not sys.stderr.isatty():
        yield lambda share, stage: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[stage]}"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=1.0, stage="")
        yield lambda share, stage: bar.update(task, completed=share, stage=stage)


def table(title: str, columns: list[str], rows: list[list[str]]) -> None:
    """Print a table on stdout."""
    from rich.console import Console
    from rich.table import Table

    view = Table(title=title, title_justify="left", show_edge=False, pad_edge=False)
    for column in columns:
        view.add_column(column, overflow="fold")
    for row in rows:
        view.add_row(*row)
    Console(width=None if sys.stdout.isatty() else 120).print(view)
