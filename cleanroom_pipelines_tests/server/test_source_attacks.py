"""Attacks: an account cannot make the operator's credentials read a place that it names.

Contract: over HTTP a training dataset is a table of the account's own warehouse, and a seed an object of the
account's own bucket, whatever their names look like. A source that the operator declared for an account is not
shown to it.
"""

from pathlib import Path

import pytest
from botocore.exceptions import ClientError
from moto.server import ThreadedMotoServer

from cleanroom_pipelines.catalog import Kind, TrainingDatasetSpec
from cleanroom_pipelines.errors import SeedError
from cleanroom_pipelines.uploads.sources import Sources, is_remote

from .. import worlds
from ..object_stores import PROFILE, empty_store
from .server import REGION, Room, dataset_parameters

REMOTE = (
    "s3://shop/events",
    "gs://shop/events",
    "az://shop/events",
    "delta+file:///etc",
    "delta+s3://shop/events",
    "iceberg://shop/web.events",
    "adbc:SHOP?table=events",
    "adbc:SHOP?query=SELECT 1",
)


@pytest.fixture
def room(tmp_path: Path) -> Room:
    return Room.open(tmp_path / "home")


@pytest.mark.parametrize("source", REMOTE)
def test_a_table_is_never_a_remote_source(source: str, room: Room) -> None:
    scheme, _, rest = source.partition("/")
    for database, table in (
        (source, "events"),
        ("shop", source),
        (scheme, rest or "x"),
        (f"../{source}", "events"),
    ):
        parameters = dataset_parameters(room.parties.publisher)
        place = parameters["trainingData"][0]["inputConfig"]["dataSource"]["glueDataSource"]
        place["databaseName"], place["tableName"] = database, table
        with pytest.raises(ClientError) as caught:
            room.publisher.create_training_dataset(**parameters)
        assert caught.value.response["Error"]["Code"] == "ValidationException"
    assert list(room.installation.catalog.resources.iterate(Kind.TRAINING_DATASET)) == []


def test_a_table_of_a_warehouse_is_a_path(room: Room) -> None:
    room.publisher.create_training_dataset(**dataset_parameters(room.parties.publisher))
    [record] = room.installation.catalog.resources.iterate(Kind.TRAINING_DATASET)
    assert not is_remote(record.source)
    assert not record.declared


def test_a_seed_is_not_read_from_a_bucket_that_only_the_operator_can_read(
    room: Room, store_server: ThreadedMotoServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with empty_store(store_server, tmp_path) as store:
        monkeypatch.setenv("AWS_PROFILE", PROFILE)
        store.client().create_bucket(Bucket="shop")
        store.put("shop", "seed.csv", b"user_id\nu1\n")
        place = room.installation.buckets.locate(room.parties.advertiser.account_id, "s3://shop/seed.csv")
        with pytest.raises(SeedError, match="not found"):
            place.fetch(tmp_path / "seed", max_bytes=1000)


def test_a_remote_source_of_the_operator_is_not_shown(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    record = room.installation.catalog.resources.create(
        TrainingDatasetSpec(
            name="shoppers",
            source="adbc:SHOP?query=SELECT kanarienvogel FROM secret_table",
            columns=tuple(worlds.ROLES.items()),
        ),
        account_id=room.parties.publisher.account_id,
        region=REGION,
        declared=True,
        digest="1",
    )
    monkeypatch.setattr(Sources, "opening", None)
    shown = room.publisher.get_training_dataset(trainingDatasetArn=record.arn)
    assert not any(word in str(shown["trainingData"]) for word in ("kanarienvogel", "secret", "adbc", "SHOP"))
