"""The requests and replies that the parts of the server exchange.

Lives here: `Request` and `Reply`, and one token bucket per account, in this process.
Keep out: the web server itself (`gateway.py`).
"""

import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock

from cleanroom_pipelines.storage.vault import chunks_of

Headers = list[tuple[str, str]]


@dataclass(frozen=True)
class Request:
    """A request without its body.

    Args:
        id: A UUID, which the response repeats.
        method: HTTP method.
        raw_path: The path, still percent-encoded.
        raw_query: The query string after `?`, still percent-encoded.
        headers: The headers as received; a repeated header occurs several times.
        is_secure: Whether it arrived over TLS: here, or at a proxy that states so in X-Forwarded-Proto.
        is_private: Whether it came over TLS or from this machine.
        is_local: Whether it came from this machine, and not through a proxy.
        client: The address that it came from; empty if unknown.
    """

    id: str
    method: str
    raw_path: str
    raw_query: str
    headers: Headers = field(repr=False)
    is_secure: bool = False
    is_private: bool = False
    is_local: bool = False
    client: str = field(default="", repr=False)

    def header(self, name: str) -> str | None:
        """Return the first header with a name, ignoring case; None if it is missing."""
        return next((value for key, value in self.headers if key.lower() == name), None)

    @property
    def origin(self) -> str:
        """Scheme, host and port of the address that the client opened."""
        return f"{'https' if self.is_secure else 'http'}://{self.header('host') or ''}"

    @property
    def has_two_lengths(self) -> bool:
        """Whether two headers state the body's length; a proxy could then cut it elsewhere (request smuggling)."""
        return bool(self.header("transfer-encoding") and self.header("content-length"))


@dataclass(frozen=True)
class Reply:
    """A response to send.

    Args:
        status: HTTP status.
        headers: The headers, without Content-Length.
        body: The whole body.
        chunks: The body in chunks, instead of `body`.
        n_bytes: Total size of `chunks`.
        close: Called when the response was sent, or the client has disconnected.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes = b""
    chunks: Iterable[bytes] | None = None
    n_bytes: int = 0
    close: Callable[[], None] = lambda: None


def send_file(opening: AbstractContextManager[Path], headers: Mapping[str, str]) -> Reply:
    """Return a reply with the content of a file, which stays open until the reply was sent."""
    with ExitStack() as stack:
        path = stack.enter_context(opening)
        chunks = chunks_of(stack.enter_context(path.open("rb")))
        return Reply(200, headers, chunks=chunks, n_bytes=path.stat().st_size, close=stack.pop_all().close)


_BURST_SECONDS = 2.0


class RateLimit:
    """Token bucket per account: a steady request rate, with bursts of up to two seconds' worth of requests.

    Args:
        per_second: Requests per second and account.
        clock: Monotonic clock, in seconds.
        burst: Requests that may be sent at once; None for those of two seconds.
    """

    def __init__(
        self, per_second: float, clock: Callable[[], float] = time.monotonic, burst: float | None = None
    ) -> None:
        self._per_second = per_second
        self._most = burst or max(1.0, per_second * _BURST_SECONDS)
        self._clock = clock
        self._left: dict[str, tuple[float, float]] = {}
        self._lock = Lock()

    def allows(self, account_id: str) -> bool:
        """Check whether an account may send a request now, and count the request if so.

        All accounts are kept, because they are few.
        """
        with self._lock:
            now = self._clock()
            left, at = self._left.get(account_id, (self._most, now))
            left = min(self._most, left + (now - at) * self._per_second)
            self._left[account_id] = (left - 1.0 if left >= 1.0 else left, now)
            return left >= 1.0
