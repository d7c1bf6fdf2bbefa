"""Audience export jobs: the top users at one allowed size, written to the model owner's output location.

Lives here: the two operations on them.
Keep out: writing the exports.
"""

from typing import Any

from cleanroom_pipelines.audiences.sizes import AudienceSize, SizeType
from cleanroom_pipelines.aws.answers import Caller
from cleanroom_pipelines.aws.operations.endpoint import (
    Answer,
    Endpoint,
    Parameters,
    RequestedPages,
    check_quota,
    invalid,
    own_arn,
    stages_of,
    status_details,
    times,
)
from cleanroom_pipelines.catalog import ExportJob, ExportJobSpec, Kind, Stage, make_arn


def start(endpoint: Endpoint, caller: Caller, parameters: Parameters) -> Answer:
    """StartAudienceExportJob: the size must be one that the configured model allows."""
    key = own_arn(caller, parameters["audienceGenerationJobArn"], Kind.GENERATION_JOB)
    seen = endpoint.catalog.job_views.job_view(key, caller.account_id, caller.region)
    size = parameters["audienceSize"]
    kind, value = SizeType(size["type"]), size["value"]
    if kind is SizeType.PERCENTAGE and value > 100:
        raise invalid("audienceSize.value", "Member must be a percentage from 1 to 100")
    check_quota(endpoint, seen.owner_account_id, Kind.EXPORT_JOB)
    endpoint.catalog.resources.create(
        ExportJobSpec(
            name=parameters["name"],
            description=parameters.get("description"),
            generation_job_id=seen.job.id,
            size=AudienceSize(kind, value),
            started_by=caller.account_id,
        ),
        account_id=seen.owner_account_id,
        region=caller.region,
        parents_must_be_active=True,
    )
    return None


def list_all(endpoint: Endpoint, caller: Caller, parameters: Parameters) -> Answer:
    """ListAudienceExportJobs: the model's owner sees all exports, another account only its own exports."""
    arn = parameters.get("audienceGenerationJobArn")
    key = own_arn(caller, arn, Kind.GENERATION_JOB) if arn is not None else None
    if key is not None:
        endpoint.catalog.job_views.job_view(key, caller.account_id, caller.region)
    listing = RequestedPages("audienceExportJobs", caller, parameters)
    page = endpoint.catalog.job_views.list_viewed_exports(
        caller.account_id, caller.region, generation_job_id=key, **listing.paging()
    )
    stages = stages_of(endpoint, page.items)
    return listing.page(page, lambda record: _summary(record, stages.get(record.id)))


def _summary(record: ExportJob, stage: Stage | None) -> dict[str, Any]:
    return {
        **times(record),
        "name": record.name,
        # each side knows the job by its own ARN
        "audienceGenerationJobArn": make_arn(
            Kind.GENERATION_JOB, record.account_id, record.region, record.generation_job_id
        ),
        "audienceSize": {"type": record.size.type.value, "value": int(record.size.value)},
        "description": record.description,
        "status": record.status.value,
        "statusDetails": status_details(record, stage),
        # output locations are never visible across accounts: the catalogue returns them to the owner only
        "outputLocation": record.output_location,
    }
