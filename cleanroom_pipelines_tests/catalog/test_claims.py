"""Contract: one run at a time holds a version; only the holder may write to it or close it; if a run stops
responding, its version is released and tried twice more."""

from collections.abc import Callable
from datetime import timedelta

import pytest

from cleanroom_pipelines.catalog import (
    MAX_ATTEMPTS,
    AudienceModel,
    Catalog,
    Claim,
    ExportJob,
    Kind,
    ParentRef,
    Status,
    Version,
)
from cleanroom_pipelines.errors import ClaimLostError, ConflictError, NotFoundError, StatusCode, UsageError

from .building import Builder, Clock, export_spec, job_spec
from .dialects import on_both_dialects
from .watching import after_next_transaction


@pytest.fixture
def model_id(builder: Builder) -> str:
    """A model whose first version is pending."""
    _, model, _ = builder.chain()
    return model.id


def take(catalog: Catalog, model_id: str, run_id: str = "run", number: int = 1) -> Claim:
    claim = catalog.work.claim(Kind.AUDIENCE_MODEL, model_id, number, run_id)
    assert claim is not None
    return claim


def look(catalog: Catalog, model_id: str) -> Version:
    return catalog.resources.newest_version(Kind.AUDIENCE_MODEL, model_id)


@on_both_dialects
def test_version_is_claimed_once(catalog: Catalog, clock: Clock, model_id: str) -> None:
    claim = take(catalog, model_id)
    assert (claim.attempt, claim.run_id) == (1, "run")
    assert claim.lease_expires_at == clock.now + timedelta(seconds=60)
    version = look(catalog, model_id)
    assert (version.status, version.run_id, version.started_at) == (Status.CREATE_IN_PROGRESS, "run", clock.now)
    assert catalog.get(AudienceModel, model_id).status is Status.CREATE_IN_PROGRESS
    assert catalog.work.claim(Kind.AUDIENCE_MODEL, model_id, 1, "other") is None


@on_both_dialects
def test_holder_may_claim_again(catalog: Catalog, clock: Clock, model_id: str) -> None:
    first = take(catalog, model_id)
    clock.turn(40)
    again = take(catalog, model_id)
    assert again.attempt == first.attempt == 1
    assert again.lease_expires_at == clock.now + timedelta(seconds=60)
    catalog.work.finish(first, {})


def test_missing_version_cannot_be_claimed(catalog: Catalog, model_id: str) -> None:
    for kind, key, number in [
        (Kind.AUDIENCE_MODEL, "nobody", 1),
        (Kind.AUDIENCE_MODEL, model_id, 2),
        (Kind.TRAINING_DATASET, model_id, 1),
    ]:
        with pytest.raises(NotFoundError):
            catalog.work.claim(kind, key, number, "run")
    with pytest.raises(UsageError):
        catalog.work.claim(Kind.AUDIENCE_MODEL, model_id, 1, "")


@pytest.mark.parametrize("closed_as", [Status.ACTIVE, Status.CREATE_FAILED])
def test_closed_version_cannot_be_claimed(catalog: Catalog, model_id: str, closed_as: Status) -> None:
    claim = take(catalog, model_id)
    if closed_as is Status.ACTIVE:
        catalog.work.finish(claim, {})
    else:
        catalog.work.fail(claim, StatusCode.TRAINING_DATA_TOO_SMALL, "Too small. Add users.")
    assert catalog.work.claim(Kind.AUDIENCE_MODEL, model_id, 1, "run") is None
    assert look(catalog, model_id).status is closed_as


@on_both_dialects
def test_expired_lease_can_be_taken_over(catalog: Catalog, clock: Clock, model_id: str) -> None:
    silent = take(catalog, model_id)
    catalog.work.publish_artifact(silent, "audience_model", "v1")
    clock.turn(59)
    assert catalog.work.claim(Kind.AUDIENCE_MODEL, model_id, 1, "other") is None
    clock.turn(1)
    other = take(catalog, model_id, "other")
    assert (other.attempt, other.run_id) == (2, "other")
    assert look(catalog, model_id).artifacts == {}
    with pytest.raises(ClaimLostError):
        catalog.work.finish(silent, {})
    catalog.work.finish(other, {})


@on_both_dialects
def test_lease_is_renewed_from_now(catalog: Catalog, clock: Clock, model_id: str) -> None:
    claim = take(catalog, model_id)
    for _ in range(5):
        clock.turn(50)
        claim = catalog.work.renew(claim)
        assert catalog.work.reap() == ()
    assert claim.lease_expires_at == clock.now + timedelta(seconds=60)
    assert look(catalog, model_id).lease_expires_at == claim.lease_expires_at


@on_both_dialects
def test_holder_with_unnoticed_expired_lease_still_holds(catalog: Catalog, clock: Clock, model_id: str) -> None:
    claim = take(catalog, model_id)
    clock.turn(3600)
    catalog.work.renew(claim)
    assert catalog.work.reap() == ()
    assert catalog.work.finish(claim, {}).status is Status.ACTIVE


@on_both_dialects
def test_release_restores_the_attempt_and_changes_the_run_key(catalog: Catalog, model_id: str) -> None:
    keys = {look(catalog, model_id).run_key}
    for n in range(1, 6):
        claim = take(catalog, model_id, f"run{n}")
        assert claim.attempt == 1
        catalog.work.release(claim)
        version = look(catalog, model_id)
        assert (version.status, version.attempt, version.run_id) == (Status.CREATE_PENDING, 0, None)
        keys.add(version.run_key)
    assert len(keys) == 6
    assert catalog.get(AudienceModel, model_id).status is Status.CREATE_PENDING


def test_progress_is_clamped_to_its_range(catalog: Catalog, model_id: str) -> None:
    claim = take(catalog, model_id)
    for share, expected in [(0.25, 0.25), (-1.0, 0.0), (7.0, 1.0)]:
        catalog.work.report_progress(claim, share, "Counts items")
        version = look(catalog, model_id)
        assert (version.progress, version.progress_stage) == (expected, "Counts items")


@on_both_dialects
def test_finish_closes_the_version_and_makes_it_current(catalog: Catalog, clock: Clock, model_id: str) -> None:
    claim = take(catalog, model_id)
    catalog.work.publish_artifact(claim, "audience_model", "v1")
    catalog.work.publish_artifact(claim, "report", "v2")
    clock.turn(30)
    parent = ParentRef(Kind.TRAINING_DATASET, "d", 1)
    version = catalog.work.finish(claim, {"sentence": "Done.", "n_users": 5}, [parent])
    assert version == look(catalog, model_id)
    assert (version.status, version.progress, version.finished_at) == (Status.ACTIVE, 1.0, clock.now)
    assert (version.artifacts, version.parents) == ({"audience_model": "v1", "report": "v2"}, (parent,))
    assert (version.summary, version.lease_expires_at) == ({"sentence": "Done.", "n_users": 5}, None)
    model = catalog.get(AudienceModel, model_id)
    assert (model.status, model.current_version, model.updated_at) == (Status.ACTIVE, 1, clock.now)


def test_summary_must_be_small_json(catalog: Catalog, model_id: str) -> None:
    claim = take(catalog, model_id)
    for value in (float("nan"), object(), "y" * 70_000):
        with pytest.raises(UsageError, match="summary"):
            catalog.work.finish(claim, {"x": value})
    catalog.work.finish(claim, {})


def test_failure_keeps_its_code_and_artifacts(catalog: Catalog, clock: Clock, model_id: str) -> None:
    claim = take(catalog, model_id)
    catalog.work.publish_artifact(claim, "report", "v1")
    version = catalog.work.fail(claim, StatusCode.TRAINING_DATA_INVALID, "Bad rows. Repair them.")
    assert (version.status, version.status_code) == (Status.CREATE_FAILED, StatusCode.TRAINING_DATA_INVALID)
    assert (version.artifacts, version.finished_at) == ({"report": "v1"}, clock.now)
    model = catalog.get(AudienceModel, model_id)
    assert (model.status, model.status_code) == (Status.CREATE_FAILED, StatusCode.TRAINING_DATA_INVALID)
    assert model.status_message == "Bad rows. Repair them."


def calls_of_a_holder(catalog: Catalog, claim: Claim) -> dict[str, Callable[[], object]]:
    return {
        "renew": lambda: catalog.work.renew(claim),
        "release": lambda: catalog.work.release(claim),
        "report_progress": lambda: catalog.work.report_progress(claim, 0.5, "x"),
        "publish_artifact": lambda: catalog.work.publish_artifact(claim, "a", "v"),
        "publish_output": lambda: catalog.work.publish_output(claim, "o"),
        "finish": lambda: catalog.work.finish(claim, {}),
        "fail": lambda: catalog.work.fail(claim, StatusCode.INTERNAL, "x"),
    }


@on_both_dialects
@pytest.mark.parametrize("why", ["taken over", "reaped", "closed", "released", "taken again by itself", "deleted"])
def test_only_the_holder_may_write(builder: Builder, model_id: str, why: str) -> None:
    catalog, clock = builder.catalog, builder.clock
    claim = take(catalog, model_id)
    if why == "closed":
        catalog.work.fail(claim, StatusCode.INTERNAL, "Closed.")
    elif why == "released":
        catalog.work.release(claim)
    elif why == "deleted":
        configured = catalog.resources.list(Kind.CONFIGURED_AUDIENCE_MODEL).items[0]
        catalog.deletion.request_delete(configured.kind, configured.id)
        catalog.deletion.request_delete(Kind.AUDIENCE_MODEL, model_id)
        clock.turn(60)
        catalog.work.reap()
        catalog.deletion.begin_delete(Kind.AUDIENCE_MODEL, model_id)
        catalog.deletion.finish_delete(Kind.AUDIENCE_MODEL, model_id)
    else:
        clock.turn(60)
        if why != "taken over":
            catalog.work.reap()
        if why != "reaped":
            take(catalog, model_id, "run" if why == "taken again by itself" else "other")
    before = None if why == "deleted" else catalog.resources.versions(Kind.AUDIENCE_MODEL, model_id)
    for name, call in calls_of_a_holder(catalog, claim).items():
        with pytest.raises(ClaimLostError) as caught:
            call()
        assert caught.value.remedy, name
        assert catalog.work.is_cancel_requested(claim), name
        if before is not None:
            assert catalog.resources.versions(Kind.AUDIENCE_MODEL, model_id) == before, name


def test_only_export_jobs_have_outputs(builder: Builder) -> None:
    dataset, _, configured = builder.chain()
    job = builder.create(job_spec(configured.id))
    export = builder.create(export_spec(job.id))
    catalog = builder.catalog
    claim = catalog.work.claim(export.kind, export.id, 1, "run")
    assert claim is not None
    catalog.work.publish_output(claim, "exports/1")
    assert catalog.get(ExportJob, export.id).output_location == "exports/1"
    other = catalog.work.claim(dataset.kind, dataset.id, 1, "run")
    assert other is not None
    with pytest.raises(UsageError):
        catalog.work.publish_output(other, "exports/1")


class TestReap:
    """A run that went silent is let go of: twice for another attempt, then for good."""

    @on_both_dialects
    def test_lease_is_not_reaped_early(self, catalog: Catalog, clock: Clock, model_id: str) -> None:
        take(catalog, model_id)
        assert catalog.work.reap(clock.now + timedelta(seconds=59)) == ()
        assert len(catalog.work.reap(clock.now + timedelta(seconds=60))) == 1

    @on_both_dialects
    def test_third_expired_attempt_fails_as_internal(self, catalog: Catalog, clock: Clock, model_id: str) -> None:
        keys = []
        for attempt in range(1, MAX_ATTEMPTS + 1):
            keys.append(look(catalog, model_id).run_key)
            assert take(catalog, model_id, f"run{attempt}").attempt == attempt
            clock.turn(60)
            (reaped,) = catalog.work.reap()
            assert reaped.run_id == f"run{attempt}"
            assert reaped.version == look(catalog, model_id)
            assert catalog.work.reap() == ()
        assert len(set(keys)) == MAX_ATTEMPTS
        version = look(catalog, model_id)
        assert (version.status, version.status_code) == (Status.CREATE_FAILED, StatusCode.INTERNAL)
        assert "try again" in (version.status_message or "")
        assert catalog.get(AudienceModel, model_id).status is Status.CREATE_FAILED
        assert catalog.work.claim(Kind.AUDIENCE_MODEL, model_id, 1, "run4") is None

    @on_both_dialects
    def test_lease_renewed_meanwhile_is_not_reaped(self, catalog: Catalog, clock: Clock, model_id: str) -> None:
        claim = take(catalog, model_id)
        clock.turn(60)
        with after_next_transaction(
            lambda: catalog.work.renew(claim)
        ):  # the reaper has looked, and locked nothing yet
            assert catalog.work.reap() == ()
        assert catalog.work.finish(claim, {}).status is Status.ACTIVE

    @on_both_dialects
    def test_last_attempt_is_not_taken_over(self, catalog: Catalog, clock: Clock, model_id: str) -> None:
        for attempt in range(1, MAX_ATTEMPTS + 1):
            take(catalog, model_id, f"run{attempt}")
            clock.turn(60)
        assert catalog.work.claim(Kind.AUDIENCE_MODEL, model_id, 1, "run4") is None
        (reaped,) = catalog.work.reap()
        assert reaped.version.status is Status.CREATE_FAILED

    def test_cancelled_expired_claim_is_not_retried(self, catalog: Catalog, clock: Clock, model_id: str) -> None:
        take(catalog, model_id)
        catalog.work.request_cancel(Kind.AUDIENCE_MODEL, model_id)
        clock.turn(60)
        assert catalog.work.claim(Kind.AUDIENCE_MODEL, model_id, 1, "other") is None
        (reaped,) = catalog.work.reap()
        assert reaped.version.status_code is StatusCode.CANCELLED


class TestCancel:
    """A pending version is cancelled at once, one in progress when its run looks."""

    def test_cancel_pending_version(self, catalog: Catalog, model_id: str) -> None:
        version = catalog.work.request_cancel(Kind.AUDIENCE_MODEL, model_id)
        assert (version.status, version.status_code) == (Status.CREATE_FAILED, StatusCode.CANCELLED)
        assert catalog.work.claim(Kind.AUDIENCE_MODEL, model_id, 1, "run") is None

    @on_both_dialects
    def test_cancel_version_in_progress(self, catalog: Catalog, model_id: str) -> None:
        claim = take(catalog, model_id)
        assert not catalog.work.is_cancel_requested(claim)
        assert catalog.work.request_cancel(Kind.AUDIENCE_MODEL, model_id).cancel_requested
        assert catalog.work.is_cancel_requested(claim)
        catalog.work.fail(claim, StatusCode.CANCELLED, "Stopped.")
        assert catalog.work.retry(Kind.AUDIENCE_MODEL, model_id).cancel_requested is False

    def test_cancel_released_claim(self, catalog: Catalog, model_id: str) -> None:
        claim = take(catalog, model_id)
        catalog.work.request_cancel(Kind.AUDIENCE_MODEL, model_id)
        catalog.work.release(claim)
        assert look(catalog, model_id).status_code is StatusCode.CANCELLED

    def test_cancel_without_work_is_rejected(self, catalog: Catalog, model_id: str) -> None:
        catalog.work.finish(take(catalog, model_id), {})
        with pytest.raises(ConflictError):
            catalog.work.request_cancel(Kind.AUDIENCE_MODEL, model_id)
        with pytest.raises(NotFoundError):
            catalog.work.request_cancel(Kind.AUDIENCE_MODEL, "nobody")
