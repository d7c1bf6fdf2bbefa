"""The API as botocore's own service model tells it, so that reading, checking and writing cannot drift from it.

Lives here: the 25 lookalike operations and the shapes they take and give; where our limits are not the model's.
Add here when an operation is added, or a documented limit the model lacks.
Keep out: values; they are checked against a shape in `constraints.py`.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from types import MappingProxyType
from typing import Any, Final, Literal

from cleanroom_pipelines.errors import ConfigurationError

SERVICE: Final = "cleanrooms-ml"
"""The name in signatures and ARNs."""

OPERATION_NAMES: Final = (
    "CreateTrainingDataset",
    "GetTrainingDataset",
    "ListTrainingDatasets",
    "DeleteTrainingDataset",
    "CreateAudienceModel",
    "GetAudienceModel",
    "ListAudienceModels",
    "DeleteAudienceModel",
    "CreateConfiguredAudienceModel",
    "GetConfiguredAudienceModel",
    "UpdateConfiguredAudienceModel",
    "ListConfiguredAudienceModels",
    "DeleteConfiguredAudienceModel",
    "PutConfiguredAudienceModelPolicy",
    "GetConfiguredAudienceModelPolicy",
    "DeleteConfiguredAudienceModelPolicy",
    "StartAudienceGenerationJob",
    "GetAudienceGenerationJob",
    "ListAudienceGenerationJobs",
    "DeleteAudienceGenerationJob",
    "StartAudienceExportJob",
    "ListAudienceExportJobs",
    "TagResource",
    "UntagResource",
    "ListTagsForResource",
)

# Where we hold to what AWS documents and not to what its model says.
_OUR_LIMITS: Final[Mapping[str, Mapping[str, Any]]] = {
    # The model counts AWS's own tags too; the text of every `tags` member says 50.
    "TagMap": {"max": 50},
    # The guide's relevance runs from -1 to 1 and crosses zero; the model's 0 to 10 contradicts it.
    "RelevanceMetricScoreDouble": {"min": -1.0, "max": 1.0},
}
_RESERVED_PREFIXES: Final = {"TagKey": "aws:"}

# AWS's engine matches UTF-16, where these classes mean any surrogate pair. Python's matches code points.
_SURROGATE_PAIRS: Final = r"\uD800\uDBFF-\uDC00\uDFFF"
_ASTRAL_PLANES: Final = r"\U00010000-\U0010FFFF"

Location = Literal["body", "uri", "querystring", "header"]
_KINDS = {"structure", "list", "map", "string", "integer", "long", "float", "double", "boolean", "timestamp"}


@dataclass(frozen=True, eq=False)
class Shape:
    """What a value may be.

    Attributes:
        name: The model's name of it.
        kind: `structure`, `list`, `map`, `string`, `integer`, `long`, `float`, `double`, `boolean` or `timestamp`.
        minimum: Smallest length (string, list, map) or value (numbers), inclusive.
        maximum: Largest length or value, inclusive.
        pattern: What the whole of a string must match, as AWS writes it.
        matches: Whether a string does; pure, and of a time linear in its length.
        choices: The values a string may have; empty where any.
        reserved_prefix: What a string must not begin with, in any case.
        is_union: Whether exactly one member must be there.
        members: Of a structure, by name.
        key: Of a map.
        element: Of a list; the value of a map.
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
    members: Mapping[str, "ShapeMember"] = field(default_factory=dict, repr=False)
    key: "Shape | None" = None
    element: "Shape | None" = None


@dataclass(frozen=True, eq=False)
class ShapeMember:
    """A member of a structure.

    Attributes:
        name: The API's name of it.
        wire_name: Its name in the body, the query or the header, or of the path's label.
        location: Where it travels.
        is_required: Whether it must be there.
        shape: What it may be.
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
        segments: The path's segments; a label stands as `{memberName}`.
        status: Of a success.
        input: What it takes.
        output: What it gives; None for an empty body.
        errors: The names of the errors that its model lists.
    """

    name: str
    method: str
    segments: tuple[str, ...]
    status: int
    input: Shape = field(repr=False)
    output: Shape | None = field(repr=False)
    errors: tuple[str, ...] = field(repr=False)


@lru_cache(maxsize=1)
def operations() -> Mapping[str, Operation]:
    """The 25 lookalike operations by name, read from the installed botocore at the first call.

    Raises:
        ConfigurationError: botocore is not installed, or its model is not one that this code understands.
    """
    model = _load()
    build = _Builder(model["shapes"])
    return MappingProxyType({name: build.operation(model["operations"][name]) for name in OPERATION_NAMES})


def _load() -> Mapping[str, Any]:
    try:
        from botocore.exceptions import BotoCoreError
        from botocore.loaders import Loader
    except ImportError as error:
        raise ConfigurationError(
            "The AWS-compatible endpoint needs botocore, which is not installed.",
            remedy="Install cleanroom-pipelines[api].",
        ) from error
    # The default paths include one in the user's own folder, where a file could change what is checked.
    loader = Loader(extra_search_paths=[Loader.BUILTIN_DATA_PATH], include_default_search_paths=False)
    try:
        model: Mapping[str, Any] = loader.load_service_model("cleanroomsml", "service-2")
    except BotoCoreError as error:
        raise _too_old("does not know the service") from error
    missing = [name for name in OPERATION_NAMES if name not in model["operations"]]
    if missing:
        raise _too_old(f"does not know {missing[0]}")
    return model


def _too_old(what: str) -> ConfigurationError:
    return ConfigurationError(
        f"The installed botocore {what}.", remedy="Install the version that cleanroom-pipelines[api] asks for."
    )


class _Builder:
    """Turns the model's JSON into shapes, each built once."""

    def __init__(self, shapes: Mapping[str, Mapping[str, Any]]) -> None:
        self._shapes = shapes
        self._built: dict[str, Shape] = {}

    def operation(self, found: Mapping[str, Any]) -> Operation:
        path = found["http"]["requestUri"]
        if "?" in path or "+" in path or "endpoint" in found or "hostPrefix" in found["http"]:
            raise _not_understood(found["name"])
        output = found.get("output")
        return Operation(
            name=found["name"],
            method=found["http"]["method"],
            segments=tuple(path.strip("/").split("/")),
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
            raise _not_understood(name)
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
        # AWS's `\s`, `\d` and `\w` know ASCII alone.
        return re.compile(pattern.replace(_SURROGATE_PAIRS, _ASTRAL_PLANES), re.ASCII)
    except re.error as error:
        raise _not_understood(name) from error


def _not_understood(name: str) -> ConfigurationError:
    return ConfigurationError(
        f"The installed botocore describes {name} in a way that this version does not understand.",
        remedy="Install the version of botocore that requirements.lock names.",
    )
