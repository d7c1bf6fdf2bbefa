"""`cleanroom serve`: the server, and the worker beside it.

Lives here: putting the parts of the server together, running it, and a child process that does pending work.
Add here when the server is started with another option.
Keep out: answering requests (`gateway.py`) and the work itself (`runs`).
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

from cleanroom_pipelines.aws.operations.endpoint import Endpoint
from cleanroom_pipelines.aws.signing import Key
from cleanroom_pipelines.catalog import Catalog, Lane
from cleanroom_pipelines.errors import CleanroomError, ConfigurationError
from cleanroom_pipelines.runs.installation import Installation
from cleanroom_pipelines.runs.parties import open_access_key
from cleanroom_pipelines.server.bucket_files import BucketFiles
from cleanroom_pipelines.server.callers import Doorkeeper
from cleanroom_pipelines.server.gateway import Gateway
from cleanroom_pipelines.server.limits import RateLimit
from cleanroom_pipelines.server.lookalike_api import LookalikeApi
from cleanroom_pipelines.server.media.service import MediaService
from cleanroom_pipelines.server.media_api import MediaApi

if TYPE_CHECKING:
    import uvicorn

_LOG = logging.getLogger(__name__)
_SECONDS_BEFORE_SWITCH = 0.0005
_SECONDS_TO_END = 30
# A small question that waited so long found the worker busy.
_SECONDS_TO_WAIT = 3.0
_SECONDS_TO_RESTART, _MOST_SECONDS_TO_RESTART = 2.0, 60.0


def make_gateway(
    installation: Installation, *, is_strict: bool = False, seconds: Callable[[], float] = time.monotonic
) -> Gateway:
    """The application on an installation.

    Args:
        installation: Where.
        is_strict: Hold every output against its shape; for tests.
        seconds: Monotonic seconds by which the requests of an account are limited.

    Raises:
        ConfigurationError: What the API needs is not installed.
    """
    settings = installation.settings
    # Opening a seal takes longer than most operations; whether the key still counts is looked up each time.
    open_key = lru_cache(maxsize=1000)(partial(open_access_key, installation))

    def find_key(key_id: str) -> Key | None:
        found = installation.catalog.parties.access_key(key_id)
        if found is None:
            return None
        return Key(found.id, found.account_id, open_key(found), found.disabled)

    rate, media_rate = (RateLimit(settings.requests_per_second, seconds) for _ in range(2))
    door = Doorkeeper(find_key, installation.audit, installation.clock, rate)
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
    media = MediaApi(MediaService(installation), media_rate)
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
    installation.catalog.database.stay_connected()
    installation.audit.stay_connected()
    server = make_server(make_gateway(installation))
    shown = f"[{host}]" if ":" in host else host
    url = f"http://{shown}:{listening.getsockname()[1]}"
    told = Thread(target=_tell_when_ready, args=(server, url, on_ready), daemon=True)
    told.start()
    try:
        with _workers(installation.catalog) if worker else nullcontext():
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

    from cleanroom_pipelines.server.arriving import SECONDS_TO_ARRIVE, ArrivingProtocol

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
def _workers(catalog: Catalog) -> Iterator[None]:
    """Child processes that do pending work; started again if they die, ended with the server.

    One does everything. A second one, for small questions only, is started when such a question finds the first
    one busy, and stays.
    """
    ended = Event()
    children: dict[Lane | None, subprocess.Popen[bytes]] = {None: _start_worker()}

    def watch() -> None:
        pauses = dict.fromkeys([None, *Lane], _SECONDS_TO_RESTART)
        begun = dict.fromkeys([None, *Lane], time.monotonic())
        waiting, look_at = frozenset[str](), time.monotonic()
        while not ended.wait(0.2):
            for lane, child in list(children.items()):
                if child.poll() is None:
                    continue
                if time.monotonic() - begun[lane] > _MOST_SECONDS_TO_RESTART:
                    pauses[lane] = _SECONDS_TO_RESTART
                _LOG.warning("A worker ended; another one is started.")
                if ended.wait(pauses[lane]):
                    return
                # one that cannot begin says why each time, so it is tried less and less often
                pauses[lane] = min(2 * pauses[lane], _MOST_SECONDS_TO_RESTART)
                children[lane], begun[lane] = _start_worker(lane), time.monotonic()
            if Lane.SMALL not in children and time.monotonic() >= look_at:
                before, waiting = waiting, _small_questions(catalog)
                if before & waiting:
                    children[Lane.SMALL] = _start_worker(Lane.SMALL)
                look_at = time.monotonic() + _SECONDS_TO_WAIT

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


def _small_questions(catalog: Catalog) -> frozenset[str]:
    """The small versions that are ready and that no process has begun; none while the database is away."""
    try:
        return frozenset(version.run_key for version in catalog.work.ready(lane=Lane.SMALL))
    except CleanroomError:
        return frozenset()


def _start_worker(lane: Lane | None = None) -> subprocess.Popen[bytes]:
    # Its standard input ends when this process does, however that happens: then it stops too.
    command = [sys.executable, "-m", "cleanroom_pipelines.runs.serving_worker", *([lane] if lane else [])]
    return subprocess.Popen(command, stdin=subprocess.PIPE)  # noqa: S603 - our own module


def _new_uuid() -> str:
    return str(uuid.uuid4())
