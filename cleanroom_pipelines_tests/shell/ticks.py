"""Ticks of sensors and schedules, as the daemon makes them, on a clock that a test may put forward."""

from datetime import UTC, datetime
from typing import Any

import dagster as dg

from cleanroom_pipelines.defs.resources import InstallationResource
from cleanroom_pipelines.runs.installation import Installation

from .. import worlds
from .conftest import Shell, repository


class Later(InstallationResource):
    """The installation that the environment names, some seconds later."""

    seconds: float = 0.0

    def open(self) -> Installation:
        """Open it with its clock put forward."""
        return worlds.later(Installation.from_environment(), seconds=self.seconds)


def tick(shell: Shell, name: str, *, cursor: str | None = None, later: float = 0.0) -> Any:
    """Evaluate a sensor once; gives what the daemon would get."""
    loaded = repository()
    with (
        dg.build_sensor_context(
            instance=shell.instance,
            cursor=cursor,
            repository_def=loaded,
            resources={"installation": Later(seconds=later)},
        ) as context,
        dg.partition_loading_context(dynamic_partitions_store=shell.instance),  # the daemon's code server does
    ):
        return _sent(loaded.get_sensor_def(name).evaluate_tick(context))


def schedule_tick(shell: Shell, name: str, *, later: float = 0.0) -> Any:
    """Evaluate a schedule once; gives what the daemon would get."""
    loaded = repository()
    with dg.build_schedule_context(
        instance=shell.instance,
        scheduled_execution_time=datetime.now(UTC),
        repository_def=loaded,
        resources={"installation": Later(seconds=later)},
    ) as context:
        return _sent(loaded.get_schedule_def(name).evaluate_tick(context))


def _sent(answer: Any) -> Any:
    """What the daemon gets of a tick: its code server is another process, which sends only texts and numbers."""
    dg.serialize_value(answer)
    return answer


def carry_out(shell: Shell, request: dg.RunRequest) -> None:
    """Do in this process what the daemon would launch."""
    job = repository().get_job(str(request.job_name))
    result = job.execute_in_process(
        partition_key=request.partition_key, instance=shell.instance, tags=dict(request.tags), raise_on_error=False
    )
    assert result.success


def as_run(shell: Shell, job: str, status: dg.DagsterRunStatus, **tags: str) -> str:
    """Record a run as if a launcher had started it, and give its id."""
    definition = repository().get_job(job)
    return shell.instance.create_run_for_job(definition, status=status, tags=tags).run_id
