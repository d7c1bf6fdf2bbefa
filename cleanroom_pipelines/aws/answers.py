"""The errors of the lookalike (AWS) API, and the authenticated caller of a request.

Lives here: the closed table of the API's errors, and the mapping of core errors to them.
Add here when AWS adds an error, or the core adds an error that can reach clients.
Keep out: writing responses as HTTP (`wire.py`).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

from cleanroom_pipelines.catalog import CatalogUnavailableError
from cleanroom_pipelines.errors import (
    CleanroomError,
    ConflictError,
    InputError,
    NotFoundError,
    StoreUnavailableError,
    UsageError,
)
from cleanroom_pipelines.storage.objects import BucketForbiddenError

ErrorName = Literal[
    "ValidationException",
    "ServiceQuotaExceededException",
    "AccessDeniedException",
    "ResourceNotFoundException",
    "UnknownOperationException",
    "ConflictException",
    "ThrottlingException",
    "InternalServiceException",
    "ServiceUnavailableException",
]

# Statuses and texts are those of AWS's model. The model has no errors for an unknown path or an unavailable
# database: they have the names that AWS's front ends use.
_TABLE: Final[Mapping[ErrorName, tuple[int, str]]] = {
    "ValidationException": (400, "The request parameters for this request are incorrect."),
    "ServiceQuotaExceededException": (402, "You have exceeded your service quota."),
    "AccessDeniedException": (403, "You do not have sufficient access to perform this action."),
    "ResourceNotFoundException": (404, "The resource you are requesting does not exist."),
    "UnknownOperationException": (404, "The requested operation is not recognized by the service."),
    "ConflictException": (
        409,
        "You can't complete this action because another resource depends on this resource.",
    ),
    "ThrottlingException": (429, "The request was denied due to request throttling."),
    "InternalServiceException": (500, "An internal service error occurred. Try again, then ask the operator."),
    "ServiceUnavailableException": (503, "The service is not available for the moment. Try again."),
}


class ApiError(Exception):
    """An error of the lookalike (AWS) API, which is sent to the client.

    Args:
        name: AWS's name of the error; boto3 raises `client.exceptions.<name>`.
        message: One sentence without data values; by default the table's text.
        status: HTTP status, if it differs from the table's.
        members: Additional members of the error's shape, such as `quotaName` and `quotaValue`.
        headers: Additional headers of the response, such as `Allow`.
        reason: The reason, for the audit log only; never sent.
    """

    def __init__(
        self,
        name: ErrorName,
        message: str = "",
        *,
        status: int | None = None,
        members: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
        reason: str = "",
    ) -> None:
        usual_status, text = _TABLE[name]
        super().__init__(message or text)
        self.name: ErrorName = name
        self.message = message or text
        self.status = usual_status if status is None else status
        self.members = dict(members or {})
        self.headers = dict(headers or {})
        self.reason = reason

    def __reduce__(self) -> tuple[Any, ...]:
        kept = {key: getattr(self, key) for key in ("status", "members", "headers", "reason")}
        return _rebuild, (self.name, self.message, kept)


def _rebuild(name: ErrorName, message: str, kept: dict[str, Any]) -> ApiError:
    return ApiError(name, message, **kept)


@dataclass(frozen=True)
class Caller:
    """The caller who signed the request.

    Attributes:
        account_id: The account of the access key, 12 digits.
        access_key_id: Id of the access key.
        region: The Region in the signature's scope.
        is_secure: Whether the request arrived over TLS.
    """

    account_id: str
    access_key_id: str
    region: str
    is_secure: bool = False


def from_cleanroom_error(error: CleanroomError) -> ApiError:
    """Convert a core error into an API error.

    Only errors that the caller can fix keep their text: the others may describe the installation.

    Args:
        error: Any error of the core.

    Returns:
        The error to send; an unexpected error becomes an InternalServiceException without its text.
    """
    reason = type(error).__name__
    if isinstance(error, UsageError | InputError):
        return ApiError("ValidationException", str(error), reason=reason)
    if isinstance(error, BucketForbiddenError):
        return ApiError("AccessDeniedException", str(error), reason=reason)
    if isinstance(error, NotFoundError):
        return ApiError("ResourceNotFoundException", str(error), reason=reason)
    if isinstance(error, ConflictError):
        return ApiError("ConflictException", str(error), reason=reason)
    if isinstance(error, CatalogUnavailableError | StoreUnavailableError):
        return ApiError("ServiceUnavailableException", headers={"Retry-After": "1"}, reason=reason)
    return ApiError("InternalServiceException", reason=reason)
