"""The Dagster entry point: everything below `defs`."""

import warnings
from pathlib import Path

import dagster as dg

# Dagster warns of a parameter that it passes itself, at each load.
_ITS_OWN = "Parameter `owners` of initializer `SensorDefinition"
warnings.filterwarnings("ignore", message=_ITS_OWN, category=dg.BetaWarning)


@dg.definitions
def defs() -> dg.Definitions:
    """Load the shell."""
    return dg.load_from_defs_folder(path_within_project=Path(__file__).parent)
