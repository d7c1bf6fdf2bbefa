"""Homes in folders with any name.

Contract: the name of a folder makes no difference. A short life cycle (declare, run, export, back up, restore,
status) ends the same in each folder, two homes never share anything, and nothing is written outside of a home. A
home does not depend on its location: it still works after it was moved. A name that no program could use is
rejected in one sentence, before anything is created.
"""

import json
import os
import shutil
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest

from cleanroom_pipelines.catalog import Kind
from cleanroom_pipelines.cli.developing import start_dagster
from cleanroom_pipelines.engine import EngineSettings, find_tables, open_configured_engine
from cleanroom_pipelines.engine.plain_paths import is_plain
from cleanroom_pipelines.errors import ConfigurationError
from cleanroom_pipelines.runs.dagster_home import dagster_instance
from cleanroom_pipelines.runs.installation import Installation, Settings
from cleanroom_pipelines.runs.running import run_pending
from cleanroom_pipelines.storage import Home

from .. import worlds
from ..worlds import World
from .commands import Commands

ODD = (
    "Q1?client=a",
    "Q1?client=b",
    "50%",
    "%41",
    "a#b",
    " two  spaces ",
    'it\'s "quoted"',
    "[x]",
    "*",
    "données 🛒 人",
    "a::b",
    "back\\slash",
)
ALL_AT_ONCE = '?c=a 50% %41 #it\'s "q" [x] * é🛒 :: \\ $HOME {i}'


def homes_of(installation: Installation) -> list[str]:
    """Names of all resources of a home and whether each is ready, in order."""
    return sorted(f"{name}: {found[-1]}" for name, found in worlds.statuses(installation).items())


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, world: World) -> Iterator[Path]:
    """A home with everything but an export."""
    home = tmp_path_factory.mktemp("plain") / "home"
    with worlds.installed(home) as installation:
        worlds.apply(installation, declaration(home.parent / "job.yaml", world))
        with dagster_instance(installation) as instance:
            run_pending(installation, instance)
        assert {found[-1] for found in worlds.statuses(installation).values()} == {"ACTIVE"}
    yield home


def declaration(path: Path, world: World, *exports: str) -> Path:
    return worlds.declare(path, interactions=world.interactions, seed=world.seed, job={"exports": list(exports)})


def live(command: Commands, folder: Path, declared: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A small life in a folder; gives what is there in the end."""
    for name, value in worlds.settings(folder / "home").items():
        monkeypatch.setenv(name, value)
    for arguments in (("apply", declared), ("run",), ("backup", folder / "backup.tar")):
        ended = command(*arguments)
        assert ended.code == 0, (arguments[0], ended.err)
    rows = json.loads(command("status", "--json").out)
    assert {row["status"] for row in rows} == {"ACTIVE"}
    installation = Installation.from_environment()
    (export,) = installation.catalog.resources.iterate(Kind.EXPORT_JOB)
    bucket = installation.home.accounts / export.account_id / "buckets"
    exported = bucket / str(export.output_location).removeprefix("s3://")
    assert len(list(exported.glob("part-*"))) == 1
    monkeypatch.setenv("CLEANROOM_HOME", str(folder / "back"))
    ended = command("restore", folder / "backup.tar")
    assert ended.code == 0, ended.err
    assert json.loads(command("status", "--json").out) == rows
    return homes_of(installation)


def test_short_lifecycle_in_every_odd_folder(
    command: Commands, finished: Path, world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    around = tmp_path / "around"
    lives = {}
    for name in ODD:
        folder = around / name
        folder.mkdir(parents=True)
        shutil.copytree(finished, folder / "home", ignore=shutil.ignore_patterns("dagster_home"))
        lives[name] = live(command, folder, declaration(folder / "export.yaml", world, "20%"), monkeypatch)
        assert (folder / "home" / "dagster_home" / "history" / "runs.db").is_file(), name
    assert all(found == lives[ODD[0]] for found in lives.values())
    assert sorted(path.name for path in around.iterdir()) == sorted(ODD), "nothing lies beside the homes"


def test_full_lifecycle_in_the_oddest_folder(
    command: Commands, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Data, declaration and home in one folder, whose path is as long as a home's may be."""
    room = Home.open(tmp_path / "measure").root
    longest = 400 - len(str(room.parent / ALL_AT_ONCE / "home").encode()) - 2
    folder = tmp_path / ALL_AT_ONCE / ("l" * (longest // 2)) / ("o" * (longest - longest // 2))
    world = worlds.write_world(folder)
    live(command, folder, world.declaration, monkeypatch)
    assert len(str(folder / "home").encode()) == 400
    assert {path.name for path in tmp_path.iterdir()} == {"measure", ALL_AT_ONCE}


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("line\nbreak", "control character"),
        ("carriage\rreturn", "control character"),
        ("tab\t", "control character"),
        ("\udcff", "is invalid"),
        ("x" * 200 + "/" + "y" * 200, "longer than 400 bytes"),
        ("x" * 300, "longer than 400 bytes|cannot be written"),
    ],
)
def test_unusable_home_path_is_rejected(
    command: Commands, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, reason: str
) -> None:
    monkeypatch.setenv("CLEANROOM_HOME", str(tmp_path / name))
    for arguments in (("status",), ("run",), ("restore", tmp_path / "no.tar")):
        (tmp_path / "no.tar").touch()
        ended = command(*arguments)
        assert (ended.code, ended.out) == (2, "")
        assert len(ended.err.strip().splitlines()) == 1
        assert ended.err.startswith("cleanroom: The ")
    with pytest.raises(ConfigurationError, match=reason):
        Home.open(tmp_path / name)
    assert [path.name for path in tmp_path.iterdir()] == ["no.tar"]


@pytest.mark.parametrize("name", ["[x]", "*", "a?", "%41", "back\\slash"])
def test_dagster_uses_the_settings_and_databases_of_the_home(tmp_path: Path, name: str) -> None:
    for decoy in ("x", "ab", "A"):
        (tmp_path / decoy / "dagster_home").mkdir(parents=True)
        (tmp_path / decoy / "dagster_home" / "dagster.yaml").write_text("telemetry: {enabled: true}\n")
    opened = Installation(Settings(tmp_path / name))
    home = opened.home.dagster_home
    with dagster_instance(opened) as instance:
        assert not instance.telemetry_enabled
        run = instance.create_run_for_job(dg.GraphDefinition(name="nothing", node_defs=[]).to_job())
        instance.report_engine_event("made", run)
        seen = threading.Event()
        instance.watch_event_logs(run.run_id, None, lambda *_: seen.set())
        instance.report_engine_event("seen", run)
        assert seen.wait(30)
    found = {path.relative_to(home).as_posix() for path in home.rglob("*.db")}
    runs = {"history/runs/index.db", f"history/runs/{run.run_id}.db"}
    assert found == {"history/runs.db", "schedules/schedules.db"} | runs


def test_dev_gets_a_plain_path_until_it_ends(
    installation: Installation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stand-in for `dg` says what it was given, has its parent ended, and ends when that passes it on."""
    told = tmp_path / "told"
    dg_command = tmp_path / "dg"
    dg_command.write_text(
        f"#!/bin/sh\ntrap 'exit 7' TERM\n(echo \"$DAGSTER_HOME\"; pwd -P) > {told}\n"
        "kill -TERM $PPID\nwhile :; do sleep 0.05; done\n"
    )
    dg_command.chmod(0o700)
    monkeypatch.setattr(shutil, "which", lambda *_, **__: str(dg_command))
    monkeypatch.setenv("CLEANROOM_HOME", str(tmp_path / "[x]?"))
    monkeypatch.chdir(tmp_path)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        with pytest.raises(SystemExit) as ended:
            start_dagster("127.0.0.1", 3000)
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    assert ended.value.code == 7
    given, folder = told.read_text().splitlines()
    assert is_plain(Path(given))
    assert folder == str(tmp_path / "[x]?" / "dagster_home")
    assert not os.path.lexists(given)


def test_glob_characters_in_the_declaration_folder_are_literal(tmp_path: Path) -> None:
    folder = tmp_path / "[x]*"
    folder.mkdir()
    for number in (1, 2):
        worlds.write_events(folder / f"events-{number}.parquet", worlds.events(n_events=300, seed=number))
    declared = worlds.declare(folder / "c.yaml", interactions=Path("events-*.parquet"), seed=None)
    with worlds.installed(tmp_path / "home") as installation:
        worlds.apply(installation, declared)
        (dataset,) = installation.catalog.resources.iterate(Kind.TRAINING_DATASET)
        assert [file.name for file in find_tables(dataset.source).files] == [
            "events-1.parquet",
            "events-2.parquet",
        ]


def test_spark_rejects_an_unsupported_path(tmp_path: Path) -> None:
    """A link with a plain name would help on this machine only."""
    scratch = tmp_path / "50%"
    scratch.mkdir()
    with (
        pytest.raises(ConfigurationError, match="Move the home") as caught,
        open_configured_engine(EngineSettings(scratch=scratch, url="local[1]")),
    ):
        pass
    assert "%" in caught.value.message
