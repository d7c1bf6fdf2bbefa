"""Reporting build results to Dagster.

Lives here: the translation every asset body shares: a result, or the reason of a failure.
Add here when every materialisation must report something more.
Keep out: the metadata of single assets (pages.py).
"""

from collections.abc import Callable, Iterator, Mapping
from time import perf_counter
from typing import Any

import dagster as dg

from cleanroom_pipelines.defs.declaring import Failed
from cleanroom_pipelines.defs.pages import metadata_of, report_of
from cleanroom_pipelines.engine.runtime import process_peak_bytes
from cleanroom_pipelines.errors import ClaimLostError, CleanroomError
from cleanroom_pipelines.runs import failures
from cleanroom_pipelines.runs.building import AssetResult
from cleanroom_pipelines.runs.installation import Installation
from cleanroom_pipelines.runs.kinds import ASSETS
from cleanroom_pipelines.runs.labels import EXPLAINED_TAG
from cleanroom_pipelines.runs.reasons import failure_of
from cleanroom_pipelines.runs.running import run_of
from cleanroom_pipelines.runs.work import without_data

Results = Iterator[dg.MaterializeResult]  # type: ignore[type-arg]


def materialize(
    context: dg.AssetExecutionContext, installation: Installation, make: Callable[..., AssetResult], **options: Any
) -> Results:
    """Build one partition and yield its materialisation.

    Yields nothing when another run has claimed the work: the run then succeeds and says so in its log. If the
    newest version has failed, the run fails too, so that Dagster continues to show the failure.

    Args:
        context: The run.
        installation: The installation to work on.
        make: A builder, from `runs/building_*.py`.
        **options: Passed on to `make`.

    Raises:
        Failed: The version failed; the reason is also an event on the partition.
    """
    asset = str(options.get("asset") or context.asset_key.to_user_string())
    started = perf_counter()
    try:
        with without_data():
            made = make(installation, context.partition_key, run_of(context.run, context.instance), **options)
            context.log.info(made.sentence)
            metadata = {} if made.failure or made.manifest is None else metadata_of(installation, made)
            metadata["seconds"] = round(perf_counter() - started, 1)
            metadata["peak memory of this process"] = f"{process_peak_bytes() / 1e6:,.0f} MB"
    except CleanroomError as error:
        raise _explain(context, installation, asset, error) from None
    if made.failure is not None or (made.manifest is None and not made.made):
        _raise_if_failed(context, installation, made)
    if made.manifest is not None:
        yield dg.MaterializeResult(
            asset_key=made.asset, metadata=metadata, data_version=dg.DataVersion(made.manifest.data_version)
        )


def _raise_if_failed(context: dg.AssetExecutionContext, installation: Installation, made: AssetResult) -> None:
    """Fail the run if its version failed, in this run or earlier; include the validation report, if any."""
    kind = ASSETS[made.asset].kind
    if made.failure is None:
        installation.catalog.work.fail_orphans()  # it may wait for a parent that has failed
    if failure_of(installation.catalog, kind, made.partition) is None and made.failure is None:
        return
    with without_data():
        report = report_of(installation, made)
    check = ASSETS[made.asset].check
    if check is not None and made.manifest is not None:
        context.log_event(
            dg.AssetCheckEvaluation(
                asset_key=dg.AssetKey(made.asset),
                check_name=check,
                passed=False,
                description=made.failure,
                metadata={"reason": made.failure or ""},
                blocking=True,
                partition=made.partition,
            )
        )
    raise _explain(context, installation, made.asset, CleanroomError(made.failure or ""), report) from None


def _explain(
    context: dg.AssetExecutionContext,
    installation: Installation,
    asset: str,
    error: CleanroomError,
    report: Mapping[str, Any] | None = None,
) -> Failed:
    """Report on the partition's page why the build failed, and return the failure that the step raises."""
    failure = failure_of(installation.catalog, ASSETS[asset].kind, context.partition_key)
    if failure is None or isinstance(error, ClaimLostError):  # the version did not fail, only this run did
        reason = {"reason": str(error)}
        return Failed(description=str(error), metadata=reason, allow_retries=False)
    for observation in failures.observations(failure, report):
        context.log_event(observation)
    context.instance.add_run_tags(context.run.run_id, {EXPLAINED_TAG: failure.version.run_key})
    metadata = {**failures.metadata_of(failure), **(report or {})}
    return Failed(description=failure.sentence, metadata=metadata, allow_retries=False)
