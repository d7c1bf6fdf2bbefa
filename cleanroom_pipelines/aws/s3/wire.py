"""Reading S3 requests and writing S3 responses, according to botocore's model of the service.

Lives here: finding the operation of a request, its parameters and XML body, and writing outputs and errors as XML.
Add here when another form of parameter or response is needed.
Keep out: what operations do (`server.s3`), bodies of objects (`bodies.py`), signatures (`aws.signing`).
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import format_datetime, parsedate_to_datetime
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import parse_qsl
from xml.etree import ElementTree as ET

from cleanroom_pipelines.aws.documents import add_text, add_texts, document
from cleanroom_pipelines.aws.model import load_service
from cleanroom_pipelines.aws.s3.errors import S3Error

if TYPE_CHECKING:
    from botocore.model import OperationModel, ServiceModel, Shape

MAX_XML_BYTES: Final = 4 << 20
NAMESPACE: Final = "http://s3.amazonaws.com/doc/2006-03-01/"
_XML: Final = "application/xml"
_SIGNING: Final = re.compile("x-amz-(algorithm|credential|date|expires|signedheaders|signature|content-sha256)")
_HOISTED: Final = re.compile("x-amz-(?!checksum-|sdk-)[a-z0-9._-]+")
_NO_RULE: Final = ("ListDirectoryBuckets", "WriteGetObjectResponse")  # of other endpoints
_NUMBER = re.compile("[0-9]{1,15}")
_MOST_ELEMENTS: Final = 100_000
# The names that botocore ignores and other clients may look for.
_ROOTS: Final[Mapping[str, str]] = {
    "CompleteMultipartUpload": "CompleteMultipartUploadResult",
    "CreateMultipartUpload": "InitiateMultipartUploadResult",
    "DeleteObjects": "DeleteResult",
    "ListBuckets": "ListAllMyBucketsResult",
    "ListMultipartUploads": "ListMultipartUploadsResult",
    "ListObjects": "ListBucketResult",
    "ListObjectsV2": "ListBucketResult",
    "ListParts": "ListPartsResult",
}


@dataclass(frozen=True)
class S3Call:
    """A parsed S3 request: its operation, bucket, key and other parameters.

    Attributes:
        operation: The operation's name.
        bucket: The bucket; empty for operations without one.
        key: The key; empty for operations without one.
        parameters: The other parameters of query and headers that are present, by the model's names.
    """

    operation: str
    bucket: str
    key: str
    parameters: Mapping[str, Any] = field(repr=False)


@dataclass(frozen=True)
class _OperationRule:
    """What identifies requests for an operation: method, path, fixed and required query parameters and headers."""

    operation: str
    method: str
    has_bucket: bool
    has_key: bool
    fixed: frozenset[tuple[str, str]]
    required: frozenset[tuple[str, str]]

    def fits(
        self, method: str, bucket: str, key: str, query: Mapping[str, str], headers: Mapping[str, str]
    ) -> bool:
        there = {"querystring": query, "header": headers}
        return (
            (self.method, self.has_bucket, self.has_key) == (method, bool(bucket), bool(key))
            and all(query.get(name) == value or (not value and name in query) for name, value in self.fixed)
            and all(name in there[location] for location, name in self.required)
        )


@lru_cache(maxsize=1)
def service() -> "ServiceModel":
    """Return botocore's model of S3.

    Raises:
        ConfigurationError: botocore is not installed.
    """
    model = load_service("s3")
    from botocore.model import ServiceModel

    return ServiceModel(model, "s3")


@lru_cache(maxsize=256)
def _model_of(operation: str) -> "OperationModel":
    return service().operation_model(operation)


@lru_cache(maxsize=1)
def _rules() -> tuple[_OperationRule, ...]:
    names = [name for name in service().operation_names if name not in _NO_RULE]
    rules = [_rule(_model_of(name)) for name in names]
    return tuple(sorted(rules, key=lambda rule: -len(rule.fixed) - len(rule.required)))


def _rule(operation: "OperationModel") -> _OperationRule:
    path, _, query = operation.http["requestUri"].partition("?")
    shape = operation.input_shape
    required = [shape.members[name].serialization for name in shape.required_members] if shape else []
    return _OperationRule(
        operation.name,
        operation.http["method"],
        "{Bucket}" in path,
        "{Key+}" in path,
        frozenset(parse_qsl(query, keep_blank_values=True)),
        frozenset(
            (each["location"], each["name"].lower() if each["location"] == "header" else each["name"])
            for each in required
            if each.get("location") in ("header", "querystring")
        ),
    )


@lru_cache(maxsize=1)
def _known_in_queries() -> frozenset[str]:
    shapes = [_model_of(name).input_shape for name in service().operation_names]
    members = [member.serialization for shape in shapes if shape for member in shape.members.values()]
    fixed = {name for rule in _rules() for name, _ in rule.fixed}
    return frozenset(each["name"] for each in members if each.get("location") == "querystring") | fixed


def read_call(method: str, bucket: str, key: str, query: Mapping[str, str], headers: Mapping[str, str]) -> S3Call:
    """Find the operation that a request calls, and read its parameters.

    Args:
        method: HTTP method.
        bucket: The bucket of host or path, or an empty text.
        key: The key, or an empty text.
        query: The query's names and values.
        headers: The headers by lower-case name.

    Raises:
        S3Error: MethodNotAllowed, or a parameter is invalid.
    """
    rule = next((each for each in _rules() if each.fits(method, bucket, key, query, headers)), None)
    if rule is None:
        raise S3Error("MethodNotAllowed")
    shape = _model_of(rule.operation).input_shape
    members = shape.members if shape else {}
    own = {each.serialization["name"] for each in members.values() if each.serialization.get("location")}
    for name in query:
        if name in _known_in_queries() and name not in own and name not in {each for each, _ in rule.fixed}:
            raise S3Error("InvalidArgument", f"{rule.operation} does not support the parameter {name}.")
    found: dict[str, Any] = {}
    for name, member in members.items():
        location, wire_name = member.serialization.get("location"), member.serialization.get("name", name)
        if location == "headers":
            prefix = wire_name.lower()
            found[name] = {each.removeprefix(prefix): headers[each] for each in headers if each.startswith(prefix)}
        elif location == "querystring" and wire_name in query:
            found[name] = _from_text(member, query[wire_name], wire_name)
        elif location == "header" and wire_name.lower() in headers:
            found[name] = _from_text(member, headers[wire_name.lower()], wire_name)
    return S3Call(rule.operation, bucket, key, {name: value for name, value in found.items() if value != {}})


def is_of_signature(name: str) -> bool:
    """Whether a query parameter belongs to the signature of a presigned URL, not to the operation."""
    return _SIGNING.fullmatch(name.lower()) is not None


def is_hoisted(name: str) -> bool:
    """Whether a query parameter replaces a header; SDKs move headers into the query of presigned URLs.

    Those of checksums do not: SDKs sign the checksum of an empty body, since there is none yet.
    """
    return _HOISTED.fullmatch(name.lower()) is not None


def _from_text(shape: "Shape", text: str, name: str) -> Any:
    try:
        if shape.type_name in ("integer", "long"):
            if not _NUMBER.fullmatch(text):
                raise ValueError
            return int(text)
        if shape.type_name == "boolean":
            return {"true": True, "false": False}[text.lower()]
        if shape.type_name == "timestamp":
            date = parsedate_to_datetime(text) if "," in text else datetime.fromisoformat(text)
            return date if date.tzinfo else date.replace(tzinfo=UTC)
        if shape.type_name == "list":
            return [each.strip() for each in text.split(",")]
    except (ValueError, KeyError, OverflowError):
        raise S3Error("InvalidArgument", f"The value of {name} is not a valid {shape.type_name}.") from None
    return text


class _Tree(ET.TreeBuilder):
    """Builder of an XML tree; rejects document types (and with them entities) and too many elements."""

    def __init__(self) -> None:
        super().__init__()
        self._n_elements = 0

    def start(self, tag: str, attributes: dict[str, str]) -> ET.Element:
        self._n_elements += 1
        if self._n_elements > _MOST_ELEMENTS:
            raise ValueError("too many elements")
        return super().start(tag, attributes)

    def doctype(self, *_: object) -> None:
        raise ValueError("a document type")


def read_xml(operation: str, body: bytes) -> dict[str, Any]:
    """Parse the XML body of a request with botocore's model of its operation; ignore unknown elements.

    Raises:
        S3Error: MalformedXML.
    """
    shape = _model_of(operation).input_shape
    payload = shape.members[shape.serialization["payload"]]
    try:
        parser = ET.XMLParser(target=_Tree())  # noqa: S314 - _Tree accepts no document type, so there are no entities
        parser.feed(body)
        found: dict[str, Any] = _from_xml(payload, parser.close())
    # expat reports a wrong encoding as a LookupError or ValueError
    except (ET.ParseError, ValueError, LookupError, RecursionError):
        raise S3Error("MalformedXML") from None
    return found


def _from_xml(shape: "Shape", element: ET.Element) -> Any:
    if shape.type_name == "structure":
        found: dict[str, Any] = {}
        for name, member in shape.members.items():
            wire_name = member.serialization.get("name", name)
            elements = [each for each in element if each.tag.rpartition("}")[2] == wire_name]
            if member.type_name == "list":
                found[name] = [_from_xml(member.member, each) for each in elements]
            elif len(elements) > 1:
                raise ValueError("an element twice")
            elif elements:
                found[name] = _from_xml(member, elements[0])
        if any(name not in found for name in shape.required_members):
            raise ValueError("a required element is missing")
        return found
    if len(element):
        raise ValueError("elements in a text")
    text = element.text or ""
    if shape.type_name in ("integer", "long") and not _NUMBER.fullmatch(text.strip()):
        raise ValueError("not a number")
    return _from_text(shape, text if shape.type_name == "string" else text.strip(), "element")


def write(operation: str, output: Mapping[str, Any], request_id: str) -> tuple[int, dict[str, str], bytes]:
    """Write an operation's output as status, headers and body, as botocore's model describes them.

    Args:
        operation: The operation's name.
        output: Its output by the model's names; members that are None are omitted.
        request_id: Id of the request.
    """
    model = _model_of(operation)
    headers = {"x-amz-request-id": request_id}
    status = int(model.http.get("responseCode", 200))
    shape = model.output_shape
    if shape is None:
        return status, headers, b""
    there = {name: value for name, value in output.items() if value is not None}
    headers |= {
        member.serialization["name"]: _text(member, there[name], in_header=True)
        for name, member in shape.members.items()
        if member.serialization.get("location") == "header" and name in there
    }
    for name, member in shape.members.items():
        if member.serialization.get("location") == "headers":
            headers |= {member.serialization["name"] + key: value for key, value in there.get(name, {}).items()}
    if operation == "GetBucketLocation":  # its only value is the root itself
        root = ET.Element("LocationConstraint", xmlns=NAMESPACE)
        root.text = there.get("LocationConstraint")
        return status, headers | {"Content-Type": _XML}, document(root)
    payload = shape.serialization.get("payload")
    body = {name: value for name, value in there.items() if not shape.members[name].serialization.get("location")}
    if not body and operation not in _ROOTS:
        return status, headers, b""
    root = ET.Element(_ROOTS.get(operation) or payload or shape.name, xmlns=NAMESPACE)
    _fill(root, shape.members[payload] if payload else shape, body[payload] if payload else body)
    return status, headers | {"Content-Type": _XML}, document(root)


def write_error(error: S3Error, request_id: str, *, has_body: bool = True) -> tuple[int, dict[str, str], bytes]:
    """Write an error as status, headers and body.

    Args:
        error: The error.
        request_id: Id of the request.
        has_body: Whether the method's responses have bodies.
    """
    headers = {"x-amz-request-id": request_id, **error.headers}
    if not has_body or error.name == "NotModified":
        return error.status, headers, b""
    root = add_texts(ET.Element("Error"), {"Code": error.name, "Message": error.message, "RequestId": request_id})
    return error.status, headers | {"Content-Type": _XML}, document(root)


def _fill(element: ET.Element, shape: "Shape", value: Mapping[str, Any]) -> None:
    for name, member in shape.members.items():
        if value.get(name) is None or member.serialization.get("location"):
            continue
        wire_name = member.serialization.get("name", name)
        if member.type_name != "list":
            _add(element, wire_name, member, value[name])
            continue
        is_flat = member.serialization.get("flattened")
        parent = element if is_flat else ET.SubElement(element, wire_name)
        item_name = wire_name if is_flat else member.member.serialization.get("name", "member")
        for each in value[name]:
            _add(parent, item_name, member.member, each)


def _add(parent: ET.Element, name: str, shape: "Shape", value: Any) -> None:
    if shape.type_name == "structure":
        _fill(ET.SubElement(parent, name), shape, value)
    else:
        add_text(parent, name, _text(shape, value))


def _text(shape: "Shape", value: Any, *, in_header: bool = False) -> str:
    if shape.type_name == "timestamp":
        if in_header:
            return format_datetime(value.astimezone(UTC), usegmt=True)
        return str(value.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"))
    if shape.type_name == "boolean":
        return "true" if value else "false"
    return str(value)
