"""Sessions of Apache Spark.

Lives here: one Spark context per process or one Connect session per engine, their settings, and whether the
executors can run our code.
Add here when a setting is needed for correct answers, or for no row to be shown or kept by Spark.
Keep out: what an operator tunes (memory of executors, cores, shuffles): that stands in spark-defaults.conf of
SPARK_CONF_DIR, which is read as always; and running statements (spark_engine).
"""

import atexit
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from cleanroom_pipelines.engine.base import EngineSettings
from cleanroom_pipelines.errors import ConfigurationError, EngineError

_CONNECT_SECONDS = 5
# A cluster may have to start its executors for the first task.
_FIRST_TASK_SECONDS = 90
_DRIVER_MEMORY_SHARE = 0.25
_LOCAL = re.compile(r"local(\[(\d+|\*)\])?")
_LOOPBACK = ("127.0.0.1", "localhost", "[::1]")

# For every session: answers must not depend on where the cluster is and how it is set up.
_SQL_SETTINGS = {
    "spark.sql.session.timeZone": "UTC",
    # ANSI errors quote the cell that they stumbled over. Without it a cast that fails gives NULL, and our queries
    # say TRY_CAST where a cell may be wrong, so nothing hangs on it.
    "spark.sql.ansi.enabled": "false",
    "spark.sql.caseSensitive": "false",
    "spark.sql.adaptive.enabled": "true",
    "spark.sql.parquet.compression.codec": "zstd",
    # INT96, the default, is read by few.
    "spark.sql.parquet.outputTimestampType": "TIMESTAMP_MICROS",
    # pandas and pyarrow write nanoseconds, which Spark refuses otherwise; `scan` makes times of them again.
    "spark.sql.legacy.parquet.nanosAsLong": "true",
    "spark.sql.parquet.mergeSchema": "false",
    "spark.sql.files.ignoreCorruptFiles": "false",
    "spark.sql.files.ignoreMissingFiles": "false",
    "spark.sql.execution.arrow.pyspark.enabled": "true",
    "spark.sql.execution.arrow.useLargeVarTypes": "false",
}
# For a context of ours: nothing that shows or keeps rows.
_SAFETY = {
    # Its pages show queries with the values bound in them, to whoever can reach the port.
    "spark.ui.enabled": "false",
    "spark.ui.showConsoleProgress": "false",
    "spark.eventLog.enabled": "false",
    # Errors of tasks quote rows.
    "spark.log.level": "OFF",
    "spark.executor.syncLogLevel.enabled": "true",
    "spark.sql.catalogImplementation": "in-memory",
}


@dataclass
class _Context:
    """The Spark context of this process."""

    url: str
    context: Any
    session: Any
    gateway: Any
    folder: Path
    is_checked: bool = False
    sessions: set[int] = field(default_factory=set)


_lock = threading.RLock()
_current: _Context | None = None
_checked_servers: set[str] = set()


@dataclass(frozen=True)
class SparkSessionHandle:
    """A session, and how to give it back.

    Args:
        session: Spark's session, classic or of Connect; both have the methods that the engine uses.
        is_remote: Whether it is one of Connect.
        is_local: Whether its tasks run inside this process's own Spark.
        close: Gives it back.
    """

    session: Any
    is_remote: bool
    is_local: bool
    close: Callable[[], None]


def open_session(settings: EngineSettings, url: str, check: Callable[[Any], tuple[str, str]]) -> SparkSessionHandle:
    """Open a session at a URL.

    Args:
        settings: Memory of the driver.
        url: `local[n]`, `spark://host:port[,host:port…]` or `sc://host:port[/;…]`.
        check: Runs one small task with a session, and tells the versions of our package and of Python there.

    Raises:
        ConfigurationError: No such kind of URL, pyspark is missing, nobody answers there, or the executors cannot
            run our code.
    """
    is_local = _LOCAL.fullmatch(url) is not None
    if not is_local and not url.startswith(("spark://", "sc://")):
        raise ConfigurationError(
            "The engine's URL is of no kind that is known here.",
            remedy="Leave CLEANROOM_ENGINE_URL empty for DuckDB, or give local[*], spark://host:port or sc://host:port.",
        )
    _check_package(url)
    if not is_local:
        _check_reachable(url)
    if url.startswith("sc://"):
        return _open_remote(url, check)
    return _open_classic(settings, url, check, is_local=is_local)


def _check_package(url: str) -> None:
    try:
        with warnings.catch_warnings():
            # That it does not support pandas 3 fully, on stderr of every command; we use its Arrow calls alone.
            warnings.simplefilter("ignore", FutureWarning)
            import pyspark.sql.pandas.functions
            import pyspark.testing.utils  # noqa: F401
        if url.startswith("sc://"):
            import grpc  # noqa: F401
            import grpc_status  # noqa: F401
            import zstandard  # noqa: F401
    except ImportError:
        missing = True
    else:
        missing = False
    if missing:
        raise ConfigurationError(
            "The engine is Apache Spark, and its packages are not installed here.",
            remedy="Install cleanroom-pipelines[spark].",
        )


def _addresses(url: str) -> list[tuple[str, int]]:
    scheme, rest = url.split("://", 1)
    addresses = []
    for each in rest.split("/", 1)[0].split(","):
        host, colon, port = each.rpartition(":")
        if not colon or not host or not port.isdigit():
            if scheme == "sc" and each:
                addresses.append((each, 15002))
                continue
            raise ConfigurationError(
                "The engine's URL names no host and port.", remedy=f"Write it as {scheme}://host:port."
            )
        addresses.append((host, int(port)))
    return addresses


def _is_loopback(url: str) -> bool:
    return "://" not in url or all(host in _LOOPBACK for host, _ in _addresses(url))


def _check_reachable(url: str) -> None:
    """Spark itself tries a master that does not answer for minutes."""
    for host, port in _addresses(url):
        try:
            with socket.create_connection((host.strip("[]"), port), timeout=_CONNECT_SECONDS):
                return
        except OSError:
            continue
    raise ConfigurationError(
        "Nobody answers at the engine's URL.",
        remedy="Start the cluster, or correct CLEANROOM_ENGINE_URL.",
    )


def _open_remote(url: str, check: Callable[[Any], tuple[str, str]]) -> SparkSessionHandle:
    from pyspark.sql.connect.session import SparkSession

    try:
        session = SparkSession.builder.remote(url).create()
        _set_all(session)
        cause = ""
    except Exception as error:  # gRPC has its own tree, and pyspark another
        cause = type(error).__name__
    if cause:
        raise ConfigurationError(
            f"The Spark Connect server gave no session ({cause}).", remedy="Look at the server's own log."
        )
    try:
        with _lock:
            if url not in _checked_servers:
                _check_executors(session, check)
                _checked_servers.add(url)
    except BaseException:
        session.stop()
        raise
    return SparkSessionHandle(session, is_remote=True, is_local=False, close=session.stop)


def _open_classic(
    settings: EngineSettings, url: str, check: Callable[[Any], tuple[str, str]], *, is_local: bool
) -> SparkSessionHandle:
    global _current  # noqa: PLW0603 a process has one Spark context
    with _lock:
        if _current is not None and (_current.url != url or _current.context._jsc is None):
            if _current.sessions:
                raise ConfigurationError(
                    "This process uses another Spark cluster at the moment.",
                    remedy="Close its engines first; a process has one Spark context.",
                )
            _stop()
        if _current is None:
            _current = _start(settings, url)
        current = _current
        try:
            session = current.session.newSession()
            _set_all(session)
            if not current.is_checked:
                _check_executors(session, check)
                current.is_checked = True
        except BaseException:
            if not current.sessions:
                _stop()
            raise
        current.sessions.add(id(session))

    def close() -> None:
        with _lock:
            current.sessions.discard(id(session))

    return SparkSessionHandle(session, is_remote=False, is_local=is_local, close=close)


def _set_all(session: Any) -> None:
    for name, value in _SQL_SETTINGS.items():
        session.conf.set(name, value)


def _start(settings: EngineSettings, url: str) -> _Context:
    from pyspark import SparkConf, SparkContext
    from pyspark.java_gateway import launch_gateway
    from pyspark.sql import SparkSession

    # Not the engine's scratch: the context outlives the engine that started it.
    folder = Path(tempfile.mkdtemp(prefix="cleanroom-spark-"))
    before = _interrupt_handler()
    gateway = None
    try:
        launch = SparkConf(loadDefaults=False)
        if settings.memory_bytes:
            launch.set("spark.driver.memory", f"{settings.memory_bytes >> 20}m")
        with _default_driver_memory():
            # Spark greets on stderr, and its workers print there what went wrong, rows included.
            gateway = launch_gateway(launch, {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL})
        conf = SparkConf(_jvm=gateway.jvm)
        for name, value in _SAFETY.items():
            conf.set(name, value)
        conf.setMaster(url).setAppName("cleanroom_pipelines")
        conf.set("spark.sql.warehouse.dir", (folder / "warehouse").as_uri())
        for name, value in _defaults(url, folder).items():
            conf.setIfMissing(name, value)
        context = SparkContext(conf=conf, gateway=gateway)
        context.setLogLevel("OFF")
        if _is_loopback(url):
            context.pythonExec = sys.executable
        else:
            context.pythonExec = conf.get("spark.pyspark.python") or context.pythonExec
        return _Context(url, context, SparkSession(context), gateway, folder)
    except Exception as error:  # Py4J and pyspark have trees of their own
        cause = type(error).__name__
    finally:
        if before is not None:
            signal.signal(signal.SIGINT, before)
    _end(gateway, folder)
    raise ConfigurationError(
        f"Apache Spark could not be started ({cause}).",
        remedy="Install Java 17, set JAVA_HOME where it is not found, and look at the master of CLEANROOM_ENGINE_URL.",
    )


def _interrupt_handler() -> Any:
    """Ctrl-C as it is handled now: a Spark context puts a handler of its own in its place."""
    if threading.current_thread() is threading.main_thread():
        return signal.getsignal(signal.SIGINT)
    return None


@contextmanager
def _default_driver_memory() -> Iterator[None]:
    # Spark's own default of 1 GB is too small for a driver that is the executor too. This variable counts less than
    # spark-defaults.conf, and there is no other way to say so little.
    name = "SPARK_DRIVER_MEMORY"
    if name in os.environ:
        yield
        return
    pages = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    os.environ[name] = f"{max(1024, int(pages * _DRIVER_MEMORY_SHARE) >> 20)}m"
    try:
        yield
    finally:
        del os.environ[name]


def _defaults(url: str, folder: Path) -> dict[str, str]:
    """What holds unless spark-defaults.conf says otherwise."""
    defaults = {"spark.driver.maxResultSize": "4g"}
    if _is_loopback(url):
        defaults |= {"spark.driver.host": "127.0.0.1", "spark.driver.bindAddress": "127.0.0.1"}
    if "://" not in url:
        defaults["spark.local.dir"] = str(folder)
    return defaults


def _check_executors(session: Any, check: Callable[[Any], tuple[str, str]]) -> None:
    """Run one task, and see that it can run what we send."""
    answers: list[tuple[str, str]] = []
    causes: list[str] = []

    def ask() -> None:
        try:
            answers.append(check(session))
        except EngineError as error:
            causes.append(error.attributes.get("cause", ""))
        except Exception as error:
            causes.append(type(error).__name__)

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(_FIRST_TASK_SECONDS)
    if thread.is_alive():
        session.interruptAll()
        raise ConfigurationError(
            f"No executor of the Spark cluster took a task within {_FIRST_TASK_SECONDS} seconds.",
            remedy="Look at the cluster's own pages: whether it has workers, with memory and cores to spare, that can "
            "reach this machine.",
        )
    if not answers:
        raise ConfigurationError(
            f"The executors of the Spark cluster could not run a task ({causes[0]}).",
            remedy="They need the Python version and packages of this machine; PYSPARK_PYTHON names their Python.",
        )
    ours = (version("cleanroom-pipelines"), python_version())
    if answers[0] != ours:
        raise ConfigurationError(
            f"The executors of the Spark cluster have cleanroom-pipelines {answers[0][0] or 'not installed'} and "
            f"Python {answers[0][1]}; here are {ours[0]} and {ours[1]}.",
            remedy="Give them the same environment; PYSPARK_PYTHON names their Python.",
        )


def python_version() -> str:
    """Major and minor version, which must be the same on both sides of cloudpickle."""
    return f"{sys.version_info.major}.{sys.version_info.minor}"


def _stop() -> None:
    """Stop this process's Spark, context and Java process."""
    global _current  # noqa: PLW0603 a process has one Spark context
    with _lock:
        current, _current = _current, None
        if current is None:
            return
        try:
            current.context.stop()
        except Exception:  # noqa: S110 the Java process may be gone already; it is ended below in any case
            pass
        _end(current.gateway, current.folder)


def _end(gateway: Any, folder: Path) -> None:
    from pyspark import SparkContext

    if gateway is not None:
        process = gateway.proc
        SparkContext._gateway = None
        SparkContext._jvm = None
        try:
            gateway.shutdown()
        except Exception:  # noqa: S110 as above
            pass
        if process is not None:
            # Java ends when its input does.
            process.stdin.close()
            try:
                process.wait(timeout=20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
    shutil.rmtree(folder, ignore_errors=True)


def stop_spark() -> None:
    """End this process's Spark context, for tests and at exit."""
    _stop()


atexit.register(_stop)
