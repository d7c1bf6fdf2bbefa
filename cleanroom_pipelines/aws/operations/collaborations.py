"""Read-only operations on collaborations, for their members; the operator creates and changes collaborations.

Lives here: the operations of the API `cleanrooms` that list and show collaborations, members and templates.
Add here when a member may see more of its collaborations.
Keep out: changing collaborations (cli), and checking what they allow (`generation_jobs.py`).
"""

import uuid
from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final

from cleanroom_pipelines.aws.answers import ApiError, Caller
from cleanroom_pipelines.aws.operations.endpoint import Answer, Endpoint, Parameters, RequestedPages
from cleanroom_pipelines.catalog import LOCAL_ACCOUNT, Collaboration, Member
from cleanroom_pipelines.errors import NotFoundError

_OPERATOR: Final = {"creatorAccountId": LOCAL_ACCOUNT, "creatorDisplayName": "operator"}


def list_all(endpoint: Endpoint, caller: Caller, parameters: Parameters) -> Answer:
    """ListCollaborations: the collaborations of which the caller is an active member."""
    found = () if parameters.get("memberStatus") == "INVITED" else _of(endpoint, caller)
    return _page("collaborationList", caller, parameters, [_summary(one, caller) for one in found])


def get(endpoint: Endpoint, caller: Caller, parameters: Parameters) -> Answer:
    """GetCollaboration: the collaboration's description states the terms that the operator chose for it."""
    one = _find(endpoint, caller, parameters["collaborationIdentifier"])
    shown = {**_summary(one, caller), "description": _terms(endpoint, one), "queryLogStatus": "DISABLED"}
    return {"collaboration": shown}


def list_members(endpoint: Endpoint, caller: Caller, parameters: Parameters) -> Answer:
    """ListMembers: a collaboration's accounts, with the names that the operator gave them."""
    one = _find(endpoint, caller, parameters["collaborationIdentifier"])
    return _page(
        "memberSummaries", caller, parameters, [_member(endpoint, one, caller, each) for each in one.members]
    )


def list_templates(endpoint: Endpoint, caller: Caller, parameters: Parameters) -> Answer:
    """ListCollaborationAnalysisTemplates: the templates of a collaboration's active members, without their SQL."""
    one = _find(endpoint, caller, parameters["collaborationIdentifier"])
    shown = [
        {
            "arn": template.arn,
            "id": template.arn.rpartition("/")[2],
            "name": template.name,
            "creatorAccountId": template.account_id,
            "collaborationArn": _arn(one, caller),
            "collaborationId": one.id,
            **_times(template.created_at),
        }
        for template in endpoint.catalog.parties.templates()
        if template.collaboration_id == one.id and one.has_active(template.account_id)
    ]
    return _page("collaborationAnalysisTemplateSummaries", caller, parameters, shown)


def list_memberships(endpoint: Endpoint, caller: Caller, parameters: Parameters) -> Answer:
    """ListMemberships: one membership for each collaboration of which the caller is an active member."""
    found = _of(endpoint, caller) if parameters.get("status", "ACTIVE") == "ACTIVE" else ()
    return _page("membershipSummaries", caller, parameters, [_membership(one, caller) for one in found])


def get_membership(endpoint: Endpoint, caller: Caller, parameters: Parameters) -> Answer:
    """GetMembership: the caller's own membership in one collaboration."""
    for one in _of(endpoint, caller):
        if _membership_id(one, caller.account_id) == parameters["membershipIdentifier"]:
            return {"membership": {**_membership(one, caller), "queryLogStatus": "DISABLED"}}
    raise ApiError("ResourceNotFoundException", "There is no such membership in this account.")


def _of(endpoint: Endpoint, caller: Caller) -> list[Collaboration]:
    found = endpoint.catalog.parties.collaborations(caller.account_id)
    return [one for one in found if one.has_active(caller.account_id)]


def _find(endpoint: Endpoint, caller: Caller, collaboration_id: str) -> Collaboration:
    """Return a collaboration; the error does not tell if it is missing or the caller is not a member."""
    one = endpoint.catalog.parties.collaboration(collaboration_id)
    if one is None or not one.has_active(caller.account_id):
        raise ApiError(
            "AccessDeniedException", "The collaboration does not exist, or the caller is not an active member."
        )
    return one


def _page(member: str, caller: Caller, parameters: Parameters, items: Sequence[dict[str, Any]]) -> Answer:
    """Return one page of a short list, with page tokens that are positions in the list."""
    listing = RequestedPages(member, caller, parameters)
    limit, after = listing.paging().values()
    start = int(after) if after and after.isascii() and after.isdigit() and len(after) < 9 else 0
    end = start + limit
    return {member: items[start:end], "nextToken": listing.token(str(end) if end < len(items) else None)}


def _summary(one: Collaboration, caller: Caller) -> dict[str, Any]:
    return {
        "id": one.id,
        "arn": _arn(one, caller),
        "name": one.name,
        **_OPERATOR,
        **_times(one.created_at),
        "memberStatus": "ACTIVE",
        "membershipId": _membership_id(one, caller.account_id),
        "membershipArn": _membership_arn(one, caller),
    }


def _membership(one: Collaboration, caller: Caller) -> dict[str, Any]:
    return {
        "id": _membership_id(one, caller.account_id),
        "arn": _membership_arn(one, caller),
        "collaborationArn": _arn(one, caller),
        "collaborationId": one.id,
        "collaborationCreatorAccountId": _OPERATOR["creatorAccountId"],
        "collaborationCreatorDisplayName": _OPERATOR["creatorDisplayName"],
        "collaborationName": one.name,
        **_times(one.created_at),
        "status": "ACTIVE",
        "memberAbilities": [],
        "paymentConfiguration": _NO_PAYMENT,
    }


_NO_PAYMENT: Final = {"queryCompute": {"isResponsible": False}}


def _member(endpoint: Endpoint, one: Collaboration, caller: Caller, member: Member) -> dict[str, Any]:
    try:
        name = endpoint.catalog.parties.account(member.account_id).name
    except NotFoundError:  # the operator's own account exists without being created
        name = _OPERATOR["creatorDisplayName"]
    is_caller = member.account_id == caller.account_id
    return {
        "accountId": member.account_id,
        "displayName": name,
        "status": "ACTIVE" if member.active else "LEFT",
        "abilities": [],
        **_times(one.created_at),
        "membershipId": _membership_id(one, member.account_id) if is_caller else None,
        "membershipArn": _membership_arn(one, caller) if is_caller else None,
        "paymentConfiguration": _NO_PAYMENT,
    }


def _terms(endpoint: Endpoint, one: Collaboration) -> str:
    """Describe a collaboration's terms: what its lists and rankings reveal, and its budget period."""
    seed = "leave out the seed's users and so reveal them" if one.seed_removed else "do not mark the seed's users"
    ranking = "exact, and reveal individuals" if one.full_ensemble else "private, and cost privacy budget"
    period = endpoint.catalog.pairs.period_of([member.account_id for member in one.members])
    budget = f" The budget is renewed every {period}." if period else ""
    return f"Lists {seed}. Jobs between two organisations are {ranking}.{budget}"


def _membership_id(one: Collaboration, account_id: str) -> str:
    """Return the id of an account's membership, which is derived from the ids of account and collaboration."""
    return str(uuid.uuid5(uuid.UUID(one.id), account_id))


def _arn(one: Collaboration, caller: Caller) -> str:
    return f"arn:aws:cleanrooms:{caller.region}:{LOCAL_ACCOUNT}:collaboration/{one.id}"


def _membership_arn(one: Collaboration, caller: Caller) -> str:
    identifier = _membership_id(one, caller.account_id)
    return f"arn:aws:cleanrooms:{caller.region}:{caller.account_id}:membership/{identifier}"


def _times(created_at: datetime) -> dict[str, datetime]:
    return {"createTime": created_at, "updateTime": created_at}
