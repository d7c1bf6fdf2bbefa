"""Single sign-on: signing in to the console through the operator's OpenID Connect provider.

Lives here: the authorization code flow with PKCE, and checking the id token.
Keep out: sessions (`sign_in.py`) and pages.

The verified e-mail address identifies the user, who must exist already. State, nonce and code verifier are
computed from a secret in the browser's cookie, so that the provider's answer is valid in that browser only, once.
"""

import base64
import hmac
import logging
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import urlsplit

from cleanroom_pipelines.catalog.channels import is_loopback
from cleanroom_pipelines.errors import ConfigurationError, UsageError
from cleanroom_pipelines.runs.installation import Installation, SignOnProvider
from cleanroom_pipelines.runs.sign_in import begin_challenge, derived, use_challenge

_LOG = logging.getLogger(__name__)
_PURPOSE = "single sign-on"
_TIMEOUT_SECONDS = 10
# signatures with the provider's public key; never none, and never a secret that both have
_ALGORITHMS = ["RS256", "PS256", "ES256", "RS384", "PS384", "ES384", "RS512", "PS512", "ES512", "EdDSA", "Ed25519"]
_LEEWAY_SECONDS = 60


def begin_sign_on(installation: Installation, back: str) -> tuple[str, str]:
    """Begin a sign-in at the provider: return the browser's secret and the provider's address.

    Args:
        installation: The installation to work on.
        back: The address that the provider sends the browser to.

    Returns:
        The secret for the browser's cookie, and the provider's address for the browser.

    Raises:
        UsageError: The provider does not respond as it should.
        ConfigurationError: The extra `sso` is not installed.
    """
    provider = provider_of(installation)
    secret = begin_challenge(installation, _PURPOSE)

    def do() -> str:
        address, _ = _client(installation, provider, back).create_authorization_url(
            _metadata(provider)["authorization_endpoint"],
            state=_text(installation, secret, "state"),
            nonce=_text(installation, secret, "nonce"),
            code_verifier=_text(installation, secret, "verifier"),
        )
        return str(address)

    return secret, _guarded(do)


def finish_sign_on(installation: Installation, back: str, secret: str, answer: Mapping[str, str]) -> str | None:
    """Verify the provider's response, use up the challenge, and return the user's e-mail address.

    Args:
        installation: The installation to work on.
        back: The same as for `begin_sign_on`.
        secret: The secret in the browser's cookie.
        answer: The query parameters of the browser's return from the provider.

    Returns:
        The user's address; None if no user has it.

    Raises:
        UsageError: The provider did not confirm a verified address, or the answer is not for this browser.
    """
    provider = provider_of(installation)
    is_own = hmac.compare_digest(answer.get("state", "").encode(), _text(installation, secret, "state").encode())
    if not (use_challenge(installation, secret, _PURPOSE) and is_own):
        raise _rejected()
    if "error" in answer or answer.get("iss", provider.issuer) != provider.issuer:  # RFC 9207
        raise _rejected()
    email = _guarded(lambda: _verified_email(installation, provider, back, secret, answer["code"]))
    user = installation.catalog.users.user(email)
    return None if user is None or user.disabled else user.email


def provider_of(installation: Installation) -> SignOnProvider:
    """Return the configured OpenID Connect provider.

    Raises:
        UsageError: There is none.
    """
    if installation.settings.sso is None:
        raise UsageError("Single sign-on is not set up here.", remedy="Use another way to sign in.")
    return installation.settings.sso


def _verified_email(
    installation: Installation, provider: SignOnProvider, back: str, secret: str, code: str
) -> str:
    from authlib.oidc.core import CodeIDToken
    from joserfc import jwt
    from joserfc.jwk import KeySet

    metadata, client = _metadata(provider), _client(installation, provider, back)
    verifier = _text(installation, secret, "verifier")
    token = client.fetch_token(
        metadata["token_endpoint"],
        code=code,
        code_verifier=verifier,
        grant_type="authorization_code",
        timeout=_TIMEOUT_SECONDS,
        allow_redirects=False,
    )
    keys = KeySet.import_key_set({"keys": _get(metadata["jwks_uri"])["keys"]})
    id_token = jwt.decode(token["id_token"], keys, algorithms=_ALGORITHMS)
    claims = CodeIDToken(
        id_token.claims,
        id_token.header,
        {
            "iss": {"essential": True, "value": provider.issuer},
            "aud": {"essential": True, "value": provider.client_id},
        },
        {"nonce": _text(installation, secret, "nonce"), "client_id": provider.client_id, **_access(token)},
    )
    claims.validate(now=int(installation.clock().timestamp()), leeway=_LEEWAY_SECONDS)
    about = claims if "email" in claims else _user_info(client, metadata, claims["sub"])
    if about.get("email_verified") is not True:
        raise ValueError("the address is not verified")
    return str(about["email"]).lower()


def _access(token: Mapping[str, Any]) -> dict[str, Any]:
    return {"access_token": token["access_token"]} if "access_token" in token else {}


def _user_info(client: Any, metadata: Mapping[str, Any], subject: str) -> Mapping[str, Any]:
    """Fetch a user's data from the provider's userinfo endpoint; many id tokens lack the e-mail address."""
    response = client.get(metadata["userinfo_endpoint"], timeout=_TIMEOUT_SECONDS, allow_redirects=False)
    response.raise_for_status()
    found: dict[str, Any] = response.json()
    if found.get("sub") != subject:
        raise ValueError("about another user")
    return found


def _metadata(provider: SignOnProvider) -> Mapping[str, Any]:
    found = _get(f"{provider.issuer.rstrip('/')}/.well-known/openid-configuration")
    if found.get("issuer") != provider.issuer:
        raise ValueError("another issuer")
    for name in ("authorization_endpoint", "token_endpoint", "jwks_uri", "userinfo_endpoint"):
        if name in found:
            _check_address(found[name])
    return found


def _check_address(address: str) -> None:
    parts = urlsplit(address)
    if parts.scheme != "https" and not (parts.scheme == "http" and is_loopback(parts.hostname or "")):
        raise ValueError("not encrypted")


def _get(address: str) -> dict[str, Any]:
    import requests

    response = requests.get(address, timeout=_TIMEOUT_SECONDS, allow_redirects=False)
    response.raise_for_status()
    found = response.json()
    if not isinstance(found, dict):
        raise ValueError("not a document")
    return found


def _client(installation: Installation, provider: SignOnProvider, back: str) -> Any:
    from authlib.integrations.requests_client import OAuth2Session

    return OAuth2Session(
        provider.client_id,
        installation.settings.secrets.get("SSO"),
        scope="openid email",
        redirect_uri=back,
        code_challenge_method="S256",
    )


def _text(installation: Installation, secret: str, use: str) -> str:
    return base64.urlsafe_b64encode(derived(installation, secret, use)).decode().rstrip("=")


def _guarded(do: Callable[[], str]) -> str:
    """Call the provider, and omit the texts of its errors, which may contain e-mail addresses."""
    try:
        return do()
    except ImportError:
        raise ConfigurationError(
            "Single sign-on needs the extra `sso`.", remedy="Run: pip install 'cleanroom-pipelines[sso]'"
        ) from None
    except Exception as error:
        _LOG.warning("Single sign-on failed (%s).", type(error).__name__)
        raise _rejected() from None


def _rejected() -> UsageError:
    return UsageError(
        "The sign-on provider did not confirm who you are.", remedy="Try again, or sign in in another way."
    )
