"""Rebuilding what Dagster's UI shows from the catalogue, after Dagster's storage was lost or a backup restored.

Lives here: what Dagster's storage lacks of the current versions, and running the job that puts it there.
Add here when Dagster shows something more of a version that the catalogue and the artifacts hold.
Keep out: how an asset is shown (defs.pages) and partitions (supervision.py).

A storage that was compared with the catalogue once carries a mark of the installation. One without it is new, lost
or restored: each current version whose materialisation it lacks gets one, outside of any run, so that deleting a
run takes nothing of it along. Runs, logs and older versions do not come back.
"""

import logging
from collections.abc import Callable, Iterator
from importlib import import_module

import dagster as dg

from cleanroom_pipelines.catalog import Kind
from cleanroom_pipelines.errors import CleanroomError
from cleanroom_pipelines.runs.building import AssetResult, read_stored
from cleanroom_pipelines.runs.installation import Installation
from cleanroom_pipelines.runs.kinds import ASSETS_OF
from cleanroom_pipelines.storage import ArtifactReference

_LOG = logging.getLogger(__name__)
_PAGES = "cleanroom_pipelines.defs.pages"


def has_history(installation: Installation, instance: dg.DagsterInstance) -> bool:
    """Whether Dagster's storage was compared with the catalogue, or lacks nothing of it; cheap once it was."""
    mark = _mark(installation)
    storage = instance.daemon_cursor_storage
    if instance.is_ephemeral or storage.get_cursor_values({mark}).get(mark):
        return True
    n_missing = sum(1 for _ in _missing(installation, instance))
    if n_missing:
        _LOG.warning(
            "Dagster's storage lacks %d materialisations that the catalogue knows; they are rebuilt.", n_missing
        )
        return False
    storage.set_cursor_values({mark: "compared"})
    return True


def rebuild_history(
    installation: Installation, instance: dg.DagsterInstance, should_stop: Callable[[], bool] = lambda: False
) -> int:
    """Report a materialisation of every current version that Dagster's storage lacks.

    Cut off it may be called again. A version whose artifact cannot be read is left out.

    Args:
        installation: Where.
        instance: Dagster's instance of this home.
        should_stop: Asked before each; nothing more is reported then.

    Returns:
        How many were reported.
    """
    # Loaded by its name, as the rest of the shell: what runs the assets is below them.
    metadata_of = import_module(_PAGES).metadata_of
    n_reported = 0
    for reference in _missing(installation, instance):
        if should_stop():
            return n_reported
        try:
            manifest, documents = read_stored(installation, reference)
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
    """The artifacts of current versions of which Dagster has no materialisation."""
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
