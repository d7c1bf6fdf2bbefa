"""Access keys of accounts: issue them, and decrypt their secrets.

Lives here: operations that need both the catalogue and the installation key.
Add here when another secret of a party is stored encrypted.
Keep out: verifying signatures (the API) and other rules about parties (catalog).
"""

import base64

from cleanroom_pipelines.catalog import AccessKey
from cleanroom_pipelines.runs.installation import Installation

_PURPOSE = "access keys"


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
    sealed = installation.key.seal(_PURPOSE, secret.encode()).decode()
    installation.catalog.parties.add_access_key(account_id, key_id, sealed)
    return key_id, secret


def open_access_key(installation: Installation, key: AccessKey) -> str:
    """Decrypt the secret of an access key, to verify a signature.

    Raises:
        ConfigurationError: It was altered, or sealed with another installation's key.
    """
    return installation.key.unseal(_PURPOSE, key.sealed_secret.encode()).decode()
