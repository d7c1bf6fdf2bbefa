"""Regular expressions and date formats of Spark, translated for DuckDB.

Lives here: regular expressions as Java reads them, and formats of dates and times.
Add here when another element has exactly the same meaning in both engines.
Keep out: the functions that use them (functions.py).

An element without an exact translation has none here, and the query is rejected.
"""

import re

_LINE_END = r"\n\r\x{0085}\x{2028}\x{2029}"
_SPACES = r" \t\n\x0B\f\r"
_PLAIN = r"[^\\\[\](){}.*+?^$|]"
_ESCAPED = r"\\[^A-Za-z0-9\s]|\\[dDwWtnr]"
_TIMES = r"(?P<times>(?:[*+?]|\{\d{1,3}(?:,\d{0,3})?\})\??)?"
_ELEMENT = re.compile(
    rf"(?:(?P<same>{_ESCAPED}|{_PLAIN}|\))|(?P<any>\.)|(?P<space>\\s)|(?P<other>\\S)"
    rf"|(?P<set>\[\^?(?:\\s|{_ESCAPED}|[^\\\[\]&^])+\])){_TIMES}"
    r"|(?P<open>\((?:\?:)?(?!\?)|\|)|(?P<start>\^)|(?P<end>\$\Z)"
)
_GROUP = re.compile(r"(?<!\\)(?:\\\\)*\((?!\?)")
_SETS = re.compile(r"\[(?:\\.|[^\]\\])*\]")
_REPLACEMENT = re.compile(r"(?:[^\\$]|\$[0-9](?![0-9]))*")

_FORMAT = re.compile(r"([A-Za-z])\1*|'([^'%]*)'|[^A-Za-z'%#\[\]{}]")
_SHOWN = {
    "yyyy": "%Y",
    "yy": "%y",
    "MM": "%m",
    "M": "%-m",
    "MMM": "%b",
    "MMMM": "%B",
    "dd": "%d",
    "d": "%-d",
    "DDD": "%j",
    "E": "%a",
    "EEE": "%a",
    "EEEE": "%A",
    "HH": "%H",
    "H": "%-H",
    "hh": "%I",
    "h": "%-I",
    "mm": "%M",
    "m": "%-M",
    "ss": "%S",
    "s": "%-S",
    "SSS": "%g",
    "a": "%p",
}
_READ = {"yyyy": "%Y", "MM": "%m", "dd": "%d", "HH": "%H", "mm": "%M", "ss": "%S"}


def translated_pattern(pattern: str, *, is_search: bool) -> str | None:
    """Translate a Java regular expression for DuckDB; None if its meaning there could differ.

    Args:
        pattern: The expression.
        is_search: Whether only the match or its groups matter, not how far it reaches. `$` then also matches
            before a final line end, which the translation includes in the match.
    """
    translated, position = "", 0
    while position < len(pattern):
        found = _ELEMENT.match(pattern, position)
        if found is None or (found["end"] is not None and not is_search):
            return None
        translated += _element(found)
        position = found.end()
    return translated


def _element(found: re.Match[str]) -> str:
    others = {
        "any": f"[^{_LINE_END}]",
        "space": f"[{_SPACES}]",
        "other": f"[^{_SPACES}]",
        "start": r"\A",
        "end": rf"(?:\r\n|[{_LINE_END}])?\z",
    }
    for name, translated in others.items():
        if found[name] is not None:
            return translated + (found["times"] or "")
    return found.group().replace("\\s", _SPACES) if found["set"] is not None else found.group()


def n_groups(pattern: str) -> int:
    """Count the groups in a regular expression that `translated_pattern` accepts."""
    return len(_GROUP.findall(_SETS.sub("", pattern)))


def translated_replacement(text: str) -> str | None:
    """Translate a regular expression's replacement; None if it has anything but text and `$0` to `$9`."""
    return re.sub(r"\$([0-9])", r"\\\1", text) if _REPLACEMENT.fullmatch(text) else None


def plain_separator(pattern: str) -> str | None:
    """Return the only text that a regular expression matches; None unless the expression is plain text."""
    if not re.fullmatch(rf"(?:\\[^A-Za-z0-9\s]|{_PLAIN})+", pattern):
        return None
    return re.sub(r"\\(.)", r"\1", pattern)


def translated_format(text: str, *, is_read: bool) -> str | None:
    """Translate a format of dates and times; None if an element is unknown or has no exact equivalent."""
    known, translated, position = _READ if is_read else _SHOWN, "", 0
    while position < len(text):
        found = _FORMAT.match(text, position)
        if found is None or (found[1] and found[0] not in known):
            return None
        translated += known[found[0]] if found[1] else found[2] or found[0].replace("''", "'")
        position = found.end()
    # without a year, Spark takes 1970, and DuckDB 1900
    return None if is_read and "%Y" not in translated else translated
