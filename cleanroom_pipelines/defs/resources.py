"""Resources: access to the installation.

Lives here: the one resource that every asset, sensor and schedule uses, and the executor of runs.
Add here when Dagster code needs another shared resource.
Keep out: settings (runs.installation).
"""

from collections.abc import Iterator
from contextlib import contextmanager

import dagster as dg

from cleanroom_pipelines.runs.installation import Installation
from cleanroom_pipelines.runs.running import alive


class InstallationResource(dg.ConfigurableResource):  # type: ignore[type-arg]
    """The installation set by CLEANROOM_HOME and the other CLEANROOM_* variables."""

    def open(self) -> Installation:
        """Open the installation; its parts open on first use."""
        return Installation.from_environment()

    @contextmanager
    def yield_for_execution(self, context: dg.InitResourceContext) -> Iterator["InstallationResource"]:
        """Send heartbeats for a run while Dagster executes it; sensors and schedules send none."""
        if context.run is None or context.instance is None:
            yield self
            return
        with alive(self.open(), context.run, context.instance):
            yield self


@dg.definitions
def resources() -> dg.Definitions:
    """The resources that assets request by name, and an executor that runs all steps in one process.

    Manual materialisations run in Dagster's own job, where a process per step would take seconds.
    """
    return dg.Definitions(resources={"installation": InstallationResource()}, executor=dg.in_process_executor)
