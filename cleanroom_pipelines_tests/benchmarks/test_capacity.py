"""Contract: the capacity table extrapolates linearly from two measured sizes, and shows the lines."""

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from cleanroom_pipelines.benchmarks.capacity import Line, costs_of, table
from cleanroom_pipelines.cli.main import cleanroom
from cleanroom_pipelines.errors import UsageError

STEPS = ("train", "generate from 100 seed users", "export all users", "match", "combine five lists")


def measured(**changes: Any) -> dict[str, Any]:
    """A result in which training takes 1 CPU s + 2 s per million interactions, on Spark ten times that."""

    def row(n_users: int) -> dict[str, Any]:
        millions = n_users * 20 / 1e6
        of_spark = {"shuffle_bytes": 600 * n_users, "python_bytes": 2e9, "task_bytes": 67_000_000}
        steps = [
            {
                "step": f"{engine}: {step}",
                "cpu_seconds": factor * (1 + 2 * millions),
                "peak_bytes": 1e9,
                "spill_bytes": 10 * n_users,
                "model_bytes": 60 * n_users,
                "ranking_bytes": 15 * n_users,
                "list_bytes": 7 * n_users,
                "export_bytes": 30 * n_users,
            }
            | (of_spark if engine == "spark" else {})
            for engine, factor in (("duckdb", 1), ("spark", 10))
            for step in STEPS
        ]
        steps.append({"step": "implicit ALS, 64 factors, 15 rounds", "seconds": 1.0})
        return {"n_users": n_users, "n_interactions": n_users * 20, "steps": steps}

    return {"sizes": [row(100_000), row(1_000_000)]} | changes


def test_lines_go_through_the_measured_points() -> None:
    costs = costs_of(measured())
    names = [step.split()[0] for step in STEPS]
    assert list(costs) == [f"{engine}: {name}" for engine in ("duckdb", "spark") for name in names]
    training = costs["spark: train"].cpu_seconds
    assert (training.fixed, training.slope * 1e6) == (pytest.approx(10), pytest.approx(20))
    assert training.at(20e9) == pytest.approx(10 + 20 * 20_000)
    assert costs["spark: train"].shuffle_bytes.at(20e9) == pytest.approx(600e9)
    assert costs["duckdb: train"].peak_bytes == Line(1e9, 0.0)
    assert costs["spark: train"].peak_bytes is None
    assert (costs["spark: train"].python_bytes, costs["spark: train"].task_bytes) == (2e9, 67_000_000)
    per_user = {"generate": 15, "export": 30, "match": 7, "combine": 7}
    for name, n_bytes in per_user.items():
        assert costs[f"duckdb: {name}"].kept_bytes.slope == pytest.approx(n_bytes)


def test_the_table_divides_by_cores_and_shows_task_memory() -> None:
    text = table(measured(), sizes=(1_000_000_000,), cores=10, cluster_cores=100)
    assert "| duckdb: train | million interactions | 1 + 2 s | 1000 + 0 MB |" in text
    assert "| spark: train | million interactions | 10 + 20 s | 2.0 GB Python, 67 MB a task in Java |" in text
    assert "| 1,000,000,000 | duckdb: train | 67 min | 1.0 GB | 10.0 GB | 0 MB | 60.0 GB |" in text
    assert "| 1,000,000,000 | spark: train | 67 min | not measured | 10.0 GB | 600.0 GB | 60.0 GB |" in text


@pytest.mark.parametrize("sizes", [[], [measured()["sizes"][0]], [measured()["sizes"][0]] * 2])
def test_one_size_is_not_enough(sizes: list[dict[str, Any]]) -> None:
    with pytest.raises(UsageError):
        costs_of({"sizes": sizes})


def test_the_command_reads_the_file_of_the_benchmark(tmp_path: Path) -> None:
    file = tmp_path / "scale.json"
    file.write_text(json.dumps(measured()))
    told = CliRunner().invoke(cleanroom, ["benchmark", "capacity", str(file)])
    assert told.output.strip() == table(measured())
    file.write_text("no JSON")
    refused = CliRunner().invoke(cleanroom, ["benchmark", "capacity", str(file)])
    assert isinstance(refused.exception, UsageError)
