"""Fragments of SQL: quoted names and paths, which no other module puts into SQL text, and the stable hash of ids.

Lives here: quoting of identifiers, and of the few literals that cannot be bound (paths in views and COPY);
`stable_hash`, for sampling, sharding and breaking ties, with the same result in Python and on every engine.
Keep out: values, which are bound as parameters; SQL's own `hash()`, which differs between engines; keyed digests.
"""

import hashlib


def quote_identifier(name: str) -> str:
    """Quote a column, table or view name.

    Raises:
        ValueError: The name is empty or contains a NUL character.
    """
    if not name or "\x00" in name:
        raise ValueError("A column or table name must not be empty or contain a NUL character.")
    return '"' + name.replace('"', '""') + '"'


def quote_literal(text: str) -> str:
    """Quote a string literal, for statements that take no bound parameters (CREATE VIEW, COPY … TO)."""
    if "\x00" in text:
        raise ValueError("A path must not contain a NUL character.")
    return "'" + text.replace("'", "''") + "'"


STABLE_HASH_BITS = 60


def stable_hash(user_id: str) -> int:
    """Hash an id to 0 ≤ h < 2^60: the first 15 hex digits of its MD5.

    MD5 is built into both DuckDB and Spark with the same result; nothing here is secret.
    """
    return int(hashlib.md5(user_id.encode(), usedforsecurity=False).hexdigest()[:15], 16)


def stable_hash_sql(expression: str) -> str:
    """Return a DuckDB expression that computes `stable_hash` of a VARCHAR expression, as BIGINT."""
    return f"CAST('0x' || substr(md5({expression}), 1, 15) AS BIGINT)"
