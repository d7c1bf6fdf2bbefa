"""The one place that puts a name or a path into SQL text.

Lives here: quoting of identifiers and of the few literals that cannot be bound (paths in views and COPY).
Keep out: values; they are bound as parameters.
"""


def quote_identifier(name: str) -> str:
    """Quote a column, table or view name.

    Raises:
        ValueError: If the name is empty or holds a NUL character.
    """
    if not name or "\x00" in name:
        raise ValueError("A column or table name may not be empty or hold a NUL character.")
    return '"' + name.replace('"', '""') + '"'


def quote_literal(text: str) -> str:
    """Quote a string literal, for statements that take no bound parameters (CREATE VIEW, COPY … TO)."""
    if "\x00" in text:
        raise ValueError("A path may not hold a NUL character.")
    return "'" + text.replace("'", "''") + "'"
