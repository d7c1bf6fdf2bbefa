"""Contract: while the body runs, its lease is renewed; it is notified if the claim is lost; its errors are passed
on unchanged."""

import threading
from pathlib import Path

import pytest

from cleanroom_pipelines.catalog import Catalog, CatalogUnavailableError, Claim, Kind, Status, holding
from cleanroom_pipelines.errors import ClaimLostError

from .building import Numbered, dataset_spec, utc_now

LEASE_SECONDS = 0.6
PATIENCE_SECONDS = 30


@pytest.fixture
def catalog(tmp_path: Path) -> Catalog:
    return Catalog(f"sqlite:///{tmp_path}/c.db", clock=utc_now, token_hex=Numbered())


@pytest.fixture
def claim(catalog: Catalog) -> Claim:
    dataset = catalog.resources.create(dataset_spec())
    taken = catalog.work.claim(Kind.TRAINING_DATASET, dataset.id, 1, "run", LEASE_SECONDS)
    assert taken is not None
    return taken


def renewals(catalog: Catalog, monkeypatch: pytest.MonkeyPatch, n: int) -> threading.Event:
    """Set once the lease was renewed n times."""
    done, renew, times = threading.Event(), catalog.work.renew, iter(range(1, 10_000))

    def counted(claim: Claim) -> Claim:
        renewed = renew(claim)
        if next(times) >= n:
            done.set()
        return renewed

    monkeypatch.setattr(catalog.work, "renew", counted)
    return done


def test_lease_is_renewed_beyond_its_length(
    catalog: Catalog, claim: Claim, monkeypatch: pytest.MonkeyPatch
) -> None:
    renewed = renewals(catalog, monkeypatch, 5)
    with holding(catalog.work, claim) as held:
        assert renewed.wait(PATIENCE_SECONDS)
        assert not held.lost.is_set()
        version = catalog.resources.newest_version(claim.kind, claim.id)
        assert version.lease_expires_at is not None
        assert version.lease_expires_at > claim.lease_expires_at
    assert catalog.work.finish(claim, {}).status is Status.ACTIVE


def test_lost_claim_is_reported(catalog: Catalog, claim: Claim) -> None:
    with holding(catalog.work, claim) as held:
        assert not held.lost.is_set()
        catalog.work.release(claim)
        assert held.lost.wait(PATIENCE_SECONDS)
    with pytest.raises(ClaimLostError):
        catalog.work.finish(claim, {})


def test_short_database_outage_keeps_the_claim(
    catalog: Catalog, claim: Claim, monkeypatch: pytest.MonkeyPatch
) -> None:
    renewed, renew, failures = threading.Event(), catalog.work.renew, iter([True, True])

    def flaky(claim: Claim) -> Claim:
        if next(failures, False):
            raise CatalogUnavailableError("Away.")
        held = renew(claim)
        renewed.set()
        return held

    monkeypatch.setattr(catalog.work, "renew", flaky)
    with holding(catalog.work, claim) as held:
        assert renewed.wait(PATIENCE_SECONDS)
        assert not held.lost.is_set()


def test_body_error_propagates_and_the_thread_ends(catalog: Catalog, claim: Claim) -> None:
    with pytest.raises(ZeroDivisionError), holding(catalog.work, claim):
        (thread,) = [each for each in threading.enumerate() if each.name == f"lease {claim.id}"]
        raise ZeroDivisionError
    assert not thread.is_alive()
    assert catalog.resources.newest_version(claim.kind, claim.id).status is Status.CREATE_IN_PROGRESS


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_unexpected_thread_error_counts_as_a_lost_claim(
    catalog: Catalog, claim: Claim, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_: Claim) -> Claim:
        raise RuntimeError("a defect")

    monkeypatch.setattr(catalog.work, "renew", broken)
    with holding(catalog.work, claim) as held:
        assert held.lost.wait(PATIENCE_SECONDS)
