"""Limits on accounts and requests.

Contract: each account has a steady rate with bursts of two seconds, independently of others; requests beyond it
change nothing, affect no other account, and are audited. Bodies are limited in size, depth and shape, and a
rejected one is not quoted; unknown members are ignored and counted.
"""

import gzip
import json
import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from botocore.exceptions import ClientError

from cleanroom_pipelines.aws.wire import MAX_BODY_BYTES
from cleanroom_pipelines.catalog import Kind
from cleanroom_pipelines.server.requests import RateLimit
from cleanroom_pipelines_tests.aws.requests import RawRequest, build

from ..cases import assert_each
from .attacking import assert_rejected, entry_of, everything, in_audit
from .server import Room, dataset_parameters

CANARY = "kanarienvogel"


class Hand:
    """A clock that is turned by hand."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


# rates


def n_allowed(limit: RateLimit, account: str, n_tries: int) -> int:
    return sum(limit.allows(account) for _ in range(n_tries))


def test_a_burst_of_two_seconds_then_a_steady_rate() -> None:
    def allows_bursts(per_second: int) -> None:
        clock = Hand()
        limit = RateLimit(per_second, clock)
        assert n_allowed(limit, "a", 1000) == 2 * per_second
        clock.now += 1
        assert n_allowed(limit, "a", 1000) == per_second
        clock.now += 3600
        assert n_allowed(limit, "a", 1000) == 2 * per_second, "nothing is saved up beyond the burst"

    assert_each(allows_bursts, [1, 2, 50])


def test_a_rate_below_one_per_second_still_allows_requests() -> None:
    clock = Hand()
    limit = RateLimit(0.1, clock)
    assert n_allowed(limit, "a", 10) == 1
    clock.now += 5
    assert n_allowed(limit, "a", 10) == 0
    clock.now += 5
    assert n_allowed(limit, "a", 10) == 1


def test_accounts_are_limited_independently() -> None:
    limit = RateLimit(5, Hand())
    assert n_allowed(limit, "a", 100) == 10
    assert n_allowed(limit, "b", 100) == 10


def test_many_threads_get_no_more_than_one() -> None:
    limit, allowed = RateLimit(50, Hand()), []

    def ask() -> None:
        allowed.append(n_allowed(limit, "a", 200))

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(allowed) == 100


@pytest.fixture(scope="module")
def room(tmp_path_factory: pytest.TempPathFactory) -> Room:
    return Room.open(tmp_path_factory.mktemp("limits") / "home")


def test_throttled_requests_have_no_effect_and_are_audited(room: Room) -> None:
    door = replace(room.gateway.api.door, rate=RateLimit(2, Hand()))
    gateway = replace(
        room.gateway,
        api=replace(room.gateway.api, door=door),
        s3=replace(room.gateway.s3, door=door),
    )
    narrow = replace(room, gateway=gateway)
    me, other = room.parties.publisher, room.parties.advertiser
    looks = [narrow.ask(me, build("ListAudienceModels", {})).status for _ in range(4)]
    assert looks == [200] * 4
    before = everything(room.installation)
    refused = [
        narrow.ask(me, build("CreateTrainingDataset", dataset_parameters(me))),
        narrow.ask(me, RawRequest("GET", "/some/object"), service="s3"),
        narrow.ask(me, RawRequest("PUT", "/some/x", "", (("Content-Length", "1"),), b"x"), service="s3"),
    ]
    room.installation.audit.flush()
    for answer, status, error in zip(
        refused, (429, 503, 503), ("ThrottlingException", *["SlowDown"] * 2), strict=True
    ):
        assert_rejected(room.installation, answer, status, error)
        assert entry_of(room.installation, answer)["account"] == me.account_id
    assert everything(room.installation) == before
    assert narrow.ask(other, build("ListAudienceModels", {})).status == 200


# bodies


def with_body(room: Room, body: bytes, *headers: tuple[str, str]) -> RawRequest:
    usual = (("Content-Type", "application/json"), *headers)
    return RawRequest("POST", "/training-dataset", "", usual, body)


def members(room: Room, **more: Any) -> dict[str, Any]:
    return dataset_parameters(room.parties.publisher, "bodies") | more


def without_end(text: str) -> str:
    return text[: -len("}")]


BODIES: dict[str, Callable[[Room], bytes]] = {
    "nothing": lambda _: b"",
    "blanks": lambda _: b"   ",
    "no JSON": lambda _: CANARY.encode(),
    "a list": lambda _: json.dumps([CANARY]).encode(),
    "a text": lambda _: json.dumps(CANARY).encode(),
    "null": lambda _: b"null",
    "deep lists": lambda _: b"[" * 500_000,
    "deep lists in a member": lambda _: b'{"name": ' + b"[" * 200_000 + b"]" * 200_000 + b"}",
    "deep objects": lambda _: b'{"a":' * 150_000,
    "a member twice": lambda room: (without_end(json.dumps(members(room))) + f', "name": "{CANARY}"}}').encode(),
    "a deep member twice": lambda room: (
        json.dumps(members(room)).replace('"tableName"', f'"tableName": "{CANARY}", "tableName"').encode()
    ),
    "NaN": lambda room: (without_end(json.dumps(members(room))) + ', "x": NaN}').encode(),
    "an infinite number": lambda room: (without_end(json.dumps(members(room))) + ', "x": 1e999}').encode(),
    "a number of many digits": lambda room: (
        without_end(json.dumps(members(room))) + ', "x": ' + "9" * 100_000 + "}"
    ).encode(),
    "bytes that are no UTF-8": lambda room: json.dumps(members(room)).encode() + b"\xff",
    "overlong UTF-8": lambda room: json.dumps(members(room)).encode().replace(b"bodies", b"\xc0\xaf"),
    "UTF-16": lambda room: json.dumps(members(room)).encode("utf-16"),
    "a byte order mark": lambda room: b"\xef\xbb\xbf" + json.dumps(members(room)).encode(),
    "two documents": lambda room: json.dumps(members(room)).encode() * 2,
    "cut off": lambda room: json.dumps(members(room)).encode()[:-1],
    "10,000 tags": lambda room: json.dumps(
        members(room, tags={f"{CANARY}{number}": "" for number in range(10_000)})
    ).encode(),
    "10,000 columns": lambda room: json.dumps(
        members(room, trainingData=[{"type": "INTERACTIONS", "inputConfig": {"schema": [{}] * 10_000}}])
    ).encode(),
    "one byte too many": lambda _: b" " * (MAX_BODY_BYTES + 1),
    "far too many": lambda _: b"[" * (8 * MAX_BODY_BYTES),
}


def test_a_malformed_body(room: Room) -> None:
    def is_rejected(_: str, body: Callable[[Room], bytes]) -> None:
        before = everything(room.installation)
        answer = room.ask(room.parties.publisher, with_body(room, body(room)))
        assert_rejected(room.installation, answer, 400, "ValidationException")
        assert len(answer.body) < 20_000, "what is wrong is not told a thousand times"
        assert CANARY not in answer.body.decode()
        assert CANARY not in in_audit(room.installation)
        assert everything(room.installation) == before

    assert_each(is_rejected, BODIES.items())


def test_a_compressed_body_is_not_decompressed(room: Room) -> None:
    packed = gzip.compress(json.dumps(members(room)).encode() + b" " * 50_000_000)
    answer = room.ask(room.parties.publisher, with_body(room, packed, ("Content-Encoding", "gzip")))
    assert_rejected(room.installation, answer, 400, "ValidationException")


def test_unknown_members_are_counted(room: Room) -> None:
    unknown = {f"{CANARY}{number}": {"deep": [CANARY] * 2} for number in range(10_000)}
    body = json.dumps(members(room, name="much", **unknown)).encode()
    answer = room.ask(room.parties.publisher, with_body(room, body))
    assert answer.status == 200
    entry = entry_of(room.installation, answer)
    assert (entry["outcome"], entry["n_unknown_members"]) == ("ok", 10_000)
    assert CANARY not in in_audit(room.installation)
    assert room.installation.catalog.resources.count(Kind.TRAINING_DATASET, room.parties.publisher.account_id) == 1


def test_an_invalid_page_token(room: Room) -> None:
    def is_rejected(query: str) -> None:
        answer = room.ask(room.parties.publisher, RawRequest("GET", "/training-dataset", query))
        assert_rejected(room.installation, answer, 400, "ValidationException")
        assert CANARY not in answer.body.decode()
        assert CANARY not in in_audit(room.installation)

    assert_each(
        is_rejected,
        [
            "maxResults=0",
            "maxResults=101",
            "maxResults=1e1",
            "maxResults=5&maxResults=5",
            "maxResults=" + "9" * 5_000,
            "maxResults=%00",
            "nextToken=",
            "nextToken=" + "x" * 10_241,
            f"nextToken={CANARY}",
            "nextToken=eyJhIjoxfQ%3D%3D",
            "nextToken=%C0%AF",
        ],
    )


def test_another_accounts_page_token_reveals_nothing(room: Room) -> None:
    me, other = room.parties.advertiser, room.parties.stranger
    for name in ("one", "two", "three"):
        client = room.client(me)
        client.create_training_dataset(**dataset_parameters(me, name))
    page = room.client(me).list_training_datasets(maxResults=1)
    invented = page["nextToken"][:-4] + page["nextToken"][-4:][::-1]
    rejections = []
    for token in (page["nextToken"], invented):
        with pytest.raises(ClientError) as rejected:
            room.client(other).list_training_datasets(nextToken=token)
        rejections.append(rejected.value.response["Error"])
    assert rejections[0]["Code"] == "ValidationException"
    assert rejections[0] == rejections[1]
