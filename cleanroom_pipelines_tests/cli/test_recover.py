"""Rebuilding the catalogue from stored artifacts.

Contract: `cleanroom recover` shows its plan first, and changes nothing without confirmation. Then the catalogue
has every resource and version whose artifacts are stored, unchanged; an older catalogue keeps its content. Nothing
is deleted: the previous catalogue is kept under another name. Resources that cannot be rebuilt are listed. Deleted
resources do not come back. The spending of privacy budgets is read from the audit log; if the log is incomplete,
and after a restore, every budget counts as spent.
"""

import json
import shutil
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from cleanroom_pipelines.catalog import (
    AudienceListSpec,
    CustomAudienceSpec,
    DataLabSpec,
    DataRoom,
    DataRoomSpec,
    GenerationJob,
    Kind,
    Ledger,
    ParticipantSpec,
    Status,
    TrainingDataset,
)
from cleanroom_pipelines.privacy import COUNT, BudgetSpentError
from cleanroom_pipelines.runs.budgets import Budget, Question, room_pair
from cleanroom_pipelines.runs.inbox import recover_drops
from cleanroom_pipelines.runs.installation import Installation, Settings
from cleanroom_pipelines.runs.work import Run, working
from cleanroom_pipelines.storage import ArtifactReference
from cleanroom_pipelines.terms import CollaborationType, Permission

from .. import homes, worlds
from ..homes import Fault
from ..storage.auditing import lines_of, put_lines
from .commands import Commands

PEOPLE = {"aa": "data@pub.example", "bb": "crm@adv.example"}
LOST = (
    homes.no_catalogue,
    homes.empty_file,
    homes.new_catalogue,
    homes.anothers_catalogue,
    homes.no_database,
    homes.no_identity_and_no_catalogue,
)
OLDER = (homes.older_copy, homes.torn_log, homes.older_schema)


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home that was worked in; to be copied."""
    folder = tmp_path_factory.mktemp("filled")
    installation = Installation(Settings(folder / "home", seed_floor=1))
    homes.fill(installation)
    homes.work(installation)
    return folder / "home"


@pytest.fixture
def home(filled: Path, tmp_path: Path) -> Iterator[Installation]:
    """The home that the environment names."""
    shutil.copytree(filled, tmp_path / "home")
    with worlds.installed(tmp_path / "home", CLEANROOM_SEED_FLOOR="1") as installation:
        installation.check()
        yield installation


def described(installation: Installation) -> dict[str, Any]:
    """All that a catalogue says of resources and versions, but for when and by whom it was changed last."""
    catalog, found = installation.catalog, {}
    for kind in Kind:
        for record in catalog.resources.iterate(kind):
            versions = [
                (each.number, each.status, dict(each.artifacts), set(each.parents), each.cause, each.params)
                + ((each.summary.get("metrics"),) if each.status is Status.ACTIVE else (each.status_message,))
                for each in catalog.resources.versions(kind, record.id)
            ]
            found[record.id] = {**asdict(record), "updated_at": None, "versions": versions}
    return found


def assert_all_is_there(home: Installation, before: dict[str, bytes | None], tmp_path: Path) -> None:
    now = homes.listing(tmp_path)
    changed = {name for name, content in before.items() if now.get(name, b"") != content}
    assert changed <= {"home/installation.json", *(name for name in before if name.startswith("home/audit/"))}
    for kind in Kind:
        for record in home.catalog.resources.iterate(kind):
            for version in home.catalog.resources.versions(kind, record.id):
                for asset, artifact in version.artifacts.items():
                    home.store.verify(ArtifactReference(asset, record.id, artifact))


@pytest.mark.parametrize("fault", LOST, ids=lambda fault: fault.__name__)
def test_lost_catalogue_is_rebuilt(home: Installation, tmp_path: Path, command: Commands, fault: Fault) -> None:
    wanted = described(home)
    fault(home, tmp_path)
    before = homes.listing(tmp_path)
    dry = command("recover", "--dry-run")
    assert (dry.code, dry.err) == (0, "")
    assert all(key in dry.out for key in wanted)
    assert command("recover").code == 2, "nobody confirms it"
    assert command("status").code == 2
    assert homes.listing(tmp_path) == before
    ended = command("recover", "--yes")
    assert ended.code == 0, ended.err
    assert "Rebuilt 7 resources" in ended.out
    rebuilt = Installation.from_environment()
    assert described(rebuilt) == wanted
    assert_all_is_there(rebuilt, before, tmp_path)
    assert command("status").code == 0
    assert command("recover", "--yes").out == "The catalogue is intact; there is nothing to recover.\n"
    assert homes.work(rebuilt) >= 3, "the work goes on"


@pytest.mark.parametrize("fault", OLDER, ids=lambda fault: fault.__name__)
def test_older_catalogue_gets_later_versions(
    home: Installation, tmp_path: Path, command: Commands, fault: Fault
) -> None:
    home.catalog.users.create_user("data@publisher.example")
    fault(home, tmp_path)
    before = homes.listing(tmp_path)
    shown = json.loads(command("recover", "--dry-run", "--json").out)
    assert homes.listing(tmp_path) == before
    assert command("recover", "--yes").code == 0
    rebuilt = Installation.from_environment()
    assert [user.email for user in rebuilt.catalog.users.all()] == ["data@publisher.example"]
    (dataset,) = rebuilt.catalog.resources.ids(Kind.TRAINING_DATASET)
    stored = rebuilt.store.versions("training_dataset", dataset)
    versions = rebuilt.catalog.resources.versions(Kind.TRAINING_DATASET, dataset)
    assert [version.artifacts["training_dataset"] for version in versions] == stored
    assert {version.status for version in versions} == {Status.ACTIVE}
    assert rebuilt.catalog.get(TrainingDataset, dataset).current_version == len(stored)
    if fault is not homes.older_schema:  # which lost nothing but its newest tables
        assert shown["rebuilt"]
        assert not any(one["is_new"] for one in shown["rebuilt"])
    if fault is homes.older_copy:  # of a torn log the first half is still there
        assert dataset in {one["id"] for one in shown["rebuilt"]}
    assert_all_is_there(rebuilt, before, tmp_path)
    assert len(list(home.home.root.glob("catalog.db.aside-*"))) == 1


@pytest.mark.parametrize("fault", [homes.no_key, homes.another_key], ids=lambda fault: fault.__name__)
def test_recovery_needs_the_installation_key(
    home: Installation, tmp_path: Path, command: Commands, fault: Fault
) -> None:
    homes.no_catalogue(home, tmp_path)
    fault(home, tmp_path)
    before = homes.listing(tmp_path)
    ended = command("recover", "--yes")
    assert (ended.code, ended.out) == (2, "")
    assert "from a backup" in ended.err
    assert homes.listing(tmp_path) == before


def test_empty_home_has_nothing_to_recover(
    command: Commands, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CLEANROOM_HOME", str(tmp_path / "new"))
    assert command("recover", "--yes").out == "The catalogue is intact; there is nothing to recover.\n"
    assert command("status").code == 0
    assert command("recover", "--yes").out == "The catalogue is intact; there is nothing to recover.\n"


def as_written_before(home: Installation) -> None:
    """Let all manifests be of the release that put no record into them."""
    for path in home.home.artifacts.rglob("manifest.json"):
        manifest = json.loads(path.read_text())
        path.write_text(json.dumps({**manifest, "format_version": 1} | {"record": ""}))


def test_manifests_of_an_earlier_release_restore_versions_only(
    home: Installation, tmp_path: Path, command: Commands
) -> None:
    homes.older_copy(home, tmp_path)
    as_written_before(home)
    (dataset,) = homes_ids(home, "training_dataset")
    shown = json.loads(command("recover", "--yes", "--json").out)
    assert shown["lost"] == []
    rebuilt = Installation.from_environment()
    version = rebuilt.catalog.resources.newest_version(Kind.TRAINING_DATASET, dataset)
    assert version.status is Status.ACTIVE
    assert version.artifacts["training_dataset"] == rebuilt.store.versions("training_dataset", dataset)[-1]
    (model,) = rebuilt.catalog.resources.iterate(Kind.AUDIENCE_MODEL)
    assert rebuilt.catalog.resources.newest_version(Kind.AUDIENCE_MODEL, model.id).parents[0].id == dataset

    homes.no_catalogue(home, tmp_path)
    ended = command("recover", "--yes")
    assert ended.code == 0
    assert "cannot be rebuilt" in ended.out
    assert dataset in ended.out
    assert list(Installation.from_environment().catalog.resources.ids(Kind.TRAINING_DATASET)) == []
    assert homes_ids(home, "training_dataset") == [dataset], "its artifacts stay"


def homes_ids(home: Installation, asset: str) -> list[str]:
    """The partition keys that stored manifests of an asset name."""
    manifests = (json.loads(path.read_text()) for path in (home.home.artifacts / asset).rglob("manifest.json"))
    return sorted({manifest["partition"] for manifest in manifests})


def test_deleted_resources_are_not_restored(home: Installation, tmp_path: Path, command: Commands) -> None:
    catalog = home.catalog
    (job, *_) = catalog.resources.ids(Kind.GENERATION_JOB)
    catalog.deletion.request_delete(Kind.GENERATION_JOB, job)
    catalog.deletion.begin_delete(Kind.GENERATION_JOB, job)
    catalog.deletion.finish_delete(Kind.GENERATION_JOB, job)
    assert job in homes_ids(home, "audience"), "a run that was killed left it"
    homes.older_copy(home, tmp_path)
    assert job not in command("recover", "--yes").out
    assert job not in Installation.from_environment().catalog.resources.ids(Kind.GENERATION_JOB)


def test_unfinished_version_is_not_restored_as_active(
    home: Installation, tmp_path: Path, command: Commands
) -> None:
    (job, *_) = home.catalog.resources.ids(Kind.GENERATION_JOB)
    for path in (home.home.artifacts / "audience" / job[-12:]).iterdir():
        shutil.rmtree(path)
    homes.no_catalogue(home, tmp_path)
    assert command("recover", "--yes").code == 0
    rebuilt = Installation.from_environment().catalog
    assert rebuilt.get(GenerationJob, job).status is Status.CREATE_FAILED
    assert rebuilt.get(GenerationJob, job).current_version is None
    assert rebuilt.resources.newest_version(Kind.GENERATION_JOB, job).status_message.endswith("Try again.")


def test_waiting_seed_is_registered_again(home: Installation, tmp_path: Path, command: Commands) -> None:
    (configured,) = home.catalog.resources.iterate(Kind.CONFIGURED_AUDIENCE_MODEL)
    inbox = homes.Inbox(home, configured)
    inbox.drop("third.csv", homes.SEED + b"y\n")
    (job,) = inbox.register()
    homes.no_catalogue(home, tmp_path)
    assert command("recover", "--yes").code == 0
    rebuilt = Installation.from_environment()
    recover_drops(rebuilt)
    found = rebuilt.catalog.resources.find_generation_job_by_seed(configured.id, job.seed_digest)
    with rebuilt.vault.opening(found.seed_location) as path:
        assert path.read_bytes() == homes.SEED + b"y\n"


def make_room(home: Installation) -> DataRoom:
    """A data room of two organisations, with audiences and a list."""
    catalog = home.catalog
    groups = tuple(
        ParticipantSpec(name, (PEOPLE[name],), name, tuple(permissions))
        for name, permissions in {
            "aa": (Permission.PROVIDE_BASE_AUDIENCE, Permission.VIEW_OVERLAP),
            "bb": (Permission.PROVIDE_SEED_AUDIENCE, Permission.CREATE_CUSTOM_AUDIENCE),
        }.items()
    )
    upload = home.uploads.seal("0123456789abcdef", [b"x"])
    catalog.rooms.add_upload(
        upload.location,
        PEOPLE["aa"],
        "ids.csv",
        n_bytes=1,
        digest="ab",
        matching_id=None,
        location=upload.location,
    )
    catalog.resources.create(
        DataLabSpec(name="Lab", mark="11", owner_email=PEOPLE["aa"], datasets={"matching:EMAIL": upload.location})
    )
    room = catalog.resources.create(
        DataRoomSpec(
            name="Spring",
            mark="22",
            owner_email=PEOPLE["aa"],
            participants=groups,
            collaboration_types=(CollaborationType.OVERLAP, CollaborationType.RULE_BASED),
            matching_ids=("EMAIL",),
        )
    )
    homes.finish_pending(home)
    audience = {
        "data_room_id": room.id,
        "created_by": "bb",
        "created_by_email": PEOPLE["bb"],
        "definition": {"type": "segment"},
    }
    first = catalog.resources.create(CustomAudienceSpec(name="All", mark="33", **audience))
    second = catalog.resources.create(
        CustomAudienceSpec(name="Both", mark="44", references=(first.id,), **audience)
    )
    catalog.resources.create(
        AudienceListSpec(name="List", mark="55", custom_audience_id=second.id, delivered_to="bb")
    )
    homes.finish_pending(home)
    assert isinstance(room, DataRoom)
    return room


def pay(home: Installation, *texts: str) -> Ledger:
    """Pay for counts of the room's data, 2 units each."""
    (room,) = home.catalog.rooms.data_rooms()
    pair = room_pair(home, room)
    assert pair is not None
    budget = Budget(home, pair, room.id)
    return budget.pay([Question.of("size", "content", text, COUNT) for text in texts], "adv.example")


def lines(home: Installation) -> set[tuple[str, int, str | None, str | None]]:
    """What stands in the ledgers of all pairs."""
    catalog = home.catalog
    found = [line for pair in catalog.pairs.all() for line in catalog.pairs.ledger_lines(pair.id)]
    return {(line.key, line.tenths, line.variance, line.sensitivity) for line in found}


def test_data_room_is_restored_with_the_spending_of_its_pair(
    home: Installation, tmp_path: Path, command: Commands
) -> None:
    room = make_room(home)
    (first,) = (each for each in home.catalog.rooms.custom_audiences(room.id) if each.name == "All")
    (upload,) = home.catalog.rooms.uploads()
    assert pay(home, "a", "b").spent == 40
    wanted, paid = described(home), lines(home)
    homes.no_catalogue(home, tmp_path)
    shown = command("recover", "--yes")
    assert shown.code == 0, shown.err
    assert "contain all 2 payments in the audit log" in shown.out
    assert "@" not in shown.out
    rebuilt = Installation.from_environment()
    assert described(rebuilt) == wanted
    assert lines(rebuilt) == paid
    assert pay(rebuilt, "a").spent == 40, "what was paid stays free"
    assert pay(rebuilt, "c").spent == 60
    assert rebuilt.catalog.rooms.upload(upload.id).location == upload.location
    with pytest.raises(Exception, match="Other audiences depend on the audiences"):
        rebuilt.catalog.rooms.request_delete_audiences([first.id])


@pytest.mark.parametrize("fault", ["changed", "cut off", "gone"])
def test_incomplete_audit_log_marks_every_budget_as_spent(
    home: Installation, tmp_path: Path, command: Commands, fault: str
) -> None:
    make_room(home)
    pay(home, "a", "b")
    home.audit.close()
    folder = home.home.audit
    if fault == "gone":
        shutil.rmtree(folder)
    elif fault == "changed":
        put_lines(folder, [line.replace(b'"tenths":20', b'"tenths":10') for line in lines_of(folder)])
    else:
        put_lines(folder, lines_of(folder)[:-1])
    homes.no_catalogue(home, tmp_path)
    assert "count as spent" in command("recover", "--yes").out
    rebuilt = Installation.from_environment()
    with pytest.raises(BudgetSpentError):
        pay(rebuilt, "c")
    (pair,) = (
        each for each in rebuilt.catalog.pairs.all() if set(each.organizations) == {"pub.example", "adv.example"}
    )
    ledger = rebuilt.catalog.pairs.ledger(pair.id)
    assert ledger.spent == ledger.total == 1000


@pytest.mark.parametrize("is_paid", [False, True])
def test_room_of_an_earlier_release_counts_as_spent(
    home: Installation, tmp_path: Path, command: Commands, is_paid: bool
) -> None:
    """Releases before wrote no payments into the audit log; that something was answered is in it."""
    room = make_room(home)
    if is_paid:
        pay(home, "a")
    home.audit.write(
        {"way": "media", "operation": "get_job_result.audience_size", "outcome": "ok", "room": room.id}
    )
    homes.no_catalogue(home, tmp_path)
    told = command("recover", "--yes").out
    assert ("1 pairs got results from an earlier release" in told) is not is_paid
    rebuilt = Installation.from_environment()
    if is_paid:
        assert pay(rebuilt, "b").spent == 40
    else:
        with pytest.raises(BudgetSpentError):
            pay(rebuilt, "b")


def test_older_catalogue_is_rejected_and_recovery_adds_later_payments(
    home: Installation, tmp_path: Path, command: Commands
) -> None:
    """Putting the catalogue of before back gives nobody their units back."""
    make_room(home)
    pay(home, "a")
    homes.copy_catalog(home.home, tmp_path / "older")
    pay(home, "b", "c")
    paid = lines(home)
    home.catalog.database.close()
    homes.replace_catalog(home.home, tmp_path / "older")
    assert command("status").code == 2
    assert command("ledger").code == 2, "nothing is asked of it"
    assert command("recover", "--yes").code == 0
    rebuilt = Installation.from_environment()
    assert lines(rebuilt) == paid
    assert pay(rebuilt, "b").spent == 60


@pytest.mark.parametrize("is_reported", [False, True])
def test_restore_marks_every_budget_as_spent_unless_nothing_was_asked(
    home: Installation, tmp_path: Path, command: Commands, monkeypatch: pytest.MonkeyPatch, is_reported: bool
) -> None:
    make_room(home)
    home.catalog.users.create_user("plans@agency.example")
    for name in PEOPLE.values():
        home.catalog.users.create_user(name)
    pay(home, "a")
    assert command("backup", tmp_path / "b.tar").code == 0
    monkeypatch.setenv("CLEANROOM_HOME", str(tmp_path / "elsewhere"))
    told = command("restore", tmp_path / "b.tar", *(["--nothing-asked-since"] if is_reported else []))
    assert told.code == 0, told.err
    restored = Installation.from_environment()
    if is_reported:
        assert pay(restored, "a").spent == 20
        assert pay(restored, "b").spent == 40
        return
    assert pay(restored, "a").spent == 1000, "what was paid before stays free"
    with pytest.raises(BudgetSpentError):
        pay(restored, "b")
    # two whose data had not met when the backup was made may have met since
    other = restored.catalog.pairs.pair("agency.example", "pub.example")
    assert restored.catalog.pairs.ledger(other.id).left == 0


def test_manifests_reveal_nothing_without_the_key(home: Installation) -> None:
    text = "".join(path.read_text() for path in home.home.artifacts.rglob("manifest.json"))
    assert '"record": "gAAAA' in text
    for word in ("Partners", "x.csv", "s3://audiences"):
        assert word not in text


def test_claimed_version_is_unchanged_if_nothing_is_lost(home: Installation, command: Commands) -> None:
    (dataset,) = home.catalog.resources.ids(Kind.TRAINING_DATASET)
    home.catalog.work.request_version(Kind.TRAINING_DATASET, dataset, homes.Cause.BY_HAND)
    newest = home.catalog.resources.newest_version(Kind.TRAINING_DATASET, dataset)
    with working(home, TrainingDataset, dataset, Run("run", newest.number)) as held:
        with held.drafting("training_dataset", (), {}) as draft:
            (draft.path / "report.json").write_text("{}")
        assert command("recover", "--yes").out == "The catalogue is intact; there is nothing to recover.\n"
        held.finish("Made.")
