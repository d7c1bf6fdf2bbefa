"""Retrying failed work.

Lives here: queueing everything that failed, for `cleanroom retry --failed` and the job `retry_failed`.
Add here when failed work can be selected in another way.
Keep out: what a retry changes (catalogue), doing the work.
"""

from cleanroom_pipelines.catalog import RECORDS, Catalog, Kind, Resource, Version
from cleanroom_pipelines.errors import ConflictError, NotFoundError


def retry_failed(catalog: Catalog) -> tuple[list[Version], list[tuple[Resource, str]]]:
    """Requeue the newest version of every resource whose newest version failed, parents first.

    Returns:
        The queued versions, and the resources that cannot be retried, with the reason.
    """
    queued, skipped, order = list[Version](), list[tuple[Resource, str]](), list(Kind)
    unusable = set[str | None]()  # parents that stay failed and have no earlier version
    for version in sorted(catalog.resources.failures(), key=lambda failed: order.index(failed.kind)):
        try:
            record = catalog.get(RECORDS[version.kind], version.resource_id)
            try:
                if record.parent_id in unusable:
                    raise ConflictError("The parent of this resource failed.", remedy="Retry the parent first.")
                queued.append(catalog.work.retry(version.kind, version.resource_id))
            except ConflictError as error:
                skipped.append((record, str(error)))
                if record.current_version is None:
                    unusable.add(record.id)
        except NotFoundError:
            continue  # it was deleted at this moment
    return queued, skipped
