"""Pairs of organisations that provide data: their privacy budgets, and proposals that both must approve.

Lives here: organisations of users and accounts, the ledger of each pair, proposals and their approval.
Add here when two organisations can agree on something else.
Keep out: prices of questions (`privacy`) and permission to ask (the API layers).

A pair is two organisations whose data meet, across all their rooms, versions, participants and accounts. Budget
spent is never refunded: lines are only added, and they outlive deleted rooms and jobs.
"""

import hashlib
import json
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import replace
from datetime import datetime
from itertools import combinations

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from cleanroom_pipelines.catalog.database import Part, noted
from cleanroom_pipelines.catalog.identity import raise_generation
from cleanroom_pipelines.catalog.names import check_label, make_uuid
from cleanroom_pipelines.catalog.records import Ledger, LedgerLine, Pair, Proposal
from cleanroom_pipelines.catalog.tables import AccountRow, LedgerLineRow, PairRow, ProposalRow, UserRow, record_of
from cleanroom_pipelines.errors import ConflictError, NotFoundError, UsageError
from cleanroom_pipelines.privacy import PAIR_TENTHS

REFILL, PERIOD, SHARE, FULL_LOOKALIKE = "refill", "period", "share", "full_lookalike"
MOST_REFILL_TENTHS = PAIR_TENTHS
MOST_SHARE_TENTHS = 100 * PAIR_TENTHS  # above the budget, which may be refilled
# Users of these domains form one organisation per address, because they have only the mail provider in common.
_PUBLIC_MAIL = frozenset(
    (  # noqa: SIM905 a list of forty words reads worse
        "gmail.com googlemail.com outlook.com hotmail.com live.com msn.com yahoo.com ymail.com icloud.com me.com "
        "mac.com aol.com gmx.com gmx.de gmx.net gmx.at gmx.ch web.de t-online.de freenet.de proton.me "
        "libero.it protonmail.com mail.ru yandex.com yandex.ru qq.com 163.com 126.com orange.fr free.fr"
    ).split()
)


def organization_of_address(email: str) -> str:
    """Return a user's default organisation: the domain, or the whole address at a public mail provider."""
    domain = email.rpartition("@")[2]
    return email if domain in _PUBLIC_MAIL else domain


def pair_id_of(a: str, b: str) -> str:
    """Return the id of the pair of two organisations; their order does not matter."""
    return "pair-" + hashlib.sha256(json.dumps(sorted((a, b))).encode()).hexdigest()[:24]


class Pairs(Part):
    """The part of the catalogue that stores pairs of organisations and their ledgers."""

    def organization_of_user(self, email: str) -> str:
        """Return a user's organisation: the one that the operator set, or else the default for the address."""
        with self._database.read() as session:
            row = session.get(UserRow, email)
            return (row.organization if row else None) or organization_of_address(email)

    def organization_of_account(self, account_id: str) -> str:
        """Return an account's organisation: the one that the operator set, or else the account itself."""
        with self._database.read() as session:
            row = session.get(AccountRow, account_id)
            return (row.organization if row else None) or account_id

    @noted
    def set_organization(
        self, organization: str, *, email: str | None = None, account_id: str | None = None
    ) -> None:
        """Set the organisation of a user or an account.

        Raises:
            NotFoundError: The user or account does not exist.
            UsageError: The name is invalid.
        """
        check_label("organization", organization, 255)
        with self._database.write() as session:
            row: UserRow | AccountRow | None = (
                session.get(UserRow, email) if email else session.get(AccountRow, account_id)
            )
            if row is None:
                raise NotFoundError("There is no such user or account.", remedy="Create it first.")
            row.organization = organization.lower()

    def pair(self, a: str, b: str) -> Pair:
        """Return the pair of two organisations, or of one with itself; create the pair if it does not exist."""
        with self._database.read() as session:
            row = session.get(PairRow, pair_id_of(a, b))
            if row is not None and row.organizations:
                return _pair(row)
        with self._database.write() as session:
            return _pair(_ensure(session, sorted((a, b)), self._database.now()))

    def period_of(self, members: Iterable[str]) -> str:
        """Return `month` if all pairs of the accounts' organisations have monthly budgets; otherwise ""."""
        organizations = {self.organization_of_account(member) for member in members}
        with self._database.read() as session:
            rows = [session.get(PairRow, pair_id_of(a, b)) for a, b in combinations(sorted(organizations), 2)]
            return "month" if rows and all(row is not None and row.period == "month" for row in rows) else ""

    def all(self) -> tuple[Pair, ...]:
        """Return all pairs, sorted by their organisations."""
        with self._database.read() as session:
            found = [_pair(row) for row in session.scalars(select(PairRow))]
        return tuple(sorted(found, key=lambda pair: pair.organizations))

    def ledger(self, pair_id: str, organization: str | None = None) -> Ledger:
        """Return the privacy ledger of a pair of organisations, with amounts in tenths of a budget unit.

        Args:
            pair_id: The pair.
            organization: The requesting organisation, which is limited to its share if both providers set one.
        """
        with self._database.read() as session:
            return self._ledger(session, _find(session, pair_id), organization)

    def ledger_lines(self, pair_id: str) -> tuple[LedgerLine, ...]:
        """Return all payments in a pair's ledger, oldest first."""
        query = select(LedgerLineRow).where(LedgerLineRow.pair_id == pair_id)
        return self._all(LedgerLine, query.order_by(LedgerLineRow.created_at, LedgerLineRow.key))

    def paid_among(self, pair_id: str, keys: Iterable[str]) -> frozenset[str]:
        """Return which of these questions the pair's budget has already paid for, by key."""
        wanted = list(keys)
        with self._database.read() as session:
            query = select(LedgerLineRow.key).where(
                LedgerLineRow.pair_id == pair_id, LedgerLineRow.key.in_(wanted)
            )
            return frozenset(session.scalars(query))

    def charge(
        self,
        pair_id: str,
        lines: Sequence[LedgerLine],
        *,
        organization: str | None = None,
        anyway: bool = False,
        note: Callable[[LedgerLine], None] | None = None,
    ) -> Ledger | None:
        """Charge a pair's budget for several questions at once; questions it has already paid for are free.

        Args:
            pair_id: The pair.
            lines: The questions; their time is set here.
            organization: The requesting organisation, limited by its share; the lines contain it too.
            anyway: Whether to record the lines even beyond the budget, because they were answered already.
            note: Called with each new line before it is stored; if it raises, nothing is stored.

        Returns:
            The new ledger; None if the budget or the share is too small, in which case nothing was changed.

        Raises:
            NotFoundError: The pair does not exist.
        """
        now = self._database.now()
        with self._database.write() as session:
            pair = _find(session, pair_id, lock=True)  # concurrent questions must not both spend the last unit
            known = session.scalars(
                select(LedgerLineRow.key).where(
                    LedgerLineRow.pair_id == pair_id, LedgerLineRow.key.in_([line.key for line in lines])
                )
            ).all()
            new = {line.key: line for line in lines if line.key not in known}
            cost = sum(line.tenths for line in new.values() if line.tenths > 0)
            if not anyway and cost > self._ledger(session, pair, organization).left:
                return None
            for line in new.values():
                if note is not None:
                    note(line)
                session.add(_row(pair_id, line, line.created_at if anyway and line.created_at else now))
            if new:
                raise_generation(session)  # so that an older copy of the catalogue is recognised
            session.flush()
            return self._ledger(session, pair, organization)

    def restore_lines(self, pair_id: str, lines: Sequence[LedgerLine]) -> None:
        """Add payments that are in the audit log but not in the catalogue; create the pair if needed."""
        with self._database.write() as session:
            if session.get(PairRow, pair_id) is None:
                session.add(
                    PairRow(
                        id=pair_id,
                        organizations=[],
                        total_tenths=PAIR_TENTHS,
                        period="",
                        created_at=self._database.now(),
                    )
                )
        self.charge(pair_id, lines, anyway=True)

    @noted
    def spend_rest(self, why: str, pair_ids: Collection[str] | None = None) -> int:
        """Set the budgets of pairs to fully spent, because the actual spending is unknown.

        Args:
            why: The reason, in a word.
            pair_ids: The pairs; None for all.

        Returns:
            The number of pairs.
        """
        now = self._database.now()
        with self._database.write() as session:
            query = select(PairRow)
            rows = session.scalars(query if pair_ids is None else query.where(PairRow.id.in_(pair_ids))).all()
            for row in rows:
                ledger = self._ledger(session, row)
                if ledger.spent < ledger.total:
                    key = hashlib.sha256(f"{why} {now.isoformat()}".encode()).hexdigest()
                    rest = ledger.total - ledger.spent
                    session.add(
                        LedgerLineRow(pair_id=row.id, key=key, kind="unknown", tenths=rest, created_at=now)
                    )
            return len(rows)

    @noted
    def propose(
        self,
        pair_id: str,
        kind: str,
        organization: str,
        *,
        tenths: int = 0,
        data_room_id: str | None = None,
        share_of: str | None = None,
    ) -> Proposal:
        """Propose a change that both organisations of a pair must approve; the proposer approves it at once.

        Args:
            pair_id: The pair.
            kind: `refill`, `period`, `share` or `full_lookalike`.
            organization: The proposer. An organisation outside the pair may propose, but its approval does not
                count.
            tenths: For a refill or a share, tenths of a unit.
            data_room_id: The room, if it concerns one.
            share_of: The organisation that gets the share; the newest share approved by both applies.

        Raises:
            NotFoundError: The pair does not exist.
            UsageError: The units are out of range, or a share names no organisation.
        """
        with self._database.write() as session:
            row = self._propose(
                session, pair_id, kind, tenths=tenths, share_of=share_of, data_room_id=data_room_id
            )
            return self._approve(session, row, organization)

    @noted
    def agree(
        self,
        pair_id: str,
        kind: str,
        organizations: Collection[str],
        *,
        tenths: int = 0,
        share_of: str | None = None,
    ) -> Proposal:
        """Record a change that, as the operator confirms, both organisations of a pair approved.

        Args:
            pair_id: The pair.
            kind: `refill`, `period` or `share`.
            organizations: The approving organisations.
            tenths: For a refill or a share, tenths of a unit.
            share_of: The organisation that gets the share.

        Raises:
            NotFoundError: The pair does not exist.
            UsageError: The units are out of range, or a share names no organisation.
            ConflictError: These are not the two organisations.
        """
        with self._database.write() as session:
            check_both_approve(_pair(_find(session, pair_id)), organizations)
            row = self._propose(session, pair_id, kind, tenths=tenths, share_of=share_of)
            for organization in sorted(organizations):
                proposal = self._approve(session, row, organization)
            return proposal

    @noted
    def approve(self, proposal_id: str, organization: str) -> Proposal:
        """Approve a proposal; it takes effect once both organisations of the pair approved it.

        Raises:
            NotFoundError: The proposal does not exist.
            ConflictError: The organisation does not belong to the pair.
        """
        with self._database.write() as session:
            row = session.get(ProposalRow, proposal_id, with_for_update=True)
            if row is None:
                raise NotFoundError("There is no such proposal.", remedy="List the proposals.")
            if organization not in _find(session, row.pair_id).organizations:
                raise ConflictError(
                    "Only the organisations that provide the data can approve the proposal.",
                    remedy="Ask these organisations to approve it.",
                )
            return self._approve(session, row, organization)

    @noted
    def reject(self, proposal_id: str, organization: str) -> Proposal:
        """Delete a proposal that has not taken effect, because an organisation of the pair rejects it.

        Raises:
            NotFoundError: The proposal does not exist.
            ConflictError: The organisation does not belong to the pair, or the proposal has taken effect.
        """
        with self._database.write() as session:
            row = session.get(ProposalRow, proposal_id, with_for_update=True)
            if row is None:
                raise NotFoundError("There is no such proposal.", remedy="List the proposals.")
            if organization not in _find(session, row.pair_id).organizations or row.effective_at is not None:
                raise ConflictError(
                    "A proposal can be rejected only by an organisation that provides the data, "
                    "and only before it takes effect.",
                    remedy="List the proposals.",
                )
            session.delete(row)
            return record_of(Proposal, row)

    def proposals(self, pair_id: str) -> tuple[Proposal, ...]:
        """Return all proposals of changes to a pair, oldest first."""
        query = select(ProposalRow).where(ProposalRow.pair_id == pair_id)
        return self._all(Proposal, query.order_by(ProposalRow.created_at, ProposalRow.id))

    def is_full_lookalike(self, pair_id: str, data_room_id: str) -> bool:
        """Return whether both organisations approved exact (full-ensemble) lookalikes for a room."""
        with self._database.read() as session:
            query = select(ProposalRow.id).where(
                ProposalRow.pair_id == pair_id,
                ProposalRow.data_room_id == data_room_id,
                ProposalRow.kind == FULL_LOOKALIKE,
                ProposalRow.effective_at.is_not(None),
            )
            return session.scalar(query.limit(1)) is not None

    def _propose(
        self,
        session: Session,
        pair_id: str,
        kind: str,
        *,
        tenths: int,
        share_of: str | None,
        data_room_id: str | None = None,
    ) -> ProposalRow:
        if kind == REFILL and not 1 <= tenths <= MOST_REFILL_TENTHS:
            raise UsageError(
                "The number of units is out of range.", remedy=f"Give 0.1 to {MOST_REFILL_TENTHS // 10}."
            )
        if kind == SHARE and not 0 <= tenths <= MOST_SHARE_TENTHS:
            raise UsageError(
                "The number of units is out of range.", remedy=f"Give 0 to {MOST_SHARE_TENTHS // 10}."
            )
        if (kind == SHARE) is not bool(share_of):
            raise UsageError(
                "A share needs an organisation; other changes do not accept one.",
                remedy="Give an organisation only for a share.",
            )
        _find(session, pair_id)
        row = ProposalRow(
            id=make_uuid(self._database.token_hex),
            pair_id=pair_id,
            kind=kind,
            data_room_id=data_room_id,
            tenths=tenths,
            organization=share_of,
            approved_by=[],
            created_at=self._database.now(),
            effective_at=None,
        )
        session.add(row)
        session.flush()
        return row

    def _approve(self, session: Session, row: ProposalRow, organization: str) -> Proposal:
        pair = _find(session, row.pair_id, lock=True)
        if organization in pair.organizations and organization not in row.approved_by:
            row.approved_by = [*row.approved_by, organization]
        if row.effective_at is None and set(row.approved_by) == set(pair.organizations):
            row.effective_at = self._database.now()
            if row.kind == REFILL:
                pair.total_tenths += row.tenths
            elif row.kind == PERIOD:
                pair.period = "month"
            raise_generation(session)
        session.flush()
        return record_of(Proposal, row)

    def _ledger(self, session: Session, pair: PairRow, organization: str | None = None) -> Ledger:
        query = select(func.sum(LedgerLineRow.tenths)).where(LedgerLineRow.pair_id == pair.id)
        if pair.period == "month":
            now = self._database.now()
            query = query.where(
                LedgerLineRow.created_at >= now.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
            )
        ledger = Ledger(int(session.scalar(query) or 0), pair.total_tenths, pair.period)
        share = None if organization is None else _share(session, pair.id, organization)
        if share is None:
            return ledger
        own = session.scalar(query.where(LedgerLineRow.organization == organization))
        return replace(ledger, share=share, spent_of_share=int(own or 0))


def check_both_approve(pair: Pair, organizations: Collection[str]) -> None:
    """Check that the approving organisations are exactly the two of a pair.

    Raises:
        ConflictError: They are not.
    """
    if set(organizations) != set(pair.organizations):
        raise ConflictError(
            "The approving organisations are not exactly the two of the pair.",
            remedy="Name exactly these two organisations.",
        )


def make_monthly(session: Session, organizations: Sequence[str], now: datetime) -> None:
    """Make the budget of every pair among these organisations renew monthly, in the caller's transaction."""
    for a, b in combinations(sorted(set(organizations)), 2):
        _ensure(session, [a, b], now).period = "month"


def _share(session: Session, pair_id: str, organization: str) -> int | None:
    query = select(ProposalRow.tenths).where(
        ProposalRow.pair_id == pair_id,
        ProposalRow.kind == SHARE,
        ProposalRow.organization == organization,
        ProposalRow.effective_at.is_not(None),
    )
    return session.scalar(query.order_by(ProposalRow.effective_at.desc(), ProposalRow.id).limit(1))


def _ensure(session: Session, organizations: list[str], now: datetime) -> PairRow:
    pair_id = pair_id_of(*organizations)
    row = session.get(PairRow, pair_id)
    if row is None:
        row = PairRow(id=pair_id, organizations=organizations, total_tenths=PAIR_TENTHS, period="", created_at=now)
        session.add(row)
        session.flush()
    elif not row.organizations:
        row.organizations = organizations  # empty because the ledger was restored from the audit log
    return row


def _find(session: Session, pair_id: str, *, lock: bool = False) -> PairRow:
    row = session.get(PairRow, pair_id, with_for_update=lock or None)
    if row is None:
        raise NotFoundError("There is no such pair of organisations.", remedy="Check its id.")
    return row


def _row(pair_id: str, line: LedgerLine, at: datetime) -> LedgerLineRow:
    return LedgerLineRow(
        pair_id=pair_id,
        key=line.key,
        kind=line.kind,
        tenths=line.tenths,
        variance=line.variance,
        sensitivity=line.sensitivity,
        place=line.place,
        organization=line.organization,
        created_at=at,
    )


def _pair(row: PairRow) -> Pair:
    a, b = row.organizations or ("", "")
    return Pair(row.id, (a, b))
