"""Rebuild models that an earlier release built, before other work uses them.

Lives here: which artifacts this release can no longer read, and queueing their rebuild.
Add here when an artifact's format changes so that its readers reject the old one.
Keep out: the catalogue's schema (Alembic).
"""

from collections.abc import Mapping

from cleanroom_pipelines.catalog import (
    Cause,
    ConfiguredAudienceModel,
    CustomAudience,
    GenerationJob,
    Kind,
    Resource,
    Status,
    Version,
    configured_at_start,
)
from cleanroom_pipelines.errors import ArtifactError, NotFoundError, StatusCode
from cleanroom_pipelines.runs.installation import Installation

# By asset, the first code version whose artifacts this release reads.
FIRST_READABLE: Mapping[str, int] = {
    "audience_model": 3,
    "room_model": 3,
    "data_attributes": 2,
    "overlap_statistics": 2,
    "insights": 2,
}
_OF_ROOMS = ("room_model", "data_attributes", "overlap_statistics", "insights")


def wait_for_rebuild(installation: Installation, record: Resource, version: Version) -> str | None:
    """If a version needs a model that an earlier release built, queue the model's rebuild.

    Args:
        installation: The installation to work on.
        record: The resource to build.
        version: Its version.

    Returns:
        Why the version waits, in one sentence; None if its model can be read or does not exist.

    Raises:
        ArtifactError: The rebuild failed; the model's status says why.
    """
    needed = _model_of(installation, record, version)
    if needed is None:
        return None
    kind, resource_id, asset = needed
    try:
        current = installation.catalog.resources.current_version(kind, resource_id)
    except NotFoundError:
        return None
    assets = _OF_ROOMS if kind is Kind.DATA_ROOM else (asset,)
    if current is None or not any(_is_stale(installation, current, each) for each in assets):
        return None
    newest = installation.catalog.resources.newest_version(kind, resource_id)
    if newest.status is Status.CREATE_FAILED and newest.cause is Cause.UPGRADED:
        raise ArtifactError(
            f"The model in the {kind.words} {resource_id} was built by an earlier release and its rebuild failed.",
            remedy=f"Fix the problem shown in the status of {resource_id} and retry that {kind.words}. "
            "Then retry this resource.",
            status_code=StatusCode.PARENT_NOT_ACTIVE,
        )
    installation.catalog.work.request_version(kind, resource_id, Cause.UPGRADED)
    return f"The model in the {kind.words} {resource_id} was built by an earlier release and is rebuilt first."


def queue_room_rebuild(installation: Installation, data_room_id: str) -> None:
    """Queue a rebuild of room results that an earlier release built, because users may request them.

    Args:
        installation: The installation to work on.
        data_room_id: The room.
    """
    catalog = installation.catalog
    current = catalog.resources.current_version(Kind.DATA_ROOM, data_room_id)
    if current is None or not any(_is_stale(installation, current, asset) for asset in _OF_ROOMS):
        return
    newest = catalog.resources.newest_version(Kind.DATA_ROOM, data_room_id)
    if newest.number == current.number:
        catalog.work.request_version(Kind.DATA_ROOM, data_room_id, Cause.UPGRADED)


def _model_of(installation: Installation, record: Resource, version: Version) -> tuple[Kind, str, str] | None:
    if isinstance(record, CustomAudience):
        return Kind.DATA_ROOM, record.data_room_id, "room_model"
    if not isinstance(record, GenerationJob):
        return None
    if started := configured_at_start(version):
        return Kind.AUDIENCE_MODEL, started.audience_model_id, "audience_model"
    configured = installation.catalog.get(ConfiguredAudienceModel, record.configured_audience_model_id)
    return Kind.AUDIENCE_MODEL, str(configured.parent_id), "audience_model"


def _is_stale(installation: Installation, version: Version, asset: str) -> bool:
    if asset not in version.artifacts:
        return False
    reference = version.artifact(asset)
    try:
        return int(installation.store.manifest(reference).code_version) < FIRST_READABLE[asset]
    except ArtifactError:
        return False  # opening it reports the problem
