"""Exclusion audiences: the publisher's users without those that the advertiser has already.

Lives here: the definition and its builder.
Keep out: the other way round (`remarketing_audience_builder.py`).
"""

from typing import Any, Self

from cleanroom_pipelines.media.definition import AudienceDefinition, checked_name
from cleanroom_pipelines.media.participant import Participant


class ExclusionTargetingAudienceDefinition(AudienceDefinition):
    """What an exclusion audience is: all relevant users but the matched ones of one type of seed audience.

    Args:
        name: Name of the audience.
        source_audience_type: The type of the seed audience that is left out.
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
        return self._checked({"kind": "exclusion", "audience_type": self.source_audience_type})


class ExclusionTargetingAudienceBuilder:
    """Puts an `ExclusionTargetingAudienceDefinition` together.

    Args:
        name: Name of the audience.
        source_audience_type: The type of the seed audience that is left out.
    """

    def __init__(self, *, name: str, source_audience_type: str) -> None:
        self._name = checked_name(name)
        self._source_audience_type = source_audience_type
        self._shared_with: list[Participant] = []

    def with_share_with_participants(self, participants: list[Participant]) -> Self:
        """Let these participants see the audience too."""
        self._shared_with = list(participants)
        return self

    def build(self) -> ExclusionTargetingAudienceDefinition:
        """The definition.

        Raises:
            InvalidDefinitionError: It cannot mean anything.
        """
        return ExclusionTargetingAudienceDefinition(
            name=self._name, source_audience_type=self._source_audience_type, shared_with=self._shared_with
        )
