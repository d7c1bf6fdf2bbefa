"""Texts that stand for a missing id.

Lives here: the only list of placeholders.
Add here when another tool writes missing ids in another way.
Keep out: deciding what happens to such ids.
"""

PLACEHOLDERS = frozenset(
    {
        "null",
        "(null)",
        "nan",
        "none",
        "n/a",
        "#n/a",
        "<na>",
        "nil",
        "undefined",
        "00000000-0000-0000-0000-000000000000",
        "0" * 32,
        "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    }
)
"""Placeholders in lower case; the last is the SHA-256 of the empty text."""
