"""S3 operations for multipart uploads.

Keep out: storing the parts (`storage.multipart`).
"""

import re
import tempfile
from collections.abc import Sequence
from itertools import pairwise
from typing import IO, Any, Final
from urllib.parse import quote

from cleanroom_pipelines.aws.s3.checksums import checksum_of, decoded, is_checksum
from cleanroom_pipelines.aws.s3.errors import S3Error
from cleanroom_pipelines.errors import NotFoundError
from cleanroom_pipelines.server.s3.objects import checksums_shown, copy_into, range_of, store
from cleanroom_pipelines.server.s3.operations import (
    Context,
    Output,
    attributes_of,
    check_key,
    encoded,
    open_bucket,
    page_size,
    source_of,
)
from cleanroom_pipelines.storage.multipart import MultipartUpload, e_tag_of
from cleanroom_pipelines.storage.objects import CHUNK_BYTES, ObjectEntry

_LAST_PART: Final = 10_000
_LEAST_BYTES: Final = 5 << 20
_MOST_UPLOADS: Final = 100
_RANGE = re.compile("bytes=[0-9]{1,15}-[0-9]{1,15}")


def create_multipart_upload(context: Context) -> Output:
    """CreateMultipartUpload: start an upload in parts."""
    name, key, account = context.call.bucket, context.call.key, context.caller.account_id
    check_key(name, open_bucket(context, context.caller, name), key, is_write=True)
    attributes = attributes_of(context)
    if len(context.parts.uploads.list(account)) >= _MOST_UPLOADS:
        raise S3Error("InvalidRequest", "There are 100 unfinished multipart uploads. Complete or abort some.")
    upload = context.parts.uploads.start(account, name, key, attributes)
    return {"Bucket": name, "Key": key, "UploadId": upload.id}


def upload_part(context: Context) -> Output:
    """UploadPart: store one part of an upload."""
    part = _stored(context, context.content)
    return {"ETag": part.e_tag} | checksums_shown(context)


def upload_part_copy(context: Context) -> Output:
    """UploadPartCopy: store an existing object of the account, or a byte range of it, as a part."""
    bucket, source = source_of(context)
    text = context.get("CopySourceRange")
    part = range_of(text, source.n_bytes)
    if text is not None and (part is None or not _RANGE.fullmatch(text)):
        raise S3Error("InvalidArgument", "Give the source range as bytes=first-last.")
    with tempfile.TemporaryFile(prefix="copy-", dir=context.parts.home.scratch) as stream:
        copy_into(stream, bucket, source, part)
        stored = _stored(context, stream)
    return {"CopyPartResult": {"ETag": stored.e_tag, "LastModified": stored.modified}}


def _stored(context: Context, content: IO[bytes]) -> ObjectEntry:
    upload, number = _upload(context), context.get("PartNumber")
    if not 1 <= number <= _LAST_PART:
        raise S3Error("InvalidArgument", "The part number must be from 1 to 10,000.")
    n_bytes = content.seek(0, 2)
    content.seek(0)
    if n_bytes + sum(part.n_bytes for other, part in upload.parts() if other != number) > context.parts.most_bytes:
        raise S3Error("EntityTooLarge")
    try:
        part = upload.store(number, content)
    except NotFoundError:
        raise S3Error("NoSuchUpload") from None
    context.entry["n_bytes"] = part.n_bytes
    return part


def complete_multipart_upload(context: Context) -> Output:
    """CompleteMultipartUpload: join the parts into an object; readers see it only once it is complete."""
    upload = _upload(context)
    numbers, parts = _chosen(upload, context.document.get("Parts", []))
    if sum(part.n_bytes for part in parts) > context.parts.most_bytes:
        raise S3Error("EntityTooLarge")
    expected = context.get("MpuObjectSize")
    if expected is not None and int(expected) != sum(part.n_bytes for part in parts):
        raise S3Error(
            "InvalidRequest", "The total size of the parts differs from the declared size of the object."
        )
    try:
        with upload.joined(numbers, context.parts.home.scratch) as stream:
            _check_whole(context, stream)
            entry = store(context, dict(upload.attributes), stream, e_tag_of(parts))
    except NotFoundError:
        raise S3Error("NoSuchUpload") from None
    upload.discard()
    name, key = context.call.bucket, context.call.key
    return {"Bucket": name, "Key": key, "ETag": entry.e_tag, "Location": f"/{name}/{quote(key, safe='/-_.~')}"}


def _chosen(upload: MultipartUpload, listed: Sequence[dict[str, Any]]) -> tuple[list[int], list[ObjectEntry]]:
    """Return the parts that a request lists; reject the request if one is missing, too small or out of order."""
    numbers = [each.get("PartNumber", 0) for each in listed]
    if not 0 < len(numbers) <= _LAST_PART:
        raise S3Error("MalformedXML", "Give 1 to 10,000 parts.")
    if any(second <= first for first, second in pairwise(numbers)):
        raise S3Error("InvalidPartOrder")
    parts = []
    for number, each in zip(numbers, listed, strict=True):
        part = upload.part(number) if 1 <= number <= _LAST_PART else None
        if part is None or part.e_tag.strip('"') != each.get("ETag", "").strip('"'):
            raise S3Error("InvalidPart")
        parts.append(part)
    if any(part.n_bytes < _LEAST_BYTES for part in parts[:-1]):
        raise S3Error("EntityTooSmall")
    return numbers, parts


def _check_whole(context: Context, stream: IO[bytes]) -> None:
    """Verify an object's declared checksums; skip those with a dash, which are checksums of part checksums."""
    for header, value in context.checksums.items():
        if is_checksum(header) and value and "-" not in value:
            checksum = checksum_of(header)
            while chunk := stream.read(CHUNK_BYTES):
                checksum.update(chunk)
            stream.seek(0)
            if decoded(value, len(checksum.digest())) != checksum.digest():
                raise S3Error("BadDigest")


def abort_multipart_upload(context: Context) -> Output:
    """AbortMultipartUpload: delete an unfinished upload and its parts."""
    _upload(context).discard()
    return {}


def list_parts(context: Context) -> Output:
    """ListParts: list the stored parts of an upload."""
    upload, most, after = _upload(context), page_size(context, "MaxParts"), context.get("PartNumberMarker", 0)
    numbers = [number for number, _ in upload.parts() if number > after]
    shown = [(number, part) for number in numbers[:most] if (part := upload.part(number)) is not None]
    is_truncated = 0 < most < len(numbers)
    return {
        "Bucket": upload.bucket,
        "Key": upload.key,
        "UploadId": upload.id,
        "PartNumberMarker": after,
        "NextPartNumberMarker": numbers[most - 1] if is_truncated else None,
        "MaxParts": most,
        "IsTruncated": is_truncated,
        "StorageClass": "STANDARD",
        "Parts": [
            {"PartNumber": number, "ETag": part.e_tag, "Size": part.n_bytes, "LastModified": part.modified}
            for number, part in shown
        ],
    }


def list_multipart_uploads(context: Context) -> Output:
    """ListMultipartUploads: list all unfinished uploads in a bucket on one page; an account has at most 100."""
    prefix, name = context.get("Prefix", ""), context.call.bucket
    open_bucket(context, context.caller, name)
    uploads = context.parts.uploads.list(context.caller.account_id)
    return {
        "Bucket": name,
        "Prefix": encoded(context, prefix),
        "EncodingType": context.get("EncodingType"),
        "MaxUploads": 1000,
        "IsTruncated": False,
        "Uploads": [
            {
                "UploadId": upload.id,
                "Key": encoded(context, upload.key),
                "Initiated": upload.started,
                "StorageClass": "STANDARD",
            }
            for upload in uploads
            if upload.bucket == name and upload.key.startswith(prefix)
        ],
    }


def _upload(context: Context) -> MultipartUpload:
    found = context.parts.uploads.find(context.caller.account_id, context.get("UploadId"))
    if found is None or (found.bucket, found.key) != (context.call.bucket, context.call.key):
        raise S3Error("NoSuchUpload")
    return found
