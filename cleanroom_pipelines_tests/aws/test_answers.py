"""Errors of the lookalike (AWS) API.

Contract: each error has AWS's status and text; a core error becomes an API error, and one that the caller cannot
fix reveals nothing about the installation.
"""

import pickle
from typing import Any

from cleanroom_pipelines.aws.answers import ApiError, from_cleanroom_error
from cleanroom_pipelines.catalog import CatalogUnavailableError
from cleanroom_pipelines.errors import (
    ArtifactError,
    CleanroomError,
    ConfigurationError,
    ConflictError,
    EngineError,
    InputError,
    NotFoundError,
    SeedError,
    StorageFullError,
    UsageError,
)
from cleanroom_pipelines.storage.objects import BucketForbiddenError

from ..cases import assert_each
from .requests import service_model


def test_an_error_of_the_model_has_its_status_and_text() -> None:
    def has_them(shape: Any) -> None:
        error = ApiError(shape.name)
        assert error.status == shape.metadata["error"]["httpStatusCode"]
        if shape.name != "InternalServiceException":
            assert error.message == shape.documentation.removeprefix("<p>").removesuffix("</p>")
        assert str(error) == error.message

    assert_each(has_them, service_model().error_shapes)


def test_an_error_can_be_pickled() -> None:
    error = ApiError("ServiceQuotaExceededException", "Too many.", members={"quotaValue": 5.0}, reason="quota")
    error.headers["Retry-After"] = "1"
    again = pickle.loads(pickle.dumps(error))
    assert vars(again) == vars(error)


def test_errors_that_the_caller_can_fix_keep_their_text() -> None:
    def is_reported(error: CleanroomError, name: str, status: int) -> None:
        error.remedy = "Do right."
        answer = from_cleanroom_error(error)
        assert (answer.name, answer.status, answer.message) == (name, status, "Wrong. Do right.")
        assert answer.reason == type(error).__name__

    assert_each(
        is_reported,
        [
            (UsageError("Wrong."), "ValidationException", 400),
            (InputError("Wrong."), "ValidationException", 400),
            (SeedError("Wrong."), "ValidationException", 400),
            (NotFoundError("Wrong."), "ResourceNotFoundException", 404),
            (ConflictError("Wrong."), "ConflictException", 409),
            (BucketForbiddenError("Wrong."), "AccessDeniedException", 403),
        ],
    )


def test_errors_for_the_operator_lose_their_text() -> None:
    def is_not_disclosed(kind: type[CleanroomError]) -> None:
        answer = from_cleanroom_error(kind("A secret of the installation."))
        assert (answer.name, answer.status) == ("InternalServiceException", 500)
        assert "secret" not in answer.message

    assert_each(
        is_not_disclosed, [CleanroomError, ConfigurationError, ArtifactError, EngineError, StorageFullError]
    )


def test_an_unavailable_database_asks_for_a_retry() -> None:
    answer = from_cleanroom_error(CatalogUnavailableError("At postgresql://secret."))
    assert (answer.name, answer.status, answer.headers) == (
        "ServiceUnavailableException",
        503,
        {"Retry-After": "1"},
    )
    assert "secret" not in answer.message
