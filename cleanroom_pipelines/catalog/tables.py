"""Tables: the database rows behind the records.

Lives here: the SQLAlchemy declarative classes, the column types that convert JSON to our own values, and the
conversion of rows to records.
Add here when the catalogue stores something new; add a migration too (`migrations/versions`).
Keep out: queries and rules.
"""

from collections.abc import Callable
from dataclasses import fields
from datetime import UTC, datetime
from enum import StrEnum
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

from pydantic import WrapSerializer
from sqlalchemy import (
    JSON,
    BigInteger,
    ColumnElement,
    DateTime,
    Dialect,
    Enum,
    ForeignKey,
    Index,
    LargeBinary,
    MetaData,
    String,
    Text,
    UniqueConstraint,
    false,
    func,
    select,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, aliased, declared_attr, mapped_column, synonym
from sqlalchemy.schema import SchemaItem
from sqlalchemy.types import TypeDecorator

from cleanroom_pipelines.audiences.sizes import AudienceSize, SeedMode
from cleanroom_pipelines.catalog.channels import Channel
from cleanroom_pipelines.catalog.names import Kind
from cleanroom_pipelines.catalog.records import RECORDS, Cause, LinkPurpose, ParentRef, Resource, Status, Version
from cleanroom_pipelines.catalog.room_specs import ParticipantSpec
from cleanroom_pipelines.catalog.specs import (
    ChildTagPolicy,
    Columns,
    ExportFormat,
    Origin,
    RequestedSeed,
    ShareMetrics,
)
from cleanroom_pipelines.documents import as_json, from_json
from cleanroom_pipelines.errors import StatusCode
from cleanroom_pipelines.terms import CollaborationType

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Record = TypeVar("Record", bound="DataclassInstance")


class UtcDateTime(TypeDecorator[datetime]):
    """Time-zone-aware datetimes in UTC; SQLite stores no time zone, so this type restores it."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Convert to UTC; reject a naive time, which is a bug in the caller."""
        if value is not None and value.tzinfo is None:
            raise ValueError("The time has no time zone.")
        return value.astimezone(UTC) if value is not None else None

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Convert to an aware time in UTC."""
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class AsJson(TypeDecorator[Any]):
    """A value stored as JSON.

    Args:
        encode: Converts the value to JSON values.
        decode: Converts it back.
    """

    impl = JSON
    cache_ok = True

    def __init__(self, encode: Callable[[Any], Any], decode: Callable[[Any], Any]) -> None:
        super().__init__(none_as_null=True)
        self.encode = encode
        self.decode = decode

    def process_bind_param(self, value: Any, dialect: Dialect) -> Any:
        """Convert to JSON; None stays None."""
        return None if value is None else self.encode(value)

    def process_result_value(self, value: Any, dialect: Dialect) -> Any:
        """Convert from JSON; None stays None."""
        return None if value is None else self.decode(value)


def _of(type_: Any) -> AsJson:
    return AsJson(partial(as_json, type_), partial(from_json, type_))


def _ascending(sizes: tuple[AudienceSize, ...], write: Callable[[Any], Any]) -> Any:
    return write(tuple(sorted(sizes, key=lambda size: size.value)))


_SEED = _of(RequestedSeed)
_SIZE = _of(AudienceSize | Literal["largest"])
_SIZES = _of(Annotated[tuple[AudienceSize, ...], WrapSerializer(_ascending)])
_COLUMNS = _of(Columns)
_PARENTS = _of(tuple[ParentRef, ...])
_PARTICIPANTS = _of(tuple[ParticipantSpec, ...])
_TYPES = _of(tuple[CollaborationType, ...])
_WORDS = AsJson(list, tuple)
_CHANNEL = _of(Channel)
_KINDS = _of(tuple[Kind, ...])
_MAPPING = AsJson(dict, dict)


def _is_from_inbox(context: Any) -> bool | None:
    return True if context.get_current_parameters()["origin"] == Origin.INBOX else None


def _word(words: type[StrEnum]) -> Enum:
    return Enum(words, native_enum=False, values_callable=lambda members: [m.value for m in members], length=40)


class Base(DeclarativeBase):
    """The base class of all tables; it fixes constraint names so that migrations can refer to them."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s",
            "pk": "pk_%(table_name)s",
        }
    )


class ResourceRow(Base):
    """One row per resource, with the columns common to all kinds; each kind has a table for its own columns."""

    __tablename__ = "resources"
    __table_args__: tuple[SchemaItem, ...] = (
        # The scope is the generation job for an export job and empty otherwise.
        UniqueConstraint("account_id", "region", "kind", "scope", "name"),
        Index(None, "kind", "created_at", "id"),
        Index(None, "kind", "account_id", "created_at", "id"),
        Index(None, "status"),
    )
    __mapper_args__ = {"polymorphic_on": "kind"}  # noqa: RUF012 - read by SQLAlchemy

    id: Mapped[str] = mapped_column(String(60), primary_key=True)
    kind: Mapped[Kind] = mapped_column(_word(Kind))
    account_id: Mapped[str] = mapped_column(String(12))
    region: Mapped[str] = mapped_column(String(40))
    scope: Mapped[str] = mapped_column(String(60), default="")
    name: Mapped[str] = mapped_column(String(63))
    parent_id: Mapped[str | None] = mapped_column(ForeignKey("resources.id"), index=True)
    description: Mapped[str | None] = mapped_column(String(255))
    tags: Mapped[dict[str, str]] = mapped_column(JSON)
    status: Mapped[Status] = mapped_column(_word(Status))
    status_code: Mapped[StatusCode | None] = mapped_column(_word(StatusCode))
    status_message: Mapped[str | None] = mapped_column(Text)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)
    updated_at: Mapped[datetime] = mapped_column(UtcDateTime)
    declared: Mapped[bool]
    spec_digest: Mapped[str] = mapped_column(String(64))
    current_version: Mapped[int | None]


class _OwnTable:
    """Mixin with the foreign key from a kind's own table to `resources`."""

    @declared_attr
    def id(cls) -> Mapped[str]:  # noqa: N805 - SQLAlchemy calls it on the class
        """The resource's partition key."""
        return mapped_column(ForeignKey("resources.id", ondelete="CASCADE"), primary_key=True)


class TrainingDatasetRow(_OwnTable, ResourceRow):
    """One row per training dataset."""

    __tablename__ = "training_datasets"
    __mapper_args__ = {"polymorphic_identity": Kind.TRAINING_DATASET}  # noqa: RUF012

    source: Mapped[str] = mapped_column(Text)
    columns: Mapped[Columns] = mapped_column(_COLUMNS)
    users_source: Mapped[str | None] = mapped_column(Text)
    users_columns: Mapped[Columns] = mapped_column(_COLUMNS)
    role_arn: Mapped[str | None] = mapped_column(Text)
    max_invalid_share: Mapped[float]


class AudienceModelRow(_OwnTable, ResourceRow):
    """One row per audience model."""

    __tablename__ = "audience_models"
    __mapper_args__ = {"polymorphic_identity": Kind.AUDIENCE_MODEL}  # noqa: RUF012

    training_dataset_id: Mapped[str] = synonym("parent_id")
    window_start: Mapped[int | None] = mapped_column(BigInteger)
    window_end: Mapped[int | None] = mapped_column(BigInteger)
    refresh_every_seconds: Mapped[int | None] = mapped_column(BigInteger)
    refresh_window_seconds: Mapped[int | None] = mapped_column(BigInteger)
    kms_key_arn: Mapped[str | None] = mapped_column(Text)
    next_refresh_at: Mapped[datetime | None] = mapped_column(UtcDateTime, index=True)


class ConfiguredAudienceModelRow(_OwnTable, ResourceRow):
    """One row per configured audience model."""

    __tablename__ = "configured_audience_models"
    __mapper_args__ = {"polymorphic_identity": Kind.CONFIGURED_AUDIENCE_MODEL}  # noqa: RUF012

    audience_model_id: Mapped[str] = synonym("parent_id")
    sizes: Mapped[tuple[AudienceSize, ...]] = mapped_column(_SIZES)
    output_url: Mapped[str] = mapped_column(Text)
    min_matching_seed_size: Mapped[int]
    share_metrics: Mapped[ShareMetrics] = mapped_column(_word(ShareMetrics))
    share_explanation: Mapped[bool]
    export_format: Mapped[ExportFormat] = mapped_column(_word(ExportFormat))
    delivery: Mapped[dict[str, Any] | None] = mapped_column(_MAPPING)
    output_role_arn: Mapped[str | None] = mapped_column(Text)
    child_tag_policy: Mapped[ChildTagPolicy] = mapped_column(_word(ChildTagPolicy))
    policy: Mapped[str | None] = mapped_column(Text)
    policy_hash: Mapped[str | None] = mapped_column(String(128))


class GenerationJobRow(_OwnTable, ResourceRow):
    """One row per generation job."""

    __tablename__ = "generation_jobs"
    __mapper_args__ = {"polymorphic_identity": Kind.GENERATION_JOB}  # noqa: RUF012
    __table_args__: tuple[SchemaItem, ...] = (
        Index(None, "seed_digest"),
        Index(None, "collaboration_id"),
        Index(None, "receipt_due"),
        Index(None, "keep_seed", "seed_location"),
        # A seed uploaded to the inbox twice is one job, even if two sensors see it at once.
        UniqueConstraint("inbox_model_id", "seed_digest"),
    )

    configured_audience_model_id: Mapped[str] = synonym("parent_id")
    # A copy of the configured model's id, which is in `resources`, for the constraint; NULL unless from the inbox.
    inbox_model_id: Mapped[str | None] = mapped_column(String(60))
    seed_location: Mapped[str | None] = mapped_column(Text)
    seed_digest: Mapped[str | None] = mapped_column(String(128))
    requested_seed: Mapped[RequestedSeed | None] = mapped_column(_SEED)
    seed_name: Mapped[str] = mapped_column(Text)
    seed_bytes: Mapped[int] = mapped_column(BigInteger)
    seed_mode: Mapped[SeedMode] = mapped_column(_word(SeedMode))
    keep_seed: Mapped[bool]
    export_size: Mapped[Any] = mapped_column(_SIZE, nullable=True)
    origin: Mapped[Origin] = mapped_column(_word(Origin))
    started_by: Mapped[str] = mapped_column(String(12))
    collaboration_id: Mapped[str | None] = mapped_column(String(128))
    # True from the request of an inbox seed's job or export until its receipt is written; NULL for other jobs.
    receipt_due: Mapped[bool | None] = mapped_column(default=_is_from_inbox)


class ExportJobRow(_OwnTable, ResourceRow):
    """One row per export job."""

    __tablename__ = "export_jobs"
    __mapper_args__ = {"polymorphic_identity": Kind.EXPORT_JOB}  # noqa: RUF012

    generation_job_id: Mapped[str] = synonym("parent_id")
    size: Mapped[AudienceSize] = mapped_column(_SIZE)
    seed_mode: Mapped[SeedMode | None] = mapped_column(_word(SeedMode))
    started_by: Mapped[str | None] = mapped_column(String(12))
    output_location: Mapped[str | None] = mapped_column(Text)


class DataLabRow(_OwnTable, ResourceRow):
    """One row per data lab."""

    __tablename__ = "data_labs"
    __mapper_args__ = {"polymorphic_identity": Kind.DATA_LAB}  # noqa: RUF012

    mark: Mapped[str] = mapped_column(String(40))
    owner_email: Mapped[str] = mapped_column(String(320), index=True)
    datasets: Mapped[dict[str, str]] = mapped_column(_MAPPING)
    n_embeddings: Mapped[int]
    activation: Mapped[tuple[str, ...]] = mapped_column(_WORDS)


class DataRoomRow(_OwnTable, ResourceRow):
    """One row per data room."""

    __tablename__ = "data_rooms"
    __mapper_args__ = {"polymorphic_identity": Kind.DATA_ROOM}  # noqa: RUF012

    mark: Mapped[str] = mapped_column(String(40))
    owner_email: Mapped[str] = mapped_column(String(320))
    participants: Mapped[tuple[ParticipantSpec, ...]] = mapped_column(_PARTICIPANTS)
    collaboration_types: Mapped[tuple[CollaborationType, ...]] = mapped_column(_TYPES)
    matching_ids: Mapped[tuple[str, ...]] = mapped_column(_WORDS)
    hide_absolute_values: Mapped[bool]
    activation: Mapped[tuple[str, ...]] = mapped_column(_WORDS)
    inputs: Mapped[dict[str, str]] = mapped_column(_MAPPING, default=dict)
    n_embeddings: Mapped[int] = mapped_column(default=0)


class CustomAudienceRow(_OwnTable, ResourceRow):
    """One row per custom audience."""

    __tablename__ = "custom_audiences"
    __mapper_args__ = {"polymorphic_identity": Kind.CUSTOM_AUDIENCE}  # noqa: RUF012

    data_room_id: Mapped[str] = synonym("parent_id")
    mark: Mapped[str] = mapped_column(String(40))
    definition: Mapped[dict[str, Any]] = mapped_column(_MAPPING)
    created_by: Mapped[str] = mapped_column(String(40))
    created_by_email: Mapped[str] = mapped_column(String(320))
    shared_with: Mapped[tuple[str, ...]] = mapped_column(_WORDS)
    hidden: Mapped[bool]
    references: Mapped[tuple[str, ...]] = mapped_column(_WORDS)


class AudienceReferenceRow(Base):
    """One row per reference from a custom audience's definition to another custom audience."""

    __tablename__ = "audience_references"

    audience_id: Mapped[str] = mapped_column(ForeignKey("resources.id", ondelete="CASCADE"), primary_key=True)
    reference_id: Mapped[str] = mapped_column(
        ForeignKey("resources.id", ondelete="CASCADE"), primary_key=True, index=True
    )


class AudienceListRow(_OwnTable, ResourceRow):
    """One row per delivery of an audience's users."""

    __tablename__ = "audience_lists"
    __mapper_args__ = {"polymorphic_identity": Kind.AUDIENCE_LIST}  # noqa: RUF012

    custom_audience_id: Mapped[str] = synonym("parent_id")
    mark: Mapped[str] = mapped_column(String(40))
    delivered_to: Mapped[str] = mapped_column(String(40))
    options: Mapped[dict[str, Any]] = mapped_column(_MAPPING)


class UserRow(Base):
    """One row per user of the data rooms."""

    __tablename__ = "users"

    email: Mapped[str] = mapped_column(String(320), primary_key=True)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)
    disabled: Mapped[bool]
    organization: Mapped[str | None] = mapped_column(String(255))
    password: Mapped[str | None] = mapped_column(String(200))
    is_operator: Mapped[bool] = mapped_column(default=False, server_default=false())
    account_id: Mapped[str | None] = mapped_column(String(12))


class TokenRow(Base):
    """One row per token of a user."""

    __tablename__ = "tokens"

    id: Mapped[str] = mapped_column(String(16), primary_key=True)
    email: Mapped[str] = mapped_column(ForeignKey("users.email"), index=True)
    digest: Mapped[str] = mapped_column(String(64), unique=True)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)
    expires_at: Mapped[datetime] = mapped_column(UtcDateTime)
    revoked: Mapped[bool]


class SignInLinkRow(Base):
    """One row per unused link by which a user can sign in once."""

    __tablename__ = "sign_in_links"

    digest: Mapped[str] = mapped_column(String(64), primary_key=True)
    email: Mapped[str] = mapped_column(ForeignKey("users.email"), index=True)
    purpose: Mapped[LinkPurpose] = mapped_column(_word(LinkPurpose))
    invited_by: Mapped[str | None] = mapped_column(String(320))
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)
    expires_at: Mapped[datetime] = mapped_column(UtcDateTime)


class SessionRow(Base):
    """One row per session of a user in the console."""

    __tablename__ = "sessions"

    digest: Mapped[str] = mapped_column(String(64), primary_key=True)
    email: Mapped[str] = mapped_column(ForeignKey("users.email"), index=True)
    token_id: Mapped[str | None] = mapped_column(ForeignKey("tokens.id"))
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)
    used_at: Mapped[datetime] = mapped_column(UtcDateTime)


class PasskeyRow(Base):
    """One row per passkey of a user."""

    __tablename__ = "passkeys"

    id: Mapped[str] = mapped_column(String(16), primary_key=True)
    email: Mapped[str] = mapped_column(ForeignKey("users.email"), index=True)
    name: Mapped[str] = mapped_column(String(100))
    credential_id: Mapped[str] = mapped_column(String(1400), unique=True)
    public_key: Mapped[bytes] = mapped_column(LargeBinary)
    sign_count: Mapped[int] = mapped_column(BigInteger)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)
    used_at: Mapped[datetime | None] = mapped_column(UtcDateTime)


class ChallengeRow(Base):
    """One row per unused challenge that a browser was given to sign in or to add a passkey."""

    __tablename__ = "challenges"

    digest: Mapped[str] = mapped_column(String(64), primary_key=True)
    expires_at: Mapped[datetime] = mapped_column(UtcDateTime)


class UploadRow(Base):
    """One row per uploaded file."""

    __tablename__ = "uploads"

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    owner_email: Mapped[str] = mapped_column(String(320), index=True)
    name: Mapped[str] = mapped_column(Text)
    n_bytes: Mapped[int] = mapped_column(BigInteger)
    digest: Mapped[str] = mapped_column(String(64))
    matching_id: Mapped[str | None] = mapped_column(String(40))
    location: Mapped[str | None] = mapped_column(Text)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)


class RoomJobRow(Base):
    """One row per job of the Media API on a room or lab."""

    __tablename__ = "room_jobs"

    id: Mapped[str] = mapped_column(String(36), primary_key=True)
    email: Mapped[str] = mapped_column(String(320))
    data_room_id: Mapped[str | None] = mapped_column(String(60), index=True)
    kind: Mapped[str] = mapped_column(String(40))
    target_kind: Mapped[Kind] = mapped_column(_word(Kind))
    target_id: Mapped[str] = mapped_column(String(60))
    target_version: Mapped[int]
    options: Mapped[dict[str, Any]] = mapped_column(_MAPPING)
    cancelled: Mapped[bool]
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)


class PairRow(Base):
    """One row per pair of organisations whose data were matched."""

    __tablename__ = "pairs"

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    organizations: Mapped[list[str]] = mapped_column(JSON)
    total_tenths: Mapped[int]
    period: Mapped[str] = mapped_column(String(10))
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)


class LedgerLineRow(Base):
    """One row per payment from a pair's privacy budget for a question; rows are never deleted."""

    __tablename__ = "ledger_lines"

    pair_id: Mapped[str] = mapped_column(ForeignKey("pairs.id"), primary_key=True)
    key: Mapped[str] = mapped_column(String(64), primary_key=True)
    kind: Mapped[str] = mapped_column(String(40))
    tenths: Mapped[int]
    variance: Mapped[str | None] = mapped_column(String(80))
    sensitivity: Mapped[str | None] = mapped_column(String(80))
    place: Mapped[str | None] = mapped_column(String(60))
    organization: Mapped[str | None] = mapped_column(String(320))
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)


class ProposalRow(Base):
    """One row per change that both organisations of a pair must approve."""

    __tablename__ = "proposals"

    id: Mapped[str] = mapped_column(String(36), primary_key=True)
    pair_id: Mapped[str] = mapped_column(ForeignKey("pairs.id"), index=True)
    kind: Mapped[str] = mapped_column(String(40))
    data_room_id: Mapped[str | None] = mapped_column(String(60), index=True)
    tenths: Mapped[int]
    organization: Mapped[str | None] = mapped_column(String(320))
    approved_by: Mapped[list[str]] = mapped_column(JSON)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)
    effective_at: Mapped[datetime | None] = mapped_column(UtcDateTime)


class JobViewRow(Base):
    """One row per cross-account generation job: the starting account's own name, description and tags for it."""

    __tablename__ = "job_views"
    __table_args__ = (
        UniqueConstraint("account_id", "region", "name"),
        Index(None, "account_id", "region", "created_at", "job_id"),
    )

    job_id: Mapped[str] = mapped_column(ForeignKey("resources.id", ondelete="CASCADE"), primary_key=True)
    account_id: Mapped[str] = mapped_column(String(12))
    region: Mapped[str] = mapped_column(String(40))
    name: Mapped[str] = mapped_column(String(63))
    description: Mapped[str | None] = mapped_column(String(255))
    tags: Mapped[dict[str, str]] = mapped_column(JSON)
    # The job's own creation time, so that listings can merge views and jobs in one order.
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)
    updated_at: Mapped[datetime] = mapped_column(UtcDateTime)


class VersionRow(Base):
    """One row per version of a resource: the unit of work."""

    __tablename__ = "versions"
    __table_args__ = (Index(None, "status", "lease_expires_at"), Index(None, "started_at"))

    resource_id: Mapped[str] = mapped_column(ForeignKey("resources.id", ondelete="CASCADE"), primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    kind: Mapped[Kind] = mapped_column(_word(Kind))
    status: Mapped[Status] = mapped_column(_word(Status))
    status_code: Mapped[StatusCode | None] = mapped_column(_word(StatusCode))
    status_message: Mapped[str | None] = mapped_column(Text)
    cause: Mapped[Cause] = mapped_column(_word(Cause))
    artifacts: Mapped[dict[str, str]] = mapped_column(JSON)
    parents: Mapped[tuple[ParentRef, ...]] = mapped_column(_PARENTS)
    summary: Mapped[dict[str, Any]] = mapped_column(JSON)
    params: Mapped[dict[str, Any]] = mapped_column(JSON)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)
    started_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    finished_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    run_id: Mapped[str | None] = mapped_column(String(128))
    lease_expires_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    attempt: Mapped[int]
    queue_generation: Mapped[int] = mapped_column("turn")
    progress: Mapped[float]
    progress_stage: Mapped[str] = mapped_column(Text)
    cancel_requested: Mapped[bool]


# The order of listings, in columns of one table: with the `id` of a kind's own table, no index would be used.
PLACE = (ResourceRow.__table__.c.created_at, ResourceRow.__table__.c.id)


def is_newest() -> ColumnElement[bool]:
    """Return the SQL condition that a version is the newest of its resource."""
    later = aliased(VersionRow)
    highest = select(func.max(later.number)).where(later.resource_id == VersionRow.resource_id)
    return VersionRow.number == highest.correlate(VersionRow).scalar_subquery()


def kept_audience_model_id(version: type[VersionRow]) -> ColumnElement[str | None]:
    """Return the SQL expression for the audience model that a job was started with; NULL for declared jobs."""
    kept: ColumnElement[str | None] = version.params["configured"]["audience_model_id"].as_string()
    return kept


class InstallationRow(Base):
    """The single row with the catalogue's identity."""

    __tablename__ = "installation"

    number: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    id: Mapped[str] = mapped_column(String(32))
    generation: Mapped[int] = mapped_column(BigInteger)
    key_digest: Mapped[str] = mapped_column(String(64))


class TombstoneRow(Base):
    """One row per deleted object, or per stored file that no record owns yet."""

    __tablename__ = "tombstones"

    kind: Mapped[str] = mapped_column(String(40), primary_key=True)
    key: Mapped[str] = mapped_column(String(100), primary_key=True)
    version: Mapped[str] = mapped_column(String(40), primary_key=True)
    deleted_at: Mapped[datetime] = mapped_column(UtcDateTime)
    generation: Mapped[int] = mapped_column(BigInteger)


class WorkerRow(Base):
    """One row per worker process."""

    __tablename__ = "workers"

    worker_id: Mapped[str] = mapped_column(String(128), primary_key=True)
    heartbeat_at: Mapped[datetime] = mapped_column(UtcDateTime)


class AccountRow(Base):
    """One row per created account; the operator's own account needs none."""

    __tablename__ = "accounts"

    id: Mapped[str] = mapped_column(String(12), primary_key=True)
    name: Mapped[str] = mapped_column(String(63), unique=True)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)
    disabled: Mapped[bool]
    organization: Mapped[str | None] = mapped_column(String(255))


class AccessKeyRow(Base):
    """One row per access key."""

    __tablename__ = "access_keys"

    id: Mapped[str] = mapped_column(String(20), primary_key=True)
    account_id: Mapped[str] = mapped_column(ForeignKey("accounts.id"), index=True)
    sealed_secret: Mapped[str] = mapped_column(Text)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)
    disabled: Mapped[bool]


class CollaborationRow(Base):
    """One row per collaboration."""

    __tablename__ = "collaborations"

    id: Mapped[str] = mapped_column(String(36), primary_key=True)
    name: Mapped[str] = mapped_column(String(63), unique=True)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)
    seed_removed: Mapped[bool] = mapped_column(server_default=false())
    full_ensemble: Mapped[bool] = mapped_column(server_default=false())


class MemberRow(Base):
    """One row per account in a collaboration; former members stay, as inactive."""

    __tablename__ = "members"

    collaboration_id: Mapped[str] = mapped_column(
        ForeignKey("collaborations.id", ondelete="CASCADE"), primary_key=True
    )
    # Not a foreign key, because the operator's account may have no row.
    account_id: Mapped[str] = mapped_column(String(12), primary_key=True)
    place: Mapped[int]
    active: Mapped[bool]


class AnalysisTemplateRow(Base):
    """One row per analysis template."""

    __tablename__ = "analysis_templates"
    __table_args__ = (UniqueConstraint("account_id", "region", "name"),)

    arn: Mapped[str] = mapped_column(String(200), primary_key=True)
    account_id: Mapped[str] = mapped_column(String(12))
    region: Mapped[str] = mapped_column(String(40))
    name: Mapped[str] = mapped_column(String(63))
    sql: Mapped[str] = mapped_column(Text)
    collaboration_id: Mapped[str | None] = mapped_column(ForeignKey("collaborations.id"))
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)


class BucketRow(Base):
    """One row per registered bucket."""

    __tablename__ = "buckets"

    name: Mapped[str] = mapped_column(String(63), primary_key=True)
    account_id: Mapped[str] = mapped_column(String(12), index=True)
    url: Mapped[str | None] = mapped_column(Text)
    profile: Mapped[str | None] = mapped_column(String(128))
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)


class NoticeRow(Base):
    """One row per receiver of notices."""

    __tablename__ = "notices"

    name: Mapped[str] = mapped_column(String(63), primary_key=True)
    organization: Mapped[str | None] = mapped_column(String(255))
    kinds: Mapped[tuple[Kind, ...]] = mapped_column(_KINDS)
    only_failures: Mapped[bool]
    channel: Mapped[Channel] = mapped_column(_CHANNEL)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)


class NoticeOutcomeRow(Base):
    """One row per receiver that was sent a notice: whether the last notice to it arrived."""

    __tablename__ = "notice_outcomes"

    name: Mapped[str] = mapped_column(String(63), primary_key=True)
    at: Mapped[datetime] = mapped_column(UtcDateTime)
    problem: Mapped[str] = mapped_column(Text)


ROWS: dict[Kind, type[ResourceRow]] = {
    kind: mapper.class_ for kind, mapper in ResourceRow.__mapper__.polymorphic_map.items()
}


def record_of(record: type[Record], row: Base) -> Record:
    """Convert a row to its record, whose fields are named like the row's columns."""
    return record(**{part.name: getattr(row, part.name) for part in fields(record)})


def stored(session: Session, row: Base, record: type[Record]) -> Record:
    """Store a new row, and return its record."""
    session.add(row)
    session.flush()
    return record_of(record, row)


def resource_record(row: ResourceRow) -> Resource:
    """Return the record of a resource's row."""
    return record_of(RECORDS[row.kind], row)


def version_record(row: VersionRow) -> Version:
    """Return the record of a version's row."""
    return record_of(Version, row)
