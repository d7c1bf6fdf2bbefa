"""Propagation: the follow-up work of a version that becomes ACTIVE.

Lives here: which children get a new version, and the automatic export of a finished audience.
Add here when a new version of one resource should trigger another's.
Keep out: resources created through the AWS API; they never change once ACTIVE, so only declared ones follow.
"""

from collections.abc import Callable, Iterable
from datetime import datetime

from sqlalchemy import select
from sqlalchemy.orm import Session

from cleanroom_pipelines.audiences.sizes import AudienceSize
from cleanroom_pipelines.catalog.lifecycle import (
    add_version,
    find_resource,
    insert_resource,
    lock_resource,
    newest_version,
)
from cleanroom_pipelines.catalog.names import MAX_NAME, Kind, partition_key
from cleanroom_pipelines.catalog.records import DELETING, OPEN, Cause, ParentRef, Status
from cleanroom_pipelines.catalog.specs import LARGEST, ExportJobSpec
from cleanroom_pipelines.catalog.tables import (
    ROWS,
    ConfiguredAudienceModelRow,
    ExportJobRow,
    GenerationJobRow,
    ResourceRow,
    VersionRow,
)


def follow(
    session: Session,
    resource: ResourceRow,
    version: VersionRow,
    *,
    is_first: bool,
    now: datetime,
    token_hex: Callable[[int], str],
) -> None:
    """Create the follow-up work of a version that has just become ACTIVE, in the same transaction.

    Args:
        session: The transaction.
        resource: Locked.
        version: The finished version.
        is_first: Whether the resource was never ACTIVE before.
        now: UTC.
        token_hex: For the id of an export.
    """
    if resource.status in DELETING:
        return
    if version.number == resource.current_version and not _does_not_propagate(resource.kind, version.cause):
        for child in followers(session, resource):
            _follow_parent(session, child, now)
    if resource.declared and _is_stale(session, resource, version):
        newest = newest_version(session, resource)
        if newest.status not in OPEN:
            add_version(session, resource, newest.number + 1, Cause.PARENT, now)
    if isinstance(resource, GenerationJobRow) and is_first and resource.export_size is not None:
        _add_export(session, resource, resource.export_size, now, token_hex)


def followers(session: Session, resource: ResourceRow) -> list[ResourceRow]:
    """Return the declared children that are rebuilt after each new version of the resource."""
    query = (
        select(ResourceRow)
        .where(ResourceRow.parent_id == resource.id, ResourceRow.declared, ResourceRow.status.not_in(DELETING))
        .order_by(ResourceRow.id)
    )
    return [child for child in session.scalars(query) if _can_be_rebuilt(session, child)]


def _can_be_rebuilt(session: Session, resource: ResourceRow) -> bool:
    if isinstance(resource, ExportJobRow):
        job = find_resource(session, GenerationJobRow, resource.generation_job_id)
        configured = find_resource(session, ConfiguredAudienceModelRow, job.configured_audience_model_id)
        return resource.size in configured.sizes  # the model may have stopped allowing it
    return not isinstance(resource, GenerationJobRow) or resource.keep_seed


def _does_not_propagate(kind: Kind, cause: Cause) -> bool:
    # A refresh concerns one model; the other models of the dataset have their own schedules.
    return kind is Kind.TRAINING_DATASET and cause is Cause.REFRESH


def _follow_parent(session: Session, child: ResourceRow, now: datetime) -> None:
    child = lock_resource(session, ROWS[child.kind], child.id)
    newest = newest_version(session, child)
    if child.status in DELETING:
        return
    if (
        newest.status not in OPEN
    ):  # an open version uses the new parent, or `_is_stale` detects later that it did not
        add_version(session, child, newest.number + 1, Cause.PARENT, now)


def _is_stale(session: Session, resource: ResourceRow, version: VersionRow) -> bool:
    """Return whether the parent got a newer version while this version was being built."""
    built_with = _version_of(resource.parent_id, version.parents)
    if resource.parent_id is None or built_with is None or not _can_be_rebuilt(session, resource):
        return False
    newer = select(VersionRow.kind, VersionRow.cause).where(
        VersionRow.resource_id == resource.parent_id,
        VersionRow.number > built_with,
        VersionRow.status == Status.ACTIVE,
    )
    return any(not _does_not_propagate(kind, cause) for kind, cause in session.execute(newer))


def _version_of(parent_id: str | None, parents: Iterable[ParentRef]) -> int | None:
    return next((parent.version for parent in parents if parent.id == parent_id), None)


def _add_export(
    session: Session,
    job: GenerationJobRow,
    size: AudienceSize | str,
    now: datetime,
    token_hex: Callable[[int], str],
) -> None:
    if isinstance(size, str):
        assert size == LARGEST
        configured = find_resource(session, ConfiguredAudienceModelRow, job.configured_audience_model_id)
        size = max(configured.sizes, key=lambda allowed: allowed.value)
    name = f"{job.name[: MAX_NAME - 1 - len(str(size))]} {size}"
    taken = {
        export.name: export
        for export in session.scalars(select(ExportJobRow).where(ExportJobRow.generation_job_id == job.id))
    }
    if any(export.size == size for export in taken.values()):
        return
    new_id = partition_key(name, token_hex)
    if name in taken:
        name = f"{job.name[: MAX_NAME - 13]} {new_id[-12:]}"
    insert_resource(
        session,
        ExportJobSpec(name=name, generation_job_id=job.id, size=size, started_by=job.started_by),
        resource_id=new_id,
        account_id=job.account_id,
        region=job.region,
        declared=job.declared,
        now=now,
    )
