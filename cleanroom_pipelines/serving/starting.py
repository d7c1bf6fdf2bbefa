"""`cleanroom serve`: the server, and the worker beside it.

Lives here: putting the parts of the server together, running it, and a child process that does pending work.
Add here when the server is started with another option.
Keep out: answering requests (`gateway.py`) and the work itself (`execution`).
"""

import logging
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import lru_cache, partial
from threading import Event, Thread
from typing import TYPE_CHECKING

from cleanroom_pipelines.cleanroomsml.operations.endpoint import Endpoint
from cleanroom_pipelines.cleanroomsml.signing import Key
from cleanroom_pipelines.errors import ConfigurationError
from cleanroom_pipelines.execution.installation import Installation
from cleanroom_pipelines.execution.parties import open_access_key
from cleanroom_pipelines.media.server import MediaService
from cleanroom_pipelines.serving.bucket_files import BucketFiles
from cleanroom_pipelines.serving.callers import Doorkeeper
from cleanroom_pipelines.serving.gateway import Gateway
from cleanroom_pipelines.serving.limits import RateLimit
from cleanroom_pipelines.serving.lookalike_api import LookalikeApi
from cleanroom_pipelines.serving.media_api import MediaApi

if TYPE_CHECKING:
    import uvicorn

_LOG = logging.getLogger(__name__)
_SECONDS_BEFORE_SWITCH = 0.0005
_SECONDS_TO_END = 30
_SECONDS_TO_RESTART, _MOST_SECONDS_TO_RESTART = 2.0, 60.0


def make_gateway(installation: Installation, *, is_strict: bool = False) -> Gateway:
    """The application on an installation.

    Args:
        installation: Where.
        is_strict: Hold every output against its shape; for tests.

    Raises:
        ConfigurationError: What the API needs is not installed.
    """
    settings = installation.settings
    # Opening a seal takes longer than most operations; whether the key still counts is looked up each time.
    open_key = lru_cache(maxsize=1000)(partial(open_access_key, installation))

    def find_key(key_id: str) -> Key | None:
        found = installation.catalog.access_key(key_id)
        if found is None:
            return None
        return Key(found.id, found.account_id, open_key(found), found.disabled)

    door = Doorkeeper(find_key, installation.audit, installation.clock, RateLimit(settings.requests_per_second))
    endpoint = Endpoint(
        catalog=installation.catalog,
        home=installation.home,
        buckets=installation.buckets,
        new_uuid=_new_uuid,
        is_encrypted=settings.encryption == "volume",
        max_unfinished_jobs=settings.max_unfinished_jobs,
        max_resources=settings.max_resources,
    )
    files = BucketFiles(installation.buckets, door, installation.home.scratch, settings.max_upload_bytes)
    media = MediaApi(MediaService(installation), RateLimit(settings.requests_per_second))
    return Gateway(LookalikeApi(endpoint, door, is_strict), files, media, _new_uuid)


def serve(
    installation: Installation, host: str, port: int, *, worker: bool, on_ready: Callable[[str], None]
) -> None:
    """Serve until the process is asked to stop.

    Args:
        installation: Where.
        host: Address to listen on.
        port: Port; 0 for a free one.
        worker: Whether to do pending work in a child process too.
        on_ready: Told the URL as soon as requests are answered.

    Raises:
        ConfigurationError: The address cannot be listened on, or what the API needs is not installed.
    """
    listening = _listen(host, port)

    # A writer lets go of the interpreter at each of its statements. With the usual 5 ms it waits that long to go
    # on while others compute, and all writers wait behind it: measured, half of the 99th percentile and more.
    sys.setswitchinterval(_SECONDS_BEFORE_SWITCH)
    installation.catalog.stay_connected()
    server = make_server(make_gateway(installation))
    shown = f"[{host}]" if ":" in host else host
    url = f"http://{shown}:{listening.getsockname()[1]}"
    told = Thread(target=_tell_when_ready, args=(server, url, on_ready), daemon=True)
    told.start()
    try:
        with _worker() if worker else nullcontext():
            server.run(sockets=[listening])
    finally:
        installation.audit.close()


def make_server(gateway: Gateway, *, seconds_to_arrive: float | None = None) -> "uvicorn.Server":
    """The web server of a gateway, not running yet.

    Args:
        gateway: The application.
        seconds_to_arrive: How long the head of a request, or headway of its body, is waited for; None: 30.
    """
    import uvicorn

    from cleanroom_pipelines.serving.arriving import SECONDS_TO_ARRIVE, ArrivingProtocol

    class Protocol(ArrivingProtocol):  # h11, since the faster parser lets anybody fill the memory with a header
        seconds = SECONDS_TO_ARRIVE if seconds_to_arrive is None else seconds_to_arrive

    return uvicorn.Server(
        uvicorn.Config(
            gateway,
            log_config=None,
            access_log=False,  # the audit log has every request, and no data
            server_header=False,
            timeout_keep_alive=75,
            timeout_graceful_shutdown=10,
            http=Protocol,
            h11_max_incomplete_event_size=1 << 17,  # ARNs of 2,048 characters, encoded, and policies' headers
            ws="none",
        )
    )


def _listen(host: str, port: int) -> socket.socket:
    """Take the address before anything else is started, so that one that is taken costs nothing."""
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
            remedy="Stop what uses the port, or give another --host or --port.",
        ) from None
    return listening


def _tell_when_ready(server: "uvicorn.Server", url: str, on_ready: Callable[[str], None]) -> None:
    while not server.started:
        if server.should_exit:
            return
        Event().wait(0.02)
    on_ready(url)


@contextmanager
def _worker() -> Iterator[None]:
    """A child process that does pending work; started again if it dies, ended with the server."""
    ended = Event()
    children = [_start_worker()]

    def watch() -> None:
        pause, begun = _SECONDS_TO_RESTART, time.monotonic()
        while not ended.wait(0.2):
            if children[0].poll() is not None:
                if time.monotonic() - begun > _MOST_SECONDS_TO_RESTART:
                    pause = _SECONDS_TO_RESTART
                _LOG.warning("The worker ended; another one is started.")
                if ended.wait(pause):
                    return
                # one that cannot begin says why each time, so it is tried less and less often
                pause = min(2 * pause, _MOST_SECONDS_TO_RESTART)
                children[0], begun = _start_worker(), time.monotonic()

    watcher = Thread(target=watch, name="worker watch", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        ended.set()
        watcher.join()
        children[0].send_signal(signal.SIGTERM)
        try:
            children[0].wait(_SECONDS_TO_END)
        except subprocess.TimeoutExpired:
            children[0].kill()
            children[0].wait()


def _start_worker() -> subprocess.Popen[bytes]:
    # Its standard input ends when this process does, however that happens: then it stops too.
    command = [sys.executable, "-m", "cleanroom_pipelines.execution.serving_worker"]
    return subprocess.Popen(command, stdin=subprocess.PIPE)  # noqa: S603 - our own module


def _new_uuid() -> str:
    return str(uuid.uuid4())
