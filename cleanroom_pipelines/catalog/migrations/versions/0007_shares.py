"""A new column of proposals: the organisation whose share of the privacy budget a proposal sets.

Lives here: one step of the catalogue's schema, 0006 to 0007.
Add here: nothing once released; write the next step.
Keep out: our own classes; they change later, this must not.
"""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the column `organization` to the proposals."""
    op.add_column("proposals", sa.Column("organization", sa.String(320), nullable=True))
