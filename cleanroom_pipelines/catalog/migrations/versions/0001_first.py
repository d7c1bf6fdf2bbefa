"""The first schema of the catalogue.

Lives here: the first step of the catalogue's schema, from an empty database to 0001.
Add here: nothing once released; write the next step.
Keep out: our own classes; they change later, this must not.
"""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create all tables."""
    op.create_table(
        "resources",
        sa.Column("id", sa.String(60), nullable=False),
        sa.Column("kind", sa.String(40), nullable=False),
        sa.Column("account_id", sa.String(12), nullable=False),
        sa.Column("region", sa.String(40), nullable=False),
        sa.Column("scope", sa.String(60), nullable=False),
        sa.Column("name", sa.String(63), nullable=False),
        sa.Column("parent_id", sa.String(60), nullable=True),
        sa.Column("description", sa.String(255), nullable=True),
        sa.Column("tags", sa.JSON(), nullable=False),
        sa.Column("status", sa.String(40), nullable=False),
        sa.Column("status_code", sa.String(40), nullable=True),
        sa.Column("status_message", sa.Text(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("declared", sa.Boolean(), nullable=False),
        sa.Column("spec_digest", sa.String(64), nullable=False),
        sa.Column("current_version", sa.Integer(), nullable=True),
        sa.ForeignKeyConstraint(["parent_id"], ["resources.id"], name="fk_resources_parent_id"),
        sa.PrimaryKeyConstraint("id", name="pk_resources"),
        sa.UniqueConstraint(
            "account_id",
            "region",
            "kind",
            "scope",
            "name",
            name="uq_resources_account_id_region_kind_scope_name",
        ),
    )
    op.create_index(
        "ix_resources_kind_account_id_created_at_id", "resources", ["kind", "account_id", "created_at", "id"]
    )
    op.create_index("ix_resources_kind_created_at_id", "resources", ["kind", "created_at", "id"])
    op.create_index("ix_resources_parent_id", "resources", ["parent_id"])
    op.create_table(
        "workers",
        sa.Column("worker_id", sa.String(128), nullable=False),
        sa.Column("heartbeat_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("worker_id", name="pk_workers"),
    )
    op.create_table(
        "audience_models",
        sa.Column("window_start", sa.BigInteger(), nullable=True),
        sa.Column("window_end", sa.BigInteger(), nullable=True),
        sa.Column("refresh_every_seconds", sa.BigInteger(), nullable=True),
        sa.Column("refresh_window_seconds", sa.BigInteger(), nullable=True),
        sa.Column("kms_key_arn", sa.Text(), nullable=True),
        sa.Column("next_refresh_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("id", sa.String(60), nullable=False),
        sa.ForeignKeyConstraint(["id"], ["resources.id"], name="fk_audience_models_id", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id", name="pk_audience_models"),
    )
    op.create_index("ix_audience_models_next_refresh_at", "audience_models", ["next_refresh_at"])
    op.create_table(
        "configured_audience_models",
        sa.Column("sizes", sa.JSON(), nullable=False),
        sa.Column("output_url", sa.Text(), nullable=False),
        sa.Column("min_matching_seed_size", sa.Integer(), nullable=False),
        sa.Column("share_metrics", sa.String(40), nullable=False),
        sa.Column("share_explanation", sa.Boolean(), nullable=False),
        sa.Column("export_format", sa.String(40), nullable=False),
        sa.Column("output_role_arn", sa.Text(), nullable=True),
        sa.Column("child_tag_policy", sa.String(40), nullable=False),
        sa.Column("policy", sa.Text(), nullable=True),
        sa.Column("policy_hash", sa.String(128), nullable=True),
        sa.Column("id", sa.String(60), nullable=False),
        sa.ForeignKeyConstraint(
            ["id"], ["resources.id"], name="fk_configured_audience_models_id", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name="pk_configured_audience_models"),
    )
    op.create_table(
        "export_jobs",
        sa.Column("size", sa.JSON(), nullable=False),
        sa.Column("seed_mode", sa.String(40), nullable=True),
        sa.Column("output_location", sa.Text(), nullable=True),
        sa.Column("id", sa.String(60), nullable=False),
        sa.ForeignKeyConstraint(["id"], ["resources.id"], name="fk_export_jobs_id", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id", name="pk_export_jobs"),
    )
    op.create_table(
        "generation_jobs",
        sa.Column("inbox_model_id", sa.String(60), nullable=True),
        sa.Column("seed_location", sa.Text(), nullable=True),
        sa.Column("seed_digest", sa.String(128), nullable=False),
        sa.Column("seed_name", sa.Text(), nullable=False),
        sa.Column("seed_bytes", sa.BigInteger(), nullable=False),
        sa.Column("seed_mode", sa.String(40), nullable=False),
        sa.Column("keep_seed", sa.Boolean(), nullable=False),
        sa.Column("export_size", sa.JSON(), nullable=True),
        sa.Column("origin", sa.String(40), nullable=False),
        sa.Column("started_by", sa.String(12), nullable=False),
        sa.Column("collaboration_id", sa.String(128), nullable=True),
        sa.Column("id", sa.String(60), nullable=False),
        sa.ForeignKeyConstraint(["id"], ["resources.id"], name="fk_generation_jobs_id", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id", name="pk_generation_jobs"),
        sa.UniqueConstraint("inbox_model_id", "seed_digest", name="uq_generation_jobs_inbox_model_id_seed_digest"),
    )
    op.create_index("ix_generation_jobs_collaboration_id", "generation_jobs", ["collaboration_id"])
    op.create_index("ix_generation_jobs_seed_digest", "generation_jobs", ["seed_digest"])
    op.create_table(
        "training_datasets",
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("columns", sa.JSON(), nullable=False),
        sa.Column("users_source", sa.Text(), nullable=True),
        sa.Column("users_columns", sa.JSON(), nullable=False),
        sa.Column("role_arn", sa.Text(), nullable=True),
        sa.Column("max_invalid_share", sa.Double(), nullable=False),
        sa.Column("id", sa.String(60), nullable=False),
        sa.ForeignKeyConstraint(["id"], ["resources.id"], name="fk_training_datasets_id", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id", name="pk_training_datasets"),
    )
    op.create_table(
        "versions",
        sa.Column("resource_id", sa.String(60), nullable=False),
        sa.Column("number", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("kind", sa.String(40), nullable=False),
        sa.Column("status", sa.String(40), nullable=False),
        sa.Column("status_code", sa.String(40), nullable=True),
        sa.Column("status_message", sa.Text(), nullable=True),
        sa.Column("cause", sa.String(40), nullable=False),
        sa.Column("artifacts", sa.JSON(), nullable=False),
        sa.Column("parents", sa.JSON(), nullable=False),
        sa.Column("summary", sa.JSON(), nullable=False),
        sa.Column("params", sa.JSON(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("run_id", sa.String(128), nullable=True),
        sa.Column("lease_expires_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("turn", sa.Integer(), nullable=False),
        sa.Column("progress", sa.Double(), nullable=False),
        sa.Column("progress_stage", sa.Text(), nullable=False),
        sa.Column("cancel_requested", sa.Boolean(), nullable=False),
        sa.ForeignKeyConstraint(
            ["resource_id"], ["resources.id"], name="fk_versions_resource_id", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("resource_id", "number", name="pk_versions"),
    )
    op.create_index("ix_versions_status_lease_expires_at", "versions", ["status", "lease_expires_at"])
