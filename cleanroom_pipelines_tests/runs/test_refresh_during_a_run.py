"""Contract: a refresh during a run deletes and duplicates nothing: the run finishes with the model it started
with.

The refresh is real: the model is retrained completely while a job ranks with the previous one.
"""

from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from cleanroom_pipelines.catalog import Cause, ExportJob, Kind, Status
from cleanroom_pipelines.delivery.exports import verify_export
from cleanroom_pipelines.runs.building_lookalike import build_audience
from cleanroom_pipelines.runs.running import run_pending
from cleanroom_pipelines.runs.seeds import start_job_from_file
from cleanroom_pipelines.runs.work import Run
from cleanroom_pipelines.similarity import ranking

from .. import worlds


def test_refresh_during_a_run(
    trained_home: Path, world: worlds.World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with worlds.installed(trained_home) as installation, dg.DagsterInstance.ephemeral() as instance:
        catalog = installation.catalog
        model = worlds.the(installation, Kind.AUDIENCE_MODEL)
        job = start_job_from_file(
            installation,
            configured=worlds.the(installation, Kind.CONFIGURED_AUDIENCE_MODEL).id,
            seed=worlds.write_seed(tmp_path / "seed.jsonl", world.seed_users),
            name="Meanwhile",
            export_size="largest",
        )
        before = catalog.resources.current_version(Kind.AUDIENCE_MODEL, model.id)
        assert before is not None
        generate = ranking.generate

        def generate_while_the_model_is_refreshed(**options: Any) -> Any:
            catalog.work.request_version(Kind.AUDIENCE_MODEL, model.id, Cause.REFRESH)
            run_pending(installation, instance)
            return generate(**options)

        with monkeypatch.context() as patched:
            patched.setattr(ranking, "generate", generate_while_the_model_is_refreshed)
            build_audience(installation, job.id, Run("job", number=1))
        refreshed = catalog.resources.current_version(Kind.AUDIENCE_MODEL, model.id)
        assert refreshed is not None
        assert refreshed.number == before.number + 1
        ranked = catalog.resources.newest_version(Kind.GENERATION_JOB, job.id)
        assert before.ref in ranked.parents, "what was opened when the run began"

        run_pending(installation, instance)
        for kind in Kind:
            for record in catalog.resources.iterate(kind):
                statuses = [version.status for version in catalog.resources.versions(kind, record.id)]
                assert set(statuses) == {Status.ACTIVE}, (kind, statuses)
        export = worlds.the(installation, Kind.EXPORT_JOB)
        assert isinstance(export, ExportJob)
        assert len(catalog.resources.versions(Kind.EXPORT_JOB, export.id)) == 1
        place = installation.buckets.destination(export.account_id, str(export.output_location))
        assert verify_export(place)["delivered"] > 0
