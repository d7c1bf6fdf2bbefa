"""Accounts with keys, templates and buckets; collaborations; cross-account jobs; seeds that jobs fetch.

Lives here: one step of the catalogue's schema, 0001 to 0002.
Add here: nothing once released; write the next step.
Keep out: our own classes; they change later, this must not.
"""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the tables of accounts and collaborations, and add columns for them to jobs and exports."""
    op.create_table(
        "accounts",
        sa.Column("id", sa.String(12), nullable=False),
        sa.Column("name", sa.String(63), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("disabled", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_accounts"),
        sa.UniqueConstraint("name", name="uq_accounts_name"),
    )
    op.create_table(
        "access_keys",
        sa.Column("id", sa.String(20), nullable=False),
        sa.Column("account_id", sa.String(12), nullable=False),
        sa.Column("sealed_secret", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("disabled", sa.Boolean(), nullable=False),
        sa.ForeignKeyConstraint(["account_id"], ["accounts.id"], name="fk_access_keys_account_id"),
        sa.PrimaryKeyConstraint("id", name="pk_access_keys"),
    )
    op.create_index("ix_access_keys_account_id", "access_keys", ["account_id"])
    op.create_table(
        "collaborations",
        sa.Column("id", sa.String(36), nullable=False),
        sa.Column("name", sa.String(63), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_collaborations"),
        sa.UniqueConstraint("name", name="uq_collaborations_name"),
    )
    op.create_table(
        "members",
        sa.Column("collaboration_id", sa.String(36), nullable=False),
        sa.Column("account_id", sa.String(12), nullable=False),
        sa.Column("place", sa.Integer(), nullable=False),
        sa.Column("active", sa.Boolean(), nullable=False),
        sa.ForeignKeyConstraint(
            ["collaboration_id"], ["collaborations.id"], name="fk_members_collaboration_id", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("collaboration_id", "account_id", name="pk_members"),
    )
    op.create_table(
        "analysis_templates",
        sa.Column("arn", sa.String(200), nullable=False),
        sa.Column("account_id", sa.String(12), nullable=False),
        sa.Column("region", sa.String(40), nullable=False),
        sa.Column("name", sa.String(63), nullable=False),
        sa.Column("sql", sa.Text(), nullable=False),
        sa.Column("collaboration_id", sa.String(36), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["collaboration_id"], ["collaborations.id"], name="fk_analysis_templates_collaboration_id"
        ),
        sa.PrimaryKeyConstraint("arn", name="pk_analysis_templates"),
        sa.UniqueConstraint("account_id", "region", "name", name="uq_analysis_templates_account_id_region_name"),
    )
    op.create_table(
        "buckets",
        sa.Column("name", sa.String(63), nullable=False),
        sa.Column("account_id", sa.String(12), nullable=False),
        sa.Column("url", sa.Text(), nullable=True),
        sa.Column("profile", sa.String(128), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_buckets"),
    )
    op.create_index("ix_buckets_account_id", "buckets", ["account_id"])
    op.create_table(
        "job_views",
        sa.Column("job_id", sa.String(60), nullable=False),
        sa.Column("account_id", sa.String(12), nullable=False),
        sa.Column("region", sa.String(40), nullable=False),
        sa.Column("name", sa.String(63), nullable=False),
        sa.Column("description", sa.String(255), nullable=True),
        sa.Column("tags", sa.JSON(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["job_id"], ["resources.id"], name="fk_job_views_job_id", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("job_id", name="pk_job_views"),
        sa.UniqueConstraint("account_id", "region", "name", name="uq_job_views_account_id_region_name"),
    )
    op.create_index(
        "ix_job_views_account_id_region_created_at_job_id",
        "job_views",
        ["account_id", "region", "created_at", "job_id"],
    )
    # SQLite makes the table anew; no other table refers to it, so that nothing is lost when the old one goes.
    with op.batch_alter_table("generation_jobs") as jobs:
        jobs.add_column(sa.Column("requested_seed", sa.JSON(), nullable=True))
        jobs.alter_column("seed_digest", existing_type=sa.String(128), nullable=True)
    op.add_column("export_jobs", sa.Column("started_by", sa.String(12), nullable=True))
    op.execute(
        "UPDATE export_jobs SET started_by = "
        "(SELECT resources.account_id FROM resources WHERE resources.id = export_jobs.id)"
    )
