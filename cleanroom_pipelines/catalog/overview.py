"""Queries over the whole catalogue, for supervision and synchronisation with Dagster.

Lives here: queries over all resources of a kind, all live runs, or the whole database.
Add here when the shell must compare the whole catalogue with something.
Keep out: single resources (`resources.py`).
"""

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from datetime import datetime
from pathlib import Path

from sqlalchemy import and_, func, or_, select

from cleanroom_pipelines.catalog.database import Part, damaged
from cleanroom_pipelines.catalog.lifecycle import find_resource, find_version
from cleanroom_pipelines.catalog.names import Kind
from cleanroom_pipelines.catalog.records import (
    DELETING,
    OPEN,
    AudienceModel,
    ExportJob,
    GenerationJob,
    Resource,
    Status,
    Version,
)
from cleanroom_pipelines.catalog.tables import (
    PLACE,
    ROWS,
    AudienceModelRow,
    ExportJobRow,
    GenerationJobRow,
    InstallationRow,
    ResourceRow,
    VersionRow,
    WorkerRow,
    is_newest,
    record_of,
    resource_record,
    version_record,
)
from cleanroom_pipelines.errors import UsageError


class Overview(Part):
    """The part of the catalogue with queries over all resources, for supervision and synchronisation."""

    def ids(self, kind: Kind) -> tuple[str, ...]:
        """Return the partition keys of all resources of a kind, in order of creation."""
        row_type = ROWS[kind]
        with self._database.read() as session:
            query = select(row_type.id).where(row_type.kind == kind)
            return tuple(session.scalars(query.order_by(row_type.created_at, row_type.id)))

    def ids_by_kind(self) -> dict[Kind, tuple[str, ...]]:
        """Return the partition keys of all resources by kind, each kind in order of creation."""
        found: dict[Kind, list[str]] = {kind: [] for kind in Kind}
        query = select(ResourceRow.kind, ResourceRow.id).order_by(ResourceRow.created_at, ResourceRow.id)
        with self._database.read() as session:
            for kind, resource_id in session.execute(query):
                found[kind].append(resource_id)
        return {kind: tuple(ids) for kind, ids in found.items()}

    def iterate(self, kind: Kind) -> Iterator[Resource]:
        """Yield all resources of a kind in their current state, in order of creation."""
        row_type = ROWS[kind]
        with self._database.read() as session:
            query = select(row_type).where(row_type.kind == kind)
            rows = session.scalars(query.order_by(row_type.created_at, row_type.id))
            records = [resource_record(row) for row in rows]
        yield from records

    def with_newest(self, kind: Kind) -> tuple[tuple[Resource, Version], ...]:
        """Return all resources of a kind with their newest versions, in order of creation, in one statement."""
        row_type = ROWS[kind]
        query = (
            select(row_type, VersionRow)
            .join(VersionRow, VersionRow.resource_id == row_type.id)
            .where(row_type.kind == kind, is_newest())
            .order_by(*PLACE)
        )
        with self._database.read() as session:
            return tuple(
                (resource_record(row), version_record(version)) for row, version in session.execute(query)
            )

    def failures(self, since: datetime | None = None) -> tuple[Version, ...]:
        """Return the newest versions that failed, oldest failure first.

        Args:
            since: UTC; only versions that failed later. All if not given.
        """
        query = (
            select(VersionRow)
            .join(ResourceRow, ResourceRow.id == VersionRow.resource_id)
            .where(is_newest(), VersionRow.status == Status.CREATE_FAILED, ResourceRow.status.not_in(DELETING))
        )
        if since is not None:
            query = query.where(VersionRow.finished_at > since)
        with self._database.read() as session:
            rows = session.scalars(query.order_by(VersionRow.finished_at, VersionRow.resource_id))
            return tuple(version_record(row) for row in rows)

    def count_failures(self) -> int:
        """Count the resources whose newest version failed."""
        query = (
            select(func.count())
            .select_from(VersionRow)
            .join(ResourceRow, ResourceRow.id == VersionRow.resource_id)
            .where(is_newest(), VersionRow.status == Status.CREATE_FAILED, ResourceRow.status.not_in(DELETING))
        )
        with self._database.read() as session:
            return session.scalar(query) or 0

    def coming_refreshes(self, limit: int) -> tuple[AudienceModel, ...]:
        """Return the models with a declared refresh, ordered by when it is due."""
        query = (
            select(AudienceModelRow)
            .where(AudienceModelRow.next_refresh_at.is_not(None), AudienceModelRow.status.not_in(DELETING))
            .order_by(AudienceModelRow.next_refresh_at, AudienceModelRow.id)
            .limit(limit)
        )
        return self._all(AudienceModel, query)

    def exports_since(self, since: datetime, limit: int) -> tuple[tuple[ExportJob, Version], ...]:
        """Return the exports that finished after a time, newest first, each with its current version."""
        query = (
            select(ExportJobRow, VersionRow)
            .join(VersionRow, VersionRow.resource_id == ExportJobRow.id)
            .where(VersionRow.number == ExportJobRow.current_version, VersionRow.finished_at > since)
            .order_by(VersionRow.finished_at.desc(), VersionRow.resource_id)
            .limit(limit)
        )
        with self._database.read() as session:
            return tuple(
                (record_of(ExportJob, row), version_record(found)) for row, found in session.execute(query)
            )

    def refreshed_since(self, since: datetime, limit: int) -> tuple[tuple[Resource, Version], ...]:
        """Return the jobs, then the exports, refreshed after a time, newest first, with their current versions."""
        found: list[tuple[Resource, Version]] = []
        with self._database.read() as session:
            for row_type in (GenerationJobRow, ExportJobRow):
                query = (
                    select(row_type, VersionRow)
                    .join(VersionRow, VersionRow.resource_id == row_type.id)
                    .where(VersionRow.number == row_type.current_version, VersionRow.number > 1)
                    .where(VersionRow.finished_at > since)
                    .order_by(VersionRow.finished_at.desc(), VersionRow.resource_id)
                    .limit(limit)
                )
                found += [(resource_record(row), version_record(of_it)) for row, of_it in session.execute(query)]
        return tuple(found)

    def mark_of_change(self) -> str:
        """Return a text that changes whenever a resource is created or deleted, without reading all resources."""
        newest = (select(func.max(ResourceRow.created_at)).where(ResourceRow.kind == kind) for kind in Kind)
        generation = select(InstallationRow.generation).scalar_subquery()
        with self._database.read() as session:
            row = session.execute(select(generation, *(query.scalar_subquery() for query in newest))).one()
        return " ".join(map(str, row))

    def find(self, resource_id: str) -> Resource | None:
        """Return the resource of any kind with this partition key; None if there is none."""
        with self._database.read() as session:
            kind = session.scalar(select(ResourceRow.kind).where(ResourceRow.id == resource_id))
            return None if kind is None else resource_record(find_resource(session, ROWS[kind], resource_id))

    def named(self, name_or_key: str, kind: Kind | None = None) -> tuple[Resource, ...]:
        """Return the resource with this partition key, or else all resources with this name, parents first."""
        query = select(ResourceRow.kind, ResourceRow.id).order_by(ResourceRow.created_at, ResourceRow.id)
        if kind is not None:
            query = query.where(ResourceRow.kind == kind)
        with self._database.read() as session:
            for condition in (ResourceRow.id == name_or_key, ResourceRow.name == name_or_key):
                if found := session.execute(query.where(condition)).all():
                    return tuple(resource_record(find_resource(session, ROWS[row[0]], row[1])) for row in found)
        return ()

    def names(self, kind: Kind | None = None) -> tuple[str, ...]:
        """Return the distinct names of all resources, or of the resources of one kind, in alphabetical order."""
        query = select(ResourceRow.name).distinct().order_by(ResourceRow.name)
        if kind is not None:
            query = query.where(ResourceRow.kind == kind)
        with self._database.read() as session:
            return tuple(session.scalars(query))

    def count(self, kind: Kind, account_id: str) -> int:
        """Count the resources of a kind that an account has, in all regions."""
        query = select(func.count()).where(ResourceRow.kind == kind, ResourceRow.account_id == account_id)
        with self._database.read() as session:
            return session.scalar(query) or 0

    def count_unfinished_jobs(self, account_id: str) -> int:
        """Count the pending and running generation jobs that an account started, on any account's model."""
        # Starts from the open versions, which are few and indexed, whatever the number of jobs.
        query = (
            select(func.count(GenerationJobRow.id.distinct()))
            .select_from(VersionRow)
            .join(GenerationJobRow, GenerationJobRow.id == VersionRow.resource_id)
            .where(VersionRow.status.in_(OPEN), VersionRow.kind == Kind.GENERATION_JOB)
            .where(GenerationJobRow.started_by == account_id, GenerationJobRow.status.in_(OPEN))
        )
        with self._database.read() as session:
            return session.scalar(query) or 0

    def unfinished(self) -> dict[Status, int]:
        """Count the pending and in-progress versions by status; zero counts are omitted."""
        query = (
            select(VersionRow.status, func.count())
            .join(ResourceRow, ResourceRow.id == VersionRow.resource_id)
            .where(VersionRow.status.in_(OPEN), ResourceRow.status.not_in(DELETING))
            .group_by(VersionRow.status)
        )
        with self._database.read() as session:
            return {row[0]: row[1] for row in session.execute(query)}

    def count_started(self, since: datetime) -> dict[tuple[Kind, Status], int]:
        """Count the versions that started after a time, by kind and current status; zero counts are omitted."""
        query = (
            select(VersionRow.kind, VersionRow.status, func.count())
            .where(VersionRow.started_at > since)
            .group_by(VersionRow.kind, VersionRow.status)
        )
        with self._database.read() as session:
            return {(row[0], row[1]): row[2] for row in session.execute(query)}

    def version(self, kind: Kind, resource_id: str, number: int) -> Version:
        """Return one version of a resource.

        Raises:
            NotFoundError: The resource or version does not exist.
        """
        with self._database.read() as session:
            return version_record(find_version(session, find_resource(session, ROWS[kind], resource_id), number))

    def live_runs(self) -> frozenset[str]:
        """Return the ids of the runs that hold a claim, and of the workers that were not removed as dead."""
        with self._database.read() as session:
            claimed = select(VersionRow.run_id).where(VersionRow.status == Status.CREATE_IN_PROGRESS)
            runs = {run_id for run_id in session.scalars(claimed) if run_id}
            return frozenset(runs | set(session.scalars(select(WorkerRow.worker_id))))

    def spent_seeds(self, failed_before: datetime) -> tuple[GenerationJob, ...]:
        """Return finished jobs whose seed is no longer needed but still stored.

        Args:
            failed_before: UTC; jobs that failed later are excluded because they may still be retried.
        """
        query = (
            select(GenerationJobRow)
            .join(VersionRow, VersionRow.resource_id == GenerationJobRow.id)
            .where(is_newest())
            .where(GenerationJobRow.seed_location.is_not(None), GenerationJobRow.keep_seed.is_(False))
            .where(
                or_(
                    VersionRow.status == Status.ACTIVE,
                    and_(VersionRow.status == Status.CREATE_FAILED, VersionRow.finished_at <= failed_before),
                )
            )
        )
        return self._all(GenerationJob, query)

    def copy_to(self, target: Path) -> None:
        """Copy a consistent state of the database to a file while other processes keep using it.

        Raises:
            UsageError: The catalogue is not an SQLite file.
        """
        if self._database.file is None:
            raise UsageError(
                "Only an SQLite catalogue can be copied.", remedy="Use the database server's own tools."
            )
        with closing(sqlite3.connect(self._database.file)) as source, closing(sqlite3.connect(target)) as copy:
            source.backup(copy)

    def check_file(self) -> None:
        """Check an SQLite database file for damage; a database server has its own tools.

        Raises:
            ConfigurationError: The file is damaged.
        """
        if self._database.file is None:
            return
        with self._database.look() as connection:
            found = connection.exec_driver_sql("PRAGMA quick_check(1)").scalar()
        if found != "ok":
            raise damaged()
