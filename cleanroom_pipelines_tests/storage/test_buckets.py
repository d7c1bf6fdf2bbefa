"""Contract: `s3://bucket/key` resolves to the caller's own folder, or to the bucket registered for that account,
and is forbidden to every other account. A seed is fetched atomically and within its limit, from a file or a
folder of files. Errors are one sentence without the content or the local path."""

import gzip
import io
import os
import shutil
from contextlib import suppress
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from cleanroom_pipelines.engine import find_tables
from cleanroom_pipelines.errors import CleanroomError, ConfigurationError, NotFoundError, SeedError, UsageError
from cleanroom_pipelines.storage import Home
from cleanroom_pipelines.storage.buckets import Buckets, ObjectPlace, RegisteredBucket
from cleanroom_pipelines.storage.objects import BucketForbiddenError
from cleanroom_pipelines_tests import damaged
from cleanroom_pipelines_tests.offenders import offenders

MINE, THEIRS = "111111111111", "222222222222"
LIMIT = 10_000_000
REGISTERED = {
    "theirs": RegisteredBucket("theirs", THEIRS),
    "theirs-real": RegisteredBucket("theirs-real", THEIRS, "s3://real", "shop"),
    "mine": RegisteredBucket("mine", MINE),
}


@pytest.fixture
def buckets(home: Home) -> Buckets:
    return Buckets(home, REGISTERED.get)


def folder_of(home: Home, bucket: str, account: str = MINE) -> Path:
    return home.accounts / account / "buckets" / bucket


def keep(home: Home, key: str, content: bytes | str = b'{"user_id": "a"}\n') -> Path:
    path = folder_of(home, key)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def fetched(place: ObjectPlace, tmp_path: Path, max_bytes: int = LIMIT) -> bytes:
    folder = tmp_path / "fetched"
    folder.mkdir(exist_ok=True)
    try:
        path = place.fetch(folder / "seed", max_bytes=max_bytes)
        assert list(folder.iterdir()) == [path]
        return path.read_bytes()
    except CleanroomError:
        assert list(folder.iterdir()) == []
        raise
    finally:
        shutil.rmtree(folder)


@pytest.mark.parametrize("bucket", ["anything", "mine"])
def test_bucket_is_a_folder_of_the_caller(buckets: Buckets, home: Home, tmp_path: Path, bucket: str) -> None:
    source = tmp_path / "upload"
    source.write_bytes(b"content")
    place = buckets.locate(MINE, f"s3://{bucket}/a/seed.jsonl")
    assert not place.exists()
    place.store(source)
    assert place.exists()
    assert (folder_of(home, bucket) / "a" / "seed.jsonl").read_bytes() == b"content"
    assert fetched(place, tmp_path) == b"content"
    with place.open() as opened:
        assert opened.n_bytes == 7
        assert b"".join(opened.chunks()) == b"content"
    assert [entry.key for entry in buckets.locate(MINE, f"s3://{bucket}/a").list()] == ["a/seed.jsonl"]


def test_same_name_is_another_folder_for_another_account(buckets: Buckets, home: Home) -> None:
    keep(home, "anything/seed.jsonl")
    assert buckets.locate(MINE, "s3://anything/seed.jsonl").exists()
    assert not buckets.locate(THEIRS, "s3://anything/seed.jsonl").exists()


@pytest.mark.parametrize("bucket", ["theirs", "theirs-real"])
def test_bucket_of_another_account_is_forbidden(buckets: Buckets, bucket: str) -> None:
    with pytest.raises(BucketForbiddenError) as caught:
        buckets.locate(MINE, f"s3://{bucket}/seed.jsonl")
    assert caught.value.status_code == "SEED_NOT_FOUND"
    with pytest.raises(BucketForbiddenError) as caught:
        buckets.destination(MINE, f"s3://{bucket}/out")
    assert caught.value.status_code == "DESTINATION_NOT_WRITABLE"
    assert THEIRS not in str(caught.value)
    assert buckets.locate(THEIRS, f"s3://{bucket}/seed.jsonl").url == f"s3://{bucket}/seed.jsonl"


def test_unusable_registration_is_rejected() -> None:
    def check(url: str | None, profile: str | None) -> None:
        with pytest.raises(ConfigurationError):
            RegisteredBucket("b", MINE, url, profile)

    registrations = [
        ("s3://real", None),
        (None, "shop"),
        ("s3://real", ""),
        ("http://real", "shop"),
        ("s3://real/../x", "shop"),
    ]
    assert offenders(registrations, check) == []


def test_account_must_be_twelve_digits(buckets: Buckets) -> None:
    def check(account: str) -> None:
        with pytest.raises(UsageError):
            buckets.locate(account, "s3://anything/x")

    assert offenders(["", "..", "11111111111a", "111111111111\n"], check) == []


SEGMENTS = st.one_of(
    st.sampled_from(
        ["..", ".", "", "%2e%2e", "..%2f", "a", "seed.jsonl", "link", "linked.jsonl", "up", "\\", "\0"]
    ),
    st.sampled_from(["/", "outside", "secret.jsonl", "~", "$HOME", "a\n", "‥", ".export-0123abcd", "*", "[a]"]),
    st.text(max_size=6),
)


@pytest.fixture(scope="module")
def trap(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with links that lead out of its bucket, and a secret wherever they lead."""
    root = tmp_path_factory.mktemp("trap")
    home = Home.open(root / "home")
    keep(home, "mybucket/a/seed.jsonl", "mine")
    keep(home, "mybucket/seed.jsonl", "mine")
    for folder in (root, root / "outside", home.root, home.accounts, folder_of(home, "")):
        folder.mkdir(exist_ok=True)
        for name in ("secret.jsonl", "seed.jsonl", "a"):
            (folder / name).write_text("SECRET")
    for folder in (folder_of(home, "mybucket"), folder_of(home, "mybucket") / "a"):
        (folder / "link").symlink_to(root / "outside")
        (folder / "linked.jsonl").symlink_to(root / "outside" / "secret.jsonl")
        (folder / "up").symlink_to("../..")
    return root


@given(st.lists(SEGMENTS, max_size=5).map("/".join), st.sampled_from(["mybucket", "mybucket", "..", "a", "up"]))
@example("link/secret.jsonl", "mybucket")
@example("linked.jsonl", "mybucket")
@example("up/seed.jsonl", "mybucket")
@example("a/up", "mybucket")
@example("link/", "mybucket")
def test_urls_cannot_leave_their_bucket(trap: Path, key: str, bucket: str) -> None:
    home = Home.open(trap / "home")
    root = folder_of(home, "mybucket")
    url = f"s3://{bucket}/{key}"
    buckets = Buckets(home, lambda _: None)
    before = sorted(trap.rglob("*"))
    try:
        place = buckets.locate(MINE, url)
        folder = buckets.destination(MINE, url).folder
        assert folder is not None
        assert folder.resolve().is_relative_to(root.resolve())
    except UsageError as error:
        assert url not in str(error)
        return
    out = trap / "fetched"
    with suppress(SeedError):
        assert "SECRET" not in place.fetch(out, max_bytes=LIMIT).read_text()
    for path in trap.glob("fetched*"):
        path.unlink()
    assert sorted(trap.rglob("*")) == before


def test_link_created_after_resolving_is_not_followed(buckets: Buckets, home: Home, tmp_path: Path) -> None:
    keep(home, "anything/a/seed.jsonl")
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "seed.jsonl").write_text("theirs")
    place = buckets.locate(MINE, "s3://anything/a/seed.jsonl")
    shutil.rmtree(folder_of(home, "anything/a"))
    folder_of(home, "anything/a").symlink_to(outside)
    with pytest.raises(SeedError, match="link") as caught:
        fetched(place, tmp_path)
    assert caught.value.status_code == "SEED_NOT_FOUND"
    (tmp_path / "new").write_text("mine")
    with pytest.raises(CleanroomError, match="link"):
        place.store(tmp_path / "new")
    assert (outside / "seed.jsonl").read_text() == "theirs"


def test_folder_is_not_an_object(buckets: Buckets, home: Home, tmp_path: Path) -> None:
    keep(home, "anything/a/seed.jsonl")

    def check(url: str) -> None:
        place = buckets.locate(MINE, url)
        assert not place.exists()
        with pytest.raises(NotFoundError):
            place.open()
        with pytest.raises(UsageError):
            place.store(tmp_path)

    assert offenders(["s3://anything", "s3://anything/", "s3://anything/a/"], check) == []


def test_missing_seed_is_reported(buckets: Buckets, home: Home, tmp_path: Path) -> None:
    keep(home, "anything/seed.jsonl")
    folder_of(home, "anything/empty").mkdir()

    def check(key: str) -> None:
        with pytest.raises(SeedError) as caught:
            fetched(buckets.locate(MINE, f"s3://anything/{key}"), tmp_path)
        assert caught.value.status_code == "SEED_NOT_FOUND"
        assert caught.value.remedy
        assert str(home.root) not in str(caught.value)

    assert offenders(["nothing", "nothing/", "empty", "seed.jsonl/x"], check) == []


def test_file_keeps_its_format(buckets: Buckets, home: Home, tmp_path: Path) -> None:
    def check(name: str, suffix: str) -> None:
        keep(home, f"anything/{name}")
        place = buckets.locate(MINE, f"s3://anything/{name}")
        assert place.fetch(tmp_path / "seed", max_bytes=LIMIT) == tmp_path / f"seed{suffix}"
        assert place.fetch(tmp_path / "own.json", max_bytes=LIMIT) == tmp_path / "own.json"

    suffixes = {"s.jsonl": ".jsonl", "S.CSV.GZ": ".csv.gz", "x.parquet": ".parquet", "seed": ".jsonl"}
    assert offenders(suffixes.items(), check) == []


def test_unsupported_format_is_reported(buckets: Buckets, home: Home, tmp_path: Path) -> None:
    keep(home, "anything/seed.xlsx")
    with pytest.raises(SeedError, match="Excel workbooks are not read"):
        fetched(buckets.locate(MINE, "s3://anything/seed.xlsx"), tmp_path)


def test_seed_size_is_limited(buckets: Buckets, home: Home, tmp_path: Path) -> None:
    def check(n_bytes: int, is_taken: bool) -> None:
        keep(home, "anything/seed.jsonl", b"x" * n_bytes)
        keep(home, "anything/parts/1.jsonl", b"x" * (n_bytes // 2))
        keep(home, "anything/parts/2.jsonl", b"x" * (n_bytes - n_bytes // 2))
        for key in ("seed.jsonl", "parts"):
            place = buckets.locate(MINE, f"s3://anything/{key}")
            if is_taken:
                assert fetched(place, tmp_path, 100).replace(b"\n", b"") == b"x" * n_bytes
            else:
                with pytest.raises(SeedError) as caught:
                    fetched(place, tmp_path, 100)
                assert caught.value.status_code == "SEED_TOO_LARGE"

    assert offenders([(99, True), (100, True), (101, False), (3_000_000, False)], check) == []


def test_file_growing_while_read_is_rejected(buckets: Buckets, home: Home, tmp_path: Path) -> None:
    os.truncate(keep(home, "anything/seed.jsonl"), 0)
    place = buckets.locate(MINE, "s3://anything/seed.jsonl")
    path = folder_of(home, "anything/seed.jsonl")

    class Growing:
        def size(self, key: str) -> int:
            return 0

        def open(self, key: str) -> object:
            opened = place.bucket.open(key)
            path.write_bytes(b"x" * 2_000_000)
            return opened

    grown = ObjectPlace(place.url, Growing(), place.key)  # type: ignore[arg-type]
    with pytest.raises(SeedError) as caught:
        fetched(grown, tmp_path, 1000)
    assert caught.value.status_code == "SEED_TOO_LARGE"


def lines(*users: str) -> bytes:
    return "".join(f'{{"user_id": "{user}"}}\n' for user in users).encode()


def parquet(*users: str, column: str = "user_id") -> bytes:
    out = io.BytesIO()
    pq.write_table(pa.table({column: list(users)}), out)
    return out.getvalue()


BOM = b"\xef\xbb\xbf"


def test_files_of_a_folder_are_one_seed(buckets: Buckets, home: Home, tmp_path: Path) -> None:
    folders: list[tuple[dict[str, bytes], bytes]] = [
        ({"1.jsonl": lines("a", "b"), "2.jsonl": lines("c")}, lines("a", "b", "c")),
        ({"1.jsonl": lines("a").rstrip(), "2.json": BOM + lines("b")}, lines("a", "b")),
        ({"2.jsonl": lines("b"), "1.jsonl.gz": gzip.compress(lines("a"))}, lines("a", "b")),
        ({"1.jsonl": lines("a"), "_SUCCESS": b"", "_x.csv": b"u", ".x.jsonl": b"u", "README": b"u"}, lines("a")),
        ({"1.jsonl": lines("a"), "2.jsonl": b"", "below/3.jsonl": lines("c")}, lines("a")),
        ({"1.csv": b"user_id,x\na,1\n", "2.csv": b"user_id,x\nb,2"}, b"user_id,x\na,1\nb,2\n"),
        ({"1.csv": b"u\r\na\r\nb", "2.csv": b"u\r\nc\r\n"}, b"u\r\na\r\nb\r\nc\r\n"),
        ({"1.csv": BOM + b"u\na\n", "2.csv": BOM + b"u\nb\n"}, b"u\na\nb\n"),
        ({"1.csv": b"u\n", "2.csv": b"u\nb\n"}, b"u\nb\n"),
        ({"1.csv": b"u\ra\r", "2.csv": b"u\rb\r"}, b"u\ra\rb\r"),
        ({"1.csv.gz": gzip.compress(b"u\na\n"), "2.csv": b"u\nb\n"}, b"u\na\nb\n"),
    ]

    def check(number: int, files: dict[str, bytes], expected: bytes) -> None:
        for name, content in files.items():
            keep(home, f"anything/seeds{number}/{name}", content)
        for url in (f"s3://anything/seeds{number}", f"s3://anything/seeds{number}/"):
            place = buckets.locate(MINE, url)
            assert fetched(place, tmp_path) == expected
        path = place.fetch(tmp_path / "seed", max_bytes=LIMIT)
        assert find_tables(path).format == find_tables(folder_of(home, f"anything/seeds{number}")).format

    assert offenders([(number, *folder) for number, folder in enumerate(folders)], check) == []


def test_parquet_files_are_merged_into_one_seed(buckets: Buckets, home: Home, tmp_path: Path) -> None:
    keep(home, "anything/seeds/1.parquet", parquet("a", "b"))
    keep(home, "anything/seeds/2.parquet.gz", gzip.compress(parquet("c")))
    path = buckets.locate(MINE, "s3://anything/seeds").fetch(tmp_path / "seed", max_bytes=LIMIT)
    assert path.name == "seed.parquet"
    assert pq.read_table(path).to_pydict() == {"user_id": ["a", "b", "c"]}


CANARY = "canary-7f3a"


def test_unmergeable_files_are_reported(buckets: Buckets, home: Home, tmp_path: Path) -> None:
    folders: list[tuple[dict[str, bytes], str]] = [
        ({"1.jsonl": lines("a"), "2.csv": b"user_id\na\n"}, "SEED_INVALID"),
        ({"1.csv": f"{CANARY}\na\n".encode(), "2.csv": b"other\na\n"}, "SEED_INVALID"),
        ({"1.csv": b"u\na\n", "2.csv": b"u\r\na\r\n"}, "SEED_INVALID"),
        ({"1.csv": b'"u\nv"\na\n', "2.csv": b'"u\nv"\na\n'}, "SEED_INVALID"),
        ({"1.csv": b"u" * 3_000_000, "2.csv": b"u" * 3_000_000}, "SEED_INVALID"),
        ({"1.parquet": parquet(CANARY), "2.parquet": parquet("a", column="other")}, "SEED_INVALID"),
        ({"1.parquet": parquet("a"), "2.parquet": CANARY.encode()}, "SEED_INVALID"),
        ({"1.jsonl": lines("a"), "2.jsonl.gz": CANARY.encode()}, "SEED_INVALID"),
        *(
            ({"1.jsonl": lines("a"), "2.jsonl.gz": damage(lines(*map(str, range(99))))}, "SEED_INVALID")
            for damage in damaged.GZIPS.values()
        ),
        ({"1.jsonl": lines("a"), "2.jsonl.gz": gzip.compress(b"\n" * 2 * LIMIT)}, "SEED_TOO_LARGE"),
        ({"1.parquet": parquet("a"), "2.parquet.gz": gzip.compress(b"\n" * 2 * LIMIT)}, "SEED_TOO_LARGE"),
        ({f"{number}.jsonl": b"\n" for number in range(1001)}, "SEED_INVALID"),
    ]

    def check(number: int, files: dict[str, bytes], code: str) -> None:
        for name, content in files.items():
            keep(home, f"anything/seeds{number}/{name}", content)
        with pytest.raises(SeedError) as caught:
            fetched(buckets.locate(MINE, f"s3://anything/seeds{number}"), tmp_path)
        assert caught.value.status_code == code
        assert caught.value.remedy
        error: BaseException | None = caught.value
        while error is not None:
            assert CANARY not in str(error)
            error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)

    assert offenders([(number, *folder) for number, folder in enumerate(folders)], check) == []
