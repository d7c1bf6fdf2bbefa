"""Several hosts on one installation: each job is done once, and nothing is left behind.

Contract: the catalogue and Dagster's own storage are in PostgreSQL, artifacts in an S3-compatible store, the home
on storage that every host sees. In this test the hosts are processes, each with its own Dagster folder: two
workers and a daemon, which start runs for the same pending versions. One worker is killed while it holds a claim;
the test ends the claim's lease of 60 seconds at once. In the end every version is ACTIVE, materialised once (those
of the killed worker once per attempt) and exported to one folder, and all artifacts match their manifests.
"""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import dagster as dg
import psutil
import pytest
import yaml
from sqlalchemy import func, select, update

from cleanroom_pipelines.catalog import Kind, Status
from cleanroom_pipelines.catalog.tables import VersionRow, WorkerRow
from cleanroom_pipelines.runs.dagster_home import CODE_LOCATION
from cleanroom_pipelines.runs.installation import Installation
from cleanroom_pipelines.runs.labels import WORKER_TAG
from cleanroom_pipelines.storage import ArtifactReference

from .. import worlds
from ..architecture.tree import ROOT
from ..databases import own_database, postgresql_server, reading, url_of, writing  # noqa: F401 - a fixture
from ..object_stores import PROFILE, empty_store, running_server
from .developing import keep_no_output

pytestmark = [pytest.mark.postgresql, pytest.mark.slow]

N_WORKERS, N_JOBS = 2, 6
STANDSTILL = 600.0  # seconds in which nothing came of it any more, however busy the machine is
BUCKET = "artifacts-of-all-hosts"
EXAMPLE = ROOT / "data" / "example" / "hosts"


@dataclass
class Hosts:
    """The processes that share an installation, each like a host of its own."""

    folder: Path
    environment: dict[str, str]
    running: dict[str, psutil.Popen] = field(default_factory=dict)

    def dagster_home(self, name: str) -> Path:
        """Create a host's own Dagster folder; the storage is in PostgreSQL."""
        home = self.folder / name / "dagster_home"
        keep_no_output(home, EXAMPLE / "dagster.yaml")
        return home

    def start(self, name: str) -> None:
        """Start a worker, or the daemon."""
        module = ["cleanroom_pipelines.runs.serving_worker"]
        if name == "daemon":
            module = ["dagster._daemon", "run", "-m", CODE_LOCATION]
        environment = os.environ | self.environment | {"DAGSTER_HOME": str(self.dagster_home(name))}
        with (self.folder / f"{name}.log").open("ab") as log:
            self.running[name] = psutil.Popen(
                [sys.executable, "-m", *module],
                cwd=self.folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def stop(self) -> None:
        """End all processes and what they started."""
        for process in self.running.values():
            if not process.is_running():
                continue
            family = [process, *process.children(recursive=True)]
            process.send_signal(signal.SIGTERM)
            _, alive = psutil.wait_procs(family, timeout=30)
            for member in alive:
                member.kill()
        self.running.clear()


@pytest.fixture
def hosts(postgresql_server: str, tmp_path: Path) -> Iterator[Hosts]:  # noqa: F811 - the fixture of that name
    with (
        own_database(postgresql_server) as catalog,
        own_database(postgresql_server) as dagster_storage,
        running_server() as moto,
        empty_store(moto, tmp_path) as store,
    ):
        store.client().create_bucket(Bucket=BUCKET)
        address = store.url.removeprefix("http://")
        environment = worlds.settings(tmp_path / "home") | {
            "CLEANROOM_CATALOG_URL": catalog.replace("postgresql://", "postgresql+psycopg://", 1),
            "CLEANROOM_ARTIFACTS_URL": f"s3://{BUCKET}/artifacts?endpoint_override={address}&scheme=http",
            "AWS_PROFILE": PROFILE,
            "DAGSTER_POSTGRES_URL": dagster_storage.replace("postgresql://", "postgresql+psycopg2://", 1),
            "DAGSTER_DISABLE_TELEMETRY": "1",
        }
        found = Hosts(tmp_path, environment)
        try:
            yield found
        finally:
            found.stop()


def declare_many(folder: Path) -> Path:
    """Write a declaration of one model and many jobs, each with an export."""
    world = worlds.write_world(folder)
    form = yaml.safe_load(world.declaration.read_text())
    (job,) = form["generation_jobs"]
    form["generation_jobs"] = []
    for number in range(N_JOBS):
        seed = worlds.write_seed(
            folder / f"seed-{number}.jsonl", world.group[number : number + worlds.N_SEED - N_JOBS]
        )
        form["generation_jobs"].append(job | {"name": f"job {number}", "seed": str(seed)})
    world.declaration.write_text(yaml.safe_dump(form))
    return world.declaration


def open_versions(installation: Installation) -> list[str]:
    catalog = installation.catalog
    return [
        record.name
        for kind in worlds.ROAD
        for record in catalog.resources.iterate(kind)
        if catalog.resources.newest_version(kind, record.id).status not in (Status.ACTIVE, Status.CREATE_FAILED)
    ]


def id_of_the_only_worker(installation: Installation) -> str | None:
    """Return the worker's id, which is a tag of its runs, once the worker has sent a heartbeat."""
    with reading(url_of(installation)) as session:
        ids = [name for name in session.scalars(select(WorkerRow.worker_id)) if name.startswith("serve-")]
    assert len(ids) <= 1
    return ids[0] if ids else None


def kill_with_a_claim(
    hosts: Hosts, name: str, worker: str, installation: Installation, instance: dg.DagsterInstance
) -> str:
    """Kill a worker while it builds a generation job; return the job's id."""
    held: list[str] = []

    def claimed() -> list[VersionRow]:
        with reading(url_of(installation)) as session:
            rows = session.scalars(
                select(VersionRow).where(
                    VersionRow.kind == Kind.GENERATION_JOB, VersionRow.status == Status.CREATE_IN_PROGRESS
                )
            )
            return [
                row
                for row in rows
                if (run := instance.get_run_by_id(row.run_id or "")) and run.tags.get(WORKER_TAG) == worker
            ]

    def is_killed() -> bool:
        if not claimed():
            return False
        process = hosts.running[name]
        # It cannot give the claim back any more while we look again.
        process.suspend()
        held.extend(row.resource_id for row in claimed())
        if held:
            process.kill()
        else:
            process.resume()
        return bool(held)

    worlds.wait_until(is_killed, seconds=STANDSTILL, every=0.1, what="a claim of the worker that is to be killed")
    (job,) = held
    with writing(url_of(installation)) as session:
        # a lease on PostgreSQL is measured in its own time
        session.execute(
            update(VersionRow).where(VersionRow.resource_id == job).values(lease_expires_at=func.clock_timestamp())
        )
    return job


def test_workers_and_a_daemon_on_several_hosts_do_each_job_once(hosts: Hosts) -> None:
    with worlds.installed(hosts.folder / "home", **hosts.environment) as installation:
        worlds.apply(installation, declare_many(hosts.folder / "world"))
        # as the example says: Dagster's tables are made before several hosts look for them
        home = str(hosts.dagster_home("operator"))
        with dg.DagsterInstance.from_config(home) as instance:
            hosts.start("worker-0")
            worker = worlds.wait_until(
                lambda: id_of_the_only_worker(installation), seconds=STANDSTILL, every=0.3, what="the first worker"
            )
            assert worker is not None
            for number in range(1, N_WORKERS):
                hosts.start(f"worker-{number}")
            hosts.start("daemon")

            def finished_jobs() -> int:
                return sum(
                    installation.catalog.resources.newest_version(Kind.GENERATION_JOB, job.id).status
                    is Status.ACTIVE
                    for job in installation.catalog.resources.iterate(Kind.GENERATION_JOB)
                )

            worlds.wait_until(lambda: finished_jobs() >= 1, seconds=STANDSTILL, every=0.3, what="the first job")
            interrupted = kill_with_a_claim(hosts, "worker-0", worker, installation, instance)
            worlds.wait_until(
                lambda: (
                    len(list(installation.catalog.resources.iterate(Kind.EXPORT_JOB))) == N_JOBS
                    and not open_versions(installation)
                ),
                seconds=STANDSTILL,
                every=0.5,
                what="the end of all work",
            )
            hosts.stop()

            catalog = installation.catalog
            made_by, untold = set(), []
            for kind in worlds.ROAD:
                for record in catalog.resources.iterate(kind):
                    (version,) = catalog.resources.versions(kind, record.id)
                    assert version.status is Status.ACTIVE, version.status_message
                    with reading(url_of(installation)) as session:
                        row = VersionRow.resource_id == record.id
                        (run_id,) = session.scalars(select(VersionRow.run_id).where(row))
                        (attempt,) = session.scalars(select(VersionRow.attempt).where(row))
                    assert attempt == (2 if record.id == interrupted else 1), f"of {record.name}"
                    run = instance.get_run_by_id(run_id) if run_id else None
                    if run is not None:
                        made_by.add(run.tags.get(WORKER_TAG, "the daemon"))
                    for asset, artifact in version.artifacts.items():
                        installation.store.verify(ArtifactReference(asset, record.id, artifact))
                        n_events = len(worlds.materializations(instance, asset, record.id))
                        # The killed worker may have made a seed's report before the other attempt did.
                        assert n_events <= attempt, f"{asset} of {record.name} was made {n_events} times"
                        if n_events == 0:
                            untold.append((record.name, run.status if run else None))
            # The worker may have died between closing its version and telling Dagster of it.
            assert len({name for name, _ in untold}) <= 1, untold
            assert all(status is not dg.DagsterRunStatus.SUCCESS for _, status in untold), untold
            exports = hosts.folder / "home" / "accounts"
            manifests = list(exports.rglob("manifest.json"))
            assert len(manifests) == N_JOBS
            assert len({path.parent for path in manifests}) == N_JOBS
            assert len(made_by) >= 2, "the hosts shared the work"
