"""The hash of ids for sampling, sharding and breaking ties.

Lives here: `stable_hash` in Python and in SQL, with the same result on every engine, version and machine.
Keep out: SQL's own `hash()`, which differs between engines, and anything secret (keyed digests: storage).
"""

import hashlib

STABLE_HASH_BITS = 60


def stable_hash(user_id: str) -> int:
    """Hash an id to 0 ≤ h < 2^60: the first 15 hex digits of its MD5.

    MD5 is built into both DuckDB and Spark with the same result; nothing here is secret.
    """
    return int(hashlib.md5(user_id.encode(), usedforsecurity=False).hexdigest()[:15], 16)


def stable_hash_sql(expression: str) -> str:
    """Return a DuckDB expression that computes `stable_hash` of a VARCHAR expression, as BIGINT."""
    return f"CAST('0x' || substr(md5({expression}), 1, 15) AS BIGINT)"
