"""`cleanroom dev`: Dagster's UI and daemon on this home.

Lives here: Dagster's own folder and the environment it is started in.
Add here when Dagster needs another setting.
Keep out: settings of the installation (execution.installation).
"""

import os
import shutil
import sys
import sysconfig
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import resources
from pathlib import Path
from typing import NoReturn

import click
import dagster as dg

from cleanroom_pipelines.errors import ConfigurationError
from cleanroom_pipelines.execution.installation import Installation
from cleanroom_pipelines.execution.running import CODE_LOCATION

_TEMPLATE = "dagster.yaml"


def start_dagster(host: str, port: int) -> NoReturn:
    """Replace this process by `dg dev` on this home.

    Raises:
        ConfigurationError: Dagster's command is not installed beside this one.
    """
    installation = Installation.from_environment()
    home = prepare_dagster_home(installation)
    command = shutil.which("dg", path=str(Path(sys.executable).parent)) or shutil.which(
        "dg", path=sysconfig.get_path("scripts")
    )
    if command is None:
        raise ConfigurationError(
            "The command `dg` is missing.", remedy="Install dagster-dg-cli in this environment."
        )
    environment = os.environ | _environment(installation, home)
    click.echo(f"Dagster on {installation.home.root}: http://{host}:{port}", err=True)
    os.chdir(home)
    arguments = ["dg", "dev", "--host", host, "--port", str(port), "--module-name", CODE_LOCATION]
    os.execve(command, arguments, environment)  # noqa: S606 - dg of this environment


def prepare_dagster_home(installation: Installation) -> Path:
    """Write Dagster's folder from the packaged template; an edited file is left as it is."""
    home = installation.home.dagster_home
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    target = home / "dagster.yaml"
    if not target.exists():
        target.write_text(resources.files("cleanroom_pipelines.cli").joinpath(_TEMPLATE).read_text())
    return home


@contextmanager
def dagster_instance(installation: Installation) -> Iterator[dg.DagsterInstance]:
    """Dagster's instance of this home, the one that `cleanroom dev` shows; DAGSTER_HOME goes before it."""
    home = os.environ.get("DAGSTER_HOME") or str(prepare_dagster_home(installation))
    with dg.DagsterInstance.from_config(home) as instance:
        yield instance


def _environment(installation: Installation, home: Path) -> dict[str, str]:
    return {
        "DAGSTER_HOME": str(home),
        "CLEANROOM_HOME": str(installation.home.root),
        # the second belt: our own errors hold no data already
        "DAGSTER_REDACT_USER_CODE_ERRORS": os.environ.get("DAGSTER_REDACT_USER_CODE_ERRORS", "1"),
        "DAGSTER_DISABLE_TELEMETRY": "1",
    }
