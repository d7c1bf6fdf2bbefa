"""Quoting names and paths for SQL; no other module puts names or paths into SQL text.

Lives here: quoting of identifiers, and of the few literals that cannot be bound (paths in views and COPY).
Keep out: values; they are bound as parameters.
"""


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
