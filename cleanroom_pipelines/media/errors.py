"""The errors that a script of the Media API can meet.

Lives here: the tree under `MediaError`, and the failure of a job that is also what made it fail.
Add here when a script should be able to tell a further condition apart; `protocol.py` gives it an HTTP status.
Keep out: how errors travel (`protocol.py`), and data: no id, e-mail, token or cell stands in a message.
"""

from typing import Any

from cleanroom_pipelines.errors import CleanroomError, StatusCode


class MediaError(CleanroomError):
    """Root of everything that the Media API raises on purpose."""


class UnauthorizedError(MediaError, PermissionError):
    """The token is missing, unknown, expired or revoked."""


class PermissionDeniedError(MediaError, PermissionError):
    """The caller may not do this, or there is nothing of that id for the caller; nobody learns which."""


class NotFoundError(MediaError, LookupError):
    """There is nothing of that name or id among what the caller may see."""


class AmbiguousNameError(MediaError, LookupError):
    """Several audiences of that name are visible; groups name their audiences independently."""


class InvalidRequestError(MediaError, ValueError):
    """An argument cannot be used; nothing was done."""


class InvalidDefinitionError(InvalidRequestError):
    """An audience's definition is wrong; nothing was created."""


class ConflictError(MediaError):
    """The name is taken, or the state of things does not allow this now."""


class NotProvisionedError(ConflictError):
    """A side has not brought its data yet."""


class NotValidatedError(ConflictError):
    """The data lab was not validated, or did not pass."""


class AudienceHasDependentsError(ConflictError):
    """Other audiences are made from one that was to be deleted; nothing was deleted.

    Attributes in `attributes`: `names` of the dependents that the caller may see, and `n_others` that it may not.
    """

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the dependents that the caller may see."""
        return tuple(self.attributes.get("names", ()))


class BudgetSpentError(MediaError, RuntimeError):
    """The pair's privacy budget does not suffice; the two providers can approve a refill."""


class QuotaExceededError(MediaError, RuntimeError):
    """The user has as many things of a kind as the operator allows; nothing was made.

    Attributes in `attributes`: `quota`, what there are too many of, and `limit`.
    """


class TooFewUsersError(MediaError, ValueError):
    """Too few users, by the released count, for what was asked."""


class ValidationFailedError(MediaError, ValueError):
    """An uploaded file cannot be used; its validation report says why."""


class UploadTooLargeError(MediaError, ValueError):
    """The server takes no file of this size."""


class DownloadDamagedError(MediaError, OSError):
    """A downloaded file is not what the server said it would send; nothing of it was kept."""


class TooManyRequestsError(MediaError, RuntimeError):
    """The server asked to slow down, also after waiting."""


class ServerUnavailableError(MediaError, ConnectionError):
    """The server cannot be reached, or did not answer in time."""


class ServerError(MediaError, RuntimeError):
    """The server failed; its log says more to the operator."""


class JobAlreadyStartedError(MediaError, RuntimeError):
    """Jobs are started when they are made; `run` has nothing left to do."""


class JobFailedError(MediaError, RuntimeError):
    """The job ended without a result."""


class JobCancelledError(JobFailedError):
    """Somebody cancelled the job."""


class JobTimeoutError(MediaError, TimeoutError):
    """The job did not end in the time that was given; it goes on."""


def job_failure(cause: MediaError) -> JobFailedError:
    """The failure of a job: a `JobFailedError` that is also what stopped the job, so that either can be caught."""
    if isinstance(cause, JobFailedError):
        return cause
    kind = type(cause)
    failed = JobFailedError if kind is MediaError else _FAILED_BY.setdefault(kind, _failed_by(kind))
    return failed(cause.message, remedy=cause.remedy, status_code=cause.status_code, **cause.attributes)


_FAILED_BY: dict[type[MediaError], type[JobFailedError]] = {}  # one class a kind, so that types can be compared


def _failed_by(kind: type[MediaError]) -> type[JobFailedError]:
    def reduce(self: MediaError) -> tuple[Any, ...]:
        return _rebuild_failure, (kind, self.message, self.remedy, self.status_code, self.attributes)

    # every kind can stop a job, and nothing is to be said of the pair that its two bases do not say
    return type(kind.__name__, (kind, JobFailedError), {"__reduce__": reduce, "__module__": __name__})


def _rebuild_failure(
    kind: type[MediaError], message: str, remedy: str, status_code: StatusCode, attributes: dict[str, Any]
) -> JobFailedError:
    return job_failure(kind(message, remedy=remedy, status_code=status_code, **attributes))
