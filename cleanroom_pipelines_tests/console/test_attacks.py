"""Attacks through pages, against a real `cleanroom serve`.

Contract: every route, by its place in the table of routes, is closed to all who may not use it: anonymous, other
rooms, other participants, removed and disabled users, other accounts, non-operators, and forms of other sites. No
attack discloses, changes or stores anything, and each rejection is in the audit log with its sender's keyed name.
"""

from collections.abc import Iterator

import pytest

from cleanroom_pipelines.console.page import Route
from cleanroom_pipelines.console.pages import ROUTES
from cleanroom_pipelines_tests.media.groups import email
from cleanroom_pipelines_tests.server.server import Room, serving

from .attacked import (
    NAMES,
    OPERATOR,
    OTHER_PERSON,
    PERSON,
    PRIVATE,
    STRANGER,
    Target,
    fill,
    is_last,
    name_of,
    rightful,
    words,
)

OF_ROOMS = tuple(each for each in PRIVATE if "{room_id}" in each.path)
OF_ACCOUNTS = tuple(each for each in PRIVATE if each.path.startswith("/lookalikes"))
OF_OPERATORS = tuple(each for each in PRIVATE if each.path.startswith("/operator"))
OF_THE_USER = tuple(each for each in PRIVATE if each not in (*OF_ROOMS, *OF_ACCOUNTS, *OF_OPERATORS))
OBJECTS = ("{audience_id}", "{job_id}", "{lab_id}", "{proposal_id}")
OF_OBJECTS = tuple(each for each in OF_ROOMS if any(name in each.path for name in OBJECTS))
FORGED = {
    "another site": {"Sec-Fetch-Site": "cross-site", "Origin": "https://evil.example"},
    "a page without origin": {"Sec-Fetch-Site": "", "Origin": "null"},
    "nowhere": {"Sec-Fetch-Site": "none"},
}
# what a participant without permissions may use in a room
OPEN_TO_PARTICIPANTS = {
    "GET /rooms/{room_id}",
    "GET /rooms/{room_id}/data/history",
    "GET /rooms/{room_id}/data/samples/{name}",
    "GET /rooms/{room_id}/audiences",
    "GET /rooms/{room_id}/people",
    "GET /rooms/{room_id}/people/leave",
    "POST /rooms/{room_id}/people/leave",
    "GET /rooms/{room_id}/privacy",
    "POST /rooms/{room_id}/privacy",  # a proposal, which counts as no approval
    "GET /rooms/{room_id}/activity",
    "GET /rooms/{room_id}/activity/activity.csv",
}


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    home = tmp_path_factory.mktemp("attacks") / "home"
    room = Room.open(home)
    unlimited = {"CLEANROOM_REQUESTS_PER_SECOND": "1000000"}
    with serving(home, "--no-worker", environment=unlimited) as server:
        target = fill(room, server.url)
        for who in NAMES:
            target.browser(who)
        for who in ("removed", "disabled"):
            assert target.browser(who).get(f"/console/rooms/{target.world.room}").status_code == 200
        target.world.call("removed", "decline_room", room_id=target.world.room)
        room.installation.catalog.users.set_user_disabled(email("disabled"), True)
        target.new_entries()
        yield target


@pytest.mark.parametrize("route", PRIVATE, ids=name_of)
@pytest.mark.parametrize("who", ["", "disabled"], ids=["anonymous", "disabled"])
def test_nothing_is_shown_without_a_session(target: Target, who: str, route: Route) -> None:
    before = target.before()
    answer = target.send(who, route)
    if route.method == "GET":
        assert (answer.status_code, answer.content) == (303, b"")
        assert answer.headers["location"].startswith("/console/sign-in")
        assert target.state() == before
    else:
        target.assert_refused(answer, "", before, 401)


@pytest.mark.parametrize("route", OF_ROOMS, ids=name_of)
@pytest.mark.parametrize("who", [STRANGER, "removed", OPERATOR], ids=["stranger", "removed", "operator"])
def test_a_room_is_closed_to_all_others(target: Target, who: str, route: Route) -> None:
    before = target.before()
    target.assert_refused(target.send(who, route), who, before)


@pytest.mark.parametrize("route", OF_OBJECTS, ids=name_of)
def test_an_object_is_not_reached_through_another_room(target: Target, route: Route) -> None:
    before = target.before()
    answer = target.send(STRANGER, route, room=target.strangers)
    target.assert_refused(answer, STRANGER, before, 403, 404, 409)


@pytest.mark.parametrize(
    "route", [each for each in OF_ROOMS if name_of(each) not in OPEN_TO_PARTICIPANTS], ids=name_of
)
def test_a_participant_without_permissions_is_refused(target: Target, route: Route) -> None:
    before = target.before()
    target.assert_refused(target.send("agency", route), "agency", before, names=True)


@pytest.mark.parametrize("route", OF_ACCOUNTS, ids=name_of)
@pytest.mark.parametrize("who", [STRANGER, OTHER_PERSON], ids=["no account", "another account"])
def test_an_account_is_closed_to_others(target: Target, who: str, route: Route) -> None:
    before = target.before()
    if who == OTHER_PERSON and name_of(route) in ("GET /lookalikes", "GET /lookalikes/sample-seed.jsonl"):
        answer = target.send(who, route)
        assert (answer.status_code, target.ids["arn"] in answer.text) == (200, False)
        return
    target.assert_refused(target.send(who, route), who, before, 400, 403, 404)


@pytest.mark.parametrize("route", OF_OPERATORS, ids=name_of)
@pytest.mark.parametrize("who", ["seed", PERSON], ids=["participant", "person of an account"])
def test_the_operators_pages_are_closed_to_others(target: Target, who: str, route: Route) -> None:
    before = target.before()
    target.assert_refused(target.send(who, route), who, before, 403)


@pytest.mark.parametrize("route", [each for each in ROUTES if each.method == "POST"], ids=name_of)
@pytest.mark.parametrize("headers", FORGED.values(), ids=FORGED)
def test_a_form_of_another_site_is_refused(target: Target, headers: dict[str, str], route: Route) -> None:
    before = target.before()
    target.assert_refused(target.send(rightful(route), route, headers=headers), "", before, 403)


@pytest.mark.parametrize("route", PRIVATE, ids=name_of)
def test_other_methods_do_nothing(target: Target, route: Route) -> None:
    who, address = rightful(route), target.address(route)
    before = target.before()
    other = "GET" if route.method == "POST" else "POST"
    methods = ["PUT", "DELETE", "PATCH", "OPTIONS"]
    if not any(each.method == other and each.match(address) is not None for each in ROUTES):
        methods.append(other)
    for method in methods:
        answer = target.browser(who).request(method, address, headers={"X-HTTP-Method-Override": route.method})
        target.assert_refused(answer, "", before, 405)


def test_those_who_may_are_served(target: Target) -> None:
    """The same requests by those who may send them, so that no attack fails for another reason."""
    refused = {}
    for route in sorted(PRIVATE, key=lambda each: (is_last(each), each.method)):
        answer = target.send(rightful(route), route)
        if answer.status_code in (401, 403, 404, 405):
            refused[name_of(route)] = words(answer.text)[:200]
    assert not refused, "\n".join(f"{route}: {why}" for route, why in refused.items())
