"""Contract: the example of an upstream asset loads, appears in the lineage, changes nothing else in the graph, and
writes a table that a training dataset can read.
"""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import dagster as dg
import pytest

from cleanroom_pipelines.definitions import defs as clean_room
from cleanroom_pipelines.engine import find_tables

EXAMPLE = Path(__file__).parents[2] / "data" / "example" / "upstream.py"


@pytest.fixture(scope="module")
def example() -> ModuleType:
    spec = importlib.util.spec_from_file_location("upstream", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "dont_write_bytecode", True)  # the folder is part of a release
        spec.loader.exec_module(module)
    return module


def parents_of(definitions: dg.Definitions) -> dict[str, set[str]]:
    graph = definitions.resolve_asset_graph()
    return {
        key.to_user_string(): {parent.to_user_string() for parent in graph.get(key).parent_keys}
        for key in graph.get_all_asset_keys()
    }


def test_the_lineage_is_drawn(example: ModuleType) -> None:
    before, after = parents_of(clean_room()), parents_of(example.defs())
    assert after == before | {"shop_events": set(), "training_dataset": {"shop_events"}}


def test_nothing_of_the_clean_room_is_lost(example: ModuleType) -> None:
    before, after = (each.get_repository_def() for each in (clean_room(), example.defs()))
    assert {job.name for job in after.get_all_jobs()} == {job.name for job in before.get_all_jobs()}
    assert {each.name for each in after.sensor_defs} == {each.name for each in before.sensor_defs}
    assert {each.name for each in after.schedule_defs} == {each.name for each in before.schedule_defs}
    checks = [each.asset_graph.asset_check_keys for each in (before, after)]
    assert checks[0] == checks[1]


def test_what_it_writes_can_be_read(example: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHOP_EVENTS", str(tmp_path / "events"))
    for day in ("2026-01-01", "2026-01-02"):
        assert dg.materialize([example.shop_events], partition_key=day).success
    tables = find_tables(tmp_path / "events")
    assert tables.columns == ("user", "item", "ts")
    assert len(tables.files) == 2
