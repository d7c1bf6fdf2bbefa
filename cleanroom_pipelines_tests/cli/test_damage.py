"""Damage to the catalogue and to backups is detected.

Contract: `status`, `backup` and `restore` check the whole catalogue file; on a damaged page they exit with 2,
explain how to recover, and write no files. A valid backup contains only what `backup` writes, and its parts match;
a restored home is the same installation and continues from its generation.
"""

import hashlib
import io
import os
import shutil
import sqlite3
import tarfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from cleanroom_pipelines.runs.installation import Installation, Settings

from .. import homes, worlds
from .commands import Commands

PAGE_BYTES = 4096


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home that was worked in; to be copied."""
    folder = tmp_path_factory.mktemp("filled")
    homes.fill(Installation(Settings(folder / "home", seed_floor=1)))
    return folder / "home"


@pytest.fixture
def home(filled: Path, tmp_path: Path) -> Iterator[Installation]:
    shutil.copytree(filled, tmp_path / "home")
    with worlds.installed(tmp_path / "home", CLEANROOM_SEED_FLOOR="1") as installation:
        yield installation


def damage(file: Path) -> None:
    """Overwrite a page that holds what no opening looks at: an index of the versions."""
    with closing(sqlite3.connect(file)) as connection:
        query = "SELECT rootpage FROM sqlite_master WHERE name = 'ix_versions_status_lease_expires_at'"
        (page,) = connection.execute(query).fetchone()
    with file.open("r+b") as stream:
        stream.seek((page - 1) * PAGE_BYTES)
        stream.write(os.urandom(PAGE_BYTES))


def test_damaged_database_page_is_detected(home: Installation, command: Commands, tmp_path: Path) -> None:
    assert command("status").code == 0
    damage(home.home.root / "catalog.db")
    before = homes.listing(tmp_path)
    for arguments in (("status",), ("status", "--json"), ("backup", tmp_path / "backup.tar")):
        ended = command(*arguments)
        assert (ended.code, ended.out) == (2, ""), arguments
        assert "damaged" in ended.err
        assert "cleanroom recover" in ended.err
    assert homes.listing(tmp_path) == before


def rewritten(source: Path, target: Path, *more: tuple[tarfile.TarInfo, bytes], **changed: bytes) -> Path:
    """A backup with other contents or more members, whose end is right: as an attacker would make it."""
    with tarfile.open(source) as old, tarfile.open(target, "w") as new:
        for member in old.getmembers()[:-1]:
            content = old.extractfile(member).read() if member.isfile() else b""
            content = changed.get(member.name.replace(".", "_"), content)
            member.size = len(content)
            new.addfile(member, io.BytesIO(content))
        for member, content in more:
            member.size = len(content)
            new.addfile(member, io.BytesIO(content))
    with tarfile.open(target, "a") as archive:
        before = target.read_bytes()[: archive.offset]
        end = tarfile.TarInfo("END")
        digest = hashlib.sha256(before).hexdigest().encode()
        end.size = len(digest)
        archive.addfile(end, io.BytesIO(digest))
    return target


@pytest.fixture
def backup(home: Installation, command: Commands, tmp_path: Path) -> Path:
    assert command("backup", tmp_path / "backup.tar").code == 0
    return tmp_path / "backup.tar"


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty home that the environment names."""
    monkeypatch.setenv("CLEANROOM_HOME", str(tmp_path / "elsewhere"))
    return tmp_path / "elsewhere"


def test_unchanged_rewritten_backup_is_restored(
    backup: Path, elsewhere: Path, command: Commands, tmp_path: Path
) -> None:
    """The tests below forge what differs only in what they forge."""
    assert command("restore", rewritten(backup, tmp_path / "same.tar")).code == 0


def test_restored_home_is_the_same_installation_and_keeps_working(
    home: Installation, backup: Path, elsewhere: Path, command: Commands
) -> None:
    assert command("restore", backup).code == 0
    assert command("status").code == 0
    restored = Installation.from_environment()
    assert restored.opened.identity == home.catalog.ownership.identity()
    n_versions = homes.work(restored)
    assert (
        restored.catalog.ownership.identity().generation
        == home.catalog.ownership.identity().generation + n_versions
    )
    assert command("status").code == 0


def test_backup_during_concurrent_work_is_consistent(
    home: Installation, elsewhere: Path, command: Commands, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The generation that the home is given is that of the copied catalogue."""
    monkeypatch.setenv("CLEANROOM_HOME", str(home.home.root))
    copy_to = type(home.catalog.resources).copy_to

    def copy_and_work(catalog: object, target: Path) -> None:
        copy_to(catalog, target)
        homes.work(home)

    with monkeypatch.context() as patched:
        patched.setattr(type(home.catalog.resources), "copy_to", copy_and_work)
        assert command("backup", tmp_path / "backup.tar").code == 0
    monkeypatch.setenv("CLEANROOM_HOME", str(elsewhere))
    assert command("restore", tmp_path / "backup.tar").code == 0
    assert command("status").code == 0
    kept = Installation.from_environment().opened.identity
    assert kept.generation < home.catalog.ownership.identity().generation


FOREIGN = {
    "another file": tarfile.TarInfo("notes.txt"),
    "another folder": tarfile.TarInfo("dagster_home/dagster.yaml"),
    "a hidden file": tarfile.TarInfo(".bashrc"),
    "a part that is a file of another name": tarfile.TarInfo("catalog.db-wal"),
    "a part twice": tarfile.TarInfo("installation.key"),
    "a way out": tarfile.TarInfo("accounts/../notes.txt"),
    "a device": tarfile.TarInfo("accounts/device"),
    "a pipe": tarfile.TarInfo("inbox/pipe"),
    "a link": tarfile.TarInfo("artifacts/link"),
    "a hard link": tarfile.TarInfo("artifacts/hard"),
}
FOREIGN["a device"].type = tarfile.CHRTYPE
FOREIGN["a pipe"].type = tarfile.FIFOTYPE
FOREIGN["a link"].type, FOREIGN["a link"].linkname = tarfile.SYMTYPE, "audience"
FOREIGN["a hard link"].type, FOREIGN["a hard link"].linkname = tarfile.LNKTYPE, "installation.key"


@pytest.mark.parametrize("what", FOREIGN)
def test_unexpected_archive_member_is_rejected(
    backup: Path, elsewhere: Path, command: Commands, tmp_path: Path, what: str
) -> None:
    forged = rewritten(backup, tmp_path / "forged.tar", (FOREIGN[what], b""))
    ended = command("restore", forged)
    assert (ended.code, ended.out) == (2, "")
    assert "backup" in ended.err
    assert not elsewhere.exists()


def test_backup_with_damaged_catalogue_or_foreign_key_is_rejected(
    backup: Path, elsewhere: Path, command: Commands, tmp_path: Path
) -> None:
    with tarfile.open(backup) as archive:
        archive.extract("catalog.db", tmp_path)
    damage(tmp_path / "catalog.db")
    damaged = rewritten(backup, tmp_path / "damaged.tar", catalog_db=(tmp_path / "catalog.db").read_bytes())
    empty = rewritten(backup, tmp_path / "empty.tar", catalog_db=b"no database" * 1000)
    other = rewritten(backup, tmp_path / "other.tar", installation_key=bytes(32))
    for forged, word in ((damaged, "damaged"), (empty, "not a database"), (other, "key")):
        ended = command("restore", forged)
        assert (ended.code, ended.out) == (2, "")
        assert word in ended.err
        assert not elsewhere.exists()
