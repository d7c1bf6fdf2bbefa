"""The ASGI application, which routes requests to the APIs.

Lives here: reading requests within their limits, routing them by path, and sending responses.
Add here when another API is served.
Keep out: the APIs themselves, and starting the server (`starting.py`).
"""

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from dataclasses import dataclass, replace
from ipaddress import IPv4Network, IPv6Network, ip_address
from typing import Any, Protocol
from urllib.parse import urlsplit

import anyio.to_thread

from cleanroom_pipelines.aws import wire
from cleanroom_pipelines.aws.answers import ApiError
from cleanroom_pipelines.aws.signing import is_for_s3
from cleanroom_pipelines.media.protocol import PREFIX as MEDIA_PREFIX
from cleanroom_pipelines.server.lookalike_api import LookalikeApi
from cleanroom_pipelines.server.media_api import MAX_BODY_BYTES, MediaApi
from cleanroom_pipelines.server.metrics import METRICS, Metrics
from cleanroom_pipelines.server.requests import Reply, Request
from cleanroom_pipelines.server.s3.api import S3Api

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

HEALTH = "/_cleanroom/health"
_WITHOUT_BODY = (204, 304)
_OF_PROXIES = (b"forwarded", b"via", b"x-forwarded-for", b"x-forwarded-host", b"x-forwarded-proto", b"x-real-ip")
_SLOWEST_UPLOAD = 10_000  # bytes per second


class ReceivedBody(Protocol):
    """Receiver of a request body of any size; `S3Exchange` documents the methods."""

    def take(self, chunk: bytes) -> Reply | None: ...  # noqa: D102
    def finish(self) -> Reply: ...  # noqa: D102
    def give_up(self) -> Reply: ...  # noqa: D102
    def discard(self) -> None: ...  # noqa: D102


class Site(Protocol):
    """A website for browsers, such as the console."""

    most_bytes: int

    def serves(self, request: Request) -> bool:
        """Whether a request is for a page of this site."""

    def answer(self, request: Request, body: bytes) -> Reply:
        """Answer a request whose body has been received completely."""

    def begin(self, request: Request) -> ReceivedBody | Reply:
        """Start receiving a form that may contain files."""

    def reject(self, request: Request, status: int) -> Reply:
        """Reject a request that was not received completely, and close its connection."""


class _DisconnectedError(Exception):
    """The client disconnected before its request was complete."""


@dataclass(frozen=True)
class Gateway:
    """The ASGI application that uvicorn runs; it uses no web framework, because it must route undecoded paths.

    Args:
        api: The lookalike (AWS) API.
        s3: The S3 API; it gets every request whose signature has the scope of S3.
        media: The data-room (Media) API.
        metrics: The metrics, which also count requests.
        new_id: Returns a new UUID for each request.
        seconds_for_body: Time limit for a body; an upload gets another second for each 10,000 bytes.
        site: The pages; None for APIs only.
        private_networks: Networks in which no third party can read a connection, even without TLS.
    """

    api: LookalikeApi
    s3: S3Api
    media: MediaApi
    metrics: Metrics
    new_id: Callable[[], str]
    seconds_for_body: float = 60.0
    site: Site | None = None
    private_networks: Sequence[IPv4Network | IPv6Network] = ()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one ASGI connection; websockets are rejected."""
        if scope["type"] == "lifespan":
            await _live(receive, send)
        elif scope["type"] == "http":
            try:
                await _send(send, await self._reply_once(scope, receive))
            except _DisconnectedError:
                return
        else:
            await send({"type": "websocket.close", "code": 1003})

    async def _reply_once(self, scope: Scope, receive: Receive) -> Reply:
        """Handle one request; close its connection if the client still waits for permission to send the body.

        Such a client, as every AWS SDK is when it uploads, does not send the body of a request that was rejected.
        On a kept connection the beginning of its next request would be read as that body.
        """
        waits = any(name == b"expect" for name, _ in scope["headers"])

        async def receive_body() -> Any:
            nonlocal waits
            waits = False  # reading the body gives the permission
            return await receive()

        reply = await self._reply(scope, receive_body)
        return replace(reply, headers={**reply.headers, "Connection": "close"}) if waits else reply

    async def _reply(self, scope: Scope, receive: Receive) -> Reply:
        request = Request(
            id=self.new_id(),
            method=scope["method"],
            raw_path=scope["raw_path"].decode("latin-1"),
            raw_query=scope["query_string"].decode("latin-1"),
            headers=[(name.decode("latin-1"), value.decode("latin-1")) for name, value in scope["headers"]],
            is_secure=scope.get("scheme") == "https",
            is_private=self._is_private(scope),
            is_local=_is_local(scope),
            client=(scope.get("client") or ("",))[0],
        )
        is_s3 = is_for_s3(request.header("authorization") or "", request.raw_query)
        if is_s3:
            reply = await self._upload(self.s3.begin, request, receive)
        elif request.raw_path == METRICS and request.method == "GET":
            reply = await self._measure(request, is_local=_is_local(scope))
        else:
            reply = await self._other(request, receive)
        self.metrics.count(request.raw_path, reply.status, is_s3=is_s3)
        return reply

    def _is_private(self, scope: Scope) -> bool:
        """Whether a connection is safe from eavesdropping: it uses TLS, is local, or is from a private network."""
        if scope.get("scheme") == "https" or _is_direct(scope):
            return True
        return not _is_proxied(scope) and _is_within(scope.get("client"), self.private_networks)

    async def _measure(self, request: Request, *, is_local: bool) -> Reply:
        if not self.metrics.admits(request.header("authorization") or "", is_local=is_local):
            message = "Send the metrics token. If none is set, send the request from the server's own machine."
            return await self._reject(request, message, status=403, ends=True)
        content_type, body = await anyio.to_thread.run_sync(self.metrics.render)
        return Reply(200, {"Content-Type": content_type, "Cache-Control": "no-store"}, body)

    async def _other(self, request: Request, receive: Receive) -> Reply:
        if request.raw_path == HEALTH:
            return Reply(200, {"Content-Type": "application/json"}, b'{"status":"ok"}')
        if request.has_two_lengths:
            return await self._reject(
                request, "The request has both Transfer-Encoding and Content-Length headers.", ends=True
            )
        return await self._route(request, receive)

    async def _route(self, request: Request, receive: Receive) -> Reply:
        if request.raw_path.startswith(f"{MEDIA_PREFIX}/"):
            if request.method == "PUT":
                return await self._upload(self.media.begin, request, receive)
            return await self._call_media(request, receive)
        if self.site is not None and self.site.serves(request):
            return await self._show(self.site, request, receive)
        return await self._call(request, receive)

    async def _show(self, site: Site, request: Request, receive: Receive) -> Reply:
        if (request.header("content-type") or "").lower().startswith("multipart/form-data"):
            return await self._upload(site.begin, request, receive)
        try:
            body = await _body(receive, site.most_bytes, self.seconds_for_body)
        except TimeoutError:
            return await anyio.to_thread.run_sync(site.reject, request, 408)
        if body is None:
            return await anyio.to_thread.run_sync(site.reject, request, 413)
        return await anyio.to_thread.run_sync(site.answer, request, body)

    async def _call_media(self, request: Request, receive: Receive) -> Reply:
        try:
            body = await _body(receive, MAX_BODY_BYTES, self.seconds_for_body)
        except TimeoutError:
            return self.media.reject(request, "The body took too long to arrive.", status=408, ends=True)
        if body is None:
            message = f"The body is larger than {MAX_BODY_BYTES:,} bytes."
            return self.media.reject(request, message, status=400, ends=True)
        return await anyio.to_thread.run_sync(self.media.answer, request, body)

    async def _call(self, request: Request, receive: Receive) -> Reply:
        try:
            body = await _body(receive, wire.MAX_BODY_BYTES, self.seconds_for_body)
        except TimeoutError:
            return await self._reject(request, "The body took too long to arrive.", status=408, ends=True)
        if body is None:
            return await self._reject(request, f"The body is larger than {wire.MAX_BODY_BYTES:,} bytes.")
        return await anyio.to_thread.run_sync(self.api.answer, request, body)

    async def _reject(self, request: Request, message: str, *, status: int = 400, ends: bool = False) -> Reply:
        """Reject a request before its signature is checked; `ends` also closes the connection."""
        headers = {"Connection": "close"} if ends else {}
        error = ApiError(
            "ValidationException", message, status=status, headers=headers, reason="request not understood"
        )
        return await anyio.to_thread.run_sync(self.api.reject, request, error)

    async def _upload(
        self, begin: Callable[[Request], ReceivedBody | Reply], request: Request, receive: Receive
    ) -> Reply:
        """Receive a body of any size into a file, after authenticating the sender."""
        upload = await anyio.to_thread.run_sync(begin, request)
        if isinstance(upload, Reply):
            return upload
        return await self._receive(upload, receive)

    async def _receive(self, upload: ReceivedBody, receive: Receive) -> Reply:
        deadline = asyncio.get_running_loop().time() + self.seconds_for_body
        try:
            more = True
            while more:
                chunk, more = await _chunk(receive, deadline)
                deadline += len(chunk) / _SLOWEST_UPLOAD
                error_reply = await anyio.to_thread.run_sync(upload.take, chunk)
                if error_reply is not None:
                    return error_reply
            return await anyio.to_thread.run_sync(upload.finish)
        except TimeoutError:
            return await anyio.to_thread.run_sync(upload.give_up)
        finally:
            await anyio.to_thread.run_sync(upload.discard)


def _is_local(scope: Scope) -> bool:
    """Whether a request was sent on this machine, without a proxy, to `localhost` or a loopback address."""
    hosts = [value.decode("latin-1") for name, value in scope["headers"] if name == b"host"]
    return _is_direct(scope) and all(map(_is_this_machine, hosts))


def _is_direct(scope: Scope) -> bool:
    """Whether a connection comes from this machine and has none of the headers that proxies usually add."""
    client = scope.get("client")
    return client is not None and not _is_proxied(scope) and _is_loopback(client[0])


def _is_proxied(scope: Scope) -> bool:
    return any(name in _OF_PROXIES for name, _ in scope["headers"])


def _is_within(client: tuple[str, int] | None, networks: Sequence[IPv4Network | IPv6Network]) -> bool:
    try:
        return client is not None and any(ip_address(client[0]) in each for each in networks)
    except ValueError:
        return False


def _is_this_machine(host: str) -> bool:
    name = urlsplit(f"//{host}").hostname or ""
    return name == "localhost" or name.endswith(".localhost") or _is_loopback(name)


def _is_loopback(address: str) -> bool:
    try:
        return ip_address(address).is_loopback
    except ValueError:
        return False


async def _chunk(receive: Receive, deadline: float) -> tuple[bytes, bool]:
    async with asyncio.timeout_at(deadline):
        message = await receive()
    if message["type"] == "http.disconnect":
        raise _DisconnectedError
    return message.get("body", b""), message.get("more_body", False)


async def _body(receive: Receive, most_bytes: int, most_seconds: float) -> bytes | None:
    """Read the whole body; None if it is too large."""
    deadline = asyncio.get_running_loop().time() + most_seconds
    parts, n_bytes, more = [], 0, True
    while more:
        chunk, more = await _chunk(receive, deadline)
        n_bytes += len(chunk)
        if n_bytes > most_bytes:
            return None
        parts.append(chunk)
    return b"".join(parts)


async def _send(send: Send, reply: Reply) -> None:
    try:
        headers = dict(reply.headers)
        if reply.status not in _WITHOUT_BODY:
            headers["Content-Length"] = str(len(reply.body) if reply.chunks is None else reply.n_bytes)
        encoded = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]
        await send({"type": "http.response.start", "status": reply.status, "headers": encoded})
        if reply.chunks is not None:
            chunks = iter(reply.chunks)
            while (chunk := await anyio.to_thread.run_sync(next, chunks, None)) is not None:
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
        await send({"type": "http.response.body", "body": reply.body})
    finally:
        reply.close()


async def _live(receive: Receive, send: Send) -> None:
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return
