"""Contract: a resource is created once, under an unused name, below a parent of the same account; a change creates
a new version exactly if the work depends on it."""

import re
import secrets
from dataclasses import replace

import pytest

from cleanroom_pipelines.audiences.sizes import AudienceSize
from cleanroom_pipelines.catalog import (
    LOCAL_ACCOUNT,
    Catalog,
    Cause,
    ChildTagPolicy,
    ConfiguredAtStart,
    ConfiguredAudienceModel,
    GenerationJob,
    Kind,
    Origin,
    ShareMetrics,
    Status,
    TrainingDataset,
    configured_at_start,
    spec_digest,
)
from cleanroom_pipelines.errors import ConflictError, NotFoundError, UsageError

from .building import SOME_DAY, Builder, Numbered, configured_spec, dataset_spec, export_spec, job_spec, model_spec
from .dialects import on_both_dialects

OTHER_ACCOUNT = "111122223333"
KEY = re.compile("[a-z0-9-]{1,40}-[0-9a-f]{12}")


def test_every_kind_is_created_with_a_pending_first_version(builder: Builder) -> None:
    dataset, model, configured = builder.chain()
    job = builder.create(job_spec(configured.id))
    export = builder.create(export_spec(job.id))
    at_once = {Kind.TRAINING_DATASET, Kind.CONFIGURED_AUDIENCE_MODEL}
    for record in (dataset, model, configured, job, export):
        assert KEY.fullmatch(record.id)
        assert record == builder.again(record)
        assert record.status is (Status.ACTIVE if record.kind in at_once else Status.CREATE_PENDING)
        assert (record.account_id, record.declared, record.current_version) == (LOCAL_ACCOUNT, True, None)
        (version,) = builder.catalog.resources.versions(record.kind, record.id)
        assert (version.number, version.status, version.cause) == (1, Status.CREATE_PENDING, Cause.CREATED)
        assert (version.attempt, version.queue_generation, version.run_id) == (0, 0, None)
        assert version.run_key == f"{record.id}:1:0"
    assert (export.arn is None) and job.arn.endswith(f":audience-generation-job/{job.id}")


@on_both_dialects
def test_record_has_the_fields_of_its_spec(builder: Builder) -> None:
    spec = dataset_spec(
        name="Körbe 🙂/..",
        description="d\nd",
        tags={"a": "1"},
        users_source="u",
        users_columns=(("u", "USER_ID"),),
    )
    record = builder.create(spec)
    assert isinstance(record, TrainingDataset)
    for name, value in vars(spec).items():
        assert getattr(record, name) == value
    assert record.created_at == record.updated_at > SOME_DAY
    assert record.spec_digest == spec_digest(spec)


def test_sizes_are_stored_ascending(builder: Builder) -> None:
    _, model, _ = builder.chain()
    wanted = tuple(AudienceSize.parse(size) for size in ("20%", "1%", "5%"))
    record = builder.create(configured_spec(model.id, "unsorted", sizes=wanted))
    assert isinstance(record, ConfiguredAudienceModel)
    assert [str(size) for size in record.sizes] == ["1%", "5%", "20%"]


@on_both_dialects
def test_name_is_unique_per_kind_account_and_region(builder: Builder) -> None:
    catalog, spec = builder.catalog, dataset_spec()
    first = builder.create(spec)
    with pytest.raises(ConflictError, match="training dataset named 'baskets'") as caught:
        builder.create(spec)
    assert caught.value.remedy
    assert caught.value.attributes == {"reason": "name", "existing_id": first.id}
    builder.create(model_spec(first.id, name="baskets"))
    catalog.resources.create(spec, account_id=OTHER_ACCOUNT)
    catalog.resources.create(spec, region="eu-west-1")
    assert len(catalog.resources.list(Kind.TRAINING_DATASET).items) == 3


@on_both_dialects
def test_export_name_is_unique_within_its_job(builder: Builder) -> None:
    *_, configured = builder.chain()
    first = builder.create(job_spec(configured.id, "first"))
    second = builder.create(job_spec(configured.id, "second"))
    builder.create(export_spec(first.id))
    builder.create(export_spec(second.id))
    with pytest.raises(ConflictError, match="for this generation job"):
        builder.create(export_spec(first.id))


def test_parent_must_belong_to_the_same_account(builder: Builder) -> None:
    dataset, model, configured = builder.chain()
    for spec in (
        model_spec("nobody"),
        configured_spec(dataset.id),
        job_spec(model.id),
        export_spec(configured.id),
    ):
        with pytest.raises(NotFoundError):
            builder.create(spec)
    with pytest.raises(NotFoundError):
        builder.catalog.resources.create(model_spec(dataset.id, "theirs"), account_id=OTHER_ACCOUNT)


def test_parent_must_be_in_the_same_region(builder: Builder) -> None:
    dataset, model, configured = builder.chain()
    job = builder.create(job_spec(configured.id))
    for spec in (model_spec(dataset.id), configured_spec(model.id), job_spec(configured.id), export_spec(job.id)):
        with pytest.raises(NotFoundError):
            builder.catalog.resources.create(spec, region="eu-west-1")
    there = builder.catalog.resources.create(dataset_spec(), region="eu-west-1")
    own = builder.catalog.resources.create(model_spec(there.id), region="eu-west-1")
    with pytest.raises(NotFoundError):
        builder.catalog.resources.update_configured_audience_model(configured.id, audience_model_id=own.id)
    with pytest.raises(NotFoundError):
        builder.catalog.resources.update_configured_audience_model(
            configured.id, region="eu-west-1", description="x"
        )


def test_api_rejects_an_inactive_parent(builder: Builder) -> None:
    catalog = builder.catalog
    dataset, model, configured = builder.chain()
    catalog.resources.create(model_spec(dataset.id, "on a dataset"), parents_must_be_active=True)
    with pytest.raises(ConflictError, match="not ACTIVE"):
        catalog.resources.create(configured_spec(model.id, "early"), parents_must_be_active=True)
    job = builder.create(job_spec(configured.id))
    with pytest.raises(ConflictError, match="not ACTIVE"):
        catalog.resources.create(export_spec(job.id), parents_must_be_active=True)
    builder.drain()
    catalog.resources.create(configured_spec(model.id, "early"), parents_must_be_active=True)
    catalog.resources.create(export_spec(job.id), parents_must_be_active=True)


def test_rejected_creation_leaves_nothing(builder: Builder) -> None:
    *_, configured = builder.chain()
    with pytest.raises(UsageError):
        builder.create(job_spec(configured.id, export_size=AudienceSize.parse("7%")))
    assert builder.catalog.resources.list(Kind.GENERATION_JOB).items == ()


def test_export_size_must_be_allowed(builder: Builder) -> None:
    *_, configured = builder.chain()
    job = builder.create(job_spec(configured.id))
    for size in ("7%", "5"):
        with pytest.raises(UsageError, match="does not allow"):
            builder.create(export_spec(job.id, size=size))
    builder.create(export_spec(job.id, size="1%"))


@pytest.mark.parametrize(
    ("floor", "refused", "accepted"), [(25, (24, 500_001), (25, 500_000)), (5, (4,), (5, 25))]
)
def test_minimum_seed_size_is_at_least_the_operators_floor(
    builder: Builder, url: str, floor: int, refused: tuple[int, ...], accepted: tuple[int, ...]
) -> None:
    catalog = Catalog(url, clock=builder.clock, token_hex=secrets.token_hex, seed_floor=floor)
    _, model, configured = builder.chain()
    assert isinstance(configured, ConfiguredAudienceModel)
    assert configured.min_matching_seed_size == 500
    for size in refused:
        with pytest.raises(UsageError, match="seed size"):
            catalog.resources.create(configured_spec(model.id, f"q{size}", min_matching_seed_size=size))
    for size in accepted:
        catalog.resources.create(configured_spec(model.id, f"q{size}", min_matching_seed_size=size))


def test_jobs_inherit_tags_if_the_configured_model_says_so(builder: Builder) -> None:
    _, model, plain = builder.chain()
    inherits = builder.create(
        configured_spec(
            model.id,
            "tagged",
            tags={"team": "a", "cost": "1"},
            child_tag_policy=ChildTagPolicy.FROM_PARENT_RESOURCE,
        )
    )
    job = builder.create(job_spec(inherits.id, tags={"team": "b"}))
    assert job.tags == {"team": "b", "cost": "1"}
    assert builder.create(job_spec(plain.id, "plain", tags={"team": "b"})).tags == {"team": "b"}
    with pytest.raises(UsageError, match="50 tags"):
        builder.create(job_spec(inherits.id, "many", tags={str(n): "" for n in range(50)}))


def test_starter_defaults_to_the_jobs_account(builder: Builder) -> None:
    *_, configured = builder.chain()
    own = builder.create(job_spec(configured.id, "own"))
    other = builder.create(job_spec(configured.id, "other", started_by=OTHER_ACCOUNT))
    assert isinstance(own, GenerationJob)
    assert isinstance(other, GenerationJob)
    assert (own.started_by, other.started_by) == (LOCAL_ACCOUNT, OTHER_ACCOUNT)


@on_both_dialects
def test_seed_dropped_twice_gives_one_job(builder: Builder) -> None:
    _, model, configured = builder.chain()
    drop = job_spec(configured.id, origin=Origin.INBOX)
    job = builder.create(drop)
    with pytest.raises(ConflictError) as caught:
        builder.create(replace(drop, name="again"))
    assert caught.value.attributes == {"reason": "seed", "existing_id": job.id}
    builder.create(replace(drop, name="by hand", origin=Origin.CLI))
    other = builder.create(configured_spec(model.id, "other"))
    builder.create(replace(drop, configured_audience_model_id=other.id, name="other"))
    builder.create(replace(drop, name="another seed", seed_digest="0" * 64))
    assert len(builder.catalog.resources.list(Kind.GENERATION_JOB).items) == 4


def test_errors_contain_no_stored_values(builder: Builder) -> None:
    *_, configured = builder.chain()
    canary = "canary" + "-" * 5000
    with pytest.raises(UsageError) as caught:
        builder.create(job_spec(configured.id, seed_location=canary))
    assert "canary" not in str(caught.value)


class TestUpdate:
    """UpdateConfiguredAudienceModel changes what AWS lets it change."""

    def test_change_is_stored_and_requests_a_version(self, builder: Builder) -> None:
        dataset, _, configured = builder.chain()
        other = builder.create(model_spec(dataset.id, "other"))
        builder.drain()
        sizes = (AudienceSize.parse("2%"),)
        updated = builder.catalog.resources.update_configured_audience_model(
            configured.id, audience_model_id=other.id, sizes=sizes, min_matching_seed_size=30, description="new"
        )
        assert (updated.audience_model_id, updated.sizes, updated.min_matching_seed_size) == (other.id, sizes, 30)
        assert (updated.description, updated.output_url, updated.name) == ("new", "exports", "partners")
        newest = builder.newest(configured)
        assert (newest.number, newest.cause, newest.status) == (2, Cause.UPDATED, Status.CREATE_PENDING)

    def test_change_without_effect_on_artifacts_requests_no_version(self, builder: Builder) -> None:
        *_, configured = builder.chain()
        builder.drain()
        updated = builder.catalog.resources.update_configured_audience_model(
            configured.id, share_metrics=ShareMetrics.ALL, description="shared"
        )
        assert updated.share_metrics is ShareMetrics.ALL
        assert builder.newest(configured).number == 1

    def test_other_fields_cannot_change(self, builder: Builder) -> None:
        *_, configured = builder.chain()
        for changes in ({"name": "x"}, {"tags": {}}, {"child_tag_policy": "NONE"}, {"status": "x"}):
            with pytest.raises(UsageError, match="cannot be changed"):
                builder.catalog.resources.update_configured_audience_model(configured.id, **changes)
        assert builder.again(configured) == configured

    def test_changes_are_validated(self, builder: Builder) -> None:
        *_, configured = builder.chain()
        update = builder.catalog.resources.update_configured_audience_model
        with pytest.raises(UsageError):
            update(configured.id, sizes=())
        with pytest.raises(UsageError):
            update(configured.id, min_matching_seed_size=1)
        with pytest.raises(NotFoundError):
            update(configured.id, audience_model_id="nobody")
        with pytest.raises(NotFoundError):
            update(configured.id, OTHER_ACCOUNT, description="theirs")
        assert builder.again(configured) == configured


class TestConfiguredAtStart:
    """A change of a configured model reaches jobs that are started afterwards, and declared ones."""

    def test_job_keeps_its_initial_settings(self, undeclared: Builder) -> None:
        dataset, model, configured = undeclared.chain()
        other = undeclared.create(model_spec(dataset.id, "other"))
        job = undeclared.create(job_spec(configured.id))
        kept = ConfiguredAtStart(model.id, configured.sizes, configured.min_matching_seed_size)
        sizes = (AudienceSize.parse("2%"),)
        undeclared.catalog.resources.update_configured_audience_model(
            configured.id, audience_model_id=other.id, sizes=sizes, min_matching_seed_size=30
        )
        assert configured_at_start(undeclared.newest(job)) == kept
        later = undeclared.create(job_spec(configured.id, "later"))
        assert configured_at_start(undeclared.newest(later)) == ConfiguredAtStart(other.id, sizes, 30)

    def test_retry_keeps_the_initial_settings(self, undeclared: Builder) -> None:
        *_, configured = undeclared.chain()
        job = undeclared.create(job_spec(configured.id))
        kept = configured_at_start(undeclared.newest(job))
        assert kept is not None
        undeclared.catalog.work.request_cancel(job.kind, job.id)
        undeclared.catalog.work.retry(job.kind, job.id)
        assert configured_at_start(undeclared.newest(job)) == kept

    def test_declared_job_follows_changes(self, builder: Builder) -> None:
        *_, configured = builder.chain()
        job = builder.create(job_spec(configured.id))
        assert configured_at_start(builder.newest(job)) is None
        assert configured_at_start(builder.newest(configured)) is None


class TestDeclared:
    """`apply` carries a changed declaration out and leaves an unchanged one alone."""

    def test_artifact_change_requests_a_version_that_propagates(self, builder: Builder) -> None:
        dataset, model, configured = builder.chain()
        builder.drain()
        changed = builder.catalog.resources.update_declared(
            Kind.AUDIENCE_MODEL, model.id, model_spec(dataset.id, window_start=5), "digest"
        )
        assert (changed.spec_digest, changed.window_start) == ("digest", 5)
        assert builder.newest(model).cause is Cause.DECLARED
        assert builder.drain() == [(model.id, 2), (configured.id, 2)]

    def test_metadata_change_requests_no_version(self, builder: Builder) -> None:
        dataset, model, _ = builder.chain()
        builder.drain()
        spec = model_spec(dataset.id, description="new", tags={"a": "1"}, refresh_every_seconds=60)
        changed = builder.catalog.resources.update_declared(Kind.AUDIENCE_MODEL, model.id, spec)
        assert (changed.description, changed.tags) == ("new", {"a": "1"})
        assert (changed.next_refresh_at - builder.clock.now).total_seconds() == 60
        assert builder.drain() == []
        changed = builder.catalog.resources.update_declared(Kind.AUDIENCE_MODEL, model.id, model_spec(dataset.id))
        assert changed.next_refresh_at is None

    def test_change_of_pending_work_requests_no_second_version(self, builder: Builder) -> None:
        dataset, model, _ = builder.chain()
        builder.catalog.resources.update_declared(
            Kind.AUDIENCE_MODEL, model.id, model_spec(dataset.id, window_start=5)
        )
        assert [v.number for v in builder.catalog.resources.versions(Kind.AUDIENCE_MODEL, model.id)] == [1]

    def test_change_during_work_requests_a_second_version(self, builder: Builder) -> None:
        dataset, *_ = builder.chain()
        claim = builder.catalog.work.claim(Kind.TRAINING_DATASET, dataset.id, 1, "run")
        builder.catalog.resources.update_declared(
            Kind.TRAINING_DATASET, dataset.id, dataset_spec(source="elsewhere")
        )
        assert builder.catalog.work.ready() == ()
        assert claim is not None
        builder.catalog.work.finish(claim, {})
        assert [(v.resource_id, v.number) for v in builder.catalog.work.ready()] == [(dataset.id, 2)]

    def test_reordered_sizes_are_not_a_change(self, builder: Builder) -> None:
        _, model, configured = builder.chain()
        builder.drain()
        sizes = tuple(AudienceSize.parse(size) for size in ("20%", "5%", "1%"))
        builder.catalog.resources.update_declared(
            configured.kind, configured.id, configured_spec(model.id, sizes=sizes)
        )
        assert builder.drain() == []

    def test_deleted_seed_stays_deleted_unless_replaced(self, builder: Builder) -> None:
        *_, configured = builder.chain()
        job = builder.create(job_spec(configured.id))
        builder.drain()
        builder.catalog.resources.forget_seed(job.id)
        same = job_spec(configured.id, description="new")
        assert builder.catalog.resources.update_declared(job.kind, job.id, same).seed_location is None
        assert builder.drain() == []
        other = job_spec(configured.id, seed_location="seeds/2", seed_digest="0" * 64)
        assert builder.catalog.resources.update_declared(job.kind, job.id, other).seed_location == "seeds/2"
        assert builder.drain() == [(job.id, 2)]

    def test_inherited_tags_are_kept(self, builder: Builder) -> None:
        _, model, _ = builder.chain()
        tagged = builder.create(
            configured_spec(
                model.id, "tagged", tags={"p": "1"}, child_tag_policy=ChildTagPolicy.FROM_PARENT_RESOURCE
            )
        )
        job = builder.create(job_spec(tagged.id))
        spec = job_spec(tagged.id, tags={"r": "2"})
        assert builder.catalog.resources.update_declared(job.kind, job.id, spec).tags == {"p": "1", "r": "2"}

    def test_name_and_kind_cannot_change(self, builder: Builder) -> None:
        dataset, model, _ = builder.chain()
        with pytest.raises(UsageError, match="name"):
            builder.catalog.resources.update_declared(Kind.TRAINING_DATASET, dataset.id, dataset_spec("other"))
        with pytest.raises(UsageError, match="kind"):
            builder.catalog.resources.update_declared(Kind.AUDIENCE_MODEL, model.id, dataset_spec())
        with pytest.raises(NotFoundError):
            builder.catalog.resources.update_declared(Kind.TRAINING_DATASET, "nobody", dataset_spec())


@on_both_dialects
def test_colliding_ids_are_drawn_again(url: str, builder: Builder) -> None:
    first = builder.create(dataset_spec())
    repeating = Catalog(url, clock=builder.clock, token_hex=Numbered())
    second = repeating.resources.create(dataset_spec("baskets!"))
    assert second.id.startswith("baskets-")
    assert second.id != first.id
