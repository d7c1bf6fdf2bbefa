"""Schedules: work that runs at set times.

Lives here: declared refreshes and nightly cleanup.
Add here when something else must run regularly.
Keep out: how often a model is refreshed; its declaration says that.
"""

import dagster as dg

from cleanroom_pipelines.defs.declaring import in_words
from cleanroom_pipelines.defs.jobs import housekeeping, run_all_pending
from cleanroom_pipelines.defs.resources import InstallationResource
from cleanroom_pipelines.ways_in import acting_for


@dg.schedule(
    description="Requests a new version of every model whose declared refresh is due.",
    cron_schedule="*/5 * * * *",
    job=run_all_pending,
    default_status=dg.DefaultScheduleStatus.RUNNING,
)
@in_words
def declared_refreshes(context: dg.ScheduleEvaluationContext, installation: InstallationResource) -> dg.SkipReason:
    """Requests a new version of every model whose declared refresh is due; the pending_work sensor runs it."""
    catalog = installation.open().catalog
    due = catalog.work.due_refreshes()
    with acting_for("schedule"):
        for model in due:
            catalog.work.request_refresh(model.id)
    return dg.SkipReason(f"Requested {len(due)} refreshes." if due else "No declared refresh is due.")


@dg.schedule(
    description="Deletes superseded artifacts every night.",
    cron_schedule="30 3 * * *",
    job=housekeeping,
    default_status=dg.DefaultScheduleStatus.RUNNING,
)
@in_words
def nightly_housekeeping(context: dg.ScheduleEvaluationContext) -> dg.RunRequest:
    """Starts the job that deletes superseded artifacts."""
    return dg.RunRequest()
