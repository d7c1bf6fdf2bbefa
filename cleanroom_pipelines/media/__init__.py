"""The Python client of the data-room (Media) API.

Lives here: the client's classes and the protocol that it shares with the server.
Add here when the API gets another class or call.
Keep out: released counts (`privacy`), computation (`audiences`, `similarity`) and the web server (`server`).

Importing this package loads no engine, learner or server, so that scripts start fast.
"""

from cleanroom_pipelines.media.action import Action, CreateLookalikeAudienceAction
from cleanroom_pipelines.media.api import (
    Aggregation,
    AggregationColumn,
    AttributeDefinition,
    AudienceKind,
    AudienceType,
    BaseAudience,
    ComputeInsightsAudience,
    ComputeInsightsResult,
    CustomAudience,
    CustomAudienceDefinition,
    DataAttributesResult,
    IdType,
    InsightsRow,
    OverlapStatistic,
    OverlapStatisticsResult,
    SeedAudience,
    StalenessWarnings,
    ValidationOutcome,
    ValidationReport,
    ValidationReportV0,
)
from cleanroom_pipelines.media.api import AttributeDefinition as DataAttribute
from cleanroom_pipelines.media.api import ComputeInsightsAudience as AudienceInsights
from cleanroom_pipelines.media.api import ComputeInsightsResult as Insights
from cleanroom_pipelines.media.api import DataAttributesResult as DataAttributes
from cleanroom_pipelines.media.api import OverlapStatistic as OverlapRow
from cleanroom_pipelines.media.api import OverlapStatisticsResult as OverlapStatistics
from cleanroom_pipelines.media.audience_statistics_result import LalAudienceStatistics, ReachPoint
from cleanroom_pipelines.media.audiences import Audiences
from cleanroom_pipelines.media.client import Client, DataRoomSummary, ManifestHash, Transport
from cleanroom_pipelines.media.compute_job import (
    MediaAudiencesValidationReportJob,
    MediaAudienceUserListJob,
    MediaBaseAudienceValidationReportsJob,
    MediaComputeJob,
    MediaDataAttributesJob,
    MediaEstimateAudienceSizeJob,
    MediaGetAudiencesJob,
    MediaInsightsJob,
    MediaLookalikeAudienceStatisticsJob,
    MediaOverlapStatisticsJob,
)
from cleanroom_pipelines.media.connecting import Key, create_client
from cleanroom_pipelines.media.data_lab import (
    DataLab,
    DataLabBuilder,
    DataLabDatasetType,
    DataLabReports,
    IdentifiersConfig,
)
from cleanroom_pipelines.media.errors import (
    AmbiguousNameError,
    AudienceHasDependentsError,
    BudgetSpentError,
    ConflictError,
    DownloadDamagedError,
    InvalidDefinitionError,
    InvalidRequestError,
    JobAlreadyStartedError,
    JobCancelledError,
    JobFailedError,
    JobTimeoutError,
    MediaError,
    NotFoundError,
    NotProvisionedError,
    NotValidatedError,
    PermissionDeniedError,
    QuotaExceededError,
    ServerError,
    ServerUnavailableError,
    TooFewUsersError,
    TooManyRequestsError,
    UnauthorizedError,
    UploadTooLargeError,
    ValidationFailedError,
)
from cleanroom_pipelines.media.exclusion_targeting_audience_builder import (
    ExclusionTargetingAudienceBuilder,
    ExclusionTargetingAudienceDefinition,
)
from cleanroom_pipelines.media.lookalike_audience_builder import (
    LookalikeAudienceBuilder,
    LookalikeAudienceDefinition,
)
from cleanroom_pipelines.media.media import DataRoomAuditLog, DcrConfiguration, MediaDcr
from cleanroom_pipelines.media.participant import Participant
from cleanroom_pipelines.media.protocol import JobStatus
from cleanroom_pipelines.media.remarketing_audience_builder import (
    RemarketingAudienceBuilder,
    RemarketingAudienceDefinition,
)
from cleanroom_pipelines.media.results import (
    BudgetProposal,
    PriceEstimate,
    PrivacyBudget,
    SizeOfAudience,
    UserListDelivery,
    UserListFile,
)
from cleanroom_pipelines.media.results import SizeOfAudience as AudienceSize
from cleanroom_pipelines.media.rule_based_builder import (
    AudienceCombinator,
    AudienceCombinatorBuilder,
    AudienceFilters,
    CombineOperator,
    Filter,
    FilterOperator,
    MatchOperator,
    RuleBasedAudienceBuilder,
    RuleBasedAudienceDefinition,
)
from cleanroom_pipelines.media.validation_reports import ValidationReports
from cleanroom_pipelines.terms import CollaborationType, MatchingId, Permission

__all__ = [
    "Action",
    "Aggregation",
    "AggregationColumn",
    "AmbiguousNameError",
    "AttributeDefinition",
    "AudienceCombinator",
    "AudienceCombinatorBuilder",
    "AudienceFilters",
    "AudienceHasDependentsError",
    "AudienceInsights",
    "AudienceKind",
    "AudienceSize",
    "AudienceType",
    "Audiences",
    "BaseAudience",
    "BudgetProposal",
    "BudgetSpentError",
    "Client",
    "CollaborationType",
    "CombineOperator",
    "ComputeInsightsAudience",
    "ComputeInsightsResult",
    "ConflictError",
    "CreateLookalikeAudienceAction",
    "CustomAudience",
    "CustomAudienceDefinition",
    "DataAttribute",
    "DataAttributes",
    "DataAttributesResult",
    "DataLab",
    "DataLabBuilder",
    "DataLabDatasetType",
    "DataLabReports",
    "DataRoomAuditLog",
    "DataRoomSummary",
    "DcrConfiguration",
    "DownloadDamagedError",
    "ExclusionTargetingAudienceBuilder",
    "ExclusionTargetingAudienceDefinition",
    "Filter",
    "FilterOperator",
    "IdType",
    "IdentifiersConfig",
    "Insights",
    "InsightsRow",
    "InvalidDefinitionError",
    "InvalidRequestError",
    "JobAlreadyStartedError",
    "JobCancelledError",
    "JobFailedError",
    "JobStatus",
    "JobTimeoutError",
    "Key",
    "LalAudienceStatistics",
    "LookalikeAudienceBuilder",
    "LookalikeAudienceDefinition",
    "ManifestHash",
    "MatchOperator",
    "MatchingId",
    "MediaAudienceUserListJob",
    "MediaAudiencesValidationReportJob",
    "MediaBaseAudienceValidationReportsJob",
    "MediaComputeJob",
    "MediaDataAttributesJob",
    "MediaDcr",
    "MediaError",
    "MediaEstimateAudienceSizeJob",
    "MediaGetAudiencesJob",
    "MediaInsightsJob",
    "MediaLookalikeAudienceStatisticsJob",
    "MediaOverlapStatisticsJob",
    "NotFoundError",
    "NotProvisionedError",
    "NotValidatedError",
    "OverlapRow",
    "OverlapStatistic",
    "OverlapStatistics",
    "OverlapStatisticsResult",
    "Participant",
    "Permission",
    "PermissionDeniedError",
    "PriceEstimate",
    "PrivacyBudget",
    "QuotaExceededError",
    "ReachPoint",
    "RemarketingAudienceBuilder",
    "RemarketingAudienceDefinition",
    "RuleBasedAudienceBuilder",
    "RuleBasedAudienceDefinition",
    "SeedAudience",
    "ServerError",
    "ServerUnavailableError",
    "SizeOfAudience",
    "StalenessWarnings",
    "TooFewUsersError",
    "TooManyRequestsError",
    "Transport",
    "UnauthorizedError",
    "UploadTooLargeError",
    "UserListDelivery",
    "UserListFile",
    "ValidationFailedError",
    "ValidationOutcome",
    "ValidationReport",
    "ValidationReportV0",
    "ValidationReports",
    "create_client",
]
