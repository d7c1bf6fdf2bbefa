"""Asset checks: conditions every partition of an asset must meet.

Lives here: one check per guarantee. A check reads stored results and recomputes nothing.
Add here when an asset gets another guarantee.
Keep out: catching errors. A check that cannot be evaluated fails.
"""

import dagster as dg

from cleanroom_pipelines.catalog import AudienceModel, Kind
from cleanroom_pipelines.defs.assets.lookalike import (
    audience,
    audience_export,
    audience_model,
    seed_validation_report,
    training_dataset,
)
from cleanroom_pipelines.defs.declaring import PARTITIONS
from cleanroom_pipelines.defs.failing import in_words
from cleanroom_pipelines.defs.resources import InstallationResource
from cleanroom_pipelines.runs.artifact_documents import newest_artifact
from cleanroom_pipelines.runs.building_lookalike import verify_exported_files
from cleanroom_pipelines.runs.drift import drift_of, recorded_drift
from cleanroom_pipelines.runs.situation import lateness_of


@dg.asset_check(asset=training_dataset, blocking=True, partitions_def=PARTITIONS[Kind.TRAINING_DATASET])
@in_words
def dataset_is_valid(
    context: dg.AssetCheckExecutionContext, installation: InstallationResource
) -> dg.AssetCheckResult:
    """The table has its declared columns, at most the allowed share of bad rows, and enough users."""
    _, documents = newest_artifact(
        installation.open(), Kind.TRAINING_DATASET, context.partition_key, "training_dataset"
    )
    report = documents["report"]["report"]
    return dg.AssetCheckResult(
        passed=report["outcome"] == "PASSED",
        metadata={"rows": report["numRowsTotal"], "invalid rows": report["numInvalidRowsTotal"]},
    )


@dg.asset_check(asset=seed_validation_report, blocking=True, partitions_def=PARTITIONS[Kind.GENERATION_JOB])
@in_words
def seed_is_usable(
    context: dg.AssetCheckExecutionContext, installation: InstallationResource
) -> dg.AssetCheckResult:
    """The seed is valid and enough of its users are in the model; otherwise no audience is built."""
    _, documents = newest_artifact(
        installation.open(), Kind.GENERATION_JOB, context.partition_key, "seed_validation_report"
    )
    outcome = documents["outcome"]
    return dg.AssetCheckResult(
        passed=outcome["usable"],
        metadata={"status code": str(outcome["statusCode"]), "message": str(outcome["message"])},
    )


@dg.asset_check(asset=audience, partitions_def=PARTITIONS[Kind.GENERATION_JOB])
@in_words
def recall_beats_chance(
    context: dg.AssetCheckExecutionContext, installation: InstallationResource
) -> dg.AssetCheckResult:
    """The recall is better than a random ranking's, even at the lower end of its confidence interval."""
    _, documents = newest_artifact(installation.open(), Kind.GENERATION_JOB, context.partition_key, "audience")
    main = documents["metrics"]["recall_at"]
    return dg.AssetCheckResult(
        passed=main["recall_interval"][0] > main["recall_random"],
        severity=dg.AssetCheckSeverity.WARN,
        metadata={
            "size": main["size"],
            "recall, lower confidence bound": main["recall_interval"][0],
            "recall of a random ranking": main["recall_random"],
        },
    )


@dg.asset_check(asset=audience_model, partitions_def=PARTITIONS[Kind.AUDIENCE_MODEL])
@in_words
def model_is_like_the_one_before(
    context: dg.AssetCheckExecutionContext, installation: InstallationResource
) -> dg.AssetCheckResult:
    """The numbers of users and items changed by at most 20 % since the previous version."""
    sentence = drift_of(installation.open(), context.partition_key)
    return dg.AssetCheckResult(
        passed=not sentence, severity=dg.AssetCheckSeverity.WARN, description=sentence or None
    )


@dg.asset_check(asset=audience_model, partitions_def=PARTITIONS[Kind.AUDIENCE_MODEL])
@in_words
def model_is_fresh(
    context: dg.AssetCheckExecutionContext, installation: InstallationResource
) -> dg.AssetCheckResult:
    """The model's declared refreshes succeed on time. The sensor start_page repeats this check after a change."""
    opened = installation.open()
    model = opened.catalog.get(AudienceModel, context.partition_key)
    sentence = lateness_of(opened, model)
    due = model.next_refresh_at
    next_refresh = f"Next refresh: {due:%Y-%m-%d %H:%M} UTC." if due else "No refresh is declared."
    return dg.AssetCheckResult(passed=not sentence, description=sentence or next_refresh)


@dg.asset_check(asset=audience, partitions_def=PARTITIONS[Kind.GENERATION_JOB])
@in_words
def audience_is_like_the_one_before(
    context: dg.AssetCheckExecutionContext, installation: InstallationResource
) -> dg.AssetCheckResult:
    """Since the previous version, matched users changed by at most 20 %, and recall changed only slightly."""
    sentence = recorded_drift(installation.open(), Kind.GENERATION_JOB, context.partition_key)
    return dg.AssetCheckResult(
        passed=not sentence, severity=dg.AssetCheckSeverity.WARN, description=sentence or None
    )


@dg.asset_check(asset=audience_export, partitions_def=PARTITIONS[Kind.EXPORT_JOB])
@in_words
def export_is_like_the_one_before(
    context: dg.AssetCheckExecutionContext, installation: InstallationResource
) -> dg.AssetCheckResult:
    """In an export that also lists changes, at most half of the users are new since the previous export."""
    sentence = recorded_drift(installation.open(), Kind.EXPORT_JOB, context.partition_key)
    return dg.AssetCheckResult(
        passed=not sentence, severity=dg.AssetCheckSeverity.WARN, description=sentence or None
    )


@dg.asset_check(asset=audience_export, partitions_def=PARTITIONS[Kind.EXPORT_JOB])
@in_words
def export_matches_manifest(
    context: dg.AssetCheckExecutionContext, installation: InstallationResource
) -> dg.AssetCheckResult:
    """Every exported file matches the manifest, and together the files contain all delivered users."""
    opened = installation.open()
    manifest, _ = newest_artifact(opened, Kind.EXPORT_JOB, context.partition_key, "audience_export")
    delivered = verify_exported_files(opened, context.partition_key, manifest)
    return dg.AssetCheckResult(passed=True, metadata={"users": delivered})


@dg.asset_check(asset="base_audience", blocking=True, partitions_def=PARTITIONS[Kind.DATA_ROOM])
@in_words
def base_is_usable(
    context: dg.AssetCheckExecutionContext, installation: InstallationResource
) -> dg.AssetCheckResult:
    """Every dataset of the base audience passed its validation."""
    _, documents = newest_artifact(installation.open(), Kind.DATA_ROOM, context.partition_key, "base_audience")
    outcomes = {name: report["report"]["outcome"] for name, report in documents["reports"].items()}
    return dg.AssetCheckResult(passed=set(outcomes.values()) == {"PASSED"}, metadata=outcomes)


@dg.asset_check(asset="seed_audiences", blocking=True, partitions_def=PARTITIONS[Kind.DATA_ROOM])
@in_words
def seeds_are_usable(
    context: dg.AssetCheckExecutionContext, installation: InstallationResource
) -> dg.AssetCheckResult:
    """The seed audiences passed their validation."""
    _, documents = newest_artifact(installation.open(), Kind.DATA_ROOM, context.partition_key, "seed_audiences")
    outcome = documents["report"]["report"]["outcome"]
    return dg.AssetCheckResult(passed=outcome == "PASSED", metadata={"outcome": outcome})
