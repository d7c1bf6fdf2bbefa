"""The installation's identity and generation, and tombstones of deleted objects.

Lives here: one step of the catalogue's schema, 0003 to 0004.
Add here: nothing once released; write the next step.
Keep out: our own classes; they change later, this must not.
"""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

_TIME = sa.DateTime(timezone=True)


def upgrade() -> None:
    """Create both tables; the installation's row is written when its home is next opened."""
    op.create_table(
        "installation",
        sa.Column("number", sa.Integer(), nullable=False, autoincrement=False),
        sa.Column("id", sa.String(32), nullable=False),
        sa.Column("generation", sa.BigInteger(), nullable=False),
        sa.Column("key_digest", sa.String(64), nullable=False),
        sa.PrimaryKeyConstraint("number", name="pk_installation"),
    )
    op.create_table(
        "tombstones",
        sa.Column("kind", sa.String(40), nullable=False),
        sa.Column("key", sa.String(100), nullable=False),
        sa.Column("version", sa.String(40), nullable=False),
        sa.Column("deleted_at", _TIME, nullable=False),
        sa.Column("generation", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("kind", "key", "version", name="pk_tombstones"),
    )
