"""A manual "Materialize" in the UI is a request of the operator.

Contract: a declared ACTIVE resource gets a new version, and its dependents after it; any other ACTIVE resource is
verified, and the result says so; a failed one is retried; for one that another run builds, the run succeeds
without a materialisation; an unknown key fails with a clear message. Cancelling ends as CANCELLED; a shutdown
requeues the work.
"""

import os
import re
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import dagster as dg
import pytest

from cleanroom_pipelines.audiences.sizes import AudienceSize
from cleanroom_pipelines.catalog import RECORDS, ConfiguredAudienceModelSpec, GenerationJob, Kind, Origin, Version
from cleanroom_pipelines.errors import StatusCode
from cleanroom_pipelines.runs import work
from cleanroom_pipelines.storage.artifacts import sha256_of

from .. import worlds
from .conftest import Shell, repository

BAD_KEYS = {
    "traversal": "../../x",
    "absolute": "/etc/passwd",
    "quotes": "x' OR '1'='1\"--0123456789ab",
    "emoji": "🛒-0123456789ab",
    "newline": "x\n-0123456789ab",
    "empty slug": "-0123456789ab",
    "unknown": "nobody-0123456789ab",
}


def files_of(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): sha256_of(path) for path in folder.rglob("*") if path.is_file()}


def artifacts_of(shell: Shell) -> dict[str, str]:
    return files_of(shell.installation.home.artifacts)


def log_of(result: dg.ExecuteInProcessResult, shell: Shell) -> str:
    logs = shell.instance.all_logs(result.run_id)
    return "\n".join(f"{log.message} {log.user_message} {log.dagster_event}" for log in logs)


def failure_of(result: dg.ExecuteInProcessResult) -> str:
    """The error of the only step that failed."""
    assert not result.success
    (failure,) = result.get_step_failure_events()
    error = failure.step_failure_data.error
    assert error is not None
    return error.to_string()


def add_undeclared(shell: Shell, name: str = "By API") -> str:
    """A configured audience model as the AWS API would make it."""
    spec = ConfiguredAudienceModelSpec(
        name=name,
        audience_model_id=shell.partition("audience_model"),
        sizes=(AudienceSize.parse("10%"),),
        output_url="s3://audiences/api",
        min_matching_seed_size=25,
    )
    return shell.installation.catalog.resources.create(spec).id


# What a click means


def test_declared_resource_gets_a_new_version_with_its_dependents(again: Shell) -> None:
    before, catalog = artifacts_of(again), again.installation.catalog
    result = again.materialize("training_dataset", partition=again.partition("training_dataset"))
    assert result.success
    assert len(worlds.materializations(again.instance, "training_dataset")) == 2
    assert worlds.statuses(again.installation) == {
        worlds.DATASET: ["ACTIVE", "ACTIVE"],
        worlds.MODEL: ["ACTIVE", "CREATE_PENDING"],
        worlds.CONFIGURED: ["ACTIVE"],
        worlds.JOB: ["ACTIVE"],  # its seed was not kept
        f"{worlds.JOB} 20%": ["ACTIVE"],
    }
    assert again.run_pending() == 2
    for kind in (Kind.AUDIENCE_MODEL, Kind.CONFIGURED_AUDIENCE_MODEL):
        version = worlds.newest(again.installation, kind)
        assert (version.number, version.status, version.cause) == (2, "ACTIVE", "parent")
        assert [parent.version for parent in version.parents] == [2]
    assert catalog.work.ready() == ()
    after = artifacts_of(again)
    assert {name: after[name] for name in before} == before, "what was there stays as it was"
    assert len(after) > len(before)


def test_undeclared_active_resource_is_verified(trained: Shell) -> None:
    key = add_undeclared(trained)
    assert trained.run_pending() == 1
    before = artifacts_of(trained)
    result = trained.materialize("configured_audience_model", partition=key)
    assert result.success
    first, second = worlds.materializations(trained.instance, "configured_audience_model", key)
    assert str(second.metadata["summary"].value).startswith("**Verified: all ")
    assert not str(first.metadata["summary"].value).startswith("**Verified")
    assert first.tags["dagster/data_version"] == second.tags["dagster/data_version"]  # type: ignore[index]
    versions = trained.installation.catalog.resources.versions(Kind.CONFIGURED_AUDIENCE_MODEL, key)
    assert [version.number for version in versions] == [1]
    assert artifacts_of(trained) == before


def test_audience_with_a_deleted_seed_is_verified(again: Shell) -> None:
    result = again.materialize("seed_validation_report", "audience", partition=again.partition("audience"))
    assert result.success
    for asset in ("seed_validation_report", "audience"):
        last = worlds.materializations(again.instance, asset)[-1]
        assert str(last.metadata["summary"].value).startswith("**Verified: all ")
    assert worlds.statuses(again.installation)[worlds.JOB] == ["ACTIVE"]


def alter(folder: Path) -> None:
    (folder / "metrics.json").write_text((folder / "metrics.json").read_text().replace("0", "1", 1))


def lose_a_file(folder: Path) -> None:
    (folder / "ranking.parquet").unlink()


def empty_the_manifest(folder: Path) -> None:
    (folder / "manifest.json").write_text("{}")


def test_damaged_artifact_fails_the_run(again: Shell, tmp_path: Path) -> None:
    version = worlds.newest(again.installation, Kind.GENERATION_JOB)
    (folder,) = again.installation.home.artifacts.glob(f"audience/*/{version.artifacts['audience']}")
    shutil.copytree(folder, tmp_path / "whole")
    for damage in (alter, lose_a_file, empty_the_manifest):
        shutil.rmtree(folder)
        shutil.copytree(tmp_path / "whole", folder)
        damage(folder)
        error = failure_of(again.materialize("audience", partition=again.partition("audience")))
        assert "artifact" in error, damage.__name__
        assert re.search("Build (it|the artifact) again", error), damage.__name__
    assert len(worlds.materializations(again.instance, "audience")) == 1


def test_damaged_parent_fails_its_children(again: Shell) -> None:
    version = worlds.newest(again.installation, Kind.AUDIENCE_MODEL)
    (folder,) = again.installation.home.artifacts.glob(f"audience_model/*/{version.artifacts['audience_model']}")
    largest = max(
        (path for path in folder.iterdir() if path.name != "manifest.json"), key=lambda p: p.stat().st_size
    )
    content = bytearray(largest.read_bytes())
    content[len(content) // 2] ^= 1
    largest.write_bytes(content)
    start(again)
    assert again.run_pending() == 1
    failed = worlds.newest(again.installation, Kind.GENERATION_JOB, "From the form")
    assert (failed.status, failed.status_code) == ("CREATE_FAILED", StatusCode.ARTIFACT_DAMAGED)


def test_failed_resource_is_retried(new_shell: Callable[[str], Shell], tmp_path: Path) -> None:
    shell, table = new_shell("room"), tmp_path / "events.parquet"
    declaration = worlds.declare(tmp_path / "cleanroom.yaml", interactions=table, seed=None)
    worlds.apply(shell.installation, declaration)
    shell.run_pending()
    failed = worlds.newest(shell.installation, Kind.TRAINING_DATASET)
    assert (failed.status, failed.status_code) == ("CREATE_FAILED", StatusCode.TRAINING_DATA_NOT_FOUND)
    worlds.write_events(table, worlds.events())
    assert shell.materialize("training_dataset", partition=failed.resource_id).success
    assert worlds.statuses(shell.installation) == {
        worlds.DATASET: ["ACTIVE"],
        worlds.MODEL: ["CREATE_FAILED", "CREATE_PENDING"],  # it failed with its dataset and follows it now
        worlds.CONFIGURED: ["CREATE_FAILED"],
    }
    assert shell.run_pending() == 2
    assert worlds.newest(shell.installation, Kind.CONFIGURED_AUDIENCE_MODEL).status == "ACTIVE"


def test_version_waiting_for_its_parent_reports_it(trained: Shell) -> None:
    dataset, model = trained.partition("training_dataset"), trained.partition("audience_model")
    trained.installation.catalog.work.request_manually(Kind.TRAINING_DATASET, dataset)
    result = trained.materialize("audience_model", partition=model)
    assert result.success
    assert len(worlds.materializations(trained.instance, "audience_model")) == 1
    assert f"waiting for the training dataset {dataset}" in log_of(result, trained)


def test_work_claimed_by_another_run_is_left_to_it(trained: Shell) -> None:
    catalog, dataset = trained.installation.catalog, trained.partition("training_dataset")
    asked = catalog.work.request_manually(Kind.TRAINING_DATASET, dataset)
    claim = catalog.work.claim(Kind.TRAINING_DATASET, dataset, asked.version.number, "another run")
    assert claim is not None
    result = trained.materialize("training_dataset", partition=dataset)
    assert result.success
    assert len(worlds.materializations(trained.instance, "training_dataset")) == 1
    assert "Another run is working" in log_of(result, trained)
    held = worlds.newest(trained.installation, Kind.TRAINING_DATASET)
    assert (held.status, held.run_id) == ("CREATE_IN_PROGRESS", "another run")


def test_invalid_keys_fail_clearly(trained: Shell) -> None:
    before = artifacts_of(trained)
    for asset in ("training_dataset", "audience"):
        kind = worlds.kind_of(asset)
        for name, key in BAD_KEYS.items():
            trained.instance.add_dynamic_partitions(f"{kind.value}s", [key])  # a person added it by hand
            error = failure_of(trained.materialize(asset, partition=key))
            assert f"There is no such {kind.words}." in error, (asset, name)
    assert artifacts_of(trained) == before


# The form


def start(shell: Shell, **fields: str) -> dg.ExecuteInProcessResult:
    form = {
        "configured_audience_model": shell.partition("configured_audience_model"),
        "seed_path": str(shell.world.seed),
        "name": "From the form",
    } | fields
    job = repository().get_job("start_generation_job")
    config = {"ops": {"start_job": {"config": form}}}
    return job.execute_in_process(instance=shell.instance, run_config=config, raise_on_error=False)


def test_form_starts_a_job(trained: Shell) -> None:
    result = start(trained, export_size="5%", seed_mode="first")
    assert result.success
    job = worlds.the(trained.installation, Kind.GENERATION_JOB)
    assert isinstance(job, GenerationJob)
    assert (job.name, job.seed_mode, job.origin) == ("From the form", "first", Origin.UI)
    assert f"job {job.id}" in log_of(result, trained)
    assert trained.run_pending() == 2
    assert worlds.newest(trained.installation, Kind.EXPORT_JOB).summary["delivered"] == worlds.N_USERS // 20


WRONG_FIELDS = [
    ("seed_path", "/nowhere/seed.jsonl", "The seed was not found."),
    ("seed_path", __file__, "file format is not supported"),
    ("configured_audience_model", "nobody-0123456789ab", "No configured audience model has this name or"),
    (
        "configured_audience_model",
        "shop lookalike",
        "Did you mean 'Shop lookalikes'? Existing names: 'Shop lookalikes'.",
    ),
    ("configured_audience_model", "../../x", "No configured audience model has this name or"),
    ("name", "", "The name is invalid."),
    ("name", "two\nlines", "The name is invalid."),
    ("seed_mode", "sideways", "The seed mode is invalid."),
    ("export_size", "0%", "audience size"),
    ("export_size", "101%", "audience size"),
    ("export_size", "many", "audience size"),
    ("export_size", "7%", "size"),
]


def test_invalid_form_fails_and_starts_nothing(trained: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DAGSTER_REDACT_USER_CODE_ERRORS", "1")  # as in `cleanroom dev`
    for field, value, sentence in WRONG_FIELDS:
        failure = failure_of(start(trained, **{field: value}))
        assert failure.startswith("Failed: "), "the reason comes first"
        assert sentence in failure, (field, value)
        assert list(trained.installation.catalog.resources.iterate(Kind.GENERATION_JOB)) == [], (field, value)
        assert list(trained.installation.home.seeds.iterdir()) == [], "no copy of the seed is left"


def test_duplicate_name_is_a_conflict(trained: Shell) -> None:
    assert start(trained).success
    result = start(trained)
    assert not result.success
    assert "name" in log_of(result, trained)
    assert len(list(trained.installation.catalog.resources.iterate(Kind.GENERATION_JOB))) == 1
    assert len(list(trained.installation.home.seeds.iterdir())) == 1


# Stopping


@pytest.fixture
def while_training(
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Callable[[Callable[[work.Work], None]], list[str]]]:
    """Calls a function once in the middle of a training, and gives the stages that were reported."""
    monkeypatch.setattr(work, "SECONDS_BETWEEN_REPORTS", 0.0)
    report, stages = work.Work.report_progress, list[str]()

    def use(act: Callable[[work.Work], None]) -> list[str]:
        def reporting(self: work.Work, share: float, stage: str) -> None:
            report(self, share, stage)
            stages.append(stage)
            if len(stages) == 3:
                act(self)

        monkeypatch.setattr(work.Work, "report_progress", reporting)
        return stages

    yield use


def pending_model(shell: Shell) -> Version:
    return shell.installation.catalog.work.request_manually(
        Kind.AUDIENCE_MODEL, shell.partition("audience_model")
    ).version


def test_progress_is_reported(
    trained: Shell, while_training: Callable[[Callable[[work.Work], None]], list[str]]
) -> None:
    seen = list[Version]()
    catalog, version = trained.installation.catalog, pending_model(trained)
    stages = while_training(
        lambda _: seen.append(catalog.resources.version(version.kind, version.resource_id, version.number))
    )
    assert trained.run_pending() == 2
    assert seen[0].status == "CREATE_IN_PROGRESS"
    assert 0 < seen[0].progress < 1
    assert seen[0].progress_stage == stages[2]
    done = catalog.resources.version(version.kind, version.resource_id, version.number)
    assert (done.status, done.progress) == ("ACTIVE", 1.0)


def test_cancelling_stops_between_shards(
    trained: Shell, while_training: Callable[[Callable[[work.Work], None]], list[str]]
) -> None:
    before, version = artifacts_of(trained), pending_model(trained)
    catalog = trained.installation.catalog
    stages = while_training(lambda _: catalog.work.request_cancel(version.kind, version.resource_id) and None)
    trained.run_pending()
    ended = catalog.resources.version(version.kind, version.resource_id, version.number)
    assert (ended.status, ended.status_code) == ("CREATE_FAILED", StatusCode.CANCELLED)
    assert len(stages) <= 4, "it stops at the next place where it looks"
    assert artifacts_of(trained) == before
    assert catalog.get(RECORDS[version.kind], version.resource_id).current_version == 1


def test_run_stopped_in_the_ui_is_cancelled(
    trained: Shell, while_training: Callable[[Callable[[work.Work], None]], list[str]]
) -> None:
    version, catalog = pending_model(trained), trained.installation.catalog

    def stop(at_work: work.Work) -> None:
        run = trained.instance.get_run_by_id(at_work.claim.run_id)
        assert run is not None
        trained.instance.report_run_canceling(run)
        os.kill(os.getpid(), signal.SIGINT)  # what the launcher sends

    while_training(stop)
    result = trained.materialize("audience_model", partition=version.resource_id)
    assert not result.success
    ended = catalog.resources.version(version.kind, version.resource_id, version.number)
    assert (ended.status, ended.status_code) == ("CREATE_FAILED", StatusCode.CANCELLED)
    run = trained.instance.get_run_by_id(result.run_id)
    assert run is not None
    assert run.status is dg.DagsterRunStatus.CANCELED


def test_shutdown_requeues_the_work(
    trained: Shell, while_training: Callable[[Callable[[work.Work], None]], list[str]]
) -> None:
    version, catalog, before = pending_model(trained), trained.installation.catalog, artifacts_of(trained)
    while_training(lambda _: os.kill(os.getpid(), signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):
        trained.run_pending()
    ended = catalog.resources.version(version.kind, version.resource_id, version.number)
    assert (ended.status, ended.attempt) == ("CREATE_PENDING", 0)
    assert ended.run_key != version.run_key, "Dagster starts no second run under a key it has seen"
    assert artifacts_of(trained) == before
    assert trained.run_pending() == 2
    assert catalog.resources.version(version.kind, version.resource_id, version.number).status == "ACTIVE"
