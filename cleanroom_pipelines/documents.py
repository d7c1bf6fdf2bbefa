"""Documents: what is kept or sent as JSON, converted by the types of its fields.

Lives here: `Document`, a base of frozen dataclasses, and the conversion of any other type.
Add here when a conversion is the same for every document.
Keep out: any one document. A field says what JSON calls it: `Annotated[int, Field(alias="numUsers")]`.
"""

from collections.abc import Mapping
from contextlib import suppress
from functools import cache
from typing import TYPE_CHECKING, Any, ClassVar, Self, TypeVar

if TYPE_CHECKING:
    from pydantic import ConfigDict, TypeAdapter

_T = TypeVar("_T")


class Document:
    """A dataclass that JSON can hold; decorate its children with `@dataclass(frozen=True)`."""

    __pydantic_config__: ClassVar["ConfigDict"] = {"extra": "forbid"}

    def as_dict(self) -> dict[str, Any]:
        """The document as JSON; `from_dict` reads it back."""
        value: dict[str, Any] = as_json(type(self), self)
        return value

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> Self:
        """Read `as_dict` back.

        Raises:
            ValueError: It is another document; what is in it is not told.
        """
        return from_json(cls, value)


class ServerDocument(Document):
    """A document that a server sends; fields that a newer server adds are ignored."""

    __pydantic_config__: ClassVar["ConfigDict"] = {"extra": "ignore"}


def as_json(of: Any, value: Any) -> Any:
    """What JSON can hold of a value of a type, such as `tuple[Role, ...]`."""
    # no warnings: they quote the value
    return _adapter(of).dump_python(value, mode="json", by_alias=True, warnings=False)


def from_json(of: type[_T], value: Any) -> _T:
    """Read `as_json` back.

    Raises:
        ValueError: It is of another type; what is in it is not told.
    """
    from pydantic import ValidationError

    with suppress(ValidationError):
        read: _T = _adapter(of).validate_python(value)  # type: ignore[arg-type]
        return read
    # Outside the handler: a validation error holds the values, and __context__ would keep it.
    raise ValueError(f"The document cannot be read as a {getattr(of, '__name__', of)}.")


@cache
def _adapter(of: Any) -> "TypeAdapter[Any]":
    from pydantic import TypeAdapter  # 0.1 s, which a script of the Media client need not wait for

    return TypeAdapter(of)
