"""Requests that an honest client never sends, and checks of their effects.

Lives here: altering signed requests, sending raw bytes, snapshots of the state that an attack must not change, and
canaries.
Keep out: fixtures, and assertions about one kind of attack (the tests).
"""

import asyncio
import json
import re
import socket
import sqlite3
from collections.abc import Callable, Iterable, Iterator, MutableMapping
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from cleanroom_pipelines.runs.installation import Installation
from cleanroom_pipelines.server.gateway import Gateway, Receive
from cleanroom_pipelines.storage import Home
from cleanroom_pipelines_tests.aws.requests import RawAnswer, RawRequest, sign

from ..storage.auditing import lines_of
from .server import REGION, Party

Altering = Callable[[RawRequest], RawRequest]


def signed_at(request: RawRequest, party: Party, *, host: str, **changes: Any) -> RawRequest:
    """Sign a request, with another date, Region, service, key or secret.

    Args:
        request: Unsigned.
        party: Whose key.
        host: What the request names as its host.
        **changes: Of `sign`; `minutes` moves its clock.
    """
    now = datetime.now(UTC) + timedelta(minutes=changes.pop("minutes", 0.0))
    usual = {"key_id": party.key_id, "secret": party.secret, "region": REGION}
    return sign(request, now=now, host=host, **(usual | changes))


def with_authorization(change: Callable[[str], str]) -> Altering:
    """Alter the header that contains the signature."""
    return lambda request: request.with_header("Authorization", change(request.header("Authorization")))


def with_more(*headers: tuple[str, str]) -> Altering:
    """Add headers, regardless of existing ones."""
    return lambda request: replace(request, headers=(*request.headers, *headers))


def speak(url: str, content: bytes | Iterable[bytes], *, seconds: float = 60) -> bytes:
    """Send raw bytes, and return the response until the server closes or stops sending.

    Args:
        url: The server.
        content: Bytes, or pieces of them.
        seconds: How long to listen for the next bytes.
    """
    parts = urlsplit(url)
    with socket.create_connection((str(parts.hostname), parts.port), timeout=seconds) as connection:
        try:
            for piece in [content] if isinstance(content, bytes) else content:
                connection.sendall(piece)
        except OSError:
            pass  # it hung up on us, which is an answer too
        return b"".join(_heard(connection))


def _heard(connection: socket.socket) -> Iterator[bytes]:
    try:
        while piece := connection.recv(1 << 16):
            yield piece
    except OSError:
        return


def in_bytes(request: RawRequest, *, target: str | None = None, close: bool = True) -> bytes:
    """Return a request as bytes.

    Args:
        request: Signed.
        target: What stands for path and query; the request's own if not given.
        close: Ask the server to close the connection after its answer.
    """
    headers = [*request.headers, *([("Connection", "close")] if close else [])]
    lines = [
        f"{request.method} {target or request.target} HTTP/1.1",
        *(f"{name}: {value}" for name, value in headers),
    ]
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + request.body


def statuses_of(answers: bytes) -> list[int]:
    """Return the statuses of all responses on one connection."""
    return [int(status) for status in re.findall(rb"HTTP/1\.1 ([0-9]{3}) ", answers)]


def everything(installation: Installation) -> tuple[list[str], list[tuple[str, int]]]:
    """Return everything that an attack could change: catalogue, accounts, vault, scratch and store."""
    home = installation.home
    with closing(sqlite3.connect(home.root / "catalog.db")) as database:
        rows = list(database.iterdump())
    return rows, [*files_below(home.accounts, home.seeds, home.artifacts), *files_in_scratch(home)]


def files_in_scratch(home: Home) -> list[tuple[str, int]]:
    """Return the files and folders in a home's scratch, with their sizes."""
    return files_below(*(path for path in home.scratch_root.iterdir() if not path.name.startswith(".")))


def files_below(*folders: Path) -> list[tuple[str, int]]:
    """Return the files and folders below some folders, with their sizes."""
    return sorted(
        (str(path), path.lstat().st_size if path.is_file() else 0)
        for folder in folders
        for path in folder.rglob("*")
    )


def entry_of(installation: Installation, answer: RawAnswer) -> dict[str, Any]:
    """Return the audit entry of an answered request, which must already exist."""
    asked = answer.headers.get("x-amz-request-id") or answer.headers["x-amzn-requestid"]
    found = [entry for entry in installation.audit.entries() if entry.get("request_id") == asked]
    assert len(found) == 1, f"{len(found)} entries for one request"
    return dict(found[0])


def assert_rejected(installation: Installation, answer: RawAnswer, status: int, error: str) -> dict[str, Any]:
    """Check that a response is this audited error, and return its audit entry."""
    assert (answer.status, answer.error) == (status, error), answer.body
    if "x-amz-request-id" not in answer.headers:
        assert set(answer.json) <= {"message", "quotaName", "quotaValue"}
    entry = entry_of(installation, answer)
    assert entry["outcome"] == "refused"
    assert str(entry["error"]).partition(":")[0] == error
    return entry


def normalised(answer: RawAnswer) -> str:
    """Return a response without the parts that always differ."""
    own = {"x-amzn-requestid", "x-amz-request-id", "date"}
    headers = {name: value for name, value in answer.headers.items() if name not in own}
    body = re.sub("<RequestId>.*</RequestId>", "", answer.body.decode())
    return json.dumps([answer.status, sorted(headers.items()), body])


def in_audit(installation: Installation) -> str:
    """Return the whole audit log, as stored on disk."""
    installation.audit.flush()
    return b"".join(lines_of(installation.home.audit)).decode()


async def converse(
    gateway: Gateway, request: RawRequest, receive: Receive, *, client: str = "127.0.0.1", scheme: str = "http"
) -> RawAnswer | None:
    """Send a gateway a request with a body from `receive`; return None if there is no response."""
    scope = {
        "type": "http",
        "client": (client, 50_000),
        "scheme": scheme,
        "method": request.method,
        "raw_path": request.raw_path.encode("latin-1"),
        "query_string": request.raw_query.encode("latin-1"),
        "headers": [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in request.headers],
    }
    told: list[MutableMapping[str, Any]] = []

    async def take(message: MutableMapping[str, Any]) -> None:
        told.append(message)

    await gateway(scope, receive, take)
    if not told:
        return None
    headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in told[0]["headers"]}
    return RawAnswer(told[0]["status"], headers, b"".join(message.get("body", b"") for message in told[1:]))


def in_pieces(*pieces: bytes, leaves: bool = False) -> Receive:
    """Return a client that sends its body in these pieces; with `leaves`, it disconnects before the end."""
    messages = iter(
        [
            *({"type": "http.request", "body": piece, "more_body": True} for piece in pieces),
            {"type": "http.disconnect"} if leaves else {"type": "http.request", "body": b"", "more_body": False},
        ]
    )

    async def receive() -> MutableMapping[str, Any]:
        return next(messages)

    return receive


async def never_ends() -> MutableMapping[str, Any]:
    """Return a client that announces more data, and sends nothing."""
    await asyncio.Event().wait()
    raise AssertionError


async def drips() -> MutableMapping[str, Any]:
    """Return a client that keeps sending a byte now and then."""
    await asyncio.sleep(0.01)
    return {"type": "http.request", "body": b" ", "more_body": True}
