"""Where exports go.

Lives here: a place in a bucket that an export may be written to.
Add here when an export needs to know more of its place.
Keep out: what is written there (audiences.exports); whose bucket it is (buckets).
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path

from cleanroom_pipelines.errors import UsageError
from cleanroom_pipelines.storage.fences import UNFENCED, Fence
from cleanroom_pipelines.storage.local_bucket import LocalBucket
from cleanroom_pipelines.storage.objects import Bucket, BucketError, FolderDraft
from cleanroom_pipelines.storage.s3_urls import split_s3_url


@dataclass(frozen=True)
class Destination:
    """A folder of a bucket, local or real.

    Args:
        url: The URL as the account names it, without a trailing slash.
        bucket: The bucket.
        key: The folder's key in it; empty for the bucket itself.
    """

    url: str
    bucket: Bucket = field(repr=False)
    key: str

    def __truediv__(self, segment: str) -> "Destination":
        return Destination(f"{self.url}/{segment}", self.bucket, f"{self.key}/{segment}" if self.key else segment)

    @property
    def folder(self) -> Path | None:
        """The folder on this machine that it means; None on a real store."""
        return self.bucket.path(self.key) if isinstance(self.bucket, LocalBucket) else None

    def drafting(
        self,
        *,
        owner: str,
        marker: str,
        attempt_of: Callable[[bytes], int | None],
        fence: Fence = UNFENCED,
    ) -> AbstractContextManager[FolderDraft]:
        """Write the folder; see Bucket.drafting.

        Raises:
            UsageError: It is a whole bucket.
        """
        if not self.key:
            raise UsageError("A bucket itself cannot be written as one folder.", remedy="Name a folder in it.")
        return self.bucket.drafting(self.key, owner=owner, marker=marker, attempt_of=attempt_of, fence=fence)


def split_destination(url: str) -> tuple[str, list[str]]:
    """Read a destination URL as its bucket and the segments of its prefix.

    Raises:
        UsageError: The URL is not of the form `s3://bucket/prefix`.
    """
    return split_s3_url(url, what="destination")


def folder_on_disk(folder: Path) -> Destination:
    """A folder of this machine as a destination, for whoever looks at what was exported there."""
    return Destination(folder.name, LocalBucket(folder.parent), folder.name)


def reject_links(bucket: LocalBucket, key: str) -> None:
    """Refuse a key that a link would lead out of its bucket.

    Raises:
        UsageError: It would.
    """
    try:
        bucket.check(key)
    except BucketError as error:
        raise UsageError("The place leads out of its bucket.", remedy=error.remedy) from None
