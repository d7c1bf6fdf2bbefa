"""Contract: a resource with dependents is not deleted; models and jobs are deleted in steps that survive a kill;
nothing of a deleted resource remains."""

import pytest
from sqlalchemy import func, select, update

from cleanroom_pipelines.catalog import RECORDS, Kind, Resource, Status
from cleanroom_pipelines.catalog.tables import Base, VersionRow
from cleanroom_pipelines.errors import CancelledError, ConflictError, NotFoundError, StatusCode, UsageError
from cleanroom_pipelines_tests.databases import reading, writing

from .building import Builder, configured_spec, dataset_spec, export_spec, job_spec, model_spec
from .dialects import on_both_dialects

OTHER_ACCOUNT = "111122223333"


def delete(builder: Builder, record: Resource) -> None:
    builder.catalog.deletion.request_delete(record.kind, record.id)
    builder.catalog.deletion.begin_delete(record.kind, record.id)
    builder.catalog.deletion.finish_delete(record.kind, record.id)


def test_resource_with_dependents_is_kept(builder: Builder) -> None:
    dataset, model, configured = builder.chain()
    builder.create(job_spec(configured.id))
    for record in (dataset, model, configured):
        with pytest.raises(ConflictError, match="depends on"):
            builder.catalog.deletion.request_delete(record.kind, record.id)
        assert builder.again(record) == record


def test_model_is_kept_while_a_job_uses_it(undeclared: Builder) -> None:
    dataset, model, configured = undeclared.chain()
    other = undeclared.create(model_spec(dataset.id, "other"))
    job = undeclared.create(job_spec(configured.id))
    undeclared.catalog.resources.update_configured_audience_model(configured.id, audience_model_id=other.id)
    with pytest.raises(ConflictError, match="depends on"):
        undeclared.catalog.deletion.request_delete(model.kind, model.id)
    assert undeclared.again(model).status is Status.CREATE_PENDING
    undeclared.drain()
    assert undeclared.again(job).status is Status.ACTIVE
    delete(undeclared, model)


@on_both_dialects
def test_whole_chain_is_deleted_bottom_up(builder: Builder, url: str) -> None:
    dataset, model, configured = builder.chain()
    job = builder.create(job_spec(configured.id, tags={"a": "1"}))
    builder.create(export_spec(job.id))
    builder.drain()
    delete(builder, job)
    builder.catalog.deletion.request_delete(configured.kind, configured.id)
    delete(builder, model)
    builder.catalog.deletion.request_delete(dataset.kind, dataset.id)
    with reading(url) as session:
        counts = {
            table.name: session.scalar(select(func.count()).select_from(table))
            for table in Base.metadata.sorted_tables
        }
    assert {name: n for name, n in counts.items() if n} == {"tombstones": 6}, "five resources and a seed"
    builder.create(dataset_spec())


def test_datasets_and_configured_models_are_deleted_at_once(builder: Builder) -> None:
    _, _, configured = builder.chain()
    assert builder.catalog.deletion.request_delete(configured.kind, configured.id) == configured
    with pytest.raises(NotFoundError):
        builder.again(configured)


@on_both_dialects
def test_models_are_deleted_in_steps(builder: Builder) -> None:
    dataset = builder.create(dataset_spec())
    model = builder.create(model_spec(dataset.id))
    catalog = builder.catalog
    with pytest.raises(ConflictError, match="was not requested"):
        catalog.deletion.begin_delete(model.kind, model.id)
    assert catalog.deletion.request_delete(model.kind, model.id).status is Status.DELETE_PENDING
    with pytest.raises(ConflictError, match="not started"):
        catalog.deletion.finish_delete(model.kind, model.id)
    assert [record.id for record in catalog.deletion.deletions()] == [model.id]
    (going,) = catalog.deletion.begin_delete(model.kind, model.id)
    assert (going.id, going.status) == (model.id, Status.DELETE_IN_PROGRESS)
    assert catalog.deletion.request_delete(model.kind, model.id).status is Status.DELETE_IN_PROGRESS
    assert [record.id for record in catalog.deletion.deletions()] == [
        model.id
    ]  # whoever began may have been killed
    assert catalog.deletion.begin_delete(model.kind, model.id) == (going,)
    assert catalog.work.claim(model.kind, model.id, 1, "run") is None
    catalog.deletion.finish_delete(model.kind, model.id)
    catalog.deletion.finish_delete(model.kind, model.id)
    assert catalog.deletion.deletions() == ()
    with pytest.raises(NotFoundError):
        catalog.deletion.begin_delete(model.kind, model.id)


def test_pending_work_is_cancelled_and_its_parent_updated(builder: Builder) -> None:
    dataset = builder.create(dataset_spec())
    model = builder.create(model_spec(dataset.id))
    builder.catalog.deletion.request_delete(model.kind, model.id)
    assert builder.newest(model).status_code is StatusCode.CANCELLED
    assert builder.again(model).status is Status.DELETE_PENDING


@on_both_dialects
def test_deletion_waits_for_the_active_run(builder: Builder) -> None:
    dataset = builder.create(dataset_spec())
    builder.drain()
    model = builder.create(model_spec(dataset.id))
    catalog = builder.catalog
    claim = catalog.work.claim(model.kind, model.id, 1, "run")
    assert claim is not None
    catalog.deletion.request_delete(model.kind, model.id)
    assert catalog.work.is_cancel_requested(claim)
    assert catalog.deletion.deletions() == ()
    with pytest.raises(ConflictError, match="still working"):
        catalog.deletion.begin_delete(model.kind, model.id)
    catalog.work.fail(claim, StatusCode.CANCELLED, "Stopped.")
    assert catalog.get(RECORDS[model.kind], model.id).status is Status.DELETE_PENDING
    assert [record.id for record in catalog.deletion.deletions()] == [model.id]


def test_resource_being_deleted_cannot_be_claimed(builder: Builder, url: str) -> None:
    dataset = builder.create(dataset_spec())
    builder.drain()
    model = builder.create(model_spec(dataset.id))
    builder.catalog.deletion.request_delete(model.kind, model.id)
    with writing(url) as session:  # however it came to be pending
        session.execute(update(VersionRow).values(status=Status.CREATE_PENDING))
    assert builder.catalog.work.claim(model.kind, model.id, 1, "run") is None


def test_run_finishing_during_a_deletion_has_no_effect(builder: Builder) -> None:
    *_, configured = builder.chain()
    job = builder.create(job_spec(configured.id, export_size="largest"))
    builder.make(builder.newest(builder.catalog.resources.list(Kind.TRAINING_DATASET).items[0]))
    builder.make(builder.newest(builder.catalog.resources.list(Kind.AUDIENCE_MODEL).items[0]))
    claim = builder.catalog.work.claim(job.kind, job.id, 1, "run")
    assert claim is not None
    builder.catalog.deletion.request_delete(job.kind, job.id)
    with pytest.raises(CancelledError):
        builder.catalog.work.finish(claim, {})
    assert builder.again(job).status is Status.DELETE_PENDING
    assert builder.catalog.resources.list(Kind.EXPORT_JOB).items == ()


@on_both_dialects
def test_job_is_deleted_with_its_exports(builder: Builder) -> None:
    *_, configured = builder.chain()
    job = builder.create(job_spec(configured.id))
    exports = {builder.create(export_spec(job.id, f"e{n}")).id for n in range(3)}
    builder.drain()
    catalog = builder.catalog
    with pytest.raises(UsageError, match="generation job"):
        catalog.deletion.request_delete(Kind.EXPORT_JOB, next(iter(exports)))
    catalog.deletion.request_delete(job.kind, job.id)
    going = catalog.deletion.begin_delete(job.kind, job.id)
    assert [going[0].id, {record.id for record in going[1:]}] == [job.id, exports]
    catalog.deletion.finish_delete(job.kind, job.id)
    assert catalog.resources.list(Kind.EXPORT_JOB).items == ()


def test_no_child_is_created_during_a_deletion(builder: Builder) -> None:
    dataset = builder.create(dataset_spec())
    model = builder.create(model_spec(dataset.id))
    builder.catalog.deletion.request_delete(model.kind, model.id)
    with pytest.raises(ConflictError, match="being deleted"):
        builder.create(configured_spec(model.id))


def test_failed_deletion_may_be_requested_again(builder: Builder) -> None:
    dataset = builder.create(dataset_spec())
    model = builder.create(model_spec(dataset.id))
    catalog = builder.catalog
    with pytest.raises(ConflictError):
        catalog.deletion.fail_delete(model.kind, model.id, "x")
    catalog.deletion.request_delete(model.kind, model.id)
    catalog.deletion.fail_delete(model.kind, model.id, "The disk is away. Mount it.")
    failed = catalog.get(RECORDS[model.kind], model.id)
    assert (failed.status, failed.status_message) == (Status.DELETE_FAILED, "The disk is away. Mount it.")
    assert catalog.deletion.deletions() == ()
    delete(builder, model)


def test_resource_of_another_account_is_not_found(builder: Builder) -> None:
    dataset = builder.create(dataset_spec())
    with pytest.raises(NotFoundError):
        builder.catalog.deletion.request_delete(dataset.kind, dataset.id, OTHER_ACCOUNT)
