"""Data rooms: their provisioned datasets and their jobs.

Lives here: a room's inputs, uploads and the jobs of the Media API.
Add here when a room stores something more.
Keep out: audiences (`room_audiences.py`), privacy ledgers (`pairs.py`) and permissions (the API layer).
"""

from collections.abc import Callable, Collection, Mapping
from typing import Any, Literal

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from cleanroom_pipelines.catalog.database import Part
from cleanroom_pipelines.catalog.lifecycle import lock_resource, pending_version
from cleanroom_pipelines.catalog.names import Kind, as_label, check_label, make_uuid
from cleanroom_pipelines.catalog.noting import noted
from cleanroom_pipelines.catalog.records import DELETING, Cause, DataLab, DataRoom, RoomJob, Upload, Version
from cleanroom_pipelines.catalog.room_specs import ParticipantSpec
from cleanroom_pipelines.catalog.tables import (
    DataLabRow,
    DataRoomRow,
    RoomJobRow,
    UploadRow,
    record_of,
    stored,
    version_record,
)
from cleanroom_pipelines.catalog.tombstones import UPLOAD, add_tombstone, own
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
