"""The lookalike (AWS) API from a client's point of view.

Contract: for every constraint of every operation in botocore's model, a manually signed raw request that violates
it gets 400 and a ValidationException with the member's name and never the value, and changes nothing; each
response matches its output shape, also for a real client; names, quotas, throttling, request ids and paging follow
the contract; additional members of newer clients are ignored, and the members of older clients suffice.
"""

import http.client
import json
import sqlite3
import threading
import uuid
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import botocore
import pytest
from botocore.validate import ParamValidator

from cleanroom_pipelines.aws.handlers import OPERATIONS
from cleanroom_pipelines.catalog import Kind
from cleanroom_pipelines.errors import StatusCode
from cleanroom_pipelines.runs.installation import Installation
from cleanroom_pipelines.server.starting import make_gateway
from cleanroom_pipelines_tests.server.server import (
    SEED,
    Party,
    Room,
    Server,
    add_party,
    configured_parameters,
    dataset_parameters,
    export_parameters,
    installation_at,
    job_parameters,
    policy_for,
    signed,
)

from ..cases import assert_each
from .examples import ACCOUNT, MARK, Broken, broken, right
from .requests import RawAnswer, RawRequest, build, operation_model, raised

LISTS = {
    "list_training_datasets": "trainingDatasets",
    "list_audience_models": "audienceModels",
    "list_configured_audience_models": "configuredAudienceModels",
    "list_audience_generation_jobs": "audienceGenerationJobs",
    "list_audience_export_jobs": "audienceExportJobs",
}


# constraints, over the wire


class KeptConnection:
    """One connection to a server, used for all requests of a party."""

    def __init__(self, url: str, party: Party) -> None:
        self.url, self.party = url, party
        parts = urlsplit(url)
        self._connection = http.client.HTTPConnection(str(parts.hostname), parts.port, timeout=120)

    def call(self, request: RawRequest) -> RawAnswer:
        """Sign a request and send it unchanged."""
        ours = signed(request, self.party, self.url)
        self._connection.putrequest(ours.method, ours.target, skip_host=True, skip_accept_encoding=True)
        for name, value in ours.headers:
            self._connection.putheader(name, value)
        if ours.body:
            self._connection.putheader("Content-Length", str(len(ours.body)))
        self._connection.endheaders(ours.body or None)
        answer = self._connection.getresponse()
        return RawAnswer(
            answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()
        )

    def close(self) -> None:
        self._connection.close()


@pytest.fixture(scope="module")
def connection(shared_server: Server) -> Iterator[KeptConnection]:
    party = add_party(installation_at(shared_server.home), "everyman", ACCOUNT)
    kept = KeptConnection(shared_server.url, party)
    yield kept
    kept.close()


def everything(home: Path) -> list[str]:
    """Return the whole content of the catalogue."""
    with sqlite3.connect(f"file:{home / 'catalog.db'}?mode=ro", uri=True) as database:
        return list(database.iterdump())


def wrong_with(answer: RawAnswer, case: Broken) -> str | None:
    """Return the faults of the response to a request that violates a constraint."""
    if (answer.status, answer.error) != (400, "ValidationException"):
        return f"{answer.status} {answer.error}"
    message = answer.json["message"]
    if f"Value at '{case.place}' failed to satisfy constraint: M" not in message:
        return f"does not name the member: {message}"
    if MARK in message:
        return "quotes the value"
    if answer.json.keys() != {"message"} or not uuid.UUID(answer.headers["x-amzn-requestid"]):
        return "is not of the error's shape"
    return None


def test_every_violated_constraint_is_rejected_and_named(
    shared_server: Server, connection: KeptConnection
) -> None:
    def is_so(name: str) -> None:
        before = everything(shared_server.home)
        cases = list(broken(name))
        wrong = {str(case): wrong_with(connection.call(build(name, case.parameters)), case) for case in cases}
        assert len(cases) >= 3
        assert {case: problem for case, problem in wrong.items() if problem} == {}
        assert everything(shared_server.home) == before

    assert_each(is_so, OPERATIONS)


def test_with_every_constraint_kept_no_constraint_is_named(connection: KeptConnection) -> None:
    def is_so(name: str) -> None:
        answer = connection.call(build(name, right(name)))
        assert answer.status != 500
        assert b"failed to satisfy constraint" not in answer.body

    assert_each(is_so, OPERATIONS)


# every operation's answer


class Watched:
    """A client whose responses are all checked by botocore's own validator."""

    def __init__(self, client: Any) -> None:
        self.client = client
        self.called: set[str] = set()

    def __call__(self, operation: str, **parameters: Any) -> dict[str, Any]:
        answer: dict[str, Any] = getattr(self.client, botocore.xform_name(operation))(**parameters)
        metadata = answer.pop("ResponseMetadata")
        assert metadata["HTTPStatusCode"] == 200
        assert uuid.UUID(metadata["RequestId"])
        shape = operation_model(operation).output_shape
        if shape is None or not shape.members:
            assert answer == {}
        else:
            for metric in answer.get("metrics", {}).get("relevanceMetrics", []):
                # the guide's range is -1 to 1, the model's 0 to 10; ours is the guide's
                assert -1 <= metric.get("score", 0) <= 1
            problems = ParamValidator().validate(answer, shape).generate_report()
            assert all(".score, value: -" in line for line in problems.splitlines()), problems
        self.called.add(operation)
        return answer


@pytest.fixture
def room(tmp_path: Path) -> Room:
    return Room.open(tmp_path / "home")


def test_every_response_matches_its_output_shape(room: Room) -> None:
    publisher, me = Watched(room.publisher), room.parties.publisher
    table = dataset_parameters(me, tags={"a": "1"}, description="All baskets.")
    dataset = publisher("CreateTrainingDataset", **table)["trainingDatasetArn"]
    assert publisher("GetTrainingDataset", trainingDatasetArn=dataset)["status"] == "ACTIVE"
    assert len(publisher("ListTrainingDatasets")["trainingDatasets"]) == 1
    model = publisher("CreateAudienceModel", name="m", trainingDatasetArn=dataset, tags={"a": "1"})[
        "audienceModelArn"
    ]
    assert publisher("GetAudienceModel", audienceModelArn=model)["status"] == "CREATE_PENDING"
    room.finish()
    assert publisher("GetAudienceModel", audienceModelArn=model)["status"] == "ACTIVE"
    assert len(publisher("ListAudienceModels")["audienceModels"]) == 1
    configured = publisher("CreateConfiguredAudienceModel", **configured_parameters(me, model))[
        "configuredAudienceModelArn"
    ]
    named = {"configuredAudienceModelArn": configured}
    assert publisher("GetConfiguredAudienceModel", **named)["minMatchingSeedSize"] == 25
    assert publisher("UpdateConfiguredAudienceModel", **named, minMatchingSeedSize=30) == named
    assert len(publisher("ListConfiguredAudienceModels")["configuredAudienceModels"]) == 1
    policy = policy_for(configured, room.parties.advertiser.account_id)
    put = publisher("PutConfiguredAudienceModelPolicy", **named, configuredAudienceModelPolicy=policy)
    assert publisher("GetConfiguredAudienceModelPolicy", **named) == {**put, **named}
    job = publisher("StartAudienceGenerationJob", **job_parameters(me, configured))["audienceGenerationJobArn"]
    assert publisher("GetAudienceGenerationJob", audienceGenerationJobArn=job)["status"] == "CREATE_PENDING"
    room.finish()
    ended = publisher("GetAudienceGenerationJob", audienceGenerationJobArn=job)
    assert [one.get("score") for one in ended["metrics"]["relevanceMetrics"]] == [0.5, -0.25, None]
    assert len(publisher("ListAudienceGenerationJobs")["audienceGenerationJobs"]) == 1
    assert publisher("StartAudienceExportJob", **export_parameters(job)) == {}
    assert "outputLocation" not in publisher("ListAudienceExportJobs")["audienceExportJobs"][0]
    room.finish()
    assert publisher("ListAudienceExportJobs")["audienceExportJobs"][0]["outputLocation"].startswith("s3://")
    publisher("TagResource", resourceArn=job, tags={"b": "2"})
    assert publisher("ListTagsForResource", resourceArn=job) == {"tags": {"b": "2"}}
    publisher("UntagResource", resourceArn=job, tagKeys=["b"])
    publisher("DeleteConfiguredAudienceModelPolicy", **named)
    publisher("DeleteAudienceGenerationJob", audienceGenerationJobArn=job)
    assert publisher("GetAudienceGenerationJob", audienceGenerationJobArn=job)["status"] == "DELETE_PENDING"
    finish_deletion(room, Kind.GENERATION_JOB, job)
    publisher("DeleteConfiguredAudienceModel", **named)
    publisher("DeleteAudienceModel", audienceModelArn=model)
    finish_deletion(room, Kind.AUDIENCE_MODEL, model)
    publisher("DeleteTrainingDataset", trainingDatasetArn=dataset)
    assert publisher.called == set(OPERATIONS)
    for method, member in LISTS.items():
        assert getattr(room.publisher, method)()[member] == []


def finish_deletion(room: Room, kind: Kind, arn: str) -> None:
    catalog, key = room.installation.catalog, arn.rpartition("/")[2]
    catalog.deletion.begin_delete(kind, key)
    catalog.deletion.finish_delete(kind, key)


def test_a_failed_model_says_why(room: Room) -> None:
    arn = room.publisher.create_audience_model(name="m", trainingDatasetArn=room.dataset())["audienceModelArn"]
    catalog = room.installation.catalog
    while ready := catalog.work.ready():
        version = ready[0]
        claim = catalog.work.claim(version.kind, version.resource_id, version.number, "run")
        assert claim is not None
        if version.kind is Kind.AUDIENCE_MODEL:
            catalog.work.fail(claim, StatusCode.TRAINING_DATA_TOO_SMALL, "The table has too few users.")
        else:
            catalog.work.finish(claim, {"sentence": "Made."})
    seen = Watched(room.publisher)("GetAudienceModel", audienceModelArn=arn)
    assert seen["status"] == "CREATE_FAILED"
    assert seen["statusDetails"] == {
        "statusCode": "TRAINING_DATA_TOO_SMALL",
        "message": "The table has too few users.",
    }


# names, quotas, throttling


def test_a_name_is_taken_once_per_kind_and_account(room: Room) -> None:
    room.configured("same")
    me = room.parties.publisher
    model = room.publisher.list_audience_models()["audienceModels"][0]["audienceModelArn"]
    dataset = room.publisher.list_training_datasets()["trainingDatasets"][0]["trainingDatasetArn"]
    for method, parameters in {
        "create_training_dataset": dataset_parameters(me, "same"),
        "create_audience_model": {"name": "same", "trainingDatasetArn": dataset},
        "create_configured_audience_model": configured_parameters(me, model, "same"),
    }.items():
        with raised(room.publisher, "ConflictException") as told:
            getattr(room.publisher, method)(**parameters)
        assert told["ResponseMetadata"]["HTTPStatusCode"] == 409
    assert len(room.publisher.list_training_datasets()["trainingDatasets"]) == 1
    other = room.parties.advertiser
    room.advertiser.create_training_dataset(**dataset_parameters(other, "same"))
    elsewhere = room.client(me, "us-west-2")
    elsewhere.create_training_dataset(**dataset_parameters(me, "same"))


def test_names_of_jobs_and_exports(room: Room) -> None:
    configured = room.shared()
    job = room.job(configured)
    with raised(room.advertiser, "ConflictException"):
        room.job(configured)
    room.finish()
    room.advertiser.start_audience_export_job(**export_parameters(job))
    with raised(room.advertiser, "ConflictException"):
        room.advertiser.start_audience_export_job(**export_parameters(job))
    other_job = room.job(configured, "other")
    room.finish()
    room.advertiser.start_audience_export_job(**export_parameters(other_job))
    assert len(room.advertiser.list_audience_export_jobs()["audienceExportJobs"]) == 2


def test_only_one_of_concurrent_creations_gets_the_name(room: Room) -> None:
    parameters = dataset_parameters(room.parties.publisher)
    request = build("CreateTrainingDataset", parameters)
    answers: list[RawAnswer] = []
    threads = [
        threading.Thread(target=lambda: answers.append(room.ask(room.parties.publisher, request)))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(answer.status for answer in answers) == [200] + [409] * 7


def test_the_quota_of_resources(tmp_path: Path) -> None:
    room = Room.open(tmp_path / "home", CLEANROOM_MAX_RESOURCES="2")
    me = room.parties.publisher
    dataset = room.dataset("one")
    for name in ("m1", "m2"):
        model = room.model(name, dataset)
        room.configured(name, model)
    create_model = {"name": "m3", "trainingDatasetArn": dataset}
    for method, parameters in {
        "create_audience_model": create_model,
        "create_configured_audience_model": configured_parameters(me, model, "m3"),
    }.items():
        with raised(room.publisher, "ServiceQuotaExceededException") as told:
            getattr(room.publisher, method)(**parameters)
        assert told["ResponseMetadata"]["HTTPStatusCode"] == 402
        assert told["quotaValue"] == 2.0
        assert told["quotaName"].endswith("models per account")
    configured = room.publisher.list_configured_audience_models()["configuredAudienceModels"][0][
        "configuredAudienceModelArn"
    ]
    jobs = [job_parameters(me, configured, name) for name in ("j1", "j2", "j3")]
    job = room.publisher.start_audience_generation_job(**jobs[0])["audienceGenerationJobArn"]
    room.publisher.start_audience_generation_job(**jobs[1])
    with raised(room.publisher, "ServiceQuotaExceededException") as told:
        room.publisher.start_audience_generation_job(**jobs[2])
    assert told["quotaName"] == "generation jobs per account"
    room.finish()
    for name in ("e1", "e2"):
        room.publisher.start_audience_export_job(**export_parameters(job, name))
    with raised(room.publisher, "ServiceQuotaExceededException") as told:
        room.publisher.start_audience_export_job(**export_parameters(job, "e3"))
    assert told["quotaName"] == "export jobs per account"
    # it is the account's, not the installation's
    room.advertiser.create_training_dataset(**dataset_parameters(room.parties.advertiser))


def test_the_quota_of_unfinished_jobs(tmp_path: Path) -> None:
    room = Room.open(tmp_path / "home", CLEANROOM_MAX_UNFINISHED_JOBS="2")
    configured = room.shared()
    room.job(configured, "one")
    room.job(configured, "two")
    with raised(room.advertiser, "ServiceQuotaExceededException") as told:
        room.job(configured, "three")
    assert (told["quotaName"], told["quotaValue"]) == ("unfinished audience generation jobs per account", 2.0)
    # whose model it is does not count, who asked does
    mine = job_parameters(room.parties.publisher, configured, "mine")
    room.publisher.start_audience_generation_job(**mine)
    room.finish()
    room.job(configured, "three")


def test_too_many_requests_are_throttled(tmp_path: Path) -> None:
    room = Room.open(tmp_path / "home", CLEANROOM_REQUESTS_PER_SECOND="1")
    room = replace(room, gateway=make_gateway(room.installation, is_strict=True, seconds=lambda: 0.0))
    before = everything(room.installation.home.root)
    request = build("CreateTrainingDataset", dataset_parameters(room.parties.publisher) | {"name": MARK * 100})
    answers = [room.ask(room.parties.publisher, request) for _ in range(5)]
    assert [answer.status for answer in answers] == [400] * 2 + [429] * 3, "two seconds' worth may come at once"
    assert {answer.error for answer in answers[2:]} == {"ThrottlingException"}
    assert room.ask(room.parties.advertiser, build("ListAudienceModels", {})).status == 200
    assert everything(room.installation.home.root) == before


# requests


def requests_in(installation: Installation) -> list[dict[str, Any]]:
    """Return the audit entries of requests."""
    return [entry for entry in installation.audit.entries() if entry["way"] == "api"]


def test_each_request_has_an_id_that_is_audited(room: Room) -> None:
    me = room.parties.publisher
    answers = [
        room.ask(me, build("ListAudienceModels", {})),
        room.ask(me, build("GetAudienceModel", {"audienceModelArn": MARK * 30})),
        room.ask(me, RawRequest("GET", "/nowhere")),
    ]
    ids = [answer.headers["x-amzn-requestid"] for answer in answers]
    assert len({uuid.UUID(each) for each in ids}) == 3
    room.installation.audit.close()
    assert [entry["request_id"] for entry in requests_in(room.installation)] == ids


def test_unknown_members_are_ignored_and_counted(room: Room) -> None:
    parameters = dataset_parameters(room.parties.publisher)
    body = json.dumps({**parameters, "colour": "blue", "trainingMode": {"deep": True}}).encode()
    request = RawRequest("POST", "/training-dataset", "shade=dark", (("Content-Type", "application/json"),), body)
    assert room.ask(room.parties.publisher, request).status == 200
    room.installation.audit.close()
    assert [entry["n_unknown_members"] for entry in requests_in(room.installation)] == [3]


def test_an_older_client_knows_only_data_source(room: Room) -> None:
    me = room.parties.advertiser
    body = {
        "name": "old",
        "configuredAudienceModelArn": room.shared(),
        "seedAudience": {"dataSource": {"s3Uri": SEED}, "roleArn": me.role},
    }
    answer = room.ask(me, RawRequest("POST", "/audience-generation-job", "", (), json.dumps(body).encode()))
    assert answer.status == 200
    job = answer.json["audienceGenerationJobArn"]
    seen = room.ask(me, build("GetAudienceGenerationJob", {"audienceGenerationJobArn": job})).json
    assert seen["seedAudience"] == body["seedAudience"]
    place = {"message": "Waiting, place 1 in the queue."}
    assert seen["statusDetails"] == place
    assert seen.keys().isdisjoint({"metrics", "protectedQueryIdentifier", "description"})


def test_an_unknown_operation(room: Room) -> None:
    def is_rejected(method: str, path: str, status: int) -> None:
        answer = room.ask(room.parties.publisher, RawRequest(method, path))
        assert (answer.status, answer.error) == (status, "UnknownOperationException")

    assert_each(
        is_rejected, [("GET", "/audience-model/a/b", 404), ("PUT", "/audience-model", 405), ("POST", "/", 404)]
    )


# paging


def test_a_listing_is_stable_while_others_insert(room: Room) -> None:
    old = [room.dataset(f"old-{number}") for number in range(6)]
    client, seen, token = room.publisher, [], None
    for number in range(10):
        page = client.list_training_datasets(maxResults=2, **({"nextToken": token} if token else {}))
        seen += [one["trainingDatasetArn"] for one in page["trainingDatasets"]]
        room.dataset(f"new-{number}")
        token = page.get("nextToken")
        if len(seen) > 2 and number == 1:
            client.delete_training_dataset(trainingDatasetArn=seen[0])  # before the page: no place moves
        if token is None:
            break
    assert len(seen) == len(set(seen))
    assert seen[:6] == old


def test_many_insert_while_one_lists(room: Room) -> None:
    old = [room.dataset(f"old-{number}") for number in range(5)]
    party, statuses = room.parties.publisher, []

    def insert(writer: int) -> None:
        for number in range(5):
            request = build("CreateTrainingDataset", dataset_parameters(party, f"new-{writer}-{number}"))
            statuses.append(room.ask(party, request).status)

    writers = [threading.Thread(target=insert, args=(writer,)) for writer in range(3)]
    for writer in writers:
        writer.start()
    pages = room.publisher.get_paginator("list_training_datasets").paginate(PaginationConfig={"PageSize": 1})
    seen = [one["trainingDatasetArn"] for page in pages for one in page["trainingDatasets"]]
    for writer in writers:
        writer.join()
    assert statuses == [200] * 15
    assert seen[:5] == old
    assert len(seen) == len(set(seen))
    listed = room.publisher.list_training_datasets()["trainingDatasets"]
    assert [one["trainingDatasetArn"] for one in listed][: len(seen)] == seen
    assert len(listed) == 20


def test_the_same_token_gives_the_same_page(room: Room) -> None:
    for number in range(4):
        room.dataset(f"set-{number}")
    token = room.publisher.list_training_datasets(maxResults=1)["nextToken"]
    pages = [room.publisher.list_training_datasets(maxResults=2, nextToken=token) for _ in range(2)]
    assert pages[0]["trainingDatasets"] == pages[1]["trainingDatasets"]
    assert pages[0]["nextToken"] == pages[1]["nextToken"]
    assert [one["name"] for one in pages[0]["trainingDatasets"]] == ["set-1", "set-2"]


def test_a_paginator_of_each_listing_gives_everything_once(room: Room) -> None:
    names = ["one", "two", "three"]
    shared = [room.shared(name) for name in names]
    jobs = [room.job(arn, name) for arn, name in zip(shared, names, strict=True)]
    room.finish()
    for job, name in zip(jobs, names, strict=True):
        room.advertiser.start_audience_export_job(**export_parameters(job, name))
    for method, member in LISTS.items():
        client = room.advertiser if "jobs" in method else room.publisher
        for size in (1, 2, 3):
            pages = list(client.get_paginator(method).paginate(PaginationConfig={"PageSize": size}))
            assert [one["name"] for page in pages for one in page[member]] == names
            assert len(pages) == -(-3 // size)


def test_an_invalid_token(room: Room) -> None:
    for method in LISTS:
        for token in ("x", "AAAA", MARK, "é", "A" * 10_240, '["2026-01-01",""]'):
            with raised(room.publisher, "ValidationException") as told:
                getattr(room.publisher, method)(nextToken=token)
            assert token == "x" or token not in told["Error"]["Message"]


def test_the_last_page_has_no_token(room: Room) -> None:
    for number in range(2):
        room.dataset(f"set-{number}")
    page = room.publisher.list_training_datasets(maxResults=2)
    assert len(page["trainingDatasets"]) == 2
    assert "nextToken" not in page
    assert "nextToken" not in room.publisher.list_audience_models(maxResults=1)
