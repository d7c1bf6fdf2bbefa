"""Dagster's folder in the home: its settings, its databases, and one instance for all processes of the home.

Lives here: writing the folder from the packaged template, the environment and the instance on it, and loading all
definitions in this process, as Dagster's daemon does.
Add here when Dagster needs another setting.
Keep out: starting processes (cli, serving_worker) and settings of the installation (installation.py).
"""

import os
import sqlite3
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from importlib import import_module, resources
from pathlib import Path
from typing import Any, TextIO, cast

import dagster as dg
import yaml
from dagster._core.remote_origin import (
    ManagedGrpcPythonEnvCodeLocationOrigin,
    RemoteJobOrigin,
    RemoteRepositoryOrigin,
)
from dagster._core.storage.tags import REPOSITORY_LABEL_TAG
from dagster._core.types.loadable_target_origin import LoadableTargetOrigin
from sqlalchemy.exc import DBAPIError
from yaml import YAMLError

from cleanroom_pipelines.engine.plain_paths import plain_folder
from cleanroom_pipelines.errors import CleanroomError, ConfigurationError, StorageFullError
from cleanroom_pipelines.runs.installation import Installation
from cleanroom_pipelines.storage.artifacts import write_durably
from cleanroom_pipelines.storage.processes import locked

_SETTINGS = "dagster.yaml"
_LOCK = ".opening.lock"
_QUOTES_AN_EVENT = "Exception while writing logger call to event log"


def prepare_dagster_home(installation: Installation) -> Path:
    """Create Dagster's folder and databases from the packaged template; an edited file is not overwritten.

    Safe to call from several processes at once.

    Raises:
        IdentityError: Home, catalogue and key do not belong together.
    """
    installation.check()
    home = _write_settings(installation)
    with _opened(home):
        return home


class DagsterStorageError(CleanroomError):
    """One of Dagster's databases is unavailable or damaged; the project's own catalogue may be intact."""


@contextmanager
def dagster_instance(installation: Installation) -> Iterator[dg.DagsterInstance]:
    """Open the Dagster instance in DAGSTER_HOME if that is set, or else the one in this home."""
    installation.check()
    home = os.environ.get("DAGSTER_HOME")
    with _opened(Path(home) if home else _write_settings(installation)) as instance:
        yield instance


def _write_settings(installation: Installation) -> Path:
    home = installation.home.dagster_home
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    target = home / _SETTINGS
    if not target.exists():
        write_durably(target, resources.files("cleanroom_pipelines.runs").joinpath(_SETTINGS).read_bytes())
    return home


@contextmanager
def _opened(home: Path) -> Iterator[dg.DagsterInstance]:
    """Open an instance, one process at a time: creating its databases concurrently corrupts them."""
    # Dagster builds URLs by joining paths as text, and finds its settings and databases by glob patterns.
    with _failures_explained(home), _without_quotes(), plain_folder(home) as plain:
        with _lock(home):
            instance = dg.DagsterInstance.from_config(str(plain))
        with instance:
            yield instance


@contextmanager
def _lock(home: Path) -> Iterator[None]:
    with ExitStack() as stack:
        try:
            stack.enter_context(locked(home / _LOCK))
        except OSError as error:
            raise ConfigurationError(
                f"Dagster's folder is not writable ({type(error).__name__}).",
                remedy="Check that the home, or the folder in DAGSTER_HOME, exists and is writable.",
            ) from None
        yield


@contextmanager
def _failures_explained(home: Path) -> Iterator[None]:
    """Convert Dagster's errors about its settings and databases into our own."""
    try:
        yield
    except (dg.DagsterInvalidConfigError, YAMLError):
        raise _wrong_settings(home) from None
    except DBAPIError as error:
        raise _of_a_database(error) from None
    except sqlite3.Error as error:  # raised by Dagster's own cleanup
        raise _of_a_database(error) from None


@contextmanager
def _without_quotes() -> Iterator[None]:
    """Suppress Dagster's message about an event that could not be stored, because it quotes the event.

    The error itself is still raised.
    """
    before = sys.stderr
    sys.stderr = cast("TextIO", _WithoutQuotes(before)) if before is not None else before
    try:
        yield
    finally:
        sys.stderr = before


class _WithoutQuotes:
    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        return len(text) if text.startswith(_QUOTES_AN_EVENT) else self._stream.write(text)


def _wrong_settings(home: Path) -> ConfigurationError:
    try:
        missing = sorted(set(_variables_in(yaml.safe_load((home / _SETTINGS).read_bytes()))) - os.environ.keys())
    except (OSError, YAMLError):
        missing = []
    if missing:
        return ConfigurationError(
            f"Dagster's settings use the variable {missing[0]}, which is not set.",
            remedy=f"Set it, or change {_SETTINGS} in Dagster's folder.",
        )
    return ConfigurationError(
        f"Dagster's settings ({_SETTINGS} in its folder) are invalid.",
        remedy="Set DAGSTER_HOME to that folder and run `dagster instance info` to see the problem.",
    )


def _variables_in(settings: Any) -> Iterator[str]:
    """Return the names of the variables that settings refer to as `{env: NAME}`."""
    if isinstance(settings, dict):
        name = settings.get("env")
        if len(settings) == 1 and isinstance(name, str):
            yield name
    for inner in (
        settings.values() if isinstance(settings, dict) else settings if isinstance(settings, list) else ()
    ):
        yield from _variables_in(inner)


def _of_a_database(error: DBAPIError | sqlite3.Error) -> CleanroomError:
    reason = str(error.orig if isinstance(error, DBAPIError) else error)
    if "disk is full" in reason or "disk I/O error" in reason:  # the latter when its log has no space
        return StorageFullError(
            "The disk of Dagster's databases is full or failing.", remedy="Free some space, then try again."
        )
    if "malformed" in reason or "not a database" in reason:
        return DagsterStorageError(
            "One of Dagster's databases is damaged. The catalogue is a separate database.",
            remedy="Move Dagster's folder out of the home and restart: a new one is created, without past runs.",
        )
    if "readonly" in reason or "unable to open" in reason:
        return ConfigurationError(
            "Dagster's databases cannot be opened for writing.",
            remedy="Check that their folder is writable and that its disk has free space.",
        )
    cause = type(error.orig if isinstance(error, DBAPIError) else error).__name__
    return DagsterStorageError(
        f"Dagster's database is unavailable or failed ({cause}).",
        remedy="Check that it is running and that its disk works, then try again.",
    )


def dagster_environment(installation: Installation, home: Path) -> dict[str, str]:
    """Return the environment variables that a process needs to run Dagster on this home.

    Args:
        installation: The installation to work on.
        home: Dagster's folder in it, by a path that `plain_folder` gave.
    """
    return {
        "DAGSTER_HOME": str(home),
        "CLEANROOM_HOME": str(installation.home.root),
        # a second safeguard: our own errors hold no data anyway
        "DAGSTER_REDACT_USER_CODE_ERRORS": os.environ.get("DAGSTER_REDACT_USER_CODE_ERRORS", "1"),
        "DAGSTER_DISABLE_TELEMETRY": "1",
    }


CODE_LOCATION = "cleanroom_pipelines.definitions"
_REPOSITORY = "__repository__"
LOCATION_TAGS = {REPOSITORY_LABEL_TAG: f"{_REPOSITORY}@{CODE_LOCATION}"}
"""The tag that Dagster gives to runs of this code location when it launches them itself."""


@cache
def load_repository() -> dg.RepositoryDefinition:
    """Load all Dagster definitions by module name, like a daemon, because `runs` must not import `defs`."""
    repository: dg.RepositoryDefinition = import_module(CODE_LOCATION).defs().get_repository_def()
    return repository


def origin_of(job_name: str) -> RemoteJobOrigin:
    """Return the code-location origin to store with a job's runs; Dagster's timeline omits runs without it."""
    target = LoadableTargetOrigin(executable_path=sys.executable, module_name=CODE_LOCATION)
    location = ManagedGrpcPythonEnvCodeLocationOrigin(target, location_name=CODE_LOCATION)
    return RemoteJobOrigin(RemoteRepositoryOrigin(location, _REPOSITORY), job_name)
