"""Receivers of notices, and whether their last notice arrived.

Lives here: declaring and deleting receivers, which of them a resource concerns, and the outcome of each one's last
notice.
Add here when a receiver can choose its notices in another way.
Keep out: sending (`runs.notices`).
"""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import select

from cleanroom_pipelines.catalog.channels import Channel, Command
from cleanroom_pipelines.catalog.database import Part, noted
from cleanroom_pipelines.catalog.names import Kind, check_label, check_name
from cleanroom_pipelines.catalog.pairs import organization_of_address
from cleanroom_pipelines.catalog.tables import AccountRow, NoticeOutcomeRow, NoticeRow, ResourceRow, UserRow
from cleanroom_pipelines.catalog.work import with_owner
from cleanroom_pipelines.errors import NotFoundError, UsageError

# The receiver that the operator sets in CLEANROOM_NOTIFY; it is not declared, but its last outcome is stored too.
OPERATOR = "CLEANROOM_NOTIFY"


@dataclass(frozen=True)
class NoticeReceiver:
    """A receiver of notices: its channel, and which notices it gets.

    Args:
        name: Unique in the installation.
        channel: How it gets notices.
        organization: Only work that this organisation owns or requested; None: all work.
        kinds: Only work on these kinds of resources; empty: all kinds.
        only_failures: Whether it gets notices about failures only.
    """

    name: str
    channel: Channel
    organization: str | None = None
    kinds: tuple[Kind, ...] = ()
    only_failures: bool = False

    def check(self) -> None:
        """Raise UsageError unless the receiver is valid."""
        check_name(self.name)
        if self.name == OPERATOR:
            raise UsageError(
                f"The name {OPERATOR} is reserved for the operator's own receiver.",
                remedy="Choose another name.",
            )
        check_label("organization", self.organization, 255)
        if self.organization is not None and isinstance(self.channel, Command):
            raise UsageError(
                "A command cannot receive the notices of an organisation.",
                remedy="Use a webhook or e-mail, or omit `organization`.",
            )
        self.channel.check()

    def wants(self, kind: Kind, organizations: Collection[str], *, failed: bool) -> bool:
        """Whether the receiver gets a notice about a resource of this kind that concerns these organisations."""
        is_concerned = self.organization is None or self.organization in organizations
        return is_concerned and (not self.kinds or kind in self.kinds) and (failed or not self.only_failures)


@dataclass(frozen=True)
class NoticeOutcome:
    """The outcome of the last notice to a receiver.

    Args:
        at: When it was sent, UTC.
        problem: Why it did not arrive; empty if it arrived.
    """

    at: datetime
    problem: str


class Notices(Part):
    """The part of the catalogue that stores receivers of notices."""

    @noted
    def declare_receiver(self, receiver: NoticeReceiver) -> None:
        """Create a receiver, or replace an existing receiver of the same name.

        Raises:
            UsageError: The receiver is invalid.
        """
        receiver.check()
        with self._database.write() as session:
            session.merge(
                NoticeRow(
                    name=receiver.name,
                    organization=receiver.organization,
                    kinds=receiver.kinds,
                    only_failures=receiver.only_failures,
                    channel=receiver.channel,
                    created_at=self._database.now(),
                )
            )

    @noted
    def delete_receiver(self, name: str) -> None:
        """Delete a receiver.

        Raises:
            NotFoundError: There is no receiver with this name.
        """
        with self._database.write() as session:
            row = session.get(NoticeRow, name)
            if row is None:
                raise NotFoundError(
                    "No receiver of notices has this name.", remedy="Give the name of a declared receiver."
                )
            session.delete(row)
            if (outcome := session.get(NoticeOutcomeRow, name)) is not None:
                session.delete(outcome)

    def all(self) -> tuple[NoticeReceiver, ...]:
        """Return all declared receivers, sorted by name."""
        with self._database.read() as session:
            return tuple(
                NoticeReceiver(row.name, row.channel, row.organization, row.kinds, row.only_failures)
                for row in session.scalars(select(NoticeRow).order_by(NoticeRow.name))
            )

    def organizations_of(self, resource_id: str) -> frozenset[str]:
        """Return the organisations of a resource's account, and of the account or user that requested its work."""
        query = with_owner(select(ResourceRow.account_id), ResourceRow).where(ResourceRow.id == resource_id)
        with self._database.read() as session:
            found = session.execute(query).first()
            if found is None:
                return frozenset()
            organizations = set[str]()
            for owner in {found.account_id, found.owner}:
                row: UserRow | AccountRow | None
                if "@" in owner:
                    row, default = session.get(UserRow, owner), organization_of_address(owner)
                else:
                    row, default = session.get(AccountRow, owner), owner
                organizations.add((row.organization if row else None) or default)
            return frozenset(organizations)

    def known_organizations(self) -> frozenset[str]:
        """Return the organisations of all accounts and users."""
        with self._database.read() as session:
            accounts = session.execute(select(AccountRow.id, AccountRow.organization)).all()
            users = session.execute(select(UserRow.email, UserRow.organization)).all()
        return frozenset(
            [each.organization or each.id for each in accounts]
            + [each.organization or organization_of_address(each.email) for each in users]
        )

    def record_outcome(self, name: str, problem: str) -> None:
        """Record whether a notice to a receiver arrived.

        Args:
            name: The receiver.
            problem: Why it did not arrive; empty if it arrived.
        """
        with self._database.write() as session:
            session.merge(NoticeOutcomeRow(name=name, at=self._database.now(), problem=problem))

    def outcomes(self) -> dict[str, NoticeOutcome]:
        """Return the outcome of the last notice to each receiver that was sent one."""
        with self._database.read() as session:
            return {
                row.name: NoticeOutcome(row.at, row.problem) for row in session.scalars(select(NoticeOutcomeRow))
            }
