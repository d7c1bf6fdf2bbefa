"""Contract: the load test reports the truth about the endpoint.

A real server answers every call of several clients correctly, and loses and duplicates nothing, in a short run
that is not timed. The final check detects what is lost, surplus or different, and a wrong response.
"""

import json
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from cleanroom_pipelines.benchmarks import load
from cleanroom_pipelines.benchmarks.load import FLOOR, LoadPlan, run_load, table
from cleanroom_pipelines.catalog import Catalog, Kind
from cleanroom_pipelines.cli.benchmarks import benchmark


def test_eight_clients_get_correct_responses_and_lose_nothing() -> None:
    plan = LoadPlan(n_clients=8, seconds=1, n_accounts=3, pace_per_second=24)
    result = run_load(plan)
    assert result["problems"] == []
    calls = result["calls"]
    n_timed = sum(row["n"] for name, row in calls.items() if name != "all")
    assert n_timed == calls["all"]["n"] + calls[FLOOR]["n"]
    assert 8 * 23 <= n_timed <= 8 * 25, "each client keeps its schedule, however late responses are"
    assert result["n_resources"] > 20
    assert len(calls) > 12, "the mix has most of the operations"
    assert all(row["p50"] <= row["p95"] <= row["p99"] <= row["max"] for row in calls.values())
    assert "0 problems" in table(result)


def spoil_and_check(
    catalog: Catalog, accounts: Sequence[load.LoadAccount], clients: Sequence[load.LoadClient], url: str
) -> list[str]:
    """Change the state without the clients: one more dataset, one fewer, and changed tags."""
    datasets = [thing for client in clients for thing in client.things if thing.kind is Kind.TRAINING_DATASET]
    childless = next(thing for thing in datasets if not thing.n_children and thing.status == "ACTIVE")
    tagged = next(thing for thing in datasets if thing is not childless and thing.status == "ACTIVE")
    catalog.deletion.request_delete(Kind.TRAINING_DATASET, childless.arn.rpartition("/")[2])
    catalog.resources.set_tags(Kind.TRAINING_DATASET, tagged.arn.rpartition("/")[2], {"somebody": "else"})
    connection = load.LoadConnection(url, accounts[0])
    connection.call("CreateTrainingDataset", {"name": "surplus", **load.dataset_parameters(accounts[0])})
    connection.close()
    return load.check(catalog, accounts, clients, url)


def test_lost_unexpected_and_different_resources_are_detected(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(load, "run_load", partial(run_load, check_all=spoil_and_check))
    told = tmp_path / "told.json"
    arguments = ["api", "--clients", "4", "--accounts", "2", "--seconds", "1", "--pace", "24", "--json", str(told)]
    ended = CliRunner().invoke(benchmark, arguments)
    assert ended.exit_code == 1
    assert sorted(json.loads(told.read_text())["problems"]) == [
        "lost: one of TrainingDatasets with status ACTIVE",
        "the tags of a training dataset differ from what was expected",
        "unexpected: one of TrainingDatasets with status ACTIVE",
    ]


class Wrong(load.LoadConnection):
    """A server whose responses are all wrong."""

    def call(self, name: str, parameters: Mapping[str, Any]) -> load.Answer:
        return load.Answer(500, "InternalServiceException", {})

    def touch(self) -> load.Answer:
        return load.Answer(500, "", {})


def test_a_wrong_response_is_a_problem() -> None:
    accounts = [load.LoadAccount(f"00000000000{number}", "AKIA", "secret") for number in (1, 2)]
    client = load.LoadClient(0, accounts, 0, partial(Wrong, "http://127.0.0.1:1"))
    client.run(time.monotonic(), seconds=0.2, pace_per_second=100)
    calls = [problem for problem in client.problems if "the health check" not in problem]
    assert len(client.problems) >= 19
    assert len(calls) >= 10
    assert [each for each in calls if "returned 500 InternalServiceException instead of" not in each] == []
    assert client.things == []


def test_the_percentiles_are_at_the_nearest_rank() -> None:
    row = load.percentiles([number / 1000 for number in range(1, 101)])
    assert row == pytest.approx({"n": 100, "p50": 50, "p95": 95, "p99": 99, "max": 100})
    assert load.percentiles([0.25])["p99"] == pytest.approx(250)


def test_an_invalid_load_is_rejected() -> None:
    ended = CliRunner().invoke(benchmark, ["api", "--accounts", "1"])
    assert "2 to 1000 accounts" in str(ended.exception)
