"""Actions: requests to a data room as objects that can be executed later.

Lives here: `Action`, and the action that creates a lookalike audience.
Add here when scripts need another request as an object.
Keep out: executing requests, which the server does.
"""

from abc import ABC, abstractmethod

from cleanroom_pipelines.media.api import JSONType
from cleanroom_pipelines.media.client import Client
from cleanroom_pipelines.media.lookalike_audience_builder import LookalikeAudienceDefinition
from cleanroom_pipelines.media.media import MediaDcr


class Action(ABC):
    """A request to a data room; `create` executes it.

    Args:
        dcr_id: Id of the data room.
        client: The client that sends the request.
    """

    def __init__(self, dcr_id: str, client: Client) -> None:
        self.dcr_id = dcr_id
        self.client = client

    @abstractmethod
    def create(self) -> JSONType:
        """Execute the request and return the server's response."""


class CreateLookalikeAudienceAction(Action):
    """Creates a lookalike audience.

    Args:
        dcr_id: Id of the data room.
        client: The client that creates it.
        definition: The audience's definition.
    """

    def __init__(self, dcr_id: str, client: Client, definition: LookalikeAudienceDefinition) -> None:
        super().__init__(dcr_id, client)
        self.definition = definition

    def create(self) -> JSONType:
        """Create the lookalike audience and return the server's response."""
        return MediaDcr.from_existing(self.dcr_id, self.client).request_audience(self.definition)
