"""Contract: without a cluster a large audience is scored by several Dagster runs over ranges of shards and merged.

The ranking is that of one run, byte for byte, whichever run scored what; the work of a dead helper is done by
another; no files are left; the data for helpers does not reveal the seed users.
"""

import os
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import dagster as dg
import numpy as np
import pytest

from cleanroom_pipelines.catalog import Kind
from cleanroom_pipelines.defs.resources import InstallationResource
from cleanroom_pipelines.runs import shared_scoring, work
from cleanroom_pipelines.runs.dagster_home import load_repository
from cleanroom_pipelines.runs.installation import Installation
from cleanroom_pipelines.runs.labels import WORKER_TAG
from cleanroom_pipelines.runs.running import SCORING_JOB, run_pending
from cleanroom_pipelines.runs.serving_worker import Rounds
from cleanroom_pipelines.runs.shared_scoring import help_scoring, n_helpers_wanted
from cleanroom_pipelines.similarity import scoring, shards, training
from cleanroom_pipelines.storage import ArtifactReference

from .. import worlds
from ..worlds import World
from .conftest import repository

N_SHARDS = 8


@pytest.fixture(scope="module")
def many_shards() -> Iterator[None]:
    """Let the small world's model lie in eight shards of one block each."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shards, "USERS_PER_BLOCK", 20)
        patch.setattr(training, "shard_bits", lambda *_: N_SHARDS.bit_length() - 1)
        yield


def ranking(installation: Installation) -> bytes:
    job = worlds.the(installation, Kind.GENERATION_JOB)
    version = worlds.newest(installation, Kind.GENERATION_JOB)
    assert version.status == "ACTIVE", version.status_message
    with installation.store.opening(
        ArtifactReference("audience", job.id, version.artifacts["audience"])
    ) as folder:
        return (folder / "ranking.parquet").read_bytes()


@contextmanager
def opened(folder: Path, **settings: str) -> Iterator[tuple[Installation, dg.DagsterInstance]]:
    with (
        worlds.installed(folder / "home", **settings) as installation,
        worlds.dagster_at(folder / "dagster", one_file=True) as dagster,
    ):
        yield installation, dagster


@pytest.fixture(scope="module")
def pending(world: World, many_shards: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a clean room with a model in eight shards and a job that waits; to be copied."""
    folder = tmp_path_factory.mktemp("pending")
    declaration = worlds.declare(
        folder / "room.yaml", interactions=world.interactions, seed=world.seed, job={"exports": []}
    )
    with opened(folder) as (installation, dagster):
        worlds.apply(installation, declaration)
        assert worlds.run_first(installation, dagster, 3) == 3
    return folder


@pytest.fixture(scope="module")
def alone(pending: Path, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """What one run makes."""
    folder = Path(shutil.copytree(pending, tmp_path_factory.mktemp("alone") / "room"))
    with opened(folder) as (installation, dagster):
        run_pending(installation, dagster)
        return ranking(installation)


@pytest.fixture
def shared(pending: Path, tmp_path: Path) -> Iterator[tuple[Installation, dg.DagsterInstance]]:
    """A clean room whose job three runs may score."""
    folder = Path(shutil.copytree(pending, tmp_path / "shared"))
    with opened(folder, CLEANROOM_SCORING_RUNS="3") as room:
        yield room


def requests_of_the_sensor(dagster: dg.DagsterInstance) -> list[str | None]:
    """The jobs that the sensor of pending work asks for; with the settings of the environment, unlike `tick`."""
    with (
        dg.build_sensor_context(
            instance=dagster, repository_def=repository(), resources={"installation": InstallationResource()}
        ) as context,
        dg.partition_loading_context(dynamic_partitions_store=dagster),
    ):
        found = repository().get_sensor_def("pending_work").evaluate_tick(context)
    return [request.job_name for request in found.run_requests or ()]


@pytest.mark.parametrize("helper_is", ["a run of the daemon", "a worker"])
def test_helper_in_its_own_run_changes_no_byte(
    alone: bytes, shared: tuple[Installation, dg.DagsterInstance], monkeypatch: pytest.MonkeyPatch, helper_is: str
) -> None:
    installation, dagster = shared
    helped, is_open = threading.Event(), threading.Event()
    score_users, owner = scoring.score_users, threading.current_thread()
    n_scored: dict[bool, int] = {True: 0, False: 0}

    def counted(*arguments: object, **more: object) -> object:
        is_owner = threading.current_thread() is owner
        if is_owner:
            is_open.set()
            assert helped.wait(300), "the helper came"
        found = score_users(*arguments, **more)  # type: ignore[arg-type]
        n_scored[is_owner] += len(found)
        return found

    def help_once() -> None:
        assert is_open.wait(300)
        wanted.append(n_helpers_wanted(installation))
        requested.extend(requests_of_the_sensor(dagster))
        if helper_is == "a worker":
            Rounds(installation, dagster, "serve-helper", lambda: False).help_scoring()
        else:
            job = load_repository().get_job(SCORING_JOB)
            job.execute_in_process(instance=dagster, raise_on_error=False)
        helped.set()

    wanted: list[int] = []
    requested: list[str | None] = []
    monkeypatch.setattr(scoring, "score_users", counted)
    helper = threading.Thread(target=help_once)
    helper.start()
    run_pending(installation, dagster)
    helper.join()

    assert wanted == [2], "two beside the run that needs the scores"
    assert requested.count(SCORING_JOB) == 2
    (run,) = dagster.get_runs(dg.RunsFilter(job_name=SCORING_JOB))
    assert run.status is dg.DagsterRunStatus.SUCCESS
    assert run.tags.get(WORKER_TAG) == ("serve-helper" if helper_is == "a worker" else None)
    assert n_scored[True] > 0, "the run that needs the scores takes part"
    assert n_scored[False] > 0, "and so does the helper"
    assert sum(n_scored.values()) == worlds.N_USERS
    assert ranking(installation) == alone
    assert list(installation.home.scratch_root.glob("scoring-*")) == []
    messages = [
        record.event_log_entry.user_message
        for record in dagster.get_records_for_run(run.run_id, limit=1000).records
    ]
    assert f"Scored {n_scored[False]:,} users for other runs." in messages


def test_ranges_of_a_dead_helper_are_taken_over(
    alone: bytes, shared: tuple[Installation, dg.DagsterInstance], monkeypatch: pytest.MonkeyPatch
) -> None:
    installation, dagster = shared
    publish_scoring = shared_scoring.publish_scoring

    def with_dead_helpers(folder: Path, *arguments: object) -> None:
        publish_scoring(folder, *arguments)  # type: ignore[arg-type]
        for number in (0, N_SHARDS - 1):
            claim = folder / f"{number}.claim"
            claim.touch()
            os.utime(claim, (time.time() - 3_600, time.time() - 3_600))

    monkeypatch.setattr(shared_scoring, "publish_scoring", with_dead_helpers)
    run_pending(installation, dagster)
    assert ranking(installation) == alone


def test_data_for_helpers_does_not_reveal_the_seed(
    world: World, shared: tuple[Installation, dg.DagsterInstance], monkeypatch: pytest.MonkeyPatch
) -> None:
    installation, dagster = shared
    publish_scoring, seen = shared_scoring.publish_scoring, []

    def looked_at(folder: Path, *arguments: object) -> None:
        publish_scoring(folder, *arguments)  # type: ignore[arg-type]
        seen.append({path.name: path.read_bytes() for path in folder.iterdir()})
        with np.load(folder / "arrays.npz", allow_pickle=False) as arrays:
            assert all(len(arrays[name]) == 0 for name in arrays if name.startswith(("seed", "held_out")))

    monkeypatch.setattr(shared_scoring, "publish_scoring", looked_at)
    run_pending(installation, dagster)
    (files,) = seen
    assert {"plan.json", "fit.json", "arrays.npz", "trees.txt"} == set(files)
    for user in world.seed_users:
        assert not any(user.encode() in content for content in files.values())


def test_helper_does_nothing_for_an_ended_run(shared: tuple[Installation, dg.DagsterInstance]) -> None:
    installation, _ = shared
    assert (n_helpers_wanted(installation), help_scoring(installation)) == (0, 0)
    (installation.home.scratch_root / "scoring-half-made").mkdir()
    assert (n_helpers_wanted(installation), help_scoring(installation)) == (0, 0)


def test_cancelled_job_leaves_no_published_work(
    shared: tuple[Installation, dg.DagsterInstance], monkeypatch: pytest.MonkeyPatch
) -> None:
    installation, dagster = shared
    publish_scoring = shared_scoring.publish_scoring

    def then_cancel(folder: Path, *arguments: object) -> None:
        publish_scoring(folder, *arguments)  # type: ignore[arg-type]
        job = worlds.the(installation, Kind.GENERATION_JOB)
        installation.catalog.work.request_cancel(Kind.GENERATION_JOB, job.id)

    monkeypatch.setattr(work, "SECONDS_BETWEEN_REPORTS", 0.0)  # so that the run asks at the next shard
    monkeypatch.setattr(shared_scoring, "publish_scoring", then_cancel)
    run_pending(installation, dagster)
    version = worlds.newest(installation, Kind.GENERATION_JOB)
    assert version.status_code == "CANCELLED"
    assert list(installation.home.scratch_root.glob("scoring-*")) == []


def test_work_of_a_killed_run_starts_no_helpers(
    shared: tuple[Installation, dg.DagsterInstance], monkeypatch: pytest.MonkeyPatch
) -> None:
    installation, dagster = shared
    score_together, left = shared_scoring.score_together, installation.home.scratch_root / "scoring-left"

    def and_leave_a_copy(engine: object, folder: Path, *arguments: object) -> object:
        shutil.copytree(folder, left)
        return score_together(engine, folder, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(shared_scoring, "score_together", and_leave_a_copy)
    run_pending(installation, dagster)
    assert n_helpers_wanted(installation) == 2, "it looks alive"
    an_hour_ago = time.time() - 3_600
    os.utime(left / "plan.json", (an_hour_ago, an_hour_ago))
    assert (n_helpers_wanted(installation), help_scoring(installation)) == (0, 0)


def test_stopped_helper_releases_its_range(
    alone: bytes, shared: tuple[Installation, dg.DagsterInstance], monkeypatch: pytest.MonkeyPatch
) -> None:
    installation, dagster = shared
    score_together, seen = shared_scoring.score_together, []

    def and_be_helped(engine: object, folder: Path, *arguments: object) -> object:
        seen.append(help_scoring(installation, lambda: True))
        seen.append(list(folder.glob("*.claim")))
        return score_together(engine, folder, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(shared_scoring, "score_together", and_be_helped)
    run_pending(installation, dagster)
    assert seen == [0, []]
    assert ranking(installation) == alone
