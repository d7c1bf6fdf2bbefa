"""Audience models, trained once on a dataset and a time window, without a seed.

Lives here: the four operations on them.
Keep out: training.
"""

from contextlib import suppress
from datetime import UTC, datetime
from typing import Final

from cleanroom_pipelines.aws.answers import Caller
from cleanroom_pipelines.aws.operations.endpoint import (
    Answer,
    Endpoint,
    Parameters,
    RequestedPages,
    check_quota,
    invalid,
    own_arn,
    page_of,
    stages_of,
    status_details,
    times,
)
from cleanroom_pipelines.catalog import AudienceModel, AudienceModelSpec, Kind, Status, make_arn
from cleanroom_pipelines.errors import ConflictError

_KIND: Final = Kind.AUDIENCE_MODEL
# the last second of the year 9999, the largest time that can be displayed
_LAST_SECOND: Final = 253_402_300_799


def create(endpoint: Endpoint, caller: Caller, parameters: Parameters) -> Answer:
    """CreateAudienceModel: the new model is CREATE_PENDING until a run trains it."""
    check_quota(endpoint, caller.account_id, _KIND)
    if parameters.get("kmsKeyArn") and not endpoint.is_encrypted:
        # Reject a promise that would not be kept; see FROM_AWS.md.
        raise invalid("kmsKeyArn", "Member must be absent unless CLEANROOM_ENCRYPTION=volume is set")
    start, end = (_seconds(parameters, f"trainingData{edge}Time") for edge in ("Start", "End"))
    if start is not None and end is not None and start >= end:
        raise invalid("trainingDataEndTime", "Member must be later than trainingDataStartTime")
    dataset = own_arn(caller, parameters["trainingDatasetArn"], Kind.TRAINING_DATASET)
    _retry_failed_validation(endpoint, caller, dataset)
    record = endpoint.catalog.resources.create(
        AudienceModelSpec(
            name=parameters["name"],
            description=parameters.get("description"),
            tags=parameters.get("tags", {}),
            training_dataset_id=dataset,
            window_start=start,
            window_end=end,
            kms_key_arn=parameters.get("kmsKeyArn"),
        ),
        account_id=caller.account_id,
        region=caller.region,
        parents_must_be_active=True,
    )
    return {"audienceModelArn": record.arn}


def get(endpoint: Endpoint, caller: Caller, parameters: Parameters) -> Answer:
    """GetAudienceModel: `statusDetails` says why the model failed, or which stage its training has reached."""
    key = own_arn(caller, parameters["audienceModelArn"], _KIND)
    record = endpoint.catalog.get(AudienceModel, key, caller.account_id, caller.region)
    return {
        **_summary(record),
        "statusDetails": status_details(record, stages_of(endpoint, [record]).get(key)),
        "trainingDataStartTime": _moment(record.window_start),
        "trainingDataEndTime": _moment(record.window_end),
        "kmsKeyArn": record.kms_key_arn,
        "tags": dict(record.tags),
    }


def list_all(endpoint: Endpoint, caller: Caller, parameters: Parameters) -> Answer:
    """ListAudienceModels: the caller's models in the Region of the request."""
    return page_of(endpoint, RequestedPages("audienceModels", caller, parameters), _KIND, _summary)


def delete(endpoint: Endpoint, caller: Caller, parameters: Parameters) -> Answer:
    """DeleteAudienceModel: the model is DELETE_PENDING until a run deletes its data."""
    key = own_arn(caller, parameters["audienceModelArn"], _KIND)
    endpoint.catalog.deletion.request_delete(_KIND, key, caller.account_id, caller.region)
    return None


def _retry_failed_validation(endpoint: Endpoint, caller: Caller, dataset: str) -> None:
    """Validate a failed dataset again, because its owner may have fixed the table since."""
    newest = endpoint.catalog.resources.newest_version(Kind.TRAINING_DATASET, dataset, caller.account_id)
    if newest.status is Status.CREATE_FAILED:
        with suppress(ConflictError):  # another process already retried it
            endpoint.catalog.work.retry(Kind.TRAINING_DATASET, dataset)


def _summary(record: AudienceModel) -> dict[str, object]:
    dataset = make_arn(Kind.TRAINING_DATASET, record.account_id, record.region, record.training_dataset_id)
    return {
        **times(record),
        "audienceModelArn": record.arn,
        "name": record.name,
        "trainingDatasetArn": dataset,
        "status": record.status.value,
        "description": record.description,
    }


def _seconds(parameters: Parameters, member: str) -> int | None:
    """Return the start or end of the training window in epoch seconds, rounded up; the window excludes its end."""
    moment = parameters.get(member)
    seconds = None if moment is None else -int(-moment.timestamp() // 1)
    if seconds is not None and seconds > _LAST_SECOND:
        raise invalid(member, "Member must be before the year 10000")
    return seconds


def _moment(seconds: int | None) -> datetime | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC)
