"""`cleanroom dev`: Dagster's UI and daemon for this installation.

Lives here: starting the UI and the daemon together.
Add here when they get another start option.
Keep out: Dagster's own folder (runs.dagster_home) and settings of the installation (runs.installation).
"""

import os
import shutil
import signal
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import NoReturn

import click

from cleanroom_pipelines.engine.plain_paths import plain_folder
from cleanroom_pipelines.errors import ConfigurationError
from cleanroom_pipelines.runs.dagster_home import CODE_LOCATION, dagster_environment, prepare_dagster_home
from cleanroom_pipelines.runs.installation import Installation


def start_dagster(host: str, port: int) -> NoReturn:
    """Replace this process by `dg dev`; if the home's path needs a temporary link, run it as a child instead.

    Raises:
        ConfigurationError: Dagster's command is not installed in this environment, or the home cannot be used.
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
    click.echo(f"Dagster on {installation.home.root}: http://{host}:{port}", err=True)
    arguments = [command, "dev", "--host", host, "--port", str(port), "--module-name", CODE_LOCATION]
    with plain_folder(home) as plain:
        environment = os.environ | dagster_environment(installation, plain)
        os.chdir(plain)
        if plain == home:
            os.execve(command, arguments, environment)  # noqa: S606 - dg of this environment
        sys.exit(_wait_for(arguments, environment))


def _wait_for(arguments: list[str], environment: dict[str, str]) -> int:
    """Run a command until it ends, and forward SIGTERM to it."""
    children: list[subprocess.Popen[bytes]] = []
    received: list[int] = []

    def pass_on(number: int, _frame: object) -> None:
        received.append(number)
        for child in children:
            child.send_signal(number)

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends it to the child too
    signal.signal(signal.SIGTERM, pass_on)  # set before the child starts, so that no signal is lost
    children.append(subprocess.Popen(arguments, env=environment))  # noqa: S603 - dg of this environment
    for number in received:
        children[0].send_signal(number)
    return children[0].wait()
