"""AWS's query protocol: parameters as a form, responses in XML. STS and older services use it.

Lives here: `GetCallerIdentity` of STS, reading the requested action, and writing outputs and errors as XML.
Add here when another operation of a service with this protocol is served.
Keep out: services with JSON (`wire.py`) and S3, whose XML is its own.
"""

import re
from collections.abc import Mapping
from typing import Final
from urllib.parse import parse_qs
from xml.etree import ElementTree as ET

from cleanroom_pipelines.aws.answers import ApiError, Caller, ErrorName
from cleanroom_pipelines.aws.documents import add_text, add_texts, document
from cleanroom_pipelines.aws.wire import Answer, Headers

STS: Final = "sts"
"""The name of AWS STS in signatures; its GetCallerIdentity returns the caller's account."""

_NAMESPACE: Final = "https://sts.amazonaws.com/doc/2011-06-15/"
_NAME: Final = re.compile("[A-Za-z][A-Za-z0-9]{0,99}")
_MAX_FIELDS: Final = 100
# Source: "Common errors" of AWS's query APIs.
_CODES: Final[Mapping[ErrorName, str]] = {
    "ValidationException": "ValidationError",
    "AccessDeniedException": "AccessDenied",
    "UnknownOperationException": "InvalidAction",
    "ThrottlingException": "Throttling",
    "InternalServiceException": "InternalFailure",
    "ServiceUnavailableException": "ServiceUnavailable",
}


def is_query(headers: Headers) -> bool:
    """Return whether a request uses the query protocol: its body is a form, and its client expects XML."""
    types = [value for name, value in headers if name.lower() == "content-type"]
    return any(each.partition(";")[0].strip().lower() == "application/x-www-form-urlencoded" for each in types)


def requested_operation(headers: Headers, raw_query: str, body: bytes) -> str | None:
    """Return the name of the operation in the form, the query or the X-Amz-Target header, if there is one."""
    try:
        form = parse_qs(body.decode("ascii") if is_query(headers) else raw_query, max_num_fields=_MAX_FIELDS)
    except ValueError:
        form = {}
    targets = [value.rpartition(".")[2] for name, value in headers if name.lower() == "x-amz-target"]
    name = (form.get("Action") or targets or [""])[0]
    return name if _NAME.fullmatch(name) else None


def caller_identity(caller: Caller, operation: str | None, request_id: str) -> Answer:
    """Handle GetCallerIdentity of STS: return the access key's account, as the account's root user.

    Args:
        caller: The caller.
        operation: The operation from `requested_operation`.
        request_id: Id of the request, a UUID.

    Raises:
        ApiError: UnknownOperationException for any other operation of STS.
    """
    if operation != "GetCallerIdentity":
        raise not_available(STS, operation)
    identity = {
        "Arn": f"arn:aws:iam::{caller.account_id}:root",
        "UserId": caller.account_id,
        "Account": caller.account_id,
    }
    root = ET.Element("GetCallerIdentityResponse", xmlns=_NAMESPACE)
    add_texts(ET.SubElement(root, "GetCallerIdentityResult"), identity)
    add_text(ET.SubElement(root, "ResponseMetadata"), "RequestId", request_id)
    return 200, _headers(request_id), document(root)


_INSTEAD: Final[Mapping[str, str]] = {
    STS: "Only GetCallerIdentity is available. Sign each request with an account's access key, without a session.",
    "glue": "Put a table's files below <database>/<table>/ of the bucket warehouse-<account id>, then name "
    "database and table in CreateTrainingDataset.",
    "iam": "The operator creates accounts and keys. You can name any role of your own account.",
}


def not_available(service: str, operation: str | None) -> ApiError:
    """Return the error for a service, or an operation of a service, that this server does not implement.

    Args:
        service: The service in the signature's scope.
        operation: The operation from `requested_operation`.
    """
    what = operation or "The operation"
    instead = _INSTEAD.get(service, "Only the services cleanrooms-ml, cleanrooms, s3 and sts are available.")
    return ApiError(
        "UnknownOperationException",
        f"{what} of the service {service} is not available here. {instead}",
        status=400,
        members={"__type": "UnknownOperationException"},  # where clients of JSON 1.0 and 1.1 read the name
        reason="unknown operation",
    )


def write_error(error: ApiError, request_id: str) -> Answer:
    """Write an error as XML, for which boto3 raises a ClientError with the query protocol's error code.

    Args:
        error: The error to send.
        request_id: Id of the request, a UUID.
    """
    root = ET.Element("ErrorResponse", xmlns=_NAMESPACE)
    code = _CODES.get(error.name, error.name.removesuffix("Exception"))
    type_ = "Sender" if error.status < 500 else "Receiver"
    add_texts(ET.SubElement(root, "Error"), {"Type": type_, "Code": code, "Message": error.message})
    add_text(root, "RequestId", request_id)
    return error.status, error.headers | _headers(request_id), document(root)


def _headers(request_id: str) -> dict[str, str]:
    return {"x-amzn-RequestId": request_id, "Content-Type": "text/xml"}
