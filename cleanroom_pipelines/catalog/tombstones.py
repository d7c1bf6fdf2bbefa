"""Tombstones: records of deleted objects; only files with a tombstone may be removed from the disk.

Lives here: writing a tombstone in the transaction that deletes a record or a version, and looking them up.
Add here when another kind of thing can be deleted.
Keep out: deleting files; the shell deletes only files with a tombstone, never files that the catalogue lacks.

A catalogue that was lost, replaced or restored may lack records of files in the home. So files are deleted only
because of a tombstone. It identifies a resource by the 12 hex digits of its partition key, which name its folder;
an artifact by these digits and its version; a seed by its slot; and an upload by its id. A seed or upload gets its
tombstone before it is stored, and loses it in the transaction that inserts its record. So a file left by a process
killed in between is known to have no owner.
"""

from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from cleanroom_pipelines.catalog.database import Part
from cleanroom_pipelines.catalog.identity import raise_generation
from cleanroom_pipelines.catalog.names import Kind
from cleanroom_pipelines.catalog.tables import DataLabRow, DataRoomRow, InstallationRow, TombstoneRow, UploadRow

SEED, UPLOAD = "seed", "upload"
_N_KEYS = 500  # a number of values that both SQLite and PostgreSQL accept in one statement


class Tombstones(Part):
    """The part of the catalogue that stores tombstones."""

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
