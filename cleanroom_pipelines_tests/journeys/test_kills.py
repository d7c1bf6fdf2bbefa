"""A process that is killed at any moment loses nothing but its time.

Contract: issue "Bad input", SIGKILL; DESIGN section 4. Fifty times a real process at work is killed at a random
moment, over the whole life of several jobs, some of them dropped into the inbox. After each kill whatever a reader
can see is whole. In the end every job and every export is there once.

A silent run's lease is 60 seconds; instead of waiting for it, the catalogue's clock is put forward. A version
whose run was killed three times fails for good, as it should; it is then tried again, as its message says. Now and
then the dataset is asked for again, so that kills fall on every kind of work and not on the longest alone.
"""

import multiprocessing
import random
import signal
import sqlite3
from collections import Counter
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path

import psutil
import pytest

from cleanroom_pipelines.audiences.exports import verify_export
from cleanroom_pipelines.catalog import Kind, Status
from cleanroom_pipelines.errors import StatusCode
from cleanroom_pipelines.execution import running
from cleanroom_pipelines.execution.inbox import find_drops, register_drop
from cleanroom_pipelines.execution.installation import Installation
from cleanroom_pipelines.execution.making import ASSETS_OF, verify_exported_files
from cleanroom_pipelines.storage import ArtifactReference

from .. import worlds

pytestmark = pytest.mark.slow

N_KILLS, N_DECLARED, N_DROPPED = 50, 2, 2
LONGEST_SECONDS = 4.0
EXPECTED_CODES = (StatusCode.INTERNAL, StatusCode.PARENT_NOT_ACTIVE)
PRELOADED = [
    "cleanroom_pipelines.definitions",
    "cleanroom_pipelines.execution.running",
    "cleanroom_pipelines.similarity.ranking",
    "cleanroom_pipelines.similarity.training",
    "cleanroom_pipelines.validation.files",
    "lightgbm",
    "matplotlib.figure",
    "matplotlib.backends.backend_agg",
    "cleanroom_pipelines_tests.journeys.test_kills",
]


def work(folder: Path, started: Connection) -> None:
    """What the killed process does: takes in what was dropped, then does what is pending."""
    with worlds.installed(folder / "home") as installation, worlds.dagster_at(folder / "dagster") as instance:
        running._repository()  # loaded before the clock of the kill starts
        started.send("at work")
        for drop in find_drops(installation):
            register_drop(installation, drop)
        running.run_pending(installation, instance)


def start(folder: Path) -> multiprocessing.process.BaseProcess:
    """Start a worker in a process of its own and come back when it is at work."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)  # starting python fifty times would be most of the time
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=work, args=(folder, theirs), daemon=True)
    process.start()
    theirs.close()
    assert ours.poll(120), "the worker starts"
    ours.close()
    return process


def kill(process: multiprocessing.process.BaseProcess) -> None:
    """Kill a worker, and afterwards what followed its logs for Dagster and would never end."""
    followers = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    process.join()
    for follower in followers:
        with suppress(psutil.NoSuchProcess):
            follower.kill()


def assert_whole(installation: Installation) -> Counter[str]:
    """Whatever a reader can see is what its manifest says; counts what there is."""
    seen = Counter[str]()
    with sqlite3.connect(installation.home.root / "catalog.db") as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    for kind in Kind:
        for record in installation.catalog.iterate(kind):
            for asset in ASSETS_OF[kind]:
                for version in installation.store.versions(asset, record.id):
                    installation.store.verify(ArtifactReference(asset, record.id, version))
                    seen[asset] += 1
            for version in installation.catalog.versions(kind, record.id):
                if version.status is Status.ACTIVE:
                    assert set(version.artifacts) == set(ASSETS_OF[kind])
                    for asset, name in version.artifacts.items():
                        installation.store.verify(ArtifactReference(asset, record.id, name))
    for folder in exported(installation):
        assert verify_export(folder)["delivered"] == worlds.N_USERS // 5
        seen["exported folders"] += 1
    return seen


def exported(installation: Installation) -> list[Path]:
    bucket = installation.home.accounts / "000000000000" / "buckets" / "audiences" / "shop"
    return [path for path in sorted(bucket.glob("*")) if not path.name.startswith(".")]


def expire_leases(installation: Installation) -> int:
    """Let time pass; gives how many versions failed for good and are tried again."""
    catalog = worlds.later(installation, seconds=61).catalog
    catalog.reap()
    catalog.settle_orphans()
    n_retried = 0
    for kind in Kind:
        for record in catalog.iterate(kind):
            newest = catalog.newest_version(kind, record.id)
            if newest.status is Status.CREATE_FAILED:
                assert newest.status_code in (StatusCode.INTERNAL, StatusCode.PARENT_NOT_ACTIVE), (
                    newest.status_message
                )
                catalog.retry(kind, record.id)
                n_retried += 1
    return n_retried


def write_seeds(folder: Path, world: worlds.World) -> list[Path]:
    folder.mkdir()
    dice = random.Random(11)
    seeds = [dice.sample(world.group, worlds.N_SEED) for _ in range(N_DECLARED + N_DROPPED)]
    return [worlds.write_seed(folder / f"seed {n}.jsonl", users) for n, users in enumerate(seeds)]


def prepare(folder: Path) -> None:
    """Declare everything, and let two seeds wait in the inbox of the model that is not made yet."""
    import yaml

    world = worlds.write_world(folder / "files")
    seeds = write_seeds(folder / "seeds", world)
    form = yaml.safe_load(world.declaration.read_text())
    (job,) = form["generation_jobs"]
    form["generation_jobs"] = [
        job | {"name": f"Job {number}", "seed": str(seeds[number])} for number in range(N_DECLARED)
    ]
    world.declaration.write_text(yaml.safe_dump(form))
    with worlds.installed(folder / "home") as installation:
        worlds.apply(installation, world.declaration)
        configured = worlds.the(installation, Kind.CONFIGURED_AUDIENCE_MODEL)
        inbox = installation.home.inbox_seeds / configured.id
        inbox.mkdir(parents=True)
        for seed in seeds[N_DECLARED:]:
            seed.rename(inbox / seed.name)


def test_fifty_kills_lose_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    prepare(tmp_path)
    dice, n_kills, n_finished, n_retried = random.Random(5), 0, 0, 0
    hit = Counter[str]()
    with worlds.installed(tmp_path / "home") as installation:
        while n_kills < N_KILLS:
            process = start(tmp_path)
            process.join(dice.uniform(0, dice.choice((0.5, LONGEST_SECONDS))))
            if process.is_alive():
                kill(process)
                assert process.exitcode == -signal.SIGKILL
                n_kills += 1
                hit.update(
                    version.kind.words
                    for kind in Kind
                    for record in installation.catalog.iterate(kind)
                    for version in installation.catalog.versions(kind, record.id)
                    if version.status is Status.CREATE_IN_PROGRESS
                )
            else:
                assert process.exitcode == 0
                n_finished += 1
            assert_whole(installation)
            n_retried += expire_leases(installation)
            if n_finished or dice.random() < 0.3:
                dataset = worlds.the(installation, Kind.TRAINING_DATASET)
                installation.catalog.request_by_hand(Kind.TRAINING_DATASET, dataset.id)

        last = start(tmp_path)
        last.join(300)
        assert last.exitcode == 0, "the next run completes"
        seen = assert_whole(installation)
        assert_ended_once(installation)
    with capsys.disabled():
        print(  # noqa: T201 what was measured
            f"\n{n_kills} kills, in the middle of {dict(hit)}; {n_finished} times all was done before; "
            f"{n_retried} versions failed for good and were tried again; in the end {dict(seen)}."
        )


def assert_ended_once(installation: Installation) -> None:
    catalog = installation.catalog
    assert catalog.ready() == ()
    ended = worlds.statuses(installation)
    assert {status for statuses in ended.values() for status in statuses} == {"ACTIVE"}
    jobs = list(catalog.iterate(Kind.GENERATION_JOB))
    assert len(jobs) == N_DECLARED + N_DROPPED
    exports = list(catalog.iterate(Kind.EXPORT_JOB))
    assert sorted(export.parent_id for export in exports) == sorted(job.id for job in jobs)
    for export in exports:
        assert len(catalog.versions(Kind.EXPORT_JOB, export.id)) == 1
        version = catalog.newest_version(Kind.EXPORT_JOB, export.id).artifacts["audience_export"]
        manifest = installation.store.manifest(ArtifactReference("audience_export", export.id, version))
        assert verify_exported_files(installation, export.id, manifest) == worlds.N_USERS // 5
    assert len(exported(installation)) == len(exports), "each export lies there once"
    configured = worlds.the(installation, Kind.CONFIGURED_AUDIENCE_MODEL)
    inbox = installation.home.inbox_seeds / configured.id
    assert [path for path in inbox.iterdir() if path.is_file()] == []
    assert len(list((inbox / "accepted").glob("*.json"))) == N_DROPPED
    assert not list((inbox / "rejected").glob("*.json"))
    assert not [path for path in installation.home.seeds.rglob("seed.*") if path.is_file()], "no seed is left"
