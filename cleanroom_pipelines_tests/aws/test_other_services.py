"""Services other than the 25 operations, with real clients built from botocore's models.

Contract: `sts` returns the account of a key; `cleanrooms` shows members their own collaborations only; any other
request gets an error in the format that its client reads, which names the operation and no value; headers added
after signing do not cause a rejection, unless something reads them; a page token continues only its own listing; a
seed's compute configuration is returned as it was given.
"""

import json
import re
import uuid
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import botocore.session
import pytest
from botocore.exceptions import ClientError
from botocore.validate import ParamValidator

from cleanroom_pipelines.aws.handlers import HANDLERS
from cleanroom_pipelines.aws.model import COLLABORATIONS
from cleanroom_pipelines.catalog import GenerationJob
from cleanroom_pipelines.errors import StatusCode
from cleanroom_pipelines_tests.server.server import (
    REGION,
    SEED,
    Party,
    Room,
    ask,
    client_of,
    job_parameters,
    policy_for,
    signed,
)

from ..cases import assert_each
from .requests import RawRequest, build, raised, sign

URL = "http://gateway.test"


@pytest.fixture
def room(tmp_path: Path) -> Room:
    return Room.open(tmp_path / "home")


def other_client(room: Room, party: Party, service: str) -> Any:
    return client_of(room.gateway, party, service=service)


def error_of(call: Any, **parameters: Any) -> dict[str, Any]:
    with pytest.raises(ClientError) as told:
        call(**parameters)
    return dict(told.value.response)


# the caller's identity


def test_the_identity_of_a_caller(room: Room) -> None:
    for party in (room.parties.publisher, room.parties.stranger):
        seen = other_client(room, party, "sts").get_caller_identity()
        assert uuid.UUID(seen.pop("ResponseMetadata")["RequestId"])
        assert seen == {
            "Account": party.account_id,
            "UserId": party.account_id,
            "Arn": f"arn:aws:iam::{party.account_id}:root",
        }


def test_the_identity_is_audited_and_a_wrong_key_is_rejected(room: Room) -> None:
    me = room.parties.publisher
    other_client(room, me, "sts").get_caller_identity()
    told = error_of(other_client(room, replace(me, secret="x" * 40), "sts").get_caller_identity)
    assert (told["Error"]["Code"], told["ResponseMetadata"]["HTTPStatusCode"]) == ("AccessDenied", 403)
    room.installation.audit.close()
    entries = [entry for entry in room.installation.audit.entries() if entry["way"] == "api"]
    assert sorted((entry["operation"], entry["outcome"]) for entry in entries) == [
        ("GetCallerIdentity", "ok"),
        ("unknown", "refused"),
    ]


def test_a_signature_for_one_service_is_of_no_use_for_another(room: Room) -> None:
    me = room.parties.publisher
    form = (("Content-Type", "application/x-www-form-urlencoded"),)
    identity = RawRequest("POST", "/", "", form, b"Action=GetCallerIdentity&Version=2011-06-15")

    def is_rejected(service: str, claimed: str, request: RawRequest) -> None:
        given = sign(
            request,
            now=datetime.now(UTC),
            key_id=me.key_id,
            secret=me.secret,
            region=REGION,
            host="gateway.test",
            service=service,
        )
        altered = given.with_header(
            "Authorization", given.header("Authorization").replace(f"/{service}/", f"/{claimed}/")
        )
        assert ask(room.gateway, given).status == 200
        assert ask(room.gateway, altered).status == 403

    assert_each(
        is_rejected,
        [
            ("sts", "cleanrooms-ml", identity),
            ("sts", "cleanrooms", identity),
            ("cleanrooms-ml", "sts", RawRequest("GET", "/training-dataset")),
            ("cleanrooms-ml", "cleanrooms", RawRequest("GET", "/training-dataset")),
            ("cleanrooms", "cleanrooms-ml", RawRequest("GET", "/collaborations")),
            ("cleanrooms", "glue", RawRequest("GET", "/collaborations")),
            ("cleanrooms", "CLEANROOMS", RawRequest("GET", "/collaborations")),
            ("cleanrooms", "x" * 50, RawRequest("GET", "/collaborations")),
        ],
    )


# collaborations


def collaborate(room: Room, name: str, *parties: Party, **terms: Any) -> str:
    members = [party.account_id for party in parties]
    return room.installation.catalog.parties.create_collaboration(name, members, **terms).id


def test_every_response_about_collaborations_matches_its_shape(room: Room) -> None:
    publisher, advertiser, _ = vars(room.parties).values()
    room_id = collaborate(room, "Spring", publisher, advertiser)
    template = room.installation.catalog.parties.add_template(
        "loyal", advertiser.account_id, "SELECT user_id FROM shop.customers", room_id, REGION
    )
    me = other_client(room, publisher, "cleanrooms")
    seen = {
        "ListCollaborations": me.list_collaborations(memberStatus="ACTIVE"),
        "GetCollaboration": me.get_collaboration(collaborationIdentifier=room_id),
        "ListMembers": me.list_members(collaborationIdentifier=room_id),
        "ListCollaborationAnalysisTemplates": me.list_collaboration_analysis_templates(
            collaborationIdentifier=room_id
        ),
        "ListMemberships": me.list_memberships(),
    }
    (membership,) = seen["ListMemberships"]["membershipSummaries"]
    seen["GetMembership"] = me.get_membership(membershipIdentifier=membership["id"])
    model = botocore.session.get_session().get_service_model("cleanrooms")
    for name, answer in seen.items():
        answer.pop("ResponseMetadata")
        problems = ParamValidator().validate(answer, model.operation_model(name).output_shape)
        assert not problems.has_errors(), problems.generate_report()
    assert seen.keys() == HANDLERS[COLLABORATIONS].keys()
    (one,) = seen["ListCollaborations"]["collaborationList"]
    assert (one["id"], one["name"], one["membershipId"]) == (room_id, "Spring", membership["id"])
    assert "do not mark" in seen["GetCollaboration"]["collaboration"]["description"]
    members = seen["ListMembers"]["memberSummaries"]
    assert [(each["accountId"], each["displayName"], each["status"]) for each in members] == [
        (publisher.account_id, "publisher", "ACTIVE"),
        (advertiser.account_id, "advertiser", "ACTIVE"),
    ]
    (shown,) = seen["ListCollaborationAnalysisTemplates"]["collaborationAnalysisTemplateSummaries"]
    assert (shown["arn"], shown["creatorAccountId"]) == (template.arn, advertiser.account_id)
    assert "SELECT" not in json.dumps(seen, default=str)


def test_times_have_the_form_of_the_protocol(room: Room) -> None:
    """Numbers of seconds, unless the model states another form, as it does for the lookalike API."""
    publisher, advertiser, _ = vars(room.parties).values()
    collaborate(room, "Spring", publisher, advertiser)
    request = sign(
        RawRequest("GET", "/collaborations"),
        now=datetime.now(UTC),
        key_id=publisher.key_id,
        secret=publisher.secret,
        region=REGION,
        host="gateway.test",
        service="cleanrooms",
    )
    (seen,) = ask(room.gateway, request).json["collaborationList"]
    assert abs(seen["createTime"] - datetime.now(UTC).timestamp()) < 600
    room.dataset()
    (dataset,) = room.ask(publisher, build("ListTrainingDatasets", {})).json["trainingDatasets"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", dataset["createTime"])


def test_a_collaboration_is_seen_by_its_active_members_only(room: Room) -> None:
    publisher, advertiser, stranger = vars(room.parties).values()
    room_id = collaborate(room, "Spring", publisher, advertiser)
    membership = other_client(room, publisher, "cleanrooms").list_memberships()["membershipSummaries"][0]["id"]
    room.installation.catalog.parties.set_membership(room_id, advertiser.account_id, active=False)
    left = other_client(room, publisher, "cleanrooms").list_members(collaborationIdentifier=room_id)
    assert [each["status"] for each in left["memberSummaries"]] == ["ACTIVE", "LEFT"]
    for party in (advertiser, stranger):
        outside = other_client(room, party, "cleanrooms")
        assert outside.list_collaborations()["collaborationList"] == []
        assert outside.list_memberships()["membershipSummaries"] == []
        told = []
        for identifier in (room_id, str(uuid.uuid4())):
            for method in ("get_collaboration", "list_members", "list_collaboration_analysis_templates"):
                with raised(outside, "AccessDeniedException") as error:
                    getattr(outside, method)(collaborationIdentifier=identifier)
                told.append(error["Error"]["Message"])
        assert len(set(told)) == 1, "members of others are not told apart from what does not exist"
        with raised(outside, "ResourceNotFoundException"):
            outside.get_membership(membershipIdentifier=membership)


def test_terms_of_a_collaboration_are_stated(room: Room) -> None:
    publisher, advertiser, _ = vars(room.parties).values()
    room_id = collaborate(room, "Open", publisher, advertiser, seed_removed=True, full_ensemble=True)
    seen = other_client(room, publisher, "cleanrooms").get_collaboration(collaborationIdentifier=room_id)
    assert "leave out the seed's users and so reveal them" in seen["collaboration"]["description"]
    assert "reveal individuals" in seen["collaboration"]["description"]


def test_collaborations_are_paged(room: Room) -> None:
    publisher, advertiser, _ = vars(room.parties).values()
    names = [f"room {number}" for number in range(5)]
    for name in names:
        collaborate(room, name, publisher, advertiser)
    me = other_client(room, publisher, "cleanrooms")
    pages = list(me.get_paginator("list_collaborations").paginate(PaginationConfig={"PageSize": 2}))
    assert [len(page["collaborationList"]) for page in pages] == [2, 2, 1]
    assert [one["name"] for page in pages for one in page["collaborationList"]] == names
    token = me.list_collaborations(maxResults=1)["nextToken"]
    with raised(me, "ValidationException"):
        me.list_memberships(nextToken=token)
    with raised(me, "ValidationException"):
        me.list_collaborations(nextToken=token, memberStatus="ACTIVE")


# what is not there


def test_an_operation_that_is_not_available_is_named(room: Room) -> None:
    me = room.parties.publisher
    algorithm_arn = f"arn:aws:cleanrooms-ml:{REGION}:{me.account_id}:configured-model-algorithm/canary"
    algorithm = {"configuredModelAlgorithmArn": algorithm_arn}

    def is_named(service: str, method: str, parameters: dict[str, Any], code: str) -> None:
        client = other_client(room, me, service)
        told = error_of(getattr(client, method), **parameters)["Error"]
        name = next(name for name in client.meta.service_model.operation_names if _snake(name) == method)
        assert told["Code"] == code
        assert told["Message"].startswith(name)
        assert "canary" not in told["Message"]

    role = {"RoleArn": f"arn:aws:iam::{me.account_id}:role/canary", "RoleSessionName": "canary"}
    unknown = "UnknownOperationException"
    assert_each(
        is_named,
        [
            ("sts", "assume_role", role, "InvalidAction"),
            ("sts", "get_session_token", {}, "InvalidAction"),
            ("iam", "create_role", {"RoleName": "canary", "AssumeRolePolicyDocument": "{}"}, "InvalidAction"),
            ("glue", "get_tables", {"DatabaseName": "canary"}, unknown),
            ("glue", "create_database", {"DatabaseInput": {"Name": "canary"}}, unknown),
            ("athena", "list_work_groups", {}, unknown),
            (
                "cleanrooms",
                "create_collaboration",
                {
                    "name": "canary",
                    "description": "canary",
                    "members": [],
                    "creatorMemberAbilities": [],
                    "creatorDisplayName": "canary",
                    "queryLogStatus": "DISABLED",
                },
                unknown,
            ),
            ("cleanrooms", "list_configured_tables", {}, unknown),
            ("cleanroomsml", "list_trained_models", {"membershipIdentifier": str(uuid.uuid4())}, unknown),
            ("cleanroomsml", "get_ml_configuration", {"membershipIdentifier": str(uuid.uuid4())}, unknown),
            (
                "cleanroomsml",
                "delete_configured_model_algorithm",
                algorithm,
                unknown,
            ),
        ],
    )


def _snake(name: str) -> str:
    return str(botocore.xform_name(name))


def test_a_service_without_names_of_operations_is_named(room: Room) -> None:
    told = error_of(other_client(room, room.parties.publisher, "lambda").list_functions)["Error"]
    assert (told["Code"], "of the service lambda is not available here" in told["Message"]) == (
        "UnknownOperationException",
        True,
    )


def test_a_name_that_is_not_the_name_of_an_operation_is_not_quoted(room: Room) -> None:
    form = (("Content-Type", "application/x-www-form-urlencoded"),)

    def is_not_quoted(service: str, request: RawRequest) -> None:
        me = room.parties.publisher
        given = sign(
            request,
            now=datetime.now(UTC),
            key_id=me.key_id,
            secret=me.secret,
            region=REGION,
            host="gateway.test",
            service=service,
        )
        answer = ask(room.gateway, given)
        assert answer.status == 400
        assert b"canary" not in answer.body
        assert not re.search(rb"<canary|canary@", answer.body)

    assert_each(
        is_not_quoted,
        [
            ("sts", RawRequest("POST", "/", "", form, b"Action=canary%40mail.example")),
            ("sts", RawRequest("POST", "/", "", form, b"Action=%3Ccanary%3E")),
            ("sts", RawRequest("POST", "/", "", form, "Action=canäry".encode())),
            ("sts", RawRequest("POST", "/", "", form, b"canary=1&" * 2000)),
            ("sts", RawRequest("GET", "/", "Action=canary%00")),
            ("sts", RawRequest("POST", "/", "", (), b"canary")),
            ("glue", RawRequest("POST", "/", "", (("X-Amz-Target", "AWSGlue.canary@mail.example"),), b"{}")),
        ],
    )


# requests of real clients


def test_headers_added_after_signing(room: Room) -> None:
    me = room.parties.publisher
    given = signed(RawRequest("GET", "/training-dataset"), me, URL)

    def is_so(name: str, status: int) -> None:
        assert ask(room.gateway, given.with_header(name, "anything")).status == status

    assert_each(
        is_so,
        [
            ("x-amz-user-agent", 200),
            ("X-Amz-User-Agent", 200),
            ("amz-sdk-request", 200),
            ("amz-sdk-invocation-id", 200),
            ("x-amz-sdk-request", 200),
            ("x-amz-cf-id", 200),
            ("x-amzn-trace-id", 200),
            ("x-amz-security-token", 403),
            ("x-amz-content-sha256", 403),
            ("x-amz-target", 403),
            ("x-amz-anything-else", 403),
        ],
    )


def test_an_endpoint_that_ends_in_a_slash(room: Room) -> None:
    me = room.parties.publisher
    client = client_of(room.gateway, me, url=f"{URL}/")
    assert client.list_training_datasets()["trainingDatasets"] == []
    doubled = replace(signed(RawRequest("GET", "/training-dataset"), me, URL), raw_path="//training-dataset")
    assert ask(room.gateway, doubled).json == {"trainingDatasets": []}
    assert ask(room.gateway, replace(doubled, raw_path="//audience-model")).status == 403


def test_a_token_continues_only_its_own_listing(room: Room) -> None:
    configured = room.shared()
    for name in ("one", "two", "three"):
        room.job(configured, name)
    room.dataset("another")
    advertiser, publisher = room.advertiser, room.publisher
    jobs = advertiser.list_audience_generation_jobs(maxResults=1)["nextToken"]
    of_model = {"configuredAudienceModelArn": configured}
    assert len(advertiser.list_audience_generation_jobs(nextToken=jobs)["audienceGenerationJobs"]) == 2
    datasets = publisher.list_training_datasets(maxResults=1)["nextToken"]
    elsewhere = room.client(room.parties.publisher, "us-west-2")

    def is_rejected(client: Any, method: str, parameters: dict[str, Any]) -> None:
        with raised(client, "ValidationException") as told:
            getattr(client, method)(**parameters)
        assert "'nextToken'" in told["Error"]["Message"]

    assert_each(
        is_rejected,
        [
            (advertiser, "list_training_datasets", {"nextToken": jobs}),
            (advertiser, "list_audience_export_jobs", {"nextToken": jobs}),
            (advertiser, "list_audience_generation_jobs", {"nextToken": jobs, **of_model}),
            (publisher, "list_audience_generation_jobs", {"nextToken": jobs}),
            (publisher, "list_audience_models", {"nextToken": datasets}),
            (publisher, "list_configured_audience_models", {"nextToken": datasets}),
            (elsewhere, "list_training_datasets", {"nextToken": datasets}),
            (publisher, "list_training_datasets", {"nextToken": datasets.partition(".")[2]}),
            (publisher, "list_training_datasets", {"nextToken": f".{datasets.partition('.')[2]}"}),
        ],
    )


def test_the_compute_configuration_of_a_seed_is_shown_again(room: Room) -> None:
    me = room.parties.advertiser
    parameters = job_parameters(me, room.shared())
    properties = {"spark": {"spark.sql.ansi.enabled": "true"}}
    compute = {"worker": {"type": "CR.1X", "number": 4, "properties": properties}}
    parameters["seedAudience"] = {
        "roleArn": me.role,
        "sqlParameters": {"queryString": "SELECT user_id FROM shop.customers"},
        "sqlComputeConfiguration": compute,
    }
    arn = room.advertiser.start_audience_generation_job(**parameters)["audienceGenerationJobArn"]
    seen = room.advertiser.get_audience_generation_job(audienceGenerationJobArn=arn)["seedAudience"]
    assert seen == parameters["seedAudience"]
    ours = build("GetAudienceGenerationJob", {"audienceGenerationJobArn": room.parties.publisher.own(arn)})
    assert "seedAudience" not in room.ask(room.parties.publisher, ours).json
    properties["spark"]["x"] = "a\0b"
    with raised(room.advertiser, "ValidationException"):
        room.advertiser.start_audience_generation_job(**parameters | {"name": "other"})


# policies


def put_policy(room: Room, arn: str, **statement: Any) -> None:
    room.publisher.put_configured_audience_model_policy(
        configuredAudienceModelArn=arn,
        configuredAudienceModelPolicy=policy_for(arn, room.parties.advertiser.account_id, **statement),
    )


def test_a_role_of_an_account_that_exists_stands_for_the_account(room: Room) -> None:
    arn = room.configured()
    with raised(room.publisher, "ValidationException") as told:
        put_policy(room, arn, Principal={"AWS": "arn:aws:iam::999999999999:role/reader"})
    assert "Principal.AWS" in told["Error"]["Message"]
    put_policy(room, arn, Principal={"AWS": room.parties.advertiser.role})
    room.job(arn)
    with raised(client_of(room.gateway, room.parties.stranger), "ResourceNotFoundException"):
        stranger = room.parties.stranger
        client_of(room.gateway, stranger).start_audience_generation_job(**job_parameters(stranger, arn))


def test_a_policy_can_require_tls(room: Room) -> None:
    arn = room.configured()
    put_policy(room, arn, Condition={"Bool": {"aws:SecureTransport": True}})
    me = room.parties.advertiser

    async def over_tls(scope: Any, receive: Any, send: Any) -> None:
        await room.gateway({**scope, "scheme": "https"}, receive, send)

    with raised(room.advertiser, "AccessDeniedException"):
        room.job(arn)
    client_of(cast(Any, over_tls), me).start_audience_generation_job(**job_parameters(me, arn))


# taking a list back


def test_a_deleted_list_is_taken_back_and_its_jobs_are_stated(room: Room) -> None:
    configured, me = room.shared(), room.parties.advertiser
    s3 = other_client(room, me, "s3")
    s3.put_object(Bucket="lists", Key="spring/a b.jsonl", Body=b"")
    seeds = ("s3://lists/spring/a b.jsonl", "s3://lists/spring/", "s3://lists", "s3://lists/spring/a")
    arns = []
    for number, uri in enumerate(seeds):
        seed = {"roleArn": me.role, "dataSource": {"s3Uri": uri}}
        arns.append(room.job(configured, f"job {number}", seedAudience=seed))
    room.finish()
    theirs = other_client(room, room.parties.publisher, "s3")
    theirs.put_object(Bucket="others", Key="x", Body=b"")
    assert (
        "x-cleanroom-jobs" not in theirs.delete_object(Bucket="others", Key="x")["ResponseMetadata"]["HTTPHeaders"]
    )
    answer = s3.delete_object(Bucket="lists", Key="spring/a b.jsonl")["ResponseMetadata"]
    assert answer["HTTPStatusCode"] == 204
    assert answer["HTTPHeaders"]["x-cleanroom-jobs"] == ", ".join(f"{arn}=ACTIVE" for arn in arns[:3])
    assert "Contents" not in s3.list_objects_v2(Bucket="lists")


def test_a_copy_kept_for_another_attempt_is_deleted_with_the_list(room: Room, tmp_path: Path) -> None:
    arn = room.job(room.shared())
    installation, job_id = room.installation, arn.rpartition("/")[2]
    (tmp_path / "copy.jsonl").write_bytes(b"{}")
    location = installation.vault.put("0123456789abcdef01234567", tmp_path / "copy.jsonl")
    installation.catalog.resources.place_seed(job_id, location, digest="0" * 64, n_bytes=2)
    (version,) = (each for each in installation.catalog.work.ready() if each.resource_id == job_id)
    claim = installation.catalog.work.claim(version.kind, version.resource_id, version.number, "run")
    assert claim is not None
    installation.catalog.work.fail(claim, StatusCode.INTERNAL, "A lost worker.")
    bucket, _, key = SEED.removeprefix("s3://").partition("/")
    s3 = other_client(room, room.parties.advertiser, "s3")
    s3.delete_objects(Bucket=bucket, Delete={"Objects": [{"Key": key}, {"Key": "another"}]})
    assert installation.catalog.get(GenerationJob, job_id).seed_location is None
    assert not installation.vault.folder_of(location.partition("/")[0]).exists()
