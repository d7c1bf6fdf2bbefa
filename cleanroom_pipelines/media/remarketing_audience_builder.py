"""Remarketing audiences: the advertiser's users that the publisher has too.

Lives here: the definition and its builder.
Keep out: the other way round (`exclusion_targeting_builder.py`).
"""

from typing import Any, Self

from cleanroom_pipelines.media.definition import AudienceDefinition, checked_name
from cleanroom_pipelines.media.participant import Participant


class RemarketingAudienceDefinition(AudienceDefinition):
    """What a remarketing audience is: the matched users of one type of seed audience.

    Args:
        name: Name of the audience.
        source_audience_type: The type of the seed audience.
        shared_with: Participants that see the audience too.
    """

    def __init__(
        self, *, name: str, source_audience_type: str, shared_with: list[Participant] | None = None
    ) -> None:
        super().__init__(name, shared_with)
        self.source_audience_type = source_audience_type
        self.as_dict()

    def as_dict(self) -> dict[str, Any]:
        """The definition as JSON; it knows neither the name nor whom the audience is shared with."""
        return self._checked({"kind": "remarketing", "audience_type": self.source_audience_type})


class RemarketingAudienceBuilder:
    """Puts a `RemarketingAudienceDefinition` together.

    Args:
        name: Name of the audience.
        source_audience_type: The type of the seed audience.
    """

    def __init__(self, *, name: str, source_audience_type: str) -> None:
        self._name = checked_name(name)
        self._source_audience_type = source_audience_type
        self._shared_with: list[Participant] = []

    def with_share_with_participants(self, participants: list[Participant]) -> Self:
        """Let these participants see the audience too."""
        self._shared_with = list(participants)
        return self

    def build(self) -> RemarketingAudienceDefinition:
        """The definition.

        Raises:
            InvalidDefinitionError: It cannot mean anything.
        """
        return RemarketingAudienceDefinition(
            name=self._name, source_audience_type=self._source_audience_type, shared_with=self._shared_with
        )
