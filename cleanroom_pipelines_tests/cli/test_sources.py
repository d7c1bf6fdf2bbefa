"""Contract: `train`, `generate` and `match` read remote sources with the same result as local
files, and leave no copy behind; `apply --dry-run` reports a misspelt column."""

from pathlib import Path

import pytest

from .. import worlds
from ..object_stores import ObjectStore
from .commands import Commands

SCHEMA = ",".join(f"{name}={role}" for name, role in worlds.ROLES.items())


def test_the_commands_read_a_store_as_local_files(
    store: ObjectStore, command: Commands, world: worlds.World, tmp_path: Path
) -> None:
    options = f"?endpoint_override={store.url.removeprefix('http://')}&scheme=http"
    users = "user,colour\n" + "".join(f"{worlds.user(n)},{'red' if n % 2 else 'blue'}\n" for n in range(100))
    (tmp_path / "users.csv").write_text(users)
    for key, file in (
        ("e.parquet", world.interactions),
        ("s.jsonl", world.seed),
        ("u.csv", tmp_path / "users.csv"),
    ):
        store.put("shop", key, file.read_bytes())
    found = {}
    for place, events, users_table, seed in (
        ("local", str(world.interactions), str(tmp_path / "users.csv"), str(world.seed)),
        ("remote", f"s3://shop/e.parquet{options}", f"s3://shop/u.csv{options}", f"s3://shop/s.jsonl{options}"),
    ):
        out = tmp_path / place
        out.mkdir()
        for arguments in (
            ("train", "--interactions", events, "--schema", SCHEMA, "--users", users_table, "--users-schema",
             "user=USER_ID,colour=CATEGORICAL_FEATURE", "--out", out / "model"),
            ("generate", "--model", out / "model", "--seed", seed, "--min-matching-seed-size", "25", "--out",
             out / "audience"),
            ("match", "--model", out / "model", "--seed", seed),
        ):  # fmt: skip
            ended = command(*arguments)
            assert ended.code == 0, ended.err
        assert sorted(path.name for path in out.iterdir()) == ["audience", "model"], "no copy is left"
        model = {path.name: path.read_bytes() for path in (out / "model").rglob("*.npy")}
        found[place] = (ended.out, (out / "audience" / "ranked.parquet").read_bytes(), model)
    assert found["local"] == found["remote"]


def test_a_missing_object_and_a_password_end_with_a_sentence(
    store: ObjectStore, command: Commands, tmp_path: Path
) -> None:
    options = f"?endpoint_override={store.url.removeprefix('http://')}&scheme=http"
    for source in (f"s3://shop/missing{options}", "postgresql://me:hunter2@host/db", "s3://me:hunter2@shop/a"):
        ended = command("train", "--interactions", source, "--schema", SCHEMA, "--out", tmp_path / "model")
        assert ended.code == 2
        assert "hunter2" not in ended.err
        assert "Traceback" not in ended.err
        assert len(ended.err.strip().splitlines()) == 1
    assert not (tmp_path / "model").exists()


def test_a_dry_run_suggests_the_right_column(
    command: Commands, world: worlds.World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CLEANROOM_HOME", str(tmp_path / "home"))
    columns = {"usr": "USER_ID", "item": "ITEM_ID"}
    declaration = worlds.declare(
        tmp_path / "cleanroom.yaml", interactions=world.interactions, seed=None, dataset={"columns": columns}
    )
    ended = command("apply", declaration, "--dry-run")
    assert ended.code == 2
    assert "lacks the declared column 'usr'. Did you mean 'user'?" in ended.err
