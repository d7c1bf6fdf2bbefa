"""Contract: an object store that responds with 500 or 503 delays a delivery, or makes it fail with one sentence,
and never truncates or duplicates it. A real proxy in front of the store sends these responses, before or after the
store has processed the request. Short failures have no visible effect; long ones are named in the version's
message, and another attempt delivers once."""

import http.client
import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
from moto.server import ThreadedMotoServer

from cleanroom_pipelines.catalog import Status
from cleanroom_pipelines.errors import DestinationError
from cleanroom_pipelines.runs.installation import Installation, Settings
from cleanroom_pipelines.storage import Home

from ..conftest import StandingClock
from ..object_stores import ObjectStore, empty_store
from .delivery_worlds import ACCOUNT, N_DELIVERED, Delivery, export_delivery

REAL, PROXIED = "real", "proxied"


class Proxy(ThreadingHTTPServer):
    """Passes requests on to a store, but answers some itself.

    Attributes:
        status: What it answers then.
        n_left: How many it still answers itself.
        methods: Only requests of these.
        is_done: Whether the store gets the request nevertheless, and its answer is lost.
    """

    daemon_threads = True

    def __init__(self, store: ObjectStore) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.store = store.url.removeprefix("http://")
        self.status, self.n_left, self.methods, self.is_done = 500, 0, ("PUT",), False
        self.n_answered = 0


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Proxy

    def handle_one_request(self) -> None:
        self.raw_requestline = self.rfile.readline(65537)
        if not self.raw_requestline or not self.parse_request():
            self.close_connection = True
            return
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        proxy = self.server
        fails = proxy.n_left > 0 and self.command in proxy.methods
        if not fails or proxy.is_done:
            connection = http.client.HTTPConnection(proxy.store, timeout=30)
            headers = {name: value for name, value in self.headers.items() if name.lower() != "expect"}
            connection.request(self.command, self.path, body, headers)
            answer = connection.getresponse()
            status, found, content = answer.status, answer.getheaders(), answer.read()
            connection.close()
        if fails:
            proxy.n_left -= 1
            proxy.n_answered += 1
            status, found, content = proxy.status, [], b""
        self.send_response_only(status)
        for name, value in found:
            if name.lower() not in ("content-length", "transfer-encoding", "connection"):
                self.send_header(name, value)
        length = dict(found).get("Content-Length", "0") if self.command == "HEAD" else str(len(content))
        self.send_header("Content-Length", length)
        self.end_headers()
        self.wfile.write(content if self.command != "HEAD" else b"")


@contextmanager
def proxy_before(store: ObjectStore) -> Iterator[Proxy]:
    with Proxy(store) as proxy:
        Thread(target=proxy.serve_forever, args=(0.05,), daemon=True).start()
        host, port = proxy.server_address[:2]
        store.write_profile(PROXIED, url=f"http://{host!s}:{port}")
        try:
            yield proxy
        finally:
            proxy.shutdown()


@pytest.fixture
def store(store_server: ThreadedMotoServer, tmp_path: Path) -> Iterator[ObjectStore]:
    with empty_store(store_server, tmp_path) as running:
        running.client().create_bucket(Bucket=REAL)
        yield running


@pytest.fixture
def proxy(store: ObjectStore) -> Iterator[Proxy]:
    with proxy_before(store) as running:
        yield running


@pytest.fixture
def delivery(proxy: Proxy, store: ObjectStore, home: Home, clock: StandingClock) -> Delivery:
    installation = Installation(Settings(home.root, seed_floor=1), clock=clock)
    installation.catalog.parties.register_bucket("audiences", ACCOUNT, f"s3://{REAL}", PROXIED)
    return export_delivery(installation, clock, lambda: store.objects(REAL))


def assert_delivered(delivery: Delivery, attempt: int) -> None:
    files = delivery.files()
    assert delivery.version.status is Status.ACTIVE
    manifest = json.loads(files["manifest.json"])
    assert (manifest["attempt"], manifest["delivered"]) == (attempt, N_DELIVERED)
    assert sorted(files) == sorted(["manifest.json", *(part["name"] for part in manifest["files"])])
    assert delivery.artifacts == [delivery.version.artifacts[delivery.asset]]


@pytest.mark.parametrize("status", [500, 503])
@pytest.mark.parametrize("methods", [("PUT",), ("GET", "HEAD")])
def test_short_store_outage_is_tolerated(
    delivery: Delivery, proxy: Proxy, status: int, methods: tuple[str, ...]
) -> None:
    proxy.status, proxy.n_left, proxy.methods = status, 2, methods
    delivery.make("first")
    assert proxy.n_answered == 2
    assert_delivered(delivery, attempt=1)


@pytest.mark.parametrize("status", [500, 503])
@pytest.mark.parametrize("methods", [("PUT",), ("GET", "HEAD")])
def test_failing_store_is_reported_and_a_retry_delivers(
    delivery: Delivery, proxy: Proxy, status: int, methods: tuple[str, ...]
) -> None:
    proxy.status, proxy.n_left, proxy.methods = status, 10**6, methods
    with pytest.raises(DestinationError):
        delivery.make("first")
    version = delivery.version
    assert (version.status, version.status_code) == ("CREATE_FAILED", "DESTINATION_NOT_WRITABLE")
    assert f"The bucket's store reports a server error ({status})" in str(version.status_message)
    assert "Try again" in str(version.status_message)
    assert [name for name in delivery.files() if name.endswith("manifest.json")] == []
    proxy.n_left = 0
    delivery.catalog.work.retry(delivery.record.kind, delivery.record.id)
    delivery.make("second")
    assert_delivered(delivery, attempt=delivery.manifest["attempt"])  # type: ignore[arg-type]


@pytest.mark.parametrize("n_after", range(4))
def test_upload_stored_despite_a_500_response_is_delivered_once(
    delivery: Delivery, proxy: Proxy, n_after: int
) -> None:
    """The n-th upload took effect and its answer was lost: it is sent again."""
    proxy.is_done, n_uploads = True, 0

    class Counted(Handler):
        def parse_request(self) -> bool:
            nonlocal n_uploads
            is_read = super().parse_request()
            if is_read and self.command == "PUT":
                proxy.n_left = int(n_uploads == n_after)
                n_uploads += 1
            return is_read

    proxy.RequestHandlerClass = Counted
    delivery.make("first")
    assert proxy.n_answered == 1
    assert_delivered(delivery, attempt=1)
