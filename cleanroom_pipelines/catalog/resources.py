"""Resources: finding and listing them, their tags and seeds.

Lives here: looking up resources and versions, and small changes that need no new version.
Add here when a resource can be found in a new way.
Keep out: creating and changing (`creation.py`), the work (`work.py`, `claims.py`) and deletion (`deletion.py`).
"""

import base64
import binascii
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import TypeVar

from sqlalchemy import JSON, select, tuple_, type_coerce
from sqlalchemy.orm import Session

from cleanroom_pipelines.catalog.database import Part, noted
from cleanroom_pipelines.catalog.deletion import move_seed
from cleanroom_pipelines.catalog.lifecycle import (
    find_resource,
    lock_resource,
    newest_version,
)
from cleanroom_pipelines.catalog.names import (
    LOCAL_ACCOUNT,
    LOCAL_REGION,
    Kind,
    check_tag_keys,
    check_tags,
    check_text,
)
from cleanroom_pipelines.catalog.records import (
    DELETING,
    OPEN,
    RECORDS,
    GenerationJob,
    Page,
    Resource,
    Version,
)
from cleanroom_pipelines.catalog.specs import (
    MAX_LOCATION,
    Origin,
    check_seed_digest,
)
from cleanroom_pipelines.catalog.tables import (
    PLACE,
    ROWS,
    GenerationJobRow,
    ResourceRow,
    VersionRow,
    record_of,
    resource_record,
    version_record,
)
from cleanroom_pipelines.errors import NotFoundError, UsageError

R = TypeVar("R", bound=Resource)
_MOST_LOCATIONS = 5000  # databases limit the values of one query
_MAX_PAGE = 1000


class Resources(Part):
    """The part of the catalogue that finds and lists resources, and changes their tags and seeds."""

    def get(
        self, record_type: type[R], resource_id: str, account_id: str | None = None, region: str | None = None
    ) -> R:
        """Return a resource by its partition key.

        Args:
            record_type: The class of its kind's records; `RECORDS[kind]` if the kind is a variable.
            resource_id: Its partition key.
            account_id: The required owner; any if not given, which is for the operator only.
            region: The required region; any if not given.

        Raises:
            NotFoundError: There is none in the account and region.
        """
        with self._database.read() as session:
            row = find_resource(session, ROWS[record_type.kind], resource_id, account_id, region)
            return record_of(record_type, row)

    def get_by_name(
        self,
        record_type: type[R],
        name: str,
        account_id: str = LOCAL_ACCOUNT,
        region: str = LOCAL_REGION,
        generation_job_id: str = "",
    ) -> R:
        """Return a resource by its name.

        Args:
            record_type: As in `get`.
            name: Its name, exactly.
            account_id: Its owner.
            region: Such as `us-east-1`.
            generation_job_id: For an export job, whose names are unique within their generation job.

        Raises:
            NotFoundError: There is none.
        """
        with self._database.read() as session:
            kind = record_type.kind
            row = find_named(session, kind, name, account_id=account_id, region=region, scope=generation_job_id)
            if row is None:
                raise NotFoundError(f"There is no {kind.words} of this name.", remedy="List the existing ones.")
            return record_of(record_type, row)

    def list(
        self,
        kind: Kind,
        account_id: str | None = None,
        *,
        region: str | None = None,
        parent_id: str | None = None,
        collaboration_id: str | None = None,
        limit: int = 100,
        after: str | None = None,
    ) -> Page[Resource]:
        """Return a page of resources in order of creation; concurrent creation causes no gaps or duplicates.

        Args:
            kind: The kind.
            account_id: Only this account's.
            region: Only this region's.
            parent_id: Only children of this resource.
            collaboration_id: Only generation jobs of this collaboration.
            limit: 1 to 1,000.
            after: The token of the previous page.

        Raises:
            UsageError: The limit or the token is invalid.
        """
        check_page(limit)
        row_type = ROWS[kind]
        query = select(row_type).where(row_type.kind == kind)
        if account_id is not None:
            query = query.where(row_type.account_id == account_id)
        if region is not None:
            query = query.where(row_type.region == region)
        if parent_id is not None:
            query = query.where(row_type.parent_id == parent_id)
        if collaboration_id is not None:
            query = query.where(GenerationJobRow.collaboration_id == collaboration_id)
        if after is not None:
            query = query.where(tuple_(*PLACE) > tuple_(*read_token(after)))
        with self._database.read() as session:
            rows = session.scalars(query.order_by(*PLACE).limit(limit + 1)).all()
            items = tuple(resource_record(row) for row in rows[:limit])
        return Page(items, make_token(items[-1].created_at, items[-1].id) if len(rows) > limit else None)

    def versions(self, kind: Kind, resource_id: str, account_id: str | None = None) -> tuple[Version, ...]:
        """Return all versions of a resource, oldest first.

        Raises:
            NotFoundError: The resource does not exist.
        """
        with self._database.read() as session:
            resource = find_resource(session, ROWS[kind], resource_id, account_id)
            query = select(VersionRow).where(VersionRow.resource_id == resource.id).order_by(VersionRow.number)
            return tuple(version_record(row) for row in session.scalars(query))

    def newest_version(self, kind: Kind, resource_id: str, account_id: str | None = None) -> Version:
        """Return the version with the highest number, whatever its status.

        Raises:
            NotFoundError: The resource does not exist.
        """
        with self._database.read() as session:
            return version_record(
                newest_version(session, find_resource(session, ROWS[kind], resource_id, account_id))
            )

    def current_version(self, kind: Kind, resource_id: str, account_id: str | None = None) -> Version | None:
        """Return the newest ACTIVE version, or None.

        Raises:
            NotFoundError: The resource does not exist.
        """
        with self._database.read() as session:
            resource = find_resource(session, ROWS[kind], resource_id, account_id)
            if resource.current_version is None:
                return None
            return version_record(session.get_one(VersionRow, (resource.id, resource.current_version)))

    def find_generation_job_by_seed(
        self, configured_audience_model_id: str, seed_digest: str, origin: Origin | None = None
    ) -> GenerationJob | None:
        """Return the newest generation job of a seed, or None.

        Args:
            configured_audience_model_id: The configured model.
            seed_digest: The keyed digest of the seed's content.
            origin: Only jobs from this entry point; the inbox has at most one.
        """
        query = select(GenerationJobRow).where(
            GenerationJobRow.configured_audience_model_id == configured_audience_model_id,
            GenerationJobRow.seed_digest == seed_digest,
        )
        if origin is not None:
            query = query.where(GenerationJobRow.origin == origin)
        newest_first = query.order_by(GenerationJobRow.created_at.desc(), GenerationJobRow.id.desc())
        with self._database.read() as session:
            row = session.scalars(newest_first.limit(1)).first()
            return None if row is None else record_of(GenerationJob, row)

    @noted
    def set_tags(
        self, kind: Kind, resource_id: str, tags: Mapping[str, str], account_id: str | None = None
    ) -> None:
        """Add tags, or update the values of existing ones.

        Raises:
            UsageError: A tag breaks a rule, there would be more than 50, or the kind has no tags.
            NotFoundError: The resource does not exist.
        """
        with self._database.write() as session:
            row = lock_resource(session, ROWS[kind], resource_id, account_id)
            _reject_untaggable(kind)
            merged = {**row.tags, **tags}
            check_tags(merged)
            row.tags = merged

    @noted
    def remove_tags(
        self, kind: Kind, resource_id: str, keys: Iterable[str], account_id: str | None = None
    ) -> None:
        """Remove tags; unknown keys are ignored.

        Raises:
            UsageError: A key is invalid, or the kind has no tags.
            NotFoundError: The resource does not exist.
        """
        unwanted = set(keys)
        check_tag_keys(unwanted)
        with self._database.write() as session:
            row = lock_resource(session, ROWS[kind], resource_id, account_id)
            _reject_untaggable(kind)
            row.tags = {key: value for key, value in row.tags.items() if key not in unwanted}

    def tags(self, kind: Kind, resource_id: str, account_id: str | None = None) -> Mapping[str, str]:
        """Return the resource's tags.

        Raises:
            NotFoundError: The resource does not exist.
        """
        return self.get(RECORDS[kind], resource_id, account_id).tags

    @noted
    def place_seed(
        self, job_id: str, location: str, *, digest: str | None = None, n_bytes: int | None = None
    ) -> None:
        """Record where a job's seed is now stored, after it was fetched, replaced, or uploaded again for a retry.

        Args:
            job_id: The generation job.
            location: The seed's location.
            digest: Keyed digest of a requested seed that was fetched, in hex.
            n_bytes: Its size.

        Raises:
            NotFoundError: The job does not exist.
            UsageError: The location, digest or size is invalid, or an uploaded seed has another digest.
        """
        check_text("seed's location", location, MAX_LOCATION)
        check_seed_digest(digest)
        if n_bytes is not None and n_bytes < 0:
            raise UsageError("The seed's size is negative.", remedy="Give the size in bytes.")
        self._set_seed_location(job_id, location, digest, n_bytes)

    @noted
    def forget_seed(self, job_id: str) -> None:
        """Record that a job's seed was deleted; the seed's name, size and digest are kept.

        Raises:
            NotFoundError: The job does not exist.
        """
        self._set_seed_location(job_id, None)

    def jobs_with_seed_at(self, account_id: str, locations: Sequence[str]) -> tuple[GenerationJob, ...]:
        """Return the account's jobs whose seed is fetched from one of these S3 locations, in order of creation."""
        location = type_coerce(GenerationJobRow.requested_seed, JSON)["s3_uri"].as_string()
        started = select(GenerationJobRow).where(GenerationJobRow.started_by == account_id)
        found: dict[str, GenerationJob] = {}
        with self._database.read() as session:
            for start in range(0, len(locations), _MOST_LOCATIONS):
                query = started.where(location.in_(locations[start : start + _MOST_LOCATIONS]))
                found |= {row.id: record_of(GenerationJob, row) for row in session.scalars(query)}
        return tuple(sorted(found.values(), key=lambda job: (job.created_at, job.id)))

    def jobs_owed_a_receipt(self) -> tuple[GenerationJob, ...]:
        """Return the inbox jobs whose result files (receipts) are outdated, except jobs that are being deleted."""
        query = (
            select(GenerationJobRow)
            .where(GenerationJobRow.receipt_due.is_(True), GenerationJobRow.status.not_in(DELETING))
            .order_by(GenerationJobRow.created_at, GenerationJobRow.id)
        )
        return self._all(GenerationJob, query)

    def mark_receipt_current(self, job_id: str, reported: Iterable[Version]) -> None:
        """Mark an inbox seed's result file as up to date, unless its job or an export has changed or still runs.

        Args:
            job_id: The generation job.
            reported: The newest versions of the job and of each of its exports, as reported in the receipt.
        """
        keys = {version.run_key for version in reported}
        # The exports are locked too, because a retry locks the export before it marks the receipt as due.
        exports = select(ResourceRow).where(ResourceRow.parent_id == job_id, ResourceRow.kind == Kind.EXPORT_JOB)
        with self._database.write() as session:
            try:
                job = lock_resource(session, GenerationJobRow, job_id)
            except NotFoundError:
                return
            locked = session.scalars(
                exports.order_by(ResourceRow.id).with_for_update(key_share=True, of=ResourceRow)
            ).all()
            newest = [version_record(newest_version(session, row)) for row in (job, *locked)]
            if {version.run_key for version in newest} == keys and not any(v.status in OPEN for v in newest):
                job.receipt_due = False

    def _set_seed_location(
        self, job_id: str, location: str | None, digest: str | None = None, n_bytes: int | None = None
    ) -> None:
        with self._database.write() as session:
            row = lock_resource(session, GenerationJobRow, job_id)
            if row.requested_seed is None and digest not in (None, row.seed_digest):
                raise UsageError("The job was started with another seed.", remedy="Start a new job.")
            move_seed(session, row.seed_location, location, self._database.now())
            row.seed_location = location
            row.seed_digest = digest or row.seed_digest
            row.seed_bytes = row.seed_bytes if n_bytes is None else n_bytes


def find_named(
    session: Session, kind: Kind, name: str, *, account_id: str, region: str, scope: str
) -> ResourceRow | None:
    """Return the row of the resource with the given name in the given scope, or None."""
    return session.scalar(
        select(ResourceRow).where(
            ResourceRow.account_id == account_id,
            ResourceRow.region == region,
            ResourceRow.kind == kind,
            ResourceRow.scope == scope,
            ResourceRow.name == name,
        )
    )


def _reject_untaggable(kind: Kind) -> None:
    if kind is Kind.EXPORT_JOB:
        raise UsageError("An export job has no tags.", remedy="Tag its generation job instead.")


def check_page(limit: int) -> None:
    """Raise UsageError unless the page size is 1 to 1,000."""
    if not 1 <= limit <= _MAX_PAGE:
        raise UsageError("The page size is out of range.", remedy=f"Give 1 to {_MAX_PAGE}.")


def make_token(created_at: datetime, resource_id: str) -> str:
    """Return the page token with which a listing continues after this resource."""
    return base64.urlsafe_b64encode(f"{created_at.isoformat()} {resource_id}".encode()).decode()


def read_token(token: str) -> tuple[datetime, str]:
    """Parse a page token into the creation time and id of the resource after which the listing continues.

    Raises:
        UsageError: The token is invalid.
    """
    try:
        text = base64.b64decode(token.encode(), altchars=b"-_", validate=True).decode()
        created_at, resource_id = text.split(" ")
        at = datetime.fromisoformat(created_at)
    except (binascii.Error, UnicodeError, ValueError):
        at = None
    if at is None or at.tzinfo is None:
        raise UsageError("The page token is invalid.", remedy="Give the token that the previous page returned.")
    return at, resource_id
