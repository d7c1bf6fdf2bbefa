"""Failures in Dagster with our own sentences, which Dagster shows first and never masks.

Lives here: the failure of a step, check or tick.
Add here when Dagster shows the reason of a failure in another way.
Keep out: why a version failed (runs.reasons), and events on its partition (materializing).
"""

from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

import dagster as dg

from cleanroom_pipelines.errors import CleanroomError
from cleanroom_pipelines.runs.work import without_data

P = ParamSpec("P")
T = TypeVar("T")


class Failed(dg.Failure, dg.DagsterError):
    """A failure with this package's own text and metadata. Dagster shows it even if it masks other errors.

    With DAGSTER_REDACT_USER_CODE_ERRORS Dagster marks errors of user code, and replaces the text of marked ones.
    In a tick it marks the error that it wraps them in, unless they are errors of its own.
    """

    __module__ = "builtins"  # so that Dagster shows "Failed: " and the reason, without the name of a module

    @property
    def _redacted_error_uuid(self) -> None:
        return None

    @_redacted_error_uuid.setter
    def _redacted_error_uuid(self, _: str) -> None:
        pass


def in_words(function: Callable[P, T]) -> Callable[P, T]:
    """Make an op, sensor, schedule or check report errors in this package's own words, without data."""

    @wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            with without_data():
                return function(*args, **kwargs)
        except CleanroomError as error:
            raise Failed(description=str(error), allow_retries=False) from None

    return call
