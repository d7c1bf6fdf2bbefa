"""What the server shows of audiences, labs and reports, and to whom.

Contract: only the provider of the advertiser's file sees its size; the number of matched users of a seed audience
is shown once the overlap was paid, to callers who may view it; missing data of a definition is named only in the
definition's own words; data that was not provisioned is a NotProvisionedError; deleting a lab keeps the files that
others use.
"""

from datetime import datetime
from typing import Any

import dagster as dg
import pytest

from cleanroom_pipelines.catalog import DataLab, DataRoom, Kind, Status
from cleanroom_pipelines.errors import StatusCode
from cleanroom_pipelines.media import errors
from cleanroom_pipelines.privacy import COUNT
from cleanroom_pipelines.runs.budgets import Question
from cleanroom_pipelines.runs.deleting import delete_pending
from cleanroom_pipelines.runs.installation import Installation
from cleanroom_pipelines.terms import Permission

from .groups import GROUPS, MediaWorld, custom, email, rule

AGE = {"attribute": "age", "operator": "CONTAINS_ANY_OF", "values": ["20-29", "old"]}
SHOE = {"attribute": "segments", "operator": "CONTAINS_ANY_OF", "values": ["shoes"]}
BOTH = {
    **GROUPS,
    "seed": (Permission.PROVIDE_SEED_AUDIENCE, Permission.VIEW_OVERLAP),
}


@pytest.fixture
def world(installation: Installation) -> MediaWorld:
    opened = MediaWorld.open(installation, BOTH)
    opened.provision()
    return opened


def finish(world: MediaWorld, *types: str) -> None:
    """Ingest seeds of these types, with an overlap of 120 users each."""
    rows = [{"audience_type": each, "overlap_size": 120, "is_empty": False} for each in types]
    overlap = {
        "with_own_counts": {"rows": rows},
        "without_own_counts": {"rows": rows},
        "questions": [Question.of("overlap", "content", each, COUNT).as_dict() for each in types],
    }
    attributes = {"attributes": [{"name": "age", "values": ["20-29"]}]}
    documents: dict[str, Any] = {
        "base_audience": {},
        "seed_audiences": {
            "digests": {each: each for each in types},
            "seeds": {"by_type": {each: {"n_unique_ids": 500} for each in types}},
        },
        "data_attributes": {"attributes": attributes},
        "overlap_statistics": {"overlap": overlap},
    }
    world.finish(Kind.DATA_ROOM, world.room, documents)


def result(world: MediaWorld, group: str, kind: str) -> Any:
    return world.call(group, "get_job_result", job_id=world.ask(group, kind)["id"])


def seeds(world: MediaWorld, group: str) -> list[dict[str, Any]]:
    return [each for each in result(world, group, "audiences")["audiences"] if each["kind"] == "seed"]


def test_sizes_of_seeds_are_for_those_who_may_see_them(world: MediaWorld) -> None:
    finish(world, "loyal")
    for group in BOTH:
        (seed,) = seeds(world, group)
        assert seed["audience_size"] == (500 if group == "seed" else None)
        assert (seed["overlap_size"], seed["is_empty"]) == (None, None), "the overlap is not paid"
    result(world, "overlap", "overlap_statistics")
    for group in BOTH:
        (seed,) = seeds(world, group)
        assert seed["overlap_size"] == (120 if group in ("seed", "overlap") else None)
        assert seed["is_empty"] == (False if group in ("seed", "overlap") else None)


def test_a_seed_is_as_old_as_its_upload(world: MediaWorld) -> None:
    finish(world, "loyal")
    record = world.installation.catalog.get(DataRoom, world.room)
    uploaded = world.installation.catalog.rooms.upload(record.inputs["seeds:EMAIL"]).created_at
    (seed,) = seeds(world, "owner")
    assert datetime.fromisoformat(seed["created_at"]) == uploaded


def test_a_definition_names_what_it_misses(world: MediaWorld) -> None:
    finish(world, "loyal")
    filters = {"operator": "AND", "filters": [AGE, SHOE]}
    lost = world.audience("create", {**rule({"kind": "seed", "audience_type": "gone"}), "filters": filters})
    world.audience("create", rule(custom(lost)), shared=["export"], name="indirect")
    shown = {each["id"]: each for each in result(world, "create", "audiences")["audiences"] if "id" in each}
    assert shown[lost]["missing"] == {
        "missing_custom_audiences": [],
        "missing_filter_attributes": ["segments"],
        "missing_filter_values": ["old", "shoes"],
        "missing_seed_audiences": ["gone"],
    }
    (indirect,) = [each for each in result(world, "export", "audiences")["audiences"] if "id" in each]
    assert "gone" not in str(indirect), "the definition that it refers to is not shared"
    assert indirect["staleness_warnings"]


def test_only_its_own_group_sees_who_created_an_audience(world: MediaWorld) -> None:
    finish(world, "loyal")
    like = world.audience("create", shared=["export"], name="like")
    world.audience("create", rule(custom(like)), shared=["export"], name="rule")
    for group, shown_as in (("create", email("create")), ("export", world.ids["create"])):
        listed = [each for each in result(world, group, "audiences")["audiences"] if "id" in each]
        assert {each["created_by"] for each in listed} == {shown_as}
        assert {each["created_by_group_id"] for each in listed} == {world.ids["create"]}
        depends = {each["name"]: each["does_audience_depend_on_lookalike_audience"] for each in listed}
        assert depends == {"like": False, "rule": True}


@pytest.mark.parametrize(
    ("group", "kind"),
    [
        ("base", "base_reports"),
        ("seed", "seeds_report"),
        ("overlap", "overlap_statistics"),
        ("insights", "insights"),
        ("create", "data_attributes"),
    ],
    ids=lambda value: value,
)
def test_nothing_is_provisioned(installation: Installation, group: str, kind: str) -> None:
    with pytest.raises(errors.NotProvisionedError, match="Provision"):
        MediaWorld.open(installation, BOTH).ask(group, kind)


def test_the_report_of_a_rejected_file_is_shown(world: MediaWorld) -> None:
    catalog = world.installation.catalog
    newest = catalog.resources.newest_version(Kind.DATA_ROOM, world.room)
    claim = catalog.work.claim(Kind.DATA_ROOM, world.room, newest.number, "run")
    assert claim is not None
    world.write(claim, "seed_audiences", world.room, {"report": {"report": {"outcome": "FAILED"}}})
    catalog.rooms.restore_inputs(world.room, catalog.get(DataRoom, world.room).inputs, {})
    catalog.work.fail(claim, StatusCode.SEED_INVALID, "The seed audiences failed validation.")
    assert not catalog.get(DataRoom, world.room).has_seeds
    assert world.ask("seed", "seeds_report")["status"] == "Success"


def test_only_its_owner_deletes_a_lab(world: MediaWorld) -> None:
    lab = world.lab("base")
    with pytest.raises(errors.PermissionDeniedError):
        world.call("seed", "delete_lab", lab_id=lab)
    world.call("base", "delete_lab", lab_id=lab)
    assert world.installation.catalog.get(DataLab, lab).status is Status.DELETE_PENDING


def test_files_that_another_lab_uses_are_kept(world: MediaWorld) -> None:
    rooms = world.installation.catalog.rooms
    first = world.lab("base")
    (upload,) = world.installation.catalog.get(DataLab, first).datasets.values()
    again = world.call("base", "create_lab", name="again", datasets={"matching:EMAIL": upload})["id"]
    world.finish(Kind.DATA_LAB, again)
    with dg.DagsterInstance.ephemeral() as instance:
        for lab, is_kept in ((first, True), (again, False)):
            world.call("base", "delete_lab", lab_id=lab)
            assert delete_pending(world.installation, instance) == 1
            assert (rooms.upload(upload).location is not None) is is_kept


def test_a_size_is_listed_once_it_was_paid(world: MediaWorld) -> None:
    finish(world, "loyal")
    audience = world.audience("create", rule(), shared=["export"], name="sized")
    question = Question.of("size", "content", "sized", COUNT).as_dict()
    document = {"released": {"size": 120, "reason": None, "noise": {}}, "questions": [question], "reveals": []}
    world.finish(Kind.CUSTOM_AUDIENCE, audience, {"custom_audience": {"audience": document}})

    def listed(group: str) -> Any:
        (shown,) = world.call(group, "list_audiences", room_id=world.room)["audiences"]
        assert shown["state"] == {"name": "ready"}
        return shown["size"]

    assert (listed("create"), listed("export")) == (None, None)
    world.call(
        "create", "get_job_result", job_id=world.ask("create", "audience_size", audience=custom(audience))["id"]
    )
    assert listed("create")["size"] == 120
    assert listed("export") is None, "it may not ask about audiences"


def test_a_draft_is_shown_to_its_user_only(world: MediaWorld) -> None:
    finish(world, "loyal")
    job = world.ask("create", "audience_size", definition=rule())["id"]
    assert world.call("create", "get_draft", job_id=job) == {"room_id": world.room, "definition": rule()}
    about_room = world.ask("create", "data_attributes")["id"]
    listed = world.ask("create", "audience_size", audience=custom(world.audience("create")))["id"]
    for group, asked in (("owner", job), ("create", about_room), ("create", listed), ("create", "no-such-job")):
        with pytest.raises(errors.PermissionDeniedError):
            world.call(group, "get_draft", job_id=asked)


def test_an_audience_names_the_dependents_that_its_group_sees(world: MediaWorld) -> None:
    finish(world, "loyal")
    first = world.audience("create", rule(), shared=["export"])
    create = {"room_id": world.room, "definition": rule(custom(first))}
    second = world.call("create", "create_audience", name="direct", **create)["id"]
    world.call("create", "create_audience", name="indirect", **{**create, "definition": rule(custom(second))})

    def dependents(group: str) -> Any:
        return world.call(group, "get_audience", room_id=world.room, audience_id=first)["dependents"]

    assert dependents("create") == {"names": ["direct", "indirect"], "n_others": 0}
    assert dependents("export") is None


def test_only_a_failed_or_outdated_audience_is_built_again(world: MediaWorld) -> None:
    finish(world, "loyal")
    audience = world.audience("create", rule())
    ask = {"room_id": world.room, "audience_id": audience}
    with pytest.raises(errors.ConflictError):
        world.call("create", "refresh_audience", **ask)
    world.fail(Kind.CUSTOM_AUDIENCE, audience, StatusCode.INTERNAL, "It failed.")
    world.call("create", "refresh_audience", **ask)
    world.finish(Kind.CUSTOM_AUDIENCE, audience, {"custom_audience": {}})
    with pytest.raises(errors.ConflictError):
        world.call("create", "refresh_audience", **ask)
