"""The code location: loading all Dagster definitions in this process, as Dagster's daemon does.

Lives here: loading the definitions in this process, and the origin that ties a run to them.
Add here when a process needs something else from the loaded definitions.
Keep out: the definitions (defs) and running jobs (running.py).
"""

import sys
from functools import cache
from importlib import import_module

import dagster as dg
from dagster._core.remote_origin import (
    ManagedGrpcPythonEnvCodeLocationOrigin,
    RemoteJobOrigin,
    RemoteRepositoryOrigin,
)
from dagster._core.storage.tags import REPOSITORY_LABEL_TAG
from dagster._core.types.loadable_target_origin import LoadableTargetOrigin

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
