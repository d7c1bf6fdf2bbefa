"""Records: what a caller sees of the catalogue; frozen, free of the database, safe to pickle.

Lives here: one record per kind of resource, the version (the unit of work), the claim, the parties and what is
theirs, and small answers.
Add here when the catalogue tells its callers something new.
Keep out: rows (`tables.py`) and rules.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, Literal

from cleanroom_pipelines.audiences.sizes import AudienceSize, SizeType
from cleanroom_pipelines.catalog.names import Kind, make_arn
from cleanroom_pipelines.catalog.room_specs import AudienceListSpec, CustomAudienceSpec, DataLabSpec, DataRoomSpec
from cleanroom_pipelines.catalog.specs import (
    AudienceModelSpec,
    ConfiguredAudienceModelSpec,
    ExportJobSpec,
    GenerationJobSpec,
    Spec,
    TrainingDatasetSpec,
)
from cleanroom_pipelines.errors import StatusCode
from cleanroom_pipelines.identity import Dataset, inputs_of
from cleanroom_pipelines.storage import ArtifactReference


class Status(StrEnum):
    """The status of a resource or version (source: the AWS API, `contracts/cleanroomsml.md` 1.2)."""

    CREATE_PENDING = "CREATE_PENDING"
    CREATE_IN_PROGRESS = "CREATE_IN_PROGRESS"
    ACTIVE = "ACTIVE"
    CREATE_FAILED = "CREATE_FAILED"
    DELETE_PENDING = "DELETE_PENDING"
    DELETE_IN_PROGRESS = "DELETE_IN_PROGRESS"
    DELETE_FAILED = "DELETE_FAILED"


OPEN = (Status.CREATE_PENDING, Status.CREATE_IN_PROGRESS)
DELETING = (Status.DELETE_PENDING, Status.DELETE_IN_PROGRESS, Status.DELETE_FAILED)


class Cause(StrEnum):
    """Why a version exists."""

    CREATED = "created"
    DECLARED = "declared"
    REFRESH = "refresh"
    PARENT = "parent"
    BY_HAND = "by_hand"
    UPDATED = "updated"
    UPGRADED = "upgraded"


@dataclass(frozen=True)
class ParentRef:
    """The exact version of a parent that something was made from."""

    kind: Kind
    id: str
    version: int


@dataclass(frozen=True)
class Version:
    """One version of a resource: the unit of work.

    Attributes:
        kind: The resource's kind.
        resource_id: The resource's partition key.
        number: From 1.
        status: CREATE_PENDING, CREATE_IN_PROGRESS, ACTIVE or CREATE_FAILED.
        status_code: Why it failed.
        status_message: Why it failed and what to do, without data values.
        cause: Why it exists.
        artifacts: The artifact version published so far, by asset name.
        parents: What it was made from; set when it becomes ACTIVE.
        summary: One sentence and headline numbers; set when it becomes ACTIVE.
        params: What this version does differently, such as `{"window_seconds": …}` for a refresh.
        created_at: UTC, like all times here.
        started_at: When the present attempt began.
        finished_at: When it became ACTIVE or CREATE_FAILED.
        run_id: The run that holds, or last held, the claim.
        lease_expires_at: Until when the claim stands without being renewed.
        attempt: How many times it was claimed, less the claims that were given back.
        queue_generation: How many times it was made pending again or taken over; part of the run key.
        progress: 0 to 1.
        progress_stage: What is being done.
        cancel_requested: Whether somebody asked for the work to stop.
    """

    kind: Kind
    resource_id: str
    number: int
    status: Status
    status_code: StatusCode | None
    status_message: str | None
    cause: Cause
    artifacts: Mapping[str, str]
    parents: tuple[ParentRef, ...]
    summary: Mapping[str, Any]
    params: Mapping[str, Any]
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    run_id: str | None
    lease_expires_at: datetime | None
    attempt: int
    queue_generation: int
    progress: float
    progress_stage: str
    cancel_requested: bool

    @property
    def run_key(self) -> str:
        """Different each time this version waits for a run, so that a sensor starts exactly one for it.

        Not the attempt: a released claim and an attempt by hand give attempts back, and Dagster never starts a
        second run under a key it has seen.
        """
        return f"{self.resource_id}:{self.number}:{self.queue_generation}"

    @property
    def ref(self) -> ParentRef:
        """This version as the parent of something."""
        return ParentRef(self.kind, self.resource_id, self.number)

    def artifact(self, asset: str) -> ArtifactReference:
        """The artifact that it published for an asset."""
        return ArtifactReference(asset, self.resource_id, self.artifacts[asset])


@dataclass(frozen=True)
class Stage:
    """Where an open version is: at its place in the queue, or at work.

    Attributes:
        words: What it waits for, or what is being done.
        progress: 0 to 1.
        place: In the queue of its lane, 1 being next; None if it is not in the queue.
    """

    words: str
    progress: float = 0.0
    place: int | None = None

    def __str__(self) -> str:
        if self.place is not None:
            return f"{self.words}, place {self.place} in the queue"
        return f"{self.words}, {self.progress:.0%}" if self.progress else self.words


@dataclass(frozen=True, kw_only=True)
class ResourceRecord(Spec):
    """What every resource has beside its spec.

    Attributes:
        id: The partition key, `<slug>-<12 hex>`.
        account_id: 12 digits.
        region: Such as `us-east-1`.
        status: As the AWS API shows it.
        status_code: Why the newest version failed.
        status_message: Why the newest version failed and what to do.
        created_at: UTC.
        updated_at: UTC.
        declared: Whether `cleanroom apply` made it; only such resources get new versions by themselves.
        spec_digest: SHA-256 hex of the spec it was made or last changed from.
        current_version: The number of the newest ACTIVE version, or None.
    """

    id: str
    account_id: str
    region: str
    status: Status
    status_code: StatusCode | None
    status_message: str | None
    created_at: datetime
    updated_at: datetime
    declared: bool
    spec_digest: str
    current_version: int | None

    @property
    def arn(self) -> str | None:
        """The resource's ARN; None for an export job."""
        return make_arn(self.kind, self.account_id, self.region, self.id)


@dataclass(frozen=True, kw_only=True)
class TrainingDataset(ResourceRecord, TrainingDatasetSpec):
    """A training dataset as the catalogue knows it."""


@dataclass(frozen=True, kw_only=True)
class AudienceModel(ResourceRecord, AudienceModelSpec):
    """An audience model as the catalogue knows it.

    Attributes:
        next_refresh_at: When the next refresh is due; None without refreshes.
    """

    next_refresh_at: datetime | None


@dataclass(frozen=True, kw_only=True)
class ConfiguredAudienceModel(ResourceRecord, ConfiguredAudienceModelSpec):
    """A configured audience model as the catalogue knows it.

    Attributes:
        policy: The resource policy's text, if one was put.
        policy_hash: Its SHA-256 hex.
    """

    policy: str | None
    policy_hash: str | None


@dataclass(frozen=True, kw_only=True)
class GenerationJob(ResourceRecord, GenerationJobSpec):
    """A generation job as the catalogue knows it."""


@dataclass(frozen=True, kw_only=True)
class ExportJob(ResourceRecord, ExportJobSpec):
    """An export job as the catalogue knows it.

    Attributes:
        output_location: The folder that was written; None until then.
    """

    output_location: str | None


@dataclass(frozen=True, kw_only=True)
class DataLab(ResourceRecord, DataLabSpec):
    """A data lab as the catalogue knows it."""


@dataclass(frozen=True, kw_only=True)
class DataRoom(ResourceRecord, DataRoomSpec):
    """A data room as the catalogue knows it.

    Attributes:
        inputs: What is provisioned: upload ids by `InputName`.
        n_embeddings: Numbers per embedding of the provisioned base; 0 without embeddings.
    """

    inputs: Mapping[str, str]
    n_embeddings: int

    @property
    def has_base(self) -> bool:
        """Whether a base audience is provisioned."""
        return bool(inputs_of(self.inputs, Dataset.MATCHING))

    @property
    def has_seeds(self) -> bool:
        """Whether seed audiences are provisioned."""
        return bool(inputs_of(self.inputs, Dataset.SEED_AUDIENCES))


@dataclass(frozen=True, kw_only=True)
class CustomAudience(ResourceRecord, CustomAudienceSpec):
    """A custom audience as the catalogue knows it."""


@dataclass(frozen=True, kw_only=True)
class AudienceList(ResourceRecord, AudienceListSpec):
    """A delivery as the catalogue knows it."""


Resource = (
    TrainingDataset
    | AudienceModel
    | ConfiguredAudienceModel
    | GenerationJob
    | ExportJob
    | DataLab
    | DataRoom
    | CustomAudience
    | AudienceList
)

RECORDS: Mapping[Kind, type[Resource]] = {
    Kind.TRAINING_DATASET: TrainingDataset,
    Kind.AUDIENCE_MODEL: AudienceModel,
    Kind.CONFIGURED_AUDIENCE_MODEL: ConfiguredAudienceModel,
    Kind.GENERATION_JOB: GenerationJob,
    Kind.EXPORT_JOB: ExportJob,
    Kind.DATA_LAB: DataLab,
    Kind.DATA_ROOM: DataRoom,
    Kind.CUSTOM_AUDIENCE: CustomAudience,
    Kind.AUDIENCE_LIST: AudienceList,
}


@dataclass(frozen=True)
class Page:
    """Some of a listing.

    Attributes:
        items: In order of creation.
        after: The token that continues the listing; None at the end.
    """

    items: tuple[Resource, ...]
    after: str | None


@dataclass(frozen=True)
class JobView:
    """A generation job as one of its two accounts sees it.

    Attributes:
        job: With the account, name, description, tags and ARN that this account knows it by.
        is_owner: Whether the configured model is this account's.
        is_starter: Whether this account started it.
        owner_account_id: Whose the configured model is; the account under which the catalogue keeps the job.
    """

    job: GenerationJob
    is_owner: bool
    is_starter: bool
    owner_account_id: str


@dataclass(frozen=True)
class JobViewPage:
    """Some of the generation jobs that an account sees.

    Attributes:
        items: In order of creation.
        after: The token that continues the listing; None at the end.
    """

    items: tuple[JobView, ...]
    after: str | None


@dataclass(frozen=True)
class ConfiguredAtStart:
    """What a generation job that is not declared was started with; a change of its configured model leaves it.

    Attributes:
        audience_model_id: The model whose users it ranks.
        sizes: The sizes its relevance is told at.
        min_matching_seed_size: How many seed users must be known.
    """

    audience_model_id: str
    sizes: tuple[AudienceSize, ...]
    min_matching_seed_size: int

    def as_params(self) -> dict[str, Any]:
        """What a version's `params` hold of it."""
        sizes = [{"type": size.type.value, "value": size.value} for size in self.sizes]
        return {"configured": {**vars(self), "sizes": sizes}}


def configured_at_start(version: Version) -> ConfiguredAtStart | None:
    """What the version's job was started with; None for a declared job, which follows its configured model."""
    kept = version.params.get("configured")
    if kept is None:
        return None
    sizes = tuple(AudienceSize(SizeType(size["type"]), size["value"]) for size in kept["sizes"])
    return ConfiguredAtStart(kept["audience_model_id"], sizes, kept["min_matching_seed_size"])


@dataclass(frozen=True)
class Account:
    """A party with a name, to which access keys may belong.

    Attributes:
        id: 12 digits.
        name: Unique.
        created_at: UTC.
        disabled: Whether none of its keys opens anything.
    """

    id: str
    name: str
    created_at: datetime
    disabled: bool


@dataclass(frozen=True)
class AccessKey:
    """An access key of an account.

    Attributes:
        id: AKIA and 16 characters.
        account_id: Whose it is.
        sealed_secret: Its secret under the installation's key, which the catalogue does not have.
        created_at: UTC.
        disabled: Whether it, or its account, was disabled.
    """

    id: str
    account_id: str
    sealed_secret: str = field(repr=False)
    created_at: datetime
    disabled: bool


@dataclass(frozen=True)
class User:
    """Somebody who may speak to the data rooms.

    Attributes:
        email: Lower-case, unique.
        created_at: UTC.
        disabled: Whether none of their tokens opens anything.
    """

    email: str
    created_at: datetime
    disabled: bool


@dataclass(frozen=True)
class Token:
    """What a user shows; the catalogue keeps a keyed digest of it only.

    Attributes:
        id: Hex digits by which it can be revoked.
        email: Whose it is.
        created_at: UTC.
        expires_at: UTC.
        revoked: Whether it was taken back.
    """

    id: str
    email: str
    created_at: datetime
    expires_at: datetime
    revoked: bool


@dataclass(frozen=True)
class Upload:
    """A file that somebody brought; its content goes when it was taken in, this stays.

    Attributes:
        id: Hex digits.
        owner_email: Whose it is; the operator's drops have the provider's.
        name: What its owner calls it.
        n_bytes: Its size.
        digest: Keyed digest of its content, in hex.
        matching_id: The kind of matching ids in it, if its owner said so.
        location: Where it lies; None once it was taken in and deleted.
        created_at: UTC.
    """

    id: str
    owner_email: str
    name: str
    n_bytes: int
    digest: str
    matching_id: str | None
    location: str | None
    created_at: datetime


@dataclass(frozen=True)
class RoomJob:
    """A question that somebody asked of a room.

    Attributes:
        id: A UUID.
        email: Who asked.
        data_room_id: The room; None for a data lab.
        kind: What is asked.
        target_kind: What must be made before there is an answer.
        target_id: Its partition key.
        target_version: The version that answers; None: the newest there was is to be ACTIVE.
        options: What else was asked.
        cancelled: Whether whoever asked does not want to know any more.
        created_at: UTC.
    """

    id: str
    email: str
    data_room_id: str | None
    kind: str
    target_kind: Kind
    target_id: str
    target_version: int
    options: Mapping[str, Any]
    cancelled: bool
    created_at: datetime


@dataclass(frozen=True)
class Pair:
    """Two organisations whose data meet, or one that provides both sides.

    Attributes:
        id: `pair-` and 24 hex digits.
        organizations: Sorted.
    """

    id: str
    organizations: tuple[str, str]

    @property
    def name(self) -> str:
        """For people."""
        return " + ".join(self.organizations)


@dataclass(frozen=True)
class Ledger:
    """What a pair has spent, in tenths of a unit.

    Attributes:
        spent: In its present period.
        total: What it may spend, refills included.
        period: `month`, or empty for the pair's life.
        share: The most that the organisation which asks may spend of it; None where none was set.
        spent_of_share: What that organisation spent in the present period.
    """

    spent: int
    total: int
    period: str = ""
    share: int | None = None
    spent_of_share: int = 0

    @property
    def left(self) -> int:
        """Tenths that the organisation which asks can still spend."""
        left = self.total - self.spent
        return max(0, left if self.share is None else min(left, self.share - self.spent_of_share))


@dataclass(frozen=True)
class LedgerLine:
    """What a pair paid for once.

    Attributes:
        key: 64 hex digits of content, question and price.
        kind: What was asked, in a word.
        tenths: Its price.
        variance: σ² of its noise as a fraction; None where it is not known.
        sensitivity: Squared L2 sensitivity as a fraction; None where it is not known.
        place: The room or job it was asked in.
        organization: Who asked.
        created_at: UTC; None until it is written.
    """

    key: str
    kind: str
    tenths: int
    variance: str | None = None
    sensitivity: str | None = None
    place: str | None = None
    organization: str | None = None
    created_at: datetime | None = None


@dataclass(frozen=True)
class Proposal:
    """What both organisations of a pair must approve.

    Attributes:
        id: A UUID.
        pair_id: The pair.
        kind: `refill`, `period`, `share` or `full_lookalike`.
        data_room_id: The room, where it is about one.
        tenths: Of a refill or a share.
        organization: Whose share it is.
        approved_by: Organisations that approved it.
        created_at: UTC.
        effective_at: UTC; None until both approved it.
    """

    id: str
    pair_id: str
    kind: str
    data_room_id: str | None
    tenths: int
    organization: str | None
    approved_by: Sequence[str]
    created_at: datetime
    effective_at: datetime | None


@dataclass(frozen=True)
class Member:
    """An account in a collaboration.

    Attributes:
        account_id: 12 digits.
        active: Whether it has not left.
    """

    account_id: str
    active: bool


@dataclass(frozen=True)
class Collaboration:
    """Accounts that may start jobs on each other's configured models, where the policies allow it.

    Attributes:
        id: A UUID.
        name: Unique.
        created_at: UTC.
        members: 2 to 10, in the order they were named.
        seed_removed: Whether lists leave the seed's users out.
        full_ensemble: Whether jobs rank by the full ensemble.
    """

    id: str
    name: str
    created_at: datetime
    members: tuple[Member, ...]
    seed_removed: bool = False
    full_ensemble: bool = False

    def has_active(self, account_id: str) -> bool:
        """Whether the account is a member that has not left."""
        return Member(account_id, True) in self.members


@dataclass(frozen=True)
class AnalysisTemplate:
    """SQL that an account wrote down beforehand, to be run with parameters.

    Attributes:
        arn: Of the form that the AWS API takes.
        name: Unique in the account and region.
        account_id: Whose tables it reads.
        sql: With `:name` parameters.
        created_at: UTC.
        collaboration_id: The collaboration it was written for, if any.
    """

    arn: str
    name: str
    account_id: str
    sql: str = field(repr=False)
    created_at: datetime
    collaboration_id: str | None = None


@dataclass(frozen=True)
class Bucket:
    """A bucket that was registered to one account.

    Attributes:
        name: What stands in `s3://name/…`.
        account_id: The only account that may use it.
        url: The real bucket, `s3://bucket[/prefix]`; None for a folder of the account in the home.
        profile: The profile of the AWS configuration files whose credentials open it.
        created_at: UTC.
    """

    name: str
    account_id: str
    url: str | None
    profile: str | None
    created_at: datetime


@dataclass(frozen=True)
class Claim:
    """The right of one run to work on one version.

    Attributes:
        kind: The resource's kind.
        id: The resource's partition key.
        number: The version's number.
        run_id: The holder.
        attempt: From 1; the holder of an earlier attempt has lost the claim.
        lease_seconds: How long the claim stands without being renewed.
        lease_expires_at: UTC.
        queue_generation: How many attempts were made before. Unlike `attempt`, which a released claim gives back,
            it only rises, so what an attempt leaves outside the catalogue can be told from a later one's.
    """

    kind: Kind
    id: str
    number: int
    run_id: str
    attempt: int
    lease_seconds: float
    lease_expires_at: datetime
    queue_generation: int = 0


@dataclass(frozen=True)
class ExpiredClaims:
    """A version whose run went silent.

    Attributes:
        version: As it is now: pending again, or failed.
        run_id: The run that held the claim.
    """

    version: Version
    run_id: str


@dataclass(frozen=True)
class ManualRequest:
    """What "Materialize" on a partition means now.

    Attributes:
        action: `work`: claim `version` and do it. `verify`: nothing is to be made, check the artifacts of
            `version` against their manifests. `busy`: `run_id` holds it. `waiting`: it is pending and its parent
            is not ready; it will run by itself.
        version: The version this is about.
        run_id: The run that holds it, when busy.
        message: One sentence for the person who clicked.
    """

    action: Literal["work", "verify", "busy", "waiting"]
    version: Version
    run_id: str | None
    message: str
