"""Syntax of `s3://bucket/key` URLs.

Lives here: splitting such a URL, and checking that its key can be used as a path.
Add here when another character is known to be safe on every disk.
Keep out: the location of a bucket (buckets).
"""

import re

from cleanroom_pipelines.errors import UsageError
from cleanroom_pipelines.storage.artifacts import is_leftover

MAX_KEY = 1024  # limit of S3
_MAX_SEGMENTS = 64  # each opens a folder
_URL = re.compile(r"s3://([a-z0-9][a-z0-9.-]{1,61}[a-z0-9])(?:/(.*))?", re.DOTALL)
_SEGMENT = re.compile(r"[A-Za-z0-9!_.*'()=,@+: -]{1,255}")


def split_s3_url(url: str, *, what: str = "URL") -> tuple[str, list[str]]:
    """Split a URL into its bucket and the segments of its key; one trailing slash is allowed.

    Args:
        url: `s3://bucket` or `s3://bucket/key`.
        what: Name of the URL in messages.

    Raises:
        UsageError: The URL has another form, or its key has a segment that is not allowed.
    """
    remedy = "Use s3://bucket/key; path segments may contain letters, digits, spaces and !_.*'()=,@+:-"
    match = _URL.fullmatch(url.removesuffix("/"))
    if match is None:
        raise UsageError(f"The {what} does not have the form s3://bucket/key.", remedy=remedy)
    bucket, key = match.group(1), match.group(2)
    segments = key.split("/") if key is not None else []
    if len(key or "") > MAX_KEY or len(segments) > _MAX_SEGMENTS or not all(map(is_plain_segment, segments)):
        raise UsageError(f"The {what} contains a path segment that is not allowed.", remedy=remedy)
    return bucket, segments


def is_plain_segment(segment: str) -> bool:
    """Whether a segment of a key is a safe file name on any disk, and is not the name of a draft."""
    return bool(_SEGMENT.fullmatch(segment)) and segment not in (".", "..") and not is_leftover(segment)
