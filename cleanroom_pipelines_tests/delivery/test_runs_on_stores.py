"""Contract: a run writes its export where the configured model's bucket is registered: on a real store when it has
a URL, and nowhere when it is another account's; the check on the asset reads it back from there."""

import shutil
from pathlib import Path

import pytest
from moto.server import ThreadedMotoServer

from cleanroom_pipelines.catalog import Kind
from cleanroom_pipelines.errors import ArtifactError
from cleanroom_pipelines.runs.artifact_documents import newest_artifact
from cleanroom_pipelines.runs.building_lookalike import verify_exported_files
from cleanroom_pipelines.runs.running import run_pending

from .. import worlds
from ..object_stores import PROFILE, empty_store

OWN = "000000000000"


def test_run_exports_to_a_real_store(
    world: worlds.World, finished_folder: Path, tmp_path: Path, store_server: ThreadedMotoServer
) -> None:
    room = shutil.copytree(finished_folder, tmp_path / "room")
    declaration = worlds.declare(
        tmp_path / "cleanroom.yaml",
        interactions=world.interactions,
        seed=world.seed,
        job={"exports": ["20%", "10%"]},
    )
    with (
        empty_store(store_server, tmp_path) as store,
        worlds.installed(room / "home") as installation,
        worlds.dagster_at(room / "dagster", one_file=True) as instance,
    ):
        store.client().create_bucket(Bucket="real")
        installation.catalog.parties.register_bucket("audiences", OWN, "s3://real/publisher", PROFILE)
        before = set(installation.home.accounts.rglob("*"))
        (export,) = (each for each in worlds.apply(installation, declaration) if each.action == "create")
        assert run_pending(installation, instance) == 1
        version = installation.catalog.resources.newest_version(Kind.EXPORT_JOB, export.id)
        assert (version.status, version.status_message) == ("ACTIVE", None)

        folder = f"publisher/shop/{export.id.rsplit('-', 1)[-1]}"
        objects = store.objects("real")
        assert sorted(objects) == [f"{folder}/manifest.json", f"{folder}/part-00000.jsonl"]
        assert objects[f"{folder}/part-00000.jsonl"].count(b"\n") == worlds.N_USERS // 10
        assert set(installation.home.accounts.rglob("*")) == before

        manifest, _ = newest_artifact(installation, Kind.EXPORT_JOB, export.id, "audience_export")
        assert verify_exported_files(installation, export.id, manifest) == worlds.N_USERS // 10
        store.put("real", f"{folder}/part-00000.jsonl", b"")
        with pytest.raises(ArtifactError):
            verify_exported_files(installation, export.id, manifest)


def test_run_does_not_write_to_another_accounts_bucket(
    world: worlds.World, trained_folder: Path, tmp_path: Path
) -> None:
    room = shutil.copytree(trained_folder, tmp_path / "room")
    with (
        worlds.installed(room / "home") as installation,
        worlds.dagster_at(room / "dagster", one_file=True) as instance,
    ):
        other = installation.catalog.parties.create_account("Other").id
        installation.catalog.parties.register_bucket("audiences", other)
        name = "Lookalikes for a bucket of theirs"
        theirs = worlds.declare(
            tmp_path / "theirs.yaml", interactions=world.interactions, seed=None, configured={"name": name}
        )
        worlds.apply(installation, theirs)
        run_pending(installation, instance)
        version = worlds.newest(installation, Kind.CONFIGURED_AUDIENCE_MODEL, name)
        assert (version.status, version.status_code) == ("CREATE_FAILED", "DESTINATION_NOT_WRITABLE")
        assert other not in (version.status_message or "")
        assert list(installation.home.accounts.iterdir()) == []
