"""Dagster's own folder in a home: one instance for every process that works on it.

Lives here: writing the folder from the packaged template, the environment and the instance on it.
Add here when Dagster needs another setting.
Keep out: starting processes (cli, serving_worker) and settings of the installation (installation.py).
"""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import resources
from pathlib import Path

import dagster as dg

from cleanroom_pipelines.engine.plain_paths import plain_folder
from cleanroom_pipelines.execution.installation import Installation
from cleanroom_pipelines.storage.artifacts import write_durably

_SETTINGS = "dagster.yaml"
_LOCK = ".opening.lock"


def prepare_dagster_home(installation: Installation) -> Path:
    """Write Dagster's folder from the packaged template, with its databases; an edited file is left as it is.

    Several processes may do so at once.
    """
    home = _write_settings(installation)
    with _opened(home):
        return home


@contextmanager
def dagster_instance(installation: Installation) -> Iterator[dg.DagsterInstance]:
    """Dagster's instance of this home, the one that `cleanroom dev` shows; DAGSTER_HOME goes before it."""
    home = os.environ.get("DAGSTER_HOME")
    with _opened(Path(home) if home else _write_settings(installation)) as instance:
        yield instance


def _write_settings(installation: Installation) -> Path:
    home = installation.home.dagster_home
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    target = home / _SETTINGS
    if not target.exists():
        write_durably(target, resources.files("cleanroom_pipelines.execution").joinpath(_SETTINGS).read_bytes())
    return home


@contextmanager
def _opened(home: Path) -> Iterator[dg.DagsterInstance]:
    """Open an instance, one process at a time: two that make its databases at once spoil them for good."""
    # Dagster joins paths to the text of URLs, and finds its settings and databases by patterns.
    with plain_folder(home) as plain:
        with (home / _LOCK).open("w") as stream:
            fcntl.flock(stream, fcntl.LOCK_EX)  # until the file is closed, however this process ends
            instance = dg.DagsterInstance.from_config(str(plain))
        with instance:
            yield instance


def dagster_environment(installation: Installation, home: Path) -> dict[str, str]:
    """What a process that runs Dagster on this home is started with, beside its own environment.

    Args:
        installation: Which home.
        home: Dagster's folder in it, by a path that `plain_folder` gave.
    """
    return {
        "DAGSTER_HOME": str(home),
        "CLEANROOM_HOME": str(installation.home.root),
        # the second belt: our own errors hold no data already
        "DAGSTER_REDACT_USER_CODE_ERRORS": os.environ.get("DAGSTER_REDACT_USER_CODE_ERRORS", "1"),
        "DAGSTER_DISABLE_TELEMETRY": "1",
    }
