"""Tags on all resources that have an ARN.

Lives here: the three operations on them.
Keep out: which tags are allowed (`catalog.names`).
"""

from cleanroom_pipelines.aws.answers import ApiError, Caller
from cleanroom_pipelines.aws.operations.endpoint import Answer, Endpoint, Parameters, is_own
from cleanroom_pipelines.catalog import RECORDS, ArnParts, Kind, parse_arn


def tag(endpoint: Endpoint, caller: Caller, parameters: Parameters) -> Answer:
    """TagResource: add tags, or replace the values of existing ones."""
    parts = _find(endpoint, caller, parameters)
    if parts.kind is Kind.GENERATION_JOB:
        endpoint.catalog.job_views.set_job_view_tags(
            parts.id, caller.account_id, parameters["tags"], caller.region
        )
    else:
        endpoint.catalog.resources.set_tags(parts.kind, parts.id, parameters["tags"], caller.account_id)
    return {}


def untag(endpoint: Endpoint, caller: Caller, parameters: Parameters) -> Answer:
    """UntagResource: remove tags; unknown keys are ignored."""
    parts = _find(endpoint, caller, parameters)
    if parts.kind is Kind.GENERATION_JOB:
        endpoint.catalog.job_views.remove_job_view_tags(
            parts.id, caller.account_id, parameters["tagKeys"], caller.region
        )
    else:
        endpoint.catalog.resources.remove_tags(parts.kind, parts.id, parameters["tagKeys"], caller.account_id)
    return {}


def list_for_resource(endpoint: Endpoint, caller: Caller, parameters: Parameters) -> Answer:
    """ListTagsForResource: return a resource's tags; for a cross-account job, only the caller's tags."""
    parts = _find(endpoint, caller, parameters)
    if parts.kind is Kind.GENERATION_JOB:
        return {
            "tags": dict(endpoint.catalog.job_views.job_view(parts.id, caller.account_id, caller.region).job.tags)
        }
    return {"tags": dict(endpoint.catalog.resources.tags(parts.kind, parts.id, caller.account_id))}


def _find(endpoint: Endpoint, caller: Caller, parameters: Parameters) -> ArnParts:
    parts = parse_arn(parameters["resourceArn"])
    if parts is None or not is_own(caller, parts):
        raise ApiError("ResourceNotFoundException", "There is no such resource in this account and Region.")
    if parts.kind is not Kind.GENERATION_JOB:
        endpoint.catalog.get(RECORDS[parts.kind], parts.id, caller.account_id, caller.region)
    return parts
