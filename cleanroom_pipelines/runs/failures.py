"""Failures in Dagster: why a version failed, on the page of its partition.

Lives here: the reason and the remedy of a failed version, and failed runs for versions that failed without a run.
Add here when a version can fail in another way.
Keep out: what a run reports about its own failure (defs.materializing), and retries (catalog).

Dagster shows a partition as failed if its newest run failed. A version can also fail without a run: its parent
failed, it was cancelled while it waited, or its process died. Each such version gets a failed run, with an
id derived from the attempt, so that processes that look at the same time record it once.
"""

import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import dagster as dg
from dagster._core.errors import DagsterRunAlreadyExists
from dagster._core.events import AssetObservationData, DagsterEvent, DagsterEventType

from cleanroom_pipelines.catalog import RECORDS, Catalog, Kind, Resource, Status, Version
from cleanroom_pipelines.errors import NotFoundError, StatusCode
from cleanroom_pipelines.runs.code_location import load_repository, origin_of
from cleanroom_pipelines.runs.installation import Installation
from cleanroom_pipelines.runs.kinds import ASSETS_OF, KINDS
from cleanroom_pipelines.runs.labels import EXPLAINED_TAG, PARTITION_TAG, tags_of
from cleanroom_pipelines.runs.traces import add_partitions

Metadata = dict[str, Any]

# Clocks of hosts may differ by less, and a run ends within this time of its version.
_OVERLAP = timedelta(minutes=10)
_MOST_PER_TICK = 200
_OWN_RUN = (dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED)
_DATA_CODES = (
    StatusCode.TRAINING_DATA_NOT_FOUND,
    StatusCode.TRAINING_DATA_INVALID,
    StatusCode.TRAINING_DATA_TOO_SMALL,
)


@dataclass(frozen=True)
class Failure:
    """Why a version failed, for the pages of its partition.

    Args:
        record: The resource.
        version: Its newest version, which failed.
        root: The resource whose failure is the cause; the same one unless a parent failed.
        reason: What happened and what to do, without data.
    """

    record: Resource
    version: Version
    root: Resource
    reason: str

    @property
    def sentence(self) -> str:
        """The reason; for a failed parent with the parent's name in front."""
        if self.root.id == self.record.id:
            return self.reason
        return f"The {self.root.kind.words} '{self.root.name}' failed: {self.reason}"

    @property
    def remedy(self) -> str:
        """How to go on once the problem is solved: a click and a command."""
        here, command = f"this {self.record.kind.words}", f"cleanroom retry {self.record.id}"
        if self.root.id != self.record.id:
            here = f"the {self.root.kind.words} '{self.root.name}' and, once that is done, on {here}"
            command = "cleanroom retry --failed"
        return f"Solve the problem. Then click Materialize on {here}, or run `{command}`."

    @property
    def metadata(self) -> Metadata:
        """The first entries of every page about this failure, as text, which Dagster shows without a click."""
        return {
            "reason": self.sentence,
            "what to do": self.remedy,
            "status": f"version {self.version.number}: {self.version.status} ({self.version.status_code})",
            "failed first": dg.MetadataValue.md(link_to(self.root)),
        }

    def observations(self, more: Mapping[str, Any] | None = None) -> Iterator[dg.AssetObservation]:
        """Yield an event for the partition of each asset of this resource.

        Args:
            more: Metadata to add, such as a validation report.
        """
        for asset in ASSETS_OF[self.record.kind]:
            yield dg.AssetObservation(
                asset,
                description=self.sentence,
                metadata={**self.metadata, **(more or {})},
                partition=self.record.id,
            )


def failure_of(catalog: Catalog, kind: Kind, partition: str) -> Failure | None:
    """Return why a resource's newest version failed, or None if it did not fail or does not exist."""
    try:
        record, version = catalog.get(RECORDS[kind], partition), catalog.resources.newest_version(kind, partition)
        if version.status is not Status.CREATE_FAILED:
            return None
        root, cause = _root_of(catalog, record, version)
    except NotFoundError:
        return None
    return Failure(record, version, root, cause.status_message or "The work failed.")


def explain_failures(installation: Installation, instance: dg.DagsterInstance) -> int:
    """Make sure that Dagster shows each failed version as failed, with its reason on the partition's page.

    Cheap enough for every tick: it looks at versions that failed since it last looked.

    Returns:
        Number of versions explained.
    """
    key, storage = f"cleanroom/failures/{installation.opened.identity.id}", instance.daemon_cursor_storage
    noted = storage.get_cursor_values({key}).get(key)
    seen = datetime.fromisoformat(noted) if noted else None
    failed = installation.catalog.resources.failures(seen and seen - _OVERLAP)[:_MOST_PER_TICK]
    n_explained = sum(_explain(installation, instance, version) for version in failed)
    newest = max((version.finished_at for version in failed if version.finished_at), default=seen)
    if newest and newest != seen:
        storage.set_cursor_values({key: newest.astimezone(UTC).isoformat()})
    return n_explained


def link_to(record: Resource) -> str:
    """Return a Markdown link to the partition's page of a resource."""
    return f"[{escaped(record.name)}](/assets/{ASSETS_OF[record.kind][-1]}?view=partitions&partition={record.id})"


def escaped(text: str) -> str:
    """Escape user-supplied text for Markdown."""
    return "".join(f"\\{character}" if character in "\\`*_{}[]()<>#+-!|~" else character for character in text)


def _root_of(catalog: Catalog, record: Resource, version: Version) -> tuple[Resource, Version]:
    """Return the resource whose failure made this one fail, and its failed version."""
    while record.parent_kind is not None and record.parent_id is not None:
        if version.status_code not in (StatusCode.PARENT_NOT_ACTIVE, *_DATA_CODES):
            break
        above = catalog.resources.newest_version(record.parent_kind, record.parent_id)
        if above.status is not Status.CREATE_FAILED:
            break
        record, version = catalog.get(RECORDS[record.parent_kind], record.parent_id), above
    return record, version


def _explain(installation: Installation, instance: dg.DagsterInstance, version: Version) -> bool:
    run = instance.get_run_by_id(version.run_id) if version.run_id else None
    if run is not None and (not run.is_finished or run.tags.get(EXPLAINED_TAG) == version.run_key):
        return False
    failure = failure_of(installation.catalog, version.kind, version.resource_id)
    if failure is None:
        return False
    if run is None or run.status not in _OWN_RUN:
        return _record_failed_run(installation, instance, failure)
    _report(instance, run, failure)
    instance.add_run_tags(run.run_id, {EXPLAINED_TAG: version.run_key})
    return True


def _record_failed_run(installation: Installation, instance: dg.DagsterInstance, failure: Failure) -> bool:
    """Record a failed run for a version that had none; return False if it is recorded already."""
    kind, partition = failure.record.kind, failure.record.id
    run_id = str(uuid.uuid5(uuid.NAMESPACE_URL, f"{installation.opened.identity.id}/{failure.version.run_key}"))
    run = instance.get_run_by_id(run_id)
    if run is None:
        add_partitions(instance, kind, [partition])
        job_name = KINDS[kind].job
        tags = tags_of(installation.catalog, failure.version) | {EXPLAINED_TAG: failure.version.run_key}
        try:
            run = instance.create_run_for_job(
                load_repository().get_job(job_name),
                run_id=run_id,
                tags=tags | {PARTITION_TAG: partition},
                remote_job_origin=origin_of(job_name),
            )
        except DagsterRunAlreadyExists:  # another process records it at this moment
            return False
    if run.is_finished:
        return False
    _report(instance, run, failure)
    instance.report_run_failed(run, failure.sentence)
    return True


def _report(instance: dg.DagsterInstance, run: dg.DagsterRun, failure: Failure) -> None:
    for observation in failure.observations():
        event = DagsterEvent(
            event_type_value=DagsterEventType.ASSET_OBSERVATION.value,
            job_name=run.job_name,
            event_specific_data=AssetObservationData(observation),
        )
        instance.report_dagster_event(event, run.run_id)
