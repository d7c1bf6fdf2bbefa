"""Retrying failed work.

Lives here: queueing everything that failed, for `cleanroom retry --failed` and the job `retry_failed`.
Add here when failed work can be selected in another way.
Keep out: what a retry changes (catalogue), doing the work.
"""

from cleanroom_pipelines.catalog import RECORDS, Catalog, Kind, Resource, Version
from cleanroom_pipelines.errors import ConflictError, NotFoundError


def retry_failed(catalog: Catalog) -> tuple[list[Version], list[tuple[Resource, str]]]:
    """Queue the newest version of every resource if it failed, parents first.

    Returns:
        The queued versions, and the resources that cannot be retried, with the reason.
    """
    queued, skipped, order = list[Version](), list[tuple[Resource, str]](), list(Kind)
    for version in sorted(catalog.resources.failures(), key=lambda failed: order.index(failed.kind)):
        try:
            queued.append(catalog.work.retry(version.kind, version.resource_id))
        except ConflictError as error:
            skipped.append((catalog.get(RECORDS[version.kind], version.resource_id), str(error)))
        except NotFoundError:
            continue  # it was deleted at this moment
    return queued, skipped
