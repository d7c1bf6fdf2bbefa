"""Running what is pending: through Dagster, in this process.

Lives here: running the job of each kind of work here, what is ready to be run, and the heartbeat of whoever runs.
Add here when running needs something more.
Keep out: when to run (sensors, schedules) and what a run makes (building.py).
"""

import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from importlib import import_module
from threading import Event, Thread

import dagster as dg

from cleanroom_pipelines.catalog import Lane, Version
from cleanroom_pipelines.errors import CleanroomError
from cleanroom_pipelines.runs.deleting import delete_pending
from cleanroom_pipelines.runs.inbox import close_all_drops, recover_drops
from cleanroom_pipelines.runs.installation import Installation
from cleanroom_pipelines.runs.kinds import KINDS
from cleanroom_pipelines.runs.rebuilding import has_history, rebuild_history
from cleanroom_pipelines.runs.retention import housekeeping
from cleanroom_pipelines.runs.supervision import supervise
from cleanroom_pipelines.runs.traces import add_partitions
from cleanroom_pipelines.runs.work import Run, holding_for_run

CODE_LOCATION = "cleanroom_pipelines.definitions"
VERSION_TAG = "cleanroom/version"
WORKER_TAG = "cleanroom/worker"
LANE_TAG = "cleanroom/lane"
PARTITION_TAG = "dagster/partition"
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
    max_versions: int | None = None,
    on_start: Callable[[Version], None] = lambda _: None,
    on_failure: Callable[[Version], None] = lambda _: None,
    should_stop: Callable[[], bool] = lambda: False,
    passed_over: set[str] | None = None,
    lane: Lane | None = None,
) -> int:
    """Do all pending work in this process, through the same assets that a daemon would run; deletions too.

    Beside a daemon or another worker on the same home nothing is done twice: the claims see to it.

    Args:
        installation: Where to work.
        instance: Where the runs are recorded; None: the instance that DAGSTER_HOME names, else a passing one.
        worker: Id of the run this happens in, if any; the runs carry it.
        max_seconds: Start nothing more after this time.
        max_versions: Do at most so many.
        on_start: Told each version before it is run.
        on_failure: Told each version whose run failed.
        should_stop: Asked before each; nothing more is started then.
        passed_over: Run keys that are not started; those that were are added.
        lane: Do the work of one lane only, and after each heavy version the small ones that are made from it, such
            as its export: a process of their own would cost seconds.

    Returns:
        How many runs were made; a run that failed counts.

    Raises:
        KeyboardInterrupt: The process was asked to stop; what was under way is pending again.
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
        if max_versions is not None and n_runs >= max_versions:
            break
        if max_seconds is not None and time.monotonic() - begun > max_seconds:
            break
        follows = lane is Lane.HEAVY and ready_work(installation, instance, passed_over, Lane.SMALL, made_last)
        ready = follows or ready_work(installation, instance, passed_over, lane)
        if not ready:
            break
        version = ready[0]
        # A run that cannot even claim its row must not be started for ever.
        if not installation.catalog.work.reserve(version):
            continue  # another process starts a run for it
        passed_over.add(version.run_key)
        on_start(version)
        try:
            result = repository.get_job(KINDS[version.kind].job).execute_in_process(
                partition_key=version.resource_id,
                instance=instance,
                raise_on_error=False,
                tags={VERSION_TAG: str(version.number)} | ({WORKER_TAG: worker} if worker else {}),
                # with a stack of Dagster's own for each error; whoever runs this says what failed
                run_config={"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}},
            )
        except dg.DagsterUnknownPartitionError:
            continue  # its resource was deleted this very moment
        n_runs += 1
        made_last = made_last if follows else version.resource_id
        if _was_interrupted(result):
            raise KeyboardInterrupt
        if not result.success:
            on_failure(version)
    return n_runs


def ready_work(
    installation: Installation,
    instance: dg.DagsterInstance,
    passed_over: Collection[str] = (),
    lane: Lane | None = None,
    parent_id: str | None = None,
) -> tuple[Version, ...]:
    """The versions that can be run now, each of a partition that Dagster knows.

    Args:
        installation: Where.
        instance: Where they are to be run.
        passed_over: Run keys to leave out.
        lane: Only those of one lane.
        parent_id: Only those of resources that are made from this one.
    """
    ready = tuple(
        version
        for version in installation.catalog.work.ready(limit=100, lane=lane, parent_id=parent_id)
        if version.run_key not in passed_over and not (version.lease_expires_at and _is_queued(instance, version))
    )
    for kind in {version.kind for version in ready}:
        # a resource may be younger than the last look at all of them
        add_partitions(instance, kind, [version.resource_id for version in ready if version.kind is kind])
    return ready


def _is_queued(instance: dg.DagsterInstance, version: Version) -> bool:
    """Whether a run waits in Dagster's queue for a version whose reservation ran out meanwhile."""
    tag = {"dagster/run_key": version.run_key}
    return bool(instance.get_runs(dg.RunsFilter(tags=tag, statuses=UNFINISHED), limit=1))


def _was_interrupted(result: dg.ExecuteInProcessResult) -> bool:
    """Whether this process was asked to stop; Dagster makes a failure of the run of it and goes on."""
    errors = (getattr(event.event_specific_data, "error", None) for event in result.all_events if event.is_failure)
    interrupts = ("DagsterExecutionInterruptedError", "KeyboardInterrupt")
    return any(error.cls_name in interrupts for error in errors if error)


@contextmanager
def beating(
    installation: Installation, worker: str, *, every_seconds: float = HEARTBEAT_SECONDS
) -> Iterator[None]:
    """Say every quarter of a minute that this run is alive, so that a silent one can be told dead.

    A heartbeat that fails is sent again soon: one that the database missed must not end the others.
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
        with suppress(CleanroomError):  # whoever looks after a minute finds it silent
            installation.catalog.work.forget_worker(worker)


@contextmanager
def alive(installation: Installation, run: dg.DagsterRun, instance: dg.DagsterInstance) -> Iterator[None]:
    """Keep a Dagster run alive in the catalogue from its start to its end, waits for a pool included.

    A run that was started for a version claims it at once and holds it across its steps.
    """
    kind = next((kind for kind, row in KINDS.items() if row.job == run.job_name), None)
    partition = run.tags.get(PARTITION_TAG)
    with beating(installation, run.run_id):
        if kind is None or partition is None:
            yield
            return
        with holding_for_run(installation, kind, partition, run_of(run, instance)):
            yield


def run_of(run: dg.DagsterRun, instance: dg.DagsterInstance) -> Run:
    """What the catalogue needs to know of a Dagster run."""
    number = run.tags.get(VERSION_TAG)

    def was_cancelled() -> bool:
        now = instance.get_run_by_id(run.run_id)
        return now is not None and now.status is dg.DagsterRunStatus.CANCELING

    return Run(run.run_id, int(number) if number else None, was_cancelled)


def run_request(version: Version, lane: Lane) -> dg.RunRequest:
    """The run of one pending version; the run key lets Dagster start it once, the lane limits how many run."""
    return dg.RunRequest(
        job_name=KINDS[version.kind].job,
        partition_key=version.resource_id,
        run_key=version.run_key,
        tags={VERSION_TAG: str(version.number), LANE_TAG: lane.value},
    )


@cache
def load_repository() -> dg.RepositoryDefinition:
    """The shell, loaded by its name as a daemon loads it: what runs the assets is below them."""
    repository: dg.RepositoryDefinition = import_module(CODE_LOCATION).defs().get_repository_def()
    return repository


def _instance() -> dg.DagsterInstance:
    import os

    return dg.DagsterInstance.get() if os.environ.get("DAGSTER_HOME") else dg.DagsterInstance.ephemeral()
