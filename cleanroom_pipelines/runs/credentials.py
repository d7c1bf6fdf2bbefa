"""Access tokens of users and access keys of accounts: issuing them, and finding whose they are.

Lives here: operations that need both the catalogue and the installation key.
Add here when users or accounts can authenticate in another way.
Keep out: rights, verifying signatures (the APIs), and other rules about parties (catalog).
"""

import base64
import hashlib
import re
from datetime import timedelta

from cleanroom_pipelines.catalog import AccessKey, Token
from cleanroom_pipelines.errors import UsageError
from cleanroom_pipelines.runs.installation import Installation

MAX_DAYS = 3650
_PREFIX = "crt_"
_TOKEN = re.compile(r"crt_[A-Za-z0-9_-]{43}")
_OF_TOKENS, _OF_ACCESS_KEYS = "tokens", "access keys"  # purposes of keys and digests


def issue_token(installation: Installation, email: str, days: int = 90) -> tuple[str, Token]:
    """Issue a new token to a user; it is returned only here.

    Args:
        installation: The installation to work on.
        email: Address of an existing user.
        days: How long the token is valid.

    Returns:
        The token (256 random bits) and the catalogue's record of it.

    Raises:
        NotFoundError: The user does not exist.
        UsageError: The number of days is out of range.
    """
    if not 1 <= days <= MAX_DAYS:
        raise UsageError("The token's validity is out of range.", remedy=f"Give 1 to {MAX_DAYS} days.")
    text = _PREFIX + base64.urlsafe_b64encode(bytes.fromhex(installation.token_hex(32))).decode().rstrip("=")
    expires_at = installation.clock() + timedelta(days=days)
    return text, installation.catalog.users.add_token(email, _digest(installation, text), expires_at)


def user_of(installation: Installation, token: str) -> str | None:
    """Return the e-mail address of a token's user; None if the token is not valid."""
    found = token_of(installation, token)
    return None if found is None else found.email


def token_of(installation: Installation, token: str) -> Token | None:
    """Return the catalogue's record of a token; None if the token is not valid."""
    if not _TOKEN.fullmatch(token):
        return None
    return installation.catalog.users.token_of(_digest(installation, token))


def areas_of(installation: Installation, email: str) -> tuple[str, ...]:
    """Return which areas of the console a user sees in addition to data rooms: `operator`, `account`."""
    user = installation.catalog.users.user(email)
    if user is None or user.disabled:
        return ()
    areas = {"operator": user.is_operator, "account": user.account_id is not None}
    return tuple(name for name, is_seen in areas.items() if is_seen)


def _digest(installation: Installation, token: str) -> str:
    return installation.key.digest(_OF_TOKENS, hashlib.sha256(token.encode()).digest())


def issue_access_key(installation: Installation, account_id: str) -> tuple[str, str]:
    """Issue a new access key to an account; its secret is returned only here.

    Args:
        installation: The installation to work on.
        account_id: An existing account.

    Returns:
        The key id (AKIA and 16 characters) and the secret (40 characters, 240 random bits).

    Raises:
        NotFoundError: There is no such account.
    """
    key_id = "AKIA" + base64.b32encode(bytes.fromhex(installation.token_hex(10))).decode()
    secret = base64.b64encode(bytes.fromhex(installation.token_hex(30))).decode()
    sealed = installation.key.seal(_OF_ACCESS_KEYS, secret.encode()).decode()
    installation.catalog.parties.add_access_key(account_id, key_id, sealed)
    return key_id, secret


def open_access_key(installation: Installation, key: AccessKey) -> str:
    """Decrypt the secret of an access key, to verify a signature.

    Raises:
        ConfigurationError: It was altered, or sealed with another installation's key.
    """
    return installation.key.unseal(_OF_ACCESS_KEYS, key.sealed_secret.encode()).decode()
