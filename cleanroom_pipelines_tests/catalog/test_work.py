"""Contract: a version is ready if it can be built now; one that waits for something that failed is failed, with
the reason; a manual request always has a visible outcome; a refresh concerns one model."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cleanroom_pipelines.catalog import Cause, Claim, Kind, Resource, Status
from cleanroom_pipelines.catalog.work import next_refresh
from cleanroom_pipelines.errors import ConflictError, NotFoundError, StatusCode, UsageError

from .building import Builder, configured_spec, dataset_spec, export_spec, job_spec, model_spec
from .dialects import on_both_dialects

DAY = 86_400


def ready(builder: Builder) -> list[str]:
    return [version.resource_id for version in builder.catalog.work.ready()]


def take(builder: Builder, record: Resource, run_id: str = "run") -> Claim:
    claim = builder.catalog.work.claim(record.kind, record.id, builder.newest(record).number, run_id)
    assert claim is not None
    return claim


def fail(builder: Builder, record: Resource, code: StatusCode = StatusCode.TRAINING_DATA_INVALID) -> None:
    builder.catalog.work.fail(take(builder, record), code, "It failed. Repair it.")


class TestReady:
    """Parents before children; nothing is started on a parent that is about to change."""

    @on_both_dialects
    def test_each_version_waits_for_its_parent(self, builder: Builder) -> None:
        dataset, model, configured = builder.chain()
        job = builder.create(job_spec(configured.id))
        export = builder.create(export_spec(job.id))
        assert ready(builder) == [dataset.id]
        claim = take(builder, dataset)
        assert ready(builder) == []
        builder.catalog.work.finish(claim, {})
        assert ready(builder) == [model.id]
        builder.make(builder.newest(model))
        # the job is made from the model itself and need not wait for the configured model's own asset
        assert ready(builder) == [configured.id, job.id]
        builder.make(builder.newest(job))
        assert ready(builder) == [configured.id, export.id]

    @on_both_dialects
    def test_job_waits_for_its_initial_model(self, undeclared: Builder) -> None:
        dataset, _, configured = undeclared.chain()
        undeclared.drain()
        job = undeclared.create(job_spec(configured.id))
        other = undeclared.create(model_spec(dataset.id, "other"))
        undeclared.catalog.resources.update_configured_audience_model(configured.id, audience_model_id=other.id)
        later = undeclared.create(job_spec(configured.id, "later"))
        assert ready(undeclared) == [job.id, other.id]
        fail(undeclared, other)
        undeclared.catalog.work.fail_orphans()
        assert undeclared.newest(job).status is Status.CREATE_PENDING
        assert undeclared.newest(later).status_code is StatusCode.PARENT_NOT_ACTIVE

    @on_both_dialects
    def test_small_work_first_then_the_oldest(self, builder: Builder) -> None:
        first = builder.create(dataset_spec("first"))
        builder.make(builder.newest(first))
        models = [builder.create(model_spec(first.id, f"m{n}")).id for n in range(3)]
        second = builder.create(dataset_spec("second"))
        assert ready(builder) == [second.id, *models]
        assert [version.resource_id for version in builder.catalog.work.ready(limit=2)] == [second.id, models[0]]

    @on_both_dialects
    def test_parent_being_rebuilt_is_waited_for(self, builder: Builder) -> None:
        _, model, configured = builder.chain()
        builder.drain()
        job = builder.create(job_spec(configured.id))
        assert ready(builder) == [job.id]
        builder.catalog.work.request_version(model.kind, model.id, Cause.BY_HAND)
        assert ready(builder) == [model.id]

    @on_both_dialects
    def test_parent_with_a_failed_new_version_uses_the_old_one(self, builder: Builder) -> None:
        _, model, configured = builder.chain()
        builder.drain()
        builder.catalog.work.request_version(model.kind, model.id, Cause.BY_HAND)
        fail(builder, model)
        job = builder.create(job_spec(configured.id))
        assert builder.catalog.work.fail_orphans() == ()
        assert ready(builder) == [job.id]

    @on_both_dialects
    def test_versions_of_one_resource_are_built_one_at_a_time(self, builder: Builder) -> None:
        dataset = builder.create(dataset_spec())
        claim = take(builder, dataset)
        builder.catalog.work.request_version(dataset.kind, dataset.id, Cause.DECLARED)
        assert ready(builder) == []
        builder.catalog.work.finish(claim, {})
        assert ready(builder) == [dataset.id]

    @on_both_dialects
    def test_resource_being_deleted_is_not_built(self, builder: Builder) -> None:
        dataset = builder.create(dataset_spec())
        builder.drain()
        model = builder.create(model_spec(dataset.id))
        builder.catalog.deletion.request_delete(model.kind, model.id)
        assert ready(builder) == []


class TestOrphans:
    """A child whose parent failed for good fails too, and names the parent."""

    @on_both_dialects
    def test_failed_dataset_fails_the_whole_chain(self, builder: Builder) -> None:
        dataset, model, configured = builder.chain()
        job = builder.create(job_spec(configured.id))
        export = builder.create(export_spec(job.id))
        assert builder.catalog.work.fail_orphans() == ()
        fail(builder, dataset)
        settled = builder.catalog.work.fail_orphans()
        assert [version.resource_id for version in settled] == [model.id, configured.id, job.id, export.id]
        # the model tells what is wrong with the data, since its dataset is ACTIVE whatever it holds
        assert settled[0].status_code is StatusCode.TRAINING_DATA_INVALID
        assert settled[0].status_message == builder.newest(dataset).status_message
        assert {version.status_code for version in settled[1:]} == {StatusCode.PARENT_NOT_ACTIVE}
        for version, parent in zip(settled[1:], (model, model, job), strict=True):
            assert parent.id in (version.status_message or "")
            assert "then retry this" in (version.status_message or "")
        assert str(StatusCode.TRAINING_DATA_INVALID) in (settled[1].status_message or "")
        assert builder.again(dataset).status is Status.ACTIVE
        assert builder.again(model).status is Status.CREATE_FAILED
        assert builder.again(job).status is Status.CREATE_FAILED
        assert builder.catalog.work.fail_orphans() == ()
        assert ready(builder) == []

    def test_failed_children_recover_with_their_parent(self, builder: Builder) -> None:
        dataset, model, configured = builder.chain()
        fail(builder, dataset)
        builder.catalog.work.fail_orphans()
        builder.catalog.work.retry(dataset.kind, dataset.id)
        assert builder.drain() == [(dataset.id, 1), (model.id, 2), (configured.id, 2)]

    @on_both_dialects
    def test_retryable_parent_is_waited_for(self, builder: Builder) -> None:
        dataset, *_ = builder.chain()
        take(builder, dataset)
        builder.clock.turn(60)
        builder.catalog.work.reap()
        assert builder.catalog.work.fail_orphans() == ()
        assert ready(builder) == [dataset.id]


class TestRequests:
    """New versions and further attempts."""

    def test_pending_version_is_not_duplicated(self, builder: Builder) -> None:
        dataset = builder.create(dataset_spec())
        builder.drain()
        first = builder.catalog.work.request_version(dataset.kind, dataset.id, Cause.BY_HAND, {"x": 1})
        assert builder.catalog.work.request_version(dataset.kind, dataset.id, Cause.DECLARED) == first
        assert (first.number, first.params, first.cause) == (2, {"x": 1}, Cause.BY_HAND)

    def test_retry_resets_the_attempts(self, builder: Builder) -> None:
        dataset, model, _ = builder.chain()
        builder.make(builder.newest(dataset))
        key = builder.newest(model).run_key
        fail(builder, model)
        assert builder.again(model).status is Status.CREATE_FAILED
        version = builder.catalog.work.retry(model.kind, model.id)
        assert (version.number, version.status, version.attempt) == (1, Status.CREATE_PENDING, 0)
        assert (version.status_code, version.status_message, version.finished_at) == (None, None, None)
        assert version.run_key != key
        left = builder.again(model)
        assert (left.status, left.status_code, left.status_message) == (Status.CREATE_PENDING, None, None)

    def test_retry_needs_a_failed_version(self, builder: Builder) -> None:
        dataset = builder.create(dataset_spec())
        for _ in range(2):
            with pytest.raises(ConflictError):
                builder.catalog.work.retry(dataset.kind, dataset.id)
            builder.drain()
        with pytest.raises(NotFoundError):
            builder.catalog.work.retry(dataset.kind, "nobody")


class TestByHand:
    """What a click on Materialize means."""

    def test_pending_version_is_work(self, builder: Builder) -> None:
        dataset = builder.create(dataset_spec())
        asked = builder.catalog.work.request_manually(dataset.kind, dataset.id)
        assert (asked.action, asked.version.number) == ("work", 1)
        take(builder, dataset)

    def test_pending_version_waits_for_a_pending_parent(self, builder: Builder) -> None:
        dataset, model, configured = builder.chain()
        job = builder.create(job_spec(configured.id))
        asked = builder.catalog.work.request_manually(model.kind, model.id)
        assert asked.action == "waiting"
        assert dataset.id in asked.message
        asked = builder.catalog.work.request_manually(job.kind, job.id)
        assert asked.action == "waiting"
        assert model.id in asked.message

    def test_declared_active_resource_gets_a_new_version(self, builder: Builder) -> None:
        _, model, configured = builder.chain()
        builder.drain()
        asked = builder.catalog.work.request_manually(model.kind, model.id)
        assert (asked.action, asked.version.number, asked.version.cause) == ("work", 2, Cause.BY_HAND)
        assert builder.catalog.work.request_manually(model.kind, model.id).version.number == 2
        assert builder.drain() == [(model.id, 2), (configured.id, 2)]

    def test_failed_version_is_retried(self, undeclared: Builder) -> None:
        dataset = undeclared.create(dataset_spec())
        fail(undeclared, dataset)
        asked = undeclared.catalog.work.request_manually(dataset.kind, dataset.id)
        assert (asked.action, asked.version.number, asked.version.status) == ("work", 1, Status.CREATE_PENDING)

    def test_undeclared_active_resource_is_verified(self, undeclared: Builder) -> None:
        dataset = undeclared.create(dataset_spec())
        undeclared.drain()
        asked = undeclared.catalog.work.request_manually(dataset.kind, dataset.id)
        assert (asked.action, asked.version) == ("verify", undeclared.newest(dataset))
        assert undeclared.newest(dataset).number == 1

    def test_declared_job_without_its_seed_is_verified(self, builder: Builder) -> None:
        *_, configured = builder.chain()
        job = builder.create(job_spec(configured.id))
        builder.drain()
        assert builder.catalog.work.request_manually(job.kind, job.id).action == "work"
        builder.drain()
        builder.catalog.resources.forget_seed(job.id)
        assert builder.catalog.work.request_manually(job.kind, job.id).action == "verify"

    def test_claimed_version_is_busy_except_for_its_holder(self, builder: Builder) -> None:
        dataset = builder.create(dataset_spec())
        take(builder, dataset, "holder")
        asked = builder.catalog.work.request_manually(dataset.kind, dataset.id, run_id="other")
        assert (asked.action, asked.run_id) == ("busy", "holder")
        assert builder.catalog.work.request_manually(dataset.kind, dataset.id).action == "busy"
        assert builder.catalog.work.request_manually(dataset.kind, dataset.id, run_id="holder").action == "work"

    @on_both_dialects
    def test_expired_claim_is_work(self, builder: Builder) -> None:
        dataset = builder.create(dataset_spec())
        for run, attempt in [("first", 1), ("second", 2), ("third", 3), ("after it failed", 1)]:
            asked = builder.catalog.work.request_manually(dataset.kind, dataset.id, run_id=run)
            assert (asked.action, asked.version.status) == ("work", Status.CREATE_PENDING)
            assert take(builder, dataset, run).attempt == attempt
            builder.clock.turn(60)

    def test_every_outcome_has_a_sentence(self, builder: Builder) -> None:
        dataset, model, _ = builder.chain()
        messages = [builder.catalog.work.request_manually(model.kind, model.id).message]
        take(builder, dataset)
        messages.append(builder.catalog.work.request_manually(dataset.kind, dataset.id).message)
        assert all(message.endswith(".") and len(message) > 20 for message in messages)

    def test_deleted_resources(self, builder: Builder) -> None:
        dataset = builder.create(dataset_spec())
        model = builder.create(model_spec(dataset.id))
        builder.catalog.deletion.request_delete(model.kind, model.id)
        with pytest.raises(ConflictError):
            builder.catalog.work.request_manually(model.kind, model.id)
        with pytest.raises(NotFoundError):
            builder.catalog.work.request_manually(Kind.AUDIENCE_MODEL, "nobody")


class TestRefresh:
    """A refresh is opt-in, one model's, and happens once however often it is asked for."""

    @on_both_dialects
    def test_model_is_due_after_its_interval(self, builder: Builder) -> None:
        _, model, _ = builder.chain(refresh_every_seconds=7 * DAY, refresh_window_seconds=90 * DAY)
        builder.drain()
        due = builder.catalog.work.due_refreshes
        assert due() == ()
        builder.clock.turn(6 * DAY)
        assert due() == ()
        builder.clock.turn(DAY)
        assert [record.id for record in due()] == [model.id]

    def test_refresh_rebuilds_dataset_model_and_dependents_but_no_other_model(self, builder: Builder) -> None:
        dataset, model, configured = builder.chain(refresh_every_seconds=DAY, refresh_window_seconds=90 * DAY)
        other = builder.create(model_spec(dataset.id, "other"))
        job = builder.create(job_spec(configured.id, keep_seed=True))
        builder.drain()
        old = {record.id: builder.newest(record) for record in (model, job)}
        builder.clock.turn(DAY)
        version = builder.catalog.work.request_refresh(model.id)
        assert (version.number, version.cause, version.params) == (2, Cause.REFRESH, {"window_seconds": 90 * DAY})
        assert builder.drain() == [(dataset.id, 2), (model.id, 2), (configured.id, 2), (job.id, 2)]
        assert builder.newest(other).number == 1
        for record in (model, job):
            assert builder.catalog.resources.versions(record.kind, record.id)[0] == old[record.id]

    def test_repeated_request_gives_one_refresh(self, builder: Builder) -> None:
        _, model, _ = builder.chain(refresh_every_seconds=DAY)
        builder.drain()
        builder.clock.turn(DAY)
        first = builder.catalog.work.request_refresh(model.id)
        assert builder.catalog.work.due_refreshes() == ()
        assert builder.catalog.work.request_refresh(model.id) == first
        builder.drain()
        assert builder.catalog.work.due_refreshes() == ()
        assert builder.newest(model).number == 2

    def test_missed_refreshes_are_skipped(self, builder: Builder) -> None:
        _, model, _ = builder.chain(refresh_every_seconds=DAY)
        builder.drain()
        builder.clock.turn(10 * DAY)
        builder.catalog.work.request_refresh(model.id)
        builder.drain()
        assert builder.catalog.work.due_refreshes() == ()
        builder.clock.turn(DAY)
        assert len(builder.catalog.work.due_refreshes()) == 1

    def test_model_being_built_is_not_due(self, builder: Builder) -> None:
        _, model, _ = builder.chain(refresh_every_seconds=DAY)
        builder.clock.turn(2 * DAY)
        assert builder.catalog.work.due_refreshes() == ()
        builder.drain()
        assert len(builder.catalog.work.due_refreshes()) == 1
        builder.catalog.work.request_version(model.kind, model.id, Cause.BY_HAND)
        assert builder.catalog.work.due_refreshes() == ()

    def test_refresh_on_invalid_data_fails_and_keeps_the_model(self, builder: Builder) -> None:
        dataset, model, _ = builder.chain(refresh_every_seconds=DAY)
        builder.drain()
        builder.clock.turn(DAY)
        builder.catalog.work.request_refresh(model.id)
        fail(builder, dataset)
        assert ready(builder) == []
        (settled,) = builder.catalog.work.fail_orphans()
        assert (settled.resource_id, settled.status_code) == (model.id, StatusCode.TRAINING_DATA_INVALID)
        left = builder.again(model)
        assert (left.status, left.current_version) == (Status.ACTIVE, 1)
        assert left.status_message == builder.newest(dataset).status_message

    def test_model_without_refresh(self, builder: Builder) -> None:
        _, model, _ = builder.chain()
        builder.drain()
        with pytest.raises(UsageError):
            builder.catalog.work.request_refresh(model.id)
        with pytest.raises(NotFoundError):
            builder.catalog.work.request_refresh("nobody")
        assert builder.newest(model).number == 1

    @given(st.integers(1, 10**7), st.integers(-(10**8), 10**8))
    def test_next_refresh_is_the_first_after_now(self, every: int, late: int) -> None:
        due = datetime(2026, 1, 1, tzinfo=UTC)
        now = due + timedelta(seconds=late)
        after = next_refresh(due, every, now)
        assert after > now
        assert after > due
        assert (after - due) % timedelta(seconds=every) == timedelta(0)
        assert after - timedelta(seconds=every) <= max(now, due)


@on_both_dialects
def test_configured_models_wait_for_their_own_model(builder: Builder) -> None:
    dataset, model, configured = builder.chain()
    other = builder.create(model_spec(dataset.id, "other"))
    builder.make(builder.newest(dataset))
    builder.make(builder.newest(other))
    assert set(ready(builder)) == {model.id}
    moved = builder.catalog.resources.update_configured_audience_model(configured.id, audience_model_id=other.id)
    assert moved.audience_model_id == other.id
    assert set(ready(builder)) == {model.id, configured.id}
    builder.create(configured_spec(other.id, "second"))
    assert len(ready(builder)) == 3
