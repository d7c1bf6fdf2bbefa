"""Damaged model folders are rejected.

Contract: if one byte of any file of a model was flipped, or a file
is missing, commands that open the model fail with one sentence and write nothing. The check reads each file once.
A model without digests, from an earlier release, works with a warning.
"""

import json
import shutil
from collections import Counter
from pathlib import Path
from unittest import mock

import pytest

from cleanroom_pipelines.errors import ArtifactError
from cleanroom_pipelines.similarity.model import DIGESTS_FILE, check_digests, write_digests

from .. import worlds
from .commands import Commands

SCHEMA = ",".join(f"{name}={role}" for name, role in worlds.ROLES.items())


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[worlds.World, Path]:
    """A world and a model of it."""
    from cleanroom_pipelines.cli.bare import train_model

    folder = tmp_path_factory.mktemp("trained")
    world = worlds.write_world(folder / "world")
    train_model(
        interactions=str(world.interactions),
        users=None,
        schema=SCHEMA,
        users_schema=None,
        out=folder / "model",
        start=None,
        end=None,
        memory="512MB",
        threads=1,
        engine=None,
        max_invalid="5%",
        day_cache=None,
        progress=lambda *_: None,
    )
    return world, folder / "model"


@pytest.fixture
def world(trained: tuple[worlds.World, Path]) -> worlds.World:
    return trained[0]


@pytest.fixture
def model(trained: tuple[worlds.World, Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained[1], tmp_path / "model"))


def files_of(model: Path) -> list[Path]:
    return sorted(path for path in model.rglob("*") if path.is_file())


def flip_byte(path: Path, place: float) -> None:
    content = bytearray(path.read_bytes())
    content[min(int(place * len(content)), len(content) - 1)] ^= 1
    path.write_bytes(content)


def ask(command: Commands, name: str, model: Path, world: worlds.World, out: Path) -> object:
    more = ["--out", out, "--min-matching-seed-size", "25", "--threads", "1"] if name == "generate" else []
    return command(name, "--model", model, "--seed", world.seed, *more)


@pytest.mark.parametrize("name", ["generate", "match"])
def test_intact_model_is_used_without_a_warning(
    command: Commands, model: Path, world: worlds.World, tmp_path: Path, name: str
) -> None:
    ended = ask(command, name, model, world, tmp_path / "out")
    assert (ended.code, ended.err) == (0, "")


@pytest.mark.parametrize("name", ["generate", "match"])
def test_damaged_model_is_rejected_with_one_sentence(
    command: Commands, model: Path, world: worlds.World, tmp_path: Path, name: str
) -> None:
    flip_byte(model / "similarities.npy", 0.9)
    ended = ask(command, name, model, world, tmp_path / "out")
    assert ended.code == 2
    assert "The audience model is damaged: similarities.npy was altered" in ended.err
    assert len(ended.err.strip().splitlines()) == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("place", [0.0, 0.5, 1.0])
def test_changed_byte_in_any_file_is_detected(model: Path, place: float) -> None:
    assert check_digests(model)
    for path in files_of(model):
        before = path.read_bytes()
        flip_byte(path, place)
        with pytest.raises(ArtifactError, match="damaged"):
            check_digests(model)
        path.write_bytes(before)
    assert check_digests(model)


def test_missing_file_is_detected(model: Path) -> None:
    for path in files_of(model):
        if path.name != DIGESTS_FILE:
            before = path.read_bytes()
            path.unlink()
            with pytest.raises(ArtifactError, match="missing"):
                check_digests(model)
            path.write_bytes(before)


@pytest.mark.parametrize(
    "content", [b"", b"{}", b"[]", b"null", b'{"model.json": 1}', b"{", b"[" * 10_000, b"\xff"]
)
def test_invalid_digests_count_as_damage(model: Path, content: bytes) -> None:
    (model / DIGESTS_FILE).write_bytes(content)
    with pytest.raises(ArtifactError, match="damaged"):
        check_digests(model)


@pytest.mark.parametrize("name", ["generate", "match"])
def test_model_without_digests_is_used_with_a_warning(
    command: Commands, model: Path, world: worlds.World, tmp_path: Path, name: str
) -> None:
    (model / DIGESTS_FILE).unlink()
    ended = ask(command, name, model, world, tmp_path / "out")
    assert ended.code == 0
    assert ended.err.count("\n") == 1
    assert "trained without digests of its files" in ended.err
    write_digests(model)
    assert check_digests(model)


def test_check_reads_each_file_once(model: Path) -> None:
    opened, open_ = Counter[Path](), Path.open

    def counted(path: Path, *arguments: object, **options: object) -> object:
        opened[path] += 1
        return open_(path, *arguments, **options)

    with mock.patch.object(Path, "open", counted):
        check_digests(model)
    assert set(opened.values()) == {1}
    assert len(opened) == len(files_of(model))


def test_digests_are_reproducible(model: Path) -> None:
    before = (model / DIGESTS_FILE).read_bytes()
    (model / DIGESTS_FILE).unlink()
    write_digests(model)
    assert (model / DIGESTS_FILE).read_bytes() == before
    assert set(json.loads(before)) == {
        path.relative_to(model).as_posix() for path in files_of(model) if path.name != DIGESTS_FILE
    }
