"""Claims: the exclusive right of a run to work on a version.

Lives here: taking, renewing and releasing a claim, keeping it during the work, the writes of its holder, and
releasing expired claims.
Add here when a run that holds a claim may do something new.
Keep out: which work is ready (`work.py`) and its consequences (`lifecycle.py`).
"""

import json
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, and_, or_, select, update
from sqlalchemy.orm import Session

from cleanroom_pipelines.catalog.database import Part, noted
from cleanroom_pipelines.catalog.identity import raise_generation
from cleanroom_pipelines.catalog.lifecycle import (
    close_failed,
    find_version,
    follow,
    is_being_delivered,
    lock_resource,
    make_pending,
    mirror,
    newest_version,
    note_delivery,
    require_not_deleting,
)
from cleanroom_pipelines.catalog.names import Kind, check_text
from cleanroom_pipelines.catalog.records import DELETING, OPEN, Claim, ExpiredClaims, ParentRef, Status, Version
from cleanroom_pipelines.catalog.tables import (
    ROWS,
    ExportJobRow,
    ResourceRow,
    VersionRow,
    version_record,
)
from cleanroom_pipelines.errors import (
    CancelledError,
    ClaimLostError,
    CleanroomError,
    ConflictError,
    NotFoundError,
    StatusCode,
    UsageError,
)

LEASE_SECONDS = 60.0
MAX_ATTEMPTS = 3  # after an expired lease, a version is retried at most twice
RESERVED_SECONDS = 180.0  # starting a process takes seconds, or a minute on a busy machine
# No lease or reservation lasts longer. One that seems to was taken before the clock was set back.
_LONGEST_SECONDS = 300.0
_MAX_SUMMARY_BYTES = 65_536


class Claims(Part):
    """The part of the catalogue that runs use: claiming a version, renewing the claim, and recording results."""

    def claim(
        self, kind: Kind, resource_id: str, number: int, run_id: str, lease_seconds: float = LEASE_SECONDS
    ) -> Claim | None:
        """Claim a version for a run, which then has the exclusive right to work on it.

        Args:
            kind: The resource's kind.
            resource_id: The resource's partition key.
            number: The version.
            run_id: The claiming run.
            lease_seconds: How long the claim is valid without being renewed.

        Returns:
            The claim; the same one with a new lease if this run holds it already; None if the version cannot be
            claimed because another run holds it, it is closed, its attempts are used up or its resource is being
            deleted.

        Raises:
            NotFoundError: The version does not exist.
            UsageError: The run id cannot be stored.
        """
        check_text("run id", run_id, 128)
        with self._database.write() as session:
            now = self._database.lease_time(session)
            expires = now + timedelta(seconds=lease_seconds)
            resource = lock_resource(session, ROWS[kind], resource_id)
            before = find_version(session, resource, number)
            if before.status is Status.CREATE_IN_PROGRESS and before.run_id == run_id:
                before.lease_expires_at = expires
                return Claim(
                    kind,
                    resource_id,
                    number,
                    run_id,
                    before.attempt,
                    lease_seconds,
                    expires,
                    queue_generation=before.queue_generation,
                )
            if resource.status in DELETING:
                return None
            queue_generation = before.queue_generation + (before.status is Status.CREATE_IN_PROGRESS)
            free = or_(
                VersionRow.status == Status.CREATE_PENDING,
                and_(VersionRow.status == Status.CREATE_IN_PROGRESS, VersionRow.lease_expires_at <= now),
            )
            taken = session.execute(
                update(VersionRow)
                .where(VersionRow.resource_id == resource_id, VersionRow.number == number)
                .where(free, VersionRow.attempt < MAX_ATTEMPTS, VersionRow.cancel_requested.is_(False))
                .values(
                    status=Status.CREATE_IN_PROGRESS,
                    run_id=run_id,
                    lease_expires_at=expires,
                    attempt=VersionRow.attempt + 1,
                    queue_generation=queue_generation,
                    started_at=now,
                    artifacts={},
                    progress=0.0,
                    progress_stage="",
                )
                .returning(VersionRow.attempt)
            ).scalar()
            if taken is None:
                return None
            mirror(session, resource, now)
            return Claim(kind, resource_id, number, run_id, taken, lease_seconds, expires, queue_generation)

    def reserve(self, version: Version) -> bool:
        """Reserve a pending version for a run that is about to start, so that no other process starts another run.

        The run itself claims the version as usual; if it never does, the reservation expires.

        Returns:
            Whether this caller got the reservation; False if another caller reserved or claimed the version first.
        """
        with self._database.write() as session:
            now = self._database.lease_time(session)
            reserved = session.execute(
                update(VersionRow)
                .where(VersionRow.resource_id == version.resource_id, VersionRow.number == version.number)
                .where(
                    VersionRow.status == Status.CREATE_PENDING,
                    VersionRow.queue_generation == version.queue_generation,
                )
                .where(is_unreserved(now))
                .values(lease_expires_at=now + timedelta(seconds=RESERVED_SECONDS))
                .returning(VersionRow.number)
            ).scalar()
        return reserved is not None

    def abandon(self, claim: Claim) -> None:
        """Give up a claim after a failed attempt: requeue the version, or fail it after MAX_ATTEMPTS attempts.

        Raises:
            ClaimLostError: This run no longer holds it.
        """
        with self._database.write() as session:
            resource, version = self._held(session, claim)
            requeue(session, resource, version, self._database.now())

    def renew(self, claim: Claim) -> Claim:
        """Renew a claim for another lease from now.

        Raises:
            ClaimLostError: This run no longer holds it.
        """
        with self._database.write() as session:
            expires = self._database.lease_time(session) + timedelta(seconds=claim.lease_seconds)
            _change_held(session, claim, lease_expires_at=expires)
        return Claim(**(vars(claim) | {"lease_expires_at": expires}))

    def release(self, claim: Claim) -> None:
        """Give up a claim before any work was done: requeue the version, and do not count the attempt.

        If cancellation was requested, close it as CANCELLED instead.

        Raises:
            ClaimLostError: This run no longer holds it.
        """
        with self._database.write() as session:
            resource, version = self._held(session, claim)
            if version.cancel_requested:
                _close_cancelled(session, resource, version, self._database.now())
            else:
                make_pending(session, resource, version, claim.attempt - 1, self._database.now())

    def report_progress(self, claim: Claim, share: float, stage: str) -> None:
        """Record the progress of the work.

        Args:
            claim: The holder's.
            share: 0 to 1; values outside are clamped.
            stage: The current step, in a few words without data values.

        Raises:
            ClaimLostError: This run no longer holds it.
        """
        with self._database.write() as session:
            _change_held(session, claim, progress=min(1.0, max(0.0, share)), progress_stage=stage)

    def is_cancel_requested(self, claim: Claim) -> bool:
        """Return whether the run should stop, because the work was cancelled or its claim is lost."""
        with self._database.read() as session:
            row = session.get(VersionRow, (claim.id, claim.number))
            return row is None or row.cancel_requested or not _is_held(row, claim)

    @noted
    def request_cancel(self, kind: Kind, resource_id: str) -> Version:
        """Cancel a resource's newest version: immediately if it is pending, or else when its run next checks.

        Raises:
            NotFoundError: The resource does not exist.
            ConflictError: There is nothing to cancel, or its output is being delivered.
        """
        with self._database.write() as session:
            resource = lock_resource(session, ROWS[kind], resource_id)
            newest = newest_version(session, resource)
            if newest.status in OPEN and is_being_delivered(newest):
                raise ConflictError(
                    f"The {kind.words} {resource_id} is being delivered and can no longer be cancelled.",
                    remedy="Wait until it finishes.",
                )
            cancel(session, resource, newest, self._database.now())
            return version_record(newest)

    def check_wanted(self, claim: Claim) -> None:
        """Raise an error if the work was cancelled or its claim is lost, so that the run stops.

        Raises:
            ClaimLostError: This run no longer holds the claim.
            CancelledError: The work was cancelled, or its resource is being deleted.
        """
        with self._database.read() as session:
            resource = session.get(ResourceRow, claim.id)
            version = session.get(VersionRow, (claim.id, claim.number))
            if resource is None or version is None or not _is_held(version, claim):
                raise _lost(claim)
            _check_not_cancelled(resource, version)

    def begin_delivery(self, claim: Claim) -> None:
        """Record that the delivery of the version's output begins; from now on the version cannot be cancelled.

        A later attempt at the same version continues the delivery. The lease is renewed.

        Raises:
            ClaimLostError: This run no longer holds the claim; do not publish anything.
            CancelledError: The work was cancelled, or its resource is being deleted; do not publish anything.
        """
        with self._database.write() as session:
            resource, version = self._held(session, claim)
            _check_not_cancelled(resource, version)
            note_delivery(version, is_begun=True)
            version.progress_stage = "delivering"
            version.lease_expires_at = self._database.now() + timedelta(seconds=claim.lease_seconds)

    def publish_artifact(self, claim: Claim, asset: str, artifact_version: str) -> None:
        """Record that this version published an artifact.

        Args:
            claim: The holder's.
            asset: The asset's name.
            artifact_version: The artifact's version in the storage.

        Raises:
            ClaimLostError: This run no longer holds it; the artifact must not be used.
        """
        with self._database.write() as session:
            _, version = self._held(session, claim)
            version.artifacts = {**version.artifacts, asset: artifact_version}

    def withdraw_artifact(self, claim: Claim, asset: str) -> None:
        """Delete the record of an artifact that this version has published, if there is one.

        Raises:
            ClaimLostError: This run no longer holds it; nothing was changed.
        """
        with self._database.write() as session:
            _, version = self._held(session, claim)
            version.artifacts = {name: kept for name, kept in version.artifacts.items() if name != asset}

    def publish_output(self, claim: Claim, location: str) -> None:
        """Record the folder into which an export wrote its files.

        Raises:
            ClaimLostError: This run no longer holds the export.
            UsageError: The claim is not an export job's.
        """
        with self._database.write() as session:
            resource, _ = self._held(session, claim)
            if not isinstance(resource, ExportJobRow):
                raise UsageError("Only an export job has an output.", remedy="Publish an artifact instead.")
            resource.output_location = location

    def finish(self, claim: Claim, summary: Mapping[str, Any], parents: Iterable[ParentRef] = ()) -> Version:
        """Finish a version: make it ACTIVE and current, and create its follow-up work, all in one transaction.

        Args:
            claim: The holder's.
            summary: One sentence and headline numbers, small, without data values.
            parents: The parent versions it was built from.

        Raises:
            ClaimLostError: This run no longer holds it; nothing was changed.
            CancelledError: The work was cancelled before its delivery; nothing was changed.
            UsageError: The summary is not JSON, or is too large.
        """
        _check_summary(summary)
        now = self._database.now()
        with self._database.write() as session:
            resource, version = self._held(session, claim)
            _check_not_cancelled(resource, version)
            note_delivery(version, is_begun=False)
            is_first = resource.current_version is None
            version.status = Status.ACTIVE
            version.status_code = version.status_message = None
            version.summary, version.parents = dict(summary), tuple(parents)
            version.progress, version.progress_stage = 1.0, ""
            version.lease_expires_at, version.finished_at = None, now
            resource.current_version = max(version.number, resource.current_version or 0)
            session.flush()
            mirror(session, resource, now)
            follow(session, resource, version, is_first=is_first, now=now, token_hex=self._database.token_hex)
            raise_generation(session)
            return version_record(version)

    def fail(self, claim: Claim, status_code: StatusCode, message: str) -> Version:
        """Record that building a version failed (CREATE_FAILED).

        Args:
            claim: The holder's.
            status_code: The reason.
            message: The reason and what to do, without data values.

        Raises:
            ClaimLostError: This run no longer holds it; nothing was changed.
        """
        with self._database.write() as session:
            resource, version = self._held(session, claim)
            close_failed(session, resource, version, code=status_code, message=message, now=self._database.now())
            return version_record(version)

    def reap(self, now: datetime | None = None) -> tuple[ExpiredClaims, ...]:
        """Release expired claims: requeue their versions, or fail those with MAX_ATTEMPTS attempts.

        Nothing is released right after a database outage, because holders could not renew. A lease that ends later
        than any lease can was taken before the clock was set back; it is shortened to one lease from now.

        Args:
            now: UTC; the clock of leases if not given.

        Returns:
            The released claims, so that their runs can be reported as failed.
        """
        if self._database.had_outage(LEASE_SECONDS / 2):
            return ()
        with self._database.read() as session:
            at = self._database.lease_time(session, now)
            latest = at + timedelta(seconds=_LONGEST_SECONDS)
            query = select(VersionRow.kind, VersionRow.resource_id, VersionRow.number)
            query = query.where(VersionRow.status.in_(OPEN)).order_by(VersionRow.lease_expires_at)
            expired = session.execute(query.where(VersionRow.lease_expires_at <= at)).all()
            from_the_future = session.execute(query.where(VersionRow.lease_expires_at > latest).limit(1)).first()
        if from_the_future:
            self._cut_leases(latest, at + timedelta(seconds=LEASE_SECONDS))
        return tuple(reaped for kind, key, number in expired if (reaped := self._reap_one(kind, key, number, at)))

    def _cut_leases(self, latest: datetime, expires: datetime) -> None:
        with self._database.write() as session:
            session.execute(
                update(VersionRow)
                .where(VersionRow.status.in_(OPEN), VersionRow.lease_expires_at > latest)
                .values(lease_expires_at=expires)
            )

    def _reap_one(self, kind: Kind, resource_id: str, number: int, at: datetime) -> ExpiredClaims | None:
        with self._database.write() as session:
            try:
                resource = lock_resource(session, ROWS[kind], resource_id)
            except NotFoundError:
                return None
            version = find_version(session, resource, number)
            run_id = version.run_id
            if not has_expired_lease(version, at) or run_id is None:
                return None
            requeue(session, resource, version, at)
            return ExpiredClaims(version_record(version), run_id)

    def _held(self, session: Session, claim: Claim) -> tuple[ResourceRow, VersionRow]:
        try:
            resource = lock_resource(session, ROWS[claim.kind], claim.id)
            version = find_version(session, resource, claim.number)
        except NotFoundError:
            raise _lost(claim) from None
        if not _is_held(version, claim):
            raise _lost(claim)
        return resource, version


def _change_held(session: Session, claim: Claim, **values: Any) -> None:
    changed = session.execute(
        update(VersionRow)
        .where(VersionRow.resource_id == claim.id, VersionRow.number == claim.number)
        .where(VersionRow.status == Status.CREATE_IN_PROGRESS)
        .where(VersionRow.run_id == claim.run_id, VersionRow.attempt == claim.attempt)
        .where(VersionRow.queue_generation == claim.queue_generation)
        .values(**values)
        .returning(VersionRow.number)
    ).scalar()
    if changed is None:
        raise _lost(claim)


def is_unreserved(now: datetime) -> ColumnElement[bool]:
    """Return the SQL condition for pending versions that are not reserved for a run."""
    return or_(VersionRow.lease_expires_at.is_(None), VersionRow.lease_expires_at <= now)


def has_expired_lease(version: VersionRow, at: datetime) -> bool:
    """Return whether the version is claimed by a run whose lease has expired."""
    expires = version.lease_expires_at
    return version.status is Status.CREATE_IN_PROGRESS and expires is not None and expires <= at


def requeue(session: Session, resource: ResourceRow, version: VersionRow, at: datetime) -> None:
    """Release an expired claim: requeue the version, or fail it after MAX_ATTEMPTS."""
    if version.cancel_requested:
        _close_cancelled(session, resource, version, at)
    elif version.attempt < MAX_ATTEMPTS:
        make_pending(session, resource, version, version.attempt, at)
    else:
        message = (
            f"Runs stopped {MAX_ATTEMPTS} times without reporting an error. Check the last run's logs for the "
            "cause, such as too little memory, then try again."
        )
        close_failed(session, resource, version, code=StatusCode.INTERNAL, message=message, now=at)


def cancel(session: Session, resource: ResourceRow, version: VersionRow, now: datetime) -> None:
    """Cancel a pending version, or ask the run that holds it to stop.

    Raises:
        ConflictError: The version is closed.
    """
    if version.status is Status.CREATE_PENDING:
        _close_cancelled(session, resource, version, now)
    elif version.status is Status.CREATE_IN_PROGRESS:
        version.cancel_requested = True
    else:
        require_not_deleting(resource)
        raise ConflictError(
            f"The {resource.kind.words} {resource.id} has no work to cancel.", remedy="Check its status."
        )


def _close_cancelled(session: Session, resource: ResourceRow, version: VersionRow, now: datetime) -> None:
    message = "The work was cancelled."
    close_failed(session, resource, version, code=StatusCode.CANCELLED, message=message, now=now)


def _is_held(version: VersionRow, claim: Claim) -> bool:
    holder = (Status.CREATE_IN_PROGRESS, claim.run_id, claim.attempt, claim.queue_generation)
    return (version.status, version.run_id, version.attempt, version.queue_generation) == holder


def _check_not_cancelled(resource: ResourceRow, version: VersionRow) -> None:
    """Raise CancelledError if the version was cancelled, unless its output is already being delivered."""
    is_cancelled = version.cancel_requested or resource.status in DELETING
    if is_cancelled and not is_being_delivered(version, version.queue_generation):
        raise CancelledError(f"The work on the {resource.kind.words} {resource.id} was cancelled.")


def _lost(claim: Claim) -> ClaimLostError:
    return ClaimLostError(
        f"This run no longer holds the claim of version {claim.number} of the {claim.kind.words} {claim.id}.",
        remedy="Nothing was changed; the results of this run are discarded.",
    )


def _check_summary(summary: Mapping[str, Any]) -> None:
    try:
        size = len(json.dumps(dict(summary), allow_nan=False).encode())
    except (TypeError, ValueError):
        raise UsageError(
            "The summary cannot be stored as JSON.", remedy="Give only text, finite numbers, lists and objects."
        ) from None
    if size > _MAX_SUMMARY_BYTES:
        raise UsageError("The summary is too large.", remedy="Move the details to an artifact.")


class Holding:
    """Renews one claim in its own thread.

    Attributes:
        claim: The claim.
        lost: Set when the claim is lost; the work should then stop.
    """

    def __init__(self, claims: Claims, claim: Claim) -> None:
        self.claim = claim
        self.lost = threading.Event()
        self._claims = claims
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._keep, name=f"lease {claim.id}", daemon=True)

    def is_of(self, claim: Claim) -> bool:
        """Return whether this object renews the given claim."""
        held = self.claim
        return (held.id, held.number, held.run_id, held.attempt) == (
            claim.id,
            claim.number,
            claim.run_id,
            claim.attempt,
        )

    def start(self) -> None:
        """Start to renew the claim."""
        self._thread.start()

    def stop(self) -> None:
        """Stop renewing; the claim stays valid until its lease expires."""
        self._done.set()
        self._thread.join()

    def _keep(self) -> None:
        between = wait = self.claim.lease_seconds / 3
        while not self._done.wait(wait):
            try:
                self._claims.renew(self.claim)
                wait = between
            except ClaimLostError:
                self.lost.set()
                return
            except CleanroomError:
                wait = between / 10  # the lease may outlast the failure; if not, a later renewal reports the loss
            except BaseException:
                self.lost.set()  # no renewals from now on; the thread's own report shows the reason
                raise


@contextmanager
def holding(claims: Claims, claim: Claim) -> Iterator[Holding]:
    """Renew a claim in its own thread, every third of the lease's length, until the `with` body ends.

    Args:
        claims: The catalogue part that granted the claim.
        claim: The claim.

    Yields:
        The holding; check `lost` between steps of the work.
    """
    held = Holding(claims, claim)
    held.start()
    try:
        yield held
    finally:
        held.stop()
