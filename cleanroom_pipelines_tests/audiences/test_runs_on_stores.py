"""Contract: a run writes its export where the configured model's bucket is registered: on a real store when it has
a URL, and nowhere when it is another account's; the check on the asset reads it back from there."""

from pathlib import Path

import pytest

from cleanroom_pipelines.catalog import Kind
from cleanroom_pipelines.errors import ArtifactError
from cleanroom_pipelines.execution.making import newest_artifact, verify_exported_files
from cleanroom_pipelines.execution.running import run_pending

from .. import worlds
from ..object_stores import PROFILE, empty_store, running_server

OWN = "000000000000"


def test_a_run_exports_to_a_real_store(tmp_path: Path) -> None:
    world = worlds.write_world(tmp_path / "files")
    with (
        running_server() as server,
        empty_store(server, tmp_path) as store,
        worlds.installed(tmp_path / "home") as installation,
        worlds.dagster_at(tmp_path / "dagster", one_file=True) as instance,
    ):
        store.client().create_bucket(Bucket="real")
        installation.catalog.register_bucket("audiences", OWN, "s3://real/publisher", PROFILE)
        worlds.apply(installation, world.declaration)
        run_pending(installation, instance)
        version = worlds.newest(installation, Kind.EXPORT_JOB)
        assert (version.status, version.status_message) == ("ACTIVE", None)

        export = worlds.the(installation, Kind.EXPORT_JOB)
        folder = f"publisher/shop/{export.id.rsplit('-', 1)[-1]}"
        objects = store.objects("real")
        assert sorted(objects) == [f"{folder}/manifest.json", f"{folder}/part-00000.jsonl"]
        assert objects[f"{folder}/part-00000.jsonl"].count(b"\n") == worlds.N_USERS // 5
        assert not (installation.home.accounts / OWN).exists()

        manifest, _ = newest_artifact(installation, Kind.EXPORT_JOB, export.id, "audience_export")
        assert verify_exported_files(installation, export.id, manifest) == worlds.N_USERS // 5
        store.put("real", f"{folder}/part-00000.jsonl", b"")
        with pytest.raises(ArtifactError):
            verify_exported_files(installation, export.id, manifest)


def test_a_run_does_not_write_to_another_accounts_bucket(tmp_path: Path) -> None:
    world = worlds.write_world(tmp_path / "files")
    with (
        worlds.installed(tmp_path / "home") as installation,
        worlds.dagster_at(tmp_path / "dagster", one_file=True) as instance,
    ):
        other = installation.catalog.create_account("Other").id
        installation.catalog.register_bucket("audiences", other)
        worlds.apply(installation, world.declaration)
        run_pending(installation, instance)
        version = worlds.newest(installation, Kind.CONFIGURED_AUDIENCE_MODEL)
        assert (version.status, version.status_code) == ("CREATE_FAILED", "DESTINATION_NOT_WRITABLE")
        assert other not in (version.status_message or "")
        assert list(installation.home.accounts.iterdir()) == []
