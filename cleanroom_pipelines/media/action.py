"""Actions: a request to a data room as an object, to be carried out later.

Lives here: `Action` and the creation of a lookalike audience.
Add here when a script needs another request as an object.
Keep out: what the server does with it.
"""

from abc import ABC, abstractmethod

from cleanroom_pipelines.media.api import JSONType
from cleanroom_pipelines.media.client import Client
from cleanroom_pipelines.media.lookalike_audience_builder import LookalikeAudienceDefinition
from cleanroom_pipelines.media.media import MediaDcr


class Action(ABC):
    """A request to a data room.

    Args:
        dcr_id: Id of the data room.
        client: Who asks.
    """

    def __init__(self, dcr_id: str, client: Client) -> None:
        self.dcr_id = dcr_id
        self.client = client

    @abstractmethod
    def create(self) -> JSONType:
        """Carry the request out and return the server's answer."""


class CreateLookalikeAudienceAction(Action):
    """Creates a lookalike audience.

    Args:
        dcr_id: Id of the data room.
        client: Who creates it.
        definition: What the audience is.
    """

    def __init__(self, dcr_id: str, client: Client, definition: LookalikeAudienceDefinition) -> None:
        super().__init__(dcr_id, client)
        self.definition = definition

    def create(self) -> JSONType:
        """Create the lookalike audience and return what the server tells of it."""
        return MediaDcr.from_existing(self.dcr_id, self.client).request_audience(self.definition)
