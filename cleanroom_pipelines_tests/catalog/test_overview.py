"""Contract: an overview of the whole catalogue has every resource once, and the live workers; a copy is a valid
catalogue."""

from datetime import timedelta
from pathlib import Path

import pytest

from cleanroom_pipelines.catalog import LOCAL_ACCOUNT, Catalog, Kind, Starter
from cleanroom_pipelines.errors import NotFoundError, StatusCode, UsageError

from .building import Builder, Clock, Numbered, dataset_spec, export_spec, job_spec, model_spec
from .dialects import on_both_dialects


@on_both_dialects
def test_ids_and_records_in_order_of_creation(catalog: Catalog, clock: Clock) -> None:
    made = []
    for name in ("second", "first", "third"):
        made.append(catalog.resources.create(dataset_spec(name)).id)
        clock.turn(1)
    catalog.resources.create(model_spec(made[0]))
    assert list(catalog.resources.ids(Kind.TRAINING_DATASET)) == made
    assert [record.id for record in catalog.resources.iterate(Kind.TRAINING_DATASET)] == made
    assert len(catalog.resources.ids(Kind.AUDIENCE_MODEL)) == 1
    assert catalog.resources.ids(Kind.EXPORT_JOB) == ()
    assert catalog.resources.ids_by_kind() == {kind: catalog.resources.ids(kind) for kind in Kind}


@on_both_dialects
def test_resources_of_an_account_are_counted(undeclared: Builder) -> None:
    guest = "111122223333"
    catalog = undeclared.catalog
    *_, configured = undeclared.chain()
    assert [catalog.resources.count(Kind.TRAINING_DATASET, account) for account in (LOCAL_ACCOUNT, guest)] == [
        1,
        0,
    ]
    first = undeclared.create(job_spec(configured.id))
    catalog.resources.create(job_spec(configured.id, "theirs"), starter=Starter(guest, "theirs"))
    assert [catalog.resources.count_unfinished_jobs(account) for account in (LOCAL_ACCOUNT, guest)] == [1, 1]
    assert catalog.resources.count(Kind.GENERATION_JOB, LOCAL_ACCOUNT) == 2
    undeclared.create(export_spec(first.id))
    catalog.work.request_cancel(first.kind, first.id)
    assert [catalog.resources.count_unfinished_jobs(account) for account in (LOCAL_ACCOUNT, guest)] == [0, 1]
    undeclared.drain()
    assert catalog.resources.count_unfinished_jobs(guest) == 0


def test_get_one_version(catalog: Catalog) -> None:
    dataset = catalog.resources.create(dataset_spec())
    assert catalog.resources.version(Kind.TRAINING_DATASET, dataset.id, 1).number == 1
    with pytest.raises(NotFoundError):
        catalog.resources.version(Kind.TRAINING_DATASET, dataset.id, 2)
    with pytest.raises(NotFoundError):
        catalog.resources.version(Kind.AUDIENCE_MODEL, dataset.id, 1)


def test_live_runs_hold_a_claim_or_send_heartbeats(catalog: Catalog) -> None:
    dataset = catalog.resources.create(dataset_spec())
    assert catalog.resources.live_runs() == frozenset()
    claim = catalog.work.claim(Kind.TRAINING_DATASET, dataset.id, 1, "claimer")
    catalog.work.heartbeat_worker("worker")
    assert catalog.resources.live_runs() == {"claimer", "worker"}
    assert claim is not None
    catalog.work.finish(claim, {})
    catalog.work.forget_worker("worker")
    assert catalog.resources.live_runs() == frozenset()


@on_both_dialects
def test_seeds_of_ended_jobs_are_deletable(builder: Builder, clock: Clock) -> None:
    catalog = builder.catalog
    configured = builder.chain()[2]
    active, kept, failed = (
        builder.create(job_spec(configured.id, name, seed_digest=digest * 16, keep_seed=name == "kept"))
        for name, digest in (("active", "aaaa"), ("kept", "bbbb"), ("failed", "cccc"))
    )
    assert catalog.resources.spent_seeds(clock.now) == ()  # nothing has ended
    for _ in range(3):
        builder.make(catalog.work.ready()[0])
    builder.make(builder.newest(active))
    builder.make(builder.newest(kept))
    claim = catalog.work.claim(Kind.GENERATION_JOB, failed.id, 1, "run")
    assert claim is not None
    catalog.work.fail(claim, StatusCode.STORAGE_FULL, "The disk is full.")
    clock.turn(10)
    assert [job.id for job in catalog.resources.spent_seeds(clock.now - timedelta(seconds=20))] == [active.id]
    assert {job.id for job in catalog.resources.spent_seeds(clock.now)} == {active.id, failed.id}
    catalog.resources.forget_seed(active.id)
    assert [job.id for job in catalog.resources.spent_seeds(clock.now)] == [failed.id]


def test_copy_is_a_consistent_state(tmp_path: Path) -> None:
    catalog = Catalog(f"sqlite:///{tmp_path / 'a.db'}", clock=Clock(), token_hex=Numbered())
    before = catalog.resources.create(dataset_spec("before")).id
    catalog.resources.copy_to(tmp_path / "b.db")
    catalog.resources.create(dataset_spec("after"))
    copy = Catalog(f"sqlite:///{tmp_path / 'b.db'}", clock=Clock(), token_hex=Numbered())
    assert copy.resources.ids(Kind.TRAINING_DATASET) == (before,)


@on_both_dialects
def test_only_an_sqlite_catalogue_is_copied(catalog: Catalog, tmp_path: Path, url: str) -> None:
    if url.startswith("sqlite"):
        catalog.resources.copy_to(tmp_path / "b.db")
        return
    with pytest.raises(UsageError):
        catalog.resources.copy_to(tmp_path / "b.db")
