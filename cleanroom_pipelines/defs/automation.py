"""Sensors and schedules: work that starts automatically.

Lives here: the sensors for the inboxes and for pending work; declared refreshes and nightly cleanup.
Add here when something else should start automatically or at set times.
Keep out: how often a model is refreshed, which its declaration says; doing the work. A sensor finds work,
registers it and requests runs.
"""

import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Sequence

import dagster as dg

from cleanroom_pipelines.catalog import RECORDS, Lane, Status
from cleanroom_pipelines.defs.declaring import in_words
from cleanroom_pipelines.defs.jobs import (
    asset_jobs,
    carry_out_deletions,
    housekeeping,
    rebuild_materializations,
    run_all_pending,
    score_shards,
)
from cleanroom_pipelines.defs.resources import InstallationResource
from cleanroom_pipelines.runs.deleting import find_pending_deletions
from cleanroom_pipelines.runs.drops import Drop
from cleanroom_pipelines.runs.inbox import close_all_drops, find_drops, ingest, recover_drops, register_drop
from cleanroom_pipelines.runs.installation import Installation
from cleanroom_pipelines.runs.labels import LANE_TAG, PARTITION_TAG, WORKER_TAG
from cleanroom_pipelines.runs.rebuilding import has_history
from cleanroom_pipelines.runs.room_inbox import find_room_drops, provision_drop
from cleanroom_pipelines.runs.running import UNFINISHED, ready_work, run_request
from cleanroom_pipelines.runs.shared_scoring import n_helpers_wanted
from cleanroom_pipelines.runs.supervision import fail_runs_that_never_appeared, supervise
from cleanroom_pipelines.ways_in import acting_for

_TICK_SECONDS = 5
# Up to this many versions get a run each; beyond that, each worker process handles many versions.
_RUNS_OF_THEIR_OWN = 2
_MAX_WORKERS = {Lane.SMALL: 2, Lane.HEAVY: 1}


@dg.sensor(
    description="Registers every complete file in inbox/seeds/<configured audience model>/ as a generation job.",
    minimum_interval_seconds=_TICK_SECONDS,
    default_status=dg.DefaultSensorStatus.RUNNING,
    job=run_all_pending,
)
@in_words
def seed_inbox(context: dg.SensorEvaluationContext, installation: InstallationResource) -> dg.SensorResult:
    """Registers every complete file in inbox/seeds/<configured audience model>/ as a generation job.

    A file is complete when its size and modification time have not changed since the last tick and no process
    writes to it.
    """
    opened = installation.open()
    recover_drops(opened)
    result = _ingest_unchanged(context, opened, find_drops(opened), register_drop)
    close_all_drops(opened)
    return result


@dg.sensor(
    description="Provisions a data room with each complete file in inbox/rooms/<data room>/<dataset>/.",
    minimum_interval_seconds=_TICK_SECONDS,
    default_status=dg.DefaultSensorStatus.RUNNING,
    job=run_all_pending,
)
@in_words
def room_inbox(context: dg.SensorEvaluationContext, installation: InstallationResource) -> dg.SensorResult:
    """Provisions a data room with each complete file in inbox/rooms/<data room>/<dataset>/.

    A file is complete when its size and modification time have not changed since the last tick and no process
    writes to it.
    """
    opened = installation.open()
    return _ingest_unchanged(context, opened, find_room_drops(opened), provision_drop)


@dg.sensor(
    description="Starts runs for pending work in the catalogue, and ends runs that stopped responding.",
    minimum_interval_seconds=_TICK_SECONDS,
    default_status=dg.DefaultSensorStatus.RUNNING,
    jobs=[*asset_jobs, run_all_pending, score_shards, carry_out_deletions, rebuild_materializations],
)
@in_words
def pending_work(context: dg.SensorEvaluationContext, installation: InstallationResource) -> dg.SensorResult:
    """Starts runs for pending work, including deletions, and ends runs that stopped responding."""
    opened, instance = installation.open(), context.instance
    supervise(opened, instance)
    fail_runs_that_never_appeared(opened, instance)
    unfinished = instance.get_runs(dg.RunsFilter(statuses=UNFINISHED))
    deletions = _deletion_requests(opened, instance, unfinished)
    helpers = _helper_requests(opened, unfinished)
    work, why_none = _work_requests(opened, instance, unfinished)
    rebuilding = _rebuilding_requests(opened, instance, unfinished)
    if requests := [*rebuilding, *deletions, *helpers, *work]:
        by_job = Counter(request.job_name for request in requests)
        started = ", ".join(f"{n} of {job}" for job, n in by_job.items())
        context.log.info(
            f"Started {len(requests)} run{'s' if len(requests) > 1 else ''}: {started}. {why_none}".strip()
        )
        return dg.SensorResult(run_requests=requests)
    return dg.SensorResult(skip_reason=dg.SkipReason(why_none))


def _ingest_unchanged(
    context: dg.SensorEvaluationContext,
    opened: Installation,
    drops: Iterable[Drop],
    take: Callable[[Installation, Drop], object],
) -> dg.SensorResult:
    """Ingest the inbox files that are unchanged since the last tick; record the other files in the cursor."""
    before: dict[str, list[int]] = json.loads(context.cursor or "{}")
    keys = {drop: opened.key.digest("inbox cursor", os.fsencode(drop.path))[:16] for drop in drops}
    changed = [drop for drop, key in keys.items() if before.get(key) != list(drop.signature)]
    found = ingest(opened, (drop for drop, key in keys.items() if before.get(key) == list(drop.signature)), take)
    found.incomplete += changed
    for _, error in found.failed:
        context.log.warning(f"An inbox file could not be ingested ({error}). The sensor retries at its next tick.")
    seen = {keys[drop]: list(drop.signature) for drop in (*found.incomplete, *(drop for drop, _ in found.failed))}
    message = f"Files in the inbox: {found}." if str(found) else "The inbox is empty."
    if str(found):
        context.log.info(message)  # the page of a tick shows its log
    return dg.SensorResult(skip_reason=dg.SkipReason(message), cursor=json.dumps(seen))


def _work_requests(
    opened: Installation, instance: dg.DagsterInstance, unfinished: Sequence[dg.DagsterRun]
) -> tuple[list[dg.RunRequest], str]:
    """Return run requests for pending versions, and the reason to report if there are none."""
    by_lane = [_requests_of_lane(opened, instance, unfinished, lane) for lane in Lane]
    reasons = [reason for _, reason in by_lane if reason]
    if not reasons:
        is_pending = Status.CREATE_PENDING in opened.catalog.resources.unfinished()
        reasons = ["All pending work has a run or waits for other work." if is_pending else "No work is pending."]
    return [request for requests, _ in by_lane for request in requests], " ".join(reasons)


def _requests_of_lane(
    opened: Installation, instance: dg.DagsterInstance, unfinished: Sequence[dg.DagsterRun], lane: Lane
) -> tuple[list[dg.RunRequest], str]:
    ready = ready_work(opened, instance, lane=lane)
    if not ready:
        return [], ""
    started = {run.tags.get("dagster/run_key") for run in unfinished}
    # a worker also builds the children of the versions it builds
    followed = {run.tags.get(PARTITION_TAG) for run in unfinished if WORKER_TAG in run.tags}
    waiting = [
        version
        for version in ready
        if version.run_key not in started
        and not (followed and opened.catalog.get(RECORDS[version.kind], version.resource_id).parent_id in followed)
    ]
    tried = [version for version in waiting if _was_tried(instance, version.run_key)]
    if len(waiting) <= _RUNS_OF_THEIR_OWN and not tried:
        reserved = [version for version in waiting if opened.catalog.work.reserve(version)]
        return [
            run_request(opened.catalog, version, lane) for version in reserved
        ], "All pending work already has runs."
    is_worker = [run.job_name == run_all_pending.name and run.tags.get(LANE_TAG) == lane for run in unfinished]
    n_workers = sum(is_worker)
    wanted = min(_MAX_WORKERS[lane], -(-len(waiting) // (_RUNS_OF_THEIR_OWN + 1))) or 1
    worker = dg.RunRequest(job_name=run_all_pending.name, tags={LANE_TAG: lane.value})
    reason = f"{n_workers} workers are processing {len(ready)} pending {lane} versions."
    return [worker] * (wanted - n_workers), reason


def _helper_requests(opened: Installation, unfinished: Sequence[dg.DagsterRun]) -> list[dg.RunRequest]:
    """Request runs that help to score: at most one for each group of users that no run has claimed."""
    n_running = sum(run.job_name == score_shards.name for run in unfinished)
    return [dg.RunRequest(job_name=score_shards.name) for _ in range(n_helpers_wanted(opened) - n_running)]


def _deletion_requests(
    opened: Installation, instance: dg.DagsterInstance, unfinished: Sequence[dg.DagsterRun]
) -> list[dg.RunRequest]:
    """Request a deletion run, unless one is unfinished or nothing can be deleted.

    Stores may be too slow to delete from them within a tick.
    """
    is_under_way = any(run.job_name == carry_out_deletions.name for run in unfinished)
    if is_under_way or not find_pending_deletions(opened, instance):
        return []
    return [dg.RunRequest(job_name=carry_out_deletions.name)]


def _rebuilding_requests(
    opened: Installation, instance: dg.DagsterInstance, unfinished: Sequence[dg.DagsterRun]
) -> list[dg.RunRequest]:
    """Request a rebuild run, unless one is unfinished or Dagster's storage is complete."""
    is_under_way = any(run.job_name == rebuild_materializations.name for run in unfinished)
    if is_under_way or has_history(opened, instance):
        return []
    return [dg.RunRequest(job_name=rebuild_materializations.name)]


def _was_tried(instance: dg.DagsterInstance, run_key: str) -> bool:
    """Check whether Dagster has a run with this key, in which case it would not start another one."""
    return bool(instance.get_runs(dg.RunsFilter(tags={"dagster/run_key": run_key}), limit=1))


@dg.schedule(
    description="Requests a new version of every model whose declared refresh is due.",
    cron_schedule="*/5 * * * *",
    job=run_all_pending,
    default_status=dg.DefaultScheduleStatus.RUNNING,
)
@in_words
def declared_refreshes(context: dg.ScheduleEvaluationContext, installation: InstallationResource) -> dg.SkipReason:
    """Requests a new version of every model whose declared refresh is due; the pending_work sensor runs it."""
    catalog = installation.open().catalog
    due = catalog.work.due_refreshes()
    with acting_for("schedule"):
        for model in due:
            catalog.work.request_refresh(model.id)
    return dg.SkipReason(f"Requested {len(due)} refreshes." if due else "No declared refresh is due.")


@dg.schedule(
    description="Deletes superseded artifacts every night.",
    cron_schedule="30 3 * * *",
    job=housekeeping,
    default_status=dg.DefaultScheduleStatus.RUNNING,
)
@in_words
def nightly_housekeeping(context: dg.ScheduleEvaluationContext) -> dg.RunRequest:
    """Starts the job that deletes superseded artifacts."""
    return dg.RunRequest()
