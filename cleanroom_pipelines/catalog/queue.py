"""The queue of versions that are ready to be built: its order, and a fast lane for small work.

Lives here: the two lanes, the owner of a version's work, and fair scheduling between owners.
Add here when a kind of work changes its lane, or gets another owner.
Keep out: whether a version is ready (`work.py`) and building it.

Decided 2026-11-29. There are two lanes, so that a small question never waits for a model. Validation reports,
rooms with their overlap and insights, sizes, lists and exports are small; training and ranking are heavy. Within a
lane, owners alternate, each with its oldest version: next is the owner with the fewest versions started since its
waiting version was requested. So one party's single report waits for at most one of another party's hundred jobs.
Starts are counted from the oldest waiting request, not over all history.
"""

from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import Select, case, func, select

from cleanroom_pipelines.catalog.names import Kind
from cleanroom_pipelines.catalog.records import Version
from cleanroom_pipelines.catalog.tables import (
    CustomAudienceRow,
    DataLabRow,
    DataRoomRow,
    ExportJobRow,
    GenerationJobRow,
    ResourceRow,
    VersionRow,
)


class Lane(StrEnum):
    """The lane of a version, which determines the worker that builds it."""

    SMALL = "small"
    HEAVY = "heavy"


_KINDS = tuple(Kind)
_HEAVY = (Kind.AUDIENCE_MODEL, Kind.GENERATION_JOB)

# Each kind's own table, for the columns that name the owner of the work.
_JOB, _EXPORT = GenerationJobRow.__table__, ExportJobRow.__table__
_LAB, _ROOM = DataLabRow.__table__, DataRoomRow.__table__
_AUDIENCE = CustomAudienceRow.__table__


@dataclass(frozen=True)
class Queued:
    """A version in the queue whose work can start now.

    Attributes:
        version: The version.
        owner: The account or user that requested it.
        lane: Its lane.
    """

    version: Version
    owner: str
    lane: Lane


def lane_of(kind: Kind, definition: Any) -> Lane:
    """Return the lane for a kind of work; a custom audience is in the heavy lane if it is a lookalike."""
    if kind in _HEAVY:
        return Lane.HEAVY
    is_lookalike = isinstance(definition, dict) and definition.get("kind") == "lookalike"
    return Lane.HEAVY if kind is Kind.CUSTOM_AUDIENCE and is_lookalike else Lane.SMALL


def with_owner(query: Any, resource: type[ResourceRow]) -> Select[Any]:
    """Add the owner of each resource to a query: the account or user who requested it, or else its account.

    Args:
        query: A query that selects from `resource`.
        resource: The resources, or an alias of them.

    Returns:
        The query with the joins and the columns `owner` and `definition` (of a custom audience, else NULL).
    """
    for table in (_JOB, _EXPORT, _LAB, _ROOM):
        query = query.outerjoin(table, table.c.id == resource.id)
    # The owner of a list is the creator of its audience.
    query = query.outerjoin(_AUDIENCE, _AUDIENCE.c.id.in_([resource.id, resource.parent_id]))
    owner = func.coalesce(
        _JOB.c.started_by,
        _EXPORT.c.started_by,
        _LAB.c.owner_email,
        _AUDIENCE.c.created_by_email,
        _ROOM.c.owner_email,
        resource.account_id,
    )
    definition = case((resource.kind == Kind.CUSTOM_AUDIENCE, _AUDIENCE.c.definition))
    owned: Select[Any] = query.add_columns(owner.label("owner"), definition.label("definition"))
    return owned


def started_since(since: datetime) -> Select[Any]:
    """Build the query for all versions started since a time, with owner, kind, definition and start time."""
    query = select(VersionRow.started_at, VersionRow.kind).join(
        ResourceRow, ResourceRow.id == VersionRow.resource_id
    )
    return with_owner(query, ResourceRow).where(VersionRow.started_at >= since)


def in_turns(ready: Iterable[Queued], started: Iterable[tuple[str, Lane, datetime]]) -> list[Queued]:
    """Order ready versions: small lane first; within a lane, owners take turns, oldest version of each first.

    Args:
        ready: All ready versions.
        started: Owner, lane and time of versions started since the oldest of them was requested.
    """
    starts = defaultdict[tuple[str, Lane], list[datetime]](list)
    for owner, lane, at in sorted(started, key=lambda start: start[2]):
        starts[owner, lane].append(at)
    ahead = Counter[tuple[str, Lane]]()
    placed = []
    for each in sorted(ready, key=_age):
        mine, requested_at = (each.owner, each.lane), each.version.created_at
        since = len(starts[mine]) - bisect_right(starts[mine], requested_at)
        placed.append(((each.lane is Lane.HEAVY, ahead[mine] + since, _age(each)), each))
        ahead[mine] += 1
    return [each for _, each in sorted(placed, key=lambda one: one[0])]


def _age(each: Queued) -> tuple[datetime, int, str]:
    """Return the sort key of a ready version: oldest first; parents before children requested at the same time."""
    return each.version.created_at, _KINDS.index(each.version.kind), each.version.resource_id
