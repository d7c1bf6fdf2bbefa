"""A real S3-compatible store for tests: moto's server on this machine, reached as an operator would set it up.

Keep out: what is kept there.
"""

import os
import socket
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any
from unittest import mock

import boto3
import pytest
from botocore.loaders import create_loader
from moto.server import ThreadedMotoServer
from werkzeug.test import run_wsgi_app

PROFILE = "shop"
_AMBIENT = ("AWS_PROFILE", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL")


def _has_file_attributes() -> bool:
    try:
        with tempfile.NamedTemporaryFile() as file:
            os.setxattr(file.name, "user.test", b"x")
    except (AttributeError, OSError):
        return False
    return True


needs_file_attributes = pytest.mark.skipif(
    not _has_file_attributes(), reason="the disk of temporary files has no extended attributes"
)

Reply = tuple[Iterable[bytes], str, Any]


class Request:
    """A request as the store got it."""

    def __init__(self, environ: dict[str, Any]) -> None:
        self.method, self.url = str(environ["REQUEST_METHOD"]), str(environ["RAW_URI"])
        self.headers = {
            name[5:].replace("_", "-").lower(): text for name, text in environ.items() if name[:5] == "HTTP_"
        }


class ObjectStore:
    """A running store, and the profile files that lead to it."""

    def __init__(self, server: ThreadedMotoServer, folder: Path) -> None:
        self._server = server
        host, port = server.get_host_and_port()
        self.url = f"http://{host}:{port}"
        self.config, self.credentials = folder / "config", folder / "credentials"
        self.write_profile(PROFILE)

    def write_profile(
        self, name: str, *, key: str | None = "own", secret: str = "secret", url: str | None = None
    ) -> None:
        """Add a profile, without credentials when `key` is None."""
        with self.config.open("a") as stream:
            stream.write(f"[profile {name}]\nendpoint_url = {url or self.url}\nregion = eu-central-1\n")
        if key is not None:
            with self.credentials.open("a") as stream:
                stream.write(f"[{name}]\naws_access_key_id = {key}\naws_secret_access_key = {secret}\n")

    @contextmanager
    def tampering(self, send: Callable[[Callable[[], Reply], "Request"], Reply]) -> Iterator[None]:
        """Put a fault between the store and the network.

        Args:
            send: Called in place of each answer, with what answers and with the request; returns what the client
                shall see, or raises ConnectionError to drop the connection.
        """
        server = self._server._server
        assert server is not None
        app = server.app

        def tampered(environ: dict[str, Any], start_response: Callable[..., object]) -> Iterable[bytes]:
            try:
                body, status, headers = send(lambda: run_wsgi_app(app, environ), Request(environ))
            except ConnectionError:
                environ["werkzeug.socket"].shutdown(socket.SHUT_RDWR)
                raise
            start_response(status, list(headers))
            return body

        with mock.patch.object(server, "app", tampered):
            yield

    def client(self, service: str = "s3", key: str = "root", secret: str = "root") -> Any:
        """A client of the test's own."""
        return _client(self.url, service, key, secret)

    def put(self, bucket: str, key: str, content: bytes) -> None:
        self.client().put_object(Bucket=bucket, Key=key, Body=content)

    def objects(self, bucket: str) -> dict[str, bytes]:
        """Everything in a bucket."""
        client = self.client()
        pages = client.get_paginator("list_objects_v2").paginate(Bucket=bucket)
        keys = [each["Key"] for page in pages for each in page.get("Contents", ())]
        return {key: client.get_object(Bucket=bucket, Key=key)["Body"].read() for key in keys}


@cache
def _client(url: str, service: str, key: str, secret: str) -> Any:
    return boto3.client(
        service, endpoint_url=url, region_name="us-east-1", aws_access_key_id=key, aws_secret_access_key=secret
    )


@cache
def _loader(search_path: str | None = None) -> Any:
    return create_loader(search_path)


@contextmanager
def running_server() -> Iterator[ThreadedMotoServer]:
    """Run the store's server."""
    server = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        yield server
    finally:
        server.stop()


@contextmanager
def empty_store(server: ThreadedMotoServer, folder: Path) -> Iterator[ObjectStore]:
    """An empty store whose profile files are those of this process; what is put there goes with it."""
    from moto import settings
    from moto.backends import get_backend

    store = ObjectStore(server, folder)
    with pytest.MonkeyPatch.context() as patch:
        for name in _AMBIENT:
            patch.delenv(name, raising=False)
        patch.setenv("AWS_CONFIG_FILE", str(store.config))
        patch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(store.credentials))
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        # Five sixths of the time to make a client is reading botocore's own descriptions of the services.
        patch.setattr("botocore.session.create_loader", _loader)
        try:
            yield store
        finally:
            get_backend("moto_api")["global"].reset()
            # a test may have let the store check who asks; that setting is this process's, not the server's
            settings.INITIAL_NO_AUTH_ACTION_COUNT = float("inf")
