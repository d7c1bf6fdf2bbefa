"""The AWS road attacked: the publisher reads what the jobs on its model tell of the advertiser's seed.

Lives here: the two accounts, their resources, jobs through the operations' own handlers, and what is read of them.
Add here when a further way of asking is the AWS road's alone.
Keep out: guessing (guessing) and data rooms (playing).
"""

import json
import uuid
from collections.abc import Iterable, Mapping
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from cleanroom_pipelines.cleanroomsml.answers import ApiError, Caller
from cleanroom_pipelines.cleanroomsml.handlers import OPERATIONS
from cleanroom_pipelines.cleanroomsml.operations.endpoint import Endpoint
from cleanroom_pipelines.errors import CleanroomError
from cleanroom_pipelines.serving.attacks.worlds import POPULATION, VICTIM, World

Numbers = dict[str, float]
_REGION, _DATABASE = "eu-central-1", "shop"
_PUBLISHER, _ADVERTISER = "222222222222", "111111111111"
_ROLES = {"user": "USER_ID", "item": "ITEM_ID", "ts": "TIMESTAMP"}
_FIRST_SECOND = 1_700_000_000
_JOIN = "SELECT a.user_id FROM shop.members AS a JOIN shop.visits AS b ON a.user_id = b.user_id"


def make_model(world: World) -> None:
    """Makes the template: both accounts, the publisher's model, and the advertiser's leave to use it."""
    home, catalog = world.installation.home, world.installation.catalog
    for name, account_id in (("publisher", _PUBLISHER), ("advertiser", _ADVERTISER)):
        catalog.create_account(name, account_id)
    rows = [(each, item) for each in sorted({*POPULATION.users, VICTIM}) for item in POPULATION.segments[each]]
    folder = home.accounts / _PUBLISHER / "warehouse" / _DATABASE / "events"
    folder.mkdir(parents=True)
    seconds = pa.array(range(_FIRST_SECOND, _FIRST_SECOND + len(rows)), pa.int64())
    users, items = zip(*rows, strict=True)
    pq.write_table(pa.table({"user": users, "item": items, "ts": seconds}), folder / "a.parquet")
    source = {"glueDataSource": {"databaseName": _DATABASE, "tableName": "events"}}
    schema = [{"columnName": name, "columnTypes": [role]} for name, role in _ROLES.items()]
    data = {"type": "INTERACTIONS", "inputConfig": {"schema": schema, "dataSource": source}}
    dataset = _call(world, _PUBLISHER, "CreateTrainingDataset", name="events", roleArn=_role(_PUBLISHER),
                    trainingData=[data])["trainingDatasetArn"]  # fmt: skip
    world.work()
    model = _call(world, _PUBLISHER, "CreateAudienceModel", name="model", trainingDatasetArn=dataset)
    world.work()
    destination = {"s3Destination": {"s3Uri": "s3://publisher-audiences/shop"}}
    configured = _call(
        world,
        _PUBLISHER,
        "CreateConfiguredAudienceModel",
        name="lookalikes",
        audienceModelArn=model["audienceModelArn"],
        outputConfig={"destination": destination, "roleArn": _role(_PUBLISHER)},
        sharedAudienceMetrics=["ALL"],
        minMatchingSeedSize=25,
        audienceSizeConfig={"audienceSizeType": "PERCENTAGE", "audienceSizeBins": [5, 10, 20]},
    )["configuredAudienceModelArn"]
    statement = {
        "Effect": "Allow",
        "Principal": {"AWS": [_ADVERTISER]},
        "Action": "cleanrooms-ml:StartAudienceGenerationJob",
        "Resource": configured,
    }
    policy = json.dumps({"Version": "2012-10-17", "Statement": [statement]})
    _call(world, _PUBLISHER, "PutConfiguredAudienceModelPolicy", configuredAudienceModelArn=configured,
          configuredAudienceModelPolicy=policy)  # fmt: skip
    world.work()
    world.room = configured


def metrics_and_exports(world: World, is_in: bool) -> dict[str, Numbers]:
    """The publisher reads metrics and exports of the advertiser's refreshed seeds."""
    told: Numbers = {}
    lists: Numbers = {}
    for number in range(4):
        seed = (*POPULATION.seed, f"stranger{number}", *((VICTIM,) if is_in else ()))
        job = _start(world, {"dataSource": {"s3Uri": _put_seed(world, seed, number)}})
        told |= _read(world, job, f"{number}")
        lists |= _export(world, job, f"{number}")
    return {"AWS metrics": told, "exports of jobs": lists}


def two_tables(world: World, is_in: bool) -> dict[str, Numbers]:
    """The publisher reads what SQL over two tables of the advertiser's gives; the victim is in one of them."""
    told: Numbers = {}
    for number in range(2):
        _put_table(world, "members", (*POPULATION.seed, VICTIM, f"stranger{number}"))
        _put_table(world, "visits", (*POPULATION.seed, f"stranger{number}", *((VICTIM,) if is_in else ())))
        job = _start(world, {"sqlParameters": {"queryString": f"{_JOIN} WHERE a.n >= -{number}"}})
        told |= _read(world, job, f"{number}") | _export(world, job, f"{number}")
    return {"SQL seeds over two tables": told}


def threshold(world: World, is_in: bool) -> dict[str, Numbers]:
    """The publisher looks whether 245 known users and perhaps the victim are enough for a job."""
    told: Numbers = {}
    for number in range(2):
        seed = (*POPULATION.seed[:245], f"stranger{number}", *((VICTIM,) if is_in else ()))
        told |= _read(world, _start(world, {"dataSource": {"s3Uri": _put_seed(world, seed, number)}}), f"{number}")
    return {"thresholds of jobs": told}


def _start(world: World, seed: Mapping[str, Any]) -> str | None:
    """Start a job as the advertiser and do its work; None where it was refused."""
    try:
        answer = _call(
            world,
            _ADVERTISER,
            "StartAudienceGenerationJob",
            name=f"loyal {world.installation.token_hex(4)}",
            configuredAudienceModelArn=world.room,
            seedAudience={"roleArn": _role(_ADVERTISER), **seed},
        )
    except (ApiError, CleanroomError):
        return None
    world.work()
    return str(answer["audienceGenerationJobArn"]).replace(_ADVERTISER, _PUBLISHER)


def _read(world: World, job: str | None, name: str) -> Numbers:
    if job is None:
        return {f"{name} refused": 1.0}
    told = _call(world, _PUBLISHER, "GetAudienceGenerationJob", audienceGenerationJobArn=job)
    numbers = {f"{name} {told['status']}": 1.0}
    if metrics := told.get("metrics"):
        numbers[f"{name} recall"] = metrics["recallMetric"]
        for each in metrics["relevanceMetrics"]:
            numbers[f"{name} relevance {each['audienceSize']['value']}"] = each["score"] or 0.0
    return numbers


def _export(world: World, job: str | None, name: str) -> Numbers:
    if job is None:
        return {}
    folder = world.installation.home.accounts / _PUBLISHER / "buckets" / "publisher-audiences"
    before = set(folder.rglob("*.csv"))
    size = {"type": "PERCENTAGE", "value": 20}
    try:
        _call(world, _PUBLISHER, "StartAudienceExportJob", name=f"best {name}", audienceGenerationJobArn=job,
              audienceSize=size)  # fmt: skip
    except (ApiError, CleanroomError):
        return {}
    world.work()
    lines = [line for path in set(folder.rglob("*.csv")) - before for line in path.read_text().split()]
    return {f"{name} lists {each}": 1.0 for each in lines}


def _call(world: World, account_id: str, operation: str, **parameters: Any) -> Mapping[str, Any]:
    installation = world.installation
    endpoint = Endpoint(
        installation.catalog,
        installation.home,
        installation.buckets,
        lambda: str(uuid.uuid4()),
        max_unfinished_jobs=1_000_000,
        max_resources=1_000_000,
    )
    return OPERATIONS[operation](endpoint, Caller(account_id, "-", _REGION), parameters) or {}


def _put_seed(world: World, users: Iterable[str], number: int) -> str:
    folder = world.installation.home.accounts / _ADVERTISER / "buckets" / "advertiser-seeds"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{number}.jsonl").write_text("".join(json.dumps({"user_id": each}) + "\n" for each in users))
    return f"s3://advertiser-seeds/{number}.jsonl"


def _put_table(world: World, name: str, users: tuple[str, ...]) -> None:
    folder = world.installation.home.accounts / _ADVERTISER / "warehouse" / _DATABASE / name
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"user_id": users, "n": pa.array(range(len(users)), pa.int64())}), folder / "a.parquet")


def _role(account_id: str) -> str:
    return f"arn:aws:iam::{account_id}:role/clean-room"
