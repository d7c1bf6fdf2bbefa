"""Data rooms: labs, rooms, custom audiences, deliveries, and the users, uploads, jobs and ledger of the Media API.

Lives here: one step of the catalogue's schema, 0002 to 0003.
Add here: nothing once released; write the next step.
Keep out: our own classes; they change later, this must not.
"""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

_TIME = sa.DateTime(timezone=True)


def _create_kind(table: str, *columns: sa.Column) -> None:  # type: ignore[type-arg]
    op.create_table(
        table,
        *columns,
        sa.Column("id", sa.String(60), nullable=False),
        sa.ForeignKeyConstraint(["id"], ["resources.id"], name=f"fk_{table}_id", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id", name=f"pk_{table}"),
    )


def upgrade() -> None:
    """Create the tables of the data rooms, and add the delivery options of the lookalike (AWS) API's exports."""
    op.add_column("configured_audience_models", sa.Column("delivery", sa.JSON(), nullable=True))
    _create_kind(
        "data_labs",
        sa.Column("mark", sa.String(40), nullable=False),
        sa.Column("owner_email", sa.String(320), nullable=False),
        sa.Column("datasets", sa.JSON(), nullable=False),
        sa.Column("n_embeddings", sa.Integer(), nullable=False),
        sa.Column("activation", sa.JSON(), nullable=False),
    )
    op.create_index("ix_data_labs_owner_email", "data_labs", ["owner_email"])
    _create_kind(
        "data_rooms",
        sa.Column("mark", sa.String(40), nullable=False),
        sa.Column("owner_email", sa.String(320), nullable=False),
        sa.Column("participants", sa.JSON(), nullable=False),
        sa.Column("collaboration_types", sa.JSON(), nullable=False),
        sa.Column("matching_ids", sa.JSON(), nullable=False),
        sa.Column("hide_absolute_values", sa.Boolean(), nullable=False),
        sa.Column("activation", sa.JSON(), nullable=False),
        sa.Column("inputs", sa.JSON(), nullable=False),
        sa.Column("n_embeddings", sa.Integer(), nullable=False),
    )
    _create_kind(
        "custom_audiences",
        sa.Column("mark", sa.String(40), nullable=False),
        sa.Column("definition", sa.JSON(), nullable=False),
        sa.Column("created_by", sa.String(40), nullable=False),
        sa.Column("created_by_email", sa.String(320), nullable=False),
        sa.Column("shared_with", sa.JSON(), nullable=False),
        sa.Column("hidden", sa.Boolean(), nullable=False),
        sa.Column("references", sa.JSON(), nullable=False),
    )
    op.create_table(
        "audience_references",
        sa.Column("audience_id", sa.String(60), nullable=False),
        sa.Column("reference_id", sa.String(60), nullable=False),
        sa.ForeignKeyConstraint(
            ["audience_id"], ["resources.id"], name="fk_audience_references_audience_id", ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(
            ["reference_id"], ["resources.id"], name="fk_audience_references_reference_id", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("audience_id", "reference_id", name="pk_audience_references"),
    )
    op.create_index("ix_audience_references_reference_id", "audience_references", ["reference_id"])
    _create_kind(
        "audience_lists",
        sa.Column("mark", sa.String(40), nullable=False),
        sa.Column("delivered_to", sa.String(40), nullable=False),
        sa.Column("options", sa.JSON(), nullable=False),
    )
    op.create_table(
        "users",
        sa.Column("email", sa.String(320), nullable=False),
        sa.Column("created_at", _TIME, nullable=False),
        sa.Column("disabled", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint("email", name="pk_users"),
    )
    op.create_table(
        "tokens",
        sa.Column("id", sa.String(16), nullable=False),
        sa.Column("email", sa.String(320), nullable=False),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("created_at", _TIME, nullable=False),
        sa.Column("expires_at", _TIME, nullable=False),
        sa.Column("revoked", sa.Boolean(), nullable=False),
        sa.ForeignKeyConstraint(["email"], ["users.email"], name="fk_tokens_email"),
        sa.PrimaryKeyConstraint("id", name="pk_tokens"),
        sa.UniqueConstraint("digest", name="uq_tokens_digest"),
    )
    op.create_index("ix_tokens_email", "tokens", ["email"])
    op.create_table(
        "uploads",
        sa.Column("id", sa.String(40), nullable=False),
        sa.Column("owner_email", sa.String(320), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("n_bytes", sa.BigInteger(), nullable=False),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("matching_id", sa.String(40), nullable=True),
        sa.Column("location", sa.Text(), nullable=True),
        sa.Column("created_at", _TIME, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_uploads"),
    )
    op.create_index("ix_uploads_owner_email", "uploads", ["owner_email"])
    op.create_table(
        "room_jobs",
        sa.Column("id", sa.String(36), nullable=False),
        sa.Column("email", sa.String(320), nullable=False),
        sa.Column("data_room_id", sa.String(60), nullable=True),
        sa.Column("kind", sa.String(40), nullable=False),
        sa.Column("target_kind", sa.String(40), nullable=False),
        sa.Column("target_id", sa.String(60), nullable=False),
        sa.Column("target_version", sa.Integer(), nullable=False),
        sa.Column("options", sa.JSON(), nullable=False),
        sa.Column("cancelled", sa.Boolean(), nullable=False),
        sa.Column("created_at", _TIME, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_room_jobs"),
    )
    op.create_index("ix_room_jobs_data_room_id", "room_jobs", ["data_room_id"])
    op.create_table(
        "privacy_ledger",
        sa.Column("data_room_id", sa.String(60), nullable=False),
        sa.Column("participant_id", sa.String(40), nullable=False),
        sa.Column("question", sa.String(64), nullable=False),
        sa.Column("units", sa.Integer(), nullable=False),
        sa.Column("created_at", _TIME, nullable=False),
        sa.PrimaryKeyConstraint("data_room_id", "participant_id", "question", name="pk_privacy_ledger"),
    )
