"""An audience from creation to deletion, with an unmodified boto3 against a real `cleanroom serve` and its worker.

Contract: two accounts register, train, configure, share, start, watch, export and delete over HTTP alone; neither
sees what it may not know; every documented error has its boto3 class; paginators end; the audit log is intact and
contains every change and every rejection.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import botocore.exceptions
import pytest
from botocore.model import OperationModel

from cleanroom_pipelines.runs.installation import Installation
from cleanroom_pipelines_tests.aws.requests import raised
from cleanroom_pipelines_tests.server.server import (
    OUTPUT,
    Parties,
    Server,
    client,
    configured_parameters,
    dataset_parameters,
    download,
    export_parameters,
    installation_at,
    job_parameters,
    keys_of,
    policy_for,
    serving,
    settle,
    upload,
    wait_until_ended,
    wait_until_gone,
)

from .. import worlds

SEED_USERS = [worlds.user(number) for number in range(worlds.N_SEED)]
GROUP = {worlds.user(number) for number in range(worlds.N_GROUP)}

Answer = tuple[OperationModel, dict[str, Any]]


@dataclass
class Journey:
    """A running server, its two parties, a client for each, and all responses that they got."""

    server: Server
    installation: Installation
    parties: Parties
    publisher: Any
    advertiser: Any
    stranger: Any
    answers: list[Answer]


@pytest.fixture(scope="module")
def journey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Journey]:
    home = tmp_path_factory.mktemp("journey") / "home"
    installation = installation_at(home)
    parties = settle(installation)
    answers: list[Answer] = []

    def keep(parsed: dict[str, Any], model: OperationModel, **_: Any) -> None:
        answers.append((model, parsed))

    with serving(home) as server:
        everyone = (parties.publisher, parties.advertiser, parties.stranger)
        clients = [server.client(party) for party in everyone]
        for one in clients:
            one.meta.events.register("after-call.*.*", keep)
        yield Journey(server, installation, parties, *clients, answers)


@dataclass
class AssetResult:
    """The resources that the publisher has created."""

    dataset: str
    model: str
    configured: str


@pytest.fixture(scope="module")
def made(journey: Journey) -> AssetResult:
    """A trained and shared model of the publisher."""
    publisher, me = journey.publisher, journey.parties.publisher
    dataset = publisher.create_training_dataset(**dataset_parameters(me))["trainingDatasetArn"]
    model = publisher.create_audience_model(name="model", trainingDatasetArn=dataset)["audienceModelArn"]
    trained = wait_until_ended(lambda: publisher.get_audience_model(audienceModelArn=model))
    assert trained["status"] == "ACTIVE", trained
    configured = publisher.create_configured_audience_model(**configured_parameters(me, model))
    arn = configured["configuredAudienceModelArn"]
    publisher.put_configured_audience_model_policy(
        configuredAudienceModelArn=arn,
        configuredAudienceModelPolicy=policy_for(arn, journey.parties.advertiser.account_id),
    )
    return AssetResult(dataset, model, arn)


def test_from_an_uploaded_seed_to_a_downloaded_audience_and_deletion(journey: Journey, made: AssetResult) -> None:
    publisher, advertiser, parties = journey.publisher, journey.advertiser, journey.parties
    seed = "".join(json.dumps({"user_id": user}) + "\n" for user in SEED_USERS).encode()
    assert upload(journey.server.url, parties.advertiser, "campaign-seeds/spring.jsonl", seed).status == 200
    asked = job_parameters(parties.advertiser, made.configured, "spring", tags={"season": "spring"})
    asked["seedAudience"]["dataSource"]["s3Uri"] = "s3://campaign-seeds/spring.jsonl"
    theirs = advertiser.start_audience_generation_job(**asked)["audienceGenerationJobArn"]
    ours = parties.publisher.own(theirs)
    assert theirs.split(":")[4] == parties.advertiser.account_id

    ended = wait_until_ended(lambda: advertiser.get_audience_generation_job(audienceGenerationJobArn=theirs))
    assert ended["status"] == "ACTIVE", ended
    assert ended["seedAudience"] == asked["seedAudience"]
    assert ended["tags"] == {"season": "spring"}
    sizes = [each["audienceSize"] for each in ended["metrics"]["relevanceMetrics"]]
    assert sizes == [{"type": "PERCENTAGE", "value": value} for value in (5, 10, 20)]
    assert ended["metrics"]["recallMetric"] > 0.3, "the seed's likes stand out"

    seen = publisher.get_audience_generation_job(audienceGenerationJobArn=ours)
    assert (seen["name"], seen["startedBy"]) == (f"{parties.advertiser.account_id}-spring", ended["startedBy"])
    assert "seedAudience" not in seen
    assert "campaign-seeds" not in json.dumps(seen, default=str)
    with raised(publisher, "ResourceNotFoundException"):
        publisher.get_audience_generation_job(audienceGenerationJobArn=theirs)
    with raised(advertiser, "ResourceNotFoundException"):
        advertiser.get_audience_generation_job(audienceGenerationJobArn=ours)

    assert set(advertiser.start_audience_export_job(**export_parameters(theirs))) == {"ResponseMetadata"}
    exported = wait_until_ended(
        lambda: publisher.list_audience_export_jobs(audienceGenerationJobArn=ours)["audienceExportJobs"][0]
    )
    assert exported["status"] == "ACTIVE", exported
    assert exported["outputLocation"].startswith(f"{OUTPUT}/")
    (told,) = advertiser.list_audience_export_jobs(audienceGenerationJobArn=theirs)["audienceExportJobs"]
    assert (told["name"], told["status"], "outputLocation" in told) == ("best", "ACTIVE", False)

    folder = exported["outputLocation"].removeprefix("s3://").rstrip("/")
    bucket, _, prefix = folder.partition("/")
    keys = keys_of(journey.server.url, parties.publisher, bucket, prefix)
    users = [
        json.loads(line)["user_id"]
        for key in sorted(keys)
        if key.endswith(".jsonl")
        for line in download(journey.server.url, parties.publisher, f"{bucket}/{key}").body.splitlines()
    ]
    (manifest_key,) = (key for key in keys if key.endswith("manifest.json"))
    manifest = download(journey.server.url, parties.publisher, f"{bucket}/{manifest_key}")
    assert str(len(users)).encode() in manifest.body
    assert len(users) == len(set(users)) == round(0.2 * worlds.N_USERS)
    assert not set(users) & set(SEED_USERS), "the seed is left out"
    assert len(GROUP & set(users)) > 25, "those who are like the seed come first"
    others = download(journey.server.url, parties.advertiser, f"{bucket}/{manifest_key}")
    assert others.status in (403, 404), "what the publisher was given is not the advertiser's"

    with raised(publisher, "ConflictException"):
        publisher.delete_configured_audience_model(configuredAudienceModelArn=made.configured)
    publisher.delete_audience_generation_job(audienceGenerationJobArn=ours)
    missing = advertiser.exceptions.ResourceNotFoundException
    wait_until_gone(lambda: advertiser.get_audience_generation_job(audienceGenerationJobArn=theirs), missing)
    assert publisher.list_audience_export_jobs()["audienceExportJobs"] == []


def test_a_model_is_deleted_before_its_dataset(journey: Journey, made: AssetResult) -> None:
    publisher = journey.publisher
    passing = dataset_parameters(journey.parties.publisher, "passing")
    dataset = publisher.create_training_dataset(**passing)["trainingDatasetArn"]
    model = publisher.create_audience_model(name="short", trainingDatasetArn=dataset)["audienceModelArn"]
    with raised(publisher, "ConflictException"):
        publisher.create_configured_audience_model(
            **configured_parameters(journey.parties.publisher, model, "early")
        )
    with raised(publisher, "ConflictException"):
        publisher.delete_training_dataset(trainingDatasetArn=dataset)
    publisher.delete_audience_model(audienceModelArn=model)
    missing = publisher.exceptions.ResourceNotFoundException
    wait_until_gone(lambda: publisher.get_audience_model(audienceModelArn=model), missing)
    publisher.delete_training_dataset(trainingDatasetArn=dataset)
    with raised(publisher, "ResourceNotFoundException"):
        publisher.get_training_dataset(trainingDatasetArn=dataset)


def test_a_seed_by_sql(journey: Journey, made: AssetResult) -> None:
    advertiser, me = journey.advertiser, journey.parties.advertiser
    sql = {"queryString": "SELECT user_id FROM shop.customers WHERE visits >= 5"}
    asked = job_parameters(me, made.configured, "by-sql", seedAudience={"roleArn": me.role, "sqlParameters": sql})
    job = advertiser.start_audience_generation_job(**asked)["audienceGenerationJobArn"]
    ended = wait_until_ended(lambda: advertiser.get_audience_generation_job(audienceGenerationJobArn=job))
    assert ended["status"] == "ACTIVE", ended
    assert ended["seedAudience"]["sqlParameters"] == sql
    assert len(ended["protectedQueryIdentifier"]) == 36
    advertiser.delete_audience_generation_job(audienceGenerationJobArn=job)


def test_a_missing_seed_fails_its_job_with_a_reason(journey: Journey, made: AssetResult) -> None:
    advertiser = journey.advertiser
    asked = job_parameters(journey.parties.advertiser, made.configured, "nowhere")
    asked["seedAudience"]["dataSource"]["s3Uri"] = "s3://advertiser-seeds/nowhere.jsonl"
    job = advertiser.start_audience_generation_job(**asked)["audienceGenerationJobArn"]
    ended = wait_until_ended(lambda: advertiser.get_audience_generation_job(audienceGenerationJobArn=job))
    assert (ended["status"], ended["statusDetails"]["statusCode"]) == ("CREATE_FAILED", "SEED_NOT_FOUND")
    ours = journey.parties.publisher.own(job)
    seen = journey.publisher.get_audience_generation_job(audienceGenerationJobArn=ours)
    assert "nowhere.jsonl" not in json.dumps(seen, default=str)


def test_paginators_return_everything_once_and_end(journey: Journey, made: AssetResult) -> None:
    advertiser, publisher = journey.advertiser, journey.publisher
    names = [f"table-{number}" for number in range(5)]
    for name in names:
        advertiser.create_training_dataset(**dataset_parameters(journey.parties.advertiser, name))
    pages = advertiser.get_paginator("list_training_datasets").paginate(PaginationConfig={"PageSize": 2})
    assert [one["name"] for page in pages for one in page["trainingDatasets"]] == names
    for operation, member in (
        ("list_audience_models", "audienceModels"),
        ("list_configured_audience_models", "configuredAudienceModels"),
        ("list_audience_generation_jobs", "audienceGenerationJobs"),
        ("list_audience_export_jobs", "audienceExportJobs"),
    ):
        found = publisher.get_paginator(operation).paginate(PaginationConfig={"PageSize": 1}).build_full_result()
        assert found.get(member, []) == getattr(publisher, operation)()[member]


def test_every_documented_error_has_a_boto3_class(journey: Journey, made: AssetResult) -> None:
    publisher, advertiser, me = journey.publisher, journey.advertiser, journey.parties.publisher
    with raised(publisher, "ValidationException") as told:
        publisher.create_audience_model(name="x" * 64, trainingDatasetArn=made.dataset)
    assert "'name'" in told["Error"]["Message"]
    with raised(publisher, "ConflictException"):
        publisher.create_training_dataset(**dataset_parameters(me))
    with raised(publisher, "ResourceNotFoundException"):
        publisher.get_audience_model(audienceModelArn=f"{made.model}0")
    with raised(advertiser, "AccessDeniedException"):
        advertiser.create_training_dataset(**dataset_parameters(me))
    with raised(journey.stranger, "ResourceNotFoundException"):
        journey.stranger.start_audience_generation_job(**job_parameters(journey.parties.stranger, made.configured))
    wrong_secret = type(me)(me.account_id, me.key_id, "0" * 40)
    with raised(publisher, "AccessDeniedException"):
        journey.server.client(wrong_secret).list_audience_models()


def test_clients_see_quota_and_throttling_errors(tmp_path: Path) -> None:
    home = tmp_path / "home"
    parties = settle(installation_at(home))
    environment = {"CLEANROOM_MAX_RESOURCES": "1", "CLEANROOM_REQUESTS_PER_SECOND": "2"}
    with serving(home, "--no-worker", environment=environment) as server:
        # with its usual retries a client gets through
        patient = server.client(parties.publisher, retries={"mode": "standard", "total_max_attempts": 10})
        dataset = patient.create_training_dataset(**dataset_parameters(parties.publisher))["trainingDatasetArn"]
        patient.create_audience_model(name="one", trainingDatasetArn=dataset)
        with raised(patient, "ServiceQuotaExceededException") as told:
            patient.create_audience_model(name="two", trainingDatasetArn=dataset)
        assert (told["quotaName"], told["quotaValue"]) == ("audience models per account", 1.0)
        assert told["Error"]["Message"]
        hasty = server.client(parties.advertiser)
        with raised(hasty, "ThrottlingException") as throttled:
            for _ in range(500):
                hasty.list_audience_models()
        assert throttled["ResponseMetadata"]["HTTPStatusCode"] == 429


def test_the_environment_variable_alone_selects_the_endpoint(
    journey: Journey, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_CLEANROOMSML", journey.server.url)
    led = client(None, journey.parties.publisher)
    assert led.meta.endpoint_url == journey.server.url
    names = [one["name"] for one in led.list_training_datasets()["trainingDatasets"]]
    assert names == [one["name"] for one in journey.publisher.list_training_datasets()["trainingDatasets"]]


def test_unsigned_requests_are_rejected(journey: Journey) -> None:
    unsigned = journey.server.client(journey.parties.publisher, signature_version=botocore.UNSIGNED)
    with raised(unsigned, "AccessDeniedException"):
        unsigned.list_audience_models()


def test_the_audit_log_has_every_change_and_every_rejection(journey: Journey, made: AssetResult) -> None:
    publisher, me = journey.publisher, journey.parties.publisher
    publisher.create_training_dataset(**dataset_parameters(me, "audited"))
    publisher.tag_resource(resourceArn=made.model, tags={"audited": "yes"})
    for rejected in (
        lambda: publisher.create_training_dataset(**dataset_parameters(me, "audited")),
        lambda: publisher.get_audience_model(audienceModelArn=f"{made.model}0"),
        lambda: journey.advertiser.delete_audience_model(audienceModelArn=made.model),
    ):
        with pytest.raises(botocore.exceptions.ClientError):
            rejected()
    log = journey.installation.audit
    entries = {entry["request_id"]: entry for entry in log.entries() if "request_id" in entry}
    # of the whole journey, where the other tests went before
    for operation, answer in journey.answers:
        if "Error" not in answer and operation.http["method"] == "GET":
            continue  # looks are written down a moment later
        entry = entries[answer["ResponseMetadata"]["RequestId"]]
        name, _, _ = entry.get("error", "").partition(":")  # what the client was told, then why
        assert (entry["operation"], name) == (operation.name, answer.get("Error", {}).get("Code", ""))
        assert entry["outcome"] == ("refused" if name else "ok")
        assert entry["account"] in {party.account_id for party in vars(journey.parties).values()}
    assert len(journey.answers) >= 5
    assert log.verify().ok
    lines = [json.dumps(entry) for entry in log.entries()]
    assert not any(user in line for line in lines for user in SEED_USERS)
