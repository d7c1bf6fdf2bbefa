"""What an `s3://bucket/key` may look like.

Lives here: splitting such a URL, and which keys are plain enough to be paths.
Add here when a further character is known to do no harm on any disk.
Keep out: where a bucket lies (buckets).
"""

import re

from cleanroom_pipelines.errors import UsageError
from cleanroom_pipelines.storage.artifacts import is_leftover

MAX_KEY = 1024  # what S3 allows
_MAX_SEGMENTS = 64  # each is an open folder on the way
_URL = re.compile(r"s3://([a-z0-9][a-z0-9.-]{1,61}[a-z0-9])(?:/(.*))?", re.DOTALL)
_SEGMENT = re.compile(r"[A-Za-z0-9!_.*'()=,@+: -]{1,255}")


def split_s3_url(url: str, *, what: str = "place") -> tuple[str, list[str]]:
    """Read a URL as its bucket and the segments of its key; one slash may end it.

    Args:
        url: `s3://bucket` or `s3://bucket/key`.
        what: What to call the URL in messages.

    Raises:
        UsageError: It is not of that form, or its key is not made of plain segments.
    """
    remedy = "Give s3://bucket/key with plain segments."
    match = _URL.fullmatch(url.removesuffix("/"))
    if match is None:
        raise UsageError(f"The {what} is not an s3://bucket/key URL.", remedy=remedy)
    bucket, key = match.group(1), match.group(2)
    segments = key.split("/") if key is not None else []
    if len(key or "") > MAX_KEY or len(segments) > _MAX_SEGMENTS or not all(map(is_plain_segment, segments)):
        raise UsageError(f"The {what} holds a path segment that is not allowed.", remedy=remedy)
    return bucket, segments


def is_plain_segment(segment: str) -> bool:
    """Whether a segment of a key means itself on any disk, and is no draft of ours."""
    return bool(_SEGMENT.fullmatch(segment)) and segment not in (".", "..") and not is_leftover(segment)
