"""An installation full of things worth attacking, behind a real `cleanroom serve`, and those who attack it.

Lives here: the room with something of each kind, accounts, an operator, filled paths and forms of all routes, and
sending with the check that a rejected request changed nothing and is in the audit log.
Add here what a new route needs in its path or its form: the attacks are derived from the table of routes.
Keep out: the attacks themselves.
"""

import html
import json
import re
import sqlite3
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx

from cleanroom_pipelines.catalog import Kind, NewPasskey
from cleanroom_pipelines.console.page import Route
from cleanroom_pipelines.console.pages import ROUTES
from cleanroom_pipelines.runs.sign_in import start_session
from cleanroom_pipelines.terms import Permission
from cleanroom_pipelines_tests.media.groups import EVERYTHING, MediaWorld, custom, email, rule
from cleanroom_pipelines_tests.server.server import Room as AwsRoom

from ..storage.auditing import lines_of

P = Permission
OWN = {"Sec-Fetch-Site": "same-origin"}
PLANTED = "kanarienvogel"  # in all names of the victims
GROUPS = {
    "base": (P.PROVIDE_BASE_AUDIENCE, P.VIEW_INSIGHTS),
    "seed": (
        P.PROVIDE_SEED_AUDIENCE,
        P.VIEW_OVERLAP,
        P.VIEW_INSIGHTS,
        P.CREATE_CUSTOM_AUDIENCE,
        P.EXPORT_AUDIENCE,
        P.MANAGE_USERS,
    ),
    "agency": (),
    "removed": (P.VIEW_OVERLAP, P.VIEW_INSIGHTS, P.CREATE_CUSTOM_AUDIENCE, P.EXPORT_AUDIENCE),
    "disabled": (P.VIEW_OVERLAP, P.VIEW_INSIGHTS, P.CREATE_CUSTOM_AUDIENCE, P.EXPORT_AUDIENCE),
    "owner": (),
}
STRANGER, PERSON, OTHER_PERSON = "stranger@else.example", "person@shop.example", "other@account.example"
OPERATOR = "operator@host.example"
NAMES = ("base", "seed", "agency", "removed", "disabled", "owner", STRANGER, PERSON, OTHER_PERSON, OPERATOR)


@dataclass
class Target:
    """The installation under attack.

    Args:
        aws: Its accounts and jobs of the lookalike API.
        world: The room of the victims.
        strangers: The id of the room of a user who may do everything there.
        url: Where the server listens.
        ids: Values of the routes' parameters, of the victims.
    """

    aws: AwsRoom
    world: MediaWorld
    strangers: str
    url: str
    ids: dict[str, str]
    n_read: int = 0
    browsers: dict[str, httpx.Client] = field(default_factory=dict)

    def browser(self, who: str) -> httpx.Client:
        """Return the browser of a user, signed in when first asked for; an empty name is anonymous."""
        if who not in self.browsers:
            cookies = {"cleanroom": start_session(self.world.installation, email(who))} if who else {}
            self.browsers[who] = httpx.Client(base_url=self.url, cookies=cookies, headers=OWN, timeout=120)
        return self.browsers[who]

    def send(self, who: str, route: Route, *, room: str = "", **more: Any) -> httpx.Response:
        """Send a request for a route as a user, about the victims' objects; `room` replaces the room's id."""
        if route.method == "POST" and "data" not in more:
            more |= {"data": self.form(route)}
        if route.files and "files" not in more:
            more |= {"files": {"seed": ("seed.jsonl", b'{"user_id": "u1"}\n')}}
        more.setdefault("params", self.query(route))
        answer = self.browser(who).request(route.method, self.address(route, room), **more)
        if "set-cookie" in answer.headers:
            del self.browsers[who]  # signed in again when it is needed
        return answer

    def address(self, route: Route, room: str = "") -> str:
        """Return the address of a route about the victims' objects."""

        def value(found: re.Match[str]) -> str:
            name = found[1]
            if name == "proposal_id" and route.path.endswith("/reject"):
                name = "other_proposal"
            if name == "name" and "/samples/" in route.path:
                return "seeds:EMAIL"
            if name == "job_id":  # a job of the kind that the page is about
                name = next(each for each in ("overlap", "insights", "drafts", "deliveries", "lists")
                            if f"/{each}/" in route.path)  # fmt: skip
            return quote(room if room and name == "room_id" else self.ids[name], safe="")

        return "/console" + re.sub(r"{(\w+)}", value, route.path)

    def query(self, route: Route) -> dict[str, str]:
        """Return the query that a page needs."""
        queries = {
            "/data/confirm": {"seed_audiences-1": self.ids["upload"]},
            "/people/remove": {"email": email("seed")},
        }
        return next((query for end, query in queries.items() if route.path.endswith(end)), {})

    def form(self, route: Route) -> dict[str, Any]:
        """Return fields that make a route's form valid."""
        fields: dict[str, Any] = {
            "name": "another name",
            "price": "1000",
            "priced": "1000",
            "units": "5",
            "kind": "refill",
            "organization": "seed.example",
            "email": email("colleague"),
            "permissions": ["VIEW_OVERLAP"],
            "participants": [self.world.ids["agency"]],
            "destination": "plain",
            "audience_type": "loyal",
            "source": "base",
            "do": "create",
            "side": "seeds",
            "dependents": "0",
            "action": "enable",
            "sure": "yes",
            "password": "a long enough sentence",
            "again": "a long enough sentence",
            "token": "x" * 40,
            "type": "PERCENTAGE",
            "value": "20",
            "bucket": "advertiser-seeds",
            "configuredAudienceModelArn": self.ids["configured"],
            "seed_audiences-1": self.ids["upload"],
            "seed_audiences-1-kind": "EMAIL",
            "account_id": self.ids["account_id"],
            "members": [self.ids["account_id"]],
            "collaboration_id": self.ids["collaboration"],
            "purposes": ["ENABLE_INSIGHTS"],
            "matching_ids": ["EMAIL"],
            "mine": "publisher",
            "publisher-emails": email("colleague"),
            "publisher-role": "planted",
            "advertiser-emails": "crm@else.example",
        }
        return fields

    def before(self) -> list[str]:
        """Return the state before an attack, from which on audit entries count."""
        self.new_entries()
        return self.state()

    def state(self) -> list[str]:
        """Return everything that a request could change, but for the time at which sessions were used."""
        home = self.world.installation.home
        with closing(sqlite3.connect(home.root / "catalog.db")) as database:
            rows = [line for line in database.iterdump() if not line.startswith(_MOVING)]
            rows += [f"upload {id_}" for (id_,) in database.execute(_HELD)]
            sessions = database.execute("SELECT digest, email FROM sessions ORDER BY digest").fetchall()
        return [*rows, str(sessions), *_files(home.seeds), *_files(home.accounts)]

    def new_entries(self) -> list[dict[str, Any]]:
        """Return the audit entries since the last call."""
        found = lines_of(self.world.installation.home.audit, self.n_read)
        self.n_read += len(found)
        return [json.loads(line) for line in found if line.startswith(b"{")]

    def assert_refused(
        self, answer: httpx.Response, who: str, before: list[str], *statuses: int, names: bool = False
    ) -> dict[str, Any]:
        """Check that a request was rejected, discloses nothing, changed nothing, and is in the audit log.

        With `names`, the sender may see the names of the room.
        """
        assert answer.status_code in (statuses or (403, 404)), (answer.status_code, words(answer.text)[:300])
        assert names or PLANTED not in answer.text
        assert "set-cookie" not in answer.headers
        assert answer.headers["cache-control"] == "no-store"
        assert self.state() == before
        rejected = [each for each in self.new_entries() if each["outcome"] == "refused"]
        assert rejected, "the rejection is not in the audit log"
        assert {each["way"] for each in rejected} == {"console"}
        name = self.world.installation.audit_name(email(who)) if who else None
        assert {each.get("user") for each in rejected} == {name}
        return rejected[-1]


def fill(aws: AwsRoom, url: str, name: str = PLANTED) -> Target:
    """Fill an installation whose server listens at an address; `name` is in all names."""
    installation = aws.installation
    users = installation.catalog.users
    for who in NAMES:
        if who not in ("base", "seed"):
            users.create_user(email(who))
    users.set_role(OPERATOR, is_operator=True, account_id=None)
    users.set_role(PERSON, is_operator=False, account_id=aws.parties.advertiser.account_id)
    users.set_role(OTHER_PERSON, is_operator=False, account_id=aws.parties.stranger.account_id)
    world = MediaWorld.open(installation, GROUPS, name=name)
    all_but_seeds = [each.value for each in Permission if each is not P.PROVIDE_SEED_AUDIENCE]
    participants = [
        {"emails": [STRANGER], "role": "all", "permissions": all_but_seeds},
        {"emails": ["seed@else.example"], "role": "seed", "permissions": [P.PROVIDE_SEED_AUDIENCE.value]},
    ]
    terms = {"collaboration_types": list(EVERYTHING), "matching_ids": ["EMAIL"], "activation": []}
    named = {"name": "Else", "participants": participants, "hide_absolute_values": False}
    strangers = world.call(STRANGER, "create_room", **named, **terms)["id"]
    users.create_user(email("colleague"))
    organization = installation.catalog.pairs.organization_of_user(email("seed"))
    installation.catalog.pairs.set_organization(organization, email=email("colleague"))
    accounts = [aws.parties.advertiser.account_id, aws.parties.publisher.account_id]
    collaboration = installation.catalog.parties.create_collaboration(name, accounts)
    shared = aws.shared()
    job = aws.job(shared)
    aws.finish()
    world.provision()
    world.finish(Kind.DATA_ROOM, world.room, sides(name))
    audience = world.audience("seed", rule({"kind": "base"}), name=name)
    world.finish(Kind.CUSTOM_AUDIENCE, audience)
    lists = world.ask("seed", "user_list", audience=custom(audience), options={})
    deliver(world, {"part-00000.csv": f"{PLANTED}\n".encode()})
    passkeys = [
        installation.catalog.sign_in.add_passkey(email("seed"), NewPasskey(name, f"{number}" * 22, b"key", 0))
        for number in range(2)
    ]
    ids = {
        "passkey_id": passkeys[0].id,
        "room_id": world.room,
        "audience_id": audience,
        "overlap": world.ask("seed", "overlap_statistics")["id"],
        "insights": world.ask("seed", "insights")["id"],
        "drafts": world.ask("seed", "audience_size", definition=rule({"kind": "base"}))["id"],
        "deliveries": lists["id"],
        "lists": lists["id"],
        "lab_id": world.lab("base"),
        "proposal_id": world.call("base", "propose", room_id=world.room, kind="refill", units=7)["id"],
        "other_proposal": world.call("base", "propose", room_id=world.room, kind="period")["id"],
        "collaboration": collaboration.id,
        "upload": world.upload("seed", b"a@b.example,loyal\n"),
        "side": "seeds",
        "name": "part-00000.csv",
        "kind": "rule_based",
        "secret": "A" * 43,
        "email": PERSON,
        "account_id": aws.parties.advertiser.account_id,
        "arn": job,
        "configured": shared,
    }
    return Target(aws, world, strangers, url, ids)


def sides(name: str) -> dict[str, Any]:
    """Return what a room shows of the data of both sides."""
    types = ("loyal", name)
    attributes = [{"name": each, "values": [name, "x"]} for each in ("age", "gender", "segments")]
    return {
        "base_audience": {},
        "seed_audiences": {
            "digests": {each: each[:1] for each in types},
            "seeds": {"by_type": {each: {"n_unique_ids": 500} for each in types}},
        },
        "data_attributes": {"attributes": {"attributes": attributes}},
    }


def deliver(world: MediaWorld, files: Mapping[str, bytes]) -> None:
    """Finish the room's pending list with these files, as a run would."""
    newest = next(each for each in world.installation.catalog.work.ready() if each.kind is Kind.AUDIENCE_LIST)
    parts = [
        {"name": name, "n_users": content.count(b"\n"), "n_bytes": len(content), "sha256": "ab" * 32}
        for name, content in files.items()
    ]
    artifacts = {"audience_user_list": {"list": {"files": parts, "manifest": {}, "reveals": []}}}
    world.finish(Kind.AUDIENCE_LIST, newest.resource_id, artifacts, files)


def words(page: str) -> str:
    """Return the text of a page."""
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", page)).split())


def name_of(route: Route) -> str:
    """Return how tests name a route."""
    return f"{route.method} {route.path}"


def rightful(route: Route) -> str:
    """Return a user who may use a route."""
    if route.is_public:
        return ""
    if route.path.startswith("/lookalikes"):
        return PERSON
    if route.path.startswith("/operator"):
        return OPERATOR
    return "base" if "/checks/" in route.path else "seed"


def is_last(route: Route) -> int:
    """Return the place of a route among those that are used: what ends something comes last."""
    ends = ("/delete", "/remove", "/take-back/{side}", "/leave", "/sign-out", "/sign-out-everywhere")
    return next((place for place, end in enumerate(ends, 1) if route.path.endswith(end)), 0)


PRIVATE = tuple(each for each in ROUTES if not each.is_public)


# what reads and rejections change too: a deleted upload leaves its row
_MOVING = ('INSERT INTO "sessions"', 'INSERT INTO "uploads"', "INSERT INTO \"tombstones\" VALUES('upload'")
_HELD = "SELECT id FROM uploads WHERE location IS NOT NULL ORDER BY id"


def _files(folder: Path) -> list[str]:
    return sorted(f"{path} {path.stat().st_size}" for path in folder.rglob("*") if path.is_file())
