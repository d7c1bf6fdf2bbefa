"""Roles of users in the console: operator, or manager of an account.

Lives here: one step of the catalogue's schema, 0009 to 0010.
Add here: nothing once released; write the next step.
Keep out: our own classes; they change later, this must not.
"""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Give users two columns: the operator role, and the account that they manage; existing users have neither."""
    op.add_column("users", sa.Column("is_operator", sa.Boolean(), nullable=False, server_default=sa.false()))
    op.add_column("users", sa.Column("account_id", sa.String(12), nullable=True))
