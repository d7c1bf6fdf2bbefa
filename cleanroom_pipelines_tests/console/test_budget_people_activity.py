"""Pages of the privacy budget, the people and the activity, over HTTP against a real `cleanroom serve`.

Contract: participants see the budget and what is left of it, and payments of other rooms only if their
organisation provides data; only data providers decide; only those who manage people see and change their own
participant; an invitation's link is shown once; entries of other participants name no person and no audience;
forms keep what was typed; texts of users are escaped; other rooms do not exist.
"""

import html
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import httpx
import pytest

from cleanroom_pipelines.privacy import COUNT
from cleanroom_pipelines.runs.budgets import Budget, Question
from cleanroom_pipelines.runs.installation import Installation, Settings
from cleanroom_pipelines.terms import Permission
from cleanroom_pipelines_tests.media.groups import MediaWorld, email
from cleanroom_pipelines_tests.server.server import serving

from .sites import Served, words

P = Permission
SCRIPT = "<script>alert(1)</script>"
GROUPS = {
    "base": (P.PROVIDE_BASE_AUDIENCE, P.MANAGE_USERS),
    "seed": (P.PROVIDE_SEED_AUDIENCE, P.CREATE_CUSTOM_AUDIENCE),
    "manager": (P.VIEW_OVERLAP, P.MANAGE_USERS),
    "agency": (),
    "owner": (),
}
RULE = {"kind": "remarketing", "audience_type": "loyal"}


@dataclass
class Site(Served):
    """A served room."""

    world: MediaWorld

    def get(self, path: str, group: str = "seed", status: int = 200, room: str = "") -> str:
        return self.page(email(group), f"/rooms/{room or self.world.room}{path}", status)

    def post(
        self, path: str, fields: Mapping[str, str | Sequence[str]], group: str = "seed", status: int = 303
    ) -> str:
        """Send a form; return the next page, or the page itself if there is none."""
        found = self.submit(email(group), f"/rooms/{self.world.room}{path}", fields, status)
        return self.page(email(group), found) if status == 303 else found


def proposal_of(page: str) -> str:
    found = re.search(r"/privacy/([\w-]+)/(?:approve|reject)", page)
    assert found, "no proposal can be decided"
    return found[1]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    home = tmp_path_factory.mktemp("people") / "home"
    installation = Installation(Settings(home, seed_floor=1))
    for each in (
        "manager@media.example",
        "agency@media.example",
        "owner@media.example",
        "colleague@media.example",
    ):
        installation.catalog.users.create_user(each)
    world = MediaWorld.open(installation, GROUPS)
    with serving(home, "--no-worker") as server:
        yield Site(installation, server.url, world)


# privacy


def pay(site: Site, text: str, place: str | None = None) -> None:
    budget = site.world.budget
    asked = Question.of("size", "content", text, COUNT)
    Budget(budget.installation, budget.pair, place or budget.place).pay([asked], "seed.example")


def test_the_budget_is_shown_with_what_it_still_buys(site: Site) -> None:
    pay(site, "a size")
    page = words(site.get("/privacy", "agency"))
    assert "Units left 98 " in page
    assert "Units spent 2 " in page
    assert "Sizes of an audience 49" in page
    assert re.search(r"An attacker guesses right in at most \d\d\.\d %", page)
    assert "the size of an audience 2 another organisation this room" in page


def test_payments_of_other_rooms_are_shown_to_data_providers_only(site: Site) -> None:
    pay(site, "asked elsewhere", "another-room")
    assert "another room" in words(site.get("/privacy", "seed"))
    page = words(site.get("/privacy", "agency"))
    assert "another room" not in page
    assert "Another 2 units were paid in other rooms of the two data providers" in page


def test_a_refill_takes_effect_once_both_providers_approved_it(site: Site) -> None:
    total = site.world.budget.ledger.total
    page = site.post("/privacy", {"kind": "refill", "units": "7"}, "seed")
    assert "The proposal was sent to both data providers." in words(page)
    proposal = proposal_of(site.get("/privacy", "base"))
    assert "/approve" not in page, "the proposer has approved it"
    assert "/approve" not in site.get("/privacy", "agency")
    site.post(f"/privacy/{proposal}/approve", {}, "agency", status=403)
    assert site.world.budget.ledger.total == total
    assert "You approved the proposal." in words(site.post(f"/privacy/{proposal}/approve", {}, "base"))
    assert site.world.budget.ledger.total == total + 70
    site.post(f"/privacy/{proposal}/reject", {}, "base", status=403)


def test_a_proposal_can_be_rejected(site: Site) -> None:
    site.post("/privacy", {"kind": "period"}, "agency")
    proposal = proposal_of(site.get("/privacy", "base"))
    assert "The proposal was rejected" in words(site.post(f"/privacy/{proposal}/reject", {}, "base"))
    site.post(f"/privacy/{proposal}/approve", {}, "seed", status=403)
    assert site.world.budget.ledger.period == ""


def test_a_limit_names_an_organisation_by_a_person(site: Site) -> None:
    page = site.post("/privacy", {"kind": "share", "units": "20", "organization": email("seed")}, "base")
    assert re.search(r"Limit seed-\w+ to 20 units", words(page))
    site.post(f"/privacy/{proposal_of(page)}/reject", {}, "base")


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        pytest.param({"kind": "refill", "units": ""}, "Give a whole number of units.", id="no units"),
        pytest.param({"kind": "refill", "units": "-3"}, "Give a whole number of units.", id="negative"),
        pytest.param({"kind": "refill", "units": "101"}, "The number of units is out of range.", id="too many"),
        pytest.param({"kind": SCRIPT, "units": "5"}, "Unknown kind of proposal.", id="unknown kind"),
        pytest.param(
            {"kind": "share", "units": "5", "organization": SCRIPT},
            "The organisation does not participate in the room.",
            id="unknown organisation",
        ),
    ],
)
def test_a_wrong_proposal_is_explained_and_keeps_its_fields(
    site: Site, fields: dict[str, str], problem: str
) -> None:
    page = site.post("/privacy", fields, status=400)
    assert problem in words(page)
    assert f'value="{html.escape(fields["units"])}"' in page
    assert SCRIPT not in page


def test_a_room_without_two_sides_has_no_budget(site: Site) -> None:
    one_sided = MediaWorld.open(site.world.installation, {"base": (P.PROVIDE_BASE_AUDIENCE,), "owner": ()})
    assert "no privacy budget yet" in words(site.get("/privacy", "owner", room=one_sided.room))


# people


def test_only_those_who_manage_people_see_the_members_of_their_participant(site: Site) -> None:
    assert "Your participant" in words(site.get("/people", "manager"))
    page = words(site.get("/people", "seed"))
    assert "Your participant" not in page
    assert "agency@media.example" in page
    site.post("/people", {"email": "x@media.example", "permissions": "VIEW_OVERLAP"}, status=403)
    site.post("/people/invite", {"email": email("seed")}, status=403)
    site.post("/people/remove", {"email": email("manager")}, status=403)


def test_a_member_is_added_invited_once_and_removed(site: Site) -> None:
    new = "new+one@media.example"
    assert "The person was added." in words(
        site.post("/people", {"email": new.upper(), "permissions": ["VIEW_OVERLAP"]}, "manager")
    )
    page = site.post("/people/invite", {"email": new}, "manager", status=200)
    found = re.search(r"<textarea[^>]*>(http://[^<]+/console/invitation/[\w-]{43})<", page)
    assert found and found[1].startswith(site.url)
    assert found[1] not in site.get("/people", "manager")
    assert "invited until" in words(site.get("/people", "manager"))
    password = {"password": "a good long sentence", "again": "a good long sentence"}
    origin = {"Sec-Fetch-Site": "same-origin"}
    assert httpx.post(found[1], data=password, headers=origin).status_code == 303
    assert "can already sign in" in words(site.post("/people/invite", {"email": new}, "manager", status=409))
    assert new in words(site.get(f"/people/remove?email={new.replace('+', '%2B')}", "manager"))
    assert "The person was removed." in words(site.post("/people/remove", {"email": new}, "manager"))
    assert new not in site.get("/people", "manager")


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        pytest.param({"email": "", "permissions": "VIEW_OVERLAP"}, "Give an e-mail address.", id="no address"),
        pytest.param({"email": "y@media.example"}, "Choose at least one permission.", id="no permission"),
        pytest.param(
            {"email": "y@elsewhere.example", "permissions": "VIEW_OVERLAP"}, "different organisations", id="other"
        ),
        pytest.param(
            {"email": "y@media.example", "permissions": "EXPORT_AUDIENCE"}, "only permissions that", id="more"
        ),
        pytest.param({"email": SCRIPT, "permissions": "VIEW_OVERLAP"}, "address", id="script"),
    ],
)
def test_a_wrong_member_is_explained_and_keeps_its_fields(
    site: Site, fields: dict[str, str], problem: str
) -> None:
    page = site.post("/people", fields, "manager", status=400)
    assert problem in words(page)
    assert f'value="{html.escape(fields["email"])}"' in page
    assert SCRIPT not in page


def test_colleagues_of_other_rooms_are_suggested(site: Site) -> None:
    other = MediaWorld.open(
        site.world.installation,
        {"manager": (P.MANAGE_USERS, P.PROVIDE_BASE_AUDIENCE), "seed": (P.PROVIDE_SEED_AUDIENCE,), "owner": ()},
    )
    other.installation.catalog.rooms.change_users(
        other.room, other.ids["manager"], lambda each: each.with_user("colleague@media.example", ())
    )
    assert "Colleagues from other rooms: colleague@media.example." in words(site.get("/people", "manager"))


def test_a_participant_can_leave_and_the_owner_sees_it(site: Site) -> None:
    room = MediaWorld.open(site.world.installation, {"leaver": (P.VIEW_OVERLAP,)} | GROUPS)
    path = f"/console/rooms/{room.room}/people/leave"
    site.world.installation.catalog.users.create_user(email("leaver"))
    assert "Leave this room?" in words(site.browser(email("leaver")).get(path).text)
    assert site.browser(email("leaver")).post(path).status_code == 303
    assert "left" in words(site.get("/people", "owner", room=room.room))
    site.get("/people", "leaver", status=403, room=room.room)
    assert "cannot decline" in words(site.browser(email("owner")).post(path).text)


# activity


def test_entries_of_others_name_no_person_and_no_audience(site: Site) -> None:
    site.world.call("seed", "create_audience", room_id=site.world.room, name="Mine", definition=RULE)
    name = site.world.installation.audit_name(email("seed"))
    own, other = site.get("/activity", "seed"), site.get("/activity", "agency")
    assert "created an audience" in words(own)
    assert "created an audience" in words(other)
    assert name not in own + other
    assert "seed (you) created an audience" in words(own)
    assert "(you) created an audience" not in words(other)
    assert "created an audience" not in words(site.get("/activity?mine=1", "agency"))


def test_only_audiences_that_can_be_opened_have_links(site: Site) -> None:
    kept, gone = (
        site.world.call("seed", "create_audience", room_id=site.world.room, name=name, definition=RULE)["id"]
        for name in ("Kept", "Gone")
    )
    site.world.call("seed", "delete_audiences", room_id=site.world.room, audience_ids=[gone])
    page = site.get("/activity", "seed")
    links = set(re.findall(r'href="/console/rooms/[\w-]+(/audiences/[\w-]+)"', page))
    assert f"/audiences/{kept}" in links
    assert gone in page
    for link in links:
        site.get(link, "seed")


def test_views_are_left_out_unless_asked_for(site: Site) -> None:
    site.get("/people", "seed")
    assert "looked at the room" not in words(site.get("/activity"))
    assert "looked at the room" in words(site.get("/activity?views=1"))


def test_rejections_are_shown(site: Site) -> None:
    site.post("/people/remove", {"email": email("manager")}, status=403)
    assert "removed a person rejected" in words(site.get("/activity"))


@pytest.mark.parametrize("before", ["-1", "x", "9" * 15, "9" * 40, "1e3", "²"])
def test_any_part_of_the_log_is_answered(site: Site, before: str) -> None:
    assert "Activity" in words(site.get(f"/activity?before={before}"))


def test_the_log_is_read_from_its_end_in_parts(site: Site) -> None:
    own = MediaWorld.open(site.world.installation, {"base": (P.PROVIDE_BASE_AUDIENCE,), "owner": ()})
    audit, audited = (
        site.world.installation.audit,
        {"way": "media", "operation": "create_audience", "outcome": "ok"},
    )
    for _ in range(450):
        audit.write_soon({"room": own.room, **audited})
    audit.flush()
    address, n_shown = "/activity", []
    while address:
        shown = site.get(address, "owner", room=own.room)
        n_shown.append(shown.count("created an audience"))
        found = re.search(r'href="[^"]*(/activity\?before=\d+)"', shown)
        address = found[1] if found else ""
    assert sum(n_shown) == 450
    assert max(n_shown) == 200


def test_the_log_is_sent_as_csv(site: Site) -> None:
    answer = site.browser(email("agency")).get(f"/console/rooms/{site.world.room}/activity/activity.csv")
    assert answer.headers["content-type"].startswith("text/csv")
    assert answer.text.startswith("at,action,participant,outcome,audience,user\r\n")
    assert "create_room" in answer.text


@pytest.mark.parametrize(
    "path", ["/privacy", "/people", "/people/leave", "/people/remove", "/activity", "/activity/activity.csv"]
)
def test_other_rooms_do_not_exist(site: Site, path: str) -> None:
    other = MediaWorld.open(site.world.installation, {"base": (P.PROVIDE_BASE_AUDIENCE,), "owner": ()})
    theirs = site.get(path, "manager", status=403, room=other.room)
    assert words(theirs) == words(site.get(path, "manager", status=403, room="no-such-room"))
