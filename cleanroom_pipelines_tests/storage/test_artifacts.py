"""Contract: an artifact is published atomically and never changes, and readers trust only files that its
manifest lists and verifies. After an error, an interrupt, a full disk or SIGKILL no reader sees any part of
it, and another attempt succeeds. The same holds on an object store."""

import json
import multiprocessing
import os
import random
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import obstore
import pytest
from obstore.exceptions import GenericError
from obstore.store import MemoryStore

from cleanroom_pipelines.errors import (
    ArtifactError,
    ConfigurationError,
    StorageFullError,
    StoreUnavailableError,
    UsageError,
)
from cleanroom_pipelines.storage import ArtifactReference, ArtifactStore, Input, Manifest, remote_bucket
from cleanroom_pipelines.storage.artifacts import (
    FORMAT_VERSION,
    MANIFEST,
    FileEntry,
    is_leftover,
    sha256_of,
    write_durably,
)
from cleanroom_pipelines_tests.disks import small_disk

from ..object_stores import PROFILE, empty_store
from ..offenders import offenders
from .drafting import N_FILES, PARTITION, content, reference, write, write_beyond_limit, write_for_ever

FULL = OSError(28, os.strerror(28))


@dataclass(frozen=True)
class Place:
    """A store, and a look at it from outside.

    Attributes:
        store: The store.
        files: What is kept in it, by a way of the test's own.
        scratch: Its local folder for drafts.
        folder: Its folder, if it is one on this machine.
    """

    store: ArtifactStore
    files: Callable[[], list[str]]
    scratch: Path
    folder: Path | None = None

    def everything(self) -> list[str]:
        return [*self.files(), *map(str, self.scratch.rglob("*"))]


def in_memory(scratch: Path) -> tuple[Place, MemoryStore]:
    """A store in memory, and the files in it."""
    memory = MemoryStore()
    with mock.patch.object(remote_bucket, "open_url", lambda *_: memory):
        store = ArtifactStore("gs://bucket/artifacts", scratch)
        assert store.is_empty()
    return Place(store, lambda: [each["path"] for each in obstore.list(memory).collect()], scratch), memory


@pytest.fixture(params=["local", "file-url", "memory", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    if request.param == "memory":
        yield in_memory(scratch)[0]
        return
    if request.param == "s3":
        with empty_store(request.getfixturevalue("store_server"), tmp_path) as found:
            found.client().create_bucket(Bucket="bucket-of-artifacts")
            address = found.url.removeprefix("http://")
            with pytest.MonkeyPatch.context() as patch:
                patch.setenv("AWS_PROFILE", PROFILE)
                query = f"endpoint_override={address}&scheme=http"
                store = ArtifactStore(f"s3://bucket-of-artifacts/artifacts?{query}", scratch)
                yield Place(store, lambda: list(found.objects("bucket-of-artifacts")), scratch)
        return
    root = tmp_path / "store"
    store = ArtifactStore(str(root) if request.param == "local" else root.as_uri(), scratch)
    yield Place(store, lambda: [str(path) for path in root.rglob("*") if path.is_file()], scratch, root)


@pytest.fixture
def store(place: Place) -> ArtifactStore:
    return place.store


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "store"


@pytest.fixture
def local(root: Path, tmp_path: Path) -> ArtifactStore:
    return ArtifactStore(str(root), tmp_path)


def folder_of(root: Path, number: int = 1) -> Path:
    return root / reference(number).path


@contextmanager
def drafting(store: ArtifactStore, number: int = 1, **options: object) -> Iterator[Path]:
    facts = {"code_version": "1", "data_version": "d", "created_at": "now"} | options
    with store.drafting(reference(number), **facts) as draft:
        yield draft.path


def test_written_artifact_is_read_back(store: ArtifactStore) -> None:
    parent = Input("training_dataset", "y-ba9876543210", "0001-00000000", "ab")
    with store.drafting(
        reference(1), code_version="7", data_version="d", created_at="2026-03-01", inputs=(parent,)
    ) as draft:
        (draft.path / "below").mkdir()
        (draft.path / "below" / "rows.csv").write_text("a\n1\n")
        (draft.path / "empty.json").write_bytes(b"")
        draft.n_rows["below/rows.csv"] = 1
        draft.facts["n"] = 1
        assert store.versions("audience", PARTITION) == []
    manifest = store.verify(reference(1))
    assert manifest == draft.manifest
    assert manifest.inputs == (parent,)
    assert [(entry.name, entry.n_bytes, entry.n_rows) for entry in manifest.files] == [
        ("below/rows.csv", 4, 1),
        ("empty.json", 0, None),
    ]
    assert manifest.facts == {"n": 1}
    with store.opening(reference(1)) as folder:
        assert (folder / "below" / "rows.csv").read_text() == "a\n1\n"


def test_failed_write_leaves_nothing(place: Place) -> None:
    store = place.store
    for number, error in enumerate((ValueError("x"), KeyboardInterrupt(), SystemExit(1), FULL)):
        expected = StorageFullError if error is FULL else type(error)
        with pytest.raises(expected), drafting(store, number) as folder:
            (folder / "half.bin").write_bytes(b"half")
            raise error
        assert place.everything() == []
        assert store.versions("audience", PARTITION) == []
        with pytest.raises(ArtifactError):
            store.manifest(reference(number))
        write(store, number)
        assert store.versions("audience", PARTITION) == [reference(number).version]
        store.delete(reference(number))


def test_published_version_is_immutable(store: ArtifactStore) -> None:
    write(store, 1)
    before = store.verify(reference(1))
    with pytest.raises(ArtifactError, match="exists"), drafting(store):
        pass
    assert store.verify(reference(1)) == before


def test_concurrent_writers_publish_one_version(local: ArtifactStore) -> None:
    with pytest.raises(ArtifactError, match="exists"), drafting(local) as folder:
        (folder / "mine.bin").write_bytes(b"mine")
        write(local, 1)
    with local.opening(reference(1)) as opened:
        assert not (opened / "mine.bin").exists()


def altered(folder: Path) -> None:
    path = folder / "file-2.bin"
    path.write_bytes(bytes([path.read_bytes()[0] ^ 1]) + path.read_bytes()[1:])


def missing(folder: Path) -> None:
    (folder / "file-0.bin").unlink()


def truncated(folder: Path) -> None:
    os.truncate(folder / "file-1.bin", 49_999)


def extra(folder: Path) -> None:
    (folder / "planted.json").write_text("{}")


def folder_in_place(folder: Path) -> None:
    (folder / "file-0.bin").unlink()
    (folder / "file-0.bin").mkdir()


def hidden_extra(folder: Path) -> None:
    (folder / "below").mkdir()
    (folder / "below" / ".planted.json").write_text("{}")


def test_damage_is_reported(local: ArtifactStore, root: Path) -> None:
    def check(number: int, damage: Callable[[Path], None]) -> None:
        write(local, number)
        damage(folder_of(root, number))
        with pytest.raises(ArtifactError) as caught, local.opening(reference(number)):
            pytest.fail("opened")
        assert "planted" not in str(caught.value)

    damages = [altered, missing, truncated, extra, hidden_extra, folder_in_place]
    assert offenders(enumerate(damages, 1), check) == []


def test_damage_in_an_object_store_is_reported(tmp_path: Path) -> None:
    place, memory = in_memory(tmp_path)
    write(place.store, 1)
    path = f"{reference(1).path}/file-0.bin"
    obstore.put(memory, path, b"other")
    with pytest.raises(ArtifactError), place.store.opening(reference(1)):
        pass
    obstore.delete(memory, path)
    with pytest.raises(ArtifactError), place.store.opening(reference(1)):
        pass
    assert list(tmp_path.iterdir()) == []


def test_object_store_returns_only_listed_files(tmp_path: Path) -> None:
    place, memory = in_memory(tmp_path)
    write(place.store, 1)
    obstore.put(memory, f"{reference(1).path}/planted.json", b"{}")
    with place.store.opening(reference(1)) as folder:
        assert sorted(path.name for path in folder.iterdir()) == [f"file-{n}.bin" for n in range(N_FILES)]
    assert list(tmp_path.iterdir()) == []


def change_manifest(root: Path, **changes: object) -> None:
    path = folder_of(root) / MANIFEST
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_altered_manifest_is_rejected(local: ArtifactStore, root: Path) -> None:
    alterations: list[dict[str, object]] = [
        {"format_version": FORMAT_VERSION + 1},
        {"format_version": "1"},
        {"asset": "audience_model"},
        {"partition": "x-ffffffffffff"},
        {"version": "0002-00000001"},
        {"files": [{"name": "../../../escape", "n_bytes": 1, "sha256": "00"}]},
        {"files": [{"name": "/etc/hostname", "n_bytes": 1, "sha256": "00"}]},
        {"files": [{"name": MANIFEST, "n_bytes": 1, "sha256": "00"}]},
        {"files": [{"name": "file-0.bin"}]},
        {"files": 5},
        {"surprise": 1},
    ]
    write(local, 1)
    manifest = folder_of(root) / MANIFEST
    right = manifest.read_bytes()

    def check(changes: dict[str, object]) -> None:
        manifest.write_bytes(right)
        change_manifest(root, **changes)
        with pytest.raises(ArtifactError), local.opening(reference(1)):
            pytest.fail("opened")

    assert offenders(alterations, check) == []


@pytest.mark.parametrize("name", ["../outside.bin", "below/../../outside.bin"])
def test_manifest_cannot_name_files_outside_the_artifact(local: ArtifactStore, root: Path, name: str) -> None:
    write(local, 1)
    (folder_of(root) / "below").mkdir()
    outside = folder_of(root).parent / "outside.bin"
    outside.write_bytes(b"x")
    manifest = json.loads((folder_of(root) / MANIFEST).read_text())
    entry = {"name": name, "n_bytes": 1, "sha256": sha256_of(outside), "n_rows": None}
    change_manifest(root, files=[*manifest["files"], entry])
    with pytest.raises(ArtifactError, match="cannot be read"):
        local.verify(reference(1))


def test_invalid_manifest_is_rejected(local: ArtifactStore, root: Path) -> None:
    write(local, 1)

    def check(content: bytes) -> None:
        (folder_of(root) / MANIFEST).write_bytes(content)
        with pytest.raises(ArtifactError):
            local.verify(reference(1))

    assert offenders([b"", b"{", b"[]", b"null", b"\xff\xfe", b"{}"], check) == []


def test_newer_format_has_a_remedy(local: ArtifactStore, root: Path) -> None:
    write(local, 1)
    change_manifest(root, format_version=99)
    with pytest.raises(ArtifactError, match="newer") as caught:
        local.manifest(reference(1))
    assert "Upgrade" in caught.value.remedy


def test_manifest_of_another_artifact_is_rejected(local: ArtifactStore, root: Path) -> None:
    write(local, 1)
    write(local, 2)
    shutil.copyfile(folder_of(root, 2) / MANIFEST, folder_of(root, 1) / MANIFEST)
    with pytest.raises(ArtifactError, match="another artifact"):
        local.verify(reference(1))


def test_manifest_json_round_trip() -> None:
    manifest = Manifest("audience", PARTITION, "0001-00000000", "1", "d", "now", (), (), {"a": [1]})
    assert Manifest.from_json(manifest.to_json()) == manifest


def test_stored_text_is_unchanged() -> None:
    inputs, files = (Input("a", "p", "", "ab"),), (FileEntry("x/y", 3, "cd"), FileEntry("z", 4, "ef", 5))
    manifest = Manifest("audience", PARTITION, "0001-00000000", "1", "d", "now", inputs, files, {"é": [1, 2.0]})
    text = (
        '{"asset": "audience", "code_version": "1", "created_at": "now", "data_version": "d", '
        '"facts": {"\\u00e9": [1, 2.0]}, "files": [{"n_bytes": 3, "n_rows": null, "name": "x/y", "sha256": "cd"}, '
        '{"n_bytes": 4, "n_rows": 5, "name": "z", "sha256": "ef"}], "format_version": 2, "inputs": '
        '[{"asset": "a", "digest": "ab", "partition": "p", "version": ""}], "partition": "x-0123456789ab", '
        '"record": "", "version": "0001-00000000"}'
    )
    assert manifest.to_json() == json.dumps(json.loads(text), indent=1)
    assert Manifest.from_json(text) == manifest


def test_finished_versions_are_listed_oldest_first(place: Place) -> None:
    store = place.store
    assert store.versions("audience", PARTITION) == []
    for number in (2, 10_000, 9_999, 1):
        write(store, number)
    if place.folder is not None:
        for name in ("0003-00000003", ".draft-abcdefgh", "notes"):
            (folder_of(place.folder).parent / name).mkdir()
    found = store.versions("audience", PARTITION)
    assert [int(version.partition("-")[0]) for version in found] == [1, 2, 9_999, 10_000]


def test_delete(store: ArtifactStore) -> None:
    write(store, 1)
    write(store, 2)
    store.delete(reference(1))
    store.delete(reference(1))
    assert store.versions("audience", PARTITION) == [reference(2).version]
    with pytest.raises(ArtifactError, match="missing"):
        store.manifest(reference(1))
    store.verify(reference(2))


def test_interrupted_deletion_shows_nothing(local: ArtifactStore, root: Path) -> None:
    write(local, 1)
    with mock.patch.object(shutil, "rmtree", side_effect=KeyboardInterrupt), pytest.raises(KeyboardInterrupt):
        local.delete(reference(1))
    assert folder_of(root).is_dir()
    assert local.versions("audience", PARTITION) == []
    with pytest.raises(ArtifactError):
        local.verify(reference(1))
    write(local, 1)
    local.verify(reference(1))


def test_upload_writes_the_manifest_last_and_cleans_up_on_failure(tmp_path: Path) -> None:
    place, _ = in_memory(tmp_path)
    store = place.store
    uploaded: list[str] = []
    put = obstore.put

    def noting(memory: MemoryStore, key: str, *content: object, **options: object) -> object:
        assert store.versions("audience", PARTITION) == []
        uploaded.append(key.rsplit("/", 1)[-1])
        return put(memory, key, *content, **options)

    def failing(memory: MemoryStore, key: str, *content: object, **options: object) -> object:
        if key.endswith("file-3.bin"):
            raise GenericError("no")
        return put(memory, key, *content, **options)

    with mock.patch.object(obstore, "put", failing), pytest.raises(StoreUnavailableError):
        write(store, 1)
    assert place.everything() == []
    with mock.patch.object(obstore, "put", noting):
        write(store, 1)
    assert uploaded == [*(f"file-{n}.bin" for n in range(N_FILES)), MANIFEST]
    store.verify(reference(1))


def test_file_size_limit_counts_as_a_full_disk(tmp_path: Path) -> None:
    process = multiprocessing.get_context("fork").Process(target=write_beyond_limit, args=(tmp_path / "store",))
    process.start()
    process.join(60)
    assert process.exitcode == 0
    assert not [path for path in (tmp_path / "store").rglob("*") if path.is_file()]


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    with small_disk(tmp_path / "disk", "size=128k") as folder:
        yield folder


def test_full_disk_leaves_nothing_and_a_retry_succeeds(disk: Path) -> None:
    store = ArtifactStore(str(disk / "store"), disk)
    with pytest.raises(StorageFullError) as caught:
        write(store, 1)
    assert caught.value.status_code == "STORAGE_FULL"
    assert caught.value.remedy
    assert [path for path in disk.rglob("*") if path.is_file()] == []
    with drafting(store) as folder:
        (folder / "small.bin").write_bytes(b"fits")
    store.verify(reference(1))


def test_write_on_a_full_disk_keeps_the_old_content(disk: Path) -> None:
    write_durably(disk / "receipt.json", b"old")
    with pytest.raises(OSError, match="space"):
        write_durably(disk / "receipt.json", b"new" * 100_000)
    assert (disk / "receipt.json").read_bytes() == b"old"
    assert [path.name for path in disk.iterdir()] == ["receipt.json"]


def test_killed_writers_expose_no_partial_artifact(tmp_path: Path) -> None:
    """25 writers, each killed at a random moment; a reader looks all the while."""
    root = tmp_path / "store"
    root.mkdir()
    reader, generator = ArtifactStore(str(root), tmp_path), random.Random(7)
    n_cut_off = 0
    seen: set[str] = set()

    def look() -> None:
        for version in reader.versions("audience", PARTITION):
            if version not in seen:
                number = int(version.partition("-")[0])
                with reader.opening(reference(number)) as folder:
                    for n in range(N_FILES):
                        assert (folder / f"file-{n}.bin").read_bytes() == content(number, f"file-{n}.bin")
                seen.add(version)

    context = multiprocessing.get_context("fork")
    for kill in range(25):
        ready = context.Event()
        writer = context.Process(target=write_for_ever, args=(root, 1 + 1000 * kill, ready))
        writer.start()
        try:
            assert ready.wait(60)
            until = time.monotonic() + generator.uniform(0, 0.05)
            while time.monotonic() < until:
                look()
        finally:
            writer.kill()
            writer.join()
        look()
        leftovers = list(root.rglob(".draft-*"))
        n_cut_off += bool(leftovers)
        assert all(is_leftover(path.name) for path in leftovers)
        for path in leftovers:
            shutil.rmtree(path)
    assert n_cut_off > 0, "no writer was caught at work"
    write(reader, 99_999)
    reader.verify(reference(99_999))


@pytest.mark.parametrize("url", ["nosuchkind://bucket/x", "wasb://bucket/x", "az://no-account/x"])
def test_unknown_store_kind_is_a_configuration_error(tmp_path: Path, url: str) -> None:
    with pytest.raises(ConfigurationError):
        ArtifactStore(url, tmp_path)


def test_any_folder_name_is_a_valid_store(tmp_path: Path) -> None:
    def check(name: str) -> None:
        store = ArtifactStore(str(tmp_path / name), tmp_path)
        write(store, 1)
        assert (tmp_path / name / "audience").is_dir()
        assert store.versions("audience", PARTITION) == [reference(1).version]
        store.delete(reference(1))
        assert store.versions("audience", PARTITION) == []

    assert offenders(["a::b", "a b", "ümlaut", "a*[b]?"], check) == []


@pytest.mark.parametrize(
    "wrong",
    [
        ArtifactReference("../audience", PARTITION, "0001-00000000"),
        ArtifactReference("audience", "../../etc", "0001-00000000"),
        ArtifactReference("audience", PARTITION, ".."),
    ],
)
def test_paths_are_built_from_ids_only(local: ArtifactStore, wrong: ArtifactReference) -> None:
    for use in (local.manifest, local.delete, local.verify):
        with pytest.raises(UsageError):
            use(wrong)


def test_invalid_s3_url_is_rejected_before_connecting(tmp_path: Path) -> None:
    def check(url: str) -> None:
        with pytest.raises(ConfigurationError) as caught:
            ArtifactStore(url, tmp_path)
        assert "s3://bucket/prefix?region=name" in caught.value.remedy

    urls = ["s3://", "s3://bucket/x", "s3://bucket/x?region=r&colour=red", "s3:///x?region=r"]
    assert offenders(urls, check) == []
