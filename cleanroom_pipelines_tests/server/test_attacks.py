"""Attacks: what an account cannot access, and what is never disclosed.

Contract: in every operation, another account's resource looks like one that never existed; no name, URL or symlink
leads out of its root; a policy's Deny applies; SQL that accesses more than its own tables is rejected or killed
and leaves neither process nor file; a failed job gives its reason without counts and locations; ids, seeds, SQL
and secrets never appear in a response to the other side, a log, an audit entry, a status or a Dagster event.
"""

import itertools
import json
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cleanroom_pipelines.catalog import Kind
from cleanroom_pipelines.errors import CleanroomError, SeedError
from cleanroom_pipelines.participant_sql.running import QueryLimits, run_query
from cleanroom_pipelines.runs import requested_seeds
from cleanroom_pipelines.runs.work import Run
from cleanroom_pipelines_tests.aws.requests import RawAnswer, build, raised

from .. import worlds
from ..cases import assert_each
from .attacking import assert_rejected, entry_of, everything, files_below, files_in_scratch, in_audit, normalised
from .server import (
    CUSTOMERS,
    DATABASE,
    PUBLISHER,
    TABLE,
    Parties,
    Party,
    Room,
    Server,
    configured_parameters,
    dataset_parameters,
    export_parameters,
    installation_at,
    job_parameters,
    policy_for,
    serving,
    settle,
    wait_until_ended,
)

CANARY = "kanarienvogel"  # in rows: ids and cells
SEEDS_CANARY = "zaunkoenig"  # in what the advertiser alone may know: places and SQL of its seeds
PLACES_CANARY = "rohrdommel"  # in what the publisher alone may know: where its audiences lie
THRESHOLDS = {"25", "500,000", "300,000,000", "0.05", "1"}


@pytest.fixture(scope="module")
def room(tmp_path_factory: pytest.TempPathFactory) -> Room:
    return Room.open(tmp_path_factory.mktemp("attacks") / "home")


# another account's resources


@dataclass(frozen=True)
class Arns:
    """One of each kind."""

    dataset: str
    model: str
    configured: str
    job: str

    def of(self, account_id: str) -> "Arns":
        return Arns(*(re.sub(":[0-9]{12}:", f":{account_id}:", arn) for arn in vars(self).values()))

    def never_made(self) -> "Arns":
        return Arns(*(arn[:-12] + "0123456789ab" for arn in vars(self).values()))


@pytest.fixture(scope="module")
def publishers(room: Room) -> Arns:
    """What the publisher made for itself, a job included."""
    dataset = room.dataset("theirs")
    model = room.model("theirs", dataset)
    configured = room.configured("theirs", model)
    job = room.publisher.start_audience_generation_job(**job_parameters(room.parties.publisher, configured, "own"))
    room.finish()
    return Arns(dataset, model, configured, job["audienceGenerationJobArn"])


WITH_ARN: dict[str, Callable[[Arns, Party], dict[str, Any]]] = {
    "GetTrainingDataset": lambda arns, _: {"trainingDatasetArn": arns.dataset},
    "DeleteTrainingDataset": lambda arns, _: {"trainingDatasetArn": arns.dataset},
    "CreateAudienceModel": lambda arns, _: {"name": "x", "trainingDatasetArn": arns.dataset},
    "GetAudienceModel": lambda arns, _: {"audienceModelArn": arns.model},
    "DeleteAudienceModel": lambda arns, _: {"audienceModelArn": arns.model},
    "CreateConfiguredAudienceModel": lambda arns, me: configured_parameters(me, arns.model),
    "GetConfiguredAudienceModel": lambda arns, _: {"configuredAudienceModelArn": arns.configured},
    "UpdateConfiguredAudienceModel": lambda arns, _: {
        "configuredAudienceModelArn": arns.configured,
        "sharedAudienceMetrics": ["ALL"],
    },
    "DeleteConfiguredAudienceModel": lambda arns, _: {"configuredAudienceModelArn": arns.configured},
    "PutConfiguredAudienceModelPolicy": lambda arns, me: {
        "configuredAudienceModelArn": arns.configured,
        "configuredAudienceModelPolicy": policy_for(arns.configured, me.account_id),
    },
    "GetConfiguredAudienceModelPolicy": lambda arns, _: {"configuredAudienceModelArn": arns.configured},
    "DeleteConfiguredAudienceModelPolicy": lambda arns, _: {"configuredAudienceModelArn": arns.configured},
    "StartAudienceGenerationJob": lambda arns, me: job_parameters(me, arns.configured),
    "GetAudienceGenerationJob": lambda arns, _: {"audienceGenerationJobArn": arns.job},
    "DeleteAudienceGenerationJob": lambda arns, _: {"audienceGenerationJobArn": arns.job},
    "StartAudienceExportJob": lambda arns, _: export_parameters(arns.job),
    "ListAudienceExportJobs": lambda arns, _: {"audienceGenerationJobArn": arns.job},
    "TagResource": lambda arns, _: {"resourceArn": arns.configured, "tags": {"a": "b"}},
    "UntagResource": lambda arns, _: {"resourceArn": arns.model, "tagKeys": ["a"]},
    "ListTagsForResource": lambda arns, _: {"resourceArn": arns.dataset},
    "TagResource of a job": lambda arns, _: {"resourceArn": arns.job, "tags": {"a": "b"}},
    "UntagResource of a job": lambda arns, _: {"resourceArn": arns.job, "tagKeys": ["a"]},
    "ListTagsForResource of a job": lambda arns, _: {"resourceArn": arns.job},
}


def test_another_accounts_resource_looks_nonexistent(room: Room, publishers: Arns) -> None:
    def is_rejected_alike(operation: str) -> None:
        before = everything(room.installation)
        name, make = operation.partition(" ")[0], WITH_ARN[operation]
        for party in (room.parties.advertiser, room.parties.stranger):
            # under the owner's account, and under one's own
            for arns in (publishers, publishers.of(party.account_id)):
                answers = [room.ask(party, build(name, make(each, party))) for each in (arns, arns.never_made())]
                room.installation.audit.flush()
                for answer in answers:
                    assert_rejected(room.installation, answer, 404, "ResourceNotFoundException")
                assert normalised(answers[0]) == normalised(answers[1])
        assert everything(room.installation) == before

    assert_each(is_rejected_alike, WITH_ARN)


def test_lists_filtered_by_another_account_s_resource_are_empty(room: Room, publishers: Arns) -> None:
    for party in (room.parties.advertiser, room.parties.stranger):
        for arns in (publishers, publishers.of(party.account_id), publishers.never_made()):
            asked = build("ListAudienceGenerationJobs", {"configuredAudienceModelArn": arns.configured})
            assert room.ask(party, asked).json == {"audienceGenerationJobs": []}


def test_a_resource_shared_with_one_account_is_invisible_to_others(room: Room, publishers: Arns) -> None:
    stranger = room.parties.stranger
    shared = Arns(
        publishers.dataset, publishers.model, room.shared("for one", model=publishers.model), publishers.job
    )
    room.job(shared.configured, "for-one")
    answers = [
        room.ask(stranger, build("StartAudienceGenerationJob", job_parameters(stranger, arns.configured)))
        for arns in (shared, shared.never_made())
    ]
    for answer in answers:
        assert_rejected(room.installation, answer, 404, "ResourceNotFoundException")
    assert normalised(answers[0]) == normalised(answers[1])


def test_an_update_cannot_use_another_accounts_model(room: Room, publishers: Arns) -> None:
    """Another account's model under one's own configured model."""
    me = room.parties.advertiser
    dataset = room.advertiser.create_training_dataset(**dataset_parameters(me, "mine"))["trainingDatasetArn"]
    model = room.advertiser.create_audience_model(name="mine", trainingDatasetArn=dataset)["audienceModelArn"]
    room.finish()
    mine = room.advertiser.create_configured_audience_model(**configured_parameters(me, model))
    before = everything(room.installation)
    answers = [
        room.ask(me, build("UpdateConfiguredAudienceModel", {**mine_only(mine), "audienceModelArn": arns.model}))
        for each in (publishers, publishers.of(me.account_id))
        for arns in (each, each.never_made())
    ]
    for answer in answers:
        assert_rejected(room.installation, answer, 404, "ResourceNotFoundException")
    assert (
        len({normalised(answer) for answer in answers[:2]})
        == len({normalised(answer) for answer in answers[2:]})
        == 1
    )
    assert everything(room.installation) == before


def mine_only(made: dict[str, Any]) -> dict[str, Any]:
    return {"configuredAudienceModelArn": made["configuredAudienceModelArn"]}


def test_a_resource_is_invisible_in_another_region(room: Room, publishers: Arns) -> None:
    """The account's own resource, its ARN rewritten to the Region that is called."""
    me, elsewhere = room.parties.publisher, room.client(room.parties.publisher, "us-west-2")
    before = everything(room.installation)
    for operation, make in WITH_ARN.items():
        arns = Arns(*(arn.replace(":eu-central-1:", ":us-west-2:") for arn in vars(publishers).values()))
        with raised(elsewhere, "ResourceNotFoundException"):
            getattr(elsewhere, method_of(operation))(**make(arns, me))
    assert everything(room.installation) == before


def method_of(operation: str) -> str:
    return re.sub("(?<!^)([A-Z])", r"_\1", operation.partition(" ")[0]).lower()


# policies


def deny(configured: str, account: str, **statement: Any) -> str:
    policy = json.loads(policy_for(configured, account))
    policy["Statement"].append(policy["Statement"][0] | {"Effect": "Deny"} | statement)
    return json.dumps(policy)


def jobs_of(configured: str) -> str:
    return re.sub(":configured-audience-model/.*", ":audience-generation-job/", configured)


DENIALS: dict[str, Callable[[str], dict[str, Any]]] = {
    "any resource": lambda arn: {"Resource": "*"},
    "any principal": lambda arn: {"Principal": "*"},
    "any start": lambda arn: {"Action": "cleanrooms-ml:Start*"},
    "any action": lambda arn: {"Action": "*"},
    "any job": lambda arn: {"Resource": jobs_of(arn) + "*"},
    "jobs of this name": lambda arn: {"Resource": jobs_of(arn) + "denied-*"},
    "this account": lambda arn: {"Condition": {"StringEquals": {"aws:PrincipalAccount": "111111111111"}}},
    "outside": lambda arn: {"Condition": {"StringNotEquals": {"cleanrooms-ml:CollaborationId": "x"}}},
    "this tag": lambda arn: {"Condition": {"StringLike": {"aws:RequestTag/team": "gr?w*"}}},
    "a role of this account": lambda arn: {"Principal": {"AWS": "arn:aws:iam::111111111111:role/any"}},
    "without a collaboration": lambda arn: {"Condition": {"Null": {"cleanrooms-ml:CollaborationId": "true"}}},
    "with any such tag": lambda arn: {"Condition": {"Null": {"aws:RequestTag/TEAM": False}}},
    "with any tags": lambda arn: {"Condition": {"Null": {"aws:TagKeys": "false"}}},
    "without TLS": lambda arn: {"Condition": {"Bool": {"aws:SecureTransport": "false"}}},
    "not from a service": lambda arn: {"Condition": {"Null": {"aws:SourceAccount": "true"}}},
    "not for this account": lambda arn: {"Condition": {"StringNotEquals": {"aws:SourceAccount": "111111111111"}}},
    "jobs with a tag": lambda arn: {
        "Resource": jobs_of(arn) + "*",
        "Condition": {"StringLike": {"aws:RequestTag/team": "*"}},
    },
}


def test_deny_overrides_allow(room: Room, publishers: Arns) -> None:
    def holds(_: str, statement: Callable[[str], dict[str, Any]]) -> None:
        me, configured = room.parties.advertiser, publishers.configured
        policy = deny(configured, me.account_id, **statement(configured))
        room.publisher.put_configured_audience_model_policy(
            configuredAudienceModelArn=configured, configuredAudienceModelPolicy=policy
        )
        before = everything(room.installation)
        asked = job_parameters(me, configured, "denied", tags={"team": "growth"})
        answer = room.ask(me, build("StartAudienceGenerationJob", asked))
        assert_rejected(room.installation, answer, 403, "AccessDeniedException")
        assert everything(room.installation) == before
        room.publisher.delete_configured_audience_model_policy(configuredAudienceModelArn=configured)

    assert_each(holds, DENIALS.items())


# names and URLs

BAD_URLS = [
    "s3://../bucket/seed.jsonl",
    "s3:///etc/passwd",
    "s3://bucket/a\x00b",
    "s3://bucket/a\nb",
    "s3://user:secret@bucket/seed.jsonl",
    "s3://bucket:9000/seed.jsonl",
    "s3://BUCKET/seed.jsonl",
    "s3://b/seed.jsonl",
    "s3://buck et/seed.jsonl",
    "file:///etc/passwd",
    "/etc/passwd",
    "https://bucket.s3.amazonaws.com/seed.jsonl",
    "S3://bucket/seed.jsonl",
    "s3://bucket/" + "a" * 300,
    "s3://bucket/" + "a/" * 100 + "b",
    "s3://arn:aws:s3:::bucket/seed.jsonl",
]


def test_a_url_outside_the_bucket_is_rejected(room: Room, publishers: Arns) -> None:
    def is_rejected(url: str) -> None:
        before = everything(room.installation)
        me = room.parties.publisher
        seed = {"roleArn": me.role, "dataSource": {"s3Uri": url}}
        output = {"roleArn": me.role, "destination": {"s3Destination": {"s3Uri": url}}}
        asked = [
            ("StartAudienceGenerationJob", job_parameters(me, publishers.configured, "x", seedAudience=seed)),
            (
                "CreateConfiguredAudienceModel",
                configured_parameters(me, publishers.model, "x", outputConfig=output),
            ),
            (
                "UpdateConfiguredAudienceModel",
                {"configuredAudienceModelArn": publishers.configured, "outputConfig": output},
            ),
        ]
        for name, parameters in asked:
            answer = room.ask(me, build(name, parameters))
            assert_rejected(room.installation, answer, 400, "ValidationException")
            for part in ("passwd", "secret", "other", str(room.installation.home.root)):
                assert part not in answer.json["message"]
        assert everything(room.installation) == before

    assert_each(is_rejected, BAD_URLS)


# S3 allows any key, so these are keys, and never paths.
KEYS_LIKE_PATHS = [
    "s3://bucket/../other/seed.jsonl",
    "s3://bucket/a/../../other",
    "s3://bucket/%2e%2e/other",
    "s3://bucket/..%2Fother",
    "s3://bucket//etc/passwd",
    "s3://bucket/./seed.jsonl",
    "s3://bucket/a\\..\\b",
    "s3://bucket/~/seed.jsonl",
    "s3://bucket/seed.jsonl?versionId=1",
    "s3://bucket/seed.jsonl#part",
    "s3://bucket/\uff0e\uff0e/seed.jsonl",
]


def test_a_key_that_looks_like_a_path_stays_in_its_bucket(room: Room, tmp_path: Path) -> None:
    account, accounts = room.parties.publisher.account_id, room.installation.home.accounts
    (accounts / account / "buckets" / "other").mkdir(parents=True)
    (accounts / account / "buckets" / "other" / "seed.jsonl").write_text("{}")

    def stays(url: str) -> None:
        place = room.installation.buckets.locate(account, url)
        with pytest.raises(SeedError):
            place.fetch(tmp_path / "fetched", max_bytes=1000)
        before = set(files_below(room.installation.home.root))
        (tmp_path / "new").write_text("[]")
        place.store(tmp_path / "new")
        added = {path for path, _ in set(files_below(room.installation.home.root)) - before}
        assert added
        bucket = str(accounts / account / "buckets" / "bucket")
        assert [path for path in added if path != bucket and not path.startswith(f"{bucket}/")] == []

    assert_each(stays, KEYS_LIKE_PATHS)


BAD_NAMES = [
    "..",
    ".",
    "../x",
    "/etc",
    "a/../b",
    "a%2Fb",
    "a\\b",
    "a\x00",
    "a.b",
    "",
    "-a",
    "a\n",
    "a" * 129,
    "\u00e4",
    "*",
]


def test_a_table_name_outside_the_warehouse_is_rejected(room: Room) -> None:
    def is_rejected(name: str) -> None:
        before = everything(room.installation)
        for names in ({"databaseName": name, "tableName": TABLE}, {"databaseName": DATABASE, "tableName": name}):
            parameters = dataset_parameters(room.parties.advertiser, "x")
            parameters["trainingData"][0]["inputConfig"]["dataSource"] = {"glueDataSource": names}
            answer = room.ask(room.parties.advertiser, build("CreateTrainingDataset", parameters))
            assert_rejected(room.installation, answer, 400, "ValidationException")
        assert everything(room.installation) == before

    assert_each(is_rejected, BAD_NAMES)


def make(room: Room, asset: str, partition: str) -> None:
    """Do one resource's work, here and now; its failure is told by its status."""
    with suppress(CleanroomError):
        worlds.make(room.installation, asset, partition, Run("run", number=1))


def key_of(arn: str) -> str:
    return arn.rpartition("/")[2]


def test_a_symlinked_table_is_rejected(room: Room) -> None:
    accounts, me = room.installation.home.accounts, room.parties.advertiser
    warehouse = accounts / me.account_id / "warehouse"
    (warehouse / DATABASE / "linked").symlink_to(accounts / PUBLISHER / "warehouse" / DATABASE / TABLE)
    (warehouse / "linked").symlink_to(accounts / PUBLISHER / "warehouse" / DATABASE)
    for database, table in ((DATABASE, "linked"), ("linked", TABLE)):
        parameters = dataset_parameters(me, "linked")
        source = {"glueDataSource": {"databaseName": database, "tableName": table}}
        parameters["trainingData"][0]["inputConfig"]["dataSource"] = source
        answer = room.ask(me, build("CreateTrainingDataset", parameters))
        assert_rejected(room.installation, answer, 400, "ValidationException")
        assert PUBLISHER not in answer.json["message"]


def test_a_symlink_planted_later_is_not_followed(room: Room) -> None:
    accounts, me = room.installation.home.accounts, room.parties.advertiser
    publishers = accounts / PUBLISHER / "warehouse" / DATABASE / TABLE

    def is_not_followed(when: str, what: str) -> None:
        name = f"planted-{when}-{what}".replace(" ", "-")
        table = accounts / me.account_id / "warehouse" / DATABASE / name
        table.mkdir(parents=True)
        worlds.write_events(table / "a.parquet", worlds.events())
        parameters = dataset_parameters(me, name)
        source = {"glueDataSource": {"databaseName": DATABASE, "tableName": name}}
        parameters["trainingData"][0]["inputConfig"]["dataSource"] = source
        dataset = room.advertiser.create_training_dataset(**parameters)["trainingDatasetArn"]
        model = room.advertiser.create_audience_model(name=name, trainingDatasetArn=dataset)["audienceModelArn"]
        if when == "before training":
            make(room, "training_dataset", key_of(dataset))
        if what == "a file":
            (table / "b.parquet").symlink_to(publishers / "a.parquet")
        else:
            shutil.rmtree(table)
            table.symlink_to(publishers)
        make(room, "training_dataset", key_of(dataset))
        make(room, "audience_model", key_of(model))
        seen = room.advertiser.get_audience_model(audienceModelArn=model)
        assert (seen["status"], seen["statusDetails"]["statusCode"]) == ("CREATE_FAILED", "TRAINING_DATA_INVALID")
        assert "link" in seen["statusDetails"]["message"]
        assert PUBLISHER not in seen["statusDetails"]["message"]

    moments, things = ("before validation", "before training"), ("a file", "the table")
    assert_each(is_not_followed, itertools.product(moments, things))


# seeds

# Processes that other tests of this worker keep, such as the cluster of an engine's.
BEFORE: list[psutil.Process] = []


@pytest.fixture(scope="module", autouse=True)
def _processes_before() -> None:
    BEFORE[:] = psutil.Process().children()


@pytest.fixture(scope="module")
def shared(room: Room) -> str:
    return room.shared("for seeds")


def fail_with(room: Room, job: str) -> tuple[dict[str, str], dict[str, str]]:
    """Run a job's seed; what the starter and the owner are told of its failure."""
    make(room, "seed_validation_report", key_of(job))
    published = room.advertiser.get_audience_generation_job(audienceGenerationJobArn=job)
    ours = room.parties.publisher.own(job)
    seen = room.publisher.get_audience_generation_job(audienceGenerationJobArn=ours)
    assert published["status"] == seen["status"] == "CREATE_FAILED"
    assert "seedAudience" not in seen
    assert "protectedQueryIdentifier" not in seen
    assert published["statusDetails"]["statusCode"] == seen["statusDetails"]["statusCode"]
    assert files_in_scratch(room.installation.home) == []
    left = [process for process in psutil.Process().children() if process not in BEFORE]
    assert left == [], "processes of queries"
    return published["statusDetails"], seen["statusDetails"]


LOYAL = f"SELECT user_id FROM {DATABASE}.{CUSTOMERS}"
NOT_ALLOWED = {
    "read a file": "SELECT * FROM read_csv('/etc/passwd')",
    "read text": "SELECT content FROM read_text('/etc/passwd')",
    "read by name": "SELECT column0 FROM '/etc/passwd'",
    "read parquet by name": f"SELECT user FROM '../../{PUBLISHER}/warehouse/shop/events/a.parquet'",
    "list files": "SELECT file FROM glob('/**')",
    "attach": "ATTACH '/tmp/zaunkoenig.db'",
    "copy": f"COPY ({LOYAL}) TO '/tmp/zaunkoenig.csv'",
    "install": "INSTALL httpfs",
    "load": "LOAD httpfs",
    "set": "SET enable_external_access = true",
    "pragma": "PRAGMA database_list",
    "create": f"CREATE TABLE zaunkoenig AS {LOYAL}",
    "drop": "DROP TABLE shop.customers",
    "export": "EXPORT DATABASE '/tmp/zaunkoenig'",
    "call": "CALL duckdb_settings()",
    "query()": "SELECT * FROM query('SELECT 1')",
    "query_table()": "SELECT * FROM query_table('shop.customers')",
    "settings": "SELECT value FROM duckdb_settings()",
    "secrets": "SELECT name FROM duckdb_secrets()",
    "environment": "SELECT getenv('HOME') FROM shop.customers",
    "current setting": "SELECT current_setting('temp_directory') FROM shop.customers",
    "version": "SELECT version() FROM shop.customers",
    "schema": "SELECT table_name FROM information_schema.tables WHERE 1=1 AND x.y.z = 1",
    "three names": "SELECT user_id FROM memory.shop.customers",
    "one name of no table": "SELECT user_id FROM zaunkoenig",
    "another account's table": f"SELECT user FROM {DATABASE}.{TABLE}",
    "a catalogue's table": "SELECT table_name FROM information_schema.tables",
    "Spark's file": "SELECT a FROM csv.`/etc/passwd`",
    "Spark's files": "SELECT a FROM read_files('/etc/passwd')",
    "Spark's script": "SELECT TRANSFORM(user_id) USING 'cat' AS (a) FROM shop.customers",
    "Spark's reflection": "SELECT reflect('java.lang.System', 'getenv', 'HOME') FROM shop.customers",
    "Spark's substitution": "SELECT user_id FROM shop.${env:HOME}",
    "Spark's user": "SELECT current_user() FROM shop.customers",
    "Spark's file names": "SELECT input_file_name() FROM shop.customers",
    "two columns": "SELECT user_id, visits FROM shop.customers",
    "two statements": f"{LOYAL}; {LOYAL}",
    "a statement in a comment": f"{LOYAL} /* */; DROP TABLE shop.customers --",
    "no statement": "-- zaunkoenig",
    "no SQL": "zaunkoenig zaunkoenig zaunkoenig",
    "an unknown function": "SELECT zaunkoenig(user_id) FROM shop.customers",
    "a macro": "SELECT list_transform([user_id], x -> zaunkoenig) FROM shop.customers",
    "an unknown parameter": "SELECT user_id FROM shop.customers WHERE user_id = :zaunkoenig",
    "for ever": "WITH RECURSIVE n AS (SELECT 1 AS x UNION ALL SELECT x FROM n) SELECT x FROM n",
    "deep": "SELECT user_id FROM shop.customers WHERE " + "(" * 5_000 + "true" + ")" * 5_000,
    "wide": "SELECT user_id FROM shop.customers WHERE user_id IN (" + ",".join(["'zaunkoenig'"] * 30_000) + ")",
}
FAILED = {
    "a cast": "SELECT CAST('zaunkoenig' AS INTEGER) FROM shop.customers",
    "a column that is none": "SELECT zaunkoenig FROM shop.customers",
    "a column of no ids": "SELECT visits * 1.5 FROM shop.customers",
    "for ever, nearly": f"SELECT max({' || '.join(f'{name}.user_id' for name in 'abcdef')}) FROM "
    + ", ".join(f"shop.customers {name}" for name in "abcdef"),
}
QUOTED = {
    "a folder above": f'SELECT user FROM "../../{PUBLISHER}/warehouse/shop".events',
    "a path": 'SELECT user FROM "/etc"."passwd"',
    "dots": 'SELECT user FROM ".."."events"',
    "an encoded slash": f'SELECT user FROM "..%2F..%2F{PUBLISHER}"."events"',
    "backticks": f"SELECT user FROM `../../{PUBLISHER}/warehouse/shop`.events",
}


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    limits = QueryLimits(wall_seconds=4.0, threads=1, memory_bytes=200_000_000)
    monkeypatch.setattr(requested_seeds, "run_query", partial(run_query, limits=limits))


@pytest.mark.usefixtures("short")
def test_sql_outside_its_own_tables_is_rejected(room: Room, shared: str) -> None:
    me = room.parties.advertiser

    def is_rejected_at_the_start(name: str, sql: str) -> None:
        seed = {"roleArn": me.role, "sqlParameters": {"queryString": sql}}
        before = everything(room.installation)
        asked = job_parameters(me, shared, f"sql {name}", seedAudience=seed)
        answer = room.ask(me, build("StartAudienceGenerationJob", asked))
        assert_rejected(room.installation, answer, 400, "ValidationException")
        assert everything(room.installation) == before
        for word in (PUBLISHER, str(room.installation.home.root)):
            assert word not in answer.json["message"]
        assert SEEDS_CANARY not in in_audit(room.installation)

    def fails(name: str, sql: str) -> None:
        seed = {"roleArn": me.role, "sqlParameters": {"queryString": sql}}
        job = room.job(shared, f"sql {name}", seedAudience=seed)
        published, seen = fail_with(room, job)
        assert published["statusCode"] == "SQL_FAILED", published
        for word in (SEEDS_CANARY, "passwd", PUBLISHER, "shop", "customers", str(room.installation.home.root)):
            assert word not in published["message"]
        assert seen["message"] == "The seed is unusable. The account that started the job can see the reason."

    assert_each(is_rejected_at_the_start, [*NOT_ALLOWED.items(), *QUOTED.items()])
    assert_each(fails, FAILED.items())


def test_another_accounts_template_is_rejected(room: Room, shared: str) -> None:
    catalog, parties = room.installation.catalog, room.parties
    both = catalog.parties.create_collaboration(
        "both", [parties.publisher.account_id, parties.stranger.account_id]
    )
    lent = catalog.parties.add_template(
        SEEDS_CANARY, parties.stranger.account_id, f"{LOYAL} -- {SEEDS_CANARY}", both.id
    )
    kept = catalog.parties.add_template("kept", parties.stranger.account_id, LOYAL)
    never = re.sub("[0-9a-f]{12}$", "0" * 12, kept.arn)
    before, answers = everything(room.installation), []
    for arn in (lent.arn, kept.arn, never):
        for collaboration in ({}, {"collaborationId": both.id}):
            seed = {"roleArn": parties.advertiser.role, "sqlParameters": {"analysisTemplateArn": arn}}
            asked = job_parameters(parties.advertiser, shared, "t", seedAudience=seed, **collaboration)
            answer = room.ask(parties.advertiser, build("StartAudienceGenerationJob", asked))
            assert_rejected(room.installation, answer, 403, "AccessDeniedException")
            answers.append(answer)
    assert (
        len({normalised(answer) for answer in answers[::2]})
        == len({normalised(answer) for answer in answers[1::2]})
        == 1
    )
    assert everything(room.installation) == before


def test_a_collaboration_is_for_its_members_only(room: Room, shared: str) -> None:
    def is_rejected(member: str) -> None:
        catalog, parties = room.installation.catalog, room.parties
        ids = [parties.advertiser.account_id, parties.publisher.account_id, parties.stranger.account_id]
        if member == "is no member":
            found = catalog.parties.create_collaboration(member, ids[1:]).id
        elif member == "never was":
            found = "01234567-89ab-cdef-0123-456789abcdef"
        else:
            found = catalog.parties.create_collaboration(member, ids).id
            catalog.parties.set_membership(found, ids[1 if "owner" in member else 0], False)
        before = everything(room.installation)
        asked = job_parameters(parties.advertiser, shared, "c", collaborationId=found)
        answer = room.ask(parties.advertiser, build("StartAudienceGenerationJob", asked))
        assert_rejected(room.installation, answer, 403, "AccessDeniedException")
        assert answer.json["message"] == "The collaboration does not exist, or the caller is not an active member."
        assert everything(room.installation) == before

    assert_each(is_rejected, ["never was", "is no member", "has left", "the owner has left"])


def test_a_symlinked_seed_is_not_fetched(room: Room, shared: str, tmp_path: Path) -> None:
    def is_not_fetched(what: str) -> None:
        worlds.write_seed(tmp_path / "outside.jsonl", [worlds.user(number) for number in range(40)])
        bucket = room.installation.home.accounts / room.parties.advertiser.account_id / "buckets" / "linked-seeds"
        shutil.rmtree(bucket, ignore_errors=True)
        bucket.mkdir(parents=True)
        key = {"a file": "seed.jsonl", "a folder": "folder/outside.jsonl", "a file in a folder": "folder/"}[what]
        if what == "a file in a folder":
            (bucket / "folder").mkdir()
        me = room.parties.advertiser
        seed = {"roleArn": me.role, "dataSource": {"s3Uri": f"s3://linked-seeds/{key}"}}
        job = room.job(shared, f"link {what}", seedAudience=seed)
        # planted after the request was looked at
        if what == "a file":
            (bucket / key).symlink_to(tmp_path / "outside.jsonl")
        elif what == "a folder":
            (bucket / "folder").symlink_to(tmp_path)
        else:
            (bucket / "folder" / "seed.jsonl").symlink_to(tmp_path / "outside.jsonl")
        published, _ = fail_with(room, job)
        assert published["statusCode"] == "SEED_NOT_FOUND"
        assert str(tmp_path) not in published["message"]

    assert_each(is_not_fetched, ["a file", "a folder", "a file in a folder"])


def test_the_minimum_seed_size_cannot_be_lowered(room: Room, publishers: Arns) -> None:
    asked = configured_parameters(room.parties.publisher, publishers.model, "low", minMatchingSeedSize=24)
    answer = room.ask(room.parties.publisher, build("CreateConfiguredAudienceModel", asked))
    assert_rejected(room.installation, answer, 400, "ValidationException")


def test_the_audit_log_contains_no_data(room: Room) -> None:
    """The last on this room."""
    log = in_audit(room.installation)
    assert log.count('"refused"') > 0
    for word in (SEEDS_CANARY, "passwd", "SELECT", "jsonl", room.parties.publisher.secret, "s3:"):
        assert word not in log
    assert room.installation.audit.verify().ok


# with a real server and its worker: who is told what


@dataclass(frozen=True)
class Published:
    """A world in which everything that can go wrong with a seed, a match or a size has."""

    server: Server
    parties: Parties
    jobs: dict[str, str]
    statuses: dict[str, tuple[dict[str, Any], dict[str, Any]]]


def canary(number: int) -> str:
    return f"{CANARY}-{number:04d}"


def write_canaries(home: Path) -> Parties:
    installation = installation_at(home)
    parties = settle(installation)
    accounts = installation.home.accounts
    events = [(canary(int(who[-4:])), item, ts) for who, item, ts in worlds.events()]
    worlds.write_events(accounts / PUBLISHER / "warehouse" / DATABASE / TABLE / "a.parquet", events)
    loyal = [canary(number) for number in range(worlds.N_SEED)]
    customers = pa.table({"user_id": loyal, "visits": pa.array(range(len(loyal)), pa.int64())})
    own = accounts / parties.advertiser.account_id
    pq.write_table(customers, own / "warehouse" / DATABASE / CUSTOMERS / "a.parquet")
    seeds = own / "buckets" / f"{SEEDS_CANARY}-seeds"
    seeds.mkdir(parents=True)
    worlds.write_seed(seeds / "good.jsonl", loyal)
    worlds.write_seed(seeds / "few.jsonl", loyal[:11])
    worlds.write_seed(seeds / "half.jsonl", [*loyal[:13], *(f"{CANARY}-y-{number}" for number in range(44))])
    (seeds / "broken.jsonl").write_text(f'{{"user_id": "{CANARY}"\n' * 37)
    blocked = accounts / PUBLISHER / "buckets" / f"{PLACES_CANARY}-blocked"
    blocked.parent.mkdir(parents=True, exist_ok=True)
    blocked.write_text("a file where a bucket would be")
    return parties


FROM_BUCKET = {
    "good": ("good.jsonl", None),
    "missing": (f"{SEEDS_CANARY}.jsonl", "SEED_NOT_FOUND"),
    "few": ("few.jsonl", "SEED_TOO_SMALL"),
    "half": ("half.jsonl", "INSUFFICIENT_MATCHING_SEED"),
    "broken": ("broken.jsonl", "SEED_INVALID"),
}
FROM_SQL = {
    "division": (f"SELECT CAST(visits / 0 AS STRING) FROM {DATABASE}.{CUSTOMERS}", "SQL_FAILED"),
    "cast": (f"SELECT CAST('{SEEDS_CANARY}' AS INTEGER) FROM {DATABASE}.{CUSTOMERS}", "SQL_FAILED"),
}
EXPORTS = {
    "fits": (20, None),
    "reveals": (60, "SIZE_REVEALS_SEED"),
    "blocked": (20, "DESTINATION_NOT_WRITABLE"),
}


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Published]:
    home = tmp_path_factory.mktemp("told") / "home"
    parties = write_canaries(home)
    with serving(home) as server:
        publisher, advertiser = server.client(parties.publisher), server.client(parties.advertiser)
        table = dataset_parameters(parties.publisher)
        dataset = publisher.create_training_dataset(**table)["trainingDatasetArn"]
        model = publisher.create_audience_model(name="m", trainingDatasetArn=dataset)["audienceModelArn"]
        trained = wait_until_ended(lambda: publisher.get_audience_model(audienceModelArn=model))
        assert trained["status"] == "ACTIVE", trained
        configured = configure(publisher, parties, model)
        role, jobs = parties.advertiser.role, {}
        asked = {
            name: {"roleArn": role, "dataSource": {"s3Uri": f"s3://{SEEDS_CANARY}-seeds/{key}"}}
            for name, (key, _) in FROM_BUCKET.items()
        } | {name: {"roleArn": role, "sqlParameters": {"queryString": sql}} for name, (sql, _) in FROM_SQL.items()}
        for name, seed in asked.items():
            started = advertiser.start_audience_generation_job(
                name=name, configuredAudienceModelArn=configured, seedAudience=seed
            )
            jobs[name] = started["audienceGenerationJobArn"]
        statuses = {}
        for name, job in jobs.items():
            ended = wait_until_ended(partial(advertiser.get_audience_generation_job, audienceGenerationJobArn=job))
            ours = parties.publisher.own(job)
            statuses[name] = (ended, publisher.get_audience_generation_job(audienceGenerationJobArn=ours))
        for name, (size, _) in EXPORTS.items():
            if name == "blocked":
                publisher.update_configured_audience_model(
                    configuredAudienceModelArn=configured, outputConfig=output_at(parties, "blocked")
                )
            advertiser.start_audience_export_job(
                name=name,
                audienceGenerationJobArn=jobs["good"],
                audienceSize={"type": "PERCENTAGE", "value": size},
            )
            ended = wait_until_ended(partial(export_named, advertiser, name))
            statuses[f"export {name}"] = (ended, export_named(publisher, name))
        yield Published(server, parties, jobs, statuses)


def output_at(parties: Parties, name: str) -> dict[str, Any]:
    place = {"s3Destination": {"s3Uri": f"s3://{PLACES_CANARY}-{name}/x"}}
    return {"destination": place, "roleArn": parties.publisher.role}


def configure(publisher: Any, parties: Parties, model: str) -> str:
    parameters = configured_parameters(
        parties.publisher,
        model,
        outputConfig=output_at(parties, "out"),
        audienceSizeConfig={"audienceSizeType": "PERCENTAGE", "audienceSizeBins": [5, 20, 60]},
    )
    arn = str(publisher.create_configured_audience_model(**parameters)["configuredAudienceModelArn"])
    publisher.put_configured_audience_model_policy(
        configuredAudienceModelArn=arn,
        configuredAudienceModelPolicy=policy_for(arn, parties.advertiser.account_id),
    )
    return arn


def export_named(client: Any, name: str) -> dict[str, Any]:
    (found,) = (one for one in client.list_audience_export_jobs()["audienceExportJobs"] if one["name"] == name)
    return dict(found)


EXPECTED = {
    **{name: code for name, (_, code) in FROM_BUCKET.items()},
    **{name: code for name, (_, code) in FROM_SQL.items()},
    **{f"export {name}": code for name, (_, code) in EXPORTS.items()},
}


def test_a_failure_gives_its_reason_without_counts_and_locations(published: Published) -> None:
    def has_its_reason(name: str) -> None:
        for status in published.statuses[name]:
            if EXPECTED[name] is None:
                assert status["status"] == "ACTIVE", status
                assert "statusDetails" not in status
                continue
            assert (status["status"], status["statusDetails"]["statusCode"]) == ("CREATE_FAILED", EXPECTED[name])
            message = status["statusDetails"]["message"]
            assert set(re.findall(r"\b[0-9][0-9,.]*[0-9]|\b[0-9]", message)) <= THRESHOLDS, message
            for word in (CANARY, SEEDS_CANARY, PLACES_CANARY, "s3:", "/", str(published.server.home)):
                assert word not in message

    assert_each(has_its_reason, EXPECTED)


def all_answers(client: Any, account_id: str) -> str:
    """Everything that the operations which read give to a party."""
    said = []
    lists = {
        "training_dataset": ("list_training_datasets", "trainingDatasets", "trainingDatasetArn"),
        "audience_model": ("list_audience_models", "audienceModels", "audienceModelArn"),
        "configured_audience_model": (
            "list_configured_audience_models", "configuredAudienceModels", "configuredAudienceModelArn",
        ),
        "audience_generation_job": (
            "list_audience_generation_jobs", "audienceGenerationJobs", "audienceGenerationJobArn",
        ),
    }  # fmt: skip
    for kind, (method, member, arn) in lists.items():
        for one in getattr(client, method)()[member]:
            said.append(one)
            said.append(getattr(client, f"get_{kind}")(**{arn: one[arn]}))
            said.append(client.list_tags_for_resource(resourceArn=one[arn]))
            if kind == "configured_audience_model":
                said.append(client.get_configured_audience_model_policy(**{arn: one[arn]}))
            if kind == "audience_generation_job":
                assert one[arn].split(":")[4] == account_id
                said.append(client.list_audience_export_jobs(**{arn: one[arn]}))
    said.append(client.list_audience_export_jobs())
    return json.dumps(said, default=str)


def test_neither_side_sees_the_others_data(published: Published) -> None:
    publisher, advertiser, stranger = vars(published.parties).values()
    of_publisher = all_answers(published.server.client(publisher), publisher.account_id)
    of_advertiser = all_answers(published.server.client(advertiser), advertiser.account_id)
    assert PLACES_CANARY in of_publisher
    assert SEEDS_CANARY in of_advertiser
    assert SEEDS_CANARY not in of_publisher
    assert PLACES_CANARY not in of_advertiser
    assert CANARY not in of_publisher + of_advertiser
    installation = installation_at(published.server.home)
    digests = [record.seed_digest for record in installation.catalog.resources.iterate(Kind.GENERATION_JOB)]
    assert any(digests)
    for digest in filter(None, digests):
        assert digest not in of_publisher + of_advertiser
    of_nobody = all_answers(published.server.client(stranger), stranger.account_id)
    for word in (SEEDS_CANARY, PLACES_CANARY, CANARY, publisher.account_id, advertiser.account_id):
        assert word not in of_nobody
    for secret in (publisher.secret, advertiser.secret, stranger.secret):
        assert secret not in of_publisher + of_advertiser + of_nobody


def test_no_log_status_or_event_holds_a_canary(published: Published) -> None:
    home, installation = published.server.home, installation_at(published.server.home)
    secrets = [party.secret for party in vars(published.parties).values()]
    log = published.server.log.read_text(errors="replace")
    audit = in_audit(installation)
    catalog = "\n".join(everything(installation)[0])
    messages = [
        record.status_message or "" for kind in Kind for record in installation.catalog.resources.iterate(kind)
    ]
    for word in (CANARY, SEEDS_CANARY, *secrets):
        for text in (log, audit, *messages):
            assert word not in text
    assert PLACES_CANARY not in audit + "".join(messages)
    assert CANARY not in catalog
    assert not any(secret in catalog for secret in secrets)
    searched = 0
    for path in (home / "dagster_home").rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            searched += len(content)
            for word in (CANARY, SEEDS_CANARY, *secrets):
                assert word.encode() not in content, path.name
    assert searched > 100_000, "Dagster wrote its events somewhere else"
    assert installation.audit.verify().ok


def test_a_server_error_discloses_no_internals(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    """A defect of ours: the client gets the table's sentence, the log the class."""

    def break_down(*_: object, **__: object) -> None:
        raise RuntimeError(f"{CANARY} at {room.installation.home.root}")

    with monkeypatch.context() as patch:
        patch.setattr(type(room.installation.catalog.resources), "list", break_down)
        answer: RawAnswer = room.ask(room.parties.publisher, build("ListAudienceModels", {}))
    assert (answer.status, answer.error) == (500, "InternalServiceException")
    assert CANARY not in answer.body.decode() + json.dumps(dict(answer.headers))
    room.installation.audit.flush()
    entry = entry_of(room.installation, answer)
    assert (entry["outcome"], entry["error"]) == ("failed", "InternalServiceException:RuntimeError")
