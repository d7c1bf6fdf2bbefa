"""Contract: if a process is killed at any boundary of its work, the next process finishes the work, once.

Each kind of work is done by processes that are killed by SIGKILL at the first boundary, the second one, and so on
until one finishes (`dying.py`); if a piece of work takes seconds, at every n-th boundary. After each kill the
folder is opened again, one lease later, and the pending work is done: every version ends once, every delivery
exists once and complete, and no temporary files remain.

`FAULTS` is the minimum number of killed processes. With the fifty of `journeys/test_kills.py` there are more than
200.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from inspect import signature
from itertools import count
from pathlib import Path

import pytest
from moto.server import ThreadedMotoServer

from cleanroom_pipelines.catalog import Kind, Status
from cleanroom_pipelines.delivery.exports import verify_export
from cleanroom_pipelines.runs.building_lookalike import (
    build_audience,
    build_audience_export,
    build_audience_model,
    build_configured_audience_model,
    build_seed_validation_report,
    build_training_dataset,
)
from cleanroom_pipelines.runs.building_room_audiences import build_audience_list
from cleanroom_pipelines.runs.building_rooms import ROOM_ASSETS, build_room_asset
from cleanroom_pipelines.runs.inbox import close_all_drops, find_drops, recover_drops, register_drop
from cleanroom_pipelines.runs.inbox_folders import folder_of
from cleanroom_pipelines.runs.installation import Installation, Settings
from cleanroom_pipelines.runs.kinds import ASSETS_OF
from cleanroom_pipelines.runs.retention import delete_superseded
from cleanroom_pipelines.runs.seeds import forget_spent_seeds
from cleanroom_pipelines.runs.work import Run
from cleanroom_pipelines.storage import ArtifactReference
from cleanroom_pipelines.storage.home import CLOSED_UMASK

from .. import worlds
from ..conftest import StandingClock
from ..journeys.test_kills import N_KILLS
from ..object_stores import PROFILE, empty_store
from . import test_deleting
from .delivery_worlds import ACCOUNT, N_DELIVERED, export_delivery, list_delivery
from .dying import mortals
from .room_worlds import room_world

pytestmark = pytest.mark.slow

BUCKET = "real"
LEASE = timedelta(seconds=61)


def opened(folder: Path, *, later: timedelta = timedelta()) -> Installation:
    settings = Settings(folder / "home", seed_floor=1, threads=1, memory_bytes=512 * 10**6)
    return Installation(settings, clock=lambda: datetime.now(UTC) + later)


# --- What is done ---


def make(installation: Installation, kind: Kind, key: str, run: Run) -> None:
    """Make all assets of a version, as its run does."""
    if kind is Kind.GENERATION_JOB:
        build_seed_validation_report(installation, key, run)
        build_audience(installation, key, run)
    elif kind is Kind.DATA_ROOM:
        for asset in ROOM_ASSETS:
            build_room_asset(installation, key, run, asset=asset, finishes=asset == ROOM_ASSETS[-1])
    else:
        makers = {
            Kind.TRAINING_DATASET: build_training_dataset,
            Kind.AUDIENCE_MODEL: build_audience_model,
            Kind.CONFIGURED_AUDIENCE_MODEL: build_configured_audience_model,
            Kind.EXPORT_JOB: build_audience_export,
            Kind.AUDIENCE_LIST: build_audience_list,
        }
        makers[kind](installation, key, run)


def do_pending(installation: Installation, run: str) -> None:
    """Do what is pending, with what every process that works does before."""
    catalog = installation.catalog
    recover_drops(installation)
    close_all_drops(installation)
    catalog.work.reap()
    catalog.work.fail_orphans()
    forget_spent_seeds(installation)
    for number in range(9):
        if not (ready := catalog.work.ready()):
            return
        version = ready[0]
        make(installation, version.kind, version.resource_id, Run(f"{run} {number}", version.number))
    raise AssertionError("the work does not end")


def do_pending_later(folder: Path, *, later: timedelta = timedelta()) -> None:
    do_pending(opened(folder, later=later), f"run after {later}")


def take_from_inbox(folder: Path, *, later: timedelta = timedelta()) -> None:
    installation = opened(folder, later=later)
    recover_drops(installation)
    for drop in find_drops(installation):
        register_drop(installation, drop)


def refresh(folder: Path, *, later: timedelta = timedelta()) -> None:
    installation = opened(folder, later=timedelta(days=8) + later)
    for model in installation.catalog.work.due_refreshes():
        installation.catalog.work.request_refresh(model.id)
    do_pending(installation, f"run after {later}")


def delete(folder: Path, *, later: timedelta = timedelta()) -> None:
    del later
    with test_deleting.opened(folder, test_deleting.LAYOUTS[0], StandingClock()) as room:
        room.delete()


# --- What must be whole afterwards ---


def assert_ended_once(installation: Installation, n_versions: int = 1) -> None:
    """Each version is ACTIVE, the store has its artifacts and no other, and nothing is left beside them."""
    catalog, home = installation.catalog, installation.home
    delete_superseded(installation, installation.clock() + timedelta(days=2))
    assert catalog.work.ready() == ()
    for kind in Kind:
        for record in catalog.resources.iterate(kind):
            versions = catalog.resources.versions(kind, record.id)
            assert {version.status for version in versions} == {Status.ACTIVE}
            for asset in ASSETS_OF[kind]:
                named = [version.artifacts[asset] for version in versions if asset in version.artifacts]
                assert installation.store.versions(asset, record.id) == sorted(set(named))
                for version in named:
                    installation.store.verify(ArtifactReference(asset, record.id, version))
    assert [path for path in home.seeds.rglob("seed.*") if path.is_file()] == []
    assert installation.uploads.locations() == frozenset()
    others = [path for path in home.scratch_root.iterdir() if path != home.scratch and path.name[0] != "."]
    assert others == [], "the folders of processes that died"
    assert list(home.artifacts.rglob(".draft*")) == []


def exported_files(installation: Installation) -> list[Path]:
    bucket = installation.home.accounts / ACCOUNT / "buckets" / "audiences"
    return sorted(path for path in bucket.rglob("*") if path.is_file())


def assert_exported(installation: Installation, n_users: int) -> None:
    """One folder, whole, with nothing beside it."""
    files = exported_files(installation)
    (manifest,) = (path for path in files if path.name == "manifest.json")
    document = verify_export(manifest.parent)
    assert document["delivered"] == n_users
    assert files == sorted([manifest, *(manifest.parent / part["name"] for part in document["files"])])


def check_list(installation: Installation) -> None:
    assert_ended_once(installation)


def check_export(installation: Installation) -> None:
    assert_ended_once(installation)
    assert_exported(installation, N_DELIVERED)


def check_job(installation: Installation) -> None:
    assert_ended_once(installation)
    assert_exported(installation, worlds.N_USERS // 5)


def check_refresh(installation: Installation) -> None:
    assert_ended_once(installation)
    for kind in (Kind.TRAINING_DATASET, Kind.AUDIENCE_MODEL):
        record = worlds.the(installation, kind)
        assert [version.number for version in installation.catalog.resources.versions(kind, record.id)] == [1, 2]


def check_inbox(installation: Installation) -> None:
    """One job with its seed in the vault, the dropped file is away."""
    job = worlds.the(installation, Kind.GENERATION_JOB)
    assert installation.catalog.resources.newest_version(job.kind, job.id).status is Status.CREATE_PENDING
    assert len([path for path in installation.home.seeds.rglob("seed.*") if path.is_file()]) == 1
    folder = folder_of(installation, worlds.the(installation, Kind.CONFIGURED_AUDIENCE_MODEL))
    assert [path for path in folder.iterdir() if path.is_file()] == []
    with installation.vault.opening(job.seed_location, job.seed_digest) as seed:
        assert len(seed.read_text().splitlines()) == worlds.N_SEED


def check_stored(installation: Installation, objects: Mapping[str, bytes]) -> None:
    """One manifest, and whatever it names; files that a dead attempt left are named by none."""
    assert_ended_once(installation)
    (manifest,) = (key for key in objects if key.endswith("/manifest.json"))
    document = json.loads(objects[manifest])
    assert document["delivered"] == N_DELIVERED
    place = manifest.removesuffix("manifest.json")
    for part in document["files"]:
        assert hashlib.sha256(objects[place + part["name"]]).hexdigest() == part["sha256"]


def check_deleted(folder: Path) -> None:
    with test_deleting.opened(folder, test_deleting.LAYOUTS[0], StandingClock()) as room:
        partitions = (folder / "asked").read_text().split()
        test_deleting.assert_gone(room, partitions)
        room.jobs = [room.jobs[0]] * 2  # the one that stays was the second
        test_deleting.assert_rest_is_whole(room)


# --- Where it begins ---


def export_on_a_disk(folder: Path) -> None:
    worlds.with_catalog(opened(folder).home)
    export_delivery(opened(folder), StandingClock())


def export_on_a_store(folder: Path) -> None:
    installation = opened(folder)
    worlds.with_catalog(installation.home)
    installation.catalog.parties.register_bucket("audiences", ACCOUNT, f"s3://{BUCKET}", PROFILE)
    export_delivery(installation, StandingClock())


def list_on_a_disk(folder: Path) -> None:
    worlds.with_catalog(opened(folder).home)
    list_delivery(opened(folder), StandingClock())


def room_with_files(folder: Path) -> None:
    worlds.with_catalog(opened(folder).home)
    room = room_world(opened(folder), None)
    room.provision_base()
    room.provision_seeds()


def trained(original: Path, folder: Path) -> None:
    shutil.copytree(original / "home", folder / "home")


def with_job(original: Path, world: worlds.World, folder: Path) -> None:
    trained(original, folder)
    worlds.apply(opened(folder), world.declaration)


def with_refresh(original: Path, world: worlds.World, folder: Path) -> None:
    trained(original, folder)
    changes = {"refresh": {"every": "7d"}}
    declaration = worlds.declare(
        folder / "declaration.yaml", interactions=world.interactions, seed=None, model=changes
    )
    worlds.apply(opened(folder), declaration)


def with_drop(original: Path, world: worlds.World, folder: Path) -> None:
    trained(original, folder)
    installation = opened(folder)
    inbox = folder_of(installation, worlds.the(installation, Kind.CONFIGURED_AUDIENCE_MODEL))
    inbox.mkdir(parents=True, exist_ok=True)
    shutil.copy(world.seed, inbox / "loyal.jsonl")


def with_deletion(folder: Path) -> None:
    test_deleting.build(test_deleting.LAYOUTS[0], folder)
    with test_deleting.opened(folder, test_deleting.LAYOUTS[0], StandingClock()) as room:
        (folder / "asked").write_text(" ".join(room.asked()))


# --- The faults ---


@dataclass(frozen=True)
class Life:
    """One kind of work.

    Args:
        make: Makes the folder where it begins.
        check: Raises unless all is whole.
        n_faults: At least so many processes die.
        work: Does it.
        every: At every which boundary.
    """

    make: Callable[..., None]
    check: Callable[[Installation], None]
    n_faults: int
    work: Callable[..., None] = do_pending_later
    every: int = 1


LIVES = {
    "export on a disk": Life(export_on_a_disk, check_export, 50),
    "list of a room": Life(list_on_a_disk, check_list, 20, every=2),
    "seed from the inbox": Life(with_drop, check_inbox, 25, take_from_inbox),
    "job and its export": Life(with_job, check_job, 15, every=7),
    "refresh": Life(with_refresh, check_refresh, 8, refresh, every=13),
    "files of a room": Life(room_with_files, check_list, 15, every=17),
}
N_OF_STORE, N_OF_DELETION = 25, 12


def die_and_go_on(
    original: Path,
    folder: Path,
    work: Callable[..., None],
    check: Callable[[Path], None],
    *,
    every: int = 1,
    environment: Mapping[str, str] | None = None,
) -> int:
    """Let processes die at boundaries, each on a copy, and check what the next one makes of it; gives how many."""
    with mortals(work, environment or {}) as dies:
        for n_died in count():
            shutil.copytree(original, folder)
            if not dies(folder, 1 + n_died * every):
                check(folder)
                return n_died
            work(folder, later=LEASE)
            check(folder)
            shutil.rmtree(folder)
    raise AssertionError


@pytest.fixture(autouse=True)
def _closed() -> Iterator[None]:
    """Make homes that are closed to others, as commands do: each copy would say that it was closed."""
    before = os.umask(CLOSED_UMASK)
    yield
    os.umask(before)


@pytest.mark.parametrize("name", LIVES)
def test_killed_run_is_resumed(name: str, trained_folder: Path, world: worlds.World, tmp_path: Path) -> None:
    life, original = LIVES[name], tmp_path / "original"
    needs = {"original": trained_folder, "world": world}
    life.make(**{key: needs[key] for key in signature(life.make).parameters if key in needs}, folder=original)
    n_died = die_and_go_on(
        original,
        tmp_path / "copy",
        life.work,
        lambda folder: life.check(opened(folder, later=LEASE)),
        every=life.every,
    )
    assert n_died >= life.n_faults


def test_killed_export_to_a_store_is_resumed(store_server: ThreadedMotoServer, tmp_path: Path) -> None:
    with empty_store(store_server, tmp_path) as store:
        client = store.client()
        client.create_bucket(Bucket=BUCKET)
        export_on_a_store(tmp_path / "original")

        def check(folder: Path) -> None:
            objects = store.objects(BUCKET)
            check_stored(opened(folder, later=LEASE), objects)
            for key in objects:
                client.delete_object(Bucket=BUCKET, Key=key)

        environment = {name: value for name, value in os.environ.items() if name.startswith("AWS_")}
        n_died = die_and_go_on(
            tmp_path / "original", tmp_path / "copy", do_pending_later, check, every=2, environment=environment
        )
    assert n_died >= N_OF_STORE


def test_killed_deletion_is_resumed(tmp_path: Path) -> None:
    with_deletion(tmp_path / "original")
    n_died = die_and_go_on(tmp_path / "original", tmp_path / "copy", delete, check_deleted, every=9)
    assert n_died >= N_OF_DELETION


def test_at_least_200_faults_are_covered() -> None:
    assert sum(life.n_faults for life in LIVES.values()) + N_OF_STORE + N_OF_DELETION + N_KILLS >= 200
