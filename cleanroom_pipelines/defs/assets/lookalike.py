"""The lookalike road: from an interactions table to an exported audience.

Lives here: the six assets of group `lookalike`. A body is a translation: who runs → core call → what to show.
Add here when the road gets a further station.
Keep out: what is made (runs.building) and how it is shown (defs.pages).
"""

import dagster as dg

from cleanroom_pipelines.defs.declaring import ADVERTISER, HEAVY, PUBLISHER, WEEKLY, asset
from cleanroom_pipelines.defs.materializing import Results, materialize
from cleanroom_pipelines.defs.resources import InstallationResource
from cleanroom_pipelines.runs import building

_GROUP = "lookalike"


@asset(_GROUP, PUBLISHER, {"duckdb", "pandera", "parquet"}, freshness=WEEKLY)
def training_dataset(context: dg.AssetExecutionContext, installation: InstallationResource) -> Results:
    """A publisher's interactions table, validated against its declared columns and profiled."""
    yield from materialize(context, installation.open(), building.build_training_dataset)


@asset(
    _GROUP, PUBLISHER, {"duckdb", "scikitlearn", "python"}, freshness=WEEKLY, deps=["training_dataset"], pool=HEAVY
)
def audience_model(context: dg.AssetExecutionContext, installation: InstallationResource) -> Results:
    """What the similarity model learnt of all users of a dataset and window, before any seed is known."""
    yield from materialize(context, installation.open(), building.build_audience_model)


@asset(_GROUP, PUBLISHER, {"python"}, freshness=WEEKLY, deps=["audience_model"])
def configured_audience_model(context: dg.AssetExecutionContext, installation: InstallationResource) -> Results:
    """A model with what is allowed of it: audience sizes, smallest seed, what is shared, where exports go."""
    yield from materialize(context, installation.open(), building.build_configured_audience_model)


@asset(_GROUP, ADVERTISER, {"duckdb", "pandera"}, deps=["configured_audience_model"])
def seed_validation_report(context: dg.AssetExecutionContext, installation: InstallationResource) -> Results:
    """What is right and wrong with an advertiser's seed, in counts only, and how many of it are known."""
    # the whole job's assets; those of the context are this step's alone
    follows = dg.AssetKey("audience") in context.job_def.asset_layer.selected_asset_keys
    yield from materialize(
        context, installation.open(), building.build_seed_validation_report, audience_follows=follows
    )


@asset(
    _GROUP,
    PUBLISHER,
    {"lightgbm", "scikitlearn", "parquet"},
    deps=["seed_validation_report", "configured_audience_model", "audience_model"],
    pool=HEAVY,
)
def audience(context: dg.AssetExecutionContext, installation: InstallationResource) -> Results:
    """All training users ranked by their similarity to a seed, with how good the ranking is."""
    yield from materialize(context, installation.open(), building.build_audience)


@asset(_GROUP, PUBLISHER, {"duckdb", "file"}, deps=["audience"])
def audience_export(context: dg.AssetExecutionContext, installation: InstallationResource) -> Results:
    """The users most similar to the seed at one allowed size, written to their destination without scores."""
    yield from materialize(context, installation.open(), building.build_audience_export)
