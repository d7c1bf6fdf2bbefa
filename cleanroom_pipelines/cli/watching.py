"""Watching work being done in this process.

Lives here: a progress line for what `run_pending` does.
Keep out: running (execution).
"""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from threading import Event, Thread

import click

from cleanroom_pipelines.catalog import Version
from cleanroom_pipelines.cli.console import progress_bar
from cleanroom_pipelines.errors import NotFoundError
from cleanroom_pipelines.execution.dagster_home import dagster_instance
from cleanroom_pipelines.execution.installation import Installation
from cleanroom_pipelines.execution.running import run_pending


def run_pending_watched(installation: Installation, *, max_seconds: float | None = None) -> int:
    """Do all pending work here; say on stderr what is being done and how far it is.

    Returns:
        How many runs were made.
    """
    current: list[Version] = []
    with (
        dagster_instance(installation) as instance,
        progress_bar("work") as show,
        _watch(installation, current, show),
    ):
        begun = time.monotonic()

        def on_start(version: Version) -> None:
            current[:] = [version]
            if not sys.stderr.isatty():
                click.echo(
                    f"{time.monotonic() - begun:6.1f} s  {version.kind.words} {version.resource_id}", err=True
                )

        def on_failure(version: Version) -> None:
            with suppress(NotFoundError):  # deleted meanwhile
                ended = installation.catalog.version(version.kind, version.resource_id, version.number)
                why = ended.status_message or "Its run failed; see the Dagster UI."
                click.echo(f"        {version.kind.words} {version.resource_id} failed: {why}", err=True)

        return run_pending(
            installation, instance, max_seconds=max_seconds, on_start=on_start, on_failure=on_failure
        )


@contextmanager
def _watch(installation: Installation, current: list[Version], show) -> Iterator[None]:  # type: ignore[no-untyped-def]
    ended = Event()

    def watch() -> None:
        while not ended.wait(0.5):
            if current:
                version = installation.catalog.newest_version(current[0].kind, current[0].resource_id)
                show(version.progress, f"{version.kind.words}: {version.progress_stage}")

    thread = Thread(target=watch, name="progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
