"""Exclusion audiences: the publisher's users who are not among the advertiser's users.

Lives here: the definition and its builder.
Keep out: the opposite, remarketing audiences (`remarketing_audience_builder.py`).
"""

from cleanroom_pipelines.media.definition import AudienceBuilder, SeedAudienceDefinition


class ExclusionTargetingAudienceDefinition(SeedAudienceDefinition):
    """Definition of an exclusion audience: the base audience without the matched users of one seed type.

    Args:
        name: Name of the audience.
        source_audience_type: Seed type whose matched users are left out.
        shared_with: Participants to share the audience with.
    """

    _KIND = "exclusion"


class ExclusionTargetingAudienceBuilder(AudienceBuilder):
    """Builder of an `ExclusionTargetingAudienceDefinition`.

    Args:
        name: Name of the audience.
        source_audience_type: Seed type whose matched users are left out.
    """

    def __init__(self, *, name: str, source_audience_type: str) -> None:
        super().__init__(name=name)
        self._source_audience_type = source_audience_type

    def build(self) -> ExclusionTargetingAudienceDefinition:
        """Return the definition.

        Raises:
            InvalidDefinitionError: The definition is invalid.
        """
        return ExclusionTargetingAudienceDefinition(
            name=self._name, source_audience_type=self._source_audience_type, shared_with=self._shared_with
        )
