"""Contract: a local bucket is one folder. Nothing outside it is read, written or listed through a link, even if
the link is created between two calls; objects are written atomically; a listing has every object once, in S3
order, for any page size."""

import io
import os
from collections.abc import Iterator
from contextlib import suppress
from itertools import islice
from pathlib import Path
from unittest import mock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cleanroom_pipelines.errors import NotFoundError, StorageFullError
from cleanroom_pipelines.storage.local_bucket import LocalBucket
from cleanroom_pipelines.storage.objects import BucketError


@pytest.fixture
def bucket(tmp_path: Path) -> LocalBucket:
    return LocalBucket(tmp_path / "buckets" / "mine")


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    folder = tmp_path / "outside"
    (folder / "sub").mkdir(parents=True)
    (folder / "secret").write_text("theirs")
    (folder / "sub" / "secret").write_text("theirs")
    return folder


def put(bucket: LocalBucket, key: str, content: bytes = b"x") -> None:
    bucket.put(key, io.BytesIO(content))


def read(bucket: LocalBucket, key: str) -> bytes:
    with bucket.open(key) as opened:
        content = b"".join(opened.chunks())
        assert opened.n_bytes == len(content)
    return content


def everything(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


def test_object_round_trip(bucket: LocalBucket) -> None:
    content = os.urandom(3_000_000)
    for each in (b"earlier", content):
        put(bucket, "a/b/c.bin", each)
        assert read(bucket, "a/b/c.bin") == each
    assert bucket.size("a/b/c.bin") == 3_000_000
    assert everything(bucket.path("")) == ["a", "a/b", "a/b/c.bin"]


@pytest.mark.parametrize("key", ["nothing", "a/nothing", "a/b.txt/c", "a"])
def test_missing_object_is_reported(bucket: LocalBucket, key: str) -> None:
    put(bucket, "a/b.txt")
    assert bucket.size(key) is None
    with pytest.raises(NotFoundError):
        bucket.open(key)


def test_empty_bucket_has_no_objects(bucket: LocalBucket) -> None:
    assert bucket.size("a") is None
    assert list(bucket.list("")) == []


@pytest.mark.parametrize("key", ["a", "a/b.txt/c"])
def test_file_and_folder_cannot_share_a_name(bucket: LocalBucket, key: str) -> None:
    put(bucket, "a/b.txt", b"kept")
    with pytest.raises(BucketError) as caught:
        put(bucket, key)
    assert caught.value.problem == "in the way"
    assert everything(bucket.path("")) == ["a", "a/b.txt"]
    assert read(bucket, "a/b.txt") == b"kept"


def test_interrupted_write_keeps_the_earlier_object(bucket: LocalBucket) -> None:
    class Cut(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            if self.tell():
                raise KeyboardInterrupt
            return super().read(10)

    put(bucket, "a/b", b"earlier")
    with pytest.raises(KeyboardInterrupt):
        bucket.put("a/b", Cut(b"later" * 100))
    assert everything(bucket.path("")) == ["a", "a/b"]
    assert read(bucket, "a/b") == b"earlier"


def test_full_disk_is_reported(bucket: LocalBucket) -> None:
    with (
        mock.patch.object(os, "fsync", side_effect=OSError(28, os.strerror(28))),
        pytest.raises(StorageFullError),
    ):
        put(bucket, "b")


def test_denied_access_is_reported_without_the_path(bucket: LocalBucket) -> None:
    put(bucket, "a/b")
    refusal = PermissionError(13, "Permission denied", str(bucket.path("a")))
    with mock.patch.object(os, "open", side_effect=refusal), pytest.raises(BucketError) as caught:
        bucket.open("a/b")
    assert caught.value.problem == "denied"
    assert str(bucket.path("")) not in str(caught.value)


LINKED = ["file", "folder/secret", "folder/sub/secret", "a/up/secret", "around"]


@pytest.fixture
def linked(bucket: LocalBucket, outside: Path) -> LocalBucket:
    put(bucket, "a/plain")
    root = bucket.path("")
    (root / "file").symlink_to(outside / "secret")
    (root / "folder").symlink_to(outside)
    (root / "a" / "up").symlink_to(outside)
    (root / "around").symlink_to("around")
    return bucket


@pytest.mark.parametrize("key", LINKED)
def test_links_are_not_followed(linked: LocalBucket, outside: Path, key: str) -> None:
    before = everything(outside)
    with pytest.raises(BucketError, match="link"):
        linked.open(key)
    with pytest.raises(BucketError, match="link"):
        put(linked, key)
    with pytest.raises(BucketError, match="link"):
        put(linked, f"{key}/new")
    assert everything(outside) == before
    assert (outside / "secret").read_text() == "theirs"


def test_listing_omits_links(linked: LocalBucket) -> None:
    assert [entry.key for entry in linked.list("")] == ["a/plain"]
    with pytest.raises(BucketError):
        list(linked.list("folder"))


def test_bucket_replaced_by_a_link_is_not_followed(tmp_path: Path, outside: Path) -> None:
    (tmp_path / "buckets").mkdir()
    (tmp_path / "buckets" / "mine").symlink_to(outside)
    bucket = LocalBucket(tmp_path / "buckets" / "mine")
    for call in (lambda: bucket.open("secret"), lambda: put(bucket, "new"), lambda: list(bucket.list(""))):
        with pytest.raises(BucketError, match="link"):
            call()


@pytest.mark.parametrize("nth", range(4))
def test_link_created_between_calls_has_no_effect(
    bucket: LocalBucket, outside: Path, tmp_path: Path, nth: int
) -> None:
    """The folder is swapped for a link before the nth opening on the way to the object."""
    put(bucket, "sub/secret", b"mine")
    open_, n_opened = os.open, 0

    def opening(path: str | Path, *arguments: int, **folders: int) -> int:
        nonlocal n_opened
        if n_opened == nth:
            os.rename(bucket.path("sub"), tmp_path / "aside")
            bucket.path("sub").symlink_to(outside)
        n_opened += 1
        return open_(path, *arguments, **folders)

    with mock.patch.object(os, "open", opening):
        try:
            content = read(bucket, "sub/secret")
        except BucketError as error:
            content = None
            assert error.problem == "link"
    assert n_opened > nth
    assert content == (None if nth < 3 else b"mine")


@pytest.mark.parametrize("nth", range(4))
def test_link_created_while_writing_has_no_effect(
    bucket: LocalBucket, outside: Path, tmp_path: Path, nth: int
) -> None:
    put(bucket, "sub/secret", b"mine")
    before = everything(outside)
    open_, n_opened = os.open, 0

    def opening(path: str | Path, *arguments: int, **folders: int) -> int:
        nonlocal n_opened
        if n_opened == nth:
            os.rename(bucket.path("sub"), tmp_path / "aside")
            bucket.path("sub").symlink_to(outside)
        n_opened += 1
        return open_(path, *arguments, **folders)

    with mock.patch.object(os, "open", opening):
        try:
            put(bucket, "sub/secret", b"new")
        except BucketError as error:
            assert error.problem == "link"
    assert n_opened > nth
    assert everything(outside) == before
    assert (outside / "sub" / "secret").read_text() == (outside / "secret").read_text() == "theirs"


def test_pipe_does_not_block(bucket: LocalBucket) -> None:
    put(bucket, "a/b")
    os.mkfifo(bucket.path("a/pipe"))
    with pytest.raises(NotFoundError):
        bucket.open("a/pipe")
    assert [entry.key for entry in bucket.list("")] == ["a/b"]


def test_listing_omits_drafts_and_undecodable_names(bucket: LocalBucket) -> None:
    put(bucket, "a/b", b"12345")
    root = bucket.path("a")
    (root / ".export-0123abcd").mkdir()
    (root / ".export-0123abcd" / "part-00000.jsonl").touch()
    (root / ".b.01234567.draft").touch()
    (root / "back\\slash").touch()
    (root / "new\nline").touch()
    (Path(os.fsdecode(os.fsencode(root) + b"/\xff"))).touch()
    assert [(entry.key, entry.n_bytes) for entry in bucket.list("")] == [("a/b", 5)]


def all_pages(bucket: LocalBucket, folder: str, limit: int, deep: bool) -> Iterator[str]:
    after: str | None = ""
    while after is not None:
        page = [entry.key for entry in islice(bucket.list(folder, after=after, deep=deep), limit)]
        yield from page
        after = page[-1] if len(page) == limit else None


NAMES = st.sampled_from(["a", "b", "a-", "a0", "a!", "B", "a b"])


@given(
    st.lists(st.lists(NAMES, min_size=1, max_size=3).map("/".join), max_size=12),
    st.integers(1, 5),
    st.sampled_from(["", "a", "a/a", "b", "nothing"]),
)
def test_listing_has_every_object_once_in_byte_order(
    tmp_path_factory: pytest.TempPathFactory, keys: list[str], limit: int, folder: str
) -> None:
    bucket = LocalBucket(tmp_path_factory.mktemp("buckets") / "mine")
    there = set[str]()
    for key in keys:
        try:
            put(bucket, key)
            there.add(key)
        except BucketError as error:
            assert error.problem == "in the way"
    base = f"{folder}/" if folder else ""
    below = sorted((key for key in there if key.startswith(base)), key=str.encode)
    assert list(all_pages(bucket, folder, limit, deep=True)) == below
    directly = [key for key in below if "/" not in key.removeprefix(base)]
    assert list(all_pages(bucket, folder, limit, deep=False)) == directly


def test_descriptors_are_closed(linked: LocalBucket) -> None:
    fds = Path("/proc/self/fd")
    if not fds.exists():
        pytest.skip("this system does not tell its open files")
    before = len(list(fds.iterdir()))
    for key in [*LINKED, "nothing/x", "a/plain", "a"]:
        for call in (linked.size, lambda key: next(linked.list(key), None), lambda key: put(linked, f"{key}/x/y")):
            with suppress(BucketError, NotFoundError):
                call(key)
    assert len(list(fds.iterdir())) == before
