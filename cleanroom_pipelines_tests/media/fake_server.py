"""A fake server on loopback that returns queued responses.

Lives here: recording requests, and returning the responses that a test queued or computes for a method.
Keep out: anything of the real server: these tests are about the client only.
"""

import json
import ssl
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any
from urllib.parse import parse_qs, urlsplit

from cleanroom_pipelines.media import CustomAudience
from cleanroom_pipelines.media.protocol import PREFIX

DROP = "drop the connection"


@dataclass
class Sent:
    """A received request."""

    method: str
    path: str
    query: dict[str, list[str]]
    headers: dict[str, str]
    body: bytes

    @property
    def params(self) -> Any:
        return json.loads(self.body)


@dataclass
class Answer:
    """A response, possibly cut off by closing the connection."""

    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    cut_at: int | None = None


def custom_audience(id_: str, name: str, definition: Mapping[str, Any] | None = None) -> CustomAudience:
    """Return an audience as the server would."""
    return CustomAudience.from_dict({"id": id_, "name": name, "definition": definition or {"kind": "lookalike"}})


def result(value: Any) -> Answer:
    return Answer(body=json.dumps({"result": value}).encode())


def error_answer(status: int, type_: str, message: str = "No.", **attributes: Any) -> Answer:
    error = {"type": type_, "message": message, "remedy": "Do right.", "attributes": attributes}
    return Answer(status, json.dumps({"error": error}).encode())


class FakeServer:
    """Returns the responses queued for each method; the last one is repeated."""

    def __init__(self) -> None:
        self.sent: list[Sent] = []
        self._answers: dict[str, deque[Any]] = defaultdict(deque)
        self._worked_out: dict[str, Callable[[Sent], Answer]] = {}
        self.url = ""

    def forget(self) -> None:
        """Clear all recorded requests and queued responses."""
        self.sent.clear()
        self._answers.clear()
        self._worked_out.clear()

    def answer(self, method: str, *answers: Any) -> None:
        """Queue responses: an Answer, DROP, or a result as plain data."""
        self._answers[method] = deque(answers)

    def work_out(self, method: str, answer: Callable[[Sent], Answer]) -> None:
        self._worked_out[method] = answer

    def of(self, method: str) -> list[Sent]:
        """Return the recorded requests of a method."""
        return [sent for sent in self.sent if sent.path == f"{PREFIX}/{method}"]

    def next(self, sent: Sent) -> Any:
        self.sent.append(sent)
        method = sent.path.removeprefix(f"{PREFIX}/")
        if method in self._worked_out:
            return self._worked_out[method](sent)
        queue = self._answers[method]
        if not queue:
            return error_answer(404, "NotFoundError", "Nothing was queued.")
        answer = queue[0] if len(queue) == 1 else queue.popleft()
        return answer if isinstance(answer, Answer) or answer is DROP else result(answer)


@contextmanager
def serving(tls: ssl.SSLContext | None = None) -> Iterator[FakeServer]:
    fake = FakeServer()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = -1  # head and body leave together: apart, the second waits for an acknowledgement

        def _any(self) -> None:
            parts = urlsplit(self.path)
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            headers = {name.lower(): value for name, value in self.headers.items()}
            answer = fake.next(Sent(self.command, parts.path, parse_qs(parts.query), headers, body))
            if answer is DROP:
                self.close_connection = True
                return
            self.send_response(answer.status)
            for name, value in answer.headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(answer.body)))
            self.end_headers()
            self.wfile.write(answer.body[: answer.cut_at])
            self.close_connection = answer.cut_at is not None

        do_GET = do_POST = do_PUT = _any  # noqa: N815 - these names are the base class's

        def handle(self) -> None:
            # a client that does not trust the certificate goes away in the middle
            with suppress(OSError):
                super().handle()

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    if tls is not None:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        fake.url = f"{'http' if tls is None else 'https'}://127.0.0.1:{server.server_port}"
        yield fake
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
