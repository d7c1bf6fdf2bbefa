"""A lost Dagster storage is rebuilt from the catalogue, and so is the UI of a restored backup.

Contract: where the folder of Dagster is removed, or a backup is restored into a new home, the next worker or tick
warns and reports a materialisation of every current version, with the page of its asset. Nothing in the home is
deleted for it. What Dagster has is reported once, and a deletion takes what was rebuilt along.
"""

import logging
import shutil
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest

from cleanroom_pipelines.catalog import Kind
from cleanroom_pipelines.runs.backups import back_up, restore
from cleanroom_pipelines.runs.deleting import delete_pending
from cleanroom_pipelines.runs.kinds import ASSETS_OF, KINDS
from cleanroom_pipelines.runs.rebuilding import has_history, rebuild_history
from cleanroom_pipelines.runs.running import run_pending

from .. import homes, worlds
from ..worlds import World
from .conftest import Shell, opened, repository
from .ticks import tick

Shown = dict[tuple[str, str], tuple[set[str], str | None]]
# what only the run that built an artifact can measure
_OF_THE_RUN = {"seconds", "peak memory of this process"}


def shown(shell: Shell) -> Shown:
    """By asset and partition, the newest materialisation: the names of its metadata and its data version."""
    found: Shown = {}
    for kind in worlds.ROAD:
        for asset in ASSETS_OF[kind]:
            for partition in shell.instance.get_materialized_partitions(dg.AssetKey(asset)):
                newest = worlds.materializations(shell.instance, asset, partition)[-1]
                found[asset, partition] = (
                    set(newest.metadata) - _OF_THE_RUN,
                    newest.tags.get("dagster/data_version"),
                )
    return found


@pytest.fixture
def lost(world: World, finished_folder: Path, tmp_path: Path) -> Iterator[Shell]:
    """A copy of the finished clean room whose Dagster storage is gone."""
    shutil.copytree(finished_folder / "home", tmp_path / "room" / "home")
    with opened(world, tmp_path / "room") as shell:
        yield shell


def test_worker_rebuilds_the_ui_history(finished: Shell, lost: Shell, caplog: pytest.LogCaptureFixture) -> None:
    before = homes.listing(lost.installation.home.root)
    assert shown(lost) == {}
    with caplog.at_level(logging.WARNING):
        assert run_pending(lost.installation, lost.instance) == 0
    assert "lacks 6 materialisations" in caplog.text
    assert len(shown(lost)) == 6
    assert shown(lost) == shown(finished)
    for kind in worlds.ROAD:
        assert set(lost.instance.get_dynamic_partitions(KINDS[kind].partition_set)) == set(
            lost.installation.catalog.resources.ids(kind)
        )
    assert homes.listing(lost.installation.home.root) == before


def test_history_is_rebuilt_once(lost: Shell) -> None:
    assert rebuild_history(lost.installation, lost.instance) == 6
    assert has_history(lost.installation, lost.instance)
    assert rebuild_history(lost.installation, lost.instance) == 0
    assert len(worlds.materializations(lost.instance, "audience")) == 1


def test_sensor_requests_a_rebuild_run(finished: Shell, lost: Shell) -> None:
    (request,) = tick(lost, "pending_work").run_requests
    assert request.job_name == "rebuild_materializations"
    result = repository().get_job(request.job_name).execute_in_process(instance=lost.instance)
    assert result.success
    assert shown(lost) == shown(finished)
    assert tick(lost, "pending_work").run_requests == []
    lost.instance.delete_run(result.run_id)
    assert shown(lost) == shown(finished), "what was rebuilt belongs to no run"


def test_complete_installation_needs_no_rebuild(again: Shell) -> None:
    before = shown(again)
    assert has_history(again.installation, again.instance)
    run_pending(again.installation, again.instance)
    assert shown(again) == before
    assert len(worlds.materializations(again.instance, "audience")) == 1


def test_restored_backup_gets_its_ui_history_back(
    finished: Shell, world: World, tmp_path: Path, finished_folder: Path
) -> None:
    back_up(finished.installation, tmp_path / "backup.tar")
    restore(tmp_path / "backup.tar", tmp_path / "new" / "home")
    wanted = shown(finished)
    with opened(world, tmp_path / "new") as restored:
        run_pending(restored.installation, restored.instance)
        assert shown(restored) == wanted


def test_rebuilt_history_is_deleted_with_its_resource(lost: Shell) -> None:
    rebuild_history(lost.installation, lost.instance)
    tick(lost, "pending_work")
    (job,) = lost.installation.catalog.resources.ids(Kind.GENERATION_JOB)
    lost.installation.catalog.deletion.request_delete(Kind.GENERATION_JOB, job)
    assert delete_pending(lost.installation, lost.instance) == 1
    assert lost.instance.get_materialized_partitions(dg.AssetKey("audience")) == set()


def test_unreadable_artifact_does_not_block_the_others(lost: Shell) -> None:
    (manifest,) = (lost.installation.home.artifacts / "audience").rglob("manifest.json")
    manifest.write_text("{")
    assert rebuild_history(lost.installation, lost.instance) == 5
    assert manifest.read_text() == "{"
