"""The commands of the installation: apply, run, status, cancel, backup, restore.

Contract: exit code 0, or 2 and one sentence on stderr; `--json` for scripts; `--dry-run` reports
changes without making them; applying twice changes nothing.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from cleanroom_pipelines.catalog import Kind
from cleanroom_pipelines.runs.inbox_folders import folder_of
from cleanroom_pipelines.runs.installation import Installation
from cleanroom_pipelines.runs.room_inbox import make_room_inbox

from .. import worlds
from ..cases import assert_each
from ..runs.delivery_worlds import make_data_room
from .commands import Commands


def test_commands_that_start_nothing_create_no_home(
    command: Commands, installation: Installation, world: worlds.World
) -> None:
    ended = command("status")
    assert (ended.code, ended.err) == (0, "")
    assert ended.out.startswith(
        f"home: {installation.settings.home}\nNothing exists yet. Start with `cleanroom demo`"
    )
    assert json.loads(command("status", "--json").out) == []
    readers = [(group, "list") for group in ("account", "bucket", "collaboration", "notice", "template", "user")]
    for reader in (
        *readers,
        ("token", "list", "a@b.example"),
        ("audit", "verify"),
        ("audit", "show"),
        ("ledger",),
        ("cancel", "x"),
        ("retry", "x"),
        ("retry", "--failed"),
        ("delete", "x", "--yes"),
        ("backup", "backup.tar"),
    ):
        ended = command(*reader)
        assert (ended.code, ended.out) == (2, "")
        assert f"There is no installation in {installation.settings.home}. Set CLEANROOM_HOME" in ended.err
    dry = command("apply", world.declaration, "--dry-run")
    assert (dry.code, dry.out.count("would create ")) == (0, 5)
    assert dry.err.startswith(
        f"There is no installation in {installation.settings.home} yet; `apply` would create it."
    )
    assert not installation.settings.home.exists()


def test_dry_run_prints_what_apply_then_does(
    command: Commands, installation: Installation, world: worlds.World
) -> None:
    dry = command("apply", world.declaration, "--dry-run")
    assert dry.code == 0
    assert worlds.statuses(installation) == {}
    wet = json.loads(command("apply", world.declaration, "--json").out)
    assert [change["action"] for change in wet] == ["create"] * 5
    assert [line.split("'")[1] for line in dry.out.splitlines()] == [change["name"] for change in wet]
    assert all(line.startswith("would create ") for line in dry.out.splitlines())
    before = worlds.statuses(installation)
    again = command("apply", world.declaration)
    assert again.err.startswith("5 versions wait to be built: run `cleanroom run`")
    assert dry.err.endswith("home yet; `apply` would create it.\n")
    assert [line.split()[0] for line in again.out.splitlines()] == ["kept"] * 5
    assert worlds.statuses(installation) == before


def test_run_does_pending_work_and_status_shows_it(command: Commands, trained_home: Path) -> None:
    with worlds.installed(trained_home) as installation:
        model = worlds.the(installation, Kind.AUDIENCE_MODEL)
        more = {"name": "Another", "audience_model": model.name, "sizes": ["5%"], "output": "s3://audiences/other"}
        declaration = trained_home.parent / "another.yaml"
        declaration.write_text(json.dumps({"configured_audience_models": [more]}))
        command("apply", declaration)
        ended = command("run")
        assert (ended.code, ended.out) == (0, "Finished 1 run.\n")
        rows = json.loads(command("status", "--json").out)
        assert {row["name"] for row in rows} == {worlds.DATASET, worlds.MODEL, worlds.CONFIGURED, "Another"}
        assert {row["status"] for row in rows} == {"ACTIVE"}
        assert {row["progress"] for row in rows} == {1.0}
        table = command("status").out
        for row in rows:
            assert row["name"] in table
        assert command("run").out == "Finished 0 runs.\n"


def test_run_ingests_the_inbox(command: Commands, trained_home: Path, world: worlds.World) -> None:
    with worlds.installed(trained_home) as installation:
        folder = folder_of(installation, worlds.the(installation, Kind.CONFIGURED_AUDIENCE_MODEL))
        worlds.write_seed(folder / "spring.jsonl", world.seed_users)
        (folder / "Zweitname.xlsx").write_text("x")
        (folder / "summer.csv.part").write_text("x")
        with worlds.without_pictures():
            ended = command("run")
        assert (ended.code, ended.out) == (0, "Finished 2 runs.\n")
        assert "Files in the inbox: 1 accepted, 1 rejected (a receipt in rejected/ says why).\n" in ended.err
        assert "Zweitname" not in ended.err
        assert [path.name for path in folder.iterdir() if path.is_file()] == ["summer.csv.part"]
        (accepted,) = (json.loads(path.read_text()) for path in (folder / "accepted").iterdir())
        assert (accepted["status"], len(accepted["exports"])) == ("ACTIVE", 1)
        (rejected,) = (json.loads(path.read_text()) for path in (folder / "rejected").iterdir())
        assert (rejected["file"], rejected["statusCode"]) == ("Zweitname.xlsx", "SEED_INVALID")
        assert "inbox" not in command("run").err


def test_run_ingests_the_files_of_a_data_room(command: Commands, installation: Installation) -> None:
    room = make_data_room(installation.catalog)
    make_room_inbox(installation, room)
    drop = folder_of(installation, room) / "matching" / "people.csv"
    drop.write_text("".join(f"user-{number},{number}@mail.example\n" for number in range(200)))
    ended = command("run")
    assert (ended.code, ended.out) == (0, "Finished 1 run.\n")
    assert "Files in the inbox: 1 accepted.\n" in ended.err
    assert not drop.exists()
    newest = installation.catalog.resources.newest_version(Kind.DATA_ROOM, room.id)
    assert (newest.number, newest.status) == (2, "ACTIVE")
    assert "base_audience" in newest.artifacts


def test_status_shows_the_queue_position(
    command: Commands, installation: Installation, world: worlds.World
) -> None:
    command("apply", world.declaration)
    rows = {row["kind"]: row for row in json.loads(command("status", "--json").out)}
    dataset, model = rows[Kind.TRAINING_DATASET.words], rows[Kind.AUDIENCE_MODEL.words]
    assert (dataset["stage"], dataset["place"]) == ("waiting", 1)
    assert (model["stage"], model["place"]) == ("waiting for a resource that it depends on", None)
    assert "waiting, place" in command("status").out, "the rest may be on the next line of its cell"


def test_status_shows_the_reason_of_a_failure(
    command: Commands, installation: Installation, tmp_path: Path
) -> None:
    declaration = declare_text_times(tmp_path)
    command("apply", declaration)
    command("run")
    first = json.loads(command("status", "--json").out)[0]
    assert (first["version_status"], first["status_code"]) == ("CREATE_FAILED", "TRAINING_DATA_INVALID")
    assert first["message"]
    whole = command("status").out
    home = f"home: {installation.settings.home}\n"
    assert whole.startswith(f"{home}3 failed, 0 running, 0 waiting.\nfailed: training dataset 'Shop events': ")
    assert "then run: cleanroom retry --failed" in whole
    (header, *lines) = command("status", "--failed", "lookalikes").out.splitlines()
    assert header.split("\t") == ["name", "kind", "status", "partition", "message"]
    assert [line.split("\t")[0] for line in lines] == [worlds.CONFIGURED]
    assert command("status", "nothing has this name").out.startswith("No such resource.")


def declare_text_times(folder: Path) -> Path:
    """A declaration whose table has the declared columns, but no times."""
    (folder / "t.csv").write_text("user,item,ts\n" + "a,b,yesterday\n" * 1000)
    return worlds.declare(folder / "c.yaml", interactions=folder / "t.csv", seed=None)


def test_apply_rejects_a_missing_table_before_it_creates_anything(
    command: Commands, installation: Installation, tmp_path: Path
) -> None:
    declaration = worlds.declare(tmp_path / "c.yaml", interactions=tmp_path / "nowhere.csv", seed=None)
    ended = command("apply", declaration)
    assert (ended.code, ended.out) == (2, "")
    assert "The interactions table was not found" in ended.err
    assert json.loads(command("status", "--json").out) == []


def test_apply_and_run_end_with_2_and_the_reason_if_work_fails(
    command: Commands, installation: Installation, tmp_path: Path
) -> None:
    ended = command("apply", "--run", declare_text_times(tmp_path))
    assert ended.code == 2
    last = ended.err.strip().splitlines()[-1]
    assert last.startswith(
        "cleanroom: 3 of 3 declared resources failed. The training dataset 'Shop events' failed: "
    )
    assert "Traceback" not in ended.err


def test_cancel(command: Commands, installation: Installation, world: worlds.World) -> None:
    command("apply", world.declaration)
    model = worlds.the(installation, Kind.AUDIENCE_MODEL)
    ended = command("cancel", model.id)
    assert ended.code == 0
    assert worlds.newest(installation, Kind.AUDIENCE_MODEL).status_code == "CANCELLED"
    for wrong in (model.id, "nobody-0123456789ab", "../x"):
        ended = command("cancel", wrong)
        assert (ended.code, ended.out) == (2, "")
        assert ended.err.startswith("cleanroom: ")


def test_backup_and_restore(
    command: Commands,
    installation: Installation,
    world: worlds.World,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    command("apply", world.declaration)
    assert command("run", "--max-seconds", "0.001").code == 0
    ended = command("backup", tmp_path / "b.tar")
    assert ended.code == 0, ended.err
    assert command("backup", tmp_path / "b.tar").code == 2, "it overwrites nothing"
    assert command("restore", tmp_path / "b.tar").code == 2, "nor a home that holds something"
    monkeypatch.setenv("CLEANROOM_HOME", str(tmp_path / "elsewhere"))
    assert command("restore", tmp_path / "none.tar").code == 2
    ended = command("restore", tmp_path / "b.tar")
    assert ended.code == 0, ended.err
    assert worlds.statuses(Installation.from_environment()) == worlds.statuses(installation)


TRAIN = ("train", "--interactions", "x.csv", "--out", "m", "--schema")


def test_wrong_usage_exits_with_2_and_one_sentence(
    command: Commands, installation: Installation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    def is_rejected(*arguments: str) -> None:
        ended = command(*arguments)
        assert (ended.code, ended.out) == (2, "")
        assert len(ended.err.strip().splitlines()) == 1
        assert not (tmp_path / "m").exists()

    assert_each(
        is_rejected,
        [
            ("apply", "missing.yaml"),
            (*TRAIN, "user=USER_ID"),
            (*TRAIN, "user"),
            (*TRAIN, "u=USER_ID,i=ITEM_ID", "--start", "soon"),
            (*TRAIN, "u=USER_ID,i=ITEM_ID", "--memory", "lots"),
            (*TRAIN, "u=USER_ID,i=ITEM_ID", "--max-invalid", "7"),
            ("restore", "missing.tar"),
        ],
    )


def test_invalid_setting_is_named(
    command: Commands, installation: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    def is_named(variable: str) -> None:
        with monkeypatch.context() as patch:
            patch.setenv(variable, "-1")
            ended = command("status")
        assert ended.code == 2
        assert variable in ended.err

    assert_each(is_named, ["CLEANROOM_MEMORY", "CLEANROOM_THREADS", "CLEANROOM_SIZE_PROFILE"])


def test_unexpected_error_exits_with_1_without_quoting_data(
    command: Commands, installation: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    def break_down() -> None:
        raise RuntimeError("cell of somebody")

    monkeypatch.setattr(Installation, "from_environment", break_down)
    ended = command("status")
    assert ended.code == 1
    assert "RuntimeError" in ended.err
    assert "somebody" not in ended.err


def test_installed_program_runs(tmp_path: Path) -> None:
    program = Path(sys.executable).with_name("cleanroom")
    ended = subprocess.run([program, "apply", tmp_path / "none.yaml"], capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr.startswith("cleanroom: ")
    assert "Traceback" not in ended.stderr


def test_help_lists_the_commands(command: Commands) -> None:
    helped = command("--help")
    assert helped.code == 0
    for name in ("demo", "dev", "apply", "run", "status", "train", "generate", "backup", "restore", "cancel"):
        assert f"\n  {name} " in helped.out
