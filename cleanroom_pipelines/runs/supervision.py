"""Synchronise the catalogue (resources) with Dagster (runs and partitions).

Lives here: what every tick does before it starts runs: fail runs of dead processes and versions whose parents
failed, update partitions, explain failures.
Add here when catalogue and Dagster can diverge in another way.
Keep out: starting runs.
"""

from datetime import timedelta

import dagster as dg

from cleanroom_pipelines.catalog import hex_of
from cleanroom_pipelines.runs.failures import explain_failures
from cleanroom_pipelines.runs.installation import Installation
from cleanroom_pipelines.runs.kinds import KINDS
from cleanroom_pipelines.runs.seeds import forget_spent_seeds
from cleanroom_pipelines.runs.traces import (
    Comparison,
    add_partitions,
    has_runs,
    hide_partition,
    shown_partitions,
)
from cleanroom_pipelines.storage.layout import is_partition_key

# A run is NOT_STARTED only briefly; if its process is killed then, no process will start it. Runs waiting in the
# daemon's queue are QUEUED, and may wait.
_UNFINISHED = [
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
]
# A run appears in the catalogue within seconds of its start; starting its process can take this long.
SECONDS_TO_APPEAR = 180


def supervise(installation: Installation, instance: dg.DagsterInstance) -> None:
    """Synchronise catalogue and Dagster; fast enough for every tick of a sensor."""
    installation.check()
    catalog = installation.catalog
    for reaped in catalog.work.reap():
        _fail_run(
            instance,
            reaped.run_id,
            "The run's process stopped responding. Its work is retried, or has failed for good.",
        )
    for worker in catalog.work.dead_workers():
        _fail_run(instance, worker, "The run's process stopped responding.")
        catalog.work.forget_worker(worker)
    _free_pool_slots(instance)
    catalog.work.fail_orphans()
    forget_spent_seeds(installation)
    _sync_partitions(installation, instance)
    explain_failures(installation, instance)


def fail_runs_that_never_appeared(installation: Installation, instance: dg.DagsterInstance) -> None:
    """Mark Dagster runs as failed if their process died before it claimed work; Dagster does not notice."""
    live = installation.catalog.resources.live_runs()
    deadline = installation.clock() - timedelta(seconds=SECONDS_TO_APPEAR)
    for record in instance.get_run_records(dg.RunsFilter(statuses=_UNFINISHED)):
        if record.dagster_run.run_id not in live and record.update_timestamp < deadline:
            _fail_run(instance, record.dagster_run.run_id, "The run's process ended before it started any work.")


def _sync_partitions(installation: Installation, instance: dg.DagsterInstance) -> None:
    """Add the partitions that Dagster lacks; remove partitions without runs if their resource was deleted."""
    comparison = Comparison(installation, instance, "partitions")
    if comparison.is_made:
        return
    # Read before the catalogue: every partition that Dagster shows had a row before.
    shown = {kind: shown_partitions(instance, kind) for kind in KINDS}
    ids = installation.catalog.resources.ids_by_kind()
    for kind in KINDS:
        wanted = set(ids[kind])
        if wanted - shown[kind]:
            add_partitions(instance, kind, wanted)
        unknown = shown[kind] - wanted
        deleted = installation.catalog.deletion.deleted(map(hex_of, unknown), kind) if unknown else frozenset()
        for partition in unknown:
            if (hex_of(partition) in deleted or not is_partition_key(partition)) and not has_runs(
                instance, partition
            ):
                hide_partition(instance, kind, partition)
    comparison.note()


def _fail_run(instance: dg.DagsterInstance, run_id: str, message: str) -> None:
    run = instance.get_run_by_id(run_id)
    if run is not None and not run.is_finished:
        instance.report_run_failed(run, message)


def _free_pool_slots(instance: dg.DagsterInstance) -> None:
    """Free the slots in pools that ended runs still hold: Dagster frees none when a run's process is killed."""
    storage = instance.event_log_storage
    holders = storage.get_concurrency_run_ids() if storage.supports_global_concurrency_limits else set()
    for run in instance.get_runs(dg.RunsFilter(run_ids=list(holders))) if holders else ():
        if run.is_finished:
            storage.free_concurrency_slots_for_run(run.run_id)
