"""Attacks on the lookalike (AWS) API: the publisher tries to learn who is in the advertiser's seed.

Lives here: the two accounts, their resources, running jobs through the API's handlers, and reading their results.
Add here when an attack uses the lookalike API only.
Keep out: guessing (guessing) and data rooms (playing).
"""

import json
from collections.abc import Iterable, Mapping
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from cleanroom_pipelines.aws.answers import ApiError
from cleanroom_pipelines.benchmarks.attacks.worlds import POPULATION, VICTIM, Numbers, World, with_victim
from cleanroom_pipelines.errors import CleanroomError

_DATABASE = "shop"
PUBLISHER, ADVERTISER = "222222222222", "111111111111"
_ROLES = {"user": "USER_ID", "item": "ITEM_ID", "ts": "TIMESTAMP"}
_FIRST_SECOND = 1_700_000_000
_JOIN = "SELECT a.user_id FROM shop.members AS a JOIN shop.visits AS b ON a.user_id = b.user_id"


def make_model(world: World) -> None:
    """Build the installation to attack: two accounts, and the publisher's model, which the advertiser may use."""
    home, catalog = world.installation.home, world.installation.catalog
    for name, account_id in (("publisher", PUBLISHER), ("advertiser", ADVERTISER)):
        catalog.parties.create_account(name, account_id)
    rows = [(each, item) for each in sorted({*POPULATION.users, VICTIM}) for item in POPULATION.segments[each]]
    folder = home.accounts / PUBLISHER / "warehouse" / _DATABASE / "events"
    folder.mkdir(parents=True)
    seconds = pa.array(range(_FIRST_SECOND, _FIRST_SECOND + len(rows)), pa.int64())
    users, items = zip(*rows, strict=True)
    pq.write_table(pa.table({"user": users, "item": items, "ts": seconds}), folder / "a.parquet")
    source = {"glueDataSource": {"databaseName": _DATABASE, "tableName": "events"}}
    schema = [{"columnName": name, "columnTypes": [role]} for name, role in _ROLES.items()]
    data = {"type": "INTERACTIONS", "inputConfig": {"schema": schema, "dataSource": source}}
    dataset = _call(world, PUBLISHER, "CreateTrainingDataset", name="events", roleArn=_role(PUBLISHER),
                    trainingData=[data])["trainingDatasetArn"]  # fmt: skip
    world.work()
    model = _call(world, PUBLISHER, "CreateAudienceModel", name="model", trainingDatasetArn=dataset)
    world.work()
    destination = {"s3Destination": {"s3Uri": "s3://publisher-audiences/shop"}}
    configured = _call(
        world,
        PUBLISHER,
        "CreateConfiguredAudienceModel",
        name="lookalikes",
        audienceModelArn=model["audienceModelArn"],
        outputConfig={"destination": destination, "roleArn": _role(PUBLISHER)},
        sharedAudienceMetrics=["ALL"],
        minMatchingSeedSize=25,
        audienceSizeConfig={"audienceSizeType": "PERCENTAGE", "audienceSizeBins": [5, 10, 20]},
    )["configuredAudienceModelArn"]
    statement = {
        "Effect": "Allow",
        "Principal": {"AWS": [ADVERTISER]},
        "Action": "cleanrooms-ml:StartAudienceGenerationJob",
        "Resource": configured,
    }
    policy = json.dumps({"Version": "2012-10-17", "Statement": [statement]})
    _call(world, PUBLISHER, "PutConfiguredAudienceModelPolicy", configuredAudienceModelArn=configured,
          configuredAudienceModelPolicy=policy)  # fmt: skip
    world.work()
    world.room = configured


def metrics_and_exports(world: World, is_in: bool) -> dict[str, Numbers]:
    """Attack: the publisher reads metrics and an export of an advertiser's job that costs most of the budget."""
    job = _start(world, {"dataSource": {"s3Uri": _put_seed(world, with_victim(POPULATION.seed, is_in))}})
    return {
        "comparing metrics of AWS jobs": _read(world, job),
        "comparing exports of AWS jobs": _export(world, job),
    }


def two_tables(world: World, is_in: bool) -> dict[str, Numbers]:
    """Attack: the publisher reads the results of a seed from a SQL join; one joined table may lack the victim."""
    _put_table(world, "members", (*POPULATION.seed, VICTIM))
    _put_table(world, "visits", with_victim(POPULATION.seed, is_in))
    job = _start(world, {"sqlParameters": {"queryString": _JOIN}})
    return {"SQL seeds over two tables": _read(world, job) | _export(world, job)}


def threshold(world: World, is_in: bool) -> dict[str, Numbers]:
    """Attack: the publisher tests whether a seed of 245 known users, and possibly the victim, is large enough."""
    seed = with_victim(POPULATION.seed[:245], is_in)
    return {
        "testing thresholds of AWS jobs": _read(
            world, _start(world, {"dataSource": {"s3Uri": _put_seed(world, seed)}})
        )
    }


def _start(world: World, seed: Mapping[str, Any]) -> str | None:
    """Start a job as the advertiser and run its work; None if the job was rejected."""
    try:
        answer = _call(
            world,
            ADVERTISER,
            "StartAudienceGenerationJob",
            name="loyal",
            configuredAudienceModelArn=world.room,
            seedAudience={"roleArn": _role(ADVERTISER), **seed},
        )
    except (ApiError, CleanroomError):
        return None
    world.work()
    return str(answer["audienceGenerationJobArn"]).replace(ADVERTISER, PUBLISHER)


def _read(world: World, job: str | None) -> Numbers:
    if job is None:
        return {"rejected": 1.0}
    response = _call(world, PUBLISHER, "GetAudienceGenerationJob", audienceGenerationJobArn=job)
    numbers = {str(response["status"]): 1.0}
    if metrics := response.get("metrics"):
        numbers["recall"] = metrics.get("recallMetric") or 0.0
        for each in metrics["relevanceMetrics"]:
            numbers[f"relevance {each['audienceSize']['value']}"] = each.get("score") or 0.0
    return numbers


def _export(world: World, job: str | None) -> Numbers:
    if job is None:
        return {}
    folder = world.installation.home.accounts / PUBLISHER / "buckets" / "publisher-audiences"
    size = {"type": "PERCENTAGE", "value": 20}
    try:
        _call(world, PUBLISHER, "StartAudienceExportJob", name="best", audienceGenerationJobArn=job,
              audienceSize=size)  # fmt: skip
    except (ApiError, CleanroomError):
        return {}
    world.work()
    lines = [line for path in folder.rglob("part-*.jsonl") for line in path.read_text().splitlines()]
    return {f"lists {each}": 1.0 for each in lines}


def _call(world: World, account_id: str, operation: str, **parameters: Any) -> Mapping[str, Any]:
    return world.doors.lookalikes(account_id, operation, parameters)


def _put_seed(world: World, users: Iterable[str]) -> str:
    folder = world.installation.home.accounts / ADVERTISER / "buckets" / "advertiser-seeds"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "seed.jsonl").write_text("".join(json.dumps({"user_id": each}) + "\n" for each in users))
    return "s3://advertiser-seeds/seed.jsonl"


def _put_table(world: World, name: str, users: tuple[str, ...]) -> None:
    folder = world.installation.home.accounts / ADVERTISER / "warehouse" / _DATABASE / name
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(
        pa.table({"user_id": users, "n": pa.array(range(len(users)), pa.int64())}), folder / "a.parquet"
    )


def _role(account_id: str) -> str:
    return f"arn:aws:iam::{account_id}:role/clean-room"
