"""Work at set times: declared refreshes and housekeeping.

Contract: a refresh makes a new version of one model and of exactly what follows from it; the other model, the old
versions, and audiences whose seed was not kept stay as they are. Superseded artifacts are deleted after the
retention time, but never those that something current was built from.
"""

import gzip
import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import yaml

from cleanroom_pipelines.catalog import Kind
from cleanroom_pipelines.runs.artifact_documents import newest_artifact
from cleanroom_pipelines.runs.installation import Installation
from cleanroom_pipelines.runs.situation import situation_of
from cleanroom_pipelines.storage import ArtifactReference

from .. import worlds
from .conftest import Shell, opened_in_memory, repository
from .ticks import carry_out, schedule_tick, tick

WEEK = 7 * 86_400


@dataclass(frozen=True)
class Refreshed:
    """A clean room after a refresh.

    Attributes:
        shell: It.
        before: Its artifacts before the refresh.
        messages: What the schedule said.
        requested: The jobs that the sensor asked for then.
        n_runs: How many runs it took.
    """

    shell: Shell
    before: dict[Path, bytes]
    messages: list[str | None]
    requested: list[str]
    n_runs: int


def two_models(folder: Path, world: worlds.World) -> Path:
    """Two models of one dataset; the first is refreshed weekly, and keeps the seed of one of its two jobs.

    Its exports keep a control group out, say who came and went, and are cut into small files.
    """
    models = [
        {"name": "Refreshed", "training_dataset": worlds.DATASET, "refresh": {"every": "7d", "window": "60d"}},
        {"name": "Still", "training_dataset": worlds.DATASET},
    ]
    configured: list[dict[str, Any]] = [
        {
            "name": f"{model['name']} lookalikes",
            "audience_model": model["name"],
            "sizes": ["10%"],
            "minimum_matching_seed_size": 25,
            "output": "s3://audiences/two",
        }
        for model in models
    ]
    configured[0]["delivery"] = {"holdout": "20%", "changes": True, "gzip": True, "max_rows": 10}
    jobs = [
        {
            "name": "Kept",
            "configured_audience_model": "Refreshed lookalikes",
            "keep_seed": True,
            "exports": ["10%"],
        },
        {"name": "Forgotten", "configured_audience_model": "Refreshed lookalikes"},
        {"name": "Beside", "configured_audience_model": "Still lookalikes", "keep_seed": True},
    ]
    form = {
        "training_datasets": [
            {"name": worlds.DATASET, "source": str(world.interactions), "columns": worlds.ROLES}
        ],
        "audience_models": models,
        "configured_audience_models": configured,
        "generation_jobs": [job | {"seed": str(world.seed)} for job in jobs],
    }
    path = folder / "two.yaml"
    path.write_text(yaml.safe_dump(form))
    return path


@pytest.fixture(scope="module")
def refreshed(world: worlds.World, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Refreshed]:
    """Two models with their audiences and exports, one of which was refreshed as the schedule asks."""
    folder = tmp_path_factory.mktemp("refreshed")
    with opened_in_memory(world, folder) as shell:
        worlds.apply(shell.installation, two_models(folder, world))
        assert shell.run_pending() == 9
        yield Refreshed(shell, files_of(shell), *refresh(shell))


def files_of(shell: Shell) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in shell.installation.home.artifacts.rglob("*") if path.is_file()}


def refresh(shell: Shell) -> tuple[list[str | None], list[str], int]:
    """Let the schedule look three times, the sensor once, and do what is pending."""
    messages = [
        schedule_tick(shell, "declared_refreshes", later=later).skip_message for later in (0, WEEK + 60, WEEK + 60)
    ]
    requests = tick(shell, "pending_work").run_requests
    for request in requests:
        carry_out(shell, request)
    return messages, [request.job_name for request in requests], len(requests) + shell.run_pending()


def test_refresh_rebuilds_only_dependents_of_its_model(refreshed: Refreshed) -> None:
    shell = refreshed.shell
    none = "No declared refresh is due."
    assert refreshed.messages == [none, "Requested 1 refreshes.", none]
    assert refreshed.requested == ["validate_training_dataset"], "the sensor takes it from here"
    assert refreshed.n_runs == 5
    assert worlds.statuses(shell.installation) == {
        worlds.DATASET: ["ACTIVE", "ACTIVE"],
        "Refreshed": ["ACTIVE", "ACTIVE"],
        "Still": ["ACTIVE"],
        "Refreshed lookalikes": ["ACTIVE", "ACTIVE"],
        "Still lookalikes": ["ACTIVE"],
        "Kept": ["ACTIVE", "ACTIVE"],
        "Forgotten": ["ACTIVE"],
        "Beside": ["ACTIVE"],
        "Kept 10%": ["ACTIVE", "ACTIVE"],
    }
    for path, content in refreshed.before.items():
        assert path.read_bytes() == content, "old versions stay as they are"
    model = worlds.the(shell.installation, Kind.AUDIENCE_MODEL, "Refreshed")
    _, documents = newest_artifact(shell.installation, Kind.AUDIENCE_MODEL, model.id, "audience_model")
    assert documents["training"]["n_interactions"] < worlds.N_EVENTS, "only the last 60 of 90 days"
    folders = list((shell.installation.home.accounts / "000000000000" / "buckets" / "audiences" / "two").iterdir())
    assert len(folders) == 2, "each version of an export has a folder of its own"
    ended = [(run.job_name, run.status) for run in shell.instance.get_runs()]
    assert [run for run in ended if run[1] is not dg.DagsterRunStatus.SUCCESS] == []


def test_size_that_is_no_longer_allowed_is_not_exported_again(
    world: worlds.World, tmp_path: Path, new_shell: Callable[[str], Shell]
) -> None:
    """Nor is recall at another size compared with the one before."""
    shell = new_shell("sizes")
    for sizes, export in ((["5%", "50%"], "50%"), (["5%"], "5%")):
        path = worlds.declare(
            tmp_path / "c.yaml",
            interactions=world.interactions,
            seed=world.seed,
            configured={"sizes": sizes},
            job={"keep_seed": True, "exports": [export]},
        )
        worlds.apply(shell.installation, path)
        shell.run_pending()
    statuses = worlds.statuses(shell.installation)
    assert (statuses[worlds.JOB], statuses[f"{worlds.JOB} 50%"]) == (["ACTIVE", "ACTIVE"], ["ACTIVE"])
    assert situation_of(shell.installation).drift == ()


def test_refreshed_export_holds_out_its_control_group_and_lists_changes(refreshed: Refreshed) -> None:
    installation = refreshed.shell.installation
    export = worlds.the(installation, Kind.EXPORT_JOB)
    bucket = installation.home.accounts / "000000000000" / "buckets" / "audiences" / "two"
    before, after = sorted(bucket.iterdir(), key=lambda folder: len(folder.name))

    def users(folder: Path, prefix: str) -> set[str]:
        texts = [gzip.decompress(file.read_bytes()).decode() for file in folder.glob(f"{prefix}-*.jsonl.gz")]
        return {json.loads(line)["user_id"] for text in texts for line in text.splitlines()}

    assert len(list(after.glob("part-*"))) > 1, "at most ten users a file"
    assert list(before.glob("added-*")) == [], "the first has nothing before it"
    assert (users(before, "part") - users(after, "removed")) | users(after, "added") == users(after, "part")
    assert users(after, "added") <= users(after, "part")
    kept_out = []
    for version in installation.catalog.resources.versions(Kind.EXPORT_JOB, export.id):
        reference = ArtifactReference("audience_export", export.id, version.artifacts["audience_export"])
        with installation.store.opening(reference) as folder:
            kept_out.append(users(folder / "holdout", "part"))
    assert kept_out[0] and kept_out[1]
    for folder in (before, after):
        assert not users(folder, "part") & (kept_out[0] | kept_out[1]), "the same users are kept out each time"


def test_housekeeping_deletes_only_superseded_artifacts(
    refreshed: Refreshed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # nothing is old enough, then the superseded versions go and everything current still verifies
    shutil.copytree(refreshed.shell.installation.home.root, tmp_path / "home")
    monkeypatch.setenv("CLEANROOM_HOME", str(tmp_path / "home"))
    shell = replace(refreshed.shell, installation=Installation.from_environment(), folder=tmp_path)
    files = files_of(shell)
    (request,) = schedule_tick(shell, "nightly_housekeeping").run_requests
    assert request.job_name in (None, "housekeeping")
    house = repository().get_job("housekeeping")
    assert house.execute_in_process(instance=shell.instance).success
    assert [path for path in files if not path.exists()] == []
    monkeypatch.setenv("CLEANROOM_RETENTION_DAYS", "1e-9")
    assert house.execute_in_process(instance=shell.instance).success
    gone = {path for path in files if not path.exists()}
    assert gone
    for kind in Kind:
        for record in shell.installation.catalog.resources.iterate(kind):
            for asset in worlds.newest(shell.installation, kind, record.name).artifacts:
                newest_artifact(shell.installation, kind, record.id, asset)
    forgotten = worlds.newest(shell.installation, Kind.GENERATION_JOB, "Forgotten")
    parents = {(parent.kind, parent.version) for parent in forgotten.parents}
    assert (Kind.AUDIENCE_MODEL, 1) in parents
    model = worlds.the(shell.installation, Kind.AUDIENCE_MODEL, "Refreshed")
    model_folder = f"audience_model/{model.id[-12:]}"
    assert not any(model_folder in str(path) for path in gone), "a current audience was made from it"
