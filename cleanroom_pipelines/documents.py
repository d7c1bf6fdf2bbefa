"""Documents: frozen dataclasses that are kept or sent as JSON.

Lives here: `Document`, which converts by the types of the fields.
Add here when a conversion is the same for every document.
Keep out: any one document. A field says what JSON calls it: `Annotated[int, Field(alias="numUsers")]`.
"""

from collections.abc import Mapping
from contextlib import suppress
from functools import cache
from typing import TYPE_CHECKING, Any, ClassVar, Self

if TYPE_CHECKING:
    from pydantic import ConfigDict, TypeAdapter


class Document:
    """A dataclass that JSON can hold; decorate its children with `@dataclass(frozen=True)`."""

    __pydantic_config__: ClassVar["ConfigDict"] = {"extra": "forbid"}

    def as_dict(self) -> dict[str, Any]:
        """The document as JSON; `from_dict` reads it back."""
        value: dict[str, Any] = self._adapter().dump_python(self, mode="json", by_alias=True)
        return value

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> Self:
        """Read `as_dict` back.

        Raises:
            ValueError: It is another document; what is in it is not told.
        """
        from pydantic import ValidationError

        with suppress(ValidationError):
            read: Self = cls._adapter().validate_python(value)
            return read
        # Outside the handler: a validation error holds the values, and __context__ would keep it.
        raise ValueError(f"The document cannot be read as a {cls.__name__}.")

    @classmethod
    @cache
    def _adapter(cls) -> "TypeAdapter[Any]":
        from pydantic import TypeAdapter  # 0.1 s, which a script of the Media client need not wait for

        return TypeAdapter(cls)
