"""Audience generation jobs, which rank users by similarity to a seed, with any account's model; and their exports.

Lives here: the four operations on jobs, the two on export jobs, and the rules on who may start or see a job.
Keep out: fetching the seed, ranking, and writing exports, which runs do.
"""

from typing import Any, Final

from cleanroom_pipelines.audiences.sizes import AudienceSize, SeedMode, SizeType
from cleanroom_pipelines.aws.answers import ApiError, Caller
from cleanroom_pipelines.aws.operations.endpoint import (
    Answer,
    Endpoint,
    Parameters,
    RequestedPages,
    check_quota,
    check_role,
    invalid,
    is_own,
    not_found,
    own_arn,
    quota_exceeded,
    stages_of,
    status_details,
    times,
)
from cleanroom_pipelines.aws.policies import Policy, may_start, read_policy
from cleanroom_pipelines.catalog import (
    ArnParts,
    ConfiguredAudienceModel,
    ExportJob,
    ExportJobSpec,
    GenerationJob,
    GenerationJobSpec,
    JobView,
    Kind,
    Origin,
    RequestedSeed,
    ShareMetrics,
    Stage,
    Starter,
    Status,
    make_arn,
    parse_arn,
    slug,
)
from cleanroom_pipelines.errors import NotFoundError, SeedError, UsageError
from cleanroom_pipelines.participant_sql.checking import check_query
from cleanroom_pipelines.privacy import COUNT, in_units
from cleanroom_pipelines.runs.private_jobs import cannot_pay, paying_pair
from cleanroom_pipelines.storage.warehouse import warehouse_databases, warehouse_table

_KIND: Final = Kind.GENERATION_JOB
_BUDGET: Final = "privacy budget of the two organisations, in units"


def start(endpoint: Endpoint, caller: Caller, parameters: Parameters) -> Answer:
    """StartAudienceGenerationJob: the caller must own the model, or be allowed by the model's policy."""
    _check_collaboration(endpoint, caller.account_id, parameters.get("collaborationId"))
    seed = _requested_seed(endpoint, caller, parameters)
    parts = parse_arn(parameters["configuredAudienceModelArn"])
    if parts is None or parts.kind is not Kind.CONFIGURED_AUDIENCE_MODEL or parts.region != caller.region:
        raise not_found(Kind.CONFIGURED_AUDIENCE_MODEL)
    is_guest = not is_own(caller, parts)
    if is_guest:
        _check_policy(endpoint, caller, parameters, parts)
    if endpoint.catalog.resources.count_unfinished_jobs(caller.account_id) >= endpoint.max_unfinished_jobs:
        raise quota_exceeded("unfinished audience generation jobs per account", endpoint.max_unfinished_jobs)
    check_quota(endpoint, parts.account_id, _KIND)
    _check_budget(endpoint, caller, parameters, parts)
    _check_query(endpoint, caller, seed)
    name, description, tags = parameters["name"], parameters.get("description"), parameters.get("tags", {})
    record = endpoint.catalog.resources.create(
        GenerationJobSpec(
            name=name,
            # a guest's description and tags are stored in its own view of the job
            description=None if is_guest else description,
            tags={} if is_guest else tags,
            configured_audience_model_id=parts.id,
            seed_location=None,
            seed_digest=None,
            requested_seed=seed,
            seed_mode=SeedMode.FIRST if parameters.get("includeSeedInOutput") else SeedMode.EXCLUDED,
            origin=Origin.API,
            started_by=caller.account_id,
            collaboration_id=parameters.get("collaborationId"),
        ),
        account_id=parts.account_id,
        region=caller.region,
        parents_must_be_active=True,
        starter=Starter(caller.account_id, name, description, tags) if is_guest else None,
    )
    return {"audienceGenerationJobArn": make_arn(_KIND, caller.account_id, caller.region, record.id)}


def get(endpoint: Endpoint, caller: Caller, parameters: Parameters) -> Answer:
    """GetAudienceGenerationJob: only the starting account sees the seed; the model's owner may share metrics."""
    seen = _find(endpoint, caller, parameters)
    job = seen.job
    return {
        **_summary(seen),
        "statusDetails": _privacy_notice(endpoint, job)
        or status_details(
            job,
            stages_of(endpoint, [job]).get(job.id),
            is_seed_shown=seen.is_starter,
            is_owner=seen.is_owner,
        ),
        "seedAudience": _shown_seed(job.requested_seed) if seen.is_starter else None,
        "includeSeedInOutput": job.seed_mode is SeedMode.FIRST,
        "metrics": _metrics(endpoint, seen),
        "tags": dict(job.tags),
        "protectedQueryIdentifier": (
            job.requested_seed.protected_query_id if job.requested_seed and seen.is_starter else None
        ),
    }


def list_all(endpoint: Endpoint, caller: Caller, parameters: Parameters) -> Answer:
    """ListAudienceGenerationJobs: jobs on the caller's models, and the caller's jobs on other accounts' models."""
    configured = parameters.get("configuredAudienceModelArn")
    parts = parse_arn(configured) if configured is not None else None
    if configured is not None and (parts is None or parts.kind is not Kind.CONFIGURED_AUDIENCE_MODEL):
        raise not_found(Kind.CONFIGURED_AUDIENCE_MODEL)
    if parts is not None and not _is_exact(endpoint, caller, parts):
        return {"audienceGenerationJobs": []}
    listing = RequestedPages("audienceGenerationJobs", caller, parameters)
    page = endpoint.catalog.job_views.list_job_views(
        caller.account_id,
        caller.region,
        configured_audience_model_id=parts.id if parts else None,
        collaboration_id=parameters.get("collaborationId"),
        **listing.paging(),
    )
    return listing.page(page, _summary)


def delete(endpoint: Endpoint, caller: Caller, parameters: Parameters) -> Answer:
    """DeleteAudienceGenerationJob: the model's owner deletes the job, another account only its view of it."""
    endpoint.catalog.job_views.delete_job_view(
        own_arn(caller, parameters["audienceGenerationJobArn"], _KIND), caller.account_id, caller.region
    )
    return None


def _requested_seed(endpoint: Endpoint, caller: Caller, parameters: Parameters) -> RequestedSeed:
    seed = parameters["seedAudience"]
    check_role(caller, seed["roleArn"])
    source, sql, compute = (seed.get(name) for name in ("dataSource", "sqlParameters", "sqlComputeConfiguration"))
    if (source is None) == (sql is None):
        raise invalid("seedAudience", "Member must have exactly one of dataSource and sqlParameters")
    if source is not None:
        endpoint.buckets.locate(caller.account_id, source["s3Uri"])  # rejects another account's bucket
        return RequestedSeed(role_arn=seed["roleArn"], s3_uri=source["s3Uri"], compute=compute)
    query, template = sql.get("queryString"), sql.get("analysisTemplateArn")
    if bool(query) == bool(template):
        raise invalid(
            "seedAudience.sqlParameters", "Member must have exactly one of queryString and analysisTemplateArn"
        )
    if template:
        _check_template(endpoint, caller, template, parameters.get("collaborationId"))
    return RequestedSeed(
        role_arn=seed["roleArn"],
        query=query or None,
        template_arn=template or None,
        parameters=sql.get("parameters", {}),
        protected_query_id=endpoint.new_uuid(),
        compute=compute,
    )


def _check_query(endpoint: Endpoint, caller: Caller, seed: RequestedSeed) -> None:
    """Check an SQL seed before it runs: the SQL itself, and whether the caller's own tables exist.

    The message quotes the caller's own query only, and shows nothing of another account's template or tables.
    """
    template = endpoint.catalog.parties.template(seed.template_arn) if seed.template_arn else None
    text = template.sql if template is not None else seed.query
    if text is None:
        return
    owner = template.account_id if template is not None else caller.account_id
    is_own_text = owner == caller.account_id
    member = "seedAudience.sqlParameters"
    databases = warehouse_databases(endpoint.home, owner)
    try:
        checked = check_query(text, parameters=seed.parameters, databases=databases, is_authors=is_own_text)
        folders = [warehouse_table(endpoint.home, owner, *names) for names in checked.tables]
    except SeedError as error:
        raise invalid(member, f"Query must contain only allowed SQL. {error}") from None
    except UsageError as error:
        raise invalid(member, f"Tables must be valid. {error}") from None
    missing = [
        ".".join(names) for names, folder in zip(checked.tables, folders, strict=True) if not folder.is_dir()
    ]
    if is_own_text and missing:
        raise invalid(member, f"Tables must be in the account's warehouse. Missing: {', '.join(missing[:3])}")


def _check_template(endpoint: Endpoint, caller: Caller, arn: str, collaboration_id: str | None) -> None:
    """Check that a template is the caller's own, or was created in the job's collaboration by an active member."""
    template = endpoint.catalog.parties.template(arn)
    if template is not None and template.account_id == caller.account_id:
        return
    if template is None or collaboration_id is None or template.collaboration_id != collaboration_id:
        raise ApiError(
            "AccessDeniedException", "The analysis template does not exist, or the caller may not use it."
        )
    _check_collaboration(endpoint, template.account_id, collaboration_id)


def _check_collaboration(endpoint: Endpoint, account_id: str, collaboration_id: str | None) -> None:
    if collaboration_id is None:
        return
    collaboration = endpoint.catalog.parties.collaboration(collaboration_id)
    active = {member.account_id for member in collaboration.members if member.active} if collaboration else set()
    if account_id not in active:
        raise ApiError(
            "AccessDeniedException", "The collaboration does not exist, or the caller is not an active member."
        )


def _check_policy(endpoint: Endpoint, caller: Caller, parameters: Parameters, parts: ArnParts) -> None:
    """Check that the policy of another account's model allows the caller to start a job.

    If the policy grants the caller nothing at all, the response is the same as for a model that does not exist.
    """
    try:
        configured = endpoint.catalog.get(ConfiguredAudienceModel, parts.id, parts.account_id, parts.region)
    except NotFoundError:
        raise not_found(Kind.CONFIGURED_AUDIENCE_MODEL) from None
    policy = _policy_of(configured)
    if policy is None or not policy.may_allow(caller.account_id):
        raise not_found(Kind.CONFIGURED_AUDIENCE_MODEL)
    if not may_start(
        policy,
        caller_account=caller.account_id,
        model_arn=str(configured.arn),
        # the job has no id yet, but the readable part of its ARN is known
        job_arn=str(make_arn(_KIND, parts.account_id, parts.region, f"{slug(parameters['name'])}-{'0' * 12}")),
        collaboration_id=parameters.get("collaborationId"),
        request_tags=parameters.get("tags", {}),
        model_tags=configured.tags,
        is_secure=caller.is_secure,
    ):
        raise ApiError("AccessDeniedException", "The configured audience model's policy does not allow the job.")
    _check_collaboration(endpoint, configured.account_id, parameters.get("collaborationId"))


def _check_budget(endpoint: Endpoint, caller: Caller, parameters: Parameters, parts: ArnParts) -> None:
    """Reject a job if the remaining privacy budget of the two organisations is certainly too small for it."""
    collaboration_id = parameters.get("collaborationId")
    agreed = endpoint.catalog.parties.collaboration(collaboration_id) if collaboration_id else None
    pair = paying_pair(endpoint.catalog, caller.account_id, parts.account_id, agreed)
    spent = cannot_pay(endpoint.catalog, pair) if pair else None
    if spent is not None:
        raise ApiError(
            "ServiceQuotaExceededException",
            f"The privacy budget is too low: {in_units(spent.left)} of {in_units(spent.total)} units are left, "
            f"and starting a job needs {in_units(COUNT.tenths)}. Both organisations can approve a refill.",
            members={"quotaName": _BUDGET, "quotaValue": float(in_units(spent.total))},
        )


def _privacy_notice(endpoint: Endpoint, job: GenerationJob) -> dict[str, str] | None:
    """Return a message with an active job's price, noise and disclosures; the AWS API has no fields for them."""
    if job.status is not Status.ACTIVE:
        return None
    version = endpoint.catalog.resources.current_version(_KIND, job.id)
    notice = version.summary.get("privacy") if version else None
    return {"message": notice} if notice else None


def _policy_of(configured: ConfiguredAudienceModel) -> Policy | None:
    if configured.policy is None:
        return None
    try:
        return read_policy(configured.policy, str(configured.arn))
    except ApiError:  # stored by another version of the software; a policy that cannot be read allows nothing
        raise ApiError(
            "AccessDeniedException",
            "The policy of the configured audience model cannot be read. Its owner must store the policy again.",
        ) from None


def _is_exact(endpoint: Endpoint, caller: Caller, parts: ArnParts) -> bool:
    """Check whether a configured audience model exists with exactly the ARN's id, account and Region."""
    try:
        endpoint.catalog.get(ConfiguredAudienceModel, parts.id, parts.account_id, parts.region)
    except NotFoundError:
        return False
    return parts.region == caller.region


def _find(endpoint: Endpoint, caller: Caller, parameters: Parameters) -> JobView:
    key = own_arn(caller, parameters["audienceGenerationJobArn"], _KIND)
    return endpoint.catalog.job_views.job_view(key, caller.account_id, caller.region)


def _summary(seen: JobView) -> dict[str, object]:
    job = seen.job
    configured = make_arn(
        Kind.CONFIGURED_AUDIENCE_MODEL, seen.owner_account_id, job.region, job.configured_audience_model_id
    )
    return {
        **times(job),
        "audienceGenerationJobArn": job.arn,
        "name": job.name,
        "description": job.description,
        "status": job.status.value,
        "configuredAudienceModelArn": configured,
        "collaborationId": job.collaboration_id,
        "startedBy": job.started_by,
    }


def _shown_seed(seed: RequestedSeed | None) -> dict[str, object] | None:
    if seed is None:
        return None
    shown = {"roleArn": seed.role_arn, "sqlComputeConfiguration": seed.compute}
    if seed.s3_uri is not None:
        return {**shown, "dataSource": {"s3Uri": seed.s3_uri}}
    sql = {
        "queryString": seed.query,
        "analysisTemplateArn": seed.template_arn,
        "parameters": dict(seed.parameters) or None,
    }
    return {**shown, "sqlParameters": sql}


def _metrics(endpoint: Endpoint, seen: JobView) -> dict[str, object] | None:
    """Return the audience's recall, and its relevance by size; a size with unknown relevance has no score."""
    job = seen.job
    if job.status is not Status.ACTIVE or not (seen.is_owner or _is_shared(endpoint, job)):
        return None
    version = endpoint.catalog.resources.current_version(_KIND, job.id)
    metrics = version.summary.get("metrics") if version else None
    if metrics is None:
        return None
    relevance = [
        {"audienceSize": {"type": entry["type"], "value": entry["value"]}, "score": entry["score"]}
        for entry in metrics["relevance"]
    ]
    return {"relevanceMetrics": relevance, "recallMetric": metrics["recall"]}


def _is_shared(endpoint: Endpoint, job: GenerationJob) -> bool:
    configured = endpoint.catalog.get(ConfiguredAudienceModel, job.configured_audience_model_id)
    return configured.share_metrics is ShareMetrics.ALL


def start_export(endpoint: Endpoint, caller: Caller, parameters: Parameters) -> Answer:
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


def list_exports(endpoint: Endpoint, caller: Caller, parameters: Parameters) -> Answer:
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
    return listing.page(page, lambda record: _export_summary(record, stages.get(record.id)))


def _export_summary(record: ExportJob, stage: Stage | None) -> dict[str, Any]:
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
