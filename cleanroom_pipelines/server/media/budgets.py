"""The privacy budget of a room's two data providers: its payments, price estimates, proposals and approvals.

Lives here: the calls of the data-room (Media) API for payments, estimates, new base figures, proposals, approvals.
Add here when the two organisations can agree on something else.
Keep out: paying (`jobs.py` and the runs) and prices (`privacy`).

An estimate discloses no unpaid figure. The price of a lookalike depends on the released size of its source; until
that size is paid for, the estimate is an upper bound.

The budget is that of two organisations, in all of their rooms. Payments of other rooms are shown only to the two
organisations themselves, because other participants may not know those rooms.
"""

from collections.abc import Callable
from typing import Any

from cleanroom_pipelines.audiences.canonical import canonical
from cleanroom_pipelines.audiences.definitions import Lookalike, Remarketing, RuleBased, parse_definition
from cleanroom_pipelines.audiences.overlap import question_about
from cleanroom_pipelines.catalog import Cause, Kind, LedgerLine, Proposal
from cleanroom_pipelines.catalog.pairs import FULL_LOOKALIKE, PERIOD, REFILL, SHARE
from cleanroom_pipelines.catalog.records import OPEN
from cleanroom_pipelines.errors import ArtifactError, ConflictError, NotFoundError
from cleanroom_pipelines.media.errors import InvalidRequestError, NotProvisionedError
from cleanroom_pipelines.media.protocol import JobKind
from cleanroom_pipelines.privacy import COUNT, INSIGHTS, in_units
from cleanroom_pipelines.privacy.accounting import TENTHS
from cleanroom_pipelines.privacy.prices import HIDDEN_LOOKALIKE_TENTHS, MOST_FIGURES_TENTHS, MOST_LOOKALIKE_TENTHS
from cleanroom_pipelines.runs.artifact_documents import newest_artifact
from cleanroom_pipelines.runs.budgets import (
    Budget,
    Question,
    RoomBudget,
    bound_of,
    ledger_after,
    organization_digest,
    room_pair,
)
from cleanroom_pipelines.runs.building_room_audiences import resolver
from cleanroom_pipelines.server.media.access import ABOUT_AUDIENCES, ABOUT_ROOMS, Call, Room, denied
from cleanroom_pipelines.server.media.audiences import Present, read_definition
from cleanroom_pipelines.terms import Permission

_KINDS = (REFILL, PERIOD, SHARE, FULL_LOOKALIKE)
_PRICED_OF_ROOMS = (JobKind.OVERLAP_STATISTICS, JobKind.INSIGHTS)
_BASE_FIGURES = "base_figures"
_PERMISSIONS = {
    **{kind.value: ABOUT_ROOMS[kind] for kind in _PRICED_OF_ROOMS},
    **{kind.value: permission for kind, permission in ABOUT_AUDIENCES.items()},
    _BASE_FIGURES: Permission.CREATE_CUSTOM_AUDIENCE,
}


def of(room: Room) -> Budget:
    """Return the budget of a room's two data providers.

    Raises:
        NotProvisionedError: No participant may provide the base audience, or none the seed audiences.
    """
    pair = room_pair(room.installation, room.record)
    if pair is None:
        raise NotProvisionedError(
            "The room needs a participant who may provide the base audience, and one who may provide seed "
            "audiences.",
            remedy="Create a room with a provider for each side.",
        )
    return Budget(room.installation, pair, room.id)


def estimate(call: Call) -> dict[str, Any]:
    """Estimate the price of a query that the caller may run; the estimate is free and runs no query."""
    permission = _PERMISSIONS.get(call.text("kind"))
    if permission is None:
        raise InvalidRequestError(
            "This kind of query has no price.", remedy=f"Give one of {', '.join(_PERMISSIONS)}."
        )
    room = call.room(permission)
    budget = of(room)
    cost, is_most = _cost(call, room)
    return priced(budget, call.organization, cost, is_most=is_most) | _prices_of_types(call, room)


def priced(budget: Budget, organization: str, cost: int, *, is_most: bool = False) -> dict[str, Any]:
    """Return a price as JSON, with the remaining budget.

    Args:
        budget: The budget.
        organization: The requesting organisation.
        cost: The price, in tenths of a unit.
        is_most: Whether this is an upper bound.
    """
    left = budget.ledger_for(organization).left
    return {
        "units": in_units(cost),
        "is_at_most": is_most,
        "left": in_units(left),
        "is_affordable": cost <= left,
    }


def renew_base_figures(call: Call) -> dict[str, Any]:
    """Pay for figures of the current base audience, and rebuild the results that depend on earlier figures.

    Raises:
        NotProvisionedError: The room has no base audience.
        ConflictError: The room is being rebuilt.
        BudgetSpentError: The remaining budget is too small.
    """
    room = call.room(_PERMISSIONS[_BASE_FIGURES])
    state = _state(room)
    catalog = call.installation.catalog
    if catalog.resources.newest_version(Kind.DATA_ROOM, room.id).status in OPEN:
        raise ConflictError("The room is being rebuilt.", remedy="Try again when the rebuild has finished.")
    question = state.question_of_base()
    price = state.budget.cost([question])
    state.budget.pay([question], call.organization)
    if _published_base_question(room) != question.key:
        catalog.work.request_version(Kind.DATA_ROOM, room.id, Cause.UPDATED)
    return {"privacy": {"price": in_units(price), **state.budget.as_dict(call.organization)}}


def _published_base_question(room: Room) -> str | None:
    """Return the key of the paid query behind the base figures that the room publishes; None if it has none."""
    try:
        _, documents = newest_artifact(room.installation, Kind.DATA_ROOM, room.id, "data_attributes")
    except ArtifactError:
        return None
    return (documents.get("base_figures") or {}).get("question")


def propose(call: Call) -> dict[str, Any]:
    """Propose a budget change to both data providers, such as a refill or a spending limit."""
    room = call.room()
    budget = of(room)
    kind = call.text("kind")
    if kind not in _KINDS:
        raise InvalidRequestError("Unknown kind of proposal.", remedy=f"Give one of {', '.join(_KINDS)}.")
    catalog = call.installation.catalog
    proposal = catalog.pairs.propose(
        budget.pair.id,
        kind,
        call.organization if is_provider(room) else "",
        tenths=call.number("units", 0) * TENTHS,
        data_room_id=room.id if kind == FULL_LOOKALIKE else None,
        share_of=_participating(room, call.text("organization")) if kind == SHARE else None,
    )
    return _audited(call, budget, proposal)


def approve(call: Call) -> dict[str, Any]:
    """Approve a proposal on behalf of the caller's organisation."""
    return _decide(call, call.installation.catalog.pairs.approve)


def reject(call: Call) -> dict[str, Any]:
    """Reject a pending proposal on behalf of the caller's organisation, and delete it."""
    return _decide(call, call.installation.catalog.pairs.reject)


def _decide(call: Call, decide: Callable[[str, str], Proposal]) -> dict[str, Any]:
    room = call.room()
    budget = of(room)
    if not is_provider(room):
        raise denied()
    known = {each.id for each in call.installation.catalog.pairs.proposals(budget.pair.id)}
    if call.text("proposal_id") not in known:
        raise denied()
    try:
        proposal = decide(call.text("proposal_id"), call.organization)
    except (ConflictError, NotFoundError):
        raise denied() from None
    return _audited(call, budget, proposal)


def list_proposals(call: Call) -> dict[str, Any]:
    """Return the proposals for the budget, each with the privacy bound now and once the proposal takes effect."""
    room = call.room()
    budget = of(room)
    found = call.installation.catalog.pairs.proposals(budget.pair.id)
    shown = [each for each in found if each.data_room_id in (None, room.id) and _is_shown(call, room, each)]
    return {"proposals": [_as_dict(budget, each) for each in shown]}


def _is_shown(call: Call, room: Room, proposal: Proposal) -> bool:
    """Check whether the caller may see a proposal: only data providers see spending limits of other organisations.

    The name of an organisation from another room may be a person's e-mail address.
    """
    return proposal.organization in (None, call.organization) or is_provider(room)


def is_provider(room: Room) -> bool:
    """Check whether the caller may decide for its organisation, which requires permission to provide data."""
    return room.group.may(Permission.PROVIDE_BASE_AUDIENCE) or room.group.may(Permission.PROVIDE_SEED_AUDIENCE)


def _participating(room: Room, organization: str) -> str:
    """Find an organisation in the room by its name or by the e-mail address of a user."""
    catalog = room.installation.catalog
    named = organization.lower()
    for group in room.record.participants:
        for email in group.emails:
            if named in {email, found := catalog.pairs.organization_of_user(email)}:
                return found
    raise InvalidRequestError(
        "The organisation does not participate in the room.", remedy="Give the organisation of a participant."
    )


def _audited(call: Call, budget: Budget, proposal: Proposal) -> dict[str, Any]:
    """Add a proposal to the call's audit entry and return it as JSON."""
    call.trail |= {"pair": budget.pair.id, "kind": proposal.kind, "tenths": proposal.tenths}
    if proposal.organization is not None:
        call.trail["organization"] = organization_digest(call.installation, proposal.organization)
    return _as_dict(budget, proposal)


def _as_dict(budget: Budget, proposal: Proposal) -> dict[str, Any]:
    ledger = budget.ledger
    is_effective = proposal.effective_at is not None
    then = ledger if is_effective else ledger_after(ledger, proposal.kind, proposal.tenths)
    return {
        "id": proposal.id,
        "kind": proposal.kind,
        "units": in_units(proposal.tenths),
        "organization": proposal.organization,
        "approved_by": list(proposal.approved_by),
        "is_effective": is_effective,
        "bound": bound_of(ledger),
        "bound_then": bound_of(then),
    }


def _cost(call: Call, room: Room) -> tuple[int, bool]:
    """Return the price of the query in a call, in tenths of a unit, and whether this price is an upper bound."""
    kind, state = call.text("kind"), _state(room)
    if kind == _BASE_FIGURES:
        return state.budget.cost([state.question_of_base()]), False
    types = Present.of(room).seed_types
    if kind == JobKind.OVERLAP_STATISTICS:
        return state.budget.cost(_sizes(state, types)), False
    if kind == JobKind.INSIGHTS:
        wanted = [call.text("audience_type")] if call.params.get("audience_type") else list(types)
        questions = [question for each in wanted for question in _questions_of_insights(state, each)]
        return state.budget.cost(questions), False
    definition = _definition(call, room)
    if isinstance(definition, Lookalike):
        return _cost_of_lookalike(room, state, definition)
    text = canonical(definition, resolver(room.installation.catalog), state.seeds)
    return state.budget.cost([state.question("size", text)]), False


def _prices_of_types(call: Call, room: Room) -> dict[str, Any]:
    """Return the price of insights on each seed type; empty for other kinds of queries."""
    if call.text("kind") != JobKind.INSIGHTS:
        return {}
    state = _state(room)
    units = {
        each: in_units(state.budget.cost(_questions_of_insights(state, each)))
        for each in Present.of(room).seed_types
    }
    return {"units_by_type": units}


def _questions_of_insights(state: RoomBudget, audience_type: str) -> list[Question]:
    text = question_about(audience_type, seeds=state.seeds)
    return [*_sizes(state, [audience_type]), state.question("insights", f"insights of {text}", INSIGHTS)]


def _state(room: Room) -> RoomBudget:
    version = room.installation.catalog.resources.current_version(Kind.DATA_ROOM, room.id)
    state = None
    if version is not None:
        state = RoomBudget.of(room.installation, room.record, version)
    if state is None:
        raise NotProvisionedError(
            "The room has no base audience yet.", remedy="Provision the base audience first."
        )
    return state


def _definition(call: Call, room: Room) -> Any:
    given, about = call.mapping("definition"), call.mapping("audience")
    if given is not None:
        return read_definition(room, given)
    if about is not None and about.get("kind") == "seed":
        return Remarketing(str(about.get("audience_type")))
    if about is not None and isinstance(about.get("id"), str):
        return parse_definition(room.audience(about["id"]).definition)
    raise InvalidRequestError("The request names no audience.", remedy="Give `audience` or `definition`.")


def _cost_of_lookalike(room: Room, state: RoomBudget, lookalike: Lookalike) -> tuple[int, bool]:
    from cleanroom_pipelines.runs.room_lookalikes import cost_of_lookalike

    source = canonical(RuleBased(lookalike.source), resolver(room.installation.catalog), state.seeds)
    size = state.question("size", source)
    if not state.budget.is_paid([size]):
        most = HIDDEN_LOOKALIKE_TENTHS if room.record.hide_absolute_values else MOST_LOOKALIKE_TENTHS
        return size.price.tenths + most + MOST_FIGURES_TENTHS, True
    return cost_of_lookalike(room.installation, state, source)


def _sizes(state: RoomBudget, types: Any) -> list[Question]:
    return [state.question("overlap", question_about(each, seeds=state.seeds)) for each in types]


def get_ledger(call: Call) -> dict[str, Any]:
    """Return the budget of a room's data providers, its payments, and how many more queries it allows.

    Raises:
        NotProvisionedError: No participant may provide the base audience, or none the seed audiences.
    """
    room = call.room()
    budget = of(room)
    is_of_pair = is_provider(room) and call.organization in budget.pair.organizations
    lines = [line for line in call.installation.catalog.pairs.ledger_lines(budget.pair.id) if line.tenths > 0]
    shown = [line for line in lines if is_of_pair or line.place == room.id]
    elsewhere = sum(line.tenths for line in lines) - sum(line.tenths for line in shown)
    return {
        **budget.as_dict(call.organization),
        "buys": _buys(room, budget.ledger_for(call.organization).left),
        "payments": [_line_as_dict(call, room, line) for line in shown],
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


def _line_as_dict(call: Call, room: Room, line: LedgerLine) -> dict[str, Any]:
    return {
        "kind": line.kind,
        "units": in_units(line.tenths),
        "at": line.created_at.isoformat() if line.created_at else None,
        "is_of_room": line.place == room.id,
        "is_own": line.organization == call.organization,
    }
