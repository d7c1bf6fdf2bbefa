"""Deleted resources disappear from Dagster: from the graph, the runs and the partitions.

Contract: the sensor requests one deletion run at a time; `run_pending` and workers delete too; resources built by
the real assets leave no trace, and the others are unchanged. A resource is in the catalogue only once its work can
run.
"""

import sqlite3
from pathlib import Path

import dagster as dg
import pytest

from cleanroom_pipelines.audiences.sizes import AudienceSize
from cleanroom_pipelines.catalog import ConfiguredAudienceModelSpec, GenerationJob, Kind
from cleanroom_pipelines.runs import running
from cleanroom_pipelines.runs.kinds import ASSETS_OF, KINDS
from cleanroom_pipelines.runs.running import run_pending
from cleanroom_pipelines.storage import ArtifactStore

from .. import worlds
from .conftest import Shell, repository
from .ticks import as_run, tick

ORDER = (Kind.GENERATION_JOB, Kind.CONFIGURED_AUDIENCE_MODEL, Kind.AUDIENCE_MODEL, Kind.TRAINING_DATASET)


def named(shell: Shell, partition: str) -> list[str]:
    """Where Dagster's databases name a partition, and the files of the home that do."""
    found = []
    for path in (shell.folder / "dagster").rglob("*.db"):
        with sqlite3.connect(path) as connection:
            tables = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
            for (table,) in tables:
                rows = connection.execute(f'SELECT * FROM "{table}"')
                found += [table] * any(partition in str(value) for row in rows for value in row)
    stored = (shell.folder / "home" / "artifacts").glob(f"*/{partition[-12:]}")
    return sorted([*found, *(path.parent.name for path in stored)])


def shown(shell: Shell) -> dict[str, set[str]]:
    """What the graph counts: the materialised partitions by asset."""
    return {
        asset: shell.instance.get_materialized_partitions(dg.AssetKey(asset))
        for assets in ASSETS_OF.values()
        for asset in assets
    }


def ask(shell: Shell, kind: Kind) -> str:
    (key,) = shell.installation.catalog.resources.ids(kind)
    shell.installation.catalog.deletion.request_delete(kind, key)
    return key


def test_everything_is_deleted_in_order(again: Shell) -> None:
    job, export = again.partition("audience"), again.partition("audience_export")
    (folder,) = (again.installation.home.accounts / "000000000000" / "buckets" / "audiences" / "shop").iterdir()
    assert {"event_logs", "runs", "audience"} <= set(named(again, job)), "the search sees what is there"
    before = shown(again)
    for kind in ORDER:
        key = ask(again, kind)
        assert again.run_pending() == 0
        assert named(again, key) == []
        gone = [*ASSETS_OF[kind], *(ASSETS_OF[Kind.EXPORT_JOB] if kind is Kind.GENERATION_JOB else ())]
        now = shown(again)
        assert {asset for asset in now if now[asset] != before[asset]} == set(gone)
        assert again.instance.get_dynamic_partitions(KINDS[kind].partition_set) == []
        before = now
    assert named(again, export) == []
    assert not [path for path in (again.folder / "home" / "seeds").rglob("*") if path.is_file()]
    assert (folder / "manifest.json").is_file(), "it is the bucket's owner's"


def test_sensor_requests_one_deletion_run(again: Shell) -> None:
    job = ask(again, Kind.GENERATION_JOB)
    (request,) = tick(again, "pending_work").run_requests
    assert request.job_name == "carry_out_deletions"
    under_way = as_run(again, "carry_out_deletions", dg.DagsterRunStatus.STARTED)
    assert tick(again, "pending_work").run_requests == []
    again.instance.report_run_failed(again.instance.get_run_by_id(under_way))
    result = repository().get_job("carry_out_deletions").execute_in_process(instance=again.instance)
    assert result.success
    assert named(again, job) == []
    found = tick(again, "pending_work")
    assert found.run_requests == []
    assert found.skip_message == "No work is pending."


def test_sensor_waits_for_an_active_run(again: Shell) -> None:
    job = again.partition("audience")
    run = as_run(again, "generate_audience", dg.DagsterRunStatus.STARTED, **{"dagster/partition": job})
    again.installation.catalog.work.heartbeat_worker(run)
    ask(again, Kind.GENERATION_JOB)
    assert tick(again, "pending_work").run_requests == []
    again.instance.report_run_failed(again.instance.get_run_by_id(run))
    assert [request.job_name for request in tick(again, "pending_work").run_requests] == ["carry_out_deletions"]


def test_failed_deletion_is_reported_and_requests_no_run(again: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    job = ask(again, Kind.GENERATION_JOB)
    with monkeypatch.context() as patched:
        patched.setattr(ArtifactStore, "_delete", lambda *_, **__: 1 / 0)
        again.run_pending()
    assert again.installation.catalog.get(GenerationJob, job).status == "DELETE_FAILED"
    assert tick(again, "pending_work").run_requests == []
    ask(again, Kind.GENERATION_JOB)
    again.run_pending()
    assert named(again, job) == []


def test_nightly_cleanup_deletes_leftovers_of_a_queued_run(again: Shell) -> None:
    job = ask(again, Kind.GENERATION_JOB)
    again.run_pending()
    as_run(again, "generate_audience", dg.DagsterRunStatus.CANCELED, **{"dagster/partition": job})
    assert named(again, job)
    result = repository().get_job("housekeeping").execute_in_process(instance=again.instance)
    assert result.success
    assert named(again, job) == []


def test_resource_recreated_under_the_same_name_is_another(again: Shell) -> None:
    first = ask(again, Kind.GENERATION_JOB)
    again.run_pending()
    worlds.apply(again.installation, again.world.declaration)
    again.run_pending()
    second = again.partition("audience")
    assert second != first
    assert shown(again)["audience"] == {second}
    assert worlds.newest(again.installation, Kind.EXPORT_JOB).status == "ACTIVE"


def test_resource_newer_than_the_last_check_is_run_too(trained: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    catalog = trained.installation.catalog
    model = trained.partition("audience_model")

    def look_then_create(*_: object) -> int:
        if not created:
            spec = ConfiguredAudienceModelSpec(
                name="Late",
                audience_model_id=model,
                sizes=(AudienceSize.parse("10%"),),
                output_url="s3://audiences/x",
            )
            created.append(catalog.resources.create(spec).id)
        return 0

    created: list[str] = []
    monkeypatch.setattr(running, "delete_pending", look_then_create)
    assert run_pending(trained.installation, trained.instance) == 1
    assert catalog.resources.newest_version(Kind.CONFIGURED_AUDIENCE_MODEL, created[0]).status == "ACTIVE"


def test_no_file_of_the_home_names_a_deleted_job(again: Shell) -> None:
    job = ask(again, Kind.GENERATION_JOB)
    again.run_pending()
    home = again.folder / "home"
    readable = [path for path in home.rglob("*") if path.is_file() and path.name != "catalog.db"]
    naming = [path for path in readable if job.encode() in path.read_bytes()]
    # what was exported is its owner's, and the audit log keeps who deleted what
    naming = [path for path in naming if not path.is_relative_to(home / "audit")]
    assert [path for path in naming if not path.is_relative_to(home / "accounts")] == []
    assert all(path.name == "manifest.json" for path in naming), "what an export says of itself stays with it"
    assert Path(home / "catalog.db").exists()
