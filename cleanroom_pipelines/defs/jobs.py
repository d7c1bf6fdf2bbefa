"""Jobs that sensors or the launchpad can start.

Lives here: one job per kind of work, the worker, and the form that starts a generation job.
Add here when Dagster must be able to start something new.
Keep out: the work itself.
"""

from pathlib import Path

import dagster as dg

from cleanroom_pipelines.catalog import Lane
from cleanroom_pipelines.defs.declaring import in_words
from cleanroom_pipelines.defs.resources import InstallationResource
from cleanroom_pipelines.runs.deleting import clean_up_deleted, delete_pending
from cleanroom_pipelines.runs.kinds import ASSETS_OF, KINDS
from cleanroom_pipelines.runs.labels import LANE_TAG
from cleanroom_pipelines.runs.rebuilding import rebuild_history
from cleanroom_pipelines.runs.resources import retry_failed as retry_all_failed
from cleanroom_pipelines.runs.retention import delete_superseded
from cleanroom_pipelines.runs.running import run_pending
from cleanroom_pipelines.runs.seeds import start_job_from_file
from cleanroom_pipelines.runs.shared_scoring import help_scoring
from cleanroom_pipelines.runs.signals import handle_signals
from cleanroom_pipelines.ways_in import acting_for

_WORKER_SECONDS = 300
_BY_SENSOR = "The sensor pending_work starts it; start it yourself only to build a partition again."

asset_jobs = [
    dg.define_asset_job(
        KINDS[kind].job,
        selection=dg.AssetSelection.assets(*assets),
        executor_def=dg.in_process_executor,
        description=f"Builds {', '.join(assets)} for one partition. {_BY_SENSOR}",
    )
    for kind, assets in ASSETS_OF.items()
]


@dg.op
@in_words
def do_pending_work(context: dg.OpExecutionContext, installation: InstallationResource) -> None:
    """Do all pending work in this process, one run after another.

    Starting a process takes seconds, so many small jobs finish sooner in one shared process.
    """
    opened = installation.open()
    lane = context.run.tags.get(LANE_TAG)
    n_runs = run_pending(
        opened,
        context.instance,
        worker=context.run.run_id,
        max_seconds=_WORKER_SECONDS,
        lane=Lane(lane) if lane else None,
    )
    context.log.info(f"Finished {n_runs} runs.")


@dg.job(executor_def=dg.in_process_executor)
def run_all_pending() -> None:
    """Start this to do all pending work now, in one process. The sensor pending_work also starts it."""
    do_pending_work()


@dg.op
@in_words
def score_published_shards(context: dg.OpExecutionContext, installation: InstallationResource) -> None:
    """Score users on behalf of other runs that have published parts of a large audience."""
    opened = installation.open()
    with handle_signals() as interruption:
        n_users = help_scoring(opened, interruption.is_set)
    context.log.info(f"Scored {n_users:,} users for other runs.")


@dg.job(executor_def=dg.in_process_executor)
def score_shards() -> None:
    """Helps other runs score large audiences, one range of users at a time. The sensor pending_work starts it."""
    score_published_shards()


class GenerationJobForm(dg.Config, use_attribute_docstrings=True):
    """Form that starts a generation job."""

    configured_audience_model: str
    """Name or partition key of the configured audience model. If it is unknown, an error lists the names."""
    seed_path: str
    """The seed's path on the machine that runs Dagster: .jsonl, .csv or .parquet, each also .gz."""
    name: str
    """A unique name for the job."""
    seed_mode: str = "excluded"
    """Where users of the seed appear in the audience: excluded, first or in_place."""
    export_size: str = ""
    """Size to export when the audience is ready, such as 5% or largest; empty for no export."""


@dg.op
@in_words
def start_job(
    context: dg.OpExecutionContext, config: GenerationJobForm, installation: InstallationResource
) -> None:
    """Register a generation job; the pending_work sensor then runs it."""
    with acting_for("ui"):
        job = start_job_from_file(
            installation.open(),
            configured=config.configured_audience_model,
            seed=Path(config.seed_path),
            name=config.name,
            seed_mode=config.seed_mode,
            export_size=config.export_size,
        )
    context.log.info(f"Registered job {job.id}, a partition of the asset audience. It starts within seconds.")


@dg.job(executor_def=dg.in_process_executor)
def start_generation_job() -> None:
    """Start this to build an audience from a seed file: fill in the form in the launchpad."""
    start_job()


@dg.op
@in_words
def queue_failed_work(context: dg.OpExecutionContext, installation: InstallationResource) -> None:
    """Queue everything that failed; the pending_work sensor then runs it."""
    with acting_for("ui"):
        queued, skipped = retry_all_failed(installation.open().catalog)
    for record, reason in skipped:
        context.log.warning(f"Skipped the {record.kind.words} {record.name!r}: {reason}")
    context.log.info(f"Queued {len(queued)} failed {'version' if len(queued) == 1 else 'versions'}.")


@dg.job(executor_def=dg.in_process_executor)
def retry_failed() -> None:
    """Start this to retry everything that failed, after you have fixed the causes."""
    queue_failed_work()


@dg.op
@in_words
def delete_superseded_versions(context: dg.OpExecutionContext, installation: InstallationResource) -> None:
    """Delete artifacts that were superseded long enough ago, and leftovers of deleted resources."""
    opened = installation.open()
    n_deleted = delete_superseded(opened)
    n_leftovers = clean_up_deleted(opened, context.instance)
    context.log.info(f"Deleted {n_deleted} superseded versions and {n_leftovers} leftovers of deleted resources.")


@dg.job(executor_def=dg.in_process_executor)
def housekeeping() -> None:
    """Deletes superseded artifacts after the retention time, and leftovers of deletions. Scheduled daily."""
    delete_superseded_versions()


@dg.op
@in_words
def rebuild_missing_materializations(context: dg.OpExecutionContext, installation: InstallationResource) -> None:
    """Record in Dagster the materialisations of current versions that its storage lacks."""
    opened = installation.open()
    with handle_signals() as interruption:
        n_rebuilt = rebuild_history(opened, context.instance, interruption.is_set)
    context.log.info(f"Rebuilt {n_rebuilt} materialisations.")


@dg.job(executor_def=dg.in_process_executor)
def rebuild_materializations() -> None:
    """Records all assets in Dagster again if its storage was lost. The sensor pending_work also starts it."""
    rebuild_missing_materializations()


@dg.op
@in_words
def delete_requested(context: dg.OpExecutionContext, installation: InstallationResource) -> None:
    """Carry out requested deletions."""
    opened = installation.open()
    n_deleted = delete_pending(opened, context.instance)
    context.log.info(f"Deleted {n_deleted} resources.")


@dg.job(executor_def=dg.in_process_executor)
def carry_out_deletions() -> None:
    """Carries out requested deletions, also in Dagster's storage. The sensor pending_work starts it."""
    delete_requested()
