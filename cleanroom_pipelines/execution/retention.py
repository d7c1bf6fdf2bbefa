"""Deleting what was superseded.

Lives here: which artifact versions nothing needs any more.
Keep out: deleting resources (catalogue).
"""

from datetime import datetime, timedelta

from cleanroom_pipelines.catalog import Kind
from cleanroom_pipelines.catalog.records import OPEN
from cleanroom_pipelines.execution.installation import Installation
from cleanroom_pipelines.storage import ArtifactReference


def delete_superseded(installation: Installation, now: datetime | None = None) -> int:
    """Delete artifacts that were superseded longer ago than the retention time.

    Kept are the current version of every resource, whatever a current version was made from, and everything
    while any work is under way (its run may be reading).

    Returns:
        How many artifact versions were deleted.
    """
    from cleanroom_pipelines.execution.making import ASSETS_OF

    catalog, store = installation.catalog, installation.store
    resources = [record for kind in Kind for record in catalog.iterate(kind)]
    if any(version.status in OPEN for record in resources for version in catalog.versions(record.kind, record.id)):
        return 0
    deadline = (now or installation.clock()) - timedelta(days=installation.settings.retention_days)
    needed = set[tuple[Kind, str, int]]()
    for record in resources:
        if record.current_version is not None:
            needed.add((record.kind, record.id, record.current_version))
            current = catalog.version(record.kind, record.id, record.current_version)
            needed |= {(parent.kind, parent.id, parent.version) for parent in current.parents}
    n_deleted = 0
    for record in resources:
        for asset in ASSETS_OF[record.kind]:
            kept = {
                version.artifacts.get(asset)
                for version in catalog.versions(record.kind, record.id)
                if (record.kind, record.id, version.number) in needed
                or version.finished_at is None
                or version.finished_at > deadline
            }
            for artifact in store.versions(asset, record.id):
                if artifact not in kept:
                    store.delete(ArtifactReference(asset, record.id, artifact))
                    n_deleted += 1
    return n_deleted
