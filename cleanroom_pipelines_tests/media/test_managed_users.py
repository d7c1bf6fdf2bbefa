"""Adding users to a participant and removing them.

Contract: only a member of a group (participant) with MANAGE_USERS changes that group; a new user belongs to the
group's organisation and has some of its permissions, and no others; every permission keeps at least one user, and
a room's data keeps counting as that of the same two organisations, so that no budget is renewed.
"""

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import pytest

from cleanroom_pipelines.catalog import DataRoom
from cleanroom_pipelines.media import errors
from cleanroom_pipelines.runs.budgets import room_organizations
from cleanroom_pipelines.runs.installation import Installation
from cleanroom_pipelines.terms import Permission

from .groups import MediaWorld, email

NEW = "new@media.example"
GROUPS = {
    "crew": (Permission.MANAGE_USERS, Permission.VIEW_OVERLAP),
    "seed": (Permission.PROVIDE_SEED_AUDIENCE, Permission.MANAGE_USERS),
    "base": (Permission.PROVIDE_BASE_AUDIENCE,),
}


@pytest.fixture
def world(installation: Installation) -> MediaWorld:
    return MediaWorld.open(installation, GROUPS)


def add(world: MediaWorld, address: str = NEW, permissions: Iterable[str] = ("VIEW_OVERLAP",), **more: Any) -> Any:
    given = {"participant_id": world.ids["crew"], "email": address, "permissions": list(permissions), **more}
    return world.call("crew", "add_user", room_id=world.room, **given)


def remove(world: MediaWorld, address: str, by: str = "crew", group: str = "crew") -> Any:
    return world.call(by, "remove_user", room_id=world.room, participant_id=world.ids[group], email=address)


def test_a_new_user_has_the_given_permissions_only(world: MediaWorld) -> None:
    told = add(world, " New@Media.example ")
    (crew,) = [each for each in told["participants"] if each["role"] == "crew"]
    assert crew["emails"] == [email("crew"), NEW]
    assert crew["member_permissions"] == {NEW: ["VIEW_OVERLAP"]}
    assert world.call(NEW, "get_room", room_id=world.room)["id"] == world.room
    with pytest.raises(errors.NotProvisionedError):
        world.ask(NEW, "overlap_statistics")
    with pytest.raises(errors.PermissionDeniedError):
        world.call(NEW, "remove_user", room_id=world.room, participant_id=world.ids["crew"], email=email("crew"))


def test_a_user_with_all_permissions_is_a_full_member(world: MediaWorld) -> None:
    told = add(world, permissions=["VIEW_OVERLAP", "MANAGE_USERS"])
    assert all("member_permissions" not in each for each in told["participants"])
    assert remove(world, email("crew"), by=NEW)["id"] == world.room
    with pytest.raises(errors.PermissionDeniedError):
        world.call("crew", "get_room", room_id=world.room)


def test_a_removed_user_sees_nothing(world: MediaWorld) -> None:
    add(world)
    job = world.ask(NEW, "audiences")["id"]
    remove(world, NEW)
    for call, params in (("get_room", {"room_id": world.room}), ("get_job", {"job_id": job})):
        with pytest.raises(errors.PermissionDeniedError):
            world.call(NEW, call, **params)


@pytest.mark.parametrize(
    "given",
    [
        {"address": "new@elsewhere.example"},
        {"address": "no address"},
        {"permissions": ["PROVIDE_BASE_AUDIENCE"]},
        {"permissions": ["FLY"]},
        {"permissions": []},
        {"address": email("crew")},
    ],
    ids=["other organisation", "no address", "not the group's", "unknown", "none", "already in it"],
)
def test_an_invalid_user_is_not_added(world: MediaWorld, given: dict[str, Any]) -> None:
    with pytest.raises(errors.InvalidRequestError) as refused:
        add(world, **given)
    assert "@" not in str(refused.value).replace("name@domain", "")
    record = world.installation.catalog.get(DataRoom, world.room)
    assert [group.emails for group in record.participants] == [(email(name),) for name in GROUPS]


def test_the_groups_of_others_are_not_changed(world: MediaWorld) -> None:
    with pytest.raises(errors.PermissionDeniedError):
        add(world, participant_id=world.ids["base"])
    with pytest.raises(errors.PermissionDeniedError):
        remove(world, email("base"), group="base")
    with pytest.raises(errors.PermissionDeniedError):
        remove(world, email("seed"))


def test_each_permission_stays_with_a_user(world: MediaWorld) -> None:
    add(world)
    with pytest.raises(errors.ConflictError, match="permissions"):
        remove(world, email("crew"))


def test_the_owner_is_not_removed(installation: Installation) -> None:
    world = MediaWorld.open(installation, {name: GROUPS[name] for name in ("base", "seed", "crew")})
    add(world, permissions=["VIEW_OVERLAP", "MANAGE_USERS"])
    with pytest.raises(errors.ConflictError, match="owns"):
        remove(world, email("crew"), by=NEW)


def test_no_removal_renews_the_budget(world: MediaWorld) -> None:
    catalog = world.installation.catalog
    before = room_organizations(world.installation, catalog.get(DataRoom, world.room))
    catalog.rooms.change_users(
        world.room, world.ids["seed"], lambda group: group.with_user("x@other.example", group.permissions)
    )
    with pytest.raises(errors.ConflictError, match="provides a participant's data"):
        remove(world, email("seed"), by="x@other.example", group="seed")
    assert room_organizations(world.installation, catalog.get(DataRoom, world.room)) == before


def test_members_with_fewer_permissions_are_given_at_creation(world: MediaWorld) -> None:
    def created(members: Any) -> Any:
        crew = {
            "emails": [email("crew"), NEW],
            "role": "crew",
            "permissions": ["VIEW_OVERLAP", "MANAGE_USERS"],
            "member_permissions": members,
        }
        return world.call(
            "crew",
            "create_room",
            name="Summer",
            participants=[crew],
            collaboration_types=["ENABLE_OVERLAP"],
            matching_ids=["EMAIL"],
        )

    (crew,) = created({NEW: ["VIEW_OVERLAP"]})["participants"]
    assert crew["member_permissions"] == {NEW: ["VIEW_OVERLAP"]}
    for wrong in ([], "x", {NEW: "VIEW_OVERLAP"}, {NEW: ["PROVIDE_BASE_AUDIENCE"]}, {"z@z.example": []}):
        if wrong == []:
            assert "member_permissions" not in created(wrong)["participants"][0]
            continue
        with pytest.raises(errors.InvalidRequestError):
            created(wrong)


def test_no_departure_renews_the_budget(world: MediaWorld) -> None:
    catalog = world.installation.catalog
    catalog.rooms.change_users(
        world.room, world.ids["seed"], lambda group: replace(group, emails=("x@other.example", *group.emails))
    )
    world.provision()
    before = room_organizations(world.installation, catalog.get(DataRoom, world.room))
    world.call("seed", "decline_room", room_id=world.room)
    assert room_organizations(world.installation, catalog.get(DataRoom, world.room)) == before


def test_a_user_who_declined_may_be_added_again(world: MediaWorld) -> None:
    add(world)
    world.call(NEW, "decline_room", room_id=world.room)
    add(world)
    crew = world.installation.catalog.get(DataRoom, world.room).participant(world.ids["crew"])
    assert crew is not None
    assert (crew.emails, crew.declined) == ((email("crew"), NEW), ())
