"""How commands speak: sentences on stderr, results on stdout, progress on a terminal; and how they end.

Lives here: opening the home, error and signal to exit code, streams nobody reads any more, progress bars, JSON.
Keep out: what commands do.
"""

import json
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING, Any, NoReturn, TextIO

import click

from cleanroom_pipelines.errors import CleanroomError
from cleanroom_pipelines.runs.signals import TOLD_BY, Told, handle_signals

if TYPE_CHECKING:
    from cleanroom_pipelines.runs.installation import Installation

USAGE, DEFECT = 2, 1


def open_installation() -> "Installation":
    """Open the installation that the environment names; what it needs is imported here, never for `--help`."""
    from cleanroom_pipelines.runs.installation import Installation

    return Installation.from_environment()


def exit_with(error: CleanroomError, code: int = USAGE) -> NoReturn:
    """Print one clear sentence on stderr and end with an exit code."""
    click.echo(f"cleanroom: {error}", err=True)
    sys.exit(code)


class Ending:
    """Whether this process was asked to end, and the exit code that says so.

    Args:
        told: Knows of a signal too when another handler, such as Dagster's, has it.
    """

    def __init__(self, told: Told) -> None:
        self._told = told
        self._number = 0

    @property
    def is_asked(self) -> bool:
        """Whether a signal asked for it."""
        return self._number != 0 or self._told.is_set()

    @property
    def code(self) -> int:
        """128 and the number of the signal."""
        return 128 + ((self.is_asked and (self._number or self._told.number)) or signal.SIGINT)

    def __call__(self, number: int, _frame: FrameType | None) -> None:
        """Handle a signal: whatever is under way is left, and cleans up behind itself."""
        self._number = self._number or number
        raise KeyboardInterrupt


@contextmanager
def ending_on_signals() -> Iterator[Ending]:
    """Let SIGINT and SIGTERM raise KeyboardInterrupt, in the main thread."""
    with handle_signals() as told:
        ending = Ending(told)
        if threading.current_thread() is not threading.main_thread():
            yield ending
            return
        before = {number: signal.signal(number, ending) for number in TOLD_BY}
        try:
            yield ending
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


@contextmanager
def readers_may_leave() -> Iterator[None]:
    """Go on when nobody reads the standard streams any more; what is still said is dropped."""
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = (stream and _WhileRead(stream) for stream in before)
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before


class _WhileRead:
    """A text stream that takes what it is given, whether or not somebody reads it."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        try:
            return self._stream.write(text)
        except BrokenPipeError:
            self._drop()
            return len(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except BrokenPipeError:
            self._drop()
            self._stream.flush()  # what waits in it goes nowhere too

    def _drop(self) -> None:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self._stream.fileno())
        os.close(nowhere)


def print_json(value: Any) -> None:
    """Print a result for a script."""
    click.echo(json.dumps(value, indent=1, sort_keys=True, default=str))


@contextmanager
def progress_bar(what: str) -> Iterator[Callable[[float, str], None]]:
    """Show how far something is, on a terminal only.

    Yields:
        A function of the share done (0 to 1) and the stage in words.
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
