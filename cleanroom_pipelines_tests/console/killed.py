"""A server of the console that is killed and started again.

Lives here: the process, which is forked from a preloaded one because each form needs another.
Keep out: what must hold afterwards.
"""

import multiprocessing
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path

from cleanroom_pipelines.console.app import Console
from cleanroom_pipelines.server.starting import serve

from ..server.server import installation_at

_CONTEXT = multiprocessing.get_context("forkserver")
# imported once, by the process that the servers are forked from
_CONTEXT.set_forkserver_preload([__name__, "uvicorn", "uvicorn.protocols.http.h11_impl", "duckdb"])


@contextmanager
def killable(home: Path) -> Iterator[tuple[str, BaseProcess]]:
    """Serve a home from another process until the block ends; yields the address and the process."""
    here, there = _CONTEXT.Pipe()
    process = _CONTEXT.Process(target=_serve, args=(home, there), daemon=True)
    process.start()
    there.close()
    try:
        yield here.recv(), process
    finally:
        process.kill()
        process.join()


def _serve(home: Path, pipe: Connection) -> None:
    installation = installation_at(home, CLEANROOM_REQUESTS_PER_SECOND="1000000")
    serve(installation, "127.0.0.1", 0, worker=False, on_ready=pipe.send, make_site=Console)
