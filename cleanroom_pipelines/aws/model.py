"""The AWS API as defined by botocore's own service model, so that our implementation cannot drift from it.

Lives here: the shapes of the operations that have a handler, and limits that differ from the model.
Add here a documented limit that the model lacks.
Keep out: which operations are served (`handlers.py`), and values (`constraints.py` checks them).
"""

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from functools import cache
from types import MappingProxyType
from typing import Any, Final, Literal

from cleanroom_pipelines.errors import ConfigurationError

SERVICE: Final = "cleanrooms-ml"
"""The lookalike API's name in signatures and ARNs."""

COLLABORATIONS: Final = "cleanrooms"
"""The name of the API that reads collaborations, in signatures."""

# The names of botocore's models, by the services' names in signatures.
_MODELS: Final[Mapping[str, str]] = {SERVICE: "cleanroomsml", COLLABORATIONS: "cleanrooms"}

# Where AWS's documentation contradicts its model, and this implementation follows the documentation.
_OUR_LIMITS: Final[Mapping[str, Mapping[str, Any]]] = {
    # The model also counts AWS's own tags; the documentation of every `tags` member says 50.
    "TagMap": {"max": 50},
    # In the guide, relevance ranges from -1 to 1; the model's range of 0 to 10 contradicts that.
    "RelevanceMetricScoreDouble": {"min": -1.0, "max": 1.0},
}
_RESERVED_PREFIXES: Final = {"TagKey": "aws:"}

# AWS's regex engine matches UTF-16, where these classes mean any surrogate pair; Python's matches code points.
_SURROGATE_PAIRS: Final = r"\uD800\uDBFF-\uDC00\uDFFF"
_ASTRAL_PLANES: Final = r"\U00010000-\U0010FFFF"

Location = Literal["body", "uri", "querystring", "header"]
_KINDS = {"structure", "list", "map", "string", "integer", "long", "float", "double", "boolean", "timestamp"}


@dataclass(frozen=True, eq=False)
class Shape:
    """The type and constraints of a value in AWS's service model.

    Attributes:
        name: Its name in the model.
        kind: `structure`, `list`, `map`, `string`, `integer`, `long`, `float`, `double`, `boolean` or `timestamp`.
        minimum: Smallest length (string, list, map) or value (numbers), inclusive.
        maximum: Largest length or value, inclusive.
        pattern: Pattern that the whole string must match, as AWS writes it.
        matches: Checks whether a string matches the pattern; pure, in time linear in its length.
        choices: The allowed values of a string; empty if any value is allowed.
        reserved_prefix: Prefix that a string must not have, ignoring case.
        is_union: Whether exactly one member must be present.
        is_epoch: Whether a timestamp in a body is a number of seconds instead of text.
        members: Members of a structure, by name.
        key: Shape of a map's keys.
        element: Shape of a list's elements or a map's values.
    """

    name: str
    kind: str
    minimum: float | None = None
    maximum: float | None = None
    pattern: str | None = None
    matches: Callable[[str], object] | None = field(default=None, repr=False)
    choices: tuple[str, ...] = ()
    reserved_prefix: str = ""
    is_union: bool = False
    is_epoch: bool = False
    members: Mapping[str, "ShapeMember"] = field(default_factory=dict, repr=False)
    key: "Shape | None" = None
    element: "Shape | None" = None


@dataclass(frozen=True, eq=False)
class ShapeMember:
    """A member of a structure, with its place in the request or response.

    Attributes:
        name: Its name in the API.
        wire_name: Its name in the body, the query, the headers or the path.
        location: The part of the message that carries it.
        is_required: Whether it must be present.
        shape: Its shape.
    """

    name: str
    wire_name: str
    location: Location
    is_required: bool
    shape: Shape


@dataclass(frozen=True, eq=False)
class Operation:
    """One operation of the API.

    Attributes:
        name: Such as `GetAudienceModel`.
        method: HTTP method.
        segments: The path's segments; a label is written `{memberName}`.
        status: HTTP status of a success.
        input: Shape of its input.
        output: Shape of its output; None for an empty body.
        errors: Names of the errors that the model lists.
    """

    name: str
    method: str
    segments: tuple[str, ...]
    status: int
    input: Shape = field(repr=False)
    output: Shape | None = field(repr=False)
    errors: tuple[str, ...] = field(repr=False)


@cache
def operations(service: str = SERVICE) -> Mapping[str, Operation]:
    """Return a service's supported operations by name; the first call reads them from the installed botocore.

    Args:
        service: SERVICE or COLLABORATIONS.

    Raises:
        ConfigurationError: botocore is not installed, or this code does not support its model.
    """
    names, model = _served(service), load_service(_MODELS[service])
    missing = [name for name in names if name not in model["operations"]]
    if missing:
        raise _too_old(f"lacks {missing[0]}")
    build = _ShapeBuilder(model["shapes"])
    return MappingProxyType({name: build.operation(model["operations"][name]) for name in names})


@cache
def other_operations(service: str) -> Mapping[tuple[str, tuple[str, ...]], str]:
    """Return the names of a service's unsupported operations, by HTTP method and path segments."""
    return MappingProxyType(
        {
            (found["http"]["method"], _segments(found)): name
            for name, found in load_service(_MODELS[service])["operations"].items()
            if name not in _served(service)
        }
    )


def _served(service: str) -> Collection[str]:
    from cleanroom_pipelines.aws.handlers import HANDLERS  # imported late: the handlers' modules import this one

    return HANDLERS[service].keys()


def _segments(operation: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(operation["http"]["requestUri"].strip("/").split("/"))


def load_service(name: str) -> Mapping[str, Any]:
    """Return botocore's own model of a service.

    Raises:
        ConfigurationError: botocore is not installed, or lacks the service.
    """
    try:
        from botocore.exceptions import BotoCoreError
        from botocore.loaders import Loader
    except ImportError as error:
        raise ConfigurationError(
            "The AWS APIs need botocore, which is not installed.",
            remedy="Install cleanroom-pipelines[api].",
        ) from error
    # The default search paths include the user's own folder, where a file could change the checks.
    loader = Loader(extra_search_paths=[Loader.BUILTIN_DATA_PATH], include_default_search_paths=False)
    try:
        model: Mapping[str, Any] = loader.load_service_model(name, "service-2")
    except BotoCoreError as error:
        raise _too_old(f"lacks the service {name}") from error
    return model


def _too_old(what: str) -> ConfigurationError:
    return ConfigurationError(
        f"The installed botocore {what}.", remedy="Install the version that cleanroom-pipelines[api] requires."
    )


class _ShapeBuilder:
    """Converts the service model's JSON into operations and shapes; builds each shape once."""

    def __init__(self, shapes: Mapping[str, Mapping[str, Any]]) -> None:
        self._shapes = shapes
        self._built: dict[str, Shape] = {}

    def operation(self, found: Mapping[str, Any]) -> Operation:
        path = found["http"]["requestUri"]
        if "?" in path or "+" in path or "endpoint" in found or "hostPrefix" in found["http"]:
            raise _unsupported(found["name"])
        output = found.get("output")
        return Operation(
            name=found["name"],
            method=found["http"]["method"],
            segments=_segments(found),
            status=found["http"].get("responseCode", 200),
            input=self.shape(found["input"]["shape"]),
            output=self.shape(output["shape"]) if output else None,
            errors=tuple(error["shape"] for error in found.get("errors", ())),
        )

    def shape(self, name: str) -> Shape:
        if name not in self._built:
            self._built[name] = self._build(name, {**self._shapes[name], **_OUR_LIMITS.get(name, {})})
        return self._built[name]

    def _build(self, name: str, found: Mapping[str, Any]) -> Shape:
        kind = found["type"]
        if kind not in _KINDS or "payload" in found:
            raise _unsupported(name)
        pattern = found.get("pattern")
        inner = found.get("member") if kind == "list" else found.get("value")
        return Shape(
            name=name,
            kind=kind,
            minimum=found.get("min"),
            maximum=found.get("max"),
            pattern=pattern,
            matches=_compiled(name, pattern).fullmatch if pattern else None,
            choices=tuple(found.get("enum", ())),
            reserved_prefix=_RESERVED_PREFIXES.get(name, ""),
            is_union=bool(found.get("union")),
            # the protocol's default format
            is_epoch=kind == "timestamp" and found.get("timestampFormat", "unixTimestamp") == "unixTimestamp",
            members=MappingProxyType(self._members(found)),
            key=self.shape(found["key"]["shape"]) if kind == "map" else None,
            element=self.shape(inner["shape"]) if inner else None,
        )

    def _members(self, found: Mapping[str, Any]) -> dict[str, ShapeMember]:
        required = set(found.get("required", ()))
        return {
            name: ShapeMember(
                name=name,
                wire_name=member.get("locationName", name),
                location=member.get("location", "body"),
                is_required=name in required,
                shape=self.shape(member["shape"]),
            )
            for name, member in found.get("members", {}).items()
        }


def _compiled(name: str, pattern: str) -> re.Pattern[str]:
    try:
        # AWS's `\s`, `\d` and `\w` match ASCII only.
        return re.compile(pattern.replace(_SURROGATE_PAIRS, _ASTRAL_PLANES), re.ASCII)
    except re.error as error:
        raise _unsupported(name) from error


def _unsupported(name: str) -> ConfigurationError:
    return ConfigurationError(
        f"The installed botocore describes {name} in a form that this version does not support.",
        remedy="Install the version of botocore that requirements.lock names.",
    )
