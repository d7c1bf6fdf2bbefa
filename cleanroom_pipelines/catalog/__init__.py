"""The catalogue: what exists, what is to be done, and who is doing it.

Lives here: `Catalog`, the control plane's one face, put together from its parts, and the records it gives.
Add here when a part is added.
Keep out: Dagster, files, clocks and settings; they come in.
"""

from cleanroom_pipelines.catalog.claims import LEASE_SECONDS, MAX_ATTEMPTS, Claims
from cleanroom_pipelines.catalog.creation import Creation
from cleanroom_pipelines.catalog.database import CatalogUnavailableError
from cleanroom_pipelines.catalog.deletion import Deletion
from cleanroom_pipelines.catalog.holding import Holding, holding
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
from cleanroom_pipelines.catalog.records import (
    AudienceModel,
    ByHand,
    Cause,
    Claim,
    ConfiguredAudienceModel,
    ExportJob,
    GenerationJob,
    Page,
    ParentRef,
    Reaped,
    Resource,
    Status,
    TrainingDataset,
    Version,
)
from cleanroom_pipelines.catalog.specs import (
    LARGEST,
    AudienceModelSpec,
    Columns,
    ConfiguredAudienceModelSpec,
    ExportJobSpec,
    GenerationJobSpec,
    Spec,
    TrainingDatasetSpec,
    spec_digest,
)
from cleanroom_pipelines.catalog.work import Work
from cleanroom_pipelines.catalog.workers import Workers


class Catalog(Creation, Work, Deletion, Workers, Overview):
    """The control plane: the truth about resources, their versions and who works on them.

    Safe to use from several threads and processes, to pickle and to take across a fork. The schema is brought up
    to date on first use.
    """


__all__ = [
    "LARGEST",
    "LEASE_SECONDS",
    "LOCAL_ACCOUNT",
    "LOCAL_REGION",
    "MAX_ATTEMPTS",
    "ArnParts",
    "AudienceModel",
    "AudienceModelSpec",
    "ByHand",
    "Catalog",
    "CatalogUnavailableError",
    "Cause",
    "ChildTagPolicy",
    "Claim",
    "Claims",
    "Columns",
    "ConfiguredAudienceModel",
    "ConfiguredAudienceModelSpec",
    "ExportFormat",
    "ExportJob",
    "ExportJobSpec",
    "GenerationJob",
    "GenerationJobSpec",
    "Holding",
    "Kind",
    "Origin",
    "Page",
    "ParentRef",
    "Reaped",
    "Resource",
    "ShareMetrics",
    "Spec",
    "Status",
    "TrainingDataset",
    "TrainingDatasetSpec",
    "Version",
    "holding",
    "make_arn",
    "parse_arn",
    "partition_key",
    "slug",
    "spec_digest",
]
