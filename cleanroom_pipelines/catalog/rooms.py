"""Data rooms: their provisioned datasets, their jobs and their custom audiences.

Lives here: a room's inputs, uploads and the jobs of the Media API; references between custom audiences, sharing
them, and deleting them with their dependents.
Add here when a room stores something more.
Keep out: the meaning of definitions (`audiences.definitions`), ledgers (`pairs.py`) and permissions (APIs).
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, Literal

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from cleanroom_pipelines.catalog.database import Part, noted
from cleanroom_pipelines.catalog.deletion import UPLOAD, add_tombstone, mark_for_deletion, own
from cleanroom_pipelines.catalog.lifecycle import lock_resource, pending_version
from cleanroom_pipelines.catalog.names import Kind, as_label, check_label, make_uuid
from cleanroom_pipelines.catalog.records import (
    DELETING,
    Cause,
    CustomAudience,
    DataLab,
    DataRoom,
    RoomJob,
    Upload,
    Version,
)
from cleanroom_pipelines.catalog.room_specs import CustomAudienceSpec, ParticipantSpec
from cleanroom_pipelines.catalog.tables import (
    AudienceReferenceRow,
    CustomAudienceRow,
    DataLabRow,
    DataRoomRow,
    ResourceRow,
    RoomJobRow,
    UploadRow,
    record_of,
    stored,
    version_record,
)
from cleanroom_pipelines.errors import ConflictError, NotFoundError
from cleanroom_pipelines.identity import BASE_DATASETS, Dataset, inputs_of
from cleanroom_pipelines.terms import Permission


class Rooms(Part):
    """The part of the catalogue that stores data rooms."""

    def data_rooms(self) -> tuple[DataRoom, ...]:
        """Return all rooms that are not being deleted, in order of creation."""
        query = select(DataRoomRow).where(DataRoomRow.status.not_in(DELETING))
        return self._all(DataRoom, query.order_by(DataRoomRow.created_at, DataRoomRow.id))

    @noted
    def provision(
        self,
        data_room_id: str,
        add: Mapping[str, str],
        remove: tuple[Dataset, ...] = (),
        *,
        n_embeddings: int | None = None,
    ) -> Version:
        """Change the provisioned datasets of a room, and request a new version of the room.

        Args:
            data_room_id: The room.
            add: Upload ids by `InputName`.
            remove: Datasets to remove first.
            n_embeddings: The new dimension of embeddings, if it changes.

        Returns:
            The pending version.

        Raises:
            NotFoundError: The room does not exist.
            ConflictError: It is being deleted.
        """
        now = self._database.now()
        with self._database.write() as session:
            row = _lock_room(session, data_room_id)
            kept = inputs_of(row.inputs, *(each for each in Dataset if each not in remove))
            row.inputs = kept | dict(add)
            if n_embeddings is not None:
                row.n_embeddings = n_embeddings
            return version_record(pending_version(session, row, Cause.UPDATED, now))

    @noted
    def change_users(
        self, data_room_id: str, group_id: str, change: Callable[[ParticipantSpec], ParticipantSpec]
    ) -> DataRoom:
        """Change the members of one participant of a room.

        Args:
            data_room_id: The room.
            group_id: The group.
            change: Returns the group with its new users.

        Raises:
            NotFoundError: The room does not exist.
            ConflictError: It is being deleted, or no user would have one of the group's permissions.
            UsageError: The room would not follow the rules of the Media API.
        """
        with self._database.write() as session:
            row = _lock_room(session, data_room_id)
            row.participants = tuple(change(each) if each.id == group_id else each for each in row.participants)
            changed = record_of(DataRoom, row)
            changed.validate()
            if not all(each.is_able for each in row.participants if each.id == group_id):
                raise ConflictError(
                    "One of the participant's permissions would be left without a user.",
                    remedy="Add another user with this permission first.",
                )
            return changed

    @noted
    def decline_room(self, data_room_id: str, email: str) -> None:
        """Remove a user who declines to take part in a room; a participant without members loses its datasets.

        Args:
            data_room_id: The room.
            email: The declining user, in lower case; ignored if not in the room.

        Raises:
            NotFoundError: The room does not exist.
            ConflictError: It is being deleted.
        """
        with self._database.write() as session:
            row = _lock_room(session, data_room_id)
            row.participants = tuple(group.without(email) for group in row.participants)
            left = [group for group in row.participants if email in group.declined and not group.emails]
            kept = dict(row.inputs)
            for group in left:
                if group.may(Permission.PROVIDE_BASE_AUDIENCE):
                    kept = inputs_of(kept, Dataset.SEED_AUDIENCES)
                    row.n_embeddings = 0
                if group.may(Permission.PROVIDE_SEED_AUDIENCE):
                    kept = inputs_of(kept, *BASE_DATASETS)
            if kept != row.inputs:
                row.inputs = kept
                pending_version(session, row, Cause.UPDATED, self._database.now())

    @noted
    def restore_inputs(self, data_room_id: str, failed: Mapping[str, str], before: Mapping[str, str]) -> None:
        """Replace a room's unusable uploads with the previous ones, except where a newer upload exists.

        Args:
            data_room_id: The room.
            failed: The unusable upload ids, by dataset.
            before: The previously provisioned upload ids, by dataset.
        """
        with self._database.write() as session:
            row = _lock_room(session, data_room_id)
            inputs = dict(row.inputs)
            for dataset, upload in failed.items():
                if inputs.get(dataset) == upload:
                    inputs.pop(dataset)
                    if dataset in before:
                        inputs[dataset] = before[dataset]
            row.inputs = inputs

    @noted
    def add_upload(
        self,
        upload_id: str,
        owner_email: str,
        name: str,
        *,
        n_bytes: int,
        digest: str,
        matching_id: str | None,
        location: str,
    ) -> Upload:
        """Record an uploaded file.

        Raises:
            UsageError: Its name is invalid.
        """
        name = as_label(name)  # some systems store file names decomposed
        check_label("name of the file", name, 255)
        with self._database.write() as session:
            row = UploadRow(
                id=upload_id,
                owner_email=owner_email,
                name=name,
                n_bytes=n_bytes,
                digest=digest,
                matching_id=matching_id,
                location=location,
                created_at=self._database.now(),
            )
            session.add(row)
            session.flush()
            own(session, UPLOAD, upload_id)
            return record_of(Upload, row)

    def upload(self, upload_id: str) -> Upload:
        """Return an uploaded file.

        Raises:
            NotFoundError: The upload does not exist.
        """
        with self._database.read() as session:
            row = session.get(UploadRow, upload_id)
            if row is None:
                raise NotFoundError("There is no such dataset.", remedy="Upload the file first.")
            return record_of(Upload, row)

    def count_uploads(self, email: str) -> int:
        """Count a user's uploads whose content still exists."""
        mine = UploadRow.owner_email == email, UploadRow.location.is_not(None)
        with self._database.read() as session:
            return session.scalar(select(func.count()).select_from(UploadRow).where(*mine)) or 0

    def count_owned(self, kind: Literal[Kind.DATA_LAB, Kind.DATA_ROOM], email: str) -> int:
        """Count the labs or rooms that a user owns, except those being deleted."""
        row = DataLabRow if kind is Kind.DATA_LAB else DataRoomRow
        query = select(func.count()).select_from(row).where(row.owner_email == email, row.status.not_in(DELETING))
        with self._database.read() as session:
            return session.scalar(query) or 0

    def labs_of(self, email: str) -> tuple[DataLab, ...]:
        """Return a user's labs, the newest first, except those being deleted."""
        query = select(DataLabRow).where(DataLabRow.owner_email == email, DataLabRow.status.not_in(DELETING))
        return self._all(DataLab, query.order_by(DataLabRow.created_at.desc(), DataLabRow.id))

    def uploads(self) -> tuple[Upload, ...]:
        """Return all uploads whose content still exists."""
        return self._all(Upload, select(UploadRow).where(UploadRow.location.is_not(None)).order_by(UploadRow.id))

    @noted
    def forget_upload(self, upload_id: str) -> None:
        """Record that an upload's content was deleted; the rest of the record is kept."""
        with self._database.write() as session:
            row = session.get(UploadRow, upload_id)
            if row is not None:
                row.location = None
                add_tombstone(session, UPLOAD, [upload_id], self._database.now())

    def uploads_in_use(self, *, but_of: str | None = None) -> frozenset[str]:
        """Return the ids of the uploads used by any lab or room other than `but_of`."""
        with self._database.read() as session:
            rooms = session.scalars(select(DataRoomRow.inputs).where(DataRoomRow.id != (but_of or ""))).all()
            labs = session.scalars(select(DataLabRow.datasets).where(DataLabRow.id != (but_of or ""))).all()
        return frozenset(upload for mapping in (*rooms, *labs) for upload in mapping.values())

    @noted
    def add_room_job(
        self,
        *,
        email: str,
        data_room_id: str | None,
        kind: str,
        target: Version,
        options: Mapping[str, Any],
    ) -> RoomJob:
        """Add a job of the Media API; its result is available once the version that it waits for is ACTIVE."""
        with self._database.write() as session:
            row = RoomJobRow(
                id=make_uuid(self._database.token_hex),
                email=email,
                data_room_id=data_room_id,
                kind=kind,
                target_kind=target.kind,
                target_id=target.resource_id,
                target_version=target.number,
                options=dict(options),
                cancelled=False,
                created_at=self._database.now(),
            )
            return stored(session, row, RoomJob)

    def room_job(self, job_id: str) -> RoomJob:
        """Return a room job.

        Raises:
            NotFoundError: The job does not exist.
        """
        with self._database.read() as session:
            return record_of(RoomJob, _find_job(session, job_id))

    def room_jobs(self, data_room_id: str, email: str, kinds: Collection[str], most: int) -> tuple[RoomJob, ...]:
        """Return the latest jobs of these kinds that a user started in a room, newest first; at most `most`."""
        query = (
            select(RoomJobRow)
            .where(RoomJobRow.data_room_id == data_room_id, RoomJobRow.email == email, RoomJobRow.kind.in_(kinds))
            .order_by(RoomJobRow.created_at.desc(), RoomJobRow.id)
            .limit(most)
        )
        return self._all(RoomJob, query)

    @noted
    def cancel_room_job(self, job_id: str) -> RoomJob:
        """Cancel a room job.

        Raises:
            NotFoundError: The job does not exist.
        """
        with self._database.write() as session:
            row = _find_job(session, job_id)
            row.cancelled = True
            return record_of(RoomJob, row)

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


def _lock_room(session: Session, data_room_id: str) -> DataRoomRow:
    row = lock_resource(session, DataRoomRow, data_room_id)
    if row.status in DELETING:
        raise ConflictError("The data room is being deleted.", remedy="Create a new one.")
    return row


def _find_job(session: Session, job_id: str) -> RoomJobRow:
    row = session.get(RoomJobRow, job_id)
    if row is None:
        raise NotFoundError("There is no such job.", remedy="Start it again.")
    return row


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
