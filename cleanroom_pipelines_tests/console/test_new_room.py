"""Creating a data room in the console, over HTTP against a real `cleanroom serve`.

Contract: any user creates the room that the API would create, by one form; its preview says what each side may
do, and creates nothing; each wrong field has a sentence next to it, and all that was typed is kept; a form that is
sent twice creates one room; the room's page says how people without an account get in, and who has an account is
shown to operators only.
"""

import html
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pytest

from cleanroom_pipelines.catalog.room_specs import MAX_PARTICIPANTS
from cleanroom_pipelines.console.repeats import MARK
from cleanroom_pipelines.runs.installation import Installation, Settings
from cleanroom_pipelines.server.media.service import MediaService
from cleanroom_pipelines.terms import CollaborationType, MatchingId, Permission
from cleanroom_pipelines_tests.server.server import serving

from ..storage.auditing import lines_of
from .sites import Served, words

P = Permission
PUBLISHER, ADVERTISER, AGENCY = "data@publisher.example", "crm@advertiser.example", "plans@agency.example"
OPERATOR, NEW = "operator@host.example", "new@publisher.example"
Fields = Mapping[str, str | Sequence[str]]
VALID: Fields = {
    "name": "Groceries",
    "purposes": ["ENABLE_INSIGHTS", "ENABLE_LOOKALIKE_AUDIENCES"],
    "matching_ids": ["EMAIL", "HASHED_EMAIL"],
    "mine": "publisher",
    "publisher-emails": f"{NEW}\n",
    "publisher-role": "Shop Ltd",
    "publisher-permissions": ["VIEW_OVERLAP", "EXPORT_AUDIENCE"],
    "advertiser-emails": ADVERTISER,
    "advertiser-role": "advertiser",
    "advertiser-permissions": ["VIEW_OVERLAP", "CREATE_CUSTOM_AUDIENCE"],
    "other1-emails": f"{AGENCY.upper()}, second@agency.example",
    "other1-role": "agency",
    "other1-permissions": ["VIEW_INSIGHTS"],
}


@dataclass
class Site(Served):
    """A served installation, whose rooms are made by forms."""

    def send(self, do: str, status: int = 200, email: str = PUBLISHER, **changes: Any) -> str:
        """Send the form with a button pressed; return the page, or the address of the room's page."""
        fields = {name: value for name, value in (VALID | changes).items() if value is not None}
        return self.submit(email, "/rooms/new", fields | {"do": do}, status)

    def create(self, email: str = PUBLISHER, **changes: Any) -> dict[str, Any]:
        """Create a room, and return it as its creator sees it."""
        address = self.send("create", 303, email, **changes)
        found = re.search(r"/rooms/([\w-]+)\?", address)
        assert found, address
        return self.call(email, "get_room", room_id=found[1])

    def call(self, email: str, method: str, **params: Any) -> Any:
        return MediaService(self.installation).call(email, method, params)

    def rooms(self, email: str = PUBLISHER) -> list[dict[str, Any]]:
        return list(self.call(email, "list_rooms")["rooms"])


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    home = tmp_path_factory.mktemp("new") / "home"
    installation = Installation(Settings(home=home))
    for email in (PUBLISHER, ADVERTISER, AGENCY, OPERATOR, "lone@shop.example"):
        installation.catalog.users.create_user(email)
    installation.catalog.users.set_role(OPERATOR, is_operator=True, account_id=None)
    with serving(home, "--no-worker", environment={"CLEANROOM_REQUESTS_PER_SECOND": "1000000"}) as server:
        yield Site(installation, server.url)


def test_the_empty_form_needs_only_a_name_a_side_and_addresses(site: Site) -> None:
    page = site.page(PUBLISHER, "/rooms/new")
    ticked = re.findall(r'<input [^>]*name="([\w-]+)" value="(\w+)" type="checkbox" checked>', page)
    fields: dict[str, Any] = {name: [value for key, value in ticked if key == name] for name, _ in ticked}
    fields |= dict(re.findall(r'<input id="[\w-]+-role" name="([\w-]+)" type="text" value="([^"]*)"', page))
    fields |= {"name": "Usual", "mine": "publisher", "advertiser-emails": ADVERTISER, "other1-emails": AGENCY}
    address = site.submit(PUBLISHER, "/rooms/new", fields | {"do": "create"})
    room = site.call(PUBLISHER, "get_room", room_id=address.split("/")[-1].split("?")[0])
    assert [(each["role"], each["emails"]) for each in room["participants"]] == [
        ("publisher", [PUBLISHER]), ("advertiser", [ADVERTISER]), ("agency", [AGENCY])]  # fmt: skip
    publisher, advertiser, agency = ({*each["permissions"]} for each in room["participants"])
    assert publisher == {"PROVIDE_BASE_AUDIENCE", "VIEW_OVERLAP", "EXPORT_AUDIENCE", "MANAGE_USERS"}
    assert advertiser == {each.value for each in P} - {"PROVIDE_BASE_AUDIENCE", "MODEL_QUALITY"}
    assert agency == {"VIEW_INSIGHTS", "EXPORT_AUDIENCE"}
    revealing = {"ENABLE_REMARKETING", "ENABLE_EXCLUSION_TARGETING"}
    assert {*room["collaboration_types"]} == {each.value for each in CollaborationType} - revealing
    assert (room["matching_ids"], room["hide_absolute_values"], room["activation"]) == (["EMAIL"], False, [])


def test_every_option_of_the_api_has_its_field(site: Site) -> None:
    options = {
        "purposes": [each.value for each in CollaborationType],
        "matching_ids": [each.value for each in MatchingId],
        "hide_absolute_values": "yes",
        "activation": ["google", "meta", "tiktok", "liveramp"],
    }
    room = site.create(**options, name="All")
    assert room["collaboration_types"] == options["purposes"]
    assert room["matching_ids"] == options["matching_ids"]
    assert room["hide_absolute_values"] is True
    assert room["activation"] == options["activation"]
    assert [(each["role"], each["emails"], each["permissions"]) for each in room["participants"]] == [
        ("Shop Ltd", [NEW, PUBLISHER], ["PROVIDE_BASE_AUDIENCE", "VIEW_OVERLAP", "EXPORT_AUDIENCE"]),
        ("advertiser", [ADVERTISER], ["PROVIDE_SEED_AUDIENCE", "VIEW_OVERLAP", "CREATE_CUSTOM_AUDIENCE"]),
        ("agency", [AGENCY, "second@agency.example"], ["VIEW_INSIGHTS"]),
    ]


def test_the_preview_says_what_each_side_may_do_and_creates_nothing(site: Site) -> None:
    before = len(site.rooms())
    page = site.send("preview")
    shown = words(page)
    assert "Create this data room?" in shown
    assert f"Shop Ltd (you) {NEW} {PUBLISHER} It may provide the users, and take them back at any time" in shown
    assert "create audiences (lookalikes), see their sizes, and share them" in shown
    assert "not allowed Remarketing lists" in shown
    assert "counts below 40 are not shown" in shown
    assert "100 units together" in shown
    assert len(site.rooms()) == before
    every = [each.value for each in P if not each.name.startswith("PROVIDE")]
    assert "see the model's quality" in words(site.send("preview", **{"other1-permissions": every})), "not offered"
    other = {"purposes": ["ENABLE_REMARKETING"], "other1-permissions": None}
    assert "not allowed Remarketing lists" not in words(site.send("preview", **other))


def test_what_the_preview_sends_creates_the_room_or_returns_to_the_form(site: Site) -> None:
    fields = hidden_in(site.send("preview", name="From the preview"))
    again = site.submit(PUBLISHER, "/rooms/new", fields | {"do": "edit"}, 200)
    assert 'value="From the preview"' in again
    assert f">\n{NEW}</textarea>" in again
    assert ticked_in(again) >= {("other1-permissions", "VIEW_INSIGHTS"), ("mine", "publisher")}
    assert ("advertiser-permissions", "EXPORT_AUDIENCE") not in ticked_in(again), "what was not ticked stays so"
    site.submit(PUBLISHER, "/rooms/new", fields | {"do": "create"})
    assert [each["name"] for each in site.rooms()].count("From the preview") == 1


def test_the_preview_escapes_what_was_typed(site: Site) -> None:
    script = "\"'><script>alert(1)</script>"
    page = site.send("preview", name=script, **{"publisher-role": script, "extra": script})
    assert "<script>alert" not in page
    assert hidden_in(page)["name"] == hidden_in(page)["publisher-role"] == [script]


WRONG = {
    "no name": ("name", {"name": ""}, "Give a name of 1 to 63 characters"),
    "long name": ("name", {"name": "x" * 64}, "Give a name of 1 to 63 characters"),
    "no purpose": ("purposes", {"purposes": None}, "Choose at least one purpose."),
    "no ids": ("matching_ids", {"matching_ids": None}, "Choose at least one kind of id."),
    "no side": ("mine", {"mine": None}, "Choose your side, or add your address to a participant."),
    "no advertiser": ("advertiser-emails", {"advertiser-emails": " "}, "Give at least one e-mail address."),
    "no address": ("publisher-emails", {"publisher-emails": "nobody"}, "An e-mail address is invalid."),
    "two sides": (
        "other1-emails",
        {"other1-emails": ADVERTISER},
        "An e-mail address is listed twice.",
    ),
    "many": ("other1-emails", {"other1-emails": " ".join(f"{n}@x.example" for n in range(101))}, "1 to 100"),
    "role": ("other1-role", {"other1-role": "x" * 256}, "Give at most 255 characters"),
    "insights": ("other1-permissions", {"purposes": ["ENABLE_LOOKALIKE_AUDIENCES"]}, "purposes do not allow"),
    "audiences": ("advertiser-permissions", {"purposes": ["ENABLE_INSIGHTS"]}, "purposes do not allow"),
}


@pytest.mark.parametrize("do", ["preview", "create"])
@pytest.mark.parametrize(("field", "changes", "sentence"), WRONG.values(), ids=WRONG)
def test_a_wrong_field_has_a_sentence_and_all_is_kept(
    site: Site, field: str, changes: dict[str, Any], sentence: str, do: str
) -> None:
    before, rejected = len(site.rooms()), rejections(site)
    page = site.send(do, 400, **changes)
    assert sentence in problems_in(page)[field]
    assert "The data room is not complete. Correct the marked fields below." in words(page)
    expected = {k: v for k, v in (VALID | changes).items() if isinstance(v, list)}
    assert ticked_in(page) == {(k, each) for k, v in expected.items() for each in v} | (
        set() if changes.get("mine", "") is None else {("mine", "publisher")}
    )
    assert f">\n{AGENCY.upper()}, second@agency.example</textarea>" in page or "other1-emails" in changes
    assert len(site.rooms()) == before
    assert rejections(site) == [*rejected, "page.send_room"]


def test_all_wrong_fields_are_marked_at_once(site: Site) -> None:
    page = site.send("create", 400, name="", matching_ids=None, **{"advertiser-emails": ""})
    assert problems_in(page).keys() == {"name", "matching_ids", "advertiser-emails"}


@pytest.mark.parametrize(
    "changes",
    [
        {"purposes": ["ENABLE_EVERYTHING"]},
        {"matching_ids": ["PASSPORT"]},
        {"activation": ["elsewhere"]},
        {"other1-permissions": ["OWN_EVERYTHING"]},
        {"other1-permissions": ["PROVIDE_BASE_AUDIENCE"]},
    ],
)
def test_what_the_form_does_not_offer_is_rejected(site: Site, changes: dict[str, Any]) -> None:
    before, rejected = len(site.rooms()), rejections(site)
    site.send("create", 400, **changes)
    assert len(site.rooms()) == before
    assert len(rejections(site)) == len(rejected) + 1


def test_a_creator_on_neither_side_only_looks_on(site: Site) -> None:
    room = site.create(OPERATOR, mine="host", name="For others")
    assert (room["participants"][-1]["emails"], room["participants"][-1]["permissions"]) == ([OPERATOR], [])
    own = site.create(AGENCY, mine="host", name="By the agency")
    assert [AGENCY in each["emails"] for each in own["participants"]] == [False, False, True], (
        "typed by the agency"
    )
    typed = site.create(ADVERTISER, mine=None, name="By the advertiser")
    assert ADVERTISER in typed["participants"][1]["emails"]
    both = site.create(ADVERTISER, mine="advertiser", name="Typed too", **{"advertiser-emails": ADVERTISER})
    assert both["participants"][1]["emails"] == [ADVERTISER]


def test_more_participants_can_be_added_up_to_the_limit(site: Site) -> None:
    page = site.send("add", purposes=None)
    assert ("other2-emails" in page, "other3-emails" in page) == (True, False)
    assert not problems_in(page), "an unfinished form is not wrong yet"
    assert ("purposes", "ENABLE_INSIGHTS") not in ticked_in(page)
    most = MAX_PARTICIPANTS - 3
    others = {f"other{n}-emails": f"{n}@agency.example" for n in range(1, most + 1)}
    assert "Add another participant" not in words(site.send("add", **others))
    assert len(site.create(name="Full", **others)["participants"]) == MAX_PARTICIPANTS - 1


def test_a_double_click_creates_one_room(site: Site) -> None:
    page = site.send("preview", name="Once")
    fields = {**hidden_in(page), MARK: mark_in(page), "do": "create"}
    first, second = (site.submit(PUBLISHER, "/rooms/new", fields) for _ in range(2))
    assert first == second
    assert [each["name"] for each in site.rooms()].count("Once") == 1


def test_only_its_participants_see_the_room(site: Site) -> None:
    room = site.create(name="Hidden")["id"]
    assert "Hidden" in site.page(ADVERTISER, f"/rooms/{room}")
    assert "Hidden" not in site.page("lone@shop.example", f"/rooms/{room}", 403)
    assert "Hidden" not in site.page("lone@shop.example", "/")


def test_the_quota_of_rooms_holds(tmp_path_factory: pytest.TempPathFactory) -> None:
    home = tmp_path_factory.mktemp("quota") / "home"
    installation = Installation(Settings(home=home, max_rooms=1))
    installation.catalog.users.create_user(PUBLISHER)
    with serving(home, "--no-worker", environment={"CLEANROOM_MAX_ROOMS": "1"}) as server:
        site = Site(installation, server.url)
        site.create()
        page = site.send("create", 403, name="Second")
        assert "You have reached the quota of 1 data rooms" in words(page)
        assert 'value="Second"' in page
        assert len(site.rooms()) == 1


def test_those_without_rooms_and_operators_find_the_form(site: Site) -> None:
    assert "/console/rooms/new" in site.page("lone@shop.example", "/")
    assert "/console/rooms/new" in site.page(OPERATOR, "/operator/users")


def test_an_operator_invites_people_from_the_rooms_page(site: Site) -> None:
    room = site.create(OPERATOR, mine="host", name="Invited", **{"publisher-emails": "one@publisher.example"})[
        "id"
    ]
    page = site.page(OPERATOR, f"/rooms/{room}")
    assert f"{ADVERTISER} cannot sign in yet Invite" in words(page)
    assert f"{OPERATOR} cannot sign in yet" not in words(page), "who sees the page is signed in"
    fields = {"email": "one@publisher.example", "room_id": room}
    shown = site.submit(OPERATOR, "/operator/users", fields, 200)
    assert re.search(r"/console/invitation/[\w-]{43}<", shown)
    assert f'href="/console/rooms/{room}"' in shown, "the way back"
    assert "one@publisher.example invited Invite again" in words(site.page(OPERATOR, f"/rooms/{room}"))


def test_others_are_told_whom_to_ask_and_not_who_has_an_account(site: Site) -> None:
    room = site.create(name="Asked")["id"]
    page = words(site.page(PUBLISHER, f"/rooms/{room}"))
    assert "Ask the operator of this clean room to invite them" in page
    assert "cannot sign in yet" not in page
    assert "Who can sign in?" not in words(site.page(ADVERTISER, f"/rooms/{room}")), (
        "it is not the advertiser's room"
    )
    managed = site.create(name="Managed", **{"publisher-permissions": ["MANAGE_USERS"]})["id"]
    assert "Invite people of your own organisation" in site.page(PUBLISHER, f"/rooms/{managed}")


def hidden_in(page: str) -> dict[str, Any]:
    """Return the hidden fields of a page, but for the mark."""
    fields: dict[str, list[str]] = {}
    for name, value in re.findall(r'<input type="hidden" name="([^"]+)" value="([^"]*)">', page):
        if name != MARK:
            fields.setdefault(name, []).append(html.unescape(value))
    return dict(fields)


def mark_in(page: str) -> str:
    return re.findall(rf'name="{MARK}" value="([\w-]+)"', page)[-1]


def ticked_in(page: str) -> set[tuple[str, str]]:
    return set(re.findall(r'<input [^>]*name="([\w-]+)" value="(\w+)" type="(?:checkbox|radio)" checked>', page))


def problems_in(page: str) -> dict[str, str]:
    """Return the sentences next to fields, by the name of the field that follows."""
    found = re.findall(r'<p class="wrong"[^>]*>(.*?)</p>.*?name="([\w-]+)"', page, re.DOTALL)
    return {name: html.unescape(text) for text, name in found}


def rejections(site: Site) -> list[str]:
    """Return the operations that the console rejected, from the audit log."""
    found = [json.loads(each) for each in lines_of(site.installation.home.audit) if each.startswith(b"{")]
    return [each["operation"] for each in found if (each["way"], each["outcome"]) == ("console", "refused")]
