"""Handlers by operation name, for the lookalike (AWS) API and the API that reads collaborations.

Lives here: all handlers by operation name.
Add here when AWS adds an operation.
Keep out: the handlers themselves (`operations`).
"""

from collections.abc import Mapping

from cleanroom_pipelines.aws.model import COLLABORATIONS, SERVICE
from cleanroom_pipelines.aws.operations import (
    audience_models,
    collaborations,
    configured_audience_models,
    generation_jobs,
    tags,
    training_datasets,
)
from cleanroom_pipelines.aws.operations.endpoint import Operation

OPERATIONS: Mapping[str, Operation] = {
    "CreateTrainingDataset": training_datasets.create,
    "GetTrainingDataset": training_datasets.get,
    "ListTrainingDatasets": training_datasets.list_all,
    "DeleteTrainingDataset": training_datasets.delete,
    "CreateAudienceModel": audience_models.create,
    "GetAudienceModel": audience_models.get,
    "ListAudienceModels": audience_models.list_all,
    "DeleteAudienceModel": audience_models.delete,
    "CreateConfiguredAudienceModel": configured_audience_models.create,
    "GetConfiguredAudienceModel": configured_audience_models.get,
    "UpdateConfiguredAudienceModel": configured_audience_models.update,
    "ListConfiguredAudienceModels": configured_audience_models.list_all,
    "DeleteConfiguredAudienceModel": configured_audience_models.delete,
    "PutConfiguredAudienceModelPolicy": configured_audience_models.put_policy,
    "GetConfiguredAudienceModelPolicy": configured_audience_models.get_policy,
    "DeleteConfiguredAudienceModelPolicy": configured_audience_models.delete_policy,
    "StartAudienceGenerationJob": generation_jobs.start,
    "GetAudienceGenerationJob": generation_jobs.get,
    "ListAudienceGenerationJobs": generation_jobs.list_all,
    "DeleteAudienceGenerationJob": generation_jobs.delete,
    "StartAudienceExportJob": generation_jobs.start_export,
    "ListAudienceExportJobs": generation_jobs.list_exports,
    "TagResource": tags.tag,
    "UntagResource": tags.untag,
    "ListTagsForResource": tags.list_for_resource,
}

HANDLERS: Mapping[str, Mapping[str, Operation]] = {
    SERVICE: OPERATIONS,
    COLLABORATIONS: {
        "ListCollaborations": collaborations.list_all,
        "GetCollaboration": collaborations.get,
        "ListMembers": collaborations.list_members,
        "ListCollaborationAnalysisTemplates": collaborations.list_templates,
        "ListMemberships": collaborations.list_memberships,
        "GetMembership": collaborations.get_membership,
    },
}
"""The handlers by service name, as in signatures, and then by operation name."""
