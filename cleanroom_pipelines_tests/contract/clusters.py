"""Real Spark clusters on loopback, for tests.

Lives here: `standalone_cluster` (a master and its workers) and `connect_server`, context managers that yield a URL
for CLEANROOM_ENGINE_URL and end every process that they started; and the settings of Java in tests.
Keep out: tests that use them.

Spark's processes start others (a worker its executors, an executor its Python workers), so each is started in its
own process group, and the group is ended. A process has only one Spark application: a test that uses a cluster in
its own process starts another process for a second cluster.
"""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pyspark

from cleanroom_pipelines_tests.ports import free_port

SPARK_HOME = Path(pyspark.__file__).parent
_START_SECONDS = 90
_END_SECONDS = 20
_REGISTERED = "Successfully registered with master"
# These processes end before the work of the second compiler pays: without it and with the simplest collector,
# opening Spark and its first queries took 14 CPU seconds instead of 27, and the same queries later 2.3, not 4.3.
_JAVA_OPTIONS = "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC"


def write_settings(folder: Path) -> Path:
    """Write spark-defaults.conf for tests into a folder, for SPARK_CONF_DIR: only how Java compiles.

    Returns:
        The folder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lines = [f"spark.{process}.extraJavaOptions {_JAVA_OPTIONS}\n" for process in ("driver", "executor")]
    (folder / "spark-defaults.conf").write_text("".join(lines))
    return folder


@contextmanager
def standalone_cluster(
    folder: Path, *, workers: int = 2, cores: int = 1, memory: str = "1g", python: str = sys.executable
) -> Iterator[str]:
    """Start a master and workers.

    Args:
        folder: For logs and work directories.
        workers: Number of workers.
        cores: Number of simultaneous tasks on each.
        memory: Memory of the executors of each, in Spark's notation.
        python: The Python of the executors.

    Returns:
        A context manager that yields `spark://127.0.0.1:port` once all workers have registered.
    """
    port = free_port()
    url = f"spark://127.0.0.1:{port}"
    environment = _environment(folder, PYSPARK_PYTHON=python)
    with ExitStack() as stack:
        master = ["org.apache.spark.deploy.master.Master", "--host", "127.0.0.1", "--port", str(port)]
        stack.enter_context(_class(folder, "master", [*master, "--webui-port", "0"], environment))
        _wait(lambda: _is_open(port), "the master", folder)
        for number in range(workers):
            work = folder / f"worker-{number}"
            arguments = ["--host", "127.0.0.1", "--webui-port", "0", "--cores", str(cores), "--memory", memory]
            command = ["org.apache.spark.deploy.worker.Worker", *arguments, "--work-dir", str(work), url]
            stack.enter_context(_class(folder, f"worker-{number}", command, environment))
        for number in range(workers):
            log = folder / f"worker-{number}.log"
            _wait(lambda log=log: _REGISTERED in log.read_text(errors="replace"), "a worker", folder)
        yield url


@contextmanager
def connect_server(folder: Path, *, master: str = "local[2]", python: str = sys.executable) -> Iterator[str]:
    """Start a Spark Connect server.

    Args:
        folder: For its log and its scratch files.
        master: The cluster that runs its tasks.
        python: The Python of the executors.

    Returns:
        A context manager that yields `sc://127.0.0.1:port` once the server responds.
    """
    port = free_port()
    settings = {
        "spark.connect.grpc.binding.address": "127.0.0.1",
        "spark.connect.grpc.binding.port": str(port),
        "spark.ui.enabled": "false",
        "spark.sql.warehouse.dir": (folder / "warehouse").as_uri(),
        # As on clusters with HDFS: a path without a scheme means nothing here.
        "spark.hadoop.fs.defaultFS": "hdfs://127.0.0.1:1/",
    }
    # spark-submit runs its main class in this very process; spark-class knows none of its settings.
    command = [str(SPARK_HOME / "bin" / "spark-submit"), "--master", master]
    for name, value in settings.items():
        command += ["--conf", f"{name}={value}"]
    command += ["--class", "org.apache.spark.sql.connect.service.SparkConnectServer", "spark-internal"]
    # It counts for this server, which is a driver, as well.
    environment = _environment(folder, daemon_memory="1g", PYSPARK_PYTHON=python)
    with _process(folder, "connect", command, environment):
        _wait(lambda: _is_open(port), "the Connect server", folder)
        yield f"sc://127.0.0.1:{port}"


def _environment(folder: Path, *, daemon_memory: str = "256m", **more: str) -> Mapping[str, str]:
    conf = write_settings(folder / "conf")
    # Everything of the processes stays on loopback and in the folder; nothing of the developer's own Spark counts.
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("SPARK_", "PYSPARK_"))}
    mine = {
        "SPARK_HOME": str(SPARK_HOME),
        "SPARK_CONF_DIR": str(conf),
        "SPARK_LOCAL_IP": "127.0.0.1",
        "SPARK_LOCAL_DIRS": str(folder / "local"),
        "SPARK_DAEMON_MEMORY": daemon_memory,
        "SPARK_DAEMON_JAVA_OPTS": _JAVA_OPTIONS,
    }
    return kept | mine | more


@contextmanager
def _class(folder: Path, name: str, command: list[str], environment: Mapping[str, str]) -> Iterator[None]:
    with _process(folder, name, [str(SPARK_HOME / "bin" / "spark-class"), *command], environment):
        yield


@contextmanager
def _process(folder: Path, name: str, command: list[str], environment: Mapping[str, str]) -> Iterator[None]:
    with (folder / f"{name}.log").open("wb") as log:
        process = subprocess.Popen(
            command,
            cwd=folder,
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        yield
    finally:
        _end(process)


def _end(process: "subprocess.Popen[bytes]") -> None:
    for sign in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, sign)
            process.wait(_END_SECONDS)
        except (ProcessLookupError, subprocess.TimeoutExpired):
            continue
    process.wait(_END_SECONDS)


def _wait(holds: Callable[[], bool], what: str, folder: Path) -> None:
    until = time.monotonic() + _START_SECONDS
    while not holds():
        if time.monotonic() > until:
            raise TimeoutError(f"{what} did not start within {_START_SECONDS} s; its log is in {folder}")
        time.sleep(0.1)


def _is_open(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def java_processes_of(folder: Path) -> list[int]:
    """Return the Java processes that work in a folder; there are none after a cluster has ended."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if (entry / "cwd").readlink().is_relative_to(folder):
                    found.append(int(entry.name))
            except OSError:
                continue
    return found
