"""Declaring assets: settings that all assets share, and their entries in the registry.

Lives here: partition sets by kind, the asset decorator, owners, freshness and the pool of heavy work.
Add here when every asset must declare something more.
Keep out: single assets (assets/) and the registry (runs.kinds).
"""

from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any

import dagster as dg

from cleanroom_pipelines.runs.kinds import ASSETS, KINDS

PARTITIONS = {kind: dg.DynamicPartitionsDefinition(name=row.partition_set) for kind, row in KINDS.items()}

HEAVY = "memory"
"""Pool for training and ranking. They take most of a machine's memory, so one runs at a time."""

PUBLISHER, ADVERTISER = "team:publisher", "team:advertiser"
WEEKLY = dg.FreshnessPolicy.time_window(fail_window=timedelta(days=8), warn_window=timedelta(days=7, hours=12))
MONTHLY = dg.FreshnessPolicy.time_window(fail_window=timedelta(days=35), warn_window=timedelta(days=31))


def asset(
    group: str,
    owner: str,
    kinds: set[str],
    *,
    freshness: dg.FreshnessPolicy = MONTHLY,
    deps: Sequence[str] = (),
    pool: str | None = None,
) -> Callable[[Callable[..., Any]], dg.AssetsDefinition]:
    """Declare a function as the asset of the same name; its docstring becomes the description.

    Args:
        group: Group in the graph.
        owner: PUBLISHER or ADVERTISER.
        kinds: Technologies it uses, shown in the graph.
        freshness: When it counts as stale.
        deps: Names of upstream assets.
        pool: HEAVY for work that must not run at the same time as other heavy work.
    """

    def declare(function: Callable[..., Any]) -> dg.AssetsDefinition:
        row = ASSETS[function.__name__]
        return dg.asset(
            partitions_def=PARTITIONS[row.kind],
            deps=dependencies(function.__name__, deps),
            group_name=group,
            kinds=kinds,
            owners=[owner],
            freshness_policy=freshness,
            code_version=row.code_version,
            pool=pool,
            output_required=False,
        )(function)

    return declare


def dependencies(asset_name: str, inputs: Sequence[str]) -> list[dg.AssetDep]:
    """Return an asset's dependencies on its upstream assets, for Dagster's graph.

    The metadata names the partitions and versions used: a partition mapping between two kinds can only say "all".
    """
    kind = ASSETS[asset_name].kind
    return [
        dg.AssetDep(name, partition_mapping=None if ASSETS[name].kind is kind else dg.AllPartitionMapping())
        for name in inputs
    ]
