"""Shared code of the S3 operations: the call being handled, and checks of parameters, keys and conditions.

Lives here: checks that several operations share, and the definition of an operation.
Keep out: the operations themselves (`buckets.py`, `objects.py`, `multipart.py`), and HTTP (`api.py`).
"""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import IO, Any, Final
from urllib.parse import quote, unquote

from cleanroom_pipelines.aws.answers import Caller
from cleanroom_pipelines.aws.s3.errors import S3Error
from cleanroom_pipelines.aws.s3.wire import S3Call
from cleanroom_pipelines.server.requests import Reply
from cleanroom_pipelines.storage.buckets import Buckets, is_warehouse_name
from cleanroom_pipelines.storage.home import Home
from cleanroom_pipelines.storage.local_bucket import LocalBucket
from cleanroom_pipelines.storage.multipart import MultipartUploads
from cleanroom_pipelines.storage.objects import Bucket, ObjectEntry
from cleanroom_pipelines.storage.remote_bucket import RemoteBucket
from cleanroom_pipelines.storage.s3_urls import is_bucket_name, is_storable_key
from cleanroom_pipelines.storage.warehouse import is_key_of_table

DEFAULT_TYPE: Final = "binary/octet-stream"
HEADERS: Final[Mapping[str, str]] = {
    "CacheControl": "Cache-Control",
    "ContentDisposition": "Content-Disposition",
    "ContentEncoding": "Content-Encoding",
    "ContentLanguage": "Content-Language",
    "ContentType": "Content-Type",
}
"""Headers that are stored with an object, by their names in the S3 model."""

_CHECKSUMS = ("CRC32", "CRC32C", "CRC64NVME", "MD5", "SHA1", "SHA256", "SHA512")
_OF_BODIES = frozenset(f"Checksum{name}" for name in (*_CHECKSUMS, "Algorithm")) | {"ContentLength", "ContentMD5"}
OF_BODIES: Final = _OF_BODIES | {f"ChecksumXXHASH{size}" for size in (3, 64, 128)}
"""Parameters that declare the length and checksums of the body; `aws.s3.bodies` checks them."""
OF_NEW_OBJECTS: Final = frozenset(HEADERS) | {"ACL", "Metadata", "ServerSideEncryption", "StorageClass"}
_EVERYWHERE = frozenset({"ExpectedBucketOwner", "RequestPayer"})
_PRIVATE_ACLS = ("private", "bucket-owner-full-control", "bucket-owner-read")
_MOST_METADATA: Final = 2048  # limit of S3
_MOST_STORED: Final = 3500  # as JSON: ext4 has 4 KB for all attributes of a file


@dataclass(frozen=True)
class S3Parts:
    """The parts of an installation that the S3 operations use.

    Args:
        home: The installation's home.
        buckets: All buckets.
        registered: Returns the names of an account's registered buckets, with the time of registration.
        uploads: Unfinished multipart uploads.
        most_bytes: Size limit of one object.
        is_encrypted: Whether home and temporary space are on an encrypted volume.
        forget_seeds: Deletes the copies that jobs keep of an account's deleted objects, by their URLs, and returns
            the ARNs and statuses of the jobs that used them.
    """

    home: Home
    buckets: Buckets
    registered: Callable[[str], Mapping[str, datetime]]
    uploads: MultipartUploads
    most_bytes: int
    is_encrypted: bool
    forget_seeds: Callable[[str, Sequence[str]], Sequence[tuple[str, str]]] = lambda *_: ()


@dataclass(frozen=True)
class Context:
    """An S3 call being handled.

    Args:
        parts: The parts.
        caller: The account and the key.
        call: The operation, bucket, key and parameters.
        content: The content of the body.
        document: The XML of the body, for operations that have one.
        entry: Fields for the audit entry.
        checksums: Declared checksums of the body by header.
    """

    parts: S3Parts
    caller: Caller
    call: S3Call
    content: IO[bytes] = field(repr=False)
    document: Mapping[str, Any] = field(default_factory=dict, repr=False)
    entry: dict[str, Any] = field(default_factory=dict)
    checksums: Mapping[str, str] = field(default_factory=dict, repr=False)

    def get(self, name: str, otherwise: Any = None) -> Any:
        """Return a parameter of the call, or `otherwise` if it is missing."""
        return self.call.parameters.get(name, otherwise)

    @property
    def bucket(self) -> Bucket:
        """The bucket that the call addresses; raises an error if it does not exist."""
        return existing_bucket(self, self.call.bucket)


Output = Mapping[str, Any] | Reply
"""The output of an operation: fields by their names in the S3 model, or a complete reply."""


@dataclass(frozen=True)
class S3Operation:
    """One S3 operation that the server supports.

    Args:
        handle: Handles a call.
        accepts: The parameters that it accepts, besides those that all operations accept.
        body: `content`, `document` or an empty text for operations without a body.
        is_write: Whether it changes anything.
    """

    handle: Callable[[Context], Output]
    accepts: frozenset[str] = frozenset()
    body: str = ""
    is_write: bool = False


def check_parameters(operation: S3Operation, call: S3Call, caller: Caller) -> None:
    """Reject a call with a parameter that the operation does not support.

    Raises:
        S3Error: NotImplemented names the parameter; AccessDenied if another owner is expected.
    """
    for name in ("ExpectedBucketOwner", "ExpectedSourceBucketOwner"):
        if call.parameters.get(name, caller.account_id) != caller.account_id:
            raise S3Error("AccessDenied", reason="another owner expected")
    for name in sorted(call.parameters.keys() - operation.accepts - _EVERYWHERE):
        raise S3Error("NotImplemented", f"This server does not support the parameter {name} of {call.operation}.")


def open_bucket(context_or_parts: Context | S3Parts, caller: Caller, name: str) -> LocalBucket | RemoteBucket:
    """Return an account's bucket without checking that it exists.

    Raises:
        S3Error: InvalidBucketName.
        BucketForbiddenError: It belongs to another account.
    """
    parts = context_or_parts.parts if isinstance(context_or_parts, Context) else context_or_parts
    if not is_bucket_name(name):
        raise S3Error("InvalidBucketName")
    return parts.buckets.open(caller.account_id, name)


def existing_bucket(context: Context, name: str) -> LocalBucket | RemoteBucket:
    """Return an account's bucket, after checking that it exists.

    Raises:
        S3Error: NoSuchBucket.
        BucketForbiddenError: It belongs to another account.
    """
    bucket = open_bucket(context, context.caller, name)
    if exists(context.parts, name, bucket):
        return bucket
    raise S3Error("NoSuchBucket")


def exists(parts: S3Parts, name: str, bucket: LocalBucket | RemoteBucket) -> bool:
    """Whether a bucket exists; registered buckets and warehouses always do."""
    is_kept = is_warehouse_name(name) or not isinstance(bucket, LocalBucket) or bucket.exists
    return is_kept or parts.buckets.is_registered(name)


def check_key(name: str, bucket: LocalBucket | RemoteBucket, key: str, *, is_write: bool) -> None:
    """Reject an object key that is invalid in this type of bucket.

    Raises:
        S3Error: KeyTooLongError, NotImplemented or InvalidRequest.
    """
    if not is_storable_key(key):
        raise S3Error("KeyTooLongError")
    if isinstance(bucket, RemoteBucket) and not bucket.has_key(key):
        message = "A key in a registered bucket cannot have an empty, '.' or '..' segment, or control characters."
        raise S3Error("NotImplemented", message)
    if is_write and is_warehouse_name(name) and not is_key_of_table(key):
        raise S3Error(
            "InvalidRequest",
            "A key in a warehouse must be <database>/<table>/<file>; partition folders may precede <file>.",
        )


def attributes_of(context: Context) -> dict[str, str]:
    """Return the headers and user metadata to store with a new object.

    Raises:
        S3Error: A parameter requests something that is not supported here, or the metadata is too large.
    """
    if context.get("ACL", "private") not in _PRIVATE_ACLS:
        raise S3Error("NotImplemented", "Objects are always private here. Share them with a presigned URL.")
    if context.get("StorageClass", "STANDARD") != "STANDARD":
        raise S3Error("NotImplemented", "The only storage class here is STANDARD.")
    encryption = context.get("ServerSideEncryption")
    if encryption is not None and not (encryption == "AES256" and context.parts.is_encrypted):
        message = (
            "The requested encryption is not supported. Send no encryption header, or AES256 if the server is "
            "set to CLEANROOM_ENCRYPTION=volume."
        )
        raise S3Error("NotImplemented", message)
    found = {header: context.get(name) for name, header in HEADERS.items() if context.get(name) is not None}
    encodings = [each.strip() for each in found.pop("Content-Encoding", "").split(",")]
    if kept := [each for each in encodings if each not in ("", "aws-chunked")]:
        found["Content-Encoding"] = ", ".join(kept)
    metadata = context.get("Metadata", {})
    if (
        sum(map(len, (*metadata, *metadata.values()))) > _MOST_METADATA
        or sum(map(len, found.values())) > _MOST_METADATA
    ):
        raise S3Error("InvalidArgument", "The metadata is larger than 2 KB.")
    check_headers([*found.values(), *metadata.values()])
    attributes = found | {name: value for name, value in metadata.items() if name not in found}
    if len(json.dumps(attributes)) > _MOST_STORED:
        raise S3Error("InvalidArgument", "The object's headers and metadata are too large in total.")
    return attributes


def check_headers(values: Iterable[str]) -> None:
    """Reject values that cannot be sent as a response header.

    Raises:
        S3Error: InvalidArgument.
    """
    if not all(value.isascii() and value.isprintable() for value in values):
        raise S3Error("InvalidArgument", "A header may contain only printable ASCII.")


def check_conditions(context: Context, entry: ObjectEntry, *, prefix: str = "") -> None:
    """Check an object against the request's conditions, such as If-Match.

    Args:
        context: The call.
        entry: The object.
        prefix: Prefix of the parameters' names, `CopySource` for the source of a copy.

    Raises:
        S3Error: PreconditionFailed, or NotModified for a read.
    """
    match, none_match = context.get(f"{prefix}IfMatch"), context.get(f"{prefix}IfNoneMatch")
    since, before = context.get(f"{prefix}IfModifiedSince"), context.get(f"{prefix}IfUnmodifiedSince")
    modified = entry.modified.replace(microsecond=0) if entry.modified else None
    if match is not None and not _names(match, entry.e_tag):
        raise S3Error("PreconditionFailed")
    if match is None and before is not None and modified is not None and modified > before:
        raise S3Error("PreconditionFailed")
    is_same = none_match is not None and _names(none_match, entry.e_tag)
    is_old = none_match is None and since is not None and modified is not None and modified <= since
    if is_same or is_old:
        raise S3Error("PreconditionFailed" if prefix else "NotModified", headers={"ETag": entry.e_tag})


def _names(condition: str, e_tag: str) -> bool:
    return any(
        each.strip().removeprefix("W/").strip('"') in ("*", e_tag.strip('"')) for each in condition.split(",")
    )


def source_of(context: Context) -> tuple[Bucket, ObjectEntry]:
    """Return the object that a request copies, and its bucket.

    Raises:
        S3Error: It does not exist, or a condition is not met.
        BucketForbiddenError: It belongs to another account.
    """
    text = context.get("CopySource").removeprefix("/")
    path, _, version = text.partition("?")
    try:
        name, _, key = unquote(path, errors="strict").partition("/")
    except UnicodeDecodeError:
        raise S3Error("InvalidArgument", "x-amz-copy-source is not percent-encoded UTF-8.") from None
    if version not in ("", "versionId=null"):
        raise S3Error("NotImplemented", "This server does not support object versions.")
    bucket = existing_bucket(context, name)
    check_key(name, bucket, key, is_write=False)
    entry = bucket.find(key)
    if entry is None:
        raise S3Error("NoSuchKey")
    check_conditions(context, entry, prefix="CopySource")
    if entry.n_bytes > context.parts.most_bytes:
        raise S3Error("EntityTooLarge")
    return bucket, entry


def encoded(context: Context, text: str | None) -> str | None:
    """Return a key as a listing shows it: percent-encoded if the request asks for that."""
    return quote(text, safe="/-_.~") if text is not None and context.get("EncodingType") == "url" else text


def page_size(context: Context, name: str) -> int:
    """Return the maximum number of entries per page, at most 1,000."""
    return min(int(context.get(name, 1000)), 1000)
