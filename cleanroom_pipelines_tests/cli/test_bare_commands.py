"""`train`, `generate` and `match` rank exactly as Dagster does, byte for byte.

Contract: the same input gives the same ranks through
`train` and `generate` as through the assets, in repeated runs, with one and two threads, and from one file or
several in another order; the output is only `ranked.parquet`, `metrics.json` and `explanation.json`.
"""

import json
from functools import partial
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from cleanroom_pipelines.audiences.sizes import SeedMode
from cleanroom_pipelines.catalog import Kind
from cleanroom_pipelines.cli.main import cleanroom
from cleanroom_pipelines.runs.artifact_documents import newest_artifact
from cleanroom_pipelines.similarity.model import Model
from cleanroom_pipelines.similarity.rankings import write_ranked
from cleanroom_pipelines.storage import ArtifactReference

from .. import worlds
from .commands import Commands

SCHEMA = ",".join(f"{name}={role}" for name, role in worlds.ROLES.items())
OUTPUT = {"ranked.parquet", "metrics.json", "explanation.json"}


def training(interactions: Path | str, out: Path, threads: int = 1) -> list[str]:
    return [
        "train", "--interactions", str(interactions), "--schema", SCHEMA, "--out", str(out),
        "--threads", str(threads),
    ]  # fmt: skip


def generating(model: Path, seed: Path, out: Path, *more: str) -> list[str]:
    return [
        "generate", "--model", str(model), "--seed", str(seed), "--out", str(out), "--sizes", "5%,10%,20%",
        "--min-matching-seed-size", "25", *more,
    ]  # fmt: skip


def train(command: Commands, interactions: Path | str, out: Path, threads: int = 1) -> None:
    ended = command(*training(interactions, out, threads))
    assert ended.code == 0, ended.err
    assert ended.out.startswith(
        f"Trained on 8,000 interactions of {worlds.N_USERS} users with {worlds.N_ITEMS} items in "
    )


def generate(command: Commands, model: Path, seed: Path, out: Path, *more: str) -> Path:
    ended = command(*generating(model, seed, out, *more))
    assert ended.code == 0, ended.err
    assert {path.name for path in out.iterdir()} == OUTPUT
    return out


def make_bare(world: worlds.World, folder: Path) -> None:
    """A model and an audience, made by the commands with one thread."""
    for arguments in (
        training(world.interactions, folder / "model"),
        generating(folder / "model", world.seed, folder / "audience", "--threads", "1"),
    ):
        ended = CliRunner().invoke(cleanroom, arguments)
        assert ended.exit_code == 0, ended.output


@pytest.fixture(scope="session")
def bare(world_cache: worlds.WorldCache, world: worlds.World) -> Path:
    """What `make_bare` made; read from it only."""
    return world_cache.original("bare commands", partial(make_bare, world))


def documents_of(audience: Path) -> tuple[dict[str, object], dict[str, object]]:
    metrics = json.loads((audience / "metrics.json").read_text())
    return {name: metrics[name] for name in metrics if name not in ("timing", "peak_bytes")}, json.loads(
        (audience / "explanation.json").read_text()
    )


def test_output_files_have_the_documented_schema(bare: Path, world: worlds.World) -> None:
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


def test_result_is_reproducible_with_any_number_of_threads(
    command: Commands, bare: Path, world: worlds.World, tmp_path: Path
) -> None:
    train(command, world.interactions, tmp_path / "model 2", threads=2)
    again = generate(command, tmp_path / "model 2", world.seed, tmp_path / "audience 2", "--threads", "2")
    assert (again / "ranked.parquet").read_bytes() == (bare / "audience" / "ranked.parquet").read_bytes()
    assert documents_of(again) == documents_of(bare / "audience")


def test_result_is_independent_of_file_splits_formats_and_row_order(
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


def test_a_seed_may_have_other_columns_than_its_ids(
    command: Commands, bare: Path, world: worlds.World, tmp_path: Path
) -> None:
    rows = "".join(f"berlin,{user}\n" for user in world.seed_users)
    (tmp_path / "seed.csv").write_text(f"city,user\n{rows}")
    assert Model(bare / "model").user_id_column == "user"
    counted = json.loads(
        command("match", "--model", bare / "model", "--seed", tmp_path / "seed.csv", "--json").out
    )
    assert counted["n_matched"] == worlds.N_SEED


def test_dagster_gives_the_same_ranking(bare: Path, finished_home: Path, tmp_path: Path) -> None:
    with worlds.installed(finished_home) as installation:
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


def test_seed_mode_first_puts_the_seed_first(
    command: Commands, bare: Path, world: worlds.World, tmp_path: Path
) -> None:
    out = generate(command, bare / "model", world.seed, tmp_path / "first", "--seed-mode", "first")
    rows = pq.read_table(out / "ranked.parquet").to_pylist()
    assert len(rows) == worlds.N_USERS
    assert {row["user_id"] for row in rows[: worlds.N_SEED]} == set(world.seed_users)
    assert all(row["score"] is None for row in rows[: worlds.N_SEED])


def test_seed_mode_in_place_ranks_the_seed_and_json_is_printed(
    command: Commands, bare: Path, world: worlds.World, tmp_path: Path
) -> None:
    ended = command(
        "generate", "--model", bare / "model", "--seed", world.seed, "--out", tmp_path / "j",
        "--min-matching-seed-size", "25", "--seed-mode", "in_place", "--json",
    )  # fmt: skip
    metrics = json.loads(ended.out)
    assert metrics["recall_at"]["size"] == "20%"
    assert [row["size"] for row in metrics["sizes"]] == ["1%", "5%", "10%", "20%"]
    rows = pq.read_table(tmp_path / "j" / "ranked.parquet").to_pylist()
    assert len(rows) == worlds.N_USERS
    assert all(row["score"] is not None for row in rows)
    assert {row["user_id"] for row in rows[: worlds.N_SEED]} != set(world.seed_users)


def test_seed_without_any_match_gets_numbers_and_the_likely_cause(
    command: Commands, bare: Path, world: worlds.World, tmp_path: Path
) -> None:
    seed = tmp_path / "seed.csv"
    seed.write_text("\n".join(["user_id", *(user.upper() for user in world.seed_users)]))
    why = (
        f"None of the {worlds.N_SEED} seed users are known to the model. They would match without regard to letter"
    )
    ended = command("match", "--model", bare / "model", "--seed", seed)
    assert ended.out.startswith(f"0 of {worlds.N_SEED} seed users are known")
    assert why in ended.err
    ended = command("generate", "--model", bare / "model", "--seed", seed, "--out", tmp_path / "out")
    assert ended.code == 2
    assert why in ended.err
    assert not any(user in ended.err for user in seed.read_text().split())
