"""Remarketing audiences: the advertiser's users that the publisher has too.

Lives here: the definition and its builder.
Keep out: the other way round (`exclusion_targeting_builder.py`).
"""

from cleanroom_pipelines.media.definition import AudienceBuilder, SeedAudienceDefinition


class RemarketingAudienceDefinition(SeedAudienceDefinition):
    """What a remarketing audience is: the matched users of one type of seed audience.

    Args:
        name: Name of the audience.
        source_audience_type: The type of the seed audience.
        shared_with: Participants that see the audience too.
    """

    _KIND = "remarketing"


class RemarketingAudienceBuilder(AudienceBuilder):
    """Puts a `RemarketingAudienceDefinition` together.

    Args:
        name: Name of the audience.
        source_audience_type: The type of the seed audience.
    """

    def __init__(self, *, name: str, source_audience_type: str) -> None:
        super().__init__(name=name)
        self._source_audience_type = source_audience_type

    def build(self) -> RemarketingAudienceDefinition:
        """The definition.

        Raises:
            InvalidDefinitionError: It cannot mean anything.
        """
        return RemarketingAudienceDefinition(
            name=self._name, source_audience_type=self._source_audience_type, shared_with=self._shared_with
        )
