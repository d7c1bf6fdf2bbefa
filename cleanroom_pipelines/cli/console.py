"""How commands speak: sentences on stderr, results on stdout, progress on a terminal.

Lives here: error to exit code, progress bars, JSON.
Keep out: what commands do.
"""

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

import click

from cleanroom_pipelines.errors import CleanroomError

USAGE, DEFECT = 2, 1


def exit_with(error: CleanroomError, code: int = USAGE) -> NoReturn:
    """Print one clear sentence on stderr and end with an exit code."""
    click.echo(f"cleanroom: {error}", err=True)
    sys.exit(code)


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
