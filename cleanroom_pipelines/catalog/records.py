"""Records: the catalogue's return values; frozen, independent of the database, safe to pickle.

Lives here: one record per kind of resource, the version (the unit of work), the claim, the parties and their
property, and small results.
Add here when the catalogue returns something new.
Keep out: rows (`tables.py`) and rules.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, Generic, Literal, TypeVar, get_args

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
from cleanroom_pipelines.storage.buckets import RegisteredBucket


class Status(StrEnum):
    """The status of a resource or version (source: the AWS API)."""

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
    """The reason a version exists."""

    CREATED = "created"
    DECLARED = "declared"
    REFRESH = "refresh"
    PARENT = "parent"
    BY_HAND = "by_hand"
    UPDATED = "updated"
    UPGRADED = "upgraded"


@dataclass(frozen=True)
class ParentRef:
    """Reference to the exact version of a parent that a version was built from."""

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
        status_code: The reason it failed.
        status_message: The reason it failed and what to do, without data values.
        cause: The reason it exists.
        artifacts: The artifact versions published so far, by asset name.
        parents: The parent versions it was built from; set when it becomes ACTIVE.
        summary: One sentence and headline numbers; set when it becomes ACTIVE.
        params: Parameters of this version, such as `{"window_seconds": …}` for a refresh.
        created_at: UTC, like all times here.
        started_at: When the current attempt started.
        finished_at: When it became ACTIVE or CREATE_FAILED.
        run_id: The run that holds, or last held, the claim.
        lease_expires_at: When the claim expires unless it is renewed.
        attempt: How many times it was claimed, not counting released claims.
        queue_generation: How many times it was requeued or taken over; part of the run key.
        progress: 0 to 1.
        progress_stage: The current step.
        cancel_requested: Whether cancellation was requested.
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
        """Dagster run key; it changes whenever this version is queued again, so that Dagster starts a new run.

        It does not use the attempt, which a released claim or a manual retry lowers: Dagster never starts a second
        run under a known key.
        """
        return f"{self.resource_id}:{self.number}:{self.queue_generation}"

    @property
    def ref(self) -> ParentRef:
        """A reference to this version, for versions that are built from it."""
        return ParentRef(self.kind, self.resource_id, self.number)

    def artifact(self, asset: str) -> ArtifactReference:
        """Return the artifact that this version published for an asset."""
        return ArtifactReference(asset, self.resource_id, self.artifacts[asset])


@dataclass(frozen=True)
class Stage:
    """The stage of an unfinished version: queued, waiting, or in progress with its current step.

    Attributes:
        words: What it waits for, or the current step.
        progress: 0 to 1.
        place: The position in the queue of its lane, from 1; None if it is not queued.
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
    """The fields that every resource has in addition to those of its spec.

    Attributes:
        id: The partition key, `<slug>-<12 hex>`.
        account_id: 12 digits.
        region: Such as `us-east-1`.
        status: As shown by the AWS API.
        status_code: The reason the newest version failed.
        status_message: The reason the newest version failed and what to do.
        created_at: UTC.
        updated_at: UTC.
        declared: Whether `cleanroom apply` created it; only declared resources get new versions automatically.
        spec_digest: SHA-256 hex of the spec that created or last changed it.
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
    """A training dataset in the catalogue."""


@dataclass(frozen=True, kw_only=True)
class AudienceModel(ResourceRecord, AudienceModelSpec):
    """An audience model in the catalogue.

    Attributes:
        next_refresh_at: When the next refresh is due; None without refreshes.
    """

    next_refresh_at: datetime | None


@dataclass(frozen=True, kw_only=True)
class ConfiguredAudienceModel(ResourceRecord, ConfiguredAudienceModelSpec):
    """A configured audience model in the catalogue.

    Attributes:
        policy: The text of its resource policy, if it has one.
        policy_hash: Its SHA-256 hex.
    """

    policy: str | None
    policy_hash: str | None


@dataclass(frozen=True, kw_only=True)
class GenerationJob(ResourceRecord, GenerationJobSpec):
    """A generation job in the catalogue."""


@dataclass(frozen=True, kw_only=True)
class ExportJob(ResourceRecord, ExportJobSpec):
    """An export job in the catalogue.

    Attributes:
        output_location: The folder it wrote; None until then.
    """

    output_location: str | None


@dataclass(frozen=True, kw_only=True)
class DataLab(ResourceRecord, DataLabSpec):
    """A data lab in the catalogue."""


@dataclass(frozen=True, kw_only=True)
class DataRoom(ResourceRecord, DataRoomSpec):
    """A data room in the catalogue.

    Attributes:
        inputs: The provisioned upload ids by `InputName`.
        n_embeddings: The dimension of the base's embeddings; 0 without embeddings.
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
    """A custom audience in the catalogue."""


@dataclass(frozen=True, kw_only=True)
class AudienceList(ResourceRecord, AudienceListSpec):
    """A delivered list in the catalogue."""


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

RECORDS: Mapping[Kind, type[Resource]] = {record.kind: record for record in get_args(Resource)}

_Item = TypeVar("_Item")


@dataclass(frozen=True)
class Page(Generic[_Item]):
    """A page of a listing.

    Attributes:
        items: In order of creation.
        after: The token of the next page; None at the end.
    """

    items: tuple[_Item, ...]
    after: str | None


@dataclass(frozen=True)
class JobView:
    """A generation job as seen by the owner of its configured model or by the account that started it.

    Attributes:
        job: With this account's id, name, description, tags and ARN.
        is_owner: Whether this account owns the configured model.
        is_starter: Whether this account started it.
        owner_account_id: The owner of the configured model, under which the catalogue stores the job.
    """

    job: GenerationJob
    is_owner: bool
    is_starter: bool
    owner_account_id: str


@dataclass(frozen=True)
class ConfiguredAtStart:
    """Settings of a configured model, copied into a job that was started without a declaration file.

    Attributes:
        audience_model_id: The model whose users it ranks.
        sizes: The sizes at which its relevance is reported.
        min_matching_seed_size: The minimum number of seed users that must match.
    """

    audience_model_id: str
    sizes: tuple[AudienceSize, ...]
    min_matching_seed_size: int

    def as_params(self) -> dict[str, Any]:
        """Convert the settings to a version's `params`."""
        sizes = [{"type": size.type.value, "value": size.value} for size in self.sizes]
        return {"configured": {**vars(self), "sizes": sizes}}


def configured_at_start(version: Version) -> ConfiguredAtStart | None:
    """Return the settings that a job was started with; None for a declared job, which uses current settings."""
    kept = version.params.get("configured")
    if kept is None:
        return None
    sizes = tuple(AudienceSize(SizeType(size["type"]), size["value"]) for size in kept["sizes"])
    return ConfiguredAtStart(kept["audience_model_id"], sizes, kept["min_matching_seed_size"])


@dataclass(frozen=True)
class Account:
    """An account: a named party that may have access keys.

    Attributes:
        id: 12 digits.
        name: Unique.
        created_at: UTC.
        disabled: Whether all of its keys are disabled.
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
        account_id: Its owner.
        sealed_secret: Its secret, encrypted with the installation's key, which the catalogue does not have.
        created_at: UTC.
        disabled: Whether it or its account is disabled.
    """

    id: str
    account_id: str
    sealed_secret: str = field(repr=False)
    created_at: datetime
    disabled: bool


@dataclass(frozen=True)
class User:
    """A user of the Media API.

    Attributes:
        email: Lower-case, unique.
        created_at: UTC.
        disabled: Whether all of their tokens are disabled.
        is_operator: Whether they may use the operator's pages of the console.
        account_id: The account whose resources they manage in the console, if any.
    """

    email: str
    created_at: datetime
    disabled: bool
    is_operator: bool = False
    account_id: str | None = None

    @property
    def has_role(self) -> bool:
        """Whether the user is an operator or manages an account in the console."""
        return self.is_operator or self.account_id is not None


class LinkPurpose(StrEnum):
    """The purpose of a sign-in link."""

    INVITATION = "invitation"
    SIGN_IN = "sign_in"


@dataclass(frozen=True)
class SignInLink:
    """A link by which a user can sign in once; stored only as a keyed digest, and deleted when it is used.

    Attributes:
        email: Its user.
        purpose: An invitation also sets the user's password.
        invited_by: The user who invited; None for the operator.
        created_at: UTC.
        expires_at: UTC.
    """

    email: str
    purpose: LinkPurpose
    invited_by: str | None
    created_at: datetime
    expires_at: datetime


@dataclass(frozen=True)
class ConsoleSession:
    """A user's session in the console, stored only as a keyed digest.

    Attributes:
        email: Its user.
        token_id: The token by which it was started, if any.
        created_at: UTC.
        used_at: UTC; the last recorded request.
    """

    email: str
    token_id: str | None
    created_at: datetime
    used_at: datetime


@dataclass(frozen=True)
class NewPasskey:
    """A passkey (WebAuthn) that a user's device has made: a name, and the public key that verifies its signatures.

    Attributes:
        name: The user's name for it.
        credential_id: Its id in the device, in base64url.
        public_key: Its public key, as COSE.
        sign_count: The device's counter of signatures when it was last used; 0 if the device does not count.
    """

    name: str
    credential_id: str
    public_key: bytes
    sign_count: int


@dataclass(frozen=True)
class Passkey(NewPasskey):
    """A user's stored passkey.

    Attributes:
        id: Hex digits by which it can be removed.
        email: Its user.
        created_at: UTC.
        used_at: UTC; None if it was not used yet.
    """

    id: str
    email: str
    created_at: datetime
    used_at: datetime | None


@dataclass(frozen=True)
class Token:
    """A user's token for the Media API and the console, stored only as a keyed digest.

    Attributes:
        id: Hex digits by which it can be revoked.
        email: Its user.
        created_at: UTC.
        expires_at: UTC.
        revoked: Whether it was revoked.
    """

    id: str
    email: str
    created_at: datetime
    expires_at: datetime
    revoked: bool


@dataclass(frozen=True)
class Upload:
    """An uploaded file; its content is deleted once it is ingested, but this record is kept.

    Attributes:
        id: Hex digits.
        owner_email: Its owner; the provider if the operator uploaded it.
        name: Its owner's name for it.
        n_bytes: Its size.
        digest: Keyed digest of its content, in hex.
        matching_id: The kind of matching ids in it, if its owner gave it.
        location: Its location; None once it was ingested and deleted.
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
    """A job of the Media API on a room or lab.

    Attributes:
        id: A UUID.
        email: The user who started it.
        data_room_id: The room; None for a data lab.
        kind: The kind of question.
        target_kind: The kind of the resource that holds the result.
        target_id: Its partition key.
        target_version: The version that holds the result.
        options: Further options.
        cancelled: Whether it was cancelled.
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
    """Two organisations whose data are matched, or one organisation that provides both data sets.

    Attributes:
        id: `pair-` and 24 hex digits.
        organizations: Sorted.
    """

    id: str
    organizations: tuple[str, str]

    @property
    def name(self) -> str:
        """The organisations' names, for display."""
        return " + ".join(self.organizations)


@dataclass(frozen=True)
class Ledger:
    """The privacy budget of a pair of organisations, in tenths of a budget unit.

    Attributes:
        spent: Spent in the current period.
        total: The budget, refills included.
        period: `month`, or empty for the pair's lifetime.
        share: The requesting organisation's share of it; None if none was set.
        spent_of_share: Spent by that organisation in the current period.
    """

    spent: int
    total: int
    period: str = ""
    share: int | None = None
    spent_of_share: int = 0

    @property
    def left(self) -> int:
        """The budget that the requesting organisation can still spend, in tenths of a unit."""
        left = self.total - self.spent
        return max(0, left if self.share is None else min(left, self.share - self.spent_of_share))


@dataclass(frozen=True)
class LedgerLine:
    """One payment in a pair's ledger.

    Attributes:
        key: 64 hex digits, derived from content, question and price.
        kind: The kind of question, in a word.
        tenths: Its price.
        variance: σ² of its noise as a fraction; None if unknown.
        sensitivity: Squared L2 sensitivity as a fraction; None if unknown.
        place: The room or job that asked the question.
        organization: The requesting organisation.
        created_at: UTC; None until it is stored.
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
    """A change that both organisations of a pair must approve.

    Attributes:
        id: A UUID.
        pair_id: The pair.
        kind: `refill`, `period`, `share` or `full_lookalike`.
        data_room_id: The room, if it concerns one.
        tenths: The size of a refill or a share.
        organization: The organisation that gets the share.
        approved_by: The organisations that approved it.
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
        active: Whether it is still a member.
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
        members: 2 to 10, in the order given.
        seed_removed: Whether lists exclude the seed's users.
        full_ensemble: Whether jobs rank by the full ensemble.
    """

    id: str
    name: str
    created_at: datetime
    members: tuple[Member, ...]
    seed_removed: bool = False
    full_ensemble: bool = False

    def has_active(self, account_id: str) -> bool:
        """Return whether the account is an active member."""
        return Member(account_id, True) in self.members


@dataclass(frozen=True)
class AnalysisTemplate:
    """An analysis template: SQL stored in advance, to be run with parameters.

    Attributes:
        arn: In the form required by the AWS API.
        name: Unique in the account and region.
        account_id: The owner of the tables it reads.
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
class AccountBucket(RegisteredBucket):
    """A registered bucket in the catalogue.

    Attributes:
        created_at: UTC.
    """

    created_at: datetime = field(kw_only=True)


@dataclass(frozen=True)
class Claim:
    """The exclusive right of one run to work on one version.

    Attributes:
        kind: The resource's kind.
        id: The resource's partition key.
        number: The version's number.
        run_id: The holder.
        attempt: From 1; the holder of an earlier attempt has lost the claim.
        lease_seconds: How long the claim is valid without being renewed.
        lease_expires_at: UTC.
        queue_generation: The number of earlier attempts. Unlike `attempt`, which a released claim lowers, it only
            increases, so outputs of different attempts outside the catalogue can be distinguished.
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
    """A version whose claim has expired, and its new status.

    Attributes:
        version: Its current state: pending again, or failed.
        run_id: The run that held the claim.
    """

    version: Version
    run_id: str


@dataclass(frozen=True)
class ManualRequest:
    """The result of a manual "Materialize" on a partition.

    Attributes:
        action: `work`: claim and build `version`. `verify`: build nothing, but compare the artifacts of `version`
            with their manifests. `busy`: `run_id` holds it. `waiting`: it is pending and its parent is not ready;
            it will run automatically.
        version: The version concerned.
        run_id: The run that holds it, if busy.
        message: One or two sentences for the user who clicked.
    """

    action: Literal["work", "verify", "busy", "waiting"]
    version: Version
    run_id: str | None
    message: str
