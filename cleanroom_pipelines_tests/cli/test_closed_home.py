"""No other user can read the home.

Contract: whatever the umask of the shell, after a full run through Dagster no file or folder of the home gives
group or others any permission: the catalogue and SQLite's files next to it, the key, artifacts, exports, scratch,
the audit log, Dagster's databases and logs. Opening a home that was open to others fixes its permissions, and the
log reports this once. Files written outside of a home have the mode that the shell's umask gives them.
"""

import logging
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from cleanroom_pipelines.catalog import Kind
from cleanroom_pipelines.runs.installation import Installation, Settings
from cleanroom_pipelines.storage import Home

from .. import worlds
from .commands import Commands


@pytest.fixture(autouse=True)
def open_umask() -> Iterator[None]:
    """The umask of a shell that closes nothing."""
    before = os.umask(0)
    yield
    os.umask(before)


def open_paths(root: Path) -> list[str]:
    """What group or others have a right to."""
    paths = (path for path in (root, *root.rglob("*")) if not path.is_symlink())
    return [str(path) for path in paths if path.stat().st_mode & 0o077]


def test_home_is_accessible_to_its_owner_only(
    command: Commands, world: worlds.World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in worlds.settings(tmp_path / "home").items():
        monkeypatch.setenv(name, value)
    assert command("apply", world.declaration, "--run").code == 0
    assert command("user", "create", "data@publisher.example").code == 0
    assert command("account", "create", "advertiser").code == 0
    home = Home(tmp_path / "home")
    kept = Installation(Settings(home.root)).catalog.resources.iterate(Kind.EXPORT_JOB)
    assert [export.status for export in kept] == ["ACTIVE"]
    assert list(home.dagster_home.rglob("*.db")), "Dagster's databases are among the files"
    assert list(home.accounts.rglob("part-*")), "so are exports"
    assert open_paths(home.root) == []


def test_catalogue_is_inaccessible_to_others_while_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CLEANROOM_HOME", str(tmp_path / "home"))
    catalog = Installation.from_environment().catalog
    catalog.database.stay_connected()
    catalog.users.create_user("data@publisher.example")
    beside = {path.name for path in (tmp_path / "home").glob("catalog.db*")}
    assert beside == {"catalog.db", "catalog.db-wal", "catalog.db-shm"}
    assert open_paths(tmp_path / "home") == []
    catalog.database.close()


def test_open_home_is_closed_and_logged_once(
    command: Commands, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    root = tmp_path / "home"
    monkeypatch.setenv("CLEANROOM_HOME", str(root))
    _ = Installation.from_environment().catalog
    outside = tmp_path / "outside"
    outside.touch()
    outside.chmod(0o644)
    (root / "accounts" / "linked").symlink_to(outside)
    deep = root / "artifacts" / "audience" / "0123456789ab"
    deep.mkdir(parents=True)
    (deep / "ranking.parquet").touch()
    script = root / "notify"
    script.touch()
    for path in (root, *root.rglob("*")):
        if not path.is_symlink():
            path.chmod(0o755)
    with caplog.at_level(logging.WARNING):
        assert command("status").code == 0
        assert command("status").code == 0
    assert [record.getMessage().startswith("Removed other users' access to") for record in caplog.records] == [
        True
    ]
    assert open_paths(root) == []
    assert script.stat().st_mode & 0o777 == 0o700, "its owner keeps his rights"
    assert outside.stat().st_mode & 0o777 == 0o644, "a link is not followed"


def test_files_outside_the_home_keep_their_mode(command: Commands, world: worlds.World, tmp_path: Path) -> None:
    os.umask(0o022)
    arguments = ("--interactions", world.interactions, "--schema", "user=USER_ID,item=ITEM_ID,ts=TIMESTAMP")
    assert command("train", *arguments, "--out", tmp_path / "model", "--memory", "512MB").code == 0
    modes = {path.stat().st_mode & 0o777 for path in (tmp_path / "model").iterdir() if path.is_file()}
    assert modes == {0o644}
    assert (tmp_path / "model").stat().st_mode & 0o777 == 0o755


def test_opening_a_home_keeps_the_umask(tmp_path: Path) -> None:
    os.umask(0o022)
    Installation(Settings(tmp_path / "home")).check()
    before = os.umask(0o022)
    assert before == 0o022
    assert (tmp_path / "home").stat().st_mode & 0o077 == 0
