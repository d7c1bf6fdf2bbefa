"""Contract: a room's assets are built from the provisioned data, and rebuilt only where something changed;
deprovisioned data is deleted; audiences have the users that their definitions select; lists are delivered and
state what they reveal; documents and events contain released numbers only, and no id."""

import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from sqlalchemy import create_engine, select

from cleanroom_pipelines.audiences.canonical import canonical
from cleanroom_pipelines.audiences.definitions import parse_definition
from cleanroom_pipelines.catalog import Cause, DataLabSpec, Kind, Resource
from cleanroom_pipelines.catalog.tables import AudienceReferenceRow, RoomJobRow, VersionRow
from cleanroom_pipelines.defs.resources import InstallationResource
from cleanroom_pipelines.errors import ArtifactError, ConflictError
from cleanroom_pipelines.identity import BASE_DATASETS
from cleanroom_pipelines.runs.artifact_documents import newest_artifact
from cleanroom_pipelines.runs.budgets import RoomBudget, room_pair
from cleanroom_pipelines.runs.building_room_audiences import build_audience_list, resolver
from cleanroom_pipelines.runs.dagster_home import load_repository
from cleanroom_pipelines.runs.deleting import delete_now
from cleanroom_pipelines.runs.inbox_folders import folder_of
from cleanroom_pipelines.runs.installation import Settings
from cleanroom_pipelines.runs.kinds import KINDS
from cleanroom_pipelines.runs.traces import shown_partitions
from cleanroom_pipelines.runs.work import Run
from cleanroom_pipelines.storage import ArtifactReference

from .. import worlds
from ..worlds import WorldCache
from .room_worlds import (
    RoomWorld,
    email,
    make_data_room,
    open_copied_room,
    open_room,
    room_world,
    seed_file,
)

REMARKETING = {"kind": "remarketing", "audience_type": "loyal"}
LOOKALIKE = {
    "kind": "lookalike",
    "source": {"kind": "seed", "audience_type": "loyal"},
    "reach": 10,
    "exclude_seed_audience": False,
}


def rule(source: dict[str, Any], gender: str | None = None, *combinators: dict[str, Any]) -> dict[str, Any]:
    women = {"attribute": "gender", "operator": "CONTAINS_ANY_OF", "values": [gender]}
    filters = {"operator": "AND", "filters": [women]} if gender else None
    return {"kind": "rule_based", "source": source, "filters": filters, "combinators": list(combinators)}


@pytest.fixture
def undrawn() -> Iterator[None]:
    with worlds.without_pictures():
        yield


@pytest.fixture
def world(undrawn: None, tmp_path: Path) -> Iterator[RoomWorld]:
    with open_room(tmp_path) as world:
        yield world


@pytest.fixture
def filled(undrawn: None, world_cache: WorldCache, tmp_path: Path) -> Iterator[RoomWorld]:
    """A room with a base and seeds, of which the rare ones are told to be too few; Dagster's history is new."""
    world_cache.copy("data room", make_data_room, tmp_path / "data-room")
    with open_copied_room(tmp_path / "data-room", with_history=False) as room:
        yield room


@pytest.fixture
def filled_with_history(undrawn: None, data_room: RoomWorld) -> RoomWorld:
    """The same with the history that Dagster has of it."""
    return data_room


def users_of(world: RoomWorld, record: Resource) -> set[str]:
    return set(world.users_of(record))


def document(world: RoomWorld, record: Resource, asset: str, name: str) -> Any:
    return newest_artifact(world.installation, record.kind, record.id, asset)[1][name]


def test_empty_room_is_built_and_described(world: RoomWorld) -> None:
    world.run()
    assert world.version().artifacts == {}
    assert world.version().summary["sentence"] == "The room contains no data."


def test_provisioned_data_is_ingested_and_files_are_deleted(filled: RoomWorld) -> None:
    assert set(filled.version().artifacts) == {
        "base_audience", "seed_audiences", "data_attributes", "overlap_statistics", "insights", "room_model",
    }  # fmt: skip
    assert filled.installation.uploads.locations() == frozenset()
    told = document(filled, filled.room, "overlap_statistics", "overlap")["without_own_counts"]["rows"]
    assert [row["audience_type"] for row in told] == ["loyal", "new", "rare"]
    room = RoomBudget.of(filled.installation, filled.room, filled.version())
    assert room is not None
    question = canonical(parse_definition(REMARKETING), resolver(filled.installation.catalog), room.seeds)
    n_loyal = room.releaser().count(len(filled.seeds["loyal"]), question=question).value
    assert told[0]["overlap_size"] == n_loyal
    assert told[0]["advertiser_size"] is None
    assert (told[2]["overlap_size"], told[2]["is_empty"]) == (None, True)


def test_new_seeds_rebuild_only_their_dependents(filled_with_history: RoomWorld) -> None:
    filled = filled_with_history
    audience = filled.audience(REMARKETING)
    filled.run()
    before = filled.version().artifacts
    filled.provision_seeds(seed_file({"loyal": filled.seeds["new"]}))
    filled.run()
    after = filled.version().artifacts
    same = {asset for asset in before if before[asset] == after[asset]}
    assert same == {"base_audience", "data_attributes", "room_model"}
    assert users_of(filled, audience) == filled.seeds["new"]
    made = worlds.materializations(filled.instance, "base_audience", filled.room.id)
    assert len(made) == 1, "Dagster shows the base once: it was not made again"
    assert len(worlds.materializations(filled.instance, "insights", filled.room.id)) == 2
    for asset, bars, label in (
        ("overlap_statistics", "overlap", "| loyal | █"),
        ("insights", "affinity of seed audience 1", "█"),
    ):
        newest, *_ = worlds.materializations(filled.instance, asset, filled.room.id)
        shown = newest.metadata[bars].value
        assert (label in shown, len(shown) <= 1_000) == (True, True), asset


def test_same_file_again_changes_nothing(filled: RoomWorld) -> None:
    before = filled.version()
    filled.provision_seeds()
    filled.run()
    assert filled.version().number == before.number + 1
    assert filled.version().artifacts == before.artifacts, "so the same question has the same answer, and is free"


def test_unusable_file_changes_nothing(filled: RoomWorld) -> None:
    before = filled.version()
    filled.provision_seeds("one column only\n" * 30)
    filled.run()
    assert filled.version() == before
    newest = filled.installation.catalog.resources.newest_version(Kind.DATA_ROOM, filled.room.id)
    assert (newest.status, newest.status_code) == ("CREATE_FAILED", "SEED_INVALID")
    report = document(filled, filled.room, "seed_audiences", "report")["report"]
    assert report["outcome"] == "FAILED"
    assert filled.installation.uploads.locations() == frozenset()
    filled.provision_base()  # and the bad seed does not come back with the next change
    filled.run()
    assert filled.installation.catalog.resources.newest_version(Kind.DATA_ROOM, filled.room.id).status == "ACTIVE"
    assert "seed_audiences" in filled.version().artifacts


def test_removed_data_is_deleted_at_once(filled: RoomWorld) -> None:
    audience = filled.audience(REMARKETING)
    filled.run()
    filled.installation.catalog.rooms.provision(filled.room.id, {}, BASE_DATASETS)
    filled.run()
    assert set(filled.version().artifacts) == {"seed_audiences"}
    store = filled.installation.store
    for asset in ("base_audience", "overlap_statistics", "insights", "room_model"):
        assert store.versions(asset, filled.room.id) == []
    assert store.versions("custom_audience", audience.id) == []
    newest = filled.installation.catalog.resources.newest_version(Kind.CUSTOM_AUDIENCE, audience.id)
    assert (newest.status, newest.status_code) == ("CREATE_FAILED", "PARENT_NOT_ACTIVE")


def test_audiences_contain_the_users_of_their_definitions(filled: RoomWorld) -> None:
    loyal = filled.seeds["loyal"]
    remarketing = filled.audience(REMARKETING, name="remarketing")
    exclusion = filled.audience({"kind": "exclusion", "audience_type": "loyal"}, name="exclusion")
    women = filled.audience(rule({"kind": "base"}, "f"), name="women")
    lookalike = filled.audience(LOOKALIKE, name="lookalike")
    like_women = filled.audience(
        rule({"kind": "custom", "id": lookalike.id}, "f"), lookalike.id, name="women like them"
    )
    filled.run()
    assert users_of(filled, remarketing) == loyal
    assert users_of(filled, exclusion) == set(filled.users) - loyal
    assert users_of(filled, women) == {user for user in filled.users if filled.gender[user] == "f"}
    reached = users_of(filled, lookalike)
    assert len(reached) == len(filled.users) // 10
    assert len(reached & filled.group) / len(reached) > 0.9, "they are of the planted group"
    assert users_of(filled, like_women) == {user for user in reached if filled.gender[user] == "f"}
    told = document(filled, lookalike, "lookalike_statistics", "statistics")["result"]
    assert told["auc"] > 0.8
    assert [row["reach"] for row in told["reach"]] == list(range(1, 31))


def liked_by_the_group(world: RoomWorld) -> set[str]:
    """The segments that set the planted group apart."""
    return {name for user in world.group for name in world.segments[user]}


def test_lookalike_explanation_is_free(filled: RoomWorld) -> None:
    lookalike = filled.audience(LOOKALIKE)
    filled.run()
    told = document(filled, lookalike, "lookalike_statistics", "statistics")["result"]["explanation"]
    assert {each["attribute"] for each in told} == {"segments"}
    assert {each["value"] for each in told} == liked_by_the_group(filled)
    strengths = [each["strength"] for each in told]
    assert strengths == sorted(strengths, reverse=True)
    assert min(strengths) > 3
    pair = room_pair(filled.installation, filled.room)
    assert pair is not None
    lines = {each.kind for each in filled.installation.catalog.pairs.ledger_lines(pair.id)}
    assert lines == {"base", "size", "lookalike", "figures"}


def test_lookalike_explanation_uses_only_attribute_values_of_the_room(world: RoomWorld) -> None:
    """Some of the seed, and nobody else, are in one segment alone that too few are in to be named."""
    few = sorted(world.seeds["loyal"])[:24]
    others = [line for line in world.files["segments"].splitlines() if line.split(",")[0] not in few]
    world.files["segments"] = "\n".join([*others, *(f"{user},unnamed" for user in few), ""])
    world.provision_base()
    world.provision_seeds(seed_file({"loyal": world.seeds["loyal"]}))
    lookalike = world.audience(LOOKALIKE)
    world.run()
    named = document(world, world.room, "data_attributes", "attributes")["attributes"]
    assert "unnamed" not in {value for each in named for value in each["values"]}
    told = document(world, lookalike, "lookalike_statistics", "statistics")["result"]["explanation"]
    assert {each["value"] for each in told} == liked_by_the_group(world)


def test_too_few_seed_users_are_reported_without_a_count(filled: RoomWorld) -> None:
    rare = filled.audience({**LOOKALIKE, "source": {"kind": "seed", "audience_type": "rare"}})
    filled.run()
    newest = filled.installation.catalog.resources.newest_version(Kind.CUSTOM_AUDIENCE, rare.id)
    assert (newest.status, newest.status_code) == ("CREATE_FAILED", "INSUFFICIENT_MATCHING_SEED")
    assert not any(character.isdigit() for character in newest.status_message or "")


def files_of(world: RoomWorld, record: Resource) -> str:
    version = world.installation.catalog.resources.current_version(record.kind, record.id)
    assert version is not None
    reference = ArtifactReference("audience_user_list", record.id, version.artifacts["audience_user_list"])
    with world.installation.store.opening(reference) as folder:
        return "".join(path.read_text() for path in sorted((folder / "files").glob("part-*.csv")))


def test_user_list_has_one_audience_user_per_line(filled: RoomWorld) -> None:
    audience = filled.audience(REMARKETING)
    delivered = filled.deliver(audience)
    filled.run()
    assert set(files_of(filled, delivered).splitlines()) == filled.seeds["loyal"]
    told = document(filled, delivered, "audience_user_list", "list")
    assert told["reveals"] == ["REMARKETING"]
    labels = [each["kind"] for each in filled.installation.audit.entries() if each["operation"] == "export"]
    assert labels == ["reveals_remarketing"]
    assert "requested" not in json.dumps(told)


def test_finished_list_is_verified_when_built_manually(filled: RoomWorld) -> None:
    delivered = filled.deliver(filled.audience(REMARKETING))
    filled.run()
    verified = build_audience_list(filled.installation, delivered.id, Run("one"))
    assert verified.sentence.startswith("Verified: all ")
    assert verified.manifest is not None
    version = filled.installation.catalog.resources.newest_version(delivered.kind, delivered.id)
    with filled.installation.store.opening(version.artifact("audience_user_list")) as folder:
        (folder / "list.json").write_text("{}")
    with pytest.raises(ArtifactError):
        build_audience_list(filled.installation, delivered.id, Run("two"))


def test_control_group_is_held_out(filled: RoomWorld) -> None:
    audience = filled.audience(rule({"kind": "base"}))
    delivered = filled.deliver(audience, holdout="20%")
    filled.run()
    kept = set(files_of(filled, delivered).splitlines())
    assert kept < set(filled.users)
    assert 0.15 < 1 - len(kept) / len(filled.users) < 0.25
    assert "holdout" not in json.dumps(document(filled, delivered, "audience_user_list", "list"))


def test_destination_hashes_are_computed_from_the_uploaded_ids(filled: RoomWorld) -> None:
    from hashlib import sha256

    delivered = filled.deliver(filled.audience(REMARKETING), destination="meta")
    filled.run()
    lines = set(files_of(filled, delivered).replace('"', "").split())
    hashes = {sha256(email(user).encode()).hexdigest() for user in filled.seeds["loyal"]}
    assert hashes <= lines


def spent(world: RoomWorld) -> int:
    """Tenths of a unit that the room's two organisations have spent."""
    pair = room_pair(world.installation, world.room)
    assert pair is not None
    return world.installation.catalog.pairs.ledger(pair.id).spent


def test_refreshed_base_is_ranked_by_the_paid_vector_for_free(filled: RoomWorld) -> None:
    lookalike = filled.audience(LOOKALIKE)
    filled.run()
    paid, first = spent(filled), users_of(filled, lookalike)
    vector = document(filled, lookalike, "lookalike_statistics", "vector")
    assert paid > 100 + 20, "the figures of the base, the size of the source, the vector and its quality"

    wider = filled.audience({**LOOKALIKE, "reach": 20}, name="wider")
    filled.run()
    assert spent(filled) == paid, "every reach of one source is paid with the first"
    assert users_of(filled, wider) > first

    gone = set(filled.users[:100])
    filled.provision_base(without=gone)
    filled.run()
    assert document(filled, lookalike, "lookalike_statistics", "vector") == vector
    assert not users_of(filled, lookalike) & gone
    assert len(users_of(filled, lookalike) & first) > 0.8 * len(first)
    assert spent(filled) == paid

    filled.provision_seeds(seed_file({**filled.seeds, "loyal": set(sorted(filled.group)[:320])}))
    filled.run()
    assert spent(filled) > paid, "other ids are another seed"


def figures_of_base(world: RoomWorld) -> Any:
    """What is told of the base alone, without the question that it answers."""
    return document(world, world.room, "data_attributes", "base_figures")["figures"]


def test_base_figures_are_kept_until_new_ones_are_paid(filled: RoomWorld) -> None:
    first, tables = figures_of_base(filled), filled.version().artifacts["insights"]
    filled.provision_base(without=set(filled.users[:900]))
    filled.run()
    assert figures_of_base(filled) == first
    room = RoomBudget.of(filled.installation, filled.room, filled.version())
    assert room is not None
    paid = spent(filled)
    room.budget.pay([room.question_of_base()])
    assert spent(filled) == paid + 100
    filled.installation.catalog.work.request_version(Kind.DATA_ROOM, filled.room.id, Cause.UPDATED)
    filled.run()
    renewed, after = figures_of_base(filled), filled.version().artifacts
    assert abs(renewed["addressable"] - (len(filled.users) - 900)) < 100
    assert renewed["addressable"] < first["addressable"] - 500
    assert after["insights"] != tables, "what rests on the figures was made again"

    filled.provision_seeds(seed_file({"loyal": filled.seeds["new"]}))
    filled.run()
    assert filled.version().artifacts["data_attributes"] == after["data_attributes"]
    assert figures_of_base(filled) == renewed
    assert spent(filled) == paid + 100


def test_list_of_too_few_users_is_rejected(filled: RoomWorld) -> None:
    delivered = filled.deliver(filled.audience({"kind": "remarketing", "audience_type": "rare"}))
    filled.run()
    newest = filled.installation.catalog.resources.newest_version(Kind.AUDIENCE_LIST, delivered.id)
    assert (newest.status, newest.status_code) == ("CREATE_FAILED", "INSUFFICIENT_MATCHING_SEED")


def test_deleted_audience_is_kept_only_if_a_list_was_delivered(filled: RoomWorld) -> None:
    catalog = filled.installation.catalog
    never, delivered = filled.audience(REMARKETING, name="never"), filled.audience(REMARKETING, name="delivered")
    filled.deliver(delivered)
    filled.run()
    assert set(catalog.rooms.request_delete_audiences([never.id, delivered.id])) == {never.id, delivered.id}
    filled.run()
    assert catalog.rooms.custom_audiences(filled.room.id) == (), "nobody sees either"
    assert catalog.resources.ids(Kind.CUSTOM_AUDIENCE) == (delivered.id,)
    assert filled.installation.store.versions("custom_audience", never.id) == []
    assert filled.instance.get_dynamic_partitions("custom_audiences") == [delivered.id]
    filled.audience(REMARKETING, name="delivered")  # its name is free


def everything_written(world: RoomWorld, folder: Path) -> str:
    """All that people or logs may see: documents of released assets, catalogue rows, Dagster's events."""
    texts = []
    for run in world.instance.get_runs():
        texts += [str(entry) for entry in world.instance.all_logs(run.run_id)]
    for name in ("audience.json", "overlap.json", "insights.json", "statistics.json", "list.json"):
        texts += [path.read_text() for path in folder.rglob(name)]
    return "\n".join(texts)


@pytest.fixture
def drawn_world(tmp_path: Path) -> Iterator[RoomWorld]:
    """An empty room whose pages have their pictures."""
    with open_room(tmp_path) as world:
        yield world


def test_no_id_or_exact_count_is_published(drawn_world: RoomWorld, tmp_path: Path) -> None:
    world = drawn_world
    world.provision_base()
    world.provision_seeds()
    audience, lookalike = world.audience(REMARKETING, name="a"), world.audience(LOOKALIKE, name="b")
    world.run()
    world.deliver(audience)
    world.deliver(lookalike)
    world.run()
    told = everything_written(world, tmp_path)
    assert "overlap_size" in told
    for user in world.users[:300]:
        assert user not in told
        assert email(user) not in told
    documents = "\n".join(
        path.read_text()
        for name in ("audience.json", "overlap.json", "insights.json", "statistics.json")
        for path in (tmp_path / "home").rglob(name)
        if "data_lab" not in str(path)
    )
    n_loyal = len(world.seeds["loyal"])  # of the advertiser's file 40 more
    assert f": {n_loyal}," not in documents
    assert f": {n_loyal}\n" not in documents


def test_hidden_counts_are_published_nowhere(undrawn: None, tmp_path: Path) -> None:
    with (
        worlds.installed(tmp_path / "home") as installation,
        dg.DagsterInstance.ephemeral() as instance,
    ):
        world = room_world(installation, instance, hide=True)
        world.provision_base()
        world.provision_seeds()
        audience, lookalike = world.audience(REMARKETING, name="a"), world.audience(LOOKALIKE, name="b")
        world.run()
        assert document(world, audience, "custom_audience", "audience")["released"]["size"] is None
        rows = document(world, world.room, "overlap_statistics", "overlap")["without_own_counts"]["rows"]
        assert {row["overlap_size"] for row in rows} == {None}
        assert {row["match_rate"] for row in rows} == {None}, "of the advertiser's ids only he knows how many"
        told = document(world, lookalike, "lookalike_statistics", "statistics")["result"]
        assert (told["seed_size"], told["addressable_size"]) == (None, None)
        assert {row["size"] for row in told["reach"]} == {None}
        assert {row["tpr_error"] for row in told["reach"]} == {told["auc_error"]} == {None}
        assert {each["value"] for each in told["explanation"]} <= liked_by_the_group(world)
        assert {each["strength"] for each in told["explanation"]} == {None}, "they follow from the size"
        pair = room_pair(installation, world.room)
        assert pair is not None
        lines = {each.kind: each.tenths for each in installation.catalog.pairs.ledger_lines(pair.id)}
        assert (lines["lookalike"], lines["figures"]) == (150, 100), "a price by size would tell the size"
        insights = document(world, world.room, "insights", "insights")["result"]["audiences"]
        assert {row["addressable_size"] for each in insights for row in each["rows"]} == {None}


def test_drop_in_a_room_inbox_is_provisioned(world: RoomWorld) -> None:
    from cleanroom_pipelines.runs.room_inbox import find_room_drops, provision_drop

    world.run()
    inbox = folder_of(world.installation, world.room)
    for name, text in (("matching", "matching"), ("segments", "segments"), ("seed_audiences", "seeds")):
        (inbox / name / "file.csv").write_text(world.files[text])
    (inbox / "matching" / ".hidden").write_text("x")
    for drop in find_room_drops(world.installation):
        provision_drop(world.installation, drop)
    world.run()
    assert {"base_audience", "seed_audiences", "overlap_statistics"} <= set(world.version().artifacts)
    pair = room_pair(world.installation, world.room_now())
    assert pair is not None
    assert pair.organizations == ("adv.example", "pub.example"), "each side's, though the publisher owns the room"
    assert [path.name for path in inbox.rglob("*") if path.is_file()] == [".hidden"]


def test_oversized_upload_is_rejected_and_leaves_nothing(
    world: RoomWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cleanroom_pipelines.runs.room_inbox import find_room_drops, provision_drop

    world.run()
    monkeypatch.setenv("CLEANROOM_MAX_UNPACKED", "64MB")
    # members of a gzip may follow one another
    bomb = gzip.compress(b"a@mail.example,loyal\n" * 100_000) * 32
    inbox = folder_of(world.installation, world.room)
    (inbox / "seed_audiences" / "file.csv").write_bytes(bomb)
    for drop in find_room_drops(world.installation):
        provision_drop(world.installation, drop)
    brought = world.installation.uploads.seal("ab" * 16, [bomb])
    world.installation.catalog.rooms.add_upload(
        "ab" * 16,
        "lab@a.example",
        "a file",
        n_bytes=brought.n_bytes,
        digest=brought.digest,
        matching_id=None,
        location=brought.location,
    )
    lab = world.installation.catalog.resources.create(
        DataLabSpec(name="lab", mark="cd" * 8, owner_email="lab@a.example", datasets={"matching:EMAIL": "ab" * 16})
    )
    world.run()
    assert world.installation.catalog.resources.newest_version(Kind.DATA_LAB, lab.id).status == "CREATE_FAILED"
    reports = document(world, lab, "data_lab", "reports")
    assert "The file is larger than 64,000,000 bytes" in json.dumps(reports)
    newest = world.installation.catalog.resources.newest_version(Kind.DATA_ROOM, world.room.id)
    assert (newest.status, newest.status_code) == ("CREATE_FAILED", "SEED_INVALID")
    report = document(world, world.room, "seed_audiences", "report")["report"]
    assert "The file is larger than 64,000,000 bytes when unpacked." in json.dumps(report)
    assert world.installation.uploads.locations() == {brought.location}, "the drop's copy is gone"
    [receipt] = [path for path in inbox.rglob("*") if path.is_file()]
    assert receipt.parent == inbox / "seed_audiences" / "rejected"
    told = json.loads(receipt.read_text())
    assert (told["file"], told["status"], told["statusCode"]) == ("file.csv", "CREATE_FAILED", "SEED_INVALID")
    assert (told["upload"]["bytes"], told["message"]) == (len(bomb), newest.status_message)
    scratch = world.installation.home.scratch_root
    assert sum(path.stat().st_size for path in scratch.rglob("*") if path.is_file()) < 10_000
    assert list(scratch.rglob("unpacked")) == []


def test_default_size_limits() -> None:
    assert Settings(Path("home")).max_unpacked_bytes < 2_100_000_000


def test_sensor_ingests_a_complete_drop(world: RoomWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    home = world.installation.home.root
    for name, value in worlds.settings(home).items():
        monkeypatch.setenv(name, value)
    world.run()
    drop = folder_of(world.installation, world.room) / "matching" / "file.csv"
    drop.write_text(world.files["matching"])
    loaded, cursor, told = load_repository(), None, []
    for _ in range(2):
        with dg.build_sensor_context(
            instance=world.instance,
            cursor=cursor,
            repository_def=loaded,
            resources={"installation": InstallationResource()},
        ) as context:
            ticked = loaded.get_sensor_def("room_inbox").evaluate_tick(context)
        cursor, told = ticked.cursor, [*told, ticked.skip_message]
        assert drop.exists() is (len(told) == 1), "it is complete when it has not changed since the tick before"
    assert told[1] == "Files in the inbox: 1 accepted."
    world.run()
    assert "base_audience" in world.version().artifacts


def test_deleted_room_leaves_nothing(filled_with_history: RoomWorld) -> None:
    filled = filled_with_history
    installation, room = filled.installation, filled.room
    delivered = filled.audience(REMARKETING, name="delivered")
    filled.deliver(delivered)
    filled.audience(rule({"kind": "custom", "id": delivered.id}, "f"), delivered.id, name="women")
    filled.run()
    installation.catalog.rooms.request_delete_audiences([delivered.id], with_dependents=True)  # hidden for good
    filled.audience(LOOKALIKE, name="a draft", hidden=True)
    filled.provision_seeds()  # a file that nobody takes in any more
    catalog = installation.catalog
    catalog.rooms.add_room_job(
        email="analyst@adv.example",
        data_room_id=room.id,
        kind="overlap",
        target=filled.version(),
        options={},
    )
    assert len(installation.uploads.locations()) == 1
    with pytest.raises(ConflictError):
        catalog.deletion.request_delete(Kind.DATA_ROOM, room.id)

    going = (*catalog.deletion.dependents(Kind.DATA_ROOM, room.id), room)
    delete_now(installation, filled.instance, going)
    assert [record for kind in Kind for record in catalog.resources.iterate(kind)] == []
    assert [path for path in installation.home.artifacts.rglob("*") if path.is_file()] == []
    assert installation.uploads.locations() == frozenset()
    with create_engine(installation.home.catalog_url).connect() as connection:
        for row in (RoomJobRow, AudienceReferenceRow, VersionRow):
            assert connection.execute(select(row)).all() == []
    assert not any(shown_partitions(filled.instance, kind) for kind in KINDS)


def test_lab_keeps_its_files_when_a_room_is_deleted(world: RoomWorld) -> None:
    upload = world.upload(world.files["matching"])
    spec = DataLabSpec(
        name="lab",
        mark=world.installation.token_hex(8),
        owner_email="publisher@pub.example",
        datasets={"matching:EMAIL": upload},
    )
    world.installation.catalog.resources.create(spec, declared=True)
    world.installation.catalog.rooms.provision(world.room.id, {"matching:EMAIL": upload})
    delete_now(world.installation, world.instance, [world.room])
    assert world.installation.uploads.locations() == {upload}


def test_other_room_keeps_its_files_when_a_room_is_deleted(world: RoomWorld) -> None:
    other = room_world(world.installation, world.instance)
    upload = world.upload(world.files["matching"])
    for room in (world.room, other.room):
        world.installation.catalog.rooms.provision(room.id, {"matching:EMAIL": upload})
    delete_now(world.installation, world.instance, [world.room])
    assert world.installation.uploads.locations() == {upload}
    delete_now(world.installation, world.instance, [other.room])
    assert world.installation.uploads.locations() == frozenset()


def test_no_document_or_event_names_an_organisation(filled_with_history: RoomWorld) -> None:
    """The organisation of somebody with a public mail address is that address."""
    filled_with_history.audience(REMARKETING)
    filled_with_history.run()
    told = everything_written(filled_with_history, filled_with_history.installation.home.root)
    assert '"left"' in told
    assert "adv.example" not in told
    assert "pub.example" not in told
