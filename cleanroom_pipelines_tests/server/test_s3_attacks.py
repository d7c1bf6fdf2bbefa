"""Attacks on the S3 API.

Contract: a request that is altered, expired, misdirected, malformed or too large is rejected with S3's code,
audited once, and changes nothing; a body becomes an object only if all its declarations hold.
"""

import asyncio
import base64
import hashlib
import hmac
import zlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import quote, urlsplit

import pytest
from botocore.auth import S3SigV4QueryAuth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from cleanroom_pipelines_tests.aws.requests import RawAnswer, RawRequest

from ..cases import assert_each
from .attacking import assert_rejected, converse, everything, in_pieces, signed_at, with_authorization, with_more
from .server import REGION, Party, Room, ask, signed

HOST = "gateway.test"
BODY = b'{"user_id": "kanarienvogel"}\n'
SHA = "X-Amz-Content-SHA256"
CHUNKED, TRAILED = "STREAMING-AWS4-HMAC-SHA256-PAYLOAD", "STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER"
UNSIGNED_TRAILED = "STREAMING-UNSIGNED-PAYLOAD-TRAILER"
EMPTY = hashlib.sha256(b"").hexdigest()


@pytest.fixture(scope="module")
def room(tmp_path_factory: pytest.TempPathFactory) -> Room:
    room = Room.open(tmp_path_factory.mktemp("s3-attacks") / "home")
    room.installation.catalog.parties.register_bucket("theirs", room.parties.publisher.account_id)
    answer = ask(room.gateway, for_s3(put(b"kept"), room.parties.advertiser))
    assert answer.status == 200
    return room


def put(body: bytes = BODY, *headers: tuple[str, str], path: str = "/mine/a.jsonl", query: str = "") -> RawRequest:
    return RawRequest("PUT", path, query, (*headers, ("Content-Length", str(len(body)))), body)


def for_s3(request: RawRequest, party: Party) -> RawRequest:
    return signed(request, party, f"http://{HOST}", service="s3")


def is_rejected(room: Room, request: RawRequest, *errors: str) -> None:
    before = everything(room.installation)
    answer = ask(room.gateway, request)
    room.installation.audit.flush()
    assert answer.error in errors, (answer.status, answer.body)
    assert answer.status >= 400
    assert_rejected(room.installation, answer, answer.status, str(answer.error))
    assert b"kanarienvogel" not in answer.body
    assert everything(room.installation) == before


# signatures in the header

NOT_SIGNED = ("SignatureDoesNotMatch",)
ALTERED: Mapping[str, tuple[Callable[[RawRequest], RawRequest], tuple[str, ...]]] = {
    "another key": (lambda request: replace(request, raw_path="/mine/b.jsonl"), NOT_SIGNED),
    "another bucket": (lambda request: replace(request, raw_path="/yours/a.jsonl"), NOT_SIGNED),
    "another method": (lambda request: replace(request, method="DELETE"), NOT_SIGNED),
    "a query": (lambda request: replace(request, raw_query="uploads"), NOT_SIGNED),
    "another host": (lambda request: request.with_header("Host", "mine.localhost"), NOT_SIGNED),
    "a folder up": (lambda request: replace(request, raw_path="/mine/../theirs/a.jsonl"), NOT_SIGNED),
    "two slashes": (lambda request: replace(request, raw_path="//mine/a.jsonl"), NOT_SIGNED),
    "a declared body": (lambda request: request.with_header(SHA, hashlib.sha256(b"x").hexdigest()), NOT_SIGNED),
    "an unsigned body": (lambda request: request.with_header(SHA, "UNSIGNED-PAYLOAD"), NOT_SIGNED),
    "no declared body": (lambda request: request.with_header(SHA, None), ("AuthorizationHeaderMalformed",)),
    "two declared bodies": (with_more((SHA, EMPTY)), ("AuthorizationHeaderMalformed",)),
    "an unsigned copy source": (with_more(("x-amz-copy-source", "/theirs/a")), ("AccessDenied",)),
    "unsigned metadata": (with_more(("x-amz-meta-a", "b")), ("AccessDenied",)),
    "a session token": (with_more(("x-amz-security-token", "x")), ("InvalidToken",)),
    "two hosts": (with_more(("Host", "other")), ("AuthorizationHeaderMalformed",)),
    "another date": (
        lambda request: request.with_header("X-Amz-Date", "20200101T000000Z"),
        ("RequestTimeTooSkewed", "AuthorizationHeaderMalformed"),
    ),
    "no date": (lambda request: request.with_header("X-Amz-Date", None), ("AccessDenied",)),
    "another Region": (with_authorization(lambda text: text.replace(REGION, "us-east-1")), NOT_SIGNED),
    "another access key": (
        with_authorization(lambda text: text.replace("Credential=AKIA", "Credential=AKIB")),
        NOT_SIGNED,
    ),
    "a changed signature": (
        with_authorization(lambda text: text[:-1] + ("0" if text[-1] != "0" else "1")),
        NOT_SIGNED,
    ),
    "a short signature": (with_authorization(lambda text: text[:-1]), ("AuthorizationHeaderMalformed",)),
    "fewer signed headers": (
        with_authorization(lambda text: text.replace("host;", "")),
        ("AccessDenied", "AuthorizationHeaderMalformed"),
    ),
    "another algorithm": (
        with_authorization(lambda text: text.replace("AWS4-HMAC-SHA256", "AWS4-ECDSA-P256-SHA256")),
        ("AuthorizationHeaderMalformed",),
    ),
    "a signature in the query too": (
        lambda request: replace(request, raw_query="X-Amz-Signature=" + "0" * 64),
        ("AuthorizationQueryParametersError",),
    ),
    "another body": (lambda request: replace(request, body=b"x" * len(BODY)), ("XAmzContentSHA256Mismatch",)),
    "a longer body": (lambda request: replace(request, body=BODY + b"x"), ("IncompleteBody",)),
    "a shorter body": (lambda request: replace(request, body=BODY[:-1]), ("IncompleteBody",)),
    "another length": (lambda request: request.with_header("Content-Length", "5"), ("SignatureDoesNotMatch",)),
    "a second length": (with_more(("Content-Length", "5")), ("InvalidRequest", "SignatureDoesNotMatch")),
    "two lengths": (with_more(("Transfer-Encoding", "chunked")), ("InvalidRequest",)),
}


def test_an_altered_request_is_rejected(room: Room) -> None:
    def check(name: str) -> None:
        alter, errors = ALTERED[name]
        is_rejected(room, alter(for_s3(put(), room.parties.advertiser)), *errors)

    assert_each(check, ALTERED)


def test_a_wrong_key_or_clock_is_rejected(room: Room) -> None:
    def check(error: str, changes: dict[str, object]) -> None:
        me = room.parties.advertiser
        is_rejected(room, signed_at(put(), me, host=HOST, service="s3", **changes), error)

    cases: list[tuple[str, dict[str, object]]] = [
        ("SignatureDoesNotMatch", {"secret": "not the secret"}),
        ("SignatureDoesNotMatch", {"key_id": room.parties.publisher.key_id}),
        ("SignatureDoesNotMatch", {"key_id": "AKIAUNKNOWN"}),
        ("RequestTimeTooSkewed", {"minutes": -16}),
        ("RequestTimeTooSkewed", {"minutes": 16}),
    ]
    assert_each(check, cases)


# presigned URLs


def presigned(
    party: Party, method: str = "GET", path: str = "/mine/a.jsonl", *, seconds: int = 60, ago: float = 0
) -> RawRequest:
    """What a presigned URL asks for."""
    request = AWSRequest(method, f"http://{HOST}{path}")
    signer = S3SigV4QueryAuth(Credentials(party.key_id, party.secret), "s3", REGION, expires=seconds)
    now = datetime.now(UTC) - timedelta(seconds=ago)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("botocore.auth.get_current_datetime", lambda: now)
        signer.add_auth(request)
    parts = urlsplit(request.url)
    return RawRequest(method, parts.path, parts.query, (("Host", HOST),))


def in_query(before: str, after: str) -> Callable[[RawRequest], RawRequest]:
    def alter(request: RawRequest) -> RawRequest:
        assert before in request.raw_query
        return replace(request, raw_query=request.raw_query.replace(before, after))

    return alter


QUERY = ("AuthorizationQueryParametersError",)
PRESIGNED: Mapping[str, tuple[Callable[[RawRequest], RawRequest], tuple[str, ...]]] = {
    "another key": (lambda request: replace(request, raw_path="/mine/b.jsonl"), NOT_SIGNED),
    "another method": (lambda request: replace(request, method="DELETE"), NOT_SIGNED),
    "HEAD in place of GET": (
        lambda request: replace(request, method="HEAD"),
        (),
    ),
    "PUT in place of GET": (lambda request: replace(request, method="PUT"), NOT_SIGNED),
    "another host": (lambda request: request.with_header("Host", "other"), NOT_SIGNED),
    "a longer life": (in_query("X-Amz-Expires=60", "X-Amz-Expires=6000"), NOT_SIGNED),
    "too long a life": (in_query("X-Amz-Expires=60", "X-Amz-Expires=604801"), QUERY),
    "a negative life": (in_query("X-Amz-Expires=60", "X-Amz-Expires=-1"), QUERY),
    "no life": (in_query("X-Amz-Expires=60", "X-Amz-Expires=0"), QUERY),
    "no expiry": (in_query("X-Amz-Expires=60&", ""), QUERY),
    "another date": (in_query("X-Amz-Date=20", "X-Amz-Date=19"), (*QUERY, "AccessDenied")),
    "a repeated member": (in_query("X-Amz-Expires=60", "X-Amz-Expires=60&X-Amz-Expires=6000"), QUERY),
    "a member in lower case too": (in_query("X-Amz-Expires=60", "X-Amz-Expires=60&x-amz-expires=6000"), QUERY),
    "another algorithm": (in_query("AWS4-HMAC-SHA256", "AWS4-HMAC-SHA1"), QUERY),
    "unsigned host": (
        in_query("X-Amz-SignedHeaders=host", "X-Amz-SignedHeaders=date"),
        ("AuthorizationHeaderMalformed",),
    ),
    "another parameter": (
        lambda request: replace(request, raw_query=request.raw_query + "&versionId=1"),
        NOT_SIGNED,
    ),
    "another content type": (
        lambda request: replace(request, raw_query=request.raw_query + "&response-content-type=text%2Fhtml"),
        NOT_SIGNED,
    ),
    "a token": (
        lambda request: replace(request, raw_query=request.raw_query + "&X-Amz-Security-Token=x"),
        ("InvalidToken",),
    ),
    "a header's signature too": (with_more(("Authorization", "AWS4-HMAC-SHA256 x")), QUERY),
    "an unsigned S3 header": (with_more(("x-amz-copy-source", "/mine/a.jsonl")), ("AccessDenied",)),
    "a changed signature": (in_query("X-Amz-Signature=", "X-Amz-Signature=0"), QUERY),
}


def test_an_altered_presigned_url_is_rejected(room: Room) -> None:
    def check(name: str) -> None:
        alter, errors = PRESIGNED[name]
        request = presigned(room.parties.advertiser)
        assert ask(room.gateway, request).status == 200
        if errors:
            is_rejected(room, alter(request), *errors)
        else:
            assert ask(room.gateway, alter(request)).status == 403

    assert_each(check, PRESIGNED)


def test_a_presigned_url_ends(room: Room) -> None:
    me = room.parties.advertiser
    assert ask(room.gateway, presigned(me, seconds=60, ago=30)).status == 200
    is_rejected(room, presigned(me, seconds=60, ago=61), "AccessDenied")
    is_rejected(room, presigned(me, seconds=60, ago=-16 * 60), "RequestTimeTooSkewed")
    is_rejected(room, presigned(room.parties.publisher), "NoSuchBucket")
    is_rejected(room, presigned(me, path="/theirs/a.jsonl"), "AccessDenied")


def test_headers_in_a_presigned_url_have_their_meaning(room: Room) -> None:
    """SDKs write headers into the query; ignoring them would store an object without what its sender signed."""
    me = room.parties.advertiser

    def is_refused(query: str, error: str) -> None:
        is_rejected(room, presigned(me, "PUT", f"/mine/hoisted?{query}"), error)

    cases = [
        ("x-amz-server-side-encryption=aws%3Akms", "NotImplemented"),
        ("X-Amz-Acl=public-read", "NotImplemented"),
        ("x-amz-expected-bucket-owner=222222222222", "AccessDenied"),
        ("x-amz-copy-source=theirs%2Fa.jsonl", "AccessDenied"),
        ("x-amz-meta-a=b%0D%0Ac%3A%20d", "InvalidArgument"),
    ]
    assert_each(is_refused, cases)
    assert ask(room.gateway, presigned(me, "PUT", "/mine/copy?x-amz-copy-source=mine%2Fa.jsonl")).status == 200
    assert ask(room.gateway, presigned(me, path="/mine/copy")).body == ask(room.gateway, presigned(me)).body
    of_empty = "x-amz-checksum-crc32=AAAAAA%3D%3D&x-amz-sdk-checksum-algorithm=CRC32"
    query = f"x-amz-meta-a=b&x-amz-meta-c%0D%0Ad=e&{of_empty}"
    body = replace(presigned(me, "PUT", f"/mine/meta?{query}"), body=b"new!")
    assert ask(room.gateway, body.with_header("Content-Length", "4")).status == 200
    answer = ask(room.gateway, presigned(me, path="/mine/meta"))
    assert {name: value for name, value in answer.headers.items() if "meta" in name} == {"x-amz-meta-a": "b"}


# bodies


def chunk(content: bytes, signature: str | None) -> bytes:
    extension = f";chunk-signature={signature}" if signature is not None else ""
    return f"{len(content):x}{extension}\r\n".encode() + content + b"\r\n"


class Chunks:
    """Signs chunks as the S3 reference describes it."""

    def __init__(self, party: Party, head: RawRequest) -> None:
        self.timestamp = head.header("X-Amz-Date")
        self.scope = f"{self.timestamp[:8]}/{REGION}/s3/aws4_request"
        key = f"AWS4{party.secret}".encode()
        for part in self.scope.split("/"):
            key = hmac.new(key, part.encode(), hashlib.sha256).digest()
        self.key, self.previous = key, head.header("Authorization").rpartition("=")[2]

    def sign(self, what: str, *hashes: str) -> str:
        text = "\n".join((f"AWS4-HMAC-SHA256-{what}", self.timestamp, self.scope, self.previous, *hashes))
        self.previous = hmac.new(self.key, text.encode(), hashlib.sha256).hexdigest()
        return self.previous

    def chunk(self, content: bytes) -> bytes:
        return chunk(content, self.sign("PAYLOAD", EMPTY, hashlib.sha256(content).hexdigest()))

    def trailer(self, name: str, value: str) -> bytes:
        signature = self.sign("TRAILER", hashlib.sha256(f"{name}:{value}\n".encode()).hexdigest())
        return f"{name}:{value}\r\nx-amz-trailer-signature:{signature}\r\n\r\n".encode()


def crc32(content: bytes) -> str:
    return base64.b64encode(zlib.crc32(content).to_bytes(4, "big")).decode()


CRC = "x-amz-checksum-crc32"
PARTS = (b"a" * 70_000, b"b" * 10)
WHOLE = b"".join(PARTS)


def streamed(
    room: Room, form: str, *headers: tuple[str, str], length: int = len(WHOLE), host: str = HOST
) -> RawRequest:
    """The signed head of a request with a body in chunks."""
    trailer = (("x-amz-trailer", CRC),) if form.endswith("TRAILER") else ()
    declared = (("x-amz-decoded-content-length", str(length)), ("Content-Encoding", "aws-chunked"), (SHA, form))
    request = RawRequest(
        "PUT", "/mine/streamed", "", (*declared, *trailer, *headers, ("Transfer-Encoding", "chunked"))
    )
    return signed(request, room.parties.advertiser, f"http://{host}", service="s3")


def signed_chunks(room: Room, head: RawRequest, trailer: bool = False) -> list[bytes]:
    chunks = Chunks(room.parties.advertiser, head)
    parts = [chunks.chunk(part) for part in PARTS]
    if not trailer:
        return [*parts, chunks.chunk(b"")]
    last = chunks.sign("PAYLOAD", EMPTY, EMPTY)
    return [*parts, f"0;chunk-signature={last}\r\n".encode(), chunks.trailer(CRC, crc32(WHOLE))]


def unsigned_chunks(checksum: str) -> list[bytes]:
    return [*(chunk(part, None) for part in PARTS), b"0\r\n", f"{CRC}:{checksum}\r\n\r\n".encode()]


def sent(
    room: Room,
    head: RawRequest,
    pieces: list[bytes],
    *,
    step: int | None = None,
    client: str = "127.0.0.1",
    scheme: str = "http",
) -> RawAnswer:
    body = b"".join(pieces)
    if step:
        pieces = [body[at : at + step] for at in range(0, len(body), step)]
    answer = asyncio.run(converse(room.gateway, head, in_pieces(*pieces), client=client, scheme=scheme))
    assert answer is not None
    return answer


@pytest.mark.parametrize("step", [None, 1_000, 65_536], ids=["chunks", "1000", "65536"])
def test_bodies_in_chunks_become_objects(room: Room, step: int | None) -> None:
    for form in (CHUNKED, TRAILED, UNSIGNED_TRAILED):
        head = streamed(room, form)
        pieces = (
            unsigned_chunks(crc32(WHOLE))
            if form == UNSIGNED_TRAILED
            else signed_chunks(room, head, form == TRAILED)
        )
        answer = sent(room, head, pieces, step=step)
        assert answer.status == 200, answer.body
        read = ask(room.gateway, for_s3(RawRequest("GET", "/mine/streamed"), room.parties.advertiser))
        assert read.body == WHOLE
        assert "content-encoding" not in read.headers
        ask(room.gateway, for_s3(RawRequest("DELETE", "/mine/streamed"), room.parties.advertiser))


def flipped(pieces: list[bytes], number: int, before: bytes, after: bytes) -> list[bytes]:
    assert before in pieces[number]
    return [*pieces[:number], pieces[number].replace(before, after, 1), *pieces[number + 1 :]]


INCOMPLETE, MALFORMED = ("IncompleteBody",), ("InvalidRequest",)
SIGNED_CHUNKS: Mapping[str, tuple[Callable[[list[bytes]], list[bytes]], tuple[str, ...]]] = {
    "changed content": (lambda pieces: flipped(pieces, 0, b"aaaa", b"aaab"), NOT_SIGNED),
    "changed signature": (lambda pieces: flipped(pieces, 1, b"signature=", b"signature=0"), MALFORMED),
    "another signature": (lambda pieces: [*pieces[:1], chunk(PARTS[1], "0" * 64), *pieces[2:]], NOT_SIGNED),
    "exchanged chunks": (lambda pieces: [pieces[1], pieces[0], *pieces[2:]], NOT_SIGNED),
    "a repeated chunk": (lambda pieces: [pieces[0], *pieces], (*NOT_SIGNED, *INCOMPLETE)),
    "a missing chunk": (lambda pieces: [pieces[0], *pieces[2:]], (*NOT_SIGNED, *INCOMPLETE)),
    "no last chunk": (lambda pieces: pieces[:-1], INCOMPLETE),
    "half a chunk": (lambda pieces: [pieces[0][:1000]], INCOMPLETE),
    "nothing": (lambda _: [], INCOMPLETE),
    "no signatures": (lambda _: [chunk(WHOLE, None), b"0\r\n\r\n"], MALFORMED),
    "more after the end": (lambda pieces: [*pieces, b"x\r\n"], MALFORMED),
    "much more after the end": (lambda pieces: [*pieces, b"x" * 5000], (*MALFORMED, *INCOMPLETE)),
    "a size that is no number": (lambda pieces: flipped(pieces, 1, b"a;", b"-1;"), MALFORMED),
    "a huge size": (lambda pieces: flipped(pieces, 1, b"a;", b"ffffffffffff;"), (*INCOMPLETE, *NOT_SIGNED)),
    "a size of many digits": (lambda pieces: flipped(pieces, 1, b"a;", b"0" * 5000 + b"a;"), MALFORMED),
    "a smaller size": (lambda pieces: flipped(pieces, 1, b"a;", b"5;"), (*MALFORMED, *NOT_SIGNED)),
    "a line that does not end": (lambda pieces: [pieces[0], b"a" * 100_000], MALFORMED),
    "a trailer that was not declared": (
        lambda pieces: [*pieces[:-1], pieces[-1].removesuffix(b"\r\n"), b"x-amz-checksum-crc32:AAAAAA==\r\n\r\n"],
        MALFORMED,
    ),
}


def test_altered_chunks_are_rejected(room: Room) -> None:
    def check(name: str) -> None:
        alter, errors = SIGNED_CHUNKS[name]
        head = streamed(room, CHUNKED)
        stays_out(room, head, alter(signed_chunks(room, head)), errors)

    assert_each(check, SIGNED_CHUNKS)


def stays_out(
    room: Room, head: RawRequest, pieces: list[bytes], errors: tuple[str, ...], client: str = "127.0.0.1"
) -> None:
    before = everything(room.installation)
    answer = sent(room, head, pieces, client=client)
    assert answer.error in errors, answer.body
    assert_rejected(room.installation, answer, answer.status, str(answer.error))
    assert everything(room.installation) == before


SIGNED_TRAILER: Mapping[str, tuple[Callable[[list[bytes]], list[bytes]], tuple[str, ...]]] = {
    "a changed checksum": (lambda pieces: flipped(pieces, 3, b"crc32:", b"crc32:x"), NOT_SIGNED),
    "no signature": (lambda pieces: [*pieces[:-1], f"{CRC}:{crc32(WHOLE)}\r\n\r\n".encode()], INCOMPLETE),
    "no trailer": (lambda pieces: pieces[:-1], INCOMPLETE),
    "only an end": (lambda pieces: [*pieces[:-1], b"\r\n"], INCOMPLETE),
    "a signature first": (
        lambda pieces: [*pieces[:-1], b"x-amz-trailer-signature:" + b"0" * 64 + b"\r\n\r\n"],
        NOT_SIGNED,
    ),
}


def test_an_altered_signed_trailer_is_rejected(room: Room) -> None:
    def check(name: str) -> None:
        alter, errors = SIGNED_TRAILER[name]
        head = streamed(room, TRAILED)
        stays_out(room, head, alter(signed_chunks(room, head, trailer=True)), errors)

    assert_each(check, SIGNED_TRAILER)


UNSIGNED_TRAILER: Mapping[str, tuple[list[bytes], tuple[str, ...]]] = {
    "a wrong checksum": (unsigned_chunks(crc32(b"x")), ("BadDigest",)),
    "a checksum that is not Base64": (unsigned_chunks("!!!!"), ("InvalidDigest",)),
    "a short checksum": (unsigned_chunks("AAA="), ("InvalidDigest",)),
    "no checksum": (unsigned_chunks("")[:-1], INCOMPLETE),
    "an empty trailer": ([*unsigned_chunks("")[:-1], b"\r\n"], INCOMPLETE),
    "the checksum twice": (
        [*unsigned_chunks("")[:-1], 2 * f"{CRC}:{crc32(WHOLE)}\r\n".encode() + b"\r\n"],
        MALFORMED,
    ),
    "another name": ([*unsigned_chunks("")[:-1], b"x-amz-checksum-sha1:AAAA\r\n\r\n"], MALFORMED),
    "a header": ([*unsigned_chunks("")[:-1], b"x-amz-meta-a:b\r\n\r\n"], MALFORMED),
    "a long line": ([*unsigned_chunks("")[:-1], CRC.encode() + b":" + b"A" * 9000], MALFORMED),
    "signed chunks": ([chunk(WHOLE, "0" * 64)], MALFORMED),
    "no final size": ([chunk(WHOLE, None)], INCOMPLETE),
    "more content": ([chunk(WHOLE + b"x", None), *unsigned_chunks(crc32(WHOLE + b"x"))[2:]], INCOMPLETE),
    "less content": ([chunk(WHOLE[1:], None), *unsigned_chunks(crc32(WHOLE[1:]))[2:]], INCOMPLETE),
}


def test_an_altered_unsigned_body_is_rejected(room: Room) -> None:
    def check(name: str) -> None:
        pieces, errors = UNSIGNED_TRAILER[name]
        stays_out(room, streamed(room, UNSIGNED_TRAILED), pieces, errors)

    assert_each(check, UNSIGNED_TRAILER)


def test_a_body_may_not_have_many_small_chunks(room: Room) -> None:
    def small(n: int) -> tuple[RawRequest, list[bytes]]:
        trailer = f"{CRC}:{crc32(b'a' * n)}\r\n\r\n".encode()
        return streamed(room, UNSIGNED_TRAILED, length=n), [chunk(b"a", None) * n, b"0\r\n", trailer]

    stays_out(room, *small(1_001), MALFORMED)
    assert sent(room, *small(999)).status == 200


def test_an_unsigned_body_needs_a_private_connection(room: Room) -> None:
    head, pieces = streamed(room, UNSIGNED_TRAILED), unsigned_chunks(crc32(WHOLE))
    stays_out(room, head, pieces, MALFORMED, client="192.0.2.7")
    plain = for_s3(put(BODY, (SHA, "UNSIGNED-PAYLOAD")), room.parties.advertiser)
    stays_out(room, plain, [BODY], MALFORMED, client="192.0.2.7")
    endless = RawRequest("PUT", "/mine/a.jsonl", "", ((SHA, "UNSIGNED-PAYLOAD"), ("Transfer-Encoding", "chunked")))
    stays_out(room, for_s3(endless, room.parties.advertiser), [BODY], MALFORMED, client="192.0.2.7")
    stays_out(
        room,
        replace(presigned(room.parties.advertiser, "PUT"), headers=(("Host", HOST), ("Content-Length", "4"))),
        [b"new!"],
        MALFORMED,
        client="192.0.2.7",
    )
    for name in ("X-Forwarded-For", "X-Forwarded-Proto", "Forwarded", "Via"):  # of a proxy that states no TLS
        stays_out(room, with_more((name, "127.0.0.1"))(head), pieces, MALFORMED, client="::1")
    assert sent(room, streamed(room, UNSIGNED_TRAILED), pieces, client="192.0.2.7", scheme="https").status == 200
    assert sent(room, streamed(room, UNSIGNED_TRAILED), pieces, client="::1").status == 200


def declared(*headers: tuple[str, str]) -> RawRequest:
    return put(BODY, *headers)


MD5 = base64.b64encode(hashlib.md5(BODY).digest()).decode()
DECLARED: Mapping[str, tuple[RawRequest, tuple[str, ...]]] = {
    "a wrong MD5": (declared(("Content-MD5", base64.b64encode(b"0" * 16).decode())), ("BadDigest",)),
    "a short MD5": (declared(("Content-MD5", "AAAA")), ("InvalidDigest",)),
    "an MD5 in hex": (declared(("Content-MD5", hashlib.md5(BODY).hexdigest())), ("InvalidDigest",)),
    "a wrong CRC32": (declared((CRC, "AAAAAA==")), ("BadDigest",)),
    "a wrong CRC32C": (declared(("x-amz-checksum-crc32c", "AAAAAA==")), ("BadDigest",)),
    "a wrong CRC64NVME": (declared(("x-amz-checksum-crc64nvme", "AAAAAAAAAAA=")), ("BadDigest",)),
    "a wrong SHA1": (declared(("x-amz-checksum-sha1", base64.b64encode(b"0" * 20).decode())), ("BadDigest",)),
    "a wrong SHA256": (declared(("x-amz-checksum-sha256", base64.b64encode(b"0" * 32).decode())), ("BadDigest",)),
    "one right and one wrong": (declared(("Content-MD5", MD5), (CRC, "AAAAAA==")), ("BadDigest",)),
    "an unknown checksum": (declared(("x-amz-checksum-none", "AAAA")), ("InvalidRequest",)),
    "XXHash": (declared(("x-amz-checksum-xxhash64", "AAAA")), ("NotImplemented",)),
    "an unknown form of body": (
        declared((SHA, "STREAMING-SOMETHING")),
        ("NotImplemented", "MissingContentLength"),
    ),
    "no form of body": (declared((SHA, "something")), ("InvalidArgument",)),
    "an upper-case SHA-256": (declared((SHA, hashlib.sha256(BODY).hexdigest().upper())), ("InvalidArgument",)),
    "chunks that are not declared": (declared(("Content-Encoding", "aws-chunked")), ("InvalidRequest",)),
    "no decoded length": (
        declared((SHA, CHUNKED), ("Content-Encoding", "aws-chunked")),
        ("MissingContentLength",),
    ),
    "a wrong decoded length": (
        declared((SHA, CHUNKED), ("x-amz-decoded-content-length", "-1")),
        ("InvalidArgument",),
    ),
    "a huge decoded length": (
        declared((SHA, CHUNKED), ("x-amz-decoded-content-length", "9" * 15)),
        ("EntityTooLarge",),
    ),
    "a huge length": (put(BODY).with_header("Content-Length", "9" * 15), ("EntityTooLarge",)),
    "a length of many digits": (put(BODY).with_header("Content-Length", "9" * 500), ("InvalidArgument",)),
    "a trailer without chunks": (
        declared((SHA, CHUNKED), ("x-amz-decoded-content-length", "9"), ("x-amz-trailer", CRC)),
        ("InvalidRequest",),
    ),
    "a trailer of metadata": (
        declared(
            (SHA, UNSIGNED_TRAILED), ("x-amz-decoded-content-length", "9"), ("x-amz-trailer", "x-amz-meta-a")
        ),
        ("InvalidRequest",),
    ),
    "many trailers": (
        declared(
            (SHA, UNSIGNED_TRAILED),
            ("x-amz-decoded-content-length", "9"),
            ("x-amz-trailer", ",".join(f"x-amz-checksum-{n}" for n in range(50))),
        ),
        ("InvalidRequest",),
    ),
    "metadata of 3 KB": (declared(("x-amz-meta-a", "b" * 3000)), ("InvalidArgument",)),
    "metadata that is not ASCII": (
        declared(("x-amz-meta-a", "\xfc")),
        ("InvalidArgument", "SignatureDoesNotMatch"),
    ),
    "a public object": (declared(("x-amz-acl", "public-read")), ("NotImplemented",)),
    "a grant": (declared(("x-amz-grant-read", "uri=x")), ("NotImplemented",)),
    "encryption that is not there": (declared(("x-amz-server-side-encryption", "AES256")), ("NotImplemented",)),
    "a lock": (declared(("x-amz-object-lock-mode", "COMPLIANCE")), ("NotImplemented",)),
    "tags": (declared(("x-amz-tagging", "a=b")), ("NotImplemented",)),
    "another owner": (declared(("x-amz-expected-bucket-owner", "222222222222")), ("AccessDenied",)),
    "a condition that cannot be kept": (declared(("If-Match", '"x"')), ("NotImplemented",)),
    "an existing key": (declared(("If-None-Match", "*")), ("PreconditionFailed",)),
}


def test_a_body_that_breaks_its_declaration_is_rejected(room: Room) -> None:
    def check(name: str) -> None:
        request, errors = DECLARED[name]
        is_rejected(room, for_s3(request, room.parties.advertiser), *errors)

    assert_each(check, DECLARED)


# operations


def post(query: str, body: bytes, path: str = "/mine") -> RawRequest:
    return RawRequest("POST", path, query, (("Content-Length", str(len(body))),), body)


def deleting(inner: bytes) -> RawRequest:
    return post("delete=", b"<Delete>" + inner + b"</Delete>")


BOMB = (
    b'<!DOCTYPE d [<!ENTITY a "aaaaaaaaaa">'
    + b"".join(b'<!ENTITY %c "%s">' % (98 + n, b"&%c;" % (97 + n) * 10) for n in range(8))
    + b"]>"
)
EXTERNAL = b'<!DOCTYPE d [<!ENTITY a SYSTEM "file:///etc/passwd">]>'
OBJECT = b"<Object><Key>a.jsonl</Key></Object>"
OPERATIONS: Mapping[str, tuple[RawRequest, tuple[str, ...]]] = {
    "an XML bomb": (
        post("delete=", BOMB + b"<Delete><Object><Key>&i;</Key></Object></Delete>"),
        ("MalformedXML",),
    ),
    "an external entity": (
        post("delete=", EXTERNAL + b"<Delete><Object><Key>&a;</Key></Object></Delete>"),
        ("MalformedXML",),
    ),
    "an empty document type": (
        post("delete=", b"<!DOCTYPE d>" + b"<Delete>" + OBJECT + b"</Delete>"),
        ("MalformedXML",),
    ),
    "no XML": (post("delete=", b"{}"), ("MalformedXML",)),
    "half of the XML": (post("delete=", b"<Delete>" + OBJECT), ("MalformedXML",)),
    "XML of many levels": (post("delete=", b"<a>" * 120_000), ("MalformedXML",)),
    "another encoding": (post("delete=", b'<?xml version="1.0" encoding="utf-7"?><Delete/>'), ("MalformedXML",)),
    "no key": (deleting(b""), ("MalformedXML",)),
    "a key twice in one": (deleting(b"<Object><Key>a</Key><Key>b</Key></Object>"), ("MalformedXML",)),
    "elements in a key": (deleting(b"<Object><Key><b/></Key></Object>"), ("MalformedXML",)),
    "1,001 keys": (deleting(OBJECT * 1001), ("MalformedXML",)),
    "4 MiB of XML": (deleting(OBJECT * 130_000), ("EntityTooLarge",)),
    "an empty body": (post("delete=", b""), ("MalformedXML",)),
    "a form": (post("", b"x"), ("MethodNotAllowed",)),
    "a method that is unknown": (RawRequest("PATCH", "/mine/a.jsonl"), ("MethodNotAllowed",)),
    "a body where there is none": (
        RawRequest("DELETE", "/mine/a.jsonl", "", (("Content-Length", "1"),), b"x"),
        ("EntityTooLarge",),
    ),
    "an upload that does not exist": (
        put(path="/mine/a.jsonl", query=f"partNumber=1&uploadId={'0' * 32}"),
        ("NoSuchUpload",),
    ),
    "an upload id that is a path": (
        put(path="/mine/a.jsonl", query="partNumber=1&uploadId=..%2F..%2Fbuckets"),
        ("NoSuchUpload",),
    ),
    "a part without an upload": (put(path="/mine/a.jsonl", query="partNumber=1"), ("InvalidArgument",)),
    "a part that is no number": (put(path="/mine/a.jsonl", query="partNumber=x&uploadId=1"), ("InvalidArgument",)),
    "an aborted upload": (RawRequest("DELETE", "/mine/a.jsonl", f"uploadId={'f' * 32}"), ("NoSuchUpload",)),
    "a version": (RawRequest("GET", "/mine/a.jsonl", "versionId=1"), ("NotImplemented",)),
    "versions": (RawRequest("GET", "/mine", "versions="), ("NotImplemented",)),
    "an ACL": (RawRequest("GET", "/mine/a.jsonl", "acl="), ("NotImplemented",)),
    "a policy": (put(path="/mine", query="policy="), ("NotImplemented",)),
    "SQL": (post("select=&select-type=2", b"<x/>", "/mine/a.jsonl"), ("NotImplemented",)),
    "another listing": (RawRequest("GET", "/mine", "list-type=3"), ("InvalidArgument",)),
    "many keys of a page": (RawRequest("GET", "/mine", f"list-type=2&max-keys={'9' * 40}"), ("InvalidArgument",)),
    "less than no keys": (RawRequest("GET", "/mine", "list-type=2&max-keys=-1"), ("InvalidArgument",)),
    "a token of another server": (
        RawRequest("GET", "/mine", "continuation-token=..&list-type=2"),
        ("InvalidArgument",),
    ),
    "another encoding of keys": (
        RawRequest("GET", "/mine", "encoding-type=xml&list-type=2"),
        ("InvalidArgument",),
    ),
    "a parameter twice": (RawRequest("GET", "/mine", "list-type=2&prefix=a&prefix=b"), ("InvalidArgument",)),
    "a query that is not UTF-8": (RawRequest("GET", "/mine", "list-type=2&prefix=%FF"), ("InvalidURI",)),
    "a header in the response": (
        RawRequest("GET", "/mine/a.jsonl", "response-content-type=a%0D%0ASet-Cookie%3A%20a"),
        ("InvalidArgument",),
    ),
    "a range behind the end": (
        RawRequest("GET", "/mine/a.jsonl", "", (("Range", "bytes=100-"),)),
        ("InvalidRange",),
    ),
    "a condition": (RawRequest("GET", "/mine/a.jsonl", "", (("If-Match", '"x"'),)), ("PreconditionFailed",)),
    "a copy from another account": (
        RawRequest("PUT", "/mine/b", "", (("x-amz-copy-source", "/theirs/a.jsonl"),)),
        ("AccessDenied",),
    ),
    "a copy from another warehouse": (
        RawRequest("PUT", "/mine/b", "", (("x-amz-copy-source", "warehouse-222222222222/shop/events/a.parquet"),)),
        ("AccessDenied",),
    ),
    "a copy from outside": (
        RawRequest("PUT", "/mine/b", "", (("x-amz-copy-source", "/mine/..%2F..%2Fwarehouse"),)),
        ("NoSuchKey",),
    ),
    "a copy of nothing": (RawRequest("PUT", "/mine/b", "", (("x-amz-copy-source", ""),)), ("InvalidBucketName",)),
    "a copy of a version": (
        RawRequest("PUT", "/mine/b", "", (("x-amz-copy-source", "/mine/a.jsonl?versionId=1"),)),
        ("NotImplemented",),
    ),
    "a copy to another account": (
        RawRequest("PUT", "/theirs/b", "", (("x-amz-copy-source", "/mine/a.jsonl"),)),
        ("AccessDenied",),
    ),
    "a copied part from another account": (
        RawRequest("PUT", "/mine/b", f"partNumber=1&uploadId={'0' * 32}", (("x-amz-copy-source", "/theirs/a"),)),
        ("AccessDenied",),
    ),
    "another account's bucket": (RawRequest("PUT", "/theirs"), ("AccessDenied",)),
    "another account's uploads": (RawRequest("GET", "/theirs", "uploads="), ("AccessDenied",)),
    "a delete in another account": (
        post("delete=", b"<Delete>" + OBJECT + b"</Delete>", "/theirs"),
        ("AccessDenied",),
    ),
    "a bucket with objects": (RawRequest("DELETE", "/mine"), ("BucketNotEmpty",)),
    "one's own bucket again": (RawRequest("PUT", "/mine"), ("BucketAlreadyOwnedByYou",)),
    "the warehouse": (RawRequest("DELETE", "/warehouse-111111111111"), ("AccessDenied",)),
    "a file beside the tables": (put(path="/warehouse-111111111111/a.csv"), ("InvalidRequest",)),
}


def test_a_misused_operation_is_rejected(room: Room) -> None:
    def check(name: str) -> None:
        request, errors = OPERATIONS[name]
        is_rejected(room, for_s3(request, room.parties.advertiser), *errors)

    assert_each(check, OPERATIONS)


def test_uploads_of_parts_belong_to_their_account_and_key(room: Room) -> None:
    me, other = room.parties.advertiser, room.parties.publisher
    started = ask(room.gateway, for_s3(RawRequest("POST", "/mine/parts", "uploads="), me))
    upload_id = started.body.partition(b"<UploadId>")[2].partition(b"<")[0].decode()
    query = f"partNumber=1&uploadId={upload_id}"
    is_rejected(room, for_s3(put(path="/mine/parts", query=query), other), "NoSuchUpload")
    is_rejected(room, for_s3(put(path="/mine/others", query=query), me), "NoSuchUpload")
    for number in ("0", "10001"):
        numbered = f"partNumber={number}&uploadId={upload_id}"
        is_rejected(room, for_s3(put(path="/mine/parts", query=numbered), me), "InvalidArgument")
    assert ask(room.gateway, for_s3(put(path="/mine/parts", query=query), me)).status == 200
    for inner, error in (
        (b"", "MalformedXML"),
        (b"<Part><PartNumber>1</PartNumber><ETag>x</ETag></Part>", "InvalidPart"),
        (b"<Part><PartNumber>2</PartNumber><ETag>x</ETag></Part>", "InvalidPart"),
        (b"<Part><PartNumber>0</PartNumber></Part>", "InvalidPart"),
        (b"<Part><PartNumber>2</PartNumber></Part><Part><PartNumber>1</PartNumber></Part>", "InvalidPartOrder"),
        (b"<Part><PartNumber>1</PartNumber></Part>" * 10_001, "MalformedXML"),
    ):
        body = b"<CompleteMultipartUpload>" + inner + b"</CompleteMultipartUpload>"
        is_rejected(room, for_s3(post(f"uploadId={upload_id}", body, "/mine/parts"), me), error)
    gateway = replace(
        room.gateway, s3=replace(room.gateway.s3, parts=replace(room.gateway.s3.parts, most_bytes=40))
    )
    more = for_s3(put(path="/mine/parts", query=f"partNumber=2&uploadId={upload_id}"), me)
    assert ask(gateway, more).error == "EntityTooLarge", "of all parts together"
    assert (
        ask(room.gateway, for_s3(RawRequest("DELETE", "/mine/parts", f"uploadId={upload_id}"), me)).status == 204
    )
    is_rejected(room, for_s3(put(path="/mine/parts", query=query), me), "NoSuchUpload")


def test_the_number_of_attacks() -> None:
    tables = (ALTERED, PRESIGNED, SIGNED_CHUNKS, SIGNED_TRAILER, UNSIGNED_TRAILER, DECLARED, OPERATIONS)
    assert sum(map(len, tables)) >= 150


def test_every_rejection_is_quiet(room: Room, tmp_path: Path) -> None:
    """A key or a location is in no response and in no entry of the audit log."""
    del tmp_path
    answer = ask(
        room.gateway, for_s3(RawRequest("GET", f"/mine/{quote('kanarienvogel')}"), room.parties.advertiser)
    )
    assert b"kanarienvogel" not in answer.body
    assert "kanarienvogel" not in str(list(room.installation.audit.entries()))
