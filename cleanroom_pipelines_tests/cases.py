"""Tests over a table of cases: one test checks them all, and names each that does not hold.

Lives here: checking every case, and saying what was wrong with which.
Keep out: tables and what holds for them (the tests).
"""

from collections.abc import Callable, Iterable
from typing import Any

import pytest

_LONGEST_NAME = 120


def assert_each(check: Callable[..., object], cases: Iterable[Any]) -> None:
    """Check every case of a table.

    Args:
        check: Raises where a case does not hold, as the body of a test does.
        cases: What it is called with: a tuple is its arguments, anything else its only one.

    Raises:
        AssertionError: It does not hold for some; all of them are named, each with what was wrong.
    """
    n_cases, offenders = 0, []
    for case in cases:
        arguments = case if isinstance(case, tuple) else (case,)
        n_cases += 1
        try:
            check(*arguments)
        except (Exception, pytest.fail.Exception) as error:
            offenders.append(f"{_name(arguments)}: {type(error).__name__}: {error}")
    assert n_cases, "there is no case"
    told = "\n".join([f"{len(offenders)} of {n_cases} cases do not hold:", *offenders])
    assert not offenders, told.encode(errors="backslashreplace").decode()


def _name(arguments: tuple[Any, ...]) -> str:
    text = ", ".join(map(str, arguments))
    return text if len(text) <= _LONGEST_NAME else f"{text[:_LONGEST_NAME]}…"
