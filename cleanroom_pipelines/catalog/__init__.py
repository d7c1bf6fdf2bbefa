"""The catalogue: stores resources, their versions, pending work, and the claims of runs on that work.

Lives here: `Catalog`, through which all other packages use the catalogue, and the records it returns.
Add here when the catalogue gets another part.
Keep out: Dagster, files, clocks and settings; callers pass them in.
"""

from collections.abc import Callable
from contextlib import suppress
from datetime import datetime

from sqlalchemy import URL

from cleanroom_pipelines.catalog.channels import Channel, Command, Mail, Webhook
from cleanroom_pipelines.catalog.claims import (
    LEASE_SECONDS,
    MAX_ATTEMPTS,
    RESERVED_SECONDS,
    Claims,
    Holding,
    holding,
)
from cleanroom_pipelines.catalog.creation import Creation
from cleanroom_pipelines.catalog.database import CatalogUnavailableError, Database
from cleanroom_pipelines.catalog.deletion import DELETED_WITH, SEED, UPLOAD, Deletion, hex_of
from cleanroom_pipelines.catalog.dossiers import (
    Dossier,
    Dossiers,
    ProvenResource,
    ProvenVersion,
    Rebuilt,
    is_proof,
)
from cleanroom_pipelines.catalog.identity import Ownership
from cleanroom_pipelines.catalog.job_views import JobViews
from cleanroom_pipelines.catalog.names import (
    LOCAL_ACCOUNT,
    LOCAL_REGION,
    ArnParts,
    Kind,
    make_arn,
    parse_arn,
    partition_key,
    slug,
)
from cleanroom_pipelines.catalog.notices import NoticeOutcome, NoticeReceiver, Notices
from cleanroom_pipelines.catalog.overview import Overview
from cleanroom_pipelines.catalog.pairs import Pairs
from cleanroom_pipelines.catalog.parties import Parties
from cleanroom_pipelines.catalog.records import (
    OPEN,
    RECORDS,
    AccessKey,
    Account,
    AccountBucket,
    AnalysisTemplate,
    AudienceList,
    AudienceModel,
    Cause,
    Claim,
    Collaboration,
    ConfiguredAtStart,
    ConfiguredAudienceModel,
    ConsoleSession,
    CustomAudience,
    DataLab,
    DataRoom,
    ExportJob,
    GenerationJob,
    JobView,
    Ledger,
    LedgerLine,
    LinkPurpose,
    Member,
    NewPasskey,
    Page,
    Pair,
    ParentRef,
    Passkey,
    Proposal,
    Resource,
    RoomJob,
    SignInLink,
    Stage,
    Status,
    Token,
    TrainingDataset,
    Upload,
    User,
    Version,
    configured_at_start,
)
from cleanroom_pipelines.catalog.resources import R
from cleanroom_pipelines.catalog.room_specs import (
    AudienceListSpec,
    CustomAudienceSpec,
    DataLabSpec,
    DataRoomSpec,
    ParticipantSpec,
    spec_digest,
)
from cleanroom_pipelines.catalog.rooms import Rooms
from cleanroom_pipelines.catalog.sessions import SignIn
from cleanroom_pipelines.catalog.specs import (
    LARGEST,
    AudienceModelSpec,
    ChildTagPolicy,
    ConfiguredAudienceModelSpec,
    ExportFormat,
    ExportJobSpec,
    GenerationJobSpec,
    Origin,
    RequestedSeed,
    ShareMetrics,
    Spec,
    Starter,
    TrainingDatasetSpec,
)
from cleanroom_pipelines.catalog.users import Users
from cleanroom_pipelines.catalog.work import Lane, Scheduling
from cleanroom_pipelines.errors import NotFoundError
from cleanroom_pipelines.uploads.roles import Role
from cleanroom_pipelines.uploads.seed_files import MIN_SEED_IDS


class _Resources(Creation, Overview):
    """The catalogue's methods for resources, versions and tags."""


class Catalog:
    """The source of truth about resources, their versions and the runs that work on them.

    Safe to use from several threads and processes, to pickle and to use after a fork. The schema is migrated on
    first use.

    Args:
        url: See `Database`; so are the other arguments.
        clock: Returns the current time.
        token_hex: Returns random hex digits.
        seed_floor: The smallest `min_matching_seed_size` that may be configured.
        server_clock: Whether leases are measured by the database server's clock.
        on_generation: Called with each raised generation.

    Attributes:
        database: The connection.
        resources: Resources, their versions and their tags.
        deletion: Deletions in progress, and tombstones of finished ones.
        work: Pending work, claims and workers.
        rooms: Data rooms: uploads, provisioning, jobs and audiences.
        parties: Accounts, collaborations, templates, buckets and policies.
        users: Users of the Media API and their tokens.
        sign_in: Their passwords, passkeys, sign-in links and sessions in the console.
        pairs: Pairs of organisations and their privacy ledgers.
        job_views: Cross-account jobs, as each of their two accounts sees them.
        dossiers: Whole resources, for rebuilding a catalogue from manifests.
        notices: Receivers of notices.
        ownership: The installation that this catalogue belongs to.
    """

    def __init__(
        self,
        url: str | URL,
        *,
        clock: Callable[[], datetime],
        token_hex: Callable[[int], str],
        seed_floor: int = MIN_SEED_IDS,
        server_clock: bool = False,
        on_generation: Callable[[int], None] | None = None,
    ) -> None:
        self.database = Database(
            url,
            clock=clock,
            token_hex=token_hex,
            seed_floor=seed_floor,
            server_clock=server_clock,
            on_generation=on_generation,
        )
        self.resources = _Resources(self.database)
        self.deletion = Deletion(self.database)
        self.work = Scheduling(self.database)
        self.rooms = Rooms(self.database)
        self.parties = Parties(self.database)
        self.users = Users(self.database)
        self.sign_in = SignIn(self.database)
        self.pairs = Pairs(self.database)
        self.job_views = JobViews(self.database)
        self.dossiers = Dossiers(self.database)
        self.notices = Notices(self.database)
        self.ownership = Ownership(self.database)

    def __repr__(self) -> str:
        return f"Catalog({self.database!r})"

    def get(self, of: type[R], resource_id: str, account_id: str | None = None, region: str | None = None) -> R:
        """Return a resource by its partition key, as a record of the given class; see `Resources.get`."""
        return self.resources.get(of, resource_id, account_id, region)

    def user_id_column(self, configured: ConfiguredAudienceModel) -> str:
        """Return the name of the USER_ID column in a model's dataset; empty if the dataset was deleted."""
        with suppress(NotFoundError):
            model = self.get(AudienceModel, configured.audience_model_id)
            dataset = self.get(TrainingDataset, model.training_dataset_id)
            return next(name for name, role in dataset.columns if role is Role.USER_ID)
        return ""
