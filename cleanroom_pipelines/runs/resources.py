"""Resources of all accounts, for the operator's commands and forms: finding them by name, retrying failed ones.

Lives here: `resource_named`, its errors that name what exists, and queueing everything that failed.
Add here when an operator can name resources or select failed work in another way.
Keep out: finding resources for participants, who see only those of their own account or room (server), and what a
retry changes (catalogue).
"""

import difflib
from collections.abc import Iterable

from cleanroom_pipelines.catalog import RECORDS, Catalog, Kind, Resource, Version
from cleanroom_pipelines.errors import ConflictError, NotFoundError, UsageError

_MOST_LISTED = 10


def resource_named(catalog: Catalog, name_or_key: str, kind: Kind | None = None) -> Resource:
    """Return the resource with this name or partition key, in any account.

    Args:
        catalog: Where to look.
        name_or_key: Its name, exactly, or its partition key.
        kind: Its kind; any if not given.

    Raises:
        NotFoundError: There is none; the error names similar and existing ones.
        UsageError: Several have this name.
    """
    found = catalog.resources.named(name_or_key, kind)
    if len(found) == 1:
        return found[0]
    what = kind.words if kind else "resource"
    if found:
        keys = (f"{record.id} ({record.kind.words})" for record in found)
        raise UsageError(f"{len(found)} {what}s have this name.", remedy=f"Give a partition key: {listed(keys)}.")
    names = catalog.resources.names(kind)
    close = difflib.get_close_matches(name_or_key.lower(), {name.lower(): name for name in names}, n=1)
    guess = next((f"Did you mean {name!r}? " for name in names if [name.lower()] == close), "")
    exist = (
        f"Existing names: {listed(map(repr, names))}." if names else f"There is no {what} yet: declare one first."
    )
    raise NotFoundError(f"No {what} has this name or partition key.", remedy=guess + exist)


def listed(texts: Iterable[str], separator: str = ", ") -> str:
    """Join the first few texts for a message, and add how many more there are."""
    every = list(texts)
    shown, others = every[:_MOST_LISTED], every[_MOST_LISTED:]
    return separator.join(shown) + (f" and {len(others)} more" if others else "")


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
