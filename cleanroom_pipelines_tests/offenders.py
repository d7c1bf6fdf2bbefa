"""Table-like tests: one check of many cases, in one test that names every case that fails it.

Keep out: the cases and the checks.
"""

from collections.abc import Callable, Iterable
from typing import Any

import pytest

_MOST_CHARACTERS = 120


def offenders(cases: Iterable[Any], check: Callable[..., object]) -> list[str]:
    """Name the cases that fail a check, each with the first line of why.

    Args:
        cases: What `check` is called with; a tuple is several arguments.
        check: Asserts as a test does. An exception that it does not expect fails its case too.
    """
    found = []
    for case in cases:
        try:
            check(*case) if isinstance(case, tuple) else check(case)
        except (Exception, pytest.fail.Exception) as error:
            reason = next(iter(str(error).splitlines()), "")
            found.append(f"{_short(case)}: {type(error).__name__}: {reason}")
    return found


def _short(case: object) -> str:
    text = repr(case)
    return text if len(text) <= _MOST_CHARACTERS else f"{text[:_MOST_CHARACTERS]}…"
