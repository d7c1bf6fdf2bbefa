"""What all definitions of audiences have in common.

Lives here: the bases of the definitions and of their builders, and the checks that need no server.
Keep out: what a definition means (`audiences.definitions`).
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from typing import Any, ClassVar, Self, TypeVar

from cleanroom_pipelines.audiences.definitions import parse_definition
from cleanroom_pipelines.errors import UsageError
from cleanroom_pipelines.media.errors import InvalidDefinitionError
from cleanroom_pipelines.media.participant import Participant

_Member = TypeVar("_Member", bound=StrEnum)


class AudienceDefinition(ABC):
    """What an audience is, together with the name it shall get and whom it is shared with.

    Args:
        name: Name of the audience, unique in the group that creates it.
        shared_with: Participants that see the audience too; None for nobody.
    """

    def __init__(self, name: str, shared_with: list[Participant] | None) -> None:
        self.name = checked_name(name)
        self.shared_with = list(shared_with or ())

    @abstractmethod
    def as_dict(self) -> dict[str, Any]:
        """The definition as JSON; it knows neither the name nor whom the audience is shared with."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}(name={self.name!r}, definition={self.as_dict()!r})"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, AudienceDefinition):
            return NotImplemented
        mine, theirs = ((each.name, each.shared_with, each.as_dict()) for each in (self, other))
        return mine == theirs

    __hash__ = None  # type: ignore[assignment]

    @staticmethod
    def _checked(definition: dict[str, Any]) -> dict[str, Any]:
        with definition_errors():
            parse_definition(definition)
        return definition


class SeedAudienceDefinition(AudienceDefinition):
    """A definition that names nothing but a type of seed audience.

    Args:
        name: Name of the audience.
        source_audience_type: The type of the seed audience.
        shared_with: Participants that see the audience too.
    """

    _KIND: ClassVar[str]

    def __init__(
        self, *, name: str, source_audience_type: str, shared_with: list[Participant] | None = None
    ) -> None:
        super().__init__(name, shared_with)
        self.source_audience_type = source_audience_type
        self.as_dict()

    def as_dict(self) -> dict[str, Any]:
        """The definition as JSON; it knows neither the name nor whom the audience is shared with."""
        return self._checked({"kind": self._KIND, "audience_type": self.source_audience_type})


class AudienceBuilder:
    """What all builders of definitions have in common.

    Args:
        name: Name of the audience.
    """

    def __init__(self, *, name: str) -> None:
        self._name = checked_name(name)
        self._shared_with: list[Participant] = []

    def with_share_with_participants(self, participants: list[Participant]) -> Self:
        """Let these participants see the audience too."""
        self._shared_with = list(participants)
        return self


@contextmanager
def definition_errors() -> Iterator[None]:
    """Tell what the definition language refuses as an `InvalidDefinitionError`.

    Raises:
        InvalidDefinitionError: The attribute `place` says where in the definition, if it is known.
    """
    try:
        yield
    except UsageError as error:
        place = {"place": error.attributes["place"]} if "place" in error.attributes else {}
        raise InvalidDefinitionError(error.message, remedy=error.remedy, **place) from None


def checked_name(name: str) -> str:
    """The name, or an error for what is no name at all; the server knows what else a name must be."""
    if not isinstance(name, str) or not name.strip():
        raise InvalidDefinitionError("The audience has no name.", remedy="Give a text that people recognise.")
    return name


def member(kind: type[_Member], value: Any) -> _Member:
    """The member of an enum that was given as itself or as its wire value.

    Raises:
        InvalidDefinitionError: There is no such member.
    """
    try:
        return kind(value)
    except ValueError:
        raise InvalidDefinitionError(
            f"There is no such {kind.__name__}.", remedy=f"Choose from: {', '.join(kind.__members__)}."
        ) from None
