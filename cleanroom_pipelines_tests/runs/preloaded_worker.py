"""The worker's process of test_serving_worker, forked from one that has loaded what every worker loads.

`multiprocessing`'s fork server imports this module once; to start an interpreter for each worker takes seconds.
"""

import os
import sys
from collections.abc import Mapping
from multiprocessing.connection import Connection
from pathlib import Path

from cleanroom_pipelines.runs import serving_worker
from cleanroom_pipelines.runs.dagster_home import load_repository

load_repository()


def main(environment: Mapping[str, str], parent: Connection, log: Path) -> None:
    """Be `python -m cleanroom_pipelines.runs.serving_worker`.

    Args:
        environment: All of its variables.
        parent: The end of a pipe that becomes its standard input.
        log: Takes what it prints.
    """
    os.environ.clear()
    os.environ.update(environment)
    os.dup2(parent.fileno(), 0)
    parent.close()
    sys.stdin = os.fdopen(0, closefd=False)
    printed = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(printed, 1)
    os.dup2(printed, 2)
    serving_worker.main()
