"""Training datasets: a table in the caller's warehouse, and the roles of its columns.

Lives here: the four operations on them.
Keep out: reading and validating the table, which a run does.
"""

from collections import Counter
from pathlib import Path
from typing import Final

from cleanroom_pipelines.aws.answers import ApiError, Caller
from cleanroom_pipelines.aws.operations.endpoint import (
    Answer,
    Endpoint,
    Parameters,
    RequestedPages,
    check_quota,
    check_role,
    invalid,
    own_arn,
    page_of,
    times,
)
from cleanroom_pipelines.catalog import Kind, TrainingDataset, TrainingDatasetSpec, slug
from cleanroom_pipelines.catalog.specs import MAX_FEATURES
from cleanroom_pipelines.storage import Home
from cleanroom_pipelines.storage.warehouse import table_of, warehouse_table
from cleanroom_pipelines.uploads.roles import Role
from cleanroom_pipelines.uploads.sources import is_remote

_KIND: Final = Kind.TRAINING_DATASET
_SCHEMA = "trainingData.1.member.inputConfig.schema"


def create(endpoint: Endpoint, caller: Caller, parameters: Parameters) -> Answer:
    """CreateTrainingDataset: the dataset is ACTIVE at once; if its table is invalid, models that use it fail."""
    check_role(caller, parameters["roleArn"])
    check_quota(endpoint, caller.account_id, _KIND)
    [data] = parameters["trainingData"]
    table = data["inputConfig"]["dataSource"]["glueDataSource"]
    if table.get("catalogId", caller.account_id) != caller.account_id:
        raise ApiError("AccessDeniedException", "The catalogue does not belong to the caller's account.")
    schema = data["inputConfig"]["schema"]
    columns = tuple((column["columnName"], Role(column["columnTypes"][0])) for column in schema)
    _check_columns(columns)
    source = warehouse_table(endpoint.home, caller.account_id, table["databaseName"], table["tableName"])
    record = endpoint.catalog.resources.create(
        TrainingDatasetSpec(
            name=parameters["name"],
            description=parameters.get("description"),
            tags=parameters.get("tags", {}),
            source=str(source),
            columns=columns,
            role_arn=parameters["roleArn"],
        ),
        account_id=caller.account_id,
        region=caller.region,
    )
    return {"trainingDatasetArn": record.arn}


def get(endpoint: Endpoint, caller: Caller, parameters: Parameters) -> Answer:
    """GetTrainingDataset: the dataset's columns, and its source as a database and table of AWS Glue."""
    record = _find(endpoint, caller, parameters)
    database, table = _shown_table(endpoint.home, record)
    # The AWS API has no type for a column of item names.
    columns = [(name, role) for name, role in record.columns if role is not Role.ITEM_NAME]
    schema = [{"columnName": name, "columnTypes": [role.value]} for name, role in columns]
    source = {"glueDataSource": {"databaseName": database, "tableName": table, "catalogId": record.account_id}}
    return {
        **_summary(record),
        "roleArn": record.role_arn or f"arn:aws:iam::{record.account_id}:role/operator",
        "trainingData": [{"type": "INTERACTIONS", "inputConfig": {"schema": schema, "dataSource": source}}],
        "tags": dict(record.tags),
    }


def list_all(endpoint: Endpoint, caller: Caller, parameters: Parameters) -> Answer:
    """ListTrainingDatasets: the caller's datasets in the Region of the request."""
    return page_of(endpoint, RequestedPages("trainingDatasets", caller, parameters), _KIND, _summary)


def delete(endpoint: Endpoint, caller: Caller, parameters: Parameters) -> Answer:
    """DeleteTrainingDataset: the dataset is deleted, the caller's table is not."""
    key = own_arn(caller, parameters["trainingDatasetArn"], _KIND)
    endpoint.catalog.deletion.request_delete(_KIND, key, caller.account_id, caller.region)
    return None


def _find(endpoint: Endpoint, caller: Caller, parameters: Parameters) -> TrainingDataset:
    key = own_arn(caller, parameters["trainingDatasetArn"], _KIND)
    return endpoint.catalog.get(TrainingDataset, key, caller.account_id, caller.region)


def _summary(record: TrainingDataset) -> dict[str, object]:
    return {
        **times(record),
        "trainingDatasetArn": record.arn,
        "name": record.name,
        "status": record.status.value,
        "description": record.description,
    }


def _shown_table(home: Home, record: TrainingDataset) -> tuple[str, str]:
    """Return a dataset's database and table names, or display names for a source outside the warehouse.

    A remote source is the operator's own, so its names are not shown.
    """
    if is_remote(record.source):
        return "operator", slug(record.name)
    source = Path(record.source)
    return table_of(home, record.account_id, source) or ("operator", slug(source.stem))


def _check_columns(columns: tuple[tuple[str, Role], ...]) -> None:
    roles = Counter(role for _, role in columns)
    for role in (Role.USER_ID, Role.ITEM_ID, Role.TIMESTAMP):
        if roles[role] != 1:
            raise invalid(_SCHEMA, f"Member must have exactly one {role} column")
    if sum(roles[role] for role in Role if role.is_feature) > MAX_FEATURES:
        raise invalid(_SCHEMA, f"Member must have at most {MAX_FEATURES} features")
    if len({name.lower() for name, _ in columns}) < len(columns):
        raise invalid(_SCHEMA, "Member must not name a column twice")
