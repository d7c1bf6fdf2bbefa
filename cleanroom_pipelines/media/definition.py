"""Base classes of audience definitions and their builders.

Lives here: the base classes, and the checks that need no server.
Keep out: the definition language (`audiences.definitions`).
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
    """The definition of an audience, its name, and the participants to share the audience with.

    Args:
        name: Name of the audience, unique among the audiences of its creator's participant.
        shared_with: Participants to share the audience with; None for none.
    """

    def __init__(self, name: str, shared_with: list[Participant] | None) -> None:
        self.name = checked_name(name)
        self.shared_with = list(shared_with or ())

    @abstractmethod
    def as_dict(self) -> dict[str, Any]:
        """Return the definition as JSON, without the name and the participants it is shared with."""

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
    """Base class of definitions that consist only of one type of seed audience.

    Args:
        name: Name of the audience.
        source_audience_type: The type of the seed audience.
        shared_with: Participants to share the audience with.
    """

    _KIND: ClassVar[str]

    def __init__(
        self, *, name: str, source_audience_type: str, shared_with: list[Participant] | None = None
    ) -> None:
        super().__init__(name, shared_with)
        self.source_audience_type = source_audience_type
        self.as_dict()

    def as_dict(self) -> dict[str, Any]:
        """Return the definition as JSON, without the name and the participants it is shared with."""
        return self._checked({"kind": self._KIND, "audience_type": self.source_audience_type})


class AudienceBuilder:
    """Base class of the definition builders.

    Args:
        name: Name of the audience.
    """

    def __init__(self, *, name: str) -> None:
        self._name = checked_name(name)
        self._shared_with: list[Participant] = []

    def with_share_with_participants(self, participants: list[Participant]) -> Self:
        """Share the audience with these participants."""
        self._shared_with = list(participants)
        return self


@contextmanager
def definition_errors() -> Iterator[None]:
    """Translate errors of the definition language into `InvalidDefinitionError`.

    Raises:
        InvalidDefinitionError: The attribute `place` is the position in the definition, if known.
    """
    try:
        yield
    except UsageError as error:
        place = {"place": error.attributes["place"]} if "place" in error.attributes else {}
        raise InvalidDefinitionError(error.message, remedy=error.remedy, **place) from None


def checked_name(name: str) -> str:
    """Return the name if it is not blank; the server checks the other rules for names."""
    if not isinstance(name, str) or not name.strip():
        raise InvalidDefinitionError(
            "The audience's name is missing or blank.", remedy="Give a recognisable name."
        )
    return name


def member(kind: type[_Member], value: Any) -> _Member:
    """Convert a wire value into its enum member; return an enum member unchanged.

    Raises:
        InvalidDefinitionError: The value is not a member.
    """
    try:
        return kind(value)
    except ValueError:
        raise InvalidDefinitionError(
            f"Unknown {kind.__name__}.", remedy=f"Choose from: {', '.join(kind.__members__)}."
        ) from None
