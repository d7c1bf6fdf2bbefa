"""Contract: a folder, object or glob in a store is read as the same local files would be; what has not changed is
not fetched again, and the cache of counts per file counts only new files."""

import json
import time
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from cleanroom_pipelines.engine import Runtime
from cleanroom_pipelines.errors import CancelledError, SeedError, StatusCode, TrainingDataError
from cleanroom_pipelines.storage.remote_bucket import RemoteBucket, open_url
from cleanroom_pipelines.uploads.checks import INTERACTIONS, SEED, USERS
from cleanroom_pipelines.uploads.sources import Sources, snapshots
from cleanroom_pipelines_tests import worlds
from cleanroom_pipelines_tests.object_stores import ObjectStore, Reply, Request

from .training import model_of, write_days


def url_of(store: ObjectStore, key: str) -> str:
    return f"s3://shop/{key}?endpoint_override={store.url.removeprefix('http://')}&scheme=http"


def put_days(store: ObjectStore, folder: Path, prefix: str = "events") -> None:
    for file in write_days(folder):
        store.put("shop", f"{prefix}/day={file.stem}/part.parquet", file.read_bytes())


class Gets:
    """The keys that were fetched, one by one."""

    def __init__(self) -> None:
        self.keys: list[str] = []

    def __call__(self, answer: Callable[[], Reply], request: Request) -> Reply:
        path = request.url.partition("?")[0]
        if request.method == "GET" and path.count("/") > 1 and "list-type" not in request.url:
            self.keys.append(path.split("/", 2)[2])
        return answer()


def names_in(path: Path) -> list[str]:
    return sorted(file.relative_to(path).as_posix() for file in path.rglob("*") if file.is_file())


@pytest.mark.parametrize("key", ["events.parquet", "events/*/part.parquet", "eve*/**/*.parquet", "**/*.parquet"])
def test_the_model_is_that_of_local_files(
    key: str, store: ObjectStore, tmp_path: Path, world: worlds.World, local_model: dict[str, bytes]
) -> None:
    if "*" in key:
        put_days(store, tmp_path / "days")
    else:
        store.put("shop", key, world.interactions.read_bytes())
    assert model_of(url_of(store, key), tmp_path) == local_model


def test_a_folder_has_its_own_objects_and_those_of_partitions(store: ObjectStore, tmp_path: Path) -> None:
    wanted = ["a.parquet", "day=1/b.parquet", "day=2/hour=%20é/c.parquet"]
    others = ["_SUCCESS", ".hidden", "sub/d.parquet", "_log/day=1/e.parquet", "day=1/_f.parquet", "day=3/empty"]
    for name in (*wanted, *others):
        store.put("shop", f"events/{name}", b"" if name.endswith("empty") else b"x")
    store.put("shop", "events2/g.parquet", b"x")
    with Sources(tmp_path).opening(url_of(store, "events/"), INTERACTIONS, folder=tmp_path / "copies") as path:
        assert names_in(path) == wanted


def test_a_days_new_partition_is_all_that_is_fetched_and_counted(
    store: ObjectStore, tmp_path: Path, local_model: dict[str, bytes]
) -> None:
    files = write_days(tmp_path / "days")
    source, gets = url_of(store, "events/*/part.parquet"), Gets()
    for file in files[:2]:
        store.put("shop", f"events/day={file.stem}/part.parquet", file.read_bytes())
    with store.tampering(gets):
        model_of(source, tmp_path, cached=True)
        counted = {file.name: file.stat().st_mtime_ns for file in (tmp_path / "cache").iterdir()}
        assert len(counted) == 2 * 2
        store.put("shop", "events/day=2/part.parquet", files[2].read_bytes())
        assert model_of(source, tmp_path, cached=True) == local_model
    assert sorted(gets.keys) == [f"events/day%3D{day}/part.parquet" for day in range(3)]
    after = {file.name: file.stat().st_mtime_ns for file in (tmp_path / "cache").iterdir()}
    assert len(after) == 3 * 2
    assert counted.items() <= after.items()


def test_a_replaced_object_is_fetched_again_and_a_deleted_one_is_deleted(
    store: ObjectStore, tmp_path: Path
) -> None:
    sources, url = Sources(tmp_path), url_of(store, "events")
    for name, content in (("a", b"one"), ("b", b"same"), ("c", b"gone")):
        store.put("shop", f"events/{name}.csv", content)
    with sources.opening(url, INTERACTIONS, folder=tmp_path / "copies") as path:
        times = {file.name: file.stat().st_mtime_ns for file in path.iterdir()}
    store.put("shop", "events/a.csv", b"two")
    store.client().delete_object(Bucket="shop", Key="events/c.csv")
    with sources.opening(url, INTERACTIONS, folder=tmp_path / "copies") as path:
        assert {file.name: file.read_bytes() for file in path.iterdir()} == {"a.csv": b"two", "b.csv": b"same"}
        assert (path / "b.csv").stat().st_mtime_ns == times["b.csv"]
        # of the same size, perhaps of the same second: the day cache must see the difference
        assert (path / "a.csv").stat().st_mtime_ns != times["a.csv"]


def test_an_interrupted_copy_continues(store: ObjectStore, tmp_path: Path) -> None:
    sources, url, gets = Sources(tmp_path), url_of(store, "events"), Gets()
    for name in "abc":
        store.put("shop", f"events/{name}.csv", b"x")
    with store.tampering(gets):
        stop = Runtime(should_cancel=lambda: len(gets.keys) == 2)
        with (
            pytest.raises(CancelledError),
            sources.opening(url, INTERACTIONS, folder=tmp_path / "copies", runtime=stop),
        ):
            pass
        with sources.opening(url, INTERACTIONS, folder=tmp_path / "copies") as path:
            assert names_in(path) == ["a.csv", "b.csv", "c.csv"]
    assert gets.keys.count("events/a.csv") == 1


def test_a_reader_keeps_its_files_until_it_ends(store: ObjectStore, tmp_path: Path) -> None:
    sources, url = Sources(tmp_path), url_of(store, "events")
    store.put("shop", "events/a.csv", b"one")
    until = time.monotonic() + 0.5
    waiting = Runtime(should_cancel=lambda: time.monotonic() > until)
    with sources.opening(url, INTERACTIONS, folder=tmp_path / "copies") as path:
        with sources.opening(url, INTERACTIONS, folder=tmp_path / "copies", runtime=waiting) as same:
            assert same == path
        store.put("shop", "events/a.csv", b"two")
        with (
            pytest.raises(CancelledError),
            sources.opening(url, INTERACTIONS, folder=tmp_path / "copies", runtime=waiting),
        ):
            pass
        assert (path / "a.csv").read_bytes() == b"one"


def test_two_tables_of_one_source_do_not_wait_for_each_other(store: ObjectStore, tmp_path: Path) -> None:
    sources, url = Sources(tmp_path), url_of(store, "events")
    store.put("shop", "events/a.csv", b"one")
    until = time.monotonic() + 5
    runtime = Runtime(should_cancel=lambda: time.monotonic() > until)
    with sources.opening(url, INTERACTIONS, folder=tmp_path / "copies", runtime=runtime) as path:
        store.put("shop", "events/a.csv", b"two")
        with sources.opening(url, USERS, folder=tmp_path / "copies", runtime=runtime) as other:
            assert (path / "a.csv").read_bytes() == b"one"
            assert (other / "a.csv").read_bytes() == b"two"


def test_a_killed_update_is_not_taken_for_the_state_before(
    store: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sources, url = Sources(tmp_path), url_of(store, "events")

    def opened() -> bytes:
        with sources.opening(url, INTERACTIONS, folder=tmp_path / "copies") as path:
            return (path / "a.csv").read_bytes()

    store.put("shop", "events/a.csv", b"one")
    assert opened() == b"one"
    store.put("shop", "events/a.csv", b"two")
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):

        def killed(_: Path) -> str:
            patch.setattr(snapshots, "_write_manifest", lambda *_: None)
            raise KeyboardInterrupt

        patch.setattr(snapshots, "_digest", killed)  # the file was replaced, the manifest was not
        opened()
    store.put("shop", "events/a.csv", b"one")
    assert opened() == b"one"


def test_an_object_that_is_replaced_meanwhile_is_not_mixed_with_others(store: ObjectStore, tmp_path: Path) -> None:
    store.put("shop", "events/a.csv", b"one")

    def send(answer: Callable[[], Reply], request: Request) -> Reply:
        if "if-match" in request.headers:
            store.put("shop", "events/a.csv", b"two")
        return answer()

    with (
        store.tampering(send),
        pytest.raises(TrainingDataError, match="changed"),
        Sources(tmp_path).opening(url_of(store, "events"), INTERACTIONS, folder=tmp_path / "copies"),
    ):
        pass


def test_the_manifest_says_what_was_fetched(store: ObjectStore, tmp_path: Path, world: worlds.World) -> None:
    store.put("shop", "events/a.parquet", world.interactions.read_bytes())
    with Sources(tmp_path).opening(url_of(store, "events"), INTERACTIONS, folder=tmp_path / "copies") as path:
        manifest = json.loads((path.parent / "manifest.json").read_text())
    assert manifest["source"] == "s3://shop/events"
    assert manifest["n_rows"] == worlds.N_EVENTS
    assert [(file["name"], file["n_bytes"]) for file in manifest["files"]] == [
        ("a.parquet", world.interactions.stat().st_size)
    ]
    assert len(manifest["digest"]) == 64


def test_columns_come_from_a_footer_or_the_smallest_file(store: ObjectStore, tmp_path: Path) -> None:
    put_days(store, tmp_path / "days")
    store.put("shop", "lists/country=CH/big.csv", b"user;item\n" + b"1;2\n" * 1000)
    store.put("shop", "lists/country=DE/small.csv", b"user;item\n1;2\n")
    sources = Sources(tmp_path)
    assert sources.columns(url_of(store, "events"), INTERACTIONS) == ("user", "item", "ts", "day")
    assert sources.columns(url_of(store, "lists"), INTERACTIONS) == ("user", "item", "country")
    assert pq.read_schema(tmp_path / "days" / "0.parquet").names == ["user", "item", "ts"]


@pytest.mark.parametrize("reads", ["columns", "files"])
def test_what_is_missing_or_denied_is_one_sentence(
    reads: str, store: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def opened(url: str) -> TrainingDataError:
        with pytest.raises(TrainingDataError) as caught:
            if reads == "columns":
                Sources(tmp_path).columns(url, INTERACTIONS)
            else:
                with Sources(tmp_path).opening(url, INTERACTIONS, folder=tmp_path / "copies"):
                    pass
        assert "shop" not in str(caught.value)
        assert caught.value.remedy
        return caught.value

    missing = opened(url_of(store, "events"))
    assert (missing.status_code, missing.attributes["problem"]) == (StatusCode.TRAINING_DATA_NOT_FOUND, "missing")
    no_bucket = opened(url_of(store, "events").replace("shop", "other"))
    assert no_bucket.status_code == StatusCode.TRAINING_DATA_NOT_FOUND
    store.write_profile("empty", key=None)
    monkeypatch.setenv("AWS_PROFILE", "empty")
    denied = opened(url_of(store, "events"))
    assert "operator's credentials" in denied.remedy or "endpoint" in denied.remedy


def test_a_missing_seed_is_a_seed_error(store: ObjectStore, tmp_path: Path) -> None:
    with (
        pytest.raises(SeedError) as caught,
        Sources(tmp_path).opening(url_of(store, "seed.csv"), SEED, folder=tmp_path / "copies"),
    ):
        pass
    assert caught.value.status_code == StatusCode.SEED_NOT_FOUND


def test_a_registered_bucket_is_read_with_its_own_credentials(store: ObjectStore, tmp_path: Path) -> None:
    store.put("shop", "publisher/events/a.csv", b"x")
    url = url_of(store, "publisher")
    bucket = RemoteBucket(lambda: open_url(url), tmp_path, "publisher")
    asked = []

    def registered(name: str) -> RemoteBucket | None:
        asked.append(name)
        return bucket

    sources = Sources(tmp_path, registered=registered)
    with sources.opening("s3://mine/events", INTERACTIONS, folder=tmp_path / "copies") as path:
        assert names_in(path) == ["a.csv"]
    assert set(asked) == {"mine"}


@pytest.mark.parametrize(
    "keys",
    [["day=1/../../../x.csv"], ["../x.csv"], ["day=.." + "x" * 250 + "/a.csv"], ["day=1", "day=1/a.csv"]],
)
def test_a_key_never_leads_out_of_the_copy(keys: list[str], store: ObjectStore, tmp_path: Path) -> None:
    for key in keys:
        store.put("shop", f"events/{key}", b"x")
    before = names_in(tmp_path)
    with (
        pytest.raises(TrainingDataError),
        Sources(tmp_path).opening(url_of(store, "events/**"), INTERACTIONS, folder=tmp_path / "copies"),
    ):
        pass
    assert [name for name in names_in(tmp_path) if not name.startswith("copies/")] == before
    assert not any(file.suffix == ".csv" for file in (tmp_path / "copies").rglob("*"))
