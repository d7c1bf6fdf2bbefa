"""Uploads and downloads: within the own account, atomic, and without leftovers.

Contract: issue 4, contract 3.12 and 3.20. The signer of an object's bytes writes it into a bucket of the same
account; a body that is wrong, too large or incomplete leaves nothing in scratch or bucket, and the old object
stays; concurrent uploads to one key are atomic; no key or symlink leads out of a bucket; another account's bucket
is rejected and its export is not found; rejections are audited without locations.
"""

import asyncio
import hashlib
import itertools
import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from urllib.parse import quote

import pytest

from cleanroom_pipelines_tests.aws.requests import RawAnswer, RawRequest

from .. import worlds
from ..cases import assert_each
from .attacking import (
    assert_rejected,
    converse,
    drips,
    entry_of,
    everything,
    files_below,
    files_in_scratch,
    in_audit,
    in_bytes,
    in_pieces,
    normalised,
    speak,
)
from .server import Party, Room, Server, add_party, ask, client_of, installation_at, signed, upload

BUCKETS = "/_cleanroom/buckets"
HOST = "gateway.test"
SECRET = b'{"user_id": "kanarienvogel"}\n'
CANARY = "kanarienvogel"


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Room:
    opened = Room.open(tmp_path_factory.mktemp("objects") / "home")
    opened.installation.catalog.parties.register_bucket("publisher-own", opened.parties.publisher.account_id)
    return opened


@pytest.fixture
def room(opened: Room) -> Room:
    """The same room for all, its buckets emptied."""
    for buckets in opened.installation.home.accounts.glob("*/buckets"):
        shutil.rmtree(buckets)
    assert files_in_scratch(opened.installation.home) == []
    return opened


def bucket_of(room: Room, party: Party, name: str) -> Path:
    return room.installation.home.accounts / party.account_id / "buckets" / name


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def put(path: str, content: bytes, *, declared: str | None = None, query: str = "") -> RawRequest:
    header = ("x-amz-content-sha256", declared or sha256(content))
    return RawRequest("PUT", f"{BUCKETS}/{path}", query, (header,), content)


def get(path: str, query: str = "", method: str = "GET") -> RawRequest:
    return RawRequest(method, f"{BUCKETS}/{path}", query)


# whole


def test_a_downloaded_object_equals_the_uploaded_one(room: Room) -> None:
    me = room.parties.advertiser
    content = os.urandom(3_000_000)
    answer = room.ask(me, put("seeds/deep/down/a.parquet", content))
    assert (answer.status, answer.body) == (200, b"")
    entry = entry_of(room.installation, answer)
    assert (entry["operation"], entry["outcome"], entry["n_bytes"]) == ("PutObject", "ok", len(content))
    assert room.ask(me, get("seeds/deep/down/a.parquet")).body == content
    assert room.ask(me, get("seeds")).json == {
        "objects": [{"key": "deep/down/a.parquet", "bytes": len(content)}],
        "after": None,
    }
    head = room.ask(me, get("seeds/deep/down/a.parquet", method="HEAD"))
    assert (head.status, head.body) == (200, b"")
    assert files_in_scratch(room.installation.home) == []
    assert "seeds" not in in_audit(room.installation), "a place may be data"


def test_the_chunking_of_a_body_does_not_matter(room: Room) -> None:
    me, content = room.parties.advertiser, os.urandom(10_000)
    request = signed(put("seeds/a.jsonl", content), me, f"http://{HOST}")
    pieces = [content[:1], b"", content[1:7_000], content[7_000:]]
    answer = asyncio.run(converse(room.gateway, request, in_pieces(*pieces)))
    assert answer is not None
    assert answer.status == 200
    assert room.ask(me, get("seeds/a.jsonl")).body == content


# or not at all


def test_a_body_must_be_signed_for(room: Room) -> None:
    def is_rejected(declared: str | None) -> None:
        header = () if declared is None else (("x-amz-content-sha256", declared),)
        before = everything(room.installation)
        answer = room.ask(
            room.parties.advertiser, RawRequest("PUT", f"{BUCKETS}/seeds/a.jsonl", "", header, SECRET)
        )
        assert_rejected(room.installation, answer, 400, "ValidationException")
        assert everything(room.installation) == before

    assert_each(
        is_rejected,
        [None, "UNSIGNED-PAYLOAD", "STREAMING-AWS4-HMAC-SHA256-PAYLOAD", "", "0" * 63, sha256(b"x").upper()],
    )


def test_a_wrong_body_leaves_the_old_object(room: Room) -> None:
    def is_rejected(body: bytes) -> None:
        me = room.parties.advertiser
        assert room.ask(me, put("seeds/a.jsonl", b"the old one")).status == 200
        before = everything(room.installation)
        answer = room.ask(me, put("seeds/a.jsonl", body, declared=sha256(SECRET)))
        assert_rejected(room.installation, answer, 403, "AccessDeniedException")
        assert everything(room.installation) == before
        assert room.ask(me, get("seeds/a.jsonl")).body == b"the old one"

    assert_each(is_rejected, [SECRET[:-1], SECRET + b" ", b"", SECRET * 2, b"x" * len(SECRET)])


@pytest.mark.parametrize("is_reported", [True, False], ids=["reported in advance", "detected"])
def test_a_too_large_object_is_rejected(room: Room, is_reported: bool) -> None:
    me, content = room.parties.advertiser, b"x" * 1001
    gateway = replace(room.gateway, files=replace(room.gateway.files, most_bytes=1000))
    before = everything(room.installation)
    request = signed(put("seeds/a.jsonl", content), me, f"http://{HOST}")
    if is_reported:
        request = request.with_header("Content-Length", str(len(content)))
    answer = asyncio.run(converse(gateway, request, in_pieces(content[:500], content[500:], b"more")))
    assert answer is not None
    assert_rejected(room.installation, answer, 413, "ValidationException")
    assert everything(room.installation) == before
    just = signed(put("seeds/a.jsonl", content[:1000]), me, f"http://{HOST}")
    assert ask(gateway, just).status == 200


def test_an_aborted_upload_leaves_nothing(room: Room) -> None:
    me = room.parties.advertiser
    before = everything(room.installation)
    request = signed(put("seeds/a.jsonl", SECRET), me, f"http://{HOST}")
    answer = asyncio.run(converse(room.gateway, request, in_pieces(SECRET[:10], leaves=True)))
    assert answer is None
    assert everything(room.installation) == before


def test_an_endless_upload_times_out(room: Room) -> None:
    hasty = replace(room.gateway, seconds_for_body=0.2)
    before = everything(room.installation)
    request = signed(put("seeds/a.jsonl", SECRET), room.parties.advertiser, f"http://{HOST}")
    answer = asyncio.run(converse(hasty, request, drips))
    assert answer is not None
    assert_rejected(room.installation, answer, 408, "ValidationException")
    assert everything(room.installation) == before


def test_a_full_disk_is_a_clear_error(
    room: Room, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    from cleanroom_pipelines.server import bucket_files

    class FullDisk:
        def __getattr__(self, name: str) -> object:
            return getattr(os, name)

        def write(self, *_: object) -> int:
            raise OSError(28, f"No space left on {CANARY}")

    before = everything(room.installation)
    with monkeypatch.context() as patch:
        patch.setattr(bucket_files, "os", FullDisk())
        answer = room.ask(room.parties.advertiser, put("seeds/a.jsonl", SECRET))
    assert (answer.status, answer.error) == (500, "InternalServiceException")
    assert entry_of(room.installation, answer)["outcome"] == "failed"
    assert everything(room.installation) == before
    said = capfd.readouterr()
    assert CANARY not in said.out + said.err + answer.body.decode()
    assert "Traceback" not in said.err


def test_concurrent_uploads_to_one_key_are_atomic(room: Room) -> None:
    me = room.parties.advertiser
    contents = [bytes([number]) * 200_000 for number in range(12)]

    async def scenario() -> list[RawAnswer | None]:
        requests = [signed(put("seeds/a.jsonl", content), me, f"http://{HOST}") for content in contents]
        halves = [in_pieces(content[:100_000], content[100_000:]) for content in contents]
        return list(
            await asyncio.gather(*(converse(room.gateway, *each) for each in zip(requests, halves, strict=True)))
        )

    answers = asyncio.run(scenario())
    assert [answer.status for answer in answers if answer] == [200] * 12
    assert room.ask(me, get("seeds/a.jsonl")).body in contents
    assert [entry["key"] for entry in room.ask(me, get("seeds")).json["objects"]] == ["a.jsonl"]
    assert files_in_scratch(room.installation.home) == []
    assert [path.name for path in bucket_of(room, me, "seeds").iterdir()] == ["a.jsonl"]


# keys

BAD_KEYS = [
    "%2e%2e/other/a.jsonl",
    "a/%2e%2e/%2e%2e/other/a.jsonl",
    "a/%2E%2E",
    "%2e/a.jsonl",
    "..%2Fother%2Fa.jsonl",
    "%2Fetc%2Fpasswd",
    "a%2Fb.jsonl",
    "a%5C..%5Cb.jsonl",
    "a%00.jsonl",
    "a%0Ab.jsonl",
    "a%7Fb.jsonl",
    "%C0%AE%C0%AE/a.jsonl",
    "%FF.jsonl",
    "%zz.jsonl",
    "a%252e%252e.jsonl",
    quote("\uff41.jsonl"),
    quote("a\u202egpj.jsonl"),
    ".a.jsonl.0123abcd.draft",
    "~%2Fa.jsonl",
    "a" * 256,
    "/".join("a" * 65),
    "a" * 200 + "/" + "/".join(["b" * 200] * 5),
]


def test_a_key_outside_the_bucket_is_rejected(room: Room) -> None:
    def is_rejected(key: str, method: str) -> None:
        before = everything(room.installation)
        request = put(f"seeds/{key}", SECRET) if method == "PUT" else get(f"seeds/{key}")
        answer = room.ask(room.parties.advertiser, request)
        room.installation.audit.flush()
        entry = assert_rejected(room.installation, answer, 400, "ValidationException")
        assert entry["account"] == room.parties.advertiser.account_id
        assert str(room.installation.home.root) not in answer.json["message"]
        assert everything(room.installation) == before

    assert_each(is_rejected, itertools.product(BAD_KEYS, ("PUT", "GET")))


def test_an_invalid_bucket(room: Room) -> None:
    def is_rejected(path: str) -> None:
        before = everything(room.installation)
        for request in (put(path, SECRET), get(path)):
            answer = room.ask(room.parties.advertiser, request)
            assert answer.status in (400, 403)
            assert entry_of(room.installation, answer)["outcome"] == "refused"
        assert everything(room.installation) == before

    assert_each(is_rejected, ["..", "%2e%2e/x", "", "UPPER/x", "a/x", "192.168.0.1%2Fx/y", "-a-/x", "a%00b/x"])


def test_a_listing_stays_in_its_bucket(room: Room) -> None:
    def is_rejected(query: str) -> None:
        room.ask(room.parties.advertiser, put("other/a.jsonl", SECRET))
        answer = room.ask(room.parties.advertiser, get("seeds", query))
        assert_rejected(room.installation, answer, 400, "ValidationException")
        assert "a.jsonl" not in answer.body.decode()

    assert_each(is_rejected, ["prefix=..", "prefix=a%2F..%2F..", "prefix=%00", "prefix=a%2F%2Fb", "prefix=%FF"])


def test_a_listing_after_any_key_ends(room: Room) -> None:
    me = room.parties.advertiser
    for name in ("a", "b"):
        room.ask(me, put(f"seeds/{name}.jsonl", SECRET))
    for after in ("%00", "..%2F..", "%FF", "z" * 5_000):
        answer = room.ask(me, get("seeds", f"after={after}"))
        assert answer.status == 200
        assert {entry["key"] for entry in answer.json["objects"]} <= {"a.jsonl", "b.jsonl"}


# links


@pytest.fixture
def planted(room: Room, tmp_path: Path) -> Path:
    """A file outside, to which links of the bucket lead."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret.jsonl").write_bytes(SECRET)
    bucket = bucket_of(room, room.parties.advertiser, "seeds")
    bucket.mkdir(parents=True)
    (bucket / "own.jsonl").write_bytes(b"own")
    (bucket / "file.jsonl").symlink_to(outside / "secret.jsonl")
    (bucket / "folder").symlink_to(outside)
    (bucket / "inside.jsonl").symlink_to(bucket / "own.jsonl")
    (bucket / "dangling.jsonl").symlink_to(outside / "new.jsonl")
    (bucket.parent / "whole").symlink_to(outside)
    os.mkfifo(bucket / "pipe.jsonl")
    return outside


LINKED = [
    "seeds/file.jsonl",
    "seeds/folder/secret.jsonl",
    "seeds/inside.jsonl",
    "seeds/dangling.jsonl",
    "whole/secret.jsonl",
    "seeds/pipe.jsonl",
]


def test_symlinks_are_not_followed(room: Room, planted: Path) -> None:
    def is_not_followed(path: str) -> None:
        before = everything(room.installation), files_below(planted)
        answer = room.ask(room.parties.advertiser, get(path))
        assert answer.status in (400, 404)
        assert CANARY not in answer.body.decode()
        if "pipe" not in path:  # which a file may replace
            answer = room.ask(room.parties.advertiser, put(path, b"new"))
            assert_rejected(room.installation, answer, 400, "ValidationException")
            assert str(planted) not in answer.json["message"]
        assert (everything(room.installation), files_below(planted)) == before
        assert (planted / "secret.jsonl").read_bytes() == SECRET

    assert_each(is_not_followed, LINKED)


def test_a_listing_omits_symlinks(room: Room, planted: Path) -> None:
    listed = room.ask(room.parties.advertiser, get("seeds")).json["objects"]
    assert [entry["key"] for entry in listed] == ["own.jsonl"]
    for request in (get("seeds", "prefix=folder"), get("whole")):
        answer = room.ask(room.parties.advertiser, request)
        assert answer.status in (200, 400)
        assert "secret" not in answer.body.decode()


def test_folders_and_objects_are_not_confused(room: Room) -> None:
    me = room.parties.advertiser
    assert room.ask(me, put("seeds/a/b.jsonl", SECRET)).status == 200
    before = everything(room.installation)
    for path in ("seeds/a", "seeds/a/b.jsonl/c.jsonl", "seeds/a/", "seeds"):
        answer = room.ask(me, put(path, b"new"))
        assert_rejected(room.installation, answer, 400, "ValidationException")
    for path in ("seeds/a", "seeds/a/b.jsonl/c.jsonl"):
        answer = room.ask(me, get(path))
        assert answer.status == 404
    assert everything(room.installation) == before


# others


def test_another_accounts_bucket_is_rejected(room: Room) -> None:
    owner, me = room.parties.publisher, room.parties.advertiser
    assert room.ask(owner, put("publisher-own/a.jsonl", SECRET)).status == 200
    before = everything(room.installation)
    answers = [
        room.ask(me, request)
        for path in ("publisher-own/a.jsonl", "publisher-own/never.jsonl")
        for request in (put(path, b"new"), get(path))
    ]
    answers.append(room.ask(me, get("publisher-own")))
    room.installation.audit.flush()
    for answer in answers:
        assert_rejected(room.installation, answer, 403, "AccessDeniedException")
    assert len({normalised(answer) for answer in answers}) == 1, "what is there and what is not sound the same"
    assert everything(room.installation) == before


def test_a_bucket_of_the_same_name_is_another_bucket(room: Room) -> None:
    owner, me = room.parties.publisher, room.parties.advertiser
    assert room.ask(owner, put("nobodys/a.jsonl", SECRET)).status == 200
    answer = room.ask(me, get("nobodys/a.jsonl"))
    room.installation.audit.flush()
    assert_rejected(room.installation, answer, 404, "ResourceNotFoundException")
    never = room.ask(me, get("nobodys/never.jsonl"))
    assert normalised(answer) == normalised(never)
    assert room.ask(me, get("nobodys")).json == {"objects": [], "after": None}


def test_the_export_of_another_account_is_not_found(room: Room) -> None:
    owner = room.parties.publisher
    exported = bucket_of(room, owner, "publisher-audiences") / "shop" / "0123456789ab"
    exported.mkdir(parents=True)
    (exported / "part-00000.jsonl").write_bytes(SECRET)
    path = "publisher-audiences/shop/0123456789ab/part-00000.jsonl"
    assert room.ask(owner, get(path)).body == SECRET
    for party in (room.parties.advertiser, room.parties.stranger):
        answer = room.ask(party, get(path))
        room.installation.audit.flush()
        assert_rejected(room.installation, answer, 404, "ResourceNotFoundException")


def test_an_unsigned_request_reveals_nothing(room: Room) -> None:
    room.ask(room.parties.publisher, put("publisher-own/a.jsonl", SECRET))
    before = everything(room.installation)
    answers = [
        ask(room.gateway, request)
        for path in ("publisher-own/a.jsonl", "publisher-own/never.jsonl", "publisher-own", "never")
        for request in (get(path), put(path, SECRET))
    ]
    for answer in answers:
        assert_rejected(room.installation, answer, 403, "AccessDeniedException")
    assert len({normalised(answer) for answer in answers}) == 1
    assert everything(room.installation) == before


def test_only_get_and_put_are_supported(room: Room) -> None:
    def is_rejected(method: str) -> None:
        room.ask(room.parties.advertiser, put("seeds/a.jsonl", SECRET))
        before = everything(room.installation)
        answer = room.ask(room.parties.advertiser, RawRequest(method, f"{BUCKETS}/seeds/a.jsonl"))
        room.installation.audit.flush()
        assert_rejected(room.installation, answer, 405, "UnknownOperationException")
        assert everything(room.installation) == before

    assert_each(is_rejected, ["POST", "DELETE", "PATCH", "OPTIONS"])


# over a socket


def test_a_connection_that_breaks_leaves_nothing(shared_server: Server) -> None:
    server, installation = shared_server, installation_at(shared_server.home)
    me = add_party(installation, "breaker", "444444444444")
    content = SECRET * 100_000
    request = signed(put("broken/a.jsonl", content), me, server.url)
    request = request.with_header("Content-Length", str(len(content)))
    before = everything(installation)
    whole = in_bytes(request)

    def broken() -> Iterator[bytes]:
        yield whole[: len(whole) // 2]
        worlds.wait_until(lambda: files_in_scratch(installation.home), seconds=600, what="the begin of the upload")

    speak(server.url, broken(), seconds=0.1)
    worlds.wait_until(
        lambda: not files_in_scratch(installation.home), seconds=600, what="the end of what was begun"
    )
    assert everything(installation) == before
    assert upload(server.url, me, "broken/a.jsonl", content).status == 200
    assert "Traceback" not in server.log.read_text()
    assert CANARY not in server.log.read_text() + in_audit(installation)


def test_a_seed_location_resolves_to_the_uploaded_object(room: Room) -> None:
    """The way to a seed and the way to an object are one."""
    me = room.parties.advertiser
    assert room.ask(me, put("advertiser-seeds/new.jsonl", SECRET)).status == 200
    place = room.installation.buckets.locate(me.account_id, "s3://advertiser-seeds/new.jsonl")
    assert json.loads(b"".join(place.open().chunks())) == {"user_id": CANARY}
    assert client_of(room.gateway, me).list_training_datasets()["trainingDatasets"] == []
