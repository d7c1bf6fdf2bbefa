"""Buckets on a real S3-compatible store.

Lives here: the only code that speaks to such a store, through boto3, each bucket with its own credentials alone.
Add here when a real bucket learns something new, or a store answers with a code that should be told apart.
Keep out: which buckets are real and whose they are (buckets).
"""

import re
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from cleanroom_pipelines.errors import ClaimLostError, CleanroomError, ConfigurationError, NotFoundError
from cleanroom_pipelines.storage.objects import BucketError, ObjectEntry, ObjectPage, OpenedObject, Sink
from cleanroom_pipelines.storage.s3_urls import is_plain_segment

_MAX_FILES_OF_A_FOLDER = 1000
_MISSING = {"404", "NoSuchKey", "NotFound"}
_DENIED = {
    "401",
    "403",
    "AccessDenied",
    "AllAccessDisabled",
    "AuthFailure",
    "ExpiredToken",
    "Forbidden",
    "InvalidAccessKeyId",
    "InvalidClientTokenId",
    "InvalidToken",
    "SignatureDoesNotMatch",
}
_CODE = re.compile(r"[A-Za-z0-9.]{1,64}")
# What the machine itself may do is no bucket's: without these, a profile without credentials would borrow it.
_AMBIENT = ("env", "ec2-credentials-file", "boto-config", "container-role", "iam-role")


class StoreClients:
    """A client a credentials profile, made when first used and again after its credentials were refused."""

    def __init__(self) -> None:
        self._clients = dict[str, Any]()
        self._lock = threading.Lock()  # making a client is not thread-safe, using one is

    def get(self, profile: str) -> Any:
        """The client of a profile of the AWS configuration files.

        Raises:
            ConfigurationError: boto3 is not installed.
            BucketError: The profile cannot be used.
        """
        with self._lock:
            if profile not in self._clients:
                self._clients[profile] = _connect(profile)
            return self._clients[profile]

    def forget(self, profile: str) -> None:
        """Read the profile again next time."""
        with self._lock:
            self._clients.pop(profile, None)


class RemoteBucket:
    """A bucket of a real store, or what lies under a prefix of it.

    Args:
        clients: Where clients come from.
        profile: The credentials profile of this bucket.
        bucket: Its name on the store.
        prefix: Put before every key, without a slash at its end; may be empty.
        scratch: A local folder for files on their way.
    """

    def __init__(self, clients: StoreClients, profile: str, bucket: str, prefix: str, scratch: Path) -> None:
        self._clients = clients
        self._profile = profile
        self._bucket = bucket
        self._prefix = prefix
        self._scratch = scratch

    def size(self, key: str) -> int | None:
        """See Bucket.size."""
        head = self._head(key)
        return None if head is None else int(head["ContentLength"])

    def open(self, key: str) -> OpenedObject:
        """See Bucket.open."""
        with self._telling():
            answer = self._client.get_object(Bucket=self._bucket, Key=self.full_key(key))
        return OpenedObject(int(answer["ContentLength"]), answer["Body"], self._telling)

    def put(self, key: str, source: IO[bytes]) -> None:
        """See Bucket.put."""
        self._upload(key, source, {})

    def list(self, folder: str, *, after: str = "", limit: int = 1000, deep: bool = True) -> ObjectPage:
        """See Bucket.list."""
        base = self.full_key(f"{folder}/" if folder else "")
        question: dict[str, Any] = {"Bucket": self._bucket, "Prefix": base, "MaxKeys": limit}
        if after:
            question["StartAfter"] = self.full_key(after)
        if not deep:
            question["Delimiter"] = "/"
        with self._telling():
            answer = self._client.list_objects_v2(**question)
        own = len(self.full_key(""))
        found = [ObjectEntry(str(each["Key"])[own:], int(each["Size"])) for each in answer.get("Contents", ())]
        last = max(
            [entry.key for entry in found]
            # with a delimiter a page may end in a folder; whatever is in it was told
            + [f"{str(each['Prefix'])[own:]}\U0010ffff" for each in answer.get("CommonPrefixes", ())],
            default=None,
        )
        plain = tuple(entry for entry in found if all(map(is_plain_segment, entry.key.split("/"))))
        return ObjectPage(plain, last if answer.get("IsTruncated") else None)

    @contextmanager
    def drafting(
        self,
        folder: str,
        *,
        owner: str,
        marker: str,
        is_own: Callable[[bytes], bool],
    ) -> Iterator["_RemoteDraft"]:
        """See Bucket.drafting. Files are uploaded one by one, the marker last.

        Each object is labelled with its owner, so the marker of another attempt need not be read.
        """
        there = self._keys_of_attempts(folder, owner)
        scratch = Path(tempfile.mkdtemp(prefix=".export-", dir=self._scratch))
        labels = {_OWNER: owner, _ATTEMPT: scratch.name}
        draft = _RemoteDraft(self, folder, marker=marker, scratch=scratch, labels=labels, there=there)
        try:
            yield draft
        except ClaimLostError:
            raise  # another attempt writes the same keys by now
        except BaseException:
            # The error that is under way matters more, and a store that failed may fail again: without its marker
            # nothing is trusted, and the next attempt replaces it.
            with suppress(Exception):
                draft.take_back()
            raise
        finally:
            shutil.rmtree(scratch, ignore_errors=True)

    def _keys_of_attempts(self, folder: str, owner: str) -> set[str]:
        """The keys that earlier attempts of the same owner left in a folder; nothing else may lie there."""
        page = self._list_raw(folder)
        if all(self._label(key, _OWNER) == owner for key in page):
            return page
        raise BucketError(
            "Something else lies where the folder belongs.", remedy="Remove what lies there.", problem="in the way"
        )

    def _list_raw(self, folder: str) -> set[str]:
        with self._telling():
            answer = self._client.list_objects_v2(
                Bucket=self._bucket, Prefix=self.full_key(f"{folder}/"), MaxKeys=_MAX_FILES_OF_A_FOLDER
            )
        if answer.get("IsTruncated"):
            raise BucketError(
                "Many other objects lie where the folder belongs.",
                remedy="Remove what lies there.",
                problem="in the way",
            )
        own = len(self.full_key(""))
        # a console makes an empty object named like the folder
        return {str(each["Key"])[own:] for each in answer.get("Contents", ())} - {f"{folder}/"}

    def _label(self, key: str, name: str) -> str | None:
        head = self._head(key)
        return None if head is None else head.get("Metadata", {}).get(name)

    def _head(self, key: str) -> Any:
        try:
            with self._telling():
                return self._client.head_object(Bucket=self._bucket, Key=self.full_key(key))
        except NotFoundError:
            return None

    def _upload(self, key: str, source: IO[bytes], labels: dict[str, str]) -> None:
        with self._telling():
            client = self._client
            from boto3.s3.transfer import TransferConfig

            client.upload_fileobj(
                source,
                self._bucket,
                self.full_key(key),
                ExtraArgs={"Metadata": labels},
                Config=TransferConfig(use_threads=False),
            )

    def _delete(self, key: str) -> None:
        with self._telling():
            self._client.delete_object(Bucket=self._bucket, Key=self.full_key(key))

    @property
    def _client(self) -> Any:
        return self._clients.get(self._profile)

    def full_key(self, key: str) -> str:
        """The key on the store."""
        return f"{self._prefix}/{key}" if self._prefix else key

    @contextmanager
    def _telling(self) -> Iterator[None]:
        try:
            with _store_errors():
                yield
        except BucketError as error:
            if error.problem == "denied":
                self._clients.forget(self._profile)
            raise


_OWNER = "cleanroom-export"
_ATTEMPT = "cleanroom-attempt"


class _RemoteDraft:
    def __init__(
        self,
        bucket: RemoteBucket,
        folder: str,
        *,
        marker: str,
        scratch: Path,
        labels: dict[str, str],
        there: set[str],
    ) -> None:
        self._bucket, self._folder, self._scratch = bucket, folder, scratch
        self._labels, self._marker, self._there = labels, marker, there
        self._written = set[str]()

    @contextmanager
    def creating(self, name: str) -> Iterator[Sink]:
        path = self._scratch / name
        with path.open("wb") as stream:
            yield Sink(stream)
        key = f"{self._folder}/{name}"
        if name == self._marker:
            for stale in sorted(self._there - self._written - {key}):
                self._bucket._delete(stale)
        self._written.add(key)
        with path.open("rb") as stream:
            self._bucket._upload(key, stream, self._labels)
        path.unlink()

    def take_back(self) -> None:
        """Delete what this attempt wrote, unless a marker, of whichever attempt, makes it part of a whole."""
        if self._bucket.size(f"{self._folder}/{self._marker}") is None:
            for key in sorted(self._written):
                if self._bucket._label(key, _ATTEMPT) == self._labels[_ATTEMPT]:
                    self._bucket._delete(key)


def _connect(profile: str) -> Any:
    try:
        import boto3
        import botocore.session
        from botocore.config import Config
    except ImportError:
        raise ConfigurationError(
            "A bucket on a real object store needs boto3, which is not installed.",
            remedy="Install the extra: pip install 'cleanroom-pipelines[api]'.",
        ) from None
    with _store_errors():
        session = botocore.session.Session(profile=profile)
        resolver = session.get_component("credential_provider")
        for name in _AMBIENT:
            resolver.remove(name)
        settings = session.get_scoped_config()
        # given here, since variables of the process would win over the profile
        return boto3.Session(botocore_session=session).client(
            "s3",
            endpoint_url=_endpoint(session, settings),
            region_name=settings.get("region") or "us-east-1",
            config=Config(
                ignore_configured_endpoint_urls=True,
                connect_timeout=5,
                read_timeout=30,
                retries={"mode": "standard", "total_max_attempts": 3},
            ),
        )


def _endpoint(session: Any, settings: dict[str, Any]) -> str | None:
    services = session.full_config.get("services", {}).get(settings.get("services"), {})
    own = services.get("s3", {})
    return (own.get("endpoint_url") if isinstance(own, dict) else None) or settings.get("endpoint_url")


@contextmanager
def _store_errors() -> Iterator[None]:
    """Turn boto's errors into ours, of which they keep the code or class alone."""
    try:
        yield
    except CleanroomError:
        raise
    except Exception as error:
        told = _told(error)
        if told is None:
            raise
        raise told from None


def _told(error: Exception) -> CleanroomError | None:
    import urllib3.exceptions
    from botocore.exceptions import (
        BotoCoreError,
        ClientError,
        ConfigNotFound,
        ConfigParseError,
        CredentialRetrievalError,
        NoCredentialsError,
        PartialCredentialsError,
        ProfileNotFound,
    )

    if isinstance(error, ClientError):
        return _answered(str(error.response.get("Error", {}).get("Code", "")))
    name = type(error).__name__
    if isinstance(
        error,
        ProfileNotFound
        | NoCredentialsError
        | PartialCredentialsError
        | CredentialRetrievalError
        | ConfigParseError
        | ConfigNotFound,
    ):
        return _refused(name)
    if isinstance(error, BotoCoreError | urllib3.exceptions.HTTPError):
        return BucketError(
            f"The bucket's store cannot be reached ({name}).",
            remedy="Check the endpoint_url of the bucket's credentials profile, and that the store is up.",
            problem="unreachable",
        )
    if isinstance(error, ValueError):
        return BucketError(
            "The bucket's credentials profile cannot be used.",
            remedy="Check its endpoint_url and region in the AWS configuration file.",
        )
    return None


def _answered(code: str) -> CleanroomError:
    if code in _MISSING:
        return NotFoundError("There is no such object in the bucket.", remedy="Check its key.")
    if code == "NoSuchBucket":
        return BucketError(
            "The bucket does not exist on its store.",
            remedy="Create it there, or register the bucket with another URL.",
            problem="no bucket",
        )
    code = code if _CODE.fullmatch(code) else "unknown"
    if code in _DENIED:
        return _refused(code)
    return BucketError(f"The bucket's store refused the request ({code}).", remedy="Check the bucket there.")


def _refused(name: str) -> BucketError:
    return BucketError(
        f"The bucket's store does not accept the bucket's credentials, or they may not do this ({name}).",
        remedy="Check the bucket's credentials profile in the AWS configuration files.",
        problem="denied",
    )
