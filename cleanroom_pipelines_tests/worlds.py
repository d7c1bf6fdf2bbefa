"""A small clean room for tests: who buys what, who is in the seed, and the declaration that makes it so.

Lives here: writing its files, an installation on a folder, what several test packages do with both, and the
folders that are made once per test run and copied.
Keep out: fixtures (conftest.py of each package) and assertions.
"""

import fcntl
import json
import random
import secrets
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

import dagster as dg
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from cleanroom_pipelines.catalog import Catalog, Kind, Resource, Version
from cleanroom_pipelines.declarations import apply_declaration, read_declaration
from cleanroom_pipelines.defs import pictures
from cleanroom_pipelines.runs import building_lookalike
from cleanroom_pipelines.runs.installation import Installation, Settings
from cleanroom_pipelines.runs.kinds import ASSETS_OF
from cleanroom_pipelines.runs.running import run_pending
from cleanroom_pipelines.runs.work import Run
from cleanroom_pipelines.storage import Home

N_USERS, N_ITEMS, N_EVENTS = 300, 40, 8_000
N_GROUP, N_SEED = 80, 40
FIRST_SECOND = 1_700_000_000  # 2023-11-14
DAYS = 90
ROLES = {"user": "USER_ID", "item": "ITEM_ID", "ts": "TIMESTAMP"}
DATASET, MODEL, CONFIGURED, JOB = "Shop events", "Shop model", "Shop lookalikes", "Loyal customers"

_PICTURES = {
    name: getattr(pictures, name) for name in ("quality", "explanation", "months", "overlap", "affinity", "reach")
}

T = TypeVar("T")
Row = tuple[str, str, int]


@dataclass(frozen=True)
class World:
    """Files of one clean room.

    Attributes:
        folder: Where they lie.
        interactions: The publisher's table.
        seed: The advertiser's list: half of a group that likes ten of the items.
        group: All of that group.
        declaration: The YAML that declares dataset, model, configured model, job and export.
    """

    folder: Path
    interactions: Path
    seed: Path
    group: tuple[str, ...]
    declaration: Path

    @property
    def seed_users(self) -> tuple[str, ...]:
        """The users of the seed."""
        return self.group[:N_SEED]


def user(number: int) -> str:
    """The id of a user."""
    return f"user-{number:04d}"


def events(n_users: int = N_USERS, n_events: int = N_EVENTS, seed: int = 7) -> list[Row]:
    """Events of users, of whom the first 80 mostly take the first ten items; the same for the same arguments."""
    dice = random.Random(seed)
    rows = []
    for number in range(n_events):
        who = number % n_users  # nobody stays away
        n_items = 10 if who < N_GROUP and dice.random() < 0.5 else N_ITEMS
        second = FIRST_SECOND + dice.randrange(DAYS * 86_400)
        rows.append((user(who), f"item-{dice.randrange(n_items):02d}", second))
    return rows


def write_events(path: Path, rows: Sequence[Row]) -> Path:
    """Write events as parquet with the columns user, item, ts (epoch seconds)."""
    users, items, seconds = zip(*rows, strict=True)
    table = pa.table({"user": users, "item": items, "ts": pa.array(seconds, pa.int64())})
    pq.write_table(table, path)
    return path


def write_seed(path: Path, users: Sequence[str]) -> Path:
    """Write a seed as JSON Lines or CSV, by the file's name."""
    if path.name.endswith(".csv"):
        path.write_text("user_id\n" + "".join(f"{name}\n" for name in users))
    else:
        path.write_text("".join(json.dumps({"user_id": name}) + "\n" for name in users))
    return path


def declare(path: Path, *, interactions: Path, seed: Path | None, **changes: Mapping[str, Any]) -> Path:
    """Write a declaration of one dataset, model, configured model and, with a seed, job.

    Args:
        path: The file.
        interactions: The table.
        seed: The job's seed; None declares no job.
        **changes: Per form (`dataset`, `model`, `configured`, `job`), fields that differ.
    """
    dataset = {"name": DATASET, "source": str(interactions), "columns": ROLES}
    model = {"name": MODEL, "training_dataset": DATASET}
    configured = {
        "name": CONFIGURED,
        "audience_model": MODEL,
        "sizes": ["5%", "10%", "20%"],
        "minimum_matching_seed_size": 25,
        "output": "s3://audiences/shop",
    }
    job = {"name": JOB, "configured_audience_model": CONFIGURED, "seed": str(seed), "exports": ["20%"]}
    form = {
        "training_datasets": [dataset | dict(changes.get("dataset", {}))],
        "audience_models": [model | dict(changes.get("model", {}))],
        "configured_audience_models": [configured | dict(changes.get("configured", {}))],
    }
    if seed is not None:
        form["generation_jobs"] = [job | dict(changes.get("job", {}))]
    path.write_text(yaml.safe_dump(form, sort_keys=False))
    return path


def write_world(folder: Path, **changes: Mapping[str, Any]) -> World:
    """Write the files of a small clean room.

    Args:
        folder: Made if it does not exist.
        **changes: As for `declare`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    world = world_at(folder)
    write_events(world.interactions, events())
    write_seed(world.seed, world.seed_users)
    declare(world.declaration, interactions=world.interactions, seed=world.seed, **changes)
    return world


def world_at(folder: Path) -> World:
    """The world whose files `write_world` wrote into this folder."""
    group = tuple(user(number) for number in range(N_GROUP))
    return World(folder, folder / "events.parquet", folder / "seed.jsonl", group, folder / "cleanroom.yaml")


class WorldCache:
    """Folders that are made once per test run, by whichever process asks first, and copied by all.

    A home knows nothing of where it is, so a copy of its folder is a home like the first one.

    Args:
        root: Where they are kept; the same for all processes of the run.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        root.mkdir(parents=True, exist_ok=True)

    def original(self, name: str, make: Callable[[Path], object]) -> Path:
        """The folder of this name. Read files in it; to open a home or a database in it, copy it.

        Args:
            name: The folder's name; each has one way to be made.
            make: Writes into the empty folder that it is given, and closes what it opened there.
        """
        folder, made = self._root / name, self._root / f"{name}.made"
        if made.exists():
            return folder
        with (self._root / f"{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # until the file is closed, however this process ends
            if not made.exists():
                shutil.rmtree(folder, ignore_errors=True)  # of a process that failed half-way
                folder.mkdir()
                make(folder)
                open_logs = [path.name for path in folder.rglob("*-wal")]
                assert open_logs == [], f"{name}: a database was left open, a copy of it would be torn"
                made.touch()
        return folder

    def copy(self, name: str, make: Callable[[Path], object], target: Path) -> Path:
        """A copy of the folder of this name, to change at will.

        Args:
            name: As for `original`.
            make: As for `original`.
            target: Made by this; gives it back.
        """
        return Path(shutil.copytree(self.original(name, make), target, symlinks=True))


def run_first(installation: Installation, instance: dg.DagsterInstance, n: int) -> int:
    """Build the first n pending versions, and return the number of runs."""
    begun: list[Version] = []
    return run_pending(installation, instance, on_start=begun.append, should_stop=lambda: len(begun) >= n)


def make_trained(world: World, folder: Path) -> None:
    """Make `home` and `dagster` of a clean room without a job: dataset, model and configured model are ACTIVE."""
    with _opened(folder) as (installation, instance):
        declaration = declare(folder / "cleanroom.yaml", interactions=world.interactions, seed=None)
        apply(installation, declaration)
        assert run_pending(installation, instance) == 3


def make_finished(world: World, folder: Path) -> None:
    """Make a finished clean room of a copy of the trained one: its declared job and export are ACTIVE too."""
    with _opened(folder) as (installation, instance):
        apply(installation, world.declaration)
        assert run_pending(installation, instance) == 2


@contextmanager
def _opened(folder: Path) -> Iterator[tuple[Installation, dg.DagsterInstance]]:
    with (
        _with_pictures(),  # whichever test asks first
        installed(folder / "home") as installation,
        dagster_at(folder / "dagster", one_file=True) as instance,
    ):
        yield installation, instance


@cache
def _empty_catalog() -> bytes:
    with TemporaryDirectory() as folder:
        file = Path(folder) / "catalog.db"
        catalog = Catalog(f"sqlite:///{file}", clock=lambda: datetime.now(UTC), token_hex=secrets.token_hex)
        catalog.database.migrate()
        catalog.database.close()
        return file.read_bytes()


def with_catalog(home: Home) -> Home:
    """Give a new home a catalogue with nothing in it, which is quicker than to migrate one for each test."""
    (home.root / "catalog.db").write_bytes(_empty_catalog())
    return home


def settings(home: Path) -> dict[str, str]:
    """The environment of an installation that takes little of the machine."""
    return {"CLEANROOM_HOME": str(home), "CLEANROOM_THREADS": "1", "CLEANROOM_MEMORY": "512MB"}


@contextmanager
def installed(home: Path, **more: str) -> Iterator[Installation]:
    """Let the environment name an installation, as the assets' resource wants it, and open it."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (settings(home) | more).items():
            patch.setenv(name, value)
        patch.delenv("DAGSTER_REDACT_USER_CODE_ERRORS", raising=False)
        yield Installation.from_environment()


@contextmanager
def dagster_at(folder: Path, *, one_file: bool = False, output: bool = False) -> Iterator[dg.DagsterInstance]:
    """A Dagster instance that keeps its events and logs in a folder.

    Args:
        folder: Made if it does not exist.
        one_file: Keep all events in one database; one for each run, as Dagster does, costs a test much time.
        output: With one file: keep what each step prints too, for which Dagster starts processes.
    """
    if not folder.exists():
        folder.mkdir(parents=True)
        for name, content in _empty_dagster(one_file).items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(content)
    config: dict[str, Any] = {"telemetry": {"enabled": False}, "nux": {"enabled": False}}
    if one_file:
        storage = {"module": "dagster._core.storage.event_log", "class": "ConsolidatedSqliteEventLogStorage"}
        config["event_log_storage"] = storage | {"config": {"base_dir": str(folder / "history")}}
    if one_file and not output:
        config["compute_logs"] = {
            "module": "dagster._core.storage.noop_compute_log_manager",
            "class": "NoOpComputeLogManager",
        }
    (folder / "dagster.yaml").write_text(yaml.safe_dump(config))
    with dg.DagsterInstance.from_config(str(folder)) as instance:
        yield instance


@cache
def _empty_dagster(one_file: bool) -> dict[str, bytes]:
    """Dagster's databases with nothing in them: to make them takes ten times as long as to write them."""
    with TemporaryDirectory() as parent:
        folder = Path(parent) / "dagster"
        folder.mkdir()
        with dagster_at(folder, one_file=one_file):
            pass
        files = [path for path in folder.rglob("*") if path.is_file() and path.name != "dagster.yaml"]
        return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


@contextmanager
def without_pictures() -> Iterator[None]:
    """Let pages have no pictures: to draw them is a fifth of the time of a run."""
    with pytest.MonkeyPatch.context() as patch:
        for name in _PICTURES:
            patch.setattr(pictures, name, lambda *_: dg.MetadataValue.md("not drawn in this test"))
        yield


@contextmanager
def _with_pictures() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for name, draw in _PICTURES.items():
            patch.setattr(pictures, name, draw)
        yield


@contextmanager
def dagster_at_home(installation: Installation) -> Iterator[dg.DagsterInstance]:
    """The Dagster instance that `cleanroom dev` and the commands use."""
    with dg.DagsterInstance.from_config(str(installation.home.dagster_home)) as instance:
        yield instance


def later(installation: Installation, **span: float) -> Installation:
    """The same installation with its clock put forward."""
    return Installation(
        Settings.from_environment(settings(installation.settings.home)),
        clock=lambda: datetime.now(UTC) + timedelta(**span),
    )


def apply(installation: Installation, declaration: Path, *, dry_run: bool = False) -> list[Any]:
    """What `cleanroom apply` does."""
    return apply_declaration(
        installation.catalog,
        installation.vault,
        read_declaration(declaration),
        new_slot=lambda: installation.token_hex(12),
        sources_of=installation.sources_of,
        dry_run=dry_run,
    )


# The kinds of the lookalike road, which a declaration makes; the others are the data rooms'.
ROAD = tuple(Kind)[: tuple(Kind).index(Kind.EXPORT_JOB) + 1]


def the(installation: Installation, kind: Kind, name: str | None = None) -> Resource:
    """The only resource of a kind, or the one of this name."""
    (found,) = (one for one in installation.catalog.resources.iterate(kind) if name is None or one.name == name)
    return found


def newest(installation: Installation, kind: Kind, name: str | None = None) -> Version:
    """The newest version of that resource."""
    return installation.catalog.resources.newest_version(kind, the(installation, kind, name).id)


def statuses(installation: Installation) -> dict[str, list[str]]:
    """By resource name, the statuses of its versions from the first on."""
    catalog = installation.catalog
    return {
        record.name: [version.status.value for version in catalog.resources.versions(kind, record.id)]
        for kind in Kind
        for record in catalog.resources.iterate(kind)
    }


def materializations(
    instance: dg.DagsterInstance, asset: str, partition: str | None = None
) -> list[dg.AssetMaterialization]:
    """What Dagster recorded of an asset, the oldest first."""
    records = instance.fetch_materializations(
        dg.AssetRecordsFilter(asset_key=dg.AssetKey(asset), asset_partitions=[partition] if partition else None),
        limit=1000,
    ).records
    return [record.asset_materialization for record in reversed(records) if record.asset_materialization]


def kind_of(asset: str) -> Kind:
    """The kind of resource whose partitions an asset has."""
    return next(kind for kind, assets in ASSETS_OF.items() if asset in assets)


def make(installation: Installation, asset: str, partition: str, run: Run) -> None:
    """Do an asset's work as its body in Dagster does."""
    getattr(building_lookalike, f"build_{asset}")(installation, partition, run)


def wait_until(condition: Callable[[], T], *, seconds: float, what: str, every: float = 0.05) -> T:
    """Wait for a condition and give what made it true.

    Raises:
        TimeoutError: It did not come true in time.
    """
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"Waited {seconds:g} s in vain for {what}.")
        time.sleep(every)
    return found
