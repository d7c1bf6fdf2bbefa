"""The S3 API as boto3 uses it, with botocore's own model, against a real `cleanroom serve`.

Contract: every served operation answers an unmodified client with what the model describes; listings and parts
have pages; both address styles, ranges, conditions, metadata, checksums, presigned URLs and managed transfers
work.
"""

import io
import os
import re
import socket
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import botocore.session
import pytest
from boto3.s3.transfer import TransferConfig
from botocore.exceptions import ClientError
from botocore.model import OperationModel

from cleanroom_pipelines.server.s3.api import OPERATIONS
from cleanroom_pipelines_tests.offenders import offenders

from ..object_stores import needs_file_attributes
from .server import REGION, Party, Server, add_party, installation_at, s3_client

KEY = "day=1/a+b@c ü.jsonl"
PART = 5 << 20
IN_PARTS = TransferConfig(multipart_threshold=PART, multipart_chunksize=PART, max_concurrency=2)


@dataclass
class Door:
    """A client of a running server; each answer to it must be as the model says."""

    server: Server
    party: Party
    client: Any


@pytest.fixture(scope="module")
def door(shared_server: Server) -> Iterator[Door]:
    party = add_party(installation_at(shared_server.home), "objects", "555555555555")
    door = Door(shared_server, party, s3_client(shared_server.url, party))
    door.client.meta.events.register("after-call.s3.*", is_as_the_model_says)
    yield door
    for bucket in ("contract", "copies", "pages", "parts"):
        empty(door.client, bucket)


def is_as_the_model_says(parsed: Mapping[str, Any], model: OperationModel, **_: Any) -> None:
    shape = model.output_shape
    if "Error" not in parsed and shape is not None:
        assert parsed.keys() - {"ResponseMetadata"} <= shape.members.keys(), model.name
        assert set(shape.required_members) <= parsed.keys(), model.name


def empty(client: Any, bucket: str) -> None:
    try:
        for page in client.get_paginator("list_objects_v2").paginate(Bucket=bucket):
            for each in page.get("Contents", ()):
                client.delete_object(Bucket=bucket, Key=each["Key"])
        client.delete_bucket(Bucket=bucket)
    except client.exceptions.NoSuchBucket:
        return


def test_buckets(door: Door) -> None:
    s3, account = door.client, door.party.account_id
    with pytest.raises(ClientError, match="404"):
        s3.head_bucket(Bucket="contract")
    s3.create_bucket(Bucket="contract", CreateBucketConfiguration={"LocationConstraint": REGION})
    with pytest.raises(s3.exceptions.BucketAlreadyOwnedByYou):
        s3.create_bucket(Bucket="contract", CreateBucketConfiguration={"LocationConstraint": REGION})
    s3.head_bucket(Bucket="contract")
    assert s3.get_bucket_location(Bucket="contract")["LocationConstraint"] == REGION
    assert "Status" not in s3.get_bucket_versioning(Bucket="contract")
    names = [bucket["Name"] for bucket in s3.list_buckets()["Buckets"]]
    assert names == ["contract", f"warehouse-{account}"]
    pages = s3.get_paginator("list_buckets").paginate(PaginationConfig={"PageSize": 1})
    assert [bucket["Name"] for page in pages for bucket in page["Buckets"]] == names
    s3.delete_bucket(Bucket="contract")
    assert [bucket["Name"] for bucket in s3.list_buckets()["Buckets"]] == names[1:]


@needs_file_attributes
def test_an_object(door: Door) -> None:
    s3 = door.client
    made = s3.put_object(
        Bucket="contract",
        Key=KEY,
        Body=b"0123456789",
        ContentType="text/csv",
        CacheControl="no-store",
        Metadata={"season": "spring"},
    )
    assert made["ETag"] == '"781e5e245d69b566979b86e28d23f2c7"', "the MD5 of the content"
    assert made["ChecksumCRC32"]
    head = s3.head_object(Bucket="contract", Key=KEY)
    assert (head["ContentLength"], head["ContentType"], head["ETag"]) == (10, "text/csv", made["ETag"])
    found = s3.get_object(Bucket="contract", Key=KEY)
    assert (found["Body"].read(), found["Metadata"], found["CacheControl"]) == (
        b"0123456789",
        {"season": "spring"},
        "no-store",
    )
    assert s3.get_object_tagging(Bucket="contract", Key=KEY)["TagSet"] == []
    assert s3.delete_object(Bucket="contract", Key=KEY)["ResponseMetadata"]["HTTPStatusCode"] == 204
    with pytest.raises(s3.exceptions.NoSuchKey):
        s3.get_object(Bucket="contract", Key=KEY)
    with pytest.raises(ClientError, match="404"):
        s3.head_object(Bucket="contract", Key=KEY)


RANGES = {
    "bytes=0-0": b"0",
    "bytes=2-4": b"234",
    "bytes=7-": b"789",
    "bytes=7-1000": b"789",
    "bytes=-3": b"789",
    "bytes=-1000": b"0123456789",
    "bytes=0-1,3-4": b"0123456789",  # S3 has only single ranges
    "bytes=4-2": b"0123456789",
    "lines=1-2": b"0123456789",
}


def test_ranges(door: Door) -> None:
    s3 = door.client
    s3.put_object(Bucket="contract", Key="ranges", Body=b"0123456789")

    def check(text: str, content: bytes) -> None:
        answer = s3.get_object(Bucket="contract", Key="ranges", Range=text)
        assert answer["Body"].read() == content
        assert answer["ResponseMetadata"]["HTTPStatusCode"] == (
            200 if len(content) == 10 and "-1000" not in text else 206
        )

    assert offenders(RANGES.items(), check) == []
    for text in ("bytes=10-", "bytes=10-20"):
        with pytest.raises(ClientError, match="InvalidRange"):
            s3.get_object(Bucket="contract", Key="ranges", Range=text)
    s3.put_object(Bucket="contract", Key="nothing", Body=b"")
    assert s3.get_object(Bucket="contract", Key="nothing")["Body"].read() == b""


def test_conditions(door: Door) -> None:
    s3 = door.client
    tag = s3.put_object(Bucket="contract", Key="conditions", Body=b"x", IfNoneMatch="*")["ETag"]
    modified = s3.head_object(Bucket="contract", Key="conditions")["LastModified"]
    named = {"Bucket": "contract", "Key": "conditions"}
    for condition in ({"IfMatch": tag}, {"IfNoneMatch": '"other"'}, {"IfUnmodifiedSince": modified}):
        assert s3.get_object(**named, **condition)["Body"].read() == b"x"
    for condition in ({"IfNoneMatch": tag}, {"IfModifiedSince": modified}):
        with pytest.raises(ClientError, match="304"):
            s3.get_object(**named, **condition)
    for condition in ({"IfMatch": '"other"'}, {"IfUnmodifiedSince": modified.replace(year=2020)}):
        with pytest.raises(ClientError, match=r"PreconditionFailed|412"):
            s3.get_object(**named, **condition)
    with pytest.raises(ClientError, match="PreconditionFailed"):
        s3.put_object(**named, Body=b"y", IfNoneMatch="*")


def test_listings(door: Door) -> None:
    s3 = door.client
    keys = ["a", "b/1", "b/2", "b/c/3", "b-", "d e+f", "zü/1"]
    for key in keys:
        s3.put_object(Bucket="pages", Key=key, Body=key.encode())
    ordered = sorted(keys, key=str.encode)
    for name in ("list_objects_v2", "list_objects"):
        for size in (1, 2, 1000):
            pages = s3.get_paginator(name).paginate(Bucket="pages", PaginationConfig={"PageSize": size})
            assert [each["Key"] for page in pages for each in page["Contents"]] == ordered
            pages = s3.get_paginator(name).paginate(
                Bucket="pages", Delimiter="/", PaginationConfig={"PageSize": size}
            )
            found = [*pages]
            assert [each["Key"] for page in found for each in page.get("Contents", ())] == ["a", "b-", "d e+f"]
            prefixes = [each["Prefix"] for page in found for each in page.get("CommonPrefixes", ())]
            assert prefixes == ["b/", "zü/"]
    below = s3.list_objects_v2(Bucket="pages", Prefix="b/", Delimiter="/")
    assert [each["Key"] for each in below["Contents"]] == ["b/1", "b/2"]
    assert [each["Prefix"] for each in below["CommonPrefixes"]] == ["b/c/"]
    assert (below["KeyCount"], below["IsTruncated"]) == (3, False)
    after = s3.list_objects_v2(Bucket="pages", StartAfter="b/2", FetchOwner=True)
    assert [each["Key"] for each in after["Contents"]] == ["b/c/3", "d e+f", "zü/1"]
    assert {each["Owner"]["ID"] for each in after["Contents"]} == {door.party.account_id}
    odd = s3.list_objects_v2(Bucket="pages", Delimiter="/c")
    assert [each["Prefix"] for each in odd["CommonPrefixes"]] == ["b/c"]
    assert s3.list_objects_v2(Bucket="pages", MaxKeys=0)["KeyCount"] == 0
    gone = s3.delete_objects(Bucket="pages", Delete={"Objects": [{"Key": key} for key in (*keys, "never")]})
    assert len(gone["Deleted"]) == len(keys) + 1
    assert "Contents" not in s3.list_objects_v2(Bucket="pages")


@needs_file_attributes
def test_parts(door: Door) -> None:
    s3 = door.client
    upload = s3.create_multipart_upload(Bucket="parts", Key=KEY, ContentType="text/csv", Metadata={"a": "b"})
    named = {"Bucket": "parts", "Key": KEY, "UploadId": upload["UploadId"]}
    first, last = os.urandom(PART), b"the end"
    tags = [
        s3.upload_part(**named, PartNumber=number, Body=body)["ETag"]
        for number, body in ((2, b"replaced"), (2, first), (7, last))
    ][1:]
    assert [each["Key"] for each in s3.list_multipart_uploads(Bucket="parts")["Uploads"]] == [KEY]
    pages = s3.get_paginator("list_parts").paginate(**named, PaginationConfig={"PageSize": 1})
    listed = [(part["PartNumber"], part["Size"], part["ETag"]) for page in pages for part in page["Parts"]]
    assert listed == [(2, PART, tags[0]), (7, len(last), tags[1])]
    assert s3.list_objects_v2(Bucket="parts")["KeyCount"] == 0 if exists(s3, "parts") else True
    parts = [{"PartNumber": number, "ETag": tag} for number, tag in zip((2, 7), tags, strict=True)]
    with pytest.raises(ClientError, match="EntityTooSmall"):
        small = s3.upload_part(**named, PartNumber=1, Body=b"x")["ETag"]
        s3.complete_multipart_upload(
            **named, MultipartUpload={"Parts": [{"PartNumber": 1, "ETag": small}, *parts]}
        )
    done = s3.complete_multipart_upload(**named, MultipartUpload={"Parts": parts})
    assert done["ETag"].endswith('-2"')
    found = s3.get_object(Bucket="parts", Key=KEY)
    assert found["Body"].read() == first + last
    assert (found["ETag"], found["ContentType"], found["Metadata"]) == (done["ETag"], "text/csv", {"a": "b"})
    with pytest.raises(s3.exceptions.NoSuchUpload):
        s3.abort_multipart_upload(**named)
    other = s3.create_multipart_upload(Bucket="parts", Key="other")["UploadId"]
    copied = s3.upload_part_copy(
        Bucket="parts",
        Key="other",
        UploadId=other,
        PartNumber=1,
        CopySource={"Bucket": "parts", "Key": KEY},
        CopySourceRange="bytes=1-3",
    )
    assert copied["CopyPartResult"]["ETag"]
    s3.abort_multipart_upload(Bucket="parts", Key="other", UploadId=other)
    assert "Uploads" not in s3.list_multipart_uploads(Bucket="parts")


def exists(s3: Any, bucket: str) -> bool:
    return bucket in [each["Name"] for each in s3.list_buckets()["Buckets"]]


@needs_file_attributes
def test_transfers_and_copies(door: Door) -> None:
    s3, content = door.client, os.urandom(2 * PART + 17)
    s3.upload_fileobj(io.BytesIO(content), "copies", "big", Config=IN_PARTS)
    s3.copy({"Bucket": "copies", "Key": "big"}, "copies", "copy", Config=IN_PARTS)
    back = io.BytesIO()
    s3.download_fileobj("copies", "copy", back, Config=IN_PARTS)
    assert back.getvalue() == content
    s3.put_object(Bucket="copies", Key=KEY, Body=b"x", ContentType="text/csv", Metadata={"a": "b"})
    copied = s3.copy_object(Bucket="copies", Key="small", CopySource={"Bucket": "copies", "Key": KEY})
    assert copied["CopyObjectResult"]["ETag"] == s3.head_object(Bucket="copies", Key=KEY)["ETag"]
    assert s3.head_object(Bucket="copies", Key="small")["Metadata"] == {"a": "b"}
    s3.copy_object(
        Bucket="copies",
        Key="small",
        CopySource={"Bucket": "copies", "Key": "small"},
        MetadataDirective="REPLACE",
        Metadata={"c": "d"},
    )
    assert s3.head_object(Bucket="copies", Key="small")["Metadata"] == {"c": "d"}
    with pytest.raises(ClientError, match="PreconditionFailed"):
        s3.copy_object(
            Bucket="copies", Key="x", CopySource={"Bucket": "copies", "Key": KEY}, CopySourceIfMatch='"other"'
        )


def test_checksums(door: Door) -> None:
    for algorithm in ("CRC32", "SHA1", "SHA256"):
        made = door.client.put_object(
            Bucket="contract", Key="checksums", Body=b"x" * 100, ChecksumAlgorithm=algorithm
        )
        assert made[f"Checksum{algorithm}"]


def test_presigned_urls(door: Door) -> None:
    named = {"Bucket": "contract", "Key": KEY}
    address = door.client.generate_presigned_url("put_object", Params=named)
    with urllib.request.urlopen(urllib.request.Request(address, data=b"by URL", method="PUT")) as answer:
        assert answer.status == 200
    address = door.client.generate_presigned_url(
        "get_object", Params=named | {"ResponseContentDisposition": 'attachment; filename="a.jsonl"'}
    )
    with urllib.request.urlopen(address) as answer:
        assert (answer.read(), answer.headers["Content-Disposition"]) == (
            b"by URL",
            'attachment; filename="a.jsonl"',
        )


def test_a_host_may_name_the_bucket(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    resolve = socket.getaddrinfo
    monkeypatch.setattr(
        socket,
        "getaddrinfo",
        lambda host, *more, **names: resolve("127.0.0.1" if host.endswith("localhost") else host, *more, **names),
    )
    address = door.server.url.replace("127.0.0.1", "localhost")
    virtual = s3_client(address, door.party, s3={"addressing_style": "virtual"})
    virtual.put_object(Bucket="contract", Key=KEY, Body=b"x")
    assert door.client.get_object(Bucket="contract", Key=KEY)["Body"].read() == b"x"
    assert KEY in [each["Key"] for each in virtual.list_objects_v2(Bucket="contract")["Contents"]]


def test_an_endpoint_may_end_with_a_slash(door: Door) -> None:
    other = s3_client(f"{door.server.url}/", door.party)
    other.put_object(Bucket="contract", Key="slash", Body=b"x")
    assert other.get_object(Bucket="contract", Key="slash")["Body"].read() == b"x"


def test_every_operation_is_called_here() -> None:
    managed = {"upload_part_copy"}
    text = Path(__file__).read_text(encoding="utf-8")
    called = set(re.findall(r"\bs3\.(\w+)\(", text)) | set(re.findall(r'"(list_\w+)"', text)) | managed
    assert {botocore.xform_name(name) for name in OPERATIONS} <= called


def test_every_other_operation_is_named_in_its_error(door: Door) -> None:
    """Those that need no more than a bucket and a key."""
    model = botocore.session.get_session().get_service_model("s3")
    simple = [
        name
        for name in model.operation_names
        if name not in OPERATIONS
        and name.startswith("Get")
        and model.operation_model(name).input_shape.required_members in (["Bucket"], ["Bucket", "Key"])
    ]
    assert len(simple) > 20

    def check(name: str) -> None:
        named = {"Bucket": "contract", "Key": "ranges"}
        needed = model.operation_model(name).input_shape.required_members
        with pytest.raises(ClientError) as caught:
            getattr(door.client, botocore.xform_name(name))(**{each: named[each] for each in needed})
        assert caught.value.response["Error"]["Code"] == "NotImplemented"

    assert offenders(simple, check) == []
