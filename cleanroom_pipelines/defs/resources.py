"""Resources: how the shell reaches the installation.

Lives here: the one resource every asset, sensor and schedule takes, and the executor of runs.
Keep out: settings (runs.installation).
"""

from collections.abc import Iterator
from contextlib import contextmanager

import dagster as dg

from cleanroom_pipelines.runs.installation import Installation
from cleanroom_pipelines.runs.running import alive


class InstallationResource(dg.ConfigurableResource):  # type: ignore[type-arg]
    """The installation that the environment names (CLEANROOM_HOME and its siblings)."""

    def open(self) -> Installation:
        """Open it; its parts open when first used."""
        return Installation.from_environment()

    @contextmanager
    def yield_for_execution(self, context: dg.InitResourceContext) -> Iterator["InstallationResource"]:
        """Keep a run alive in the catalogue while Dagster executes it; sensors and schedules have no run."""
        if context.run is None or context.instance is None:
            yield self
            return
        with alive(self.open(), context.run, context.instance):
            yield self


@dg.definitions
def resources() -> dg.Definitions:
    """The resources by the name under which assets take them, and one process for every run.

    What is materialised by hand runs in Dagster's own job, where a process for each step would cost seconds.
    """
    return dg.Definitions(resources={"installation": InstallationResource()}, executor=dg.in_process_executor)
