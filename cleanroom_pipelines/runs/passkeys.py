"""Passkeys (WebAuthn): options for the browser, and verification of the signature of the user's device.

Lives here: our use of the library: user verification and discoverable credentials required, no attestation.
Keep out: storing passkeys (the catalogue), challenges and sessions (`sign_in.py`), pages.

A challenge is computed from a secret in the browser's cookie, so that it is valid in that browser only, once.

Decided 2026-12-01. The site is the one that the browser shows, not a setting: a device signs for the host that it
sees, and for no other, so a false Host finds no passkey. An invitation replaces the password and all passkeys,
since it is also the way back after a theft; removing a passkey ends the user's sessions, as a new password does.
A session that a token started cannot add passkeys, which would outlive the token.
"""

import base64
from dataclasses import dataclass

from cleanroom_pipelines.catalog import NewPasskey
from cleanroom_pipelines.errors import UsageError
from cleanroom_pipelines.runs.installation import Installation
from cleanroom_pipelines.runs.sign_in import (
    CHALLENGE_VALID,
    begin_challenge,
    derived,
    start_session_by_passkey,
    use_challenge,
)

_SIGN_IN = "passkey sign-in"
_MOST_BYTES = 1023  # of an id, as the standard says
_MOST_CHARACTERS = 20_000
_MILLISECONDS = int(CHALLENGE_VALID.total_seconds() * 1000)


@dataclass(frozen=True)
class PasskeySite:
    """The web site for which passkeys are registered.

    Args:
        host: Its host name without port; passkeys are valid for this host only.
        origin: Its scheme, host and port.
    """

    host: str
    origin: str


def registration_options(
    installation: Installation, site: PasskeySite, email: str, purpose: str
) -> tuple[str, str]:
    """Begin the registration of a passkey: create a challenge and the options for the browser.

    Args:
        installation: The installation to work on.
        site: The site that the browser shows.
        email: The user.
        purpose: On whose behalf: a session or an invitation.

    Returns:
        The secret for the browser's cookie, and the options for its script as JSON.
    """
    import webauthn
    from webauthn.helpers import structs

    secret = begin_challenge(installation, _registration(email, purpose))
    options = webauthn.generate_registration_options(
        rp_id=site.host,
        rp_name="Clean room",
        user_id=_handle(installation, email),
        user_name=email,
        challenge=derived(installation, secret, "passkey"),
        timeout=_MILLISECONDS,
        attestation=structs.AttestationConveyancePreference.NONE,
        authenticator_selection=structs.AuthenticatorSelectionCriteria(
            resident_key=structs.ResidentKeyRequirement.REQUIRED,
            user_verification=structs.UserVerificationRequirement.REQUIRED,
        ),
        exclude_credentials=[
            structs.PublicKeyCredentialDescriptor(id=webauthn.base64url_to_bytes(each.credential_id))
            for each in installation.catalog.sign_in.passkeys(email)
        ],
    )
    return secret, webauthn.options_to_json(options)


def check_registration(
    installation: Installation,
    site: PasskeySite,
    email: str,
    purpose: str,
    *,
    secret: str,
    response: str,
    name: str,
) -> NewPasskey:
    """Verify a new passkey that the user's device has created, and use up the challenge.

    Args:
        installation: The installation to work on.
        site: The site that the browser shows.
        email: The user.
        purpose: The same as for `registration_options`.
        secret: The secret in the browser's cookie.
        response: The script's response as JSON.
        name: The user's name for the passkey.

    Raises:
        UsageError: The challenge was used or has expired, or the response is invalid.
    """
    import webauthn

    if not use_challenge(installation, secret, _registration(email, purpose)):
        raise _rejected()
    try:
        verified = webauthn.verify_registration_response(
            credential=_limited(response),
            expected_challenge=derived(installation, secret, "passkey"),
            expected_rp_id=site.host,
            expected_origin=site.origin,
            require_user_verification=True,
        )
    except Exception:
        raise _rejected() from None
    if len(verified.credential_id) > _MOST_BYTES:
        raise _rejected()
    credential_id = _base64url(verified.credential_id)
    return NewPasskey(name, credential_id, verified.credential_public_key, verified.sign_count)


def sign_in_options(installation: Installation, site: PasskeySite) -> tuple[str, str]:
    """Begin a sign-in with a passkey; the user chooses the passkey, so no e-mail address is needed.

    Returns:
        The secret for the browser's cookie, and the options for its script as JSON.
    """
    import webauthn
    from webauthn.helpers.structs import UserVerificationRequirement

    secret = begin_challenge(installation, _SIGN_IN)
    options = webauthn.generate_authentication_options(
        rp_id=site.host,
        challenge=derived(installation, secret, "passkey"),
        timeout=_MILLISECONDS,
        user_verification=UserVerificationRequirement.REQUIRED,
    )
    return secret, webauthn.options_to_json(options)


def sign_in_by_passkey(
    installation: Installation, site: PasskeySite, secret: str, response: str
) -> tuple[str, str] | None:
    """Verify the signature of a passkey, use up the challenge, and start a session.

    Args:
        installation: The installation to work on.
        site: The site that the browser shows.
        secret: The secret in the browser's cookie.
        response: The script's response as JSON.

    Returns:
        The user and the session's secret; None if the challenge, the passkey or the signature is invalid.
    """
    import webauthn
    from webauthn.helpers import parse_authentication_credential_json

    if not use_challenge(installation, secret, _SIGN_IN):
        return None
    try:
        credential = parse_authentication_credential_json(_limited(response))
    except Exception:
        return None
    passkey = installation.catalog.sign_in.passkey_with(_base64url(credential.raw_id))
    if passkey is None or credential.response.user_handle != _handle(installation, passkey.email):
        return None
    try:
        verified = webauthn.verify_authentication_response(
            credential=credential,
            expected_challenge=derived(installation, secret, "passkey"),
            expected_rp_id=site.host,
            expected_origin=site.origin,
            credential_public_key=passkey.public_key,
            credential_current_sign_count=passkey.sign_count,
            require_user_verification=True,
        )
    except Exception:
        return None
    session = start_session_by_passkey(installation, passkey, verified.new_sign_count)
    return None if session is None else (passkey.email, session)


def _registration(email: str, purpose: str) -> str:
    return f"passkey of {email} by {purpose}"


def _handle(installation: Installation, email: str) -> bytes:
    """Return the WebAuthn user handle, which devices store with a passkey: a keyed digest of the address."""
    return bytes.fromhex(installation.key.digest("passkey users", email.encode()))


def _base64url(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).decode().rstrip("=")


def _limited(response: str) -> str:
    if len(response) > _MOST_CHARACTERS:
        raise _rejected()
    return response


def _rejected() -> UsageError:
    return UsageError("The passkey was not accepted.", remedy="Try again, or use a password.")
