"""Contract: the table of calls and required permissions, cell by cell over HTTP: each call, by a group with the
required permission, by one with all other permissions, by a non-participant, and without a token.

Without permission, the response is the same as for a room that does not exist, nothing is created, and the call is
audited. The server runs without a worker: the tests check only whether calls are permitted.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import httpx
import pytest

from cleanroom_pipelines.catalog import Kind
from cleanroom_pipelines.media.protocol import PREFIX
from cleanroom_pipelines.runs.credentials import issue_token
from cleanroom_pipelines.runs.installation import Installation, Settings
from cleanroom_pipelines.terms import Permission
from cleanroom_pipelines_tests.server.server import Server

from ..cases import assert_each
from ..storage.auditing import lines_of

P = Permission
EVERYBODY = ("base@x.example", "seed@x.example", "none@x.example", "stranger@x.example")
TYPES = ["ENABLE_INSIGHTS", "ENABLE_LOOKALIKE_AUDIENCES", "ENABLE_REMARKETING", "ENABLE_RULED_BASED_AUDIENCES"]
RULE = {"kind": "rule_based", "source": {"kind": "base"}, "filters": None, "combinators": []}


@dataclass
class Place:
    """A server with a room and its users."""

    http: httpx.Client
    tokens: dict[str, str]
    installation: Installation

    def headers(self, email: str | None) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.tokens[email]}"} if email else {}

    def call(self, email: str | None, method: str, params: Mapping[str, Any]) -> httpx.Response:
        return self.http.post(f"{PREFIX}/{method}", json=dict(params), headers=self.headers(email))

    def result(self, email: str, method: str, params: Mapping[str, Any]) -> Any:
        answer = self.call(email, method, params)
        assert answer.status_code == 200, answer.text
        return answer.json()["result"]

    def room(self, permissions: Mapping[str, list[Permission]]) -> str:
        """Create a room whose groups have these permissions."""
        params = {
            "name": "Matrix",
            "participants": [
                {"emails": [email], "role": "somebody", "permissions": [each.value for each in held]}
                for email, held in permissions.items()
            ],
            "collaboration_types": TYPES,
            "matching_ids": ["EMAIL"],
            "hide_absolute_values": False,
        }
        return str(self.result(next(iter(permissions)), "create_room", params)["id"])


@pytest.fixture(scope="module")
def place(shared_server: Server) -> Iterator[Place]:
    installation = Installation(Settings(home=shared_server.home))
    for email in EVERYBODY:
        installation.catalog.users.create_user(email)
    tokens = {email: issue_token(installation, email)[0] for email in EVERYBODY}
    with httpx.Client(base_url=shared_server.url, timeout=300, trust_env=False) as http:
        yield Place(http, tokens, installation)
    installation.audit.close()


def job(kind: str, **more: Any) -> dict[str, Any]:
    return {"method": "start_job", "kind": kind, **more}


SEED = {"kind": "seed", "audience_type": "loyal"}
# each call with the permission it needs; None: being a participant is enough
CELLS: dict[str, tuple[dict[str, Any], Permission | None]] = {
    "overlap statistics": (job("overlap_statistics"), P.VIEW_OVERLAP),
    "insights": (job("insights"), P.VIEW_INSIGHTS),
    "data attributes": (job("data_attributes"), P.CREATE_CUSTOM_AUDIENCE),
    "new figures of the base": ({"method": "renew_base_figures"}, P.CREATE_CUSTOM_AUDIENCE),
    "size of a seed audience": (job("audience_size", audience=SEED), P.CREATE_CUSTOM_AUDIENCE),
    "size of a draft": (job("audience_size", definition=RULE), P.CREATE_CUSTOM_AUDIENCE),
    "user list": (job("user_list", audience=SEED), P.EXPORT_AUDIENCE),
    "base reports": (job("base_reports"), P.PROVIDE_BASE_AUDIENCE),
    "seeds report": (job("seeds_report"), P.PROVIDE_SEED_AUDIENCE),
    "deprovision base": ({"method": "deprovision_base"}, P.PROVIDE_BASE_AUDIENCE),
    "deprovision seeds": ({"method": "deprovision_seeds"}, P.PROVIDE_SEED_AUDIENCE),
    "create": (
        {"method": "create_audience", "name": "a", "definition": RULE, "shared_with": []},
        P.CREATE_CUSTOM_AUDIENCE,
    ),
    "share": ({"method": "share_audiences", "audience_ids": [], "participant_ids": []}, P.CREATE_CUSTOM_AUDIENCE),
    "delete": ({"method": "delete_audiences", "audience_ids": []}, P.CREATE_CUSTOM_AUDIENCE),
    "audiences": (job("audiences"), None),
    "room": ({"method": "get_room"}, None),
    "provisioning": ({"method": "get_provisioning"}, None),
    "audit log": ({"method": "get_audit_log"}, None),
}
# what is not let through for another reason than permission: nothing is provisioned
NOT_YET = {
    "overlap statistics",
    "insights",
    "data attributes",
    "new figures of the base",
    "base reports",
    "seeds report",
}
_PROVIDING = (P.PROVIDE_BASE_AUDIENCE, P.PROVIDE_SEED_AUDIENCE)


def everything_but(needed: Permission | None) -> list[Permission]:
    # one group cannot provide both sides, so it provides none
    return [each for each in P if each is not needed and each not in _PROVIDING]


def ask(place: Place, email: str | None, room: str, name: str) -> httpx.Response:
    params = {**CELLS[name][0], "room_id": room}
    return place.call(email, params.pop("method"), params)


def test_the_required_permission_is_sufficient(place: Place) -> None:
    def is_allowed(name: str) -> None:
        needed = CELLS[name][1]
        room = place.room({"base@x.example": [needed] if needed else [], "none@x.example": []})
        answer = ask(place, "base@x.example", room, name)
        if name in NOT_YET:
            assert (answer.status_code, answer.json()["error"]["type"]) == (409, "NotProvisionedError")
        else:
            assert answer.status_code == 200, answer.text

    assert_each(is_allowed, sorted(CELLS))


def test_all_other_permissions_are_insufficient(place: Place) -> None:
    def is_denied(name: str) -> None:
        room = place.room({"base@x.example": everything_but(CELLS[name][1])})
        before = counts(place)
        answer = ask(place, "base@x.example", room, name)
        nowhere = ask(place, "base@x.example", "spring-000000000000", name)
        assert answer.status_code == nowhere.status_code == 403
        assert answer.json() == nowhere.json(), "nobody learns whether the room exists"
        assert counts(place) == before

    assert_each(is_denied, sorted(name for name, (_, needed) in CELLS.items() if needed))


def test_non_participants_are_rejected(place: Place) -> None:
    room = place.room({"base@x.example": list({*P} - {P.PROVIDE_SEED_AUDIENCE})})

    def is_denied(name: str) -> None:
        answer = ask(place, "stranger@x.example", room, name)
        assert answer.status_code == 403
        assert answer.json() == ask(place, "stranger@x.example", "spring-000000000000", name).json()

    assert_each(is_denied, sorted(CELLS))


def test_calls_without_a_token_are_rejected(place: Place) -> None:
    room = place.room({"base@x.example": []})

    def is_denied(name: str) -> None:
        answer = ask(place, None, room, name)
        assert (answer.status_code, answer.json()["error"]["type"]) == (401, "UnauthorizedError")

    assert_each(is_denied, sorted(CELLS))


def test_those_who_declined_are_rejected(place: Place) -> None:
    everything = [each for each in P if each is not P.PROVIDE_SEED_AUDIENCE]
    room = place.room({"none@x.example": [], "base@x.example": everything})
    assert place.call("base@x.example", "decline_room", {"room_id": room}).status_code == 200
    assert room not in {each["id"] for each in place.result("base@x.example", "list_rooms", {})["rooms"]}
    told = place.result("none@x.example", "get_room", {"room_id": room})["participants"]
    assert [each.get("declined") for each in told] == [None, ["base@x.example"]]

    def is_denied(name: str) -> None:
        answer = ask(place, "base@x.example", room, name)
        assert answer.status_code == 403
        assert answer.json() == ask(place, "base@x.example", "spring-000000000000", name).json()

    assert_each(is_denied, sorted(CELLS))
    assert place.call("none@x.example", "decline_room", {"room_id": room}).status_code == 409, "it is its owner"


def counts(place: Place) -> list[int]:
    return [
        len(place.installation.catalog.resources.ids(kind)) for kind in (Kind.CUSTOM_AUDIENCE, Kind.AUDIENCE_LIST)
    ]


def test_another_groups_audience_looks_nonexistent(place: Place) -> None:
    both = [P.CREATE_CUSTOM_AUDIENCE, P.EXPORT_AUDIENCE]
    room = place.room({"base@x.example": both, "seed@x.example": both})
    made = place.result(
        "base@x.example", "create_audience", {"room_id": room, "name": "a", "definition": RULE, "shared_with": []}
    )
    for kind in ("audience_size", "user_list", "lookalike_statistics"):
        answers = [
            place.call(
                "seed@x.example",
                "start_job",
                {"room_id": room, "kind": kind, "audience": {"kind": "custom", "id": key}},
            )
            for key in (made["id"], "a-000000000000")
        ]
        assert [answer.status_code for answer in answers] == [403, 403]
        assert answers[0].json() == answers[1].json()
    seen = place.result("seed@x.example", "start_job", {"room_id": room, "kind": "audiences"})
    assert seen["kind"] == "audiences"


def test_each_group_has_its_own_names(place: Place) -> None:
    both = [P.CREATE_CUSTOM_AUDIENCE]
    room = place.room({"base@x.example": both, "seed@x.example": both})
    params = {"room_id": room, "name": "a", "definition": RULE, "shared_with": []}
    place.result("base@x.example", "create_audience", params)
    place.result("seed@x.example", "create_audience", params)
    again = place.call("base@x.example", "create_audience", params)
    assert (again.status_code, again.json()["error"]["type"]) == (409, "ConflictError")


def test_a_room_keeps_the_rules(place: Place) -> None:
    def create(permissions: Mapping[str, list[Permission]], types: list[str]) -> int:
        params = {
            "name": "r",
            "participants": [
                {"emails": [email], "role": "", "permissions": [each.value for each in held]}
                for email, held in permissions.items()
            ],
            "collaboration_types": types,
            "matching_ids": ["EMAIL"],
        }
        return place.call("base@x.example", "create_room", params).status_code

    me = "base@x.example"
    assert create({me: []}, []) == 400, "a room for nothing"
    assert create({me: [P.VIEW_INSIGHTS]}, ["ENABLE_LOOKALIKE_AUDIENCES"]) == 400
    assert create({me: [P.EXPORT_AUDIENCE]}, ["ENABLE_INSIGHTS"]) == 400
    assert create({me: [P.PROVIDE_BASE_AUDIENCE, P.PROVIDE_SEED_AUDIENCE]}, TYPES) == 400
    assert create({me: [P.PROVIDE_SEED_AUDIENCE], "seed@x.example": [P.PROVIDE_SEED_AUDIENCE]}, TYPES) == 400
    assert create({"seed@x.example": []}, TYPES) == 400, "the creator is in the room"
    assert create({me: [P.PROVIDE_BASE_AUDIENCE]}, ["ENABLE_OVERLAP"]) == 200, "a room for overlap alone"


def test_rejections_are_audited_without_names(place: Place) -> None:
    room = place.room({"base@x.example": []})
    assert ask(place, "base@x.example", room, "overlap statistics").status_code == 403
    entries = [entry for entry in place.installation.audit.entries() if entry.get("room") == room]
    assert entries[-1]["outcome"] == "refused"
    written = b"".join(lines_of(place.installation.home.audit))
    for email in EVERYBODY:
        assert email.encode() not in written
    for token in place.tokens.values():
        assert token.encode() not in written


def test_an_invalid_call_is_rejected(place: Place) -> None:
    def is_rejected(body: bytes) -> None:
        answer = place.http.post(f"{PREFIX}/get_room", content=body, headers=place.headers("base@x.example"))
        assert (answer.status_code, answer.json()["error"]["type"]) == (400, "InvalidRequestError")

    assert_each(is_rejected, [b"[]", b"{", b"null", b'{"room_id": 5}', b'{"room_id": ["x"]}'])


def test_a_revoked_token_is_rejected(place: Place) -> None:
    text, kept = issue_token(place.installation, "none@x.example")
    headers = {"Authorization": f"Bearer {text}"}
    assert place.http.post(f"{PREFIX}/whoami", json={}, headers=headers).status_code == 200
    place.installation.catalog.users.revoke_token(kept.id)
    assert place.http.post(f"{PREFIX}/whoami", json={}, headers=headers).status_code == 401


def test_another_users_upload_cannot_be_used(place: Place) -> None:
    headers = place.headers("seed@x.example")
    sent = place.http.put(f"{PREFIX}/uploads?name=x.csv", content=b"a@b.cc,loyal\n", headers=headers)
    manifest = sent.json()["result"]["manifest_hash"]
    room = place.room({"base@x.example": [P.PROVIDE_SEED_AUDIENCE], "seed@x.example": []})
    datasets = [{"manifest_hash": manifest, "matching_id": None}]
    answer = place.call("base@x.example", "provision_seeds", {"room_id": room, "datasets": datasets})
    assert answer.status_code == 403
