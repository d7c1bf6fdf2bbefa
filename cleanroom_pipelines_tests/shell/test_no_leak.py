"""No value of an upload appears outside of what contains data by design.

Contract: a canary is planted in user ids, item ids, feature values, seed ids, bad cells and names of seed files,
through successes and every kind of failure. Then Dagster's storage, its compute logs, the catalogue, receipts,
metadata, manifests and all printed output are searched for it, without the redaction variable. `BY_DESIGN` lists
what contains data by design. A source's path is part of its declaration, so table files have no canary in their
names; an inbox file gives its job the words of its name.
"""

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cleanroom_pipelines.catalog import Kind
from cleanroom_pipelines.cli.main import cleanroom
from cleanroom_pipelines.runs.building_lookalike import build_seed_validation_report
from cleanroom_pipelines.runs.inbox_folders import folder_of
from cleanroom_pipelines.runs.seeds import start_job_from_file
from cleanroom_pipelines.runs.work import Run

from .. import worlds
from ..cli.commands import Commands
from .conftest import Shell, opened
from .test_bad_input import ROWS, SCHEMA, declare_tables
from .ticks import tick

CANARY = "kanarienvogel"
# file names below the home that hold uploaded values on purpose
BY_DESIGN = {
    "ranking.parquet",  # all users, ranked
    "part-00000.parquet",  # the model's users
    "items.parquet",  # the model's items
    "model.json",  # the commonest values of categorical features
    "part-00000.jsonl",  # an export
}


def canary(text: str) -> str:
    return f"{CANARY}-{text}"


def write_canaries(folder: Path, seed_file: str = f"{CANARY}.jsonl") -> worlds.World:
    """The small world with every id and value a canary, in a few of its rows where an item must stay rare."""
    folder.mkdir(parents=True)
    rows = worlds.events()
    table = pa.table(
        {
            "user": [canary(row[0]) for row in rows],
            # a common item may be named by the explanation, a rare one must not
            "item": [canary("rare") if number < 8 else row[1] for number, row in enumerate(rows)],
            "ts": [row[2] for row in rows],
            "note": [canary(f"value-{number % 250}") for number in range(len(rows))],
        }
    )
    pq.write_table(table, folder / "events.parquet")
    group = tuple(canary(worlds.user(number)) for number in range(worlds.N_GROUP))
    seed = worlds.write_seed(folder / seed_file, group[: worlds.N_SEED])
    declaration = worlds.declare(
        folder / "cleanroom.yaml",
        interactions=folder / "events.parquet",
        seed=seed,
        dataset={"columns": worlds.ROLES | {"note": "CATEGORICAL_FEATURE"}},
        job={"keep_seed": True},
    )
    return worlds.World(folder, folder / "events.parquet", seed, group, declaration)


def bad_tables(folder: Path) -> Iterator[Path]:
    good = [(canary(who), canary(item), ts) for who, item, ts in ROWS]
    lines = [f"{who},{item},{ts}" for who, item, ts in good]
    bad = {
        "times": [f"{who},{item},{canary('time')}" for who, item, _ in good],
        "wide": [f"{line},{canary('more')},{canary('more')}" for line in lines],
        "quotes": [f'"{line}' for line in lines],
        "milliseconds": [f"{who},{item},{ts}000" for who, item, ts in good],
        "few": lines[:50],
    }
    for name, rows in bad.items():
        (folder / f"{name}.csv").write_text("user,item,ts\n" + "\n".join(rows) + "\n")
        yield folder / f"{name}.csv"
    (folder / "header.csv").write_text(f"{canary('user')},item,ts\n" + "\n".join(lines) + "\n")
    yield folder / "header.csv"
    (folder / "broken.jsonl").write_text(f'{{"user": "{canary("u")}", \n' * 2000)
    yield folder / "broken.jsonl"
    (folder / "none.parquet").write_bytes(b"PAR1" + canary("x").encode() * 50 + b"PAR1")
    yield folder / "none.parquet"
    pq.write_table(
        pa.table({"user": [canary("u")] * 2000, "item": [canary("i")] * 2000, "ts": [canary("t")] * 2000}),
        folder / "types.parquet",
    )
    yield folder / "types.parquet"


def bad_seeds(folder: Path, known: tuple[str, ...]) -> Iterator[Path]:
    contents = {
        "strangers.csv": "user_id\n" + "".join(f"{canary(f'nobody-{n}')}\n" for n in range(60)),
        "few.jsonl": "".join(f'{{"user_id": "{who}"}}\n' for who in known[:10]),
        "broken.jsonl": f'{{"user_id": "{canary("x")}\n' * 60,
        "wrong.csv": f"{canary('column')}\n" + "".join(f"{who}\n" for who in known),
        "nested.jsonl": f'{{"user_id": {{"a": "{canary("x")}"}}}}\n' * 60,
        "none.parquet": "PAR1" + canary("x"),
        f"{CANARY}.docx": canary("x"),
    }
    for name, content in contents.items():
        (folder / name).write_text(content)
        yield folder / name


def places_with_canary(folder: Path) -> list[str]:
    """Files below a folder that hold the canary in content or name, databases with their log taken in."""
    found = []
    for path in sorted(folder.rglob("*")):
        if CANARY in path.name:
            found.append(f"name of {path.relative_to(folder)}")
        if path.is_file() and path.name not in BY_DESIGN:
            if path.suffix == ".db":
                with sqlite3.connect(path) as connection:
                    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
                connection.close()
            if CANARY.encode() in path.read_bytes():
                found.append(str(path.relative_to(folder)))
    return found


def all_events(instance: dg.DagsterInstance) -> str:
    logs = [log for run in instance.get_runs() for log in instance.all_logs(run.run_id)]
    assert len(logs) > 50
    return "\n".join(dg.serialize_value(log) for log in logs)


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Commands:
    return Commands(capsys, monkeypatch)


def test_search_finds_planted_canaries(tmp_path: Path) -> None:
    (tmp_path / "log.txt").write_text(f"cell {canary('x')}")
    (tmp_path / f"{CANARY}.txt").write_text("")
    connection = sqlite3.connect(tmp_path / "some.db")
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("CREATE TABLE t (x)")
    connection.execute("INSERT INTO t VALUES (?)", [canary("x")])
    connection.commit()
    assert places_with_canary(tmp_path) == [f"name of {CANARY}.txt", "log.txt", "some.db"]
    connection.close()


@pytest.fixture
def canary_shell(tmp_path: Path) -> Iterator[Shell]:
    """An empty clean room that keeps everything on disk, what its steps print too."""
    with opened(write_canaries(tmp_path / "files"), tmp_path / "room", output=True) as shell:
        yield shell


def test_nothing_leaks_through_dagster(
    canary_shell: Shell, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    shell, world = canary_shell, canary_shell.world
    installation, instance = shell.installation, shell.instance
    worlds.apply(installation, world.declaration)
    assert shell.run_pending() == 5, "with pictures"
    assert {status for all_ in worlds.statuses(installation).values() for status in all_} == {"ACTIVE"}
    configured = shell.partition("configured_audience_model")

    # failures of every kind, beside the success
    (tmp_path / "bad").mkdir()
    tables = {f"Bad table {number}": path for number, path in enumerate(bad_tables(tmp_path / "bad"))}
    worlds.apply(installation, declare_tables(tmp_path / "bad" / "declaration.yaml", tables))
    for number, seed in enumerate(bad_seeds(tmp_path / "files", world.group)):
        if seed.suffix != ".docx":
            start_job_from_file(installation, configured=configured, seed=seed, name=f"Bad seed {number}")
    shell.run_pending()
    ended = worlds.statuses(installation)
    assert {tuple(all_) for name, all_ in ended.items() if name.startswith("Bad")} == {("CREATE_FAILED",)}

    # the inbox: accepted and rejected
    folder = folder_of(installation, worlds.the(installation, Kind.CONFIGURED_AUDIENCE_MODEL))
    (folder / "good.jsonl").write_text(world.seed.read_text())
    (folder / "strangers.csv").write_text((tmp_path / "files" / "strangers.csv").read_text() + canary("one more"))
    (folder / "notes.docx").write_text(canary("x"))
    cursor = tick(shell, "seed_inbox").cursor
    tick(shell, "seed_inbox", cursor=cursor)
    with worlds.without_pictures():
        shell.run_pending()
    assert len(list((folder / "accepted").iterdir())) == 1
    assert len(list((folder / "rejected").iterdir())) == 2

    # validated, with the matched seed waiting for the ranking
    waiting = start_job_from_file(installation, configured=configured, seed=world.seed, name="Waiting")
    build_seed_validation_report(installation, waiting.id, Run("report", 1), audience_follows=False)
    assert list(installation.home.seeds.rglob("matched.vault"))

    # materialised again, verified, and damaged
    job = worlds.the(installation, Kind.GENERATION_JOB, worlds.JOB)
    (ranking,) = installation.home.artifacts.glob(f"audience/{job.id[-12:]}/*/ranking.parquet")
    ranking.write_bytes(ranking.read_bytes()[:-7] + canary("x").encode())
    export = worlds.the(installation, Kind.EXPORT_JOB, f"{worlds.JOB} 20%")
    assert not shell.materialize("audience_export", partition=export.id).success

    # the start page, with the failures, and the same by the command
    (page, _) = tick(shell, "start_page").asset_events
    assert "failure 1" in page.metadata
    assert CANARY not in dg.serialize_value(page)
    monkeypatch.setenv("CLEANROOM_HOME", str(installation.home.root))
    assert cleanroom.main(["status"], standalone_mode=False) in (None, 0)

    said = capfd.readouterr()
    assert "Bad seed 1" in said.out
    assert CANARY not in said.out + said.err
    assert CANARY not in all_events(instance)
    assert places_with_canary(shell.folder) == []
    holding = {
        path.name
        for path in shell.folder.rglob("*")
        if path.is_file() and path.name in BY_DESIGN and CANARY.encode() in path.read_bytes()
    }
    assert {"part-00000.parquet", "part-00000.jsonl"} <= holding, "the canary did go all the way"


def test_nothing_leaks_when_a_library_quotes_cells(
    trained: Shell, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    from cleanroom_pipelines.similarity import training

    class QuotingError(Exception):
        pass

    def quote(*_: object, **__: object) -> None:
        try:
            raise ValueError(canary("cause"))
        except ValueError as cause:
            raise QuotingError(canary("cell")) from cause

    monkeypatch.setattr(training, "train", quote)
    result = trained.materialize("audience_model", partition=trained.partition("audience_model"))
    assert not result.success
    said = capfd.readouterr()
    assert "QuotingError" in said.err, "it says what happened and where"
    assert CANARY not in said.out + said.err
    assert CANARY not in "".join(dg.serialize_value(log) for log in trained.instance.all_logs(result.run_id))
    assert places_with_canary(trained.folder) == []


def test_nothing_leaks_through_the_commands(command: Commands, tmp_path: Path) -> None:
    world = write_canaries(tmp_path / "files")
    model, audience = tmp_path / "model", tmp_path / "audience"
    schema = f"{SCHEMA},note=CATEGORICAL_FEATURE"
    said = [
        command("train", "--interactions", world.interactions, "--schema", schema, "--out", model, "--json"),
        command("generate", "--model", model, "--seed", world.seed, "--out", audience,
                "--min-matching-seed-size", "25", "--json"),
    ]  # fmt: skip
    assert [ended.code for ended in said] == [0, 0]
    (tmp_path / "bad").mkdir()
    for table in bad_tables(tmp_path / "bad"):
        said.append(command("train", "--interactions", table, "--schema", SCHEMA, "--out", tmp_path / "none"))
        assert said[-1].code == 2
    for seed in bad_seeds(tmp_path / "bad", world.group):
        said.append(
            command("generate", "--model", model, "--seed", seed, "--out", tmp_path / "none",
                    "--min-matching-seed-size", "25")
        )  # fmt: skip
        assert said[-1].code == 2
    for ended in said:
        assert CANARY not in ended.out + ended.err
    for name in ("metrics.json", "explanation.json"):
        assert CANARY not in (audience / name).read_text()
