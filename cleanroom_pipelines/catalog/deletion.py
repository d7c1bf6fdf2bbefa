"""Deletion: how resources go.

Lives here: the order in which resources may be deleted and the steps in which the larger ones go.
Add here when deleting a resource takes another step.
Keep out: deleting artifacts and partitions; the shell does so between `begin_delete` and `finish_delete`.
"""

from datetime import datetime

from sqlalchemy import delete, exists, select
from sqlalchemy.orm import Session

from cleanroom_pipelines.catalog.claims import cancel
from cleanroom_pipelines.catalog.database import Part
from cleanroom_pipelines.catalog.identity import raise_generation
from cleanroom_pipelines.catalog.lifecycle import find_resource, lock_resource
from cleanroom_pipelines.catalog.names import Kind
from cleanroom_pipelines.catalog.noting import noted
from cleanroom_pipelines.catalog.records import DELETING, OPEN, Resource, Status
from cleanroom_pipelines.catalog.tables import (
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
# What goes with its parent and never by itself.
GOES_WITH = {Kind.GENERATION_JOB: Kind.EXPORT_JOB, Kind.CUSTOM_AUDIENCE: Kind.AUDIENCE_LIST}


class Deletion(Part):
    """The part of the catalogue that deletes."""

    @noted
    def request_delete(
        self, kind: Kind, resource_id: str, account_id: str | None = None, region: str | None = None
    ) -> Resource:
        """Ask for a resource to go.

        A training dataset or configured audience model is gone when this returns. Anything else is DELETE_PENDING,
        its work is cancelled, and a job's exports or an audience's deliveries go with it.

        Returns:
            The resource as it was left, or as it was last.

        Raises:
            NotFoundError: There is no such resource.
            ConflictError: Another resource depends on it.
            UsageError: It is an export job or a delivery; it goes with its parent.
        """
        if kind in GOES_WITH.values():
            parent = next(each for each, child in GOES_WITH.items() if child is kind)
            raise UsageError(f"An {kind.words} is not deleted by itself.", remedy=f"Delete its {parent.words}.")
        with self._database.write() as session:
            row = lock_resource(session, kind, resource_id, account_id, region)
            if row.status in {Status.DELETE_PENDING, Status.DELETE_IN_PROGRESS}:
                return resource_record(row)
            if kind not in GOES_WITH:
                _refuse_parent(session, row)
            if kind in _AT_ONCE:
                last = resource_record(row)
                _remove(session, (row,), self._database.now())
                return last
            mark_for_deletion(session, row, self._database.now())
            return resource_record(row)

    def made_from(self, kind: Kind, resource_id: str) -> tuple[Resource, ...]:
        """Everything that keeps a resource from being deleted, in an order in which it can be.

        Args:
            kind: The resource's kind.
            resource_id: Its partition key.

        Returns:
            What was made from it, each after what was made from that; without what goes with its parent.

        Raises:
            NotFoundError: There is no such resource.
        """
        with self._database.read() as session:
            row = find_resource(session, kind, resource_id)
            return tuple(resource_record(each) for each in _made_from(session, row))

    def deletions(self, limit: int = 100) -> tuple[Resource, ...]:
        """What is to go and no run is at work on, the oldest request first."""
        at_work = exists().where(
            VersionRow.status == Status.CREATE_IN_PROGRESS,
            VersionRow.resource_id == ResourceRow.id,
        )
        query = (
            select(ResourceRow)
            .where(ResourceRow.kind.not_in([*_AT_ONCE, *GOES_WITH.values()]))
            .where(ResourceRow.status.in_([Status.DELETE_PENDING, Status.DELETE_IN_PROGRESS]), ~at_work)
            .order_by(ResourceRow.updated_at, ResourceRow.id)
            .limit(limit)
        )
        with self._database.read() as session:
            return tuple(resource_record(row) for row in session.scalars(query))

    def begin_delete(self, kind: Kind, resource_id: str) -> tuple[Resource, ...]:
        """Begin, or begin again, to delete what belongs to a resource.

        Returns:
            The resource and what goes with it: everything whose artifacts and partitions are to go.

        Raises:
            NotFoundError: There is no such resource; it is gone already.
            ConflictError: Its deletion was not asked for, or a run is still at work on it.
        """
        with self._database.write() as session:
            row = lock_resource(session, kind, resource_id)
            going = (row, *_children(session, row))
            _refuse_unasked(row)
            _refuse_at_work(session, going)
            now = self._database.now()
            for each in going:
                each.status, each.updated_at = Status.DELETE_IN_PROGRESS, now
            session.flush()
            return tuple(resource_record(each) for each in going)

    def finish_delete(self, kind: Kind, resource_id: str) -> None:
        """Remove a resource whose artifacts are gone; done twice, the second time does nothing.

        Raises:
            ConflictError: Its deletion was not begun.
        """
        with self._database.write() as session:
            try:
                row = lock_resource(session, kind, resource_id)
            except NotFoundError:
                return
            if row.status is not Status.DELETE_IN_PROGRESS:
                raise ConflictError(
                    f"The deletion of the {kind.words} {resource_id} was not begun.", remedy="Begin it first."
                )
            # No run can have come since: what is being deleted cannot be claimed.
            children = _children(session, row)
            if kind is Kind.DATA_ROOM:
                session.execute(delete(RoomJobRow).where(RoomJobRow.data_room_id == row.id))
            _remove(session, (*children, row), self._database.now())

    def fail_delete(self, kind: Kind, resource_id: str, message: str) -> None:
        """Note that a deletion could not be carried out; it may be asked for again.

        Args:
            kind: The resource's kind.
            resource_id: Its partition key.
            message: Why and what to do, without data values.

        Raises:
            NotFoundError: There is no such resource.
            ConflictError: Its deletion was not asked for.
        """
        with self._database.write() as session:
            row = lock_resource(session, kind, resource_id)
            _refuse_unasked(row)
            row.status, row.status_message, row.updated_at = Status.DELETE_FAILED, message, self._database.now()


def _remove(session: Session, rows: tuple[ResourceRow, ...], now: datetime) -> None:
    """Delete rows in their order, and write the tombstones by which what they left is found."""
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
    """Let a locked resource and what goes with it be deleted; their work is cancelled."""
    for going in (row, *_children(session, row)):
        for version in _open_versions(session, going):
            cancel(session, going, version, now)
        going.status, going.updated_at = Status.DELETE_PENDING, now
    session.flush()


def _children(session: Session, row: ResourceRow) -> list[ResourceRow]:
    if row.kind not in GOES_WITH:
        return []
    query = select(ResourceRow.id).where(ResourceRow.parent_id == row.id).order_by(ResourceRow.id)
    return [lock_resource(session, GOES_WITH[row.kind], child_id) for child_id in session.scalars(query)]


def _made_from(session: Session, row: ResourceRow) -> list[ResourceRow]:
    query = select(ResourceRow).where(
        ResourceRow.parent_id == row.id, ResourceRow.kind.not_in([*GOES_WITH.values()])
    )
    found = []
    for child in session.scalars(query.order_by(ResourceRow.created_at, ResourceRow.id)).all():
        found += [*_made_from(session, child), child]
    return found


def _open_versions(session: Session, row: ResourceRow) -> list[VersionRow]:
    query = select(VersionRow).where(VersionRow.resource_id == row.id, VersionRow.status.in_(OPEN))
    return list(session.scalars(query.order_by(VersionRow.number)))


def _refuse_parent(session: Session, row: ResourceRow) -> None:
    child = session.scalar(select(ResourceRow).where(ResourceRow.parent_id == row.id).limit(1))
    if child is not None:
        raise ConflictError(
            f"The {child.kind.words} {child.id} depends on the {row.kind.words} {row.id}.",
            remedy="Delete what depends on it first.",
        )
    # Its configured model may have been given another one since; the job keeps what it was started with.
    user = session.scalar(
        select(VersionRow.resource_id)
        .where(VersionRow.status.in_(OPEN), VersionRow.kind == Kind.GENERATION_JOB)
        .where(kept_audience_model_id(VersionRow) == row.id)
        .limit(1)
    )
    if user is not None:
        raise ConflictError(
            f"The generation job {user} depends on the {row.kind.words} {row.id}.",
            remedy="Wait until it has ended, or delete it first.",
        )


def _refuse_unasked(row: ResourceRow) -> None:
    if row.status not in DELETING:
        raise ConflictError(f"Nobody asked to delete the {row.kind.words} {row.id}.", remedy="Ask for it first.")


def _refuse_at_work(session: Session, rows: tuple[ResourceRow, ...]) -> None:
    for row in rows:
        if any(version.status is Status.CREATE_IN_PROGRESS for version in _open_versions(session, row)):
            raise ConflictError(
                f"A run is still at work on the {row.kind.words} {row.id}.",
                remedy="It was asked to stop; wait until it does or its lease runs out.",
            )
