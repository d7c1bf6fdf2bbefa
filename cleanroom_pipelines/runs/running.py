"""Running pending work through Dagster in this process.

Lives here: running the job of each kind of work, finding work that is ready to run, and heartbeats.
Add here when running work needs something more.
Keep out: when to run (sensors, schedules) and building (`building*.py`).
"""

import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from threading import Event, Thread

import dagster as dg

from cleanroom_pipelines.catalog import Catalog, Kind, Lane, Version
from cleanroom_pipelines.errors import CleanroomError, NotFoundError
from cleanroom_pipelines.runs.dagster_home import LOCATION_TAGS, load_repository, origin_of
from cleanroom_pipelines.runs.deleting import delete_pending
from cleanroom_pipelines.runs.inbox import close_all_drops, recover_drops
from cleanroom_pipelines.runs.installation import Installation
from cleanroom_pipelines.runs.kinds import KINDS
from cleanroom_pipelines.runs.labels import LANE_TAG, PARTITION_TAG, VERSION_TAG, WAY_TAG, WORKER_TAG, tags_of
from cleanroom_pipelines.runs.rebuilding import has_history, rebuild_history
from cleanroom_pipelines.runs.retention import housekeeping
from cleanroom_pipelines.runs.supervision import supervise
from cleanroom_pipelines.runs.traces import add_partitions
from cleanroom_pipelines.runs.work import Run, holding_for_run

SCORING_JOB = "score_shards"

HEARTBEAT_SECONDS = 15.0
UNFINISHED = [
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
]


def run_pending(
    installation: Installation,
    instance: dg.DagsterInstance | None = None,
    *,
    worker: str | None = None,
    max_seconds: float | None = None,
    on_start: Callable[[Version], None] = lambda _: None,
    on_failure: Callable[[Version], None] = lambda _: None,
    should_stop: Callable[[], bool] = lambda: False,
    passed_over: set[str] | None = None,
    lane: Lane | None = None,
) -> int:
    """Do all pending work, including deletions, in this process, as a Dagster daemon would.

    Claims ensure that a daemon or another worker on the same home does not repeat any work.

    Args:
        installation: The installation to work on.
        instance: Where the runs are recorded; None: the instance in DAGSTER_HOME, or else an ephemeral one.
        worker: Id of the surrounding run, if any; the runs carry it as a tag.
        max_seconds: Start nothing more after this time.
        on_start: Called with each version before its run.
        on_failure: Called with each version whose run failed.
        should_stop: Checked before each version; when true, nothing more is started.
        passed_over: Run keys to skip; the keys of started runs are added.
        lane: Do the work of one lane only. Small work that depends on a heavy version, such as its export, follows
            at once in this process, because a separate process would take seconds.

    Returns:
        Number of runs, including failed ones.

    Raises:
        KeyboardInterrupt: The process was asked to stop; unfinished work is pending again.
    """
    instance = instance or _instance()
    repository = load_repository()
    begun, n_runs, made_last = time.monotonic(), 0, ""
    passed_over = set() if passed_over is None else passed_over
    installation.check()
    housekeeping(installation, instance)
    recover_drops(installation)
    close_all_drops(installation)
    supervise(installation, instance)
    if not has_history(installation, instance):
        rebuild_history(installation, instance, should_stop)
    while not should_stop():
        supervise(installation, instance)
        delete_pending(installation, instance)
        if max_seconds is not None and time.monotonic() - begun > max_seconds:
            break
        follows = lane is Lane.HEAVY and ready_work(installation, instance, passed_over, Lane.SMALL, made_last)
        ready = follows or ready_work(installation, instance, passed_over, lane)
        if not ready:
            break
        version = ready[0]
        # Do not restart a run forever if it cannot even claim its row.
        if not installation.catalog.work.reserve(version):
            continue  # another process starts a run for it
        passed_over.add(version.run_key)
        on_start(version)
        try:
            result = repository.get_job(KINDS[version.kind].job).execute_in_process(
                partition_key=version.resource_id,
                instance=instance,
                raise_on_error=False,
                tags=tags_of(installation.catalog, version)
                | LOCATION_TAGS
                | ({WORKER_TAG: worker} if worker else {}),
                # Dagster logs a stack trace for each error; the caller reports the failure instead
                run_config={"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}},
            )
        except dg.DagsterUnknownPartitionError:
            continue  # its resource was deleted at this moment
        n_runs += 1
        made_last = made_last if follows else version.resource_id
        if _was_interrupted(result):
            raise KeyboardInterrupt
        if not result.success:
            on_failure(version)
    if n_runs:
        supervise(installation, instance)
    return n_runs


def ready_work(
    installation: Installation,
    instance: dg.DagsterInstance,
    passed_over: Collection[str] = (),
    lane: Lane | None = None,
    parent_id: str | None = None,
) -> tuple[Version, ...]:
    """Find the versions that can run now, and create their partitions in Dagster.

    Args:
        installation: The installation to work on.
        instance: Dagster's instance for the runs.
        passed_over: Run keys to skip.
        lane: Only versions of this lane.
        parent_id: Only versions of this resource's children.
    """
    ready = tuple(
        version
        for version in installation.catalog.work.ready(limit=100, lane=lane, parent_id=parent_id)
        if version.run_key not in passed_over and not (version.lease_expires_at and _is_queued(instance, version))
    )
    for kind in {version.kind for version in ready}:
        # a resource may be newer than the last sync of all partitions
        add_partitions(instance, kind, [version.resource_id for version in ready if version.kind is kind])
    return ready


def _is_queued(instance: dg.DagsterInstance, version: Version) -> bool:
    """Whether a run for a version is still in Dagster's queue, although its reservation has expired."""
    tag = {"dagster/run_key": version.run_key}
    return bool(instance.get_runs(dg.RunsFilter(tags=tag, statuses=UNFINISHED), limit=1))


def _was_interrupted(result: dg.ExecuteInProcessResult) -> bool:
    """Whether this process was asked to stop; Dagster itself only reports a failed run and continues."""
    errors = (getattr(event.event_specific_data, "error", None) for event in result.all_events if event.is_failure)
    interrupts = ("DagsterExecutionInterruptedError", "KeyboardInterrupt")
    return any(error.cls_name in interrupts for error in errors if error)


@contextmanager
def sending_heartbeats(
    installation: Installation, worker: str, *, every_seconds: float = HEARTBEAT_SECONDS
) -> Iterator[None]:
    """Send a heartbeat for this worker every 15 seconds, so that other processes notice if the worker dies.

    A failed heartbeat is retried soon: a brief database failure must not stop the heartbeats.
    """
    ended = Event()

    def beat() -> None:
        wait = every_seconds
        while not ended.wait(wait):
            try:
                installation.catalog.work.heartbeat_worker(worker)
                wait = every_seconds
            except CleanroomError:
                wait = every_seconds / 10

    installation.catalog.work.heartbeat_worker(worker)
    thread = Thread(target=beat, name="heartbeat", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        with suppress(CleanroomError):  # after a minute without heartbeats it counts as dead anyway
            installation.catalog.work.forget_worker(worker)


@contextmanager
def alive(installation: Installation, run: dg.DagsterRun, instance: dg.DagsterInstance) -> Iterator[None]:
    """Send heartbeats for a Dagster run from start to end, even while its steps wait for a free pool slot.

    A run started for a version claims it at once and holds the claim across its steps.
    """
    kind = next((kind for kind, row in KINDS.items() if row.job == run.job_name), None)
    partition = run.tags.get(PARTITION_TAG)
    _complete_record(installation, run, instance, kind)
    with sending_heartbeats(installation, run.run_id):
        if kind is None or partition is None:
            yield
            return
        with holding_for_run(installation, kind, partition, run_of(run, instance)):
            yield


def _complete_record(
    installation: Installation, run: dg.DagsterRun, instance: dg.DagsterInstance, kind: Kind | None
) -> None:
    """Make Dagster's pages list a run: add the code location to a worker's run, and tags to a manual run."""
    tags = dict[str, str]()
    if run.remote_job_origin is None:
        instance.run_storage.replace_job_origin(run, origin_of(run.job_name))
    partition = run.tags.get(PARTITION_TAG)
    if kind is not None and partition is not None and VERSION_TAG not in run.tags:
        with suppress(NotFoundError):  # a step reports it
            version = installation.catalog.resources.newest_version(kind, partition)
            by_hand = tags_of(installation.catalog, version) | {WAY_TAG: "ui"}
            tags |= {key: value for key, value in by_hand.items() if key != VERSION_TAG}
    if tags:
        instance.add_run_tags(run.run_id, tags)


def run_of(run: dg.DagsterRun, instance: dg.DagsterInstance) -> Run:
    """Return the details of a Dagster run that are stored in the catalogue."""
    number = run.tags.get(VERSION_TAG)

    def was_cancelled() -> bool:
        now = instance.get_run_by_id(run.run_id)
        return now is not None and now.status is dg.DagsterRunStatus.CANCELING

    return Run(run.run_id, int(number) if number else None, was_cancelled)


def run_request(catalog: Catalog, version: Version, lane: Lane) -> dg.RunRequest:
    """Build the run request of a pending version; its run key prevents a second run, its lane tag limits load."""
    return dg.RunRequest(
        job_name=KINDS[version.kind].job,
        partition_key=version.resource_id,
        run_key=version.run_key,
        tags=tags_of(catalog, version) | {LANE_TAG: lane.value},
    )


def _instance() -> dg.DagsterInstance:
    import os

    return dg.DagsterInstance.get() if os.environ.get("DAGSTER_HOME") else dg.DagsterInstance.ephemeral()
