"""Tags of Dagster runs that tell people what a run is for and who requested it.

Lives here: the keys of tags, and the tags of the run of a version.
Add here when runs get another tag.
Keep out: addresses and ids of people; a tag has names of resources, accounts and organisations only.
"""

from cleanroom_pipelines.catalog import (
    LOCAL_ACCOUNT,
    RECORDS,
    Catalog,
    Cause,
    GenerationJob,
    Resource,
    Version,
)
from cleanroom_pipelines.errors import NotFoundError

VERSION_TAG = "cleanroom/version"
WORKER_TAG = "cleanroom/worker"
LANE_TAG = "cleanroom/lane"
NAME_TAG = "cleanroom/name"
WAY_TAG = "cleanroom/way_in"
REQUESTER_TAG = "cleanroom/requested_by"
ORGANIZATION_TAG = "cleanroom/organization"
EXPLAINED_TAG = "cleanroom/explained"
"""The attempt whose failure the run explains on its partition's page."""
PARTITION_TAG = "dagster/partition"

_WAYS = {
    Cause.REFRESH: "schedule",
    Cause.BY_HAND: "ui",
    Cause.PARENT: "new version of its parent",
    Cause.UPGRADED: "upgrade",
}


def tags_of(catalog: Catalog, version: Version) -> dict[str, str]:
    """Return the tags of a version's run: number, name, origin of the request, account and organisation."""
    record = catalog.get(RECORDS[version.kind], version.resource_id)
    account = getattr(record, "started_by", None) or record.account_id
    tags = {
        VERSION_TAG: str(version.number),
        NAME_TAG: record.name,
        WAY_TAG: _WAYS.get(version.cause) or _way_of(record),
        REQUESTER_TAG: _name_of(catalog, account),
        ORGANIZATION_TAG: _organization_of(catalog, record, account),
    }
    return {key: value for key, value in tags.items() if value}


def _way_of(record: Resource) -> str:
    if isinstance(record, GenerationJob):
        return record.origin.value
    if _address_of(record):
        return "data-room API"
    return "apply" if record.declared else "api"


def _name_of(catalog: Catalog, account_id: str) -> str:
    if account_id == LOCAL_ACCOUNT:
        return "operator"
    try:
        return catalog.parties.account(account_id).name
    except NotFoundError:
        return ""


def _organization_of(catalog: Catalog, record: Resource, account_id: str) -> str:
    address = _address_of(record)
    if address:
        organization = catalog.pairs.organization_of_user(address)
        return "" if "@" in organization else organization  # a whole address at a public mail provider
    organization = catalog.pairs.organization_of_account(account_id)
    return "" if organization == account_id else organization


def _address_of(record: Resource) -> str:
    """Return the e-mail address of the owner or creator of a data-room resource; empty for other resources."""
    return getattr(record, "owner_email", "") or getattr(record, "created_by_email", "")
