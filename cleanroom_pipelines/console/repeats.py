"""Forms that are sent twice, for example by a double click or a second try on a slow connection.

Lives here: marking the forms of a page, and the answers to forms that were sent lately.
Keep out: what forms do (`pages`).

Each page marks its forms with a new random number. The same form with the same mark gets the answer of the first
one, while that is handled and for a minute after it. A rejected form is handled again.
"""

import re
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from threading import Lock

from cleanroom_pipelines.console.forms import Form
from cleanroom_pipelines.server.requests import Reply

MARK = "once"
"""The name of the field with the mark."""

_SECONDS = 60.0
_MOST = 1_000  # answers are pages of up to some dozens of kB
_FORM = re.compile(r'<form\b[^>]*\bmethod="post"[^>]*>')


def mark_forms(page: str) -> str:
    """Return a page with a random mark added to each form that changes something."""
    mark = f'<input type="hidden" name="{MARK}" value="{secrets.token_urlsafe(12)}">'
    return _FORM.sub(lambda form: form[0] + mark, page)


@dataclass
class _Sent:
    lock: Lock = field(default_factory=Lock)
    reply: Reply | None = None
    forgotten_at: float = float("inf")


class RepeatedForms:
    """Recognises forms that this process has received before.

    Args:
        clock: Monotonic clock, in seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = Lock()
        self._sent: dict[tuple[str, str, bytes], _Sent] = {}

    def answer(self, session: str, path: str, form: Form, answer: Callable[[], Reply]) -> Reply:
        """Return the reply to a form; a repeated form is not handled again but gets the first reply.

        Args:
            session: The secret of its session.
            path: The path that it was sent to.
            form: The form.
            answer: Handles the form.
        """
        if not form.text(MARK):
            return answer()
        sent = self._of((session, path, form.digest()))
        with sent.lock:
            if sent.reply is not None:
                return sent.reply
            seconds = 0.0
            try:
                reply = answer()
                if reply.status < 400 and reply.chunks is None:
                    sent.reply, seconds = reply, _SECONDS
                return reply
            finally:
                sent.forgotten_at = self._clock() + seconds

    def _of(self, key: tuple[str, str, bytes]) -> _Sent:
        with self._lock:
            now = self._clock()
            kept = [(known, sent) for known, sent in self._sent.items() if sent.forgotten_at > now]
            self._sent = dict(kept[-_MOST:])
            return self._sent.setdefault(key, _Sent())
