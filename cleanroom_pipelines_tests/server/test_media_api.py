"""The data-room (Media) API through the gateway: tokens, limits, bodies, uploads and downloads.

Contract: media/protocol.py. A token is valid until it expires, is revoked or its user is disabled; without one, a
request reveals nothing and its body is not stored; malformed requests get our own errors; an upload is complete or
leaves nothing; every request is audited.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cleanroom_pipelines.catalog import Kind
from cleanroom_pipelines.media.protocol import PREFIX
from cleanroom_pipelines.runs.credentials import issue_token
from cleanroom_pipelines.runs.installation import Installation, Settings
from cleanroom_pipelines.server.gateway import Gateway
from cleanroom_pipelines.server.media_api import MAX_BODY_BYTES
from cleanroom_pipelines.server.starting import make_gateway
from cleanroom_pipelines_tests.aws.requests import RawAnswer, RawRequest

from ..cases import assert_each
from ..conftest import StandingClock
from ..media.groups import GROUPS, SEED, MediaWorld, email
from .server import ask

USER = email("export")


class Door:
    """A gateway with a room behind it, and a user's token."""

    def __init__(self, installation: Installation) -> None:
        self.installation = installation
        self.gateway: Gateway = make_gateway(installation)
        installation.catalog.users.create_user(USER)
        self.token, self.kept = issue_token(installation, USER)
        self.world = MediaWorld.open(installation, {"export": GROUPS["export"]})

    def send(self, method: str, path: str, body: bytes = b"", *, query: str = "", **headers: str) -> RawAnswer:
        given = {"authorization": f"Bearer {self.token}"} | headers
        return ask(self.gateway, RawRequest(method, f"{PREFIX}{path}", query, tuple(given.items()), body))

    def call(self, method: str, **params: Any) -> Any:
        answer = self.send("POST", f"/{method}", json.dumps(params).encode())
        assert answer.status == 200, answer.body
        return json.loads(answer.body)["result"]

    def last_line(self) -> dict[str, Any]:
        return self.world.lines()[-1]


@pytest.fixture
def door(installation: Installation) -> Door:
    return Door(installation)


def assert_rejected(answer: RawAnswer, status: int, kind: str) -> dict[str, Any]:
    assert answer.status == status, answer.body
    error = json.loads(answer.body)["error"]
    assert error.keys() == {"type", "message", "remedy", "attributes"}
    assert error["type"] == kind
    return error  # type: ignore[no-any-return]


def test_a_token_identifies_the_caller(door: Door) -> None:
    assert door.call("whoami") == {"email": USER}
    assert [each["id"] for each in door.call("list_rooms")["rooms"]] == [door.world.room]


CLOSED: dict[str, Callable[[Door, StandingClock], object]] = {
    "revoked": lambda door, clock: door.installation.catalog.users.revoke_token(door.kept.id),
    "another": lambda door, clock: setattr(door, "token", "crt_" + "A" * 43),
    "cut short": lambda door, clock: setattr(door, "token", door.token[:-1]),
    "empty": lambda door, clock: setattr(door, "token", ""),
    "disabled": lambda door, clock: door.installation.catalog.users.set_user_disabled(USER, True),
    "expired": lambda door, clock: clock.turn(days=90),
}


def test_all_invalid_tokens_are_rejected_alike(door: Door, clock: StandingClock) -> None:
    told: set[str] = set()

    def is_rejected(_: str, close: Callable[[Door, StandingClock], object]) -> None:
        door.installation.catalog.users.set_user_disabled(USER, False)
        door.token, door.kept = issue_token(door.installation, USER)
        door.call("whoami")
        close(door, clock)
        for answer in (
            door.send("POST", "/whoami", b"{}"),
            door.send("POST", "/no_such_method", b"no json"),
            door.send("PUT", "/uploads", b"u,a@b.example\n"),
            door.send("GET", "/jobs/some-job/files/part.csv"),
        ):
            told.add(json.dumps(assert_rejected(answer, 401, "UnauthorizedError")))
        line = door.last_line()
        assert (line["operation"], line["outcome"], line["error"]) == (
            "authorize",
            "refused",
            "UnauthorizedError",
        )
        assert "user" not in line
        assert door.installation.catalog.rooms.uploads() == ()

    assert_each(is_rejected, CLOSED.items())
    assert len(told) == 1


def test_a_token_must_be_a_bearer_token(door: Door) -> None:
    def is_rejected(header: str) -> None:
        answer = door.send("POST", "/whoami", b"{}", authorization=header.format(door.token))
        assert_rejected(answer, 401, "UnauthorizedError")

    assert_each(is_rejected, ["", "Basic {}", "{}", "Bearer"])
    assert door.send("POST", "/whoami", b"{}", authorization=f"bearer {door.token}").status == 200


def test_a_token_is_stored_nowhere(door: Door) -> None:
    door.call("whoami")
    door.world.lines()
    files = [path for path in door.installation.home.root.rglob("*") if path.is_file()]
    assert files
    assert not any(door.token.encode() in path.read_bytes() for path in files)


BODIES = {
    "no json": b"CANARY",
    "a list": b'["CANARY"]',
    "cut short": b'{"room_id": "CANARY',
    "not utf-8": b'{"room_id": "CANARY\xff"}',
    "deep": b'{"room_id": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "an endless number": b'{"room_id": ' + b"9" * 10_000 + b"}",
    "half a character": b'{"room_id": "CANARY\\ud800"}',
}


def test_a_malformed_body_is_rejected_and_audited(door: Door) -> None:
    def is_rejected(_: str, body: bytes) -> None:
        before = len(door.world.lines())
        answer = door.send("POST", "/get_room", body)
        assert_rejected(answer, 400, "InvalidRequestError")
        assert b"CANARY" not in answer.body
        (line,) = door.world.lines()[before:]
        assert line["outcome"] == "refused"
        assert line["user"], "it is known who sent it"

    assert_each(is_rejected, BODIES.items())


def test_a_too_large_body_is_rejected(door: Door) -> None:
    body = json.dumps({"room_id": "x" * MAX_BODY_BYTES}).encode()
    answer = door.send("POST", "/get_room", body)
    assert_rejected(answer, 400, "InvalidRequestError")
    assert answer.headers["connection"] == "close"


OTHER_PATHS = [
    ("POST", "/no_such_method"),
    ("POST", "/"),
    ("POST", "/whoami/"),
    ("POST", "/../whoami"),
    ("GET", "/whoami"),
    ("GET", "/jobs/one"),
    ("GET", "/jobs/one/files/two/three"),
    ("DELETE", "/whoami"),
    ("PUT", "/whoami"),
    ("PUT", "/uploads/one"),
]


def test_an_unknown_path_is_rejected(door: Door) -> None:
    def is_not_found(method: str, path: str) -> None:
        before = len(door.world.lines())
        assert_rejected(door.send(method, path, b"{}"), 404, "NotFoundError")
        (line,) = door.world.lines()[before:]
        assert (line["operation"], line["outcome"]) == ("unknown", "refused")

    assert_each(is_not_found, OTHER_PATHS)


def test_too_many_requests_are_throttled(tmp_path: Path, clock: StandingClock) -> None:
    settings = Settings(tmp_path / "home", seed_floor=1, requests_per_second=0.001)
    door = Door(Installation(settings, clock=clock))
    door.call("whoami")
    assert_rejected(door.send("POST", "/whoami", b"{}"), 429, "TooManyRequestsError")
    assert door.last_line()["error"] == "TooManyRequestsError"


# files


def test_an_upload_is_encrypted_and_belongs_to_its_sender(door: Door) -> None:
    content = b"u1,canary@b.example\n" * 1000
    answer = door.send("PUT", "/uploads", content, query="name=my%20file.csv&matching_id=EMAIL")
    told = json.loads(answer.body)["result"]
    upload = door.installation.catalog.rooms.upload(told["manifest_hash"])
    assert (told["name"], told["n_bytes"]) == ("my file.csv", len(content))
    assert (upload.owner_email, upload.name, upload.matching_id) == (USER, "my file.csv", "EMAIL")
    files = [path for path in door.installation.home.root.rglob("*") if path.is_file()]
    assert not any(b"canary@b.example" in path.read_bytes() for path in files)
    assert door.last_line()["n_bytes"] == len(content)


def test_a_rejected_upload_leaves_nothing(door: Door) -> None:
    def leaves_nothing(query: str) -> None:
        answer = door.send("PUT", "/uploads", b"u,a@b.example\n", query=query)
        assert_rejected(answer, 400, "InvalidRequestError")
        assert b"CANARY" not in answer.body
        assert door.installation.uploads.locations() == frozenset()
        assert door.last_line()["outcome"] == "refused"

    assert_each(leaves_nothing, ["name=" + "x" * 300, "matching_id=CANARY"])


def test_a_too_large_upload_leaves_nothing(tmp_path: Path) -> None:
    door = Door(Installation(Settings(tmp_path / "home", seed_floor=1, max_upload_bytes=1000)))
    assert door.send("PUT", "/uploads", b"x" * 1000).status == 200
    assert_rejected(door.send("PUT", "/uploads", b"x" * 1001), 413, "UploadTooLargeError")
    assert len(door.installation.uploads.locations()) == len(door.installation.catalog.rooms.uploads()) == 1
    assert not list(Path(door.installation.home.scratch_root).rglob("upload-*"))


def listed(door: Door, content: bytes) -> str:
    """A user list that was delivered; its job's id."""
    job = door.call("start_job", room_id=door.world.room, kind="user_list", audience=SEED)
    catalog = door.installation.catalog
    door.world.finish(Kind.DATA_ROOM, door.world.room)
    (audience,) = catalog.rooms.custom_audiences(door.world.room, hidden=True)
    door.world.finish(Kind.CUSTOM_AUDIENCE, audience.id)
    (made,) = catalog.resources.list(Kind.AUDIENCE_LIST, parent_id=audience.id).items
    document = {"list": {"files": [{"name": "part.csv"}], "manifest": {}, "reveals": []}}
    files = {"part.csv": content, "other.csv": b"not told of"}
    door.world.finish(Kind.AUDIENCE_LIST, made.id, {"audience_user_list": document}, files)
    return str(job["id"])


def test_a_jobs_file_is_downloaded_by_its_user_only(door: Door) -> None:
    content = b"user\n" * 500_000
    job = listed(door, content)
    answer = door.send("GET", f"/jobs/{job}/files/part.csv")
    assert (answer.status, answer.body) == (200, content)
    assert answer.headers["content-length"] == str(len(content))
    line = door.last_line()
    assert (line["operation"], line["outcome"], line["room"]) == ("download", "ok", door.world.room)
    door.installation.catalog.users.create_user("stranger@nowhere.example")
    door.token, _ = issue_token(door.installation, "stranger@nowhere.example")
    assert_rejected(door.send("GET", f"/jobs/{job}/files/part.csv"), 403, "PermissionDeniedError")


def test_only_listed_files_can_be_downloaded(door: Door) -> None:
    job = listed(door, b"user\n")

    def is_not_given(name: str) -> None:
        told = assert_rejected(door.send("GET", f"/jobs/{job}/files/{name}"), 403, "PermissionDeniedError")
        assert told == assert_rejected(
            door.send("GET", "/jobs/no-such-job/files/part.csv"), 403, "PermissionDeniedError"
        )
        line = door.last_line()
        assert (line["operation"], line["outcome"]) == ("download", "refused")

    assert_each(
        is_not_given,
        ["other.csv", "..%2Flist.json", "%2e%2e%2flist.json", "..", "%00", "", "%2Fetc%2Fpasswd", "part.csv%00"],
    )
