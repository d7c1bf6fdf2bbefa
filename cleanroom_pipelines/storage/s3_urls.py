"""Syntax of `s3://bucket/key` URLs, and the names of files that hold objects.

Lives here: splitting such a URL, and the file name of each segment of a key.
Add here when another character is known to be safe on every disk.
Keep out: the location of a bucket (buckets).
"""

import re
import unicodedata
from urllib.parse import quote, unquote

from cleanroom_pipelines.errors import UsageError
from cleanroom_pipelines.storage.artifacts import is_leftover

MAX_KEY = 1024  # limit of S3
_MAX_SEGMENTS = 64  # each opens a folder
_URL = re.compile(r"s3://([a-z0-9][a-z0-9.-]{1,61}[a-z0-9])(?:/(.*))?", re.DOTALL)
_BUCKET = re.compile("[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_SEGMENT = re.compile(r"[A-Za-z0-9!_.*'()=,@+: -]{1,255}")
_KEPT = re.compile(r"[A-Za-z0-9!_.*'()=,@+: %-]|[^\x00-\x7f]")
_MAX_NAME_BYTES = 255
_ESCAPED = "~"


def split_s3_url(url: str, *, what: str = "URL", any_key: bool = False) -> tuple[str, list[str]]:
    """Split a URL into its bucket and the segments of its key; one trailing slash is allowed.

    Args:
        url: `s3://bucket` or `s3://bucket/key`.
        what: Name of the URL in messages.
        any_key: Whether to accept every key that a local bucket can store, not only plain segments.

    Raises:
        UsageError: The URL has another form, or its key has a segment that is not allowed.
    """
    is_allowed = is_storable_segment if any_key else is_plain_segment
    remedy = (
        "Use s3://bucket/key; its segments may contain the letters a to z and A to Z, digits, spaces "
        "and !_.*'()=,@+:-"
    )
    match = _URL.fullmatch(url.removesuffix("/"))
    if match is None:
        raise UsageError(f"The {what} does not have the form s3://bucket/key.", remedy=remedy)
    bucket, key = match.group(1), match.group(2)
    segments = key.split("/") if key is not None else []
    if len(key or "") > MAX_KEY or len(segments) > _MAX_SEGMENTS or not all(map(is_allowed, segments)):
        raise UsageError(f"The {what} contains a path segment that is not allowed.", remedy=remedy)
    return bucket, segments


def is_plain_segment(segment: str) -> bool:
    """Whether a segment of a key is a safe file name on any disk, and is not the name of a draft."""
    return bool(_SEGMENT.fullmatch(segment)) and segment not in (".", "..") and not is_leftover(segment)


def is_bucket_name(name: str) -> bool:
    """Whether a text is the name of a bucket."""
    return _BUCKET.fullmatch(name) is not None


def is_storable_key(key: str) -> bool:
    """Whether a local bucket can store an object with this key."""
    segments = key.split("/")
    return (
        bool(key)
        and len(key.encode("utf-8", "surrogateescape")) <= MAX_KEY
        and len(segments) <= _MAX_SEGMENTS
        and all(map(is_storable_segment, segments))
    )


def is_storable_segment(segment: str) -> bool:
    """Whether a key segment, once its unsafe characters are escaped, is short enough for a file name."""
    try:
        return len(name_of_segment(segment).encode()) <= _MAX_NAME_BYTES
    except UnicodeEncodeError:
        return False


def name_of_segment(segment: str) -> str:
    """Return the file name for a key segment: the segment if it is safe, or else a tilde and its escaped form.

    Letters of all scripts are kept, because the value of a Hive partition is read from the folder's name. `..`,
    empty segments, names of drafts, control characters and globs are escaped, so no key becomes another path.
    """
    return segment if _is_kept(segment) else _ESCAPED + quote(segment, safe="!*'()=,@+: -_.")


def segment_of_name(name: str) -> str | None:
    """Return the key segment that a file name stands for; None if the file is not an object."""
    try:
        segment = unquote(name[1:], errors="strict") if name.startswith(_ESCAPED) else name
        return segment if name_of_segment(segment) == name else None
    except UnicodeError:
        return None


def _is_kept(segment: str) -> bool:
    return (
        segment not in ("", ".", "..")
        and all(map(_KEPT.fullmatch, segment))
        and segment.isprintable()
        and unicodedata.is_normalized("NFC", segment)  # some disks do not distinguish the other forms
        and not is_leftover(segment)
    )
