"""Operations on buckets: listing, creating and deleting them, and listing their objects.

Keep out: single objects (`objects.py`).
"""

import base64
import binascii
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final

from cleanroom_pipelines.aws.s3.errors import S3Error
from cleanroom_pipelines.server.s3.operations import (
    Context,
    Output,
    encoded,
    exists,
    open_bucket,
    page_size,
)
from cleanroom_pipelines.storage.buckets import is_warehouse_name
from cleanroom_pipelines.storage.local_bucket import LocalBucket
from cleanroom_pipelines.storage.objects import Bucket, BucketError, ObjectEntry
from cleanroom_pipelines.storage.remote_bucket import RemoteBucket
from cleanroom_pipelines.storage.s3_urls import is_storable_key

_LAST: Final = "\U0010ffff"  # sorts after every other character of a key
_MOST_SKIPPED: Final = 1000


def list_buckets(context: Context) -> Output:
    """ListBuckets: the account's warehouse, its local buckets and its registered buckets."""
    account = context.caller.account_id
    found = {name: bucket.created for name, bucket in context.parts.buckets.created_by(account).items()}
    found |= context.parts.registered(account)
    prefix, after = context.get("Prefix", ""), _from_token(context.get("ContinuationToken"))
    names = [name for name in sorted(found) if name.startswith(prefix) and name > after]
    page = names[: page_size(context, "MaxBuckets")]
    return {
        "Buckets": [{"Name": name, "CreationDate": found[name]} for name in page],
        "Owner": {"ID": account},
        "Prefix": context.get("Prefix"),
        "ContinuationToken": _token(page[-1]) if 0 < len(page) < len(names) else None,
    }


def head_bucket(context: Context) -> Output:
    """HeadBucket: whether a bucket exists."""
    _ = context.bucket
    return {"BucketRegion": context.caller.region}


def get_bucket_location(context: Context) -> Output:
    """GetBucketLocation: the Region of the request, since a bucket is in every Region."""
    _ = context.bucket
    region = context.caller.region
    return {"LocationConstraint": None if region == "us-east-1" else region}


def create_bucket(context: Context) -> Output:
    """CreateBucket: create a folder of the account."""
    if context.get("ACL", "private") != "private":
        raise S3Error("NotImplemented", "Buckets are always private here.")
    name = context.call.bucket
    bucket = open_bucket(context, context.caller, name)
    if exists(context.parts, name, bucket) or not isinstance(bucket, LocalBucket):
        raise S3Error("BucketAlreadyOwnedByYou")
    bucket.create()
    return {"Location": f"/{name}"}


def delete_bucket(context: Context) -> Output:
    """DeleteBucket: delete an empty folder of the account; only the operator can remove other buckets."""
    bucket, name = context.bucket, context.call.bucket
    is_shared = is_warehouse_name(name) or context.parts.buckets.is_registered(name)
    if is_shared or not isinstance(bucket, LocalBucket):
        raise S3Error("AccessDenied", "Only the operator can remove this bucket.")
    try:
        bucket.remove()
    except BucketError as error:
        if error.problem == "in the way":
            raise S3Error("BucketNotEmpty") from None
        raise
    return {}


def get_bucket_versioning(context: Context) -> Output:
    """GetBucketVersioning: versioning is never enabled."""
    _ = context.bucket
    return {}


def list_objects_v2(context: Context) -> Output:
    """ListObjectsV2: list a bucket's objects, with version 2 of S3's listing."""
    token = context.get("ContinuationToken")
    page = _page(context, after=_from_token(token) if token else context.get("StartAfter", ""))
    return _shown(context, page) | {
        "KeyCount": len(page.objects) + len(page.prefixes),
        "StartAfter": encoded(context, context.get("StartAfter")),
        "ContinuationToken": token,
        "NextContinuationToken": _token(page.last) if page.is_truncated else None,
    }


def list_objects(context: Context) -> Output:
    """ListObjects: list a bucket's objects, with version 1 of S3's listing."""
    page = _page(context, after=context.get("Marker", ""))
    return _shown(context, page) | {
        "Marker": encoded(context, context.get("Marker", "")),
        "NextMarker": encoded(context, page.last) if page.is_truncated else None,
    }


@dataclass
class _Page:
    """A page of a listing."""

    objects: list[ObjectEntry] = field(default_factory=list)
    prefixes: list[str] = field(default_factory=list)
    last: str = ""
    is_truncated: bool = False


def _shown(context: Context, page: _Page) -> dict[str, Any]:
    has_owner = context.call.operation == "ListObjects" or context.get("FetchOwner")
    owner = {"ID": context.caller.account_id} if has_owner else None
    return {
        "Name": context.call.bucket,
        "Prefix": encoded(context, context.get("Prefix", "")),
        "Delimiter": encoded(context, context.get("Delimiter")),
        "MaxKeys": page_size(context, "MaxKeys"),
        "EncodingType": context.get("EncodingType"),
        "IsTruncated": page.is_truncated,
        "Contents": [
            {
                "Key": encoded(context, entry.key),
                "Size": entry.n_bytes,
                "ETag": entry.e_tag,
                "LastModified": entry.modified,
                "StorageClass": "STANDARD",
                "Owner": owner,
            }
            for entry in page.objects
        ],
        "CommonPrefixes": [{"Prefix": encoded(context, prefix)} for prefix in page.prefixes],
    }


def _page(context: Context, *, after: str) -> _Page:
    """Return a page of objects and common prefixes that sort after the given key or common prefix."""
    if context.get("EncodingType", "url") != "url":
        raise S3Error("InvalidArgument", "EncodingType must be url.")
    bucket, prefix, delimiter = context.bucket, context.get("Prefix", ""), context.get("Delimiter", "")
    most, page = page_size(context, "MaxKeys"), _Page()
    if not most:
        return page
    for key, entry in _entries(bucket, prefix, delimiter, after):
        if len(page.objects) + len(page.prefixes) == most:
            page.is_truncated = True
            break
        if entry is None:
            page.prefixes.append(key)
        else:
            # a local bucket lists only keys and sizes
            found = entry if entry.e_tag else bucket.find(key)
            if found is None:
                continue  # deleted meanwhile
            page.objects.append(found)
        page.last = key
    return page


def _entries(bucket: Bucket, prefix: str, delimiter: str, after: str) -> Iterator[tuple[str, ObjectEntry | None]]:
    """Yield the entries of a listing in order: each key with its object, each common prefix with None."""
    if delimiter and after and _common(after, prefix, delimiter) == after:
        after += _LAST
    while True:
        common, n_skipped = "", 0
        for entry in _listed(bucket, prefix, after):
            if common and entry.key.startswith(common):
                n_skipped += 1
                if n_skipped > _MOST_SKIPPED:
                    break
                continue
            common, n_skipped = _common(entry.key, prefix, delimiter) if delimiter else "", 0
            yield (common, None) if common else (entry.key, entry)
        else:
            return
        after = common + _LAST


def _common(key: str, prefix: str, delimiter: str) -> str:
    """Return a key's common prefix: up to the first delimiter after `prefix`; empty if there is no delimiter."""
    if not key.startswith(prefix):
        return ""
    end = key.find(delimiter, len(prefix))
    return key[: end + len(delimiter)] if end >= 0 else ""


def _listed(bucket: Bucket, prefix: str, after: str) -> Iterator[ObjectEntry]:
    folder = prefix.rpartition("/")[0]
    if folder and not (
        is_storable_key(folder) and (isinstance(bucket, LocalBucket) or RemoteBucket.has_key(folder))
    ):
        return
    if isinstance(bucket, RemoteBucket):
        entries = bucket.list_all(folder, after=after)
    else:
        entries = bucket.list(folder, after=max(after, _before(prefix)))
    for entry in entries:
        if entry.key.startswith(prefix) and entry.key > after:
            yield entry
        elif entry.key > prefix and not entry.key.startswith(prefix):
            return


def _before(prefix: str) -> str:
    """Return a text that sorts before all keys with a prefix; a listing from there skips most earlier keys."""
    last = ord(prefix[-1]) if prefix else 0
    return prefix[:-1] + chr(last - 1) + _LAST if 0 < last < 0xD800 else ""


def _token(key: str) -> str:
    return base64.urlsafe_b64encode(key.encode()).decode()


def _from_token(token: str | None) -> str:
    try:
        return base64.b64decode(token or "", altchars=b"-_", validate=True).decode()
    except (binascii.Error, ValueError):
        raise S3Error("InvalidArgument", "The continuation token is invalid. List from the start.") from None
