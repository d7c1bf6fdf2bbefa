"""Signing in to the console: passwords, invitations, one-time links and sessions.

Lives here: secrets, their keyed digests and encoded passwords.
Add here when users can sign in in another way.
Keep out: rate limits, cookies and pages (the console).

Passwords are encoded with scrypt and the parameters that OWASP's cheat sheet on password storage gives for 32 MiB.
"""

import base64
import hashlib
import hmac
import re
from contextlib import suppress
from datetime import timedelta
from threading import BoundedSemaphore

from cleanroom_pipelines.catalog import ConsoleSession, LinkPurpose, NewPasskey, Passkey, SignInLink
from cleanroom_pipelines.errors import ConflictError, UsageError
from cleanroom_pipelines.runs.credentials import token_of
from cleanroom_pipelines.runs.installation import Installation

MIN_PASSWORD, MAX_PASSWORD = 12, 200
VALID = {LinkPurpose.INVITATION: timedelta(days=7), LinkPurpose.SIGN_IN: timedelta(minutes=15)}
"""How long a link is valid."""
CHALLENGE_VALID = timedelta(minutes=5)

_SECRET = re.compile(r"[A-Za-z0-9_-]{43}")
_N, _R, _P, _MAX_BYTES = 1 << 15, 8, 3, 64 << 20
_SALT_BYTES = 16
# Each computation needs 32 MiB and a core, so that few run at the same time.
_computing = BoundedSemaphore(2)


def invite(installation: Installation, email: str, invited_by: str | None = None) -> tuple[str, SignInLink]:
    """Invite a user to set a password or a passkey; create the user if needed.

    Args:
        installation: The installation to work on.
        email: Address of the user.
        invited_by: The inviting user; None for the operator.

    Returns:
        The secret of the link, and the catalogue's record of it.

    Raises:
        UsageError: The address is invalid.
    """
    with suppress(ConflictError):
        installation.catalog.users.create_user(email)
    return issue_link(installation, email, LinkPurpose.INVITATION, invited_by)


def issue_link(
    installation: Installation, email: str, purpose: LinkPurpose, invited_by: str | None = None
) -> tuple[str, SignInLink]:
    """Issue a sign-in or invitation link; it invalidates the user's earlier link for the same purpose.

    Returns:
        The secret of the link, and the catalogue's record of it.

    Raises:
        NotFoundError: The user does not exist.
    """
    secret = _secret(installation)
    expires_at = installation.clock() + VALID[purpose]
    digest = _digest(installation, purpose, secret)
    return secret, installation.catalog.sign_in.add_link(email, digest, purpose, expires_at, invited_by)


def find_link(installation: Installation, secret: str, purpose: LinkPurpose) -> SignInLink | None:
    """Return a valid link without using it up; None if it is invalid."""
    if not _SECRET.fullmatch(secret):
        return None
    return installation.catalog.sign_in.link(_digest(installation, purpose, secret), purpose)


def accept_invitation(
    installation: Installation, secret: str, credential: str | NewPasskey
) -> tuple[str, str] | None:
    """Accept an invitation: set a new password or passkey in place of earlier ones, and start a session.

    Returns:
        The user's address and the session's secret; None if the invitation is invalid.

    Raises:
        UsageError: The password is too short or too long.
        ConflictError: The passkey is stored already.
    """
    if isinstance(credential, str):
        check_password(credential)
    if find_link(installation, secret, LinkPurpose.INVITATION) is None:
        return None
    if isinstance(credential, NewPasskey):
        return _use(installation, secret, LinkPurpose.INVITATION, passkey=credential)
    encoded = _encode(credential, bytes.fromhex(installation.token_hex(_SALT_BYTES)))
    return _use(installation, secret, LinkPurpose.INVITATION, encoded)


def use_sign_in_link(installation: Installation, secret: str) -> tuple[str, str] | None:
    """Use up a one-time link and start a session; return its user and secret, or None if the link is invalid."""
    return _use(installation, secret, LinkPurpose.SIGN_IN) if _SECRET.fullmatch(secret) else None


def check_password(password: str) -> None:
    """Reject a new password that is too short or too long.

    Raises:
        UsageError: It is too short or too long.
    """
    if not MIN_PASSWORD <= len(password) <= MAX_PASSWORD:
        raise UsageError(
            f"A password must have {MIN_PASSWORD} to {MAX_PASSWORD} characters.", remedy="Choose another password."
        )


def start_session_by_password(installation: Installation, email: str, password: str) -> str | None:
    """Start a session with a password; the call takes equally long whether or not the user exists.

    Returns:
        The secret; None if the password is wrong, or was replaced in the meantime.
    """
    encoded = installation.catalog.sign_in.password(email) if len(email) <= 320 else None
    stored = encoded or _encode_with("", b"\0" * _SALT_BYTES)
    salt = base64.b64decode(stored.split("$")[-2])
    given = _encode(password[: MAX_PASSWORD + 1], salt)
    if not hmac.compare_digest(given, stored) or encoded is None:
        return None
    with suppress(ConflictError):
        return start_session(installation, email, password=encoded)
    return None


def start_session_by_token(installation: Installation, token: str) -> tuple[str, str] | None:
    """Start a session with a token; return the user and the session's secret, or None if the token is invalid."""
    found = token_of(installation, token)
    if found is not None:
        with suppress(ConflictError):
            return found.email, start_session(installation, found.email, token_id=found.id)
    return None


def start_session(
    installation: Installation, email: str, *, token_id: str | None = None, password: str | None = None
) -> str:
    """Start a session and return its secret, of 256 random bits.

    Args:
        installation: The installation to work on.
        email: The user.
        token_id: The token by which the user signed in; the session ends with it.
        password: The encoded password by which the user signed in.

    Raises:
        ConflictError: The user was disabled, or got another password, since it was checked.
    """
    secret = _secret(installation)
    digest = _digest(installation, "session", secret)
    installation.catalog.sign_in.add_session(email, digest, token_id=token_id, password=password)
    return secret


def start_session_by_passkey(installation: Installation, passkey: Passkey, sign_count: int) -> str | None:
    """Start a session with a verified passkey; None if the passkey was removed or used meanwhile.

    Args:
        installation: The installation to work on.
        passkey: The passkey as it was when its signature was checked.
        sign_count: The device's counter of signatures now.
    """
    secret = _secret(installation)
    digest = _digest(installation, "session", secret)
    return secret if installation.catalog.sign_in.start_session_by(passkey, sign_count, digest) else None


def find_session(installation: Installation, secret: str) -> ConsoleSession | None:
    """Find a session by its secret, and record its use; None if it is unknown or has ended."""
    if not _SECRET.fullmatch(secret):
        return None
    return installation.catalog.sign_in.session(_digest(installation, "session", secret))


def end_session(installation: Installation, secret: str) -> None:
    """End a session; does nothing if it has ended already."""
    if _SECRET.fullmatch(secret):
        installation.catalog.sign_in.end_session(_digest(installation, "session", secret))


def begin_challenge(installation: Installation, purpose: str) -> str:
    """Begin a challenge, valid for `CHALLENGE_VALID`; return the secret for the browser's cookie.

    Args:
        installation: The installation to work on.
        purpose: What the browser's response may be used for, and by whom.
    """
    secret = _secret(installation)
    expires_at = installation.clock() + CHALLENGE_VALID
    installation.catalog.sign_in.add_challenge(_digest(installation, f"challenge {purpose}", secret), expires_at)
    return secret


def use_challenge(installation: Installation, secret: str, purpose: str) -> bool:
    """Use up a browser's challenge; false if it is unknown, for another purpose, used or expired."""
    if not _SECRET.fullmatch(secret):
        return False
    return installation.catalog.sign_in.use_challenge(_digest(installation, f"challenge {purpose}", secret))


def derived(installation: Installation, secret: str, use: str) -> bytes:
    """Derive 32 bytes, such as a challenge, from a browser's secret and this installation's key."""
    return bytes.fromhex(_digest(installation, f"derived {use}", secret))


def _use(
    installation: Installation,
    secret: str,
    purpose: LinkPurpose,
    password: str | None = None,
    passkey: NewPasskey | None = None,
) -> tuple[str, str] | None:
    started = _secret(installation)
    link = installation.catalog.sign_in.use_link(
        _digest(installation, purpose, secret),
        purpose,
        _digest(installation, "session", started),
        password=password,
        passkey=passkey,
    )
    return None if link is None else (link.email, started)


def _secret(installation: Installation) -> str:
    return base64.urlsafe_b64encode(bytes.fromhex(installation.token_hex(32))).decode().rstrip("=")


def _digest(installation: Installation, purpose: str, secret: str) -> str:
    return installation.key.digest(f"console {purpose}", hashlib.sha256(secret.encode()).digest())


def _encode(password: str, salt: bytes) -> str:
    with _computing:
        key = hashlib.scrypt(password.encode(), salt=salt, n=_N, r=_R, p=_P, maxmem=_MAX_BYTES, dklen=32)
    return _encode_with(base64.b64encode(key).decode(), salt)


def _encode_with(key: str, salt: bytes) -> str:
    return f"scrypt$15$8$3${base64.b64encode(salt).decode()}${key}"
