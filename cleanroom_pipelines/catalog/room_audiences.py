"""The audiences of a data room: references, sharing and deletion.

Lives here: references between custom audiences, sharing them and deleting them with their dependents.
Add here when an operation concerns several audiences of a room at once.
Keep out: the meaning of definitions (`audiences.definitions`) and permissions (the API layer).
"""

from collections.abc import Collection, Iterable, Sequence
from datetime import datetime

from sqlalchemy import select
from sqlalchemy.orm import Session

from cleanroom_pipelines.catalog.database import Part
from cleanroom_pipelines.catalog.deletion import mark_for_deletion
from cleanroom_pipelines.catalog.lifecycle import lock_resource
from cleanroom_pipelines.catalog.noting import noted
from cleanroom_pipelines.catalog.records import DELETING, CustomAudience
from cleanroom_pipelines.catalog.room_specs import CustomAudienceSpec
from cleanroom_pipelines.catalog.tables import (
    AudienceReferenceRow,
    CustomAudienceRow,
    ResourceRow,
)
from cleanroom_pipelines.errors import ConflictError, NotFoundError


class RoomAudiences(Part):
    """The part of the catalogue that stores the audiences of rooms."""

    def custom_audiences(
        self, data_room_id: str, *, hidden: bool = False, among: Collection[str] | None = None
    ) -> tuple[CustomAudience, ...]:
        """Return the audiences of a room that are not being deleted, in order of creation.

        Args:
            data_room_id: The room.
            hidden: Whether to return hidden audiences instead.
            among: The ids to choose from; None for all.
        """
        query = (
            select(CustomAudienceRow)
            .where(CustomAudienceRow.parent_id == data_room_id, CustomAudienceRow.status.not_in(DELETING))
            .where(CustomAudienceRow.hidden == hidden)
            .order_by(CustomAudienceRow.created_at, CustomAudienceRow.id)
        )
        if among is not None:
            query = query.where(CustomAudienceRow.id.in_(among))
        return self._all(CustomAudience, query)

    @noted
    def share_audiences(self, audience_ids: Iterable[str], participant_ids: Sequence[str]) -> None:
        """Set the participants with whom audiences are shared; on an error, no audience is changed.

        Raises:
            NotFoundError: An audience does not exist.
            ConflictError: One is being deleted.
        """
        with self._database.write() as session:
            for audience_id in sorted(set(audience_ids)):
                row = _lock_audience(session, audience_id)
                row.shared_with, row.updated_at = tuple(participant_ids), self._database.now()

    @noted
    def request_delete_audiences(
        self, audience_ids: Sequence[str], *, with_dependents: bool = False
    ) -> tuple[str, ...]:
        """Request the deletion of several audiences at once; on an error, none is deleted.

        An audience with a delivered list is hidden permanently instead: later lists are compared with that list,
        so deleting must not make the room forget what it has released.

        Args:
            audience_ids: The audiences.
            with_dependents: Whether to also delete audiences whose definitions refer to these, directly or not.

        Returns:
            The ids of all audiences deleted or hidden.

        Raises:
            NotFoundError: An audience does not exist.
            ConflictError: Other audiences, which would not be deleted, depend on these (their ids are in
                `attributes["dependents"]`).
        """
        with self._database.write() as session:
            wanted = set(audience_ids)
            for audience_id in wanted:
                _lock_audience(session, audience_id)
            dependents = _dependents(session, wanted)
            visible = {key for key, is_hidden in dependents.items() if not is_hidden}
            if visible and not with_dependents:
                raise ConflictError(
                    "Other audiences depend on the audiences to delete.",
                    remedy="Delete the dependent audiences first, or delete all of them together.",
                    dependents=tuple(sorted(visible)),
                )
            deleted = sorted(wanted | set(dependents))
            for audience_id in deleted:
                row = _lock_audience(session, audience_id)
                if _was_delivered(session, row):
                    _hide(row, self._database.now())
                else:
                    mark_for_deletion(session, row, self._database.now())
            return tuple(deleted)


def add_references(session: Session, row: ResourceRow, spec: CustomAudienceSpec) -> None:
    """Store the references of a new audience, and lock the referenced audiences against deletion.

    Raises:
        NotFoundError: The room has no such audience.
        ConflictError: One is being deleted.
    """
    for reference in sorted(set(spec.references)):
        named = _lock_audience(session, reference)
        if named.parent_id != spec.data_room_id:
            raise _no_such_audience()
        session.add(AudienceReferenceRow(audience_id=row.id, reference_id=reference))
    session.flush()


def _was_delivered(session: Session, row: ResourceRow) -> bool:
    query = select(ResourceRow.id).where(ResourceRow.parent_id == row.id).limit(1)
    return session.scalar(query) is not None


def _hide(row: CustomAudienceRow, now: datetime) -> None:
    row.hidden, row.declared, row.shared_with, row.updated_at = True, False, (), now
    row.scope = row.mark  # its name is free again


def _dependents(session: Session, audience_ids: set[str]) -> dict[str, bool]:
    """Return the audiences that refer, directly or indirectly, to the given ones, and whether each is hidden."""
    found: dict[str, bool] = {}
    frontier = set(audience_ids)
    while frontier:
        query = (
            select(AudienceReferenceRow.audience_id, CustomAudienceRow.hidden)
            .join(CustomAudienceRow, CustomAudienceRow.id == AudienceReferenceRow.audience_id)
            .where(AudienceReferenceRow.reference_id.in_(frontier), CustomAudienceRow.status.not_in(DELETING))
        )
        next_ones = {
            key: hidden for key, hidden in session.execute(query) if key not in found | dict.fromkeys(audience_ids)
        }
        found |= next_ones
        frontier = set(next_ones)
    return found


def _lock_audience(session: Session, audience_id: str) -> CustomAudienceRow:
    try:
        row = lock_resource(session, CustomAudienceRow, audience_id)
    except NotFoundError:
        raise _no_such_audience() from None
    if row.status in DELETING:
        raise ConflictError("One of the audiences is being deleted.", remedy="List the audiences.")
    return row


def _no_such_audience() -> NotFoundError:
    return NotFoundError("There is no such audience.", remedy="List the audiences.")
