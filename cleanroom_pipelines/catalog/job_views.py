"""Job views: a generation job that one account started on another account's configured model, as each sees it.

Lives here: the starter's copies (name, description, tags), what either account finds, lists and deletes, and the
exports each may see.
Add here when an account may know something else of a job across accounts.
Keep out: whether it may start one (the way in evaluates policies), and the job itself, of which there is one.
"""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Select, select, text, tuple_, union_all
from sqlalchemy.orm import Session

from cleanroom_pipelines.catalog.deletion import Deletion
from cleanroom_pipelines.catalog.lifecycle import find_resource, lock_resource
from cleanroom_pipelines.catalog.names import Kind, check_tag_keys, check_tags
from cleanroom_pipelines.catalog.noting import noted
from cleanroom_pipelines.catalog.records import ExportJob, GenerationJob, JobView, JobViewPage, Page
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

# What the owner of the configured model is not told of a seed that another account gave.
_OTHERS_SEED: Mapping[str, Any] = {
    "seed_location": None,
    "seed_name": "",
    "seed_bytes": 0,
    "seed_digest": None,
    "requested_seed": None,
}


class JobViews(Deletion):
    """The part of the catalogue that tells a job to its two accounts."""

    def job_view(self, job_id: str, account_id: str, region: str | None = None) -> JobView:
        """A generation job as an account sees it; nothing of the seed where the other account gave it.

        Args:
            job_id: Its partition key, the same for both accounts.
            account_id: Who asks: the owner of the configured model, or who started the job.
            region: Where it must be; anywhere if not given.

        Raises:
            NotFoundError: There is none that this account may see.
        """
        with self._database.read() as session:
            job = find_resource(session, Kind.GENERATION_JOB, job_id, region=region)
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
    ) -> JobViewPage:
        """Some generation jobs of an account in order of creation, its own and those it started elsewhere.

        Args:
            account_id: Who asks.
            region: Where they are.
            configured_audience_model_id: Only those made from this configured model.
            collaboration_id: Only those of this collaboration.
            limit: 1 to 1,000.
            after: Where the page before ended.

        Raises:
            UsageError: The limit or the token cannot be used.
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
        return JobViewPage(tuple(one for key in keys if (one := seen.get(key)) is not None), token)

    @noted
    def delete_job_view(self, job_id: str, account_id: str, region: str | None = None) -> None:
        """Delete a job for one of its accounts; neither can keep the other from it.

        The starter's copy is gone when this returns; the owner keeps the audience and all its exports. The owner's
        deletion goes the way of `request_delete`, shows as DELETE_PENDING to the starter too, and takes the
        starter's copy with it when it is finished.

        Raises:
            NotFoundError: There is none that this account may see.
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
        """Add tags to this account's copy of a job, or give those that exist new values.

        Raises:
            UsageError: A tag breaks a rule, or there would be more than 50.
            NotFoundError: There is none that this account may see.
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
        """Remove tags from this account's copy of a job; keys that no tag has are passed over.

        Raises:
            UsageError: A key that no tag may have.
            NotFoundError: There is none that this account may see.
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
    ) -> Page:
        """Some export jobs in order of creation: all of the account's own jobs, and those it started elsewhere.

        Of a job that it started elsewhere an account sees the exports that it started, as long as it has not
        deleted its copy; they come with its own account and without the location, which is the owner's.

        Args:
            account_id: Who asks.
            region: Where they are.
            generation_job_id: Only those of this job.
            limit: 1 to 1,000.
            after: Where the page before ended.

        Raises:
            UsageError: The limit or the token cannot be used.
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
    """Give the starter of a job that has just been inserted its copy."""
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
    """Whether the account has a copy of this job."""
    view = session.get(JobViewRow, job_id)
    return view is not None and view.account_id == account_id


def view_named(session: Session, name: str, account_id: str, region: str) -> str | None:
    """The id of the job of which the account has a copy of this name."""
    return session.scalar(
        select(JobViewRow.job_id).where(
            JobViewRow.account_id == account_id, JobViewRow.region == region, JobViewRow.name == name
        )
    )


def lock_job_names(session: Session, region: str, *account_ids: str) -> None:
    """Keep others from naming jobs in these accounts until the transaction ends.

    A job and a copy of one stand in two tables, over which no constraint reaches. On SQLite a write has the whole
    database anyway.
    """
    if session.get_bind().dialect.name != "postgresql":
        return
    for account_id in sorted(set(account_ids)):  # in one order, so that no two wait for each other
        digest = hashlib.sha256(f"job names {account_id} {region}".encode()).digest()
        key = int.from_bytes(digest[:8], "big", signed=True)
        session.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": key})


def _merged(
    session: Session, *sides: Select[datetime, str], limit: int, after: str | None
) -> tuple[list[str], str | None]:
    """A page of several listings together: the ids in order, and the token if more follow.

    Each side ends after a page by itself, from an index; over all at once the database would sort everything.
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
    job = lock_resource(session, Kind.GENERATION_JOB, job_id, region=region)
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
    return NotFoundError("There is no such generation job.", remedy="See the list of those that exist.")
