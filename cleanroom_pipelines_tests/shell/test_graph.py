"""Changes of Dagster's graph are visible in a snapshot.

Contract: `graph.json` contains every asset, check, job, sensor and schedule that Dagster loads. Everything runs
without a click; every asset states in one line what it is and who owns it.
"""

import json
from pathlib import Path

import pytest

from cleanroom_pipelines.defs.jobs import GenerationJobForm
from cleanroom_pipelines.runs.kinds import ASSETS

from . import graph as snapshot

SNAPSHOT = Path(__file__).with_name("graph.json")
GRAPH = snapshot.graph()


def test_graph_equals_the_snapshot() -> None:
    wanted = json.loads(SNAPSHOT.read_text())
    assert wanted == GRAPH, (
        "If this change is meant: python -m cleanroom_pipelines_tests.shell.graph > "
        "cleanroom_pipelines_tests/shell/graph.json"
    )


def test_snapshot_has_the_commands_format() -> None:
    assert SNAPSHOT.read_text() == snapshot.as_text()


START_PAGE = "clean_room"
"""It has neither partitions nor artifacts."""


@pytest.mark.parametrize("name", sorted(GRAPH["assets"].keys() - {START_PAGE}))
def test_every_asset_has_a_description(name: str) -> None:
    asset = GRAPH["assets"][name]
    assert asset["description"].endswith(".")
    for field in ("group", "owners", "kinds", "partitions", "code_version"):
        assert asset[field], field
    assert asset["automation"] is None, "what follows from what is the catalogue's"


def test_code_versions_match_the_artifacts() -> None:
    assert {name: asset["code_version"] for name, asset in GRAPH["assets"].items() if name != START_PAGE} == {
        name: row.code_version for name, row in ASSETS.items()
    }


@pytest.mark.parametrize("what", ["sensors", "schedules"])
def test_sensors_and_schedules_are_on_by_default(what: str) -> None:
    assert GRAPH[what]
    for part in GRAPH[what].values():
        assert part["status"] == "RUNNING"
        assert part["description"]


def test_run_uses_one_process() -> None:
    assert {job["executor"] for job in GRAPH["jobs"].values()} == {"in_process"}


def test_audience_is_not_built_from_a_failed_seed() -> None:
    assert GRAPH["checks"]["seed_validation_report.seed_is_usable"]["blocking"]
    assert not GRAPH["checks"]["audience.recall_beats_chance"]["blocking"], "a weak audience is a warning"


def test_the_launchpad_describes_every_field_of_the_form() -> None:
    fields = GenerationJobForm.to_config_schema().as_field().config_type.fields  # type: ignore[attr-defined]
    assert fields
    assert [name for name, field in fields.items() if not field.description] == []
