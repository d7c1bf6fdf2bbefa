"""Remote buckets on an object store: S3 or compatible, Google Cloud Storage, Azure.

Lives here: the only code that connects to such stores, through obstore; each bucket uses only its own credentials.
Add here when remote buckets get a new operation, or an error code needs its own message.
Keep out: registration and ownership of buckets (buckets).

Tested on S3 as emulated by moto, and for sources of tables on Azure as emulated by Azurite. Google and Azure use
obstore's clients and only store artifacts and sources. Google is not tested: the emulator in the
registries, gcp-storage-emulator, lacks the XML listing that obstore requests.

Limits of obstore 0.12: a key with an empty segment (`a//b`) and its siblings cannot be listed. Its threads do not
survive a fork: after using a store, a process must not fork another one that uses it. Signals wait until a call
has ended.
"""

import re
import shutil
import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import islice
from pathlib import Path
from typing import IO, Any
from urllib.parse import parse_qsl, unquote, urlsplit

import obstore
from obstore.exceptions import (
    AlreadyExistsError,
    BaseError,
    InvalidPathError,
    PreconditionError,
    UnauthenticatedError,
)
from obstore.store import S3Store, from_url

from cleanroom_pipelines.errors import ClaimLostError, CleanroomError, ConfigurationError, NotFoundError
from cleanroom_pipelines.storage.objects import (
    CHUNK_BYTES,
    PATIENCE,
    UNFENCED,
    BucketError,
    Fence,
    ObjectEntry,
    OpenedObject,
    Patience,
    Sink,
    later_attempt,
)
from cleanroom_pipelines.storage.s3_urls import is_plain_segment

MAX_FILES_OF_A_FOLDER = 1000
_TRIES = 5
_PAGE = 1000
_PIECE_BYTES = 5 << 20  # S3's least
_MAX_PIECES = 10_000  # S3's own limit
_CODE = re.compile(r"<Code>([A-Za-z0-9.]{1,64})</Code>")
_STATUS = re.compile(r"status code: ([0-9]{3})")
_CAUSE = re.compile(r"credential provider: ([A-Za-z]{1,64})|kind: ([A-Za-z]{1,64})")
_EXPIRED = {"ExpiredToken", "InvalidToken"}  # with status 400
_ENDPOINT = re.compile(r"https?://[A-Za-z0-9_.\[-][A-Za-z0-9_.:\[\]-]*(/[A-Za-z0-9_./~-]*)?")
_REGION = re.compile(r"[A-Za-z0-9_.-]{1,64}")
# Credential sources of the machine itself. They are removed, or a profile without credentials would use them.
_AMBIENT = ("env", "ec2-credentials-file", "boto-config", "container-role", "iam-role")
_S3_URL_OPTIONS = {"region", "endpoint_override", "scheme", "tls_ca_file_path"}


def open_url(url: str, patience: Patience = PATIENCE) -> Any:
    """Open the store at a URL, without connecting.

    Credentials are those of the cloud's own tools; for S3 from the environment, profile or instance. Other S3
    settings are in the URL: `s3://bucket/prefix?region=…`, and for stores other than Amazon's
    `?endpoint_override=host:port&scheme=http`.

    Raises:
        ConfigurationError: The URL is invalid, or its kind of store is unknown.
    """
    try:
        if urlsplit(url).scheme == "s3":
            return _open_s3_url(url, patience)
        return from_url(url, **_waiting(patience))
    except (BaseError, ValueError, OSError):
        raise ConfigurationError(
            "The artifact store's URL is invalid, or its kind of store is unknown.",
            remedy="Use a folder, gs://bucket/prefix, abfs://container@account.dfs.core.windows.net/prefix, "
            "s3://bucket/prefix?region=name, or for S3-compatible stores "
            "s3://bucket/prefix?endpoint_override=host:port&scheme=https.",
        ) from None


def _open_s3_url(url: str, patience: Patience) -> S3Store:
    parsed = urlsplit(url)
    query = dict(parse_qsl(parsed.query))
    if not parsed.hostname or query.keys() - _S3_URL_OPTIONS:
        raise ValueError("no bucket, or an unknown option")
    keys: dict[str, Any] = {}
    if parsed.username and parsed.password:
        keys = {"access_key_id": unquote(parsed.username), "secret_access_key": unquote(parsed.password)}
    else:
        with suppress(ImportError):  # without botocore obstore finds credentials itself, but not in profiles
            import botocore.session

            keys = {"credential_provider": _credentials(botocore.session.Session())}
    other = query.get("endpoint_override")
    return _open_s3(
        parsed.hostname,
        parsed.path.strip("/"),
        region=query.get("region") or ("us-east-1" if other else ""),
        endpoint=other and f"{query.get('scheme', 'https')}://{other}",
        authority=query.get("tls_ca_file_path"),
        patience=patience,
        **keys,
    )


def open_bucket(profile: str, bucket: str, prefix: str) -> S3Store:
    """Open an S3 bucket with one AWS profile's settings, never those of the environment, without connecting.

    Raises:
        ConfigurationError: botocore is not installed.
        BucketError: The profile cannot be used.
    """
    try:
        import botocore.session
        from botocore.exceptions import BotoCoreError
    except ImportError:
        raise ConfigurationError(
            "Buckets on a real object store need botocore, which is not installed.",
            remedy="Install the extra: pip install 'cleanroom-pipelines[api]'.",
        ) from None
    try:
        session = botocore.session.Session(profile=profile)
        resolver = session.get_component("credential_provider")
        for name in _AMBIENT:
            resolver.remove(name)
        settings: dict[str, Any] = session.get_scoped_config()
        own = _section(session.full_config.get("services", {}).get(settings.get("services"), {}), "s3")
        return _open_s3(
            bucket,
            prefix,
            region=settings.get("region") or "us-east-1",
            endpoint=own.get("endpoint_url") or settings.get("endpoint_url"),
            style=_section(settings, "s3").get("addressing_style"),
            authority=session.get_config_variable("ca_bundle"),
            patience=PATIENCE,
            credential_provider=_credentials(session),
        )
    except BotoCoreError as error:
        raise _error("denied", type(error).__name__) from None
    except (BaseError, ValueError, OSError):
        raise BucketError("The bucket's credentials profile cannot be used.", remedy=_CHECK_PROFILE) from None


def _open_s3(
    bucket: str,
    prefix: str,
    *,
    region: str,
    endpoint: str | None,
    style: str | None = None,
    authority: str | None,
    patience: Patience,
    **keys: Any,
) -> S3Store:
    is_virtual = style == "virtual" or (style != "path" and not endpoint and "." not in bucket)
    address = endpoint or f"https://s3.{region}.amazonaws.com" + (".cn" if region.startswith("cn-") else "")
    urlsplit(address).port  # noqa: B018 - raises a ValueError if it is invalid
    if not (_REGION.fullmatch(region) and _ENDPOINT.fullmatch(address)):
        raise ValueError("obstore would panic on this region or address")
    client: dict[str, Any] = {"allow_http": address.startswith("http://")}
    if authority:
        client["root_certificate"] = Path(authority).read_bytes()
    # obstore takes settings that are missing here from the process's environment
    return S3Store(
        bucket,
        prefix=prefix or None,
        region=region,
        aws_endpoint_url_s3=address.replace("://", f"://{bucket}.", 1) if is_virtual else address,
        virtual_hosted_style_request=is_virtual,
        skip_signature=False,
        conditional_put="etag",
        checksum_algorithm="SHA256",  # required by buckets with an object lock
        disable_bulk_delete=True,
        **_waiting(patience, **client),
        **keys,
    )


def _section(settings: Any, name: str) -> dict[str, Any]:
    """Return a nested section of a configuration file; empty if it is missing or plain text."""
    found = settings.get(name)
    return found if isinstance(found, dict) else {}


def _waiting(patience: Patience, **client: Any) -> dict[str, Any]:
    longest = patience.n_tries * (patience.connect_seconds + patience.answer_seconds)
    return {
        "client_options": {
            "connect_timeout": timedelta(seconds=patience.connect_seconds),
            "read_timeout": timedelta(seconds=patience.answer_seconds),
            "timeout": timedelta(days=1),  # for a whole object of any size
            **client,
        },
        "retry_config": {"max_retries": patience.n_tries - 1, "retry_timeout": timedelta(seconds=longest)},
    }


def _credentials(session: Any) -> Callable[[], Any]:
    def provide() -> dict[str, Any]:
        from botocore.exceptions import NoCredentialsError

        found = session.get_credentials()
        if found is None:
            raise NoCredentialsError
        key = found.get_frozen_credentials()
        return {
            "access_key_id": key.access_key,
            "secret_access_key": key.secret_key,
            "token": key.token,
            # botocore renews credentials ten minutes before they expire
            "expires_at": datetime.now(UTC) + timedelta(minutes=5),
        }

    return provide


class RemoteBucket:
    """A bucket on a remote object store, or a prefix in it.

    Args:
        opening: Opens the store; called at its first use, and again after its credentials were rejected.
        scratch: Local folder for temporary files.
        prefix: Prefix that the store adds to every key, without a trailing slash.
    """

    def __init__(self, opening: Callable[[], Any], scratch: Path, prefix: str = "") -> None:
        self.prefix = prefix
        self._opening = opening
        self._opened: Any = None
        self._scratch = scratch

    def size(self, key: str) -> int | None:
        """Return the size of an object; None if it does not exist."""
        head = self._head(key)
        return None if head is None else int(head.meta["size"])

    def open(self, key: str, *, e_tag: str = "", start: int = 0, end: int | None = None) -> OpenedObject:
        """Open an object, or a range of its bytes; see Bucket.open."""
        options: Any = {"if_match": e_tag} if e_tag else {}
        if end is not None:
            options["range"] = (start, end)
        elif start:
            options["range"] = {"offset": start}
        with self._store() as store:
            found = obstore.get(store, key, options=options)
            first, stop = found.range
            return OpenedObject(stop - first, found.stream(CHUNK_BYTES), self._store)

    def find(self, key: str) -> ObjectEntry | None:
        """Return an object with all its properties; None if it does not exist."""
        head = self._head(key)
        return None if head is None else replace(_entry(head.meta), attributes=dict(head.attributes))

    def list_all(self, folder: str, *, after: str = "") -> Iterator[ObjectEntry]:
        """List all objects of a folder, including those whose keys are not safe file names on every disk.

        Raises:
            BucketError: The bucket cannot be read.
        """
        return self._list(folder, after)

    @staticmethod
    def has_key(key: str) -> bool:
        """Whether obstore can address a key without altering it; the object need not exist."""
        segments = key.split("/")
        return not {"", ".", ".."} & set(segments) and not any(ord(each) < 32 or ord(each) == 127 for each in key)

    def read_range(self, key: str, start: int, end: int) -> bytes:
        """Read a part of an object, from byte `start` to before byte `end`.

        Raises:
            NotFoundError: It does not exist.
            BucketError: The bucket cannot be read.
        """
        with self._store() as store:
            return bytes(obstore.get_range(store, key, start=start, end=end))

    def put(
        self,
        key: str,
        source: IO[bytes],
        *,
        attributes: Mapping[str, str] | None = None,
        e_tag: str = "",
        check: Callable[[], None] = lambda: None,
    ) -> None:
        """Write an object atomically; `e_tag` is ignored, because the store computes its own ETag.

        `check` is called just before the object becomes visible, so that it can abort the write.
        """
        n_bytes = source.seek(0, 2)
        source.seek(0)
        piece_bytes = max(_PIECE_BYTES, n_bytes // _MAX_PIECES + 1)

        def pieces() -> Iterator[bytes]:
            while piece := source.read(piece_bytes):
                yield piece
            check()  # an exception aborts the upload, and obstore deletes the uploaded pieces

        with self._store() as store:
            obstore.put(
                store,
                key,
                pieces(),
                attributes=dict(attributes or {}),
                use_multipart=n_bytes > piece_bytes,
                chunk_size=piece_bytes,
                max_concurrency=1,
            )

    def delete_object(self, key: str) -> None:
        """Delete an object, if it exists."""
        with suppress(NotFoundError), self._store() as store:
            obstore.delete(store, key)

    def list(self, folder: str, *, after: str = "", deep: bool = True) -> Iterator[ObjectEntry]:
        """List the objects of a folder whose keys are safe file names on every disk; see Bucket.list."""
        for entry in self._list(folder, after, deep):
            if all(map(is_plain_segment, entry.key.split("/"))):
                yield entry

    def names(self, folder: str) -> Sequence[str]:
        """List the names of folders and objects directly in a folder; empty if it does not exist.

        Raises:
            BucketError: The bucket cannot be read.
        """
        with self._store() as store:
            found = obstore.list_with_delimiter(store, folder or None)
        paths = {*found["common_prefixes"], *(each["path"] for each in found["objects"])} - {folder}
        return sorted(path.rsplit("/", 1)[-1] for path in paths)

    def delete(self, folder: str) -> None:
        """Delete the object with this key, and all objects below it.

        Raises:
            BucketError: The bucket cannot be written.
        """
        for key in (*[entry.key for entry in self._list(folder)], folder):
            self.delete_object(key)

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
        """Upload the files of a folder one by one, the completion marker last; see Bucket.drafting.

        Each object is labelled with its owner and attempt, so the markers of other attempts need not be read. Each
        attempt uses its own file names, so two attempts never write the same file. The marker, which they share,
        is written only if no later attempt has written it.
        """
        self._reject_others(folder, owner, fence)
        scratch = Path(tempfile.mkdtemp(prefix=".export-", dir=self._scratch))
        labels = {_OWNER: owner, _ATTEMPT: str(fence.attempt), _WRITER: scratch.name}
        draft = _RemoteDraft(self, folder, marker=marker, scratch=scratch, labels=labels, fence=fence)
        try:
            yield draft
        except BaseException as error:
            if isinstance(error, ClaimLostError) and not fence.attempt:
                raise  # without an attempt number, another writer may use the same keys by now
            # Suppressed, since the original error matters more and the store may fail again. Without a marker,
            # readers ignore the files, and the next attempt replaces them.
            with suppress(Exception):
                draft.discard()
            raise
        finally:
            shutil.rmtree(scratch, ignore_errors=True)

    def _reject_others(self, folder: str, owner: str, fence: Fence, but: Collection[str] = ()) -> set[str]:
        """Return the keys that the owner's earlier attempts wrote in a folder; reject a folder with other objects.

        Raises:
            BucketError: The folder has other objects.
            ClaimLostError: A later attempt has written there.
        """
        found = [*islice(self._list(folder), MAX_FILES_OF_A_FOLDER + 1)]
        if len(found) > MAX_FILES_OF_A_FOLDER:
            raise BucketError(
                "The folder already contains many other objects.",
                remedy="Delete these objects, or use another destination.",
                problem="in the way",
            )
        there = {entry.key for entry in found} - set(but)
        for key in there:
            self._reject_other(self._head(key), owner, fence)
        return there

    def _reject_other(self, head: Any, owner: str, fence: Fence) -> None:
        if head is None:
            return  # it does not exist, or was deleted meanwhile
        if head.attributes.get(_OWNER) != owner:
            raise BucketError(
                "The folder already contains other objects.",
                remedy="Delete these objects, or use another destination.",
                problem="in the way",
            )
        if _attempt_of(head) > fence.attempt:
            raise later_attempt()

    def _list(self, folder: str, after: str = "", deep: bool = True) -> Iterator[ObjectEntry]:
        with self._store() as store:
            pages: Iterator[Sequence[Any]]
            if deep:
                pages = iter(obstore.list(store, folder or None, offset=after or None, chunk_size=_PAGE))
            else:
                flat = obstore.list_with_delimiter(store, folder or None)["objects"]
                found = sorted(flat, key=lambda each: each["path"].encode())
                pages = iter([[each for each in found if each["path"].encode() > after.encode()]])
        while True:
            with self._store():
                page = next(pages, None)
            if page is None:
                return
            # consoles create an empty object named like the folder
            yield from (_entry(each) for each in page if each["path"] != folder)

    def _is_by(self, labels: dict[str, str], key: str) -> bool:
        """Whether the object at a key was written by the writer named in `labels`."""
        head = self._head(key)
        return head is not None and head.attributes.get(_WRITER) == labels[_WRITER]

    def _put_marker(self, key: str, path: Path, labels: dict[str, str], fence: Fence) -> None:
        """Write the completion marker, unless another writer has changed it since it was last read.

        Raises:
            ClaimLostError: A later attempt has written it.
            BucketError: Another owner has written it, or the bucket cannot be written.
        """
        is_conditional = True
        for _ in range(_TRIES):
            head = self._head(key)
            if head is not None and head.attributes.get(_WRITER) == labels[_WRITER]:
                return  # it was written, only the response was lost
            self._reject_other(head, labels[_OWNER], fence)
            seen = head and {name: head.meta[name] for name in ("e_tag", "version") if head.meta[name]}
            try:
                with self._store() as store:
                    mode: Any = (seen or "create") if is_conditional else "overwrite"
                    obstore.put(store, key, path.read_bytes(), attributes=labels, mode=mode, use_multipart=False)
                return
            except BucketError as error:
                if error.problem == "unreachable" and self._is_by(labels, key):
                    return
                if error.problem not in ("changed", "not implemented"):
                    raise
                is_conditional = error.problem == "changed"
        raise BucketError("The object store's responses contradict each other.", remedy="Start the export again.")

    def _head(self, key: str) -> Any:
        try:
            with self._store() as store:
                return obstore.get(store, key, options={"head": True})
        except NotFoundError:
            return None

    @contextmanager
    def _store(self) -> Iterator[Any]:
        """Yield the store; convert its errors to this package's errors, which give only a code or class name."""
        try:
            if self._opened is None:
                self._opened = self._opening()
            yield self._opened
        except CleanroomError:
            raise
        except (BaseError, FileNotFoundError, ValueError) as error:
            translated = _translated(error)
            if isinstance(translated, BucketError) and translated.problem == "denied":
                self._opened = None
            raise translated from None


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
            earlier = self._bucket._reject_others(self._folder, owner, self._fence, but=self._written)
            self._fence.commit()
            for stale in sorted(earlier - {key}):
                self._bucket.delete_object(stale)
            self._bucket._put_marker(key, path, self._labels, self._fence)
        else:
            self._written.add(key)
            with path.open("rb") as source:
                self._bucket.put(key, source, attributes=self._labels, check=self._fence.check)
        path.unlink()

    def discard(self) -> None:
        """Delete the files that this attempt wrote, unless its completion marker was written.

        Only this attempt's marker counts. Without an attempt number, any marker counts, since other writers may
        have written the same keys.
        """
        marker = self._bucket._head(f"{self._folder}/{self._marker}")
        if marker is not None and self._fence.attempt in (0, _attempt_of(marker)):
            return
        for key in sorted(self._written):
            if self._bucket._is_by(self._labels, key):
                self._bucket.delete_object(key)


def _entry(meta: Any) -> ObjectEntry:
    e_tag = meta["e_tag"] or ""
    if e_tag and not e_tag.endswith('"'):
        e_tag = f'"{e_tag}"'  # Azure lists it without its quotes
    return ObjectEntry(meta["path"], meta["size"], e_tag, meta["last_modified"])


def _attempt_of(head: Any) -> int:
    number = head.attributes.get(_ATTEMPT, "")
    return int(number) if number.isdecimal() else 0  # labels from before 2026-11-29 are not numbers


def _translated(error: Exception) -> CleanroomError:
    text = str(error)
    status, code, cause = _STATUS.search(text), _CODE.search(text), _CAUSE.search(text)
    number, what = int(status[1]) if status else 0, type(error).__name__
    if found := code or status or cause:
        what = found[found.lastindex or 0]
    if isinstance(error, FileNotFoundError) and what != "NoSuchBucket":
        return NotFoundError("The object does not exist in the bucket.", remedy="Check its key.")
    return _error(_problem_of(number, what, error), what)


def _error(problem: str, what: str) -> BucketError:
    message, remedy = _PROBLEMS[problem]
    return BucketError(f"{message} ({what}).", remedy=remedy, problem=problem.replace("failing", "unreachable"))


def _problem_of(number: int, what: str, error: Exception) -> str:
    if "configured region" in str(error) or what == "AuthorizationHeaderMalformed":
        return "region"
    if isinstance(error, AlreadyExistsError | PreconditionError):
        return "changed"
    if number in (401, 403) or what in _EXPIRED or isinstance(error, UnauthenticatedError):
        return "denied"
    if number >= 500 and number != 501:
        return "failing"
    by_number = {404: "no bucket", 409: "changed", 429: "failing", 501: "not implemented"}
    otherwise = "failed" if number or isinstance(error, InvalidPathError) else "unreachable"
    return by_number.get(number, otherwise)


_CHECK_PROFILE = "Check the bucket's credentials profile in the AWS configuration files."
_PROBLEMS = {
    "changed": ("Another writer changed the object meanwhile", "Try again."),
    "denied": (
        "The bucket's store rejected the bucket's credentials, or they lack permission",
        _CHECK_PROFILE,
    ),
    "failed": (
        "The bucket's store rejected the request, or contains a key such as a//b",
        "Check the bucket on its store.",
    ),
    "failing": ("The bucket's store reports a server error", "Try again when it is available."),
    "no bucket": (
        "The bucket does not exist on its store",
        "Create it there, or register the bucket with another URL.",
    ),
    "not implemented": ("The bucket's store does not support this request", "Use another store."),
    "region": ("The bucket is not in the region of its profile", _CHECK_PROFILE),
    "unreachable": (
        "The bucket's store cannot be reached",
        "Check the endpoint_url of the bucket's credentials profile, and that the store is up.",
    ),
}
