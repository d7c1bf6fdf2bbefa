"""A data room on a cluster finds the same users as on one machine.

Contract: matching, set algebra, scoring and writing lists run on the engine that the installation names. A room on
DuckDB and one on Spark have the same files and the same key; built through Dagster, their audiences, statistics
and lists agree within the documented tolerance: sets exactly, lookalikes in 99 % of users or more.
"""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from cleanroom_pipelines.catalog import DataRoom, Kind
from cleanroom_pipelines.runs.artifact_documents import newest_artifact
from cleanroom_pipelines_tests import worlds
from cleanroom_pipelines_tests.runs.room_worlds import RoomWorld, open_room, planned_world

pytestmark = pytest.mark.spark

WOMEN = {"operator": "AND", "filters": [{"attribute": "gender", "operator": "CONTAINS_ANY_OF", "values": ["f"]}]}
LOOKALIKE = {
    "kind": "lookalike",
    "source": {"kind": "seed", "audience_type": "loyal"},
    "reach": 10,
    "exclude_seed_audience": False,
}
SETS = {
    "remarketing": {"kind": "remarketing", "audience_type": "loyal"},
    "exclusion": {"kind": "exclusion", "audience_type": "loyal"},
    "rule": {
        "kind": "rule_based",
        "source": {"kind": "base"},
        "filters": WOMEN,
        "combinators": [
            {"operator": "DIFF", "source": {"kind": "seed", "audience_type": "new"}, "filters": None},
            {"operator": "UNION", "source": {"kind": "seed", "audience_type": "loyal"}, "filters": WOMEN},
        ],
    },
}


def bring(folder: Path) -> None:
    """Create a home whose room waits for its first run; copies of it have the same key, and so the same noise."""
    with open_room(folder) as world:
        world.provision_base()
        world.provision_seeds()


@contextmanager
def room(brought: Path, folder: Path, **settings: str) -> Iterator[RoomWorld]:
    """Copy that home, and do its work with these settings."""
    shutil.copytree(brought, folder)
    with (
        worlds.installed(folder / "home", **settings) as installation,
        dg.DagsterInstance.ephemeral() as instance,
    ):
        record = worlds.the(installation, Kind.DATA_ROOM)
        assert isinstance(record, DataRoom)
        world = planned_world(installation, instance, record)
        world.run()
        yield world


def found_in(world: RoomWorld) -> tuple[dict[str, list[str]], dict[str, Any], set[str]]:
    """Return the users of each audience in order, the lookalike's statistics, and the users of its list."""
    records = {name: world.audience(definition, name=name) for name, definition in SETS.items()}
    lookalike = world.audience(LOOKALIKE, name="lookalike")
    delivered = world.deliver(lookalike)
    world.run()
    users = {name: world.users_of(record) for name, record in records.items()}
    users["lookalike"] = world.users_of(lookalike)
    told = newest_artifact(world.installation, lookalike.kind, lookalike.id, "lookalike_statistics")[1]
    return users, told["statistics"]["result"], set(world.users_of(delivered))


def test_a_room_on_a_cluster_finds_the_same_as_on_one_machine(
    spark_here: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cleanroom_pipelines.engine import spark_engine

    opened: list[str] = []
    open_spark = spark_engine.SparkEngine.__init__

    def counted(engine: Any, settings: Any, url: str) -> None:
        opened.append(url)
        open_spark(engine, settings, url)

    monkeypatch.setattr(spark_engine.SparkEngine, "__init__", counted)
    bring(tmp_path / "brought")
    with room(tmp_path / "brought", tmp_path / "duckdb") as world:
        ours, our_statistics, our_list = found_in(world)
    assert opened == []
    with room(tmp_path / "brought", tmp_path / "spark", CLEANROOM_ENGINE_URL=spark_here) as world:
        theirs, their_statistics, their_list = found_in(world)
    assert len(opened) >= len(SETS) + 1, "each audience was found there"

    assert {name: theirs[name] for name in SETS} == {name: ours[name] for name in SETS}, "in the same order too"
    n_users = len(ours["lookalike"])
    assert len(theirs["lookalike"]) == n_users == len(world.users) // 10
    assert len(set(theirs["lookalike"]) & set(ours["lookalike"])) >= 0.99 * n_users
    assert their_list == set(theirs["lookalike"])
    assert our_list == set(ours["lookalike"])
    assert their_statistics["auc"] == pytest.approx(our_statistics["auc"], abs=0.02)
