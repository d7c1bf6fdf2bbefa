"""A model of a source, to compare with the model of the same rows in a local file."""

import shutil
from collections.abc import Mapping
from pathlib import Path

from cleanroom_pipelines.similarity.specs import InteractionsSchema, TrainingTables
from cleanroom_pipelines.similarity.training import train
from cleanroom_pipelines.uploads.checks import INTERACTIONS
from cleanroom_pipelines.uploads.sources import Connection, Sources
from cleanroom_pipelines_tests import worlds

DAYS = 3
SCHEMA = ",".join(f"{name}={role}" for name, role in worlds.ROLES.items())


def model_of(
    source: Path | str, folder: Path, connections: Mapping[str, Connection] | None = None, *, cached: bool = False
) -> dict[str, bytes]:
    """Train on a source, and return the files of the model.

    Args:
        source: What is opened.
        folder: Existing folder for the copies and the model; a second call fetches only what has changed.
        connections: Databases by name.
        cached: Keep a day cache in the folder.
    """
    out, cache = folder / "model", folder / "cache"
    out.mkdir()
    cache.mkdir(exist_ok=True)
    with Sources(folder, connections or {}).opening(str(source), INTERACTIONS, folder=folder / "copies") as path:
        tables = TrainingTables(path, InteractionsSchema.parse(SCHEMA))
        train(tables, out, day_cache=cache if cached else None)
    files = {str(file.relative_to(out)): file.read_bytes() for file in out.rglob("*") if file.is_file()}
    shutil.rmtree(out)
    return files


def write_days(folder: Path) -> list[Path]:
    """Write the rows of the small world as one parquet file per day, and return the files."""
    folder.mkdir(parents=True)
    rows = worlds.events()
    return [worlds.write_events(folder / f"{day}.parquet", rows[day::DAYS]) for day in range(DAYS)]
