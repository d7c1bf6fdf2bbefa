"""The audiences that a participant sees.

Lives here: `Audiences`, to look one up by its type or name.
Keep out: what an audience is (`api.py`) and fetching them (`compute_job.py`).
"""

import builtins
from typing import TypeVar

from cleanroom_pipelines.media.api import AudienceType, CustomAudience, SeedAudience
from cleanroom_pipelines.media.errors import AmbiguousNameError, InvalidRequestError, NotFoundError

_Audience = TypeVar("_Audience", SeedAudience, CustomAudience)


class Audiences:
    """The audiences that a participant sees: seed audiences and custom audiences.

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
        """All of them."""
        return [*self._audiences]

    def get_seed_audience(self, audience_type: str) -> SeedAudience:
        """The seed audience of a type.

        Raises:
            NotFoundError: There is none of the type.
            AmbiguousNameError: There are several.
        """
        seeds = (each for each in self._audiences if isinstance(each, SeedAudience))
        return _only([seed for seed in seeds if seed.audience_type == audience_type], "seed audience of that type")

    def get_custom_audience(self, name: str) -> CustomAudience:
        """The custom audience of a name.

        Raises:
            NotFoundError: There is none of the name.
            AmbiguousNameError: There are several; two groups may have chosen the same name.
        """
        custom = (each for each in self._audiences if isinstance(each, CustomAudience))
        return _only([each for each in custom if each.name == name], "custom audience of that name")

    @staticmethod
    def is_lookalike_audience(audience: AudienceType) -> bool:
        """Whether an audience is a lookalike.

        Raises:
            InvalidRequestError: It is no audience.
        """
        if not isinstance(audience, AudienceType):
            raise InvalidRequestError("What was given is no audience.", remedy="Take one from `get_audiences`.")
        return isinstance(audience, CustomAudience) and audience.kind == "lookalike"


def _only(found: "builtins.list[_Audience]", what: str) -> _Audience:
    if not found:
        raise NotFoundError(f"There is no {what}.", remedy="`Audiences.list` shows those that you see.")
    if len(found) > 1:
        raise AmbiguousNameError(
            f"There is more than one {what}.",
            remedy="Take the one you mean from `Audiences.list` by its id.",
            n_found=len(found),
        )
    return found[0]
