"""Declaring assets: settings that all assets share, their entries in the registry, and how failures are shown.

Lives here: partition sets by kind, the asset decorator, owners and the pool of heavy work; failures
with our own sentences, which Dagster shows first and never masks.
Add here when every asset must declare something more.
Keep out: single assets (assets/) and the registry (runs.kinds).
"""

from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import dagster as dg

from cleanroom_pipelines.errors import CleanroomError
from cleanroom_pipelines.runs.kinds import ASSETS, ASSETS_OF, KINDS
from cleanroom_pipelines.runs.work import without_data

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


P = ParamSpec("P")
T = TypeVar("T")


class Failed(dg.Failure, dg.DagsterError):
    """A failure with this package's own text and metadata. Dagster shows it even if it masks other errors.

    With DAGSTER_REDACT_USER_CODE_ERRORS Dagster marks errors of user code, and replaces the text of marked ones.
    In a tick it marks the error that it wraps them in, unless they are errors of its own.
    """

    __module__ = "builtins"  # so that Dagster shows "Failed: " and the reason, without the name of a module

    @property
    def _redacted_error_uuid(self) -> None:
        return None

    @_redacted_error_uuid.setter
    def _redacted_error_uuid(self, _: str) -> None:
        pass


def in_words(function: Callable[P, T]) -> Callable[P, T]:
    """Make an op, sensor, schedule or check report errors in this package's own words, without data."""

    @wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            with without_data():
                return function(*args, **kwargs)
        except CleanroomError as error:
            raise Failed(description=str(error), allow_retries=False) from None

    return call
