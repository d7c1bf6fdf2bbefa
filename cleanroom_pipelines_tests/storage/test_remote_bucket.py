"""Contract: a registered bucket with a URL is on a real S3-compatible store, below its prefix, and is accessed
only with its own profile, whatever the machine's own permissions. A rejected request or an unreachable store
is reported in one sentence with only the store's error code."""

import json
import os
import re
import socket
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from itertools import islice
from pathlib import Path
from unittest import mock

import httpx
import pytest
from moto.server import ThreadedMotoServer

from cleanroom_pipelines.errors import CleanroomError, ConfigurationError, NotFoundError, SeedError, UsageError
from cleanroom_pipelines.storage import Home
from cleanroom_pipelines.storage.buckets import Buckets, ObjectPlace, RegisteredBucket
from cleanroom_pipelines.storage.objects import BucketError

from ..object_stores import PROFILE, ObjectStore, Reply, Request, empty_store
from ..offenders import offenders

ACCOUNT = "111111111111"
LIMIT = 50_000_000


@pytest.fixture
def store(store_server: ThreadedMotoServer, tmp_path: Path) -> Iterator[ObjectStore]:
    with empty_store(store_server, tmp_path) as running:
        running.client().create_bucket(Bucket="real")
        yield running


def buckets_at(home: Home, url: str = "s3://real", profile: str = PROFILE) -> Buckets:
    return Buckets(home, lambda name: RegisteredBucket(name, ACCOUNT, url, profile))


@pytest.fixture
def buckets(home: Home) -> Buckets:
    return buckets_at(home, "s3://real/shop/in")


def keep(tmp_path: Path, content: bytes) -> Path:
    path = tmp_path / "source"
    path.write_bytes(content)
    return path


def test_object_is_stored_below_the_prefix(buckets: Buckets, store: ObjectStore, tmp_path: Path) -> None:
    place = buckets.locate(ACCOUNT, "s3://advertiser/a b/seed.jsonl")
    assert not place.exists()
    place.store(keep(tmp_path, b"content"))
    assert place.exists()
    assert store.objects("real") == {"shop/in/a b/seed.jsonl": b"content"}
    path = place.fetch(tmp_path / "seed", max_bytes=LIMIT)
    assert (path.name, path.read_bytes()) == ("seed.jsonl", b"content")
    with place.open() as opened:
        assert (opened.n_bytes, b"".join(opened.chunks())) == (7, b"content")


def test_large_object_round_trip(buckets: Buckets, store: ObjectStore, tmp_path: Path) -> None:
    """Large enough to go up in several parts."""
    content = os.urandom(1 << 20) * 17
    place = buckets.locate(ACCOUNT, "s3://advertiser/seed.jsonl")
    place.store(keep(tmp_path, content))
    assert store.client().head_object(Bucket="real", Key="shop/in/seed.jsonl")["ETag"].endswith('-4"')
    assert place.fetch(tmp_path / "seed", max_bytes=LIMIT).read_bytes() == content


def test_long_key_round_trip(buckets: Buckets, store: ObjectStore, tmp_path: Path) -> None:
    key = "/".join(["a" * 200] * 4 + ["b" * 190 + ".jsonl"])
    place = buckets.locate(ACCOUNT, f"s3://advertiser/{key}")
    place.store(keep(tmp_path, b"x"))
    assert list(store.objects("real")) == [f"shop/in/{key}"]
    with pytest.raises(UsageError, match="long"):
        buckets.destination(ACCOUNT, f"s3://advertiser/{key}")


def test_other_prefixes_are_not_accessible(buckets: Buckets, store: ObjectStore) -> None:
    for key in ("shop/in", "shop/in2/seed.jsonl", "shop/out/seed.jsonl", "seed.jsonl"):
        store.put("real", key, b"theirs")
    store.put("real", "shop/in/seed.jsonl", b"mine")
    assert [entry.key for entry in buckets.locate(ACCOUNT, "s3://shelf").list()] == ["seed.jsonl"]
    assert not buckets.locate(ACCOUNT, "s3://shelf/%2e%2e/out/seed.jsonl").exists(), "a key like any other"
    for url in ("s3://shelf/../out/seed.jsonl", "s3://shelf//shop/out/seed.jsonl"):
        with pytest.raises(UsageError):
            buckets.locate(ACCOUNT, url)


def test_files_of_a_folder_are_one_seed(buckets: Buckets, store: ObjectStore, tmp_path: Path) -> None:
    for key, content in {
        "seeds/": b"",
        "seeds/_SUCCESS": b"",
        "seeds/1.jsonl": b"a",
        "seeds/2.jsonl": b"b\n",
        "seeds/below/3.jsonl": b"c",
        "seeds2/4.jsonl": b"d",
        "seeds/b\\ack.jsonl": b"e",
    }.items():
        store.put("real", f"shop/in/{key}", content)
    for url in ("s3://shelf/seeds", "s3://shelf/seeds/"):
        assert buckets.locate(ACCOUNT, url).fetch(tmp_path / "s", max_bytes=LIMIT).read_bytes() == b"a\nb\n"
    for url in ("s3://shelf/seeds/below/3.jsonl/", "s3://shelf/nothing", "s3://shelf/seeds/below/3"):
        with pytest.raises(SeedError) as caught:
            buckets.locate(ACCOUNT, url).fetch(tmp_path / "s", max_bytes=LIMIT)
        assert caught.value.status_code == "SEED_NOT_FOUND"


@pytest.mark.parametrize("deep", [True, False])
def test_listing_is_paged_like_a_local_one(buckets: Buckets, home: Home, store: ObjectStore, deep: bool) -> None:
    keys = sorted(["a/b", "a/c/1", "a/c/2", "a/c!", "a/d", "a/c0", "a-b", "a/e/1", "a/f"], key=str.encode)
    local = Buckets(home, lambda _: None).locate(ACCOUNT, "s3://shelf")
    for key in keys:
        store.put("real", f"shop/in/{key}", b"123")
        path = home.accounts / ACCOUNT / "buckets" / "shelf" / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"123")

    def pages(place: ObjectPlace, limit: int) -> list[tuple[str, int]]:
        found, after = list[tuple[str, int]](), ""
        while True:
            page = [*islice(place.bucket.list("a", after=after, deep=deep), limit)]
            found += [(entry.key, entry.n_bytes) for entry in page]
            if len(page) < limit:
                return found
            after = page[-1].key

    for limit in (1, 2, 3, 100):
        assert pages(buckets.locate(ACCOUNT, "s3://shelf"), limit) == pages(local, limit)
    assert len(pages(local, 2)) == (8 if deep else 5)


def test_seed_size_is_limited(buckets: Buckets, store: ObjectStore, tmp_path: Path) -> None:
    store.put("real", "shop/in/seed.jsonl", b"x" * 101)
    place = buckets.locate(ACCOUNT, "s3://shelf/seed.jsonl")
    (tmp_path / "out").mkdir()
    with pytest.raises(SeedError) as caught:
        place.fetch(tmp_path / "out" / "seed", max_bytes=100)
    assert caught.value.status_code == "SEED_TOO_LARGE"
    assert list((tmp_path / "out").iterdir()) == []
    assert place.fetch(tmp_path / "out" / "seed", max_bytes=101).stat().st_size == 101


CALLS: dict[str, Callable[[ObjectPlace, Path], object]] = {
    "fetch": lambda place, path: place.fetch(path / "fetched", max_bytes=LIMIT),
    "store": lambda place, path: place.store(keep(path, b"x")),
    "exists": lambda place, path: place.exists(),
    "open": lambda place, path: place.open(),
    "list": lambda place, path: list(place.list()),
}


def test_unreachable_store_is_reported(home: Home, store: ObjectStore, tmp_path: Path) -> None:
    store.write_profile("down", url="http://127.0.0.1:1")
    place = buckets_at(home, profile="down").locate(ACCOUNT, "s3://shelf/seed.jsonl")

    def check(call: str) -> None:
        with pytest.raises(CleanroomError, match=r"cannot be reached \(Connect\)") as caught:
            CALLS[call](place, tmp_path)
        assert caught.value.attributes["problem"] == "unreachable"
        assert caught.value.status_code == ("SEED_NOT_FOUND" if call == "fetch" else "INTERNAL")
        assert isinstance(caught.value, SeedError if call == "fetch" else BucketError)
        assert "127.0.0.1" not in str(caught.value)
        assert caught.value.__suppress_context__

    assert offenders(CALLS, check) == []


def test_missing_bucket_is_reported(home: Home, store: ObjectStore, tmp_path: Path) -> None:
    buckets = buckets_at(home, "s3://nowhere")

    def check(call: str) -> None:
        place = buckets.locate(ACCOUNT, "s3://shelf/seed/" if call == "fetch" else "s3://shelf/seed")
        with pytest.raises(CleanroomError, match="does not exist on its store"):
            CALLS[call](place, tmp_path)

    assert offenders(["fetch", "store", "list"], check) == []


def test_ambient_credentials_are_not_used(
    home: Home, store: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No confused deputy: a profile without credentials opens nothing, though this machine could."""
    store.write_profile("empty", key=None)
    store.write_profile("default")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "machine")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "machine")
    monkeypatch.delenv("AWS_EC2_METADATA_DISABLED")
    monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", store.url)

    def check(call: str, profile: str, code: str) -> None:
        place = buckets_at(home, profile=profile).locate(ACCOUNT, "s3://shelf/seed.jsonl")
        with pytest.raises(CleanroomError, match=code) as caught:
            CALLS[call](place, tmp_path)
        assert caught.value.attributes["problem"] == "denied"
        assert store.objects("real") == {}

    profiles = {"empty": "NoCredentialsError", "unknown": "ProfileNotFound"}
    assert offenders([(call, *profile) for call in CALLS for profile in profiles.items()], check) == []


def test_profile_takes_precedence_over_environment_variables(
    buckets: Buckets, store: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "machine")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "machine")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-west-2")
    place = buckets.locate(ACCOUNT, "s3://shelf/seed.jsonl")
    seen = list[str]()

    def noting(send: Callable[[], Reply], request: Request) -> Reply:
        seen.append(request.headers["authorization"])
        return send()

    with store.tampering(noting):
        place.store(keep(tmp_path, b"x"))
    assert list(store.objects("real")) == ["shop/in/seed.jsonl"]
    assert seen
    assert all(re.search(r"Credential=own/\d+/eu-central-1/s3", headers) for headers in seen)


def test_profile_without_an_endpoint_uses_aws(
    home: Home, store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"):
        monkeypatch.setenv(name, store.url)
    with store.config.open("a") as stream:
        stream.write("[profile aws]\nregion = eu-west-1\n")
    with store.credentials.open("a") as stream:
        stream.write("[aws]\naws_access_key_id = a\naws_secret_access_key = b\n")
    with socket.create_server(("127.0.0.1", 0)) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{proxy.getsockname()[1]}")
        asked = list[bytes]()

        def close_connections() -> None:
            with suppress(OSError):
                while True:
                    connection, _ = proxy.accept()
                    with connection:
                        asked.append(connection.recv(65536).splitlines()[0])

        refusing = threading.Thread(target=close_connections, daemon=True)
        refusing.start()
        with pytest.raises(BucketError, match="cannot be reached"):
            buckets_at(home, profile="aws").locate(ACCOUNT, "s3://shelf/seed.jsonl").exists()
        proxy.shutdown(socket.SHUT_RDWR)
        refusing.join(30)
    assert set(asked) == {b"CONNECT real.s3.eu-west-1.amazonaws.com:443 HTTP/1.1"}


def test_s3_specific_endpoint_is_used(home: Home, store: ObjectStore) -> None:
    with store.config.open("a") as stream:
        stream.write("[profile shared]\nendpoint_url = http://127.0.0.1:1\nservices = local\n")
        stream.write(f"[services local]\ns3 =\n  endpoint_url = {store.url}\n")
    store.credentials.write_text("[shared]\naws_access_key_id = a\naws_secret_access_key = b\n")
    assert not buckets_at(home, profile="shared").locate(ACCOUNT, "s3://shelf/seed.jsonl").exists()


@pytest.fixture
def guarded(store: ObjectStore) -> ObjectStore:
    """A store that checks who asks: `reader` may read, `nobody` may nothing."""
    iam = store.client("iam")
    for name, actions in {"reader": ["s3:GetObject", "s3:ListBucket"], "nobody": ["s3:ListAllMyBuckets"]}.items():
        iam.create_user(UserName=name)
        statement = {"Effect": "Allow", "Action": actions, "Resource": "*"}
        document = json.dumps({"Version": "2012-10-17", "Statement": statement})
        iam.put_user_policy(UserName=name, PolicyName="p", PolicyDocument=document)
        made = iam.create_access_key(UserName=name)["AccessKey"]
        store.write_profile(name, key=made["AccessKeyId"], secret=made["SecretAccessKey"])
    store.write_profile("forger", key=made["AccessKeyId"], secret="wrong")
    store.put("real", "seed.jsonl", b"x")
    httpx.post(f"{store.url}/moto-api/reset-auth", content="0")
    return store


def test_wrong_credentials_are_reported(home: Home, guarded: ObjectStore, tmp_path: Path) -> None:
    def check(call: str, profile: str, code: str) -> None:
        place = buckets_at(home, profile=profile).locate(ACCOUNT, "s3://shelf/seed.jsonl")
        with pytest.raises(CleanroomError, match=rf"\(({code}|403)\)") as caught:
            CALLS[call](place, tmp_path)
        assert caught.value.attributes["problem"] == "denied"
        assert isinstance(caught.value, SeedError if call == "fetch" else BucketError)

    codes = {PROFILE: "InvalidAccessKeyId", "forger": "SignatureDoesNotMatch", "nobody": "AccessDenied"}
    calls = ("fetch", "store", "open", "list")
    assert offenders([(call, *refused) for call in calls for refused in codes.items()], check) == []


def test_read_only_credentials_cannot_write(home: Home, guarded: ObjectStore, tmp_path: Path) -> None:
    place = buckets_at(home, profile="reader").locate(ACCOUNT, "s3://shelf/seed.jsonl")
    assert place.fetch(tmp_path / "seed", max_bytes=LIMIT).read_bytes() == b"x"
    with pytest.raises(BucketError, match="AccessDenied"):
        place.store(keep(tmp_path, b"y"))


def test_corrected_credentials_are_read_without_a_restart(
    home: Home, guarded: ObjectStore, tmp_path: Path
) -> None:
    buckets = buckets_at(home, profile="forger")
    place = buckets.locate(ACCOUNT, "s3://shelf/seed.jsonl")
    with pytest.raises(BucketError):
        place.open()
    lines = guarded.credentials.read_text().split("[reader]\n")[1].splitlines()[:2]
    guarded.credentials.write_text("\n".join(["[forger]", *lines]))
    assert place.fetch(tmp_path / "seed", max_bytes=LIMIT).read_bytes() == b"x"


def test_invalid_endpoint_is_reported(home: Home, store: ObjectStore, tmp_path: Path) -> None:
    def check(number: int, url: str) -> None:
        store.write_profile(f"odd{number}", url=url)
        with pytest.raises(BucketError, match="profile cannot be used"):
            buckets_at(home, profile=f"odd{number}").locate(ACCOUNT, "s3://shelf/seed.jsonl").exists()

    urls = [
        "no url",
        "ftp://store",
        "http://",
        "http://a b",
        "http://store:99999",
        "http://store:x",
        "http://:80",
        "http://s/?x",
    ]
    assert offenders(enumerate(urls), check) == []


def test_without_botocore_the_extra_is_named(home: Home) -> None:
    with (
        mock.patch.dict(sys.modules, {"botocore.session": None}),
        pytest.raises(ConfigurationError, match=r"cleanroom-pipelines\[api\]"),
    ):
        buckets_at(home).locate(ACCOUNT, "s3://shelf/seed.jsonl").exists()


def test_broken_connection_is_retried(buckets: Buckets, store: ObjectStore, tmp_path: Path) -> None:
    store.put("real", "shop/in/seed.jsonl", b"x" * 3_000_000)
    place = buckets.locate(ACCOUNT, "s3://shelf/seed.jsonl")
    n_opened, n_broken = 0, 2

    def breaking(send: Callable[[], Reply], request: Request) -> Reply:
        nonlocal n_opened
        body, status, headers = send()
        if request.method == "GET" and request.url.endswith("/seed.jsonl"):
            n_opened += 1
            if n_opened <= n_broken:
                return a_third(body), status, headers
        return body, status, headers

    def a_third(body: Iterable[bytes]) -> Iterator[bytes]:
        yield b"".join(body)[: 1_000_000 if n_broken == 2 else 1000]
        raise ConnectionError

    with store.tampering(breaking):
        assert place.fetch(tmp_path / "seed", max_bytes=LIMIT).read_bytes() == b"x" * 3_000_000
        assert n_opened == 3
        n_opened, n_broken = 0, 10**6
        with pytest.raises(SeedError) as caught:
            place.fetch(tmp_path / "seed", max_bytes=LIMIT)
    assert caught.value.attributes["problem"] == "unreachable"


def test_key_invalid_as_a_path_is_reported(buckets: Buckets, store: ObjectStore) -> None:
    store.put("real", "shop/in/a//b", b"x")
    with pytest.raises(BucketError, match="a//b"):
        list(buckets.locate(ACCOUNT, "s3://shelf").list())


def test_bucket_in_another_region_is_reported(buckets: Buckets, store: ObjectStore, tmp_path: Path) -> None:
    redirect: Reply = ([b"<Error><Code>PermanentRedirect</Code></Error>"], "301 Moved Permanently", [])
    place = buckets.locate(ACCOUNT, "s3://shelf/seed.jsonl")

    def check(call: str) -> None:
        with pytest.raises(CleanroomError, match="not in the region"):
            CALLS[call](place, tmp_path)

    with store.tampering(lambda *_: redirect):
        assert offenders(CALLS, check) == []


def test_missing_object_is_reported(buckets: Buckets, store: ObjectStore) -> None:
    with pytest.raises(NotFoundError):
        buckets.locate(ACCOUNT, "s3://shelf/nothing").open()
