"""What Dagster shows is what is true.

Contract: a version that failed is never a materialisation. Its partition is failed in Dagster, with the reason as
an event: when a run failed, its parent failed, or it was cancelled before it ran. A run with nothing to do leaves
that as it is. Our own errors are never masked. Runs of workers carry their code location and names.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import yaml
from dagster._core.definitions.data_version import CachingStaleStatusResolver, StaleStatus
from dagster._core.errors import SensorExecutionError, user_code_error_boundary
from dagster._core.loader import LoadingContextForTest
from dagster._core.storage.partition_status_cache import get_and_update_asset_status_cache_value
from dagster._utils.error import serializable_error_info_from_exc_info

from cleanroom_pipelines.catalog import Kind
from cleanroom_pipelines.defs.start_page import page_of
from cleanroom_pipelines.runs.artifact_documents import newest_artifact
from cleanroom_pipelines.runs.dagster_home import CODE_LOCATION
from cleanroom_pipelines.runs.drift import drift_of, drift_of_export, recorded_drift
from cleanroom_pipelines.runs.failures import explain_failures
from cleanroom_pipelines.runs.kinds import ASSETS, ASSETS_OF
from cleanroom_pipelines.runs.reasons import escaped, failure_of
from cleanroom_pipelines.runs.situation import situation_of

from .. import worlds
from .conftest import Shell, repository
from .ticks import schedule_tick, tick

MISSPELT = "lacks the declared column 'user'"


def failed_partitions(shell: Shell, asset: str) -> set[str]:
    """What Dagster's UI shows in red."""
    key = dg.AssetKey(asset)
    definition = repository().assets_defs_by_key[key].partitions_def
    assert definition is not None
    with dg.partition_loading_context(dynamic_partitions_store=shell.instance):
        cached = get_and_update_asset_status_cache_value(shell.instance, key, definition)
        assert cached is not None
        return set(cached.deserialize_failed_partition_subsets(definition).get_partition_keys())


def reasons(shell: Shell, asset: str, partition: str) -> list[str]:
    """The descriptions of a partition's events, newest first."""
    filters = dg.AssetRecordsFilter(asset_key=dg.AssetKey(asset), asset_partitions=[partition])
    records = shell.instance.fetch_observations(filters, limit=10).records
    return [str(record.asset_observation and record.asset_observation.description) for record in records]


@pytest.fixture
def broken(new_shell: Callable[[str], Shell], world: worlds.World, tmp_path: Path) -> Shell:
    """A clean room whose table lacks a column; what depends on it failed with it."""
    table = tmp_path / "misspelt.csv"
    table.write_text("usr,item,ts\n" + "".join(f"{who},{item},{ts}\n" for who, item, ts in worlds.events()))
    shell = new_shell("room")
    declaration = worlds.declare(tmp_path / "cleanroom.yaml", interactions=table, seed=world.seed)
    worlds.apply(shell.installation, declaration)
    shell.run_pending()
    return shell


def test_every_failed_partition_is_red_and_says_why(broken: Shell) -> None:
    faults = dict[str, list[str]]()
    for asset in (asset for kind in worlds.ROAD for asset in ASSETS_OF[kind]):
        partition = broken.partition(asset)
        is_right = {
            "it is not red": failed_partitions(broken, asset) == {partition},
            "it was materialised": not worlds.materializations(broken.instance, asset),
            "it does not say why": [MISSPELT in reason for reason in reasons(broken, asset, partition)] == [True],
        }
        faults[asset] = [fault for fault, right in is_right.items() if not right]
    assert {asset: found for asset, found in faults.items() if found} == {}


def test_failure_is_explained_once(broken: Shell) -> None:
    n_runs = len(broken.instance.get_runs())
    assert explain_failures(broken.installation, broken.instance) == 0
    assert len(broken.instance.get_runs()) == n_runs


def test_many_failures_at_once_are_all_explained(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cleanroom_pipelines.runs.failures._MOST_PER_TICK", 1)
    broken = request.getfixturevalue("broken")
    for _ in range(20):
        if not explain_failures(broken.installation, broken.instance):
            break
    assets = [asset for kind in worlds.ROAD for asset in ASSETS_OF[kind]]
    assert [asset for asset in assets if not failed_partitions(broken, asset)] == []


def test_failed_check_says_why(broken: Shell) -> None:
    for run in broken.instance.get_runs(dg.RunsFilter(job_name="validate_training_dataset")):
        logs = broken.instance.all_logs(run.run_id, dg.DagsterEventType.ASSET_CHECK_EVALUATION)
        (evaluation,) = [log.get_dagster_event().asset_check_evaluation_data for log in logs]
        assert (evaluation.check_name, evaluation.passed) == ("dataset_is_valid", False)
        assert MISSPELT in str(evaluation.description)


def test_checks_of_the_registry_exist() -> None:
    known = {(key.asset_key.to_user_string(), key.name) for key in repository().asset_graph.asset_check_keys}
    named = {(asset, row.check) for asset, row in ASSETS.items() if row.check}
    assert named
    assert named <= known


def test_run_with_nothing_to_do_leaves_the_failure(broken: Shell) -> None:
    model = broken.partition("audience_model")
    result = broken.materialize("audience_model", partition=model)
    broken.run_pending()
    assert not result.success
    assert failed_partitions(broken, "audience_model") == {model}


def test_our_own_errors_are_not_masked(broken: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DAGSTER_REDACT_USER_CODE_ERRORS", "1")
    result = broken.materialize("training_dataset", partition=broken.partition("training_dataset"))
    (failure,) = result.get_step_failure_events()
    error = failure.step_failure_data.error
    assert error is not None
    assert error.message.startswith("Failed: The interactions table lacks")
    assert "masked" not in error.to_string()


def test_sensors_and_schedules_fail_with_our_own_sentence(trained: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DAGSTER_REDACT_USER_CODE_ERRORS", "1")
    monkeypatch.setenv("CLEANROOM_THREADS", "many")
    ticks = [partial(tick, trained, sensor.name) for sensor in repository().sensor_defs]
    assert len(ticks) >= 4
    for evaluate in (*ticks, partial(schedule_tick, trained, "declared_refreshes")):
        # as in the code server
        with pytest.raises(dg.DagsterError) as caught, user_code_error_boundary(SensorExecutionError, lambda: "x"):
            evaluate()
        shown = serializable_error_info_from_exc_info(caught._excinfo)
        assert (
            shown.message
            == "Failed: The setting CLEANROOM_THREADS is invalid. See the README's table of settings.\n"
        )


def test_failed_refresh_makes_its_model_red(trained: Shell) -> None:
    dataset, model = trained.partition("training_dataset"), trained.partition("audience_model")
    assert failed_partitions(trained, "audience_model") == set()
    trained.world.interactions.rename(away := trained.world.interactions.with_suffix(".away"))
    try:
        trained.materialize("training_dataset", partition=dataset)
        trained.run_pending()
    finally:
        away.rename(trained.world.interactions)
    assert failed_partitions(trained, "training_dataset") == {dataset}
    assert len(worlds.materializations(trained.instance, "training_dataset")) == 1
    assert trained.installation.catalog.resources.newest_version(Kind.AUDIENCE_MODEL, model).number == 1


def test_cancelled_work_that_never_ran_says_so(trained: Shell) -> None:
    model = trained.partition("audience_model")
    catalog = trained.installation.catalog
    catalog.work.request_manually(Kind.AUDIENCE_MODEL, model)
    catalog.work.request_cancel(Kind.AUDIENCE_MODEL, model)
    trained.run_pending()
    assert reasons(trained, "audience_model", model) == ["The work was cancelled."]
    assert failed_partitions(trained, "audience_model") == {model}


def test_runs_of_a_worker_carry_code_location_and_names(broken: Shell) -> None:
    label = {".dagster/repository": f"__repository__@{CODE_LOCATION}"}
    runs = broken.instance.get_runs()
    assert len(broken.instance.get_runs(dg.RunsFilter(tags=label))) == len(runs) == 5
    for run in runs:
        assert run.remote_job_origin is not None
        assert run.remote_job_origin.location_name == CODE_LOCATION
        assert run.tags["cleanroom/requested_by"] == "operator"
        assert run.tags["cleanroom/way_in"] == "apply"
        assert run.tags["cleanroom/name"].startswith((worlds.DATASET[:4], worlds.JOB))


def test_start_page_names_cause_and_remedy_and_is_renewed_after_a_change(broken: Shell) -> None:
    (problem,) = situation_of(broken.installation).problems
    assert (problem.first.name, problem.job) == (worlds.DATASET, "retry_failed")
    assert problem.command == "cleanroom retry --failed"
    assert len(problem.others) == 4
    first = tick(broken, "start_page")
    event, check = first.asset_events
    assert not check.passed
    page = {name: value.value for name, value in event.metadata.items()}
    assert page["summary"] == "**5 failed, 0 running, 0 waiting.**"
    assert "lacks the declared column" in page["failure 1"].replace("  \n", " ")
    second = tick(broken, "start_page", cursor=first.cursor)
    assert second.asset_events == []
    broken.installation.catalog.work.retry(Kind.TRAINING_DATASET, broken.partition("training_dataset"))
    event, _ = tick(broken, "start_page", cursor=second.cursor).asset_events
    assert "4 failed, 0 running, 1 waiting" in str(event.metadata["summary"].value)


def test_job_that_the_start_page_names_retries_all(broken: Shell, tmp_path: Path) -> None:
    table = tmp_path / "misspelt.csv"
    table.write_text(table.read_text().replace("usr,", "user,"))
    assert repository().get_job("retry_failed").execute_in_process(instance=broken.instance).success
    broken.run_pending()
    assert {found[-1] for found in worlds.statuses(broken.installation).values()} == {"ACTIVE"}
    assert [asset for kind in worlds.ROAD for asset in ASSETS_OF[kind] if failed_partitions(broken, asset)] == []


def test_bad_seed_needs_a_new_one(trained: Shell, world: worlds.World, tmp_path: Path) -> None:
    seed = worlds.write_seed(tmp_path / "few.csv", world.group[:5])
    worlds.apply(
        trained.installation,
        worlds.declare(tmp_path / "few.yaml", interactions=world.interactions, seed=seed),
    )
    trained.run_pending()
    (problem,) = situation_of(trained.installation).problems
    assert (problem.job, problem.command) == ("start_generation_job", "cleanroom apply FILE.yaml")
    job, export = trained.partition("audience"), trained.partition("audience_export")
    for kind, key in ((Kind.GENERATION_JOB, job), (Kind.EXPORT_JOB, export)):
        failure = failure_of(trained.installation.catalog, kind, key)
        assert failure is not None
        assert failure.remedy.startswith("Correct the seed. Then launch the job start_generation_job")
    page = tick(trained, "start_page").asset_events[0].metadata["failure 1"].value
    assert f"view=events&partitions%5B0%5D={job}&partition={job})" in page
    assert "/jobs/start_generation_job/playground)" in page


def freshness(shell: Shell, model: str) -> list[tuple[bool, str]]:
    """The evaluations of a model's check of freshness, newest first."""
    key = dg.AssetCheckKey(dg.AssetKey("audience_model"), "model_is_fresh")
    records = shell.instance.event_log_storage.get_asset_check_execution_history(key, 10)
    events = [record.event.get_dagster_event() for record in records if record.event]
    evaluations = [
        event.asset_check_evaluation_data
        for event in events
        if event.event_type is dg.DagsterEventType.ASSET_CHECK_EVALUATION
    ]
    return [(each.passed, str(each.description)) for each in evaluations if each.partition == model]


def test_freshness_follows_the_declared_refresh_of_each_model(
    trained: Shell, world: worlds.World, tmp_path: Path
) -> None:
    declaration = worlds.declare(
        tmp_path / "c.yaml", interactions=world.interactions, seed=None, model={"refresh": {"every": "7d"}}
    )
    worlds.apply(trained.installation, declaration)
    trained.run_pending()
    model = trained.partition("audience_model")
    assert freshness(trained, model) == [(True, "No refresh is declared.")]
    on_time = tick(trained, "start_page")
    assert evaluated(on_time) == {}
    late = tick(trained, "start_page", cursor=on_time.cursor, later=7 * 86_400 + 1_000)
    assert evaluated(late)[model].startswith("A refresh was due at ")
    world.interactions.rename(away := world.interactions.with_suffix(".away"))
    try:
        trained.installation.catalog.work.request_refresh(model)
        trained.run_pending()
    finally:
        away.rename(world.interactions)
    failed = tick(trained, "start_page", cursor=on_time.cursor)
    assert "was not found" in evaluated(failed)[model]
    trained.installation.catalog.work.retry(Kind.TRAINING_DATASET, trained.partition("training_dataset"))
    trained.installation.catalog.work.retry(Kind.AUDIENCE_MODEL, model)
    trained.run_pending()
    (passed, text), *_ = freshness(trained, model)
    assert (passed, text[:13]) == (True, "Next refresh:")
    assert evaluated(tick(trained, "start_page", cursor=failed.cursor)) == {model: text}


def evaluated(answer: Any) -> dict[str, str]:
    """The freshness that a tick of the start page evaluated, by model."""
    return {
        str(event.partition): str(event.description)
        for event in answer.asset_events
        if isinstance(event, dg.AssetCheckEvaluation) and event.check_name == "model_is_fresh"
    }


def test_nothing_is_unsynced_because_of_another_partition(
    trained: Shell, world: worlds.World, tmp_path: Path
) -> None:
    other = worlds.declare(
        tmp_path / "c.yaml", interactions=world.interactions, seed=world.seed, dataset={"name": "Other events"}
    )
    text = yaml.safe_load(other.read_text())
    other.write_text(yaml.safe_dump({"training_datasets": text["training_datasets"]}))
    worlds.apply(trained.installation, other)
    trained.run_pending()
    resolver = CachingStaleStatusResolver(
        trained.instance, repository().asset_graph, LoadingContextForTest(trained.instance)
    )
    statuses = {
        (asset, partition): resolver.get_status(dg.AssetKey(asset), partition)
        for kind in worlds.ROAD
        for asset in ASSETS_OF[kind]
        for partition in trained.instance.get_materialized_partitions(dg.AssetKey(asset))
    }
    assert len(statuses) == 4
    assert set(statuses.values()) == {StaleStatus.FRESH}


def test_start_page_says_that_a_process_stopped(trained: Shell) -> None:
    catalog, model = trained.installation.catalog, trained.partition("audience_model")
    catalog.work.request_manually(Kind.AUDIENCE_MODEL, model)
    claim = catalog.work.claim(Kind.AUDIENCE_MODEL, model, 2, "a run that is killed")
    assert claim is not None
    catalog.work.abandon(claim)
    (waiting,) = situation_of(trained.installation).waiting
    assert waiting.stage == "waiting; its process stopped responding once, and the work is retried"


def test_first_model_has_the_window_of_its_refreshes_and_drift_is_reported(
    new_shell: Callable[[str], Shell], world: worlds.World, tmp_path: Path
) -> None:
    shell, table = new_shell("room"), worlds.write_events(tmp_path / "events.parquet", worlds.events())
    refresh = {"refresh": {"every": "7d", "window": "30d", "keep_seed": True}}
    worlds.apply(
        shell.installation,
        worlds.declare(
            tmp_path / "c.yaml",
            interactions=table,
            seed=world.seed,
            model=refresh,
            configured={"delivery": {"changes": True}},
        ),
    )
    shell.run_pending()
    model = shell.partition("audience_model")
    _, documents = newest_artifact(shell.installation, Kind.AUDIENCE_MODEL, model, "audience_model")
    training = documents["training"]
    assert training["last_time"] - training["first_time"] <= 30 * 86_400
    assert drift_of(shell.installation, model) == ""
    few = [row for row in worlds.events() if row[0] < worlds.user(150)]
    worlds.write_events(table, few)
    shell.installation.catalog.work.request_refresh(model)
    shell.run_pending()
    sentence = drift_of(shell.installation, model)
    assert sentence == "300 → 150 users since the previous version."
    job, export = (
        worlds.the(shell.installation, Kind.GENERATION_JOB),
        worlds.the(shell.installation, Kind.EXPORT_JOB),
    )
    matched = recorded_drift(shell.installation, Kind.GENERATION_JOB, job.id)
    assert matched.endswith(" recall since the previous version.")
    changed = recorded_drift(shell.installation, Kind.EXPORT_JOB, export.id)
    drift = situation_of(shell.installation).drift
    expected = [f"{worlds.MODEL}: {sentence}", f"{job.name}: {matched}"]
    assert drift == (*expected, f"{export.name}: {changed}") if changed else tuple(expected)
    shown = page_of(situation_of(shell.installation))["changes since the previous version"].value
    assert [escaped(line) in shown for line in drift] == [True] * len(drift)
    checks = dg.DagsterEventType.ASSET_CHECK_EVALUATION
    logs = [log for run in shell.instance.get_runs() for log in shell.instance.all_logs(run.run_id, checks)]
    evaluations = [log.get_dagster_event().asset_check_evaluation_data for log in logs]
    warnings = {each.check_name: each.description for each in evaluations if not each.passed}
    assert warnings["model_is_like_the_one_before"] == sentence
    assert warnings["audience_is_like_the_one_before"] == matched


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        (None, {}),
        ({"added": 50, "removed": 10}, {}),
        ({"added": 51, "removed": 0}, {"drift": "51% of the users were not in the previous export."}),
    ],
    ids=["no changes asked for", "half", "more than half"],
)
def test_much_changed_export(changes: dict[str, int] | None, expected: dict[str, str]) -> None:
    assert drift_of_export({"delivered": 100, "changes": changes}) == expected
