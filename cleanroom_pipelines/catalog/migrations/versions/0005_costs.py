"""What keeps costs from growing with history: receipts due, outlines of delivered lists, an index of starts.

Lives here: one step of the catalogue's schema, 0004 to 0005.
Add here: nothing once released; write the next step.
Keep out: our own classes; they move on, this must not.
"""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add them; every job from the inbox is looked at once more, and outlines are made when first needed."""
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
    op.create_table(
        "delivered_lists",
        sa.Column("list_id", sa.String(60), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False, autoincrement=False),
        sa.Column("n_users", sa.BigInteger(), nullable=False),
        sa.Column("digest", sa.String(32), nullable=False),
        sa.Column("counts", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("list_id", "number", name="pk_delivered_lists"),
        sa.ForeignKeyConstraint(
            ["list_id"], ["resources.id"], name="fk_delivered_lists_list_id", ondelete="CASCADE"
        ),
    )


def downgrade() -> None:
    """Remove them."""
    op.drop_table("delivered_lists")
    op.drop_index("ix_versions_started_at", "versions")
    op.drop_index("ix_resources_status", "resources")
    op.drop_index("ix_generation_jobs_keep_seed_seed_location", "generation_jobs")
    op.drop_index("ix_generation_jobs_receipt_due", "generation_jobs")
    op.drop_column("generation_jobs", "receipt_due")
