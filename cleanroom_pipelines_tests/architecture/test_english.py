"""Contract: texts for people are in plain English. Words of the project's former dialect do not come back in
docstrings, comments, messages and pages; the table lists their plain forms.
"""

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

from .tree import PACKAGE, ROOT

# What is not written any more, and what is written instead.
DIALECT = {
    r"(?<![Tt]here )\bis no (?!longer\b|more\b|better\b)": "is not a, is missing, is invalid",
    r"(?<![Tt]here )\bis none\b": "is missing",
    r"\b(?:lies?|lay) (?:at|in|on|there|beside)\b": "is stored in, is at",
    r"\b(?:is|are|was|were|be|been) told\b": "is reported, is returned, is shown",
    r"\b(?:[Ww]hoever|[Ss]omebody|[Nn]obody)\b": "the caller, another process, no reader",
    r"\b(?:is|are) gone\b": "is deleted, is removed",
    r"\btak(?:es?|en) in\b": "ingests, accepts",
    r"\blet(?:s)? go\b|\bgives? back\b|\bsilent run\b": "releases, requeues",
    r"\bby hand\b|\bhouse-keeping\b": "manually, cleanup",
    r"\bheld against\b|\bbeside\b": "compared with, next to, in addition",
    r"\bmend(?:s|ed|ing)?\b|\brefus\w+": "fix, reject",
    r"\bmakers?\b": "builder",
    r"\bthe (?:other )?road\b": "lookalike (AWS) API, data-room (Media) API",
    r"\bboth-sided\b": "that depends on both parties' data",
    r"\bholds no\b": "has no, contains no",
    r"\bstands? (?:in|on)\b": "is in, is listed in",
    r"\bhardly any\b": "negligible, few",
    r"\bactivation for\b": "hashes for an ad destination",
}
# What was released stays.
EXCEPTIONS = ("catalog/migrations/",)
# Words that no function or class is named by.
NAMES = re.compile(
    r"(?:^|_)(?:tells?|told|refus\w*|sweep|swept|goes|gone|mends?|beside|whoever|nobody|somebody|anew|settl\w*|resting)(?:_|$)",
    re.IGNORECASE,
)
# The `tell` of file objects.
NAME_EXCEPTIONS = {("storage/objects.py", "tell")}


def texts(path: Path) -> Iterator[tuple[int, str]]:
    """Yield the texts for people in a file, with their lines."""
    source = path.read_text(encoding="utf-8")
    if path.suffix == ".md":
        yield from enumerate(source.splitlines(), start=1)
        return
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and " " in node.value:
            yield node.lineno, node.value
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            yield token.start[0], token.string


def in_dialect(path: Path) -> list[str]:
    place = path.relative_to(ROOT).as_posix()
    return [
        f"{place}:{line}: {found.group()!r} (say: {plain})"
        for line, text in texts(path)
        for word, plain in DIALECT.items()
        for found in re.finditer(word, text)
        if not any(each in f"{place} {text}" for each in EXCEPTIONS)
    ]


def names_in_dialect(path: Path) -> list[str]:
    nodes = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    place = path.relative_to(PACKAGE).as_posix()
    return [
        f"{place}:{node.lineno}: {node.name}"
        for node in nodes
        if isinstance(node, kinds) and NAMES.search(node.name) and (place, node.name) not in NAME_EXCEPTIONS
    ]


def test_names_do_not_use_the_dialect() -> None:
    assert [each for path in sorted(PACKAGE.rglob("*.py")) for each in names_in_dialect(path)] == []


def test_texts_do_not_use_the_dialect() -> None:
    pages = [ROOT / "README.md", *PACKAGE.rglob("*.md")]
    assert [each for path in (*sorted(PACKAGE.rglob("*.py")), *pages) for each in in_dialect(path)] == []


def test_the_patterns_find_the_dialect() -> None:
    found = [word for word in DIALECT if re.search(word, SPOKEN)]
    assert found == list(DIALECT)


SPOKEN = (
    "It is no file, that one is none, it lies in a home; what is told to whoever asks is gone; a drop is taken "
    "in, a claim let go by hand, held against others; mend what a maker of the other road made. A both-sided "
    "number stands in a page that holds no noise, or hardly any; an activation for a destination."
)
