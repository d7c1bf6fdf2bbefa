"""Contract: a resource is found by id, by name and by seed; a listing neither repeats nor skips items, whatever is
created while a client pages through it; resources of other accounts are invisible."""

import itertools
import pickle
from datetime import timedelta

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cleanroom_pipelines.catalog import (
    LOCAL_ACCOUNT,
    RECORDS,
    Catalog,
    ExportJob,
    GenerationJob,
    Kind,
    Origin,
    RequestedSeed,
    TrainingDataset,
)
from cleanroom_pipelines.errors import NotFoundError, UsageError

from .building import SEED_DIGEST, SOME_DAY, Builder, accepted_of, dataset_spec, export_spec, job_spec
from .dialects import on_both_dialects

OTHER_ACCOUNT = "111122223333"


@on_both_dialects
def test_get_and_its_errors(builder: Builder) -> None:
    dataset, model, _ = builder.chain()
    catalog = builder.catalog
    assert catalog.get(TrainingDataset, dataset.id) == dataset
    assert catalog.get(TrainingDataset, dataset.id, LOCAL_ACCOUNT) == dataset
    for kind, key, account in [
        (Kind.TRAINING_DATASET, "nobody", None),
        (Kind.TRAINING_DATASET, model.id, None),
        (Kind.TRAINING_DATASET, dataset.id, OTHER_ACCOUNT),
        (Kind.TRAINING_DATASET, "' OR 1=1 --", None),
    ]:
        with pytest.raises(NotFoundError) as caught:
            catalog.get(RECORDS[kind], key, account)
        assert key not in str(caught.value)


@on_both_dialects
def test_get_by_name(builder: Builder) -> None:
    dataset, _, configured = builder.chain()
    job = builder.create(job_spec(configured.id))
    export = builder.create(export_spec(job.id))
    catalog = builder.catalog
    assert catalog.resources.get_by_name(TrainingDataset, "baskets") == dataset
    assert catalog.resources.get_by_name(ExportJob, "top", generation_job_id=job.id) == export
    for kind, name, account in [
        (Kind.TRAINING_DATASET, "Baskets", LOCAL_ACCOUNT),
        (Kind.TRAINING_DATASET, "baskets", OTHER_ACCOUNT),
        (Kind.EXPORT_JOB, "top", LOCAL_ACCOUNT),
    ]:
        with pytest.raises(NotFoundError):
            catalog.resources.get_by_name(RECORDS[kind], name, account)


@on_both_dialects
def test_find_by_seed_returns_the_newest(builder: Builder) -> None:
    *_, configured = builder.chain()
    find = builder.catalog.resources.find_generation_job_by_seed
    assert find(configured.id, SEED_DIGEST) is None
    dropped = builder.create(job_spec(configured.id, "dropped", origin=Origin.INBOX))
    newer = builder.create(job_spec(configured.id, "newer", origin=Origin.API))
    assert find(configured.id, SEED_DIGEST) == newer
    assert find(configured.id, SEED_DIGEST, Origin.INBOX) == dropped
    assert find(configured.id, "0" * 64) is None


@on_both_dialects
def test_listing_filters(builder: Builder) -> None:
    *_, configured = builder.chain()
    first = builder.create(job_spec(configured.id, "first", collaboration_id="c1"))
    second = builder.create(job_spec(configured.id, "second"))
    export = builder.create(export_spec(second.id))
    listed = builder.catalog.resources.list
    assert listed(Kind.GENERATION_JOB, collaboration_id="c1").items == (first,)
    assert listed(Kind.GENERATION_JOB, parent_id=configured.id).items == (first, second)
    assert listed(Kind.EXPORT_JOB, parent_id=first.id).items == ()
    assert listed(Kind.EXPORT_JOB, parent_id=second.id).items == (export,)
    assert listed(Kind.GENERATION_JOB, OTHER_ACCOUNT).items == ()
    assert listed(Kind.GENERATION_JOB, LOCAL_ACCOUNT, limit=1).items == (first,)


_numbers = itertools.count()


@on_both_dialects
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    n_before=st.integers(0, 12),
    limit=st.integers(1, 5),
    inserts=st.lists(st.integers(0, 3), max_size=6),
    same_instant=st.booleans(),
)
def test_paging_is_stable_under_inserts(
    builder: Builder, n_before: int, limit: int, inserts: list[int], same_instant: bool
) -> None:
    catalog, clock = builder.catalog, builder.clock
    account = f"{next(_numbers):012d}"  # each example has one of its own in the one catalogue
    names = iter(range(10_000))

    def insert(n: int) -> list[str]:
        clock.turn(0 if same_instant else 1)
        return [catalog.resources.create(dataset_spec(f"d{next(names)}"), account_id=account).id for _ in range(n)]

    before = insert(n_before)
    during: list[str] = []
    seen: list[str] = []
    token, waiting = None, iter(inserts)
    while True:
        page = catalog.resources.list(Kind.TRAINING_DATASET, account, limit=limit, after=token)
        assert len(page.items) <= limit
        seen += [record.id for record in page.items]
        if page.after is None:
            break
        assert page.after != token
        token = page.after
        during += insert(next(waiting, 0))
    assert len(seen) == len(set(seen))
    assert [key for key in seen if key in before] == sorted(before, key=seen.index)
    assert set(before) <= set(seen) <= set(before) | set(during)


def test_foreign_page_token_is_rejected(catalog: Catalog) -> None:
    tokens = ["", "x", "!!!", "MjAyNg==", "MjAyNi0wMS0wMSBhIGI=", "MjAyNi0wMS0wMSBh", "\u00e9"]
    assert (
        accepted_of(
            tokens, lambda token: catalog.resources.list(Kind.TRAINING_DATASET, after=token), match="token"
        )
        == []
    )


def test_page_sizes_out_of_range_are_rejected(catalog: Catalog) -> None:
    assert (
        accepted_of([0, -1, 1001], lambda limit: catalog.resources.list(Kind.TRAINING_DATASET, limit=limit)) == []
    )


@on_both_dialects
def test_tags_are_set_and_removed(builder: Builder) -> None:
    dataset = builder.create(dataset_spec(tags={"a": "1", "b": "2"}))
    catalog = builder.catalog
    catalog.resources.set_tags(dataset.kind, dataset.id, {"b": "3", "c": ""})
    assert catalog.resources.tags(dataset.kind, dataset.id) == {"a": "1", "b": "3", "c": ""}
    catalog.resources.remove_tags(dataset.kind, dataset.id, ["a", "unknown"])
    assert catalog.resources.tags(dataset.kind, dataset.id) == {"b": "3", "c": ""}
    with pytest.raises(UsageError):
        catalog.resources.set_tags(dataset.kind, dataset.id, {str(n): "" for n in range(49)})
    with pytest.raises(UsageError):
        catalog.resources.remove_tags(dataset.kind, dataset.id, ["aws:x"])
    with pytest.raises(NotFoundError):
        catalog.resources.set_tags(dataset.kind, dataset.id, {"x": "y"}, OTHER_ACCOUNT)
    assert catalog.resources.tags(dataset.kind, dataset.id) == {"b": "3", "c": ""}


def test_export_job_has_no_tags(builder: Builder) -> None:
    *_, configured = builder.chain()
    job = builder.create(job_spec(configured.id))
    export = builder.create(export_spec(job.id))
    with pytest.raises(UsageError):
        builder.catalog.resources.set_tags(export.kind, export.id, {"a": "1"})
    with pytest.raises(UsageError):
        builder.catalog.resources.remove_tags(export.kind, export.id, ["a"])


def test_seed_location_is_set_and_deleted(builder: Builder) -> None:
    *_, configured = builder.chain()
    job = builder.create(job_spec(configured.id, seed_name="spring.jsonl", seed_bytes=9))
    catalog = builder.catalog
    catalog.resources.place_seed(job.id, "kept/1")
    assert catalog.get(GenerationJob, job.id).seed_location == "kept/1"
    catalog.resources.forget_seed(job.id)
    left = catalog.get(GenerationJob, job.id)
    assert (left.seed_location, left.seed_name, left.seed_bytes, left.seed_digest) == (
        None,
        "spring.jsonl",
        9,
        SEED_DIGEST,
    )
    with pytest.raises(NotFoundError):
        catalog.resources.forget_seed("nobody")
    with pytest.raises(UsageError):
        catalog.resources.place_seed(job.id, "a\nb")


@on_both_dialects
def test_requested_seed_is_located_once_fetched(undeclared: Builder) -> None:
    *_, configured = undeclared.chain()
    seed = RequestedSeed(
        role_arn="r",
        query="SELECT id\nFROM shop.buyers WHERE day > :day AND 'ü🙂' <> ''",
        parameters={"day": "2026-01-01"},
        protected_query_id="01234567-89ab-cdef-0123-456789abcdef",
    )
    job = undeclared.create(job_spec(configured.id, seed_location=None, seed_digest=None, requested_seed=seed))
    catalog = undeclared.catalog
    assert job.requested_seed == seed == catalog.get(GenerationJob, job.id).requested_seed
    assert (job.seed_location, job.seed_digest, job.seed_bytes) == (None, None, 0)
    assert pickle.loads(pickle.dumps(job)) == job
    for wrong in ({"digest": "no"}, {"n_bytes": -1}):
        with pytest.raises(UsageError):
            catalog.resources.place_seed(job.id, "vault/1", **wrong)
    catalog.resources.place_seed(job.id, "vault/1", digest="ab" * 32, n_bytes=1234)
    catalog.resources.forget_seed(job.id)
    left = catalog.get(GenerationJob, job.id)
    assert (left.seed_location, left.seed_digest, left.seed_bytes) == (None, "ab" * 32, 1234)
    assert left.requested_seed == seed
    catalog.resources.place_seed(
        job.id, "vault/2", digest="cd" * 32, n_bytes=1
    )  # fetched again, it was another one
    assert catalog.get(GenerationJob, job.id).seed_digest == "cd" * 32


def test_given_seed_is_not_changed(builder: Builder) -> None:
    *_, configured = builder.chain()
    job = builder.create(job_spec(configured.id))
    with pytest.raises(UsageError, match="another seed"):
        builder.catalog.resources.place_seed(job.id, "kept/1", digest="ab" * 32)
    builder.catalog.resources.place_seed(job.id, "kept/1", digest=SEED_DIGEST)
    assert builder.again(job).seed_location == "kept/1"


def test_regions_are_isolated(builder: Builder) -> None:
    dataset, *_ = builder.chain()
    catalog = builder.catalog
    there = catalog.resources.create(dataset_spec(), region="eu-west-1")
    assert catalog.get(RECORDS[dataset.kind], there.id, LOCAL_ACCOUNT, "eu-west-1") == there
    assert catalog.resources.list(Kind.TRAINING_DATASET, region="eu-west-1").items == (there,)
    assert catalog.resources.list(Kind.TRAINING_DATASET, LOCAL_ACCOUNT, region="us-east-1").items == (dataset,)
    assert catalog.resources.list(Kind.TRAINING_DATASET).items == (dataset, there)
    assert there.arn == f"arn:aws:cleanrooms-ml:eu-west-1:{LOCAL_ACCOUNT}:training-dataset/{there.id}"
    with pytest.raises(NotFoundError):
        catalog.get(RECORDS[dataset.kind], dataset.id, LOCAL_ACCOUNT, "eu-west-1")
    with pytest.raises(NotFoundError):
        catalog.deletion.request_delete(dataset.kind, dataset.id, LOCAL_ACCOUNT, "eu-west-1")


def test_versions_and_current_version(builder: Builder) -> None:
    dataset, *_ = builder.chain()
    catalog = builder.catalog
    assert catalog.resources.current_version(dataset.kind, dataset.id) is None
    builder.drain()
    catalog.work.request_manually(dataset.kind, dataset.id)
    assert [version.number for version in catalog.resources.versions(dataset.kind, dataset.id)] == [1, 2]
    assert catalog.resources.newest_version(dataset.kind, dataset.id).number == 2
    current = catalog.resources.current_version(dataset.kind, dataset.id)
    assert current is not None
    assert current.number == 1
    with pytest.raises(NotFoundError):
        catalog.resources.versions(dataset.kind, "nobody")


@on_both_dialects
def test_times_are_utc(builder: Builder) -> None:
    dataset, *_ = builder.chain()
    assert builder.again(dataset).created_at.utcoffset() == timedelta(0)
    assert builder.again(dataset).created_at == SOME_DAY + timedelta(seconds=1)
