"""Valid and invalid parameters of every operation, generated from botocore's model.

Contract helper: one valid example with all members for each operation, and for each constraint of the model a
request that violates it, with the member that the response must name.
"""

import copy
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from botocore.model import ListShape, MapShape, Shape, StructureShape

from .requests import operation_model

ACCOUNT = "123456789012"
# not in any message that does not quote a value
MARK = "ψ"
_ARN = f"arn:aws:cleanrooms-ml:us-east-1:{ACCOUNT}"
_STRINGS = {
    "NameString": "Käufer & more 😀",
    "ResourceDescription": "two\nlines",
    "IamRoleArn": f"arn:aws:iam::{ACCOUNT}:role/service-role/reader",
    "KmsKeyArn": f"arn:aws:kms:us-east-1:{ACCOUNT}:key/1",
    "S3Path": "s3://bucket/a folder/x.jsonl",
    "AccountId": ACCOUNT,
    "UUID": "0123abcd-0123-4abc-8def-0123456789ab",
    "GlueTableName": "inter actions-2024",
    "GlueDatabaseName": "shop-eu",
    "ColumnName": "user id",
    "TrainingDatasetArn": f"{_ARN}:training-dataset/a-0123456789ab",
    "AudienceModelArn": f"{_ARN}:audience-model/a/b.c_d-0123456789ab",
    "ConfiguredAudienceModelArn": f"{_ARN}:configured-audience-model/a-0123456789ab",
    "AudienceGenerationJobArn": f"{_ARN}:audience-generation-job/a-0123456789ab",
    "TaggableArn": f"{_ARN}:configured-audience-model/a-0123456789ab",
    "Hash": "0123456789abcdef" * 4,
    "AnalysisTemplateArn": (
        f"arn:aws:cleanrooms:us-east-1:{ACCOUNT}:membership/0123abcd-0123/analysistemplate/0123abcd-4567"
    ),
    "ParameterName": "min_visits",
    "TagKey": "cost centre",
    "TagValue": "50 % + more/ünïcode",
    "SparkPropertyKey": "spark.sql.shuffle.partitions",
}
# The model allows more: every text says 50.
_TAG_LIMIT = 50


@dataclass(frozen=True)
class Broken:
    """A request that violates one constraint.

    Attributes:
        operation: Its name.
        kind: Which constraint.
        place: The member as the answer must name it.
        parameters: All others are right.
    """

    operation: str
    kind: str
    place: str
    parameters: Mapping[str, Any]

    def __str__(self) -> str:
        return f"{self.operation}-{self.place}-{self.kind}"


def example(shape: Shape) -> Any:
    """Return a valid value with all members."""
    if isinstance(shape, StructureShape):
        return {name: example(member) for name, member in shape.members.items()}
    if isinstance(shape, ListShape):
        return [example(shape.member)] * max(1, shape.metadata.get("min", 0))
    if isinstance(shape, MapShape):
        return {example(shape.key): example(shape.value)}
    return {
        "string": lambda: shape.enum[0] if shape.enum else _STRINGS.get(shape.name, "some text"),
        "integer": lambda: shape.metadata["min"],
        "double": lambda: shape.metadata["min"],
        "boolean": lambda: True,
        "timestamp": lambda: datetime(2024, 2, 29, 12, 30, 15, 123456, tzinfo=UTC),
    }[shape.type_name]()


def right(operation: str) -> dict[str, Any]:
    """Return valid parameters of an operation, with all members."""
    return example(operation_model(operation).input_shape)


def broken(operation: str) -> Iterator[Broken]:
    """Return every violation of one constraint of an operation's input."""
    whole = right(operation)
    for kind, place, steps, value in _breaks(operation_model(operation).input_shape, whole, "", ()):
        parameters = copy.deepcopy(whole)
        at = parameters
        for step in steps[:-1]:
            at = at[step]
        if value is _ABSENT:
            del at[steps[-1]]
        else:
            at[steps[-1]] = value
        yield Broken(operation, kind, place, parameters)


_ABSENT = object()
_Break = tuple[str, str, tuple[Any, ...], Any]


def _breaks(shape: Shape, value: Any, place: str, steps: tuple[Any, ...], location: str = "") -> Iterator[_Break]:
    if isinstance(shape, StructureShape):
        yield from _structure_breaks(shape, value, place, steps, location)
    elif isinstance(shape, ListShape):
        yield from _wrong_lengths(shape, place, steps, lambda n: [example(shape.member)] * n)
        if location == "body":
            yield "null element", f"{place}.1.member", (*steps, 0), None
        yield from _breaks(shape.member, value[0], f"{place}.1.member", (*steps, 0), location)
    elif isinstance(shape, MapShape):
        yield from _map_breaks(shape, value, place, steps)
    else:
        yield from _plain_breaks(shape, place, steps, location)
    if location in {"", "body"} and steps:
        yield "wrong type", place, steps, MARK if isinstance(shape, ListShape) else [MARK]
        yield "true or not", place, steps, "true" if shape.type_name == "boolean" else True


def _structure_breaks(
    shape: StructureShape, value: Any, place: str, steps: tuple[Any, ...], location: str
) -> Iterator[_Break]:
    for name, member in shape.members.items():
        inner = f"{place}.{name}" if place else name
        where = location or member.serialization.get("location", "body")
        if name in shape.required_members and where != "uri":
            yield "missing", inner, (*steps, name), _ABSENT
        if name in shape.required_members and where == "body":
            yield "null", inner, (*steps, name), None
        yield from _breaks(member, value[name], inner, (*steps, name), where)
    if shape.is_tagged_union:
        yield "empty union", place, steps, {}


def _map_breaks(shape: MapShape, value: Any, place: str, steps: tuple[Any, ...]) -> Iterator[_Break]:
    key, inner = next(iter(value.items()))
    yield from _wrong_lengths(shape, place, steps, lambda n: {f"key{i}": "x" for i in range(n)})
    yield "null value", f"{place}.value", (*steps, key), None
    yield from _breaks(shape.value, inner, f"{place}.value", (*steps, key))
    for kind, _, _, wrong in _breaks(shape.key, key, place, steps):
        if isinstance(wrong, str):
            yield f"key {kind}", place, steps, {wrong: inner}
    if shape.name == "TagMap":
        yield "reserved key", place, steps, {"aWs:" + MARK: inner}


def _wrong_lengths(shape: Shape, place: str, steps: tuple[Any, ...], make: Any) -> Iterator[_Break]:
    smallest, largest = shape.metadata.get("min", 0), shape.metadata.get("max")
    if smallest:
        yield "too few", place, steps, make(smallest - 1)
    if largest:
        yield "too many", place, steps, make((_TAG_LIMIT if shape.name == "TagMap" else largest) + 1)


def _plain_breaks(shape: Shape, place: str, steps: tuple[Any, ...], location: str) -> Iterator[_Break]:
    smallest, largest = shape.metadata.get("min"), shape.metadata.get("max")
    match shape.type_name:
        case "string":
            # an empty label is another path
            if smallest and not (location == "uri" and smallest == 1):
                yield "too short", place, steps, MARK * (smallest - 1)
            if largest:
                # a mark is six bytes in JSON, and the longest text must stay below the limit of a body
                yield "too long", place, steps, MARK + "x" * largest
            if shape.metadata.get("pattern"):
                yield "pattern", place, steps, _mismatch(shape)
            if shape.enum:
                yield "enum", place, steps, MARK
                yield "enum's case", place, steps, shape.enum[0].lower() + MARK
            if location in {"", "body"}:
                yield "number", place, steps, 5
                yield "U+0000", place, steps, "\0" + MARK
                yield "half a surrogate pair", place, steps, "\ud800" + MARK
        case "integer":
            if smallest is not None:
                yield "below", place, steps, smallest - 1
            if largest is not None:
                yield "above", place, steps, largest + 1
            yield "word", place, steps, MARK
            yield "fraction", place, steps, 30.5
            yield "huge", place, steps, 10**30
        case "timestamp":
            yield "word", place, steps, "yesterday" + MARK
            yield "no calendar's", place, steps, "2023-02-29T00:00:00Z"
            yield "out of time", place, steps, 1e15


def _mismatch(shape: Shape) -> str:
    """Return a string of valid length that does not match the pattern."""
    n = shape.metadata.get("min") or 1
    pattern = re.compile(shape.metadata["pattern"].replace(r"\uD800\uDBFF-\uDC00\uDFFF", r"\U00010000-\U0010FFFF"))
    for text in (MARK * n, "\x01" + MARK * (n - 1)):
        if not pattern.fullmatch(text):
            return text
    raise AssertionError(shape.name)
