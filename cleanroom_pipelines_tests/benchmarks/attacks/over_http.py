"""Access to a world over HTTP: requests with tokens to the Media API, signed requests to the lookalike API.

Lives here: one server on a free loopback port, whose application is that of whichever world was opened last.
Keep out: assertions.
"""

import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

from cleanroom_pipelines.aws.answers import ApiError
from cleanroom_pipelines.benchmarks.attacks.worlds import REGION
from cleanroom_pipelines.errors import ConflictError
from cleanroom_pipelines.media.client import HttpTransport
from cleanroom_pipelines.runs.credentials import issue_access_key, issue_token
from cleanroom_pipelines.runs.installation import Installation
from cleanroom_pipelines.server.gateway import Gateway, Receive, Scope, Send
from cleanroom_pipelines.server.starting import make_gateway, make_server
from cleanroom_pipelines_tests import worlds
from cleanroom_pipelines_tests.aws.requests import call


class Server:
    """A running server; opening doors of an installation makes it that installation's.

    Args:
        url: Where it listens.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self._gateway: Gateway | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        assert self._gateway is not None
        await self._gateway(scope, receive, send)

    def open_doors(self, installation: Installation) -> "HttpDoors":
        """Serve an installation from now on."""
        self._gateway = make_gateway(installation, is_strict=True)
        return HttpDoors(self.url, installation)


class HttpDoors:
    """Users and accounts of an installation with their tokens and keys.

    Args:
        url: Where the server listens.
        installation: Whose users and accounts they are.
    """

    def __init__(self, url: str, installation: Installation) -> None:
        self._url, self._installation = url, installation
        self._media: dict[str, HttpTransport] = {}
        self._keys: dict[str, tuple[str, str]] = {}

    def media(self, email: str) -> HttpTransport:
        if email not in self._media:
            with suppress(ConflictError):
                self._installation.catalog.users.create_user(email)
            token, _ = issue_token(self._installation, email)
            self._media[email] = HttpTransport(self._url, token)
        return self._media[email]

    def lookalikes(self, account_id: str, operation: str, parameters: Mapping[str, Any]) -> Mapping[str, Any]:
        if account_id not in self._keys:
            self._keys[account_id] = issue_access_key(self._installation, account_id)
        key_id, secret = self._keys[account_id]
        answer = call(self._url, operation, parameters, key_id=key_id, secret=secret, region=REGION)
        if answer.error is not None:
            raise ApiError(answer.error, answer.json.get("message", ""))  # type: ignore[arg-type]
        return dict(answer.json) if answer.body else {}

    def close(self) -> None:
        for each in self._media.values():
            each.close()


@contextmanager
def serving() -> Iterator[Server]:
    """Serve for as long as the body runs."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        made = Server(f"http://127.0.0.1:{listening.getsockname()[1]}")
        server = make_server(made)  # type: ignore[arg-type]
        server.config.lifespan = "off"
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
        thread.start()
        worlds.wait_until(lambda: server.started, seconds=30, what="the server")
        try:
            yield made
        finally:
            server.should_exit = True
            thread.join(30)
