"""Tables of warehouses, as runs read them.

Contract: a missing table is named as its account named it; the newest training dataset on a text table gives its
columns types for SQL, until a `_schema.json` does.
"""

import json
from pathlib import Path

import pytest

from cleanroom_pipelines.catalog import GenerationJob, TrainingDataset
from cleanroom_pipelines.engine import Runtime
from cleanroom_pipelines.errors import StatusCode, TrainingDataError
from cleanroom_pipelines.runs.requested_seeds import fetch_requested_seed
from cleanroom_pipelines.runs.sources import opened_tables
from cleanroom_pipelines_tests.server.server import ADVERTISER, Room, dataset_parameters


@pytest.fixture
def room(tmp_path: Path) -> Room:
    return Room.open(tmp_path / "home")


def test_a_missing_table_is_named(room: Room) -> None:
    parameters = dataset_parameters(room.parties.publisher)
    parameters["trainingData"][0]["inputConfig"]["dataSource"]["glueDataSource"]["tableName"] = "no events"
    arn = room.publisher.create_training_dataset(**parameters)["trainingDatasetArn"]
    installation = room.installation
    dataset = installation.catalog.get(TrainingDataset, arn.rpartition("/")[2])
    with (
        pytest.raises(TrainingDataError, match=r"shop\.no events does not exist") as caught,
        opened_tables(installation, dataset, Runtime(installation.engine_settings)),
    ):
        pass
    assert caught.value.status_code is StatusCode.TRAINING_DATA_NOT_FOUND
    assert f"warehouse-{room.parties.publisher.account_id}" in caught.value.remedy


def test_a_training_dataset_gives_a_text_table_types(room: Room) -> None:
    folder = room.installation.home.accounts / ADVERTISER / "warehouse" / "shop" / "visits"
    folder.mkdir()
    (folder / "a.csv").write_text("user_id,item,ts,n\nu1,i,1,9\nu2,i,1,10\nu3,i,1,11\n")
    me = room.parties.advertiser
    parameters = dataset_parameters(me)
    config = parameters["trainingData"][0]["inputConfig"]
    config["dataSource"]["glueDataSource"]["tableName"] = "visits"

    def declare(name: str, role: str) -> None:
        roles = {"user_id": "USER_ID", "item": "ITEM_ID", "ts": "TIMESTAMP", "n": role}
        config["schema"] = [{"columnName": column, "columnTypes": [each]} for column, each in roles.items()]
        room.advertiser.create_training_dataset(**parameters | {"name": name})

    configured = room.shared()

    def users(name: str) -> list[str]:
        sql = {"queryString": "SELECT user_id FROM shop.visits WHERE n < 10.5 ORDER BY user_id"}
        arn = room.job(configured, name, seedAudience={"roleArn": me.role, "sqlParameters": sql})
        job = room.installation.catalog.get(GenerationJob, arn.rpartition("/")[2])
        fetched = fetch_requested_seed(room.installation, job)
        assert fetched.seed_location is not None
        with room.installation.vault.opening(fetched.seed_location, fetched.seed_digest) as seed:
            return [json.loads(line)["user_id"] for line in Path(seed).read_text().splitlines()]

    declare("as words", "CATEGORICAL_FEATURE")
    declare("as numbers", "NUMERICAL_FEATURE")
    assert users("by the dataset") == ["u1", "u2"]
    (folder / "_schema.json").write_text('[{"Name": "n", "Type": "tinyint"}]')
    (folder / "a.csv").write_text("user_id,item,ts,n\nu1,i,1,9\nu2,i,1,1000\n")
    assert users("by the schema") == ["u1"]
