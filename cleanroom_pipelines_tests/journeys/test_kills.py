"""A process that is killed at any moment loses nothing but its time.

Contract: issue "Bad input", SIGKILL; DESIGN section 4. Fifty times a real process at work is killed at a random
moment, over the whole life of several jobs, some of them dropped into the inbox. After each kill whatever a reader
can see is whole. In the end every job and every export is there once.

A moment is random within the time that a piece of work takes here, measured before, and every other one within
what it does under its claim; every other kill waits for the second piece, so that kills fall on every kind of
work. A silent run's lease is 60 seconds; instead of waiting for it, the catalogue's clock is put forward. A
version whose run was killed three times fails for good, as it should; it is then tried again, as its message says.
"""

import multiprocessing
import random
import signal
import sqlite3
import time
from collections import Counter
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path

import psutil
import pytest

from cleanroom_pipelines.audiences.exports import verify_export
from cleanroom_pipelines.catalog import Kind, Status
from cleanroom_pipelines.errors import StatusCode
from cleanroom_pipelines.execution.inbox import find_drops, register_drop
from cleanroom_pipelines.execution.installation import Installation
from cleanroom_pipelines.execution.making import ASSETS_OF, verify_exported_files
from cleanroom_pipelines.execution.running import run_pending
from cleanroom_pipelines.storage import ArtifactReference

from .. import worlds

pytestmark = pytest.mark.slow

N_KILLS, N_DECLARED, N_DROPPED = 50, 5, 5
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


def work(folder: Path, pieces: Connection) -> None:
    """What the killed process does: takes in what was dropped, then does what is pending and tells each piece."""
    with worlds.installed(folder / "home") as installation, worlds.dagster_at(folder / "dagster") as instance:
        for drop in find_drops(installation):
            register_drop(installation, drop)
        run_pending(installation, instance, on_start=lambda version: pieces.send(version.kind))
        pieces.send(None)


def start(folder: Path) -> tuple[multiprocessing.process.BaseProcess, Connection]:
    """Start a worker in a process of its own."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)  # starting python fifty times would be most of the time
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=work, args=(folder, theirs), daemon=True)
    process.start()
    theirs.close()
    return process, ours


def next_piece(pieces: Connection) -> Kind | None:
    """The kind of work that a worker begins next; None when all is done."""
    assert pieces.poll(300), "the worker goes on"
    kind: Kind | None = pieces.recv()
    return kind


def measure(folder: Path) -> dict[Kind, float]:
    """How many seconds each kind of work takes on this machine now."""
    prepare(folder, n_declared=1, n_dropped=0)
    process, pieces = start(folder)
    seconds = dict[Kind, float]()
    kind = next_piece(pieces)
    while kind is not None:
        begun = time.monotonic()
        following = next_piece(pieces)
        seconds[kind] = time.monotonic() - begun
        kind = following
    process.join()
    assert set(seconds) == set(worlds.ROAD)
    return seconds


def kill(process: multiprocessing.process.BaseProcess) -> None:
    """Kill a worker, and afterwards what followed its logs for Dagster and would never end."""
    followers = list[psutil.Process]()
    with suppress(psutil.NoSuchProcess):
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


def write_seeds(folder: Path, world: worlds.World, n_seeds: int) -> list[Path]:
    folder.mkdir()
    dice = random.Random(11)
    seeds = [dice.sample(world.group, worlds.N_SEED) for _ in range(n_seeds)]
    return [worlds.write_seed(folder / f"seed {n}.jsonl", users) for n, users in enumerate(seeds)]


def prepare(folder: Path, n_declared: int, n_dropped: int) -> None:
    """Declare everything, and let seeds wait in the inbox of the model that is not made yet."""
    import yaml

    world = worlds.write_world(folder / "files")
    seeds = write_seeds(folder / "seeds", world, n_declared + n_dropped)
    form = yaml.safe_load(world.declaration.read_text())
    (job,) = form["generation_jobs"]
    form["generation_jobs"] = [
        job | {"name": f"Job {number}", "seed": str(seeds[number])} for number in range(n_declared)
    ]
    world.declaration.write_text(yaml.safe_dump(form))
    with worlds.installed(folder / "home") as installation:
        worlds.apply(installation, world.declaration)
        configured = worlds.the(installation, Kind.CONFIGURED_AUDIENCE_MODEL)
        inbox = installation.home.inbox_seeds / configured.id
        inbox.mkdir(parents=True)
        for seed in seeds[n_declared:]:
            seed.rename(inbox / seed.name)


def test_fifty_kills_lose_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    seconds = measure(tmp_path / "measured")
    folder = tmp_path / "killed"
    prepare(folder, N_DECLARED, N_DROPPED)
    dice, n_kills, n_retried = random.Random(5), 0, 0
    hit = Counter[str]()
    with worlds.installed(folder / "home") as installation:
        while n_kills < N_KILLS:
            process, pieces = start(folder)
            kind = next_piece(pieces)
            if kind is not None and n_kills % 2:
                kind = next_piece(pieces)
            if kind is not None:
                if n_kills % 4 < 2:
                    wait_for_claim(installation, process)
                process.join(dice.uniform(0, seconds[kind] / 2))
            kill(process)
            if process.exitcode == -signal.SIGKILL:
                n_kills += 1
                hit.update(in_progress(installation))
            else:
                assert process.exitcode == 0, "it was done before"
            assert_whole(installation)
            n_retried += expire_leases(installation)
            if not installation.catalog.ready():  # all is done before its time: more of it
                dataset = worlds.the(installation, Kind.TRAINING_DATASET)
                installation.catalog.request_by_hand(Kind.TRAINING_DATASET, dataset.id)

        last, pieces = start(folder)
        while next_piece(pieces) is not None:
            pass
        last.join(60)
        assert last.exitcode == 0, "the next run completes"
        seen = assert_whole(installation)
        assert_ended_once(installation)
    assert sum(hit.values()) > N_KILLS // 5, "the kills fell into work"
    with capsys.disabled():
        print(  # noqa: T201 what was measured
            f"\n{n_kills} kills, of them in the middle of {dict(hit)}; {n_retried} versions failed for good and "
            f"were tried again; in the end {dict(seen)}."
        )


def wait_for_claim(installation: Installation, process: multiprocessing.process.BaseProcess) -> None:
    """Wait until the worker holds a claim, or has ended."""
    worlds.wait_until(
        lambda: in_progress(installation) or not process.is_alive(), seconds=60, what="a claim", every=0.01
    )


def in_progress(installation: Installation) -> list[str]:
    """The kinds of work that somebody holds."""
    return [
        version.kind.words
        for kind in Kind
        for record in installation.catalog.iterate(kind)
        for version in installation.catalog.versions(kind, record.id)
        if version.status is Status.CREATE_IN_PROGRESS
    ]


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
