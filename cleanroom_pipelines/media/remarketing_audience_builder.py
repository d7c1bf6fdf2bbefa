"""Remarketing audiences: the advertiser's users who are also among the publisher's users.

Lives here: the definition and its builder.
Keep out: the opposite, exclusion audiences (`exclusion_targeting_audience_builder.py`).
"""

from cleanroom_pipelines.media.definition import AudienceBuilder, SeedAudienceDefinition


class RemarketingAudienceDefinition(SeedAudienceDefinition):
    """Definition of a remarketing audience: the matched users of one type of seed audience.

    Args:
        name: Name of the audience.
        source_audience_type: The type of the seed audience.
        shared_with: Participants to share the audience with.
    """

    _KIND = "remarketing"


class RemarketingAudienceBuilder(AudienceBuilder):
    """Builder of a `RemarketingAudienceDefinition`.

    Args:
        name: Name of the audience.
        source_audience_type: The type of the seed audience.
    """

    def __init__(self, *, name: str, source_audience_type: str) -> None:
        super().__init__(name=name)
        self._source_audience_type = source_audience_type

    def build(self) -> RemarketingAudienceDefinition:
        """Return the definition.

        Raises:
            InvalidDefinitionError: The definition is invalid.
        """
        return RemarketingAudienceDefinition(
            name=self._name, source_audience_type=self._source_audience_type, shared_with=self._shared_with
        )
