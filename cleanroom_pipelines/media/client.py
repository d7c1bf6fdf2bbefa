"""The client, and the transports that connect it to the server.

Lives here: `Client`, the `Transport` protocol, the HTTP transport, and uploads.
Add here when the client gets another call that does not belong to a data room.
Keep out: data rooms (`media.py`), data labs (`data_lab.py`), and all decisions, which the server makes.
"""

import os
import re
import ssl
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, BinaryIO, Protocol, Self
from urllib.parse import quote, urlsplit

from cleanroom_pipelines.errors import CleanroomError
from cleanroom_pipelines.media.api import matching_id as as_matching_id
from cleanroom_pipelines.media.errors import (
    InvalidRequestError,
    MediaError,
    ServerError,
    ServerUnavailableError,
)
from cleanroom_pipelines.media.protocol import PREFIX, UPLOADS, Method, as_media_error, error_from_dict, file_path
from cleanroom_pipelines.terms import MatchingId

if TYPE_CHECKING:
    import httpx

_TOKEN = re.compile(r"[\x21-\x7e]{1,4096}")
_LOOPBACK = {"localhost", "127.0.0.1", "::1"}
_MOST_ATTEMPTS = 5
_FIRST_PAUSE_SECONDS = 0.2
_MOST_PAUSE_SECONDS = 30.0
_CONNECT_SECONDS = 10.0
# Shorter than the server's idle timeout of 5 seconds: a request on a connection that the server just closed gets
# no response, so the client cannot know whether it was executed.
_IDLE_SECONDS = 3.0
# the server may need a while to check an upload before it responds
_UPLOAD_SECONDS = 600.0
_CHUNK = 1 << 20
_SPOOLED_BYTES = 64 << 20


class Transport(Protocol):
    """How a client reaches the server: over HTTP, or within this process."""

    def call(self, method: str, params: dict[str, Any]) -> Any:
        """Call a method of the protocol and return its result.

        Raises:
            CleanroomError: The call was rejected or failed.
        """

    def upload(self, source: Path | BinaryIO, name: str) -> dict[str, Any]:
        """Upload a file and return `{"manifest_hash", "name", "n_bytes"}`; a stream is read from its start."""

    def download(self, job_id: str, name: str) -> Iterator[bytes]:
        """Yield a job's file in chunks of bytes."""

    def close(self) -> None:
        """Release all open resources."""


class HttpTransport:
    """Transport over HTTP to `cleanroom serve`.

    Reads are retried when the connection fails. Writes are retried only if they certainly never arrived, or the
    server rejected them unprocessed.

    Args:
        url: The server's address, for example `https://cleanroom.example`.
        token: The token that the operator issued; it is never displayed.
        timeout: Seconds to wait for a response.
        verify: Whether to check the server's certificate, or the path of a CA file to check it with.
        sleep: Function that waits for a number of seconds.

    Raises:
        InvalidRequestError: The address or the token is invalid.
    """

    def __init__(
        self,
        url: str,
        token: str,
        *,
        timeout: float = 60.0,
        verify: bool | str | Path = True,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        import httpx

        self.url, host = _checked_url(url)
        if not isinstance(token, str) or not _TOKEN.fullmatch(token):
            raise InvalidRequestError(
                "The token is malformed.", remedy="Give it exactly as the operator of the clean room issued it."
            )
        local = host in _LOOPBACK
        if self.url.startswith("http:") and not local:
            warnings.warn("The token is sent unencrypted. Use an https address for the server.", stacklevel=3)
        check: bool | ssl.SSLContext = (
            verify if isinstance(verify, bool) else ssl.create_default_context(cafile=str(verify))
        )
        self._sleep = sleep
        self._http = httpx.Client(
            base_url=self.url,
            headers={"Authorization": f"Bearer {token}", "User-Agent": "cleanroom-media"},
            timeout=httpx.Timeout(timeout, connect=min(timeout, _CONNECT_SECONDS)),
            limits=httpx.Limits(keepalive_expiry=_IDLE_SECONDS),
            verify=check,
            follow_redirects=False,  # never send the token to another server
            trust_env=not local,  # a proxy cannot reach this machine's loopback
        )

    def __repr__(self) -> str:
        return f"HttpTransport({self.url!r})"

    def call(self, method: str, params: dict[str, Any]) -> Any:
        """Call a method of the protocol and return its result."""
        request = self._http.build_request("POST", f"{PREFIX}/{method}", json=params)
        return self._result(lambda: self._send(request), repeatable=Method(method).only_reads)

    def upload(self, source: Path | BinaryIO, name: str) -> dict[str, Any]:
        """Upload a file to the server."""
        with source.open("rb") if isinstance(source, Path) else nullcontext(source) as stream:
            n_bytes = stream.seek(0, os.SEEK_END)

            def send() -> "httpx.Response":
                stream.seek(0)
                request = self._http.build_request(
                    "PUT",
                    UPLOADS,
                    params={"name": name},
                    content=iter(lambda: stream.read(_CHUNK), b""),
                    headers={"Content-Length": str(n_bytes), "Content-Type": "application/octet-stream"},
                    timeout=_UPLOAD_SECONDS,
                )
                return self._send(request)

            # the server names a file by its content, so repeating an upload has no further effect
            result = self._result(send, repeatable=True)
        if not isinstance(result, dict) or not isinstance(result.get("manifest_hash"), str):
            raise _not_understood(200)
        return result

    def download(self, job_id: str, name: str) -> Iterator[bytes]:
        """Yield a job's file in chunks of bytes."""
        path = file_path(quote(job_id, safe=""), quote(name, safe=""))
        response = self._answer(
            lambda: self._send(self._http.build_request("GET", path), stream=True), repeatable=True
        )
        try:
            if response.status_code != 200:
                with _http_errors():
                    response.read()
                raise _error_from(response)
            with _http_errors():
                yield from response.iter_bytes(_CHUNK)
        finally:
            response.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def _result(self, send: Callable[[], "httpx.Response"], *, repeatable: bool) -> Any:
        response = self._answer(send, repeatable=repeatable)
        if response.status_code != 200:
            raise _error_from(response)
        body = _json(response)
        if not isinstance(body, dict) or "result" not in body:
            raise _not_understood(200)
        return body["result"]

    def _answer(self, send: Callable[[], "httpx.Response"], *, repeatable: bool) -> "httpx.Response":
        pause = _FIRST_PAUSE_SECONDS
        for attempt in range(1, _MOST_ATTEMPTS + 1):
            is_last = attempt == _MOST_ATTEMPTS
            wait = pause
            try:
                response = send()
            except _NeverSentError as error:
                if is_last:
                    raise ServerUnavailableError(error.message, remedy=error.remedy) from None
            except ServerUnavailableError:
                if is_last or not repeatable:
                    raise
            else:
                slow_down = response.status_code == 429
                if is_last or not (slow_down or (repeatable and response.status_code in (502, 503, 504))):
                    return response
                wait = max(pause, _retry_after(response))
                response.close()
            self._sleep(min(wait, _MOST_PAUSE_SECONDS))
            pause *= 2
        raise AssertionError("the last attempt returns or raises")

    def _send(self, request: "httpx.Request", *, stream: bool = False) -> "httpx.Response":
        with _http_errors():
            return self._http.send(request, stream=stream)


class _NeverSentError(ServerUnavailableError):
    """The request was never sent, because the connection could not be opened."""


class Client:
    """A client of the data-room (Media) API: calls the server on behalf of one user.

    Args:
        url: The server's address, for example `https://cleanroom.example`.
        token: The token that the operator issued for the caller's e-mail address.
        home: For the operator and for tests: a home on this machine, instead of `url` and `token`. The same
            handlers then run in this process.
        user_email: The e-mail address that the operator acts as; required with `home`.
        timeout: Seconds to wait for a response, with `url`.
        verify: Whether to check the server's certificate, or the path of a CA file to check it with.
        sleep: Function that waits for a number of seconds before a retry, with `url`.

    Raises:
        InvalidRequestError: Neither an address with a token nor a home with an e-mail address was given.
    """

    def __init__(
        self,
        url: str | None = None,
        token: str | None = None,
        *,
        home: str | Path | None = None,
        user_email: str | None = None,
        timeout: float = 60.0,
        verify: bool | str | Path = True,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        if (url is None) == (home is None):
            raise InvalidRequestError(
                "A client needs either the address of a server or a home folder, not both.",
                remedy="Give `url` and `token`, or `home` and `user_email`.",
            )
        self._transport: Transport
        if url is not None:
            if token is None:
                raise InvalidRequestError("`token` is missing.", remedy="Give the token that the operator issued.")
            self._transport = HttpTransport(url, token, timeout=timeout, verify=verify, sleep=sleep)
            self._place = self._transport.url
        else:
            if user_email is None:
                raise InvalidRequestError(
                    "`user_email` is missing.", remedy="Give `user_email` together with `home`."
                )
            self._transport = _open_local(str(home), user_email)
            self._place = "this process"

    def __repr__(self) -> str:
        return f"Client({self._place!r})"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Release all open resources."""
        self._transport.close()

    @cached_property
    def email(self) -> str:
        """The e-mail address that the server identifies the caller by."""
        return str(self.call(Method.WHOAMI)["email"])

    def get_data_rooms(self) -> list["DataRoomSummary"]:
        """Return the data rooms in which the caller participates."""
        rooms = self.call(Method.LIST_ROOMS)["rooms"]
        return [DataRoomSummary(room["id"], room["name"], room.get("created_at")) for room in rooms]

    def upload_dataset(
        self,
        data: Any,
        key: object = None,
        file_name: str | None = None,
        /,
        *,
        name: str | None = None,
        matching_id: MatchingId | None = None,
        description: str = "",
        chunk_size: int | None = None,
        parallel_uploads: int | None = None,
        usage: object = None,
        secret_store_options: object = None,
        is_accessory: bool = False,
    ) -> "ManifestHash":
        """Upload a file and return the hash that identifies it in data rooms and data labs.

        Args:
            data: A path, an open file, or a pandas, polars or pyarrow table, which is sent as CSV. The server
                accepts CSV (UTF-8, no header), gzipped CSV, and Parquet.
            key: Ignored; the server encrypts uploads with its own keys.
            file_name: Its name in reports; the file's own name by default.
            name: The same, as a keyword.
            matching_id: Its kind of matching ids, for a room that accepts several.
            description: Ignored.
            chunk_size: Ignored.
            parallel_uploads: Ignored.
            usage: Ignored.
            secret_store_options: Ignored.
            is_accessory: Ignored.

        Raises:
            InvalidRequestError: The data is neither a file nor a table.
            UploadTooLargeError: The file exceeds the server's upload limit.
        """
        with _readable(data) as (source, own_name), _media_errors():
            upload = self._transport.upload(source, file_name or name or own_name)
        hash_ = ManifestHash(upload["manifest_hash"])
        hash_.matching_id = None if matching_id is None else as_matching_id(matching_id)
        return hash_

    def call(self, method: Method, **params: Any) -> Any:
        """Call a method of the protocol; intended only for the classes of this package.

        Raises:
            MediaError: The call was rejected or failed.
        """
        with _media_errors():
            return self._transport.call(method.value, params)

    def download(self, job_id: str, name: str) -> Iterator[bytes]:
        """Yield a job's file in chunks of bytes; the job's result lists its files."""
        with _media_errors():
            yield from self._transport.download(job_id, name)


@dataclass(frozen=True)
class DataRoomSummary:
    """A data room in a listing; open it with `MediaDcr.from_existing`."""

    id: str
    name: str
    created_at: str | None = None


class ManifestHash(str):
    """The hash of an uploaded file, with the file's kind of matching ids."""

    matching_id: MatchingId | None = None


def _open_local(home: str, user_email: str) -> Transport:
    # imported here, since it loads the whole server
    from cleanroom_pipelines.server.media import service as server  # type: ignore[attr-defined, unused-ignore]

    with _media_errors():
        transport: Transport = server.open_local(home, user_email)
    return transport


@contextmanager
def _media_errors() -> Iterator[None]:
    try:
        yield
    except CleanroomError as error:
        if isinstance(error, MediaError):
            raise
        raise as_media_error(error) from None


@contextmanager
def _http_errors() -> Iterator[None]:
    """Translate httpx errors into Media API errors, because httpx errors contain the request with its token."""
    import httpx

    try:
        yield
    except httpx.ConnectError as error:
        if "CERTIFICATE" in str(error).upper():
            raise ServerUnavailableError(
                "The server's certificate is not trusted.",
                remedy="Set `verify` to the certificate file of the authority that signed it.",
            ) from None
        raise _NeverSentError(
            "The server cannot be reached.", remedy="Check the address, and that the server is running."
        ) from None
    except (httpx.ConnectTimeout, httpx.PoolTimeout):
        raise _NeverSentError(
            "Connecting to the server timed out.", remedy="Check the address and try again."
        ) from None
    except httpx.TimeoutException:
        raise ServerUnavailableError(
            "The server did not respond in time.",
            remedy="The request may have been executed. Check its effect before trying again.",
        ) from None
    except (httpx.HTTPError, httpx.StreamError) as error:
        raise ServerUnavailableError(
            f"The connection to the server failed ({type(error).__name__}).",
            remedy="The request may have been executed. Check its effect before trying again.",
        ) from None


def _error_from(response: "httpx.Response") -> MediaError:
    if 300 <= response.status_code < 400:
        return InvalidRequestError(
            "The server redirects to another address, and redirects are not followed.",
            remedy="Give the final address of the server.",
        )
    body = _json(response)
    return error_from_dict(body.get("error") if isinstance(body, dict) else None, status=response.status_code)


def _json(response: "httpx.Response") -> Any:
    with suppress(ValueError):
        return response.json()
    return None


def _not_understood(status: int) -> ServerError:
    return ServerError(
        f"The server sent an unexpected response with status {status}.",
        remedy="Check that the address is that of a clean room server.",
    )


def _retry_after(response: "httpx.Response") -> float:
    with suppress(ValueError):
        return max(0.0, float(response.headers.get("Retry-After", "")))
    return 0.0


def _checked_url(url: str) -> tuple[str, str]:
    parts, host = None, None
    with suppress(ValueError, AttributeError, TypeError):
        parts = urlsplit(url)
        if parts.port != 0:  # reading the port also checks that it is a number
            host = parts.hostname
    if parts is None or parts.scheme not in ("http", "https") or not host:
        raise InvalidRequestError("The server's address is invalid.", remedy="Give https://host or http://host.")
    if parts.username or parts.password or parts.query or parts.fragment:
        raise InvalidRequestError(
            "The server's address contains credentials, a query or a fragment.",
            remedy="Remove them from the address.",
        )
    return url.rstrip("/"), host


@contextmanager
def _readable(data: Any) -> Iterator[tuple[Path | BinaryIO, str]]:
    """Yield the data as a local path or a seekable stream, and its default name."""
    if isinstance(data, str | os.PathLike):
        path = Path(data)
        if not path.is_file():
            raise InvalidRequestError("The dataset's file does not exist.", remedy="Check the path.")
        yield path, path.name
        return
    with tempfile.SpooledTemporaryFile(_SPOOLED_BYTES) as spooled:
        if hasattr(data, "read"):
            own_name = Path(str(getattr(data, "name", "dataset.csv"))).name
            for chunk in iter(lambda: data.read(_CHUNK), None):
                if not chunk:
                    break
                spooled.write(chunk.encode() if isinstance(chunk, str) else chunk)
        else:
            own_name = "dataset.csv"
            _write_table(data, spooled)
        spooled.seek(0)
        yield spooled, own_name  # type: ignore[misc]


def _write_table(table: Any, sink: IO[bytes]) -> None:
    if hasattr(table, "to_csv"):  # pandas
        table.to_csv(sink, header=False, index=False)
    elif hasattr(table, "write_csv"):  # polars
        table.write_csv(sink, include_header=False)
    elif hasattr(table, "to_batches") and hasattr(table, "schema"):  # pyarrow
        from pyarrow import csv

        csv.write_csv(table, sink, csv.WriteOptions(include_header=False))
    else:
        raise InvalidRequestError(
            "The data is neither a file nor a table.", remedy="Give a path, an open file or a data frame."
        )
