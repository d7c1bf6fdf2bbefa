"""Helpers that the operations share: checks of ARNs, roles and quotas, pages of listings, status details.

Lives here: `Endpoint`, and the rules that several operations share.
Add here when two operations need the same helper.
Keep out: parts that only one kind of resource needs.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from cleanroom_pipelines.aws.answers import ApiError, Caller
from cleanroom_pipelines.catalog import (
    OPEN,
    ArnParts,
    Catalog,
    Kind,
    Page,
    Resource,
    Stage,
    parse_arn,
)
from cleanroom_pipelines.errors import StatusCode
from cleanroom_pipelines.storage import Home
from cleanroom_pipelines.storage.buckets import Buckets

Parameters = Mapping[str, Any]
Answer = Mapping[str, Any] | None

_DEFAULT_PAGE = 100
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
    """The parts of an installation that the operations use.

    Args:
        catalog: The catalogue of resources.
        home: The home, which contains the warehouses.
        buckets: The buckets and their owners.
        new_uuid: Returns a new UUID in lower case.
        is_encrypted: Whether the operator declared that home and temporary files are on an encrypted volume.
        max_unfinished_jobs: Quota of an account's pending and running generation jobs.
        max_resources: Quota of an account's resources of one kind.
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
    """Return the resource id in an ARN; reject an ARN outside the caller's account and Region.

    Raises:
        ApiError: ResourceNotFoundException: the ARN is invalid, or of another kind, account or Region.
    """
    parts = parse_arn(arn)
    if parts is None or parts.kind is not kind or not is_own(caller, parts):
        raise not_found(kind)
    return parts.id


def is_own(caller: Caller, parts: ArnParts) -> bool:
    """Check whether a resource is in the caller's account and Region."""
    return (parts.account_id, parts.region) == (caller.account_id, caller.region)


def not_found(kind: Kind) -> ApiError:
    """Return the error for a resource that never existed, was deleted, or belongs to another account."""
    return ApiError("ResourceNotFoundException", f"There is no such {kind.words} in this account and Region.")


def invalid(member: str, rule: str) -> ApiError:
    """Return a ValidationException that names the member and the rule it breaks, never the value."""
    return ApiError(
        "ValidationException", f"1 validation error detected: Value at '{member}' failed to satisfy: {rule}"
    )


def check_role(caller: Caller, role_arn: str) -> None:
    """Check that a role belongs to the caller's account.

    Raises:
        ApiError: The role belongs to another account.
    """
    if role_arn.split(":")[4] != caller.account_id:
        raise ApiError("AccessDeniedException", "The role does not belong to the caller's account.")


def check_quota(endpoint: Endpoint, account_id: str, kind: Kind) -> None:
    """Check that an account may create another resource of a kind.

    Args:
        endpoint: Provides the quota.
        account_id: The account that would own the resource; for a guest's job and its exports, the model's owner.
        kind: The kind of resource.

    Raises:
        ApiError: The account has reached its quota.
    """
    if endpoint.catalog.resources.count(kind, account_id) >= endpoint.max_resources:
        raise quota_exceeded(f"{kind.words}s per account", endpoint.max_resources)


def quota_exceeded(name: str, value: int) -> ApiError:
    """Return the error for an account that has reached a quota."""
    return ApiError(
        "ServiceQuotaExceededException",
        f"The account has reached its quota of {value:,} ({name}).",
        members={"quotaName": name, "quotaValue": float(value)},
    )


@dataclass(frozen=True)
class RequestedPages:
    """A caller's request for one page of a listing; a page token is valid only for the listing that issued it.

    Args:
        member: The member of the response that has the items.
        caller: The caller.
        parameters: The request's parameters; all but those of paging select the items.
    """

    member: str
    caller: Caller
    parameters: Parameters

    def paging(self) -> dict[str, Any]:
        """Return the requested page's limit and start, as arguments for the catalogue's listings.

        Raises:
            ApiError: ValidationException: the token is of another listing.
        """
        token = self.parameters.get("nextToken")
        mark, _, after = (token or "").partition(".")
        if token is not None and mark != self._mark:
            raise invalid("nextToken", "Member must be the token of the previous page of the same listing")
        return {"limit": self.parameters.get("maxResults", _DEFAULT_PAGE), "after": after or None}

    def page(self, page: Page[Any], show: Callable[[Any], Mapping[str, Any]]) -> Answer:
        """Format a page of the catalogue's records as the API returns it."""
        return {self.member: [show(record) for record in page.items], "nextToken": self.token(page.after)}

    def token(self, after: str | None) -> str | None:
        """Return the token of the next page; None after the last one."""
        return after and f"{self._mark}.{after}"

    @property
    def _mark(self) -> str:
        selecting = {name: self.parameters[name] for name in self.parameters.keys() - {"nextToken", "maxResults"}}
        text = json.dumps([self.member, self.caller.account_id, self.caller.region, selecting], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]


def page_of(
    endpoint: Endpoint, listing: RequestedPages, kind: Kind, show: Callable[[Any], Mapping[str, Any]]
) -> Answer:
    """Return a page of the caller's resources of one kind as the API returns it."""
    caller = listing.caller
    page = endpoint.catalog.resources.list(kind, caller.account_id, region=caller.region, **listing.paging())
    return listing.page(page, show)


def times(record: Resource) -> dict[str, Any]:
    """Return a resource's creation and update times."""
    return {"createTime": record.created_at, "updateTime": record.updated_at}


def stages_of(endpoint: Endpoint, records: Iterable[Resource]) -> dict[str, Stage]:
    """Return the current stage of each pending or in-progress resource, by id."""
    waiting = [record.id for record in records if record.status in OPEN]
    found = endpoint.catalog.work.stages(waiting) if waiting else {}
    return {resource_id: stage for (resource_id, _), stage in sorted(found.items(), key=lambda each: each[0])}


def status_details(
    record: Resource, stage: Stage | None = None, *, is_seed_shown: bool = True, is_owner: bool = True
) -> dict[str, str] | None:
    """Return why a resource failed, or the current stage of its work.

    Args:
        record: The resource.
        stage: The current stage of the work on it, which has no status code.
        is_seed_shown: Whether the caller may know the seed; if not, details of the seed's problems are hidden.
        is_owner: Whether the caller owns the model; if not, details of the model's problems are hidden.
    """
    if record.status_code is None and not record.status_message:
        if stage is None:
            return None
        return {"message": f"{str(stage)[:1].upper()}{str(stage)[1:]}."}
    message = record.status_message or None
    if not is_seed_shown and record.status_code in _ABOUT_SEED:
        message = "The seed is unusable. The account that started the job can see the reason."
    if not is_owner and record.status_code is StatusCode.PARENT_NOT_ACTIVE:
        message = "The model is unusable. Its owner can see the reason."
    return {"statusCode": record.status_code or None, "message": message}  # type: ignore[dict-item]
