"""The semantics of the operations.

Contract: the semantics that the shapes do not define: ownership of roles, tables, buckets and resources;
operations that a state forbids; sizes and their defaults; tags and their inheritance; policies with their hashes
and conditions; what the two accounts of a job see of it and of each other; a started job keeps its configuration;
`apply`, boto3 and Dagster show the same resources.
"""

import hashlib
import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from cleanroom_pipelines.audiences.sizes import DEFAULT_SIZES
from cleanroom_pipelines.catalog import ConfiguredAudienceModel, Kind, TrainingDatasetSpec, configured_at_start
from cleanroom_pipelines.errors import StatusCode
from cleanroom_pipelines.runs.kinds import ASSETS_OF, KINDS
from cleanroom_pipelines.runs.running import run_pending
from cleanroom_pipelines.uploads.roles import Role
from cleanroom_pipelines_tests.server.server import (
    OUTPUT,
    REGION,
    SEED,
    Party,
    Room,
    add_party,
    client_of,
    configured_parameters,
    dataset_parameters,
    export_parameters,
    job_parameters,
    make_gateway,
    policy_for,
)

from .. import worlds
from ..cases import assert_each
from .requests import raised

TEMPLATES_SQL = "SELECT user_id FROM shop.customers WHERE visits >= :least"


@pytest.fixture
def room(tmp_path: Path) -> Room:
    return Room.open(tmp_path / "home")


def columns(*roles: str) -> list[dict[str, Any]]:
    return [{"columnName": f"column {n}", "columnTypes": [role]} for n, role in enumerate(roles)]


def with_schema(party: Party, schema: list[dict[str, Any]]) -> dict[str, Any]:
    parameters = dataset_parameters(party)
    parameters["trainingData"][0]["inputConfig"]["schema"] = schema
    return parameters


def key_of(arn: str) -> str:
    return arn.rpartition("/")[2]


# training datasets


def test_an_invalid_table_fails_its_model_and_is_validated_again(room: Room) -> None:
    dataset = room.dataset()
    catalog = room.installation.catalog
    [version] = catalog.work.ready()
    claim = catalog.work.claim(version.kind, version.resource_id, version.number, "run")
    assert claim is not None
    catalog.work.fail(claim, StatusCode.TRAINING_DATA_NOT_FOUND, "No file lies there.")
    assert room.publisher.get_training_dataset(trainingDatasetArn=dataset)["status"] == "ACTIVE"
    create = room.publisher.create_audience_model
    first = create(name="first", trainingDatasetArn=dataset)["audienceModelArn"]
    [again] = catalog.work.ready()
    assert again.resource_id == key_of(dataset), "its owner may have repaired the table since"
    claim = catalog.work.claim(again.kind, again.resource_id, again.number, "run")
    assert claim is not None
    catalog.work.fail(claim, StatusCode.TRAINING_DATA_INVALID, "A column is missing.")
    catalog.work.fail_orphans()
    told = room.publisher.get_audience_model(audienceModelArn=first)
    assert (told["status"], told["statusDetails"]) == (
        "CREATE_FAILED",
        {"statusCode": "TRAINING_DATA_INVALID", "message": "A column is missing."},
    )
    second = create(name="second", trainingDatasetArn=dataset)["audienceModelArn"]
    room.finish()
    assert room.publisher.get_audience_model(audienceModelArn=second)["status"] == "ACTIVE"


BASE = ("USER_ID", "ITEM_ID", "TIMESTAMP")


NO_SCHEMAS = [
    (("ITEM_ID", "TIMESTAMP"), "USER_ID"),
    (("USER_ID", "TIMESTAMP"), "ITEM_ID"),
    (("USER_ID", "ITEM_ID"), "TIMESTAMP"),
    ((*BASE, "USER_ID"), "USER_ID"),
    ((*BASE, "ITEM_ID"), "ITEM_ID"),
    ((*BASE, "TIMESTAMP"), "TIMESTAMP"),
    ((*BASE, *["NUMERICAL_FEATURE"] * 6, *["CATEGORICAL_FEATURE"] * 5), "10 features"),
]


def test_an_invalid_schema(room: Room) -> None:
    def is_rejected(roles: tuple[str, ...], word: str) -> None:
        with raised(room.publisher, "ValidationException") as told:
            room.publisher.create_training_dataset(**with_schema(room.parties.publisher, columns(*roles)))
        assert "schema" in told["Error"]["Message"]
        assert word in told["Error"]["Message"]

    assert_each(is_rejected, NO_SCHEMAS)


def test_a_schema_at_its_limit_is_returned_unchanged(room: Room) -> None:
    schema = columns(*BASE, *["NUMERICAL_FEATURE"] * 5, *["CATEGORICAL_FEATURE"] * 5)
    made = room.publisher.create_training_dataset(**with_schema(room.parties.publisher, schema))
    shown = room.publisher.get_training_dataset(trainingDatasetArn=made["trainingDatasetArn"])
    (data,) = shown["trainingData"]
    assert data["inputConfig"]["schema"] == schema
    source = {"databaseName": "shop", "tableName": "events", "catalogId": room.parties.publisher.account_id}
    assert data["inputConfig"]["dataSource"] == {"glueDataSource": source}
    assert (shown["roleArn"], shown["tags"]) == (room.parties.publisher.role, {})


def test_a_column_of_item_names_is_not_in_the_api(room: Room) -> None:
    party = room.parties.publisher
    plain = (("user", Role.USER_ID), ("item", Role.ITEM_ID), ("ts", Role.TIMESTAMP))
    spec = TrainingDatasetSpec(name="named", source="events.csv", columns=(*plain, ("title", Role.ITEM_NAME)))
    dataset = room.installation.catalog.resources.create(spec, account_id=party.account_id, region=REGION)
    (data,) = room.publisher.get_training_dataset(trainingDatasetArn=dataset.arn)["trainingData"]
    assert [column["columnName"] for column in data["inputConfig"]["schema"]] == ["user", "item", "ts"]
    with raised(room.publisher, "ValidationException"):
        room.publisher.create_training_dataset(**with_schema(party, columns(*BASE, "ITEM_NAME")))


def test_a_column_is_named_once(room: Room) -> None:
    schema = columns(*BASE)
    schema[1]["columnName"] = schema[0]["columnName"].upper()
    with raised(room.publisher, "ValidationException"):
        room.publisher.create_training_dataset(**with_schema(room.parties.publisher, schema))


def test_another_accounts_catalogue_is_rejected(room: Room) -> None:
    parameters = dataset_parameters(room.parties.publisher)
    source = parameters["trainingData"][0]["inputConfig"]["dataSource"]["glueDataSource"]
    source["catalogId"] = room.parties.advertiser.account_id
    with raised(room.publisher, "AccessDeniedException"):
        room.publisher.create_training_dataset(**parameters)
    source["catalogId"] = room.parties.publisher.account_id
    room.publisher.create_training_dataset(**parameters)


def test_another_accounts_role_is_rejected_everywhere(room: Room) -> None:
    role = room.parties.advertiser.role
    publisher, me, model = room.publisher, room.parties.publisher, room.model()
    configured = room.configured("mine", model)
    output = {"destination": {"s3Destination": {"s3Uri": OUTPUT}}, "roleArn": role}
    seed = {"roleArn": role, "dataSource": {"s3Uri": SEED}}
    with raised(publisher, "AccessDeniedException"):
        publisher.create_training_dataset(**dataset_parameters(me, "other", roleArn=role))
    with raised(publisher, "AccessDeniedException"):
        publisher.create_configured_audience_model(
            **configured_parameters(me, model, "other", outputConfig=output)
        )
    with raised(publisher, "AccessDeniedException"):
        publisher.update_configured_audience_model(configuredAudienceModelArn=configured, outputConfig=output)
    with raised(publisher, "AccessDeniedException"):
        publisher.start_audience_generation_job(**job_parameters(me, configured, seedAudience=seed))


def test_another_accounts_bucket_is_rejected_everywhere(room: Room) -> None:
    room.installation.catalog.parties.register_bucket("theirs-alone", room.parties.advertiser.account_id)
    publisher, me, model = room.publisher, room.parties.publisher, room.model()
    configured = room.configured("mine", model)
    output = {"destination": {"s3Destination": {"s3Uri": "s3://theirs-alone/x"}}, "roleArn": me.role}
    seed = {"roleArn": me.role, "dataSource": {"s3Uri": "s3://theirs-alone/x.jsonl"}}
    with raised(publisher, "AccessDeniedException") as told:
        publisher.create_configured_audience_model(
            **configured_parameters(me, model, "other", outputConfig=output)
        )
    assert room.parties.advertiser.account_id not in told["Error"]["Message"]
    with raised(publisher, "AccessDeniedException"):
        publisher.update_configured_audience_model(configuredAudienceModelArn=configured, outputConfig=output)
    with raised(publisher, "AccessDeniedException"):
        publisher.start_audience_generation_job(**job_parameters(me, configured, seedAudience=seed))


# audience models

FIRST, LAST = datetime(2023, 12, 1, tzinfo=UTC), datetime(2024, 1, 1, tzinfo=UTC)


def test_an_empty_window(room: Room) -> None:
    dataset = room.dataset()

    def is_rejected(start: datetime, end: datetime) -> None:
        with raised(room.publisher, "ValidationException") as told:
            room.model(dataset=dataset, trainingDataStartTime=start, trainingDataEndTime=end)
        assert "trainingDataEndTime" in told["Error"]["Message"]

    assert_each(is_rejected, [(LAST, FIRST), (FIRST, FIRST)])


def test_a_window_is_returned_unchanged(room: Room) -> None:
    def is_shown(edges: dict[str, datetime]) -> None:
        window = {f"trainingData{edge}Time": moment for edge, moment in edges.items()}
        model = room.model("-".join(["model", *edges]), **window)
        shown = room.publisher.get_audience_model(audienceModelArn=model)
        assert {
            name: shown[name] for name in shown if name.startswith("trainingData") and "Time" in name
        } == window

    assert_each(is_shown, [{}, {"Start": FIRST}, {"End": LAST}, {"Start": FIRST, "End": LAST}])


def test_a_window_beyond_the_year_9999_is_rejected(room: Room) -> None:
    last = datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)
    shown = room.publisher.get_audience_model(audienceModelArn=room.model("last", trainingDataEndTime=last))
    assert shown["trainingDataEndTime"] == last
    for edge in ("Start", "End"):
        member = f"trainingData{edge}Time"
        with raised(room.publisher, "ValidationException") as told:
            room.model(f"past it {edge}", **{member: last.replace(microsecond=500_000)})
        assert member in told["Error"]["Message"]


def test_a_kms_key_needs_an_encrypted_volume(room: Room, tmp_path: Path) -> None:
    key = f"arn:aws:kms:{REGION}:{room.parties.publisher.account_id}:key/1"
    with raised(room.publisher, "ValidationException") as told:
        room.model(kmsKeyArn=key)
    assert "kmsKeyArn" in told["Error"]["Message"]
    assert room.publisher.list_audience_models()["audienceModels"] == []
    sealed = Room.open(tmp_path / "sealed", CLEANROOM_ENCRYPTION="volume")
    assert sealed.publisher.get_audience_model(audienceModelArn=sealed.model(kmsKeyArn=key))["kmsKeyArn"] == key


def test_a_parent_that_is_not_active_is_a_conflict(room: Room) -> None:
    publisher, me, configured = room.publisher, room.parties.publisher, room.configured()
    pending = publisher.create_audience_model(name="new", trainingDatasetArn=room.dataset())["audienceModelArn"]
    with raised(publisher, "ConflictException"):
        publisher.create_configured_audience_model(**configured_parameters(me, pending, "early"))
    with raised(publisher, "ConflictException"):
        publisher.update_configured_audience_model(configuredAudienceModelArn=configured, audienceModelArn=pending)
    job = publisher.start_audience_generation_job(**job_parameters(me, configured))["audienceGenerationJobArn"]
    with raised(publisher, "ConflictException"):
        publisher.start_audience_export_job(**export_parameters(job))
    publisher.delete_audience_model(audienceModelArn=pending)
    with raised(publisher, "ConflictException"):
        publisher.create_configured_audience_model(**configured_parameters(me, pending, "late"))


def test_a_resource_with_dependents_cannot_be_deleted(room: Room) -> None:
    configured, publisher = room.configured(), room.publisher
    (model,) = publisher.list_audience_models()["audienceModels"]
    publisher.start_audience_generation_job(**job_parameters(room.parties.publisher, configured))
    for method, arn in (
        ("training_dataset", model["trainingDatasetArn"]),
        ("audience_model", model["audienceModelArn"]),
        ("configured_audience_model", configured),
    ):
        member = {
            "training_dataset": "trainingDatasetArn",
            "audience_model": "audienceModelArn",
            "configured_audience_model": "configuredAudienceModelArn",
        }[method]
        with raised(publisher, "ConflictException"):
            getattr(publisher, f"delete_{method}")(**{member: arn})
        assert getattr(publisher, f"get_{method}")(**{member: arn})["status"] == "ACTIVE"


def test_every_resource_of_another_account_or_region_does_not_exist(room: Room) -> None:
    configured = room.shared()
    job = room.parties.publisher.own(room.job(configured))
    model = room.publisher.list_audience_models()["audienceModels"][0]
    elsewhere = room.client(room.parties.publisher, "us-west-2")
    looks = {
        "get_training_dataset": {"trainingDatasetArn": model["trainingDatasetArn"]},
        "delete_training_dataset": {"trainingDatasetArn": model["trainingDatasetArn"]},
        "get_audience_model": {"audienceModelArn": model["audienceModelArn"]},
        "delete_audience_model": {"audienceModelArn": model["audienceModelArn"]},
        "get_configured_audience_model": {"configuredAudienceModelArn": configured},
        "update_configured_audience_model": {"configuredAudienceModelArn": configured, "description": "x"},
        "delete_configured_audience_model": {"configuredAudienceModelArn": configured},
        "get_configured_audience_model_policy": {"configuredAudienceModelArn": configured},
        "delete_configured_audience_model_policy": {"configuredAudienceModelArn": configured},
        "put_configured_audience_model_policy": {
            "configuredAudienceModelArn": configured,
            "configuredAudienceModelPolicy": policy_for(configured, room.parties.stranger.account_id),
        },
        "get_audience_generation_job": {"audienceGenerationJobArn": job},
        "delete_audience_generation_job": {"audienceGenerationJobArn": job},
        "start_audience_export_job": export_parameters(job),
        "list_audience_export_jobs": {"audienceGenerationJobArn": job},
        "create_audience_model": {"name": "x", "trainingDatasetArn": model["trainingDatasetArn"]},
        "tag_resource": {"resourceArn": configured, "tags": {"a": "b"}},
        "untag_resource": {"resourceArn": configured, "tagKeys": ["a"]},
        "list_tags_for_resource": {"resourceArn": configured},
    }
    for client in (room.advertiser, room.client(room.parties.stranger), elsewhere):
        for method, parameters in looks.items():
            with raised(client, "ResourceNotFoundException") as told:
                getattr(client, method)(**parameters)
            assert "lookalikes" not in told["Error"]["Message"]
    # its own account in the ARN of another's resource finds nothing either
    for arn in (configured, model["audienceModelArn"]):
        with raised(room.advertiser, "ResourceNotFoundException"):
            room.advertiser.list_tags_for_resource(resourceArn=room.parties.advertiser.own(arn))
    assert room.publisher.get_configured_audience_model(configuredAudienceModelArn=configured)["tags"] == {}


# configured audience models


def sizes(kind: str, *bins: int) -> dict[str, Any]:
    return {"audienceSizeConfig": {"audienceSizeType": kind, "audienceSizeBins": list(bins)}}


def test_sizes_are_sorted_and_have_defaults(room: Room) -> None:
    model, publisher, me = room.model(), room.publisher, room.parties.publisher
    room.configured("sorted", model, **sizes("ABSOLUTE", 500, 20, 100))
    plain = configured_parameters(me, model, "plain")
    del plain["audienceSizeConfig"], plain["minMatchingSeedSize"]
    publisher.create_configured_audience_model(**plain)
    ordered, default = (
        publisher.get_configured_audience_model(configuredAudienceModelArn=one["configuredAudienceModelArn"])
        for one in publisher.list_configured_audience_models()["configuredAudienceModels"]
    )
    assert ordered["audienceSizeConfig"] == {"audienceSizeType": "ABSOLUTE", "audienceSizeBins": [20, 100, 500]}
    assert default["audienceSizeConfig"] == {
        "audienceSizeType": "PERCENTAGE",
        "audienceSizeBins": sorted(int(size.value) for size in DEFAULT_SIZES),
    }
    assert (default["minMatchingSeedSize"], default["childResourceTagOnCreatePolicy"]) == (500, "NONE")


def test_invalid_sizes(room: Room) -> None:
    model = room.model()
    configured = room.configured(model=model)

    def is_rejected(wrong: dict[str, Any]) -> None:
        for attempt in (
            lambda: room.configured("other", model, **wrong),
            lambda: room.publisher.update_configured_audience_model(
                configuredAudienceModelArn=configured, **wrong
            ),
        ):
            with raised(room.publisher, "ValidationException") as told:
                attempt()
            assert "audienceSizeBins" in told["Error"]["Message"]

    assert_each(
        is_rejected, [sizes("PERCENTAGE", 101), sizes("PERCENTAGE", 5, 20_000_000), sizes("ABSOLUTE", 5, 5)]
    )


def test_the_size_of_an_export_is_one_of_the_configured(room: Room) -> None:
    job = room.job(room.shared())
    room.finish()
    for kind, value in (("PERCENTAGE", 6), ("ABSOLUTE", 20), ("PERCENTAGE", 101)):
        size = {"type": kind, "value": value}
        with raised(room.advertiser, "ValidationException") as told:
            room.advertiser.start_audience_export_job(**export_parameters(job, audienceSize=size))
        assert "size" in told["Error"]["Message"].lower()
    assert room.advertiser.list_audience_export_jobs()["audienceExportJobs"] == []
    room.advertiser.start_audience_export_job(**export_parameters(job))


def test_an_update_changes_only_the_given_members(room: Room) -> None:
    configured = room.configured(description="old", tags={"a": "b"})
    named = {"configuredAudienceModelArn": configured}
    before = room.publisher.get_configured_audience_model(**named)
    changes = {"description": "new", "minMatchingSeedSize": 99, "sharedAudienceMetrics": ["NONE"]}
    room.publisher.update_configured_audience_model(**named, **changes, **sizes("ABSOLUTE", 7))
    after = room.publisher.get_configured_audience_model(**named)
    changed = {name for name in after if after[name] != before[name]}
    assert changed - {"updateTime", "ResponseMetadata"} == {*changes, "audienceSizeConfig"}
    assert {name: after[name] for name in changes} == changes


def test_an_update_does_not_affect_a_started_job(room: Room) -> None:
    configured = room.shared()
    job = room.job(configured)
    other = room.model("other")
    room.publisher.update_configured_audience_model(
        configuredAudienceModelArn=configured,
        audienceModelArn=other,
        minMatchingSeedSize=30,
        **sizes("ABSOLUTE", 7),
    )
    catalog = room.installation.catalog
    old = catalog.get(ConfiguredAudienceModel, key_of(configured))
    assert old.audience_model_id == key_of(other)
    kept = configured_at_start(catalog.resources.newest_version(Kind.GENERATION_JOB, key_of(job)))
    assert kept is not None
    assert kept.audience_model_id != key_of(other)
    assert (kept.min_matching_seed_size, [size.value for size in kept.sizes]) == (25, [5, 10, 20])
    new_job = room.job(configured, "new")
    new = configured_at_start(catalog.resources.newest_version(Kind.GENERATION_JOB, key_of(new_job)))
    assert new is not None
    assert (new.audience_model_id, new.min_matching_seed_size) == (key_of(other), 30)


# policies


def test_the_life_of_a_policy(room: Room) -> None:
    configured, publisher = room.configured(), room.publisher
    named = {"configuredAudienceModelArn": configured}
    first, second = (policy_for(configured, each) for each in ("111111111111", "333333333333"))

    def put(policy: str, **more: str) -> Any:
        return publisher.put_configured_audience_model_policy(
            **named, configuredAudienceModelPolicy=policy, **more
        )

    def seen() -> Any:
        return publisher.get_configured_audience_model_policy(**named)

    for look in (seen, lambda: publisher.delete_configured_audience_model_policy(**named)):
        with raised(publisher, "ResourceNotFoundException"):
            look()
    with raised(publisher, "ValidationException"):
        put(first, policyExistenceCondition="POLICY_MUST_EXIST")
    made = put(first, policyExistenceCondition="POLICY_MUST_NOT_EXIST")
    assert made["policyHash"] == hashlib.sha256(first.encode()).hexdigest()
    assert seen()["configuredAudienceModelPolicy"] == first
    with raised(publisher, "ValidationException"):
        put(second, policyExistenceCondition="POLICY_MUST_NOT_EXIST")
    with raised(publisher, "ValidationException"):
        put(second, previousPolicyHash="0" * 64)
    assert seen()["configuredAudienceModelPolicy"] == first
    put(second, previousPolicyHash=made["policyHash"], policyExistenceCondition="POLICY_MUST_EXIST")
    assert seen()["configuredAudienceModelPolicy"] == second
    publisher.delete_configured_audience_model_policy(**named)
    with raised(publisher, "ResourceNotFoundException"):
        seen()


def test_an_unsupported_policy_is_rejected_by_element(room: Room) -> None:
    configured = room.configured()
    for policy, word in (
        (
            policy_for(configured, "111111111111", Condition={"DateLessThan": {"aws:CurrentTime": "x"}}),
            "DateLessThan",
        ),
        (policy_for(configured, "111111111111", NotAction="x"), "NotAction"),
        ("{", "JSON"),
    ):
        with raised(room.publisher, "ValidationException") as told:
            room.publisher.put_configured_audience_model_policy(
                configuredAudienceModelArn=configured, configuredAudienceModelPolicy=policy
            )
        assert word in told["Error"]["Message"]


def test_who_may_start_a_job_on_another_s_model(room: Room) -> None:
    configured, advertiser = room.configured(), room.parties.advertiser

    def put(policy: str) -> None:
        room.publisher.put_configured_audience_model_policy(
            configuredAudienceModelArn=configured, configuredAudienceModelPolicy=policy
        )

    with raised(room.advertiser, "ResourceNotFoundException"):
        room.job(configured)  # without a policy it does not exist for others
    put(policy_for(configured, room.parties.stranger.account_id))
    with raised(room.advertiser, "ResourceNotFoundException"):
        room.job(configured)  # nor with one that has nothing for them
    put(policy_for(configured, advertiser.account_id, Action="cleanrooms-ml:GetAudienceGenerationJob"))
    with raised(room.advertiser, "AccessDeniedException"):
        room.job(configured)
    tagged = {"StringEquals": {"aws:RequestTag/team": "growth"}}
    put(policy_for(configured, advertiser.account_id, Condition=tagged))
    with raised(room.advertiser, "AccessDeniedException"):
        room.job(configured, tags={"team": "other"})
    room.job(configured, tags={"team": "growth"})
    allow = json.loads(policy_for(configured, advertiser.account_id))
    allow["Statement"].append(allow["Statement"][0] | {"Effect": "Deny", "Principal": "*"})
    put(json.dumps(allow))
    with raised(room.advertiser, "AccessDeniedException"):
        room.job(configured, "denied")
    room.publisher.delete_configured_audience_model_policy(configuredAudienceModelArn=configured)
    with raised(room.advertiser, "ResourceNotFoundException"):
        room.job(configured, "late")
    assert len(room.publisher.list_audience_generation_jobs()["audienceGenerationJobs"]) == 1


# two accounts


def test_each_side_of_a_job_sees_its_own_view(room: Room) -> None:
    publisher, advertiser = room.parties.publisher, room.parties.advertiser
    configured = room.shared()
    theirs = room.job(configured, "loyal", description="Our best.", tags={"team": "growth"})
    ours = publisher.own(theirs)
    seen = room.publisher.get_audience_generation_job(audienceGenerationJobArn=ours)
    told = room.advertiser.get_audience_generation_job(audienceGenerationJobArn=theirs)
    assert (told["name"], told["description"], told["tags"]) == ("loyal", "Our best.", {"team": "growth"})
    assert told["seedAudience"]["dataSource"]["s3Uri"] == SEED
    assert (seen["name"], seen["tags"]) == (f"{advertiser.account_id}-loyal", {})
    assert "seedAudience" not in seen
    assert seen["startedBy"] == told["startedBy"] == advertiser.account_id
    assert seen["configuredAudienceModelArn"] == told["configuredAudienceModelArn"] == configured
    for client, arn in ((room.publisher, ours), (room.advertiser, theirs)):
        (one,) = client.list_audience_generation_jobs()["audienceGenerationJobs"]
        assert one["audienceGenerationJobArn"] == arn
    assert room.client(room.parties.stranger).list_audience_generation_jobs()["audienceGenerationJobs"] == []
    with raised(room.advertiser, "ResourceNotFoundException"):
        room.advertiser.get_configured_audience_model(configuredAudienceModelArn=configured)


def test_who_sees_the_metrics(room: Room) -> None:
    model = room.model()
    for shared, is_reported in (("ALL", True), ("NONE", False)):
        theirs = room.job(room.shared(shared, model=model, sharedAudienceMetrics=[shared]), shared)
        ours = room.parties.publisher.own(theirs)
        assert "metrics" not in room.publisher.get_audience_generation_job(audienceGenerationJobArn=ours)
        room.finish()
        seen = room.publisher.get_audience_generation_job(audienceGenerationJobArn=ours)
        assert seen["metrics"]["recallMetric"] == 0.75
        told = room.advertiser.get_audience_generation_job(audienceGenerationJobArn=theirs)
        assert ("metrics" in told) is is_reported, shared


def test_only_the_owner_sees_why_a_model_failed(room: Room) -> None:
    job = room.job(room.shared())
    catalog = room.installation.catalog
    [version] = [each for each in catalog.work.ready() if each.kind is Kind.GENERATION_JOB]
    claim = catalog.work.claim(version.kind, version.resource_id, version.number, "run")
    assert claim is not None
    catalog.work.fail(claim, StatusCode.PARENT_NOT_ACTIVE, "The audience model lookalikes-0123456789ab failed.")
    own = job.replace(room.parties.advertiser.account_id, room.parties.publisher.account_id)
    owners = room.publisher.get_audience_generation_job(audienceGenerationJobArn=own)["statusDetails"]
    guests = room.advertiser.get_audience_generation_job(audienceGenerationJobArn=job)["statusDetails"]
    assert owners["statusCode"] == guests["statusCode"] == "PARENT_NOT_ACTIVE"
    assert "0123456789ab" in owners["message"]
    assert guests["message"] == "The model is unusable. Its owner can see the reason."


def test_both_sides_see_the_position_in_the_queue(room: Room) -> None:
    model = room.shared()
    jobs = [room.job(model, f"job {number}") for number in range(2)]
    for number, theirs in enumerate(jobs, 1):
        place = {"message": f"Waiting, place {number} in the queue."}
        ours = room.parties.publisher.own(theirs)
        assert (
            room.advertiser.get_audience_generation_job(audienceGenerationJobArn=theirs)["statusDetails"] == place
        )
        assert room.publisher.get_audience_generation_job(audienceGenerationJobArn=ours)["statusDetails"] == place
    room.finish()
    room.advertiser.start_audience_export_job(**export_parameters(jobs[0], "first"))
    (export,) = room.advertiser.list_audience_export_jobs(audienceGenerationJobArn=jobs[0])["audienceExportJobs"]
    assert export["statusDetails"] == {"message": "Waiting, place 1 in the queue."}
    assert "statusDetails" not in room.advertiser.get_audience_generation_job(audienceGenerationJobArn=jobs[0])


def test_locations_are_visible_to_their_owner_only(room: Room) -> None:
    theirs = room.job(room.shared())
    room.finish()
    room.advertiser.start_audience_export_job(**export_parameters(theirs, "theirs"))
    ours = room.parties.publisher.own(theirs)
    room.publisher.start_audience_export_job(**export_parameters(ours, "ours"))
    room.finish()
    seen = room.publisher.list_audience_export_jobs(audienceGenerationJobArn=ours)["audienceExportJobs"]
    assert [(one["name"], one["outputLocation"].startswith(OUTPUT)) for one in seen] == [
        ("theirs", True),
        ("ours", True),
    ]
    assert {one["audienceGenerationJobArn"] for one in seen} == {ours}
    (told,) = room.advertiser.list_audience_export_jobs()["audienceExportJobs"]
    assert (told["name"], told["audienceGenerationJobArn"]) == ("theirs", theirs)
    assert "outputLocation" not in told


def test_neither_side_can_block_the_others_deletion(room: Room) -> None:
    configured = room.shared()
    one, two = room.job(configured, "one"), room.job(configured, "two")
    room.advertiser.delete_audience_generation_job(audienceGenerationJobArn=one)
    with raised(room.advertiser, "ResourceNotFoundException"):
        room.advertiser.get_audience_generation_job(audienceGenerationJobArn=one)
    ours = room.parties.publisher.own(one)
    assert room.publisher.get_audience_generation_job(audienceGenerationJobArn=ours)["status"] == "CREATE_PENDING"
    room.job(configured, "one")  # the name is free again
    room.publisher.delete_audience_generation_job(audienceGenerationJobArn=room.parties.publisher.own(two))
    told = room.advertiser.get_audience_generation_job(audienceGenerationJobArn=two)
    assert told["status"] == "DELETE_PENDING"


# tags


def test_which_tags_a_job_gets(room: Room) -> None:
    model, own = room.model(), {"team": "media", "cost": "7"}
    for policy, inherited in (("FROM_PARENT_RESOURCE", own), ("NONE", {})):
        configured = room.shared(policy, model=model, tags=own, childResourceTagOnCreatePolicy=policy)
        theirs = room.job(configured, policy, tags={"team": "growth"})
        ours = room.parties.publisher.own(theirs)
        mine = room.publisher.start_audience_generation_job(
            **job_parameters(room.parties.publisher, configured, f"my {policy}", tags={"team": "own"})
        )["audienceGenerationJobArn"]
        assert room.advertiser.list_tags_for_resource(resourceArn=theirs)["tags"] == {"team": "growth"}, policy
        assert room.publisher.list_tags_for_resource(resourceArn=ours)["tags"] == inherited, policy
        mine_has = room.publisher.list_tags_for_resource(resourceArn=mine)["tags"]
        assert mine_has == {**inherited, "team": "own"}, policy


def test_tags_are_added_replaced_and_removed_on_one_side_only(room: Room) -> None:
    theirs = room.job(room.shared(), tags={"a": "1"})
    ours = room.parties.publisher.own(theirs)
    room.advertiser.tag_resource(resourceArn=theirs, tags={"a": "2", "b c": "ünï"})
    room.publisher.tag_resource(resourceArn=ours, tags={"p": ""})
    assert room.advertiser.list_tags_for_resource(resourceArn=theirs)["tags"] == {"a": "2", "b c": "ünï"}
    room.advertiser.untag_resource(resourceArn=theirs, tagKeys=["b c", "never"])
    assert room.advertiser.list_tags_for_resource(resourceArn=theirs)["tags"] == {"a": "2"}
    assert room.publisher.get_audience_generation_job(audienceGenerationJobArn=ours)["tags"] == {"p": ""}


def test_there_are_fifty_tags_at_most(room: Room) -> None:
    arn = room.dataset(tags={f"k{n}": "" for n in range(49)})
    room.publisher.tag_resource(resourceArn=arn, tags={"k0": "again", "last": ""})
    with raised(room.publisher, "ValidationException"):
        room.publisher.tag_resource(resourceArn=arn, tags={"one more": ""})
    assert len(room.publisher.list_tags_for_resource(resourceArn=arn)["tags"]) == 50


# collaborations and templates


def test_a_collaboration_must_exist_and_include_both(room: Room) -> None:
    catalog, parties = room.installation.catalog, room.parties
    configured = room.shared()
    both = catalog.parties.create_collaboration(
        "both", [parties.publisher.account_id, parties.advertiser.account_id]
    )
    without_owner = catalog.parties.create_collaboration(
        "other", [parties.stranger.account_id, parties.advertiser.account_id]
    )
    without_caller = catalog.parties.create_collaboration(
        "third", [parties.stranger.account_id, parties.publisher.account_id]
    )
    made_up = "01234567-89ab-4cde-8f01-23456789abcd"
    messages = set()
    for collaboration in (made_up, without_owner.id, without_caller.id):
        with raised(room.advertiser, "AccessDeniedException") as told:
            room.job(configured, collaborationId=collaboration)
        messages.add(told["Error"]["Message"])
    assert len(messages) == 1, "what does not exist cannot be told from what one is no member of"
    job = room.job(configured, collaborationId=both.id)
    room.job(configured, "without")
    listed = room.advertiser.list_audience_generation_jobs(collaborationId=both.id)["audienceGenerationJobs"]
    assert [(one["audienceGenerationJobArn"], one["collaborationId"]) for one in listed] == [(job, both.id)]
    for who in (parties.publisher, parties.advertiser):
        catalog.parties.set_membership(both.id, who.account_id, False)
        with raised(room.advertiser, "AccessDeniedException"):
            room.job(configured, "late", collaborationId=both.id)
        catalog.parties.set_membership(both.id, who.account_id, True)


def test_a_policy_can_require_a_collaboration(room: Room) -> None:
    parties = room.parties
    collaboration = room.installation.catalog.parties.create_collaboration(
        "both", [parties.publisher.account_id, parties.advertiser.account_id]
    )
    configured = room.configured()
    condition = {"StringEquals": {"cleanrooms-ml:CollaborationId": collaboration.id}}
    room.publisher.put_configured_audience_model_policy(
        configuredAudienceModelArn=configured,
        configuredAudienceModelPolicy=policy_for(configured, parties.advertiser.account_id, Condition=condition),
    )
    with raised(room.advertiser, "AccessDeniedException"):
        room.job(configured)
    room.job(configured, collaborationId=collaboration.id)


def write_table(room: Room, party: Party, name: str, database: str = "shop") -> None:
    home = room.installation.home
    (home.accounts / party.account_id / "warehouse" / database / name).mkdir(parents=True)


REJECTED_QUERIES = {
    "SELECT date_ad(user_id, 1) FROM shop.customers": "`date_ad` is not available. Similar: date_add, dateadd",
    "SELECT user_id FROM customers": "Write database.table. Your databases: crm, shop.",
    "SELECT user_id FROM shop.customer": "Missing: shop.customer",
    "SELECT user_id FROM publishers.events": "Missing: publishers.events",
    "SELECT user_id FROM crm.customers": "Missing: crm.customers",
    "SELECT user_id FROM shop.`../x`": "invalid database or table name",
    "SELECT user_id, 1 FROM shop.customers": "returns 2 columns",
    "SELECT user_id FROM shop.customers WHERE visits > :least": "A query parameter has no value",
}


def test_a_query_is_checked_when_the_job_starts(room: Room) -> None:
    configured, parties = room.shared(), room.parties
    write_table(room, parties.advertiser, "people", "crm")
    write_table(room, parties.publisher, "events", "publishers")

    def is_rejected(query: str, message: str) -> None:
        seed = {"roleArn": parties.advertiser.role, "sqlParameters": {"queryString": query}}
        with raised(room.advertiser, "ValidationException") as answered:
            room.job(configured, seedAudience=seed)
        assert message in answered["Error"]["Message"]

    assert_each(is_rejected, REJECTED_QUERIES.items())
    sql = {"queryString": "SELECT `user_id` FROM shop.customers WHERE date_add(since, 1) > '2024-02-29'"}
    assert room.job(configured, seedAudience={"roleArn": parties.advertiser.role, "sqlParameters": sql})


def test_the_query_of_anothers_template_stays_its_owners(room: Room) -> None:
    parties, templates = room.parties, room.installation.catalog.parties
    both = templates.create_collaboration("both", [parties.publisher.account_id, parties.advertiser.account_id])
    write_table(room, parties.publisher, "events", "publishers")
    write_table(room, parties.publisher, "people", "crm")
    configured = room.shared()

    def is_kept(name: str, query: str) -> None:
        lent = templates.add_template(name, parties.publisher.account_id, query, both.id)
        sql = {"analysisTemplateArn": lent.arn}
        with raised(room.advertiser, "ValidationException") as answered:
            room.job(
                configured,
                seedAudience={"roleArn": parties.advertiser.role, "sqlParameters": sql},
                collaborationId=both.id,
            )
        assert not any(word in answered["Error"]["Message"] for word in ("date_ad", "lpad", "crm", "events"))

    queries = ["SELECT date_ad(x, 1) FROM a.b", "SELECT lpad(x, y) FROM a.b", "SELECT user_id FROM events"]
    assert_each(is_kept, [(f"t{number}", query) for number, query in enumerate(queries)])


def test_only_the_owner_or_a_member_uses_a_template(room: Room) -> None:
    catalog, parties = room.installation.catalog, room.parties
    both = catalog.parties.create_collaboration(
        "both", [parties.publisher.account_id, parties.advertiser.account_id]
    )
    own = catalog.parties.add_template("own", parties.advertiser.account_id, TEMPLATES_SQL)
    lent = catalog.parties.add_template("lent", parties.publisher.account_id, TEMPLATES_SQL, both.id)
    kept = catalog.parties.add_template("kept", parties.publisher.account_id, TEMPLATES_SQL)
    configured = room.shared()

    def start(arn: str, **more: Any) -> str:
        sql = {"analysisTemplateArn": arn, "parameters": {"least": "3"}}
        seed = {"roleArn": parties.advertiser.role, "sqlParameters": sql}
        return room.job(configured, seedAudience=seed, **more)

    for arn, more in (
        (kept.arn, {"collaborationId": both.id}),
        (lent.arn, {}),
        (f"{own.arn}0", {}),
    ):
        with raised(room.advertiser, "AccessDeniedException"):
            start(arn, **more)
    job = start(own.arn, name="own")
    start(lent.arn, name="lent", collaborationId=both.id)
    shown = room.advertiser.get_audience_generation_job(audienceGenerationJobArn=job)
    assert shown["seedAudience"]["sqlParameters"]["analysisTemplateArn"] == own.arn
    assert len(shown["protectedQueryIdentifier"]) == 36
    ours = room.publisher.get_audience_generation_job(audienceGenerationJobArn=parties.publisher.own(job))
    assert ours.keys().isdisjoint({"seedAudience", "protectedQueryIdentifier"})


def test_a_seed_has_exactly_one_source(room: Room) -> None:
    configured = room.shared()
    template = room.installation.catalog.parties.add_template(
        "t", room.parties.advertiser.account_id, TEMPLATES_SQL
    )

    def is_rejected(sources: dict[str, Any]) -> None:
        with raised(room.advertiser, "ValidationException") as told:
            room.job(configured, seedAudience={"roleArn": room.parties.advertiser.role, **sources})
        assert "seedAudience" in told["Error"]["Message"]

    assert_each(
        is_rejected,
        [
            {},
            {"dataSource": {"s3Uri": SEED}, "sqlParameters": {"queryString": "SELECT 1"}},
            {"sqlParameters": {}},
            {"sqlParameters": {"queryString": "SELECT 1", "analysisTemplateArn": template.arn}},
        ],
    )


# listings


def test_a_listing_of_jobs_and_exports_is_filtered(room: Room) -> None:
    one, two = room.shared("one"), room.shared("two")
    jobs = [room.job(one, "a"), room.job(one, "b"), room.job(two, "c")]
    room.finish()
    for job in jobs:
        room.advertiser.start_audience_export_job(**export_parameters(job))
    for client, own in (
        (room.advertiser, room.parties.advertiser.own),
        (room.publisher, room.parties.publisher.own),
    ):
        listed = client.list_audience_generation_jobs(configuredAudienceModelArn=one)["audienceGenerationJobs"]
        assert [each["audienceGenerationJobArn"] for each in listed] == [own(job) for job in jobs[:2]]
        exports = client.list_audience_export_jobs(audienceGenerationJobArn=own(jobs[2]))["audienceExportJobs"]
        assert [each["audienceGenerationJobArn"] for each in exports] == [own(jobs[2])]
    stranger = room.client(room.parties.stranger)
    assert stranger.list_audience_generation_jobs(configuredAudienceModelArn=one)["audienceGenerationJobs"] == []
    misspelt = room.parties.stranger.own(one)
    listed = room.advertiser.list_audience_generation_jobs(configuredAudienceModelArn=misspelt)
    assert listed["audienceGenerationJobs"] == [], "an ARN of nobody's has no jobs"


# the same resources everywhere


@pytest.fixture
def real_room(tmp_path: Path) -> Iterator[tuple[Room, dg.DagsterInstance]]:
    """A room whose work is executed by the assets that a worker runs."""
    room = Room.open(tmp_path / "home")
    with worlds.installed(tmp_path / "home"), worlds.dagster_at(tmp_path / "dagster", one_file=True) as instance:
        yield room, instance


def test_resources_from_boto3_appear_in_dagster_with_lineage(
    real_room: tuple[Room, dg.DagsterInstance],
) -> None:
    room, instance = real_room
    publisher, me = room.publisher, room.parties.publisher
    dataset = room.dataset()
    model = publisher.create_audience_model(name="model", trainingDatasetArn=dataset)["audienceModelArn"]
    run_pending(room.installation, instance)
    assert publisher.get_audience_model(audienceModelArn=model)["status"] == "ACTIVE"
    configured = publisher.create_configured_audience_model(**configured_parameters(me, model))
    arn = configured["configuredAudienceModelArn"]
    publisher.put_configured_audience_model_policy(
        configuredAudienceModelArn=arn,
        configuredAudienceModelPolicy=policy_for(arn, room.parties.advertiser.account_id),
    )
    job = room.job(arn)
    run_pending(room.installation, instance)
    seen = room.advertiser.get_audience_generation_job(audienceGenerationJobArn=job)
    assert seen["status"] == "ACTIVE", seen
    room.advertiser.start_audience_export_job(**export_parameters(job))
    run_pending(room.installation, instance)
    (export,) = publisher.list_audience_export_jobs()["audienceExportJobs"]
    assert export["status"] == "ACTIVE", export
    made = {
        "training_dataset": key_of(dataset),
        "audience_model": key_of(model),
        "configured_audience_model": key_of(arn),
        "audience": key_of(job),
    }
    parent = None
    for asset, partition in made.items():
        assert asset in ASSETS_OF[worlds.kind_of(asset)]
        (materialization,) = worlds.materializations(instance, asset, partition)
        text = json.dumps({name: str(value.value) for name, value in materialization.metadata.items()})
        assert parent is None or parent in text, f"{asset} names what it was made from"
        assert partition in instance.get_dynamic_partitions(KINDS[worlds.kind_of(asset)].partition_set)
        assert worlds.user(3) not in text
        parent = partition


def test_resources_from_apply_are_listed_for_the_operators_account(tmp_path: Path) -> None:
    with worlds.installed(tmp_path / "home") as installation:
        world = worlds.write_world(tmp_path / "world")
        worlds.apply(installation, world.declaration)
        operator = add_party(installation, "operator", "000000000000")
        client = client_of(make_gateway(installation, is_strict=True), operator, region="us-east-1")
        for method, member, name in (
            ("list_training_datasets", "trainingDatasets", worlds.DATASET),
            ("list_audience_models", "audienceModels", worlds.MODEL),
            ("list_configured_audience_models", "configuredAudienceModels", worlds.CONFIGURED),
            ("list_audience_generation_jobs", "audienceGenerationJobs", worlds.JOB),
        ):
            (one,) = getattr(client, method)()[member]
            assert one["name"] == name
            kind = method.removeprefix("list_").removesuffix("s")
            arn = next(arn for member, arn in one.items() if member.lower() == f"{kind.replace('_', '')}arn")
            shown = getattr(client, f"get_{kind}")(**{next(m for m in one if one[m] == arn): arn})
            assert shown["name"] == name
