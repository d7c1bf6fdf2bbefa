"""Operations on single objects.

Keep out: listings (`buckets.py`) and uploads in parts (`multipart.py`).
"""

import re
import tempfile
from typing import Any, Final

from cleanroom_pipelines.aws.s3 import wire
from cleanroom_pipelines.aws.s3.errors import S3Error
from cleanroom_pipelines.errors import CleanroomError
from cleanroom_pipelines.server.requests import Reply
from cleanroom_pipelines.server.s3.operations import (
    DEFAULT_TYPE,
    HEADERS,
    Context,
    Output,
    attributes_of,
    check_conditions,
    check_headers,
    check_key,
    open_bucket,
    source_of,
)
from cleanroom_pipelines.storage.artifacts import full_disk_is_an_error
from cleanroom_pipelines.storage.local_bucket import LocalBucket
from cleanroom_pipelines.storage.objects import Bucket, ObjectEntry
from cleanroom_pipelines.storage.remote_bucket import RemoteBucket

_RANGE = re.compile("bytes=([0-9]{0,15})-([0-9]{0,15})")
JOBS_HEADER: Final = "x-cleanroom-jobs"
"""Response header of DeleteObject: the jobs that used the object as their seed, each as `<ARN>=<status>`."""
_MOST_JOBS: Final = 20
_MOST_DELETED: Final = 1000
# An object may be a page with scripts, which must not run as one of this server's.
_AS_DATA: Final = {"Content-Security-Policy": "sandbox", "X-Content-Type-Options": "nosniff"}


def get_object(context: Context) -> Output:
    """GetObject and HeadObject: return an object, or a byte range of it, if the request's conditions hold."""
    bucket, key = context.bucket, context.call.key
    entry = bucket.find(key)
    if entry is None:
        raise S3Error("NoSuchKey")
    check_conditions(context, entry)
    part = range_of(context.get("Range"), entry.n_bytes)
    start, end = part or (0, entry.n_bytes)
    output = _described(context, entry) | {
        "ContentRange": f"bytes {start}-{end - 1}/{entry.n_bytes}" if part else None
    }
    status, headers, _ = wire.write(context.call.operation, output, "")
    del headers["x-amz-request-id"]
    headers.pop("Content-Length", None)
    status, headers = 206 if part else status, headers | _AS_DATA
    if context.call.operation == "HeadObject":
        return Reply(status, headers, chunks=(), n_bytes=end - start)
    opened = bucket.open(key, e_tag=entry.e_tag, start=start, end=end) if end > start else None
    if opened is None:
        return Reply(status, headers)
    return Reply(status, headers, chunks=opened.chunks(), n_bytes=end - start, close=opened.close)


def _described(context: Context, entry: ObjectEntry) -> dict[str, Any]:
    output: dict[str, Any] = {
        name: context.get(f"Response{name}", entry.attributes.get(header)) for name, header in HEADERS.items()
    }
    check_headers(value for value in output.values() if value is not None)
    return output | {
        "AcceptRanges": "bytes",
        "ContentType": output["ContentType"] or DEFAULT_TYPE,
        "ETag": entry.e_tag,
        "LastModified": entry.modified,
        "Metadata": {name: value for name, value in entry.attributes.items() if name not in HEADERS.values()},
    }


def range_of(text: str | None, n_bytes: int) -> tuple[int, int] | None:
    """Parse a Range header; None (the whole object) unless it is one well-formed range, as on S3.

    Raises:
        S3Error: InvalidRange.
    """
    match = _RANGE.fullmatch(text.strip()) if text else None
    if match is None or match.groups() == ("", ""):
        return None
    first, last = match.groups()
    if not first:
        start, end = max(n_bytes - int(last), 0), n_bytes
    else:
        start, end = int(first), min(int(last) + 1, n_bytes) if last else n_bytes
        if last and int(last) < start:
            return None
    if start >= end:
        raise S3Error("InvalidRange", headers={"Content-Range": f"bytes */{n_bytes}"})
    return start, end


def put_object(context: Context) -> Output:
    """PutObject: store the request's body as an object."""
    entry = store(context, attributes_of(context), context.content)
    return {"ETag": entry.e_tag} | checksums_shown(context)


def checksums_shown(context: Context) -> dict[str, str]:
    """Return the body's verified checksums under their names in the S3 model, such as `ChecksumSHA256`."""
    return {
        f"Checksum{header.rpartition('-')[2].upper()}": value
        for header, value in context.checksums.items()
        if value
    }


def store(context: Context, attributes: dict[str, str], content: Any, e_tag: str = "") -> ObjectEntry:
    """Write the object that a call addresses, and return its entry.

    Raises:
        S3Error: A condition is not met.
        BucketError: It cannot be written.
    """
    name, key = context.call.bucket, context.call.key
    bucket = open_bucket(context, context.caller, name)
    check_key(name, bucket, key, is_write=True)
    condition = context.get("IfNoneMatch")
    if condition not in (None, "*"):
        raise S3Error("NotImplemented", "If-None-Match must be * for a write.")
    if condition and isinstance(bucket, RemoteBucket):
        raise S3Error("NotImplemented", "Conditional writes to registered buckets are not supported here.")
    if isinstance(bucket, LocalBucket):
        bucket.put(key, content, attributes=attributes, e_tag=e_tag, is_new=condition == "*")
    else:
        bucket.put(key, content, attributes=attributes)
    entry = bucket.find(key)
    if entry is None:
        raise S3Error("NoSuchKey", "Another request deleted the object before this request finished.")
    context.entry["n_bytes"] = entry.n_bytes
    return entry


def copy_object(context: Context) -> Output:
    """CopyObject: copy an object within the buckets of one account."""
    bucket, source = source_of(context)
    directive = context.get("MetadataDirective", "COPY")
    if directive not in ("COPY", "REPLACE"):
        raise S3Error("InvalidArgument", "MetadataDirective must be COPY or REPLACE.")
    replaced = attributes_of(context)
    with tempfile.TemporaryFile(prefix="copy-", dir=context.parts.home.scratch) as stream:
        copy_into(stream, bucket, source)
        entry = store(context, replaced if directive == "REPLACE" else dict(source.attributes), stream)
    return {"CopyObjectResult": {"ETag": entry.e_tag, "LastModified": entry.modified}}


def copy_into(stream: Any, bucket: Bucket, source: ObjectEntry, part: tuple[int, int] | None = None) -> None:
    """Copy an object, or a range of it, into a file, and rewind the file.

    Raises:
        StorageFullError: The disk is full.
    """
    start, end = part or (0, source.n_bytes)
    if end > start:
        with bucket.open(source.key, e_tag=source.e_tag, start=start, end=end) as opened, full_disk_is_an_error():
            for chunk in opened.chunks():
                stream.write(chunk)
    stream.seek(0)


def delete_object(context: Context) -> Output:
    """DeleteObject; a missing key counts as deleted. A response header lists the jobs that used the object."""
    call = context.call
    context.bucket.delete_object(call.key)
    jobs = context.parts.forget_seeds(context.caller.account_id, [f"s3://{call.bucket}/{call.key}"])
    if not jobs:
        return {}
    shown = [f"{arn}={status}" for arn, status in jobs[-_MOST_JOBS:]]
    more = [f"and {len(jobs) - len(shown)} earlier"] if len(jobs) > len(shown) else []
    return Reply(204, {JOBS_HEADER: ", ".join([*shown, *more])})


def delete_objects(context: Context) -> Output:
    """DeleteObjects: delete up to 1,000 objects; if an object cannot be deleted, go on with the next one."""
    name, bucket = context.call.bucket, open_bucket(context, context.caller, context.call.bucket)
    _ = context.bucket  # it must exist
    objects = context.document["Objects"]
    if not 0 < len(objects) <= _MOST_DELETED:
        raise S3Error("MalformedXML", "Give 1 to 1,000 keys.")
    deleted, errors = [], []
    for each in objects:
        error = _deleted(name, bucket, each)
        if error is None:
            deleted.append({"Key": each["Key"]})
        else:
            errors.append({"Key": each["Key"], "Code": error.name, "Message": error.message})
    context.entry["n_objects"] = len(deleted)
    context.parts.forget_seeds(context.caller.account_id, [f"s3://{name}/{each['Key']}" for each in deleted])
    return {"Deleted": [] if context.document.get("Quiet") else deleted, "Errors": errors}


def _deleted(name: str, bucket: LocalBucket | RemoteBucket, each: dict[str, Any]) -> S3Error | None:
    try:
        if each.keys() - {"Key"} and each.get("VersionId", "null") != "null":
            raise S3Error("NotImplemented", "This server does not support object versions.")
        if each.keys() & {"ETag", "LastModifiedTime", "Size"}:
            raise S3Error("NotImplemented", "Conditional deletes are not supported here.")
        check_key(name, bucket, each["Key"], is_write=False)
        bucket.delete_object(each["Key"])
    except S3Error as error:
        return error
    except CleanroomError:
        return S3Error("InternalError")
    return None


def get_object_tagging(context: Context) -> Output:
    """GetObjectTagging: return no tags; some clients read tags before they copy an object."""
    if context.bucket.find(context.call.key) is None:
        raise S3Error("NoSuchKey")
    return {"TagSet": []}
