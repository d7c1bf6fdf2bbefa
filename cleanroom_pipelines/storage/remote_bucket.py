"""Buckets on a real S3-compatible store.

Lives here: the only code that speaks to such a store, through boto3, each bucket with its own credentials alone.
Add here when a real bucket learns something new, or a store answers with a code that should be told apart.
Keep out: which buckets are real and whose they are (buckets).
"""

import re
import shutil
import tempfile
import threading
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from cleanroom_pipelines.errors import ClaimLostError, CleanroomError, ConfigurationError, NotFoundError
from cleanroom_pipelines.storage.fences import UNFENCED, Fence
from cleanroom_pipelines.storage.objects import (
    BucketError,
    ObjectEntry,
    ObjectPage,
    OpenedObject,
    Sink,
    later_attempt,
)
from cleanroom_pipelines.storage.s3_urls import is_plain_segment

MAX_FILES_OF_A_FOLDER = 1000
_TRIES = 5
_PIECE_BYTES = 8 << 20
_MAX_PIECES = 10_000  # S3's own limit
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
# what a store answers when the object is not as the condition says
_CHANGED = {"412", "PreconditionFailed", "ConditionalRequestConflict"}
# an error of the store's own, which passes
_FAILING = {"500", "502", "503", "504", "InternalError", "ServiceUnavailable", "SlowDown"}
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
        with self._telling():
            client = self._client
            from boto3.s3.transfer import TransferConfig

            client.upload_fileobj(
                source, self._bucket, self.full_key(key), Config=TransferConfig(use_threads=False)
            )

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
        attempt_of: Callable[[bytes], int | None],
        fence: Fence = UNFENCED,
    ) -> Iterator["_RemoteDraft"]:
        """See Bucket.drafting. Files are uploaded one by one, the marker last.

        Each object is labelled with its owner and attempt, so the marker of another attempt need not be read. The
        files of each attempt but the first have names of their own, so no two attempts write the same one; the
        marker, which all share, is written only as long as no later attempt has written it.
        """
        self._refuse_others(folder, owner, fence)
        scratch = Path(tempfile.mkdtemp(prefix=".export-", dir=self._scratch))
        labels = {_OWNER: owner, _ATTEMPT: str(fence.attempt), _WRITER: scratch.name}
        draft = _RemoteDraft(self, folder, marker=marker, scratch=scratch, labels=labels, fence=fence)
        try:
            yield draft
        except BaseException as error:
            if isinstance(error, ClaimLostError) and not fence.attempt:
                raise  # without an attempt another writer uses the same keys by now
            # The error that is under way matters more, and a store that failed may fail again: without its marker
            # nothing is trusted, and the next attempt replaces it.
            with suppress(Exception):
                draft.take_back()
            raise
        finally:
            shutil.rmtree(scratch, ignore_errors=True)

    def _refuse_others(self, folder: str, owner: str, fence: Fence, but: Collection[str] = ()) -> set[str]:
        """The keys that earlier attempts of the same owner left in a folder.

        Raises:
            BucketError: Something else lies there.
            ClaimLostError: A later attempt has written there.
        """
        there = self._list_raw(folder) - set(but)
        for key in there:
            self._refuse_other(self._head(key), owner, fence)
        return there

    def _refuse_other(self, head: Any, owner: str, fence: Fence) -> None:
        if head is None:
            return  # nothing is there, or not any more
        if head.get("Metadata", {}).get(_OWNER) != owner:
            raise BucketError(
                "Something else lies where the folder belongs.",
                remedy="Remove what lies there.",
                problem="in the way",
            )
        if _attempt_of(head) > fence.attempt:
            raise later_attempt()

    def _list_raw(self, folder: str) -> set[str]:
        with self._telling():
            answer = self._client.list_objects_v2(
                Bucket=self._bucket, Prefix=self.full_key(f"{folder}/"), MaxKeys=MAX_FILES_OF_A_FOLDER
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

    def _put_marker(self, key: str, path: Path, labels: dict[str, str], fence: Fence) -> None:
        """Write the marker unless another one was written since it was looked at.

        Raises:
            ClaimLostError: A later attempt has written it.
            BucketError: Something else lies there, or the bucket cannot be written.
        """
        is_conditional = True
        for _ in range(_TRIES):
            head = self._head(key)
            if head is not None and head.get("Metadata", {}).get(_WRITER) == labels[_WRITER]:
                return  # it was written, and only the answer was lost
            self._refuse_other(head, labels[_OWNER], fence)
            condition = {"IfNoneMatch": "*"} if head is None else {"IfMatch": head["ETag"]}
            try:
                with self._telling():
                    self._client.put_object(
                        Bucket=self._bucket,
                        Key=self.full_key(key),
                        Body=path.read_bytes(),
                        Metadata=labels,
                        **(condition if is_conditional else {}),
                    )
                return
            except BucketError as error:
                if error.problem == "unreachable" and self._label(key, _WRITER) == labels[_WRITER]:
                    return
                if error.problem not in ("changed", "not implemented"):
                    raise
                is_conditional = error.problem == "changed"
        raise BucketError("The store's answers contradict each other.", remedy="Start the export again.")

    def _head(self, key: str) -> Any:
        try:
            with self._telling():
                return self._client.head_object(Bucket=self._bucket, Key=self.full_key(key))
        except NotFoundError:
            return None

    def _upload(self, key: str, path: Path, labels: dict[str, str], check: Callable[[], None]) -> None:
        """Write an object and ask immediately before it becomes visible."""
        place: dict[str, Any] = {"Bucket": self._bucket, "Key": self.full_key(key)}
        size = path.stat().st_size
        with path.open("rb") as source:
            if size <= _PIECE_BYTES:
                content = source.read()
                check()
                with self._telling():
                    self._client.put_object(**place, Body=content, Metadata=labels)
                return
            with self._telling():
                place["UploadId"] = self._client.create_multipart_upload(**place, Metadata=labels)["UploadId"]
            try:
                pieces = [*self._upload_pieces(place, source, max(_PIECE_BYTES, size // _MAX_PIECES + 1))]
                check()
                with self._telling():
                    self._client.complete_multipart_upload(**place, MultipartUpload={"Parts": pieces})
            except BaseException:
                with suppress(Exception):  # what is under way matters more
                    self._client.abort_multipart_upload(**place)
                raise

    def _upload_pieces(self, place: dict[str, Any], source: IO[bytes], n_bytes: int) -> Iterator[dict[str, Any]]:
        number = 0
        while content := source.read(n_bytes):
            number += 1
            with self._telling():
                answer = self._client.upload_part(**place, PartNumber=number, Body=content)
            told = {name: answer[name] for name in ("ETag", "ChecksumCRC32") if name in answer}
            yield {"PartNumber": number, **told}

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
_WRITER = "cleanroom-writer"


class _RemoteDraft:
    def __init__(
        self,
        bucket: RemoteBucket,
        folder: str,
        *,
        marker: str,
        scratch: Path,
        labels: dict[str, str],
        fence: Fence,
    ) -> None:
        self._bucket, self._folder, self._scratch = bucket, folder, scratch
        self._labels, self._marker, self._fence = labels, marker, fence
        self._written = set[str]()

    def named(self, name: str) -> str:
        if self._fence.attempt < 2:
            return name
        stem, dot, suffix = name.partition(".")
        return f"{stem}-{self._fence.attempt}{dot}{suffix}"

    @contextmanager
    def creating(self, name: str) -> Iterator[Sink]:
        path = self._scratch / name
        with path.open("wb") as stream:
            yield Sink(stream)
        key = f"{self._folder}/{name}"
        if name == self._marker:
            owner = self._labels[_OWNER]
            earlier = self._bucket._refuse_others(self._folder, owner, self._fence, but=self._written)
            self._fence.commit()
            for stale in sorted(earlier - {key}):
                self._bucket._delete(stale)
            self._bucket._put_marker(key, path, self._labels, self._fence)
        else:
            self._written.add(key)
            self._bucket._upload(key, path, self._labels, self._fence.check)
        path.unlink()

    def take_back(self) -> None:
        """Delete what this attempt wrote, unless a marker makes it part of a whole.

        That is its own marker, or without an attempt any marker, since then others may have written the same keys.
        """
        marker = self._bucket._head(f"{self._folder}/{self._marker}")
        if marker is not None and self._fence.attempt in (0, _attempt_of(marker)):
            return
        for key in sorted(self._written):
            if self._bucket._label(key, _WRITER) == self._labels[_WRITER]:
                self._bucket._delete(key)


def _attempt_of(head: Any) -> int:
    number = head.get("Metadata", {}).get(_ATTEMPT, "")
    return int(number) if number.isdecimal() else 0  # before 2026-11-29 the label was no number


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
    if code in _CHANGED:
        return BucketError(
            "An object was changed by another writer meanwhile.", remedy="Try again.", problem="changed"
        )
    if code == "NotImplemented":
        return BucketError(
            "The bucket's store cannot do this.", remedy="Use another store.", problem="not implemented"
        )
    return _refused_with(code if _CODE.fullmatch(code) else "unknown")


def _refused_with(code: str) -> BucketError:
    if code in _FAILING:
        return BucketError(
            f"The bucket's store is failing ({code}).", remedy="Try again when it is up.", problem="unreachable"
        )
    if code in _DENIED:
        return _refused(code)
    return BucketError(f"The bucket's store refused the request ({code}).", remedy="Check the bucket there.")


def _refused(name: str) -> BucketError:
    return BucketError(
        f"The bucket's store does not accept the bucket's credentials, or they may not do this ({name}).",
        remedy="Check the bucket's credentials profile in the AWS configuration files.",
        problem="denied",
    )
