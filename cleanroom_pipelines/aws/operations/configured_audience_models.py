"""Configured audience models: a model's audience sizes, output location, sharing and policy.

Lives here: the eight operations on them and on their policies.
Keep out: evaluating policies (`policies.py`).
"""

from typing import Any, Final

from cleanroom_pipelines.audiences.sizes import DEFAULT_SIZES, AudienceSize, SizeType
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
from cleanroom_pipelines.aws.policies import read_policy
from cleanroom_pipelines.catalog import (
    ChildTagPolicy,
    ConfiguredAudienceModel,
    ConfiguredAudienceModelSpec,
    Kind,
    ShareMetrics,
    make_arn,
)
from cleanroom_pipelines.catalog.specs import DEFAULT_MIN_MATCHING_SEED_SIZE

_KIND: Final = Kind.CONFIGURED_AUDIENCE_MODEL
_BINS = "audienceSizeConfig.audienceSizeBins"


def create(endpoint: Endpoint, caller: Caller, parameters: Parameters) -> Answer:
    """CreateConfiguredAudienceModel: the audience model that it uses must be ACTIVE."""
    check_quota(endpoint, caller.account_id, _KIND)
    model = own_arn(caller, parameters["audienceModelArn"], Kind.AUDIENCE_MODEL)
    spec = ConfiguredAudienceModelSpec(
        name=parameters["name"],
        description=parameters.get("description"),
        tags=parameters.get("tags", {}),
        audience_model_id=model,
        sizes=_sizes(parameters) or DEFAULT_SIZES,
        min_matching_seed_size=parameters.get("minMatchingSeedSize", DEFAULT_MIN_MATCHING_SEED_SIZE),
        share_metrics=ShareMetrics(parameters["sharedAudienceMetrics"][0]),
        child_tag_policy=ChildTagPolicy(parameters.get("childResourceTagOnCreatePolicy", "NONE")),
        **_output(endpoint, caller, parameters),
    )
    record = endpoint.catalog.resources.create(
        spec, account_id=caller.account_id, region=caller.region, parents_must_be_active=True
    )
    return {"configuredAudienceModelArn": record.arn}


def get(endpoint: Endpoint, caller: Caller, parameters: Parameters) -> Answer:
    """GetConfiguredAudienceModel: the configured model's sizes, smallest seed, shared metrics and tags."""
    record = _find(endpoint, caller, parameters)
    bins = {
        "audienceSizeType": record.sizes[0].type.value,
        "audienceSizeBins": sorted(int(size.value) for size in record.sizes),
    }
    return {
        **_summary(record),
        "sharedAudienceMetrics": [record.share_metrics.value],
        "minMatchingSeedSize": record.min_matching_seed_size,
        "audienceSizeConfig": bins,
        "tags": dict(record.tags),
        "childResourceTagOnCreatePolicy": record.child_tag_policy.value,
    }


def update(endpoint: Endpoint, caller: Caller, parameters: Parameters) -> Answer:
    """UpdateConfiguredAudienceModel: changes apply to jobs that start after the update."""
    key = _key(caller, parameters)
    changes: dict[str, Any] = {}
    if "outputConfig" in parameters:
        changes |= _output(endpoint, caller, parameters)
    if "audienceModelArn" in parameters:
        changes["audience_model_id"] = own_arn(caller, parameters["audienceModelArn"], Kind.AUDIENCE_MODEL)
    if "sharedAudienceMetrics" in parameters:
        changes["share_metrics"] = ShareMetrics(parameters["sharedAudienceMetrics"][0])
    if "minMatchingSeedSize" in parameters:
        changes["min_matching_seed_size"] = parameters["minMatchingSeedSize"]
    if sizes := _sizes(parameters):
        changes["sizes"] = sizes
    if "description" in parameters:
        changes["description"] = parameters["description"]
    record = endpoint.catalog.resources.update_configured_audience_model(
        key, caller.account_id, region=caller.region, parents_must_be_active=True, **changes
    )
    return {"configuredAudienceModelArn": record.arn}


def list_all(endpoint: Endpoint, caller: Caller, parameters: Parameters) -> Answer:
    """ListConfiguredAudienceModels: the caller's configured models in the Region of the request."""
    return page_of(endpoint, RequestedPages("configuredAudienceModels", caller, parameters), _KIND, _summary)


def delete(endpoint: Endpoint, caller: Caller, parameters: Parameters) -> Answer:
    """DeleteConfiguredAudienceModel: the configured model's policy is deleted too."""
    endpoint.catalog.deletion.request_delete(_KIND, _key(caller, parameters), caller.account_id, caller.region)
    return None


def put_policy(endpoint: Endpoint, caller: Caller, parameters: Parameters) -> Answer:
    """PutConfiguredAudienceModelPolicy: reject a policy that this server cannot evaluate exactly as AWS does."""
    key = _key(caller, parameters)
    text = parameters["configuredAudienceModelPolicy"]
    endpoint.catalog.get(ConfiguredAudienceModel, key, caller.account_id, caller.region)
    read_policy(
        text,
        parameters["configuredAudienceModelArn"],
        is_known=lambda account: any(each.id == account for each in endpoint.catalog.parties.accounts()),
    )
    condition = parameters.get("policyExistenceCondition")
    policy_hash = endpoint.catalog.parties.put_policy(
        key,
        caller.account_id,
        text,
        previous_hash=parameters.get("previousPolicyHash"),
        must_exist=None if condition is None else condition == "POLICY_MUST_EXIST",
    )
    return {"configuredAudienceModelPolicy": text, "policyHash": policy_hash}


def get_policy(endpoint: Endpoint, caller: Caller, parameters: Parameters) -> Answer:
    """GetConfiguredAudienceModelPolicy: return the policy exactly as it was stored, and its hash."""
    record = _find(endpoint, caller, parameters)
    if record.policy is None:
        raise ApiError("ResourceNotFoundException", "The configured audience model has no policy.")
    return {
        "configuredAudienceModelArn": record.arn,
        "configuredAudienceModelPolicy": record.policy,
        "policyHash": record.policy_hash,
    }


def delete_policy(endpoint: Endpoint, caller: Caller, parameters: Parameters) -> Answer:
    """DeleteConfiguredAudienceModelPolicy: delete the policy; raise an error if the model has none."""
    record = _find(endpoint, caller, parameters)
    if record.policy is None:
        raise ApiError("ResourceNotFoundException", "The configured audience model has no policy.")
    endpoint.catalog.parties.delete_policy(record.id, caller.account_id)
    return None


def _key(caller: Caller, parameters: Parameters) -> str:
    return own_arn(caller, parameters["configuredAudienceModelArn"], _KIND)


def _find(endpoint: Endpoint, caller: Caller, parameters: Parameters) -> ConfiguredAudienceModel:
    return endpoint.catalog.get(
        ConfiguredAudienceModel, _key(caller, parameters), caller.account_id, caller.region
    )


def _summary(record: ConfiguredAudienceModel) -> dict[str, object]:
    output = {
        "destination": {"s3Destination": {"s3Uri": record.output_url}},
        "roleArn": record.output_role_arn or f"arn:aws:iam::{record.account_id}:role/operator",
    }
    return {
        **times(record),
        "name": record.name,
        "audienceModelArn": make_arn(
            Kind.AUDIENCE_MODEL, record.account_id, record.region, record.audience_model_id
        ),
        "outputConfig": output,
        "configuredAudienceModelArn": record.arn,
        "status": record.status.value,
        "description": record.description,
    }


def _output(endpoint: Endpoint, caller: Caller, parameters: Parameters) -> dict[str, Any]:
    output = parameters["outputConfig"]
    check_role(caller, output["roleArn"])
    url = output["destination"]["s3Destination"]["s3Uri"]
    endpoint.buckets.destination(caller.account_id, url)  # rejects another account's bucket and invalid locations
    return {"output_url": url, "output_role_arn": output["roleArn"]}


def _sizes(parameters: Parameters) -> tuple[AudienceSize, ...]:
    config = parameters.get("audienceSizeConfig")
    if config is None:
        return ()
    kind, values = SizeType(config["audienceSizeType"]), config["audienceSizeBins"]
    if kind is SizeType.PERCENTAGE and max(values) > 100:
        raise invalid(_BINS, "Member must contain percentages from 1 to 100")
    if len(set(values)) < len(values):
        raise invalid(_BINS, "Member must not repeat a size")
    return tuple(AudienceSize(kind, value) for value in values)
