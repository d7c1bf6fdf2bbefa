"""Work: find the pending versions that can be built, in the order of the queue, and request new versions.

Lives here: which pending versions can be built now, and which never; requests for versions, "Materialize", and
refreshes; the two lanes, and fair scheduling between owners; heartbeats of the workers.
Add here when work can be requested in a new way, changes its lane or gets another owner.
Keep out: doing the work (`claims.py`).

Decided 2026-11-29. There are two lanes, so that a small question never waits for a model. Validation reports,
rooms with their overlap and insights, sizes, lists and exports are small; training and ranking are heavy. Within a
lane, owners alternate, each with its oldest version: next is the owner with the fewest versions started since its
waiting version was requested. So one party's single report waits for at most one of another party's hundred jobs.
Starts are counted from the oldest waiting request, not over all history.
"""

from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

from sqlalchemy import ColumnElement, Row, Select, and_, case, delete, exists, func, or_, select
from sqlalchemy.orm import Session, aliased

from cleanroom_pipelines.catalog.claims import Claims, has_expired_lease, is_unreserved, requeue
from cleanroom_pipelines.catalog.database import noted
from cleanroom_pipelines.catalog.lifecycle import (
    close_failed,
    find_resource,
    find_version,
    followers,
    lock_resource,
    make_pending,
    newest_version,
    pending_version,
    require_not_deleting,
)
from cleanroom_pipelines.catalog.names import Kind, check_text
from cleanroom_pipelines.catalog.records import (
    DELETING,
    OPEN,
    AudienceModel,
    Cause,
    ManualRequest,
    Resource,
    Stage,
    Status,
    Version,
)
from cleanroom_pipelines.catalog.specs import Origin
from cleanroom_pipelines.catalog.tables import (
    ROWS,
    AudienceModelRow,
    AudienceReferenceRow,
    CustomAudienceRow,
    DataLabRow,
    DataRoomRow,
    ExportJobRow,
    GenerationJobRow,
    ResourceRow,
    TrainingDatasetRow,
    VersionRow,
    WorkerRow,
    kept_audience_model_id,
    resource_record,
    version_record,
)
from cleanroom_pipelines.errors import ConflictError, NotFoundError, StatusCode, UsageError

_LONGEST_QUEUE = 10_000
_SEED_AGAIN = {
    Origin.APPLY: "Run `cleanroom apply` with the file that declares the job, to retry it with the file's seed.",
    Origin.INBOX: "Drop the seed into the inbox again.",
}
"""What to do to retry a job whose seed was deleted, by the entry point of the job."""


class Lane(StrEnum):
    """The lane of a version, which determines the worker that builds it."""

    SMALL = "small"
    HEAVY = "heavy"


_KINDS = tuple(Kind)
_HEAVY = (Kind.AUDIENCE_MODEL, Kind.GENERATION_JOB)

# Each kind's own table, for the columns that name the owner of the work.
_JOB, _EXPORT = GenerationJobRow.__table__, ExportJobRow.__table__
_LAB, _ROOM = DataLabRow.__table__, DataRoomRow.__table__
_AUDIENCE = CustomAudienceRow.__table__


@dataclass(frozen=True)
class Queued:
    """A version in the queue whose work can start now.

    Attributes:
        version: The version.
        owner: The account or user that requested it.
        lane: Its lane.
    """

    version: Version
    owner: str
    lane: Lane


def lane_of(kind: Kind, definition: Any) -> Lane:
    """Return the lane for a kind of work; a custom audience is in the heavy lane if it is a lookalike."""
    if kind in _HEAVY:
        return Lane.HEAVY
    is_lookalike = isinstance(definition, dict) and definition.get("kind") == "lookalike"
    return Lane.HEAVY if kind is Kind.CUSTOM_AUDIENCE and is_lookalike else Lane.SMALL


def with_owner(query: Any, resource: type[ResourceRow]) -> Select[Any]:
    """Add the owner of each resource to a query: the account or user who requested it, or else its account.

    Args:
        query: A query that selects from `resource`.
        resource: The resources, or an alias of them.

    Returns:
        The query with the joins and the columns `owner` and `definition` (of a custom audience, else NULL).
    """
    for table in (_JOB, _EXPORT, _LAB, _ROOM):
        query = query.outerjoin(table, table.c.id == resource.id)
    # The owner of a list is the creator of its audience.
    query = query.outerjoin(_AUDIENCE, _AUDIENCE.c.id.in_([resource.id, resource.parent_id]))
    owner = func.coalesce(
        _JOB.c.started_by,
        _EXPORT.c.started_by,
        _LAB.c.owner_email,
        _AUDIENCE.c.created_by_email,
        _ROOM.c.owner_email,
        resource.account_id,
    )
    definition = case((resource.kind == Kind.CUSTOM_AUDIENCE, _AUDIENCE.c.definition))
    owned: Select[Any] = query.add_columns(owner.label("owner"), definition.label("definition"))
    return owned


def started_since(since: datetime) -> Select[Any]:
    """Build the query for all versions started since a time, with owner, kind, definition and start time."""
    query = select(VersionRow.started_at, VersionRow.kind).join(
        ResourceRow, ResourceRow.id == VersionRow.resource_id
    )
    return with_owner(query, ResourceRow).where(VersionRow.started_at >= since)


def in_turns(ready: Iterable[Queued], started: Iterable[tuple[str, Lane, datetime]]) -> list[Queued]:
    """Order ready versions: small lane first; within a lane, owners take turns, oldest version of each first.

    Args:
        ready: All ready versions.
        started: Owner, lane and time of versions started since the oldest of them was requested.
    """
    starts = defaultdict[tuple[str, Lane], list[datetime]](list)
    for owner, lane, at in sorted(started, key=lambda start: start[2]):
        starts[owner, lane].append(at)
    ahead = Counter[tuple[str, Lane]]()
    placed = []
    for each in sorted(ready, key=_age):
        mine, requested_at = (each.owner, each.lane), each.version.created_at
        since = len(starts[mine]) - bisect_right(starts[mine], requested_at)
        placed.append(((each.lane is Lane.HEAVY, ahead[mine] + since, _age(each)), each))
        ahead[mine] += 1
    return [each for _, each in sorted(placed, key=lambda one: one[0])]


def _age(each: Queued) -> tuple[datetime, int, str]:
    """Return the sort key of a ready version: oldest first; parents before children requested at the same time."""
    return each.version.created_at, _KINDS.index(each.version.kind), each.version.resource_id


class Scheduling(Claims):
    """The part of the catalogue that finds and requests work, and records the heartbeats of those who do it."""

    def ready(
        self, limit: int = 100, lane: Lane | None = None, parent_id: str | None = None
    ) -> tuple[Version, ...]:
        """Return the pending versions that can be built now and have no run, in the order of the queue.

        A dataset is always ready. Every other resource waits until its parent has a current version and none that
        is pending or in progress; a generation job waits for the audience model itself.

        Args:
            limit: The maximum number.
            lane: Only versions in this lane.
            parent_id: Only versions of this resource's children.
        """
        queue = self._queue(limit, parent_id)
        return tuple(each.version for each in queue if lane in (None, each.lane))[:limit]

    def waiting(self) -> dict[Lane, tuple[int, datetime]]:
        """Return, for each lane with ready versions, how many there are and when the oldest was requested."""
        requested = defaultdict[Lane, list[datetime]](list)
        for each in self._queue(_LONGEST_QUEUE):
            requested[each.lane].append(each.version.created_at)
        return {lane: (len(times), min(times)) for lane, times in requested.items()}

    def stages(self, resource_ids: Collection[str] | None = None) -> dict[tuple[str, int], Stage]:
        """Return the stages of all pending and in-progress versions.

        Args:
            resource_ids: Only versions of these resources; all if not given.

        Returns:
            The stages by resource id and version number. The queue is only read if one of them may be in it.
        """
        chosen = [] if resource_ids is None else [VersionRow.resource_id.in_(resource_ids)]
        with self._database.read() as session:
            at_work = session.scalars(
                select(VersionRow).where(VersionRow.status == Status.CREATE_IN_PROGRESS, *chosen)
            ).all()
            pending = session.execute(_pending_versions().where(*chosen)).all()
        stages = {
            (each.resource_id, each.number): Stage(each.progress_stage or "starting", each.progress)
            for each in at_work
        }
        busy = {each.resource_id for each in at_work}
        places = self._places() if any(each.readiness == "ready" for each in pending) else {}
        for version, _, _, readiness in pending:
            key = (version.resource_id, version.number)
            place = places.get(key)
            if place is None and version.resource_id in busy:
                words = "waiting for its earlier version"
            elif place is None and readiness != "ready":
                words = "waiting for a resource that it depends on"
            else:
                words = "starting" if place is None else "waiting"
            stages[key] = Stage(words, place=place)
        return stages

    def _places(self) -> dict[tuple[str, int], int]:
        """Return each ready version's position in the queue of its lane, from 1."""
        lanes = Counter[Lane]()
        places = {}
        for each in self._queue(_LONGEST_QUEUE):
            lanes[each.lane] += 1
            places[each.version.resource_id, each.version.number] = lanes[each.lane]
        return places

    def _queue(self, per_owner: int, parent_id: str | None = None) -> list[Queued]:
        """Return the ready versions in queue order, at most the `per_owner` oldest for each owner and kind."""
        with self._database.read() as session:
            query = _pending_versions().where(_READINESS.in_(["ready"]), ~_IS_AT_WORK)
            if parent_id is not None:
                query = query.where(_RESOURCE.parent_id == parent_id)
            found = with_owner(
                query.where(is_unreserved(self._database.lease_time(session))), _RESOURCE
            ).subquery()
            turn = func.row_number().over(
                partition_by=(found.c.owner, found.c.kind), order_by=(found.c.created_at, found.c.resource_id)
            )
            numbered = select(found, turn.label("turn_of_owner")).subquery()
            row = aliased(VersionRow, numbered)
            rows = session.execute(
                select(row, numbered.c.owner, numbered.c.definition).where(numbered.c.turn_of_owner <= per_owner)
            ).all()
            queued = [
                Queued(version_record(version), owner, lane_of(version.kind, definition))
                for version, owner, definition in rows
            ]
            if len(queued) < 2:
                return queued
            since = min(each.version.created_at for each in queued)
            started = [
                (each.owner, lane_of(each.kind, each.definition), each.started_at)
                for each in session.execute(started_since(since))
            ]
        return in_turns(queued, started)

    def fail_orphans(self) -> tuple[Version, ...]:
        """Fail pending versions whose parent failed.

        Their status code is PARENT_NOT_ACTIVE, or the dataset's own code if its training data cannot be used.

        Returns:
            The failed versions, including indirect descendants.
        """
        at = self._database.now()
        failed: list[Version] = []
        while found := [
            version
            for row in self._doomed(1000)
            if (version := self._fail_orphan(row.VersionRow, row.gate_kind, row.gate_id, at)) is not None
        ]:
            failed += found
        return tuple(failed)

    @noted
    def request_version(
        self, kind: Kind, resource_id: str, cause: Cause, params: Mapping[str, Any] | None = None
    ) -> Version:
        """Request a new version, or return the one that is already pending.

        Raises:
            NotFoundError: The resource does not exist.
            ConflictError: The resource is being deleted.
        """
        with self._database.write() as session:
            resource = lock_resource(session, ROWS[kind], resource_id)
            version = pending_version(session, resource, cause, self._database.now(), dict(params or {}))
            return version_record(version)

    @noted
    def retry(self, kind: Kind, resource_id: str) -> Version:
        """Requeue a resource's newest version, which must have failed, and reset its number of used attempts.

        Raises:
            NotFoundError: The resource does not exist.
            ConflictError: Its newest version did not fail, its seed was deleted, or it is being deleted.
        """
        with self._database.write() as session:
            resource = lock_resource(session, ROWS[kind], resource_id)
            require_not_deleting(resource)
            newest = newest_version(session, resource)
            if newest.status is not Status.CREATE_FAILED:
                raise ConflictError(
                    f"The {kind.words} {resource_id} cannot be retried, because its newest version did not fail.",
                    remedy="Check its status.",
                )
            if isinstance(resource, GenerationJobRow) and not (resource.seed_location or resource.requested_seed):
                raise ConflictError(
                    f"The seed of the {kind.words} {resource_id} was deleted when the job failed.",
                    remedy=_SEED_AGAIN.get(resource.origin, "Start a new job with the seed."),
                )
            make_pending(session, resource, newest, 0, self._database.now())
            return version_record(newest)

    @noted
    def request_manually(self, kind: Kind, resource_id: str, run_id: str | None = None) -> ManualRequest:
        """Handle a manual "Materialize" on a partition: queue a version if there is work to do.

        Args:
            kind: The resource's kind.
            resource_id: The selected partition key.
            run_id: The requesting run; it continues a version that it holds itself.

        Raises:
            NotFoundError: The resource does not exist.
            ConflictError: It is being deleted.
        """
        with self._database.write() as session:
            at = self._database.lease_time(session)
            resource = lock_resource(session, ROWS[kind], resource_id)
            require_not_deleting(resource)
            version = newest_version(session, resource)
            key = f"{kind.words} {resource_id}"
            if has_expired_lease(version, at) and version.run_id != run_id:
                requeue(session, resource, version, at)
            if version.status is Status.CREATE_IN_PROGRESS:
                if version.run_id == run_id:
                    return ManualRequest("work", version_record(version), run_id, "This run is working on it.")
                message = f"Another run is working on version {version.number} of the {key}. Nothing to do here."
                return ManualRequest("busy", version_record(version), version.run_id, message)
            if version.status is Status.ACTIVE:
                if not resource.declared or (
                    isinstance(resource, GenerationJobRow) and not resource.seed_location
                ):
                    message = (
                        f"Version {version.number} of the {key} is ACTIVE and final. Its artifacts are compared "
                        "with their manifests."
                    )
                    return ManualRequest("verify", version_record(version), None, message)
                version = pending_version(session, resource, Cause.BY_HAND, at)
                message = f"Building version {version.number} of the {key}, as requested manually."
            elif version.status is Status.CREATE_FAILED:
                make_pending(session, resource, version, 0, at)
                message = f"Retrying version {version.number} of the {key}, which failed."
            else:
                message = f"Building version {version.number} of the {key}, which was pending."
            gate = session.execute(_pending_versions().where(VersionRow.resource_id == resource_id)).one()
            if gate.readiness != "ready":
                message = (
                    f"Version {version.number} of the {key} is waiting for the {gate.gate_kind.words} "
                    f"{gate.gate_id}."
                )
                return ManualRequest("waiting", version_record(version), None, message)
            return ManualRequest("work", version_record(version), None, message)

    def dependents(self, kind: Kind, resource_id: str) -> tuple[Resource, ...]:
        """Return the declared children that are rebuilt after each new version of this resource.

        Raises:
            NotFoundError: The resource does not exist.
        """
        with self._database.read() as session:
            resource = find_resource(session, ROWS[kind], resource_id)
            return tuple(resource_record(child) for child in followers(session, resource))

    def due_refreshes(self) -> tuple[AudienceModel, ...]:
        """Return the models whose refresh is due and that have no unfinished version, longest overdue first."""
        open_version = exists().where(VersionRow.resource_id == AudienceModelRow.id, VersionRow.status.in_(OPEN))
        query = (
            select(AudienceModelRow)
            .where(AudienceModelRow.next_refresh_at <= self._database.now())
            .where(AudienceModelRow.current_version.is_not(None), ~open_version)
            .where(AudienceModelRow.status.not_in(DELETING))
            .order_by(AudienceModelRow.next_refresh_at, AudienceModelRow.id)
        )
        return self._all(AudienceModel, query)

    @noted
    def request_refresh(self, model_id: str) -> Version:
        """Request a refresh: a new version of the dataset, and then of this model, trained on the newer data.

        Other models of the dataset are not refreshed. A second request returns the same version.

        Args:
            model_id: The audience model.

        Returns:
            The model's version, with `params["window_seconds"]` if the refresh has a window.

        Raises:
            NotFoundError: The model does not exist.
            UsageError: The model has no refresh.
            ConflictError: It is being deleted.
        """
        at = self._database.now()
        with self._database.write() as session:
            parent_id = find_resource(session, AudienceModelRow, model_id).parent_id
            assert parent_id is not None
            dataset = lock_resource(session, TrainingDatasetRow, parent_id)
            model = lock_resource(session, AudienceModelRow, model_id)
            if model.refresh_every_seconds is None:
                raise UsageError(
                    f"The audience model {model_id} has no refresh interval.",
                    remedy="Declare its refresh interval.",
                )
            newest = newest_version(session, model)
            if newest.status in OPEN and newest.cause is Cause.REFRESH:
                return version_record(newest)
            pending_version(session, dataset, Cause.REFRESH, at)
            window = model.refresh_window_seconds
            params = {} if window is None else {"window_seconds": window}
            version = pending_version(session, model, Cause.REFRESH, at, params)
            model.next_refresh_at = next_refresh(model.next_refresh_at or at, model.refresh_every_seconds, at)
            return version_record(version)

    def _doomed(self, limit: int) -> list[Row[Any]]:
        with self._database.read() as session:
            query = _pending_versions().where(_READINESS.in_(["in vain"]), ~_IS_AT_WORK)
            query = query.where(is_unreserved(self._database.lease_time(session)))
            return list(session.execute(query.order_by(VersionRow.created_at, _RESOURCE.id).limit(limit)))

    def _fail_orphan(self, orphan: VersionRow, gate_kind: Kind, gate_id: str, at: datetime) -> Version | None:
        with self._database.write() as session:
            try:
                gate = lock_resource(session, ROWS[gate_kind], gate_id)
                resource = lock_resource(session, ROWS[orphan.kind], orphan.resource_id)
                version = find_version(session, resource, orphan.number)
            except NotFoundError:
                return None
            still = _pending_versions().where(
                VersionRow.resource_id == resource.id,
                VersionRow.number == version.number,
                _READINESS.in_(["in vain"]),
            )
            if session.execute(still).first() is None:
                return None
            code, message = _reason_of_failure(session, gate)
            close_failed(session, resource, version, code=code, message=message, now=at)
            return version_record(version)

    def heartbeat_worker(self, worker_id: str, now: datetime | None = None) -> None:
        """Record a heartbeat of a worker.

        Args:
            worker_id: At most 128 characters.
            now: UTC; the clock of leases if not given.

        Raises:
            UsageError: The id is invalid.
        """
        check_text("worker id", worker_id, 128)
        with self._database.write() as session:
            session.merge(WorkerRow(worker_id=worker_id, heartbeat_at=self._database.lease_time(session, now)))

    def dead_workers(self, silent_seconds: float = 60.0) -> tuple[str, ...]:
        """Return the workers that sent no heartbeat for this many seconds, oldest heartbeat first.

        Returns none right after a database outage, during which no worker could send one. A heartbeat from the
        future was sent before the clock was set back; it counts as sent now.
        """
        if self._database.had_outage(silent_seconds / 2):
            return ()
        silent = timedelta(seconds=silent_seconds)
        with self._database.read() as session:
            at = self._database.lease_time(session)
            is_odd = or_(WorkerRow.heartbeat_at <= at - silent, WorkerRow.heartbeat_at > at + silent)
            query = select(WorkerRow.worker_id, WorkerRow.heartbeat_at).where(is_odd)
            found = session.execute(query.order_by(WorkerRow.heartbeat_at, WorkerRow.worker_id)).all()
        for worker_id, heard in found:
            if heard > at:
                self.heartbeat_worker(worker_id, at)
        return tuple(worker_id for worker_id, heard in found if heard <= at)

    def forget_worker(self, worker_id: str) -> None:
        """Remove a worker that ended, or whose death was handled."""
        with self._database.write() as session:
            session.execute(delete(WorkerRow).where(WorkerRow.worker_id == worker_id))


_REPORTED_BY_THE_MODEL = (
    StatusCode.TRAINING_DATA_NOT_FOUND,
    StatusCode.TRAINING_DATA_INVALID,
    StatusCode.TRAINING_DATA_TOO_SMALL,
)


def next_refresh(due: datetime, every_seconds: int, now: datetime) -> datetime:
    """Return the next due time after `now`: `due` plus one interval, or plus as many as are needed."""
    every = timedelta(seconds=every_seconds)
    missed = max(0, (now - due) // every)
    return due + (missed + 1) * every


def _reason_of_failure(session: Session, gate: ResourceRow) -> tuple[StatusCode, str]:
    newest = newest_version(session, gate)
    if gate.kind is Kind.TRAINING_DATASET and newest.status_code in _REPORTED_BY_THE_MODEL:
        # As on AWS, a dataset is ACTIVE whatever its content, so its model reports the data's problems.
        return newest.status_code, newest.status_message or "The training data cannot be used."
    return StatusCode.PARENT_NOT_ACTIVE, (
        f"The {gate.kind.words} {gate.id} failed ({newest.status_code}). "
        f"Fix the problem that its status message describes, retry {gate.id}, then retry this."
    )


# One query finds what each pending version waits for, called its gate: its parent, or for a generation job the
# audience model behind the configured one. An undeclared job keeps the audience model it was started with.
_RESOURCE = aliased(ResourceRow)
_PARENT = aliased(ResourceRow)
_GATE = aliased(ResourceRow)
_GATE_VERSION = aliased(VersionRow)
_OWN_VERSION = aliased(VersionRow)
_REFERENCE_VERSION = aliased(VersionRow)

_GATE_IS_OPEN = exists().where(_GATE_VERSION.resource_id == _GATE.id, _GATE_VERSION.status.in_(OPEN))
# Audiences in a definition are built first, so that a lookalike is ranked only once for all that depend on it.
_REFERENCE_IS_OPEN = exists().where(
    AudienceReferenceRow.audience_id == VersionRow.resource_id,
    _REFERENCE_VERSION.resource_id == AudienceReferenceRow.reference_id,
    _REFERENCE_VERSION.status.in_(OPEN),
)
_NEWEST_OF_GATE = (
    select(_GATE_VERSION.status)
    .where(_GATE_VERSION.resource_id == _GATE.id)
    .order_by(_GATE_VERSION.number.desc())
    .limit(1)
    .correlate(_GATE)
    .scalar_subquery()
)
_READINESS: ColumnElement[str] = case(
    (_GATE.id.is_(None), "ready"),
    (_GATE_IS_OPEN, "waits"),
    (_GATE.current_version.is_(None), "in vain"),
    (_REFERENCE_IS_OPEN, "waits"),
    # After a failed dataset refresh, the model would only be rebuilt from the old data.
    (and_(VersionRow.cause == Cause.REFRESH, _NEWEST_OF_GATE == Status.CREATE_FAILED), "in vain"),
    else_="ready",
)
_IS_AT_WORK = exists().where(
    _OWN_VERSION.resource_id == VersionRow.resource_id, _OWN_VERSION.status == Status.CREATE_IN_PROGRESS
)


def _pending_versions() -> Select[VersionRow, Kind, str, str]:
    behind = func.coalesce(kept_audience_model_id(VersionRow), _PARENT.parent_id)
    gate_id = case((_RESOURCE.kind == Kind.GENERATION_JOB, behind), else_=_RESOURCE.parent_id)
    return (
        select(
            VersionRow,
            _GATE.kind.label("gate_kind"),
            _GATE.id.label("gate_id"),
            _READINESS.label("readiness"),
        )
        .join(_RESOURCE, _RESOURCE.id == VersionRow.resource_id)
        .outerjoin(_PARENT, _PARENT.id == _RESOURCE.parent_id)
        .outerjoin(_GATE, _GATE.id == gate_id)
        .where(VersionRow.status == Status.CREATE_PENDING, _RESOURCE.status.not_in(DELETING))
    )
