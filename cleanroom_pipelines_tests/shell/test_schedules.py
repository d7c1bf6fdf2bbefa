"""What happens at its time: declared refreshes and housekeeping.

Contract: issue "Automation (b)", DESIGN section 4. A refresh makes a new version of one model and of exactly what
follows from it; the other model, the old versions, and audiences whose seed was not kept stay as they are.
Superseded artifacts go after the retention time, never what something current was made from.
"""

import gzip
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from cleanroom_pipelines.catalog import Kind
from cleanroom_pipelines.execution.making import newest_artifact
from cleanroom_pipelines.storage import ArtifactReference

from .. import worlds
from .conftest import Shell, repository
from .ticks import schedule_tick, tick

WEEK = 7 * 86_400


def two_models(folder: Path, world: worlds.World) -> Path:
    """Two models of one dataset; the first is refreshed weekly, and keeps the seed of one of its two jobs."""
    models = [
        {"name": "Refreshed", "training_dataset": worlds.DATASET, "refresh": {"every": "7d", "window": "60d"}},
        {"name": "Still", "training_dataset": worlds.DATASET},
    ]
    configured = [
        {
            "name": f"{model['name']} lookalikes",
            "audience_model": model["name"],
            "sizes": ["10%"],
            "minimum_matching_seed_size": 25,
            "output": "s3://audiences/two",
        }
        for model in models
    ]
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


@pytest.fixture
def two(world: worlds.World, new_shell: Callable[[str], Shell], tmp_path: Path) -> Shell:
    """Two models, both made, with an audience each and one more."""
    shell = new_shell("room")
    worlds.apply(shell.installation, two_models(tmp_path, world))
    assert shell.run_pending() == 9
    return shell


def test_a_refresh_remakes_exactly_what_follows_from_its_model(two: Shell) -> None:
    files = {path: path.read_bytes() for path in two.installation.home.artifacts.rglob("*") if path.is_file()}
    nothing = schedule_tick(two, "declared_refreshes")
    assert (nothing.run_requests, nothing.skip_message) == ([], "No declared refresh is due.")

    due = schedule_tick(two, "declared_refreshes", later=WEEK + 60)
    assert due.skip_message == "Asked for 1 refreshes."
    assert schedule_tick(two, "declared_refreshes", later=WEEK + 60).skip_message == "No declared refresh is due."
    (first,) = tick(two, "pending_work").run_requests
    assert first.job_name == "validate_training_dataset", "the sensor takes it from here"
    assert two.run_pending() == 5
    assert worlds.statuses(two.installation) == {
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
    for path, content in files.items():
        assert path.read_bytes() == content, "old versions stay as they are"
    model = worlds.the(two.installation, Kind.AUDIENCE_MODEL, "Refreshed")
    _, documents = newest_artifact(two.installation, Kind.AUDIENCE_MODEL, model.id, "audience_model")
    assert documents["training"]["n_interactions"] < worlds.N_EVENTS, "only the last 60 of 90 days"
    folders = list((two.installation.home.accounts / "000000000000" / "buckets" / "audiences" / "two").iterdir())
    assert len(folders) == 2, "each version of an export has a folder of its own"

    # housekeeping: nothing is old enough, then the superseded versions go and everything current still verifies
    (request,) = schedule_tick(two, "nightly_housekeeping").run_requests
    assert request.job_name in (None, "keep_house")
    house = repository().get_job("keep_house")
    assert house.execute_in_process(instance=two.instance).success
    assert [path for path in files if not path.exists()] == []
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CLEANROOM_RETENTION_DAYS", "1e-9")
        assert house.execute_in_process(instance=two.instance).success
    gone = {path for path in files if not path.exists()}
    assert gone
    for kind in Kind:
        for record in two.installation.catalog.iterate(kind):
            for asset in worlds.newest(two.installation, kind, record.name).artifacts:
                newest_artifact(two.installation, kind, record.id, asset)
    forgotten = worlds.newest(two.installation, Kind.GENERATION_JOB, "Forgotten")
    parents = {(parent.kind, parent.version) for parent in forgotten.parents}
    assert (Kind.AUDIENCE_MODEL, 1) in parents
    model_folder = f"audience_model/{model.id[-12:]}"
    assert not any(model_folder in str(path) for path in gone), "a current audience was made from it"


def test_a_refreshed_export_keeps_its_control_group_out_and_says_who_came_and_went(
    world: worlds.World, new_shell: Callable[[str], Shell], tmp_path: Path
) -> None:
    shell = new_shell("room")
    path = two_models(tmp_path, world)
    form = yaml.safe_load(path.read_text())
    form["configured_audience_models"][0]["delivery"] = {
        "holdout": "20%",
        "changes": True,
        "gzip": True,
        "max_rows": 10,
    }
    path.write_text(yaml.safe_dump(form))
    worlds.apply(shell.installation, path)
    shell.run_pending()
    schedule_tick(shell, "declared_refreshes", later=WEEK + 60)
    shell.run_pending()
    assert worlds.statuses(shell.installation)["Kept 10%"] == ["ACTIVE", "ACTIVE"]

    export = worlds.the(shell.installation, Kind.EXPORT_JOB)
    bucket = shell.installation.home.accounts / "000000000000" / "buckets" / "audiences" / "two"
    before, after = sorted(bucket.iterdir(), key=lambda folder: len(folder.name))

    def users(folder: Path, prefix: str) -> set[str]:
        texts = [gzip.decompress(file.read_bytes()).decode() for file in folder.glob(f"{prefix}-*.jsonl.gz")]
        return {json.loads(line)["user_id"] for text in texts for line in text.splitlines()}

    assert len(list(after.glob("part-*"))) > 1, "at most ten users a file"
    assert list(before.glob("added-*")) == [], "the first has nothing before it"
    assert (users(before, "part") - users(after, "removed")) | users(after, "added") == users(after, "part")
    assert users(after, "added") <= users(after, "part")
    kept_out = []
    for version in shell.installation.catalog.versions(Kind.EXPORT_JOB, export.id):
        reference = ArtifactReference("audience_export", export.id, version.artifacts["audience_export"])
        with shell.installation.store.opening(reference) as folder:
            kept_out.append(users(folder / "holdout", "part"))
    assert kept_out[0] and kept_out[1]
    for folder in (before, after):
        assert not users(folder, "part") & (kept_out[0] | kept_out[1]), "the same users are kept out each time"
