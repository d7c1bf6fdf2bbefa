"""Declaring assets: settings that all assets share, and their entries in the registry.

Lives here: partition sets by kind, the asset decorator, owners and the pool of heavy work.
Add here when every asset must declare something more.
Keep out: single assets (assets/) and the registry (runs.kinds).
"""

from collections.abc import Callable, Sequence
from typing import Any

import dagster as dg

from cleanroom_pipelines.runs.kinds import ASSETS, ASSETS_OF, KINDS

PARTITIONS = {kind: dg.DynamicPartitionsDefinition(name=row.partition_set) for kind, row in KINDS.items()}

HEAVY = "memory"
"""Pool for training and ranking. They take most of a machine's memory, so one runs at a time."""

NO_PARTITIONS = dg.SpecificPartitionsPartitionMapping([])
"""Partition mapping for dependencies between kinds of assets: it maps no partitions to each other."""

PUBLISHER, ADVERTISER = "team:publisher", "team:advertiser"


def asset(
    group: str,
    owner: str,
    kinds: set[str],
    *,
    deps: Sequence[str] = (),
    pool: str | None = None,
) -> Callable[[Callable[..., Any]], dg.AssetsDefinition]:
    """Declare a function as the asset of the same name; its docstring becomes the description.

    Args:
        group: Group in the graph.
        owner: PUBLISHER or ADVERTISER.
        kinds: Technologies it uses, shown in the graph.
        deps: Names of upstream assets; the previous asset of the same kind is always upstream.
        pool: HEAVY for work that must not run at the same time as other heavy work.
    """

    def declare(function: Callable[..., Any]) -> dg.AssetsDefinition:
        name = function.__name__
        row = ASSETS[name]
        of_kind = ASSETS_OF[row.kind]
        earlier = of_kind[: of_kind.index(name)][-1:]  # a run builds the assets of a kind in the registry's order
        return dg.asset(
            partitions_def=PARTITIONS[row.kind],
            deps=dependencies(name, list(dict.fromkeys([*deps, *earlier]))),
            group_name=group,
            kinds=kinds,
            owners=[owner],
            code_version=row.code_version,
            pool=pool,
            output_required=False,
        )(function)

    return declare


def dependencies(asset_name: str, inputs: Sequence[str]) -> list[dg.AssetDep]:
    """Return an asset's dependencies for Dagster's graph, from the names of its upstream assets.

    Between two kinds, Dagster is given the edge without partitions. Otherwise a partition would depend on all
    partitions upstream, and a model would be "Unsynced" once the dataset of another model changed. The metadata
    names the partitions and versions used, and the catalogue requests what follows from them.
    """
    kind = ASSETS[asset_name].kind
    return [
        dg.AssetDep(name, partition_mapping=None if ASSETS[name].kind is kind else NO_PARTITIONS)
        for name in inputs
    ]
