"""The errors of the Media API that a script can catch.

Lives here: the subclasses of `MediaError`, and failures of jobs, which can also be caught by the class of their
cause.
Add here when scripts must distinguish another condition; `protocol.py` gives it an HTTP status.
Keep out: serializing errors (`protocol.py`), and data: a message never contains an id, e-mail, token or cell.
"""

from typing import Any

from cleanroom_pipelines.errors import CleanroomError, StatusCode


class MediaError(CleanroomError):
    """Base class of all errors that the Media API raises."""


class UnauthorizedError(MediaError, PermissionError):
    """The token is missing, unknown, expired or revoked."""


class PermissionDeniedError(MediaError, PermissionError):
    """The object does not exist or the caller lacks permission; the response does not reveal which."""


class NotFoundError(MediaError, LookupError):
    """The caller can see no object with that name or id."""


class AmbiguousNameError(MediaError, LookupError):
    """Several visible audiences have that name; each participant names its audiences independently."""


class InvalidRequestError(MediaError, ValueError):
    """An argument is invalid; nothing was changed."""


class InvalidDefinitionError(InvalidRequestError):
    """The audience definition is invalid; nothing was created."""


class ConflictError(MediaError):
    """The name is taken, or the current state does not allow the operation."""


class NotProvisionedError(ConflictError):
    """Required data has not been provisioned yet."""


class NotValidatedError(ConflictError):
    """The data lab has not been validated, or failed validation."""


class AudienceHasDependentsError(ConflictError):
    """Other audiences depend on an audience to be deleted; nothing was deleted.

    Keys in `attributes`: `names` of the visible dependents, and `n_others`, the number of hidden ones.
    """

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the dependents that the caller can see."""
        return tuple(self.attributes.get("names", ()))


class BudgetSpentError(MediaError, RuntimeError):
    """The privacy budget is too low; the two data providers can approve a refill."""


class QuotaExceededError(MediaError, RuntimeError):
    """The user has reached a quota set by the operator; nothing was created.

    Keys in `attributes`: `quota` (what is limited) and `limit`.
    """


class TooFewUsersError(MediaError, ValueError):
    """The released user count is too small for the request."""


class ValidationFailedError(MediaError, ValueError):
    """An uploaded file failed validation; see its validation report."""


class UploadTooLargeError(MediaError, ValueError):
    """The file exceeds the server's upload limit."""


class DownloadDamagedError(MediaError, OSError):
    """A downloaded file does not match its announced size or checksum; it was discarded."""


class TooManyRequestsError(MediaError, RuntimeError):
    """The server still limits the request rate after all retries."""


class ServerUnavailableError(MediaError, ConnectionError):
    """The server is unreachable, or did not respond in time."""


class ServerError(MediaError, RuntimeError):
    """The server failed; the operator finds details in its log."""


class JobAlreadyStartedError(MediaError, RuntimeError):
    """`run` was called on a job, although jobs start when they are created."""


class JobFailedError(MediaError, RuntimeError):
    """The job ended without a result."""


class JobCancelledError(JobFailedError):
    """The job was cancelled."""


class JobTimeoutError(MediaError, TimeoutError):
    """The job did not finish within the timeout; it is still running."""


def job_failure(cause: MediaError) -> JobFailedError:
    """Combine `JobFailedError` with the class of its cause, so that callers can catch either."""
    if isinstance(cause, JobFailedError):
        return cause
    kind = type(cause)
    failed = JobFailedError if kind is MediaError else _FAILED_BY.setdefault(kind, _failed_by(kind))
    return failed(cause.message, remedy=cause.remedy, status_code=cause.status_code, **cause.attributes)


_FAILED_BY: dict[type[MediaError], type[JobFailedError]] = {}  # one class per kind, so that types stay comparable


def _failed_by(kind: type[MediaError]) -> type[JobFailedError]:
    def reduce(self: MediaError) -> tuple[Any, ...]:
        return _rebuild_failure, (kind, self.message, self.remedy, self.status_code, self.attributes)

    # any kind can stop a job, so the combined classes are built on demand
    return type(kind.__name__, (kind, JobFailedError), {"__reduce__": reduce, "__module__": __name__})


def _rebuild_failure(
    kind: type[MediaError], message: str, remedy: str, status_code: StatusCode, attributes: dict[str, Any]
) -> JobFailedError:
    return job_failure(kind(message, remedy=remedy, status_code=status_code, **attributes))
