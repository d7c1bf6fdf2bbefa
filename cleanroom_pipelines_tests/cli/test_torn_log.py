"""A damaged write-ahead log of the catalogue: truncated, changed, or lost, as by a kill on a failing disk.

Contract: a command either works, because the lost part had not been published, or exits with 2 and one sentence
that names `cleanroom recover`; after that every version is finished once and the export exists once, unchanged.
"""

import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path

import dagster as dg
import pytest

from cleanroom_pipelines.catalog import Kind
from cleanroom_pipelines.delivery.exports import verify_export
from cleanroom_pipelines.runs.running import run_pending

from .. import worlds
from ..worlds import World, WorldCache
from .commands import Commands

LOG = "catalog.db-wal"


def killed_home(trained: Path, world: World, folder: Path) -> None:
    """A home in which a job and its export were done, all of whose transactions are in the log alone."""
    shutil.copytree(trained / "home", folder / "work")
    catalog = folder / "work" / "catalog.db"
    with closing(sqlite3.connect(catalog)) as other, dg.DagsterInstance.ephemeral() as instance:
        other.execute("SELECT count(*) FROM versions").fetchone()  # whoever closes last would empty the log
        with worlds.installed(folder / "work") as installation, worlds.without_pictures():
            worlds.apply(installation, world.declaration)
            assert run_pending(installation, instance) == 2
        shutil.copytree(folder / "work", folder / "home", ignore=shutil.ignore_patterns("*-shm"))
        (folder / "home" / LOG).rename(folder / "log")  # a copy of it may be torn: that is what is wanted here
    shutil.rmtree(folder / "work")


def cut(share: float, log: Path) -> None:
    with log.open("r+b") as stream:
        stream.truncate(int(log.stat().st_size * share))


def flip(log: Path) -> None:
    content = bytearray(log.read_bytes())
    content[len(content) // 2] ^= 1
    log.write_bytes(content)


TEARS: dict[str, Callable[[Path], object]] = {
    "cut in its head": partial(cut, 0.0001),
    "cut after a third": partial(cut, 0.33),
    "cut after most": partial(cut, 0.9),
    "cut in its last page": partial(cut, 0.9999),
    "changed": flip,
    "lost": Path.unlink,
}


@pytest.fixture
def killed(world_cache: WorldCache, trained_folder: Path, world: World, tmp_path: Path) -> Path:
    """A copy of the killed home, with its log."""
    make = partial(killed_home, trained_folder, world)
    folder = world_cache.copy("killed with a log", make, tmp_path / "copy")
    (folder / "log").rename(folder / "home" / LOG)
    return folder


@pytest.mark.parametrize("tear", TEARS)
def test_torn_log_is_recovered(command: Commands, killed: Path, world: World, tear: str) -> None:
    home, log = killed / "home", killed / "home" / LOG
    assert log.stat().st_size > 100_000
    TEARS[tear](log)
    with worlds.installed(home):
        ended = command("status")
        if ended.code:
            assert ended.code == 2
            assert len(ended.err.splitlines()) == 1
            assert "cleanroom recover" in ended.err
            assert command("recover", "--yes").code == 0
        assert command("run").code == 0
    with worlds.installed(home) as installation:
        applied = list(installation.catalog.resources.iterate(Kind.GENERATION_JOB))
        if not applied:  # nothing of it was ever published
            worlds.apply(installation, world.declaration)
            assert command("run").code == 0
        ended_as = worlds.statuses(installation)
        assert {status for statuses in ended_as.values() for status in statuses} == {"ACTIVE"}
        (export,) = installation.catalog.resources.iterate(Kind.EXPORT_JOB)
        bucket = home / "accounts" / "000000000000" / "buckets" / "audiences" / "shop"
        (folder,) = bucket.iterdir()
        assert folder.name == export.id.rsplit("-", 1)[-1]
        assert verify_export(folder)["delivered"] == worlds.N_USERS // 5
