"""The errors of the S3 API.

Lives here: the table of codes that this server sends, and the error class.
Keep out: converting errors of the core (`server.s3`), and writing XML (`wire.py`).
"""

from collections.abc import Mapping
from typing import Final

_TABLE: Final[Mapping[str, tuple[int, str]]] = {
    "AccessDenied": (403, "Access Denied. Use one of your own buckets."),
    "AuthorizationHeaderMalformed": (400, "The authorization header is malformed."),
    "AuthorizationQueryParametersError": (400, "The query string does not contain a complete signature."),
    "BadDigest": (400, "The body does not have the checksum that the request declares. Send it again."),
    "BucketAlreadyOwnedByYou": (409, "The bucket already exists and belongs to you."),
    "BucketNotEmpty": (409, "The bucket is not empty. Delete its objects first."),
    "EntityTooLarge": (413, "The object is larger than the server accepts."),
    "EntityTooSmall": (400, "Each part except the last must have at least 5 MiB."),
    "IncompleteBody": (400, "The body ends before its declared length. Send it again."),
    "InternalError": (500, "An internal error occurred. Try again, then ask the operator."),
    "InvalidArgument": (400, "A parameter of the request is invalid."),
    "InvalidBucketName": (400, "The name of the bucket is invalid. Use lower-case letters, digits, - and ."),
    "InvalidDigest": (400, "A checksum in the request is not valid Base64 of the right length."),
    "InvalidPart": (400, "A part was not found, or its ETag differs. Upload it again."),
    "InvalidPartOrder": (400, "The parts are not in ascending order."),
    "InvalidRange": (416, "The object does not have the requested range."),
    "InvalidRequest": (400, "The request is invalid."),
    "InvalidToken": (400, "This server issues no session tokens. Sign the request with an access key only."),
    "InvalidURI": (400, "The path or the query is not percent-encoded UTF-8."),
    "KeyTooLongError": (
        400,
        "The key has more than 1,024 bytes or 64 segments, or a segment of more than 255 bytes.",
    ),
    "MalformedXML": (400, "The body is not the XML that this operation expects."),
    "MethodNotAllowed": (405, "S3 has no operation with this method and path."),
    "MissingContentLength": (411, "The request must state the length of its body."),
    "NoSuchBucket": (404, "The bucket does not exist."),
    "NoSuchKey": (404, "The key does not exist."),
    "NoSuchUpload": (404, "The multipart upload does not exist. It may have been completed or aborted."),
    "NotImplemented": (501, "This server does not support this S3 operation or option."),
    "NotModified": (304, ""),
    "PreconditionFailed": (412, "A condition of the request is not met."),
    "RequestTimeTooSkewed": (
        403,
        "The request's date is over 15 minutes off from this server's. Check your clock.",
    ),
    "RequestTimeout": (400, "The body took too long to arrive."),
    "ServiceUnavailable": (503, "The service is not available for the moment. Try again."),
    "SignatureDoesNotMatch": (
        403,
        "The access key is not known here, or the signature does not match. Check the access key id, the secret"
        " access key and the signing method.",
    ),
    "SlowDown": (503, "Too many requests. Send fewer per second."),
    "XAmzContentSHA256Mismatch": (400, "The body does not have the SHA-256 of the x-amz-content-sha256 header."),
}


class S3Error(Exception):
    """An error that is sent to an S3 client.

    Args:
        name: S3's code.
        message: One sentence without data; by default the table's.
        status: HTTP status, if it differs from the table's.
        headers: Additional headers of the response.
        reason: The reason, for the audit log only.
    """

    def __init__(
        self,
        name: str,
        message: str = "",
        *,
        status: int | None = None,
        headers: Mapping[str, str] | None = None,
        reason: str = "",
    ) -> None:
        usual, text = _TABLE[name]
        super().__init__(name, message or text)
        self.name = name
        self.message = message or text
        self.status = usual if status is None else status
        self.headers = dict(headers or {})
        self.reason = reason
