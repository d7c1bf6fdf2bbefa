"""The README's lines for adding an asset lead to one: it takes a row of the registry and files of its own.

A trial asset is built in a run, its artifact is stored, loaded and shown.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import cleanroom_pipelines
from cleanroom_pipelines.runs.kinds import ASSETS
from cleanroom_pipelines_tests import worlds
from cleanroom_pipelines_tests.worlds import World

PACKAGE = Path(cleanroom_pipelines.__file__).parent


_ROW = '    "dataset_declaration": AssetRow(Kind.TRAINING_DATASET, "1", "declaration_page.dataset_declaration"),\n'
_FILES = {
    "runs/building_declarations.py": '''"""What was declared about each dataset."""

from cleanroom_pipelines.catalog import TrainingDataset
from cleanroom_pipelines.runs.artifact_documents import write_documents
from cleanroom_pipelines.runs.building import AssetResult, builds, built
from cleanroom_pipelines.runs.work import Work


@builds(TrainingDataset, "dataset_declaration")
def build_dataset_declaration(work: Work[TrainingDataset]) -> AssetResult:
    """Store the declared columns."""
    documents = {"declaration": {"columns": dict(work.record.columns)}}
    with work.drafting("dataset_declaration", (), documents) as draft:
        write_documents(draft.path, documents)
    return built(work, "dataset_declaration", "Stored the declaration.", documents)
''',
    "defs/assets/declaration.py": '''"""Declarations."""

import dagster as dg

from cleanroom_pipelines.defs.declaring import PUBLISHER, asset
from cleanroom_pipelines.defs.materializing import Results, materialize
from cleanroom_pipelines.defs.resources import InstallationResource
from cleanroom_pipelines.runs.building_declarations import build_dataset_declaration


@asset("lookalike", PUBLISHER, {"python"})
def dataset_declaration(context: dg.AssetExecutionContext, installation: InstallationResource) -> Results:
    """The declared columns of a dataset."""
    yield from materialize(context, installation.open(), build_dataset_declaration)
''',
    "defs/declaration_page.py": '''"""The page of a declaration."""

from collections.abc import Mapping
from typing import Any

from cleanroom_pipelines.catalog import Resource


def dataset_declaration(record: Resource, documents: Mapping[str, Any]) -> dict[str, Any]:
    """What was declared."""
    return {"columns": len(documents["declaration"]["columns"])}
''',
}
_PROBE = """
import json
import sys
from pathlib import Path
import dagster as dg
from cleanroom_pipelines.catalog import Kind
from cleanroom_pipelines.definitions import defs
from cleanroom_pipelines.runs.artifact_documents import read_verified
from cleanroom_pipelines.runs.kinds import ASSETS
from cleanroom_pipelines_tests import worlds
from cleanroom_pipelines_tests.worlds import World
from cleanroom_pipelines_tests import worlds
from cleanroom_pipelines_tests.shell.graph import graph
from cleanroom_pipelines_tests.shell.test_adding_an_asset import pages
job = defs().get_repository_def().get_job("validate_training_dataset")
of_job = sorted(key.to_user_string() for key in job.asset_layer.selected_asset_keys)
with worlds.installed(Path("home")) as installation, dg.DagsterInstance.ephemeral() as instance:
    worlds.apply(installation, Path(sys.argv[1]))
    n_runs = worlds.run_first(installation, instance, 1)
    version = worlds.newest(installation, Kind.TRAINING_DATASET)
    _, stored = read_verified(installation.store, version.artifact("dataset_declaration"))
    (shown,) = worlds.materializations(instance, "dataset_declaration")
print(json.dumps({
    "assets": list(ASSETS), "pages": pages(), "graph": graph(), "of_job": of_job, "n_runs": n_runs,
    "status": version.status, "built": sorted(version.artifacts), "stored": stored,
    "shown": shown.metadata["columns"].value,
}))
"""


def pages() -> list[str]:
    """Names of the pages that the registry names and that are there."""
    from importlib import import_module

    places = [row.page.rsplit(".", 1) for row in ASSETS.values()]
    found = [getattr(import_module(f"cleanroom_pipelines.defs.{module}"), name) for module, name in places]
    return [page.__name__ for page in found]


def test_every_asset_has_a_page() -> None:
    assert pages() == list(ASSETS)


def test_asset_needs_one_row_and_its_own_files(world: World, tmp_path: Path) -> None:
    package = tmp_path / PACKAGE.name
    shutil.copytree(PACKAGE, package, ignore=shutil.ignore_patterns("__pycache__"))
    registry = package / "runs" / "kinds.py"
    text = registry.read_text()
    closing = next(line for line in text.splitlines(keepends=True) if line.startswith('    "training_dataset":'))
    registry.write_text(text.replace(closing, _ROW + closing))
    for name, content in _FILES.items():
        (package / name).write_text(content)
    path = os.pathsep.join([str(tmp_path), str(PACKAGE.parent)])
    probe = subprocess.run(
        [sys.executable, "-c", _PROBE, str(world.declaration)],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": path, "CLEANROOM_HOME": str(tmp_path / "home")},
        capture_output=True,
        text=True,
        check=True,
    )
    found = json.loads(probe.stdout.splitlines()[-1])
    assert found["assets"] == found["pages"] == ["dataset_declaration", *ASSETS]
    declared, dataset = (found["graph"]["assets"][name] for name in found["of_job"])
    assert found["of_job"] == ["dataset_declaration", "training_dataset"]
    assert (declared["description"], declared["code_version"]) == ("The declared columns of a dataset.", "1")
    assert declared["partitions"] == dataset["partitions"]

    assert (found["n_runs"], found["status"]) == (1, "ACTIVE"), "one run builds both"
    assert found["built"] == found["of_job"]
    assert found["stored"] == {"declaration": {"columns": worlds.ROLES}}
    assert found["shown"] == len(worlds.ROLES)
