"""The worker of `cleanroom serve` does what comes, shows it in Dagster's UI, and ends when it should.

Contract: new work and deletions are noticed at the next poll; on SIGTERM unfinished work is requeued, and SIGKILL
costs only the time of the lease; the worker ends with its parent; its runs are in the home's own Dagster; two
workers do nothing twice; a failed poll does not end the worker.
"""

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path

import dagster as dg
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from cleanroom_pipelines.catalog import CatalogUnavailableError, Kind, Status, Version
from cleanroom_pipelines.runs import serving_worker
from cleanroom_pipelines.runs.dagster_home import dagster_instance
from cleanroom_pipelines.runs.installation import Installation
from cleanroom_pipelines.runs.kinds import ASSETS_OF
from cleanroom_pipelines.runs.serving_worker import Rounds, work_until_stopped

from .. import worlds
from . import preloaded_worker

POLL = 0.1


@pytest.fixture
def room(tmp_path: Path) -> Iterator[Installation]:
    with worlds.installed(tmp_path / "home") as installation, pytest.MonkeyPatch.context() as patch:
        patch.delenv("DAGSTER_HOME", raising=False)
        worlds.with_catalog(installation.home)
        yield installation


@pytest.fixture
def history(room: Installation) -> Iterator[dg.DagsterInstance]:
    """The home's own Dagster, to look at."""
    with dagster_instance(room) as instance:
        yield instance


@pytest.fixture
def dataset(world: worlds.World, tmp_path: Path) -> Path:
    """A declaration of the cheapest real work: a dataset."""
    import yaml

    form = yaml.safe_load(world.declaration.read_text())
    path = tmp_path / "dataset.yaml"
    path.write_text(yaml.safe_dump({"training_datasets": form["training_datasets"]}))
    return path


@contextmanager
def working(room: Installation) -> Iterator[None]:
    """A worker in a thread, stopped at the end."""
    stopped = threading.Event()
    failures: list[BaseException] = []

    def work() -> None:
        try:
            work_until_stopped(room, stopped.is_set, poll_seconds=POLL)
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        stopped.set()
        thread.join(300)
    assert not thread.is_alive()
    assert failures == []


def ended(room: Installation, kind: Kind) -> Callable[[], Version | None]:
    """The newest version of the only resource of a kind, once it is closed."""

    def look() -> Version | None:
        if not room.catalog.resources.ids(kind):
            return None
        version = worlds.newest(room, kind)
        return version if version.status in (Status.ACTIVE, Status.CREATE_FAILED) else None

    return look


def runs_of(room: Installation, history: dg.DagsterInstance, kind: Kind) -> list[dg.DagsterRun]:
    (key,) = room.catalog.resources.ids(kind)
    return list(history.get_runs(dg.RunsFilter(tags={"dagster/partition": key})))


def test_worker_does_arriving_work_and_deletions(
    room: Installation, history: dg.DagsterInstance, dataset: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    applied, after_a_look, turn = threading.Event(), list[str](), Rounds.do_round

    def look_and_apply(rounds: Rounds) -> None:
        is_first = applied.is_set() and not after_a_look
        turn(rounds)
        if is_first:
            after_a_look.append(worlds.newest(room, Kind.TRAINING_DATASET).status)

    monkeypatch.setattr(Rounds, "do_round", look_and_apply)
    with working(room):
        worlds.wait_until(room.catalog.resources.live_runs, seconds=240, what="the worker to begin")
        worlds.apply(room, dataset)
        applied.set()
        worlds.wait_until(lambda: after_a_look, seconds=240, what="a look that begins after it was declared")
        assert after_a_look == ["ACTIVE"]
        (run,) = runs_of(room, history, Kind.TRAINING_DATASET)
        assert run.status is dg.DagsterRunStatus.SUCCESS
        assert run.tags["cleanroom/worker"].startswith("serve-")
        (key,) = room.catalog.resources.ids(Kind.TRAINING_DATASET)
        room.catalog.deletion.request_delete(Kind.TRAINING_DATASET, key)

        def is_deleted() -> bool:
            is_stored = room.store.versions("training_dataset", key) != []
            return not is_stored and key not in history.get_dynamic_partitions("training_datasets")

        worlds.wait_until(is_deleted, seconds=240, what="the deletion")
    assert room.catalog.resources.live_runs() == frozenset(), "it said good-bye"


def test_worker_survives_a_failed_round(
    room: Installation, dataset: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    failures = [CatalogUnavailableError("It does not answer."), ValueError("secret")]
    supervise = serving_worker.supervise

    def fail_first(*arguments: object) -> None:
        if failures:
            raise failures.pop()
        supervise(*arguments)

    monkeypatch.setattr(serving_worker, "supervise", fail_first)
    worlds.apply(room, dataset)
    with working(room):
        version = worlds.wait_until(ended(room, Kind.TRAINING_DATASET), seconds=240, what="the dataset")
    assert version.status == "ACTIVE"
    assert failures == []
    assert "ValueError" in caplog.text
    assert "secret" not in caplog.text


def test_unclaimable_version_is_not_started_endlessly(
    room: Installation, history: dg.DagsterInstance, dataset: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    worlds.apply(room, dataset)
    monkeypatch.setattr(type(room.catalog.work), "claim", lambda *_, **__: None)
    with working(room):
        worlds.wait_until(lambda: runs_of(room, history, Kind.TRAINING_DATASET), seconds=240, what="the first run")
        looks = threading.Event()
        ready, asked = type(room.catalog.work).ready, []

        def count(*arguments: object, **options: object) -> object:
            asked.append(None)
            if len(asked) > 20:
                looks.set()
            return ready(*arguments, **options)

        monkeypatch.setattr(type(room.catalog.work), "ready", count)
        assert looks.wait(240)
    assert len(runs_of(room, history, Kind.TRAINING_DATASET)) == 1


@dataclass(frozen=True)
class Worker:
    """A worker in a process of its own.

    Attributes:
        process: It.
        parent: The other end of its standard input, as its parent holds it.
        log: What it printed.
    """

    process: BaseProcess
    parent: Connection
    log: Path

    def assert_ended_well(self) -> None:
        self.process.join(240)
        assert self.process.exitcode == 0, self.log.read_text()[-2000:]


@contextmanager
def process(room: Installation, log: Path) -> Iterator[Worker]:
    """The worker as `serve` starts it, but forked."""
    forking = get_context("forkserver")
    forking.set_forkserver_preload([preloaded_worker.__name__])
    theirs, ours = forking.Pipe(duplex=False)
    environment = os.environ | worlds.settings(room.settings.home)
    started = forking.Process(target=preloaded_worker.main, args=(dict(environment), theirs, log))
    started.start()
    theirs.close()
    try:
        yield Worker(started, ours, log)
    finally:
        started.kill()
        started.join()
        ours.close()


def test_two_workers_do_no_work_twice(
    room: Installation, history: dg.DagsterInstance, world: worlds.World, tmp_path: Path
) -> None:
    worlds.apply(room, worlds.declare(tmp_path / "two.yaml", interactions=world.interactions, seed=None))
    with process(room, tmp_path / "one.log"), process(room, tmp_path / "other.log"):
        worlds.wait_until(ended(room, Kind.CONFIGURED_AUDIENCE_MODEL), seconds=240, what="all of it")
        worlds.wait_until(
            lambda: all(run.is_finished for run in history.get_runs()), seconds=240, what="the runs' end"
        )
    for kind in list(Kind)[:3]:
        (key,) = room.catalog.resources.ids(kind)
        assert [version.status for version in room.catalog.resources.versions(kind, key)] == ["ACTIVE"]
        assert len(worlds.materializations(history, ASSETS_OF[kind][0], key)) == 1


def claimed(room: Installation) -> bool:
    return worlds.newest(room, Kind.TRAINING_DATASET).status is Status.CREATE_IN_PROGRESS


def lengthy(folder: Path) -> Path:
    """A declaration whose dataset takes long enough to be stopped in the midst of it."""
    number = pa.array(range(400_000), pa.int64())
    columns = {
        name: pc.cast(pc.bit_wise_and(pc.multiply(number, factor), pa.scalar(mask, pa.int64())), pa.string())
        for name, factor, mask in (("user", 7, 2_047), ("item", 13, 31))
    }
    seconds = pc.add(number, pa.scalar(worlds.FIRST_SECOND, pa.int64()))
    pq.write_table(pa.table({**columns, "ts": seconds}), folder / "many.parquet")
    return worlds.declare(folder / "many.yaml", interactions=folder / "many.parquet", seed=None)


def test_signal_requeues_running_work(room: Installation, tmp_path: Path) -> None:
    worlds.apply(room, lengthy(tmp_path))
    with process(room, tmp_path / "first.log") as worker:
        worlds.wait_until(lambda: claimed(room), seconds=240, what="the claim", every=0.005)
        worker.process.terminate()  # SIGTERM
        worker.assert_ended_well()
    version = worlds.newest(room, Kind.TRAINING_DATASET)
    assert (version.status, version.attempt) == ("CREATE_PENDING", 0), "at once, and not counted"
    assert room.catalog.resources.live_runs() == frozenset()

    with process(room, tmp_path / "second.log") as worker:
        worlds.wait_until(lambda: claimed(room), seconds=240, what="the claim", every=0.005)
        worker.process.kill()
        worker.process.join()
    version = worlds.newest(room, Kind.TRAINING_DATASET)
    assert version.status == "CREATE_IN_PROGRESS"
    worlds.later(room, seconds=61).catalog.work.reap()
    assert worlds.newest(room, Kind.TRAINING_DATASET).status == "CREATE_PENDING"

    with process(room, tmp_path / "third.log") as worker:
        worlds.wait_until(ended(room, Kind.TRAINING_DATASET), seconds=240, what="the dataset")
        worker.parent.close()  # as when its parent is killed
        worker.assert_ended_well()
    assert worlds.newest(room, Kind.TRAINING_DATASET).status == "ACTIVE"
    assert not [line for line in (tmp_path / "third.log").read_text().splitlines() if "Traceback" in line]
