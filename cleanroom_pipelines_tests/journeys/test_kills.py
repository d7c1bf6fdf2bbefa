"""A process that is killed at any moment loses nothing except its time.

Contract: fifty times a real process kills itself during its work, over the whole life of several jobs, most of
them from the inbox. After each kill everything that a reader can see is complete. In the end every job and every
export exists once.

A process that is not killed shows which steps each kind of work takes (`killing.py`). Each sort of step in each
stage is the last step of some process, and every second process continues for a short random time after its step,
so all kinds of work are interrupted however fast the machine is. A killed run's lease lasts 60 seconds, and a
version is reserved for three minutes for a run that starts; the test ends both at once. A version whose run was
killed three times fails for good, as intended; it is then retried, as its message says.
"""

import random
import sqlite3
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import chain, cycle
from pathlib import Path

import pytest
import yaml
from sqlalchemy import update

from cleanroom_pipelines.catalog import Kind, Status, Version
from cleanroom_pipelines.catalog.records import OPEN
from cleanroom_pipelines.catalog.tables import VersionRow
from cleanroom_pipelines.delivery.exports import verify_export
from cleanroom_pipelines.errors import StatusCode
from cleanroom_pipelines.runs.building_lookalike import verify_exported_files
from cleanroom_pipelines.runs.installation import Installation
from cleanroom_pipelines.runs.kinds import ASSETS_OF
from cleanroom_pipelines.storage import ArtifactReference

from .. import worlds
from ..databases import url_of, writing
from .killing import INBOX, Moment, work

pytestmark = pytest.mark.slow

N_KILLS, N_DECLARED = 50, 2
# How many kills must interrupt each kind of work after its claim; where they are fewer, there are more than fifty.
N_IN_EACH = 3
# How long every other process goes on after its last step: some of these moments are within DuckDB or LightGBM.
MOST_SECONDS = 0.3


def choose_moments(steps: Mapping[str, Sequence[str]], dice: random.Random) -> list[Moment]:
    """Choose at least fifty moments, in the order of the stages: each sort of step once, then any steps."""
    chosen: dict[str, set[int]] = {}
    for stage, taken in steps.items():
        numbers = {step: [n for n, one in enumerate(taken, 1) if one == step] for step in taken}
        chosen[stage] = {dice.choice(of_step) for of_step in numbers.values()}
    for stage in cycle(worlds.ROAD):
        if sum(map(len, chosen.values())) >= N_KILLS:
            break
        chosen[stage].add(dice.randint(1, len(steps[stage])))
    moments = [
        Moment(stage, number, steps[stage][number - 1]) for stage in steps for number in sorted(chosen[stage])
    ]
    return [
        moment if n % 2 else Moment(moment.stage, moment.number, moment.step, dice.uniform(0, MOST_SECONDS))
        for n, moment in enumerate(moments)
    ]


def moments_in_work(moments: Sequence[Moment], hit: Counter[str]) -> Iterator[Moment]:
    """Yield moments again of each kind of work that kills have interrupted too rarely on this machine."""
    for moment in moments * 2:
        if moment.stage != INBOX and hit[Kind(moment.stage).words] < N_IN_EACH:
            yield replace(moment, seconds=0.0)


@dataclass
class Shop:
    """A home for processes that are killed.

    Attributes:
        folder: Contains the home, and Dagster's folder.
        world: Its files.
        installation: Opens the home in this process.
        n_declared: Number of jobs in the declaration.
        n_dropped: Number of seeds that were put into the inbox.
    """

    folder: Path
    world: worlds.World
    installation: Installation
    n_declared: int
    n_dropped: int = 0

    def __post_init__(self) -> None:
        form = yaml.safe_load(self.world.declaration.read_text())
        (job,) = form["generation_jobs"]
        form["generation_jobs"] = [
            job | {"name": f"Job {number}", "seed": str(self.write_seed(number))}
            for number in range(self.n_declared)
        ]
        declaration = self.folder / "cleanroom.yaml"
        declaration.write_text(yaml.safe_dump(form))
        worlds.apply(self.installation, declaration)
        self.inbox.mkdir(parents=True)

    @property
    def inbox(self) -> Path:
        configured = worlds.the(self.installation, Kind.CONFIGURED_AUDIENCE_MODEL)
        return self.installation.home.inbox_seeds / configured.id

    def write_seed(self, number: int) -> Path:
        users = random.Random(number).sample(self.world.group, worlds.N_SEED)
        return worlds.write_seed(self.folder / f"seed {number}.jsonl", users)

    def drop(self) -> None:
        """Put another seed into the inbox, also of a model that is not built yet."""
        seed = self.write_seed(self.n_declared + self.n_dropped)
        seed.rename(self.inbox / seed.name)
        self.n_dropped += 1

    def see_to_work(self, stage: str) -> None:
        """Make sure that the next process has work in a stage."""
        if stage == INBOX:
            if not any(path.is_file() for path in self.inbox.iterdir()):
                self.drop()
            return
        catalog = self.installation.catalog
        if any(version.status in OPEN for version in self.newest(Kind(stage))):
            return
        if stage in (Kind.GENERATION_JOB, Kind.EXPORT_JOB):
            if not any(version.status in OPEN for version in self.newest(Kind.GENERATION_JOB)):
                self.drop()
        else:
            catalog.work.request_manually(Kind(stage), worlds.the(self.installation, Kind(stage)).id)

    def newest(self, kind: Kind) -> list[Version]:
        """Return the newest version of each resource of a kind."""
        catalog = self.installation.catalog
        return [catalog.resources.newest_version(kind, record.id) for record in catalog.resources.iterate(kind)]


@contextmanager
def shop_at(folder: Path, world: worlds.World, *, n_declared: int) -> Iterator[Shop]:
    folder.mkdir()
    with worlds.installed(folder / "home") as installation:
        yield Shop(folder, world, installation, n_declared)


def steps_of_each_stage(folder: Path, world: worlds.World) -> dict[str, list[str]]:
    """Return the steps of a process that is not killed, with one inbox seed."""
    with shop_at(folder, world, n_declared=0) as shop:
        shop.drop()
    ended = work(folder)
    assert ended.exit_code == 0
    return {stage: ended.steps[stage] for stage in (INBOX, *worlds.ROAD)}


def test_fifty_kills_lose_nothing(tmp_path: Path, world: worlds.World, capsys: pytest.CaptureFixture[str]) -> None:
    moments = choose_moments(steps_of_each_stage(tmp_path / "whole", world), random.Random(5))
    folder, n_kills, n_retried, hit = tmp_path / "killed", 0, 0, Counter[str]()
    with shop_at(folder, world, n_declared=N_DECLARED) as shop:
        installation = shop.installation
        for moment in chain(moments, moments_in_work(moments, hit)):
            shop.see_to_work(moment.stage)
            ended = work(folder, moment)
            if not ended.was_killed and moment.seconds:  # all was done before its short while was over
                shop.see_to_work(moment.stage)
                ended = work(folder, replace(moment, seconds=0.0))
            assert ended.was_killed, f"{moment} was not reached: exit code {ended.exit_code}"
            n_kills += 1
            hit.update(in_progress(installation))
            assert_whole(installation)
            n_retried += expire_leases(installation)
        assert work(folder).exit_code == 0, "the next process does the rest"
        seen = assert_whole(installation)
        assert_ended_once(shop)
    assert all(hit[kind.words] >= N_IN_EACH for kind in worlds.ROAD), f"kills fell into each kind of work: {hit}"
    with capsys.disabled():
        print(  # noqa: T201 what was measured
            f"\n{n_kills} kills at {len({(one.stage, one.step) for one in moments})} sorts of steps, in the"
            f" middle of {dict(hit)}; {n_retried} versions failed for good and were tried again; in the end"
            f" {dict(seen)}."
        )


def in_progress(installation: Installation) -> list[str]:
    """Return the kinds of work that a run has claimed."""
    return [
        version.kind.words
        for kind in worlds.ROAD
        for record in installation.catalog.resources.iterate(kind)
        for version in installation.catalog.resources.versions(kind, record.id)
        if version.status is Status.CREATE_IN_PROGRESS
    ]


def assert_whole(installation: Installation) -> Counter[str]:
    """Check that everything a reader can see matches its manifest; return how much there is."""
    seen = Counter[str]()
    with sqlite3.connect(installation.home.root / "catalog.db") as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    for kind in Kind:
        for record in installation.catalog.resources.iterate(kind):
            whole = dict[str, list[str]]()
            for asset in ASSETS_OF[kind]:
                whole[asset] = installation.store.versions(asset, record.id)
                for version in whole[asset]:
                    installation.store.verify(ArtifactReference(asset, record.id, version))
                    seen[asset] += 1
            for version in installation.catalog.resources.versions(kind, record.id):
                if version.status is Status.ACTIVE:
                    assert set(version.artifacts) == set(ASSETS_OF[kind])
                    assert all(name in whole[asset] for asset, name in version.artifacts.items())
    for folder in exported(installation):
        assert verify_export(folder)["delivered"] == worlds.N_USERS // 5
        seen["exported folders"] += 1
    return seen


def exported(installation: Installation) -> list[Path]:
    bucket = installation.home.accounts / "000000000000" / "buckets" / "audiences" / "shop"
    return [path for path in sorted(bucket.glob("*")) if not path.name.startswith(".")]


def expire_leases(installation: Installation) -> int:
    """End leases and reservations of the killed process; return how many versions failed and are retried."""
    catalog = installation.catalog
    with writing(url_of(installation)) as session:
        of_somebody = VersionRow.status.in_(OPEN), VersionRow.lease_expires_at.is_not(None)
        session.execute(update(VersionRow).where(*of_somebody).values(lease_expires_at=installation.clock()))
    catalog.work.reap()
    catalog.work.fail_orphans()
    n_retried = 0
    for kind in worlds.ROAD:
        for record in catalog.resources.iterate(kind):
            newest = catalog.resources.newest_version(kind, record.id)
            if newest.status is Status.CREATE_FAILED:
                assert newest.status_code in (StatusCode.INTERNAL, StatusCode.PARENT_NOT_ACTIVE), (
                    newest.status_message
                )
                catalog.work.retry(kind, record.id)
                n_retried += 1
    return n_retried


def assert_ended_once(shop: Shop) -> None:
    installation, catalog = shop.installation, shop.installation.catalog
    assert catalog.work.ready() == ()
    ended = worlds.statuses(installation)
    assert {status for statuses in ended.values() for status in statuses} == {"ACTIVE"}
    jobs = list(catalog.resources.iterate(Kind.GENERATION_JOB))
    assert len(jobs) == shop.n_declared + shop.n_dropped
    exports = list(catalog.resources.iterate(Kind.EXPORT_JOB))
    assert sorted(export.parent_id for export in exports) == sorted(job.id for job in jobs)
    for export in exports:
        assert len(catalog.resources.versions(Kind.EXPORT_JOB, export.id)) == 1
        version = catalog.resources.newest_version(Kind.EXPORT_JOB, export.id).artifacts["audience_export"]
        manifest = installation.store.manifest(ArtifactReference("audience_export", export.id, version))
        assert verify_exported_files(installation, export.id, manifest) == worlds.N_USERS // 5
    assert len(exported(installation)) == len(exports), "each export is stored once"
    assert [path for path in shop.inbox.iterdir() if path.is_file()] == []
    assert len(list((shop.inbox / "accepted").glob("*.json"))) == shop.n_dropped
    assert not list((shop.inbox / "rejected").glob("*.json"))
    assert not [path for path in installation.home.seeds.rglob("seed.*") if path.is_file()], "no seed is left"
