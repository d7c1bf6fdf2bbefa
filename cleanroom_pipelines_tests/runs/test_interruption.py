"""A process that is asked to stop requeues its work, whatever the signal interrupts.

Contract: a shutdown makes the version pending again at once, without counting an attempt, also if the signal
arrives while the claim is taken, if a library converts it to its own error, and between two shards. A run that was
stopped on purpose fails its version as CANCELLED.
"""

import os
import signal
from collections.abc import Callable, Iterator
from types import FrameType

import pytest

from cleanroom_pipelines.catalog import RECORDS, Cause, Kind, Version
from cleanroom_pipelines.errors import ClaimLostError, EngineError, SeedError
from cleanroom_pipelines.runs.installation import Installation
from cleanroom_pipelines.runs.signals import handle_signals
from cleanroom_pipelines.runs.work import Run, Work, working

from .building import make_room

KIND = Kind.CONFIGURED_AUDIENCE_MODEL


class Interrupted(BaseException):
    """What a handler of Dagster's raises."""


@pytest.fixture(params=[signal.SIGTERM, signal.SIGINT])
def send_signal(request: pytest.FixtureRequest) -> Iterator[Callable[[], None]]:
    """Sends this process a signal whose handler raises, as Dagster's do."""

    def raise_it(_number: int, _frame: FrameType | None) -> None:
        raise Interrupted

    before = signal.signal(request.param, raise_it)
    yield lambda: os.kill(os.getpid(), request.param)
    signal.signal(request.param, before)


@pytest.fixture
def key(installation: Installation) -> str:
    """A resource that is pending, its parents finished."""
    key = make_room(installation.catalog, declared=True).id
    installation.catalog.work.request_version(KIND, key, Cause.BY_HAND)
    return key


def newest(installation: Installation, key: str) -> Version:
    return installation.catalog.resources.newest_version(KIND, key)


def is_as_before(installation: Installation, key: str) -> bool:
    version = newest(installation, key)
    return (version.status, version.attempt) == ("CREATE_PENDING", 0)


def test_signal_requeues_the_work(installation: Installation, key: str, send_signal: Callable[[], None]) -> None:
    with pytest.raises(Interrupted), working(installation, RECORDS[KIND], key, Run("run", 2)):
        send_signal()
    assert is_as_before(installation, key)


@pytest.mark.parametrize(
    "error", [RuntimeError("Query interrupted"), EngineError("It failed."), SeedError("Bad.")]
)
def test_signal_raised_as_an_error_requeues_the_work(
    installation: Installation, key: str, send_signal: Callable[[], None], error: Exception
) -> None:
    with pytest.raises(KeyboardInterrupt), working(installation, RECORDS[KIND], key, Run("run", 2)):
        try:
            send_signal()
        except Interrupted:
            raise error from None
    assert is_as_before(installation, key)


@pytest.mark.parametrize("when", ["before", "after"])
def test_signal_during_claiming_requeues_the_work(
    installation: Installation, key: str, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    claim = installation.catalog.work.claim

    def interrupted(*arguments: object) -> None:
        if when == "after":
            claim(*arguments)
        monkeypatch.setattr(installation.catalog.work, "claim", claim)
        raise Interrupted

    monkeypatch.setattr(installation.catalog.work, "claim", interrupted)
    with pytest.raises(Interrupted), working(installation, RECORDS[KIND], key, Run("run", 2)):
        pytest.fail("the body is not reached")
    assert is_as_before(installation, key)


def test_stop_is_checked_between_shards(
    installation: Installation, key: str, send_signal: Callable[[], None]
) -> None:
    with pytest.raises(KeyboardInterrupt), working(installation, RECORDS[KIND], key, Run("run", 2)) as work:
        assert isinstance(work, Work)
        assert not work.should_cancel()
        with pytest.raises(Interrupted):
            send_signal()
        work.should_cancel()
    assert is_as_before(installation, key)


def test_deliberately_stopped_run_is_cancelled(
    installation: Installation, key: str, send_signal: Callable[[], None]
) -> None:
    with pytest.raises(Interrupted), working(installation, RECORDS[KIND], key, Run("run", 2, lambda: True)):
        send_signal()
    version = newest(installation, key)
    assert (version.status, version.status_code) == ("CREATE_FAILED", "CANCELLED")


def test_work_taken_over_by_another_run_is_left_unchanged(
    installation: Installation, key: str, send_signal: Callable[[], None]
) -> None:
    catalog = installation.catalog
    with (
        pytest.raises((Interrupted, ClaimLostError)),
        working(installation, RECORDS[KIND], key, Run("run", 2)) as work,
    ):
        assert isinstance(work, Work)
        catalog.work.release(work.claim)
        assert catalog.work.claim(KIND, key, 2, "another") is not None
        send_signal()
    assert (newest(installation, key).status, newest(installation, key).run_id) == (
        "CREATE_IN_PROGRESS",
        "another",
    )


def test_error_without_a_signal_fails_the_work(installation: Installation, key: str) -> None:
    with pytest.raises(SeedError), working(installation, RECORDS[KIND], key, Run("run", 2)):
        raise SeedError("Bad.")
    assert newest(installation, key).status == "CREATE_FAILED"


def test_signals_are_detected_at_once_and_only_inside_the_block(send_signal: Callable[[], None]) -> None:
    with handle_signals() as outer, handle_signals() as inner:
        assert inner is outer
        assert not outer.wait(0.01)
        with pytest.raises(Interrupted):
            send_signal()
        assert inner.is_set()
        assert outer.wait(60)
    with handle_signals() as next_one:
        assert not next_one.is_set()
    assert signal.set_wakeup_fd(-1) == -1, "nothing is left installed"
