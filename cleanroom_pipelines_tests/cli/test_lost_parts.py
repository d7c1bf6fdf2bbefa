"""Missing information never causes deletion.

Contract: if the catalogue, the key or the home's identity is lost, outdated or from another installation, every
command that opens the home exits with 2, explains how to recover, and changes nothing in the home. A process that
had opened the home earlier notices this before it deletes anything. Recoverable cases are repaired: a home behind
its catalogue, a home of the previous release, a lost `installation.json`.
"""

import json
import logging
import multiprocessing
import shutil
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import click
import pytest

from cleanroom_pipelines.catalog import Kind
from cleanroom_pipelines.cli.main import cleanroom
from cleanroom_pipelines.errors import ConfigurationError, IdentityError
from cleanroom_pipelines.runs.deleting import clean_up_deleted, delete_pending
from cleanroom_pipelines.runs.installation import Installation, Settings
from cleanroom_pipelines.runs.retention import delete_superseded
from cleanroom_pipelines.runs.running import run_pending
from cleanroom_pipelines.runs.supervision import supervise
from cleanroom_pipelines.storage import identity as storage_identity

from .. import homes, worlds
from ..homes import Fault
from .commands import Commands

WAYS_BACK = ("cleanroom recover", "from a backup")
NOBODY = "nobody-0123456789ab"
# What each command that opens the home is called with; the others work on files, or make or mend a home.
ARGUMENTS: dict[tuple[str, ...], tuple[str, ...]] = {
    ("account", "create"): ("advertiser",),
    ("account", "disable"): ("000000000000",),
    ("account", "enable"): ("000000000000",),
    ("account", "key", "create"): ("000000000000",),
    ("account", "key", "disable"): ("AKIAAAAAAAAAAAAAAAAA",),
    ("account", "list"): (),
    ("apply",): ("cleanroom.yaml", "--run"),
    ("audit", "show"): (),
    ("audit", "verify"): (),
    ("backup",): ("backup.tar",),
    ("bucket", "list"): (),
    ("bucket", "create"): ("audiences", "--account", "000000000000"),
    ("bucket", "register"): (
        "audiences",
        "--account",
        "000000000000",
        "--url",
        "s3://audiences",
        "--credentials-profile",
        "x",
    ),
    ("cancel",): (NOBODY,),
    ("collaboration", "create"): ("Partners", "--members", "000000000000,000000000001"),
    ("collaboration", "leave"): ("Partners", "--account", "000000000000"),
    ("collaboration", "list"): (),
    ("delete",): (NOBODY, "--yes"),
    ("notice", "delete"): ("operators",),
    ("notice", "list"): (),
    ("notice", "test"): (),
    ("demo",): (),
    ("dev",): (),
    ("ledger",): (),
    ("retry",): (NOBODY,),
    ("run",): (),
    ("serve",): ("--port", "0"),
    ("status",): (),
    ("template", "add"): ("Recent", "--account", "000000000000", "--sql", "query.sql"),
    ("template", "list"): (),
    ("token", "issue"): ("data@publisher.example",),
    ("token", "list"): ("data@publisher.example",),
    ("token", "revoke"): ("0123456789abcdef",),
    ("user", "create"): ("data@publisher.example",),
    ("user", "disable"): ("data@publisher.example",),
    ("user", "enable"): ("data@publisher.example",),
    ("user", "invite"): ("data@publisher.example",),
    ("user", "link"): ("data@publisher.example",),
    ("user", "list"): (),
    ("user", "role"): ("data@publisher.example", "--operator"),
    ("user", "sign-out"): ("data@publisher.example",),
}
WITHOUT_A_HOME = {"algebra", "benchmark", "example", "export", "generate", "match", "recover", "restore", "train"}


def commands_of(group: click.Group) -> Iterator[tuple[str, ...]]:
    """All commands below a group, by their words."""
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from ((name, *words) for words in commands_of(command))
        else:
            yield (name,)


def test_every_command_is_covered() -> None:
    found = {words for words in commands_of(cleanroom) if words[0] not in WITHOUT_A_HOME}
    assert found == set(ARGUMENTS)


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home that was worked in; to be copied."""
    folder = tmp_path_factory.mktemp("filled")
    homes.fill(Installation(Settings(folder / "home", seed_floor=1)))
    return folder / "home"


@pytest.fixture
def home(filled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Installation]:
    """The home that the environment names, opened already."""
    shutil.copytree(filled, tmp_path / "home")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "query.sql").write_text("SELECT 1")
    worlds.declare(tmp_path / "cleanroom.yaml", interactions=tmp_path / "events.parquet", seed=None)
    with worlds.installed(tmp_path / "home", CLEANROOM_SEED_FLOOR="1") as installation:
        installation.check()
        yield installation


@pytest.mark.parametrize("fault", homes.REJECTED, ids=lambda fault: fault.__name__)
def test_every_command_fails_and_changes_nothing(
    home: Installation, tmp_path: Path, command: Commands, fault: Fault
) -> None:
    fault(home, tmp_path)
    before = homes.listing(tmp_path)
    wrong = {}
    for words, arguments in ARGUMENTS.items():
        ended = command(*words, *arguments)
        names_the_way = any(way in ended.err for way in WAYS_BACK) and "\n" not in ended.err.strip()
        if ended.code != 2 or ended.out or not names_the_way:
            wrong[words] = ended
    assert wrong == {}
    assert homes.listing(tmp_path) == before


@pytest.mark.parametrize("fault", homes.OF_THE_CATALOGUE, ids=lambda fault: fault.__name__)
def test_process_with_an_open_home_deletes_nothing(home: Installation, tmp_path: Path, fault: Fault) -> None:
    with worlds.dagster_at(tmp_path / "dagster", one_file=True) as instance:
        supervise(home, instance)
        fault(home, tmp_path)
        before = homes.listing(home.home.root)
        for do in (supervise, delete_pending, clean_up_deleted, run_pending):
            with pytest.raises(ConfigurationError):
                do(home, instance)
        with pytest.raises(ConfigurationError):
            delete_superseded(home, home.clock() + timedelta(days=400))
        assert homes.listing(home.home.root) == before


def test_lost_identity_file_is_restored_and_logged(
    home: Installation, tmp_path: Path, command: Commands, caplog: pytest.LogCaptureFixture
) -> None:
    file = home.home.root / "installation.json"
    before, rest = json.loads(file.read_text()), homes.listing(tmp_path)
    homes.no_identity(home, tmp_path)
    with caplog.at_level(logging.WARNING):
        assert command("status").code == 0
    assert "identity file was missing" in caplog.text
    assert json.loads(file.read_text()) == before
    assert homes.listing(tmp_path) == rest


def test_home_of_an_earlier_release_is_adopted(
    home: Installation, tmp_path: Path, command: Commands, caplog: pytest.LogCaptureFixture
) -> None:
    before = worlds.statuses(home)
    homes.last_release(home, tmp_path)
    rest = homes.listing(tmp_path)
    with caplog.at_level(logging.WARNING):
        assert command("status").code == 0
    assert "earlier release" in caplog.text
    assert worlds.statuses(Installation.from_environment()) == before
    now = homes.listing(tmp_path)
    assert now.keys() - rest.keys() == {"home/installation.json"}
    assert {name: now[name] for name in rest} == rest
    caplog.clear()
    assert command("status").code == 0
    assert caplog.text == ""
    verdict = Installation.from_environment().audit.verify()
    assert (verdict.ok, verdict.n_entries) == (True, rest["home/audit/audit.jsonl"].count(b"\n"))
    homes.no_catalogue(home, tmp_path)
    assert command("status").code == 2


def test_home_behind_its_catalogue_catches_up(home: Installation, command: Commands) -> None:
    """A process that is killed between the two leaves it so."""
    file = home.home.root / "installation.json"
    before = json.loads(file.read_text())
    file.write_text(json.dumps(before | {"generation": before["generation"] - 1}))
    assert command("status").code == 0
    assert json.loads(file.read_text()) == before


def test_generation_increases_with_every_published_or_deleted_version(home: Installation) -> None:
    def generations() -> set[int]:
        kept = json.loads((home.home.root / "installation.json").read_text())
        return {kept["generation"], home.catalog.ownership.identity().generation}

    catalog = home.catalog
    (before,) = generations()
    n_versions = homes.work(home)
    assert n_versions >= 3
    assert generations() == {before + n_versions}
    for number, job in enumerate(catalog.resources.ids(Kind.GENERATION_JOB), before + n_versions):
        catalog.deletion.request_delete(Kind.GENERATION_JOB, job)
        assert generations() == {number}
        catalog.deletion.begin_delete(Kind.GENERATION_JOB, job)
        catalog.deletion.finish_delete(Kind.GENERATION_JOB, job)
        assert generations() == {number + 1}
    (configured,) = catalog.resources.ids(Kind.CONFIGURED_AUDIENCE_MODEL)
    catalog.deletion.request_delete(Kind.CONFIGURED_AUDIENCE_MODEL, configured)
    assert generations() == {number + 2}
    assert delete_superseded(home, home.clock() + timedelta(days=400)) > 0
    (after,) = generations()
    assert after > number + 2


def test_full_disk_does_not_undo_a_publication(home: Installation, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    file = home.home.root / "installation.json"
    before = json.loads(file.read_text())
    with monkeypatch.context() as patched:
        patched.setattr(storage_identity, "write_durably", full)
        n_versions = homes.work(home)
    assert json.loads(file.read_text()) == before
    Installation.from_environment().check()
    assert json.loads(file.read_text())["generation"] == before["generation"] + n_versions


@pytest.mark.parametrize("kept", ["artifacts/audience/0123456789ab/x", "audit/x", "seeds/00ff00ff/seed.csv"])
def test_key_is_created_only_in_an_empty_home(tmp_path: Path, kept: str) -> None:
    installation = Installation(Settings(tmp_path / "used"))
    file = installation.home.root / kept
    file.parent.mkdir(parents=True, exist_ok=True)
    file.touch()
    with pytest.raises(IdentityError, match="cleanroom recover"):
        installation.check()
    assert not installation.home.key_file.exists()
    assert not (installation.home.root / "catalog.db").exists()
    Installation(Settings(tmp_path / "new")).check()
    assert (tmp_path / "new" / "installation.key").exists()


def test_concurrent_processes_create_one_identity(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    barrier, found = context.Barrier(6), context.Queue()
    processes = [context.Process(target=_open, args=(tmp_path / "new", barrier, found)) for _ in range(6)]
    for process in processes:
        process.start()
    identities = {found.get(timeout=120) for _ in processes}
    for process in processes:
        process.join()
    assert len(identities) == 1
    assert identities == {Installation(Settings(tmp_path / "new")).opened.identity.id}


def _open(root: Path, barrier: Any, found: Any) -> None:
    installation = Installation(Settings(root))
    barrier.wait()
    found.put(installation.opened.identity.id)
