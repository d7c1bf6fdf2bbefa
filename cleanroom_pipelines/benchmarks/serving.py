"""Shared code of the benchmarks of the HTTP server: a real server, paced clients, and timings.

Lives here: starting the server, running clients, percentiles, and the machine's part in them.
Add here when several benchmarks need the same.
Keep out: what is requested (`load.py`, `console.py`).
"""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

_SECONDS_TO_START, _SECONDS_TO_END = 120.0, 30.0


def percentiles(seconds: Sequence[float]) -> dict[str, float]:
    """Summarise latencies: their number, and nearest-rank percentiles in milliseconds."""
    ordered = sorted(seconds) or [0.0]
    ranks = {f"p{share}": ordered[-(-len(ordered) * share // 100) - 1] * 1000 for share in (50, 95, 99)}
    return {"n": len(seconds), **ranks, "max": ordered[-1] * 1000}


@contextmanager
def serving(home: Path, log: Path, *, worker: bool = False) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """Run a real server on an installation's home, without the caller's CLEANROOM_ environment variables.

    Args:
        home: The installation's folder.
        log: File for what the server prints.
        worker: Whether it also does pending work.
    """
    environment = {name: value for name, value in os.environ.items() if not name.startswith("CLEANROOM_")}
    environment |= {"CLEANROOM_HOME": str(home), "CLEANROOM_MAX_UNFINISHED_JOBS": "1000000"}
    command = [sys.executable, "-m", "cleanroom_pipelines.cli.main", "serve", "--port", "0"]
    command += [] if worker else ["--no-worker"]
    with log.open("wb") as stream:
        process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=stream)  # noqa: S603
    # kill a server that does not print its URL; this also closes the pipe
    timer = threading.Timer(_SECONDS_TO_START, process.kill)
    timer.start()
    try:
        assert process.stdout is not None
        url = process.stdout.readline().decode().strip()
        timer.cancel()
        if not url:
            raise RuntimeError(f"The server did not start: {log.read_text(errors='replace')[-1000:]}")
        yield url, process
    finally:
        timer.cancel()
        process.terminate()
        try:
            process.wait(_SECONDS_TO_END)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        assert process.stdout is not None
        process.stdout.close()


class PacedClient(Protocol):
    """A client that sends requests when they are due."""

    def run(self, start: float, seconds: float, pace_per_second: float) -> None:
        """Send requests at the given pace for `seconds` seconds; `start` is on the monotonic clock."""


def drive(
    clients: Sequence[PacedClient], seconds: float, pace_per_second: float, progress: Callable[[float, str], None]
) -> float:
    """Run all clients in parallel until their time is over, and return the elapsed seconds."""
    start = time.monotonic() + 0.5
    threads = [threading.Thread(target=client.run, args=(start, seconds, pace_per_second)) for client in clients]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        progress(min(1.0, max(0.0, (time.monotonic() - start) / seconds)), "calling")
        threads[0].join(0.2) if threads[0].is_alive() else time.sleep(0.05)
    return time.monotonic() - start


def cpu_seconds(pid: int) -> float:
    """Return the CPU time of a process so far."""
    import psutil

    times = psutil.Process(pid).cpu_times()
    return float(times.user + times.system)


def fsync_milliseconds(folder: Path) -> float:
    """Measure the median time to write 4 KiB to disk with fsync, in milliseconds."""
    took = []
    with (folder / "fsync").open("wb") as stream:
        for _ in range(21):
            stream.write(bytes(4096))
            stream.flush()
            begun = time.perf_counter()
            os.fsync(stream.fileno())
            took.append(time.perf_counter() - begun)
    return sorted(took)[10] * 1000
