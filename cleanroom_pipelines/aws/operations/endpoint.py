"""What all operations share: the parts they work on, whose an ARN or role is, how records are shown.

Lives here: `Endpoint`, and the rules that more than one operation keeps.
Add here when a second operation needs what one has.
Keep out: anything that only one kind of resource needs.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from cleanroom_pipelines.aws.answers import ApiError, Caller
from cleanroom_pipelines.catalog import (
    ArnParts,
    Catalog,
    JobViewPage,
    Kind,
    Page,
    Resource,
    Stage,
    Status,
    parse_arn,
)
from cleanroom_pipelines.errors import StatusCode
from cleanroom_pipelines.storage import Home
from cleanroom_pipelines.storage.buckets import Buckets

Parameters = Mapping[str, Any]
Answer = Mapping[str, Any] | None

_DEFAULT_PAGE = 100
_OPEN = (Status.CREATE_PENDING, Status.CREATE_IN_PROGRESS)
_ABOUT_SEED = frozenset(
    {
        StatusCode.SEED_NOT_FOUND,
        StatusCode.SEED_INVALID,
        StatusCode.SEED_TOO_SMALL,
        StatusCode.SEED_TOO_LARGE,
        StatusCode.SQL_NOT_ALLOWED,
        StatusCode.SQL_FAILED,
    }
)


@dataclass(frozen=True)
class Endpoint:
    """The parts that operations work on; holds no state of its own.

    Args:
        catalog: What exists.
        home: Where warehouses lie.
        buckets: Whose bucket is whose.
        new_uuid: Gives a fresh UUID in lower case.
        is_encrypted: Whether the operator has stated that home and temporary space lie on an encrypted volume.
        max_unfinished_jobs: Quota of generation jobs that an account may have pending or under way.
        max_resources: Quota of resources of one kind that an account may have.
    """

    catalog: Catalog
    home: Home
    buckets: Buckets
    new_uuid: Callable[[], str]
    is_encrypted: bool = False
    max_unfinished_jobs: int = 100
    max_resources: int = 10_000


Operation = Callable[[Endpoint, Caller, Parameters], Answer]


def own_arn(caller: Caller, arn: str, kind: Kind) -> str:
    """The partition key that an ARN of the caller's own names.

    Raises:
        ApiError: It is another account's, another Region's or no ARN of ours: nothing there for this caller.
    """
    parts = parse_arn(arn)
    if parts is None or parts.kind is not kind or not is_own(caller, parts):
        raise not_found(kind)
    return parts.id


def is_own(caller: Caller, parts: ArnParts) -> bool:
    """Whether a resource is the caller's, in the Region that was called."""
    return (parts.account_id, parts.region) == (caller.account_id, caller.region)


def not_found(kind: Kind) -> ApiError:
    """The same answer whether a resource never was, is gone, or is another account's."""
    return ApiError("ResourceNotFoundException", f"There is no such {kind.words} in this account and Region.")


def invalid(member: str, rule: str) -> ApiError:
    """A ValidationException that names the member and the rule it breaks, never the value."""
    return ApiError(
        "ValidationException", f"1 validation error detected: Value at '{member}' failed to satisfy: {rule}"
    )


def check_role(caller: Caller, role_arn: str) -> None:
    """Refuse to act in the role of another account.

    Raises:
        ApiError: The role is not the caller's account's.
    """
    if role_arn.split(":")[4] != caller.account_id:
        raise ApiError("AccessDeniedException", "The role belongs to another account than the caller.")


def check_quota(endpoint: Endpoint, account_id: str, kind: Kind) -> None:
    """Refuse one more resource than the operator allows an account.

    Args:
        endpoint: Knows the quota.
        account_id: Whose the resource would be; the job of a guest and its exports are the model owner's.
        kind: Its kind.

    Raises:
        ApiError: The account has as many as it may.
    """
    if endpoint.catalog.resources.count(kind, account_id) >= endpoint.max_resources:
        raise quota_exceeded(f"{kind.words}s per account", endpoint.max_resources)


def quota_exceeded(name: str, value: int) -> ApiError:
    """The error of an account that has as much as it may."""
    return ApiError(
        "ServiceQuotaExceededException",
        f"The account has reached its quota of {value:,} ({name}).",
        members={"quotaName": name, "quotaValue": float(value)},
    )


def page_of(endpoint: Endpoint, caller: Caller, kind: Kind, parameters: Parameters) -> Page:
    """A page of the caller's resources of one kind."""
    return endpoint.catalog.resources.list(kind, caller.account_id, region=caller.region, **paging(parameters))


def shown_page(page: Page | JobViewPage, member: str, show: Callable[[Any], Mapping[str, Any]]) -> Answer:
    """A page of a listing as the API shows it."""
    return {member: [show(record) for record in page.items], "nextToken": page.after}


def paging(parameters: Parameters) -> dict[str, Any]:
    """The page that a request asks for."""
    return {"limit": parameters.get("maxResults", _DEFAULT_PAGE), "after": parameters.get("nextToken")}


def times(record: Resource) -> dict[str, Any]:
    """When a resource was made and last changed."""
    return {"createTime": record.created_at, "updateTime": record.updated_at}


def stages_of(endpoint: Endpoint, records: Iterable[Resource]) -> dict[str, Stage]:
    """Where the work on those resources is that are pending or in progress, by id."""
    waiting = [record.id for record in records if record.status in _OPEN]
    found = endpoint.catalog.work.stages(waiting) if waiting else {}
    return {resource_id: stage for (resource_id, _), stage in sorted(found.items(), key=lambda each: each[0])}


def status_details(
    record: Resource, stage: Stage | None = None, *, is_seed_shown: bool = True, is_owner: bool = True
) -> dict[str, str] | None:
    """Why a resource failed, if it did, or where the work on it is.

    Args:
        record: The resource.
        stage: Where the work on it is, which needs no code.
        is_seed_shown: Whether the caller may know the seed; else what is wrong with one is not told in detail.
        is_owner: Whether the model is the caller's; else what is wrong with it is not told in detail.
    """
    if record.status_code is None and not record.status_message:
        if stage is None:
            return None
        return {"message": f"{str(stage)[:1].upper()}{str(stage)[1:]}."}
    message = record.status_message or None
    if not is_seed_shown and record.status_code in _ABOUT_SEED:
        message = "The seed of the account that started the job cannot be used. That account is told why."
    if not is_owner and record.status_code is StatusCode.PARENT_NOT_ACTIVE:
        message = "The model cannot be used. Its owner is told why."
    return {"statusCode": record.status_code or None, "message": message}  # type: ignore[dict-item]
