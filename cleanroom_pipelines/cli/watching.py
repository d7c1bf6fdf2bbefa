"""Progress display for work that runs in this process.

Lives here: the progress line of `run_pending`.
Keep out: running the work (runs).
"""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from threading import Event, Thread

import click

from cleanroom_pipelines.catalog import Catalog, Status, Version
from cleanroom_pipelines.cli.console import progress_bar
from cleanroom_pipelines.errors import NotFoundError
from cleanroom_pipelines.runs.dagster_home import dagster_instance
from cleanroom_pipelines.runs.inbox import ingest_all
from cleanroom_pipelines.runs.installation import Installation
from cleanroom_pipelines.runs.running import run_pending

_LOOK_SECONDS = 1.0


def run_pending_watched(
    installation: Installation, *, max_seconds: float | None = None, wait: bool = False
) -> int:
    """Ingest the files in the inbox, do all pending work in this process, and show progress on stderr.

    Args:
        installation: The installation.
        max_seconds: Stop starting runs after this time.
        wait: Continue until no other process has claimed work either.

    Returns:
        The number of finished runs.
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
            with suppress(NotFoundError):  # deleted in the meantime
                ended = installation.catalog.resources.version(version.kind, version.resource_id, version.number)
                why = ended.status_message or "The run failed; see the Dagster UI."
                click.echo(f"        {version.kind.words} {version.resource_id} failed: {why}", err=True)

        n_runs, tried, ingested = 0, set[str](), ""
        while True:
            ingested, earlier = str(ingest_all(installation)), ingested
            if ingested not in ("", earlier):
                click.echo(f"Files in the inbox: {ingested}.", err=True)
            left = None if max_seconds is None else max(0.0, begun + max_seconds - time.monotonic())
            n_runs += run_pending(
                installation,
                instance,
                max_seconds=left,
                on_start=on_start,
                on_failure=on_failure,
                passed_over=tried,
            )
            if not wait or left == 0 or not installation.catalog.resources.unfinished():
                return n_runs
            current.clear()
            show(0.0, "waiting for work of other processes")
            time.sleep(_LOOK_SECONDS)


def unfinished_sentence(catalog: Catalog) -> str:
    """Return a sentence on unfinished versions and what to do about them; empty if all are finished."""
    counts = catalog.resources.unfinished()
    parts = [
        f"{n} {'is' if n == 1 else 'are'} {words}"
        for status, words in (
            (Status.CREATE_IN_PROGRESS, "in progress in other processes"),
            (Status.CREATE_PENDING, "waiting"),
        )
        if (n := counts.get(status, 0))
    ]
    if not parts:
        return ""
    return f"Unfinished versions: {' and '.join(parts)}. Use --wait to wait for them, or see `cleanroom status`."


@contextmanager
def _watch(installation: Installation, current: list[Version], show) -> Iterator[None]:  # type: ignore[no-untyped-def]
    ended = Event()

    def watch() -> None:
        while not ended.wait(0.5):
            if current:
                version = installation.catalog.resources.newest_version(current[0].kind, current[0].resource_id)
                show(version.progress, f"{version.kind.words}: {version.progress_stage}")

    thread = Thread(target=watch, name="progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
