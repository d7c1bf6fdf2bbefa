"""Lookalike audiences: the users most similar to those of another audience.

Lives here: the definition and its builder.
Keep out: the ranking (`similarity`, on the server) and its statistics (`audience_statistics_result.py`).
"""

from typing import Any, Self

from cleanroom_pipelines.audiences.definitions import MAX_REACH, MIN_REACH
from cleanroom_pipelines.media.api import AudienceType, reference
from cleanroom_pipelines.media.definition import AudienceBuilder, AudienceDefinition
from cleanroom_pipelines.media.errors import InvalidDefinitionError
from cleanroom_pipelines.media.participant import Participant


class LookalikeAudienceDefinition(AudienceDefinition):
    """Definition of a lookalike audience: its source and its reach.

    Args:
        name: Name of the audience.
        reach: Its size in percent of all relevant users, 1 to 30.
        source_audience: The audience that its users should resemble.
        exclude_seed_audience: Whether the source's own users are excluded and replaced by the next best ones.
        shared_with: Participants to share the audience with.

    Raises:
        InvalidDefinitionError: The reach is not a whole number from 1 to 30.
    """

    def __init__(
        self,
        *,
        name: str,
        reach: int,
        source_audience: AudienceType,
        exclude_seed_audience: bool = False,
        shared_with: list[Participant] | None = None,
    ) -> None:
        super().__init__(name, shared_with)
        self.reach = checked_reach(reach)
        self.source_audience = source_audience
        self.exclude_seed_audience = bool(exclude_seed_audience)
        self.as_dict()

    def as_dict(self) -> dict[str, Any]:
        """Return the definition as JSON, without the name and the participants it is shared with."""
        return self._checked(
            {
                "kind": "lookalike",
                "source": reference(self.source_audience),
                "reach": self.reach,
                "exclude_seed_audience": self.exclude_seed_audience,
            }
        )


class LookalikeAudienceBuilder(AudienceBuilder):
    """Builder of a `LookalikeAudienceDefinition`.

    Args:
        name: Name of the audience.
        reach: Its size in percent of all relevant users, 1 to 30.
        source_audience: The audience that its users should resemble.

    Raises:
        InvalidDefinitionError: The reach is not a whole number from 1 to 30.
    """

    def __init__(self, *, name: str, reach: int, source_audience: AudienceType) -> None:
        super().__init__(name=name)
        self._reach = checked_reach(reach)
        self._source_audience = source_audience
        self._exclude_seed_audience = False

    def with_exclude_seed_audience(self) -> Self:
        """Exclude the source's own users; the next best users replace them."""
        self._exclude_seed_audience = True
        return self

    def build(self) -> LookalikeAudienceDefinition:
        """Return the definition.

        Raises:
            InvalidDefinitionError: The definition is invalid.
        """
        return LookalikeAudienceDefinition(
            name=self._name,
            reach=self._reach,
            source_audience=self._source_audience,
            exclude_seed_audience=self._exclude_seed_audience,
            shared_with=self._shared_with,
        )


def checked_reach(reach: int) -> int:
    """Return the reach if it is an int in the allowed range; a bool or a float such as 5.0 is invalid."""
    if isinstance(reach, bool) or not isinstance(reach, int) or not MIN_REACH <= reach <= MAX_REACH:
        raise InvalidDefinitionError(
            "The reach of the lookalike audience is invalid.",
            remedy=f"Give a whole percentage from {MIN_REACH} to {MAX_REACH}.",
        )
    return reach
