"""Validating a request's values against the shapes of AWS's model, and converting them to Python types.

Lives here: required members, types, lengths, ranges, patterns, enums, unions; ISO-8601 and epoch timestamps.
Add here when the model gets another kind of constraint.
Keep out: HTTP (`wire.py`), and rules about a request's meaning (the operations).
"""

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from cleanroom_pipelines.aws.model import Location, Shape

MAX_PROBLEMS: Final = 10
"""Largest number of problems in one message; more would not help the reader."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_TIMESTAMP = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d{1,9})?(?:Z|[+-]\d\d:\d\d)?", re.ASCII)
_INTEGER = re.compile(r"[+-]?[0-9]{1,19}")
# Characters that cannot be stored as text: PostgreSQL rejects U+0000, and UTF-8 has no surrogates.
_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")
_BITS = {"integer": 31, "long": 63}
_SIZED = {"string", "list", "map"}


@dataclass
class CheckedValue:
    """A validation in progress, with the problems that it has found.

    Attributes:
        problems: The problems, each with the member's path and never its value; at most `MAX_PROBLEMS`.
        n_unknown: Number of members that the shape does not have; they are ignored.
    """

    problems: list[str] = field(default_factory=list)
    n_unknown: int = 0

    @property
    def is_full(self) -> bool:
        """Whether enough problems have been found to stop."""
        return len(self.problems) >= MAX_PROBLEMS

    def structure(
        self, shape: Shape, found: Mapping[str, Any], path: str = "", locations: Iterable[Location] = ("body",)
    ) -> dict[str, Any]:
        """Validate a structure (an object with named members) against its shape.

        Args:
            shape: Its shape.
            found: Its members by wire name; None means missing.
            path: Its path, such as `outputConfig.destination`.
            locations: The locations whose members to read.

        Returns:
            The members present, by their API names. Meaningless if problems were found.
        """
        members = [member for member in shape.members.values() if member.location in locations]
        self.n_unknown += len(found.keys() - {member.wire_name for member in members})
        values = {}
        for member in members:
            place = f"{path}.{member.name}" if path else member.name
            value = found.get(member.wire_name)
            if value is not None:
                values[member.name] = self._value(member.shape, value, place)
            elif member.is_required:
                self._reject(place, "Member must not be null")
        if shape.is_union and len(values) != 1:
            self._reject(path, f"Member must have exactly one of the members: [{', '.join(shape.members)}]")
        return values

    def _value(self, shape: Shape, value: Any, path: str) -> Any:
        if self.is_full:
            return None
        match shape.kind, value:
            case "structure", dict():
                return self.structure(shape, value, path)
            case ("list", list()) | ("map", dict()):
                return self._collection(shape, value, path)
            case "timestamp", _:
                return self._timestamp(value, path)
        plain = _typed(shape.kind, value)
        if plain is None:
            self._reject(path, f"Member must be of type {shape.kind}")
            return None
        for problem in _violations(shape, plain):
            self._reject(path, problem)
        return plain

    def _collection(self, shape: Shape, value: Any, path: str) -> Any:
        assert shape.element is not None
        wrong_sizes = list(_wrong_size(shape, len(value)))
        for problem in wrong_sizes:
            self._reject(path, problem)
        if wrong_sizes:
            return None
        if isinstance(value, list):
            return [
                self._element(shape.element, each, f"{path}.{n}.member") for n, each in enumerate(value, start=1)
            ]
        assert shape.key is not None
        for key in value:
            self._check_key(shape.key, key, path)
        # Keys are the caller's own data, and never enter a message.
        return {key: self._element(shape.element, each, f"{path}.value") for key, each in value.items()}

    def _element(self, shape: Shape, value: Any, path: str) -> Any:
        if value is None:
            self._reject(path, "Member must not be null")
            return None
        return self._value(shape, value, path)

    def _check_key(self, shape: Shape, key: str, path: str) -> None:
        problems = list(_violations(shape, key))
        if problems:
            self._reject(path, f"Map keys must satisfy constraint: [{', '.join(problems)}]")

    def _timestamp(self, value: Any, path: str) -> datetime | None:
        try:
            return parse_timestamp(value)
        except ValueError:
            self._reject(path, "Member must be a timestamp: ISO 8601 or seconds since 1970")
            return None

    def _reject(self, path: str, problem: str) -> None:
        text = f"Value at '{path}' failed to satisfy constraint: {problem}"
        if not self.is_full and text not in self.problems:
            self.problems.append(text)


def parse_timestamp(value: Any) -> datetime:
    """Parse a timestamp in any form that AWS's clients send: ISO 8601 or seconds since 1970.

    Args:
        value: ISO 8601 with or without fraction and offset (default UTC), or seconds since 1970.

    Returns:
        The time in UTC, to the microsecond.

    Raises:
        ValueError: The value has another form, or is not a valid date.
    """
    try:
        if isinstance(value, int | float) and not isinstance(value, bool):
            return _EPOCH + timedelta(seconds=value)
        if isinstance(value, str) and _TIMESTAMP.fullmatch(value):
            parsed = datetime.fromisoformat(value)
            return parsed.replace(tzinfo=UTC) if parsed.tzinfo is None else parsed.astimezone(UTC)
    except (ValueError, OverflowError):
        pass
    raise ValueError("not a timestamp")


def from_text(shape: Shape, text: str) -> Any:
    """Convert the text of a query parameter or header to its shape's type; return it unchanged if this fails."""
    if shape.kind in _BITS and _INTEGER.fullmatch(text):
        return int(text)
    if shape.kind == "boolean":
        return {"true": True, "false": False}.get(text, text)
    return text


def _typed(kind: str, value: Any) -> Any:
    """Convert a JSON value to the Python type of a kind of shape; None if the value does not fit."""
    match kind, value:
        case ("boolean", bool()) | ("string", str()):
            return value
        case _, bool():
            return None
        case (("integer" | "long"), int()):
            return value if -(2 ** _BITS[kind]) <= value < 2 ** _BITS[kind] else None
        case (("double" | "float"), (int() | float())):
            return _finite(value)
    return None


def _finite(value: float) -> float | None:
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def _violations(shape: Shape, value: Any) -> Iterator[str]:
    """Yield a message for each constraint of a shape that a string, number or boolean violates."""
    if isinstance(value, str):
        if _UNSTORABLE.search(value):
            yield "Member must be text without U+0000 and unpaired surrogates"
            return
        if shape.choices and value not in shape.choices:
            yield f"Member must satisfy enum value set: [{', '.join(shape.choices)}]"
            return
        wrong_sizes = list(_wrong_size(shape, len(value)))
        yield from wrong_sizes
        # The patterns run in linear time, but there is no need to run one over a megabyte.
        if not wrong_sizes and shape.matches and not shape.matches(value):
            yield f"Member must satisfy regular expression pattern: {shape.pattern}"
        if shape.reserved_prefix and value.lower().startswith(shape.reserved_prefix):
            yield f"Member must not begin with the reserved prefix {shape.reserved_prefix}"
    elif not isinstance(value, bool):
        yield from _wrong_size(shape, value)


def _wrong_size(shape: Shape, size: float) -> Iterator[str]:
    what = "length" if shape.kind in _SIZED else "value"
    if shape.minimum is not None and size < shape.minimum:
        yield f"Member must have {what} greater than or equal to {shape.minimum}"
    if shape.maximum is not None and size > shape.maximum:
        yield f"Member must have {what} less than or equal to {shape.maximum}"
