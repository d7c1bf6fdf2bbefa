"""The cost of reads does not grow with history.

Contract: every kind of read by the command line, both APIs, the sensors, the schedules and the worker runs twice
on one installation: with 10 objects of history of each kind, then with 1,000. The number of database statements,
of opened files of the home and of bytes read may grow only if the result does. A new kind of read is one row of
`LOOKS`.

History is added by copying the rows of a few objects that were created through the catalogue; none of it is
unfinished.
"""

import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import dagster as dg
import pytest
from click.testing import CliRunner
from sqlalchemy import Engine, Table, create_engine, insert, select

from cleanroom_pipelines.catalog import AudienceListSpec, Kind
from cleanroom_pipelines.catalog.tables import Base
from cleanroom_pipelines.cli.main import cleanroom
from cleanroom_pipelines.defs.resources import InstallationResource
from cleanroom_pipelines.runs.dagster_home import load_repository
from cleanroom_pipelines.runs.serving_worker import Rounds
from cleanroom_pipelines_tests.runs.building import Inbox, make_room

from .. import worlds
from ..catalog.watching import listening
from ..media.groups import MediaWorld, email
from .server import Room, export_parameters

FEW, MANY = 10, 1_000
# The search trees of a hundred times as many rows are deeper: a statement may read a few pages more.
MORE_BYTES, MORE_BYTES_PER_STATEMENT = 32_768, 2 * 4_096
IO = Path("/proc/self/io")


class Cost(NamedTuple):
    """What a look took."""

    n_statements: int
    n_files: int
    n_bytes: int


@dataclass
class World:
    """An installation with everything in it that history is made of."""

    room: Room
    media: MediaWorld
    instance: dg.DagsterInstance
    worker: Rounds
    keys: Mapping[str, str]
    planted: int = 1
    templates: dict[Table, list[dict[str, Any]]] = field(default_factory=dict)
    tokens: dict[str, str] = field(default_factory=dict)

    def sensor(self, name: str) -> Any:
        repository = load_repository()
        with (
            dg.build_sensor_context(
                instance=self.instance,
                repository_def=repository,
                resources={"installation": InstallationResource()},
            ) as context,
            dg.partition_loading_context(dynamic_partitions_store=self.instance),
        ):
            return repository.get_sensor_def(name).evaluate_tick(context)

    def schedule(self, name: str) -> Any:
        repository = load_repository()
        with dg.build_schedule_context(
            instance=self.instance,
            scheduled_execution_time=datetime.now(UTC),
            repository_def=repository,
            resources={"installation": InstallationResource()},
        ) as context:
            return repository.get_schedule_def(name).evaluate_tick(context)

    def turn(self) -> None:
        """A round of the worker in which it looks at everything."""
        self.worker._next_round = self.worker._next_long_round = 0.0
        self.worker.do_round()

    def plant(self, n_things: int) -> None:
        """Let there be so many of each thing."""
        installation = self.room.installation
        for number in range(self.planted, n_things):
            entry = {"way": "media", "operation": "get_room", "room": f"room-{number:012x}"}
            installation.audit.write_soon(entry)
        installation.audit.flush()
        engine = create_engine(f"sqlite:///{installation.home.root / 'catalog.db'}")
        with engine.begin() as connection:
            self.templates = self.templates or {
                table: [dict(row._mapping) for row in connection.execute(select(table))]
                for table in Base.metadata.sorted_tables
                if table.name in COPIED
            }
            for table, rows in self.templates.items():
                firsts = [row for row in rows if row.get("number", 1) == 1]
                copies = [copied(table, row, n) for n in range(self.planted, n_things) for row in firsts]
                if copies:
                    connection.execute(insert(table), copies)
        engine.dispose()
        self.planted = n_things


COPIED = {
    "resources",
    "training_datasets",
    "audience_models",
    "configured_audience_models",
    "generation_jobs",
    "export_jobs",
    "data_labs",
    "data_rooms",
    "custom_audiences",
    "audience_lists",
    "delivered_lists",
    "versions",
    "job_views",
    "uploads",
    "room_jobs",
}
_IDS = ("id", "resource_id", "list_id", "job_id", "target_id")
_MADE_OTHERWISE = ("name", "seed_digest", "mark")


def copied(table: Table, row: Mapping[str, Any], number: int) -> dict[str, Any]:
    """A row as another thing of the same parents has it."""
    copy = dict(row)
    for name in _IDS:
        if name in copy and (table.name, name) != ("room_jobs", "target_id"):
            copy[name] = f"{copy[name][:-8]}{number:08x}"
    for name in _MADE_OTHERWISE:
        if copy.get(name):
            copy[name] = f"{copy[name][: 32 if name == 'seed_digest' else 40][:-8]}{number:08x}"
    if copy.get("created_at"):
        copy["created_at"] += timedelta(microseconds=number)
    if table.name == "data_rooms":
        copy["participants"] = tuple(
            replace(each, emails=("someone@else.example",)) for each in row["participants"]
        )
    return copy


class _Meter:
    """Counts what this process does while it is on."""

    is_on = False
    root = ""
    n_files = 0

    def count_event(self, name: str, arguments: tuple[Any, ...]) -> None:
        if self.is_on and name == "open" and str(arguments[0]).startswith(self.root):
            self.n_files += 1


METER = _Meter()
sys.addaudithook(METER.count_event)


def measured(world: World, look: Callable[[World], Any]) -> Cost:
    """The cost of a look that was made once before: what is opened once for good counts nothing."""
    look(world)
    world.room.installation.audit.flush()
    # with its connections, the pages of the database that they keep
    world.room.installation.catalog.database.close()
    n_statements = 0

    def count_statement(*_: Any) -> None:
        nonlocal n_statements
        n_statements += 1

    METER.root, METER.n_files, before = str(world.room.installation.home.root), 0, _n_read()
    with listening(Engine, "before_cursor_execute", count_statement):
        METER.is_on = True
        try:
            look(world)
        finally:
            METER.is_on = False
    return Cost(n_statements, METER.n_files, _n_read() - before)


def _n_read() -> int:
    """Bytes that this process has read; the page cache's count too."""
    return int(IO.read_text().split("rchar: ")[1].split()[0]) if IO.exists() else 0


def command(*arguments: str) -> Callable[[World], Any]:
    def look(world: World) -> Any:
        result = CliRunner().invoke(cleanroom, [each.format(**world.keys) for each in arguments])
        assert result.exit_code == 0, (result.output, result.exception)
        return result.output

    return look


def publisher(operation: str, **parameters: Any) -> Callable[[World], Any]:
    return lambda world: getattr(world.room.publisher, operation)(**_filled(world, parameters))


def page_two(operation: str, **parameters: Any) -> Callable[[World], Any]:
    """The second page of a listing; its token is got once."""

    def look(world: World) -> Any:
        ask = getattr(world.room.publisher, operation)
        token = world.tokens.get(operation) or ask(**parameters)["nextToken"]
        world.tokens[operation] = token
        return ask(nextToken=token, **parameters)

    return look


def advertiser(operation: str, **parameters: Any) -> Callable[[World], Any]:
    return lambda world: getattr(world.room.advertiser, operation)(**_filled(world, parameters))


def media(group: str, method: str, **parameters: Any) -> Callable[[World], Any]:
    return lambda world: world.media.call(group, method, **_filled(world, parameters))


def sensor(name: str) -> Callable[[World], Any]:
    return lambda world: world.sensor(name)


def schedule(name: str) -> Callable[[World], Any]:
    return lambda world: world.schedule(name)


def _filled(world: World, parameters: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: value.format(**world.keys) if isinstance(value, str) else value for name, value in parameters.items()
    }


@dataclass(frozen=True)
class Look:
    """One look.

    Args:
        make: Makes it.
        grows: Why it may read more bytes, if it may.
    """

    make: Callable[[World], Any]
    grows: str = ""


WHOLE = "the answer is everything there is"
PAGE = {"maxResults": 5}
LOOKS: dict[str, Look] = {
    "cleanroom status": Look(command("status", "--json"), WHOLE),
    "cleanroom account list": Look(command("account", "list", "--json")),
    "cleanroom collaboration list": Look(command("collaboration", "list", "--json")),
    "cleanroom bucket list": Look(command("bucket", "list", "--json")),
    "cleanroom template list": Look(command("template", "list", "--json")),
    "cleanroom user list": Look(command("user", "list", "--json")),
    "cleanroom token list": Look(command("token", "list", "{email}", "--json")),
    "get_training_dataset": Look(publisher("get_training_dataset", trainingDatasetArn="{dataset}")),
    "list_training_datasets": Look(publisher("list_training_datasets", **PAGE)),
    "list_training_datasets, second page": Look(page_two("list_training_datasets", **PAGE)),
    "list_audience_generation_jobs, second page": Look(page_two("list_audience_generation_jobs", **PAGE)),
    "get_audience_model": Look(publisher("get_audience_model", audienceModelArn="{model}")),
    "list_audience_models": Look(publisher("list_audience_models", **PAGE)),
    "get_configured_audience_model": Look(
        publisher("get_configured_audience_model", configuredAudienceModelArn="{configured}")
    ),
    "list_configured_audience_models": Look(publisher("list_configured_audience_models", **PAGE)),
    "get_configured_audience_model_policy": Look(
        publisher("get_configured_audience_model_policy", configuredAudienceModelArn="{configured}")
    ),
    "get_audience_generation_job": Look(
        advertiser("get_audience_generation_job", audienceGenerationJobArn="{job}")
    ),
    "list_audience_generation_jobs, starter": Look(advertiser("list_audience_generation_jobs", **PAGE)),
    "list_audience_generation_jobs, owner": Look(publisher("list_audience_generation_jobs", **PAGE)),
    "list_audience_generation_jobs of a model": Look(
        publisher("list_audience_generation_jobs", configuredAudienceModelArn="{configured}", **PAGE)
    ),
    "list_audience_export_jobs": Look(advertiser("list_audience_export_jobs", **PAGE)),
    "list_audience_export_jobs of a job": Look(
        advertiser("list_audience_export_jobs", audienceGenerationJobArn="{job}", **PAGE)
    ),
    "list_tags_for_resource": Look(publisher("list_tags_for_resource", resourceArn="{configured}")),
    "whoami": Look(media("base", "whoami")),
    "get_room": Look(media("base", "get_room", room_id="{room}")),
    "list_rooms": Look(media("base", "list_rooms"), "participants are looked for in every room"),
    "get_lab": Look(media("base", "get_lab", lab_id="{lab}")),
    "get_provisioning": Look(media("base", "get_provisioning", room_id="{room}")),
    "get_job": Look(media("export", "get_job", job_id="{room_job}")),
    "get_job_result": Look(media("export", "get_job_result", job_id="{room_job}")),
    "get_audit_log": Look(media("base", "get_audit_log", room_id="{room}")),
    "seed_inbox": Look(sensor("seed_inbox")),
    "room_inbox": Look(sensor("room_inbox")),
    "pending_work": Look(sensor("pending_work")),
    "declared_refreshes": Look(schedule("declared_refreshes")),
    "the worker's round": Look(World.turn),
}


SILENT = ("whoami", "room_inbox")
"""What asks no database where there is nothing to do."""


@contextmanager
def opened(folder: Path) -> Iterator[World]:
    room = Room.open(folder / "home")
    installation, catalog = room.installation, room.installation.catalog
    configured = room.shared()
    job = room.job(configured)
    room.finish()
    room.advertiser.start_audience_export_job(**export_parameters(job))
    room.finish()
    inbox = Inbox(installation, make_room(catalog))
    inbox.drop()
    (dropped,) = inbox.register()
    inbox.finish(dropped)
    inbox.finish(inbox.export_of(dropped))
    group = MediaWorld.open(installation)
    lab = group.lab("base")
    group.finish(Kind.DATA_ROOM, group.room)
    audience = group.audience("export")
    group.finish(Kind.CUSTOM_AUDIENCE, audience)
    delivered = catalog.resources.create(
        AudienceListSpec(name="list", mark="0c", custom_audience_id=audience, delivered_to=group.ids["export"])
    )
    told = {"list": {"files": [], "manifest": {}, "reveals": []}}
    group.finish(Kind.AUDIENCE_LIST, delivered.id, {"audience_user_list": told})
    room_job = catalog.rooms.add_room_job(
        email=email("export"),
        data_room_id=group.room,
        kind="user_list",
        target=catalog.resources.newest_version(Kind.AUDIENCE_LIST, delivered.id),
        options={},
    )
    datasets = room.publisher.list_training_datasets()["trainingDatasets"]
    models = room.publisher.list_audience_models()["audienceModels"]
    keys = {
        "configured": configured,
        "job": job,
        "dataset": datasets[0]["trainingDatasetArn"],
        "model": models[0]["audienceModelArn"],
        "room": group.room,
        "lab": lab,
        "room_job": room_job.id,
        "email": email("base"),
    }
    for _ in range(400):  # as much of the audit log as its writer looks back at
        installation.audit.write_soon({"way": "media", "operation": "get_room", "room": "room-0"})
    with pytest.MonkeyPatch.context() as patch, worlds.dagster_at(folder / "dagster") as instance:
        for name, value in worlds.settings(folder / "home").items():
            patch.setenv(name, value)
        world = World(room, group, instance, Rounds(installation, instance, "worker", lambda: False), keys)
        world.turn()  # a storage of Dagster's that is new is filled once
        yield world
    installation.audit.close()


@pytest.fixture(scope="module")
def costs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], tuple[Cost, Cost]]]:
    """The cost of each look with few and with many things of history."""
    with opened(tmp_path_factory.mktemp("costs")) as world:
        found: dict[int, dict[str, Cost]] = {}
        for n_things in (FEW, MANY):
            world.plant(n_things)
            found[n_things] = {name: measured(world, look.make) for name, look in LOOKS.items()}
        if path := os.environ.get("ACCESS_PATHS"):
            Path(path).write_text("\n".join(f"{name:45} {found[FEW][name]} {found[MANY][name]}" for name in LOOKS))
        yield lambda name: (found[FEW][name], found[MANY][name])


@pytest.mark.parametrize("name", LOOKS)
def test_a_read_costs_no_more_with_more_history(costs: Callable[[str], tuple[Cost, Cost]], name: str) -> None:
    few, many = costs(name)
    assert few.n_statements > 0 or name in SILENT, "it was measured"
    assert many.n_statements <= few.n_statements
    assert many.n_files <= few.n_files
    if not LOOKS[name].grows:
        assert many.n_bytes <= few.n_bytes + MORE_BYTES + MORE_BYTES_PER_STATEMENT * few.n_statements
