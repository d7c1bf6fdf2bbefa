"""How long a request may take to arrive.

Lives here: the protocol of a connection, which closes one whose request has begun and does not come.
Add here when a connection must be ended for another reason.
Keep out: how long an answer may take, and connections between two requests (uvicorn's own timeout).
"""

import asyncio
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

SECONDS_TO_ARRIVE = 30.0
# A body makes headway if so much of it comes in that time: what is slower holds a connection for days.
_BYTES_OF_HEADWAY = 16 * 1024


class ArrivingProtocol(H11Protocol):
    """HTTP on one connection; the head of a request must arrive in time, and its body must make headway."""

    seconds = SECONDS_TO_ARRIVE

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        self._timer: asyncio.TimerHandle | None = None
        self._waits_for: object = None
        self._n_bytes = 0
        self._has_asked = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Wait for the first request."""
        super().connection_made(transport)
        self._look()

    def data_received(self, data: bytes) -> None:
        """Take a part of a request."""
        super().data_received(data)
        self._n_bytes += len(data)
        self._look()

    def on_response_complete(self) -> None:
        """Go on with what has come of the next request."""
        super().on_response_complete()
        self._look()

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait for nothing more."""
        self._stop()
        super().connection_lost(exc)

    def _look(self) -> None:
        """Start, go on with or stop waiting, by how far the request is."""
        state = self.conn.their_state
        self._has_asked = self._has_asked or state is not h11.IDLE
        if state is h11.IDLE:
            # between two requests nothing is waited for here
            is_missing = not self._has_asked or bool(self.conn.trailing_data[0])
        else:
            is_missing = state is h11.SEND_BODY
        if not is_missing:
            self._stop()
        elif (
            self._timer is None
            or self._waits_for is not state
            or (state is h11.SEND_BODY and self._n_bytes >= _BYTES_OF_HEADWAY)
        ):
            self._start(state)

    def _start(self, state: object) -> None:
        self._stop()
        self._waits_for, self._n_bytes = state, 0
        self._timer = self.loop.call_later(self.seconds, self._end)

    def _stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _end(self) -> None:
        self._timer = None
        if self.flow.read_paused:  # it is we who do not read
            self._start(self._waits_for)
        elif not self.transport.is_closing():
            self.transport.abort()
