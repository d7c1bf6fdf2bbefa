"""Rebuilding Dagster's materialisations from the catalogue, after Dagster's storage was lost or restored.

Lives here: finding materialisations of current versions that Dagster's storage lacks, and reporting them.
Add here when Dagster shows more about a version that is stored in the catalogue or its artifacts.
Keep out: asset metadata (defs.pages) and partitions (supervision.py).

After a comparison with the catalogue, Dagster's storage carries a mark of the installation. Storage without the
mark is new, lost or restored. Each current version without a materialisation then gets one, outside of any run, so
that deleting a run does not delete it. Runs, logs and older versions are not restored.
"""

import logging
from collections.abc import Callable, Iterator
from importlib import import_module

import dagster as dg

from cleanroom_pipelines.catalog import Kind
from cleanroom_pipelines.errors import CleanroomError
from cleanroom_pipelines.runs.artifact_documents import read_stored
from cleanroom_pipelines.runs.building import AssetResult
from cleanroom_pipelines.runs.installation import Installation
from cleanroom_pipelines.runs.kinds import ASSETS_OF
from cleanroom_pipelines.storage import ArtifactReference

_LOG = logging.getLogger(__name__)
_PAGES = "cleanroom_pipelines.defs.pages"


def has_history(installation: Installation, instance: dg.DagsterInstance) -> bool:
    """Whether Dagster's storage contains all materialisations; once it does, later calls skip the comparison."""
    mark = _mark(installation)
    storage = instance.daemon_cursor_storage
    if instance.is_ephemeral or storage.get_cursor_values({mark}).get(mark):
        return True
    n_missing = sum(1 for _ in _missing(installation, instance))
    if n_missing:
        _LOG.warning(
            "Dagster's storage lacks %d materialisations of catalogued versions. Rebuilding them.", n_missing
        )
        return False
    storage.set_cursor_values({mark: "compared"})
    return True


def rebuild_history(
    installation: Installation, instance: dg.DagsterInstance, should_stop: Callable[[], bool] = lambda: False
) -> int:
    """Record in Dagster the materialisations of current versions that its storage lacks.

    Can be repeated after an interruption. Versions whose artifacts cannot be read are skipped.

    Args:
        installation: The installation to work on.
        instance: Dagster's instance of this home.
        should_stop: Checked before each materialisation; when true, reporting stops.

    Returns:
        Number of materialisations reported.
    """
    # Imported by name: this layer is below the assets and must not import them.
    metadata_of = import_module(_PAGES).metadata_of
    n_reported = 0
    for reference in _missing(installation, instance):
        if should_stop():
            return n_reported
        try:
            manifest, documents = read_stored(installation.store, reference)
            made = AssetResult(
                reference.asset, reference.partition, "Rebuilt from the catalogue.", manifest, documents
            )
            metadata = metadata_of(installation, made)
        except (CleanroomError, ValueError, KeyError) as error:
            _LOG.warning("A materialisation could not be rebuilt (%s).", type(error).__name__)
            continue
        instance.report_runless_asset_event(
            dg.AssetMaterialization(
                asset_key=reference.asset,
                partition=reference.partition,
                metadata=metadata,
                tags={
                    "dagster/data_version": manifest.data_version,
                    "dagster/code_version": manifest.code_version,
                },
            )
        )
        n_reported += 1
    instance.daemon_cursor_storage.set_cursor_values({_mark(installation): "rebuilt"})
    return n_reported


def _missing(installation: Installation, instance: dg.DagsterInstance) -> Iterator[ArtifactReference]:
    """Return the artifacts of current versions that have no materialisation in Dagster."""
    catalog = installation.catalog
    for kind in Kind:
        current = {
            record.id: catalog.resources.version(kind, record.id, record.current_version)
            for record in catalog.resources.iterate(kind)
            if record.current_version is not None
        }
        if not current:
            continue
        for asset in ASSETS_OF[kind]:
            there = instance.get_materialized_partitions(dg.AssetKey(asset))
            for partition, version in current.items():
                if asset in version.artifacts and partition not in there:
                    yield version.artifact(asset)


def _mark(installation: Installation) -> str:
    return f"cleanroom/history/{installation.opened.identity.id}"
