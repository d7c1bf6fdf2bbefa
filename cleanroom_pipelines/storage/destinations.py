"""Where exports go.

Lives here: turning an `s3://bucket/prefix` into the folder an account may write.
Add here when real object stores are registered.
Keep out: what is written there (audiences.exports).
"""

import re
from dataclasses import dataclass
from pathlib import Path

from cleanroom_pipelines.errors import UsageError
from cleanroom_pipelines.storage.artifacts import is_leftover
from cleanroom_pipelines.storage.home import Home

_ACCOUNT = re.compile(r"[0-9]{12}")
_URL = re.compile(r"s3://([a-z0-9][a-z0-9.-]{1,61}[a-z0-9])(?:/(.*))?", re.DOTALL)
_SEGMENT = re.compile(r"[A-Za-z0-9!_.*'()=,@ -]{1,255}")
_MAX_PREFIX = 1024  # what S3 allows a key
_REMEDY = "Give s3://bucket/prefix with plain segments."


@dataclass(frozen=True)
class Destination:
    """A place below one account's bucket.

    Args:
        url: The URL as the account names it, without a trailing slash.
        folder: The local folder that stands for it.
    """

    url: str
    folder: Path

    def __truediv__(self, segment: str) -> "Destination":
        return Destination(f"{self.url}/{segment}", self.folder / segment)


def resolve_destination(home: Home, account_id: str, url: str) -> Destination:
    """Find the folder that a destination URL means for an account.

    Args:
        home: The installation's home.
        account_id: 12 digits.
        url: `s3://bucket/prefix`; means `accounts/<account>/buckets/<bucket>/<prefix>`.

    Raises:
        UsageError: The URL is not of that form, or would leave its bucket.
    """
    bucket, segments = split_destination(url)
    if not _ACCOUNT.fullmatch(account_id):
        raise UsageError("The destination's account is not 12 digits.", remedy="Give an account id of 12 digits.")
    buckets = home.accounts / account_id / "buckets"
    folder = (buckets / bucket).joinpath(*segments)
    # A symbolic link planted in a bucket, or in its place, must not lead out of it.
    try:
        is_inside = folder.resolve().is_relative_to(buckets.resolve() / bucket)
    except (OSError, RuntimeError):  # a link that leads to itself
        is_inside = False
    if not is_inside:
        raise UsageError("The destination leads out of its bucket.", remedy=_REMEDY)
    return Destination("/".join((f"s3://{bucket}", *segments)), folder)


def split_destination(url: str) -> tuple[str, list[str]]:
    """Read a destination URL as its bucket and the segments of its prefix.

    Raises:
        UsageError: The URL is not of the form `s3://bucket/prefix`.
    """
    match = _URL.fullmatch(url.rstrip("/"))
    if match is None:
        raise UsageError("The destination is not an s3://bucket/prefix URL.", remedy=_REMEDY)
    bucket, prefix = match.group(1), match.group(2) or ""
    segments = prefix.split("/") if prefix else []
    if len(prefix) > _MAX_PREFIX or not all(_is_plain(segment) for segment in segments):
        raise UsageError("The destination holds a path segment that is not allowed.", remedy=_REMEDY)
    return bucket, segments


def _is_plain(segment: str) -> bool:
    return bool(_SEGMENT.fullmatch(segment)) and segment not in (".", "..") and not is_leftover(segment)
