"""The wire protocol between the client and the server's handlers.

Lives here: the paths, the methods, the kinds and states of jobs, and the serialization of errors.
Add here when the protocol gets another method, kind of job or error.
Keep out: sending (`client.py`), handling (the server), and the results' types (`results.py`).

`POST <PREFIX>/<method>` with `Authorization: Bearer <token>` takes a JSON object and returns `{"result": …}`.
`PUT <PREFIX>/uploads?name=…` uploads a file, `GET <PREFIX>/jobs/<job id>/files/<name>` downloads one. Errors are
returned as `{"error": {"type", "message", "remedy", "attributes"}}`, with an HTTP status that depends on the type.
"""

import json
from collections.abc import Mapping
from enum import StrEnum
from typing import Any

from cleanroom_pipelines import errors as core
from cleanroom_pipelines.media import errors
from cleanroom_pipelines.media.errors import MediaError

PREFIX = "/_cleanroom/media/v1"
UPLOADS = f"{PREFIX}/uploads"


class Method(StrEnum):
    """The methods of the protocol."""

    WHOAMI = "whoami"
    CREATE_ROOM = "create_room"
    GET_ROOM = "get_room"
    LIST_ROOMS = "list_rooms"
    CREATE_LAB = "create_lab"
    GET_LAB = "get_lab"
    LIST_LABS = "list_labs"
    START_LAB = "start_lab"
    DELETE_LAB = "delete_lab"
    PROVISION_BASE = "provision_base"
    DEPROVISION_BASE = "deprovision_base"
    PROVISION_SEEDS = "provision_seeds"
    DEPROVISION_SEEDS = "deprovision_seeds"
    GET_PROVISIONING = "get_provisioning"
    GET_ROOM_DATA = "get_room_data"
    GET_UPLOAD = "get_upload"
    CONVERT_UPLOAD = "convert_upload"
    DELETE_UPLOAD = "delete_upload"
    CREATE_AUDIENCE = "create_audience"
    LIST_AUDIENCES = "list_audiences"
    GET_AUDIENCE = "get_audience"
    GET_DRAFT = "get_draft"
    REFRESH_AUDIENCE = "refresh_audience"
    SHARE_AUDIENCES = "share_audiences"
    DELETE_AUDIENCES = "delete_audiences"
    START_JOB = "start_job"
    GET_JOB = "get_job"
    GET_JOB_PRICE = "get_job_price"
    GET_JOB_RESULT = "get_job_result"
    LIST_JOBS = "list_jobs"
    CANCEL_JOB = "cancel_job"
    GET_AUDIT_LOG = "get_audit_log"
    GET_ESTIMATE = "get_estimate"
    RENEW_BASE_FIGURES = "renew_base_figures"
    GET_LEDGER = "get_ledger"
    LIST_PROPOSALS = "list_proposals"
    PROPOSE = "propose"
    APPROVE = "approve"
    REJECT = "reject"
    DECLINE_ROOM = "decline_room"
    ADD_USER = "add_user"
    REMOVE_USER = "remove_user"
    GET_MEMBERS = "get_members"
    INVITE_USER = "invite_user"

    @property
    def only_reads(self) -> bool:
        """Whether the method only reads, so that it can be retried safely after a lost response."""
        return self is Method.WHOAMI or self.value.startswith(("get_", "list_"))


class JobKind(StrEnum):
    """The kinds of jobs of data rooms and data labs."""

    OVERLAP_STATISTICS = "overlap_statistics"
    INSIGHTS = "insights"
    DATA_ATTRIBUTES = "data_attributes"
    AUDIENCES = "audiences"
    AUDIENCE_SIZE = "audience_size"
    USER_LIST = "user_list"
    LOOKALIKE_STATISTICS = "lookalike_statistics"
    BASE_REPORTS = "base_reports"
    SEEDS_REPORT = "seeds_report"
    LAB_VALIDATION = "lab_validation"


class JobStatus(StrEnum):
    """The status of a job."""

    RUNNING = "Running"
    SUCCESS = "Success"
    FAILED = "Failed"


def file_path(job_id: str, name: str) -> str:
    """Return the URL path of a job's file; the server's own ids and names need no escaping."""
    return f"{PREFIX}/jobs/{job_id}/files/{name}"


_STATUS: Mapping[type[MediaError], int] = {
    errors.InvalidRequestError: 400,
    errors.InvalidDefinitionError: 400,
    errors.TooFewUsersError: 400,
    errors.ValidationFailedError: 400,
    errors.UnauthorizedError: 401,
    errors.BudgetSpentError: 403,
    errors.PermissionDeniedError: 403,
    errors.QuotaExceededError: 403,
    errors.AmbiguousNameError: 404,
    errors.NotFoundError: 404,
    errors.AudienceHasDependentsError: 409,
    errors.ConflictError: 409,
    errors.JobAlreadyStartedError: 409,
    errors.JobCancelledError: 409,
    errors.JobFailedError: 409,
    errors.NotProvisionedError: 409,
    errors.NotValidatedError: 409,
    errors.UploadTooLargeError: 413,
    errors.TooManyRequestsError: 429,
    errors.ServerError: 500,
    errors.DownloadDamagedError: 500,
    errors.ServerUnavailableError: 503,
    errors.JobTimeoutError: 504,
}
_BY_NAME: Mapping[str, type[MediaError]] = {kind.__name__: kind for kind in _STATUS}

# Core errors by class, first match first; the caller cannot fix the errors that are missing here.
_OF_CORE: tuple[tuple[type[core.CleanroomError], type[MediaError]], ...] = (
    (core.NotFoundError, errors.NotFoundError),
    (core.ConflictError, errors.ConflictError),
    (core.CancelledError, errors.JobCancelledError),
    (core.UsageError, errors.InvalidRequestError),
    (core.InputError, errors.ValidationFailedError),
)


def as_media_error(error: Exception) -> MediaError:
    """Convert any error into a Media API error; an unexpected error becomes a `ServerError` without its text.

    A core error becomes the Media API error with its own name or that of a base class, if there is one; for
    others, a table maps core classes to Media API errors.
    """
    if isinstance(error, MediaError):
        return error
    if not isinstance(error, core.CleanroomError):
        return errors.ServerError(
            "The server failed.", remedy="Try again. If it happens again, tell the operator."
        )
    if _is_of_a_definition(error):
        place = {"place": error.attributes["place"]} if "place" in error.attributes else {}
        return errors.InvalidDefinitionError(error.message, remedy=error.remedy, **place)
    named = (_BY_NAME[kind.__name__] for kind in type(error).__mro__ if kind.__name__ in _BY_NAME)
    by_class = (ours for theirs, ours in _OF_CORE if isinstance(error, theirs))
    kind = next(named, None) or next(by_class, None)
    if kind is None:
        return errors.ServerError(
            f"The server failed ({type(error).__name__}).",
            remedy="Try again. If it happens again, tell the operator.",
        )
    return kind(error.message, remedy=error.remedy, status_code=error.status_code, **error.attributes)


def error_as_dict(error: Exception) -> dict[str, Any]:
    """Serialize an error into the value of `"error"`."""
    known = as_media_error(error)
    return {
        "type": _wire_type(known).__name__,
        "message": known.message,
        "remedy": known.remedy,
        "attributes": {name: fact for name, fact in known.attributes.items() if _is_json(fact)},
    }


def status_of(error: Exception) -> int:
    """Return the HTTP status for an error."""
    return _STATUS.get(_wire_type(as_media_error(error)), 500)


def error_from_dict(value: object, *, status: int = 500) -> MediaError:
    """Parse an error from the wire; an unknown type becomes a plain `MediaError`.

    Args:
        value: The value of `"error"`, or anything else if the response has another format.
        status: The HTTP status, which determines the class if the response has another format.
    """
    if not isinstance(value, Mapping) or not isinstance(value.get("message"), str):
        kind = _OF_STATUS.get(status, errors.ServerError if status >= 500 else MediaError)
        return kind(f"The server sent an unexpected response with status {status}.")
    attributes = value.get("attributes")
    facts = {
        name: fact
        for name, fact in (attributes.items() if isinstance(attributes, Mapping) else ())
        if isinstance(name, str) and name not in _ARGUMENT_NAMES
    }
    kind = _BY_NAME.get(str(value.get("type")), MediaError)
    remedy = value.get("remedy")
    return kind(value["message"], remedy=remedy if isinstance(remedy, str) else "", **facts)


# attributes with these names would collide with the constructor's arguments
_ARGUMENT_NAMES = {"self", "message", "remedy", "status_code"}
_OF_STATUS: Mapping[int, type[MediaError]] = {
    401: errors.UnauthorizedError,
    403: errors.PermissionDeniedError,
    404: errors.NotFoundError,
    413: errors.UploadTooLargeError,
    429: errors.TooManyRequestsError,
    502: errors.ServerUnavailableError,
    503: errors.ServerUnavailableError,
    504: errors.ServerUnavailableError,
}


def _wire_type(error: MediaError) -> type[MediaError]:
    kinds = (kind for kind in type(error).__mro__ if _BY_NAME.get(kind.__name__) is kind)
    return next(kinds, MediaError)


def _is_of_a_definition(error: core.CleanroomError) -> bool:
    """Whether an error is about an audience definition: its `place` is inside one, or its problem is a cycle."""
    place, problem = (error.attributes.get(name) for name in ("place", "problem"))
    return isinstance(error, core.UsageError) and (str(place).startswith("definition") or problem == "cycle")


def _is_json(fact: object) -> bool:
    try:
        json.dumps(fact)
    except (TypeError, ValueError):
        return False
    return True
