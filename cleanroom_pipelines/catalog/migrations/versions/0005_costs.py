"""Record which result files (receipts) of inbox seeds are outdated, and add indexes for a growing history.

Lives here: one step of the catalogue's schema, 0004 to 0005.
Add here: nothing once released; write the next step.
Keep out: our own classes; they change later, this must not.
"""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add `receipt_due` and the indexes; mark the result files of all inbox jobs, to have them checked again."""
    op.add_column("generation_jobs", sa.Column("receipt_due", sa.Boolean()))
    op.execute(
        sa.text("UPDATE generation_jobs SET receipt_due = :due WHERE origin = 'inbox'").bindparams(due=True)
    )
    op.create_index("ix_generation_jobs_receipt_due", "generation_jobs", ["receipt_due"])
    op.create_index(
        "ix_generation_jobs_keep_seed_seed_location", "generation_jobs", ["keep_seed", "seed_location"]
    )
    op.create_index("ix_resources_status", "resources", ["status"])
    op.create_index("ix_versions_started_at", "versions", ["started_at"])
