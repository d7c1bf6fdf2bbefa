"""Finding resources by name or partition key, for the operator's commands and forms.

Lives here: `resource_named`, and its errors that name what exists.
Add here when an operator can name resources in another way.
Keep out: finding resources for participants, who see only those of their own account or room (server).
"""

import difflib
from collections.abc import Iterable

from cleanroom_pipelines.catalog import Catalog, Kind, Resource
from cleanroom_pipelines.errors import NotFoundError, UsageError

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
