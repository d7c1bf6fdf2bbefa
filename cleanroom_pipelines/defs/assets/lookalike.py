"""The lookalike road: from an interactions table to an exported audience.

Lives here: the six assets of group `lookalike`. A body is a translation: who runs → core call → what to show.
Add here when the road gets a further station.
Keep out: what is made (execution.making) and how it is shown (defs.pages).
"""

from datetime import timedelta

import dagster as dg

from cleanroom_pipelines.defs import partitions
from cleanroom_pipelines.defs.materializing import Results, materialize
from cleanroom_pipelines.defs.resources import InstallationResource
from cleanroom_pipelines.execution import making
from cleanroom_pipelines.execution.work import CODE_VERSIONS

# Training and ranking take most of the memory of a machine: one at a time, whoever started it.
HEAVY = "memory"

_PUBLISHER, _ADVERTISER = "team:publisher", "team:advertiser"
_WEEKLY = dg.FreshnessPolicy.time_window(fail_window=timedelta(days=8), warn_window=timedelta(days=7, hours=12))
MONTHLY = dg.FreshnessPolicy.time_window(fail_window=timedelta(days=35), warn_window=timedelta(days=31))

# The parents drawn in the graph; which of their partitions and versions were used stands in the metadata, since a
# mapping between different dynamic partition sets can only say "all".
_ALL = dg.AllPartitionMapping()


@dg.asset(
    partitions_def=partitions.training_datasets,
    group_name="lookalike",
    kinds={"duckdb", "pandera", "parquet"},
    owners=[_PUBLISHER],
    freshness_policy=_WEEKLY,
    code_version=CODE_VERSIONS["training_dataset"],
    output_required=False,
)
def training_dataset(context: dg.AssetExecutionContext, installation: InstallationResource) -> Results:
    """A publisher's interactions table, validated against its declared columns and profiled."""
    yield from materialize(context, installation.open(), making.make_training_dataset)


@dg.asset(
    partitions_def=partitions.audience_models,
    deps=[dg.AssetDep(training_dataset, partition_mapping=_ALL)],
    group_name="lookalike",
    kinds={"duckdb", "scikitlearn", "python"},
    owners=[_PUBLISHER],
    freshness_policy=_WEEKLY,
    code_version=CODE_VERSIONS["audience_model"],
    pool=HEAVY,
    output_required=False,
)
def audience_model(context: dg.AssetExecutionContext, installation: InstallationResource) -> Results:
    """What the similarity model learnt of all users of a dataset and window, before any seed is known."""
    yield from materialize(context, installation.open(), making.make_audience_model)


@dg.asset(
    partitions_def=partitions.configured_audience_models,
    deps=[dg.AssetDep(audience_model, partition_mapping=_ALL)],
    group_name="lookalike",
    kinds={"python"},
    owners=[_PUBLISHER],
    freshness_policy=_WEEKLY,
    code_version=CODE_VERSIONS["configured_audience_model"],
    output_required=False,
)
def configured_audience_model(context: dg.AssetExecutionContext, installation: InstallationResource) -> Results:
    """A model with what is allowed of it: audience sizes, smallest seed, what is shared, where exports go."""
    yield from materialize(context, installation.open(), making.make_configured_audience_model)


@dg.asset(
    partitions_def=partitions.generation_jobs,
    deps=[dg.AssetDep(configured_audience_model, partition_mapping=_ALL)],
    group_name="lookalike",
    kinds={"duckdb", "pandera"},
    owners=[_ADVERTISER],
    freshness_policy=MONTHLY,
    code_version=CODE_VERSIONS["seed_validation_report"],
    output_required=False,
)
def seed_validation_report(context: dg.AssetExecutionContext, installation: InstallationResource) -> Results:
    """What is right and wrong with an advertiser's seed, in counts only, and how many of it are known."""
    # the whole job's assets; those of the context are this step's alone
    follows = dg.AssetKey("audience") in context.job_def.asset_layer.selected_asset_keys
    yield from materialize(
        context, installation.open(), making.make_seed_validation_report, audience_follows=follows
    )


@dg.asset(
    partitions_def=partitions.generation_jobs,
    deps=[
        seed_validation_report,
        dg.AssetDep(configured_audience_model, partition_mapping=_ALL),
        dg.AssetDep(audience_model, partition_mapping=_ALL),
    ],
    group_name="lookalike",
    kinds={"lightgbm", "scikitlearn", "parquet"},
    owners=[_PUBLISHER],
    freshness_policy=MONTHLY,
    code_version=CODE_VERSIONS["audience"],
    pool=HEAVY,
    output_required=False,
)
def audience(context: dg.AssetExecutionContext, installation: InstallationResource) -> Results:
    """All training users ranked by their similarity to a seed, with how good the ranking is."""
    yield from materialize(context, installation.open(), making.make_audience)


@dg.asset(
    partitions_def=partitions.export_jobs,
    deps=[dg.AssetDep(audience, partition_mapping=_ALL)],
    group_name="lookalike",
    kinds={"duckdb", "file"},
    owners=[_PUBLISHER],
    freshness_policy=MONTHLY,
    code_version=CODE_VERSIONS["audience_export"],
    output_required=False,
)
def audience_export(context: dg.AssetExecutionContext, installation: InstallationResource) -> Results:
    """The users most similar to the seed at one allowed size, written to their destination without scores."""
    yield from materialize(context, installation.open(), making.make_audience_export)
