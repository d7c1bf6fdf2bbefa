"""Dossiers: copies of the catalogue's rows about one version of a resource, as JSON in the artifact's manifest.

Lives here: converting rows to JSON for manifests, and inserting rows from it.
Add here when rebuilding a version needs further rows.
Keep out: reading manifests and deciding what they prove (`runs.recovery`).

A dossier contains all columns of the resource's and the version's rows by name. A column added in a later release
gets its default when an older dossier is read.
"""

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeVar

from sqlalchemy import Enum, inspect, select
from sqlalchemy.orm import ColumnProperty, Session

from cleanroom_pipelines.catalog.database import Part
from cleanroom_pipelines.catalog.identity import raise_generation
from cleanroom_pipelines.catalog.lifecycle import ACTIVE_AT_ONCE, find_resource, find_version
from cleanroom_pipelines.catalog.names import MAX_NAME, Kind
from cleanroom_pipelines.catalog.records import OPEN, Cause, ParentRef, Status
from cleanroom_pipelines.catalog.tables import (
    ROWS,
    AsJson,
    AudienceReferenceRow,
    Base,
    CustomAudienceRow,
    DataLabRow,
    DataRoomRow,
    ExportJobRow,
    GenerationJobRow,
    JobViewRow,
    ResourceRow,
    UploadRow,
    UtcDateTime,
    VersionRow,
)
from cleanroom_pipelines.errors import StatusCode

Dossier = Mapping[str, Any]

_Row = TypeVar("_Row", bound=Base)


@dataclass(frozen=True)
class ProvenVersion:
    """A version of a resource that can be rebuilt in the catalogue, because its artifacts are stored.

    Attributes:
        number: From 1.
        artifacts: The artifact versions by asset name.
        parents: The parent versions it was built from.
        made_at: When its last artifact was built.
        summary: One sentence and headline numbers.
        failure: The reason it is CREATE_FAILED; None for ACTIVE.
        dossier: Its dossier from a manifest; None if an earlier release wrote the manifest.
        output_location: The folder that an export wrote.
    """

    number: int
    artifacts: Mapping[str, str]
    parents: tuple[ParentRef, ...]
    made_at: datetime
    summary: Mapping[str, Any]
    failure: tuple[StatusCode, str] | None = None
    dossier: Dossier | None = None
    output_location: str | None = None


@dataclass(frozen=True)
class ProvenResource:
    """A resource, and its versions to rebuild: missing or outdated in the catalogue, but stored.

    Attributes:
        kind: Its kind.
        id: Its partition key.
        versions: In order of their numbers.
        dossier: Its dossier from the newest manifest; None if the catalogue has the resource.
        seed_location: The location of its seed; None if there is none.
    """

    kind: Kind
    id: str
    versions: tuple[ProvenVersion, ...]
    dossier: Dossier | None = None
    seed_location: str | None = None

    @property
    def name(self) -> str | None:
        """The resource's name; None if the catalogue has the resource and only versions are rebuilt."""
        return str(self.dossier["resource"]["name"]) if self.dossier else None


@dataclass(frozen=True)
class Rebuilt:
    """The numbers of rebuilt resources and versions.

    Attributes:
        n_resources: Resources that the catalogue lacked.
        n_versions: Versions that the catalogue lacked, or had as unfinished.
    """

    n_resources: int = 0
    n_versions: int = 0


class Dossiers(Part):
    """The part of the catalogue that exports its rows to manifests, and imports them again."""

    def dossier(self, kind: Kind, resource_id: str, number: int) -> Dossier:
        """Return the catalogue's rows about a version and its resource, as JSON values.

        Raises:
            NotFoundError: The resource or version does not exist.
        """
        with self._database.read() as session:
            resource = find_resource(session, ROWS[kind], resource_id)
            parent = session.get(ResourceRow, resource.parent_id) if resource.parent_id else None
            view = session.get(JobViewRow, resource_id)
            return {
                "resource": _as_json(resource),
                "version": _as_json(find_version(session, resource, number)),
                "view": _as_json(view) if view else None,
                "parent_version": parent.current_version if parent else None,
                "uploads": [_as_json(row) for row in _uploads_of(session, resource)],
            }

    def rebuild(self, resources: Sequence[ProvenResource], generation: int) -> Rebuilt:
        """Insert resources and versions whose artifacts are stored, in one transaction.

        Args:
            resources: The resources and versions that the catalogue lacks, parents before children.
            generation: The home's generation; the catalogue's is raised above it.
        """
        n_versions = 0
        with self._database.write() as session:
            for proven in resources:
                row = session.get(ResourceRow, proven.id)
                if row is None:
                    row = _insert_resource(session, proven)
                for version in proven.versions:
                    _insert_version(session, row, version)
                    n_versions += 1
                _set_status(session, row, proven)
                session.flush()
            raise_generation(session, generation)
        n_resources = sum(proven.dossier is not None for proven in resources)
        return Rebuilt(n_resources, n_versions)


def _insert_resource(session: Session, proven: ProvenResource) -> ResourceRow:
    assert proven.dossier is not None
    row = _from_json(ROWS[proven.kind], proven.dossier["resource"])
    row.current_version, row.status = None, Status.CREATE_FAILED
    row.status_code = row.status_message = None
    if isinstance(row, GenerationJobRow):
        row.seed_location = proven.seed_location
    _resolve_conflicts(session, row)
    session.add(row)
    session.flush()
    if proven.dossier.get("view"):
        session.add(_from_json(JobViewRow, proven.dossier["view"]))
    for upload in proven.dossier.get("uploads", ()):
        if session.get(UploadRow, upload["id"]) is None:
            session.add(_from_json(UploadRow, upload))
    if isinstance(row, CustomAudienceRow):
        for reference in sorted(set(row.references)):
            if session.get(ResourceRow, reference) is not None:
                session.add(AudienceReferenceRow(audience_id=row.id, reference_id=reference))
    session.flush()
    return row


def _resolve_conflicts(session: Session, row: ResourceRow) -> None:
    """Rename a rebuilt resource whose name is taken; detach a job from the inbox if another job has its seed."""
    place = select(ResourceRow.id).where(
        ResourceRow.account_id == row.account_id,
        ResourceRow.region == row.region,
        ResourceRow.kind == row.kind,
        ResourceRow.scope == row.scope,
    )
    if session.scalar(place.where(ResourceRow.name == row.name)) is not None:
        row.name = f"{row.name[: MAX_NAME - 13]} {row.id[-12:]}"
    if isinstance(row, GenerationJobRow) and row.inbox_model_id is not None:
        drop = select(GenerationJobRow.id).where(
            GenerationJobRow.inbox_model_id == row.inbox_model_id, GenerationJobRow.seed_digest == row.seed_digest
        )
        if session.scalar(drop) is not None:
            row.inbox_model_id = None


def _insert_version(session: Session, resource: ResourceRow, proven: ProvenVersion) -> None:
    row = session.get(VersionRow, (resource.id, proven.number))
    if row is None:
        values: dict[str, Any] = {
            "cause": Cause.CREATED if proven.number == 1 else Cause.BY_HAND,
            "params": {},
            "created_at": proven.made_at,
            "started_at": None,
            "run_id": None,
            "attempt": 1,
            "queue_generation": 0,
        }
        if proven.dossier:
            kept = _values_from_json(VersionRow, proven.dossier["version"])
            values |= {name: kept[name] for name in values if name in kept}
        row = VersionRow(resource_id=resource.id, number=proven.number, kind=resource.kind, **values)
        session.add(row)
    row.status = Status.CREATE_FAILED if proven.failure else Status.ACTIVE
    row.status_code, row.status_message = proven.failure or (None, None)
    row.artifacts, row.parents, row.summary = dict(proven.artifacts), proven.parents, dict(proven.summary)
    row.progress, row.progress_stage, row.cancel_requested = 1.0, "", False
    row.lease_expires_at, row.finished_at = None, proven.made_at
    if isinstance(resource, ExportJobRow) and proven.output_location:
        resource.output_location = proven.output_location
    session.flush()


def _set_status(session: Session, row: ResourceRow, proven: ProvenResource) -> None:
    """Set the status of a rebuilt resource from its versions."""
    versions = session.scalars(select(VersionRow).where(VersionRow.resource_id == row.id)).all()
    active = [version.number for version in versions if version.status is Status.ACTIVE]
    newest = max(versions, key=lambda version: version.number)
    row.current_version = max(active, default=None)
    row.status = Status.ACTIVE if active or row.kind in ACTIVE_AT_ONCE else newest.status
    row.status_code, row.status_message = newest.status_code, newest.status_message
    row.updated_at = max(row.updated_at, *(version.made_at for version in proven.versions))


def _uploads_of(session: Session, resource: ResourceRow) -> list[UploadRow]:
    named: Mapping[str, str] = {}
    if isinstance(resource, DataRoomRow):
        named = resource.inputs
    elif isinstance(resource, DataLabRow):
        named = resource.datasets
    rows = (session.get(UploadRow, upload_id) for upload_id in sorted(set(named.values())))
    return [row for row in rows if row is not None]


def _columns(row_type: type[Base]) -> dict[str, ColumnProperty[Any]]:
    return {attribute.key: attribute for attribute in inspect(row_type).column_attrs}


def _as_json(row: Base) -> dict[str, Any]:
    return {name: _value_as_json(attribute, getattr(row, name)) for name, attribute in _columns(type(row)).items()}


def _value_as_json(attribute: ColumnProperty[Any], value: Any) -> Any:
    kind = attribute.columns[0].type
    if value is None:
        return None
    if isinstance(kind, AsJson):
        return kind.encode(value)
    if isinstance(value, datetime):
        return value.isoformat()
    return value.value if isinstance(value, enum.Enum) else value


def _from_json(row_type: type[_Row], values: Mapping[str, Any]) -> _Row:
    return row_type(**_values_from_json(row_type, values))


def _values_from_json(row_type: type[Base], values: Mapping[str, Any]) -> dict[str, Any]:
    columns = _columns(row_type)
    return {name: _value_from_json(columns[name], value) for name, value in values.items() if name in columns}


def _value_from_json(attribute: ColumnProperty[Any], value: Any) -> Any:
    kind = attribute.columns[0].type
    if value is None:
        return None
    if isinstance(kind, AsJson):
        return kind.decode(value)
    if isinstance(kind, Enum) and kind.enum_class is not None:
        return kind.enum_class(value)
    return datetime.fromisoformat(value) if isinstance(kind, UtcDateTime) else value


def is_proof(status: Status, finished_at: datetime | None, made_at: datetime) -> bool:
    """Return whether a stored artifact proves that its version's status in the catalogue is outdated.

    Args:
        status: The status in the catalogue.
        finished_at: When it was closed according to the catalogue.
        made_at: When the artifact was built.
    """
    if status is Status.ACTIVE:
        return False
    return status in OPEN or finished_at is None or made_at > finished_at
