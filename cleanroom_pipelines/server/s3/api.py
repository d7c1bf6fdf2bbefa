"""S3 requests: signature, address, operation, body, response and audit.

Lives here: the order of a request's steps, the table of operations, and the conversion of errors to S3 errors.
Keep out: the implementation of the steps (`aws.s3`), and the operations.
"""

import logging
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Final
from urllib.parse import unquote_to_bytes

from cleanroom_pipelines.aws.answers import ApiError, from_cleanroom_error
from cleanroom_pipelines.aws.s3 import wire
from cleanroom_pipelines.aws.s3.bodies import Body
from cleanroom_pipelines.aws.s3.checksums import is_checksum
from cleanroom_pipelines.aws.s3.errors import S3Error
from cleanroom_pipelines.aws.signing import S3Signature
from cleanroom_pipelines.errors import CleanroomError, NotFoundError
from cleanroom_pipelines.server.callers import AuditTrail, Doorkeeper
from cleanroom_pipelines.server.requests import Reply, Request
from cleanroom_pipelines.server.s3 import buckets, multipart, objects
from cleanroom_pipelines.server.s3.operations import (
    OF_BODIES,
    OF_NEW_OBJECTS,
    Context,
    S3Operation,
    S3Parts,
    check_key,
    check_parameters,
    open_bucket,
)
from cleanroom_pipelines.storage.artifacts import full_disk_is_an_error
from cleanroom_pipelines.storage.objects import BucketError, BucketForbiddenError

_LOG = logging.getLogger(__name__)
_IN_MEMORY: Final = 1 << 20
_LISTING = frozenset({"Delimiter", "EncodingType", "MaxKeys", "Prefix", "FetchOwner"})
_CONDITIONS = ("IfMatch", "IfNoneMatch", "IfModifiedSince", "IfUnmodifiedSince")
_READING = frozenset({*_CONDITIONS, "Range", "ChecksumMode"})
_REPLACED = frozenset(f"ResponseContent{name}" for name in ("Disposition", "Encoding", "Language", "Type"))
_SOURCE = frozenset({"CopySource", "ExpectedSourceBucketOwner", *(f"CopySource{name}" for name in _CONDITIONS)})
_PART = frozenset({"PartNumber", "UploadId"})

OPERATIONS: Final[Mapping[str, S3Operation]] = {
    "AbortMultipartUpload": S3Operation(multipart.abort_multipart_upload, frozenset({"UploadId"}), is_write=True),
    "CompleteMultipartUpload": S3Operation(
        multipart.complete_multipart_upload,
        OF_BODIES | {"ChecksumType", "IfNoneMatch", "MpuObjectSize", "UploadId"},
        "document",
        is_write=True,
    ),
    "CopyObject": S3Operation(
        objects.copy_object,
        OF_NEW_OBJECTS | _SOURCE | {"ChecksumAlgorithm", "IfNoneMatch", "MetadataDirective", "TaggingDirective"},
        is_write=True,
    ),
    "CreateBucket": S3Operation(buckets.create_bucket, frozenset({"ACL"}), "document", is_write=True),
    "CreateMultipartUpload": S3Operation(
        multipart.create_multipart_upload,
        OF_NEW_OBJECTS | {"ChecksumAlgorithm", "ChecksumType"},
        is_write=True,
    ),
    "DeleteBucket": S3Operation(buckets.delete_bucket, is_write=True),
    "DeleteObject": S3Operation(objects.delete_object, is_write=True),
    "DeleteObjects": S3Operation(objects.delete_objects, OF_BODIES, "document", is_write=True),
    "GetBucketLocation": S3Operation(buckets.get_bucket_location),
    "GetBucketVersioning": S3Operation(buckets.get_bucket_versioning),
    "GetObject": S3Operation(objects.get_object, _READING | _REPLACED | {"ResponseCacheControl"}),
    "GetObjectTagging": S3Operation(objects.get_object_tagging),
    "HeadBucket": S3Operation(buckets.head_bucket),
    "HeadObject": S3Operation(objects.get_object, _READING | _REPLACED | {"ResponseCacheControl"}),
    "ListBuckets": S3Operation(
        buckets.list_buckets, frozenset({"BucketRegion", "ContinuationToken", "MaxBuckets", "Prefix"})
    ),
    "ListMultipartUploads": S3Operation(
        multipart.list_multipart_uploads, frozenset({"EncodingType", "MaxUploads", "Prefix"})
    ),
    "ListObjects": S3Operation(buckets.list_objects, _LISTING | {"Marker"}),
    "ListObjectsV2": S3Operation(buckets.list_objects_v2, _LISTING | {"ContinuationToken", "StartAfter"}),
    "ListParts": S3Operation(multipart.list_parts, frozenset({"MaxParts", "PartNumberMarker", "UploadId"})),
    "PutObject": S3Operation(
        objects.put_object, OF_BODIES | OF_NEW_OBJECTS | {"IfNoneMatch"}, "content", is_write=True
    ),
    "UploadPart": S3Operation(multipart.upload_part, OF_BODIES | _PART, "content", is_write=True),
    "UploadPartCopy": S3Operation(
        multipart.upload_part_copy, _SOURCE | _PART | {"CopySourceRange"}, is_write=True
    ),
}
"""The S3 operations that this server supports, by name."""


@dataclass(frozen=True)
class S3Api:
    """Handler of S3 requests.

    Args:
        parts: The parts that the operations use.
        door: Authenticates and audits requests.
        scratch: Returns the folder for bodies being received.
        hosts: Host names of the endpoint; a request to `bucket.<name>` addresses that bucket.
    """

    parts: S3Parts
    door: Doorkeeper
    scratch: Path
    hosts: Sequence[str] = ("localhost",)

    def __post_init__(self) -> None:
        wire.service()  # load the model at startup, so that a missing one is reported then

    def begin(self, request: Request) -> "S3Exchange | Reply":
        """Check a request before its body arrives; return an exchange to receive the body, or an error reply."""
        exchange = S3Exchange(self, request, AuditTrail(request.id, {"operation": "S3"}))
        error_reply = exchange.attempt(exchange.prepare)
        if error_reply is not None:
            exchange.discard()
        return error_reply or exchange


@dataclass
class S3Exchange:
    """An S3 request in progress.

    Args:
        api: The handler that received the request.
        request: The request, without its body.
        trail: The fields of its audit entry.
    """

    api: S3Api
    request: Request
    trail: AuditTrail
    _signature: S3Signature | None = field(default=None, repr=False)
    _call: wire.S3Call | None = None
    _operation: S3Operation | None = None
    _headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    _body: Body | None = None
    _content: IO[bytes] | None = None

    def prepare(self) -> None:
        """Verify the signature, and check everything that the request's address and headers declare.

        Raises:
            S3Error: The request is rejected.
        """
        if self.request.has_two_lengths:
            message = "The request has both Transfer-Encoding and Content-Length headers."
            raise S3Error("InvalidRequest", message, headers={"Connection": "close"})
        self._signature = signature = self.api.door.admit_s3(self.request, self.trail)
        self._headers = headers = _headers_of(self.request)
        bucket, key = _address(headers.get("host", ""), self.request.raw_path, self.api.hosts)
        query = {name: value for name, value in _query_of(self.request).items() if not wire.is_of_signature(name)}
        hoisted = {name.lower(): value for name, value in query.items() if wire.is_hoisted(name)}
        self._call = call = wire.read_call(self.request.method, bucket, key, query, hoisted | headers)
        self.trail.entry["operation"] = call.operation
        self._operation = operation = OPERATIONS.get(call.operation)
        if operation is None:
            raise S3Error("NotImplemented", f"This server does not support the operation {call.operation}.")
        self.trail.is_read = not operation.is_write
        check_parameters(operation, call, signature.caller)
        if bucket:
            opened = open_bucket(self.api.parts, signature.caller, bucket)
            if key:
                check_key(bucket, opened, key, is_write=operation.body == "content")
        most = {"content": self.api.parts.most_bytes, "document": wire.MAX_XML_BYTES}.get(operation.body, 0)
        is_content = call.operation != "CompleteMultipartUpload"
        self._body = Body(
            signature, headers, most_bytes=most, is_private=self.request.is_private, is_content=is_content
        )
        self._content = tempfile.SpooledTemporaryFile(_IN_MEMORY, prefix="upload-", dir=str(self.api.scratch))  # noqa: SIM115 - closed by discard

    def take(self, chunk: bytes) -> Reply | None:
        """Store a chunk of the body; an error response ends the request."""
        return self.attempt(lambda: self._take(chunk))

    def finish(self) -> Reply:
        """Handle the request once its body is complete, and return the response."""
        return self._finish_audited()

    def give_up(self) -> Reply:
        """Reject a body that takes too long."""
        return self.fail(S3Error("RequestTimeout", headers={"Connection": "close"}))

    def discard(self) -> None:
        """Release the received body."""
        if self._content is not None:
            self._content.close()

    def attempt(self, step: Callable[[], None]) -> Reply | None:
        """Execute a step; return the error response if it fails."""
        try:
            step()
        except Exception as raised:
            return self.fail(as_s3_error(raised))
        return None

    def fail(self, error: S3Error) -> Reply:
        """Audit an error and return its response."""
        try:
            self.api.door.note(self.trail, error)
        except Exception as raised:
            error = as_s3_error(raised)
        has_body = self.request.method != "HEAD"
        return Reply(*wire.write_error(error, self.request.id, has_body=has_body))

    def _take(self, chunk: bytes) -> None:
        assert self._body is not None
        assert self._content is not None
        with full_disk_is_an_error():
            for piece in self._body.take(chunk):
                self._content.write(piece)

    def _finish_audited(self) -> Reply:
        try:
            reply = self._finish()
        except Exception as raised:
            return self.fail(as_s3_error(raised))
        try:
            self.api.door.note(self.trail, None)
        except Exception as raised:
            # a request that cannot be audited is not confirmed
            reply.close()
            error = as_s3_error(raised)
            return Reply(*wire.write_error(error, self.request.id, has_body=self.request.method != "HEAD"))
        return reply

    def _finish(self) -> Reply:
        call, operation, signature = self._call, self._operation, self._signature
        assert call is not None
        assert operation is not None
        assert signature is not None
        assert self._body is not None
        assert self._content is not None
        self._body.finish()
        self._content.seek(0)
        document: dict[str, Any] = {}
        if operation.body == "document" and self._body.n_bytes:
            document = wire.read_xml(call.operation, self._content.read())
        elif call.operation == "DeleteObjects":
            raise S3Error("MalformedXML")
        checksums = self._body.checksums or {
            name: self._headers[name] for name in filter(is_checksum, self._headers)
        }
        entry = self.trail.entry
        context = Context(self.api.parts, signature.caller, call, self._content, document, entry, checksums)
        output = operation.handle(context)
        if not isinstance(output, Reply):
            return Reply(*wire.write(call.operation, output, self.request.id))
        headers = {"x-amz-request-id": self.request.id, **output.headers}
        return Reply(output.status, headers, output.body, output.chunks, output.n_bytes, output.close)


def _headers_of(request: Request) -> dict[str, str]:
    """Return the headers by lower-case name; reject a request that repeats a header that S3 interprets."""
    found: dict[str, str] = {}
    for name, value in request.headers:
        lower = name.lower()
        if lower in found and (lower.startswith(("x-amz-", "content-", "if-")) or lower in ("host", "range")):
            raise S3Error("InvalidRequest", f"The request has more than one header {_plain(lower)}.")
        found[lower] = value.strip()
    return found


def _plain(name: str) -> str:
    return name if len(name) < 64 else "of a long name"


def _query_of(request: Request) -> dict[str, str]:
    pairs = [pair.partition("=") for pair in request.raw_query.split("&") if pair]
    found: dict[str, str] = {}
    for raw_name, _, raw_value in pairs:
        name = _unquoted(raw_name)
        if name in found:
            raise S3Error("InvalidArgument", "The query gives a parameter more than once.")
        found[name] = _unquoted(raw_value)
    return found


def _unquoted(text: str) -> str:
    try:
        return unquote_to_bytes(text).decode("utf-8")
    except UnicodeDecodeError:
        raise S3Error("InvalidURI") from None


def _address(host: str, raw_path: str, hosts: Sequence[str]) -> tuple[str, str]:
    """Return the bucket and the key that a request addresses by its host name and its path, decoded once."""
    path = _unquoted(raw_path)
    if not path.startswith("/"):
        raise S3Error("InvalidURI")
    name = host.lower().partition(":")[0]
    for each in hosts:
        if name.endswith(f".{each}"):
            return name.removesuffix(f".{each}"), path[1:]
    bucket, _, key = path[1:].partition("/")
    if key and not bucket:
        raise S3Error("InvalidBucketName")
    return bucket, key


_BY_REASON: Final[Mapping[str, str]] = {
    "date out of range": "RequestTimeTooSkewed",
    "disabled key": "SignatureDoesNotMatch",
    "expired": "AccessDenied",
    "no date": "AccessDenied",
    "no payload hash": "InvalidRequest",
    "no signature": "AccessDenied",
    "no such query signature": "AuthorizationQueryParametersError",
    "session token": "InvalidToken",
    "unknown key": "SignatureDoesNotMatch",
    "unsigned header": "AccessDenied",
    "wrong signature": "SignatureDoesNotMatch",
}
_BY_NAME: Final[Mapping[str, str]] = {
    "ConflictException": "InvalidRequest",
    "ServiceUnavailableException": "ServiceUnavailable",
    "ThrottlingException": "SlowDown",
    "ValidationException": "InvalidRequest",
}
_BY_PROBLEM: Final[Mapping[str, str]] = {
    "changed": "PreconditionFailed",
    "in the way": "InvalidRequest",
    "link": "InvalidRequest",
    "no bucket": "NoSuchBucket",
    "not implemented": "NotImplemented",
}


def as_s3_error(raised: Exception) -> S3Error:
    """Convert an exception into an S3 error; only the class of a server error is logged."""
    match raised:
        case S3Error():
            error = raised
        case BucketForbiddenError():
            error = S3Error("AccessDenied", reason="not an own bucket")
        case NotFoundError():
            error = S3Error("NoSuchKey")
        case BucketError():
            status = 409 if raised.problem == "in the way" else None
            error = S3Error(_BY_PROBLEM.get(raised.problem, "ServiceUnavailable"), str(raised), status=status)
        case CleanroomError():
            error = _from_api_error(from_cleanroom_error(raised))
        case ApiError():
            error = _from_api_error(raised)
        case _:
            error = S3Error("InternalError", reason=type(raised).__name__)
    if error.name == "InternalError":
        _LOG.error("An S3 request failed: %s.", error.reason)
    return error


def _from_api_error(error: ApiError) -> S3Error:
    if error.name == "AccessDeniedException":
        name = _BY_REASON.get(error.reason, "AuthorizationHeaderMalformed")
    else:
        name = _BY_NAME.get(error.name, "InternalError")
    return S3Error(name, "" if name == "InternalError" else error.message, reason=error.reason)
