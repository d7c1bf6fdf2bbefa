"""Requests that stall.

Contract: a connection is closed if its request does not arrive in time: before its first byte, within its head or
its body, dripping or not, also after an earlier request. It is kept if its body makes progress, between two
requests, and while it waits for the server.
"""

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from cleanroom_pipelines.server.starting import make_server

from .. import worlds

SECONDS = 0.4
GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
POST = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n"


class Application:
    """Answers each request with how long its body was, once it may."""

    def __init__(self) -> None:
        self.may_answer = threading.Event()
        self.may_answer.set()
        self.n_disconnected = 0

    async def __call__(self, scope: Any, receive: Callable[[], Any], send: Callable[[Any], Any]) -> None:
        import asyncio

        n_bytes = 0
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                self.n_disconnected += 1
                return
            n_bytes += len(message["body"])
            if not message.get("more_body"):
                break
        while not self.may_answer.is_set():
            await asyncio.sleep(0.02)
        body = str(n_bytes).encode()
        headers = [(b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})


@pytest.fixture
def application() -> Application:
    return Application()


@pytest.fixture
def address(application: Application) -> Iterator[tuple[str, int]]:
    server = make_server(application, seconds_to_arrive=SECONDS)  # type: ignore[arg-type]
    server.config.lifespan = "off"
    listening = socket.create_server(("127.0.0.1", 0))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    worlds.wait_until(lambda: server.started, seconds=30, what="the server")
    yield listening.getsockname()
    application.may_answer.set()
    server.should_exit = True
    thread.join(30)


@pytest.fixture
def connect(address: tuple[str, int]) -> Iterator[Callable[[], socket.socket]]:
    with ExitStack() as stack:
        yield lambda: stack.enter_context(socket.create_connection(address, timeout=60))


def is_closed(connection: socket.socket) -> bool:
    """Wait for the end of a connection; false if something is answered on it."""
    try:
        return connection.recv(1) == b""
    except ConnectionResetError:
        return True


def answer(connection: socket.socket) -> bytes:
    got = b""
    while b"\r\n\r\n" not in got:
        got += connection.recv(1000)
    head, _, body = got.partition(b"\r\n\r\n")
    length = next(int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
    while len(body) < length:
        body += connection.recv(1000)
    return body


@pytest.mark.parametrize("begun", [b"", b"G", GET[:-2], POST % 10, POST % 10 + b"12345"], ids=range(5))
def test_a_stalled_request_is_closed(connect: Callable[[], socket.socket], begun: bytes) -> None:
    connection = connect()
    connection.sendall(begun)
    assert is_closed(connection)


def test_the_application_is_notified(connect: Callable[[], socket.socket], application: Application) -> None:
    connection = connect()
    connection.sendall(POST % 10 + b"1")
    assert is_closed(connection)
    worlds.wait_until(lambda: application.n_disconnected == 1, seconds=30, what="the disconnect")


@pytest.mark.parametrize("begun", [GET[:10], POST % 1000])
def test_dripping_is_not_progress(connect: Callable[[], socket.socket], begun: bytes) -> None:
    connection = connect()
    connection.sendall(begun)
    connection.settimeout(SECONDS / 20)
    for _ in range(2000):
        try:
            connection.sendall(b"x")
            assert connection.recv(1) == b""
            break
        except TimeoutError:
            continue
        except (BrokenPipeError, ConnectionResetError):
            break
    else:
        pytest.fail("it was kept")


def test_a_stalled_second_request_is_closed(connect: Callable[[], socket.socket]) -> None:
    connection = connect()
    connection.sendall(GET)
    assert answer(connection) == b"0"
    connection.sendall(GET[:10])
    assert is_closed(connection)


def test_between_two_requests_a_connection_is_kept(connect: Callable[[], socket.socket]) -> None:
    kept, other = connect(), connect()
    kept.sendall(GET)
    assert answer(kept) == b"0"
    assert is_closed(other), "as long as that one is waited for"
    kept.sendall(GET)
    assert answer(kept) == b"0"


def test_a_body_that_makes_progress_may_take_longer(connect: Callable[[], socket.socket]) -> None:
    """It outlives three connections that do not, one after the other."""
    part = bytes(20_000)
    slow = connect()
    slow.sendall(POST % (4 * len(part)))
    for _ in range(3):
        slow.sendall(part)
        other = connect()
        other.settimeout(SECONDS / 2)
        with pytest.raises(TimeoutError):
            other.recv(1)
    slow.sendall(part)
    assert answer(slow) == str(4 * len(part)).encode()


def test_a_client_waiting_for_the_server_is_kept(
    connect: Callable[[], socket.socket], application: Application
) -> None:
    application.may_answer.clear()
    waiting, other = connect(), connect()
    waiting.sendall(POST % 3 + b"abc")
    assert is_closed(other)
    application.may_answer.set()
    assert answer(waiting) == b"3"


def test_many_at_once_are_all_closed(connect: Callable[[], socket.socket]) -> None:
    many = [connect() for _ in range(200)]
    for number, connection in enumerate(many):
        connection.sendall((GET + POST % 9)[: number % (len(GET) - 1)])
    assert all(is_closed(connection) for connection in many)
