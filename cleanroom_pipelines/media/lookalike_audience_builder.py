"""Lookalike audiences: the users that are most like those of another audience.

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
    """What a lookalike audience is: its source and its reach.

    Args:
        name: Name of the audience.
        reach: How large it is, in percent of all relevant users, 1 to 30.
        source_audience: The audience that its users shall be like.
        exclude_seed_audience: Whether the source's own users are left out and their places given to others.
        shared_with: Participants that see the audience too.

    Raises:
        InvalidDefinitionError: The reach is no whole number from 1 to 30.
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
        """The definition as JSON; it knows neither the name nor whom the audience is shared with."""
        return self._checked(
            {
                "kind": "lookalike",
                "source": reference(self.source_audience),
                "reach": self.reach,
                "exclude_seed_audience": self.exclude_seed_audience,
            }
        )


class LookalikeAudienceBuilder(AudienceBuilder):
    """Puts a `LookalikeAudienceDefinition` together.

    Args:
        name: Name of the audience.
        reach: How large it is, in percent of all relevant users, 1 to 30.
        source_audience: The audience that its users shall be like.

    Raises:
        InvalidDefinitionError: The reach is no whole number from 1 to 30.
    """

    def __init__(self, *, name: str, reach: int, source_audience: AudienceType) -> None:
        super().__init__(name=name)
        self._reach = checked_reach(reach)
        self._source_audience = source_audience
        self._exclude_seed_audience = False

    def with_exclude_seed_audience(self) -> Self:
        """Leave the source's own users out; the next ones take their places."""
        self._exclude_seed_audience = True
        return self

    def build(self) -> LookalikeAudienceDefinition:
        """The definition.

        Raises:
            InvalidDefinitionError: It cannot mean anything.
        """
        return LookalikeAudienceDefinition(
            name=self._name,
            reach=self._reach,
            source_audience=self._source_audience,
            exclude_seed_audience=self._exclude_seed_audience,
            shared_with=self._shared_with,
        )


def checked_reach(reach: int) -> int:
    """The reach, or an error: bool and 5.0 are no whole numbers here."""
    if isinstance(reach, bool) or not isinstance(reach, int) or not MIN_REACH <= reach <= MAX_REACH:
        raise InvalidDefinitionError(
            "The reach of a lookalike audience cannot be used.",
            remedy=f"Give a whole number of percent from {MIN_REACH} to {MAX_REACH}.",
        )
    return reach
