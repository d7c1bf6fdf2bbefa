"""The worker of `cleanroom serve`: does pending work until it is asked to stop.

Lives here: the loop, and stopping it on signals.
Add here when the worker must look for other work.
Keep out: the work itself (running.py, deleting.py), and declared refreshes and the inbox (the daemon).

`serve` starts this process as `python -m cleanroom_pipelines.runs.serving_worker [LANE]`. It reads its settings
from the environment and ends with its parent, when the pipe at its standard input closes. On SIGTERM it finishes
the current shard and requeues unfinished work at once; after SIGKILL the work is requeued when its lease expires.
"""

import logging
import os
import signal
import stat
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import dagster as dg

from cleanroom_pipelines.catalog import Lane
from cleanroom_pipelines.errors import CleanroomError
from cleanroom_pipelines.runs.dagster_home import LOCATION_TAGS, dagster_instance, load_repository
from cleanroom_pipelines.runs.deleting import delete_pending
from cleanroom_pipelines.runs.inbox import close_all_drops, recover_drops
from cleanroom_pipelines.runs.installation import Installation
from cleanroom_pipelines.runs.labels import WORKER_TAG
from cleanroom_pipelines.runs.rebuilding import has_history, rebuild_history
from cleanroom_pipelines.runs.retention import housekeeping
from cleanroom_pipelines.runs.running import SCORING_JOB, run_pending, sending_heartbeats
from cleanroom_pipelines.runs.shared_scoring import n_helpers_wanted
from cleanroom_pipelines.runs.signals import STOP_SIGNALS, StopRequest, handle_signals
from cleanroom_pipelines.runs.supervision import fail_runs_that_never_appeared, supervise
from cleanroom_pipelines.runs.work import UnexpectedError, without_data_of

_LOG = logging.getLogger(__name__)
# How often it checks for dead runs and does the cleanup.
_ROUND_SECONDS = 5.0
# How often it checks all inbox jobs, and retries work that it could not start.
_LONG_ROUND_SECONDS = 60.0


def work_until_stopped(
    installation: Installation, stop: Callable[[], bool], *, poll_seconds: float = 1.0, lane: Lane | None = None
) -> None:
    """Do all pending work and deletions of a home as they arrive, until asked to stop.

    It repeats no work of a daemon or another worker. Failures, such as an unavailable database, are logged and
    retried. In the main thread SIGTERM and SIGINT also stop it, even during work.

    Args:
        installation: The installation to work on; must be that of the environment variables, which assets open.
        stop: Checked in every round and between pieces of work.
        poll_seconds: Interval between checks for new work.
        lane: Do the work of one lane only.
    """
    load_repository()  # takes seconds: load it before there is work
    worker = f"serve-{installation.token_hex(6)}"
    with (
        _stop_signals() as stop_signal,
        dagster_instance(installation) as instance,
        sending_heartbeats(installation, worker),
    ):
        rounds = Rounds(installation, instance, worker, lambda: stop_signal.is_set() or stop(), lane)
        while not rounds.should_stop():
            try:
                rounds.do_round()
            except KeyboardInterrupt:
                if not stop_signal.is_set():
                    raise
            except Exception as error:
                safe_error = error if isinstance(error, CleanroomError) else without_data_of(error)
                _LOG.warning("%s The worker continues.", safe_error)
            stop_signal.wait(poll_seconds)


class Rounds:
    """The loop of a worker: what it does in each round, and the state that it keeps between rounds."""

    def __init__(
        self,
        installation: Installation,
        instance: dg.DagsterInstance,
        worker: str,
        should_stop: Callable[[], bool],
        lane: Lane | None = None,
    ) -> None:
        self.should_stop = should_stop
        self._installation = installation
        self._instance = instance
        self._worker = worker
        self._lane = lane
        self._passed_over = set[str]()
        self._next_round = self._next_long_round = 0.0

    def do_round(self) -> None:
        """Do one round: clean up if it is due, then do all pending work."""
        installation, instance = self._installation, self._instance
        installation.check()
        if time.monotonic() >= self._next_long_round:
            self._passed_over.clear()
            housekeeping(installation, instance)
            recover_drops(installation)
            close_all_drops(installation)
            if not has_history(installation, instance):
                rebuild_history(installation, instance, self.should_stop)
            self._next_long_round = time.monotonic() + _LONG_ROUND_SECONDS
        if time.monotonic() >= self._next_round:
            supervise(installation, instance)
            fail_runs_that_never_appeared(installation, instance)
            delete_pending(installation, instance)
            self._next_round = time.monotonic() + _ROUND_SECONDS
        elif installation.catalog.deletion.deletions(limit=1):
            delete_pending(installation, instance)
        if n_helpers_wanted(installation):
            self.help_scoring()
        if any(
            version.run_key not in self._passed_over
            for version in installation.catalog.work.ready(lane=self._lane)
        ):
            run_pending(
                installation,
                instance,
                worker=self._worker,
                should_stop=self.should_stop,
                passed_over=self._passed_over,
                lane=self._lane,
            )

    def help_scoring(self) -> None:
        """Score users for a job that runs on another host; the scoring is a Dagster run of its own."""
        load_repository().get_job(SCORING_JOB).execute_in_process(
            instance=self._instance,
            raise_on_error=False,
            tags={WORKER_TAG: self._worker} | LOCATION_TAGS,
            run_config={"loggers": {"console": {"config": {"log_level": "ERROR"}}}},
        )


@contextmanager
def _stop_signals() -> Iterator[StopRequest]:
    """Record stop signals instead of ending the process; only possible in the main thread."""
    with handle_signals() as stop_signal:
        if threading.current_thread() is not threading.main_thread():
            yield stop_signal
            return
        before = {number: signal.getsignal(number) for number in STOP_SIGNALS}
        try:
            for number in STOP_SIGNALS:
                signal.signal(number, lambda *_: None)
            yield stop_signal
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def _end_of_parent() -> threading.Event:
    """Return an event that is set when stdin is closed, because the parent process has ended or was killed."""
    ended = threading.Event()

    def watch() -> None:
        while os.read(sys.stdin.fileno(), 64):
            pass
        ended.set()

    if sys.stdin and stat.S_ISFIFO(os.fstat(sys.stdin.fileno()).st_mode):
        threading.Thread(target=watch, name="end of parent", daemon=True).start()
    return ended


def main(arguments: Sequence[str] = ()) -> None:
    """Do the work of the configured installation until a stop signal arrives or the parent process ends.

    Args:
        arguments: The lane to work on; empty: all lanes.
    """
    os.environ.setdefault("DAGSTER_REDACT_USER_CODE_ERRORS", "1")  # a second safeguard, as in `cleanroom dev`
    os.environ.setdefault("DAGSTER_DISABLE_TELEMETRY", "1")
    lane = Lane(arguments[0]) if arguments else None
    try:
        work_until_stopped(Installation.from_environment(), _end_of_parent().is_set, lane=lane)
    except Exception as error:
        safe_error = error if isinstance(error, CleanroomError) else without_data_of(error)
        sys.stderr.write(f"cleanroom: {safe_error}\n")
        sys.exit(1 if isinstance(safe_error, UnexpectedError) else 2)


if __name__ == "__main__":
    main(sys.argv[1:])
