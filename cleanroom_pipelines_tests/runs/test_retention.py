"""Contract: superseded artifacts are deleted after the retention time. The current and the newest version of
everything, the inputs of current versions, and everything that unfinished work needs are kept. Leftovers of killed
processes are deleted after a day: drafts, decrypted copies, seeds without a job."""

import io
import os
from datetime import timedelta
from pathlib import Path

import pytest

from cleanroom_pipelines.catalog import (
    SEED,
    AudienceModel,
    Cause,
    GenerationJob,
    Kind,
    Resource,
    TrainingDatasetSpec,
    Version,
)
from cleanroom_pipelines.catalog.overview import Overview
from cleanroom_pipelines.errors import StatusCode
from cleanroom_pipelines.runs.installation import Installation
from cleanroom_pipelines.runs.kinds import ASSETS_OF
from cleanroom_pipelines.runs.retention import delete_superseded
from cleanroom_pipelines.storage import ArtifactReference, ArtifactStore
from cleanroom_pipelines.storage.multipart import LONGEST, MultipartUploads

from ..conftest import StandingClock
from .building import COLUMNS, make_room, parents_of, write_artifact


def make(installation: Installation, version: Version, *, fails: bool = False) -> Version:
    """Do a pending version's work as a run would: artifacts, then the end."""
    catalog = installation.catalog
    claim = catalog.work.claim(version.kind, version.resource_id, version.number, "run")
    for asset in ASSETS_OF[version.kind]:
        artifact = write_artifact(installation, asset, version.resource_id, version.number, report={"n": 1})
        catalog.work.publish_artifact(claim, asset, artifact)
    if fails:
        return catalog.work.fail(claim, StatusCode.INTERNAL, "It failed. Try again.")
    return catalog.work.finish(claim, {"sentence": "Made."}, parents_of(catalog, version))


def make_all(installation: Installation) -> None:
    while ready := installation.catalog.work.ready():
        make(installation, ready[0])


@pytest.fixture
def room(installation: Installation, monkeypatch: pytest.MonkeyPatch) -> dict[Kind, Resource]:
    """A declared dataset, model and configured model, each with one version and its artifacts."""
    with monkeypatch.context() as patched:
        patched.setattr("cleanroom_pipelines_tests.runs.building.finish_all", lambda catalog: None)
        make_room(installation.catalog, declared=True)
    make_all(installation)
    return {kind: next(installation.catalog.resources.iterate(kind)) for kind in list(Kind)[:3]}


def stored(installation: Installation, record: Resource) -> list[int]:
    versions = installation.store.versions(ASSETS_OF[record.kind][0], record.id)
    return [int(version.partition("-")[0]) for version in versions]


def renew(installation: Installation, record: Resource, *, fails: bool = False) -> None:
    version = installation.catalog.work.request_version(record.kind, record.id, Cause.BY_HAND)
    make(installation, version, fails=fails)


def test_superseded_versions_are_deleted_after_the_retention_time(
    installation: Installation, clock: StandingClock, room: dict[Kind, Resource]
) -> None:
    dataset = room[Kind.TRAINING_DATASET]
    for _ in range(2):
        clock.turn(days=1)
        renew(installation, dataset)
        make_all(installation)
    assert stored(installation, dataset) == [1, 2, 3]
    clock.turn(days=28.5)
    assert delete_superseded(installation) == 0
    clock.turn(days=1)
    assert delete_superseded(installation) == 3  # the first of dataset, model and configured model
    assert [stored(installation, record) for record in room.values()] == [[2, 3]] * 3
    clock.turn(days=1)
    assert delete_superseded(installation) == 3
    assert delete_superseded(installation) == 0
    for record in room.values():
        (version,) = installation.store.versions(ASSETS_OF[record.kind][0], record.id)
        installation.store.verify(ArtifactReference(ASSETS_OF[record.kind][0], record.id, version))


def test_inputs_of_current_versions_are_kept(
    installation: Installation, clock: StandingClock, room: dict[Kind, Resource]
) -> None:
    dataset, model = room[Kind.TRAINING_DATASET], room[Kind.AUDIENCE_MODEL]
    renew(installation, dataset)
    while ready := installation.catalog.work.ready():
        make(installation, ready[0], fails=True)  # so the model stays at its first version
    renew(installation, dataset)
    while ready := installation.catalog.work.ready():
        make(installation, ready[0], fails=True)
    clock.turn(days=400)
    delete_superseded(installation)
    assert installation.catalog.get(AudienceModel, model.id).current_version == 1
    assert stored(installation, dataset) == [1, 3]


def test_newest_version_is_kept_even_if_failed(
    installation: Installation, clock: StandingClock, room: dict[Kind, Resource]
) -> None:
    configured = room[Kind.CONFIGURED_AUDIENCE_MODEL]
    renew(installation, configured, fails=True)
    renew(installation, configured, fails=True)
    clock.turn(days=400)
    delete_superseded(installation)
    assert stored(installation, configured) == [1, 3]


def test_version_current_at_the_start_of_work_is_kept_until_its_end(
    installation: Installation, clock: StandingClock, room: dict[Kind, Resource]
) -> None:
    catalog, dataset = installation.catalog, room[Kind.TRAINING_DATASET]
    other = catalog.resources.create(TrainingDatasetSpec(name="other", source="y.csv", columns=COLUMNS))
    claim = catalog.work.claim(other.kind, other.id, 1, "run that may read anything")
    clock.turn(seconds=1)
    renew(installation, dataset)
    make_all(installation)
    clock.turn(days=400)
    assert claim is not None
    delete_superseded(installation)
    assert stored(installation, dataset) == [1, 2]
    catalog.work.fail(claim, StatusCode.INTERNAL, "It failed.")
    delete_superseded(installation)
    assert stored(installation, dataset) == [2]


def test_pending_work_does_not_delay_retention(
    installation: Installation, clock: StandingClock, room: dict[Kind, Resource]
) -> None:
    catalog, dataset = installation.catalog, room[Kind.TRAINING_DATASET]
    renew(installation, dataset)
    make_all(installation)
    clock.turn(days=400)
    catalog.work.request_version(dataset.kind, dataset.id, Cause.BY_HAND)
    assert delete_superseded(installation) > 0
    assert stored(installation, dataset) == [2]


def test_artifact_published_during_the_listing_is_kept(
    installation: Installation,
    clock: StandingClock,
    room: dict[Kind, Resource],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A whole run may begin and end while the nightly job is at work."""
    dataset, versions, ids = room[Kind.TRAINING_DATASET], ArtifactStore.versions, Overview.ids
    begun: list[str] = []

    def once(name: str) -> None:
        if name not in begun:
            begun.append(name)
            renew(installation, dataset)
            make_all(installation)

    monkeypatch.setattr(ArtifactStore, "versions", lambda *a: (once("before listing"), versions(*a))[1])
    monkeypatch.setattr(Overview, "ids", lambda *a: (once("before ids"), ids(*a))[1])
    clock.turn(days=400)
    delete_superseded(installation)
    current = installation.catalog.resources.current_version(dataset.kind, dataset.id)
    installation.store.verify(
        ArtifactReference("training_dataset", dataset.id, current.artifacts["training_dataset"])
    )
    assert current.number in stored(installation, dataset)


def test_artifact_of_a_killed_run_is_deleted(installation: Installation, room: dict[Kind, Resource]) -> None:
    """The version is ACTIVE with another artifact; of a version that the catalogue does not know, nothing goes."""
    dataset = room[Kind.TRAINING_DATASET]
    (kept,) = installation.store.versions("training_dataset", dataset.id)
    write_artifact(installation, "training_dataset", dataset.id, 1)
    unknown = write_artifact(installation, "training_dataset", dataset.id, 7)
    assert delete_superseded(installation) == 1
    assert installation.store.versions("training_dataset", dataset.id) == [kept, unknown]


def test_failed_version_keeps_its_artifacts_while_retryable(
    installation: Installation, clock: StandingClock, room: dict[Kind, Resource]
) -> None:
    dataset = room[Kind.TRAINING_DATASET]
    renew(installation, dataset, fails=True)
    write_artifact(installation, "training_dataset", dataset.id, 2)
    clock.turn(days=400)
    delete_superseded(installation)
    assert stored(installation, dataset) == [1, 2, 2]
    renew(installation, dataset)
    make_all(installation)
    clock.turn(days=400)
    delete_superseded(installation)
    assert stored(installation, dataset) == [3]


def test_retention_of_zero_days(home: object, clock: StandingClock, room: dict[Kind, Resource]) -> None:
    from cleanroom_pipelines.runs.installation import Settings

    installation = Installation(Settings(home.root, seed_floor=1, retention_days=0), clock=clock)
    renew(installation, room[Kind.TRAINING_DATASET])
    make_all(installation)
    assert delete_superseded(installation) == 3
    assert stored(installation, room[Kind.TRAINING_DATASET]) == [2]


def age(path: Path, clock: StandingClock, **ago: float) -> None:
    at = (clock.now - timedelta(**ago)).timestamp()
    os.utime(path, (at, at))


def test_leftovers_of_killed_processes_are_deleted_after_a_day(
    installation: Installation, clock: StandingClock, room: dict[Kind, Resource], tmp_path: Path
) -> None:
    home = installation.home
    seed = tmp_path / "seed.csv"
    seed.write_text("user_id\n")
    wanted = installation.vault.put("aaaaaaaaaaaa", seed)
    job = _job(installation, room, wanted)
    for slot in ("bbbbbbbbbbbb", "cccccccccccc"):
        installation.vault.put(slot, seed)
    installation.catalog.deletion.announce(SEED, "bbbbbbbbbbbb")
    bucket = home.accounts / "000000000000" / "buckets" / "x"
    left = [
        home.artifacts / "audience" / "0123456789ab" / ".draft-abcdefgh",
        home.scratch / "seed-abcdefgh",
        home.scratch / "copy-abcdefgh",
        home.seeds / "bbbbbbbbbbbb",
        bucket / ".export-abcdefgh",
        home.inbox_seeds / "x" / "accepted" / ".j.json.abcdefgh.draft",
    ]
    theirs = [bucket / ".export", bucket / "part-00000.csv", bucket / ".keep", home.seeds / "aaaaaaaaaaaa"]
    theirs.append(home.seeds / "cccccccccccc")  # nothing says that no job owns it
    for path in [*left, *theirs]:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix in {".draft", ".csv"}:
            path.touch()
        else:
            path.mkdir(exist_ok=True)
            (path / "file").touch()
    for path in [*left, *theirs]:
        age(path, clock, hours=23)
    delete_superseded(installation)
    assert all(path.exists() for path in [*left, *theirs])
    clock.turn(hours=2)
    delete_superseded(installation)
    assert [path for path in left if path.exists()] == []
    assert all(path.exists() for path in theirs)
    assert installation.catalog.get(GenerationJob, job.id).seed_location == wanted
    with installation.vault.opening(wanted) as path:
        assert path.read_text() == "user_id\n"


def test_scratch_of_a_live_process_is_kept(
    installation: Installation, clock: StandingClock, room: dict[Kind, Resource]
) -> None:
    left = installation.home.scratch / "seed-abcdefgh"
    left.mkdir()
    age(left, clock, days=9)
    dataset = room[Kind.TRAINING_DATASET]
    version = installation.catalog.work.request_version(Kind.TRAINING_DATASET, dataset.id, Cause.BY_HAND)
    claim = installation.catalog.work.claim(Kind.TRAINING_DATASET, dataset.id, version.number, "run")
    delete_superseded(installation)
    assert left.exists()
    assert claim is not None
    installation.catalog.work.release(claim)
    delete_superseded(installation)
    assert not left.exists(), "what is pending reads nothing yet"


def _job(installation: Installation, room: dict[Kind, Resource], location: str) -> Resource:
    from cleanroom_pipelines.catalog import GenerationJobSpec

    job = installation.catalog.resources.create(
        GenerationJobSpec(
            name="Spring",
            configured_audience_model_id=room[Kind.CONFIGURED_AUDIENCE_MODEL].id,
            seed_location=location,
            seed_digest="ab" * 32,
            keep_seed=True,
        )
    )
    make_all(installation)
    return job


def test_unfinished_uploads_are_deleted_after_a_week(installation: Installation, clock: StandingClock) -> None:
    """Also if their account never comes back: an upload has parts of a table of people."""
    uploads = MultipartUploads(installation.home, installation.clock)
    upload = uploads.start("111111111111", "mine", "a.jsonl", {})
    upload.store(1, io.BytesIO(b"a"))
    folder = installation.home.accounts / "111111111111" / "multipart" / upload.id
    age(folder, clock, hours=0)
    clock.turn(hours=LONGEST.total_seconds() / 3600 - 1)
    delete_superseded(installation)
    assert folder.exists()
    clock.turn(hours=2)
    delete_superseded(installation)
    assert list(folder.parent.iterdir()) == []
