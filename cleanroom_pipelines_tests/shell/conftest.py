"""A small clean room that Dagster has finished once, to look at or to copy and go on from.

The road from a table to an export takes seconds; tests that only read share one, tests that change something get a
copy of the folder in its place: a home knows nothing of where it lies. A new clean room keeps Dagster's history in
memory, where a run costs half.
"""

import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import dagster as dg
import pytest

from cleanroom_pipelines.definitions import defs
from cleanroom_pipelines.errors import CleanroomError
from cleanroom_pipelines.runs.installation import Installation
from cleanroom_pipelines.runs.running import run_pending
from cleanroom_pipelines.runs.work import Run

from .. import worlds
from ..databases import without_waiting_for_the_disk
from ..worlds import World


@dataclass(frozen=True)
class Shell:
    """A clean room with its installation and its Dagster instance.

    Attributes:
        world: The files it was made from.
        installation: Opened from the environment, as the assets open theirs.
        instance: Keeps its events in the folder, or in memory.
        folder: Holds `home`, and `dagster` if the instance keeps its events there.
    """

    world: World
    installation: Installation
    instance: dg.DagsterInstance
    folder: Path

    def run_pending(self) -> int:
        """Do all pending work through Dagster."""
        return run_pending(self.installation, self.instance)

    def materialize(self, *assets: str, partition: str) -> dg.ExecuteInProcessResult:
        """What "Materialize" in the UI does: Dagster's own job for the chosen assets and one partition."""
        job = repository().get_job("__ASSET_JOB")
        return job.get_subset(asset_selection={dg.AssetKey(asset) for asset in assets}).execute_in_process(
            partition_key=partition, instance=self.instance, raise_on_error=False
        )

    def make(self, asset: str, partition: str) -> None:
        """What an asset's body does for the version that waits, without a run of Dagster's; failures end it."""
        newest = self.installation.catalog.resources.newest_version(worlds.kind_of(asset), partition)
        with suppress(CleanroomError):
            worlds.make(self.installation, asset, partition, Run(f"made {partition}", newest.number))

    def partition(self, asset: str) -> str:
        """The partition key of the only resource behind an asset."""
        return worlds.the(self.installation, worlds.kind_of(asset)).id


@cache
def repository() -> dg.RepositoryDefinition:
    """What Dagster loads; loaded once."""
    return defs().get_repository_def()


@contextmanager
def opened(world: World, folder: Path, *, output: bool = False) -> Iterator[Shell]:
    """A clean room in a folder, with its history there; see `worlds.dagster_at`."""
    with (
        worlds.installed(folder / "home") as installation,
        worlds.dagster_at(folder / "dagster", one_file=True, output=output) as instance,
    ):
        yield Shell(world, installation, instance, folder)


@contextmanager
def opened_in_memory(world: World, folder: Path) -> Iterator[Shell]:
    """A new clean room whose history nobody reads from outside."""
    with worlds.installed(folder / "home") as installation, dg.DagsterInstance.ephemeral() as instance:
        worlds.with_catalog(installation.home)
        yield Shell(world, installation, instance, folder)


@pytest.fixture(scope="session", autouse=True)
def unsynced() -> Iterator[None]:
    """Wait for no disk: nothing of these tests must survive a power cut."""
    with without_waiting_for_the_disk():
        yield


@pytest.fixture(scope="module", autouse=True)
def without_pictures(request: pytest.FixtureRequest) -> Iterator[None]:
    """Draw nothing in tests that look at no picture."""
    draws = request.module.__name__.rpartition(".")[2] in ("test_assets", "test_no_leak")
    with nullcontext() if draws else worlds.without_pictures():
        yield


@pytest.fixture(scope="session")
def looked_at_folder(finished_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """This process's copy of the finished clean room; no test changes it."""
    return Path(shutil.copytree(finished_folder, tmp_path_factory.mktemp("looked-at") / "room"))


@pytest.fixture(scope="module")
def finished(world: World, looked_at_folder: Path) -> Iterator[Shell]:
    """The finished clean room, to look at only."""
    with opened(world, looked_at_folder) as shell:
        yield shell


@pytest.fixture
def again(world: World, finished_folder: Path, tmp_path: Path) -> Iterator[Shell]:
    """A copy of the finished clean room, to go on with."""
    shutil.copytree(finished_folder, tmp_path / "room")
    with opened(world, tmp_path / "room") as shell:
        yield shell


@pytest.fixture
def trained(world: World, trained_folder: Path, tmp_path: Path) -> Iterator[Shell]:
    """A copy of the clean room without any job, to go on with."""
    shutil.copytree(trained_folder, tmp_path / "room")
    with opened(world, tmp_path / "room") as shell:
        yield shell


@pytest.fixture
def new_shell(world: World, tmp_path: Path) -> Iterator[Callable[[str], Shell]]:
    """Opens an empty clean room in a folder of its own; the one opened last is what the environment names."""
    with ExitStack() as stack:
        yield lambda name: stack.enter_context(opened_in_memory(world, tmp_path / name))
