"""Privacy budgets of pairs of organisations: charging queries to them, and adding noise to the results.

Lives here: finding a room's or job's two organisations, paying for answers, and the noise of those answers; which
data a room's question covers (`RoomBudget`).
Add here when something other than rooms and jobs asks about two organisations' data.
Keep out: prices and noise (privacy), storing payments (catalog.pairs).

Each payment is written to the audit log before its answer is returned. If the catalogue is lost or outdated,
`recover` replays the payments from the log (`replay`).
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import combinations_with_replacement
from pathlib import Path
from types import MappingProxyType
from typing import Any, Self

from cleanroom_pipelines.catalog import DataRoom, Ledger, LedgerLine, Pair, Version
from cleanroom_pipelines.catalog.pairs import PERIOD, REFILL
from cleanroom_pipelines.documents import Document
from cleanroom_pipelines.privacy import (
    COUNT,
    Price,
    Releaser,
    Spent,
    bound_as_dict,
    budget_spent,
    in_units,
    question_key,
    share_spent,
)
from cleanroom_pipelines.privacy.accounting import attacker_success, composed_epsilon, right_at_most
from cleanroom_pipelines.privacy.prices import BASE_TENTHS
from cleanroom_pipelines.runs.artifact_documents import read_stored
from cleanroom_pipelines.runs.installation import Installation
from cleanroom_pipelines.storage.audit import AuditLog
from cleanroom_pipelines.terms import Permission

MONTHS_OF_A_YEAR = 12
_CHARGE = "charge"
_CARRIED_OVER = "before"  # marks the line that a catalogue upgrade writes
_ANSWERS_OF_BEFORE = frozenset(
    f"get_job_result.{kind}"
    for kind in ("overlap_statistics", "insights", "audience_size", "lookalike_statistics")
)


@dataclass(frozen=True)
class Question(Document):
    """A query about the data of two organisations, which is charged to their privacy budget.

    Args:
        kind: One word, for display: `overlap`, `insights`, `size`, `seed_size`, `lookalike`, `figures`, `base`.
        key: Its key in the ledger.
        tenths: Its price, in tenths of a budget unit.
        sensitivity: Squared L2 distance by which one person can change the answer's values.
    """

    kind: str
    key: str
    tenths: int
    sensitivity: Fraction

    @classmethod
    def of(cls, kind: str, content: str, text: str, price: Price) -> Self:
        """Create a question from its text; only a digest is stored, because the text may contain data.

        Args:
            kind: One word, for display.
            content: Keyed digest of the data that the answer reads.
            text: The canonical text of the question.
            price: The question's price.
        """
        return cls(kind, question_key(content, text, price.tenths), price.tenths, price.sensitivity)

    @property
    def price(self) -> Price:
        """The question's price, which determines the noise of its answer."""
        return Price(self.tenths, self.sensitivity)


@dataclass(frozen=True)
class Budget:
    """The privacy budget of two organisations, as used by one room or job.

    Args:
        installation: The installation that holds the budget.
        pair: The two organisations.
        place: Partition key of the requesting room or job.
    """

    installation: Installation
    pair: Pair
    place: str

    @property
    def ledger(self) -> Ledger:
        """The current ledger of the two organisations."""
        return self.ledger_for(None)

    def ledger_for(self, organization: str | None) -> Ledger:
        """Return the current ledger; if `organization` is given, limit it to that organisation's share."""
        return self.installation.catalog.pairs.ledger(self.pair.id, organization)

    def releaser(self, content: str, *, hide_absolute_values: bool) -> Releaser:
        """Return the `Releaser` that adds noise to numbers paid from this budget."""
        key = self.installation.key.derive(f"noise of {self.pair.id}")
        return Releaser(key, content, hide_absolute_values)

    def is_paid(self, questions: Iterable[Question]) -> bool:
        """Whether all given questions have already been paid for."""
        keys = {question.key for question in questions}
        return keys <= self.installation.catalog.pairs.paid_among(self.pair.id, keys)

    def cost(self, questions: Iterable[Question]) -> int:
        """Return the price, in tenths of a budget unit, of the given questions that are not paid for yet."""
        by_key = {question.key: question for question in questions}
        paid = self.installation.catalog.pairs.paid_among(self.pair.id, by_key)
        return sum(question.tenths for key, question in by_key.items() if key not in paid)

    def pay(self, questions: Sequence[Question], organization: str | None = None) -> Ledger:
        """Charge the budget for several questions at once; questions that were paid for earlier are free.

        Args:
            questions: The questions.
            organization: The requesting organisation.

        Raises:
            BudgetSpentError: Too little is left; nothing was spent.
        """
        catalog = self.installation.catalog
        if self.is_paid(questions):
            return self.ledger_for(organization)
        lines = [_line(question, self.place, organization) for question in questions]
        # log first: even if the process dies in between, the log holds every paid line
        ledger = catalog.pairs.charge(
            self.pair.id,
            lines,
            organization=organization,
            note=lambda line: _audit_payment(self.installation, self.pair.id, line),
        )
        if ledger is None:
            now, cost = self.ledger_for(organization), self.cost(questions)
            if now.share is not None and cost > now.share - now.spent_of_share:
                raise share_spent(share=now.share, spent=now.spent_of_share, cost=cost)
            raise budget_spent(total=now.total, spent=now.spent, cost=cost)
        return ledger

    def as_dict(self, organization: str | None = None) -> dict[str, Any]:
        """Return the budget as a JSON object, in budget units, as every response and page shows it.

        The object names no organisation: the name of one may be a user's e-mail address.

        Args:
            organization: The requesting organisation; the remaining budget is then limited to its share.
        """
        ledger = self.ledger_for(organization)
        share = {} if ledger.share is None else {"share": in_units(ledger.share)}
        return share | {
            "spent": in_units(ledger.spent),
            "total": in_units(ledger.total),
            "left": in_units(ledger.left),
            "period": ledger.period or None,
            "bound": bound_of(ledger),
        }


def bound_of(ledger: Ledger) -> dict[str, Any]:
    """Return the privacy bound of a pair's whole budget; if the budget is monthly, also the bound of a year."""
    bound = bound_as_dict(ledger.total)
    if ledger.period:
        bound["right_at_most_in_a_year"] = round(right_at_most(MONTHS_OF_A_YEAR * ledger.total), 3)
    return bound


def ledger_after(ledger: Ledger, kind: str, tenths: int) -> Ledger:
    """Return the ledger of two organisations as it will be once a proposal takes effect."""
    if kind == REFILL:
        return replace(ledger, total=ledger.total + tenths)
    return replace(ledger, period="month") if kind == PERIOD else ledger


def room_pair(installation: Installation, room: DataRoom) -> Pair | None:
    """Return the two organisations that provide a room's data or, before an upload, may provide it.

    Returns:
        None if, for one of the two sides, no organisation may upload data.
    """
    base = _provider(installation, room, "seeds:", Permission.PROVIDE_BASE_AUDIENCE, seeds=False)
    seed = _provider(installation, room, "seeds:", Permission.PROVIDE_SEED_AUDIENCE, seeds=True)
    return None if base is None or seed is None else installation.catalog.pairs.pair(base, seed)


def room_organizations(installation: Installation, room: DataRoom) -> tuple[str | None, str | None]:
    """Return the organisations that provide the base audience and the seed audiences of a room."""
    return (
        _provider(installation, room, "seeds:", Permission.PROVIDE_BASE_AUDIENCE, seeds=False),
        _provider(installation, room, "seeds:", Permission.PROVIDE_SEED_AUDIENCE, seeds=True),
    )


def replay(installation: Installation) -> int:
    """Add payments from the audit log that are missing from the catalogue's ledgers.

    Returns:
        Number of log lines read.
    """
    by_pair: dict[str, list[LedgerLine]] = {}
    organizations = {organization_digest(installation, each): each for each in known_organizations(installation)}
    for entry in installation.audit.entries():
        if entry.get("operation") == _CHARGE and entry.get("pair"):
            by_pair.setdefault(entry["pair"], []).append(
                LedgerLine(
                    key=entry["question"],
                    kind=entry.get("kind", "unknown"),
                    tenths=int(entry["tenths"]),
                    variance=entry.get("variance"),
                    sensitivity=entry.get("sensitivity"),
                    place=entry.get("room"),
                    organization=organizations.get(str(entry.get("organization"))),
                )
            )
    for pair_id, lines in by_pair.items():
        installation.catalog.pairs.restore_lines(pair_id, lines)
    return sum(map(len, by_pair.values()))


def restore_ledgers(installation: Installation, *, is_complete: bool = True) -> str:
    """Restore all ledgers from the audit log; if the log is incomplete, mark all pairs' budgets as spent.

    Args:
        installation: The installation to work on.
        is_complete: Whether, as far as the operator knows, the log holds every question ever asked.

    Returns:
        A sentence that says what was done.
    """
    verdict = installation.audit.verify()
    n_lines = replay(installation)
    if verdict.ok and verdict.n_entries and is_complete:  # an empty log counts as lost
        asked = _queried_in_earlier_release(installation)
        n_earlier = installation.catalog.pairs.spend_rest("unknown", asked) if asked else 0
        earlier = (
            f" {n_earlier} pairs got results from an earlier release, which recorded no payments; their budgets "
            "count as spent."
            if n_earlier
            else ""
        )
        return f"The privacy ledgers contain all {n_lines:,} payments in the audit log.{earlier}"
    for pair in _possible_pairs(installation):
        installation.catalog.pairs.pair(*pair)
    if not (n_pairs := installation.catalog.pairs.spend_rest("unknown")):
        return ""
    return (
        f"Payments after the backup are unknown, so the privacy budgets of {n_pairs} pairs of organisations count "
        "as spent."
    )


def _queried_in_earlier_release(installation: Installation) -> set[str]:
    """Return the ids of pairs that queried data in an earlier release, which recorded no payments.

    Earlier releases recorded no payments. Pairs whose ledger was carried over by an upgrade are excluded.
    """
    catalog, charged, found = installation.catalog, set[str](), set[str]()
    pair_of = {room.id: room_pair(installation, room) for room in catalog.rooms.data_rooms()}
    for entry in installation.audit.entries():
        if entry.get("operation") == _CHARGE:
            charged.add(str(entry.get("pair")))
        elif entry.get("operation") in _ANSWERS_OF_BEFORE and entry.get("outcome") == "ok":
            pair = pair_of.get(str(entry.get("room")))
            if pair is not None and pair.id not in charged:
                found.add(pair.id)
    return {each for each in found if all(line.kind != _CARRIED_OVER for line in catalog.pairs.ledger_lines(each))}


def _possible_pairs(installation: Installation) -> set[tuple[str, str]]:
    """Return all pairs of organisations that may have matched data through users, accounts or data rooms."""
    catalog = installation.catalog
    users, accounts = _organizations_of_users(installation), _organizations_of_accounts(installation)
    rooms = [room_pair(installation, room) for room in catalog.rooms.data_rooms()]
    return {
        *combinations_with_replacement(sorted(users), 2),
        *combinations_with_replacement(sorted(accounts), 2),
        *(pair.organizations for pair in rooms if pair is not None),
    }


def _organizations_of_users(installation: Installation) -> set[str]:
    catalog = installation.catalog
    return {catalog.pairs.organization_of_user(user.email) for user in catalog.users.all()}


def _organizations_of_accounts(installation: Installation) -> set[str]:
    catalog = installation.catalog
    return {catalog.pairs.organization_of_account(account.id) for account in catalog.parties.accounts()}


def known_organizations(installation: Installation) -> set[str]:
    """Return all organisations that a user or an account belongs to."""
    return _organizations_of_users(installation) | _organizations_of_accounts(installation)


def organization_digest(installation: Installation, organization: str) -> str:
    """Return the digest used for an organisation in the audit log, because its name may be an e-mail address."""
    return installation.key.digest("organization", organization.encode())


def write_down_reveals(
    audit: AuditLog,
    resource: str,
    reveals: Iterable[str],
    *,
    account: str | None = None,
    room: str | None = None,
) -> None:
    """Record in the audit log which facts, such as seed membership, an exported list reveals by design.

    Args:
        audit: The audit log.
        resource: Partition key of the list or export.
        reveals: What it reveals, one word each.
        account: Account that owns the export, in the lookalike (AWS) API.
        room: Room that the list belongs to, in the data-room (Media) API.
    """
    for each in reveals:
        audit.write(
            {
                "way": "worker",
                "operation": "export",
                "resource": resource,
                "account": account,
                "room": room,
                "outcome": "ok",
                "kind": f"reveals_{each.lower()}",
            }
        )


def composed(lines: Iterable[LedgerLine]) -> dict[str, Any]:
    """Return the combined privacy bound of several payments, computed from the noise that each paid for.

    If the noise of a payment is unknown, the bound of one Gaussian release at its price is used.
    """
    spent = [_spent(line) for line in lines if line.tenths > 0]
    tenths = sum(each.tenths for each in spent)
    return {
        "units": in_units(tenths),
        "rho": float(sum((each.rho for each in spent), start=0)),
        "right_at_most": round(attacker_success(spent), 4) if spent else 0.5,
        "epsilon": round(composed_epsilon(spent), 3) if spent else 0.0,
    }


def _provider(
    installation: Installation, room: DataRoom, prefix: str, permission: Permission, *, seeds: bool
) -> str | None:
    catalog = installation.catalog
    for name, upload_id in sorted(room.inputs.items()):
        owner = catalog.rooms.upload(upload_id).owner_email
        group = room.group_of(owner)
        # Files that the operator puts into the inbox for a party belong to that party, even in another's room: the
        # room's owner counts as their uploader. Others keep their files when they leave the room.
        is_provider = owner != room.owner_email or (group is not None and group.may(permission))
        if name.startswith(prefix) is seeds and is_provider:
            return catalog.pairs.organization_of_user(owner)
    emails = [email for group in room.participants if group.may(permission) for email in group.emails]
    return catalog.pairs.organization_of_user(emails[0]) if emails else None


def _line(question: Question, place: str, organization: str | None) -> LedgerLine:
    price = question.price
    return LedgerLine(
        key=question.key,
        kind=question.kind,
        tenths=price.tenths,
        variance=str(price.variance),
        sensitivity=str(price.sensitivity),
        place=place,
        organization=organization,
    )


def _audit_payment(installation: Installation, pair_id: str, line: LedgerLine) -> None:
    installation.audit.write(
        {
            "way": "worker",
            "operation": _CHARGE,
            "outcome": "ok",
            "pair": pair_id,
            "question": line.key,
            "kind": line.kind,
            "tenths": line.tenths,
            "variance": line.variance,
            "sensitivity": line.sensitivity,
            "room": line.place,
            "organization": None
            if line.organization is None
            else organization_digest(installation, line.organization),
        }
    )


def _spent(line: LedgerLine) -> Spent:
    if line.variance is None or line.sensitivity is None:
        return Price(line.tenths).spent
    return Spent(line.tenths, Fraction(line.variance), Fraction(line.sensitivity))


_NO_SEEDS: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True)
class RoomBudget:
    """The privacy budget of two organisations for the data in one version of a room.

    Args:
        room: The room.
        budget: Budget of the pair of organisations that provide its data.
        content: Keyed digest of the base audience; those of the seed audiences are in the text of each question.
        seeds: Keyed digest of the ids of each type of seed audience.
    """

    room: DataRoom
    budget: Budget
    content: str
    seeds: Mapping[str, str]

    @classmethod
    def of(cls, installation: Installation, room: DataRoom, version: Version) -> Self | None:
        """Create the budget of a room for the data in one of its versions.

        Returns:
            None while the room has no base audience, or no organisation may provide one of its two sides.
        """
        pair = room_pair(installation, room)
        if pair is None or "base_audience" not in version.artifacts:
            return None
        seeds = _NO_SEEDS
        if "seed_audiences" in version.artifacts:
            reference = version.artifact("seed_audiences")
            seeds = read_stored(installation.store, reference)[1].get("digests", {})
            if not seeds:  # an earlier release stored none, and the advertiser's file is deleted
                with installation.store.opening(reference) as folder:
                    seeds = seed_digests(folder)
        base = installation.store.manifest(version.artifact("base_audience"))
        content = installation.key.digest("content", base.data_version.encode())
        return cls(room, Budget(installation, pair, room.id), content, seeds)

    @property
    def spec(self) -> dict[str, Any]:
        """The spec of an artifact with noised numbers: the pair of organisations that pays for the noise."""
        return {"pair": self.budget.pair.id}

    @property
    def salt(self) -> str:
        """The secret that determines which of a user's interests are counted in the tables."""
        return self.budget.installation.key.derive(f"interests of {self.budget.pair.id}").hex()

    def releaser(self) -> Releaser:
        """Return the `Releaser` that adds noise to the room's numbers."""
        return self.budget.releaser(self.content, hide_absolute_values=self.room.hide_absolute_values)

    def question(self, kind: str, text: str, price: Price = COUNT) -> Question:
        """Create the `Question` that charges the budget for a query about the room's data."""
        return Question.of(kind, self.content, text, price)

    def question_of_base(self) -> Question:
        """Return the `Question` that charges the budget for the figures about the base audience alone."""
        from cleanroom_pipelines.audiences.insights import BASE_QUESTION

        return self.question("base", BASE_QUESTION, Price(BASE_TENTHS))


def seed_digests(folder: Path) -> dict[str, str]:
    """Return a digest of each seed audience's hashed ids, by type; the order of the ids does not matter.

    Args:
        folder: Folder of the seed audiences' artifact.
    """
    import pyarrow.parquet as pq

    table = pq.read_table(folder / "seeds.parquet", columns=["audience_type", "digest"])
    table = table.sort_by([("audience_type", "ascending"), ("digest", "ascending")])
    found: dict[str, Any] = {}
    for batch in table.to_batches(max_chunksize=100_000):
        for kind, digest in zip(batch.column(0).to_pylist(), batch.column(1).to_pylist(), strict=True):
            found.setdefault(kind, hashlib.sha256()).update(f"{digest}\n".encode())
    return {kind: each.hexdigest() for kind, each in found.items()}
