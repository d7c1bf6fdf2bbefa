"""How the participants of a world reach it: the ways in of both APIs.

Lives here: what a way in offers, and the one of this process, straight to the request handlers.
Add here when attackers ask through a further API.
Keep out: what is asked (playing, aws).
"""

import uuid
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from cleanroom_pipelines.aws.answers import Caller
from cleanroom_pipelines.aws.handlers import OPERATIONS
from cleanroom_pipelines.aws.operations.endpoint import Endpoint
from cleanroom_pipelines.media.client import Transport
from cleanroom_pipelines.runs.installation import Installation
from cleanroom_pipelines.server.media.service import LocalTransport, MediaService

REGION = "eu-central-1"
_MANY = 1_000_000


class Doors(Protocol):
    """The ways into one installation."""

    def media(self, email: str) -> Transport:
        """The Media API as a user reaches it."""

    def lookalikes(self, account_id: str, operation: str, parameters: Mapping[str, Any]) -> Mapping[str, Any]:
        """Carry an operation of the lookalike API out for an account.

        Raises:
            ApiError: It was refused.
        """

    def close(self) -> None:
        """Close what was opened."""


OpenDoors = Callable[[Installation], Doors]


class InProcess:
    """The request handlers of an installation, without HTTP.

    Args:
        installation: Where.
    """

    def __init__(self, installation: Installation) -> None:
        self._service = MediaService(installation)
        self._endpoint = Endpoint(
            installation.catalog,
            installation.home,
            installation.buckets,
            lambda: str(uuid.uuid4()),
            max_unfinished_jobs=_MANY,
            max_resources=_MANY,
        )

    def media(self, email: str) -> Transport:
        """The Media API as a user reaches it."""
        return LocalTransport(self._service, email)

    def lookalikes(self, account_id: str, operation: str, parameters: Mapping[str, Any]) -> Mapping[str, Any]:
        """Carry an operation of the lookalike API out for an account."""
        return OPERATIONS[operation](self._endpoint, Caller(account_id, "-", REGION), parameters) or {}

    def close(self) -> None:
        """Nothing was opened."""
