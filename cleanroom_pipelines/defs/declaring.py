"""How assets are declared: what the registry says of them, and what they share.

Lives here: partition sets by kind, the decorator of assets, owners, freshness and the pool of heavy work.
Add here what every asset declares.
Keep out: single assets (assets/) and the registry (runs.kinds).
"""

from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any

import dagster as dg

from cleanroom_pipelines.runs.kinds import ASSETS, KINDS

PARTITIONS = {kind: dg.DynamicPartitionsDefinition(name=row.partition_set) for kind, row in KINDS.items()}

HEAVY = "memory"
"""The pool of training and ranking, which take most of a machine's memory: one at a time, whoever started it."""

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
    """Declare the function of an asset's name as that asset; its docstring is the description.

    Args:
        group: Group in the graph.
        owner: PUBLISHER or ADVERTISER.
        kinds: What it is made with, for the graph.
        freshness: When it counts as stale.
        deps: Names of the assets it is made from.
        pool: HEAVY, for what must not run beside other heavy work.
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


def dependencies(asset_name: str, made_from: Sequence[str]) -> list[dg.AssetDep]:
    """What an asset is made from, as the graph draws it.

    Which partitions and versions were used stands in the metadata: a mapping between the partitions of two kinds
    can only say "all".
    """
    kind = ASSETS[asset_name].kind
    return [
        dg.AssetDep(name, partition_mapping=None if ASSETS[name].kind is kind else dg.AllPartitionMapping())
        for name in made_from
    ]
