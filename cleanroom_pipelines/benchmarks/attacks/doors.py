"""How attackers reach a simulated installation: through both APIs, as participants do.

Lives here: the interface, and its in-process implementation, which calls the request handlers directly.
Add here when attackers use another API.
Keep out: the attackers' requests (playing, aws).
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
    """Access to the APIs of one installation."""

    def media(self, email: str) -> Transport:
        """Return a transport that calls the data-room (Media) API for a user."""

    def lookalikes(self, account_id: str, operation: str, parameters: Mapping[str, Any]) -> Mapping[str, Any]:
        """Run an operation of the lookalike (AWS) API for an account.

        Raises:
            ApiError: The operation was rejected.
        """

    def close(self) -> None:
        """Close all opened resources."""


OpenDoors = Callable[[Installation], Doors]


class InProcess:
    """Direct access to an installation's request handlers, without HTTP.

    Args:
        installation: The installation.
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
        """Return a transport that calls the data-room (Media) API for a user."""
        return LocalTransport(self._service, email)

    def lookalikes(self, account_id: str, operation: str, parameters: Mapping[str, Any]) -> Mapping[str, Any]:
        """Run an operation of the lookalike (AWS) API for an account."""
        return OPERATIONS[operation](self._endpoint, Caller(account_id, "-", REGION), parameters) or {}

    def close(self) -> None:
        """Do nothing, because in-process access opens nothing."""
