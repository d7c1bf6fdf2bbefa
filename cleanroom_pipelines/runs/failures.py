"""Failures in Dagster: show on the Dagster page of a partition why its version failed.

Lives here: the events about a failed version, and failed runs for versions that failed without a run.
Add here when Dagster must show something else about a failure.
Keep out: finding the reason (reasons.py), and what a run reports about its own failure (defs.materializing).

Dagster shows a partition as failed if its newest run failed. A version can also fail without a run: its parent
failed, it was cancelled while it waited, or its process died. Each such version gets a failed run, with an
id derived from the attempt, so that processes that look at the same time record it once.

What Dagster 1.13 without Dagster+ can show: the page of a partition shows the metadata of materialisations, and of
observations that follow a materialisation. Without a materialisation, it shows only that the newest run failed,
and links to the run, which shows the reason. It does not query checks, and the storage does not keep
AssetFailedToMaterialize events. The page of the partition's events starts with the newest observation, so links to
a failure lead there (reasons.link_to).
"""

import uuid
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import dagster as dg
from dagster._core.errors import DagsterRunAlreadyExists
from dagster._core.events import AssetObservationData, DagsterEvent, DagsterEventType

from cleanroom_pipelines.catalog import Version
from cleanroom_pipelines.runs.dagster_home import load_repository, origin_of
from cleanroom_pipelines.runs.installation import Installation
from cleanroom_pipelines.runs.kinds import ASSETS_OF, KINDS
from cleanroom_pipelines.runs.labels import EXPLAINED_TAG, PARTITION_TAG, tags_of
from cleanroom_pipelines.runs.reasons import Failure, failure_of, link_to
from cleanroom_pipelines.runs.traces import add_partitions

Metadata = dict[str, Any]

# Clocks of hosts may differ by less, and a run ends within this time of its version.
_OVERLAP = timedelta(minutes=10)
_MOST_PER_TICK = 200
_OWN_RUN = (dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED)


def metadata_of(failure: Failure) -> Metadata:
    """Return the metadata to show first for a failure: short texts, which Dagster shows without a click."""
    version = failure.version
    return {
        "reason": failure.sentence,
        "what to do": failure.remedy,
        "status": f"version {version.number}: {version.status} ({version.status_code})",
        "failed first": dg.MetadataValue.md(link_to(failure.root, is_failed=True)),
    }


def observations(failure: Failure, more: Mapping[str, Any] | None = None) -> Iterator[dg.AssetObservation]:
    """Yield one Dagster event per asset of a failed resource, to report the failure.

    Args:
        failure: The failure.
        more: Metadata to add, such as a validation report.
    """
    metadata = {**metadata_of(failure), **(more or {})}
    for asset in ASSETS_OF[failure.record.kind]:
        yield dg.AssetObservation(
            asset, description=failure.sentence, metadata=metadata, partition=failure.record.id
        )


def explain_failures(installation: Installation, instance: dg.DagsterInstance) -> int:
    """Make sure that Dagster shows each failed version as failed, with its reason on the partition's page.

    Cheap enough for every tick: it checks only versions that failed since the last call.

    Returns:
        Number of versions explained.
    """
    key, storage = f"cleanroom/failures/{installation.opened.identity.id}", instance.daemon_cursor_storage
    noted = storage.get_cursor_values({key}).get(key)
    seen = datetime.fromisoformat(noted) if noted else None
    n_explained, newest = 0, seen
    for version in installation.catalog.resources.failures(seen and seen - _OVERLAP):
        if n_explained == _MOST_PER_TICK:
            break
        n_explained += _explain(installation, instance, version)
        newest = max(newest or version.finished_at, version.finished_at) if version.finished_at else newest
    if newest and newest != seen:
        storage.set_cursor_values({key: newest.astimezone(UTC).isoformat()})
    return n_explained


def _explain(installation: Installation, instance: dg.DagsterInstance, version: Version) -> bool:
    run = instance.get_run_by_id(version.run_id) if version.run_id else None
    if run is not None and (not run.is_finished or run.tags.get(EXPLAINED_TAG) == version.run_key):
        return False
    failure = failure_of(installation.catalog, version.kind, version.resource_id)
    if failure is None:
        return False
    if instance.get_runs(dg.RunsFilter(tags={EXPLAINED_TAG: version.run_key}), limit=1):
        return False
    if run is None or run.status not in _OWN_RUN:
        return _record_failed_run(installation, instance, failure)
    _report(instance, run, failure)
    instance.add_run_tags(run.run_id, {EXPLAINED_TAG: version.run_key})
    return True


def _record_failed_run(installation: Installation, instance: dg.DagsterInstance, failure: Failure) -> bool:
    """Record a failed Dagster run for a version that failed without a run; False if it was recorded before."""
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
    for observation in observations(failure):
        event = DagsterEvent(
            event_type_value=DagsterEventType.ASSET_OBSERVATION.value,
            job_name=run.job_name,
            event_specific_data=AssetObservationData(observation),
        )
        instance.report_dagster_event(event, run.run_id)
