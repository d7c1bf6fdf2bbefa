"""Contract: an export on a real store equals byte for byte that on the disk. Its manifest is uploaded last, so an
interrupted attempt is not an export; the next attempt replaces it, and objects of other writers are never
changed."""

from collections.abc import Callable, Iterator
from pathlib import Path
from unittest import mock

import pytest
from moto.server import ThreadedMotoServer

from cleanroom_pipelines.delivery.exports import ExportManifest, verify_export
from cleanroom_pipelines.errors import (
    ArtifactError,
    CancelledError,
    ClaimLostError,
    CleanroomError,
    DestinationError,
    StorageFullError,
)
from cleanroom_pipelines.storage import Home, ObjectPlace
from cleanroom_pipelines.storage.buckets import Buckets, RegisteredBucket
from cleanroom_pipelines_tests.delivery.exporting import exported as exported_as

from ..object_stores import PROFILE, ObjectStore, Reply, Request, empty_store, running_server
from ..offenders import offenders

ACCOUNT = "111111111111"
FOLDER = "0123456789ab"
BASE = f"shop/spring/{FOLDER}"
USERS = [["a", "b", "c"], ["d", "🛒", 'x,"y"\n']]


@pytest.fixture
def store(store_server: ThreadedMotoServer, tmp_path: Path) -> Iterator[ObjectStore]:
    with empty_store(store_server, tmp_path) as running:
        running.client().create_bucket(Bucket="real")
        yield running


def place_at(home: Home, url: str = "s3://real/shop", profile: str = PROFILE) -> ObjectPlace:
    buckets = Buckets(home, lambda name: RegisteredBucket(name, ACCOUNT, url, profile))
    return buckets.destination(ACCOUNT, "s3://audiences/spring") / FOLDER


@pytest.fixture
def place(home: Home, store: ObjectStore) -> ObjectPlace:
    return place_at(home)


def export(
    place: ObjectPlace, users: object = USERS, *, format_: str = "jsonl", max_rows: int = 2, **options: object
) -> ExportManifest:
    arguments = {"export": "e-1", "generation_job": "g-1", "requested": 100} | options
    return exported_as(place, users, format_=format_, max_rows=max_rows, **arguments)  # type: ignore


def names(store: ObjectStore) -> list[str]:
    return [key.removeprefix(f"{BASE}/") for key in store.objects("real")]


@pytest.mark.parametrize("format_", ["jsonl", "csv", "parquet"])
def test_bytes_equal_those_of_a_local_export(
    place: ObjectPlace, home: Home, store: ObjectStore, format_: str
) -> None:
    local = Buckets(home, lambda _: None).destination(ACCOUNT, "s3://audiences/spring") / FOLDER
    told = list[int]()
    manifest = export(place, format_=format_, on_users=told.append)
    assert export(local, format_=format_) == manifest
    assert local.folder is not None
    assert store.objects("real") == {f"{BASE}/{path.name}": path.read_bytes() for path in local.folder.iterdir()}
    assert verify_export(place) == verify_export(local) == manifest.as_dict()
    assert place.url == local.url == f"s3://audiences/spring/{FOLDER}"
    assert (told, place.folder) == ([2, 4, 6], None)
    assert list(home.scratch.iterdir()) == []


def test_manifest_is_uploaded_last(place: ObjectPlace, store: ObjectStore) -> None:
    seen = list[list[str]]()
    export(place, on_users=lambda _: seen.append(names(store)))
    parts = [f"part-{number:05d}.jsonl" for number in range(3)]
    assert seen == [parts[:1], parts[:2], parts]
    assert names(store) == ["manifest.json", *parts]


@pytest.mark.parametrize(
    "error", [CancelledError("stop"), KeyboardInterrupt(), StorageFullError("full"), OSError(30, "read-only")]
)
def test_failed_attempt_deletes_its_files(
    place: ObjectPlace, home: Home, store: ObjectStore, error: BaseException
) -> None:
    def failing() -> Iterator[list[str]]:
        yield from USERS
        assert len(names(store)) == 3
        raise error

    with pytest.raises(DestinationError if type(error) is OSError else type(error)):
        export(place, failing())
    assert store.objects("real") == {}
    assert list(home.scratch.iterdir()) == []
    export(place)
    verify_export(place)


@pytest.mark.parametrize("nth", range(4))
def test_store_failure_leaves_no_manifest(home: Home, store: ObjectStore, nth: int) -> None:
    """It fails at the nth upload and from then on, and the next attempt takes what was left over."""
    n_uploads = 0

    def failing(send: Callable[[], Reply], request: Request) -> Reply:
        nonlocal n_uploads
        n_uploads += request.method == "PUT"
        if request.method in ("PUT", "HEAD") and n_uploads > nth:
            raise ConnectionError
        return send()

    with store.tampering(failing), pytest.raises(DestinationError):
        export(place_at(home))
    assert names(store) == [f"part-{number:05d}.jsonl" for number in range(nth)]
    with pytest.raises(ArtifactError, match="missing or incomplete"):
        verify_export(place_at(home))
    export(place_at(home), [["a"]])
    assert names(store) == ["manifest.json", "part-00000.jsonl"]
    verify_export(place_at(home))


def test_real_store_failure_is_reported(home: Home, tmp_path: Path) -> None:
    with running_server() as server, empty_store(server, tmp_path) as store:
        store.client().create_bucket(Bucket="real")
        place = place_at(home)
        with pytest.raises(DestinationError, match="cannot be reached") as caught:
            export(place, on_users=lambda _: server.stop())
        assert caught.value.status_code == "DESTINATION_NOT_WRITABLE"
        with pytest.raises(DestinationError, match="cannot be reached"):
            verify_export(place)


@pytest.mark.parametrize("is_whole", [True, False])
def test_retry_replaces_its_own_attempt(place: ObjectPlace, store: ObjectStore, is_whole: bool) -> None:
    export(place, [["old", "older", "oldest"]], max_rows=1)
    if not is_whole:
        store.client().delete_object(Bucket="real", Key=f"{BASE}/manifest.json")
    export(place)
    assert names(store) == ["manifest.json", *(f"part-{number:05d}.jsonl" for number in range(3))]
    assert verify_export(place)["delivered"] == 6
    export(place, [["new"]])
    assert names(store) == ["manifest.json", "part-00000.jsonl"]
    verify_export(place)


def test_failed_retry_keeps_the_complete_attempt(place: ObjectPlace) -> None:
    export(place)
    with pytest.raises(CancelledError):
        export(place, on_users=mock.Mock(side_effect=CancelledError("stop")))
    verify_export(place)


@pytest.mark.parametrize("error", [ClaimLostError("taken over"), ConnectionError()])
def test_superseded_attempt_changes_nothing(home: Home, store: ObjectStore, error: Exception) -> None:
    """Another attempt at the same export begins and ends while this one is under way."""

    def taken_over(n_users: int) -> None:
        if n_users == 4:
            export(place_at(home))
            raise error

    with pytest.raises((ClaimLostError, DestinationError)):
        export(place_at(home), on_users=taken_over)
    verify_export(place_at(home))


def test_attempt_deletes_only_its_own_files(home: Home, store: ObjectStore) -> None:
    """Another attempt, still without a manifest, has written the same part again."""

    def overtaken(n_users: int) -> None:
        if n_users == 4:
            with pytest.raises(ClaimLostError):
                export(place_at(home), [["x", "y"]], on_users=mock.Mock(side_effect=ClaimLostError("gone")))
            raise CancelledError("stop")

    with pytest.raises(CancelledError):
        export(place_at(home), on_users=overtaken)
    assert store.objects("real") == {f"{BASE}/part-00000.jsonl": b'{"user_id": "x"}\n{"user_id": "y"}\n'}


def test_foreign_objects_are_kept(place: ObjectPlace, store: ObjectStore) -> None:
    def check(key: str | None) -> None:
        if key is None:
            export(place, export="e-2")
        else:
            store.put("real", f"{BASE}/{key}", b'{"export": "e-1"}')
        before = store.objects("real")
        with pytest.raises(DestinationError, match="contains other objects") as caught:
            export(place)
        assert caught.value.attributes["problem"] == "in the way"
        assert caught.value.remedy
        assert store.objects("real") == before
        for each in before:
            store.client().delete_object(Bucket="real", Key=each)

    # The last is another export.
    assert offenders(["manifest.json", "part-00000.jsonl", "x", "below/x", None], check) == []


def test_folder_with_many_foreign_objects_is_not_used(place: ObjectPlace, store: ObjectStore) -> None:
    for number in range(3):
        store.put("real", f"{BASE}/{number}", b"theirs")
    with (
        mock.patch("cleanroom_pipelines.storage.remote_bucket.MAX_FILES_OF_A_FOLDER", 2),
        pytest.raises(DestinationError, match="many other"),
    ):
        export(place)


def test_neighbouring_objects_are_not_changed(place: ObjectPlace, store: ObjectStore) -> None:
    beside = {BASE: b"1", f"{BASE}0/part-00000.jsonl": b"2", "shop/spring/x": b"3", f"{BASE}/": b""}
    for key, content in beside.items():
        store.put("real", key, content)
    export(place)
    export(place, [["a"]])
    verify_export(place)
    assert set(names(store)) - {"manifest.json", "part-00000.jsonl"} == {
        key.removeprefix(f"{BASE}/") for key in beside
    }


def test_damage_is_reported(place: ObjectPlace, store: ObjectStore) -> None:
    export(place)
    objects = store.objects("real")
    part, manifest, added = (
        f"{BASE}/{name}" for name in ("part-00000.jsonl", "manifest.json", "part-00009.jsonl")
    )

    def check(key: str, content: bytes | None) -> None:
        verify_export(place)
        store.client().delete_object(Bucket="real", Key=key)
        if content is not None:
            store.put("real", key, content)
        with pytest.raises(ArtifactError):
            verify_export(place)
        store.client().delete_object(Bucket="real", Key=key)
        if key in objects:
            store.client().put_object(Bucket="real", Key=key, Body=objects[key])

    damages = [
        (part, objects[part].replace(b"a", b"b")),
        (part, objects[part][:-1]),
        (part, None),
        (added, b""),
        (manifest, b"[]"),
        (manifest, None),
    ]
    assert offenders(damages, check) == []


def test_unwritable_destination_is_reported(home: Home, store: ObjectStore) -> None:
    store.write_profile("empty", key=None)

    def check(url: str, profile: str, match: str) -> None:
        place = place_at(home, url, profile)
        with pytest.raises(DestinationError, match=match) as caught:
            export(place)
        assert caught.value.status_code == "DESTINATION_NOT_WRITABLE"
        assert caught.value.__cause__ is None
        with pytest.raises(CleanroomError):
            verify_export(place)
        assert store.objects("real") == {}

    places = [
        ("s3://nowhere", PROFILE, "does not exist on its store"),
        ("s3://real", "unknown", "ProfileNotFound"),
        ("s3://real", "empty", "NoCredentialsError"),
    ]
    assert offenders(places, check) == []
