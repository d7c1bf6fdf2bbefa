"""The worker of `cleanroom serve` does what comes, shows it in Dagster's UI, and ends when it should.

Contract: DESIGN section 7, issue 4. New work and deletions are noticed within the time of a look; SIGTERM gives
back what is under way, SIGKILL loses nothing but the time of the lease; it ends with its parent; the runs are
those of the home's own Dagster; two beside each other do nothing twice; a failure of one look does not end it.
"""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import dagster as dg
import pytest

from cleanroom_pipelines.catalog import CatalogUnavailableError, Kind, Status, Version
from cleanroom_pipelines.execution import serving_worker
from cleanroom_pipelines.execution.dagster_home import dagster_instance
from cleanroom_pipelines.execution.installation import Installation
from cleanroom_pipelines.execution.making import ASSETS_OF
from cleanroom_pipelines.execution.serving_worker import work_until_stopped

from .. import worlds

POLL = 0.1


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> worlds.World:
    return worlds.write_world(tmp_path_factory.mktemp("world"))


@pytest.fixture
def room(tmp_path: Path) -> Iterator[Installation]:
    with worlds.installed(tmp_path / "home") as installation, pytest.MonkeyPatch.context() as patch:
        patch.delenv("DAGSTER_HOME", raising=False)
        yield installation


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
        if not room.catalog.ids(kind):
            return None
        version = worlds.newest(room, kind)
        return version if version.status in (Status.ACTIVE, Status.CREATE_FAILED) else None

    return look


def runs_of(room: Installation, kind: Kind) -> list[dg.DagsterRun]:
    (key,) = room.catalog.ids(kind)
    with dagster_instance(room) as instance:
        return list(instance.get_runs(dg.RunsFilter(tags={"dagster/partition": key})))


def is_gone(room: Installation, kind: Kind, key: str) -> bool:
    with dagster_instance(room) as instance:
        shown = set(instance.get_dynamic_partitions(f"{kind.value}s"))
    (asset,) = ASSETS_OF[kind]
    return key not in shown and room.store.versions(asset, key) == []


def test_it_does_what_comes_and_deletes_what_is_asked_to_go(room: Installation, dataset: Path) -> None:
    with working(room):
        worlds.wait_until(room.catalog.live_runs, seconds=240, what="the worker to begin")
        worlds.apply(room, dataset)
        version = worlds.wait_until(ended(room, Kind.TRAINING_DATASET), seconds=240, what="the dataset")
        assert version.status == "ACTIVE"
        assert (version.started_at - version.created_at).total_seconds() < 20, "seconds on the busiest machine"

        def finished() -> list[dg.DagsterRun]:
            return [run for run in runs_of(room, Kind.TRAINING_DATASET) if run.is_finished]

        (run,) = worlds.wait_until(finished, seconds=240, what="the run's end")
        assert run.status is dg.DagsterRunStatus.SUCCESS
        assert run.tags["cleanroom/worker"].startswith("serve-")
        (key,) = room.catalog.ids(Kind.TRAINING_DATASET)
        room.catalog.request_delete(Kind.TRAINING_DATASET, key)
        worlds.wait_until(lambda: is_gone(room, Kind.TRAINING_DATASET, key), seconds=240, what="the deletion")
    assert room.catalog.live_runs() == frozenset(), "it said good-bye"


def test_a_failing_look_does_not_end_it(
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


def test_what_cannot_be_claimed_is_not_started_without_end(
    room: Installation, dataset: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    worlds.apply(room, dataset)
    monkeypatch.setattr(type(room.catalog), "claim", lambda *_, **__: None)
    with working(room):
        worlds.wait_until(lambda: runs_of(room, Kind.TRAINING_DATASET), seconds=240, what="the first run")
        looks = threading.Event()
        ready, asked = type(room.catalog).ready, []

        def count(*arguments: object, **options: object) -> object:
            asked.append(None)
            if len(asked) > 20:
                looks.set()
            return ready(*arguments, **options)

        monkeypatch.setattr(type(room.catalog), "ready", count)
        assert looks.wait(240)
    assert len(runs_of(room, Kind.TRAINING_DATASET)) == 1


@contextmanager
def process(room: Installation, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """The worker as `serve` starts it."""
    with log.open("wb") as stream:
        worker = subprocess.Popen(
            [sys.executable, "-m", "cleanroom_pipelines.execution.serving_worker"],
            env=os.environ | worlds.settings(room.settings.home),
            stdin=subprocess.PIPE,
            stdout=stream,
            stderr=stream,
        )
    try:
        yield worker
    finally:
        worker.kill()
        worker.wait()
        worker.stdin.close()


def test_two_beside_each_other_do_nothing_twice(room: Installation, world: worlds.World, tmp_path: Path) -> None:
    worlds.apply(room, worlds.declare(world.folder / "two.yaml", interactions=world.interactions, seed=None))
    with process(room, tmp_path / "one.log"), process(room, tmp_path / "other.log"):
        worlds.wait_until(ended(room, Kind.CONFIGURED_AUDIENCE_MODEL), seconds=240, what="all of it")
        worlds.wait_until(lambda: not runs_under_way(room), seconds=240, what="the runs' end")
    for kind in list(Kind)[:3]:
        (key,) = room.catalog.ids(kind)
        assert [version.status for version in room.catalog.versions(kind, key)] == ["ACTIVE"]
        with dagster_instance(room) as instance:
            assert len(worlds.materializations(instance, ASSETS_OF[kind][0], key)) == 1


def runs_under_way(room: Installation) -> list[dg.DagsterRun]:
    with dagster_instance(room) as instance:
        return [run for run in instance.get_runs() if not run.is_finished]


def claimed(room: Installation) -> bool:
    return worlds.newest(room, Kind.TRAINING_DATASET).status is Status.CREATE_IN_PROGRESS


def lengthy(folder: Path, world: worlds.World) -> Path:
    """A declaration whose dataset takes long enough to be stopped in the midst of it."""
    rows = worlds.events(n_users=2_000, n_events=400_000)
    table = worlds.write_events(folder / "many.parquet", rows)
    return worlds.declare(folder / "many.yaml", interactions=table, seed=None)


def test_signals_give_back_what_is_under_way(room: Installation, world: worlds.World, tmp_path: Path) -> None:
    worlds.apply(room, lengthy(tmp_path, world))
    with process(room, tmp_path / "first.log") as worker:
        worlds.wait_until(lambda: claimed(room), seconds=240, what="the claim", every=0.005)
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(60) == 0, (tmp_path / "first.log").read_text()[-2000:]
    version = worlds.newest(room, Kind.TRAINING_DATASET)
    assert (version.status, version.attempt) == ("CREATE_PENDING", 0), "at once, and not counted"
    assert room.catalog.live_runs() == frozenset()

    with process(room, tmp_path / "second.log") as worker:
        worlds.wait_until(lambda: claimed(room), seconds=240, what="the claim", every=0.005)
        worker.kill()
        worker.wait()
    version = worlds.newest(room, Kind.TRAINING_DATASET)
    assert version.status == "CREATE_IN_PROGRESS"
    worlds.later(room, seconds=61).catalog.reap()
    assert worlds.newest(room, Kind.TRAINING_DATASET).status == "CREATE_PENDING"

    with process(room, tmp_path / "third.log") as worker:
        worlds.wait_until(ended(room, Kind.TRAINING_DATASET), seconds=240, what="the dataset")
        worker.stdin.close()  # as when its parent is killed
        assert worker.wait(240) == 0, (tmp_path / "third.log").read_text()[-2000:]
    assert worlds.newest(room, Kind.TRAINING_DATASET).status == "ACTIVE"
    assert not [line for line in (tmp_path / "third.log").read_text().splitlines() if "Traceback" in line]
