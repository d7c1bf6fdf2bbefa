"""Access keys of accounts: making them and opening them.

Lives here: what needs both the catalogue and the installation key.
Add here when something else of a party is kept sealed.
Keep out: verifying signatures (the way in) and the other rules of the parties (catalog).
"""

import base64

from cleanroom_pipelines.catalog import AccessKey
from cleanroom_pipelines.runs.installation import Installation

_PURPOSE = "access keys"


def issue_access_key(installation: Installation, account_id: str) -> tuple[str, str]:
    """Give an account a new access key; its secret is told here and nowhere again.

    Args:
        installation: Where.
        account_id: An account that was created.

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
    """The secret of an access key, to verify a signature with.

    Raises:
        ConfigurationError: It was altered, or sealed under another installation's key.
    """
    return installation.key.unseal(_PURPOSE, key.sealed_secret.encode()).decode()
