"""Contract (user guide, cross-account behaviours): a job that one account starts on another's configured model is
one execution with two ARNs; each account finds, lists, tags and deletes it under its own name, neither prevents
the other from anything, and a third account finds nothing. Neither sees the other's locations."""

import hashlib
import itertools
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cleanroom_pipelines.audiences.sizes import AudienceSize
from cleanroom_pipelines.catalog import (
    LOCAL_ACCOUNT,
    LOCAL_REGION,
    ChildTagPolicy,
    ExportJob,
    ExportJobSpec,
    GenerationJob,
    Kind,
    RequestedSeed,
    Resource,
    Starter,
    Status,
)
from cleanroom_pipelines.catalog.names import owner_job_name
from cleanroom_pipelines.catalog.tables import JobViewRow
from cleanroom_pipelines.errors import ConflictError, NotFoundError, UsageError
from cleanroom_pipelines_tests.databases import reading

from .building import Builder, configured_spec, dataset_spec, export_spec, job_spec, model_spec
from .dialects import on_both_dialects

OWNER, ALPHA, BETA = LOCAL_ACCOUNT, "111122223333", "444455556666"
SEED = RequestedSeed(role_arn="a-role", s3_uri="s3://alpha/canary.jsonl")


@pytest.fixture
def configured(undeclared: Builder) -> Resource:
    return undeclared.chain()[2]


def start(
    builder: Builder, configured: Resource, name: str = "spring", account: str = ALPHA, **starter: object
) -> Resource:
    """A job that an account starts on the owner's configured model."""
    builder.clock.turn(1)
    spec = job_spec(configured.id, name, seed_location=None, seed_digest=None, requested_seed=SEED)
    return builder.catalog.resources.create(spec, starter=Starter(account, name, **starter))


def own(builder: Builder, account: str) -> Resource:
    """A configured model of an account of its own."""
    catalog = builder.catalog
    dataset = catalog.resources.create(dataset_spec(), account_id=account)
    model = catalog.resources.create(model_spec(dataset.id), account_id=account)
    return catalog.resources.create(configured_spec(model.id), account_id=account)


def export(builder: Builder, job: Resource, started_by: str | None, name: str = "top") -> Resource:
    builder.clock.turn(1)
    return builder.catalog.resources.create(replace(export_spec(job.id, name), started_by=started_by))


@on_both_dialects
def test_one_job_has_a_name_per_account(undeclared: Builder, configured: Resource) -> None:
    job = start(undeclared, configured, description="mine")
    seen_by = undeclared.catalog.job_views.job_view
    owners, starters = seen_by(job.id, OWNER), seen_by(job.id, ALPHA)
    assert (owners.is_owner, owners.is_starter) == (True, False)
    assert (starters.is_owner, starters.is_starter) == (False, True)
    assert owners.owner_account_id == starters.owner_account_id == OWNER
    assert owners.job.name == f"{ALPHA}-spring"
    assert (starters.job.name, starters.job.description) == ("spring", "mine")
    assert owners.job.id == starters.job.id == job.id
    assert owners.job.started_by == starters.job.started_by == ALPHA
    assert owners.job.arn == f"arn:aws:cleanrooms-ml:{LOCAL_REGION}:{OWNER}:audience-generation-job/{job.id}"
    assert starters.job.arn == f"arn:aws:cleanrooms-ml:{LOCAL_REGION}:{ALPHA}:audience-generation-job/{job.id}"
    assert len(undeclared.catalog.resources.list(Kind.GENERATION_JOB).items) == 1
    undeclared.drain()
    assert seen_by(job.id, OWNER).job.status is seen_by(job.id, ALPHA).job.status is Status.ACTIVE


def test_third_account_finds_nothing(undeclared: Builder, configured: Resource) -> None:
    job = start(undeclared, configured)
    catalog = undeclared.catalog
    for account, region in ((BETA, None), (ALPHA, "eu-west-1"), (OWNER, "eu-west-1")):
        for call in (catalog.job_views.job_view, catalog.job_views.delete_job_view):
            with pytest.raises(NotFoundError):
                call(job.id, account, region)
        with pytest.raises(NotFoundError):
            catalog.job_views.set_job_view_tags(job.id, account, {"a": "1"}, region)
        with pytest.raises(NotFoundError):
            catalog.job_views.remove_job_view_tags(job.id, account, ["a"], region)
    assert catalog.job_views.list_job_views(BETA, LOCAL_REGION).items == ()
    assert catalog.job_views.list_job_views(ALPHA, "eu-west-1").items == ()
    with pytest.raises(NotFoundError):
        catalog.get(GenerationJob, job.id, ALPHA)
    assert {seen.account_id for seen in (catalog.job_views.job_view(job.id, a).job for a in (OWNER, ALPHA))} == {
        OWNER,
        ALPHA,
    }


def test_neither_account_sees_the_others_locations(undeclared: Builder, configured: Resource) -> None:
    job = start(undeclared, configured)
    catalog = undeclared.catalog
    catalog.resources.place_seed(job.id, "vault/canary", digest="ab" * 16, n_bytes=7)
    assert "canary" not in repr(vars(catalog.job_views.job_view(job.id, OWNER).job))
    assert catalog.job_views.job_view(job.id, ALPHA).job.requested_seed == SEED
    undeclared.drain()
    made = export(undeclared, job, ALPHA)
    claim = catalog.work.claim(made.kind, made.id, 1, "run")
    assert claim is not None
    catalog.work.publish_output(claim, "s3://owners/canary")
    (theirs,) = catalog.job_views.list_viewed_exports(ALPHA, LOCAL_REGION).items
    (owners,) = catalog.job_views.list_viewed_exports(OWNER, LOCAL_REGION).items
    assert (theirs.output_location, owners.output_location) == (None, "s3://owners/canary")
    assert (theirs.account_id, theirs.id) == (ALPHA, owners.id)
    assert "canary" not in repr(vars(theirs))


def test_own_job_is_shown_completely(undeclared: Builder, configured: Resource, url: str) -> None:
    job = undeclared.create(job_spec(configured.id, tags={"a": "1"}))
    seen = undeclared.catalog.job_views.job_view(job.id, OWNER)
    assert seen.job == job
    assert (seen.is_owner, seen.is_starter) == (True, True)
    same = undeclared.catalog.resources.create(
        job_spec(configured.id, "x"), starter=Starter(OWNER, "same", "words", {"b": "2"})
    )
    assert (same.name, same.description, same.tags) == ("same", "words", {"b": "2"})
    with reading(url) as session:
        assert session.query(JobViewRow).count() == 0


@pytest.mark.parametrize("policy", list(ChildTagPolicy))
def test_tags_follow_the_policy(undeclared: Builder, policy: ChildTagPolicy) -> None:
    catalog = undeclared.catalog
    _, model, _ = undeclared.chain()
    tagged = undeclared.create(
        configured_spec(model.id, "tagged", tags={"a": "parent", "p": "1"}, child_tag_policy=policy)
    )
    job = start(undeclared, tagged, tags={"a": "request", "r": "2"})
    inherits = policy is ChildTagPolicy.FROM_PARENT_RESOURCE
    assert catalog.job_views.job_view(job.id, OWNER).job.tags == ({"a": "parent", "p": "1"} if inherits else {})
    assert catalog.job_views.job_view(job.id, ALPHA).job.tags == {"a": "request", "r": "2"}
    catalog.job_views.set_job_view_tags(job.id, ALPHA, {"r": "3", "s": ""})
    catalog.job_views.remove_job_view_tags(job.id, ALPHA, ["a", "unknown"])
    assert catalog.job_views.job_view(job.id, ALPHA).job.tags == {"r": "3", "s": ""}
    catalog.job_views.set_job_view_tags(job.id, OWNER, {"o": "9"})
    assert catalog.resources.tags(Kind.GENERATION_JOB, job.id) == (
        {"a": "parent", "p": "1"} if inherits else {}
    ) | {"o": "9"}
    assert catalog.job_views.job_view(job.id, ALPHA).job.tags == {"r": "3", "s": ""}
    with pytest.raises(UsageError):
        catalog.job_views.set_job_view_tags(job.id, ALPHA, {str(n): "" for n in range(49)})
    with pytest.raises(UsageError):
        catalog.job_views.set_job_view_tags(job.id, ALPHA, {"aws:x": ""})
    with pytest.raises(UsageError):
        catalog.job_views.remove_job_view_tags(job.id, ALPHA, ["aws:x"])


@on_both_dialects
def test_starter_names_cover_own_jobs_and_copies(undeclared: Builder, configured: Resource) -> None:
    catalog = undeclared.catalog
    theirs = own(undeclared, ALPHA)
    first = start(undeclared, configured)
    for attempt in (
        lambda: start(undeclared, configured),
        lambda: catalog.resources.create(job_spec(theirs.id), account_id=ALPHA),
    ):
        with pytest.raises(ConflictError, match="'spring' already exists in this account") as caught:
            attempt()
        assert caught.value.attributes == {"reason": "name", "existing_id": first.id}
    mine = catalog.resources.create(job_spec(theirs.id, "autumn"), account_id=ALPHA)
    with pytest.raises(ConflictError) as caught:
        start(undeclared, configured, "autumn")
    assert caught.value.attributes["existing_id"] == mine.id
    start(undeclared, configured, account=BETA)  # the name is free for others
    undeclared.create(job_spec(configured.id))  # and for the owner
    assert len(catalog.resources.list(Kind.GENERATION_JOB).items) == 4


@on_both_dialects
def test_starter_names_never_conflict_with_the_owners(undeclared: Builder, configured: Resource) -> None:
    catalog = undeclared.catalog
    undeclared.create(job_spec(configured.id, f"{ALPHA}-spring"))
    first = start(undeclared, configured)
    assert first.name == f"{ALPHA}-spring~{first.id[-6:]}"
    catalog.job_views.delete_job_view(first.id, ALPHA)
    again = start(undeclared, configured)
    assert again.name == f"{ALPHA}-spring~{again.id[-6:]}"
    assert catalog.job_views.job_view(again.id, ALPHA).job.name == "spring"


def test_long_name_is_truncated_and_stays_unique(undeclared: Builder, configured: Resource) -> None:
    long, other = "x" * 62 + "a", "x" * 62 + "b"
    jobs = [start(undeclared, configured, name) for name in (long, other, "y" * 50, "z" * 51)]
    names = [job.name for job in jobs]
    assert all(len(name) <= 63 for name in names)
    digest = hashlib.sha256(f"{ALPHA}-{long}".encode()).hexdigest()
    assert names[0] == f"{ALPHA}-{'x' * 43}~{digest[:6]}"
    assert names[1].startswith(f"{ALPHA}-{'x' * 43}~")
    assert names[0] != names[1]
    assert names[2] == f"{ALPHA}-{'y' * 50}"
    assert names[3].startswith(f"{ALPHA}-{'z' * 43}~")
    assert [undeclared.catalog.job_views.job_view(job.id, ALPHA).job.name for job in jobs[:2]] == [long, other]


@given(name=st.text(min_size=1, max_size=63), mark=st.sampled_from(["", "abcdef"]))
def test_owner_name_fits_the_limit(name: str, mark: str) -> None:
    made = owner_job_name(ALPHA, name, mark)
    assert len(made) <= 63
    assert made.startswith(f"{ALPHA}-")
    assert made.endswith(f"~{mark}" if mark else "") or not mark


def test_copy_follows_the_rules_for_resources(undeclared: Builder, configured: Resource) -> None:
    for starter in (
        Starter("12", "fine"),
        Starter(ALPHA, ""),
        Starter(ALPHA, "fine", "x" * 256),
        Starter(ALPHA, "fine", None, {"aws:x": ""}),
    ):
        with pytest.raises(UsageError):
            undeclared.catalog.resources.create(job_spec(configured.id), starter=starter)
    assert undeclared.catalog.resources.list(Kind.GENERATION_JOB).items == ()


def test_starter_needs_the_owners_model_in_its_region(undeclared: Builder, configured: Resource) -> None:
    for account, region in ((BETA, LOCAL_REGION), (OWNER, "eu-west-1")):
        with pytest.raises(NotFoundError):
            undeclared.catalog.resources.create(
                job_spec(configured.id), account_id=account, region=region, starter=Starter(ALPHA, "spring")
            )


def test_starter_deletion_keeps_the_owners_job(undeclared: Builder, configured: Resource) -> None:
    catalog = undeclared.catalog
    job = start(undeclared, configured)
    undeclared.drain()
    made = export(undeclared, job, ALPHA)
    catalog.job_views.delete_job_view(job.id, ALPHA)
    with pytest.raises(NotFoundError):
        catalog.job_views.job_view(job.id, ALPHA)
    assert catalog.job_views.list_job_views(ALPHA, LOCAL_REGION).items == ()
    assert catalog.job_views.list_viewed_exports(ALPHA, LOCAL_REGION).items == ()
    with pytest.raises(NotFoundError):
        catalog.job_views.delete_job_view(job.id, ALPHA)
    with pytest.raises(NotFoundError):
        export(undeclared, job, ALPHA, "more")
    assert catalog.job_views.job_view(job.id, OWNER).job.status is Status.ACTIVE
    assert [one.id for one in catalog.job_views.list_viewed_exports(OWNER, LOCAL_REGION).items] == [made.id]


@on_both_dialects
def test_owner_deletion_is_visible_to_the_starter_and_removes_its_copy(
    undeclared: Builder, configured: Resource, url: str
) -> None:
    catalog = undeclared.catalog
    job = start(undeclared, configured)
    undeclared.drain()
    catalog.job_views.delete_job_view(job.id, OWNER)
    assert catalog.job_views.job_view(job.id, ALPHA).job.status is Status.DELETE_PENDING
    catalog.deletion.begin_delete(Kind.GENERATION_JOB, job.id)
    assert catalog.job_views.job_view(job.id, ALPHA).job.status is Status.DELETE_IN_PROGRESS
    with pytest.raises(ConflictError, match="being deleted"):
        export(undeclared, job, ALPHA)
    catalog.deletion.finish_delete(Kind.GENERATION_JOB, job.id)
    for account in (OWNER, ALPHA):
        with pytest.raises(NotFoundError):
            catalog.job_views.job_view(job.id, account)
        assert catalog.job_views.list_job_views(account, LOCAL_REGION).items == ()
    catalog.deletion.request_delete(Kind.CONFIGURED_AUDIENCE_MODEL, configured.id)
    with reading(url) as session:
        assert session.query(JobViewRow).count() == 0


def test_starter_may_delete_during_the_owners_deletion(undeclared: Builder, configured: Resource) -> None:
    catalog = undeclared.catalog
    job = start(undeclared, configured)
    catalog.job_views.delete_job_view(job.id, OWNER)
    catalog.job_views.delete_job_view(job.id, ALPHA)
    catalog.deletion.begin_delete(Kind.GENERATION_JOB, job.id)
    catalog.deletion.finish_delete(Kind.GENERATION_JOB, job.id)


@on_both_dialects
def test_exports_of_both_accounts(undeclared: Builder, configured: Resource) -> None:
    catalog = undeclared.catalog
    job, other = start(undeclared, configured), undeclared.create(job_spec(configured.id, "own"))
    owners = export(undeclared, job, None)
    theirs = export(undeclared, job, ALPHA)  # of the same name
    third = export(undeclared, other, OWNER)
    assert [one.started_by for one in (owners, theirs, third)] == [OWNER, ALPHA, OWNER]
    for again in (None, OWNER, ALPHA):
        with pytest.raises(ConflictError, match="for this generation job"):
            export(undeclared, job, again)
    for job_of, starter in ((job, BETA), (other, ALPHA)):
        with pytest.raises(NotFoundError):
            export(undeclared, job_of, starter)

    def seen(account: str, **filters: str) -> list[str]:
        return [one.id for one in catalog.job_views.list_viewed_exports(account, LOCAL_REGION, **filters).items]

    assert seen(OWNER) == [owners.id, theirs.id, third.id]
    assert seen(OWNER, generation_job_id=job.id) == [owners.id, theirs.id]
    assert seen(ALPHA) == seen(ALPHA, generation_job_id=job.id) == [theirs.id]
    assert seen(ALPHA, generation_job_id=other.id) == seen(BETA) == []
    assert catalog.job_views.list_viewed_exports(OWNER, "eu-west-1").items == ()
    page = catalog.job_views.list_viewed_exports(OWNER, LOCAL_REGION, limit=2)
    assert [one.id for one in page.items] == [owners.id, theirs.id]
    rest = catalog.job_views.list_viewed_exports(OWNER, LOCAL_REGION, limit=2, after=page.after)
    assert ([one.id for one in rest.items], rest.after) == ([third.id], None)
    undeclared.drain()
    assert {catalog.get(ExportJob, key).status for key in seen(OWNER)} == {Status.ACTIVE}


def test_starter_exports_only_allowed_sizes(undeclared: Builder, configured: Resource) -> None:
    job = start(undeclared, configured)
    spec = ExportJobSpec(name="x", generation_job_id=job.id, size=AudienceSize.parse("7%"), started_by=ALPHA)
    with pytest.raises(UsageError, match="does not allow"):
        undeclared.catalog.resources.create(spec)


@on_both_dialects
def test_listing_filters(undeclared: Builder, configured: Resource) -> None:
    catalog = undeclared.catalog
    theirs = own(undeclared, ALPHA)
    first = start(undeclared, configured, "first")
    undeclared.clock.turn(1)
    second = catalog.resources.create(job_spec(theirs.id, "second", collaboration_id="c"), account_id=ALPHA)
    undeclared.clock.turn(1)
    spec = job_spec(configured.id, "third", collaboration_id="c")
    third = catalog.resources.create(spec, starter=Starter(ALPHA, "third"))

    def seen(account: str, **filters: str) -> list[str]:
        return [one.job.id for one in catalog.job_views.list_job_views(account, LOCAL_REGION, **filters).items]

    assert seen(ALPHA) == [first.id, second.id, third.id]
    assert seen(OWNER) == [first.id, third.id]
    assert seen(ALPHA, configured_audience_model_id=configured.id) == [first.id, third.id]
    assert seen(ALPHA, configured_audience_model_id=theirs.id) == [second.id]
    assert seen(ALPHA, collaboration_id="c") == [second.id, third.id]
    listed = catalog.job_views.list_job_views(ALPHA, LOCAL_REGION)
    assert [one.job.name for one in listed.items] == ["first", "second", "third"]
    assert [one.is_owner for one in listed.items] == [False, True, False]
    assert listed.items[0] == catalog.job_views.job_view(first.id, ALPHA)
    for limit in (0, 1001):
        with pytest.raises(UsageError):
            catalog.job_views.list_job_views(ALPHA, LOCAL_REGION, limit=limit)
    with pytest.raises(UsageError, match="token"):
        catalog.job_views.list_viewed_exports(ALPHA, LOCAL_REGION, after="x")


_numbers = itertools.count()


@on_both_dialects
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    before=st.lists(st.booleans(), max_size=8),
    limit=st.integers(1, 4),
    inserts=st.lists(st.lists(st.booleans(), max_size=3), max_size=4),
    same_instant=st.booleans(),
)
def test_paging_over_own_and_started_jobs_is_stable_under_inserts(
    undeclared: Builder,
    before: list[bool],
    limit: int,
    inserts: list[list[bool]],
    same_instant: bool,
) -> None:
    # each example has a starter and an owner of its own in the one catalogue
    starter, owner = (f"{side}{next(_numbers):011d}" for side in "12")
    catalog, clock = undeclared.catalog, undeclared.clock
    configured, theirs = own(undeclared, owner), own(undeclared, starter)
    names = (f"j{n}" for n in range(10_000))

    def insert(kinds: list[bool]) -> list[str]:
        made = []
        for is_started in kinds:
            clock.turn(0 if same_instant else 1)
            name = next(names)
            if is_started:
                job: GenerationJob = catalog.resources.create(
                    job_spec(configured.id, name), account_id=owner, starter=Starter(starter, name)
                )
            else:
                job = catalog.resources.create(job_spec(theirs.id, name), account_id=starter)
            made.append(job.id)
        return made

    there, during, seen = insert(before), [], []
    token, waiting = None, iter(inserts)
    while True:
        page = catalog.job_views.list_job_views(starter, LOCAL_REGION, limit=limit, after=token)
        assert len(page.items) <= limit
        seen += [one.job.id for one in page.items]
        if page.after is None:
            break
        assert page.after != token
        token = page.after
        during += insert(next(waiting, []))
    assert len(seen) == len(set(seen))
    assert set(there) <= set(seen) <= set(there) | set(during)
