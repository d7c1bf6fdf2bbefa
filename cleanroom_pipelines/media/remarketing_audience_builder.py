"""Remarketing audiences: the advertiser's users who are also among the publisher's users.

Lives here: the definition and its builder.
Keep out: the opposite, exclusion audiences (`exclusion_targeting_audience_builder.py`).
"""

from cleanroom_pipelines.media.definition import SeedAudienceBuilder, SeedAudienceDefinition


class RemarketingAudienceDefinition(SeedAudienceDefinition):
    """Definition of a remarketing audience: the matched users of one type of seed audience.

    Args:
        name: Name of the audience.
        source_audience_type: The type of the seed audience.
        shared_with: Participants to share the audience with.
    """

    _KIND = "remarketing"


class RemarketingAudienceBuilder(SeedAudienceBuilder[RemarketingAudienceDefinition]):
    """Builder of a `RemarketingAudienceDefinition`.

    Args:
        name: Name of the audience.
        source_audience_type: The type of the seed audience.
    """

    _BUILDS = RemarketingAudienceDefinition
