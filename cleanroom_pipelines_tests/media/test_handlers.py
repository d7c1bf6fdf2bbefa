"""The handlers without HTTP: permissions, jobs, the ledger, the audit log and parameters.

Contract: permissions follow the table in test_permission_matrix.py, cell by cell; a forbidden call, another room's
object and a missing object give the same error; every call has an audit entry without names; each question is
charged once, to the two organisations whose data it concerns; parameters are checked and never quoted.
"""

import itertools
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import update

from cleanroom_pipelines import media
from cleanroom_pipelines.catalog import CustomAudience, DataLab, DataRoom, Kind, LedgerLine
from cleanroom_pipelines.catalog.tables import DataRoomRow
from cleanroom_pipelines.errors import StatusCode
from cleanroom_pipelines.media import errors
from cleanroom_pipelines.media.protocol import Method, error_as_dict
from cleanroom_pipelines.privacy import COUNT, INSIGHTS, Price
from cleanroom_pipelines.privacy.prices import MOST_FIGURES_TENTHS, MOST_LOOKALIKE_TENTHS, figures_price
from cleanroom_pipelines.runs.budgets import Question
from cleanroom_pipelines.runs.installation import Installation, Settings
from cleanroom_pipelines.terms import CollaborationType, Permission

from ..cases import assert_each
from ..databases import writing
from ..storage.auditing import lines_of
from .groups import (
    EXCLUSION,
    GROUPS,
    LOOKALIKE,
    REMARKETING,
    SEED,
    SIDES,
    STRANGER,
    MediaWorld,
    custom,
    email,
    rule,
)

ALL = frozenset(GROUPS)
Cell = tuple[str, Callable[[MediaWorld, str], dict[str, Any]], frozenset[str]]


def only(*groups: str) -> frozenset[str]:
    return frozenset(groups)


def start(kind: str, about: dict[str, Any] | None = None) -> Callable[[MediaWorld, str], dict[str, Any]]:
    return lambda world, group: {"kind": kind, **(about or {})}


def about_own(kind: str) -> Callable[[MediaWorld, str], dict[str, Any]]:
    return lambda world, group: {"kind": kind, "audience": custom(world.audience(group))}


def priced(kind: str, about: dict[str, Any] | None = None) -> Callable[[MediaWorld, str], dict[str, Any]]:
    def params(world: MediaWorld, group: str) -> dict[str, Any]:
        ingest(world)
        return {"kind": kind, **(about or {})}

    return params


def upload_as(dataset: str, **more: str) -> Callable[[MediaWorld, str], dict[str, Any]]:
    return lambda world, group: {"manifest_hash": world.upload(group), "dataset": dataset, **more}


def ingest(world: MediaWorld, digests: dict[str, str] | None = None) -> None:
    """Ingest what both sides provided, if necessary; types of seeds by the digest of their ids."""
    digests = digests or {"loyal": "l"}
    seeds = {"digests": digests, "seeds": {"by_type": {kind: {"n_unique_ids": 500} for kind in digests}}}
    if world.installation.catalog.resources.newest_version(Kind.DATA_ROOM, world.room).status == "CREATE_PENDING":
        world.finish(Kind.DATA_ROOM, world.room, {"base_audience": {}, "seed_audiences": seeds})


def proposal(world: MediaWorld, group: str = "owner", **wanted: Any) -> dict[str, Any]:
    found = world.call(group, "propose", room_id=world.room, **(wanted or {"kind": "refill", "units": 3}))
    return dict(found)


def failed(world: MediaWorld, group: str) -> str:
    """Create an audience of a group whose build failed, and return its id."""
    ingest(world)
    audience = world.audience(group)
    world.fail(Kind.CUSTOM_AUDIENCE, audience, StatusCode.INTERNAL, "It failed.")
    return audience


def with_second(world: MediaWorld, group: str) -> str:
    """Add a second member to a group, regardless of permissions, and return its e-mail address."""
    second = f"{group}-2@media.example"
    world.installation.catalog.rooms.change_users(
        world.room, world.ids[group], lambda each: each.with_user(second, each.permissions)
    )
    return second


# what is called, with what, and which groups may; a room id is added
TABLE: dict[str, Cell] = {
    "configuration": ("get_room", lambda world, group: {}, ALL),
    "provisioning status": ("get_provisioning", lambda world, group: {}, ALL),
    "audit log": ("get_audit_log", lambda world, group: {}, ALL),
    "state of the own data": ("get_room_data", lambda world, group: {}, only("base", "seed")),
    "guess about a base": ("get_upload", upload_as("matching"), only("base")),
    "guess about seeds": ("get_upload", upload_as("seed_audiences"), only("seed")),
    "conversion": ("convert_upload", upload_as("matching", separator=","), only("base")),
    "audiences": ("start_job", start("audiences"), ALL),
    "overlap": ("start_job", start("overlap_statistics"), only("overlap")),
    "insights": ("start_job", start("insights"), only("insights")),
    "data attributes": ("start_job", start("data_attributes"), only("create")),
    "base reports": ("start_job", start("base_reports"), only("base")),
    "seeds report": ("start_job", start("seeds_report"), only("seed")),
    "size": ("start_job", about_own("audience_size"), only("create")),
    "size of a seed audience": ("start_job", start("audience_size", {"audience": SEED}), only("create")),
    "size of a draft": ("start_job", start("audience_size", {"definition": LOOKALIKE}), only("create")),
    "statistics": ("start_job", about_own("lookalike_statistics"), only("create")),
    "user list": ("start_job", about_own("user_list"), only("export")),
    "user list of a seed audience": ("start_job", start("user_list", {"audience": SEED}), only("export")),
    "own questions": (
        "list_jobs",
        lambda world, group: {"kinds": ["overlap_statistics"]},
        only("overlap"),
    ),
    "own lists": ("list_jobs", lambda world, group: {"kinds": ["user_list"]}, only("export")),
    "create": ("create_audience", lambda world, group: {"name": group, "definition": LOOKALIKE}, only("create")),
    "list of audiences": ("list_audiences", lambda world, group: {}, ALL),
    "an audience": ("get_audience", lambda world, group: {"audience_id": world.audience(group)}, ALL),
    "refresh": ("refresh_audience", lambda world, group: {"audience_id": failed(world, group)}, only("create")),
    "share": ("share_audiences", lambda world, group: {"audience_ids": [world.audience(group)]}, only("create")),
    "delete": ("delete_audiences", lambda world, group: {"audience_ids": [world.audience(group)]}, only("create")),
    "provision base": ("provision_base", lambda world, group: {"lab_id": world.lab(group)}, only("base")),
    "deprovision base": ("deprovision_base", lambda world, group: {}, only("base")),
    "provision seeds": (
        "provision_seeds",
        lambda world, group: {"datasets": [{"manifest_hash": world.upload(group), "matching_id": None}]},
        only("seed"),
    ),
    "deprovision seeds": ("deprovision_seeds", lambda world, group: {}, only("seed")),
    "price of the overlap": ("get_estimate", priced("overlap_statistics"), only("overlap")),
    "price of insights": ("get_estimate", priced("insights"), only("insights")),
    "price of a size": ("get_estimate", priced("audience_size", {"definition": LOOKALIKE}), only("create")),
    "price of a user list": ("get_estimate", priced("user_list", {"audience": SEED}), only("export")),
    "price of new figures of the base": ("get_estimate", priced("base_figures"), only("create")),
    "new figures of the base": ("renew_base_figures", lambda world, group: ingest(world) or {}, only("create")),
    "ledger": ("get_ledger", lambda world, group: {}, ALL),
    "proposals": ("list_proposals", lambda world, group: {}, ALL),
    "proposal": ("propose", lambda world, group: {"kind": "refill", "units": 3}, ALL),
    "add a user": (
        "add_user",
        lambda world, group: {
            "participant_id": world.ids[group],
            "email": f"{group}-2@media.example",
            "permissions": [each.value for each in GROUPS[group]],
        },
        only("users"),
    ),
    "remove a user": (
        "remove_user",
        lambda world, group: {"participant_id": world.ids[group], "email": with_second(world, group)},
        only("users"),
    ),
    "approval": (
        "approve",
        lambda world, group: {"proposal_id": proposal(world)["id"]},
        only("base", "seed"),
    ),
    "rejection": ("reject", lambda world, group: {"proposal_id": proposal(world)["id"]}, only("base", "seed")),
    "members": ("get_members", lambda world, group: {"participant_id": world.ids[group]}, only("users")),
    "invitation": (
        "invite_user",
        lambda world, group: {"participant_id": world.ids[group], "email": email(group)},
        only("users"),
    ),
}


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Installation:
    """An installation in which each test has its own room."""
    home = tmp_path_factory.mktemp("media") / "home"
    shared = Installation(Settings(home, seed_floor=1, max_rooms=10_000, max_labs=10_000, max_uploads=10_000))
    shared.catalog.database.stay_connected()  # as a server does
    return shared


@pytest.fixture
def world(shared: Installation) -> MediaWorld:
    opened = MediaWorld.open(shared)
    opened.provision()
    return opened


def error_of(call: Callable[[], object]) -> dict[str, Any]:
    """Return the error of a call in its wire format."""
    with pytest.raises(errors.MediaError) as raised:
        call()
    return error_as_dict(raised.value)


# who may do what


def test_each_group_may_do_what_its_permission_allows(shared: Installation) -> None:
    def may_what_it_says(_: str, cell: Cell) -> None:
        world = MediaWorld.open(shared)
        world.provision()
        method, params, allowed = cell
        may = set()
        for group in (*GROUPS, STRANGER):
            # whom nothing belongs to asks about what belongs to somebody who may
            asked = params(world, group if group in GROUPS else next(iter(allowed)))
            unknown = error_of(partial(world.call, group, method, room_id="no-such-room", **asked))
            world.new_lines()
            try:
                world.call(group, method, room_id=world.room, **asked)
                may.add(group)
            except errors.PermissionDeniedError as error:
                assert error_as_dict(error) == unknown
            # what is paid at once has a line of its own before
            (line,) = [each for each in world.new_lines() if each["way"] == "media"]
            assert line["outcome"] == ("ok" if group in may else "refused")
            assert line["operation"].split(".")[0] == method
        assert may == allowed

    assert_each(may_what_it_says, TABLE.items())


def test_every_room_method_is_in_the_permission_table() -> None:
    elsewhere = {
        "whoami",
        "create_room",
        "list_rooms",
        "create_lab",
        "get_lab",
        "start_lab",
        "list_labs",
        "delete_lab",
        "decline_room",
        "delete_upload",
    }
    about_jobs = {"get_job", "get_job_price", "get_draft", "get_job_result", "cancel_job"}
    assert {method for method, _, _ in TABLE.values()} == {each.value for each in Method} - elsewhere - about_jobs


def test_rooms_are_listed_for_their_participants(world: MediaWorld) -> None:
    assert world.room in {each["id"] for each in world.call("quality", "list_rooms")["rooms"]}
    assert world.call(STRANGER, "list_rooms") == {"rooms": []}


def test_declining_removes_the_caller_from_the_room(world: MediaWorld) -> None:
    job = world.ask("create", "audience_size", audience=SEED)
    theirs = world.audience("create")
    world.new_lines()
    assert world.call("create", "decline_room", room_id=world.room) == {}
    (line,) = world.new_lines()
    assert (line["operation"], line["outcome"], line["room"]) == ("decline_room", "ok", world.room)
    assert (line["participant"], line["user"]) == (
        world.ids["create"],
        world.installation.audit_name(email("create")),
    )
    assert world.room not in {each["id"] for each in world.call("create", "list_rooms")["rooms"]}
    for method, params, allowed in TABLE.values():
        if "create" in allowed:
            asked = params(world, "create")
            refused = error_of(partial(world.call, "create", method, room_id=world.room, **asked))
            assert refused == error_of(partial(world.call, "create", method, room_id="no-such-room", **asked))
    assert error_of(lambda: world.call("create", "get_job", job_id=job["id"]))["type"] == "PermissionDeniedError"
    assert error_of(lambda: world.call("create", "decline_room", room_id=world.room))["type"] == (
        "PermissionDeniedError"
    )
    assert world.installation.catalog.get(CustomAudience, theirs).created_by == world.ids["create"]
    assert declined_as(world, "owner") == [email("create")]
    assert declined_as(world, "export") == []
    entries = world.call("owner", "get_audit_log", room_id=world.room)["entries"]
    assert ("decline_room", world.ids["create"]) in {(each["action"], each["participant"]) for each in entries}


def declined_as(world: MediaWorld, group: str) -> list[str]:
    told = world.call(group, "get_room", room_id=world.room)["participants"]
    return [each for participant in told for each in participant.get("declined", ())]


def test_a_sides_data_is_deleted_with_its_last_member(world: MediaWorld) -> None:
    catalog = world.installation.catalog
    world.finish(Kind.DATA_ROOM, world.room)
    assert world.call("owner", "get_provisioning", room_id=world.room) == {"base": True, "seeds": True}
    world.call("insights", "decline_room", room_id=world.room)
    assert catalog.resources.newest_version(Kind.DATA_ROOM, world.room).number == 1, "nothing was theirs"
    world.call("base", "decline_room", room_id=world.room)
    assert world.call("owner", "get_provisioning", room_id=world.room) == {"base": False, "seeds": True}
    assert catalog.resources.newest_version(Kind.DATA_ROOM, world.room).status == "CREATE_PENDING"
    world.call("seed", "decline_room", room_id=world.room)
    assert world.call("owner", "get_provisioning", room_id=world.room) == {"base": False, "seeds": False}


def test_the_owner_does_not_decline(world: MediaWorld) -> None:
    told = error_of(lambda: world.call("owner", "decline_room", room_id=world.room))
    assert told["type"] == "ConflictError"
    assert world.call("owner", "get_room", room_id=world.room)["id"] == world.room
    assert error_of(lambda: world.call(STRANGER, "decline_room", room_id=world.room))["type"] == (
        "PermissionDeniedError"
    )


def test_quotas_on_rooms_labs_and_uploads(tmp_path: Path) -> None:
    home = Settings(tmp_path / "home", seed_floor=1, max_rooms=1, max_labs=2, max_uploads=3)
    world = MediaWorld.open(Installation(home))

    def is_over(limit: int, call: Callable[[], object]) -> None:
        told = error_of(call)
        assert (told["type"], told["attributes"]["limit"]) == ("QuotaExceededError", limit)

    is_over(1, lambda: MediaWorld.open(world.installation))
    uploads = [world.upload(STRANGER) for _ in range(3)]
    is_over(3, lambda: world.upload(STRANGER))
    is_over(3, lambda: world.service.admit_upload(STRANGER))
    assert len(world.installation.uploads.locations()) == 3, "what is refused leaves nothing"
    labs = [
        world.call(STRANGER, "create_lab", name="lab", datasets={"matching:EMAIL": upload})
        for upload in uploads[:2]
    ]
    is_over(2, lambda: world.call(STRANGER, "create_lab", name="lab", datasets={"matching:EMAIL": uploads[2]}))
    world.installation.catalog.rooms.forget_upload(uploads[0])
    world.upload(STRANGER)
    world.upload("base")
    assert len(labs) == 2
    refused = [line["operation"] for line in world.lines() if line.get("error") == "QuotaExceededError"]
    assert refused == ["create_room", "upload", "upload", "create_lab"]


def test_a_queued_job_has_a_position(tmp_path: Path) -> None:
    world = MediaWorld.open(Installation(Settings(tmp_path / "home", seed_floor=1)))
    jobs = []
    for name in ("first", "second"):
        lab = world.call(STRANGER, "create_lab", name=name, datasets={"matching:EMAIL": world.upload(STRANGER)})
        jobs.append(world.call(STRANGER, "start_lab", lab_id=lab["id"]))
    assert [(job["stage"], job["place"]) for job in jobs] == [("waiting", 2), ("waiting", 3)]
    world.finish(Kind.DATA_ROOM, world.room)
    told = world.call(STRANGER, "get_job", job_id=jobs[1]["id"])
    assert (told["status"], told["stage"], told["place"]) == ("Running", "waiting", 2)


def test_a_job_is_visible_to_its_user_only(world: MediaWorld) -> None:
    def is_its_user_s(method: str) -> None:
        job = world.ask("create", "data_attributes")["id"]
        unknown = error_of(lambda: world.call("overlap", method, job_id="no-such-job"))
        for group in ("overlap", "owner", STRANGER):
            assert error_of(lambda: world.call(group, method, job_id=job)) == unknown  # noqa: B023
        assert world.call("create", "get_job", job_id=job)["status"] == "Running"

    assert_each(is_its_user_s, ["get_job", "get_job_result", "cancel_job"])


def test_a_lab_is_visible_to_its_owner_only(world: MediaWorld) -> None:
    def is_its_owner_s(method: str) -> None:
        lab = world.lab("base")
        unknown = error_of(lambda: world.call("base", method, lab_id="no-such-lab"))
        assert error_of(lambda: world.call("create", method, lab_id=lab)) == unknown
        assert world.call("base", "get_lab", lab_id=lab)["is_validated"]

    assert_each(is_its_owner_s, ["get_lab", "start_lab"])
    shown = world.call("base", "list_labs")["labs"]
    assert [(each["status"], each["datasets"]) for each in shown[:2]] == [("ACTIVE", ["matching:EMAIL"])] * 2
    others = world.call("overlap", "list_labs")["labs"]
    assert not {each["id"] for each in shown} & {each["id"] for each in others}


def test_an_upload_is_guessed_converted_and_deleted_by_its_owner_only(world: MediaWorld) -> None:
    theirs = world.upload("create")
    about = {"room_id": world.room, "dataset": "matching"}
    for method, more in (("get_upload", about), ("convert_upload", {**about, "separator": ";"})):
        unknown = error_of(lambda: world.call("base", method, manifest_hash="0" * 32, **more))  # noqa: B023
        assert error_of(lambda: world.call("base", method, manifest_hash=theirs, **more)) == unknown  # noqa: B023
    assert error_of(lambda: world.call("base", "delete_upload", manifest_hash=theirs)) == unknown
    assert world.call("create", "delete_upload", manifest_hash=theirs) == {}
    assert theirs not in world.installation.uploads.locations()
    mine = world.upload("base", b"u;a@b.example,c\n")
    rejected = error_of(lambda: world.call("base", "convert_upload", manifest_hash=mine, separator="|", **about))
    assert rejected["type"] == "ValidationFailedError"
    assert mine in world.installation.uploads.locations(), "it is kept"
    for separator in ("x", ""):
        rejected = error_of(
            lambda: world.call("base", "convert_upload", manifest_hash=mine, separator=separator, **about)  # noqa: B023
        )
        assert rejected["type"] == "InvalidRequestError"
    rejected = error_of(
        lambda: world.call("base", "get_upload", manifest_hash=mine, room_id=world.room, dataset="other")
    )
    assert rejected["type"] == "InvalidRequestError"
    lab = world.lab("base")
    (used,) = world.installation.catalog.get(DataLab, lab).datasets.values()
    rejected = error_of(lambda: world.call("base", "delete_upload", manifest_hash=used))
    assert rejected["type"] == "ConflictError"


def test_an_upload_is_usable_by_its_owner_only(world: MediaWorld) -> None:
    theirs = world.upload("create")
    unknown = error_of(lambda: world.call("base", "create_lab", name="l", datasets={"matching:EMAIL": "0" * 32}))
    assert (
        error_of(lambda: world.call("base", "create_lab", name="l", datasets={"matching:EMAIL": theirs}))
        == unknown
    )
    datasets = [{"manifest_hash": theirs}]
    assert (
        error_of(lambda: world.call("seed", "provision_seeds", room_id=world.room, datasets=datasets)) == unknown
    )


def test_only_ones_own_validated_lab_is_provisioned(world: MediaWorld) -> None:
    theirs = world.lab("create")
    with pytest.raises(errors.PermissionDeniedError):
        world.call("base", "provision_base", room_id=world.room, lab_id=theirs)
    raw = world.call("base", "create_lab", name="raw", datasets={"matching:EMAIL": world.upload("base")})
    with pytest.raises(errors.NotValidatedError):
        world.call("base", "provision_base", room_id=world.room, lab_id=raw["id"])


# audiences


def test_audiences_are_visible_to_their_group_and_those_they_are_shared_with(world: MediaWorld) -> None:
    audience = world.audience("create", shared=["overlap"])
    world.finish(Kind.DATA_ROOM, world.room)

    def seen(group: str) -> list[str]:
        job = world.ask(group, "audiences")["id"]
        return [each["id"] for each in world.call(group, "get_job_result", job_id=job)["audiences"]]

    assert [seen(group) for group in ("create", "overlap", "export")] == [[audience], [audience], []]
    share = {"room_id": world.room, "audience_ids": [audience]}
    world.call("create", "share_audiences", **share, participant_ids=[world.ids["export"]])
    assert [seen(group) for group in ("create", "overlap", "export")] == [[audience], [], [audience]]
    with pytest.raises(errors.InvalidRequestError):
        world.call("create", "share_audiences", **share, participant_ids=["ffff"])


def test_an_invisible_audience_looks_nonexistent(world: MediaWorld) -> None:
    hidden = world.audience("owner")
    calls: list[Callable[[str], Any]] = [
        lambda key: world.ask("create", "audience_size", audience=custom(key)),
        lambda key: world.ask("export", "user_list", audience=custom(key)),
        lambda key: world.call("create", "share_audiences", room_id=world.room, audience_ids=[key]),
        lambda key: world.call("create", "delete_audiences", room_id=world.room, audience_ids=[key]),
        lambda key: world.call(
            "create", "create_audience", room_id=world.room, name="n", definition=rule(custom(key))
        ),
        lambda key: world.ask("create", "audience_size", definition=rule(custom(key))),
    ]
    for call in calls:
        assert error_of(lambda: call(hidden)) == error_of(lambda: call("no-such-audience"))  # noqa: B023


def test_an_audience_of_another_room_cannot_be_named(shared: Installation, world: MediaWorld) -> None:
    other = MediaWorld.open(shared)
    theirs = other.audience("create")
    with pytest.raises(errors.PermissionDeniedError):
        world.ask("create", "audience_size", audience=custom(theirs))


def test_only_its_group_shares_or_deletes_an_audience(shared: Installation) -> None:
    both = {"one": (Permission.CREATE_CUSTOM_AUDIENCE,), "two": (Permission.CREATE_CUSTOM_AUDIENCE,)}
    world = MediaWorld.open(shared, both)
    audience = world.audience("one", shared=["two"])
    for method in ("share_audiences", "delete_audiences"):
        with pytest.raises(errors.PermissionDeniedError):
            world.call("two", method, room_id=world.room, audience_ids=[audience])


def test_only_visible_dependents_are_named(shared: Installation) -> None:
    both = {"one": (Permission.CREATE_CUSTOM_AUDIENCE,), "two": (Permission.CREATE_CUSTOM_AUDIENCE,)}
    world = MediaWorld.open(shared, both)

    def create(group: str, name: str, definition: dict[str, Any]) -> str:
        called = {"room_id": world.room, "name": name, "definition": definition}
        shared_with = [world.ids["two"]] if name == "source" else []
        return str(world.call(group, "create_audience", **called, shared_with=shared_with)["id"])

    source = create("one", "source", LOOKALIKE)
    mine = create("one", "mine", rule(custom(source)))
    create("two", "theirs", rule(custom(source)))
    delete = {"room_id": world.room, "audience_ids": [source]}
    told = error_of(lambda: world.call("one", "delete_audiences", **delete))
    assert told["type"] == "AudienceHasDependentsError"
    assert told["attributes"] == {"names": ["mine"], "n_others": 1}
    gone = world.call("one", "delete_audiences", **delete, delete_dependent_audiences=True)
    assert set(gone["deleted"]) == {source, mine}, "what the group does not see is not told"


def test_names_are_unique_in_a_group(shared: Installation) -> None:
    both = {"one": (Permission.CREATE_CUSTOM_AUDIENCE,), "two": (Permission.CREATE_CUSTOM_AUDIENCE,)}
    world = MediaWorld.open(shared, both)
    call = {"room_id": world.room, "name": "Loyal", "definition": LOOKALIKE}
    world.call("one", "create_audience", **call)
    world.call("two", "create_audience", **call)
    with pytest.raises(errors.ConflictError, match="in your group of this data room"):
        world.call("one", "create_audience", **call)


NEEDED = {
    "lookalike": (LOOKALIKE, CollaborationType.LOOKALIKE),
    "rule based": (rule(), CollaborationType.RULE_BASED),
    "remarketing": (REMARKETING, CollaborationType.REMARKETING),
    "exclusion": (EXCLUSION, CollaborationType.EXCLUSION),
}


def test_a_room_creates_only_the_audiences_it_allows(shared: Installation) -> None:
    def creates_only_those(kind: str) -> None:
        definition, needed = NEEDED[kind]
        for types in ([needed], [each for each in CollaborationType if each is not needed]):
            groups = {each: GROUPS[each] for each in GROUPS if each != "insights"}
            world = MediaWorld.open(shared, groups, [each.value for each in types])
            call = {"room_id": world.room, "name": "n", "definition": definition}
            if types == [needed]:
                assert world.call("create", "create_audience", **call)["definition"] == definition
            else:
                with pytest.raises(errors.PermissionDeniedError):
                    world.call("create", "create_audience", **call)

    assert_each(creates_only_those, NEEDED)


BASE = {"kind": "base"}
MINUS_SEED = {"operator": "DIFF", "source": SEED, "filters": None}
EXPORTS = {
    "matched": (REMARKETING, {CollaborationType.REMARKETING}),
    "rule on a seed": (rule(), {CollaborationType.REMARKETING}),
    "base minus seed": (rule(BASE, MINUS_SEED), {CollaborationType.EXCLUSION}),
    "exclusion": (EXCLUSION, {CollaborationType.EXCLUSION}),
    "lookalike": (LOOKALIKE, set()),
    "base": (rule(BASE), set()),
}


def test_a_disclosing_list_needs_a_room_that_allows_it(shared: Installation) -> None:
    def needs_it(kind: str, on: CollaborationType) -> None:
        definition, needed = EXPORTS[kind]
        world = MediaWorld.open(shared, {"export": GROUPS["export"]}, [on.value, "ENABLE_OVERLAP"])
        inner = world.audience("export", definition)
        for audience in (inner, world.audience("export", rule(custom(inner)))):
            if needed <= {on}:
                assert world.ask("export", "user_list", audience=custom(audience))["status"] == "Running"
            else:
                with pytest.raises(errors.PermissionDeniedError):
                    world.ask("export", "user_list", audience=custom(audience))

    types = (CollaborationType.REMARKETING, CollaborationType.EXCLUSION, CollaborationType.LOOKALIKE)
    assert_each(needs_it, itertools.product(EXPORTS, types))


def test_a_seed_audience_itself_is_listed_only_where_remarketing_is_on(shared: Installation) -> None:
    for types, may in ((["ENABLE_REMARKETING"], True), (["ENABLE_EXCLUSION_TARGETING"], False)):
        world = MediaWorld.open(shared, {"export": GROUPS["export"]}, types)
        if may:
            assert world.ask("export", "user_list", audience=SEED)["status"] == "Running"
        else:
            with pytest.raises(errors.PermissionDeniedError):
                world.ask("export", "user_list", audience=SEED)


WITHOUT_SEED = LOOKALIKE | {"exclude_seed_audience": True}
LISTS = (Permission.CREATE_CUSTOM_AUDIENCE, Permission.EXPORT_AUDIENCE)
BOTH_SIDES = {
    "base": (Permission.PROVIDE_BASE_AUDIENCE, *LISTS),
    "seed": (Permission.PROVIDE_SEED_AUDIENCE, *LISTS),
    "agency": LISTS,
}


def listed(world: MediaWorld, creator: str, reader: str, definition: dict[str, Any] = WITHOUT_SEED) -> bool:
    """Check whether a participant may export what another one created and shared."""
    audience = world.audience(creator, definition, shared=[reader])
    try:
        return bool(world.ask(reader, "user_list", audience=custom(audience))["status"] == "Running")
    except errors.PermissionDeniedError:
        return False


def test_a_lookalike_without_its_seed_is_exported_from_the_seeds_to_the_bases_provider(
    shared: Installation,
) -> None:
    """It discloses which similar users are customers; the seed's provider may tell the base's."""
    world = MediaWorld.open(shared, BOTH_SIDES, ["ENABLE_LOOKALIKE_AUDIENCES", "ENABLE_OVERLAP"])
    world.provision()
    may = {(a, b) for a, b in itertools.product(BOTH_SIDES, repeat=2) if listed(world, a, b)}
    assert may == {("seed", "base")}
    assert all(listed(world, a, b, LOOKALIKE) for a, b in itertools.product(BOTH_SIDES, repeat=2))
    inner = world.audience("agency", WITHOUT_SEED, shared=["agency"])
    assert not listed(world, "agency", "agency", rule(custom(inner)))
    mixed = rule(custom(world.audience("agency")), {"operator": "DIFF", "source": custom(inner), "filters": None})
    assert not listed(world, "agency", "agency", mixed), "in place less without is the seed"


def test_a_lookalike_without_its_seed_is_exported_to_all_if_exclusion_is_allowed(shared: Installation) -> None:
    world = MediaWorld.open(shared, BOTH_SIDES, ["ENABLE_LOOKALIKE_AUDIENCES", "ENABLE_EXCLUSION_TARGETING"])
    world.provision()
    assert all(listed(world, a, b) for a, b in itertools.product(BOTH_SIDES, repeat=2))


def test_a_second_type_with_the_same_ids_is_the_same_seed(shared: Installation) -> None:
    """Union and difference of two types with the same ids are handled as one seed, in any room."""
    world = MediaWorld.open(shared, BOTH_SIDES, ["ENABLE_LOOKALIKE_AUDIENCES", "ENABLE_RULED_BASED_AUDIENCES"])
    world.provision()
    ingest(world, {"loyal": "same", "again": "same", "other": "else"})

    def less(kind: str) -> dict[str, Any]:
        return {"operator": "DIFF", "source": {"kind": "seed", "audience_type": kind}, "filters": None}

    assert not listed(world, "agency", "agency", rule(BASE, less("again")))
    exclusion = MediaWorld.open(shared, BOTH_SIDES, ["ENABLE_EXCLUSION_TARGETING", "ENABLE_RULED_BASED_AUDIENCES"])
    exclusion.provision()
    ingest(exclusion, {"loyal": "same", "again": "same", "other": "else"})
    assert listed(exclusion, "agency", "agency", rule(BASE, less("loyal"), less("again")))
    base_or_seed = rule(BASE, less("loyal"), {"operator": "UNION", "source": SEED, "filters": None})
    assert listed(exclusion, "agency", "agency", base_or_seed) is False


# jobs and their answers

SIZE = {"size": 120, "noise": {"plus_minus": 23}, "reason": None}


def question(text: str = "q", kind: str = "size", price: Price = COUNT) -> dict[str, Any]:
    return Question.of(kind, "content", text, price).as_dict()


def sized(text: str = "q", size: int = 120) -> dict[str, Any]:
    document = {"released": SIZE | {"size": size}, "questions": [question(text)], "is_enough": True}
    return {"custom_audience": {"audience": document}}


def made(world: MediaWorld, group: str = "create") -> str:
    world.finish(Kind.DATA_ROOM, world.room)
    audience = world.audience(group)
    world.finish(Kind.CUSTOM_AUDIENCE, audience, sized())
    return audience


def answer(world: MediaWorld, group: str, kind: str, **about: Any) -> Any:
    return world.call(group, "get_job_result", job_id=world.ask(group, kind, **about)["id"])


def size_of(world: MediaWorld, audience: str) -> dict[str, Any]:
    """Return a result without its budget fields."""
    told = answer(world, "create", "audience_size", audience=custom(audience))
    return {name: value for name, value in told.items() if name != "privacy"}


def test_a_size_is_charged_when_fetched_and_once_a_question(world: MediaWorld) -> None:
    audience = made(world)
    job = world.ask("create", "audience_size", audience=custom(audience))
    assert (job["status"], world.spent) == ("Success", 0)
    told = world.call("create", "get_job_result", job_id=job["id"])
    privacy = told.pop("privacy")
    assert told == SIZE
    assert (privacy["price"], privacy["spent"], privacy["left"], privacy["total"]) == (2, 2, 98, 100)
    assert privacy["bound"]["right_at_most"] == 0.6
    assert size_of(world, audience) == SIZE
    same = world.audience("create")
    world.finish(Kind.CUSTOM_AUDIENCE, same, sized())
    assert size_of(world, same) == SIZE
    assert world.spent == 20


def test_what_one_participant_paid_is_free_for_all_of_both_organisations(shared: Installation) -> None:
    views = (Permission.VIEW_OVERLAP,)
    groups = {
        "base": (Permission.PROVIDE_BASE_AUDIENCE, *views),
        "seed": (Permission.PROVIDE_SEED_AUDIENCE, *views),
        "agency": views,
    }
    world = MediaWorld.open(shared, groups)
    world.provision()
    world.finish(Kind.DATA_ROOM, world.room, overlap())
    prices = []
    for group in groups:
        answer(world, group, "overlap_statistics")
        prices.append(world.spent)
        ledger = world.call(group, "get_room", room_id=world.room)["ledger"]
        assert (ledger["spent"], ledger["left"]) == (2, 98), "one ledger, whoever looks"
    assert prices == [20, 20, 20]


def test_every_line_of_the_ledger_is_in_the_audit_log(world: MediaWorld) -> None:
    audience = made(world)
    world.new_lines()
    size_of(world, audience)
    (line,) = [each for each in world.new_lines() if each["operation"] == "charge"]
    (paid,) = world.installation.catalog.pairs.ledger_lines(world.budget.pair.id)
    wanted = (world.budget.pair.id, paid.key, "size", 20, paid.variance, paid.sensitivity, world.room)
    told = tuple(line[name] for name in ("pair", "question", "kind", "tenths", "variance", "sensitivity", "room"))
    assert told == wanted
    assert world.installation.audit.verify().ok


def test_a_new_room_shares_the_budget_of_its_two_organisations(shared: Installation) -> None:
    world = MediaWorld.open(shared)
    world.provision()
    pair = world.budget.pair
    size_of(world, made(world))
    spend(world, 100)
    organizations = {side: shared.catalog.pairs.organization_of_user(email(side)) for side in SIDES}
    colleagues = {}
    for side, organization in organizations.items():
        colleagues[side] = f"{shared.token_hex(8)}@elsewhere.example"
        shared.catalog.users.create_user(colleagues[side])
        shared.catalog.pairs.set_organization(organization, email=colleagues[side])
    participants = [
        {
            "emails": [colleagues["base"]],
            "role": "b",
            "permissions": ["PROVIDE_BASE_AUDIENCE"],
            "organization_id": "x",
        },
        {
            "emails": [colleagues["seed"]],
            "role": "s",
            "permissions": ["PROVIDE_SEED_AUDIENCE"],
            "organization_id": "y",
        },
    ]
    told = world.call(
        colleagues["base"],
        "create_room",
        name="Another one",
        participants=participants,
        collaboration_types=["ENABLE_OVERLAP"],
        matching_ids=["EMAIL"],
        hide_absolute_values=False,
        activation=[],
    )
    assert told["ledger"]["spent"] == 12
    assert set(told["ledger"]["pair"]) == set(pair.organizations), "the label that the owner gave decides nothing"
    world.provision()
    assert world.spent == 120, "nor do new files"


def spend(world: MediaWorld, tenths: int) -> None:
    """Spend some of the budget on something else."""
    line = LedgerLine(world.installation.token_hex(32), "size", tenths)
    assert world.installation.catalog.pairs.charge(world.budget.pair.id, [line]) is not None


def test_a_spent_budget_allows_only_paid_results_until_a_refill(world: MediaWorld) -> None:
    audience = made(world)
    size_of(world, audience)
    spend(world, 970)
    other = world.audience("create")
    world.finish(Kind.CUSTOM_AUDIENCE, other, sized("another question"))
    told = error_of(lambda: size_of(world, other))
    assert (told["type"], told["attributes"]) == ("BudgetSpentError", {"total": 100, "spent": 99, "cost": 2})
    assert world.spent == 990, "nothing was paid"
    assert size_of(world, audience) == SIZE
    wanted = proposal(world, "owner", kind="refill", units=1)
    assert (wanted["is_effective"], wanted["approved_by"]) == (False, []), "who provides nothing approves nothing"
    world.call("base", "approve", room_id=world.room, proposal_id=wanted["id"])
    world.call("base", "approve", room_id=world.room, proposal_id=wanted["id"])
    with pytest.raises(errors.BudgetSpentError):
        size_of(world, other)
    given = world.call("seed", "approve", room_id=world.room, proposal_id=wanted["id"])
    assert (given["is_effective"], sorted(given["approved_by"])) == (True, sorted(world.budget.pair.organizations))
    assert size_of(world, other) == SIZE
    ledger = world.call("create", "get_room", room_id=world.room)["ledger"]
    assert (ledger["spent"], ledger["total"]) == (101, 101)
    world.call("seed", "approve", room_id=world.room, proposal_id=wanted["id"])
    assert world.budget.ledger.total == 1010, "it is given once"


def test_a_share_limits_one_organisation(world: MediaWorld) -> None:
    audience = made(world)
    organization = world.installation.catalog.pairs.organization_of_user(email("create"))
    wanted = proposal(world, "base", kind="share", organization=email("create"), units=1)
    assert (wanted["organization"], wanted["is_effective"]) == (organization, False)
    world.call("seed", "approve", room_id=world.room, proposal_id=wanted["id"])
    told = error_of(lambda: size_of(world, audience))
    assert (told["type"], told["attributes"]) == ("BudgetSpentError", {"total": 1, "spent": 0, "cost": 2})
    assert "of your organisation's share" in told["message"]
    ledger = world.call("create", "get_room", room_id=world.room)["ledger"]
    assert (ledger["share"], ledger["left"], ledger["total"]) == (1, 1, 100)
    assert "share" not in world.call("seed", "get_room", room_id=world.room)["ledger"]
    world.installation.catalog.pairs.propose(
        world.budget.pair.id, "share", "", tenths=10, share_of="person@gmail.com"
    )  # of another room of the two providers
    seen = {name: world.call(name, "list_proposals", room_id=world.room) for name in ("seed", "create", "export")}
    shares = {name: [each["organization"] for each in each_["proposals"]] for name, each_ in seen.items()}
    assert "person@gmail.com" in shares["seed"], "the providers approve it"
    assert "person@gmail.com" not in shares["create"] + shares["export"]
    with pytest.raises(errors.InvalidRequestError):
        proposal(world, "base", kind="share", organization="stranger.example", units=1)


def test_a_proposal_shows_the_bound_before_and_after(world: MediaWorld) -> None:
    refill = proposal(world, "seed", kind="refill", units=100)
    assert (refill["bound"]["right_at_most"], refill["bound_then"]["right_at_most"]) == (0.6, 0.64)
    assert "60%" in refill["bound"]["statement"]
    assert "64%" in refill["bound_then"]["statement"]
    period = proposal(world, "seed", kind="period")
    assert "right_at_most_in_a_year" not in period["bound"]
    assert period["bound_then"]["right_at_most_in_a_year"] == 0.81
    shown = world.call("base", "list_proposals", room_id=world.room)["proposals"]
    assert [(each["kind"], each["bound_then"]) for each in shown] == [
        ("refill", refill["bound_then"]),
        ("period", period["bound_then"]),
    ]
    world.new_lines()
    world.call("base", "approve", room_id=world.room, proposal_id=refill["id"])
    (line,) = [each for each in world.new_lines() if each["operation"] == "approve"]
    assert (line["pair"], line["kind"], line["tenths"]) == (world.budget.pair.id, "refill", 1000)
    told = world.call("create", "get_room", room_id=world.room)
    assert told["ledger"]["bound"]["right_at_most"] == 0.64
    assert "64%" in told["privacy"]["statements"][0], "what was approved is stated from then on"


def test_a_third_organisation_approves_nothing(shared: Installation) -> None:
    other = MediaWorld.open(shared)
    other.provision()
    elsewhere = proposal(other, "base")
    world = MediaWorld.open(shared)  # of two other organisations
    partner = f"{shared.token_hex(8)}@third.example"
    participants = [
        {"emails": [email("base"), partner], "role": "base", "permissions": ["PROVIDE_BASE_AUDIENCE"]},
        {"emails": [email("seed")], "role": "seed", "permissions": ["PROVIDE_SEED_AUDIENCE"]},
    ]
    given = {"participants": participants, "collaboration_types": ["ENABLE_OVERLAP"], "matching_ids": ["EMAIL"]}
    more = {"name": "Partners", "hide_absolute_values": False, "activation": []}
    world.room = world.call("base", "create_room", **given, **more)["id"]
    world.provision()
    wanted = proposal(world, partner)
    assert wanted["approved_by"] == [], "it brought nothing: the base is somebody else's"
    refused = error_of(lambda: world.call(partner, "approve", room_id=world.room, proposal_id=wanted["id"]))
    assert refused == error_of(lambda: world.call(partner, "approve", room_id="no-such-room", proposal_id="x"))
    world.call("seed", "approve", room_id=world.room, proposal_id=wanted["id"])
    assert world.budget.ledger.total == 1000
    refused = error_of(lambda: world.call("base", "approve", room_id=world.room, proposal_id=elsewhere["id"]))
    assert refused["type"] == "PermissionDeniedError", "what is proposed to others is not there"


def test_a_colleague_who_provides_no_data_cannot_approve(shared: Installation) -> None:
    """Membership in the provider's organisation is not enough: another participant has the permission."""
    world = MediaWorld.open(shared)
    world.provision()
    colleague = email("create")
    if colleague not in {user.email for user in shared.catalog.users.all()}:
        shared.catalog.users.create_user(colleague)
    try:
        shared.catalog.pairs.set_organization(
            shared.catalog.pairs.organization_of_user(email("seed")), email=colleague
        )
        wanted = proposal(world, "create")
        assert wanted["approved_by"] == []
        refused = error_of(lambda: world.call("create", "approve", room_id=world.room, proposal_id=wanted["id"]))
        assert refused["type"] == "PermissionDeniedError"
        assert proposal(world, "seed")["approved_by"] == [shared.catalog.pairs.organization_of_user(email("seed"))]
    finally:
        shared.catalog.pairs.set_organization("media.example", email=colleague)


def test_the_full_ensemble_is_enabled_once_both_providers_approved_it(shared: Installation) -> None:
    world = MediaWorld.open(shared)
    world.provision()
    assert "FULL_LOOKALIKE" not in " ".join(CollaborationType), "all types together never turn it on"

    def is_enabled(group: str = "create") -> bool:
        return bool(world.call(group, "get_room", room_id=world.room)["full_lookalike"])

    wanted = proposal(world, "seed", kind="full_lookalike")
    assert (wanted["is_effective"], is_enabled()) == (False, False)
    assert world.call("base", "approve", room_id=world.room, proposal_id=wanted["id"])["is_effective"]
    assert is_enabled()
    # another provider takes the place of the one that approved
    shared.catalog.pairs.set_organization(f"base-{shared.token_hex(8)}", email=email("base"))
    assert not is_enabled()


def test_an_estimate_is_free_and_changes_nothing(shared: Installation) -> None:
    views = (Permission.VIEW_OVERLAP, Permission.VIEW_INSIGHTS, Permission.CREATE_CUSTOM_AUDIENCE)
    world = MediaWorld.open(shared, {"base": GROUPS["base"], "seed": GROUPS["seed"], "all": views})
    world.provision()
    ingest(world, {"loyal": "l", "again": "l", "new": "n"})

    def price(kind: str, **about: Any) -> tuple[float, bool]:
        told = world.call("all", "get_estimate", room_id=world.room, kind=kind, **about)
        assert (told["left"], told["is_affordable"]) == (100 - world.spent / 10, True)
        return told["units"], told["is_at_most"]

    assert price("overlap_statistics") == (4, False), "two types with the same ids are one question"
    assert price("insights", audience_type="loyal") == (22, False), "the table, and the overlap it is set against"
    assert price("insights") == (44, False)
    assert price("audience_size", definition=REMARKETING) == (2, False)
    assert price("audience_size", definition=LOOKALIKE) == (72, True)
    assert price("lookalike_statistics", audience=custom(world.audience("all"))) == (72, True)
    n_audiences = len(shared.catalog.rooms.custom_audiences(world.room, hidden=True))
    assert n_audiences == 0, "nothing is made for a price"
    assert world.spent == 0
    spend(world, 500)
    told = world.call("all", "get_estimate", room_id=world.room, kind="audience_size", definition=LOOKALIKE)
    assert (told["left"], told["is_affordable"]) == (50, False)


def test_new_figures_of_the_base_are_paid_once(shared: Installation) -> None:
    world = MediaWorld.open(shared)
    world.provision()
    renew = {"method": "renew_base_figures", "room_id": world.room}
    assert error_of(lambda: world.call("create", **renew))["type"] == "NotProvisionedError"
    ingest(world)

    def versions() -> int:
        return len(shared.catalog.resources.versions(Kind.DATA_ROOM, world.room))

    told = world.call("create", "get_estimate", room_id=world.room, kind="base_figures")
    assert (told["units"], told["is_at_most"]) == (10, False)
    for group in ("overlap", "insights", "export", "base", "seed"):
        assert error_of(lambda group=group: world.call(group, **renew))["type"] == "PermissionDeniedError"
    before = versions()
    assert world.call("create", **renew)["privacy"]["price"] == 10
    assert (world.spent, versions()) == (100, before + 1)
    assert error_of(lambda: world.call("create", **renew))["type"] == "ConflictError", "it is being made"
    (line,) = shared.catalog.pairs.ledger_lines(world.budget.pair.id)
    answered = {"base_figures": {"question": line.key}}
    seeds = {"digests": {"loyal": "l"}, "seeds": {"by_type": {"loyal": {"n_unique_ids": 500}}}}
    world.finish(
        Kind.DATA_ROOM, world.room, {"base_audience": {}, "seed_audiences": seeds, "data_attributes": answered}
    )
    assert world.call("create", **renew)["privacy"]["price"] == 0
    assert (world.spent, versions()) == (100, before + 1), "these are of the present base"


def test_new_figures_that_cannot_be_paid_change_nothing(shared: Installation) -> None:
    world = MediaWorld.open(shared)
    world.provision()
    ingest(world)
    spend(world, 901)
    before = shared.catalog.resources.newest_version(Kind.DATA_ROOM, world.room).number
    told = error_of(lambda: world.call("create", "renew_base_figures", room_id=world.room))
    assert (told["type"], told["attributes"]["cost"]) == ("BudgetSpentError", 10)
    assert shared.catalog.resources.newest_version(Kind.DATA_ROOM, world.room).number == before


def test_the_smallest_source_has_the_highest_lookalike_price(shared: Installation) -> None:
    from cleanroom_pipelines.similarity.private_lookalikes import choose

    prices = {n: choose(n).units + figures_price(n).tenths / 10 for n in (250, 410, 500, 1_000, 2_500, 6_200)}
    assert max(prices.values()) == (MOST_LOOKALIKE_TENTHS + MOST_FIGURES_TENTHS) / 10 == 70
    document = (Path(media.__file__).parent / "FROM_MEDIA.md").read_text()
    told = [f"{price:.1f}".removesuffix(".0") + f" at {n:,}" for n, price in prices.items()]
    assert all(each in document for each in told), told


def test_prices_do_not_depend_on_hidden_sizes(shared: Installation) -> None:
    world = MediaWorld.open(shared)
    world.provision()
    ingest(world)
    room = world.installation.catalog.get(DataRoom, world.room)
    with writing(world.installation.home.catalog_url) as session:
        session.execute(update(DataRoomRow).where(DataRoomRow.id == room.id).values(hide_absolute_values=True))
    asked = {"room_id": world.room, "kind": "audience_size", "definition": LOOKALIKE}
    told = world.call("create", "get_estimate", **asked)
    assert (told["units"], told["is_at_most"]) == (27, True), "15 for the ranking, and at most 12 beside it"


def test_an_estimate_discloses_nothing_unpaid(shared: Installation) -> None:
    """The price of a lookalike depends on its seed's size: a free exact price would disclose the size."""
    found = []
    for size in (30, 300, 100_000):
        world = MediaWorld.open(shared)
        world.provision()
        overlapped = overlap()["overlap_statistics"]["overlap"]
        overlapped["without_own_counts"]["rows"][0]["overlap_size"] = size
        seeds = {"digests": {"loyal": "l"}, "seeds": {"by_type": {"loyal": {"n_unique_ids": size}}}}
        documents = {"base_audience": {}, "seed_audiences": seeds, "overlap_statistics": {"overlap": overlapped}}
        world.finish(Kind.DATA_ROOM, world.room, documents)
        asked = [{"kind": "audience_size", "definition": each} for each in (LOOKALIKE, REMARKETING, rule())]
        found.append([world.call("create", "get_estimate", room_id=world.room, **each) for each in asked])
    assert found[0] == found[1] == found[2]


def overlap() -> dict[str, Any]:
    rows = [{"audience_type": "loyal", "advertiser_size": 500}]
    document = {
        "with_own_counts": {"rows": rows},
        "without_own_counts": {"rows": [rows[0] | {"advertiser_size": None}]},
        "questions": [question("overlap", "overlap")],
    }
    return {"overlap_statistics": {"overlap": document}}


def test_only_the_seeds_provider_sees_its_own_counts(shared: Installation) -> None:
    seed = (Permission.PROVIDE_SEED_AUDIENCE, Permission.VIEW_OVERLAP)
    world = MediaWorld.open(shared, {"base": GROUPS["base"], "seed": seed, "overlap": GROUPS["overlap"]})
    world.provision()
    world.finish(Kind.DATA_ROOM, world.room, overlap())
    sizes = {
        group: answer(world, group, "overlap_statistics")["rows"][0]["advertiser_size"]
        for group in ("seed", "overlap")
    }
    assert sizes == {"seed": 500, "overlap": None}
    assert world.spent == 20


def test_insights_cost_only_the_returned_tables(world: MediaWorld) -> None:
    tables: list[dict[str, Any]] = [{"audience_type": kind, "rows": []} for kind in ("loyal", "new")]
    questions = {
        kind: [question(f"insights of {kind}", "insights", INSIGHTS), question(f"overlap of {kind}", "overlap")]
        for kind in ("loyal", "new")
    }
    document = {"result": {"audiences": tables, "noise": {}}, "questions": questions}
    world.finish(Kind.DATA_ROOM, world.room, {"insights": {"insights": document}})
    assert answer(world, "insights", "insights", audience=SEED)["audiences"] == tables[:1]
    assert world.spent == 220
    told = answer(world, "insights", "insights")
    assert (told["audiences"], told["privacy"]["left"]) == (tables, 56)
    assert world.spent == 440
    with pytest.raises(errors.InvalidRequestError):
        world.ask("insights", "insights", audience={"kind": "seed", "audience_type": ["loyal"]})


def test_statistics_need_a_lookalike(world: MediaWorld) -> None:
    audience = world.audience("create", rule())
    for about in ({"audience": custom(audience)}, {"audience": SEED}, {}):
        with pytest.raises(errors.InvalidRequestError):
            world.ask("create", "lookalike_statistics", **about)


def test_an_empty_room_returns_nothing(shared: Installation) -> None:
    def is_not_disclosed(kind: str) -> None:
        world = MediaWorld.open(shared)
        group = {"overlap_statistics": "overlap", "insights": "insights", "data_attributes": "create"}[kind]
        with pytest.raises(errors.NotProvisionedError):
            world.ask(group, kind)

    assert_each(is_not_disclosed, ["overlap_statistics", "insights", "data_attributes"])


FAILED_BY = {
    StatusCode.INSUFFICIENT_MATCHING_SEED: errors.TooFewUsersError,
    StatusCode.SEED_COVERS_POPULATION: errors.TooFewUsersError,
    StatusCode.PARENT_NOT_ACTIVE: errors.NotProvisionedError,
    StatusCode.SEED_INVALID: errors.ValidationFailedError,
    StatusCode.CANCELLED: errors.JobCancelledError,
    StatusCode.INTERNAL: errors.JobFailedError,
}


def test_a_job_fails_with_the_error_of_its_work(shared: Installation) -> None:
    def fails_by_it(code: StatusCode, kind: type[errors.MediaError]) -> None:
        world = MediaWorld.open(shared)
        world.provision()
        audience = world.audience("create")
        job = world.ask("create", "audience_size", audience=custom(audience))
        with pytest.raises(errors.ConflictError):
            world.call("create", "get_job_result", job_id=job["id"])
        world.finish(Kind.DATA_ROOM, world.room)
        world.fail(Kind.CUSTOM_AUDIENCE, audience, code, "It did not work.")
        assert world.call("create", "get_job", job_id=job["id"])["status"] == "Failed"
        with pytest.raises(kind, match=r"It did not work\."):
            world.call("create", "get_job_result", job_id=job["id"])

    assert_each(fails_by_it, FAILED_BY.items())


def test_a_cancelled_job_stays_cancelled(world: MediaWorld) -> None:
    job = world.ask("create", "data_attributes")
    assert world.call("create", "cancel_job", job_id=job["id"])["error"]["type"] == "JobCancelledError"
    world.finish(Kind.DATA_ROOM, world.room)
    with pytest.raises(errors.JobCancelledError):
        world.call("create", "get_job_result", job_id=job["id"])


def test_a_result_uses_the_data_provisioned_when_the_job_started(world: MediaWorld) -> None:
    audience = made(world)
    world.provision()
    job = world.ask("create", "audience_size", audience=custom(audience))
    assert job["status"] == "Running", "the room is being made again, and the audience will be"
    world.finish(Kind.DATA_ROOM, world.room)
    assert world.call("create", "get_job", job_id=job["id"])["status"] == "Running"
    world.finish(Kind.CUSTOM_AUDIENCE, audience, sized("of the later data", size=990))
    assert world.call("create", "get_job_result", job_id=job["id"])["size"] == 990


def test_invalid_new_data_does_not_change_results(world: MediaWorld) -> None:
    audience = made(world)
    world.provision()
    job = world.ask("create", "audience_size", audience=custom(audience))
    world.fail(Kind.DATA_ROOM, world.room, StatusCode.SEED_INVALID, "The file cannot be used.")
    assert world.call("create", "get_job_result", job_id=job["id"]).items() >= SIZE.items()


def test_failed_data_has_reports(world: MediaWorld) -> None:
    catalog = world.installation.catalog
    job = world.ask("seed", "seeds_report")
    claim = catalog.work.claim(
        Kind.DATA_ROOM, world.room, catalog.resources.newest_version(Kind.DATA_ROOM, world.room).number, "run"
    )
    assert claim is not None
    world.write(claim, "seed_audiences", world.room, {"report": {"outcome": "FAILED"}})
    catalog.work.fail(claim, StatusCode.SEED_INVALID, "The file cannot be used.")
    assert world.call("seed", "get_job_result", job_id=job["id"]) == {"outcome": "FAILED"}
    with pytest.raises(errors.ValidationFailedError):
        answer(world, "create", "data_attributes")


# what is told of a call


def test_the_audit_log_hides_names_from_other_groups(world: MediaWorld) -> None:
    audience = world.call("create", "create_audience", room_id=world.room, name="Secret", definition=LOOKALIKE)[
        "id"
    ]

    def entry(group: str) -> dict[str, Any]:
        entries = world.call(group, "get_audit_log", room_id=world.room)["entries"]
        (found,) = [each for each in entries if each["action"] == "create_audience"]
        return found  # type: ignore[no-any-return]

    mine, theirs = entry("create"), entry("overlap")
    assert (mine["audience"], theirs["audience"], theirs["user"]) == (audience, None, None)
    assert mine["participant"] == theirs["participant"] == world.ids["create"]
    assert mine["at"] == theirs["at"]
    assert mine["at"]
    assert audience not in json.dumps(world.call("overlap", "get_audit_log", room_id=world.room))


def test_a_rooms_audit_log_is_limited_to_that_room(shared: Installation, world: MediaWorld) -> None:
    other = MediaWorld.open(shared)
    other.call("create", "create_audience", room_id=other.room, name="n", definition=LOOKALIKE)
    told = world.call("create", "get_audit_log", room_id=world.room)["entries"]
    assert not any(each["action"] == "create_audience" for each in told)


def test_the_audit_log_contains_no_address_name_or_token(world: MediaWorld) -> None:
    names = {"name": "Verysecretname", "definition": REMARKETING | {"audience_type": "Verysecrettype"}}
    world.call("create", "create_audience", room_id=world.room, **names)
    error_of(lambda: world.call(STRANGER, "get_room", room_id="Verysecretroom"))
    error_of(lambda: world.call(STRANGER, "Verysecretmethod"))
    world.lines()
    written = b"".join(lines_of(world.installation.home.audit))
    assert b"create_audience" in written
    for secret in (b"media.example", b"nowhere.example", b"Verysecret", b"a.csv", b"Spring"):
        assert secret not in written
    assert world.installation.audit.verify().ok


def test_an_unknown_method_is_rejected_and_audited(world: MediaWorld) -> None:
    before = len(world.lines())
    assert error_of(lambda: world.call("create", "no_such_method"))["type"] == "NotFoundError"
    (line,) = world.lines()[before:]
    assert (line["operation"], line["outcome"]) == ("unknown", "refused")


# what cannot be used

WRONG: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("create", "get_room", {"room_id": None}),
    ("create", "get_room", {"room_id": ["CANARY"]}),
    ("create", "get_room", {"room_id": "CANARY" * 1000}),
    ("create", "get_room", {"room_id": "CANARY\ud800"}),
    ("create", "get_room", {"room_id": "CANARY\0"}),
    ("create", "create_audience", {"name": 7, "definition": LOOKALIKE}),
    ("create", "create_audience", {"name": "CANARY\ud800", "definition": LOOKALIKE}),
    ("create", "create_audience", {"name": "CANARY" * 300, "definition": LOOKALIKE}),
    ("create", "create_audience", {"name": "n", "definition": "CANARY"}),
    ("create", "create_audience", {"name": "n", "definition": {"kind": "CANARY"}}),
    ("create", "create_audience", {"name": "n", "definition": LOOKALIKE | {"reach": 31}}),
    ("create", "create_audience", {"name": "n", "definition": LOOKALIKE | {"reach": 0}}),
    ("create", "create_audience", {"name": "n", "definition": LOOKALIKE | {"CANARY": 1}}),
    ("create", "create_audience", {"name": "n", "definition": rule({"kind": "file", "path": "CANARY"})}),
    ("create", "create_audience", {"name": "n", "definition": LOOKALIKE, "shared_with": ["CANARY"]}),
    ("create", "create_audience", {"name": "n", "definition": LOOKALIKE, "shared_with": "CANARY"}),
    ("create", "share_audiences", {"audience_ids": "CANARY"}),
    ("create", "share_audiences", {"audience_ids": [1]}),
    ("create", "delete_audiences", {"audience_ids": [], "delete_dependent_audiences": "CANARY"}),
    ("create", "start_job", {"kind": "CANARY"}),
    ("create", "start_job", {"kind": "lab_validation"}),
    ("create", "start_job", {"kind": "audience_size"}),
    ("create", "start_job", {"kind": "audience_size", "audience": "CANARY"}),
    ("create", "start_job", {"kind": "audience_size", "audience": {"kind": "seed"}}),
    ("create", "start_job", {"kind": "audience_size", "audience": {"kind": "custom", "id": ["CANARY"]}}),
    ("export", "start_job", {"kind": "user_list", "audience": SEED, "options": "CANARY"}),
    ("export", "start_job", {"kind": "user_list", "audience": SEED, "options": {"destination": "CANARY"}}),
    ("export", "start_job", {"kind": "user_list", "audience": SEED, "options": {"destination": ["CANARY"]}}),
    ("export", "start_job", {"kind": "user_list", "audience": SEED, "options": {"max_rows": 0}}),
    ("export", "start_job", {"kind": "user_list", "audience": SEED, "options": {"gzip": "CANARY"}}),
    ("export", "start_job", {"kind": "user_list", "audience": SEED, "options": {"holdout": "CANARY"}}),
    ("seed", "provision_seeds", {"datasets": []}),
    ("seed", "provision_seeds", {"datasets": "CANARY"}),
    ("base", "create_lab", {"name": "n", "datasets": {}}),
    ("base", "create_lab", {"name": "n", "datasets": ["CANARY"]}),
    ("base", "create_lab", {"name": "n", "datasets": {"CANARY": "0"}}),
    ("base", "create_lab", {"name": "n", "datasets": {"matching:CANARY": "0"}}),
    ("owner", "create_room", {"name": "n", "participants": "CANARY"}),
    ("owner", "create_room", {"name": "n", "participants": [{"emails": "CANARY"}]}),
    ("owner", "create_room", {"name": "n", "participants": [], "collaboration_types": ["CANARY"]}),
    ("owner", "create_room", {"name": "n", "participants": [], "matching_ids": ["CANARY"]}),
    ("create", "get_estimate", {"kind": "CANARY"}),
    ("create", "get_estimate", {"kind": "data_attributes"}),
    ("owner", "propose", {"kind": "CANARY"}),
    ("owner", "propose", {"kind": "refill"}),
    ("owner", "propose", {"kind": "refill", "units": "CANARY"}),
    ("owner", "propose", {"kind": "refill", "units": 0}),
    ("owner", "propose", {"kind": "refill", "units": -5}),
    ("owner", "propose", {"kind": "refill", "units": 101}),
    ("owner", "propose", {"kind": "refill", "units": True}),
    ("owner", "propose", {"kind": "refill", "units": 2.0}),
    ("base", "approve", {"proposal_id": ["CANARY"]}),
)  # fmt: skip


def test_invalid_parameters_give_our_own_messages(world: MediaWorld) -> None:
    def has_our_message(group: str, method: str, params: dict[str, Any]) -> None:
        world.new_lines()
        told = error_of(lambda: world.call(group, method, **({"room_id": world.room} | params)))
        assert told["type"] in ("InvalidRequestError", "InvalidDefinitionError")
        assert "CANARY" not in json.dumps(told)
        assert world.new_lines()[-1]["outcome"] == "refused"

    assert_each(has_our_message, WRONG)


def test_seed_files_of_the_same_or_a_foreign_kind_are_rejected(world: MediaWorld) -> None:
    one, two = world.upload("seed"), world.upload("seed")
    for datasets in (
        [{"manifest_hash": one}, {"manifest_hash": two}],
        [{"manifest_hash": one, "matching_id": "PHONE_NUMBER"}],
    ):
        with pytest.raises(errors.InvalidRequestError):
            world.call("seed", "provision_seeds", room_id=world.room, datasets=datasets)


def test_a_too_large_upload_leaves_nothing(tmp_path: Path) -> None:
    installation = Installation(Settings(tmp_path / "home", max_upload_bytes=10))
    world = MediaWorld.open(installation)
    with pytest.raises(errors.UploadTooLargeError):
        world.upload("base", b"01234567890")
    assert installation.uploads.locations() == frozenset()
    assert world.upload("base", b"0123456789") in {each.id for each in installation.catalog.rooms.uploads()}


def test_the_operators_local_client_uses_the_same_handlers(tmp_path: Path) -> None:
    from cleanroom_pipelines.media import Client, PermissionDeniedError
    from cleanroom_pipelines.media.media import MediaDcr

    world = MediaWorld.open(Installation(Settings(tmp_path / "home")))
    client = Client(home=tmp_path / "home", user_email=email("create"))
    assert client.email == email("create")
    room = MediaDcr.from_existing(world.room, client)
    assert {each.role for each in room.get_participants()} == set(GROUPS)
    with pytest.raises(PermissionDeniedError):
        room.get_overlap_statistics()
    file = tmp_path / "matching.csv"
    file.write_text("u,a@b.example\n")
    assert str(client.upload_dataset(file)) in {each.id for each in world.installation.catalog.rooms.uploads()}
