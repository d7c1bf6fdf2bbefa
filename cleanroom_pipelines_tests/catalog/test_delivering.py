"""Contract: a version's output is delivered only by the run that holds it, and only if it was not cancelled
before. From then on cancelling is rejected until the version is closed, whichever run delivers; every attempt has
a higher number than the one before; the holder may withdraw what it published."""

from collections.abc import Callable

import pytest

from cleanroom_pipelines.catalog import Catalog, Claim, Kind, Status
from cleanroom_pipelines.errors import CancelledError, ClaimLostError, ConflictError, StatusCode

from .building import Builder, Clock, job_spec

KIND = Kind.GENERATION_JOB


@pytest.fixture
def job_id(builder: Builder) -> str:
    _, _, configured = builder.chain()
    return builder.create(job_spec(configured.id)).id


def take(catalog: Catalog, job_id: str, run_id: str = "run") -> Claim:
    claim = catalog.work.claim(KIND, job_id, 1, run_id)
    assert claim is not None
    return claim


def asks(catalog: Catalog, claim: Claim) -> dict[str, Callable[[], object]]:
    return {
        "check_wanted": lambda: catalog.work.check_wanted(claim),
        "begin_delivery": lambda: catalog.work.begin_delivery(claim),
        "finish": lambda: catalog.work.finish(claim, {}),
    }


ASKS = ("check_wanted", "begin_delivery", "finish")


@pytest.mark.parametrize("ask", ASKS)
def test_holder_may_deliver(catalog: Catalog, job_id: str, ask: str) -> None:
    asks(catalog, take(catalog, job_id))[ask]()


@pytest.mark.parametrize("ask", ASKS)
@pytest.mark.parametrize("why", ["cancelled", "deleted"])
def test_cancel_before_the_delivery_wins(catalog: Catalog, job_id: str, ask: str, why: str) -> None:
    claim = take(catalog, job_id)
    (catalog.work.request_cancel if why == "cancelled" else catalog.deletion.request_delete)(KIND, job_id)
    before = catalog.resources.newest_version(KIND, job_id)
    with pytest.raises(CancelledError):
        asks(catalog, claim)[ask]()
    assert catalog.resources.newest_version(KIND, job_id) == before
    catalog.work.fail(claim, StatusCode.CANCELLED, "Stopped.")


@pytest.mark.parametrize("ask", [*ASKS[:2], "withdraw_artifact"])
@pytest.mark.parametrize("why", ["taken over", "reaped", "given back and taken again", "closed", "gone"])
def test_lost_claim_may_not_deliver(catalog: Catalog, clock: Clock, job_id: str, ask: str, why: str) -> None:
    claim = take(catalog, job_id)
    if why == "given back and taken again":
        catalog.work.release(claim)
        assert take(catalog, job_id).attempt == claim.attempt  # the same run, the same count
    elif why == "closed":
        catalog.work.finish(claim, {})
    else:
        clock.turn(61)
        if why == "taken over":
            take(catalog, job_id, "other")
        else:
            catalog.work.reap()
        if why == "gone":
            catalog.deletion.request_delete(KIND, job_id)
            catalog.deletion.begin_delete(KIND, job_id)
            catalog.deletion.finish_delete(KIND, job_id)
    may = asks(catalog, claim) | {"withdraw_artifact": lambda: catalog.work.withdraw_artifact(claim, "audience")}
    with pytest.raises(ClaimLostError):
        may[ask]()


def test_cancel_after_the_delivery_is_rejected_until_closed(catalog: Catalog, clock: Clock, job_id: str) -> None:
    first = take(catalog, job_id)
    clock.turn(59)
    catalog.work.begin_delivery(first)
    assert catalog.resources.newest_version(KIND, job_id).progress_stage == "delivering"
    clock.turn(59)
    assert catalog.work.reap() == (), "the lease was renewed"
    clock.turn(2)

    def is_rejected() -> bool:
        with pytest.raises(ConflictError, match="being delivered"):
            catalog.work.request_cancel(KIND, job_id)
        return True

    assert is_rejected(), "though its run is silent"
    catalog.work.reap()
    assert is_rejected(), "though it waits for another run"
    second = take(catalog, job_id, "other")
    assert is_rejected(), "though the other run does not deliver yet"
    catalog.work.finish(second, {})
    assert catalog.resources.newest_version(KIND, job_id).params == {}


def test_retry_of_a_failed_delivery_can_be_cancelled(catalog: Catalog, job_id: str) -> None:
    claim = take(catalog, job_id)
    catalog.work.begin_delivery(claim)
    catalog.work.fail(claim, StatusCode.DESTINATION_NOT_WRITABLE, "Full.")
    catalog.work.retry(KIND, job_id)
    assert catalog.work.request_cancel(KIND, job_id).status_code is StatusCode.CANCELLED


def test_version_deleted_during_delivery_is_closed_first(catalog: Catalog, job_id: str) -> None:
    claim = take(catalog, job_id)
    catalog.work.begin_delivery(claim)
    catalog.deletion.request_delete(KIND, job_id)
    assert catalog.deletion.deletions() == ()
    catalog.work.check_wanted(claim)
    assert catalog.work.finish(claim, {}).status is Status.ACTIVE
    assert [record.id for record in catalog.deletion.deletions()] == [job_id]


def test_version_deleted_before_the_next_attempt_is_not_delivered(
    catalog: Catalog, clock: Clock, job_id: str
) -> None:
    catalog.work.begin_delivery(take(catalog, job_id))
    clock.turn(61)
    second = take(catalog, job_id, "other")
    catalog.deletion.request_delete(KIND, job_id)
    with pytest.raises(CancelledError):
        catalog.work.begin_delivery(second)


def test_each_attempt_has_a_later_queue_generation(catalog: Catalog, clock: Clock, job_id: str) -> None:
    turns = list[int]()

    def begin(run: str) -> Claim:
        claim = take(catalog, job_id, run)
        turns.append(claim.queue_generation)
        return claim

    begin("first")
    clock.turn(61)
    begin("takes over")
    clock.turn(61)
    catalog.work.reap()
    catalog.work.release(begin("after it was reaped"))
    claim = begin("after it was given back")
    assert take(catalog, job_id, claim.run_id).queue_generation == claim.queue_generation, "the holder's own"
    catalog.work.fail(claim, StatusCode.INTERNAL, "Failed.")
    catalog.work.retry(KIND, job_id)
    begin("from the beginning")
    assert turns == sorted(set(turns))


def test_published_artifact_is_withdrawn(catalog: Catalog, job_id: str) -> None:
    claim = take(catalog, job_id)
    for asset in ("seed_validation_report", "audience"):
        catalog.work.publish_artifact(claim, asset, "0001-0")
    for _ in range(2):
        catalog.work.withdraw_artifact(claim, "audience")
        assert catalog.resources.newest_version(KIND, job_id).artifacts == {"seed_validation_report": "0001-0"}
