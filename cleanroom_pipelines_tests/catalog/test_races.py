"""Contract: however many processes change the same rows at once, each version is closed once, each name and each
dropped seed is one resource, and no update is lost."""

import multiprocessing
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import pytest

from cleanroom_pipelines.catalog import LOCAL_ACCOUNT, LOCAL_REGION, Cause, Kind, Starter, Status
from cleanroom_pipelines.errors import StatusCode

from . import racing
from .building import Builder, configured_spec, dataset_spec, export_spec, job_spec, model_spec
from .dialects import on_both_dialects

N_PROCESSES = 8
N_ROUNDS = 5

Race = Callable[..., list[Any]]


@pytest.fixture(scope="module")
def race() -> Iterator[Race]:
    """Runs a function in eight processes that start together; what each returned."""
    # Forked by a server that has imported everything and opened nothing.
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload([racing.__name__])
    barrier = processes.Barrier(N_PROCESSES)
    with ProcessPoolExecutor(N_PROCESSES, processes, racing.prepare, (barrier,)) as pool:

        def run(work: Callable[..., Any], url: str, *args: Any) -> list[Any]:
            waiting = [pool.submit(work, url, n, *args) for n in range(N_PROCESSES)]
            return [done.result(timeout=180) for done in waiting]

        yield run


@on_both_dialects
def test_concurrent_opening_of_a_new_catalogue(race: Race, empty_url: str) -> None:
    keys = race(racing.first_open, empty_url)
    assert len(set(keys)) == N_PROCESSES
    catalog = racing.open_catalog(empty_url)
    assert {record.id for record in catalog.resources.list(Kind.TRAINING_DATASET).items} == set(keys)
    catalog.database.close()


@on_both_dialects
def test_one_of_many_claims_succeeds(race: Race, url: str, builder: Builder) -> None:
    for n in range(N_ROUNDS):
        dataset = builder.create(dataset_spec(f"d{n}"))
        holders = [run for run in race(racing.claim_one, url, dataset.kind, dataset.id) if run is not None]
        version = builder.newest(dataset)
        assert holders == [version.run_id]
        assert (version.status, version.attempt) == (Status.ACTIVE, 1)


@on_both_dialects
def test_only_the_last_holder_of_an_expired_lease_closes(race: Race, url: str, builder: Builder) -> None:
    for n in range(N_ROUNDS):
        dataset = builder.create(dataset_spec(f"d{n}"))
        answers = Counter(race(racing.hold_and_close, url, dataset.id))
        version = builder.newest(dataset)
        closers = [answer for answer in answers if answer.startswith("run")]
        assert closers == [version.run_id] == [version.status_message]
        assert version.status_code is StatusCode.INTERNAL
        assert version.attempt == 1 + answers["lost"] <= 3
        assert sum(answers.values()) == N_PROCESSES


@on_both_dialects
def test_many_workers_drain_one_catalogue(race: Race, url: str, builder: Builder) -> None:
    _, model, _ = builder.chain()
    for n in range(3):
        own = builder.create(configured_spec(model.id, f"q{n}"))
        for m in range(3):
            builder.create(job_spec(own.id, f"j{m} {n}", export_size="largest", keep_seed=True))
    closed = [line for lines in race(racing.drain, url, 20) for line in lines]
    versions = [
        version
        for kind in Kind
        for record in builder.catalog.resources.list(kind, limit=1000).items
        for version in builder.catalog.resources.versions(record.kind, record.id)
    ]
    assert {version.status for version in versions} <= set(racing.FINISHED)
    active = {(v.resource_id, v.number): v for v in versions if v.status is Status.ACTIVE}
    assert Counter((key, number) for key, number, _ in closed) == Counter(dict.fromkeys(active, 1))
    for key, number, run_id in closed:
        version = active[key, number]
        assert version.run_id == run_id == version.summary["run"] == version.artifacts["asset"]
        assert version.attempt <= 3
    # A lease of 20 ms may run out three times; whatever became of it, each ready job has exactly its one export.
    jobs = [r for r in builder.catalog.resources.list(Kind.GENERATION_JOB).items if r.current_version]
    exports = builder.catalog.resources.list(Kind.EXPORT_JOB).items
    assert sorted(export.parent_id or "" for export in exports) == sorted(job.id for job in jobs)


@on_both_dialects
def test_concurrent_drops_of_a_seed_give_one_job_and_one_export(race: Race, url: str, builder: Builder) -> None:
    *_, configured = builder.chain()
    answers = race(racing.drop_seed, url, configured.id)
    assert Counter(how for how, _ in answers) == {"made": 1, "seed": N_PROCESSES - 1}
    assert len({key for _, key in answers}) == 1
    builder.drain()
    assert len(builder.catalog.resources.list(Kind.GENERATION_JOB).items) == 1
    assert len(builder.catalog.resources.list(Kind.EXPORT_JOB).items) == 1


@on_both_dialects
def test_name_is_taken_once(race: Race, url: str, builder: Builder) -> None:
    builder.catalog.database.migrate()
    answers = race(racing.take_name, url)
    assert Counter(how for how, _ in answers) == {"made": 1, "name": N_PROCESSES - 1}
    assert {key for _, key in answers} == {
        record.id for record in builder.catalog.resources.list(Kind.TRAINING_DATASET).items
    }


@on_both_dialects
def test_concurrent_version_requests_are_numbered_without_gaps(race: Race, url: str, builder: Builder) -> None:
    dataset = builder.create(dataset_spec())
    asked = set().union(*race(racing.ask, url, dataset.id, 5))
    builder.drain()
    versions = builder.catalog.resources.versions(dataset.kind, dataset.id)
    assert [version.number for version in versions] == list(range(1, len(versions) + 1))
    assert asked == {version.number for version in versions}
    assert {version.status for version in versions} == {Status.ACTIVE}
    assert {version.attempt for version in versions} == {1}
    assert builder.again(dataset).current_version == len(versions)


@on_both_dialects
def test_concurrent_refresh_requests_give_one_refresh(race: Race, url: str, builder: Builder) -> None:
    dataset = builder.create(dataset_spec())
    model = builder.create(model_spec(dataset.id, refresh_every_seconds=60))
    builder.drain()
    builder.clock.turn(60)
    assert race(racing.refresh, url, model.id) == [2] * N_PROCESSES
    assert [version.cause for version in builder.catalog.resources.versions(model.kind, model.id)] == [
        Cause.CREATED,
        Cause.REFRESH,
    ]
    assert len(builder.catalog.resources.versions(dataset.kind, dataset.id)) == 2


@on_both_dialects
def test_concurrent_updates_are_all_kept(race: Race, url: str, builder: Builder) -> None:
    *_, configured = builder.chain()
    race(racing.update, url, configured.id, 5)
    after = builder.again(configured)
    assert (after.min_matching_seed_size, after.description) == (104, "104")


@on_both_dialects
def test_one_of_many_policy_replacements_succeeds(race: Race, url: str, builder: Builder) -> None:
    *_, configured = builder.chain()
    previous = None
    for _ in range(N_ROUNDS):
        (previous,) = [done for done in race(racing.put_policy, url, configured.id, previous) if done is not None]
        assert builder.again(configured).policy_hash == previous


@on_both_dialects
def test_name_is_either_an_own_job_or_a_copy(race: Race, url: str, undeclared: Builder) -> None:
    *_, configured = undeclared.chain()
    catalog = undeclared.catalog
    dataset = catalog.resources.create(dataset_spec(), account_id=racing.GUEST)
    model = catalog.resources.create(model_spec(dataset.id), account_id=racing.GUEST)
    own = catalog.resources.create(configured_spec(model.id), account_id=racing.GUEST)
    for n in range(N_ROUNDS):
        answers = race(racing.start_as_guest, url, configured.id, own.id, f"j{n}")
        how = Counter(answer for answer, _ in answers)
        assert how["name"] == N_PROCESSES - 1
        assert len({key for _, key in answers}) == 1
    assert len(catalog.job_views.list_job_views(racing.GUEST, LOCAL_REGION).items) == N_ROUNDS


@on_both_dialects
def test_names_of_different_starters_do_not_conflict(race: Race, url: str, undeclared: Builder) -> None:
    *_, configured = undeclared.chain()
    for n in range(N_ROUNDS):
        keys = race(racing.start_for_all, url, configured.id, f"j{n}")
        assert len(set(keys)) == N_PROCESSES
    assert (
        len(undeclared.catalog.job_views.list_job_views(LOCAL_ACCOUNT, LOCAL_REGION).items)
        == N_ROUNDS * N_PROCESSES
    )


@on_both_dialects
def test_concurrent_deletions_by_both_sides_do_not_deadlock(race: Race, url: str, undeclared: Builder) -> None:
    *_, configured = undeclared.chain()
    undeclared.drain()
    for n in range(N_ROUNDS):
        job = undeclared.catalog.resources.create(
            job_spec(configured.id, f"j{n}"), starter=Starter(racing.GUEST, f"j{n}")
        )
        undeclared.drain()
        answers = Counter(race(racing.delete_on_both_sides, url, job.id))
        assert answers["owner"] >= 1
        assert answers["guest"] <= 1
        assert set(answers) <= {"guest", "owner", "exported", "ConflictError", "NotFoundError"}
        for account in (LOCAL_ACCOUNT, racing.GUEST):
            assert undeclared.catalog.job_views.list_job_views(account, LOCAL_REGION).items == ()
            assert undeclared.catalog.job_views.list_viewed_exports(account, LOCAL_REGION).items == ()


@on_both_dialects
def test_party_objects_are_created_once(race: Race, url: str, builder: Builder) -> None:
    builder.catalog.database.migrate()
    made = Counter(what for lines in race(racing.create_parties, url) for what in lines)
    assert made == dict.fromkeys(("account", "id", "collaboration", "template", "bucket", "key"), 1)


@on_both_dialects
def test_concurrent_tags_are_all_kept(race: Race, url: str, builder: Builder) -> None:
    dataset = builder.create(dataset_spec())
    race(racing.tag, url, dataset.id, 6)
    assert set(builder.again(dataset).tags) == {f"{n}.{time}" for n in range(N_PROCESSES) for time in range(6)}


@on_both_dialects
def test_concurrent_artifacts_are_all_kept(race: Race, url: str, builder: Builder) -> None:
    dataset = builder.create(dataset_spec())
    race(racing.publish, url, dataset.id, 5)
    wanted = {f"{n}.{time}": "v" for n in range(N_PROCESSES) for time in range(5)}
    assert builder.newest(dataset).artifacts == wanted


@on_both_dialects
def test_concurrent_deletion_and_child_creation_do_not_deadlock(race: Race, url: str, builder: Builder) -> None:
    *_, configured = builder.chain()
    builder.drain()
    for n in range(N_ROUNDS):
        job = builder.create(job_spec(configured.id, f"j{n}"))
        builder.create(export_spec(job.id))
        builder.drain()
        answers = Counter(race(racing.delete_or_add, url, job.id))
        assert answers["deleted"] >= 1
        assert set(answers) <= {"deleted", "added", "ConflictError", "NotFoundError"}
        assert builder.catalog.resources.list(Kind.GENERATION_JOB).items == ()
        assert builder.catalog.resources.list(Kind.EXPORT_JOB).items == ()
