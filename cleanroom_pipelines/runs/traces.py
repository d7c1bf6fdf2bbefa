"""Dagster's records of a resource: its partition, its runs and their events.

Lives here: partition sets and jobs by name, adding partitions, finding and deleting a partition's records.
Add here when Dagster stores something else about a partition.
Keep out: which partitions to delete (deleting.py) and which runs are dead (supervision.py).

In Dagster 1.13.27, `wipe_asset_partitions` fails with "not supported yet for this event log storage", on SQLite
and on PostgreSQL, and `delete_run` keeps asset check results, the asset's newest materialisation, the run's event
file and its captured output. This module therefore deletes the rest from Dagster's own tables; storages other than
its SQL storages lose only their runs. Two things stay: sensor ticks, which contain run keys and are purged by age,
and backfills, which contain partitions. Neither holds more than the partition key.
"""

from collections.abc import Collection, Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path

import dagster as dg
from dagster._core.storage.event_log import SqlEventLogStorage, SqliteEventLogStorage
from dagster._core.storage.event_log.schema import (
    AssetCheckExecutionsTable,
    AssetEventTagsTable,
    AssetKeyTable,
    SqlEventLogStorageTable,
)
from dagster._core.storage.tags import PARTITION_NAME_TAG
from sqlalchemy import and_, or_, select
from sqlalchemy.exc import IntegrityError

from cleanroom_pipelines.catalog import Kind
from cleanroom_pipelines.runs.installation import Installation
from cleanroom_pipelines.runs.kinds import KINDS

_AT_WORK = [dg.DagsterRunStatus.STARTING, dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.CANCELING]
# After losing this many races in a row, the cause must be something else.
_RACES = 20


def add_partitions(instance: dg.DagsterInstance, kind: Kind, wanted: Collection[str]) -> None:
    """Add the missing partitions to Dagster, and retry if another process has just added some of them."""
    for is_last in (False,) * _RACES + (True,):
        missing = sorted(set(wanted) - shown_partitions(instance, kind))
        if not missing:
            return
        try:
            instance.add_dynamic_partitions(KINDS[kind].partition_set, missing)
        except IntegrityError:
            if is_last:
                raise


def shown_partitions(instance: dg.DagsterInstance, kind: Kind) -> set[str]:
    """Return the partitions of a kind that exist in Dagster."""
    return set(instance.get_dynamic_partitions(KINDS[kind].partition_set))


class Comparison:
    """Remembers that Dagster's partitions match the catalogue, until resources change or an hour has passed.

    It is also due once an hour, because the clock of a host that creates resources may be slow. The result is
    noted in Dagster's storage, so a lost or restored storage is compared again.

    Args:
        installation: The installation with the catalogue.
        instance: Dagster's instance with the partitions.
        name: Name of the comparison.
    """

    def __init__(self, installation: Installation, instance: dg.DagsterInstance, name: str) -> None:
        self._storage = instance.daemon_cursor_storage
        self._key = f"cleanroom/{name}/{installation.opened.identity.id}"
        self._mark = f"{installation.catalog.resources.mark_of_change()} {installation.clock():%Y-%m-%dT%H}"

    @property
    def is_made(self) -> bool:
        """Whether the comparison was made and is still valid: no resource was created or deleted since."""
        return self._storage.get_cursor_values({self._key}).get(self._key) == self._mark

    def note(self) -> None:
        """Record that Dagster's partitions match the catalogue as it was when this object was created."""
        self._storage.set_cursor_values({self._key: self._mark})


def hide_partition(instance: dg.DagsterInstance, kind: Kind, partition: str) -> None:
    """Remove a partition from Dagster; do nothing if it does not exist."""
    instance.delete_dynamic_partition(KINDS[kind].partition_set, partition)


def has_runs(instance: dg.DagsterInstance, partition: str) -> bool:
    """Whether Dagster has any run of this partition."""
    return bool(instance.get_runs(_runs_of([partition]), limit=1))


def has_active_run(instance: dg.DagsterInstance, partitions: Sequence[str], created_since: datetime) -> bool:
    """Whether a run of these partitions is active and may still write events.

    Args:
        instance: Dagster's instance.
        partitions: Partition keys.
        created_since: A run that has not started counts as active only if it was created after this time.
    """
    started = _runs_of(partitions, _AT_WORK)
    if instance.get_runs(started, limit=1):
        return True
    waiting = _runs_of(partitions, [dg.DagsterRunStatus.NOT_STARTED])
    return any(record.create_timestamp > created_since for record in instance.get_run_records(waiting))


def partitions_with_traces(instance: dg.DagsterInstance, assets: Collection[str]) -> set[str]:
    """Return the partitions of these assets for which Dagster has runs or materialisations of this project."""
    found = {
        partition for asset in assets for partition in instance.get_materialized_partitions(dg.AssetKey(asset))
    }
    ours, jobs = {dg.AssetKey(asset) for asset in assets}, {row.job for row in KINDS.values()}
    named = dict(instance.get_run_tags(tag_keys=[PARTITION_NAME_TAG])).get(PARTITION_NAME_TAG, set())
    for partition in named - found:
        runs = instance.get_runs(_runs_of([partition]))
        if runs and all(run.job_name in jobs or _is_only_of(run, ours) for run in runs):
            found.add(partition)
    return found


def remove_traces(instance: dg.DagsterInstance, assets: Sequence[str], partition: str) -> None:
    """Delete Dagster's records of a partition: its runs with events, results and output, and asset records.

    Can be repeated after an interruption at any point.

    Args:
        instance: Dagster's instance.
        assets: The assets that have this partition.
        partition: The partition key; none of its runs may be active.
    """
    run_ids = [run.run_id for run in instance.get_runs(_runs_of([partition]))]
    for run_id in run_ids:
        instance.event_log_storage.delete_events(run_id)
        with suppress(FileNotFoundError):  # another host deleted it first
            instance.compute_log_manager.delete_logs(prefix=[run_id])
    _remove_events(instance, assets, partition, run_ids)
    for run_id in run_ids:
        instance.run_storage.delete_run(run_id)  # last: after a kill, the rest is found through the run
        _remove_shard(instance, run_id)


def _is_only_of(run: dg.DagsterRun, assets: set[dg.AssetKey]) -> bool:
    return bool(run.asset_selection) and set(run.asset_selection or ()) <= assets


def _runs_of(partitions: Sequence[str], statuses: Sequence[dg.DagsterRunStatus] = ()) -> dg.RunsFilter:
    return dg.RunsFilter(tags={PARTITION_NAME_TAG: list(partitions)}, statuses=list(statuses))


def _remove_events(
    instance: dg.DagsterInstance, assets: Sequence[str], partition: str, run_ids: Sequence[str]
) -> None:
    storage = instance.event_log_storage
    if not isinstance(storage, SqlEventLogStorage):
        return
    events, checks, asset_keys = SqlEventLogStorageTable.c, AssetCheckExecutionsTable.c, AssetKeyTable.c
    keys = [dg.AssetKey(asset).to_string() for asset in assets]
    of_partition = and_(events.asset_key.in_(keys), events.partition == partition)
    with storage.index_connection() as connection:
        tagged = AssetEventTagsTable.c.event_id.in_(select(events.id).where(of_partition))
        connection.execute(AssetEventTagsTable.delete().where(tagged))
        connection.execute(SqlEventLogStorageTable.delete().where(of_partition))
        checked = and_(checks.asset_key.in_(keys), checks.partition == partition)
        connection.execute(AssetCheckExecutionsTable.delete().where(or_(checked, checks.run_id.in_(run_ids))))
        forget_run = AssetKeyTable.update().values(last_run_id=None)
        connection.execute(forget_run.where(asset_keys.asset_key.in_(keys), asset_keys.last_run_id.in_(run_ids)))
        newest = select(asset_keys.asset_key, asset_keys.last_materialization)
        for key, text in connection.execute(newest.where(asset_keys.asset_key.in_(keys))).all():
            if text and f'"{partition}"' in text:
                # Without this, Dagster searches its events for the newest remaining one. A newer one stays.
                forget = AssetKeyTable.update().values(last_materialization=None)
                connection.execute(
                    forget.where(asset_keys.asset_key == key, asset_keys.last_materialization == text)
                )
    instance.wipe_asset_cached_status([dg.AssetKey(asset) for asset in assets])  # it caches partition counts


def _remove_shard(instance: dg.DagsterInstance, run_id: str) -> None:
    """Delete the SQLite file of a run's events; deleting its rows alone would leave their text in the file."""
    storage = instance.event_log_storage
    if isinstance(storage, SqliteEventLogStorage):
        for suffix in ("", "-wal", "-shm"):
            Path(f"{storage.path_for_shard(run_id)}{suffix}").unlink(missing_ok=True)
