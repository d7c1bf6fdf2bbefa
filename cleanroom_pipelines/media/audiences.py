"""The audiences that a participant can see.

Lives here: `Audiences`, which finds an audience by its type or name.
Keep out: the audience classes (`api.py`) and fetching audiences (`compute_job.py`).
"""

import builtins
from typing import TypeVar

from cleanroom_pipelines.media.api import AudienceType, CustomAudience, SeedAudience
from cleanroom_pipelines.media.errors import AmbiguousNameError, InvalidRequestError, NotFoundError

_Audience = TypeVar("_Audience", SeedAudience, CustomAudience)


class Audiences:
    """The seed and custom audiences that a participant can see.

    Args:
        audiences: The audiences.
    """

    def __init__(self, audiences: list[SeedAudience | CustomAudience]) -> None:
        self._audiences = tuple(audiences)

    def __repr__(self) -> str:
        return f"Audiences({builtins.list(self._audiences)!r})"

    def __len__(self) -> int:
        return len(self._audiences)

    def list(self) -> list[SeedAudience | CustomAudience]:
        """Return all audiences."""
        return [*self._audiences]

    def get_seed_audience(self, audience_type: str) -> SeedAudience:
        """Return the seed audience of a type.

        Raises:
            NotFoundError: No seed audience has that type.
            AmbiguousNameError: Several seed audiences have that type.
        """
        seeds = (each for each in self._audiences if isinstance(each, SeedAudience))
        return _only([seed for seed in seeds if seed.audience_type == audience_type], "seed audience of that type")

    def get_custom_audience(self, name: str) -> CustomAudience:
        """Return the custom audience with a name.

        Raises:
            NotFoundError: No custom audience has that name.
            AmbiguousNameError: Several audiences have that name; two groups may choose the same one.
        """
        custom = (each for each in self._audiences if isinstance(each, CustomAudience))
        return _only([each for each in custom if each.name == name], "custom audience with that name")

    @staticmethod
    def is_lookalike_audience(audience: AudienceType) -> bool:
        """Check whether an audience is a lookalike audience.

        Raises:
            InvalidRequestError: The argument is not an audience.
        """
        if not isinstance(audience, AudienceType):
            raise InvalidRequestError(
                "The argument is not an audience.", remedy="Use an audience from `get_audiences`."
            )
        return isinstance(audience, CustomAudience) and audience.definition.kind == "LOOKALIKE"


def _only(found: "builtins.list[_Audience]", what: str) -> _Audience:
    if not found:
        raise NotFoundError(
            f"There is no {what}.", remedy="`Audiences.list` returns the audiences that you can see."
        )
    if len(found) > 1:
        raise AmbiguousNameError(
            f"There is more than one {what}.",
            remedy="Select the audience from `Audiences.list` by its id.",
            n_found=len(found),
        )
    return found[0]
