"""Contract: a world is made once per test run, even if several tests ask for it at once; a copy is one's own."""

import sqlite3
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from .worlds import WorldCache


def test_of_several_that_ask_at_once_one_makes_it(tmp_path: Path) -> None:
    made: list[Path] = []

    def make(folder: Path) -> None:
        made.append(folder)
        (folder / "file").write_text("whole")

    def ask(_: int) -> str:
        return (WorldCache(tmp_path / "worlds").original("some", make) / "file").read_text()

    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(ask, range(8))) == {"whole"}
    assert len(made) == 1


def test_a_copy_is_changed_alone(tmp_path: Path) -> None:
    cache = WorldCache(tmp_path / "worlds")
    copy = cache.copy("some", lambda folder: (folder / "file").write_text("whole"), tmp_path / "copy")
    (copy / "file").write_text("mine")
    assert (cache.original("some", lambda _: 1 / 0) / "file").read_text() == "whole"


def test_what_failed_half_way_is_built_again(tmp_path: Path) -> None:
    cache = WorldCache(tmp_path / "worlds")

    def fail(folder: Path) -> None:
        (folder / "half").touch()
        raise RuntimeError

    with pytest.raises(RuntimeError):
        cache.original("some", fail)
    folder = cache.original("some", lambda folder: (folder / "whole").touch())
    assert [path.name for path in folder.iterdir()] == ["whole"]


def test_a_database_that_is_still_open_is_rejected(tmp_path: Path) -> None:
    connections = []

    def leave_open(folder: Path) -> None:
        connection = sqlite3.connect(folder / "some.db")
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("CREATE TABLE t (x)")
        connections.append(connection)

    with pytest.raises(AssertionError, match="left open"):
        WorldCache(tmp_path / "worlds").original("some", leave_open)
    connections.pop().close()
