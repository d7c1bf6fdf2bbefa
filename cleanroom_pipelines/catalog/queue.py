"""The queue: in which order ready versions are built, and in which lane.

Lives here: the two lanes, whose work a version is, and taking turns.
Add here when work becomes small or heavy, or belongs to somebody new.
Keep out: whether a version is ready (`work.py`) and doing it.

Decided 2026-11-29. Work is done in two lanes, so that a small question never waits for a model: validation
reports, rooms with their overlap and insights, sizes, lists and exports are small; training and ranking are heavy.
In a lane those who asked take turns, each with its oldest version: next is who had the fewest versions started
since the one that waits was requested. So a single report of one party waits for at most one job of another that
asked for a hundred. Starts are counted from the oldest request that still waits, not over all history.
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
    """Which worker builds a version."""

    SMALL = "small"
    HEAVY = "heavy"


_KINDS = tuple(Kind)
_HEAVY = (Kind.AUDIENCE_MODEL, Kind.GENERATION_JOB)

# Each kind's own table, for columns that say whose work it is.
_JOB, _EXPORT = GenerationJobRow.__table__, ExportJobRow.__table__
_LAB, _ROOM = DataLabRow.__table__, DataRoomRow.__table__
_AUDIENCE = CustomAudienceRow.__table__


@dataclass(frozen=True)
class Queued:
    """A ready version as the queue sees it.

    Attributes:
        version: The version.
        owner: Account or user whose work it is.
        lane: Its lane.
    """

    version: Version
    owner: str
    lane: Lane


def lane_of(kind: Kind, definition: Any) -> Lane:
    """The lane of a kind of work; a custom audience is heavy where its own definition ranks users."""
    if kind in _HEAVY:
        return Lane.HEAVY
    is_lookalike = isinstance(definition, dict) and definition.get("kind") == "lookalike"
    return Lane.HEAVY if kind is Kind.CUSTOM_AUDIENCE and is_lookalike else Lane.SMALL


def with_owner(query: Any, resource: type[ResourceRow]) -> Select[Any]:
    """Join what says whose work a resource is: the account or user that asked, else the account that owns it.

    Args:
        query: One that selects from `resource`.
        resource: The resources, or an alias of them.

    Returns:
        The query with the joins and the columns `owner` and `definition` (of a custom audience, else NULL).
    """
    for table in (_JOB, _EXPORT, _LAB, _ROOM):
        query = query.outerjoin(table, table.c.id == resource.id)
    # a list is asked for by whoever works on its audience
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
    """Owner, kind, definition and start of every version that was started since a time."""
    query = select(VersionRow.started_at, VersionRow.kind).join(
        ResourceRow, ResourceRow.id == VersionRow.resource_id
    )
    return with_owner(query, ResourceRow).where(VersionRow.started_at >= since)


def in_turns(ready: Iterable[Queued], started: Iterable[tuple[str, Lane, datetime]]) -> list[Queued]:
    """Order ready versions: small ones first, in each lane by turns of their owners, then by age.

    Args:
        ready: All ready versions.
        started: Owner, lane and time of versions that were started since the oldest of them was requested.
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
    """The oldest first, of one moment parents before children."""
    return each.version.created_at, _KINDS.index(each.version.kind), each.version.resource_id
