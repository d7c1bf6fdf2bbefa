"""Report changes for the audit log: methods that change the catalogue report each call, successful or rejected.

Lives here: the decorator of such methods, and the contents of a report.
Add here when another argument of these methods identifies what is changed.
Keep out: the audit log itself (storage); bookkeeping of runs, such as leases and progress, is not reported.
"""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from typing import Any, TypeVar, cast

from cleanroom_pipelines.errors import CleanroomError
from cleanroom_pipelines.ways_in import REQUEST, acting_for, way_in

_KEYS = (
    "resource_id",
    "job_id",
    "model_id",
    "configured_id",
    "data_room_id",
    "collaboration_id",
    "key_id",
    "token_id",
    "upload_id",
)

F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True)
class Change:
    """One change to the catalogue, applied or rejected.

    Attributes:
        operation: The name of the catalogue's method.
        way: The entry point: cli, inbox, ui, schedule, worker.
        resource: The key of the changed object, if it has one.
        account: The account concerned, if any.
        email: The user concerned, if any; never logged in plain text.
        error: The error that rejected it; None if it was applied.
    """

    operation: str
    way: str
    resource: str | None
    account: str | None
    email: str | None
    error: CleanroomError | None


def noted(method: F) -> F:
    """Decorate a method that changes the catalogue: pass each applied or rejected call to `on_change`."""
    signature = inspect.signature(method)

    @wraps(method)
    def noting(self: Any, *args: Any, **kwargs: Any) -> Any:
        way = way_in()
        if self._database.on_change is None or way == REQUEST:
            return method(self, *args, **kwargs)
        try:
            with acting_for(REQUEST):  # a decorated method that calls another one is reported once
                result = method(self, *args, **kwargs)
        except CleanroomError as error:
            given = signature.bind(self, *args, **kwargs).arguments
            self._database.on_change(_change(method.__name__, way, given, None, error))
            raise
        given = signature.bind(self, *args, **kwargs).arguments
        self._database.on_change(_change(method.__name__, way, given, result, None))
        return result

    return cast(F, noting)


def _change(
    operation: str, way: str, given: dict[str, Any], result: object, error: CleanroomError | None
) -> Change:
    resource = next((given[name] for name in _KEYS if isinstance(given.get(name), str)), None)
    of_result = (getattr(result, name, None) for name in ("resource_id", "id", "key_id", "token_id"))
    return Change(
        operation=operation,
        way=way,
        resource=resource or next((key for key in of_result if isinstance(key, str)), None),
        account=given.get("account_id") or getattr(result, "account_id", None),
        email=given.get("email"),
        error=error,
    )
