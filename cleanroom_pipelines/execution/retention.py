"""Deleting what nothing needs any more.

Lives here: which artifact versions were superseded, and which drafts and seeds a killed process left behind.
Add here when something else may be left behind.
Keep out: deleting resources (catalogue).
"""

import shutil
from collections.abc import Iterator
from contextlib import suppress
from datetime import datetime, timedelta
from pathlib import Path

from cleanroom_pipelines.catalog import CustomAudience, GenerationJob, Kind, Resource, Status, Version
from cleanroom_pipelines.catalog.records import OPEN
from cleanroom_pipelines.errors import ConflictError, NotFoundError
from cleanroom_pipelines.execution.installation import Installation
from cleanroom_pipelines.storage import ArtifactReference
from cleanroom_pipelines.storage.artifacts import is_leftover
from cleanroom_pipelines.storage.layout import path_of_partition

# Whoever writes a draft ends within a day, or was killed.
_LEFTOVER_AFTER = timedelta(days=1)


def delete_superseded(installation: Installation, now: datetime | None = None) -> int:
    """Delete artifacts that were superseded longer ago than the retention time, and what killed processes left.

    Kept are the current and the newest version of every resource, whatever a current version was made from, and
    everything while any work is under way (its run may be reading).

    Args:
        installation: Where.
        now: UTC; the installation's clock if not given.

    Returns:
        How many artifact versions were deleted.
    """
    from cleanroom_pipelines.execution.making import ASSETS_OF

    catalog, store = installation.catalog, installation.store
    at = now or installation.clock()
    # The store is listed before the catalogue is read: what is published in between is then not in the list.
    listed = [
        ArtifactReference(asset, resource_id, version)
        for kind in Kind
        for resource_id in catalog.ids(kind)
        for asset in ASSETS_OF[kind]
        for version in store.versions(asset, resource_id)
    ]
    resources = [record for kind in Kind for record in catalog.iterate(kind)]
    versions = {record.id: catalog.versions(record.kind, record.id) for record in resources}
    if any(version.status in OPEN for family in versions.values() for version in family):
        return 0
    kept = set(_kept(resources, versions, at - timedelta(days=installation.settings.retention_days)))
    superseded = [reference for reference in listed if reference not in kept and reference.partition in versions]
    for reference in superseded:
        store.delete(reference)
    if superseded:
        some = sorted({reference.partition for reference in superseded})[:8]
        entry = {"way": "worker", "operation": "delete_superseded", "resource": some, "outcome": "ok"}
        installation.audit.write(entry)
    _delete_leftovers(installation, resources, at)
    return len(superseded)


def _kept(
    resources: list[Resource], versions: dict[str, tuple[Version, ...]], deadline: datetime
) -> Iterator[ArtifactReference]:
    needed = {
        (parent.id, parent.version)
        for record in resources
        for version in versions[record.id]
        if version.number == record.current_version
        for parent in version.parents
    }
    for record in resources:
        for version in versions[record.id]:
            superseded_at = _superseded_at(version, versions[record.id])
            is_recent = superseded_at is None or superseded_at > deadline
            if is_recent or (record.id, version.number) in needed:
                for asset, artifact in version.artifacts.items():
                    yield ArtifactReference(asset, record.id, artifact)


def _superseded_at(version: Version, family: tuple[Version, ...]) -> datetime | None:
    """When a later version took its place: one that is ACTIVE too, or any when it failed itself."""
    later = (
        other.finished_at
        for other in family
        if other.number > version.number and (other.status is Status.ACTIVE or version.status is not Status.ACTIVE)
    )
    return next(later, None)


def _delete_leftovers(installation: Installation, resources: list[Resource], at: datetime) -> None:
    home, oldest = installation.home, (at - _LEFTOVER_AFTER).timestamp()
    drafts = (
        path
        for root in (home.artifacts, home.accounts, home.inbox, home.seeds, home.uploads)
        for path in root.rglob(".*")
        if is_leftover(path.name)
    )
    wanted = {
        record.seed_location.partition("/")[0]
        for record in resources
        if isinstance(record, GenerationJob) and record.seed_location
    }
    slots = (path for path in home.seeds.iterdir() if path.name not in wanted)
    datasets = {path_of_partition(record.id) for record in resources if record.kind is Kind.TRAINING_DATASET}
    caches = (path for path in home.day_caches.glob("*") if path.name not in datasets)
    # drafts that were sized; what was delivered of a hidden audience stays, since later lists are held against it
    for record in resources:
        if not isinstance(record, CustomAudience) or not record.hidden or record.created_at > at - _LEFTOVER_AFTER:
            continue
        if not installation.catalog.list(Kind.AUDIENCE_LIST, parent_id=record.id, limit=1).items:
            with suppress(NotFoundError, ConflictError):
                installation.catalog.request_delete_audiences([record.id])
    # a file that was brought and that no lab or room names after a day, or whose upload broke off
    wanted_uploads = installation.catalog.uploads_in_use()
    for location in installation.uploads.locations() - wanted_uploads:
        if _is_older(home.uploads / location, oldest):
            installation.uploads.delete(location)
            installation.catalog.forget_upload(location)
    for path in [*drafts, *slots, *caches, *home.scratch.iterdir()]:
        if _is_older(path, oldest):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)


def _is_older(path: Path, oldest: float) -> bool:
    try:
        return path.lstat().st_mtime < oldest
    except FileNotFoundError:
        return False
