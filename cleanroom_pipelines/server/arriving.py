"""Time limits for the arrival of requests.

Lives here: the connection protocol, which closes a connection whose request stalls.
Add here when connections must be closed for another reason.
Keep out: the duration of responses, and idle connections between requests (uvicorn's own timeout).
"""

import asyncio
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

SECONDS_TO_ARRIVE = 30.0
# A body makes progress if this much arrives in that time; a slower one would hold a connection for days.
_BYTES_OF_PROGRESS = 16 * 1024


class ArrivingProtocol(H11Protocol):
    """HTTP/1.1 protocol that closes a connection when a request's head or body arrives too slowly."""

    seconds = SECONDS_TO_ARRIVE

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        self._timer: asyncio.TimerHandle | None = None
        self._waits_for: object = None
        self._n_bytes = 0
        self._has_asked = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start the timer for the first request."""
        super().connection_made(transport)
        self._update_timer()

    def data_received(self, data: bytes) -> None:
        """Process received bytes and update the timer."""
        super().data_received(data)
        self._n_bytes += len(data)
        self._update_timer()

    def on_response_complete(self) -> None:
        """Restart the timer for the next request, which may already have begun to arrive."""
        super().on_response_complete()
        self._update_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the timer."""
        self._stop()
        super().connection_lost(exc)

    def _update_timer(self) -> None:
        """Start, keep or stop the timer, depending on the state of the request."""
        state = self.conn.their_state
        self._has_asked = self._has_asked or state is not h11.IDLE
        if state is h11.IDLE:
            # no time limit here between two requests
            is_missing = not self._has_asked or bool(self.conn.trailing_data[0])
        else:
            is_missing = state is h11.SEND_BODY
        if not is_missing:
            self._stop()
        elif (
            self._timer is None
            or self._waits_for is not state
            or (state is h11.SEND_BODY and self._n_bytes >= _BYTES_OF_PROGRESS)
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
        if self.flow.read_paused:  # the server is not reading, so the client is not to blame
            self._start(self._waits_for)
        elif not self.transport.is_closing():
            self.transport.abort()
