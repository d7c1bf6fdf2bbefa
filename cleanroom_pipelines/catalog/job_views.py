"""Job views: what the model's owner and the starting account each see of a cross-account job.

Lives here: the starter's copies (name, description, tags); finding, listing and deleting jobs for either account;
and the exports each may see.
Add here when an account may see more of a cross-account job.
Keep out: permission to start one (the AWS API layer evaluates policies), and the job itself, which is stored once.
"""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Select, select, text, tuple_, union_all
from sqlalchemy.orm import Session

from cleanroom_pipelines.catalog.database import noted
from cleanroom_pipelines.catalog.deletion import Deletion
from cleanroom_pipelines.catalog.lifecycle import find_resource, lock_resource
from cleanroom_pipelines.catalog.names import Kind, check_tag_keys, check_tags
from cleanroom_pipelines.catalog.records import ExportJob, GenerationJob, JobView, Page
from cleanroom_pipelines.catalog.resources import check_page, make_token, read_token
from cleanroom_pipelines.catalog.specs import Starter
from cleanroom_pipelines.catalog.tables import (
    PLACE,
    ExportJobRow,
    GenerationJobRow,
    JobViewRow,
    ResourceRow,
    record_of,
)
from cleanroom_pipelines.errors import NotFoundError

# Seed fields hidden from the owner of the configured model if another account provided the seed.
_OTHERS_SEED: Mapping[str, Any] = {
    "seed_location": None,
    "seed_name": "",
    "seed_bytes": 0,
    "seed_digest": None,
    "requested_seed": None,
}


class JobViews(Deletion):
    """The part of the catalogue that shows a job to the model's owner and to the account that started the job."""

    def job_view(self, job_id: str, account_id: str, region: str | None = None) -> JobView:
        """Return a generation job as an account sees it, without the seed if the other account provided it.

        Args:
            job_id: Its partition key, the same for both accounts.
            account_id: The caller: the owner of the configured model, or the starter of the job.
            region: The required region; any if not given.

        Raises:
            NotFoundError: The account can see no such job.
        """
        with self._database.read() as session:
            job = find_resource(session, GenerationJobRow, job_id, region=region)
            seen = _seen(job, session.get(JobViewRow, job_id), account_id)
        if seen is None:
            raise _no_such_job()
        return seen

    def list_job_views(
        self,
        account_id: str,
        region: str,
        *,
        configured_audience_model_id: str | None = None,
        collaboration_id: str | None = None,
        limit: int = 100,
        after: str | None = None,
    ) -> Page[JobView]:
        """Return a page of an account's generation jobs, on its own and on other accounts' models, oldest first.

        Args:
            account_id: The caller.
            region: Their region.
            configured_audience_model_id: Only jobs of this configured model.
            collaboration_id: Only jobs of this collaboration.
            limit: 1 to 1,000.
            after: The token of the previous page.

        Raises:
            UsageError: The limit or the token is invalid.
        """
        check_page(limit)
        own = (
            select(*PLACE)
            .select_from(GenerationJobRow)
            .where(
                GenerationJobRow.kind == Kind.GENERATION_JOB,
                GenerationJobRow.account_id == account_id,
                GenerationJobRow.region == region,
            )
        )
        started = (
            select(JobViewRow.created_at, JobViewRow.job_id)
            .join(GenerationJobRow, GenerationJobRow.id == JobViewRow.job_id)
            .where(JobViewRow.account_id == account_id, JobViewRow.region == region)
        )
        wanted: list[ColumnElement[bool]] = []
        if configured_audience_model_id is not None:
            wanted.append(GenerationJobRow.configured_audience_model_id == configured_audience_model_id)
        if collaboration_id is not None:
            wanted.append(GenerationJobRow.collaboration_id == collaboration_id)
        with self._database.read() as session:
            keys, token = _merged(session, own.where(*wanted), started.where(*wanted), limit=limit, after=after)
            rows = session.execute(
                select(GenerationJobRow, JobViewRow)
                .outerjoin(JobViewRow, JobViewRow.job_id == GenerationJobRow.id)
                .where(GenerationJobRow.id.in_(keys))
            )
            seen = {job.id: _seen(job, view, account_id) for job, view in rows}
        return Page(tuple(one for key in keys if (one := seen.get(key)) is not None), token)

    @noted
    def delete_job_view(self, job_id: str, account_id: str, region: str | None = None) -> None:
        """Delete a job for one account: the starter deletes only its own copy, the owner deletes the whole job.

        The starter's copy is deleted when this returns; the owner keeps the audience and all its exports. The
        owner's deletion works as in `request_delete`: the starter sees DELETE_PENDING too, and loses its copy when
        the deletion finishes.

        Raises:
            NotFoundError: The account can see no such job.
        """
        with self._database.write() as session:
            seen = _lock_seen(session, job_id, account_id, region)
            if isinstance(seen, JobViewRow):
                session.delete(seen)
                return
        self.request_delete(Kind.GENERATION_JOB, job_id, account_id)

    @noted
    def set_job_view_tags(
        self, job_id: str, account_id: str, tags: Mapping[str, str], region: str | None = None
    ) -> None:
        """Add tags to this account's copy of a job, or update the values of existing ones.

        Raises:
            UsageError: A tag breaks a rule, or there would be more than 50.
            NotFoundError: The account can see no such job.
        """
        with self._database.write() as session:
            row = _lock_seen(session, job_id, account_id, region)
            merged = {**row.tags, **tags}
            check_tags(merged)
            row.tags = merged

    @noted
    def remove_job_view_tags(
        self, job_id: str, account_id: str, keys: Iterable[str], region: str | None = None
    ) -> None:
        """Remove tags from this account's copy of a job; unknown keys are ignored.

        Raises:
            UsageError: A key is invalid.
            NotFoundError: The account can see no such job.
        """
        unwanted = set(keys)
        check_tag_keys(unwanted)
        with self._database.write() as session:
            row = _lock_seen(session, job_id, account_id, region)
            row.tags = {key: value for key, value in row.tags.items() if key not in unwanted}

    def list_viewed_exports(
        self,
        account_id: str,
        region: str,
        *,
        generation_job_id: str | None = None,
        limit: int = 100,
        after: str | None = None,
    ) -> Page[ExportJob]:
        """Return a page of the export jobs that an account can see, oldest first.

        These are all exports of jobs on its own models. Of a job on another account's model, they are the exports
        that the account started itself, until it deletes its copy of the job; they show its own account id and no
        location, because the location belongs to the owner.

        Args:
            account_id: The caller.
            region: Their region.
            generation_job_id: Only exports of this job.
            limit: 1 to 1,000.
            after: The token of the previous page.

        Raises:
            UsageError: The limit or the token is invalid.
        """
        check_page(limit)
        every = (
            select(*PLACE)
            .select_from(ExportJobRow)
            .where(ExportJobRow.kind == Kind.EXPORT_JOB, ExportJobRow.region == region)
        )
        if generation_job_id is not None:
            every = every.where(ExportJobRow.generation_job_id == generation_job_id)
        own = every.where(ExportJobRow.account_id == account_id)
        started = every.join(JobViewRow, JobViewRow.job_id == ExportJobRow.generation_job_id).where(
            JobViewRow.account_id == account_id, ExportJobRow.started_by == account_id
        )
        with self._database.read() as session:
            keys, token = _merged(session, own, started, limit=limit, after=after)
            rows = session.scalars(select(ExportJobRow).where(ExportJobRow.id.in_(keys)))
            seen = {row.id: _seen_export(row, account_id) for row in rows}
        return Page(tuple(seen[key] for key in keys if key in seen), token)


def add_view(session: Session, job: ResourceRow, starter: Starter) -> None:
    """Insert the starting account's own copy (name, description and tags) of a new cross-account job."""
    session.add(
        JobViewRow(
            job_id=job.id,
            account_id=starter.account_id,
            region=job.region,
            name=starter.name,
            description=starter.description,
            tags=dict(starter.tags),
            created_at=job.created_at,
            updated_at=job.updated_at,
        )
    )
    session.flush()


def has_view(session: Session, job_id: str, account_id: str) -> bool:
    """Return whether the account started this cross-account job and still has its own copy of it."""
    view = session.get(JobViewRow, job_id)
    return view is not None and view.account_id == account_id


def view_named(session: Session, name: str, account_id: str, region: str) -> str | None:
    """Return the id of the cross-account job that this account started under this name, or None."""
    return session.scalar(
        select(JobViewRow.job_id).where(
            JobViewRow.account_id == account_id, JobViewRow.region == region, JobViewRow.name == name
        )
    )


def lock_job_names(session: Session, region: str, *account_ids: str) -> None:
    """Lock the job names of these accounts until the transaction ends.

    Jobs and copies are in two tables, which no unique constraint can span. On SQLite a write locks the whole
    database anyway.
    """
    if session.get_bind().dialect.name != "postgresql":
        return
    for account_id in sorted(set(account_ids)):  # in a fixed order, to prevent deadlocks
        digest = hashlib.sha256(f"job names {account_id} {region}".encode()).digest()
        key = int.from_bytes(digest[:8], "big", signed=True)
        session.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": key})


def _merged(
    session: Session, *sides: Select[datetime, str], limit: int, after: str | None
) -> tuple[list[str], str | None]:
    """Merge listings into one page; return its ids in order, and the token of the next page, if there is one.

    Each listing is limited to one page, read from an index; a query over their union would sort everything.
    """
    pages = []
    for side in sides:
        place = tuple(side.selected_columns)
        page = side if after is None else side.where(tuple_(*place) > tuple_(*read_token(after)))
        pages.append(select(page.order_by(*place).limit(limit + 1).subquery()))
    both = union_all(*pages).subquery()
    found = session.execute(select(*both.c).order_by(*both.c).limit(limit + 1)).all()
    token = make_token(*found[limit - 1]) if len(found) > limit else None
    return [key for _, key in found[:limit]], token


def _seen(job: ResourceRow, view: JobViewRow | None, account_id: str) -> JobView | None:
    record = record_of(GenerationJob, job)
    if job.account_id == account_id:
        is_starter = record.started_by == account_id
        seen = record if is_starter else replace(record, **_OTHERS_SEED)
        return JobView(seen, True, is_starter, job.account_id)
    if view is None or view.account_id != account_id:
        return None
    own = replace(record, account_id=account_id, name=view.name, description=view.description, tags=view.tags)
    return JobView(own, False, True, job.account_id)


def _lock_seen(session: Session, job_id: str, account_id: str, region: str | None) -> ResourceRow | JobViewRow:
    job = lock_resource(session, GenerationJobRow, job_id, region=region)
    if job.account_id == account_id:
        return job
    view = session.get(JobViewRow, job_id, populate_existing=True)
    if view is None or view.account_id != account_id:
        raise _no_such_job()
    return view


def _seen_export(row: ExportJobRow, account_id: str) -> ExportJob:
    record = record_of(ExportJob, row)
    if record.account_id == account_id:
        return record
    return replace(record, account_id=account_id, output_location=None)


def _no_such_job() -> NotFoundError:
    return NotFoundError("There is no such generation job.", remedy="List the existing ones.")
