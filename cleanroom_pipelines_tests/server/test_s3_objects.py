"""Objects by S3: within the own account, atomic, and without leftovers.

Contract: the signer of an object's bytes writes it into a bucket of the same account; a body that is wrong, too
large or incomplete leaves nothing in scratch or bucket, and the old object stays; concurrent uploads to one key
are atomic; any legal key is an object, and no key or symlink leads out of a bucket; another account's bucket is
rejected and its export is not found; rejections are audited without locations.
"""

import asyncio
import errno
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import quote
from xml.etree import ElementTree as ET

import pytest

from cleanroom_pipelines.aws.s3.wire import NAMESPACE
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
    for party in (opened.parties.publisher, opened.parties.advertiser):
        bucket_of(opened, party, "seeds").mkdir(parents=True)
    assert files_in_scratch(opened.installation.home) == []
    return opened


def bucket_of(room: Room, party: Party, name: str) -> Path:
    return room.installation.home.accounts / party.account_id / "buckets" / name


def put(path: str, content: bytes, *headers: tuple[str, str]) -> RawRequest:
    return RawRequest("PUT", f"/{path}", "", (*headers, ("Content-Length", str(len(content)))), content)


def get(path: str, query: str = "", method: str = "GET") -> RawRequest:
    return RawRequest(method, f"/{path}", query)


def for_s3(request: RawRequest, party: Party) -> RawRequest:
    return signed(request, party, f"http://{HOST}", service="s3")


def send(room: Room, party: Party, request: RawRequest) -> RawAnswer:
    """Sign a request for S3 and give it to the gateway."""
    return ask(room.gateway, for_s3(request, party))


def keys(room: Room, party: Party, bucket: str, query: str = "") -> list[str]:
    """The keys that a listing shows."""
    answer = send(room, party, get(bucket, f"list-type=2&{query}".rstrip("&")))
    assert answer.status == 200, answer.body
    return [element.text or "" for element in ET.fromstring(answer.body).iter(f"{{{NAMESPACE}}}Key")]


# whole


def test_a_downloaded_object_equals_the_uploaded_one(room: Room) -> None:
    me = room.parties.advertiser
    content = os.urandom(3_000_000)
    answer = send(room, me, put("seeds/deep/down/a.parquet", content))
    assert (answer.status, answer.body) == (200, b"")
    entry = entry_of(room.installation, answer)
    assert (entry["operation"], entry["outcome"], entry["n_bytes"]) == ("PutObject", "ok", len(content))
    assert send(room, me, get("seeds/deep/down/a.parquet")).body == content
    assert keys(room, me, "seeds") == ["deep/down/a.parquet"]
    head = send(room, me, get("seeds/deep/down/a.parquet", method="HEAD"))
    assert (head.status, head.body, head.headers["content-length"]) == (200, b"", str(len(content)))
    assert files_in_scratch(room.installation.home) == []
    assert "seeds" not in in_audit(room.installation), "a place may be data"


def test_the_chunking_of_a_body_does_not_matter(room: Room) -> None:
    me, content = room.parties.advertiser, os.urandom(10_000)
    request = for_s3(put("seeds/a.jsonl", content), me)
    pieces = [content[:1], b"", content[1:7_000], content[7_000:]]
    answer = asyncio.run(converse(room.gateway, request, in_pieces(*pieces)))
    assert answer is not None
    assert answer.status == 200
    assert send(room, me, get("seeds/a.jsonl")).body == content


def test_a_page_of_an_object_runs_no_scripts(room: Room) -> None:
    """A console may be served at the same address."""
    me = room.parties.advertiser
    send(room, me, put("seeds/a.html", SECRET, ("Content-Type", "text/html")))
    answer = send(room, me, get("seeds/a.html"))
    assert answer.headers["content-type"] == "text/html"
    assert answer.headers["content-security-policy"] == "sandbox"
    assert answer.headers["x-content-type-options"] == "nosniff"


# or not at all


def test_a_wrong_body_leaves_the_old_object(room: Room) -> None:
    def is_rejected(body: bytes) -> None:
        me = room.parties.advertiser
        assert send(room, me, put("seeds/a.jsonl", b"the old one")).status == 200
        before = everything(room.installation)
        answer = ask(room.gateway, replace(for_s3(put("seeds/a.jsonl", SECRET), me), body=body))
        assert_rejected(room.installation, answer, 400, str(answer.error))
        assert answer.error in ("IncompleteBody", "XAmzContentSHA256Mismatch")
        assert everything(room.installation) == before
        assert send(room, me, get("seeds/a.jsonl")).body == b"the old one"

    assert_each(is_rejected, [SECRET[:-1], SECRET + b" ", b"", SECRET * 2, b"x" * len(SECRET)])


@pytest.mark.parametrize("is_reported", [True, False], ids=["reported in advance", "detected"])
def test_a_too_large_object_is_rejected(room: Room, is_reported: bool) -> None:
    me, content = room.parties.advertiser, b"x" * 1001
    s3 = replace(room.gateway.s3, parts=replace(room.gateway.s3.parts, most_bytes=1000))
    gateway = replace(room.gateway, s3=s3)
    before = everything(room.installation)
    request = for_s3(put("seeds/a.jsonl", content), me)
    if not is_reported:
        request = request.with_header("Content-Length", None).with_header("Transfer-Encoding", "chunked")
        request = for_s3(RawRequest("PUT", "/seeds/a.jsonl", "", (("Transfer-Encoding", "chunked"),), content), me)
    answer = asyncio.run(converse(gateway, request, in_pieces(content[:500], content[500:], b"more")))
    assert answer is not None
    assert_rejected(room.installation, answer, 413, "EntityTooLarge")
    assert everything(room.installation) == before
    assert ask(gateway, for_s3(put("seeds/a.jsonl", content[:1000]), me)).status == 200


def test_an_aborted_upload_leaves_nothing(room: Room) -> None:
    before = everything(room.installation)
    request = for_s3(put("seeds/a.jsonl", SECRET), room.parties.advertiser)
    answer = asyncio.run(converse(room.gateway, request, in_pieces(SECRET[:10], leaves=True)))
    assert answer is None
    assert everything(room.installation) == before


def test_an_endless_upload_times_out(room: Room) -> None:
    hasty = replace(room.gateway, seconds_for_body=0.2)
    before = everything(room.installation)
    request = for_s3(put("seeds/a.jsonl", b" " * 1_000_000), room.parties.advertiser)
    answer = asyncio.run(converse(hasty, request, drips))
    assert answer is not None
    assert_rejected(room.installation, answer, 400, "RequestTimeout")
    assert answer.headers["connection"] == "close"
    assert everything(room.installation) == before


def test_a_full_disk_is_a_clear_error(
    room: Room, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    class FullDisk(tempfile.SpooledTemporaryFile):  # type: ignore[type-arg]
        def write(self, *_: object) -> int:
            raise OSError(errno.ENOSPC, f"No space left on {CANARY}")

    before = everything(room.installation)
    with monkeypatch.context() as patch:
        patch.setattr(tempfile, "SpooledTemporaryFile", FullDisk)
        answer = send(room, room.parties.advertiser, put("seeds/a.jsonl", SECRET))
    assert (answer.status, answer.error) == (500, "InternalError")
    assert entry_of(room.installation, answer)["outcome"] == "failed"
    assert everything(room.installation) == before
    said = capfd.readouterr()
    assert CANARY not in said.out + said.err + answer.body.decode()
    assert "Traceback" not in said.err


def test_concurrent_uploads_to_one_key_are_atomic(room: Room) -> None:
    me = room.parties.advertiser
    contents = [bytes([number]) * 200_000 for number in range(12)]

    async def scenario() -> list[RawAnswer | None]:
        requests = [for_s3(put("seeds/deep/a.jsonl", content), me) for content in contents]
        halves = [in_pieces(content[:100_000], content[100_000:]) for content in contents]
        return list(
            await asyncio.gather(*(converse(room.gateway, *each) for each in zip(requests, halves, strict=True)))
        )

    answers = asyncio.run(scenario())
    assert [answer.status for answer in answers if answer] == [200] * 12
    assert send(room, me, get("seeds/deep/a.jsonl")).body in contents
    assert keys(room, me, "seeds") == ["deep/a.jsonl"]
    assert files_in_scratch(room.installation.home) == []
    assert [path.name for path in (bucket_of(room, me, "seeds") / "deep").iterdir()] == ["a.jsonl"]


TOO_MUCH = [
    (("x-amz-meta-a", '"' * 2_000),),
    (("x-amz-meta-a", "a" * 2_000), ("Content-Disposition", "b" * 2_000)),
]


def test_every_accepted_object_can_be_read_again(room: Room, tmp_path: Path) -> None:
    """Headers and metadata that the disk cannot keep with the file, or a response cannot have, are rejected."""
    del tmp_path
    me = room.parties.advertiser

    def is_refused(headers: tuple[tuple[str, str], ...]) -> None:
        assert send(room, me, put("seeds/a", SECRET, *headers)).error == "InvalidArgument"
        assert send(room, me, get("seeds/a")).error == "NoSuchKey"

    assert_each(is_refused, [(each,) for each in TOO_MUCH])
    odd = for_s3(put("seeds/a", SECRET), me).with_header("Content-Disposition", "caf\xe9")
    assert ask(room.gateway, odd).error == "InvalidArgument"
    assert send(room, me, get("seeds/a")).error == "NoSuchKey"
    kept = (("x-amz-meta-a", "a" * 2_000), ("Content-Disposition", "b" * 1_000))
    assert send(room, me, put("seeds/a", SECRET, *kept)).status == 200
    answer = send(room, me, get("seeds/a"))
    assert (answer.body, answer.headers["x-amz-meta-a"], answer.headers["content-disposition"]) == (
        SECRET,
        "a" * 2_000,
        "b" * 1_000,
    )


# keys

ODD_KEYS = [
    "day=1/a+b@c ü.jsonl",
    "../other/a.jsonl",
    "a/../../other/a.jsonl",
    "a/..",
    "./a.jsonl",
    "/etc/passwd",
    "a//b",
    "a/",
    "/",
    "..",
    "a\\..\\b.jsonl",
    "a\0.jsonl",
    "a\nb.jsonl",
    "a\x7fb.jsonl",
    "%2e%2e/a",
    "a%00",
    "\uff41.jsonl",
    "a\u202egpj.jsonl",
    "a\u0308",  # not composed
    ".a.jsonl.0123abcd.draft",
    ".export-0123abcd",
    "~/a.jsonl",
    "~root",
    "*",
    "[a]?{b}",
    "'; DROP TABLE x; --",
    "a" * 255,
    "/".join("a" * 64),
]


def test_any_legal_key_is_an_object_of_its_bucket(room: Room) -> None:
    def is_kept(key: str) -> None:
        me, bucket = room.parties.advertiser, bucket_of(room, room.parties.advertiser, "seeds")
        outside = set(files_below(room.installation.home.accounts)) - set(files_below(bucket))
        path = f"seeds/{quote(key, safe='/-_.~')}"
        assert send(room, me, put(path, key.encode())).status == 200
        assert send(room, me, get(path)).body == key.encode()
        assert [quote(each) for each in keys(room, me, "seeds", "encoding-type=url")] == [
            quote(quote(key, safe="/-_.~"))
        ]
        assert set(files_below(room.installation.home.accounts)) - set(files_below(bucket)) == outside
        assert send(room, me, get(path, method="DELETE")).status == 204
        assert send(room, me, get(path)).error == "NoSuchKey"
        assert list(bucket.iterdir()) == [], "no empty folder stays"

    assert_each(is_kept, ODD_KEYS)


BAD_KEYS = [
    "%C0%AE%C0%AE/a.jsonl",
    "%FF.jsonl",
    "a" * 256,
    "/".join("a" * 65),
    "a" * 200 + "/" + "/".join(["b" * 200] * 5),
]


def test_a_key_that_cannot_be_stored_is_rejected(room: Room) -> None:
    def is_rejected(key: str, method: str) -> None:
        before = everything(room.installation)
        request = put(f"seeds/{key}", SECRET) if method == "PUT" else get(f"seeds/{key}")
        answer = send(room, room.parties.advertiser, request)
        room.installation.audit.flush()
        entry = assert_rejected(room.installation, answer, 400, "InvalidURI" if "%" in key else "KeyTooLongError")
        assert entry["account"] == room.parties.advertiser.account_id
        assert str(room.installation.home.root) not in answer.body.decode()
        assert everything(room.installation) == before

    assert_each(is_rejected, [(key, method) for key in BAD_KEYS for method in ("PUT", "GET")])


def test_an_invalid_bucket(room: Room) -> None:
    def is_rejected(path: str) -> None:
        before = everything(room.installation)
        for request in (put(path, SECRET), get(path)):
            answer = send(room, room.parties.advertiser, request)
            assert answer.error in ("InvalidBucketName", "InvalidURI"), answer.body
            assert entry_of(room.installation, answer)["outcome"] == "refused"
        assert everything(room.installation) == before

    bad = ["..", "../x", "/x", "UPPER/x", "a/x", "-a-/x", "a%00b/x", "%FF/x", "_cleanroom/x"]
    assert_each(is_rejected, bad)


def test_a_listing_stays_in_its_bucket(room: Room) -> None:
    def is_empty(query: str) -> None:
        send(room, room.parties.advertiser, put("other/a.jsonl", SECRET))
        assert keys(room, room.parties.advertiser, "seeds", query) == []

    bad = ["..", "..%2Fother%2F", "%2F", "a%2F..%2F..", "%00", "a%2F%2Fb", "..%2Fother%2Fa", "z" * 5_000, "~"]
    assert_each(is_empty, [f"prefix={each}" for each in bad])


def test_a_listing_after_any_key_ends(room: Room) -> None:
    me = room.parties.advertiser
    for name in ("a", "b"):
        send(room, me, put(f"seeds/{name}.jsonl", SECRET))
    for after in ("%00", "..%2F..", "%F4%8F%BF%BF", "z" * 5_000):
        assert set(keys(room, me, "seeds", f"start-after={after}")) <= {"a.jsonl", "b.jsonl"}


# links


@pytest.fixture
def planted(room: Room, tmp_path: Path) -> Path:
    """A file outside, to which links of the bucket lead."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret.jsonl").write_bytes(SECRET)
    bucket = bucket_of(room, room.parties.advertiser, "seeds")
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
        answer = send(room, room.parties.advertiser, get(path))
        assert answer.status in (400, 404)
        assert CANARY not in answer.body.decode()
        if "pipe" not in path:  # which a file may replace
            for request in (put(path, b"new"), get(path, method="DELETE")):
                answer = send(room, room.parties.advertiser, request)
                assert answer.status in (400, 404), answer.body
                assert str(planted) not in answer.body.decode()
        assert (everything(room.installation), files_below(planted)) == before
        assert (planted / "secret.jsonl").read_bytes() == SECRET

    assert_each(is_not_followed, LINKED)


def test_a_listing_omits_symlinks(room: Room, planted: Path) -> None:
    assert planted.is_dir()
    assert keys(room, room.parties.advertiser, "seeds") == ["own.jsonl"]
    for request in (get("seeds", "list-type=2&prefix=folder%2F"), get("whole", "list-type=2")):
        answer = send(room, room.parties.advertiser, request)
        assert answer.status in (200, 400, 404)
        assert "secret" not in answer.body.decode()


def test_folders_and_objects_are_not_confused(room: Room) -> None:
    me = room.parties.advertiser
    assert send(room, me, put("seeds/a/b.jsonl", SECRET)).status == 200
    before = everything(room.installation)
    for path in ("seeds/a", "seeds/a/b.jsonl/c.jsonl"):
        answer = send(room, me, put(path, b"new"))
        assert_rejected(room.installation, answer, 409, "InvalidRequest")
        assert send(room, me, get(path)).error == "NoSuchKey"
        assert send(room, me, get(path, method="DELETE")).status == 204
    assert everything(room.installation) == before


# others


def test_another_accounts_bucket_is_rejected(room: Room) -> None:
    owner, me = room.parties.publisher, room.parties.advertiser
    assert send(room, owner, put("publisher-own/a.jsonl", SECRET)).status == 200
    before = everything(room.installation)
    theirs = ["publisher-own", f"warehouse-{owner.account_id}", "warehouse-999999999999"]
    answers = [
        send(room, me, request)
        for bucket in theirs
        for path in (f"{bucket}/a.jsonl", f"{bucket}/never.jsonl")
        for request in (put(path, b"new"), get(path), get(path, method="DELETE"))
    ]
    answers += [
        send(room, me, get(bucket, query)) for bucket in theirs for query in ("", "list-type=2", "location=")
    ]
    room.installation.audit.flush()
    for answer in answers:
        assert_rejected(room.installation, answer, 403, "AccessDenied")
    assert len({normalised(answer) for answer in answers}) == 1, "what is there and what is not sound the same"
    assert everything(room.installation) == before


def test_a_bucket_of_the_same_name_is_another_bucket(room: Room) -> None:
    owner, me = room.parties.publisher, room.parties.advertiser
    assert send(room, owner, put("seeds/a.jsonl", SECRET)).status == 200
    answer = send(room, me, get("seeds/a.jsonl"))
    room.installation.audit.flush()
    assert_rejected(room.installation, answer, 404, "NoSuchKey")
    assert normalised(answer) == normalised(send(room, me, get("seeds/never.jsonl")))
    assert keys(room, me, "seeds") == []


def test_the_export_of_another_account_is_not_found(room: Room) -> None:
    owner = room.parties.publisher
    exported = bucket_of(room, owner, "publisher-audiences") / "shop" / "0123456789ab"
    exported.mkdir(parents=True)
    (exported / "part-00000.jsonl").write_bytes(SECRET)
    path = "publisher-audiences/shop/0123456789ab/part-00000.jsonl"
    assert send(room, owner, get(path)).body == SECRET
    for party in (room.parties.advertiser, room.parties.stranger):
        answer = send(room, party, get(path))
        room.installation.audit.flush()
        assert_rejected(room.installation, answer, 404, "NoSuchBucket")


def test_an_unsigned_request_reveals_nothing(room: Room) -> None:
    send(room, room.parties.publisher, put("publisher-own/a.jsonl", SECRET))
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


# over a socket


def test_a_connection_that_breaks_leaves_nothing(shared_server: Server) -> None:
    server, installation = shared_server, installation_at(shared_server.home)
    me = add_party(installation, "breaker", "444444444444")
    content = SECRET * 100_000
    whole = in_bytes(signed(put("broken/a.jsonl", content), me, server.url, service="s3"))
    before = everything(installation)

    def broken() -> Iterator[bytes]:
        yield whole[: len(whole) // 2]

    speak(server.url, broken(), seconds=0.1)
    worlds.wait_until(lambda: not files_in_scratch(installation.home), seconds=600, what="the end of the upload")
    assert everything(installation) == before
    assert upload(server.url, me, "broken/a.jsonl", content).status == 200
    assert "Traceback" not in server.log.read_text()
    assert CANARY not in server.log.read_text() + in_audit(installation)


def test_a_seed_location_resolves_to_the_uploaded_object(room: Room) -> None:
    """The way to a seed and the way to an object are one, for any key."""
    me = room.parties.advertiser
    for key in ("new.jsonl", "day=1/a+b@c ü.jsonl"):
        assert send(room, me, put(f"advertiser-seeds/{quote(key)}", SECRET)).status == 200
        place = room.installation.buckets.locate(me.account_id, f"s3://advertiser-seeds/{key}")
        with place.open() as found:
            assert json.loads(b"".join(found.chunks())) == {"user_id": CANARY}
    assert client_of(room.gateway, me).list_training_datasets()["trainingDatasets"] == []


def test_a_table_is_a_folder_of_the_warehouse(room: Room) -> None:
    me: Any = room.parties.publisher
    bucket = f"warehouse-{me.account_id}"
    assert send(room, me, put(f"{bucket}/shop/sales/city%3DK%C3%B6ln/a.csv", b"a,b\n1,2\n")).status == 200
    folder = room.installation.home.accounts / me.account_id / "warehouse"
    assert (folder / "shop" / "sales" / "city=Köln" / "a.csv").read_bytes() == b"a,b\n1,2\n"
    assert "shop/sales/city=Köln/a.csv" in keys(room, me, bucket)
    assert send(room, me, get(f"{bucket}/shop/events/a.parquet")).status == 200, "what the operator put there"
    for path in ("a.csv", "shop/a.csv", "../shop/a.csv", "shop/../a.csv", "shop//a.csv"):
        answer = send(room, me, put(f"{bucket}/{path}", b"x"))
        assert_rejected(room.installation, answer, 400, "InvalidRequest")
    assert send(room, me, get(f"{bucket}/shop/sales/city%3DK%C3%B6ln/a.csv", method="DELETE")).status == 204
    assert send(room, me, RawRequest("DELETE", f"/{bucket}")).error == "AccessDenied"
