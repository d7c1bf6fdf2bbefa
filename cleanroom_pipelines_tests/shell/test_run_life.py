"""A run is alive in the catalogue from its start to its end.

Contract: what a run was started for is claimed at once and held while its steps wait for a pool; a heartbeat that
the database missed ends neither the others nor the run; what the steps left open is given up when the run ends.
"""

import threading
from collections.abc import Callable

import dagster as dg
import pytest

from cleanroom_pipelines.catalog import RECORDS, Kind, Status, Version
from cleanroom_pipelines.runs.kinds import KINDS
from cleanroom_pipelines.runs.labels import VERSION_TAG
from cleanroom_pipelines.runs.running import alive, run_of, sending_heartbeats
from cleanroom_pipelines.runs.work import Work, working

from .. import worlds
from ..databases import database_away
from .conftest import Shell, repository
from .ticks import as_run

POOL = "memory"


def pending_model(shell: Shell) -> Version:
    catalog = shell.installation.catalog
    model = worlds.the(shell.installation, Kind.AUDIENCE_MODEL)
    catalog.work.request_manually(Kind.AUDIENCE_MODEL, model.id)
    return catalog.resources.newest_version(Kind.AUDIENCE_MODEL, model.id)


def started(shell: Shell, version: Version) -> dg.DagsterRun:
    tags = {VERSION_TAG: str(version.number), "dagster/partition": version.resource_id}
    run = shell.instance.get_run_by_id(as_run(shell, KINDS[version.kind].job, dg.DagsterRunStatus.STARTED, **tags))
    assert run is not None
    return run


def now_of(shell: Shell, version: Version) -> Version:
    return shell.installation.catalog.resources.version(version.kind, version.resource_id, version.number)


def test_run_waiting_for_the_pool_holds_its_version(trained: Shell) -> None:
    version, storage = pending_model(trained), trained.instance.event_log_storage
    storage.set_concurrency_slots(POOL, 1)
    assert storage.claim_concurrency_slot(POOL, "another run", "its step").is_claimed
    ended: list[dg.ExecuteInProcessResult] = []

    def execute() -> None:
        job, tags = repository().get_job(KINDS[version.kind].job), {VERSION_TAG: str(version.number)}
        ended.append(
            job.execute_in_process(
                partition_key=version.resource_id, instance=trained.instance, tags=tags, raise_on_error=False
            )
        )

    thread = threading.Thread(target=execute)
    thread.start()
    try:
        pending = lambda: storage.get_concurrency_info(POOL).pending_step_count  # noqa: E731
        worlds.wait_until(pending, seconds=60, what="a step that waits for the pool")
        waiting = now_of(trained, version)
        assert waiting.status is Status.CREATE_IN_PROGRESS
        assert waiting.run_id in trained.installation.catalog.resources.live_runs()
    finally:
        storage.free_concurrency_slots_for_run("another run")
        thread.join()
    assert ended[0].success
    assert now_of(trained, version).status is Status.ACTIVE


def test_run_holds_its_version_between_steps(trained: Shell) -> None:
    version = pending_model(trained)
    run = started(trained, version)
    opened, catalog = trained.installation, trained.installation.catalog
    with alive(opened, run, trained.instance):
        assert now_of(trained, version).run_id == run.run_id
        assert run.run_id in catalog.resources.live_runs()
        of_run = run_of(run, trained.instance)
        with working(opened, RECORDS[version.kind], version.resource_id, of_run) as work:
            assert isinstance(work, Work)
        renewing = [thread.name for thread in threading.enumerate() if version.resource_id in thread.name]
        assert len(renewing) == 1, "one thread renews, in a step and between two"
    assert now_of(trained, version).status is Status.CREATE_PENDING, "no step closed it"
    assert now_of(trained, version).attempt == 1
    assert catalog.resources.live_runs() == frozenset()


def test_run_stopped_while_waiting_is_cancelled(trained: Shell) -> None:
    version = pending_model(trained)
    run = started(trained, version)
    with alive(trained.installation, run, trained.instance):
        trained.instance.report_run_canceling(run)
    assert now_of(trained, version).status_code == "CANCELLED"


def test_heartbeats_survive_a_database_outage(trained: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    catalog, missed, heard = trained.installation.catalog, threading.Event(), threading.Event()
    send: Callable[[str], None] = catalog.work.heartbeat_worker

    def watched(worker: str) -> None:
        try:
            send(worker)
        except Exception:
            missed.set()
            raise
        if missed.is_set():
            heard.set()

    monkeypatch.setattr(catalog.work, "heartbeat_worker", watched)
    with sending_heartbeats(trained.installation, "worker", every_seconds=0.05):
        with database_away():
            assert missed.wait(60)
        assert heard.wait(60), "the thread goes on"
        assert catalog.resources.live_runs() == {"worker"}
    assert catalog.resources.live_runs() == frozenset()
