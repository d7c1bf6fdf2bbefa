"""Documents: dataclasses stored or sent as JSON, converted according to their field types.

Lives here: `Document`, the base of such dataclasses, and the conversion of any other type.
Add here when a conversion is the same for every document.
Keep out: individual documents. A field declares its JSON name: `Annotated[int, Field(alias="numUsers")]`.
"""

from collections.abc import Mapping
from contextlib import suppress
from functools import cache
from typing import TYPE_CHECKING, Any, ClassVar, Self, TypeVar

if TYPE_CHECKING:
    from pydantic import ConfigDict, TypeAdapter

_T = TypeVar("_T")


class Document:
    """Base of dataclasses that convert to JSON; decorate subclasses with `@dataclass(frozen=True)`."""

    __pydantic_config__: ClassVar["ConfigDict"] = {"extra": "forbid"}

    def as_dict(self) -> dict[str, Any]:
        """Convert the document to JSON values; `from_dict` reads them back."""
        value: dict[str, Any] = as_json(type(self), self)
        return value

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> Self:
        """Read a document from the output of `as_dict`.

        Raises:
            ValueError: The value does not fit this class; the error does not quote it.
        """
        return from_json(cls, value)


class ServerDocument(Document):
    """A document sent by a server; fields added by a newer server are ignored."""

    __pydantic_config__: ClassVar["ConfigDict"] = {"extra": "ignore"}


def as_json(of: Any, value: Any) -> Any:
    """Convert a value of the given type, such as `tuple[Role, ...]`, to JSON values."""
    # no warnings: they quote the value
    return _adapter(of).dump_python(value, mode="json", by_alias=True, warnings=False)


def from_json(of: type[_T], value: Any) -> _T:
    """Convert JSON values written by `as_json` back to the given type.

    Raises:
        ValueError: The value does not fit the type; the error does not quote it.
    """
    from pydantic import ValidationError

    with suppress(ValidationError):
        read: _T = _adapter(of).validate_python(value)  # type: ignore[arg-type]
        return read
    # Raised outside the handler: a validation error holds the values, and __context__ would keep it.
    raise ValueError(f"The document is not a valid {getattr(of, '__name__', of)}.")


@cache
def _adapter(of: Any) -> "TypeAdapter[Any]":
    from pydantic import TypeAdapter  # imported late: it takes 0.1 s, and `cleanroom --help` need not wait

    return TypeAdapter(of)
