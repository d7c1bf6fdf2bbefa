"""The gateway executes only what was signed, and malformed requests block nothing.

Contract: an altered, expired or wrongly signed request is rejected with the same message for every key, and
changes nothing; only the signed path is routed; a request with an ambiguous length closes its connection; endless
headers and bodies hold neither threads nor memory; rejections are audited before the response is sent; the health
check reveals nothing.
"""

import asyncio
import json
from collections.abc import Iterator, MutableMapping
from dataclasses import replace
from typing import Any

import psutil
import pytest

from cleanroom_pipelines_tests.aws.requests import RawAnswer, RawRequest, build

from ..cases import assert_each
from ..storage.auditing import lines_of
from .attacking import (
    Altering,
    assert_rejected,
    converse,
    drips,
    entry_of,
    everything,
    files_in_scratch,
    in_bytes,
    in_pieces,
    never_ends,
    normalised,
    signed_at,
    speak,
    statuses_of,
    with_authorization,
    with_more,
)
from .server import Parties, Room, Server, ask, dataset_parameters, installation_at, settle, signed

HOST = "gateway.test"
URL = f"http://{HOST}"
LIST = build("ListTrainingDatasets", {"maxResults": 5})


@pytest.fixture(scope="module")
def room(tmp_path_factory: pytest.TempPathFactory) -> Room:
    return Room.open(tmp_path_factory.mktemp("gateway") / "home")


def create(room: Room, name: str = "events") -> RawRequest:
    return build("CreateTrainingDataset", dataset_parameters(room.parties.publisher, name))


# signatures


def path_of(path: str) -> Altering:
    return lambda request: replace(request, raw_path=path)


ALTERED: dict[str, Altering] = {
    "body": lambda request: replace(request, body=request.body.replace(b"events", b"evenst", 1)),
    "body and nothing more": lambda request: replace(request, body=request.body + b" "),
    "no body": lambda request: replace(request, body=b""),
    "path": path_of("/audience-model"),
    "path in another case": path_of("/Training-dataset"),
    "path, encoded otherwise": path_of("/training%2ddataset"),
    "method": lambda request: replace(request, method="PUT"),
    "query": lambda request: replace(request, raw_query="maxResults=1"),
    "date": lambda request: request.with_header("X-Amz-Date", "20200101T000000Z"),
    "date that is none": lambda request: request.with_header("X-Amz-Date", "20209999T000000Z"),
    "no date": lambda request: request.with_header("X-Amz-Date", None),
    "host": lambda request: request.with_header("Host", "elsewhere.test"),
    "no host": lambda request: request.with_header("Host", None),
    "no signature": lambda request: request.with_header("Authorization", None),
    "another signature": with_authorization(lambda text: text[:-64] + "0" * 64),
    "a signature cut short": with_authorization(lambda text: text[:-1]),
    "another key": with_authorization(lambda text: text.replace("Credential=AKIA", "Credential=AKIB")),
    "another region": with_authorization(lambda text: text.replace("eu-central-1", "us-east-1")),
    "another service": with_authorization(lambda text: text.replace("/cleanrooms-ml/", "/sns/")),
    "another day": with_authorization(lambda text: text.replace("/20", "/19", 1)),
    "fewer signed headers": with_authorization(lambda text: text.replace(";x-amz-date", "")),
    "another algorithm": with_authorization(lambda text: text.replace("AWS4-HMAC-SHA256", "AWS4-HMAC-SHA1")),
    "no algorithm": with_authorization(lambda text: text.partition(" ")[2]),
    "basic": with_authorization(lambda _: "Basic cHVibGlzaGVyOnNlY3JldA=="),
    "two signatures": lambda request: with_more(("Authorization", request.header("Authorization")))(request),
    "two dates": with_more(("X-Amz-Date", "20200101T000000Z")),
    "two hosts": with_more(("Host", "elsewhere.test")),
    "two content types": with_more(("Content-Type", "text/plain")),
    "an unsigned header that steers": with_more(("X-Amz-Target", "DeleteEverything")),
    "an unsigned body digest": with_more(("x-amz-content-sha256", "UNSIGNED-PAYLOAD")),
    "a session token": with_more(("X-Amz-Security-Token", "token")),
    "a token in the query": lambda request: replace(request, raw_query="X-Amz-Security-Token=token"),
    "a presigned query": lambda request: replace(
        request.with_header("Authorization", None), raw_query="X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Signature=0"
    ),
}


def test_an_altered_request_is_rejected_without_effect(room: Room) -> None:
    def is_rejected(_: str, altered: Altering) -> None:
        before = everything(room.installation)
        request = altered(signed(create(room), room.parties.publisher, URL))
        answer = ask(room.gateway, request)
        entry = assert_rejected(room.installation, answer, 403, "AccessDeniedException")
        assert entry.keys().isdisjoint({"account", "access_key", "resource"}), "nobody is known to have sent it"
        assert everything(room.installation) == before

    assert_each(is_rejected, ALTERED.items())


def test_a_request_is_valid_for_15_minutes(room: Room) -> None:
    def is_answered(minutes: float, status: int) -> None:
        request = signed_at(LIST, room.parties.publisher, host=HOST, minutes=minutes)
        answer = ask(room.gateway, request)
        assert answer.status == status
        if status == 403:
            entry = assert_rejected(room.installation, answer, 403, "AccessDeniedException")
            assert entry["error"].endswith("date-out-of-range")

    assert_each(is_answered, [(-16, 403), (-14, 200), (14, 200), (16, 403)])


def test_a_wrong_signature_reveals_nothing_about_the_key(room: Room) -> None:
    catalog, stranger = room.installation.catalog, room.parties.stranger
    tries = {
        "wrong secret": {"secret": "0" * 40},
        "unknown key": {"key_id": "AKIA" + "A" * 16},
        "another's key": {"key_id": room.parties.advertiser.key_id},
    }
    said = {name: ask(room.gateway, signed_at(LIST, stranger, host=HOST, **how)) for name, how in tries.items()}
    catalog.parties.disable_access_key(stranger.key_id)
    said["disabled key"] = ask(room.gateway, signed_at(LIST, stranger, host=HOST))
    assert {answer.status for answer in said.values()} == {403}
    assert len({normalised(answer) for answer in said.values()}) == 1
    reasons = {name: entry_of(room.installation, answer)["error"] for name, answer in said.items()}
    assert len(set(reasons.values())) == 3, "the operator is told what it was"


def test_a_signature_is_invalid_for_another_request(room: Room) -> None:
    """The same key and moment, the signature of one request on another."""
    one = signed(create(room, "one"), room.parties.publisher, URL)
    other = signed(create(room, "other"), room.parties.publisher, URL)
    answer = ask(room.gateway, other.with_header("Authorization", one.header("Authorization")))
    assert_rejected(room.installation, answer, 403, "AccessDeniedException")


# paths

ARN = "arn%3Aaws%3Acleanrooms-ml%3Aeu-central-1%3A222222222222%3Atraining-dataset"
PATHS: dict[str, tuple[int, str]] = {
    # what a signer resolves before it signs is not what was sent
    "/./training-dataset": (403, "AccessDeniedException"),
    "/training-dataset/../audience-model": (403, "AccessDeniedException"),
    "/_cleanroom/../training-dataset": (403, "AccessDeniedException"),
    # what stays as it is means nothing
    "/%2e%2e/training-dataset": (404, "UnknownOperationException"),
    "/training-dataset/": (404, "UnknownOperationException"),
    "/training-dataset%2F": (404, "UnknownOperationException"),
    "/training%2Ddataset": (404, "UnknownOperationException"),
    "/training-dataset;v=1": (404, "UnknownOperationException"),
    "/TRAINING-DATASET": (404, "UnknownOperationException"),
    "/_cleanroom/health/": (404, "UnknownOperationException"),
    "/": (404, "UnknownOperationException"),
    f"/training-dataset/{ARN}/x": (404, "UnknownOperationException"),
    f"/training-dataset/{ARN}%2Fx/policy": (404, "UnknownOperationException"),
    # no ARN
    "/training-dataset/%2e%2e": (400, "ValidationException"),
    "/training-dataset/%2F%2Fetc%2Fpasswd": (400, "ValidationException"),
    f"/training-dataset/{ARN}%2Fx%00": (400, "ValidationException"),
    f"/training-dataset/{ARN}%2Fx%0A": (400, "ValidationException"),
    f"/training-dataset/{ARN}%2F%C0%AE%C0%AE": (400, "ValidationException"),
    f"/training-dataset/{ARN}%2F%ED%A0%80": (400, "ValidationException"),
    f"/training-dataset/{ARN}%2F%FF": (400, "ValidationException"),
    f"/training-dataset/{ARN}%2F%zz": (400, "ValidationException"),
    f"/training-dataset/{ARN}%252Fx": (400, "ValidationException"),
    # an ARN by its pattern, and nothing of ours
    f"/training-dataset/{ARN}%2F..%2F..%2Fetc": (404, "ResourceNotFoundException"),
    f"/training-dataset/{ARN}%2Fx%2Fy": (404, "ResourceNotFoundException"),
}


def test_only_the_signed_path_is_routed(room: Room) -> None:
    def is_rejected(path: str, status: int, error: str) -> None:
        before = everything(room.installation)
        answer = room.ask(room.parties.publisher, RawRequest("GET", path))
        entry = assert_rejected(room.installation, answer, status, error)
        assert "resource" not in entry
        for part in ("passwd", "etc", "222222222222"):
            assert part not in answer.json["message"]
        assert everything(room.installation) == before

    assert_each(is_rejected, [(path, *told) for path, told in PATHS.items()])


def test_an_unsupported_method(room: Room) -> None:
    def is_rejected(method: str) -> None:
        answer = room.ask(room.parties.publisher, RawRequest(method, "/training-dataset"))
        assert (answer.status, answer.error) in {
            (405, "UnknownOperationException"),
            (403, "AccessDeniedException"),  # the signer writes methods in its own way
        }
        assert entry_of(room.installation, answer)["outcome"] == "refused"

    assert_each(is_rejected, ["get", "TRACE", "CONNECT", "POST ", "PROPFIND", "DELETE"])


# bodies without end


@pytest.mark.parametrize("receive", [never_ends, drips], ids=["nothing more", "drips"])
def test_an_endless_body_times_out(room: Room, receive: object) -> None:
    hasty = replace(room.gateway, seconds_for_body=0.2)
    before = everything(room.installation)
    request = signed(create(room), room.parties.publisher, URL)
    answer = asyncio.run(converse(hasty, request, receive))  # type: ignore[arg-type]
    assert answer is not None
    assert_rejected(room.installation, answer, 408, "ValidationException")
    assert answer.headers["connection"] == "close"
    assert everything(room.installation) == before


def test_endless_bodies_hold_no_threads(room: Room) -> None:
    """More of them than the server has threads, and the next request is answered all the same."""
    uploading = RawRequest("PUT", "/waiting/seed.jsonl", "", (("Content-Length", "9"),))
    n_waiting = 0

    async def is_awaited() -> MutableMapping[str, Any]:
        nonlocal n_waiting
        n_waiting += 1
        return await never_ends()

    async def scenario() -> RawAnswer | None:
        me = room.parties.publisher
        waiting = [
            asyncio.create_task(converse(room.gateway, request, is_awaited))
            for _ in range(45)
            for request in (signed(create(room), me, URL), signed(uploading, me, URL, service="s3"))
        ]
        while n_waiting < 90:
            await asyncio.sleep(0.01)
        answer = await converse(room.gateway, signed(LIST, room.parties.publisher, URL), in_pieces())
        assert not any(task.done() for task in waiting)
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        return answer

    answer = asyncio.run(scenario())
    assert answer is not None
    assert answer.status == 200
    assert files_in_scratch(room.installation.home) == []


def test_a_disconnected_client_changes_nothing(room: Room) -> None:
    before = everything(room.installation)
    request = signed(create(room), room.parties.publisher, URL)
    answer = asyncio.run(converse(room.gateway, request, in_pieces(request.body[:50], leaves=True)))
    assert answer is None
    assert everything(room.installation) == before


# over a socket


@pytest.fixture(scope="module")
def served(shared_server: Server) -> tuple[Server, Parties]:
    return shared_server, settle(installation_at(shared_server.home))


HEAD = b"POST /training-dataset HTTP/1.1\r\nHost: x\r\n"
HIDDEN = b"GET /_cleanroom/health HTTP/1.1\r\nHost: x\r\n\r\n"  # would be answered with 200
SMUGGLED: dict[str, bytes] = {
    "two lengths": HEAD + b"Content-Length: 0\r\nContent-Length: 50\r\n\r\n" + HIDDEN,
    "lengths in one": HEAD + b"Content-Length: 0, 50\r\n\r\n" + HIDDEN,
    "length and chunks": HEAD + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + HIDDEN,
    "chunks and length": HEAD + b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n" + HIDDEN,
    "chunks twice": HEAD + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n" + HIDDEN,
    "chunks of another kind": HEAD + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n" + HIDDEN,
    "a name before a blank": HEAD + b"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n" + HIDDEN,
    "a length with a sign": HEAD + b"Content-Length: +0\r\n\r\n" + HIDDEN,
    "a length below nothing": HEAD + b"Content-Length: -1\r\n\r\n" + HIDDEN,
    "a chunk's length in words": HEAD + b"Transfer-Encoding: chunked\r\n\r\nzero\r\n\r\n" + HIDDEN,
    "a zero byte": HEAD + b"X-A: a\0b\r\n\r\n" + HIDDEN,
    "no host": b"GET /training-dataset HTTP/1.1\r\n\r\n" + HIDDEN,
    "two hosts": HEAD + b"Host: y\r\n\r\n" + HIDDEN,
    "no HTTP": b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n" + HIDDEN,
    "bytes in the path": b"GET /training-dataset\xc0\xaf HTTP/1.1\r\nHost: x\r\n\r\n" + HIDDEN,
}


def test_an_ambiguous_request_closes_its_connection(served: tuple[Server, Parties]) -> None:
    def closes_the_connection(_: str, content: bytes) -> None:
        server, _ = served
        said = speak(server.url, content)
        assert statuses_of(said) == [400]
        assert b"ok" not in said.rpartition(b"\r\n\r\n")[2], "what was hidden in it is not answered"

    assert_each(closes_the_connection, SMUGGLED.items())


def test_a_rejected_request_whose_body_was_not_sent_ends_its_connection(served: tuple[Server, Parties]) -> None:
    """A client that waits for permission to send the body does not send it; the next request is not that body."""
    server, _ = served
    scope = b"AKIA0/20260101/eu-central-1/s3/aws4_request"
    head = (
        b"PUT /bucket/key HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 5\r\n"
        b"Authorization: AWS4-HMAC-SHA256 Credential=%b, SignedHeaders=host, Signature=0\r\n\r\n"
    )
    said = speak(server.url, head % scope + HIDDEN)
    assert statuses_of(said) == [400]
    assert b"connection: close" in said.lower()


def test_a_request_signed_for_another_server_is_rejected(served: tuple[Server, Parties]) -> None:
    server, parties = served
    request = signed(LIST, parties.publisher, server.url)
    assert statuses_of(speak(server.url, in_bytes(request))) == [200]
    for target in (
        f"http://elsewhere.test{LIST.target}",
        f"{server.url}{LIST.target}",
        f"//elsewhere.test{LIST.target}",
        f"/.{LIST.target}",
        "*",
        "elsewhere.test:443",
        "http://elsewhere.test",
    ):
        assert statuses_of(speak(server.url, in_bytes(request, target=target))) == [403], target
    verdicts = list(installation_at(server.home).audit.entries())
    assert [entry["outcome"] for entry in verdicts[-7:]] == ["refused"] * 7


def test_each_request_of_a_connection_needs_its_own_signature(served: tuple[Server, Parties]) -> None:
    server, parties = served
    good = in_bytes(signed(LIST, parties.publisher, server.url), close=False)
    bare = in_bytes(RawRequest("GET", LIST.raw_path, LIST.raw_query, (("Host", "x"),)))
    assert statuses_of(speak(server.url, good + bare)) == [200, 403]


def test_endless_headers_do_not_fill_the_memory(served: tuple[Server, Parties]) -> None:
    server, parties = served
    process = psutil.Process(server.process.pid)
    before, sent = process.memory_info().rss, [0]

    def flood() -> Iterator[bytes]:
        yield b"GET /training-dataset HTTP/1.1\r\nHost: x\r\nX-Long: "
        while sent[0] < 100:
            sent[0] += 1
            yield b"a" * 1_000_000

    speak(server.url, flood())
    assert sent[0] < 100, "the server hung up"
    assert process.memory_info().rss < before + 50_000_000
    many = b"".join(b"X-%d: a\r\n" % number for number in range(100_000))
    assert statuses_of(speak(server.url, HEAD + many + b"\r\n")) in ([400], [])
    assert server.call(parties.publisher, LIST).status == 200


def test_the_health_check_reveals_nothing(served: tuple[Server, Parties]) -> None:
    server, _ = served
    for head in (b"GET /_cleanroom/health", b"GET /_cleanroom/health?verbose=1", b"POST /_cleanroom/health"):
        said = speak(server.url, head + b" HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        top, _, body = said.partition(b"\r\n\r\n")
        assert json.loads(body) == {"status": "ok"}
        names = {line.partition(b":")[0].lower() for line in top.split(b"\r\n")[1:]}
        assert names <= {b"content-type", b"content-length", b"date", b"connection"}, "nothing of the server"


def test_the_server_log_contains_no_data(served: tuple[Server, Parties]) -> None:
    """The last of this module: what was sent above must not stand there."""
    server, parties = served
    marked = RawRequest("POST", "/canary-path", "canary=query", (("Host", "x"), ("X-Canary", "canary")), b"canary")
    assert statuses_of(speak(server.url, in_bytes(marked))) == [403]
    assert statuses_of(speak(server.url, b"canary canary canary\r\n\r\n")) == [400]
    said = server.log.read_text(errors="replace")
    for word in ("canary", "elsewhere", "Traceback", str(server.home), parties.publisher.secret):
        assert word not in said
    assert b"canary" not in b"".join(lines_of(server.home / "audit"))
    assert installation_at(server.home).audit.verify().ok
