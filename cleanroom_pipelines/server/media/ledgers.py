"""Payments from the privacy budget of a room's two data providers, and how many more queries the budget allows.

Lives here: the call of the data-room (Media) API about payments.
Add here when participants can see more of a ledger.
Keep out: estimates, proposals and approvals (`budgets.py`) and paying (`jobs.py` and the runs).

The budget is that of two organisations, in all of their rooms. Payments of other rooms are shown only to the two
organisations themselves, because other participants may not know those rooms.
"""

from typing import Any

from cleanroom_pipelines.catalog import LedgerLine
from cleanroom_pipelines.privacy import COUNT, INSIGHTS, in_units
from cleanroom_pipelines.privacy.prices import HIDDEN_LOOKALIKE_TENTHS, MOST_FIGURES_TENTHS, MOST_LOOKALIKE_TENTHS
from cleanroom_pipelines.server.media import budgets
from cleanroom_pipelines.server.media.access import Call, Room


def get_ledger(call: Call) -> dict[str, Any]:
    """Return the budget of a room's data providers, its payments, and how many more queries it allows.

    Raises:
        NotProvisionedError: No participant may provide the base audience, or none the seed audiences.
    """
    room = call.room()
    budget = budgets.of(room)
    is_of_pair = budgets.is_provider(room) and call.organization in budget.pair.organizations
    lines = [line for line in call.installation.catalog.pairs.ledger_lines(budget.pair.id) if line.tenths > 0]
    shown = [line for line in lines if is_of_pair or line.place == room.id]
    elsewhere = sum(line.tenths for line in lines) - sum(line.tenths for line in shown)
    return {
        **budget.as_dict(call.organization),
        "buys": _buys(room, budget.ledger_for(call.organization).left),
        "payments": [_as_dict(call, room, line) for line in shown],
        "paid_elsewhere": in_units(elsewhere),
        "organization": call.organization,
        "may_decide": is_of_pair,
    }


def _buys(room: Room, left: int) -> dict[str, int]:
    """Return how many more queries of each kind a budget allows, at the highest price of that kind."""
    lookalike = HIDDEN_LOOKALIKE_TENTHS if room.record.hide_absolute_values else MOST_LOOKALIKE_TENTHS
    prices = {
        "overlap": COUNT.tenths,
        "audience_size": COUNT.tenths,
        "insights": COUNT.tenths + INSIGHTS.tenths,
        "lookalike": COUNT.tenths + lookalike + MOST_FIGURES_TENTHS,
    }
    return {kind: left // tenths for kind, tenths in prices.items()}


def _as_dict(call: Call, room: Room, line: LedgerLine) -> dict[str, Any]:
    return {
        "kind": line.kind,
        "units": in_units(line.tenths),
        "at": line.created_at.isoformat() if line.created_at else None,
        "is_of_room": line.place == room.id,
        "is_own": line.organization == call.organization,
    }
