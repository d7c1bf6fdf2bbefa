"""Pending work becomes runs, once each, and nothing stays in progress forever.

Contract: each version gets one run with its own run key; if many wait, workers do them, and also the small work
that follows. A run that stopped responding is marked as failed and its version is pending again; after three
attempts it is CREATE_FAILED. Dagster shows the partitions of the catalogue. Whatever an asset raises, its version
is closed and the message contains no data.
"""

from collections.abc import Callable
from pathlib import Path
from threading import Barrier, Thread

import dagster as dg
import pytest

from cleanroom_pipelines.audiences.sizes import AudienceSize
from cleanroom_pipelines.catalog import RESERVED_SECONDS, ConfiguredAudienceModelSpec, Kind, Lane, TrainingDataset
from cleanroom_pipelines.errors import StatusCode
from cleanroom_pipelines.runs.running import run_pending
from cleanroom_pipelines.runs.supervision import supervise

from .. import worlds
from .conftest import Shell, repository
from .ticks import as_run, tick

RUNNING, WAITING = dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.NOT_STARTED


def status_of(shell: Shell, run_id: str) -> dg.DagsterRunStatus:
    run = shell.instance.get_run_by_id(run_id)
    assert run is not None
    return run.status


def add_models(shell: Shell, n: int) -> list[str]:
    """So many cheap pieces of work."""
    specs = (
        ConfiguredAudienceModelSpec(
            name=f"Model {number}",
            audience_model_id=shell.partition("audience_model"),
            sizes=(AudienceSize.parse("10%"),),
            output_url="s3://audiences/many",
            min_matching_seed_size=25,
        )
        for number in range(n)
    )
    return [shell.installation.catalog.resources.create(spec).id for spec in specs]


def test_no_pending_work_starts_no_run(trained: Shell) -> None:
    found = tick(trained, "pending_work")
    assert found.run_requests == []
    assert found.skip_message == "No work is pending."


def test_each_version_gets_one_run(trained: Shell) -> None:
    first, second = add_models(trained, 2)
    requests = tick(trained, "pending_work").run_requests
    assert {request.partition_key for request in requests} == {first, second}
    for request in requests:
        version = trained.installation.catalog.resources.newest_version(
            Kind.CONFIGURED_AUDIENCE_MODEL, request.partition_key
        )
        assert request.job_name == "configure_audience_model"
        assert request.run_key == version.run_key
        assert request.tags["cleanroom/version"] == "1"


def test_version_with_an_unclaimed_run_gets_no_second_run(trained: Shell) -> None:
    (key,) = add_models(trained, 1)
    (request,) = tick(trained, "pending_work").run_requests
    tags = {"dagster/run_key": request.run_key, "dagster/partition": key}
    run = as_run(trained, request.job_name, RUNNING, **tags)
    for later in (0.0, RESERVED_SECONDS + 1):
        worlds.later(trained.installation, seconds=later).catalog.work.heartbeat_worker(run)
        again = tick(trained, "pending_work", later=later)
        assert again.run_requests == []
        assert again.skip_message == "All pending work has a run or waits for other work."


def test_version_whose_run_ended_unclaimed_is_taken_by_a_worker(trained: Shell) -> None:
    (key,) = add_models(trained, 1)
    (request,) = tick(trained, "pending_work").run_requests
    tags = {"dagster/run_key": request.run_key, "dagster/partition": key}
    as_run(trained, request.job_name, dg.DagsterRunStatus.FAILURE, **tags)
    assert tick(trained, "pending_work").run_requests == [], "the version is reserved for it"
    (worker,) = tick(trained, "pending_work", later=RESERVED_SECONDS + 1).run_requests
    assert worker.job_name == "run_all_pending", "Dagster starts no second run under a key it has seen"


def test_many_versions_go_to_at_most_two_workers(trained: Shell) -> None:
    add_models(trained, 12)
    requests = tick(trained, "pending_work").run_requests
    assert [request.job_name for request in requests] == ["run_all_pending"] * 2
    small = {"cleanroom/lane": "small"}
    as_run(trained, "run_all_pending", RUNNING, **small)
    assert len(tick(trained, "pending_work").run_requests) == 1
    as_run(trained, "run_all_pending", WAITING, **small)
    found = tick(trained, "pending_work")
    assert found.run_requests == []
    assert found.skip_message == "2 workers are processing 12 pending small versions."


def test_worker_does_all_work_in_one_process(trained: Shell) -> None:

    keys = add_models(trained, 4)
    job = repository().get_job("run_all_pending")
    result = job.execute_in_process(instance=trained.instance, raise_on_error=False)
    assert result.success
    for key in keys:
        (made,) = worlds.materializations(trained.instance, "configured_audience_model", key)
        assert made.partition == key
    inner = [run for run in trained.instance.get_runs() if run.tags.get("cleanroom/worker") == result.run_id]
    assert len(inner) == 4
    assert trained.installation.catalog.resources.live_runs() == frozenset()


def test_heavy_worker_does_the_small_follow_up_work(trained: Shell, world: worlds.World) -> None:
    worlds.apply(trained.installation, world.declaration)
    (other,) = add_models(trained, 1)
    started: list[Kind] = []
    n_runs = run_pending(
        trained.installation,
        trained.instance,
        lane=Lane.HEAVY,
        on_start=lambda version: started.append(version.kind),
    )
    assert (n_runs, started) == (2, [Kind.GENERATION_JOB, Kind.EXPORT_JOB])
    assert [version.resource_id for version in trained.installation.catalog.work.ready()] == [other], (
        "not made from it"
    )


def test_follow_up_work_of_a_worker_gets_no_separate_run(trained: Shell) -> None:
    (key,) = add_models(trained, 1)
    model = {"dagster/partition": trained.partition("audience_model")}
    run = as_run(trained, "train_audience_model", RUNNING, **model, **{"cleanroom/worker": "a worker"})
    assert tick(trained, "pending_work").run_requests == []
    trained.instance.report_run_failed(trained.instance.get_run_by_id(run) or pytest.fail())
    (request,) = tick(trained, "pending_work").run_requests
    assert request.partition_key == key


def test_expired_run_is_failed_and_its_work_retried_up_to_three_times(trained: Shell) -> None:
    (key,) = add_models(trained, 1)
    catalog, kind = trained.installation.catalog, Kind.CONFIGURED_AUDIENCE_MODEL
    keys = set()
    for attempt in (1, 2, 3):
        keys.add(catalog.resources.newest_version(kind, key).run_key)
        run_id = as_run(trained, "configure_audience_model", RUNNING, **{"dagster/partition": key})
        assert catalog.work.claim(kind, key, 1, run_id) is not None
        assert tick(trained, "pending_work").run_requests == [], "its lease has not run out"
        assert status_of(trained, run_id) is RUNNING
        requests = tick(trained, "pending_work", later=61).run_requests
        version = catalog.resources.newest_version(kind, key)
        assert status_of(trained, run_id) is dg.DagsterRunStatus.FAILURE
        if attempt < 3:
            assert (version.status, version.attempt) == ("CREATE_PENDING", attempt)
            assert [request.run_key for request in requests] == [version.run_key]
        else:
            assert (version.status, version.status_code) == ("CREATE_FAILED", StatusCode.INTERNAL)
            assert requests == []
    assert len(keys) == 3, "Dagster starts no second run under a key it has seen"


@pytest.mark.parametrize("status", [RUNNING, WAITING])
def test_run_whose_process_never_started_is_failed(trained: Shell, status: dg.DagsterRunStatus) -> None:
    lost = as_run(trained, "run_all_pending", status)
    alive = as_run(trained, "run_all_pending", RUNNING)
    trained.installation.catalog.work.heartbeat_worker(alive)
    tick(trained, "pending_work")
    assert status_of(trained, lost) is status, "starting a process takes its time"
    worlds.later(trained.installation, seconds=200).catalog.work.heartbeat_worker(alive)
    tick(trained, "pending_work", later=200)
    assert status_of(trained, lost) is dg.DagsterRunStatus.FAILURE
    assert status_of(trained, alive) is RUNNING


def test_never_launched_run_does_not_block_its_version(trained: Shell) -> None:
    (key,) = add_models(trained, 1)
    (request,) = tick(trained, "pending_work").run_requests
    tags = {"dagster/run_key": request.run_key, "dagster/partition": key}
    as_run(trained, request.job_name, WAITING, **tags)
    assert tick(trained, "pending_work").run_requests == []
    (instead,) = tick(trained, "pending_work", later=200).run_requests
    assert instead.job_name == "run_all_pending"


def test_worker_without_heartbeats_is_failed_and_removed(trained: Shell) -> None:
    worker = as_run(trained, "run_all_pending", RUNNING)
    trained.installation.catalog.work.heartbeat_worker(worker)
    tick(trained, "pending_work", later=61)
    assert status_of(trained, worker) is dg.DagsterRunStatus.FAILURE
    assert trained.installation.catalog.resources.live_runs() == frozenset()


def test_killed_run_does_not_block_its_pool(trained: Shell) -> None:
    storage = trained.instance.event_log_storage
    storage.set_concurrency_slots("memory", 1)
    killed = as_run(trained, "train_audience_model", RUNNING)
    assert storage.claim_concurrency_slot("memory", killed, "audience_model").is_claimed
    tick(trained, "pending_work")
    assert storage.get_concurrency_info("memory").active_run_ids == {killed}
    run = trained.instance.get_run_by_id(killed)
    assert run is not None
    trained.instance.report_run_failed(run, "The process ended.")  # as Dagster's code server does at once
    tick(trained, "pending_work")
    assert storage.claim_concurrency_slot("memory", "the next run", "audience_model").is_claimed


def test_partitions_match_the_catalogue(trained: Shell) -> None:
    (key,) = add_models(trained, 1)
    stranger = "nobody-0123456789ab"
    trained.instance.add_dynamic_partitions("configured_audience_models", ["a slip of the pen", stranger])
    tick(trained, "pending_work")
    shown = set(trained.instance.get_dynamic_partitions("configured_audience_models"))
    # Nothing says that a resource of that key was deleted: it may be what a lost catalogue knew.
    assert shown == {stranger, *trained.installation.catalog.resources.ids(Kind.CONFIGURED_AUDIENCE_MODEL)}
    assert key in shown


def test_concurrent_processes_may_add_partitions(trained: Shell) -> None:
    # each worker and the sensor look before every piece of work; Dagster itself looks and then inserts
    keys = add_models(trained, 30)
    n_workers, failures = 8, list[BaseException]()
    compared = f"cleanroom/partitions/{trained.installation.opened.identity.id}"
    barrier = Barrier(n_workers)

    def look() -> None:
        with worlds.dagster_at(trained.folder / "dagster", one_file=True) as instance:
            for _ in range(6):
                if barrier.wait(300) == 0:
                    for key in keys:
                        instance.delete_dynamic_partition("configured_audience_models", key)
                    instance.daemon_cursor_storage.set_cursor_values({compared: ""})  # as if they were new
                barrier.wait(300)
                try:
                    supervise(trained.installation, instance)
                except Exception as error:
                    failures.append(error)

    workers = [Thread(target=look) for _ in range(n_workers)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert failures == []
    assert set(keys) < set(trained.instance.get_dynamic_partitions("configured_audience_models"))


def test_job_of_a_failed_model_fails_too(
    new_shell: Callable[[str], Shell], world: worlds.World, tmp_path: Path
) -> None:
    shell = new_shell("room")
    declaration = worlds.declare(
        tmp_path / "orphans.yaml", interactions=tmp_path / "missing.parquet", seed=world.seed
    )
    worlds.apply(shell.installation, declaration)
    shell.run_pending()
    tick(shell, "pending_work")
    for kind in worlds.ROAD:
        version = worlds.newest(shell.installation, kind)
        assert version.status == "CREATE_FAILED", kind
        assert version.status_code is not None
        assert version.status_message


def test_version_is_closed_after_any_error(trained: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    from cleanroom_pipelines.uploads import profile

    raised: list[Exception] = [
        RuntimeError("secret"),
        MemoryError("secret"),
        AssertionError("secret"),
        UnicodeDecodeError("utf-8", b"secret", 0, 1, "secret"),
    ]

    def break_down(*_: object, **__: object) -> None:
        raise raised[-1]

    monkeypatch.setattr(profile, "profile_interactions", break_down)
    dataset = trained.partition("training_dataset")
    while raised:
        result = trained.materialize("training_dataset", partition=dataset)
        assert not result.success
        version = worlds.newest(trained.installation, Kind.TRAINING_DATASET)
        assert (version.status, version.status_code) == ("CREATE_FAILED", StatusCode.INTERNAL)
        assert version.status_message is not None
        assert type(raised.pop()).__name__ in version.status_message
        assert "secret" not in version.status_message
        assert all("secret" not in str(log) for log in trained.instance.all_logs(result.run_id))
        assert trained.installation.catalog.get(TrainingDataset, dataset).current_version == 1
