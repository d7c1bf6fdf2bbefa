"""The README's lines for adding an asset lead to one: it takes a row of the registry and files of its own."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import cleanroom_pipelines
from cleanroom_pipelines.runs.kinds import ASSETS

PACKAGE = Path(cleanroom_pipelines.__file__).parent


_ROW = '    "export_receipt": AssetRow(Kind.EXPORT_JOB, "1", "receipt_page.export_receipt"),\n'
_FILES = {
    "runs/building_receipts.py": '''"""A receipt for each export."""

from cleanroom_pipelines.runs.installation import Installation
from cleanroom_pipelines.runs.building import AssetResult
from cleanroom_pipelines.runs.work import Run


def make_receipt(installation: Installation, partition: str, run: Run) -> AssetResult:
    """Make nothing yet."""
    return AssetResult("export_receipt", partition, "Nothing to do.")
''',
    "defs/assets/receipt.py": '''"""Receipts."""

import dagster as dg

from cleanroom_pipelines.defs.declaring import PUBLISHER, asset
from cleanroom_pipelines.defs.materializing import Results, materialize
from cleanroom_pipelines.defs.resources import InstallationResource
from cleanroom_pipelines.runs.building_receipts import make_receipt


@asset("lookalike", PUBLISHER, {"python"}, deps=["audience_export"])
def export_receipt(context: dg.AssetExecutionContext, installation: InstallationResource) -> Results:
    """A receipt for an export."""
    yield from materialize(context, installation.open(), make_receipt)
''',
    "defs/receipt_page.py": '''"""The page of a receipt."""

from collections.abc import Mapping
from typing import Any

from cleanroom_pipelines.catalog import Resource


def export_receipt(record: Resource, documents: Mapping[str, Any]) -> dict[str, Any]:
    """What a receipt says."""
    return {"files": len(documents)}
''',
}
_PROBE = """
import json
from cleanroom_pipelines.runs.kinds import ASSETS, ASSETS_OF
from cleanroom_pipelines_tests.shell.graph import graph
from cleanroom_pipelines_tests.shell.test_adding_an_asset import pages
from cleanroom_pipelines.definitions import defs
job = defs().get_repository_def().get_job("export_audience")
made = sorted(key.to_user_string() for key in job.asset_layer.selected_asset_keys)
print(json.dumps({"made": made, "graph": graph(), "assets": list(ASSETS), "pages": pages()}))
"""


def pages() -> list[str]:
    """Names of the pages that the registry names and that are there."""
    from importlib import import_module

    places = [row.page.rsplit(".", 1) for row in ASSETS.values()]
    found = [getattr(import_module(f"cleanroom_pipelines.defs.{module}"), name) for module, name in places]
    return [page.__name__ for page in found]


def test_every_asset_has_a_page() -> None:
    assert pages() == list(ASSETS)


def test_asset_needs_one_row_and_its_own_files(tmp_path: Path) -> None:
    package = tmp_path / PACKAGE.name
    shutil.copytree(PACKAGE, package, ignore=shutil.ignore_patterns("__pycache__"))
    registry = package / "runs" / "kinds.py"
    text = registry.read_text()
    last = next(line for line in text.splitlines(keepends=True) if line.startswith(f'    "{list(ASSETS)[-1]}":'))
    registry.write_text(text.replace(last, last + _ROW))
    for name, content in _FILES.items():
        (package / name).write_text(content)
    path = os.pathsep.join([str(tmp_path), str(PACKAGE.parent)])
    probe = subprocess.run(
        [sys.executable, "-c", _PROBE],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": path, "CLEANROOM_HOME": str(tmp_path / "home")},
        capture_output=True,
        text=True,
        check=True,
    )
    found = json.loads(probe.stdout.splitlines()[-1])
    assert found["assets"] == found["pages"] == [*ASSETS, "export_receipt"]
    receipt = found["graph"]["assets"]["export_receipt"]
    assert receipt["description"] == "A receipt for an export."
    assert receipt["code_version"] == "1"
    beside = found["graph"]["assets"]["audience_export"]
    assert receipt["partitions"] == beside["partitions"]
    assert found["made"] == ["audience_export", "export_receipt"]
