"""Deleting superseded artifacts and leftovers of killed processes.

Lives here: finding superseded artifact versions, and drafts and seeds that killed processes left behind.
Add here when processes can leave something else behind.
Keep out: deleting resources (catalogue).

Of stored data, only what the catalogue lists as superseded or deleted is removed; drafts are recognised by name.
"""

import shutil
from collections.abc import Iterable, Iterator
from contextlib import suppress
from datetime import datetime, timedelta
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

from cleanroom_pipelines.catalog import (
    SEED,
    UPLOAD,
    CustomAudience,
    GenerationJob,
    Kind,
    Resource,
    Status,
    Version,
    hex_of,
)
from cleanroom_pipelines.errors import ConflictError, NotFoundError
from cleanroom_pipelines.runs.drops import kept_files
from cleanroom_pipelines.runs.inbox import is_accepted_drop
from cleanroom_pipelines.runs.installation import Installation
from cleanroom_pipelines.runs.kinds import ASSETS_OF
from cleanroom_pipelines.storage import ArtifactReference, Home
from cleanroom_pipelines.storage.artifacts import is_leftover
from cleanroom_pipelines.storage.multipart import MultipartUploads
from cleanroom_pipelines.storage.processes import clean_up_dead_processes, is_process_folder

if TYPE_CHECKING:
    import dagster as dg

# A process that writes a draft finishes within a day, or was killed.
_LEFTOVER_AFTER = timedelta(days=1)
# Its modification time is the time of the last full cleanup.
_DONE, _EVERY = ".cleaned", timedelta(days=1)


def housekeeping(installation: Installation, instance: "dg.DagsterInstance") -> None:
    """Clean up after dead processes now; once a day, also delete superseded artifacts and other leftovers.

    Every working process calls this, so installations without Dagster's schedules are cleaned too. If several
    processes call it at once, one does the work.
    """
    from cleanroom_pipelines.runs.deleting import clean_up_deleted

    root = installation.home.scratch_root
    clean_up_dead_processes(root)
    done = root / _DONE
    if _is_older(done, (installation.clock() - _EVERY).timestamp()) or not done.exists():
        done.touch()
        delete_superseded(installation)
        clean_up_deleted(installation, instance)


def delete_superseded(installation: Installation, now: datetime | None = None) -> int:
    """Delete artifacts that were superseded longer ago than the retention time, and leftovers of killed processes.

    It keeps the current and the newest version of every resource, the inputs of current versions, and versions
    that were current when unfinished work began (its run may be reading them).

    Args:
        installation: The installation to clean up.
        now: UTC; the installation's clock if not given.

    Returns:
        Number of deleted artifact versions.
    """
    from cleanroom_pipelines.runs.building_rooms import delete_unused_room_data

    installation.check()
    clean_up_dead_processes(installation.home.scratch_root)
    catalog, store = installation.catalog, installation.store
    at = now or installation.clock()
    # List the store before reading the catalogue, so the list excludes versions published in between.
    listed = [
        ArtifactReference(asset, resource_id, version)
        for kind in Kind
        for resource_id in catalog.resources.ids(kind)
        for asset in ASSETS_OF[kind]
        for version in store.versions(asset, resource_id)
    ]
    resources = [record for kind in Kind for record in catalog.resources.iterate(kind)]
    versions = {record.id: catalog.resources.versions(record.kind, record.id) for record in resources}
    begun = [
        version.started_at
        for family in versions.values()
        for version in family
        if version.status is Status.CREATE_IN_PROGRESS and version.started_at
    ]
    deadline = min((at - timedelta(days=installation.settings.retention_days), *begun))
    kept = set(_kept(resources, versions, deadline))
    kinds = {record.id: record.kind for record in resources}
    superseded = [
        reference
        for reference in listed
        if reference not in kept
        and reference.partition in versions
        and _is_decided(int(reference.version.partition("-")[0]), versions[reference.partition])
    ]
    for partition, references in groupby(superseded, key=lambda reference: reference.partition):
        of_one = list(references)
        catalog.deletion.delete_artifacts(kinds[partition], hex_of(partition), [each.version for each in of_one])
        for reference in of_one:
            store.delete(reference)
    if superseded:
        some = sorted({reference.partition for reference in superseded})[:8]
        entry = {"way": "worker", "operation": "delete_superseded", "resource": some, "outcome": "ok"}
        installation.audit.write(entry)
    for record in resources:
        newest = max(versions[record.id], key=lambda version: version.number, default=None)
        if record.kind is Kind.DATA_ROOM and newest is not None and newest.status is Status.ACTIVE:
            delete_unused_room_data(installation, newest)
    _delete_leftovers(installation, resources, at, is_quiet=not begun)
    MultipartUploads(installation.home, lambda: at).delete_old()
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
                yield from map(version.artifact, version.artifacts)


def _is_decided(number: int, family: tuple[Version, ...]) -> bool:
    """Whether a version's artifacts are final: it is ACTIVE or superseded. Other versions may be retried."""
    version = next((each for each in family if each.number == number), None)
    if version is None:
        return False
    return version.status is Status.ACTIVE or _superseded_at(version, family) is not None


def _superseded_at(version: Version, family: tuple[Version, ...]) -> datetime | None:
    """Return when a version was superseded: by a later ACTIVE version or, if it failed, by any later one."""
    later = (
        other.finished_at
        for other in family
        if other.number > version.number and (other.status is Status.ACTIVE or version.status is not Status.ACTIVE)
    )
    return next(later, None)


def _delete_leftovers(
    installation: Installation, resources: list[Resource], at: datetime, *, is_quiet: bool
) -> None:
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
    slots = [path for path in home.seeds.iterdir() if path.name not in wanted and not is_accepted_drop(path)]
    slots = _with_tombstone(installation, SEED, slots)
    caches = _with_tombstone(installation, Kind.TRAINING_DATASET, home.day_caches.glob("*"))
    # sized drafts; delivered lists of a hidden audience stay, because later lists are compared with them
    for record in resources:
        if not isinstance(record, CustomAudience) or not record.hidden or record.created_at > at - _LEFTOVER_AFTER:
            continue
        if not installation.catalog.resources.list(Kind.AUDIENCE_LIST, parent_id=record.id, limit=1).items:
            with suppress(NotFoundError, ConflictError):
                installation.catalog.rooms.request_delete_audiences([record.id])
    # uploads that no lab or room uses after a day, and interrupted uploads
    installation.catalog.deletion.abandon_uploads(at - _LEFTOVER_AFTER)
    files = (home.uploads / location for location in installation.uploads.locations())
    uploads = _with_tombstone(installation, UPLOAD, files)
    # old files in the folder of a live process may be in use while any work is unfinished
    unowned = [*drafts, *_in_scratch(home)] if is_quiet else []
    for path in [*slots, *uploads, *caches, *kept_files(home), *unowned]:
        if _is_older(path, oldest):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)


def _in_scratch(home: Home) -> Iterator[Path]:
    """Yield the entries of the scratch folder; for the folder of a process, yield its contents instead."""
    for path in home.scratch_root.iterdir():
        if path.name.startswith("."):
            continue
        yield from path.iterdir() if is_process_folder(path) else (path,)


def _with_tombstone(installation: Installation, kind: str, paths: Iterable[Path]) -> list[Path]:
    """Return those files and folders whose names are ids of deleted resources."""
    listed = list(paths)
    deleted = installation.catalog.deletion.deleted((path.name for path in listed), kind)
    return [path for path in listed if path.name in deleted]


def _is_older(path: Path, oldest: float) -> bool:
    try:
        return path.lstat().st_mtime < oldest
    except FileNotFoundError:
        return False
