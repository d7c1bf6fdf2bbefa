"""Deletion of resources.

Lives here: the order in which resources may be deleted, and the steps of deleting those with artifacts.
Add here when deleting a resource takes another step.
Keep out: deleting artifacts and partitions; the shell does so between `begin_delete` and `finish_delete`.
"""

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
    GenerationJobRow,
    ResourceRow,
    RoomJobRow,
    VersionRow,
    kept_audience_model_id,
    resource_record,
)
from cleanroom_pipelines.catalog.tombstones import add_tombstone, hex_of, move_seed
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
