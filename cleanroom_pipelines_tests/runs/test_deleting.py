"""Deleting removes the seed, artifacts, receipts, caches and records in Dagster of a resource, and nothing else.

Contract: a model or job is deleted after DELETE_PENDING; a training dataset or configured model is deleted at
once, and its data cleaned up. A deletion that was interrupted after any step continues; several concurrent
deletions act once; a deletion waits for a run in progress; if a store fails, this is reported, and another request
tries again. Exported files stay at their destination. Resources of another catalogue are never changed.
"""

import sqlite3
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import cached_property, partial
from pathlib import Path

import dagster as dg
import pytest

from cleanroom_pipelines.audiences.sizes import AudienceSize
from cleanroom_pipelines.catalog import Catalog, ExportJobSpec, GenerationJob, GenerationJobSpec, Kind, Resource
from cleanroom_pipelines.errors import NotFoundError, UsageError
from cleanroom_pipelines.runs import deleting
from cleanroom_pipelines.runs.deleting import clean_up_deleted, delete_pending, find_pending_deletions
from cleanroom_pipelines.runs.installation import Installation, Settings
from cleanroom_pipelines.runs.kinds import ASSETS_OF, KINDS
from cleanroom_pipelines.runs.supervision import supervise
from cleanroom_pipelines.storage import ArtifactReference, ArtifactStore, processes
from cleanroom_pipelines.storage.layout import path_of_partition

from .. import worlds
from ..conftest import StandingClock
from ..worlds import WorldCache
from .building import CANARY, Inbox, finish_all, make_room, write_artifact

PARTITION = "dagster/partition"


class Killed(BaseException):
    """What stands for SIGKILL: nothing catches it."""


@dg.asset_check(asset="audience")
def looks_good(context: dg.AssetCheckExecutionContext) -> dg.AssetCheckResult:
    return dg.AssetCheckResult(passed=True, metadata={"partition": context.run.tags[PARTITION]})


class Room:
    """A clean room in which two jobs were done, each with an export, as runs would have left it."""

    def __init__(self, installation: Installation, instance: dg.DagsterInstance) -> None:
        self.installation, self.instance = installation, instance

    @cached_property
    def catalog(self) -> Catalog:
        return self.installation.catalog

    @classmethod
    def build(cls, installation: Installation, instance: dg.DagsterInstance) -> None:
        room = cls(installation, instance)
        make_room(room.catalog)
        for number in (1, 2):
            room.add_job(f"Job {number}")
        finish_all(room.catalog)
        supervise(installation, instance)
        assert room.delete() == 0
        for kind in Kind:
            for record in room.catalog.resources.iterate(kind):
                room.make(record)

    @cached_property
    def configured(self) -> Resource:
        return worlds.the(self.installation, Kind.CONFIGURED_AUDIENCE_MODEL)

    @cached_property
    def jobs(self) -> list[Resource]:
        return list(self.catalog.resources.iterate(Kind.GENERATION_JOB))

    def add_job(self, name: str) -> Resource:
        slot = self.installation.token_hex(12)
        seed = self.installation.home.scratch / "seed.csv"
        seed.write_text(f"user_id\n{CANARY}\n")
        job = self.catalog.resources.create(
            GenerationJobSpec(
                name=name,
                configured_audience_model_id=self.configured.id,
                seed_location=self.installation.vault.put(slot, seed, move=True),
                seed_digest="ab" * 32,
                keep_seed=True,
            )
        )
        self.catalog.resources.create(
            ExportJobSpec(name=name, generation_job_id=job.id, size=AudienceSize.parse("5%"))
        )
        return job

    def make(self, record: Resource, **tags: str) -> None:
        """Leave what a run leaves: artifacts, and a run with its materialisations and checks."""
        for asset in ASSETS_OF[record.kind]:
            write_artifact(self.installation, asset, record.id, 1, report={"n": 1})
        partitions = dg.DynamicPartitionsDefinition(name=KINDS[record.kind].partition_set)

        @dg.multi_asset(
            specs=[dg.AssetSpec(asset, partitions_def=partitions) for asset in ASSETS_OF[record.kind]],
            name=record.kind.value,
        )
        def make(context: dg.AssetExecutionContext) -> Iterator[dg.MaterializeResult]:
            for asset in ASSETS_OF[record.kind]:
                yield dg.MaterializeResult(
                    asset_key=asset,
                    metadata={"of": context.partition_key},
                    tags={"of": "x"},
                    data_version=dg.DataVersion(record.id),
                )

        checks = [looks_good] if record.kind is Kind.GENERATION_JOB else []
        result = dg.materialize([make, *checks], partition_key=record.id, instance=self.instance, tags=tags)
        assert result.success

    def export_of(self, job: Resource) -> Resource:
        (export,) = self.catalog.resources.list(Kind.EXPORT_JOB, parent_id=job.id).items
        return export

    def asked(self) -> list[str]:
        """Ask for the first job to go; gives its partition and its export's."""
        self.catalog.deletion.request_delete(Kind.GENERATION_JOB, self.jobs[0].id)
        return [self.jobs[0].id, self.export_of(self.jobs[0]).id]

    def delete(self) -> int:
        return delete_pending(self.installation, self.instance)

    def stored(self, partition: str) -> list[str]:
        """The folders of the store that belong to a partition."""
        found = self.installation.home.artifacts.glob(f"*/{path_of_partition(partition)}")
        return sorted(path.parent.name for path in found)

    def told(self, partition: str) -> list[str]:
        """The tables of Dagster that name a partition."""
        folder = Path(self.instance.root_directory)
        return sorted({table for path in folder.rglob("*.db") for table in tables_with(path, partition)})

    def materialized(self, asset: str) -> set[str]:
        return self.instance.get_materialized_partitions(dg.AssetKey(asset))


def tables_with(path: Path, text: str) -> list[str]:
    """The tables of a database with a row that holds a text."""
    with sqlite3.connect(path) as connection:
        tables = [name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        return [
            table
            for table in tables
            if any(text in str(value) for row in connection.execute(f'SELECT * FROM "{table}"') for value in row)
        ]


LAYOUTS = ("one file", "a file for each run")


@contextmanager
def opened(folder: Path, layout: str, clock: StandingClock) -> Iterator[Room]:
    settings = Settings(folder / "home", seed_floor=1)
    with worlds.dagster_at(folder / "dagster", one_file=layout == "one file") as instance:
        yield Room(Installation(settings, clock=clock), instance)


def build(layout: str, folder: Path) -> None:
    with opened(folder, layout, StandingClock()) as room:
        worlds.with_catalog(room.installation.home)
        Room.build(room.installation, room.instance)


@pytest.fixture
def room_as(world_cache: WorldCache, clock: StandingClock, tmp_path: Path) -> Iterator[Callable[[str], Room]]:
    """Opens a copy of the room, by the layout of Dagster's events."""
    with ExitStack() as stack:

        def open_room(layout: str) -> Room:
            world_cache.copy(f"two jobs, {layout}", partial(build, layout), tmp_path / "room")
            return stack.enter_context(opened(tmp_path / "room", layout, clock))

        yield open_room


@pytest.fixture
def room(room_as: Callable[[str], Room]) -> Room:
    return room_as(LAYOUTS[0])


def assert_gone(room: Room, partitions: list[str]) -> None:
    for partition in partitions:
        assert room.stored(partition) == []
        assert room.told(partition) == []
    ids = {key for kind in Kind for key in room.catalog.resources.ids(kind)}
    assert not ids & set(partitions)
    for kind in Kind:
        assert set(room.instance.get_dynamic_partitions(KINDS[kind].partition_set)) == set(
            room.catalog.resources.ids(kind)
        )


def assert_rest_is_whole(room: Room) -> None:
    for kind in Kind:
        for record in room.catalog.resources.iterate(kind):
            assert room.stored(record.id) == sorted(ASSETS_OF[kind])
            for asset in ASSETS_OF[kind]:
                (version,) = room.installation.store.versions(asset, record.id)
                room.installation.store.verify(ArtifactReference(asset, record.id, version))
                assert record.id in room.materialized(asset)
            assert room.instance.get_runs(dg.RunsFilter(tags={PARTITION: record.id}))
    kept = room.installation.vault.find(room.jobs[1].seed_location.partition("/")[0])
    assert kept == room.jobs[1].seed_location


@pytest.mark.parametrize("layout", LAYOUTS)
def test_job_is_deleted_with_its_exports_only(room_as: Callable[[str], Room], layout: str) -> None:
    room = room_as(layout)
    first, export = room.asked()
    assert "event_logs" in room.told(first), "the search sees what is there"
    assert "asset_check_executions" in room.told(first)
    assert room.catalog.get(GenerationJob, first).status == "DELETE_PENDING"
    assert room.delete() == 1
    assert_gone(room, [first, export])
    assert_rest_is_whole(room)
    assert room.installation.vault.find(room.jobs[0].seed_location.partition("/")[0]) is None
    assert room.delete() == 0


def files_of(room: Room, runs: Sequence[dg.DagsterRun]) -> list[Path]:
    """Dagster's files that are named after one of these runs."""
    folder = Path(room.instance.root_directory)
    return [path for path in folder.rglob("*") if any(run.run_id in str(path) for run in runs)]


def test_files_of_a_deleted_run_are_deleted(room_as: Callable[[str], Room]) -> None:
    room = room_as("a file for each run")
    runs = room.instance.get_runs(dg.RunsFilter(tags={PARTITION: room.asked()}))
    assert len(runs) == 2
    assert files_of(room, runs)
    room.delete()
    assert files_of(room, runs) == []


def test_dagster_shows_the_newest_event_of_another_partition(room: Room) -> None:
    room.make(room.jobs[0])
    key = dg.AssetKey("audience")

    def newest() -> str | None:
        (record,) = room.instance.get_asset_records([key])
        shown = record.asset_entry.last_materialization
        return shown.dagster_event.partition if shown and shown.dagster_event else None

    assert newest() == room.jobs[0].id
    room.asked()
    room.delete()
    assert newest() == room.jobs[1].id
    assert room.materialized("audience") == {room.jobs[1].id}


def test_exported_files_stay_at_their_destination(room: Room) -> None:
    folder = room.installation.home.accounts / "000000000000" / "buckets" / "audiences" / "x" / "1"
    folder.mkdir(parents=True)
    (folder / "manifest.json").touch()
    room.asked()
    room.delete()
    assert (folder / "manifest.json").exists()


def test_leftovers_of_killed_processes_in_the_store_are_deleted(room: Room) -> None:
    first, _ = room.asked()
    folder = room.installation.home.artifacts / "audience" / path_of_partition(first)
    for name in (".draft-abcdefgh", "0009-0123abcd"):
        (folder / name).mkdir()
        (folder / name / "ranking.parquet").touch()
    room.delete()
    assert not folder.exists()


def test_model_is_deleted_after_its_dependents(room: Room) -> None:
    model, dataset = (
        room.configured.audience_model_id,
        next(iter(room.catalog.resources.ids(Kind.TRAINING_DATASET))),
    )
    configured = room.configured.id
    jobs = [job.id for job in room.jobs]
    exports = [room.export_of(job).id for job in room.jobs]
    for job in jobs:
        room.catalog.deletion.request_delete(Kind.GENERATION_JOB, job)
    assert room.delete() == 2
    room.catalog.deletion.request_delete(Kind.CONFIGURED_AUDIENCE_MODEL, configured)
    room.catalog.deletion.request_delete(Kind.AUDIENCE_MODEL, model)
    assert room.delete() == 2
    room.catalog.deletion.request_delete(Kind.TRAINING_DATASET, dataset)
    assert room.delete() == 1, "the last one goes too, though the catalogue is empty now"
    assert_gone(room, [*jobs, *exports, configured, model, dataset])


def test_home_files_of_a_dataset_and_configured_model_are_deleted(room: Room) -> None:
    installation = room.installation
    inbox = Inbox(installation, room.configured)
    inbox.folder.mkdir(parents=True)
    inbox.drop("broken.docx")
    inbox.register()
    assert (inbox.folder / "rejected").is_dir()
    cache = installation.home.day_caches / path_of_partition(
        next(iter(room.catalog.resources.ids(Kind.TRAINING_DATASET)))
    )
    cache.mkdir(parents=True)
    (cache / "0.parquet").touch()
    for kind in (Kind.GENERATION_JOB, Kind.CONFIGURED_AUDIENCE_MODEL, Kind.AUDIENCE_MODEL, Kind.TRAINING_DATASET):
        for key in room.catalog.resources.ids(kind):
            room.catalog.deletion.request_delete(kind, key)
        room.delete()
    assert not inbox.folder.exists()
    assert not cache.exists()


def test_seed_dropped_for_a_deleted_model_is_rejected_with_a_receipt(room: Room) -> None:
    inbox = Inbox(room.installation, room.configured)
    for job in room.jobs:
        room.catalog.deletion.request_delete(Kind.GENERATION_JOB, job.id)
    room.delete()
    room.catalog.deletion.request_delete(Kind.CONFIGURED_AUDIENCE_MODEL, room.configured.id)
    dropped = inbox.drop()
    room.delete()
    assert dropped.exists()
    inbox.register()
    assert not dropped.exists()
    (receipt,) = inbox.receipts("rejected")
    assert receipt["statusCode"] == "PARENT_NOT_ACTIVE"


def test_receipt_is_deleted_with_its_job(room: Room) -> None:
    inbox = Inbox(room.installation, room.configured)
    inbox.drop()
    (job,) = inbox.register()
    inbox.fail(job)
    assert len(inbox.receipts("rejected")) == 1
    room.catalog.deletion.request_delete(Kind.GENERATION_JOB, job.id)
    assert room.delete() == 1
    assert inbox.receipts("rejected") == []
    assert inbox.seeds() == [f"user_id\n{CANARY}\n".encode()] * 2, "the other jobs' seeds"


# What carries a step out, and which of its calls. What one step leaves is what the next one finds, so that killing
# before each and after the last sees every state. A job has two assets of one version each, its export one more.
STEPS: dict[str, tuple[Callable[[Room], tuple[object, str]], tuple[int, ...]]] = {
    "seed": (lambda room: (type(room.installation.vault), "delete"), (1,)),
    "receipts": (lambda room: (deleting, "forget_receipts"), (1,)),
    "all versions of an asset": (lambda room: (type(room.installation.store), "delete_partition"), (2, 3)),
    "manifest, version, folder": (lambda room: (ArtifactStore, "_delete"), (1, 2, 3)),
    "events": (lambda room: (type(room.instance.event_log_storage), "delete_events"), (1,)),
    "output": (lambda room: (type(room.instance.compute_log_manager), "delete_logs"), (1,)),
    "results": (lambda room: (type(room.instance), "wipe_asset_cached_status"), (1,)),
    "run": (lambda room: (type(room.instance.run_storage), "delete_run"), (1, 2)),
    "row": (lambda room: (type(room.catalog.deletion), "finish_delete"), (1,)),
    "partition": (lambda room: (deleting, "hide_partition"), (1, 2)),
}


@pytest.mark.parametrize(("step", "call"), [(step, call) for step, (_, calls) in STEPS.items() for call in calls])
def test_interrupted_deletion_resumes_at_any_step(
    room: Room, monkeypatch: pytest.MonkeyPatch, step: str, call: int
) -> None:
    cut_off_and_go_on(room, monkeypatch, step, call)


def test_deletion_interrupted_after_the_last_step_is_complete(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    cut_off_and_go_on(room, monkeypatch, "partition", 2, is_after=True)


def test_event_file_is_deleted_after_an_interruption_before_its_run(
    room_as: Callable[[str], Room], monkeypatch: pytest.MonkeyPatch
) -> None:
    room = room_as("a file for each run")
    runs = room.instance.get_runs(dg.RunsFilter(tags={PARTITION: room.asked()}))
    cut_off_and_go_on(room, monkeypatch, "run", 1)
    assert files_of(room, runs) == []


def cut_off_and_go_on(
    room: Room, monkeypatch: pytest.MonkeyPatch, step: str, call: int, *, is_after: bool = False
) -> None:
    """Kill a deletion at one of the calls of a step, delete again, and see that all of it went, nothing else."""
    partitions = room.asked()
    place, name = STEPS[step][0](room)
    carry_out, called = getattr(place, name), [0]

    def killed(*arguments: object, **options: object) -> object:
        called[0] += 1
        if called[0] < call:
            return carry_out(*arguments, **options)
        if is_after:
            carry_out(*arguments, **options)
        raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(place, name, killed)
        with pytest.raises(Killed):
            room.delete()
    room.delete()
    assert_gone(room, partitions)
    assert_rest_is_whole(room)


def test_store_failure_is_reported_and_retried_on_request(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    partitions = room.asked()

    def fail(*_: object, **__: object) -> None:
        raise PermissionError(13, "denied", "/secret/place")

    with monkeypatch.context() as patched:
        patched.setattr(ArtifactStore, "_delete", fail)
        assert room.delete() == 0
    job = room.catalog.get(GenerationJob, partitions[0])
    assert job.status == "DELETE_FAILED"
    assert "PermissionError" in job.status_message
    assert "secret" not in job.status_message
    assert partitions[0] not in job.status_message
    assert room.delete() == 0, "nobody asked again"
    room.asked()
    assert room.delete() == 1
    assert_gone(room, partitions)


def test_store_failure_during_cleanup_is_retried(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    room.asked()
    room.catalog.deletion.request_delete(Kind.GENERATION_JOB, room.jobs[1].id)
    room.delete()
    room.catalog.deletion.request_delete(Kind.CONFIGURED_AUDIENCE_MODEL, room.configured.id)
    with monkeypatch.context() as patched:
        patched.setattr(ArtifactStore, "_delete", lambda *_, **__: 1 / 0)
        assert room.delete() == 0
    assert room.delete() == 1
    assert_gone(room, [room.configured.id])


@pytest.mark.parametrize("status", [dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.NOT_STARTED])
def test_deletion_waits_for_an_active_run(room: Room, status: dg.DagsterRunStatus) -> None:
    first, export = room.asked()

    @dg.job
    def late() -> None:
        pass

    run = room.instance.create_run_for_job(late, status=status, tags={PARTITION: export})
    room.installation.catalog.work.heartbeat_worker(run.run_id)
    assert find_pending_deletions(room.installation, room.instance) == ()
    assert room.delete() == 0
    assert room.stored(first)
    room.instance.report_run_failed(run)
    assert room.delete() == 1
    assert_gone(room, [first, export])


def test_deletion_does_not_wait_forever_for_a_dead_run(room: Room) -> None:
    partitions = room.asked()

    @dg.job
    def silent() -> None:
        pass

    room.instance.create_run_for_job(silent, status=dg.DagsterRunStatus.STARTED, tags={PARTITION: partitions[0]})
    later = replace_clock(room.installation, seconds=200)
    assert delete_pending(later, room.instance) == 1
    assert_gone(room, partitions)


def replace_clock(installation: Installation, **span: float) -> Installation:
    """The same installation on the machine's clock put forward, which is the one Dagster has."""
    later = worlds.later(installation, **span)
    return Installation(replace(later.settings, seed_floor=1), clock=later.clock)


def test_deletion_waits_for_claimed_work(room: Room) -> None:
    job = room.add_job("Job 3")
    version = room.catalog.resources.newest_version(Kind.GENERATION_JOB, job.id)
    claim = room.catalog.work.claim(Kind.GENERATION_JOB, job.id, version.number, "run")
    room.catalog.deletion.request_delete(Kind.GENERATION_JOB, job.id)
    assert room.delete() == 0
    room.catalog.work.release(claim)
    assert room.delete() == 1
    with pytest.raises(NotFoundError):
        room.catalog.get(GenerationJob, job.id)


@pytest.mark.parametrize("hosts", ["one", "several"])
def test_concurrent_deletions_delete_each_resource_once(
    room: Room, monkeypatch: pytest.MonkeyPatch, hosts: str, tmp_path: Path
) -> None:
    if hosts == "several":  # which share catalogue, Dagster's database and store, but no lock
        monkeypatch.setattr(processes.fcntl, "flock", lambda *_: None)
    partitions = [*room.asked(), room.jobs[1].id, room.export_of(room.jobs[1]).id]
    room.catalog.deletion.request_delete(Kind.GENERATION_JOB, room.jobs[1].id)

    def delete(instance: dg.DagsterInstance) -> int:
        return delete_pending(room.installation, instance)

    with ExitStack() as stack, ThreadPoolExecutor(6) as pool:
        # opened one after the other: Dagster's own opening is not made for six at once
        place = tmp_path / "room" / "dagster"
        instances = [stack.enter_context(worlds.dagster_at(place, one_file=True)) for _ in range(6)]
        counts = list(pool.map(delete, instances))
    assert sum(counts) >= 1
    if hosts == "one":
        assert sum(counts) == 2
    while room.catalog.deletion.deletions():
        room.delete()
    assert_gone(room, partitions)


def test_other_installation_on_the_same_dagster_deletes_nothing(room: Room, tmp_path: Path) -> None:
    other = Installation(Settings(tmp_path / "other", seed_floor=1), clock=room.installation.clock)
    make_room(other.catalog)
    supervise(other, room.instance)
    assert delete_pending(other, room.instance) == 0
    assert clean_up_deleted(other, room.instance, now=room.installation.clock().replace(year=2099)) == 0
    assert_rest_is_whole(room)


def test_leftovers_after_a_deletion_are_cleaned_up_once_old_and_foreign_ones_kept(room: Room) -> None:
    partitions = room.asked()
    job, export = room.jobs[0], room.export_of(room.jobs[0])
    room.delete()
    # a run that waited in the queue, and one that was killed as it published
    room.instance.add_dynamic_partitions(KINDS[Kind.EXPORT_JOB].partition_set, [export.id])
    room.make(export)
    room.instance.delete_dynamic_partition(KINDS[Kind.EXPORT_JOB].partition_set, export.id)
    write_artifact(room.installation, "audience", job.id, 7, report={})
    stranger = f"gone-{'0' * 12}"
    write_artifact(room.installation, "audience", stranger, 1, report={})
    (room.installation.home.inbox_seeds / stranger / "rejected").mkdir(parents=True)
    (room.installation.home.inbox_seeds / "notes").mkdir()
    assert room.stored(job.id) == ["audience"]
    clean_up_deleted(room.installation, room.instance, now=datetime.now(UTC))
    assert room.stored(job.id) == ["audience"], "whoever writes it may be at it"
    tomorrow = datetime.now(UTC) + timedelta(days=1, hours=1)
    clean_up_deleted(room.installation, room.instance, now=tomorrow)
    assert_gone(room, partitions)
    assert_rest_is_whole(room)
    assert sorted(path.name for path in room.installation.home.inbox_seeds.iterdir()) == [stranger, "notes"]
    assert room.stored(stranger) == ["audience"], "nothing says that it was deleted"
    assert clean_up_deleted(room.installation, room.instance, now=tomorrow) == 0


def test_runs_of_other_projects_are_kept(room: Room) -> None:
    @dg.asset(partitions_def=dg.StaticPartitionsDefinition(["x-0123456789ab"]))
    def theirs() -> None:
        pass

    dg.materialize([theirs], partition_key="x-0123456789ab", instance=room.instance)
    clean_up_deleted(room.installation, room.instance, now=datetime.now(UTC) + timedelta(days=9))
    assert room.instance.get_materialized_partitions(dg.AssetKey("theirs")) == {"x-0123456789ab"}
    assert room.instance.get_runs(dg.RunsFilter(tags={PARTITION: "x-0123456789ab"}))


def test_export_is_not_deleted_alone(room: Room) -> None:
    with pytest.raises(UsageError):
        room.catalog.deletion.request_delete(Kind.EXPORT_JOB, room.export_of(room.jobs[0]).id)
