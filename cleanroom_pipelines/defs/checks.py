"""Asset checks: conditions every partition of an asset must meet.

Lives here: one check per guarantee. A check reads stored results and recomputes nothing.
Add here when an asset gets another guarantee.
Keep out: catching errors. A check that cannot be evaluated fails.
"""

from collections.abc import Callable
from typing import Any

import dagster as dg

from cleanroom_pipelines.catalog import AudienceModel, Kind
from cleanroom_pipelines.defs.declaring import PARTITIONS, in_words
from cleanroom_pipelines.defs.resources import InstallationResource
from cleanroom_pipelines.runs.artifact_documents import newest_artifact
from cleanroom_pipelines.runs.building_lookalike import verify_exported_files
from cleanroom_pipelines.runs.drift import drift_of, recorded_drift
from cleanroom_pipelines.runs.installation import Installation
from cleanroom_pipelines.runs.kinds import ASSETS
from cleanroom_pipelines.runs.situation import lateness_of


def check(
    asset: str, *, blocking: bool = False
) -> Callable[[Callable[[Installation, str], dg.AssetCheckResult]], dg.AssetChecksDefinition]:
    """Declare a function, which takes the installation and a partition key, as a check of an asset.

    The docstring becomes the description.

    Args:
        asset: Name of the asset.
        blocking: Whether assets downstream are not built if the check fails.
    """

    def declare(evaluate: Callable[[Installation, str], dg.AssetCheckResult]) -> dg.AssetChecksDefinition:
        @dg.asset_check(
            asset=asset,
            name=evaluate.__name__,
            description=evaluate.__doc__,
            blocking=blocking,
            partitions_def=PARTITIONS[ASSETS[asset].kind],
        )
        @in_words
        def call(
            context: dg.AssetCheckExecutionContext, installation: InstallationResource
        ) -> dg.AssetCheckResult:
            return evaluate(installation.open(), context.partition_key)

        return call

    return declare


@check("training_dataset", blocking=True)
def dataset_is_valid(installation: Installation, partition: str) -> dg.AssetCheckResult:
    """The table has its declared columns, at most the allowed share of bad rows, and enough users."""
    report = _documents(installation, "training_dataset", partition)["report"]["report"]
    return dg.AssetCheckResult(
        passed=report["outcome"] == "PASSED",
        metadata={"rows": report["numRowsTotal"], "invalid rows": report["numInvalidRowsTotal"]},
    )


@check("seed_validation_report", blocking=True)
def seed_is_usable(installation: Installation, partition: str) -> dg.AssetCheckResult:
    """The seed is valid and enough of its users are in the model; otherwise no audience is built."""
    outcome = _documents(installation, "seed_validation_report", partition)["outcome"]
    return dg.AssetCheckResult(
        passed=outcome["usable"],
        metadata={"status code": str(outcome["statusCode"]), "message": str(outcome["message"])},
    )


@check("audience")
def recall_beats_chance(installation: Installation, partition: str) -> dg.AssetCheckResult:
    """The recall is better than a random ranking's, even at the lower end of its confidence interval."""
    main = _documents(installation, "audience", partition)["metrics"]["recall_at"]
    return dg.AssetCheckResult(
        passed=main["recall_interval"][0] > main["recall_random"],
        severity=dg.AssetCheckSeverity.WARN,
        metadata={
            "size": main["size"],
            "recall, lower confidence bound": main["recall_interval"][0],
            "recall of a random ranking": main["recall_random"],
        },
    )


@check("audience_model")
def model_is_like_the_one_before(installation: Installation, partition: str) -> dg.AssetCheckResult:
    """The numbers of users and items changed by at most 20 % since the previous version."""
    return _without(drift_of(installation, partition))


@check("audience_model")
def model_is_fresh(installation: Installation, partition: str) -> dg.AssetCheckResult:
    """The model's declared refreshes succeed on time. The sensor start_page repeats this check after a change."""
    model = installation.catalog.get(AudienceModel, partition)
    sentence = lateness_of(installation, model)
    due = model.next_refresh_at
    next_refresh = f"Next refresh: {due:%Y-%m-%d %H:%M} UTC." if due else "No refresh is declared."
    return dg.AssetCheckResult(passed=not sentence, description=sentence or next_refresh)


@check("audience")
def audience_is_like_the_one_before(installation: Installation, partition: str) -> dg.AssetCheckResult:
    """Since the previous version, matched users changed by at most 20 %, and recall changed only slightly."""
    return _without(recorded_drift(installation, Kind.GENERATION_JOB, partition))


@check("audience_export")
def export_is_like_the_one_before(installation: Installation, partition: str) -> dg.AssetCheckResult:
    """In an export that also lists changes, at most half of the users are new since the previous export."""
    return _without(recorded_drift(installation, Kind.EXPORT_JOB, partition))


@check("audience_export")
def export_matches_manifest(installation: Installation, partition: str) -> dg.AssetCheckResult:
    """Every exported file matches the manifest, and together the files contain all delivered users."""
    manifest, _ = newest_artifact(installation, Kind.EXPORT_JOB, partition, "audience_export")
    delivered = verify_exported_files(installation, partition, manifest)
    return dg.AssetCheckResult(passed=True, metadata={"users": delivered})


@check("base_audience", blocking=True)
def base_is_usable(installation: Installation, partition: str) -> dg.AssetCheckResult:
    """Every dataset of the base audience passed its validation."""
    reports = _documents(installation, "base_audience", partition)["reports"]
    outcomes = {name: report["report"]["outcome"] for name, report in reports.items()}
    return dg.AssetCheckResult(passed=set(outcomes.values()) == {"PASSED"}, metadata=outcomes)


@check("seed_audiences", blocking=True)
def seeds_are_usable(installation: Installation, partition: str) -> dg.AssetCheckResult:
    """The seed audiences passed their validation."""
    outcome = _documents(installation, "seed_audiences", partition)["report"]["report"]["outcome"]
    return dg.AssetCheckResult(passed=outcome == "PASSED", metadata={"outcome": outcome})


def _documents(installation: Installation, asset: str, partition: str) -> dict[str, Any]:
    return newest_artifact(installation, ASSETS[asset].kind, partition, asset)[1]


def _without(drift: str) -> dg.AssetCheckResult:
    """Return a check result: a warning with the sentence about drift, or a pass if the sentence is empty."""
    return dg.AssetCheckResult(passed=not drift, severity=dg.AssetCheckSeverity.WARN, description=drift or None)
