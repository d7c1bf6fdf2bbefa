"""${message}.

Lives here: one step of the catalogue's schema, ${down_revision | comma,n} to ${up_revision}.
Add here: nothing once released; write the next step.
Keep out: our own classes; they move on, this must not.
"""

import sqlalchemy as sa
from alembic import op

revision = ${repr(up_revision)}
down_revision = ${repr(down_revision)}
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the change."""
    ${upgrades if upgrades else "pass"}


def downgrade() -> None:
    """Take the change back."""
    ${downgrades if downgrades else "pass"}
