"""Tokens of users: making them and knowing whose they are.

Lives here: what needs both the catalogue and the installation key.
Add here when a user is known by something else.
Keep out: what a user may do in a room (the way in).
"""

import base64
import hashlib
import re
from datetime import timedelta

from cleanroom_pipelines.catalog import Token
from cleanroom_pipelines.errors import UsageError
from cleanroom_pipelines.runs.installation import Installation

MAX_DAYS = 3650
_PREFIX = "crt_"
_TOKEN = re.compile(r"crt_[A-Za-z0-9_-]{43}")
_PURPOSE = "tokens"


def issue_token(installation: Installation, email: str, days: int = 90) -> tuple[str, Token]:
    """Give a user a new token; it is told here and nowhere again.

    Args:
        installation: Where.
        email: A user that was created.
        days: How long it opens something.

    Returns:
        The token (256 random bits) and what the catalogue keeps of it.

    Raises:
        NotFoundError: There is no such user.
        UsageError: The days are out of range.
    """
    if not 1 <= days <= MAX_DAYS:
        raise UsageError("The days of a token are out of range.", remedy=f"Give 1 to {MAX_DAYS}.")
    text = _PREFIX + base64.urlsafe_b64encode(bytes.fromhex(installation.token_hex(32))).decode().rstrip("=")
    expires_at = installation.clock() + timedelta(days=days)
    return text, installation.catalog.users.add_token(email, _digest(installation, text), expires_at)


def user_of(installation: Installation, token: str) -> str | None:
    """The e-mail address of the user whose token this is; None when it opens nothing."""
    if not _TOKEN.fullmatch(token):
        return None
    return installation.catalog.users.user_of_token(_digest(installation, token))


def _digest(installation: Installation, token: str) -> str:
    return installation.key.digest(_PURPOSE, hashlib.sha256(token.encode()).digest())
