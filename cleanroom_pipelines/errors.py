"""The error hierarchy.

Lives here: every error that a user, a run or a client can see, each with a status code and a remedy.
Add here when a new kind of failure needs its own remedy or its own status code.
Keep out: data. Messages reach event logs, so they must not contain ids, e-mails or cell values.
"""

from enum import StrEnum
from typing import Any


class StatusCode(StrEnum):
    """Reasons why building a resource failed (its status is CREATE_FAILED); the meaning of a code never changes.

    Source: `statusDetails.statusCode` of the AWS Clean Rooms ML API, which publishes no list of its own.
    """

    TRAINING_DATA_NOT_FOUND = "TRAINING_DATA_NOT_FOUND"
    TRAINING_DATA_INVALID = "TRAINING_DATA_INVALID"
    TRAINING_DATA_TOO_SMALL = "TRAINING_DATA_TOO_SMALL"
    SEED_NOT_FOUND = "SEED_NOT_FOUND"
    SEED_INVALID = "SEED_INVALID"
    SEED_TOO_SMALL = "SEED_TOO_SMALL"
    SEED_TOO_LARGE = "SEED_TOO_LARGE"
    INSUFFICIENT_MATCHING_SEED = "INSUFFICIENT_MATCHING_SEED"
    SEED_COVERS_POPULATION = "SEED_COVERS_POPULATION"
    SIZE_REVEALS_SEED = "SIZE_REVEALS_SEED"
    SQL_NOT_ALLOWED = "SQL_NOT_ALLOWED"
    SQL_FAILED = "SQL_FAILED"
    DESTINATION_NOT_WRITABLE = "DESTINATION_NOT_WRITABLE"
    PARENT_NOT_ACTIVE = "PARENT_NOT_ACTIVE"
    ARTIFACT_DAMAGED = "ARTIFACT_DAMAGED"
    STORAGE_FULL = "STORAGE_FULL"
    PRIVACY_BUDGET_SPENT = "PRIVACY_BUDGET_SPENT"
    CANCELLED = "CANCELLED"
    INTERNAL = "INTERNAL"


class CleanroomError(Exception):
    """Base class of every error that this package raises on purpose.

    Args:
        message: One clear sentence without data values: what happened and why.
        remedy: One sentence that says what to do, or empty.
        status_code: The code of a resource that fails for this reason.
        **attributes: Facts for the caller (counts, column names, limits), kept in `attributes`.
    """

    status_code: StatusCode = StatusCode.INTERNAL

    def __init__(
        self,
        message: str,
        *,
        remedy: str = "",
        status_code: StatusCode | None = None,
        **attributes: Any,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy
        if status_code is not None:
            self.status_code = status_code
        self.attributes = attributes

    def __str__(self) -> str:
        return f"{self.message} {self.remedy}".strip()

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self.message, self.remedy, self.status_code, self.attributes)


def _rebuild(
    cls: type[CleanroomError],
    message: str,
    remedy: str,
    status_code: StatusCode,
    attributes: dict[str, Any],
) -> CleanroomError:
    return cls(message, remedy=remedy, status_code=status_code, **attributes)


class UsageError(CleanroomError, ValueError):
    """An argument or a declaration is invalid; nothing was done."""


class InputError(CleanroomError, ValueError):
    """An input file or table cannot be used; nothing was written."""


class TrainingDataError(InputError):
    """The training data (interactions table) cannot be used."""

    status_code = StatusCode.TRAINING_DATA_INVALID


class SeedError(InputError):
    """The seed cannot be used."""

    status_code = StatusCode.SEED_INVALID


class NotFoundError(CleanroomError, LookupError):
    """The account has no such resource."""


class ConflictError(CleanroomError):
    """The name is taken, or the resource's state does not allow this operation."""


class ClaimLostError(CleanroomError):
    """This run no longer holds the claim on its work, so it must not publish its results."""


class CancelledError(CleanroomError):
    """The work was cancelled, or its process was asked to stop."""

    status_code = StatusCode.CANCELLED


class ArtifactError(CleanroomError):
    """An artifact is missing or incomplete, or does not match its manifest."""

    status_code = StatusCode.ARTIFACT_DAMAGED


class StoreUnavailableError(CleanroomError):
    """The artifact store does not respond or rejects a request; only the class name of its error is kept."""


class DestinationError(CleanroomError):
    """The export's destination cannot be written."""

    status_code = StatusCode.DESTINATION_NOT_WRITABLE


class StorageFullError(CleanroomError, OSError):
    """The disk is full; the half-written artifact was removed."""

    status_code = StatusCode.STORAGE_FULL


class EngineError(CleanroomError, RuntimeError):
    """The query engine failed; only the class name of its error is kept, because the text can quote data."""


class ConfigurationError(CleanroomError, ValueError):
    """A setting of this installation is invalid."""


class IdentityError(ConfigurationError):
    """The installation's folder, catalogue and key do not match, or one is missing; nothing was changed."""
