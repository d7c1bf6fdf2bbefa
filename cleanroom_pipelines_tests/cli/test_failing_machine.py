"""System errors: full disks, read-only homes, damaged databases, missing settings.

Contract: every command exits with 2 and one sentence that says what to do, or with 0 if it was not affected;
without a traceback or a request to report a bug. Existing data is kept, and the same command succeeds once the
cause is removed.
"""

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import update

from cleanroom_pipelines.catalog.tables import VersionRow
from cleanroom_pipelines.delivery.exports import verify_export
from cleanroom_pipelines.runs.dagster_home import dagster_instance, prepare_dagster_home
from cleanroom_pipelines.runs.installation import Installation
from cleanroom_pipelines_tests.disks import small_disk

from .. import worlds
from ..databases import url_of, writing
from ..worlds import World
from .commands import Commands, Ended


def is_a_sentence(ended: Ended) -> bool:
    """Whether a command ended with 2 and said why, in one line after what it had begun."""
    *begun, said = ended.err.splitlines()
    return (
        ended.code == 2
        and said.startswith("cleanroom: ")
        and "unexpected" not in ended.err
        and "Traceback" not in ended.err
        and all(" s  " in line or " failed: " in line for line in begun)
    )


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 6 MB."""
    with small_disk(tmp_path / "disk", "size=6m") as folder:
        yield folder


@pytest.fixture
def declared(disk: Path, tmp_path: Path, world: World) -> Iterator[Installation]:
    """A home on the small disk with work to do."""
    with worlds.installed(disk / "home") as installation:
        table = worlds.write_events(tmp_path / "events.parquet", worlds.events(n_events=1_500))
        worlds.apply(installation, worlds.declare(tmp_path / "c.yaml", interactions=table, seed=None))
        prepare_dagster_home(installation)
        yield installation


def fill(disk: Path, *, but: int = 0) -> Path:
    """Fill a disk to the last byte, but for so many."""
    filler = disk / "filler"
    with filler.open("wb", buffering=0) as stream:
        try:
            while stream.write(bytes(1 << 12)):
                pass
        except OSError:
            pass
        if but:
            stream.truncate(stream.tell() - but)
    return filler


def test_full_disk(command: Commands, declared: Installation, disk: Path, tmp_path: Path, world: World) -> None:
    changed = worlds.declare(
        tmp_path / "d.yaml", interactions=world.interactions, seed=world.seed, dataset={"description": "x" * 200}
    )
    before = worlds.statuses(declared)
    filler = fill(disk)
    for arguments in (
        ("apply", changed),
        ("run",),
        ("backup", disk / "b.tar"),
        ("user", "create", "somebody@shop.example"),
        ("account", "create", "shop"),
        ("example", disk / "example"),
    ):
        ended = command(*arguments)
        assert is_a_sentence(ended), (arguments[0], ended)
        assert "space" in ended.err or "full" in ended.err or "written" in ended.err, (arguments[0], ended.err)
    filler.unlink()
    assert worlds.statuses(declared) == before
    assert not list(disk.glob("*.tar"))
    assert command("apply", changed).code == 0
    assert command("run").code == 0


@pytest.mark.parametrize("but", [16, 64, 256])
def test_disk_that_fills_up_during_work(command: Commands, declared: Installation, disk: Path, but: int) -> None:
    """With so many KB to go on with, work or its events find no place at some point or other."""
    filler = fill(disk, but=but << 10)
    ended = command("run")
    assert ended.code == 0 or is_a_sentence(ended), ended
    assert "Traceback" not in ended.err
    assert "unexpected" not in ended.err
    filler.unlink()
    for name, found in worlds.statuses(declared).items():
        assert found[-1] in ("ACTIVE", "CREATE_PENDING", "CREATE_FAILED", "CREATE_IN_PROGRESS"), name
    assert command("status").code == 0


@pytest.fixture
def few_files(tmp_path: Path) -> Iterator[Path]:
    """A disk with room, but for 3,000 files and folders only."""
    with small_disk(tmp_path / "few", "size=200m,nr_inodes=3000") as folder:
        yield folder


@pytest.mark.parametrize("n_left", [0, 12])
def test_disk_without_free_inodes(
    command: Commands, few_files: Path, trained_folder: Path, world: World, n_left: int
) -> None:
    shutil.copytree(trained_folder / "home", few_files / "home")
    with worlds.installed(few_files / "home") as installation:
        worlds.apply(installation, world.declaration)
        fillers = use_up_files(few_files / "fillers", but=n_left)
        ended = command("run")
        assert is_a_sentence(ended), ended
        assert "space" in ended.err or "full" in ended.err, ended.err
        exported = few_files / "home" / "accounts" / "000000000000" / "buckets" / "audiences" / "shop"
        before = [path.name for path in exported.glob("[!.]*")]
        assert all(verify_export(exported / name) for name in before), "whole or not at all"
        shutil.rmtree(fillers)
        with writing(url_of(installation)) as session:  # a lease that could not be given back would run out
            held = VersionRow.lease_expires_at.is_not(None)
            session.execute(update(VersionRow).where(held).values(lease_expires_at=installation.clock()))
        failed = {found[-1] for found in worlds.statuses(installation).values()} & {"CREATE_FAILED"}
        if failed:
            assert command("retry", "--failed").code == 0
        assert command("run").code == 0
        assert {found[-1] for found in worlds.statuses(installation).values()} == {"ACTIVE"}
        (folder,) = exported.iterdir()
        assert verify_export(folder)["delivered"] == worlds.N_USERS // 5


def use_up_files(folder: Path, *, but: int) -> Path:
    """Make empty files until the disk takes no more, then remove so many of them."""
    folder.mkdir()
    made = []
    try:
        while True:
            made.append(folder / str(len(made)))
            made[-1].touch()
    except OSError:
        made.pop()
    for path in made[len(made) - but :]:
        path.unlink()
    return folder


@pytest.fixture
def read_only(declared: Installation, disk: Path, tmp_path: Path) -> Iterator[Installation]:
    """The home as it is seen where its disk is mounted for reading only."""
    view = tmp_path / "view"
    view.mkdir()
    subprocess.run(["mount", "--bind", str(disk), str(view)], check=True)
    subprocess.run(["mount", "-o", "remount,bind,ro", str(view)], check=True)
    with worlds.installed(view / "home") as seen:
        yield seen
    subprocess.run(["umount", "-l", str(view)], check=True)


@pytest.mark.parametrize(
    "arguments",
    [("status",), ("run",), ("apply",), ("user", "create", "somebody@shop.example"), ("backup",), ("delete",)],
    ids=lambda arguments: arguments[0],
)
def test_read_only_home(
    command: Commands, read_only: Installation, tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    more = {
        "apply": (tmp_path / "c.yaml",),
        "backup": (tmp_path / "b.tar",),
        "delete": ("shop-events-0123456789ab", "--yes"),
    }
    ended = command(*arguments, *more.get(arguments[0], ()))
    assert is_a_sentence(ended), ended


DATABASES = ["history/runs.db", "history/runs/index.db", "schedules/schedules.db"]


@pytest.mark.parametrize("name", DATABASES)
@pytest.mark.parametrize("damage", [b"no database at all" * 300, None], ids=["garbage", "a damaged page"])
def test_damaged_dagster_database(
    command: Commands, installation: Installation, tmp_path: Path, name: str, damage: bytes | None
) -> None:
    nothing = worlds.write_events(tmp_path / "events.parquet", worlds.events(n_events=1_500))
    worlds.apply(installation, worlds.declare(tmp_path / "c.yaml", interactions=nothing, seed=None))
    file = prepare_dagster_home(installation) / name
    for log in file.parent.glob(f"{file.name}-*"):
        log.unlink()
    whole = file.read_bytes()
    file.write_bytes(damage if damage is not None else whole[:1024] + bytes(reversed(whole[1024:])))
    ended = command("run", "--max-seconds", "0")
    assert is_a_sentence(ended), ended
    assert "Dagster" in ended.err
    shutil.rmtree(installation.home.dagster_home)
    assert command("run", "--max-seconds", "0").code == 0, "what it says to do helps"


def test_unset_variable_in_dagster_settings(
    command: Commands, installation: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DAGSTER_POSTGRES_URL", raising=False)
    example = Path(__file__).parents[2] / "data" / "example" / "hosts" / "dagster.yaml"
    installation.home.dagster_home.mkdir()
    shutil.copy(example, installation.home.dagster_home)
    ended = command("run")
    assert is_a_sentence(ended), ended
    assert "DAGSTER_POSTGRES_URL" in ended.err


@pytest.mark.parametrize(
    "settings",
    ["storage: {postgres: 7}", "storage: {}", "no_such_setting: 1", "["],
)
def test_invalid_dagster_settings(command: Commands, installation: Installation, settings: str) -> None:
    installation.home.dagster_home.mkdir()
    (installation.home.dagster_home / "dagster.yaml").write_text(settings)
    ended = command("run")
    assert is_a_sentence(ended), ended
    assert "dagster.yaml" in ended.err


def test_missing_dagster_folder(
    command: Commands, installation: Installation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path / "nowhere"))
    ended = command("run")
    assert is_a_sentence(ended), ended
    assert "DAGSTER_HOME" in ended.err


def test_too_many_open_files(
    command: Commands, installation: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(24, "Too many open files", "/somewhere")

    monkeypatch.setattr(Path, "mkdir", fail)
    monkeypatch.setattr(Installation, "from_environment", fail)
    ended = command("status")
    assert is_a_sentence(ended), ended
    assert "ulimit" in ended.err
    assert "somewhere" not in ended.err


def test_instance_raises_unrelated_errors_unchanged(installation: Installation) -> None:
    with pytest.raises(LookupError), dagster_instance(installation):
        raise LookupError
