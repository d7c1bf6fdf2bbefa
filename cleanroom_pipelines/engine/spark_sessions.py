"""Sessions on a Spark cluster.

Lives here: opening one by its address, the settings it needs, and finding out soon that it cannot work.
Add here when a cluster is reached in a further way.
Keep out: queries and data (spark_engine).

A process has one Spark application at most, which all its engines share, each with a session (and names) of its
own. It ends when no engine has used it for half a minute: a cluster gives an application its cores for as long as
it lives, and other workers wait for theirs. Spark Connect gives every engine a session on the server. What an
operator sets in spark-defaults.conf (SPARK_CONF_DIR) holds, but for what keeps data where they belong:

- no web pages of the application: they show the text and the values of queries;
- no errors for cells (ANSI mode off): its errors quote the cell, and executors log them. Our queries ask for NULL
  with TRY_CAST where a cell may be wrong;
- nothing logged by the driver, whose messages repeat the executors' errors.

Spill and shuffle files lie plain on the executors' disks unless the operator sets spark.io.encryption.enabled.
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

# Needed for right answers, whatever the cluster's defaults.
_SESSION = {
    "spark.sql.session.timeZone": "UTC",
    "spark.sql.ansi.enabled": "false",
    "spark.sql.caseSensitive": "false",
    "spark.sql.legacy.parquet.nanosAsLong": "true",
    # A line of text with too many or too few cells is only seen when all its cells are read.
    "spark.sql.csv.parser.columnPruning.enabled": "false",
    "spark.sql.parquet.compression.codec": "zstd",
    "spark.sql.parquet.outputTimestampType": "TIMESTAMP_MICROS",
    "spark.sql.sources.partitionColumnTypeInference.enabled": "false",
    "spark.sql.execution.arrow.pyspark.enabled": "true",
}
_APPLICATION_SETTINGS = {
    "spark.ui.enabled": "false",
    # It keeps the same on disk.
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
# Spark makes this folder, ours stays empty, and it would be spark-warehouse wherever a command is run.
_warehouse: "tempfile.TemporaryDirectory[str] | None" = None


def open_session(url: str, settings: EngineSettings) -> Any:
    """Open a session of its own on a cluster.

    Args:
        url: `spark://host:port`, `local`, `local[n]` or `sc://host:port`.
        settings: Memory and threads of this process's part.

    Returns:
        A pyspark SparkSession.

    Raises:
        ConfigurationError: pyspark or Java is missing, the address is none, or nobody answers there.
    """
    if find_spec("pyspark") is None:
        raise ConfigurationError(
            "The engine is a Spark cluster, and pyspark is not installed.",
            remedy="Install 'cleanroom-pipelines[spark]', or unset CLEANROOM_ENGINE_URL.",
        )
    # It prints the whole text of an error, with the query's plan.
    logging.getLogger("SQLQueryContextLogger").disabled = True
    warnings.filterwarnings("ignore", message="PySpark does not yet fully support pandas", category=FutureWarning)
    _check_answers(url)
    if url.startswith("sc://"):
        session = _within(_OPEN_SECONDS, lambda: _open_connect(url))
    else:
        session = _application(url, settings).newSession()
    for name, value in _SESSION.items():
        session.conf.set(name, value)
    return session


def keep_event_log() -> None:
    """Leave the event log to spark-defaults.conf: for the benchmark, whose data are made up."""
    _APPLICATION_SETTINGS.pop("spark.eventLog.enabled", None)


def close_session(session: Any, url: str) -> None:
    """End a session; the application of this process stays a while for the next engine."""
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
    """Stop this process's application, and the Java process behind it; within the lock."""
    global _context  # noqa: PLW0603 - Spark allows one application a process
    from pyspark import SparkContext

    if _context is None:
        return
    context = _context[1].sparkContext
    _context = None
    # Spark of the first try that failed may not answer any more.
    with suppress(Exception):
        context.stop()
    gateway, SparkContext._gateway, SparkContext._jvm = SparkContext._gateway, None, None
    if gateway is not None:
        with suppress(Exception):
            gateway.shutdown()
        with suppress(Exception):
            gateway.proc.stdin.close()


def is_checked(url: str) -> bool:
    """Whether an engine of this process has found executors there that can work."""
    return url in _checked


def check_executors(url: str, ask: Callable[[], tuple[str, str]], interrupt: Callable[[], None]) -> None:
    """Find out whether executors exist and have this package, once per process and address.

    Args:
        url: The address.
        ask: Runs a task and gives the executor's version of this package and of Python.
        interrupt: Gives the task up.

    Raises:
        ConfigurationError: No executor in two minutes, or one without this package or with another version.
    """
    expected = versions()
    try:
        found = _result_within(EXECUTOR_SECONDS, ask, interrupt)
    except TimeoutError:
        raise ConfigurationError(
            "The Spark cluster gave no executor within two minutes.",
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
    """The version of this package and of Python, of the process that asks."""
    return version("cleanroom-pipelines"), f"{sys.version_info.major}.{sys.version_info.minor}"


def _application(url: str, settings: EngineSettings) -> Any:
    """The session of this process's application, started if there is none."""
    global _context, _n_engines  # noqa: PLW0603 - Spark allows one application a process
    with _lock:
        if _context is not None and (not _is_alive(_context[1]) or (_context[0] != url and _n_engines == 0)):
            _end_application()
        if _context is None:
            _context = (url, _within(_OPEN_SECONDS, lambda: _start(url, settings)))
        elif _context[0] != url:
            raise ConfigurationError(
                "This process works with another Spark cluster already.", remedy="Start another process."
            )
        _n_engines += 1
        return _context[1]


def _is_alive(session: Any) -> bool:
    return session.sparkContext._jsc is not None and not session.sparkContext._jsc.sc().isStopped()


def _start(url: str, settings: EngineSettings) -> Any:
    from pyspark import SparkConf, SparkContext
    from pyspark.java_gateway import launch_gateway
    from pyspark.sql import SparkSession

    global _warehouse  # noqa: PLW0603 - it is the application's, and goes with this process
    _warehouse = _warehouse or tempfile.TemporaryDirectory(prefix="spark-warehouse-")
    conf = SparkConf().set("spark.sql.warehouse.dir", _warehouse.name)
    conf.setMaster(url).setAppName(APPLICATION)
    for name, value in _APPLICATION_SETTINGS.items():
        conf.set(name, value)
    if _is_on_this_machine(url):
        conf.setIfMissing("spark.driver.bindAddress", "127.0.0.1").setIfMissing("spark.driver.host", "127.0.0.1")
    if settings.memory_bytes is not None:
        conf.setIfMissing("spark.driver.memory", f"{settings.memory_bytes >> 20}m")
    # What a Java process says on stderr is for nobody here, and could repeat what executors say.
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
    """Run what can hang for minutes, and tell what went wrong in our words."""
    try:
        return _result_within(seconds, action)
    except Exception as error:
        cause = type(error).__name__
    raise ConfigurationError(
        f"The Spark cluster could not be opened ({cause}).",
        remedy="Check CLEANROOM_ENGINE_URL, that Java 17 is installed (JAVA_HOME), and that the cluster's Spark "
        "has the version of pyspark.",
    )


def _result_within(seconds: float, action: Callable[[], T], give_up: Callable[[], None] | None = None) -> T:
    """What an action gives, in a thread that nobody waits for when the process ends.

    Raises:
        TimeoutError: It takes longer, and was given up.
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
            # Python aborts if it ends while the thread comes back from Arrow.
            thread.join(_GIVE_UP_SECONDS)
        raise


def _addresses(url: str) -> list[tuple[str, int]]:
    found = re.fullmatch(r"(spark|sc)://([^/;?]+)/?(;.*)?", url)
    if found is None:
        raise _no_address()
    default = 15_002 if found.group(1) == "sc" else 7_077
    addresses = []
    for address in found.group(2).split(","):
        host, _, port = address.rpartition(":") if re.search(r":\d+$", address) else (address, "", default)
        addresses.append((host.strip("[]"), int(port)))
    return addresses


def _check_answers(url: str) -> None:
    if re.fullmatch(r"local(\[(\d+|\*)\])?", url):
        return
    for address in _addresses(url):
        try:
            socket.create_connection(address, timeout=_CONNECT_SECONDS).close()
        except OSError:
            continue
        return
    raise ConfigurationError(
        "Nobody answers at the Spark cluster's address.",
        remedy="Check CLEANROOM_ENGINE_URL, and start the cluster.",
    )


def _is_on_this_machine(url: str) -> bool:
    return url.startswith("local") or all(
        host in ("localhost", "::1") or host.startswith("127.") for host, _ in _addresses(url)
    )


def _no_address() -> ConfigurationError:
    return ConfigurationError(
        "The engine's address is none.", remedy="Give spark://host:port, local[4] or sc://host:port."
    )
