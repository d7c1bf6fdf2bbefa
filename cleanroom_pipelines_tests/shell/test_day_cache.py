"""Contract: a dataset with one file per day is counted once per file; the model is the same, byte for byte, and
housekeeping removes the counts of deleted datasets."""

import os
from pathlib import Path

from cleanroom_pipelines.catalog import Cause, Kind, TrainingDatasetSpec
from cleanroom_pipelines.runs.building_lookalike import build_audience_model, build_training_dataset
from cleanroom_pipelines.runs.retention import delete_superseded
from cleanroom_pipelines.runs.work import Run
from cleanroom_pipelines.storage import ArtifactReference
from cleanroom_pipelines_tests import worlds


def test_daily_files_are_counted_once(tmp_path: Path) -> None:
    days = tmp_path / "days"
    days.mkdir()
    rows = worlds.events()
    for day in range(3):
        worlds.write_events(days / f"{day}.parquet", rows[day::3])
    declaration = worlds.declare(tmp_path / "room.yaml", interactions=days, seed=None)
    made = {}
    with worlds.installed(tmp_path / "home") as installation:
        worlds.apply(installation, declaration)
        dataset = worlds.the(installation, Kind.TRAINING_DATASET)
        model = worlds.the(installation, Kind.AUDIENCE_MODEL)
        build_training_dataset(installation, dataset.id, Run("first", 1))
        for number in (1, 2):
            if number == 2:
                installation.catalog.work.request_version(Kind.AUDIENCE_MODEL, model.id, Cause.BY_HAND)
            manifest = build_audience_model(installation, model.id, Run(f"run {number}", number)).manifest
            assert manifest is not None
            made[number] = {file.name: file.sha256 for file in manifest.files if file.name != "training.json"}
            reference = ArtifactReference("audience_model", model.id, manifest.version)
            assert installation.store.verify(reference) == manifest
        (cache,) = installation.home.day_caches.iterdir()
        assert cache.name == dataset.id[-12:]
        counted = sorted(path.stat().st_mtime_ns for path in cache.rglob("*.parquet"))
        assert len(counted) == 3
        assert made[1] == made[2]

        deleted = installation.catalog.resources.create(
            TrainingDatasetSpec(name="deleted", source="x.csv", columns=dataset.columns)
        )
        installation.catalog.deletion.request_delete(deleted.kind, deleted.id)
        gone, unknown = (installation.home.day_caches / name for name in (deleted.id[-12:], "0123456789ab"))
        for folder in (gone, unknown):
            folder.mkdir()
        for folder in (gone, unknown, cache):
            os.utime(folder, (0, 0))
        delete_superseded(installation)
        assert not gone.exists(), "its dataset was deleted"
        assert unknown.exists(), "nothing says that its dataset was deleted"
        assert cache.exists()


def test_single_file_is_not_cached(tmp_path: Path) -> None:
    world = worlds.write_world(tmp_path / "files")
    with worlds.installed(tmp_path / "home") as installation:
        worlds.apply(installation, world.declaration)
        build_training_dataset(installation, worlds.the(installation, Kind.TRAINING_DATASET).id, Run("a", 1))
        build_audience_model(installation, worlds.the(installation, Kind.AUDIENCE_MODEL).id, Run("b", 1))
        assert not installation.home.day_caches.exists()
