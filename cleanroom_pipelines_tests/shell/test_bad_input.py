"""Bad input, through commands and through Dagster.

Contract: a command exits with 2 and one clear sentence on stderr; Dagster's work ends as CREATE_FAILED with the
code of the reason and a message with a remedy. Nothing half-written is left in either case, and problems that are
only counted do not stop anything.
"""

import errno
import json
import os
import re
import resource
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from cleanroom_pipelines.catalog import AudienceModel, Kind
from cleanroom_pipelines.cli.main import cleanroom
from cleanroom_pipelines.runs.seeds import start_job_from_file

from .. import damaged, worlds
from ..cli.commands import Commands, Ended
from .conftest import Shell

SCHEMA = ",".join(f"{name}={role}" for name, role in worlds.ROLES.items())


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Commands:
    return Commands(capsys, monkeypatch)


def faults_of(ended: Ended) -> list[str]:
    """What is wrong with a refusal, which ends with 2 and one clear sentence on stderr."""
    lines = ended.err.strip().splitlines()
    is_as_wanted = {
        f"it ended with {ended.code}": ended.code == 2,
        "it printed something": ended.out == "",
        f"it said {len(lines)} lines": len(lines) == 1,
        "it does not begin with its name": ended.err.startswith("cleanroom: "),
        "it is no sentence": ended.err.strip().endswith("."),
        "it said a traceback": "Traceback" not in ended.err,
    }
    return [fault for fault, is_right in is_as_wanted.items() if not is_right]


def assert_refused(ended: Ended) -> None:
    assert faults_of(ended) == [], ended.err


def offending(faults: dict[str, list[str]]) -> dict[str, list[str]]:
    """Those that have faults."""
    return {name: found for name, found in faults.items() if found}


def everything_in(folder: Path) -> set[Path]:
    return set(folder.rglob("*"))


def drafts_in(home: Path) -> list[Path]:
    return [path for path in home.rglob(".*") if "draft" in path.name or "export-" in path.name]


# Training data; as small as may be: 100 users and 1,000 rows are the least


ROWS = worlds.events(n_users=110, n_events=1_100)


def csv(path: Path, rows: list[worlds.Row], header: str = "user,item,ts") -> Path:
    path.write_text(header + "\n" + "".join(f"{who},{item},{ts}\n" for who, item, ts in rows))
    return path


def empty_text(folder: Path) -> Path:
    (folder / "t.csv").write_text("")
    return folder / "t.csv"


def header_only(folder: Path) -> Path:
    return csv(folder / "t.csv", [])


def no_parquet(folder: Path) -> Path:
    (folder / "t.parquet").write_bytes(b"PAR1 this is none")
    return folder / "t.parquet"


def cut_parquet(folder: Path) -> Path:
    path = worlds.write_events(folder / "t.parquet", ROWS)
    path.write_bytes(path.read_bytes()[:-200])
    return path


def folder_in_place(folder: Path) -> Path:
    (folder / "t.parquet").mkdir()
    return folder / "t.parquet"


def wrong_names(folder: Path) -> Path:
    return csv(folder / "t.csv", ROWS, header="customer,item,ts")


def wrong_types(folder: Path) -> Path:
    table = pa.table(
        {
            "user": [float(number % 110) + 0.5 for number in range(len(ROWS))],
            "item": [row[1] for row in ROWS],
            "ts": [row[2] for row in ROWS],
        }
    )
    pq.write_table(table, folder / "t.parquet")
    return folder / "t.parquet"


def text_for_times(folder: Path) -> Path:
    rows = [(who, item, "yesterday") for who, item, _ in ROWS]
    return csv(folder / "t.csv", rows)  # type: ignore[arg-type]


def many_bad_rows(folder: Path) -> Path:
    bad = [("", item, ts) for _, item, ts in ROWS[: len(ROWS) * 6 // 100]]
    return csv(folder / "t.csv", bad + ROWS[len(bad) :])


def milliseconds(folder: Path) -> Path:
    return csv(folder / "t.csv", [(who, item, ts * 1000) for who, item, ts in ROWS])


def few_users(folder: Path) -> Path:
    return csv(folder / "t.csv", [row for row in ROWS if row[0] < worlds.user(99)])


def few_rows(folder: Path) -> Path:
    return csv(folder / "t.csv", ROWS[:999])


def packed_csv(how: str) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        plain = csv(folder / "t", ROWS)
        path = folder / "t.csv.gz"
        path.write_bytes(damaged.GZIPS[how](plain.read_bytes()))
        return path

    return write


def packed_json(how: str) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        lines = (json.dumps(dict(zip(worlds.ROLES, row, strict=True))) + "\n" for row in ROWS)
        path = folder / "t.jsonl.gz"
        path.write_bytes(damaged.GZIPS[how]("".join(lines).encode()))
        return path

    return write


def open_quote(folder: Path) -> Path:
    path = csv(folder / "t.csv", ROWS)
    path.write_bytes(damaged.with_open_quote(path.read_bytes()))
    return path


TABLES = {
    "missing": (lambda folder: folder / "missing.parquet", "TRAINING_DATA_NOT_FOUND"),
    "empty": (empty_text, "TRAINING_DATA_INVALID"),
    "no rows": (header_only, "TRAINING_DATA_INVALID"),
    "no parquet": (no_parquet, "TRAINING_DATA_INVALID"),
    "cut off": (cut_parquet, "TRAINING_DATA_INVALID"),
    "an empty folder": (folder_in_place, "TRAINING_DATA_NOT_FOUND"),
    "wrong column names": (wrong_names, "TRAINING_DATA_INVALID"),
    "wrong column types": (wrong_types, "TRAINING_DATA_INVALID"),
    "text for times": (text_for_times, "TRAINING_DATA_INVALID"),
    "6 % bad rows": (many_bad_rows, "TRAINING_DATA_INVALID"),
    "milliseconds": (milliseconds, "TRAINING_DATA_INVALID"),
    "99 users": (few_users, "TRAINING_DATA_TOO_SMALL"),
    "999 rows": (few_rows, "TRAINING_DATA_TOO_SMALL"),
    **{f"CSV in gzip, {how}": (packed_csv(how), "TRAINING_DATA_INVALID") for how in damaged.GZIPS},
    **{f"JSON Lines in gzip, {how}": (packed_json(how), "TRAINING_DATA_INVALID") for how in damaged.GZIPS},
    "an open quote": (open_quote, "TRAINING_DATA_INVALID"),
}


@pytest.fixture(scope="module")
def bad_tables(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """By what is wrong with it, a table in a folder of its own."""
    made = {}
    for name, (make, _) in TABLES.items():
        made[name] = make(tmp_path_factory.mktemp("table"))
    return made


# One for each way a table is refused, as the whole run that the others need not be: test_no_leak has more of them.
RUN_BY_DAGSTER = {"missing", "wrong column names", "99 users"}


def declare_tables(path: Path, tables: dict[str, Path]) -> Path:
    """A declaration of a dataset for each table, and of a model on each; both have the table's name."""
    form = {
        "training_datasets": [
            {"name": name, "source": str(table), "columns": worlds.ROLES} for name, table in tables.items()
        ],
        "audience_models": [{"name": name, "training_dataset": name} for name in tables],
    }
    path.write_text(yaml.safe_dump(form, sort_keys=False))
    return path


def test_command_rejects_bad_tables(command: Commands, bad_tables: dict[str, Path], tmp_path: Path) -> None:
    faults = {}
    for name, table in bad_tables.items():
        options = ("--schema", SCHEMA, "--out", tmp_path / "model", "--threads", "1")
        faults[name] = faults_of(command("train", "--interactions", table, *options))
        faults[name] += [f"it left {path.name}" for path in everything_in(tmp_path)]
    assert offending(faults) == {}


def test_bad_tables_fail_their_datasets_and_models(
    new_shell: Callable[[str], Shell], bad_tables: dict[str, Path], tmp_path: Path
) -> None:
    shell = new_shell("room")
    worlds.apply(shell.installation, declare_tables(tmp_path / "c.yaml", bad_tables))
    for name in set(bad_tables) - RUN_BY_DAGSTER:
        shell.make("training_dataset", worlds.the(shell.installation, Kind.TRAINING_DATASET, name).id)
    assert shell.run_pending() == len(RUN_BY_DAGSTER)
    faults = {}
    for name, (_, code) in TABLES.items():
        dataset, model = (
            worlds.newest(shell.installation, kind, name) for kind in (Kind.TRAINING_DATASET, Kind.AUDIENCE_MODEL)
        )
        record = shell.installation.catalog.get(AudienceModel, model.resource_id)
        is_as_wanted = {
            f"{dataset.status}, {dataset.status_code}": (dataset.status, dataset.status_code)
            == ("CREATE_FAILED", code),
            "no message": bool(dataset.status_message),
            f"its model is {model.status}": (model.status, record.status) == ("CREATE_FAILED",) * 2,
            "its model left something": not model.artifacts,
            "a bad table leaves its report": "training_dataset" in dataset.artifacts,
        }
        faults[name] = [fault for fault, is_right in is_as_wanted.items() if not is_right]
    assert offending(faults) == {}
    assert drafts_in(shell.installation.home.root) == []


AGES = [(worlds.user(number), 20 + number % 50) for number in range(110)]
USERS_CSV = "user,age\n" + "".join(f"{who},{age}\n" for who, age in AGES)
USERS_JSON = "".join(json.dumps({"user": who, "age": age}) + "\n" for who, age in AGES)
USERS_TABLES = {
    **{f"CSV in gzip, {how}": ("u.csv.gz", damage(USERS_CSV.encode())) for how, damage in damaged.GZIPS.items()},
    **{
        f"JSON Lines in gzip, {how}": ("u.jsonl.gz", damage(USERS_JSON.encode()))
        for how, damage in damaged.GZIPS.items()
    },
    "an open quote": ("u.csv", damaged.with_open_quote(USERS_CSV.encode())),
}


def test_command_rejects_bad_users_tables(command: Commands, tmp_path: Path) -> None:
    interactions = csv(tmp_path / "t.csv", ROWS)
    faults = {}
    for wrong, (name, content) in USERS_TABLES.items():
        (tmp_path / name).write_bytes(content)
        ended = command(
            "train", "--interactions", interactions, "--schema", SCHEMA, "--users", tmp_path / name,
            "--users-schema", "user=USER_ID,age=NUMERICAL_FEATURE", "--out", tmp_path / "model",
            "--threads", "1",
        )  # fmt: skip
        (tmp_path / name).unlink()
        faults[wrong] = faults_of(ended)
        if not re.search("The users table (could|cannot) |users table has an unclosed quote", ended.err):
            faults[wrong].append("it does not say which table")
        faults[wrong] += [f"it left {path.name}" for path in everything_in(tmp_path) - {interactions}]
    assert offending(faults) == {}


def test_few_bad_rows_duplicates_and_unknown_columns_are_counted(
    new_shell: Callable[[str], Shell], tmp_path: Path
) -> None:
    lines = [f"{who},{item},{ts},x" for who, item, ts in ROWS]
    lines[:20] = [f",{item},{ts},x" for _, item, ts in ROWS[:20]]
    lines += lines[-20:]
    (tmp_path / "t.csv").write_text("user,item,ts,colour\n" + "\n".join(lines) + "\n")
    shell = new_shell("room")
    worlds.apply(
        shell.installation, worlds.declare(tmp_path / "c.yaml", interactions=tmp_path / "t.csv", seed=None)
    )
    assert shell.run_pending() == 3
    assert {status for all_ in worlds.statuses(shell.installation).values() for status in all_} == {"ACTIVE"}


WINDOWS = {"no event in it": (1_000, 2_000), "ends before it starts": (1_700_100_000, 1_700_000_000)}


def test_command_rejects_empty_windows(command: Commands, world: worlds.World, tmp_path: Path) -> None:
    faults = {}
    for name, (start, end) in WINDOWS.items():
        options = ("--schema", SCHEMA, "--out", tmp_path / "model", "--start", str(start), "--end", str(end))
        faults[name] = faults_of(command("train", "--interactions", world.interactions, *options))
        faults[name] += [f"it left {path.name}" for path in everything_in(tmp_path)]
    assert offending(faults) == {}


def test_an_empty_window_fails_the_model_only(trained: Shell, tmp_path: Path) -> None:
    # a window that ends before it starts never gets that far: `apply` refuses it, below
    model = {"name": "Early", "window": {"start": 1_000, "end": 2_000}}
    declaration = worlds.declare(
        tmp_path / "c.yaml",
        interactions=trained.world.interactions,
        seed=None,
        model=model,
        configured={"name": "Early lookalikes", "audience_model": "Early"},
    )
    worlds.apply(trained.installation, declaration)
    trained.run_pending()
    failed = worlds.newest(trained.installation, Kind.AUDIENCE_MODEL, "Early")
    assert (failed.status, failed.status_code) == ("CREATE_FAILED", "TRAINING_DATA_INVALID")
    orphan = worlds.newest(trained.installation, Kind.CONFIGURED_AUDIENCE_MODEL, "Early lookalikes")
    assert (orphan.status, orphan.status_code) == ("CREATE_FAILED", "PARENT_NOT_ACTIVE")


# Seeds


def seed_of(n: int, prefix: str = "user-") -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        return worlds.write_seed(folder / "s.csv", [f"{prefix}{number:04d}" for number in range(n)])

    return write


def written(name: str, content: str | bytes) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)
        return folder / name

    return write


def half_known(folder: Path) -> Path:
    users = [worlds.user(n) for n in range(24)] + [f"stranger-{n}" for n in range(40)]
    return worlds.write_seed(folder / "s.jsonl", users)


LONG_SEED = "user_id\n" + "".join(f"{worlds.user(number)}\n" for number in range(worlds.N_GROUP))

SEEDS = {
    "empty": (written("s.jsonl", ""), "SEED_INVALID"),
    "header only": (written("s.csv", "user_id\n"), "SEED_INVALID"),
    "unparsable lines": (written("s.jsonl", "{{{\n" * 60), "SEED_INVALID"),
    "no parquet": (written("s.parquet", b"PAR1 none"), "SEED_INVALID"),
    "no gzip": (written("s.csv.gz", b"user_id\nu"), "SEED_INVALID"),
    **{
        f"gzip, {how}": (written("s.csv.gz", damage(LONG_SEED.encode())), "SEED_INVALID")
        for how, damage in damaged.GZIPS.items()
    },
    "an open quote": (written("s.csv", damaged.with_open_quote(LONG_SEED.encode())), "SEED_INVALID"),
    "no column of ids": (written("s.csv", "city,x\n" + "a,b\n" * 60), "SEED_INVALID"),
    "24 ids": (seed_of(24), "SEED_TOO_SMALL"),
    "24 ids three times": (
        written("s.csv", "user_id\n" + "".join(f"user-{n % 24:04d}\n" for n in range(72))),
        "SEED_TOO_SMALL",
    ),
    "500,001 ids": (seed_of(500_001), "SEED_TOO_LARGE"),
    "matches nobody": (seed_of(40, "stranger-"), "INSUFFICIENT_MATCHING_SEED"),
    "fewer than the minimum": (half_known, "INSUFFICIENT_MATCHING_SEED"),
}


@pytest.fixture(scope="module")
def bad_seeds(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """By what is wrong with it, a seed in a folder of its own."""
    return {name: make(tmp_path_factory.mktemp("seed")) for name, (make, _) in SEEDS.items()}


SEEDS_RUN_BY_DAGSTER = {"empty", "24 ids", "500,001 ids", "matches nobody"}


@pytest.fixture(scope="module")
def everybody(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A seed that leaves too few users who are not in it."""
    return seed_of(250)(tmp_path_factory.mktemp("seed"))


@pytest.fixture(scope="module")
def model(world: worlds.World, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A model that the command trained."""
    out = tmp_path_factory.mktemp("bare") / "model"
    options = ["--interactions", str(world.interactions), "--schema", SCHEMA, "--out", str(out), "--threads", "1"]
    cleanroom.main(["train", *options], standalone_mode=False)
    yield out


def generate(command: Commands, model: Path, seed: Path, out: Path, *more: str) -> Ended:
    floor = () if "--min-matching-seed-size" in more else ("--min-matching-seed-size", "25")
    return command("generate", "--model", model, "--seed", seed, "--out", out, "--threads", "1", *floor, *more)


def test_command_rejects_bad_seeds(
    command: Commands, model: Path, bad_seeds: dict[str, Path], everybody: Path, tmp_path: Path
) -> None:
    more = {"missing": tmp_path / "missing.csv", "leaves nobody else": everybody}
    faults = {}
    for name, seed in (bad_seeds | more).items():
        faults[name] = faults_of(generate(command, model, seed, tmp_path / "audience"))
        faults[name] += [f"it left {path.name}" for path in everything_in(tmp_path)]
    assert offending(faults) == {}


def test_bad_seeds_fail_their_jobs(trained: Shell, bad_seeds: dict[str, Path], everybody: Path) -> None:
    installation = trained.installation
    configured = trained.partition("configured_audience_model")
    # a job cannot be started without its seed; one whose seed is taken away while it waits fails
    start_job_from_file(installation, configured=configured, seed=trained.world.seed, name="Soon without")
    for path in installation.home.seeds.rglob("seed.*"):
        path.unlink()
    for name, seed in bad_seeds.items():
        job = start_job_from_file(installation, configured=configured, seed=seed, name=name, export_size="largest")
        if name not in SEEDS_RUN_BY_DAGSTER:
            trained.make("seed_validation_report", job.id)
    assert trained.run_pending() == len(SEEDS_RUN_BY_DAGSTER) + 1
    without = worlds.newest(installation, Kind.GENERATION_JOB, "Soon without")
    assert (without.status, without.status_code) == ("CREATE_FAILED", "SEED_NOT_FOUND")
    faults = {}
    for name, (_, code) in SEEDS.items():
        version = worlds.newest(installation, Kind.GENERATION_JOB, name)
        is_as_wanted = {
            f"{version.status}, {version.status_code}": (version.status, version.status_code)
            == ("CREATE_FAILED", code),
            "no message": bool(version.status_message),
            "a bad seed leaves its report": set(version.artifacts) == {"seed_validation_report"},
        }
        faults[name] = [fault for fault, is_right in is_as_wanted.items() if not is_right]
    assert offending(faults) == {}
    assert worlds.materializations(trained.instance, "audience") == []
    assert list(installation.catalog.resources.iterate(Kind.EXPORT_JOB)) == []
    assert not any(path.is_file() for path in installation.home.seeds.rglob("*")), "the seeds are gone"
    assert drafts_in(installation.home.root) == []

    start_job_from_file(installation, configured=configured, seed=everybody, name="Everybody")
    assert trained.run_pending() == 1
    all_of_them = worlds.newest(installation, Kind.GENERATION_JOB, "Everybody")
    assert (all_of_them.status, all_of_them.status_code) == ("CREATE_FAILED", "SEED_COVERS_POPULATION")


SIZES = {
    "no percent": ("--sizes", "0%"),
    "more than all": ("--sizes", "101%"),
    "twice": ("--sizes", "5%,5%"),
    "nobody": ("--sizes", "0"),
    "a word": ("--sizes", "many"),
    "a comma": ("--sizes", ","),
    "no minimum": ("--min-matching-seed-size", "0"),
}


def test_command_rejects_invalid_sizes(
    command: Commands, model: Path, world: worlds.World, tmp_path: Path
) -> None:
    faults = {}
    for name, options in SIZES.items():
        faults[name] = faults_of(generate(command, model, world.seed, tmp_path / "audience", *options))
        faults[name] += [f"it left {path.name}" for path in everything_in(tmp_path)]
    assert offending(faults) == {}


# Declarations: what cannot reach Dagster, since `apply` refuses it


FORMS = ("dataset", "model", "configured", "job")
DECLARATIONS: dict[str, dict[str, dict[str, object]]] = {
    "size 0%": {"configured": {"sizes": ["0%"]}},
    "size 101%": {"configured": {"sizes": ["101%"]}},
    "size repeated": {"configured": {"sizes": ["5%", "5%"]}},
    "no size": {"configured": {"sizes": []}},
    "window that ends before it starts": {"model": {"window": {"start": 2_000, "end": 1_000}}},
    "missing seed": {"job": {"seed": "nowhere.csv"}},
    "seed of no known format": {"job": {"seed": __file__}},
    "unknown role": {"dataset": {"columns": {"user": "USER"}}},
    "no user column": {"dataset": {"columns": {"item": "ITEM_ID"}}},
    "source on two lines": {"dataset": {"source": "two\nlines.csv"}},
    "name on two lines": {"dataset": {"name": "two\nlines"}},
    "empty name": {"model": {"name": " "}},
    "name too long": {"model": {"name": "x" * 64}},
    "parent that is nowhere": {"model": {"training_dataset": "Nowhere"}},
    "minimum below the floor": {"configured": {"minimum_matching_seed_size": 3}},
    "output outside the buckets": {"configured": {"output": "s3://audiences/../../x"}},
    "output that is no bucket": {"configured": {"output": "/etc"}},
}


def test_invalid_declarations_change_nothing(command: Commands, trained: Shell, tmp_path: Path) -> None:
    before = worlds.statuses(trained.installation)
    faults = {}
    for name, changes in DECLARATIONS.items():
        fresh: dict[str, dict[str, object]] = {form: {"name": "New"} for form in FORMS}
        merged = {form: fresh[form] | changes.get(form, {}) for form in FORMS}
        merged["model"] = {"training_dataset": merged["dataset"]["name"]} | merged["model"]
        merged["configured"] = {"audience_model": merged["model"]["name"]} | merged["configured"]
        merged["job"] = {"configured_audience_model": merged["configured"]["name"]} | merged["job"]
        declaration = worlds.declare(
            tmp_path / "c.yaml", interactions=trained.world.interactions, seed=trained.world.seed, **merged
        )
        faults[name] = faults_of(command("apply", declaration))
        if worlds.statuses(trained.installation) != before:
            faults[name].append("it changed something")
        if any(path.is_file() for path in trained.installation.home.seeds.rglob("*")):
            faults[name].append("it left a seed")
    assert offending(faults) == {}


def test_duplicate_resource_names(command: Commands, trained: Shell, tmp_path: Path) -> None:
    declaration = worlds.declare(tmp_path / "c.yaml", interactions=trained.world.interactions, seed=None)
    another = "audience_models:\n- {name: Twice, training_dataset: Shop events}\n"
    twice = declaration.read_text()
    for _ in range(2):
        twice = twice.replace("audience_models:\n", another, 1)
    assert twice.count("Twice") == 2
    declaration.write_text(twice)
    before = worlds.statuses(trained.installation)
    assert_refused(command("apply", declaration))
    assert worlds.statuses(trained.installation) == before


# Names


NASTY = '../../x "quo\'tes" 🛒 ; DROP TABLE'


def test_unusual_names_and_files_are_handled_inside_the_home(
    new_shell: Callable[[str], Shell], tmp_path: Path, command: Commands
) -> None:
    around = tmp_path / "around"
    files = around / 'o\'clock 🛒 "q"'
    files.mkdir(parents=True)
    world = worlds.write_world(files)
    declaration = worlds.declare(
        files / "c.yaml",
        interactions=world.interactions,
        seed=world.seed.rename(files / "s'e\"ed\n🛒 ..jsonl"),
        dataset={"name": NASTY, "description": NASTY},
        model={"name": NASTY, "training_dataset": NASTY},
        configured={"name": NASTY, "audience_model": NASTY},
        job={"name": NASTY, "configured_audience_model": NASTY, "seed": str(files / "s'e\"ed\n🛒 ..jsonl")},
    )
    before = everything_in(around)
    shell = new_shell("room")
    ended = command("apply", declaration)
    assert ended.code == 0, ended.err
    assert shell.run_pending() == 5
    assert {status for all_ in worlds.statuses(shell.installation).values() for status in all_} == {"ACTIVE"}
    assert everything_in(around) == before
    assert {path.name for path in tmp_path.iterdir()} == {"around", "room"}
    for kind in worlds.ROAD:
        assert worlds.the(shell.installation, kind).id.startswith("x-quo-tes-drop-table")
    ended = command("status")
    assert ended.code == 0
    # the same files by the bare commands
    assert command(
        "train", "--interactions", world.interactions, "--schema", SCHEMA, "--out", around / NASTY
    ).code in (0, 2)


# What is damaged, and a full disk


@pytest.mark.parametrize("suffix", ["json", "npy", "parquet"])
def test_command_rejects_a_damaged_model(
    command: Commands, model: Path, world: worlds.World, tmp_path: Path, suffix: str
) -> None:
    damaged = [path.name for path in model.glob(f"*.{suffix}")]
    assert damaged
    for name in damaged:
        shutil.copytree(model, tmp_path / "model")
        path = tmp_path / "model" / name
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        ended = generate(command, tmp_path / "model", world.seed, tmp_path / "audience")
        shutil.rmtree(tmp_path / "model")
        assert_refused(ended)
        assert everything_in(tmp_path) == set()


def test_folder_that_is_not_a_model(command: Commands, world: worlds.World, tmp_path: Path) -> None:
    assert_refused(generate(command, tmp_path / "none", world.seed, tmp_path / "audience"))
    (tmp_path / "none").mkdir()
    assert_refused(generate(command, tmp_path / "none", world.seed, tmp_path / "audience"))
    assert everything_in(tmp_path) == {tmp_path / "none"}


def test_existing_output_is_kept(command: Commands, model: Path, world: worlds.World, tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("mine")
    assert_refused(generate(command, model, world.seed, tmp_path / "mine"))
    assert_refused(generate(command, model, world.seed, tmp_path / "mine" / "below"))
    assert (tmp_path / "mine").read_text() == "mine"


@contextmanager
def little_disk() -> Iterator[None]:
    """Let no file of this process grow beyond 4,096 bytes: what a full disk does half-way."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4_096, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_disk_filling_up_during_training_leaves_nothing(
    command: Commands, world: worlds.World, tmp_path: Path
) -> None:
    with little_disk():
        ended = command(
            "train", "--interactions", world.interactions, "--schema", SCHEMA, "--out", tmp_path / "model",
            "--threads", "1",
        )  # fmt: skip
    assert everything_in(tmp_path) == set()
    assert_refused(ended)
    assert "disk is full" in ended.err


def test_disk_filling_up_during_ranking_leaves_nothing(
    command: Commands, model: Path, world: worlds.World, tmp_path: Path
) -> None:
    with little_disk():
        ended = generate(command, model, world.seed, tmp_path / "audience")
    assert everything_in(tmp_path) == set()
    assert_refused(ended)
    assert "disk is full" in ended.err


def test_disk_filling_up_fails_the_model_and_leaves_nothing(
    trained: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    # simulated where the system tells it, at the flush of a draft's file: a limit on files would hit Dagster's own
    before = everything_in(trained.installation.home.artifacts)
    flush = os.fsync

    def full(descriptor: int) -> None:
        if "draft" in str(Path(f"/proc/self/fd/{descriptor}").readlink()):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        flush(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    model = trained.partition("audience_model")
    result = trained.materialize("audience_model", partition=model)
    assert not result.success
    failed = worlds.newest(trained.installation, Kind.AUDIENCE_MODEL)
    assert (failed.status, failed.status_code) == ("CREATE_FAILED", "STORAGE_FULL")
    assert everything_in(trained.installation.home.artifacts) == before
    monkeypatch.setattr(os, "fsync", flush)
    assert trained.materialize("audience_model", partition=model).success
    assert worlds.newest(trained.installation, Kind.AUDIENCE_MODEL).status == "ACTIVE"
