"""Contract: a home that was backed up and restored elsewhere is the same home: catalogue, key, artifacts, seeds,
warehouses, buckets, inbox. Nothing is ever overwritten; a file that is not a backup, or was truncated or altered,
is rejected; a failure leaves no files. Only their owner can read the backup and the key."""

import hashlib
import io
import os
import shutil
import tarfile
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import pytest

from cleanroom_pipelines.catalog import Catalog, Kind
from cleanroom_pipelines.errors import ConflictError, InputError, StorageFullError, UsageError
from cleanroom_pipelines.runs.backups import back_up, restore
from cleanroom_pipelines.runs.installation import Installation, Settings
from cleanroom_pipelines.storage import ArtifactReference
from cleanroom_pipelines_tests.disks import small_disk

from ..storage.auditing import lines_of
from .building import SEED, Inbox, make_room, write_artifact


@pytest.fixture
def full(installation: Installation) -> Installation:
    """An installation that holds something of everything."""
    inbox = Inbox(installation, make_room(installation.catalog))
    inbox.drop("first.csv")
    (job,) = inbox.register()
    inbox.drop("🛒 waits.csv", SEED + b"x\n")
    write_artifact(installation, "audience", job.id, 1, metrics={"recall": 0.5})
    bucket = installation.home.accounts / "000000000000" / "buckets" / "audiences" / ".hidden" / "y"
    bucket.mkdir(parents=True)
    (bucket / "part-00000.csv").write_text("user_id\n")
    (installation.home.accounts / "empty").mkdir()
    installation.uploads.seal("00ff00ff", [b"sealed until it is taken in"])
    return installation


def contents(root: Path) -> dict[str, bytes | None]:
    """All files and folders of a home but what a backup leaves out."""
    left_out = {"scratch", "catalog.db", "catalog.db-wal", "catalog.db-shm", ".installation.lock"}
    found: dict[str, bytes | None] = {}
    for path in root.rglob("*"):
        name = path.relative_to(root).as_posix()
        if path.name == "audit.db":
            found[name] = b"".join(lines_of(path.parent))
        elif name.split("/")[0] not in left_out:
            found[name] = path.read_bytes() if path.is_file() else None
    return found


def records(catalog: Catalog) -> list[object]:
    found = [record for kind in Kind for record in catalog.resources.iterate(kind)]
    return [(record, catalog.resources.versions(record.kind, record.id)) for record in found]


def test_backup_and_restore_round_trip(full: Installation, tmp_path: Path) -> None:
    file, root = tmp_path / "backup.tar", tmp_path / "elsewhere" / "home"
    back_up(full, file)
    assert file.stat().st_mode & 0o777 == 0o600
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []
    restore(file, root)
    assert contents(root) == contents(full.home.root)
    assert (root / "installation.key").stat().st_mode & 0o777 == 0o600
    assert root.stat().st_mode & 0o077 == 0
    assert [path.name for path in root.parent.iterdir()] == ["home"]
    restored = Installation(Settings(root, seed_floor=1), clock=full.clock)
    assert records(restored.catalog) == records(full.catalog)
    assert restored.key == full.key
    (job,) = restored.catalog.resources.iterate(Kind.GENERATION_JOB)
    with restored.vault.opening(job.seed_location) as path:
        assert path.read_bytes() == SEED
    (version,) = restored.store.versions("audience", job.id)
    restored.store.verify(ArtifactReference("audience", job.id, version))
    again = tmp_path / "again.tar"
    back_up(restored, again)
    with tarfile.open(file) as first, tarfile.open(again) as second:
        assert sorted(first.getnames()) == sorted(second.getnames())


@pytest.mark.parametrize("is_there", [False, True])
def test_restore_into_an_empty_folder(full: Installation, tmp_path: Path, is_there: bool) -> None:
    back_up(full, tmp_path / "backup.tar")
    root = tmp_path / "volume"
    if is_there:
        root.mkdir()
        inode = root.stat().st_ino
    restore(tmp_path / "backup.tar", root)
    assert contents(root) == contents(full.home.root)
    if is_there:
        assert root.stat().st_ino == inode  # a mounted volume cannot be replaced


def test_key_outside_the_home_is_included(full: Installation, tmp_path: Path) -> None:
    real = tmp_path / "secret"
    shutil.move(full.home.key_file, real)
    (tmp_path / "linked").symlink_to(real)
    moved = Installation(Settings(full.home.root, key_file=tmp_path / "linked"), clock=full.clock)
    back_up(moved, tmp_path / "backup.tar")
    restore(tmp_path / "backup.tar", tmp_path / "new")
    assert (tmp_path / "new" / "installation.key").read_bytes() == real.read_bytes()
    assert (tmp_path / "new" / "installation.key").stat().st_mode & 0o777 == 0o600


def test_drafts_links_and_pipes_are_excluded(full: Installation, tmp_path: Path) -> None:
    before = contents(full.home.root)
    (full.home.artifacts / ".draft-abcdefgh").mkdir()
    (full.home.artifacts / ".draft-abcdefgh" / "half.bin").write_text("half")
    (full.home.accounts / "outside").symlink_to("/etc")
    (full.home.accounts / "outside.csv").symlink_to("/etc/hostname")
    os.mkfifo(full.home.accounts / "pipe")
    back_up(full, tmp_path / "backup.tar")
    restore(tmp_path / "backup.tar", tmp_path / "new")
    assert contents(tmp_path / "new") == before


def test_files_deleted_during_the_backup_are_skipped(full: Installation, tmp_path: Path) -> None:
    """Seeds and drops go while a backup is made."""
    inbox, opening = full.home.inbox, Path.open

    def open_after_unlink(path: Path, *arguments: object, **options: object) -> object:
        if path.name.endswith("waits.csv"):
            path.unlink(missing_ok=True)
        return opening(path, *arguments, **options)

    with mock.patch.object(Path, "open", open_after_unlink):
        back_up(full, tmp_path / "backup.tar")
    restore(tmp_path / "backup.tar", tmp_path / "new")
    assert not list((tmp_path / "new").rglob("*waits.csv"))
    assert inbox.is_dir()


def test_catalogue_is_copied_during_concurrent_writes(full: Installation, tmp_path: Path) -> None:
    adding = tarfile.TarFile.addfile

    def write_meanwhile(*arguments: object) -> None:
        if not list(full.catalog.resources.ids(Kind.TRAINING_DATASET))[1:]:
            make_room(full.catalog, "Others")
        adding(*arguments)

    before = records(full.catalog)
    with mock.patch.object(tarfile.TarFile, "addfile", write_meanwhile):
        back_up(full, tmp_path / "backup.tar")
    restore(tmp_path / "backup.tar", tmp_path / "new")
    restored = Installation(Settings(tmp_path / "new", seed_floor=1), clock=full.clock)
    assert records(restored.catalog) == before
    assert len(records(full.catalog)) > len(before)


@pytest.mark.parametrize("kind", ["file", "folder", "link"])
def test_existing_backup_file_is_not_overwritten(full: Installation, tmp_path: Path, kind: str) -> None:
    target = tmp_path / "backup.tar"
    if kind == "file":
        target.write_text("mine")
    elif kind == "folder":
        target.mkdir()
    else:
        target.symlink_to("nowhere")
    with pytest.raises(ConflictError):
        back_up(full, target)
    assert kind != "file" or target.read_text() == "mine"
    assert kind != "link" or not target.exists()


@pytest.mark.parametrize("where", ["missing/backup.tar", "home/accounts/backup.tar", "home/inbox/seeds/x.tar"])
def test_invalid_backup_path_is_rejected(full: Installation, tmp_path: Path, where: str) -> None:
    before = contents(full.home.root)
    with pytest.raises(UsageError) as caught:
        back_up(full, tmp_path / where)
    assert caught.value.remedy
    assert contents(full.home.root) == before


@pytest.mark.parametrize(
    "elsewhere", [{"catalog_url": "sqlite:////tmp/x.db"}, {"artifacts_url": "s3://x/y?region=r"}]
)
def test_only_local_installations_are_backed_up(
    full: Installation, tmp_path: Path, elsewhere: dict[str, str]
) -> None:
    with pytest.raises(UsageError, match="entirely in its home"):
        back_up(Installation(Settings(full.home.root, **elsewhere)), tmp_path / "backup.tar")
    assert not (tmp_path / "backup.tar").exists()


@pytest.mark.parametrize(
    "error", [KeyboardInterrupt(), OSError(28, os.strerror(28)), OSError(5, "Input/output error")]
)
def test_failed_backup_leaves_no_file(full: Installation, tmp_path: Path, error: BaseException) -> None:
    out = tmp_path / "out"
    out.mkdir()
    expected = StorageFullError if getattr(error, "errno", 0) == 28 else type(error)
    opening = tarfile.open

    def failing_at_the_end(path: Path, mode: str) -> tarfile.TarFile:
        if mode == "a":  # the digest of all that stands before is added last
            raise error
        return opening(path, mode)

    with mock.patch.object(tarfile, "open", failing_at_the_end), pytest.raises(expected):
        back_up(full, out / "backup.tar")
    assert list(out.iterdir()) == []
    assert list(full.home.scratch.iterdir()) == []


@pytest.fixture
def backup(full: Installation, tmp_path: Path) -> Path:
    folder = tmp_path / "backups"
    folder.mkdir()
    back_up(full, folder / "backup.tar")
    return folder / "backup.tar"


def assert_rejected(source: Path, folder: Path) -> str:
    with pytest.raises(InputError) as caught:
        restore(source, folder / "new" / "home")
    assert caught.value.remedy
    assert caught.value.__cause__ is None
    assert not (folder / "new").exists()
    return str(caught.value)


@pytest.mark.parametrize("what", ["file", "folder with a file", "dangling link"])
def test_nonempty_home_is_rejected(backup: Path, tmp_path: Path, what: str) -> None:
    root = tmp_path / "new"
    if what == "file":
        root.write_text("mine")
    elif what == "dangling link":
        root.symlink_to("nowhere")
    else:
        root.mkdir()
        (root / ".mine").write_text("mine")
    with pytest.raises(ConflictError):
        restore(backup, root)
    assert what != "file" or root.read_text() == "mine"
    assert not root.is_dir() or [path.name for path in root.iterdir()] == [".mine"]


def test_file_that_is_not_a_backup_is_rejected(tmp_path: Path, backup: Path) -> None:
    (tmp_path / "empty.tar").touch()
    (tmp_path / "text.tar").write_text("no tar at all" * 1000)
    with tarfile.open(tmp_path / "other.tar", "w") as archive:
        archive.add(backup, "x")
    with tarfile.open(tmp_path / "bare.tar", "w"):
        pass
    for name in ("empty.tar", "text.tar", "other.tar", "bare.tar", "missing.tar", "."):
        assert "backup" in assert_rejected(tmp_path / name, tmp_path)


def test_truncated_backup_is_rejected(backup: Path, tmp_path: Path) -> None:
    content, end = backup.read_bytes(), 0
    with tarfile.open(backup) as archive:
        members = archive.getmembers()
        end = members[-1].offset_data + members[-1].size
        places = {entry.offset for entry in members[1:]} | {entry.offset_data for entry in members[1:]}
    assert len(places) > 10
    short = tmp_path / "short.tar"
    for place in sorted({*places, 1, 511, 513, end - 1, *(place + 100 for place in places)}):
        if place < end:
            short.write_bytes(content[:place])
            assert_rejected(short, tmp_path)


def test_altered_backup_is_rejected(backup: Path, tmp_path: Path) -> None:
    content = bytearray(backup.read_bytes())
    with tarfile.open(backup) as archive:
        entry = next(entry for entry in archive.getmembers() if entry.name == "catalog.db")
    content[entry.offset_data + 5_000] ^= 1
    (tmp_path / "altered.tar").write_bytes(content)
    assert "damaged" in assert_rejected(tmp_path / "altered.tar", tmp_path)


def forge(whole: Path, path: Path, entry: tarfile.TarInfo, content: bytes = b"") -> None:
    """A backup with one more entry, of the right form, as somebody who means harm would make it."""
    with tarfile.open(whole) as original, tarfile.open(path, "w") as archive:
        for member in original.getmembers():
            if member.name not in ("END", entry.name):
                archive.addfile(member, original.extractfile(member))
        archive.addfile(entry, io.BytesIO(content))
    with tarfile.open(path, "a") as archive:
        before = path.read_bytes()[: archive.offset]
        end, digest = tarfile.TarInfo("END"), hashlib.sha256(before).hexdigest().encode()
        end.size = len(digest)
        archive.addfile(end, io.BytesIO(digest))


def test_forged_backups_are_well_formed(backup: Path, tmp_path: Path) -> None:
    entry = tarfile.TarInfo("accounts/further")
    entry.type, entry.mode = tarfile.DIRTYPE, 0o700
    forge(backup, tmp_path / "forged.tar", entry)
    restore(tmp_path / "forged.tar", tmp_path / "new home")
    assert (tmp_path / "new home" / "accounts" / "further").is_dir()


@pytest.mark.parametrize("name", ["../../escaped", "../escaped", "accounts/../../../escaped"])
def test_restore_writes_only_inside_the_home(backup: Path, tmp_path: Path, name: str) -> None:
    entry = tarfile.TarInfo(name)
    entry.size = 1
    forge(backup, tmp_path / "forged.tar", entry, b"x")
    with pytest.raises(InputError):
        restore(tmp_path / "forged.tar", tmp_path / "new" / "home")
    assert not (tmp_path / "new" / "home").exists()
    assert not list(tmp_path.rglob("escaped"))


def test_links_leading_outside_are_not_restored(backup: Path, tmp_path: Path) -> None:
    entry = tarfile.TarInfo("accounts")
    entry.type, entry.linkname = tarfile.SYMTYPE, "/etc"
    forge(backup, tmp_path / "forged.tar", entry)
    with pytest.raises(InputError):
        restore(tmp_path / "forged.tar", tmp_path / "new home")
    assert not (tmp_path / "new home").exists()


@pytest.mark.parametrize("is_there", [False, True])
@pytest.mark.parametrize("name", ["rename", "unlink"])
def test_failed_restore_leaves_nothing(backup: Path, tmp_path: Path, name: str, is_there: bool) -> None:
    folder = tmp_path / "new"
    folder.mkdir()
    root = folder / "home"
    if is_there:
        root.mkdir()
    owner = os if name == "rename" else Path
    real, calls = getattr(owner, name), []

    def failing(*arguments: object, **options: object) -> None:
        calls.append(arguments)
        if len(calls) == 2 or not is_there:
            raise KeyboardInterrupt
        real(*arguments, **options)

    with mock.patch.object(owner, name, failing), pytest.raises(KeyboardInterrupt):
        restore(backup, root)
    assert [path.name for path in folder.rglob("*")] == (["home"] if is_there else [])
    restore(backup, root)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    with small_disk(tmp_path / "disk", "size=100k") as folder:
        yield folder


def test_full_disk_leaves_nothing(full: Installation, backup: Path, disk: Path) -> None:
    with pytest.raises(StorageFullError):
        back_up(full, disk / "backup.tar")
    assert list(disk.iterdir()) == []
    for root in (disk / "home", disk):
        with pytest.raises(StorageFullError):
            restore(backup, root)
        assert list(disk.iterdir()) == []
