"""The bare commands rank as Dagster does, byte for byte.

Contract: issue "Done means", `contracts/similarity.md` "Cost bar". The same input gives the same ranks through
`train` and `generate` as through the assets, twice the same, with one thread and with two, from one file and from
several in another order; only `ranked.parquet`, `metrics.json` and `explanation.json` come out.
"""

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from cleanroom_pipelines.audiences.sizes import SeedMode
from cleanroom_pipelines.catalog import Kind
from cleanroom_pipelines.execution.installation import Installation
from cleanroom_pipelines.execution.making import newest_artifact
from cleanroom_pipelines.execution.running import run_pending
from cleanroom_pipelines.similarity.rankings import write_ranked
from cleanroom_pipelines.storage import ArtifactReference

from .. import worlds
from .commands import Commands

SCHEMA = ",".join(f"{name}={role}" for name, role in worlds.ROLES.items())
OUTPUT = {"ranked.parquet", "metrics.json", "explanation.json"}


def train(command: Commands, interactions: Path | str, out: Path, threads: int = 1) -> None:
    ended = command(
        "train", "--interactions", interactions, "--schema", SCHEMA, "--out", out, "--threads", str(threads)
    )
    assert ended.code == 0, ended.err
    assert ended.out.startswith(
        f"Learnt {worlds.N_USERS} users and {worlds.N_ITEMS} items from 8,000 interactions"
    )


def generate(command: Commands, model: Path, seed: Path, out: Path, *more: str) -> Path:
    ended = command(
        "generate", "--model", model, "--seed", seed, "--out", out, "--sizes", "5%,10%,20%",
        "--min-matching-seed-size", "25", *more,
    )  # fmt: skip
    assert ended.code == 0, ended.err
    assert {path.name for path in out.iterdir()} == OUTPUT
    return out


@pytest.fixture
def bare(command: Commands, world: worlds.World, tmp_path: Path) -> Path:
    """A model and an audience, made by the commands with one thread."""
    train(command, world.interactions, tmp_path / "model")
    generate(command, tmp_path / "model", world.seed, tmp_path / "audience", "--threads", "1")
    return tmp_path


def documents_of(audience: Path) -> tuple[dict[str, object], dict[str, object]]:
    metrics = json.loads((audience / "metrics.json").read_text())
    return {name: metrics[name] for name in metrics if name != "timing"}, json.loads(
        (audience / "explanation.json").read_text()
    )


def test_the_shape_of_what_comes_out(bare: Path, world: worlds.World) -> None:
    ranked = pq.read_table(bare / "audience" / "ranked.parquet")
    assert [(field.name, str(field.type)) for field in ranked.schema] == [
        ("user_id", "string"),
        ("rank", "int64"),
        ("score", "double"),
    ]
    rows = ranked.to_pylist()
    assert [row["rank"] for row in rows] == list(range(1, worlds.N_USERS - worlds.N_SEED + 1))
    assert all(0 <= row["score"] <= 1 for row in rows)
    assert not {row["user_id"] for row in rows} & set(world.seed_users)
    metrics, _ = documents_of(bare / "audience")
    assert metrics["match"]["n_matched"] == worlds.N_SEED  # type: ignore[index]


def test_twice_and_with_two_threads_it_is_the_same(
    command: Commands, bare: Path, world: worlds.World, tmp_path: Path
) -> None:
    train(command, world.interactions, tmp_path / "model 2", threads=2)
    again = generate(command, tmp_path / "model 2", world.seed, tmp_path / "audience 2", "--threads", "2")
    assert (again / "ranked.parquet").read_bytes() == (bare / "audience" / "ranked.parquet").read_bytes()
    assert documents_of(again) == documents_of(bare / "audience")


def test_file_splits_formats_and_row_order_change_nothing(
    command: Commands, bare: Path, world: worlds.World, tmp_path: Path
) -> None:
    rows = sorted(worlds.events(), key=lambda row: (row[1], row[2], row[0]))
    (tmp_path / "parts").mkdir()
    for number in range(3):
        worlds.write_events(tmp_path / "parts" / f"{2 - number}.parquet", rows[number::3])
    train(command, str(tmp_path / "parts" / "*.parquet"), tmp_path / "model 3")
    seed = worlds.write_seed(tmp_path / "s.csv", tuple(reversed(world.seed_users)))
    again = generate(command, tmp_path / "model 3", seed, tmp_path / "audience 3")
    assert (again / "ranked.parquet").read_bytes() == (bare / "audience" / "ranked.parquet").read_bytes()


def test_dagster_ranks_the_same(
    bare: Path, world: worlds.World, installation: Installation, tmp_path: Path
) -> None:
    worlds.apply(installation, world.declaration)
    with worlds.dagster_at(tmp_path / "dagster") as instance:
        assert run_pending(installation, instance) == 5
    job = worlds.the(installation, Kind.GENERATION_JOB)
    manifest, documents = newest_artifact(installation, Kind.GENERATION_JOB, job.id, "audience")
    with installation.store.opening(ArtifactReference("audience", job.id, manifest.version)) as folder:
        write_ranked(
            ranking=folder / "ranking.parquet", out=tmp_path / "ranked.parquet", seed_mode=SeedMode.EXCLUDED
        )
    assert (tmp_path / "ranked.parquet").read_bytes() == (bare / "audience" / "ranked.parquet").read_bytes()
    metrics, explanation = documents_of(bare / "audience")
    assert {name: documents["metrics"][name] for name in metrics} == metrics
    assert documents["explanation"] == explanation


@pytest.mark.parametrize("mode", ["first", "in_place"])
def test_seed_modes(command: Commands, bare: Path, world: worlds.World, tmp_path: Path, mode: str) -> None:
    out = generate(command, bare / "model", world.seed, tmp_path / mode, "--seed-mode", mode)
    rows = pq.read_table(out / "ranked.parquet").to_pylist()
    assert len(rows) == worlds.N_USERS
    first = [row["user_id"] for row in rows[: worlds.N_SEED]]
    if mode == "first":
        assert set(first) == set(world.seed_users)
        assert all(row["score"] is None for row in rows[: worlds.N_SEED])
    else:
        assert all(row["score"] is not None for row in rows)
        assert set(first) != set(world.seed_users)


def test_json_is_for_scripts(command: Commands, bare: Path, world: worlds.World, tmp_path: Path) -> None:
    ended = command(
        "generate", "--model", bare / "model", "--seed", world.seed, "--out", tmp_path / "j",
        "--min-matching-seed-size", "25", "--json",
    )  # fmt: skip
    metrics = json.loads(ended.out)
    assert metrics["recall_at"]["size"] == "20%"
    assert [row["size"] for row in metrics["sizes"]] == ["1%", "5%", "10%", "20%"]
