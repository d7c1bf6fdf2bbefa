"""Receivers of notices, and for each receiver the outcome of the last notice.

Lives here: one step of the catalogue's schema, 0007 to 0008.
Add here: nothing once released; write the next step.
Keep out: our own classes; they change later, this must not.
"""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

_TIME = sa.DateTime(timezone=True)


def upgrade() -> None:
    """Create the tables `notices` and `notice_outcomes`."""
    op.create_table(
        "notices",
        sa.Column("name", sa.String(63), nullable=False),
        sa.Column("organization", sa.String(255), nullable=True),
        sa.Column("kinds", sa.JSON(), nullable=False),
        sa.Column("only_failures", sa.Boolean(), nullable=False),
        sa.Column("channel", sa.JSON(), nullable=False),
        sa.Column("created_at", _TIME, nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_notices"),
    )
    op.create_table(
        "notice_outcomes",
        sa.Column("name", sa.String(63), nullable=False),
        sa.Column("at", _TIME, nullable=False),
        sa.Column("problem", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_notice_outcomes"),
    )
