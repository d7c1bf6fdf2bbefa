"""Opening and closing sessions on a Spark cluster.

Lives here: opening a session by URL, its settings, and early checks that the cluster works.
Add here when there is another way to connect to a cluster.
Keep out: queries and data (spark_engine).

A process has at most one Spark application, shared by all its engines; each engine has its own session and names.
The application ends when no engine has used it for half a minute, since it occupies its cores on the cluster while
other workers wait for theirs. With Spark Connect, every engine has a session on the server. The operator's
settings in spark-defaults.conf (SPARK_CONF_DIR) apply, except for those that protect data:

- the application's web UI is off, since it shows the text and values of queries;
- ANSI mode is off, since its errors quote cells and executors log them. Our queries use TRY_CAST to get NULL for
  invalid cells;
- driver logging is off, since its messages repeat the executors' errors.

Spill and shuffle files are not encrypted on the executors' disks unless the operator sets
spark.io.encryption.enabled.
"""

import logging
import re
import socket
import subprocess
import sys
import tempfile
import threading
import warnings
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from importlib.metadata import version
from importlib.util import find_spec
from typing import Any, TypeVar

from cleanroom_pipelines.engine.base import EngineSettings
from cleanroom_pipelines.errors import ConfigurationError

T = TypeVar("T")

APPLICATION = "cleanroom_pipelines"
_CONNECT_SECONDS = 5.0
_OPEN_SECONDS = 120.0
EXECUTOR_SECONDS = 120.0
_IDLE_SECONDS = 30.0
_GIVE_UP_SECONDS = 20.0

# Required for correct results, whatever the cluster's defaults.
_SESSION = {
    "spark.sql.session.timeZone": "UTC",
    "spark.sql.ansi.enabled": "false",
    "spark.sql.caseSensitive": "false",
    "spark.sql.legacy.parquet.nanosAsLong": "true",
    # Spark detects a text line with too many or too few cells only if it reads all cells.
    "spark.sql.csv.parser.columnPruning.enabled": "false",
    "spark.sql.parquet.compression.codec": "zstd",
    "spark.sql.parquet.outputTimestampType": "TIMESTAMP_MICROS",
    "spark.sql.sources.partitionColumnTypeInference.enabled": "false",
    "spark.sql.execution.arrow.pyspark.enabled": "true",
}
_APPLICATION_SETTINGS = {
    "spark.ui.enabled": "false",
    # The event log stores the same data on disk.
    "spark.eventLog.enabled": "false",
    "spark.log.level": "OFF",
    "spark.ui.showConsoleProgress": "false",
    "spark.sql.catalogImplementation": "in-memory",
}

_lock = threading.Lock()
_context: tuple[str, Any] | None = None
_n_engines = 0
_n_closed = 0
_checked: set[str] = set()
# Spark creates a warehouse folder, by default in the working directory; ours is temporary and stays empty.
_warehouse: "tempfile.TemporaryDirectory[str] | None" = None


def open_session(url: str, settings: EngineSettings) -> Any:
    """Open a new session on a cluster.

    Args:
        url: `spark://host:port`, `local`, `local[n]` or `sc://host:port`.
        settings: Memory and threads of this process.

    Returns:
        A pyspark SparkSession.

    Raises:
        ConfigurationError: pyspark or Java is missing, the URL is invalid, or the cluster does not respond.
    """
    if find_spec("pyspark") is None:
        raise ConfigurationError(
            "CLEANROOM_ENGINE_URL names a Spark cluster, but pyspark is not installed.",
            remedy="Install 'cleanroom-pipelines[spark]', or unset CLEANROOM_ENGINE_URL.",
        )
    # This logger prints the full text of errors, with the query's plan.
    logging.getLogger("SQLQueryContextLogger").disabled = True
    warnings.filterwarnings("ignore", message="PySpark does not yet fully support pandas", category=FutureWarning)
    _check_reachable(url)
    if url.startswith("sc://"):
        session = _within(_OPEN_SECONDS, lambda: _open_connect(url))
    else:
        session = _application(url, settings).newSession()
    for name, value in _SESSION.items():
        session.conf.set(name, value)
    return session


def keep_event_log() -> None:
    """Let spark-defaults.conf enable Spark's event log; only for benchmarks, whose data is synthetic."""
    _APPLICATION_SETTINGS.pop("spark.eventLog.enabled", None)


def close_session(session: Any, url: str) -> None:
    """End a session, but keep this process's Spark application open for a while, for the next session."""
    global _n_engines, _n_closed  # noqa: PLW0603 - they belong to the one application
    if url.startswith("sc://"):
        session.stop()
        return
    with _lock:
        _n_engines -= 1
        _n_closed += 1
        if _n_engines == 0:
            timer = threading.Timer(_IDLE_SECONDS, _end_if_idle, [_n_closed])
            timer.daemon = True
            timer.start()


def _end_if_idle(n_closed: int) -> None:
    with _lock:
        if _n_engines == 0 and _n_closed == n_closed:
            _end_application()


def _end_application() -> None:
    """Stop this process's application and its Java process; the caller holds the lock."""
    global _context  # noqa: PLW0603 - Spark allows one application a process
    from pyspark import SparkContext

    if _context is None:
        return
    context = _context[1].sparkContext
    _context = None
    # After a failed start Spark may not respond.
    with suppress(Exception):
        context.stop()
    gateway, SparkContext._gateway, SparkContext._jvm = SparkContext._gateway, None, None
    if gateway is not None:
        with suppress(Exception):
            gateway.shutdown()
        with suppress(Exception):
            gateway.proc.stdin.close()


def is_checked(url: str) -> bool:
    """Whether this process has already checked the executors at a URL."""
    return url in _checked


def check_executors(url: str, ask: Callable[[], tuple[str, str]], interrupt: Callable[[], None]) -> None:
    """Check, once per process and URL, that the cluster's executors start and have this package's version.

    Args:
        url: URL of the cluster.
        ask: Runs a task that returns the executor's versions of this package and Python.
        interrupt: Cancels the task.

    Raises:
        ConfigurationError: No executor started within two minutes, or it lacks this package or has another
            version.
    """
    expected = versions()
    try:
        found = _result_within(EXECUTOR_SECONDS, ask, interrupt)
    except TimeoutError:
        raise ConfigurationError(
            "The Spark cluster did not start an executor within two minutes.",
            remedy="Check that it has workers with free cores and memory.",
        ) from None
    if found != expected:
        theirs = f"{found[0]} on Python {found[1]}" if found[0] else "none"
        raise ConfigurationError(
            f"The executors need cleanroom_pipelines {expected[0]} on Python {expected[1]}; they have {theirs}.",
            remedy="Install the same version in the Python that the executors use (spark.pyspark.python).",
        )
    _checked.add(url)


def versions() -> tuple[str, str]:
    """Return this process's versions of this package and Python."""
    return version("cleanroom-pipelines"), f"{sys.version_info.major}.{sys.version_info.minor}"


def _application(url: str, settings: EngineSettings) -> Any:
    """Return a session of this process's Spark application; start the application if needed."""
    global _context, _n_engines  # noqa: PLW0603 - Spark allows one application a process
    with _lock:
        if _context is not None and (not _is_alive(_context[1]) or (_context[0] != url and _n_engines == 0)):
            _end_application()
        if _context is None:
            _context = (url, _within(_OPEN_SECONDS, lambda: _start(url, settings)))
        elif _context[0] != url:
            raise ConfigurationError(
                "This process already uses another Spark cluster.", remedy="Start another process."
            )
        _n_engines += 1
        return _context[1]


def _is_alive(session: Any) -> bool:
    return session.sparkContext._jsc is not None and not session.sparkContext._jsc.sc().isStopped()


def _start(url: str, settings: EngineSettings) -> Any:
    from pyspark import SparkConf, SparkContext
    from pyspark.java_gateway import launch_gateway
    from pyspark.sql import SparkSession

    global _warehouse  # noqa: PLW0603 - it belongs to the application, and ends with this process
    _warehouse = _warehouse or tempfile.TemporaryDirectory(prefix="spark-warehouse-")
    conf = SparkConf().set("spark.sql.warehouse.dir", _warehouse.name)
    conf.setMaster(url).setAppName(APPLICATION)
    for name, value in _APPLICATION_SETTINGS.items():
        conf.set(name, value)
    if _is_on_this_machine(url):
        conf.setIfMissing("spark.driver.bindAddress", "127.0.0.1").setIfMissing("spark.driver.host", "127.0.0.1")
    if settings.memory_bytes is not None:
        conf.setIfMissing("spark.driver.memory", f"{settings.memory_bytes >> 20}m")
    # The Java process's stderr is discarded, since it could repeat messages of the executors.
    gateway = launch_gateway(conf=conf, popen_kwargs={"stderr": subprocess.DEVNULL})  # type: ignore[no-untyped-call]
    context = SparkContext(gateway=gateway, conf=conf)
    context.setLogLevel("OFF")
    if context.pythonExec == "python3" and _is_on_this_machine(url):
        context.pythonExec = sys.executable
    return SparkSession(context)


def _open_connect(url: str) -> Any:
    from pyspark.sql.connect.session import SparkSession

    return SparkSession.builder.remote(url).appName(APPLICATION).create()


def _within(seconds: float, action: Callable[[], T]) -> T:
    """Run an action with a timeout, because it may hang; convert its errors to this project's."""
    try:
        return _result_within(seconds, action)
    except Exception as error:
        cause = type(error).__name__
    raise ConfigurationError(
        f"The Spark cluster could not be opened ({cause}).",
        remedy="Check CLEANROOM_ENGINE_URL, that Java 17 is installed (JAVA_HOME), and that Spark on the cluster "
        "has the same version as pyspark.",
    )


def _result_within(seconds: float, action: Callable[[], T], give_up: Callable[[], None] | None = None) -> T:
    """Run an action with a timeout, in a thread that does not keep the process alive.

    Raises:
        TimeoutError: It took longer, and was cancelled.
    """
    future: Future[T] = Future()

    def run() -> None:
        try:
            future.set_result(action())
        except BaseException as error:
            future.set_exception(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        return future.result(seconds)
    except TimeoutError:
        if give_up is not None:
            give_up()
            # Python aborts if it exits while the thread returns from Arrow.
            thread.join(_GIVE_UP_SECONDS)
        raise


def _addresses(url: str) -> list[tuple[str, int]]:
    found = re.fullmatch(r"(spark|sc)://([^/;?]+)/?(;.*)?", url)
    if found is None:
        raise _invalid_url()
    default = 15_002 if found.group(1) == "sc" else 7_077
    addresses = []
    for address in found.group(2).split(","):
        host, _, port = address.rpartition(":") if re.search(r":\d+$", address) else (address, "", default)
        addresses.append((host.strip("[]"), int(port)))
    return addresses


def _check_reachable(url: str) -> None:
    if re.fullmatch(r"local(\[(\d+|\*)\])?", url):
        return
    for address in _addresses(url):
        try:
            socket.create_connection(address, timeout=_CONNECT_SECONDS).close()
        except OSError:
            continue
        return
    raise ConfigurationError(
        "The Spark cluster does not respond.",
        remedy="Check CLEANROOM_ENGINE_URL, and start the cluster.",
    )


def _is_on_this_machine(url: str) -> bool:
    return url.startswith("local") or all(
        host in ("localhost", "::1") or host.startswith("127.") for host, _ in _addresses(url)
    )


def _invalid_url() -> ConfigurationError:
    return ConfigurationError(
        "The engine's URL is invalid.", remedy="Use spark://host:port, local[4] or sc://host:port."
    )
