"""Parsing HTTP requests into operation calls, and writing outputs and errors as HTTP.

Lives here: routing, parsing queries and JSON bodies, and writing status, headers and bodies. Pure functions.
Add here when the protocol (rest-json) gets another location for members.
Keep out: the web server, signatures (`signing.py`), single values (`constraints.py`).
"""

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final
from urllib.parse import unquote_to_bytes

from cleanroom_pipelines.aws.answers import ApiError
from cleanroom_pipelines.aws.constraints import CheckedValue, from_text
from cleanroom_pipelines.aws.model import (
    COLLABORATIONS,
    SERVICE,
    Operation,
    Shape,
    ShapeMember,
    operations,
    other_operations,
)

MAX_BODY_BYTES: Final = 1 << 20

Headers = Sequence[tuple[str, str]]
"""The headers as received: names in any case; a repeated header occurs several times."""

Answer = tuple[int, dict[str, str], bytes]
"""A response: its status, headers and body."""

_INSTEAD: Final[Mapping[str, str]] = {
    SERVICE: "Only the lookalike operations are supported, not custom models.",
    COLLABORATIONS: "Collaborations can be read; the operator creates and changes them.",
}

_BAD_ESCAPE = re.compile("%(?![0-9A-Fa-f]{2})")


@dataclass(frozen=True)
class OperationCall:
    """A parsed and validated request.

    Attributes:
        operation: The operation.
        parameters: The members present, by their API names; timestamps are aware datetimes.
        n_unknown: Number of members and query parameters that the model lacks; they are ignored.
    """

    operation: Operation
    parameters: Mapping[str, Any] = field(repr=False)
    n_unknown: int


def route(method: str, raw_path: str, service: str = SERVICE) -> tuple[Operation, dict[str, str]]:
    """Find the operation that a request calls.

    The path is split before it is unquoted, so that an ARN stays one segment, even with encoded slashes in it.

    Args:
        method: HTTP method.
        raw_path: The path as received, still percent-encoded, without the query.
        service: The service in the signature's scope.

    Returns:
        The operation, and the unquoted labels of its path by wire name.

    Raises:
        ApiError: UnknownOperationException with status 404 for an unknown path, or 405 for a method that the path
            does not support, which names the operation that AWS has there; ValidationException for a label that
            is not percent-encoded UTF-8.
    """
    segments = raw_path.split("/")[1:]
    found = [operation for operation in operations(service).values() if _fits(operation.segments, segments)]
    if not raw_path.startswith("/"):
        raise ApiError("UnknownOperationException", reason="unknown path")
    for operation in found:
        if operation.method == method:
            labels = zip(operation.segments, segments, strict=True)
            return operation, {
                label[1:-1]: _unquote(segment, "path") for label, segment in labels if label.startswith("{")
            }
    message = _not_served(method, segments, service)
    if not found:
        raise ApiError("UnknownOperationException", message, reason="unknown path")
    headers = {"Allow": ", ".join(sorted({operation.method for operation in found}))}
    raise ApiError("UnknownOperationException", message, status=405, headers=headers, reason="unknown method")


def _not_served(method: str, segments: Sequence[str], service: str) -> str:
    """Return a message that names AWS's operation at a path, without quoting the path; empty if there is none."""
    for (its_method, pattern), name in other_operations(service).items():
        if its_method == method and _fits(pattern, segments):
            return f"{name} is not available here. {_INSTEAD[service]}"
    return ""


def _fits(pattern: Sequence[str], segments: Sequence[str]) -> bool:
    return len(pattern) == len(segments) and all(
        bool(segment) if part.startswith("{") else part == segment
        for part, segment in zip(pattern, segments, strict=True)
    )


def _unquote(text: str, where: str) -> str:
    try:
        if not text.isascii() or _BAD_ESCAPE.search(text):
            raise ValueError
        return unquote_to_bytes(text).decode("utf-8")
    except ValueError:
        raise _invalid(f"The {where} is not percent-encoded UTF-8.") from None


def _invalid(message: str) -> ApiError:
    return ApiError("ValidationException", message, reason="request not understood")


def read(
    operation: Operation,
    path_parameters: Mapping[str, str],
    raw_query: str,
    headers: Headers,
    body: bytes,
    *,
    max_body_bytes: int = MAX_BODY_BYTES,
) -> OperationCall:
    """Parse a request and validate it against the model.

    Args:
        operation: The operation, from `route`.
        path_parameters: The path's labels, from `route`.
        raw_query: The query string after `?`, still percent-encoded; a plus sign is literal.
        headers: The request's headers.
        body: A JSON object in UTF-8; ignored if the operation has no body.
        max_body_bytes: Size limit of the body, in bytes.

    Returns:
        The call, whose members all satisfy the model and the documented limits of tags.

    Raises:
        ApiError: ValidationException; its message names members and constraints, never values.
    """
    query, n_unknown_query = _read_query(operation.input, raw_query)
    checked = CheckedValue(n_unknown=n_unknown_query)
    parameters = checked.structure(operation.input, path_parameters, locations=("uri",))
    parameters |= checked.structure(operation.input, query, locations=("querystring",))
    parameters |= checked.structure(
        operation.input, _read_headers(operation.input, headers), locations=("header",)
    )
    if any(member.location == "body" for member in operation.input.members.values()):
        parameters |= checked.structure(operation.input, _read_body(headers, body, max_body_bytes))
    if checked.problems:
        n = len(checked.problems)
        count = f"{n} validation error{'s' if n > 1 else ''} detected"
        raise ApiError(
            "ValidationException", f"{count}: {'; '.join(checked.problems)}", reason="constraint broken"
        )
    return OperationCall(operation, parameters, checked.n_unknown)


def _members(shape: Shape, location: str) -> dict[str, ShapeMember]:
    return {member.wire_name: member for member in shape.members.values() if member.location == location}


def _read_query(shape: Shape, raw_query: str) -> tuple[dict[str, Any], int]:
    """Return the known parameters of a query by wire name, and the number of unknown ones."""
    known = _members(shape, "querystring")
    found: dict[str, list[str]] = {}
    for pair in raw_query.split("&") if raw_query else ():
        name, _, value = pair.partition("=")
        found.setdefault(_unquote(name, "query"), []).append(_unquote(value, "query"))
    values: dict[str, Any] = {}
    for name, member in known.items():
        if name not in found:
            continue
        if member.shape.kind == "list":
            assert member.shape.element is not None
            values[name] = [from_text(member.shape.element, text) for text in found[name]]
        elif len(found[name]) > 1:
            raise _invalid(f"The query gives '{name}' more than once.")
        else:
            values[name] = from_text(member.shape, found[name][0])
    return values, len(found.keys() - known.keys())


def _read_headers(shape: Shape, headers: Headers) -> dict[str, Any]:
    known = {name.lower(): member for name, member in _members(shape, "header").items()}
    return {
        known[name.lower()].wire_name: from_text(known[name.lower()].shape, value.strip())
        for name, value in headers
        if name.lower() in known
    }


def _read_body(headers: Headers, body: bytes, max_body_bytes: int) -> dict[str, Any]:
    encodings = {value.strip().lower() for name, value in headers if name.lower() == "content-encoding"}
    if encodings - {"identity"}:
        raise _invalid("The request body is compressed; send it uncompressed.")
    if len(body) > max_body_bytes:
        raise _invalid(f"The request body has more than {max_body_bytes} bytes.")
    if not body:
        return {}
    try:
        found = json.loads(
            body.decode("utf-8"),
            object_pairs_hook=_object,
            parse_constant=_no_constant,
            parse_float=_finite,
        )
    # a number with thousands of digits also raises ValueError
    except (ValueError, RecursionError):
        raise _invalid("The request body is not valid JSON in UTF-8.") from None
    if not isinstance(found, dict):
        raise _invalid("The request body is not a JSON object.")
    return found


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise _invalid("The request body gives a member more than once.")
    return found


def _no_constant(_: str) -> None:
    raise ValueError("NaN and infinities are not valid JSON")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError("the number is too large")
    return number


def write(
    operation: Operation, output: Mapping[str, Any] | None, request_id: str, *, is_strict: bool = False
) -> Answer:
    """Write an operation's output as an HTTP response.

    Args:
        operation: The operation.
        output: The output by API member names, with aware datetimes. Members that are None, or that the shape
            lacks, are omitted.
        request_id: Id of the request, a UUID.
        is_strict: Whether to validate the output against its shape first; for tests.

    Returns:
        Status, headers and body; the body is empty if the operation has no output shape.

    Raises:
        ValueError: The output contains a naive datetime or a NaN; with `is_strict`, also if it violates its shape.
            The message names paths, never values.
    """
    headers = {"x-amzn-RequestId": request_id}
    if operation.output is None:
        if is_strict and output:
            raise ValueError(f"{operation.name} has no output")
        return operation.status, headers, b""
    plain = _plain(operation.output, output or {}, is_strict)
    if is_strict:
        checked = CheckedValue()
        checked.structure(operation.output, plain)
        if checked.problems:
            raise ValueError(f"The output of {operation.name}: {'; '.join(checked.problems)}")
    return operation.status, headers | {"Content-Type": "application/json"}, _json(plain)


def write_error(error: ApiError, request_id: str) -> Answer:
    """Write an error as an HTTP response for which boto3 raises its own exception class.

    Args:
        error: The error to send.
        request_id: Id of the request, a UUID.
    """
    headers = {"x-amzn-RequestId": request_id, "x-amzn-ErrorType": error.name, "Content-Type": "application/json"}
    members = {name: value for name, value in error.members.items() if value is not None}
    return error.status, error.headers | headers, _json({"message": error.message} | members)


def _json(value: Any) -> bytes:
    return json.dumps(value, allow_nan=False, separators=(",", ":")).encode("ascii")


def _plain(shape: Shape, value: Any, is_strict: bool) -> Any:
    """Convert an output value for JSON: use wire names, omit members that are None, write timestamps as text."""
    match shape.kind:
        case "structure":
            there = {name: each for name, each in value.items() if each is not None}
            if is_strict and there.keys() - shape.members.keys():
                raise ValueError(f"{shape.name} has no {', '.join(sorted(there.keys() - shape.members.keys()))}")
            return {
                member.wire_name: _plain(member.shape, there[name], is_strict)
                for name, member in shape.members.items()
                if name in there
            }
        case "list":
            assert shape.element is not None
            return [_plain(shape.element, each, is_strict) for each in value]
        case "map":
            assert shape.element is not None
            return {key: _plain(shape.element, each, is_strict) for key, each in value.items()}
        case "timestamp":
            return _epoch(value) if shape.is_epoch else _timestamp(value)
    return value


def _epoch(value: datetime) -> float:
    _timestamp(value)
    return round(value.timestamp(), 3)


def _timestamp(value: datetime) -> str:
    if value.tzinfo is None:
        raise ValueError("a timestamp without a time zone")
    return value.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
