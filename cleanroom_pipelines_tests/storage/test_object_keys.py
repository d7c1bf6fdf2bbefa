"""Contract: every key of S3 has one file name, which is inside its folder and stands for this key alone; objects
keep their ETag, headers and metadata with the file, and only while it is the same file; a delete leaves no empty
folder; parts are joined into an object, or discarded, as a whole."""

import io
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from cleanroom_pipelines.errors import NotFoundError
from cleanroom_pipelines.storage import Home
from cleanroom_pipelines.storage.artifacts import is_leftover
from cleanroom_pipelines.storage.local_bucket import LocalBucket
from cleanroom_pipelines.storage.multipart import LONGEST, MultipartUploads, e_tag_of
from cleanroom_pipelines.storage.objects import BucketError
from cleanroom_pipelines.storage.s3_urls import is_storable_key, name_of_segment, segment_of_name

from ..object_stores import needs_file_attributes

ACCOUNT = "111111111111"


@given(st.text(st.characters(exclude_categories=["Cs"]).filter(lambda each: each != "/"), max_size=20))
@example("")
@example("..")
@example("~")
@example("~..")
@example("%2E")
@example(".draft-0123abcd")
@example("a\u0308")
def test_each_segment_has_one_file_name(segment: str) -> None:
    name = name_of_segment(segment)
    assert segment_of_name(name) == segment
    assert "/" not in name
    assert "\0" not in name
    assert name not in ("", ".", "..")
    assert not is_leftover(name)


@pytest.mark.parametrize("name", ["~a", "~%zz", "~%2e", "..", ".x.draft", "a\\b", "a\udcff", "~%FF", "a?"])
def test_other_files_are_not_objects(name: str) -> None:
    assert segment_of_name(name) is None


@pytest.mark.parametrize(
    ("key", "is_storable"),
    [
        ("a" * 255, True),
        ("a" * 256, False),
        ("ü" * 128, False),
        ("/".join("a" * 64), True),
        ("/".join("a" * 65), False),
        ("/".join(["a" * 200] * 6), False),
        ("", False),
        ("a\udcff", False),
    ],
    ids=["255", "256", "256 in UTF-8", "64 segments", "65 segments", "1,205 bytes", "empty", "not UTF-8"],
)
def test_limits_of_keys(key: str, is_storable: bool) -> None:
    assert is_storable_key(key) is is_storable


@pytest.fixture
def bucket(tmp_path: Path) -> LocalBucket:
    return LocalBucket(tmp_path / "buckets" / "mine")


@needs_file_attributes
def test_properties_belong_to_one_content(bucket: LocalBucket) -> None:
    bucket.put("a/b", io.BytesIO(b"0123456789"), attributes={"Content-Type": "text/csv", "season": "spring"})
    found = bucket.find("a/b")
    assert found is not None
    assert (found.n_bytes, found.e_tag) == (10, '"781e5e245d69b566979b86e28d23f2c7"')
    assert found.attributes == {"Content-Type": "text/csv", "season": "spring"}
    path = bucket.path("a/b")
    path.write_bytes(b"9876543210")  # in place, by the operator
    os.utime(path, (1, 1))
    changed = bucket.find("a/b")
    assert changed is not None
    assert changed.attributes == {}
    assert changed.e_tag.endswith('-1"'), "it is not an MD5"
    with pytest.raises(BucketError):
        bucket.open("a/b", e_tag=found.e_tag)


def test_a_part_of_an_object_is_read(bucket: LocalBucket) -> None:
    bucket.put("a", io.BytesIO(b"0123456789"))
    with bucket.open("a", start=2, end=5) as opened:
        assert (opened.n_bytes, b"".join(opened.chunks())) == (3, b"234")


def test_a_new_key_is_written_once(bucket: LocalBucket) -> None:
    bucket.put("a", io.BytesIO(b"first"), is_new=True)
    with pytest.raises(BucketError) as caught:
        bucket.put("a", io.BytesIO(b"second"), is_new=True)
    assert caught.value.problem == "changed"
    assert bucket.path("a").read_bytes() == b"first"
    assert [path.name for path in bucket.path("").iterdir()] == ["a"]


def test_a_delete_leaves_no_empty_folder(bucket: LocalBucket) -> None:
    for key in ("a/b/c", "a/d"):
        bucket.put(key, io.BytesIO(b"x"))
    bucket.delete_object("a/b/c")
    bucket.delete_object("a/b/c")
    assert sorted(path.name for path in bucket.path("").rglob("*")) == ["a", "d"]
    bucket.delete_object("a")  # a folder, not an object
    bucket.delete_object("a/d")
    assert list(bucket.path("").iterdir()) == []
    bucket.put("a", io.BytesIO(b"x"))
    assert bucket.size("a") == 1


def test_parts_become_an_object_or_nothing(home: Home, tmp_path: Path) -> None:
    now = [datetime(2026, 1, 1, tzinfo=UTC)]
    uploads = MultipartUploads(home, lambda: now[0])
    upload = uploads.start(ACCOUNT, "mine", "a/b", {"Content-Type": "text/csv"})
    parts = [upload.store(number, io.BytesIO(content)) for number, content in ((10, b"last"), (2, b"first"))]
    assert [number for number, _ in upload.parts()] == [2, 10]
    with upload.joined([2, 10], tmp_path) as stream:
        assert stream.read() == b"firstlast"
    assert e_tag_of(parts).endswith('-2"')
    same = uploads.find(ACCOUNT, upload.id)
    assert same is not None
    assert (same.bucket, same.key, dict(same.attributes)) == ("mine", "a/b", {"Content-Type": "text/csv"})
    assert uploads.find("222222222222", upload.id) is None
    for odd in ("", "..", "../buckets", upload.id.upper() + "x", "0" * 32):
        assert uploads.find(ACCOUNT, odd) is None
    upload.discard()
    assert uploads.list(ACCOUNT) == []
    with pytest.raises(NotFoundError):
        upload.store(3, io.BytesIO(b"late"))
    assert list((home.accounts / ACCOUNT / "multipart").iterdir()) == []


def test_old_uploads_end(home: Home) -> None:
    now = [datetime.now(UTC)]
    uploads = MultipartUploads(home, lambda: now[0])
    upload = uploads.start(ACCOUNT, "mine", "a", {})
    now[0] += LONGEST + timedelta(hours=1)
    assert uploads.find(ACCOUNT, upload.id) is None
    assert uploads.list(ACCOUNT) == []
    assert list((home.accounts / ACCOUNT / "multipart").iterdir()) == []


def test_a_failed_write_leaves_no_folder(tmp_path: Path) -> None:
    bucket = LocalBucket(tmp_path / "bucket")

    class FailingStream(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            raise BucketError("The copy source failed.")

    with pytest.raises(BucketError):
        bucket.put("a/b/c", FailingStream())
    assert list(bucket.path("").iterdir()) == []
    bucket.put("a", io.BytesIO(b"1"))
    bucket.delete_object("a")
    bucket.path("left/by/a-killed/writer").mkdir(parents=True)
    bucket.remove()
    assert not bucket.exists
