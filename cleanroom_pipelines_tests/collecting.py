"""What pytest collected: the marks of every test, by file, before `-m` leaves some out.

Lives here: what the root conftest keeps and the test of the README's counts reads, and the order of modules.
Keep out: running anything.
"""

from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

import pytest

# Folders in the order in which their longest modules come; all others follow.
_LONGEST_FIRST = (
    "attacks",
    "benchmarks",
    "journeys",
    "console",
    "contract",
    "shell",
    "runs",
    "server",
    "media",
    "audiences",
    "similarity",
)

Marks = dict[Path, list[set[str]]]
MARKS = pytest.StashKey[Marks]()


def marks_of(items: Iterable[pytest.Item]) -> Marks:
    """By file, the names of the marks of each of its tests."""
    marks: Marks = defaultdict(list)
    for item in items:
        marks[item.path].append({mark.name for mark in item.iter_markers()})
    return dict(marks)


def place_of(module: Path) -> int:
    """The place of a test module among those that take longest."""
    folder = module.parent.name
    return _LONGEST_FIRST.index(folder) if folder in _LONGEST_FIRST else len(_LONGEST_FIRST)
