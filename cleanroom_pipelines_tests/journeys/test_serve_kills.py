"""Kills of the server, its worker or the daemon, while clients work, lose and duplicate nothing.

Contract: two accounts train, start jobs from files and by SQL, export and delete through unmodified boto3.
Meanwhile one process after another gets SIGKILL: workers and daemon during claimed work, the server during several
requests. Each is started again as an operator would; the server does so with its workers. A client whose
connection broke sends its request again. In the end each job has ended once, each export is in one folder, a
repeated create raised ConflictException and created no second resource, the audit log is intact and contains every
confirmed change, and no process, run or scratch file is left.

A killed run's lease lasts 60 seconds, and a version is reserved for three minutes for a run that starts; the test
ends both at once.
"""

import os
import random
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import dagster as dg
import psutil
import pytest
from botocore.exceptions import ClientError, ConnectionError, HTTPClientError  # noqa: A004 - botocore's own
from sqlalchemy import and_, or_, select, update

from cleanroom_pipelines.catalog import MAX_ATTEMPTS, Kind, Status
from cleanroom_pipelines.catalog.tables import VersionRow
from cleanroom_pipelines.delivery.exports import verify_export
from cleanroom_pipelines.runs.dagster_home import (
    CODE_LOCATION,
    dagster_environment,
    dagster_instance,
    prepare_dagster_home,
)
from cleanroom_pipelines.runs.installation import Installation
from cleanroom_pipelines.runs.labels import WORKER_TAG
from cleanroom_pipelines.runs.retention import delete_superseded
from cleanroom_pipelines.runs.supervision import fail_runs_that_never_appeared, supervise
from cleanroom_pipelines.server.gateway import HEALTH
from cleanroom_pipelines_tests.server.server import (
    Parties,
    Party,
    client,
    configured_parameters,
    dataset_parameters,
    export_parameters,
    installation_at,
    job_parameters,
    policy_for,
    settle,
)

from .. import worlds
from ..databases import reading, url_of, writing
from ..ports import free_port
from .developing import keep_no_output

pytestmark = pytest.mark.slow

ALONE = ("workers", "server")
BESIDE_A_DAEMON = ("workers", "daemon", "server")
SQL = {"queryString": "SELECT user_id FROM shop.customers WHERE visits >= 5"}
N_AT_ONCE = 5
STANDSTILL = 600.0  # seconds in which nothing came of it any more, however busy the machine is


@dataclass
class Site:
    """The processes of an installation, and how an operator starts and stops them."""

    installation: Installation
    instance: dg.DagsterInstance
    folder: Path
    port: int = field(default_factory=free_port)
    running: dict[str, psutil.Popen] = field(default_factory=dict)
    killed: Counter[str] = field(default_factory=Counter)
    is_over: bool = False

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self, name: str) -> None:
        """Start the server, which starts its worker, or the daemon."""
        home = self.installation.home.root
        environment = os.environ | worlds.settings(home)
        if name == "server":
            module = ["cleanroom_pipelines.cli.main", "serve", "--port", str(self.port)]
        else:
            module = ["dagster._daemon", "run", "-m", CODE_LOCATION]
            environment |= dagster_environment(self.installation, prepare_dagster_home(self.installation))
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
        if name == "server":
            worlds.wait_until(self.answers, seconds=STANDSTILL, what="the server")

    def answers(self) -> bool:
        try:
            with urllib.request.urlopen(self.url + HEALTH, timeout=5):
                return True
        except (urllib.error.URLError, OSError):
            assert self.running["server"].is_running(), "the server ended by itself"
            return False

    def workers(self) -> list[psutil.Process]:
        """Return the server's current workers."""
        found = []
        for process in self.running["server"].children():
            with suppress(psutil.NoSuchProcess):
                if "serving_worker" in " ".join(process.cmdline()) and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
        return found

    def kill(self, name: str) -> None:
        """Kill a process and what would never end without it, and start it again as an operator would."""
        if name == "workers":
            workers = worlds.wait_until(self.workers, seconds=STANDSTILL, what="a worker")
            for process in workers:
                with suppress(psutil.NoSuchProcess):
                    process.kill()
            psutil.wait_procs(workers, timeout=STANDSTILL)
            self.end_leases(of_workers=True)
        elif name == "daemon":
            # its code server and its runs are its family
            for process in (*self.running["daemon"].children(recursive=True), self.running["daemon"]):
                with suppress(psutil.NoSuchProcess):
                    process.kill()
            self.running.pop("daemon").wait()
            self.end_leases(of_workers=False)
            self.start("daemon")
        else:
            orphans = self.workers()
            server = self.running.pop("server")
            server.kill()
            server.wait()
            self.start("server")
            # a worker that has lost its server ends its piece of work, while the new one works, and ends
            _, alive = psutil.wait_procs(orphans, timeout=STANDSTILL)
            assert alive == [], "a worker ends when its server is gone"
        self.killed[name] += 1

    def end_leases(self, *, of_workers: bool) -> None:
        """End the leases of killed runs, and the reservations of all versions."""
        runs = {run_id: self.instance.get_run_by_id(run_id) for run_id in self.holders()}
        killed = [
            run_id
            for run_id, run in runs.items()
            if (run is not None and run.tags.get(WORKER_TAG, "").startswith("serve-")) == of_workers
        ]
        held = and_(VersionRow.status == Status.CREATE_IN_PROGRESS, VersionRow.run_id.in_(killed))
        kept = and_(VersionRow.status == Status.CREATE_PENDING, VersionRow.lease_expires_at.is_not(None))
        with writing(url_of(self.installation)) as session:
            session.execute(
                update(VersionRow).where(or_(held, kept)).values(lease_expires_at=self.installation.clock())
            )

    def holders(self) -> list[str]:
        """Return the runs that hold a claim."""
        with reading(url_of(self.installation)) as session:
            query = select(VersionRow.run_id).where(VersionRow.status == Status.CREATE_IN_PROGRESS)
            return [run_id for run_id in session.scalars(query) if run_id]

    def stop(self) -> None:
        """Stop everything gracefully, the server first."""
        self.is_over = True
        for name in ("server", "daemon"):
            process = self.running.pop(name, None)
            if process is not None:
                family = [process, *process.children(recursive=True)]
                process.send_signal(signal.SIGINT)
                # a daemon's runs may be left; the server ends with all that it started
                _, alive = psutil.wait_procs(family, timeout=60 if name == "daemon" else STANDSTILL)
                for member in alive:
                    with suppress(psutil.NoSuchProcess):
                        member.kill()
                assert not alive or name == "daemon", "the server and its worker end when they are asked to"

    def processes(self) -> list[psutil.Process]:
        """Return all processes with this home in their environment, except this test."""
        found = []
        for process in psutil.process_iter():
            with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
                home = process.environ().get("CLEANROOM_HOME")
                if home == str(self.installation.home.root) and process.pid != os.getpid():
                    found.append(process)
        return found


@contextmanager
def site_at(folder: Path) -> Iterator[tuple[Site, Parties]]:
    installation = installation_at(folder / "home")
    parties = settle(installation)
    keep_no_output(installation.home.dagster_home)
    with dagster_instance(installation) as instance:
        site = Site(installation, instance, folder)
        try:
            yield site, parties
        finally:
            site.is_over = True
            for process in site.processes():
                with suppress(psutil.NoSuchProcess):
                    process.kill()


@dataclass
class Person:
    """A user of one account through boto3, who repeats requests when a connection breaks."""

    site: Site
    party: Party
    confirmed: list[str] = field(default_factory=list)
    n_calls: int = 0
    n_broken: int = 0
    n_conflicts: int = 0

    def __post_init__(self) -> None:
        self.client = client(self.site.url, self.party)

    def insist(self, operation: str, find: Callable[[], str] | None = None, **parameters: Any) -> Any:
        """Repeat a call until there is a response; `find` returns what a call without response has created."""
        is_again = False
        while True:
            assert not self.site.is_over, "the test is over"
            self.n_calls += 1
            try:
                answer = getattr(self.client, operation)(**parameters)
            except (ConnectionError, HTTPClientError):  # the server is gone for a moment
                is_again = True
                self.n_broken += 1
                time.sleep(0.1)
                continue
            except ClientError as error:
                code = error.response["Error"]["Code"]
                if is_again and find is not None and code == "ConflictException":
                    self.n_conflicts += 1
                    return find()
                if is_again and operation.startswith("delete_") and code == "ResourceNotFoundException":
                    return None
                raise
            if find is not None or operation.startswith(("put_", "delete_")):
                self.confirmed.append(answer["ResponseMetadata"]["RequestId"])
            arns = [value for key, value in answer.items() if key.endswith("Arn") and isinstance(value, str)]
            return arns[0] if find is not None and arns else answer

    def make(self, operation: str, listing: str, **parameters: Any) -> str:
        """Create a resource despite kills, and return its ARN; an export job has none."""

        def find() -> str:
            told = self.insist(f"list_{listing}", maxResults=100)
            (members,) = (value for value in told.values() if isinstance(value, list))
            (one,) = (member for member in members if member["name"] == parameters["name"])
            arns = [value for key, value in one.items() if key.endswith("Arn")]
            return next((arn for arn in arns if f"{listing[:-1].replace('_', '-')}/" in arn), "")

        return str(self.insist(operation, find, **parameters))

    def wait(self, kind: Kind, look: Callable[[], Any]) -> None:
        """Wait until a resource is built; retry what failed for good because its run was killed three times."""
        deadline = time.monotonic() + STANDSTILL
        while (seen := look()).get("status") != "ACTIVE":
            assert "status" in seen, f"not a response of this server: {sorted(seen)}"
            assert time.monotonic() < deadline, f"a {kind.words} is still {seen['status']}"
            if seen["status"] == "CREATE_FAILED":
                assert seen["statusDetails"]["statusCode"] in ("INTERNAL", "PARENT_NOT_ACTIVE"), seen
                for record in self.site.installation.catalog.resources.iterate(kind):
                    if record.status is Status.CREATE_FAILED:
                        self.site.installation.catalog.work.retry(kind, record.id)
            time.sleep(0.2)


@dataclass
class Journey:
    """What the two users do, round after round."""

    publisher: Person
    advertiser: Person
    exports: list[str] = field(default_factory=list)
    sets: list[str] = field(default_factory=list)
    n_deleted: int = 0
    n_rounds: int = 0
    model: str = ""
    configured: str = ""

    @property
    def n_calls(self) -> int:
        """The number of calls that both users have made."""
        return self.publisher.n_calls + self.advertiser.n_calls

    def live(self, enough: threading.Event) -> None:
        """Train and share, then start, export and delete jobs until enough processes were killed."""
        me = self.publisher.party
        dataset = self.publisher.make("create_training_dataset", "training_datasets", **dataset_parameters(me))
        self.model = self.publisher.make(
            "create_audience_model", "audience_models", name="model", trainingDatasetArn=dataset
        )
        self.publisher.wait(
            Kind.AUDIENCE_MODEL, lambda: self.publisher.insist("get_audience_model", audienceModelArn=self.model)
        )
        self.configured = self.publisher.make(
            "create_configured_audience_model",
            "configured_audience_models",
            **configured_parameters(me, self.model),
        )
        self.publisher.insist(
            "put_configured_audience_model_policy",
            configuredAudienceModelArn=self.configured,
            configuredAudienceModelPolicy=policy_for(self.configured, self.advertiser.party.account_id),
        )
        while not enough.is_set() or self.n_rounds < 2:
            self.go_round()
            self.n_rounds += 1

    def go_round(self) -> None:
        """Start the advertiser's job by SQL and the publisher's own from a file; export both, and delete one."""
        number, ours, theirs = self.n_rounds, self.publisher, self.advertiser
        sql = {"roleArn": theirs.party.role, "sqlParameters": SQL}
        guest = job_parameters(theirs.party, self.configured, f"guest {number}", seedAudience=sql)
        own = job_parameters(ours.party, self.configured, f"own {number}")
        own["seedAudience"]["dataSource"]["s3Uri"] = "s3://publisher-seeds/loyal.jsonl"
        jobs = []
        for person, asked in ((theirs, guest), (ours, own)):
            jobs.append(
                (person, person.make("start_audience_generation_job", "audience_generation_jobs", **asked))
            )
        for person, job in jobs:
            person.wait(
                Kind.GENERATION_JOB,
                lambda person=person, job=job: person.insist(  # type: ignore[misc]
                    "get_audience_generation_job", audienceGenerationJobArn=job
                ),
            )
            export = export_parameters(job, f"best {len(self.exports)}")
            person.make("start_audience_export_job", "audience_export_jobs", **export)
            self.exports.append(export["name"])
            person.wait(Kind.EXPORT_JOB, lambda person=person, job=job: self.exported(person, job))  # type: ignore[misc]
        ours.insist("delete_audience_generation_job", audienceGenerationJobArn=jobs[1][1])
        self.n_deleted += 1

    def burst(self, threads: ThreadPoolExecutor) -> list[Future[str]]:
        """Create several resources at once, just before the server is killed."""
        names = [f"set {len(self.sets) + number}" for number in range(N_AT_ONCE)]
        self.sets += names
        asked = [dataset_parameters(self.publisher.party, name) for name in names]
        make = partial(self.publisher.make, "create_training_dataset", "training_datasets")
        return [threads.submit(make, **each) for each in asked]

    @staticmethod
    def exported(person: Person, job: str) -> Any:
        (one,) = person.insist("list_audience_export_jobs", audienceGenerationJobArn=job)["audienceExportJobs"]
        return one


def kill_one_after_another(
    site: Site, victims: Sequence[str], dice: random.Random, journey: Journey, lived: Future[None]
) -> None:
    """Kill each of the processes, in a random order and at random moments."""
    made: list[Future[str]] = []
    with ThreadPoolExecutor(N_AT_ONCE) as threads:
        for victim in dice.sample(victims, len(victims)):
            if victim == "server":  # at any moment
                n_calls = journey.n_calls + dice.randint(0, 20)
                worlds.wait_until(
                    lambda n_calls=n_calls: journey.n_calls >= n_calls or lived.done(),  # type: ignore[misc]
                    seconds=STANDSTILL,
                    what="some calls",
                )
            else:  # in the middle of work
                worlds.wait_until(
                    lambda: site.holders() or lived.done(), seconds=STANDSTILL, what="work", every=0.02
                )
                time.sleep(dice.uniform(0, 0.5))
            if lived.done():
                lived.result()  # it ends only if it fails
            if victim == "server":
                made += journey.burst(threads)
                time.sleep(dice.uniform(0.01, 0.1))
            site.kill(victim)
        arns = [future.result(timeout=STANDSTILL) for future in made]
    assert len(set(arns)) == len(made)


def test_every_job_ends_once_whatever_is_killed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dice, enough = random.Random(7), threading.Event()
    with site_at(tmp_path) as (site, parties), ThreadPoolExecutor(1) as threads:
        seeds = site.installation.home.accounts / parties.publisher.account_id / "buckets" / "publisher-seeds"
        seeds.mkdir(parents=True)
        worlds.write_seed(seeds / "loyal.jsonl", [worlds.user(number) for number in range(worlds.N_SEED)])
        site.start("server")
        people = Person(site, parties.publisher), Person(site, parties.advertiser)
        journey = Journey(*people)
        lived = threads.submit(journey.live, enough)
        try:
            kill_one_after_another(site, ALONE, dice, journey, lived)
            site.start("daemon")
            kill_one_after_another(site, BESIDE_A_DAEMON, dice, journey, lived)
            enough.set()
            lived.result(timeout=2 * STANDSTILL)
            site_is_quiet(site)
            site.stop()
        except BaseException:
            site.is_over = True
            raise
        n_attempts = assert_ended_once(site.installation, journey)
        assert_confirmed(site.installation, people)
        n_daemon = sum(WORKER_TAG not in run.tags for run in site.instance.get_runs())
        assert_nothing_left(site)
    with capsys.disabled():
        print(  # noqa: T201 what was measured
            f"\nKilled {dict(site.killed)} during {journey.n_rounds} rounds;"
            f" {sum(person.n_broken for person in people)} calls broke or found no server,"
            f" {sum(person.n_conflicts for person in people)} repeated creates were conflicts;"
            f" {len(journey.exports)} exports, {journey.n_deleted} deleted jobs, {n_daemon} runs of the daemon,"
            f" {n_attempts} attempts more than one."
        )


def site_is_quiet(site: Site) -> None:
    """Wait until all work and deletions are done."""
    catalog = site.installation.catalog
    worlds.wait_until(
        lambda: not (catalog.work.ready() or site.holders() or catalog.deletion.deletions()),
        seconds=STANDSTILL,
        what="an end",
    )


def assert_ended_once(installation: Installation, journey: Journey) -> int:
    """Check that everything exists once and is ACTIVE; return how many further attempts it took."""
    n_attempts = 0
    catalog, home = installation.catalog, installation.home
    names = {kind: Counter(record.name for record in catalog.resources.iterate(kind)) for kind in Kind}
    advertiser = journey.advertiser.party.account_id
    assert names[Kind.TRAINING_DATASET] == Counter(["events", *journey.sets])
    assert names[Kind.AUDIENCE_MODEL] == Counter(["model"])
    assert names[Kind.CONFIGURED_AUDIENCE_MODEL] == Counter(["lookalikes"])
    guests = [f"{advertiser}-guest {number}" for number in range(journey.n_rounds)]
    assert names[Kind.GENERATION_JOB] == Counter(guests), "the publisher's own are deleted"
    assert names[Kind.EXPORT_JOB] == Counter(journey.exports[::2]), "theirs went with them"
    for kind in Kind:
        for record in catalog.resources.iterate(kind):
            versions = catalog.resources.versions(kind, record.id)
            assert [version.status for version in versions] == [Status.ACTIVE]
            assert all(1 <= version.attempt <= MAX_ATTEMPTS for version in versions)
            n_attempts += sum(version.attempt - 1 for version in versions)
    bucket = home.accounts / journey.publisher.party.account_id / "buckets" / "publisher-audiences" / "shop"
    folders = sorted(bucket.iterdir())
    assert [folder.name for folder in folders if folder.name.startswith(".")] == []
    assert len(folders) == len(journey.exports), "each export lies there once, also of the deleted jobs"
    assert {verify_export(folder)["delivered"] for folder in folders} == {worlds.N_USERS // 5}
    return n_attempts


def assert_confirmed(installation: Installation, people: tuple[Person, Person]) -> None:
    """Check that every change confirmed to a client is in the audit log, which is intact."""
    verdict = installation.audit.verify()
    assert verdict.ok, verdict.problem
    outcomes = {
        entry.get("request_id"): entry["outcome"] for entry in installation.audit.entries() if "outcome" in entry
    }
    confirmed = [request_id for person in people for request_id in person.confirmed]
    assert confirmed
    assert {outcomes.get(request_id) for request_id in confirmed} == {"ok"}


def assert_nothing_left(site: Site) -> None:
    worlds.wait_until(lambda: not site.processes(), seconds=STANDSTILL, what="the end of all processes")
    later = worlds.later(site.installation, days=2)
    supervise(later, site.instance)
    fail_runs_that_never_appeared(later, site.instance)
    # what waits in the daemon's queue will find its work done by the worker
    unfinished = [run for run in site.instance.get_runs() if not run.is_finished]
    assert [run.job_name for run in unfinished if run.status is not dg.DagsterRunStatus.QUEUED] == []
    delete_superseded(site.installation, site.installation.clock() + timedelta(days=2))
    home = site.installation.home
    left = [path for path in home.scratch_root.iterdir() if path != home.scratch and not path.name.startswith(".")]
    assert left == [], "the folders of processes that ended"
    assert [path for path in home.seeds.rglob("seed.*") if path.is_file()] == [], "no seed is left"
    keys = {key for kind in Kind for key in site.installation.catalog.resources.ids(kind)}
    shown = {key for kind in Kind for key in site.instance.get_dynamic_partitions(f"{kind.value}s")}
    assert shown == keys, "Dagster shows what there is"
