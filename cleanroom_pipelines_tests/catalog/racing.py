"""What each of many processes does in a race; a module of its own so that a spawned process can import it."""

import secrets
from contextlib import ExitStack
from multiprocessing.synchronize import Barrier
from typing import Any

from cleanroom_pipelines.catalog import (
    LOCAL_ACCOUNT,
    RECORDS,
    Catalog,
    ConfiguredAudienceModel,
    ExportJobSpec,
    GenerationJob,
    Kind,
    Origin,
    ParentRef,
    Starter,
    Status,
)
from cleanroom_pipelines.errors import ClaimLostError, CleanroomError, ConflictError, StatusCode, UsageError
from cleanroom_pipelines_tests.databases import without_waiting_for_the_disk

from .building import dataset_spec, job_spec, utc_now

GUEST = "111122223333"

_always = ExitStack()
_start: Barrier | None = None
_open: tuple[str, Catalog] | None = None


def prepare(barrier: Barrier) -> None:
    global _start  # noqa: PLW0603 - a barrier can only be handed to a process when it starts
    _start = barrier
    _always.enter_context(without_waiting_for_the_disk())


def together() -> None:
    assert _start is not None
    _start.wait(120)


def open_catalog(url: str) -> Catalog:
    """This process's catalogue; one of another URL is closed, so that a server is not left without connections."""
    global _open  # noqa: PLW0603 - it lives from one race to the next
    if _open is None or _open[0] != url:
        if _open is not None:
            _open[1].database.close()
        _open = url, Catalog(url, clock=utc_now, token_hex=secrets.token_hex)
    return _open[1]


def first_open(url: str, n: int) -> str:
    catalog = open_catalog(url)
    together()
    return catalog.resources.create(dataset_spec(f"d{n}")).id


def claim_one(url: str, n: int, kind: Kind, resource_id: str) -> str | None:
    catalog = open_catalog(url)
    catalog.get(RECORDS[kind], resource_id)
    together()
    claim = catalog.work.claim(kind, resource_id, 1, f"run{n}")
    if claim is None:
        return None
    catalog.work.finish(claim, {"run": claim.run_id})
    return claim.run_id


def drain(url: str, n: int, n_rounds: int) -> list[tuple[str, int, str]]:
    """Claim and close whatever is ready, failing some and dropping some; what this process closed."""
    catalog = open_catalog(url)
    closed: list[tuple[str, int, str]] = []
    together()
    idle = 0
    while idle < n_rounds:
        catalog.work.reap()
        catalog.work.fail_orphans()
        ready = catalog.work.ready()
        idle = 0 if ready else idle + 1
        for version in ready:
            # Short leases: some run out while their holder is at it, and are reaped or taken over.
            claim = catalog.work.claim(
                version.kind, version.resource_id, version.number, f"{n}:{len(closed)}", 0.02
            )
            if claim is None:
                continue
            record = catalog.get(RECORDS[version.kind], version.resource_id)
            try:
                catalog.work.publish_artifact(claim, "asset", claim.run_id)
                if secrets.randbelow(4) == 0:
                    catalog.work.release(claim)
                    continue
                parents = []
                if record.parent_kind is not None and record.parent_id is not None:
                    parent = catalog.get(RECORDS[record.parent_kind], record.parent_id)
                    parents = [ParentRef(parent.kind, parent.id, parent.current_version or 0)]
                catalog.work.finish(claim, {"run": claim.run_id}, parents)
            except ClaimLostError:
                continue
            closed.append((version.resource_id, version.number, claim.run_id))
    return closed


def hold_and_close(url: str, n: int, resource_id: str) -> str:
    """Take a claim whose lease is over at once, then try to close it, whoever has it by then."""
    catalog = open_catalog(url)
    together()
    claim = catalog.work.claim(Kind.TRAINING_DATASET, resource_id, 1, f"run{n}", lease_seconds=0.0)
    if claim is None:
        return "none"
    try:
        catalog.work.fail(claim, StatusCode.INTERNAL, claim.run_id)
    except ClaimLostError:
        return "lost"
    return claim.run_id


def drop_seed(url: str, n: int, configured_id: str) -> tuple[str, Any]:
    catalog = open_catalog(url)
    spec = job_spec(configured_id, f"drop {n}", origin=Origin.INBOX, export_size="largest")
    together()
    try:
        return "made", catalog.resources.create(spec).id
    except ConflictError as error:
        return error.attributes["reason"], error.attributes["existing_id"]


def take_name(url: str, n: int) -> tuple[str, Any]:
    catalog = open_catalog(url)
    together()
    try:
        return "made", catalog.resources.create(dataset_spec("the same", description=str(n))).id
    except ConflictError as error:
        return error.attributes["reason"], error.attributes["existing_id"]


def ask(url: str, n: int, resource_id: str, n_times: int) -> set[int]:
    """Ask by hand for new versions; the numbers this process was given."""
    catalog = open_catalog(url)
    together()
    numbers = set()
    for _ in range(n_times):
        asked = catalog.work.request_manually(Kind.TRAINING_DATASET, resource_id, run_id=f"run{n}")
        numbers.add(asked.version.number)
        claim = catalog.work.claim(Kind.TRAINING_DATASET, resource_id, asked.version.number, f"run{n}")
        if claim is not None:
            catalog.work.finish(claim, {"run": claim.run_id})
    return numbers


def refresh(url: str, _: int, model_id: str) -> int:
    catalog = open_catalog(url)
    together()
    return catalog.work.request_refresh(model_id).number


def update(url: str, n: int, configured_id: str, n_times: int) -> None:
    """Half of the processes change one field, the others another."""
    catalog = open_catalog(url)
    together()
    for time in range(n_times):
        value = 100 + time
        changes = {"min_matching_seed_size": value} if n % 2 else {"description": str(value)}
        catalog.resources.update_configured_audience_model(configured_id, **changes)


def put_policy(url: str, n: int, configured_id: str, previous: str | None) -> str | None:
    """Replace the policy of a hash, or the absence of one; the hash if this process did."""
    catalog = open_catalog(url)
    exists = None if previous is not None else False
    # a text that was there before has its hash: whoever put it again would leave the condition of the others true
    policy = f'{{"by": {n}, "after": "{previous}"}}'
    together()
    try:
        return catalog.parties.put_policy(
            configured_id, LOCAL_ACCOUNT, policy, previous_hash=previous, must_exist=exists
        )
    except UsageError:
        return None


def start_as_guest(url: str, n: int, configured_id: str, own_id: str, name: str) -> tuple[str, str]:
    """Half of the processes start a job of their own, the others on another account's model: all of one name."""
    catalog = open_catalog(url)
    spec = job_spec(own_id if n % 2 else configured_id, name)
    together()
    try:
        if n % 2:
            return "own", catalog.resources.create(spec, account_id=GUEST).id
        return "guest", catalog.resources.create(spec, starter=Starter(GUEST, name)).id
    except ConflictError as error:
        return error.attributes["reason"], error.attributes["existing_id"]


def start_for_all(url: str, n: int, configured_id: str, name: str) -> str:
    """Each process is another guest; the names in the owner's account must not clash."""
    catalog = open_catalog(url)
    together()
    return catalog.resources.create(
        job_spec(configured_id, name), starter=Starter(f"{n:012d}" if n else GUEST, name)
    ).id


def delete_on_both_sides(url: str, n: int, job_id: str) -> str:
    """A third of the processes delete the guest's copy, a third the job; a third export it as the guest."""
    catalog = open_catalog(url)
    size = _allowed_size(catalog, job_id)
    together()
    try:
        if n % 3 == 0:
            catalog.job_views.delete_job_view(job_id, GUEST)
            return "guest"
        if n % 3 == 1:
            catalog.job_views.delete_job_view(job_id, LOCAL_ACCOUNT)
            catalog.deletion.begin_delete(Kind.GENERATION_JOB, job_id)
            catalog.deletion.finish_delete(Kind.GENERATION_JOB, job_id)
            return "owner"
        catalog.job_views.set_job_view_tags(job_id, GUEST, {"a": str(n)})
        catalog.resources.create(
            ExportJobSpec(name=f"e{n}", generation_job_id=job_id, size=size, started_by=GUEST)
        )
    except CleanroomError as error:
        return type(error).__name__
    return "exported"


def create_parties(url: str, n: int) -> list[str]:
    """Everything that has a name, all of the same ones; what this process made."""
    catalog = open_catalog(url)
    made = []
    together()
    for what, make in {
        "account": lambda: catalog.parties.create_account("shop"),
        "id": lambda: catalog.parties.create_account(f"own {n}", GUEST),
        "collaboration": lambda: catalog.parties.create_collaboration("retail", [LOCAL_ACCOUNT, GUEST]),
        "template": lambda: catalog.parties.add_template("buyers", LOCAL_ACCOUNT, "SELECT 1"),
        "bucket": lambda: catalog.parties.register_bucket("seeds", LOCAL_ACCOUNT),
        "key": lambda: catalog.parties.add_access_key(GUEST, "AKIA" + "A" * 16, str(n)),
    }.items():
        try:
            make()
            made.append(what)
        except ConflictError:
            continue
    return made


def tag(url: str, n: int, resource_id: str, n_times: int) -> None:
    catalog = open_catalog(url)
    together()
    for time in range(n_times):
        catalog.resources.set_tags(Kind.TRAINING_DATASET, resource_id, {f"{n}.{time}": "x"})


def publish(url: str, n: int, resource_id: str, n_times: int) -> None:
    catalog = open_catalog(url)
    claim = catalog.work.claim(Kind.TRAINING_DATASET, resource_id, 1, "shared")
    assert claim is not None
    together()
    for time in range(n_times):
        catalog.work.publish_artifact(claim, f"{n}.{time}", "v")


def delete_or_add(url: str, n: int, job_id: str) -> str:
    """Half of the processes delete a job, the others export it."""
    catalog = open_catalog(url)
    spec = ExportJobSpec(name=f"e{n}", generation_job_id=job_id, size=_allowed_size(catalog, job_id))
    together()
    try:
        if n % 2:
            catalog.resources.create(spec)
            return "added"
        catalog.deletion.request_delete(Kind.GENERATION_JOB, job_id)
        catalog.deletion.begin_delete(Kind.GENERATION_JOB, job_id)
        catalog.deletion.finish_delete(Kind.GENERATION_JOB, job_id)
    except CleanroomError as error:
        return type(error).__name__
    return "deleted"


def _allowed_size(catalog: Catalog, job_id: str) -> Any:
    job = catalog.get(GenerationJob, job_id)
    return catalog.get(ConfiguredAudienceModel, job.configured_audience_model_id).sizes[0]


FINISHED = (Status.ACTIVE, Status.CREATE_FAILED)
