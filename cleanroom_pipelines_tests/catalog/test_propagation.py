"""Contract: when a version becomes ACTIVE, exactly the declared resources built from an older one get a new
version, in the same transaction; a finished audience gets its export, once; resources of the AWS API never change
by themselves."""

import pytest

from cleanroom_pipelines.audiences.sizes import AudienceSize
from cleanroom_pipelines.catalog import (
    RECORDS,
    Cause,
    ExportJob,
    GenerationJob,
    Kind,
    Origin,
    ParentRef,
    Resource,
    Status,
    TrainingDataset,
)
from cleanroom_pipelines.errors import StatusCode

from .building import Builder, configured_spec, dataset_spec, export_spec, job_spec, model_spec
from .dialects import on_both_dialects


def remake(builder: Builder, record: Resource, cause: Cause = Cause.BY_HAND) -> list[tuple[str, int]]:
    builder.catalog.work.request_version(record.kind, record.id, cause)
    return builder.drain()


def kept_job(builder: Builder, configured: Resource, name: str = "kept", **fields: object) -> Resource:
    return builder.create(job_spec(configured.id, name, keep_seed=True, **fields))


@on_both_dialects
def test_new_version_propagates_along_the_whole_chain(builder: Builder) -> None:
    dataset, model, configured = builder.chain()
    job = kept_job(builder, configured)
    export = builder.create(export_spec(job.id))
    assert builder.drain() == [(record.id, 1) for record in (dataset, model, configured, job, export)]
    assert remake(builder, dataset) == [(record.id, 2) for record in (dataset, model, configured, job, export)]
    assert remake(builder, configured) == [(record.id, 3) for record in (configured, job, export)]
    assert builder.newest(job).parents == (ParentRef(configured.kind, configured.id, 3),)
    causes = [version.cause for version in builder.catalog.resources.versions(job.kind, job.id)]
    assert causes == [Cause.CREATED, Cause.PARENT, Cause.PARENT]


def test_first_version_requests_no_second(builder: Builder) -> None:
    builder.chain()
    assert [number for _, number in builder.drain()] == [1, 1, 1]


@on_both_dialects
def test_only_dependents_are_rebuilt(builder: Builder) -> None:
    dataset = builder.create(dataset_spec())
    ours = builder.create(model_spec(dataset.id, "ours"))
    other = builder.create(model_spec(dataset.id, "other"))
    mine = builder.create(configured_spec(ours.id, "mine"))
    theirs = builder.create(configured_spec(other.id, "theirs"))
    job = kept_job(builder, mine)
    untouched = kept_job(builder, theirs, "untouched")
    builder.drain()
    assert remake(builder, ours) == [(ours.id, 2), (mine.id, 2), (job.id, 2)]
    assert builder.newest(other).number == builder.newest(untouched).number == 1
    assert builder.catalog.work.dependents(dataset.kind, dataset.id) == (
        builder.again(ours),
        builder.again(other),
    ) or (builder.catalog.work.dependents(dataset.kind, dataset.id) == (builder.again(other), builder.again(ours)))


def test_job_without_its_seed_is_not_rebuilt(builder: Builder) -> None:
    *_, configured = builder.chain()
    job = builder.create(job_spec(configured.id))
    builder.drain()
    assert remake(builder, configured) == [(configured.id, 2)]
    assert builder.newest(job).number == 1
    assert builder.catalog.work.dependents(configured.kind, configured.id) == ()


def test_undeclared_resources_are_not_rebuilt(builder: Builder, undeclared: Builder) -> None:
    dataset = builder.create(dataset_spec())
    model = undeclared.create(model_spec(dataset.id))
    configured = undeclared.create(configured_spec(model.id))
    kept_job(undeclared, configured)
    builder.drain()
    assert remake(builder, dataset) == [(dataset.id, 2)]
    assert remake(builder, model) == [(model.id, 2)]


@on_both_dialects
def test_failed_child_is_retried_with_its_new_parent(builder: Builder) -> None:
    dataset, model, _ = builder.chain()
    builder.make(builder.newest(dataset))
    claim = builder.catalog.work.claim(model.kind, model.id, 1, "run")
    assert claim is not None
    builder.catalog.work.fail(claim, StatusCode.TRAINING_DATA_TOO_SMALL, "Too small.")
    builder.catalog.work.request_version(dataset.kind, dataset.id, Cause.BY_HAND)
    assert builder.drain()[:2] == [(dataset.id, 2), (model.id, 2)]
    assert builder.again(model).status is Status.ACTIVE


def test_child_built_meanwhile_is_rebuilt_once(builder: Builder) -> None:
    dataset, model, configured = builder.chain()
    builder.drain()
    builder.catalog.work.request_version(model.kind, model.id, Cause.BY_HAND)
    claim = builder.catalog.work.claim(model.kind, model.id, 2, "slow")
    parents = builder.parents(model)
    assert remake(builder, dataset) == [(dataset.id, 2)]
    assert claim is not None
    builder.catalog.work.finish(claim, {}, parents)  # made from version 1 of the dataset
    assert builder.drain() == [(model.id, 3), (configured.id, 2)]


@on_both_dialects
def test_late_older_version_changes_nothing(builder: Builder) -> None:
    dataset, model, _ = builder.chain()
    builder.drain()
    catalog = builder.catalog
    for _ in range(2):
        version = catalog.work.request_version(dataset.kind, dataset.id, Cause.BY_HAND)
        assert catalog.work.claim(dataset.kind, dataset.id, version.number, f"run{version.number}")
    second = catalog.work.claim(dataset.kind, dataset.id, 2, "run2")
    third = catalog.work.claim(dataset.kind, dataset.id, 3, "run3")
    assert second is not None
    assert third is not None
    catalog.work.finish(third, {})
    builder.make(builder.newest(model))
    catalog.work.finish(second, {})
    assert catalog.get(TrainingDataset, dataset.id).current_version == 3
    assert builder.newest(model).number == 2


def test_failed_new_version_keeps_the_old_one_current(builder: Builder) -> None:
    dataset, model, configured = builder.chain()
    builder.drain()
    catalog = builder.catalog
    catalog.work.request_version(model.kind, model.id, Cause.BY_HAND)
    assert catalog.get(RECORDS[model.kind], model.id).status is Status.ACTIVE
    claim = catalog.work.claim(model.kind, model.id, 2, "run")
    assert claim is not None
    catalog.work.fail(claim, StatusCode.STORAGE_FULL, "The disk is full. Free some space.")
    failed = catalog.get(RECORDS[model.kind], model.id)
    assert (failed.status, failed.current_version) == (Status.ACTIVE, 1)
    assert (failed.status_code, failed.status_message) == (
        StatusCode.STORAGE_FULL,
        "The disk is full. Free some space.",
    )
    assert builder.drain() == []
    assert remake(builder, dataset) == [(dataset.id, 2), (model.id, 3), (configured.id, 2)]
    mended = catalog.get(RECORDS[model.kind], model.id)
    assert (mended.current_version, mended.status_code, mended.status_message) == (3, None, None)


class TestExport:
    """A job with an export size brings one export, when it is ready for the first time."""

    def exports(self, builder: Builder, job: Resource) -> tuple[ExportJob, ...]:
        items = builder.catalog.resources.list(Kind.EXPORT_JOB, parent_id=job.id).items
        assert all(isinstance(item, ExportJob) for item in items)
        return items  # type: ignore[return-value]

    @pytest.mark.parametrize(("wanted", "size"), [("largest", "20%"), (AudienceSize.parse("5%"), "5%")])
    def test_one_export_of_the_requested_size(self, builder: Builder, wanted: object, size: str) -> None:
        *_, configured = builder.chain()
        job = builder.create(job_spec(configured.id, export_size=wanted, origin=Origin.INBOX))
        assert self.exports(builder, job) == ()
        made = builder.drain()
        (export,) = self.exports(builder, job)
        assert made[-1] == (export.id, 1)
        assert (str(export.size), export.name, export.account_id) == (size, f"spring {size}", job.account_id)
        assert export.status is Status.ACTIVE

    def test_refresh_gives_a_second_version_of_the_same_export(self, builder: Builder) -> None:
        *_, configured = builder.chain()
        job = kept_job(builder, configured, export_size="largest")
        builder.drain()
        assert (job.id, 2) in remake(builder, configured)
        (export,) = self.exports(builder, job)
        assert builder.newest(export).number == 2

    def test_already_exported_size_gives_no_export(self, builder: Builder) -> None:
        *_, configured = builder.chain()
        job = builder.create(job_spec(configured.id, export_size="largest"))
        builder.create(export_spec(job.id, "mine", "20%"))
        builder.drain()
        assert [export.name for export in self.exports(builder, job)] == ["mine"]

    @on_both_dialects
    def test_taken_export_name_does_not_stop_the_job(self, builder: Builder) -> None:
        *_, configured = builder.chain()
        job = builder.create(job_spec(configured.id, export_size="largest"))
        builder.create(export_spec(job.id, "spring 20%", "1%"))
        builder.drain()
        taken, added = self.exports(builder, job)
        assert taken.name == "spring 20%"
        assert (str(added.size), added.status) == ("20%", Status.ACTIVE)

    def test_longest_job_name_fits(self, builder: Builder) -> None:
        *_, configured = builder.chain()
        job = builder.create(job_spec(configured.id, "🙂" * 63, export_size="largest"))
        builder.drain()
        (export,) = self.exports(builder, job)
        assert len(export.name) == 63

    def test_job_without_export_size_gives_no_export(self, builder: Builder) -> None:
        *_, configured = builder.chain()
        job = builder.create(job_spec(configured.id))
        assert isinstance(job, GenerationJob)
        builder.drain()
        assert self.exports(builder, job) == ()
