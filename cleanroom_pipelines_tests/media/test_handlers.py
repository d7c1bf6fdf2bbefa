"""The handlers without HTTP: permissions, jobs, the ledger, the audit log and parameters.

Contract: contracts/media.md, sections 3 and 5, held against the server. Who may do what is the table there, cell
by cell; what may not be done, what is another room's and what does not exist is one error; every call leaves a
line without names; an answer is charged once a question; parameters are checked and never repeated.
"""

import itertools
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from cleanroom_pipelines.catalog import CollaborationType, Kind, Permission
from cleanroom_pipelines.errors import StatusCode
from cleanroom_pipelines.execution.installation import Installation, Settings
from cleanroom_pipelines.media import errors
from cleanroom_pipelines.media.protocol import Method, error_as_dict

from ..cases import assert_each
from .groups import EXCLUSION, GROUPS, LOOKALIKE, REMARKETING, SEED, STRANGER, MediaWorld, custom, email, rule

ALL = frozenset(GROUPS)
Cell = tuple[str, Callable[[MediaWorld, str], dict[str, Any]], frozenset[str]]


def only(*groups: str) -> frozenset[str]:
    return frozenset(groups)


def start(kind: str, about: dict[str, Any] | None = None) -> Callable[[MediaWorld, str], dict[str, Any]]:
    return lambda world, group: {"kind": kind, **(about or {})}


def about_own(kind: str) -> Callable[[MediaWorld, str], dict[str, Any]]:
    return lambda world, group: {"kind": kind, "audience": custom(world.audience(group))}


# what is called, with what, and which groups may; a room id is added
TABLE: dict[str, Cell] = {
    "configuration": ("get_room", lambda world, group: {}, ALL),
    "provisioning status": ("get_provisioning", lambda world, group: {}, ALL),
    "audit log": ("get_audit_log", lambda world, group: {}, ALL),
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
    "create": ("create_audience", lambda world, group: {"name": group, "definition": LOOKALIKE}, only("create")),
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
    "refill": (
        "refill_ledger",
        lambda world, group: {"participant_id": world.ids["create"], "units": 3},
        only("owner"),
    ),
}


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Installation:
    """An installation in which each test has a room of its own."""
    home = tmp_path_factory.mktemp("media") / "home"
    shared = Installation(Settings(home, seed_floor=1, max_rooms=10_000, max_labs=10_000, max_uploads=10_000))
    shared.catalog.stay_connected()  # as a server does
    return shared


@pytest.fixture
def world(shared: Installation) -> MediaWorld:
    opened = MediaWorld.open(shared)
    opened.provision()
    return opened


def told_of(call: Callable[[], object]) -> dict[str, Any]:
    """The error of a call, as it goes over the wire."""
    with pytest.raises(errors.MediaError) as raised:
        call()
    return error_as_dict(raised.value)


# who may do what


def test_each_group_may_what_its_permission_says(shared: Installation) -> None:
    def may_what_it_says(_: str, cell: Cell) -> None:
        world = MediaWorld.open(shared)
        world.provision()
        method, params, allowed = cell
        may = set()
        for group in (*GROUPS, STRANGER):
            # whom nothing belongs to asks about what belongs to somebody who may
            asked = params(world, group if group in GROUPS else next(iter(allowed)))
            unknown = told_of(partial(world.call, group, method, room_id="no-such-room", **asked))
            world.new_lines()
            try:
                world.call(group, method, room_id=world.room, **asked)
                may.add(group)
            except errors.PermissionDeniedError as error:
                assert error_as_dict(error) == unknown
            (line,) = world.new_lines()
            assert line["way"] == "media"
            assert line["outcome"] == ("ok" if group in may else "refused")
            assert line["operation"].split(".")[0] == method
        assert may == allowed

    assert_each(may_what_it_says, TABLE.items())


def test_every_method_about_a_room_stands_in_the_table() -> None:
    elsewhere = {"whoami", "create_room", "list_rooms", "create_lab", "get_lab", "start_lab", "decline_room"}
    about_jobs = {"get_job", "get_job_result", "cancel_job"}
    assert {method for method, _, _ in TABLE.values()} == {each.value for each in Method} - elsewhere - about_jobs


def test_rooms_are_listed_for_who_is_in_them(world: MediaWorld) -> None:
    assert world.room in {each["id"] for each in world.call("quality", "list_rooms")["rooms"]}
    assert world.call(STRANGER, "list_rooms") == {"rooms": []}


def test_who_declines_is_in_the_room_no_more(world: MediaWorld) -> None:
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
            refused = told_of(partial(world.call, "create", method, room_id=world.room, **asked))
            assert refused == told_of(partial(world.call, "create", method, room_id="no-such-room", **asked))
    assert told_of(lambda: world.call("create", "get_job", job_id=job["id"]))["type"] == "PermissionDeniedError"
    assert told_of(lambda: world.call("create", "decline_room", room_id=world.room))["type"] == (
        "PermissionDeniedError"
    )
    assert world.installation.catalog.get(Kind.CUSTOM_AUDIENCE, theirs).created_by == world.ids["create"]
    assert declined_as(world, "owner") == [email("create")]
    assert declined_as(world, "export") == []
    entries = world.call("owner", "get_audit_log", room_id=world.room)["entries"]
    assert ("decline_room", world.ids["create"]) in {(each["action"], each["participant"]) for each in entries}


def declined_as(world: MediaWorld, group: str) -> list[str]:
    told = world.call(group, "get_room", room_id=world.room)["participants"]
    return [each for participant in told for each in participant.get("declined", ())]


def test_what_a_side_brought_goes_with_the_last_of_it(world: MediaWorld) -> None:
    catalog = world.installation.catalog
    world.finish(Kind.DATA_ROOM, world.room)
    assert world.call("owner", "get_provisioning", room_id=world.room) == {"base": True, "seeds": True}
    world.call("insights", "decline_room", room_id=world.room)
    assert catalog.newest_version(Kind.DATA_ROOM, world.room).number == 1, "nothing was theirs"
    world.call("base", "decline_room", room_id=world.room)
    assert world.call("owner", "get_provisioning", room_id=world.room) == {"base": False, "seeds": True}
    assert catalog.newest_version(Kind.DATA_ROOM, world.room).status == "CREATE_PENDING"
    world.call("seed", "decline_room", room_id=world.room)
    assert world.call("owner", "get_provisioning", room_id=world.room) == {"base": False, "seeds": False}


def test_the_owner_does_not_decline(world: MediaWorld) -> None:
    told = told_of(lambda: world.call("owner", "decline_room", room_id=world.room))
    assert told["type"] == "ConflictError"
    assert world.call("owner", "get_room", room_id=world.room)["id"] == world.room
    assert told_of(lambda: world.call(STRANGER, "decline_room", room_id=world.room))["type"] == (
        "PermissionDeniedError"
    )


def test_a_user_has_so_many_rooms_labs_and_uploads(tmp_path: Path) -> None:
    home = Settings(tmp_path / "home", seed_floor=1, max_rooms=1, max_labs=2, max_uploads=3)
    world = MediaWorld.open(Installation(home))

    def is_over(limit: int, call: Callable[[], object]) -> None:
        told = told_of(call)
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
    world.installation.catalog.forget_upload(uploads[0])
    world.upload(STRANGER)
    world.upload("base")
    assert len(labs) == 2
    refused = [line["operation"] for line in world.lines() if line.get("error") == "QuotaExceededError"]
    assert refused == ["create_room", "upload", "upload", "create_lab"]


def test_a_job_that_waits_has_a_place_in_the_queue(tmp_path: Path) -> None:
    world = MediaWorld.open(Installation(Settings(tmp_path / "home", seed_floor=1)))
    jobs = []
    for name in ("first", "second"):
        lab = world.call(STRANGER, "create_lab", name=name, datasets={"matching:EMAIL": world.upload(STRANGER)})
        jobs.append(world.call(STRANGER, "start_lab", lab_id=lab["id"]))
    assert [(job["stage"], job["place"]) for job in jobs] == [("waiting", 2), ("waiting", 3)]
    world.finish(Kind.DATA_ROOM, world.room)
    told = world.call(STRANGER, "get_job", job_id=jobs[1]["id"])
    assert (told["status"], told["stage"], told["place"]) == ("Running", "waiting", 2)


def test_a_job_is_its_users_alone(world: MediaWorld) -> None:
    def is_its_user_s(method: str) -> None:
        job = world.ask("create", "data_attributes")["id"]
        unknown = told_of(lambda: world.call("overlap", method, job_id="no-such-job"))
        for group in ("overlap", "owner", STRANGER):
            assert told_of(lambda: world.call(group, method, job_id=job)) == unknown  # noqa: B023
        assert world.call("create", "get_job", job_id=job)["status"] == "Running"

    assert_each(is_its_user_s, ["get_job", "get_job_result", "cancel_job"])


def test_a_lab_is_its_owners_alone(world: MediaWorld) -> None:
    def is_its_owner_s(method: str) -> None:
        lab = world.lab("base")
        unknown = told_of(lambda: world.call("base", method, lab_id="no-such-lab"))
        assert told_of(lambda: world.call("create", method, lab_id=lab)) == unknown
        assert world.call("base", "get_lab", lab_id=lab)["is_validated"]

    assert_each(is_its_owner_s, ["get_lab", "start_lab"])


def test_an_upload_is_its_owners_alone(world: MediaWorld) -> None:
    theirs = world.upload("create")
    unknown = told_of(lambda: world.call("base", "create_lab", name="l", datasets={"matching:EMAIL": "0" * 32}))
    assert (
        told_of(lambda: world.call("base", "create_lab", name="l", datasets={"matching:EMAIL": theirs})) == unknown
    )
    datasets = [{"manifest_hash": theirs}]
    assert told_of(lambda: world.call("seed", "provision_seeds", room_id=world.room, datasets=datasets)) == unknown


def test_a_lab_of_somebody_else_or_not_validated_is_not_provisioned(world: MediaWorld) -> None:
    theirs = world.lab("create")
    with pytest.raises(errors.PermissionDeniedError):
        world.call("base", "provision_base", room_id=world.room, lab_id=theirs)
    raw = world.call("base", "create_lab", name="raw", datasets={"matching:EMAIL": world.upload("base")})
    with pytest.raises(errors.NotValidatedError):
        world.call("base", "provision_base", room_id=world.room, lab_id=raw["id"])


# audiences


def test_audiences_are_seen_by_their_group_and_by_whom_they_are_shared_with(world: MediaWorld) -> None:
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


def test_what_is_not_seen_is_as_if_it_did_not_exist(world: MediaWorld) -> None:
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
        assert told_of(lambda: call(hidden)) == told_of(lambda: call("no-such-audience"))  # noqa: B023


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


def test_dependents_are_named_only_to_who_sees_them(shared: Installation) -> None:
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
    told = told_of(lambda: world.call("one", "delete_audiences", **delete))
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
    with pytest.raises(errors.ConflictError):
        world.call("one", "create_audience", **call)


NEEDED = {
    "lookalike": (LOOKALIKE, CollaborationType.LOOKALIKE),
    "rule based": (rule(), CollaborationType.RULE_BASED),
    "remarketing": (REMARKETING, CollaborationType.REMARKETING),
    "exclusion": (EXCLUSION, CollaborationType.EXCLUSION),
}


def test_a_room_makes_only_the_audiences_it_is_for(shared: Installation) -> None:
    def makes_only_those(kind: str) -> None:
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

    assert_each(makes_only_those, NEEDED)


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


def test_a_revealing_list_needs_a_room_that_is_for_it(shared: Installation) -> None:
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


OTHER_MODE = LOOKALIKE | {"exclude_seed_audience": True, "reach": 7}


def test_a_lookalike_is_listed_in_one_seed_mode_per_state_of_the_data(shared: Installation) -> None:
    def is_listed_in_one(wrapped: bool) -> None:
        world = MediaWorld.open(shared, {"export": GROUPS["export"]})
        world.finish(Kind.DATA_ROOM, world.room)
        one, other = world.audience("export", LOOKALIKE), world.audience("export", OTHER_MODE)
        for audience in (one, other):
            world.finish(Kind.CUSTOM_AUDIENCE, audience)
        if wrapped:
            one, other = (world.audience("export", rule(custom(each))) for each in (one, other))
            for audience in (one, other):
                world.finish(Kind.CUSTOM_AUDIENCE, audience)
        world.ask("export", "user_list", audience=custom(one))
        world.ask("export", "user_list", audience=custom(one))
        with pytest.raises(errors.PermissionDeniedError, match="seed mode"):
            world.ask("export", "user_list", audience=custom(other))

    assert_each(is_listed_in_one, [False, True])


def test_the_other_seed_mode_is_refused_before_anything_was_made_too(shared: Installation) -> None:
    world = MediaWorld.open(shared, {"export": GROUPS["export"]})
    one, other = world.audience("export", LOOKALIKE), world.audience("export", OTHER_MODE)
    world.ask("export", "user_list", audience=custom(one))
    with pytest.raises(errors.PermissionDeniedError, match="seed mode"):
        world.ask("export", "user_list", audience=custom(other))


def test_the_other_seed_mode_is_free_again_after_new_data_or_a_failure(shared: Installation) -> None:
    world = MediaWorld.open(shared, {"export": GROUPS["export"]})
    world.finish(Kind.DATA_ROOM, world.room)
    one, other, third = (world.audience("export", each) for each in (LOOKALIKE, OTHER_MODE, LOOKALIKE))
    for audience in (one, other, third):
        world.finish(Kind.CUSTOM_AUDIENCE, audience)

    def list_of(audience: str) -> str:
        world.ask("export", "user_list", audience=custom(audience))
        return str(world.installation.catalog.list(Kind.AUDIENCE_LIST, parent_id=audience).items[-1].id)

    world.fail(Kind.AUDIENCE_LIST, list_of(one), StatusCode.INTERNAL, "It did not work.")
    world.finish(Kind.AUDIENCE_LIST, list_of(other))
    with pytest.raises(errors.PermissionDeniedError, match="seed mode"):
        list_of(third)
    world.provision()
    world.finish(Kind.DATA_ROOM, world.room)
    world.finish(Kind.CUSTOM_AUDIENCE, third)
    assert list_of(third)


def test_both_seed_modes_in_one_list_are_refused(shared: Installation) -> None:
    world = MediaWorld.open(shared, {"export": GROUPS["export"]})
    one, other = world.audience("export", LOOKALIKE), world.audience("export", OTHER_MODE)
    both = world.audience(
        "export", rule(custom(one), {"operator": "DIFF", "source": custom(other), "filters": None})
    )
    with pytest.raises(errors.PermissionDeniedError, match="seed mode"):
        world.ask("export", "user_list", audience=custom(both))


# jobs and their answers

SIZE = {"size": 120, "noise": {"plus_minus": 23}, "reason": None}


def sized(question: str = "q", data_version: str = "d", size: int = 120) -> dict[str, Any]:
    document = {"released": SIZE | {"size": size}, "question": question, "data_version": data_version}
    return {"custom_audience": {"audience": document | {"is_enough": True}}}


def made(world: MediaWorld, group: str = "create") -> str:
    world.finish(Kind.DATA_ROOM, world.room)
    audience = world.audience(group)
    world.finish(Kind.CUSTOM_AUDIENCE, audience, sized())
    return audience


def answer(world: MediaWorld, group: str, kind: str, **about: Any) -> Any:
    return world.call(group, "get_job_result", job_id=world.ask(group, kind, **about)["id"])


def spent(world: MediaWorld, group: str) -> int:
    return int(world.call(group, "get_room", room_id=world.room)["ledger"]["spent"])


def test_a_size_is_charged_when_fetched_and_once_a_question(world: MediaWorld) -> None:
    audience = made(world)
    job = world.ask("create", "audience_size", audience=custom(audience))
    assert (job["status"], spent(world, "create")) == ("Success", 0)
    assert world.call("create", "get_job_result", job_id=job["id"]) == SIZE
    assert answer(world, "create", "audience_size", audience=custom(audience)) == SIZE
    same = world.audience("create")
    world.finish(Kind.CUSTOM_AUDIENCE, same, sized())
    assert answer(world, "create", "audience_size", audience=custom(same)) == SIZE
    assert (spent(world, "create"), spent(world, "export")) == (1, 0)


def test_a_spent_budget_answers_only_what_was_paid_until_the_owner_refills_it(world: MediaWorld) -> None:
    audience = made(world)
    answer(world, "create", "audience_size", audience=custom(audience))
    world.installation.catalog.charge(world.room, world.ids["create"], "0" * 64, 99)
    answer(world, "create", "audience_size", audience=custom(audience))
    other = world.audience("create")
    world.finish(Kind.CUSTOM_AUDIENCE, other, sized("another question"))
    with pytest.raises(errors.BudgetSpentError):
        answer(world, "create", "audience_size", audience=custom(other))
    refill = {"room_id": world.room, "participant_id": world.ids["create"]}
    for units in (0, -5, 101, True, 2.0, "3", None):
        with pytest.raises(errors.InvalidRequestError):
            world.call("owner", "refill_ledger", **refill, units=units)
    world.call("owner", "refill_ledger", **refill, units=1)
    assert answer(world, "create", "audience_size", audience=custom(other)) == SIZE
    assert world.call("create", "get_room", room_id=world.room)["ledger"] == {"spent": 101, "total": 101}


def overlap(data_version: str = "d") -> dict[str, Any]:
    rows = [{"audience_type": "loyal", "advertiser_size": 500}]
    document = {
        "with_own_counts": {"rows": rows},
        "without_own_counts": {"rows": [rows[0] | {"advertiser_size": None}]},
        "cost": 3,
        "question": "overlap",
        "data_version": data_version,
    }
    return {"overlap_statistics": {"overlap": document}}


def test_only_the_seeds_provider_is_told_its_own_counts(shared: Installation) -> None:
    seed = (Permission.PROVIDE_SEED_AUDIENCE, Permission.VIEW_OVERLAP)
    world = MediaWorld.open(shared, {"base": GROUPS["base"], "seed": seed, "overlap": GROUPS["overlap"]})
    world.provision()
    world.finish(Kind.DATA_ROOM, world.room, overlap())
    sizes = {
        group: answer(world, group, "overlap_statistics")["rows"][0]["advertiser_size"]
        for group in ("seed", "overlap")
    }
    assert sizes == {"seed": 500, "overlap": None}
    assert {spent(world, group) for group in ("seed", "overlap")} == {3}


def test_insights_cost_the_tables_that_are_told(world: MediaWorld) -> None:
    tables: list[dict[str, Any]] = [{"audience_type": kind, "rows": []} for kind in ("loyal", "new")]
    document = {
        "result": {"audiences": tables, "noise": {}},
        "cost_by_audience": {"loyal": 4, "new": 6},
        "question": "insights",
        "data_version": "d",
    }
    world.finish(Kind.DATA_ROOM, world.room, {"insights": {"insights": document}})
    assert answer(world, "insights", "insights", audience=SEED)["audiences"] == tables[:1]
    assert spent(world, "insights") == 4
    assert answer(world, "insights", "insights")["audiences"] == tables
    assert spent(world, "insights") == 10
    with pytest.raises(errors.InvalidRequestError):
        world.ask("insights", "insights", audience={"kind": "seed", "audience_type": ["loyal"]})


def test_statistics_are_of_lookalikes(world: MediaWorld) -> None:
    audience = world.audience("create", rule())
    for about in ({"audience": custom(audience)}, {"audience": SEED}, {}):
        with pytest.raises(errors.InvalidRequestError):
            world.ask("create", "lookalike_statistics", **about)


def test_nothing_is_told_of_an_empty_room(shared: Installation) -> None:
    def is_not_told(kind: str) -> None:
        world = MediaWorld.open(shared)
        group = {"overlap_statistics": "overlap", "insights": "insights", "data_attributes": "create"}[kind]
        with pytest.raises(errors.NotProvisionedError):
            world.ask(group, kind)

    assert_each(is_not_told, ["overlap_statistics", "insights", "data_attributes"])


FAILED_BY = {
    StatusCode.INSUFFICIENT_MATCHING_SEED: errors.TooFewUsersError,
    StatusCode.SEED_COVERS_POPULATION: errors.TooFewUsersError,
    StatusCode.PARENT_NOT_ACTIVE: errors.NotProvisionedError,
    StatusCode.SEED_INVALID: errors.ValidationFailedError,
    StatusCode.CANCELLED: errors.JobCancelledError,
    StatusCode.INTERNAL: errors.JobFailedError,
}


def test_a_job_fails_by_what_its_work_failed_by(shared: Installation) -> None:
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


def test_an_answer_is_of_the_data_that_were_provisioned_when_it_was_asked(world: MediaWorld) -> None:
    audience = made(world)
    world.provision()
    job = world.ask("create", "audience_size", audience=custom(audience))
    assert job["status"] == "Running", "the room is being made again, and the audience will be"
    world.finish(Kind.DATA_ROOM, world.room)
    assert world.call("create", "get_job", job_id=job["id"])["status"] == "Running"
    world.finish(Kind.CUSTOM_AUDIENCE, audience, sized(data_version="later", size=990))
    assert world.call("create", "get_job_result", job_id=job["id"])["size"] == 990


def test_an_answer_stays_that_of_before_if_the_new_data_cannot_be_used(world: MediaWorld) -> None:
    audience = made(world)
    world.provision()
    job = world.ask("create", "audience_size", audience=custom(audience))
    world.fail(Kind.DATA_ROOM, world.room, StatusCode.SEED_INVALID, "The file cannot be used.")
    assert world.call("create", "get_job_result", job_id=job["id"]) == SIZE


def test_reports_are_told_of_what_failed(world: MediaWorld) -> None:
    catalog = world.installation.catalog
    job = world.ask("seed", "seeds_report")
    claim = catalog.claim(
        Kind.DATA_ROOM, world.room, catalog.newest_version(Kind.DATA_ROOM, world.room).number, "run"
    )
    assert claim is not None
    world.write(claim, "seed_audiences", world.room, {"report": {"outcome": "FAILED"}})
    catalog.fail(claim, StatusCode.SEED_INVALID, "The file cannot be used.")
    assert world.call("seed", "get_job_result", job_id=job["id"]) == {"outcome": "FAILED"}
    with pytest.raises(errors.ValidationFailedError):
        answer(world, "create", "data_attributes")


# what is told of a call


def test_the_audit_log_tells_other_groups_no_names(world: MediaWorld) -> None:
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


def test_the_audit_log_of_a_room_is_of_that_room(shared: Installation, world: MediaWorld) -> None:
    other = MediaWorld.open(shared)
    other.call("create", "create_audience", room_id=other.room, name="n", definition=LOOKALIKE)
    told = world.call("create", "get_audit_log", room_id=world.room)["entries"]
    assert not any(each["action"] == "create_audience" for each in told)


def test_no_address_name_or_token_stands_in_the_audit_log(world: MediaWorld) -> None:
    names = {"name": "Verysecretname", "definition": REMARKETING | {"audience_type": "Verysecrettype"}}
    world.call("create", "create_audience", room_id=world.room, **names)
    told_of(lambda: world.call(STRANGER, "get_room", room_id="Verysecretroom"))
    told_of(lambda: world.call(STRANGER, "Verysecretmethod"))
    world.lines()
    written = b"".join(path.read_bytes() for path in Path(world.installation.home.audit).iterdir())
    assert b"create_audience" in written
    for secret in (b"media.example", b"nowhere.example", b"Verysecret", b"a.csv", b"Spring"):
        assert secret not in written
    assert world.installation.audit.verify().ok


def test_an_unknown_method_is_refused_and_written_down(world: MediaWorld) -> None:
    before = len(world.lines())
    assert told_of(lambda: world.call("create", "no_such_method"))["type"] == "NotFoundError"
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
    ("owner", "refill_ledger", {"participant_id": "CANARY", "units": 1}),
)  # fmt: skip


def test_what_cannot_be_used_is_said_in_words_of_ours(world: MediaWorld) -> None:
    def is_said(group: str, method: str, params: dict[str, Any]) -> None:
        world.new_lines()
        told = told_of(lambda: world.call(group, method, **({"room_id": world.room} | params)))
        assert told["type"] in ("InvalidRequestError", "InvalidDefinitionError")
        assert "CANARY" not in json.dumps(told)
        assert world.new_lines()[-1]["outcome"] == "refused"

    assert_each(is_said, WRONG)


def test_two_seed_files_of_one_kind_or_of_none_of_the_rooms_are_refused(world: MediaWorld) -> None:
    one, two = world.upload("seed"), world.upload("seed")
    for datasets in (
        [{"manifest_hash": one}, {"manifest_hash": two}],
        [{"manifest_hash": one, "matching_id": "PHONE_NUMBER"}],
    ):
        with pytest.raises(errors.InvalidRequestError):
            world.call("seed", "provision_seeds", room_id=world.room, datasets=datasets)


def test_an_upload_that_is_too_large_leaves_nothing(tmp_path: Path) -> None:
    installation = Installation(Settings(tmp_path / "home", max_upload_bytes=10))
    world = MediaWorld.open(installation)
    with pytest.raises(errors.UploadTooLargeError):
        world.upload("base", b"01234567890")
    assert installation.uploads.locations() == frozenset()
    assert world.upload("base", b"0123456789") in {each.id for each in installation.catalog.uploads()}


def test_the_operators_own_client_goes_through_the_same_handlers(tmp_path: Path) -> None:
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
    assert str(client.upload_dataset(file)) in {each.id for each in world.installation.catalog.uploads()}
