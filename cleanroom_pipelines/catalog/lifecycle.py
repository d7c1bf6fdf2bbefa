"""The steps in the lifecycle of versions; each runs inside the caller's transaction.

Lives here: finding and locking rows, adding a version, requeueing it, closing it, and updating the resource's
status; the follow-up work of a version that becomes ACTIVE (new versions of children, automatic exports).
Add here when versions get another state transition, or one resource's version should trigger another's.
Keep out: permission to do so (`claims.py`). Resources created through the AWS API never change once ACTIVE, so
only declared ones follow.

A transaction locks a resource before it changes its version, and a parent before its children. This order prevents
deadlocks on PostgreSQL. On SQLite a write locks the whole database.
"""

from collections.abc import Callable, Iterable
from datetime import datetime
from typing import Any, TypeVar, cast

from sqlalchemy import Table, select, update
from sqlalchemy.orm import Session

from cleanroom_pipelines.audiences.sizes import AudienceSize
from cleanroom_pipelines.catalog.names import MAX_NAME, Kind, partition_key
from cleanroom_pipelines.catalog.records import DELETING, OPEN, Cause, ParentRef, Status
from cleanroom_pipelines.catalog.room_specs import CustomAudienceSpec, spec_digest, spec_values
from cleanroom_pipelines.catalog.specs import LARGEST, ExportJobSpec, Origin, Spec
from cleanroom_pipelines.catalog.tables import (
    ROWS,
    ConfiguredAudienceModelRow,
    ExportJobRow,
    GenerationJobRow,
    ResourceRow,
    VersionRow,
)
from cleanroom_pipelines.errors import ConflictError, NotFoundError, StatusCode

_Row = TypeVar("_Row", bound=ResourceRow)

# In `params`, because it must outlive the holder: the next attempt continues the delivery.
_DELIVERY = "delivery_begun"
# ACTIVE as soon as they exist, as in AWS; their versions are built afterwards.
ACTIVE_AT_ONCE = (Kind.TRAINING_DATASET, Kind.CONFIGURED_AUDIENCE_MODEL, Kind.DATA_ROOM)


def find_resource(
    session: Session, of: type[_Row], resource_id: str, account_id: str | None = None, region: str | None = None
) -> _Row:
    """Return a resource's row.

    Raises:
        NotFoundError: There is none of this kind in the account and region.
    """
    return _only(session, of, resource_id, account_id, region, lock=False)


def lock_resource(
    session: Session, of: type[_Row], resource_id: str, account_id: str | None = None, region: str | None = None
) -> _Row:
    """Return a resource's row, locked against other writers until the transaction ends.

    Raises:
        NotFoundError: There is none of this kind in the account and region.
    """
    return _only(session, of, resource_id, account_id, region, lock=True)


def _only(
    session: Session, of: type[_Row], resource_id: str, account_id: str | None, region: str | None, *, lock: bool
) -> _Row:
    if lock:
        # The kind's own columns are loaded by a second query: after waiting for a lock, PostgreSQL re-reads only
        # the locked row.
        query = select(ResourceRow).where(ResourceRow.id == resource_id)
        query = query.with_for_update(key_share=True, of=ResourceRow).execution_options(populate_existing=True)
        row = session.scalar(query)
    else:
        row = session.get(of, resource_id)
    if isinstance(row, of):
        wanted = (account_id or row.account_id, region or row.region)
        if (row.account_id, row.region) == wanted:
            return row
    kind = next(kind for kind, row_type in ROWS.items() if row_type is of)
    raise NotFoundError(f"There is no such {kind.words}.", remedy="List the existing ones.")


def insert_resource(
    session: Session,
    spec: Spec,
    *,
    resource_id: str,
    account_id: str,
    region: str,
    declared: bool,
    now: datetime,
    params: dict[str, Any] | None = None,
    **columns: Any,
) -> ResourceRow:
    """Insert a resource with its first version pending.

    Args:
        session: The transaction; the parent, if any, is locked.
        spec: A valid one.
        resource_id: The new partition key.
        account_id: 12 digits.
        region: Such as `us-east-1`.
        declared: Whether `apply` requests it.
        now: UTC.
        params: The parameters of the first version.
        **columns: Columns that are not in the spec, or differ from it.
    """
    values = spec_values(spec) | {"tags": dict(spec.tags), "spec_digest": spec_digest(spec)} | columns
    row = ROWS[spec.kind](
        id=resource_id,
        account_id=account_id,
        region=region,
        scope=name_scope(spec, account_id),
        status=Status.ACTIVE if spec.kind in ACTIVE_AT_ONCE else Status.CREATE_PENDING,
        created_at=now,
        updated_at=now,
        declared=declared,
        **values,
    )
    session.add(row)
    session.flush()
    add_version(session, row, 1, Cause.CREATED, now, params=params)
    session.refresh(row)
    return row


def name_scope(spec: Spec, account_id: str) -> str:
    """Return the scope in which a spec's name must be unique.

    This is the generation job for an export job, and the room and group for a custom audience. Other kinds of the
    data room need no unique name; all remaining kinds are unique in their account. Exports started by another
    account than the job's owner have a scope of their own, so neither account can take the other's names.
    """
    if isinstance(spec, CustomAudienceSpec) and not spec.hidden:
        return f"{spec.data_room_id[-12:]}:{spec.created_by}"
    if (mark := getattr(spec, "mark", None)) is not None:
        return str(mark)
    if not isinstance(spec, ExportJobSpec):
        return ""
    if spec.started_by in (None, account_id):
        return spec.generation_job_id
    return f"{spec.started_by}:{spec.generation_job_id[-12:]}"


def find_version(session: Session, resource: ResourceRow, number: int) -> VersionRow:
    """Return one version of a resource.

    Raises:
        NotFoundError: The resource has no version of this number.
    """
    row = session.get(VersionRow, (resource.id, number), populate_existing=True)
    if row is None:
        raise NotFoundError(
            f"The {resource.kind.words} {resource.id} has no version {number}.", remedy="List its versions."
        )
    return row


def newest_version(session: Session, resource: ResourceRow) -> VersionRow:
    """Return the version with the highest number; every resource has one."""
    query = select(VersionRow).where(VersionRow.resource_id == resource.id)
    return session.scalars(query.order_by(VersionRow.number.desc()).limit(1)).one()


def add_version(
    session: Session,
    resource: ResourceRow,
    number: int,
    cause: Cause,
    now: datetime,
    *,
    params: dict[str, Any] | None = None,
) -> VersionRow:
    """Add a pending version."""
    row = VersionRow(
        kind=resource.kind,
        resource_id=resource.id,
        number=number,
        status=Status.CREATE_PENDING,
        cause=cause,
        artifacts={},
        parents=(),
        summary={},
        params=params or {},
        created_at=now,
        attempt=0,
        queue_generation=0,
        progress=0.0,
        progress_stage="",
        cancel_requested=False,
    )
    session.add(row)
    session.flush()
    _mark_receipt_due(session, resource)
    mirror(session, resource, now)
    return row


def pending_version(
    session: Session,
    resource: ResourceRow,
    cause: Cause,
    now: datetime,
    params: dict[str, Any] | None = None,
) -> VersionRow:
    """Return the resource's pending version; add one if there is none.

    Raises:
        ConflictError: The resource is being deleted.
    """
    require_not_deleting(resource)
    newest = newest_version(session, resource)
    if newest.status is Status.CREATE_PENDING:
        return newest
    return add_version(session, resource, newest.number + 1, cause, now, params=params)


def make_pending(
    session: Session, resource: ResourceRow, version: VersionRow, attempt: int, now: datetime
) -> None:
    """Requeue a version, and set its number of used attempts."""
    version.status = Status.CREATE_PENDING
    version.status_code = version.status_message = None
    version.run_id = version.lease_expires_at = version.started_at = version.finished_at = None
    version.attempt = attempt
    version.queue_generation += 1
    version.progress, version.progress_stage, version.cancel_requested = 0.0, "", False
    session.flush()
    _mark_receipt_due(session, resource)
    mirror(session, resource, now)


def _mark_receipt_due(session: Session, resource: ResourceRow) -> None:
    """Mark an inbox seed's result file (receipt) as outdated, because the seed's job or an export changes."""
    # Every change of the job's or an export's version locks this row last; see `Resources.mark_receipt_current`.
    jobs = {Kind.GENERATION_JOB: resource.id, Kind.EXPORT_JOB: resource.parent_id}
    if (job_id := jobs.get(resource.kind)) is not None:
        table = cast(Table, GenerationJobRow.__table__)
        owing = (table.c.id == job_id, table.c.origin == Origin.INBOX, table.c.receipt_due.is_(False))
        session.execute(update(table).where(*owing).values(receipt_due=True))


def close_failed(
    session: Session,
    resource: ResourceRow,
    version: VersionRow,
    *,
    code: StatusCode,
    message: str,
    now: datetime,
) -> None:
    """Set a version's status to CREATE_FAILED."""
    version.status = Status.CREATE_FAILED
    version.status_code, version.status_message = code, message
    note_delivery(version, is_begun=False)
    version.lease_expires_at, version.finished_at = None, now
    session.flush()
    mirror(session, resource, now)


def note_delivery(version: VersionRow, *, is_begun: bool) -> None:
    """Mark that this attempt has begun to deliver the version's output, or clear the mark."""
    others = {name: value for name, value in version.params.items() if name != _DELIVERY}
    version.params = others | ({_DELIVERY: version.queue_generation} if is_begun else {})


def is_being_delivered(version: VersionRow, queue_generation: int | None = None) -> bool:
    """Return whether an attempt (any, or the one with this `queue_generation`) has begun to deliver the output."""
    begun = version.params.get(_DELIVERY)
    return begun is not None and queue_generation in (None, begun)


def mirror(session: Session, resource: ResourceRow, now: datetime) -> None:
    """Update the resource's status from its newest version.

    Until it is ACTIVE for the first time, it has that version's status. After that it stays ACTIVE with its
    current version, and only its status message reports the failure of a newer one.
    """
    if resource.status in DELETING:
        return
    newest = newest_version(session, resource)
    if resource.current_version is None and resource.kind not in ACTIVE_AT_ONCE:
        resource.status = newest.status
    else:
        resource.status = Status.ACTIVE
    resource.status_code, resource.status_message = newest.status_code, newest.status_message
    resource.updated_at = now
    session.flush()


def require_not_deleting(resource: ResourceRow) -> None:
    """Raise ConflictError if the resource is being deleted."""
    if resource.status in DELETING:
        raise ConflictError(
            f"The {resource.kind.words} {resource.id} is being deleted.", remedy="Create a new one instead."
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
