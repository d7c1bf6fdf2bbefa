"""Exclusion audiences: the publisher's users without those that the advertiser has already.

Lives here: the definition and its builder.
Keep out: the other way round (`remarketing_audience_builder.py`).
"""

from cleanroom_pipelines.media.definition import AudienceBuilder, SeedAudienceDefinition


class ExclusionTargetingAudienceDefinition(SeedAudienceDefinition):
    """What an exclusion audience is: all relevant users but the matched ones of one type of seed audience.

    Args:
        name: Name of the audience.
        source_audience_type: The type of the seed audience that is left out.
        shared_with: Participants that see the audience too.
    """

    _KIND = "exclusion"


class ExclusionTargetingAudienceBuilder(AudienceBuilder):
    """Puts an `ExclusionTargetingAudienceDefinition` together.

    Args:
        name: Name of the audience.
        source_audience_type: The type of the seed audience that is left out.
    """

    def __init__(self, *, name: str, source_audience_type: str) -> None:
        super().__init__(name=name)
        self._source_audience_type = source_audience_type

    def build(self) -> ExclusionTargetingAudienceDefinition:
        """The definition.

        Raises:
            InvalidDefinitionError: It cannot mean anything.
        """
        return ExclusionTargetingAudienceDefinition(
            name=self._name, source_audience_type=self._source_audience_type, shared_with=self._shared_with
        )
