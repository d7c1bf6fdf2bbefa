"""The ASGI application: bytes in, bytes out.

Lives here: reading requests within their limits, handing each to the way in that its path names, answering.
Add here when another way in is served.
Keep out: what requests mean, and starting the server (`starting.py`).
"""

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from typing import Any

import anyio.to_thread

from cleanroom_pipelines.cleanroomsml import wire
from cleanroom_pipelines.cleanroomsml.answers import ApiError
from cleanroom_pipelines.serving.bucket_files import PREFIX, BucketFiles
from cleanroom_pipelines.serving.lookalike_api import LookalikeApi
from cleanroom_pipelines.serving.requests import Reply, Request

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

HEALTH = "/_cleanroom/health"
_SECONDS_FOR_BODY = 60.0


class _GoneError(Exception):
    """The client left before its request was whole."""


@dataclass(frozen=True)
class Gateway:
    """The application that uvicorn runs; plain ASGI, since the path must be routed before it is unquoted.

    Args:
        api: The lookalike API.
        files: Uploads and downloads.
        new_id: Gives a UUID per request.
    """

    api: LookalikeApi
    files: BucketFiles
    new_id: Callable[[], str]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection's event; websockets are turned away."""
        if scope["type"] == "lifespan":
            await _live(receive, send)
        elif scope["type"] == "http":
            try:
                await _send(send, await self._reply(scope, receive))
            except (_GoneError, TimeoutError):
                return
        else:
            await send({"type": "websocket.close", "code": 1003})

    async def _reply(self, scope: Scope, receive: Receive) -> Reply:
        request = Request(
            id=self.new_id(),
            method=scope["method"],
            raw_path=scope["raw_path"].decode("latin-1"),
            raw_query=scope["query_string"].decode("latin-1"),
            headers=[(name.decode("latin-1"), value.decode("latin-1")) for name, value in scope["headers"]],
        )
        if request.raw_path == HEALTH:
            return Reply(200, {"Content-Type": "application/json"}, b'{"status":"ok"}')
        if request.raw_path.startswith(PREFIX):
            if request.method == "PUT":
                return await self._upload(request, receive)
            return await anyio.to_thread.run_sync(self.files.answer, request)
        body = await _body(receive, wire.MAX_BODY_BYTES)
        if body is None:
            error = ApiError("ValidationException", f"The body is larger than {wire.MAX_BODY_BYTES:,} bytes.")
            return Reply(*wire.write_error(error, request.id))
        return await anyio.to_thread.run_sync(self.api.answer, request, body)

    async def _upload(self, request: Request, receive: Receive) -> Reply:
        """Take a body of any size to a file, once its signature was found right."""
        upload = await anyio.to_thread.run_sync(self.files.begin, request)
        if isinstance(upload, Reply):
            return upload
        try:
            more = True
            while more:
                chunk, more = await _chunk(receive)
                refusal = await anyio.to_thread.run_sync(upload.take, chunk)
                if refusal is not None:
                    return refusal
            return await anyio.to_thread.run_sync(upload.finish)
        finally:
            await anyio.to_thread.run_sync(upload.discard)


async def _chunk(receive: Receive) -> tuple[bytes, bool]:
    async with asyncio.timeout(_SECONDS_FOR_BODY):
        message = await receive()
    if message["type"] == "http.disconnect":
        raise _GoneError
    return message.get("body", b""), message.get("more_body", False)


async def _body(receive: Receive, most_bytes: int) -> bytes | None:
    """The whole body; None when it is larger than allowed."""
    parts, n_bytes, more = [], 0, True
    while more:
        chunk, more = await _chunk(receive)
        n_bytes += len(chunk)
        if n_bytes > most_bytes:
            return None
        parts.append(chunk)
    return b"".join(parts)


async def _send(send: Send, reply: Reply) -> None:
    try:
        headers = {
            **reply.headers,
            "Content-Length": str(len(reply.body) if reply.chunks is None else reply.n_bytes),
        }
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
