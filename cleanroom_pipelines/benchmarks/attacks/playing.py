"""The attackers' requests to a simulated installation ("world"), and the numbers in the results.

Lives here: one function per play, each for one or several attacks.
Add here when there is another play.
Keep out: guessing from the numbers (guessing) and building worlds (worlds).

Each function sends requests as a participant, through the request handlers, until it has its numbers or the pair's
budget is spent; errors count as results too.
"""

import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from cleanroom_pipelines.benchmarks.attacks.worlds import (
    ADVERTISER,
    AGENCY,
    POPULATION,
    PUBLISHER,
    VICTIM,
    Numbers,
    World,
    email,
    odd,
    user,
    with_victim,
)
from cleanroom_pipelines.errors import CleanroomError

Found = dict[str, Numbers]
SEED = {"kind": "seed", "audience_type": "s"}
N_TYPES = 45
"""Number of seed audiences ("types"): 90 units of a pair's budget pay for one count of each."""

_NOT_RELEASED = 20.0
_KNOWN, _AT_THRESHOLD = 45, 39


def rule(without: int, segment: str | None = None, source: Mapping[str, str] = SEED) -> dict[str, Any]:
    """Build a rule that selects the source's users; `without` changes the rule's text, but not the selection."""
    return {
        "kind": "rule_based",
        "source": source,
        "filters": _having(segment) if segment else None,
        "combinators": [{"operator": "DIFF", "source": {"kind": "base"}, "filters": _having(odd(without))}],
    }


def lookalike(source: Mapping[str, str], reach: int, *, without_seed: bool = False) -> dict[str, Any]:
    """Build the definition of a lookalike of a source."""
    return {"kind": "lookalike", "source": source, "reach": reach, "exclude_seed_audience": without_seed}


def lookalikes(world: World, is_in: bool) -> Found:
    """Attack: the agency requests the costliest results: statistics and lists for the smallest seed."""
    world.provision_seeds({"s": with_victim(POPULATION.seed, is_in)})
    statistics: Numbers = {}
    lists: Numbers = {}
    kept: Numbers = {}
    for reach in (10, 25):
        about = world.audience(AGENCY, lookalike(SEED, reach))
        if not statistics:
            statistics = _statistics("s", world.ask(AGENCY, "lookalike_statistics", audience=about))
        first = world.ask(AGENCY, "user_list", audience=about)
        lists |= _members(f"{reach}", world.users_of(AGENCY, first))
        if not kept and "job" in first:
            options = {"holdout": "20%", "delta_from": first["job"]}
            second = world.ask(AGENCY, "user_list", audience=about, options=options)
            # union of both lists: users held out of one are in the other
            kept = _members("kept", world.users_of(AGENCY, first)) | _members(
                "kept", world.users_of(AGENCY, second)
            )
    return {
        "comparing statistics": statistics,
        "comparing lists": lists,
        "comparing control groups, changes and refreshed lists": kept,
    }


def insights(world: World, is_in: bool) -> Found:
    """Attack: the agency reads the insights of four seed audiences; the victim has 50 interests."""
    lists = {f"s{number}": with_victim(POPULATION.seed[: 200 + number], is_in) for number in range(4)}
    world.provision_seeds(lists)
    cells: Numbers = {}
    for table in world.ask(AGENCY, "insights").get("audiences", ()):
        for row in table["rows"]:
            key = f"{table['audience_type']} {row['interest']} {row['age']} {row['gender']}"
            cells[key] = row["share_in_overlap"] or 0.0
    return {"insights about a user with 50 interests": cells}


def targets(world: World, is_in: bool) -> Found:
    """Attack: the agency requests sizes of audiences that contain only known users and perhaps the victim."""
    world.provision_seeds({"s": with_victim(POPULATION.seed, is_in)})
    saved: Numbers = {}
    drafts: Numbers = {}
    for number in range(6):
        if number % 2:
            answer = world.ask(AGENCY, "audience_size", definition=rule(number, "rare"))
            drafts |= _size(f"{number}", answer)
        else:
            about = world.audience(AGENCY, rule(number, "rare"))
            saved |= _size(f"{number}", world.ask(AGENCY, "audience_size", audience=about))
            listed = world.ask(AGENCY, "user_list", audience=about)
            saved |= _members(f"{number}", world.users_of(AGENCY, listed))
    return {"audiences that only the victim fits": saved, "drafts of such audiences": drafts}


def duplicated(world: World, is_in: bool) -> Found:
    """Attack: the agency compares lookalikes that keep the seed, exclude it, or exclude a copy of it."""
    seed = with_victim(POPULATION.seed, is_in)
    world.provision_seeds({"s": seed, "t": seed})
    in_place = world.ask(AGENCY, "user_list", audience=world.audience(AGENCY, lookalike(SEED, 30)))
    found: Found = {}
    for name, kind in (("duplicating a seed type", "t"), ("combining seed modes", "s")):
        source = {"kind": "seed", "audience_type": kind}
        without = world.ask(
            AGENCY, "user_list", audience=world.audience(AGENCY, lookalike(source, 30, without_seed=True))
        )
        outside = world.ask(
            AGENCY,
            "user_list",
            audience=world.audience(
                AGENCY,
                {**rule(0, source={"kind": "base"}), "combinators": [{"operator": "DIFF", "source": source}]},
            ),
        )
        found[name] = (
            _members("in place", world.users_of(AGENCY, in_place))
            | _members("without", world.users_of(AGENCY, without))
            | _members("outside", world.users_of(AGENCY, outside))
        )
    return found


def oracles(world: World, is_in: bool) -> Found:
    """Attack: the agency reads prices, errors and the audit log for a seed that is barely large enough."""
    world.provision_seeds({"s": with_victim(POPULATION.seed[:245], is_in)})
    about = world.audience(AGENCY, lookalike(SEED, 10))
    prices: Numbers = {}

    def look(when: str) -> None:
        try:
            estimate = world.call(AGENCY, "get_estimate", kind="lookalike_statistics", audience=about)
        except CleanroomError as error:
            prices[f"{when} error"] = _in_figures(error.message)
            return
        prices.update({f"{when} {name}": float(estimate[name]) for name in ("units", "is_at_most", "left")})

    look("before")
    answer = world.ask(AGENCY, "lookalike_statistics", audience=about)
    prices["error"] = _in_figures(answer.get("message", ""))
    prices["left"] = world.left()
    look("after")
    entries = world.call(AGENCY, "get_audit_log")["entries"]
    audit = {"entries": float(len(entries)), "left": world.left()}
    audit |= {f"{each['action']} {each['outcome']}": 1.0 for each in entries}
    return {"reading estimates, prices and errors": prices, "reading the audit log": audit}


def planted(world: World, is_in: bool) -> Found:
    """Attack: the publisher provisions base audiences of known customers, the victim and planted users only."""
    world.provision_seeds({"s": with_victim(POPULATION.seed, is_in)})
    sizes: Numbers = {}
    known = POPULATION.seed[:_KNOWN]
    for number in range(2):
        strangers = [user(n) for n in range(50_000 + 60 * number, 50_060 + 60 * number)]
        users = (VICTIM, *known, *strangers)
        world.provision_base(
            {
                "matching:EMAIL": "".join(f"{each},{email(each)}\n" for each in users),
                "segments": "".join(f"{each},planted\n" for each in users),
            }
        )
        sizes |= _rows(f"{number}", world.ask(PUBLISHER, "overlap_statistics"))
    return {"users planted by the publisher": sizes}


def retrained(world: World, is_in: bool) -> Found:
    """Attack: the advertiser, who knows the victim, tests whether a new base audience contains the victim.

    The base's model is trained again in the kept representation. The victim's place on the list is not secret, and
    neither is the number of users, which a list's length reveals. The base therefore lacks one more user, so that
    both lists have the same length.
    """
    world.provision_seeds({"s": (*POPULATION.seed, VICTIM)})
    world.provision_base(POPULATION.files(with_victim=is_in, n_left_out=1))
    numbers = _rows("overlap", world.ask(ADVERTISER, "overlap_statistics"))
    about = world.audience(ADVERTISER, lookalike(SEED, 10))
    answer = world.ask(ADVERTISER, "lookalike_statistics", audience=about)
    numbers |= _statistics("s", answer)
    numbers |= {f"apart {each['value']}": each["strength"] or 0.0 for each in answer.get("explanation", ())}
    listed = world.users_of(ADVERTISER, world.ask(ADVERTISER, "user_list", audience=about))
    return {
        "retraining on a new base audience": numbers
        | _members("listed", [each for each in listed or () if each != VICTIM])
    }


def thresholds(world: World, is_in: bool) -> Found:
    """Attack: the advertiser tests 45 times whether 39 known users and maybe the victim reach the threshold."""
    del is_in
    world.provision_seeds(_types(N_TYPES, _AT_THRESHOLD))
    answer = world.ask(ADVERTISER, "overlap_statistics")
    empty = {row["audience_type"]: float(row["is_empty"]) for row in answer.get("rows", ())}
    return {"testing thresholds of rooms": empty}


def spending(world: World, is_in: bool) -> Found:
    """Attack: the advertiser spends the budget on counts of the base audience, then tries to get more for free."""
    world.provision_seeds(_types(N_TYPES, _KNOWN))
    world.back_up()
    sizes = _rows("first", world.ask(ADVERTISER, "overlap_statistics"))
    found: Found = {}
    for number, trick in enumerate(TRICKS):
        trick(world)
        if not world.call(ADVERTISER, "get_provisioning")["base"]:
            world.provision_base(POPULATION.files(with_victim=is_in))
        if trick in _OF_DATA:
            world.provision_seeds(_types(1, _KNOWN), f"{number}")
        more = rule(number, source={"kind": "seed", "audience_type": "t00"})
        found[trick.__name__.replace("_", " ")] = sizes | _size(
            "more", world.ask(ADVERTISER, "audience_size", definition=more)
        )
    return found


def re_upload(world: World) -> None:
    """Trick: do nothing here; the caller uploads changed lists after this trick."""


def new_room(world: World) -> None:
    """Trick: create another room with an additional user."""
    world.new_room(more=("new@nowhere.example",))


def new_version(world: World) -> None:
    """Trick: remove the base audience, so that a new version is provisioned."""
    world.call(PUBLISHER, "deprovision_base")
    world.work()


def colluding_agency(world: World) -> None:
    """Trick: let the agency ask the same questions, too."""
    world.ask(AGENCY, "overlap_statistics")


def refill_alone(world: World) -> None:
    """Trick: propose more budget, and let everyone but the base audience's provider approve it."""
    world.call(ADVERTISER, "propose", kind="refill", units=100)
    for who in (ADVERTISER, AGENCY):
        for each in world.call(who, "list_proposals")["proposals"]:
            with suppress(CleanroomError):  # not every participant may approve
                world.call(who, "approve", proposal_id=each["id"])


def restored_older_catalogue(world: World) -> None:
    """Trick: let the operator restore a backup from before the first request."""
    world.restore()


_OF_DATA = (re_upload, new_room, new_version)
TRICKS: tuple[Callable[[World], None], ...] = (
    *_OF_DATA,
    colluding_agency,
    refill_alone,
    restored_older_catalogue,
)
"""The tricks by which the attacker tries to reset the budget."""


def _types(n: int, n_known: int) -> dict[str, tuple[str, ...]]:
    known = POPULATION.users[:n_known]
    return {f"t{number:02d}": (VICTIM, *known, f"nobody{number}") for number in range(n)}


def _having(segment: str) -> dict[str, Any]:
    segments = {"attribute": "segments", "operator": "CONTAINS_ANY_OF", "values": [segment]}
    return {"operator": "AND", "filters": [segments]}


def _statistics(name: str, answer: Mapping[str, Any]) -> Numbers:
    if answer.get("auc") is None:
        return {}
    numbers = {f"{name} auc": answer["auc"], f"{name} size": float(answer["seed_size"] or _NOT_RELEASED)}
    numbers |= {f"{name} reach {each['reach']}": each["tpr"] or 0.0 for each in answer["reach"]}
    return numbers | {f"{name} tpr at {fpr}": tpr for fpr, tpr in zip(answer["fpr"], answer["tpr"], strict=True)}


def _members(name: str, users: list[str] | None) -> Numbers:
    return {f"{name} {each}": 1.0 for each in users or ()}


def _size(name: str, answer: Mapping[str, Any]) -> Numbers:
    if "reason" not in answer:
        return {}
    return {f"{name} size": float(answer["size"] if answer["size"] is not None else _NOT_RELEASED)}


def _rows(name: str, answer: Mapping[str, Any]) -> Numbers:
    return {
        f"{name} {row['audience_type']}": float(
            row["overlap_size"] if row["overlap_size"] is not None else _NOT_RELEASED
        )
        for row in answer.get("rows", ())
    }


def _in_figures(message: str) -> float:
    """Return the message's length plus all numbers in its text; most messages give different results."""
    figures = [int(each) for each in re.findall(r"\d+", message)]
    return float(len(message) + sum(figures))
