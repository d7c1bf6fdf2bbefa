"""Sensors: what happens without a click.

Lives here: the inbox and the pending work.
Add here when something else should start by itself.
Keep out: doing it. A sensor looks, registers and asks for runs.
"""

import json
import os
from collections.abc import Sequence

import dagster as dg

from cleanroom_pipelines.catalog import RECORDS, Lane, Status
from cleanroom_pipelines.defs.jobs import (
    asset_jobs,
    carry_out_deletions,
    rebuild_materializations,
    run_all_pending,
    score_shards,
)
from cleanroom_pipelines.defs.resources import InstallationResource
from cleanroom_pipelines.errors import CleanroomError
from cleanroom_pipelines.runs.deleting import find_pending_deletions
from cleanroom_pipelines.runs.inbox import (
    StillWrittenError,
    close_all_drops,
    find_drops,
    recover_drops,
    register_drop,
)
from cleanroom_pipelines.runs.installation import Installation
from cleanroom_pipelines.runs.rebuilding import has_history
from cleanroom_pipelines.runs.room_inbox import find_room_drops, provision_drop
from cleanroom_pipelines.runs.running import (
    LANE_TAG,
    PARTITION_TAG,
    UNFINISHED,
    WORKER_TAG,
    ready_work,
    run_request,
)
from cleanroom_pipelines.runs.shared_scoring import n_helpers_wanted
from cleanroom_pipelines.runs.supervision import fail_runs_that_never_appeared, supervise

_TICK_SECONDS = 5
# Up to so many versions get a run of their own; beyond it, workers take many in one process each.
_RUNS_OF_THEIR_OWN = 2
_MAX_WORKERS = {Lane.SMALL: 2, Lane.HEAVY: 1}


@dg.sensor(
    description="Makes every complete file in inbox/seeds/<configured audience model>/ a generation job.",
    minimum_interval_seconds=_TICK_SECONDS,
    default_status=dg.DefaultSensorStatus.RUNNING,
    job=run_all_pending,
)
def seed_inbox(context: dg.SensorEvaluationContext, installation: InstallationResource) -> dg.SensorResult:
    """Makes every complete file in inbox/seeds/<configured audience model>/ a generation job.

    A file is complete when its size and time of change are those of the tick before, and nobody writes it.
    """
    opened = installation.open()
    recover_drops(opened)
    before: dict[str, list[int]] = json.loads(context.cursor or "{}")
    seen: dict[str, list[int]] = {}
    n_registered = n_refused = n_left = 0
    for drop in find_drops(opened):
        key = opened.key.digest("inbox cursor", os.fsencode(drop.path))[:16]
        if before.get(key) != list(drop.signature):
            seen[key] = list(drop.signature)
            continue
        try:
            registered = register_drop(opened, drop)
        except StillWrittenError:
            seen[key] = list(drop.signature)
            continue
        except (CleanroomError, OSError) as error:
            # one file that cannot be taken now must not keep the others waiting
            context.log.warning(
                f"A dropped seed could not be taken ({type(error).__name__}); the next tick tries again."
            )
            seen[key] = list(drop.signature)
            n_left += 1
            continue
        n_registered, n_refused = n_registered + (registered is not None), n_refused + (registered is None)
    close_all_drops(opened)
    message = (
        f"Registered {n_registered} seeds, refused {n_refused}; {len(seen) - n_left} may still be being written."
    )
    if not (n_registered or n_refused or seen):
        message = "The inbox is empty."
    return dg.SensorResult(skip_reason=dg.SkipReason(message), cursor=json.dumps(seen))


@dg.sensor(
    description="Provisions data rooms with every complete file in inbox/rooms/<data room>/<dataset>/.",
    minimum_interval_seconds=_TICK_SECONDS,
    default_status=dg.DefaultSensorStatus.RUNNING,
    job=run_all_pending,
)
def room_inbox(context: dg.SensorEvaluationContext, installation: InstallationResource) -> dg.SensorResult:
    """Provisions data rooms with every complete file in inbox/rooms/<data room>/<dataset>/.

    A file is complete when its size and time of change are those of the tick before, and nobody writes it.
    """
    opened = installation.open()
    before: dict[str, list[int]] = json.loads(context.cursor or "{}")
    seen: dict[str, list[int]] = {}
    n_taken = n_left = 0
    for drop in find_room_drops(opened):
        key = opened.key.digest("inbox cursor", os.fsencode(drop.path))[:16]
        seen[key] = list(drop.signature)
        if before.get(key) != list(drop.signature):
            continue
        try:
            provision_drop(opened, drop)
            del seen[key]
            n_taken += 1
        except StillWrittenError:
            continue
        except (CleanroomError, OSError) as error:
            n_left += 1
            context.log.warning(f"A file dropped for a data room stays ({type(error).__name__}).")
    message = f"Took in {n_taken} files; {len(seen) - n_left} may still be being written, {n_left} stay."
    if not (n_taken or seen):
        message = "The inbox of data rooms is empty."
    return dg.SensorResult(skip_reason=dg.SkipReason(message), cursor=json.dumps(seen))


@dg.sensor(
    description="Starts runs for what is pending in the catalogue, and ends what went silent.",
    minimum_interval_seconds=_TICK_SECONDS,
    default_status=dg.DefaultSensorStatus.RUNNING,
    jobs=[*asset_jobs, run_all_pending, score_shards, carry_out_deletions, rebuild_materializations],
)
def pending_work(context: dg.SensorEvaluationContext, installation: InstallationResource) -> dg.SensorResult:
    """Starts runs for what is pending in the catalogue, deletions included, and ends what went silent."""
    opened, instance = installation.open(), context.instance
    supervise(opened, instance)
    fail_runs_that_never_appeared(opened, instance)
    unfinished = instance.get_runs(dg.RunsFilter(statuses=UNFINISHED))
    deletions = _deletion_requests(opened, instance, unfinished)
    helpers = _helper_requests(opened, unfinished)
    work, why_none = _work_requests(opened, instance, unfinished)
    rebuilding = _rebuilding_requests(opened, instance, unfinished)
    if deletions or helpers or work or rebuilding:
        return dg.SensorResult(run_requests=[*rebuilding, *deletions, *helpers, *work])
    return dg.SensorResult(skip_reason=dg.SkipReason(why_none))


def _work_requests(
    opened: Installation, instance: dg.DagsterInstance, unfinished: Sequence[dg.DagsterRun]
) -> tuple[list[dg.RunRequest], str]:
    """The runs that pending versions need, or why they need none."""
    answers = [_requests_of_lane(opened, instance, unfinished, lane) for lane in Lane]
    reasons = [reason for _, reason in answers if reason]
    if not reasons:
        is_pending = Status.CREATE_PENDING in opened.catalog.resources.unfinished()
        reasons = [
            "All pending work has its run or waits for other work." if is_pending else "Nothing is pending."
        ]
    return [request for requests, _ in answers for request in requests], " ".join(reasons)


def _requests_of_lane(
    opened: Installation, instance: dg.DagsterInstance, unfinished: Sequence[dg.DagsterRun], lane: Lane
) -> tuple[list[dg.RunRequest], str]:
    ready = ready_work(opened, instance, lane=lane)
    if not ready:
        return [], ""
    started = {run.tags.get("dagster/run_key") for run in unfinished}
    # a worker does what follows from what it builds
    followed = {run.tags.get(PARTITION_TAG) for run in unfinished if WORKER_TAG in run.tags}
    waiting = [
        version
        for version in ready
        if version.run_key not in started
        and opened.catalog.get(RECORDS[version.kind], version.resource_id).parent_id not in followed
    ]
    tried = [version for version in waiting if _was_tried(instance, version.run_key)]
    if len(waiting) <= _RUNS_OF_THEIR_OWN and not tried:
        reserved = [version for version in waiting if opened.catalog.work.reserve(version)]
        return [run_request(version, lane) for version in reserved], "All pending work has its run."
    is_worker = [run.job_name == run_all_pending.name and run.tags.get(LANE_TAG) == lane for run in unfinished]
    n_workers = sum(is_worker)
    wanted = min(_MAX_WORKERS[lane], -(-len(waiting) // (_RUNS_OF_THEIR_OWN + 1))) or 1
    worker = dg.RunRequest(job_name=run_all_pending.name, tags={LANE_TAG: lane.value})
    return [worker] * (wanted - n_workers), f"{n_workers} workers are at {len(ready)} pending {lane} versions."


def _helper_requests(opened: Installation, unfinished: Sequence[dg.DagsterRun]) -> list[dg.RunRequest]:
    """The runs that would find shards to score for another run."""
    n_running = sum(run.job_name == score_shards.name for run in unfinished)
    return [dg.RunRequest(job_name=score_shards.name) for _ in range(n_helpers_wanted(opened) - n_running)]


def _deletion_requests(
    opened: Installation, instance: dg.DagsterInstance, unfinished: Sequence[dg.DagsterRun]
) -> list[dg.RunRequest]:
    """A run that deletes, if something can be deleted and none does; a store may be too slow for a tick."""
    is_under_way = any(run.job_name == carry_out_deletions.name for run in unfinished)
    if is_under_way or not find_pending_deletions(opened, instance):
        return []
    return [dg.RunRequest(job_name=carry_out_deletions.name)]


def _rebuilding_requests(
    opened: Installation, instance: dg.DagsterInstance, unfinished: Sequence[dg.DagsterRun]
) -> list[dg.RunRequest]:
    """A run that rebuilds what Dagster's storage lacks, if it lacks something and none does."""
    is_under_way = any(run.job_name == rebuild_materializations.name for run in unfinished)
    if is_under_way or has_history(opened, instance):
        return []
    return [dg.RunRequest(job_name=rebuild_materializations.name)]


def _was_tried(instance: dg.DagsterInstance, run_key: str) -> bool:
    """Whether a run of this key ended without ever claiming its version: Dagster would not start another."""
    return bool(instance.get_runs(dg.RunsFilter(tags={"dagster/run_key": run_key}), limit=1))
