"""The data-room assets: the data of both parties, statistics with noise, and the audiences built from the data.

Lives here: the ten assets of group `data_room`. An asset only calls its builder and returns metadata.
Add here when a room gets another asset.
Keep out: building (runs.building_rooms, runs.building_room_audiences) and metadata (defs.room_pages).
"""

from collections.abc import Sequence

import dagster as dg

from cleanroom_pipelines.catalog import Kind
from cleanroom_pipelines.defs.declaring import (
    ADVERTISER,
    HEAVY,
    PARTITIONS,
    PUBLISHER,
    asset,
    dependencies,
)
from cleanroom_pipelines.defs.materializing import Results, materialize
from cleanroom_pipelines.defs.resources import InstallationResource
from cleanroom_pipelines.runs import building_room_audiences, building_rooms
from cleanroom_pipelines.runs.kinds import ASSETS

_GROUP = "data_room"
_BOTH_SIDES = ("base_audience", "seed_audiences")


@asset(_GROUP, PUBLISHER, {"duckdb", "pandera"})
def data_lab(context: dg.AssetExecutionContext, installation: InstallationResource) -> Results:
    """A publisher's uploads, validated before they are used in a data room."""
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
        skippable=True,
    )


# One step for all assets: Dagster skips a step when an upstream step yields nothing, and an unchanged base
# audience yields nothing.
@dg.multi_asset(
    name="data_room",
    partitions_def=PARTITIONS[Kind.DATA_ROOM],
    can_subset=True,
    pool=HEAVY,
    specs=[
        _part(
            "base_audience",
            "The publisher's users in a room: matching ids, segments, demographics, embeddings and reports.",
            PUBLISHER,
            {"duckdb", "pandera", "parquet"},
            ["data_lab"],
        ),
        _part(
            "seed_audiences",
            "The advertiser's seed audiences in a room, stored as keyed digests, with their validation report.",
            ADVERTISER,
            {"duckdb", "pandera", "parquet"},
        ),
        _part(
            "data_attributes",
            "Attributes available for defining audiences in a room, with their values and operators.",
            PUBLISHER,
            {"duckdb"},
            ["base_audience"],
        ),
        _part(
            "overlap_statistics",
            "Number of users each seed audience shares with the base audience, released with noise.",
            PUBLISHER,
            {"duckdb"},
            _BOTH_SIDES,
        ),
        _part(
            "insights",
            "Segments and demographics that distinguish each seed audience's matched users, released with noise.",
            PUBLISHER,
            {"duckdb"},
            _BOTH_SIDES,
        ),
        _part(
            "room_model",
            "Similarity model of a room's users, trained without any seed.",
            PUBLISHER,
            {"scikitlearn", "python"},
            ["base_audience"],
        ),
    ],
)
def data_room(context: dg.AssetExecutionContext, installation: InstallationResource) -> Results:
    """Build a room's assets. After a change, rebuild only the affected assets."""
    selected = [name for name in building_rooms.ROOM_ASSETS if dg.AssetKey(name) in context.selected_asset_keys]
    for name in selected:
        finishes = name == selected[-1]
        yield from materialize(
            context, installation.open(), building_rooms.build_room_asset, asset=name, finishes=finishes
        )


@asset(_GROUP, ADVERTISER, {"duckdb", "lightgbm", "parquet"}, deps=[*_BOTH_SIDES, "room_model"], pool=HEAVY)
def custom_audience(context: dg.AssetExecutionContext, installation: InstallationResource) -> Results:
    """Users of a room's lookalike, rule-based, remarketing or exclusion audience."""
    yield from materialize(
        context, installation.open(), building_room_audiences.build_custom_audience, asset="custom_audience"
    )


@asset(_GROUP, ADVERTISER, {"lightgbm"}, deps=["custom_audience"])
def lookalike_statistics(context: dg.AssetExecutionContext, installation: InstallationResource) -> Results:
    """Quality of a lookalike audience for each reach, measured on held-out users of its source audience."""
    yield from materialize(
        context, installation.open(), building_room_audiences.build_custom_audience, asset="lookalike_statistics"
    )


@asset(_GROUP, ADVERTISER, {"duckdb", "file"}, deps=["custom_audience"])
def audience_user_list(context: dg.AssetExecutionContext, installation: InstallationResource) -> Results:
    """One delivery of an audience's users to a participant, as plain ids or as files for an ad destination."""
    yield from materialize(context, installation.open(), building_room_audiences.build_audience_list)
