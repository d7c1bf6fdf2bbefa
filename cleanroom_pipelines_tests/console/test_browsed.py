"""The console in Chromium, on the demo's data, with a real `cleanroom serve` and its worker.

Contract: an operator creates a room of three parties and invites them; they go from the invitation to a
delivered list by what is visible, in at most 15 clicks and filled fields each besides choosing files (operator:
20), with scripts and without. On every page and state, axe-core finds nothing against WCAG 2.2 AA; the page has
at most 100 kB, fits 360 px, loads nothing from elsewhere, says nothing on the browser's console, and the Tab key
reaches each control visibly. CLEANROOM_TEST_PICTURES names a folder for screenshots.
"""

import os
import sys
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from cleanroom_pipelines.catalog import LinkPurpose, NewPasskey
from cleanroom_pipelines.console.app import ROUTES
from cleanroom_pipelines.runs.installation import Installation, Settings
from cleanroom_pipelines.runs.sign_in import issue_link, start_session
from cleanroom_pipelines_tests.browsing import chromium, see
from cleanroom_pipelines_tests.server import server as aws

from ..server.server import serving
from . import test_numbers as numbers
from .inspecting import Inspector, install_axe
from .sites import Served
from .visiting import PARTIES, Visitor, invitation_of, write_demo_files

pytestmark = pytest.mark.browser

MOST_STEPS, MOST_OF_OPERATOR, FEWEST_USERS = 15, 20, 100
PASSWORD = "a long password of a person"
OPERATOR, ANALYST, NEWCOMER = "operator@host.example", "analyst@shop.example", "new@agency.example"
# Downloads are no pages, and single sign-on leads to its provider.
NO_PAGES = (".csv", ".jsonl", "{name}", "/rows", "/rows/{side}", "/sign-in/sso", "/sign-in/sso/return")
PAGES_SHOWN = [each for each in ROUTES if each.method == "GET" and not each.path.endswith(NO_PAGES)]
WAYS = {"with scripts": True, "without scripts": False}


@dataclass(frozen=True)
class Journeys:
    """What the parties did, by way and party, and the installation on which they did it.

    Attributes:
        installation: Its server is ended.
        rooms: The room of each way.
        steps: Each click and each filled field.
    """

    installation: Installation
    rooms: dict[str, str]
    steps: dict[str, dict[str, list[str]]]


@pytest.fixture(scope="module")
def journeys(tmp_path_factory: pytest.TempPathFactory) -> Journeys:
    folder = tmp_path_factory.mktemp("browsed")
    write_demo_files(folder)
    installation = Installation(Settings(home=folder / "home"))
    installation.catalog.users.create_user(OPERATOR)
    installation.catalog.users.set_role(OPERATOR, is_operator=True, account_id=None)
    rooms, steps = dict[str, str](), dict[str, dict[str, list[str]]]()
    with serving(folder / "home") as server:
        for way, scripts in WAYS.items():
            # people and a budget of its own for each way; the pages are inspected as the people of the second
            emails = {party: f"1-{email}" if scripts else email for party, email in PARTIES.items()}
            for party, email in emails.items():
                installation.catalog.users.create_user(email)
                installation.catalog.pairs.set_organization(f"{party} {way}", email=email)
            steps[way] = travel(installation, server.url, folder, f"Groceries {way}", emails, scripts=scripts)
            [rooms[way]] = (e.id for e in installation.catalog.rooms.data_rooms() if e.name == f"Groceries {way}")
    return Journeys(installation, rooms, steps)


@pytest.mark.parametrize("way", WAYS)
def test_three_parties_go_from_an_invitation_to_a_list(journeys: Journeys, way: str) -> None:
    counts = {party: len(steps) for party, steps in journeys.steps[way].items()}
    sys.stdout.write(f"{way}: {counts}\n")
    assert counts.keys() == {*PARTIES, "operator"}
    assert counts.pop("operator") <= MOST_OF_OPERATOR, journeys.steps[way]["operator"]
    assert max(counts.values()) <= MOST_STEPS, journeys.steps[way]


def found_room(operator: Visitor, name: str, emails: Mapping[str, str]) -> dict[str, str]:
    """Let an operator create a room of the three parties and invite them; return their links."""
    operator.click("New data room")
    operator.fill("Name", name)
    operator.click("Remarketing")
    operator.click("Exclusion")
    operator.click("host")
    operator.fill("The publisher's e-mail addresses", emails["publisher"])
    operator.fill("The advertiser's e-mail addresses", emails["advertiser"])
    operator.fill("E-mail addresses of participant 1", emails["agency"])
    operator.click("Preview")
    operator.click("Create the data room")
    links = {}
    for party in emails:  # the room's page lists them in this order, those who were invited last
        operator.click("Invite")
        links[party] = operator.copy("Link")
        operator.click("I have copied it")
    return links


def travel(
    installation: Installation, url: str, files: Path, name: str, emails: Mapping[str, str], *, scripts: bool
) -> dict[str, list[str]]:
    """Let the three parties go from an invitation to a list in a new room of this name, and return all steps."""
    with ExitStack() as stack:
        operator = Visitor(stack.enter_context(chromium(scripts=scripts)))
        operator.browser.get(f"{url}/console/link/{issue_link(installation, OPERATOR, LinkPurpose.SIGN_IN)[0]}")
        operator.click("Sign in")
        links = found_room(operator, name, emails)
        visitors = {party: Visitor(stack.enter_context(chromium(scripts=scripts))) for party in PARTIES}
        publisher, advertiser, agency = visitors.values()
        for party, visitor in visitors.items():
            visitor.browser.get(links[party])
            visitor.fill("New password", PASSWORD)
            visitor.fill("The same password again", PASSWORD)
            visitor.click("Set the password and sign in")

        publisher.click("Provide your users' data")
        publisher.choose("Users and their ids for matching", files / "matching.csv")
        publisher.choose("Interests", files / "segments.csv")
        publisher.choose("Age and gender", files / "demographics.csv")
        publisher.click("Check the files")
        publisher.click("Validate the files")
        publisher.click("Provide to the room")

        advertiser.click("Provide your customer list")
        advertiser.choose("Customer list", files / "customers.csv")
        advertiser.click("Check the files")
        advertiser.click("Provide to the room")
        advertiser.click("Audiences")
        advertiser.click("Lookalike")
        advertiser.click("publisher")
        advertiser.click("agency")
        advertiser.click("Create")
        advertiser.click("Deliver as a list")
        assert len(advertiser.download().splitlines()) > FEWEST_USERS

        publisher.click("Overlap")
        publisher.ask("Ask for the overlap", "Matched customers")
        for visitor in (publisher, agency):
            if visitor is agency:
                visitor.click(name)
                visitor.click("Insights")
                visitor.ask("Ask for insights", "Download as CSV")
            visitor.click("Audiences")
            visitor.click("Like redeemed")
            visitor.click("Deliver as a list")
            assert len(visitor.download().splitlines()) > FEWEST_USERS
        visitors["operator"] = operator
        return {party: visitor.steps for party, visitor in visitors.items()}


def test_every_page_satisfies_what_holds_on_all(journeys: Journeys, tmp_path: Path) -> None:
    installation, pictures = journeys.installation, os.environ.get("CLEANROOM_TEST_PICTURES")
    room, arn = journeys.rooms["without scripts"], prepare(installation)
    axe = install_axe(tmp_path)
    with serving(installation.home.root, "--no-worker") as server, chromium() as browser:
        states = Served(installation, server.url)
        inspector = Inspector(browser, server.url, axe, Path(pictures) if pictures else None)
        console, found = f"{server.url}/console", list[str]()

        def be(email: str) -> None:
            browser.get(f"{console}/sign-in")
            browser.add_cookie({"name": "cleanroom", "value": start_session(installation, email)})

        def show(name: str, path: str, do: Callable[[], Any] | None = None) -> None:
            browser.get(f"{console}{path}")
            if do is not None:
                do()
            found.extend(inspector.faults(name))

        show("signed out", "/sign-in")
        show("wrong password", "/sign-in", lambda: send(browser, "/sign-in", email=ANALYST, password="wrong"))
        address = invitation_of(installation, server.url, "agency").removeprefix(console)
        show("invitation", address)
        show("short password", address, lambda: send(browser, "/invitation/", password="short", again="short"))
        show("one-time link", f"/link/{issue_link(installation, ANALYST, LinkPurpose.SIGN_IN)[0]}")
        show("invalid link", "/link/none")
        show("missing page", "/none")

        for email in (*PARTIES.values(), OPERATOR, ANALYST, NEWCOMER):
            be(email)
            found += inspector.walk(f"{console}/")
            assert "/console/sign-in" not in browser.current_url

        publisher, advertiser, agency = PARTIES.values()
        be(publisher)
        show("incomplete", "/rooms/new", lambda: send(browser, "/rooms/new"))
        filled = {"name": "Next", "publisher-emails": publisher, "advertiser-emails": advertiser}
        show("preview", "/rooms/new", lambda: send(browser, "/rooms/new", **filled))
        show("no file", f"/rooms/{room}/data", lambda: send(browser, "/data"))
        show("no proposal", f"/rooms/{room}/privacy", lambda: send(browser, "/privacy", units=""))
        be(advertiser)
        show("nameless rule", f"/rooms/{room}/audiences/new/rule_based", lambda: press(browser, "create"))
        show("condition", f"/rooms/{room}/audiences/new/rule_based", lambda: press(browser, "add:0:segments"))
        show("reach", f"/rooms/{room}/audiences/new/lookalike", lambda: send(browser, "/lookalike", reach="99"))
        show("draft", f"/rooms/{room}/audiences/new/rule_based", lambda: press(browser, "size"))
        show("building", f"/rooms/{room}/audiences/new/remarketing", lambda: send(browser, "/remarketing"))
        file = ("customers.csv", b"email,audience\nana@shop.example,loyal\n")
        data = f"/console/rooms/{room}/data"
        confirm = states.submit(advertiser, data, {"side": "seeds"}, files={"seed_audiences-1": file})
        show("confirm", confirm.removeprefix("/console"))
        show("remove person", f"/rooms/{room}/people/remove?email={quote(advertiser)}")
        made = installation.catalog.sign_in.add_passkey(advertiser, NewPasskey("Laptop", "1" * 22, b"key", 0))
        show("remove passkey", f"/account/passkeys/{made.id}/remove")
        be(agency)
        show("running list", list_of(browser, console, room), lambda: send(browser, "/deliver"))
        be(OPERATOR)
        for page in ("users", "accounts", "collaborations"):
            show("error", f"/operator/{page}", lambda page=page: send(browser, f"/{page}"))  # type: ignore[misc]

        place = numbers.Place.open(states)  # with answers that are too few to tell
        overlap, insights = (
            place.post(path, group, price="22", **about)
            for path, group, about in (
                ("/overlap", "seed", {}),
                ("/insights", "agency", {"audience_type": "loyal"}),
            )
        )
        be(numbers.email("seed"))
        show("too few", overlap.removeprefix("/console"))
        be(numbers.email("agency"))
        show("too few", insights.removeprefix("/console"))
        show("print", insights.removeprefix("/console") + "/print")
        place.rebuild(wait=True)
        waiting = place.post("/insights", "agency", price="22", audience_type="loyal")
        show("running", waiting.removeprefix("/console"))
        be(ANALYST)
        show("job", f"/lookalikes/jobs/{quote(arn, safe='')}", lambda: send(browser, "/jobs/"))
    assert found == []
    assert sorted({each.path for each in PAGES_SHOWN} - inspector.seen) == []


def prepare(installation: Installation) -> str:
    """Give the installation an operator and an AWS account with a job, and return the job's ARN."""
    users = installation.catalog.users
    parties = aws.settle(installation)
    for email in (ANALYST, NEWCOMER, *map(numbers.email, numbers.GROUPS)):
        users.create_user(email)
    users.set_role(ANALYST, is_operator=False, account_id=parties.advertiser.account_id)
    room = aws.Room(installation, parties, aws.make_gateway(installation, is_strict=True))
    shared = room.shared()
    arn = room.job(shared)
    room.finish()
    return arn


def list_of(browser: Any, console: str, room: str) -> str:
    """Return the path of the first audience that the page of a room's audiences shows."""
    browser.get(f"{console}/rooms/{room}/audiences")
    link = browser.find_element("css selector", f"#audiences a[href*='/rooms/{room}/audiences/']")
    return str(link.get_attribute("href")).removeprefix(console)


def send(browser: Any, action: str, **fields: str) -> None:
    """Fill fields of the form whose address contains a text, and send it whatever the browser thinks of them."""
    [form, *_] = browser.find_elements("css selector", f"main form[action*='{action}'][method=post]")
    for name, text in fields.items():
        field = form.find_element("name", name)
        field.clear()
        field.send_keys(text)
    browser.execute_script("arguments[0].noValidate = true", form)
    buttons = form.find_elements("css selector", "button[value='create'], button:not([formaction])")
    replace_page(browser, buttons[0])


def press(browser: Any, value: str) -> None:
    """Press a button of a form with several."""
    replace_page(browser, browser.find_element("css selector", f"button[value='{value}']"))


def replace_page(browser: Any, button: Any) -> None:
    """Click a button, and wait for the page that follows."""
    before = browser.find_element("tag name", "main")
    button.click()
    see(browser, lambda: browser.find_element("tag name", "main") != before, 60)
