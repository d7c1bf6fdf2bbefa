"""Opening a client as scripts for Decentriq's Media API do.

Lives here: `create_client`, and `Key`, which such scripts pass along with uploads.
Keep out: the client itself (`client.py`).
"""

import os
import secrets
from typing import Any

from cleanroom_pipelines.media.client import Client
from cleanroom_pipelines.media.errors import InvalidRequestError, UnauthorizedError

URL_VARIABLE = "CLEANROOM_MEDIA_URL"
_KEY_BYTES = 32


class Key:
    """A key that scripts pass along with uploads. It is not used: the server encrypts uploads with its own keys.

    Args:
        material: 32 bytes; random by default.

    Raises:
        InvalidRequestError: The material does not have 32 bytes.
    """

    def __init__(self, material: bytes | None = None) -> None:
        self.material = secrets.token_bytes(_KEY_BYTES) if material is None else bytes(material)
        if len(self.material) != _KEY_BYTES:
            raise InvalidRequestError("The key has the wrong length.", remedy=f"Give {_KEY_BYTES} bytes.")


def create_client(
    user_email: str,
    api_token: str,
    *,
    client_id: str | None = None,
    api_host: str | None = None,
    api_port: int = 443,
    api_use_tls: bool = True,
    request_timeout: int | None = None,
    unsafe_disable_known_root_ca_check: bool = False,
) -> Client:
    """Open a client of the server at `api_host`, or else at the address in `CLEANROOM_MEDIA_URL`.

    Args:
        user_email: The caller's e-mail address.
        api_token: The token that the operator issued for this address.
        client_id: Ignored.
        api_host: The server's host name.
        api_port: The server's port.
        api_use_tls: Whether to connect by HTTPS.
        request_timeout: Seconds to wait for a response; 60 by default.
        unsafe_disable_known_root_ca_check: Ignored; certificates are always checked.

    Raises:
        InvalidRequestError: No address was given.
        UnauthorizedError: The token is invalid, or was issued for another e-mail address.
    """
    scheme = "https" if api_use_tls else "http"
    url = f"{scheme}://{api_host}:{api_port}" if api_host else os.environ.get(URL_VARIABLE)
    if not url:
        raise InvalidRequestError(
            f"The server's address is missing, since {URL_VARIABLE} is not set.",
            remedy="Set the variable, or give a host.",
        )
    more: dict[str, Any] = {} if request_timeout is None else {"timeout": float(request_timeout)}
    client = Client(url, api_token, **more)
    if client.email != user_email.strip().lower():
        client.close()
        raise UnauthorizedError(
            "The token was issued for another e-mail address.",
            remedy="Give the e-mail address that the token was issued for.",
        )
    return client
