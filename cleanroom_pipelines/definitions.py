"""The entry point for Dagster: loads all definitions in `defs`."""

import warnings
from pathlib import Path

import dagster as dg

from cleanroom_pipelines import defs as shell

# Dagster warns about a parameter that it passes itself, at each load.
_ITS_OWN = "Parameter `owners` of initializer `SensorDefinition"
warnings.filterwarnings("ignore", message=_ITS_OWN, category=dg.BetaWarning)


@dg.definitions
def defs() -> dg.Definitions:
    """Load all Dagster definitions."""
    # Does what load_from_defs_folder does after finding a clone's pyproject.toml; an installed package has none.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", dg.PreviewWarning)
        return dg.ComponentTree.from_module(defs_module=shell, project_root=Path(__file__).parent).build_defs()
