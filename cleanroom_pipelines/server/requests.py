"""A request as it came, and the answer to it.

Lives here: the two values that the parts of the server exchange.
Keep out: the web server itself (`gateway.py`).
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

Headers = list[tuple[str, str]]


@dataclass(frozen=True)
class Request:
    """What came before the body.

    Args:
        id: A UUID that the answer carries.
        method: HTTP method.
        raw_path: Still percent-encoded.
        raw_query: What stood after `?`, still percent-encoded.
        headers: As they came, a repeated header several times.
    """

    id: str
    method: str
    raw_path: str
    raw_query: str
    headers: Headers = field(repr=False)

    def header(self, name: str) -> str | None:
        """The first header of a name, in any case."""
        return next((value for key, value in self.headers if key.lower() == name), None)


@dataclass(frozen=True)
class Reply:
    """What is sent back.

    Args:
        status: HTTP status.
        headers: Without the length.
        body: All of it.
        chunks: More of it, a piece at a time, instead of `body`.
        n_bytes: How much `chunks` give.
        close: Called when everything was sent, or nobody wants it any more.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes = b""
    chunks: Iterable[bytes] | None = None
    n_bytes: int = 0
    close: Callable[[], None] = lambda: None
