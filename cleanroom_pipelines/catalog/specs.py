"""Specs: the requested properties of resources, and their validation.

Lives here: one frozen spec per kind of resource, its validation, and the options of its fields, with the AWS API's
values where it defines them.
Add here when a resource gets a field that its creator sets.
Keep out: state (status, versions, claims: `records.py`), data rooms (`room_specs.py`), and rules that need the
database.
"""

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from cleanroom_pipelines.audiences.sizes import AudienceSize, SeedMode, SizeType, check_sizes
from cleanroom_pipelines.catalog.names import (
    LOCAL_REGION,
    Kind,
    check_account,
    check_description,
    check_name,
    check_tags,
    check_text,
    is_uuid,
)
from cleanroom_pipelines.documents import Document
from cleanroom_pipelines.errors import UsageError
from cleanroom_pipelines.uploads.roles import Role

_WITH_VALUE = Field(exclude_if=lambda value: value is None)

MAX_COLUMNS = 100
MAX_FEATURES = 10
MAX_ABSOLUTE_SIZE = 20_000_000
DEFAULT_MIN_MATCHING_SEED_SIZE = 500
MAX_LOCATION = 4096
MAX_QUERY = 500_000
MAX_PARAMETERS = 100

Columns = tuple[tuple[str, Role], ...]
LARGEST: Literal["largest"] = "largest"


class ShareMetrics(StrEnum):
    """Whether the starter of a job sees its metrics."""

    ALL = "ALL"
    NONE = "NONE"


class ExportFormat(StrEnum):
    """The file format of an export."""

    JSONL = "jsonl"
    CSV = "csv"
    PARQUET = "parquet"


class ChildTagPolicy(StrEnum):
    """Whether jobs inherit the tags of their configured audience model."""

    FROM_PARENT_RESOURCE = "FROM_PARENT_RESOURCE"
    NONE = "NONE"


class Origin(StrEnum):
    """The entry point through which a generation job was started."""

    INBOX = "inbox"
    APPLY = "apply"
    UI = "ui"
    CLI = "cli"
    API = "api"


@dataclass(frozen=True, kw_only=True)
class Spec:
    """Base of all specs: the fields that the creator of a resource sets, whatever its kind.

    Attributes:
        name: 1 to 63 characters on one line.
        description: At most 255 characters.
        tags: At most 50.
    """

    kind: ClassVar[Kind]
    parent_kind: ClassVar[Kind | None] = None
    # A change of these fields needs no new version, because no artifact depends on them.
    fields_without_rebuild: ClassVar[frozenset[str]] = frozenset({"name", "description", "tags"})
    # Fields added in later releases. Unset, they stay out of the digest, so older declarations count as unchanged.
    came_later: ClassVar[frozenset[str]] = frozenset()

    name: str
    description: str | None = None
    tags: Mapping[str, str] = field(default_factory=dict)

    @property
    def parent_id(self) -> str | None:
        """The id of the parent, from which this resource is built; None without a parent."""
        return None

    def validate(self) -> None:
        """Raise UsageError if the spec breaks a rule that can be checked without the database."""
        check_name(self.name)
        check_description(self.description)
        check_tags(self.tags)


@dataclass(frozen=True, kw_only=True)
class TrainingDatasetSpec(Spec):
    """A training dataset: a catalogued table of interactions.

    Attributes:
        source: File, glob, folder or URL of the interactions.
        columns: The declared columns in order, each with its role: one USER_ID, one ITEM_ID, at most one
            TIMESTAMP and ITEM_NAME, at most 10 features.
        users_source: Optional table with one row per user.
        users_columns: Its columns: one USER_ID and features.
        role_arn: The role given in the AWS API for reading it.
        max_invalid_share: The largest share of invalid rows that may be dropped, 0 to 1.
    """

    kind = Kind.TRAINING_DATASET
    fields_without_rebuild = Spec.fields_without_rebuild | {"role_arn"}

    source: str
    columns: Columns
    users_source: str | None = None
    users_columns: Columns = ()
    role_arn: str | None = None
    max_invalid_share: float = 0.05

    def validate(self) -> None:
        """Raise UsageError unless the declared tables follow this project's rules and those of the AWS API."""
        super().validate()
        check_text("source", self.source, MAX_LOCATION)
        check_text("users source", self.users_source, MAX_LOCATION)
        check_text("role", self.role_arn)
        if not 0 <= self.max_invalid_share <= 1:
            raise UsageError(
                "The maximum share of invalid rows is out of range.", remedy="Give a number from 0 to 1."
            )
        _check_columns("interactions", self.columns, {Role.USER_ID: 1, Role.ITEM_ID: 1})
        if bool(self.users_source) != bool(self.users_columns):
            raise UsageError(
                "The source or the columns of the users table are missing.",
                remedy="Give both its source and its columns.",
            )
        if self.users_columns:
            _check_columns("users", self.users_columns, {Role.USER_ID: 1, Role.ITEM_ID: 0})


def _check_columns(table: str, columns: Columns, exactly: Mapping[Role, int]) -> None:
    if not 1 <= len(columns) <= MAX_COLUMNS:
        raise UsageError(
            f"The {table} table must declare 1 to {MAX_COLUMNS} columns.",
            remedy="Declare the relevant columns, each with its role.",
        )
    for name, _ in columns:
        check_text(f"name of a column of the {table} table", name, 128)
    if len({name.lower() for name, _ in columns}) < len(columns):
        raise UsageError(f"The {table} table declares a column twice.", remedy="Give each column one role.")
    counts = Counter(Role(role) for _, role in columns)
    for role, n in exactly.items():
        if counts[role] != n:
            raise UsageError(
                f"The {table} table declares {counts[role]} {role} columns.", remedy=f"Declare exactly {n}."
            )
    most = 0 if table == "users" else 1
    for role in (Role.TIMESTAMP, Role.ITEM_NAME):
        if counts[role] > most:
            raise UsageError(
                f"The {table} table declares {counts[role]} {role} columns.", remedy=f"Declare at most {most}."
            )
    n_features = sum(counts[role] for role in Role if role.is_feature)
    if table == "interactions" and n_features > MAX_FEATURES:
        raise UsageError(
            f"The {table} table declares {n_features} features.", remedy=f"Declare at most {MAX_FEATURES}."
        )


def _check_size(size: AudienceSize) -> None:
    """Check a size against the AWS API's limits, which allow whole percentages only."""
    if not size.is_whole or (size.type is SizeType.ABSOLUTE and size.value > MAX_ABSOLUTE_SIZE):
        raise UsageError(
            "An audience size is out of range.",
            remedy=f"Give a whole number: 1% to 100%, or 1 to {MAX_ABSOLUTE_SIZE:,} users.",
        )


@dataclass(frozen=True, kw_only=True)
class AudienceModelSpec(Spec):
    """The similarity model of one training dataset, within a time window.

    Attributes:
        training_dataset_id: The dataset it is trained on.
        window_start: Epoch seconds UTC, inclusive; None for the start of the data.
        window_end: Epoch seconds UTC, exclusive; None for the end of the data.
        refresh_every_seconds: The interval between new versions; None for no refresh.
        refresh_window_seconds: The length of a refresh's window, which ends at the end of the data.
        kms_key_arn: The encryption key given in the AWS API.
    """

    kind = Kind.AUDIENCE_MODEL
    parent_kind = Kind.TRAINING_DATASET
    fields_without_rebuild = Spec.fields_without_rebuild | {
        "refresh_every_seconds",
        "refresh_window_seconds",
        "kms_key_arn",
    }

    training_dataset_id: str
    window_start: int | None = None
    window_end: int | None = None
    refresh_every_seconds: int | None = None
    refresh_window_seconds: int | None = None
    kms_key_arn: str | None = None

    @property
    def parent_id(self) -> str:
        """The id of the training dataset."""
        return self.training_dataset_id

    def validate(self) -> None:
        """Raise UsageError unless window and refresh are valid."""
        super().validate()
        check_text("key", self.kms_key_arn)
        if any(abs(end) > 2**53 for end in (self.window_start, self.window_end) if end is not None):
            raise UsageError("The training window is out of range.", remedy="Give start and end in epoch seconds.")
        if self.window_start is not None and self.window_end is not None and self.window_start >= self.window_end:
            raise UsageError(
                "The training window is empty.",
                remedy="Give a start before the end; the end is exclusive.",
            )
        for seconds in (self.refresh_every_seconds, self.refresh_window_seconds):
            if seconds is not None and not 1 <= seconds <= 10 * 366 * 86_400:
                raise UsageError(
                    "The refresh interval or window is out of range.", remedy="Give one second to ten years."
                )
        if self.refresh_window_seconds is not None and self.refresh_every_seconds is None:
            raise UsageError(
                "The refresh has a window but no interval.", remedy="Give the interval between refreshes."
            )


@dataclass(frozen=True, kw_only=True)
class ConfiguredAudienceModelSpec(Spec):
    """An audience model with the sizes, sharing and output location that its owner allows.

    Attributes:
        audience_model_id: The model it configures.
        sizes: 1 to 25 allowed audience sizes of one type, without duplicates; stored in ascending order.
        output_url: The destination of exports.
        min_matching_seed_size: The minimum number of seed users that must match.
        share_metrics: Whether the starter of a job sees its metrics.
        share_explanation: Whether the starter of a job sees its explanation.
        export_format: The file format of exports.
        delivery: Further options of exports: `gzip`, `max_rows` per file, a `holdout` such as `10%` that is
            excluded, and `changes`: users added and removed since the previous version's export.
        output_role_arn: The role given in the AWS API for writing there.
        child_tag_policy: Whether jobs inherit the tags.
    """

    kind = Kind.CONFIGURED_AUDIENCE_MODEL
    parent_kind = Kind.AUDIENCE_MODEL
    fields_without_rebuild = Spec.fields_without_rebuild | {
        "share_metrics",
        "share_explanation",
        "child_tag_policy",
        "output_role_arn",
    }
    came_later = frozenset({"delivery"})

    audience_model_id: str
    sizes: tuple[AudienceSize, ...]
    output_url: str
    min_matching_seed_size: int = DEFAULT_MIN_MATCHING_SEED_SIZE
    share_metrics: ShareMetrics = ShareMetrics.NONE
    share_explanation: bool = False
    export_format: ExportFormat = ExportFormat.JSONL
    delivery: Mapping[str, object] | None = None
    output_role_arn: str | None = None
    child_tag_policy: ChildTagPolicy = ChildTagPolicy.NONE

    @property
    def parent_id(self) -> str:
        """The id of the audience model."""
        return self.audience_model_id

    def validate(self) -> None:
        """Raise UsageError unless there are 1 to 25 sizes of one type, in range, without duplicates."""
        super().validate()
        check_text("output location", self.output_url, MAX_LOCATION)
        check_text("output role", self.output_role_arn)
        for size in check_sizes(self.sizes):
            _check_size(size)
        if len({size.type for size in self.sizes}) > 1:
            raise UsageError(
                "The audience sizes mix percentages and counts.",
                remedy="Give only percentages or only counts.",
            )


@dataclass(frozen=True, kw_only=True)
class RequestedSeed(Document):
    """A seed that is fetched when its job runs, from a location or by SQL.

    Exactly one of `s3_uri`, `query` and `template_arn` is given. Messages contain none of them.

    Attributes:
        role_arn: The role given in the AWS API for reading it.
        s3_uri: Its location.
        query: The SQL that selects it.
        template_arn: The template whose SQL selects it.
        parameters: The values of the SQL's `:name` parameters, by name.
        protected_query_id: The UUID that the AWS API shows for an SQL seed.
        compute: The compute configuration that a client gave; it is shown again and has no effect.
    """

    role_arn: str = field(repr=False)
    s3_uri: str | None = field(default=None, repr=False)
    query: str | None = field(default=None, repr=False)
    template_arn: str | None = field(default=None, repr=False)
    parameters: Mapping[str, str] = field(default_factory=dict, repr=False)
    protected_query_id: str | None = None
    # not stored without a value, so that other releases read the seed
    compute: Annotated[Mapping[str, Any] | None, _WITH_VALUE] = field(default=None, repr=False)

    @property
    def is_sql(self) -> bool:
        """Whether SQL selects the seed."""
        return self.s3_uri is None

    def validate(self) -> None:
        """Raise UsageError unless there is exactly one source, and parameters only for SQL."""
        check_text("seed's role", self.role_arn)
        check_text("seed's location", self.s3_uri, MAX_LOCATION)
        check_query_text(self.query)
        check_text("seed's template", self.template_arn, 200)
        if sum(given is not None for given in (self.s3_uri, self.query, self.template_arn)) != 1:
            raise UsageError(
                "The seed does not have exactly one source.", remedy="Give a location, a query or a template."
            )
        if not self.is_sql and (self.parameters or self.protected_query_id is not None):
            raise UsageError(
                "The seed has a location and SQL parameters.", remedy="Give parameters only with SQL."
            )
        if self.protected_query_id is not None and not is_uuid(self.protected_query_id):
            raise UsageError("The id of the seed's query is not a UUID.", remedy="Give a lower-case UUID.")
        compute = json.dumps(self.compute, ensure_ascii=False)
        if "\\u0000" in compute or not is_storable(compute):
            raise UsageError(
                "The seed's compute configuration contains characters that cannot be stored.",
                remedy="Remove NUL characters and unpaired surrogates.",
            )
        if len(self.parameters) > MAX_PARAMETERS:
            raise UsageError("The seed has too many parameters.", remedy=f"Give at most {MAX_PARAMETERS}.")
        for name, value in self.parameters.items():
            check_text("name of a seed parameter", name, 100)
            if len(value) > 1000 or not is_storable(value):
                raise UsageError(
                    "The value of a seed parameter is invalid.", remedy="Give at most 1,000 characters of text."
                )


def check_query_text(query: str | None) -> None:
    """Reject SQL that cannot be stored; whether it may run is checked when it runs.

    Raises:
        UsageError: The SQL is empty, longer than 500,000 characters, or not text.
    """
    if query is not None and (not query.strip() or len(query) > MAX_QUERY or not is_storable(query)):
        raise UsageError("The query is invalid.", remedy=f"Give 1 to {MAX_QUERY:,} characters of SQL.")


def is_storable(text: str) -> bool:
    """Return whether every supported database can store the text: it has no NUL and no unpaired surrogate."""
    return "\0" not in text and not any("\ud800" <= char <= "\udfff" for char in text)


@dataclass(frozen=True)
class Starter:
    """The account that starts a job on another account's configured model, with its own name for the job.

    Attributes:
        account_id: 12 digits.
        name: The starter's name for the job; unique among the starter's jobs.
        description: The starter's.
        tags: The starter's; the owner never sees them.
    """

    account_id: str
    name: str
    description: str | None = None
    tags: Mapping[str, str] = field(default_factory=dict)

    def validate(self) -> None:
        """Raise UsageError unless the starter's name, description and tags for the job are valid."""
        check_account(self.account_id, LOCAL_REGION)
        check_name(self.name)
        check_description(self.description)
        check_tags(self.tags)


@dataclass(frozen=True, kw_only=True)
class GenerationJobSpec(Spec):
    """A generation job, which ranks all users of the training data by their similarity to one seed.

    Attributes:
        configured_audience_model_id: The configured model it uses.
        seed_location: The seed's location; None once the seed is deleted.
        seed_name: The seed owner's name for it.
        seed_bytes: The seed's size in bytes; 0 until a requested seed is fetched.
        seed_digest: Keyed digest of the seed's content, in hex; None until a requested seed is fetched.
        requested_seed: The seed to fetch; None if the seed was uploaded.
        seed_mode: The position of the seed's users in the audience.
        keep_seed: Whether the seed is kept (encrypted) for refreshes.
        export_size: The size to export as soon as the audience is ready: `largest`, a size, or None.
        origin: The entry point of the request.
        started_by: The account that started the job.
        collaboration_id: The collaboration it was started in.
    """

    kind = Kind.GENERATION_JOB
    parent_kind = Kind.CONFIGURED_AUDIENCE_MODEL
    fields_without_rebuild = Spec.fields_without_rebuild | {
        # The digest identifies the seed; its location does not.
        "seed_location",
        "seed_name",
        "seed_bytes",
        "keep_seed",
        "export_size",
        "origin",
        "started_by",
        "collaboration_id",
    }
    came_later = frozenset({"requested_seed"})

    configured_audience_model_id: str
    seed_location: str | None = None
    seed_digest: str | None = None
    requested_seed: RequestedSeed | None = None
    seed_name: str = ""
    seed_bytes: int = 0
    seed_mode: SeedMode = SeedMode.EXCLUDED
    keep_seed: bool = False
    export_size: AudienceSize | Literal["largest"] | None = None
    origin: Origin = Origin.API
    started_by: str | None = None
    collaboration_id: str | None = None

    @property
    def parent_id(self) -> str:
        """The id of the configured audience model."""
        return self.configured_audience_model_id

    def validate(self) -> None:
        """Raise UsageError unless the job has a valid seed and its export size, if any, is in range."""
        super().validate()
        check_text("seed's location", self.seed_location, MAX_LOCATION)
        check_text("seed's name", self.seed_name or None, 1024)
        check_text("collaboration", self.collaboration_id, 128)
        if self.seed_bytes < 0:
            raise UsageError("The seed's size is negative.", remedy="Give the size in bytes.")
        if self.requested_seed is not None:
            self.requested_seed.validate()
        elif self.seed_digest is None:
            raise UsageError("The job has no seed.", remedy="Give `seed_digest` or `requested_seed`.")
        check_seed_digest(self.seed_digest)
        if isinstance(self.export_size, AudienceSize):
            _check_size(self.export_size)


def check_seed_digest(digest: str | None) -> None:
    """Reject an invalid seed digest.

    Raises:
        UsageError: Not 16 to 128 lower-case hexadecimal digits.
    """
    if digest is not None and (not 16 <= len(digest) <= 128 or set(digest) - set("0123456789abcdef")):
        raise UsageError("The seed's digest is invalid.", remedy="Give 16 to 128 lower-case hexadecimal digits.")


@dataclass(frozen=True, kw_only=True)
class ExportJobSpec(Spec):
    """An export of an audience's top users, at one allowed size, to its destination.

    Attributes:
        generation_job_id: The job whose audience is exported.
        size: One of the sizes of its configured model.
        seed_mode: Overrides the job's seed mode if given.
        started_by: The account that started the export; the job's owner if not given.
    """

    kind = Kind.EXPORT_JOB
    parent_kind = Kind.GENERATION_JOB
    fields_without_rebuild = Spec.fields_without_rebuild | {"started_by"}
    came_later = frozenset({"started_by"})

    generation_job_id: str
    size: AudienceSize
    seed_mode: SeedMode | None = None
    started_by: str | None = None

    @property
    def parent_id(self) -> str:
        """The id of the generation job."""
        return self.generation_job_id

    def validate(self) -> None:
        """Raise UsageError unless the size is in range."""
        super().validate()
        _check_size(self.size)
