"""Pairs of organisations with one privacy ledger each, in place of a ledger per participant of a room.

Lives here: one step of the catalogue's schema, 0005 to 0006.
Add here: nothing once released; write the next step.
Keep out: our own classes; they change later, this must not.

Spent budget is converted. A unit of the earlier ledger paid for a count with discrete Laplace noise of scale 10,
which is 0.1-differentially private and so ρ = 0.1² / 2 = 0.005 (Bun and Steinke 2016, proposition 1.4): 3.9 of the
new units, rounded up. The spending of all participants of a pair is added up. Refills are not converted. A pair
that spent 26 earlier units or more has nothing left, but no negative budget.
"""

import hashlib
import json
from datetime import UTC, datetime

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

_TIME = sa.DateTime(timezone=True)
_TENTHS_OF_AN_OLD_UNIT = 40
_TOTAL = 1000
# as it was when this step was written
_PUBLIC_MAIL = frozenset(
    (  # noqa: SIM905 a list of forty words reads worse
        "gmail.com googlemail.com outlook.com hotmail.com live.com msn.com yahoo.com ymail.com icloud.com me.com "
        "mac.com aol.com gmx.com gmx.de gmx.net gmx.at gmx.ch web.de t-online.de freenet.de proton.me "
        "libero.it protonmail.com mail.ru yandex.com yandex.ru qq.com 163.com 126.com orange.fr free.fr"
    ).split()
)


def upgrade() -> None:
    """Create the tables of pairs, and convert the budgets that were spent."""
    for table in ("users", "accounts"):
        op.add_column(table, sa.Column("organization", sa.String(255), nullable=True))
    op.add_column("collaborations", sa.Column("seed_removed", sa.Boolean(), nullable=False, server_default="0"))
    op.add_column("collaborations", sa.Column("full_ensemble", sa.Boolean(), nullable=False, server_default="0"))
    pairs = op.create_table(
        "pairs",
        sa.Column("id", sa.String(40), nullable=False),
        sa.Column("organizations", sa.JSON(), nullable=False),
        sa.Column("total_tenths", sa.Integer(), nullable=False),
        sa.Column("period", sa.String(10), nullable=False),
        sa.Column("created_at", _TIME, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_pairs"),
    )
    lines = op.create_table(
        "ledger_lines",
        sa.Column("pair_id", sa.String(40), nullable=False),
        sa.Column("key", sa.String(64), nullable=False),
        sa.Column("kind", sa.String(40), nullable=False),
        sa.Column("tenths", sa.Integer(), nullable=False),
        sa.Column("variance", sa.String(80), nullable=True),
        sa.Column("sensitivity", sa.String(80), nullable=True),
        sa.Column("place", sa.String(60), nullable=True),
        sa.Column("organization", sa.String(320), nullable=True),
        sa.Column("created_at", _TIME, nullable=False),
        sa.ForeignKeyConstraint(["pair_id"], ["pairs.id"], name="fk_ledger_lines_pair_id_pairs"),
        sa.PrimaryKeyConstraint("pair_id", "key", name="pk_ledger_lines"),
    )
    op.create_table(
        "proposals",
        sa.Column("id", sa.String(36), nullable=False),
        sa.Column("pair_id", sa.String(40), nullable=False),
        sa.Column("kind", sa.String(40), nullable=False),
        sa.Column("data_room_id", sa.String(60), nullable=True),
        sa.Column("tenths", sa.Integer(), nullable=False),
        sa.Column("approved_by", sa.JSON(), nullable=False),
        sa.Column("created_at", _TIME, nullable=False),
        sa.Column("effective_at", _TIME, nullable=True),
        sa.ForeignKeyConstraint(["pair_id"], ["pairs.id"], name="fk_proposals_pair_id_pairs"),
        sa.PrimaryKeyConstraint("id", name="pk_proposals"),
    )
    op.create_index("ix_proposals_pair_id", "proposals", ["pair_id"])
    op.create_index("ix_proposals_data_room_id", "proposals", ["data_room_id"])
    _take_over(pairs, lines)
    op.drop_table("privacy_ledger")


def _take_over(pairs: sa.Table, lines: sa.Table) -> None:
    connection = op.get_bind()
    spent = connection.execute(
        sa.text("SELECT data_room_id, sum(units) FROM privacy_ledger WHERE units > 0 GROUP BY data_room_id")
    ).all()
    if not spent:
        return
    rooms = {
        room: json.loads(participants) if isinstance(participants, str) else participants
        for room, participants in connection.execute(sa.text("SELECT id, participants FROM data_rooms"))
    }
    tenths: dict[tuple[str, str], int] = {}
    for room, units in spent:
        participants = rooms.get(room, [])
        bases = _organizations(participants, "PROVIDE_BASE_AUDIENCE")
        seeds = _organizations(participants, "PROVIDE_SEED_AUDIENCE")
        for a in bases:
            for b in seeds:
                pair = (min(a, b), max(a, b))
                tenths[pair] = tenths.get(pair, 0) + int(units) * _TENTHS_OF_AN_OLD_UNIT
    now = datetime.now(UTC)
    for pair, sum_ in tenths.items():
        pair_id = "pair-" + hashlib.sha256(json.dumps(list(pair)).encode()).hexdigest()[:24]
        connection.execute(
            pairs.insert().values(
                id=pair_id, organizations=list(pair), total_tenths=_TOTAL, period="", created_at=now
            )
        )
        connection.execute(
            lines.insert().values(
                pair_id=pair_id,
                key=hashlib.sha256(b"before organisations").hexdigest(),
                kind="before",
                tenths=min(sum_, _TOTAL),
                created_at=now,
            )
        )


def _organizations(participants: list[dict[str, object]], permission: str) -> set[str]:
    found = set()
    for each in participants:
        permissions, emails = each["permissions"], each["emails"]
        assert isinstance(permissions, list)
        assert isinstance(emails, list)
        if permission in permissions:
            for email in emails:
                domain = email.rpartition("@")[2]
                found.add(email if domain in _PUBLIC_MAIL else domain)
    return found
