"""Leases, reservations and heartbeats when clocks jump and databases are unavailable.

Contract: a clock that is set back does not block work; an outage does not make a holder count as dead because its
heartbeats could not arrive; one version is reserved for one run; on PostgreSQL the server's clock decides,
whatever the host's clock says.
"""

from datetime import timedelta
from pathlib import Path

import pytest

from cleanroom_pipelines.catalog import (
    LEASE_SECONDS,
    RESERVED_SECONDS,
    Catalog,
    CatalogUnavailableError,
    Claim,
    Kind,
    Status,
    Version,
)

from ..databases import database_away, own_schema
from .building import Clock, Numbered, dataset_spec

HOUR = 3600.0


@pytest.fixture
def dataset(catalog: Catalog) -> str:
    return catalog.resources.create(dataset_spec()).id


def newest(catalog: Catalog, key: str) -> Version:
    return catalog.resources.newest_version(Kind.TRAINING_DATASET, key)


def take(catalog: Catalog, key: str, run: str = "run") -> Claim:
    claim = catalog.work.claim(Kind.TRAINING_DATASET, key, 1, run)
    assert claim is not None
    return claim


def test_dead_runs_work_is_released_after_the_clock_is_set_back(
    catalog: Catalog, clock: Clock, dataset: str
) -> None:
    take(catalog, dataset)
    clock.turn(-HOUR)
    assert catalog.work.reap() == (), "it may be alive"
    clock.turn(LEASE_SECONDS + 1)
    (reaped,) = catalog.work.reap()
    assert reaped.version.status is Status.CREATE_PENDING


def test_live_run_survives_a_clock_set_back(catalog: Catalog, clock: Clock, dataset: str) -> None:
    claim = take(catalog, dataset)
    clock.turn(-HOUR)
    assert catalog.work.reap() == ()
    for _ in range(6):  # as its holder does every third of a lease
        claim = catalog.work.renew(claim)
        clock.turn(LEASE_SECONDS / 3)
        assert catalog.work.reap() == ()
    assert catalog.work.finish(claim, {}).status is Status.ACTIVE


def test_future_heartbeat_ages_from_now(catalog: Catalog, clock: Clock) -> None:
    catalog.work.heartbeat_worker("worker")
    clock.turn(-HOUR)
    assert catalog.work.dead_workers() == ()
    clock.turn(61)
    assert catalog.work.dead_workers() == ("worker",)


def test_no_worker_counts_as_dead_right_after_an_outage(clock: Clock, tmp_path: Path) -> None:
    # a database of its own: the process remembers the outage
    catalog = Catalog(f"sqlite:///{tmp_path}/c.db", clock=clock, token_hex=Numbered())
    dataset = catalog.resources.create(dataset_spec()).id
    take(catalog, dataset)
    catalog.work.heartbeat_worker("worker")
    clock.turn(LEASE_SECONDS + 1)
    assert not catalog.database.had_outage(HOUR)
    with database_away(), pytest.raises(CatalogUnavailableError):
        catalog.work.ready()
    assert catalog.database.had_outage(HOUR)
    assert catalog.work.reap() == ()
    assert catalog.work.dead_workers() == ()
    assert newest(catalog, dataset).status is Status.CREATE_IN_PROGRESS


def test_version_is_reserved_for_one_run(catalog: Catalog, clock: Clock, dataset: str) -> None:
    (ready,) = catalog.work.ready()
    assert catalog.work.reserve(ready)
    assert not catalog.work.reserve(ready), "another process starts a run for it"
    assert catalog.work.ready() == ()
    clock.turn(RESERVED_SECONDS + 1)
    (again,) = catalog.work.ready()
    assert catalog.work.reserve(again), "the run never came"
    assert take(catalog, dataset).attempt == 1
    assert not catalog.work.reserve(again)


def test_reservation_ends_after_the_clock_is_set_back(catalog: Catalog, clock: Clock, dataset: str) -> None:
    (ready,) = catalog.work.ready()
    assert catalog.work.reserve(ready)
    clock.turn(-HOUR)
    catalog.work.reap()
    clock.turn(LEASE_SECONDS + 1)
    assert catalog.work.ready() == (newest(catalog, dataset),)


def test_abandoned_claim_counts_as_an_attempt(catalog: Catalog, dataset: str) -> None:
    for attempt in (1, 2, 3):
        claim = take(catalog, dataset, f"run {attempt}")
        catalog.work.abandon(claim)
        assert newest(catalog, dataset).attempt == attempt
    assert newest(catalog, dataset).status is Status.CREATE_FAILED


@pytest.mark.postgresql
@pytest.mark.parametrize("skew_seconds", [-HOUR, 61.0, HOUR])
def test_host_clock_reaps_no_live_work_on_postgresql(
    postgresql_server: str, clock: Clock, skew_seconds: float
) -> None:
    with own_schema(postgresql_server) as url:
        _reaps_no_live_work(url, clock, skew_seconds)


def _reaps_no_live_work(url: str, clock: Clock, skew_seconds: float) -> None:
    skewed = Clock()
    clock.now = skewed.now = skewed.now.replace(year=2020)
    skewed.turn(skew_seconds)
    ours, theirs = (Catalog(url, clock=each, token_hex=Numbered(), server_clock=True) for each in (clock, skewed))
    key = ours.resources.create(dataset_spec()).id
    claim = take(ours, key)
    ours.work.heartbeat_worker("worker")
    assert theirs.work.reap() == ()
    assert theirs.work.dead_workers() == ()
    assert theirs.work.claim(Kind.TRAINING_DATASET, key, 1, "other") is None
    assert claim.lease_expires_at - clock.now > timedelta(days=365), "the server's clock, not the host's"
    assert ours.work.finish(claim, {}).status is Status.ACTIVE
    for each in (ours, theirs):
        each.database.close()
