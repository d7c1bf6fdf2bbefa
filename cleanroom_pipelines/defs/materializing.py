"""Reporting build results to Dagster.

Lives here: the translation every asset body shares.
Add here when every materialisation must report something more.
Keep out: the metadata of single assets (pages.py).
"""

from collections.abc import Callable, Iterator
from typing import Any

import dagster as dg

from cleanroom_pipelines.defs.pages import metadata_of
from cleanroom_pipelines.runs.building import AssetResult
from cleanroom_pipelines.runs.installation import Installation
from cleanroom_pipelines.runs.running import run_of
from cleanroom_pipelines.runs.work import without_data

Results = Iterator[dg.MaterializeResult]  # type: ignore[type-arg]


def materialize(
    context: dg.AssetExecutionContext, installation: Installation, make: Callable[..., AssetResult], **options: Any
) -> Results:
    """Build one partition and yield its materialisation.

    Yields nothing when another run has claimed the work: the run then succeeds and says so in its log.

    Args:
        context: The run.
        installation: The installation to work on.
        make: A function of runs.building.
        **options: Passed on to `make`.
    """
    with without_data():
        made = make(installation, context.partition_key, run_of(context.run, context.instance), **options)
        context.log.info(made.sentence)
        if made.manifest is not None:
            metadata = metadata_of(installation, made)
            yield dg.MaterializeResult(
                asset_key=made.asset,
                metadata=metadata,
                data_version=dg.DataVersion(made.manifest.data_version),
            )
