"""The data room: what two sides provision, what is told of it, and the audiences made of it.

Lives here: the ten assets of group `data_room`. A body is a translation: who runs → core call → what to show.
Add here when a room gets a further asset.
Keep out: what is made (runs.building_rooms, runs.building_audiences) and how it is shown (defs.pages).
"""

from collections.abc import Sequence

import dagster as dg

from cleanroom_pipelines.catalog import Kind
from cleanroom_pipelines.defs.declaring import (
    ADVERTISER,
    HEAVY,
    MONTHLY,
    PARTITIONS,
    PUBLISHER,
    asset,
    dependencies,
)
from cleanroom_pipelines.defs.materializing import Results, materialize
from cleanroom_pipelines.defs.resources import InstallationResource
from cleanroom_pipelines.runs import building_audiences, building_rooms
from cleanroom_pipelines.runs.kinds import ASSETS

_GROUP = "data_room"
_BOTH_SIDES = ("base_audience", "seed_audiences")


@asset(_GROUP, PUBLISHER, {"duckdb", "pandera"})
def data_lab(context: dg.AssetExecutionContext, installation: InstallationResource) -> Results:
    """A publisher's uploads, validated before they go into a data room."""
    yield from materialize(context, installation.open(), building_rooms.build_data_lab)


def _part(name: str, description: str, owner: str, kinds: set[str], deps: Sequence[str] = ()) -> dg.AssetSpec:
    return dg.AssetSpec(
        name,
        deps=dependencies(name, deps),
        description=description,
        group_name=_GROUP,
        kinds=kinds,
        owners=[owner],
        code_version=ASSETS[name].code_version,
        freshness_policy=MONTHLY,
        skippable=True,
    )


# One step for all: a step is skipped when one before it yields nothing, as a base does that did not change.
@dg.multi_asset(
    name="data_room",
    partitions_def=PARTITIONS[Kind.DATA_ROOM],
    can_subset=True,
    pool=HEAVY,
    specs=[
        _part(
            "base_audience",
            "The publisher's users of a room: matching ids, segments, demographics and embeddings, with reports.",
            PUBLISHER,
            {"duckdb", "pandera", "parquet"},
            ["data_lab"],
        ),
        _part(
            "seed_audiences",
            "The advertiser's seed audiences of a room as keyed digests, with their report.",
            ADVERTISER,
            {"duckdb", "pandera", "parquet"},
        ),
        _part(
            "data_attributes",
            "The attributes by which audiences of a room can be defined, with their values and operators.",
            PUBLISHER,
            {"duckdb"},
            ["base_audience"],
        ),
        _part(
            "overlap_statistics",
            "How many users each seed audience shares with the base audience, released with noise.",
            PUBLISHER,
            {"duckdb"},
            _BOTH_SIDES,
        ),
        _part(
            "insights",
            "What sets the matched users of each seed audience apart, by segment and demographics, with noise.",
            PUBLISHER,
            {"duckdb"},
            _BOTH_SIDES,
        ),
        _part(
            "room_model",
            "What the similarity model learnt of a room's users, before any seed is looked at.",
            PUBLISHER,
            {"scikitlearn", "python"},
            ["base_audience"],
        ),
    ],
)
def data_room(context: dg.AssetExecutionContext, installation: InstallationResource) -> Results:
    """What a room holds and tells; made again is only what depends on what changed."""
    selected = [name for name in building_rooms.ROOM_ASSETS if dg.AssetKey(name) in context.selected_asset_keys]
    for name in selected:
        finishes = name == selected[-1]
        yield from materialize(
            context, installation.open(), building_rooms.build_room_asset, asset=name, finishes=finishes
        )


@asset(_GROUP, ADVERTISER, {"duckdb", "lightgbm", "parquet"}, deps=[*_BOTH_SIDES, "room_model"], pool=HEAVY)
def custom_audience(context: dg.AssetExecutionContext, installation: InstallationResource) -> Results:
    """The users of a lookalike, rule-based, remarketing or exclusion audience of a room."""
    yield from materialize(
        context, installation.open(), building_audiences.build_custom_audience, asset="custom_audience"
    )


@asset(_GROUP, ADVERTISER, {"lightgbm"}, deps=["custom_audience"])
def lookalike_statistics(context: dg.AssetExecutionContext, installation: InstallationResource) -> Results:
    """How well a lookalike audience finds held-out users of its source, and the reach table."""
    yield from materialize(
        context, installation.open(), building_audiences.build_custom_audience, asset="lookalike_statistics"
    )


@asset(_GROUP, ADVERTISER, {"duckdb", "file"}, deps=["custom_audience"])
def audience_user_list(context: dg.AssetExecutionContext, installation: InstallationResource) -> Results:
    """One delivery of an audience's users to a group of a room, as plain ids or for an ad destination."""
    yield from materialize(context, installation.open(), building_audiences.build_audience_list)
