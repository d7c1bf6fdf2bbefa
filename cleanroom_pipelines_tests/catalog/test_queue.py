"""Contract: small jobs have their own queue; in each queue owners take turns, each with its oldest version.

The owner of an account's work is the account that requested it; of a data room's work, the user.
"""

import pytest

from cleanroom_pipelines.catalog import (
    RECORDS,
    Catalog,
    ConfiguredAudienceModel,
    DataLabSpec,
    Kind,
    Stage,
    Version,
)
from cleanroom_pipelines.catalog.work import Lane

from .building import Builder, Clock, dataset_spec, export_spec, job_spec
from .dialects import on_both_dialects

OTHERS = "111111111111"


def order(builder: Builder, lane: Lane | None = None) -> list[str]:
    return [
        builder.catalog.get(RECORDS[each.kind], each.resource_id).name
        for each in builder.catalog.work.ready(lane=lane)
    ]


@pytest.fixture
def configured(undeclared: Builder) -> str:
    _, _, configured = undeclared.chain()
    undeclared.drain()
    return configured.id


def ask(builder: Builder, clock: Clock, configured: str, name: str, account: str) -> None:
    clock.turn(1)
    builder.catalog.resources.create(job_spec(configured, name, started_by=account))


def start_next(builder: Builder, lane: Lane | None = None) -> str:
    version: Version = builder.catalog.work.ready(lane=lane)[0]
    name: str = builder.catalog.get(RECORDS[version.kind], version.resource_id).name
    assert builder.catalog.work.claim(version.kind, version.resource_id, version.number, f"run of {name}")
    return name


@on_both_dialects
def test_job_of_another_account_waits_for_one_job_only(undeclared: Builder, clock: Clock, configured: str) -> None:
    account = undeclared.catalog.get(ConfiguredAudienceModel, configured).account_id
    for number in range(24):
        ask(undeclared, clock, configured, f"many{number:02d}", account)
    assert start_next(undeclared) == "many00"
    ask(undeclared, clock, configured, "only", OTHERS)
    clock.turn(1)
    assert start_next(undeclared) == "only"
    clock.turn(1)
    assert [start_next(undeclared) for _ in range(3)] == ["many01", "many02", "many03"]


def test_two_accounts_with_many_jobs_alternate(undeclared: Builder, clock: Clock, configured: str) -> None:
    account = undeclared.catalog.get(ConfiguredAudienceModel, configured).account_id
    for number in range(3):
        ask(undeclared, clock, configured, f"first{number}", account)
    for number in range(3):
        ask(undeclared, clock, configured, f"second{number}", OTHERS)
    started = []
    for _ in range(6):
        clock.turn(1)
        started.append(start_next(undeclared))
    assert sorted(started[:2]) == ["first0", "second0"]
    assert sorted(started[2:4]) == ["first1", "second1"]
    assert sorted(started[4:]) == ["first2", "second2"]


def test_small_work_does_not_wait_for_heavy_work(undeclared: Builder, clock: Clock, configured: str) -> None:
    account = undeclared.catalog.get(ConfiguredAudienceModel, configured).account_id
    ask(undeclared, clock, configured, "done", account)
    undeclared.drain()
    (done,) = undeclared.catalog.resources.iterate(Kind.GENERATION_JOB)
    for number in range(3):
        ask(undeclared, clock, configured, f"job{number}", account)
    clock.turn(1)
    undeclared.create(export_spec(done.id))
    undeclared.create(dataset_spec("late"))
    assert order(undeclared, Lane.SMALL) == ["top", "late"]
    assert order(undeclared, Lane.HEAVY) == ["job0", "job1", "job2"]
    assert order(undeclared) == ["top", "late", "job0", "job1", "job2"]


def test_lane_of_an_audience_depends_on_its_own_definition(builder: Builder, clock: Clock) -> None:
    from cleanroom_pipelines.catalog.work import lane_of

    assert lane_of(Kind.CUSTOM_AUDIENCE, {"kind": "lookalike"}) is Lane.HEAVY
    assert lane_of(Kind.CUSTOM_AUDIENCE, {"kind": "rule_based"}) is Lane.SMALL
    assert lane_of(Kind.AUDIENCE_LIST, {"kind": "lookalike"}) is Lane.SMALL
    assert lane_of(Kind.AUDIENCE_MODEL, None) is Lane.HEAVY
    assert lane_of(Kind.DATA_LAB, None) is Lane.SMALL


def test_users_alternate_too(catalog: Catalog, clock: Clock) -> None:
    for number, (name, email) in enumerate((("many0", "a"), ("many1", "a"), ("many2", "a"), ("only", "b"))):
        clock.turn(1)
        lab = DataLabSpec(
            name=name,
            mark=f"{number:032x}",
            owner_email=f"{email}@a.example",
            datasets={"matching:EMAIL": "upload"},
        )
        catalog.resources.create(lab)
    assert [catalog.get(RECORDS[each.kind], each.resource_id).name for each in catalog.work.ready()][:2] == [
        "many0",
        "only",
    ]


def test_queue_position_counts_within_the_lane(undeclared: Builder, clock: Clock, configured: str) -> None:
    account = undeclared.catalog.get(ConfiguredAudienceModel, configured).account_id
    for number in range(3):
        ask(undeclared, clock, configured, f"job{number}", account)
    undeclared.create(dataset_spec("late"))
    assert {name: stage.place for name, stage in stages(undeclared).items()} == {
        "job0": 1,
        "job1": 2,
        "job2": 3,
        "late": 1,
    }


@on_both_dialects
def test_every_open_version_has_a_stage(undeclared: Builder, clock: Clock) -> None:
    dataset, model, _ = undeclared.chain()
    assert {name: str(stage) for name, stage in stages(undeclared).items()} == {
        "baskets": "waiting, place 1 in the queue",
        "weekly": "waiting for a resource that it depends on",
        "partners": "waiting for a resource that it depends on",
    }
    undeclared.make(undeclared.newest(dataset))
    claim = undeclared.catalog.work.claim(model.kind, model.id, 1, "run")
    assert claim
    assert str(stages(undeclared)["weekly"]) == "starting"
    undeclared.catalog.work.report_progress(claim, 0.4, "counting items")
    assert str(stages(undeclared)["weekly"]) == "counting items, 40%"
    assert undeclared.catalog.work.stages([dataset.id]) == {}
    assert undeclared.catalog.work.stages([model.id]).keys() == {(model.id, 1)}


def stages(builder: Builder) -> dict[str, Stage]:
    found = builder.catalog.work.stages()
    records = [record for kind in Kind for record in builder.catalog.resources.iterate(kind)]
    return {record.name: stage for record in records for (id_, _), stage in found.items() if id_ == record.id}
