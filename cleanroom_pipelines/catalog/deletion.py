"""Deletion of resources, and tombstones: only files with a tombstone may be removed from the disk.

Lives here: the order in which resources may be deleted, and the steps of deleting those with artifacts; writing a
tombstone in the transaction that deletes a record or a version, and looking it up.
Add here when deleting a resource takes another step, or another kind of thing can be deleted.
Keep out: deleting artifacts and partitions; the shell does so between `begin_delete` and `finish_delete`. It
deletes only files with a tombstone, never files that the catalogue lacks.

A catalogue that was lost, replaced or restored may lack records of files in the home. So files are deleted only
because of a tombstone. It identifies a resource by the 12 hex digits of its partition key, which name its folder;
an artifact by these digits and its version; a seed by its slot; and an upload by its id. A seed or upload gets its
tombstone before it is stored, and loses it in the transaction that inserts its record. So a file left by a process
killed in between is known to have no owner.
"""

from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime

from sqlalchemy import delete, exists, select
from sqlalchemy.orm import Session

from cleanroom_pipelines.catalog.claims import cancel
from cleanroom_pipelines.catalog.database import Part, noted
from cleanroom_pipelines.catalog.identity import raise_generation
from cleanroom_pipelines.catalog.lifecycle import find_resource, lock_resource
from cleanroom_pipelines.catalog.names import Kind
from cleanroom_pipelines.catalog.records import DELETING, OPEN, Resource, Status
from cleanroom_pipelines.catalog.tables import (
    ROWS,
    DataLabRow,
    DataRoomRow,
    GenerationJobRow,
    InstallationRow,
    ResourceRow,
    RoomJobRow,
    TombstoneRow,
    UploadRow,
    VersionRow,
    kept_audience_model_id,
    resource_record,
)
from cleanroom_pipelines.errors import ConflictError, NotFoundError, UsageError

_AT_ONCE = (Kind.TRAINING_DATASET, Kind.CONFIGURED_AUDIENCE_MODEL)
# Children that are deleted with their parent, and never alone.
DELETED_WITH = {Kind.GENERATION_JOB: Kind.EXPORT_JOB, Kind.CUSTOM_AUDIENCE: Kind.AUDIENCE_LIST}


class Deletion(Part):
    """The part of the catalogue that deletes resources."""

    @noted
    def request_delete(
        self, kind: Kind, resource_id: str, account_id: str | None = None, region: str | None = None
    ) -> Resource:
        """Request the deletion of a resource.

        A training dataset or configured audience model is deleted when this returns. Any other resource becomes
        DELETE_PENDING and its work is cancelled, together with a job's exports or an audience's deliveries.

        Returns:
            The resource as it is now, or as it was before its deletion.

        Raises:
            NotFoundError: The resource does not exist.
            ConflictError: Another resource depends on it.
            UsageError: It is an export job or a delivery, which is deleted with its parent.
        """
        if kind in DELETED_WITH.values():
            parent = next(each for each, child in DELETED_WITH.items() if child is kind)
            raise UsageError(
                f"A resource of kind {kind.words} cannot be deleted alone.", remedy=f"Delete its {parent.words}."
            )
        with self._database.write() as session:
            row = lock_resource(session, ROWS[kind], resource_id, account_id, region)
            if row.status in {Status.DELETE_PENDING, Status.DELETE_IN_PROGRESS}:
                return resource_record(row)
            if kind not in DELETED_WITH:
                _reject_parent(session, row)
            if kind in _AT_ONCE:
                last = resource_record(row)
                _remove(session, (row,), self._database.now())
                return last
            mark_for_deletion(session, row, self._database.now())
            return resource_record(row)

    def dependents(self, kind: Kind, resource_id: str) -> tuple[Resource, ...]:
        """Return all resources that prevent the deletion of a resource, in an order in which they can be deleted.

        Args:
            kind: The resource's kind.
            resource_id: Its partition key.

        Returns:
            Its descendants, each after its own descendants; without those that are deleted with their parent.

        Raises:
            NotFoundError: The resource does not exist.
        """
        with self._database.read() as session:
            row = find_resource(session, ROWS[kind], resource_id)
            return tuple(resource_record(each) for each in _descendants(session, row))

    def deletions(self, limit: int = 100) -> tuple[Resource, ...]:
        """Return resources whose deletion was requested and on which no run works, oldest request first."""
        at_work = exists().where(
            VersionRow.status == Status.CREATE_IN_PROGRESS,
            VersionRow.resource_id == ResourceRow.id,
        )
        query = (
            select(ResourceRow)
            .where(ResourceRow.kind.not_in([*_AT_ONCE, *DELETED_WITH.values()]))
            .where(ResourceRow.status.in_([Status.DELETE_PENDING, Status.DELETE_IN_PROGRESS]), ~at_work)
            .order_by(ResourceRow.updated_at, ResourceRow.id)
            .limit(limit)
        )
        with self._database.read() as session:
            return tuple(resource_record(row) for row in session.scalars(query))

    def begin_delete(self, kind: Kind, resource_id: str) -> tuple[Resource, ...]:
        """Start, or restart, deleting a resource.

        Returns:
            The resource and the children deleted with it, whose artifacts and partitions must now be deleted.

        Raises:
            NotFoundError: The resource does not exist, or is already deleted.
            ConflictError: Its deletion was not requested, or a run is still working on it.
        """
        with self._database.write() as session:
            row = lock_resource(session, ROWS[kind], resource_id)
            deleted = (row, *_children(session, row))
            _require_delete_request(row)
            _reject_running(session, deleted)
            now = self._database.now()
            for each in deleted:
                each.status, each.updated_at = Status.DELETE_IN_PROGRESS, now
            session.flush()
            return tuple(resource_record(each) for each in deleted)

    def finish_delete(self, kind: Kind, resource_id: str) -> None:
        """Remove the records of a resource whose artifacts have been deleted; harmless if called again.

        Raises:
            ConflictError: Its deletion was not started.
        """
        with self._database.write() as session:
            try:
                row = lock_resource(session, ROWS[kind], resource_id)
            except NotFoundError:
                return
            if row.status is not Status.DELETE_IN_PROGRESS:
                raise ConflictError(
                    f"The deletion of the {kind.words} {resource_id} was not started.", remedy="Start it first."
                )
            # No run can have started since then: a resource that is being deleted cannot be claimed.
            children = _children(session, row)
            if kind is Kind.DATA_ROOM:
                session.execute(delete(RoomJobRow).where(RoomJobRow.data_room_id == row.id))
            _remove(session, (*children, row), self._database.now())

    def fail_delete(self, kind: Kind, resource_id: str, message: str) -> None:
        """Record that a deletion failed; it may be requested again.

        Args:
            kind: The resource's kind.
            resource_id: Its partition key.
            message: Why and what to do, without data values.

        Raises:
            NotFoundError: The resource does not exist.
            ConflictError: Its deletion was not requested.
        """
        with self._database.write() as session:
            row = lock_resource(session, ROWS[kind], resource_id)
            _require_delete_request(row)
            row.status, row.status_message, row.updated_at = Status.DELETE_FAILED, message, self._database.now()

    def deleted(self, keys: Iterable[str], kind: str | None = None) -> frozenset[str]:
        """Return which of these keys belong to a deleted resource, seed or upload.

        Args:
            keys: Hex digits of partition keys; slots; ids of uploads.
            kind: Only this kind; any if not given.
        """
        query = select(TombstoneRow.key).where(TombstoneRow.version == "")
        if kind is not None:
            query = query.where(TombstoneRow.kind == kind)
        with self._database.read() as session:
            return frozenset(
                key
                for some in _in_parts(sorted(set(keys)))
                for key in session.scalars(query.where(TombstoneRow.key.in_(some)))
            )

    def deleted_artifacts(self, kind: Kind, key: str) -> frozenset[str]:
        """Return the deleted versions of a resource's artifacts."""
        query = select(TombstoneRow.version).where(TombstoneRow.kind == kind, TombstoneRow.key == key)
        with self._database.read() as session:
            return frozenset(session.scalars(query)) - {""}

    def announce(self, kind: str, key: str) -> None:
        """Write a tombstone before storing a seed or upload, so that an interrupted upload is cleaned up."""
        with self._database.write() as session:
            add_tombstone(session, kind, [key], self._database.now())

    def delete_artifacts(self, kind: Kind, key: str, versions: Sequence[str]) -> None:
        """Record that versions of an artifact are deleted, before their files are deleted.

        Args:
            kind: The resource's kind.
            key: The hex digits of its partition key.
            versions: Versions of artifacts.
        """
        if not versions:
            return
        with self._database.write() as session:
            raise_generation(session)
            for version in versions:
                add_tombstone(session, kind, [key], self._database.now(), version)

    def abandon_uploads(self, before: datetime) -> None:
        """Mark uploads older than a time as deleted if no lab or room uses them."""
        with self._database.write() as session:
            named = _named_uploads(session)
            query = select(UploadRow).where(UploadRow.location.is_not(None), UploadRow.created_at < before)
            for row in session.scalars(query).all():
                if row.id not in named:
                    row.location = None
                    add_tombstone(session, UPLOAD, [row.id], self._database.now())


def _remove(session: Session, rows: tuple[ResourceRow, ...], now: datetime) -> None:
    """Delete rows in the given order, and write the tombstones that mark their files for deletion."""
    seeds = [row.seed_location for row in rows if isinstance(row, GenerationJobRow)]
    named = [(row.kind, row.id) for row in rows]
    for _, resource_id in named:
        session.execute(delete(ResourceRow).where(ResourceRow.id == resource_id))
    raise_generation(session)
    for kind, resource_id in named:
        add_tombstone(session, kind, [hex_of(resource_id)], now)
    for seed in seeds:
        move_seed(session, seed, None, now)


def mark_for_deletion(session: Session, row: ResourceRow, now: datetime) -> None:
    """Mark a locked resource and its dependent children for deletion, and cancel their work."""
    for each in (row, *_children(session, row)):
        for version in _open_versions(session, each):
            cancel(session, each, version, now)
        each.status, each.updated_at = Status.DELETE_PENDING, now
    session.flush()


def _children(session: Session, row: ResourceRow) -> list[ResourceRow]:
    if row.kind not in DELETED_WITH:
        return []
    query = select(ResourceRow.id).where(ResourceRow.parent_id == row.id).order_by(ResourceRow.id)
    return [lock_resource(session, ROWS[DELETED_WITH[row.kind]], child_id) for child_id in session.scalars(query)]


def _descendants(session: Session, row: ResourceRow) -> list[ResourceRow]:
    query = select(ResourceRow).where(
        ResourceRow.parent_id == row.id, ResourceRow.kind.not_in([*DELETED_WITH.values()])
    )
    found = []
    for child in session.scalars(query.order_by(ResourceRow.created_at, ResourceRow.id)).all():
        found += [*_descendants(session, child), child]
    return found


def _open_versions(session: Session, row: ResourceRow) -> list[VersionRow]:
    query = select(VersionRow).where(VersionRow.resource_id == row.id, VersionRow.status.in_(OPEN))
    return list(session.scalars(query.order_by(VersionRow.number)))


def _reject_parent(session: Session, row: ResourceRow) -> None:
    child = session.scalar(select(ResourceRow).where(ResourceRow.parent_id == row.id).limit(1))
    if child is not None:
        raise ConflictError(
            f"The {child.kind.words} {child.id} depends on the {row.kind.words} {row.id}.",
            remedy=f"Delete the {child.kind.words} first.",
        )
    # The configured model may refer to another audience model by now; the job still uses the one it started with.
    user = session.scalar(
        select(VersionRow.resource_id)
        .where(VersionRow.status.in_(OPEN), VersionRow.kind == Kind.GENERATION_JOB)
        .where(kept_audience_model_id(VersionRow) == row.id)
        .limit(1)
    )
    if user is not None:
        raise ConflictError(
            f"The generation job {user} depends on the {row.kind.words} {row.id}.",
            remedy="Wait until it finishes, or delete it first.",
        )


def _require_delete_request(row: ResourceRow) -> None:
    if row.status not in DELETING:
        raise ConflictError(
            f"The deletion of the {row.kind.words} {row.id} was not requested.", remedy="Request it first."
        )


def _reject_running(session: Session, rows: tuple[ResourceRow, ...]) -> None:
    for row in rows:
        if any(version.status is Status.CREATE_IN_PROGRESS for version in _open_versions(session, row)):
            raise ConflictError(
                f"A run is still working on the {row.kind.words} {row.id}.",
                remedy="The run was asked to stop. Wait until it has stopped, or until its claim expires.",
            )


SEED, UPLOAD = "seed", "upload"
_N_KEYS = 500  # a number of values that both SQLite and PostgreSQL accept in one statement


def add_tombstone(session: Session, kind: str, keys: Iterable[str], now: datetime, version: str = "") -> None:
    """Write tombstones in the transaction that deletes the records; existing ones are not changed."""
    generation = session.scalar(select(InstallationRow.generation)) or 0
    for key in keys:
        if session.get(TombstoneRow, (kind, key, version)) is None:
            session.add(TombstoneRow(kind=kind, key=key, version=version, deleted_at=now, generation=generation))
    session.flush()


def own(session: Session, kind: str, key: str) -> None:
    """Remove the tombstone of a stored seed or upload, in the transaction that inserts its record."""
    session.execute(delete(TombstoneRow).where(TombstoneRow.kind == kind, TombstoneRow.key == key))


def move_seed(session: Session, before: str | None, after: str | None, now: datetime) -> None:
    """Write a tombstone for a seed's old storage slot, and remove the tombstone of the new slot."""
    old, new = (location.partition("/")[0] if location else None for location in (before, after))
    if old and old != new:
        add_tombstone(session, SEED, [old], now)
    if new:
        own(session, SEED, new)


def hex_of(partition_key: str) -> str:
    """Return the hex digits that identify a resource in its tombstone."""
    return partition_key.rpartition("-")[2]


def _in_parts(keys: Sequence[str]) -> Iterator[Sequence[str]]:
    return (keys[start : start + _N_KEYS] for start in range(0, len(keys), _N_KEYS))


def _named_uploads(session: Session) -> set[str]:
    mappings = (*session.scalars(select(DataRoomRow.inputs)), *session.scalars(select(DataLabRow.datasets)))
    return {upload for mapping in mappings for upload in mapping.values()}
