"""The lookalike assets: from an interactions table to an exported audience.

Lives here: the six assets of group `lookalike`. An asset only calls its builder and returns metadata.
Add here when the lookalike pipeline gets another step.
Keep out: building (runs.building_lookalike) and metadata (defs.pages).
"""

import dagster as dg

from cleanroom_pipelines.defs.declaring import ADVERTISER, HEAVY, PUBLISHER, asset
from cleanroom_pipelines.defs.materializing import Results, materialize
from cleanroom_pipelines.defs.resources import InstallationResource
from cleanroom_pipelines.runs import building_lookalike

_GROUP = "lookalike"


@asset(_GROUP, PUBLISHER, {"duckdb", "pandera", "parquet"})
def training_dataset(context: dg.AssetExecutionContext, installation: InstallationResource) -> Results:
    """A publisher's interactions table, validated against its declared columns and profiled."""
    yield from materialize(context, installation.open(), building_lookalike.build_training_dataset)


@asset(_GROUP, PUBLISHER, {"duckdb", "scikitlearn", "python"}, deps=["training_dataset"], pool=HEAVY)
def audience_model(context: dg.AssetExecutionContext, installation: InstallationResource) -> Results:
    """Similarity model of all users in a dataset and time window, trained without any seed."""
    yield from materialize(context, installation.open(), building_lookalike.build_audience_model)


@asset(_GROUP, PUBLISHER, {"python"}, deps=["audience_model"])
def configured_audience_model(context: dg.AssetExecutionContext, installation: InstallationResource) -> Results:
    """A model with its permitted uses: audience sizes, smallest seed, shared metrics and export destination."""
    yield from materialize(context, installation.open(), building_lookalike.build_configured_audience_model)


@asset(_GROUP, ADVERTISER, {"duckdb", "pandera"}, deps=["configured_audience_model"])
def seed_validation_report(context: dg.AssetExecutionContext, installation: InstallationResource) -> Results:
    """Validation of an advertiser's seed, in counts only, and the number of its users that are in the model."""
    # the assets of the whole job; the context lists only this step's
    follows = dg.AssetKey("audience") in context.job_def.asset_layer.selected_asset_keys
    yield from materialize(
        context, installation.open(), building_lookalike.build_seed_validation_report, audience_follows=follows
    )


@asset(
    _GROUP,
    PUBLISHER,
    {"lightgbm", "scikitlearn", "parquet"},
    deps=["seed_validation_report", "configured_audience_model", "audience_model"],
    pool=HEAVY,
)
def audience(context: dg.AssetExecutionContext, installation: InstallationResource) -> Results:
    """All training users ranked by similarity to a seed, with the quality of the ranking."""
    yield from materialize(context, installation.open(), building_lookalike.build_audience)


@asset(_GROUP, PUBLISHER, {"duckdb", "file"}, deps=["audience"])
def audience_export(context: dg.AssetExecutionContext, installation: InstallationResource) -> Results:
    """The users most similar to the seed, at one allowed size, exported without scores."""
    yield from materialize(context, installation.open(), building_lookalike.build_audience_export)
