"""`cleanroom serve`: the server and its worker processes.

Lives here: assembling the server, running it, and child processes that execute pending work.
Add here when the server gets another option.
Keep out: handling requests (`gateway.py`) and the work itself (`runs`).
"""

import logging
import signal
import socket
import ssl
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from datetime import datetime
from functools import lru_cache, partial
from pathlib import Path
from threading import Event, Thread
from typing import TYPE_CHECKING

from cleanroom_pipelines.aws.operations.endpoint import Endpoint
from cleanroom_pipelines.aws.signing import SigningKey
from cleanroom_pipelines.catalog import Catalog, Kind, Lane, make_arn
from cleanroom_pipelines.errors import CleanroomError, ConfigurationError
from cleanroom_pipelines.runs.credentials import open_access_key
from cleanroom_pipelines.runs.installation import Installation
from cleanroom_pipelines.runs.requested_seeds import forget_seeds_from
from cleanroom_pipelines.server.callers import Doorkeeper
from cleanroom_pipelines.server.gateway import Gateway, Site
from cleanroom_pipelines.server.lookalike_api import LookalikeApi
from cleanroom_pipelines.server.media.service import MediaService
from cleanroom_pipelines.server.media_api import MediaApi
from cleanroom_pipelines.server.metrics import Metrics
from cleanroom_pipelines.server.requests import RateLimit
from cleanroom_pipelines.server.s3.api import S3Api
from cleanroom_pipelines.server.s3.operations import S3Parts
from cleanroom_pipelines.storage.multipart import MultipartUploads

if TYPE_CHECKING:
    import uvicorn

_LOG = logging.getLogger(__name__)
_SECONDS_BEFORE_SWITCH = 0.0005
_SECONDS_TO_END = 30
# A small job that has waited this long found the worker busy.
_SECONDS_TO_WAIT = 3.0
_SECONDS_TO_RESTART, _MOST_SECONDS_TO_RESTART = 2.0, 60.0


def make_gateway(
    installation: Installation,
    *,
    is_strict: bool = False,
    seconds: Callable[[], float] = time.monotonic,
    make_site: Callable[[Installation], Site] | None = None,
) -> Gateway:
    """Build the ASGI application that serves an installation.

    Args:
        installation: The installation.
        is_strict: Whether to validate every output against its shape; for tests.
        seconds: Monotonic clock for the rate limits, in seconds.
        make_site: Builds the pages; None for APIs only.

    Raises:
        ConfigurationError: A package that the API needs is not installed.
    """
    settings = installation.settings
    # Decrypting a key takes longer than most operations, so it is cached; its validity is checked each time.
    open_key = lru_cache(maxsize=1000)(partial(open_access_key, installation))

    def find_key(key_id: str) -> SigningKey | None:
        found = installation.catalog.parties.access_key(key_id)
        if found is None:
            return None
        return SigningKey(found.id, found.account_id, open_key(found), found.disabled)

    rate, media_rate = (RateLimit(settings.requests_per_second, seconds) for _ in range(2))
    door = Doorkeeper(find_key, installation.audit, installation.clock, rate)
    endpoint = endpoint_of(installation)

    def registered(account_id: str) -> dict[str, datetime]:
        return {each.name: each.created_at for each in installation.catalog.parties.buckets(account_id)}

    def forget_seeds(account_id: str, s3_uris: Sequence[str]) -> list[tuple[str, str]]:
        jobs = forget_seeds_from(installation, account_id, s3_uris)
        arns = [make_arn(Kind.GENERATION_JOB, account_id, job.region, job.id) for job in jobs]
        return [(str(arn), job.status.value) for arn, job in zip(arns, jobs, strict=True)]

    parts = S3Parts(
        home=installation.home,
        buckets=installation.buckets,
        registered=registered,
        uploads=MultipartUploads(installation.home, installation.clock),
        most_bytes=settings.max_upload_bytes,
        is_encrypted=settings.encryption == "volume",
        forget_seeds=forget_seeds,
    )
    hosts = tuple(name for name in ("localhost", settings.s3_host) if name)
    s3 = S3Api(parts, door, installation.home.scratch, hosts)
    media = MediaApi(MediaService(installation), media_rate)
    site = make_site(installation) if make_site else None
    return Gateway(
        LookalikeApi(endpoint, door, is_strict),
        s3,
        media,
        Metrics(installation),
        _new_uuid,
        site=site,
        private_networks=settings.private_networks,
    )


def endpoint_of(installation: Installation) -> Endpoint:
    """Return the parts of an installation that the operations of the lookalike (AWS) API use."""
    settings = installation.settings
    return Endpoint(
        catalog=installation.catalog,
        home=installation.home,
        buckets=installation.buckets,
        new_uuid=_new_uuid,
        is_encrypted=settings.encryption == "volume",
        max_unfinished_jobs=settings.max_unfinished_jobs,
        max_resources=settings.max_resources,
    )


def serve(
    installation: Installation,
    host: str,
    port: int,
    *,
    worker: bool,
    on_ready: Callable[[str], None],
    tls: ssl.SSLContext | None = None,
    make_site: Callable[[Installation], Site] | None = None,
) -> None:
    """Serve until the process receives a stop signal.

    Args:
        installation: The installation.
        host: Address to listen on.
        port: Port to listen on; 0 for a free one.
        worker: Whether to execute pending work in child processes too.
        on_ready: Called with the URL when the server accepts requests.
        tls: What `open_tls` returned; None for plain HTTP.
        make_site: Builds the pages; None for APIs only.

    Raises:
        ConfigurationError: The address cannot be bound, or a package that the API needs is not installed.
    """
    listening = _listen(host, port)

    # A database writer releases the interpreter lock at each statement. With the default switch interval of 5 ms,
    # it waits that long to get the lock back while other threads compute, and all other writers wait for it:
    # measured as at least half of the 99th percentile latency.
    sys.setswitchinterval(_SECONDS_BEFORE_SWITCH)
    installation.catalog.database.stay_connected()
    installation.audit.stay_connected()
    server = make_server(make_gateway(installation, make_site=make_site), tls=tls)
    shown = f"[{host}]" if ":" in host else host
    url = f"{'http' if tls is None else 'https'}://{shown}:{listening.getsockname()[1]}"
    notifier = Thread(target=_notify_when_ready, args=(server, url, on_ready), daemon=True)
    notifier.start()
    try:
        with _workers(installation.catalog) if worker else nullcontext():
            server.run(sockets=[listening])
    finally:
        installation.audit.close()


def open_tls(certificate: Path, key: Path) -> ssl.SSLContext:
    """Load the server's certificate and private key for TLS 1.2 or newer.

    Args:
        certificate: PEM file with the certificate, followed by those of its issuers.
        key: PEM file with its private key, which has no password.

    Raises:
        ConfigurationError: A file cannot be read, or the key does not belong to the certificate.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(certificate, key, password=lambda: "")  # never ask for a password on the terminal
    except OSError as error:  # of which ssl.SSLError is one
        raise ConfigurationError(
            f"The TLS certificate or its key cannot be loaded ({type(error).__name__}).",
            remedy="Give two readable PEM files: the certificate chain, and its private key without a password.",
        ) from None
    return context


def make_server(
    gateway: Gateway, *, seconds_to_arrive: float | None = None, tls: ssl.SSLContext | None = None
) -> "uvicorn.Server":
    """Build the web server for a gateway, without starting it.

    Args:
        gateway: The application.
        seconds_to_arrive: Time limit for the head of a request, and for progress of its body; None for 30.
        tls: Certificate and key; None for plain HTTP.
    """
    import uvicorn

    from cleanroom_pipelines.server.arriving import SECONDS_TO_ARRIVE, ArrivingProtocol

    class Protocol(ArrivingProtocol):  # h11, because the faster parser does not limit a header's memory
        seconds = SECONDS_TO_ARRIVE if seconds_to_arrive is None else seconds_to_arrive

    return uvicorn.Server(
        uvicorn.Config(
            gateway,
            log_config=None,
            access_log=False,  # the audit log records every request, without data
            server_header=False,
            timeout_keep_alive=75,
            timeout_graceful_shutdown=10,
            http=Protocol,
            h11_max_incomplete_event_size=1 << 17,  # ARNs of 2,048 characters, encoded, and policies' headers
            ws="none",
            ssl_context_factory=None if tls is None else lambda _, __: tls,
        )
    )


def _listen(host: str, port: int) -> socket.socket:
    """Listen on the address before anything else starts, so that an address in use is reported at once."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listening = socket.socket(family, kind, protocol)
        try:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listening.bind(address)
            listening.listen(2048)
        except BaseException:
            listening.close()
            raise
    except (OSError, OverflowError) as error:
        raise ConfigurationError(
            f"The server cannot listen on this address and port ({type(error).__name__}).",
            remedy="Stop the process that uses the port, or give another --host or --port.",
        ) from None
    return listening


def _notify_when_ready(server: "uvicorn.Server", url: str, on_ready: Callable[[str], None]) -> None:
    while not server.started:
        if server.should_exit:
            return
        Event().wait(0.02)
    on_ready(url)


@contextmanager
def _workers(catalog: Catalog) -> Iterator[None]:
    """Run worker processes for pending work: restart those that die, and stop all of them with the server.

    The first one executes all work. A second one, for small jobs only, is started when a small job finds the first
    one busy, and keeps running.
    """
    ended = Event()
    children: dict[Lane | None, subprocess.Popen[bytes]] = {None: _start_worker()}

    def watch() -> None:
        pauses = dict.fromkeys([None, *Lane], _SECONDS_TO_RESTART)
        started = dict.fromkeys([None, *Lane], time.monotonic())
        waiting, check_at = frozenset[str](), time.monotonic()
        while not ended.wait(0.2):
            for lane, child in list(children.items()):
                if child.poll() is None:
                    continue
                if time.monotonic() - started[lane] > _MOST_SECONDS_TO_RESTART:
                    pauses[lane] = _SECONDS_TO_RESTART
                _LOG.warning("A worker process ended and is being restarted.")
                if ended.wait(pauses[lane]):
                    return
                # a worker that cannot start logs the reason each time, so restarts become less and less frequent
                pauses[lane] = min(2 * pauses[lane], _MOST_SECONDS_TO_RESTART)
                children[lane], started[lane] = _start_worker(lane), time.monotonic()
            if Lane.SMALL not in children and time.monotonic() >= check_at:
                before, waiting = waiting, _waiting_small_jobs(catalog)
                if before & waiting:
                    children[Lane.SMALL] = _start_worker(Lane.SMALL)
                check_at = time.monotonic() + _SECONDS_TO_WAIT

    watcher = Thread(target=watch, name="worker watch", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        ended.set()
        watcher.join()
        for child in children.values():
            child.send_signal(signal.SIGTERM)
        for child in children.values():
            try:
                child.wait(_SECONDS_TO_END)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()


def _waiting_small_jobs(catalog: Catalog) -> frozenset[str]:
    """Return the run keys of all small jobs that are ready to run; empty if the database is unavailable."""
    try:
        return frozenset(version.run_key for version in catalog.work.ready(lane=Lane.SMALL))
    except CleanroomError:
        return frozenset()


def _start_worker(lane: Lane | None = None) -> subprocess.Popen[bytes]:
    # Its standard input closes when this process ends for any reason; then the worker stops too.
    command = [sys.executable, "-m", "cleanroom_pipelines.runs.serving_worker", *([lane] if lane else [])]
    return subprocess.Popen(command, stdin=subprocess.PIPE)  # noqa: S603 - our own module


def _new_uuid() -> str:
    return str(uuid.uuid4())
