"""Deleting resources on request, and cleaning up leftovers of deleted resources.

Lives here: carrying out deletions, from the seed to Dagster's records, and finding data that no resource owns.
Add here when a resource stores data in another place.
Keep out: rules for what may be deleted (catalogue), superseded versions of existing resources (retention.py).

A model or job is deleted in steps: mark it in the catalogue; delete its seed, its artifacts and Dagster's records;
delete its row; last, delete its partition in Dagster. A training dataset or configured model is deleted from the
catalogue at once; its tombstone and its remaining partition in Dagster show what is left to delete. Every step is
repeatable, so the next process finishes the work of a killed one. Exported files stay at their destination: they
belong to the owner of the bucket, who may be using them.

Data is never deleted just because the catalogue does not know it. The resource must be marked for deletion or have
a tombstone.
"""

import logging
import re
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

import dagster as dg
from sqlalchemy.exc import DBAPIError

from cleanroom_pipelines.catalog import (
    DELETED_WITH,
    CatalogUnavailableError,
    DataLab,
    DataRoom,
    GenerationJob,
    Kind,
    Resource,
    Status,
    hex_of,
)
from cleanroom_pipelines.errors import ConflictError, NotFoundError
from cleanroom_pipelines.runs.drops import forget_folder
from cleanroom_pipelines.runs.inbox import forget_receipts
from cleanroom_pipelines.runs.inbox_folders import folders_to_delete, inbox_of
from cleanroom_pipelines.runs.installation import Installation
from cleanroom_pipelines.runs.kinds import ASSETS_OF, KINDS
from cleanroom_pipelines.runs.supervision import SECONDS_TO_APPEAR, fail_runs_that_never_appeared
from cleanroom_pipelines.runs.traces import (
    Comparison,
    has_active_run,
    hide_partition,
    partitions_with_traces,
    remove_traces,
    shown_partitions,
)
from cleanroom_pipelines.storage.layout import is_partition_key, path_of_asset, path_of_partition
from cleanroom_pipelines.storage.processes import locked_if_free
from cleanroom_pipelines.ways_in import REQUEST, acting_for

_LOG = logging.getLogger(__name__)
_LOCK = ".deleting.lock"
_ASK_AGAIN_SECONDS = 0.5
_SECONDS_TO_STOP = 120.0
_HEX = re.compile("[0-9a-f]{12}")
# A process that is building in a folder of the store has written to it within a day.
_UNKNOWN_AFTER = timedelta(days=1)
# Both are temporary: the deletion continues once the database responds again.
_PASSING = (CatalogUnavailableError, DBAPIError)


@dataclass(frozen=True)
class PendingDeletion:
    """A resource to delete, with the children that are deleted with it.

    Args:
        kind: Its kind.
        id: Its partition key.
        children: Partition keys of children deleted with it: a generation job's exports, an audience's deliveries.
        is_gone: Whether it is already deleted from the catalogue.
    """

    kind: Kind
    id: str
    children: tuple[str, ...] = ()
    is_gone: bool = False

    @property
    def parts(self) -> tuple[tuple[Kind, str], ...]:
        """The kinds and partition keys of the resource and of all children that are deleted with it."""
        return ((self.kind, self.id), *((DELETED_WITH[self.kind], child) for child in self.children))


def delete_pending(installation: Installation, instance: dg.DagsterInstance) -> int:
    """Carry out requested deletions, and clean up leftovers of deleted resources.

    Resources that a run still works on are skipped for now. Nothing is deleted while another process of this home
    is deleting. A deletion that fails becomes DELETE_FAILED with its reason, and is retried when requested again.

    Args:
        installation: The installation to work on.
        instance: Dagster's instance of this home.

    Returns:
        Number of deleted resources.
    """
    installation.check()
    with locked_if_free(installation.home.root / _LOCK) as is_free:
        if not is_free:
            return 0
        return sum(
            _clear(installation, instance, pending)
            if pending.is_gone
            else _carry_out(installation, instance, pending)
            for pending in find_pending_deletions(installation, instance)
        )


def delete_now(
    installation: Installation,
    instance: dg.DagsterInstance,
    records: Sequence[Resource],
    *,
    on_resource: Callable[[Resource], None] = lambda _: None,
) -> None:
    """Delete resources one by one on the operator's command, waiting for each deletion to finish.

    Args:
        installation: The installation to work on.
        instance: Dagster's instance of this home.
        records: Resources to delete, each after its dependants (`catalog.deletion.dependents`).
        on_resource: Called with the resource that is deleted next.

    Raises:
        ConflictError: A resource has dependants, its run did not stop in time, or its files could not be deleted.
    """
    for record in records:
        on_resource(record)
        try:
            with acting_for(REQUEST):  # audited below
                installation.catalog.deletion.request_delete(record.kind, record.id)
        except NotFoundError:
            continue  # another process deleted it first
        installation.audit.write({"way": "cli", "operation": "delete", "resource": record.id, "outcome": "ok"})
        began = time.monotonic()
        while True:
            delete_pending(installation, instance)
            try:
                left = installation.catalog.get(type(record), record.id)
            except NotFoundError:
                break
            if left.status is Status.DELETE_FAILED:
                raise ConflictError(
                    f"The {record.kind.words} {record.id} could not be deleted.", remedy=left.status_message or ""
                )
            if time.monotonic() - began > _SECONDS_TO_STOP:
                raise ConflictError(
                    f"A run is still working on the {record.kind.words} {record.id}.",
                    remedy="The run was asked to stop. Retry the deletion once it has stopped.",
                )
            time.sleep(_ASK_AGAIN_SECONDS)


def find_pending_deletions(
    installation: Installation, instance: dg.DagsterInstance
) -> tuple[PendingDeletion, ...]:
    """Find the resources that can be deleted now; fast enough for every tick of a sensor."""
    found = (*_requested(installation), *_deleted(installation, instance))
    created_since = installation.clock() - timedelta(seconds=SECONDS_TO_APPEAR)

    def is_busy(pending: PendingDeletion) -> bool:
        return has_active_run(instance, [partition for _, partition in pending.parts], created_since)

    if any(is_busy(pending) for pending in found):
        fail_runs_that_never_appeared(installation, instance)
    return tuple(pending for pending in found if not is_busy(pending))


def clean_up_deleted(installation: Installation, instance: dg.DagsterInstance, now: datetime | None = None) -> int:
    """Delete leftovers that appeared after their resource was deleted: artifacts, inbox folders, Dagster runs.

    A run queued during a deletion leaves records in Dagster; a killed run can leave an artifact. Both are found by
    the resource's tombstone. Data with neither a resource nor a tombstone stays and is counted in the log. Only
    artifacts in the home's own store are deleted: another installation may write to the same object store.

    Args:
        installation: The installation to work on.
        instance: Dagster's instance of this home.
        now: UTC; the installation's clock if not given.

    Returns:
        Number of deleted artifact partitions, inbox folders and partitions with Dagster records.
    """
    at = now or installation.clock()
    installation.check()
    with locked_if_free(installation.home.root / _LOCK) as is_free:
        if not is_free:
            return 0
        assets = [asset for of_kind in ASSETS_OF.values() for asset in of_kind]
        folders = _stored_folders(installation, assets)
        traced = partitions_with_traces(instance, assets)
        home = installation.home
        inboxes = [
            path for root in (home.inbox_seeds, home.inbox_rooms) for path in root.glob("*") if path.is_dir()
        ]
        named = {
            *(folder.name for folder in folders),
            *map(hex_of, traced),
            *(hex_of(each.name) for each in inboxes),
        }
        deleted = installation.catalog.deletion.deleted(named)
        _log_unknown_partitions(installation, named - deleted)
        left = [folder for folder in folders if folder.name in deleted and _is_older(folder, at)]
        for folder in left:
            shutil.rmtree(folder, ignore_errors=True)
        created_since = at - timedelta(seconds=SECONDS_TO_APPEAR)
        runs = [
            partition
            for partition in traced
            if is_partition_key(partition)
            and hex_of(partition) in deleted
            and not has_active_run(instance, [partition], created_since)
        ]
        for partition in runs:
            remove_traces(instance, assets, partition)
        n_inboxes = sum(
            forget_folder(installation, folder, older_than=at - _UNKNOWN_AFTER)
            for folder in inboxes
            if is_partition_key(folder.name) and hex_of(folder.name) in deleted
        )
        return len(left) + len(runs) + n_inboxes


def _requested(installation: Installation) -> Iterator[PendingDeletion]:
    for record in installation.catalog.deletion.deletions():
        children: Sequence[Resource] = ()
        if record.kind in DELETED_WITH:
            children = installation.catalog.resources.list(
                DELETED_WITH[record.kind], parent_id=record.id, limit=1000
            ).items
        yield PendingDeletion(record.kind, record.id, tuple(child.id for child in children))


def _deleted(installation: Installation, instance: dg.DagsterInstance) -> list[PendingDeletion]:
    """Return deleted resources whose partitions still exist in Dagster."""
    comparison = Comparison(installation, instance, "gone")
    if comparison.is_made:
        return []
    # Dagster first: every partition it knows had a row in the catalogue before.
    shown = {kind: shown_partitions(instance, kind) for kind in KINDS}
    known, gone = installation.catalog.resources.ids_by_kind(), []
    for kind in KINDS:
        unknown = shown[kind] - set(known[kind])
        if not unknown:
            continue
        deleted = installation.catalog.deletion.deleted(map(hex_of, unknown), kind)
        gone += [PendingDeletion(kind, key, is_gone=True) for key in sorted(unknown) if hex_of(key) in deleted]
    if not gone:
        comparison.note()
    return gone


def _log_unknown_partitions(installation: Installation, named: set[str]) -> None:
    """Log how many Dagster partitions belong to no known resource; the catalogue may have lost them."""
    known = {hex_of(partition) for kind in Kind for partition in installation.catalog.resources.ids(kind)}
    if n_strangers := len({name for name in named if _HEX.fullmatch(name)} - known):
        _LOG.warning(
            "%d partitions belong to no known resource. They were not deleted. See `cleanroom recover`.",
            n_strangers,
        )


def _carry_out(installation: Installation, instance: dg.DagsterInstance, pending: PendingDeletion) -> bool:
    catalog = installation.catalog
    try:
        going = catalog.deletion.begin_delete(pending.kind, pending.id)
    except (NotFoundError, ConflictError):
        return False  # already deleted, or a run has started on it
    asked = PendingDeletion(pending.kind, pending.id, tuple(record.id for record in going[1:]))
    try:
        for record in going:
            _delete_files(installation, record)
        _delete_parts(installation, instance, asked)
        catalog.deletion.finish_delete(pending.kind, pending.id)
    except ConflictError:
        return False  # another host marked the deletion as failed
    except _PASSING as error:
        _LOG.warning("A deletion was postponed (%s).", type(error).__name__)
        return False
    except Exception as error:
        message = (
            f"The resource's data could not be deleted ({type(error).__name__}). "
            "Check that the installation's stores are writable, then request the deletion again."
        )
        with suppress(NotFoundError, ConflictError):  # another host finished it in the meantime
            catalog.deletion.fail_delete(pending.kind, pending.id, message)
        return False
    for kind, partition in asked.parts:
        hide_partition(instance, kind, partition)
    return True


def _clear(installation: Installation, instance: dg.DagsterInstance, pending: PendingDeletion) -> bool:
    try:
        if is_partition_key(pending.id):
            _delete_leftovers(installation, pending)
            _delete_parts(installation, instance, pending)
        hide_partition(instance, pending.kind, pending.id)
    except Exception as error:
        # no caller waits for it; Dagster still knows the partition, so a later call retries
        _LOG.warning("The cleanup of a deleted resource was postponed (%s).", type(error).__name__)
        return False
    return True


def _delete_parts(installation: Installation, instance: dg.DagsterInstance, pending: PendingDeletion) -> None:
    for kind, partition in pending.parts:
        for asset in ASSETS_OF[kind]:
            installation.store.delete_partition(asset, partition)
        remove_traces(instance, ASSETS_OF[kind], partition)


def _delete_files(installation: Installation, record: Resource) -> None:
    """Delete a resource's files outside the artifact store: seeds, uploads, receipts and inbox folders."""
    if isinstance(record, GenerationJob):
        if record.seed_location:
            installation.vault.delete(record.seed_location)
            if installation.vault.folder_of(record.seed_location.partition("/")[0]).exists():
                raise OSError("a seed was not deleted")
        forget_receipts(installation, record)
    if isinstance(record, DataLab | DataRoom):
        # Files not ingested yet, except those that another lab or room also uses.
        held = record.datasets if isinstance(record, DataLab) else record.inputs
        for upload_id in {*held.values()} - installation.catalog.rooms.uploads_in_use(but_of=record.id):
            installation.uploads.delete(upload_id)
            installation.catalog.rooms.forget_upload(upload_id)
    if record.kind in (Kind.CONFIGURED_AUDIENCE_MODEL, Kind.DATA_ROOM):
        for folder in folders_to_delete(installation, record):
            forget_folder(installation, folder)


def _delete_leftovers(installation: Installation, pending: PendingDeletion) -> None:
    """Delete the day cache or inbox folder of a deleted resource."""
    if pending.kind is Kind.TRAINING_DATASET:
        shutil.rmtree(installation.home.day_caches / path_of_partition(pending.id), ignore_errors=True)
    if pending.kind in (Kind.CONFIGURED_AUDIENCE_MODEL, Kind.DATA_ROOM):
        forget_folder(installation, inbox_of(installation.home, pending.kind) / pending.id)


def _stored_folders(installation: Installation, assets: Sequence[str]) -> list[Path]:
    if installation.settings.artifacts_url:
        return []
    roots = (installation.home.artifacts / path_of_asset(asset) for asset in assets)
    return [folder for root in roots if root.is_dir() for folder in root.iterdir() if folder.is_dir()]


def _is_older(folder: Path, at: datetime) -> bool:
    with suppress(FileNotFoundError):
        return folder.stat().st_mtime < (at - _UNKNOWN_AFTER).timestamp()
    return False
