"""The catalogue: what exists, what is to be done, and who is doing it.

Lives here: `Catalog`, the control plane's one face, put together from its parts, and the records it gives.
Add here when a part is added.
Keep out: Dagster, files, clocks and settings; they come in.
"""

from cleanroom_pipelines.catalog.claims import LEASE_SECONDS, MAX_ATTEMPTS, RESERVED_SECONDS, Claims
from cleanroom_pipelines.catalog.creation import Creation
from cleanroom_pipelines.catalog.database import CatalogUnavailableError
from cleanroom_pipelines.catalog.deletion import GOES_WITH
from cleanroom_pipelines.catalog.dossiers import (
    Dossier,
    Dossiers,
    ProvenResource,
    ProvenVersion,
    Rebuilt,
    is_proof,
)
from cleanroom_pipelines.catalog.holding import Holding, holding
from cleanroom_pipelines.catalog.identity import Identities
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
from cleanroom_pipelines.catalog.options import (
    ChildTagPolicy,
    ExportFormat,
    Origin,
    ShareMetrics,
)
from cleanroom_pipelines.catalog.overview import Overview
from cleanroom_pipelines.catalog.pairs import Pairs
from cleanroom_pipelines.catalog.parties import Parties
from cleanroom_pipelines.catalog.policies import Policies
from cleanroom_pipelines.catalog.queue import Lane
from cleanroom_pipelines.catalog.records import (
    RECORDS,
    AccessKey,
    Account,
    AnalysisTemplate,
    AudienceList,
    AudienceModel,
    Bucket,
    ByHand,
    Cause,
    Claim,
    Collaboration,
    ConfiguredAtStart,
    ConfiguredAudienceModel,
    CustomAudience,
    DataLab,
    DataRoom,
    ExportJob,
    GenerationJob,
    Ledger,
    LedgerLine,
    Member,
    Page,
    Pair,
    ParentRef,
    Proposal,
    Reaped,
    Resource,
    RoomJob,
    SeenJob,
    SeenJobs,
    Stage,
    Status,
    Token,
    TrainingDataset,
    Upload,
    User,
    Version,
    configured_at_start,
)
from cleanroom_pipelines.catalog.room_audiences import RoomAudiences
from cleanroom_pipelines.catalog.room_specs import (
    AudienceListSpec,
    CustomAudienceSpec,
    DataLabSpec,
    DataRoomSpec,
    ParticipantSpec,
)
from cleanroom_pipelines.catalog.rooms import Rooms
from cleanroom_pipelines.catalog.spec_digests import spec_digest
from cleanroom_pipelines.catalog.specs import (
    LARGEST,
    AudienceModelSpec,
    Columns,
    ConfiguredAudienceModelSpec,
    ExportJobSpec,
    GenerationJobSpec,
    RequestedSeed,
    Spec,
    Starter,
    TrainingDatasetSpec,
)
from cleanroom_pipelines.catalog.tombstones import SEED, UPLOAD, Tombstones, hex_of
from cleanroom_pipelines.catalog.users import Users
from cleanroom_pipelines.catalog.work import Work
from cleanroom_pipelines.catalog.workers import Workers


class Catalog(
    Creation,
    Work,
    JobViews,
    Workers,
    Overview,
    Parties,
    Policies,
    Users,
    Rooms,
    RoomAudiences,
    Pairs,
    Identities,
    Tombstones,
    Dossiers,
):
    """The control plane: the truth about resources, their versions and who works on them.

    Safe to use from several threads and processes, to pickle and to take across a fork. The schema is brought up
    to date on first use.
    """


__all__ = [
    "GOES_WITH",
    "LARGEST",
    "LEASE_SECONDS",
    "LOCAL_ACCOUNT",
    "LOCAL_REGION",
    "MAX_ATTEMPTS",
    "RECORDS",
    "RESERVED_SECONDS",
    "SEED",
    "UPLOAD",
    "AccessKey",
    "Account",
    "AnalysisTemplate",
    "ArnParts",
    "AudienceList",
    "AudienceListSpec",
    "AudienceModel",
    "AudienceModelSpec",
    "Bucket",
    "ByHand",
    "Catalog",
    "CatalogUnavailableError",
    "Cause",
    "ChildTagPolicy",
    "Claim",
    "Claims",
    "Collaboration",
    "Columns",
    "ConfiguredAtStart",
    "ConfiguredAudienceModel",
    "ConfiguredAudienceModelSpec",
    "CustomAudience",
    "CustomAudienceSpec",
    "DataLab",
    "DataLabSpec",
    "DataRoom",
    "DataRoomSpec",
    "Dossier",
    "ExportFormat",
    "ExportJob",
    "ExportJobSpec",
    "GenerationJob",
    "GenerationJobSpec",
    "Holding",
    "Kind",
    "Lane",
    "Ledger",
    "LedgerLine",
    "Member",
    "Origin",
    "Page",
    "Pair",
    "ParentRef",
    "ParticipantSpec",
    "Proposal",
    "ProvenResource",
    "ProvenVersion",
    "Reaped",
    "Rebuilt",
    "RequestedSeed",
    "Resource",
    "RoomJob",
    "SeenJob",
    "SeenJobs",
    "ShareMetrics",
    "Spec",
    "Stage",
    "Starter",
    "Status",
    "Token",
    "TrainingDataset",
    "TrainingDatasetSpec",
    "Upload",
    "User",
    "Version",
    "configured_at_start",
    "hex_of",
    "holding",
    "is_proof",
    "make_arn",
    "parse_arn",
    "partition_key",
    "slug",
    "spec_digest",
]
