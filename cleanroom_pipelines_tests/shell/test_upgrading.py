"""A home of an earlier release continues: stale models are rebuilt automatically, and work that needs them waits.

The stale model is made by writing the code version of the earlier release into its manifest, and its format into
its description.
"""

import json

import pytest

from cleanroom_pipelines.catalog import Cause, Kind, Status
from cleanroom_pipelines.runs.seeds import start_job_from_file
from cleanroom_pipelines.storage.artifacts import sha256_of

from .. import worlds
from .conftest import Shell


@pytest.fixture
def stale(trained: Shell) -> Shell:
    """A trained clean room whose model is of format 2."""
    (folder,) = (trained.installation.home.artifacts / "audience_model").glob("*/*")
    description = folder / "model.json"
    description.write_text(json.dumps(json.loads(description.read_text()) | {"format_version": 2}))
    manifest = json.loads((folder / "manifest.json").read_text())
    for entry in manifest["files"]:
        if entry["name"] == description.name:
            entry |= {"n_bytes": description.stat().st_size, "sha256": sha256_of(description)}
    (folder / "manifest.json").write_text(json.dumps(manifest | {"code_version": "2"}))
    return trained


def start_job(shell: Shell) -> str:
    configured = worlds.the(shell.installation, Kind.CONFIGURED_AUDIENCE_MODEL)
    job = start_job_from_file(
        shell.installation, configured=configured.id, seed=shell.world.seed, name="Spring", export_size="20%"
    )
    return job.id


def test_job_waits_for_the_rebuild_of_its_outdated_model(stale: Shell) -> None:
    key = start_job(stale)
    stale.run_pending()
    job = stale.installation.catalog.resources.newest_version(Kind.GENERATION_JOB, key)
    assert (job.status, job.attempt) == (Status.ACTIVE, 1)
    model = worlds.newest(stale.installation, Kind.AUDIENCE_MODEL)
    assert (model.number, model.status, model.cause) == (2, Status.ACTIVE, Cause.UPGRADED)
    assert worlds.newest(stale.installation, Kind.EXPORT_JOB).status is Status.ACTIVE


def test_job_reports_that_its_model_cannot_be_rebuilt(stale: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    key = start_job(stale)
    monkeypatch.setenv("CLEANROOM_SIZE_PROFILE", "aws")  # for which the table is too small
    stale.run_pending()
    job = stale.installation.catalog.resources.newest_version(Kind.GENERATION_JOB, key)
    assert job.status is Status.CREATE_FAILED
    assert job.status_code == "PARENT_NOT_ACTIVE"
    assert "earlier release" in (job.status_message or "")
    model = worlds.newest(stale.installation, Kind.AUDIENCE_MODEL)
    assert (model.number, model.status) == (2, Status.CREATE_FAILED)
    catalog = stale.installation.catalog
    monkeypatch.delenv("CLEANROOM_SIZE_PROFILE")
    for kind in (Kind.AUDIENCE_MODEL, Kind.GENERATION_JOB):
        catalog.work.retry(kind, worlds.the(stale.installation, kind).id)
    stale.run_pending()
    assert catalog.resources.newest_version(Kind.GENERATION_JOB, key).status is Status.ACTIVE, (
        "once the cause is gone"
    )
